"""
Each engine: a verdict on a valid token beside the bare driver that sends the same query, one and 32 at a time.

The bare driver does nothing else: no header, no digest, no record, no pool, no deadline. In memory it is a dictionary.
In SQLite each thread has a connection, in PostgreSQL all share as many as our pool has, with the same settings, and the
driver makes them wait for each other.
"""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import cycle, islice, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple

import psycopg
from psycopg_pool import ConnectionPool

from doorkey import Doorkey, Granted, KeyType, Mode
from doorkey.core.tokens import Token, mint
from doorkey.door import assemble
from doorkey.management.secrets import MasterSecrets
from doorkey.storage.postgres import PostgresStore
from doorkey.storage.protocol import Properties
from doorkey.storage.rows import FIND_ONE
from doorkey.storage.sqlite import SQLiteStore
from tests.postgres_server import VARIABLE, new_database

from . import files
from .sample import ADDRESS, REQUIREMENT, field, new_door, new_token
from .table import Row
from .timing import Side, Times, by_turns, micros, ratio, statement

AT_ONCE = 32
CONNECTIONS = 4
"""To PostgreSQL: as many as a pool has unless it is told."""

EACH = 6
"""Tokens that each thread or task asks for in turn."""

GROUP = "a valid token against the bare query, {}"
KEYS = 1_000
LARGE = 100_000
"""Beyond so many keys PostgreSQL is filled, too."""

OPTIONS = "-c search_path=doorkey -c default_transaction_read_only=on -c enable_seqscan=off -c statement_timeout=1800"
SQL = FIND_ONE.replace("?", "%s").encode()

Ask = Callable[[], Coroutine[Any, Any, None]]

# The same as in files.py, for PostgreSQL.
_COPY_KEYS = """
    INSERT INTO keys (id, workspace, type, mode, name, created_at, permissions, networks, expires_at, version, bounds)
    SELECT 'key_' || lpad(n::text, 16, '0'), workspace, type, mode, name, created_at, permissions, networks, expires_at,
           version, bounds
      FROM generate_series(1, %s) AS numbers (n), keys WHERE id = %s
"""
_COPY_TOKENS = """
    INSERT INTO tokens (digest, id, key, place, secret, created_at, sealed)
    SELECT sha256(convert_to(n::text, 'UTF8')), lpad(n::text, 8, '0'), 'key_' || lpad(n::text, 16, '0'), 0, secret,
           created_at, NULL
      FROM generate_series(1, %s) AS numbers (n), tokens WHERE key = %s
"""


class Engine(NamedTuple):
    """
    A store with some tokens in it, and how the bare driver is asked for one.

    Attributes:
        connect: gives a thread what asks for a digest.
        connect_async: the same for a task; nothing where the driver has no such form.
        pooled: asks for a digest on a connection out of the driver's own pool, where there is one.
    """

    name: str
    door: Doorkey
    tokens: Sequence[Token]
    connect: Callable[[], Callable[[bytes], object]]
    connect_async: Callable[[], Callable[[bytes], Awaitable[object]]] | None = None
    pooled: Callable[[bytes], object] | None = None


def rows(rounds: int, sizes: tuple[int, ...]) -> Iterator[Row]:
    """Memory, SQLite and PostgreSQL, and how much the latter costs more with more keys."""
    with ExitStack() as stack:
        loop = asyncio.new_event_loop()
        stack.callback(loop.close)
        yield from of_engine(stack, loop, memory(), rounds)
        yield from of_engine(stack, loop, sqlite(stack), rounds)
        try:
            url = stack.enter_context(new_database())
        except (OSError, subprocess.SubprocessError) as error:
            print(f"no PostgreSQL can be started here ({error}): set {VARIABLE} to the URL of one", file=sys.stderr)
            return
        few = postgresql(stack, loop, url, KEYS)
        yield from of_engine(stack, loop, few, rounds)
        if sizes[-1] > LARGE:
            many = postgresql(stack, loop, stack.enter_context(new_database()), sizes[-1])
            yield growth(few, many, rounds, sizes[-1])


# The engines.


def memory() -> Engine:
    """Five keys for each token."""
    door = new_door(MasterSecrets.generate())
    tokens = [new_token(door) for _ in range(AT_ONCE * EACH)]
    digests = door.secrets.digester().digests
    known = {digests(token)[0]: token.id for token in tokens}
    return Engine("memory", door, tokens, lambda: known.get)


