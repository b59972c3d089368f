"""
The store in PostgreSQL: the way past one machine, for any number of processes on any number of machines.

The rules that this file keeps:

* A find is one round trip: one prepared statement without a transaction, on a connection that can change nothing.
* Every operation has a deadline that this side keeps, because a server that hangs keeps none. What missed it, or was
  broken off, closes its connection, so that no answer is left for whoever would use that next.
* Where all connections are busy, a find waits for one, a quarter of its timeout. If that was in vain, those after it
  are refused at once, until one comes back.
* Finds read a primary. A standby is read only within a bound on its staleness that it proves again and again.
* Nothing that belongs to libpq goes through a fork, and a request that is cancelled leaves its find to end by itself.
* No driver's exception gets out: their texts repeat parameters, and a mistyped URL may have a password anywhere.

The tables stand in a schema of their own, ``doorkey``. They use no sequences, and tokens are keyed by digest, so that
the rows of a distributed engine spread by themselves. Isolation is whatever the database has set, READ COMMITTED or
more: versions are checked by the very statements that write, and a commit locks the properties against a change of
their read-only flag. An upgrade locks that row, too: every engine has row locks, not every one has advisory locks.

Each commit that changes keys or workspaces notifies the channel ``doorkey``. The payload is a list of ids with commas
between them: of each token whose key was changed, and of each workspace that was changed without any of its keys (so
that all of them may be concerned). ``*`` stands for more than fits. It never holds a digest. A listener may be late, or
miss any of it: no promise hangs on it.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import chain
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
    UnreadableRecord,
    UnusableStore,
)
from ..core.model import Mode, Record, Use
from . import rows
from .cache import changed
from .protocol import SCHEMA, Batch, Event, Key, Properties, Workspace

T = TypeVar("T")

CHANNEL = "doorkey"
"""What a listener listens to."""

PATIENCE = 1 / 4
"""The part of its timeout that a find waits for a connection while others have them all."""

_GLANCE = 0.02
"""Seconds between two looks at the clock while a server is silent."""

_LIFETIME = 3600.0
"""Seconds after which a connection is made anew, so that servers which come or go get or lose their share."""

_IDLE = 600.0
"""Seconds after which a connection that nobody needed is closed."""

_ATTEMPTS = 5
"""How often a commit is tried that the database broke off in favour of others."""

_PAYLOAD = 7999
"""Bytes that PostgreSQL takes with a notification (https://www.postgresql.org/docs/current/sql-notify.html)."""

_STEPS: Sequence[Sequence[str]] = (
    (
        """
        CREATE TABLE properties (
            singleton smallint NOT NULL PRIMARY KEY CHECK (singleton = 1),
            profile text NOT NULL,
            fingerprints text NOT NULL,
            read_only smallint NOT NULL CHECK (read_only IN (0, 1)),
            schema bigint NOT NULL,
            version bigint NOT NULL CHECK (version >= 1)
        )
        """,
        """
        CREATE TABLE workspaces (
            id text COLLATE "C" NOT NULL PRIMARY KEY CHECK (id <> ''),
            name text NOT NULL,
            created_at bigint NOT NULL,
            approved_at bigint,
            suspended_at bigint,
            head bytea NOT NULL CHECK (octet_length(head) = 32),
            events bigint NOT NULL CHECK (events >= 0),
            version bigint NOT NULL CHECK (version >= 1)
        )
        """,
        """
        CREATE TABLE keys (
            id text COLLATE "C" NOT NULL PRIMARY KEY CHECK (id <> ''),
            workspace text COLLATE "C" NOT NULL REFERENCES workspaces (id),
            type text NOT NULL CHECK (type IN ('secret', 'publishable')),
            mode text NOT NULL CHECK (mode IN ('test', 'live')),
            name text NOT NULL,
            created_at bigint NOT NULL,
            permissions text CHECK (permissions <> ''),
            networks text CHECK (networks <> ''),
            expires_at bigint,
            revoked_at bigint,
            version bigint NOT NULL CHECK (version >= 1),
            bounds bytea,
            CHECK ((networks IS NULL) = (bounds IS NULL))
        )
        """,
        "CREATE INDEX keys_by_workspace ON keys (workspace, id)",
        """
        CREATE TABLE tokens (
            digest bytea NOT NULL PRIMARY KEY CHECK (octet_length(digest) = 32),
            id text COLLATE "C" NOT NULL UNIQUE CHECK (id <> ''),
            key text COLLATE "C" NOT NULL REFERENCES keys (id),
            place bigint NOT NULL CHECK (place >= 0),
            secret text NOT NULL,
            created_at bigint NOT NULL,
            sealed bytea,
            expires_at bigint,
            ended_at bigint,
            ended_as text CHECK (ended_as IN ('rolled', 'revoked')),
            last_used_at bigint,
            UNIQUE (key, place),
            CHECK ((ended_at IS NULL) = (ended_as IS NULL))
        )
        """,
        """
        CREATE TABLE events (
            workspace text COLLATE "C" NOT NULL REFERENCES workspaces (id),
            sequence bigint NOT NULL CHECK (sequence >= 1),
            at bigint NOT NULL,
            actor text NOT NULL,
            action text NOT NULL,
            key text COLLATE "C",
            detail text NOT NULL,
            hash bytea NOT NULL CHECK (octet_length(hash) = 32),
            PRIMARY KEY (workspace, sequence)
        )
        """,
    ),
)
"""What makes each schema of the one before it, the first of nothing."""

# How far a standby may be behind, in seconds; null if it cannot tell. It has all that was committed before the last
# transaction that it replayed. It has all that there was when its primary last sent something, once it has replayed as
# far as the primary then was.
_STALENESS = """
    SELECT CASE WHEN pg_is_in_recovery() THEN extract(epoch FROM clock_timestamp() - greatest(
        pg_last_xact_replay_timestamp(),
        (SELECT last_msg_send_time FROM pg_stat_wal_receiver WHERE latest_end_lsn <= pg_last_wal_replay_lsn())
    )) ELSE 0 END::float8
"""
_CAN_NOTIFY = "SELECT EXISTS (SELECT FROM pg_catalog.pg_proc WHERE proname = 'pg_notify')"
_NOTIFY = "SELECT pg_notify(?, ?)"
_SHARE = "SELECT version FROM properties FOR SHARE"
_HOLD = "SELECT version FROM properties FOR UPDATE"
_MADE_DURABLE = (
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)
_HAS_SCHEMA = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'doorkey')"
_ENCODING = "SELECT current_setting('server_encoding')"
_SET_SCHEMA = "UPDATE properties SET schema = ?, version = version + 1"


