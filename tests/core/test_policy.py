"""The policy: a table without order, and everything else on the stricter side."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from doorkey.core.declarations import PER_ROUTE, Operation
from doorkey.core.errors import InvalidPermission, InvalidPolicy
from doorkey.core.model import Mode, Requirement
from doorkey.core.policy import WEBSOCKET, Policy, Rule

VECTORS = json.loads((Path(__file__).parent / "vectors" / "policy.json").read_text("utf-8"))

STRICT = Requirement()
READ = Requirement("messages:read")

TABLE = Policy(
    [
        Rule("GET", "/messages", "messages:read"),
        Rule("POST", "/messages", ["messages:write", "charges"], mode=Mode.LIVE),
        Rule("GET", "/messages/{id}", READ),
        Rule("GET", "/messages/{id}/parts/{part}", "parts"),
        Rule("POST", "/tokens", "tokens:write", publishable=True),
        Rule("GET", "/any", Requirement.ANY_KEY),
        Rule("GET", "/slash/", "slash"),
        Rule(WEBSOCKET, "/live", "live"),
        Rule.open("GET", "/healthz"),
        Rule.open("GET", "/"),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "required"),
    [
        ("GET", "/messages", READ),
        ("HEAD", "/messages", READ),
        ("POST", "/messages", Requirement(["messages:write", "charges"], mode=Mode.LIVE)),
        ("POST", "/tokens", Requirement("tokens:write", publishable=True)),
        ("GET", "/any", Requirement.ANY_KEY),
        ("GET", "/messages/1", READ),
        ("HEAD", "/messages/1", READ),
        ("GET", "/messages/a b…%2F", READ),
        ("GET", "/messages/...", READ),
        ("GET", "/messages/1/parts/2", Requirement("parts")),
        ("GET", "/slash/", Requirement("slash")),
        (WEBSOCKET, "/live", Requirement("live")),
        ("GET", "/healthz", None),
        ("HEAD", "/healthz", None),
        ("GET", "/", None),
        # Another method, or the same in other letters.
        ("PUT", "/messages", STRICT),
        ("DELETE", "/messages/1", STRICT),
        ("OPTIONS", "/messages", STRICT),
        ("get", "/messages", STRICT),
        ("head", "/messages", STRICT),
        ("Get", "/healthz", STRICT),
        ("POST", "/healthz", STRICT),
        ("", "/messages", STRICT),
        ("GET ", "/healthz", STRICT),
        ("TRACE", "/healthz", STRICT),
        (WEBSOCKET, "/messages", STRICT),
        (WEBSOCKET, "/healthz", STRICT),
        ("GET", "/live", STRICT),
        # Another path.
        ("GET", "", STRICT),
        ("GET", "messages", STRICT),
        ("GET", "/Messages", STRICT),
        ("GET", "/messages/", STRICT),
        ("GET", "//messages", STRICT),
        ("GET", "/messages//", STRICT),
        ("GET", "/messages/./parts/2", STRICT),
        ("GET", "/messages/..", STRICT),
        ("GET", "/messages/.", STRICT),
        ("GET", "/messages/1/", STRICT),
        ("GET", "/messages/1/parts", STRICT),
        ("GET", "/messages/1/parts/", STRICT),
        ("GET", "/messages//parts/2", STRICT),
        ("GET", "/messages/1/Parts/2", STRICT),
        ("GET", "/slash", STRICT),
        ("GET", "/slash//", STRICT),
        ("GET", "/healthz/", STRICT),
        ("GET", "/healthz/..", STRICT),
        ("GET", "/./healthz", STRICT),
        ("GET", "/%68ealthz", STRICT),
        ("GET", "/healthz?", STRICT),
        ("GET", "/healthz\n", Requirement.NOBODY),  # of which nobody knows what a router makes
        ("GET", "/healthz\0", Requirement.NOBODY),
        ("GET", "/HEALTHZ", STRICT),
        ("GET", "http://api.example/healthz", STRICT),
        ("OPTIONS", "*", STRICT),
    ],
)
def test_what_an_operation_requires(method: str, path: str, required: Requirement | None) -> None:
    """HEAD follows GET; methods, paths and slashes are compared exactly; everything else requires what is strictest."""
    assert TABLE.requirement(method, path) == required


def test_otherwise_can_be_said() -> None:
    """What no rule describes requires what the table says, and an unrestricted secret key if it says nothing."""
    assert Policy().requirement("GET", "/") == STRICT
    assert Policy(otherwise=READ).requirement("GET", "/") is READ
    with pytest.raises(InvalidPolicy, match="nothing is open that is not declared"):
        Policy(otherwise="messages")  # type: ignore[arg-type]


# Against an oracle

LITERALS = ["a", "b", ""]
SEGMENTS = st.sampled_from(["a", "b", "{x}", "{y}"])
PATHS = st.lists(SEGMENTS, min_size=1, max_size=3).map("/".join) | st.lists(SEGMENTS, max_size=2).map(
    lambda segments: "/".join([*segments, ""])
)
RULES = st.builds(Rule, st.sampled_from(["GET", WEBSOCKET]), PATHS.map("/".__add__), st.sampled_from(["p", "q", "r"]))
# Every literal, one that no rule names, and what no parameter stands for.
TARGETS = [
    "/" + "/".join(segments) for count in (1, 2, 3) for segments in product([*LITERALS, "c", ".", ".."], repeat=count)
]


LIVE = Requirement("messages:read", mode=Mode.LIVE)


@pytest.mark.parametrize(
    ("required", "otherwise", "laxer"),
    [
        (READ, STRICT, False),
        (READ, Requirement(["messages:read", "charges"]), False),
        (READ, Requirement("charges"), True),
        (READ, Requirement.ANY_KEY, True),
        (READ, Requirement("messages:read", publishable=True), True),
        (READ, Requirement.NOBODY, False),
        (STRICT, STRICT, False),
        (STRICT, READ, True),
        (LIVE, STRICT, True),
        (LIVE, Requirement(mode=Mode.TEST), True),
        (LIVE, Requirement(mode=Mode.LIVE), False),
        (Requirement.ANY_KEY, READ, False),
        (Requirement.NOBODY, STRICT, True),
        (Requirement.NOBODY, Requirement.NOBODY, False),
    ],
)
def test_forgiving_routers_open_nothing(required: Requirement, otherwise: Requirement, laxer: bool) -> None:
    """What a router may take for a rule's operation, however it forgives, is no way round the rule."""
    policy = Policy([Rule("POST", "/payouts", required), Rule("POST", "/a/{id}/", required)], otherwise=otherwise)
    paths = ["//payouts", "/payouts/", "payouts", "/a/1", "//a//1//", "/payouts\n", "/pay\0outs", "/a/1/\n", "/a/\t"]
    paths += ["/a/../", "/a/.", "/a/..\n", "/Payouts", "/x/../payouts", "/./payouts", "/x\n"]
    spellings = [("POST", path) for path in paths]
    for method, path in (*spellings, ("post", "/payouts"), ("Post", "/a/1")):
        assert policy.requirement(method, path) == (Requirement.NOBODY if laxer else otherwise)
    for method, path in (("GET", "/payouts"), ("POST", "/a"), ("POST", "/"), ("POST", "/payout"), ("POST", "/b/1/")):
        assert policy.requirement(method, path) is otherwise


