"""How Starlette's routes are read: which endpoint a connection leads to, through mounts and middleware."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Host, Match, Mount, Route, Router, WebSocketRoute
from starlette.websockets import WebSocket

from doorkey import DoorkeyError, Requirement
from doorkey.adapters.starlette_auth import KeyAuthentication
from doorkey.adapters.starlette_routes import Routes, class_declared, inside
from doorkey.core.declarations import ELSEWHERE, declare
from doorkey.testing import door

READ, WRITE = Requirement("messages:read"), Requirement("messages:write")
NOBODY = Requirement.NOBODY


def endpoint(requirement: Requirement | None = NOBODY) -> Any:
    """A function that declares *requirement*, or nothing."""

    def found(request: Request) -> Response:
        raise AssertionError("an endpoint is only looked up here")

    return found if requirement is NOBODY else declare(found, requirement)


class Application:
    """An ASGI application without routes."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("an application is only looked up here")


class Rewriting:
    """Middleware of a user's own, which may do anything."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("middleware is only looked through here")


def asked(app: Any, path: str, method: str = "GET", **fields: Any) -> Requirement | None:
    """What is required for a request."""
    scope = {"type": "http", "method": method, "path": path, "headers": [(b"host", b"api.example")], **fields}
    return Routes(app)(scope)


def listed(app: Any, *, strict: bool = True) -> dict[str, Requirement | None]:
    """All operations, by method and path."""
    return {str(one): one.requirement for one in Routes(app, strict=strict).operations()}


def test_the_endpoint_is_the_routers_own() -> None:
    """The first route that matches fully counts; a method that none has, no route and a redirect are elsewhere."""
    app = Router(
        [
            Route("/messages", endpoint(READ)),
            Route("/messages", endpoint(WRITE), methods=["POST"]),
            Route("/messages/{id:int}", endpoint(WRITE)),
            Route("/messages/{id}", endpoint(None)),
            Route("/folder/", endpoint(READ)),
        ]
    )
    assert asked(app, "/messages") is READ
    assert asked(app, "/messages", "HEAD") is READ
    assert asked(app, "/messages", "POST") is WRITE
    assert asked(app, "/messages/7") is WRITE
    assert asked(app, "/messages/seven") is None
    for path, method in [("/messages", "DELETE"), ("/messages", "OPTIONS"), ("/nowhere", "GET"), ("/folder", "GET")]:
        assert asked(app, path, method) is ELSEWHERE


def test_a_websocket_is_no_request() -> None:
    """A handshake finds websocket routes alone, and a request never finds one."""
    app = Router([WebSocketRoute("/feed", endpoint(READ)), Route("/feed", endpoint(WRITE))])
    assert Routes(app)({"type": "websocket", "path": "/feed", "headers": []}) is READ
    assert asked(app, "/feed") is WRITE
    assert asked(Router([WebSocketRoute("/feed", endpoint(READ))]), "/feed") is ELSEWHERE


def test_mounts_and_hosts_are_walked() -> None:
    """Endpoints within are found, however deep, and under the paths that their routers see."""
    leaf = Starlette(routes=[Route("/messages", endpoint(READ)), Route("/", endpoint(WRITE))])
    app = Starlette(
        routes=[
            Mount("/v1", routes=[Mount("/inner", leaf)]),
            Host("{tenant}.example", Router([Route("/host", endpoint(READ))])),
        ]
    )
    assert asked(app, "/v1/inner/messages") is READ
    assert asked(app, "/v1/inner/") is WRITE
    assert asked(app, "/behind/v1/inner/messages", root_path="/behind") is READ
    assert asked(app, "/v1/inner/nowhere") is ELSEWHERE
    assert asked(app, "/v1/messages") is ELSEWHERE
    assert asked(app, "/host") is READ
    assert asked(app, "/host", headers=[(b"host", b"elsewhere")]) is ELSEWHERE
    assert listed(app) == {"GET /v1/inner/messages": READ, "GET /v1/inner/": WRITE, "GET /host": READ}


def test_what_has_no_routes_is_one_endpoint() -> None:
    """A mounted application declares for itself, or is closed; so is a route of an unknown kind."""

    class Odd(BaseRoute):
        def matches(self, scope: Any) -> Any:
            return (Match.PARTIAL if scope["path"] == "/part" else Match.FULL), {}

    app = Router(
        [
            Mount("/static", declare(Application(), None)),
            Mount("/packed", declare(Application(), READ), middleware=[Middleware(GZipMiddleware)]),
            Mount("/foreign", Application()),
            Mount("/nested", Mount("/twice", routes=[Route("/messages", endpoint(READ))])),
            Route("/instance", declare(Application(), READ)),
            Odd(),
        ]
    )
    assert asked(app, "/static/logo.png") is None
    assert asked(app, "/packed/x") is READ
    assert asked(app, "/foreign/x") is NOBODY
    assert asked(app, "/nested/twice/messages") is NOBODY
    assert asked(app, "/instance", "DELETE") is READ
    assert asked(app, "/odd") is NOBODY
    assert asked(app, "/part") is NOBODY
    assert listed(app) == {
        "* /static/{path}": None,
        "* /packed/{path}": READ,
        "* /foreign/{path}": NOBODY,
        "* /nested/{path}": NOBODY,
        "* /instance": READ,
        "* ": NOBODY,
    }


def test_what_a_router_falls_back_to_is_an_endpoint() -> None:
    """An application in the place of "not found" is entered for every path, so it declares, or is closed."""
    assert asked(Router(default=Application()), "/x") is NOBODY
    app = Router([Route("/messages", endpoint(READ))], default=declare(Application(), None))
    assert asked(app, "/x") is None
    assert asked(app, "/messages", "POST") is ELSEWHERE
    assert listed(app) == {"GET /messages": READ, "* /{path}": None}


def test_routes_are_read_anew() -> None:
    """A route that is added while the application runs is found."""
    app = Starlette()
    routes = Routes(app)
    scope = {"type": "http", "method": "GET", "path": "/late", "headers": []}
    assert routes(scope) is ELSEWHERE
    app.router.routes.append(Route("/late", endpoint()))
    assert routes(scope) is NOBODY
    app.router.routes.insert(0, Route("/late", endpoint(READ)))
    assert routes(scope) is READ


def test_an_exception_of_a_route_is_not_caught() -> None:
    """Where a route cannot be asked, there is no verdict, and so nobody is let in."""

    class Broken(Route):
        def matches(self, scope: Any) -> Any:
            raise OverflowError("a number too big")

    with pytest.raises(OverflowError):
        asked(Router([Broken("/x", endpoint(None))]), "/x")


def test_an_endpoint_without_declaration_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The operator learns which endpoint is closed, and is not flooded."""
    bare = endpoint()
    routes = Routes(Router([Route("/a", bare), Route("/b", bare), Mount("/c", Application())]))
    with caplog.at_level(logging.WARNING, "doorkey"):
        for path in ("/a", "/a", "/b", "/c/x", "/c/y"):
            assert routes({"type": "http", "method": "GET", "path": path, "headers": []}) is NOBODY
    assert [record.getMessage().split(" declares")[0].rpartition(".")[2] for record in caplog.records] == [
        "found",
        "Application",
    ]


