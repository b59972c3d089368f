"""The servers, each started as its users start it: a process of its own, by its command line."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from platform import python_version

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
"""Seconds after which a server that does not start is given up; this machine may be busy."""


@dataclass(frozen=True)
class Server:
    """
    A server and how to start it.

    Attributes:
        name: what the tables call it.
        interface: ``asgi`` or ``wsgi``: what the adapter in it speaks.
        command: module and arguments of Python. None of them lets the server read the fields of proxies.
        websockets: whether it accepts them; ``denials`` tells whether it can send a response in the place of one.
        eager: whether it says "100 Continue" before any application is asked.
        buffers: whether it reads a request's whole body before any application is asked.
        joins: whether it takes a field X_Forwarded_For for a line of X-Forwarded-For.
        lingers: whether it closes a websocket only when the client sends something, while the application waits for it.
    """

    name: str
    interface: str
    command: str
    websockets: bool = False
    denials: bool = False
    eager: bool = False
    buffers: bool = False
    joins: bool = False
    lingers: bool = False

    @property
    def version(self) -> str:
        """Of the package that serves."""
        package = self.name.split()[0].rstrip(",")
        return "Python " + python_version() if package == "wsgiref" else version(package)


SERVERS = (
    Server(
        "uvicorn with h11",
        "asgi",
        "uvicorn {asgi} --http h11 --ws websockets --no-proxy-headers --log-level warning {uvicorn}",
        websockets=True,
        denials=True,
    ),
    Server(
        "uvicorn with httptools",
        "asgi",
        "uvicorn {asgi} --http httptools --ws wsproto --no-proxy-headers --log-level warning {uvicorn}",
        websockets=True,
        denials=True,
    ),
    Server(
        "hypercorn",
        "asgi",
        "hypercorn {asgi} --log-level warning --graceful-timeout 1 {bind}",
        websockets=True,
        denials=True,
        eager=True,
    ),
    Server(
        "granian",
        "asgi",
        "granian {asgi} --interface asgi --log-level warning {granian}",
        websockets=True,
        denials=True,
        lingers=True,
    ),
    Server("gunicorn, asgi", "asgi", "gunicorn {asgi} -k asgi --log-level warning {bind}", websockets=True),
    Server("gunicorn, sync", "wsgi", "gunicorn {wsgi} -k sync --log-level warning {bind}", eager=True),
    Server("gunicorn, gthread", "wsgi", "gunicorn {wsgi} -k gthread --log-level warning {bind}", eager=True),
    Server("granian, wsgi", "wsgi", "granian {wsgi} --interface wsgi --log-level warning {granian}", joins=True),
    Server(
        "waitress", "wsgi", "waitress {waitress} --no-clear-untrusted-proxy-headers {wsgi}", eager=True, buffers=True
    ),
    Server("wsgiref", "wsgi", "tests.servers.plain wsgiref {port}", joins=True),
    Server("werkzeug", "wsgi", "tests.servers.plain werkzeug {port}", eager=True),
    Server(
        "uvicorn and a2wsgi", "wsgi", "uvicorn {bridged} --no-proxy-headers --log-level warning {uvicorn}", joins=True
    ),
)

Address = int | Path
"""A port of 127.0.0.1, or a Unix socket."""


@contextmanager
def running(template: str, unix: Path | None = None, environment: Mapping[str, str] | None = None) -> Iterator[Address]:
    """Run Python with a command until the context ends; yield where it listens."""
    address: Address = free_port() if unix is None else unix
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", *_filled(template, address).split()],
            cwd=ROOT,
            env={**_clean_environment(), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_for(address, process)
            yield address
        except BaseException:
            output.seek(0)
            print(output.read().decode(errors="replace"))
            raise
        finally:
            stop(process)


def connected(address: Address, source: str = "", timeout: float = 10.0) -> socket.socket:
    """A connection to *address*, from *source* if given."""
    if isinstance(address, int):
        host = "::1" if source == "::1" else "127.0.0.1"
        return socket.create_connection((host, address), timeout, (source, 0) if source else None)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout)
    try:
        connection.connect(str(address))
    except BaseException:
        connection.close()
        raise
    return connection


def _filled(template: str, address: Address) -> str:
    tcp = isinstance(address, int)
    return template.format(
        asgi="tests.servers.site:asgi",
        wsgi="tests.servers.site:wsgi",
        bridged="tests.servers.wrapped:bridged",
        port=address,
        uvicorn=f"--port {address}" if tcp else f"--uds {address}",
        bind=f"--bind 127.0.0.1:{address}" if tcp else f"--bind unix:{address}",
        granian=f"--port {address}" if tcp else f"--uds {address}",
        waitress=f"--listen 127.0.0.1:{address}" if tcp else f"--unix-socket {address}",
    )


def _clean_environment() -> dict[str, str]:
    """Ours, without what sets a server up from outside."""
    named = ("UVICORN_", "GRANIAN_", "GUNICORN_", "FORWARDED_ALLOW_IPS", "WEB_CONCURRENCY", "SCRIPT_NAME", "DOORKEY_")
    return {name: value for name, value in os.environ.items() if not name.startswith(named)}


def _wait_for(address: Address, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None:
        try:
            connected(address).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"the server ended with {process.returncode} instead of listening")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process, with force if it does not go."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
