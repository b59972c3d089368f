"""The chain of events: whatever is done to it behind the keyring's back shows, and at which event."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorkey.core.errors import ConfigurationError, NotFound
from doorkey.management import audit
from doorkey.management.audit import Finding, Head
from doorkey.management.keyring import Keyring
from doorkey.management.secrets import MasterSecrets
from doorkey.storage.memory import MemoryStore
from doorkey.storage.protocol import GENESIS, Batch, Event, Workspace
from doorkey.storage.sqlite import SQLiteStore

SECRETS = MasterSecrets.generate()
EVENTS = 7
ONE = Event("ws_1", 1, 1_800_000_000, "ann", "key.roll", "key_1", '{"token":"x"}', GENESIS)
EMPTY = Workspace("ws_1", "Acme", 1_800_000_000)


# One event


def test_the_hash_of_an_event() -> None:
    """SHA-256 of the canonical JSON of all fields and of the hash before it, as the document says."""
    text = (
        '{"action":"key.roll","actor":"ann","at":1800000000,"detail":"{\\"token\\":\\"x\\"}","key":"key_1",'
        '"previous":"' + "00" * 32 + '","sequence":1,"version":1,"workspace":"ws_1"}'
    )
    assert audit.chain(GENESIS, ONE) == hashlib.sha256(text.encode()).digest()


@pytest.mark.parametrize(
    "changed",
    [
        {"workspace": "ws_2"},
        {"sequence": 2},
        {"at": 1_800_000_001},
        {"actor": "ann "},
        {"action": "key.rol"},
        {"key": None},
        {"key": ""},
        {"key": "null"},
        {"detail": "{}"},
        {"action": 'key.roll","actor":"ann', "actor": ""},
    ],
)
def test_every_field_counts(changed: dict[str, object]) -> None:
    """No two events have the same hash, wherever one field ends and the next begins."""
    assert audit.chain(GENESIS, replace(ONE, **changed)) != audit.chain(GENESIS, ONE)  # type: ignore[arg-type]
    assert audit.chain(b"\1" * 32, ONE) != audit.chain(GENESIS, ONE)
    assert audit.chain(GENESIS, replace(ONE, hash=b"\1" * 32)) == audit.chain(GENESIS, ONE)


def test_the_next_event() -> None:
    """It follows the head of its workspace, and its detail has one spelling."""
    workspace = replace(EMPTY, head=b"\1" * 32, events=4)
    event = audit.event(workspace, at=5, actor="ann", action="key.x", key=None, detail={"b": ("ü", None), "a": 1})
    assert (event.workspace, event.sequence, event.at, event.key) == ("ws_1", 5, 5, None)
    assert event.detail == '{"a":1,"b":["\\u00fc",null]}'
    assert event.hash == audit.chain(workspace.head, event)


@given(st.text(), st.text(), st.none() | st.text(), st.text(), st.integers())
def test_whatever_stands_in_a_row_has_a_hash(actor: str, action: str, key: str | None, detail: str, at: int) -> None:
    """Nothing that somebody writes into the table makes the verification fail."""
    odd = replace(ONE, actor=actor, action=action, key=key, detail=detail, at=at)
    assert len(audit.chain(GENESIS, odd)) == 32


@pytest.mark.parametrize("actor", ["ann\r\nworkspace=x", "\x1b[2J", "a\u2028b", '" key=x', "\ud800", "Ä"])
def test_no_text_starts_a_line_of_its_own(actor: str, caplog: pytest.LogCaptureFixture) -> None:
    """A log line is one line of ASCII, and the actor is quoted in it."""
    with caplog.at_level(logging.INFO, "doorkey.audit"):
        audit.announce(audit.event(EMPTY, at=1, actor=actor, action="workspace.suspend", key=None, detail={}))
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.isascii() and line.isprintable()
    start, _, quoted = line.partition(" actor=")
    assert json.loads(quoted) == actor
    assert start.startswith("workspace=ws_1 head=1:") and start.endswith(" action=workspace.suspend key=-")


# Heads


@given(st.integers(1, 10**18 - 1), st.binary(min_size=32, max_size=32))
def test_a_head_as_text(sequence: int, hash: bytes) -> None:
    """What is logged can be read again."""
    assert Head.parse(str(Head(sequence, hash))) == (sequence, hash)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1:",
        "0:" + "0" * 64,
        "-1:" + "0" * 64,
        "1:" + "0" * 63,
        "1:" + "A" * 64,
        "\u0661:" + "0" * 64,
        "1:" + "0" * 64 + "\n",
    ],
)
def test_a_text_that_is_no_head(text: str) -> None:
    """The message says where to find one."""
    with pytest.raises(ConfigurationError, match=r"head= in the log of doorkey\.audit"):
        Head.parse(text)


# A chain in a file


class Scribe:
    """Somebody with write access to the database file, and time."""

    def __init__(self, path: Path, workspace: str) -> None:
        self.path, self.workspace = path, workspace

    def do(self, *statements: tuple[str, Sequence[object]]) -> None:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            for statement, parameters in statements:
                connection.execute(statement, parameters)

    def events(self) -> list[Event]:
        with closing(SQLiteStore(self.path)) as store:
            return list(store.events(self.workspace))

    def forge(self, events: Sequence[Event]) -> None:
        """Put *events* in the place of all there are, hashed so that the chain is whole, and the row with it."""
        workspace, forged = Workspace(self.workspace, "", 0), []
        for sequence, event in enumerate(events, 1):
            unlinked = replace(event, sequence=sequence)
            forged.append(replace(unlinked, hash=audit.chain(workspace.head, unlinked)))
            workspace = replace(workspace, head=forged[-1].hash)
        self.do(
            ("DELETE FROM events", ()),
            *(("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", tuple(vars_of(event))) for event in forged),
            ("UPDATE workspaces SET head = ?, events = ?", (workspace.head, len(forged))),
        )

    def verify(self, heads: Sequence[Head] = ()) -> list[int]:
        """The numbers of the events that something is wrong with."""
        with closing(SQLiteStore(self.path)) as store:
            return [finding.sequence for finding in audit.verify(store, self.workspace, heads=heads)]


def vars_of(event: Event) -> Iterator[object]:
    return (
        getattr(event, name) for name in ("workspace", "sequence", "at", "actor", "action", "key", "detail", "hash")
    )


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[Head]]:
    """A store with a chain of seven events, its workspace, and the heads that were logged meanwhile."""
    path = tmp_path_factory.mktemp("audit") / "keys.db"
    logged: list[Head] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logged.append(Head.parse(record.getMessage().split()[1].removeprefix("head=")))

    keeper = Keeper()
    audit.log.addHandler(keeper)
    audit.log.setLevel(logging.INFO)
    try:
        with closing(SQLiteStore.create(path)) as store:
            ring = Keyring(store, SECRETS, actor="ann")
            workspace = ring.provision("Acme").id
            for key in ring.keys(workspace):
                ring.rename(key.id, "other")
                ring.roll(key.id)
    finally:
        audit.log.removeHandler(keeper)
        audit.log.setLevel(logging.NOTSET)
    assert len(logged) == EVENTS
    return path, workspace, logged


@pytest.fixture
def scribe(original: tuple[Path, str, list[Head]], tmp_path: Path) -> Scribe:
    path, workspace, _ = original
    copy = tmp_path / "keys.db"
    shutil.copy(path, copy)
    copy.chmod(0o600)
    return Scribe(copy, workspace)


@pytest.fixture
def logged(original: tuple[Path, str, list[Head]]) -> list[Head]:
    return original[2]


def test_a_whole_chain(scribe: Scribe, logged: list[Head]) -> None:
    """Nothing is found where nothing was done, and each event is the head that was logged."""
    assert scribe.verify() == scribe.verify(logged) == []
    assert [Head(event.sequence, event.hash) for event in scribe.events()] == logged


@pytest.mark.parametrize("sequence", range(1, EVENTS + 1))
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("workspace", "ws_other"),
        ("sequence", 1000),
        ("at", 5),
        ("actor", "bob"),
        ("action", "key.x"),
        ("key", "key_x"),
        ("key", None),
        ("detail", "{}"),
        ("hash", bytes(32)),
    ],
)
def test_an_edited_event(scribe: Scribe, sequence: int, column: str, value: object) -> None:
    """Each field of each event counts, and the first finding is that event."""
    if getattr(scribe.events()[sequence - 1], column) == value:
        value = "key_y"  # that of the workspace had none
    scribe.do((f"UPDATE events SET {column} = ? WHERE sequence = ?", (value, sequence)))
    found = scribe.verify()
    assert found[0] == sequence
    assert set(found) <= {sequence, sequence + 1, EVENTS, EVENTS + 1}


@pytest.mark.parametrize("sequence", range(1, EVENTS + 1))
def test_a_removed_event(scribe: Scribe, sequence: int) -> None:
    """It is missed where it stood, also if the others close ranks."""
    scribe.do(("DELETE FROM events WHERE sequence = ?", (sequence,)))
    assert scribe.verify() == [sequence]
    scribe.do(
        *(("UPDATE events SET sequence = ? WHERE sequence = ?", (n - 1, n)) for n in range(sequence + 1, EVENTS + 1))
    )
    assert scribe.verify()[0] == sequence


@pytest.mark.parametrize("sequence", range(1, EVENTS + 2))
def test_an_inserted_event(scribe: Scribe, sequence: int) -> None:
    """It stands out wherever it is put, even if its own hash is right."""
    events = scribe.events()
    before = events[sequence - 2].hash if sequence > 1 else GENESIS
    extra = replace(events[0], sequence=sequence, action="key.x")
    extra = replace(extra, hash=audit.chain(before, extra))
    scribe.do(
        *(("UPDATE events SET sequence = ? WHERE sequence = ?", (n + 1, n)) for n in range(EVENTS, sequence - 1, -1)),
        ("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", tuple(vars_of(extra))),
    )
    found = scribe.verify()
    assert found[0] == (sequence + 1 if sequence <= EVENTS else EVENTS + 1)
    assert EVENTS + 1 in found, "one more than the workspace counts"


@pytest.mark.parametrize("sequence", range(1, EVENTS))
def test_two_events_that_changed_places(scribe: Scribe, sequence: int) -> None:
    """Order is part of what is kept."""
    scribe.do(
        ("UPDATE events SET sequence = 1000 WHERE sequence = ?", (sequence,)),
        ("UPDATE events SET sequence = ? WHERE sequence = ?", (sequence, sequence + 1)),
        ("UPDATE events SET sequence = ? WHERE sequence = 1000", (sequence + 1,)),
    )
    assert scribe.verify()[:2] == [sequence, sequence + 1]


@pytest.mark.parametrize(
    ("column", "value"), [("head", bytes(32)), ("head", GENESIS), ("events", 6), ("events", 8), ("events", 0)]
)
def test_a_row_that_names_another_head(scribe: Scribe, column: str, value: object) -> None:
    """The workspace's own row is held to the chain, and the chain to it."""
    scribe.do((f"UPDATE workspaces SET {column} = ?", (value,)))
    assert scribe.verify() != []


