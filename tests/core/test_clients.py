"""The client's address behind trusted proxies: nobody can name an address for somebody else."""

from __future__ import annotations

import ipaddress
import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorkey.core.clients import Hop, TrustedProxies
from doorkey.core.errors import ConfigurationError, InvalidNetwork
from doorkey.core.networks import canonical_address

CASES = json.loads((Path(__file__).parent / "vectors" / "clients.json").read_text("utf-8"))["cases"]

TRUSTED = "10.0.0.1"
LISTED = TrustedProxies(["10.0.0.0/8", "2001:db8:aaaa::/48"])
FORWARDED = TrustedProxies(["10.0.0.0/8", "2001:db8:aaaa::/48"], header="Forwarded")

Headers = list[tuple[bytes, bytes]]


def one(proxies: TrustedProxies, value: bytes) -> Headers:
    return [(proxies.header.encode(), value)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['promise']} {case['why']}")
def test_vectors(case: dict[str, Any]) -> None:
    """The client is the first untrusted hop from the right, or nobody."""
    options = {name: case[name] for name in ("header", "unix_socket") if name in case}
    proxies = TrustedProxies(case["trusted"], **options)
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in case["headers"]]
    assert proxies.client(case["peer"], headers) == case["client"]
    assert list(proxies.hops(case["peer"], headers))[-1].address == case["client"]


ANYTHING = st.binary(max_size=60) | st.text('for="[]:;,\\ _\t1.a', max_size=40).map(str.encode)


@settings(max_examples=300)
@given(st.none() | st.text(max_size=20), st.lists(st.tuples(ANYTHING, ANYTHING), max_size=4), st.booleans())
def test_nothing_that_a_client_sends_raises(peer: str | None, headers: Headers, unix_socket: bool) -> None:
    """Whatever bytes arrive, the answer is an address in its one spelling, or None."""
    for header in ("x-forwarded-for", "forwarded"):
        proxies = TrustedProxies(["10.0.0.0/8"], header=header, unix_socket=unix_socket)
        named = [*headers, *((header.encode(), value) for _, value in headers)]
        for who in (peer, TRUSTED):
            client = proxies.client(who, named)
            assert client is None or client == canonical_address(client)


@settings(max_examples=300)
@given(st.lists(ANYTHING, max_size=3))
def test_what_a_client_wrote_never_counts_in_a_list(written: list[bytes]) -> None:
    """Whatever stands left of the address that a trusted proxy appended, that address is the client."""
    headers = [(b"X-Forwarded-For", value) for value in [*written, b"203.0.113.7"]]
    assert LISTED.client(TRUSTED, headers) == "203.0.113.7"
    joined = [(b"X-Forwarded-For", b",".join([*written, b"203.0.113.7, 10.0.0.2"]))]
    assert LISTED.client(TRUSTED, joined) == "203.0.113.7"


@settings(max_examples=500)
@given(
    st.lists(ANYTHING | st.just(b'for="') | st.just(b'for="\\'), max_size=3),
    st.text(',;="\\ ', max_size=6),
    st.sampled_from([",for=192.0.2.66,", ',for="192.0.2.66"', ';for="', ""]),
    st.text(',;="\\ ', max_size=6),
    st.sampled_from([b"", b";proto=https", b", for=10.0.0.2", b', for="10.0.0.2:80"']),
)
def test_what_a_client_wrote_never_counts_in_forwarded(
    written: list[bytes], before: str, spoof: str, after: str, rest: bytes
) -> None:
    """
    Quotes and escapes that a client smuggles in, also by a Host that the proxy repeats, name nobody else's address.

    At worst they leave the address unknown.
    """
    host = (before + spoof + after).replace("\\", "\\\\").replace('"', '\\"').encode()
    appended = b'for="[2001:db8::7]:80";host="' + host + b'"' + rest
    headers = [(b"Forwarded", value) for value in [*written, appended]]
    assert FORWARDED.client(TRUSTED, headers) in {None, "2001:db8::7"}
    assert FORWARDED.client(TRUSTED, [(b"Forwarded", appended)]) == "2001:db8::7"


def in_list(address: str, port: int | None) -> str:
    bracketed = f"[{address}]" if ":" in address and port is not None else address
    return bracketed if port is None else f"{bracketed}:{port}"


def in_forwarded(address: str, port: int | None) -> str:
    node = (f"[{address}]" if ":" in address else address) + ("" if port is None else f":{port}")
    return f'by=_me;For="{node}";proto=https' if ":" in node else f"for={node}"


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"\x0a\1\2\3", b"\xc0\0\2\1", ipaddress.ip_address("2001:db8:aaaa::5").packed])
            | st.binary(min_size=4, max_size=4)
            | st.binary(min_size=16, max_size=16),
            st.none() | st.integers(0, 99999),
            st.sampled_from([",", ", ", " ,\t", None]),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_the_walk_agrees_with_the_oracle(chain: list[tuple[bytes, int | None, str | None]]) -> None:
    """Over any chain of hops, in one line or several, both headers give what walking a list of addresses gives."""
    addresses = [ipaddress.ip_address(packed) for packed, _, _ in chain]
    freed = [getattr(address, "ipv4_mapped", None) or address for address in addresses]
    trusted = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8:aaaa::/48")]
    untrusted = [address for address in freed if not any(address in network for network in trusted)]
    expected = (untrusted[-1:] or freed[:1])[0]
    for proxies, spell in ((LISTED, in_list), (FORWARDED, in_forwarded)):
        lines = [""]
        for address, (_, port, separator) in zip(addresses, chain, strict=True):
            lines[-1] += spell(str(address), port)
            if separator is None:
                lines.append("")
            else:
                lines[-1] += separator
        value = "\n".join(lines).rstrip(", \t\n")
        client = proxies.client(TRUSTED, [one(proxies, line.encode())[0] for line in value.split("\n")])
        assert client is not None
        assert ipaddress.ip_address(client) == expected


