"""The middleware for Starlette and its decorator: every kind of endpoint, and whatever might reach one unjudged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from doorkey import OPEN, PER_ROUTE, AsyncVerifier, Doorkey, DoorkeyError, KeyType, Mode, Policy, Requirement, Rule
from doorkey.adapters import asgi
from doorkey.adapters.starlette import DoorkeyMiddleware, assert_protected, current_principal, requires
from doorkey.core.errors import ConfigurationError, StoreUnavailable
from doorkey.storage.aio import Inline
from doorkey.testing import basic, door, issue
from tests.adapters import wire
from tests.adapters.asking import ask, crowd, verdict
from tests.adapters.table import Failing


@pytest.fixture
def house() -> Doorkey:
    """A doorkey in memory."""
    return door()


def protected(house: Doorkey, *routes: BaseRoute, **given: Any) -> Starlette:
    """An application whose endpoints declare for themselves."""
    middleware = Middleware(DoorkeyMiddleware, verifier=house.async_verifier, policy=PER_ROUTE)
    return Starlette(routes=routes, middleware=[middleware], **given)


def who(connection: HTTPConnection) -> str:
    principal = current_principal(connection)
    return "nobody" if principal is None else principal.token_id


@requires("messages:read")
async def messages(request: Request) -> Response:
    return PlainTextResponse(who(request))


@requires("messages:write")
def post(request: Request) -> Response:
    return PlainTextResponse(who(request))


@requires(OPEN)
async def healthz(request: Request) -> Response:
    return PlainTextResponse(who(request))


async def bare(request: Request) -> Response:
    raise AssertionError("an endpoint without declaration was called")


@requires("messages:read")
async def feed(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(who(websocket))


# Endpoints of every kind


def test_functions(house: Doorkey) -> None:
    """Asynchronous and synchronous ones: permissions, publishable keys, one mode, any key, and open."""

    @requires("tokens:create", publishable=True)
    async def tokens(request: Request) -> Response:
        return PlainTextResponse(who(request))

    @requires((), mode=Mode.LIVE)
    async def payouts(request: Request) -> Response:
        return PlainTextResponse(who(request))

    @requires(Requirement.ANY_KEY)
    async def ping(request: Request) -> Response:
        return PlainTextResponse(who(request))

    app = protected(
        house,
        Route("/messages", messages),
        Route("/messages", post, methods=["POST"]),
        Route("/tokens", tokens),
        Route("/payouts", payouts),
        Route("/ping", ping),
        Route("/healthz", healthz),
    )
    reader = issue(house, permissions=["messages:read"])
    publishable, live = issue(house, type=KeyType.PUBLISHABLE), issue(house, mode=Mode.LIVE)
    assert ask(app, "/messages", reader).body.decode() == reader.id
    assert verdict(app, "/messages", reader, method="POST") == "insufficient_permissions"
    assert verdict(app, "/messages", live, method="POST") == 200
    assert ask(app, "/tokens", publishable).body.decode() == publishable.id
    assert verdict(app, "/payouts", issue(house)) == "livemode_mismatch"
    assert ask(app, "/payouts", live).body.decode() == live.id
    assert [verdict(app, "/ping", token) for token in (reader, publishable, live)] == [200, 200, 200]
    assert ask(app, "/healthz").body == b"nobody"
    assert ask(app, "/healthz", reader).body == b"nobody"


def test_methods_and_partials(house: Doorkey) -> None:
    """A bound method declares as the function does, and so does a function some of whose arguments are given."""

    class Service:
        @requires("messages:read")
        async def answer(self, request: Request) -> Response:
            return PlainTextResponse(who(request))

    def greeted(greeting: str, request: Request) -> Response:
        return PlainTextResponse(greeting + who(request))

    app = protected(
        house,
        Route("/method", Service().answer),
        Route("/declared", partial(requires("messages:read")(greeted), "hello ")),
        Route("/partial", requires("messages:read")(partial(greeted, "hello "))),
    )
    token = issue(house, permissions=["messages:read"])
    for path in ("/method", "/declared", "/partial"):
        assert ask(app, path, token).body.decode().endswith(token.id)
        assert verdict(app, path) == "api_key_missing"


def test_the_request_may_come_by_name(house: Doorkey) -> None:
    """Whoever wraps an endpoint may call it with keywords."""

    async def named(request: Request) -> Response:
        response: Response = await messages(request=request)
        return response

    app = DoorkeyMiddleware(Router([Route("/m", named)]), house.async_verifier, policy=PER_ROUTE)
    assert verdict(app, "/m", issue(house)) == "operation_undeclared"


class Items(HTTPEndpoint):
    @requires("items:read")
    async def get(self, request: Request) -> Response:
        return PlainTextResponse(who(request))

    async def post(self, request: Request) -> Response:
        raise AssertionError("an endpoint without declaration was called")


@requires("items:read")
class Whole(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse(who(request))

    @requires("items:write")
    def delete(self, request: Request) -> Response:
        return PlainTextResponse(who(request))


@requires("feed:read")
class Feed(WebSocketEndpoint):
    async def on_connect(self, websocket: WebSocket) -> None:
        await websocket.accept()


class Pulse(WebSocketEndpoint):
    @requires(OPEN)
    async def on_connect(self, websocket: WebSocket) -> None:
        await websocket.accept()


class Silent(WebSocketEndpoint):
    async def on_connect(self, websocket: WebSocket) -> None:
        raise AssertionError("an endpoint without declaration was called")


class Inherited(Whole):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("inherited")


def test_classes(house: Doorkey) -> None:
    """A class declares as a whole, or method by method; a method without declaration is closed."""
    app = protected(
        house,
        Route("/items", Items),
        Route("/whole", Whole),
        Route("/inherited", Inherited),
        WebSocketRoute("/feed", Feed),
        WebSocketRoute("/pulse", Pulse),
        WebSocketRoute("/silent", Silent),
    )
    reader, everything = issue(house, permissions=["items:read", "feed:read"]), issue(house)
    assert ask(app, "/items", reader).body.decode() == reader.id
    assert verdict(app, "/items", everything, method="POST") == "operation_undeclared"
    assert ask(app, "/whole", reader).body.decode() == reader.id
    assert verdict(app, "/whole", reader, method="HEAD") == 200
    assert verdict(app, "/whole", reader, method="DELETE") == "insufficient_permissions"
    assert verdict(app, "/whole", everything, method="DELETE") == 200
    assert verdict(app, "/whole", reader, method="PUT") == "insufficient_permissions"
    assert verdict(app, "/whole", everything, method="PUT") == 405
    assert ask(app, "/inherited", reader).body == b"inherited"
    assert verdict(app, "/inherited") == "api_key_missing"
    assert ask(app, "/feed", reader, websocket=True).status == 101
    assert verdict(app, "/feed", websocket=True) == "api_key_missing"
    assert ask(app, "/pulse", websocket=True).status == 101
    assert verdict(app, "/silent", everything, websocket=True) == "operation_undeclared"


def test_mounted_applications(house: Doorkey, tmp_path: Path) -> None:
    """Static files and the like are declared around them; what is not is closed, and a mount's routes are judged."""
    (tmp_path / "logo.txt").write_text("logo")
    static = StaticFiles(directory=tmp_path)
    app = protected(
        house,
        Mount("/static", requires(OPEN)(static)),
        Mount("/reports", requires("reports:read")(static)),
        Mount("/forgotten", static),
        Mount("/v1", Starlette(routes=[Route("/messages", messages), Route("/bare", bare)])),
    )
    reader = issue(house, permissions=["messages:read"])
    assert ask(app, "/static/logo.txt").body == b"logo"
    assert verdict(app, "/reports/logo.txt", reader) == "insufficient_permissions"
    assert ask(app, "/reports/logo.txt", issue(house)).body == b"logo"
    assert verdict(app, "/forgotten/logo.txt", issue(house)) == "operation_undeclared"
    assert verdict(app, "/forgotten/logo.txt") == "api_key_missing"
    assert ask(app, "/v1/messages", reader).body.decode() == reader.id
    assert verdict(app, "/v1/bare", issue(house)) == "operation_undeclared"


