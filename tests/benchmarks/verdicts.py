"""Single verdicts in memory: the verifier against the floor."""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from secrets import token_bytes

from doorkey import Verifier
from doorkey.core.model import Record
from doorkey.core.tokens import parse
from doorkey.management.secrets import MasterSecrets

from .sample import ADDRESS, NEEDED, PEPPER, REQUIREMENT, Sample, field, new_door, new_sample, new_token
from .table import Row
from .timing import Side, Spread, Times, awaited, by_turns, micros, ratio, statement

NOISE = "noise: the floor against itself"
GRANTING = "a valid token, memory store"
REFUSING = "a refused token, memory store"


def rows(rounds: int) -> Iterator[Row]:
    """The machine's noise first."""
    sample = new_sample()
    times = by_turns(granting(sample), rounds)
    yield _row(GRANTING, NOISE, times, "floor again", "floor")
    yield _row(GRANTING, "verify, one secret", times, "verify", "floor", 1.6)
    yield _row(GRANTING, "verify, two secrets, token of the older", times, "two secrets", "floor", 2.0)
    yield _row(GRANTING, "asynchronous against synchronous", times, "asynchronous", "verify", 1.1)
    yield _row(GRANTING, "verify, permission given as text", times, "text", "floor")
    yield _row(GRANTING, "of it, the digest", times, "digest", "floor's digest")

    times = by_turns(refusing(sample), rounds)
    yield _row(REFUSING, "unknown", times, "unknown", "floor, unknown", 1.8)
    yield _row(REFUSING, "revoked", times, "revoked", "floor, revoked", 1.8)
    yield _row(REFUSING, "revoked against unknown", times, "revoked", "unknown", 1.1, 0.9)
    yield _row(REFUSING, "wrong checksum against valid", times, "wrong checksum", "valid", 1.0)
    yield _row(REFUSING, "malformed against valid", times, "malformed", "valid", 1.0)
    calls = float(store_calls(sample, [sample.wrong_checksum, sample.malformed]))
    yield Row(REFUSING, "store calls for these two", "", "", Spread(calls, calls, calls), at_most=0)


def granting(sample: Sample) -> dict[str, Side]:
    """Every side that is asked about a valid token."""
    verify_async = sample.door.async_verifier.verify
    older = token_bytes(32)
    rotating = new_door(MasterSecrets([older]))
    token = new_token(rotating)
    rotated = new_door(MasterSecrets([token_bytes(32), older]), rotating.store)
    digests = rotating.secrets.digester().digests
    return {
        "floor": _floor(sample, sample.valid),
        "floor again": _floor(sample, sample.valid),
        "verify": _verify(sample.door.verifier, sample.valid),
        "two secrets": _verify(rotated.verifier, field(token)),
        "asynchronous": awaited(lambda: verify_async(sample.valid, client_address=ADDRESS, requires=REQUIREMENT)),
        "text": _verify(sample.door.verifier, sample.valid, NEEDED),
        "digest": statement("digests(token)", digests=digests, token=parse(token.expose())),
        "floor's digest": statement(
            "mac = prepared.copy(); mac.update(text); mac.digest()",
            prepared=hmac.new(PEPPER, digestmod="sha256"),
            text=token.expose().encode(),
        ),
    }


def refusing(sample: Sample) -> dict[str, Side]:
    """Every side that is asked about another one, and a valid one to compare with."""
    verifier = sample.door.verifier
    return {
        "floor, unknown": _floor(sample, sample.unknown),
        "unknown": _verify(verifier, sample.unknown),
        "floor, revoked": _floor(sample, sample.revoked),
        "revoked": _verify(verifier, sample.revoked),
        "valid": _verify(verifier, sample.valid),
        "wrong checksum": _verify(verifier, sample.wrong_checksum),
        "malformed": _verify(verifier, sample.malformed),
    }


def store_calls(sample: Sample, lines: Sequence[bytes]) -> int:
    """How often a store is asked while these are judged."""
    asked: list[Sequence[bytes]] = []

    class Counting:
        def find(self, digests: Sequence[bytes]) -> Record | None:
            asked.append(digests)
            return None

    verifier = Verifier(Counting(), sample.door.secrets.digester())
    for line in lines:
        verifier.verify(line, client_address=ADDRESS, requires=REQUIREMENT)
    return len(asked)


def _floor(sample: Sample, line: bytes) -> Side:
    return statement("check(line, address, needed)", check=sample.check, line=line, address=ADDRESS, needed=NEEDED)


def _verify(verifier: Verifier, line: bytes, requires: object = REQUIREMENT) -> Side:
    return statement(
        "verify(line, client_address=address, requires=requires)",
        verify=verifier.verify,
        line=line,
        address=ADDRESS,
        requires=requires,
    )


def _row(
    group: str,
    quantity: str,
    times: Times,
    ours: str,
    theirs: str,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Row:
    return Row(
        group,
        quantity,
        f"{micros(times, ours):.2f} µs",
        f"{micros(times, theirs):.2f} µs",
        ratio(times, ours, theirs),
        at_most,
        at_least,
    )
