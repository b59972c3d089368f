"""Every verb of the keyring: what it does, what it refuses, what it writes down, and who wins."""

from __future__ import annotations

import json
import logging
import re
import sqlite3
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from pathlib import Path

import pytest

from doorkey.core.errors import (
    AlreadyRevealed,
    ConfigurationError,
    Conflict,
    InvalidNetwork,
    InvalidPermission,
    InvalidSecret,
    KeyExpired,
    KeyRevoked,
    NotApproved,
    NotFound,
    ReadOnlyStore,
    RollPending,
    StoreUnavailable,
    UnreadableRecord,
)
from doorkey.core.model import Denied, Granted, KeyType, Mode, Reason, Requirement, Use
from doorkey.core.profiles import DEFAULT, FALU, FLUVEO, Profile
from doorkey.core.tokens import Token, mint
from doorkey.core.verify import Verifier
from doorkey.management import audit
from doorkey.management.keyring import KEEP, LATEST, Keyring
from doorkey.management.secrets import MasterSecrets
from doorkey.storage.memory import MemoryStore
from doorkey.storage.protocol import Batch, Ending, Event, Key, Properties, StoredToken
from doorkey.storage.sqlite import SQLiteStore
from doorkey.testing import Clock, basic, bearer

START = 1_800_000_000
DAY = 86_400
SECRETS = MasterSecrets.generate()


class CrowdedStore(MemoryStore):
    """A store in which something else happens just before a commit, as often as there is something to happen."""

    def __init__(self, properties: Properties | None = None) -> None:
        super().__init__(properties)
        self.meanwhile: list[Callable[[], object]] = []
        self.commits: list[Batch] = []

    def commit(self, batch: Batch) -> None:
        if self.meanwhile:
            self.meanwhile.pop(0)()
        super().commit(batch)
        self.commits.append(batch)


class House:
    """A store with its keyring, its clock, and a verifier that asks no more than who it is."""

    def __init__(self, profile: Profile = DEFAULT, secrets: MasterSecrets = SECRETS) -> None:
        self.clock = Clock(START)
        self.store = CrowdedStore(Properties(profile=profile.name))
        self.ring = Keyring(self.store, secrets, profile=profile, clock=self.clock, actor="ann")
        self.verifier = Verifier(self.store, secrets.digester(), profile, self.clock)
        self.workspace = self.ring.provision("Acme").id

    def key(self, type: KeyType = KeyType.SECRET, mode: Mode = Mode.TEST) -> str:
        """The key of the pair that provisioning and approval make."""
        return next(key.id for key in self.ring.keys(self.workspace, mode) if key.type is type)

    def live(self) -> str:
        self.ring.approve(self.workspace)
        return self.key(mode=Mode.LIVE)

    def judge(self, token: Token, client_address: str | None = None, requires: str | Requirement = "a:read") -> object:
        """Why a request with *token* is denied, or ``None`` if it is granted."""
        match self.verifier.verify(basic(token), client_address=client_address, requires=requires):
            case Granted():
                return None
            case Denied(reason):
                return reason
            case other:
                return other

    def events(self) -> list[tuple[str, str | None, dict[str, object]]]:
        """Action, key and detail of every event."""
        return [(event.action, event.key, json.loads(event.detail)) for event in self.all_events()]

    def all_events(self) -> list[Event]:
        return list(self.store.events(self.workspace, limit=10_000))


@pytest.fixture
def house() -> Iterator[House]:
    """A workspace with its test pair; afterwards its chain must be whole and no count may be off."""
    house = House()
    yield house
    assert audit.verify(house.store, house.workspace) == ()


def tokens(house: House, key: str) -> tuple[StoredToken, ...]:
    return house.ring.key(key).tokens


CHANGES: dict[str, Callable[[Keyring, str], object]] = {
    "reveal": lambda ring, key: ring.reveal(key),
    "roll": lambda ring, key: ring.roll(key),
    "end_grace": lambda ring, key: ring.end_grace(key),
    "reissue": lambda ring, key: ring.reissue(key, because="leaked"),
    "restrict": lambda ring, key: ring.restrict(key, permissions=["a"]),
    "rename": lambda ring, key: ring.rename(key, "other"),
    "set_expiry": lambda ring, key: ring.set_expiry(key, START + DAY),
    "revoke": lambda ring, key: ring.revoke(key, because="leaked"),
}


# Built


def test_a_wrong_secret_is_found_at_the_start() -> None:
    """A keyring that lacks a secret of the store would make keys that no other host accepts."""
    house = House()
    with pytest.raises(InvalidSecret, match=SECRETS.fingerprints[0]):
        Keyring(house.store, MasterSecrets.generate())


def test_a_listener_gets_each_batch_before_the_verb_returns(house: House) -> None:
    """What caches: it must forget what landed, and also what may have landed though the answer was lost."""
    heard: list[Batch] = []
    ring = Keyring(house.store, SECRETS, clock=house.clock, actor="ann", on_commit=heard.append)
    key = house.key()
    ring.rename(key, "one")
    assert heard == house.store.commits[-1:]

    def lose() -> None:
        raise StoreUnavailable("the connection broke")

    house.store.meanwhile = [lose]
    with pytest.raises(StoreUnavailable):
        ring.acting("bob").revoke(key, because="leaked")
    assert len(heard) == 2
    assert heard[1].keys[0][0].revoked_at == house.clock.now


def test_a_wrong_profile_is_found_at_the_start() -> None:
    """A keyring of another profile would make tokens that no verifier of this store reads."""
    with pytest.raises(ConfigurationError, match="of the profile 'falu', not of 'default'"):
        Keyring(MemoryStore(Properties(profile="falu")), SECRETS)


def test_who_acts_must_be_said(house: House) -> None:
    """No change without an actor; reading needs none."""
    ring = Keyring(house.store, SECRETS)
    assert ring.reveal(house.key()).id
    with pytest.raises(ConfigurationError, match=r"keyring\.acting"):
        ring.provision("Beta")
    with pytest.raises(ConfigurationError, match=r"keyring\.acting"):
        ring.rename(house.key(), "other")
    ring.acting("bob@acme.example").rename(house.key(), "other")
    assert house.all_events()[-1].actor == "bob@acme.example"
    house.ring.acting("bob")
    house.ring.rename(house.key(), "again")
    assert house.all_events()[-1].actor == "ann"


