"""
From a URL to a working whole: the parts that act on one store, put together.

Each part can be built alone, too; this is a convenience. Drivers and ``cryptography`` are imported when a store is
opened, so that ``import doorkey`` stays light.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from .core.errors import ConfigurationError
from .core.model import Decision
from .core.profiles import DEFAULT, PROFILES, Profile
from .core.verify import AsyncLookup, AsyncVerifier, Lookup, Verifier

if TYPE_CHECKING:
    from .management.keyring import Keyring
    from .management.secrets import MasterSecrets
    from .storage.cache import AsyncCachedLookup, CachedLookup
    from .storage.protocol import Batch, Store
    from .storage.uses import UseLog


@dataclass(frozen=True, slots=True)
class Doorkey:
    """
    The parts that work on one store, put together. Each can be built alone, too.

    Attributes:
        caches: what the verifiers read through, if a cache was asked for; to be told of what other processes change.
        uses: what keeps the last use of each token, if that was asked for.
    """

    store: Store
    secrets: MasterSecrets
    profile: Profile
    verifier: Verifier
    async_verifier: AsyncVerifier
    keyring: Keyring
    caches: tuple[CachedLookup | AsyncCachedLookup, ...] = ()
    uses: UseLog | None = None

    def close(self) -> None:
        """Write the last uses, and give back the store's connections."""
        if self.uses is not None:
            self.uses.close()
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open(
    url: str,
    *,
    secret: MasterSecrets | str | None = None,
    profile: Profile | None = None,
    clock: Callable[[], float] = time.time,
    on_decision: Callable[[Decision], object] | None = None,
    max_age: float = 0,
    record_uses: bool = False,
) -> Doorkey:
    """
    Open an existing store, and put together what works on it.

    Args:
        url: such as ``sqlite:///keys.db``, or ``sqlite:////srv/keys.db`` with an absolute path.
        secret: master secrets, or their text. Else ``DOORKEY_SECRET``, else the file that ``doorkey init`` made.
        profile: only needed for one of your own; the store remembers the name of the one that it was made for.
        clock: UTC seconds.
        on_decision: gets every decision of both verifiers.
        max_age: seconds that a verdict may be out of date, 5 at most. Above 0 the verifiers read through a cache: a key
            that another process revokes lives on for so long. What this keyring does holds at once.
        record_uses: whether the last use of each token is kept, and written once a minute.

    Raises:
        InvalidURL: *url* names no store.
        UnusableStore: there is none, or one that this version must not touch.
        InvalidSecret: no secret, or not one that the store hangs on.
        ConfigurationError: the store was made for another profile, or *max_age* is more than its profile allows.
    """
    from .storage.urls import open_store  # noqa: PLC0415  # importing doorkey imports no driver

    store = open_store(url)
    try:
        return assemble(store, _secrets(url, secret), profile, clock, on_decision, max_age, record_uses)
    except BaseException:
        store.close()
        raise


def create(
    url: str,
    *,
    secret: MasterSecrets | str | None = None,
    profile: Profile = DEFAULT,
    clock: Callable[[], float] = time.time,
    on_decision: Callable[[Decision], object] | None = None,
    max_age: float = 0,
    record_uses: bool = False,
) -> Doorkey:
    """
    Make a new store, and open it.

    Args: see :func:`open`; what is already there is never overwritten.

    Raises:
        InvalidURL: *url* names no store.
        UnusableStore: something is there already, or it cannot be made.
        InvalidSecret: no secret.
    """
    from .storage.protocol import Properties  # noqa: PLC0415
    from .storage.urls import create_store  # noqa: PLC0415

    secrets = _secrets(url, secret)
    store = create_store(url, Properties(profile=profile.name, fingerprints=secrets.fingerprints[:1]))
    try:
        return assemble(store, secrets, profile, clock, on_decision, max_age, record_uses)
    except BaseException:
        store.close()
        raise


def assemble(
    store: Store,
    secrets: MasterSecrets,
    profile: Profile | None = None,
    clock: Callable[[], float] = time.time,
    on_decision: Callable[[Decision], object] | None = None,
    max_age: float = 0,
    record_uses: bool = False,
) -> Doorkey:
    """Put together what works on *store*. Raises what :func:`open` does, but for the URL."""
    from .management.keyring import Keyring  # noqa: PLC0415  # cryptography takes its time
    from .storage.aio import Inline  # noqa: PLC0415

    properties = store.properties()
    secrets.check(properties.fingerprints)
    profile = _profile(properties.profile, profile)
    digester = secrets.digester()
    lookup: Lookup = store
    async_lookup: AsyncLookup = getattr(store, "async_lookup", None) or Inline(store)
    caches: tuple[CachedLookup | AsyncCachedLookup, ...] = ()
    if max_age:
        from .storage.cache import AsyncCachedLookup, CachedLookup  # noqa: PLC0415

        caches = lookup, async_lookup = (
            CachedLookup(lookup, max_age=max_age),
            AsyncCachedLookup(async_lookup, max_age=max_age),
        )
    uses = None
    if record_uses:
        from .storage.uses import UseLog  # noqa: PLC0415

        uses = on_decision = UseLog(store, clock=clock, then=on_decision)
    return Doorkey(
        store,
        secrets,
        profile,
        Verifier(lookup, digester, profile, clock, on_decision),
        AsyncVerifier(async_lookup, digester, profile, clock, on_decision),
        Keyring(store, secrets, profile=profile, clock=clock, on_commit=_forgetting(caches)),
        caches,
        uses,
    )


def _forgetting(caches: Iterable[CachedLookup | AsyncCachedLookup]) -> Callable[[Batch], None]:
    """What makes *caches* forget what a batch changes."""

    def forget(batch: Batch) -> None:
        for cache in caches:
            cache.committed(batch)

    return forget


def _profile(stored: str, given: Profile | None) -> Profile:
    profile = given or PROFILES.get(stored)
    if profile is None:
        raise ConfigurationError(f"the store was made for the profile {stored!r}, which is your own: pass profile=")
    if profile.name != stored:
        raise ConfigurationError(
            f"the store was made for the profile {stored!r}, not {profile.name!r}: its tokens would not be recognised"
        )
    return profile


def _secrets(url: str, given: MasterSecrets | str | None) -> MasterSecrets:
    from .management.secrets import MasterSecrets  # noqa: PLC0415
    from .storage.urls import secret_file  # noqa: PLC0415

    if given is None:
        return MasterSecrets.load(secret_file(url))
    return MasterSecrets.parse(given) if isinstance(given, str) else given
