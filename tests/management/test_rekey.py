"""The rotation of a master secret: what can be moved is moved, the rest is told, and no token is refused meanwhile."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from doorkey.core.errors import ConfigurationError, InvalidSecret, NotFound, ReadOnlyStore, UnreadableRecord
from doorkey.core.model import Decision, Denied, Granted, KeyType, Mode, Reason, Requirement
from doorkey.core.tokens import Token
from doorkey.door import Doorkey, assemble
from doorkey.management import audit
from doorkey.management.keyring import Keyring
from doorkey.management.moving import set_read_only
from doorkey.management.rekey import Hanging, Rekeyed, hanging, rekey
from doorkey.management.secrets import MasterSecrets
from doorkey.storage.memory import MemoryStore
from doorkey.storage.protocol import Batch, Key, Properties, Store
from doorkey.storage.sqlite import SQLiteStore
from doorkey.testing import Clock, bearer

OLD, NEW, THIRD = (os.urandom(32) for _ in range(3))
[OLD_NAME], [NEW_NAME], [THIRD_NAME] = (MasterSecrets([secret]).fingerprints for secret in (OLD, NEW, THIRD))


def host(store: Store, *secrets: bytes, clock: Clock | None = None) -> Doorkey:
    """A process on some host, which has these secrets."""
    door = assemble(store, MasterSecrets(secrets), clock=clock or Clock())
    return replace(door, keyring=door.keyring.acting("ann@acme.example"))


def rotate(door: Doorkey, **others: Any) -> Rekeyed:
    """What `doorkey rekey` does on a host."""
    return rekey(door.keyring, door.store, door.secrets, **{"clock": door.keyring._clock, **others})


def judge(door: Doorkey, token: Token) -> Decision:
    return door.verifier.verify(bearer(token), requires=Requirement.ANY_KEY)


def issue(door: Doorkey, workspace: str, mode: Mode = Mode.TEST, type: KeyType = KeyType.SECRET) -> str:
    return door.keyring.issue(workspace, type=type, mode=mode, name="reports").id


def change(door: Doorkey, key: str, **changes: Any) -> None:
    """Change the current token of a key behind the keyring's back."""
    old = door.keyring.key(key)
    tokens = (replace(old.tokens[0], **changes), *old.tokens[1:])
    door.store.commit(Batch(keys=((replace(old, tokens=tokens, version=old.version + 1), old.version),)))


class Watched(MemoryStore):
    """A store in which something happens, once, before a commit of the properties."""

    happens: Callable[[], object] | None = None

    def commit(self, batch: Batch) -> None:
        if batch.properties and self.happens:
            happens, self.happens = self.happens, None
            happens()
        super().commit(batch)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def old(clock: Clock) -> Doorkey:
    """A host before the rotation, on a new store."""
    return host(Watched(Properties(fingerprints=(OLD_NAME,))), OLD, clock=clock)


@pytest.fixture
def new(old: Doorkey, clock: Clock) -> Doorkey:
    """A host on the same store on which the new secret is the first."""
    return host(old.store, NEW, OLD, clock=clock)


@pytest.fixture
def workspace(old: Doorkey) -> str:
    """The id of an approved workspace without keys of its own but the two pairs."""
    return old.keyring.approve(old.keyring.provision("Acme").id).id


# One key


