"""
The keyring: every verb of a key's life.

The rules that every verb keeps:

* A change and its event land in one commit, or neither does. It is durable when the verb returns.
* A new token is sealed in the commit that makes it, and :meth:`Keyring.reveal` is the only way out of the seal. A
  sealed copy stays no longer than its token may be revealed. So neither a crash nor a lost answer loses a token.
* Two changes of one key at once: one wins, the other gets ``Conflict`` and has changed nothing. Where others changed
  neither the key nor the workspace's state (an event of another key moved the chain), the change is tried again.
* An emergency never loses: ``revoke``, ``reissue``, ``suspend`` and ``end_grace`` try again until they land. So does
  ``rekey``, which changes nothing that anybody could mean to change.
* What changes nothing writes nothing, no event either. So a verb may be repeated when its answer was lost.
* Nothing that died lives again, whatever a clock says later: a token whose grace is over is ended with the next change.
* Times are whole UTC seconds. An instant is rounded down and the end of a grace up, so that a grace is never cut short.

Events are named after verbs; their detail holds ids of tokens and of keys, never a token or a digest.
"""

from __future__ import annotations

import copy
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from enum import Enum
from hmac import compare_digest
from typing import NamedTuple, TypeVar

from ..core import tokens
from ..core.errors import (
    AlreadyRevealed,
    ConfigurationError,
    Conflict,
    InvalidNetwork,
    KeyExpired,
    KeyRevoked,
    NotApproved,
    NotFound,
    RollPending,
    UnreadableRecord,
)
from ..core.model import KeyType, Mode
from ..core.networks import NetworkSet
from ..core.permissions import PermissionSet
from ..core.profiles import DEFAULT, Profile
from ..core.tokens import ALPHABET, Token
from ..storage.protocol import Batch, Ending, Key, Properties, Store, StoredToken, Workspace
from . import audit
from .secrets import MasterSecrets

LONGEST_TEXT = 200
LATEST = 253_402_300_799
"""The last second of the year 9999. A later time is most likely one in milliseconds."""

Detail = Mapping[str, object]
Grace = timedelta | int
Instant = datetime | int


class Keep(Enum):
    """The type of :data:`KEEP`."""

    KEEP = "keep"


KEEP = Keep.KEEP
"""Leave it as it is; ``None`` means to clear it."""

_ID = re.compile(r"[a-z]+_[0-9A-Za-z]{16}", re.ASCII)


class _Scene(NamedTuple):
    """What a change is planned on, or what it leaves: the workspace, and those of its keys that it concerns."""

    workspace: Workspace
    keys: tuple[Key, ...] = ()


class _Deed(NamedTuple):
    """What an event tells."""

    action: str
    key: str | None
    detail: Detail


Step = tuple[_Scene, tuple[_Deed, ...]]
"""What shall be there, and what to tell of it. If all is there already, nothing is told or written."""
Still = Callable[[_Scene, _Scene], bool]
"""Whether a change may be planned anew, after another one has turned the first scene into the second."""
Value = TypeVar("Value", Workspace, Key)


def _undisturbed(before: _Scene, after: _Scene) -> bool:
    return _state(before) == _state(after)


def _state(scene: _Scene) -> tuple[object, ...]:
    return scene.workspace.approved_at, scene.workspace.suspended_at, *(key.version for key in scene.keys)


def _same_token(before: _Scene, after: _Scene) -> bool:
    return before.keys[0].tokens[0].id == after.keys[0].tokens[0].id


def _always(before: _Scene, after: _Scene) -> bool:
    return True


