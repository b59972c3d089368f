"""
Drives an ASGI or WSGI callable with a row of the table, as a server would: no sockets, no framework.

What a server makes of a request target and of field lines is written here once, after the ASGI specification and PEP
3333: the path is percent-decoded; WSGI joins repeated lines with commas, and writes ``-`` and ``_`` alike.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from tests.adapters.table import Row

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
ASGI = Callable[[Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]
Environ = dict[str, Any]
WSGI = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


@dataclass
class Answer:
    """A response: names of fields in lower case. A websocket's ``close_code`` is the one that it was closed with."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    close_code: int | None = None


def scope_of(row: Row, tokens: Mapping[str, str]) -> Scope:
    """The ASGI scope of a row."""
    target, _, query = row.filled_target(tokens).partition("?")
    path = unquote_to_bytes(target).decode("utf-8", "replace")
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": row.method,
        "scheme": "http",
        "path": row.mount + path if row.in_path else path,
        "raw_path": (row.mount + target if row.in_path else target).encode("latin-1"),
        "query_string": query.encode("ascii"),
        "root_path": row.mount,
        "headers": [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in row.lines(tokens)],
        "client": None if row.peer is None else (row.peer, 50_000),
        "server": ("192.0.2.1", 80),
        "state": dict(row.given),
        "extensions": {},
    }
    if row.websocket:
        del scope["method"]
        scope.update(type="websocket", scheme="ws", subprotocols=[])
        scope["extensions"] = {"websocket.http.response": {}} if row.denial else None
    return scope


def environ_of(row: Row, tokens: Mapping[str, str]) -> Environ:
    """The WSGI environ of a row."""
    target, _, query = row.filled_target(tokens).partition("?")
    environ: Environ = {
        "REQUEST_METHOD": row.method,
        "SCRIPT_NAME": row.mount,
        "PATH_INFO": unquote_to_bytes(target).decode("latin-1"),
        "QUERY_STRING": query,
        "SERVER_NAME": "192.0.2.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        **row.given,
    }
    if row.peer is not None:
        environ["REMOTE_ADDR"] = row.peer
    for name, value in row.lines(tokens):
        variable = "HTTP_" + name.upper().replace("-", "_")
        environ[variable] = f"{environ[variable]},{value}" if variable in environ else value
    return environ


def over_asgi(app: ASGI, scope: Scope) -> Answer:
    """Call an ASGI application once, and gather what it sends."""
    answer = Answer()
    incoming = [{"type": "websocket.connect"}] if scope["type"] == "websocket" else [{"type": "http.request"}]

    async def receive() -> Message:
        return incoming.pop() if incoming else {"type": scope["type"] + ".disconnect", "code": 1005}

    async def send(message: Message) -> None:
        match message["type"]:
            case "websocket.accept":
                answer.status = 101
            case "websocket.close":
                answer.close_code = message["code"]
                answer.status = answer.status or 403
            case "http.response.start" | "websocket.http.response.start":
                answer.status = message["status"]
                answer.headers = [(name.decode("ascii"), value.decode("ascii")) for name, value in message["headers"]]
            case "http.response.body" | "websocket.http.response.body":
                answer.body += message.get("body", b"")
            case unknown:
                raise AssertionError(f"no server knows the message {unknown!r}")

    async def call() -> None:
        await app(scope, receive, send)

    asyncio.run(call())
    return answer


def over_wsgi(app: WSGI, environ: Environ) -> Answer:
    """Call a WSGI application once, and gather what it returns and writes."""
    answer = Answer()

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Callable[[bytes], None]:
        answer.status = int(status[:3])
        answer.headers = [(name.lower(), value) for name, value in headers]
        return write

    def write(data: bytes) -> None:
        answer.body += data

    chunks = app(environ, start_response)
    try:
        for chunk in chunks:
            answer.body += chunk
    finally:
        if close := getattr(chunks, "close", None):
            close()
    return answer
