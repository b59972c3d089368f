"""The store in SQLite, beyond what every store keeps (see tests/test_testing.py): files, locks, forks, damage."""

from __future__ import annotations

import errno
import os
import random
import signal
import sqlite3
import stat
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from threading import Event as ThreadEvent
from threading import Thread

import pytest

from doorkey.core.errors import (
    Conflict,
    ReadOnlyStore,
    StoreError,
    StoreUnavailable,
    UnreadableRecord,
    UnusableStore,
)
from doorkey.core.model import KeyType, Mode, Use
from doorkey.storage import rows, sqlite
from doorkey.storage.protocol import SCHEMA, Batch, Event, Key, Properties, StoredToken, Workspace
from doorkey.storage.sqlite import APPLICATION_ID, SQLiteStore

WORKSPACE = Workspace("ws_1", "Acme", 1)
NOBODY = 65534


def digest(number: int) -> bytes:
    """A digest that belongs to this number."""
    return sha256(b"%d" % number).digest()


def make_key(number: int = 1) -> Key:
    """A key with one token."""
    token = StoredToken(f"token{number:03}", digest(number), "fingerprint", 1, sealed=b"sealed")
    return Key(f"key_{number:03}", "ws_1", KeyType.SECRET, Mode.TEST, "reports", 1, (token,))


def event(sequence: int) -> Event:
    """An event of the workspace."""
    return Event("ws_1", sequence, 1, "ann", "key.revoke", None, "{}", bytes(32))


def filled(path: Path, keys: int = 3) -> SQLiteStore:
    """A new store with some keys."""
    store = SQLiteStore.create(path)
    new = tuple((make_key(number), None) for number in range(1, keys + 1))
    store.commit(Batch(workspaces=((WORKSPACE, None),), keys=new))
    return store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a store may be made."""
    return tmp_path / "keys.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    """A store with three keys."""
    with closing(filled(path)) as store:
        yield store


@contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """What an operator can do with the `sqlite3` shell; the CHECKs are off."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        yield connection


def in_child(function: Callable[[], object]) -> int:
    """Fork; the child calls *function* and ends without any clean-up, with 0 if nothing was raised."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    signal.alarm(60)  # whatever goes wrong, nobody waits for ever
    try:
        function()
        status = 0
    finally:
        os._exit(status)


def ended_well(pid: int) -> bool:
    """Wait for a child."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def in_thread(function: Callable[[], object]) -> None:
    """Call *function* in a thread of its own, and pass on what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = Thread(target=run)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    for error in raised:
        raise error


@pytest.fixture
def plain_user() -> Iterator[Path]:
    """A directory of somebody who is not root: root may read and write whatever the mode says."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        directory = Path(name).resolve()
        if os.geteuid() != 0:
            yield directory
        else:
            os.chown(directory, NOBODY, NOBODY)
            os.seteuid(NOBODY)
            try:
                yield directory
            finally:
                os.seteuid(0)
        directory.chmod(0o700)


# Making


def test_a_new_store_says_what_it_was_made_with(path: Path) -> None:
    """Properties are there from the start, with the schema of this release; the marks of the file agree."""
    properties = Properties("falu", ("newest", "older"), schema=99)
    with closing(SQLiteStore.create(path, properties)) as store:
        assert store.properties() == replace(properties, schema=SCHEMA)
        assert repr(store) == f"<SQLiteStore at {path}>"
    with raw(path) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_its_files_belong_to_their_owner_alone(path: Path, umask: int) -> None:
    """The database, its WAL and its shared memory have mode 0600, whatever the umask."""
    old = os.umask(umask)
    try:
        store = filled(path)
    finally:
        os.umask(old)
    with closing(store):
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        assert modes == {"keys.db": 0o600, "keys.db-wal": 0o600, "keys.db-shm": 0o600}


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_nothing_is_overwritten(path: Path, suffix: str) -> None:
    """Whatever stands there already is left alone: the WAL of a database that was moved holds its newest changes."""
    other = path.with_name(path.name + suffix)
    other.write_bytes(b"precious")
    with pytest.raises(UnusableStore, match="is there already"):
        SQLiteStore.create(path)
    assert [file.read_bytes() for file in path.parent.iterdir()] == [b"precious"]


def test_no_store_is_made_through_a_link(path: Path, tmp_path: Path) -> None:
    """A link that somebody put there leads nowhere, dangling or not."""
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnusableStore, match="is there already"):
        SQLiteStore.create(path)
    assert not (tmp_path / "elsewhere").exists()