@pytest.mark.parametrize(
    "text", ["", " ", " ann", "ann ", "a\nb", "a\rb", "a\x1b[0m", "a\u2028b", "a\0", "a\ud800", "x" * 201, 7]
)
def test_no_text_that_could_not_be_shown_in_a_line(house: House, text: str) -> None:
    """Actors, names and reasons are printable, of 1 to 200 characters, and are not trimmed in silence."""
    key = house.key()
    for attempt in (
        lambda: house.ring.acting(text),
        lambda: Keyring(house.store, SECRETS, actor=text),
        lambda: house.ring.provision(text),
        lambda: house.ring.issue(house.workspace, type=KeyType.SECRET, mode=Mode.TEST, name=text),
        lambda: house.ring.rename(key, text),
        lambda: house.ring.revoke(key, because=text),
        lambda: house.ring.reissue(key, because=text),
    ):
        with pytest.raises(ConfigurationError, match="1 to 200 printable characters: no line breaks or other control"):
            attempt()


def test_any_printable_text_will_do(house: House) -> None:
    """Names are for people, in any script, 200 characters long."""
    assert house.ring.rename(house.key(), "ключ 鍵 " + "é" * 193).name.endswith("é")


# Workspaces


def test_provision(house: House) -> None:
    """A workspace begins with its test pair, in one commit, and not approved."""
    workspace = house.ring.workspace(house.workspace)
    assert (workspace.name, workspace.created_at, workspace.approved_at, workspace.suspended_at) == (
        "Acme",
        START,
        None,
        None,
    )
    assert (workspace.version, workspace.events) == (1, 3)
    assert len(house.store.commits) == 1
    keys = {key.type: key for key in house.ring.keys(workspace.id)}
    assert {key.mode for key in keys.values()} == {Mode.TEST}
    assert [keys[type].name for type in KeyType] == ["test secret key", "test publishable key"]
    for key in keys.values():
        assert (key.permissions, key.networks, key.expires_at, key.version) == (None, None, None, 1)
        assert house.judge(house.ring.reveal(key.id), requires=Requirement.ANY_KEY) is None
    assert {(action, key) for action, key, _ in house.events()} == {
        ("workspace.provision", None),
        *(("key.issue", key.id) for key in keys.values()),
    }
    assert house.events()[0] == ("workspace.provision", None, {"name": "Acme"})
    assert [event.at for event in house.all_events()] == [START] * 3


def test_approve(house: House) -> None:
    """Approval makes the live pair, in one commit, and only once."""
    house.clock.now += 5.9
    workspace = house.ring.approve(house.workspace)
    assert (workspace.approved_at, workspace.version) == (START + 5, 2)
    assert len(house.store.commits) == 2
    live = list(house.ring.keys(house.workspace, Mode.LIVE))
    assert {key.type for key in live} == set(KeyType)
    assert house.ring.approve(house.workspace) == workspace
    assert list(house.ring.keys(house.workspace, Mode.LIVE)) == live
    assert [action for action, _, _ in house.events()[3:]] == ["workspace.approve", "key.issue", "key.issue"]


def test_suspend_and_resume(house: House) -> None:
    """A suspension closes both modes, changes no key, and can be taken back; repeating either changes nothing."""
    revealed = [house.ring.reveal(key) for key in (house.key(), house.live())]
    suspended = house.ring.suspend(house.workspace)
    assert suspended.suspended_at == START
    assert [house.judge(token) for token in revealed] == [Reason.WORKSPACE_SUSPENDED] * 2
    house.clock.now += 1
    assert house.ring.suspend(house.workspace) == suspended
    assert house.ring.resume(house.workspace).suspended_at is None
    assert house.ring.resume(house.workspace).version == suspended.version + 1
    assert [house.judge(token) for token in revealed] == [None] * 2
    assert [action for action, _, _ in house.events()[-2:]] == ["workspace.suspend", "workspace.resume"]


def test_a_suspended_workspace_can_still_be_managed(house: House) -> None:
    """An operator must be able to revoke what a suspension covers."""
    key = house.live()
    house.ring.suspend(house.workspace)
    for change in CHANGES.values():
        change(house.ring, key)
    assert house.ring.issue(house.workspace, type=KeyType.SECRET, mode=Mode.LIVE, name="another").id


def test_what_is_not_there(house: House) -> None:
    """An unknown id is named, but only if it looks like an id: somebody may have given a token instead."""
    absent = "key_" + "0" * 16
    for change in CHANGES.values():
        with pytest.raises(NotFound, match=f"there is no key {absent}"):
            change(house.ring, absent)
    for verb in (house.ring.workspace, house.ring.approve, house.ring.suspend, house.ring.resume, house.ring.keys):
        with pytest.raises(NotFound, match=r"there is no workspace ws_0{16}: an id is ws_ and 16 characters"):
            verb("ws_" + "0" * 16)
    with pytest.raises(NotFound):
        house.ring.issue("ws_" + "0" * 16, type=KeyType.SECRET, mode=Mode.TEST, name="x")
    token = house.ring.reveal(house.key()).expose()
    with pytest.raises(NotFound) as caught:
        house.ring.key(token)
    assert token not in str(caught.value) and token[-20:] not in str(caught.value)


# Issuing


