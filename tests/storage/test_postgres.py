"""The PostgreSQL store and its lookups, on real servers: contract, outages, standbys, forks, cancelled finds."""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import Any, Protocol

import psycopg
import pytest

import doorkey
from doorkey import testing
from doorkey.core.errors import (
    ConfigurationError,
    Conflict,
    InvalidURL,
    ReadOnlyStore,
    StoreError,
    StoreUnavailable,
    UnreadableRecord,
    UnusableStore,
)
from doorkey.core.model import Granted, Record, Use
from doorkey.core.profiles import FALU
from doorkey.core.verify import Verifier
from doorkey.management.secrets import MasterSecrets
from doorkey.storage import postgres, rows
from doorkey.storage.postgres import AsyncPostgresLookup, PostgresLookup, PostgresStore, upgrade
from doorkey.storage.protocol import Batch, Key, Properties, StoredToken, Workspace
from doorkey.storage.urls import create_store, open_store, upgrade_store

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Plant = Callable[[testing.Planted], None]
HOUR = 3600
SHORT = 0.5  # seconds until a find gives up, in tests where the server hangs


class Server(Protocol):
    """What ``make_server`` makes."""

    port: int

    def url(self, database: str = "postgres", user: str = "doorkey") -> str: ...
    def start(self) -> None: ...
    def stop(self, how: signal.Signals = signal.SIGINT) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...


MakeServer = Callable[..., Server]


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


def workspace(**changes: Any) -> Workspace:
    return replace(Workspace("ws_1", "Acme", 1), **changes)


def token(number: int) -> StoredToken:
    return StoredToken(f"tok{number:05}", digest(number), "fingerprint", 1)


def key(number: int = 1, **changes: Any) -> Key:
    tokens = (token(number),)
    return replace(
        Key(f"key_{number}", "ws_1", doorkey.KeyType.SECRET, doorkey.Mode.TEST, "reports", 1, tokens), **changes
    )


def new(*keys: Key) -> Batch:
    return Batch(workspaces=((workspace(), None),), keys=tuple((each, None) for each in keys))


def renamed(old: Key, name: str) -> Batch:
    return Batch(keys=((replace(old, name=name, version=old.version + 1), old.version),))


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


_MEANINGLESS = [
    *({"timeout": seconds} for seconds in (0, -1, float("nan"), float("inf"))),
    *({"pool_size": 0}, {"max_staleness": 0}),
]


@pytest.mark.parametrize("kind", [PostgresLookup, AsyncPostgresLookup, PostgresStore])
@pytest.mark.parametrize("wrong", _MEANINGLESS)
def test_numbers_that_mean_nothing_are_refused(kind: Any, wrong: Any) -> None:
    """Before anything is asked."""
    with pytest.raises(ConfigurationError, match=r"above 0|at least one"):
        kind("postgresql://host/db", **wrong)


@pytest.mark.parametrize(
    "url",
    [
        "host=host dbname=db",
        "postgresql:",
        "postgresql://user:hunter2@host",
        "postgresql://user:x@hunter2@host/db",
        "postgresql://user:x/hunter2@host/db",
        "postgresql://user:%zzhunter2@host/db",
        "postgresql://host/db?hunter=2",
        "postgresql://host/db\0hunter2",
        "postgresql://host/\ud800hunter2",
    ],
)
def test_a_url_that_names_no_database(url: str) -> None:
    """The message shows the form, and nothing of what was written."""
    for kind in (PostgresLookup, AsyncPostgresLookup, PostgresStore, PostgresStore.create, upgrade):
        with pytest.raises(InvalidURL, match="postgresql://user:password@host:5432/database") as raised:
            kind(url)
        assert "hunter" not in "".join(traceback.format_exception(raised.value))


def test_a_password_is_not_shown(database: str) -> None:
    """Neither by a store nor by its errors, whatever the driver says."""
    url = f"postgresql://nobody:hunter2@{database.rpartition('@')[2]}?application_name=hunter2"
    lookup = PostgresLookup(url, timeout=SHORT)
    with closing(lookup), pytest.raises(StoreUnavailable) as raised:
        lookup.find([digest(1)])
    with pytest.raises(StoreError) as at_once:
        PostgresStore(url)
    for error in (raised.value, at_once.value):
        assert "hunter2" not in "".join(traceback.format_exception(error))
    assert "hunter2" not in repr(lookup) + repr(AsyncPostgresLookup(url)) + repr(vars(lookup))


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


