"""
The token: the text that a client presents.

::

    token    = prefix "_" id "_" secret checksum
    prefix   = [ brand "_" ] ( "sk" / "pk" ) "_" ( "live" / "test" )      ; or as a profile says
    id       = 8base62        ; public: shown, logged, all that a hint adds to the prefix
    secret   = 30base62       ; 178 random bits
    checksum = 6base62        ; CRC-32 of everything before it, zero-padded
    base62   = DIGIT / ALPHA  ; in this order: 0-9 A-Z a-z

The checksum finds typing errors, truncation and a ``test`` edited to ``live``, without asking a store. It is no
security. The id is shorter than 10 characters and followed by ``_``, because the published rules of secret scanners
claim ``sk_live_`` and 10 or more alphanumerics for another company, and some send what they claim there to check it.

Tokens are compared exactly: ASCII, case-sensitive, no trimming.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping
from typing import NoReturn
from zlib import crc32

from .errors import InvalidProfile, MalformedToken
from .model import KeyType, Mode

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 8
SECRET_LENGTH = 30
CHECKSUM_LENGTH = 6

_TAIL = SECRET_LENGTH + CHECKSUM_LENGTH
_REST = ID_LENGTH + 1 + _TAIL  # what follows a prefix and its underscore
# Ready-made, because a parse stands in the way of every request: reading through them takes half the time.
_PREFIX_PART = slice(-_REST)
_ID_PART = slice(-_REST, -_TAIL - 1)
_TAIL_PART = slice(-_TAIL, None)
_SIGNED_PART = slice(-CHECKSUM_LENGTH)
_CHECKSUM_PART = slice(-CHECKSUM_LENGTH, None)
_JOINT = -_TAIL - 1  # where the underscore between id and secret stands
_UNDERSCORE = ord("_")
_PAIRS = [(a + b).encode() for a in ALPHABET for b in ALPHABET]
_PREFIX = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", re.ASCII)


class Token:
    """
    A token that nothing prints: its ``repr``, ``str`` and format are its hint, and it is neither pickled nor encoded.

    Attributes:
        prefix, type, mode, id: what its text says of it; only a store's record makes it true.
    """

    __slots__ = ("_text", "id", "mode", "prefix", "type")
    prefix: str
    type: KeyType
    mode: Mode
    id: str

    def __init__(self, text: bytes, prefix: str, type: KeyType, mode: Mode, id: str) -> None:
        self._text = text
        self.prefix = prefix
        self.type = type
        self.mode = mode
        self.id = id

    def expose(self) -> str:
        """The text itself, for the one place that must have it."""
        return self._text.decode("ascii")

    def emptied(self) -> Token:
        """This token without its text: what it says of itself."""
        return Token(b"", self.prefix, self.type, self.mode, self.id)

    @property
    def hint(self) -> str:
        """The part that may be shown: ``sk_test_muTFmv6k_…``."""
        return f"{self.prefix}_{self.id}_…"

    def __repr__(self) -> str:
        return f"<Token {self.hint}>"

    def __str__(self) -> str:
        return self.hint

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Token):
            return NotImplemented
        return self.id == other.id and hmac.compare_digest(self._text, other._text)

    def __hash__(self) -> int:
        return hash(self.id)

    def __copy__(self) -> Token:
        return self

    def __deepcopy__(self, memo: object) -> Token:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a token is not pickled; token.expose() gives its text to whoever must store it")


class TokenFormat:
    """
    Which prefix stands for which type and mode. Checked when built.

    Args:
        prefixes: for each of the four combinations its prefix, without the underscore that follows it.

    Raises:
        InvalidProfile: one is missing, given twice, or not lower-case ASCII words joined by underscores.
    """

    __slots__ = ("_kinds", "_prefixes")

    def __init__(self, prefixes: Mapping[tuple[KeyType, Mode], str]) -> None:
        combinations = {(type, mode) for type in KeyType for mode in Mode}
        if set(prefixes) != combinations or len(set(prefixes.values())) != len(combinations):
            raise InvalidProfile(
                "a token format needs four different prefixes: secret and publishable, each test and live"
            )
        for prefix in prefixes.values():
            if not _PREFIX.fullmatch(prefix) or len(prefix) > 32:
                raise InvalidProfile(
                    f"{prefix!r} is no token prefix: use lower-case ASCII letters and digits joined by single "
                    "underscores, such as 'acme_sk_live', 32 characters at most"
                )
        self._prefixes = dict(prefixes)
        self._kinds = {f"{prefix}_".encode(): (prefix, *kind) for kind, prefix in prefixes.items()}

    @classmethod
    def standard(cls, brand: str = "") -> TokenFormat:
        """``sk_live``, ``pk_live``, ``sk_test`` and ``pk_test``, each after *brand* if there is one."""
        start = f"{brand}_" if brand else ""
        return cls(
            {
                (type, mode): f"{start}{word}_{mode.value}"
                for type, word in ((KeyType.SECRET, "sk"), (KeyType.PUBLISHABLE, "pk"))
                for mode in Mode
            }
        )

    def parse(self, text: bytes) -> Token:
        """
        Read a token, from the right.

        Raises:
            MalformedToken: *text* has another form, or its checksum is wrong. The exception holds nothing of it.
        """
        kind = self._kinds.get(text[_PREFIX_PART])
        if kind is None:
            raise MalformedToken("no token of this profile has such a prefix and length: was it cut, quoted or padded?")
        id = text[_ID_PART]
        if text[_JOINT] != _UNDERSCORE or not (id + text[_TAIL_PART]).isalnum():  # of bytes: ASCII alone
            raise MalformedToken(
                "a token is its prefix, 8 characters, and 36 more of 0-9, A-Z and a-z, joined by underscores"
            )
        if checksum(text[_SIGNED_PART]) != text[_CHECKSUM_PART]:
            raise MalformedToken("the token's checksum is wrong: a character was changed, lost or added")
        prefix, type, mode = kind
        return Token(text, prefix, type, mode, id.decode())

    def prefix(self, type: KeyType, mode: Mode) -> str:
        """The prefix of tokens of this type and mode."""
        return self._prefixes[type, mode]

    def hint(self, type: KeyType, mode: Mode, id: str) -> str:
        """The hint of a token that only its stored parts are known of."""
        return f"{self.prefix(type, mode)}_{id}_…"

    def __eq__(self, other: object) -> bool:
        return self._prefixes == other._prefixes if isinstance(other, TokenFormat) else NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset(self._kinds))

    def __repr__(self) -> str:
        return f"<TokenFormat {' '.join(sorted(self._prefixes.values()))}>"


STANDARD = TokenFormat.standard()

_UNBIASED = 62 * 4
_BASE62_OF_BYTE = bytes(ALPHABET.encode()[byte % 62] for byte in range(256))
_BIASED_BYTES = bytes(range(_UNBIASED, 256))


def random_base62(length: int) -> str:
    """*length* characters from the system's generator, each equally likely: a byte of 248 or more is dropped."""
    text = b""
    while len(text) < length:
        text += secrets.token_bytes(2 * length).translate(_BASE62_OF_BYTE, _BIASED_BYTES)
    return text[:length].decode("ascii")


