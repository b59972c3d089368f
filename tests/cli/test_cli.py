"""The command as a whole: exit codes, errors in one line, options on both sides, broken outputs, and the process."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, TextIO

import pytest

from doorkey import __version__
from doorkey.cli import main, parser
from doorkey.core.model import KeyType, Mode
from doorkey.core.tokens import mint

Run = Callable[..., CompletedProcess[str]]


def process(*argv: str, **options: Any) -> CompletedProcess[str]:
    """Run it as users do."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DOORKEY_")}
    command = [sys.executable, "-W", "error", "-m", "doorkey", *argv]
    return subprocess.run(command, text=True, capture_output=True, timeout=60, check=False, env=environ, **options)


def commands(parser: ArgumentParser) -> Iterator[ArgumentParser]:
    """Every parser of the command line."""
    yield parser
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            for inner in action.choices.values():
                yield from commands(inner)


@pytest.mark.parametrize(
    ("argv", "code", "problem"),
    [
        (("workspace", "list"), 3, "there is no store at"),
        (("--store", "mysql://x/y", "keys", "list"), 3, "names no store"),
        (("audit", "verify", "--head", "12:ab"), 2, "a head is"),
    ],
)
def test_an_error_is_one_line(run: Run, argv: tuple[str, ...], code: int, problem: str) -> None:
    """An expected error is one line on stderr, with an exit code that tells whose it is."""
    done = run(*argv)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("doorkey: ")
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_refusal_of_the_lifecycle_is_1(run: Run, workspace: str, key: Callable[..., str]) -> None:
    """What the keyring refuses is neither a wrong command nor a broken store."""
    done = run("keys", "show", "key_" + "a" * 16)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "there is no key key_aaaaaaaaaaaaaaaa" in done.stderr


@pytest.mark.parametrize("argv", [(), ("keys",), ("keys", "lost"), ("keys", "list", "--mod", "test"), ("--port", "1")])
def test_wrong_usage_is_2(run: Run, argv: tuple[str, ...]) -> None:
    """argparse explains wrong usage; options are not guessed from their beginnings."""
    done = run(*argv)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: doorkey" in done.stderr


@pytest.mark.parametrize("each", list(commands(parser())), ids=lambda each: each.prog)
def test_every_command_explains_itself(each: ArgumentParser) -> None:
    """Help can be printed for every command, in whatever width, and describes it."""
    assert each.description
    assert "options of every command" in each.format_help()


@pytest.mark.parametrize(
    "argv",
    [
        ("--store", "sqlite:///other.db", "--json", "workspace", "list"),
        ("workspace", "--store", "sqlite:///other.db", "--json", "list"),
        ("workspace", "list", "--store", "sqlite:///other.db", "--json"),
        ("--store", "sqlite:///doorkey.db", "workspace", "list", "--json", "--store", "sqlite:///other.db"),
    ],
)
def test_global_options_work_on_both_sides(run: Run, argv: tuple[str, ...]) -> None:
    """Before the command, in its middle and after it; the last one counts."""
    assert run("init", "--store", "sqlite:///other.db").returncode == 0
    done = run(*argv)
    assert (done.returncode, done.stdout) == (0, '{\n  "workspaces": []\n}\n')


def test_version(run: Run) -> None:
    """The release can be asked for."""
    assert run("--version").stdout == f"doorkey {__version__}\n"


def test_a_token_in_an_argument_is_refused(run: Run, workspace: str) -> None:
    """Wherever a token stands in the arguments, nothing is done, and nothing of it is printed (G7)."""
    token = mint(KeyType.SECRET, Mode.LIVE).expose()
    for argv in (
        ("keys", "show", token),
        ("explain", token, "--method", "GET", "--path", "/"),
        ("keys", "show", f"--{token}"),
        ("--actor", f"{token}:", "workspace", "list"),
        (token[:-6],),
    ):
        done = run(*argv)
        assert (done.returncode, done.stdout) == (2, "")
        assert "looks like a token" in done.stderr
        assert token[9:17] not in done.stderr


def test_interrupted(run: Run, workspace: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C ends a command without a traceback."""

    def interrupt() -> float:
        raise KeyboardInterrupt

    assert main(["workspace", "provision", "Other"], clock=interrupt) == 130
    assert capsys.readouterr() == ("", "doorkey: interrupted\n")


def gone() -> TextIO:
    """A pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w", encoding="utf-8")


def test_nobody_reads(run: Run, workspace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that closed ends a command quietly, and nothing is left to be written when the process ends."""
    with gone() as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        done = run("keys", "list")
    assert (done.returncode, done.stderr) == (141, "")


def test_the_output_is_full(run: Run, workspace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An output that takes nothing is an error, not silence."""
    with open("/dev/full", "w", encoding="utf-8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        done = run("keys", "list")
    assert done.returncode == 3
    assert done.stderr == "doorkey: the output cannot be written: No space left on device\n"


def test_stdout_is_closed(run: Run, workspace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any stdout nothing is done: a token could be revealed to nobody."""
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["keys", "list"]) == 3


def test_another_failure_of_the_system(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else the operating system refuses is told in one line, too."""
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    done = run("workspace", "list")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "No such file or directory" in done.stderr


def test_a_stdout_that_is_no_file(run: Run, workspace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller's own stdout does, too."""
    kept: list[str] = []

    class Kept:
        write = staticmethod(kept.append)

        def flush(self) -> None: ...

    monkeypatch.setattr(sys, "stdout", Kept())
    assert main(["workspace", "list"]) == 0
    assert "Acme" in "".join(kept)


def test_as_a_process(tmp_path: Path) -> None:
    """`python -m doorkey` works in an empty folder, with an output that knows no "…"."""
    assert process("init", cwd=tmp_path).returncode == 0
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "doorkey", "workspace", "provision", "Müller"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"M\xfcller" in done.stdout
    assert rb"_\u2026" in done.stdout
    listed = process("keys", "list", cwd=tmp_path)
    assert (listed.returncode, listed.stdout.count("\n")) == (0, 3)


def test_a_process_whose_reader_leaves(tmp_path: Path) -> None:
    """`doorkey … | head` prints no traceback, not even when the interpreter ends."""
    assert process("init", cwd=tmp_path).returncode == 0
    command = [sys.executable, "-m", "doorkey", "workspace", "list"]
    with gone() as stdout:
        done = subprocess.run(command, cwd=tmp_path, stdout=stdout, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_process_without_stdout(tmp_path: Path) -> None:
    """A closed stdout is told apart from one that nobody reads."""
    command = f"{sys.executable} -m doorkey init >&-"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "stdout is closed" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_module(run: Run, workspace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m doorkey` takes the arguments of its process, and ends with the command's exit code."""
    for argv, code in ((["doorkey", "keys", "list"], 0), (["doorkey", "keys", "show", "x"], 1)):
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as stop:
            runpy.run_module("doorkey", run_name="__main__")
        assert stop.value.code == code
    assert runpy.run_module("doorkey.__main__", run_name="other")["main"] is main