def test_an_unknown_user_is_not_let_in(database: str) -> None:
    """The message says where to look."""
    with pytest.raises(UnusableStore, match="pg_hba"):
        PostgresStore(f"postgresql://nobody@{database.rpartition('@')[2]}")


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
        with psycopg.connect(**{**postgres._finding(_url(admin), 1, None).parameters}) as connection:
            digests = [digest(number) for number in range(sql.count("?"))]
            plan = connection.execute(b"EXPLAIN " + postgres._sql(sql), digests).fetchall()
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


def test_no_message_holds_a_digest(store: PostgresStore) -> None:
    """The driver's would repeat the row that conflicts."""
    taken = bytes.fromhex("5a" * 32)
    store.commit(new(key(1, tokens=(replace(token(1), digest=taken),))))
    with pytest.raises(Conflict) as raised:
        store.commit(Batch(keys=((key(2, tokens=(replace(token(2), digest=taken),)), None),)))
    text = "".join(traceback.format_exception(raised.value))
    assert "(23505)" in text and "5a5a" not in text and "DETAIL" not in text


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


def raising(admin: psycopg.Connection[Any], state: str, unless: str = "false") -> None:
    """Let each change of a key fail."""
    admin.execute(
        f"""
        CREATE OR REPLACE FUNCTION doorkey.fail() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF {unless} THEN RETURN new; END IF; RAISE SQLSTATE '{state}'; END $$;
        CREATE OR REPLACE TRIGGER fail BEFORE INSERT OR UPDATE ON keys FOR EACH ROW EXECUTE FUNCTION fail()
        """.encode()
    )


@pytest.mark.parametrize(
    ("state", "kind", "text"),
    [
        ("53100", StoreUnavailable, "no space left"),
        ("53300", StoreUnavailable, "no connection left"),
        ("57P01", StoreUnavailable, "shutting down"),
        ("25006", ReadOnlyStore, "cannot be written"),
        ("23514", Conflict, "by its id, digest or number"),
        ("XX000", StoreUnavailable, r"cannot be used \(XX000\)"),
    ],
)
def test_what_an_error_of_the_server_means(
    store: PostgresStore, admin: psycopg.Connection[Any], state: str, kind: type[StoreError], text: str
) -> None:
    """The commit is not made, and the store works on."""
    raising(admin, state)
    with pytest.raises(kind, match=text):
        store.commit(new(key()))
    assert store.workspace("ws_1") is None
    admin.execute("DROP TRIGGER fail ON keys")
    store.commit(new(key()))


def test_a_commit_does_not_wait_for_ever(database: str, store: PostgresStore, admin: psycopg.Connection[Any]) -> None:
    """Where somebody else keeps a row locked, it ends within the timeout. Finds go on."""
    store.commit(new(key()))
    with closing(PostgresStore(database, timeout=SHORT)) as hasty, admin.transaction():
        admin.execute("SELECT FROM keys FOR UPDATE")
        with took(SHORT + 0.5), pytest.raises(StoreUnavailable, match="too slow"):
            hasty.commit(renamed(key(), "x"))
        assert hasty.find([digest(1)]) is not None
    store.commit(renamed(key(), "x"))


