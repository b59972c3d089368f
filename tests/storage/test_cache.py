"""The cache: its bound, its invalidation, its sharing of reads. Interleavings are played step by step, without luck."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import doorkey
from doorkey import testing
from doorkey.core.errors import ConfigurationError, ReadOnlyStore, StoreUnavailable, UnreadableRecord
from doorkey.core.model import Denied, Granted, KeyType, Mode, Principal, Reason, Record, Unavailable
from doorkey.core.profiles import DEFAULT, FALU
from doorkey.core.verify import AsyncLookup, AsyncVerifier, Lookup, Verifier
from doorkey.storage import cache
from doorkey.storage.aio import Inline
from doorkey.storage.cache import AsyncCachedLookup, CachedLookup, changed
from doorkey.storage.protocol import Batch, Key, Properties, StoredToken, Workspace


def digest(number: int) -> bytes:
    return sha256(b"digest %d" % number).digest()


def record(number: int = 1, version: int = 0, workspace: str = "ws_1") -> Record:
    """The record of a token; the version of it stands in its expiry."""
    principal = Principal(workspace, f"key_{number}", f"tok{number:05}", KeyType.SECRET, Mode.TEST)
    return Record(digest(number), principal, expires_at=version)


class Table:
    """A lookup over a dictionary, which counts how often it is asked."""

    def __init__(self, *records: Record) -> None:
        self.records = {each.digest: each for each in records}
        self.asked: list[tuple[bytes, ...]] = []

    def put(self, record: Record) -> None:
        self.records[record.digest] = record

    def find(self, digests: Sequence[bytes]) -> Record | None:
        self.asked.append(tuple(digests))
        return next((self.records[each] for each in digests if each in self.records), None)


class HeldTable(Table):
    """The same, but it answers, with what stood there when it was asked, only when it is let go."""

    def __init__(self, *records: Record) -> None:
        super().__init__(*records)
        self.reading = threading.Semaphore(0)  # one more with each read that has begun
        self.go = threading.Event()
        self.failing: BaseException | None = None

    def find(self, digests: Sequence[bytes]) -> Record | None:
        found, failing = super().find(digests), self.failing
        self.reading.release()
        assert self.go.wait(30)
        if failing is not None:
            raise failing
        return found

    def begun(self) -> None:
        """Wait until another read has begun."""
        assert self.reading.acquire(timeout=30)


class AsyncHeldTable(Table):
    """The same for asyncio: each read waits for its own turn."""

    def __init__(self, *records: Record) -> None:
        super().__init__(*records)
        self.reads: list[tuple[asyncio.Future[Record | None], Record | None]] = []

    async def find(self, digests: Sequence[bytes]) -> Record | None:  # type: ignore[override]
        read: asyncio.Future[Record | None] = asyncio.get_running_loop().create_future()
        self.reads.append((read, super().find(digests)))
        return await read

    def let_go(self, index: int = 0, error: Exception | None = None) -> None:
        """Let a read answer, with what stood there when it was sent."""
        read, found = self.reads.pop(index)
        if not read.done():
            read.set_result(found) if error is None else read.set_exception(error)


async def steps() -> None:
    """Let every task get as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def table() -> Table:
    return Table(record())


@pytest.fixture
def clock() -> testing.Clock:
    return testing.Clock(1000)


# The contracts of lookups


class TestContract(testing.LookupContract):
    """Where every change is followed by an invalidation, a cache cannot be told from what it stands before."""

    @pytest.fixture
    def records(self) -> Table:
        return Table()

    @pytest.fixture
    def lookup(self, records: Table) -> CachedLookup:
        return CachedLookup(records, unknown_age=1)

    @pytest.fixture
    def plant(self, records: Table, lookup: CachedLookup) -> testing.Plant:
        def plant(planted: testing.Planted) -> None:
            records.put(planted.record)
            lookup.invalidate(planted.token_id)

        return plant


class TestAsyncContract(testing.AsyncLookupContract):
    """The same for asyncio."""

    @pytest.fixture
    def records(self) -> Table:
        return Table()

    @pytest.fixture
    def lookup(self, records: Table) -> AsyncCachedLookup:
        return AsyncCachedLookup(Inline(records), unknown_age=1)

    @pytest.fixture
    def plant(self, records: Table, lookup: AsyncCachedLookup) -> testing.Plant:
        def plant(planted: testing.Planted) -> None:
            records.put(planted.record)
            lookup.invalidate([planted.token_id])

        return plant


# The bound


@pytest.mark.parametrize("max_age", [5.0, 0.5])
def test_is_read_again_when_it_is_too_old(table: Table, clock: testing.Clock, max_age: float) -> None:
    """Before the bound the kept record is the answer, from its very moment on it is not, whatever was announced."""
    cached = CachedLookup(table, max_age=max_age, clock=clock)
    assert cached.find([digest(1)]) == record()
    table.put(record(version=1))
    clock.advance(max_age - 0.001)
    assert cached.find([digest(1)]) == record()
    clock.advance(0.001)
    assert cached.find([digest(1)]) == record(version=1)
    assert len(table.asked) == 2


