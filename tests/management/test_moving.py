"""Copying a store to another: all of it arrives, however often it is broken off, and nothing else is overwritten."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from doorkey.core.errors import (
    ConfigurationError,
    Conflict,
    ReadOnlyStore,
    StoreUnavailable,
    UnusableStore,
)
from doorkey.core.model import Granted, KeyType, Mode, Requirement, Use
from doorkey.core.verify import Verifier
from doorkey.door import assemble
from doorkey.management import moving
from doorkey.management.keyring import Keyring
from doorkey.management.moving import UNFINISHED, Copied, Progress, awaiting, copy, set_read_only
from doorkey.management.secrets import MasterSecrets
from doorkey.storage.memory import MemoryStore
from doorkey.storage.protocol import Batch, Event, Key, Properties, Store, Workspace
from doorkey.storage.sqlite import SQLiteStore
from doorkey.testing import Clock, bearer

SECRETS = MasterSecrets.generate()
Make = Callable[[Properties], Store]


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes new stores of one engine."""
    made: list[Store] = []

    def make(properties: Properties) -> Store:
        sqlite = request.param == "sqlite"
        path = tmp_path / f"{len(made)}.db"
        made.append(SQLiteStore.create(path, properties) if sqlite else MemoryStore(properties))
        return made[-1]

    yield make
    for store in made:
        store.close()


@pytest.fixture
def ring() -> Keyring:
    """A keyring on a new store in memory."""
    return Keyring(MemoryStore(Properties(fingerprints=SECRETS.fingerprints)), SECRETS, clock=Clock(), actor="ann")


@pytest.fixture
def source(ring: Keyring) -> Store:
    """A store with two of every listing's pages, with dead tokens, used ones, and whatever else a key can be."""
    store = ring._store
    busy = ring.approve(ring.provision("Busy").id).id
    ring.suspend(ring.provision("Sleepy").id)
    for number in range(moving._PAGE):
        ring.issue(busy, type=KeyType.SECRET, mode=Mode.TEST, name=f"key {number}")
    bound: dict[str, Any] = {
        "permissions": ["messages:read"],
        "networks": ["192.0.2.0/24"],
        "expires_at": 1_900_000_000,
    }
    key = ring.issue(busy, type=KeyType.SECRET, mode=Mode.LIVE, name="Ünïcode", **bound).id
    ring.reveal(key)
    for _ in range(2):
        ring.roll(key)
        ring.end_grace(key)
    ring.reissue(key, because="leaked")
    ring.roll(key, grace=60)
    live, publishable = (each for each in ring.keys(busy, Mode.LIVE) if each.id != key)
    ring.revoke(live.id, because="left")
    store.record_uses(Use(token.id, at) for at, token in enumerate(ring.key(key).tokens[1:], 5))
    store.record_uses([Use(publishable.tokens[0].id, 1)])
    for number in range(moving._PAGE):
        ring.provision(f"workspace {number}")
    return store


def contents(store: Store) -> list[tuple[Workspace, list[Key], list[Event]]]:
    """All that *store* holds, apart from what it says of itself."""
    many = 10_000
    return [
        (workspace, [*store.keys(workspace.id, limit=many)], [*store.events(workspace.id, limit=many)])
        for workspace in store.workspaces(limit=many)
    ]


class Faulty(MemoryStore):
    """A store that fails at one of its writes, before it is done or after. It counts them, and the values committed."""

    def __init__(self, fault: int, late: bool = False) -> None:
        super().__init__()
        self.fault, self.late, self.writes, self.values = fault, late, 0, 0

    def write(self, how: Callable[[], None]) -> None:
        self.writes += 1
        if self.writes != self.fault:
            how()
        else:
            if self.late:
                how()
            raise StoreUnavailable("gone")

    def commit(self, batch: Batch) -> None:
        self.write(lambda: super(Faulty, self).commit(batch))
        self.values += len(batch.workspaces) + len(batch.keys) + len(batch.events)

    def record_uses(self, uses: Any) -> None:
        self.write(lambda: super(Faulty, self).record_uses(uses))


