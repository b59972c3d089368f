"""What goes wrong while a history is made. Each nemesis strikes once, sees to it that it is over, and tells when."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic_ns
from typing import Protocol

import psycopg

from .check import Strike
from .places import Place


class Target(Protocol):
    """A process that can be struck."""

    name: str
    stepping: bool

    @property
    def pid(self) -> int:
        """Of the process."""
        ...

    def order(self, word: object) -> None:
        """Tell it something."""
        ...


@dataclass(frozen=True)
class Scene:
    """
    What the nemeses strike.

    Attributes:
        longest: seconds that a process is stopped, at most.
        replace: kills a worker, and puts another in its place.
        workers: those that are at work, as they are now.
    """

    place: Place
    reaper: Target
    workers: Callable[[], Sequence[Target]]
    replace: Callable[[Target], None]
    longest: float
    random: random.Random = field(default_factory=random.Random)


def stop(scene: Scene) -> Iterator[Strike]:
    """SIGSTOP a worker, and SIGCONT it after a time longer than its cache keeps anything, or shorter."""
    yield from _stop("stop", scene, scene.random.choice(scene.workers()))


def stop_reaper(scene: Scene) -> Iterator[Strike]:
    """The same with the reaper, perhaps in the middle of a commit."""
    yield from _stop("stop-reaper", scene, scene.reaper)


def _stop(name: str, scene: Scene, target: Target) -> Iterator[Strike]:
    start = monotonic_ns()
    os.kill(target.pid, signal.SIGSTOP)
    try:
        time.sleep(scene.random.uniform(0.05, scene.longest))
    finally:
        os.kill(target.pid, signal.SIGCONT)
    yield Strike(name, start, monotonic_ns(), target.name)


def kill(scene: Scene) -> Iterator[Strike]:
    """SIGKILL a worker, in whose place another one begins."""
    start = monotonic_ns()
    scene.replace(scene.random.choice(scene.workers()))
    yield Strike("kill", start, monotonic_ns())


def restart(scene: Scene) -> Iterator[Strike]:
    """
    Stop PostgreSQL in the way of ``pg_ctl -m immediate``, and start it again: it recovers from its log.

    The tests' server does not wait for the disk. This crash takes its processes only, and what they have written lives
    on in the operating system, so nothing that was acknowledged may be missing.
    """
    server = scene.place.server
    assert server is not None
    start = monotonic_ns()
    server.stop(signal.SIGQUIT)
    server.start()
    yield Strike("restart", start, monotonic_ns(), "*")


def drop(scene: Scene) -> Iterator[Strike]:
    """End the connections of all listeners in the server, so that they miss what is said until they are back."""
    start = monotonic_ns()
    with psycopg.connect(scene.place.url, autocommit=True) as connection:
        connection.execute(
            b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            b" WHERE datname = current_database() AND query LIKE 'LISTEN %'"
        )
    yield Strike("drop", start, monotonic_ns())


def step(scene: Scene) -> Iterator[Strike]:
    """Set the wall clock of a worker hours forward or back."""
    start = monotonic_ns()
    workers = [worker for worker in scene.workers() if worker.stepping]
    for worker in scene.random.sample(workers, min(1, len(workers))):
        worker.order(3600 * scene.random.uniform(-9, 9))
        yield Strike("step", start, monotonic_ns())


NEMESES: Mapping[str, tuple[Callable[[Scene], Iterator[Strike]], int]] = {
    "stop": (stop, 4),
    "stop-reaper": (stop_reaper, 2),
    "kill": (kill, 1),
    "restart": (restart, 1),
    "drop": (drop, 3),
    "step": (step, 4),
}
"""Each by its name, and how often it strikes in comparison."""


def able(place: Place, cache: float, names: Sequence[str]) -> list[str]:
    """Those of *names* that have something to strike."""
    idle = set() if place.server else {"restart"}
    if not (place.postgresql and cache):
        idle.add("drop")
    return [name for name in names if name not in idle]
