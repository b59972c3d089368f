"""What doorkey costs before it does anything: the time to import it, and the memory of a store."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from secrets import token_bytes
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

from doorkey.core.model import KeyType, Mode
from doorkey.storage.memory import MemoryStore
from doorkey.storage.protocol import Batch, Key, StoredToken, Workspace

from .floor import Entry, edges
from .sample import EXPIRY, NETWORKS, PERMISSIONS
from .table import Row
from .timing import Spread

IMPORT = "import, in a new Python"
MEMORY = "memory store"
HEAVY = ("starlette", "werkzeug", "flask", "uvicorn", "sqlite3", "asyncio", "cryptography")


def rows(rounds: int, keys: int) -> Iterator[Row]:
    """The imports, then the memory."""
    sources = {
        "bare": "pass",
        "import doorkey": "import doorkey",
        "the same and what opens a store": "import doorkey.management.keyring, doorkey.storage.sqlite",
    }
    times: dict[str, list[float]] = {name: [] for name in sources}
    with TemporaryDirectory(prefix="doorkey-benchmark-") as compiled:
        for turn in range(1 + rounds):
            for name, source in sources.items():
                seconds = run_time(source, compiled)
                if turn > 0:  # the first has compiled everything
                    times[name].append(seconds)
    bare = times.pop("bare")
    for name, taken in times.items():
        difference = Spread.of(1000 * (with_it - without) for with_it, without in zip(taken, bare, strict=True))
        yield Row(
            IMPORT,
            name,
            f"{1000 * median(taken):.0f} ms",
            f"{1000 * median(bare):.0f} ms",
            difference,
            at_most=60,
            unit=" ms",
        )
    loaded = len(loaded_by_import())
    yield Row(
        IMPORT, "drivers and frameworks that `import doorkey` loads", "", "", Spread(loaded, loaded, loaded), at_most=0
    )

    ours, floors = memory_of(lambda: filled_store(keys)) / keys, memory_of(lambda: filled_dict(keys)) / keys
    yield Row(
        MEMORY,
        f"bytes a key, at {keys:,} keys",
        f"{ours:,.0f} B",
        f"the floor's dict {floors:,.0f} B",
        Spread(ours / floors, ours / floors, ours / floors),
    )


def run_time(source: str, compiled: str) -> float:
    """Seconds of a Python that runs *source*, and keeps what it compiles in a folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started = perf_counter()
    subprocess.run([sys.executable, "-c", source], check=True, env={**environment, "PYTHONPYCACHEPREFIX": compiled})
    return perf_counter() - started


def loaded_by_import() -> set[str]:
    """Which of the heavy packages `import doorkey` loads that a bare Python has not loaded."""
    source = "import sys; before = set(sys.modules); import doorkey; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True)
    return {name.partition(".")[0] for name in done.stdout.split()} & set(HEAVY)


def memory_of(make: Callable[[], object]) -> int:
    """Bytes that Python allocated for what *make* returns."""
    tracemalloc.start()
    try:
        made = make()
        taken, _ = tracemalloc.get_traced_memory()
        del made
    finally:
        tracemalloc.stop()
    return taken


def filled_store(count: int) -> MemoryStore:
    """A memory store of so many keys, each with one token, all restricted alike."""
    store = MemoryStore()
    store.commit(Batch(workspaces=((Workspace("ws_1", "Benchmark", EXPIRY), None),)))
    for start in range(0, count, 1000):
        numbers = range(start, min(start + 1000, count))
        store.commit(Batch(keys=tuple((key(number), None) for number in numbers)))
    return store


def key(number: int) -> Key:
    """One of them, with ids as long as real ones and a sealed token."""
    token = StoredToken(f"{number:08d}", token_bytes(32), "0123456789abcdef", EXPIRY, token_bytes(90))
    return Key(
        id=f"key_{number:016d}",
        workspace="ws_1",
        type=KeyType.SECRET,
        mode=Mode.LIVE,
        name=f"key {number}",
        created_at=EXPIRY,
        tokens=(token,),
        permissions=PERMISSIONS,
        networks=NETWORKS,
        expires_at=EXPIRY,
    )


def filled_dict(count: int) -> dict[bytes, Entry]:
    """What the floor needs of as many: networks and permissions shared, as doorkey shares them."""
    shared, permissions = edges(NETWORKS), frozenset(PERMISSIONS)
    entries = (
        Entry(token_bytes(32), False, EXPIRY, shared, (), permissions, f"key_{number:016d}") for number in range(count)
    )
    return {entry.digest: entry for entry in entries}