def test_no_store_is_made_without_a_directory(tmp_path: Path) -> None:
    """A mistyped directory is named."""
    with pytest.raises(UnusableStore, match=r"there is no directory .*nowhere"):
        SQLiteStore.create(tmp_path / "nowhere" / "keys.db")


def test_what_was_begun_is_removed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that cannot be finished leaves no file that would be in the way of the next attempt."""
    monkeypatch.setattr(sqlite, "_SCHEMA", ("CREATE TABLE properties (singleton)",))
    with pytest.raises(StoreError, match="SQLITE_ERROR"):
        SQLiteStore.create(path)
    assert not list(path.parent.iterdir())
    monkeypatch.setattr(sqlite, "_SCHEMA", (7,))
    with pytest.raises(TypeError):
        SQLiteStore.create(path)
    assert not list(path.parent.iterdir())


# Opening


def test_opening_finds_what_was_committed(store: SQLiteStore) -> None:
    """Another store over the same file sees the same, wherever the working directory has moved."""
    relative = os.path.relpath(store.path)
    with closing(SQLiteStore(relative)) as other:
        assert other.path == store.path
        assert other.keys("ws_1") == store.keys("ws_1") == tuple(map(make_key, (1, 2, 3)))
        assert other.workspace("ws_1") == WORKSPACE


@pytest.mark.parametrize("name", ["a b.db", "a?b.db", "a#b.db", "a%20b.db", "ä'\".db", ":memory:", "file:x.db?mode=ro"])
def test_a_path_is_a_path(tmp_path: Path, name: str) -> None:
    """No character of a path means anything to SQLite."""
    filled(tmp_path / name).close()
    assert (tmp_path / name).is_file()
    with closing(SQLiteStore(tmp_path / name)) as store:
        assert store.find([digest(1)]) is not None


def make_nothing(path: Path) -> None:
    pass


def make_no_directory(path: Path) -> None:
    path.parent.rmdir()


def make_file_as_directory(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_bytes(b"")


def make_directory(path: Path) -> None:
    path.mkdir()


def make_link(path: Path) -> None:
    filled(path.with_name("real.db")).close()
    path.symlink_to(path.with_name("real.db"))


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_empty_file(path: Path) -> None:
    path.touch(0o600)


def make_text(path: Path) -> None:
    path.touch(0o600)
    path.write_bytes(b"this is no database at all" * 100)


def make_cut_store(path: Path) -> None:
    filled(path).close()
    os.truncate(path, 700)


def make_readable_by_all(path: Path) -> None:
    filled(path).close()
    path.chmod(0o604)


def make_writable_by_all(path: Path) -> None:
    filled(path).close()
    path.chmod(0o602)


def make_other_database(path: Path) -> None:
    path.touch(0o600)
    with raw(path) as connection:
        connection.execute("CREATE TABLE users (name)")


def make_newer_schema(path: Path) -> None:
    filled(path).close()
    with raw(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA + 1}")


def make_schema_0(path: Path) -> None:
    filled(path).close()
    with raw(path) as connection:
        connection.execute("PRAGMA user_version = 0")


def make_store_without_tables(path: Path) -> None:
    path.touch(0o600)
    with raw(path) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA}")


def make_store_without_properties(path: Path) -> None:
    filled(path).close()
    with raw(path) as connection:
        connection.execute("DELETE FROM properties")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_nothing, "no store at .*doorkey init"),
        (make_no_directory, "no directory"),
        (make_file_as_directory, "no directory"),
        (make_directory, "is no file: name the file of a store"),
        (make_link, "symbolic link: name the file itself, which is .*real.db"),
        (make_pipe, "is no file"),
        (make_empty_file, "is empty.*doorkey init"),
        (make_text, "no SQLite database"),
        (make_cut_store, "damaged|no SQLite database"),
        (make_readable_by_all, "mode 0604.*chmod 600"),
        (make_writable_by_all, "mode 0602.*chmod 600"),
        (make_other_database, "SQLite database of something else"),
        (make_newer_schema, f"has schema {SCHEMA + 1}.*upgrade doorkey"),
        (make_schema_0, "has schema 0.*backup"),
        (make_store_without_tables, "has not the tables of a store"),
        (make_store_without_properties, "properties of the store cannot be understood; restore a backup"),
    ],
)
def test_what_is_no_store_is_refused_when_opened(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    """Each gets an error that names the file and says what to do, and nothing is made, changed or lost."""
    path = tmp_path / "folder" / "keys.db"
    path.parent.mkdir()
    make(path)
    before = sorted((file.name, file.lstat().st_size) for file in tmp_path.rglob("*"))
    with pytest.raises(UnusableStore, match=message) as raised:
        SQLiteStore(path)
    assert str(path.parent) in str(raised.value)
    assert sorted((file.name, file.lstat().st_size) for file in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "a" * 5000])
def test_what_cannot_be_a_path_is_refused(tmp_path: Path, name: str) -> None:
    """Also what the system has no name for."""
    for attempt in (SQLiteStore, SQLiteStore.create):
        with pytest.raises(UnusableStore, match="cannot be"):
            attempt(tmp_path / name)


def test_an_old_sqlite_is_refused(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without strict tables a column would hold anything: the message names what is there and what is needed."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    for attempt in (SQLiteStore, SQLiteStore.create):
        with pytest.raises(UnusableStore, match=r"SQLite 3\.37 or newer"):
            attempt(store.path)


def test_a_copy_that_lost_its_journal_mode_gets_it_back(store: SQLiteStore, path: Path) -> None:
    """VACUUM INTO makes a backup without WAL, in which readers would wait for writers."""
    copy = path.with_name("copy.db")
    with raw(path) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    copy.chmod(0o600)
    with raw(copy) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    with closing(SQLiteStore(copy)) as opened, raw(copy) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert opened.keys("ws_1") == store.keys("ws_1")


def test_a_busy_store_is_not_unusable(path: Path) -> None:
    """A store that somebody keeps locked for a moment is there: try again."""
    filled(path).close()
    with raw(path) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("UPDATE properties SET version = version")
        with pytest.raises(StoreUnavailable, match="locked: try again"):
            SQLiteStore(path, timeout=0.01)
    SQLiteStore(path).close()


# Permissions of the operating system


def test_a_file_that_may_only_be_read(plain_user: Path) -> None:
    """Finding goes on; a change is refused with what to do. Once that is done and the store opened anew, it lands."""
    path = plain_user / "keys.db"
    filled(path).close()
    path.chmod(0o400)
    with closing(SQLiteStore(path)) as store:
        assert store.find([digest(1)]) is not None
        assert store.keys("ws_1")
        with pytest.raises(ReadOnlyStore, match="cannot be written"):
            store.commit(Batch(events=(event(1),)))
        with pytest.raises(ReadOnlyStore, match="cannot be written"):
            store.record_uses([Use("token001", 5)])
    for file in plain_user.iterdir():
        file.chmod(0o600)
    with closing(SQLiteStore(path)) as store:
        store.commit(Batch(events=(event(1),)))


def test_a_read_only_copy_without_wal(plain_user: Path) -> None:
    """A backup that may only be read can still be asked."""
    path, copy = plain_user / "keys.db", plain_user / "copy.db"
    filled(path).close()
    with raw(path) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    copy.chmod(0o400)
    with closing(SQLiteStore(copy)) as store:
        assert store.find([digest(1)]) is not None
        assert [finding.what for finding in store.check()] == [
            f"{copy} is not in WAL mode, so readers wait for writers"
        ]


def test_a_directory_that_may_only_be_read(plain_user: Path) -> None:
    """SQLite makes files beside the database; where it cannot, the message says what it needs."""
    path = plain_user / "keys.db"
    filled(path).close()
    plain_user.chmod(0o500)
    with pytest.raises(UnusableStore, match=r"-wal, .*-shm and their directory"):
        SQLiteStore(path)
    with pytest.raises(UnusableStore, match=os.strerror(errno.EACCES)):
        SQLiteStore.create(plain_user / "other.db")


def test_a_file_that_may_not_be_read_comes_back(plain_user: Path) -> None:
    """Taken away from a running server, the store is unavailable to new threads; given back, all is well again."""
    path = plain_user / "keys.db"
    with closing(filled(path)) as store:
        path.chmod(0o000)
        with pytest.raises(StoreUnavailable, match="cannot be opened"):
            in_thread(lambda: store.find([digest(1)]))
        with pytest.raises(UnusableStore, match="cannot be opened"):
            SQLiteStore(path)
        path.chmod(0o600)
        in_thread(lambda: store.find([digest(1)]))


# Asking


def test_one_of_several_digests_is_found(store: SQLiteStore) -> None:
    """One statement asks for all of them."""
    found = store.find([digest(9), digest(2), digest(8)])
    assert found is not None and found.principal.token_id == "token002"
    assert store.find((digest(9),)) is store.find([]) is None


@pytest.mark.parametrize("wrong", ["text", None, 7, bytearray(32), memoryview(bytes(32))])
def test_a_digest_is_bytes(store: SQLiteStore, wrong: object) -> None:
    """What is no bytes is refused before SQLite sees it, alone or beside a digest."""
    for digests in ([wrong], [digest(1), wrong]):
        with pytest.raises(TypeError, match="a digest is bytes"):
            store.find(digests)  # type: ignore[arg-type]


def test_numbers_beyond_64_bits_name_nothing(store: SQLiteStore) -> None:
    """The driver's refusal of a number is no answer to whoever asks for a page."""
    assert not store.events("ws_1", after=2**70)
    assert len(store.keys("ws_1", limit=2**70)) == 3