# Errors.


class _Late(psycopg.OperationalError):
    """The server has not answered by the deadline."""


class _Lost(StoreUnavailable):
    """The connection was gone already, or of no more use. A read may be tried again on another."""


class _Contended(Conflict):
    """The database broke a transaction off in favour of another one. The same may pass when tried again."""


_MEANINGS: Mapping[str, tuple[type[StoreError], str]] = {
    "23": (Conflict, "what is new stands in {} already, by its id, digest or number, or lacks what it belongs to"),
    "40": (_Contended, "others kept changing the same in {}: read it again, then repeat the change"),
    "25006": (ReadOnlyStore, "{} cannot be written: it is a standby, or set to read-only transactions"),
    "25P03": (_Lost, "{} ended a transaction that had stood still"),
    "26": (_Lost, "{} has forgotten a prepared statement: is a pooler in between?"),
    "0A": (_Lost, "{} has been altered meanwhile"),
    "42501": (StoreUnavailable, "{} does not grant this role what it needs"),
    "3F": (StoreUnavailable, "{} has not the tables of a store: look for a mistyped name, or restore a backup"),
    "42": (StoreUnavailable, "{} has not the tables of a store: look for a mistyped name, or restore a backup"),
    "53100": (StoreUnavailable, "there is no space left to write {}"),
    "53300": (StoreUnavailable, "{} has no connection left for us"),
    "57014": (StoreUnavailable, "{} was too slow to answer"),
    "57P": (_Lost, "{} is shutting down or starting up"),
    "08": (_Lost, "{} broke the connection off"),
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


def _explained(error: psycopg.Error, server: _Server) -> StoreError:
    """Our exception for one of the driver, without its text, because that may repeat what is stored."""
    state = error.sqlstate or ""
    if isinstance(error, _Late):
        return StoreUnavailable(f"{server.name} did not answer within {server.timeout:g} s")
    if not state and isinstance(error, psycopg.OperationalError):
        return _Lost(f"{server.name} broke the connection off")
    for beginning, (kind, text) in _MEANINGS.items():
        if state.startswith(beginning):
            return kind(f"{text.format(server.name)} ({state})")
    return StoreUnavailable(f"{server.name} cannot be used ({state or type(error).__name__})")


def _refused(error: psycopg.Error, server: _Server) -> StoreError:
    """The same for a connection that could not be made."""
    kind, text = next((kind, text) for pattern, kind, text in _REFUSALS if pattern.search(str(error)))
    return kind(text.format(server.name))


# Servers and connections.


@dataclass(frozen=True, slots=True)
class _Server:
    """Where a database is, by a name without user and password, and how connections to it are made."""

    name: str
    timeout: float
    parameters: Mapping[str, Any] = field(repr=False)


def _server(url: str, timeout: float, settings: Mapping[str, str], **parameters: Any) -> _Server:
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
    return _Server(
        f"postgresql://{host}{port and ':'}{port}/{database}",
        timeout,
        {**defaults, **given, **forced, **parameters, "options": " ".join(options).strip()},
    )


def _finding(url: str, timeout: float, max_staleness: float | None) -> _Server:
    """The server as finds see it: nothing can be written, and small tables are read as large ones will be."""
    if max_staleness is not None and not max_staleness > 0:
        raise ConfigurationError("a bound on staleness is above 0 seconds: leave it out, then only a primary is read")
    settings = {"default_transaction_read_only": "on", "enable_seqscan": "off"}
    attributes = {} if max_staleness else {"target_session_attrs": "primary"}
    return _server(url, timeout, settings, prepare_threshold=0, **attributes)


def _managing(url: str, timeout: float) -> _Server:
    """The server as everything else sees it."""
    return _server(url, timeout, {}, prepare_threshold=None, target_session_attrs="primary")


def _bounded(connection: _Connection | _AsyncConnection, steps: PQGen[T]) -> PQGen[T]:
    """*steps* of the driver, given up at the deadline of *connection*."""
    try:
        ready = yield next(steps)
        while ready or monotonic() < connection.deadline:
            ready = yield steps.send(ready)
    except StopIteration as end:
        result: T = end.value
        return result
    raise _Late("no answer by the deadline")


class _Connection(psycopg.Connection[rows.Row]):
    """
    A connection that waits for nothing beyond a deadline.

    Attributes:
        deadline: of whatever is waited for, by the monotonic clock.
        proven: until when what it finds is within the bound on staleness, by the monotonic clock.
    """

    deadline = math.inf
    proven = -math.inf

    def wait(self, gen: PQGen[T], interval: float = _GLANCE, timeout: float | None = None) -> T:
        """See :meth:`psycopg.Connection.wait`."""
        return super().wait(_bounded(self, gen), min(interval, _GLANCE))


class _AsyncConnection(psycopg.AsyncConnection[rows.Row]):
    """The same for asyncio."""

    deadline = math.inf
    proven = -math.inf
    born = 0.0
    idle_since = 0.0

    async def wait(self, gen: PQGen[T], interval: float = _GLANCE, timeout: float | None = None) -> T:
        """See :meth:`psycopg.AsyncConnection.wait`, which would ask the server to cancel, and wait 10 s for that."""
        try:
            return await waiting.wait_async(_bounded(self, gen), self.pgconn.socket, min(interval, _GLANCE))
        except asyncio.CancelledError:
            self.pgconn.finish()
            raise


def _is_clean(connection: _Connection | _AsyncConnection) -> bool:
    """Tell whether others can use *connection*: it is open, and nothing is under way on it."""
    return bool(connection.pgconn.transaction_status == TransactionStatus.IDLE)


def _drop(connection: _Connection | _AsyncConnection) -> None:
    """Close *connection* at once, whatever is under way on it."""
    connection.pgconn.finish()


def _failed(error: psycopg.Error, connection: _Connection | _AsyncConnection, server: _Server) -> StoreError:
    """What an error on *connection* means. One that is of no more use is closed."""
    explained = _explained(error, server)
    if isinstance(explained, _Lost):
        _drop(connection)
    return explained


def _closed(server: _Server) -> StoreUnavailable:
    return StoreUnavailable(f"{server.name} was closed: open it again")


def _busy(server: _Server, size: int) -> StoreUnavailable:
    return StoreUnavailable(f"all {size} connections to {server.name} are busy")


Prove = Callable[[_Connection], None]


class _Connections:
    """
    What a process has of connections to one server, for its threads: a pool of psycopg's.

    That hands connections on in the order of asking. Whoever asks waits for a moment, or to the deadline while there
    are connections still to be made. Once that was in vain nobody waits, until one comes back or is made.
    """

    def __init__(self, server: _Server, size: int) -> None:
        if size < 1:
            raise ConfigurationError("a pool has at least one connection")
        self.server = server
        self._size = size
        self._closed = False
        self.renew()
        _everything.add(self)

    def renew(self) -> None:
        """Begin anew, without what a parent process had."""
        self.lock = threading.Lock()
        self._pool: ConnectionPool[_Connection] | None = None
        self._lent: set[_Connection] = set()
        self._stuck = False

    @contextmanager
    def one(self, deadline: float) -> Iterator[_Connection]:
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

    def _get(self, deadline: float) -> tuple[ConnectionPool[_Connection], _Connection]:
        while True:
            pool = self._opened()
            try:
                try:
                    patience = _GLANCE if self._stuck else PATIENCE * self.server.timeout
                    return pool, pool.getconn(min(patience, deadline - monotonic()))
                except PoolTimeout:
                    if self._stuck or len(self._lent) >= self._size:
                        raise
                    return pool, pool.getconn(deadline - monotonic())
            except PoolClosed:  # by a fork, or for good
                continue
            except PoolTimeout:
                self._stuck = True
                if len(self._lent) >= self._size:
                    raise _busy(self.server, self._size) from None
                raise StoreUnavailable(
                    f"{self.server.name} gives no connection: the logger psycopg.pool says why"
                ) from None

    def _opened(self) -> ConnectionPool[_Connection]:
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
                    connection_class=_Connection,
                    kwargs=dict(self.server.parameters),
                    min_size=0,
                    max_size=self._size,
                    open=True,
                    name="doorkey",
                    reconnect_timeout=1.0,
                    num_workers=1,
                )
                # At the end of the process before its threads are ended: then it would wait for each of them in vain.
                self._finalizer = finalize(self, _close_own, self._pool, os.getpid())
            return self._pool

    def fetch(self, sql: str, parameters: Sequence[Any], prove: Prove | None = None) -> list[rows.Row]:
        """All rows of one SELECT, on another connection if the first turns out to be dead."""
        deadline = monotonic() + self.server.timeout
        try:
            return self._fetch(deadline, sql, parameters, prove)
        except _Lost:
            return self._fetch(deadline, sql, parameters, prove)

    def _fetch(self, deadline: float, sql: str, parameters: Sequence[Any], prove: Prove | None) -> list[rows.Row]:
        with self.one(deadline) as connection:
            if prove is not None:
                prove(connection)
            return connection.execute(_sql(sql), parameters, binary=True).fetchall()

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


