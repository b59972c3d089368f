"""
FastAPI: a security dependency, against its own ``HTTPBasic`` and a comparison, as its documentation has it.

There the comparison is no coroutine, so FastAPI runs it in a thread, and all sides run in an event loop. Who writes it
as a coroutine has the second baseline.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from secrets import compare_digest
from threading import Thread
from time import perf_counter
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Security
from fastapi.responses import PlainTextResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from doorkey import Principal
from doorkey.adapters.fastapi import ApiKey, protect, requires

from ..sample import ADDRESS, METHOD, NEEDED, PATH, new_sample
from ..table import Row
from ..timing import Side, by_turns
from ..web import PASSWORD, added_row, asgi_request

api_key = ApiKey()
security = HTTPBasic()


def current_username(credentials: Annotated[HTTPBasicCredentials, Depends(security)]) -> str:
    """That of the documentation."""
    known = compare_digest(credentials.username.encode(), b"ann")
    if not (compare_digest(credentials.password.encode(), PASSWORD.encode()) and known):
        raise HTTPException(401, "Incorrect username or password", {"WWW-Authenticate": "Basic"})
    return credentials.username


async def current_username_here(credentials: Annotated[HTTPBasicCredentials, Depends(security)]) -> str:
    return current_username(credentials)


async def bare() -> PlainTextResponse:
    return PlainTextResponse("hello")


async def by_password(username: Annotated[str, Depends(current_username)]) -> PlainTextResponse:
    return PlainTextResponse("hello")


async def by_password_here(username: Annotated[str, Depends(current_username_here)]) -> PlainTextResponse:
    return PlainTextResponse("hello")


async def by_key(principal: Annotated[Principal, Security(api_key, scopes=[NEEDED])]) -> PlainTextResponse:
    return PlainTextResponse("hello")


@requires(NEEDED)
async def decorated() -> PlainTextResponse:
    return PlainTextResponse("hello")


def rows(rounds: int) -> Iterator[Row]:
    """The password is compared as it is, without a digest."""
    sample = new_sample()
    password = b"Basic " + b64encode(f"ann:{PASSWORD}".encode())

    def ours(endpoint: Callable[..., Any]) -> FastAPI:
        app = application(endpoint)
        protect(app, sample.door.async_verifier)
        return app

    with event_loop() as loop:
        sides = {
            "bare": in_a_loop(loop, application(bare), sample.valid),
            "HTTPBasic": in_a_loop(loop, application(by_password), password),
            "dependency": in_a_loop(loop, ours(by_key), sample.valid),
        }
        times = by_turns(sides, rounds)
    yield added_row("FastAPI", "added by the dependency, against HTTPBasic", times, "dependency", "HTTPBasic", 0.7)

    sides = {
        "bare": asgi_request(application(bare), sample.valid, 200),
        "HTTPBasic": asgi_request(application(by_password_here), password, 200),
        "dependency": asgi_request(ours(by_key), sample.valid, 200),
        "decorator": asgi_request(ours(decorated), sample.valid, 200),
    }
    times = by_turns(sides, rounds)
    for name in ("dependency", "decorator"):
        yield added_row(
            "FastAPI", f"added by the {name}, against HTTPBasic without its thread", times, name, "HTTPBasic"
        )


@contextmanager
def event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop in a thread of its own, whose first task lasts: FastAPI's threads live as long as that."""
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = Thread(target=loop.run_until_complete, args=[loop.create_task(stop.wait())])
    thread.start()
    yield loop
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


def in_a_loop(loop: asyncio.AbstractEventLoop, app: FastAPI, authorization: bytes) -> Side:
    """A side that sends requests to *app*, one after the other."""
    headers = [(b"host", b"api.example"), (b"accept", b"*/*"), (b"authorization", authorization)]
    scope = {
        "type": "http",
        "method": METHOD,
        "path": PATH,
        "query_string": b"",
        "client": (ADDRESS, 50_000),
        "headers": headers,
        "state": {},
    }
    statuses: list[int] = []

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 200))

    async def burst(number: int) -> float:
        statuses.clear()
        started = perf_counter()
        for _ in range(number):
            await app(dict(scope), receive, send)
        taken = perf_counter() - started
        if set(statuses) != {200}:
            raise RuntimeError(f"the answers have the statuses {set(statuses)}")
        return taken

    def side(number: int) -> float:
        return asyncio.run_coroutine_threadsafe(burst(number), loop).result()

    side(10)  # The first request builds the application.
    return side


def application(endpoint: Callable[..., Any]) -> FastAPI:
    """The smallest application."""
    app = FastAPI(openapi_url=None)
    app.get(PATH)(endpoint)
    return app
