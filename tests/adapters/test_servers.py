"""
Both adapters behind real servers and real sockets: uvicorn with either of its parsers, wsgiref and Werkzeug's server.

What the other tests take for granted is seen here: how a server hands over duplicate fields, odd targets and addresses.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest
import uvicorn
import werkzeug.serving
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from doorkey import Doorkey, Policy, Principal, Rule, TrustedProxies
from doorkey.adapters import asgi, wsgi
from doorkey.testing import basic, bearer, door, issue

LIMIT = 10.0
"""Seconds after which a wait is given up."""

OFFICE = "203.0.113.0/24"
POLICY = Policy(
    [Rule("GET", "/messages", "messages:read"), Rule.open("GET", "/healthz"), Rule("WEBSOCKET", "/feed", "feed:read")]
)


@dataclass
class Response:
    status: int
    fields: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for given, value in self.fields if given == name]

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["error"]["code"])


@dataclass
class Site:
    """A running server with a doorkey in front of an application that says who it let in."""

    port: int
    door: Doorkey
    entered: list[Principal | None] = field(default_factory=list)

    def get(self, target: str, *lines: str, method: str = "GET") -> Response:
        """Send a request, target and lines octet by octet as given, and read what comes until the server closes."""
        request = (f"{method} {target} HTTP/1.1", "Host: api.example", *lines, "Connection: close", "", "")
        with socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT) as connection:
            connection.sendall("\r\n".join(request).encode("latin-1"))
            received = b"".join(iter(lambda: connection.recv(65_536), b""))
        head, _, body = received.partition(b"\r\n\r\n")
        status, *fields = head.decode("latin-1").split("\r\n")
        pairs = [line.partition(":") for line in fields]
        return Response(int(status.split()[1]), [(name.lower(), value.strip()) for name, _, value in pairs], body)


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not what a test prints."""


