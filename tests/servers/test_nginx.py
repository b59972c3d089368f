"""nginx with the recipes of docs/behind-a-proxy.md, before an ASGI and a WSGI server, over TCP and Unix sockets."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from doorkey.testing import basic
from tests.adapters.wire import Answer
from tests.ports import free_port
from tests.servers import judging, nginx
from tests.servers.client import exchange, handshake_lines, send
from tests.servers.judging import ALLOWED, EQUAL, OWN, told
from tests.servers.running import SERVERS, Address, Server, connected, running
from tests.servers.site import CLIENT, OUTER

STRANGER = "127.0.0.3"
LET_IN, REFUSED = "200 local", "403 network_not_allowed"

UPSTREAMS = {
    f"{name}, {way}": (next(server for server in SERVERS if server.name == name), way)
    for name in ("uvicorn with h11", "gunicorn, sync")
    for way in ("TCP", "Unix")
}
OWN_FIELD = "proxy_set_header X-Forwarded-For $remote_addr;"
RECIPES = {
    "X-Forwarded-For": ("X-Forwarded-For", ()),
    "Forwarded": ("Forwarded", ()),
    "second": ("The second of two", ()),
    "websockets": ("Websockets", ()),
    "transparent": ("Websockets", ((OWN_FIELD, ""), ("$connection_upgrade", "$connection_again"))),
    "cache": ("A cache", ()),
    "careless cache": (
        "A cache",
        (
            ("proxy_cache_bypass $http_authorization;", ""),
            ("proxy_no_cache $http_authorization;", ""),
            ("keys_zone=service:", "keys_zone=careless:"),
            ("proxy_cache service;", "proxy_cache careless;"),
        ),
    ),
    "underscores": ("X-Forwarded-For", (("server {", "server { underscores_in_headers on;"),)),
    "stripped": ("X-Forwarded-For", ((OWN_FIELD, 'proxy_set_header X-Forwarded-For "";'),)),
}
"""What nginx runs with here: recipes of the page, some of them spoilt to show what happens then."""


@dataclass(frozen=True)
class Front:
    """A server with nginx before it."""

    server: Server
    unix: bool
    upstream: Address
    ports: dict[str, int]

    def trusting(self, what: str) -> str:
        """The field that chooses trusted proxies for this way of connecting."""
        return f"X-Proxies: {f'unix {what}'.removesuffix(' one') if self.unix else what}"

    def outcome(
        self, recipe: str, *lines: str, source: str = STRANGER, trusting: str = "one", target: str = "/messages"
    ) -> str:
        """What the key gets that is bound to :data:`CLIENT`."""
        answer = self.get(recipe, self.trusting(trusting), *lines, source=source, target=target, key="local")
        return told(answer)

    def get(self, recipe: str, *lines: str, source: str = "", target: str = "/messages", key: str = "") -> Answer:
        """Send a request through nginx."""
        if key:
            token = judging.keys(self.upstream)["default"].tokens[key]
            lines = (f"Authorization: {basic(token)}", *lines)
        answer = send(self.ports[recipe], target, "Host: api.example", *lines, source=source)
        assert answer is not None
        return answer


@pytest.fixture(scope="module", params=UPSTREAMS.values(), ids=list(UPSTREAMS))
def front(request: pytest.FixtureRequest) -> Iterator[Front]:
    """nginx before each server in turn."""
    nginx.program()
    server, way = request.param
    folder = Path(tempfile.mkdtemp(prefix="doorkey-"))  # a short path, because it holds a Unix socket
    try:
        with (
            running(server.command, folder / "service.sock" if way == "Unix" else None) as upstream,
            nginx.in_front_of(upstream, folder, *RECIPES.values()) as ports,
        ):
            yield Front(server, way == "Unix", upstream, dict(zip(RECIPES, ports, strict=True)))
    finally:
        shutil.rmtree(folder)


def test_every_recipe_of_the_page_is_tested() -> None:
    """No block of nginx stands on the page that does not run here."""
    assert {title for title, _ in RECIPES.values()} == set(nginx.RECIPES)


HEADERS = pytest.mark.parametrize(
    ("recipe", "trusting"),
    [("X-Forwarded-For", "one"), ("Forwarded", "forwarded")],
    ids=["X-Forwarded-For", "Forwarded"],
)
SPOOFS = (
    (f"X-Forwarded-For: {CLIENT}",),
    (f"X-Forwarded-For: {CLIENT}", f"X-Forwarded-For: {CLIENT}"),
    (f"x_forwarded_for: {CLIENT}",),
    (f"X_FORWARDED_FOR: {CLIENT}",),
    (f"Forwarded: for={CLIENT}",),
    (f'Forwarded: for={CLIENT};by="',),
    (f"X-Real-IP: {CLIENT}",),
    (f"X-Forwarded-For: {CLIENT}", f"Forwarded: for={CLIENT}", f"X-Real-IP: {CLIENT}", f"x_forwarded_for: {CLIENT}"),
)


@HEADERS
def test_the_true_address_counts(front: Front, recipe: str, trusting: str) -> None:
    """A network-bound key is let in from its network and refused from elsewhere, by the address that nginx saw."""
    assert front.outcome(recipe, source=CLIENT, trusting=trusting) == LET_IN
    assert front.outcome(recipe, source=STRANGER, trusting=trusting) == REFUSED
    answer = front.get(recipe, front.trusting(trusting), source=STRANGER, key="local")
    assert f"the server saw {STRANGER}" in answer.body.decode()


@HEADERS
@pytest.mark.parametrize("lines", SPOOFS, ids=[" and ".join(lines) for lines in SPOOFS])
def test_a_spoof_changes_nothing(front: Front, recipe: str, trusting: str, lines: tuple[str, ...]) -> None:
    """What a client writes into such fields neither lets a stranger in, nor a client out (D1, D4)."""
    assert front.outcome(recipe, *lines, trusting=trusting) == REFUSED
    harmless = [line.replace(CLIENT, STRANGER) for line in lines]
    assert front.outcome(recipe, *harmless, source=CLIENT, trusting=trusting) == LET_IN


@pytest.mark.skipif(not nginx.has_ipv6(), reason="this machine has no IPv6")
@HEADERS
def test_ipv6(front: Front, recipe: str, trusting: str) -> None:
    """An IPv6 client is known, in Forwarded between brackets and quotes."""
    assert front.outcome(recipe, source="::1", trusting=trusting) == LET_IN


def test_two_proxies(front: Front, tmp_path: Path) -> None:
    """Behind two proxies the client is who connects to the first; who gets at the second cannot pass for the first."""
    second = front.ports["second"]
    port = free_port()
    first = nginx.adapted(
        nginx.RECIPES["X-Forwarded-For"],
        port,
        second,
        tmp_path,
        ("proxy_set_header Host $host;", f"proxy_set_header Host $host; proxy_bind {OUTER};"),
    )
    with nginx.serving(tmp_path, [first], [port]):
        front.ports["first"] = port
        spoof = f"X-Forwarded-For: {CLIENT}"
        assert front.outcome("first", source=CLIENT, trusting="two") == LET_IN
        assert front.outcome("first", source=STRANGER, trusting="two") == REFUSED
        assert front.outcome("first", spoof, source=STRANGER, trusting="two") == REFUSED
        assert front.outcome("first", source=CLIENT, trusting="one") == REFUSED  # only one of them is trusted
    assert front.outcome("second", spoof, source=STRANGER, trusting="two") == REFUSED
    assert front.outcome("second", spoof, spoof, source=STRANGER, trusting="two") == REFUSED


def test_a_field_that_a_client_asks_to_drop(front: Front) -> None:
    """``Connection: close, X-Forwarded-For`` changes nothing at nginx; where a proxy obeys, nobody is let in (D6)."""
    line = "Connection: close, X-Forwarded-For"
    assert front.outcome("X-Forwarded-For", line, source=CLIENT) == LET_IN
    assert front.outcome("X-Forwarded-For", line, source=STRANGER) == REFUSED
    unknown = front.get("stripped", front.trusting("one"), line, source=CLIENT, key="local")
    assert told(unknown) == REFUSED
    assert b"does not know the client's address" in unknown.body


def test_underscores(front: Front) -> None:
    """If nginx lets names with underscores pass, ASGI and gunicorn still do not take them for the proxy's (D5)."""
    for name in ("X_Forwarded_For", "x_forwarded_for", "X-Forwarded_For", "HTTP_X_FORWARDED_FOR"):
        assert front.outcome("underscores", f"{name}: {CLIENT}") == REFUSED
    assert front.outcome("underscores", source=CLIENT) == LET_IN


