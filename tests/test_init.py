"""The front door: the public names."""

from __future__ import annotations

from importlib.metadata import version

import doorkey


def test_the_public_names() -> None:
    """
    What a user learns fits on one screen, and each name is there and says what it is.

    No name answers "is it valid?" with a truth value, and nothing checks one part of a credential alone.
    """
    assert len(doorkey.__all__) <= 25
    public = {name: getattr(doorkey, name) for name in doorkey.__all__}
    assert not any(name.startswith(("is_", "check", "valid")) for name in public)
    assert all(value.__doc__ for value in public.values())
    verbs = {name for name in dir(doorkey.Verifier) if not name.startswith("_")}
    assert verbs == {"verify", "identify", "authorize"}
    assert {name for name in dir(doorkey.AsyncVerifier) if not name.startswith("_")} == {
        *verbs,
        "flush",
        "remember",
        "verify_again",
    }


def test_the_version_is_the_packages() -> None:
    """What the program says is what was installed."""
    assert doorkey.__version__ == version("doorkey")