def test_issue(house: House) -> None:
    """A key has what was asked for, its permissions in their one spelling."""
    key = house.ring.issue(
        house.workspace,
        type=KeyType.SECRET,
        mode=Mode.TEST,
        name="reports",
        permissions=(text for text in ["b:read", "a:*", "a", "b:read"]),
        networks=(text for text in ["192.0.2.0/24", "10.0.0.1"]),
        expires_at=START + 60,
    )
    assert key == house.ring.key(key.id)
    assert (key.permissions, key.networks) == (("a", "b:read"), ("192.0.2.0/24", "10.0.0.1"))
    token = house.ring.reveal(key.id)
    assert house.judge(token, "192.0.2.9", "a:read") is None
    assert house.judge(token, "192.0.2.9", "b:write") is Reason.PERMISSIONS
    assert house.judge(token, "192.0.3.9", "a:read") is Reason.NETWORK
    house.clock.now = START + 59.999
    assert house.judge(token, "192.0.2.9", "a:read") is None
    house.clock.now = START + 60
    assert house.judge(token, "192.0.2.9", "a:read") is Reason.EXPIRED
    assert house.events()[-1] == (
        "key.issue",
        key.id,
        {
            "type": "secret",
            "mode": "test",
            "name": "reports",
            "token": token.id,
            "permissions": ["a", "b:read"],
            "networks": ["192.0.2.0/24", "10.0.0.1"],
            "expires_at": START + 60,
        },
    )


def issue(house: House, **changed: object) -> Key:
    arguments = {"type": KeyType.SECRET, "mode": Mode.TEST, "name": "x"} | changed
    return house.ring.issue(house.workspace, **arguments)  # type: ignore[arg-type]


def test_live_keys_need_approval(house: House) -> None:
    """Nobody works on live data before the workspace is approved."""
    with pytest.raises(NotApproved, match=house.workspace):
        issue(house, mode=Mode.LIVE)
    house.ring.approve(house.workspace)
    assert issue(house, mode=Mode.LIVE).mode is Mode.LIVE


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"type": "secret"}, ConfigurationError, "'secret' is not one of KeyType.SECRET, KeyType.PUBLISHABLE"),
        ({"mode": "live"}, ConfigurationError, "'live' is not one of Mode.TEST, Mode.LIVE"),
        ({"permissions": []}, InvalidPermission, "None for an unrestricted key"),
        ({"permissions": "a:read"}, InvalidPermission, "list"),
        ({"permissions": ["a b"]}, InvalidPermission, "no permission"),
        ({"networks": []}, InvalidNetwork, "None"),
        ({"networks": "10.0.0.0/8"}, InvalidNetwork, "list"),
        ({"networks": ["10.0.0.1/8"]}, InvalidNetwork, "10.0.0.1/8"),
        ({"networks": ["10.0.0.1"] * 1001}, InvalidNetwork, "1001 networks are more than a key may have here: 1000"),
    ],
)
def test_what_no_key_can_have(house: House, changed: dict[str, object], error: type[Exception], message: str) -> None:
    """A value that cannot be used is refused with what to write instead, and nothing is written."""
    before = house.all_events()
    with pytest.raises(error, match=message):
        issue(house, **changed)
    for name in ("permissions", "networks"):
        if name in changed:
            with pytest.raises(error, match=message):
                house.ring.restrict(house.key(), **{name: changed[name]})  # type: ignore[arg-type]
    assert house.all_events() == before


def test_an_operator_may_allow_more_networks(house: House) -> None:
    """The bound is the operator's to set."""
    ring = Keyring(house.store, SECRETS, clock=house.clock, actor="ann", max_networks=1)
    with pytest.raises(InvalidNetwork, match="2 networks are more than a key may have here: 1"):
        ring.restrict(house.key(), networks=["10.0.0.1", "10.0.0.2"])
    assert ring.restrict(house.key(), networks=["10.0.0.1"]).networks == ("10.0.0.1",)


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (START, "not in the future: to end a key now, revoke it"),
        (START - 1, "not in the future"),
        (-1, "not in the future"),
        (LATEST + 1, "milliseconds"),
        (1000 * START, "milliseconds"),
        (True, "whole UTC seconds"),
        (START + 0.5, "whole UTC seconds"),
        ("2030-01-01", "whole UTC seconds"),
        (timedelta(days=1), "whole UTC seconds"),
        (datetime(2030, 1, 1), "no time zone"),
        (datetime.fromtimestamp(START, UTC), "not in the future"),
    ],
)
def test_no_expiry_that_could_be_meant_otherwise(house: House, at: int, message: str) -> None:
    """An expiry lies in the future, and says in which time zone."""
    with pytest.raises(ConfigurationError, match=message):
        issue(house, expires_at=at)
    with pytest.raises(ConfigurationError, match=message):
        house.ring.set_expiry(house.key(), at)


def test_an_expiry_as_datetime(house: House) -> None:
    """A datetime counts by its instant, wherever its clock hangs, and never later than it says."""
    eastern = timezone(timedelta(hours=-5))
    moment = datetime.fromtimestamp(START + 60, eastern) + timedelta(microseconds=999_999)
    assert issue(house, expires_at=moment).expires_at == START + 60


def test_ids_ascend_with_time(house: House) -> None:
    """In ASCII order, which is the order of listings, later keys come after earlier ones."""
    made = []
    for step in range(200):
        house.clock.now += 0.001 if step % 2 else 12_345.678
        made.append(issue(house).id)
    assert made == sorted(made)
    assert len(set(made)) == 200
    assert all(id.isascii() and id.startswith("key_") and len(id) == 20 and id[4:].isalnum() for id in made)


def test_listings_go_through_all_pages(house: House) -> None:
    """However many there are, all are listed, once, oldest first."""
    for _ in range(120):
        house.clock.now += 1
        issue(house)
        house.ring.provision("Other")
    assert len(list(house.ring.keys(house.workspace))) == 122
    assert len(list(house.ring.keys(house.workspace, Mode.LIVE))) == 0
    names = [workspace.id for workspace in house.ring.workspaces()]
    assert len(names) == 121 and names == sorted(names) and names[0] == house.workspace


# Revealing


def test_a_live_secret_is_revealed_once(house: House) -> None:
    """The commit that destroys the sealed copy comes first; its event names the token, not more."""
    key = house.live()
    before = tokens(house, key)[0]
    token = house.ring.reveal(key)
    assert house.judge(token) is None
    assert tokens(house, key) == (replace(before, sealed=None),)
    assert house.events()[-1] == ("key.reveal", key, {"token": token.id})
    with pytest.raises(AlreadyRevealed, match=rf"{token.hint} of {key} was revealed before"):
        house.ring.reveal(key)