class QuietWerkzeug(werkzeug.serving.WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Requests are not what a test prints."""


class Quick(WSGIServer):
    def server_bind(self) -> None:
        """Bind without asking a name server who we are."""
        self.server_name, self.server_port = "127.0.0.1", 0
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.setup_environ()


@contextmanager
def in_a_thread(serve: Callable[[], object], stop: Callable[[], object]) -> Iterator[None]:
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        stop()
        thread.join(LIMIT)
        assert not thread.is_alive()


@contextmanager
def uvicorn_site(http: str = "h11", proxies: TrustedProxies | None = None, **config: Any) -> Iterator[Site]:
    house = door()
    site = Site(0, house)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        site.entered.append(scope["state"]["principal"])
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (message := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": message["text"]})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ok"})

    middleware = asgi.DoorkeyMiddleware(app, house.async_verifier, policy=POLICY, trusted_proxies=proxies, recheck=0.05)
    server = uvicorn.Server(
        uvicorn.Config(
            middleware, "127.0.0.1", 0, http=http, lifespan="off", log_config=None, log_level="critical", **config
        )
    )
    with in_a_thread(server.run, lambda: setattr(server, "should_exit", True)):
        deadline = time.monotonic() + LIMIT
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        site.port = server.servers[0].sockets[0].getsockname()[1]
        yield site


def wsgi_application(site: Site, proxies: TrustedProxies | None) -> wsgi.DoorkeyMiddleware:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        site.entered.append(environ["doorkey.principal"])
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    return wsgi.DoorkeyMiddleware(app, site.door.verifier, policy=POLICY, trusted_proxies=proxies)


@contextmanager
def wsgiref_site(proxies: TrustedProxies | None = None) -> Iterator[Site]:
    site = Site(0, door())
    with make_server("127.0.0.1", 0, wsgi_application(site, proxies), Quick, Quiet) as server:
        site.port = server.server_address[1]
        with in_a_thread(lambda: server.serve_forever(0.02), server.shutdown):
            yield site


@contextmanager
def werkzeug_site(proxies: TrustedProxies | None = None) -> Iterator[Site]:
    site = Site(0, door())
    application: Any = wsgi_application(site, proxies)
    server = werkzeug.serving.make_server("127.0.0.1", 0, application, request_handler=QuietWerkzeug)
    site.port = server.port
    try:
        with in_a_thread(lambda: server.serve_forever(0.02), server.shutdown):
            yield site
    finally:
        server.server_close()


SITES: dict[str, Callable[[], AbstractContextManager[Site]]] = {
    "uvicorn with h11": lambda: uvicorn_site("h11"),
    "uvicorn with httptools": lambda: uvicorn_site("httptools"),
    "wsgiref": wsgiref_site,
    "werkzeug": werkzeug_site,
}


@pytest.fixture(scope="module", params=SITES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Each server in turn."""
    with SITES[request.param]() as running:
        yield running


@pytest.fixture(autouse=True)
def forget(request: pytest.FixtureRequest) -> None:
    """Who was let in is counted anew by each test."""
    if "site" in request.fixturenames:
        request.getfixturevalue("site").entered.clear()


def line(authorization: str) -> str:
    return f"Authorization: {authorization}"


def test_keys(site: Site) -> None:
    """A good key reaches the application by both schemes, and everything else gets its challenge, on every server."""
    token = issue(site.door, permissions=["messages:read"])
    for authorization in (basic(token), bearer(token)):
        assert site.get("/messages", line(authorization)).status == 200
    assert [principal and principal.token_id for principal in site.entered] == [token.id] * 2
    refused = site.get("/messages")
    assert (refused.status, refused.code) == (401, "api_key_missing")
    assert refused.all("www-authenticate") == ['Basic realm="API", charset="UTF-8"', 'Bearer realm="API"']
    assert refused.all("cache-control") == ["no-store"]
    assert site.get("/messages", line("Basic")).code == "api_key_malformed"
    assert site.get("/healthz").status == 200
    assert len(site.entered) == 3


def test_a_refused_head(site: Site) -> None:
    """A refused HEAD has fields and no body, on the wire as well."""
    refused = site.get("/messages", method="HEAD")
    assert (refused.status, refused.body) == (401, b"")
    assert len(refused.all("www-authenticate")) == 2


@pytest.mark.parametrize("second", ["the same", "another", "empty", "another scheme"])
@pytest.mark.parametrize("first", [True, False], ids=["good first", "good last"])
def test_two_authorization_lines(site: Site, second: str, first: bool) -> None:
    """Whether a server keeps two lines apart or joins them: malformed, and nobody is let in (A6)."""
    token, another = issue(site.door), issue(site.door)
    good = line(basic(token))
    more = line(
        {"the same": basic(token), "another": bearer(another), "empty": "", "another scheme": "Digest a=b"}[second]
    )
    refused = site.get("/messages", *((good, more) if first else (more, good)))
    assert (refused.status, refused.code) == (401, "api_key_malformed")
    assert site.entered == []


@pytest.mark.parametrize("length", [1_000, 70_000])
def test_a_long_authorization(site: Site, length: int) -> None:
    """A field that is too long is refused by the server or by us, and nobody is let in (A10)."""
    assert site.get("/messages", line("Bearer " + "a" * length)).status in (400, 401, 431)
    assert site.get("/messages", line(basic(issue(site.door)))).status == 200
    assert len(site.entered) == 1


@pytest.mark.parametrize(
    "target",
    [
        *(
            "//messages",
            "/healthz/",
            "/HEALTHZ",
            "/./healthz",
            "/x/../healthz",
            "/healthz%2f",
            "/%2fhealthz",
            "/healthz%00",
        ),
        *("/healthz;x", "/healthz%3f", "*", "http://api.example/messages", "http://ann:pass@api.example/messages"),
        *(
            "/messages?api_key={token}",
            "http://{token}:@api.example/messages",
            "/messages?x=/healthz",
            "//api.example/messages",
        ),
    ],
)
def test_targets(site: Site, target: str) -> None:
    """No form of a target lets anybody in without a key, nor with a key in it (A9, E2)."""
    token = issue(site.door).expose()
    for method in ("GET", "OPTIONS"):
        assert site.get(target.format(token=token), method=method).status in (400, 401, 404)
    assert site.entered == []


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_a_request_that_asks_before_it_sends(http: str) -> None:
    """
    A client that waits for "100 Continue" gets its refusal instead, and sends no body (E11). Servers on the standard
    library's ``http.server`` say "Continue" before any application is asked.
    """
    with uvicorn_site(http) as site:
        refused = site.get("/messages", "Expect: 100-continue", "Content-Length: 1000000", method="POST")
        assert (refused.status, site.entered) == (401, [])


def test_who_is_connected(site: Site) -> None:
    """The address that counts is that of the connection, which a refusal names."""
    token, local = issue(site.door, networks=[OFFICE]), issue(site.door, networks=["127.0.0.0/8"])
    refused = site.get("/messages", line(basic(token)))
    assert (refused.status, refused.code) == (403, "network_not_allowed")
    assert b"127.0.0.1" in refused.body
    assert site.get("/messages", line(basic(local))).status == 200


# Proxies


def network_bound(site: Site, *lines: str) -> int:
    """The status that a key bound to the office gets."""
    return site.get("/messages", line(basic(issue(site.door, networks=[OFFICE]))), *lines).status


FORWARDED: Sequence[str] = ("X-Forwarded-For: 203.0.113.7", "Forwarded: for=203.0.113.7", "X-Real-IP: 203.0.113.7")


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_uvicorn_believes_local_clients(http: str) -> None:
    """
    The trap: by default uvicorn itself takes X-Forwarded-For from 127.0.0.1, so that whoever connects from this machine
    chooses its address before we see it. ``proxy_headers=False`` (``--no-proxy-headers``) ends that (D2).
    """
    with uvicorn_site(http) as site:
        assert network_bound(site) == 403
        assert network_bound(site, "X-Forwarded-For: 203.0.113.7") == 200
    with uvicorn_site(http, proxy_headers=False) as site:
        assert {network_bound(site, *lines) for lines in [*zip(FORWARDED), FORWARDED]} == {403}
        assert site.entered == []


def test_a_trusted_proxy_before_uvicorn() -> None:
    """With uvicorn's own reading switched off, ours takes the one field from the proxies that were named."""
    with uvicorn_site(proxy_headers=False, proxies=TrustedProxies(["127.0.0.1"])) as site:
        assert network_bound(site, "X-Forwarded-For: 203.0.113.7") == 200
        assert network_bound(site, "X_Forwarded_For: 203.0.113.7") in (400, 403)
        assert network_bound(site, "X-Forwarded-For: 203.0.113.7, 198.51.100.9") == 403
        assert network_bound(site, "X-Forwarded-For: 203.0.113.7", "X-Forwarded-For: 198.51.100.9") == 403
        assert network_bound(site) == 403


@pytest.mark.parametrize("server", [wsgiref_site, werkzeug_site])
def test_forwarded_fields_before_wsgi(server: Callable[..., AbstractContextManager[Site]]) -> None:
    """WSGI servers leave the fields alone: without trusted proxies none of them counts, with them the one does (D1)."""
    with server() as site:
        assert {network_bound(site, *lines) for lines in [*zip(FORWARDED), FORWARDED]} == {403}
    with server(TrustedProxies(["127.0.0.1"])) as site:
        assert network_bound(site, "X-Forwarded-For: 203.0.113.7") == 200
        assert network_bound(site, "X-Forwarded-For: 203.0.113.7", "X-Forwarded-For: 198.51.100.9") == 403
        assert network_bound(site, "X-Real-IP: 203.0.113.7") == 403


# Websockets


@contextmanager
def uvicorn_connection(site: Site, authorization: str | None) -> Iterator[ClientConnection]:
    headers = {} if authorization is None else {"Authorization": authorization}
    with (
        socket.create_connection(("127.0.0.1", site.port), timeout=LIMIT) as connection,
        connect("ws://api.example/feed", sock=connection, additional_headers=headers, open_timeout=LIMIT) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def feed() -> Iterator[Site]:
    """uvicorn, with websockets."""
    with uvicorn_site() as running:
        yield running


def test_a_websocket(feed: Site) -> None:
    """A websocket with a good key opens, and carries what is sent."""
    with uvicorn_connection(feed, basic(issue(feed.door, permissions=["feed"]))) as client:
        client.send("hello")
        assert client.recv(LIMIT) == "hello"


@pytest.mark.parametrize(
    ("authorization", "status", "code"),
    [
        (None, 401, "api_key_missing"),
        ("Basic", 401, "api_key_malformed"),
        ("restricted", 403, "insufficient_permissions"),
    ],
)
def test_a_refused_websocket(feed: Site, authorization: str | None, status: int, code: str) -> None:
    """A refused handshake has the status, the challenges and the body of a refused request (E5)."""
    feed.entered.clear()
    if authorization == "restricted":
        authorization = bearer(issue(feed.door, permissions=["messages"]))
    with pytest.raises(InvalidStatus) as refused, uvicorn_connection(feed, authorization):
        pass
    response = refused.value.response
    assert response.status_code == status
    assert len(response.headers.get_all("WWW-Authenticate")) == (2 if status == 401 else 0)
    assert response.headers["Cache-Control"] == "no-store"
    assert json.loads(response.body or b"")["error"]["code"] == code
    assert feed.entered == []


def test_a_websocket_ends_with_its_key(feed: Site) -> None:
    """A revocation closes an open websocket with 1008 (E9)."""
    token = issue(feed.door)
    (key,) = [
        key
        for space in feed.door.keyring.workspaces()
        for key in feed.door.keyring.keys(space.id)
        if key.tokens[0].id == token.id
    ]
    with uvicorn_connection(feed, basic(token)) as client:
        client.send("hello")
        assert client.recv(LIMIT) == "hello"
        feed.door.keyring.acting("ann").revoke(key.id, because="leaked")
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(LIMIT)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008
