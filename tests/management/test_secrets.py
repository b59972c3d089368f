"""Master secrets: what is read, what is refused, what is sealed, and that nothing prints them."""

from __future__ import annotations

import copy
import json
import os
import pickle
import stat
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from doorkey.core.digests import Digester
from doorkey.core.errors import InvalidSecret, UnreadableRecord
from doorkey.core.model import KeyType, Mode
from doorkey.core.profiles import FALU
from doorkey.core.tokens import STANDARD, Token, TokenFormat, mint
from doorkey.management import secrets as module
from doorkey.management.secrets import VARIABLE, MasterSecrets

OLD, NEW = bytes(range(32)), bytes(range(100, 132))


def text(*secrets: bytes) -> str:
    return ",".join(b64encode(secret).decode("ascii") for secret in secrets)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where a secret file may be made."""
    return tmp_path / "secret"


def put(place: Path, content: bytes, mode: int = 0o600) -> Path:
    place.write_bytes(content)
    place.chmod(mode)
    return place


# Reading


def test_the_first_one_is_the_newest() -> None:
    """The order given is the order kept."""
    both = MasterSecrets([NEW, OLD])
    assert both.fingerprints == MasterSecrets([NEW]).fingerprints + MasterSecrets([OLD]).fingerprints


def test_text_and_bytes_mean_the_same() -> None:
    """Blanks around commas and a line's end do not count."""
    assert MasterSecrets.parse(f" {text(NEW)} ,\t{text(OLD)}\n").fingerprints == MasterSecrets([NEW, OLD]).fingerprints


def test_a_generated_secret_is_another_each_time() -> None:
    """There is no default secret."""
    assert MasterSecrets.generate().fingerprints != MasterSecrets.generate().fingerprints


@pytest.mark.parametrize(
    "secrets", [[], [NEW[:-1]], [NEW + b"\0"], [b""], ["text of thirty-two characters...."], [None]]
)
def test_no_secret_of_another_length(secrets: list[bytes]) -> None:
    """A secret is 32 bytes, and there is at least one."""
    with pytest.raises(InvalidSecret, match="doorkey init"):
        MasterSecrets(secrets)


@pytest.mark.parametrize(
    "make", [lambda: MasterSecrets([NEW, OLD, NEW]), lambda: MasterSecrets.parse(text(NEW, OLD, NEW))]
)
def test_no_secret_twice(make: Callable[[], MasterSecrets]) -> None:
    """A list that holds one twice was put together by mistake."""
    with pytest.raises(InvalidSecret, match="master secret 3 of 3 stands there twice"):
        make()


@pytest.mark.parametrize(
    ("written", "position"),
    [
        ("", "1 of 1"),
        (" \n", "1 of 1"),
        ("{},", "2 of 2"),
        (",{}", "1 of 2"),
        ("{},,{}", "2 of 3"),
        ("{} {}", "1 of 1"),
        ("'{}'", "1 of 1"),
        ("{},not base64", "2 of 2"),
        ("{},bm90IDMyIGJ5dGVz", "2 of 2"),
        ("{},\u00e4\u20ac", "2 of 2"),
        ("{};{}", "1 of 1"),
    ],
)
def test_what_is_wrong_is_told_by_its_position(written: str, position: str) -> None:
    """The message names the place and how to make a secret, and never what stands there."""
    with pytest.raises(InvalidSecret, match=f"master secret {position} .*openssl rand -base64 32") as caught:
        MasterSecrets.parse(written.format(text(NEW), text(OLD)))
    assert not any(part in str(caught.value) for part in (text(NEW), text(OLD), "bm90"))


