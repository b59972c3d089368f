"""Networks, from the text of an address: against ``inet_pton`` and ``bisect`` alone."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from random import Random
from socket import AF_INET, AF_INET6, inet_pton

from doorkey.core.networks import NetworkSet

from .floor import edges
from .table import Row
from .timing import Side, by_turns, micros, ratio, statement

GROUP = "networks, an address from text"
SIZES = (1, 1_000, 100_000)
ADDRESSES = 100


def rows(rounds: int) -> Iterator[Row]:
    """Each size, half of the addresses inside."""
    sides: dict[str, Side] = {}
    for size in SIZES:
        sides |= of_size(size)
    times = by_turns(sides, rounds)
    for size in SIZES:
        ours, theirs = f"contains {size}", f"floor {size}"
        yield Row(
            GROUP,
            f"{size:,} block{'s' * (size > 1)}",
            f"{micros(times, ours) / ADDRESSES:.2f} µs",
            f"{micros(times, theirs) / ADDRESSES:.2f} µs",
            ratio(times, ours, theirs),
            at_most=1.5,
        )
    most, one = f"contains {SIZES[-1]}", f"contains {SIZES[0]}"
    yield Row(
        GROUP,
        f"{SIZES[-1]:,} blocks against 1",
        f"{micros(times, most) / ADDRESSES:.2f} µs",
        f"{micros(times, one) / ADDRESSES:.2f} µs",
        ratio(times, most, one),
        at_most=3.0,
    )


def of_size(size: int) -> dict[str, Side]:
    """Both sides over so many blocks, none of which touches another."""
    blocks = [f"{ip_address((10 << 24) + 256 * number)}/28" for number in range(size)]
    dice = Random(size)
    inside = [dice.choice(blocks).replace(".0/28", f".{dice.randrange(1, 16)}") for _ in range(ADDRESSES // 2)]
    outside = [str(ip_address(dice.randrange(11 << 24, 224 << 24))) for _ in range(ADDRESSES // 2)]
    addresses = [address for pair in zip(inside, outside, strict=True) for address in pair]
    sides: dict[str, Callable[[str], bool]] = {
        f"floor {size}": floor_of(edges(blocks)),
        f"contains {size}": NetworkSet.parse(blocks).contains,
    }
    for contains in sides.values():
        if sum(map(contains, addresses)) != ADDRESSES // 2:
            raise RuntimeError("half of the addresses lie inside")
    return {
        name: statement("for address in addresses: contains(address)", contains=contains, addresses=addresses)
        for name, contains in sides.items()
    }


def floor_of(edges4: list[bytes]) -> Callable[[str], bool]:
    """The least: no strictness of its own, no zone, no IPv4-mapped address."""

    def contains(address: str) -> bool:
        if ":" in address:
            return bisect_right((), inet_pton(AF_INET6, address)) & 1 == 1
        return bisect_right(edges4, inet_pton(AF_INET, address)) & 1 == 1

    return contains