def checksum(octets: bytes) -> bytes:
    """CRC-32 of *octets* as six base62 characters."""
    number = crc32(octets)
    return _PAIRS[number // 3844**2] + _PAIRS[number // 3844 % 3844] + _PAIRS[number % 3844]


def mint(type: KeyType, mode: Mode, format: TokenFormat = STANDARD) -> Token:
    """
    Make a new token.

    >>> len(mint(KeyType.SECRET, Mode.TEST).expose())
    53
    """
    prefix = format.prefix(type, mode)
    id = random_base62(ID_LENGTH)
    unsigned = f"{prefix}_{id}_{random_base62(SECRET_LENGTH)}".encode("ascii")
    return Token(unsigned + checksum(unsigned), prefix, type, mode, id)


def parse(text: str | bytes, format: TokenFormat = STANDARD) -> Token:
    """
    Read a token (see :meth:`TokenFormat.parse`).

    Raises:
        MalformedToken: *text* is none of this format.
    """
    if isinstance(text, str):
        try:
            text = text.encode("ascii")
        except UnicodeEncodeError:
            raise MalformedToken("a token is ASCII") from None
    return format.parse(text)


def hint(token: Token | str | bytes, format: TokenFormat = STANDARD) -> str:
    """
    The part of *token* that may be shown.

    Raises:
        MalformedToken: *token* is a text that is none, so that no part of it is known to be public.
    """
    return token.hint if isinstance(token, Token) else parse(token, format).hint