class Watched(MemoryStore):
    """A store in which something happens before one of its commits."""

    def __init__(self, happens: Callable[[], object], before: int = 1) -> None:
        super().__init__()
        self.happens, self.before = happens, before

    def commit(self, batch: Batch) -> None:
        self.before -= 1
        if self.before == 0:
            self.happens()
        super().commit(batch)


# What arrives


def test_everything_arrives(source: Store, make: Make) -> None:
    """Every value of every listing is equal in the copy and in a copy of that, last uses included."""
    before, first = contents(source), make(awaiting(source.properties()))
    copied = copy(source, first)
    second = make(awaiting(first.properties()))
    assert copy(first, second) == copied
    assert contents(source) == contents(first) == contents(second) == before
    keys = [key for _, keys, _ in before for key in keys]
    assert copied == Copied(
        workspaces=len(before),
        keys=len(keys),
        tokens=sum(len(key.tokens) for key in keys),
        events=sum(len(events) for _, _, events in before),
    )
    for key in keys:
        for token in key.tokens:
            assert source.find([token.digest]) == second.find([token.digest]) is not None


def test_the_copy_can_be_used(source: Store, make: Make) -> None:
    """It says of itself what the source said, and its keyring, verifier and chains go on where those stopped."""
    target = make(awaiting(source.properties()))
    copy(source, target)
    said = target.properties()
    assert (said.profile, said.fingerprints, said.read_only) == ("default", SECRETS.fingerprints, False)
    door = assemble(target, SECRETS, clock=Clock())
    ring = door.keyring.acting("bob")
    workspace = next(each.id for each in ring.workspaces() if each.suspended_at is None)
    token = ring.reveal(ring.issue(workspace, type=KeyType.SECRET, mode=Mode.TEST, name="new").id)
    assert isinstance(door.verifier.verify(bearer(token), requires=Requirement.ANY_KEY), Granted)


def test_an_empty_store_is_copied(make: Make) -> None:
    """Nothing is something that can be copied."""
    source, target = MemoryStore(Properties(profile="falu")), make(Properties())
    assert copy(source, target) == Copied()
    assert target.properties().profile == "falu"


def test_an_empty_store_that_was_made_already(source: Store, make: Make) -> None:
    """A store that somebody made for the copy, with a secret of its own, takes the secret of the source."""
    target = make(Properties(fingerprints=("other",)))
    copy(source, target)
    assert contents(target) == contents(source)
    assert target.properties().fingerprints == SECRETS.fingerprints


def test_it_tells_how_far_it_is(source: Store) -> None:
    """Both halves of the way are told, page by page, to their ends."""
    steps: list[Progress] = []
    copied = copy(source, MemoryStore(), steps.append)
    total = copied.workspaces + copied.keys + copied.events
    for doing in ("copying", "comparing"):
        done = [step.done for step in steps if step.doing == doing]
        assert done == sorted(set(done))
        assert done[-1] == total
    assert {step.total for step in steps} == {total}


# The source stands still


def test_the_source_takes_no_change(source: Store, ring: Keyring) -> None:
    """From the first step on every verb is refused, and finds are answered; afterwards the source stays so."""
    workspace = next(each.id for each in ring.workspaces() if each.suspended_at is None)
    key = next(iter(ring.keys(workspace, Mode.TEST)))
    token = ring.reveal(key.id)
    verifier = Verifier(source, SECRETS.digester())

    def change(step: Progress | None = None) -> None:
        with pytest.raises(ReadOnlyStore, match="read-only"):
            ring.rename(key.id, "other")
        with pytest.raises(ReadOnlyStore):
            ring.revoke(key.id, because="leaked")
        assert isinstance(verifier.verify(bearer(token), requires=Requirement.ANY_KEY), Granted)

    copy(source, MemoryStore(), change)
    change()
    set_read_only(source, False)
    ring.rename(key.id, "other")