def test_a_websocket(house: Doorkey) -> None:
    """It is refused before it is accepted, and an open one is closed once its key is revoked (E9)."""
    app = DoorkeyMiddleware(
        Router([WebSocketRoute("/feed", feed)]), house.async_verifier, policy=PER_ROUTE, recheck=0.02
    )
    denied = ask(app, "/feed", websocket=True)
    assert (denied.status, json.loads(denied.body)["error"]["code"]) == (401, "api_key_missing")
    assert ask(app, "/feed", websocket=True, denial=False).close_code == 1008
    token = issue(house)
    (workspace,) = house.keyring.workspaces()
    (key,) = [key for key in house.keyring.keys(workspace.id) if key.name == "test"]
    sent: list[wire.Message] = []

    async def idle(websocket: WebSocket) -> None:
        await websocket.accept()
        house.keyring.acting("a test").revoke(key.id, because="a test")
        await asyncio.sleep(5)

    app = DoorkeyMiddleware(
        Router([WebSocketRoute("/feed", requires(())(idle))]), house.async_verifier, policy=PER_ROUTE, recheck=0.02
    )

    async def receive() -> wire.Message:
        return {"type": "websocket.connect"}

    async def send(message: wire.Message) -> None:
        sent.append(message)
        if message["type"] == "websocket.close":
            raise OSError("the server is done with this one")

    async def call() -> None:
        scope = {"type": "websocket", "path": "/feed", "headers": [(b"authorization", basic(token).encode())]}
        running = asyncio.ensure_future(app(scope, receive, send))
        while len(sent) < 2:
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(asyncio.wait_for(call(), 5))
    assert [message.get("code") for message in sent] == [None, 1008]


