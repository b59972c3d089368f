"""What is heard from PostgreSQL, on real servers: changes, lost connections, silence, forks."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import threading
import time
import warnings
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol, cast

import psycopg
import pytest

import doorkey
from doorkey import Doorkey, Granted, Reason, testing
from doorkey.core.errors import ConfigurationError, InvalidURL
from doorkey.core.verify import AsyncVerifier, Verifier
from doorkey.storage import postgres_listener
from doorkey.storage.cache import AsyncCachedLookup, CachedLookup
from doorkey.storage.postgres import AsyncPostgresLookup, PostgresLookup
from doorkey.storage.postgres_listener import PostgresListener

CACHING = Path(__file__).parents[2] / "docs" / "caching.md"


class Server(Protocol):
    """What ``make_server`` makes."""

    def url(self, database: str = "postgres", user: str = "doorkey") -> str: ...
    def start(self) -> None: ...
    def stop(self, how: signal.Signals = signal.SIGINT) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...


class Told:
    """Takes note of what it is told to forget."""

    def __init__(self) -> None:
        self._heard: SimpleQueue[list[str] | None] = SimpleQueue()

    def invalidate(self, ids: list[str]) -> None:
        self._heard.put(ids)

    def invalidate_all(self) -> None:
        self._heard.put(None)

    def next(self, timeout: float = 30) -> list[str] | None:
        """What is heard next; ``None`` stands for everything."""
        return self._heard.get(timeout=timeout)

    def nothing(self) -> bool:
        """Whether nothing more is heard for a while."""
        try:
            self.next(0.3)
        except Empty:
            return True
        return False


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def door(database: str) -> Iterator[Doorkey]:
    with doorkey.create(database, secret=b64encode(os.urandom(32)).decode()) as door:
        yield door


@contextmanager
def listening(url: str, *caches: postgres_listener.Forgetful) -> Iterator[PostgresListener]:
    """A listener that hears."""
    with PostgresListener(url, *caches) as listener:
        until(lambda: listener.listening)
        yield listener


def send(url: str, payload: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_notify('doorkey', %s)", [payload])


def listeners(url: str) -> list[int]:
    """The server's processes that serve a listener."""
    query = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%' OR query = 'SELECT 1'"
    with psycopg.connect(url, autocommit=True) as connection:
        return [pid for (pid,) in connection.execute(query)]


def test_everything_is_forgotten_at_the_start_and_then_what_is_told(database: str, told: Told) -> None:
    """What was changed before it listened is not known, so it may be anything; then ids, and ``*`` for all again."""
    with listening(database, told):
        assert told.next() is None
        for payload in ("tok00001", "tok00001,ws_1", "*", "ünïcode"):
            send(database, payload)
        assert [told.next() for _ in range(4)] == [["tok00001"], ["tok00001", "ws_1"], None, ["ünïcode"]]
        assert told.nothing()


def test_the_changes_of_others_are_seen_at_once(database: str, door: Doorkey) -> None:
    """What another process does with a key or a workspace holds here at once, on threads and on asyncio."""
    lookup, async_lookup = PostgresLookup(database), AsyncPostgresLookup(database)
    cached, async_cached = CachedLookup(lookup), AsyncCachedLookup(async_lookup)
    digester = door.secrets.digester()
    verifier, async_verifier = Verifier(cached, digester), AsyncVerifier(async_cached, digester)
    header = testing.basic(testing.issue(door))
    ring = door.keyring.acting("test")

    async def play() -> None:
        async def decided() -> tuple[object, object]:
            decisions = verifier.verify(header), await async_verifier.verify(header)
            return cast("tuple[object, object]", tuple(getattr(each, "reason", "granted") for each in decisions))

        async def soon(*expected: object) -> None:
            deadline = time.monotonic() + 2.5
            while await decided() != expected:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.005)

        granted = verifier.verify(header)
        assert isinstance(granted, Granted)
        key, workspace = granted.principal.key, granted.principal.workspace
        assert await decided() == ("granted", "granted")
        for change, expected in (
            (lambda: ring.suspend(workspace), Reason.WORKSPACE_SUSPENDED),
            (lambda: ring.resume(workspace), "granted"),
            (lambda: ring.restrict(key, permissions=["messages"]), Reason.PERMISSIONS),
            (lambda: ring.revoke(key, because="test"), Reason.REVOKED),
        ):
            change()
            await soon(expected, expected)

    with listening(database, cached, async_cached), closing(lookup):
        asyncio.run(play())
        async_lookup.close()


