"""The screen: whole keys once, lines that work when pasted, and a line for each decision."""

from __future__ import annotations

import io
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorkey import FALU, Decision, Denied, Granted, KeyType, Mode, Principal, Reason, Unavailable
from doorkey.demo import screen, stage
from doorkey.demo.stage import Stage


@pytest.fixture
def built(tmp_path: Path) -> Iterator[Stage]:
    with stage.built(tmp_path) as built:
        yield built


def test_all_five_keys_are_shown(built: Stage) -> None:
    """Each beside what it is, one below the other."""
    text = screen.first(built, 8000)
    tokens = {f"{mode.value}  {type.value}": token.expose() for (type, mode), token in built.tokens.items()}
    tokens["test  restricted"] = built.ring.reveal(built.restricted).expose()
    columns = set()
    for name, token in tokens.items():
        (line,) = re.findall(f"^    {name} .*$", text, re.MULTILINE)
        columns.add(line.index(token))
    assert len(tokens) == 5
    assert len(columns) == 1


def test_the_lines_can_be_pasted(built: Stage) -> None:
    """Each key is set before the lines that use it, each line is one command of a shell, and each names the port."""
    lines = [line.strip() for line in screen.first(built, 8123).splitlines() if line.startswith("      ")]
    assert {line.partition("=")[0] if line.startswith("KEY=") else shlex.split(line)[0] for line in lines} == {
        "KEY",
        "curl",
        *screen._program().split()[:1],
    }
    for line in lines:
        if line.startswith("curl"):
            assert "http://127.0.0.1:8123/" in line
        if line.startswith("curl -u"):
            assert '-u "$KEY:" ' in line
    assert lines[0].startswith("KEY=")


def test_nothing_is_wider_than_a_screen() -> None:
    """As long as the store's path is short, which it is unless a folder is named."""
    with stage.built() as built:
        shown = screen.first(built, 65_535).replace(screen._program(), "doorkey")
    assert max(map(len, shown.splitlines())) <= 120


def test_what_becomes_of_it_is_told(built: Stage) -> None:
    """What is temporary is removed in the end, and a named folder stays."""
    assert f"all stays in {built.folder}" in screen.first(built, 8000)
    with stage.built() as temporary:
        assert "removes everything" in screen.first(temporary, 8000)


@pytest.mark.parametrize(
    ("found", "secret", "program"),
    [
        ("/usr/bin/doorkey", None, "doorkey"),
        (None, None, f"{sys.executable} -m doorkey"),
        ("/usr/bin/doorkey", "another", "env -u DOORKEY_SECRET doorkey"),
    ],
)
def test_the_command_line_works_as_it_is_shown(
    built: Stage, monkeypatch: pytest.MonkeyPatch, found: str | None, secret: str | None, program: str
) -> None:
    """Also where doorkey is not on the path, and where the environment holds another store's secret."""
    monkeypatch.setattr("shutil.which", lambda name: found)
    monkeypatch.delenv("DOORKEY_SECRET", raising=False)
    if secret:
        monkeypatch.setenv("DOORKEY_SECRET", secret)
    assert f"      {program} --store {built.url} keys list\n" in screen.first(built, 8000)


PRINCIPAL = Principal("ws_1", "key_1", "muTFmv6k", KeyType.PUBLISHABLE, Mode.TEST)


@pytest.mark.parametrize(
    ("decision", "told"),
    [
        (Granted(PRINCIPAL), "granted  pk_test_muTFmv6k_…"),
        (Denied(Reason.SECRET_KEY_REQUIRED, PRINCIPAL), "refused  pk_test_muTFmv6k_…  secret_key_required"),
        (Denied(Reason.MISSING), "refused                      api_key_missing"),
        (Unavailable("no store"), "refused                      auth_unavailable"),
    ],
)
def test_a_decision_is_one_line(capsys: pytest.CaptureFixture[str], decision: Decision, told: str) -> None:
    """When, whether, whose, and why not: in the words that the client got."""
    screen.tell(decision)
    assert re.fullmatch(rf"    \d\d:\d\d:\d\d  {re.escape(told)}\n", capsys.readouterr().out)


def test_a_decision_names_the_key_as_its_system_does(capsys: pytest.CaptureFixture[str]) -> None:
    """By the prefix that its token has there."""
    screen.tell(Granted(PRINCIPAL), FALU.format)
    assert capsys.readouterr().out.endswith("granted  fpkt_muTFmv6k_…\n")


def test_the_first_screen_speaks_the_words_of_its_system() -> None:
    """Falu calls its publishable keys public."""
    with stage.built(profile=FALU) as built:
        text = screen.first(built, 8000)
    assert "publishable" not in text
    assert "A public key may stand" in text
    columns = {
        line.index("fsk" if "secret" in line else "fpk")
        for line in re.findall("^    (?:test|live)  .*$", text, re.M)
        if "restricted" not in line
    }
    assert len(columns) == 1


def test_a_closed_screen_fails_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever read the output may have gone."""

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    screen.tell(Granted(PRINCIPAL))