def test_age_counts_from_before_the_read(clock: testing.Clock) -> None:
    """A read that took four seconds leaves one of five; one that took longer than the bound leaves nothing."""

    class Slow(Table):
        def find(self, digests: Sequence[bytes]) -> Record | None:
            found = super().find(digests)
            clock.advance(self.seconds)
            return found

        seconds = 4.0

    slow = Slow(record())
    cached = CachedLookup(slow, clock=clock)
    cached.find([digest(1)])
    slow.put(record(version=1))
    clock.advance(0.999)
    assert cached.find([digest(1)]) == record()
    clock.advance(0.001)
    slow.seconds = 5.0
    assert cached.find([digest(1)]) == record(version=1)
    slow.put(record(version=2))
    assert cached.find([digest(1)]) == record(version=2)


def test_the_clock_neither_steps_nor_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ages are counted by CLOCK_BOOTTIME where there is one, else by what is next best, never by the time of day."""
    assert isinstance(cache.steady, partial)
    if sys.platform == "linux":
        assert cache.steady.args == (time.CLOCK_BOOTTIME,)
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    assert cast("partial[float]", cache._steady_clock()).args == (time.CLOCK_MONOTONIC,)
    monkeypatch.delattr(time, "CLOCK_MONOTONIC")
    assert cache._steady_clock() is time.monotonic
    assert cache.steady() <= cache.steady()


@pytest.mark.parametrize(
    "arguments",
    [
        *({"max_age": age} for age in (0, -1.0, 5.001, float("nan"), float("inf"))),
        *({"unknown_age": age} for age in (-0.1, 1.001, float("nan"))),
        *({"size": size} for size in (0, -1)),
    ],
)
def test_bounds_are_refused_when_built(table: Table, arguments: dict[str, Any]) -> None:
    """No configuration makes a bound longer than 5 s, or 1 s for unknown tokens."""
    with pytest.raises(ConfigurationError, match="a cache"):
        CachedLookup(table, **arguments)


def test_the_other_kind_of_lookup_is_refused(table: Table) -> None:
    """A coroutine would be taken for an answer."""
    with pytest.raises(ConfigurationError, match="AsyncCachedLookup"):
        CachedLookup(cast(Lookup, Inline(table)))
    with pytest.raises(ConfigurationError, match="AsyncCachedLookup"):
        AsyncCachedLookup(cast(AsyncLookup, table))


def test_a_verifier_refuses_what_is_staler_than_its_profile(table: Table) -> None:
    """Bounds add up, that of a standby or of another cache included; FALU admits no cache at all."""
    digester = testing.door().secrets.digester()
    near = CachedLookup(table, max_age=3)
    assert near.max_age == 3
    Verifier(near, digester, DEFAULT)
    with pytest.raises(ConfigurationError, match="lower its max_age"):
        Verifier(near, digester, FALU)
    far = CachedLookup(near, max_age=2.5)
    assert far.max_age == 5.5
    with pytest.raises(ConfigurationError, match="lower its max_age"):
        Verifier(far, digester, DEFAULT)
    with pytest.raises(ConfigurationError, match="lower its max_age"):
        AsyncVerifier(AsyncCachedLookup(Inline(table), max_age=0.1), digester, FALU)


# What is kept


def test_hits_ask_nobody(table: Table) -> None:
    """As long as the record is fresh, the very same one is returned, under whichever of the digests it was found."""
    cached = CachedLookup(table)
    found = cached.find([digest(9), digest(1)])
    assert found == record()
    for digests in ([digest(1)], [digest(9), digest(1)], (digest(1), digest(8))):
        assert cached.find(digests) is found
    assert len(table.asked) == 1


def test_whole_digests_are_the_key(table: Table) -> None:
    """A digest that shares all but its last byte with a kept one is another token's."""
    near = digest(1)[:-1] + bytes([digest(1)[-1] ^ 1])
    cached = CachedLookup(table)
    cached.find([digest(1)])
    for other in (near, digest(1)[:-1], digest(1) + b"\0"):
        assert cached.find([other]) is None
    table.put(record()._replace(digest=near, revoked=True))
    assert cached.find([near]) == record()._replace(digest=near, revoked=True)
    assert cached.find([digest(1)]) == record()


def test_a_record_in_a_wrong_place_is_no_hit(table: Table) -> None:
    """The digest of a kept record is compared again: one that came into another's place is read anew."""
    cached = CachedLookup(table)
    cached.find([digest(1)])
    until, _ = cached._entries[digest(1)]
    cached._entries[digest(1)] = until, record(2)
    assert cached.find([digest(1)]) == record()


@pytest.mark.parametrize("odd", [record(2), record()._replace(digest=cast(bytes, bytearray(digest(2)))), "text", 7])
def test_what_is_no_record_of_the_token_is_not_kept(odd: Any) -> None:
    """It is passed on, for the verifier to refuse, and the next find reads again."""
    answers = iter([odd, record()])
    lookup = Table()
    lookup.find = lambda digests: next(answers)  # type: ignore[method-assign]
    cached = CachedLookup(lookup)
    assert cached.find([digest(1)]) == odd
    assert cached.find([digest(1)]) == record()


