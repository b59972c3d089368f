"""The command line in this process: in an empty folder, without settings from outside, with a clock that stands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from doorkey.cli import main
from doorkey.testing import Clock

Run = Callable[..., CompletedProcess[str]]


@pytest.fixture
def clock() -> Clock:
    """It stands at 2027-01-15T08:00:00Z until it is advanced."""
    return Clock(1_800_000_000)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clock: Clock) -> Run:
    """Run one command, and tell how it ended and what it printed."""
    monkeypatch.chdir(tmp_path)
    for variable in ("DOORKEY_STORE", "DOORKEY_SECRET"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("DOORKEY_ACTOR", "ann@acme.example")

    def run(*argv: str) -> CompletedProcess[str]:
        code: Any
        try:
            code = main(argv, clock=clock)
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return CompletedProcess(argv, code, out, err)

    return run


@pytest.fixture
def ask(run: Run) -> Callable[..., Any]:
    """Run one command that must succeed, and read its JSON document."""

    def ask(*argv: str) -> Any:
        done = run(*argv, "--json")
        assert (done.returncode, done.stderr) == (0, ""), done
        return json.loads(done.stdout)

    return ask


@pytest.fixture
def workspace(ask: Callable[..., Any]) -> str:
    """The id of an approved workspace in a new store, in the folder where commands run."""
    ask("init")
    made: str = ask("workspace", "provision", "Acme")["id"]
    ask("workspace", "approve", made)
    return made


@pytest.fixture
def key(workspace: str, ask: Callable[..., Any]) -> Callable[..., str]:
    """Make a key in that workspace, a secret test key unless said otherwise, and return its id."""

    def key(*options: str, type: str = "secret", mode: str = "test", name: str = "reports") -> str:
        issued = ask("keys", "issue", workspace, "--type", type, "--mode", mode, "--name", name, *options)
        return str(issued["id"])

    return key