@pytest.mark.parametrize(
    ("type", "mode"),
    [(KeyType.SECRET, Mode.TEST), (KeyType.PUBLISHABLE, Mode.TEST), (KeyType.PUBLISHABLE, Mode.LIVE)],
)
def test_other_tokens_are_revealed_again_and_again(house: House, type: KeyType, mode: Mode) -> None:
    """They are no secrets of weight, and no event tells of it."""
    house.ring.approve(house.workspace)
    before = house.all_events()
    assert house.ring.reveal(house.key(type, mode)) == house.ring.reveal(house.key(type, mode))
    assert house.all_events() == before


def test_a_store_that_fails_keeps_the_token(house: House) -> None:
    """If the sealed copy cannot be destroyed, the token is not shown; and it can be revealed later."""
    key = house.live()

    def fail() -> None:
        raise StoreUnavailable("the store is down")

    house.store.meanwhile.append(fail)
    with pytest.raises(StoreUnavailable):
        house.ring.reveal(key)
    assert house.judge(house.ring.reveal(key)) is None


def rewrite(house: House, key: str, **changed: object) -> None:
    """Change the current token of *key* behind the keyring's back."""
    old = house.ring.key(key)
    current = replace(old.tokens[0], **changed)  # type: ignore[arg-type]
    MemoryStore.commit(
        house.store,
        Batch(keys=((replace(old, tokens=(current, *old.tokens[1:]), version=old.version + 1), old.version),)),
    )


def test_a_sealed_copy_that_was_moved_is_not_revealed(house: House) -> None:
    """Whoever swaps sealed copies between rows gets neither token, and destroys none."""
    one, other = house.live(), issue(house, mode=Mode.LIVE).id
    sealed = tokens(house, other)[0].sealed
    rewrite(house, one, sealed=sealed)
    with pytest.raises(UnreadableRecord, match="belongs to another token"):
        house.ring.reveal(one)
    assert tokens(house, one)[0].sealed == sealed


def test_a_digest_of_another_token_is_not_revealed(house: House) -> None:
    """A token whose digest is not the stored one would not open anything, so it is not handed out."""
    key = house.live()
    rewrite(house, key, digest=bytes(32))
    with pytest.raises(UnreadableRecord, match="not the token that its digest stands for"):
        house.ring.reveal(key)


def test_each_token_has_one_sealed_copy_and_only_while_it_may_be_shown(house: House) -> None:
    """A predecessor, an ended and a revoked token are never shown again, so nothing is kept to show."""
    key = house.live()
    house.ring.roll(key)
    house.ring.roll(key, 0)
    house.ring.reissue(key, because="leaked")
    house.ring.roll(key, 60)
    assert [token.sealed is not None for token in tokens(house, key)] == [True, False, False, False, False]
    house.ring.revoke(key, because="leaked")
    assert [token.sealed for token in tokens(house, key)] == [None] * 5


# Rolling


def test_roll_with_grace(house: House) -> None:
    """The new token works at once, the old one until the very end of its grace."""
    key = house.live()
    house.ring.restrict(key, permissions=["a"])
    old = house.ring.reveal(key)
    rolled = house.ring.roll(key)
    new = house.ring.reveal(key)
    assert (rolled.name, rolled.permissions, rolled.created_at) == ("live secret key", ("a",), START)
    assert rolled.tokens[1].expires_at == START + DAY
    assert (house.judge(old), house.judge(new)) == (None, None)
    assert (house.judge(old, requires="b"), house.judge(new, requires="b")) == (Reason.PERMISSIONS, Reason.PERMISSIONS)
    house.clock.now = START + DAY - 0.001
    assert house.judge(old) is None
    house.clock.now = START + DAY
    assert (house.judge(old), house.judge(new)) == (Reason.EXPIRED, None)
    assert house.events()[-2] == ("key.roll", key, {"token": new.id, "before": old.id, "grace": DAY})


def test_a_grace_is_never_cut_short(house: House) -> None:
    """Within a second, the end of a grace is rounded up."""
    key = house.key()
    old = house.ring.reveal(key)
    house.clock.now = START + 0.7
    assert house.ring.roll(key, timedelta(minutes=1)).tokens[1].expires_at == START + 61
    house.clock.now = START + 60.7
    assert house.judge(old) is None


@pytest.mark.parametrize(("profile", "reason"), [(DEFAULT, None), (FLUVEO, None), (FALU, Reason.EXPIRED)])
def test_the_profile_says_how_long(profile: Profile, reason: Reason | None) -> None:
    """Under FALU the old token dies at once."""
    house = House(profile)
    old = house.ring.reveal(house.key())
    house.ring.roll(house.key())
    assert house.judge(old) is reason
    assert house.judge(house.ring.reveal(house.key())) is None


@pytest.mark.parametrize("grace", [0, timedelta(0)])
def test_roll_without_grace(house: House, grace: int | timedelta) -> None:
    """Without grace every predecessor dies now, whatever any clock says."""
    key = house.key()
    olds = [house.ring.reveal(key)]
    house.ring.roll(key, 60)
    olds.append(house.ring.reveal(key))
    house.clock.now += 1
    house.ring.roll(key, grace)
    house.clock.now = START - DAY
    assert [house.judge(old) for old in olds] == [Reason.EXPIRED, Reason.EXPIRED]
    assert [(token.ended_at, token.ended_as) for token in tokens(house, key)[1:]] == [(START + 1, Ending.ROLLED)] * 2
    assert house.judge(house.ring.reveal(key)) is None


def test_one_predecessor_at_a_time(house: House) -> None:
    """While a predecessor lives, another roll is refused and says what to do; afterwards it is not."""
    key = house.key()
    house.ring.roll(key, 60)
    before = house.ring.key(key)
    house.clock.now += 59.9
    with pytest.raises(RollPending, match="end_grace ends it, and so does a roll with a grace of 0"):
        house.ring.roll(key)
    assert house.ring.key(key) == before
    house.clock.now = START + 60
    assert len(house.ring.roll(key).tokens) == 3