def test_a_find_waits_for_nobody(store: SQLiteStore) -> None:
    """While another process writes, finds go on; where they have to wait, they give up within the blink of an eye."""
    with raw(store.path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE keys SET name = 'x'")
        assert store.find([digest(1)]) is not None
        connection.execute("ROLLBACK")
    store.close()
    with closing(SQLiteStore(store.path)) as other, raw(store.path) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("UPDATE keys SET name = 'x'")
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="locked"):
            other.find([digest(1)])
        assert time.monotonic() - began < 1


def test_a_find_changes_nothing(store: SQLiteStore) -> None:
    """The connection that finds could not write if it wanted to."""
    assert store.find([digest(1)]) is not None
    finder = store._own.finder
    assert finder is not None
    with pytest.raises(ReadOnlyStore):
        finder.fetch("DELETE FROM tokens", ())


def test_a_writer_waits_for_another_and_then_gives_up(store: SQLiteStore) -> None:
    """After the timeout the store is unavailable, nothing was written, and the next attempt succeeds."""
    with closing(SQLiteStore(store.path, timeout=0.05)) as hasty, raw(store.path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match=r"locked: try again \(SQLITE_BUSY\)"):
            hasty.commit(Batch(events=(event(1),)))
        connection.execute("COMMIT")
        hasty.commit(Batch(events=(event(1),)))