def test_a_key_is_moved(old: Doorkey, new: Doorkey, workspace: str) -> None:
    """The token stays the same, is found and revealed by whoever has the new secret alone, and an event tells of it."""
    key = issue(old, workspace, Mode.LIVE)
    before, events = old.keyring.key(key), old.keyring.workspace(workspace).events
    after = new.keyring.rekey(key)
    assert after == new.keyring.key(key)
    [token], [former] = after.tokens, before.tokens
    assert token == replace(former, digest=token.digest, sealed=token.sealed, secret=NEW_NAME)
    assert len({token.digest, former.digest, token.sealed, former.sealed}) == 4
    assert after == replace(before, tokens=(token,), version=before.version + 1)
    [event] = new.store.events(workspace, after=events)
    assert (event.actor, event.action, event.key) == ("ann@acme.example", "key.rekey", key)
    assert event.detail == f'{{"after":"{NEW_NAME}","before":"{OLD_NAME}","token":"{token.id}"}}'
    assert audit.verify(new.store, workspace) == ()
    revealed = new.keyring.reveal(key)
    assert isinstance(judge(new, revealed), Granted)
    assert new.store.properties().fingerprints == (NEW_NAME, OLD_NAME)


def test_a_key_that_needs_nothing(old: Doorkey, new: Doorkey, workspace: str) -> None:
    """One under the newest secret, one without a sealed copy and a revoked one stay as they are, and no event tells."""
    moved, revealed, revoked = (issue(old, workspace, Mode.LIVE) for _ in range(3))
    new.keyring.rekey(moved)
    old.keyring.reveal(revealed)
    old.keyring.revoke(revoked, because="left")
    for key in (moved, revealed, revoked):
        before = new.keyring.key(key), new.keyring.workspace(workspace)
        assert new.keyring.rekey(key) == before[0]
        assert (new.keyring.key(key), new.keyring.workspace(workspace)) == before


def test_a_key_that_cannot_be_moved(old: Doorkey, new: Doorkey, workspace: str) -> None:
    """A broken seal, another token's, a secret that is not here, no such key, no actor: nothing is written."""
    broken, other, foreign, fine = (issue(old, workspace) for _ in range(4))
    change(old, broken, sealed=b"\x01" + bytes(60))
    change(old, other, digest=bytes(32))
    change(old, foreign, secret=THIRD_NAME)
    before = new.keyring.workspace(workspace), list(new.keyring.keys(workspace))
    for key, error in ((broken, UnreadableRecord), (other, UnreadableRecord), (foreign, InvalidSecret)):
        with pytest.raises(error):
            new.keyring.rekey(key)
    with pytest.raises(NotFound):
        new.keyring.rekey("key_" + "0" * 16)
    with pytest.raises(ConfigurationError, match="acting"):
        Keyring(new.store, new.secrets).rekey(fine)
    assert (new.keyring.workspace(workspace), list(new.keyring.keys(workspace))) == before


def test_whoever_is_quicker_is_waited_for(old: Doorkey, new: Doorkey, workspace: str) -> None:
    """A key that is renamed at the same time is renamed and moved, in whichever order."""
    key = issue(old, workspace)
    assert isinstance(new.store, Watched)
    new.store.happens = lambda: old.keyring.rename(key, "exports")
    after = new.keyring.rekey(key)
    assert (after.name, after.tokens[0].secret) == ("exports", NEW_NAME)


# All keys


def test_everything_that_is_sealed_moves(old: Doorkey, new: Doorkey, workspace: str) -> None:
    """Test and publishable tokens, and live secrets that nobody has seen: afterwards the old secret can be dropped."""
    other = old.keyring.suspend(old.keyring.provision("Sleepy").id).id
    tokens = {key.id: old.keyring.reveal(key.id) for key in old.keyring.keys(other)}
    steps: list[tuple[int, int]] = []
    assert rotate(new, progress=lambda done, total: steps.append((done, total))) == Rekeyed(
        NEW_NAME, 6, (), (OLD_NAME,)
    )
    assert steps == [(done, 6) for done in range(1, 7)]
    assert new.store.properties().fingerprints == (NEW_NAME,)
    after = host(new.store, NEW)
    after.keyring.resume(other)
    for id, token in tokens.items():
        assert after.keyring.reveal(id).expose() == token.expose()
        assert isinstance(judge(after, token), Granted)
    for key in after.keyring.keys(workspace):
        assert isinstance(judge(after, after.keyring.reveal(key.id)), Granted)
    assert [audit.verify(new.store, id) for id in (workspace, other)] == [(), ()]


