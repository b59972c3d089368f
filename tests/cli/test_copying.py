"""`doorkey store copy` and `store read-only`: moving to another place and back, by commands alone."""

from __future__ import annotations

import io
import json
import shlex
import sqlite3
import sys
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing
from os import urandom
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from doorkey.cli import copying, main
from doorkey.storage.protocol import Batch, Workspace
from doorkey.storage.sqlite import SQLiteStore

Run = Callable[..., CompletedProcess[str]]
Ask = Callable[..., Any]
FROM, TO = "sqlite:///doorkey.db", "sqlite:///new.db"


def test_a_move(run: Run, ask: Ask, workspace: str, tmp_path: Path) -> None:
    """What it tells to do next is all that is needed: then the copy is the store, and the source takes no change."""
    done = run("store", "copy", FROM, TO)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "copied:  1 workspaces, 4 keys with 4 tokens, 6 events; all were compared",
        "source:  sqlite:///doorkey.db is read-only now; to go back to it: "
        "doorkey --store sqlite:///doorkey.db store read-only off",
        "secret:  the same: cp -p doorkey.db.secret new.db.secret",
        "next:    point every service to sqlite:///new.db, then stop using the source",
    ]
    (tmp_path / "new.db.secret").write_bytes((tmp_path / "doorkey.db.secret").read_bytes())
    (tmp_path / "new.db.secret").chmod(0o600)
    assert ask("--store", TO, "keys", "list") == ask("keys", "list")
    key = ask("--store", TO, "keys", "list", "--mode", "test")["keys"][0]["id"]
    assert run("--store", TO, "keys", "reveal", key, "--stdout").stdout == run("keys", "reveal", key, "--stdout").stdout
    assert ask("--store", TO, "audit", "verify")["whole"] is True
    refused = run("workspace", "provision", "Other")
    assert (refused.returncode, "read-only" in refused.stderr) == (3, True)
    assert run("--store", TO, "workspace", "provision", "Other").returncode == 0


def test_a_move_that_is_done(run: Run, ask: Ask, workspace: str) -> None:
    """Told as a document, and told again when it is asked for again."""
    told = {
        **{"source": FROM, "target": TO, "workspaces": 1, "keys": 4, "tokens": 4, "events": 6, "findings": []},
    }
    assert ask("store", "copy", FROM, TO) == told
    assert ask("store", "copy", FROM, TO) == told


def test_going_back(run: Run, ask: Ask, workspace: str) -> None:
    """The command that is told gives the source back."""
    words = run("store", "copy", FROM, TO).stdout.partition("to go back to it: ")[2].splitlines()[0]
    assert run(*shlex.split(words)[1:]).stdout == "sqlite:///doorkey.db takes changes\n"
    assert run("workspace", "provision", "Other").returncode == 0


def test_read_only(run: Run, ask: Ask, workspace: str) -> None:
    """The flag is set and lifted as often as anybody likes; keys are listed all the same."""
    for _ in range(2):
        assert ask("store", "read-only", "on") == {"store": FROM, "read_only": True}
    assert run("store", "read-only", "on").stdout.startswith("sqlite:///doorkey.db is read-only: requests are judged")
    assert ask("keys", "list")["keys"]
    assert run("workspace", "suspend", workspace).returncode == 3
    assert ask("store", "read-only", "off") == {"store": FROM, "read_only": False}
    assert run("workspace", "suspend", workspace).returncode == 0


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (OSError("no space"), 3)])
def test_a_move_that_is_broken_off(
    run: Run, workspace: str, monkeypatch: pytest.MonkeyPatch, stop: BaseException, code: int
) -> None:
    """It says in which state the source is, and both what goes on and what goes back; half a copy is of no use."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            if "100 %" in text:
                raise stop
            return super().write(text)

    terminal = Terminal()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", terminal)
        assert main(["store", "copy", FROM, TO]) == code
    assert "\rcopying [" in terminal.getvalue()
    assert "store read-only off, or copy again to go on" in terminal.getvalue()
    refused = run("--store", TO, "--secret-file", "doorkey.db.secret", "keys", "list")
    assert (refused.returncode, "run `doorkey store copy` again" in refused.stderr) == (3, True)
    assert run("store", "copy", FROM, TO).returncode == 0


def test_a_move_that_fails(run: Run, workspace: str) -> None:
    """Once the source stands still, a failure says so; before that, it does not."""
    with closing(SQLiteStore.create("new.db")) as other:
        other.commit(Batch(workspaces=((Workspace("ws_other", "Other", 1), None),)))
    done = run("store", "copy", FROM, TO)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    run("store", "read-only", "on")
    done = run("store", "copy", FROM, TO)
    assert (done.returncode, done.stdout) == (3, "")
    first, second = done.stderr.splitlines()
    assert first == (
        "doorkey: sqlite:///doorkey.db is read-only now; to go back to it: doorkey --store sqlite:///doorkey.db store "
        "read-only off, or copy again to go on"
    )
    assert "not of this copy" in second


@pytest.mark.parametrize(
    ("source", "target", "code", "says"),
    [
        (FROM, FROM, 2, "name two"),
        ("sqlite:///none.db", TO, 3, "there is no store at"),
        (FROM, "sqlite:///doorkey.db.secret", 3, "doorkey.db.secret is there already"),
        (FROM, "memory:", 3, "ends with the command"),
        ("memory:", TO, 3, "ends with the command"),
    ],
)
def test_what_cannot_be_copied(run: Run, workspace: str, source: str, target: str, code: int, says: str) -> None:
    """It is refused before anything is changed."""
    done = run("store", "copy", source, target)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert run("workspace", "provision", "Other").returncode == 0


def test_a_chain_that_is_not_whole(run: Run, workspace: str) -> None:
    """It is copied as it is, and the command says no, with what is wrong."""
    with closing(sqlite3.connect("doorkey.db")) as driver, driver:
        driver.execute("UPDATE events SET actor = 'eve' WHERE sequence = 2")
    done = run("store", "copy", FROM, TO, "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout)["findings"]
    assert [(finding["workspace"], finding["sequence"]) for finding in told] == [(workspace, 2)]
    assert f"chain:   {workspace}: event 2: " in run("store", "copy", FROM, TO).stdout


@pytest.mark.parametrize(
    ("options", "environment", "target", "says"),
    [
        ([], {}, TO, "the same: cp -p doorkey.db.secret new.db.secret"),
        (["--secret-file", "my secret"], {}, TO, "the same: cp -p 'my secret' new.db.secret"),
        (["--secret-file", "s"], {"DOORKEY_SECRET": "x"}, TO, "the same: cp -p s new.db.secret"),
        ([], {}, "postgresql://db/keys", "the same: set DOORKEY_SECRET to what doorkey.db.secret holds"),
        ([], {"DOORKEY_SECRET": b64encode(urandom(32)).decode()}, TO, "the same: set DOORKEY_SECRET as it is set here"),
    ],
)
def test_where_the_secret_goes(
    monkeypatch: pytest.MonkeyPatch, options: list[str], environment: dict[str, str], target: str, says: str
) -> None:
    """The services that use the copy need the same secret; how they get it depends on where it stands."""
    from doorkey.cli import arguments, parser

    monkeypatch.delenv("DOORKEY_SECRET", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    defaults = arguments.defaults(lambda: 0)
    args = parser().parse_args([*options, "store", "copy", FROM, target], defaults)
    assert copying._same_secret(args) == says
