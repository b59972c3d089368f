"""
What a store is, and the values that it takes and returns.

The rules that every store keeps, and that ``doorkey.testing.StoreContract`` checks:

* Values are frozen. A store never changes one, and hands out what was committed.
* ``commit`` is the only change (``record_uses`` apart): all of a batch or nothing, durable when it returns.
* A value is written only over the version that it was made from; otherwise ``Conflict``, and nothing is written.
* ``find`` is one read. It returns all that a verdict needs, and what it returns was true after the call began.
* A driver's failure is ``StoreUnavailable``, within the store's timeout; a row that cannot be understood is
  ``UnreadableRecord``, and concerns that row alone.
* Listings go by id, ascending in the order of its ASCII bytes, ``after`` exclusive.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, Protocol, runtime_checkable

from ..core.model import KeyType, Mode, Use
from ..core.verify import Lookup

SCHEMA = 1
"""The version of the stored form that this release reads and writes."""

GENESIS = bytes(32)
"""What stands before the first event of a workspace."""


class Ending(Enum):
    """How a token died before its key did."""

    ROLLED = "rolled"
    """Its grace was ended; a request with it is told "expired"."""
    REVOKED = "revoked"
    """Its key was reissued because it was compromised; a request with it is told "revoked"."""


@dataclass(frozen=True, slots=True)
class StoredToken:
    """
    What is kept of a token: never its text.

    Attributes:
        id: the public part of the token, 8 base62 characters, unique in the store.
        digest: keyed digest, 32 bytes, unique in the store.
        secret: fingerprint of the master secret that ``digest`` and ``sealed`` derive from.
        sealed: the encrypted token while it may still be revealed.
        expires_at: end of the grace of a token that was rolled.
        ended_at, ended_as: set together when the token died at once, whatever any clock says.
        last_used_at: written by ``record_uses`` alone; ``commit`` leaves the stored one as it is.
    """

    id: str
    digest: bytes = field(repr=False)
    secret: str
    created_at: int
    sealed: bytes | None = field(default=None, repr=False)
    expires_at: int | None = None
    ended_at: int | None = None
    ended_as: Ending | None = None
    last_used_at: int | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """
    A key: what lasts while tokens come and go.

    Attributes:
        permissions: canonical permissions, or ``None`` for an unrestricted key.
        networks: CIDR blocks as text, or ``None`` for a key that may be used from anywhere.
        tokens: newest first; the first is the current one. Dead ones stay as tombstones.
        version: 1 when new, one more with each change.
    """

    id: str
    workspace: str
    type: KeyType
    mode: Mode
    name: str
    created_at: int
    tokens: tuple[StoredToken, ...]
    permissions: tuple[str, ...] | None = None
    networks: tuple[str, ...] | None = None
    expires_at: int | None = None
    revoked_at: int | None = None
    version: int = 1


@dataclass(frozen=True, slots=True)
class Workspace:
    """
    A tenant: who owns keys and data.

    Attributes:
        head: hash of its newest event, ``GENESIS`` if there is none.
        events: how many events it has.
    """

    id: str
    name: str
    created_at: int
    approved_at: int | None = None
    suspended_at: int | None = None
    head: bytes = GENESIS
    events: int = 0
    version: int = 1


@dataclass(frozen=True, slots=True)
class Event:
    """
    One change, for good.

    Attributes:
        sequence: 1 for the first event of the workspace, then without a gap.
        at: UTC seconds.
        action: the keyring's verb, such as ``"key.roll"``.
        key: the key that was changed, or ``None`` if it was the workspace.
        detail: canonical JSON object; no token, no digest.
        hash: SHA-256 over the event and the hash before it (see ``doorkey.management.audit``).
    """

    workspace: str
    sequence: int
    at: int
    actor: str
    action: str
    key: str | None
    detail: str
    hash: bytes


@dataclass(frozen=True, slots=True)
class Properties:
    """
    What a store says of itself.

    Attributes:
        schema: version of the stored form.
        profile: name of the profile whose tokens it holds.
        fingerprints: of every master secret that a stored token hangs on.
        read_only: set by the operator; ``commit`` then raises ``ReadOnlyStore`` unless it clears this.
    """

    profile: str = "default"
    fingerprints: tuple[str, ...] = ()
    read_only: bool = False
    schema: int = SCHEMA
    version: int = 1


@dataclass(frozen=True, slots=True)
class Batch:
    """
    Everything that one change writes.

    Each value stands beside the version that it replaces, ``None`` for a new one. A key is written with its tokens:
    those that the store does not have are added, those that differ are updated (by id), none is removed.
    """

    workspaces: tuple[tuple[Workspace, int | None], ...] = ()
    keys: tuple[tuple[Key, int | None], ...] = ()
    events: tuple[Event, ...] = ()
    properties: tuple[Properties, int] | None = None


Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """
    Something about a store that its operator should know.

    Attributes:
        severity: "error" for what makes the store unsafe or unsound, "warning" for what may be meant so.
        what: what was found, and where.
        remedy: what to do.
    """

    severity: Severity
    what: str
    remedy: str


class Store(Lookup, Protocol):
    """All that management needs besides a :class:`~doorkey.core.verify.Lookup`."""

    def workspace(self, id: str) -> Workspace | None:
        """The workspace with this id."""
        ...

    def workspaces(self, *, after: str | None = None, limit: int = 100) -> Sequence[Workspace]:
        """A page of all workspaces."""
        ...

    def key(self, id: str) -> Key | None:
        """The key with this id, with its tokens."""
        ...

    def keys(
        self, workspace: str, *, mode: Mode | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[Key]:
        """A page of a workspace's keys, with their tokens."""
        ...

    def events(self, workspace: str, *, after: int | None = None, limit: int = 100) -> Sequence[Event]:
        """A page of a workspace's events, by sequence."""
        ...

    def commit(self, batch: Batch) -> None:
        """
        Write *batch*, all of it or nothing; durable when this returns.

        Raises:
            Conflict: an expected version is not the stored one, or a new id, digest or event already stands there.
            ReadOnlyStore: the store takes no changes.
            StoreUnavailable: the store cannot be asked. Whether the batch was written is then unknown only if the
                connection broke during the commit itself.
        """
        ...

    def record_uses(self, uses: Iterable[Use]) -> None:
        """Raise ``last_used_at`` of these tokens; never lower it. Unknown token ids are passed over."""
        ...

    def properties(self) -> Properties:
        """What the store says of itself."""
        ...

    def close(self) -> None:
        """Give back connections. Closing twice is fine."""
        ...


@runtime_checkable
class Checkable(Protocol):
    """A store that can look at itself, which none has to."""

    def check(self) -> Sequence[Finding]:
        """
        Look for what is unsafe or unsound.

        Raises:
            StoreUnavailable: the store cannot be asked now.
        """
        ...