def test_a_parameter_is_no_place_for_what_a_router_overlooks() -> None:
    """A line feed is none of its values, because the router may take the path without it for another operation."""
    policy = Policy([Rule("GET", "/a/{id}", Requirement.ANY_KEY), Rule("GET", "/a/", "admin")])
    assert policy.requirement("GET", "/a/1") == Requirement.ANY_KEY
    assert policy.requirement("GET", "/a/\n") == policy.requirement("GET", "/a/1\n") == STRICT
    assert policy.requirement("GET", "/a/\u2028\xa0") == Requirement.ANY_KEY  # not printable, and no control


def test_open_rules_close_nothing() -> None:
    """Beside an open operation there is nothing to get round: what resembles it is as everything else."""
    assert Policy([Rule.open("GET", "/")]).requirement("GET", "//") == STRICT


@cache
def pattern_of(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{\w+\\\}", r"(?!\\.{1,2}(?:/|\\Z))[^/]+", re.escape(path)))


def describes(rule: Rule, method: str, path: str) -> bool:
    """The oracle: a rule's path as a pattern over the whole path."""
    same = rule.method == ("GET" if method == "HEAD" else method)
    return same and pattern_of(rule.path).fullmatch(path) is not None


@settings(max_examples=150)
@given(st.lists(RULES, max_size=4))
def test_the_table_agrees_with_the_oracle(rules: list[Rule]) -> None:
    """
    A table is refused exactly if two of its rules describe one request; else each request has the rule describing it.
    """
    requests = [(method, path) for method in ("GET", "HEAD", WEBSOCKET, "get") for path in TARGETS]
    described = {request: [rule for rule in rules if describes(rule, *request)] for request in requests}
    if any(len(found) > 1 for found in described.values()):
        with pytest.raises(InvalidPolicy, match="could match one request"):
            Policy(rules)
        return
    for order in (rules, rules[::-1]):
        policy = Policy(order)
        for request, found in described.items():
            assert policy.rule(*request) == (found[0] if found else None)
            assert policy.requirement(*request) == (found[0].requirement if found else STRICT)


@given(RULES, RULES)
def test_overlap_is_mutual(one: Rule, two: Rule) -> None:
    """Whether two rules meet does not depend on which is asked, and a rule meets itself."""
    assert one.overlaps(two) is two.overlaps(one)
    assert one.overlaps(one)


@pytest.mark.parametrize(
    ("one", "two", "meet"),
    [
        ("/a", "/a", True),
        ("/{x}", "/{y}", True),
        ("/{x}", "/a", True),
        ("/a/{x}", "/{y}/b", True),
        ("/a/{x}", "/b/{x}", False),
        ("/a", "/a/", False),
        ("/{x}", "/", False),
        ("/a/{x}", "/a/", False),
        ("/a", "/A", False),
        ("/a/b", "/a", False),
    ],
)
def test_overlap(one: str, two: str, meet: bool) -> None:
    """The message names both rules, so that one of them can be changed; other methods do not meet."""
    rules = [Rule("GET", one, "a"), Rule("GET", two, "b")]
    assert rules[0].overlaps(rules[1]) is meet
    assert not Rule("POST", one).overlaps(rules[1])
    if meet:
        with pytest.raises(InvalidPolicy, match=re.escape(f"GET {one} and GET {two} could match")):
            Policy(rules)


# What a rule is


@pytest.mark.parametrize("case", VECTORS["refused_paths"], ids=lambda case: case["path"])
def test_no_path(case: dict[str, Any]) -> None:
    """A path that no router would ever hand over is refused, and the message says what to write instead."""
    with pytest.raises(InvalidPolicy, match=re.escape(case["message"])):
        Rule("GET", case["path"])
    with pytest.raises(InvalidPolicy, match=re.escape(case["message"])):
        Rule.open("GET", case["path"])


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("", "is no method"),
        ("GET,POST", "one rule for each"),
        ("GET ", "is no method"),
        ("GET\n", "is no method"),
        ("É", "is no method"),
        ("get", "write 'GET', not 'get'"),
        ("Post", "write 'POST'"),
        ("HEAD", "declare GET"),
    ],
)
def test_no_method(method: str, message: str) -> None:
    """A method that no request would ever match is refused."""
    with pytest.raises(InvalidPolicy, match=message):
        Rule(method, "/")