def test_a_full_disk_loses_nothing(store: SQLiteStore) -> None:
    """What does not fit is not written at all, and what was there is still there."""
    worker = store._worker()
    ((pages,),) = worker.fetch("PRAGMA page_count", ())
    worker.fetch(f"PRAGMA max_page_count = {pages}", ())
    with pytest.raises(StoreUnavailable, match="no space left"):
        store.commit(Batch(keys=tuple((replace(make_key(n), name="x" * 1000), None) for n in range(10, 99))))
    assert len(store.keys("ws_1")) == 3
    worker.fetch("PRAGMA max_page_count = 1000000", ())
    store.commit(Batch(keys=((make_key(10), None),)))


def test_no_error_shows_what_is_stored(store: SQLiteStore) -> None:
    """Messages name the file and SQLite's own word for the error; the driver's text does not come along."""
    with pytest.raises(Conflict) as raised:
        store.commit(Batch(keys=((replace(make_key(7), tokens=make_key(1).tokens), None),)))
    assert str(raised.value).endswith("(SQLITE_CONSTRAINT_UNIQUE)") or "PRIMARYKEY" in str(raised.value)
    assert raised.value.__cause__ is None and raised.value.__suppress_context__
    assert not any(text in str(raised.value) for text in ("token001", "key_007", repr(digest(1)), digest(1).hex()))


def test_an_exception_in_a_transaction_rolls_back(store: SQLiteStore) -> None:
    """Whatever ends a transaction early, even an interrupt, leaves no lock and no half of it."""
    worker = store._worker()
    with pytest.raises(KeyboardInterrupt), worker.transaction() as execute:
        execute("DELETE FROM tokens", ())
        raise KeyboardInterrupt
    assert store.keys("ws_1") == tuple(map(make_key, (1, 2, 3)))
    with closing(SQLiteStore(store.path, timeout=0.01)) as other:
        other.commit(Batch(events=(event(1),)))


def test_uses_are_raised_in_one_transaction(store: SQLiteStore) -> None:
    """Uses of known tokens are kept, others are passed over; the operator's flag holds for them too."""
    store.record_uses([Use("token001", 5), Use("unknown", 5), Use("\ud800", 5), Use("token001", 4)])
    key = store.key("key_001")
    assert key is not None and key.tokens[0].last_used_at == 5
    store.commit(Batch(properties=(Properties(read_only=True, version=2), 1)))
    with pytest.raises(ReadOnlyStore, match="operator"):
        store.record_uses([Use("token001", 6)])