def test_a_lost_connection_is_made_again(database: str, told: Told, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever was missed meanwhile is forgotten with everything else; the log tells of the loss once."""
    caplog.set_level(logging.INFO, "doorkey")
    with listening(database, told):
        assert told.next() is None
        for _ in range(2):
            (pid,) = listeners(database)
            with psycopg.connect(database, autocommit=True) as connection:
                connection.execute("SELECT pg_terminate_backend(%s)", [pid])
            assert told.next() is None
            send(database, "tok00001")
            assert told.next() == ["tok00001"]
    lost = [message for message in caplog.messages if message.startswith("caches are not told of changes")]
    assert len(lost) == 2
    assert len([message for message in caplog.messages if message.startswith("listening to postgresql://")]) == 3


def test_a_server_that_goes_and_comes(
    make_server: Callable[..., Server], told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried again for as long as it takes, with one line in the log; then everything is forgotten."""
    server = make_server()
    with listening(server.url(), told) as listener:
        assert told.next() is None
        server.stop(signal.SIGQUIT)
        until(lambda: not listener.listening)
        time.sleep(0.5)
        server.start()
        assert told.next() is None
        until(lambda: listener.listening)
    assert len(caplog.messages) == 1


def test_a_server_that_falls_silent(
    make_server: Callable[..., Server], told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that hangs, which no closed connection betrays, is asked after a while, and given up."""
    monkeypatch.setattr(postgres_listener, "SILENCE", 0.1)
    server = make_server()
    with PostgresListener(server.url(), told, timeout=0.5) as listener:
        until(lambda: listener.listening)
        time.sleep(0.3)
        assert listener.listening
        assert told.next() is None
        server.freeze()
        until(lambda: not listener.listening)
        server.thaw()
        assert told.next() is None
        until(lambda: listener.listening)


def test_nothing_is_missed_while_the_server_is_asked(
    database: str, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What arrives together with the answer to that question is heard, too."""
    monkeypatch.setattr(postgres_listener, "SILENCE", 0.0)
    with listening(database, told):
        assert told.next() is None
        with psycopg.connect(database, autocommit=True) as connection:
            for number in range(300):
                connection.execute("SELECT pg_notify('doorkey', %s)", [f"tok{number:05}"])
        assert [told.next() for _ in range(300)] == [[f"tok{number:05}"] for number in range(300)]


def test_closing_is_prompt_and_leaves_nothing(database: str, told: Told) -> None:
    """Neither a thread nor a connection; closing twice is fine."""
    with listening(database, told) as listener:
        assert repr(listener).startswith("<PostgresListener at postgresql://")
        assert len(listeners(database)) == 1
        began = time.monotonic()
        listener.close()
        assert time.monotonic() - began < 1
    assert not listener.listening
    assert not [thread for thread in threading.enumerate() if thread.name == "doorkey-listener"]
    until(lambda: not listeners(database))


def test_closing_while_there_is_no_server(told: Told) -> None:
    """Whoever waits to try again is woken."""
    listener = PostgresListener("postgresql://doorkey@127.0.0.1:1/postgres", told, timeout=0.1)
    time.sleep(0.3)
    listener.close()
    assert not listener.listening
    assert told.nothing()


@pytest.mark.parametrize("url", ["sqlite:///keys.db", "postgresql://", "host=x"])
def test_no_url(url: str, told: Told) -> None:
    """What names no database is refused at once, in the thread that wrote it."""
    with pytest.raises(InvalidURL):
        PostgresListener(url, told)


def test_a_timeout_of_nothing(told: Told) -> None:
    """Nor is a timeout that no server keeps."""
    with pytest.raises(ConfigurationError, match="above 0"):
        PostgresListener("postgresql://localhost/keys", told, timeout=0)


def test_a_child_neither_listens_nor_closes(database: str, told: Told) -> None:
    """After a fork the parent goes on listening, whatever the child does with what it inherited."""
    with listening(database, told) as listener:
        assert told.next() is None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads should not fork
            pid = os.fork()
            if not pid:
                signal.alarm(30)
                listener.close()
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        send(database, "tok00001")
        assert told.next() == ["tok00001"]
        assert listener.listening
        busy = time.process_time()
        assert told.nothing()
        assert time.process_time() - busy < 0.2, "the child has woken the parent's listener for good"


def test_what_the_docs_show(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines about notifications in docs/caching.md work as they stand."""
    monkeypatch.setenv("DOORKEY_SECRET", b64encode(os.urandom(32)).decode())
    doorkey.create(database).close()
    (block,) = re.findall(r"^```py\n(.*?)^```$", CACHING.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    names: dict[str, object] = {"doorkey": doorkey, "url": database}
    exec(compile(block, CACHING.name, "exec"), names)
    door, listener = names["door"], names["listener"]
    assert isinstance(door, Doorkey) and isinstance(listener, PostgresListener)
    with door, listener:
        until(lambda: listener.listening)
        assert [cache.max_age for cache in door.caches] == [2, 2]


def test_pauses_grow_and_spread() -> None:
    """At first at once, then longer and longer, up to 5 s, and seldom two alike: not all come back in one moment."""
    assert postgres_listener._pause(0) == 0
    for failures, longest in ((1, 0.3), (2, 0.6), (5, 4.8), (10_000, 4.8)):
        pauses = {postgres_listener._pause(failures) for _ in range(100)}
        assert longest / 3 <= min(pauses) < max(pauses) <= longest
        assert len(pauses) > 50
