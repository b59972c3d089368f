"""
Let processes verify keys while others end them and everything goes wrong, and look for a verdict that breaks a promise.

From the root of the repository::

    python -m tests.histories                                        # SQLite and PostgreSQL, without and with a cache
    python -m tests.histories --store sqlite --cache 2 --seconds 10  # one of them
    python -m tests.histories --store postgresql://me@db/postgres    # a server of yours, which is not restarted

It prints the table that docs/revocation.md explains. The exit code is 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.postgres_server import VARIABLE

from .nemeses import NEMESES
from .places import POSTGRESQL, SQLITE
from .run import Settings, make
from .table import Row, markdown, violations

CACHE = 1.0
"""Seconds, where both are tried. Short, so that entries grow too old often."""


def main(words: list[str] | None = None) -> int:
    """Make the histories that *words* ask for; 0 if none shows a broken promise."""
    arguments = _parser().parse_args(words)
    print(f"seed {arguments.seed}", file=sys.stderr)
    if VARIABLE in os.environ and "restart" in arguments.nemeses:
        print(f"the server that {VARIABLE} names is not restarted", file=sys.stderr)
    rows: list[Row] = []
    for settings in _histories(arguments):
        print(f"{settings.store.partition(':')[0]}, cache {settings.cache:g} s …", file=sys.stderr, flush=True)
        rows.append(Row(settings, make(settings)))
        print(violations(rows[-1]), end="", file=sys.stderr)
    print(markdown(rows))
    print(f"\nPython {platform.python_version()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}.")
    if arguments.json:
        arguments.json.write_text(json.dumps([row.as_data() for row in rows], indent=2) + "\n", "utf-8")
    return int(any(row.findings.violations for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.histories", description="Look for a verdict that breaks a promise."
    )
    parser.add_argument("--store", help="sqlite, postgresql, or a PostgreSQL's URL; both unless given")
    parser.add_argument("--cache", type=float, metavar="SECONDS", help=f"0 for none; 0 and {CACHE:g} unless given")
    parser.add_argument("--seconds", type=float, default=60, help="for each; 60 unless given")
    parser.add_argument("--operations", type=int, default=0, help="go on until there are so many")
    parser.add_argument("--workers", type=int, default=4, help="processes that verify; 4 unless given")
    parser.add_argument(
        "--nemesis",
        type=_nemeses,
        default=tuple(NEMESES),
        dest="nemeses",
        help=f"all, none, or some of {','.join(NEMESES)}; all unless given",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings there as well")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="what chance begins with")
    return parser


def _nemeses(text: str) -> tuple[str, ...]:
    words: dict[str, tuple[str, ...]] = {"all": tuple(NEMESES), "none": ()}
    names = words[text] if text in words else tuple(text.split(","))
    if unknown := set(names) - set(NEMESES):
        raise argparse.ArgumentTypeError(f"there is no nemesis {', '.join(sorted(unknown))}")
    return names


def _histories(arguments: argparse.Namespace) -> Iterator[Settings]:
    for store in [arguments.store] if arguments.store else (SQLITE, POSTGRESQL):
        for cache in (0, CACHE) if arguments.cache is None else [arguments.cache]:
            yield Settings(
                store,
                cache,
                arguments.seconds,
                arguments.workers,
                arguments.nemeses,
                arguments.seed,
                arguments.operations,
            )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # else a server and stopped processes would be left behind
    sys.exit(main())
