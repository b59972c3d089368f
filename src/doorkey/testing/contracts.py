"""
What holds stores to their contract, as pytest classes. A test's docstring is the rule; its message says how the store
broke it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from threading import Barrier
from threading import Event as ThreadEvent
from typing import Any, TypeVar, cast

import pytest

from ..core.errors import Conflict, DoorkeyError, ReadOnlyStore
from ..core.model import KeyType, Mode, Principal, Record, Use
from ..core.networks import NetworkSet
from ..core.permissions import PermissionSet
from ..core.verify import AsyncLookup, Lookup
from ..storage.protocol import Batch, Ending, Event, Key, Properties, Store, StoredToken, Workspace

# ruff: noqa: S101

Value = TypeVar("Value", Workspace, Key, Properties)


def _digest(number: int) -> bytes:
    return sha256(b"digest %d" % number).digest()


@dataclass(frozen=True, slots=True)
class Planted:
    """
    A token that a :class:`LookupContract` wants in your table, in plain values.

    Attributes:
        permissions: texts such as ``"messages:read"``, or ``None`` for an unrestricted key.
        networks: CIDR blocks as texts, or ``None`` for a key that may be used from anywhere.
        expires_at: UTC seconds.
    """

    digest: bytes
    token_id: str = "tok00001"
    key: str = "key_1"
    workspace: str = "ws_1"
    type: KeyType = KeyType.SECRET
    mode: Mode = Mode.TEST
    permissions: tuple[str, ...] | None = None
    networks: tuple[str, ...] | None = None
    expires_at: int | None = None
    revoked: bool = False
    suspended: bool = False

    @property
    def record(self) -> Record:
        """What finding it must return."""
        permissions = None if self.permissions is None else PermissionSet.parse(self.permissions)
        return Record(
            self.digest,
            Principal(self.workspace, self.key, self.token_id, self.type, self.mode, permissions),
            self.revoked,
            self.expires_at,
            self.suspended,
            None if self.networks is None else NetworkSet.parse(self.networks),
        )


Find = Callable[[Sequence[bytes]], Record | None]
Plant = Callable[[Planted], object]

_PLANTED = {
    "an unrestricted key": Planted(_digest(1)),
    "a live publishable key": Planted(_digest(1), type=KeyType.PUBLISHABLE, mode=Mode.LIVE),
    "a key with permissions": Planted(_digest(1), permissions=("charges:read", "messages")),
    "a key with networks": Planted(_digest(1), networks=("10.0.0.0/8", "192.0.2.7", "2001:db8::/32")),
    "a key that expires": Planted(_digest(1), expires_at=1_900_000_000),
    "a token whose grace was ended": Planted(_digest(1), expires_at=0),
    "a revoked key": Planted(_digest(1), revoked=True),
    "a key of a suspended workspace": Planted(_digest(1), suspended=True),
}


class _Finding:
    """What holds for every lookup, however it is asked."""

    @pytest.mark.parametrize("planted", _PLANTED.values(), ids=_PLANTED)
    def test_finds_all_that_a_verdict_needs(self, find: Find, plant: Plant, planted: Planted) -> None:
        """The record that is found says of the token exactly what is stored."""
        plant(planted)
        assert find([planted.digest]) == planted.record, "the record found is not what was planted"

    def test_finds_nothing_for_an_unknown_digest(self, find: Find, plant: Plant) -> None:
        """``None`` is the answer for a digest that is not stored, however much of another it shares, and for none."""
        digest = b"A" * 32
        plant(Planted(digest))
        for other in (b"a" * 32, digest[:-1], digest[:-1] + b"B", digest + b"\0", digest + b" ", b"%" * 32, b""):
            assert find([other]) is None, f"a record was found for {other!r}, but only {digest!r} is stored"
        assert find([]) is None, "a record was found although no digest was asked for"

    def test_compares_every_byte(self, find: Find, plant: Plant) -> None:
        """Digests are bytes, not text: zero, quote, newline and invalid UTF-8 are compared like all others."""
        digests = [bytes([byte]) + bytes(30) + bytes([byte]) for byte in (0, 0x0A, 0x25, 0x27, 0x5C, 0x80, 0xFF)]
        for number, digest in enumerate(digests):
            plant(Planted(digest, token_id=f"tok{number:05}", key=f"key_{number}"))
        for number, digest in enumerate(digests):
            found = find([digest])
            assert found is not None, f"the token with digest {digest!r} was not found"
            assert found.principal.token_id == f"tok{number:05}", "another token was found"

    def test_tries_every_digest(self, find: Find, plant: Plant) -> None:
        """A token is found by whichever of several digests is its own: one for each master secret."""
        planted = Planted(_digest(1))
        plant(planted)
        for digests in ([_digest(1), _digest(2)], [_digest(2), _digest(1)], [_digest(3), _digest(2), _digest(1)]):
            assert find(digests) == planted.record, "the token was not found by one of several digests"
        assert find([_digest(2), _digest(3)]) is None, "a record was found that has none of the digests"

    def test_never_takes_text_for_a_digest(self, find: Find, plant: Plant) -> None:
        """What is no bytes finds nothing; raising TypeError is best."""
        plant(Planted(b"A" * 32))
        for wrong in ("A" * 32, None, 7):
            try:
                assert find(cast("list[bytes]", [wrong])) is None, f"a record was found for {wrong!r}"
            except TypeError:
                continue

    def test_finds_what_is_stored_now(self, find: Find, plant: Plant) -> None:
        """Once a change is stored, the next find sees it."""
        planted = Planted(_digest(1))
        plant(planted)
        find([planted.digest])
        plant(replace(planted, revoked=True))
        found = find([planted.digest])
        assert found is not None and found.revoked, "the key was revoked, but a find that began later saw it alive"


class LookupContract(_Finding):
    """
    What every lookup must keep: the one method ``find``, over a table of your own perhaps.

    Give two fixtures. ``lookup`` is your lookup over an empty table. ``plant`` is a function that puts a
    :class:`Planted` into that table, in the place of the one with the same digest if there is one; let it call
    ``pytest.skip`` for what your table has no column for::

        class TestMyLookup(LookupContract):
            @pytest.fixture
            def lookup(self, table): return MyLookup(table)

            @pytest.fixture
            def plant(self, table): return lambda planted: table.upsert(planted.digest, ...)
    """

    @pytest.fixture
    def find(self, lookup: Lookup) -> Find:
        """How the tests ask."""
        return lookup.find

    def test_may_be_asked_from_any_thread(self, find: Find, plant: Plant) -> None:
        """Threads that ask at the same time each get the answer to their own question."""
        planted = [Planted(_digest(number), token_id=f"tok{number:05}", key=f"key_{number}") for number in range(8)]
        for each in planted:
            plant(each)

        def ask(each: Planted) -> bool:
            return all(find([each.digest]) == each.record for _ in range(50))

        with ThreadPoolExecutor(len(planted)) as threads:
            assert all(threads.map(ask, planted)), "a thread got another answer than it asked for"


class AsyncLookupContract(_Finding):
    """
    The same for an asynchronous lookup.

    Give the fixtures ``lookup`` and ``plant``, as for :class:`LookupContract`. Each test has an event loop of its own;
    where your lookup must be opened or closed on it, ask for the fixture ``run``, which runs a coroutine there::

        @pytest.fixture
        def lookup(self, run):
            lookup = MyLookup(...)
            run(lookup.open())
            yield lookup
            run(lookup.close())
    """

    @pytest.fixture
    def run(self) -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
        """Runs a coroutine on the event loop of the test."""
        with asyncio.Runner() as runner:
            yield runner.run

    @pytest.fixture
    def find(self, lookup: AsyncLookup, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> Find:
        """How the tests ask."""

        async def found(digests: Sequence[bytes]) -> Record | None:
            return await lookup.find(digests)

        return lambda digests: cast("Record | None", run(found(digests)))

    def test_may_be_asked_from_any_task(
        self, lookup: AsyncLookup, plant: Plant, run: Callable[[Coroutine[Any, Any, Any]], Any]
    ) -> None:
        """Tasks that ask at once each get the answer to their own question, though every third is cancelled."""
        planted = [Planted(_digest(number), token_id=f"tok{number:05}", key=f"key_{number}") for number in range(6)]
        for each in planted:
            plant(each)

        async def ask() -> None:
            tasks = [asyncio.ensure_future(lookup.find([each.digest])) for each in planted]
            await asyncio.sleep(0)
            for task in tasks[::3]:
                task.cancel()
            for each, found in zip(planted, await asyncio.gather(*tasks, return_exceptions=True), strict=True):
                assert isinstance(found, asyncio.CancelledError) or found == each.record, (
                    "a task got another answer than it asked for"
                )

        for _ in range(20):
            run(ask())


_AT = 1_800_000_000
_HOSTILE = (
    "",
    "'",
    "' OR '1'='1",
    "key_1'; DROP TABLE keys; --",
    "%",
    "_____",
    "key_1\0",
    "\0",
    "\ud800",
    "ключ",
    "k" * 10_000,
)


def _workspace(number: int = 1, **changes: Any) -> Workspace:
    return replace(Workspace(f"ws_{number:016}", "Acme", _AT), **changes)


def _token(number: int = 1, **changes: Any) -> StoredToken:
    return replace(StoredToken(f"tok{number:05}", _digest(number), "fingerprint", _AT), **changes)


def _key(number: int = 1, **changes: Any) -> Key:
    tokens = (_token(number),)
    key = Key(f"key_{number:016}", _workspace().id, KeyType.SECRET, Mode.TEST, "reports", _AT, tokens)
    return replace(key, **changes)


def _event(sequence: int, **changes: Any) -> Event:
    hash = sha256(b"event %d" % sequence).digest()
    event = Event(_workspace().id, sequence, _AT, "ann@acme.example", "key.roll", _key().id, '{"grace":86400}', hash)
    return replace(event, **changes)


def _next(value: Value, **changes: Any) -> Value:
    """The next version of *value*."""
    return replace(value, version=value.version + 1, **changes)


def _new(*keys: Key) -> Batch:
    return Batch(workspaces=((_workspace(), None),), keys=tuple((key, None) for key in keys))


def _change(key: Key, **changes: Any) -> Batch:
    return Batch(keys=((_next(key, **changes), key.version),))


def _contents(store: Store) -> tuple[object, ...]:
    """All that *store* holds, as far as these tests put something there."""
    workspaces = store.workspaces()
    return (
        workspaces,
        *((store.keys(workspace.id), store.events(workspace.id)) for workspace in workspaces),
        *(store.find([_digest(number)]) for number in range(20)),
        store.properties(),
    )


class StoreContract:
    """
    What every store must keep, besides speed. See :mod:`doorkey.storage.protocol` for the rules.

    Give the fixture ``store``: a fresh, empty store for each test, with ``Properties()``::

        class TestMyStore(StoreContract):
            @pytest.fixture
            def store(self, tmp_path):
                store = MyStore.create(tmp_path / "keys")
                yield store
                store.close()
    """

    # What goes in comes out

    @pytest.mark.parametrize(
        "workspace",
        [
            _workspace(),
            _workspace(
                name="Ünïcode ' \" \n 🔑", approved_at=_AT, suspended_at=_AT + 1, head=bytes(range(32)), events=3
            ),
            _workspace(name="", created_at=-1, version=7),
        ],
    )
    def test_returns_a_workspace_as_it_was_committed(self, store: Store, workspace: Workspace) -> None:
        """Every field of a workspace comes back."""
        store.commit(Batch(workspaces=((workspace, None),)))
        assert store.workspace(workspace.id) == workspace, "a workspace came back changed"
        assert list(store.workspaces()) == [workspace], "a listed workspace came back changed"

    @pytest.mark.parametrize(
        "key",
        [
            _key(),
            _key(type=KeyType.PUBLISHABLE, mode=Mode.LIVE, name="Ünïcode ' \" \n 🔑"),
            _key(permissions=("charges:read", "messages")),
            _key(networks=("10.0.0.0/8", "192.0.2.7", "2001:db8::/32")),
            _key(expires_at=_AT + 5, revoked_at=_AT + 6, version=7),
            _key(tokens=(_token(sealed=b"\0\xff", expires_at=2**40),)),
            _key(tokens=(_token(ended_at=_AT, ended_as=Ending.ROLLED),)),
            _key(tokens=(_token(ended_at=_AT, ended_as=Ending.REVOKED),)),
            _key(tokens=(_token(3), _token(1, expires_at=_AT), _token(2))),
            _key(tokens=()),
        ],
    )
    def test_returns_a_key_as_it_was_committed(self, store: Store, key: Key) -> None:
        """Every field of a key and of its tokens comes back, the tokens in their order."""
        store.commit(_new(key))
        assert store.key(key.id) == key, "a key came back changed"
        assert list(store.keys(key.workspace)) == [key], "a listed key came back changed"

    def test_returns_an_event_as_it_was_committed(self, store: Store) -> None:
        """Every field of an event comes back."""
        events = (_event(1), _event(2, actor="Ünïcode ' \" \n 🔑", key=None, detail="{}"))
        store.commit(Batch(workspaces=((_workspace(), None),), events=events))
        assert tuple(store.events(_workspace().id)) == events, "events came back changed"

    def test_returns_its_properties_as_they_were_committed(self, store: Store) -> None:
        """What the store says of itself is what was committed last."""
        fresh = store.properties()
        assert fresh == Properties(), "the fixture must give a store with Properties()"
        changed = _next(fresh, profile="falu", fingerprints=("newest", "older"))
        store.commit(Batch(properties=(changed, fresh.version)))
        assert store.properties() == changed, "the properties came back changed"

    def test_changes_every_field_that_may_change(self, store: Store) -> None:
        """A new version takes the place of the old one, field by field."""
        workspace, key = _workspace(), _key()
        store.commit(_new(key))
        other = _next(workspace, name="Other", approved_at=1, suspended_at=2, head=bytes(range(32)), events=9)
        token = replace(key.tokens[0], digest=_digest(9), secret="other", sealed=b"s", expires_at=3)
        changed = _next(
            key,
            **{"name": "other", "permissions": ("a",), "networks": ("192.0.2.7",), "expires_at": 4, "revoked_at": 5},
            tokens=(replace(token, ended_at=6, ended_as=Ending.REVOKED),),
        )
        store.commit(Batch(workspaces=((other, 1),), keys=((changed, 1),)))
        assert store.workspace(workspace.id) == other, "a workspace was not changed as committed"
        assert store.key(key.id) == changed, "a key was not changed as committed"
        bare = _next(changed, permissions=None, networks=None, expires_at=None, revoked_at=None)
        store.commit(Batch(keys=((bare, 2),)))
        assert store.key(key.id) == bare, "a field was not cleared as committed"

    def test_values_are_frozen(self, store: Store) -> None:
        """Nobody changes what the store holds by changing what it handed out, or what was handed to it."""
        store.commit(_new(_key()))
        store.commit(Batch(events=(_event(1),)))
        handed_out = (store.workspace(_workspace().id), store.key(_key().id), *store.events(_workspace().id))
        for value in (*handed_out, store.properties(), store.find([_digest(1)])):
            assert value is not None, "what was committed is not there"
            with pytest.raises((AttributeError, TypeError)):
                setattr(value, next(iter(type(value).__annotations__)), "changed")

    # Finding

    def test_finds_a_token_with_its_key_and_workspace(self, store: Store) -> None:
        """A find tells all that a verdict needs, and nothing is found that is not there."""
        networks = ("10.0.0.0/8", "2001:db8::/32")
        store.commit(_new(_key(permissions=("messages",), networks=networks, mode=Mode.LIVE), _key(2)))
        permissions = PermissionSet.parse(["messages"])
        principal = Principal(_workspace().id, _key().id, "tok00001", KeyType.SECRET, Mode.LIVE, permissions)
        expected = Record(_digest(1), principal, networks=NetworkSet.parse(networks))
        assert store.find([_digest(1)]) == expected, "the record found is not what was committed"
        assert store.find([_digest(3)]) is None, "a record was found for an unknown digest"
        assert store.find([_digest(1)[:-1]]) is None, "a record was found for a part of a digest"
        assert store.find([]) is None, "a record was found for no digest"

    def test_finds_by_any_of_several_digests(self, store: Store) -> None:
        """One read tries them all."""
        store.commit(_new(_key(), _key(2)))
        for digests in ([_digest(1), _digest(8)], (_digest(8), _digest(1)), [_digest(7), _digest(8), _digest(1)]):
            found = store.find(digests)
            assert found is not None, "the token was not found by one of several digests"
            assert found.principal.token_id == "tok00001", "another token was found"
        assert store.find([_digest(7), _digest(8)]) is None, "a record was found that has none of the digests"

    @pytest.mark.parametrize(
        ("of_key", "of_token", "revoked", "expires_at"),
        [
            ({}, {}, False, None),
            ({"expires_at": 5}, {}, False, 5),
            ({}, {"expires_at": 5}, False, 5),
            ({"expires_at": 5}, {"expires_at": 6}, False, 5),
            ({"expires_at": 6}, {"expires_at": 5}, False, 5),
            ({"expires_at": 0}, {"expires_at": 5}, False, 0),
            ({"revoked_at": 0}, {}, True, None),
            ({}, {"ended_at": 5, "ended_as": Ending.ROLLED}, False, 0),
            ({"expires_at": 6}, {"expires_at": 7, "ended_at": 5, "ended_as": Ending.ROLLED}, False, 0),
            ({}, {"ended_at": 5, "ended_as": Ending.REVOKED}, True, None),
        ],
    )
    def test_finds_in_what_state_a_token_is(
        self, store: Store, of_key: Any, of_token: Any, revoked: bool, expires_at: int | None
    ) -> None:
        """The earlier of both expiries counts; a token that was ended is expired or revoked, as it was ended."""
        store.commit(_new(_key(**of_key, tokens=(_token(**of_token),))))
        found = store.find([_digest(1)])
        assert found is not None, "the token was not found"
        assert (found.revoked, found.expires_at) == (revoked, expires_at), "the token is in another state"

    def test_finds_each_token_of_a_key(self, store: Store) -> None:
        """After a roll the new token and the old one are found, each in its own state."""
        key = _key()
        store.commit(_new(key))
        store.commit(_change(key, tokens=(_token(2), replace(key.tokens[0], expires_at=_AT + 60))))
        new, old = store.find([_digest(2)]), store.find([_digest(1)])
        assert new is not None and new.expires_at is None, "the new token of a key is not found as it is"
        assert old is not None and old.expires_at == _AT + 60, "the old token of a key is not found as it is"

    def test_finds_that_a_workspace_is_suspended(self, store: Store) -> None:
        """A workspace that is suspended or resumed shows in the records of all its keys at once, and in no other's."""
        elsewhere = _key(3, workspace=_workspace(2).id)
        workspace = _workspace()
        store.commit(Batch(workspaces=((_workspace(2), None),), keys=((elsewhere, None),)))
        store.commit(_new(_key(1), _key(2)))
        for suspended_at in (_AT, None, _AT):
            changed = _next(workspace, suspended_at=suspended_at)
            store.commit(Batch(workspaces=((changed, workspace.version),)))
            workspace = changed
            found = [store.find([_digest(number)]) for number in (1, 2, 3)]
            assert [record and record.suspended for record in found] == [suspended_at is not None] * 2 + [False]

    def test_finds_a_token_by_its_new_digest_only(self, store: Store) -> None:
        """When a master secret is replaced, a token moves to another digest and keeps its id."""
        key = _key()
        store.commit(_new(key))
        store.find([_digest(1)])
        store.commit(_change(key, tokens=(replace(key.tokens[0], digest=_digest(9), secret="other"),)))
        assert store.find([_digest(1)]) is None, "the token is still found by the digest that it had"
        found = store.find([_digest(9), _digest(1)])
        assert found is not None and found.principal.token_id == "tok00001", "the token is not found by its new digest"

    def test_never_takes_text_for_a_digest(self, store: Store) -> None:
        """What is no bytes finds nothing; raising TypeError is best."""
        store.commit(_new(_key(tokens=(_token(digest=b"A" * 32),))))
        for wrong in ("A" * 32, None, 7):
            try:
                assert store.find(cast("list[bytes]", [wrong])) is None, f"a record was found for {wrong!r}"
            except TypeError:
                continue

    # Committing

    @pytest.mark.parametrize(
        "last",
        [
            Batch(workspaces=((_workspace(), None),)),
            Batch(workspaces=((_next(_workspace(), name="x"), 2),)),
            Batch(workspaces=((_next(_workspace(5)), 1),)),
            Batch(keys=((_key(1, tokens=(_token(8),)), None),)),
            Batch(keys=((_next(_key(), name="x"), 2),)),
            Batch(keys=((_next(_key(5)), 1),)),
            Batch(keys=((_next(_key(), workspace=_workspace(2).id), 1),)),
            Batch(keys=((_key(3, workspace=_workspace(5).id), None),)),
            Batch(keys=((_key(3, tokens=(_token(3, id="tok00001"),)), None),)),
            Batch(keys=((_key(3, tokens=(_token(3, digest=_digest(1)),)), None),)),
            Batch(keys=((_key(3, tokens=(_token(3), _token(3))), None),)),
            Batch(keys=((_next(_key(2), tokens=(_token(1),)), 1),)),
            Batch(keys=((_next(_key(2), tokens=(_token(2, digest=_digest(1)),)), 1),)),
            Batch(events=(_event(3),)),
            Batch(events=(_event(5),)),
            Batch(events=(_event(0),)),
            Batch(events=(_event(4), _event(4))),
            Batch(events=(_event(1, workspace=_workspace(5).id),)),
            Batch(properties=(_next(Properties(), profile="x"), 2)),
        ],
        ids=(
            *("workspace that is there", "moved workspace", "missing workspace"),
            *("key that is there", "moved key", "missing key", "key of another workspace", "key of no workspace"),
            *("token id that is there", "digest that is there", "token twice"),
            *("token of another key", "digest of another key"),
            *("event that is there", "event after a gap", "event 0", "event twice", "event of no workspace"),
            "moved properties",
        ),
    )
    def test_writes_all_or_nothing(self, store: Store, last: Batch) -> None:
        """A batch that conflicts anywhere writes nothing, whatever stands before that in it."""
        store.commit(_new(_key(), _key(2)))
        store.commit(Batch(workspaces=((_workspace(2), None),), events=(_event(1), _event(2), _event(3))))
        before = _contents(store)
        batch = Batch(
            workspaces=((_workspace(3), None), *last.workspaces),
            keys=((_key(7), None), *last.keys),
            events=(_event(1, workspace=_workspace(2).id), *last.events),
            properties=last.properties or (_next(Properties(), profile="y"), 1),
        )
        with pytest.raises(Conflict):
            store.commit(batch)
        assert _contents(store) == before, "a batch with a conflict has written something"
        assert store.workspace(_workspace(3).id) is None, "a batch with a conflict has written a workspace"

    def test_writes_the_parts_of_a_batch_in_order(self, store: Store) -> None:
        """A batch may make a workspace, its keys and its events at once, and change a value twice."""
        key = _key()
        batch = _new(key)
        store.commit(
            replace(
                batch,
                workspaces=(*batch.workspaces, (_next(_workspace(), name="x"), 1)),
                keys=(*batch.keys, (_next(key, name="y"), 1)),
                events=(_event(1), _event(2)),
            )
        )
        assert store.workspace(_workspace().id) == _next(_workspace(), name="x")
        assert store.key(key.id) == _next(key, name="y")
        assert len(store.events(_workspace().id)) == 2

    def test_an_empty_batch_changes_nothing(self, store: Store) -> None:
        """Committing nothing is fine."""
        store.commit(_new(_key()))
        before = _contents(store)
        store.commit(Batch())
        assert _contents(store) == before

    def test_keeps_tokens_that_a_batch_leaves_out(self, store: Store) -> None:
        """No token is ever removed: dead ones stay as tombstones. New ones come before those that were there."""
        key = _key(tokens=(_token(2), _token(1)))
        store.commit(_new(key))
        store.commit(_change(key, tokens=(_token(4), _token(3), replace(_token(1), sealed=b"s"))))
        kept = store.key(key.id)
        assert kept is not None
        expected = (_token(4), _token(3), _token(2), _token(1, sealed=b"s"))
        assert kept.tokens == expected, "tokens were lost or moved"

    @pytest.mark.parametrize(
        "wrong",
        [{"permissions": ()}, {"permissions": ("a b",)}, {"networks": ()}, {"networks": ("10.0.0.1/8",)}],
        ids=("no permission", "not a permission", "no network", "not a network"),
    )
    def test_grants_nothing_by_what_means_nothing(self, store: Store, wrong: Any) -> None:
        """Permissions and networks without a meaning are refused when written, or no record is found with them."""
        with suppress(DoorkeyError):
            store.commit(_new(_key(**wrong)))
            found = store.find([_digest(1)])
            assert found is None, "a key was found whose permissions or networks mean nothing"

    # Listing

    def test_lists_by_id(self, store: Store) -> None:
        """Pages go by id in the order of its ASCII bytes, so capitals before small letters; ``after`` is exclusive."""
        letters = ("Z", "a", "B", "0", "_", "aa", "9", "A")
        for letter in letters:
            store.commit(Batch(workspaces=((_workspace(id=f"ws_{letter}"), None),)))
        for number, letter in enumerate(letters):
            key = _key(number, id=f"key_{letter}", workspace="ws_A", mode=Mode.LIVE if number % 2 else Mode.TEST)
            store.commit(Batch(keys=((key, None),)))
        workspaces, keys = (
            [f"ws_{letter}" for letter in sorted(letters)],
            [f"key_{letter}" for letter in sorted(letters)],
        )
        assert [workspace.id for workspace in store.workspaces()] == workspaces
        assert [key.id for key in store.keys("ws_A")] == keys
        for size in (1, 3, 8, 9):
            assert _paged(lambda after: store.workspaces(after=after, limit=size), size) == workspaces  # noqa: B023
            assert _paged(lambda after: store.keys("ws_A", after=after, limit=size), size) == keys  # noqa: B023
        assert [key.id for key in store.keys("ws_A", after="key_A0")] == keys[keys.index("key_B") :]
        assert not store.keys("ws_B"), "the keys of another workspace were listed"

    def test_lists_the_keys_of_a_mode(self, store: Store) -> None:
        """With a mode only its keys are listed, and the limit counts these."""
        modes = (Mode.TEST, Mode.LIVE, Mode.LIVE, Mode.TEST, Mode.LIVE)
        keys = [_key(number, mode=mode) for number, mode in enumerate(modes)]
        store.commit(_new(*keys))
        live = [key for key in keys if key.mode is Mode.LIVE]
        assert list(store.keys(_workspace().id, mode=Mode.LIVE)) == live
        assert list(store.keys(_workspace().id, mode=Mode.LIVE, limit=2)) == live[:2]
        assert list(store.keys(_workspace().id, mode=Mode.LIVE, after=live[0].id, limit=1)) == live[1:2]
        assert list(store.keys(_workspace().id, mode=Mode.TEST)) == [key for key in keys if key not in live]

    def test_counts_keys_not_tokens(self, store: Store) -> None:
        """A page holds as many keys as asked for, each with all its tokens."""
        keys = [_key(n, tokens=(_token(3 * n), _token(3 * n + 1), _token(3 * n + 2))) for n in range(3)]
        store.commit(_new(*keys))
        assert list(store.keys(_workspace().id, limit=2)) == keys[:2]

    def test_lists_events_by_sequence(self, store: Store) -> None:
        """Pages of events go by sequence; ``after`` is exclusive; each workspace has its own."""
        events = [_event(number) for number in range(1, 12)]
        store.commit(Batch(workspaces=((_workspace(), None), (_workspace(2), None)), events=tuple(events)))
        workspace = _workspace().id
        assert list(store.events(workspace)) == events
        assert list(store.events(workspace, limit=4)) == events[:4]
        assert list(store.events(workspace, after=4, limit=4)) == events[4:8]
        assert list(store.events(workspace, after=0)) == events
        assert not store.events(workspace, after=11)
        assert not store.events(_workspace(2).id), "the events of another workspace were listed"

    @pytest.mark.parametrize("limit", [0, -1])
    def test_lists_nothing_without_a_limit_above_0(self, store: Store, limit: int) -> None:
        """A limit of 0, or below, gives an empty page, never all there is."""
        store.commit(_new(_key(), _key(2)))
        store.commit(Batch(workspaces=((_workspace(2), None),), events=(_event(1), _event(2))))
        workspace = _workspace().id
        pages = store.workspaces(limit=limit), store.keys(workspace, limit=limit), store.events(workspace, limit=limit)
        assert not any(pages), "a page has more than its limit"

    @pytest.mark.parametrize("id", _HOSTILE, ids=range(len(_HOSTILE)))
    def test_takes_any_text_for_an_id(self, store: Store, id: str) -> None:
        """Whatever text is asked for, it names a value or it does not; it is never understood as anything else."""
        store.commit(_new(_key()))
        before = _contents(store)
        assert store.workspace(id) is None
        assert store.key(id) is None
        assert not store.keys(id)
        assert not store.events(id)
        store.workspaces(after=id)
        store.keys(_workspace().id, after=id)
        store.record_uses([Use(id, _AT)])
        assert _contents(store) == before, "a text that was asked for has changed something"

    # Uses

    def test_raises_last_used_and_nothing_else(self, store: Store) -> None:
        """Uses are kept by token, only ever raised, and no change for anybody else: no version moves."""
        key = _key(tokens=(_token(2), _token(1)))
        store.commit(_new(key))
        store.record_uses([Use("tok00001", 50), Use("tok00001", 40), Use("tok00009", 60), Use("tok00001", 45)])
        store.record_uses(iter([Use("tok00001", 49)]))
        expected = replace(key, tokens=(_token(2), _token(1, last_used_at=50)))
        assert store.key(key.id) == expected, "uses were recorded otherwise"
        store.record_uses([])

    def test_a_commit_leaves_last_used_alone(self, store: Store) -> None:
        """A change that was made from an older value does not take back a use."""
        key = _key()
        store.commit(_new(key))
        store.record_uses([Use("tok00001", 50)])
        store.commit(_change(key, tokens=(_token(1, sealed=b"s", last_used_at=7),)))
        changed = store.key(key.id)
        assert changed is not None and changed.tokens == (_token(1, sealed=b"s", last_used_at=50),)

    # Read-only, closed

    def test_read_only_refuses_every_change_but_its_end(self, store: Store) -> None:
        """While the operator's flag is set nothing changes; finding goes on; clearing the flag ends it."""
        store.commit(_new(_key()))
        flagged = _next(store.properties(), read_only=True)
        store.commit(Batch(properties=(flagged, flagged.version - 1)))
        before = _contents(store)
        still = _next(flagged, profile="x")
        for batch in (
            _change(_key(), name="x"),
            Batch(events=(_event(1),)),
            Batch(properties=(still, flagged.version)),
        ):
            with pytest.raises(ReadOnlyStore):
                store.commit(batch)
        with suppress(ReadOnlyStore):
            store.record_uses([Use("tok00001", 50)])
        assert _contents(store) == before, "a store that is read-only has changed"
        store.commit(Batch(properties=(_next(flagged, read_only=False), flagged.version)))
        store.commit(_change(_key(), name="x"))

    def test_closing_twice_is_fine(self, store: Store) -> None:
        """Whoever is not sure closes again."""
        store.find([_digest(1)])
        store.close()
        store.close()

    # Several at once

    def test_one_of_two_changes_wins(self, store: Store) -> None:
        """Of two threads that change the same version at once, one lands and the other gets a conflict."""
        store.commit(_new(_key()))
        start = Barrier(2, timeout=30)

        def change(key: Key, name: str) -> bool:
            start.wait()
            try:
                store.commit(_change(key, name=name))
            except Conflict:
                return False
            return True

        with ThreadPoolExecutor(2) as threads:
            for _ in range(20):
                key = store.key(_key().id)
                assert key is not None
                landed = list(threads.map(change, (key, key), ("first", "second")))
                now = store.key(key.id)
                assert sorted(landed) == [False, True], "of two changes of one version, not exactly one landed"
                assert now == _next(key, name="first" if landed[0] else "second"), "the change that landed is not there"

    def test_no_find_sees_a_key_alive_once_it_was_revoked(self, store: Store) -> None:
        """Once the commit that revokes a key has returned, every find that begins later sees it, in every thread."""
        keys = [_key(number) for number in range(60)]
        store.commit(_new(*keys))
        revoked: list[int] = []
        done = ThreadEvent()

        def look() -> list[int]:
            alive, last_round = [], False
            while not last_round:
                last_round = done.is_set()
                for number in tuple(revoked)[-3:]:
                    found = store.find([_digest(number)])
                    if found is None or not found.revoked:
                        alive.append(number)
            return alive

        with ThreadPoolExecutor(3) as threads:
            looking = [threads.submit(look) for _ in range(3)]
            try:
                for number, key in enumerate(keys):
                    store.commit(_change(key, revoked_at=_AT))
                    revoked.append(number)
            finally:
                done.set()
            assert [each.result() for each in looking] == [[], [], []], "a key was seen alive after it was revoked"

    def test_a_token_that_moves_is_always_found(self, store: Store) -> None:
        """While a token moves between two digests, a find that names both never misses it."""
        key = _key()
        store.commit(_new(key))
        done = ThreadEvent()

        def look() -> int:
            missed, last_round = 0, False
            while not last_round:
                last_round = done.is_set()
                missed += store.find([_digest(9), _digest(1)]) is None
            return missed

        with ThreadPoolExecutor(2) as threads:
            looking = [threads.submit(look) for _ in range(2)]
            try:
                for number in (9, 1) * 25:
                    batch = _change(key, tokens=(replace(key.tokens[0], digest=_digest(number)),))
                    store.commit(batch)
                    key = batch.keys[0][0]
            finally:
                done.set()
            assert [each.result() for each in looking] == [0, 0], "a token was not found while its digest changed"


def _paged(page: Callable[[str | None], Sequence[Workspace | Key]], size: int) -> list[str]:
    """The ids of all pages."""
    ids: list[str] = []
    while found := page(ids[-1] if ids else None):
        assert len(found) <= size, "a page has more than its limit"
        ids += (value.id for value in found)
    return ids
