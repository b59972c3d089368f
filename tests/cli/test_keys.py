"""Every verb of a key's life on the command line; above all, where a token may go."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from doorkey.core.model import Mode, Use
from doorkey.core.tokens import parse
from doorkey.management.secrets import MasterSecrets
from doorkey.storage.protocol import Batch
from doorkey.storage.sqlite import SQLiteStore
from doorkey.testing import Clock

Run = Callable[..., CompletedProcess[str]]
Ask = Callable[..., Any]
Make = Callable[..., str]


def test_list(run: Run, ask: Ask, workspace: str, key: Make, clock: Clock) -> None:
    """One line for each key of a workspace, oldest first, with the hint of its token, its state and its last use."""
    clock.advance(1)
    restricted = key("--permission", "b", "--permission", "a", "--network", "10.0.0.0/8", "--expires", "+1d")
    hint = ask("keys", "show", restricted)["hint"]
    listed = run("keys", "list", workspace).stdout.splitlines()
    assert " ".join(listed[0].split()) == "KEY NAME TOKEN STATE PERMISSIONS NETWORKS LAST USED EXPIRES"
    assert listed[-1] == (
        f"{restricted}  reports               {hint}  active  a, b         10.0.0.0/8  never      2027-01-16T08:00:01Z"
    )
    assert len(listed) == 6
    told = ask("keys", "list", workspace)["keys"]
    assert (told[-1]["permissions"], told[-1]["networks"]) == (["a", "b"], ["10.0.0.0/8"])


def test_last_use(run: Run, ask: Ask, workspace: str, key: Make) -> None:
    """A key was last used when the newest use of any of its tokens was."""
    id = key()
    first = ask("keys", "roll", id)["tokens"][1]["id"]
    assert ask("keys", "show", id)["last_used_at"] is None
    with closing(SQLiteStore("doorkey.db")) as store:
        store.record_uses([Use(first, 1_800_000_060)])
    (line,) = (line for line in run("keys", "list", workspace).stdout.splitlines() if line.startswith(id))
    assert line.split()[-2:] == ["2027-01-15T08:01:00Z", "never"]
    assert "last used    2027-01-15T08:01:00Z" in run("keys", "show", id).stdout
    (told,) = (each for each in ask("keys", "list", workspace)["keys"] if each["id"] == id)
    assert told["last_used_at"] == "2027-01-15T08:01:00Z"


def test_list_of_all(run: Run, ask: Ask, workspace: str) -> None:
    """Without a workspace all keys are listed, each with its own; a mode narrows both."""
    other = ask("workspace", "provision", "Other")["id"]
    assert run("keys", "list").stdout.split()[:3] == ["KEY", "WORKSPACE", "NAME"]
    assert {each["workspace"] for each in ask("keys", "list")["keys"]} == {workspace, other}
    assert {each["workspace"] for each in ask("keys", "list", "--mode", "live")["keys"]} == {workspace}
    assert {each["mode"] for each in ask("keys", "list", workspace, "--mode", "test")["keys"]} == {"test"}
    assert run("keys", "list", other, "--mode", "live").stdout.startswith("There is no such key")
    assert ask("keys", "list", other, "--mode", "live") == {"keys": []}


def test_states_in_a_list(run: Run, workspace: str, key: Make, clock: Clock) -> None:
    """A rolling key tells how long; an expired and a revoked one are told apart."""
    rolling, expired, revoked = key(), key("--expires", "+1h"), key()
    run("keys", "roll", rolling, "--grace", "7d")
    run("keys", "revoke", revoked, "--because", "leaked")
    clock.advance(3600)
    lines = {line.split()[0]: line for line in run("keys", "list").stdout.splitlines()}
    assert "rolling until 2027-01-22T08:00:00Z" in lines[rolling]
    assert " expired " in lines[expired]
    assert " revoked " in lines[revoked]


def test_show(run: Run, ask: Ask, workspace: str, key: Make) -> None:
    """All about one key, long lists in full, and each of its tokens."""
    networks = [f"10.0.{number}.0/24" for number in range(5)]
    id = key(*(f"--network={network}" for network in networks))
    first = ask("keys", "show", id)["hint"]
    second = ask("keys", "roll", id)["hint"]
    done = run("keys", "show", id)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"key          {id}",
        f"workspace    {workspace} (Acme)",
        "name         reports",
        "type         secret",
        "mode         test",
        f"token        {second}",
        "state        rolling until 2027-01-16T08:00:00Z",
        "permissions  any",
        f"networks     {', '.join(networks)}",
        "last used    never",
        "expires      never",
        "",
        "TOKEN               STATE    CREATED               EXPIRES               LAST USED",
        f"{second}  active   2027-01-15T08:00:00Z  -                     -",
        f"{first}  rolling  2027-01-15T08:00:00Z  2027-01-16T08:00:00Z  -",
    ]


def test_issue(run: Run, ask: Ask, workspace: str) -> None:
    """A new key is told with what to do next."""
    options = ("--type", "publishable", "--mode", "live", "--name", "app", "--expires", "2030-01-31T12:00:00+02:00")
    done = run("keys", "issue", workspace, *options)
    id = done.stdout.split()[1]
    assert done.stdout.endswith(f"\nIts token waits: `doorkey keys reveal {id}` shows it.\n")
    told = ask("keys", "show", id)
    assert (told["type"], told["mode"], told["name"], told["expires_at"]) == (
        *("publishable", "live", "app"),
        "2030-01-31T10:00:00Z",
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--permission", "a b"), "'a b' is no permission"),
        (("--network", "10.0.0.1/8"), "has host bits set: write 10.0.0.0/8"),
        (("--name", "a\nb"), "printable characters"),
        (("--expires", "2020-01-01T00:00:00Z"), "is not in the future"),
        (("--expires", "+999999999d"), "after the year 9999"),
        (("--expires", "2030-01-01"), "write 2030-01-01T00:00:00Z"),
        (("--mode", "both"), "invalid choice"),
        (("--actor", "a\tb"), "an actor is"),
    ],
)
def test_issue_that_cannot_be_meant(run: Run, ask: Ask, workspace: str, options: tuple[str, ...], says: str) -> None:
    """Values that mean nothing are wrong usage, with what to write instead; nothing is made."""
    before = ask("keys", "list")
    done = run("keys", "issue", workspace, "--type", "secret", "--mode", "test", "--name", "x", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert ask("keys", "list") == before


def test_live_keys_need_approval(run: Run, ask: Ask) -> None:
    """The lifecycle says no, which is no wrong usage."""
    run("init")
    workspace = ask("workspace", "provision", "Acme")["id"]
    done = run("keys", "issue", workspace, "--type", "secret", "--mode", "live", "--name", "x")
    assert (done.returncode, done.stdout) == (1, "")
    assert "before it is approved" in done.stderr


def test_reveal_to_a_file(run: Run, workspace: str, key: Make, tmp_path: Path) -> None:
    """The file is new and its owner's alone, holds the token and nothing else, and stdout holds nothing."""
    old = os.umask(0)
    done = run("keys", "reveal", key(), "--out", "token")
    os.umask(old)
    token = parse((tmp_path / "token").read_text().strip())
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"doorkey: {token.hint} is in token\n"
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600


