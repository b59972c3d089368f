"""Making a store, and finding out what is wrong with one."""

from __future__ import annotations

import json
import sqlite3
import stat
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import psycopg
import pytest

import doorkey
from doorkey import create
from doorkey.cli.store import _secrets
from doorkey.core.errors import InvalidSecret
from doorkey.core.model import KeyType, Mode
from doorkey.core.profiles import Profile
from doorkey.management.moving import awaiting
from doorkey.management.secrets import MasterSecrets
from doorkey.storage.protocol import Properties
from doorkey.storage.sqlite import SQLiteStore
from doorkey.testing import Clock
from tests.postgres_server import Server

Run = Callable[..., CompletedProcess[str]]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}


def test_init(run: Run, tmp_path: Path) -> None:
    """It makes a store and its secret, both for their owner alone, and says what comes next."""
    done = run("init")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "store:   sqlite:///doorkey.db, for keys of the profile default",
        "secret:  doorkey.db.secret, made just now: keep a copy, away from the database",
        "next:    doorkey workspace provision NAME",
    ]
    assert (mode(tmp_path / "doorkey.db"), mode(tmp_path / "doorkey.db.secret")) == (0o600, 0o600)
    assert run("workspace", "provision", "Acme").returncode == 0


def test_init_elsewhere(run: Run, tmp_path: Path, ask: Callable[..., Any]) -> None:
    """Options name another place, profile and secret; what comes next repeats them."""
    url = f"sqlite:///{tmp_path}/my%20keys.db"
    done = run("init", "--profile", "falu", "--store", url, "--secret-file", "my secret")
    assert done.stdout.endswith(f"next:    doorkey --store {url} --secret-file 'my secret' workspace provision NAME\n")
    assert {path.name for path in tmp_path.iterdir()} >= {"my keys.db", "my secret"}
    made = ask("workspace", "provision", "Acme", "--store", url, "--secret-file", "my secret")
    assert {key["hint"].partition("_")[0] for key in made["keys"]} == {"fskt", "fpkt"}


