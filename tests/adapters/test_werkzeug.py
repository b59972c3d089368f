"""The Werkzeug adapter: the dispatcher and its views, mounts, and what it shares with Flask and Quart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from random import Random
from types import SimpleNamespace
from typing import Any, cast
from wsgiref.validate import validator

import pytest
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.routing import Map, Rule
from werkzeug.test import Client, TestResponse
from werkzeug.wrappers import Request, Response

from doorkey import OPEN, PER_ROUTE, Doorkey, KeyType, Mode, Policy, Principal, Requirement, TrustedProxies, Verifier
from doorkey import Rule as PolicyRule
from doorkey.adapters import wsgi
from doorkey.adapters.werkzeug import (
    Dispatcher,
    DoorkeyMiddleware,
    Views,
    assert_protected,
    current_principal,
    guarded,
    requires,
)
from doorkey.core.declarations import ELSEWHERE, REQUIREMENT
from doorkey.core.errors import ConfigurationError, InvalidPolicy, StoreUnavailable
from doorkey.testing import basic, bearer, door, issue


@pytest.fixture
def house() -> Doorkey:
    """A doorkey in memory."""
    return door()


@requires("messages:read")
def message(request: Request, id: int) -> Response:
    principal = current_principal(request)
    assert principal is not None
    return Response(f"{id} for {principal.token_id}")


@requires(OPEN)
def healthz(request: Request) -> Response:
    return Response(f"principal: {current_principal(request)}")


def forgotten(request: Request) -> Response:
    raise AssertionError("nobody may come here")


@requires()
def missing(request: Request) -> Response:
    raise NotFound("mine")


URLS = [
    Rule("/messages/<int:id>", methods=["GET"], endpoint=message),
    Rule("/healthz", methods=["GET"], endpoint=healthz),
    Rule("/forgotten", endpoint=forgotten),
    Rule("/missing", methods=["GET"], endpoint=missing),
    Rule("/folder/", methods=["GET"], endpoint=healthz),
]


def dispatcher(house: Doorkey, **arguments: Any) -> Dispatcher:
    """One whose endpoints are the views."""
    return Dispatcher(Map([rule.empty() for rule in URLS]), house.verifier, **arguments)


def ask(app: Any, path: str, authorization: str | None = None, method: str = "GET", **fields: Any) -> TestResponse:
    """A response."""
    headers = fields.pop("headers", {}) | ({"Authorization": authorization} if authorization else {})
    return Client(app).open(path, method=method, headers=headers, **fields)


def code(response: TestResponse) -> str:
    """That of a refusal; the status of another response."""
    return response.json["error"]["code"] if response.is_json and response.json else str(response.status_code)


def unrestricted(house: Doorkey) -> str:
    return basic(issue(house))


def reader(house: Doorkey) -> str:
    return basic(issue(house, permissions=["messages:read"]))


# The dispatcher


def test_a_view_is_called_for_whoever_may(house: Doorkey) -> None:
    """A key that suffices reaches the view, with the values of the path; any other is refused."""
    app, token = dispatcher(house), issue(house, permissions=["messages:read"])
    assert ask(app, "/messages/7", bearer(token)).text == f"7 for {token.id}"
    assert code(ask(app, "/messages/7")) == "api_key_missing"
    assert code(ask(app, "/messages/7", basic(issue(house, permissions=["charges"])))) == "insufficient_permissions"
    for authorization in (None, unrestricted(house), "Basic !"):
        assert ask(app, "/healthz", authorization).text == "principal: None"


def test_head_follows_get(house: Doorkey) -> None:
    """HEAD is judged as GET is, and its refusal has no body (E8)."""
    app = dispatcher(house)
    assert ask(app, "/messages/7", reader(house), "HEAD").status_code == 200
    refused = ask(app, "/messages/7", method="HEAD")
    assert (refused.status_code, refused.data) == (401, b"")


@pytest.mark.parametrize("key", ["none", "reader"])
def test_no_endpoint(house: Doorkey, key: str) -> None:
    """Where there is no endpoint, strangers learn nothing: no 404, 405 or redirect; whoever may do all does."""
    app = dispatcher(house)
    asked = [("GET", "/none"), ("POST", "/messages/7"), ("GET", "/folder"), ("OPTIONS", "/healthz"), ("GET", "/a//b")]
    sent = reader(house) if key == "reader" else None
    expected = "insufficient_permissions" if sent else "api_key_missing"
    assert {code(ask(app, path, sent, method)) for method, path in asked} == {expected}
    may = [ask(app, path, unrestricted(house), method).status_code for method, path in asked]
    assert may == [404, 405, 308, 405, 404]


def test_an_exception_of_http_is_a_response(house: Doorkey) -> None:
    """A view may raise one, as Werkzeug's views do; other exceptions reach the server."""
    app = dispatcher(house)
    response = ask(app, "/missing", unrestricted(house))
    assert (response.status_code, "mine" in response.text) == (404, True)

    @requires(OPEN)
    def broken(request: Request) -> Response:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask(Dispatcher(Map([Rule("/", endpoint=broken)]), house.verifier), "/")


