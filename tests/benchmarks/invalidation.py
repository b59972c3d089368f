"""
Measures how long a revoked key lives on in the cache of another process.

    python -m tests.benchmarks.invalidation            # with LISTEN/NOTIFY: half a minute
    python -m tests.benchmarks.invalidation --drop     # with every message dropped: five minutes

One process verifies some tokens in turn, again and again, through a cache, with a short rest after each: without it
(``--rest 0``) what is measured is mainly how long Python keeps the listener's thread waiting. This process revokes the
tokens at random moments. What counts is the time from the return of ``revoke()`` to the start of the last verdict that
granted, by a clock that both share; 0 where that was before. PostgreSQL is started for it, unless DOORKEY_TEST_POSTGRES
or the URL of a database without a store is given.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from base64 import b64encode
from contextlib import ExitStack, nullcontext
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import quantiles

import psycopg

import doorkey
from doorkey import Granted, testing
from doorkey.storage.postgres_listener import PostgresListener
from tests.postgres_server import new_database


def judge(pipe: Connection, url: str, secret: str, args: argparse.Namespace) -> None:
    """Verify whatever headers come until none is granted any more, and tell when each was granted last."""
    with ExitStack() as stack:
        door = stack.enter_context(doorkey.open(url, secret=secret, max_age=args.max_age))
        if not args.drop:
            listener = stack.enter_context(PostgresListener(url, *door.caches))
            while not listener.listening:
                time.sleep(0.01)
        while headers := pipe.recv():
            granted: dict[str, float] = {}
            alive = list(headers)
            while alive:
                time.sleep(args.rest / 1000)
                for header in tuple(alive):
                    began = time.monotonic()
                    if isinstance(door.verifier.verify(header), Granted):
                        granted[header] = began
                    else:
                        alive.remove(header)
                if pipe.poll() and pipe.recv() == "ready?":
                    pipe.send("ready")
            pipe.send(granted)


def lives(url: str, args: argparse.Namespace) -> list[float]:
    """Seconds that each revoked key lived on."""
    measured: list[float] = []
    secret = b64encode(os.urandom(32)).decode()
    context = get_context("spawn")
    pipe, others = context.Pipe()
    with doorkey.create(url, secret=secret) as door:
        process = context.Process(target=judge, args=(others, url, secret, args), daemon=True)
        process.start()
        ring = door.keyring.acting("benchmark")
        longest = 2 * args.max_age / args.keys if args.drop else 0.02
        for _ in range(args.rounds):
            ids: dict[str, str] = {}
            for _ in range(args.keys):
                header = testing.basic(testing.issue(door))
                decision = door.verifier.verify(header)
                assert isinstance(decision, Granted)
                ids[header] = decision.principal.key
            revoked: dict[str, float] = {}
            pipe.send(list(ids))
            pipe.send("ready?")
            pipe.recv()
            for header, id in ids.items():
                time.sleep(random.uniform(0, longest))
                ring.revoke(id, because="measured")
                revoked[header] = time.monotonic()
            granted = pipe.recv()
            measured += (max(0.0, granted[header] - revoked[header]) for header in ids)
        pipe.send(None)
        process.join()
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", help="of a database without a store, which is left so")
    parser.add_argument("--drop", action="store_true", help="let nobody listen, so that the bound alone holds")
    parser.add_argument("--max-age", type=float, default=5.0, help="seconds; 5 unless given")
    parser.add_argument("--keys", type=int, default=20, help="revoked in each round")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--rest", type=float, default=0.5, help="milliseconds after each turn; 0.5 unless given")
    args = parser.parse_args()
    with nullcontext(args.url) if args.url else new_database() as url:
        try:
            measured = lives(url, args)
        finally:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("DROP SCHEMA IF EXISTS doorkey CASCADE")
    cuts = quantiles(measured, n=100, method="inclusive")
    how = "every message dropped" if args.drop else "LISTEN/NOTIFY"
    print(
        f"{how}, max_age {args.max_age:g} s, {len(measured)} keys: p50 {cuts[49] * 1e3:.1f} ms, "
        f"p99 {cuts[98] * 1e3:.1f} ms, longest {max(measured) * 1e3:.1f} ms"
    )


if __name__ == "__main__":
    main()
