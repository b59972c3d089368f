"""
The process that owns the keys: it issues them and ends them in every way that there is, all the time.

What it has changed it verifies at once itself, and a thread of it verifies all the time, because for its own changes
there is no bound to wait for. A change that raised may have landed all the same; the key is then revoked, again and
again until that returns.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from time import monotonic, monotonic_ns
from typing import NamedTuple, TypeVar

import doorkey
from doorkey import DoorkeyError, KeyType, Mode
from doorkey.management.keyring import Keyring
from doorkey.storage.protocol import Key
from doorkey.testing import basic

from .board import Board, Posted
from .check import SECOND
from .history import Operation, Result, Writer
from .worker import Judge, Picker, Task

T = TypeVar("T")

FEW, MANY = 25, 50
"""How many keys there are at a time."""

BREAK = 0.005
"""Seconds between two changes, at most."""

GLANCE = 0.0005
"""Seconds between two verdicts of the thread beside the changes."""

LINGERING = 0.5
"""Seconds that the workers go on verifying a token often once it is dead beyond doubt."""

AGAIN = 0.05
"""Seconds until a change that must land is tried again."""

WORKSPACES = 4


@dataclass
class Held:
    """
    A key and its tokens that may be alive: the current one first, then the one before it in its grace.

    Attributes:
        over: when that grace is over, by the steady clock.
    """

    id: str
    workspace: str
    tokens: list[Posted] = field(default_factory=list)
    over: float = 0


class Suspended(NamedTuple):
    """A workspace, those of its tokens that may be alive, and when it is to be resumed, by the steady clock."""

    workspace: str
    tokens: list[Posted]
    until: float


def reap(task: Task, orders: Connection) -> None:
    """The whole life of the reaper. It says "ready" when there is something to verify, and ends at any word."""
    logging.disable()
    board = Board(task.board)
    with (
        Writer(task.log) as log,
        doorkey.open(task.url, secret=task.secret, max_age=task.cache) as door,
        asyncio.Runner() as loop,
    ):
        judge = Judge(door.verifier, door.async_verifier, log)
        reaper = Reaper(door.keyring.acting("reaper"), judge, loop, log, board, random.Random(task.seed), task.cache)
        for _ in range(FEW):
            reaper.issue()
        with _watching(judge, board, task.seed):
            orders.send("ready")
            while not orders.poll():
                reaper.step()
                time.sleep(reaper.random.uniform(0, BREAK))


@contextmanager
def _watching(judge: Judge, board: Board, seed: int) -> Iterator[None]:
    """While a thread verifies what the reaper changes."""
    over = threading.Event()

    def watch() -> None:
        pick = Picker(board, seed)
        while not over.wait(GLANCE):
            posted = pick()
            if posted is not None:
                judge.verify(posted)

    thread = threading.Thread(target=watch, name="watch")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Reaper:
    """Changes keys by chance."""

    def __init__(
        self,
        ring: Keyring,
        judge: Judge,
        loop: asyncio.Runner,
        log: Writer,
        board: Board,
        random: random.Random,
        cache: float,
    ) -> None:
        self.random = random
        self._ring = ring
        self._judge = judge
        self._loop = loop
        self._log = log
        self._board = board
        self._linger = cache + LINGERING
        self._numbers = 0
        self._keys: list[Held] = []
        self._dead: deque[tuple[float, Posted]] = deque()
        self._workspaces = [ring.approve(ring.provision(f"Workspace {n}").id).id for n in range(WORKSPACES)]
        self._suspended: Suspended | None = None

    @property
    def _resumed(self) -> list[str]:
        """The workspaces that are not suspended."""
        return [id for id in self._workspaces if not (self._suspended and id == self._suspended.workspace)]

    def step(self) -> None:
        """Change something, and let the workers forget what is long dead."""
        while self._dead and self._dead[0][0] < monotonic():
            self._board.take_down(self._dead.popleft()[1].number)
        if self._suspended and self._suspended.until < monotonic():
            self.resume(self._suspended)
        elif not self._suspended and self.random.random() < 0.02:
            self.suspend(self.random.choice(self._workspaces))
        elif len(self._keys) < FEW or (len(self._keys) < MANY and self.random.random() < 0.45):
            self.issue()
        else:
            self._change(self.random.choice([held for held in self._keys if held.workspace in self._resumed]))

    def _change(self, held: Held) -> None:
        if held.tokens[1:] and monotonic() > held.over + 1:
            self._retire(held.tokens[1:])
            del held.tokens[1:]
        verbs = [self.revoke, self.revoke, self.reissue, self.roll, self.end_grace if held.tokens[1:] else self.grace]
        self.random.choice(verbs)(held)

    # The verbs

    def issue(self) -> None:
        """Make a key."""
        workspace = self.random.choice(self._resumed)
        type, mode = self.random.choice(list(KeyType)), self.random.choice(list(Mode))
        start = monotonic_ns()
        try:
            key = self._ring.issue(workspace, type=type, mode=mode, name="reaped")
        except DoorkeyError:  # nobody has its token, if there is one
            self._log.write(Operation.ATTEMPT, Result.LOST, 0, start, monotonic_ns())
            return
        held = Held(key.id, workspace)
        self._keys.append(held)
        self._hand_out(held, start, monotonic_ns())

    def revoke(self, held: Held) -> None:
        """End a key, whatever it takes."""
        self._keys.remove(held)
        self._until_done(
            Operation.REVOKE, held.tokens, lambda: self._ring.revoke(held.id, because="this history wants it so")
        )
        self._retire(held.tokens)

    def reissue(self, held: Held) -> None:
        """End its tokens in favour of a new one."""
        self._replace(held, Operation.REISSUE, lambda: self._ring.reissue(held.id, because="this history wants it so"))

    def roll(self, held: Held) -> None:
        """The same without a reason."""
        self._replace(held, Operation.ROLL, lambda: self._ring.roll(held.id, grace=0))

    def grace(self, held: Held) -> None:
        """Let the token live on for a while beside a new one."""
        current, seconds = held.tokens[0], self.random.randint(1, 3)
        start = monotonic_ns()
        if self._try(Operation.GRACE, held.tokens, lambda: self._ring.roll(held.id, grace=seconds)) is None:
            self.revoke(held)
            return
        end = monotonic_ns()
        latest = end + (seconds + 1) * SECOND  # its end is rounded up to a whole second
        self._log.write(Operation.OVER, Result.DONE, current.number, start + seconds * SECOND, latest)
        held.over = latest / SECOND
        self._hand_out(held, start, end)
        self._look([current])

    def end_grace(self, held: Held) -> None:
        """Let the token before the current one die now."""
        before = held.tokens[1:]
        if self._try(Operation.END_GRACE, before, lambda: self._ring.end_grace(held.id)) is None:
            self.revoke(held)
        else:
            self._retire(before)
            del held.tokens[1:]

    def suspend(self, workspace: str) -> None:
        """Suspend a workspace, whose keys are left alone until it is resumed."""
        tokens = [posted for held in self._keys if held.workspace == workspace for posted in held.tokens]
        self._until_done(Operation.SUSPEND, tokens, lambda: self._ring.suspend(workspace))
        self._suspended = Suspended(workspace, tokens, monotonic() + self.random.uniform(0, 2 * self._linger))
        self._look(tokens[:5])

    def resume(self, suspended: Suspended) -> None:
        """Take that back."""
        self._until_done(Operation.RESUME, suspended.tokens, lambda: self._ring.resume(suspended.workspace))
        self._suspended = None
        self._look(suspended.tokens[:5])

    # What they are made of

    def _replace(self, held: Held, operation: Operation, change: Callable[[], Key]) -> None:
        before = list(held.tokens)
        start = monotonic_ns()
        if self._try(operation, before, change) is None:
            self.revoke(held)
        else:
            end = monotonic_ns()
            self._retire(before)
            held.tokens.clear()
            self._hand_out(held, start, end)

    def _hand_out(self, held: Held, start: int, end: int) -> None:
        """Reveal the token that was made between *start* and *end*, and let everybody verify it."""
        try:
            token = self._ring.reveal(held.id)
        except DoorkeyError:  # perhaps it was revealed, to nobody
            self.revoke(held)
            return
        posted = Posted(self._numbers, token.id, basic(token))
        self._numbers += 1
        held.tokens.insert(0, posted)
        self._log.write(Operation.ISSUE, Result.DONE, posted.number, start, end)
        self._board.post(posted)
        self._look([posted])

    def _try(self, operation: Operation, tokens: Iterable[Posted], change: Callable[[], T]) -> T | None:
        """Change, and write it down for each of the tokens that it concerns; ``None`` if it raised."""
        start = monotonic_ns()
        value = None
        with suppress(DoorkeyError):
            value = change()
        end = monotonic_ns()
        for posted in tokens:
            self._log.write(operation, Result.LOST if value is None else Result.DONE, posted.number, start, end)
        return value

    def _until_done(self, operation: Operation, tokens: Iterable[Posted], change: Callable[[], T]) -> T:
        """Change, whatever it takes: a change that is written down once, from the first attempt to the last."""
        start = monotonic_ns()
        while True:
            again = monotonic_ns()
            try:
                value = change()
                break
            except DoorkeyError:
                self._log.write(Operation.ATTEMPT, Result.LOST, 0, again, monotonic_ns())
            time.sleep(AGAIN)
        end = monotonic_ns()
        for posted in tokens:
            self._log.write(operation, Result.DONE, posted.number, start, end)
        return value

    def _retire(self, tokens: Iterable[Posted]) -> None:
        """See for ourselves that these are dead, and take them down in a while."""
        tokens = list(tokens)
        self._look(tokens)
        self._dead.extend((monotonic() + self._linger, posted) for posted in tokens)

    def _look(self, tokens: Iterable[Posted]) -> None:
        """Verify these, in both ways."""
        for posted in tokens:
            self._judge.verify(posted)
            self._loop.run(self._judge.verify_async(posted))
