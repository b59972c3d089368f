"""The PostgreSQL store and its lookups, on real servers: contract, rows, commits, standbys, cancelled finds."""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import Any

import psycopg
import pytest

import doorkey
from doorkey import testing
from doorkey.core.errors import (
    ConfigurationError,
    Conflict,
    ReadOnlyStore,
    StoreError,
    StoreUnavailable,
    UnreadableRecord,
    UnusableStore,
)
from doorkey.core.model import Granted, Use
from doorkey.core.profiles import FALU
from doorkey.core.verify import Verifier
from doorkey.management.secrets import MasterSecrets
from doorkey.storage import postgres, rows
from doorkey.storage.postgres import AsyncPostgresLookup, PostgresLookup, PostgresStore, upgrade
from doorkey.storage.postgres_connections import for_finds, statement
from doorkey.storage.protocol import Batch, Key, Properties, StoredToken, Workspace
from doorkey.storage.urls import create_store, open_store, upgrade_store
from tests.postgres_server import Server
from tests.storage.postgres_samples import (
    Asking,
    MakeServer,
    Opened,
    Run,
    digest,
    key,
    new,
    raising,
    renamed,
    token,
    workspace,
)

Plant = Callable[[testing.Planted], None]


def planting(store: PostgresStore) -> Plant:
    """Puts tokens where a lookup finds them."""

    def plant(planted: testing.Planted) -> None:
        owner, old = store.workspace(planted.workspace), store.key(planted.key)
        tenant = Workspace(planted.workspace, "Acme", 1, suspended_at=1 if planted.suspended else None)
        tenant = replace(tenant, version=owner.version + 1 if owner else 1)
        made = Key(
            *(planted.key, planted.workspace, planted.type, planted.mode, "planted", 1),
            (StoredToken(planted.token_id, planted.digest, "fingerprint", 1),),
            *(planted.permissions, planted.networks, planted.expires_at, 1 if planted.revoked else None),
            version=old.version + 1 if old else 1,
        )
        store.commit(Batch(((tenant, owner.version if owner else None),), ((made, old.version if old else None),)))

    return plant


# Contracts


class TestStore(testing.StoreContract):
    """The store keeps the contract of all stores."""

    @pytest.fixture
    def store(self, database: str) -> Iterator[PostgresStore]:
        with closing(PostgresStore.create(database)) as store:
            yield store


class TestLookup(testing.LookupContract):
    """So does the lookup alone."""

    @pytest.fixture
    def lookup(self, database: str, store: PostgresStore) -> Iterator[PostgresLookup]:
        with closing(PostgresLookup(database)) as lookup:
            yield lookup

    @pytest.fixture
    def plant(self, store: PostgresStore) -> Plant:
        return planting(store)


class TestAsyncLookup(testing.AsyncLookupContract):
    """So does the asynchronous one."""

    @pytest.fixture
    def lookup(self, database: str, store: PostgresStore, run: Run) -> Iterator[AsyncPostgresLookup]:
        with closing(AsyncPostgresLookup(database)) as lookup:
            yield lookup

    @pytest.fixture
    def plant(self, store: PostgresStore) -> Plant:
        return planting(store)


# Making and opening


def test_a_store_is_opened_by_its_url(database: str, run: Run) -> None:
    """With all that works on it: the asynchronous verifier asks asynchronously."""
    secrets = MasterSecrets.generate()
    with doorkey.create(database, secret=secrets) as door:
        issued = testing.basic(testing.issue(door))
    with doorkey.open(database, secret=secrets) as door:
        assert isinstance(door.store, PostgresStore)
        assert database.rpartition("/")[2] in repr(door.store)
        assert isinstance(door.verifier.verify(issued), Granted)
        assert isinstance(run(door.async_verifier.verify(issued)), Granted)


def test_a_store_is_made_once(database: str, store: PostgresStore) -> None:
    """What is there is left as it is."""
    store.commit(new(key()))
    with pytest.raises(UnusableStore, match=r"there is a store at postgresql://.* already"):
        create_store(database, Properties())
    with closing(open_store(database)) as opened:
        assert opened.key("key_1") == key()


