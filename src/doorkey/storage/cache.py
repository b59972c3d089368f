"""
A lookup in front of a lookup, with a bound on how stale it may be. Off unless asked for.

The rules that this file keeps:

* What a find returns was stored at some moment of the last *max_age* seconds before it was called, whatever becomes of
  invalidations. The age counts from just before the read was sent, by a clock that neither steps nor sleeps.
* What was invalidated before a find began is not seen by it. A read that was under way then is not kept, and nobody
  joins it any more, because it may have seen what stood before.
* Of one token there is one read under way, and whoever asks meanwhile waits for it. If it fails, it fails for all of
  them. If whoever sent it is cancelled, one of the others sends another.
* That a token is unknown is not kept unless asked for, nor told to anybody who asked after the read was sent, because
  it may have been made in between. Errors are never kept, nor is a record of another digest than was asked for.
* A record is kept under its whole digest, which hangs on the master secret, in a cache that has a single lookup.

A find that has nothing to read takes no lock.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar
from weakref import WeakSet

from ..core.errors import ConfigurationError, DoorkeyError, StoreError, StoreUnavailable, UnreadableRecord
from ..core.model import Record
from ..core.profiles import LONGEST_STALENESS
from ..core.verify import AsyncLookup, Lookup
from .protocol import Batch

LONGEST_UNKNOWN = 1.0
"""Seconds that a token may be taken for unknown after it was made, at most."""

AnyLookup = TypeVar("AnyLookup", bound=Lookup | AsyncLookup)
Over = TypeVar("Over", bound=threading.Event | asyncio.Event)


def _steady_clock() -> Callable[[], float]:
    """Seconds by a clock that nobody sets, and that goes on while the machine sleeps, where there is one."""
    for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC"):  # Linux; macOS, whose time.monotonic() sleeps
        if hasattr(time, name):
            return partial(time.clock_gettime, getattr(time, name))
    return time.monotonic


steady: Callable[[], float] = _steady_clock()
"""What ages are counted by."""


def changed(batch: Batch) -> list[str]:
    """Ids of what a cache must forget: of tokens whose key is written; of workspaces, unless written for keys only."""
    with_keys = {key.workspace for key, _ in batch.keys}
    ids = [token.id for key, _ in batch.keys for token in key.tokens]
    return ids + [workspace.id for workspace, _ in batch.workspaces if workspace.id not in with_keys]


class _Load(Generic[Over]):
    """
    One read, and what came of it for those who wait for it: an answer, a failure, or neither if it was broken off.

    Attributes:
        asked: when it was sent, at the earliest.
        over: set when it is.
    """

    __slots__ = ("answered", "asked", "digests", "failure", "over", "record")

    def __init__(self, digests: Sequence[bytes], asked: float, over: Over) -> None:
        self.digests = digests
        self.asked = asked
        self.over = over
        self.answered = False
        self.record: Record | None = None
        self.failure: tuple[type[StoreError], str] | None = None

    def answer(self, record: Record | None) -> None:
        """The read has found this."""
        self.record = record
        self.answered = True

    def fail(self, error: Exception) -> None:
        """The read has raised this. Those who wait raise their own, as a traceback holds the frames of a request."""
        kind = UnreadableRecord if isinstance(error, UnreadableRecord) else StoreUnavailable
        own = isinstance(error, DoorkeyError)
        self.failure = kind, str(error) if own else f"another request's find raised {type(error).__name__}"

    def serves(self, *, late: bool) -> bool:
        """
        Tell whether :attr:`record` is the answer for somebody who waited; *late*, if they came after the read was sent.

        Raises:
            StoreUnavailable, UnreadableRecord: the read has failed.
        """
        if self.failure is not None:
            kind, cause = self.failure
            raise kind(cause)
        return self.answered and not (late and self.record is None)


class _Cache(Generic[AnyLookup, Over]):
    """What both caches share: everything but the reading and the waiting."""

    _asynchronous: ClassVar[bool]

    def __init__(
        self,
        lookup: AnyLookup,
        *,
        max_age: float = LONGEST_STALENESS,
        size: int = 10_000,
        unknown_age: float = 0.0,
        clock: Callable[[], float] = steady,
    ) -> None:
        if inspect.iscoroutinefunction(lookup.find) is not self._asynchronous:
            raise ConfigurationError("CachedLookup is for a lookup, AsyncCachedLookup for an asynchronous one")
        if not 0 < max_age <= LONGEST_STALENESS:
            raise ConfigurationError(
                f"a cache's max_age is above 0 and at most {LONGEST_STALENESS:g} seconds; for 0, leave the cache out"
            )
        if not 0 <= unknown_age <= LONGEST_UNKNOWN:
            raise ConfigurationError(f"a cache's unknown_age is from 0 to {LONGEST_UNKNOWN:g} seconds")
        if size < 1:
            raise ConfigurationError("a cache keeps at least one record")
        self.max_age: float = max_age + getattr(lookup, "max_age", 0)
        self._lookup = lookup
        self._age = max_age
        self._unknown_age = unknown_age
        self._size = size
        self._clock = clock
        self._renew()
        _caches.add(self)

    def _renew(self) -> None:
        """Begin anew, without what the threads of a parent process had begun."""
        self._lock = threading.Lock()  # held for moments, and by none while it reads
        self._entries: OrderedDict[bytes, tuple[float, Record]] = OrderedDict()  # until when, and what; by digest
        self._named: dict[str, set[bytes]] = {}  # the digests of those entries, by token and by workspace
        self._unknown: OrderedDict[Hashable, float] = OrderedDict()  # until when; by all digests of the token
        self._loads: dict[Hashable, _Load[Over]] = {}

    def invalidate(self, ids: str | Iterable[str]) -> None:
        """
        Forget what is known of these tokens, and of all tokens of these workspaces, by id. Any thread may call it.

        The next find of each reads. So does that of a token which was unknown, and may just have been made.
        """
        with self._lock:
            self._loads.clear()
            self._unknown.clear()
            for id in (ids,) if isinstance(ids, str) else ids:
                for digest in tuple(self._named.get(id, ())):
                    self._forget(digest)

    def invalidate_all(self) -> None:
        """Forget everything. Any thread may call it."""
        with self._lock:
            gone = self._entries, self._named  # let go of where nobody waits for the lock
            self._entries, self._named = OrderedDict(), {}
            self._loads.clear()
            self._unknown.clear()
        del gone

    def committed(self, batch: Batch) -> None:
        """Forget what *batch* changes: to be told of each commit of this process (``Keyring(on_commit=...)``)."""
        self.invalidate(changed(batch))

    def _fresh(self, digests: Sequence[bytes]) -> Record | None:
        """The record that is kept of a token, unless it is too old."""
        entries = self._entries
        for digest in digests:
            entry = entries.get(digest)
            if entry is not None:
                until, record = entry
                if self._clock() < until and record.digest == digest:
                    return record
        return None

    def _join(self, place: Hashable, digests: Sequence[bytes], over: Callable[[], Over]) -> tuple[_Load[Over], bool]:
        """
        The read of a token that is under way, or just over; else a new one, for the caller to lead.

        Args:
            place: where only those meet who can wait for each other.

        Returns:
            The read, and whether the caller leads.
        """
        with self._lock:
            now = self._clock()
            load = self._loads.get(place)
            if load is not None and now - load.asked < self._age:
                return load, False
            load = _Load(digests, now, over())
            record = self._fresh(digests)
            if record is not None or now < self._unknown.get(digests, -math.inf):
                load.answer(record)
                load.over.set()
                return load, False
            self._loads[place] = load
            return load, True

    @contextmanager
    def _leading(self, place: Hashable, load: _Load[Over]) -> Iterator[None]:
        """While the caller reads. Whatever happens, those who wait learn that it is over."""
        try:
            yield
        except Exception as error:
            load.fail(error)
            raise
        finally:
            with self._lock:
                if self._loads.get(place) is load:  # else something was invalidated meanwhile
                    del self._loads[place]
                    if load.answered:
                        self._keep(load)
            load.over.set()

    def _keep(self, load: _Load[Over]) -> None:
        record: object = load.record  # a stranger's lookup may return anything
        if record is None:
            if self._unknown_age:
                self._unknown[load.digests] = load.asked + self._unknown_age
                if len(self._unknown) > self._size:
                    self._unknown.popitem(last=False)
        elif isinstance(record, Record) and record.digest in load.digests:
            self._forget(record.digest)
            self._entries[record.digest] = load.asked + self._age, record
            for name in _names(record):
                self._named.setdefault(name, set()).add(record.digest)
            if len(self._entries) > self._size:
                self._forget(next(iter(self._entries)))

    def _forget(self, digest: bytes) -> None:
        _, record = self._entries.pop(digest, (0, None))
        if record is not None:
            for name in _names(record):
                named = self._named.get(name, set())
                named.discard(digest)
                if not named:
                    self._named.pop(name, None)


def _names(record: Record) -> set[str]:
    """What a record is invalidated by."""
    return {record.principal.token_id, record.principal.workspace}


class CachedLookup(_Cache[Lookup, threading.Event]):
    """
    Keeps what *lookup* found, for a few seconds at most. Any number of threads may use it.

    A revoked key lives on for *max_age* seconds at most after the revocation was acknowledged; :meth:`invalidate` makes
    it sooner. After a fork the child's cache begins empty.

    Args:
        max_age: seconds that what is found may be out of date, above 0 and at most 5. A lookup's own staleness, such as
            that of a standby, comes on top.
        size: records at most. The one that was read first makes room for another.
        unknown_age: seconds that an unknown token is taken for unknown, even if it is made meanwhile; at most 1.
            With it a forged token of the right form is not looked for again and again.
        clock: seconds, of a clock that neither steps nor sleeps.

    Attributes:
        max_age: seconds that a verdict may be out of date, those of *lookup* included. A verifier refuses more than its
            profile allows.

    Raises:
        ConfigurationError: a number is out of bounds, or *lookup* is asynchronous.
    """

    _asynchronous = False

    def find(self, digests: Sequence[bytes]) -> Record | None:
        """See :meth:`~doorkey.core.verify.Lookup.find`."""
        record = self._fresh(digests)
        return self._read(tuple(digests)) if record is None else record

    def _read(self, digests: tuple[bytes, ...]) -> Record | None:
        late = True  # for a read that is under way; one that is found later was sent after this began
        while True:
            load, leads = self._join(digests, digests, threading.Event)
            if leads:
                with self._leading(digests, load):
                    load.answer(self._lookup.find(digests))
                return load.record
            load.over.wait()
            if load.serves(late=late):
                return load.record
            late = False


class AsyncCachedLookup(_Cache[AsyncLookup, asyncio.Event]):
    """
    The same for asyncio. Any event loop may use it; tasks of one loop wait for each other's reads.

    Args: see :class:`CachedLookup`.
    """

    _asynchronous = True

    async def find(self, digests: Sequence[bytes]) -> Record | None:
        """See :meth:`~doorkey.core.verify.AsyncLookup.find`."""
        record = self._fresh(digests)
        return await self._read(tuple(digests)) if record is None else record

    async def _read(self, digests: tuple[bytes, ...]) -> Record | None:
        late = True
        place = digests, asyncio.get_running_loop()
        while True:
            load, leads = self._join(place, digests, asyncio.Event)
            if leads:
                with self._leading(place, load):
                    load.answer(await self._lookup.find(digests))
                return load.record
            await load.over.wait()
            if load.serves(late=late):
                return load.record
            late = False


# Forks.

_caches: WeakSet[_Cache[Any, Any]] = WeakSet()


def _after_fork_in_child() -> None:
    """A lock may have been held by a thread that did not come along, and so may a read be led by one."""
    for cache in list(_caches):
        cache._renew()


os.register_at_fork(after_in_child=_after_fork_in_child)
