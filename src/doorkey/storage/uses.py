"""
When tokens were last used, without a write while a request is judged.

Each granted decision leaves its token and the second in a dictionary. A thread writes what has come together to the
store, at most once a minute, and a last time when the log is closed or the interpreter ends. The ASGI adapters have it
written when their server shuts down, because servers that end by the very signal that stopped them skip all that. A
crash loses the last minute, and nothing else. The store only ever raises ``last_used_at``, so that any number of
processes may write.

Only that thread, and who flushes or closes, waits for the store, and nothing that fails there reaches a verdict.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from secrets import randbelow
from typing import Protocol, Self
from weakref import WeakSet

from ..core.errors import ConfigurationError, DoorkeyError
from ..core.model import Decision, Granted, Use

log: logging.Logger = logging.getLogger("doorkey")

_BATCH = 1000
"""Uses in one statement of the store, so that no change waits long for the lock that this takes."""


class Recorder(Protocol):
    """All that is needed of a store."""

    def record_uses(self, uses: Iterable[Use]) -> None:
        """See :meth:`doorkey.storage.protocol.Store.record_uses`."""
        ...


class UseLog:
    """
    Keeps the last use of each token until it is written to *store*: to be given to a verifier as ``on_decision``.

    The thread starts with the first use, also in a process that was forked after this was made.

    Args:
        clock: UTC seconds; that of the verifier.
        then: gets every decision as well.
        interval: seconds from one writing to the next, at least; up to a quarter more, so that processes spread.
        size: tokens at most that are kept between two writings, or while the store takes none. The uses of others are
            lost.

    Raises:
        ConfigurationError: *interval* or *size* is not above 0.
    """

    def __init__(
        self,
        store: Recorder,
        *,
        clock: Callable[[], float] = time.time,
        then: Callable[[Decision], object] | None = None,
        interval: float = 60.0,
        size: int = 100_000,
    ) -> None:
        if interval <= 0 or size < 1:
            raise ConfigurationError("a log of uses needs an interval above 0 seconds, and room for at least one token")
        self._record_uses = store.record_uses
        self._clock = clock
        self._then = then
        self._interval = interval
        self._size = size
        self._closed = False
        self._renew()
        _logs.add(self)
        atexit.register(self.close)

    def _renew(self) -> None:
        """Begin anew, without the thread of a parent process and what that will write."""
        self._latest: dict[str, int] = {}
        self._starting = threading.Lock()
        self._writing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()

    def __call__(self, decision: Decision) -> None:
        """Take note of a decision."""
        if isinstance(decision, Granted):
            token_id = decision.principal.token_id
            if token_id in self._latest or len(self._latest) < self._size:
                self._latest[token_id] = int(self._clock())
            if self._thread is None:
                self._start()
        if self._then is not None:
            self._then(decision)

    def flush(self) -> None:
        """Write now what there is. Waits for the store; if that takes nothing, it is tried again later."""
        with self._writing:
            self._write()

    def close(self, timeout: float = 5.0) -> None:
        """Write what is left. Gives up after *timeout* seconds. Closing twice is fine; what comes later is lost."""
        atexit.unregister(self.close)
        self._closed = True
        self._ending.set()
        thread = self._thread
        if thread is None:
            self.flush()  # there was nothing, or no thread could be started
        else:
            thread.join(timeout)
            if thread.is_alive():
                log.warning("the store did not take the last uses of tokens within %g s: they are lost", timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _start(self) -> None:
        with suppress(RuntimeError), self._starting:  # no thread can be started now: the next use tries again
            if self._thread is None and not self._closed:
                thread = threading.Thread(target=self._run, name="doorkey-uses", daemon=True)
                thread.start()
                self._thread = thread

    def _run(self) -> None:
        while not self._ending.wait(self._interval * (1 + randbelow(1000) / 4000)):
            self.flush()
        self.flush()

    def _write(self) -> None:
        latest = self._latest
        # One by one, so that none is lost that is noted meanwhile. By id, so that no two processes wait for each other.
        uses = sorted(Use(*latest.popitem()) for _ in range(len(latest)))
        while uses:
            try:
                self._record_uses(uses[:_BATCH])
            except Exception as error:
                cause = f": {error}" if isinstance(error, DoorkeyError) else ""
                log.warning(
                    "the last uses of %d token(s) were not written, to be tried again (%s%s)",
                    len(uses),
                    type(error).__name__,
                    cause,
                )
                self._put_back(uses)
                return
            del uses[:_BATCH]

    def _put_back(self, uses: Iterable[Use]) -> None:
        for token_id, at in uses:
            if len(self._latest) < self._size:
                self._latest.setdefault(token_id, at)  # one that is there is later


# Forks.

_logs: WeakSet[UseLog] = WeakSet()


def _after_fork_in_child() -> None:
    for uses in list(_logs):
        uses._renew()


os.register_at_fork(after_in_child=_after_fork_in_child)
