"""
CIDR blocks: parse, pack, match; and the one reading of an IP address that the rest of doorkey shares.

::

    network     = address [ "/" length ]                    ; RFC 4632 §3.1, RFC 4291 §2.3; no host bits
    length      = "0" / %x31-39 0*2DIGIT                    ; at most 32 or 128
    address     = IPv4address / IPv6address [ "%" zone ]    ; RFC 3986 §3.2.2; a network has no zone

Nothing else is understood: no short form, integer, octal or hexadecimal number, netmask, range or white space, because
software disagrees about what those mean. The text alone decides, so the answer is the same on every platform, however
lax its ``inet_pton``.

An IPv4-mapped IPv6 address is the IPv4 address that it carries, because dual-stack servers report clients so (RFC 4291
§2.5.5.2). Nothing else is mapped: NAT64 (RFC 6052) and ``::a.b.c.d`` are IPv6, and ``::/0`` holds no IPv4.
"""

from __future__ import annotations

import re
import reprlib
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from operator import lt
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from .errors import InvalidAddress, InvalidNetwork, UnreadableRecord

# The grammar of RFC 3986 §3.2.2, rule by rule.
_DEC_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"{_DEC_OCTET}(?:\.{_DEC_OCTET}){{3}}"
_H16 = "[0-9A-Fa-f]{1,4}"
_LS32 = f"(?:{_H16}:{_H16}|{_IPV4})"
_IPV6 = "|".join(
    (
        rf"(?:{_H16}:){{6}}{_LS32}",
        rf"::(?:{_H16}:){{5}}{_LS32}",
        rf"(?:{_H16})?::(?:{_H16}:){{4}}{_LS32}",
        rf"(?:(?:{_H16}:){{0,1}}{_H16})?::(?:{_H16}:){{3}}{_LS32}",
        rf"(?:(?:{_H16}:){{0,2}}{_H16})?::(?:{_H16}:){{2}}{_LS32}",
        rf"(?:(?:{_H16}:){{0,3}}{_H16})?::{_H16}:{_LS32}",
        rf"(?:(?:{_H16}:){{0,4}}{_H16})?::{_LS32}",
        rf"(?:(?:{_H16}:){{0,5}}{_H16})?::{_H16}",
        rf"(?:(?:{_H16}:){{0,6}}{_H16})?::",
    )
)
_ZONE = "[!-$&-.0-~]{1,64}"  # RFC 4007 §11.2 leaves its form to the system: visible ASCII, but no "%" and no "/"

_address6 = re.compile(f"({_IPV6})(?:%{_ZONE})?").fullmatch
_network = re.compile(f"(?:({_IPV4})|({_IPV6}))(?:/(0|[1-9][0-9]{{0,2}}))?").fullmatch

_MAPPED = bytes(10) + b"\xff\xff"
_DIGITS = bytes(len(str(octet)) for octet in range(256))
_LENGTHS = {bytes(digits): sum(digits) + 3 for digits in product((1, 2, 3), repeat=4)}
_COUNTS = struct.Struct(">II")
_shown = reprlib.Repr()
_shown.maxstring = 80


def canonical_address(text: str) -> str:
    """
    The one spelling of an address: of IPv6 the short one, of an IPv4-mapped one the IPv4 address; the zone is dropped.

    Raises:
        InvalidAddress: *text* is no IP address.

    >>> canonical_address("::FFFF:192.0.2.1"), canonical_address("FE80:0::1%eth0")
    ('192.0.2.1', 'fe80::1')
    """
    packed = _packed(text)
    return _written(packed) if ":" in text else text


def _written(packed: bytes) -> str:
    """The text of an address; of IPv6 without a dotted quad, which only some platforms write (RFC 5952 §5)."""
    if len(packed) == 4:
        return inet_ntop(AF_INET, packed)
    text = inet_ntop(AF_INET6, packed)
    if "." not in text:
        return text
    high, low = struct.unpack(">HH", packed[12:])
    return f"{text[: text.rindex(':')]}:{high:x}:{low:x}"


def _packed(text: str) -> bytes:
    """
    The 4 or 16 bytes of an address.

    Every request comes through here, and a pattern costs several times what inet_pton does. So inet_pton goes first
    where cheaper means tell that it read nothing beyond the grammar. POSIX demands of it four decimal numbers, since
    2024 with leading zeros; the length gives those away. Of IPv6, what platforms read in different ways goes to the
    pattern: a group of five digits (which needs a leading zero), a dotted quad, a zone, a "::" for one group or none.
    """
    try:
        if ":" not in text:
            packed = inet_pton(AF_INET, text)
            if len(text) == _LENGTHS[packed.translate(_DIGITS)]:
                return packed
        elif (
            text[0] in ":0"  # among them whatever is IPv4-mapped
            or "." in text
            or "%" in text
            or text.count(":") > 7
            or (":0" in text and ":0" in text.replace(":0:", "::"))
        ):
            return _packed6(text)
        else:
            return inet_pton(AF_INET6, text)
    except (OSError, TypeError, ValueError):
        pass  # not of that family, no text, or a text with NUL or a surrogate
    raise InvalidAddress(f"{_shown.repr(text)} is no IP address: write it as 203.0.113.7 or 2001:db8::7")