def test_a_corrupt_hit_grants_nothing() -> None:
    """A verifier over a cache judges what it gets from it as it would judge the store's own answer."""
    door = testing.door()
    token, other = testing.issue(door), testing.issue(door)
    digester = door.secrets.digester()
    cached = CachedLookup(door.store)
    verifier = Verifier(cached, digester)
    assert isinstance(verifier.verify(testing.basic(token), requires=()), Granted)
    mine, others = digester.digests(token)[0], digester.digests(other)[0]
    until, kept = cached._entries[mine]
    stranger = cast(Record, door.store.find([others]))
    cached._entries[mine] = until, stranger._replace(digest=mine)
    assert isinstance(verifier.verify(testing.basic(token), requires=()), Unavailable)
    cached._entries[mine] = until, stranger
    assert verifier.verify(testing.basic(token), requires=()) == Granted(kept.principal)


def test_memory_has_a_bound() -> None:
    """Of more tokens than fit, those read first are forgotten; nothing else is left of them."""
    table = Table(*(record(number, workspace=f"ws_{number}") for number in range(50)))
    cached = CachedLookup(table, size=10, unknown_age=1)
    for number in (*range(30), *range(100, 130), *range(25, 50)):
        cached.find([digest(number)])
    assert [each for each in cached._entries] == [digest(number) for number in range(40, 50)]
    assert len(cached._named) == 20
    assert len(cached._unknown) == 10
    assert not cached._loads
    asked = len(table.asked)
    for number in range(40, 50):
        cached.find([digest(number)])
    assert len(table.asked) == asked
    cached.find([digest(39)])
    assert len(table.asked) == asked + 1


def test_a_record_read_again_is_young_again(clock: testing.Clock) -> None:
    """What was read again is the last to make room."""
    table = Table(*map(record, range(4)))
    cached = CachedLookup(table, max_age=1, size=3, clock=clock)
    for number in (0, 1, 2):
        cached.find([digest(number)])
    clock.advance(1)
    cached.find([digest(0)])
    cached.find([digest(3)])
    assert [*cached._entries] == [digest(2), digest(0), digest(3)]


# Invalidation


def test_invalidating_is_by_token_and_by_workspace(table: Table) -> None:
    """What is named is read again at once, all else stays; unknown ids do nothing."""
    for number in (2, 3, 4):
        table.put(record(number, workspace=f"ws_{number // 3}"))
    cached = CachedLookup(table)

    def read_again() -> Iterable[int]:
        table.asked.clear()
        for number in (1, 2, 3, 4):
            cached.find([digest(number)])
        return [number for number in (1, 2, 3, 4) if (digest(number),) in table.asked]

    assert read_again() == [1, 2, 3, 4]
    cached.invalidate(["tok00002", "tok00009", "", "ws_9"])
    assert read_again() == [2]
    cached.invalidate("tok00001")
    assert read_again() == [1]
    cached.invalidate(["ws_1"])
    assert read_again() == [1, 3, 4]
    cached.invalidate([])
    assert read_again() == []
    cached.invalidate_all()
    assert read_again() == [1, 2, 3, 4]


def test_a_token_under_two_digests_is_forgotten_under_both(table: Table) -> None:
    """While a token moves to another master secret, a cache may know it twice."""
    cached = CachedLookup(table)
    cached.find([digest(1)])
    table.put(record()._replace(digest=digest(9)))
    cached.find([digest(9)])
    cached.invalidate(["tok00001"])
    assert not cached._entries and not cached._named


def test_a_token_named_like_its_workspace(table: Table) -> None:
    """Ids that are equal by chance are no trouble."""
    table.put(record(workspace="tok00001"))
    cached = CachedLookup(table, size=1)
    cached.find([digest(1)])
    cached.invalidate(["tok00001"])
    assert not cached._entries and not cached._named


def test_what_a_batch_changes() -> None:
    """Each token of a written key; each workspace that was not just written along with a key of it."""
    tokens = tuple(StoredToken(f"tok{number:05}", digest(number), "fingerprint", 1) for number in (1, 2))
    key = Key("key_1", "ws_1", KeyType.SECRET, Mode.TEST, "reports", 1, tokens)
    one, two = Workspace("ws_1", "Acme", 1), Workspace("ws_2", "Other", 1)
    assert changed(Batch()) == []
    assert changed(Batch(properties=(Properties(), 1))) == []
    assert changed(Batch(workspaces=((one, 1),), keys=((key, 1),))) == ["tok00001", "tok00002"]
    assert changed(Batch(workspaces=((one, 1), (two, None)))) == ["ws_1", "ws_2"]
    assert changed(Batch(workspaces=((one, 1), (two, 1)), keys=((key, 1),))) == ["tok00001", "tok00002", "ws_2"]


