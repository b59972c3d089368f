"""
The store in an SQLite file: the embedded default, for any number of threads and processes on one machine.

The rules that this file keeps:

* WAL, so that readers never wait for a writer; every write is one ``BEGIN IMMEDIATE``, so that no reader turns into a
  writer halfway, which is what makes SQLite answer "locked" at once.
* ``synchronous=FULL``: a commit that returned survives a power cut.
* Each thread has a connection for ``find``, which can change nothing and waits 20 ms at most because an event loop may
  be waiting with it, and one for everything else.
* Nothing that belongs to SQLite goes through a fork: its locks belong to a process, but its bookkeeping is copied, so a
  child that only *holds* an inherited connection can lose what it commits through one of its own.
* A database that may be open is never opened but by SQLite, not even to look at it: closing that descriptor would drop
  SQLite's locks (https://www.sqlite.org/howtocorrupt.html §2.2).
* No driver's exception gets out.
"""

from __future__ import annotations

import os
import re
import sqlite3
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakSet

from ..core.errors import Conflict, ReadOnlyStore, StoreError, StoreUnavailable, UnreadableRecord, UnusableStore
from ..core.model import Record, Use
from . import rows
from .protocol import SCHEMA, Batch, Finding, Properties, Severity

APPLICATION_ID = 0x646F6F72
"""What makes an SQLite file ours: "door" (https://www.sqlite.org/fileformat2.html §1.3.15)."""

FIND_TIMEOUT = 0.02
"""Seconds that a find waits for a lock. In WAL mode it has to only while SQLite recovers from a crash."""

_SUFFIXES = ("", "-wal", "-shm", "-journal")

_MOUNTS = Path("/proc/self/mounts")
_SHARED = re.compile("(fuse[.])?(afs|beegfs|ceph|cifs|gfs2?|glusterfs|lustre|nfs4?|ocfs2|smb3?|smbfs|s3fs|sshfs)")
"""File systems that several machines may mount; WAL needs memory that all share (https://sqlite.org/wal.html §1)."""

_PRAGMAS = (
    "PRAGMA synchronous = FULL",
    "PRAGMA secure_delete = ON",
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
)
_FIND_PRAGMAS = ("PRAGMA query_only = ON", "PRAGMA trusted_schema = OFF")

_MEANINGS: Mapping[int, tuple[type[StoreError], str]] = {
    sqlite3.SQLITE_BUSY: (StoreUnavailable, "another process keeps {} locked: try again"),
    sqlite3.SQLITE_LOCKED: (StoreUnavailable, "another connection keeps {} locked: try again"),
    sqlite3.SQLITE_FULL: (StoreUnavailable, "there is no space left to write {}"),
    sqlite3.SQLITE_CANTOPEN: (
        StoreUnavailable,
        "{} cannot be opened: this user must be able to read it, and to make files beside it",
    ),
    sqlite3.SQLITE_CORRUPT: (StoreUnavailable, "{} is damaged: see `doorkey store check`, restore a backup"),
    sqlite3.SQLITE_NOTADB: (StoreUnavailable, "{} is no SQLite database: name another file, or restore a backup"),
    sqlite3.SQLITE_ERROR: (StoreUnavailable, "{} has not the tables of a store: restore a backup"),
    sqlite3.SQLITE_READONLY: (
        ReadOnlyStore,
        "{0} cannot be written: give this user the right to write it, {0}-wal, {0}-shm and their directory",
    ),
    sqlite3.SQLITE_CONSTRAINT: (
        Conflict,
        "what is new stands in {} already, by its id, digest or number, or lacks what it belongs to",
    ),
}

