"""What people see of a history."""

from collections import Counter

import pytest

from .__main__ import main
from .check import Findings, Kind
from .history import Operation, Record, Result
from .run import Settings
from .table import Row, markdown, violations


def findings() -> Findings:
    """Of a short history that went wrong."""
    found = Findings(changes=2, verifications=1_000, grants=990, unavailable=3, ended=1, longest_life=12_000_000)
    found.denials["revoked"] = 7
    found.strikes = Counter({"restart": 1, "stop": 2})
    found.violate(Kind.GRANTED_DEAD, "worker 1", Record(Operation.VERIFY, Result.GRANTED, 5, 10, 20), 12_000_000)
    return found


def test_the_table() -> None:
    """It has a column for each history, and says what was broken."""
    lines = markdown([Row(Settings("sqlite"), Findings()), Row(Settings("postgresql", 2.0), findings())]).splitlines()
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines}
    assert cells["store"] == ["SQLite", "PostgreSQL"]
    assert cells["operations"] == ["0", "1,002"]
    assert cells["violations"] == ["0", "granted after its end 1"]
    assert cells["longest life of a dead token"] == ["0 ms", "12 ms"]
    assert cells["its bound"] == ["0 ms", "2,000 ms"]
    assert cells["nemeses that struck"] == ["none", "restart 1, stop 2"]


def test_a_violation_is_shown() -> None:
    """By its process, its token's number and how late it was."""
    assert violations(Row(Settings("sqlite"), findings())) == (
        "granted after its end: worker 1, token 5, 12.000 ms late, from 10 to 20"
    )


def test_data_without_credentials() -> None:
    """What goes into a JSON file names the kind of store, not its URL with a password in it."""
    data = Row(Settings("postgresql://ann:hunter2@db/keys"), findings()).as_data()
    assert data["store"] == "postgresql"
    assert data["violations"] == {"granted after its end": 1}
    assert "hunter2" not in str(data)


def test_a_nemesis_that_nobody_knows(capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped name is refused before anything begins."""
    with pytest.raises(SystemExit):
        main(["--nemesis", "stop,kil"])
    assert "there is no nemesis kil" in capsys.readouterr().err