def test_a_rule_s_requirement_is_checked_when_it_is_built() -> None:
    """A mistyped permission raises there, and what is required is said in one place only."""
    with pytest.raises(InvalidPermission):
        Rule("GET", "/", "messages;read")
    for more in ({"publishable": True}, {"mode": Mode.LIVE}):
        with pytest.raises(InvalidPolicy, match="in the requirement itself"):
            Rule("GET", "/", READ, **more)
    assert Rule("GET", "/").requirement == STRICT


def test_a_path_is_open_by_its_exact_name_alone() -> None:
    """No parameter opens more than was thought of."""
    assert Rule.open("GET", "/healthz").requirement is None
    for path in ("/{id}", "/public/{name}", "/{a}/{b}"):
        with pytest.raises(InvalidPolicy, match="an open path is exact"):
            Rule.open("GET", path)


def test_rules_are_values() -> None:
    """Rules are equal by what they say, frozen, and can be inspected; a table says how large it is."""
    rule = Rule("GET", "/messages/{id}", "messages:read")
    assert rule == Rule("GET", "/messages/{id}", READ) != Rule.open("GET", "/messages")
    assert len({rule, Rule("GET", "/messages/{id}", READ)}) == 1
    assert (rule.segments, rule.parameters) == (("messages", None), True)
    assert Rule.open("GET", "/").parameters is False
    with pytest.raises(AttributeError):
        rule.path = "/"  # type: ignore[misc]
    assert repr(TABLE).startswith("<Policy of 10 rules, otherwise an unrestricted")


# Within

HOME = VECTORS["within"]
SITE = Policy([Rule("GET", "/api/messages", READ), Rule.open("GET", "/api/healthz")], within=HOME)


@pytest.mark.parametrize("case", VECTORS["inside"], ids=lambda case: case["why"])
def test_a_path_that_may_lead_inside_is_not_outside(case: dict[str, Any]) -> None:
    """However servers, proxies and routers read the path: if one of them may end up inside, a key is required."""
    assert SITE.requirement("POST", case["path"]) == STRICT


@pytest.mark.parametrize("case", VECTORS["outside"], ids=lambda case: case["why"])
def test_what_is_outside_is_left_to_others(case: dict[str, Any]) -> None:
    """Pages and the like pass without a key, whatever the method."""
    for method in ("GET", "POST", WEBSOCKET, "get"):
        assert SITE.requirement(method, case["path"]) is None