def test_of_two_that_make_a_store_one_does(database: str) -> None:
    """The other is told."""
    start = threading.Barrier(4, timeout=30)

    def make(_: int) -> bool:
        start.wait()
        try:
            PostgresStore.create(database).close()
        except UnusableStore:
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(make, range(4))) == [False, False, False, True]


def test_nothing_is_there(database: str) -> None:
    """A database without a store, and no database, are told apart; a lookup, which asks later, says so too."""
    for refused in (PostgresStore, upgrade):
        with pytest.raises(UnusableStore, match=r"there is no store at .*doorkey init"):
            refused(database)
        with pytest.raises(UnusableStore, match=r"there is no database .*nowhere.*createdb"):
            refused(database.rpartition("/")[0] + "/nowhere")
    with closing(PostgresLookup(database)) as lookup, pytest.raises(StoreUnavailable, match="not the tables"):
        lookup.find([digest(1)])


def test_a_database_of_another_encoding(database: str, admin: psycopg.Connection[Any]) -> None:
    """It could not keep every name, so no store is made in it."""
    admin.execute("CREATE DATABASE doorkey_latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    try:
        with pytest.raises(UnusableStore, match=r"LATIN1.*--encoding=UTF8"):
            PostgresStore.create(database.rpartition("/")[0] + "/doorkey_latin")
    finally:
        admin.execute("DROP DATABASE doorkey_latin")


@pytest.mark.parametrize("schema", [0, 2])
def test_another_schema_is_refused(
    database: str, store: PostgresStore, admin: psycopg.Connection[Any], schema: int
) -> None:
    """An older one is upgraded by command, a newer one by a newer release."""
    admin.execute("UPDATE properties SET schema = %s", [schema])
    with pytest.raises(UnusableStore, match="doorkey store upgrade" if schema == 0 else "upgrade doorkey"):
        PostgresStore(database)
    if schema == 2:
        with pytest.raises(UnusableStore, match="upgrade doorkey"):
            upgrade(database)


@pytest.mark.parametrize("damage", ["ALTER TABLE properties DROP COLUMN profile", "DELETE FROM properties"])
def test_something_else_is_refused(
    database: str, store: PostgresStore, admin: psycopg.Connection[Any], damage: bytes
) -> None:
    """A schema of the same name that holds no store."""
    admin.execute(damage)
    with pytest.raises(UnusableStore, match="something else, or is damaged"):
        PostgresStore(database)


@contextmanager
def role(admin: psycopg.Connection[Any], database: str, *grants: str) -> Iterator[str]:
    """The URL for a role with no other rights than these."""
    name = f"doorkey_role_{os.getpid()}"
    admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{name}'".encode())
    try:
        for grant in grants:
            admin.execute(f"GRANT {grant} TO {name}".encode())
        yield f"postgresql://{name}:{name}@{database.rpartition('@')[2]}"
    finally:
        admin.execute(f"DROP OWNED BY {name}; DROP ROLE {name}".encode())


def test_a_role_without_rights(database: str, admin: psycopg.Connection[Any]) -> None:
    """It can neither make a store nor use one; where the schema was made for it, it can."""
    with role(admin, database) as url:
        with pytest.raises(UnusableStore, match="GRANT CREATE ON DATABASE"):
            PostgresStore.create(url)
        name = url.split("//")[1].split(":")[0]
        admin.execute(f"CREATE SCHEMA doorkey AUTHORIZATION {name}".encode())
        PostgresStore.create(url).close()
    PostgresStore.create(database).close()
    with role(admin, database) as url, pytest.raises(UnusableStore, match="GRANT USAGE ON SCHEMA doorkey"):
        PostgresStore(url)
    with role(admin, database, "USAGE ON SCHEMA doorkey") as url, pytest.raises(UnusableStore, match="GRANT SELECT"):
        PostgresStore(url)


def test_a_role_that_may_only_read(database: str, store: PostgresStore, admin: psycopg.Connection[Any]) -> None:
    """Enough for finds; a change is refused."""
    store.commit(new(key()))
    grants = ("USAGE ON SCHEMA doorkey", "SELECT ON ALL TABLES IN SCHEMA doorkey")
    with role(admin, database, *grants) as url, closing(PostgresStore(url)) as reader:
        assert reader.find([digest(1)]) is not None
        with pytest.raises(ReadOnlyStore, match="this role can only read"):
            reader.commit(renamed(key(), "x"))


# Upgrades


def test_an_upgrade_runs_once(database: str, store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four at once: each step is made by one of them, and all of them end well. Data stay."""
    store.commit(new(key()))
    assert upgrade(database) == 1
    monkeypatch.setattr(postgres, "SCHEMA", 2)
    monkeypatch.setattr(postgres, "_STEPS", (*postgres._STEPS, ("ALTER TABLE keys ADD COLUMN colour text",)))
    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(upgrade, [database] * 4)) == [1, 2, 2, 2]
    with closing(PostgresStore(database)) as upgraded:
        assert upgraded.properties() == Properties(schema=2, version=2)
        assert upgraded.key("key_1") == key()


def test_an_upgrade_that_fails_changes_nothing(
    database: str, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All its steps are one transaction."""
    monkeypatch.setattr(postgres, "SCHEMA", 2)
    steps = (*postgres._STEPS, ("ALTER TABLE keys ADD COLUMN colour text", "ALTER TABLE nothing ADD COLUMN x text"))
    monkeypatch.setattr(postgres, "_STEPS", steps)
    for _ in range(2):
        with pytest.raises(StoreError):
            upgrade(database)
    assert store.properties().schema == 1


# Rows


@pytest.mark.parametrize(
    "wrong",
    [
        "UPDATE tokens SET digest = NULL",
        r"UPDATE tokens SET digest = '\x00'",
        "UPDATE tokens SET id = ''",
        "UPDATE tokens SET ended_at = 1",
        "UPDATE tokens SET ended_as = 'other'",
        "UPDATE tokens SET place = -1",
        "UPDATE tokens SET key = 'key_9'",
        "UPDATE tokens SET digest = (SELECT min(digest) FROM tokens), place = place + 9",
        "UPDATE keys SET type = 'other'",
        "UPDATE keys SET mode = NULL",
        "UPDATE keys SET permissions = ''",
        "UPDATE keys SET networks = '10.0.0.0/8'",
        "UPDATE keys SET version = 0",
        "UPDATE keys SET workspace = 'ws_9'",
        r"UPDATE workspaces SET head = '\x00'",
        "UPDATE properties SET read_only = 2",
        "INSERT INTO properties SELECT 2, profile, fingerprints, read_only, schema, version FROM properties",
        "INSERT INTO events VALUES ('ws_1', 0, 1, 'a', 'b', NULL, '{}', decode(repeat('00', 32), 'hex'))",
        r"INSERT INTO events VALUES ('ws_1', 1, 1, 'a', 'b', NULL, '{}', '\x00')",
    ],
)
def test_the_database_refuses_what_means_nothing(
    store: PostgresStore, admin: psycopg.Connection[Any], wrong: bytes
) -> None:
    """Even from those who write past doorkey."""
    store.commit(new(key(1), key(2)))
    with pytest.raises(psycopg.IntegrityError):
        admin.execute(wrong)


@pytest.mark.parametrize(
    ("constraint", "poison"),
    [
        ("keys_check", r"UPDATE keys SET bounds = '\x0102' WHERE id = 'key_1'"),
        ("keys_type_check", "UPDATE keys SET type = 'other' WHERE id = 'key_1'"),
        ("keys_permissions_check", "UPDATE keys SET permissions = ' a' WHERE id = 'key_1'"),
        ("tokens_key_fkey", "UPDATE tokens SET key = 'key_9' WHERE id = 'tok00001'"),
    ],
)
def test_a_row_that_cannot_be_understood_denies_that_key(
    store: PostgresStore, admin: psycopg.Connection[Any], run: Run, constraint: str, poison: bytes
) -> None:
    """And no other."""
    store.commit(new(key(1), key(2)))
    admin.execute(f"ALTER TABLE {constraint.partition('_')[0]} DROP CONSTRAINT {constraint}".encode())
    admin.execute(poison)
    with pytest.raises(UnreadableRecord, match="tok00001"):
        store.find([digest(1)])
    with pytest.raises(UnreadableRecord, match="tok00001"):
        run(store.async_lookup.find([digest(1)]))
    assert store.find([digest(2)]) is not None
    assert run(store.async_lookup.find([digest(2)])) is not None


def test_a_find_reads_by_index(store: PostgresStore, admin: psycopg.Connection[Any]) -> None:
    """However small the tables were when it was planned, for one digest and for several."""
    store.commit(new(*map(key, range(3))))
    admin.execute("ANALYZE")
    for sql in (rows.FIND_ONE, rows.find_one_of(2)):
        with psycopg.connect(**{**for_finds(_url(admin), 1, None).parameters}) as connection:
            digests = [digest(number) for number in range(sql.count("?"))]
            plan = connection.execute(b"EXPLAIN " + statement(sql), digests).fetchall()
        assert "Seq Scan" not in str(plan), plan


def _url(connection: psycopg.Connection[Any]) -> str:
    info = connection.info
    return f"postgresql://{info.user}@{info.host}:{info.port}/{info.dbname}"


def test_a_find_is_one_round_trip(database: str, store: PostgresStore) -> None:
    """What is sent for one is one message, and its answer is another."""
    store.commit(new(key()))
    with relay(database) as (url, sent), closing(PostgresLookup(url)) as lookup:
        lookup.find([digest(1)])
        sent.clear()
        for _ in range(10):
            assert lookup.find([digest(1)]) is not None
        assert len(sent) == 10


@contextmanager
def relay(url: str) -> Iterator[tuple[str, list[bytes]]]:
    """A way to the same server, for one connection, on which each message to it is noted down."""
    host, _, port = url.rpartition("@")[2].partition("/")[0].partition(":")
    sent: list[bytes] = []

    def pass_on(source: socket.socket, target: socket.socket, note: list[bytes]) -> None:
        while data := source.recv(65536):
            note.append(data)
            target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        client, _ = listener.accept()
        with client, socket.create_connection((host, int(port))) as server, ThreadPoolExecutor(2) as threads:
            threads.submit(pass_on, client, server, sent)
            threads.submit(pass_on, server, client, [])

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as threads:
        threads.submit(serve)
        yield url.replace(f"@{host}:{port}/", f"@127.0.0.1:{listener.getsockname()[1]}/"), sent


# Commits


def test_a_transaction_broken_off_is_tried_again(store: PostgresStore, admin: psycopg.Connection[Any]) -> None:
    """Some times; then it is a conflict, with nothing written."""
    admin.execute("CREATE SEQUENCE tries")
    raising(admin, "40001", unless="nextval('doorkey.tries') > 3")
    store.commit(new(key()))
    assert store.key("key_1") == key()
    raising(admin, "40P01")
    with pytest.raises(Conflict, match="kept changing"):
        store.commit(renamed(key(), "x"))
    assert store.key("key_1") == key()


def test_a_commit_is_durable(database: str, admin: psycopg.Connection[Any]) -> None:
    """Also in a database that has it otherwise."""
    name = database.rpartition("/")[2]
    admin.execute(f"ALTER DATABASE {name} SET synchronous_commit = off".encode())
    try:
        with closing(PostgresStore.create(database)) as store, store._transaction(postgres._SHARE, "") as execute:
            assert execute("SELECT current_setting('synchronous_commit')", ()).fetchall() == [("on",)]
    finally:
        admin.execute(f"ALTER DATABASE {name} RESET synchronous_commit".encode())


def test_each_commit_is_durable(database: str, store: PostgresStore, admin: psycopg.Connection[Any]) -> None:
    """Whichever of several connections it is made on."""
    name = database.rpartition("/")[2]
    admin.execute(f"ALTER DATABASE {name} SET synchronous_commit = off".encode())
    try:
        with store._connections.one(math.inf), store._connections.one(math.inf):
            pass  # now there are two, which take turns
        for _ in range(4):
            with store._transaction(postgres._SHARE, "") as execute:
                assert execute("SELECT current_setting('synchronous_commit')", ()).fetchall() == [("on",)]
    finally:
        admin.execute(f"ALTER DATABASE {name} RESET synchronous_commit".encode())


def test_dead_connections_fail_nothing(store: PostgresStore, admin: psycopg.Connection[Any], run: Run) -> None:
    """A change and a find whose connections the server has ended meanwhile are made on others."""
    store.commit(new(key()))
    for _ in range(2):
        run(store.async_lookup.find([digest(1)]))
        with store._connections.one(math.inf), store._connections.one(math.inf):
            pass
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'doorkey'"
        assert len(admin.execute(ended).fetchall()) >= 3
        old = store.key("key_1")
        assert old is not None and run(store.async_lookup.find([digest(1)])) is not None
        admin.execute(ended)
        store.commit(renamed(old, "x"))


def test_a_find_that_nobody_waits_for(store: PostgresStore, admin: psycopg.Connection[Any]) -> None:
    """It ends in silence, by its event loop's end or by an error."""

    async def ask(patience: float) -> None:
        asking = asyncio.ensure_future(store.async_lookup.find([digest(1)]))
        await asyncio.sleep(0.05)
        asking.cancel()
        await asyncio.sleep(patience)

    with admin.transaction():
        admin.execute("LOCK TABLE tokens")
        asyncio.run(ask(0))
        asyncio.run(ask(2.2))


def test_what_it_finds_out_about_itself(store: PostgresStore, admin: psycopg.Connection[Any]) -> None:
    """Its server, its tables and its rows are looked at."""
    store.commit(new(key()))
    admin.execute("DROP INDEX keys_by_workspace; UPDATE keys SET permissions = ' '")
    texts = [finding.what for finding in store.check()]
    assert "it lacks CREATE INDEX keys_by_workspace" in texts[-2] and "tok00001" in texts[-1]


def test_names(database: str) -> None:
    """Stores and lookups are called by where they are."""
    for opened in (PostgresLookup(database), AsyncPostgresLookup(database)):
        with closing(opened):
            assert repr(opened).endswith(f"{database.rpartition('@')[2]}>")


def test_a_database_set_read_only(database: str, store: PostgresStore, admin: psycopg.Connection[Any]) -> None:
    """Refuses changes; finds go on."""
    store.commit(new(key()))
    name = database.rpartition("/")[2]
    admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
    try:
        with closing(PostgresStore(database)) as reading:
            with pytest.raises(ReadOnlyStore, match="read-only transactions"):
                reading.commit(renamed(key(), "x"))
            with pytest.raises(ReadOnlyStore):
                reading.record_uses([Use("tok00001", 5)])
            assert reading.find([digest(1)]) is not None
    finally:
        admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only".encode())


def test_a_find_cannot_write(store: PostgresStore) -> None:
    """Its connection could not, whatever it were told."""
    with store._lookup._connections.one(math.inf) as connection, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        connection.execute("UPDATE keys SET revoked_at = NULL")


def test_no_commit_passes_a_flag_that_was_set(store: PostgresStore) -> None:
    """Once the read-only flag is committed, no commit that began before it lands after it."""
    store.commit(new(key()))
    flagged = replace(store.properties(), read_only=True, version=2)
    setting: list[threading.Thread] = []
    with store._transaction(postgres._SHARE, "") as execute:
        setting.append(threading.Thread(target=store.commit, args=(Batch(properties=(flagged, 1)),)))
        setting[0].start()
        setting[0].join(0.2)
        assert setting[0].is_alive(), "the flag was set while a commit was under way"
        execute("UPDATE keys SET name = 'x'", ())
    setting[0].join()
    assert store.properties().read_only


def test_uses_are_recorded_from_several_places_at_once(database: str, store: PostgresStore) -> None:
    """In whatever order they come: none waits for the other, none is lowered."""
    store.commit(new(*map(key, range(20))))

    def record(seed: int) -> None:
        uses = [Use(token(number).id, seed * 100 + number) for number in range(20)]
        for _ in range(5):
            random.Random(seed).shuffle(uses)
            store.record_uses(uses)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(record, range(1, 5)))
    assert [each.tokens[0].last_used_at for each in store.keys("ws_1")] == sorted(
        (400 + number for number in range(20)), key=lambda at: f"key_{at - 400}"
    )


def heard(admin: psycopg.Connection[Any], timeout: float = 0.5) -> list[str]:
    return [notice.payload for notice in admin.notifies(timeout=timeout, stop_after=1)]


def test_changes_are_told(store: PostgresStore, admin: psycopg.Connection[Any]) -> None:
    """By the ids of tokens whose key changed, of workspaces changed alone, or `*`; with the commit, or not at all."""
    admin.execute("LISTEN doorkey")
    store.commit(new(key(1, tokens=(token(1), token(7))), key(2)))
    assert heard(admin) == ["tok00001,tok00007,tok00002"]
    store.commit(Batch(workspaces=((workspace(suspended_at=1, version=2), 1),)))
    assert heard(admin) == ["ws_1"]
    with pytest.raises(Conflict):
        store.commit(renamed(key(2, version=9), "x"))
    store.record_uses([Use("tok00001", 1)])
    store.commit(Batch(properties=(replace(Properties(), profile="x", version=2), 1)))
    assert heard(admin, 0.1) == []
    many = tuple((key(number, tokens=(token(number),)), None) for number in range(1000, 2000))
    store.commit(Batch(keys=many))
    assert heard(admin) == ["*"]
    store.commit(Batch(workspaces=((workspace(id="a,b"), None),)))
    assert heard(admin) == ["*"]


def test_an_engine_that_cannot_notify(database: str, store: PostgresStore) -> None:
    """Does without."""
    store._notifies = False
    store.commit(new(key()))
    assert store.key("key_1") == key()


def change_often(url: str, count: int) -> tuple[int, int]:
    """How many of a process's changes landed, and how many met a conflict."""
    landed = conflicts = 0
    with closing(PostgresStore(url)) as store:
        while landed < count:
            old = store.key("key_1")
            assert old is not None
            try:
                store.commit(renamed(old, f"{os.getpid()} {landed}"))
            except Conflict:
                conflicts += 1
            else:
                landed += 1
    return landed, conflicts


def test_processes_that_change_the_same(database: str, store: PostgresStore) -> None:
    """Nothing but conflicts, and no change is lost."""
    store.commit(new(key()))
    with multiprocessing.get_context("spawn").Pool(2) as processes:
        done = processes.starmap(change_often, [(database, 60)] * 2)
    assert [landed for landed, _ in done] == [60, 60]
    changed = store.key("key_1")
    assert changed is not None and changed.version == 121


# Standbys


@pytest.fixture(scope="module")
def primary(make_server: MakeServer) -> Server:
    server = make_server("wal_sender_timeout=1s")
    PostgresStore.create(server.url()).close()
    return server


@pytest.fixture(scope="module")
def standby(make_server: MakeServer, primary: Server) -> Server:
    return make_server(standby_of=primary)


def test_a_standby_is_refused(primary: Server, standby: Server, opened: Opened) -> None:
    """Unless a bound on its staleness is given; for changes, always."""
    with pytest.raises(StoreUnavailable):
        opened(standby.url())([digest(1)])
    for attempt in (PostgresStore, PostgresStore.create, upgrade):
        with pytest.raises(UnusableStore, match="standby: name the primary"):
            attempt(standby.url())
    with pytest.raises(UnusableStore, match="standby"):
        PostgresStore(standby.url(), max_staleness=5)


def test_several_hosts(primary: Server, standby: Server, opened: Opened) -> None:
    """The primary among them is found, wherever it stands, whatever else the URL prefers."""
    url = f"postgresql://doorkey@127.0.0.1:{standby.port},127.0.0.1:{primary.port}/postgres"
    assert opened(url + "?target_session_attrs=standby")([digest(404)]) is None
    with closing(PostgresStore(url)) as store:
        assert not store.workspaces()


def test_a_standby_within_its_bound(primary: Server, standby: Server, opened: Opened) -> None:
    """Is read; once its replay stands still, it is read no longer than the bound after that; then again."""
    bound = 2.0
    with closing(PostgresStore(primary.url())) as store:
        store.commit(Batch(workspaces=((workspace(id=f"ws_{time.time()}"), None),)))
        find = opened(standby.url(), timeout=2, max_staleness=bound)
        until_found_nothing(find)
        with psycopg.connect(standby.url(), autocommit=True) as admin:
            paused = time.monotonic()
            admin.execute("SELECT pg_wal_replay_pause()")
            try:
                store.commit(Batch(workspaces=((workspace(id=f"ws_{time.time()}"), None),)))
                with pytest.raises(StoreUnavailable, match=r"standby, .* s behind; the bound is 2 s"):
                    while time.monotonic() < paused + 10:
                        find([digest(1)])
                        assert time.monotonic() < paused + bound + 1, "read for longer than the bound"
                        time.sleep(0.01)
            finally:
                admin.execute("SELECT pg_wal_replay_resume()")
        until_found_nothing(find)
        time.sleep(bound + 0.5)  # nothing is committed meanwhile; what the primary sends besides is proof enough
        until_found_nothing(find, 1.5)


def until_found_nothing(find: Asking, within: float = 5) -> None:
    deadline = time.monotonic() + within
    while True:
        with suppress(StoreUnavailable):
            assert find([digest(1)]) is None
            return
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_primary_needs_no_proof(primary: Server, opened: Opened) -> None:
    """It is never behind."""
    assert opened(primary.url(), max_staleness=0.001)([digest(1)]) is None


def test_a_standby_that_cannot_tell() -> None:
    """Is not trusted."""
    server = for_finds("postgresql://host/db", 1, 5)
    with pytest.raises(StoreUnavailable, match="pg_read_all_stats"):
        postgres._proven(None, 0, 5, server)
    assert postgres._proven(-1, 10, 5, server) == 15


def test_a_profile_that_bears_no_staleness() -> None:
    """Its verifier takes no lookup with a bound above its own."""
    digester = MasterSecrets.generate().digester()
    with pytest.raises(ConfigurationError, match="out of date"):
        Verifier(PostgresLookup("postgresql://host/db", max_staleness=1), digester, FALU)
    Verifier(PostgresLookup("postgresql://host/db"), digester, FALU)


# Cancelled finds


@pytest.mark.parametrize("finds", [int(os.environ.get("DOORKEY_TEST_CANCELLED", "5000"))])
def test_a_cancelled_find_leaves_nothing_behind(database: str, store: PostgresStore, run: Run, finds: int) -> None:
    """One in three is cancelled at a random moment; every answer is the one to its own question."""
    keys = [key(number) for number in range(50)]
    store.commit(new(*keys))
    chance = random.Random(7)

    async def one(lookup: AsyncPostgresLookup, number: int) -> bool:
        asking = asyncio.ensure_future(lookup.find([digest(number)]))
        if chance.random() < 1 / 3:
            await asyncio.sleep(chance.random() * 0.005)
            asking.cancel()
        try:
            found = await asking
        except asyncio.CancelledError:
            return False
        assert found is not None and found.principal.token_id == token(number).id
        return True

    async def ask() -> None:
        lookup = AsyncPostgresLookup(database, timeout=5)
        answered = 0
        for _ in range(finds // 50):
            answered += sum(await asyncio.gather(*(one(lookup, number) for number in range(50))))
        assert finds / 2 < answered < finds
        assert all(await asyncio.gather(*(lookup.find([digest(number)]) for number in range(50))))
        lookup.close()

    run(ask())


def test_upgrade_by_url(database: str, store: PostgresStore) -> None:
    """The way by which the command line upgrades: whichever engine the URL names."""
    assert upgrade_store(database) == Properties().schema