# What might reach an endpoint unjudged


def test_an_endpoint_without_declaration_is_closed(house: Doorkey) -> None:
    """To everybody, by every method that it has, on HTTP and websockets; and it is told as what it is."""
    app = protected(house, Route("/bare", bare, methods=["GET", "POST", "OPTIONS"]), WebSocketRoute("/socket", bare))
    for method in ("GET", "HEAD", "POST", "OPTIONS"):
        assert ask(app, "/bare", issue(house), method=method).status == 403
        assert ask(app, "/bare", method=method).status == 401
    assert verdict(app, "/bare", issue(house)) == "operation_undeclared"
    assert verdict(app, "/socket", issue(house), websocket=True) == "operation_undeclared"
    assert verdict(app, "/bare", issue(house), method="DELETE") == 405
    assert verdict(app, "/bare", method="DELETE") == "api_key_missing"


def test_not_found_is_for_those_who_may_do_all(house: Doorkey) -> None:
    """Whoever has no unrestricted key learns nothing of the routes; handlers of errors run for nobody else."""
    answered: list[int] = []

    async def handler(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        answered.append(error.status_code)
        return PlainTextResponse("ours", error.status_code)

    app = protected(house, Route("/messages/", messages), exception_handlers={404: handler, 405: handler})
    reader = issue(house, permissions=["messages:read"])
    for path, method in [("/nowhere", "GET"), ("/messages/", "PATCH"), ("/messages", "GET")]:
        assert verdict(app, path, method=method) == "api_key_missing"
        assert verdict(app, path, reader, method=method) == "insufficient_permissions"
    assert answered == []
    everything = issue(house)
    assert ask(app, "/nowhere", everything).body == b"ours"
    assert ask(app, "/messages/", everything, method="PATCH").status == 405
    assert ask(app, "/messages", everything).status == 307
    assert answered == [404, 405]


def test_the_forgotten_middleware(house: Doorkey) -> None:
    """A declared endpoint stays closed where nothing judges, or a policy does."""
    routes = [
        Route("/messages", messages),
        Route("/post", post),
        Route("/open", healthz),
        Route("/whole", Whole),
        Mount("/static", requires(OPEN)(PlainTextResponse("x"))),
    ]
    policy = Policy([Rule.open("GET", "/open")], otherwise=Requirement("messages"))
    judged = DoorkeyMiddleware(Router(routes), house.async_verifier, policy=policy)
    for app in (Starlette(routes=routes), judged):
        for path in ("/messages", "/post", "/whole", "/static/x"):
            with pytest.raises(ConfigurationError, match="PER_ROUTE"):
                ask(app, path, issue(house))
    with pytest.raises(ConfigurationError, match="PER_ROUTE"):
        ask(Starlette(routes=routes), "/open")
    assert ask(judged, "/open").status == 200
    with pytest.raises(ConfigurationError, match="PER_ROUTE"):
        ask(Starlette(routes=[WebSocketRoute("/feed", feed)]), "/feed", issue(house), websocket=True)


def test_a_rewriting_route_is_caught(house: Doorkey) -> None:
    """Where something sends a request on to another endpoint, that one sees that it was judged by another word."""

    @requires("messages:read")
    async def forwarding(request: Request) -> Response:
        return post(request)

    app = protected(house, Route("/forwarding", forwarding))
    with pytest.raises(ConfigurationError, match="rewrites paths"):
        ask(app, "/forwarding", issue(house))


def rewriting(app: Any) -> Callable[..., Awaitable[None]]:
    async def rewritten(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "method": "DELETE", "path": "/bare"}, receive, send)

    return rewritten