def test_a_clock_that_steps_back_revives_nothing(house: House) -> None:
    """A token whose grace was over at the next change is dead for good."""
    key = house.key()
    old = house.ring.reveal(key)
    house.ring.roll(key, 60)
    house.clock.now += 60
    house.ring.rename(key, "other")
    house.clock.now = START
    assert house.judge(old) is Reason.EXPIRED
    assert tokens(house, key)[1].ended_as is Ending.ROLLED
    assert len(house.ring.roll(key, 60).tokens) == 3


def test_a_predecessor_never_outlives_what_it_has(house: House) -> None:
    """A grace does not lengthen the life of a token that had an end already."""
    key = house.key()
    rewrite(house, key, expires_at=START + 5)
    assert house.ring.roll(key, 60).tokens[1].expires_at == START + 5


@pytest.mark.parametrize("grace", [-1, timedelta(seconds=-1), timedelta(milliseconds=1), 1.5, True, "60", LATEST + 1])
def test_a_grace_is_whole_seconds(house: House, grace: int) -> None:
    """Half a second is neither 0, which would end the old token now, nor 1."""
    with pytest.raises(ConfigurationError, match="whole number of seconds"):
        house.ring.roll(house.key(), grace)


def test_end_grace(house: House) -> None:
    """It ends the predecessor and leaves the current token; ending it again changes nothing."""
    key = house.key()
    old = house.ring.reveal(key)
    house.ring.roll(key, 60)
    house.clock.now += 1
    ended = house.ring.end_grace(key)
    assert (house.judge(old), house.judge(house.ring.reveal(key))) == (Reason.EXPIRED, None)
    assert house.events()[-1] == ("key.end_grace", key, {"ended": [old.id]})
    assert house.ring.end_grace(key) == ended
    assert house.events()[-1][0] == "key.end_grace" and house.events()[-2][0] == "key.roll"
    assert house.ring.end_grace(house.key(KeyType.PUBLISHABLE)).version == 1


def test_end_grace_does_not_trust_the_clock(house: House) -> None:
    """A grace that is over here may still run on a host whose clock is behind, so it is ended for all."""
    key = house.key()
    house.ring.roll(key, 60)
    house.clock.now += 61
    assert house.ring.end_grace(key).tokens[1].ended_at == START + 61


# Emergencies


def test_reissue(house: House) -> None:
    """Every token of a compromised key dies, as revoked; a new one waits, with all that the key was bound to."""
    key = house.live()
    olds = [house.ring.reveal(key)]
    house.ring.roll(key, 60)
    olds.append(house.ring.reveal(key))
    reissued = house.ring.reissue(key, because="found in a public repository")
    new = house.ring.reveal(key)
    assert [house.judge(old) for old in olds] == [Reason.REVOKED] * 2
    assert house.judge(new) is None
    assert [token.ended_as for token in reissued.tokens] == [None, Ending.REVOKED, Ending.REVOKED]
    assert house.events()[-2] == (
        "key.reissue",
        key,
        {"because": "found in a public repository", "token": new.id, "ended": [olds[1].id, olds[0].id]},
    )


def test_a_reissue_leaves_older_endings_alone(house: House) -> None:
    """A token that was rolled away and died is not said to have been compromised."""
    key = house.key()
    house.ring.roll(key, 0)
    house.ring.reissue(key, because="leaked")
    assert [token.ended_as for token in tokens(house, key)] == [None, Ending.REVOKED, Ending.ROLLED]


def test_a_repeated_reissue_keeps_an_unseen_live_secret(house: House) -> None:
    """Whoever repeats it because the answer was lost gets the token that waits, and writes no second event."""
    key = house.live()
    reissued = house.ring.reissue(key, because="leaked")
    assert house.ring.reissue(key, because="leaked") == reissued
    house.ring.reveal(key)
    assert len(house.ring.reissue(key, because="leaked again").tokens) == 3


def test_a_live_secret_that_was_never_reissued_is_not_spared(house: House) -> None:
    """That nobody revealed it does not help if database and master secret are what leaked."""
    key = house.live()
    assert len(house.ring.reissue(key, because="database leaked").tokens) == 2
    assert len(house.ring.roll(key, 0).tokens) == 3
    assert len(house.ring.reissue(key, because="database leaked").tokens) == 4


def test_a_repeated_reissue_replaces_what_may_have_been_seen(house: House) -> None:
    """A test token leaves no trace when it is shown, so nobody knows that it is safe."""
    key = house.key()
    house.ring.reissue(key, because="leaked")
    assert len(house.ring.reissue(key, because="leaked").tokens) == 3


def test_revoke(house: House) -> None:
    """All tokens of a key die with it, and stay as tombstones; revoking it again changes nothing."""
    key = house.live()
    olds = [house.ring.reveal(key)]
    house.ring.roll(key)
    olds.append(house.ring.reveal(key))
    digests = [token.digest for token in tokens(house, key)]
    revoked = house.ring.revoke(key, because="contract ended")
    assert revoked.revoked_at == START
    assert [house.judge(old) for old in olds] == [Reason.REVOKED] * 2
    assert [token.digest for token in revoked.tokens] == digests
    house.clock.now += 1
    assert house.ring.revoke(key, because="again") == revoked
    assert house.events()[-1] == ("key.revoke", key, {"because": "contract ended"})


@pytest.mark.parametrize("verb", CHANGES.keys() - {"revoke"})
def test_nothing_is_ever_unrevoked(house: House, verb: str) -> None:
    """A revoked key refuses every verb but revoke."""
    house.ring.revoke(house.key(), because="leaked")
    before = house.ring.key(house.key())
    with pytest.raises(KeyRevoked, match="nothing is ever un-revoked"):
        CHANGES[verb](house.ring, house.key())
    assert house.ring.key(house.key()) == before


# Other changes


