"""The checker finds each kind of broken promise, and nothing in a history that breaks none."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from .check import HUNG, NEVER, RECOVERY, SECOND, TOLERANCE, Findings, Kind, Log, Strike, check
from .history import Operation, Record, Result

MS = SECOND // 1000
NEW, OLD = 1, 0
LATER = 5

ISSUED = (Operation.ISSUE, Result.DONE, OLD, 100, 200)
REVOKED = (Operation.REVOKE, Result.DONE, OLD, 1000, 2000)
SUSPENDED = (Operation.SUSPEND, Result.DONE, OLD, 1000, 2000)
RESUMED = (Operation.RESUME, Result.DONE, OLD, 3000, 4000)
Row = tuple[Operation, Result, int, int, int]
Verdict = tuple[Result, int, int]


def judged(
    changes: Sequence[Row],
    *verdicts: Verdict,
    bound: int = 0,
    stepping: bool = False,
    strikes: Sequence[Strike] = (),
) -> Findings:
    """What a history shows in which one worker verified one token, as (result, start, end)."""
    worker = [Record(Operation.VERIFY, result, OLD, start, end) for result, start, end in verdicts]
    reaper = Log("reaper", [Record(*row) for row in changes])
    return check(reaper, [reaper, Log("worker", worker, bound, stepping)], strikes)


def kinds(findings: Findings) -> list[Kind]:
    """What is broken."""
    return sorted(findings.violations.elements(), key=lambda kind: kind.name)


def graceful(over: int) -> list[Row]:
    """The token is rolled between 1,000 and 2,000, and its grace ends at *over*, or some moments later."""
    return [
        ISSUED,
        (Operation.GRACE, Result.DONE, OLD, 1000, 2000),
        (Operation.OVER, Result.DONE, OLD, over, over + LATER),
        (Operation.ISSUE, Result.DONE, NEW, 1000, 2000),
    ]


# Histories that break nothing


def test_either_answer_is_right_while_a_key_is_being_revoked() -> None:
    """A verdict that overlaps the revocation may have read what stood before, or after."""
    findings = judged([ISSUED, REVOKED], (Result.GRANTED, 1500, 9000), (Result.REVOKED, 500, 1500))
    assert kinds(findings) == []


def test_counts() -> None:
    """Everything that was recorded is counted."""
    findings = judged(
        [ISSUED, (Operation.ROLL, Result.DONE, OLD, 1000, 2000), (Operation.ISSUE, Result.DONE, NEW, 1000, 2000)],
        (Result.GRANTED, 300, 400),
        (Result.EXPIRED, 3000, 4000),
        strikes=[Strike("stop", 0, 1, "worker"), Strike("step", 0, 1), Strike("step", 2, 3)],
    )
    assert (findings.operations, findings.changes, findings.verifications) == (5, 3, 2)
    assert (findings.grants, findings.unavailable, dict(findings.denials)) == (1, 0, {"expired": 1})
    assert (findings.ended, findings.revoked, findings.lost) == (1, 0, 0)
    assert dict(findings.strikes) == {"stop": 1, "step": 2}


@given(st.data())
def test_what_could_have_happened_breaks_nothing(data: st.DataObject) -> None:
    """
    Whatever the changes' moments of taking effect are within their calls, and those of reading within the verdicts or
    their bound before: a history that follows from them has no violation.
    """
    times = sorted(data.draw(st.lists(st.integers(0, 2000), min_size=8, max_size=8)))
    (s1, s2), (r1, r2), (d1, d2) = ((times[n], times[n + 1]) for n in (2, 4, 6))
    suspended, resumed, died = (data.draw(st.integers(*span)) for span in ((s1, s2), (r1, r2), (d1, d2)))
    changes: list[Row] = [
        (Operation.ISSUE, Result.DONE, OLD, times[0], times[1]),
        (Operation.SUSPEND, Result.DONE, OLD, s1, s2),
        (Operation.RESUME, Result.DONE, OLD, r1, r2),
        (Operation.REVOKE, Result.DONE, OLD, d1, d2),
    ]
    reaper = Log("reaper", [Record(*row) for row in changes])
    bound = data.draw(st.sampled_from([0, 300]))
    logs = []
    for process in range(3):
        moments = sorted(data.draw(st.lists(st.integers(times[1], 3000), max_size=12)))
        records, read = [], 0
        for start, end in list(pairwise(moments))[::2]:
            read = data.draw(st.integers(max(read, start - bound), end))
            dead, paused = read >= died, suspended <= read < resumed
            result = Result.REVOKED if dead else Result.SUSPENDED if paused else Result.GRANTED
            records.append(Record(Operation.VERIFY, result, OLD, start, end))
        logs.append(Log(f"worker {process}", records, bound))
    findings = check(reaper, [reaper, *logs])
    assert findings.shown == []
    assert findings.longest_life <= bound
    late = Record(Operation.VERIFY, Result.GRANTED, OLD, d2 + bound + 1, 9999)
    assert Kind.GRANTED_DEAD in check(reaper, [*logs, Log("worker", [late], bound)]).violations
    if d1 > s1 - 1 > times[1]:
        early = Record(Operation.VERIFY, Result.REVOKED, OLD, times[1], s1 - 1)
        assert Kind.DENIED_ALIVE in check(reaper, [*logs, Log("worker", [early], bound)]).violations


# Histories that break something


def test_a_grant_after_the_revocation() -> None:
    """A grant that began after `revoke` had returned is found, and how late it was."""
    findings = judged([ISSUED, REVOKED], (Result.GRANTED, 2007, 2008))
    assert kinds(findings) == [Kind.GRANTED_DEAD]
    assert (findings.shown[0].process, findings.shown[0].late) == ("worker", 7)
    assert findings.longest_life == findings.longest_here == 7


@pytest.mark.parametrize("operation", [Operation.REVOKE, Operation.REISSUE, Operation.ROLL, Operation.END_GRACE])
def test_whatever_ends_a_token(operation: Operation) -> None:
    """Each verb that ends a token is held to it."""
    findings = judged([ISSUED, (operation, Result.DONE, OLD, 1000, 2000)], (Result.GRANTED, 2001, 2002))
    assert kinds(findings) == [Kind.GRANTED_DEAD]


def test_the_bound_of_a_cache() -> None:
    """With a cache a grant may begin that much later, and not a nanosecond more."""
    granted = [(Result.GRANTED, 2000 + 500 + late, 9000) for late in (0, 1)]
    within = judged([ISSUED, REVOKED], granted[0], bound=500)
    assert kinds(within) == []
    assert (within.longest_life, within.longest_here) == (500, 0)
    assert kinds(judged([ISSUED, REVOKED], granted[1], bound=500)) == [Kind.GRANTED_DEAD]


def test_a_cache_does_not_excuse_the_process_that_revoked() -> None:
    """The reaper's own verdicts have no bound."""
    changes = [*(ISSUED, REVOKED), (Operation.VERIFY_ASYNC, Result.GRANTED, OLD, 2001, 2002)]
    assert kinds(judged(changes, bound=500)) == [Kind.GRANTED_DEAD]


