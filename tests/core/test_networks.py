"""CIDR blocks and addresses: one reading of each text, the same on every platform."""

from __future__ import annotations

import copy
import ipaddress
import json
import pickle
import re
from pathlib import Path
from socket import AF_INET, inet_pton
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorkey.core import networks
from doorkey.core.errors import InvalidAddress, InvalidNetwork, UnreadableRecord
from doorkey.core.networks import NetworkSet, canonical_address

VECTORS = json.loads((Path(__file__).parent / "vectors" / "networks.json").read_text("utf-8"))

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


# The oracle: ipaddress, without what it takes and we refuse on purpose.


def oracle_address(text: str) -> Address | None:
    """The address, freed from mapping and zone. Unlike ipaddress, a zone is at most 64 of visible ASCII."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.scope_id is not None and not re.fullmatch("[!-~]{1,64}", address.scope_id):
        return None
    return address.ipv4_mapped or ipaddress.IPv6Address(int(address))


def oracle_network(text: str) -> Network | None:
    """The network, freed from mapping. Unlike ipaddress, no netmask, hostmask, leading zero or zone."""
    length = re.search("/(.*)", text, re.DOTALL)
    if "%" in text or (length and not re.fullmatch("0|[1-9][0-9]*", length[1])):
        return None
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        return None
    if isinstance(network, ipaddress.IPv4Network) or network.network_address.ipv4_mapped is None:
        return network
    return ipaddress.IPv4Network((network.network_address.ipv4_mapped, network.prefixlen - 96))


def oracle_contains(blocks: list[Network], address: Address) -> bool:
    return any(address in block for block in blocks)


def spellings(address: Address) -> st.SearchStrategy[str]:
    """Valid texts of *address*."""
    texts = [str(address), address.exploded]
    if isinstance(address, ipaddress.IPv4Address):
        texts += [f"::ffff:{address}", f"::FFFF:{int(address) >> 16:x}:{int(address) & 0xFFFF:x}"]
        texts += [f"0:0::ffff:{address}%eth0"]
    else:
        groups = [f"{int(group, 16):x}" for group in address.exploded.split(":")]
        texts += [":".join(groups), f"{address}%eth0", str(address).upper()]
        texts += [":".join(groups[:6]) + f":{ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)}"]
    return st.sampled_from(texts)


ADDRESSES = st.one_of(
    st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address),
    st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address),
    # Groups of zeros and small numbers, where the short forms are.
    st.lists(st.sampled_from([0, 0, 1, 0xDB8, 0xFFFF]), min_size=8, max_size=8).map(
        lambda groups: ipaddress.IPv6Address(b"".join(group.to_bytes(2, "big") for group in groups))
    ),
).map(lambda address: getattr(address, "ipv4_mapped", None) or address)


@st.composite
def blocks(draw: st.DrawFn) -> Network:
    """A valid block, often near others."""
    bits = draw(st.sampled_from([32, 128]))
    prefix = draw(st.integers(0, bits))
    number = draw(st.integers(0, 2**bits - 1) | st.integers(0, 40) | st.integers(2**bits - 40, 2**bits - 1))
    first = number >> (bits - prefix) << (bits - prefix)
    return ipaddress.IPv4Network((first, prefix)) if bits == 32 else ipaddress.IPv6Network((first, prefix))


@st.composite
def nearly(draw: st.DrawFn, valid: st.SearchStrategy[str]) -> str:
    """A valid text, or one with an error or two."""
    text = draw(valid)
    for _ in range(draw(st.integers(0, 2))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 2)))
        text = text[:start] + draw(st.text("0019afFgx.:/%- \n\x00\u0661", max_size=2)) + text[end:]
    return text


ADDRESS_TEXTS = nearly(ADDRESSES.flatmap(spellings)) | st.text("01afF.:%/", max_size=20) | st.text(max_size=20)
NETWORK_TEXTS = nearly(blocks().map(str)) | st.text("01afF.:%/-", max_size=20) | st.text(max_size=20)


@pytest.mark.parametrize("case", VECTORS["matches"], ids=lambda case: case["why"])
def test_matches(case: dict[str, Any]) -> None:
    """A set holds exactly the addresses of its blocks; what it packs holds the same."""
    held = NetworkSet.parse(case["networks"])
    assert held.contains(case["address"]) is case["contains"]
    assert NetworkSet.unpack(held.pack()).contains(case["address"]) is case["contains"]


@pytest.mark.parametrize("case", VECTORS["refused_networks"], ids=lambda case: case["why"])
def test_refused_networks_come_with_advice(case: dict[str, Any]) -> None:
    """A text that is no block is refused, also among others, with what to write instead."""
    with pytest.raises(InvalidNetwork) as caught:
        NetworkSet.parse(["10.0.0.0/8", case["network"]])
    assert case["advice"] in str(caught.value)


@pytest.mark.parametrize("case", VECTORS["refused_networks"], ids=lambda case: case["why"])
def test_advice_can_be_followed(case: dict[str, Any]) -> None:
    """Whatever a message says to write is accepted."""
    with pytest.raises(InvalidNetwork) as caught:
        NetworkSet.parse([case["network"]])
    for advised in re.findall(r"write ([0-9a-f.:/]+)(?: for the block or ([0-9a-f.:]+))?", str(caught.value)):
        NetworkSet.parse([text for text in advised if text])


@pytest.mark.parametrize("case", VECTORS["canonical"], ids=lambda case: case["address"])
def test_canonical(case: dict[str, str]) -> None:
    """An address has one spelling."""
    assert canonical_address(case["address"]) == case["canonical"]


@pytest.mark.parametrize("text", VECTORS["refused_addresses"], ids=ascii)
def test_refused_addresses(text: str) -> None:
    """What is no address is never guessed at."""
    with pytest.raises(InvalidAddress):
        canonical_address(text)
    with pytest.raises(InvalidAddress):
        NetworkSet.parse(["0.0.0.0/0", "::/0"]).contains(text)


@pytest.mark.parametrize("value", [16909060, b"1.2.3.4", b"\x01\x02\x03\x04", b"::1", None, ["1.2.3.4"], True])
def test_only_text_is_an_address(value: Any) -> None:
    """An integer or packed bytes are no address, although they could be read as one."""
    with pytest.raises(InvalidAddress):
        NetworkSet.parse(["0.0.0.0/0"]).contains(value)


@pytest.mark.parametrize("value", [16909060, b"10.0.0.0/8", None, ["10.0.0.0/8"], ("10.0.0.0", 8)])
def test_only_text_is_a_network(value: Any) -> None:
    """An integer in a JSON list is no network."""
    with pytest.raises(InvalidNetwork, match="a network is text"):
        NetworkSet.parse([value])


@pytest.mark.parametrize("value", ["10.0.0.0/8", b"10.0.0.0/8", ""])
def test_a_single_text_is_no_list(value: Any) -> None:
    """A text, which is a list of characters to Python, is refused with the list that was meant."""
    with pytest.raises(InvalidNetwork, match="give a list"):
        NetworkSet.parse(value)


def test_an_empty_set_is_refused() -> None:
    """No networks could mean anywhere or nowhere, so the message names both."""
    with pytest.raises(InvalidNetwork, match=r"None .* anywhere, and revoke .* nowhere"):
        NetworkSet.parse([])


def test_messages_stay_short() -> None:
    """However long a text is, the message is not."""
    with pytest.raises(InvalidNetwork, match="100001 characters") as network:
        NetworkSet.parse(["1" * 100_001])
    with pytest.raises(InvalidAddress) as address:
        canonical_address("::" * 50_000)
    assert max(len(str(network.value)), len(str(address.value))) < 200


@settings(max_examples=300)
@given(NETWORK_TEXTS)
def test_networks_are_read_as_by_the_oracle(text: str) -> None:
    """Any text is a network exactly if the oracle says so, and the same one; else InvalidNetwork, and nothing else."""
    expected = oracle_network(text)
    if expected is None:
        with pytest.raises(InvalidNetwork):
            NetworkSet.parse([text])
    else:
        assert NetworkSet.parse([text]) == NetworkSet.parse([str(expected)])
        for edge in (expected[0], expected[-1]):
            # An IPv6 block around the mapped addresses does not hold them.
            inside = getattr(edge, "ipv4_mapped", None) is None
            assert NetworkSet.parse([text]).contains(str(edge)) is inside


@settings(max_examples=500)
@given(ADDRESS_TEXTS)
def test_addresses_are_read_as_by_the_oracle(text: str) -> None:
    """Any text is an address exactly if the oracle says so, and the same one; else InvalidAddress, and nothing else."""
    expected = oracle_address(text)
    if expected is None:
        with pytest.raises(InvalidAddress):
            canonical_address(text)
    else:
        assert ipaddress.ip_address(canonical_address(text)) == expected
        assert canonical_address(canonical_address(text)) == canonical_address(text)


@settings(max_examples=300)
@given(st.lists(blocks(), min_size=1, max_size=12), st.data())
def test_contains_agrees_with_the_oracle(chosen: list[Network], data: st.DataObject) -> None:
    """Membership is that of ipaddress: inside, outside, at each edge and beside it, in any spelling, packed or not."""
    held = NetworkSet.parse(map(str, chosen))
    around = [
        type(edge)(number)
        for block in chosen
        for edge in (block[0], block[-1])
        for number in (int(edge) - 1, int(edge), int(edge) + 1)
        if 0 <= number < 2**edge.max_prefixlen
    ]
    address = data.draw(st.sampled_from(around) | ADDRESSES)
    address = getattr(address, "ipv4_mapped", None) or address
    text = data.draw(spellings(address))
    freed = [block for block in map(oracle_network, map(str, chosen)) if block is not None]
    assert held.contains(text) is oracle_contains(freed, address)
    assert NetworkSet.unpack(held.pack()).contains(text) is held.contains(text)


@given(st.lists(blocks(), min_size=1, max_size=12))
def test_sets_are_equal_if_they_hold_the_same(chosen: list[Network]) -> None:
    """Order, repetition and splitting change nothing: neither equality, nor hash, nor the packed form."""
    held = NetworkSet.parse(map(str, chosen))
    halves = [half for block in chosen for half in block.subnets(block.prefixlen < block.max_prefixlen)]
    other = NetworkSet.parse(map(str, [*reversed(halves), *chosen]))
    assert held == other
    assert hash(held) == hash(other)
    assert held.pack() == other.pack()


@given(st.lists(blocks(), min_size=1, max_size=12))
def test_pack_and_unpack_are_inverses(chosen: list[Network]) -> None:
    """Unpacking what was packed gives an equal set; so do pickle and copy."""
    held = NetworkSet.parse(map(str, chosen))
    assert NetworkSet.unpack(held.pack()) == held
    assert pickle.loads(pickle.dumps(held)) == held
    assert copy.deepcopy(held) == held


@given(st.binary(max_size=60))
def test_unpack_is_total_and_exact(data: bytes) -> None:
    """Any bytes either are the packed form of what they give, or raise UnreadableRecord."""
    try:
        held = NetworkSet.unpack(data)
    except UnreadableRecord:
        return
    assert held.pack() == data


@given(st.lists(blocks(), min_size=1, max_size=5), st.data())
def test_damaged_bytes_are_refused(chosen: list[Network], data: st.DataObject) -> None:
    """A packed form that is cut, or that has too much, never becomes another set."""
    packed = NetworkSet.parse(map(str, chosen)).pack()
    with pytest.raises(UnreadableRecord):
        NetworkSet.unpack(packed[: data.draw(st.integers(0, len(packed) - 1))])
    with pytest.raises(UnreadableRecord):
        NetworkSet.unpack(packed + data.draw(st.binary(min_size=1, max_size=20)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(8),  # an empty set
        bytes([0, 0, 0, 2, 0, 0, 0, 0, 11, 0, 0, 0, 10, 0, 0, 0]),  # falling
        bytes([0, 0, 0, 2, 0, 0, 0, 0, 10, 0, 0, 0, 10, 0, 0, 0]),  # twice the same
        bytes([0, 0, 0, 0, 0, 0, 0, 2]) + bytes(32),  # the same of IPv6
        b"\xff" * 8,  # more edges than any memory holds
        b"\xff" * 24,
        "10.0.0.0/8",
        None,
    ],
)
def test_unreadable_bytes(data: Any) -> None:
    """A stored value that is no packed set is an unreadable record, which grants nothing."""
    with pytest.raises(UnreadableRecord):
        NetworkSet.unpack(data)


def test_everywhere() -> None:
    """A set is everywhere if it holds the whole of a family, however it was written."""
    everywhere = [["0.0.0.0/0"], ["::/0"], ["0.0.0.0/1", "128.0.0.0/1"], ["::ffff:0:0/96"], ["10.0.0.0/8", "::/0"]]
    assert all(NetworkSet.parse(texts).is_everywhere() for texts in everywhere)
    somewhere = [["0.0.0.0/1"], ["128.0.0.0/1"], ["0.0.0.0"], ["::"], ["::/1", "0.0.0.0/2"]]
    assert not any(NetworkSet.parse(texts).is_everywhere() for texts in somewhere)


def test_a_set_does_not_change() -> None:
    """Nothing can be put into or taken out of a set that was checked."""
    held = NetworkSet.parse(["10.0.0.0/8"])
    with pytest.raises(AttributeError):
        held._edges4 = ()  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del held._edges4
    assert held != NetworkSet.parse(["10.0.0.0/9"])
    assert held != object()


def test_repr_is_short() -> None:
    """A set of many blocks does not flood a log."""
    texts = [f"10.{i // 256}.{i % 256}.0/25" for i in range(1000)]
    assert repr(NetworkSet.parse([*texts, "::/0"])) == "<NetworkSet of 1000 IPv4 and 1 IPv6 range(s)>"


def lax_inet_pton(family: int, text: str) -> bytes:
    """
    The most that any platform's inet_pton is known to read beyond the grammar, and what it misreads.

    Leading zeros (POSIX.1-2024, macOS), five digits in a group, a zone, "::" for no group; "::" for one group at an
    end is refused (Windows before 11 reads another address).
    """
    if family == AF_INET:
        if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3}){3}", text):
            raise OSError
        return bytes(map(int, text.split(".")))
    text = re.sub("(?<![0-9a-fA-F])0+(?=[0-9a-fA-F])", "", text.partition("%")[0])
    return inet_pton(family, text.replace("::", ":") if text.count(":") == 8 else text)


def test_the_answer_does_not_depend_on_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an inet_pton that reads all that any platform's does, every vector comes out as before."""
    monkeypatch.setattr(networks, "inet_pton", lax_inet_pton)
    everything = NetworkSet.parse(["0.0.0.0/0", "::/0"])
    assert lax_inet_pton(AF_INET, "010.0.0.1") == b"\x0a\0\0\1"
    for case in VECTORS["matches"]:
        assert NetworkSet.parse(case["networks"]).contains(case["address"]) is case["contains"], case
    for case in VECTORS["canonical"]:
        assert canonical_address(case["address"]) == case["canonical"]
    for text in VECTORS["refused_addresses"]:
        with pytest.raises(InvalidAddress):
            canonical_address(text)
        with pytest.raises(InvalidAddress):
            everything.contains(text)
    for case in VECTORS["refused_networks"]:
        with pytest.raises(InvalidNetwork):
            NetworkSet.parse([case["network"]])
