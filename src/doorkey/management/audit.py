"""
The record of every change: append-only, and chained per workspace.

The hash of an event is the SHA-256 of the canonical JSON of all its fields and of the hash before it; ``GENESIS``
stands before the first. So nobody edits, removes, inserts or moves an event without breaking the chain, unless they
rewrite all that follows it. Against that, and against a cut tail, each new head is logged (logger ``doorkey.audit``,
level INFO): whoever keeps that log out of the database's reach can hold a chain to it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from ..core.errors import ConfigurationError, NotFound, UnreadableRecord
from ..storage.protocol import GENESIS, Event, Store, Workspace

log: logging.Logger = logging.getLogger("doorkey.audit")

_PAGE = 100
_HEAD = re.compile(r"([1-9][0-9]{0,17}):([0-9a-f]{64})", re.ASCII)


class Head(NamedTuple):
    """
    The end of a chain as it once was, in text ``12:`` and 64 hexadecimal digits.

    >>> Head.parse(str(Head(12, bytes(32)))).sequence
    12
    """

    sequence: int
    hash: bytes

    @classmethod
    def parse(cls, text: str) -> Head:
        """
        Read a head as it is logged.

        Raises:
            ConfigurationError: *text* is none.
        """
        match = _HEAD.fullmatch(text)
        if match is None:
            raise ConfigurationError(
                "a head is the number of an event, a colon and its hash, 64 hexadecimal digits: copy what stands after "
                "head= in the log of doorkey.audit"
            )
        return cls(int(match[1]), bytes.fromhex(match[2]))

    def __str__(self) -> str:
        return f"{self.sequence}:{self.hash.hex()}"


class Finding(NamedTuple):
    """What is wrong with a chain, and at which event."""

    sequence: int
    problem: str

    def __str__(self) -> str:
        return f"event {self.sequence}: {self.problem}"


def canonical(value: object) -> str:
    """The one JSON text of *value*: sorted names, no blanks, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def chain(previous: bytes, event: Event) -> bytes:
    """The hash of *event* where it stands after the one whose hash is *previous*; its own ``hash`` does not count."""
    fields = {
        "action": event.action,
        "actor": event.actor,
        "at": event.at,
        "detail": event.detail,
        "key": event.key,
        "previous": previous.hex(),
        "sequence": event.sequence,
        "version": 1,
        "workspace": event.workspace,
    }
    return hashlib.sha256(canonical(fields).encode("ascii")).digest()


def event(
    workspace: Workspace, *, at: int, actor: str, action: str, key: str | None, detail: Mapping[str, object]
) -> Event:
    """The next event of *workspace*."""
    unlinked = Event(workspace.id, workspace.events + 1, at, actor, action, key, canonical(detail), GENESIS)
    return replace(unlinked, hash=chain(workspace.head, unlinked))


def announce(event: Event) -> None:
    """Log a head that has been committed. The actor is quoted as JSON, so that no text can start a line of its own."""
    log.info(
        "workspace=%s head=%s action=%s key=%s actor=%s",
        event.workspace,
        Head(event.sequence, event.hash),
        event.action,
        event.key or "-",
        canonical(event.actor),
    )


def verify(store: Store, workspace: str, *, heads: Iterable[Head] = ()) -> tuple[Finding, ...]:
    """
    Walk the chain of a workspace and tell what is wrong with it; nothing, if it is whole.

    It may grow meanwhile. Without *heads*, a chain that was rewritten along with the workspace's own row looks whole.

    Args:
        heads: heads that were logged. Each must still stand where it stood.

    Raises:
        NotFound: there is no such workspace.
    """
    return tuple(_findings(store, workspace, heads))


def _findings(store: Store, workspace: str, heads: Iterable[Head]) -> Iterator[Finding]:
    row = _row(store, workspace)
    # Read before the events, the row names a head that must be among them, however many follow by now.
    named = {**dict.fromkeys(heads, "the log"), Head(row.events, row.head): "the workspace's own row"}
    last = Head(0, GENESIS)
    named.pop(last, None)
    try:
        for event in _events(store, workspace):
            if event.sequence != last.sequence + 1:
                yield Finding(last.sequence + 1, f"missing: the next one there is {event.sequence}")
            elif event.hash != chain(last.hash, event):
                yield Finding(
                    event.sequence, "not what was written here: it, or the hash before it, was changed or moved"
                )
            last = Head(event.sequence, event.hash)
            named.pop(last, None)
    except UnreadableRecord as error:
        yield Finding(last.sequence + 1, f"cannot be read, and what follows was not checked: {error}")
        return
    for head, who in sorted(named.items()):
        fate = "the chain ends before it" if head.sequence > last.sequence else "another stands in its place"
        yield Finding(head.sequence, f"not the one that {who} names: {fate}")
    if last.sequence > (counted := _row(store, workspace).events):
        yield Finding(counted + 1, "not counted by the workspace's own row: it was put in")


def _row(store: Store, workspace: str) -> Workspace:
    row = store.workspace(workspace)
    if row is None:
        raise NotFound("no workspace has this id, so there is no chain to verify")
    return row


def _events(store: Store, workspace: str) -> Iterator[Event]:
    """All events; if a page holds one that cannot be read, those before it one by one."""
    after: int | None = None
    limit = _PAGE
    while True:
        try:
            page = store.events(workspace, after=after, limit=limit)
        except UnreadableRecord:
            if limit == 1:
                raise
            limit = 1
            continue
        if not page:
            return
        yield from page
        after = page[-1].sequence