def test_init_by_the_environment(
    run: Run, ask: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With DOORKEY_SECRET no secret is written; with DOORKEY_STORE the next command needs no option."""
    monkeypatch.setenv("DOORKEY_SECRET", b64encode(bytes(range(32))).decode())
    monkeypatch.setenv("DOORKEY_STORE", "sqlite:///other.db")
    assert ask("init") == {
        "store": "sqlite:///other.db",
        "profile": "default",
        "secret": "DOORKEY_SECRET",
        "secret_made": False,
    }
    assert not list(tmp_path.glob("*.secret"))
    assert run("workspace", "provision", "Acme").returncode == 0
    named = ask("init", "--store", "sqlite:///third.db", "--secret-file", "third.secret")
    assert (named["secret"], named["secret_made"]) == ("third.secret", True)
    assert run("store", "check", "--store", "sqlite:///third.db", "--secret-file", "third.secret").returncode == 0
    assert run("workspace", "list", "--store", "sqlite:///third.db").returncode == 3


def test_init_uses_a_secret_that_is_there(run: Run, tmp_path: Path) -> None:
    """A secret that somebody put there, or that an init made which then broke off, is used and stays."""
    MasterSecrets.generate().write(tmp_path / "doorkey.db.secret")
    before = (tmp_path / "doorkey.db.secret").read_bytes()
    assert "doorkey.db.secret, which was there" in run("init").stdout
    assert (tmp_path / "doorkey.db.secret").read_bytes() == before


def test_a_store_that_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no file beside it for a secret, which must come from elsewhere; none is made up."""
    monkeypatch.delenv("DOORKEY_SECRET", raising=False)
    with pytest.raises(InvalidSecret, match="set DOORKEY_SECRET, or name a --secret-file"):
        _secrets(None)


def test_a_password_is_not_repeated(run: Run, tmp_path: Path) -> None:
    """Whatever is wrong with a store whose URL holds a password, that is not printed."""
    for command in (("init",), ("store", "check"), ("keys", "list")):
        done = run(*command, "--store", "postgresql://ann:hunter2@localhost:1/keys?connect_timeout=1")
        assert done.returncode in (1, 3)
        assert "hunter2" not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_init_twice(run: Run, workspace: str, tmp_path: Path) -> None:
    """A store that is there stays as it is, and gets no new secret when its own is gone."""
    secret = tmp_path / "doorkey.db.secret"
    for name in (secret.name, "moved"):
        secret.rename(tmp_path / name)
        done = run("init")
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr == "doorkey: there is a store at sqlite:///doorkey.db already; it was left as it is\n"
    assert not secret.exists()
    assert workspace in run("workspace", "list", "--secret-file", "moved").stdout


@pytest.mark.parametrize(
    ("prepare", "url", "says"),
    [
        (lambda path: (path / "a.db").write_text("mine"), "sqlite:///a.db", "a.db is there already"),
        (lambda path: None, "sqlite:///none/a.db", "there is no directory none"),
        (lambda path: None, "memory:", "ends with the command"),
        (lambda path: None, "mysql://root@localhost/a", "names no store"),
        (lambda path: (path / "a.db.secret").write_text("abc"), "sqlite:///a.db", "a.db.secret"),
        (lambda path: (path / "a.db.secret").symlink_to("x"), "sqlite:///a.db", "a link is not followed"),
    ],
)
def test_init_that_fails(run: Run, tmp_path: Path, prepare: Callable[[Path], object], url: str, says: str) -> None:
    """What cannot be made leaves nothing behind, and nothing that stood there is touched."""
    prepare(tmp_path)
    before = contents(tmp_path)
    done = run("init", "--store", url)
    assert (done.returncode, done.stdout) == (3, "")
    assert says in done.stderr
    assert contents(tmp_path) == before


def test_init_that_fails_keeps_a_secret_of_before(run: Run, tmp_path: Path) -> None:
    """Only a secret that this very init made is taken away again."""
    MasterSecrets.generate().write(tmp_path / "doorkey.db.secret")
    (tmp_path / "doorkey.db").mkdir()
    before = contents(tmp_path)
    done = run("init")
    assert (done.returncode, "doorkey.db is there already" in done.stderr) == (3, True)
    assert contents(tmp_path) == before


def test_a_sound_store(run: Run, ask: Callable[..., Any], workspace: str, tmp_path: Path) -> None:
    """Nothing is found where all is well: no directory for others, and every live secret seen."""
    tmp_path.chmod(0o700)
    (live,) = (key["id"] for key in ask("keys", "list", "--mode", "live")["keys"] if key["type"] == "secret")
    assert run("keys", "reveal", live, "--stdout").returncode == 0
    done = run("store", "check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "sqlite:///doorkey.db: nothing unsafe or unsound was found\n"
    assert ask("store", "check") == {"sound": True, "findings": []}


def test_a_live_secret_that_nobody_saw(run: Run, ask: Callable[..., Any], workspace: str, tmp_path: Path) -> None:
    """It is a warning with what to do, in words and as a document; test and publishable keys may wait."""
    tmp_path.chmod(0o700)
    (live,) = (key["id"] for key in ask("keys", "list", "--mode", "live")["keys"] if key["type"] == "secret")
    done = run("store", "check")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        f"warning: the live secret of {live} (live secret key) waits to be revealed since 2027-01-15T08:00:00Z, and "
        "whoever has the master secret can still read it",
        f"  to do: doorkey keys reveal {live}, or revoke it if nobody needs it",
    ]
    told = ask("store", "check")
    assert told["sound"] is True
    assert [finding["severity"] for finding in told["findings"]] == ["warning"]


def alter(*statements: str) -> None:
    """Change the database in this folder behind doorkey's back."""
    driver = sqlite3.connect("doorkey.db")
    driver.execute("PRAGMA ignore_check_constraints = ON")
    for statement in statements:
        driver.execute(statement)
    driver.commit()
    driver.close()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.unlink(), "there is no store at"),
        (lambda path: path.chmod(0o644), "chmod 600"),
        (lambda path: path.with_name("doorkey.db.secret").chmod(0o644), "is open to others (mode 0644)"),
        (lambda path: path.with_name("doorkey.db.secret").unlink(), "there is no master secret at"),
        (lambda path: path.with_name("doorkey.db.secret").write_text("x"), "is not 32 bytes"),
        (lambda path: path.parent.chmod(0o777), "others can put files of their own there"),
        (lambda path: alter("PRAGMA user_version = 2"), "upgrade doorkey"),
        (lambda path: alter("DROP INDEX keys_by_workspace"), "was altered"),
        (lambda path: alter("UPDATE keys SET permissions = 'a b:'"), "cannot be understood"),
        (lambda path: alter("UPDATE keys SET type = 'x'"), "cannot be understood"),
    ],
)
def test_an_unsound_store(
    run: Run, workspace: str, tmp_path: Path, damage: Callable[[Path], object], says: str
) -> None:
    """What makes a store unsafe or unsound is an error with its remedy, and the command says no."""
    tmp_path.chmod(0o700)
    damage(tmp_path / "doorkey.db")
    done = run("store", "check")
    tmp_path.chmod(0o700)
    assert (done.returncode, done.stderr) == (1, "")
    assert says in done.stdout
    found, remedies = done.stdout.splitlines()[::2], done.stdout.splitlines()[1::2]
    assert any(line.startswith("error: ") for line in found)
    assert all(line.startswith("  to do: ") for line in remedies)
    assert len(found) == len(remedies)