def test_reveal_to_stdout(run: Run, ask: Ask, workspace: str, key: Make) -> None:
    """With --stdout the token is all that is printed, as text or as a document."""
    id = key()
    done = run("keys", "reveal", id, "--stdout")
    token = parse(done.stdout.removesuffix("\n"))
    assert (done.returncode, done.stderr) == (0, "")
    assert ask("keys", "reveal", id, "--stdout") == {"key": id, "hint": token.hint, "token": token.expose()}


def test_reveal_to_a_terminal(run: Run, workspace: str, key: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal needs no option."""
    id = key()
    controller, terminal = os.openpty()
    with open(terminal, "w", encoding="utf-8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert run("keys", "reveal", id).returncode == 0
        assert parse(os.read(controller, 1000).decode().strip()).mode is Mode.TEST
    os.close(controller)


def test_nothing_is_revealed_to_whatever_reads(run: Run, ask: Ask, workspace: str, key: Make, tmp_path: Path) -> None:
    """Where stdout is no terminal, the command refuses before the token leaves its seal, and names both ways (G7)."""
    id = key(mode="live")
    for options in ((), ("--json",)):
        done = run("keys", "reveal", id, *options)
        assert (done.returncode, done.stdout) == (2, "")
        assert "--out FILE" in done.stderr
        assert "--stdout" in done.stderr
    assert ask("keys", "show", id)["tokens"][0]["revealable"] is True


def test_both_ways_at_once(run: Run, workspace: str, key: Make) -> None:
    """A token goes to one place."""
    assert run("keys", "reveal", key(), "--stdout", "--out", "x").returncode == 2


def test_a_live_secret_is_seen_once(run: Run, workspace: str, key: Make, tmp_path: Path) -> None:
    """It says that this was the only time; the second time is refused, and leaves no file."""
    id = key(mode="live")
    first = run("keys", "reveal", id, "--out", "token")
    hint = parse((tmp_path / "token").read_text().strip()).hint
    assert first.stderr.splitlines()[1] == (
        f"doorkey: this was the only time that {hint} is shown: if it is lost, roll {id}"
    )
    second = run("keys", "reveal", id, "--out", "again")
    assert (second.returncode, second.stdout) == (1, "")
    assert "was revealed before" in second.stderr
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("there", "there is there already: --out names a new file"),
        ("link", "is there already"),
        ("none/x", "No such file"),
        (".", "is there already"),
    ],
)
def test_a_file_that_cannot_be_made(
    run: Run, ask: Ask, workspace: str, key: Make, tmp_path: Path, out: str, says: str
) -> None:
    """It is found out before the token leaves its seal, and nothing is overwritten or followed."""
    (tmp_path / "there").write_text("mine")
    (tmp_path / "link").symlink_to("elsewhere")
    id = key(mode="live")
    done = run("keys", "reveal", id, "--out", out)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert ask("keys", "show", id)["tokens"][0]["revealable"] is True
    assert (tmp_path / "there").read_text() == "mine"
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("mode", "remedy"), [("live", "`doorkey keys roll {} --grace 0` makes another"), ("test", "reveal it again")]
)
def test_a_token_that_cannot_be_written(
    run: Run, workspace: str, key: Make, monkeypatch: pytest.MonkeyPatch, mode: str, remedy: str
) -> None:
    """Whoever loses a token on the way is told how to get one, and nothing of it is printed."""
    id = key(mode=mode)
    with open("/dev/full", "w", encoding="utf-8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        done = run("keys", "reveal", id, "--stdout")
    assert (done.returncode, done.stdout) == (3, "")
    assert f"(No space left on device): {remedy.format(id)}" in done.stderr
    assert "_…" in done.stderr
    assert done.stderr.count("\n") == 1


def test_nobody_reads_the_token(run: Run, workspace: str, key: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that closed is no quiet end here: a live secret went nowhere."""
    id = key(mode="live")
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        done = run("keys", "reveal", id, "--stdout")
    assert done.returncode == 3
    assert f"`doorkey keys roll {id} --grace 0`" in done.stderr


def test_roll_and_end_grace(run: Run, ask: Ask, workspace: str, key: Make) -> None:
    """A roll makes a token that waits; the old one lives for its grace, or until that is ended."""
    id = key()
    done = run("keys", "roll", id, "--grace", "15m")
    assert "state        rolling until 2027-01-15T08:15:00Z" in done.stdout
    assert f"`doorkey keys reveal {id}`" in done.stdout
    again = run("keys", "roll", id)
    assert (again.returncode, again.stdout) == (1, "")
    assert "still lives in its grace" in again.stderr
    assert ask("keys", "end-grace", id)["state"] == "active"
    told = ask("keys", "roll", id, "--grace", "0")
    assert [token["state"] for token in told["tokens"]] == ["active", "rolled", "rolled"]
    assert run("keys", "roll", id, "--grace", "15").returncode == 2


def test_reissue_and_revoke(run: Run, ask: Ask, workspace: str, key: Make) -> None:
    """Both want a reason, and end every token."""
    id = key()
    assert run("keys", "reissue", id).returncode == 2
    told = ask("keys", "reissue", id, "--because", "laptop lost")
    assert [token["state"] for token in told["tokens"]] == ["active", "revoked"]
    assert run("keys", "reissue", id, "--because", "laptop lost").stdout.endswith("shows it.\n")
    assert run("keys", "revoke", id).returncode == 2
    assert "state        revoked" in run("keys", "revoke", id, "--because", "customer left").stdout
    assert run("keys", "rename", id, "x").returncode == 1
    assert ask("audit", "list", workspace)["events"][-1]["detail"] == {"because": "customer left"}


def test_restrict(run: Run, ask: Ask, workspace: str, key: Make) -> None:
    """Lists replace what was there, lifting is said, and what is not named stays."""
    id = key("--permission", "a", "--network", "10.0.0.0/8")

    def restrict(*options: str) -> tuple[object, object]:
        told = ask("keys", "restrict", id, *options)
        return told["permissions"], told["networks"]

    assert restrict("--permission", "b:read", "--permission", "c") == (["b:read", "c"], ["10.0.0.0/8"])
    assert restrict("--any-network") == (["b:read", "c"], None)
    assert restrict("--any-permission", "--network", "::1") == (None, ["::1"])
    for options in ((), ("--permission", "a", "--any-permission"), ("--network", "::1", "--any-network")):
        done = run("keys", "restrict", id, *options)
        assert (done.returncode, done.stdout) == (2, "")
    assert "say what changes" in run("keys", "restrict", id).stderr


def test_rename_and_expire(run: Run, ask: Ask, workspace: str, key: Make, clock: Clock) -> None:
    """An expiry can be set, moved and taken back."""
    id = key()
    assert ask("keys", "rename", id, "exports")["name"] == "exports"
    assert ask("keys", "set-expiry", id, "+90s")["expires_at"] == "2027-01-15T08:01:30Z"
    clock.advance(90)
    assert ask("keys", "show", id)["state"] == "expired"
    assert run("keys", "reveal", id, "--stdout").returncode == 1
    assert ask("keys", "set-expiry", id, "2030-01-31T12:00:00Z")["expires_at"] == "2030-01-31T12:00:00Z"
    assert ask("keys", "set-expiry", id, "never")["expires_at"] is None
    assert run("keys", "set-expiry", id, "2030-01-31T12:00:00").returncode == 2


def test_keys_are_named_by_id(run: Run, ask: Ask, workspace: str, key: Make) -> None:
    """A hint is explained, another id is not found, and what may be a token in part is not repeated."""
    hint = ask("keys", "show", key())["hint"]
    done = run("keys", "show", hint)
    assert (done.returncode, done.stdout) == (2, "")
    assert "give the id of its key" in done.stderr
    unknown = run("keys", "show", "something")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "something" not in unknown.stderr


def test_a_store_that_may_only_be_read(run: Run, workspace: str, key: Make, tmp_path: Path) -> None:
    """Changes are refused in one line, reading works, and a test token can be shown."""
    id = key()
    store = SQLiteStore(tmp_path / "doorkey.db")
    old = store.properties()
    store.commit(Batch(properties=(replace(old, read_only=True, version=old.version + 1), old.version)))
    store.close()
    for argv in (("rename", id, "x"), ("roll", id), ("revoke", id, "--because", "x")):
        done = run("keys", *argv)
        assert (done.returncode, done.stdout) == (3, "")
        assert "read-only" in done.stderr
    assert run("keys", "list").returncode == 0
    assert run("keys", "reveal", id, "--stdout").returncode == 0


def test_a_secret_that_is_gone(run: Run, workspace: str, key: Make, tmp_path: Path) -> None:
    """No verb works without the master secret, or with another one (B4)."""
    id = key(mode="live")
    (tmp_path / "doorkey.db.secret").unlink()
    done = run("keys", "reveal", id, "--out", "token")
    assert (done.returncode, "there is no master secret" in done.stderr) == (3, True)
    MasterSecrets.generate().write(tmp_path / "doorkey.db.secret")
    done = run("keys", "reveal", id, "--out", "token")
    assert (done.returncode, "hangs on the master secret" in done.stderr) == (3, True)
    assert not (tmp_path / "token").exists()


def test_the_document_of_a_reveal_to_a_file(run: Run, workspace: str, key: Make, tmp_path: Path) -> None:
    """With --json the file has the document, and stdout still nothing."""
    id = key()
    assert run("keys", "reveal", id, "--out", "token.json", "--json").stdout == ""
    assert json.loads((tmp_path / "token.json").read_text())["key"] == id