def test_middleware_of_ones_own_stands_outside(house: Doorkey) -> None:
    """Inside of doorkey, per route, it is refused when the application starts; outside it may do what it likes."""
    ours = Middleware(DoorkeyMiddleware, verifier=house.async_verifier, policy=PER_ROUTE)
    routes = [Route("/messages", messages), Route("/bare", bare, methods=["DELETE"])]
    app = Starlette(routes=routes, middleware=[ours, Middleware(rewriting)])
    with pytest.raises(ConfigurationError, match="doorkey stands innermost"):
        ask(app, "/messages", issue(house))
    app = Starlette(routes=routes, middleware=[Middleware(rewriting), ours])
    assert verdict(app, "/messages", issue(house)) == "operation_undeclared"
    app = Starlette(routes=routes)
    app.add_middleware(DoorkeyMiddleware, verifier=house.async_verifier, policy=PER_ROUTE)
    app.add_middleware(rewriting)
    assert verdict(app, "/messages", issue(house)) == "operation_undeclared"


def test_middleware_that_comes_late_closes(house: Doorkey) -> None:
    """Where doorkey stands around an application that gets middleware of its own afterwards, nobody enters."""
    app = Starlette(routes=[Route("/messages", messages)])
    around = DoorkeyMiddleware(app, house.async_verifier, policy=PER_ROUTE)
    app.add_middleware(rewriting)
    assert verdict(around, "/messages", issue(house)) == "operation_undeclared"


def test_a_root_path_of_its_own_is_refused(house: Doorkey) -> None:
    """Around such an application, paths would be other ones than those that its router sees."""

    class Prefixed(Starlette):
        root_path = "/v1"

    for policy in (PER_ROUTE, Policy(within="/admin")):
        with pytest.raises(ConfigurationError, match="root_path"):
            DoorkeyMiddleware(Prefixed(), house.async_verifier, policy=policy)