def test_what_is_done_is_done(old: Doorkey, new: Doorkey, workspace: str) -> None:
    """A second time nothing is written, and nothing is dropped twice."""
    rotate(new)
    before = new.keyring.workspace(workspace), new.store.properties()
    assert rotate(new) == Rekeyed(NEW_NAME, 0, (), ())
    assert (new.keyring.workspace(workspace), new.store.properties()) == before


def test_what_is_left_is_told(old: Doorkey, new: Doorkey, workspace: str, clock: Clock) -> None:
    """A live secret that was revealed must be rolled, its grace awaited; then nothing is left."""
    key = issue(old, workspace, Mode.LIVE)
    token = old.keyring.reveal(key)
    left = Hanging(OLD_NAME, tokens=1, roll=(key,))
    assert rotate(new) == Rekeyed(NEW_NAME, 5 - 1, (left,), ())
    assert new.store.properties().fingerprints == (NEW_NAME, OLD_NAME)
    new.keyring.roll(key, grace=60)
    until = int(clock.now) + 60
    assert rotate(new).left == (Hanging(OLD_NAME, tokens=1, until=until),)
    assert isinstance(judge(new, token), Granted)
    clock.advance(60)
    assert rotate(new) == Rekeyed(NEW_NAME, 0, (), (OLD_NAME,))
    after = host(new.store, NEW, clock=clock)
    assert isinstance(judge(after, after.keyring.reveal(key)), Granted)


def test_dead_tokens_do_not_count(old: Doorkey, new: Doorkey, workspace: str, clock: Clock) -> None:
    """Revoked, expired, ended, rolled long ago: they are refused before and after, at last as unknown."""
    revoked, expired, ended, rolled = (issue(old, workspace, Mode.LIVE) for _ in range(4))
    tokens = {key: old.keyring.reveal(key) for key in (revoked, expired, ended, rolled)}
    old.keyring.revoke(revoked, because="left")
    old.keyring.set_expiry(expired, int(clock.now) + 5)
    for key in (ended, rolled):
        new.keyring.roll(key, grace=5)
    new.keyring.end_grace(ended)
    clock.advance(5)
    assert rotate(new) == Rekeyed(NEW_NAME, 4, (), (OLD_NAME,))
    verdicts = [judge(new, token) for token in tokens.values()]
    assert verdicts == [Denied(Reason.REVOKED), *[Denied(Reason.EXPIRED)] * 3]
    after = host(new.store, NEW, clock=clock)
    for token in tokens.values():
        assert judge(after, token) == Denied(Reason.UNKNOWN)
    # An expired key that is given more time needs a new token, and gets one.
    after.keyring.set_expiry(expired, None)
    after.keyring.roll(expired)
    assert isinstance(judge(after, after.keyring.reveal(expired)), Granted)


def test_what_is_stuck_is_passed_by(old: Doorkey, new: Doorkey, workspace: str) -> None:
    """A sealed copy that is of no use holds nobody up: its key must be rolled, whatever else is moved."""
    broken, foreign = issue(old, workspace), issue(old, workspace)
    change(old, broken, sealed=b"\x01" + bytes(60))
    change(old, foreign, secret=THIRD_NAME)
    done = rotate(new)
    assert (done.moved, set(done.left)) == (
        4,
        {Hanging(OLD_NAME, tokens=1, roll=(broken,)), Hanging(THIRD_NAME, tokens=1, roll=(foreign,))},
    )
    # A secret that nobody has is not named: no service could start.
    assert new.store.properties().fingerprints == (NEW_NAME, OLD_NAME)
    for key in (broken, foreign):
        new.keyring.roll(key, grace=0)
    assert rotate(new) == Rekeyed(NEW_NAME, 0, (), (OLD_NAME,))


