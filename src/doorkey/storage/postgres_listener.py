"""
Hears from PostgreSQL what has changed, so that caches forget it at once and not only when it grows too old.

A cache never needs this to keep its bound: a notification may be late or lost, and while the connection is down nothing
is heard. The listener then connects again, after a pause that chance lengthens. As it cannot know what it has missed,
the caches forget everything then.

PostgreSQL hands a notification on once the change that it tells of can be seen, so whoever reads after it reads the
change (a standby may show it later, within the bound on its own staleness).
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from contextlib import suppress
from secrets import randbelow
from time import monotonic
from typing import Protocol, Self

from ..core.errors import StoreError
from .postgres import CHANNEL
from .postgres_connections import Connection, alone, for_changes

log: logging.Logger = logging.getLogger("doorkey")

SILENCE = 15.0
"""Seconds without a word after which the server is asked whether it is still there."""

_LISTEN = f"LISTEN {CHANNEL}".encode()
_CLOSING = 5.0


class Forgetful(Protocol):
    """What can be told to forget: a ``CachedLookup`` or ``AsyncCachedLookup``."""

    def invalidate(self, ids: list[str]) -> None:
        """Forget these tokens, and the tokens of these workspaces. Called in the listener's thread."""
        ...

    def invalidate_all(self) -> None:
        """Forget everything. Called in the listener's thread."""
        ...


class PostgresListener:
    """
    Makes *caches* forget what any process changes in the store at *url*, until it is closed.

    It has a thread and a connection, which must lead to the server itself, or through a pooler that keeps sessions.
    Make it after forking: the thread does not come along.

    Args:
        url: see :class:`~doorkey.storage.postgres.PostgresStore`.
        caches: for threads or for asyncio.
        timeout: seconds that the server has for an answer.

    Attributes:
        listening: whether it hears anything now. While it does not, the caches still keep to their bounds.

    Raises:
        InvalidURL: *url* is none.
        ConfigurationError: *timeout* is not above 0.
    """

    def __init__(self, url: str, *caches: Forgetful, timeout: float = 2.0) -> None:
        self._server = for_changes(url, timeout)
        self._caches = caches
        self.listening: bool = False
        self._ending = threading.Event()
        self._bell, self._ear = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="doorkey-listener", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<PostgresListener at {self._server.name}>"

    def close(self) -> None:
        """Stop listening. Closing twice is fine."""
        if self._thread.is_alive():  # in a forked child it is not, and the bell is its parent's, too
            self._ending.set()
            with suppress(OSError):
                self._bell.send(b"!")
            self._thread.join(_CLOSING)
        self._bell.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self) -> None:
        failures = 0
        with self._ear:
            while not self._ending.wait(_pause(failures)):
                try:
                    with alone(self._server, monotonic() + self._server.timeout) as connection:
                        connection.execute(_LISTEN)
                        log.info("listening to %s", self._server.name)
                        failures = 0
                        self._listen(connection)
                except StoreError as error:
                    if failures == 0:
                        log.warning("caches are not told of changes, and keep to their bounds: %s", error)
                    failures += 1

    def _listen(self, connection: Connection) -> None:
        """Listen until this is closed, or the connection fails."""
        connection.add_notify_handler(lambda heard: self._tell(heard.payload))
        self._tell("*")
        self.listening = True
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._ear, selectors.EVENT_READ)
                selector.register(connection, selectors.EVENT_READ)
                while not self._ending.is_set():
                    if not selector.select(SILENCE):
                        connection.deadline = monotonic() + self._server.timeout
                        connection.execute(b"SELECT 1")
                    connection.pgconn.consume_input()
                    while (heard := connection.pgconn.notifies()) is not None:
                        self._tell(heard.extra.decode(errors="replace"))
        finally:
            self.listening = False

    def _tell(self, payload: str) -> None:
        """Pass a notification on: ids with commas between them, or ``*``."""
        for cache in self._caches:
            if payload == "*":
                cache.invalidate_all()
            else:
                cache.invalidate(payload.split(","))


def _pause(failures: int) -> float:
    """Seconds until the next attempt: none at first, then 0.1 to 0.3, and doubling up to 1.6 to 4.8."""
    return 0.1 * 2.0 ** min(failures, 5) * (0.5 + randbelow(1000) / 1000) if failures else 0.0
