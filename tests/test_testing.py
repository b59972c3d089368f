"""The contracts themselves: our stores pass them, a stranger's plain ones do too, and broken ones do not."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from inspect import getsource
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import pytest

from doorkey.core.errors import Conflict
from doorkey.core.model import KeyType, Mode, Principal, Record, Use
from doorkey.core.permissions import PermissionSet
from doorkey.storage import rows
from doorkey.storage.aio import Inline, Threaded
from doorkey.storage.memory import MemoryStore
from doorkey.storage.protocol import Batch, Event, Key, Properties, Store, StoredToken, Workspace
from doorkey.storage.sqlite import SQLiteStore
from doorkey.testing import AsyncLookupContract, LookupContract, Planted, StoreContract

Value = TypeVar("Value")


@dataclass(frozen=True)
class State:
    """All that the plain store holds; a commit replaces it."""

    workspaces: dict[str, Workspace] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)
    events: dict[str, tuple[Event, ...]] = field(default_factory=dict)
    properties: Properties = field(default_factory=Properties)


class PlainStore:
    """What a stranger would write on an afternoon: one value that is replaced under a lock, and scans."""

    def __init__(self) -> None:
        self._state = State()
        self._lock = Lock()

    def find(self, digests: Sequence[bytes]) -> Record | None:
        state = self._state
        for key in state.keys.values():
            for token in key.tokens:
                if token.digest in digests:
                    return self.record(token, key, state.workspaces[key.workspace])
        return None

    def record(self, token: StoredToken, key: Key, workspace: Workspace) -> Record:
        return rows.record_of(token, key, workspace)

    def workspace(self, id: str) -> Workspace | None:
        return self._state.workspaces.get(id)

    def workspaces(self, *, after: str | None = None, limit: int = 100) -> Sequence[Workspace]:
        return self.page(self._state.workspaces, after, limit)

    def key(self, id: str) -> Key | None:
        return self._state.keys.get(id)

    def keys(
        self, workspace: str, *, mode: Mode | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[Key]:
        keys = self._state.keys.items()
        mine = {id: key for id, key in keys if key.workspace == workspace and mode in (None, key.mode)}
        return self.page(mine, after, limit)

    def page(self, values: dict[str, Value], after: str | None, limit: int) -> Sequence[Value]:
        return [values[id] for id in sorted(values) if after is None or id > after][: max(limit, 0)]

    def events(self, workspace: str, *, after: int | None = None, limit: int = 100) -> Sequence[Event]:
        return self._state.events.get(workspace, ())[after or 0 :][: max(limit, 0)]

    def properties(self) -> Properties:
        return self._state.properties

    def close(self) -> None: ...

    def commit(self, batch: Batch) -> None:
        with self._lock:
            state = self._state
            self.check_flag(batch, state.properties)
            workspaces, keys, events = dict(state.workspaces), dict(state.keys), dict(state.events)
            for workspace, version in batch.workspaces:
                self.put(workspaces, workspace, version)
            for key, version in batch.keys:
                if key.workspace not in workspaces or key.workspace != keys.get(key.id, key).workspace:
                    raise Conflict("not in this workspace")
                self.put(keys, replace(key, tokens=self.merged(key, keys.get(key.id))), version)
                tokens = [token for each in keys.values() for token in each.tokens]
                if not len(tokens) == len({token.id for token in tokens}) == len({token.digest for token in tokens}):
                    raise Conflict("a token is there already")
            for event in batch.events:
                if event.workspace not in workspaces or event.sequence != len(events.get(event.workspace, ())) + 1:
                    raise Conflict("no place for this event")
                events[event.workspace] = (*events.get(event.workspace, ()), event)
            properties, version = batch.properties or (state.properties, state.properties.version)
            if version != state.properties.version:
                raise Conflict("the properties have moved")
            self._state = State(workspaces, keys, events, properties)

    check_flag = staticmethod(rows.refuse_if_read_only)

    def put(self, values: dict[str, Any], value: Workspace | Key, version: int | None) -> None:
        if (values[value.id].version if value.id in values else None) != version:
            raise Conflict("it has moved")
        values[value.id] = value

    def merged(self, key: Key, stored: Key | None) -> tuple[StoredToken, ...]:
        old = {token.id: token for token in stored.tokens} if stored else {}
        new = {token.id: token for token in key.tokens}
        kept = (replace(new.get(id, token), last_used_at=token.last_used_at) for id, token in old.items())
        return (*(token for token in key.tokens if token.id not in old), *kept)

    def record_uses(self, uses: Iterable[Use]) -> None:
        with self._lock:
            self.check_flag(Batch(), self._state.properties)
            for use in uses:
                for key in [key for key in self._state.keys.values() if use.token_id in {t.id for t in key.tokens}]:
                    self._state.keys[key.id] = replace(key, tokens=tuple(self.used(t, use) for t in key.tokens))

    def used(self, token: StoredToken, use: Use) -> StoredToken:
        last = max(use.at, token.last_used_at or 0) if token.id == use.token_id else token.last_used_at
        return replace(token, last_used_at=last)


class TestPlainStore(StoreContract):
    """A stranger's store passes."""

    @pytest.fixture
    def store(self) -> PlainStore:
        return PlainStore()