def test_restrict(house: House) -> None:
    """What is named is set or cleared, what is not named stays."""
    key = house.key()
    token = house.ring.reveal(key)
    house.ring.restrict(key, permissions=["b", "a:read"], networks=["10.0.0.0/8"])
    assert (house.judge(token, "10.1.1.1"), house.judge(token, "11.1.1.1")) == (None, Reason.NETWORK)
    assert house.ring.restrict(key, permissions=["b", "a"]).networks == ("10.0.0.0/8",)
    house.ring.restrict(key, permissions=["b", "a:read"])
    cleared = house.ring.restrict(key, networks=None)
    assert (cleared.permissions, cleared.networks) == (("a:read", "b"), None)
    assert house.events()[-1] == ("key.restrict", key, {"networks": {"before": ["10.0.0.0/8"], "after": None}})
    assert house.ring.restrict(key, permissions=None, networks=KEEP).permissions is None
    assert house.judge(token, requires="c") is None


def test_restrict_without_a_restriction(house: House) -> None:
    """Naming neither is a slip, not a wish."""
    with pytest.raises(ConfigurationError, match="name permissions, networks or both; None clears"):
        house.ring.restrict(house.key())


def test_rename_and_expiry(house: House) -> None:
    """Both tell what was and what is."""
    key = house.key()
    assert house.ring.rename(key, "reports").name == "reports"
    assert house.ring.set_expiry(key, START + 60).expires_at == START + 60
    assert house.ring.set_expiry(key, None).expires_at is None
    assert [detail for _, _, detail in house.events()[-3:]] == [
        {"before": "test secret key", "after": "reports"},
        {"before": None, "after": START + 60},
        {"before": START + 60, "after": None},
    ]


@pytest.mark.parametrize("verb", CHANGES.keys() - {"reveal", "roll", "reissue"})
def test_what_changes_nothing_writes_nothing(house: House, verb: str) -> None:
    """A repeated change is no second event, and no new version."""
    CHANGES[verb](house.ring, house.key())
    before = house.ring.key(house.key()), house.all_events()
    CHANGES[verb](house.ring, house.key())
    assert (house.ring.key(house.key()), house.all_events()) == before


def test_an_expired_key(house: House) -> None:
    """It makes and shows no token, which would be dead; a later expiry makes it usable, and it can be revoked."""
    key = house.key()
    token = house.ring.reveal(key)
    house.ring.set_expiry(key, START + 60)
    house.clock.now = START + 60
    for verb in ("reveal", "roll"):
        with pytest.raises(KeyExpired, match="set_expiry gives it more time"):
            CHANGES[verb](house.ring, key)
    house.ring.set_expiry(key, START + 120)
    assert house.ring.reveal(key) == token
    house.clock.now = START + 120
    assert house.ring.revoke(key, because="over").revoked_at == START + 120


# Who wins


@pytest.mark.parametrize("verb", CHANGES.keys() - {"reveal"})
@pytest.mark.parametrize("other", ["rename", "roll", "revoke"])
def test_two_changes_of_one_key(house: House, verb: str, other: str) -> None:
    """One wins; the other lands after it if it is an emergency, and else is told so and has changed nothing."""
    key = house.key()
    house.ring.rename(key, "before")  # so that no change is one that changes nothing
    house.ring.roll(key, 60) if verb == "end_grace" else None
    rival = house.ring.acting("bob")
    act = {"rename": lambda: rival.rename(key, "rival"), "roll": lambda: rival.roll(key, 0)}
    house.store.meanwhile.append(act.get(other, lambda: rival.revoke(key, because="rival")))
    before = len(house.all_events())
    if verb == "revoke":
        assert house.ring.revoke(key, because="mine").revoked_at == START
        assert len(house.all_events()) == before + (1 if other == "revoke" else 2)
    elif verb in ("end_grace", "reissue") and other != "revoke":
        CHANGES[verb](house.ring, key)
        assert [event.actor for event in house.all_events()[before:]][:1] == ["bob"]
        assert all(token.ended_at is not None for token in tokens(house, key)[1:])
    else:
        with pytest.raises(KeyRevoked if verb in ("end_grace", "reissue") else Conflict):
            CHANGES[verb](house.ring, key)
        assert [event.actor for event in house.all_events()[before:]] == ["bob"]


def test_an_event_elsewhere_is_no_conflict(house: House) -> None:
    """Every change moves the chain of the workspace; that alone stops nobody, however often it happens."""
    one, other = house.key(), house.key(KeyType.PUBLISHABLE)
    for verb in ("rename", "roll", "restrict", "set_expiry", "end_grace", "reissue", "revoke"):
        house.store.meanwhile[:] = [partial(house.ring.rename, other, f"{verb} {n}") for n in range(3)]
        CHANGES[verb](house.ring, one)
        assert house.store.meanwhile == []
    assert house.ring.key(one).revoked_at == START


def test_a_new_key_beside_other_changes(house: House) -> None:
    """Issuing is stopped by nothing but a change of the workspace's own state."""
    house.store.meanwhile.append(lambda: house.ring.rename(house.key(), "other"))
    issue(house)
    house.store.meanwhile.append(lambda: house.ring.suspend(house.workspace))
    with pytest.raises(Conflict):
        issue(house)
    assert len(list(house.ring.keys(house.workspace))) == 3


def test_a_suspension_in_the_way(house: House) -> None:
    """Who changes a key of a workspace that is suspended or approved meanwhile looks again."""
    house.store.meanwhile.append(lambda: house.ring.approve(house.workspace))
    with pytest.raises(Conflict):
        house.ring.rename(house.key(), "other")
    house.store.meanwhile.append(lambda: house.ring.suspend(house.workspace))
    assert house.ring.revoke(house.key(), because="leaked").revoked_at == START


def test_two_approvals(house: House) -> None:
    """Together they make one live pair; a suspension meanwhile is told to the approver."""
    house.store.meanwhile.append(lambda: house.ring.approve(house.workspace))
    house.ring.approve(house.workspace)
    assert len(list(house.ring.keys(house.workspace, Mode.LIVE))) == 2
    other = house.ring.provision("Beta").id
    house.store.meanwhile.append(lambda: house.ring.suspend(other))
    with pytest.raises(Conflict):
        house.ring.approve(other)


