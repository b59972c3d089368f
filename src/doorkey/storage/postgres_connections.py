"""
Connections to a PostgreSQL server, for threads and for asyncio: deadlines, pools, forks, and what its errors mean.

The rules that this file keeps:

* Every operation has a deadline that this side keeps, because a server that hangs keeps none. What missed it, or was
  broken off, closes its connection, so that no answer is left for whoever would use that next.
* Where all connections are busy, whoever needs one waits for a part of the timeout. If that was in vain, those after
  it are refused at once, until one comes back.
* Nothing that belongs to libpq goes through a fork.
* No driver's exception gets out: their texts repeat parameters, and a mistyped URL may have a password anywhere.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from time import monotonic
from typing import Any, TypeVar
from weakref import WeakSet, finalize

import psycopg
from psycopg import waiting
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from ..core.errors import (
    ConfigurationError,
    Conflict,
    InvalidURL,
    ReadOnlyStore,
    StoreError,
    StoreUnavailable,
    UnusableStore,
)
from .rows import Row

T = TypeVar("T")

PATIENCE = 1 / 4
"""The part of its timeout that one waits for a connection while others have them all."""

_GLANCE = 0.02
"""Seconds between two looks at the clock while a server is silent."""

_LIFETIME = 3600.0
"""Seconds after which a connection is made anew, so that servers which come or go get or lose their share."""

_IDLE = 600.0
"""Seconds after which a connection that nobody needed is closed."""


# Errors.


class _Late(psycopg.OperationalError):
    """The server has not answered by the deadline."""


class Lost(StoreUnavailable):
    """The connection was gone already, or of no more use. A read may be tried again on another."""


class Contended(Conflict):
    """The database broke a transaction off in favour of another one. The same may pass when tried again."""


_MEANINGS: Mapping[str, tuple[type[StoreError], str]] = {
    "23": (Conflict, "what is new stands in {} already, by its id, digest or number, or lacks what it belongs to"),
    "40": (Contended, "others kept changing the same in {}: read it again, then repeat the change"),
    "25006": (ReadOnlyStore, "{} cannot be written: it is a standby, or set to read-only transactions"),
    "25P03": (Lost, "{} ended a transaction that had stood still"),
    "26": (Lost, "{} has forgotten a prepared statement: is a pooler in between?"),
    "0A": (Lost, "{} has been altered meanwhile"),
    "42501": (StoreUnavailable, "{} does not grant this role what it needs"),
    "3F": (StoreUnavailable, "{} has not the tables of a store: look for a mistyped name, or restore a backup"),
    "42": (StoreUnavailable, "{} has not the tables of a store: look for a mistyped name, or restore a backup"),
    "53100": (StoreUnavailable, "there is no space left to write {}"),
    "53300": (StoreUnavailable, "{} has no connection left for us"),
    "57014": (StoreUnavailable, "{} was too slow to answer"),
    "57P": (Lost, "{} is shutting down or starting up"),
    "08": (Lost, "{} broke the connection off"),
}
"""What the beginning of an SQLSTATE means (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""

# A refused connection has no SQLSTATE in libpq, only a text. In another language it means the last of these.
_REFUSALS: Sequence[tuple[re.Pattern[str], type[StoreError], str]] = (
    (
        re.compile("hot standby|in recovery"),
        UnusableStore,
        "{} is a standby: name the primary (only a PostgresLookup may read a standby, given max_staleness)",
    ),
    (
        re.compile("database .* does not exist"),
        UnusableStore,
        "there is no database {}: look for a mistyped name, or make one with `createdb`",
    ),
    (
        re.compile(
            "authentication|password|role .* does not exist|pg_hba|not permitted|permission denied for database"
        ),
        UnusableStore,
        "{} does not let us in: look at the user, the password and the server's pg_hba.conf",
    ),
    (
        re.compile("too many (clients|connections)|remaining connection slots"),
        StoreUnavailable,
        "{} has no connection left for us: lower pool_size, or raise max_connections",
    ),
    (re.compile(""), StoreUnavailable, "{} cannot be reached: is it running, and is this its address?"),
)


def _explained(error: psycopg.Error, server: Server) -> StoreError:
    """Our exception for one of the driver, without its text, because that may repeat what is stored."""
    state = error.sqlstate or ""
    if isinstance(error, _Late):
        return StoreUnavailable(f"{server.name} did not answer within {server.timeout:g} s")
    if not state and isinstance(error, psycopg.OperationalError):
        return Lost(f"{server.name} broke the connection off")
    for beginning, (kind, text) in _MEANINGS.items():
        if state.startswith(beginning):
            return kind(f"{text.format(server.name)} ({state})")
    return StoreUnavailable(f"{server.name} cannot be used ({state or type(error).__name__})")


def _refused(error: psycopg.Error, server: Server) -> StoreError:
    """The same for a connection that could not be made."""
    kind, text = next((kind, text) for pattern, kind, text in _REFUSALS if pattern.search(str(error)))
    return kind(text.format(server.name))


# Servers and connections.


@dataclass(frozen=True, slots=True)
class Server:
    """Where a database is, by a name without user and password, and how connections to it are made."""

    name: str
    timeout: float
    parameters: Mapping[str, Any] = field(repr=False)


def _server(url: str, timeout: float, settings: Mapping[str, str], **parameters: Any) -> Server:
    """
    The server at *url*, for connections with these *settings* of the server and *parameters* of libpq and psycopg.

    Raises:
        InvalidURL: *url* names none.
        ConfigurationError: *timeout* is not above 0.
    """
    if not 0 < timeout < math.inf:
        raise ConfigurationError("a store needs a timeout above 0 seconds, and an end to it")
    try:
        given = conninfo_to_dict(url if url.startswith(("postgresql://", "postgres://")) and "\0" not in url else "=")
    except (psycopg.Error, UnicodeError):
        given = {"host": "@"}
    host, port, database = (str(given.get(name, "")) for name in ("host", "port", "dbname"))
    if "@" in host + port + database or not database:  # else what is shown could be a part of the password
        raise InvalidURL(
            "the URL of a PostgreSQL database has the form postgresql://user:password@host:5432/database, with what is "
            "special in the password percent-escaped (%40 is @)"
        )
    milliseconds = math.ceil(timeout * 900)  # a server that can say that it is too slow does so before we give up
    ours = {
        "search_path": "doorkey",
        "statement_timeout": milliseconds,
        # Else a client that is stopped in the middle of a commit would hold everybody up.
        "idle_in_transaction_session_timeout": milliseconds,
        **settings,
    }
    options = (str(given.get("options", "")), *(f"-c {name}={value}" for name, value in ours.items()))
    defaults = {"application_name": "doorkey", "keepalives_idle": 5, "keepalives_interval": 1, "keepalives_count": 3}
    forced = {"connect_timeout": max(2, math.ceil(timeout)), "client_encoding": "utf8", "autocommit": True}
    return Server(
        f"postgresql://{host}{port and ':'}{port}/{database}",
        timeout,
        {**defaults, **given, **forced, **parameters, "options": " ".join(options).strip()},
    )


def for_finds(url: str, timeout: float, max_staleness: float | None) -> Server:
    """The server as finds see it: nothing can be written, and small tables are read as large ones will be."""
    if max_staleness is not None and not max_staleness > 0:
        raise ConfigurationError("a bound on staleness is above 0 seconds: leave it out, then only a primary is read")
    settings = {"default_transaction_read_only": "on", "enable_seqscan": "off"}
    attributes = {} if max_staleness else {"target_session_attrs": "primary"}
    return _server(url, timeout, settings, prepare_threshold=0, **attributes)


def for_changes(url: str, timeout: float) -> Server:
    """The server as everything else sees it."""
    return _server(url, timeout, {}, prepare_threshold=None, target_session_attrs="primary")


def _bounded(connection: Connection | AsyncConnection, steps: PQGen[T]) -> PQGen[T]:
    """*steps* of the driver, given up at the deadline of *connection*."""
    try:
        ready = yield next(steps)
        while ready or monotonic() < connection.deadline:
            ready = yield steps.send(ready)
    except StopIteration as end:
        result: T = end.value
        return result
    raise _Late("no answer by the deadline")


class Connection(psycopg.Connection[Row]):
    """
    A connection that waits for nothing beyond a deadline.

    Attributes:
        deadline: of whatever is waited for, by the monotonic clock.
        proven: until when what it finds is within the bound on staleness, by the monotonic clock.
    """

    deadline: float = math.inf
    proven: float = -math.inf

    def wait(self, gen: PQGen[T], interval: float = _GLANCE, timeout: float | None = None) -> T:
        """See :meth:`psycopg.Connection.wait`."""
        return super().wait(_bounded(self, gen), min(interval, _GLANCE))


class AsyncConnection(psycopg.AsyncConnection[Row]):
    """The same for asyncio."""

    deadline: float = math.inf
    proven: float = -math.inf
    born: float = 0.0
    idle_since: float = 0.0

    async def wait(self, gen: PQGen[T], interval: float = _GLANCE, timeout: float | None = None) -> T:
        """See :meth:`psycopg.AsyncConnection.wait`, which would ask the server to cancel, and wait 10 s for that."""
        try:
            return await waiting.wait_async(_bounded(self, gen), self.pgconn.socket, min(interval, _GLANCE))
        except asyncio.CancelledError:
            self.pgconn.finish()
            raise


def _is_clean(connection: Connection | AsyncConnection) -> bool:
    """Tell whether others can use *connection*: it is open, and nothing is under way on it."""
    return bool(connection.pgconn.transaction_status == TransactionStatus.IDLE)


def _drop(connection: Connection | AsyncConnection) -> None:
    """Close *connection* at once, whatever is under way on it."""
    connection.pgconn.finish()


def _failed(error: psycopg.Error, connection: Connection | AsyncConnection, server: Server) -> StoreError:
    """What an error on *connection* means. One that is of no more use is closed."""
    explained = _explained(error, server)
    if isinstance(explained, Lost):
        _drop(connection)
    return explained


def _closed(server: Server) -> StoreUnavailable:
    return StoreUnavailable(f"{server.name} was closed: open it again")


def _at_least_one(size: int) -> int:
    if size < 1:
        raise ConfigurationError("a pool has at least one connection")
    return size


def _busy(server: Server, size: int) -> StoreUnavailable:
    return StoreUnavailable(f"all {size} connections to {server.name} are busy")


Prove = Callable[[Connection], None]


class Connections:
    """
    What a process has of connections to one server, for its threads: a pool of psycopg's.

    That hands connections on in the order of asking. Whoever asks waits for a moment, or to the deadline while there
    are connections still to be made. Once that was in vain nobody waits, until one comes back or is made.
    """

    def __init__(self, server: Server, size: int) -> None:
        self.server: Server = server
        self.size: int = _at_least_one(size)
        self._closed = False
        self.renew()
        _everything.add(self)

    def renew(self) -> None:
        """Begin anew, without what a parent process had."""
        self.lock: threading.Lock = threading.Lock()
        self._pool: ConnectionPool[Connection] | None = None
        self._lent: set[Connection] = set()
        self._stuck = False

    @contextmanager
    def one(self, deadline: float) -> Iterator[Connection]:
        """A connection for as long as the context lasts. The driver's exceptions in it become ours."""
        pool, connection = self._get(deadline)
        self._stuck = False
        self._lent.add(connection)
        try:
            connection.deadline = deadline
            yield connection
        except psycopg.Error as error:
            raise _failed(error, connection, self.server) from None
        finally:
            self._lent.discard(connection)
            self._stuck = False
            if _is_clean(connection):
                pool.putconn(connection)
            else:
                connection.close()
                pool.putconn(connection)
                pool.drain()  # where one hangs or is dead, so are the others

    def _get(self, deadline: float) -> tuple[ConnectionPool[Connection], Connection]:
        while True:
            pool = self._opened()
            try:
                try:
                    patience = _GLANCE if self._stuck else PATIENCE * self.server.timeout
                    return pool, pool.getconn(min(patience, deadline - monotonic()))
                except PoolTimeout:
                    if self._stuck or len(self._lent) >= self.size:
                        raise
                    return pool, pool.getconn(deadline - monotonic())
            except PoolClosed:  # by a fork, or for good
                continue
            except PoolTimeout:
                self._stuck = True
                if len(self._lent) >= self.size:
                    raise _busy(self.server, self.size) from None
                raise StoreUnavailable(
                    f"{self.server.name} gives no connection: the logger psycopg.pool says why"
                ) from None

    def _opened(self) -> ConnectionPool[Connection]:
        pool = self._pool
        if pool is not None:
            return pool
        with self.lock:
            if self._closed:
                raise _closed(self.server)
            if self._pool is None:
                # It gives up soon where there is no server. Then the next who asks makes it try again, so that it is
                # back as soon as the server is.
                self._pool = ConnectionPool(
                    connection_class=Connection,
                    kwargs=dict(self.server.parameters),
                    min_size=0,
                    max_size=self.size,
                    open=True,
                    name="doorkey",
                    reconnect_timeout=1.0,
                    num_workers=1,
                )
                # At the end of the process before its threads are ended: then it would wait for each of them in vain.
                self._finalizer = finalize(self, _close_own, self._pool, os.getpid())
            return self._pool

    def fetch(self, sql: str, parameters: Sequence[Any], prove: Prove | None = None) -> list[Row]:
        """All rows of one SELECT, on another connection if the first turns out to be dead."""
        deadline = monotonic() + self.server.timeout
        try:
            return self._fetch(deadline, sql, parameters, prove)
        except Lost:
            return self._fetch(deadline, sql, parameters, prove)

    def _fetch(self, deadline: float, sql: str, parameters: Sequence[Any], prove: Prove | None) -> list[Row]:
        with self.one(deadline) as connection:
            if prove is not None:
                prove(connection)
            return connection.execute(statement(sql), parameters, binary=True).fetchall()

    def empty(self) -> None:
        """Close all connections for now. The lock is held by the caller."""
        pool, self._pool = self._pool, None
        if pool is not None:
            self._finalizer.detach()
            pool.close(self.server.timeout)

    def close(self) -> None:
        """Close them for good."""
        with self.lock:
            self._closed = True
            self.empty()


def _close_own(connections: ConnectionPool[Connection] | _LoopConnections, process: int) -> None:
    """Close *connections*, unless they came through a fork."""
    if process == os.getpid():
        connections.close()


class AsyncConnections:
    """What a process has of connections to one server, for asyncio: each event loop has its own, *size* at most."""

    def __init__(self, server: Server, size: int) -> None:
        self.server: Server = server
        self._size = _at_least_one(size)
        self._closed = False
        self.renew()
        _everything.add(self)

    def renew(self) -> None:
        """Begin anew, without what a parent process had."""
        self.lock: threading.Lock = threading.Lock()
        self._loops: dict[asyncio.AbstractEventLoop, _LoopConnections] = {}

    def one(self, deadline: float) -> AbstractAsyncContextManager[AsyncConnection]:
        """See :meth:`Connections.one`. For the running event loop."""
        return (self._loops.get(asyncio.get_running_loop()) or self._opened()).one(deadline)

    def _opened(self) -> _LoopConnections:
        """The connections of the running event loop. Those of loops that have ended are closed."""
        with self.lock:
            if self._closed:
                raise _closed(self.server)
            for loop in [loop for loop in self._loops if loop.is_closed()]:
                self._loops.pop(loop).close()
            connections = self._loops[asyncio.get_running_loop()] = _LoopConnections(self.server, self._size)
            connections.finalizer = finalize(self, _close_own, connections, os.getpid())
            return connections

    def close(self) -> None:
        """Close them for good, from any thread and whatever event loop. Closing twice is fine."""
        with self.lock:
            self._closed = True
            while self._loops:
                self._loops.popitem()[1].close()


class _LoopConnections:
    """
    What an event loop has of connections to one server.

    No pool of psycopg's: that has tasks of its own. An event loop that ends while they connect waits for them for ever,
    and no other can close it. This is a stack of idle connections; who finds none makes one.
    """

    finalizer: finalize[[_LoopConnections, int], AsyncConnections]

    def __init__(self, server: Server, size: int) -> None:
        self._server = server
        self._size = size
        self._places = asyncio.Semaphore(size)
        self._idle: list[AsyncConnection] = []
        self._stuck = False
        self._closed = False
        self._tried = False
        self._failure = ""
        self._again_at = -math.inf

    @asynccontextmanager
    async def one(self, deadline: float) -> AsyncIterator[AsyncConnection]:
        """See :meth:`Connections.one`."""
        await self._take_place(deadline)
        try:
            connection = self._spare() or await self._connect(deadline)
            try:
                connection.deadline = deadline
                yield connection
            except psycopg.Error as error:
                raise _failed(error, connection, self._server) from None
            finally:
                if _is_clean(connection) and not self._closed:
                    connection.idle_since = monotonic()
                    self._idle.append(connection)
                else:
                    _drop(connection)
                    self.empty()  # where one hangs or is dead, so are the others
        finally:
            self._stuck = False
            self._places.release()

    async def _take_place(self, deadline: float) -> None:
        """Become one of those who have connections, in the order of asking. At first, wait until there are any."""
        if self._places.locked():
            if self._stuck:
                raise _busy(self._server, self._size)
            patience = PATIENCE * self._server.timeout if self._tried else deadline - monotonic()
        else:
            patience = None
        try:
            async with asyncio.timeout(patience):
                await self._places.acquire()
        except TimeoutError:
            self._stuck = True
            raise _busy(self._server, self._size) from None

    def _spare(self) -> AsyncConnection | None:
        """The idle connection that was used last, unless it has lived long enough; those long unused are closed."""
        now = monotonic()
        while self._idle and now - self._idle[0].idle_since > _IDLE:
            _drop(self._idle.pop(0))
        while self._idle:
            connection = self._idle.pop()
            if now - connection.born < _LIFETIME:
                return connection
            _drop(connection)
        return None

    async def _connect(self, deadline: float) -> AsyncConnection:
        """A new connection. For a moment after one has failed nobody tries, so that a server in trouble has peace."""
        if monotonic() < self._again_at:
            raise StoreUnavailable(self._failure)
        try:
            async with asyncio.timeout(deadline - monotonic()):
                connection = await AsyncConnection.connect(**self._server.parameters)
        except (psycopg.Error, TimeoutError) as error:
            self._tried = True
            self._failure = (
                str(_refused(error, self._server))
                if isinstance(error, psycopg.Error)
                else f"{self._server.name} gave no connection within {self._server.timeout:g} s"
            )
            self._again_at = monotonic() + (100 + secrets.randbelow(200)) / 1000
            raise StoreUnavailable(self._failure) from None
        self._tried = True
        connection.born = monotonic()
        return connection

    def empty(self) -> None:
        """Close those that are idle."""
        while self._idle:
            _drop(self._idle.pop())

    def close(self) -> None:
        """Close them for good, from any thread; those in use when they are given back."""
        self._closed = True
        self.finalizer.detach()
        self.empty()


@contextmanager
def alone(server: Server, deadline: float = math.inf) -> Iterator[Connection]:
    """A connection that stands in no pool. Driver's exceptions become ours; in the context, those that one sees by."""
    try:
        connection = Connection.connect(**server.parameters)
    except psycopg.Error as error:
        raise _refused(error, server) from None
    try:
        connection.deadline = deadline
        yield connection
    except psycopg.Error as error:
        raise _explained(error, server) from None
    finally:
        connection.close()


@lru_cache(maxsize=256)
def statement(text: str) -> bytes:
    """A statement as psycopg takes it."""
    return text.replace("?", "%s").encode()


# Forks.

_everything: WeakSet[Connections | AsyncConnections] = WeakSet()
_forking = threading.RLock()
_held = ExitStack()
_inherited: list[Any] = []


def _before_fork() -> None:
    """Close what threads share, and keep it closed until the fork is over."""
    _held.enter_context(_forking)
    for each in list(_everything):
        _held.enter_context(each.lock)
        if isinstance(each, Connections):
            each.empty()


def _after_fork() -> None:
    _held.pop_all().close()  # in one go: once _forking is given back, another thread's fork holds locks of its own


def _after_fork_in_child() -> None:
    """Begin anew. What came along all the same is kept as it is, because closing it would reach the parent's."""
    _after_fork()
    for each in list(_everything):
        _inherited.append(dict(vars(each)))
        each.renew()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
