"""
Drives the table of requests through the applications of every framework.

The expectation of a row is the same whatever stands between, and stands in the table alone. Per route there is one
difference by nature: where no rule describes an operation, there is no endpoint, so whoever may do all is answered by
the framework, with its own "not found", and no endpoint is called. Others are named in a framework's ``DIFFERS``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from doorkey.core.policy import WEBSOCKET
from tests.adapters import wire
from tests.adapters.apps.setup import Build, Setup
from tests.adapters.table import POLICIES, PROXIES, House, Row, check

NAMES = sorted(path.stem for path in Path(__file__).with_name("apps").glob("*.py") if path.stem != "setup")

CLOSED = frozenset({301, 302, 303, 307, 308, 400, 403, 404, 405, 426, 500})
"""What a framework may answer of its own where it has no endpoint."""


class Case(NamedTuple):
    """
    One row, driven through one application.

    Attributes:
        differs: what becomes of the row in place of what the table says, if this framework is kinder there.
    """

    framework: str
    interface: str
    per_route: bool
    row: Row
    differs: str

    @property
    def application(self) -> tuple[str, str, bool, str, str, str, str]:
        """What tells one application from another."""
        row = self.row
        return (self.framework, self.interface, self.per_route, row.policy, row.proxies, row.store, row.profile)

    def __str__(self) -> str:
        return f"{self.framework}, {self.interface}, {'per route' if self.per_route else 'policy'}: {self.row.name}"


class Outcome(NamedTuple):
    """How an answer compares: nothing is told of one that is as it should be."""

    differs: str = ""
    wrong: str = ""


def cases(rows: Iterable[Row]) -> Iterator[Case]:
    """Each row, for each framework and each way to declare, where it can be driven at all."""
    rows = tuple(rows)
    for name in NAMES:
        module = import_module(f"tests.adapters.apps.{name}")
        under_policy = getattr(module, "DIFFERS_UNDER_POLICY", {})
        for interface in module.BUILDS:
            for per_route in (False, True):
                for row in rows:
                    if row.only not in ("", interface) or (per_route and row.policy != "whole"):
                        continue
                    if row.websocket and name in ("django", "drf"):
                        continue  # Django routes no websockets; its middleware never sees one
                    kinder = module.DIFFERS if per_route else under_policy.get(interface, {})
                    yield Case(name, interface, per_route, row, kinder.get(row.name, ""))


class Applications:
    """The applications, each built once for all the rows that it is for."""

    def __init__(self, houses: Mapping[str, House]) -> None:
        self._houses = houses
        self._setup = cache(self._make)

    def outcome(self, case: Case) -> Outcome:
        """Drive a case, and compare."""
        row, house = case.row, self._houses[case.row.profile]
        setup, application = self._setup(*case.application)
        setup.entered.clear()
        answer = _driven(case, application, house)
        entered = list(setup.entered)
        if case.differs:
            return Outcome("entered" if entered else _code(answer, house))
        if case.per_route and not row.code and not _described(row, house):
            alone = not entered and (
                answer.status in CLOSED or (row.method == "OPTIONS" and answer.status in (200, 204))
            )
            return Outcome() if alone else Outcome(wrong=f"status {answer.status}, entered for {entered}")
        try:
            check(row, answer, entered, house)
        except (AssertionError, LookupError) as error:
            return Outcome(wrong=f"status {answer.status}, entered for {entered}: {error}")
        return Outcome()

    def _make(
        self, framework: str, interface: str, per_route: bool, policy: str, proxies: str, store: str, profile: str
    ) -> tuple[Setup, Any]:
        house = self._houses[profile]
        setup = Setup(
            house.verifiers[store], house.async_verifiers[store], POLICIES[policy], per_route, PROXIES[proxies]
        )
        build: Build = import_module(f"tests.adapters.apps.{framework}").BUILDS[interface]
        return setup, build(setup)


def _driven(case: Case, application: Any, house: House) -> wire.Answer:
    if case.interface == "asgi":
        return wire.over_asgi(application, wire.scope_of(case.row, house.tokens))
    return wire.over_wsgi(application, wire.environ_of(case.row, house.tokens))


def _described(row: Row, house: House) -> bool:
    """Whether a rule describes what a row asks for."""
    path = unquote(row.filled_target(house.tokens).partition("?")[0])
    return POLICIES[row.policy].rule(WEBSOCKET if row.websocket else row.method, path) is not None


def _code(answer: wire.Answer, house: House) -> str:
    """The code of a refusal, or the status of what the framework answered itself."""
    body = answer.body.decode("utf-8", "replace")
    from_body = [part.split('"')[0] for part in body.split('"code": "')[1:]]
    return from_body[0] if from_body else str(answer.status)
