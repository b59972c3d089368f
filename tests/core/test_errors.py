"""The tree of exceptions: what is drawn is what is there."""

from __future__ import annotations

import re

import pytest

from doorkey.core import errors
from doorkey.core.errors import ConfigurationError, DoorkeyError, KeyringError, StoreError

CLASSES = {name: value for name, value in vars(errors).items() if isinstance(value, type)}


def drawn() -> dict[str, str]:
    """The tree in the module's docstring: each name, and its parent's."""
    tree = re.search(r"::\n\n(.+?)\n\n", errors.__doc__ or "", re.DOTALL)
    assert tree is not None
    parents: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in tree[1].splitlines():
        name = re.search(r"[A-Z]\w+", line)
        assert name is not None
        above = [(column, parent) for column, parent in above if column < name.start()]
        parents[name[0]] = above[-1][1] if above else "Exception"
        above.append((name.start(), name[0]))
    return parents


def test_the_drawing_is_the_tree() -> None:
    """Every exception stands in the docstring where it stands in the code, and none is missing there."""
    assert drawn() == {name: value.__bases__[0].__name__ for name, value in CLASSES.items()}


@pytest.mark.parametrize("name", CLASSES)
def test_one_clause_catches_all(name: str) -> None:
    """``except DoorkeyError`` catches whatever doorkey raises on purpose, and each class says what it stands for."""
    assert issubclass(CLASSES[name], DoorkeyError)
    assert CLASSES[name].__doc__


@pytest.mark.parametrize("name", CLASSES)
def test_a_wrong_value_is_a_value_error(name: str) -> None:
    """What is wrong with a value is a ValueError, as in the standard library; what is wrong with a store is none."""
    of_values = issubclass(CLASSES[name], ConfigurationError) or name.startswith("Malformed")
    assert issubclass(CLASSES[name], ValueError) is of_values
    assert not (of_values and issubclass(CLASSES[name], StoreError | KeyringError))
