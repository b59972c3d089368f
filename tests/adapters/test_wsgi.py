"""The WSGI middleware alone: PEP 3333 on both sides, paths, addresses, mounts, and the routers behind it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from flask import Flask, request
from hypothesis import example, given
from hypothesis import strategies as st
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.wrappers import Request

from doorkey import FALU, PER_ROUTE, Doorkey, DoorkeyError, Mode, Policy, Principal, Requirement, Rule, TrustedProxies
from doorkey.adapters.wsgi import (
    PRINCIPAL,
    Application,
    DoorkeyMiddleware,
    Environ,
    current_principal,
    route_path,
)
from doorkey.core.declarations import REQUIREMENT
from doorkey.testing import basic, bearer, door, issue

if TYPE_CHECKING:
    from tests.adapters.wire import Answer

POLICY = Policy(
    [
        Rule("GET", "/messages", "messages:read"),
        Rule("GET", "/caffè", "messages:read"),
        Rule.open("GET", "/healthz"),
        Rule.open("GET", "/états"),
        Rule.open("WEBSOCKET", "/pulse"),
    ]
)


def environ(path: str | None = "/messages", authorization: object = None, **fields: str) -> Environ:
    """A request as small as a server may make it."""
    made: Environ = {}
    setup_testing_defaults(made)
    del made["HTTP_HOST"]
    made |= {"QUERY_STRING": "", "wsgi.input": io.BytesIO(), "wsgi.errors": io.StringIO(), "PATH_INFO": path, **fields}
    if path is None:
        del made["PATH_INFO"]
    if authorization is not None:
        made["HTTP_AUTHORIZATION"] = authorization
    return made


class App:
    """An application that notes the environs that it is called with, and answers 200."""

    def __init__(self) -> None:
        self.environs: list[Environ] = []

    def __call__(self, environ: Environ, start_response: Any) -> list[bytes]:
        self.environs.append(environ)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    @property
    def principals(self) -> list[Principal | None]:
        return [environ[PRINCIPAL] for environ in self.environs]


@pytest.fixture
def house() -> Doorkey:
    """A doorkey in memory."""
    return door()


@pytest.fixture
def ask(wire: Any) -> Callable[[Application, Environ], Answer]:
    """Calls an application with an environ."""
    driver: Callable[[Application, Environ], Answer] = wire.over_wsgi
    return driver


@pytest.mark.parametrize("policy", [PER_ROUTE, None, "a policy", lambda environ: None])
def test_what_is_no_policy(house: Doorkey, policy: Any) -> None:
    """Plain WSGI knows no routes: what is no policy is refused, and the message names the way."""
    with pytest.raises(DoorkeyError, match="takes the adapter of a framework"):
        DoorkeyMiddleware(App(), house.verifier, policy=policy)


def reader_of(house: Doorkey) -> str:
    return basic(issue(house, permissions=["messages:read"]))


# PEP 3333


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "DELETE"])
@pytest.mark.parametrize("path", ["/healthz", "/messages"])
@pytest.mark.parametrize("key", ["none", "good", "malformed", "restricted"])
def test_both_sides_conform(house: Doorkey, ask: Any, method: str, path: str, key: str) -> None:
    """Between a validating server and a validating application, nothing happens that PEP 3333 forbids (E14)."""
    authorization = {
        "none": None,
        "good": basic(issue(house)),
        "malformed": "Basic !",
        "restricted": basic(issue(house, permissions=["charges"])),
    }[key]
    app = App()
    middleware = validator(DoorkeyMiddleware(validator(app), house.verifier, policy=POLICY))
    answer = ask(middleware, environ(path, authorization, REQUEST_METHOD=method, SCRIPT_NAME="/v1"))
    assert (answer.status == 200) is bool(app.environs)
    assert answer.status in (200, 401, 403)
    if method == "HEAD" and not app.environs:
        assert answer.body == b""


def test_every_refusal_has_a_status_line(house: Doorkey, table: Any) -> None:
    """A status is three digits, a blank and a phrase, for every status that a refusal can have."""
    lines: list[str] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Callable[[bytes], None]:
        lines.append(status)
        return lambda data: None

    full = table.House(table.PROFILES["default"])
    for store, path, token in (
        ("up", "*", "secret"),
        ("up", "/messages", "revoked"),
        ("up", "/x", "reader"),
        ("down", "/x", "secret"),
    ):
        middleware = DoorkeyMiddleware(App(), full.verifiers[store], policy=POLICY)
        list(middleware(environ(path, basic(full.tokens[token])), start_response))
    assert lines == ["400 Bad Request", "401 Unauthorized", "403 Forbidden", "503 Service Unavailable"]


class Chunks:
    """An iterable that notes whether it was closed."""

    def __init__(self) -> None:
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield b"one"
        yield b"two"

    def close(self) -> None:
        self.closed = True


def test_the_applications_iterable_goes_through(house: Doorkey, ask: Any) -> None:
    """The server gets the application's own iterable, and so closes it, and streams it, or sends its file."""
    chunks = Chunks()

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return chunks

    middleware = DoorkeyMiddleware(app, house.verifier, policy=POLICY)
    assert middleware(environ("/healthz"), lambda *_: None) is chunks
    answer = ask(middleware, environ("/messages", reader_of(house)))
    assert answer.body == b"onetwo"
    assert chunks.closed