def test_a_suspension_never_loses(house: House) -> None:
    """It lands after whatever was quicker; a resumption does not override it."""
    house.store.meanwhile.append(lambda: house.ring.approve(house.workspace))
    assert house.ring.suspend(house.workspace).approved_at == START

    def suspend_anew() -> None:
        house.ring.resume(house.workspace)
        house.clock.now += 1
        house.ring.suspend(house.workspace)

    house.store.meanwhile.append(suspend_anew)
    with pytest.raises(Conflict):
        house.ring.resume(house.workspace)
    assert house.ring.workspace(house.workspace).suspended_at == START + 1


def test_two_reveals_of_a_live_secret(house: House) -> None:
    """One gets the token; the other is told that it was revealed."""
    key = house.live()
    winners: list[Token] = []
    house.store.meanwhile.append(lambda: winners.append(house.ring.reveal(key)))
    with pytest.raises(AlreadyRevealed):
        house.ring.reveal(key)
    assert [house.judge(token) for token in winners] == [None]


def test_a_reveal_beside_other_changes(house: House) -> None:
    """A rename does not stop it; another token in the place of the one to be revealed does."""
    key = house.live()
    house.store.meanwhile.append(lambda: house.ring.rename(key, "other"))
    assert house.judge(house.ring.reveal(key)) is None
    house.ring.roll(key, 60)
    house.store.meanwhile.append(lambda: house.ring.roll(key, 0))
    with pytest.raises(Conflict):
        house.ring.reveal(key)
    assert house.judge(house.ring.reveal(key)) is None


@pytest.mark.parametrize("mode", Mode)
def test_two_reissues_make_one_token(house: House, mode: Mode) -> None:
    """The one that comes second finds the compromised token dead, as it wished, and leaves it at that."""
    house.ring.approve(house.workspace)
    key = house.key(mode=mode)
    house.store.meanwhile.append(lambda: house.ring.acting("bob").reissue(key, because="leaked"))
    assert len(house.ring.reissue(key, because="leaked").tokens) == 2
    assert [event.actor for event in house.all_events() if event.action == "key.reissue"] == ["bob"]


def test_a_conflict_that_nobody_caused(house: House) -> None:
    """A store that conflicts although nothing moved is not asked for ever."""

    def conflict() -> None:
        raise Conflict("for no reason")

    house.store.meanwhile[:] = [conflict] * 3
    with pytest.raises(Conflict):
        house.ring.revoke(house.key(), because="leaked")
    assert len(house.store.meanwhile) == 2


# What a store hangs on


def test_the_store_learns_the_secret_with_its_first_token() -> None:
    """The commit that makes a token under a new secret names it; one that makes none does not."""
    old = MasterSecrets.parse(one := b64encode(bytes(range(32))).decode())
    both = MasterSecrets.parse(f"{b64encode(bytes(range(1, 33))).decode()},{one}")
    house = House(secrets=old)
    assert house.store.properties().fingerprints == old.fingerprints
    ring = Keyring(house.store, both, clock=house.clock, actor="ann")
    ring.rename(house.key(), "other")
    assert house.store.properties().fingerprints == old.fingerprints
    ring.roll(house.key())
    assert house.store.properties() == Properties(fingerprints=both.fingerprints, version=3)
    version = house.store.properties().version
    ring.roll(house.key(), 0)
    assert house.store.properties().version == version
    assert ring.reveal(house.key(KeyType.PUBLISHABLE)).id
    with pytest.raises(InvalidSecret):
        house.ring.reveal(house.key())


def test_two_hosts_that_name_a_new_secret() -> None:
    """Whoever comes second finds it named, and goes on."""
    newest = MasterSecrets.generate()
    store = CrowdedStore()
    one, other = (Keyring(store, newest, actor=actor) for actor in ("ann", "bob"))
    first = Keyring(store, newest, actor="ann")
    workspaces = []
    assert store.properties().fingerprints == ()
    workspaces.append(first.provision("Acme").id)
    bare = store.properties()
    MemoryStore.commit(
        store, Batch(properties=(replace(bare, fingerprints=(), version=bare.version + 1), bare.version))
    )
    elsewhere = other.provision("Beta").id
    bare = store.properties()
    MemoryStore.commit(
        store, Batch(properties=(replace(bare, fingerprints=(), version=bare.version + 1), bare.version))
    )
    store.meanwhile.append(lambda: other.approve(elsewhere))
    one.approve(workspaces[0])
    assert store.properties().fingerprints == newest.fingerprints


def test_a_tombstone_does_not_hold_a_dropped_secret(house: House) -> None:
    """A dead token hangs on a secret that nobody needs any more; changing its key does not call for it again."""
    key = house.key()
    house.ring.roll(key, 0)
    rewritten = house.ring.key(key)
    dead = replace(rewritten.tokens[1], secret="0" * 16)
    changed = replace(rewritten, tokens=(rewritten.tokens[0], dead), version=rewritten.version + 1)
    MemoryStore.commit(house.store, Batch(keys=((changed, rewritten.version),)))
    house.ring.roll(key, 0)
    assert house.store.properties().fingerprints == SECRETS.fingerprints


def test_a_read_only_store(house: House) -> None:
    """The store's refusal is passed on, and nothing is written."""
    properties = house.store.properties()
    MemoryStore.commit(
        house.store,
        Batch(properties=(replace(properties, read_only=True, version=properties.version + 1), properties.version)),
    )
    with pytest.raises(ReadOnlyStore):
        house.ring.rename(house.key(), "other")


def test_a_use_is_no_change(house: House) -> None:
    """That a token was used meanwhile hinders nobody."""
    key = house.key()
    used = [Use(tokens(house, key)[0].id, START)]
    house.store.meanwhile.append(lambda: house.store.record_uses(used))
    house.ring.rename(key, "other")
    assert tokens(house, key)[0].last_used_at == START


# Silence


