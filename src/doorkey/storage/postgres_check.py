"""
What endangers a store's promises at a PostgreSQL server: settings, the way there, its clock, altered tables.

Only what can be seen from a connection is told. What is not: who else may read the server's files, whether its disks
do what they say, what becomes of its backups.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from functools import partial
from typing import NamedTuple

import psycopg

from .postgres_connections import Connection, Server, alone, statement
from .protocol import Finding, Severity
from .rows import Row

Ask = Callable[..., Sequence[Row]]
"""Asks one statement, with its parameters."""

_SKEW: Mapping[float, Severity] = {5.0: "error", 1.0: "warning"}
"""Seconds between two clocks above which that is told, and as what."""

_SAMPLES = 5
_SHOWN = 3
"""How many differences of the tables are told."""


class _Danger(NamedTuple):
    """
    Something that can be seen by one expression.

    Attributes:
        found: SQL that tells what is so; null if all is well. ``{needed}`` is a number of connections.
        what, remedy: may show ``{server}`` and ``{found}``.
    """

    found: str
    severity: Severity
    what: str
    remedy: str


_DANGERS: Sequence[_Danger] = (
    _Danger(
        "nullif(current_setting('fsync', true), 'on')",
        "error",
        "{server} runs with fsync = {found}: if its machine crashes, what was acknowledged is lost, revocations too, "
        "or the whole database",
        "ALTER SYSTEM SET fsync = on, and look for it on the server's command line; then SELECT pg_reload_conf()",
    ),
    _Danger(
        "nullif(current_setting('full_page_writes', true), 'on')",
        "warning",
        "{server} runs with full_page_writes = {found}: a page that is half written when its machine crashes stays "
        "damaged",
        "ALTER SYSTEM SET full_page_writes = on, then SELECT pg_reload_conf(); unless its file system never tears a "
        "page, as ZFS",
    ),
    _Danger(
        # What is `off` there is turned on by each commit, see postgres.py.
        """
        CASE WHEN current_setting('synchronous_standby_names') = '' AND EXISTS (
                  SELECT FROM pg_stat_replication r WHERE coalesce(state, 'streaming') = 'streaming' AND NOT EXISTS (
                      SELECT FROM pg_replication_slots s WHERE s.active_pid = r.pid AND s.slot_type = 'logical'))
             THEN 'synchronous_standby_names is empty'
             WHEN current_setting('synchronous_standby_names') <> ''
              AND current_setting('synchronous_commit') = 'local' THEN 'synchronous_commit = local' END
        """,
        "warning",
        "{server} has standbys, but a change is acknowledged before one of them has it ({found}): after a failover, a "
        "key whose revocation was acknowledged can live again",
        "name standbys in synchronous_standby_names, with synchronous_commit = on for this role; or take a failover "
        "for the restore of a backup: compare the heads of `doorkey audit verify`, and repeat what is missing",
    ),
    _Danger(
        "nullif(current_setting('server_encoding'), 'UTF8')",
        "error",
        "{server} is encoded in {found}, which cannot keep every name",
        "make a database with `createdb --encoding=UTF8`, and move there with `doorkey store copy`",
    ),
    _Danger(
        "nullif(current_setting('default_transaction_read_only'), 'off')",
        "warning",
        "{server} has default_transaction_read_only = {found}: keys cannot be made, changed or revoked",
        "ALTER DATABASE … (or ROLE …, or SYSTEM) RESET default_transaction_read_only",
    ),
    _Danger(
        """
        CASE WHEN current_setting('log_parameter_max_length', true) = '0' THEN NULL
             WHEN current_setting('log_statement', true) IN ('mod', 'all')
             THEN 'log_statement = ' || current_setting('log_statement')
             WHEN current_setting('log_min_duration_statement', true) = '0' THEN 'log_min_duration_statement = 0' END
        """,
        "warning",
        "{server} writes all that is stored to its log ({found}), sealed tokens too: with the log and the master "
        "secret a live secret can be read that can be revealed no more",
        "as a superuser: ALTER ROLE … SET log_parameter_max_length = 0, for each role that manages keys; and delete "
        "old logs",
    ),
    _Danger(
        "(SELECT rolname::text FROM pg_roles WHERE rolname = current_user AND rolsuper)",
        "warning",
        "the role {found} is a superuser of {server}: whoever gets its password can read and change everything there",
        "give services a role of their own, with USAGE on the schema doorkey, and SELECT, INSERT and UPDATE on its "
        "tables; SELECT is enough to verify",
    ),
    _Danger(
        """
        (SELECT least::text FROM least(
            current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
                - coalesce(current_setting('reserved_connections', true), '0')::int,
            (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user),
            (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database())
         ) WHERE least < {needed})
        """,
        "warning",
        "{server} lets {found} connections in, and one process of a service alone may want {needed}",
        "raise max_connections (or the role's or the database's CONNECTION LIMIT), or lower pool_size: each process "
        "may have three times its pool_size",
    ),
    _Danger(
        """
        (SELECT string_agg(name, ', ' ORDER BY name) FROM pg_settings WHERE source <> 'client'
            AND name IN ('search_path', 'statement_timeout', 'idle_in_transaction_session_timeout'))
        """,
        "warning",
        "{server} does not get the settings that doorkey sends ({found}), so finds may write, and nothing there ends "
        "what takes too long",
        "let the pooler in between pass on the parameter `options`, or connect to the server itself",
    ),
)

_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8, pg_backend_pid()"

# Where all names are those of the namespace itself, what is made by the same statements reads the same.
_SHAPE = """
    WITH relations AS (SELECT * FROM pg_class WHERE relnamespace = ?)
    SELECT CASE relkind WHEN 'r' THEN 'table ' WHEN 'v' THEN 'view ' WHEN 'S' THEN 'sequence ' ELSE 'relation ' END
           || relname || CASE relpersistence WHEN 'u' THEN ', unlogged: a crash empties it' ELSE '' END
           || CASE WHEN relrowsecurity THEN ', with row security' ELSE '' END
      FROM relations WHERE relkind NOT IN ('i', 'I', 'c')
    UNION ALL
    SELECT 'column ' || relname || '.' || attname || ' ' || format_type(atttypid, atttypmod)
           || CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END
           || coalesce(' COLLATE ' || (SELECT collname FROM pg_collation c WHERE c.oid = attcollation), '')
           || coalesce(' DEFAULT ' || (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef
                                        WHERE adrelid = attrelid AND adnum = attnum), '')
      FROM pg_attribute JOIN relations ON relations.oid = attrelid
     WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT 'constraint ' || conname || ' on ' || relname || ': ' || pg_get_constraintdef(pg_constraint.oid)
      FROM pg_constraint JOIN relations ON relations.oid = conrelid WHERE contype <> 'n'
    UNION ALL
    SELECT pg_get_indexdef(indexrelid) || CASE WHEN indisvalid THEN '' ELSE ', invalid' END
      FROM pg_index JOIN relations ON relations.oid = indrelid WHERE relkind <> 't'
    UNION ALL
    SELECT DISTINCT 'trigger ' || CASE WHEN tgisinternal THEN 'of a foreign key' ELSE tgname END || ' on ' || relname
           || CASE tgenabled WHEN 'O' THEN '' ELSE ', not as usual: ' || tgenabled::text END
      FROM pg_trigger JOIN relations ON relations.oid = tgrelid
    UNION ALL
    SELECT 'rule ' || rulename || ' on ' || relname
      FROM pg_rewrite JOIN relations ON relations.oid = ev_class WHERE relkind = 'r'
