"""
Lookups for asyncio, made of lookups that are not.

A hop to a thread and back costs 100 µs, a read of SQLite 4 to 10. So what never waits long, which memory and SQLite do
not, is asked right on the event loop (:class:`Inline`); what may wait, such as a lookup of your own over a network, is
asked in threads that nothing else uses (:class:`Threaded`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import ParamSpec, TypeVar

from ..core.errors import ConfigurationError, StoreUnavailable
from ..core.model import Record
from ..core.verify import Lookup

P = ParamSpec("P")
T = TypeVar("T")


class Inline:
    """Asks *lookup* on the event loop, which waits as long as *lookup* does."""

    def __init__(self, lookup: Lookup) -> None:
        self.max_age: float = getattr(lookup, "max_age", 0)  # so that a verifier can refuse it
        self._find = lookup.find

    async def find(self, digests: Sequence[bytes]) -> Record | None:
        """See :meth:`~doorkey.core.verify.AsyncLookup.find`."""
        return self._find(digests)


class Threaded:
    """
    Asks *lookup* in threads of its own, never more than *threads* at a time.

    When as many again are waiting, the next is refused at once: a queue that grows would only turn a slow store into a
    slow everything. A thread whose answer nobody waits for any more stays taken until *lookup* returns, so give that a
    timeout too. Make it after forking; threads do not come along.

    Args:
        threads: as many as *lookup* has connections.
        timeout: seconds until a find is :class:`StoreUnavailable`.

    Raises:
        ConfigurationError: *threads* or *timeout* is not above 0.
    """

    def __init__(self, lookup: Lookup, *, threads: int = 4, timeout: float = 2.0) -> None:
        if threads < 1 or timeout <= 0:
            raise ConfigurationError("Threaded needs at least one thread, and a timeout above 0 seconds")
        self._find = lookup.find
        self.max_age: float = getattr(lookup, "max_age", 0)
        self._timeout = timeout
        self._places = BoundedSemaphore(2 * threads)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="doorkey")

    async def find(self, digests: Sequence[bytes]) -> Record | None:
        """
        See :meth:`~doorkey.core.verify.AsyncLookup.find`.

        Raises:
            StoreUnavailable: besides, no thread is free, or the answer takes too long.
        """
        try:
            async with asyncio.timeout(self._timeout):
                return await self.call(self._find, digests)
        except TimeoutError:
            raise StoreUnavailable(f"the lookup did not answer within {self._timeout:g} s") from None

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Call *function* in one of the threads, without a timeout: for management, whose changes cannot be taken back.

        Raises:
            StoreUnavailable: no thread is free, or :meth:`close` was called.
        """
        if not self._places.acquire(blocking=False):
            raise StoreUnavailable("every thread of the lookup is busy, and as many callers are waiting")
        try:
            called = self._executor.submit(function, *args, **kwargs)
        except RuntimeError:
            self._places.release()
            raise StoreUnavailable("the threads of the lookup were closed") from None
        called.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(called)

    def close(self) -> None:
        """End the threads once they have answered; whoever still waits for one is cancelled. Closing twice is fine."""
        self._executor.shutdown(wait=False, cancel_futures=True)