def _packed6(text: str) -> bytes:
    """The same for an address with a colon, by the pattern."""
    quad = text.removeprefix("::ffff:")
    if "." in quad and ":" not in quad and "%" not in quad:
        return _packed(quad)  # what dual-stack servers report; by the pattern it would cost 1 µs more
    match = _address6(text)
    if match is None:
        raise ValueError(text)
    packed = _pton6(match[1])
    return packed[12:] if packed.startswith(_MAPPED) else packed


def _pton6(text: str) -> bytes:
    """The 16 bytes of an address that the pattern approved."""
    if text.count(":") == 8:  # a "::" at an end stands for one group: Windows before 11 misreads that
        text = f"0{text[1:]}" if text.startswith("::") else f"{text[:-1]}0"
    return inet_pton(AF_INET6, text)


@dataclass(frozen=True, slots=True, repr=False)
class NetworkSet:
    """
    Some networks, ready to be asked. Immutable; equal if they hold the same addresses. Made by :meth:`parse` or
    :meth:`unpack`.

    Of each family it keeps the edges: the addresses, packed and rising, where outside turns to inside and back. An
    address lies inside if the number of edges up to it is odd. A last range that reaches the end of the address space
    has no second edge.

    >>> NetworkSet.parse(["10.0.0.0/8", "2001:db8::7"]).contains("10.1.2.3")
    True
    """

    _edges4: tuple[bytes, ...]
    _edges6: tuple[bytes, ...]

    @classmethod
    def parse(cls, texts: Iterable[str]) -> NetworkSet:
        """
        Read *texts*, one block or single address each. They may overlap and stand in any order.

        Raises:
            InvalidNetwork: one of them is none; the message names the likely correction. Or there are none.
        """
        if isinstance(texts, str | bytes):
            raise InvalidNetwork(f"give a list of networks, [{_shown.repr(texts)}], not a single text")
        ranges: dict[int, list[tuple[int, int]]] = {4: [], 16: []}
        for text in texts:
            width, first, end = _range(text)
            ranges[width].append((first, end))
        if not any(ranges.values()):
            raise InvalidNetwork(
                "an empty set of networks is unclear: use None for a key that may be used from anywhere, and revoke a "
                "key that is to be used from nowhere"
            )
        return cls(_edges(ranges[4], 4), _edges(ranges[16], 16))

    @classmethod
    def unpack(cls, data: bytes) -> NetworkSet:
        """
        The inverse of :meth:`pack`.

        Raises:
            UnreadableRecord: *data* is nothing that :meth:`pack` made.
        """
        try:
            return _unpacked(data)
        except (TypeError, ValueError, struct.error):
            raise UnreadableRecord("the stored networks of a key are damaged: restrict the key anew") from None

    def pack(self) -> bytes:
        """
        The form that stores keep beside the text, so that a find never parses.

        It starts with the numbers of IPv4 and of IPv6 edges, in 4 bytes each; the edges follow. All is big-endian.
        """
        return b"".join((_COUNTS.pack(len(self._edges4), len(self._edges6)), *self._edges4, *self._edges6))

    def contains(self, address: str) -> bool:
        """
        Tell whether *address* lies in one of these networks.

        Args:
            address: textual IPv4 or IPv6 address, already freed from proxies. A zone is ignored; an IPv4-mapped IPv6
                address is judged as the IPv4 address that it carries.

        Raises:
            InvalidAddress: *address* is no IP address.

        >>> NetworkSet.parse(["10.0.0.0/8"]).contains("::ffff:10.1.2.3")
        True
        """
        try:
            if ":" not in address:  # as _packed reads it, but a call and most sums would be a third of the time
                packed = inet_pton(AF_INET, address)
                if (".0" not in address and address >= "1") or len(address) == _LENGTHS[packed.translate(_DIGITS)]:
                    return bisect_right(self._edges4, packed) & 1 == 1
        except (OSError, TypeError, ValueError):
            pass  # told by _packed
        packed = _packed(address)
        return bisect_right(self._edges4 if len(packed) == 4 else self._edges6, packed) & 1 == 1

    def is_everywhere(self) -> bool:
        """Tell whether these networks hold all of IPv4 or all of IPv6."""
        return self._edges4 == (bytes(4),) or self._edges6 == (bytes(16),)

    def __repr__(self) -> str:
        ranges4, ranges6 = (len(self._edges4) + 1) // 2, (len(self._edges6) + 1) // 2
        return f"<NetworkSet of {ranges4} IPv4 and {ranges6} IPv6 range(s)>"