def test_the_write_callable(house: Doorkey, ask: Any) -> None:
    """An application may still write in the old way: it gets the server's own start_response."""
    given: list[object] = []

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        given.append(start_response)
        write = start_response("200 OK", [])
        write(b"written, ")
        return [b"returned"]

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Callable[[bytes], None]:
        return lambda data: None

    middleware = DoorkeyMiddleware(app, house.verifier, policy=POLICY)
    middleware(environ("/healthz"), start_response)
    assert given == [start_response]
    assert ask(middleware, environ("/healthz")).body == b"written, returned"


def test_the_body_stays_unread(house: Doorkey, ask: Any) -> None:
    """A refused request's body is not read, and a granted one's is the application's."""

    class Body(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise AssertionError("the body was read")

    middleware = DoorkeyMiddleware(App(), house.verifier, policy=POLICY)
    for authorization, status in ((None, 401), (reader_of(house), 200)):
        made = environ("/messages", authorization)
        made["wsgi.input"] = Body(b"x" * 100)
        assert ask(middleware, made).status == status


@pytest.mark.parametrize("error", [ValueError("mine"), OSError("gone"), SystemExit(1), GeneratorExit()])
def test_what_the_application_raises(house: Doorkey, error: BaseException) -> None:
    """The application's exceptions reach the server."""

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        raise error

    middleware = DoorkeyMiddleware(app, house.verifier, policy=POLICY)
    with pytest.raises(type(error)) as caught:
        middleware(environ("/messages", reader_of(house)), lambda *_: None)
    assert caught.value is error


def test_the_environ_is_the_servers(house: Doorkey, ask: Any) -> None:
    """The application gets the server's environ with principal and requirement, and nothing else is changed (E3)."""
    app = App()
    middleware = DoorkeyMiddleware(app, house.verifier, policy=POLICY)
    token = issue(house)
    made = environ("/messages", bearer(token), REMOTE_USER="ann", HTTP_DOORKEY_PRINCIPAL="admin")
    made[PRINCIPAL] = "admin"
    before = dict(made)
    assert ask(middleware, made).status == 200
    assert app.environs[0] is made
    principal = made[PRINCIPAL]
    assert isinstance(principal, Principal) and principal.token_id == token.id
    assert made == {**before, PRINCIPAL: principal, REQUIREMENT: Requirement("messages:read")}
    ask(middleware, environ("/healthz"))
    assert app.principals == [principal, None]
    assert [current_principal(environ) for environ in app.environs] == app.principals


def test_what_a_policy_leaves_to_others(house: Doorkey, ask: Any) -> None:
    """Outside, nobody is judged: there is no principal, and a view that declares anything is not let in by that."""
    app = App()
    ask(DoorkeyMiddleware(app, house.verifier, policy=Policy(within="/api")), environ("/page"))
    (given,) = app.environs
    assert (given[REQUIREMENT], current_principal(given)) == (PER_ROUTE, None)


def test_a_principal_is_told_of_a_judged_request_alone() -> None:
    """Where nothing has judged a request, asking whom it speaks for is a mistake, and no answer."""
    with pytest.raises(DoorkeyError, match="in front"):
        current_principal(environ() | {PRINCIPAL: None})


def test_a_refused_head_has_no_body(house: Doorkey, ask: Any) -> None:
    """The refusal of a HEAD request is that of GET without its body (RFC 9110 §9.3.2)."""
    middleware = DoorkeyMiddleware(App(), house.verifier, policy=POLICY, request_id=lambda: "req_1")
    get, head = ask(middleware, environ()), ask(middleware, environ(REQUEST_METHOD="HEAD"))
    assert (head.status, head.headers, head.body) == (get.status, get.headers, b"")
    assert b'"req_1"' in get.body


def test_a_script_gets_no_password_window(house: Doorkey, ask: Any) -> None:
    """A browser's script is challenged with Bearer alone (A16)."""
    middleware = DoorkeyMiddleware(App(), house.verifier, policy=POLICY)
    for made in (environ(HTTP_ORIGIN="null"), environ(HTTP_SEC_FETCH_MODE="cors")):
        challenges = [value for name, value in ask(middleware, made).headers if name == "www-authenticate"]
        assert challenges == ['Bearer realm="API"']


def test_refusals_are_those_of_the_profile(ask: Any) -> None:
    """The form of a refusal is that of the verifier's profile."""
    middleware = DoorkeyMiddleware(App(), door(profile=FALU).verifier, policy=POLICY)
    assert dict(ask(middleware, environ()).headers)["content-type"] == "application/problem+json"


def test_options_are_a_request(house: Doorkey, ask: Any) -> None:
    """OPTIONS and preflights need a key like everything else: what answers them stands outside (E8)."""
    app = App()
    middleware = DoorkeyMiddleware(app, house.verifier, policy=POLICY)
    preflight = {"HTTP_ORIGIN": "https://shop.example", "HTTP_ACCESS_CONTROL_REQUEST_METHOD": "GET"}
    for path in ("/messages", "/healthz", "/"):
        assert ask(middleware, environ(path, REQUEST_METHOD="OPTIONS")).status == 401
        assert ask(middleware, environ(path, REQUEST_METHOD="OPTIONS", **preflight)).status == 401
    assert ask(middleware, environ("*", REQUEST_METHOD="OPTIONS")).status == 400
    assert app.environs == []


def test_a_method_that_is_called_like_a_handshake(house: Doorkey, ask: Any) -> None:
    """A request may have any method (RFC 9110 §9.1): WEBSOCKET opens nothing that is open to handshakes alone."""
    app = App()
    middleware = DoorkeyMiddleware(app, house.verifier, policy=POLICY)
    assert ask(middleware, environ("/pulse", REQUEST_METHOD="WEBSOCKET")).status == 401
    assert app.environs == []


# Paths


@given(path=st.binary(max_size=12))
@example(path="/caffè".encode())
@example(path=b"/\xff")
@example(path=b"/\xc3")
def test_the_path_is_the_routers_own(path: bytes) -> None:
    """Werkzeug's router and the policy see the same path, but for slashes at its start, which Werkzeug makes one."""
    text = path.decode("latin-1")
    seen = route_path(environ(text))
    assert "/" + seen.lstrip("/") == Request(environ(text)).path


def test_no_path_at_all(house: Doorkey, ask: Any) -> None:
    """An environ without PATH_INFO, or with an empty one, is nobody's open path."""
    app = App()
    middleware = DoorkeyMiddleware(app, house.verifier, policy=Policy([Rule.open("GET", "/")]))
    assert ask(middleware, environ(None)).status == 401
    assert ask(middleware, environ("")).status == 401
    assert app.environs == []
    assert ask(middleware, environ("/")).status == 200


def test_paths_beyond_ascii(house: Doorkey, ask: Any) -> None:
    """A path is the UTF-8 that its octets are; octets that are none match no rule, whatever they are in Latin-1."""
    reader, app = reader_of(house), App()
    middleware = DoorkeyMiddleware(app, house.verifier, policy=POLICY)
    utf8, latin1 = "/caffè".encode().decode("latin-1"), "/caffè"
    assert ask(middleware, environ(utf8, reader)).status == 200
    assert ask(middleware, environ(latin1, reader)).status == 403
    assert ask(middleware, environ("/états".encode().decode("latin-1"))).status == 200
    assert ask(middleware, environ("/états")).status == 401
    assert ask(middleware, environ("/\u2603", reader)).status == 403


def test_what_is_no_path(house: Doorkey, ask: Any) -> None:
    """A target that does not begin with a slash is a client's error, with a good key too (E2)."""
    app = App()
    middleware = DoorkeyMiddleware(app, house.verifier, policy=POLICY)
    assert ask(middleware, environ("http://h/healthz", basic(issue(house)))).status == 400
    assert app.environs == []


# Addresses


def test_the_client_address(house: Doorkey, ask: Any) -> None:
    """The peer's address is judged, or, if it is a trusted proxy's, the one that the proxy names."""
    token = basic(issue(house, networks=["203.0.113.0/24"]))
    direct = DoorkeyMiddleware(App(), house.verifier, policy=POLICY)
    behind = DoorkeyMiddleware(App(), house.verifier, policy=POLICY, trusted_proxies=TrustedProxies(["10.0.0.1"]))

    def status(middleware: DoorkeyMiddleware, **fields: str) -> int:
        code: int = ask(middleware, environ("/messages", token, **fields)).status
        return code

    assert status(direct, REMOTE_ADDR="203.0.113.7") == 200
    assert status(direct, REMOTE_ADDR="10.0.0.1", HTTP_X_FORWARDED_FOR="203.0.113.7") == 403
    assert status(direct) == status(direct, REMOTE_ADDR="") == 403
    assert status(behind, REMOTE_ADDR="10.0.0.1", HTTP_X_FORWARDED_FOR="203.0.113.7") == 200
    assert status(behind, REMOTE_ADDR="10.0.0.1", HTTP_X_FORWARDED_FOR="203.0.113.7, 198.51.100.9") == 403
    assert status(behind, REMOTE_ADDR="10.0.0.1", HTTP_X_FORWARDED_FOR="\u2603") == 403
    assert status(behind, REMOTE_ADDR="10.0.0.1") == 403
    assert status(behind, REMOTE_ADDR="203.0.113.7") == 200
    assert status(behind) == 403


@pytest.mark.parametrize("peer", [{}, {"REMOTE_ADDR": ""}])
def test_a_unix_socket(house: Doorkey, ask: Any, peer: dict[str, str]) -> None:
    """On a Unix socket, which gives no address, a proxy's word counts where that was said, and only there (D11)."""
    token = basic(issue(house, networks=["203.0.113.0/24"]))
    sockets = TrustedProxies([], header="X-Real-IP", unix_socket=True)
    trusting = DoorkeyMiddleware(App(), house.verifier, policy=POLICY, trusted_proxies=sockets)
    assert ask(trusting, environ("/messages", token, HTTP_X_REAL_IP="203.0.113.7", **peer)).status == 200
    assert ask(trusting, environ("/messages", token, HTTP_X_REAL_IP="198.51.100.9", **peer)).status == 403
    assert ask(trusting, environ("/messages", token, **peer)).status == 403
    wary = DoorkeyMiddleware(App(), house.verifier, policy=POLICY, trusted_proxies=TrustedProxies(["10.0.0.1"]))
    assert ask(wary, environ("/messages", token, HTTP_X_FORWARDED_FOR="203.0.113.7", **peer)).status == 403


# Routers behind the middleware


def flask_site(notes: list[str]) -> Flask:
    site = Flask("site")

    def view(name: str) -> Callable[..., str]:
        def called(rest: str = "") -> str:
            notes.append(name)
            principal = request.environ[PRINCIPAL]
            return str(principal and principal.token_id)

        called.__name__ = f"{name}_{len(site.view_functions)}"
        return called

    for rule, name in (
        ("/healthz", "healthz"),
        ("/admin", "admin"),
        ("/admin/<path:rest>", "admin"),
        ("/about", "about"),
    ):
        site.add_url_rule(rule, view_func=view(name))
    return site


def test_no_target_reaches_what_is_closed(house: Doorkey, table: Any, wire: Any) -> None:
    """Without a key, no disguise of a path gets past the middleware: what is open is so in its one spelling (E2)."""
    notes: list[str] = []
    app = App()
    for inner in (app, flask_site(notes)):
        middleware = DoorkeyMiddleware(inner, house.verifier, policy=Policy([Rule.open("GET", "/healthz")]))
        for target in table.TARGETS:
            made = wire.environ_of(table.Row(target, target=target), {})
            assert (wire.over_wsgi(middleware, made).status == 200) is (made["PATH_INFO"] == "/healthz"), target
    assert {made["PATH_INFO"] for made in app.environs} == {"/healthz"}
    assert set(notes) == {"healthz"}


def test_no_target_slips_into_what_lies_within(house: Doorkey, table: Any, wire: Any) -> None:
    """Of a site whose API alone needs keys, no disguise of a path reaches the API, whatever the router makes of it."""
    notes: list[str] = []
    middleware = DoorkeyMiddleware(flask_site(notes), house.verifier, policy=Policy(within="/admin"))
    for target in (*table.TARGETS, "/about"):
        wire.over_wsgi(middleware, wire.environ_of(table.Row(target, target=target), {}))
    assert set(notes) == {"healthz", "about"}


@pytest.mark.parametrize("inside", [True, False], ids=["mounted", "around the mounts"])
def test_mounts(house: Doorkey, ask: Any, inside: bool) -> None:
    """A mounted application sees the same rules; one that stands around the mounts judges whole paths (E7)."""
    app, token = App(), reader_of(house)

    def protect(application: Application, prefix: str) -> DoorkeyMiddleware:
        policy = Policy([Rule("GET", f"{prefix}/messages", "messages:read"), Rule.open("GET", f"{prefix}/healthz")])
        return DoorkeyMiddleware(application, house.verifier, policy=policy)

    mounts: Any = {"/v1": protect(app, "") if inside else app}
    site: Any = DispatcherMiddleware(protect(app, ""), mounts)
    site = site if inside else protect(site, "/v1")
    assert ask(site, environ("/v1/messages", token)).status == 200
    assert ask(site, environ("/v1/messages")).status == 401
    assert ask(site, environ("/v1/healthz")).status == 200
    assert ask(site, environ("/v1")).status == 401
    assert ask(site, environ("/v1/v1/healthz")).status == 401
    assert ask(site, environ("/v10/healthz")).status == 401
    assert ask(site, environ("//v1/healthz")).status == 401
    assert [made["SCRIPT_NAME"] for made in app.environs] == ["/v1", "/v1"]


def test_two_middlewares(house: Doorkey, ask: Any) -> None:
    """Where one stands inside another, both judge, and the application sees what the inner one found."""
    app, other = App(), door()
    inner = DoorkeyMiddleware(app, other.verifier, policy=POLICY)
    outer = DoorkeyMiddleware(inner, house.verifier, policy=POLICY)
    assert ask(outer, environ("/messages", basic(issue(house)))).status == 401
    assert ask(outer, environ("/messages", basic(issue(other)))).status == 401
    assert ask(outer, environ("/healthz")).status == 200
    assert app.principals == [None]


def test_the_wrong_verifier_is_refused_when_built(house: Doorkey) -> None:
    """An asynchronous verifier is of no use here, and that is said before the first request."""
    with pytest.raises(DoorkeyError, match=r"door\.verifier"):
        DoorkeyMiddleware(App(), house.async_verifier, policy=POLICY)  # type: ignore[arg-type]


def test_a_handshake_is_for_whoever_may_have_the_socket(house: Doorkey) -> None:
    """Werkzeug routes a GET with these fields to the view of a websocket: a rule for GET says nothing of that."""
    upgrade = {"HTTP_CONNECTION": "Upgrade", "HTTP_UPGRADE": "WebSocket"}
    rules = [Rule.open("GET", "/feed"), Rule("WEBSOCKET", "/feed", mode=Mode.LIVE), Rule.open("GET", "/pulse")]
    entered: list[str] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        entered.append(environ["PATH_INFO"])
        start_response("200 OK", [])
        return [b""]

    middleware = DoorkeyMiddleware(app, house.verifier, policy=Policy(rules))
    for path, fields in (("/feed", {}), ("/feed", upgrade), ("/pulse", upgrade)):
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "REMOTE_ADDR": "127.0.0.1", **fields}
        b"".join(middleware(environ, lambda *_: lambda _: None))
    assert entered == ["/feed", "/pulse"]
