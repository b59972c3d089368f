"""Profiles: what the published systems do differently, as data, checked when built."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorkey.core.errors import InvalidProfile
from doorkey.core.model import Denied, KeyType, Mode, Reason
from doorkey.core.profiles import DEFAULT, FALU, FLUVEO, LONGEST_STALENESS, PROFILES, ErrorShape, Profile
from doorkey.core.refusals import Refusals
from doorkey.core.tokens import TokenFormat

DAY = 24 * 60 * 60


@pytest.mark.parametrize(
    ("profile", "prefixes", "errors", "discloses", "grace", "bound", "word"),
    [
        (DEFAULT, "sk_live sk_test pk_live pk_test", ErrorShape.STRIPE, True, DAY, 5, "publishable"),
        (FALU, "fskl fskt fpkl fpkt", ErrorShape.PROBLEM, True, 0, 0, "public"),
        (FLUVEO, "sk_live sk_test pk_live pk_test", ErrorShape.STRIPE, False, DAY, 5, "publishable"),
    ],
)
def test_the_published_systems(
    profile: Profile, prefixes: str, errors: ErrorShape, discloses: bool, grace: int, bound: float, word: str
) -> None:
    """Each profile is what its system's documentation says."""
    kinds = [(type, mode) for type in KeyType for mode in (Mode.LIVE, Mode.TEST)]
    assert [profile.format.prefix(*kind) for kind in kinds] == prefixes.split()
    assert profile.errors is errors
    assert profile.discloses is discloses
    assert (profile.grace, profile.revocation_bound, profile.publishable_word) == (grace, bound, word)
    assert PROFILES[profile.name] is profile


def test_a_store_finds_its_profile_by_name() -> None:
    """Stores remember these names, so they never change."""
    assert list(PROFILES) == ["default", "falu", "fluveo"]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "acme-2"},
        {"realm": "Acme API (test & live), v1"},
        {"realm": " "},
        {"grace": 0},
        {"revocation_bound": 0},
        {"revocation_bound": LONGEST_STALENESS / 2},
        {"doc_url": "https://acme.example/errors/{code}?section={section}"},
        {"doc_url": "https://acme.example/{{literal}}"},
        {"doc_url": ""},
        {"format": TokenFormat.standard("acme")},
    ],
)
def test_a_profile_can_be_adapted(changes: dict[str, Any]) -> None:
    """``dataclasses.replace`` makes one of your own out of one of ours, which stays as it is."""
    adapted = replace(DEFAULT, **changes)
    assert adapted != DEFAULT
    for name, value in changes.items():
        assert getattr(adapted, name) == value
        with pytest.raises(FrozenInstanceError):
            setattr(DEFAULT, name, value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "no profile name"),
        ({"name": "Acme"}, "'Acme' is no profile name"),
        ({"name": "2"}, "no profile name"),
        ({"name": "a b"}, "no profile name"),
        ({"name": "acme\n"}, "no profile name"),
        ({"realm": ""}, "a realm is printable ASCII"),
        ({"realm": 'a", Bearer realm="b'}, "without quotes"),
        ({"realm": "a\\"}, "backslashes"),
        ({"realm": "a\r\nSet-Cookie: b"}, "printable"),
        ({"realm": "a\n"}, "printable"),
        ({"realm": "a\tb"}, "printable"),
        ({"realm": "a\x7f"}, "printable"),
        ({"realm": "é"}, "ASCII"),
        ({"grace": -1}, "0 seconds or more"),
        ({"revocation_bound": -0.1}, "between 0 and 5 seconds"),
        ({"revocation_bound": 5.1}, "between 0 and 5 seconds"),
        ({"revocation_bound": float("nan")}, "between 0 and 5 seconds"),
        ({"doc_url": "https://acme.example/{error}"}, "and no other braces"),
        ({"doc_url": "https://acme.example/{0}"}, "and no other braces"),
        ({"doc_url": "https://acme.example/{}"}, "and no other braces"),
        ({"doc_url": "https://acme.example/{"}, "and no other braces"),
        ({"doc_url": "https://acme.example/{code.name}"}, "and no other braces"),
        ({"doc_url": "https://acme.example/{code[0]}"}, "and no other braces"),
    ],
)
def test_what_cannot_be_used_is_refused_when_it_is_built(changes: dict[str, Any], message: str) -> None:
    """A value that would break a header or a body, or promise what no cache keeps, never reaches a request."""
    with pytest.raises(InvalidProfile, match=message):
        replace(DEFAULT, **changes)


@given(st.text(max_size=20) | st.text('"\\\r\n, =a', max_size=12))
def test_a_realm_stays_within_its_quotes(realm: str) -> None:
    """Whatever realm is accepted, each challenge is one scheme with one quoted realm: nothing can be put beside it."""
    try:
        profile = replace(DEFAULT, realm=realm)
    except InvalidProfile:
        return
    headers = Refusals(profile).refusal(Denied(Reason.MISSING)).headers
    challenges = [value for name, value in headers if name == "WWW-Authenticate"]
    assert [re.sub(r'"[^"\\]*"', '"…"', challenge, count=1) for challenge in challenges] == [
        'Basic realm="…", charset="UTF-8"',
        'Bearer realm="…"',
    ]
    assert all(f'realm="{realm}"' in challenge and challenge.isprintable() for challenge in challenges)
