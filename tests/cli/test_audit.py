"""The record of every change on the command line."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

import pytest

import doorkey

Run = Callable[..., CompletedProcess[str]]
Ask = Callable[..., Any]


def alter(statement: str) -> None:
    """Change the database in this folder behind doorkey's back."""
    driver = sqlite3.connect("doorkey.db")
    driver.execute(statement)
    driver.commit()
    driver.close()


def test_list(run: Run, ask: Ask, workspace: str, key: Callable[..., str]) -> None:
    """Each change in order: when, by whom, which key, and what."""
    id = key()
    ask("keys", "rename", id, "Müller", "--actor", "bob")
    header, *rows = run("audit", "list", workspace).stdout.splitlines()
    assert header.split() == ["EVENT", "AT", "ACTOR", "ACTION", "KEY", "DETAIL"]
    assert [row.split()[0] for row in rows] == [str(number) for number in range(1, 9)]
    assert rows[-1].split(maxsplit=5) == [
        *("8", "2027-01-15T08:00:00Z", "bob", "key.rename", id),
        '{"after": "Müller", "before": "reports"}',
    ]
    events = ask("audit", "list", workspace)["events"]
    assert [event["action"] for event in events][:4] == [
        "workspace.provision",
        "key.issue",
        "key.issue",
        "workspace.approve",
    ]
    assert events[-1]["detail"] == {"before": "reports", "after": "Müller"}
    assert events[-1]["actor"] == "bob"
    assert events[0]["actor"] == "ann@acme.example"


def test_a_long_list(ask: Ask, workspace: str) -> None:
    """Every page is read."""
    with doorkey.open("sqlite:///doorkey.db") as door:
        for _ in range(100):
            door.keyring.acting("ann").issue(workspace, type=doorkey.KeyType.SECRET, mode=doorkey.Mode.TEST, name="n")
    events = ask("audit", "list", workspace)["events"]
    assert [event["sequence"] for event in events] == list(range(1, 107))


def test_whole_chains(run: Run, ask: Ask, workspace: str) -> None:
    """Every workspace's chain is checked, and its head told so that it can be noted."""
    other = ask("workspace", "provision", "Other")["id"]
    told = ask("audit", "verify")
    assert told["whole"] is True
    heads = {each["id"]: each["head"] for each in told["workspaces"]}
    assert heads[workspace].startswith("6:")
    assert heads[other].startswith("3:")
    assert [row.split() for row in run("audit", "verify").stdout.splitlines()[1:]] == [
        [each["id"], each["name"], "whole", each["head"]] for each in told["workspaces"]
    ]
    assert run("audit", "verify", workspace, "--head", heads[workspace]).returncode == 0


def test_nothing_to_verify(run: Run) -> None:
    """A store without workspaces is whole."""
    run("init")
    done = run("audit", "verify")
    assert (done.returncode, done.stdout) == (0, "There is no workspace, so there is nothing to verify.\n")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET actor = 'eve' WHERE sequence = 2",
        "DELETE FROM events WHERE sequence = 2",
        "UPDATE events SET detail = '{broken' WHERE sequence = 2",
        "DELETE FROM events",
    ],
)
def test_broken_chains(run: Run, workspace: str, statement: str) -> None:
    """What is wrong is told event by event, with exit code 1; listing works all the same."""
    alter(statement)
    for command in (("audit", "verify"), ("audit", "verify", workspace)):
        done = run(*command)
        assert (done.returncode, done.stderr) == (1, "")
        assert f"{workspace} (Acme): event " in done.stdout
    done = run("audit", "verify", "--json")
    assert (done.returncode, '"whole": false' in done.stdout) == (1, True)
    assert run("audit", "list", workspace).returncode == 0


def test_a_head_of_before(run: Run, ask: Ask, workspace: str, key: Callable[..., str]) -> None:
    """A head that was noted must still stand where it stood, while the chain grows."""
    (noted,) = (each["head"] for each in ask("audit", "verify")["workspaces"])
    key()
    assert run("audit", "verify", workspace, "--head", noted).returncode == 0
    wrong = noted[:-1] + ("0" if noted[-1] != "0" else "1")
    done = run("audit", "verify", workspace, "--head", noted, "--head", wrong)
    assert done.returncode == 1
    assert "not the one that the log names" in done.stdout


@pytest.mark.parametrize("argv", [("--head", "1:" + "0" * 64), ("--head", "head", "ws_1"), ("--head", "0:" + "0" * 64)])
def test_a_head_that_cannot_be(run: Run, workspace: str, argv: tuple[str, ...]) -> None:
    """A head is that of one workspace, and has one form."""
    done = run("audit", "verify", *argv)
    assert (done.returncode, done.stdout) == (2, "")
    assert "a head is" in done.stderr


def test_unknown_workspaces(run: Run, workspace: str) -> None:
    """There is no chain without a workspace."""
    for verb in ("list", "verify"):
        done = run("audit", verb, "ws_" + "0" * 16)
        assert (done.returncode, done.stdout) == (1, "")