def _close_own(connections: ConnectionPool[_Connection] | _LoopConnections, process: int) -> None:
    """Close *connections*, unless they came through a fork."""
    if process == os.getpid():
        connections.close()


class _LoopConnections:
    """
    What an event loop has of connections to one server.

    No pool of psycopg's: that has tasks of its own. An event loop that ends while they connect waits for them for ever,
    and no other can close it. This is a stack of idle connections; who finds none makes one.
    """

    finalizer: finalize[[_LoopConnections, int], AsyncPostgresLookup]

    def __init__(self, server: _Server, size: int) -> None:
        self._server = server
        self._size = size
        self._places = asyncio.Semaphore(size)
        self._idle: list[_AsyncConnection] = []
        self._stuck = False
        self._closed = False
        self._tried = False
        self._failure = ""
        self._again_at = -math.inf

    @asynccontextmanager
    async def one(self, deadline: float) -> AsyncIterator[_AsyncConnection]:
        """See :meth:`_Connections.one`."""
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

    def _spare(self) -> _AsyncConnection | None:
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

    async def _connect(self, deadline: float) -> _AsyncConnection:
        """A new connection. For a moment after one has failed nobody tries, so that a server in trouble has peace."""
        if monotonic() < self._again_at:
            raise StoreUnavailable(self._failure)
        try:
            async with asyncio.timeout(deadline - monotonic()):
                connection = await _AsyncConnection.connect(**self._server.parameters)
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
def _alone(server: _Server, deadline: float = math.inf) -> Iterator[_Connection]:
    """A connection that stands in no pool. Driver's exceptions become ours; in the context, those that one sees by."""
    try:
        connection = _Connection.connect(**server.parameters)
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
def _sql(text: str) -> bytes:
    """A statement as psycopg takes it."""
    return text.replace("?", "%s").encode()