def test_one_secret_has_one_spelling() -> None:
    """Of all endings that decode to the same bytes, the canonical one alone is read."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=% "
    written = text(NEW)
    read = []
    for position in range(len(written)):
        for letter in alphabet:
            try:
                changed = MasterSecrets.parse(written[:position] + letter + written[position + 1 :])
            except InvalidSecret:
                continue
            read.append(changed.fingerprints)
    own = MasterSecrets([NEW]).fingerprints
    assert read.count(own) == len(written), "each position admits its own letter only"
    assert all(read.count(other) == 1 for other in read if other != own)


@given(st.text())
def test_any_text_is_read_or_refused(written: str) -> None:
    """Whatever stands in the variable, there is no other exception."""
    try:
        MasterSecrets.parse(written)
    except InvalidSecret:
        return


def test_the_variable_wins(place: Path) -> None:
    """Whoever sets DOORKEY_SECRET means it, whatever file there is."""
    MasterSecrets([OLD]).write(place)
    assert MasterSecrets.load(place, {VARIABLE: text(NEW)}).fingerprints == MasterSecrets([NEW]).fingerprints
    assert MasterSecrets.load(place, {}).fingerprints == MasterSecrets([OLD]).fingerprints


def test_an_empty_variable_is_no_reason_to_take_the_file(place: Path) -> None:
    """A variable that is set but empty was meant to hold something."""
    MasterSecrets([OLD]).write(place)
    with pytest.raises(InvalidSecret, match=f"^{VARIABLE}: master secret 1 of 1"):
        MasterSecrets.load(place, {VARIABLE: ""})


@pytest.mark.parametrize("path", [None, Path("no") / "such" / "file"])
def test_no_secret_no_start(path: Path | None) -> None:
    """Without a secret nothing starts, and the message says how to come by one."""
    with pytest.raises(InvalidSecret, match=f"no default: `doorkey init` makes one, or set {VARIABLE}"):
        MasterSecrets.load(path, {})


def test_the_environment_is_the_process_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless another is given, the variable is read where the operator set it."""
    monkeypatch.setenv(VARIABLE, text(NEW))
    assert MasterSecrets.load().fingerprints == MasterSecrets([NEW]).fingerprints


# The file


def test_written_and_loaded(place: Path) -> None:
    """A file holds all secrets in their order, for its owner alone."""
    MasterSecrets([NEW, OLD]).write(place)
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert MasterSecrets.load(place, {}).fingerprints == MasterSecrets([NEW, OLD]).fingerprints


def test_a_file_is_never_written_over(place: Path) -> None:
    """What stands there stays, as a store may hang on it; a dangling link is not followed either."""
    MasterSecrets([OLD]).write(place)
    before = place.read_bytes()
    with pytest.raises(InvalidSecret, match="never overwritten"):
        MasterSecrets([NEW]).write(place)
    assert place.read_bytes() == before
    link = place.with_name("link")
    link.symlink_to(place.with_name("elsewhere"))
    with pytest.raises(InvalidSecret, match="never overwritten"):
        MasterSecrets([NEW]).write(link)
    assert not place.with_name("elsewhere").exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """The operating system's reason is passed on in words."""
    with pytest.raises(InvalidSecret, match="cannot be made: No such file or directory"):
        MasterSecrets([NEW]).write(tmp_path / "missing" / "secret")


def test_no_half_a_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk is full, no file is left that a later start would stumble over."""

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InvalidSecret, match="cannot be written: No space left on device"):
        MasterSecrets([NEW]).write(place)
    assert not place.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o666])
def test_a_file_that_is_open_to_others(place: Path, mode: int) -> None:
    """Whoever else may read or write the file may know the secret, or have put in theirs."""
    put(place, text(NEW).encode(), mode)
    with pytest.raises(InvalidSecret, match=rf"mode {mode:04o}\): `chmod 600` it"):
        MasterSecrets.load(place, {})


def test_a_file_of_another_user(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that somebody else owns holds what they chose; root may, and we may."""
    put(place, text(NEW).encode())
    owner = place.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    if owner:
        with pytest.raises(InvalidSecret, match=f"belongs to user {owner}"):
            MasterSecrets.load(place, {})
    else:
        assert MasterSecrets.load(place, {}).fingerprints
        os.chown(place, 12345, -1)
        with pytest.raises(InvalidSecret, match="belongs to user 12345"):
            MasterSecrets.load(place, {})


