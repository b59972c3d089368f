"""
Judges a history: which of its verdicts break a promise?

Nothing here knows a clock, a file or a store. A verdict is judged by when it began and returned, against when changes
of its token began and returned: while the two overlap, either answer is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from .history import ENDINGS, VERIFICATIONS, Operation, Record, Result

NEVER = 2**64
SECOND = 10**9

TOLERANCE = SECOND // 20
"""For the end of a grace alone, which is told by the wall clock and compared here by the steady one."""

RECOVERY = 5 * SECOND
"""How long after a disturbance a verdict may still be out of reach."""

HUNG = 5 * SECOND
"""How long a verdict may take: a find gives up after 2 s, and a busy machine needs some time."""

SHOWN = 5
"""How many violations of a kind are kept."""


class Kind(Enum):
    """Which promise is broken."""

    GRANTED_DEAD = "granted after its end"
    GRANTED_OVER = "granted after its grace"
    GRANTED_SUSPENDED = "granted while suspended"
    CAME_BACK = "granted after it was denied as revoked"
    MIXED_UP = "granted as another key"
    UNKNOWN = "unknown after it was issued"
    DENIED_ALIVE = "denied while alive"
    UNAVAILABLE = "unavailable, undisturbed"
    HUNG = "no answer in time"


class Violation(NamedTuple):
    """A broken promise, and the operation that broke it; *late*: by how many nanoseconds, where that can be said."""

    kind: Kind
    process: str
    record: Record
    late: int = 0


class Strike(NamedTuple):
    """
    What a nemesis did, and when. Times are nanoseconds.

    Attributes:
        unsettles: the process whose verdicts may be ``Unavailable`` because of it; "*" for all, "" for none.
    """

    nemesis: str
    start: int
    end: int
    unsettles: str = ""


@dataclass(frozen=True)
class Log:
    """
    What one process wrote down.

    Attributes:
        bound: nanoseconds that its verdicts may be out of date.
        stepping: whether its wall clock is set forward and back, so that it cannot know when a grace is over.
    """

    process: str
    records: Iterable[Record]
    bound: int = 0
    stepping: bool = False


@dataclass(slots=True)
class Life:
    """
    What happened to a token. Times are nanoseconds.

    Attributes:
        issued: when the verb that made it returned.
        dying, dead: when the first change that ends it began, and when one returned.
        rolled, rolled_by: when a roll with a grace began and returned.
        over, over_by: when that grace may be over at the earliest, and must be.
        suspensions: of its workspace: when suspending began and returned, and when resuming began and returned.
    """

    issued: int = NEVER
    dying: int = NEVER
    dead: int = NEVER
    rolled: int = NEVER
    rolled_by: int = NEVER
    over: int = NEVER
    over_by: int = NEVER
    suspensions: list[tuple[int, int, int, int]] = field(default_factory=list)
    revoked: bool = False


@dataclass
class Findings:
    """
    What a history shows. Times are nanoseconds.

    Attributes:
        denials: by reason.
        ended: tokens that were ended for good; *revoked*: those of them by ``revoke`` or ``reissue``.
        lost: changes that raised, and were taken for landed or not.
        longest_life: from the return of what ended a token to the start of the last verdict that granted it.
        longest_here: the same in the process that ended it.
        recovery: from the end of a disturbance of all processes to the end of the last verdict out of reach.
    """

    changes: int = 0
    verifications: int = 0
    grants: int = 0
    unavailable: int = 0
    denials: Counter[str] = field(default_factory=Counter)
    ended: int = 0
    revoked: int = 0
    lost: int = 0
    longest_life: int = 0
    longest_here: int = 0
    recovery: int = 0
    strikes: Counter[str] = field(default_factory=Counter)
    violations: Counter[Kind] = field(default_factory=Counter)
    shown: list[Violation] = field(default_factory=list)

    @property
    def operations(self) -> int:
        """All that was recorded."""
        return self.changes + self.verifications

    def violate(self, kind: Kind, process: str, record: Record, late: int = 0) -> None:
        """Count a violation, and keep it if there are not many of its kind."""
        self.violations[kind] += 1
        if self.violations[kind] <= SHOWN:
            self.shown.append(Violation(kind, process, record, late))


def check(changes: Log, verdicts: Iterable[Log], strikes: Sequence[Strike] = ()) -> Findings:
    """
    Judge a history.

    Args:
        changes: the log of the process that changed keys; its own verdicts are to be among *verdicts*.
        verdicts: the logs to be judged. What stands there besides verdicts is passed over.
    """
    findings = Findings(strikes=Counter(strike.nemesis for strike in strikes))
    lives = lives_of(changes, findings, strikes)
    sightings = _Sightings()
    for log in verdicts:
        for record in log.records:
            if record.operation in VERIFICATIONS:
                findings.verifications += 1
                _judge(record, lives.get(record.token, _UNHEARD_OF), log, strikes, findings)
                sightings.see(record, log)
    sightings.judge(findings)
    findings.longest_life, findings.longest_here = sightings.longest(lives)
    return findings


def lives_of(log: Log, findings: Findings, strikes: Sequence[Strike] = ()) -> Mapping[int, Life]:
    """What the changes in *log* meant for each token."""
    lives: dict[int, Life] = {}
    suspending: dict[int, Record] = {}
    for record in log.records:
        operation, result, token, start, end = record
        if operation in VERIFICATIONS:
            continue
        findings.changes += 1
        if result == Result.LOST:
            findings.lost += 1
            if not _excused(record, log.process, strikes):
                findings.violate(Kind.UNAVAILABLE, log.process, record)
        if operation == Operation.ATTEMPT:
            continue
        life = lives.setdefault(token, Life())
        if operation == Operation.ISSUE:
            life.issued = end
        elif operation in ENDINGS or result == Result.LOST:
            life.dying = min(life.dying, start)
            if result == Result.DONE:
                life.dead = min(life.dead, end)
                life.revoked |= operation in (Operation.REVOKE, Operation.REISSUE)
        elif operation == Operation.GRACE:
            life.rolled, life.rolled_by = start, end
        elif operation == Operation.OVER:
            life.over, life.over_by = start, end
        elif operation == Operation.SUSPEND:
            suspending[token] = record
        else:
            begun = suspending.pop(token)
            life.suspensions.append((begun.start, begun.end, start, end))
    for token, begun in suspending.items():
        lives[token].suspensions.append((begun.start, begun.end, NEVER, NEVER))
    findings.ended = sum(life.dead < NEVER for life in lives.values())
    findings.revoked = sum(life.revoked for life in lives.values())
    return lives


_UNHEARD_OF = Life()


def _judge(record: Record, life: Life, log: Log, strikes: Sequence[Strike], findings: Findings) -> None:
    """What one verdict breaks."""
    if record.result == Result.GRANTED:
        findings.grants += 1
        _judge_grant(record, life, log, findings)
    elif record.result == Result.UNAVAILABLE:
        findings.unavailable += 1
        findings.recovery = max(findings.recovery, _lateness(record, log.process, strikes))
        if not _excused(record, log.process, strikes):
            findings.violate(Kind.UNAVAILABLE, log.process, record)
    elif record.result == Result.MIXED_UP:
        findings.violate(Kind.MIXED_UP, log.process, record)
    else:
        findings.denials[Result(record.result).name.lower()] += 1
        _judge_denial(record, life, log, findings)
    if record.end - record.start > HUNG and not _excused(record, log.process, strikes):
        findings.violate(Kind.HUNG, log.process, record, record.end - record.start)


def _judge_grant(record: Record, life: Life, log: Log, findings: Findings) -> None:
    start = record.start - log.bound
    if start > life.dead:
        findings.violate(Kind.GRANTED_DEAD, log.process, record, start - life.dead)
    if not log.stepping and record.start > life.over_by + TOLERANCE and start > life.rolled_by:
        findings.violate(Kind.GRANTED_OVER, log.process, record, record.start - life.over_by)
    for _, suspended, resuming, _ in life.suspensions:
        if start > suspended and record.end < resuming:
            findings.violate(Kind.GRANTED_SUSPENDED, log.process, record, start - suspended)


def _judge_denial(record: Record, life: Life, log: Log, findings: Findings) -> None:
    if record.result == Result.UNKNOWN:
        if record.start > life.issued:
            findings.violate(Kind.UNKNOWN, log.process, record, record.start - life.issued)
    elif not _may_be_denied(record, life, log):
        findings.violate(Kind.DENIED_ALIVE, log.process, record)


def _may_be_denied(record: Record, life: Life, log: Log) -> bool:
    """Whether the token may have been dead or suspended for somebody who asked then."""
    if record.result == Result.OTHER:
        return False
    expiring = life.rolled if log.stepping else life.over - TOLERANCE
    if record.end >= min(life.dying, max(expiring, life.rolled)):
        return True
    return record.result == Result.SUSPENDED and any(
        record.end >= suspending and record.start <= resumed + log.bound
        for suspending, _, _, resumed in life.suspensions
    )


def _excused(record: Record, process: str, strikes: Sequence[Strike]) -> bool:
    """Whether a nemesis was at work, or had just gone."""
    return any(_unsettled(record, strike) for strike in strikes if strike.unsettles in ("*", process))


def _unsettled(record: Record, strike: Strike) -> bool:
    return strike.start <= record.end and record.start <= strike.end + RECOVERY


def _lateness(record: Record, process: str, strikes: Sequence[Strike]) -> int:
    """How long after the last disturbance of all processes *record* ended, if nothing else disturbed its own."""
    around = [strike for strike in strikes if _unsettled(record, strike)]
    if any(strike.unsettles == process for strike in around):
        return 0
    return max(0, min((record.end - strike.end for strike in around if strike.unsettles == "*"), default=0))


class _Sightings:
    """
    When each token was last granted, and when it was first denied as revoked.

    Without a cache a verdict that begins after another one returned reads no earlier state, whatever process it is in.
    With one that holds within each cache, and each process has one for threads and one for asyncio.
    """

    def __init__(self) -> None:
        self._granted: dict[tuple[str, int], tuple[str, Record]] = {}
        self._denied: dict[tuple[str, int], int] = {}

    def see(self, record: Record, log: Log) -> None:
        """Take note of a verdict."""
        place = f"{log.process} {record.operation}" if log.bound else "", record.token
        if record.result == Result.GRANTED:
            last = self._granted.get(place)
            if last is None or record.start > last[1].start:
                self._granted[place] = log.process, record
        elif record.result == Result.REVOKED:
            self._denied[place] = min(record.end, self._denied.get(place, NEVER))

    def judge(self, findings: Findings) -> None:
        """Find what lived again."""
        for place, (process, record) in self._granted.items():
            denied = self._denied.get(place, NEVER)
            if record.start > denied:
                findings.violate(Kind.CAME_BACK, process, record, record.start - denied)

    def longest(self, lives: Mapping[int, Life]) -> tuple[int, int]:
        """How long a token lived after it was dead, in any place and where there is no bound to allow it."""
        anywhere = here = 0
        for (place, token), (_, record) in self._granted.items():
            if token in lives:
                lived = record.start - lives[token].dead
                anywhere, here = max(anywhere, lived), here if place else max(here, lived)
        return anywhere, here
