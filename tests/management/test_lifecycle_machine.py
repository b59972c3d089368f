"""
Any sequence of verbs, with a clock that runs between them, against a model that is told nothing but the rules.

After each step every token that was ever made is presented to a real verifier, whether it was revealed or not.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from doorkey.core.errors import AlreadyRevealed, KeyExpired, KeyRevoked, NotApproved, RollPending
from doorkey.core.model import Denied, Granted, KeyType, Mode, Reason
from doorkey.core.tokens import Token
from doorkey.core.verify import Verifier
from doorkey.management import audit
from doorkey.management.keyring import Keyring
from doorkey.management.secrets import MasterSecrets
from doorkey.storage.memory import MemoryStore
from doorkey.storage.protocol import Key, Store
from doorkey.storage.sqlite import SQLiteStore
from doorkey.testing import Clock, basic

SECRETS = MasterSecrets.generate()
START = 1_800_000_000
DAY = 86_400
ADDRESS, NEEDED = "10.1.2.3", "a:read"
PERMISSIONS: dict[tuple[str, ...] | None, bool] = {
    None: True,
    ("a",): True,
    ("b", "a:read"): True,
    ("a:write", "b"): False,
}
NETWORKS: dict[tuple[str, ...] | None, bool] = {
    None: True,
    ("192.0.2.1", "10.0.0.0/8"): True,
    ("10.1.2.4", "::/0"): False,
}
Answer = TypeVar("Answer")


@dataclass
class Secret:
    """A token as the model knows it: how it died, if it did, or when it will."""

    token: Token
    until: float = math.inf
    death: frozenset[Reason] = frozenset()


@dataclass
class Tenant:
    """A workspace as the model knows it."""

    approved: bool = False
    suspended: bool = False


@dataclass
class Entry:
    """A key as the model knows it; its tokens newest first."""

    tenant: Tenant
    type: KeyType
    mode: Mode
    tokens: list[Secret] = field(default_factory=list)
    permissions: tuple[str, ...] | None = None
    networks: tuple[str, ...] | None = None
    expiry: float = math.inf
    revoked: bool = False
    seen: bool = False
    reissued: bool = False

    @property
    def once(self) -> bool:
        return self.type is KeyType.SECRET and self.mode is Mode.LIVE

    def dead(self, secret: Secret, now: float) -> bool:
        return bool(secret.death) or now >= secret.until

    def verdicts(self, secret: Secret, now: float) -> frozenset[Reason | None]:
        """What may be answered to a request with this token; ``None`` for letting it in."""
        if self.revoked:
            return frozenset({Reason.REVOKED})
        if self.dead(secret, now):
            return secret.death or frozenset({Reason.EXPIRED})
        gates = (
            (Reason.EXPIRED, now >= self.expiry),
            (Reason.WORKSPACE_SUSPENDED, self.tenant.suspended),
            (Reason.NETWORK, not NETWORKS[self.networks]),
            (Reason.SECRET_KEY_REQUIRED, self.type is KeyType.PUBLISHABLE),
            (Reason.PERMISSIONS, not PERMISSIONS[self.permissions]),
        )
        return frozenset({next((reason for reason, refused in gates if refused), None)})


def some(name: str) -> st.SearchStrategy[str]:
    """The id of a key or a workspace that exists."""
    return st.runner().flatmap(lambda machine: st.sampled_from(list(getattr(machine, name))))


KEYS, WORKSPACES = some("entries"), some("tenants")


class Lifecycle(RuleBasedStateMachine):
    """The verbs as rules; what each should do is said by the model before it is done."""

    def make_store(self) -> Store:
        return MemoryStore()

    def __init__(self) -> None:
        super().__init__()
        self.store = self.make_store()
        self.clock = Clock(START)
        self.ring = Keyring(self.store, SECRETS, clock=self.clock, actor="machine")
        self.verifier = Verifier(self.store, SECRETS.digester(), clock=self.clock)
        self.tenants: dict[str, Tenant] = {}
        self.entries: dict[str, Entry] = {}
        self.marks: dict[str, tuple[int, int]] = {}

    def attempt(self, verb: Callable[[], Answer], refusal: type[Exception] | None) -> Answer | None:
        if refusal is None:
            return verb()
        with pytest.raises(refusal):
            verb()
        return None

    def adopt(self, key: Key) -> None:
        """Learn the newest token of *key*, without revealing it: straight from its seal."""
        (stored, *_), entry = key.tokens, self.entries[key.id]
        assert stored.sealed is not None
        token = SECRETS.unseal(
            stored.sealed, secret=stored.secret, key=key.id, id=stored.id, type=key.type, mode=key.mode
        )
        entry.tokens.insert(0, Secret(token))
        entry.seen = entry.reissued = False

    def enlist(self, workspace: str, mode: Mode) -> None:
        """Take the keys that a verb has made into the model."""
        for key in self.ring.keys(workspace, mode):
            if key.id not in self.entries:
                self.entries[key.id] = Entry(self.tenants[workspace], key.type, key.mode)
                self.adopt(key)

    # Workspaces

    @initialize()
    def begin(self) -> None:
        self.provision()

    @rule()
    def provision(self) -> None:
        if len(self.tenants) < 2:
            workspace = self.ring.provision("Acme").id
            self.tenants[workspace] = Tenant()
            self.enlist(workspace, Mode.TEST)

    @rule(workspace=WORKSPACES)
    def approve(self, workspace: str) -> None:
        self.ring.approve(workspace)
        self.tenants[workspace].approved = True
        self.enlist(workspace, Mode.LIVE)

    @rule(workspace=WORKSPACES)
    def suspend(self, workspace: str) -> None:
        self.ring.suspend(workspace)
        self.tenants[workspace].suspended = True

    @rule(workspace=WORKSPACES)
    def resume(self, workspace: str) -> None:
        self.ring.resume(workspace)
        self.tenants[workspace].suspended = False

    @rule(
        workspace=WORKSPACES,
        type=st.sampled_from(KeyType),
        mode=st.sampled_from(Mode),
        permissions=st.sampled_from(list(PERMISSIONS)),
        life=st.sampled_from([None, 5, 100]),
    )
    def issue(
        self, workspace: str, type: KeyType, mode: Mode, permissions: tuple[str, ...] | None, life: int | None
    ) -> None:
        expiry = None if life is None else math.ceil(self.clock()) + life
        refused = mode is Mode.LIVE and not self.tenants[workspace].approved
        key = self.attempt(
            lambda: self.ring.issue(
                workspace, type=type, mode=mode, name="issued", permissions=permissions, expires_at=expiry
            ),
            NotApproved if refused else None,
        )
        if key is not None:
            self.enlist(workspace, mode)
            entry = self.entries[key.id]
            entry.permissions, entry.expiry = permissions, expiry or math.inf

    # Keys

    def refusal(self, entry: Entry) -> type[Exception] | None:
        return KeyRevoked if entry.revoked else None

    @rule(key=KEYS)
    def reveal(self, key: str) -> None:
        entry = self.entries[key]
        refusal = self.refusal(entry)
        if refusal is None and self.clock() >= entry.expiry:
            refusal = KeyExpired
        if refusal is None and entry.once and entry.seen:
            refusal = AlreadyRevealed
        token = self.attempt(lambda: self.ring.reveal(key), refusal)
        if token is not None:
            assert token == entry.tokens[0].token
            entry.seen = True

    @rule(key=KEYS, grace=st.sampled_from([None, 0, 5, 100]))
    def roll(self, key: str, grace: int | None) -> None:
        entry, now = self.entries[key], self.clock()
        refusal = self.refusal(entry)
        if refusal is None and now >= entry.expiry:
            refusal = KeyExpired
        if refusal is None and grace != 0 and not all(entry.dead(secret, now) for secret in entry.tokens[1:]):
            refusal = RollPending
        rolled = self.attempt(lambda: self.ring.roll(key, grace), refusal)
        if rolled is not None:
            if grace == 0:
                self.kill(entry.tokens, Reason.EXPIRED)
            else:
                entry.tokens[0].until = math.ceil(now) + (DAY if grace is None else grace)
            self.adopt(rolled)

    def kill(self, secrets: list[Secret], reason: Reason) -> None:
        for secret in secrets:
            if not secret.death:
                # What was dead by the clock may be told as that, or as what ended it for good.
                secret.death = frozenset({reason} | ({Reason.EXPIRED} if self.clock() >= secret.until else set()))

    @rule(key=KEYS)
    def end_grace(self, key: str) -> None:
        entry = self.entries[key]
        if self.attempt(lambda: self.ring.end_grace(key), self.refusal(entry)):
            self.kill(entry.tokens[1:], Reason.EXPIRED)

    @rule(key=KEYS)
    def reissue(self, key: str) -> None:
        entry = self.entries[key]
        spared = entry.once and entry.reissued and not entry.seen
        reissued = self.attempt(lambda: self.ring.reissue(key, because="leaked"), self.refusal(entry))
        if reissued is not None and not spared:
            self.kill(entry.tokens, Reason.REVOKED)
            self.adopt(reissued)
            entry.reissued = True

    @rule(key=KEYS, sure=st.integers(0, 3))
    def revoke(self, key: str, sure: int) -> None:
        if sure == 0:  # or soon there would be nothing else
            self.ring.revoke(key, because="leaked")
            self.entries[key].revoked = True

    @rule(key=KEYS, permissions=st.sampled_from(list(PERMISSIONS)))
    def permit(self, key: str, permissions: tuple[str, ...] | None) -> None:
        entry = self.entries[key]
        if self.attempt(lambda: self.ring.restrict(key, permissions=permissions), self.refusal(entry)):
            entry.permissions = permissions

    @rule(key=KEYS, networks=st.sampled_from(list(NETWORKS)))
    def bind(self, key: str, networks: tuple[str, ...] | None) -> None:
        entry = self.entries[key]
        if self.attempt(lambda: self.ring.restrict(key, networks=networks), self.refusal(entry)):
            entry.networks = networks

    @rule(key=KEYS, name=st.sampled_from(["one", "other"]))
    def rename(self, key: str, name: str) -> None:
        self.attempt(lambda: self.ring.rename(key, name), self.refusal(self.entries[key]))

    @rule(key=KEYS, life=st.sampled_from([None, 5, 100]))
    def set_expiry(self, key: str, life: int | None) -> None:
        entry = self.entries[key]
        expiry = None if life is None else math.ceil(self.clock()) + life
        if self.attempt(lambda: self.ring.set_expiry(key, expiry), self.refusal(entry)):
            entry.expiry = expiry or math.inf

    @rule(seconds=st.sampled_from([0.25, 0.75, 1, 4, 5, 95, 100, DAY - 1, DAY]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    # What holds after every step

    @invariant()
    def every_token_is_judged_as_the_model_says(self) -> None:
        for entry in self.entries.values():
            for secret in entry.tokens:
                match self.verifier.verify(basic(secret.token), client_address=ADDRESS, requires=NEEDED):
                    case Granted(principal):
                        answer: Reason | None = None
                        assert principal.token_id == secret.token.id
                    case Denied(reason):
                        answer = reason
                    case other:
                        pytest.fail(f"{other}")
                assert answer in entry.verdicts(secret, self.clock())

    @invariant()
    def what_is_stored_is_sound(self) -> None:
        for id, entry in self.entries.items():
            key = self.ring.key(id)
            current, *others = key.tokens
            assert [token.id for token in key.tokens] == [secret.token.id for secret in entry.tokens]
            assert (current.sealed is not None) is not (entry.revoked or (entry.once and entry.seen))
            assert all(token.sealed is None for token in others)
            assert current.ended_at is None and current.expires_at is None
            assert sum(token.ended_at is None and self.clock() < (token.expires_at or 0) for token in others) <= 1

    @invariant()
    def a_change_is_a_version_and_an_event(self) -> None:
        for workspace in self.tenants:
            row = self.ring.workspace(workspace)
            version, events = self.marks.get(workspace, (0, 0))
            assert (row.version > version) is (row.events > events)
            self.marks[workspace] = row.version, row.events

    def teardown(self) -> None:
        for workspace in self.tenants:
            assert audit.verify(self.store, workspace) == ()
        self.store.close()


class LifecycleInFile(Lifecycle):
    """The same in an SQLite file."""

    def make_store(self) -> Store:
        self.folder = Path(tempfile.mkdtemp())
        return SQLiteStore.create(self.folder / "keys.db")

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.folder)


TestLifecycleInMemory = Lifecycle.TestCase
TestLifecycleInMemory.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestLifecycleInFile = LifecycleInFile.TestCase
TestLifecycleInFile.settings = settings(
    max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