def test_nobody_is_trusted_unless_named(front: Front) -> None:
    """Without trusted proxies the client is nginx, or unknown on a Unix socket: the field that it writes is ignored."""
    answer = front.get("X-Forwarded-For", source=CLIENT, key="local")
    assert told(answer) == REFUSED
    assert ("does not know" if front.unix else "the server saw 127.0.0.1") in answer.body.decode()


def test_refusals_arrive_whole(front: Front) -> None:
    """Through nginx a 401 keeps both challenges, in their order, and what forbids to store it."""
    answer = front.get("X-Forwarded-For")
    assert told(answer) == "401 api_key_missing"
    assert [value for name, value in answer.headers if name == "www-authenticate"] == [
        'Basic realm="API", charset="UTF-8"',
        'Bearer realm="API"',
    ]
    assert ("cache-control", "no-store") in answer.headers
    assert json.loads(answer.body)["error"]["request_id"] in dict(answer.headers)["request-id"]


def test_every_row(front: Front) -> None:
    """The whole table has the same verdicts through nginx: what it does not refuse itself it leaves as it is."""
    outcomes, noted = judging.drive(front.server, front.upstream, through=front.ports["transparent"])
    assert {
        (row, outcome)
        for row, outcome in outcomes.items()
        if outcome not in (EQUAL, OWN) and (row, outcome) not in ALLOWED
    } == set()
    assert list(outcomes.values()).count(EQUAL) >= 350
    assert all(number for number, _, _ in noted.entered)


