"""Real servers on this machine's loopback address: uvicorn for ASGI, Werkzeug's threaded one for WSGI."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection

import uvicorn
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from ..adapters import asgi, wsgi
from ..core.errors import ConfigurationError

HOST = "127.0.0.1"
USUAL_PORT = 8000
PATIENCE = 10
"""Seconds in which a server must have started, or stopped."""


def listen(port: int | None = None) -> socket.socket:
    """
    A listening socket. Without a port it takes the usual one, or any free one should that be taken.

    Raises:
        ConfigurationError: *port* cannot be had.
    """
    if port is None:
        with suppress(OSError):
            return socket.create_server((HOST, USUAL_PORT))
        port = 0
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"{port} is no port: they go from 1 to 65535, and 0 means any free one")
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise ConfigurationError(
            f"port {port} of {HOST} cannot be had ({error.strerror}): name another, or none to get a free one"
        ) from None


@contextmanager
def until_stopped() -> Iterator[None]:
    """
    Let SIGINT or SIGTERM end what runs in this context, both by KeyboardInterrupt, so that it tidies up.

    A SIGINT that Python was started to ignore, as by a shell in the background, is ignored as before.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def serve(application: asgi.Application, listener: socket.socket) -> None:
    """Serve in this thread, until a signal."""
    _uvicorn(application).run(sockets=[listener])


@contextmanager
def serving_asgi(application: asgi.Application) -> Iterator[int]:
    """Serve in a thread for as long as the context lasts; gives the port."""
    server = _uvicorn(application)
    with listen(0) as listener:
        port: int = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="asgi server")
        thread.start()
        try:
            _wait_for(port)
            yield port
        finally:
            server.should_exit = True
            thread.join(PATIENCE)


@contextmanager
def serving_wsgi(application: wsgi.Application) -> Iterator[int]:
    """Serve in threads for as long as the context lasts; gives the port."""
    server = _Threaded(HOST, 0, application, _Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="wsgi server")
    thread.start()
    try:
        _wait_for(server.port)
        yield server.port
    finally:
        server.shutdown()
        thread.join(PATIENCE)
        server.server_close()


class _Threaded(ThreadedWSGIServer):
    """One whose closing waits for all requests."""

    daemon_threads = False


class _Quiet(WSGIRequestHandler):
    """One that does not tell of each request."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


def _uvicorn(application: asgi.Application) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            application,
            # Else uvicorn itself would believe X-Forwarded-For, of any neighbour on this machine.
            proxy_headers=False,
            ws="none",
            # With httptools uvicorn drops the body of a request that offers HTTP/2, as Java's client does (its #2722).
            http="h11",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=PATIENCE,
        )
    )


def _wait_for(port: int) -> None:
    """Wait until a server answers. Its socket listens already, so one request waits there until it does."""
    connection = HTTPConnection(HOST, port, timeout=PATIENCE)
    try:
        connection.request("GET", "/healthz")
        connection.getresponse().read()
    finally:
        connection.close()
