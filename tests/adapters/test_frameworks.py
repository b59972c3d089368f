"""The table of requests, through every framework: under a policy, and with the same requirements declared per route."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import django
import pytest

from tests.adapters import frameworks, matrix
from tests.adapters.frameworks import Case, Outcome
from tests.adapters.table import ROWS, House


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each framework, way of declaring, and row."""
    if "case" in metafunc.fixturenames:
        cases = list(frameworks.cases(ROWS))
        metafunc.parametrize("case", cases, ids=[str(case) for case in cases])


@pytest.fixture(scope="module")
def applications(houses: dict[str, House]) -> Iterator[frameworks.Applications]:
    """What the cases are driven through, each built once."""
    yield frameworks.Applications(houses)


def test_a_framework_answers_as_the_table_says(case: Case, applications: frameworks.Applications) -> None:
    """Answer and endpoint are as the row says; a difference is one that is named."""
    outcome = applications.outcome(case)
    if case.differs:
        assert outcome.differs == case.differs
    else:
        assert outcome == Outcome()


def test_the_page_tells_what_is_named() -> None:
    """The matrix of the documentation counts the rows and names the differences that the test above holds to."""
    if django.VERSION >= (6, 1):
        pytest.skip("the page was printed with an earlier Django, whose router differs in one row less")
    named = matrix.table((case, Outcome(differs=case.differs)) for case in frameworks.cases(ROWS))
    assert named in (Path(__file__).parents[2] / "docs/frameworks.md").read_text("utf-8")
