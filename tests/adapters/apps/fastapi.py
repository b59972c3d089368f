"""FastAPI: a policy before a catch-all, and a security dependency or a decorator on each operation."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI, Request, Security, WebSocket

from doorkey import OPEN, PER_ROUTE, Rule
from doorkey.adapters.fastapi import ApiKey, current_principal, protect, requires
from doorkey.core.policy import WEBSOCKET
from tests.adapters.apps import starlette
from tests.adapters.apps.setup import Setup

DIFFERS = starlette.DIFFERS


def build(setup: Setup) -> Any:
    """The application as a server calls it."""
    app = FastAPI(openapi_url=None)
    if setup.per_route:
        included = APIRouter()
        for number, rule in enumerate(setup.policy.rules):
            add(setup, included if number % 2 else app.router, rule)
        app.include_router(included)
    else:
        app.router.routes.append(starlette.everything(setup))
    policy = PER_ROUTE if setup.per_route else setup.policy
    protect(app, setup.async_verifier, policy=policy, trusted_proxies=setup.proxies)
    return app


BUILDS = {"asgi": build}


def add(setup: Setup, router: APIRouter, rule: Rule) -> None:
    """Add the operation of a rule: what takes permissions by a dependency, everything else by the decorator."""
    required = rule.requirement
    declaring: Any = requires(OPEN if required is None else required)

    def http(request: Request) -> None:
        setup.enter(current_principal(request))

    async def socket(websocket: WebSocket) -> None:
        setup.enter(current_principal(websocket))
        await websocket.accept()

    if rule.method == WEBSOCKET:
        router.add_api_websocket_route(rule.path, declaring(socket))
        return
    methods = ["GET", "HEAD"] if rule.method == "GET" else [rule.method]  # FastAPI adds no HEAD
    if required is None or not required.permissions:
        router.add_api_route(rule.path, declaring(http), methods=methods)
        return
    key = ApiKey(publishable=required.publishable, mode=required.mode)
    router.add_api_route(rule.path, http, methods=methods, dependencies=[Security(key, scopes=required.permissions)])
