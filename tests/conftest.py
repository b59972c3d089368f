"""
Settings and servers for every test.

Where no PostgreSQL can be had, the tests that need it are skipped, but fail where CI is set, so that they cannot be
forgotten.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from hypothesis import settings

from tests.postgres_server import VARIABLE, Server

# Before anything imports it, so that a contract's failures show what was compared.
pytest.register_assert_rewrite("doorkey.testing")

# A deadline per example would fail on a slow machine, and say nothing of the code.
settings.register_profile("doorkey", deadline=None)
settings.load_profile("doorkey")

# What a shell starts in the background ignores it, and so would all that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def make_server() -> Iterator[Callable[..., Server]]:
    """Makes servers of our own, with settings such as ``max_connections=5``, or standbys with ``standby_of``."""
    servers: list[Server] = []

    def make(*settings: str, standby_of: Server | None = None) -> Server:
        folder = Path(tempfile.mkdtemp(prefix="doorkey-"))  # a short path, because it holds a Unix socket
        try:
            server = Server.make(folder, *settings) if standby_of is None else standby_of.standby(folder)
        except (OSError, subprocess.SubprocessError) as error:
            shutil.rmtree(folder)
            reason = f"no PostgreSQL can be started here ({error}): set {VARIABLE} to the URL of one"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        servers.append(server)
        return server

    yield make
    for server in reversed(servers):  # standbys before their primary, which would wait for them
        server.stop(signal.SIGQUIT)
        shutil.rmtree(server.folder)


@pytest.fixture(scope="session")
def postgres(make_server: Callable[..., Server]) -> str:
    """The URL of a server that is always there."""
    return os.environ.get(VARIABLE) or make_server().url()


@pytest.fixture(scope="session")
def shared_database(postgres: str) -> Iterator[str]:
    """The URL of a database of ours."""
    name = f"doorkey_test_{os.getpid()}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'".encode())
        yield urlsplit(postgres)._replace(path=f"/{name}").geturl()
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def database(shared_database: str) -> Iterator[str]:
    """The URL of an empty database."""
    yield shared_database
    with psycopg.connect(shared_database, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS doorkey CASCADE")
