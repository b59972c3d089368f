"""
The floor: the least that any correct check of a key must do, each place once as one flat function.

It knows nothing of doorkey but the form of its tokens, and does without everything that is not needed to be correct:
types, reasons with detail, hooks, logging, several peppers, permissions that imply others, IPv4-mapped addresses. It
digests with a prepared ``hmac.HMAC`` that is copied for each token, and encodes the base64 again, because only one
encoding may pass.
"""

from __future__ import annotations

import hmac
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from hmac import compare_digest
from ipaddress import ip_network
from socket import AF_INET, AF_INET6, inet_pton
from time import time
from typing import Any, NamedTuple
from zlib import crc32

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]
Environ = dict[str, Any]
WSGI = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

MALFORMED, UNKNOWN, REVOKED, EXPIRED, NETWORK, PERMISSION = range(6)

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS = [(high + low).encode() for high in _BASE62 for low in _BASE62]


class Entry(NamedTuple):
    """What the floor keeps of a key, as a plain tuple: the edges of its networks are packed and rising."""

    digest: bytes
    revoked: bool
    expires_at: int | None
    edges4: Sequence[bytes]
    edges6: Sequence[bytes]
    permissions: frozenset[str]
    principal: str


Check = Callable[[bytes, str, str], str | int]
"""From ``Authorization``, client address and permission to a principal, or to the number of a reason."""


def edges(blocks: Iterable[str]) -> list[bytes]:
    """The edges of disjoint blocks of one family: the first address of each, and the one after its last."""
    ranges = sorted((int(block.network_address), block) for block in map(ip_network, blocks))
    width = ranges[0][1].max_prefixlen // 8
    return [edge.to_bytes(width, "big") for first, block in ranges for edge in (first, first + block.num_addresses)]


def check_of(pepper: bytes, find: Callable[[bytes], Entry | None]) -> Check:
    """
    The floor.

    Args:
        find: what has an entry by its digest, such as a dictionary's ``get``.
    """
    prepared = hmac.new(pepper, digestmod="sha256")

    def check(authorization: bytes, address: str, permission: str) -> str | int:
        if authorization[:6].lower() != b"basic ":
            return MALFORMED
        encoded = authorization[6:]
        try:
            decoded = a2b_base64(encoded)
        except Base64Error:
            return MALFORMED
        if decoded[-1:] != b":" or b2a_base64(decoded, newline=False) != encoded:
            return MALFORMED
        number = crc32(decoded[:-7])
        if _PAIRS[number // 14776336] + _PAIRS[number // 3844 % 3844] + _PAIRS[number % 3844] != decoded[-7:-1]:
            return MALFORMED
        mac = prepared.copy()
        mac.update(decoded[:-1])
        digest = mac.digest()
        entry = find(digest)
        if entry is None:
            return UNKNOWN
        stored, revoked, expires_at, edges4, edges6, permissions, principal = entry
        if not compare_digest(stored, digest):
            return UNKNOWN
        if revoked:
            return REVOKED
        if expires_at is not None and time() >= expires_at:
            return EXPIRED
        try:
            if ":" in address:
                inside = bisect_right(edges6, inet_pton(AF_INET6, address)) & 1
            else:
                inside = bisect_right(edges4, inet_pton(AF_INET, address)) & 1
        except OSError:
            return NETWORK
        if not inside:
            return NETWORK
        if permission not in permissions:
            return PERMISSION
        return principal

    return check


Rules = Mapping[tuple[str, str], str]
"""The permission that an operation needs, by method and path."""

_BODY = b'{"error": {"code": "api_key_invalid"}}'
_RAW_HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", b"%d" % len(_BODY)),
    (b"cache-control", b"no-store"),
    (b"www-authenticate", b'Basic realm="API"'),
]
_HEADERS = [(name.decode(), value.decode()) for name, value in _RAW_HEADERS]


def asgi(app: ASGI, check: Check, rules: Rules) -> ASGI:
    """The floor in front of an ASGI application. All refusals look alike, and have no request id."""

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        lines = [value for name, value in scope["headers"] if name == b"authorization"]
        permission = rules.get((scope["method"], scope["path"]))
        if len(lines) == 1 and permission is not None:
            principal = check(lines[0], scope["client"][0], permission)
            if principal.__class__ is str:
                state = {**scope.get("state", {}), "principal": principal}
                await app({**scope, "state": state}, receive, send)
                return
        await send({"type": "http.response.start", "status": 401, "headers": _RAW_HEADERS.copy()})
        await send({"type": "http.response.body", "body": _BODY})

    return middleware


def wsgi(app: WSGI, check: Check, rules: Rules) -> WSGI:
    """The floor in front of a WSGI application."""

    def middleware(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        line = environ.get("HTTP_AUTHORIZATION")
        permission = rules.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        if line is not None and line.isascii() and permission is not None:
            principal = check(line.encode(), environ["REMOTE_ADDR"], permission)
            if principal.__class__ is str:
                environ["principal"] = principal
                return app(environ, start_response)
        start_response("401 Unauthorized", _HEADERS.copy())
        return [_BODY]

    return middleware