@pytest.mark.parametrize("proxies", [LISTED, FORWARDED], ids=["listed", "forwarded"])
@pytest.mark.parametrize(
    "value",
    [
        b"," * 65_536,
        b":" * 65_536,
        b"[" + b":" * 65_536,
        b'"' * 65_535,
        b'"' + b'\\"' * 32_768,
        b'for="' * 13_107,
        b"for=" + b" " * 65_536 + b"x",
        b" \t" * 32_768 + b"=",
        b"a=b;" * 16_384,
        b";".join(b"a%d=b" % number for number in range(8_000)),
        b"1." * 32_768,
        b"fe80::1%" + b"a" * 65_536,
        b"[fe80::1%" + b"a" * 65_536,
        b"_" * 65_536,
        b"\xff" * 65_536,
    ],
    ids=lambda value: ascii(value[:12]),
)
def test_work_is_linear(proxies: TrustedProxies, value: bytes) -> None:
    """64 KB of the worst take milliseconds; were the work quadratic, it would be minutes."""
    start = time.process_time()
    assert proxies.client(TRUSTED, one(proxies, value)) is None
    assert time.process_time() - start < 1


def test_a_long_chain_of_trusted_hops() -> None:
    """However many trusted hops there are, the walk reaches the leftmost."""
    assert LISTED.client(TRUSTED, one(LISTED, b"10.9.9.9" + b", 10.0.0.1" * 6_000)) == "10.9.9.9"
    assert FORWARDED.client(TRUSTED, one(FORWARDED, b"for=10.9.9.9" + b", for=10.0.0.1" * 4_000)) == "10.9.9.9"


def test_hops_tell_the_way() -> None:
    """Each step says where it was read, what stood there, which address that is, and whether it is trusted."""
    headers = one(LISTED, b"junk, [2001:DB8::7]:443 , 10.0.0.2")
    assert list(LISTED.hops("::ffff:10.0.0.1", headers)) == [
        Hop("peer", "::ffff:10.0.0.1", "10.0.0.1", True),
        Hop("x-forwarded-for", "10.0.0.2", "10.0.0.2", True),
        Hop("x-forwarded-for", "[2001:DB8::7]:443", "2001:db8::7", False),
    ]
    assert list(LISTED.hops(None, headers)) == [Hop("peer", "", None, False)]
    assert list(LISTED.hops(TRUSTED, [])) == [
        Hop("peer", TRUSTED, TRUSTED, True),
        Hop("x-forwarded-for", "", None, False),
    ]
    assert list(FORWARDED.hops(TRUSTED, one(FORWARDED, b'for=192.0.2.9, by="x, for=10.0.0.2')))[1:] == [
        Hop("forwarded", '"x, for=10.0.0.2', None, False)
    ]


@pytest.mark.parametrize("networks", [[], (), iter([])])
def test_trusting_nobody_is_refused(networks: Any) -> None:
    """Without networks and without a Unix socket no header would ever be read, which nobody means."""
    with pytest.raises(ConfigurationError, match="trust nobody"):
        TrustedProxies(networks)


@pytest.mark.parametrize("networks", ["10.0.0.0/8", b"10.0.0.0/8", ["10.0.0.1/8"], [None], ["*"]])
def test_networks_are_checked_when_built(networks: Any) -> None:
    """A mistyped network is found at start-up, and a single text is not taken for a list."""
    with pytest.raises(InvalidNetwork):
        TrustedProxies(networks)
    with pytest.raises(InvalidNetwork):
        TrustedProxies(networks, unix_socket=True)


@pytest.mark.parametrize("header", ["", "x forwarded", "X-Forwarded-For:", "é", "a\n", b"x-forwarded-for", None, 1])
def test_the_header_is_a_field_name(header: Any) -> None:
    """What is no token (RFC 9110 §5.1) could never match, so it is refused when built."""
    with pytest.raises(ConfigurationError, match="no header name"):
        TrustedProxies(["10.0.0.0/8"], header=header)


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0", "::ffff:0:0/96"])
def test_trusting_everybody_is_logged(network: str, caplog: pytest.LogCaptureFixture) -> None:
    """Trusting the whole internet works, for it may be behind a firewall, but it is said once."""
    proxies = TrustedProxies([network])
    assert [(record.name, record.levelno) for record in caplog.records] == [("doorkey", logging.WARNING)]
    assert "every client can name its own address" in caplog.text
    assert proxies.client("::1" if network == "::/0" else "192.0.2.1", one(proxies, b"203.0.113.7")) == "203.0.113.7"


def test_trusting_somebody_is_not(caplog: pytest.LogCaptureFixture) -> None:
    """Ordinary networks log nothing."""
    TrustedProxies(["10.0.0.0/8", "128.0.0.0/1"])
    TrustedProxies([], unix_socket=True)
    assert not caplog.records


def test_proxies_do_not_change() -> None:
    """Who is trusted is settled when built, and can be seen."""
    proxies = TrustedProxies(["10.0.0.0/8"], header="X-Real-IP")
    with pytest.raises(AttributeError):
        proxies.unix_socket = True  # type: ignore[misc]
    assert repr(proxies) == (
        "TrustedProxies(networks=<NetworkSet of 1 IPv4 and 0 IPv6 range(s)>, header='x-real-ip', unix_socket=False)"
    )
