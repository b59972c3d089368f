"""
Master secrets: what only the operator has.

They are a list, newest first. From each of them HKDF-SHA-256 (RFC 5869) derives one subkey per use:

* ``digests``, the pepper of the digests by which tokens are found;
* ``seals``, the key of AES-256-GCM (NIST SP 800-38D) under which a token is kept while it may still be revealed;
* ``fingerprint``, 8 bytes that name the secret in public and tell nothing of it.

The newest digests and seals; each of them is accepted. A store keeps the fingerprint of every secret that it hangs on,
so that a missing one is found when a service starts, not by a 401 for everybody. There is no default secret.

::

    text   = entry *( "," entry )        ; DOORKEY_SECRET, or the secret file; blanks around an entry are passed over
    entry  = base64 of 32 bytes          ; RFC 4648 §4, with its padding, in the one canonical spelling
    sealed = %x01 nonce ciphertext tag   ; 1, 12, the token's length and 16 bytes
"""

from __future__ import annotations

import json
import os
import stat
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..core.digests import Digester
from ..core.errors import InvalidSecret, UnreadableRecord
from ..core.model import KeyType, Mode
from ..core.tokens import STANDARD, Token, TokenFormat, parse

VARIABLE = "DOORKEY_SECRET"
LENGTH = 32

_HOW = f"`doorkey init` makes one, or set {VARIABLE} to what `openssl rand -base64 {LENGTH}` prints"
_SEALED = b"\x01"
_NONCE = 12
# Neither exists on Windows, where a file's mode says nothing either.
_NO_SURPRISES = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_POSIX = os.name == "posix"