@contextmanager
def took(seconds: float) -> Iterator[None]:
    """That the context takes no longer."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


def test_a_client_that_stops_does_not_hold_others_up(
    database: str, store: PostgresStore, admin: psycopg.Connection[Any]
) -> None:
    """The server ends a transaction that stands still."""
    store.commit(new(key()))
    with closing(PostgresStore(database, timeout=0.2)) as stopped:
        with pytest.raises(StoreUnavailable, match="stood still"), stopped._transaction(postgres._HOLD, "") as execute:
            time.sleep(0.6)
            execute(rows.PROPERTIES, ())
        stopped.commit(renamed(key(), "x"))


def test_a_commit_is_durable(database: str, admin: psycopg.Connection[Any]) -> None:
    """Also in a database that has it otherwise."""
    name = database.rpartition("/")[2]
    admin.execute(f"ALTER DATABASE {name} SET synchronous_commit = off".encode())
    try:
        with closing(PostgresStore.create(database)) as store, store._transaction(postgres._SHARE, "") as execute:
            assert execute("SELECT current_setting('synchronous_commit')", ()).fetchall() == [("on",)]
    finally:
        admin.execute(f"ALTER DATABASE {name} RESET synchronous_commit".encode())


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


# Outages


@pytest.fixture(scope="module")
def server(make_server: MakeServer) -> Server:
    """A server that tests stop, freeze and restart."""
    server = make_server("max_connections=12", "superuser_reserved_connections=1")
    PostgresStore.create(server.url()).close()
    with closing(PostgresStore(server.url())) as store:
        store.commit(new(key()))
    return server


class Asking(Protocol):
    """A lookup as the tests below ask it, whichever it is."""

    def __call__(self, digests: Sequence[bytes]) -> Record | None: ...


Opened = Callable[..., Asking]


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


def until_found(find: Asking, within: float = 5) -> None:
    """That a find succeeds again soon."""
    deadline = time.monotonic() + within
    while True:
        with suppress(StoreUnavailable):
            assert find([digest(1)]) is not None
            return
        assert time.monotonic() < deadline, f"not back after {within} s"
        time.sleep(0.02)


def test_a_server_that_is_down(server: Server, opened: Opened) -> None:
    """Is unavailable within the timeout; nothing needs a restart when it is back."""
    find = opened(server.url())
    assert find([digest(1)]) is not None
    server.stop(signal.SIGQUIT)
    try:
        for _ in range(3):
            with took(SHORT + 0.5), pytest.raises(StoreUnavailable):
                find([digest(1)])
        time.sleep(1)
    finally:
        server.start()
    until_found(find)


def test_a_server_that_was_restarted_in_between(server: Server, opened: Opened) -> None:
    """The connections of before are dead; no find fails for that."""
    find = opened(server.url(), timeout=2)
    for _ in range(3):
        assert find([digest(1)]) is not None
    server.stop()
    server.start()
    assert find([digest(1)]) is not None


def test_a_server_that_hangs(server: Server, opened: Opened) -> None:
    """Is unavailable within the timeout, for who has a connection and for who needs one; then it is back."""
    find, late = opened(server.url()), opened(server.url())
    assert find([digest(1)]) is not None
    server.freeze()
    try:
        for each in (find, late, find, late):
            with took(SHORT + 0.5), pytest.raises(StoreUnavailable):
                each([digest(1)])
    finally:
        server.thaw()
    until_found(find)
    until_found(late)


def test_a_store_that_cannot_be_reached(server: Server) -> None:
    """Opening says so."""
    server.stop()
    try:
        for attempt in (PostgresStore, PostgresStore.create, upgrade):
            with pytest.raises(StoreUnavailable, match="cannot be reached"):
                attempt(server.url())
    finally:
        server.start()


def test_a_commit_to_a_server_that_hangs(server: Server) -> None:
    """Ends within the timeout, whichever statement hangs; then the store works on."""
    with closing(PostgresStore(server.url(), timeout=SHORT)) as store:
        old = store.key("key_1")
        assert old is not None
        server.freeze()
        try:
            with took(SHORT + 0.5), pytest.raises(StoreUnavailable):
                store.commit(renamed(old, "x"))
        finally:
            server.thaw()
        until_found(store.find)
        with pytest.raises(StoreUnavailable), store._transaction(postgres._SHARE, "") as execute:
            server.freeze()
            try:
                execute(rows.PROPERTIES, ())
            finally:
                server.thaw()
        until_found(store.find)
        store.commit(renamed(old, "y"))
        store.commit(Batch(keys=((replace(old, version=old.version + 2), old.version + 1),)))


def test_a_commit_after_a_restart(server: Server) -> None:
    """Is made on a new connection."""
    with closing(PostgresStore(server.url())) as store:
        old = store.key("key_1")
        assert old is not None
        store.commit(renamed(old, old.name))
        server.stop()
        server.start()
        store.commit(renamed(replace(old, version=old.version + 1), old.name))


def test_a_port_that_never_answers(opened: Opened) -> None:
    """Is unavailable within the timeout."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        find = opened(f"postgresql://doorkey@127.0.0.1:{silent.getsockname()[1]}/postgres")
        for _ in range(2):
            with (
                took(SHORT + 0.5),
                pytest.raises(StoreUnavailable, match=r"g(ives|ave) no connection"),
            ):
                find([digest(1)])


