"""The token: what is minted is read, what is damaged is found out, and nothing prints it."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import re
import subprocess
import sys
import traceback
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorkey.core.errors import InvalidProfile, MalformedToken
from doorkey.core.model import KeyType, Mode
from doorkey.core.profiles import FALU
from doorkey.core.tokens import (
    ALPHABET,
    STANDARD,
    Token,
    TokenFormat,
    checksum,
    hint,
    mint,
    parse,
    random_base62,
)

VECTORS = Path(__file__).parent / "vectors"
CASES = json.loads((VECTORS / "tokens.json").read_text("utf-8"))
SCANNERS = json.loads((VECTORS / "scanners.json").read_text("utf-8"))["rules"]

FORMATS = [STANDARD, TokenFormat.standard("acme"), TokenFormat.standard("a_2"), FALU.format]
KINDS = [(format, type, mode) for format in FORMATS for type in KeyType for mode in Mode]


def kind_name(value: object) -> str:
    return str(getattr(value, "value", value))


def is_token(text: str | bytes, format: TokenFormat) -> bool:
    try:
        parse(text, format)
    except MalformedToken:
        return False
    return True


# Mint and parse


@pytest.mark.parametrize(("format", "type", "mode"), KINDS, ids=kind_name)
def test_what_is_minted_is_read(format: TokenFormat, type: KeyType, mode: Mode) -> None:
    """Reading a minted token gives back the same token, and its type, mode, prefix and id, from text and from bytes."""
    token = mint(type, mode, format)
    text = token.expose()
    assert re.fullmatch(rf"{format.prefix(type, mode)}_[0-9A-Za-z]{{8}}_[0-9A-Za-z]{{36}}", text)
    for read in (parse(text, format), parse(text.encode(), format), format.parse(text.encode())):
        assert read == token
        assert (read.type, read.mode) == (type, mode)
        assert text == f"{read.prefix}_{read.id}_{text[-36:]}" == read.expose()


@given(st.text(ALPHABET, min_size=8, max_size=8), st.text(ALPHABET, min_size=30, max_size=30), st.sampled_from(KINDS))
def test_every_id_and_secret_is_read(id: str, secret: str, kind: tuple[TokenFormat, KeyType, Mode]) -> None:
    """A token of any characters of the alphabet, with its checksum, is one."""
    format, type, mode = kind
    unsigned = f"{format.prefix(type, mode)}_{id}_{secret}"
    token = parse(unsigned + checksum(unsigned.encode()).decode(), format)
    assert (token.id, token.type, token.mode) == (id, type, mode)


@settings(max_examples=200)
@given(
    st.text(max_size=60)
    | st.binary(max_size=60)
    | st.text(ALPHABET + "_é", min_size=44, max_size=46).map("sk_live_".__add__)
)
def test_whatever_arrives_is_read_or_refused(text: str | bytes) -> None:
    """Reading returns a token or raises its one declared error, which holds nothing of the text."""
    try:
        assert parse(text).expose().encode() == (text.encode() if isinstance(text, str) else text)
    except MalformedToken as refused:
        assert refused.__context__ is None or refused.__suppress_context__


@pytest.mark.parametrize("case", CASES["malformed"], ids=lambda case: case["why"])
@pytest.mark.parametrize("format", [STANDARD, FALU.format], ids=repr)
def test_what_is_no_token(format: TokenFormat, case: dict[str, Any]) -> None:
    """ASCII, exact length, case-sensitive, no trimming: nothing is corrected."""
    token = mint(KeyType.SECRET, Mode.LIVE, format)
    parts = {"token": token.expose(), "prefix": token.prefix, "PREFIX": token.prefix.upper(), "id": token.id}
    text = case["text"].format(**parts, rest=token.expose()[-36:])
    with pytest.raises(MalformedToken):
        parse(text, format)
    with pytest.raises(MalformedToken):
        parse(text.encode("utf-8", "surrogatepass"), format)


# Damage


def damaged(text: bytes) -> Iterator[bytes]:
    """Every text that is one slip away: a byte replaced, added, lost, or swapped with the next; or cut anywhere."""
    for position in range(len(text) + 1):
        before, after = text[:position], text[position:]
        for byte in range(256):
            yield before + bytes([byte]) + after
            yield before + bytes([byte]) + after[1:]
        yield before + after[1:]
        yield before + after[1:2] + after[:1] + after[2:]
        yield before
        yield after


@pytest.mark.parametrize(("format", "type", "mode"), KINDS, ids=kind_name)
def test_every_slip_is_found_out(format: TokenFormat, type: KeyType, mode: Mode) -> None:
    """
    A token with one character changed, added or lost, with two neighbours swapped, or cut short is malformed.

    CRC-32 misses no burst of up to 32 bits, so this is certain but for a slip between secret and checksum.
    """
    text = mint(type, mode, format).expose().encode()
    assert {slip for slip in damaged(text) if is_token(slip, format)} == {text}


@pytest.mark.parametrize("format", FORMATS, ids=repr)
def test_a_prefix_cannot_be_edited(format: TokenFormat) -> None:
    """``test`` edited to ``live``, or ``pk`` to ``sk``, is malformed: the checksum covers the prefix."""
    for type, mode in ((type, mode) for type in KeyType for mode in Mode):
        token = mint(type, mode, format)
        for other in {format.prefix(type, mode) for type in KeyType for mode in Mode} - {token.prefix}:
            with pytest.raises(MalformedToken, match="checksum"):
                parse(other + token.expose().removeprefix(token.prefix), format)


def test_the_message_says_what_is_wrong() -> None:
    """Prefix and length, alphabet, and checksum are told apart, and no message shows any of the text."""
    text = mint(KeyType.SECRET, Mode.LIVE).expose()
    for wrong, message in [
        (text + "x", "cut, quoted or padded"),
        (text[:-1] + "-", "0-9, A-Z and a-z"),
        (text[:-1] + ("0" if text[-1] != "0" else "1"), "checksum is wrong"),
        (text[:-1] + "é", "ASCII"),
    ]:
        with pytest.raises(MalformedToken, match=message) as caught:
            parse(wrong)
        assert text[9:17] not in str(caught.value) and text[-20:] not in repr(caught.value.__context__ or "")


# The checksum


@pytest.mark.parametrize("case", CASES["checksums"], ids=lambda case: case["why"])
def test_checksum(case: dict[str, Any]) -> None:
    """CRC-32, written in base62 with its digits in the alphabet's order, zero-padded to six."""
    octets = case["octets"].encode("latin-1")
    assert crc32(octets) == case["crc32"]
    written = checksum(octets).decode()
    assert case.get("checksum", written) == written
    assert len(written) == 6
    assert sum(ALPHABET.index(digit) * 62**place for place, digit in enumerate(written[::-1])) == case["crc32"]


