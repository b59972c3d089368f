"""A store in PostgreSQL, its operator, and lookups of either kind. Other tests have stores of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from doorkey.storage.postgres import AsyncPostgresLookup, PostgresLookup, PostgresStore
from tests.storage.postgres_samples import SHORT, Asking, Opened, Run


@pytest.fixture
def store(database: str) -> Iterator[PostgresStore]:
    with closing(PostgresStore.create(database)) as store:
        yield store


@pytest.fixture
def admin(database: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection of the operator's, not ours."""
    with psycopg.connect(database, autocommit=True, options="-c search_path=doorkey") as connection:
        yield connection


@pytest.fixture
def run() -> Iterator[Run]:
    """Runs coroutines on an event loop of the test."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(params=["sync", "async"])
def opened(request: pytest.FixtureRequest, run: Run) -> Iterator[Opened]:
    """Opens lookups of either kind, and closes them."""
    lookups: list[PostgresLookup | AsyncPostgresLookup] = []

    def open(url: str, timeout: float = SHORT, **options: Any) -> Asking:
        if request.param == "sync":
            lookup = PostgresLookup(url, timeout=timeout, **options)
            lookups.append(lookup)
            return lookup.find
        asynchronous = AsyncPostgresLookup(url, timeout=timeout, **options)
        lookups.append(asynchronous)
        return lambda digests: run(asynchronous.find(digests))

    yield open
    for lookup in lookups:
        lookup.close()
