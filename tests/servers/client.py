"""A client that sends what it is told, octet by octet, and reads the answer with the standard library's parser."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus

from tests.adapters.wire import Answer
from tests.servers.running import Address, connected


def send(
    address: Address, target: str, *lines: str, method: str = "GET", source: str = "", body: str = ""
) -> Answer | None:
    """Send one request, and read what comes. ``None`` if the connection ends without an answer."""
    request = "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", body])
    with connected(address, source) as connection:
        return exchange(connection, request.encode("latin-1"), method)


def exchange(connection: socket.socket, request: bytes, method: str = "GET") -> Answer | None:
    """Send octets on a connection, and read one answer. ``None`` if the connection ends without one."""
    with suppress(BrokenPipeError, ConnectionResetError):  # A server may answer before it has read everything.
        connection.sendall(request)
    return received(connection, method)


def received(connection: socket.socket, method: str = "GET") -> Answer | None:
    """Read one answer. ``None`` if the connection ends without one."""
    response = http.client.HTTPResponse(connection, method=method)
    try:
        response.begin()
        body = b"" if response.status == HTTPStatus.SWITCHING_PROTOCOLS else response.read()
    except http.client.IncompleteRead as incomplete:
        body = incomplete.partial
    except (http.client.BadStatusLine, ConnectionResetError):
        return None
    finally:
        response.close()
    return Answer(response.status, [(name.lower(), value) for name, value in response.getheaders()], body)


def handshake_lines() -> Sequence[str]:
    """What makes a GET a websocket's handshake (RFC 6455 §4.1)."""
    return (
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