def test_what_declares_nothing_is_closed(house: Doorkey, caplog: pytest.LogCaptureFixture) -> None:
    """A view without a declaration is closed to everybody, for any method, and named once (E4)."""
    app = dispatcher(house)
    with caplog.at_level(logging.WARNING, "doorkey"):
        for method in ("GET", "HEAD", "POST", "BREW", "OPTIONS"):
            assert ask(app, "/forgotten", None, method).status_code == 401
            assert ask(app, "/forgotten", unrestricted(house), method).status_code == 403
    assert code(ask(app, "/forgotten", unrestricted(house))) == "operation_undeclared"
    assert len(caplog.records) == 1
    assert "/forgotten" in caplog.text


def test_views_by_name(house: Doorkey) -> None:
    """Endpoints may be names: of a table of views, or of what a function finds, such as the methods of an object."""

    class Site:
        @requires("messages:read")
        def on_index(self, request: Request) -> Response:
            return Response("index")

        def find(self, endpoint: str) -> Any:
            return getattr(self, f"on_{endpoint}", None)

    def urls() -> Map:
        return Map([Rule("/", endpoint="index"), Rule("/none", endpoint="none")])

    for views in (Site().find, {"index": Site().on_index}):
        app = Dispatcher(urls(), house.verifier, views=views)
        assert ask(app, "/", reader(house)).text == "index"
        assert code(ask(app, "/")) == "api_key_missing"
        assert code(ask(app, "/none", unrestricted(house))) == "operation_undeclared"
    nameless = Dispatcher(urls(), house.verifier)
    assert code(ask(nameless, "/", unrestricted(house))) == "operation_undeclared"


def test_subdomains_and_hosts(house: Doorkey) -> None:
    """A view is found by the whole of a request, and a host that lies finds nothing."""
    app = Dispatcher(
        Map([Rule("/", subdomain="api", endpoint=requires()(forgotten)), Rule("/", subdomain="www", endpoint=healthz)]),
        house.verifier,
        server_name="example.com",
    )
    assert ask(app, "/", base_url="http://www.example.com").status_code == 200
    assert code(ask(app, "/", base_url="http://api.example.com")) == "api_key_missing"
    assert code(ask(app, "/", base_url="http://example.com")) == "api_key_missing"
    with pytest.warns(UserWarning, match="doesn't match"):
        assert code(ask(app, "/", headers={"Host": "www.example.com/?x="})) == "api_key_missing"


def test_a_websocket_rule(house: Doorkey) -> None:
    """A rule for websockets is an endpoint like others (E5)."""
    app = Dispatcher(Map([Rule("/feed/<int:id>", websocket=True, endpoint=message)]), house.verifier)
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
    assert ask(app, "/feed/1", headers=upgrade).status_code == 401
    assert ask(app, "/feed/1", headers=upgrade, authorization=reader(house)).status_code == 200
    assert code(ask(app, "/feed/1", reader(house))) == "insufficient_permissions"
    with pytest.raises(AssertionError, match="WEBSOCKET /x is open"):
        assert_protected(Dispatcher(Map([Rule("/x", websocket=True, endpoint=healthz)]), house.verifier))