# Lookups.


def _question(digests: Sequence[bytes]) -> str | None:
    """The statement that finds one of *digests*; ``None`` where there are none."""
    for digest in digests:
        if digest.__class__ is not bytes:
            raise TypeError(f"a digest is bytes, not {type(digest).__name__}")
    if not digests:
        return None
    return rows.FIND_ONE if len(digests) == 1 else rows.find_one_of(len(digests))


def _proven(staleness: float | None, asked: float, bound: float, server: _Server) -> float:
    """Until when a server is within its bound that was so stale when it was asked."""
    if staleness is None:
        raise StoreUnavailable(
            f"{server.name} is a standby that cannot tell (or not this role) how far it is behind: "
            "GRANT pg_read_all_stats to the role"
        )
    if staleness > bound:
        raise StoreUnavailable(f"{server.name} is a standby, {staleness:.1f} s behind; the bound is {bound:g} s")
    return asked + bound - max(staleness, 0)


class PostgresLookup:
    """
    Finds records in a PostgreSQL database; connects when it is first asked.

    Args:
        url: such as ``postgresql://app:secret@db.example/app``, with any parameter of libpq.
        timeout: seconds until a find is :class:`StoreUnavailable`, whatever happens.
        pool_size: connections at most, and finds at a time, for each process.
        max_staleness: seconds that what is found may be out of date. Without it only a primary is read. With it the URL
            may name a standby, which is read only while it can prove, by its primary's clock, that it is no staler.

    Raises:
        InvalidURL: *url* is none.
        ConfigurationError: one of the numbers is not above 0.
    """

    def __init__(
        self, url: str, *, timeout: float = 2.0, pool_size: int = 4, max_staleness: float | None = None
    ) -> None:
        self.max_age = max_staleness or 0
        self._connections = _Connections(_finding(url, timeout, max_staleness), pool_size)

    def __repr__(self) -> str:
        return f"<PostgresLookup at {self._connections.server.name}>"

    def find(self, digests: Sequence[bytes]) -> Record | None:
        """See :meth:`~doorkey.core.verify.Lookup.find`."""
        question = _question(digests)
        if question is None:
            return None
        found = self._connections.fetch(question, digests, self._prove if self.max_age else None)
        return rows.record(found[0]) if found else None

    def _prove(self, connection: _Connection) -> None:
        asked = monotonic()
        if asked >= connection.proven:
            ((staleness,),) = connection.execute(_sql(_STALENESS)).fetchall()
            connection.proven = _proven(staleness, asked, self.max_age, self._connections.server)

    def close(self) -> None:
        """Give back connections. Closing twice is fine."""
        self._connections.close()


