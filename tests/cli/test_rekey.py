"""`doorkey rekey`: what is moved, what is left, and what to do about it."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from os import urandom
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from doorkey.cli import main
from doorkey.management.secrets import MasterSecrets
from doorkey.testing import Clock

Run = Callable[..., CompletedProcess[str]]
Ask = Callable[..., Any]


@pytest.fixture
def rotated(workspace: str, tmp_path: Path) -> tuple[str, str]:
    """The fingerprints of the new secret and the old one, once the new one is the first of the secret file."""
    path = tmp_path / "doorkey.db.secret"
    path.write_text(b64encode(urandom(32)).decode() + "," + path.read_text())
    new, old = MasterSecrets.load(path, {}).fingerprints
    return new, old


def test_all_can_be_moved(run: Run, rotated: tuple[str, str], tmp_path: Path, workspace: str) -> None:
    """The old secret is free to go, and goes: everything works without it."""
    new, old = rotated
    done = run("rekey")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"newest:  {new}, the first of doorkey.db.secret",
        "moved:   4 tokens",
        f"free:    {old}: nothing hangs on it any more: drop it on every host",
    ]
    path = tmp_path / "doorkey.db.secret"
    path.write_text(path.read_text().partition(",")[0])
    assert run("keys", "list").returncode == 0
    events = run("audit", "list", workspace).stdout
    assert events.count("key.rekey") == 4
    assert "ann@acme.example" in events


def test_what_is_left(
    run: Run, ask: Ask, key: Callable[..., str], rotated: tuple[str, str], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of what hangs on the old secret is told with what to do, and the command says no while there is any."""
    new, old = rotated
    both = Path("doorkey.db.secret").read_text().strip()
    monkeypatch.setenv("DOORKEY_SECRET", ",".join(reversed(both.split(","))))
    revealed = [key(mode="live") for _ in range(2)]
    for id in revealed:
        run("keys", "reveal", id, "--stdout")
    monkeypatch.setenv("DOORKEY_SECRET", both)
    ask("keys", "roll", revealed[0], "--grace", "1h")
    done = run("rekey")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == [
        f"newest:  {new}, the first of DOORKEY_SECRET",
        "moved:   4 tokens",
        f"left:    {old}: tokens that hang on it: 2, so it cannot be dropped yet",
        f"  1 without a copy to move: roll the keys {revealed[1]}",
        "  1 in a grace until 2027-01-15T09:00:00Z at most: wait, then run this again",
    ]
    ask("keys", "roll", revealed[1], "--grace", "0")
    clock.advance(3600)
    assert ask("rekey") == {"newest": new, "moved": 0, "left": [], "dropped": [old], "free": [old]}


def test_a_document_of_what_is_left(run: Run, ask: Ask, rotated: tuple[str, str]) -> None:
    """Programs get every key that must be rolled."""
    new, old = rotated
    (live,) = (each["id"] for each in ask("keys", "list", "--mode", "live")["keys"] if each["type"] == "secret")
    run("keys", "reveal", live, "--stdout")
    done = run("rekey", "--json")
    left = {"secret": old, "tokens": 1, "sealed": 0, "roll": [live], "until": None}
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"newest": new, "moved": 3, "left": [left], "dropped": [], "free": []}


def test_the_next_secret_is_no_old_one(run: Run, workspace: str, tmp_path: Path) -> None:
    """In the first step of a rotation the second secret is the next one, which nobody should drop by mistake."""
    path = tmp_path / "doorkey.db.secret"
    path.write_text(path.read_text().strip() + "," + b64encode(urandom(32)).decode())
    done = run("rekey")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].endswith("nothing hangs on it: drop it, unless it is the next one")


def test_a_host_that_lags_behind(
    run: Run, workspace: str, rotated: tuple[str, str], capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    """What another host seals under the old secret meanwhile is told: there the new one is not yet the first."""
    new, old = rotated
    run("rekey")
    both = MasterSecrets.load(Path("doorkey.db.secret"), {})
    MasterSecrets([*both._secrets[::-1]]).write(Path("lagging"))
    issue = ("keys", "issue", workspace, "--type", "secret", "--mode", "test", "--name", "late")
    late = [issue]

    def now() -> float:
        if late:
            assert main([*late.pop(), "--secret-file", "lagging"], clock=clock) == 0
        return clock()

    assert main(["rekey"], clock=now) == 1
    told = capsys.readouterr().out
    assert f"left:    {old}: tokens that hang on it: 1, so it cannot be dropped yet" in told
    assert f"  1 made meanwhile: make {new} the first secret on every host, then run this again" in told
    assert run("rekey").returncode == 0