def test_an_empty_chain(scribe: Scribe, logged: list[Head]) -> None:
    """A workspace without events is whole, unless its row or the log knows better."""
    scribe.do(("DELETE FROM events", ()))
    assert scribe.verify() == [EVENTS]
    scribe.forge([])
    assert scribe.verify(logged) == list(range(1, EVENTS + 1))
    scribe.do(("UPDATE workspaces SET head = ?", (GENESIS,)))
    assert scribe.verify() == []


@pytest.mark.parametrize("left", range(1, EVENTS))
def test_a_cut_tail(scribe: Scribe, logged: list[Head], left: int) -> None:
    """If the row was adapted, it takes a logged head to see it: any one of those that are gone."""
    scribe.forge(scribe.events()[:left])
    assert scribe.verify() == scribe.verify(logged[:left]) == []
    assert scribe.verify(logged) == list(range(left + 1, EVENTS + 1))
    assert scribe.verify(logged[-1:]) == [EVENTS]


def test_a_rewritten_chain(scribe: Scribe, logged: list[Head]) -> None:
    """If all hashes were made anew, it takes a logged head to see from where on."""
    events = scribe.events()
    events[2] = replace(events[2], actor="somebody else")
    scribe.forge(events)
    assert scribe.verify() == scribe.verify(logged[:2]) == []
    assert scribe.verify(logged) == list(range(3, EVENTS + 1))