def test_a_committed_batch_is_forgotten(table: Table) -> None:
    """Told of a commit, a cache forgets what it changed, and no more."""
    table.put(record(2))
    cached = CachedLookup(table)
    cached.find([digest(1)])
    cached.find([digest(2)])
    key = Key("key_1", "ws_1", KeyType.SECRET, Mode.TEST, "x", 1, (StoredToken("tok00001", digest(1), "f", 1),))
    cached.committed(Batch(workspaces=((Workspace("ws_1", "Acme", 1), 1),), keys=((key, 1),)))
    assert [*cached._entries] == [digest(2)]


# A change that races with a read (F4)


@contextmanager
def asking(cached: CachedLookup, *digests: bytes, times: int = 1) -> Iterator[list[Future[Record | None]]]:
    """Ask in threads of their own, while the context lasts and beyond."""
    with ThreadPoolExecutor(times) as threads:
        yield [threads.submit(cached.find, digests) for _ in range(times)]


@pytest.mark.parametrize("told", [lambda cached: cached.invalidate(["tok00001"]), CachedLookup.invalidate_all])
def test_a_read_that_a_change_overtook_is_not_kept(told: Callable[[CachedLookup], None]) -> None:
    """Read the old, revoke, write the cache: the old record is told to whoever asked before, and to nobody after."""
    table = HeldTable(record())
    cached = CachedLookup(table)
    with asking(cached, digest(1)) as (first,):
        table.begun()
        table.put(record(version=1))
        told(cached)
        table.go.set()
        assert first.result(30) == record()
        assert cached.find([digest(1)]) == record(version=1)
    assert cached.find([digest(1)]) == record(version=1)
    assert len(table.asked) == 2


def test_nobody_joins_a_read_that_a_change_overtook() -> None:
    """Who asks after the invalidation sends a read of their own, though the old one is still under way."""
    table = HeldTable(record())
    cached = CachedLookup(table)
    with asking(cached, digest(1)) as (first,):
        table.begun()
        table.put(record(version=1))
        cached.invalidate(["tok00001"])
        with asking(cached, digest(1), times=3) as later:
            table.begun()
            table.go.set()
            assert [each.result(30) for each in later] == [record(version=1)] * 3
        assert first.result(30) == record()
    assert len(table.asked) == 2
    assert cached.find([digest(1)]) == record(version=1)


def test_a_read_that_nobody_told_of_a_change_keeps_the_bound(clock: testing.Clock) -> None:
    """With the message lost, the old record lives for the bound, counted from before the read, and no longer."""
    table = HeldTable(record())
    cached = CachedLookup(table, max_age=2, clock=clock)
    with asking(cached, digest(1)) as (first,):
        table.begun()
        table.put(record(version=1))
        clock.advance(1.5)
        table.go.set()
        assert first.result(30) == record()
    assert cached.find([digest(1)]) == record()
    clock.advance(0.5)
    assert cached.find([digest(1)]) == record(version=1)


def test_a_read_older_than_the_bound_is_not_joined(clock: testing.Clock) -> None:
    """Whoever asks when a read has hung for the whole bound sends another, which is the one that is kept."""
    table = HeldTable(record())
    cached = CachedLookup(table, max_age=2, clock=clock)
    with asking(cached, digest(1)) as (first,):
        table.begun()
        clock.advance(2)
        table.put(record(version=1))
        with asking(cached, digest(1)) as (second,):
            table.begun()
            table.go.set()
            assert second.result(30) == record(version=1)
        assert first.result(30) == record()
    assert cached.find([digest(1)]) == record(version=1)
    assert len(table.asked) == 2


# One read at a time


