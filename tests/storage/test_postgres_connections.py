"""Connections to PostgreSQL, on real servers: what errors mean, outages, event loops, forks."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from doorkey.core.errors import (
    ConfigurationError,
    Conflict,
    InvalidURL,
    ReadOnlyStore,
    StoreError,
    StoreUnavailable,
    UnusableStore,
)
from doorkey.storage import postgres, postgres_connections, rows
from doorkey.storage.postgres import AsyncPostgresLookup, PostgresLookup, PostgresStore, upgrade
from doorkey.storage.postgres_connections import Connection, Connections, alone, for_changes, for_finds
from doorkey.storage.protocol import Batch
from tests.postgres_server import Server
from tests.storage.postgres_samples import (
    SHORT,
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
    took,
)

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


def test_an_unknown_user_is_not_let_in(database: str) -> None:
    """The message says where to look."""
    with pytest.raises(UnusableStore, match="pg_hba"):
        PostgresStore(f"postgresql://nobody@{database.rpartition('@')[2]}")


# What errors mean


def test_no_message_holds_a_digest(store: PostgresStore) -> None:
    """The driver's would repeat the row that conflicts."""
    taken = bytes.fromhex("5a" * 32)
    store.commit(new(key(1, tokens=(replace(token(1), digest=taken),))))
    with pytest.raises(Conflict) as raised:
        store.commit(Batch(keys=((key(2, tokens=(replace(token(2), digest=taken),)), None),)))
    text = "".join(traceback.format_exception(raised.value))
    assert "(23505)" in text and "5a5a" not in text and "DETAIL" not in text


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


# Outages


@pytest.fixture(scope="module")
def server(make_server: MakeServer) -> Server:
    """A server that tests stop, freeze and restart."""
    server = make_server("max_connections=12", "superuser_reserved_connections=1")
    PostgresStore.create(server.url()).close()
    with closing(PostgresStore(server.url())) as store:
        store.commit(new(key()))
    return server


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
        with lookup._connections.one(math.inf), lookup._connections.one(math.inf):
            pass  # now there are two
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


def test_a_connection_of_ones_own(database: str) -> None:
    """Stands in no pool; its errors become ours, too."""
    with pytest.raises(StoreUnavailable, match="not the tables"), alone(for_changes(database, 1)) as connection:
        connection.execute("SELECT FROM nothing")
    assert connection.closed


def test_what_is_to_be_proven_first(database: str) -> None:
    """A proof is asked on the very connection that then reads."""
    connections = Connections(for_finds(database, 2, None), 2)
    proven = []

    def prove(connection: Connection) -> None:
        proven.append((connection.info.backend_pid,))

    with closing(connections):
        assert [connections.fetch("SELECT pg_backend_pid()", (), prove) for _ in range(3)] == [
            [each] for each in proven
        ]


# Event loops


def test_any_event_loop_may_ask(database: str, store: PostgresStore) -> None:
    """One after the other, and several at once, each with connections of its own; those of old ones are forgotten."""
    store.commit(new(key()))
    with closing(AsyncPostgresLookup(database)) as lookup:
        for _ in range(3):
            assert asyncio.run(lookup.find([digest(1)])) is not None
        with ThreadPoolExecutor(3) as threads:
            assert all(threads.map(lambda _: asyncio.run(lookup.find([digest(1)])), range(3)))
        asyncio.run(lookup.find([digest(1)]))
        assert len(lookup._connections._loops) <= 1


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
            (connections,) = lookup._connections._loops.values()
            first = set(connections._idle)
            assert len(first) > 1
            assert await lookup.find([digest(1)]) is not None
            assert set(connections._idle) == first
            with monkeypatch.context() as patch:
                patch.setattr(postgres_connections, "_IDLE", 0)
                assert await lookup.find([digest(1)]) is not None
            assert len(connections._idle) == 1 and not first.intersection(connections._idle)
            (second,) = connections._idle
            with monkeypatch.context() as patch:
                patch.setattr(postgres_connections, "_LIFETIME", 0)
                assert await lookup.find([digest(1)]) is not None
            assert second not in connections._idle and all(each.closed for each in (*first, second))

    run(ask())


# Forks


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
    postgres_connections._after_fork_in_child()
    try:
        assert backend(store._lookup) != before
        assert store.find([digest(1)]) is not None
        for pool in inherited:
            assert pool is not None
            postgres_connections._close_own(pool, os.getppid())
            assert not pool.closed, "what came through a fork was closed"
    finally:
        for pool in inherited:
            assert pool is not None
            pool.close()
