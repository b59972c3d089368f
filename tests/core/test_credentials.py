"""From ``Authorization`` field lines to a token: whatever comes in, one answer or the one declared error."""

from __future__ import annotations

import base64
import json
import re
import time
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from doorkey.core.credentials import LONGEST, Authorization, parse_basic, parse_bearer, presented
from doorkey.core.errors import MalformedCredentials, MalformedToken
from doorkey.core.model import KeyType, Mode
from doorkey.core.tokens import TokenFormat, mint, parse

VECTORS = Path(__file__).parent / "vectors"
BASIC = json.loads((VECTORS / "basic.json").read_text("utf-8"))
BEARER = json.loads((VECTORS / "bearer.json").read_text("utf-8"))

# With these brands the base64 of a token and its colon ends in no "=", in one and in two.
FORMATS = [TokenFormat.standard(brand) for brand in ("", "a", "abc")]


def encoded(octets: bytes) -> bytes:
    return base64.b64encode(octets)


def line_of(case: dict[str, Any], token: bytes = b"") -> bytes:
    """A vector's field line: each character stands for one byte, and what stands in <> is base64 of it."""
    line: bytes = case["line"].encode("latin-1").replace(b"{token}", token)
    while b"<" in line:
        line = re.sub(rb"<([^<>]*)>", lambda found: encoded(found[1]), line)
    return line


def meaning(lines: Authorization, format: TokenFormat = FORMATS[0]) -> object:
    """What the field means: the token's text, "nothing", or "malformed"."""
    try:
        text = presented(lines)
        return "nothing" if text is None else parse(text, format).expose()
    except (MalformedCredentials, MalformedToken):
        return "malformed"


FORMS: list[Callable[[bytes], Authorization]] = [
    lambda line: line,
    lambda line: [line],
    lambda line: line.decode("latin-1"),
    lambda line: (line.decode("latin-1"),),
]
"""Every way in which servers hand over one field line: octets or text, alone or in a list."""


# What a field means


@pytest.mark.parametrize("case", BASIC["presented"] + BEARER["presented"], ids=lambda case: case["why"])
def test_a_field_line_presents_a_token_or_nothing_or_is_malformed(case: dict[str, Any]) -> None:
    """Each vector means the same in every form that servers hand it over in."""
    token = mint(KeyType.SECRET, Mode.TEST).expose()
    expected = token if case["means"] == "token" else case["means"]
    for form in FORMS:
        assert meaning(form(line_of(case, token.encode()))) == expected


@pytest.mark.parametrize("absent", [None, [], (), [""], [b""], "", b"  "])
def test_an_absent_field_presents_nothing(absent: Authorization) -> None:
    """No line and an empty line are the same: no credential."""
    assert presented(absent) is None


KEY = mint(KeyType.SECRET, Mode.TEST).expose().encode()
OTHER = mint(KeyType.SECRET, Mode.TEST).expose().encode()
LINES = [
    b"Basic " + encoded(KEY + b":"),
    b"Basic " + encoded(OTHER + b":"),
    b"Bearer " + KEY,
    b"Bearer " + OTHER,
    b"Basic Zm9v",
    b"Basic",
    b"Bearer",
    b"Negotiate YTpiYw==",
    b'Digest username="a, b", qop=auth',
    b"",
]
OURS = LINES[:4]


@pytest.mark.parametrize(("first", "second"), [pair for pair in product(LINES, LINES) if {*pair} & {*OURS}])
def test_a_second_line_is_malformed_however_it_arrives(first: bytes, second: bytes) -> None:
    """
    Two lines, and the one that servers join them to, are refused alike, whatever else they hold.

    Some servers hand over two lines, some join with "," and some with ", "; none may make a difference.
    """
    joined = [first + comma + second for comma in (b",", b", ", b" ,\t")]
    lines: list[Authorization] = [[first, second], [first.decode(), second.decode()], (first, b"", second), *joined]
    assert {meaning(received) for received in lines} == {"malformed"}