def test_a_revocation_that_raised_proves_nothing() -> None:
    """It may have landed: either answer is right until one returns."""
    lost = (Operation.REVOKE, Result.LOST, OLD, 500, 600)
    restart = [Strike("restart", 0, 900, "*")]
    either = [(Result.GRANTED, 700, 710), (Result.GRANTED, 1990, 2100)]
    findings = judged([ISSUED, lost, REVOKED], *either, strikes=restart)
    assert (kinds(findings), findings.lost) == ([], 1)
    assert kinds(judged([ISSUED, lost, REVOKED], (Result.REVOKED, 700, 710), strikes=restart)) == []
    assert kinds(judged([ISSUED, lost, REVOKED], (Result.REVOKED, 400, 499), strikes=restart)) == [Kind.DENIED_ALIVE]


@pytest.mark.parametrize("operation", [Operation.REVOKE, Operation.ATTEMPT])
def test_a_change_that_raised_undisturbed(operation: Operation) -> None:
    """Without a nemesis changes return."""
    findings = judged([ISSUED, (operation, Result.LOST, OLD, 1000, 2000)])
    assert kinds(findings) == [Kind.UNAVAILABLE]


def test_a_dead_token_that_comes_back() -> None:
    """Even while `revoke` is under way: who has seen the token dead does not see it live again, in any process."""
    back = (Result.REVOKED, 1100, 1200), (Result.GRANTED, 1201, 1300)
    assert kinds(judged([ISSUED, REVOKED], *back)) == [Kind.CAME_BACK]
    assert kinds(judged([ISSUED, REVOKED], *back, bound=500)) == [Kind.CAME_BACK]
    changes = [*(ISSUED, REVOKED), (Operation.VERIFY, Result.REVOKED, OLD, 1100, 1200)]
    assert kinds(judged(changes, back[1])) == [Kind.CAME_BACK]
    assert kinds(judged(changes, back[1], bound=500)) == []  # another process has a cache of its own


