"""The store in memory, beyond what every store keeps (see tests/test_testing.py)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from doorkey.core.errors import ConfigurationError, Conflict, ReadOnlyStore
from doorkey.core.model import KeyType, Mode, Use
from doorkey.storage.memory import MemoryStore
from doorkey.storage.protocol import Batch, Event, Key, Properties, StoredToken, Workspace

TOKEN = StoredToken("muTFmv6k", bytes(32), "fingerprint", 1)
WORKSPACE = Workspace("ws_1", "Acme", 1)
KEY = Key("key_1", "ws_1", KeyType.SECRET, Mode.TEST, "reports", 1, (TOKEN,))
EVENT = Event("ws_1", 1, 1, "ann", "key.issue", "key_1", "{}", bytes(32))


@pytest.fixture
def store() -> MemoryStore:
    """A store with one key and one event."""
    store = MemoryStore()
    store.commit(Batch(workspaces=((WORKSPACE, None),), keys=((KEY, None),), events=(EVENT,)))
    return store


def test_holds_what_was_committed(store: MemoryStore) -> None:
    """Values come back as they were, one by one and listed."""
    assert store.workspace("ws_1") == WORKSPACE
    assert store.workspaces() == (WORKSPACE,)
    assert store.key("key_1") == KEY
    assert store.keys("ws_1", mode=Mode.TEST) == (KEY,)
    assert store.keys("ws_1", mode=Mode.LIVE, after="key_0") == ()
    assert store.events("ws_1", after=-5) == (EVENT,)
    assert store.properties() == Properties()


def test_starts_with_the_properties_given() -> None:
    """A profile and fingerprints may be there from the start."""
    properties = Properties("falu", ("fingerprint",))
    assert MemoryStore(properties).properties() == properties


def test_records_are_made_at_commit(store: MemoryStore) -> None:
    """Two finds return the very same record: no find has anything to build."""
    assert store.find([bytes(32)]) is store.find([b"other", bytes(32)]) is not None
    assert store.find([b"other"]) is None


def test_records_stay_while_only_the_chain_moves(store: MemoryStore) -> None:
    """A workspace changes with every event; its keys' records are made anew only when it is suspended or resumed."""
    before = store.find([bytes(32)])
    store.commit(Batch(workspaces=((replace(WORKSPACE, events=1, version=2), 1),)))
    assert store.find([bytes(32)]) is before
    store.commit(Batch(workspaces=((replace(WORKSPACE, suspended_at=5, version=3), 2),)))
    after = store.find([bytes(32)])
    assert after is not None and after.suspended


def test_a_digest_moves(store: MemoryStore) -> None:
    """A token that has a new digest is found by that one alone."""
    moved = replace(TOKEN, digest=b"n" * 32)
    store.commit(Batch(keys=((replace(KEY, tokens=(moved,), version=2), 1),)))
    assert store.find([bytes(32)]) is None
    assert store.find([b"n" * 32]) is not None


@pytest.mark.parametrize(
    "batch",
    [
        Batch(workspaces=((WORKSPACE, None),)),
        Batch(workspaces=((replace(WORKSPACE, id="ws_2"), 1),)),
        Batch(keys=((KEY, None),)),
        Batch(keys=((replace(KEY, version=3), 2),)),
        Batch(keys=((replace(KEY, workspace="ws_2", version=2), 1),)),
        Batch(keys=((replace(KEY, id="key_2", workspace="ws_2", tokens=()), None),)),
        Batch(keys=((replace(KEY, id="key_2"), None),)),
        Batch(keys=((replace(KEY, id="key_2", tokens=(replace(TOKEN, id="muTFmv6l"),)), None),)),
        Batch(events=(EVENT,)),
        Batch(events=(replace(EVENT, workspace="ws_2"),)),
        Batch(properties=(Properties(version=3), 2)),
    ],
)
def test_a_conflict_changes_nothing(store: MemoryStore, batch: Batch) -> None:
    """What stands is left as it is, also where a part of the batch could be written."""
    with pytest.raises(Conflict):
        store.commit(replace(batch, workspaces=((replace(WORKSPACE, id="ws_0"), None), *batch.workspaces)))
    test_holds_what_was_committed(store)


def test_refuses_what_other_stores_cannot_keep(store: MemoryStore) -> None:
    """What was tried in memory can be stored anywhere."""
    for batch in (
        Batch(workspaces=((replace(WORKSPACE, name="\ud800", version=2), 1),)),
        Batch(keys=((replace(KEY, name="\0", version=2), 1),)),
        Batch(keys=((replace(KEY, tokens=(replace(TOKEN, digest=b""),), version=2), 1),)),
        Batch(events=(replace(EVENT, sequence=2, actor="\0"),)),
        Batch(properties=(Properties(profile="\0", version=2), 1)),
    ):
        with pytest.raises(ConfigurationError):
            store.commit(batch)
    test_holds_what_was_committed(store)


def test_uses_are_raised(store: MemoryStore) -> None:
    """A use is kept if it is later than the last one."""
    second = replace(TOKEN, id="muTFmv6l", digest=b"n" * 32)
    store.commit(Batch(keys=((replace(KEY, tokens=(second, TOKEN), version=2), 1),)))
    store.record_uses([Use("muTFmv6k", 5), Use("muTFmv6k", 4), Use("unknown", 9)])
    key = store.key("key_1")
    assert key is not None and key.tokens == (second, replace(TOKEN, last_used_at=5))


def test_read_only(store: MemoryStore) -> None:
    """Neither changes nor uses are written while the flag is set."""
    store.commit(Batch(properties=(Properties(read_only=True, version=2), 1)))
    with pytest.raises(ReadOnlyStore):
        store.commit(Batch(workspaces=((replace(WORKSPACE, version=2), 1),)))
    with pytest.raises(ReadOnlyStore):
        store.record_uses([Use("muTFmv6k", 5)])
    store.commit(Batch(properties=(Properties(version=3), 2)))
    store.close()
    assert store.key("key_1") == KEY
