"""Keyed digests: HMAC-SHA-256 as published, under each pepper, and nothing that shows one."""

from __future__ import annotations

import copy
import hmac
import json
import pickle
import traceback
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorkey.core.digests import PEPPER_LENGTH, Digester
from doorkey.core.errors import InvalidSecret
from doorkey.core.model import KeyType, Mode
from doorkey.core.tokens import Token, mint

VECTORS = json.loads((Path(__file__).parent / "vectors" / "hmac.json").read_text("utf-8"))["hmac_sha256"]

PEPPER = b"pepper of thirty-two bytes here!"
PEPPERS = st.binary(min_size=PEPPER_LENGTH, max_size=PEPPER_LENGTH)


def of_text(text: bytes) -> Token:
    return Token(text, "sk_test", KeyType.SECRET, Mode.TEST, "muTFmv6k")


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["why"])
def test_hmac_sha_256_as_published(case: dict[str, Any]) -> None:
    """
    The published vectors come out of a digester itself.

    Its peppers have 32 bytes; HMAC pads a shorter key with zeros and digests one longer than a block (RFC 2104 §2), so
    each key of the vectors is the same as one of 32 bytes.
    """
    key = bytes.fromhex(case["key"])
    pepper = sha256(key).digest() if len(key) > 64 else key.ljust(PEPPER_LENGTH, b"\0")
    assert [digest.hex() for digest in Digester([pepper]).digests(of_text(bytes.fromhex(case["data"])))] == [
        case["digest"]
    ]


@given(st.lists(PEPPERS, min_size=1, max_size=4), st.binary(max_size=200))
def test_it_agrees_with_the_standard_library(peppers: list[bytes], text: bytes) -> None:
    """For any peppers and text, the digests are those of `hmac`, in the order of the peppers."""
    assert Digester(peppers).digests(of_text(text)) == tuple(
        hmac.new(pepper, text, "sha256").digest() for pepper in peppers
    )


def test_a_digester_keeps_no_trace_of_a_token() -> None:
    """Digesting one token changes nothing about the next."""
    digester, token = Digester([PEPPER]), mint(KeyType.SECRET, Mode.LIVE)
    first = digester.digests(token)
    digester.digests(mint(KeyType.SECRET, Mode.LIVE))
    assert digester.digests(token) == first == Digester([PEPPER]).digests(token)


def test_another_pepper_gives_another_digest() -> None:
    """Whoever writes to the store without knowing the pepper cannot make a token of their choosing valid."""
    token = mint(KeyType.SECRET, Mode.LIVE)
    own, other = Digester([PEPPER, bytes(32)]).digests(token)
    assert own != other != sha256(token.expose().encode()).digest() != own


@pytest.mark.parametrize("peppers", [[], (), [b""], [PEPPER, PEPPER[:-1]], [PEPPER + b"!"]])
def test_there_is_no_default_pepper(peppers: list[bytes]) -> None:
    """Without a pepper, or with one of another length, there is no digester; the message shows nothing of it."""
    with pytest.raises(InvalidSecret, match="32 bytes") as caught:
        Digester(peppers)
    assert "thirty" not in str(caught.value)


@pytest.mark.parametrize("show", [repr, str, format, ascii, lambda digester: f"{[digester]}"])
def test_a_digester_shows_no_pepper(show: Callable[[Digester], str]) -> None:
    """What it prints is how many peppers it has."""
    assert "<Digester with 2 pepper(s)>" in show(Digester([PEPPER, bytes(32)]))


def test_a_digester_is_not_pickled() -> None:
    """No cache or queue takes the peppers along, and no error shows them."""
    digester = Digester([PEPPER])
    for serialize in (pickle.dumps, json.dumps, copy.deepcopy):
        with pytest.raises(TypeError) as caught:
            serialize(digester)
        assert "thirty" not in str(caught.value)


def test_a_traceback_with_locals_shows_no_pepper() -> None:
    """Crash reporters print local variables: none of a digester's frames shows the token."""
    digester, token = Digester([PEPPER]), mint(KeyType.SECRET, Mode.LIVE)

    def fail(digester: Digester, token: Token) -> None:
        digester.digests(None)  # type: ignore[arg-type]

    with pytest.raises(AttributeError) as caught:
        fail(digester, token)
    report = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert token.hint in report and repr(digester) in report
    assert token.expose()[-36:] not in report and "pepper of" not in report
