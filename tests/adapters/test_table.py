"""The table of requests, through both adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from doorkey import Principal
from doorkey.adapters import asgi, wsgi

if TYPE_CHECKING:
    from tests.adapters.table import House, Row


@pytest.mark.interface("asgi")
def test_asgi(row: Row, table: Any, wire: Any, houses: dict[str, House]) -> None:
    """Over ASGI, the row's request has the row's answer; what the server handed over stays as it was."""
    house = houses[row.profile]
    entered: list[Principal | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        entered.append(scope["state"]["principal"])
        if scope["type"] == "websocket":
            assert (await receive())["type"] == "websocket.connect"
            await send({"type": "websocket.accept"})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})

    middleware = asgi.DoorkeyMiddleware(
        app,
        house.async_verifiers[row.store],
        policy=table.POLICIES[row.policy],
        trusted_proxies=table.PROXIES[row.proxies],
    )
    scope = wire.scope_of(row, house.tokens)
    answer = wire.over_asgi(middleware, scope)
    table.check(row, answer, entered, house)
    assert scope == wire.scope_of(row, house.tokens)


@pytest.mark.interface("wsgi")
def test_wsgi(row: Row, table: Any, wire: Any, houses: dict[str, House]) -> None:
    """Over WSGI, the row's request has the row's answer."""
    house = houses[row.profile]
    entered: list[Principal | None] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        entered.append(environ["doorkey.principal"])
        start_response("200 OK", [])
        return [b"ok"]

    middleware = wsgi.DoorkeyMiddleware(
        app,
        house.verifiers[row.store],
        policy=table.POLICIES[row.policy],
        trusted_proxies=table.PROXIES[row.proxies],
    )
    environ = wire.environ_of(row, house.tokens)
    before = dict(environ)
    answer = wire.over_wsgi(middleware, environ)
    table.check(row, answer, entered, house)
    for given in (environ, before):
        for name in ("doorkey.principal", "doorkey.requirement"):
            given.pop(name, None)
    assert environ == before


def test_the_table_is_whole(table: Any) -> None:
    """Each row has a name of its own, and each code of the design is met over both interfaces."""
    names = [row.name for row in table.ROWS]
    assert len(names) == len(set(names)) >= 120
    for interface in ("asgi", "wsgi"):
        assert {row.code for row in table.ROWS if row.only in ("", interface)} == set(table.STATUS)