"""
_OURS = "SELECT to_regnamespace('doorkey')::oid"
_TEMPORARY = "SELECT pg_my_temp_schema()"
_QUALIFIED = re.compile(r"\b(doorkey|pg_temp(_\d+)?)\.")


def findings(
    server: Server, steps: Sequence[str], needed: int, *, clock: Callable[[], float] = time.time
) -> Iterator[Finding]:
    """
    What is unsafe or unsound at *server*.

    Args:
        steps: the statements that make a store.
        needed: connections that one process may want.
        clock: this machine's, in UTC seconds.

    Raises:
        StoreUnavailable: it cannot be asked now.
    """
    with alone(server) as connection:
        ask = partial(_ask, connection, server.timeout)
        yield from _dangers(ask, server.name, needed)
        yield from _of_way(server.name, *_way(connection))
        yield from _clock_and_pooler(ask, connection, server.name, clock)
        yield from _altered(ask, connection, server.name, steps)


def _ask(connection: Connection, timeout: float, sql: str, *parameters: object) -> Sequence[Row]:
    connection.deadline = time.monotonic() + timeout
    cursor = connection.execute(statement(sql), parameters)
    return cursor.fetchall() if cursor.description else []


def _dangers(ask: Ask, name: str, needed: int) -> Iterator[Finding]:
    expressions = ", ".join(danger.found.replace("{needed}", str(needed)) for danger in _DANGERS)
    (row,) = ask(f"SELECT {expressions}")
    for danger, found in zip(_DANGERS, row, strict=True):
        if found is not None:
            what = danger.what.format(server=name, found=found, needed=needed)
            yield Finding(danger.severity, what, danger.remedy)


# The way there.


def _way(connection: Connection) -> tuple[bool, bool, str]:
    """Whether it stays on this machine, whether it is encrypted, and libpq's sslmode."""
    with socket.socket(fileno=os.dup(connection.fileno())) as way:
        here = way.family == socket.AF_UNIX or _is_here(way.getsockname()[0], way.getpeername()[0])
    modes = [option.val or b"" for option in connection.pgconn.info if option.keyword == b"sslmode"]
    return here, bool(connection.pgconn.ssl_in_use), b"".join(modes).decode()


