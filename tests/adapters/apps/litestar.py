"""Litestar: a policy around the application, and the plugin with a guard on each handler."""

from __future__ import annotations

from typing import Any

from litestar import HttpMethod, Litestar, Request, WebSocket, asgi, route, websocket
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard

from doorkey import Rule
from doorkey.adapters.litestar import DoorkeyMiddleware, DoorkeyPlugin, current_principal, requires
from doorkey.core.declarations import OPEN
from doorkey.core.policy import WEBSOCKET
from tests.adapters.apps.setup import Setup

DIFFERS = {
    # The router drops slashes at the end and doubled ones, adds one at the start, and takes dots for a parameter.
    **dict.fromkeys(
        (
            "a slash after an open path",
            "two slashes before an open path",
            "an encoded slash after an open path",
            "a path without a slash",
            "a slash at the end",
            "two slashes inside",
            "two slashes at the start",
            "dots for a parameter",
            "encoded dots for a parameter",
            "a dot for a parameter",
            "mounted: two slashes",
            "a prefix with a slash at its end",
        ),
        "entered",
    ),
    # It refuses itself what no Host is.
    "a Host that makes an open URL": "400",
    # It closes a websocket for which there is no handler.
    "a websocket where the rule is for GET": "403",
    "a websocket where GET is open": "403",
    "a websocket where nothing is said": "403",
    "a websocket to no path": "403",
}


def build(setup: Setup) -> Any:
    """The application as a server calls it."""
    if setup.per_route:
        return Litestar(
            [handler(setup, rule) for rule in setup.policy.rules],
            plugins=[DoorkeyPlugin(setup.async_verifier, trusted_proxies=setup.proxies)],
            openapi_config=None,
            logging_config=None,
        )
    app = Litestar([everything(setup)], openapi_config=None, logging_config=None)
    return DoorkeyMiddleware(app, setup.async_verifier, policy=setup.policy, trusted_proxies=setup.proxies)


BUILDS = {"asgi": build}


def everything(setup: Setup) -> BaseRouteHandler:
    """An endpoint for each path and method."""

    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        setup.enter(current_principal(ASGIConnection(scope)))
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    return asgi("/", is_mount=True, copy_scope=True)(mounted)


def handler(setup: Setup, rule: Rule) -> BaseRouteHandler:
    """The endpoint of a rule."""
    guards: list[Guard] = [requires(OPEN if rule.requirement is None else rule.requirement)]
    path = rule.path.replace("{id}", "{id:str}")

    async def http(request: Request[Any, Any, Any]) -> None:
        setup.enter(current_principal(request))

    async def socket(socket: WebSocket[Any, Any, Any]) -> None:
        setup.enter(current_principal(socket))
        await socket.accept()

    if rule.method == WEBSOCKET:
        return websocket(path, guards=guards)(socket)
    methods = [HttpMethod.GET, HttpMethod.HEAD] if rule.method == "GET" else [HttpMethod(rule.method)]
    return route(path, http_method=methods, guards=guards, status_code=200)(http)
