"""Starlette: a declared endpoint and Starlette's ``@requires`` by keys, against the backend of its documentation."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from typing import Any

from starlette import authentication
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from doorkey import PER_ROUTE
from doorkey.adapters.starlette import DoorkeyMiddleware, KeyAuthentication, requires

from ..sample import NEEDED, PATH, new_sample
from ..table import Row
from ..timing import by_turns
from ..web import PASSWORD, DocumentedBackend, added_row, asgi_request


def rows(rounds: int) -> Iterator[Row]:
    """The documented backend compares one password, without a digest, and its scope is "authenticated"."""
    sample = new_sample()
    verifier = sample.door.async_verifier
    password = b"Basic " + b64encode(f"ann:{PASSWORD}".encode())
    declared = application(
        requires(NEEDED)(messages), Middleware(DoorkeyMiddleware, verifier=verifier, policy=PER_ROUTE)
    )
    by_keys = application(authentication.requires(NEEDED)(messages), Middleware(KeyAuthentication, verifier=verifier))
    by_password = application(
        authentication.requires("authenticated")(messages),
        Middleware(AuthenticationMiddleware, backend=DocumentedBackend({"ann": PASSWORD})),
    )
    sides = {
        "bare": asgi_request(application(messages), sample.valid, 200),
        "doorkey": asgi_request(declared, sample.valid, 200),
        "keys": asgi_request(by_keys, sample.valid, 200),
        "Starlette's": asgi_request(by_password, password, 200),
    }
    times = by_turns(sides, rounds)
    yield added_row("Starlette", "added by doorkey per route, against @requires", times, "doorkey", "Starlette's")
    yield added_row("Starlette", "added by KeyAuthentication, against @requires", times, "keys", "Starlette's")


async def messages(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


def application(endpoint: Any, *middleware: Middleware) -> Starlette:
    """The smallest application."""
    return Starlette(routes=[Route(PATH, endpoint)], middleware=middleware)