@given(st.binary(max_size=60))
def test_a_checksum_is_the_crc(octets: bytes) -> None:
    """Read as a number of base 62, a checksum is the CRC-32 of what it stands behind."""
    number = 0
    for digit in checksum(octets).decode():
        number = number * 62 + ALPHABET.index(digit)
    assert number == crc32(octets)


def test_the_checksum_is_no_security() -> None:
    """Anybody can compute it: a forged token is well-formed, so only a digest in the store makes a token valid."""
    forged = f"sk_live_{'0' * 8}_{'0' * 30}"
    assert parse(forged + checksum(forged.encode()).decode()).id == "0" * 8


# Randomness


def chi_square(text: str) -> float:
    """How far the counts of the 62 characters lie from equal ones (61 degrees of freedom)."""
    expected = len(text) / len(ALPHABET)
    counts = Counter(text)
    return sum((counts[character] - expected) ** 2 / expected for character in ALPHABET)


CRITICAL = 128.9
"""One fair sample in a million lies above this."""


def test_characters_are_equally_likely() -> None:
    """A million characters show no bias; those of bytes taken modulo 62 would."""
    text = random_base62(1_000_000)
    assert set(text) == set(ALPHABET) and len(text) == 1_000_000
    assert chi_square(text) < CRITICAL
    assert chi_square("".join(ALPHABET[byte % 62] for byte in os.urandom(1_000_000))) > CRITICAL


@pytest.mark.parametrize("length", range(40))
def test_as_many_characters_as_asked_for(length: int) -> None:
    """However many random bytes had to be dropped."""
    assert len(random_base62(length)) == length


def test_no_token_twice() -> None:
    """A hundred thousand tokens differ."""
    assert len({mint(KeyType.SECRET, Mode.LIVE).expose() for _ in range(100_000)}) == 100_000


FORKED = """
import os, sys
from doorkey.core.tokens import KeyType, Mode, mint

def some():
    return [mint(KeyType.SECRET, Mode.LIVE).expose() for _ in range(500)]

some()  # so that whatever state there is exists before the fork
ends = []
for _ in range(8):
    receive, send = os.pipe()
    if os.fork() == 0:
        with os.fdopen(send, "w") as pipe:
            pipe.write(" ".join(some()))
        os._exit(0)
    os.close(send)
    ends.append(receive)
minted = [token for receive in ends for token in os.fdopen(receive).read().split()] + some()
for _ in ends:
    os.wait()
print(len(minted), len(set(minted)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_forked_processes_mint_different_tokens() -> None:
    """Eight children of one process, and the parent, mint different tokens: nobody inherits a generator's state."""
    run = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.split() == ["4500", "4500"]