def mutations(line: bytes) -> Iterator[bytes]:
    """Every line that one slip away: a byte replaced, inserted, dropped, or swapped with its neighbour."""
    for position in range(len(line) + 1):
        before, after = line[:position], line[position:]
        for byte in range(256):
            yield before + bytes([byte]) + after
            yield before + bytes([byte]) + after[1:]
        yield before + after[1:]
        yield before + after[1:2] + after[:1] + after[2:]


@pytest.mark.parametrize("format", FORMATS, ids=repr)
@pytest.mark.parametrize("scheme", ["Basic", "Bearer"])
def test_a_token_has_one_header(scheme: str, format: TokenFormat) -> None:
    """
    No byte of a valid header can be changed, added, dropped or moved but in the scheme's case and in white space.

    In particular no two base64 texts present one token, so that nothing that remembers headers is led astray.
    """
    token = mint(KeyType.SECRET, Mode.LIVE, format).expose()
    sent = encoded(f"{token}:".encode()) if scheme == "Basic" else token.encode()
    same = re.compile(rb"[ \t]*(?i:" + scheme.encode() + rb") +" + re.escape(sent) + rb"[ \t]*")
    for mutation in mutations(scheme.encode() + b" " + sent):
        expected = {token} if same.fullmatch(mutation) else {"nothing", "malformed"}
        assert meaning(mutation, format) in expected, mutation


@given(st.binary(max_size=60))
@example(b"")
@example(b":")
@example(b"a:")
@example(b"\xff\x00:")
def test_basic_carries_a_user_id_and_no_password(user_pass: bytes) -> None:
    """Split at the first colon: what stands before it is presented, if there is something, and nothing behind it."""
    user_id, colon, password = user_pass.partition(b":")
    line = b"Basic " + encoded(user_pass)
    if colon and user_id and not password:
        assert presented(line) == user_id
    else:
        with pytest.raises(MalformedCredentials):
            presented(line)


PIECES = [
    *(
        b"Basic",
        b"basic ",
        b"Bearer",
        b"Digest ",
        b" ",
        b"\t",
        b",",
        b"=",
        b'"',
        b"\\",
        b":",
        b"\r\n",
        b"\0",
        b"\xc2\xa0",
    ),
    *(b"a", b"a=b", KEY, encoded(KEY + b":"), encoded(KEY + b":")[:-1], b"YTpiYx==", b"x" * 1000),
]
NEAR = st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join)


@settings(max_examples=1000)
@given(st.binary(max_size=1100) | NEAR | st.text(max_size=60) | st.lists(NEAR, max_size=3))
def test_whatever_arrives_is_answered_or_refused(lines: Authorization) -> None:
    """A token's text, None, or the one declared error: nothing that a client sends makes another exception."""
    try:
        text = presented(lines)
    except MalformedCredentials as refused:
        assert refused.__context__ is None or refused.__suppress_context__
    else:
        assert text is None or isinstance(text, bytes)


@pytest.mark.parametrize("line", ["Basic \u0663", "Bearer \uff11", "Basic \udc80", "Bearer a\u00a0", "\u017fasic a"])
def test_text_beyond_ascii_is_malformed(line: str) -> None:
    """Digits of other scripts, full-width letters, lone surrogates and letters that fold to ASCII are not read."""
    assert meaning(line) == meaning([line]) == "malformed"


def test_a_refusal_repeats_nothing() -> None:
    """The error's text is the same whatever was sent, so that no log shows a piece of a key."""
    for line in (b"Basic " + encoded(KEY), b"Basic " + encoded(KEY + b":" + OTHER), b"Basic " + KEY + b"\xff"):
        with pytest.raises(MalformedCredentials) as caught:
            presented(line)
        assert KEY[-10:].decode() not in repr(caught.value) + repr(caught.value.__context__)


# Long fields