def waiting(threads: int) -> None:
    """Wait until so many threads wait for the read of another."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        gc.disable()  # which could run in the midst of that, and wait for its lock for ever (CPython's gh-106883)
        frames = sys._current_frames().values()
        gc.enable()
        names = Counter(frame.f_back.f_back.f_code.co_name for frame in frames if frame.f_back and frame.f_back.f_back)
        if names["_read"] >= threads:
            return
        time.sleep(0.01)
    raise AssertionError("the threads do not wait")


def test_a_herd_sends_one_read() -> None:
    """200 threads that ask for one token at once are answered by one read."""
    table = HeldTable(record())
    cached = CachedLookup(table)
    with asking(cached, digest(1), times=200) as herd:
        waiting(199)
        table.go.set()
        answers = [each.result(30) for each in herd]
    assert len(table.asked) == 1
    assert all(answer is table.records[digest(1)] for answer in answers)


def test_reads_of_different_tokens_do_not_wait_for_each_other() -> None:
    """A token that is slow to be found holds up nobody else."""
    table = HeldTable(record())
    cached = CachedLookup(table)
    with asking(cached, digest(1)) as (slow,):
        table.begun()
        with asking(cached, digest(2)) as (other,):
            table.begun()
            assert not slow.done() and not other.done()
            table.go.set()
            assert other.result(30) is None
        assert slow.result(30) == record()


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (StoreUnavailable("the store is down"), StoreUnavailable, "the store is down"),
        (UnreadableRecord("the row is odd"), UnreadableRecord, "the row is odd"),
        (ReadOnlyStore("odd"), StoreUnavailable, "odd"),
        (ValueError("a driver's text"), StoreUnavailable, "another request's find raised ValueError"),
    ],
)
def test_a_read_that_fails_fails_for_all(error: Exception, kind: type[Exception], text: str) -> None:
    """One failure, one read: each who waited gets an exception of their own, and the next find reads again."""
    table = HeldTable(record())
    table.failing = error
    cached = CachedLookup(table)
    with asking(cached, digest(1), times=5) as herd:
        waiting(4)
        table.go.set()
        raised = [each.exception(30) for each in herd]
    assert len(table.asked) == 1
    others = [each for each in raised if each is not error]
    assert len(others) == len({id(each) for each in others}) == 4
    assert {(type(each), str(each)) for each in others} == {(kind, text)}
    table.failing = None
    assert cached.find([digest(1)]) == record()


def test_a_read_that_was_broken_off_is_sent_again_by_another() -> None:
    """An interrupt is for the thread that it hits: who waited for its read sends one in its place."""
    table = HeldTable(record())
    table.failing = KeyboardInterrupt()
    cached = CachedLookup(table)
    with asking(cached, digest(1), times=5) as herd:
        waiting(4)
        table.failing = None
        table.go.set()
        raised = [each.exception(30) for each in herd]
        answers = [each.result(30) for each, error in zip(herd, raised, strict=True) if error is None]
    assert [type(each) for each in raised if each] == [KeyboardInterrupt]
    assert answers == [record()] * 4
    assert len(table.asked) == 2


# Unknown tokens (F7)


def test_an_unknown_token_is_not_kept(table: Table) -> None:
    """Without being asked for it, nothing remembers that a token was not there: made, it is found at once."""
    cached = CachedLookup(table)
    assert cached.find([digest(2)]) is None
    table.put(record(2))
    assert cached.find([digest(2)]) == record(2)


def test_an_unknown_token_is_not_told_to_who_asked_later() -> None:
    """The token may have been made while the read was under way: who came after it was sent waits for another."""
    table = HeldTable()
    cached = CachedLookup(table)
    with asking(cached, digest(1)) as (first,):
        table.begun()
        table.put(record())
        with asking(cached, digest(1), times=20) as herd:
            waiting(20)
            table.go.set()
            assert [each.result(30) for each in herd] == [record()] * 20
        assert first.result(30) is None
    assert len(table.asked) == 2  # because what the second found is kept


def test_unknown_tokens_are_kept_if_asked_for(table: Table, clock: testing.Clock) -> None:
    """Then for as long as was said, by all digests of the token together, and never longer than to the next change."""
    cached = CachedLookup(table, unknown_age=0.5, clock=clock)
    for _ in range(2):
        assert cached.find([digest(2), digest(3)]) is None
    assert len(table.asked) == 1
    assert cached.find([digest(2)]) is None
    assert len(table.asked) == 2
    table.put(record(2))
    clock.advance(0.499)
    assert cached.find([digest(2)]) is None
    clock.advance(0.001)
    assert cached.find([digest(2)]) == record(2)


@pytest.mark.parametrize("told", [lambda cached: cached.invalidate(["tok00002"]), CachedLookup.invalidate_all])
def test_making_a_token_ends_its_being_unknown(table: Table, told: Callable[[CachedLookup], None]) -> None:
    """Whatever is invalidated may be a token that was just made, so nothing is taken for unknown any more."""
    cached = CachedLookup(table, unknown_age=1)
    assert cached.find([digest(2)]) is None
    table.put(record(2))
    told(cached)
    assert cached.find([digest(2)]) == record(2)


def test_a_kept_unknown_answers_those_who_waited(clock: testing.Clock) -> None:
    """With unknown tokens kept, those who waited for the read take its answer as a find that begins then would."""
    table = HeldTable()
    cached = CachedLookup(table, unknown_age=1, clock=clock)
    with asking(cached, digest(1), times=10) as herd:
        waiting(9)
        table.go.set()
        assert [each.result(30) for each in herd] == [None] * 10
    assert len(table.asked) == 1


# asyncio


def test_a_herd_of_tasks_sends_one_read() -> None:
    """200 tasks that ask for one token at once are answered by one read."""

    async def main() -> None:
        table = AsyncHeldTable(record())
        cached = AsyncCachedLookup(table)
        herd = [asyncio.ensure_future(cached.find([digest(1)])) for _ in range(200)]
        await steps()
        table.let_go()
        assert await asyncio.gather(*herd) == [record()] * 200
        assert await cached.find([digest(1)]) == record()
        assert len(table.asked) == 1

    asyncio.run(main())


def test_cancelling_who_leads_harms_nobody_else() -> None:
    """The read of a task that is cancelled is broken off; one of those who waited sends another for all, each time."""

    async def main() -> None:
        table = AsyncHeldTable(record())
        cached = AsyncCachedLookup(table)
        herd = [asyncio.ensure_future(cached.find([digest(1)])) for _ in range(10)]
        await steps()
        for turn in (1, 2, 3):
            herd.pop(0).cancel()
            await steps()
            assert not any(each.done() for each in herd)
            assert len(table.asked) == turn + 1
        table.let_go(3)
        assert await asyncio.gather(*herd) == [record()] * 7
        assert len(table.asked) == 4

    asyncio.run(main())


def test_cancelling_who_waits_harms_nobody_else() -> None:
    """The read goes on for the others."""

    async def main() -> None:
        table = AsyncHeldTable(record())
        cached = AsyncCachedLookup(table)
        leader, gone, other = [asyncio.ensure_future(cached.find([digest(1)])) for _ in range(3)]
        await steps()
        gone.cancel()
        await steps()
        assert gone.cancelled() and not leader.done() and not other.done()
        table.let_go()
        assert [*await asyncio.gather(leader, other)] == [record()] * 2
        assert len(table.asked) == 1

    asyncio.run(main())


def test_a_read_that_fails_fails_for_all_tasks() -> None:
    """And is not kept."""

    async def main() -> None:
        table = AsyncHeldTable(record())
        cached = AsyncCachedLookup(table)
        herd = [asyncio.ensure_future(cached.find([digest(1)])) for _ in range(5)]
        await steps()
        table.let_go(error=StoreUnavailable("down"))
        raised = await asyncio.gather(*herd, return_exceptions=True)
        assert {(type(each), str(each)) for each in raised} == {(StoreUnavailable, "down")}
        again = asyncio.ensure_future(cached.find([digest(1)]))
        await steps()
        table.let_go()
        assert await again == record()

    asyncio.run(main())


def test_an_unknown_token_is_not_told_to_a_task_that_asked_later() -> None:
    """However many tasks wait with a token that may have been made meanwhile: they need one read more, not one each."""

    async def main() -> None:
        table = AsyncHeldTable()
        cached = AsyncCachedLookup(table)
        first = asyncio.ensure_future(cached.find([digest(1)]))
        await steps()
        table.put(record())
        herd = [asyncio.ensure_future(cached.find([digest(1)])) for _ in range(100)]
        await steps()
        table.let_go()
        await steps()
        table.let_go()
        assert await first is None
        assert await asyncio.gather(*herd) == [record()] * 100
        assert len(table.asked) == 2

    asyncio.run(main())


def test_invalidation_reaches_a_loop_from_another_thread() -> None:
    """A listener's thread makes a task's read not be kept."""

    async def main() -> None:
        table = AsyncHeldTable(record())
        cached = AsyncCachedLookup(table)
        first = asyncio.ensure_future(cached.find([digest(1)]))
        await steps()
        table.put(record(version=1))
        await asyncio.to_thread(cached.invalidate, ["tok00001"])
        later = asyncio.ensure_future(cached.find([digest(1)]))
        await steps()
        table.let_go(1)
        table.let_go(0)
        assert await first == record()
        assert await later == record(version=1)
        assert await cached.find([digest(1)]) == record(version=1)

    asyncio.run(main())


def test_event_loops_share_records_but_wait_for_themselves() -> None:
    """A task never waits for a read on another event loop, which could not wake it; what that found serves all."""
    table = AsyncHeldTable(record())
    cached = AsyncCachedLookup(table)
    with asyncio.Runner() as one, asyncio.Runner() as other:

        async def begin() -> asyncio.Future[Record | None]:
            asked = asyncio.ensure_future(cached.find([digest(1)]))
            await steps()
            return asked

        async def finish(asked: asyncio.Future[Record | None]) -> Record | None:
            table.let_go()
            return await asked

        first, second = one.run(begin()), other.run(begin())
        assert len(table.asked) == 2
        assert one.run(finish(first)) == record()
        assert other.run(cached.find([digest(1)])) == record()
        assert other.run(finish(second)) == record()
    assert len(table.asked) == 2


# A model that is told what happens, step by step


class Asked(NamedTuple):
    """A find that began at this step and time."""

    task: asyncio.Task[Record | None]
    number: int
    step: int
    time: float


class Versions(RuleBasedStateMachine):
    """
    Reads, changes, messages that come or are lost, failures, cancellations and time, in any order.

    The truth: what a find returns was stored at some moment that is neither before the bound, nor before the last
    invalidation that it was told of before it began.
    """

    MAX_AGE, UNKNOWN_AGE = 3.0, 0.0
    TOKENS = st.integers(0, 3)

    def __init__(self) -> None:
        super().__init__()
        self.clock = testing.Clock(0)
        self.table = AsyncHeldTable()
        self.cached = AsyncCachedLookup(
            self.table, max_age=self.MAX_AGE, size=3, unknown_age=self.UNKNOWN_AGE, clock=self.clock
        )
        self.runner = asyncio.Runner()
        self.steps = count(1)
        self.asked: list[Asked] = []
        self.version = {number: 0 for number in range(4)}  # 0 is not made
        self.replaced: dict[tuple[int, int], tuple[int, float]] = {}  # when a version was: step and time
        self.told = {number: 0 for number in range(4)}  # the step of the last invalidation
        self.told_of_any = 0

    def teardown(self) -> None:
        while self.asked:
            for _ in tuple(self.table.reads):
                self.table.let_go()
            self.go_on()
        self.runner.close()

    def go_on(self) -> None:
        """Let the tasks get on, and judge those that are done."""
        self.runner.run(steps())
        for asked in [asked for asked in self.asked if asked.task.done()]:
            self.asked.remove(asked)
            if asked.task.cancelled():
                continue
            if asked.task.exception() is not None:
                assert isinstance(asked.task.exception(), StoreUnavailable)
                continue
            self.judge(asked, asked.task.result())

    def judge(self, asked: Asked, found: Record | None) -> None:
        assert found is None or found.digest == digest(asked.number)
        version = 0 if found is None else cast(int, found.expires_at)
        if (asked.number, version) not in self.replaced:
            return
        step, when = self.replaced[asked.number, version]
        if step > asked.step:
            return
        bound, told = (self.UNKNOWN_AGE, self.told_of_any) if found is None else (self.MAX_AGE, self.told[asked.number])
        assert when > asked.time - bound, "an answer is older than the bound"
        assert not step < told < asked.step, "an answer is older than an invalidation"

    @rule(number=TOKENS)
    def ask(self, number: int) -> None:
        async def begin() -> asyncio.Task[Record | None]:
            return asyncio.ensure_future(self.cached.find([digest(100 + number), digest(number)]))

        self.asked.append(Asked(self.runner.run(begin()), number, next(self.steps), self.clock.now))
        self.go_on()

    @precondition(lambda self: self.table.reads)
    @rule(data=st.data(), fails=st.sampled_from([False, False, False, True]))
    def answer(self, data: st.DataObject, fails: bool) -> None:
        index = data.draw(st.integers(0, len(self.table.reads) - 1))
        self.table.let_go(index, StoreUnavailable("down") if fails else None)
        self.go_on()

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.asked)).task.cancel()
        self.go_on()

    @rule(number=TOKENS, how=st.sampled_from(["token", "workspace", "all", "lost", "lost"]))
    def change(self, number: int, how: str) -> None:
        self.replaced[number, self.version[number]] = next(self.steps), self.clock.now
        self.version[number] += 1
        self.table.put(record(number, self.version[number], workspace=f"ws_{number % 2}"))
        self.tell(number, how)

    @rule(number=TOKENS, how=st.sampled_from(["token", "workspace", "all"]))
    def tell(self, number: int, how: str) -> None:
        """Also late, or for nothing."""
        if how == "lost":
            return
        step = self.told_of_any = next(self.steps)
        if how == "all":
            self.cached.invalidate_all()
            self.told = dict.fromkeys(self.told, step)
        elif how == "workspace":
            self.cached.invalidate([f"ws_{number % 2}"])
            self.told.update({other: step for other in self.told if other % 2 == number % 2})
        else:
            self.cached.invalidate([f"tok{number:05}"])
            self.told[number] = step

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 2.5, 3.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def keeps_its_books(self) -> None:
        cached = self.cached
        assert len(cached._entries) <= 3 and len(cached._unknown) <= 3
        names: dict[str, set[bytes]] = {}
        for key, (_, kept) in cached._entries.items():
            assert kept.digest == key
            for name in (kept.principal.token_id, kept.principal.workspace):
                names.setdefault(name, set()).add(key)
        assert cached._named == names


class VersionsWithUnknown(Versions):
    """The same with unknown tokens kept."""

    UNKNOWN_AGE = 0.75


TestVersions = Versions.TestCase
TestVersionsWithUnknown = VersionsWithUnknown.TestCase
TestVersions.settings = settings(max_examples=60, stateful_step_count=40)
TestVersionsWithUnknown.settings = TestVersions.settings


# Whole, with real clocks


def test_no_thread_sees_what_was_invalidated() -> None:
    """Once an invalidation is over, threads that find while others change never see what stood before it."""
    table = Table(*map(record, range(4)))
    cached = CachedLookup(table, size=3)
    acknowledged = dict.fromkeys(range(4), 0)
    done = threading.Event()

    def look() -> list[str]:
        wrong: list[str] = []
        for turn in count():
            if done.is_set():
                return wrong
            number = turn % 4
            least = acknowledged[number]
            found = cached.find([digest(number)])
            if found is None or cast(int, found.expires_at) < least:
                wrong.append(f"{found} is older than version {least}")
        return wrong

    with ThreadPoolExecutor(4) as threads:
        looking = [threads.submit(look) for _ in range(4)]
        try:
            deadline = time.monotonic() + 0.7
            for version in count(1):
                if time.monotonic() > deadline:
                    break
                number = version % 4
                table.put(record(number, version))
                cached.invalidate([f"tok{number:05}"])
                acknowledged[number] = version
                time.sleep(0)
        finally:
            done.set()
        assert [each.result(30) for each in looking] == [[]] * 4


def test_with_every_message_lost_the_bound_holds() -> None:
    """A revoked key is granted for the bound at most, from when its revocation returned, without any message (F3)."""
    door = testing.door()
    bound = 0.2
    verifier = Verifier(CachedLookup(door.store, max_age=bound), door.secrets.digester())
    tokens = [testing.issue(door) for _ in range(8)]
    ring = door.keyring.acting("test")
    revoked: dict[int, float] = {}
    longest = [0.0]
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            for index, token in enumerate(tokens):
                ended, began = revoked.get(index), time.monotonic()
                if isinstance(verifier.verify(testing.basic(token)), Granted) and ended is not None:
                    longest.append(began - ended)

    with ThreadPoolExecutor(2) as threads:
        looking = [threads.submit(look) for _ in range(2)]
        try:
            for index, token in enumerate(tokens):
                principal = cast(Granted, verifier.verify(testing.basic(token))).principal
                time.sleep(0.03)
                ring.revoke(principal.key, because="test")
                revoked[index] = time.monotonic()
            time.sleep(bound + 0.1)
        finally:
            done.set()
        for each in looking:
            each.result(30)
    assert 0 < max(longest) <= bound + 0.05


def test_a_local_change_is_seen_at_once() -> None:
    """The keyring of this process tells the cache of each commit: once a verb has returned, it holds for every find."""
    plain = testing.door()
    cached = CachedLookup(plain.store)
    door = replace(plain, verifier=Verifier(cached, plain.secrets.digester()))
    ring = type(plain.keyring)(plain.store, plain.secrets, clock=testing.Clock(), on_commit=cached.committed)
    ring = ring.acting("test")
    token = testing.issue(door)
    header = testing.basic(token)
    granted = door.verifier.verify(header)
    assert isinstance(granted, Granted)
    key, workspace = granted.principal.key, granted.principal.workspace
    ring.suspend(workspace)
    assert cast(Denied, door.verifier.verify(header)).reason is Reason.WORKSPACE_SUSPENDED
    ring.resume(workspace)
    assert door.verifier.verify(header) == granted
    ring.restrict(key, permissions=["messages"])
    assert cast(Denied, door.verifier.verify(header)).reason is Reason.PERMISSIONS
    ring.revoke(key, because="test")
    assert cast(Denied, door.verifier.verify(header)).reason is Reason.REVOKED


# Processes

ASKING = """
import sys
import doorkey
from doorkey.core.verify import Verifier
from doorkey.storage.cache import CachedLookup