def test_a_denial_of_a_key_that_nobody_revoked() -> None:
    """Not before its end begins, not with any reason."""
    for result in (Result.REVOKED, Result.EXPIRED, Result.SUSPENDED, Result.OTHER):
        assert kinds(judged([ISSUED], (result, 300, 400))) == [Kind.DENIED_ALIVE]
    for result in (Result.REVOKED, Result.EXPIRED):
        assert kinds(judged([ISSUED, REVOKED], (result, 300, 999))) == [Kind.DENIED_ALIVE]
    assert kinds(judged([ISSUED, REVOKED], (Result.OTHER, 3000, 4000))) == [Kind.DENIED_ALIVE]


def test_create_then_unknown() -> None:
    """A key is known once `issue` has returned, revoked or not, whatever cache there is."""
    assert kinds(judged([ISSUED], (Result.UNKNOWN, 199, 400))) == []
    assert kinds(judged([ISSUED, REVOKED], (Result.UNKNOWN, 201, 400), (Result.UNKNOWN, 5000, 5001), bound=500)) == [
        Kind.UNKNOWN,
        Kind.UNKNOWN,
    ]


def test_a_roll_with_a_grace() -> None:
    """The old token lives until the clock says that its grace is over, and not longer."""
    over = 20 * SECOND
    alive, dead = over - TOLERANCE, over + LATER + TOLERANCE
    assert kinds(judged(graceful(over), (Result.GRANTED, dead, dead), (Result.EXPIRED, alive, alive))) == []
    assert kinds(judged(graceful(over), (Result.EXPIRED, alive - 2, alive - 1))) == [Kind.DENIED_ALIVE]
    assert kinds(judged(graceful(over), (Result.GRANTED, dead + 1, dead + 2))) == [Kind.GRANTED_OVER]


def test_a_cache_may_not_know_of_the_grace_yet() -> None:
    """It may show the token as it was before the roll, for as long as its bound."""
    over, bound = SECOND, 3 * SECOND
    assert kinds(judged(graceful(over), (Result.GRANTED, bound + 2000, 4 * SECOND), bound=bound)) == []
    late = (Result.GRANTED, bound + 2001, 4 * SECOND)
    assert kinds(judged(graceful(over), late, bound=bound)) == [Kind.GRANTED_OVER]


def test_a_clock_that_steps_knows_no_grace() -> None:
    """It may end it at any time after the roll, or not at all; but not before, and no other end is put off."""
    over = 20 * SECOND
    verdicts = (Result.EXPIRED, 1000, 1001), (Result.GRANTED, 30 * SECOND, 31 * SECOND)
    assert kinds(judged(graceful(over), *verdicts, stepping=True)) == []
    assert kinds(judged(graceful(over), (Result.EXPIRED, 900, 999), stepping=True)) == [Kind.DENIED_ALIVE]
    ended: Row = (Operation.END_GRACE, Result.DONE, OLD, 3000, 4000)
    assert kinds(judged([*graceful(over), ended], verdicts[1], stepping=True)) == [Kind.GRANTED_DEAD]