def test_sealed_copies_leave_no_trace(store: SQLiteStore) -> None:
    """Once a sealed token is dropped and the WAL is written back, its bytes are in no file."""
    sealed = os.urandom(90)
    key = make_key(7)
    store.commit(Batch(keys=((replace(key, tokens=(replace(key.tokens[0], sealed=sealed),)), None),)))
    store.commit(Batch(keys=((replace(key, tokens=(replace(key.tokens[0], sealed=None),), version=2), 1),)))
    store.close()
    assert [file.name for file in store.path.parent.iterdir()] == ["keys.db"]
    assert sealed not in store.path.read_bytes()


# What the tables refuse


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tokens SET digest = NULL",
        "UPDATE tokens SET digest = zeroblob(31) WHERE id = 'token001'",
        "UPDATE tokens SET digest = 'ddddddddddddddddddddddddddddddddd' WHERE id = 'token001'",
        "UPDATE tokens SET digest = zeroblob(32)",
        "UPDATE tokens SET id = 'token001'",
        "UPDATE tokens SET id = ''",
        "UPDATE tokens SET key = 'key_999'",
        "UPDATE tokens SET key = 'key_001'",
        "UPDATE tokens SET created_at = 'yesterday'",
        "UPDATE tokens SET ended_as = 'rolled'",
        "UPDATE tokens SET ended_at = 5",
        "UPDATE tokens SET ended_at = 5, ended_as = 'paused'",
        "UPDATE tokens SET sealed = 'text'",
        "UPDATE keys SET type = 'private'",
        "UPDATE keys SET mode = 'LIVE'",
        "UPDATE keys SET mode = NULL",
        "UPDATE keys SET permissions = ''",
        "UPDATE keys SET networks = '10.0.0.0/8'",
        "UPDATE keys SET bounds = zeroblob(12)",
        "UPDATE keys SET workspace = 'ws_9'",
        "UPDATE keys SET expires_at = 0.5",
        "UPDATE keys SET version = 0",
        "DELETE FROM keys",
        "UPDATE workspaces SET head = zeroblob(31)",
        "UPDATE workspaces SET events = -1",
        "DELETE FROM workspaces",
        "INSERT INTO events VALUES ('ws_1', 0, 1, 'a', 'b', NULL, '{}', zeroblob(32))",
        "INSERT INTO events VALUES ('ws_1', 1, 1, 'a', 'b', NULL, '{}', zeroblob(31))",
        "INSERT INTO events VALUES ('ws_9', 1, 1, 'a', 'b', NULL, '{}', zeroblob(32))",
        "INSERT INTO properties VALUES (2, 'default', '', 0, 1, 1)",
        "INSERT INTO properties VALUES (NULL, 'default', '', 0, 1, 1)",
        "UPDATE properties SET read_only = 2",
    ],
)
def test_the_tables_refuse_what_no_verifier_could_read(store: SQLiteStore, statement: str) -> None:
    """Short, missing and doubled digests, and whatever else our own code never writes, are refused by SQLite itself."""
    with raw(store.path) as connection:
        connection.execute("PRAGMA ignore_check_constraints = OFF")
        connection.execute("PRAGMA foreign_keys = ON")
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(statement)


# Damage


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE keys SET type = 'private'",
        "UPDATE keys SET mode = ''",
        "UPDATE keys SET permissions = 'messages:'",
        "UPDATE keys SET permissions = ''",
        "UPDATE keys SET permissions = CAST(x'ff' AS TEXT)",
        "UPDATE keys SET networks = '10.0.0.0/8'",
        "UPDATE keys SET bounds = x'00'",
        "UPDATE keys SET networks = '10.0.0.0/8', bounds = x'0000000000000000'",
        "UPDATE keys SET workspace = 'ws_9'",
        "DELETE FROM keys",
        "UPDATE tokens SET ended_at = 1",
        "UPDATE tokens SET ended_as = 'paused'",
        "UPDATE tokens SET key = CAST(x'ff' AS TEXT)",
        "UPDATE tokens SET id = CAST(x'ff' AS TEXT)",
    ],
)
def test_one_poisoned_row_concerns_its_key_alone(store: SQLiteStore, statement: str) -> None:
    """The token of the bad row is unreadable, all others are found, and the check names what is wrong."""
    condition = " WHERE id = 'token002'" if "tokens" in statement else " WHERE id = 'key_002'"
    with raw(store.path) as connection:
        connection.execute(statement + condition)
    with pytest.raises(UnreadableRecord):
        store.find([digest(2)])
    before = digest(2)[:-1] + bytes([digest(2)[-1] - 1])
    assert store.find([before]) is None
    for number in (1, 3):
        for digests in ([digest(number)], [before, digest(number)], [digest(number), before]):
            assert store.find(digests) is not None
    assert store.key("key_001") == make_key(1)
    assert any(finding.severity == "error" for finding in store.check())


