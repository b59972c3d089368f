"""
What each process of a history writes down: one record an operation, in a file of its own, 24 bytes each.

Times are nanoseconds of CLOCK_MONOTONIC, which all processes of a Linux machine share. Tokens are numbers here: none is
ever written to disk, nor is a digest of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from functools import partial
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import NamedTuple, Self

from doorkey import Decision, Denied, Granted, Reason, Unavailable


class Operation(IntEnum):
    """What was done. A change of a key has a record for each token that it concerns."""

    VERIFY = 1
    VERIFY_ASYNC = 2
    ISSUE = 3
    """This token was made: by ``issue``, or by the ``roll`` or ``reissue`` of its key."""
    REVOKE = 4
    REISSUE = 5
    """Ended this token, in favour of another one."""
    ROLL = 6
    """The same, without a grace."""
    END_GRACE = 7
    GRACE = 8
    """Rolled this token, which lives on for a while."""
    OVER = 9
    """Not done by anybody: when that while may end at the earliest, and must have ended."""
    SUSPEND = 10
    RESUME = 11
    ATTEMPT = 12
    """A change that raised, and was tried again or given up; of no token in particular."""


class Result(IntEnum):
    """What came of it: a verdict, or whether a change returned."""

    GRANTED = 1
    UNAVAILABLE = 2
    UNKNOWN = 3
    REVOKED = 4
    EXPIRED = 5
    SUSPENDED = 6
    OTHER = 7
    """Denied for a reason that this history gives nobody."""
    MIXED_UP = 8
    """Granted as somebody else."""
    DONE = 9
    LOST = 10
    """The change raised, and may have landed all the same."""


class Record(NamedTuple):
    """One operation, from just before it began to just after it returned."""

    operation: int
    result: int
    token: int
    start: int
    end: int


VERIFICATIONS = frozenset({Operation.VERIFY, Operation.VERIFY_ASYNC})
ENDINGS = frozenset({Operation.REVOKE, Operation.REISSUE, Operation.ROLL, Operation.END_GRACE})
"""What leaves a token dead when it returned."""

_LAYOUT = Struct("<HHIQQ")
_BLOCK = 4096 * _LAYOUT.size
_RESULTS = {
    Reason.UNKNOWN: Result.UNKNOWN,
    Reason.REVOKED: Result.REVOKED,
    Reason.EXPIRED: Result.EXPIRED,
    Reason.WORKSPACE_SUSPENDED: Result.SUSPENDED,
}


def result_of(decision: Decision, token_id: str) -> Result:
    """What *decision* about the token with this id means."""
    match decision:
        case Granted(principal):
            return Result.GRANTED if principal.token_id == token_id else Result.MIXED_UP
        case Denied(reason):
            return _RESULTS.get(reason, Result.OTHER)
        case Unavailable():
            return Result.UNAVAILABLE


class Writer:
    """
    Appends records to the file at *path*.

    They are written some hundred at a time; a process that is killed takes the last ones with it.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=200 * _LAYOUT.size)

    def write(self, operation: Operation, result: Result, token: int, start: int, end: int) -> None:
        """Append one record."""
        self._file.write(_LAYOUT.pack(operation, result, token, start, end))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()


def read(path: Path) -> Iterator[Record]:
    """The records in a file, but for the last if its writer was killed in the middle of it."""
    with path.open("rb") as file:
        for block in iter(partial(file.read, _BLOCK), b""):
            whole = len(block) - len(block) % _LAYOUT.size
            yield from map(Record._make, _LAYOUT.iter_unpack(block[:whole]))


def recorded(path: Path) -> int:
    """How many records are in the file by now."""
    return path.stat().st_size // _LAYOUT.size
