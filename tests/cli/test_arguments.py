"""What may stand on the command line, and what is said about the rest."""

from __future__ import annotations

import os
import pwd
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorkey.cli import arguments
from doorkey.core.errors import ConfigurationError
from doorkey.core.model import KeyType, Mode
from doorkey.core.profiles import PROFILES
from doorkey.core.tokens import mint
from doorkey.testing import basic


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment says what the command line does not; without either there are plain defaults."""
    for variable in ("DOORKEY_STORE", "DOORKEY_ACTOR"):
        monkeypatch.setenv(variable, "")
    plain = arguments.defaults(lambda: 0)
    assert (plain.store, plain.secret_file, plain.json) == ("sqlite:///doorkey.db", None, False)
    assert "@" in plain.actor
    monkeypatch.setenv("DOORKEY_STORE", "sqlite:///other.db")
    monkeypatch.setenv("DOORKEY_ACTOR", "ann")
    set_ = arguments.defaults(lambda: 0)
    assert (set_.store, set_.actor) == ("sqlite:///other.db", "ann")


def test_an_actor_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whom the system cannot name, as in a container, acts under a number."""
    for variable in ("DOORKEY_ACTOR", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    nameless = next(uid for uid in range(54_321, 60_000) if uid not in {entry.pw_uid for entry in pwd.getpwall()})
    monkeypatch.setattr(os, "getuid", lambda: nameless)
    assert arguments.defaults(lambda: 0).actor.startswith(f"uid-{nameless}@")


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_tokens_are_refused(profile: object) -> None:
    """A token of any profile is seen in an argument, also in company or cut short, and the refusal holds none of it."""
    for kind in [(type, mode) for type in KeyType for mode in Mode]:
        token = mint(*kind, PROFILES[getattr(profile, "name", "")].format).expose()
        for argument in (token, f"{token}:", f"--key={token}", f"http://{token}@localhost/", token[:-6]):
            with pytest.raises(ConfigurationError) as refusal:
                arguments.refuse_tokens(["keys", argument])
            assert "argument 2 " in str(refusal.value)
            assert token[5:20] not in str(refusal.value)


@pytest.mark.parametrize(
    "argument",
    ["key_0VbfLRmmBsFIlwwE", "sk_test_muTFmv6k_…", "12:" + "ab" * 32, "a_name_with_several_underscores_in_it"],
)
def test_other_arguments_pass(argument: str) -> None:
    """Ids, hints, heads and names are no tokens."""
    arguments.refuse_tokens([argument])


def test_a_key_is_named_by_its_id() -> None:
    """Whoever names a token by its hint is told where the key's id stands."""
    assert arguments.key("key_0VbfLRmmBsFIlwwE") == "key_0VbfLRmmBsFIlwwE"
    assert arguments.key("nonsense") == "nonsense"
    for hint in ("sk_test_muTFmv6k_…", "sk_test_muTFmv6k_...", "fskt_muTFmv6k", "sk_test_muTFmv6k_"):
        with pytest.raises(ArgumentTypeError, match="give the id of its key"):
            arguments.key(hint)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("0s", 0), ("90s", 90), ("15m", 900), ("24h", 86_400), ("7d", 604_800)]
)
def test_durations(text: str, seconds: int) -> None:
    """A number with its unit; nothing needs none."""
    assert arguments.duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "advice"),
    [("90", "write 90s"), ("", "write 0, 90s"), ("-5m", "is no duration"), ("1.5h", "is no duration")]
    + [(text, "is no duration") for text in ("5 m", "1w", "1h30m", "٣s", "007s", "9" * 10 + "d", "5M")],
)
def test_other_durations_are_refused(text: str, advice: str) -> None:
    """What could be misread is not read."""
    with pytest.raises(ArgumentTypeError, match=advice):
        arguments.duration(text)


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("never", None),
        ("+30d", 30 * 86_400),
        ("2030-01-31T12:00:00Z", datetime(2030, 1, 31, 12, tzinfo=UTC)),
        ("2030-01-31T12:00:00+02:00", datetime(2030, 1, 31, 12, tzinfo=timezone(timedelta(hours=2)))),
    ],
)
def test_instants(text: str, when: object) -> None:
    """ISO 8601 with a time zone, a time from now, or never."""
    assert arguments.expiry(text) == when


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("2030-01-31T12:00:00", r"write 2030-01-31T12:00:00Z"),
        ("2030-01-31", r"write 2030-01-31T00:00:00Z"),
        ("tomorrow", "or never"),
        ("+30", r"write 30s"),
        ("1893456000", "is no time"),
    ],
)
def test_other_instants_are_refused(text: str, advice: str) -> None:
    """A time without a zone could be anybody's; the refusal says how to write it."""
    with pytest.raises(ArgumentTypeError, match=advice):
        arguments.expiry(text)


@pytest.mark.parametrize(
    ("expires", "instant"),
    [(None, None), (90, 1_800_000_090), (datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))],
)
def test_from_now_on(expires: object, instant: object) -> None:
    """Seconds from now are counted from the command's own clock, rounded down as instants are."""
    assert arguments.instant(Namespace(expires=expires, clock=lambda: 1_800_000_000.9)) == instant


def test_field_lines() -> None:
    """A header is a name, a colon and a value; blanks around the value are none of it."""
    assert arguments.field_line("X-Forwarded-For: 203.0.113.7, 10.0.0.1 ") == (
        b"X-Forwarded-For",
        b"203.0.113.7, 10.0.0.1",
    )
    assert arguments.field_line("Forwarded:for=[::1];by=é") == (b"Forwarded", b"for=[::1];by=\xe9")
    assert arguments.field_line("X:") == (b"X", b"")
    for text in ("X-Forwarded-For", ": 1", "X : 1"):
        with pytest.raises(ArgumentTypeError, match="a header is written as"):
            arguments.field_line(text)


def test_no_authorization_field() -> None:
    """It would carry a token, if only in base64 (G7)."""
    value = basic(mint(KeyType.SECRET, Mode.TEST))
    for name in ("Authorization", "proxy-authorization"):
        with pytest.raises(ArgumentTypeError, match=r"leave .*uthorization out") as refusal:
            arguments.field_line(f"{name}: {value}")
        assert value[10:20] not in str(refusal.value)


def test_paths() -> None:
    """A query is no part of what a policy is asked about."""
    assert arguments.path("/messages/%41") == "/messages/%41"
    with pytest.raises(ArgumentTypeError, match="query"):
        arguments.path("/messages?limit=1")


@given(st.text())
def test_totality(text: str) -> None:
    """Whatever is written, it is read or refused by the one error that argparse prints as it stands."""
    forms: list[Callable[[str], object]] = [
        arguments.key,
        arguments.duration,
        arguments.expiry,
        arguments.field_line,
        arguments.path,
    ]
    for form in forms:
        try:
            form(text)
        except ArgumentTypeError as refusal:
            assert str(refusal)
