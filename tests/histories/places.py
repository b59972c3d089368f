"""Where the store of a history is: made for it, and gone afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from tests.postgres_server import VARIABLE, Server

SQLITE, POSTGRESQL = "sqlite", "postgresql"


@dataclass(frozen=True)
class Place:
    """
    Where a store can be made.

    Attributes:
        folder: for the logs and the socket; temporary.
        server: the PostgreSQL of our own, which may be restarted.
    """

    url: str
    folder: Path
    server: Server | None = None

    @property
    def postgresql(self) -> bool:
        """Whether it is in PostgreSQL."""
        return not self.url.startswith(SQLITE)


@contextmanager
def place(store: str) -> Iterator[Place]:
    """
    A place for a new store.

    Args:
        store: ``sqlite``; ``postgresql`` for a server of our own, or the one that DOORKEY_TEST_POSTGRES names; or a
            PostgreSQL's URL, of a user who may make databases.
    """
    folder = Path(tempfile.mkdtemp(prefix="doorkey-"))  # a short path, because it holds sockets
    try:
        if store == SQLITE:
            yield Place(f"sqlite:///{folder}/keys.db", folder)
        elif store != POSTGRESQL or VARIABLE in os.environ:
            with _database(os.environ[VARIABLE] if store == POSTGRESQL else store) as url:
                yield Place(url, folder)
        else:
            server = Server.make(folder)
            try:
                yield Place(server.url(), folder, server)
            finally:
                server.stop(signal.SIGQUIT)
    finally:
        shutil.rmtree(folder)


@contextmanager
def _database(url: str) -> Iterator[str]:
    """The URL of a database of our own on somebody else's server."""
    name = f"doorkey_history_{os.getpid()}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'".encode())
        try:
            yield urlsplit(url)._replace(path=f"/{name}").geturl()
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
