"""What an OpenAPI document says of operations that need a key."""

from __future__ import annotations

import json
from typing import Any

import pytest

from doorkey import DEFAULT, FALU, FLUVEO, Denied, Profile, Reason, Requirement, Unavailable
from doorkey.core.openapi import BASIC, BEARER, ERROR, SCHEMES, error_schema, media_type, responses, security
from doorkey.core.refusals import TABLE, Refusals

PROFILES = pytest.mark.parametrize("profile", [DEFAULT, FALU, FLUVEO], ids=lambda profile: profile.name)


@pytest.mark.parametrize(
    ("requirement", "roles"),
    [
        (Requirement(), []),
        (Requirement.ANY_KEY, []),
        (Requirement("messages:read"), ["messages:read"]),
        (Requirement(["a", "b"], publishable=True), ["a", "b"]),
    ],
)
def test_either_scheme(requirement: Requirement, roles: list[str]) -> None:
    """A key comes by Basic or by Bearer, and the permissions stand as roles; an open operation has neither."""
    assert security(requirement) == [{BASIC: roles}, {BEARER: roles}]
    assert {name for each in security(requirement) for name in each} == set(SCHEMES)
    assert security(None) == []


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value is what a schema says, by the few words that are used."""
    if schema["type"] == "object":
        members = schema["properties"]
        return set(value) == set(members) == set(schema["required"]) and all(
            fits(value[name], member) for name, member in members.items()
        )
    kind = {"string": str, "integer": int}[schema["type"]]
    return isinstance(value, kind) and value in schema.get("enum", [value])


@PROFILES
@pytest.mark.parametrize("reason", [None, *(reason for reason in Reason if TABLE[reason].status != 400)])
def test_refusals_are_as_described(profile: Profile, reason: Reason | None) -> None:
    """Each refusal of a request that reached an operation has a status, header fields and a body that are described."""
    details = {"client_address": "192.0.2.1", "requirement": Requirement("a")}
    refused = Unavailable() if reason is None else Denied(reason, **details)  # type: ignore[arg-type]
    refusal = Refusals(profile).refusal(refused)
    described = responses(profile, Requirement("a"))[str(refusal.status)]
    assert set(described.get("headers", {})) <= {name for name, _ in refusal.headers}
    assert set(described["content"]) == {media_type(profile)} == {dict(refusal.headers)["Content-Type"]}
    assert described["content"][media_type(profile)]["schema"] == {"$ref": f"#/components/schemas/{ERROR}"}
    assert fits(json.loads(refusal.body), error_schema(profile))


@PROFILES
def test_it_is_plain_json(profile: Profile) -> None:
    """Whatever writes the document can write all of it."""
    json.dumps([SCHEMES, error_schema(profile), responses(profile)])
    assert set(responses(profile)) == {"401", "403", "503"}
    assert responses(profile, Requirement("a", True))["403"]["description"].endswith(
        "which takes a secret or publishable key that may do a."
    )
