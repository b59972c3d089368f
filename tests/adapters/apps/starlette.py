"""Starlette: a policy before a catch-all, and a requirement declared on each endpoint."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from doorkey import OPEN, PER_ROUTE, Rule
from doorkey.adapters.starlette import DoorkeyMiddleware, current_principal, requires
from doorkey.core.policy import WEBSOCKET
from tests.adapters.apps.setup import Setup

DIFFERS = {
    # To the router, dots are a parameter's value like any other. The endpoint that it calls is the one that was judged.
    "a dot for a parameter": "entered",
    "dots for a parameter": "entered",
    "encoded dots for a parameter": "entered",
}


def build(setup: Setup) -> Any:
    """The application as a server calls it."""
    routes = [route(setup, rule) for rule in setup.policy.rules] if setup.per_route else [everything(setup)]
    policy = PER_ROUTE if setup.per_route else setup.policy
    middleware = Middleware(DoorkeyMiddleware, setup.async_verifier, policy=policy, trusted_proxies=setup.proxies)
    return Starlette(routes=routes, middleware=[middleware])


BUILDS = {"asgi": build}


def everything(setup: Setup) -> BaseRoute:
    """An endpoint for each path and method."""

    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        setup.enter(current_principal(HTTPConnection(scope)))
        if scope["type"] == "websocket":
            await WebSocket(scope, receive, send).accept()
        else:
            await PlainTextResponse("")(scope, receive, send)

    return Mount("", mounted)


def route(setup: Setup, rule: Rule) -> BaseRoute:
    """The endpoint of a rule."""
    declaring = requires(OPEN if rule.requirement is None else rule.requirement)

    async def http(request: Request) -> Response:
        setup.enter(current_principal(request))
        return Response()

    async def socket(websocket: WebSocket) -> None:
        setup.enter(current_principal(websocket))
        await websocket.accept()

    if rule.method == WEBSOCKET:
        return WebSocketRoute(rule.path, declaring(socket))
    return Route(rule.path, declaring(http), methods=[rule.method])