def test_a_key_that_cannot_be_listed_is_named(store: SQLiteStore) -> None:
    """A listing does not leave a key out in silence."""
    with raw(store.path) as connection:
        connection.execute("UPDATE keys SET type = 'private' WHERE id = 'key_002'")
    with pytest.raises(UnreadableRecord, match="key_002"):
        store.keys("ws_1")
    assert store.keys("ws_1", limit=1) == (make_key(1),)
    assert store.keys("ws_1", after="key_002") == (make_key(3),)


def test_lost_tables_are_unavailable(store: SQLiteStore) -> None:
    """A table that was dropped under a running server makes no verdict, and no exception of the driver."""
    with raw(store.path) as connection:
        connection.execute("DROP TABLE tokens")
    with pytest.raises(StoreUnavailable, match="has not the tables"):
        store.find([digest(1)])
    assert any("has not the tables" in finding.what for finding in store.check())


def test_damage_raises_nothing_but_our_own(path: Path) -> None:
    """Whatever happened to the bytes of the file, nothing but a StoreError is raised."""
    filled(path, keys=200).close()
    whole = path.read_bytes()
    chance = random.Random(7)
    damaged = 0
    for _ in range(40):
        content = bytearray(whole)
        place = chance.randrange(100, len(content))
        content[place : place + 600] = chance.randbytes(600)
        path.write_bytes(content[: len(whole)])
        with suppress(UnusableStore), closing(SQLiteStore(path)) as store:
            damaged += bool(store.check())
            calls: list[Callable[[], object]] = [
                *(partial(store.find, [digest(number)]) for number in range(1, 201)),
                *(partial(store.key, f"key_{number:03}") for number in range(1, 201)),
                partial(store.keys, "ws_1", limit=500),
                partial(store.events, "ws_1"),
                store.workspaces,
                partial(store.commit, Batch(keys=((replace(make_key(), name="x", version=2), 1),))),
            ]
            for call in calls:
                with suppress(StoreError):
                    call()
    assert damaged > 10


# Checking


def test_a_sound_store_has_nothing_to_find(store: SQLiteStore) -> None:
    """A fresh store in a directory of its own is as it should be."""
    assert store.check() == []


def test_the_check_finds_what_others_could_touch(store: SQLiteStore, path: Path) -> None:
    """Modes of the files and of the directory, each with the command that mends it."""
    path.chmod(0o640)
    path.with_name("keys.db-wal").chmod(0o666)
    path.parent.chmod(0o777)
    findings = store.check()
    assert [(finding.severity, finding.remedy) for finding in findings] == [
        ("warning", f"chmod 600 {path}"),
        ("error", f"chmod 600 {path}-wal"),
        ("error", f"chmod go-w {path.parent}, or move the store to a directory of its own"),
    ]
    path.parent.chmod(0o770)
    assert "warning" in [finding.severity for finding in store.check() if str(path.parent) in finding.remedy]


def test_the_check_finds_what_was_altered(store: SQLiteStore) -> None:
    """A table, an index or a trigger that this release did not make, or one that is missing."""
    with raw(store.path) as connection:
        connection.execute("CREATE TRIGGER t AFTER UPDATE ON keys BEGIN DELETE FROM events; END")
    assert ["was altered" in finding.what for finding in store.check()] == [True]
    with raw(store.path) as connection:
        connection.execute("DROP TRIGGER t")
        connection.execute("DROP INDEX keys_by_workspace")
    assert ["was altered" in finding.what for finding in store.check()] == [True]