def test_an_outage_does_not_make_everybody_wait(opened: Opened) -> None:
    """Once one has waited in vain, the others hardly do."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        find = opened(f"postgresql://doorkey@127.0.0.1:{silent.getsockname()[1]}/postgres")
        with pytest.raises(StoreUnavailable):
            find([digest(1)])
        with took(SHORT):
            for _ in range(3):
                with pytest.raises(StoreUnavailable):
                    find([digest(1)])


def test_a_pool_that_is_taken_up_refuses_at_once(server: Server) -> None:
    """Also while the server hangs, and a thousand ask."""
    with closing(PostgresLookup(server.url(), timeout=3, pool_size=2)) as lookup, ThreadPoolExecutor(2) as threads:
        list(threads.map(lookup.find, [[digest(1)]] * 4))
        server.freeze()
        hanging = [threads.submit(lookup.find, [digest(1)]) for _ in range(2)]
        try:
            time.sleep(0.05)
            with took(1.3), pytest.raises(StoreUnavailable, match=r"all 2 connections .* are busy"):
                lookup.find([digest(1)])
            with took(1.5), pytest.raises(StoreUnavailable, match="busy"):
                for _ in range(20):
                    with suppress(StoreUnavailable):
                        lookup.find([digest(1)])
                lookup.find([digest(1)])
        finally:
            server.thaw()
        assert all(each.result() is not None for each in hanging)
        assert lookup.find([digest(1)]) is not None


def test_a_thousand_at_once(server: Server, run: Run) -> None:
    """Are all answered: more than there are connections is no outage."""

    async def ask() -> None:
        with closing(AsyncPostgresLookup(server.url(), timeout=10)) as lookup:
            found = await asyncio.gather(*(lookup.find([digest(1)]) for _ in range(300)))
        assert all(found)

    run(ask())


def test_a_thousand_at_once_while_it_hangs(server: Server, run: Run) -> None:
    """Are refused at once, but for those who have a connection; the event loop goes on meanwhile."""

    async def ask() -> None:
        lookup = AsyncPostgresLookup(server.url(), timeout=1.5, pool_size=2)
        await asyncio.gather(*(lookup.find([digest(1)]) for _ in range(4)))
        server.freeze()
        try:
            started = time.monotonic()
            asking = [asyncio.ensure_future(lookup.find([digest(1)])) for _ in range(1000)]
            _, pending = await asyncio.wait(asking, timeout=1)
            assert len(pending) <= 2
            with took(0.3), pytest.raises(StoreUnavailable, match="all 2 connections"):
                await lookup.find([digest(1)])
            results = await asyncio.gather(*asking, return_exceptions=True)
            assert all(isinstance(each, StoreUnavailable) for each in results)
            assert time.monotonic() - started < 2
        finally:
            server.thaw()
            lookup.close()

    run(ask())


def test_a_server_without_a_connection_left(server: Server, opened: Opened) -> None:
    """Is unavailable until there is one; opening the store says what to do."""
    find = opened(server.url())
    taken: list[psycopg.Connection[Any]] = []
    try:
        with suppress(psycopg.OperationalError):
            while True:
                taken.append(psycopg.connect(server.url()))
        with took(SHORT + 0.5), pytest.raises(StoreUnavailable):
            find([digest(1)])
        with pytest.raises(StoreUnavailable, match=r"no connection left.*max_connections"):
            PostgresStore(server.url())
    finally:
        for connection in taken:
            connection.close()
    until_found(find)


def test_a_table_that_is_altered(database: str, store: PostgresStore, admin: psycopg.Connection[Any], run: Run) -> None:
    """The prepared statements of before are of no more use; no find fails for that."""
    store.commit(new(key()))
    for _ in range(2):
        assert store.find([digest(1)]) is not None
        assert run(store.async_lookup.find([digest(1)])) is not None
    admin.execute("ALTER TABLE keys ALTER permissions TYPE varchar")
    assert store.find([digest(1)]) is not None
    assert run(store.async_lookup.find([digest(1)])) is not None


def test_a_slow_answer(store: PostgresStore, database: str, admin: psycopg.Connection[Any], opened: Opened) -> None:
    """Ends by the server's own timeout, and the connection stays good."""
    find = opened(database)
    assert find([digest(1)]) is None
    with admin.transaction():
        admin.execute("LOCK TABLE tokens")
        with took(SHORT + 0.5), pytest.raises(StoreUnavailable, match="too slow"):
            find([digest(1)])
    assert find([digest(1)]) is None


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
    server = postgres._finding("postgresql://host/db", 1, 5)
    with pytest.raises(StoreUnavailable, match="pg_read_all_stats"):
        postgres._proven(None, 0, 5, server)
    assert postgres._proven(-1, 10, 5, server) == 15


