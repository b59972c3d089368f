"""Makes a history, and has it judged."""

from __future__ import annotations

import random
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from secrets import token_bytes

import doorkey

from . import history
from .check import SECOND, Findings, Log, Strike, check
from .nemeses import NEMESES, Scene, Target, able
from .places import Place, place
from .reaper import LINGERING, reap
from .worker import Task, work

START = 30.0
"""Seconds that a process may take until it is at work."""

END = 20.0
"""Seconds that one may take to end."""

CALM = (0.1, 1.0)
"""Seconds between two nemeses, at least and at most."""

_SPAWN = get_context("spawn")


@dataclass(frozen=True)
class Settings:
    """
    Which history is made.

    Attributes:
        store: see :func:`~tests.histories.places.place`.
        cache: seconds that a verdict may be out of date; 0 for no cache.
        operations: how many there are to be at least, even if it takes longer than *seconds*.
        broken: see :class:`~tests.histories.worker.Task`.
    """

    store: str
    cache: float = 0
    seconds: float = 60
    workers: int = 4
    nemeses: Sequence[str] = tuple(NEMESES)
    seed: int = 0
    operations: int = 0
    broken: bool = False


class Process:
    """A process of the history, seen from the one that only watches and disturbs."""

    def __init__(self, life: Callable[[Task, Connection], None], task: Task) -> None:
        self.name = task.name
        self.stepping = task.stepping
        self._ready = False
        self._orders, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=life, args=(task, theirs), name=task.name, daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    def is_ready(self, patience: float = 0) -> bool:
        """
        Tell whether it is at work.

        Args:
            patience: seconds to wait for it.

        Raises:
            RuntimeError: it has failed.
        """
        try:
            if not self._ready and self._orders.poll(patience):
                self._ready = self._orders.recv() == "ready"
        except EOFError:
            self._process.join(END)
        if not self._process.is_alive():
            raise RuntimeError(f"{self.name} has failed: see above")
        return self._ready

    def wait(self) -> None:
        """Wait until it is at work."""
        if not self.is_ready(START):
            raise RuntimeError(f"{self.name} was not at work within {START:g} s")

    def order(self, word: object) -> None:
        """Tell it something."""
        self._orders.send(word)

    def end(self) -> None:
        """
        Have it end.

        Raises:
            RuntimeError: it has failed, or does not end.
        """
        with suppress(OSError):
            self.order("end")
        self._process.join(END)
        if self._process.exitcode != 0:
            raise RuntimeError(f"{self.name} did not end well, but with {self._process.exitcode}: see above")

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.join()


class Company:
    """The reaper and the workers, as they are now, and what to know of all that there ever were."""

    def __init__(self, where: Place, settings: Settings) -> None:
        self._where = where
        self._settings = settings
        self._secret = b64encode(token_bytes(32)).decode()
        self.tasks: list[Task] = []
        self.workers: list[Process] = []
        doorkey.create(where.url, secret=self._secret).close()
        self.reaper = Process(reap, self._task("reaper"))

    def begin(self) -> None:
        """Have everybody at work."""
        self.reaper.wait()
        self.workers += [self._worker(slot) for slot in range(self._settings.workers)]
        for worker in self.workers:
            worker.wait()

    def ready(self) -> list[Process]:
        """The workers that are at work."""
        return [worker for worker in self.workers if worker.is_ready()]

    def replace(self, worker: Target) -> None:
        """Kill a worker, and put another one in its place."""
        slot = next(slot for slot, other in enumerate(self.workers) if other is worker)
        self.workers[slot].kill()
        self.workers[slot] = self._worker(slot)

    def end(self) -> None:
        """Let everybody end, the workers only when nothing can be out of date any more."""
        for worker in self.workers:
            worker.wait()
        self.reaper.end()
        time.sleep(self._settings.cache + LINGERING)
        for worker in self.workers:
            worker.end()

    def kill(self) -> None:
        """End everybody at once."""
        for process in (self.reaper, *self.workers):
            process.kill()

    def recorded(self) -> int:
        """How many operations are in the logs by now."""
        return sum(history.recorded(task.log) for task in self.tasks if task.log.exists())

    def _worker(self, slot: int) -> Process:
        """In four places there is each pair of synchronous or not, and listening or with a clock that steps."""
        listening = slot % 4 in (0, 3)
        return Process(work, self._task(f"worker {len(self.tasks)}", slot % 2 == 1, listening, stepping=not listening))

    def _task(self, name: str, asynchronous: bool = False, listening: bool = False, stepping: bool = False) -> Task:
        task = Task(
            name=name,
            url=self._where.url,
            secret=self._secret,
            log=self._where.folder / name.replace(" ", "-"),
            board=self._where.folder / "board",
            seed=self._settings.seed + 1000 * len(self.tasks),
            cache=self._settings.cache,
            asynchronous=asynchronous,
            listening=listening and self._where.postgresql,
            stepping=stepping,
            broken=self._settings.broken,
        )
        self.tasks.append(task)
        return task


def make(settings: Settings) -> Findings:
    """
    Make a history, and judge it.

    Raises:
        RuntimeError: a process has failed.
    """
    with place(settings.store) as where, _company(where, settings) as company:
        strikes = endure(company, where, settings)
        company.end()
        bound = round(settings.cache * SECOND)
        reaper, *workers = (
            Log(task.name, Recorded(task), 0 if task.name == "reaper" else bound, task.stepping)
            for task in company.tasks
        )
        return check(reaper, [reaper, *workers], strikes)


@dataclass(frozen=True)
class Recorded:
    """The records of a process, read anew each time."""

    task: Task

    def __iter__(self) -> Iterator[history.Record]:
        return history.read(self.task.log) if self.task.log.exists() else iter(())


@contextmanager
def _company(where: Place, settings: Settings) -> Iterator[Company]:
    company = Company(where, settings)
    try:
        company.begin()
        yield company
    finally:
        company.kill()


def endure(company: Company, where: Place, settings: Settings) -> list[Strike]:
    """Let time pass, with a nemesis now and then."""
    chance = random.Random(settings.seed)
    scene = Scene(where, company.reaper, company.ready, company.replace, max(1.0, 1.5 * settings.cache), chance)
    names = able(where, settings.cache, settings.nemeses)
    weights = [NEMESES[name][1] for name in names]
    strikes: list[Strike] = []
    until = time.monotonic() + settings.seconds
    while time.monotonic() < until or company.recorded() < settings.operations:
        company.reaper.is_ready()
        time.sleep(chance.uniform(*CALM))
        if names and company.ready():
            strike, _ = NEMESES[chance.choices(names, weights)[0]]
            strikes += strike(scene)
    return strikes