class Keyring:
    """
    Changes keys and tells what they are.

    Args:
        store: where they live.
        secrets: must hold each secret that the store hangs on.
        profile: which tokens are made, and how long a rolled one lives.
        clock: UTC seconds.
        actor: who changes; without one, nothing can be changed. See :meth:`acting`.
        max_networks: how many networks a key may be bound to.
        on_commit: gets each batch before the verb returns, also one that failed and may have landed all the same: a
            cache forgets what it changes (:meth:`~doorkey.storage.cache.CachedLookup.committed`).

    Raises:
        InvalidSecret: one of the store's secrets is missing.
        ConfigurationError: the store holds tokens of another profile, or *actor* is no text that an event can carry.
    """

    def __init__(
        self,
        store: Store,
        secrets: MasterSecrets,
        *,
        profile: Profile = DEFAULT,
        clock: Callable[[], float] = time.time,
        actor: str | None = None,
        max_networks: int = 1000,
        on_commit: Callable[[Batch], object] | None = None,
    ) -> None:
        properties = store.properties()
        secrets.check(properties.fingerprints)
        if properties.profile != profile.name:
            raise ConfigurationError(
                f"the store holds tokens of the profile {properties.profile!r}, not of {profile.name!r}: use that one"
            )
        self._store = store
        self._secrets = secrets
        self._profile = profile
        self._clock = clock
        self._max_networks = max_networks
        self._on_commit = on_commit
        self._actor = None if actor is None else _text("an actor", actor)

    def acting(self, actor: str) -> Keyring:
        """
        The same keyring in the hands of *actor*, whom each event will name.

        Raises:
            ConfigurationError: *actor* is not 1 to 200 printable characters.
        """
        other = copy.copy(self)
        other._actor = _text("an actor", actor)
        return other

    # Reading

    def workspace(self, id: str) -> Workspace:
        """
        The workspace with this id.

        Raises:
            NotFound: there is none.
        """
        return _found("workspace", "ws", id, self._store.workspace(id))

    def workspaces(self) -> Iterator[Workspace]:
        """All workspaces, oldest first, read page by page."""
        return _all(lambda after: self._store.workspaces(after=after))

    def key(self, id: str) -> Key:
        """
        The key with this id.

        Raises:
            NotFound: there is none.
        """
        return _found("key", "key", id, self._store.key(id))

    def keys(self, workspace: str, mode: Mode | None = None) -> Iterator[Key]:
        """
        All keys of a workspace, oldest first, read page by page; of one mode, if one is given.

        Raises:
            NotFound: there is no such workspace.
        """
        self.workspace(workspace)
        return _all(lambda after: self._store.keys(workspace, mode=mode, after=after))

    # Workspaces

    def provision(self, name: str) -> Workspace:
        """
        Make a workspace with its test pair: a secret and a publishable key.

        Raises:
            ConfigurationError: *name* is not 1 to 200 printable characters.
        """
        name = _text("a workspace's name", name)
        now = int(self._clock())
        workspace = Workspace(self._new_id("ws"), name, now)
        pair, deeds = self._pair(workspace, Mode.TEST, now)
        done = _Deed("workspace.provision", None, {"name": name})
        return self._write(None, _Scene(workspace, pair), (done, *deeds), now, self._store.properties()).workspace

    def approve(self, workspace: str) -> Workspace:
        """
        Let a workspace have live keys, and make its live pair. A second approval makes no second pair.

        Raises:
            NotFound: there is no such workspace.
            Conflict: somebody else changed its state at the same time.
        """

        def plan(scene: _Scene, now: int) -> Step:
            if scene.workspace.approved_at is not None:
                return scene, ()
            pair, deeds = self._pair(scene.workspace, Mode.LIVE, now)
            approved = replace(scene.workspace, approved_at=now)
            return _Scene(approved, pair), (_Deed("workspace.approve", None, {}), *deeds)

        def still(before: _Scene, after: _Scene) -> bool:
            return before.workspace.suspended_at == after.workspace.suspended_at

        return self._land(lambda: _Scene(self.workspace(workspace)), plan, still).workspace

    def suspend(self, workspace: str) -> Workspace:
        """
        Refuse all requests with keys of a workspace, in both modes, until it is resumed.

        Raises:
            NotFound: there is no such workspace.
        """

        def plan(scene: _Scene, now: int) -> Step:
            since = now if scene.workspace.suspended_at is None else scene.workspace.suspended_at
            return _Scene(replace(scene.workspace, suspended_at=since)), (_Deed("workspace.suspend", None, {}),)

        return self._land(lambda: _Scene(self.workspace(workspace)), plan, _always).workspace

    def resume(self, workspace: str) -> Workspace:
        """
        Take a suspension back.

        Raises:
            NotFound: there is no such workspace.
            Conflict: somebody else changed its state at the same time.
        """

        def plan(scene: _Scene, now: int) -> Step:
            return _Scene(replace(scene.workspace, suspended_at=None)), (_Deed("workspace.resume", None, {}),)

        return self._land(lambda: _Scene(self.workspace(workspace)), plan).workspace

    # Keys

    def issue(
        self,
        workspace: str,
        *,
        type: KeyType,
        mode: Mode,
        name: str,
        permissions: Iterable[str] | None = None,
        networks: Iterable[str] | None = None,
        expires_at: Instant | None = None,
    ) -> Key:
        """
        Make a key. Its token waits to be revealed.

        Args:
            permissions: what it may do; ``None`` for an unrestricted key.
            networks: IPv4 and IPv6 blocks that it may be used from; ``None`` for anywhere.
            expires_at: from when on it is refused, UTC seconds or a datetime with a time zone; ``None`` for never.

        Raises:
            NotFound: there is no such workspace.
            NotApproved: a live key is asked for, and the workspace is not approved.
            ConfigurationError: a value cannot be used (``InvalidPermission`` and ``InvalidNetwork`` among them).
            Conflict: somebody else changed the workspace's state at the same time.
        """
        for value, kind in ((type, KeyType), (mode, Mode)):
            if not isinstance(value, kind):
                raise ConfigurationError(f"{value!r} is not one of {', '.join(map(str, kind))}")
        name = _text("a key's name", name)
        allowed = _permissions(permissions)
        bound = self._networks(networks)
        expiry = self._future(expires_at)

        def plan(scene: _Scene, now: int) -> Step:
            if mode is Mode.LIVE and scene.workspace.approved_at is None:
                raise NotApproved(f"workspace {workspace} has no live keys before it is approved")
            key, deed = self._new_key(scene.workspace, type, mode, name, now, allowed, bound, expiry)
            return _Scene(scene.workspace, (key,)), (deed,)

        return self._land(lambda: _Scene(self.workspace(workspace)), plan).keys[0]

    def reveal(self, key: str) -> Token:
        """
        The current token of a key.

        A live secret is revealed once: the commit that destroys its sealed copy comes first. The token of a test key or
        of a publishable one is revealed any number of times, and no event tells of it.

        Raises:
            NotFound, KeyRevoked, KeyExpired: there is nothing to reveal.
            AlreadyRevealed: it is a live secret that was revealed before, perhaps just now by somebody else.
            InvalidSecret: the token is sealed under a master secret that is not here.
            UnreadableRecord: the sealed copy is broken.
            Conflict: the key was rolled or reissued at the same time.
        """
        opened: list[Token] = []

        def plan(old: Key, now: int) -> tuple[Key, Detail]:
            _refuse_expired(old, now)
            opened[:] = [self._open(old)]
            if not _is_live_secret(old):
                return old, {}
            current, *others = old.tokens
            return replace(old, tokens=(replace(current, sealed=None), *others)), {"token": current.id}

        self._change(key, "key.reveal", plan, _same_token)
        return opened[0]

    def roll(self, key: str, grace: Grace | None = None) -> Key:
        """
        Give a key a new token, which waits to be revealed. Everything else stays, and binds both tokens.

        Args:
            grace: how long the old token lives, in seconds; ``None`` for what the profile says. With 0 it dies now, and
                so does one that still lives in its grace.

        Raises:
            NotFound, KeyRevoked, KeyExpired: there is no key to roll.
            RollPending: a predecessor lives in its grace, and *grace* is not 0.
            ConfigurationError: *grace* is not a whole number of seconds, or negative.
            Conflict: somebody else changed the key at the same time.
        """
        seconds = self._profile.grace if grace is None else _seconds(grace)

        def plan(old: Key, now: int) -> tuple[Key, Detail]:
            _refuse_expired(old, now)
            if seconds and any(lives(token, now) for token in old.tokens[1:]):
                raise RollPending(
                    f"the token before the current one of {key} still lives in its grace: end_grace ends it, and so "
                    "does a roll with a grace of 0"
                )
            until = math.ceil(self._clock()) + seconds
            current, *others = old.tokens
            before = (_outlived(current, until), *others) if seconds else (_end(token, now) for token in old.tokens)
            token = self._mint(old.id, old.type, old.mode, now)
            return replace(old, tokens=(token, *before)), {"token": token.id, "before": current.id, "grace": seconds}

        return self._change(key, "key.roll", plan)

    def end_grace(self, key: str) -> Key:
        """
        End every token of a key but the current one, now.

        Raises:
            NotFound, KeyRevoked: there is no key that has a current token.
        """

        def plan(old: Key, now: int) -> tuple[Key, Detail]:
            current, *others = old.tokens
            ended = [token.id for token in others if token.ended_at is None]
            return replace(old, tokens=(current, *(_end(token, now) for token in others))), {"ended": ended}

        return self._change(key, "key.end_grace", plan, _always)

    def reissue(self, key: str, *, because: str) -> Key:
        """
        Replace the tokens of a compromised key: all of them die now, and a new one waits to be revealed.

        Repeated, it leaves a token alone that no harm can have come to: a live secret that an earlier reissue made and
        nobody has revealed yet, or whatever token another's reissue made while this one was under way. A token that
        may be shown again and again is replaced each time.

        Raises:
            NotFound, KeyRevoked: there is no key to reissue.
            ConfigurationError: *because* is not 1 to 200 printable characters.
        """
        because = _text("a reason", because)
        compromised = self.key(key).tokens[0].id

        def plan(old: Key, now: int) -> tuple[Key, Detail]:
            if _reissued(old, compromised):
                return old, {}
            token = self._mint(old.id, old.type, old.mode, now)
            ended = [token.id for token in old.tokens if token.ended_at is None]
            before = (_end(token, now, Ending.REVOKED) for token in old.tokens)
            return replace(old, tokens=(token, *before)), {"because": because, "token": token.id, "ended": ended}

        return self._change(key, "key.reissue", plan, _always)

    def revoke(self, key: str, *, because: str) -> Key:
        """
        End a key and all its tokens, for good. A revoked key stays as it is.

        Raises:
            NotFound: there is no such key.
            ConfigurationError: *because* is not 1 to 200 printable characters.
        """
        because = _text("a reason", because)

        def plan(old: Key, now: int) -> tuple[Key, Detail]:
            if old.revoked_at is not None:
                return old, {}
            unsealed = tuple(replace(token, sealed=None) for token in old.tokens)
            return replace(old, revoked_at=now, tokens=unsealed), {"because": because}

        return self._change(key, "key.revoke", plan, _always, even_revoked=True)

    def restrict(
        self,
        key: str,
        *,
        permissions: Iterable[str] | Keep | None = KEEP,
        networks: Iterable[str] | Keep | None = KEEP,
    ) -> Key:
        """
        Set what a key may do and where from. ``None`` clears a restriction, and may leave an unrestricted key.

        Raises:
            NotFound, KeyRevoked: there is no key to restrict.
            ConfigurationError: neither is named, or one cannot be used (``InvalidPermission``, ``InvalidNetwork``).
            Conflict: somebody else changed the key at the same time.
        """
        if permissions is KEEP and networks is KEEP:
            raise ConfigurationError("name permissions, networks or both; None clears a restriction")
        named: dict[str, tuple[str, ...] | None] = {}
        if not isinstance(permissions, Keep):
            named["permissions"] = _permissions(permissions)
        if not isinstance(networks, Keep):
            named["networks"] = self._networks(networks)

        def plan(old: Key, now: int) -> tuple[Key, Detail]:
            new = replace(
                old,
                permissions=named.get("permissions", old.permissions),
                networks=named.get("networks", old.networks),
            )
            return new, {name: {"before": getattr(old, name), "after": value} for name, value in named.items()}

        return self._change(key, "key.restrict", plan)

    def rename(self, key: str, name: str) -> Key:
        """
        Give a key another name.

        Raises:
            NotFound, KeyRevoked: there is no key to rename.
            ConfigurationError: *name* is not 1 to 200 printable characters.
            Conflict: somebody else changed the key at the same time.
        """
        name = _text("a key's name", name)

        def plan(old: Key, now: int) -> tuple[Key, Detail]:
            return replace(old, name=name), {"before": old.name, "after": name}

        return self._change(key, "key.rename", plan)

    def set_expiry(self, key: str, at: Instant | None) -> Key:
        """
        Set when a key expires: UTC seconds or a datetime with a time zone; ``None`` for never.

        Raises:
            NotFound, KeyRevoked: there is no key that could expire.
            ConfigurationError: *at* has no time zone, or is not in the future.
            Conflict: somebody else changed the key at the same time.
        """
        expiry = self._future(at)

        def plan(old: Key, now: int) -> tuple[Key, Detail]:
            return replace(old, expires_at=expiry), {"before": old.expires_at, "after": expiry}

        return self._change(key, "key.set_expiry", plan)

    def rekey(self, key: str) -> Key:
        """
        Digest and seal the current token of a key anew, under the newest master secret, if an older one seals it.

        Whoever has that token notices nothing. One without a sealed copy stays as it is: only a roll replaces it.

        Raises:
            NotFound: there is no such key.
            InvalidSecret: the token is sealed under a master secret that is not here.
            UnreadableRecord: the sealed copy is broken.
        """
        newest = self._secrets.fingerprints[0]

        def plan(old: Key, now: int) -> tuple[Key, Detail]:
            current, *others = old.tokens
            if current.sealed is None or current.secret == newest:
                return old, {}
            anew = self._sealed(self._open(old), key, current.created_at)
            moved = replace(current, digest=anew.digest, secret=newest, sealed=anew.sealed)
            detail = {"token": current.id, "before": current.secret, "after": newest}
            return replace(old, tokens=(moved, *others)), detail

        return self._change(key, "key.rekey", plan, _always, even_revoked=True)

    # How a change lands

    def _change(
        self,
        id: str,
        action: str,
        plan: Callable[[Key, int], tuple[Key, Detail]],
        still: Still = _undisturbed,
        *,
        even_revoked: bool = False,
    ) -> Key:
        """Change one key by *plan*: from the key and the time to the new key and the detail of the event."""

        def look() -> _Scene:
            key = self.key(id)
            return _Scene(self.workspace(key.workspace), (key,))

        def planned(scene: _Scene, now: int) -> Step:
            (old,) = scene.keys
            if old.revoked_at is not None and not even_revoked:
                raise KeyRevoked(f"{id} is revoked, and nothing is ever un-revoked: issue another key")
            new, detail = plan(old, now)
            settled = old if new == old else _settled(new, now)
            return _Scene(scene.workspace, (settled,)), (_Deed(action, id, detail),)

        return self._land(look, planned, still).keys[0]

    def _land(
        self, look: Callable[[], _Scene], plan: Callable[[_Scene, int], Step], still: Still = _undisturbed
    ) -> _Scene:
        """
        Look, plan and commit, and again for as long as others were quicker and *still* says that the plan holds.

        Whoever was quicker has landed a change, so somebody always gets on. A conflict without any is passed on.
        """
        properties, before = self._store.properties(), look()
        while True:
            now = int(self._clock())
            after, deeds = plan(before, now)
            if after == before:
                return before
            try:
                return self._write(before, after, deeds, now, properties)
            except Conflict:
                seen = _versions(properties, before)
                earlier, properties, before = before, self._store.properties(), look()
                if _versions(properties, before) == seen or not still(earlier, before):
                    raise

    def _write(
        self, before: _Scene | None, after: _Scene, deeds: Sequence[_Deed], now: int, properties: Properties
    ) -> _Scene:
        """Commit *after* in the place of *before*, with an event for each deed, and announce the events."""
        if self._actor is None:
            raise ConfigurationError("every change names who makes it: use keyring.acting('ann@acme.example')")
        workspace, events = after.workspace, []
        for action, key, detail in deeds:
            event = audit.event(workspace, at=now, actor=self._actor, action=action, key=key, detail=detail)
            workspace = replace(workspace, head=event.hash, events=event.sequence)
            events.append(event)
        replaced: dict[str, int] = {}
        if before is not None:
            replaced[before.workspace.id] = before.workspace.version
            replaced.update((key.id, key.version) for key in before.keys)
        written = _Scene(_succeed(workspace, replaced), tuple(_succeed(key, replaced) for key in after.keys))
        batch = Batch(
            workspaces=((written.workspace, replaced.get(workspace.id)),),
            keys=tuple((key, replaced.get(key.id)) for key in written.keys),
            events=tuple(events),
            properties=_extended(properties, self._secrets.fingerprints[0], written.keys),
        )
        try:
            self._store.commit(batch)
        finally:
            if self._on_commit is not None:
                self._on_commit(batch)
        for event in events:
            audit.announce(event)
        return written

    # What a change is made of

    def _pair(self, workspace: Workspace, mode: Mode, now: int) -> tuple[tuple[Key, ...], tuple[_Deed, ...]]:
        made = [
            self._new_key(workspace, type, mode, f"{mode.value} {word} key", now)
            for type, word in ((KeyType.SECRET, "secret"), (KeyType.PUBLISHABLE, self._profile.publishable_word))
        ]
        return tuple(key for key, _ in made), tuple(deed for _, deed in made)

    def _new_key(
        self,
        workspace: Workspace,
        type: KeyType,
        mode: Mode,
        name: str,
        now: int,
        permissions: tuple[str, ...] | None = None,
        networks: tuple[str, ...] | None = None,
        expires_at: int | None = None,
    ) -> tuple[Key, _Deed]:
        id = self._new_id("key")
        token = self._mint(id, type, mode, now)
        key = Key(id, workspace.id, type, mode, name, now, (token,), permissions, networks, expires_at)
        detail = {
            "type": type.value,
            "mode": mode.value,
            "name": name,
            "token": token.id,
            "permissions": permissions,
            "networks": networks,
            "expires_at": expires_at,
        }
        return key, _Deed("key.issue", id, detail)

    def _mint(self, key: str, type: KeyType, mode: Mode, now: int) -> StoredToken:
        """A new token of *key*, sealed, in the form that is stored."""
        return self._sealed(tokens.mint(type, mode, self._profile.format), key, now)

    def _sealed(self, token: Token, key: str, created_at: int) -> StoredToken:
        """What is kept of *token* while it may be revealed, under the newest secret."""
        return StoredToken(
            id=token.id,
            digest=self._secrets.digester().digests(token)[0],
            secret=self._secrets.fingerprints[0],
            created_at=created_at,
            sealed=self._secrets.seal(token, key=key),
        )

    def _open(self, key: Key) -> Token:
        """The current token of *key*, out of its seal."""
        stored = key.tokens[0]
        if stored.sealed is None:
            hint = self._profile.format.hint(key.type, key.mode, stored.id)
            raise AlreadyRevealed(
                f"{hint} of {key.id} was revealed before, and is not kept: roll the key for a new one"
            )
        token = self._secrets.unseal(
            stored.sealed,
            secret=stored.secret,
            key=key.id,
            id=stored.id,
            type=key.type,
            mode=key.mode,
            format=self._profile.format,
        )
        if not any(compare_digest(stored.digest, digest) for digest in self._secrets.digester().digests(token)):
            raise UnreadableRecord(f"{token.hint} of {key.id} is not the token that its digest stands for")
        return token

    def _new_id(self, kind: str) -> str:
        """Eight characters of the time in milliseconds and eight of chance: ids ascend with time, in ASCII order."""
        milliseconds, text = int(self._clock() * 1000), ""
        for _ in range(8):
            milliseconds, digit = divmod(milliseconds, len(ALPHABET))
            text = ALPHABET[digit] + text
        return f"{kind}_{text}{tokens.random_base62(8)}"

    def _networks(self, networks: Iterable[str] | None) -> tuple[str, ...] | None:
        if networks is None:
            return None
        # A single text is not taken apart into letters: NetworkSet refuses it, and says what to write.
        texts = networks if isinstance(networks, str) else tuple(networks)
        NetworkSet.parse(texts)
        if len(texts) > self._max_networks:
            raise InvalidNetwork(f"{len(texts)} networks are more than a key may have here: {self._max_networks}")
        return tuple(texts)

    def _future(self, at: Instant | None) -> int | None:
        if at is None:
            return None
        if isinstance(at, datetime):
            if at.utcoffset() is None:
                raise ConfigurationError(f"{at} has no time zone: add tzinfo=timezone.utc, or give UTC seconds")
            at = math.floor(at.timestamp())
        if type(at) is not int:
            raise ConfigurationError(f"a time is whole UTC seconds, or a datetime with a time zone, not {at!r}")
        if at <= self._clock():
            raise ConfigurationError(f"{at} is not in the future: to end a key now, revoke it")
        if at > LATEST:
            raise ConfigurationError(f"{at} lies after the year 9999: are these milliseconds? Give UTC seconds")
        return at


