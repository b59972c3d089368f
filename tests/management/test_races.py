"""
Two processes on one SQLite file, and failures at every step: who wins, and that no token is ever lost.

The deterministic interleavings stand in test_keyring.py; here it is the operating system that interleaves.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

import pytest

import doorkey
from doorkey.core.errors import KeyringError, StoreUnavailable
from doorkey.core.model import Denied, Granted, KeyType, Mode, Reason, Requirement
from doorkey.core.tokens import Token, parse
from doorkey.core.verify import Verifier
from doorkey.management import audit
from doorkey.management.keyring import Keyring
from doorkey.management.secrets import MasterSecrets
from doorkey.storage.memory import MemoryStore
from doorkey.storage.protocol import Batch, Key, Properties, Store, Workspace
from doorkey.storage.sqlite import SQLiteStore
from doorkey.testing import basic

ROUNDS = 25
SECRETS = MasterSecrets.generate()

# Takes an order a line, waits for its moment, and answers in a line: "done" and a token or an id, or the error's name.
WORKER = """
import json, os, signal, sys, time
from itertools import count
from pathlib import Path
from doorkey.core.errors import DoorkeyError
from doorkey.core.tokens import Token
from doorkey.management.keyring import Keyring
from doorkey.management.secrets import MasterSecrets
from doorkey.storage.sqlite import SQLiteStore

class DyingStore(SQLiteStore):
    dying = False
    def commit(self, batch):
        super().commit(batch)
        if self.dying:
            os.kill(os.getpid(), signal.SIGKILL)

folder = Path(sys.argv[1])
store = DyingStore(folder / "keys.db")
ring = Keyring(store, MasterSecrets.load(folder / "secret", {}), actor=f"process {os.getpid()}")
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    store.dying = order["dying"]
    while time.monotonic() < order["at"]:
        pass
    for n in count() if order["forever"] else range(1):
        try:
            named = {k: v.format(n=n) if isinstance(v, str) else v for k, v in order["named"].items()}
            value = getattr(ring, order["verb"])(order["id"], **named)
            answer = ["done", value.expose() if isinstance(value, Token) else value.id]
        except DoorkeyError as error:
            answer = [type(error).__name__, ""]
    print(json.dumps(answer), flush=True)
"""


Order = tuple[str, dict[str, object]]
"""A verb and its named arguments; ``{n}`` in a text stands for how often it was done before."""
ROLL: Order = ("roll", {})
ROLL_NOW: Order = ("roll", {"grace": 0})
REVEAL: Order = ("reveal", {})
RENAME: Order = ("rename", {"name": "name {n}"})
REISSUE: Order = ("reissue", {"because": "leaked"})
REVOKE: Order = ("revoke", {"because": "leaked"})
END_GRACE: Order = ("end_grace", {})
APPROVE: Order = ("approve", {})
SUSPEND: Order = ("suspend", {})


class Worker:
    """Another process with a keyring on the same store."""

    def __init__(self, folder: Path) -> None:
        path = os.pathsep.join([str(Path(doorkey.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def readline(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def order(self, order: Order, id: str, *, at: float = 0, forever: bool = False, dying: bool = False) -> None:
        assert self.process.stdin is not None
        verb, named = order
        text = json.dumps({"verb": verb, "id": id, "named": named, "at": at, "forever": forever, "dying": dying})
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def answer(self) -> tuple[str, str]:
        outcome, value = json.loads(self.readline())
        return outcome, value

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


class House:
    """A store in a file, with a keyring of this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        SECRETS.write(folder / "secret")
        self.store = SQLiteStore.create(folder / "keys.db")
        self.ring = Keyring(self.store, SECRETS, actor="parent")
        self.verifier = Verifier(self.store, SECRETS.digester())
        self.workspace = self.ring.approve(self.ring.provision("Acme").id).id

    def key(self, mode: Mode = Mode.LIVE) -> str:
        return self.ring.issue(self.workspace, type=KeyType.SECRET, mode=mode, name="raced").id

    def judge(self, token: Token | str) -> Reason | None:
        match self.verifier.verify(basic(token), requires=Requirement.ANY_KEY):
            case Granted():
                return None
            case Denied(reason):
                return reason
            case other:
                pytest.fail(f"{other}")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = House(tmp_path_factory.mktemp("races"))
    with closing(house.store):
        yield house
        assert audit.verify(house.store, house.workspace) == ()


@pytest.fixture(scope="module")
def workers(house: House) -> Iterator[tuple[Worker, Worker]]:
    pair = Worker(house.folder), Worker(house.folder)
    assert [worker.readline() for worker in pair] == ["ready\n"] * 2
    yield pair
    for worker in pair:
        worker.kill()


def race(workers: Sequence[Worker], orders: Sequence[Order], id: str) -> list[tuple[str, str]]:
    """What each of two processes gets that are told to begin at the same moment."""
    at = time.monotonic() + 0.001
    for worker, order in zip(workers, orders, strict=True):
        worker.order(order, id, at=at)
    return [worker.answer() for worker in workers]


