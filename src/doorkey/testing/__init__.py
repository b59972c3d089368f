"""
For tests: yours of an application behind doorkey, and those that any store must pass.

::

    door = doorkey.testing.door()
    token = doorkey.testing.issue(door, permissions=["messages:read"])
    client.get("/messages", headers={"Authorization": doorkey.testing.basic(token)})

``StoreContract``, ``LookupContract`` and ``AsyncLookupContract`` are pytest classes: subclass one, give it the fixture
that it asks for, and your store is held to what doorkey expects of it. Without pytest, they are not
there; the rest is.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable

from ..core.model import Decision, KeyType, Mode
from ..core.profiles import DEFAULT, Profile
from ..core.tokens import Token
from ..door import Doorkey, assemble
from ..management.secrets import MasterSecrets
from ..storage.memory import MemoryStore
from ..storage.protocol import Properties

try:
    from .contracts import AsyncLookupContract, LookupContract, Plant, Planted, StoreContract
except ModuleNotFoundError as _missing:
    if _missing.name != "pytest":
        raise

__all__ = [
    "AsyncLookupContract",
    "Clock",
    "LookupContract",
    "Plant",
    "Planted",
    "StoreContract",
    "basic",
    "bearer",
    "door",
    "issue",
]


class Clock:
    """A clock that stands until it is set. UTC seconds."""

    def __init__(self, now: float = 1_800_000_000) -> None:
        self.now: float = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def door(
    *,
    profile: Profile = DEFAULT,
    clock: Callable[[], float] | None = None,
    on_decision: Callable[[Decision], object] | None = None,
) -> Doorkey:
    """A whole doorkey in memory, with secrets of its own. Without a clock it has a :class:`Clock` that stands."""
    secrets = MasterSecrets.generate()
    store = MemoryStore(Properties(profile=profile.name, fingerprints=secrets.fingerprints))
    return assemble(store, secrets, profile, clock or Clock(), on_decision)


def issue(
    door: Doorkey,
    *,
    type: KeyType = KeyType.SECRET,
    mode: Mode = Mode.TEST,
    workspace: str | None = None,
    permissions: Iterable[str] | None = None,
    networks: Iterable[str] | None = None,
) -> Token:
    """
    A token of a new key, ready to be sent; in a new, approved workspace unless one is named. ``token.id`` finds its key
    in ``door.keyring.keys(...)``.
    """
    ring = door.keyring.acting("doorkey.testing")
    if workspace is None:
        workspace = ring.approve(ring.provision("Test").id).id
    key = ring.issue(workspace, type=type, mode=mode, name="test", permissions=permissions, networks=networks)
    return ring.reveal(key.id)


def basic(token: Token | str) -> str:
    """The ``Authorization`` value that sends *token* by HTTP Basic: as user name, with an empty password."""
    text = token.expose() if isinstance(token, Token) else token
    return "Basic " + b64encode(f"{text}:".encode()).decode("ascii")


def bearer(token: Token | str) -> str:
    """The ``Authorization`` value that sends *token* as a Bearer token."""
    return "Bearer " + (token.expose() if isinstance(token, Token) else token)