def lives(token: StoredToken, now: int) -> bool:
    """Whether *token* is neither ended nor rolled with its grace over. Its key may be revoked, or expired."""
    return token.ended_at is None and (token.expires_at is None or now < token.expires_at)


def _outlived(token: StoredToken, until: int) -> StoredToken:
    """*token* as predecessor: for as long as its grace lasts, and never again to be revealed."""
    return replace(token, sealed=None, expires_at=until if token.expires_at is None else min(until, token.expires_at))


def _end(token: StoredToken, now: int, how: Ending = Ending.ROLLED) -> StoredToken:
    """*token*, dead whatever any clock says. One that was dead stays as it was."""
    return replace(token, sealed=None, ended_at=now, ended_as=how) if token.ended_at is None else token


def _settled(key: Key, now: int) -> Key:
    """*key* with those of its tokens ended whose grace is over, so that a clock which steps back revives none."""
    return replace(key, tokens=tuple(token if lives(token, now) else _end(token, now) for token in key.tokens))


def _reissued(key: Key, compromised: str) -> bool:
    """Whether a reissue has replaced the token with this id, or has made a live secret that nobody has seen yet."""
    current, *before = key.tokens
    replaced = [token.id for token in before if token.ended_as is Ending.REVOKED]
    unseen = _is_live_secret(key) and current.sealed is not None
    return compromised in replaced or (unseen and bool(before) and before[0].id in replaced)


