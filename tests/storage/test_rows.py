"""Values to rows and back, what cannot be stored, and what cannot be understood."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorkey.core.errors import (
    ConfigurationError,
    Conflict,
    InvalidNetwork,
    InvalidPermission,
    ReadOnlyStore,
    UnreadableRecord,
)
from doorkey.core.model import KeyType, Mode, Principal, Record
from doorkey.core.networks import NetworkSet
from doorkey.core.permissions import PermissionSet
from doorkey.storage import rows
from doorkey.storage.protocol import Batch, Ending, Event, Key, Properties, StoredToken, Workspace
from doorkey.storage.sqlite import SQLiteStore

DIGEST = bytes(range(32))
TOKEN = StoredToken("muTFmv6k", DIGEST, "fingerprint", 1)
WORKSPACE = Workspace("ws_1", "Acme", 1)
KEY = Key("key_1", "ws_1", KeyType.SECRET, Mode.TEST, "reports", 1, (TOKEN,))
EVENT = Event("ws_1", 1, 1, "ann", "key.issue", "key_1", "{}", bytes(32))
RESTRICTED = replace(KEY, permissions=("charges:read", "messages"), networks=("10.0.0.0/8", "2001:db8::/32"))
ROW = rows.joined_row(TOKEN, RESTRICTED, WORKSPACE)
COLUMNS = (
    *("digest", "token_id", "expires_at", "ended_at", "ended_as"),
    *("key", "type", "mode", "permissions", "restricted", "bounds", "key_expires_at", "revoked_at"),
    *("workspace", "suspended_at"),
)


def changed(**changes: object) -> tuple[Any, ...]:
    """The row with other values in some columns."""
    return tuple({**dict(zip(COLUMNS, ROW, strict=True)), **changes}.values())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    """An SQL store with one key."""
    with closing(SQLiteStore.create(tmp_path / "keys.db")) as store:
        store.commit(Batch(workspaces=((WORKSPACE, None),), keys=((KEY, None),)))
        yield store


def test_a_record_is_what_the_row_says() -> None:
    """The row that a find reads carries the whole record."""
    permissions, networks = (
        PermissionSet.parse(RESTRICTED.permissions or ()),
        NetworkSet.parse(RESTRICTED.networks or ()),
    )
    principal = Principal("ws_1", "key_1", "muTFmv6k", KeyType.SECRET, Mode.TEST, permissions)
    assert rows.record(ROW) == Record(DIGEST, principal, networks=networks)


@pytest.mark.parametrize(
    ("changes", "revoked", "expires_at", "suspended"),
    [
        ({}, False, None, False),
        ({"expires_at": 5}, False, 5, False),
        ({"key_expires_at": 5}, False, 5, False),
        ({"expires_at": 5, "key_expires_at": 6}, False, 5, False),
        ({"expires_at": 6, "key_expires_at": 5}, False, 5, False),
        ({"ended_at": 9, "ended_as": "rolled", "key_expires_at": 5}, False, 0, False),
        ({"ended_at": 9, "ended_as": "revoked"}, True, None, False),
        ({"revoked_at": 0}, True, None, False),
        ({"suspended_at": 0}, False, None, True),
    ],
)
def test_a_record_tells_the_state(
    changes: dict[str, object], revoked: bool, expires_at: int | None, suspended: bool
) -> None:
    """The earlier expiry counts, a token that was ended is over at once, and time 0 is a time."""
    record = rows.record(changed(**changes))
    assert (record.revoked, record.expires_at, record.suspended) == (revoked, expires_at, suspended)


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": None},
        {"digest": bytes(31)},
        {"digest": "d" * 32},
        {"token_id": None},
        {"key": None},
        {"workspace": None},
        {"type": "private"},
        {"type": None},
        {"mode": "LIVE"},
        {"mode": b"live"},
        {"permissions": ""},
        {"permissions": "messages "},
        {"permissions": "a:b:c"},
        {"permissions": b"messages"},
        {"permissions": 7},
        {"bounds": None},
        {"bounds": b""},
        {"bounds": bytes(8)},
        {"bounds": "text"},
        {"expires_at": "never"},
        {"expires_at": 0.5},
        {"key_expires_at": b"\0"},
        {"expires_at": 5, "key_expires_at": "6"},
        {"ended_at": 5},
        {"ended_as": "paused"},
        {"ended_at": 5, "ended_as": "paused"},
    ],
    ids=repr,
)
def test_what_cannot_be_understood_grants_nothing(changes: dict[str, object]) -> None:
    """A row with anything odd in it is an unreadable record, named by its token id and by nothing else."""
    with pytest.raises(UnreadableRecord) as raised:
        rows.record(changed(**changes))
    assert str(raised.value).replace("muTFmv6k", "?") == (
        "the record of token ? cannot be understood, so it grants nothing"
    )
    assert raised.value.__suppress_context__


@pytest.mark.parametrize("stored", [b"\0", "\n", "s" * 65, "", "ключ", "a b", None])
def test_only_an_id_is_named(stored: object) -> None:
    """What stands in the place of an id may be anything, and is not repeated."""
    with pytest.raises(UnreadableRecord, match=r"token \? cannot"):
        rows.record(changed(token_id=stored, type="?"))


def test_lost_networks_are_no_freedom() -> None:
    """If the text of the networks is lost, the bounds still bind; if the bounds are, nothing is granted."""
    assert rows.record(changed(restricted=0)).networks == NetworkSet.parse(RESTRICTED.networks or ())
    with pytest.raises(UnreadableRecord):
        rows.record(changed(restricted=1, bounds=None))


ANYTHING = st.none() | st.integers() | st.floats() | st.text() | st.binary() | st.sampled_from(ROW)


@given(st.dictionaries(st.sampled_from(COLUMNS), ANYTHING, min_size=1))
def test_any_row_is_a_record_or_unreadable(changes: dict[str, object]) -> None:
    """Whatever a row holds, nothing else is raised, and a record has the types that a verdict relies on."""
    try:
        record = rows.record(changed(**changes))
    except UnreadableRecord:
        return
    assert len(record.digest) == 32
    assert isinstance(record.expires_at, int | None)
    principal = record.principal
    assert all(isinstance(text, str) for text in (principal.workspace, principal.key, principal.token_id))
    assert principal.type in KeyType
    assert principal.mode in Mode
    assert isinstance(principal.permissions, PermissionSet | None)
    assert isinstance(record.networks, NetworkSet | None)


def test_rows_hold_every_field() -> None:
    """A row is the value, column by column, with enums and lists as text."""
    assert rows.workspace_row(WORKSPACE) == ("ws_1", "Acme", 1, None, None, bytes(32), 0, 1)
    bounds = NetworkSet.parse(RESTRICTED.networks or ()).pack()
    texts = ("charges:read messages", "10.0.0.0/8 2001:db8::/32")
    assert rows.key_row(RESTRICTED) == ("key_1", "ws_1", "secret", "test", "reports", 1, *texts, bounds, None, None, 1)
    ended = replace(TOKEN, ended_at=2, ended_as=Ending.ROLLED, sealed=b"s", last_used_at=3)
    assert rows.token_row(ended) == ("muTFmv6k", DIGEST, "fingerprint", 1, b"s", None, 2, "rolled", 3)
    assert rows.event_row(EVENT) == ("ws_1", 1, 1, "ann", "key.issue", "key_1", "{}", bytes(32))
    assert rows.properties_row(Properties("falu", ("a", "b"), True)) == ("falu", "a b", 1, 1, 1)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda: rows.workspace_row(replace(WORKSPACE, name="a\0")), "NUL"),
        (lambda: rows.workspace_row(replace(WORKSPACE, id="\ud800")), "surrogates"),
        (lambda: rows.workspace_row(replace(WORKSPACE, created_at=2**63)), "64 bits"),
        (lambda: rows.workspace_row(replace(WORKSPACE, created_at=-(2**63) - 1)), "64 bits"),
        (lambda: rows.workspace_row(replace(WORKSPACE, created_at=0.5)), "float"),  # type: ignore[arg-type]
        (lambda: rows.workspace_row(replace(WORKSPACE, head=b"")), "32 bytes"),
        (lambda: rows.token_row(replace(TOKEN, digest=bytes(31))), "32 bytes"),
        (lambda: rows.token_row(replace(TOKEN, ended_at=1)), "both or neither"),
        (lambda: rows.token_row(replace(TOKEN, ended_as=Ending.ROLLED)), "both or neither"),
        (lambda: rows.event_row(replace(EVENT, hash=bytes(33))), "32 bytes"),
        (lambda: rows.event_row(replace(EVENT, actor="\udfff")), "surrogates"),
        (lambda: rows.properties_row(Properties(fingerprints=("a b",))), "white space"),
        (lambda: rows.properties_row(Properties(fingerprints=("",))), "empty"),
        (lambda: rows.key_row(replace(KEY, permissions=())), "permissions"),
        (lambda: rows.key_row(replace(KEY, networks=())), "networks"),
    ],
)
def test_what_no_store_can_keep_is_refused(wrong: Any, word: str) -> None:
    """A value that an engine would refuse, or return otherwise, is refused in the same words everywhere."""
    with pytest.raises(ConfigurationError, match=word):
        wrong()


def test_what_would_lock_a_key_out_is_refused() -> None:
    """Permissions and networks are read once before they are stored."""
    with pytest.raises(InvalidPermission):
        rows.key_row(replace(KEY, permissions=("messages:",)))
    with pytest.raises(InvalidNetwork):
        rows.key_row(replace(KEY, networks=("10.0.0.1/8",)))


def test_a_refusal_shows_no_digest() -> None:
    """The message names the token, not what it hangs on."""
    with pytest.raises(ConfigurationError) as raised:
        rows.token_row(replace(TOKEN, digest=b"secret", sealed=b"sealed"))
    assert "secret" not in str(raised.value) and "sealed" not in str(raised.value)


@pytest.mark.parametrize(("text", "storable"), [("", True), ("ключ 🔑", True), ("a\0", False), ("\ud800", False)])
def test_text_that_every_engine_keeps(text: str, storable: bool) -> None:
    """PostgreSQL takes no NUL, and no driver a lone surrogate."""
    assert rows.is_text(text) is storable


@pytest.mark.parametrize(("limit", "size"), [(-1, 0), (0, 0), (7, 7), (2**70, 2**31 - 1)])
def test_a_page_has_a_size_that_every_engine_takes(limit: int, size: int) -> None:
    """To SQLite a limit below 0 would mean all, and PostgreSQL refuses it."""
    assert rows.page(limit) == size


def test_digests_are_parameters() -> None:
    """The statement depends on how many digests there are, and on nothing else."""
    assert rows.find_one_of(3).endswith("WHERE t.digest IN (?, ?, ?)")


def test_a_neighbour_is_searched_for_each_digest() -> None:
    """One read finds, for each of several digests, what stands there or else comes next."""
    one = rows.find_nearest_to(1)
    assert one.endswith(" WHERE t.digest >= ? ORDER BY t.digest LIMIT 1")
    assert rows.find_nearest_to(3) == " UNION ALL ".join([f"SELECT * FROM ({one})"] * 3)


@pytest.mark.parametrize("changes", [{}, {"type": "?"}])
def test_only_a_row_of_the_digests_is_a_record(changes: dict[str, object]) -> None:
    """Another's is never handed out, and does no harm even where it cannot be understood."""
    neighbour = changed(digest=bytes(32), **changes)
    assert rows.own_record([], [DIGEST]) is None
    assert rows.own_record([neighbour], [DIGEST]) is None
    assert rows.own_record([neighbour, ROW], [bytes([1]) * 32, DIGEST]) == rows.record(ROW)
    with pytest.raises(UnreadableRecord):
        rows.own_record([changed(type="?")], [DIGEST])


