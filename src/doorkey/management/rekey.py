"""
Rekeying: the second half of the rotation of a master secret.

A secret is rotated in steps, each done on every host before the next one begins:

1. The new secret is added behind the old one. Every host can judge and reveal what hangs on either.
2. The new secret is made the first. New tokens hang on it, old ones are found as before.
3. :func:`rekey`, on one host, moves to it whatever is sealed under another one, and tells what is left.
4. What is left is rolled, or its grace awaited. Then :func:`rekey` again.
5. Once nothing is left, the old secret is dropped.

A token that has no sealed copy, such as a live secret that was revealed, exists in its owner's hands alone. So it
cannot be moved: its key must be rolled. Dead tokens do not count: those that were ended or revoked, whose grace is
over, or whose key has expired. A request with one of them is refused as before, but as unknown, once its secret is
dropped; and an expired key that is given more time after that must be rolled.

Killed at any moment, nothing is lost: each token moves in one commit, with its event, and is found before and after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..core.errors import Conflict, InvalidSecret, UnreadableRecord
from ..storage.protocol import Batch, Key, Store
from .keyring import Keyring, lives
from .secrets import MasterSecrets


@dataclass(frozen=True, slots=True)
class Hanging:
    """
    The living tokens that hang on one master secret.

    Attributes:
        secret: its fingerprint.
        tokens: how many there are.
        sealed: how many of them can be moved, because a sealed copy is kept.
        roll: the ids of the keys whose current token is among them and cannot be moved.
        until: when the last grace of a rolled one is over, UTC seconds; ``None`` if there is none.
    """

    secret: str
    tokens: int = 0
    sealed: int = 0
    roll: tuple[str, ...] = ()
    until: int | None = None


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """
    What was moved, and what is left.

    Attributes:
        newest: fingerprint of the secret that tokens were moved to.
        moved: how many were.
        left: what hangs on other secrets yet; nothing, if those can be dropped.
        dropped: fingerprints that the store does not name any more, because nothing hangs on them.
    """

    newest: str
    moved: int
    left: tuple[Hanging, ...]
    dropped: tuple[str, ...]


class _Living(NamedTuple):
    """A token that lives: of which key, whether the current one, whether it can be moved, when its grace is over."""

    key: str
    current: bool
    sealed: bool
    until: int | None


def rekey(
    ring: Keyring,
    store: Store,
    secrets: MasterSecrets,
    *,
    clock: Callable[[], float] = time.time,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Rekeyed:
    """
    Move what is sealed to the newest secret, and find out what hangs on the others. It can be broken off and repeated.

    Args:
        ring: in the hands of whom the events shall name. It works on *store* with *secrets*.
        clock: UTC seconds.
        progress: is told how many of how many tokens have been moved.

    Raises:
        ReadOnlyStore, StoreUnavailable, UnreadableRecord: the store cannot be changed or read.
    """
    newest = secrets.fingerprints[0]
    before = store.properties().fingerprints
    waiting = [
        key.id
        for key in _keys(ring)
        if any(token.sealed is not None and token.secret != newest for token in key.tokens)
    ]
    stuck = set()
    for done, id in enumerate(waiting, 1):
        try:
            ring.rekey(id)
        except (InvalidSecret, UnreadableRecord):
            stuck.add(id)
        progress(done, len(waiting))
    left = _settled(ring, store, secrets, clock, stuck)
    dropped = tuple(secret for secret in before if secret not in store.properties().fingerprints)
    return Rekeyed(newest, len(waiting) - len(stuck), left, dropped)


def hanging(keys: Iterable[Key], now: float, stuck: Collection[str] = ()) -> Mapping[str, Hanging]:
    """
    What of these *keys* hangs on each master secret, by its fingerprint.

    Args:
        stuck: ids of keys whose sealed copy has turned out to be of no use.
    """
    found: dict[str, list[_Living]] = {}
    for key in keys:
        if key.revoked_at is None and (key.expires_at is None or now < key.expires_at):
            for place, token in enumerate(key.tokens):
                if lives(token, int(now)):
                    sealed = token.sealed is not None and key.id not in stuck
                    living = _Living(key.id, place == 0, sealed, token.expires_at)
                    found.setdefault(token.secret, []).append(living)
    return {secret: _summed(secret, tokens) for secret, tokens in found.items()}


def _summed(secret: str, tokens: Sequence[_Living]) -> Hanging:
    return Hanging(
        secret,
        tokens=len(tokens),
        sealed=sum(token.sealed for token in tokens),
        roll=tuple(token.key for token in tokens if token.current and not token.sealed),
        until=max((token.until for token in tokens if token.until is not None), default=None),
    )


def _settled(
    ring: Keyring, store: Store, secrets: MasterSecrets, clock: Callable[[], float], stuck: Collection[str]
) -> tuple[Hanging, ...]:
    """
    Let the store name exactly the secrets that something hangs on, and the newest; and tell what hangs on the others.

    A host on which another secret is still the first may hang a token on that while we look. So we look again after
    each change of the names, until they need none.
    """
    newest = secrets.fingerprints[0]
    while True:
        # Read before the tokens are: if a name is added meanwhile, ours are not written.
        properties = store.properties()
        found = hanging(_keys(ring), clock(), stuck)
        # One that was dropped too early is not named again, because then no service would start.
        known = dict.fromkeys((newest, *properties.fingerprints, *secrets.fingerprints))
        fingerprints = tuple(secret for secret in known if secret == newest or secret in found)
        if fingerprints == properties.fingerprints:
            return tuple(each for each in found.values() if each.secret != newest)
        changed = replace(properties, fingerprints=fingerprints, version=properties.version + 1)
        with suppress(Conflict):
            store.commit(Batch(properties=(changed, properties.version)))


def _keys(ring: Keyring) -> Iterator[Key]:
    return (key for workspace in ring.workspaces() for key in ring.keys(workspace.id))
