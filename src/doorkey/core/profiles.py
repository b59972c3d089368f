"""
Profiles: what one published system does differently from another, as data.

Adapt one with ``dataclasses.replace(DEFAULT, name="acme", realm="Acme API")``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from .errors import InvalidProfile
from .model import KeyType, Mode
from .tokens import STANDARD, TokenFormat

LONGEST_STALENESS = 5.0
"""Seconds that a revoked key may go on being accepted under any profile, with a cache."""

_QUOTABLE = re.compile(r"[ !#-\[\]-~]+", re.ASCII)
_NAME = re.compile(r"[a-z][a-z0-9-]*", re.ASCII)


class ErrorShape(Enum):
    """The form of a refusal's body."""

    STRIPE = "stripe"
    """``{"error": {"type", "code", "message", "doc_url", "request_id"}}``."""
    PROBLEM = "problem"
    """``application/problem+json`` (RFC 9457), with the same members."""


@dataclass(frozen=True, slots=True)
class Profile:
    """
    How keys look and behave.

    Attributes:
        name: what a store remembers it by.
        format: the prefixes of its tokens.
        realm: the protection space named in challenges (RFC 9110 §11.5).
        errors: the form of a refusal's body.
        discloses: whether a refusal tells that a key was revoked or expired. If not, it looks like an unknown one.
        grace: seconds that the old token lives after a roll, unless the roll says otherwise.
        revocation_bound: seconds that a revoked key may live on in a cache; 0 allows none.
        publishable_word: what its users call a publishable key.
        doc_url: where errors are explained; ``{code}`` and ``{section}`` stand for the error's code and the section of
            RFC 9110 that defines its status.

    Raises:
        InvalidProfile: a value cannot be used.
    """

    name: str
    format: TokenFormat = STANDARD
    realm: str = "API"
    errors: ErrorShape = ErrorShape.STRIPE
    discloses: bool = True
    grace: int = 24 * 60 * 60
    revocation_bound: float = LONGEST_STALENESS
    publishable_word: str = "publishable"
    doc_url: str = "https://www.rfc-editor.org/rfc/rfc9110#section-{section}"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidProfile(f"{self.name!r} is no profile name: use lower-case letters, digits and hyphens")
        if not _QUOTABLE.fullmatch(self.realm):
            raise InvalidProfile(
                "a realm is printable ASCII without quotes and backslashes (it stands in a quoted-string)"
            )
        if self.grace < 0:
            raise InvalidProfile("a grace is 0 seconds or more")
        if not 0 <= self.revocation_bound <= LONGEST_STALENESS:
            raise InvalidProfile(f"a revocation bound lies between 0 and {LONGEST_STALENESS:g} seconds")
        try:
            self.doc_url.format(code="", section="")
        except (AttributeError, KeyError, IndexError, ValueError):
            raise InvalidProfile("doc_url may hold {code} and {section}, and no other braces") from None


DEFAULT = Profile("default")

FALU = Profile(
    "falu",
    format=TokenFormat(
        {
            (KeyType.SECRET, Mode.LIVE): "fskl",
            (KeyType.SECRET, Mode.TEST): "fskt",
            (KeyType.PUBLISHABLE, Mode.LIVE): "fpkl",
            (KeyType.PUBLISHABLE, Mode.TEST): "fpkt",
        }
    ),
    errors=ErrorShape.PROBLEM,
    grace=0,
    revocation_bound=0,
    publishable_word="public",
)

FLUVEO = Profile("fluveo", discloses=False)

PROFILES = {profile.name: profile for profile in (DEFAULT, FALU, FLUVEO)}