def test_a_log_that_contradicts_itself(scribe: Scribe, logged: list[Head]) -> None:
    """Two heads of one number cannot both stand."""
    assert scribe.verify([*logged, Head(2, bytes(32))]) == [2]


@pytest.mark.parametrize("column", ["actor", "detail"])
def test_an_event_that_cannot_be_read(scribe: Scribe, column: str) -> None:
    """It is a finding, not a failure, and is named; what follows it is said to be unchecked."""
    scribe.do((f"UPDATE events SET {column} = CAST(x'ff' AS TEXT) WHERE sequence = 4", ()))
    with closing(SQLiteStore(scribe.path)) as store:
        (finding,) = audit.verify(store, scribe.workspace)
    assert "event 4: cannot be read, and what follows was not checked" in str(finding)


def test_a_hash_of_another_length(scribe: Scribe) -> None:
    """A hash that no store would take is another hash than the one that belongs there."""
    scribe.do(("UPDATE events SET hash = ? WHERE sequence = 4", (b"short",)))
    assert scribe.verify() == [4, 5]


def test_a_finding_is_for_people() -> None:
    """It names the event and the problem."""
    assert str(Finding(3, "missing")) == "event 3: missing"


# A chain in use


@pytest.fixture
def ring() -> Keyring:
    return Keyring(MemoryStore(), SECRETS, actor="ann")


