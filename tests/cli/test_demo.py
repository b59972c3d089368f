"""The demonstration's command: what it passes on, and what it says where it cannot run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

import doorkey

Run = Callable[..., CompletedProcess[str]]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the extra."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("starlette", "uvicorn", "werkzeug")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.startswith("doorkey.demo")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)


def test_without_the_extra(run: Run, bare: None) -> None:
    """It says what to install."""
    for argv in (("demo",), ("demo", "--check")):
        done = run(*argv)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr == "doorkey: the demo needs starlette: pip install 'doorkey[demo]'\n"


def test_another_module_that_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation is not explained away."""
    monkeypatch.setitem(sys.modules, "doorkey.demo", None)
    with pytest.raises(ModuleNotFoundError, match=r"doorkey\.demo"):
        run("demo", "--check")


def test_a_port_that_cannot_be(run: Run) -> None:
    """What the demonstration refuses is told like any other wrong usage."""
    done = run("demo", "--port", "99999")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("doorkey: ")
    assert run("demo", "--port", "http").returncode == 2


def test_whose_system_it_plays(run: Run, tmp_path: Path) -> None:
    """The one of the profile that is named, which the store remembers; another name is refused."""
    done = run("demo", "--check", "--profile", "falu", "--folder", str(tmp_path / "demo"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "fskl_" in done.stdout
    with doorkey.open(f"sqlite:///{tmp_path}/demo/keys.db") as door:
        assert door.profile is doorkey.FALU
    assert run("demo", "--check", "--profile", "acme").returncode == 2