def test_every_value_is_a_parameter() -> None:
    """The signs that a driver may have to replace stand for nothing but parameters."""
    texts = [text for text in vars(rows).values() if isinstance(text, str)]
    statements = [text for text in texts if text.split()[0] in ("SELECT", "INSERT", "UPDATE")]
    assert len(statements) > 15
    assert not any(sign in text for text in statements for sign in ("%", "'", '"', "{"))


def test_a_row_of_a_listing_that_means_nothing() -> None:
    """A key that cannot be understood is named; one with meaningless permissions can still be seen, to be mended."""
    row = ("key_1", "ws_1", "secret", "test", "n", 1, None, None, None, None, 1, *[None] * 9)
    (key,) = rows.read_keys([row])
    assert key == replace(KEY, name="n", tokens=())
    (odd,) = rows.read_keys([(*row[:6], "a  b", "not a network", *row[8:])])
    assert odd.permissions == ("a", "", "b")
    token = ("id", DIGEST, "f", 1, None, None, 1, "paused", None)
    for wrong in (
        (*row[:2], "private", *row[3:]),
        (*row[:6], 7, *row[7:]),
        (*row[:7], b"", *row[8:]),
        (*row[:11], *token),
    ):
        with pytest.raises(UnreadableRecord, match=r"^key key_1 cannot be understood$"):
            rows.read_keys([wrong])