class TestMemoryStore(StoreContract):
    """Ours in memory passes."""

    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


class TestSQLiteStore(StoreContract):
    """Ours in a file passes."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[SQLiteStore]:
        with closing(SQLiteStore.create(tmp_path / "keys.db")) as store:
            yield store


def planting(store: Store) -> Callable[[Planted], None]:
    """Plants by committing."""

    def plant(planted: Planted) -> None:
        token = StoredToken(planted.token_id, planted.digest, "fingerprint", 0, expires_at=planted.expires_at)
        workspace = Workspace(planted.workspace, "Acme", 0, suspended_at=0 if planted.suspended else None)
        key = Key(planted.key, planted.workspace, planted.type, planted.mode, "", 0, (token,))
        key = replace(key, permissions=planted.permissions, networks=planted.networks)
        key = replace(key, revoked_at=0 if planted.revoked else None)
        old_workspace, old_key = store.workspace(workspace.id), store.key(key.id)
        of_workspace = old_workspace.version if old_workspace else None
        of_key = old_key.version if old_key else None
        workspace = replace(workspace, version=(of_workspace or 0) + 1)
        key = replace(key, version=(of_key or 0) + 1)
        store.commit(Batch(workspaces=((workspace, of_workspace),), keys=((key, of_key),)))

    return plant


class TestLookupOfMemoryStore(LookupContract):
    """Every store is a lookup."""

    @pytest.fixture
    def lookup(self) -> MemoryStore:
        return MemoryStore()

    @pytest.fixture
    def plant(self, lookup: MemoryStore) -> Callable[[Planted], None]:
        return planting(lookup)


class TestLookupOfSQLiteStore(LookupContract):
    """Every store is a lookup."""

    @pytest.fixture
    def lookup(self, tmp_path: Path) -> Iterator[SQLiteStore]:
        with closing(SQLiteStore.create(tmp_path / "keys.db")) as store:
            yield store

    @pytest.fixture
    def plant(self, lookup: SQLiteStore) -> Callable[[Planted], None]:
        return planting(lookup)


class TableLookup:
    """What a stranger would write over the table of keys that they have: no networks, no suspension."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self, digests: Sequence[bytes]) -> Record | None:
        marks = ", ".join("?" for _ in digests)
        with closing(sqlite3.connect(self.path)) as table:
            row = table.execute(f"SELECT * FROM api_keys WHERE digest IN ({marks})", digests).fetchone()
        if row is None:
            return None
        digest, owner, name, token, type, mode, scopes, ends, revoked = row
        permissions = scopes and PermissionSet.parse(scopes.split(","))
        principal = Principal(owner, name, token, KeyType(type), Mode(mode), permissions)
        return Record(digest, principal, bool(revoked), ends)


class AsyncTableLookup:
    """The same for asyncio, with something that belongs to the event loop."""

    def __init__(self, table: TableLookup) -> None:
        self._table = table

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        assert asyncio.get_running_loop() is self._loop

    async def find(self, digests: Sequence[bytes]) -> Record | None:
        assert asyncio.get_running_loop() is self._loop
        await asyncio.sleep(0)
        return self._table.find(digests)


@pytest.fixture
def table(tmp_path: Path) -> TableLookup:
    """A stranger's table, empty."""
    columns = "digest BLOB PRIMARY KEY, owner, name, token, type, mode, scopes, ends, revoked"
    with closing(sqlite3.connect(tmp_path / "table.db")) as table:
        table.execute(f"CREATE TABLE api_keys ({columns})")
    return TableLookup(tmp_path / "table.db")


