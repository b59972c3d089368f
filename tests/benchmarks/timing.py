"""
Measuring by turns: every side runs for a few milliseconds, one after the other, round after round, in one process.

Whatever disturbs the machine then disturbs all sides alike, and what counts is a ratio within a round. Its spread over
the rounds, from the 10th to the 90th percentile, is the noise that is left. The collector of garbage rests meanwhile.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Coroutine, Iterable, Mapping
from itertools import repeat
from random import Random
from statistics import median, quantiles
from time import perf_counter
from timeit import Timer
from typing import Any, NamedTuple

Side = Callable[[int], float]
"""Does its work so many times, and returns the seconds that this took."""

Times = Mapping[str, list[float]]
"""For each side, round by round, the seconds that its work took once."""

BATCH = 0.003
"""Seconds that a side works before it is the next one's turn."""


class Spread(NamedTuple):
    """The median of some numbers, and their 10th and 90th percentile."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: Iterable[float]) -> Spread:
        sample = list(numbers)
        tenths = quantiles(sample, n=10, method="inclusive")
        return cls(median(sample), tenths[0], tenths[-1])


def statement(source: str, /, **names: object) -> Side:
    """A side that is a statement, without a call around it."""
    return Timer(source, globals=names).timeit


def finished(waiting: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns that never waits. No event loop: its own work is no part of either side."""
    try:
        waiting.send(None)
    except StopIteration as end:
        return end.value
    raise RuntimeError("it waits for something")


def awaited(make: Callable[[], Coroutine[Any, Any, object]]) -> Side:
    """A side that awaits coroutines which never wait."""

    async def burst(number: int) -> float:
        started = perf_counter()
        for _ in repeat(None, number):
            await make()
        return perf_counter() - started

    return lambda number: finished(burst(number))


def by_turns(sides: Mapping[str, Side], rounds: int) -> Times:
    """Let all sides work in turn, in another order each round, so that none always follows the same one."""
    numbers = {name: _often_enough(side) for name, side in sides.items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    names, dice = list(sides), Random(rounds)
    gc.disable()
    try:
        for _ in range(rounds):
            dice.shuffle(names)
            for name in names:
                times[name].append(sides[name](numbers[name]) / numbers[name])
            gc.collect(0)
    finally:
        gc.enable()
    return times


def _often_enough(side: Side) -> int:
    """How often a side's work fits a batch."""
    number = 1
    while (taken := side(number)) < BATCH / 2:
        number *= 2
    return max(1, round(number * BATCH / taken))


def ratio(times: Times, ours: str, theirs: str) -> Spread:
    """How many times *theirs* one *ours* takes."""
    return Spread.of(a / b for a, b in zip(times[ours], times[theirs], strict=True))


def added(times: Times, ours: str, theirs: str, bare: str) -> Spread:
    """
    The same for what each of the two adds to what *bare* takes.

    A small difference of two noisy numbers is no divisor, so each one is the median over a twentieth of the rounds.
    """
    rounds = len(times[bare])
    size = max(1, rounds // 20)
    sections = [slice(start, start + size) for start in range(0, rounds, size)]
    return Spread.of(_more(times, ours, bare, part) / _more(times, theirs, bare, part) for part in sections)


def _more(times: Times, name: str, bare: str, part: slice) -> float:
    return median(a - b for a, b in zip(times[name][part], times[bare][part], strict=True))


def micros(times: Times, name: str) -> float:
    """The median of a side, in microseconds."""
    return median(times[name]) * 1e6