def test_each_head_is_logged(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever keeps the log can hold the chain to it; nothing in it is secret, and a refused change is not in it."""
    key = house.live()
    with caplog.at_level(logging.INFO, "doorkey.audit"):
        token = house.ring.reveal(key)
        house.store.meanwhile.append(lambda: house.ring.rename(key, "other"))
        with pytest.raises(Conflict):
            house.ring.set_expiry(key, START + 60)
    events = house.all_events()[-2:]
    assert [record.getMessage() for record in caplog.records] == [
        f"workspace={house.workspace} head={event.sequence}:{event.hash.hex()} "
        f'action={event.action} key={key} actor="ann"'
        for event in events
    ]
    assert token.expose() not in caplog.text


def test_no_secret_in_what_is_returned_or_written(house: House) -> None:
    """Keys, workspaces, batches and events show neither a token nor a digest nor a sealed copy."""
    key = house.live()
    for change in CHANGES.values():
        change(house.ring, key)
    stored = house.ring.key(key)
    shown = repr([stored, house.ring.workspace(house.workspace), house.store.commits, house.events(), house.ring])
    for token in stored.tokens:
        assert token.digest.hex() not in shown and repr(token.digest) not in shown
    assert all(repr(batch_token.sealed) not in shown for batch_token in tokens(house, house.key()))


def test_a_foreign_token_is_never_accepted(house: House) -> None:
    """A well-formed token that nobody issued opens nothing."""
    assert house.judge(mint(KeyType.SECRET, Mode.TEST)) is Reason.UNKNOWN


def windows(token: Token) -> set[bytes]:
    """Each run of 8 characters of what is secret in *token*."""
    body = token.expose()[-36:].encode()
    return {body[start : start + 8] for start in range(len(body) - 7)}


def test_no_traceback_shows_a_token(house: House) -> None:
    """A report that holds the locals of all frames, the store's included, holds neither token nor digest nor seal."""
    key = house.live()

    def fail() -> None:
        raise StoreUnavailable("the store is down")

    (stored,) = tokens(house, key)
    assert stored.sealed is not None
    token = SECRETS.unseal(
        stored.sealed, secret=stored.secret, key=key, id=stored.id, type=KeyType.SECRET, mode=Mode.LIVE
    )
    hidden = [window.decode() for window in windows(token)] + [repr(stored.digest), repr(stored.sealed)]
    for verb in ("reveal", "roll"):
        house.store.meanwhile.append(fail)
        with pytest.raises(StoreUnavailable) as caught:
            CHANGES[verb](house.ring, key)
        report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        report.stack = traceback.StackSummary.from_list(
            [frame for frame in report.stack if "tests" not in frame.filename]
        )
        shown = "".join(report.format())
        assert "in _write" in shown and "properties = Properties" in shown
        assert not any(text in shown for text in hidden)


# A thief of the database


class Stolen:
    """A store in a file with some life in it, all tokens that it ever issued, and what a thief of the files sees."""

    def __init__(self, folder: Path) -> None:
        self.store = SQLiteStore.create(folder / "keys.db")
        self.ring = Keyring(self.store, SECRETS, actor="ann")
        self.verifier = Verifier(self.store, SECRETS.digester())
        self.workspace = self.ring.approve(self.ring.provision("Acme").id).id
        self.revealed: list[Token] = []
        for _ in range(8):
            for mode in Mode:
                for type in KeyType:
                    self.live(self.ring.issue(self.workspace, type=type, mode=mode, name="x").id)
        self.files = b"".join(path.read_bytes() for path in folder.iterdir())

    def live(self, key: str) -> None:
        """Roll, reissue and perhaps revoke a key, each token revealed, and leave one that waits."""
        self.revealed.append(self.ring.reveal(key))
        self.ring.roll(key, 60)
        self.revealed.append(self.ring.reveal(key))
        self.ring.reissue(key, because="leaked")
        self.revealed.append(self.ring.reveal(key))
        if len(self.revealed) % 2:
            self.ring.revoke(key, because="leaked")
        else:
            self.ring.roll(key, 0)


@pytest.fixture(scope="module")
def stolen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stolen]:
    stolen = Stolen(tmp_path_factory.mktemp("stolen"))
    with closing(stolen.store):
        yield stolen


def test_the_files_hold_no_token(stolen: Stolen) -> None:
    """Database and log hold no run of 8 characters of any token, nor of its base64 in a header (B1)."""
    assert len(stolen.revealed) == 96
    assert all(token.id.encode() in stolen.files for token in stolen.revealed), (
        "ids are public, so this looks at the right files"
    )
    runs = set(re.findall(rb"(?=([0-9A-Za-z]{8}))", stolen.files))
    assert not any(runs & windows(token) for token in stolen.revealed)
    assert not any(basic(token).removeprefix("Basic ").encode()[20:40] in stolen.files for token in stolen.revealed)


def test_nothing_stored_is_a_credential(stolen: Stolen) -> None:
    """Every stored value, as text, hex or base64, is turned away (B9)."""
    for key in stolen.ring.keys(stolen.workspace):
        for token in key.tokens:
            for value in (token.digest, token.sealed or b"", token.id.encode(), token.secret.encode(), key.id.encode()):
                for text in (value.decode("latin-1"), value.hex(), b64encode(value).decode()):
                    for authorization in (basic(text), bearer(text)):
                        assert isinstance(stolen.verifier.verify(authorization), Denied)


def test_sealed_copies_cannot_be_moved(stolen: Stolen) -> None:
    """Swapped between rows, neither copy opens, and neither is destroyed by the attempt (B10)."""
    one, other = (
        stolen.ring.issue(stolen.workspace, type=KeyType.SECRET, mode=Mode.LIVE, name="swapped") for _ in range(2)
    )
    with closing(sqlite3.connect(stolen.store.path)) as thief, thief:
        for key, sealed in ((one, other.tokens[0].sealed), (other, one.tokens[0].sealed)):
            thief.execute("UPDATE tokens SET sealed = ? WHERE id = ?", (sealed, key.tokens[0].id))
    for key in (one, other):
        with pytest.raises(UnreadableRecord):
            stolen.ring.reveal(key.id)
        assert stolen.ring.key(key.id).tokens[0].sealed is not None
