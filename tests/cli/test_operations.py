"""The commands of docs/operations.md, run by a shell in their order."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import doorkey
from doorkey.testing import Clock, issue

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
SHELL = 'set -eu\ndoorkey() { {python} -m doorkey "$@"; }\npython3() { {python} "$@"; }\n'
SOURCE = str(Path(doorkey.__file__).parents[1])


def block(section: str, number: int = 0) -> str:
    """A block of commands of a section."""
    text = PAGE.read_text("utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    found: str = re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[number]
    return found


def run(folder: Path, commands: str, code: int = 0) -> str:
    """What a shell prints that runs these commands."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("DOORKEY_", "FORWARDED"))}
    done = subprocess.run(
        ["bash", "-c", SHELL.replace("{python}", sys.executable) + commands],
        cwd=folder,
        env={**environ, "PYTHONPATH": os.pathsep.join([SOURCE, os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, ""), done
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of its owner alone, with a store that holds a workspace."""
    tmp_path.chmod(0o700)
    run(tmp_path, "doorkey init; doorkey workspace provision Acme")
    return tmp_path


def test_the_beginning(folder: Path) -> None:
    """The two commands that look at the state of things."""
    commands = PAGE.read_text("utf-8").partition("```sh\n")[2].partition("```")[0]
    assert "nothing unsafe" in run(folder, commands)


def test_the_move(folder: Path) -> None:
    """There, to another file instead of another engine, and back."""
    told = run(folder, block("Move to another engine").replace("postgresql://me@localhost/keys", "sqlite:///keys.db"))
    assert "all were compared" in told
    run(folder, "doorkey workspace provision Other 2>/dev/null", 3)
    assert "takes changes" in run(folder, block("Move to another engine", 1))
    run(folder, "doorkey workspace provision Other")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the page makes a secret by openssl, which is not here")
def test_the_rotation(folder: Path) -> None:
    """All four steps, and a token from before them at the end."""
    with doorkey.open(f"sqlite:///{folder}/doorkey.db") as door:
        workspace = next(iter(door.keyring.workspaces())).id
        token = issue(door, workspace=workspace)
    told = run(folder, block("Replace the master secret") + 'echo "$NEW"')
    *lines, secret = told.splitlines()
    assert sum("nothing hangs on it any more" in line for line in lines) == 1
    with doorkey.open(f"sqlite:///{folder}/doorkey.db", secret=secret, clock=Clock()) as door:
        verdict = door.verifier.verify(doorkey.testing.basic(token), requires=doorkey.Requirement.ANY_KEY)
        assert isinstance(verdict, doorkey.Granted)


def test_the_backup(folder: Path) -> None:
    """A copy that SQLite made is a store in order, from which nothing is missing."""
    assert "nothing unsafe" in run(folder, block("Back up"))
    assert run(folder, block("Restore")) == run(folder, "doorkey audit verify")


def test_what_a_restored_backup_lacks_is_found(folder: Path) -> None:
    """The last head from the log shows that a backup is older, as the page says."""
    run(folder, block("Back up"))
    (workspace,) = re.findall(r"ws_\w{16}", run(folder, "doorkey workspace list"))
    run(folder, f"doorkey workspace suspend {workspace}")
    (head,) = re.findall(r"\d+:[0-9a-f]{64}", run(folder, "doorkey audit verify"))
    options = "--store sqlite:///backup.db --secret-file doorkey.db.secret"
    assert "the chain ends before it" in run(folder, f"doorkey {options} audit verify {workspace} --head {head}", 1)