@pytest.mark.parametrize("form", FORMS)
def test_the_longest_field(form: Callable[[bytes], Authorization]) -> None:
    """1,024 octets are read, one more is malformed, white space included."""
    longest = b"Bearer " + b"a" * (LONGEST - 7)
    assert presented(form(longest)) == longest[7:]
    assert presented(form(b"Negotiate " + b"a" * (LONGEST - 10))) is None
    for too_long in (longest + b"a", longest + b" ", b" " + longest, b" " * (LONGEST + 1), b"\xff" * (LONGEST + 1)):
        with pytest.raises(MalformedCredentials, match="at most 1024 octets"):
            presented(form(too_long))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("padding", [b"Basic ", b" Basic ", b"Digest a=b,"])
def test_a_longer_field_costs_no_more(form: Callable[[bytes], Authorization], padding: bytes) -> None:
    """However long a field is, its length alone is looked at: nothing of it is copied, stripped or decoded."""
    lines = form(padding + b"QUFB" * 1_000_000 + b" ")
    tracemalloc.start()
    try:
        assert meaning(lines) == "malformed"
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "line",
    [
        b"Digest " + b"a=b," * 254,
        b"Digest " + b", " * 508,
        b"Digest " + b" " * 1016 + b"=",
        b'Digest a="' + b"\\" * 1013,
        b"Digest " + b"a" * 1016 + b"\xff",
        b"a" * 1023 + b"\xff",
    ],
    ids=lambda line: ascii(line[:14]),
)
def test_no_field_is_slow(line: bytes) -> None:
    """Patterns never go back over what they have read, so a thousand of the worst fields take a moment."""
    start = time.process_time()
    for _ in range(1_000):
        meaning(line)
    assert time.process_time() - start < 1


# The seams


@pytest.mark.parametrize("case", BASIC["credentials"], ids=lambda case: case["why"])
def test_basic_credentials(case: dict[str, Any]) -> None:
    """RFC 7617: user-id and password of any Basic credentials, in UTF-8."""
    assert parse_basic(line_of(case)) == (case["user_id"], case["password"])


@pytest.mark.parametrize("case", BASIC["no_credentials"], ids=lambda case: case["why"])
def test_no_basic_credentials(case: dict[str, Any]) -> None:
    """What RFC 7617 and RFC 4648 do not allow is refused, as octets and as text."""
    for value in (line_of(case), line_of(case).decode("latin-1")):
        with pytest.raises(MalformedCredentials):
            parse_basic(value)


@pytest.mark.parametrize("case", BEARER["credentials"], ids=lambda case: case["why"])
def test_bearer_credentials(case: dict[str, Any]) -> None:
    """RFC 6750: the token of any Bearer credentials."""
    assert parse_bearer(line_of(case)) == parse_bearer(line_of(case).decode()) == case["token"]


@pytest.mark.parametrize("case", BEARER["no_credentials"], ids=lambda case: case["why"])
def test_no_bearer_credentials(case: dict[str, Any]) -> None:
    """What is no b64token is refused, as octets and as text."""
    for value in (line_of(case), line_of(case).decode("latin-1")):
        with pytest.raises(MalformedCredentials):
            parse_bearer(value)


PLAIN = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=40)


@given(PLAIN.filter(lambda text: ":" not in text), PLAIN)
def test_basic_is_read_as_it_is_written(user_id: str, password: str) -> None:
    """Writing and reading Basic credentials are inverses."""
    assert parse_basic(b"Basic " + encoded(f"{user_id}:{password}".encode())) == (user_id, password)


@given(st.from_regex(r"[A-Za-z0-9\-._~+/]+=*", fullmatch=True))
def test_bearer_is_read_as_it_is_written(token: str) -> None:
    """Writing and reading Bearer credentials are inverses."""
    assert parse_bearer(f"Bearer {token}") == token


@settings(max_examples=500)
@given(st.binary(max_size=80) | NEAR | st.text(max_size=40))
def test_the_seams_answer_or_refuse(value: str | bytes) -> None:
    """Whatever bytes or text come in, parse_basic and parse_bearer return or raise their one declared error."""
    for read in (parse_basic, parse_bearer):
        try:
            assert read(value)
        except MalformedCredentials as refused:
            assert refused.__context__ is None or refused.__suppress_context__
