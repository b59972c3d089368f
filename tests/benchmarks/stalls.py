"""
Measures how long a verdict over SQLite holds the event loop up, alone and while another process writes without a rest.

    python -m tests.benchmarks.stalls                  # half a minute

SQLite is read right on the loop (:class:`doorkey.storage.aio.Inline`), so a verdict never yields, and its own time is
the time in which nothing else of the process gets a turn. Times are of the wall clock: what the machine does meanwhile
counts, too, and is told beside them by a step that does nothing but to look at the clock.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import time
from base64 import b64encode
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory

import doorkey
from doorkey import Granted, testing

KEYS = 200


def write(url: str, secret: str, begun: Event, ended: Event) -> None:
    """Commit one change after another."""
    with doorkey.open(url, secret=secret) as door:
        ids = [key.id for workspace in door.keyring.workspaces() for key in door.keyring.keys(workspace.id)]
        ring = door.keyring.acting("benchmark")
        while not ended.is_set():
            for id in ids:
                ring.rename(id, f"at {time.monotonic()}")
                begun.set()


async def held(door: doorkey.Doorkey, headers: list[str], seconds: float) -> tuple[list[float], list[float]]:
    """Seconds that each verdict took, and a look at the clock beside it."""
    verdicts: list[float] = []
    looks: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for header in headers:
            began = time.perf_counter()
            decision = await door.async_verifier.verify(header)
            done = time.perf_counter()
            looks.append(time.perf_counter() - done)
            verdicts.append(done - began)
            assert isinstance(decision, Granted)
        await asyncio.sleep(0)
    return verdicts, looks


def told(name: str, times: list[float]) -> str:
    """A row of a table."""
    cuts = quantiles(times, n=1000, method="inclusive")
    figures = (cuts[499], cuts[989], cuts[998], max(times))
    return f"| {name} | {len(times):,} | " + " | ".join(f"{1000 * figure:.3f} ms" for figure in figures) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each of the two; 15 unless given")
    seconds: float = parser.parse_args().seconds
    secret = b64encode(os.urandom(32)).decode()
    context = get_context("spawn")
    begun, ended = context.Event(), context.Event()
    with TemporaryDirectory(prefix="doorkey-benchmark-") as folder:
        url = f"sqlite:///{Path(folder)}/keys.db"
        with doorkey.create(url, secret=secret) as door:
            headers = [testing.basic(testing.issue(door)) for _ in range(KEYS)]
            writer = context.Process(target=write, args=(url, secret, begun, ended), daemon=True)
            print("| | verdicts | p50 | p99 | p99.9 | longest |")
            print("|---|---|---|---|---|---|")
            gc.disable()
            alone, looks = asyncio.run(held(door, headers, seconds))
            print(told("a verdict, nobody writes", alone))
            print(told("a look at the clock beside it", looks))
            writer.start()
            assert begun.wait(30), "nobody writes"
            beside, looks = asyncio.run(held(door, headers, seconds))
            ended.set()
            writer.join()
            print(told("a verdict, another process writes", beside))
            print(told("a look at the clock beside it", looks))


if __name__ == "__main__":
    main()