def test_a_profile_that_bears_no_staleness() -> None:
    """Its verifier takes no lookup with a bound above its own."""
    digester = MasterSecrets.generate().digester()
    with pytest.raises(ConfigurationError, match="out of date"):
        Verifier(PostgresLookup("postgresql://host/db", max_staleness=1), digester, FALU)
    Verifier(PostgresLookup("postgresql://host/db"), digester, FALU)


# Event loops, cancelled finds, forks


def test_any_event_loop_may_ask(database: str, store: PostgresStore) -> None:
    """One after the other, and several at once, each with connections of its own; those of old ones are forgotten."""
    store.commit(new(key()))
    with closing(AsyncPostgresLookup(database)) as lookup:
        for _ in range(3):
            assert asyncio.run(lookup.find([digest(1)])) is not None
        with ThreadPoolExecutor(3) as threads:
            assert all(threads.map(lambda _: asyncio.run(lookup.find([digest(1)])), range(3)))
        asyncio.run(lookup.find([digest(1)]))
        assert len(lookup._loops) <= 1


def test_closing(database: str, store: PostgresStore, run: Run) -> None:
    """Works from inside the event loop, from outside, and twice; afterwards nothing is found."""
    inside, outside = AsyncPostgresLookup(database), AsyncPostgresLookup(database)

    async def use(lookup: AsyncPostgresLookup, close: bool) -> None:
        await lookup.find([digest(1)])
        if close:
            lookup.close()
            with pytest.raises(StoreUnavailable, match="was closed"):
                await lookup.find([digest(1)])
            await asyncio.sleep(0.05)

    run(use(inside, close=True))
    run(use(outside, close=False))
    outside.close()
    outside.close()
    sync = PostgresLookup(database)
    sync.find([digest(1)])
    sync.close()
    sync.close()
    with pytest.raises(StoreUnavailable, match="was closed"):
        sync.find([digest(1)])


def test_closing_while_somebody_asks(database: str, store: PostgresStore, run: Run) -> None:
    """They are answered, or told that it was closed."""

    async def ask(lookup: AsyncPostgresLookup) -> None:
        await lookup.find([digest(1)])
        asking = [asyncio.ensure_future(lookup.find([digest(1)])) for _ in range(50)]
        await asyncio.sleep(0.002)
        lookup.close()
        for result in await asyncio.gather(*asking, return_exceptions=True):
            assert result is None or isinstance(result, StoreUnavailable)

    run(ask(AsyncPostgresLookup(database)))


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


def test_an_event_loop_that_ends_in_the_middle(server: Server) -> None:
    """It need not wait for the answer of a server that hangs."""

    async def ask(lookup: AsyncPostgresLookup) -> None:
        await lookup.find([digest(1)])
        server.freeze()
        asyncio.ensure_future(lookup.find([digest(1)])).add_done_callback(lambda done: done.cancelled())
        await asyncio.sleep(0.05)

    with closing(AsyncPostgresLookup(server.url(), timeout=10)) as lookup:
        try:
            with took(3):
                asyncio.run(ask(lookup))
        finally:
            server.thaw()


def test_an_event_loop_that_ends_while_connecting() -> None:
    """It does not wait either."""

    async def ask(lookup: AsyncPostgresLookup) -> None:
        asyncio.ensure_future(lookup.find([digest(1)])).add_done_callback(lambda done: done.cancelled())
        await asyncio.sleep(0.05)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://doorkey@127.0.0.1:{silent.getsockname()[1]}/postgres"
        with closing(AsyncPostgresLookup(url, timeout=10)) as lookup, took(3):
            asyncio.run(ask(lookup))


def test_a_process_that_ends_without_closing(database: str, store: PostgresStore) -> None:
    """Ends at once, in silence."""
    program = """
import asyncio, sys
from doorkey.storage.postgres import PostgresStore
store = PostgresStore(sys.argv[1])
store.find([bytes(32)]), store.key("key_1"), asyncio.run(store.async_lookup.find([bytes(32)]))
"""
    with took(5):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program, database], capture_output=True, text=True, check=True
        )
    assert (done.stdout, done.stderr) == ("", "")


