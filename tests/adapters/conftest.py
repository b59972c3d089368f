"""
Gives the table of requests and what drives it to every test of an adapter.

A test that takes ``row`` runs once per row.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.adapters import table as _table
from tests.adapters import wire as _wire
from tests.adapters.table import House


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each row that is meant for the interface in the test's ``interface`` marker, or each row at all."""
    if "row" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("interface")
        wanted = ("", marker.args[0]) if marker else ("", "asgi", "wsgi")
        rows = [row for row in _table.ROWS if row.only in wanted]
        metafunc.parametrize("row", rows, ids=[row.name for row in rows])


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "interface(name): run the table's rows for asgi or wsgi alone")


@pytest.fixture(scope="session")
def table() -> Any:
    """The module of the rows."""
    return _table


@pytest.fixture(scope="session")
def wire() -> Any:
    """The module that drives an application with a row."""
    return _wire


@pytest.fixture(scope="session")
def houses() -> dict[str, House]:
    """A doorkey with a key of every kind, by the name of its profile."""
    return {name: House(profile) for name, profile in _table.PROFILES.items()}
