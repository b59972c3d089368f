"""The tenants on the command line."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

Run = Callable[..., CompletedProcess[str]]
Ask = Callable[..., Any]


def test_provision(run: Run) -> None:
    """A new workspace is told with its test pair, and how to see their tokens."""
    run("init")
    done = run("workspace", "provision", "Acme")
    assert (done.returncode, done.stderr) == (0, "")
    first, _, header, *rows, _, last = done.stdout.splitlines()
    id = first.split()[0]
    assert first == f"{id} (Acme) and its test keys:"
    assert " ".join(header.split()) == "KEY NAME TOKEN STATE PERMISSIONS NETWORKS LAST USED EXPIRES"
    assert sorted(row.split()[1:4] for row in rows) == [["test", "publishable", "key"], ["test", "secret", "key"]]
    assert last == "`doorkey keys reveal KEY` shows the token of one."


def test_provision_as_json(run: Run, ask: Ask) -> None:
    """The document has the workspace with its keys."""
    run("init")
    made = ask("workspace", "provision", "Acme")
    assert (made["name"], made["state"], made["created_at"]) == ("Acme", "provisioned", "2027-01-15T08:00:00Z")
    assert {(key["type"], key["mode"], key["state"]) for key in made["keys"]} == {
        ("secret", "test", "active"),
        ("publishable", "test", "active"),
    }


def test_approve(run: Run, ask: Ask) -> None:
    """Approval makes the live pair, once."""
    run("init")
    id = ask("workspace", "provision", "Acme")["id"]
    approved = ask("workspace", "approve", id)
    assert approved["state"] == "approved"
    assert {key["mode"] for key in approved["keys"]} == {"live"}
    assert len(approved["keys"]) == 2
    assert ask("workspace", "approve", id) == approved
    assert f"{id} (Acme) and its live keys:" in run("workspace", "approve", id).stdout


def test_suspend_and_resume(run: Run, ask: Ask, workspace: str) -> None:
    """Both say what holds now, and the keys show it."""
    suspended = run("workspace", "suspend", workspace).stdout
    assert suspended == (
        f"{workspace} (Acme) is suspended: every request with one of its keys is refused until "
        f"`doorkey workspace resume {workspace}`\n"
    )
    assert {key["state"] for key in ask("keys", "list")["keys"]} == {"suspended"}
    assert ask("workspace", "suspend", workspace)["suspended_at"] == "2027-01-15T08:00:00Z"
    assert run("workspace", "resume", workspace).stdout == f"{workspace} (Acme) is not suspended\n"
    assert {key["state"] for key in ask("keys", "list")["keys"]} == {"active"}


def test_list(run: Run, ask: Ask, workspace: str) -> None:
    """One line for each, oldest first."""
    other = ask("workspace", "provision", "Müller & Söhne")["id"]
    assert run("workspace", "list").stdout.splitlines() == [
        "WORKSPACE            NAME            STATE        CREATED",
        *sorted(
            (
                f"{workspace}  Acme            approved     2027-01-15T08:00:00Z",
                f"{other}  Müller & Söhne  provisioned  2027-01-15T08:00:00Z",
            )
        ),
    ]
    assert {told["id"] for told in ask("workspace", "list")["workspaces"]} == {workspace, other}


def test_an_empty_list(run: Run, ask: Ask) -> None:
    """It says how to begin."""
    run("init")
    assert run("workspace", "list").stdout == (
        "There is no workspace yet: `doorkey workspace provision NAME` makes one.\n"
    )
    assert ask("workspace", "list") == {"workspaces": []}


def test_names_cannot_write_to_the_terminal(run: Run, workspace: str) -> None:
    """A name is refused if it holds control characters, and escaped if somebody put it into the store (G5)."""
    assert run("workspace", "provision", "a\x1b[2Jb").returncode == 2
    driver = sqlite3.connect("doorkey.db")
    driver.execute("UPDATE workspaces SET name = ?", ("a\x1b[2J\nb",))
    driver.commit()
    driver.close()
    for command in (("list",), ("suspend", workspace), ("approve", workspace)):
        shown = run("workspace", *command).stdout
        assert r"a\x1b[2J\nb" in shown
        assert "\x1b" not in shown


def test_unknown_workspaces(run: Run, workspace: str) -> None:
    """An id that names nothing is told apart from a broken store."""
    for verb in ("approve", "suspend", "resume"):
        for id in ("ws_" + "0" * 16, "Acme"):
            done = run("workspace", verb, id)
            assert (done.returncode, done.stdout) == (1, "")
            assert "there is no workspace" in done.stderr