def test_rules_hold_within() -> None:
    """Inside, the table holds as without `within`."""
    assert SITE.requirement("GET", "/api/messages") == READ
    assert SITE.requirement("GET", "/api/healthz") is None
    assert SITE.requirement("GET", "/api/else") == STRICT
    assert TABLE.requirement("GET", "/public") == STRICT


def climbed(path: str) -> str:
    """Dot segments removed as RFC 3986 §5.2.4 has it: empty segments count."""
    kept: list[str] = []
    for segment in path.split("/")[1:]:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    return "/" + "/".join(kept)


STEPS: list[Callable[[str], str]] = [
    unquote,
    climbed,
    str.casefold,
    lambda path: path.replace("\\", "/"),
    lambda path: re.sub("/+", "/", path),
]


def readings(path: str) -> set[str]:
    """The oracle: all that a path becomes if decoded, folded, collapsed and resolved in any order, ever so often."""
    found, fresh = {path}, {path}
    while fresh:
        fresh = {step(reading) for reading in fresh for step in STEPS} - found
        found |= fresh
    return found


PIECES = st.sampled_from(
    [
        *("/", "//", "/./", "/../", "/%2e%2e/", "..", ".", "\\", "%2f", "%252F", "%5c", "%2e", "%252e"),
        *("api", "API", "/api/", "%61pi", "%2561pi", "x", "/x/"),
    ]
)


@settings(max_examples=1000)
@given(st.lists(PIECES, max_size=8).map(lambda pieces: "/" + "".join(pieces)))
@example("/x/../api//../y")
@example("/x/%2e%2e/api/%2e%2e/../y")
def test_outside_is_outside_under_every_reading(path: str) -> None:
    """No order of decoding, folding, collapsing and resolving leads from what passes as outside to the inside."""
    if SITE.requirement("GET", path) is None and path != "/api/healthz":
        assert not [reading for reading in readings(path) if reading == HOME or reading.startswith(f"{HOME}/")]


@given(st.lists(st.text("abp0.-_~ é", min_size=1, max_size=5), max_size=4))
def test_plain_paths_are_told_apart(segments: list[str]) -> None:
    """A path without any trick is outside exactly if its first segment is another."""
    plain = [segment for segment in segments if segment not in (".", "..")]
    path = "/" + "/".join(plain)
    assert SITE.requirement("GET", path) is None
    assert SITE.requirement("GET", HOME + path) == STRICT


def test_within_may_be_deeper() -> None:
    """Any exact path will do."""
    policy = Policy([Rule("GET", "/v1/api/{id}", READ)], within="/v1/api")
    assert policy.requirement("GET", "/v1/api/1") == READ
    assert policy.requirement("GET", "/V1//Api/x/y") == STRICT
    assert policy.requirement("GET", "/v1") is policy.requirement("GET", "/v1/apis") is None


@pytest.mark.parametrize("within", ["", "/", "/api/", "api", "/api/{id}", "/a//b", "/a/../b", "/%61", "/api?"])
def test_no_within(within: str) -> None:
    """What could be read in two ways bounds nothing."""
    with pytest.raises(InvalidPolicy):
        Policy(within=within)


@pytest.mark.parametrize("path", ["/", "/messages", "/apis", "/{x}/messages"])
def test_a_rule_outside_would_never_be_asked(path: str) -> None:
    """Whoever writes one has mistaken the prefix."""
    with pytest.raises(InvalidPolicy, match="lies outside '/api'"):
        Policy([Rule("GET", path)], within="/api")


def test_outside_is_told_from_open() -> None:
    """What others judge and what is open need no key, both, but only the one was judged here."""
    policy = Policy([Rule.open("GET", "/api/healthz"), Rule("GET", "/api/{id}/x", "messages:read")], within="/api")
    asked = [("GET", "/api/healthz"), ("GET", "/page"), ("GET", "/api/7/x"), ("PUT", "/api/7/x")]
    assert [policy.judged_by(*one) for one in asked] == [None, PER_ROUTE, Requirement("messages:read"), Requirement()]
    assert [policy.requirement(*one) for one in asked] == [None, None, Requirement("messages:read"), Requirement()]


def test_what_rules_say_of_operations() -> None:
    """For tests of applications: what no rule describes is named, and what is outside is left out."""
    policy = Policy([Rule.open("GET", "/api/files"), Rule("GET", "/api/{id}/x", "messages:read")], within="/api")
    routes = [("*", "/api/files"), ("GET", "/api/{id:int}/x"), ("PUT", "/api/{id}/x"), ("GET", "/page")]
    told = policy.described(Operation(method, path, Requirement.ANY_KEY) for method, path in routes)
    assert [one.requirement for one in told] == [None, Requirement("messages:read"), Requirement.NOBODY]