def test_a_source_that_is_let_go_meanwhile(source: Store) -> None:
    """Whoever lifts the flag during a copy ends it, even if nothing was changed, and the copy cannot be used."""
    target = MemoryStore()

    def lift(step: Progress) -> None:
        set_read_only(source, False)
        set_read_only(source, True)

    with pytest.raises(Conflict, match="changed meanwhile"):
        copy(source, target, lift)
    assert target.properties().profile == UNFINISHED


def test_read_only_on_and_off() -> None:
    """The flag is set and cleared; setting what is set already writes nothing, and who is quicker is waited for."""
    store = Watched(lambda: None)
    first = set_read_only(store, True)
    assert first.read_only is True
    assert set_read_only(store, True) == store.properties() == first
    assert set_read_only(store, False).read_only is False

    def quicker() -> None:
        said = store.properties()
        store.commit(Batch(properties=(replace(said, fingerprints=("new",), version=said.version + 1), said.version)))

    store.happens, store.before = quicker, 1
    assert set_read_only(store, True).fingerprints == ("new",)


# Broken off


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_broken_off_at_every_write(source: Store, late: bool) -> None:
    """Wherever the target fails, what is there is no store that anybody works with, and the next copy completes it."""
    whole = contents(source)
    for fault in range(1, 1000):
        target = Faulty(fault, late)
        try:
            copy(source, target)
        except StoreUnavailable:
            begun = contents(target)
        else:
            break
        if target.properties().profile == UNFINISHED:
            with pytest.raises(ConfigurationError, match="store copy"):
                assemble(target, SECRETS)
        else:
            assert begun == [] or (late and begun == whole)
        copy(source, target)
        assert contents(target) == whole
        assert target.properties().profile == "default"
    assert fault > 10


def test_broken_off_before_the_source_stands_still(ring: Keyring) -> None:
    """Where the source cannot be set read-only, nothing was begun."""
    source, target = Faulty(1), MemoryStore()
    with pytest.raises(StoreUnavailable):
        copy(source, target)
    assert target.properties() == Properties()
    copy(source, target)


def test_what_is_there_is_not_written_again(source: Store) -> None:
    """A copy that goes on does only what is missing, and one that was finished writes nothing."""
    whole = Faulty(0)
    copy(source, whole)
    in_two = Faulty(whole.writes // 2)
    with pytest.raises(StoreUnavailable):
        copy(source, in_two)
    assert 0 < in_two.values < whole.values
    copy(source, in_two)
    assert in_two.values == whole.values
    before = contents(in_two), in_two.properties(), in_two.writes
    copy(source, in_two)
    assert (contents(in_two), in_two.properties(), in_two.writes) == before


# What is in the way


def put_in(store: Store) -> None:
    """Another workspace."""
    store.commit(Batch(workspaces=((Workspace("ws_other", "Other", 1), None),)))


def rename(store: Store) -> None:
    """Another name for the first workspace."""
    first = store.workspaces(limit=1)[0]
    store.commit(Batch(workspaces=((replace(first, name="Other", version=first.version + 1), first.version),)))


def add_key(store: Store) -> None:
    """Another key."""
    first = store.workspaces(limit=1)[0]
    store.commit(Batch(keys=((Key("key_other", first.id, KeyType.SECRET, Mode.TEST, "other", 1, ()), None),)))


def add_event(store: Store) -> None:
    """An event more."""
    first = store.workspaces(limit=1)[0]
    event = Event(first.id, first.events + 1, 1, "bob", "key.roll", None, "{}", bytes(32))
    store.commit(Batch(events=(event,)))


CHANGES = [put_in, rename, add_key, add_event]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__doc__)
@pytest.mark.parametrize("finished", [False, True], ids=["unfinished", "finished"])
def test_what_is_not_of_the_copy_stays(source: Store, change: Callable[[Store], None], finished: bool) -> None:
    """A target with anything that the source has not is refused, and nothing in it changes."""
    target = Faulty(0)
    copy(source, target)
    if not finished:
        said = target.properties()
        target.commit(Batch(properties=(replace(said, profile=UNFINISHED, version=said.version + 1), said.version)))
    change(target)
    before, writes = (contents(target), target.properties()), target.writes
    with pytest.raises(UnusableStore, match="not of this copy"):
        copy(source, target)
    assert ((contents(target), target.properties()), target.writes) == (before, writes)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__doc__)