_STORED_SCHEMA = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL"
_SCHEMA = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA}",
    """
    CREATE TABLE properties (
        singleton INTEGER NOT NULL PRIMARY KEY CHECK (singleton = 1),
        profile TEXT NOT NULL,
        fingerprints TEXT NOT NULL,
        read_only INTEGER NOT NULL CHECK (read_only IN (0, 1)),
        schema INTEGER NOT NULL,
        version INTEGER NOT NULL CHECK (version >= 1)
    ) STRICT
    """,
    """
    CREATE TABLE workspaces (
        id TEXT NOT NULL PRIMARY KEY CHECK (id <> ''),
        name TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        approved_at INTEGER,
        suspended_at INTEGER,
        head BLOB NOT NULL CHECK (length(head) = 32),
        events INTEGER NOT NULL CHECK (events >= 0),
        version INTEGER NOT NULL CHECK (version >= 1)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE keys (
        id TEXT NOT NULL PRIMARY KEY CHECK (id <> ''),
        workspace TEXT NOT NULL REFERENCES workspaces (id),
        type TEXT NOT NULL CHECK (type IN ('secret', 'publishable')),
        mode TEXT NOT NULL CHECK (mode IN ('test', 'live')),
        name TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        permissions TEXT CHECK (permissions <> ''),
        networks TEXT CHECK (networks <> ''),
        expires_at INTEGER,
        revoked_at INTEGER,
        version INTEGER NOT NULL CHECK (version >= 1),
        bounds BLOB,
        CHECK ((networks IS NULL) = (bounds IS NULL))
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX keys_by_workspace ON keys (workspace, id)",
    """
    CREATE TABLE tokens (
        digest BLOB NOT NULL PRIMARY KEY CHECK (length(digest) = 32),
        id TEXT NOT NULL UNIQUE CHECK (id <> ''),
        key TEXT NOT NULL REFERENCES keys (id),
        place INTEGER NOT NULL CHECK (place >= 0),
        secret TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        sealed BLOB,
        expires_at INTEGER,
        ended_at INTEGER,
        ended_as TEXT CHECK (ended_as IN ('rolled', 'revoked')),
        last_used_at INTEGER,
        UNIQUE (key, place),
        CHECK ((ended_at IS NULL) = (ended_as IS NULL))
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE events (
        workspace TEXT NOT NULL REFERENCES workspaces (id),
        sequence INTEGER NOT NULL CHECK (sequence >= 1),
        at INTEGER NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        key TEXT,
        detail TEXT NOT NULL,
        hash BLOB NOT NULL CHECK (length(hash) = 32),
        PRIMARY KEY (workspace, sequence)
    ) STRICT, WITHOUT ROWID
    """,
)


class SQLiteStore(rows.Reads):
    """
    Opens the store in an SQLite file.

    Args:
        path: of the file. It must be there; :meth:`create` makes one.
        timeout: seconds that everything but ``find`` waits for another writer.

    Raises:
        UnusableStore: no store is there, or one that this release must not touch. The message says what to do.
        StoreUnavailable: it is there, but cannot be asked now.
    """

    def __init__(self, path: str | os.PathLike[str], *, timeout: float = 5.0) -> None:
        self.path: Path = _absolute(path)
        self._timeout = timeout
        self._closed = False
        self._own = _Own()
        # Open while any other is, so that none of a thread that ends is the last: SQLite would then copy the whole WAL
        # and delete it, for each request where each has its own thread.
        self._anchor = _Connection(self.path, FIND_TIMEOUT, _FIND_PRAGMAS)
        self._connections: WeakSet[_Connection] = WeakSet()
        self._joining = threading.Lock()
        _refuse_old_sqlite()
        _refuse_file(self.path)
        _refuse_content(self.path, timeout)
        _stores.add(self)

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], properties: Properties | None = None, *, timeout: float = 5.0
    ) -> SQLiteStore:
        """
        Make a new store, in a file that only its owner can read and write.

        Raises:
            UnusableStore: something stands at that place, or nothing can be made there.
            StoreUnavailable: SQLite failed on the way, for want of space perhaps. What was begun is removed.
        """
        path = _absolute(path)
        properties_row = rows.properties_row(replace(properties or Properties(), schema=SCHEMA))
        _refuse_old_sqlite()
        _reserve(path)
        try:
            with closing(_connect(path, timeout, _PRAGMAS)) as driver:
                driver.execute("PRAGMA journal_mode = WAL")
                driver.execute("BEGIN IMMEDIATE")
                for statement in _SCHEMA:
                    driver.execute(statement)
                driver.execute(rows.INSERT_PROPERTIES, properties_row)
                driver.execute("COMMIT")
        except BaseException as error:
            for suffix in _SUFFIXES:
                Path(f"{path}{suffix}").unlink(missing_ok=True)
            if isinstance(error, sqlite3.Error):
                raise _explained(error, path) from None
            raise
        return cls(path, timeout=timeout)

    def __repr__(self) -> str:
        return f"<SQLiteStore at {self.path}>"

    def find(self, digests: Sequence[bytes]) -> Record | None:
        """See :meth:`~doorkey.core.verify.Lookup.find`."""
        rows.refuse_other_than_bytes(digests)
        if not digests:
            return None
        finder = self._own.finder or self._finder()
        try:
            return rows.own_record(finder.fetch(rows.find_nearest_to(len(digests)), digests), digests)
        except UnreadableRecord:  # of a neighbour perhaps, because the driver reads all rows or none
            found = finder.fetch(rows.find_one_of(len(digests)), digests)
        return rows.record(found[0]) if found else None

    def commit(self, batch: Batch) -> None:
        """See :meth:`~doorkey.storage.protocol.Store.commit`."""
        rows.write(batch, self._worker().transaction)

    def record_uses(self, uses: Iterable[Use]) -> None:
        """See :meth:`~doorkey.storage.protocol.Store.record_uses`."""
        parameters = [(use.at, use.token_id, use.at) for use in uses if rows.is_text(use.token_id)]
        with self._worker().transaction() as execute:
            if rows.read_properties(execute(rows.PROPERTIES, ()).fetchall()).read_only:
                raise ReadOnlyStore(rows.SET_READ_ONLY)
            for row in parameters:
                execute(rows.RECORD_USE, row)

    def close(self) -> None:
        """See :meth:`~doorkey.storage.protocol.Store.close`. Waits for what other threads are doing with it."""
        with self._joining:
            self._closed = True
            for connection in (*self._connections, self._anchor):
                connection.retire()

    def check(self) -> list[Finding]:
        """Look for what is unsafe or unsound: modes, directory, file system, journal, schema, damage, bad records."""
        findings = [*self._modes(), *self._directory(), *self._mount()]
        try:
            findings += self._content()
        except StoreError as error:
            findings.append(Finding("error", str(error), "restore a backup"))
        return findings

    def _finder(self) -> _Connection:
        """This thread's connection for ``find``."""
        finder = self._own.finder = self._join(FIND_TIMEOUT, _FIND_PRAGMAS)
        return finder

    def _worker(self) -> _Connection:
        """This thread's connection for everything else."""
        if self._own.worker is None:
            self._own.worker = self._join(self._timeout, _PRAGMAS)
        return self._own.worker

    def _join(self, timeout: float, pragmas: Sequence[str]) -> _Connection:
        connection = _Connection(self.path, timeout, pragmas, self._anchor)
        with self._joining:
            if self._closed:
                raise StoreUnavailable(f"the store at {self.path} was closed: open it again")
            self._connections.add(connection)
        return connection

    def _read(self, sql: str, *parameters: str | int | bytes) -> list[rows.Row]:
        try:
            return self._worker().fetch(sql, parameters)
        except (OverflowError, UnicodeEncodeError):
            return []  # no stored value can be called that

    def _modes(self) -> Iterator[Finding]:
        for suffix in _SUFFIXES:
            path = f"{self.path}{suffix}"
            with suppress(FileNotFoundError):
                mode = stat.S_IMODE(os.lstat(path).st_mode)
                if mode & 0o077:
                    severity: Severity = "error" if mode & 0o007 else "warning"
                    yield Finding(severity, f"{path} has mode {mode:04o}, so others can use it", f"chmod 600 {path}")

    def _directory(self) -> Iterator[Finding]:
        mode = stat.S_IMODE(os.stat(self.path.parent).st_mode)
        if mode & 0o022:
            severity: Severity = "error" if mode & 0o002 else "warning"
            yield Finding(
                severity,
                f"{self.path.parent} has mode {mode:04o}, so others can put files of their own there",
                f"chmod go-w {self.path.parent}, or move the store to a directory of its own",
            )

    def _mount(self) -> Iterator[Finding]:
        with suppress(OSError):  # only Linux has that list
            kind = _file_system(self.path, _MOUNTS.read_text(errors="surrogateescape"))
            if _SHARED.fullmatch(kind):
                yield Finding(
                    "warning",
                    f"{self.path} is on a file system of type {kind}: used from two machines at once, it gets damaged",
                    "move the store to a local disk, or copy it to PostgreSQL with `doorkey store copy`",
                )

    def _content(self) -> Iterator[Finding]:
        ((journal,),) = self._read("PRAGMA journal_mode")
        if journal != "wal":
            yield Finding("warning", f"{self.path} is not in WAL mode, so readers wait for writers", "open it to write")
        damage = [text for (text,) in self._read("PRAGMA integrity_check") if text != "ok"]
        damage += [
            f"row of {table} without its {parent}" for table, _, parent, _ in self._read("PRAGMA foreign_key_check")
        ]
        if damage:
            yield Finding("error", f"{self.path} is damaged: {'; '.join(damage)}", "restore a backup")
        if {_normal(sql) for (sql,) in self._read(_STORED_SCHEMA)} != set(map(_normal, _SCHEMA[2:])):
            yield Finding(
                "error", f"{self.path} was altered: it has other tables, indexes, views or triggers", "restore a backup"
            )
        yield from self._unreadable()


class _Own(threading.local):
    """What each thread has of its own."""

    finder: _Connection | None = None
    worker: _Connection | None = None


class _Connection:
    """
    One connection of one thread. Opened when it is first used and again after a fork, closed when its thread ends.

    Its lock is free but for the moments when another thread closes it.
    """

    def __init__(self, path: Path, timeout: float, pragmas: Sequence[str], anchor: _Connection | None = None) -> None:
        self.lock = threading.RLock()
        self._how = (path, timeout, pragmas)
        self._anchor = anchor
        self._cursor: sqlite3.Cursor | None = None  # a new one for each statement would cost 0.3 µs
        self._process = 0
        self._retired = False

    def fetch(self, sql: str, parameters: Sequence[Any]) -> list[rows.Row]:
        """All rows of one SELECT: by then its read transaction is over."""
        try:
            with self.lock:
                return (self._cursor or self._open()).execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise _explained(error, self._how[0]) from None

    @contextmanager
    def transaction(self) -> Iterator[rows.Execute]:
        """See :func:`~doorkey.storage.rows.write`."""
        try:
            with self.lock:
                cursor = self._cursor or self._open()
                try:
                    _begin(cursor, self._how[1])
                    yield cursor.execute
                    cursor.execute("COMMIT")
                finally:
                    cursor.connection.rollback()  # does nothing after the commit
        except sqlite3.Error as error:
            raise _explained(error, self._how[0]) from None

    def _open(self) -> sqlite3.Cursor:
        if self._retired:
            raise StoreUnavailable(f"the store at {self._how[0]} was closed: open it again")
        if self._anchor is not None:
            with suppress(StoreError):
                self._anchor.fetch("PRAGMA user_version", ())
        cursor = self._cursor = _connect(*self._how).cursor()
        self._process = os.getpid()
        return cursor

    def close(self) -> None:
        """Close it for now. One that came through a fork is kept instead, because closing it could harm the parent."""
        with self.lock:
            cursor, self._cursor = self._cursor, None
            if cursor is not None:
                if self._process == os.getpid():
                    cursor.connection.close()
                else:
                    _inherited.append(cursor.connection)

    def retire(self) -> None:
        """Close it for good."""
        with self.lock:
            self._retired = True
            self.close()

    def __del__(self) -> None:
        self.close()


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.abspath(path))


