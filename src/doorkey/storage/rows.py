"""
Values to rows and back, and what the SQL stores share: the statements and the one way to write a batch.

The statements are portable SQL with ``?`` for each parameter (a driver with another style replaces that sign, which
stands for nothing else here). No value is ever part of a statement.

Lists of words, such as permissions, are stored as one text with spaces between them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol

from ..core.errors import ConfigurationError, Conflict, ReadOnlyStore, UnreadableRecord
from ..core.model import KeyType, Mode, Principal, Record
from ..core.networks import NetworkSet
from ..core.permissions import PermissionSet
from .protocol import Batch, Ending, Event, Finding, Key, Properties, StoredToken, Workspace

Row = tuple[Any, ...]

# Reading. The outer joins are there so that a token without its key is an unreadable record, not an unknown token.

_JOINED = """
    SELECT t.digest, t.id, t.expires_at, t.ended_at, t.ended_as,
           k.id, k.type, k.mode, k.permissions, k.networks IS NOT NULL, k.bounds, k.expires_at, k.revoked_at,
           w.id, w.suspended_at
      FROM tokens t LEFT JOIN keys k ON k.id = t.key LEFT JOIN workspaces w ON w.id = k.workspace
"""
FIND_ONE = _JOINED + " WHERE t.digest = ?"
_FIND_NEAREST = _JOINED + " WHERE t.digest >= ? ORDER BY t.digest LIMIT 1"
FIND_FOLLOWING = _JOINED + " WHERE t.digest > ? ORDER BY t.digest LIMIT ?"


@lru_cache(maxsize=64)
def find_one_of(count: int) -> str:
    """The statement that finds the tokens with one of *count* digests: one read, whatever moves meanwhile."""
    return _JOINED + " WHERE t.digest IN (" + ", ".join("?" * count) + ")"


@lru_cache(maxsize=64)
def find_nearest_to(count: int) -> str:
    """
    The statement that finds, for each of *count* digests, its token or else the next one, for :func:`own_record`.

    Not for an engine that spreads rows by a hash of the digest: there no token is next to another.
    """
    if count == 1:
        return _FIND_NEAREST
    return " UNION ALL ".join([f"SELECT * FROM ({_FIND_NEAREST})"] * count)  # noqa: S608  # composed of constants


WORKSPACE = """
    SELECT id, name, created_at, approved_at, suspended_at, head, events, version FROM workspaces WHERE id = ?
"""
WORKSPACES = """
    SELECT id, name, created_at, approved_at, suspended_at, head, events, version FROM workspaces
     WHERE id > ? ORDER BY id LIMIT ?
"""

_KEYS = """
    SELECT k.id, k.workspace, k.type, k.mode, k.name, k.created_at, k.permissions, k.networks, k.expires_at,
           k.revoked_at, k.version,
           t.id, t.digest, t.secret, t.created_at, t.sealed, t.expires_at, t.ended_at, t.ended_as, t.last_used_at
      FROM keys k LEFT JOIN tokens t ON t.key = k.id
"""
KEY = _KEYS + " WHERE k.id = ? ORDER BY t.place DESC"
# The page is cut in the inner statement, so that the limit counts keys, not tokens. (It is composed of constants.)
KEYS = f"""{_KEYS}
     WHERE k.id IN (SELECT id FROM keys WHERE workspace = ? AND mode IN (?, ?) AND id > ? ORDER BY id LIMIT ?)
     ORDER BY k.id, t.place DESC
"""  # noqa: S608

EVENTS = """
    SELECT workspace, sequence, at, actor, action, key, detail, hash FROM events
     WHERE workspace = ? AND sequence > ? ORDER BY sequence LIMIT ?
"""
PROPERTIES = "SELECT profile, fingerprints, read_only, schema, version FROM properties"

# Writing. The columns stand as in the row functions below: first those that name the row, then the others.

INSERT_PROPERTIES = """
    INSERT INTO properties (singleton, profile, fingerprints, read_only, schema, version) VALUES (1, ?, ?, ?, ?, ?)
"""
RECORD_USE = "UPDATE tokens SET last_used_at = ? WHERE id = ? AND (last_used_at IS NULL OR last_used_at < ?)"

_UPDATE_PROPERTIES = """
    UPDATE properties SET profile = ?, fingerprints = ?, read_only = ?, schema = ?, version = ? WHERE version = ?