@pytest.mark.parametrize("path", ["/payouts%0A", "/payouts/%0A", "//payouts", "/payouts/..", "/payouts/7%0A"])
def test_what_the_router_overlooks_is_no_way_round(house: Doorkey, path: str) -> None:
    """Its expressions take a line feed at the end for no part of a path, and dots for the value of a parameter."""

    async def pay(request: Request) -> Response:
        raise AssertionError("a test key paid, or nobody did")

    policy = Policy([Rule("GET", "/payouts", mode=Mode.LIVE), Rule("GET", "/payouts/{id}", mode=Mode.LIVE)])
    routes = [Route("/payouts", pay), Route("/payouts/{id}", pay)]
    app = DoorkeyMiddleware(Starlette(routes=routes), house.async_verifier, policy=policy)
    assert verdict(app, path, issue(house)) == "operation_undeclared"
    within = Policy(policy.rules, within="/payouts")
    site = DoorkeyMiddleware(Starlette(routes=routes), house.async_verifier, policy=within)
    assert verdict(site, path) == "api_key_missing"


def test_cors_stands_outside(house: Doorkey) -> None:
    """A page learns why it was refused, and a preflight needs no key there."""
    ours = Middleware(DoorkeyMiddleware, verifier=house.async_verifier, policy=PER_ROUTE)
    cors = Middleware(CORSMiddleware, allow_origins=["https://shop.example"], allow_headers=["Authorization"])
    app = Starlette(routes=[Route("/messages", messages)], middleware=[cors, ours])
    origin = ("Origin", "https://shop.example")
    preflight = (origin, ("Access-Control-Request-Method", "GET"), ("Access-Control-Request-Headers", "authorization"))
    assert ask(app, "/messages", method="OPTIONS", headers=preflight).status == 200
    refused = ask(app, "/messages", headers=(origin,))
    assert refused.status == 401
    assert dict(refused.headers)["access-control-allow-origin"] == "https://shop.example"


def test_no_verdict_is_503(house: Doorkey) -> None:
    """With when to come back, and nobody enters."""
    verifier = AsyncVerifier(Inline(Failing(StoreUnavailable("gone"))), house.secrets.digester())
    app = DoorkeyMiddleware(Router([Route("/messages", messages)]), verifier, policy=PER_ROUTE)
    answer = ask(app, "/messages", issue(house))
    assert (answer.status, "retry-after" in dict(answer.headers)) == (503, True)


def test_cancellation_propagates(house: Doorkey) -> None:
    """Who cancels a request cancels its endpoint."""

    @requires("messages:read")
    async def waiting(request: Request) -> Response:
        await asyncio.sleep(5)
        raise AssertionError("it was cancelled")

    app = DoorkeyMiddleware(Router([Route("/w", waiting)]), house.async_verifier, policy=PER_ROUTE)
    headers = [(b"authorization", basic(issue(house)).encode())]

    async def call() -> None:
        scope = {"type": "http", "method": "GET", "path": "/w", "headers": headers}
        task = asyncio.ensure_future(app(scope, None, None))  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(call())


def test_a_thousand_at_once_stay_apart(house: Doorkey) -> None:
    """Each request is answered with its own key, however many run at once (E12)."""

    @requires(Requirement.ANY_KEY)
    async def echo(request: Request) -> Response:
        before = who(request)
        await asyncio.sleep(0)
        return JSONResponse([before, who(request)])

    tokens = [issue(house) for _ in range(50)]
    answers = crowd(protected(house, Route("/echo", echo)), "/echo", tokens)
    assert answers == [[tokens[number % 50].id] * 2 for number in range(1000)]


# What is refused when it is built


@pytest.mark.parametrize("policy", [OPEN, None, "PER_ROUTE", {}])
def test_a_policy_is_one(house: Doorkey, policy: Any) -> None:
    """Neither open by mistake nor anything else."""
    with pytest.raises(ConfigurationError, match="policy"):
        DoorkeyMiddleware(Router(), house.async_verifier, policy=policy)


def test_what_is_no_endpoint_is_refused() -> None:
    """A function of no request, a class that is none of endpoints, and what was declared before."""
    with pytest.raises(ConfigurationError, match="request or websocket"):
        requires(OPEN)(lambda scope: None)
    with pytest.raises(ConfigurationError, match="no class of endpoints"):
        requires(OPEN)(StaticFiles)
    with pytest.raises(DoorkeyError, match="twice"):
        requires(OPEN)(messages)
    with pytest.raises(DoorkeyError):
        requires("nonsense scope")