def assert_nothing_is_lost(house: House, key: Key, handed_out: Sequence[str]) -> None:
    """A key that is not revoked has one current token, and that was handed out or waits to be revealed."""
    current, *others = key.tokens
    assert all(token.sealed is None for token in others)
    assert sum(token.ended_at is None for token in others) <= 1
    if key.revoked_at is None:
        texts = [text for text in handed_out if parse(text).id == current.id]
        assert (current.sealed is None) is bool(texts)
        assert house.judge(texts[0] if texts else house.ring.reveal(key.id)) is None
    else:
        assert current.sealed is None
        assert [house.judge(text) for text in handed_out] == [Reason.REVOKED] * len(handed_out)


@pytest.mark.parametrize(
    ("orders", "outcomes"),
    [
        ((ROLL, ROLL), [{"done"}, {"Conflict", "RollPending"}]),
        ((ROLL_NOW, ROLL_NOW), [{"done"}, {"done", "Conflict"}]),
        ((REVEAL, REVEAL), [{"done"}, {"AlreadyRevealed"}]),
        ((ROLL, REVEAL), [{"done", "Conflict"}, {"done", "Conflict"}]),
        ((ROLL, REVOKE), [{"done", "Conflict", "KeyRevoked"}, {"done"}]),
        ((REVEAL, REVOKE), [{"done", "KeyRevoked"}, {"done"}]),
        ((REVEAL, REISSUE), [{"done", "Conflict"}, {"done"}]),
        ((ROLL, REISSUE), [{"done", "Conflict"}, {"done"}]),
        ((ROLL, END_GRACE), [{"done", "Conflict"}, {"done"}]),
        ((REISSUE, REISSUE), [{"done"}, {"done"}]),
        ((REVOKE, REVOKE), [{"done"}, {"done"}]),
        ((REVOKE, REISSUE), [{"done"}, {"done", "KeyRevoked"}]),
    ],
    ids=lambda value: "-".join(verb for verb, _ in value) if isinstance(value, tuple) else "",
)
def test_two_processes_change_one_key(
    house: House, workers: tuple[Worker, Worker], orders: tuple[Order, Order], outcomes: list[set[str]]
) -> None:
    """One wins, the other is told so or lands after it; emergencies always land; no token is lost."""
    for _ in range(ROUNDS):
        id = house.key()
        answers = race(workers, orders, id)
        found = [outcome for outcome, _ in answers]
        done = [order for order, outcome in zip(orders, found, strict=True) if outcome == "done"]
        revealed = [
            text
            for order, (outcome, text) in zip(orders, answers, strict=True)
            if outcome == "done" and order is REVEAL
        ]
        if orders[0] == orders[1]:  # then either may be the winner
            found.sort(key=lambda outcome: outcome != "done")
        assert all(outcome in allowed for outcome, allowed in zip(found, outcomes, strict=True)), found
        key = house.ring.key(id)
        # Two reissues of a live secret make one new token, however they fall; each roll makes one.
        assert len(key.tokens) == 1 + done.count(ROLL) + done.count(ROLL_NOW) + (REISSUE in done)
        assert_nothing_is_lost(house, key, revealed)


def test_two_processes_approve(house: House, workers: tuple[Worker, Worker]) -> None:
    """There is one live pair, whoever made it; a suspension meanwhile stands."""
    for _ in range(ROUNDS):
        workspace = house.ring.provision("Beta").id
        assert [outcome for outcome, _ in race(workers, [APPROVE] * 2, workspace)] == ["done"] * 2
        assert len(list(house.ring.keys(workspace, Mode.LIVE))) == 2
        other = house.ring.provision("Gamma").id
        (approved, _), (suspended, _) = race(workers, [APPROVE, SUSPEND], other)
        assert approved in ("done", "Conflict") and suspended == "done"
        assert house.ring.workspace(other).suspended_at is not None
        assert audit.verify(house.store, workspace) == audit.verify(house.store, other) == ()


@pytest.mark.parametrize("order", [REVOKE, REISSUE, END_GRACE, SUSPEND], ids=lambda order: str(order[0]))
def test_an_emergency_never_loses_to_a_rename(house: House, tmp_path: Path, order: Order) -> None:
    """While another process renames without a pause, an emergency lands, and at once for a human."""
    here = House(tmp_path)
    renamer = Worker(tmp_path)
    try:
        key = here.key()
        old = here.ring.reveal(key)
        here.ring.roll(key, 3600)
        assert renamer.readline() == "ready\n"
        renamer.order(RENAME, key, forever=True)
        deadline = time.monotonic() + 10
        while "name" not in here.ring.key(key).name:
            assert time.monotonic() < deadline
        begun = time.monotonic()
        verb, named = order
        getattr(here.ring, verb)(here.workspace if verb == "suspend" else key, **named)
        assert time.monotonic() - begun < 5
        expected = {"suspend": Reason.WORKSPACE_SUSPENDED, "end_grace": Reason.EXPIRED}.get(verb, Reason.REVOKED)
        assert here.judge(old) is expected
    finally:
        renamer.kill()
        assert audit.verify(here.store, here.workspace) == ()
        here.store.close()


