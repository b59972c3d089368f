"""Lookups for asyncio: on the loop, and in threads that are never more than they should be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from threading import Event, current_thread

import pytest

from doorkey.core.errors import ConfigurationError, StoreUnavailable, UnreadableRecord
from doorkey.core.model import KeyType, Mode, Principal, Record
from doorkey.core.profiles import FALU
from doorkey.core.verify import AsyncVerifier
from doorkey.management.secrets import MasterSecrets
from doorkey.storage.aio import Inline, Threaded
from doorkey.storage.memory import MemoryStore

DIGEST = bytes(32)
RECORD = Record(DIGEST, Principal("ws_1", "key_1", "muTFmv6k", KeyType.SECRET, Mode.TEST))


class SlowLookup:
    """Answers when it is allowed to, and remembers who asked."""

    def __init__(self) -> None:
        self.allowed = Event()
        self.allowed.set()
        self.threads: list[str] = []

    def find(self, digests: Sequence[bytes]) -> Record | None:
        self.threads.append(current_thread().name)
        assert self.allowed.wait(30)
        if not digests:
            raise UnreadableRecord("odd")
        return RECORD if DIGEST in digests else None


@pytest.fixture
def lookup() -> Iterator[SlowLookup]:
    """A lookup that answers at once, unless a test tells it otherwise; at the end it lets every thread go."""
    lookup = SlowLookup()
    yield lookup
    lookup.allowed.set()


def test_inline_asks_on_the_loop(lookup: SlowLookup) -> None:
    """No thread is involved, and what the lookup raises comes through."""
    inline = Inline(lookup)
    assert asyncio.run(inline.find([DIGEST])) is RECORD
    assert asyncio.run(inline.find([b"other"])) is None
    with pytest.raises(UnreadableRecord):
        asyncio.run(inline.find([]))
    assert set(lookup.threads) == {current_thread().name}


def test_threaded_asks_in_threads_of_its_own(lookup: SlowLookup) -> None:
    """The answers are the lookup's, also when it raises."""
    with closing(Threaded(lookup)) as threaded:
        assert asyncio.run(threaded.find([DIGEST])) is RECORD
        assert asyncio.run(threaded.find([b"other"])) is None
        with pytest.raises(UnreadableRecord):
            asyncio.run(threaded.find([]))
    assert all(name.startswith("doorkey") for name in lookup.threads)


def test_a_slow_answer_is_unavailable_in_time(lookup: SlowLookup) -> None:
    """Whoever waits learns it after the timeout, and the loop goes on meanwhile."""
    lookup.allowed.clear()

    async def ask(threaded: Threaded) -> int:
        asked, ticks = asyncio.ensure_future(threaded.find([DIGEST])), 0
        while not asked.done():
            await asyncio.sleep(0.01)
            ticks += 1
        with pytest.raises(StoreUnavailable, match=r"within 0\.1 s"):
            await asked
        return ticks

    with closing(Threaded(lookup, timeout=0.1)) as threaded:
        began = time.monotonic()
        assert asyncio.run(ask(threaded)) > 1
        assert time.monotonic() - began < 5


def test_a_full_queue_is_refused_at_once(lookup: SlowLookup) -> None:
    """As many may wait as are being asked; the next one is not queued, and once a thread is free all is well again."""
    lookup.allowed.clear()

    async def ask(threaded: Threaded) -> None:
        asked = [asyncio.ensure_future(threaded.find([DIGEST])) for _ in range(4)]
        await asyncio.sleep(0)
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="busy"):
            await threaded.find([DIGEST])
        assert time.monotonic() - began < 1
        lookup.allowed.set()
        assert await asyncio.gather(*asked) == [RECORD] * 4
        assert await threaded.find([DIGEST]) is RECORD

    with closing(Threaded(lookup, threads=2, timeout=30)) as threaded:
        asyncio.run(ask(threaded))


def test_a_thread_that_nobody_waits_for_stays_taken(lookup: SlowLookup) -> None:
    """A timeout does not make room for more calls to a store that hangs."""
    lookup.allowed.clear()

    async def ask(threaded: Threaded) -> None:
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="within"):
                await threaded.find([DIGEST])
        assert len(lookup.threads) == 1

    with closing(Threaded(lookup, threads=1, timeout=0.05)) as threaded:
        asyncio.run(ask(threaded))


def test_cancelling_comes_through(lookup: SlowLookup) -> None:
    """Who cancels is told so, not that the store failed; and the place in the queue is free again."""
    lookup.allowed.clear()

    async def ask(threaded: Threaded) -> None:
        asked = [asyncio.ensure_future(threaded.find([DIGEST])) for _ in range(2)]
        await asyncio.sleep(0)
        for each in asked:
            each.cancel()
        for each in asked:
            with pytest.raises(asyncio.CancelledError):
                await each
        lookup.allowed.set()
        for _ in range(5):
            assert await threaded.find([DIGEST]) is RECORD

    with closing(Threaded(lookup, threads=1, timeout=30)) as threaded:
        asyncio.run(ask(threaded))


def test_management_is_called_without_a_timeout(lookup: SlowLookup) -> None:
    """A change is waited for, because it cannot be taken back; its result and its exception come through."""

    def change(name: str, *, seconds: float) -> str:
        time.sleep(seconds)
        return int(name) if name == "x" else name  # type: ignore[return-value]

    async def ask(threaded: Threaded) -> None:
        assert await threaded.call(change, "done", seconds=0.1) == "done"
        with pytest.raises(ValueError, match="invalid literal"):
            await threaded.call(change, "x", seconds=0)

    with closing(Threaded(lookup, timeout=0.01)) as threaded:
        asyncio.run(ask(threaded))


def test_closed_threads_are_unavailable(lookup: SlowLookup) -> None:
    """After closing, once or twice, every call is refused and none hangs."""
    threaded = Threaded(lookup, threads=1)
    threaded.close()
    threaded.close()
    for _ in range(5):
        with pytest.raises(StoreUnavailable, match="closed"):
            asyncio.run(threaded.find([DIGEST]))


@pytest.mark.parametrize("arguments", [{"threads": 0}, {"threads": -1}, {"timeout": 0}, {"timeout": -1.0}])
def test_bounds_are_above_0(lookup: SlowLookup, arguments: dict[str, int]) -> None:
    """A bound that lets nothing through is refused when built."""
    with pytest.raises(ConfigurationError, match="above 0"):
        Threaded(lookup, **arguments)


@pytest.mark.parametrize("wrap", [Inline, Threaded])
def test_staleness_shows_through(wrap: Callable[..., Inline | Threaded]) -> None:
    """A verifier that allows no staleness refuses a stale lookup, whatever it is wrapped in."""

    class Stale(MemoryStore):
        max_age = 1.0

    digester = MasterSecrets.generate().digester()
    with pytest.raises(ConfigurationError, match="out of date"):
        AsyncVerifier(wrap(Stale()), digester, FALU)
