"""
Keyed digests: what is stored of a token, and what a lookup asks for.

A token carries 178 random bits, which nobody guesses, so a slow password hash would only cost (OWASP ASVS 5.0 §6.5.2,
NIST SP 800-63B §3.1.1.2). The key, called pepper, is there for another danger: whoever can write to the database cannot
make a token of their own choosing valid.

``HMAC(K, text) = H(K xor opad, H(K xor ipad, text))``, with SHA-256 for H. The two states that depend on the key alone
are computed once and copied, as RFC 2104 §4 recommends: 0.6 µs for a token, where a copied ``hmac.HMAC`` takes 1.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

from .errors import InvalidSecret
from .tokens import Token

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

PEPPER_LENGTH = 32
_BLOCK = 64


class Digester:
    """
    Digests tokens by HMAC-SHA-256 (RFC 2104) under each of some peppers, newest first.

    Args:
        peppers: at least one, each of 32 bytes.

    Raises:
        InvalidSecret: there is none, or one has another length.
    """

    __slots__ = ("_states",)

    def __init__(self, peppers: Sequence[bytes]) -> None:
        if not peppers:
            raise InvalidSecret("a digester needs at least one pepper of 32 bytes; there is no default")
        if any(len(pepper) != PEPPER_LENGTH for pepper in peppers):
            raise InvalidSecret(f"a pepper has {PEPPER_LENGTH} bytes")
        self._states = tuple((_keyed(pepper, 0x36), _keyed(pepper, 0x5C)) for pepper in peppers)

    def digests(self, token: Token) -> tuple[bytes, ...]:
        """The digests of *token*, 32 bytes each, that under the newest pepper first."""
        digests: tuple[bytes, ...] = ()
        for inner, outer in self._states:
            inside = inner.copy()
            inside.update(token._text)
            outside = outer.copy()
            outside.update(inside.digest())
            digests += (outside.digest(),)
        return digests

    def __repr__(self) -> str:
        return f"<Digester with {len(self._states)} pepper(s)>"


def _keyed(pepper: bytes, pad: int) -> Hash:
    """SHA-256 that has read the pepper xor *pad*, and waits for a text."""
    return sha256(bytes(octet ^ pad for octet in pepper.ljust(_BLOCK, b"\0")))
