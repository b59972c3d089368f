"""A process that verifies what stands on the board, as fast as it can, until it is told to end."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic_ns

import doorkey
from doorkey import AsyncVerifier, Doorkey, Requirement, Verifier
from doorkey.core.errors import StoreUnavailable
from doorkey.core.model import Record as Stored
from doorkey.core.verify import Lookup
from doorkey.storage.aio import Inline
from doorkey.storage.postgres_listener import PostgresListener

from .board import Posted, Shown, Wall
from .history import Operation, Result, Writer, result_of

TASKS = 4
"""How many verdicts an asynchronous worker has under way."""

NICE = 5
"""How far a worker stands back, because on a small machine the reaper would seldom get its turn."""

PAUSE = 0.005
"""Seconds that a worker waits when the store was out of reach, so that a short outage does not fill its log."""


@dataclass(frozen=True)
class Task:
    """
    What a process of a history needs to know.

    Attributes:
        secret: the store's master secret.
        cache: seconds; 0 for none.
        board: the path of its socket.
        asynchronous, listening, stepping: what kind of worker it is.
        broken: whether it verifies through a lookup that never looks twice, for the tests of the checker.
    """

    name: str
    url: str
    secret: str = field(repr=False)
    log: Path
    board: Path
    seed: int
    cache: float = 0
    asynchronous: bool = False
    listening: bool = False
    stepping: bool = False
    broken: bool = False


class Judge:
    """Verifies, and writes down what came of it."""

    def __init__(self, verifier: Verifier, async_verifier: AsyncVerifier, log: Writer) -> None:
        self._verifier = verifier
        self._async_verifier = async_verifier
        self._log = log

    def verify(self, posted: Posted) -> Result:
        """Ask the verifier."""
        start = monotonic_ns()
        decision = self._verifier.verify(posted.header, requires=Requirement.ANY_KEY)
        return self._write(Operation.VERIFY, result_of(decision, posted.id), posted, start, monotonic_ns())

    async def verify_async(self, posted: Posted) -> Result:
        """Ask the asynchronous verifier."""
        start = monotonic_ns()
        decision = await self._async_verifier.verify(posted.header, requires=Requirement.ANY_KEY)
        return self._write(Operation.VERIFY_ASYNC, result_of(decision, posted.id), posted, start, monotonic_ns())

    def _write(self, operation: Operation, result: Result, posted: Posted, start: int, end: int) -> Result:
        self._log.write(operation, result, posted.number, start, end)
        return result


class Stale:
    """The lookup of somebody who forgot that a cache needs a bound."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._known: dict[Sequence[bytes], Stored] = {}

    def find(self, digests: Sequence[bytes]) -> Stored | None:
        digests = tuple(digests)
        if digests not in self._known:
            record = self._lookup.find(digests)
            if record is None:
                return None
            self._known[digests] = record
        return self._known[digests]


def work(task: Task, orders: Connection) -> None:
    """The whole life of a worker. It says "ready" when it begins."""
    logging.disable()  # what is out of reach is written down
    os.nice(NICE)
    sys.setswitchinterval(0.0005)  # so that the wall is up to date
    wall = Wall(task.board, orders)

    def clock() -> float:
        return time.time() + wall.offset

    with ExitStack() as stack:
        log = stack.enter_context(Writer(task.log))
        door = stack.enter_context(_opened(task, clock))
        if task.listening and door.caches:
            listener = stack.enter_context(closing(PostgresListener(task.url, *door.caches)))
            while not listener.listening:
                time.sleep(0.01)
        judge = _judge(door, log, broken=task.broken)
        orders.send("ready")
        if task.asynchronous:
            asyncio.run(_verify_async(judge, wall, task.seed))
        else:
            _verify(judge, wall, task.seed)


def _opened(task: Task, clock: Callable[[], float]) -> Doorkey:
    """The store, as soon as it can be reached: a worker may begin in the middle of a restart."""
    while True:
        try:
            return doorkey.open(task.url, secret=task.secret, max_age=task.cache, clock=clock)
        except StoreUnavailable:
            time.sleep(PAUSE)


def _judge(door: Doorkey, log: Writer, *, broken: bool) -> Judge:
    if not broken:
        return Judge(door.verifier, door.async_verifier, log)
    lookup, digester = Stale(door.store), door.secrets.digester()
    return Judge(Verifier(lookup, digester), AsyncVerifier(Inline(lookup), digester), log)


def _verify(judge: Judge, wall: Wall, seed: int) -> None:
    pick = Picker(wall, seed)
    while not wall.over:
        posted = pick()
        if posted is None or judge.verify(posted) is Result.UNAVAILABLE:
            time.sleep(PAUSE)


async def _verify_async(judge: Judge, wall: Wall, seed: int) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(TASKS):
            group.create_task(_take_turns(judge, wall, seed + number))


async def _take_turns(judge: Judge, wall: Wall, seed: int) -> None:
    pick = Picker(wall, seed)
    while not wall.over:
        posted = pick()
        missed = posted is None or await judge.verify_async(posted) is Result.UNAVAILABLE
        await asyncio.sleep(PAUSE if missed else 0)  # which a lookup that never waits would not do


class Picker:
    """Picks tokens by chance, mostly of those that stand on the board now."""

    def __init__(self, shown: Shown, seed: int) -> None:
        self._shown = shown
        self._random = random.Random(seed)

    def __call__(self) -> Posted | None:
        current, past = self._shown.current, self._shown.past
        if past and self._random.random() < 1 / 16:
            return self._random.choice(past)
        return self._random.choice(current) if current else None