"""
_INSERT_WORKSPACES = """
    INSERT INTO workspaces (id, name, created_at, approved_at, suspended_at, head, events, version)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_UPDATE_WORKSPACES = """
    UPDATE workspaces
       SET name = ?, created_at = ?, approved_at = ?, suspended_at = ?, head = ?, events = ?, version = ?
     WHERE id = ? AND version = ?
"""
_INSERT_KEYS = """
    INSERT INTO keys (id, workspace, type, mode, name, created_at, permissions, networks, bounds, expires_at,
                      revoked_at, version)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_UPDATE_KEYS = """
    UPDATE keys
       SET type = ?, mode = ?, name = ?, created_at = ?, permissions = ?, networks = ?, bounds = ?, expires_at = ?,
           revoked_at = ?, version = ?
     WHERE id = ? AND workspace = ? AND version = ?
"""
_TOKENS_OF_KEY = """
    SELECT id, key, digest, secret, created_at, sealed, expires_at, ended_at, ended_as, place FROM tokens WHERE key = ?
"""
_INSERT_TOKENS = """
    INSERT INTO tokens (id, key, digest, secret, created_at, sealed, expires_at, ended_at, ended_as, last_used_at,
                        place)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_UPDATE_TOKENS = """
    UPDATE tokens
       SET digest = ?, secret = ?, created_at = ?, sealed = ?, expires_at = ?, ended_at = ?, ended_as = ?
     WHERE id = ? AND key = ?
"""
_LAST_EVENT = "SELECT coalesce(max(sequence), 0) FROM events WHERE workspace = ?"
_INSERT_EVENTS = """
    INSERT INTO events (workspace, sequence, at, actor, action, key, detail, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""


class Cursor(Protocol):
    """What the execution of a statement returns, as in PEP 249."""

    @property
    def rowcount(self) -> int:
        """How many rows an UPDATE changed."""
        ...

    def fetchall(self) -> list[Any]:
        """All rows of a SELECT."""
        ...


Execute = Callable[[str, Sequence[Any]], Cursor]
"""Executes one statement with its parameters."""


def write(batch: Batch, begin: Callable[[], AbstractContextManager[Execute]]) -> None:
    """
    Write *batch* in one transaction.

    Args:
        begin: opens a transaction that excludes every other writer, commits at the end of the context, and rolls back
            if that is left by an exception. A constraint that fails in it must come out as :class:`Conflict`.

    Raises:
        ConfigurationError: *batch* holds something that no store can keep. Found before the transaction begins.
        Conflict: see :meth:`~doorkey.storage.protocol.Store.commit`.
        ReadOnlyStore: the operator's flag is set.
    """
    workspaces = [(workspace_row(workspace), expected) for workspace, expected in batch.workspaces]
    keys = [(key_row(key), [*map(token_row, reversed(key.tokens))], expected) for key, expected in batch.keys]
    events = [event_row(event) for event in batch.events]
    properties = [(properties_row(properties), expected) for properties, expected in filter(None, (batch.properties,))]
    with begin() as execute:
        refuse_if_read_only(batch, read_properties(execute(PROPERTIES, ()).fetchall()))
        for row, expected in workspaces:
            if expected is None:
                execute(_INSERT_WORKSPACES, row)
            elif execute(_UPDATE_WORKSPACES, (*row[1:], row[0], expected)).rowcount != 1:
                raise moved(f"workspace {row[0]}", expected)
        for row, tokens, expected in keys:
            if expected is None:
                execute(_INSERT_KEYS, row)
            elif execute(_UPDATE_KEYS, (*row[2:], *row[:2], expected)).rowcount != 1:
                raise moved(f"key {row[0]}", expected)
            _write_tokens(row[0], tokens, execute)
        for row in events:
            refuse_gap(row[0], row[1], execute(_LAST_EVENT, row[:1]).fetchall()[0][0])
            execute(_INSERT_EVENTS, row)
        for row, expected in properties:
            if execute(_UPDATE_PROPERTIES, (*row, expected)).rowcount != 1:
                raise moved("what the store says of itself", expected)


def _write_tokens(key: str, tokens: Iterable[Row], execute: Execute) -> None:
    """Add and update tokens, oldest first. Places count up, so that newer tokens come before older ones for good."""
    stored = {row[0]: row for row in execute(_TOKENS_OF_KEY, (key,)).fetchall()}
    place = max((row[-1] for row in stored.values()), default=-1)
    for id, *state, last_used_at in tokens:
        if id not in stored:
            place += 1
            execute(_INSERT_TOKENS, (id, key, *state, last_used_at, place))
        elif state != [*stored[id][2:-1]]:
            execute(_UPDATE_TOKENS, (*state, id, key))


# What every store does in the same way, and refuses in the same words.


SET_READ_ONLY = (
    "the store's operator has set it read-only: nothing can be changed until `doorkey store read-only off` lifts that"
)


def refuse_other_than_bytes(digests: Sequence[object]) -> None:
    """
    Let digests pass, so that no driver compares text with them.

    Raises:
        TypeError: one of them is something else.
    """
    for digest in digests:
        if digest.__class__ is not bytes:
            raise TypeError(f"a digest is bytes, not {type(digest).__name__}")


def page(limit: int) -> int:
    """*limit* as every engine takes it."""
    return min(max(limit, 0), 2**31 - 1)


def moved(what: str, expected: int | None) -> Conflict:
    """The refusal of a change to a value that is not stored as it was expected."""
    if expected is None:
        return Conflict(f"{what} is there already: a new one needs another id")
    return Conflict(f"{what} is not stored at version {expected}: read it again, then repeat the change")


def refuse_gap(workspace: str, sequence: int, last: int) -> None:
    """
    Let an event pass that comes right after the *last* one.

    Raises:
        Conflict: it does not.
    """
    if sequence != last + 1:
        raise Conflict(
            f"event {sequence} of workspace {workspace} does not follow its last one, {last}: read the workspace "
            "again, then repeat the change"
        )


def refuse_if_read_only(batch: Batch, stored: Properties) -> None:
    """
    Let a batch pass unless the operator's flag is set; then only one that clears the flag and does nothing else.

    Raises:
        ReadOnlyStore: it does not pass.
        Conflict: it would change the schema, which only a migration may.
    """
    new, _ = batch.properties or (stored, 0)
    if new.schema != stored.schema:
        raise Conflict(f"the store has schema {stored.schema}; a commit cannot make it {new.schema}")
    clears = batch == Batch(properties=batch.properties) and new == replace(
        stored, read_only=False, version=new.version
    )
    if stored.read_only and not clears:
        raise ReadOnlyStore(SET_READ_ONLY)


# From values.


def _storable(what: str, row: Row) -> Row:
    """
    *row*, once it is clear that every engine can keep it.

    Raises:
        ConfigurationError: it holds a number beyond 64 bits, text with NUL or a lone surrogate, or another type.
    """
    for value in row:
        if isinstance(value, str) and not is_text(value):
            raise ConfigurationError(f"{what} has a text that cannot be stored: leave out NUL and lone surrogates")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ConfigurationError(f"{what} has a number that cannot be stored: it needs more than 64 bits")
        if not isinstance(value, str | int | bytes | None):
            raise ConfigurationError(f"{what} has a {type(value).__name__}, which cannot be stored")
    return row


def is_text(value: str) -> bool:
    """Tell whether every engine can keep *value*: no NUL, no lone surrogate."""
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def _joined(what: str, words: Iterable[str]) -> str:
    words = tuple(words)
    if any(word.split() != [word] for word in words):
        raise ConfigurationError(f"{what} has an empty word, or one with white space in it")
    return " ".join(words)


def _exactly_32(what: str, value: bytes) -> bytes:
    if len(value) != 32:
        raise ConfigurationError(f"{what} has 32 bytes")
    return value


def workspace_row(workspace: Workspace) -> Row:
    """id, name, created_at, approved_at, suspended_at, head, events, version."""
    what = f"workspace {workspace.id!a}"
    row = (
        workspace.id,
        workspace.name,
        workspace.created_at,
        workspace.approved_at,
        workspace.suspended_at,
        _exactly_32(f"the head of {what}", workspace.head),
        workspace.events,
        workspace.version,
    )
    return _storable(what, row)


def key_row(key: Key) -> Row:
    """
    id, workspace, type, mode, name, created_at, permissions, networks, packed bounds, expires_at, revoked_at, version.

    Raises:
        InvalidPermission, InvalidNetwork: one of the key's is none. Stored, it would lock the key out.
    """
    permissions = networks = bounds = None
    if key.permissions is not None:
        PermissionSet.parse(key.permissions)
        permissions = " ".join(key.permissions)
    if key.networks is not None:
        bounds = NetworkSet.parse(key.networks).pack()
        networks = " ".join(key.networks)
    row = (
        key.id,
        key.workspace,
        key.type.value,
        key.mode.value,
        key.name,
        key.created_at,
        permissions,
        networks,
        bounds,
        key.expires_at,
        key.revoked_at,
        key.version,
    )
    return _storable(f"key {key.id!a}", row)


def token_row(token: StoredToken) -> Row:
    """id, digest, secret, created_at, sealed, expires_at, ended_at, ended_as, last_used_at."""
    what = f"token {token.id!a}"
    if (token.ended_at is None) is not (token.ended_as is None):
        raise ConfigurationError(f"{what} has only one of ended_at and ended_as: set both or neither")
    row = (
        token.id,
        _exactly_32(f"the digest of {what}", token.digest),
        token.secret,
        token.created_at,
        token.sealed,
        token.expires_at,
        token.ended_at,
        token.ended_as and token.ended_as.value,
        token.last_used_at,
    )
    return _storable(what, row)


def event_row(event: Event) -> Row:
    """workspace, sequence, at, actor, action, key, detail, hash."""
    what = f"event {event.sequence} of workspace {event.workspace!a}"
    row = (
        event.workspace,
        event.sequence,
        event.at,
        event.actor,
        event.action,
        event.key,
        event.detail,
        _exactly_32(f"the hash of {what}", event.hash),
    )
    return _storable(what, row)


def properties_row(properties: Properties) -> Row:
    """profile, fingerprints, read_only, schema, version."""
    row = (
        properties.profile,
        _joined("the list of fingerprints", properties.fingerprints),
        int(properties.read_only),
        properties.schema,
        properties.version,
    )
    return _storable("the store's properties", row)


def joined_row(token: StoredToken, key: Key, workspace: Workspace) -> Row:
    """What finding *token* reads from an SQL store."""
    id, _, type, mode, _, _, permissions, networks, bounds, expires_at, revoked_at, _ = key_row(key)
    ended_as = token.ended_as and token.ended_as.value
    restricted = networks is not None
    return (
        *(token.digest, token.id, token.expires_at, token.ended_at, ended_as),
        *(id, type, mode, permissions, restricted, bounds, expires_at, revoked_at),
        *(workspace.id, workspace.suspended_at),
    )


# To values.

_TYPES = {member.value: member for member in KeyType}
_MODES = {member.value: member for member in Mode}
_ENDINGS: Mapping[object, Ending] = {member.value: member for member in Ending}


def record_of(token: StoredToken, key: Key, workspace: Workspace) -> Record:
    """
    What finding *token* tells: for a store that keeps the values themselves.

    Raises:
        UnreadableRecord: it cannot be understood.
    """
    return record(joined_row(token, key, workspace))


@lru_cache(maxsize=4096)
def _permissions(text: str) -> PermissionSet:
    return PermissionSet.parse(text.split(" "))


def record(row: Row) -> Record:
    """
    What a verdict needs, from one joined row. Whatever is odd in it could mean a right too many, so it means none.

    Raises:
        UnreadableRecord: it cannot be understood.
    """
    digest, token_id, expires_at, ended_at, ended_as, key, type, mode, *others = row
    permissions, restricted, bounds, key_expires_at, revoked_at, workspace, suspended_at = others
    try:
        if not (
            digest.__class__ is bytes
            and len(digest) == 32
            and token_id.__class__ is key.__class__ is workspace.__class__ is str
        ):
            raise ValueError("not a digest, or not text")
        revoked = revoked_at is not None
        if expires_at is None or (key_expires_at is not None and key_expires_at < expires_at):
            expires_at = key_expires_at
        if ended_as is not None or ended_at is not None:
            if _ENDINGS[ended_as] is Ending.ROLLED:
                expires_at = 0
            else:
                revoked = True
        if expires_at is not None and expires_at.__class__ is not int:
            raise ValueError("no time")
        return Record(
            digest,
            Principal(
                workspace,
                key,
                token_id,
                _TYPES[type],
                _MODES[mode],
                None if permissions is None else _permissions(permissions),
            ),
            revoked,
            expires_at,
            suspended_at is not None,
            NetworkSet.unpack(bounds) if restricted or bounds is not None else None,
        )
    except (AttributeError, LookupError, TypeError, ValueError, UnreadableRecord):
        # Without the cause, because that may repeat what is stored.
        raise UnreadableRecord(
            f"the record of token {_named(token_id)} cannot be understood, so it grants nothing"
        ) from None


def own_record(found: Sequence[Row], digests: Sequence[bytes]) -> Record | None:
    """
    The record of the row that has one of *digests*.

    Where there is none, another token's record is made and thrown away: so an unknown token takes the time of a revoked
    one, and no clock tells whether a token once existed.

    Raises:
        UnreadableRecord: it cannot be understood.
    """
    for row in found:
        if row[0] in digests:
            return record(row)
    try:
        for row in found[:1]:
            record(row)
    except UnreadableRecord:
        pass
    return None


def _named(id: object) -> str:
    """*id* as errors show it. Whatever stands in the place of an id is not shown."""
    return id if isinstance(id, str) and id.isascii() and id.replace("_", "").isalnum() and len(id) <= 64 else "?"


def read_workspaces(rows: Iterable[Row]) -> tuple[Workspace, ...]:
    """The workspaces that these rows hold."""
    return tuple(Workspace(*row) for row in rows)


def read_events(rows: Iterable[Row]) -> tuple[Event, ...]:
    """The events that these rows hold."""
    return tuple(Event(*row) for row in rows)


def read_keys(rows: Iterable[Row]) -> tuple[Key, ...]:
    """
    The keys that these rows hold, each joined with one of its tokens, or with none.

    Permissions and networks are not judged here, so that a key with meaningless ones can be seen, mended and revoked.

    Raises:
        UnreadableRecord: one of them cannot be understood.
    """
    return tuple(_key(tuple(joined)) for _, joined in groupby(rows, key=itemgetter(0)))


def _key(rows: Sequence[Row]) -> Key:
    id, workspace, type, mode, name, created_at, permissions, networks, expires_at, revoked_at, version = rows[0][:11]
    try:
        return Key(
            id,
            workspace,
            _TYPES[type],
            _MODES[mode],
            name,
            created_at,
            tuple(_token(row[11:]) for row in rows if row[11] is not None),
            None if permissions is None else tuple(permissions.split(" ")),
            None if networks is None else tuple(networks.split(" ")),
            expires_at,
            revoked_at,
            version,
        )
    except (AttributeError, LookupError, TypeError):
        raise UnreadableRecord(f"key {_named(id)} cannot be understood") from None


def _token(row: Row) -> StoredToken:
    id, digest, secret, created_at, sealed, expires_at, ended_at, ended_as, last_used_at = row
    ending = None if ended_as is None else _ENDINGS[ended_as]
    return StoredToken(id, digest, secret, created_at, sealed, expires_at, ended_at, ending, last_used_at)


def read_properties(rows: Sequence[Row]) -> Properties:
    """
    The properties that the only row holds.

    Raises:
        UnreadableRecord: there is another number of rows, or they cannot be understood.
    """
    try:
        ((profile, fingerprints, read_only, schema, version),) = rows
        return Properties(profile, tuple(fingerprints.split()), bool(read_only), schema, version)
    except (AttributeError, TypeError, ValueError):
        raise UnreadableRecord("the properties of the store cannot be understood") from None


# Reading stores.


class Reads(ABC):
    """What the SQL stores read, each on connections of its own."""

    @abstractmethod
    def _read(self, sql: str, *parameters: str | int | bytes) -> list[Row]:
        """All rows of one SELECT; none where a parameter is nothing that could be stored."""

    def workspace(self, id: str) -> Workspace | None:
        """See :meth:`~doorkey.storage.protocol.Store.workspace`."""
        return next(iter(read_workspaces(self._read(WORKSPACE, id))), None)

    def workspaces(self, *, after: str | None = None, limit: int = 100) -> Sequence[Workspace]:
        """See :meth:`~doorkey.storage.protocol.Store.workspaces`."""
        return read_workspaces(self._read(WORKSPACES, after or "", page(limit)))

    def key(self, id: str) -> Key | None:
        """See :meth:`~doorkey.storage.protocol.Store.key`."""
        return next(iter(read_keys(self._read(KEY, id))), None)

    def keys(
        self, workspace: str, *, mode: Mode | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[Key]:
        """See :meth:`~doorkey.storage.protocol.Store.keys`."""
        modes = (Mode.TEST, Mode.LIVE) if mode is None else (mode, mode)
        return read_keys(self._read(KEYS, workspace, *(mode.value for mode in modes), after or "", page(limit)))

    def events(self, workspace: str, *, after: int | None = None, limit: int = 100) -> Sequence[Event]:
        """See :meth:`~doorkey.storage.protocol.Store.events`."""
        return read_events(self._read(EVENTS, workspace, after or 0, page(limit)))

    def properties(self) -> Properties:
        """See :meth:`~doorkey.storage.protocol.Store.properties`."""
        return read_properties(self._read(PROPERTIES))

    def _unreadable(self) -> Iterator[Finding]:
        """Each token whose record cannot be understood, so that its key is denied."""
        last = b""
        while found := self._read(FIND_FOLLOWING, last, 1000):
            last = found[-1][0]
            for row in found:
                try:
                    record(row)
                except UnreadableRecord as error:
                    yield Finding(
                        "error",
                        f"{error} (key {_named(row[5])})",
                        "`doorkey keys restrict` writes permissions and networks anew; if it cannot, restore a backup",
                    )
