"""Werkzeug: the dispatcher, against the same dispatching without it, and the floor around that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Request, Response

from doorkey.adapters.werkzeug import Dispatcher, requires

from .. import floor
from ..sample import METHOD, NEEDED, PATH, RULES, new_sample
from ..table import Row
from ..timing import by_turns
from ..web import added_row, wsgi_request


def rows(rounds: int) -> Iterator[Row]:
    """Werkzeug has nothing of its own to compare with."""
    sample = new_sample()
    bare = dispatch(urls(messages))
    sides = {
        "bare": wsgi_request(bare, sample.valid, "200 OK"),
        "floor": wsgi_request(floor.wsgi(bare, sample.check, RULES), sample.valid, "200 OK"),
        "doorkey": wsgi_request(
            Dispatcher(urls(requires(NEEDED)(messages)), sample.door.verifier), sample.valid, "200 OK"
        ),
    }
    times = by_turns(sides, rounds)
    yield added_row("Werkzeug", "added by the dispatcher", times, "doorkey", "floor")


def messages(request: Request) -> Response:
    return Response("hello")


def urls(view: Any) -> Map:
    """The smallest map."""
    return Map([Rule(PATH, methods=[METHOD], endpoint=view)])


def dispatch(url_map: Map) -> Any:
    """A WSGI application as Werkzeug's documentation has it."""

    def application(environ: Any, start_response: Any) -> Any:
        endpoint, values = url_map.bind_to_environ(environ).match()
        return endpoint(Request(environ), **values)(environ, start_response)

    return application