def test_a_secret_that_somebody_else_names_stays_named(old: Doorkey, new: Doorkey, workspace: str) -> None:
    """Where another host is ahead, with a third secret, neither takes the other's name away."""
    ahead = host(old.store, THIRD, NEW, OLD)
    later = issue(ahead, workspace)
    here = host(old.store, NEW, OLD, THIRD)
    assert rotate(here).left == ()
    assert here.store.properties().fingerprints == (NEW_NAME,)  # which has moved that one, too
    change(here, later, sealed=None)
    assert rotate(ahead).left == (Hanging(NEW_NAME, tokens=1, roll=(later,)),)
    assert set(here.store.properties().fingerprints) == {THIRD_NAME, NEW_NAME}


def test_an_empty_store_takes_the_newest(old: Doorkey, new: Doorkey) -> None:
    """Where there are no tokens yet, the store hangs on the newest secret all the same, not on none."""
    assert rotate(new) == Rekeyed(NEW_NAME, 0, (), (OLD_NAME,))
    assert new.store.properties().fingerprints == (NEW_NAME,)


def test_a_key_without_tokens(old: Doorkey, new: Doorkey, workspace: str) -> None:
    """What a store may hold, and the keyring never makes, hangs on nothing."""
    bare = Key("key_bare", workspace, KeyType.SECRET, Mode.TEST, "bare", 1, ())
    old.store.commit(Batch(keys=((bare, None),)))
    assert rotate(new).left == ()
    assert hanging([bare], 1) == {}


def test_a_store_that_is_read_only(old: Doorkey, new: Doorkey, workspace: str) -> None:
    """It says so."""
    set_read_only(old.store, True)
    with pytest.raises(ReadOnlyStore):
        rotate(new)


# Several hosts


def test_a_host_that_lags_behind(old: Doorkey, workspace: str) -> None:
    """Whoever mints under the old secret while its name is being taken away is noticed, and the name put back."""
    lagging, new = host(old.store, OLD, NEW), host(old.store, NEW, OLD)
    made: list[str] = []
    assert isinstance(old.store, Watched)
    rotate(host(old.store, NEW, OLD))  # names both, moves all
    with_old = issue(lagging, workspace)
    old.store.happens = None
    new.keyring.rekey(with_old)

    # Its batch was planned while the old name stood there, so it does not name that; and it lands just before ours.
    old.store.happens = lambda: made.append(issue(lagging, workspace))
    done = rotate(new)
    assert done.left == (Hanging(OLD_NAME, tokens=1, sealed=1),)
    assert old.store.properties().fingerprints == (NEW_NAME, OLD_NAME)
    assert rotate(new) == Rekeyed(NEW_NAME, 1, (), (OLD_NAME,))

    # Once the name is gone, whoever mints under that secret names it again.
    issue(lagging, workspace)
    assert old.store.properties().fingerprints == (OLD_NAME, NEW_NAME)
    with pytest.raises(InvalidSecret):
        host(old.store, NEW)


def test_a_name_that_comes_meanwhile_is_not_lost(old: Doorkey, new: Doorkey, workspace: str) -> None:
    """If another host names a third secret while we take names away, ours are planned anew."""
    ahead = host(old.store, THIRD, NEW, OLD)
    assert isinstance(old.store, Watched)
    for key in list(old.keyring.keys(workspace)):
        new.keyring.rekey(key.id)
    old.store.happens = lambda: issue(ahead, workspace)
    assert rotate(new).dropped == (OLD_NAME,)
    assert set(old.store.properties().fingerprints) == {THIRD_NAME, NEW_NAME}


