"""The values that a verdict is made of."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from typing import Any, assert_never

import pytest

from doorkey.core.errors import InvalidPermission, InvalidPolicy
from doorkey.core.model import (
    Decision,
    Denied,
    Granted,
    KeyType,
    Mode,
    Principal,
    Reason,
    Record,
    Requirement,
    Unavailable,
    Use,
)
from doorkey.core.permissions import PermissionSet

PRINCIPAL = Principal("ws_1", "key_1", "muTFmv6k", KeyType.SECRET, Mode.LIVE)
DECISIONS: list[Decision] = [Granted(PRINCIPAL), Denied(Reason.UNKNOWN), Unavailable("the store is down")]


def test_the_words_that_are_stored_and_logged() -> None:
    """Stores and logs hold these words, so they never change."""
    assert [mode.value for mode in Mode] == ["test", "live"]
    assert [type.value for type in KeyType] == ["secret", "publishable"]
    assert [reason.value for reason in Reason] == [
        "target",
        "missing",
        "malformed",
        "unknown",
        "revoked",
        "expired",
        "workspace_suspended",
        "network",
        "undeclared",
        "livemode",
        "secret_key_required",
        "permissions",
    ]


@pytest.mark.parametrize("mode", Mode)
def test_livemode(mode: Mode) -> None:
    """A principal says whose data its request may touch."""
    assert PRINCIPAL._replace(mode=mode).livemode is (mode is Mode.LIVE)


def test_a_record_says_what_is_wrong_and_nothing_else() -> None:
    """Whoever makes a record of their own names only what limits the token."""
    record = Record(bytes(32), PRINCIPAL)
    assert (record.revoked, record.expires_at, record.suspended, record.networks) == (False, None, False, None)


# Requirements


@pytest.mark.parametrize(
    ("requirement", "permissions", "publishable", "mode", "any_key"),
    [
        (Requirement(), (), False, None, False),
        (Requirement("messages:read"), ("messages:read",), False, None, False),
        (Requirement(["a:read", "b"]), ("a:read", "b"), False, None, False),
        (Requirement(iter(["a", "*"])), ("a", "*"), False, None, False),
        (Requirement("a", True), ("a",), True, None, False),
        (Requirement(publishable=True, mode=Mode.LIVE), (), True, Mode.LIVE, False),
        (Requirement.ANY_KEY, (), True, None, True),
        (Requirement(mode=Mode.TEST, any_key=True), (), True, Mode.TEST, True),
    ],
)
def test_requirement(
    requirement: Requirement, permissions: tuple[str, ...], publishable: bool, mode: Mode | None, any_key: bool
) -> None:
    """A single text is one permission; nothing said is the strictest; any key includes publishable ones."""
    assert requirement.permissions == permissions
    assert requirement.publishable is publishable
    assert requirement.mode is mode
    assert requirement.any_key is any_key
    assert [permission in ways for permission, ways in zip(permissions, requirement.ways, strict=True)] == [
        True for _ in permissions
    ]


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Requirement("messages;read"), InvalidPermission, "'messages;read' is no permission"),
        (lambda: Requirement(["a", ""]), InvalidPermission, "'' is no permission"),
        (lambda: Requirement(b"a"), InvalidPermission, "not int"),  # type: ignore[arg-type]
        (lambda: Requirement("a", any_key=True), InvalidPolicy, "one of these alone"),
        (lambda: Requirement("a", nobody=True), InvalidPolicy, "one of these alone"),
        (lambda: Requirement(any_key=True, nobody=True), InvalidPolicy, "one of these alone"),
        (lambda: Requirement(mode="live"), InvalidPolicy, "Mode.LIVE or None, not 'live'"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_requirement_is_found_when_it_is_built(
    build: Callable[[], Requirement], error: type[Exception], message: str
) -> None:
    """A mistyped permission or mode raises where it is written, not when the first request comes."""
    with pytest.raises(error, match=message):
        build()


def test_requirements_are_values() -> None:
    """They are equal by what they say, can be keys of a dictionary, and are adapted and copied like any value."""
    requirement = Requirement(["a", "b"], mode=Mode.TEST)
    assert requirement == Requirement(("a", "b"), mode=Mode.TEST)
    assert requirement != replace(requirement, mode=None) == Requirement(["a", "b"])
    assert len({requirement, copy.deepcopy(requirement), pickle.loads(pickle.dumps(requirement))}) == 1
    assert len({Requirement(), Requirement(publishable=True), Requirement.ANY_KEY, Requirement.NOBODY}) == 4
    assert pickle.loads(pickle.dumps(Requirement.NOBODY)).nobody
    with pytest.raises(FrozenInstanceError):
        requirement.publishable = True  # type: ignore[misc]


@pytest.mark.parametrize(
    ("requirement", "words"),
    [
        (Requirement(), "an unrestricted secret key"),
        (Requirement(publishable=True), "an unrestricted secret or publishable key"),
        (Requirement(["a", "b:c"]), "a secret key that may do a and b:c"),
        (Requirement("a", True, Mode.LIVE), "a secret or publishable key that may do a, of live mode"),
        (Requirement.ANY_KEY, "any key"),
        (Requirement.NOBODY, "nobody"),
    ],
)
def test_a_requirement_in_words(requirement: Requirement, words: str) -> None:
    """What an operation needs can be read."""
    assert str(requirement) == words


# Decisions


@pytest.mark.parametrize("decision", DECISIONS)
@pytest.mark.parametrize(
    "use", [bool, lambda it: not it, lambda it: it and "in", lambda it: "in" if it else "out", lambda it: any([it])]
)
def test_a_decision_has_no_truth_value(decision: Decision, use: Callable[[object], object]) -> None:
    """``if verify(...)`` lets nobody in: any use as a condition raises, and says what to do instead."""
    with pytest.raises(TypeError, match="match it against Granted, Denied and Unavailable"):
        use(decision)


def answer(decision: Decision) -> str:
    """A match whose completeness the type checker proves: without one of the cases, assert_never is an error."""
    match decision:
        case Granted(principal):
            return principal.workspace
        case Denied(reason):
            return reason.value
        case Unavailable():
            return "later"
        case _:
            assert_never(decision)


def test_a_decision_is_matched() -> None:
    """There are three decisions and no fourth, each telling what it is about."""
    assert [answer(decision) for decision in DECISIONS] == ["ws_1", "unknown", "later"]


def test_a_principal_is_no_grant() -> None:
    """Who somebody is cannot be mistaken for what they may do."""
    assert not isinstance(PRINCIPAL, Granted)
    with pytest.raises(AssertionError):
        answer(PRINCIPAL)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [*DECISIONS, PRINCIPAL, Record(bytes(32), PRINCIPAL), Use("muTFmv6k", 1)])
def test_values_are_frozen(value: Any) -> None:
    """Nothing that took part in a verdict can be changed afterwards."""
    name = getattr(value, "_fields", None) or getattr(value, "__slots__", None)
    assert name
    with pytest.raises(AttributeError):  # of which FrozenInstanceError is one
        setattr(value, name[0], None)


# What they show


def test_a_record_shows_no_digest() -> None:
    """Logs and tracebacks tell whose record it is, never the digest."""
    record = Record(b"digest-of-thirty-two-bytes-here!", PRINCIPAL._replace(permissions=PermissionSet.parse(["a"])))
    for shown in (repr(record), str(record), f"{record}"):
        assert shown == "<Record of key_1, token muTFmv6k>"


def test_a_denial_shows_no_principal() -> None:
    """Whoever prints a denial for a client does not print whose token it was."""
    denied = Denied(Reason.NETWORK, PRINCIPAL, client_address="203.0.113.7")
    assert "ws_1" not in repr(denied) and "key_1" not in repr(denied)
    assert "203.0.113.7" in repr(denied)
