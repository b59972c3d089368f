"""Which URL names which store, and what a wrong one is told."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from doorkey.core.errors import InvalidURL, UnusableStore
from doorkey.storage.memory import MemoryStore
from doorkey.storage.protocol import SCHEMA, Properties
from doorkey.storage.sqlite import SQLiteStore
from doorkey.storage.urls import create_store, open_store, place, secret_file, upgrade_store

PROPERTIES = Properties("falu", ("fingerprint",))


def test_a_store_in_memory() -> None:
    """`memory:` is a new store each time, with the properties that it is made with."""
    assert isinstance(open_store("memory:"), MemoryStore)
    assert open_store("memory:").properties() == Properties()
    assert create_store("memory:", PROPERTIES).properties() == PROPERTIES


def test_an_absolute_path(tmp_path: Path) -> None:
    """Four slashes name a path from the root; the scheme has no case."""
    with closing(create_store(f"sqlite:///{tmp_path}/keys.db", PROPERTIES)) as created:
        assert isinstance(created, SQLiteStore)
        assert created.path == tmp_path / "keys.db"
    with closing(open_store(f"SQLite:///{tmp_path}/keys.db")) as opened:
        assert opened.properties() == PROPERTIES


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes name a path from the working directory."""
    monkeypatch.chdir(tmp_path)
    create_store("sqlite:///keys.db", PROPERTIES).close()
    assert (tmp_path / "keys.db").is_file()
    open_store("sqlite:///keys.db").close()


def test_an_escaped_path(tmp_path: Path) -> None:
    """What RFC 3986 reserves is percent-escaped, and means the file of that very name."""
    create_store(f"sqlite:///{tmp_path}/a%20b%3F%23%25%40%C3%BC.db", PROPERTIES).close()
    assert (tmp_path / "a b?#%@ü.db").is_file()
    open_store(f"sqlite:///{tmp_path}/a%20b%3f%23%25@ü.db").close()


def test_opening_makes_nothing(tmp_path: Path) -> None:
    """A mistyped path does not become an empty store, and an existing one is never overwritten."""
    url = f"sqlite:///{tmp_path}/keys.db"
    with pytest.raises(UnusableStore):
        open_store(url)
    assert not list(tmp_path.iterdir())
    create_store(url, PROPERTIES).close()
    with pytest.raises(UnusableStore):
        create_store(url, PROPERTIES)


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("", "write sqlite:///keys.db"),
        ("keys.db", "write sqlite:///keys.db"),
        ("/srv/keys.db", "write sqlite:///keys.db"),
        ("mysql://host/db", "write sqlite:///keys.db"),
        ("memory", "write sqlite:///keys.db"),
        ("memory://", "memory:"),
        ("memory:x", "memory:"),
        ("sqlite:", "names no file"),
        ("sqlite:keys.db", "names no file"),
        ("sqlite:/keys.db", "names no file"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite://keys.db", "names no file"),
        ("sqlite://host/keys.db", "names no file"),
        ("sqlite:///keys.db?mode=ro", "percent-escape"),
        ("sqlite:///keys.db#x", "percent-escape"),
        ("sqlite:///my keys.db", "percent-escape"),
        ("sqlite:///keys.db\n", "percent-escape"),
        ("sqlite:///100%.db", "per cent sign"),
        ("sqlite:///%zz.db", "per cent sign"),
        ("sqlite:///%ff.db", "UTF-8"),
        ("sqlite:///a%00b", "%00"),
        ("postgresql:", "postgresql://user:password@host:5432/database"),
        ("postgres://host", "postgresql://user:password@host:5432/database"),
    ],
)
def test_a_wrong_url_is_told_what_to_write(url: str, advice: str) -> None:
    """Whether it would be opened or made, the message names the likely correction."""
    for attempt in (open_store, partial(create_store, properties=PROPERTIES)):
        with pytest.raises(InvalidURL) as raised:
            attempt(url)
        assert advice in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:hunter2@host",
        "postgres://hunter2@host/",
        "postgresql://user:hun?ter2@host",
        "postgresql://user:x@hunter2@host/db",
        "postgresql://user:x/hunter2@host/db",
        "postgresql://user:x#hunter2@host",
        "postgresql://host?password=hunter2",
        "mysql://user:hunter2@host/db",
        "sqlite://user:hunter2@host/keys.db",
        "sqlite:///keys.db?key=hunter2",
        "memory://hunter2@",
    ],
)
def test_no_message_shows_a_password(url: str) -> None:
    """User information and options stay out of errors, wherever the separators are."""
    with pytest.raises(InvalidURL) as raised:
        open_store(url)
    assert not any(part in str(raised.value) for part in ("hunter2", "hun", "ter2"))
    assert url.partition(":")[0] in str(raised.value)


def test_what_may_be_shown_of_a_url() -> None:
    """Of one that could hold a password only its scheme."""
    assert place("sqlite:////srv/keys.db") == "sqlite:////srv/keys.db"
    for url in ("postgresql://ann:hunter2@localhost/keys", "postgresql:///keys?password=hunter2"):
        assert place(url) == "postgresql:..."


def test_an_upgrade_names_the_schema_of_before(database: str, tmp_path: Path) -> None:
    """Of whichever engine the URL names; where there is no store, none is made."""
    for url in (database, f"sqlite:///{tmp_path}/keys.db"):
        with pytest.raises(UnusableStore):
            upgrade_store(url)
        create_store(url, PROPERTIES).close()
        assert upgrade_store(url) == SCHEMA


def test_the_secret_lies_beside_the_file() -> None:
    """The file of the master secret has the name of the store's; other stores have none."""
    assert secret_file("sqlite:////srv/keys.db") == Path("/srv/keys.db.secret")
    assert secret_file("sqlite:///my%20keys.db") == Path("my keys.db.secret")
    assert secret_file("memory:") is None
    with pytest.raises(InvalidURL):
        secret_file("sqlite://keys.db")


def test_only_the_store_that_is_named_is_imported() -> None:
    """A store in memory needs no SQLite."""
    program = "import sys; from doorkey.storage.urls import open_store; open_store('memory:')"
    check = "assert not {'sqlite3', 'doorkey.storage.sqlite'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"{program}; {check}"], check=True)
