"""Pages in a browser that call the service: from another origin, as a shop's would, and from its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse, Response

from doorkey.adapters.asgi import Application
from tests.clients.browser import Browser
from tests.clients.plain import FETCH, Ask, Seen, seen
from tests.clients.service import Around

PAGE = "<!doctype html><title>A shop</title><p>Nothing to see here."

PASSWORD_WINDOW = "/password-window"
"""Where the site challenges with Basic, whoever asks: what doorkey does not do to a script."""


@contextmanager
def shop() -> Iterator[str]:
    """A server of pages alone; gives its origin."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Shop)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Shop(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = PAGE.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def cors(origin: str, came: list[tuple[str, str]] | None = None) -> Around:
    """CORS for the pages of *origin*, outside doorkey; what comes to it is noted in *came*, method and path."""

    def around(application: Application) -> Application:
        allowing = CORSMiddleware(
            _site(application),
            allow_origins=[origin],
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization"],
            expose_headers=["Request-Id", "Retry-After", "WWW-Authenticate"],
        )

        async def noting(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http" and came is not None:
                came.append((scope["method"], scope["path"]))
            await allowing(scope, receive, send)

        return noting

    return around


def _site(application: Application) -> Application:
    """*application* on a site that has pages of its own."""
    pages = {
        "/": HTMLResponse(PAGE),
        "/favicon.ico": Response(),
        PASSWORD_WINDOW: Response(status_code=401, headers={"WWW-Authenticate": 'Basic realm="API"'}),
    }

    async def site(scope: Any, receive: Any, send: Any) -> None:
        page = pages.get(scope.get("path", "")) or application
        await page(scope, receive, send)

    return site


def with_fetch(browser: Browser) -> Callable[[Ask], Seen]:
    """``fetch`` in the page that *browser* shows."""

    def send(ask: Ask) -> Seen:
        answer = browser.run("const {method, url, token, form} = arguments[0];" + FETCH, ask._asdict())
        return seen(*answer)

    return send
