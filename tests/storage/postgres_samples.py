"""What the tests of PostgreSQL share: a few keys, and how lookups of either kind are asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import psycopg

import doorkey
from doorkey.core.model import Record
from doorkey.storage.protocol import Batch, Key, StoredToken, Workspace
from tests.postgres_server import Server

Run = Callable[[Coroutine[Any, Any, Any]], Any]
MakeServer = Callable[..., Server]
SHORT = 0.5  # seconds until a find gives up, in tests where the server hangs


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


def workspace(**changes: Any) -> Workspace:
    return replace(Workspace("ws_1", "Acme", 1), **changes)


def token(number: int) -> StoredToken:
    return StoredToken(f"tok{number:05}", digest(number), "fingerprint", 1)


def key(number: int = 1, **changes: Any) -> Key:
    tokens = (token(number),)
    return replace(
        Key(f"key_{number}", "ws_1", doorkey.KeyType.SECRET, doorkey.Mode.TEST, "reports", 1, tokens), **changes
    )


def new(*keys: Key) -> Batch:
    return Batch(workspaces=((workspace(), None),), keys=tuple((each, None) for each in keys))


def renamed(old: Key, name: str) -> Batch:
    return Batch(keys=((replace(old, name=name, version=old.version + 1), old.version),))


class Asking(Protocol):
    """A lookup as the tests below ask it, whichever it is."""

    def __call__(self, digests: Sequence[bytes]) -> Record | None: ...


@contextmanager
def took(seconds: float) -> Iterator[None]:
    """That the context takes no longer."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


def raising(admin: psycopg.Connection[Any], state: str, unless: str = "false") -> None:
    """Let each change of a key fail."""
    admin.execute(
        f"""
        CREATE OR REPLACE FUNCTION doorkey.fail() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF {unless} THEN RETURN new; END IF; RAISE SQLSTATE '{state}'; END $$;
        CREATE OR REPLACE TRIGGER fail BEFORE INSERT OR UPDATE ON keys FOR EACH ROW EXECUTE FUNCTION fail()
        """.encode()
    )


Opened = Callable[..., Asking]