class AsyncPostgresLookup:
    """
    The same for asyncio. Any event loop may use it; each has connections of its own, *pool_size* at most.

    Args: see :class:`PostgresLookup`.
    """

    def __init__(
        self, url: str, *, timeout: float = 2.0, pool_size: int = 4, max_staleness: float | None = None
    ) -> None:
        if pool_size < 1:
            raise ConfigurationError("a pool has at least one connection")
        self.max_age = max_staleness or 0
        self._server = _finding(url, timeout, max_staleness)
        self._size = pool_size
        self._closed = False
        self.renew()
        _everything.add(self)

    def __repr__(self) -> str:
        return f"<AsyncPostgresLookup at {self._server.name}>"

    def renew(self) -> None:
        """Begin anew, without what a parent process had."""
        self.lock: threading.Lock = threading.Lock()
        self._loops: dict[asyncio.AbstractEventLoop, _LoopConnections] = {}

    async def find(self, digests: Sequence[bytes]) -> Record | None:
        """See :meth:`~doorkey.core.verify.AsyncLookup.find`."""
        question = _question(digests)
        if question is None:
            return None
        # A task of its own, so that whoever is cancelled leaves no connection in the middle of an answer, and none lost
        # to the pool. It ends by its deadline.
        asking = asyncio.create_task(self._find(question, digests))
        asking.add_done_callback(_heard)
        return await asyncio.shield(asking)

    async def _find(self, question: str, digests: Sequence[bytes]) -> Record | None:
        deadline = monotonic() + self._server.timeout
        try:
            found = await self._fetch(deadline, question, digests)
        except _Lost:
            found = await self._fetch(deadline, question, digests)
        return rows.record(found[0]) if found else None

    async def _fetch(self, deadline: float, question: str, digests: Sequence[bytes]) -> list[rows.Row]:
        connections = self._loops.get(asyncio.get_running_loop()) or self._opened()
        async with connections.one(deadline) as connection:
            asked = monotonic()
            if self.max_age and asked >= connection.proven:
                ((staleness,),) = await (await connection.execute(_sql(_STALENESS))).fetchall()
                connection.proven = _proven(staleness, asked, self.max_age, self._server)
            return await (await connection.execute(_sql(question), digests, binary=True)).fetchall()

    def _opened(self) -> _LoopConnections:
        """The connections of the running event loop. Those of loops that have ended are closed."""
        with self.lock:
            if self._closed:
                raise _closed(self._server)
            for loop in [loop for loop in self._loops if loop.is_closed()]:
                self._loops.pop(loop).close()
            connections = self._loops[asyncio.get_running_loop()] = _LoopConnections(self._server, self._size)
            connections.finalizer = finalize(self, _close_own, connections, os.getpid())
            return connections

    def close(self) -> None:
        """Give back connections, from any thread and whatever event loop. Closing twice is fine."""
        with self.lock:
            self._closed = True
            while self._loops:
                self._loops.popitem()[1].close()


