"""
Where the reaper posts the tokens that there are, and every worker reads them: over a socket, never in a file.

A worker that connects, perhaps in the place of one that was killed, gets first what stands there already.
"""

from __future__ import annotations

import threading
from collections import deque
from multiprocessing.connection import Client, Connection, Listener, wait
from pathlib import Path
from typing import NamedTuple, Protocol

SEVERAL = 64
"""How many of the tokens that were taken down are remembered."""


class Posted(NamedTuple):
    """A token that may be verified: its number, its id, and the header that presents it."""

    number: int
    id: str
    header: str


class Shown(Protocol):
    """
    What there is to verify.

    Attributes:
        current: what stands on the board.
        past: some of what was taken down.
    """

    current: tuple[Posted, ...]
    past: deque[Posted]


class Board:
    """The reaper's side, at the socket *path*. A worker that stands still has it wait, one that is gone does not."""

    def __init__(self, path: Path) -> None:
        self.current: tuple[Posted, ...] = ()
        self.past: deque[Posted] = deque(maxlen=SEVERAL)
        self._listener = Listener(str(path), "AF_UNIX")
        self._lock = threading.Lock()
        self._posted: dict[int, Posted] = {}
        self._readers: list[Connection] = []
        threading.Thread(target=self._admit, name="board", daemon=True).start()

    def post(self, posted: Posted) -> None:
        """Let the workers verify a token."""
        with self._lock:
            self._posted[posted.number] = posted
            self._show(posted)

    def take_down(self, number: int) -> None:
        """Let them verify it only now and then."""
        with self._lock:
            self.past.append(self._posted.pop(number))
            self._show(number)

    def _show(self, message: Posted | int) -> None:
        self.current = tuple(self._posted.values())
        for reader in tuple(self._readers):
            try:
                reader.send(message)
            except OSError:
                self._readers.remove(reader)

    def _admit(self) -> None:
        while True:
            try:
                reader = self._listener.accept()
            except OSError:  # killed in the middle of connecting
                continue
            with self._lock:
                self._readers.append(reader)
                for posted in self._posted.values():
                    self._send_one(reader, posted)

    @staticmethod
    def _send_one(reader: Connection, posted: Posted) -> None:
        try:
            reader.send(posted)
        except OSError:
            return  # the next post finds out, too


class Wall:
    """
    A worker's side, kept up to date by a thread. What it shows is :class:`Shown`.

    Attributes:
        offset: seconds by which the worker's wall clock is wrong.
        over: whether the worker is to end.
    """

    def __init__(self, path: Path, orders: Connection) -> None:
        self.current: tuple[Posted, ...] = ()
        self.past: deque[Posted] = deque(maxlen=SEVERAL)
        self.offset = 0.0
        self.over = False
        self._board = Client(str(path), "AF_UNIX")
        self._orders = orders
        threading.Thread(target=self._follow, name="wall", daemon=True).start()

    def _follow(self) -> None:
        posted: dict[int, Posted] = {}
        sources: list[Connection] = [self._board, self._orders]
        while not self.over:
            for source in wait(sources):
                assert isinstance(source, Connection)
                try:
                    message = source.recv()
                except (EOFError, OSError):
                    sources.remove(source)
                    self.over |= source is self._orders  # nobody is left to say so
                    continue
                if isinstance(message, Posted):
                    posted[message.number] = message
                elif isinstance(message, int):
                    self.past.append(posted.pop(message))
                elif isinstance(message, float):
                    self.offset = message
                else:
                    self.over = True
            self.current = tuple(posted.values())
