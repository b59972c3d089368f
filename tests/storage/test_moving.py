"""Copies between PostgreSQL and every other engine (see tests/management/test_moving.py for the rest)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from doorkey.core.errors import ConfigurationError, ReadOnlyStore, StoreUnavailable
from doorkey.core.model import KeyType, Mode, Use
from doorkey.door import assemble
from doorkey.management import moving
from doorkey.management.keyring import Keyring
from doorkey.management.secrets import MasterSecrets
from doorkey.storage.memory import MemoryStore
from doorkey.storage.postgres import PostgresStore
from doorkey.storage.protocol import Batch, Event, Key, Properties, Store, Workspace
from doorkey.storage.sqlite import SQLiteStore
from doorkey.testing import Clock

SECRETS = MasterSecrets.generate()


@pytest.fixture
def source() -> Store:
    """A store with several pages of keys and events, dead tokens and used ones among them."""
    store = MemoryStore(Properties(fingerprints=SECRETS.fingerprints))
    ring = Keyring(store, SECRETS, clock=Clock(), actor="ann")
    workspace = ring.approve(ring.provision("Ünïcode 🔑").id).id
    ring.suspend(ring.provision("Other").id)
    for number in range(2 * moving._PAGE):
        key = ring.issue(
            workspace,
            type=KeyType.SECRET,
            mode=Mode.LIVE,
            name=f"key {number}",
            permissions=["messages:read"],
            networks=["192.0.2.0/24", "2001:db8::/32"],
        )
        if number % 10 == 0:
            ring.roll(key.id, grace=0)
            store.record_uses([Use(key.tokens[0].id, number)])
    return store


@pytest.fixture
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[Properties], Store]]:
    """Makes a store of another engine."""
    made: list[Store] = []

    def make(properties: Properties) -> Store:
        sqlite = request.param == "sqlite"
        made.append(SQLiteStore.create(tmp_path / "keys.db", properties) if sqlite else MemoryStore(properties))
        return made[-1]

    yield make
    for store in made:
        store.close()


def contents(store: Store) -> list[tuple[Workspace, list[Key], list[Event]]]:
    return [
        (each, [*store.keys(each.id, limit=10_000)], [*store.events(each.id, limit=10_000)])
        for each in store.workspaces(limit=10_000)
    ]


@pytest.mark.parametrize("other", ["memory", "sqlite"], indirect=True)
def test_there_and_back(source: Store, database: str, other: Callable[[Properties], Store]) -> None:
    """What goes to PostgreSQL and from there to another engine is the same, value by value."""
    with closing(PostgresStore.create(database, moving.awaiting(source.properties()))) as there:
        copied = moving.copy(source, there)
        back = other(moving.awaiting(there.properties()))
        assert moving.copy(there, back) == copied
        assert contents(source) == contents(there) == contents(back)
        with pytest.raises(ReadOnlyStore):
            assemble(there, SECRETS).keyring.acting("ann").provision("Third")
        assemble(back, SECRETS).keyring.acting("ann").provision("Third")


def test_broken_off_on_the_way_to_postgresql(source: Store, database: str) -> None:
    """Whatever commit was the last one, no service starts on what is there, and the next copy completes it."""

    class Faulty(PostgresStore):
        left = 1

        def commit(self, batch: Batch) -> None:
            self.left -= 1
            if self.left < 0:
                raise StoreUnavailable("gone")
            super().commit(batch)

    with closing(Faulty.create(database, moving.awaiting(source.properties()))) as target:
        assert isinstance(target, Faulty)
        for _ in range(100):
            try:
                moving.copy(source, target)
                break
            except StoreUnavailable:
                with pytest.raises(ConfigurationError, match="store copy"):
                    assemble(target, SECRETS)
                target.left = 1
        assert contents(target) == contents(source)
        assemble(target, SECRETS)