def test_any_wsgi_application_as_response(house: Doorkey) -> None:
    """A view may hand a request over to a foreign application, which is then reached by whoever the view admits."""

    def foreign(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"foreign"]

    view = requires("metrics:read")(lambda request: foreign)
    app = Dispatcher(Map([Rule("/metrics", methods=["GET"], endpoint=view)]), house.verifier)
    assert ask(app, "/metrics", unrestricted(house)).text == "foreign"
    assert code(ask(app, "/metrics", reader(house))) == "insufficient_permissions"
    assert_protected(app)


def test_both_sides_conform(house: Doorkey) -> None:
    """A validating server finds nothing wrong (E14)."""
    app = validator(dispatcher(house))
    for path in ("/messages/7", "/healthz", "/none", "/missing"):
        for key in (None, unrestricted(house)):
            for method in ("GET", "HEAD", "POST"):
                with ask(app, path, key, method) as response:
                    assert response.status_code in (200, 401, 404, 405)


def test_the_client_address_and_the_request_id(house: Doorkey) -> None:
    """Trusted proxies and the maker of request ids count."""
    app = dispatcher(house, trusted_proxies=TrustedProxies(["127.0.0.1"]), request_id=lambda: "req_mine")
    sent = {"Authorization": basic(issue(house, networks=["203.0.113.0/24"]))}
    peer = {"environ_base": {"REMOTE_ADDR": "127.0.0.1"}}
    client = Client(app)
    assert client.get("/messages/1", headers={**sent, "X-Forwarded-For": "203.0.113.7"}, **peer).status_code == 200
    refused = client.get("/messages/1", headers={**sent, "X-Forwarded-For": "198.51.100.9"}, **peer)
    assert (code(refused), refused.headers["Request-Id"]) == ("network_not_allowed", "req_mine")


def test_a_store_that_is_down(house: Doorkey) -> None:
    """Where no verdict can be reached nobody is let in, and the client is asked to come back (F12)."""

    class Down:
        def find(self, digests: object) -> None:
            raise StoreUnavailable("the disk is gone")

    app = Dispatcher(Map([Rule("/", endpoint=requires()(forgotten))]), Verifier(Down(), house.secrets.digester()))
    response = ask(app, "/", unrestricted(house))
    assert (response.status_code, "Retry-After" in response.headers) == (503, True)


def test_a_thousand_requests_at_once(house: Doorkey) -> None:
    """Among a thousand concurrent requests each view sees the principal of its own key, and no other (E12)."""

    @requires(Requirement.ANY_KEY)
    def who(request: Request) -> Response:
        principal = current_principal(request)
        return Response("" if principal is None else principal.token_id)

    app = Dispatcher(Map([Rule("/", endpoint=who)]), house.verifier)
    tokens = [issue(house, type=type, mode=mode) for type in KeyType for mode in Mode for _ in range(5)]
    chance = Random(1)
    wanted = [chance.choice(tokens) for _ in range(1000)]
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda token: ask(app, "/", bearer(token)).text, wanted))
    assert answers == [token.id for token in wanted]


def test_no_target_slips_in(house: Doorkey, table: Any, wire: Any) -> None:
    """Whatever the router makes of a target in disguise, without a key it reaches the one open view alone (E1, E2)."""
    entered: list[str] = []

    def enter(request: Request, **values: str) -> Response:
        entered.append(request.path)
        return Response("entered")

    closed = requires()(enter)
    urls = [Rule("/healthz", endpoint=requires(OPEN)(enter)), Rule("/healthz/<path:rest>", endpoint=enter)]
    urls += [Rule(path, endpoint=closed) for path in ("/admin", "/admin/<path:rest>", "/<path:rest>")]
    app = Dispatcher(Map(urls), house.verifier)
    for target in table.TARGETS:
        answer = wire.over_wsgi(app, wire.environ_of(table.Row(target, target=target), {}))
        assert answer.status == (200 if entered else 400 if answer.status == 400 else 401), target
        assert set(entered) <= {"/healthz"}
        entered.clear()


# Views