def test_a_principal_needs_a_verdict() -> None:
    """Whatever stands in the state of a request that nobody judged, it is no principal."""
    scope = {"type": "http", "headers": [], "state": {"principal": "admin"}}
    with pytest.raises(ConfigurationError, match="has judged this request"):
        current_principal(Request(scope))


# assert_protected


def test_what_nobody_thought_of_is_named(house: Doorkey) -> None:
    """Each undeclared and each open operation, on every kind of route."""
    app = protected(
        house,
        Route("/messages", messages),
        Route("/healthz", healthz),
        Route("/bare", bare),
        Route("/items", Items),
        WebSocketRoute("/silent", Silent),
        Mount("/v1", routes=[Route("/{id:int}", bare)]),
        Mount("/static", StaticFiles(directory=".")),
    )
    with pytest.raises(AssertionError) as raised:
        assert_protected(app)
    assert str(raised.value).split("; ") == [
        "GET /bare declares nothing",
        "POST /items declares nothing",
        "WEBSOCKET /silent declares nothing",
        "GET /v1/{id} declares nothing",
        "* /static/{path} declares nothing",
        "GET /healthz is open: close it, or name it in open=",
    ]
    assert_protected(protected(house, Route("/messages", messages), Route("/healthz", healthz)), open=["GET /healthz"])


def test_what_stands_around_is_found(house: Doorkey) -> None:
    """Doorkey may stand in the application or around it, and other middleware around that."""
    app = Starlette(routes=[Route("/messages", messages)])
    around = DoorkeyMiddleware(app, house.async_verifier, policy=PER_ROUTE)
    assert_protected(around)
    assert_protected(GZipMiddleware(around))
    with pytest.raises(AssertionError, match="nothing of doorkey"):
        assert_protected(GZipMiddleware(app))
    app.add_middleware(rewriting)
    app.user_middleware.append(Middleware(DoorkeyMiddleware, verifier=house.async_verifier, policy=PER_ROUTE))
    assert_protected(app)
    app.user_middleware.append(Middleware(rewriting))
    with pytest.raises(ConfigurationError, match="innermost"):
        assert_protected(app)


def test_a_policy_describes_each_route(house: Doorkey) -> None:
    """What no rule describes is closed, but named; parameters are filled in; what lies outside is others' business."""
    routes = [
        Route("/messages/{id:int}", bare, methods=["GET", "DELETE"]),
        Route("/healthz", bare),
        WebSocketRoute("/feed", bare),
        Mount("/static", StaticFiles(directory=".")),
    ]
    rules = [Rule("GET", "/messages/{id}", "messages:read"), Rule.open("GET", "/healthz")]
    policy = Policy([*rules, Rule("GET", "/static/{name}", Requirement.ANY_KEY)])
    plain = asgi.DoorkeyMiddleware(Starlette(routes=routes), house.async_verifier, policy=policy)
    ours = DoorkeyMiddleware(rewritten_inside(routes), house.async_verifier, policy=policy)
    for app in (plain, ours):
        with pytest.raises(AssertionError) as raised:
            assert_protected(app, open=["GET /healthz"])
        assert str(raised.value) == "DELETE /messages/{id} declares nothing; WEBSOCKET /feed declares nothing"
    within = Policy([Rule("GET", "/api/x", Requirement.ANY_KEY)], within="/api")
    site = Starlette(routes=[Route("/page", bare), Route("/api/x", bare)])
    assert_protected(DoorkeyMiddleware(site, house.async_verifier, policy=within))


def rewritten_inside(routes: list[BaseRoute]) -> Starlette:
    """An application with middleware of its own, about which a policy does not care."""
    return Starlette(routes=routes, middleware=[Middleware(GZipMiddleware), Middleware(rewriting)])