def _file_system(path: Path, mounts: str) -> str:
    """The type of the file system that *path* lies on: the last mounted of the innermost."""
    depth, found = 0, ""
    for line in mounts.splitlines():
        _, point, kind, *_ = line.split(" ")
        point = re.sub(r"\\([0-7]{3})", lambda escaped: chr(int(escaped[1], 8)), point)
        if path.is_relative_to(point) and len(Path(point).parts) >= depth:
            depth, found = len(Path(point).parts), kind
    return found


def _normal(sql: str) -> str:
    return " ".join(sql.split())


def _connect(path: Path, timeout: float, pragmas: Sequence[str]) -> sqlite3.Connection:
    """Open the file as it is; ``mode=rw`` makes none, and falls back to reading where writing is not allowed."""
    driver = sqlite3.connect(
        f"{path.as_uri()}?mode=rw", uri=True, timeout=timeout, isolation_level=None, check_same_thread=False
    )
    try:
        for pragma in pragmas:
            driver.execute(pragma)
    except BaseException:
        driver.close()
        raise
    return driver


def _begin(cursor: sqlite3.Cursor, timeout: float) -> None:
    """
    Begin to write, once nobody else does.

    SQLite by itself asks ever more rarely, ten times a second in the end, and so may never find the moment between two
    transactions of writers that do not rest. Asking every few milliseconds finds it.
    """
    deadline = time.monotonic() + timeout
    cursor.execute(_busy_timeout(0.005))
    try:
        while True:
            try:
                cursor.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                    raise
            else:
                return
    finally:
        cursor.execute(_busy_timeout(timeout))