def test_a_source_that_went_on(source: Store, change: Callable[[Store], None]) -> None:
    """Once the source was given free and has changed, an old copy of it is somebody else's, and neither is touched."""
    target = MemoryStore()
    copy(source, target)
    before = contents(target)
    set_read_only(source, False)
    change(source)
    with pytest.raises(UnusableStore):
        copy(source, target)
    assert source.properties().read_only is False
    set_read_only(source, True)
    with pytest.raises(UnusableStore):
        copy(source, target)
    assert contents(target) == before


def test_a_stranger_is_refused_before_anything_is_done(source: Store) -> None:
    """A target of somebody else's leaves the source as it is, free to change."""
    target = MemoryStore()
    put_in(target)
    for profile in ("default", UNFINISHED):
        said = target.properties()
        target.commit(Batch(properties=(replace(said, profile=profile, version=said.version + 1), said.version)))
        with pytest.raises(UnusableStore, match="empty"):
            copy(source, target)
        assert source.properties().read_only is False


def test_a_store_is_not_copied_to_itself(source: Store) -> None:
    """One store under two names is a target that holds something."""
    with pytest.raises(UnusableStore):
        copy(source, source)
    assert source.properties().read_only is False


def test_a_target_that_is_read_only(source: Store) -> None:
    """It is refused, with what lifts that."""
    target = MemoryStore(Properties(read_only=True))
    with pytest.raises(ReadOnlyStore, match="read-only off"):
        copy(source, target)
    assert source.properties().read_only is False


def test_half_a_copy_is_no_source() -> None:
    """What was broken off is finished, not copied on."""
    with pytest.raises(UnusableStore, match="broken off"):
        copy(MemoryStore(awaiting(Properties())), MemoryStore())


def test_somebody_else_writes_to_the_target(source: Store) -> None:
    """A value that comes in the way meanwhile ends the copy, with what it is."""
    target = Watched(lambda: put_in_first(target), before=3)

    def put_in_first(store: Store) -> None:
        MemoryStore.commit(store, Batch(workspaces=((source.workspaces(limit=200)[-1], None),)))  # type: ignore[arg-type]

    with pytest.raises(UnusableStore, match=r"does not take .*ws_\w+ is there already"):
        copy(source, target)


# A source that is not in order


@pytest.fixture
def file(source: Store, tmp_path: Path) -> Path:
    """The source in a file."""
    path = tmp_path / "source.db"
    with closing(SQLiteStore.create(path)) as store:
        copy(source, store)
    return path


def alter(path: Path, statement: str) -> None:
    """Change a database behind doorkey's back."""
    with closing(sqlite3.connect(path)) as driver, driver:
        driver.execute("PRAGMA ignore_check_constraints = ON")
        driver.execute(statement)


def test_a_chain_that_was_tampered_with_is_copied_as_it_is(file: Path) -> None:
    """The copy destroys no evidence, and tells of it."""
    alter(file, "UPDATE events SET actor = 'eve' WHERE sequence = 2")
    with closing(SQLiteStore(file)) as source:
        target = MemoryStore()
        copied = copy(source, target)
        assert contents(target) == contents(source)
    assert len(copied.findings) == copied.workspaces
    assert {finding.sequence for _, finding in copied.findings} == {2}


def test_a_chain_with_a_gap(file: Path) -> None:
    """No store takes events after a gap, so the copy ends with what tells more."""
    alter(file, "DELETE FROM events WHERE sequence = 2")
    with closing(SQLiteStore(file)) as source, pytest.raises(UnusableStore, match=r"event 3 of .*audit verify"):
        copy(source, MemoryStore())


def test_a_key_that_means_nothing(file: Path) -> None:
    """A key that no store takes ends the copy, with why, and with what tells more."""
    alter(file, "UPDATE keys SET permissions = 'a b:'")
    with (
        closing(SQLiteStore(file)) as source,
        pytest.raises(UnusableStore, match=r"'b:' is no permission.*store check"),
    ):
        copy(source, MemoryStore())