url, secret, header = (sys.stdin.readline().strip() for _ in range(3))
door = doorkey.open(url, secret=secret)
verifier = Verifier(CachedLookup(door.store, max_age=1.0), door.secrets.digester())
while True:
    print(type(verifier.verify(header)).__name__, flush=True)
    if not sys.stdin.readline():
        break
"""


def test_a_process_that_was_suspended_grants_nothing_old(tmp_path: Path) -> None:
    """Stopped within the bound and woken after it, a process reads before its first grant (F8)."""
    secret = b64encode(os.urandom(32)).decode()
    url = f"sqlite:///{tmp_path}/keys.db"
    with closing(doorkey.create(url, secret=secret)) as door:
        header = testing.basic(testing.issue(door))
        granted = door.verifier.verify(header)
        assert isinstance(granted, Granted)
        command = [sys.executable, "-c", ASKING]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
            assert process.stdin and process.stdout
            process.stdin.write(f"{url}\n{secret}\n{header}\n")
            assert process.stdout.readline() == "Granted\n"
            process.send_signal(signal.SIGSTOP)
            door.keyring.acting("test").revoke(granted.principal.key, because="test")
            time.sleep(1.1)
            process.stdin.write("again\n")
            process.send_signal(signal.SIGCONT)
            assert process.stdout.readline() == "Denied\n"
            process.stdin.close()


def test_a_child_begins_empty() -> None:
    """A fork while a thread reads, or holds the lock, leaves the child a cache that works."""
    table = HeldTable(record())
    cached = CachedLookup(table)
    with asking(cached, digest(1)) as (first,):
        table.begun()
        with cached._lock, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads should not fork
            pid = os.fork()
            if not pid:
                signal.alarm(30)
                table.go.set()
                os._exit(cached.find([digest(1)]) != record())
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        table.go.set()
        assert first.result(30) == record()
    assert cached._entries
    cache._after_fork_in_child()
    assert not cached._entries
    assert cached.find([digest(1)]) == record()


def test_nobody_keeps_a_cache_alive(table: Table) -> None:
    """A cache that nobody uses any more goes, with all that it holds."""
    cached = CachedLookup(table)
    cached.find([digest(1)])
    held = len(cache._caches)
    del cached
    gc.collect()
    assert len(cache._caches) < held