def _is_here(own: str, peer: str) -> bool:
    """Tell whether a connection between these two addresses stays on one machine."""
    return own == peer or peer.startswith("127.")


def _of_way(name: str, here: bool, encrypted: bool, mode: str) -> Iterator[Finding]:
    if here:
        return
    remedy = "put sslmode=verify-full into the URL, with sslrootcert=… (or =system) for the authority that signed it"
    if not encrypted:
        yield Finding(
            "warning",
            f"the connection to {name} is not encrypted: whoever is on the way can read it, and let any key pass",
            f"give the server a certificate; then {remedy}",
        )
    elif mode not in ("verify-ca", "verify-full"):
        yield Finding(
            "warning",
            f"the connection to {name} is encrypted, but to whoever answered (sslmode={mode}): somebody on the way can "
            "answer instead, and let any key pass",
            remedy,
        )


# Clocks and poolers.


def _clock_and_pooler(ask: Ask, connection: Connection, name: str, clock: Callable[[], float]) -> Iterator[Finding]:
    bounds, backends = [], set()
    for _ in range(_SAMPLES):
        before = clock()
        ((now, backend),) = ask(_NOW)
        bounds.append((now - clock(), now - before))
        backends.add(backend)
    yield from _of_skew(name, bounds)
    yield from _of_backends(name, connection.info.backend_pid, backends)


def _of_skew(name: str, bounds: Sequence[tuple[float, float]]) -> Iterator[Finding]:
    """
    What is wrong with the clocks of a server and of this machine.

    Args:
        bounds: seconds that the server's is ahead, at least and at most: as read at one moment between two.
    """
    ahead, behind = max(least for least, _ in bounds), -min(most for _, most in bounds)
    skew = max(ahead, behind)
    for bound, severity in _SKEW.items():
        if skew > bound:
            yield Finding(
                severity,
                f"the clock of {name} is at least {skew:.1f} s {'ahead of' if ahead > 0 else 'behind'} this machine's, "
                "and each machine judges by its own when a key expires and a grace ends",
                "let all machines follow the same time servers: `timedatectl` tells whether one does",
            )
            return


def _of_backends(name: str, told: int, met: Set[int]) -> Iterator[Finding]:
    """What stands between: seen by the server's processes that were *met*, where *told* is who one connected to."""
    if len(met) > 1:
        yield Finding(
            "error",
            f"{name} answers each statement from another session: a pooler in between is in transaction mode",
            "set the pooler to session mode for doorkey, or connect to the server itself",
        )
    elif met != {told}:
        yield Finding(
            "warning",
            f"something stands between here and {name}, a pooler perhaps",
            "make sure that it is in session mode; or connect to the server itself",
        )


# Tables.


def _altered(ask: Ask, connection: Connection, name: str, steps: Sequence[str]) -> Iterator[Finding]:
    found = _shape(ask, _OURS)
    try:
        with connection.transaction(force_rollback=True):
            for step in ("SET TRANSACTION READ WRITE", "SET LOCAL search_path = pg_temp", *steps):
                ask(step)
            made = _shape(ask, _TEMPORARY)
    except psycopg.errors.InsufficientPrivilege:
        yield Finding(
            "warning",
            f"the tables at {name} were not looked at: this role may not make temporary ones to compare them with",
            "check again with a role that may: GRANT TEMPORARY ON DATABASE",
        )
    else:
        yield from _of_shape(name, found, made)


def _shape(ask: Ask, namespace: str) -> Set[str]:
    return {_QUALIFIED.sub("", line) for (line,) in ask(_SHAPE, *ask(namespace)[0])}


def _of_shape(name: str, found: Set[str], made: Set[str]) -> Iterator[Finding]:
    """What is wrong with tables that were *found*, compared to those that this release has *made*."""
    if made - found:
        yield Finding(
            "error",
            f"{name} was altered: it lacks {_some(made - found)}",
            "make it as it was, or restore a backup; `pg_dump --schema-only` of a new store shows how it was made",
        )
    if found - made:
        yield Finding(
            "warning", f"{name} was altered: it has {_some(found - made)}", "drop it, unless you know what it is for"
        )


def _some(lines: Set[str]) -> str:
    first = sorted(lines)[:_SHOWN]
    return "; ".join(first) + (f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else "")
