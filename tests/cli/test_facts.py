"""What is told of workspaces, keys, tokens and events, and what never is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from doorkey.cli import facts
from doorkey.core.model import KeyType, Mode
from doorkey.core.profiles import FALU
from doorkey.core.tokens import STANDARD
from doorkey.storage.protocol import Ending, Event, Key, StoredToken, Workspace

NOW = 1_800_000_000
WORKSPACE = Workspace("ws_1", "Acme", NOW, events=3, head=b"\x01" * 32)
CURRENT = StoredToken("muTFmv6k", b"\xd1" * 32, "f1n9e7", NOW, sealed=b"\x5e" * 32)
FORMER = StoredToken("aaaaaaaa", b"\xd2" * 32, "f1n9e7", NOW - 10, expires_at=NOW + 60)
KEY = Key("key_1", "ws_1", KeyType.SECRET, Mode.TEST, "reports", NOW, (CURRENT,), ("messages",), ("10.0.0.0/8",))


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "provisioned"),
        ({"approved_at": NOW}, "approved"),
        ({"approved_at": NOW, "suspended_at": NOW}, "suspended"),
        ({"suspended_at": NOW}, "suspended"),
    ],
)
def test_a_workspace(changes: dict[str, int], state: str) -> None:
    """Its state is the last thing that was decided about it, and its head is told as a log tells it."""
    told = facts.of_workspace(replace(WORKSPACE, **changes))  # type: ignore[arg-type]
    assert told["state"] == state
    assert told["head"] == "3:" + "01" * 32
    assert told["created_at"] == "2027-01-15T08:00:00Z"
    assert (told["approved_at"], told["suspended_at"]) == tuple(
        "2027-01-15T08:00:00Z" if name in changes else None for name in ("approved_at", "suspended_at")
    )


@pytest.mark.parametrize(
    ("changes", "suspended", "state"),
    [
        ({}, None, "active"),
        ({"tokens": (CURRENT, FORMER)}, None, "rolling"),
        ({"tokens": (CURRENT, replace(FORMER, expires_at=NOW))}, None, "active"),
        ({"tokens": (CURRENT, FORMER)}, NOW, "suspended"),
        ({"tokens": (CURRENT, FORMER), "expires_at": NOW}, NOW, "expired"),
        ({"expires_at": NOW + 1}, None, "active"),
        ({"tokens": (CURRENT, FORMER), "expires_at": NOW, "revoked_at": NOW}, NOW, "revoked"),
        ({"tokens": ()}, None, "active"),
    ],
)
def test_a_key(changes: dict[str, object], suspended: int | None, state: str) -> None:
    """Its state is what weighs most, in the order in which the gates refuse."""
    key = replace(KEY, **changes)  # type: ignore[arg-type]
    told = facts.of_key(key, replace(WORKSPACE, suspended_at=suspended), STANDARD, NOW)
    assert told["state"] == state
    assert told["rolling_until"] == ("2027-01-15T08:01:00Z" if state == "rolling" else None)
    assert told["hint"] == ("sk_test_muTFmv6k_…" if key.tokens else None)


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "rolling"),
        ({"expires_at": None}, "active"),
        ({"expires_at": NOW}, "rolled"),
        ({"ended_at": NOW, "ended_as": Ending.ROLLED}, "rolled"),
        ({"ended_at": NOW, "ended_as": Ending.REVOKED}, "revoked"),
    ],
)
def test_a_token(changes: dict[str, object], state: str) -> None:
    """A token has a state of its own, and the prefix of its profile."""
    token = replace(FORMER, **changes)  # type: ignore[arg-type]
    told = facts.of_token(token, KEY, FALU.format, NOW)
    assert (told["state"], told["hint"], told["revealable"]) == (state, "fskt_aaaaaaaa_…", False)
    assert facts.of_token(token, replace(KEY, revoked_at=NOW), FALU.format, NOW)["state"] == "revoked"


def test_the_last_use_of_a_key() -> None:
    """It is the newest of its tokens' uses; a key without a use, or without a token, has none."""
    used = (replace(CURRENT, last_used_at=NOW), replace(FORMER, last_used_at=NOW + 60))
    for tokens, told in (
        (used, "2027-01-15T08:01:00Z"),
        ((CURRENT, used[1]), "2027-01-15T08:01:00Z"),
        ((CURRENT,), None),
    ):
        assert facts.of_key(replace(KEY, tokens=tokens), WORKSPACE, STANDARD, NOW)["last_used_at"] == told
    assert facts.of_key(replace(KEY, tokens=()), WORKSPACE, STANDARD, NOW)["last_used_at"] is None


def test_what_is_never_told() -> None:
    """Neither digests nor sealed copies nor fingerprints stand in what is told (G4)."""
    told = str(facts.of_key(replace(KEY, tokens=(CURRENT, FORMER)), WORKSPACE, STANDARD, NOW))
    for octets in (CURRENT.digest, FORMER.digest, CURRENT.sealed or b""):
        assert octets.hex() not in told
        assert repr(octets) not in told
    assert "f1n9e7" not in told


def test_an_event() -> None:
    """The detail is told as a value; one that somebody broke is told as it stands."""
    event = Event("ws_1", 7, NOW, "ann", "key.roll", "key_1", '{"grace":60}', b"\x02" * 32)
    assert facts.of_event(event) == {
        "workspace": "ws_1",
        "sequence": 7,
        "at": "2027-01-15T08:00:00Z",
        "actor": "ann",
        "action": "key.roll",
        "key": "key_1",
        "detail": {"grace": 60},
        "head": "7:" + "02" * 32,
    }
    assert facts.of_event(replace(event, detail="{grace"))["detail"] == "{grace"