@pytest.fixture
def plant(table: TableLookup) -> Callable[[Planted], None]:
    """How records come into it."""

    def upsert(planted: Planted) -> None:
        if planted.networks or planted.suspended:
            pytest.skip("the table has no such column")
        scopes = planted.permissions and ",".join(planted.permissions)
        name = (planted.digest, planted.workspace, planted.key, planted.token_id)
        row = (*name, planted.type.value, planted.mode.value, scopes, planted.expires_at, planted.revoked)
        with closing(sqlite3.connect(table.path)) as connection, connection:
            connection.execute("REPLACE INTO api_keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    return upsert


@pytest.mark.parametrize(
    ("parts", "most"), [((State, PlainStore), 80), ((TableLookup,), 15), ((AsyncTableLookup,), 15)], ids=str
)
def test_a_stranger_writes_little(parts: tuple[type, ...], most: int) -> None:
    """What the contracts ask for fits on a page; lines between methods and docstrings do not count."""
    lines = [line for part in parts for line in getsource(part).splitlines() if line.strip()]
    assert len([line for line in lines if not line.strip().startswith('"""')]) < most


class TestTableLookup(LookupContract):
    """A stranger's lookup passes."""

    @pytest.fixture
    def lookup(self, table: TableLookup) -> TableLookup:
        return table


class TestAsyncTableLookup(AsyncLookupContract):
    """A stranger's asynchronous lookup passes."""

    @pytest.fixture
    def lookup(self, table: TableLookup, run: Callable[..., None]) -> Iterator[AsyncTableLookup]:
        lookup = AsyncTableLookup(table)
        run(lookup.open())
        yield lookup
        run(lookup.close())


class TestInline(AsyncLookupContract):
    """A lookup asked on the event loop passes."""

    @pytest.fixture
    def lookup(self, table: TableLookup) -> Inline:
        return Inline(table)


class TestThreaded(AsyncLookupContract):
    """A lookup asked in threads passes."""

    @pytest.fixture
    def lookup(self, table: TableLookup) -> Iterator[Threaded]:
        with closing(Threaded(table, threads=6, timeout=30)) as lookup:
            yield lookup


# Stores with one fault each, and the test that must find it.


class ForgetsRevocation(PlainStore):
    def record(self, token: StoredToken, key: Key, workspace: Workspace) -> Record:
        return super().record(token, key, workspace)._replace(revoked=False)


class ForgetsNetworks(PlainStore):
    def record(self, token: StoredToken, key: Key, workspace: Workspace) -> Record:
        return super().record(token, key, workspace)._replace(networks=None)


class ForgetsSuspension(PlainStore):
    def record(self, token: StoredToken, key: Key, workspace: Workspace) -> Record:
        return super().record(token, key, workspace)._replace(suspended=False)


class GrantsNonsense(PlainStore):
    def record(self, token: StoredToken, key: Key, workspace: Workspace) -> Record:
        try:
            return super().record(token, key, workspace)
        except ValueError:
            return super().record(token, replace(key, permissions=None, networks=None), workspace)


class LooksAtTheFirstDigest(PlainStore):
    def find(self, digests: Sequence[bytes]) -> Record | None:
        return super().find(digests[:1])


class RemembersWhatItFound(PlainStore):
    def __init__(self) -> None:
        super().__init__()
        self._found: dict[bytes, Record | None] = {}

    def find(self, digests: Sequence[bytes]) -> Record | None:
        if digests[0] not in self._found:
            self._found[digests[0]] = super().find(digests)
        return self._found[digests[0]]


class WritesHalf(PlainStore):
    def commit(self, batch: Batch) -> None:
        super().commit(replace(batch, events=(), properties=None))
        super().commit(Batch(events=batch.events, properties=batch.properties))


class OverwritesVersions(PlainStore):
    def put(self, values: dict[str, Any], value: Workspace | Key, version: int | None) -> None:
        values[value.id] = value


class RemovesTokens(PlainStore):
    def merged(self, key: Key, stored: Key | None) -> tuple[StoredToken, ...]:
        return key.tokens


class SortsWithoutCase(PlainStore):
    def page(self, values: dict[str, Value], after: str | None, limit: int) -> Sequence[Value]:
        return [values[id] for id in sorted(values, key=str.lower) if after is None or id > after][: max(limit, 0)]


class CutsBeforeTheMode(PlainStore):
    def keys(
        self, workspace: str, *, mode: Mode | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[Key]:
        return [key for key in super().keys(workspace, after=after, limit=limit) if mode in (None, key.mode)]


class CountsFromTheEnd(PlainStore):
    def page(self, values: dict[str, Value], after: str | None, limit: int) -> Sequence[Value]:
        return [values[id] for id in sorted(values) if after is None or id > after][:limit]


class LowersUses(PlainStore):
    def used(self, token: StoredToken, use: Use) -> StoredToken:
        return replace(token, last_used_at=use.at) if token.id == use.token_id else token


class IgnoresTheFlag(PlainStore):
    @staticmethod
    def check_flag(batch: Batch, stored: Properties) -> None:
        pass


@pytest.mark.parametrize(
    ("faulty", "test", "arguments"),
    [
        (ForgetsRevocation, StoreContract.test_finds_in_what_state_a_token_is, ({"revoked_at": 1}, {}, True, None)),
        (ForgetsRevocation, StoreContract.test_no_find_sees_a_key_alive_once_it_was_revoked, ()),
        (ForgetsNetworks, StoreContract.test_finds_a_token_with_its_key_and_workspace, ()),
        (ForgetsSuspension, StoreContract.test_finds_that_a_workspace_is_suspended, ()),
        (GrantsNonsense, StoreContract.test_grants_nothing_by_what_means_nothing, ({"permissions": ("a b",)},)),
        (LooksAtTheFirstDigest, StoreContract.test_finds_by_any_of_several_digests, ()),
        (LooksAtTheFirstDigest, StoreContract.test_a_token_that_moves_is_always_found, ()),
        (RemembersWhatItFound, StoreContract.test_finds_a_token_by_its_new_digest_only, ()),
        (WritesHalf, StoreContract.test_writes_all_or_nothing, (Batch(),)),
        (OverwritesVersions, StoreContract.test_one_of_two_changes_wins, ()),
        (RemovesTokens, StoreContract.test_keeps_tokens_that_a_batch_leaves_out, ()),
        (RemovesTokens, StoreContract.test_a_commit_leaves_last_used_alone, ()),
        (SortsWithoutCase, StoreContract.test_lists_by_id, ()),
        (CutsBeforeTheMode, StoreContract.test_lists_the_keys_of_a_mode, ()),
        (CountsFromTheEnd, StoreContract.test_lists_nothing_without_a_limit_above_0, (-1,)),
        (LowersUses, StoreContract.test_raises_last_used_and_nothing_else, ()),
        (IgnoresTheFlag, StoreContract.test_read_only_refuses_every_change_but_its_end, ()),
    ],
)
def test_the_contract_finds_a_faulty_store(
    faulty: type[PlainStore], test: Callable[..., None], arguments: tuple[object, ...]
) -> None:
    """A store that breaks a rule fails the test of that rule."""
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test(StoreContract(), faulty(), *arguments)


class FindsByPrefix(PlainStore):
    def find(self, digests: Sequence[bytes]) -> Record | None:
        keys = self._state.keys.values()
        known = [
            token.digest for key in keys for token in key.tokens for digest in digests if digest[:9] == token.digest[:9]
        ]
        return super().find(known)


class FindsText(PlainStore):
    def find(self, digests: Sequence[bytes]) -> Record | None:
        return super().find([str(digest).encode() for digest in digests])


@pytest.mark.parametrize(
    ("faulty", "test"),
    [
        (FindsByPrefix, LookupContract.test_finds_nothing_for_an_unknown_digest),
        (FindsText, LookupContract.test_never_takes_text_for_a_digest),
        (LooksAtTheFirstDigest, LookupContract.test_tries_every_digest),
        (RemembersWhatItFound, LookupContract.test_finds_what_is_stored_now),
    ],
)
def test_the_contract_finds_a_faulty_lookup(faulty: type[PlainStore], test: Callable[..., None]) -> None:
    """A lookup that breaks a rule fails the test of that rule."""
    store = faulty()
    with pytest.raises(AssertionError):
        test(LookupContract(), store.find, planting(store))