def sqlite(stack: ExitStack) -> Engine:
    """A new file."""
    path = Path(stack.enter_context(TemporaryDirectory(prefix="doorkey-benchmark-"))) / "keys.db"
    secrets = MasterSecrets.generate()
    store = SQLiteStore.create(path, Properties(fingerprints=secrets.fingerprints))
    stack.callback(store.close)
    door = new_door(secrets, store)
    tokens = files.fill(path, new_token(door), secrets, KEYS)

    def connect() -> Callable[[bytes], object]:
        driver = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False)
        stack.callback(driver.close)
        execute = driver.cursor().execute
        return lambda digest: execute(FIND_ONE, (digest,)).fetchall()

    return Engine("SQLite", door, tokens, connect)


def postgresql(stack: ExitStack, loop: asyncio.AbstractEventLoop, url: str, keys: int) -> Engine:
    """A new store in an empty database."""
    secrets = MasterSecrets.generate()
    store = PostgresStore.create(url, Properties(fingerprints=secrets.fingerprints), pool_size=CONNECTIONS)
    stack.callback(store.close)
    door = assemble(store, secrets)
    tokens = fill(url, new_token(door), secrets, keys)
    settings: dict[str, Any] = {"conninfo": url, "autocommit": True, "prepare_threshold": 0, "options": OPTIONS}
    drivers = cycle([stack.enter_context(psycopg.connect(**settings)) for _ in range(CONNECTIONS)])
    connecting = [psycopg.AsyncConnection.connect(**settings) for _ in range(CONNECTIONS)]
    async_drivers = cycle([loop.run_until_complete(each) for each in connecting])
    for driver in islice(async_drivers, CONNECTIONS):
        stack.callback(driver.pgconn.finish)

    def connect() -> Callable[[bytes], object]:
        driver = next(drivers)
        return lambda digest: driver.execute(SQL, (digest,), binary=True).fetchall()

    def connect_async() -> Callable[[bytes], Awaitable[object]]:
        driver = next(async_drivers)

        async def ask(digest: bytes) -> object:
            return await (await driver.execute(SQL, (digest,), binary=True)).fetchall()

        return ask

    settings.pop("conninfo")
    pool = stack.enter_context(ConnectionPool(url, min_size=CONNECTIONS, kwargs=settings, open=True))

    def pooled(digest: bytes) -> object:
        with pool.connection() as driver:
            return driver.execute(SQL, (digest,), binary=True).fetchall()

    return Engine("PostgreSQL", door, tokens, connect, connect_async, pooled)


def fill(url: str, token: Token, secrets: MasterSecrets, size: int) -> list[Token]:
    """Copy the key of *token*, and give some of the copies, evenly spread, real tokens."""
    digests = secrets.digester().digests
    tokens = [mint(KeyType.SECRET, Mode.LIVE) for _ in range(files.TOKENS)]
    step = size // len(tokens)
    with psycopg.connect(url, autocommit=True, options="-c search_path=doorkey") as driver:
        found = driver.execute("SELECT key FROM tokens WHERE id = %s", (token.id,)).fetchall()
        driver.execute(_COPY_KEYS, (size, found[0][0]))
        driver.execute(_COPY_TOKENS, (size, found[0][0]))
        driver.cursor().executemany(
            "UPDATE tokens SET digest = %s, id = %s WHERE id = %s",
            [(digests(new)[0], new.id, f"{1 + step * place:08d}") for place, new in enumerate(tokens)],
        )
        driver.execute("VACUUM ANALYZE")
    return tokens


# The sides.


def of_engine(stack: ExitStack, loop: asyncio.AbstractEventLoop, engine: Engine, rounds: int) -> Iterator[Row]:
    """Both verifiers, one and many at a time."""
    sides: dict[str, Side] = {}
    for at_once in (1, AT_ONCE):
        shares = [engine.tokens[start : start + EACH] for start in range(0, at_once * EACH, EACH)]
        sides |= {
            f"verify {at_once}": in_threads(stack, [verifying(engine, share) for share in shares]),
            f"query {at_once}": in_threads(stack, [querying(engine, share) for share in shares]),
            f"async verify {at_once}": in_tasks(loop, [verifying_async(engine, share) for share in shares]),
            f"async query {at_once}": in_tasks(loop, [querying_async(engine, share) for share in shares]),
        }
        if engine.pooled is not None:
            sides[f"pooled {at_once}"] = in_threads(stack, [querying(engine, share, engine.pooled) for share in shares])
    times = by_turns(sides, rounds)
    for kind in ("", "async "):
        for at_once in (1, AT_ONCE):
            ours, theirs = f"{kind}verify {at_once}", f"{kind}query {at_once}"
            yield compared(engine, f"{kind.strip() or 'sync'}, {at_once} at a time", times, ours, theirs, at_once)
    if engine.pooled is not None:
        for at_once in (1, AT_ONCE):
            ours, theirs = f"verify {at_once}", f"pooled {at_once}"
            yield compared(
                engine, f"sync, {at_once} at a time, against the driver's pool", times, ours, theirs, at_once
            )


