"""The policy of the demo: it describes every operation of the service but one, and opens only what tells nothing."""

from __future__ import annotations

import pytest

from doorkey.demo.rules import POLICY, PROXIES
from doorkey.demo.service import KINDS


@pytest.mark.parametrize("collection", KINDS)
@pytest.mark.parametrize(
    ("method", "path", "action"), [("POST", "", "write"), ("GET", "", "read"), ("GET", "/x_1", "read")]
)
def test_every_operation_of_a_collection_is_described(collection: str, method: str, path: str, action: str) -> None:
    """Reading and writing need the permission of that name; a publishable key may make payment tokens alone."""
    requirement = POLICY.requirement(method, f"/v1/{collection}{path}")
    assert requirement is not None
    assert requirement.permissions == (f"{collection}:{action}",)
    assert requirement.publishable is ((method, collection) == ("POST", "tokens"))


@pytest.mark.parametrize("path", ["/v1/balance", "/v1/refunds", "/", "/healthz/", "/v1/charges/"])
def test_what_no_rule_describes_needs_an_unrestricted_secret_key(path: str) -> None:
    """The balance is such an operation, on purpose."""
    assert POLICY.rule("GET", path) is None
    assert POLICY.requirement("GET", path) == POLICY.otherwise
    assert POLICY.otherwise.permissions == ()
    assert not POLICY.otherwise.publishable


def test_only_the_health_check_is_open() -> None:
    """By GET (and HEAD, which follows it), and by nothing else."""
    assert [(rule.method, rule.path) for rule in POLICY.rules if rule.requirement is None] == [("GET", "/healthz")]
    assert POLICY.requirement("POST", "/healthz") is not None


def test_only_this_machine_is_believed_about_addresses() -> None:
    """What anybody else writes into the header counts nothing."""
    header = [(b"x-forwarded-for", b"203.0.113.7")]
    assert PROXIES.client("127.0.0.1", header) == "203.0.113.7"
    assert PROXIES.client("198.51.100.9", header) == "198.51.100.9"