def _busy_timeout(seconds: float) -> str:
    return f"PRAGMA busy_timeout = {round(seconds * 1000)}"


def _explained(error: sqlite3.Error, path: Path) -> StoreError:
    """Our exception for one of the driver, without its text, because that may repeat what is stored."""
    name = getattr(error, "sqlite_errorname", None)
    if name is None and "UTF-8" in str(error):
        return UnreadableRecord(f"a text in {path} is not UTF-8: see `doorkey store check`")
    kind, text = _MEANINGS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, (StoreUnavailable, "{} cannot be used"))
    return kind(f"{text.format(path)} ({name or type(error).__name__})")


def _refuse_old_sqlite() -> None:
    if sqlite3.sqlite_version_info < (3, 37):
        raise UnusableStore(
            f"SQLite 3.37 or newer is needed, for its strict tables; this Python has {sqlite3.sqlite_version}"
        )


def _reserve(path: Path) -> None:
    """Make the empty file, before SQLite would make one that everybody may read."""
    for suffix in _SUFFIXES:
        if os.path.lexists(f"{path}{suffix}"):
            raise UnusableStore(
                f"{path}{suffix} is there already: choose another place, or move it away with its store"
            )
    try:
        # Its own descriptor, closed before SQLite has any: the one moment when that does no harm.
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_RDWR, 0o600)
    except (OSError, ValueError) as error:
        raise _unreachable(path, error) from None
    os.fchmod(file, 0o600)  # whatever the umask
    os.close(file)