def test_no_token_is_refused_at_any_step(clock: Clock) -> None:
    """Two hosts, one always a step behind: each token that either made is let in by both, all the way (B6)."""
    store = MemoryStore(Properties(fingerprints=(OLD_NAME,)))
    first = host(store, OLD, clock=clock)
    workspace = first.keyring.approve(first.keyring.provision("Acme").id).id
    tokens: list[Token] = []
    steps: Sequence[tuple[bytes, ...]] = [(OLD,), (OLD, NEW), (NEW, OLD)]

    def day(a: tuple[bytes, ...], b: tuple[bytes, ...]) -> tuple[Doorkey, Doorkey]:
        """Each host starts with its secrets, issues, reveals what the other one issued, and judges every token."""
        hosts = host(store, *a, clock=clock), host(store, *b, clock=clock)
        for here, there in (hosts, hosts[::-1]):
            tokens.extend(there.keyring.reveal(issue(here, workspace, mode)) for mode in Mode)
        for each in hosts:
            assert [judge(each, token) for token in tokens if not isinstance(judge(each, token), Granted)] == []
        return hosts

    day(steps[0], steps[0])
    for before, after in pairwise(steps):
        day(after, before)
        promoted, _ = day(after, after)
    left = rotate(promoted).left
    day(steps[-1], steps[-1])
    rolled = {promoted.keyring.key(key).tokens[0].id for key in left[0].roll}
    for key in left[0].roll:  # their owners change over while both tokens live
        promoted.keyring.roll(key, grace=60)
        tokens.append(promoted.keyring.reveal(key))
    day(steps[-1], steps[-1])
    clock.advance(60)
    tokens[:] = [token for token in tokens if token.id not in rolled]
    assert rotate(promoted).dropped == (OLD_NAME,)
    day((NEW,), steps[-1])
    day((NEW,), (NEW,))
    assert len(rolled) > 5


def test_a_missing_secret_is_found_when_a_service_starts(old: Doorkey, new: Doorkey, workspace: str) -> None:
    """A host that was left out of the first step, or drops the old secret too early, does not start."""
    with pytest.raises(InvalidSecret, match=OLD_NAME):
        host(old.store, NEW)
    issue(new, workspace)
    with pytest.raises(InvalidSecret, match=NEW_NAME):
        host(old.store, OLD)
    rotate(new)
    host(old.store, NEW)


# Killed


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """`kill -9`, 20 times: each token is found and revealed after each, and in the end all hang on the new secret."""
    path, chance = tmp_path / "keys.db", random.Random()
    with closing(SQLiteStore.create(path, Properties(fingerprints=(OLD_NAME,)))) as store:
        door = host(store, OLD)
        workspace = door.keyring.approve(door.keyring.provision("Acme").id).id
        for _ in range(150):
            issue(door, workspace)
        tokens = {key.id: door.keyring.reveal(key.id) for key in door.keyring.keys(workspace, Mode.TEST)}

    def sound(*secrets: bytes) -> int:
        """How many tokens have been moved, once it is clear that none is lost."""
        with closing(SQLiteStore(path)) as store:
            door = host(store, *secrets)
            for id, token in tokens.items():
                assert door.keyring.reveal(id).expose() == token.expose()
                assert isinstance(judge(door, token), Granted)
            assert audit.verify(store, workspace) == ()
            return sum(key.tokens[0].secret == NEW_NAME for key in door.keyring.keys(workspace))

    moved, ends = 0, []
    for _ in range(20):
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                door = host(SQLiteStore(path), NEW, OLD)
                rotate(door, progress=lambda done, total: os.write(writing, b"x"))  # noqa: B023
            finally:
                os._exit(0)
        os.close(writing)
        with open(reading, "rb", buffering=0) as steps:
            told = len(steps.read(1))
            time.sleep(chance.uniform(0, 0.003))
            os.kill(pid, signal.SIGKILL)
            ends.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            told += len(steps.read())
        before, moved = moved, sound(NEW, OLD)
        assert moved - before in (told, told + 1)
    assert ends.count(-signal.SIGKILL) >= 10
    with closing(SQLiteStore(path)) as store:
        assert rotate(host(store, NEW, OLD)).left == ()
    assert sound(NEW) == len(tokens) + 2
