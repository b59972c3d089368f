"""Permissions: does this set grant that?"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorkey.core.errors import InvalidPermission
from doorkey.core.permissions import PermissionSet, ways_to

VECTORS = json.loads((Path(__file__).parent / "vectors" / "permissions.json").read_text("utf-8"))

RESOURCES = ["a", "b", "ab", "read"]
ACTIONS = ["read", "readall", "a"]
OPERATIONS = {(resource, action) for resource in [*RESOURCES, "another"] for action in [*ACTIONS, "another"]}
"""Some operations, among them on resources and by actions that no permission below names."""

PERMISSIONS = st.sampled_from(
    ["*", *RESOURCES, *(f"{resource}:{action}" for resource in RESOURCES for action in [*ACTIONS, "*"])]
)


def meant(permission: str) -> set[tuple[str, str]]:
    """The oracle: a permission is the set of operations that it speaks of."""
    wanted_resource, _, wanted_action = permission.partition(":")
    return {
        (resource, action)
        for resource, action in OPERATIONS
        if wanted_resource in ("*", resource) and wanted_action in ("", "*", action)
    }


@given(st.lists(PERMISSIONS, min_size=1, max_size=5), PERMISSIONS)
def test_a_set_grants_what_it_means(held: list[str], needed: str) -> None:
    """A set grants a permission exactly if every operation that the permission speaks of is among those of the set."""
    expected = meant(needed) <= set().union(*map(meant, held))
    assert PermissionSet.parse(held).grants(needed) is expected
    assert (not PermissionSet.parse(held).isdisjoint(ways_to(needed))) is expected


@given(st.lists(PERMISSIONS, min_size=1, max_size=5), PERMISSIONS, PERMISSIONS)
def test_more_permissions_grant_no_less(held: list[str], more: str, needed: str) -> None:
    """Adding a permission never takes one away, and a set grants each that it holds."""
    assert PermissionSet.parse(held).grants(needed) <= PermissionSet.parse([*held, more]).grants(needed)
    assert all(PermissionSet.parse(held).grants(permission) for permission in held)


@pytest.mark.parametrize("case", VECTORS["grants"], ids=lambda case: case["why"])
def test_grants(case: dict[str, Any]) -> None:
    """The cases that people ask about."""
    assert PermissionSet.parse(case["held"]).grants(case["needed"]) is case["granted"]


@pytest.mark.parametrize("permission", VECTORS["permissions"])
def test_a_permission(permission: str) -> None:
    """A resource, a resource and an action, or a star alone or after the colon; its one spelling has no star there."""
    assert sorted(PermissionSet.parse([permission])) == [permission.removesuffix(":*")]
    assert PermissionSet.parse(PermissionSet.parse([permission])) == PermissionSet.parse([permission])
    assert permission.removesuffix(":*") in ways_to(permission)


@pytest.mark.parametrize("text", VECTORS["refused"], ids=ascii)
def test_no_permission(text: str) -> None:
    """Anything else is refused, wherever it is written: where it is held, and where it is asked for."""
    everything = PermissionSet.parse(["*"])
    for read in (lambda: PermissionSet.parse(["a", text]), lambda: ways_to(text), lambda: everything.grants(text)):
        with pytest.raises(InvalidPermission, match="is no permission: write a resource"):
            read()


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes another exception, and what is read is all ASCII, without blanks."""
    try:
        ways = ways_to(text)
    except InvalidPermission:
        return
    assert all(way.isascii() and way.isprintable() and " " not in way for way in ways)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "use None for an unrestricted key"),
        ((), "use None for an unrestricted key"),
        ("messages:read", r"\['messages:read'\], not a single text"),
        (b"messages:read", "not a single text"),
        ([b"messages:read"], "not bytes"),
        ([None], "not NoneType"),
        ([["messages"]], "not list"),
    ],
)
def test_what_is_no_set_of_permissions(texts: Any, message: str) -> None:
    """An empty set has two meanings, a single text would be read letter by letter: the message says what to write."""
    with pytest.raises(InvalidPermission, match=message):
        PermissionSet.parse(texts)


@pytest.mark.parametrize("texts", [["b", "a:*"], ("a", "b"), {"a", "b", "a:*"}, iter(["a", "b"])])
def test_a_set_is_a_value(texts: Iterable[str]) -> None:
    """Sets are equal by what they grant, can be keys of a dictionary, and show their permissions in order."""
    read = PermissionSet.parse(texts)
    assert read == PermissionSet.parse(["a", "b"]) and hash(read) == hash(PermissionSet.parse(["a", "b"]))
    assert repr(read) == "PermissionSet(['a', 'b'])"
