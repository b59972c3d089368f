"""
Measure doorkey against the floor, and print the table that docs/benchmarks.md explains.

From the root of the repository::

    python -m tests.benchmarks            # all but what follows: about three minutes
    python -m tests.benchmarks --full     # SQLite and PostgreSQL at 1,000,000 keys, too
    python -m tests.benchmarks --quick    # whether it runs: fifteen seconds, and noise instead of numbers
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from . import blocks, files, footprint, served, stores, verdicts, web
from .table import Row, markdown


class Amount(NamedTuple):
    """How much to measure."""

    rounds: int
    sizes: tuple[int, ...]
    starts: int
    keys: int
    bursts: int
    seconds: float


QUICK = Amount(rounds=20, sizes=(1_000, 20_000), starts=3, keys=2_000, bursts=3, seconds=0.1)
NORMAL = Amount(rounds=400, sizes=(1_000, 100_000), starts=20, keys=50_000, bursts=15, seconds=0.5)
FULL = NORMAL._replace(sizes=(1_000, 100_000, 1_000_000))


def adapters_rows(rounds: int) -> Iterator[Row]:
    """What the adapter of each framework adds."""
    for path in sorted(Path(__file__).with_name("adapters").glob("[a-z]*.py")):
        yield from import_module(f"tests.benchmarks.adapters.{path.stem}").rows(rounds)


PARTS: Mapping[str, Callable[[Amount], Iterator[Row]]] = {
    "verdicts": lambda amount: verdicts.rows(amount.rounds),
    "networks": lambda amount: blocks.rows(amount.rounds),
    "web": lambda amount: web.rows(amount.rounds),
    "adapters": lambda amount: adapters_rows(amount.rounds // 4),
    "sqlite": lambda amount: files.rows(amount.rounds // 4, amount.sizes),
    "stores": lambda amount: stores.rows(amount.rounds // 4, amount.sizes),
    "footprint": lambda amount: footprint.rows(amount.starts, amount.keys),
    "served": lambda amount: served.rows(amount.bursts, amount.seconds),
}


def main() -> int:
    """Print the table; 0 if every target is met."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description="Measure doorkey against the floor."
    )
    amounts = parser.add_mutually_exclusive_group()
    amounts.add_argument(
        "--full", action="store_const", const=FULL, dest="amount", help="SQLite and PostgreSQL at 1,000,000 keys, too"
    )
    amounts.add_argument("--quick", action="store_const", const=QUICK, dest="amount", help="see whether it runs")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    parser.set_defaults(amount=NORMAL)
    arguments = parser.parse_args()

    rows: list[Row] = []
    for part in arguments.only:
        print(f"measuring {part} …", file=sys.stderr, flush=True)
        rows += PARTS[part](arguments.amount)
    print(markdown(rows))
    print(f"\n{noise(rows)}Python {platform.python_version()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}.")
    if arguments.json:
        arguments.json.write_text(json.dumps([row.as_data() for row in rows], indent=2) + "\n", "utf-8")
    return 0


def noise(rows: list[Row]) -> str:
    """How far two measurements of the same thing lie apart, in words."""
    for row in rows:
        if row.quantity == verdicts.NOISE:
            middle, low, high = row.measured
            return f"Noise: the floor against itself {middle:.2f}, nine rounds in ten from {low:.2f} to {high:.2f}. "
    return ""


if __name__ == "__main__":
    sys.exit(main())
