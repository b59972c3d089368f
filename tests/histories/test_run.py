"""The short version: a few seconds of each kind of history, and one that must be found out."""

import json
from pathlib import Path

import pytest

from tests.postgres_server import VARIABLE

from .__main__ import main
from .check import Findings, Kind
from .nemeses import NEMESES, able
from .places import Place
from .run import Settings, make

ALL = tuple(NEMESES)


def holds(findings: Findings) -> None:
    """Something happened, and it broke no promise."""
    assert findings.shown == []
    assert findings.grants > 100
    assert findings.denials["revoked"] > 100
    assert findings.ended > 10
    assert findings.strikes.total() > 0


def test_sqlite(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """On one file, without a cache, no key is granted after its end (F2), and a new one works at once (F7)."""
    path = tmp_path / "findings.json"
    words = ["--store", "sqlite", "--cache", "0", "--seconds", "2", "--workers", "2", "--seed", "3"]
    assert main([*words, "--json", str(path)]) == 0
    assert "| SQLite" in capsys.readouterr().out
    (row,) = json.loads(path.read_text())
    assert row["violations"] == {}
    assert row["longest_life"] == row["unavailable"] == row["lost"] == 0
    assert min(row["grants"], row["denials"]["revoked"]) > 100


def test_postgresql_that_crashes(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What PostgreSQL acknowledged it still knows after a crash, and everybody is back within seconds (F2, F12)."""
    monkeypatch.delenv(VARIABLE, raising=False)  # only a server of our own is restarted
    findings = make(Settings("postgresql", seconds=2, workers=2, nemeses=("restart",), seed=1))
    holds(findings)
    assert findings.longest_life == 0


def test_postgresql_with_caches(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With notifications, without, and with their connections cut: no cache exceeds its bound (F3, F8)."""
    monkeypatch.setenv(VARIABLE, postgres)  # a server that is there, in a database of its own
    cache, nemeses = 0.5, ("drop", "stop", "stop-reaper", "step")
    findings = make(Settings("postgresql", cache, seconds=2, workers=2, nemeses=nemeses, seed=2))
    holds(findings)
    assert findings.longest_life <= cache * 1e9
    assert findings.longest_here == 0


def test_a_broken_lookup_is_found_out() -> None:
    """Workers that read each token once and never again break the promise, and it shows."""
    findings = make(Settings("sqlite", seconds=1, workers=2, nemeses=(), broken=True))
    assert findings.violations[Kind.GRANTED_DEAD] > 0
    assert findings.violations[Kind.CAME_BACK] > 0
    assert findings.longest_life > 0
    assert findings.longest_here > 0


def test_a_process_that_fails_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who verifies nothing breaks no promise; that must not count."""
    monkeypatch.setattr("tests.histories.run.work", print)
    with pytest.raises(RuntimeError, match="worker 1 has failed"):
        make(Settings("sqlite", seconds=1, workers=1))


def test_nemeses_need_something_to_strike(tmp_path: Path) -> None:
    """A file is not restarted, nor is somebody else's server, and without caches nobody listens."""
    file, elsewhere = Place("sqlite:///keys.db", tmp_path), Place("postgresql://db/keys", tmp_path)
    assert able(file, 1.0, ALL) == ["stop", "stop-reaper", "kill", "step"]
    assert able(elsewhere, 0, ALL) == ["stop", "stop-reaper", "kill", "step"]
    assert able(elsewhere, 1.0, ALL) == ["stop", "stop-reaper", "kill", "drop", "step"]
    assert able(elsewhere, 1.0, ()) == []
