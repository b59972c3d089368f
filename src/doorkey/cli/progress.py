"""How far a long command is: one line on a terminal, drawn over and over, and gone at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Draw = Callable[[str, int, int], None]
"""Takes what is being done, how much of it is done, and how much there is."""

_WIDTH = 30


@contextmanager
def bar() -> Iterator[Draw]:
    """A progress bar on stderr. Where that is no terminal, nothing is drawn."""
    terminal = sys.stderr
    if terminal is None or not terminal.isatty():
        yield lambda doing, done, total: None
        return
    last = ""

    def draw(doing: str, done: int, total: int) -> None:
        nonlocal last
        done = min(done, total)
        full = _WIDTH * done // total if total else _WIDTH
        percent = 100 * done // total if total else 100
        line = f"{doing} [{'#' * full}{'.' * (_WIDTH - full)}] {percent:3} % of {total:,}"
        if line != last:
            terminal.write(f"\r{line:{len(last)}}")
            terminal.flush()
            last = line

    try:
        yield draw
    finally:
        terminal.write(f"\r{'':{len(last)}}\r")
        terminal.flush()
