"""SQLite: a verdict on a file with many keys, against the floor around the bare query."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from doorkey import KeyType, Mode
from doorkey.core.tokens import Token, mint
from doorkey.management.secrets import MasterSecrets
from doorkey.storage.protocol import Properties
from doorkey.storage.rows import FIND_ONE
from doorkey.storage.sqlite import SQLiteStore

from . import floor
from .sample import ADDRESS, NEEDED, PEPPER, REQUIREMENT, field, floor_entries, new_door, new_token
from .table import Row
from .timing import Side, by_turns, micros, ratio, statement

GROUP = "a valid token, SQLite"
TOKENS = 200
"""How many are asked for in turn: enough that they lie on pages of their own."""

# Copies of one real key and its token, each with an id and a digest of its own, made by SQLite itself.
_NUMBERS = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)"
_COPY_KEYS = f"""
    INSERT INTO keys (id, workspace, type, mode, name, created_at, permissions, networks, expires_at, version, bounds)
    {_NUMBERS}
    SELECT printf('key_%016d', n), workspace, type, mode, name, created_at, permissions, networks, expires_at,
           version, bounds
      FROM numbers, keys WHERE id = ?
"""
_COPY_TOKENS = f"""
    INSERT INTO tokens (digest, id, key, place, secret, created_at, sealed)
    {_NUMBERS}
    SELECT randomblob(32), printf('%08d', n), printf('key_%016d', n), 0, secret, created_at, NULL
      FROM numbers, tokens WHERE key = ?
"""


def rows(rounds: int, sizes: tuple[int, ...]) -> Iterator[Row]:
    """A row for each number of keys, and how much the largest file costs more than the smallest."""
    with TemporaryDirectory(prefix="doorkey-benchmark-") as folder:
        sides: dict[str, Side] = {}
        filled: dict[int, float] = {}
        for size in sizes:
            started = time.perf_counter()
            sides |= of_size(Path(folder) / f"{size}.db", size)
            filled[size] = time.perf_counter() - started
        times = by_turns(sides, rounds)
        for size in sizes:
            ours, theirs, query = f"verify {size}", f"floor {size}", f"query {size}"
            yield Row(
                GROUP,
                f"{size:,} keys (filled in {filled[size]:.0f} s)",
                f"{micros(times, ours) / TOKENS:.1f} µs",
                f"{micros(times, theirs) / TOKENS:.1f} µs, of it the query {micros(times, query) / TOKENS:.1f}",
                ratio(times, ours, theirs),
                at_most=1.3,
            )
        few, many = sizes[0], sizes[-1]
        growth, own = (ratio(times, f"{side} {many}", f"{side} {few}") for side in ("verify", "query"))
        yield Row(
            GROUP,
            f"{many:,} keys against {few:,}",
            f"{growth.middle:.2f} times",
            f"the bare query {own.middle:.2f} times",
            growth,
            at_most=round(own.middle, 2),
        )


def of_size(path: Path, size: int) -> dict[str, Side]:
    """Every side over a new file with so many keys."""
    secrets = MasterSecrets.generate()
    store = SQLiteStore.create(path, Properties(fingerprints=secrets.fingerprints))
    door = new_door(secrets, store)
    tokens = fill(path, new_token(door), secrets, size)
    digests = [secrets.digester().digests(token) for token in tokens]
    driver = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False)
    execute = driver.cursor().execute
    entries = floor_entries(tokens)
    stored_as = dict(zip(entries, digests, strict=True))

    def query(digest: bytes) -> floor.Entry | None:
        """Ask as doorkey asks, and go on with what a dictionary holds, so that nothing is made of the row."""
        execute(FIND_ONE, stored_as[digest]).fetchall()
        return entries.get(digest)

    every: dict[str, object] = {
        "lines": [field(token) for token in tokens],
        "address": ADDRESS,
        "needed": NEEDED,
        "requirement": REQUIREMENT,
    }
    return {
        f"verify {size}": statement(
            "for line in lines: verify(line, client_address=address, requires=requirement)",
            verify=door.verifier.verify,
            **every,
        ),
        f"floor {size}": statement(
            "for line in lines: check(line, address, needed)", check=floor.check_of(PEPPER, query), **every
        ),
        f"query {size}": statement(
            "for found in digests: execute(find, found).fetchall()", execute=execute, find=FIND_ONE, digests=digests
        ),
    }


def fill(path: Path, token: Token, secrets: MasterSecrets, size: int) -> list[Token]:
    """Copy the key of *token*, and give some of the copies, evenly spread, real tokens."""
    digests = secrets.digester().digests
    tokens = [mint(KeyType.SECRET, Mode.LIVE) for _ in range(min(TOKENS, size))]
    with closing(sqlite3.connect(path)) as driver, driver:
        driver.execute("PRAGMA synchronous = OFF")
        driver.execute("PRAGMA cache_size = -400000")
        ((key,),) = driver.execute("SELECT key FROM tokens WHERE id = ?", (token.id,))
        driver.execute(_COPY_KEYS, (size, key))
        driver.execute(_COPY_TOKENS, (size, key))
        step = size // len(tokens)
        driver.executemany(
            "UPDATE tokens SET digest = ?, id = ? WHERE id = ?",
            [(digests(new)[0], new.id, f"{1 + step * place:08d}") for place, new in enumerate(tokens)],
        )
    return tokens
