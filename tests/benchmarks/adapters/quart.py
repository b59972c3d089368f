"""Quart: a view that declares what it requires, against the floor around the same application."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import perf_counter
from typing import Any

from quart import Quart

from doorkey import PER_ROUTE, Policy
from doorkey.adapters.quart import Doorkey, requires
from doorkey.core.declarations import Said

from .. import floor
from ..sample import ADDRESS, METHOD, NEEDED, PATH, RULES, Sample, new_sample
from ..table import Row
from ..timing import Side, by_turns
from ..web import POLICY, added_row


def rows(rounds: int) -> Iterator[Row]:
    """Per route, and under a policy. Quart makes tasks of its own, so all sides run in an event loop."""
    sample = new_sample()
    bare: Any = application(sample)
    with asyncio.Runner() as runner:
        sides = {
            "bare": in_a_loop(runner, bare, sample.valid),
            "floor": in_a_loop(runner, floor.asgi(bare, sample.check, RULES), sample.valid),
            "per route": in_a_loop(runner, application(sample, PER_ROUTE), sample.valid),
            "policy": in_a_loop(runner, application(sample, POLICY), sample.valid),
        }
        times = by_turns(sides, rounds)
    for name in ("per route", "policy"):
        yield added_row("Quart", f"added by the extension, {name}", times, name, "floor")


def application(sample: Sample, policy: Policy | Said | None = None) -> Quart:
    """The smallest application, bare or behind the extension."""
    app = Quart("benchmark")
    if policy is not None:
        Doorkey(app, sample.door.async_verifier, policy=policy)

    async def messages() -> str:
        return "hello"

    app.get(PATH)(requires(NEEDED)(messages) if policy is PER_ROUTE else messages)
    return app


def in_a_loop(runner: asyncio.Runner, app: Any, authorization: bytes) -> Side:
    """A side that sends requests to *app*, one after the other, and stays connected meanwhile."""
    scope = {
        "type": "http",
        "http_version": "1.1",
        "scheme": "http",
        "method": METHOD,
        "path": PATH,
        "query_string": b"",
        "client": (ADDRESS, 50_000),
        "headers": [(b"host", b"api.example"), (b"accept", b"*/*"), (b"authorization", authorization)],
        "state": {},
    }
    statuses: list[int] = []

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 200))

    async def request() -> None:
        incoming = [{"type": "http.request"}]

        async def receive() -> Any:
            return incoming.pop() if incoming else await asyncio.Future()

        await app(dict(scope), receive, send)

    async def burst(number: int) -> float:
        statuses.clear()
        started = perf_counter()
        for _ in range(number):
            await request()
        taken = perf_counter() - started
        if set(statuses) != {200}:
            raise RuntimeError(f"the answers have the statuses {set(statuses)}")
        return taken

    return lambda number: runner.run(burst(number))