def _refuse_file(path: Path) -> None:
    try:
        status = os.lstat(path)
    except (OSError, ValueError) as error:
        raise _unreachable(path, error) from None
    if stat.S_ISLNK(status.st_mode):
        raise UnusableStore(f"{path} is a symbolic link: name the file itself, which is {os.path.realpath(path)}")
    if not stat.S_ISREG(status.st_mode):
        raise UnusableStore(f"{path} is no file: name the file of a store, such as {path / 'keys.db'}")
    if status.st_size == 0:
        raise UnusableStore(f"{path} is empty: delete it, then make a store with `doorkey init`")
    if status.st_mode & 0o007:
        raise UnusableStore(
            f"{path} has mode {stat.S_IMODE(status.st_mode):04o}, so everybody here can use it: chmod 600 {path}"
        )


def _unreachable(path: Path, error: OSError | ValueError) -> UnusableStore:
    match error:
        case FileNotFoundError() if os.path.isdir(path.parent):
            return UnusableStore(
                f"there is no store at {path}: look for a mistyped path, or make one with `doorkey init`"
            )
        case FileNotFoundError() | NotADirectoryError():
            return UnusableStore(f"there is no directory {path.parent}: look for a mistyped path, or make it first")
        case OSError():
            return UnusableStore(f"{path} cannot be used: {error.strerror}")
        case _:
            return UnusableStore(f"{str(path)!a} cannot be the path of a file: leave out NUL and lone surrogates")


def _refuse_content(path: Path, timeout: float) -> None:
    try:
        with closing(_connect(path, timeout, _PRAGMAS)) as driver:
            ((application_id,),) = driver.execute("PRAGMA application_id")
            ((schema,),) = driver.execute("PRAGMA user_version")
            if application_id != APPLICATION_ID:
                raise UnusableStore(f"{path} is the SQLite database of something else: choose another path")
            if schema > SCHEMA:
                raise UnusableStore(f"{path} has schema {schema}, this release reads {SCHEMA}: upgrade doorkey")
            if schema < SCHEMA:
                raise UnusableStore(f"{path} has schema {schema}, which no release made: restore a backup")
            rows.read_properties(driver.execute(rows.PROPERTIES).fetchall())
            with suppress(sqlite3.OperationalError):  # if the file may only be read; then `check` tells
                driver.execute("PRAGMA journal_mode = WAL")  # a copy made by VACUUM INTO has lost it
    except UnreadableRecord as error:
        raise UnusableStore(f"{path}: {error}; restore a backup") from None
    except sqlite3.Error as error:
        explained = _explained(error, path)
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise explained from None
        raise UnusableStore(str(explained)) from None


# Forks.

_stores: WeakSet[SQLiteStore] = WeakSet()
_forking = threading.RLock()
_held = ExitStack()
_inherited: list[sqlite3.Connection] = []


def _before_fork() -> None:
    """Close every connection, and keep all of them closed until the fork is over."""
    _held.enter_context(_forking)
    for store in list(_stores):
        _held.enter_context(store._joining)
        for connection in (*store._connections, store._anchor):
            _held.enter_context(connection.lock)
            connection.close()


def _after_fork() -> None:
    _held.pop_all().close()  # in one go: once _forking is given back, another thread's fork holds locks of its own


def _after_fork_in_child() -> None:
    """The same; and put away what was inherited all the same, from a server that forks without asking Python."""
    _after_fork()
    for store in list(_stores):
        store._joining = threading.Lock()
        for connection in (*store._connections, store._anchor):
            connection.close()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