@pytest.mark.parametrize(
    ("mounts", "found"),
    [
        ("/dev/sda / ext4 rw 0 0\nserver:/keys {0} nfs4 rw 0 0\n", True),
        ("/dev/sda / ext4 rw 0 0\nann@host: {0} fuse.sshfs rw 0 0\n", True),
        ("server:/ / nfs rw 0 0\n", True),
        ("server:/ / nfs rw 0 0\n/dev/sda {0} ext4 rw 0 0\n", False),
        ("/dev/sda / ext4 rw 0 0\nserver:/keys {0}/below nfs4 rw 0 0\n", False),
        ("/dev/sda / ext4 rw 0 0\nserver:/keys {0}r nfs4 rw 0 0\n", False),
        ("server:/ {0} nfs rw 0 0\n/dev/sda {0} ext4 rw 0 0\n", False),
        ("/dev/sda {0} ext4 rw 0 0\nserver:/ {0} nfs rw 0 0\n", True),
        ("/dev/sda / ext4 rw 0 0\n", False),
        ("", False),
    ],
)
def test_the_check_finds_file_systems_of_several_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounts: str, found: bool
) -> None:
    """The innermost file system counts, and of two at one place the one that was mounted last."""
    folder = tmp_path / "with a space"
    folder.mkdir(mode=0o700)
    (tmp_path / "mounts").write_text(mounts.format(str(folder).replace(" ", r"\040")))
    monkeypatch.setattr(sqlite, "_MOUNTS", tmp_path / "mounts")
    with closing(SQLiteStore.create(folder / "keys.db")) as store:
        assert ["is on a file system of type" in finding.what for finding in store.check()] == [True] * found
        monkeypatch.setattr(sqlite, "_MOUNTS", tmp_path / "none")
        assert store.check() == []


def test_the_check_finds_orphans(store: SQLiteStore) -> None:
    """A key without its workspace is damage, even where each row alone is well."""
    with raw(store.path) as connection:
        connection.execute("INSERT INTO events VALUES ('ws_9', 1, 1, 'a', 'b', NULL, '{}', zeroblob(32))")
    (finding,) = store.check()
    assert finding.what.endswith("is damaged: row of events without its workspaces")


# Finding


def test_what_stands_next_to_an_unknown_token_does_not_matter(store: SQLiteStore) -> None:
    """Unknown before, between and after the stored ones, also where the next record cannot be read."""
    stored = sorted(map(digest, (1, 2, 3)))
    unknown = [bytes(32), *(each[:-1] + bytes([each[-1] ^ 1]) for each in stored), b"\xff" * 32]
    for _ in range(2):
        assert [store.find([each]) for each in unknown] == [None] * 5
        assert [store.find(pair) for pair in zip(unknown, reversed(unknown), strict=True)] == [None] * 5
        with raw(store.path) as connection:
            connection.execute("UPDATE keys SET permissions = '?'")
    for each in stored:
        for digests in ([each], [bytes(32), each], [each, b"\xff" * 32]):
            with pytest.raises(UnreadableRecord):
                store.find(digests)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_find_searches_three_tables_by_their_keys(store: SQLiteStore, count: int) -> None:
    """Whether the token is there or not: so neither the number of keys nor a clock tells."""
    with raw(store.path) as connection:
        plan = connection.execute("EXPLAIN QUERY PLAN " + rows.find_nearest_to(count), [bytes(32)] * count).fetchall()
    steps = [text for _, _, _, text in plan]
    assert sum("USING PRIMARY KEY" in step for step in steps) == 3 * count
    assert not any("SCAN t" in step or "TEMP B-TREE" in step for step in steps)


# Threads, closing


def open_files() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are counted in /proc")
def test_threads_that_end_leave_no_connection(store: SQLiteStore) -> None:
    """A server with a thread for each request does not run out of files."""
    in_thread(lambda: store.find([digest(1)]))
    before = open_files()
    for _ in range(20):
        in_thread(lambda: (store.find([digest(1)]), store.keys("ws_1")))
    # SQLite keeps a file of a closed connection for the next one, because closing it would drop the locks of all.
    assert open_files() <= before + 2
    store.close()
    assert open_files() < before


def test_a_thread_that_ends_does_not_write_the_wal_back(store: SQLiteStore) -> None:
    """The last connection to close rewrites the database; that must not be the one of each request's thread."""
    store.close()
    with closing(SQLiteStore(store.path)) as other:
        in_thread(lambda: other.commit(Batch(events=(event(1),))))
        assert store.path.with_name("keys.db-wal").stat().st_size > 0
    assert not store.path.with_name("keys.db-wal").exists()


