"""Litestar: a handler with a guard, against the floor around the same application."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from litestar import Litestar, get
from litestar.types import Guard

from doorkey.adapters.litestar import DoorkeyPlugin, requires

from .. import floor
from ..sample import NEEDED, PATH, RULES, new_sample
from ..table import Row
from ..timing import by_turns
from ..web import added_row, asgi_request


def rows(rounds: int) -> Iterator[Row]:
    """Litestar has nothing of its own to compare with, but each guard costs it a copy of the handler."""
    sample = new_sample()
    bare = application()
    ours = application([requires(NEEDED)], [DoorkeyPlugin(sample.door.async_verifier)])
    sides = {
        "bare": asgi_request(bare, sample.valid, 200),
        "floor": asgi_request(floor.asgi(cast("Any", bare), sample.check, RULES), sample.valid, 200),
        "guard": asgi_request(application([compared]), sample.valid, 200),
        "doorkey": asgi_request(ours, sample.valid, 200),
    }
    times = by_turns(sides, rounds)
    yield added_row("Litestar", "added by the plugin and a guard", times, "doorkey", "floor")
    yield added_row("Litestar", "the same against a guard that does nothing", times, "doorkey", "guard")


async def compared(connection: object, handler: object) -> None:
    """A guard that lets everybody in."""


def application(guards: list[Guard] | None = None, plugins: list[DoorkeyPlugin] | None = None) -> Litestar:
    """The smallest application."""

    @get(PATH, guards=guards, media_type="text/plain")
    async def messages() -> str:
        return "hello"

    return Litestar([messages], plugins=plugins, openapi_config=None, logging_config=None)