# Secret scanners

WAYS_TO_WRITE_IT: list[Callable[[str], str]] = [
    lambda token: token,
    lambda token: f'KEY="{token}"',
    lambda token: f"KEY='{token}'\n",
    lambda token: f"stripe_secret_key: {token}",
    lambda token: f'{{"paystack": "{token}\\n"}}',
    lambda token: f"Authorization: Bearer {token}\r\n",
    lambda token: f"Authorization: Basic {b64encode(f'{token}:'.encode()).decode()}",
    lambda token: f"curl -u {token}: https://api.example",
    lambda token: f"https://{token}:@api.example/",
    lambda token: f"{token},{token}",
]


@pytest.fixture(scope="module")
def minted() -> list[str]:
    """Two thousand tokens of every kind."""
    return [mint(type, mode, format).expose() for format, type, mode in KINDS for _ in range(2_000)]


def claims(rule: dict[str, Any], text: str) -> bool:
    return re.search(rule["pattern"], text) is not None


@pytest.mark.parametrize("rule", SCANNERS, ids=lambda rule: f"{rule['scanner']}: {rule['why']}")
def test_no_scanner_takes_our_tokens_for_another_company_s(rule: dict[str, Any], minted: list[str]) -> None:
    """
    Published rules that claim the keys of payment companies claim none of ours, however it is written down.

    Some scanners send what they claim to that company to check it. A sample of the other company's shape is claimed, so
    the rule as it stands here works.
    """
    for prefix in rule["claims"]:
        assert claims(rule, f'KEY="{prefix}{random_base62(40)}"')
    assert not any(claims(rule, write(token)) for token in minted for write in WAYS_TO_WRITE_IT[:2])
    assert not any(claims(rule, write(token)) for token in minted[::50] for write in WAYS_TO_WRITE_IT)


# What a token shows


TOKEN = mint(KeyType.SECRET, Mode.TEST)
SECRET = TOKEN.expose()[-36:]


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        format,
        ascii,
        lambda token: f"{token} {token!r} {token!s}",
        lambda token: "%s %r" % (token, token),  # noqa: UP031  # one of the ways to print
        lambda token: f"{[token]} {(token,)} { {'token': token} }",
        lambda token: traceback.format_exception_only(ValueError(token))[0],
        lambda token: json.dumps(token, default=str),
        lambda token: str(KeyError(token)),
    ],
)
def test_a_token_shows_its_hint_alone(show: Callable[[Token], str]) -> None:
    """However a token is printed, what shows of it is its prefix and its public id."""
    assert TOKEN.hint == f"sk_test_{TOKEN.id}_…"
    shown = show(TOKEN)
    assert TOKEN.id in shown
    assert not any(SECRET[start : start + 8] in shown for start in range(len(SECRET) - 7))


def test_a_token_is_neither_pickled_nor_encoded() -> None:
    """No cache, queue or JSON body takes a token by mistake, and the error says how to take it on purpose."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="expose"):
            pickle.dumps([TOKEN], protocol)
    with pytest.raises(TypeError) as caught:
        json.dumps({"token": TOKEN})
    assert SECRET not in str(caught.value)
    with pytest.raises(TypeError):
        vars(TOKEN)
    with pytest.raises(TypeError) as caught:
        format(TOKEN, ">60")
    assert SECRET not in str(caught.value)


def test_a_copy_is_the_token_itself() -> None:
    """Copies of a structure that holds a token make no second one."""
    assert copy.copy(TOKEN) is TOKEN
    assert copy.deepcopy({"token": [TOKEN]})["token"][0] is TOKEN


def test_a_traceback_with_locals_shows_the_hint(caplog: pytest.LogCaptureFixture) -> None:
    """Crash reporters print the local variables of every frame: of a token they print the hint."""

    def fail(token: Token) -> None:
        everything = [token, {"token": token}]
        raise RuntimeError(f"with {token}", everything)

    try:
        fail(TOKEN)
    except RuntimeError as error:
        report = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        logging.getLogger("test").exception("failed with %s", TOKEN)
    for shown in (report, caplog.text):
        assert TOKEN.hint in shown
        assert SECRET not in shown


def test_tokens_are_equal_by_their_text() -> None:
    """Equality tells whether two texts are the same, and asks nobody else's objects."""
    same = parse(TOKEN.expose())
    assert same == TOKEN and hash(same) == hash(TOKEN) and len({same, TOKEN}) == 1
    assert mint(KeyType.SECRET, Mode.TEST) != TOKEN
    assert (TOKEN == TOKEN.expose()) is False  # noqa: SIM300  # asks the token first