def test_a_long_chain(ring: Keyring) -> None:
    """All pages are walked."""
    workspace = ring.provision("Acme").id
    (key, *_) = ring.keys(workspace)
    for n in range(250):
        ring.rename(key.id, str(n))
    store = ring._store
    assert audit.verify(store, workspace) == ()
    assert audit.verify(store, workspace, heads=[Head(253, bytes(32))]) != ()


def test_a_chain_that_grows_meanwhile() -> None:
    """A change that lands while the chain is walked is no finding, before or after the last page."""

    class BusyStore(MemoryStore):
        after_each_page: Callable[[], object] | None = None

        def events(self, workspace: str, *, after: int | None = None, limit: int = 100) -> Sequence[Event]:
            page = super().events(workspace, after=after, limit=limit)
            if self.after_each_page is not None and len(self._events[workspace]) < 400:
                self.after_each_page()
            return page

    store = BusyStore()
    ring = Keyring(store, SECRETS, actor="ann")
    workspace = ring.provision("Acme").id
    (key, *_) = ring.keys(workspace)
    names = iter(range(1000))
    store.after_each_page = lambda: [ring.rename(key.id, str(next(names))) for _ in range(30)]
    assert audit.verify(store, workspace) == ()
    assert ring.workspace(workspace).events > 33


def test_another_workspace_is_another_chain(ring: Keyring) -> None:
    """Chains do not mix, and an event of one is none of the other."""
    one, other = ring.provision("Acme").id, ring.provision("Beta").id
    store = ring._store
    assert audit.verify(store, one) == audit.verify(store, other) == ()
    (event, *_) = store.events(other)
    assert audit.chain(GENESIS, event) != audit.chain(GENESIS, replace(event, workspace=one))


def test_no_such_workspace(ring: Keyring) -> None:
    """There is nothing to verify."""
    with pytest.raises(NotFound):
        audit.verify(ring._store, "ws_none")


def test_an_event_without_its_row_is_not_counted(ring: Keyring) -> None:
    """An event that was committed beside the keyring, so that the row does not know it, is one too many."""
    workspace = ring.provision("Acme")
    extra = audit.event(workspace, at=1, actor="eve", action="key.x", key=None, detail={})
    ring._store.commit(Batch(events=(extra,)))
    assert [finding.sequence for finding in audit.verify(ring._store, workspace.id)] == [4]