@lru_cache(maxsize=256)  # a store unpacks at each find: 0.1 µs for a set that it met before, 1.4 for another
def _unpacked(data: bytes) -> NetworkSet:
    count4, count6 = _COUNTS.unpack_from(data)
    if not 0 < 4 * count4 + 16 * count6 == len(data) - _COUNTS.size:
        raise ValueError("length")
    edges = struct.unpack_from("4s" * count4 + "16s" * count6, data, _COUNTS.size)
    edges4, edges6 = edges[:count4], edges[count4:]
    if not (_rising(edges4) and _rising(edges6)):
        raise ValueError("order")
    return NetworkSet(edges4, edges6)


def _rising(edges: tuple[bytes, ...]) -> bool:
    return all(map(lt, edges, edges[1:]))


def _edges(ranges: list[tuple[int, int]], width: int) -> tuple[bytes, ...]:
    """Merge half-open *ranges* of addresses of *width* bytes, adjacent ones too."""
    edges: list[int] = []
    for first, end in sorted(ranges):
        if edges and first <= edges[-1]:
            edges[-1] = max(edges[-1], end)
        else:
            edges += first, end
    if edges and edges[-1] == 1 << 8 * width:
        edges.pop()
    return tuple(edge.to_bytes(width, "big") for edge in edges)


def _range(text: str) -> tuple[int, int, int]:
    """Width in bytes, first address and the one after the last of a network."""
    if not isinstance(text, str):
        raise InvalidNetwork(f"a network is text such as '10.0.0.0/8', not {type(text).__name__}")
    if len(text) > 100:
        raise InvalidNetwork(f"{text[:20]!r}… is no network, with its {len(text)} characters")
    try:
        return _exact_range(text)
    except InvalidNetwork as problem:
        raise _corrected(text, problem) from None


def _exact_range(text: str) -> tuple[int, int, int]:
    match = _network(text)
    if match is None:
        if "-" in text.partition("/")[0]:
            raise InvalidNetwork(f"{text!r} is no network: of a range, list the blocks that it is made of")
        raise InvalidNetwork(f"{text!r} is no network: write it as 203.0.113.7, 10.0.0.0/8 or 2001:db8::/32")
    ipv4, ipv6, length = match.groups()
    packed = inet_pton(AF_INET, ipv4) if ipv4 else _pton6(ipv6)
    bits = 8 * len(packed)
    prefix = bits if length is None else int(length)
    if prefix > bits:
        raise InvalidNetwork(f"{text!r} has too long a prefix: at most /{bits} fits such an address")
    if packed.startswith(_MAPPED):
        packed, bits, prefix = packed[12:], 32, prefix - 96
        if prefix < 0:
            raise InvalidNetwork(
                f"{text!r} is IPv4-mapped but shorter than /96: write the IPv4 block, such as 10.0.0.0/8"
            )
    first, size = int.from_bytes(packed, "big"), 1 << (bits - prefix)
    if surplus := first % size:
        block, address = _written((first - surplus).to_bytes(len(packed), "big")), _written(packed)
        raise InvalidNetwork(
            f"{text!r} has host bits set: write {block}/{prefix} for the block or {address} for the address"
        )
    return len(packed), first, first + size


def _from_mask(match: re.Match[str]) -> str:
    """The prefix length of a netmask or, as routers write it, of an inverted one."""
    mask = int.from_bytes(inet_pton(AF_INET, match[1]), "big")
    for host_bits in (mask ^ 0xFFFFFFFF, mask):
        if host_bits & (host_bits + 1) == 0:
            return f"/{32 - host_bits.bit_length()}"
    return match[0]


def _from_integer(match: re.Match[str]) -> str:
    number = int(match[0], 0)
    return _written(number.to_bytes(4, "big")) if number <= 0xFFFFFFFF else match[0]


def _padded(match: re.Match[str]) -> str:
    numbers = match[0].split(".")
    return ".".join(numbers + ["0"] * (4 - len(numbers)))


_MISTAKES: tuple[tuple[str, re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    ("has white space", re.compile(r"\s+"), ""),
    ("has brackets", re.compile(r"[\[\]]"), ""),
    ("has a zone", re.compile("%[^/]*"), ""),
    ("has leading zeros", re.compile("(?<![0-9A-Fa-fx])0+(?=[0-9])"), ""),
    ("has a netmask", re.compile(f"/({_IPV4})$"), _from_mask),
    ("is an integer", re.compile("^(?:[1-9][0-9]{3,9}|0x[0-9A-Fa-f]{1,8})$"), _from_integer),
    ("is a short form", re.compile(r"^[0-9]+(?:\.[0-9]+){0,2}(?=/)"), _padded),
)


def _corrected(text: str, problem: InvalidNetwork) -> InvalidNetwork:
    """The refusal of *text*, with what was probably meant if a common mistake shows; else *problem*."""
    repaired, mistakes = text, []
    for mistake, pattern, repair in _MISTAKES:
        repaired, found = pattern.subn(repair, repaired)
        if found:
            mistakes.append(mistake)
    if repaired == text:
        return problem
    try:
        _exact_range(repaired)
        advice = f"write {repaired}"
    except InvalidNetwork as further:
        advice = str(further)
    return InvalidNetwork(f"{text!r} {' and '.join(mistakes)}: {advice}")