def compared(engine: Engine, quantity: str, times: Times, ours: str, theirs: str, at_once: int) -> Row:
    """A row, per verdict."""
    verdicts = at_once * EACH
    return Row(
        GROUP.format(engine.name),
        quantity,
        shown(micros(times, ours) / verdicts),
        shown(micros(times, theirs) / verdicts),
        ratio(times, ours, theirs),
    )


def growth(few: Engine, many: Engine, rounds: int, size: int) -> Row:
    """How much the one costs more than the other, for us and for the bare query."""
    sides: dict[str, Side] = {}
    for name, engine in (("few", few), ("many", many)):
        share = engine.tokens[: files.TOKENS]
        sides |= {f"verify {name}": verifying(engine, share), f"query {name}": querying(engine, share)}
    times = by_turns(sides, rounds)
    ours, own = (ratio(times, f"{side} many", f"{side} few") for side in ("verify", "query"))
    return Row(
        GROUP.format(few.name),
        f"{size:,} keys against {KEYS:,}",
        f"{ours.middle:.2f} times",
        f"the bare query {own.middle:.2f} times",
        ours,
        at_most=round(own.middle, 2),
    )


def shown(micros: float) -> str:
    """What one takes on average, and how many that are in a second."""
    return f"{micros:.1f} µs, {1e6 / micros:,.0f}/s"


def lines_of(engine: Engine, tokens: Sequence[Token]) -> list[bytes]:
    """What a client sends for each; all are granted."""
    lines = [field(token) for token in tokens]
    for line in lines:
        decision = engine.door.verifier.verify(line, client_address=ADDRESS, requires=REQUIREMENT)
        if not isinstance(decision, Granted):
            raise RuntimeError(f"{engine.name}: {decision}")
    return lines


def digests_of(engine: Engine, tokens: Sequence[Token]) -> list[bytes]:
    """What they are stored as."""
    digests = engine.door.secrets.digester().digests
    return [digests(token)[0] for token in tokens]


def verifying(engine: Engine, tokens: Sequence[Token]) -> Side:
    """Our verifier."""
    return statement(
        "for line in lines: verify(line, client_address=address, requires=requirement)",
        verify=engine.door.verifier.verify,
        lines=lines_of(engine, tokens),
        address=ADDRESS,
        requirement=REQUIREMENT,
    )


def querying(engine: Engine, tokens: Sequence[Token], ask: Callable[[bytes], object] | None = None) -> Side:
    """The bare driver, or another way to *ask* it."""
    return statement(
        "for digest in digests: ask(digest)", ask=ask or engine.connect(), digests=digests_of(engine, tokens)
    )


def verifying_async(engine: Engine, tokens: Sequence[Token]) -> Ask:
    """Our verifier for asyncio."""
    verify, lines = engine.door.async_verifier.verify, lines_of(engine, tokens)

    async def all() -> None:
        for line in lines:
            await verify(line, client_address=ADDRESS, requires=REQUIREMENT)

    return all


def querying_async(engine: Engine, tokens: Sequence[Token]) -> Ask:
    """The bare driver for asyncio; where there is none, the other one, which then waits on the event loop."""
    digests = digests_of(engine, tokens)
    if engine.connect_async is None:
        ask = engine.connect()

        async def all() -> None:
            for digest in digests:
                ask(digest)

    else:
        ask_async = engine.connect_async()

        async def all() -> None:
            for digest in digests:
                await ask_async(digest)

    return all


def in_threads(stack: ExitStack, sides: Sequence[Side]) -> Side:
    """A side that is all of *sides* at once, each in a thread of its own; a single one is in none."""
    if len(sides) == 1:
        return sides[0]
    pool = stack.enter_context(ThreadPoolExecutor(len(sides)))

    def side(number: int) -> float:
        started = perf_counter()
        list(pool.map(lambda each: each(number), sides))
        return perf_counter() - started

    return side


def in_tasks(loop: asyncio.AbstractEventLoop, asks: Sequence[Ask]) -> Side:
    """A side that is all of *asks* at once, each in a task of its own."""

    async def often(ask: Ask, number: int) -> None:
        for _ in repeat(None, number):
            await ask()

    async def burst(number: int) -> float:
        started = perf_counter()
        await asyncio.gather(*(often(ask, number) for ask in asks))
        return perf_counter() - started

    return lambda number: loop.run_until_complete(burst(number))
