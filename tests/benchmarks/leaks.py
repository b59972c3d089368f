"""
What the time of a refusal tells: an unknown token against a revoked one, an expired one, and one from outside its
networks.

    python tests/benchmarks/leaks.py [MEASUREMENTS]

After dudect (Reparaz, Balasch, Verbauwhede, 2016): both classes in random order, the slowest tenth cropped, Welch's
t-test; each class of many tokens, because one that comes again and again differs by the processor's caches alone. The
control compares a class with its like: what it shows is the machine's noise. Each pair is measured three times, and a
difference counts only if every |t| exceeds 10; then the exit status is 1.

Nobody comes upon a stored token by guessing, so all that a difference could tell is whether a token that somebody holds
once existed: what FLUVEO's bodies do not say. That a token comes from outside its networks they say, so that the time
of it is shown, and does not count.
"""

from __future__ import annotations

import gc
import random
import sys
import tempfile
from collections.abc import Iterable
from math import sqrt
from pathlib import Path
from statistics import fmean, variance
from time import perf_counter_ns
from typing import NamedTuple

from doorkey import FLUVEO, Denied, KeyType, Mode, Reason, Requirement, Verifier
from doorkey.core.tokens import Token, mint
from doorkey.storage.protocol import Batch, Properties
from doorkey.storage.sqlite import SQLiteStore
from doorkey.testing import Clock, basic, door

TOKENS = 500
"""Of each class."""

THRESHOLD = 10.0
CROPPED = 0.9
OUTSIDE = "198.51.100.7"
NETWORKS = ["203.0.113.0/24", "2001:db8::/32"]
PAIRS = [("unknown", "unknown too"), ("unknown", "revoked"), ("unknown", "expired"), ("unknown", "outside")]
TOLD = "outside"


class Difference(NamedTuple):
    """What a verdict of one class takes in nanoseconds, how much more one of the other takes, and how certainly."""

    base: float
    effect: float
    t: float

    @classmethod
    def of(cls, one: list[int], two: list[int]) -> Difference:
        effect = fmean(two) - fmean(one)
        return cls(fmean(one), effect, effect / sqrt(variance(one) / len(one) + variance(two) / len(two)))


def classes_and_verifiers(folder: Path) -> tuple[dict[str, list[bytes]], dict[str, Verifier]]:
    """The headers of each class, and a verifier over each store, both with the same keys."""
    clock = Clock()
    house = door(profile=FLUVEO, clock=clock)
    ring = house.keyring.acting("benchmark")
    workspace = ring.provision("Benchmark").id
    tokens: dict[str, list[Token]] = {"revoked": [], "expired": [], "outside": []}
    for _ in range(TOKENS):
        for name, found in tokens.items():
            key = ring.issue(
                workspace,
                type=KeyType.SECRET,
                mode=Mode.TEST,
                name=name,
                networks=NETWORKS,
                expires_at=int(clock()) + (1 if name == "expired" else 10**6),
            )
            found.append(ring.reveal(key.id))
            if name == "revoked":
                ring.revoke(key.id, because="it is a benchmark")
    clock.advance(1)
    for name in PAIRS[0]:
        tokens[name] = [mint(KeyType.SECRET, Mode.TEST) for _ in range(TOKENS)]

    file = SQLiteStore.create(str(folder / "keys.db"), Properties(profile=FLUVEO.name))
    file.commit(
        Batch(
            workspaces=((ring.workspace(workspace), None),),
            keys=tuple((key, None) for key in ring.keys(workspace)),
        )
    )
    digester = house.secrets.digester()
    headers = {name: [basic(token).encode() for token in found] for name, found in tokens.items()}
    return headers, {
        "memory": house.verifier,
        "SQLite": Verifier(file, digester, FLUVEO, clock),
    }


def prove(verifier: Verifier, headers: dict[str, list[bytes]]) -> None:
    """Make sure that each class is what its name says."""
    reasons = {"revoked": Reason.REVOKED, "expired": Reason.EXPIRED, "outside": Reason.NETWORK}
    for name, lines in headers.items():
        for line in lines:
            decision = verifier.verify(line, client_address=OUTSIDE, requires=Requirement.ANY_KEY)
            if not isinstance(decision, Denied) or decision.reason is not reasons.get(name, Reason.UNKNOWN):
                raise RuntimeError(f"{name}: {decision}")


def measure(verifier: Verifier, one: list[bytes], two: list[bytes], count: int) -> Difference:
    """Verify headers of both classes in random order, each time with the clock beside it."""
    order = [(which, random.choice((one, two)[which])) for which in random.choices((0, 1), k=count)]
    verify, requires = verifier.verify, Requirement.ANY_KEY
    taken: tuple[list[int], list[int]] = ([], [])
    gc.collect()
    gc.disable()
    try:
        for which, line in order:
            start = perf_counter_ns()
            verify(line, client_address=OUTSIDE, requires=requires)
            taken[which].append(perf_counter_ns() - start)
    finally:
        gc.enable()
    slowest = sorted(taken[0] + taken[1])[int(CROPPED * count)]
    return Difference.of(*([time for time in times if time < slowest] for times in taken))


def report(verifiers: dict[str, Verifier], headers: dict[str, list[bytes]], count: int) -> Iterable[bool]:
    """Print a line for each store and pair, and tell whether the two differ for certain."""
    print(f"{'store':8}{'classes':26}" + "".join(f"{'first/ns':>12}{'effect/ns':>10}{'t':>8}" for _ in range(3)))
    for store, verifier in verifiers.items():
        prove(verifier, headers)
        for one, two in PAIRS:
            found = [measure(verifier, headers[one], headers[two], count) for _ in range(3)]
            print(
                f"{store:8}{f'{one}, {two}':26}"
                + "".join(f"{base:12.0f}{effect:10.0f}{t:8.1f}" for base, effect, t in found)
            )
            yield two != TOLD and all(abs(difference.t) > THRESHOLD for difference in found)


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 60_000
    with tempfile.TemporaryDirectory() as folder:
        headers, verifiers = classes_and_verifiers(Path(folder))
        return int(any([*report(verifiers, headers, count)]))


if __name__ == "__main__":
    sys.exit(main())