# Failures


def test_a_process_that_dies_before_it_can_answer(house: House) -> None:
    """A change that was committed stands, and the new token waits to be revealed; repeating the roll makes no other."""
    for order in (ROLL, REISSUE):
        id = house.key()
        worker = Worker(house.folder)
        assert worker.readline() == "ready\n"
        worker.order(order, id, dying=True)
        assert worker.process.wait(10) == -signal.SIGKILL
        worker.kill()
        key = house.ring.key(id)
        assert len(key.tokens) == 2
        if order == ROLL:
            with pytest.raises(KeyringError):
                house.ring.roll(id)
        else:
            assert house.ring.reissue(id, because="leaked") == key
        assert_nothing_is_lost(house, key, [])


def test_a_process_that_is_killed_at_any_moment(house: House) -> None:
    """There is never a key without a valid token or with an unknown one, and the chain stays whole."""
    for n in range(5):
        id = house.key()
        worker = Worker(house.folder)
        assert worker.readline() == "ready\n"
        worker.order(ROLL_NOW, id, forever=True)
        time.sleep(0.03 + 0.007 * n)
        worker.kill()
        assert_nothing_is_lost(house, house.ring.key(id), [])
        assert audit.verify(house.store, house.workspace) == ()


class FaultyStore(MemoryStore):
    """A store that fails once: at the n-th time that it is asked, or that it has answered."""

    def __init__(self) -> None:
        super().__init__()
        self.fuse = -1
        self.error: type[BaseException] = StoreUnavailable

    def burn(self) -> None:
        self.fuse -= 1
        if self.fuse == 0:
            raise self.error("the connection broke")

    def properties(self) -> Properties:
        self.burn()
        return super().properties()

    def workspace(self, id: str) -> Workspace | None:
        self.burn()
        return super().workspace(id)

    def key(self, id: str) -> Key | None:
        self.burn()
        return super().key(id)

    def commit(self, batch: Batch) -> None:
        self.burn()
        super().commit(batch)
        self.burn()


def state(store: Store, key: str) -> tuple[object, ...]:
    found = store.key(key)
    assert found is not None
    return found.version, store.workspace(found.workspace), store.events(found.workspace)


VERBS: dict[str, Callable[[Keyring, str], object]] = {
    "reveal": lambda ring, key: ring.reveal(key),
    "roll": lambda ring, key: ring.roll(key, 60),
    "roll now": lambda ring, key: ring.roll(key, 0),
    "end_grace": lambda ring, key: ring.end_grace(key),
    "reissue": lambda ring, key: ring.reissue(key, because="leaked"),
    "revoke": lambda ring, key: ring.revoke(key, because="leaked"),
    "restrict": lambda ring, key: ring.restrict(key, networks=["10.0.0.0/8"]),
    "rename": lambda ring, key: ring.rename(key, "other"),
}


@pytest.mark.parametrize("error", [StoreUnavailable, KeyboardInterrupt])
@pytest.mark.parametrize("verb", VERBS)
def test_a_failure_at_every_step(verb: str, error: type[BaseException]) -> None:
    """Wherever the store fails, the failure gets out, and all of the change has landed or none of it."""
    steps = 0
    while True:
        steps += 1
        store = FaultyStore()
        ring = Keyring(store, SECRETS, actor="ann")
        workspace = ring.approve(ring.provision("Acme").id).id
        key = ring.issue(workspace, type=KeyType.SECRET, mode=Mode.LIVE, name="x").id
        if verb == "end_grace":
            ring.roll(key, 60)
        before = state(store, key)
        store.fuse, store.error = steps, error
        try:
            VERBS[verb](ring, key)
            break
        except error:
            store.fuse = -1
        after = state(store, key)
        current = ring.key(key).tokens[0]
        assert audit.verify(store, workspace) == ()
        if after == before:
            assert current.sealed is not None
            VERBS[verb](ring, key)
        else:
            # The answer was lost, not the change. Only a reveal cannot be asked for again; its key can be rolled.
            assert (current.sealed is None) is (verb in ("reveal", "revoke"))
        assert state(store, key) != before
        if verb != "revoke":
            ring.roll(key, 0)
            assert ring.reveal(key).id == ring.key(key).tokens[0].id
    assert steps > 4


def test_a_failure_while_a_workspace_is_made() -> None:
    """A provisioned or approved workspace has both keys of its pair, or there is nothing."""
    for steps in range(1, 20):
        store = FaultyStore()
        ring = Keyring(store, SECRETS, actor="ann")
        store.fuse = steps
        with suppress(StoreUnavailable):
            ring.approve(ring.provision("Acme").id)
        store.fuse = -1
        for workspace in ring.workspaces():
            modes = [key.mode for key in ring.keys(workspace.id)]
            assert modes.count(Mode.TEST) == 2
            assert modes.count(Mode.LIVE) == (2 if workspace.approved_at else 0)
            assert audit.verify(store, workspace.id) == ()
            assert len(list(ring.keys(ring.approve(workspace.id).id, Mode.LIVE))) == 2
