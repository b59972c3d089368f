"""Tables, JSON documents, times and escapes."""

from __future__ import annotations

import json
from argparse import Namespace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorkey.cli import output


def test_a_report_is_text_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    """One answer in two forms; the JSON is one document of ASCII."""
    output.report(Namespace(json=False), {"name": "Müller"}, "Müller")
    assert capsys.readouterr().out == "Müller\n"
    output.report(Namespace(json=True), {"name": "Müller\x1b"}, "Müller")
    text = capsys.readouterr().out
    assert text.isascii()
    assert json.loads(text) == {"name": "Müller\x1b"}


def test_a_table_is_aligned() -> None:
    """Columns are as wide as their widest cell, counted as terminals do, and lines have no blanks at their ends."""
    rows = [("a", None, "x"), ("漢字", "e\u0301", 12), ("b\x1b[31m", "", "")]
    assert output.table(("NAME", "B", "C"), rows).splitlines() == [
        "NAME       B  C",
        "a          -  x",
        "漢字       e\u0301  12",
        r"b\x1b[31m",
    ]


def test_an_empty_table_says_so() -> None:
    """No header over nothing."""
    assert output.table(("NAME",), [], empty="There is none.") == "There is none."


def test_a_listing() -> None:
    """One pair a line."""
    assert output.listing({"key": "k", "expires": None}) == "key      k\nexpires  -"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, None),
        (0, "1970-01-01T00:00:00Z"),
        (1_800_000_000, "2027-01-15T08:00:00Z"),
        (253_402_300_799, "9999-12-31T23:59:59Z"),
        (-62_135_596_800, "0001-01-01T00:00:00Z"),
        (253_402_300_800, "253402300800 s"),
        (-(2**63), "-9223372036854775808 s"),
    ],
)
def test_moments(seconds: int | None, text: str | None) -> None:
    """ISO 8601 in UTC, for whatever number a store may hold."""
    assert output.moment(seconds) == text


@given(st.integers(-62_135_596_800, 253_402_300_799))
def test_moments_can_be_read(seconds: int) -> None:
    """A time is told exactly."""
    assert datetime.fromisoformat(str(output.moment(seconds))) == datetime.fromtimestamp(0, UTC).replace(tzinfo=UTC) + (
        datetime.fromtimestamp(seconds, UTC) - datetime.fromtimestamp(0, UTC)
    )


def test_some() -> None:
    """A long list is cut, and says so."""
    assert output.some(None) == "any"
    assert output.some(("a", "b", "c")) == "a, b, c"
    assert output.some(("a", "b", "c", "d", "e")) == "a, b, c and 2 more"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain text: Müller …", "plain text: Müller …"),
        ("a\r\nb", r"a\r\nb"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\u2028\u202e\u200b\x85", r"\u2028\u202e\u200b\x85"),
        ("\udcff", r"\udcff"),
        (7, "7"),
        (None, "-"),
    ],
)
def test_nothing_reaches_the_terminal_raw(value: object, text: str) -> None:
    """Control characters, line separators, marks of direction and surrogates are escaped (G5)."""
    assert output.shown(value) == text


@given(st.text())
def test_what_is_shown_is_printable(text: str) -> None:
    """Whatever stands in a store is one harmless line."""
    assert output.shown(text).isprintable()