# Middleware on the way


def test_the_frameworks_middleware_is_looked_through() -> None:
    """CORS, compression and the like hand on what they get; so does our authentication."""
    user = [Middleware(CORSMiddleware), Middleware(KeyAuthentication, door().async_verifier)]
    app = Starlette(routes=[Route("/x", endpoint(READ))], middleware=user)
    for one in (app, app.build_middleware_stack(), GZipMiddleware(app)):
        assert asked(one, "/x") is READ
    assert asked(Router([Route("/x", endpoint(READ))], middleware=[Middleware(GZipMiddleware)]), "/x") is READ
    within = Router([Mount("/a", routes=[Route("/x", endpoint(READ))], middleware=[Middleware(GZipMiddleware)])])
    assert asked(within, "/a/x") is READ


class Prefixed(Starlette):
    """With the attribute by which FastAPI replaces the connection's own."""

    root_path = "/v1"


def anything(app: Any) -> Any:
    """Middleware made by a function."""
    return app


@pytest.mark.parametrize(
    "app",
    [
        Application(),
        Rewriting(Router()),
        BaseHTTPMiddleware(Router(), Rewriting),  # type: ignore[arg-type]
        Starlette(middleware=[Middleware(GZipMiddleware), Middleware(Rewriting)]),
        Starlette(middleware=[Middleware(BaseHTTPMiddleware, dispatch=Rewriting)]),  # type: ignore[arg-type]
        Starlette(middleware=[Middleware(anything)]),
        GZipMiddleware(Starlette(middleware=[Middleware(Rewriting)])),
        Router(middleware=[Middleware(GZipMiddleware), Middleware(Rewriting)]),
        Prefixed(),
    ],
)
def test_other_middleware_is_not_looked_through(app: Any) -> None:
    """What might change path or method before the router is refused outside, and one closed endpoint within a mount."""
    with pytest.raises(DoorkeyError, match=r"no router can be seen: .* stands before it"):
        Routes(app)
    assert asked(Router([Mount("/a", app)]), "/a/x") is NOBODY
    assert listed(Router([Mount("/a", app)])) == {"* /a/{path}": NOBODY}