def test_connections_do_not_grow_old(database: str, store: PostgresStore, run: Run, monkeypatch: Any) -> None:
    """One that has lived long enough is made anew; one that nobody needed is closed."""
    store.commit(new(key()))

    async def ask() -> None:
        with closing(AsyncPostgresLookup(database)) as lookup:
            assert all(await asyncio.gather(*(lookup.find([digest(1)]) for _ in range(4))))
            (connections,) = lookup._loops.values()
            first = set(connections._idle)
            assert len(first) > 1
            assert await lookup.find([digest(1)]) is not None
            assert set(connections._idle) == first
            with monkeypatch.context() as patch:
                patch.setattr(postgres, "_IDLE", 0)
                assert await lookup.find([digest(1)]) is not None
            assert len(connections._idle) == 1 and not first.intersection(connections._idle)
            (second,) = connections._idle
            with monkeypatch.context() as patch:
                patch.setattr(postgres, "_LIFETIME", 0)
                assert await lookup.find([digest(1)]) is not None
            assert second not in connections._idle and all(each.closed for each in (*first, second))

    run(ask())


def in_a_child(function: Callable[[], bool]) -> bool:
    """Whether *function* is true in a child of this process."""
    child = os.fork()
    if child == 0:
        status = 1
        with suppress(BaseException):
            status = 0 if function() else 1
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def backend(lookup: PostgresLookup) -> int:
    """Which of the server's processes answers."""
    with lookup._connections.one(math.inf) as connection:
        return connection.info.backend_pid


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_nothing_goes_through_a_fork(database: str, store: PostgresStore, run: Run) -> None:
    """A child, and the child of a child, ask on connections of their own; the parent's go on."""
    store.commit(new(key()))
    parent = backend(store._lookup)
    run(store.async_lookup.find([digest(1)]))

    def ask() -> bool:
        pid = backend(store._lookup)
        found = store.find([digest(1)]), asyncio.run(store.async_lookup.find([digest(1)])), store.key("key_1")
        store.close()
        return pid != parent and all(found)

    def fork_again() -> bool:
        return ask() if os.getpid() % 2 else in_a_child(ask)

    for function in (ask, lambda: in_a_child(ask), ask):
        assert in_a_child(function)
        assert store.find([digest(1)]) is not None
        assert run(store.async_lookup.find([digest(1)])) is not None


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_fork_in_the_middle_of_finds(database: str, store: PostgresStore) -> None:
    """Other threads go on asking, in the parent and, with threads of its own, in the child."""
    store.commit(new(key()))
    done = threading.Event()

    def ask() -> bool:
        return store.find([digest(1)]) is not None

    def keep_asking() -> int:
        asked = 0
        while not done.is_set():
            assert ask()
            asked += 1
        return asked

    def ask_in_threads() -> bool:
        with ThreadPoolExecutor(4) as threads:
            return all(threads.map(lambda _: ask(), range(8)))

    with ThreadPoolExecutor(3) as threads:
        asking = [threads.submit(keep_asking) for _ in range(3)]
        try:
            assert all(in_a_child(ask_in_threads) for _ in range(5))
        finally:
            done.set()
        assert all(each.result() for each in asking)


def test_a_thread_that_is_interrupted(store: PostgresStore) -> None:
    """Leaves no connection in the middle of an answer to others."""
    store.commit(new(key()))
    with pytest.raises(KeyboardInterrupt), store._lookup._connections.one(math.inf) as connection:
        connection.pgconn.send_query(b"SELECT pg_sleep(0.2)")
        raise KeyboardInterrupt
    assert connection.closed
    assert store.find([digest(1)]) is not None


def test_a_server_that_forks_without_asking_python(database: str, store: PostgresStore) -> None:
    """Its children begin anew as well."""
    store.commit(new(key()))
    before = backend(store._lookup)
    inherited = [each._pool for each in (store._lookup._connections, store._connections)]
    postgres._after_fork_in_child()
    try:
        assert backend(store._lookup) != before
        assert store.find([digest(1)]) is not None
        for pool in inherited:
            assert pool is not None
            postgres._close_own(pool, os.getppid())
            assert not pool.closed, "what came through a fork was closed"
    finally:
        for pool in inherited:
            assert pool is not None
            pool.close()


def test_upgrade_by_url(database: str, store: PostgresStore) -> None:
    """The way by which the command line upgrades: whichever engine the URL names."""
    assert upgrade_store(database) == Properties().schema
