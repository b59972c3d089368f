"""
The values that a verdict is made of. All are frozen; times are whole UTC seconds since 1970.

A :data:`Decision` is one of three types and has no truth value, so that ``if verify(...)`` cannot let anybody in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, NamedTuple, NoReturn

from .errors import InvalidPolicy
from .networks import NetworkSet
from .permissions import PermissionSet, ways_to


class Mode(Enum):
    """Which of the two worlds a key belongs to. Their data never meet."""

    TEST = "test"
    LIVE = "live"


class KeyType(Enum):
    """What a key is trusted with."""

    SECRET = "secret"
    PUBLISHABLE = "publishable"


class Reason(Enum):
    """
    Why a request was denied: always a single one, that of the first gate which refused it.

    ``TARGET`` is said by adapters alone: the request's target is no path, so that no rule can be asked about it.
    ``UNDECLARED`` is nobody's fault but ours: the endpoint does not say what it requires.
    """

    TARGET = "target"
    MISSING = "missing"
    MALFORMED = "malformed"
    UNKNOWN = "unknown"
    REVOKED = "revoked"
    EXPIRED = "expired"
    WORKSPACE_SUSPENDED = "workspace_suspended"
    NETWORK = "network"
    UNDECLARED = "undeclared"
    LIVEMODE = "livemode"
    SECRET_KEY_REQUIRED = "secret_key_required"
    PERMISSIONS = "permissions"


class Principal(NamedTuple):
    """
    Who a verified token speaks for. Reaching the application, it says whose data the request may touch.

    ``permissions`` is ``None`` for an unrestricted key.
    """

    workspace: str
    key: str
    token_id: str
    type: KeyType
    mode: Mode
    permissions: PermissionSet | None = None

    @property
    def livemode(self) -> bool:
        """Whether the request works on live data."""
        return self.mode is Mode.LIVE


class Record(NamedTuple):
    """
    All that a verdict needs to know of one token, in one read: what a :class:`~doorkey.core.verify.Lookup` finds.

    ``expires_at`` is the earlier of the key's expiry and the end of a rolled token's grace; a token whose grace was
    ended has 0. ``networks`` is ``None`` for a key that may be used from anywhere.
    """

    digest: bytes
    principal: Principal
    revoked: bool = False
    expires_at: int | None = None
    suspended: bool = False
    networks: NetworkSet | None = None

    def __repr__(self) -> str:
        return f"<Record of {self.principal.key}, token {self.principal.token_id}>"


@dataclass(frozen=True, slots=True)
class Requirement:
    """
    What an operation needs of a key. Checked when built, so that a mistyped permission raises here.

    Without permissions it admits unrestricted secret keys only, so that an operation which nobody described stays
    closed to restricted and publishable keys. That any key will do must be said: :data:`Requirement.ANY_KEY`. What no
    key at all may do requires :data:`Requirement.NOBODY`.

    Raises:
        InvalidPermission: one of *permissions* is none.
        InvalidPolicy: *mode* is none, or two of permissions, any key and nobody are asked for at once.

    >>> Requirement("messages:read").permissions
    ('messages:read',)
    """

    permissions: tuple[str, ...] = ()
    publishable: bool = False
    mode: Mode | None = None
    any_key: bool = field(default=False, kw_only=True)
    nobody: bool = field(default=False, kw_only=True)
    ways: tuple[frozenset[str], ...] = field(init=False, repr=False, compare=False)

    ANY_KEY: ClassVar[Requirement]
    NOBODY: ClassVar[Requirement]

    def __init__(
        self,
        permissions: str | Iterable[str] = (),
        publishable: bool = False,
        mode: Mode | None = None,
        *,
        any_key: bool = False,
        nobody: bool = False,
    ) -> None:
        names = (permissions,) if isinstance(permissions, str) else tuple(permissions)
        if bool(names) + any_key + nobody > 1:
            raise InvalidPolicy("a requirement is some permissions, any key or nobody, and one of these alone")
        if mode is not None and not isinstance(mode, Mode):
            raise InvalidPolicy(f"mode must be Mode.TEST, Mode.LIVE or None, not {mode!r}")
        freeze = object.__setattr__
        freeze(self, "permissions", names)
        freeze(self, "publishable", bool(publishable or any_key))
        freeze(self, "mode", mode)
        freeze(self, "any_key", any_key)
        freeze(self, "nobody", nobody)
        freeze(self, "ways", tuple(ways_to(name) for name in names))

    def __str__(self) -> str:
        """In words: whom the operation takes."""
        kind = "secret or publishable" if self.publishable else "secret"
        if self.nobody:
            what = "nobody"
        elif self.any_key:
            what = "any key"
        elif self.permissions:
            what = f"a {kind} key that may do {' and '.join(self.permissions)}"
        else:
            what = f"an unrestricted {kind} key"
        return what if self.mode is None else f"{what}, of {self.mode.value} mode"


Requirement.ANY_KEY = Requirement(any_key=True)
Requirement.NOBODY = Requirement(nobody=True)


class _NoTruth:
    """A value that cannot be used as a condition."""

    __slots__ = ()

    def __bool__(self) -> NoReturn:
        raise TypeError(
            f"a decision has no truth value: match it against Granted, Denied and Unavailable (this is {self!r})"
        )


@dataclass(frozen=True, slots=True)
class Granted(_NoTruth):
    """Let the request in, as this principal."""

    principal: Principal


@dataclass(frozen=True, slots=True)
class Denied(_NoTruth):
    """
    Turn the request away. Only the reasons that need a detail have one.

    Attributes:
        reason: the first gate that refused.
        principal: whose token it was, once the record was found; for ``on_decision`` and logs, never for the client.
        client_address: with ``NETWORK``, the address that was judged; ``None`` if it is unknown.
        requirement: with ``LIVEMODE``, ``SECRET_KEY_REQUIRED`` and ``PERMISSIONS``, what the operation needs.
    """

    reason: Reason
    principal: Principal | None = field(default=None, repr=False)
    client_address: str | None = None
    requirement: Requirement | None = None


@dataclass(frozen=True, slots=True)
class Unavailable(_NoTruth):
    """No verdict can be reached now. The request must not be let in, and the client did nothing wrong."""

    cause: str = ""


Decision = Granted | Denied | Unavailable


class Use(NamedTuple):
    """That a token was used, and when (UTC seconds)."""

    token_id: str
    at: int
