"""Isolation of modes: a handler cannot reach the other mode's resource by mistake."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from doorkey import ByMode, Granted, KeyType, Mode, Principal
from doorkey.core.errors import ConfigurationError
from doorkey.testing import bearer, door, issue

LIVE = Principal("ws_1", "key_1", "muTFmv6k", KeyType.SECRET, Mode.LIVE)
TEST = LIVE._replace(mode=Mode.TEST)


def test_each_mode_has_its_own() -> None:
    """A principal is given the resource of its mode, and nothing else is given out."""
    folders = ByMode(test=Path("test"), live=Path("live"))
    assert folders.of(LIVE) == Path("live")
    assert folders.of(TEST) == Path("test")
    assert [name for name in dir(folders) if not name.startswith("_")] == ["of"]


@pytest.mark.parametrize("mode", Mode)
def test_from_a_token_to_its_data(mode: Mode) -> None:
    """What a live key writes no test key can read, and the other way round."""
    a_door = door()
    decision = a_door.verifier.verify(bearer(issue(a_door, mode=mode)))
    assert isinstance(decision, Granted)
    with closing(sqlite3.connect(":memory:")) as test, closing(sqlite3.connect(":memory:")) as live:
        databases = ByMode(test=test, live=live)
        databases.of(decision.principal).execute("CREATE TABLE messages (id)")
        other = decision.principal._replace(mode=Mode.TEST if mode is Mode.LIVE else Mode.LIVE)
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            databases.of(other).execute("SELECT * FROM messages")


def test_one_resource_for_both_isolates_nothing() -> None:
    """Giving one twice is a mistake that shows at once."""
    both = Path("both")
    with pytest.raises(ConfigurationError, match="give two"):
        ByMode(test=both, live=both)


def test_what_it_holds_is_not_shown() -> None:
    """A resource may be a URL with a password."""
    assert "hunter2" not in repr(ByMode(test="postgresql://a:hunter2@test", live="postgresql://a:hunter2@live"))