def test_a_wrong_secret_is_found(run: Run, workspace: str, tmp_path: Path) -> None:
    """The store knows the fingerprint of its secret (B4)."""
    (tmp_path / "doorkey.db.secret").unlink()
    MasterSecrets.generate().write(tmp_path / "doorkey.db.secret")
    done = run("store", "check")
    assert done.returncode == 1
    assert "the store hangs on the master secret" in done.stdout


def test_many_live_secrets(run: Run, workspace: str, clock: Clock) -> None:
    """Every page of every workspace is looked at."""
    with doorkey.open("sqlite:///doorkey.db", clock=clock) as door:
        ring = door.keyring.acting("ann")
        waiting = [ring.issue(workspace, type=KeyType.SECRET, mode=Mode.LIVE, name="n").id for _ in range(101)]
    found = run("store", "check").stdout
    assert [id for id in waiting if id not in found] == []


def test_a_profile_of_ones_own(run: Run, tmp_path: Path) -> None:
    """A store with prefixes that the command line does not know can be checked all the same."""
    tmp_path.chmod(0o700)
    secrets = MasterSecrets.generate()
    secrets.write(tmp_path / "doorkey.db.secret")
    create("sqlite:///doorkey.db", secret=secrets, profile=Profile("acme")).close()
    assert run("store", "check").returncode == 0


def test_a_store_that_is_read_only(run: Run, ask: Callable[..., Any], workspace: str, tmp_path: Path) -> None:
    """It may be meant so, therefore it is a warning."""
    tmp_path.chmod(0o700)
    run("store", "read-only", "on")
    [finding] = [each for each in ask("store", "check")["findings"] if "read-only" in each["what"]]
    assert finding["severity"] == "warning"
    assert finding["remedy"].startswith("doorkey store read-only off")


def test_half_a_copy(run: Run, workspace: str, tmp_path: Path) -> None:
    """A copy that was broken off is told as such, with what goes on."""
    tmp_path.chmod(0o700)
    with closing(SQLiteStore.create("half.db", awaiting(Properties()))):
        done = run("store", "check", "--store", "sqlite:///half.db", "--secret-file", "doorkey.db.secret")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "error: the copy that was being made here was broken off, so no service starts on it",
        "  to do: doorkey store copy FROM TO, with the same FROM and TO as before, goes on",
    ]