class MasterSecrets:
    """
    Some master secrets of 32 bytes, newest first. Nothing prints them: all that shows is their fingerprints.

    Raises:
        InvalidSecret: there is none, one has another length, or one stands there twice.
    """

    __slots__ = ("_ciphers", "_digester", "_secrets")

    def __init__(self, secrets: Iterable[bytes]) -> None:
        self._ciphers: dict[str, AESGCM] = {}  # First, so that whatever goes wrong below can be shown.
        given = tuple(secrets)
        if problem := _problem(given):
            del secrets, given  # A traceback may show the locals of this frame.
            raise InvalidSecret(problem)
        self._secrets = given
        self._ciphers.update((_fingerprint(secret), AESGCM(_derive(secret, "seals"))) for secret in given)
        self._digester = Digester([_derive(secret, "digests") for secret in given])

    @classmethod
    def generate(cls) -> MasterSecrets:
        """A new secret from the operating system's generator."""
        return cls([os.urandom(LENGTH)])

    @classmethod
    def parse(cls, text: str) -> MasterSecrets:
        """
        Read secrets from *text*, base64 of 32 bytes each, separated by commas.

        Raises:
            InvalidSecret: an entry is none. The message says which, and nothing of what stands there.
        """
        decoded = [_decode(entry.strip()) for entry in text.split(",")]
        problem = _problem(decoded)
        if problem is None:
            return cls(entry for entry in decoded if entry is not None)
        del text, decoded
        raise InvalidSecret(problem)

    @classmethod
    def load(cls, path: Path | None = None, environ: Mapping[str, str] = os.environ) -> MasterSecrets:
        """
        Take the secrets from ``DOORKEY_SECRET`` if it is set, else from the file at *path*.

        Raises:
            InvalidSecret: there are none, they cannot be read, or the file is a link, belongs to another user, or is
                open to others.
        """
        text = environ.get(VARIABLE)
        del environ
        place = VARIABLE
        if text is None:
            if path is None:
                raise InvalidSecret(f"there is no master secret, and no default: {_HOW}")
            text, place = _read(path), str(path)
        try:
            return cls.parse(text)
        except InvalidSecret as error:
            problem = f"{place}: {error}"
        del text
        raise InvalidSecret(problem)

    def write(self, path: Path) -> None:
        """
        Make the file at *path*, mode 0600, durable when this returns.

        Raises:
            InvalidSecret: something stands there already, or it cannot be written; then there is no file.
        """
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_SURPRISES, 0o600)
        except FileExistsError:
            raise InvalidSecret(
                f"{path} exists; a master secret is never overwritten: a store may hang on it"
            ) from None
        except OSError as error:
            raise InvalidSecret(f"{path} cannot be made: {error.strerror}") from None
        try:
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(",".join(b64encode(secret).decode("ascii") for secret in self._secrets) + "\n")
                file.flush()
                os.fsync(file.fileno())
            _sync_folder(path.parent)
        except OSError as error:
            path.unlink()
            raise InvalidSecret(f"{path} cannot be written: {error.strerror}") from None

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The public name of each secret, 16 hexadecimal digits, newest first."""
        return tuple(self._ciphers)

    def check(self, fingerprints: Iterable[str]) -> None:
        """
        Make sure that whatever hangs on these *fingerprints* can be read. More secrets than that are fine.

        Raises:
            InvalidSecret: the secret behind one of them is not here.
        """
        missing = [fingerprint for fingerprint in fingerprints if fingerprint not in self._ciphers]
        if missing:
            raise InvalidSecret(
                f"the store hangs on the master secret {' and '.join(missing)}, but those given are "
                f"{' and '.join(self.fingerprints)} (fingerprints): add it to {VARIABLE} or the secret file, after the "
                "newest and a comma"
            )

    def digester(self) -> Digester:
        """What digests a token under each secret, newest first."""
        return self._digester

    def seal(self, token: Token, *, key: str) -> bytes:
        """
        Encrypt *token* under the newest secret, so that it opens only as a token of *key*, with its id, type and mode.

        The nonce is random, which is safe for 2^32 seals under one secret (SP 800-38D §8.3).
        """
        nonce = os.urandom(_NONCE)
        bound = _bound(key, token.id, token.type, token.mode)
        return (
            _SEALED + nonce + self._ciphers[self.fingerprints[0]].encrypt(nonce, token.expose().encode("ascii"), bound)
        )

    def unseal(
        self,
        sealed: bytes,
        *,
        secret: str,
        key: str,
        id: str,
        type: KeyType,
        mode: Mode,
        format: TokenFormat = STANDARD,
    ) -> Token:
        """
        Decrypt what :meth:`seal` made.

        Args:
            secret: fingerprint of the secret that it was sealed under.
            key, id, type, mode: what it was sealed as: the key's id, and the token's id, type and mode.

        Raises:
            InvalidSecret: the secret is not here.
            UnreadableRecord: it was sealed as something else, or is not what was sealed.
        """
        self.check([secret])
        if sealed[:1] != _SEALED:
            raise UnreadableRecord(f"token {id} of {key} is sealed in a form that this release does not know")
        nonce, ciphertext = sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :]
        # What goes wrong is raised below the block, where no context can carry what was decrypted.
        with suppress(InvalidTag, ValueError):
            token = parse(self._ciphers[secret].decrypt(nonce, ciphertext, _bound(key, id, type, mode)), format)
            if (token.id, token.type, token.mode) == (id, type, mode):
                return token
        raise UnreadableRecord(f"the sealed copy of token {id} of {key} is broken, or belongs to another token")

    def __repr__(self) -> str:
        return f"<MasterSecrets {' '.join(self.fingerprints)}>"

    def __copy__(self) -> MasterSecrets:
        return self

    def __deepcopy__(self, memo: object) -> MasterSecrets:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("master secrets are not pickled: each process loads its own")


def _derive(secret: bytes, use: str) -> bytes:
    return HKDF(SHA256(), LENGTH, salt=None, info=f"doorkey/1/{use}".encode("ascii")).derive(secret)


def _fingerprint(secret: bytes) -> str:
    return _derive(secret, "fingerprint")[:8].hex()


def _bound(key: str, id: str, type: KeyType, mode: Mode) -> bytes:
    """The associated data of a seal: as a JSON array, no two lists of parts have the same."""
    return json.dumps([_SEALED[0], key, id, type.value, mode.value]).encode("ascii")


def _decode(entry: str) -> bytes | None:
    try:
        octets = b64decode(entry, validate=True)
    except ValueError:
        return None
    return octets if b64encode(octets).decode("ascii") == entry else None


def _problem(secrets: Sequence[bytes | None]) -> str | None:
    """What is wrong with these secrets, in words that hold nothing of them."""
    for position, secret in enumerate(secrets, 1):
        if not isinstance(secret, bytes) or len(secret) != LENGTH:
            return (
                f"master secret {position} of {len(secrets)} is not {LENGTH} bytes, in base64 when it is text: {_HOW}"
            )
        if secret in secrets[: position - 1]:
            return f"master secret {position} of {len(secrets)} stands there twice"
    return None if secrets else f"there is no master secret, and no default: {_HOW}"


def _read(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | _NO_SURPRISES)
    except FileNotFoundError:
        raise InvalidSecret(f"there is no master secret at {path}, and no default: {_HOW}") from None
    except OSError as error:
        raise InvalidSecret(f"{path} cannot be opened (a link is not followed): {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidSecret(f"{path} is no regular file: {_HOW}")
        if _POSIX and status.st_uid not in (os.geteuid(), 0):
            raise InvalidSecret(f"{path} belongs to user {status.st_uid}: it must be yours or root's")
        if _POSIX and status.st_mode & 0o077:
            raise InvalidSecret(
                f"{path} is open to others (mode {stat.S_IMODE(status.st_mode):04o}): `chmod 600` it, and if they may "
                "have read it, make a new secret"
            )
        # What is not ASCII is no base64 either, and is told so by its position.
        return os.read(descriptor, 1 << 16).decode("ascii", "replace")
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Make the file's name durable too. Windows opens no folder, and needs none of this."""
    with suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
