"""
A store in the memory of one process: for tests, demos and benchmarks. What it holds ends with the process.

Writers take turns under a lock. ``find`` takes none: the records that it returns are made at commit, and a dictionary
that it may be reading only ever gains digests, so that a token whose digest moves is found under the one or the other.
"""

from __future__ import annotations

import threading
from bisect import bisect_right, insort
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from ..core.errors import Conflict, ReadOnlyStore
from ..core.model import Mode, Record, Use
from . import rows
from .protocol import Batch, Event, Key, Properties, StoredToken, Workspace


class MemoryStore:
    """
    Keeps everything in dictionaries. Any number of threads may use it; a process that forks gets a copy.

    >>> MemoryStore().find([bytes(32)]) is None
    True
    """

    def __init__(self, properties: Properties | None = None) -> None:
        self._lock = threading.Lock()
        self._properties = properties or Properties()
        self._workspaces: dict[str, Workspace] = {}
        self._workspace_ids: list[str] = []
        self._keys: dict[str, Key] = {}
        self._key_ids: dict[str, list[str]] = {}  # by workspace; sorted, as are those of workspaces
        self._owners: dict[str, str] = {}  # of each token id, the key id
        self._events: dict[str, list[Event]] = {}
        self._records: dict[bytes, Record] = {}

    def find(self, digests: Sequence[bytes]) -> Record | None:
        """See :meth:`~doorkey.core.verify.Lookup.find`."""
        records = self._records
        for digest in digests:
            record = records.get(digest)
            if record is not None:
                return record
        return None

    def workspace(self, id: str) -> Workspace | None:
        """See :meth:`~doorkey.storage.protocol.Store.workspace`."""
        return self._workspaces.get(id)

    def workspaces(self, *, after: str | None = None, limit: int = 100) -> Sequence[Workspace]:
        """See :meth:`~doorkey.storage.protocol.Store.workspaces`."""
        with self._lock:
            ids = _following(self._workspace_ids, after)
            return tuple(self._workspaces[id] for id in islice(ids, rows.page(limit)))

    def key(self, id: str) -> Key | None:
        """See :meth:`~doorkey.storage.protocol.Store.key`."""
        return self._keys.get(id)

    def keys(
        self, workspace: str, *, mode: Mode | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[Key]:
        """See :meth:`~doorkey.storage.protocol.Store.keys`."""
        with self._lock:
            keys = (self._keys[id] for id in _following(self._key_ids.get(workspace, []), after))
            return tuple(islice((key for key in keys if mode in (None, key.mode)), rows.page(limit)))

    def events(self, workspace: str, *, after: int | None = None, limit: int = 100) -> Sequence[Event]:
        """See :meth:`~doorkey.storage.protocol.Store.events`."""
        start = max(after or 0, 0)
        return tuple(self._events.get(workspace, [])[start : start + rows.page(limit)])

    def properties(self) -> Properties:
        """See :meth:`~doorkey.storage.protocol.Store.properties`."""
        return self._properties

    def commit(self, batch: Batch) -> None:
        """See :meth:`~doorkey.storage.protocol.Store.commit`."""
        with self._lock:
            rows.refuse_if_read_only(batch, self._properties)
            workspaces = self._with_workspaces(batch)
            keys, owners = self._with_keys(batch, workspaces)
            events = self._new_events(batch, workspaces)
            properties = self._with_properties(batch)
            records, gone = self._new_records(workspaces, keys)
            # Nothing fails from here on.
            for id in workspaces.maps[0].keys() - self._workspaces.keys():
                insort(self._workspace_ids, id)
            for id in keys.maps[0].keys() - self._keys.keys():
                insort(self._key_ids.setdefault(keys[id].workspace, []), id)
            self._workspaces.update(workspaces.maps[0])
            self._keys.update(keys.maps[0])
            self._owners.update(owners.maps[0])
            for event in events:
                self._events.setdefault(event.workspace, []).append(event)
            self._properties = properties
            self._records.update(records)
            if gone:
                self._records = {digest: record for digest, record in self._records.items() if digest not in gone}

    def record_uses(self, uses: Iterable[Use]) -> None:
        """See :meth:`~doorkey.storage.protocol.Store.record_uses`."""
        with self._lock:
            if self._properties.read_only:
                raise ReadOnlyStore(rows.SET_READ_ONLY)
            for use in uses:
                key = self._keys.get(self._owners.get(use.token_id, ""))
                if key is not None:
                    self._keys[key.id] = replace(key, tokens=tuple(_used(token, use) for token in key.tokens))

    def close(self) -> None:
        """See :meth:`~doorkey.storage.protocol.Store.close`. The values stay."""

    # What would stand after a batch: the new values in front of the stored ones, which stay as they are.

    def _with_workspaces(self, batch: Batch) -> ChainMap[str, Workspace]:
        workspaces = ChainMap({}, self._workspaces)
        for workspace, expected in batch.workspaces:
            rows.workspace_row(workspace)
            stored = workspaces.get(workspace.id)
            if (stored and stored.version) != expected:
                raise rows.moved(f"workspace {workspace.id}", expected)
            workspaces[workspace.id] = workspace
        return workspaces

    def _with_keys(
        self, batch: Batch, workspaces: Mapping[str, Workspace]
    ) -> tuple[ChainMap[str, Key], ChainMap[str, str]]:
        keys, owners = ChainMap({}, self._keys), ChainMap({}, self._owners)
        for key, expected in batch.keys:
            rows.key_row(key)
            stored = keys.get(key.id)
            if (stored and stored.version) != expected or (stored and stored.workspace != key.workspace):
                raise rows.moved(f"key {key.id}", expected)
            if key.workspace not in workspaces:
                raise Conflict(f"key {key.id} belongs to workspace {key.workspace}, which is not in the store")
            keys[key.id] = _merged(key, stored)
            known = {token.id for token in stored.tokens} if stored else set()
            for token in key.tokens:
                rows.token_row(token)
                if token.id not in known:
                    if token.id in owners:
                        raise Conflict(f"token {token.id} is there already: a new one needs another id")
                    owners[token.id] = key.id
        return keys, owners

    def _new_events(self, batch: Batch, workspaces: Mapping[str, Workspace]) -> Sequence[Event]:
        last = {id: len(events) for id, events in self._events.items() if id in {e.workspace for e in batch.events}}
        for event in batch.events:
            rows.event_row(event)
            if event.workspace not in workspaces:
                raise Conflict(f"an event belongs to workspace {event.workspace}, which is not in the store")
            rows.refuse_gap(event.workspace, event.sequence, last.get(event.workspace, 0))
            last[event.workspace] = event.sequence
        return batch.events

    def _with_properties(self, batch: Batch) -> Properties:
        if batch.properties is None:
            return self._properties
        properties, expected = batch.properties
        rows.properties_row(properties)
        if self._properties.version != expected:
            raise rows.moved("what the store says of itself", expected)
        return properties

    def _new_records(
        self, workspaces: ChainMap[str, Workspace], keys: ChainMap[str, Key]
    ) -> tuple[dict[bytes, Record], set[bytes]]:
        """The records that come or change, and the digests that go."""
        touched = dict(keys.maps[0])
        for id, workspace in workspaces.maps[0].items():
            before = self._workspaces.get(id)
            # A workspace changes with every event, so its keys are passed over unless it concerns them.
            if before is not None and (before.suspended_at is None) is not (workspace.suspended_at is None):
                touched |= {key_id: keys[key_id] for key_id in self._key_ids.get(id, [])}
        records: dict[bytes, Record] = {}
        gone: set[bytes] = set()
        for key in touched.values():
            for token in key.tokens:
                standing = records.get(token.digest) or self._records.get(token.digest)
                if standing is not None and standing.principal.token_id != token.id:
                    raise Conflict(f"token {token.id} has the digest of another one, which is there already")
                records[token.digest] = rows.record_of(token, key, workspaces[key.workspace])
            if key.id in self._keys:
                gone.update(token.digest for token in self._keys[key.id].tokens)
        return records, gone - records.keys()


def _following(ids: Sequence[str], after: str | None) -> Iterator[str]:
    """Those of the sorted *ids* that come after this one."""
    start = 0 if after is None else bisect_right(ids, after)
    return map(ids.__getitem__, range(start, len(ids)))


def _merged(key: Key, stored: Key | None) -> Key:
    """*key*, with the stored tokens that it leaves out and with what only ``record_uses`` writes."""
    if stored is None:
        return key
    given = {token.id: token for token in key.tokens}
    old = [replace(given.pop(token.id, token), last_used_at=token.last_used_at) for token in stored.tokens]
    return replace(key, tokens=(*given.values(), *old))


def _used(token: StoredToken, use: Use) -> StoredToken:
    if token.id != use.token_id or (token.last_used_at is not None and token.last_used_at >= use.at):
        return token
    return replace(token, last_used_at=use.at)
