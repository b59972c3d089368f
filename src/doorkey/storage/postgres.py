"""
The store in PostgreSQL: the way past one machine, for any number of processes on any number of machines.

The rules that this file keeps:

* A find is one round trip: one prepared statement without a transaction, on a connection that can change nothing.
* Finds read a primary. A standby is read only within a bound on its staleness that it proves again and again.
* A request that is cancelled leaves its find to end by itself.
* A commit waits until it is durable, whatever the database has set.

What connections keep to, deadlines and forks above all, stands in ``postgres_connections``.

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from time import monotonic
from typing import Any

import psycopg

from ..core.errors import ReadOnlyStore, StoreUnavailable, UnreadableRecord, UnusableStore
from ..core.model import Record, Use
from . import postgres_check, rows
from .cache import changed
from .postgres_connections import (
    AsyncConnections,
    Connection,
    Connections,
    Contended,
    Lost,
    Server,
    alone,
    for_changes,
    for_finds,
    statement,
)
from .protocol import SCHEMA, Batch, Finding, Properties

CHANNEL = "doorkey"
"""What a listener listens to."""

_KINDS = 3
"""Pools of connections that a process may fill: for the finds of threads, for those of an event loop, for the rest."""

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


# Lookups.


def _question(digests: Sequence[bytes]) -> str | None:
    """The statement that finds one of *digests*; ``None`` where there are none."""
    rows.refuse_other_than_bytes(digests)
    if not digests:
        return None
    return rows.FIND_ONE if len(digests) == 1 else rows.find_one_of(len(digests))


def _proven(staleness: float | None, asked: float, bound: float, server: Server) -> float:
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
        self.max_age: float = max_staleness or 0
        self._connections = Connections(for_finds(url, timeout, max_staleness), pool_size)

    def __repr__(self) -> str:
        return f"<PostgresLookup at {self._connections.server.name}>"

    def find(self, digests: Sequence[bytes]) -> Record | None:
        """See :meth:`~doorkey.core.verify.Lookup.find`."""
        question = _question(digests)
        if question is None:
            return None
        found = self._connections.fetch(question, digests, self._prove if self.max_age else None)
        return rows.record(found[0]) if found else None

    def _prove(self, connection: Connection) -> None:
        asked = monotonic()
        if asked >= connection.proven:
            ((staleness,),) = connection.execute(statement(_STALENESS)).fetchall()
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
        self.max_age: float = max_staleness or 0
        self._connections = AsyncConnections(for_finds(url, timeout, max_staleness), pool_size)

    def __repr__(self) -> str:
        return f"<AsyncPostgresLookup at {self._connections.server.name}>"

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
        deadline = monotonic() + self._connections.server.timeout
        try:
            found = await self._fetch(deadline, question, digests)
        except Lost:
            found = await self._fetch(deadline, question, digests)
        return rows.record(found[0]) if found else None

    async def _fetch(self, deadline: float, question: str, digests: Sequence[bytes]) -> list[rows.Row]:
        async with self._connections.one(deadline) as connection:
            asked = monotonic()
            if self.max_age and asked >= connection.proven:
                ((staleness,),) = await (await connection.execute(statement(_STALENESS))).fetchall()
                connection.proven = _proven(staleness, asked, self.max_age, self._connections.server)
            return await (await connection.execute(statement(question), digests, binary=True)).fetchall()

    def close(self) -> None:
        """Give back connections, from any thread and whatever event loop. Closing twice is fine."""
        self._connections.close()


def _heard(asking: asyncio.Task[Record | None]) -> None:
    """Take note of an exception that nobody waits for any more."""
    if not asking.cancelled():
        asking.exception()


# The store.


class PostgresStore(rows.Reads):
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
        server = for_changes(url, timeout)
        self._connections = Connections(server, pool_size)
        with alone(server, monotonic() + timeout) as connection:
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
        server = for_changes(url, timeout)
        with alone(server, monotonic() + timeout) as connection:
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

    def check(self) -> list[Finding]:
        """
        Look for what is unsafe or unsound: settings, the way to the server, its clock, its tables, unreadable records.

        Raises:
            StoreUnavailable: it cannot be asked now.
        """
        server, size = self._connections.server, self._connections.size
        return [*postgres_check.findings(server, tuple(chain(*_STEPS)), _KINDS * size), *self._unreadable()]

    def close(self) -> None:
        """See :meth:`~doorkey.storage.protocol.Store.close`."""
        self._lookup.close()
        self.async_lookup.close()
        self._connections.close()

    def _read(self, sql: str, *parameters: str | int | bytes) -> list[rows.Row]:
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
            except Contended:
                continue
        return change()

    @contextmanager
    def _transaction(self, lock: str, changed: str) -> Iterator[rows.Execute]:
        """See :func:`~doorkey.storage.rows.write`. What *changed* is told to whoever listens, with the commit."""
        timeout = self._connections.server.timeout
        with self._durable() as connection:

            def execute(sql: str, parameters: Sequence[Any]) -> rows.Cursor:
                connection.deadline = monotonic() + timeout
                return connection.execute(statement(sql), parameters, binary=True)

            try:
                with connection.transaction():
                    execute(lock, ())
                    yield execute
                    if changed and self._notifies:
                        execute(_NOTIFY, (CHANNEL, changed))
                    connection.deadline = monotonic() + timeout
            except psycopg.errors.InsufficientPrivilege:
                raise ReadOnlyStore(f"at {self._connections.server.name} this role can only read (42501)") from None

    @contextmanager
    def _durable(self) -> Iterator[Connection]:
        """A connection whose commits survive a crash; another one, if the first turns out to be dead."""
        with ExitStack() as stack:
            try:
                connection = stack.enter_context(self._made_durable())
            except Lost:
                connection = stack.enter_context(self._made_durable())
            yield connection

    @contextmanager
    def _made_durable(self) -> Iterator[Connection]:
        with self._connections.one(monotonic() + self._connections.server.timeout) as connection:
            connection.execute(statement(_MADE_DURABLE))
            yield connection


def _changed(batch: Batch) -> str:
    """What is told to listeners of a batch; nothing if it changes nothing that they could hold."""
    ids = changed(batch)
    payload = ",".join(ids)
    if len(payload.encode(errors="replace")) > _PAYLOAD or any("," in id for id in ids):
        return "*"
    return payload


def _make(connection: Connection, server: Server, properties: rows.Row) -> None:
    """Make the tables, and write the only row of the first."""
    ((encoding,),) = connection.execute(statement(_ENCODING)).fetchall()
    if encoding != "UTF8":
        raise UnusableStore(f"{server.name} is encoded in {encoding}: make a database with `createdb --encoding=UTF8`")
    ((there,),) = connection.execute(statement(_HAS_SCHEMA)).fetchall()
    if not there:
        connection.execute("CREATE SCHEMA doorkey")
    for step in chain.from_iterable(_STEPS):
        connection.execute(statement(step))
    connection.execute(statement(rows.INSERT_PROPERTIES), properties)


def _open(connection: Connection, server: Server) -> bool:
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
    ((notifies,),) = connection.execute(statement(_CAN_NOTIFY)).fetchall()
    return bool(notifies)


def _schema(connection: Connection, server: Server) -> int:
    try:
        return rows.read_properties(connection.execute(statement(rows.PROPERTIES)).fetchall()).schema
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
    server = for_changes(url, timeout)
    with alone(server) as connection, connection.transaction():
        connection.execute("SET LOCAL statement_timeout = 0")
        _schema(connection, server)
        connection.execute(statement(_HOLD))
        before = _schema(connection, server)
        if before > SCHEMA:
            raise UnusableStore(f"{server.name} has schema {before}, this release makes {SCHEMA}: upgrade doorkey")
        for step in chain.from_iterable(_STEPS[before:SCHEMA]):
            connection.execute(statement(step))
        if before < SCHEMA:
            connection.execute(statement(_SET_SCHEMA), (SCHEMA,))
    return before