@pytest.mark.parametrize(
    "stored", [[], [("default", "", 0, 1, 1)] * 2, [("default", None, 0, 1, 1)], [("default", "")], [None]]
)
def test_properties_that_mean_nothing(stored: Sequence[Any]) -> None:
    """There is one row of properties, or the store is unreadable."""
    with pytest.raises(UnreadableRecord, match="properties"):
        rows.read_properties(stored)


class Recorder:
    """Executes on a real connection, and remembers what."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.statements: list[str] = []

    @contextmanager
    def begin(self) -> Iterator[rows.Execute]:
        with closing(sqlite3.connect(self.path)) as connection, connection:

            def execute(sql: str, parameters: Sequence[Any]) -> sqlite3.Cursor:
                self.statements.append(" ".join(sql.split()[:2]))
                return connection.execute(sql, parameters)

            yield execute


def test_only_what_differs_is_written(store: SQLiteStore) -> None:
    """A token that did not change is not written again, however often its key is."""
    recorder = Recorder(store.path)
    second = replace(TOKEN, id="muTFmv6l", digest=bytes(32))
    rows.write(Batch(keys=((replace(KEY, version=2, tokens=(second, TOKEN)), 1),)), recorder.begin)
    assert [text for text in recorder.statements if "SELECT" not in text] == ["UPDATE keys", "INSERT INTO"]
    recorder.statements.clear()
    changed = replace(TOKEN, sealed=b"s")
    rows.write(Batch(keys=((replace(KEY, version=3, tokens=(second, changed)), 2),)), recorder.begin)
    assert [text for text in recorder.statements if "SELECT" not in text] == ["UPDATE keys", "UPDATE tokens"]
    key = store.key("key_1")
    assert key is not None and key.tokens == (second, changed)


@pytest.mark.parametrize(
    "batch",
    [
        Batch(workspaces=((replace(WORKSPACE, version=3), 2),)),
        Batch(keys=((replace(KEY, version=3), 2),)),
        Batch(keys=((replace(KEY, workspace="ws_2", version=2), 1),)),
        Batch(events=(replace(EVENT, sequence=2),)),
        Batch(properties=(Properties(version=3), 2)),
        Batch(properties=(Properties(version=2, schema=2), 1)),
    ],
)
def test_what_has_moved_is_a_conflict(store: SQLiteStore, batch: Batch) -> None:
    """A value is written only over the version that it was made from, and the schema not at all."""
    with pytest.raises(Conflict):
        rows.write(batch, Recorder(store.path).begin)


def test_a_whole_batch_is_written(store: SQLiteStore) -> None:
    """Workspaces, keys, events and properties, new ones and changed ones."""
    batch = Batch(
        workspaces=((replace(WORKSPACE, version=2), 1), (replace(WORKSPACE, id="ws_2"), None)),
        keys=((replace(KEY, name="x", version=2), 1),),
        events=(EVENT,),
        properties=(Properties(version=2), 1),
    )
    rows.write(batch, Recorder(store.path).begin)
    assert store.workspace("ws_1") == batch.workspaces[0][0]
    assert store.workspace("ws_2") == batch.workspaces[1][0]
    assert store.key("key_1") == batch.keys[0][0]
    assert store.events("ws_1") == (EVENT,)
    assert store.properties() == Properties(version=2)


def test_a_conflict_says_what_to_do() -> None:
    """Its message tells a new value from one that moved."""
    assert "needs another id" in str(rows.moved("key key_1", None))
    assert "read it again" in str(rows.moved("key key_1", 3))


@pytest.mark.parametrize(
    "batch",
    [
        Batch(),
        Batch(events=(EVENT,)),
        Batch(properties=(Properties(read_only=True, version=2), 1)),
        Batch(properties=(Properties(profile="x", version=2), 1)),
        Batch(properties=(Properties(version=2), 1), events=(EVENT,)),
    ],
)
def test_read_only_lets_only_its_end_pass(batch: Batch) -> None:
    """What clears the flag and does nothing else passes."""
    flagged = Properties(read_only=True)
    with pytest.raises(ReadOnlyStore):
        rows.refuse_if_read_only(batch, flagged)
    rows.refuse_if_read_only(Batch(properties=(Properties(version=2), 1)), flagged)
    rows.refuse_if_read_only(batch, Properties())


def test_what_sql_stores_read_in_the_same_way(store: SQLiteStore) -> None:
    """Values by id, and pages; what no store could be asked for is not there."""
    event = replace(EVENT, sequence=1)
    moved = replace(WORKSPACE, events=1, version=2)
    store.commit(Batch(workspaces=((moved, 1),), events=(event,)))
    assert (store.workspace("ws_1"), store.key("key_1")) == (moved, KEY)
    assert (store.workspace("\ud800"), store.key("key_\0")) == (None, None)
    assert (store.workspaces(), store.workspaces(after="ws_1"), store.workspaces(limit=0)) == ((moved,), (), ())
    assert store.keys("ws_1") == store.keys("ws_1", mode=Mode.TEST) == (KEY,)
    assert store.keys("ws_1", mode=Mode.LIVE) == store.keys("ws_1", after="key_1") == ()
    assert (store.events("ws_1"), store.events("ws_1", after=1)) == ((event,), ())
    assert store.properties() == Properties()


def test_records_that_cannot_be_understood_are_found(store: SQLiteStore) -> None:
    """All of them, page by page, each with its key."""
    keys = [
        replace(
            KEY, id=f"key_{number}", tokens=(replace(TOKEN, id=f"tok{number:05}", digest=number.to_bytes(32, "big")),)
        )
        for number in range(2, 1500)
    ]
    store.commit(Batch(keys=tuple((key, None) for key in keys)))
    assert list(store._unreadable()) == []
    with closing(sqlite3.connect(store.path, isolation_level=None)) as driver:
        driver.execute("UPDATE keys SET permissions = 'a b:' WHERE id IN ('key_7', 'key_1400')")
    found = list(store._unreadable())
    assert [finding.severity for finding in found] == ["error", "error"]
    assert all(
        f"tok{number:05}" in each.what and f"(key key_{number})" in each.what
        for number, each in zip((7, 1400), found, strict=True)
    )


@pytest.mark.parametrize("other", ["text", bytearray(32), None, 7])
def test_only_bytes_are_digests(other: object) -> None:
    """What is something else raises, wherever it stands, and never reaches a driver."""
    rows.refuse_other_than_bytes([])
    rows.refuse_other_than_bytes([bytes(32), bytes(32)])
    with pytest.raises(TypeError, match="a digest is bytes"):
        rows.refuse_other_than_bytes([bytes(32), other])