def test_an_emptied_token_has_no_text() -> None:
    """What is kept for later says which token it was, and cannot be presented, nor taken for it or for another one."""
    emptied, other = TOKEN.emptied(), mint(KeyType.SECRET, Mode.TEST).emptied()
    assert (emptied.prefix, emptied.id, emptied.type, emptied.mode) == ("sk_test", TOKEN.id, TOKEN.type, TOKEN.mode)
    assert emptied.expose() == "" and emptied.hint == TOKEN.hint
    assert TOKEN != emptied != other
    assert emptied == TOKEN.emptied() and hash(emptied) == hash(TOKEN.emptied())


def test_hint() -> None:
    """The hint of a token, of its text and of its stored parts are the same; a text that is no token has none."""
    assert hint(TOKEN) == hint(TOKEN.expose()) == hint(TOKEN.expose().encode()) == TOKEN.hint
    assert STANDARD.hint(TOKEN.type, TOKEN.mode, TOKEN.id) == TOKEN.hint
    branded = mint(KeyType.PUBLISHABLE, Mode.LIVE, FORMATS[1])
    assert hint(branded.expose(), FORMATS[1]) == f"acme_pk_live_{branded.id}_…"
    with pytest.raises(MalformedToken):
        hint(TOKEN.expose()[:-1])


# Formats


def prefixes(**changed: str) -> dict[tuple[KeyType, Mode], str]:
    names = {"sl": "sk_live", "st": "sk_test", "pl": "pk_live", "pt": "pk_test"} | changed
    return dict(zip([(type, mode) for type in KeyType for mode in (Mode.LIVE, Mode.TEST)], names.values(), strict=True))


@pytest.mark.parametrize("prefix", ["sk", "a", "x1_2_c", "fskl", "a" * 32])
def test_a_usable_prefix(prefix: str) -> None:
    """Lower-case words joined by single underscores, up to 32 characters; tokens with it are minted and read."""
    format = TokenFormat(prefixes(sl=prefix))
    token = mint(KeyType.SECRET, Mode.LIVE, format)
    assert token.expose().startswith(f"{prefix}_")
    assert parse(token.expose(), format).type is KeyType.SECRET


@pytest.mark.parametrize(
    "prefix", ["", "_", "sk_", "_sk", "s__k", "SK", "1sk", "s-k", "s k", "sk\n", "\u017fk", "sk…", "a" * 33, "pk_live"]
)
def test_an_unusable_prefix(prefix: str) -> None:
    """What could not be told from another prefix, or not be written anywhere, is refused when the format is built."""
    with pytest.raises(InvalidProfile, match="prefix"):
        TokenFormat(prefixes(sl=prefix))


def test_a_format_has_all_four() -> None:
    """A profile without one of them could not issue that kind of key."""
    some = prefixes()
    some.pop((KeyType.SECRET, Mode.TEST))
    for wrong in (some, {}):
        with pytest.raises(InvalidProfile, match="four different prefixes"):
            TokenFormat(wrong)


def test_standard_prefixes() -> None:
    """Those that customers know, each after the brand if there is one."""
    assert {STANDARD.prefix(type, mode) for type in KeyType for mode in Mode} == set(prefixes().values())
    assert TokenFormat.standard("acme").prefix(KeyType.SECRET, Mode.LIVE) == "acme_sk_live"
    with pytest.raises(InvalidProfile, match="'Acme Inc_sk_test' is no token prefix"):
        TokenFormat.standard("Acme Inc")


def test_formats_are_values() -> None:
    """Formats are equal by their prefixes, and show them."""
    assert TokenFormat(prefixes()) == STANDARD and hash(TokenFormat(prefixes())) == hash(STANDARD)
    assert FALU.format != STANDARD and STANDARD not in ("sk_live", None)
    assert repr(FALU.format) == "<TokenFormat fpkl fpkt fskl fskt>"


@pytest.mark.parametrize("other", [format for format in FORMATS if format is not STANDARD], ids=repr)
def test_a_token_is_of_one_format(other: TokenFormat) -> None:
    """A token of one profile is malformed under another."""
    with pytest.raises(MalformedToken):
        parse(TOKEN.expose(), other)