def test_where_modes_mean_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows reports every file as open to all; there the mode is not judged."""
    put(place, text(NEW).encode(), 0o666)
    monkeypatch.setattr(module, "_POSIX", False)
    assert MasterSecrets.load(place, {}).fingerprints == MasterSecrets([NEW]).fingerprints


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_a_file_that_is_none(place: Path, kind: str) -> None:
    """A link, a folder or a pipe is refused, at once."""
    match kind:
        case "link":
            place.symlink_to(put(place.with_name("target"), text(NEW).encode()))
        case "folder":
            place.mkdir(0o700)
        case _:
            os.mkfifo(place, 0o600)
    with pytest.raises(InvalidSecret, match=r"a link is not followed|is no regular file"):
        MasterSecrets.load(place, {})


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", os.urandom(40)])
def test_a_file_with_something_else(place: Path, content: bytes) -> None:
    """The message names the file, and nothing of what stands in it."""
    with pytest.raises(InvalidSecret, match="secret: master secret 1 of "):
        MasterSecrets.load(put(place, content), {})


# Fingerprints and digests


def test_a_fingerprint_is_public() -> None:
    """Sixteen hexadecimal digits that are derived, not cut from the secret."""
    (fingerprint,) = MasterSecrets([NEW]).fingerprints
    assert bytes.fromhex(fingerprint) == HKDF(SHA256(), 32, None, b"doorkey/1/fingerprint").derive(NEW)[:8]
    assert fingerprint not in NEW.hex()


def test_the_digester_knows_each_secret() -> None:
    """A token is digested under the newest first, with a subkey that is for digests alone."""
    token = mint(KeyType.SECRET, Mode.TEST)
    peppers = [HKDF(SHA256(), 32, None, b"doorkey/1/digests").derive(secret) for secret in (NEW, OLD)]
    assert MasterSecrets([NEW, OLD]).digester().digests(token) == Digester(peppers).digests(token)


def test_a_store_that_hangs_on_these() -> None:
    """More secrets than the store hangs on are fine: the next one is made known before it is used."""
    both = MasterSecrets([NEW, OLD])
    both.check(())
    both.check(both.fingerprints)
    both.check(MasterSecrets([OLD]).fingerprints)


def test_a_store_that_hangs_on_another() -> None:
    """The missing one is named beside those given, and what to do."""
    new, old = MasterSecrets([NEW, OLD]).fingerprints
    with pytest.raises(InvalidSecret, match=f"hangs on the master secret {old}, but those given are {new} .*add it to"):
        MasterSecrets([NEW]).check([new, old])


# Seals


def sealed(secrets: MasterSecrets, token: Token, key: str = "key_1") -> dict[str, object]:
    """The arguments that unseal *token* as it was sealed."""
    return {
        "sealed": secrets.seal(token, key=key),
        "secret": secrets.fingerprints[0],
        "key": key,
        "id": token.id,
        "type": token.type,
        "mode": token.mode,
    }


def unseal(secrets: MasterSecrets, arguments: dict[str, object], **changed: object) -> Token:
    return secrets.unseal(**(arguments | changed))  # type: ignore[arg-type]


@pytest.mark.parametrize("format", [STANDARD, FALU.format])
@pytest.mark.parametrize("type", KeyType)
@pytest.mark.parametrize("mode", Mode)
def test_sealed_and_unsealed(format: TokenFormat, type: KeyType, mode: Mode) -> None:
    """What was sealed comes out as it was, also after a newer secret came."""
    token = mint(type, mode, format)
    arguments = sealed(MasterSecrets([OLD]), token)
    assert unseal(MasterSecrets([NEW, OLD]), arguments, format=format) == token


def test_the_newest_seals() -> None:
    """So that the older ones can be dropped one day."""
    arguments = sealed(MasterSecrets([NEW, OLD]), mint(KeyType.SECRET, Mode.LIVE))
    assert unseal(MasterSecrets([NEW]), arguments).mode is Mode.LIVE


def test_the_form_of_a_seal() -> None:
    """AES-256-GCM under a subkey of its own; version, key id, token id, type and mode are bound to it."""
    token = mint(KeyType.SECRET, Mode.LIVE)
    seal = MasterSecrets([NEW]).seal(token, key="key_1")
    cipher = AESGCM(HKDF(SHA256(), 32, None, b"doorkey/1/seals").derive(NEW))
    bound = json.dumps([1, "key_1", token.id, "secret", "live"]).encode()
    assert seal[0] == 1
    assert cipher.decrypt(seal[1:13], seal[13:], bound).decode() == token.expose()


def test_no_nonce_twice() -> None:
    """The same token sealed again is another ciphertext."""
    token = mint(KeyType.SECRET, Mode.LIVE)
    assert len({MasterSecrets([NEW]).seal(token, key="key_1") for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "changed",
    [{"key": "key_2"}, {"id": "00000000"}, {"type": KeyType.PUBLISHABLE}, {"mode": Mode.TEST}, {"format": FALU.format}],
)
def test_a_seal_opens_for_its_own_token_alone(changed: dict[str, object]) -> None:
    """A ciphertext that was moved to another row stays shut."""
    secrets = MasterSecrets([NEW])
    arguments = sealed(secrets, mint(KeyType.SECRET, Mode.LIVE))
    with pytest.raises(UnreadableRecord, match="is broken, or belongs to another token"):
        unseal(secrets, arguments, **changed)


def test_parts_do_not_run_together() -> None:
    """What the key's id ends with is not what the token's id begins with."""
    secrets, token = MasterSecrets([NEW]), mint(KeyType.SECRET, Mode.LIVE)
    arguments = sealed(secrets, token, key='key", "x')
    with pytest.raises(UnreadableRecord):
        unseal(secrets, arguments, key="key", id=f'x", "{token.id}')


def test_each_flipped_byte_is_found() -> None:
    """Nothing in a sealed copy can be changed, and nothing cut off or added."""
    secrets = MasterSecrets([NEW])
    arguments = sealed(secrets, mint(KeyType.SECRET, Mode.LIVE))
    seal = arguments["sealed"]
    assert isinstance(seal, bytes)
    flipped = (seal[:at] + bytes([seal[at] ^ 1]) + seal[at + 1 :] for at in range(len(seal)))
    shortened = (seal[:length] for length in range(len(seal)))
    for broken in (*flipped, *shortened, seal + b"\0"):
        with pytest.raises(UnreadableRecord):
            unseal(secrets, arguments, sealed=broken)


def test_a_seal_that_says_another_token() -> None:
    """What comes out must be the token that the row speaks of, even if it was sealed under our own secret."""
    secrets = MasterSecrets([NEW])
    token, other = (mint(KeyType.SECRET, Mode.LIVE) for _ in range(2))
    imposed = Token(other.expose().encode(), token.prefix, token.type, token.mode, token.id)
    with pytest.raises(UnreadableRecord):
        unseal(secrets, sealed(secrets, imposed))
    nonsense = Token(b"nonsense", token.prefix, token.type, token.mode, token.id)
    with pytest.raises(UnreadableRecord) as caught:
        unseal(secrets, sealed(secrets, nonsense))
    assert "nonsense" not in trace(caught.value)


def test_a_seal_under_a_secret_that_is_not_here() -> None:
    """The missing secret is named, rather than the copy called broken."""
    arguments = sealed(MasterSecrets([OLD]), mint(KeyType.SECRET, Mode.LIVE))
    with pytest.raises(InvalidSecret, match=MasterSecrets([OLD]).fingerprints[0]):
        unseal(MasterSecrets([NEW]), arguments)


# Silence


def trace(error: BaseException) -> str:
    """All that a careless error report would hold: every frame of ours with its locals, and every context."""
    lines = traceback.TracebackException.from_exception(error, capture_locals=True).format()
    shown = "".join(lines)
    return "\n".join(block for block in shown.split('\n  File "') if "management/secrets.py" in block) + str(error)


def spellings(secret: bytes) -> Iterator[str]:
    yield from (text(secret), secret.hex(), repr(secret)[2:-1])


def test_nothing_prints_a_secret() -> None:
    """All that shows is fingerprints; a copy is the same object; pickle and JSON are refused."""
    secrets = MasterSecrets([NEW, OLD])
    for shown in (
        repr(secrets),
        str(secrets),
        f"{secrets}",
        f"{secrets!r:>300}",
        repr([secrets]),
        repr(secrets.digester()),
    ):
        assert not any(spelling in shown for secret in (NEW, OLD) for spelling in spellings(secret))
    assert all(fingerprint in repr(secrets) for fingerprint in secrets.fingerprints)
    assert copy.copy(secrets) is secrets
    assert copy.deepcopy([secrets])[0] is secrets
    assert not hasattr(secrets, "__dict__")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(secrets, protocol)
    with pytest.raises(TypeError):
        json.dumps(secrets)


@pytest.mark.parametrize(
    "attempt",
    [
        lambda place: MasterSecrets([NEW, NEW]),
        lambda place: MasterSecrets.parse(text(NEW) + ",x"),
        lambda place: MasterSecrets.load(None, {VARIABLE: text(NEW) + ",x"}),
        lambda place: MasterSecrets.load(put(place, text(NEW).encode() + b",x"), {}),
        lambda place: MasterSecrets([NEW]).check(["0" * 16]),
        lambda place: MasterSecrets([NEW]).write(place / "missing"),
    ],
)
def test_no_traceback_shows_a_secret(attempt: Callable[[Path], object], place: Path) -> None:
    """A report that holds the locals of every frame of ours holds no secret."""
    with pytest.raises(InvalidSecret) as caught:
        attempt(place)
    assert not any(spelling in trace(caught.value) for spelling in spellings(NEW))