def test_a_secret_that_is_not_named(run: Run, workspace: str, tmp_path: Path) -> None:
    """Living tokens that nobody would miss at start-up are found; dead ones do not count."""
    tmp_path.chmod(0o700)
    alter("UPDATE tokens SET secret = 'strange' WHERE key = (SELECT min(id) FROM keys)")
    done = run("store", "check")
    assert done.returncode == 1
    assert "error: 1 living tokens hang on the master secret strange, which the store does not name" in done.stdout
    assert "doorkey rekey" in done.stdout
    alter("UPDATE keys SET revoked_at = 1")
    assert run("store", "check").returncode == 0


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, 0),
        ({"FORWARDED_ALLOW_IPS": ""}, 0),
        ({"FORWARDED_ALLOW_IPS": "*"}, 1),
        ({"UVICORN_FORWARDED_ALLOW_IPS": "10.0.0.1"}, 1),
        ({"FORWARDED_ALLOW_IPS": "*", "UVICORN_FORWARDED_ALLOW_IPS": "*"}, 2),
        ({"FORWARDED_ALLOW_IPS": "*", "UVICORN_PROXY_HEADERS": "False"}, 0),
        ({"FORWARDED_ALLOW_IPS": "*", "UVICORN_PROXY_HEADERS": "1"}, 1),
    ],
)
def test_a_server_that_rewrites_addresses(
    run: Run,
    ask: Callable[..., Any],
    workspace: str,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    found: int,
) -> None:
    """Settings by which the client's address comes from a header that any client can send are told."""
    for name in ("FORWARDED_ALLOW_IPS", "UVICORN_FORWARDED_ALLOW_IPS", "UVICORN_PROXY_HEADERS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    findings = [each for each in ask("store", "check")["findings"] if "uvicorn" in each["what"]]
    assert len(findings) == found
    assert all("--no-proxy-headers" in each["remedy"] and each["severity"] == "warning" for each in findings)


def test_a_store_in_postgresql(run: Run, ask: Callable[..., Any], database: str) -> None:
    """It is checked in the same way: server, tables and rows, then secrets and what waits."""
    options = ("--store", database, "--secret-file", "secret")
    ask("init", *options)
    made = ask("workspace", "provision", "Acme", *options)
    before = ask_anyway(run, "store", "check", *options)
    assert all("the record of token" not in finding["what"] for finding in before)
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute("UPDATE doorkey.keys SET permissions = 'a b:' WHERE id = %s", [made["keys"][0]["id"]])
    (found,) = (each for each in ask_anyway(run, "store", "check", *options) if each not in before)
    assert found["severity"] == "error" and f"(key {made['keys'][0]['id']})" in found["what"]
    assert run("keys", "restrict", made["keys"][0]["id"], "--any-permission", *options).returncode == 0
    assert ask_anyway(run, "store", "check", *options) == before


def ask_anyway(run: Run, *argv: str) -> Any:
    """The findings, whether or not there is an error among them."""
    return json.loads(run(*argv, "--json").stdout)["findings"]


def test_a_standby_is_no_place_for_a_store(run: Run, make_server: Callable[..., Server]) -> None:
    """The check says so, and which server to name."""
    primary = make_server("wal_sender_timeout=1s")
    assert run("init", "--store", primary.url(), "--secret-file", "secret").returncode == 0
    done = run("store", "check", "--store", make_server(standby_of=primary).url(), "--secret-file", "secret")
    assert done.returncode == 1
    assert "is a standby: name the primary" in done.stdout and "nothing else was looked at" in done.stdout


def test_a_server_that_stops_answering(run: Run, make_server: Callable[..., Server]) -> None:
    """It is told that not everything was looked at."""
    server = make_server()
    options = ("--store", server.url(), "--secret-file", "secret")
    assert run("init", *options).returncode == 0
    with psycopg.connect(server.url()) as admin:
        admin.execute("LOCK TABLE doorkey.tokens")
        done = run("store", "check", *options)
    assert done.returncode == 1
    assert "was too slow to answer" in done.stdout and "not everything was looked at" in done.stdout


def test_no_store_in_memory(run: Run) -> None:
    """There is nothing to check in one that was made for the check."""
    done = run("store", "check", "--store", "memory:")
    assert (done.returncode, done.stdout) == (3, "")


def test_upgrade(run: Run, ask: Callable[..., Any], workspace: str) -> None:
    """A store that has the schema of this release is told so, and left as it is."""
    assert run("store", "upgrade").stdout == "sqlite:///doorkey.db has schema 1, and was that already\n"
    assert ask("store", "upgrade") == {"store": "sqlite:///doorkey.db", "schema": 1, "before": 1}
    assert run("--store", "sqlite:///nothing.db", "store", "upgrade").returncode == 3
