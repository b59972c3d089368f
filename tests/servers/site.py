"""
What every server here runs: the table's doorkeys, in front of an application that notes whom it was entered for.

Both applications, :func:`asgi` and :func:`wsgi`, stand outside of doorkey first, and obey three fields that only tests
send. ``X-Row`` has the number of a row of the table: its policy, proxies, store and profile are chosen, and what no
client can choose (peer, mount, state) is put in place. ``X-Proxies`` names trusted proxies, for requests that come
through real ones. ``X-Ask`` is answered here: with the tokens, with what was noted since it was asked last, or by
revoking the key called ``spare``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from functools import cache
from typing import Any

from doorkey import Principal, TrustedProxies
from doorkey.adapters import asgi as asgi_adapter
from doorkey.adapters import wsgi as wsgi_adapter
from tests.adapters.table import POLICIES, PROFILES, PROXIES, ROWS, House, Row

Scope = MutableMapping[str, Any]

CLIENT = "127.0.0.2"
"""A loopback address that clients bind to. The key called ``local`` is bound to it and to ``::1``."""

OUTER = "127.0.0.9"
"""The address of a proxy before the proxy, which itself is at 127.0.0.1."""

REAL_PROXIES = {
    "": None,
    "one": TrustedProxies(["127.0.0.1"]),
    "two": TrustedProxies(["127.0.0.1", OUTER]),
    "forwarded": TrustedProxies(["127.0.0.1"], header="Forwarded"),
    "two forwarded": TrustedProxies(["127.0.0.1", OUTER], header="Forwarded"),
    "unix": TrustedProxies([], unix_socket=True),
    "unix two": TrustedProxies([OUTER], unix_socket=True),
    "unix forwarded": TrustedProxies([], header="Forwarded", unix_socket=True),
}

ANY = Row("whatever comes without a row")


def _house(profile: Any) -> House:
    house = House(profile)
    house._add("local", networks=[CLIENT, "::1"])
    house._add("spare")
    return house


HOUSES = {name: _house(profile) for name, profile in PROFILES.items()}
NAMES = {principal: name for house in HOUSES.values() for name, principal in house.principals.items()}

reached: list[str] = []
entered: list[tuple[str, str, str | None]] = []
"""The rows that a server handed over at all; row, path and key of those that doorkey let in."""


def _note(row: str, path: str, principal: Principal | None) -> bytes:
    """Note who came in, and say so."""
    name = None if principal is None else NAMES[principal]
    entered.append((row, path, name))
    return b"open" if name is None else name.encode()


def _answer(question: str) -> bytes:
    answer = {"keys": _keys, "log": _log, "revoke": _revoke}[question]()
    return json.dumps(answer).encode()


def _keys() -> object:
    return {name: {"tokens": house.tokens, "principals": list(house.principals)} for name, house in HOUSES.items()}


def _log() -> object:
    taken = {"reached": list(reached), "entered": list(entered)}
    reached.clear()
    entered.clear()
    return taken


def _revoke() -> object:
    house = HOUSES["default"]
    return house.ring.revoke(house.principals["spare"].key, because="a test").id


def _row(number: str) -> Row:
    return ROWS[int(number)] if number else ANY


def _settings(number: str, proxies: str | None) -> tuple[Row, dict[str, Any]]:
    row = _row(number)
    trusted = PROXIES[row.proxies] if proxies is None else REAL_PROXIES[proxies]
    return row, {"policy": POLICIES[row.policy], "trusted_proxies": trusted}


# ASGI


def _field(scope: Scope, name: bytes) -> str | None:
    return next((value.decode() for given, value in scope["headers"] if given == name), None)


async def _entered_asgi(scope: Scope, receive: Any, send: Any) -> None:
    body = _note(_field(scope, b"x-row") or "", scope["path"], scope["state"]["principal"])
    if scope["type"] == "websocket":
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
    else:
        await _respond(send, body)


async def _respond(send: Any, body: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@cache
def _asgi_door(number: str, proxies: str | None) -> Any:
    row, settings = _settings(number, proxies)
    verifier = HOUSES[row.profile].async_verifiers[row.store]
    return asgi_adapter.DoorkeyMiddleware(_entered_asgi, verifier, recheck=0.1, **settings)


async def asgi(scope: Scope, receive: Any, send: Any) -> None:
    """The ASGI application."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif question := _field(scope, b"x-ask"):
        await _respond(send, _answer(question))
    else:
        number = _field(scope, b"x-row") or ""
        reached.append(number)
        app = _asgi_door(number, _field(scope, b"x-proxies"))
        await app(_as_the_row_says(scope, _row(number)) if number else scope, receive, send)


async def _lifespan(receive: Any, send: Any) -> None:
    for step in ("startup", "shutdown"):
        assert (await receive())["type"] == f"lifespan.{step}"
        await send({"type": f"lifespan.{step}.complete"})


def _as_the_row_says(scope: Scope, row: Row) -> Scope:
    path = scope["path"] if row.in_path else scope["path"].removeprefix(row.mount)
    client = None if row.peer is None else (row.peer, 50_000)
    state = {**(scope.get("state") or {}), **row.given}
    return {**scope, "path": path, "root_path": row.mount, "client": client, "state": state}


# WSGI


def _entered_wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    return _started(
        start_response, _note(environ.get("HTTP_X_ROW", ""), environ["PATH_INFO"], environ["doorkey.principal"])
    )


def _started(start_response: Callable[..., Any], body: bytes) -> Sequence[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


@cache
def _wsgi_door(number: str, proxies: str | None) -> Any:
    row, settings = _settings(number, proxies)
    return wsgi_adapter.DoorkeyMiddleware(_entered_wsgi, HOUSES[row.profile].verifiers[row.store], **settings)


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The WSGI application."""
    if question := environ.get("HTTP_X_ASK"):
        return _started(start_response, _answer(question))
    number = environ.get("HTTP_X_ROW", "")
    reached.append(number)
    if number:
        _set_as_the_row_says(environ, _row(number))
    app: Callable[..., Iterable[bytes]] = _wsgi_door(number, environ.get("HTTP_X_PROXIES"))
    return app(environ, start_response)


def _set_as_the_row_says(environ: dict[str, Any], row: Row) -> None:
    environ["PATH_INFO"] = environ["PATH_INFO"].removeprefix(row.mount)
    environ["SCRIPT_NAME"] = row.mount
    environ["REMOTE_ADDR"] = row.peer
    environ.update(row.given)
    if row.peer is None:
        del environ["REMOTE_ADDR"]