def _heard(asking: asyncio.Task[Record | None]) -> None:
    """Take note of an exception that nobody waits for any more."""
    if not asking.cancelled():
        asking.exception()


# The store.


class PostgresStore:
    """
    Opens the store in a PostgreSQL database.

    Args:
        url, timeout, pool_size, max_staleness: see :class:`PostgresLookup`, for finds. Everything else has connections
            of its own, goes to the primary, and has *timeout* seconds for each statement.

    Attributes:
        async_lookup: finds the same records on asyncio.

    Raises:
        InvalidURL, ConfigurationError: see :class:`PostgresLookup`.
        UnusableStore: no store is there, or one that this release must not touch. The message says what to do.
        StoreUnavailable: it is there, but cannot be asked now.
    """

    def __init__(
        self, url: str, *, timeout: float = 2.0, pool_size: int = 4, max_staleness: float | None = None
    ) -> None:
        self._lookup = PostgresLookup(url, timeout=timeout, pool_size=pool_size, max_staleness=max_staleness)
        self.async_lookup: AsyncPostgresLookup = AsyncPostgresLookup(
            url, timeout=timeout, pool_size=pool_size, max_staleness=max_staleness
        )
        self.max_age: float = self._lookup.max_age
        server = _managing(url, timeout)
        self._connections = _Connections(server, pool_size)
        with _alone(server, monotonic() + timeout) as connection:
            self._notifies = _open(connection, server)

    @classmethod
    def create(
        cls,
        url: str,
        properties: Properties | None = None,
        *,
        timeout: float = 2.0,
        pool_size: int = 4,
        max_staleness: float | None = None,
    ) -> PostgresStore:
        """
        Make a new store: the schema ``doorkey`` in a database that is there, encoded in UTF-8.

        Raises:
            UnusableStore: there is one already, or none can be made there.
            StoreUnavailable: it cannot be made now.
        """
        row = rows.properties_row(replace(properties or Properties(), schema=SCHEMA))
        server = _managing(url, timeout)
        with _alone(server, monotonic() + timeout) as connection:
            try:
                with connection.transaction():
                    _make(connection, server, row)
            except (
                psycopg.errors.DuplicateObject,
                psycopg.errors.DuplicateSchema,
                psycopg.errors.DuplicateTable,
                psycopg.errors.UniqueViolation,
            ):
                raise UnusableStore(
                    f"there is a store at {server.name} already: choose another database, or drop its schema doorkey"
                ) from None
            except psycopg.errors.InsufficientPrivilege:
                raise UnusableStore(
                    f"{server.name} does not let this role make a schema: GRANT CREATE ON DATABASE to it, or make the "
                    "schema doorkey for it"
                ) from None
        return cls(url, timeout=timeout, pool_size=pool_size, max_staleness=max_staleness)

    def __repr__(self) -> str:
        return f"<PostgresStore at {self._connections.server.name}>"

    def find(self, digests: Sequence[bytes]) -> Record | None:
        """See :meth:`~doorkey.core.verify.Lookup.find`."""
        return self._lookup.find(digests)

    def workspace(self, id: str) -> Workspace | None:
        """See :meth:`~doorkey.storage.protocol.Store.workspace`."""
        return next(iter(rows.read_workspaces(self._read(rows.WORKSPACE, id))), None)

    def workspaces(self, *, after: str | None = None, limit: int = 100) -> Sequence[Workspace]:
        """See :meth:`~doorkey.storage.protocol.Store.workspaces`."""
        return rows.read_workspaces(self._read(rows.WORKSPACES, after or "", rows.page(limit)))

    def key(self, id: str) -> Key | None:
        """See :meth:`~doorkey.storage.protocol.Store.key`."""
        return next(iter(rows.read_keys(self._read(rows.KEY, id))), None)

    def keys(
        self, workspace: str, *, mode: Mode | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[Key]:
        """See :meth:`~doorkey.storage.protocol.Store.keys`."""
        modes = (Mode.TEST, Mode.LIVE) if mode is None else (mode, mode)
        return rows.read_keys(
            self._read(rows.KEYS, workspace, *(mode.value for mode in modes), after or "", rows.page(limit))
        )

    def events(self, workspace: str, *, after: int | None = None, limit: int = 100) -> Sequence[Event]:
        """See :meth:`~doorkey.storage.protocol.Store.events`."""
        return rows.read_events(self._read(rows.EVENTS, workspace, after or 0, rows.page(limit)))

    def properties(self) -> Properties:
        """See :meth:`~doorkey.storage.protocol.Store.properties`."""
        return rows.read_properties(self._read(rows.PROPERTIES))

    def commit(self, batch: Batch) -> None:
        """See :meth:`~doorkey.storage.protocol.Store.commit`."""
        lock = _SHARE if batch.properties is None else _HOLD
        self._repeated(lambda: rows.write(batch, partial(self._transaction, lock, _changed(batch))))

    def record_uses(self, uses: Iterable[Use]) -> None:
        """See :meth:`~doorkey.storage.protocol.Store.record_uses`."""
        latest: dict[str, int] = {}
        for use in uses:
            if rows.is_text(use.token_id):
                latest[use.token_id] = max(use.at, latest.get(use.token_id, use.at))
        # In the order of ids, so that two that record at once do not wait for each other.
        parameters = [(at, id, at) for id, at in sorted(latest.items())]
        self._repeated(partial(self._record, parameters))

    def close(self) -> None:
        """See :meth:`~doorkey.storage.protocol.Store.close`."""
        self._lookup.close()
        self.async_lookup.close()
        self._connections.close()

    def _read(self, sql: str, *parameters: str | int) -> list[rows.Row]:
        if not all(rows.is_text(each) for each in parameters if isinstance(each, str)):
            return []  # no stored value can be called that
        return self._connections.fetch(sql, parameters)

    def _record(self, parameters: Sequence[tuple[int, str, int]]) -> None:
        with self._transaction(_SHARE, "") as execute:
            if rows.read_properties(execute(rows.PROPERTIES, ()).fetchall()).read_only:
                raise ReadOnlyStore(rows.SET_READ_ONLY)
            for row in parameters:
                execute(rows.RECORD_USE, row)

    def _repeated(self, change: Callable[[], None]) -> None:
        """Try *change* again where the database broke it off, without anything written, in favour of another."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return change()
            except _Contended:
                continue
        return change()

    @contextmanager
    def _transaction(self, lock: str, changed: str) -> Iterator[rows.Execute]:
        """See :func:`~doorkey.storage.rows.write`. What *changed* is told to whoever listens, with the commit."""
        self._connections.fetch(_MADE_DURABLE, ())  # and so a dead connection is found before it matters
        timeout = self._connections.server.timeout
        with self._connections.one(monotonic() + timeout) as connection:

            def execute(sql: str, parameters: Sequence[Any]) -> rows.Cursor:
                connection.deadline = monotonic() + timeout
                return connection.execute(_sql(sql), parameters, binary=True)

            try:
                with connection.transaction():
                    execute(lock, ())
                    yield execute
                    if changed and self._notifies:
                        execute(_NOTIFY, (CHANNEL, changed))
                    connection.deadline = monotonic() + timeout
            except psycopg.errors.InsufficientPrivilege:
                raise ReadOnlyStore(f"at {self._connections.server.name} this role can only read (42501)") from None


def _changed(batch: Batch) -> str:
    """What is told to listeners of a batch; nothing if it changes nothing that they could hold."""
    ids = changed(batch)
    payload = ",".join(ids)
    if len(payload.encode(errors="replace")) > _PAYLOAD or any("," in id for id in ids):
        return "*"
    return payload


def _make(connection: _Connection, server: _Server, properties: rows.Row) -> None:
    """Make the tables, and write the only row of the first."""
    ((encoding,),) = connection.execute(_sql(_ENCODING)).fetchall()
    if encoding != "UTF8":
        raise UnusableStore(f"{server.name} is encoded in {encoding}: make a database with `createdb --encoding=UTF8`")
    ((there,),) = connection.execute(_sql(_HAS_SCHEMA)).fetchall()
    if not there:
        connection.execute("CREATE SCHEMA doorkey")
    for statement in chain.from_iterable(_STEPS):
        connection.execute(_sql(statement))
    connection.execute(_sql(rows.INSERT_PROPERTIES), properties)


def _open(connection: _Connection, server: _Server) -> bool:
    """
    Look whether the store is one that this release can use. Returns whether it can notify.

    Raises:
        UnusableStore: it is not.
    """
    schema = _schema(connection, server)
    if schema > SCHEMA:
        raise UnusableStore(f"{server.name} has schema {schema}, this release reads {SCHEMA}: upgrade doorkey")
    if schema < SCHEMA:
        raise UnusableStore(f"{server.name} has schema {schema}, this release needs {SCHEMA}: doorkey store upgrade")
    ((notifies,),) = connection.execute(_sql(_CAN_NOTIFY)).fetchall()
    return bool(notifies)


def _schema(connection: _Connection, server: _Server) -> int:
    try:
        return rows.read_properties(connection.execute(_sql(rows.PROPERTIES)).fetchall()).schema
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        raise UnusableStore(
            f"there is no store at {server.name} for this role: look for a mistyped name, make a store with "
            "`doorkey init`, or GRANT USAGE ON SCHEMA doorkey to the role"
        ) from None
    except psycopg.errors.InsufficientPrivilege:
        raise UnusableStore(
            f"{server.name} does not let this role read: GRANT SELECT ON ALL TABLES IN SCHEMA doorkey to it"
        ) from None
    except (UnreadableRecord, psycopg.errors.UndefinedColumn) as error:
        raise UnusableStore(f"{server.name} holds something else, or is damaged ({type(error).__name__})") from None


def upgrade(url: str, *, timeout: float = 2.0) -> int:
    """
    Bring the store at *url* to the schema of this release, in one transaction; nothing if it has that already. Any
    number may do so at once.

    Args:
        timeout: seconds to wait for a connection. The upgrade takes what it takes.

    Returns:
        The schema that it had.

    Raises:
        UnusableStore: there is no store, or one with a newer schema.
        StoreUnavailable: it cannot be asked now.
    """
    server = _managing(url, timeout)
    with _alone(server) as connection, connection.transaction():
        connection.execute("SET LOCAL statement_timeout = 0")
        _schema(connection, server)
        connection.execute(_sql(_HOLD))
        before = _schema(connection, server)
        if before > SCHEMA:
            raise UnusableStore(f"{server.name} has schema {before}, this release makes {SCHEMA}: upgrade doorkey")
        for statement in chain.from_iterable(_STEPS[before:SCHEMA]):
            connection.execute(_sql(statement))
        if before < SCHEMA:
            connection.execute(_sql(_SET_SCHEMA), (SCHEMA,))
    return before


# Forks.

_everything: WeakSet[_Connections | AsyncPostgresLookup] = WeakSet()
_held: list[Any] = []
_inherited: list[Any] = []
_forking = threading.RLock()


def _before_fork() -> None:
    """Close what threads share, and keep it closed until the fork is over."""
    _hold(_forking)
    for each in list(_everything):
        _hold(each.lock)
        if isinstance(each, _Connections):
            each.empty()


def _hold(lock: Any) -> None:
    lock.acquire()
    _held.append(lock)


def _after_fork() -> None:
    while _held:
        _held.pop().release()


def _after_fork_in_child() -> None:
    """Begin anew. What came along all the same is kept as it is, because closing it would reach the parent's."""
    _after_fork()
    for each in list(_everything):
        _inherited.append(dict(vars(each)))
        each.renew()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