def test_a_closed_store_is_unavailable(store: SQLiteStore) -> None:
    """In the thread that closed it, in one that used it before, and in a new one."""
    asked, closed = ThreadEvent(), ThreadEvent()

    def ask_twice() -> None:
        store.find([digest(1)])
        asked.set()
        assert closed.wait(30)
        for call in (lambda: store.find([digest(1)]), store.properties):
            with pytest.raises(StoreUnavailable, match="was closed"):
                call()

    def close() -> None:
        assert asked.wait(30)
        store.close()
        store.close()
        closed.set()

    closer = Thread(target=close)
    closer.start()
    in_thread(ask_twice)
    closer.join()
    for run in (in_thread, lambda call: call()):
        with pytest.raises(StoreUnavailable, match="was closed"):
            run(lambda: store.find([digest(1)]))
        with pytest.raises(StoreUnavailable, match="was closed"):
            run(lambda: store.commit(Batch(events=(event(1),))))


# Forks


def test_a_child_has_connections_of_its_own(store: SQLiteStore) -> None:
    """
    What parent and child commit after a fork survives, whoever closes first.

    Without care it does not: a child that inherits an open connection believes that it holds locks which it does not
    hold, so that the parent's closing takes the WAL away under it.
    """
    assert store.find([digest(1)]) is not None
    (told, tell), (heard, reply) = os.pipe(), os.pipe()

    def child() -> None:
        store.commit(Batch(events=(event(1),)))
        os.write(reply, b"x")
        os.read(told, 1)
        store.commit(Batch(events=(event(2),)))
        assert store.find([digest(1)]) is not None

    pid = in_child(child)
    os.close(reply)
    assert os.read(heard, 1) == b"x"
    assert len(store.events("ws_1")) == 1
    store.close()
    os.write(tell, b"x")
    assert ended_well(pid)
    for descriptor in (told, tell, heard):
        os.close(descriptor)
    with closing(SQLiteStore(store.path)) as after:
        assert len(after.events("ws_1")) == 2
        after.commit(Batch(events=(event(3),)))


def test_forking_while_others_write(store: SQLiteStore) -> None:
    """A fork waits until every thread has finished its transaction; no child inherits a lock or half a change."""
    done = ThreadEvent()
    written: list[int] = []

    def write() -> None:
        while not done.is_set():
            store.commit(Batch(events=(event(len(written) + 1),)))
            written.append(1)
            store.find([digest(1)])

    def child() -> None:
        assert store.find([digest(1)]) is not None
        key = store.key("key_001")
        while key is not None:
            with suppress(Conflict):
                store.commit(Batch(keys=((replace(key, version=key.version + 1), key.version),)))
                break
            key = store.key("key_001")

    writer = Thread(target=write)
    writer.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads should not fork
            children = [in_child(child) for _ in range(10)]
        assert all(map(ended_well, children))
    finally:
        done.set()
        writer.join()
    assert len(store.events("ws_1", limit=10**6)) == len(written) > 0
    key = store.key("key_001")
    assert key is not None and key.version == 11
    assert store.check() == []


def test_an_inherited_connection_is_neither_used_nor_closed(store: SQLiteStore) -> None:
    """Where a server forks without asking Python first, what comes along is put away."""
    store.find([digest(1)])
    finder = store._own.finder
    assert finder is not None
    assert finder._cursor is not None
    inherited, finder._process = finder._cursor.connection, 0  # as if another process had opened it
    sqlite._after_fork_in_child()
    assert sqlite._inherited == [inherited]
    assert store.find([digest(1)]) is not None
    assert finder._cursor.connection is not inherited
    with closing(sqlite._inherited.pop()) as open_still:
        assert open_still.execute("SELECT 1").fetchone() == (1,)


# Several processes


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_that_contend_never_see_a_lock(store: SQLiteStore, processes: int) -> None:
    """Readers and writers in several processes: each change lands or conflicts, and nobody is told "locked"."""

    def contend() -> None:
        end, chance = time.monotonic() + 1.5, random.Random(os.getpid())
        landed = 0
        while time.monotonic() < end:
            number = chance.randrange(1, 4)
            assert store.find([digest(number)]) is not None
            key = store.key(f"key_{number:03}")
            assert key is not None
            with suppress(Conflict):
                store.commit(Batch(keys=((replace(key, version=key.version + 1), key.version),)))
                landed += 1
        assert landed > 0

    children = [in_child(contend) for _ in range(processes)]
    assert all(map(ended_well, children))
    assert store.check() == []


def test_the_statements_are_portable_but_for_their_marks() -> None:
    """Only what PostgreSQL understands, too, stands in the shared statements."""
    shared = " ".join(text for text in vars(rows).values() if isinstance(text, str)).upper()
    assert not any(word in shared for word in ("PRAGMA", "ROWID", "REPLACE INTO", "IFNULL", "GLOB", "STRICT"))
