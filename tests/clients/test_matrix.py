"""Clients by outcomes: the matrix in docs/clients.md is what happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients import matrix
from tests.clients.plain import PROGRAMS
from tests.clients.programs import require

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning:httpx")

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"


def shown() -> dict[str, dict[str, str]]:
    """The cells of the page, by client and outcome."""
    table = PAGE.read_text("utf-8").partition("<!-- python -m tests.clients -->\n")[2].partition("\n\n")[0]
    head, _, *rows = [line[2:-2].split(" | ") for line in table.splitlines()]
    return {client: dict(zip(head[1:], cells, strict=True)) for client, *cells in rows}


@pytest.fixture(scope="module")
def cell(request: pytest.FixtureRequest) -> Iterator[Callable[[str, str], str]]:
    with matrix.tried(lambda: request.getfixturevalue("chromium")) as cell:
        yield cell


@pytest.mark.parametrize("client", matrix.CLIENTS)
def test_the_page_shows_what_happens(client: str, cell: Callable[[str, str], str]) -> None:
    """Each cell is tried again. After a change, `python -m tests.clients` prints what belongs there."""
    if client in PROGRAMS:
        require(PROGRAMS[client])
    assert shown()[client] == {outcome: cell(client, outcome) for outcome in matrix.OUTCOMES}


def test_no_client_is_left_out() -> None:
    """Nor is there one that nobody tries."""
    assert tuple(shown()) == matrix.CLIENTS