def _is_live_secret(key: Key) -> bool:
    return key.mode is Mode.LIVE and key.type is KeyType.SECRET


def _refuse_expired(key: Key, now: int) -> None:
    if key.expires_at is not None and now >= key.expires_at:
        raise KeyExpired(f"{key.id} has expired: set_expiry gives it more time")


def _succeed(value: Value, replaced: Mapping[str, int]) -> Value:
    return replace(value, version=replaced[value.id] + 1) if value.id in replaced else value


def _versions(properties: Properties, scene: _Scene) -> tuple[int, ...]:
    return properties.version, scene.workspace.version, *(key.version for key in scene.keys)


def _extended(properties: Properties, newest: str, keys: Iterable[Key]) -> tuple[Properties, int] | None:
    """The properties with the fingerprint of the *newest* secret, if a current token is the first to hang on it."""
    if newest in properties.fingerprints or newest not in {key.tokens[0].secret for key in keys}:
        return None
    fingerprints = (newest, *properties.fingerprints)
    return replace(properties, fingerprints=fingerprints, version=properties.version + 1), properties.version


def _found(what: str, start: str, id: str, value: Value | None) -> Value:
    if value is None:
        # Whatever else stands there may be a token, given by mistake.
        shown = id if _ID.fullmatch(id) else "of that id"
        raise NotFound(f"there is no {what} {shown}: an id is {start}_ and 16 characters")
    return value


def _all(page: Callable[[str | None], Sequence[Value]]) -> Iterator[Value]:
    after: str | None = None
    while values := page(after):
        yield from values
        after = values[-1].id


def _text(what: str, text: object) -> str:
    """*text*, if it is fit to be stored, logged and shown in one line."""
    if isinstance(text, str) and 0 < len(text) <= LONGEST_TEXT and text.isprintable() and text.strip() == text:
        return text
    raise ConfigurationError(
        f"{what} is 1 to {LONGEST_TEXT} printable characters: no line breaks or other control characters, and no "
        "blanks at either end"
    )


def _permissions(permissions: Iterable[str] | None) -> tuple[str, ...] | None:
    return None if permissions is None else tuple(sorted(PermissionSet.parse(permissions)))


def _seconds(grace: Grace) -> int:
    seconds, rest = divmod(grace, timedelta(seconds=1)) if isinstance(grace, timedelta) else (grace, timedelta())
    if type(seconds) is not int or rest or not 0 <= seconds <= LATEST:
        raise ConfigurationError(f"a grace is a whole number of seconds, 0 or more, or such a timedelta, not {grace!r}")
    return seconds
