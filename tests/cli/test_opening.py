"""Opening the store under its secret: what goes wrong, and what is said about it."""

from __future__ import annotations

import os
import sqlite3
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from doorkey import create
from doorkey.cli.opening import opened, pages, secret_path
from doorkey.core.errors import ConfigurationError, InvalidSecret, InvalidURL, StoreError, UnusableStore
from doorkey.core.profiles import Profile
from doorkey.management.secrets import MasterSecrets
from doorkey.testing import Clock


@pytest.fixture
def args(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Namespace:
    """A command line that names a new store with its secret."""
    monkeypatch.delenv("DOORKEY_SECRET", raising=False)
    secrets = MasterSecrets.generate()
    secrets.write(tmp_path / "keys.db.secret")
    create(f"sqlite:///{tmp_path}/keys.db", secret=secrets).close()
    return Namespace(store=f"sqlite:///{tmp_path}/keys.db", secret_file=None, actor="ann", clock=Clock(1_800_000_000))


def test_the_actor_and_the_clock(args: Namespace) -> None:
    """What a command changes bears its actor and its time; afterwards the store is closed."""
    with opened(args) as door:
        workspace = door.keyring.provision("Acme")
        assert workspace.created_at == 1_800_000_000
        assert {event.actor for event in door.store.events(workspace.id)} == {"ann"}
    with pytest.raises(StoreError, match="closed"):
        door.store.workspace(workspace.id)


def test_an_actor_that_no_event_can_bear(args: Namespace) -> None:
    """It is refused before anything is done."""
    args.actor = "ann\n"
    with pytest.raises(ConfigurationError, match="an actor is"), opened(args):
        pass


def test_where_the_secret_stands(args: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the database; the environment goes before that, and what the command line says before both."""
    assert secret_path(args) == tmp_path / "keys.db.secret"
    text = (tmp_path / "keys.db.secret").read_text()
    (tmp_path / "keys.db.secret").rename(tmp_path / "secret")
    with pytest.raises(InvalidSecret, match="there is no master secret at"), opened(args):
        pass
    args.secret_file = tmp_path / "secret"
    with opened(args):
        pass
    monkeypatch.setenv("DOORKEY_SECRET", "no secret at all")
    with opened(args):
        pass
    args.secret_file = None
    monkeypatch.setenv("DOORKEY_SECRET", text.strip())
    assert secret_path(args) is None
    with opened(args):
        pass
    args.secret_file = tmp_path / "nothing"
    with pytest.raises(InvalidSecret, match="there is no master secret at"), opened(args):
        pass


def test_a_wrong_secret(args: Namespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is found at once, by its fingerprint (B4)."""
    (tmp_path / "keys.db.secret").unlink()
    MasterSecrets.generate().write(tmp_path / "keys.db.secret")
    with pytest.raises(InvalidSecret, match="the store hangs on the master secret"), opened(args):
        pass


def alter(path: Path, statement: str) -> None:
    """Change a database behind doorkey's back."""
    driver = sqlite3.connect(path)
    driver.execute(statement)
    driver.commit()
    driver.close()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.unlink(), "there is no store at"),
        (lambda path: path.write_bytes(b"x" * 8192), "is no SQLite database"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.chmod(0o644), "chmod 600"),
        (lambda path: alter(path, "PRAGMA user_version = 99"), "upgrade doorkey"),
        (lambda path: alter(path, "PRAGMA application_id = 1"), "of something else"),
        (lambda path: (path.unlink(), path.mkdir()), "is no file"),
        (lambda path: (path.rename(path.with_name("x")), path.symlink_to("x")), "is a symbolic link"),
        (lambda path: os.rename(path.parent, f"{path.parent}-moved"), "there is no directory"),
    ],
)
def test_an_unusable_store(args: Namespace, tmp_path: Path, damage: Callable[[Path], object], says: str) -> None:
    """Whatever stands where a store should be, the message says what to do."""
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"keys.db{suffix}").unlink(missing_ok=True)
    damage(tmp_path / "keys.db")
    with pytest.raises(UnusableStore, match=says), opened(args):
        pass


@pytest.mark.parametrize("url", ["memory:", "MEMORY:", "sqlite:keys.db", "mysql://localhost/keys", "keys.db", ""])
def test_a_url_that_names_no_lasting_store(args: Namespace, url: str) -> None:
    """A store in memory would end with the command."""
    args.store = url
    with pytest.raises(InvalidURL), opened(args):
        pass


def test_a_driver_that_is_missing(args: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.delitem(sys.modules, "doorkey.storage.postgres", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    args.store = "postgresql://localhost/keys"
    with pytest.raises(InvalidURL, match=r"psycopg.*pip install 'doorkey\[postgres\]'"), opened(args):
        pass


def test_a_profile_of_ones_own(tmp_path: Path) -> None:
    """The command line cannot know its prefixes, and says where it can be managed."""
    secrets, url = MasterSecrets.generate(), f"sqlite:///{tmp_path}/keys.db"
    create(url, secret=secrets, profile=Profile("acme")).close()
    args = Namespace(store=url, secret_file=None, actor="ann", clock=Clock())
    with pytest.raises(UnusableStore, match=r"the profile 'acme'.*from Python"), opened(args):
        pass


def test_pages() -> None:
    """All of a listing is read, whatever the size of its pages."""
    numbers = range(1, 8)

    def page(after: int | None) -> list[int]:
        return [number for number in numbers if number > (after or 0)][:3]

    assert list(pages(page, lambda number: number)) == list(numbers)


BROKEN = {"missing store": "sqlite:///none.db", "missing folder": "sqlite:///none/keys.db", "memory": "memory:"}


@pytest.mark.parametrize("url", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize(
    "command",
    [
        "workspace provision A",
        "workspace approve ws_1",
        "workspace suspend ws_1",
        "workspace resume ws_1",
        "workspace list",
        "keys list",
        "keys show key_1",
        "keys issue ws_1 --type secret --mode test --name n",
        "keys reveal key_1 --stdout",
        "keys reveal key_1 --out token",
        "keys roll key_1",
        "keys end-grace key_1",
        "keys reissue key_1 --because leaked",
        "keys revoke key_1 --because leaked",
        "keys restrict key_1 --any-network",
        "keys rename key_1 n",
        "keys set-expiry key_1 never",
        "audit list ws_1",
        "audit verify",
        "explain key_1 --method GET --path /",
    ],
)
def test_every_command_says_what_is_missing(
    run: Callable[..., CompletedProcess[str]], tmp_path: Path, command: str, url: str
) -> None:
    """No command needs more than one line for a store that is not there, and none makes anything."""
    done = run(*command.split(), "--store", url)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert done.stderr.startswith("doorkey: ")
    assert list(tmp_path.iterdir()) == []
