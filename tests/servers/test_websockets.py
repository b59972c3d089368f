"""Websockets on real servers, with a client that speaks the whole protocol."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from doorkey.testing import basic
from tests.servers import judging
from tests.servers.client import handshake_lines, send
from tests.servers.judging import Site
from tests.servers.running import SERVERS, connected, running

LIMIT = 10.0
"""Seconds after which a wait is given up."""

only_with_websockets = pytest.mark.parametrize(
    "site",
    [server for server in SERVERS if server.websockets],
    ids=lambda server: server.name,
    indirect=True,
)


@contextmanager
def feed(site: Site, authorization: str | None) -> Iterator[ClientConnection]:
    """An open websocket."""
    headers = {} if authorization is None else {"Authorization": authorization}
    with (
        connected(site.address) as connection,
        connect("ws://api.example/feed", sock=connection, additional_headers=headers, open_timeout=LIMIT) as client,
    ):
        yield client


def token(site: Site, name: str) -> str:
    return judging.keys(site.address)["default"].tokens[name]


@only_with_websockets
def test_a_websocket(site: Site) -> None:
    """A websocket with a good key opens, carries what is sent, and stays open while it is judged again and again."""
    with feed(site, basic(token(site, "reader"))) as client:
        for text in ("hello", "and more"):
            client.send(text)
            assert client.recv(LIMIT) == text
        with pytest.raises(TimeoutError):
            client.recv(0.3)


@only_with_websockets
@pytest.mark.parametrize("key", ["", "publishable", "revoked"])
def test_a_refused_websocket(site: Site, key: str) -> None:
    """A refused handshake opens nothing, and nobody is let in; the table says what is answered (E5)."""
    judging.log(site.address)
    with pytest.raises(InvalidStatus) as refused, feed(site, basic(token(site, key)) if key else None):
        pass
    told = 403 if key == "publishable" or not site.server.denials else 401
    assert refused.value.response.status_code == told
    assert judging.log(site.address).entered == []


@only_with_websockets
def test_a_websocket_ends_with_its_key(site: Site) -> None:
    """A revocation closes an open websocket with 1008 (E9); nothing that is sent afterwards reaches anybody."""
    with feed(site, basic(token(site, "spare"))) as client:
        client.send("hello")
        assert client.recv(LIMIT) == "hello"
        judging.ask(site.address, "revoke")
        with pytest.raises(ConnectionClosed) as closed:
            if site.server.lingers:
                time.sleep(1)
                client.send("again")
            client.recv(LIMIT)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008


def test_a_refused_handshake_does_not_end_granian() -> None:
    """Whoever has no key cannot end the service: granian 2.8 ends when a denial has two fields of one name."""
    (command,) = [server.command for server in SERVERS if server.name == "granian"]
    with running(command) as address:
        for _ in range(3):
            answer = send(address, "/feed", "Host: api.example", *handshake_lines())
            assert answer is not None
            assert answer.status == 401
