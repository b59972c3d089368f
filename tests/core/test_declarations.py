"""Requirements that endpoints declare themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import pytest

from doorkey import OPEN, PER_ROUTE, Mode, Policy, Requirement, Rule
from doorkey.core.declarations import (
    REQUIREMENT,
    Operation,
    assert_declared,
    declare,
    declared,
    ensure_judged,
    requirement,
)
from doorkey.core.errors import ConfigurationError, InvalidPermission, InvalidPolicy

READ = Requirement("messages:read")


def endpoint() -> None: ...


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        ((), Requirement()),
        (("messages:read",), READ),
        ((["a", "b"],), Requirement(["a", "b"])),
        (("a", True, Mode.LIVE), Requirement("a", True, Mode.LIVE)),
        (((), True), Requirement(publishable=True)),
        ((Requirement.ANY_KEY,), Requirement.ANY_KEY),
        ((READ,), READ),
        ((OPEN,), None),
    ],
)
def test_what_words_mean(words: tuple[Any, ...], meaning: Requirement | None) -> None:
    """Permissions, a whole requirement, or OPEN; nothing said is the strictest."""
    assert requirement(*words) == meaning


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ((READ, True), InvalidPolicy, "in the requirement itself"),
        ((READ, False, Mode.TEST), InvalidPolicy, "in the requirement itself"),
        ((OPEN, True), InvalidPolicy, "OPEN and nothing else"),
        ((OPEN, False, Mode.LIVE), InvalidPolicy, "OPEN and nothing else"),
        ((PER_ROUTE,), InvalidPolicy, "OPEN and nothing else"),
        (("messages;read",), InvalidPermission, "is no permission"),
    ],
)
def test_words_that_mean_nothing(words: tuple[Any, ...], error: type[Exception], message: str) -> None:
    """What could be read in two ways is refused where it is written."""
    with pytest.raises(error, match=message):
        requirement(*words)


def test_the_words_name_themselves() -> None:
    """In a message or a debugger they look as they are written."""
    assert (repr(OPEN), repr(PER_ROUTE)) == ("OPEN", "PER_ROUTE")


def test_a_rule_takes_the_same_words() -> None:
    """OPEN in a rule is Rule.open, with its conditions."""
    assert Rule("GET", "/healthz", OPEN) == Rule.open("GET", "/healthz")
    assert Policy([Rule("GET", "/healthz", OPEN)]).requirement("GET", "/healthz") is None
    with pytest.raises(InvalidPolicy, match="without parameters"):
        Rule("GET", "/{name}", OPEN)


@pytest.mark.parametrize("said", [READ, None, Requirement.ANY_KEY, Requirement.NOBODY])
def test_declared_is_what_was_declared(said: Requirement | None) -> None:
    """A declaration is found on the endpoint itself, on one made of it, and on what wraps it."""

    def view() -> None: ...

    @wraps(declare(view, said))
    def wrapping() -> None: ...

    for found in (view, wrapping, partial(view), partial(partial(wrapping))):
        assert declared(found) is said


def test_methods_and_classes() -> None:
    """A bound method tells what its function declares; a subclass and an instance, what the class does."""

    class View:
        def get(self) -> None: ...

    class Further(View): ...

    declare(View.get, READ)
    assert declared(View().get) is READ
    assert declared(View) is Requirement.NOBODY
    declare(View, Requirement.ANY_KEY)
    assert declared(Further) is declared(Further()) is Requirement.ANY_KEY
    assert declared(declare(Further, None)) is None


@pytest.mark.parametrize("undeclared", [endpoint, partial(endpoint), object(), None, "a word", type])
def test_nothing_declared_means_nobody(undeclared: object) -> None:
    """Whatever a router leads to, it is closed unless it says otherwise."""
    assert declared(undeclared) is Requirement.NOBODY


@pytest.mark.parametrize("answer", [None, True, "OPEN", lambda: None])
def test_an_object_that_has_every_attribute(answer: object) -> None:
    """What answers to any name, like a dictionary with attributes, has declared nothing: it is not open."""

    class Anything:
        def __getattr__(self, name: str) -> Any:
            return answer

    assert declared(Anything()) is Requirement.NOBODY


def test_two_declarations() -> None:
    """Which of two would hold? So the second is refused."""

    def view() -> None: ...

    declare(view, READ)
    with pytest.raises(InvalidPolicy, match="declares twice"):
        declare(view, READ)


@pytest.mark.parametrize("said", [READ, None])
def test_judged_by_its_own_declaration(said: Requirement | None) -> None:
    """An endpoint runs for a request that was judged by what it declares, and by that alone."""
    ensure_judged({REQUIREMENT: said}, said)
    for request in ({}, {REQUIREMENT: Requirement("charges:read")}, {"state": {REQUIREMENT: said}}):
        with pytest.raises(ConfigurationError, match="PER_ROUTE in front of"):
            ensure_judged(request, said)


def test_open_is_not_taken_for_unjudged() -> None:
    """An open endpoint is not let through for a request that needed a key, nor the other way round."""
    with pytest.raises(ConfigurationError):
        ensure_judged({REQUIREMENT: READ}, None)
    with pytest.raises(ConfigurationError):
        ensure_judged({REQUIREMENT: None}, READ)


WHOLE = [Operation("GET", "/messages", READ), Operation("GET", "/healthz", None)]


def test_an_application_that_is_protected() -> None:
    """Everything is declared, and exactly what is named is open."""
    assert_declared(WHOLE, open=["GET /healthz"])
    assert_declared(WHOLE[:1])


@pytest.mark.parametrize(
    ("operations", "named", "message"),
    [
        ([*WHOLE, Operation("PUT", "/new", Requirement.NOBODY)], ["GET /healthz"], "^PUT /new declares nothing$"),
        (WHOLE, [], "^GET /healthz is open: close it, or name it"),
        (WHOLE, ["GET /healthz", "GET /messages"], "^GET /messages is named in open=, and is not open$"),
        (WHOLE, ["GET /healthz", "GET /gone"], "^GET /gone is named"),
        ([*WHOLE, Operation("PUT", "/new", Requirement.NOBODY)], [], "declares nothing; GET /healthz is open"),
    ],
)
def test_what_nobody_thought_of_is_named(operations: list[Operation], named: list[str], message: str) -> None:
    """A forgotten route, a route that is open by mistake, and one that is no longer there."""
    with pytest.raises(AssertionError, match=message):
        assert_declared(operations, open=named)


@pytest.mark.parametrize("operations", [list, lambda: iter(())])
def test_nothing_was_looked_at(operations: Callable[[], Any]) -> None:
    """A test that finds no route does not pass."""
    with pytest.raises(ConfigurationError, match="no route was found"):
        assert_declared(operations())