def test_a_view_makes_sure_that_it_was_judged(house: Doorkey) -> None:
    """Called by another way, or without a request, a view stays closed; so does one whose dispatcher was forgotten."""
    app, without_request = Request.application(healthz), cast(Any, message)
    with pytest.raises(ConfigurationError, match="PER_ROUTE"):
        ask(app, "/healthz")
    with pytest.raises(ConfigurationError, match="PER_ROUTE"):
        ask(DoorkeyMiddleware(app, house.verifier, policy=Policy()), "/healthz", unrestricted(house))
    with pytest.raises(ConfigurationError, match="PER_ROUTE"):
        without_request(id=7)
    with pytest.raises(ConfigurationError, match="in front"):
        current_principal(Request({}))


def test_an_asynchronous_view_is_guarded_alike() -> None:
    """A guarded coroutine function is one still, and makes sure first."""

    async def later(scope: Mapping[str, Any]) -> str:
        return "later"

    needed = Requirement("messages:read")
    view: Callable[..., Any] = guarded(later, needed, lambda scope: scope)
    assert asyncio.iscoroutinefunction(view)
    assert asyncio.run(view({REQUIREMENT: needed})) == "later"
    with pytest.raises(ConfigurationError):
        asyncio.run(view({REQUIREMENT: Requirement("messages:write")}))


def test_a_class_that_is_no_view() -> None:
    """What has no place for a decorator is refused where it is decorated."""

    class Anything: ...

    with pytest.raises(InvalidPolicy, match="is no class of views"):
        requires("messages:read")(Anything)


def test_classes_that_list_their_decorators() -> None:
    """A class of Flask's or Quart's kind gets one decorator more, in a list of its own."""

    class Base:
        decorators: Any = ()

    class Kind(Base):
        pass

    assert requires("messages:read")(Kind) is Kind
    assert (len(Kind.decorators), Base.decorators) == (1, ())


def test_the_methods_of_a_class(caplog: pytest.LogCaptureFixture) -> None:
    """What a view of methods requires is what the method declares; HEAD follows GET unless it has a method itself."""
    needs = {name: Requirement(f"messages:{name}") for name in ("get", "post", "head")}
    methods = {name: requires(needed)(lambda request: None) for name, needed in needs.items()}
    own = SimpleNamespace(view_class=SimpleNamespace(**methods))
    without = SimpleNamespace(view_class=SimpleNamespace(get=methods["get"], put=lambda request: None))
    rule = Rule("/", endpoint="view")
    asked = ("GET", "HEAD", "POST", "PUT")
    views = Views({"view": own}.get)
    assert [views.required(rule, method) for method in asked] == [
        *(needs["get"], needs["head"], needs["post"], Requirement.NOBODY)
    ]
    views = Views({"view": without}.get)
    assert [views.required(rule, method) for method in asked] == [
        *(needs["get"], needs["get"], Requirement.NOBODY, Requirement.NOBODY)
    ]


def test_head_is_named_where_it_does_not_follow_get() -> None:
    """A method of a class that is open to HEAD alone is named as such (E4)."""
    methods = {"get": requires("messages:read")(forgotten), "head": requires(OPEN)(forgotten)}
    view = SimpleNamespace(view_class=SimpleNamespace(**methods))
    rules = [Rule("/", endpoint="view", methods=["GET"])]
    site = SimpleNamespace(url_map=Map(rules), extensions={"doorkey": Views({"view": view}.get)})
    with pytest.raises(AssertionError, match=r"^HEAD / is open"):
        assert_protected(site)


def test_options_that_a_framework_answers() -> None:
    """Where Flask or Quart says of a rule that it answers OPTIONS by itself, that is no operation of a view."""
    rule = Rule("/", endpoint="view", methods=["GET", "OPTIONS"])
    views = Views({"view": healthz}.get)
    site = SimpleNamespace(url_map=Map([rule]), extensions={"doorkey": views})
    assert views.required(rule, "OPTIONS") is None
    assert_protected(site, open=["GET /", "OPTIONS /"])
    rule.provide_automatic_options = True  # type: ignore[attr-defined]
    assert views.required(rule, "OPTIONS") is ELSEWHERE
    assert_protected(site, open=["GET /"])


# Mounts