def times_reached(front: Front, recipe: str, *keys: str, target: str = "/messages") -> tuple[list[str], int]:
    """What requests get, one after the other, and how many of them nginx passed on."""
    judging.log(front.upstream)
    outcomes = [told(front.get(recipe, key=key, target=target)) for key in keys]
    return outcomes, len(judging.log(front.upstream).reached)


def test_a_cache_keeps_neither_refusals_nor_answers(front: Front) -> None:
    """With the recipe's two lines, nginx caches what is open, and nothing that a key had a part in (A15)."""
    missing, good = "401 api_key_missing", "200 secret"
    assert times_reached(front, "cache", "", "", target="/messages") == ([missing, missing], 2)
    assert times_reached(front, "cache", "secret", "reader", "") == ([good, "200 reader", missing], 3)
    assert times_reached(front, "cache", "revoked", "secret") == (["401 api_key_revoked", good], 2)
    outcomes, reached = times_reached(front, "cache", *[""] * 5, target="/healthz")
    assert outcomes == ["200 open"] * 5
    assert reached < 5  # a busy nginx may ask again


def test_a_careless_cache(front: Front) -> None:
    """The trap: without those lines, nginx gives one client's answer to the next one. Refusals are never kept."""
    outcomes, reached = times_reached(front, "careless cache", "", "secret", "")
    assert (outcomes, reached) == (["401 api_key_missing", "200 secret", "200 secret"], 2)


def test_uploads(front: Front) -> None:
    """
    nginx says "100 Continue" itself, and keeps a body until all of it is there: a refusal comes after it (E11). It may
    come as 502, where the server refuses and closes while nginx still writes.
    """
    judging.log(front.upstream)
    request = b"POST /messages HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 100000\r\n\r\n"
    with connected(front.ports["X-Forwarded-For"]) as connection:
        connection.sendall(request)
        assert connection.recv(1_000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert judging.log(front.upstream).reached == []
        answer = exchange(connection, bytes(100_000))
    assert answer is not None
    assert answer.status in (401, 502)
    assert judging.log(front.upstream).entered == []


def test_websockets(front: Front) -> None:
    """A handshake passes through nginx, and so does its refusal, with both challenges."""
    if not front.server.websockets:
        pytest.skip("this server knows no websockets")
    accepted = front.get("websockets", *handshake_lines(), target="/feed", key="reader")
    assert accepted.status == 101
    refused = front.get("websockets", *handshake_lines(), target="/feed")
    assert told(refused) == "401 api_key_missing"
    (challenges,) = [value for name, value in refused.headers if name == "www-authenticate"]
    assert challenges.startswith("Basic ") and ", Bearer " in challenges
    lines = (*handshake_lines(), front.trusting("one"))
    assert front.get("websockets", *lines, target="/feed", key="local", source=STRANGER).status == 403
