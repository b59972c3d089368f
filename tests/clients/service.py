"""The demo on a real server, with an eye on what reaches it and a hand on its store."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from starlette.datastructures import Headers

from doorkey import DEFAULT, KeyType, Mode, Profile
from doorkey.adapters.asgi import Application as ASGIApplication
from doorkey.adapters.wsgi import Application as WSGIApplication
from doorkey.demo import asgi, serve, stage, wsgi
from doorkey.demo.stage import Stage

Around = Callable[[ASGIApplication], ASGIApplication]
"""Puts a middleware outside doorkey."""


class Request(NamedTuple):
    """What reached doorkey: names of header fields in lower case, without Authorization."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Service:
    """
    Attributes:
        url: where it is served, without a path.
        requests: all that came, in order.
    """

    stage: Stage
    url: str
    requests: list[Request]

    def token(self, type: KeyType = KeyType.SECRET, mode: Mode = Mode.TEST) -> str:
        """The workspace's own token."""
        return self.stage.tokens[type, mode].expose()

    def issue(self, **options: Any) -> str:
        """The token of a new test secret key."""
        ring = self.stage.ring
        key = ring.issue(self.stage.workspace, type=KeyType.SECRET, mode=Mode.TEST, name="client", **options)
        return ring.reveal(key.id).expose()

    def rolled(self) -> str:
        """A token that has expired, because its key was rolled without grace."""
        ring = self.stage.ring
        key = ring.issue(self.stage.workspace, type=KeyType.SECRET, mode=Mode.TEST, name="client")
        token = ring.reveal(key.id).expose()
        ring.roll(key.id, grace=0)
        return token

    @contextmanager
    def store_down(self) -> Iterator[None]:
        """Nothing can be found, for as long as the context lasts."""
        with closing(sqlite3.connect(self.stage.folder / "keys.db")) as connection:
            connection.execute("ALTER TABLE tokens RENAME TO hidden")
            try:
                yield
            finally:
                connection.execute("ALTER TABLE hidden RENAME TO tokens")


@contextmanager
def serving(
    profile: Profile = DEFAULT, stack: str = "asgi", around: Around = lambda application: application
) -> Iterator[Service]:
    """The demo, on uvicorn or on Werkzeug's server (``wsgi``), for as long as the context lasts."""
    requests: list[Request] = []
    with stage.built(profile=profile) as scene:
        if stack == "asgi":
            application = _seeing_asgi(asgi.application(scene.door, scene.databases), requests)
            server = serve.serving_asgi(around(application))
        else:
            server = serve.serving_wsgi(_seeing_wsgi(wsgi.application(scene.door, scene.databases), requests))
        with server as port:
            requests.clear()  # the server was asked whether it is there
            yield Service(scene, f"http://127.0.0.1:{port}", requests)


def _seeing_asgi(application: ASGIApplication, requests: list[Request]) -> ASGIApplication:
    async def seeing(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            fields = {name: value for name, value in Headers(scope=scope).items() if name != "authorization"}
            requests.append(Request(scope["method"], scope["path"], fields))
        await application(scope, receive, send)

    return seeing


def _seeing_wsgi(application: WSGIApplication, requests: list[Request]) -> WSGIApplication:
    def seeing(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        fields = {
            name.removeprefix("HTTP_").replace("_", "-").lower(): value
            for name, value in environ.items()
            if name == "CONTENT_TYPE" or (name.startswith("HTTP_") and name != "HTTP_AUTHORIZATION")
        }
        requests.append(Request(environ["REQUEST_METHOD"], environ["PATH_INFO"], fields))
        return application(environ, start_response)

    return seeing