def test_a_policy_does_not_care_what_stands_before_a_router() -> None:
    """Only to list routes, everything is looked through that Starlette itself put there."""
    app = Starlette(routes=[Route("/x", endpoint(READ))], middleware=[Middleware(Rewriting)])
    assert listed(app, strict=False) == {"GET /x": READ}
    assert isinstance(inside(Router(middleware=[Middleware(Rewriting)]), strict=False), Router)


# Classes


class Messages(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("got")

    post = declare(lambda self, request: PlainTextResponse("posted"), WRITE)


def test_a_class_declares_by_method_or_as_a_whole() -> None:
    """The method's own word counts before that of its class; what the class answers itself is elsewhere."""
    assert class_declared(Messages, "POST") is WRITE
    assert class_declared(Messages, "GET") is NOBODY

    @lambda made: declare(made, READ)
    class Whole(Messages):
        pass

    assert class_declared(Whole, "GET") is READ
    assert class_declared(Whole, "HEAD") is READ
    assert class_declared(Whole, "POST") is WRITE
    for method in ("DELETE", "WEBSOCKET", "TRACE"):
        assert class_declared(Whole, method) is ELSEWHERE
    for method in ("DISPATCH", "get", "Post"):  # which Starlette 1.0 calls
        assert class_declared(Whole, method) is NOBODY
    app = Router([Route("/m", Whole), Route("/n", Messages)])
    assert asked(app, "/m", "POST") is WRITE
    assert asked(app, "/n") is NOBODY
    assert listed(app) == {"GET /m": READ, "POST /m": WRITE, "GET /n": NOBODY, "POST /n": WRITE}


def test_a_class_may_have_its_own_head() -> None:
    """HEAD follows GET unless there is a handler of that name."""

    class Headed(HTTPEndpoint):
        get = declare(lambda self, request: PlainTextResponse(""), READ)
        head = declare(lambda self, request: PlainTextResponse(""), WRITE)

    assert class_declared(Headed, "HEAD") is WRITE
    assert listed(Router([Route("/h", Headed)])) == {"GET /h": READ, "HEAD /h": WRITE}


def test_a_class_that_dispatches_itself_declares_as_a_whole() -> None:
    """Nobody knows what its own dispatch does with a method that has no handler."""

    class Own(HTTPEndpoint):
        async def dispatch(self) -> None:
            raise AssertionError("a class is only looked up here")

    assert class_declared(Own, "GET") is NOBODY
    assert class_declared(declare(Own, READ), "PURGE") is READ


def test_a_class_of_websockets_declares_by_its_handshake_or_as_a_whole() -> None:
    """``on_connect`` is what the handshake is for."""

    class Feed(WebSocketEndpoint):
        pass

    class Pulse(WebSocketEndpoint):
        @lambda made: declare(made, WRITE)
        async def on_connect(self, websocket: WebSocket) -> None:
            raise AssertionError("a class is only looked up here")

    assert class_declared(Feed, "") is NOBODY
    assert class_declared(declare(Feed, READ), "") is READ
    assert class_declared(Pulse, "") is WRITE
    assert listed(Router([WebSocketRoute("/f", Feed), WebSocketRoute("/p", Pulse)])) == {
        "WEBSOCKET /f": READ,
        "WEBSOCKET /p": WRITE,
    }


def test_any_other_class_declares_as_a_whole() -> None:
    """Such as one of an application that is made for each connection."""
    assert class_declared(Application, "GET") is NOBODY


def test_methods_are_listed_each() -> None:
    """HEAD is not listed beside GET, which it follows."""
    app = Router([Route("/a", endpoint(READ), methods=["GET", "PUT"]), Route("/b", endpoint(WRITE), methods=["HEAD"])])
    assert listed(app) == {"GET /a": READ, "PUT /a": READ, "HEAD /b": WRITE}
