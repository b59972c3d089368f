"""How answers are printed: as text for people, or as one JSON document for programs."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from unicodedata import combining, east_asian_width

from ..core.errors import DoorkeyError

_START = datetime(1970, 1, 1, tzinfo=UTC)


class Unwritten(DoorkeyError):
    """An answer that could not be delivered."""


def report(args: Namespace, value: Mapping[str, object], text: str) -> None:
    """
    Print *value* as JSON if that is wanted, else *text*.

    Raises:
        BrokenPipeError: nobody reads it.
        Unwritten: it cannot be written for another reason.
    """
    try:
        write(json.dumps(value, indent=2) if args.json else text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Unwritten(f"the output cannot be written: {error.strerror}") from None


def write(text: str) -> None:
    """
    Print *text*; it is delivered when this returns.

    Raises:
        OSError: it is not. Whatever is printed from now on is lost, too.
    """
    try:
        print(text, flush=True)
    except OSError:
        abandon()
        raise


def moment(seconds: int | None) -> str | None:
    """A time as ISO 8601 in UTC."""
    if seconds is None:
        return None
    try:
        return (_START + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
    except OverflowError:
        return f"{seconds} s"  # nothing of ours writes such a number, but a damaged store can hold it


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], empty: str = "") -> str:
    """Aligned columns; *empty* if there is no row."""
    cells = [[shown(cell) for cell in row] for row in rows]
    return _aligned([list(headers), *cells]) if cells else empty


def listing(pairs: Mapping[str, object]) -> str:
    """Names and values, one pair a line."""
    return _aligned([[name, shown(value)] for name, value in pairs.items()])


def some(words: Sequence[str] | None, most: int = 3) -> str:
    """The first few of *words*; ``None`` is no restriction at all."""
    if words is None:
        return "any"
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def shown(value: object) -> str:
    """
    *value* in one line that does nothing to a terminal: what is not printable is escaped.

    >>> shown("a\\x1b[2J\\n")
    'a\\\\x1b[2J\\\\n'
    """
    if value is None:
        return "-"
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in str(value))


def abandon() -> None:
    """Give up stdout for good, so that nothing is flushed into it when the process ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _width(text: str) -> int:
    """How many columns of a terminal *text* takes."""
    return sum(0 if combining(sign) else 2 if east_asian_width(sign) in "WF" else 1 for sign in text)
