"""The line that a long command draws."""

from __future__ import annotations

import io
import sys

import pytest

from doorkey.cli.progress import bar


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, drawn over itself when it changes, and gone at the end."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with bar() as draw:
        for done in (0, 1000, 1001, 2000):
            draw("copying", done, 2000)
        draw("comparing", 1, 0)
    drawn = terminal.getvalue().split("\r")
    half = "#" * 15 + "." * 15
    assert [line.rstrip() for line in drawn] == [
        "",
        f"copying [{'.' * 30}]   0 % of 2,000",
        f"copying [{half}]  50 % of 2,000",
        f"copying [{'#' * 30}] 100 % of 2,000",
        f"comparing [{'#' * 30}] 100 % of 0",
        "",
        "",
    ]
    assert len(drawn[-2]) >= len(drawn[4].rstrip())
    assert "\n" not in terminal.getvalue()


def test_more_than_was_expected_is_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """What grows meanwhile never shows as more than everything."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with bar() as draw:
        draw("copying", 3, 2)
    assert "100 %" in terminal.getvalue()


def test_the_line_goes_when_the_command_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed next stands on a clean line."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with pytest.raises(KeyError), bar() as draw:
        draw("copying", 1, 2)
        raise KeyError
    assert terminal.getvalue().endswith(" \r")


@pytest.mark.parametrize("stream", [None, io.StringIO()], ids=["closed", "a file"])
def test_nobody_else_sees_it(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None) -> None:
    """Where stderr is no terminal, or not there, nothing is drawn."""
    monkeypatch.setattr(sys, "stderr", stream)
    with bar() as draw:
        draw("copying", 1, 2)
    assert stream is None or stream.getvalue() == ""