def test_a_suspension() -> None:
    """No key of the workspace is granted while it holds, and none is denied because of it before or after."""
    changes = [ISSUED, SUSPENDED, RESUMED]
    fine = [(Result.GRANTED, 2000, 2001), (Result.SUSPENDED, 2500, 2501), (Result.SUSPENDED, 4000, 4001)]
    assert kinds(judged(changes, *fine, (Result.GRANTED, 2001, 3000), (Result.SUSPENDED, 900, 1000))) == []
    assert kinds(judged(changes, (Result.GRANTED, 2001, 2999))) == [Kind.GRANTED_SUSPENDED]
    assert kinds(judged(changes[:-1], (Result.GRANTED, 2001, 2999))) == [Kind.GRANTED_SUSPENDED]
    for early_or_late in ((Result.SUSPENDED, 900, 999), (Result.SUSPENDED, 4001, 4002), (Result.REVOKED, 2500, 2501)):
        assert kinds(judged(changes, early_or_late)) == [Kind.DENIED_ALIVE]
    assert kinds(judged(changes, (Result.GRANTED, 2500, 2501), (Result.SUSPENDED, 4500, 4501), bound=500)) == []


def test_a_grant_for_somebody_else() -> None:
    """A principal of another token is nobody's grant."""
    assert kinds(judged([ISSUED], (Result.MIXED_UP, 300, 400))) == [Kind.MIXED_UP]


def test_no_verdict_needs_a_nemesis() -> None:
    """`Unavailable` is no denial, but there must be a cause, at work or gone for less than five seconds."""
    verdict = Result.UNAVAILABLE, 10 * SECOND, 10 * SECOND + MS
    assert kinds(judged([ISSUED], verdict)) == [Kind.UNAVAILABLE]
    at_work, just_gone = (
        Strike("restart", 0, 11 * SECOND, "*"),
        Strike("restart", 0, 10 * SECOND - RECOVERY, "*"),
    )
    for strike in (at_work, just_gone, at_work._replace(unsettles="worker")):
        findings = judged([ISSUED], verdict, strikes=[strike])
        assert (kinds(findings), findings.unavailable, findings.grants) == ([], 1, 0)
    others = (
        just_gone._replace(end=just_gone.end - 1),
        at_work._replace(start=NEVER),
        at_work._replace(unsettles="another worker"),
        at_work._replace(unsettles=""),
    )
    for strike in others:
        assert kinds(judged([ISSUED], verdict, strikes=[strike])) == [Kind.UNAVAILABLE]


def test_how_long_it_took_to_come_back() -> None:
    """From the end of what disturbed everybody to the last verdict out of reach, if nothing else was its cause."""
    restart, stop = Strike("restart", 0, SECOND, "*"), Strike("stop", 0, SECOND, "worker")
    verdicts = [(Result.UNAVAILABLE, at, at + 1) for at in (MS, SECOND + MS, SECOND + 2 * MS)]
    assert judged([ISSUED], *verdicts, strikes=[restart]).recovery == 2 * MS + 1
    assert judged([ISSUED], verdicts[0], strikes=[restart]).recovery == 0
    again = Strike("restart", SECOND + 2 * MS - 1, SECOND + 2 * MS, "*")
    assert judged([ISSUED], *verdicts, strikes=[restart, again]).recovery == MS + 1
    assert judged([ISSUED], *verdicts, strikes=[restart, stop]).recovery == 0


def test_an_answer_that_takes_too_long() -> None:
    """Somebody who waits for ever is refused without being told; a process that was stopped cannot help it."""
    slow = Result.GRANTED, 300, 301 + HUNG
    assert kinds(judged([ISSUED], slow)) == [Kind.HUNG]
    assert kinds(judged([ISSUED], slow, strikes=[Strike("stop", 400, 500, "worker")])) == []


def test_many_violations_are_counted_and_a_few_are_shown() -> None:
    """A broken build does not fill the memory."""
    findings = judged([ISSUED, REVOKED], *[(Result.GRANTED, 2001 + n, 3000 + n) for n in range(100)])
    assert findings.violations == {Kind.GRANTED_DEAD: 100}
    assert len(findings.shown) == 5