def test_mounted_under_a_dispatcher_of_prefixes(house: Doorkey) -> None:
    """Under a prefix, each application judges its own paths, and what stands beside them is named in a test (E7)."""
    foreign = Request.application(forgotten)
    whole = Policy([PolicyRule.open("GET", "/open")])
    app = DispatcherMiddleware(
        dispatcher(house),
        {
            "/v2": dispatcher(house),
            "/foreign": foreign,
            "/old": DoorkeyMiddleware(foreign, house.verifier, policy=whole),
        },
    )
    for prefix in ("", "/v2"):
        assert ask(app, f"{prefix}/messages/7", reader(house)).text.startswith("7 for ")
        assert code(ask(app, f"{prefix}/messages/7")) == code(ask(app, f"{prefix}/none")) == "api_key_missing"
    assert code(ask(app, "/old/")) == "api_key_missing"
    assert ask(app, "/v2/folder", unrestricted(house)).location == "http://localhost/v2/folder/"
    with pytest.raises(AssertionError) as caught:
        assert_protected(app, open=["GET /v2/healthz", "GET /v2/folder/", "GET /healthz", "GET /folder/"])
    assert str(caught.value) == (
        "* /v2/forgotten declares nothing; * /foreign declares nothing; * /forgotten declares nothing"
    )


def test_a_policy_before_a_dispatcher_of_prefixes(house: Doorkey) -> None:
    """A policy sees whole paths, whatever is mounted where behind it; what no rule describes is named in a test."""

    class Site:
        url_map = Map([Rule("/<int:id>", methods=["GET", "PUT"], endpoint="message"), Rule("/", endpoint="index")])

        def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
            return Response(environ[wsgi.PRINCIPAL].key)(environ, start_response)

        def wsgi_app(self, environ: Any, start_response: Any) -> Iterable[bytes]:
            return self(environ, start_response)

    policy = Policy([PolicyRule("GET", "/messages/{id}", "messages:read")])
    app = DoorkeyMiddleware(DispatcherMiddleware(Site(), {"/messages": Site()}), house.verifier, policy=policy)
    assert ask(app, "/messages/7", reader(house)).text.startswith("key_")
    assert code(ask(app, "/messages/7", reader(house), "PUT")) == "insufficient_permissions"
    assert code(ask(app, "/7", reader(house))) == "insufficient_permissions"
    with pytest.raises(AssertionError) as caught:
        assert_protected(app)
    assert str(caught.value) == (
        "PUT /messages/<int:id> declares nothing; * /messages/ declares nothing; GET /<int:id> declares nothing; "
        "PUT /<int:id> declares nothing; * / declares nothing"
    )


def test_what_a_test_cannot_look_at(house: Doorkey) -> None:
    """An application without a URL map is named if it is bare; behind a policy there must be one to look at."""
    app = Request.application(forgotten)
    with pytest.raises(AssertionError, match=r"^\* / declares nothing$"):
        assert_protected(app)
    with pytest.raises(ConfigurationError, match="no route"):
        assert_protected(DoorkeyMiddleware(app, house.verifier, policy=Policy()))
    with pytest.raises(AssertionError, match=r"^GET / declares nothing$"):
        assert_protected(SimpleNamespace(url_map=Map([Rule("/", methods=["GET"], endpoint=message)])))


def test_the_middleware_takes_a_policy(house: Doorkey) -> None:
    """It is the plain one: per route, the dispatcher judges."""
    assert DoorkeyMiddleware is wsgi.DoorkeyMiddleware
    with pytest.raises(ConfigurationError, match="per route"):
        DoorkeyMiddleware(dispatcher(house), house.verifier, policy=PER_ROUTE)  # type: ignore[arg-type]


def test_a_principal_is_one(house: Doorkey) -> None:
    """What a view is told is the principal itself."""
    seen: list[Principal | None] = []

    @requires("messages:read")
    def view(request: Request) -> HTTPException:
        seen.append(current_principal(request))
        return NotFound()

    ask(Dispatcher(Map([Rule("/", endpoint=view)]), house.verifier), "/", unrestricted(house))
    assert isinstance(seen[0], Principal)
