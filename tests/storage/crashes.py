"""
Crashes: what a store has acknowledged survives whatever becomes of the process that writes, or of the server.

    python -m tests.storage.crashes                       # 200 crashes of each kind on each engine: some minutes
    python -m tests.storage.crashes --kills 20 --store sqlite

A process provisions, approves, issues, reveals, rolls, reissues and revokes without a rest, and acknowledges each
change through a pipe. Three kinds of crashes:

* it is killed (SIGKILL) at a random moment: in a commit, before one, or between a commit and its acknowledgement;
* it kills itself in a commit: before each statement in turn, before the commit's end, and right after it;
* PostgreSQL is stopped at once, without a checkpoint, and started again. The process goes on by itself, and is then
  killed. This server has ``fsync`` on, though a crash of processes does not need it. A power cut is not tried.

After each crash the ledger of what was acknowledged is compared with what is stored:

* nothing that was acknowledged is lost, and what landed besides is whole, and no more than was under way;
* each key that is not revoked has a current token that lives. If it is sealed, what comes out of the seal is granted;
* each token that was handed out gets the verdict that its key's last state calls for;
* the chains of events are whole, and SQLite finds no damage in its file.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg

from doorkey.core.errors import KeyringError, StoreUnavailable
from doorkey.core.model import Decision, Denied, Granted, KeyType, Mode, Reason, Requirement
from doorkey.core.tokens import Token, mint, parse
from doorkey.core.verify import Verifier
from doorkey.management import audit
from doorkey.management.keyring import Keyring, lives
from doorkey.management.secrets import MasterSecrets
from doorkey.storage import rows
from doorkey.storage.protocol import Batch, Ending, Key, Properties, Store, StoredToken, Workspace
from doorkey.storage.sqlite import SQLiteStore
from doorkey.storage.urls import create_store, open_store
from doorkey.testing import basic
from tests.postgres_server import Server, new_database, new_server

CONTEXT = get_context("forkserver")  # which imports these once, so that each new process is there at once
CONTEXT.set_forkserver_preload(["doorkey.testing", "doorkey.storage.postgres", "doorkey.storage.sqlite"])

PATIENCE = 30.0
"""Seconds within which a process acknowledges something, and PostgreSQL lets go of a client that was killed."""

NAME = "crash"
"""Of each key but those that come with a workspace."""

Revealed = tuple[str, str]
"""The id of a key, and its token's text."""
Done = Workspace | Key | Revealed

VERBS: Mapping[str, Callable[[Keyring, str], Done]] = {
    "provision": lambda ring, _: ring.provision("Acme"),
    "approve": lambda ring, workspace: ring.approve(workspace),
    "issue": lambda ring, workspace: ring.issue(workspace, type=KeyType.SECRET, mode=Mode.LIVE, name=NAME),
    "reveal": lambda ring, key: (key, ring.reveal(key).expose()),
    "roll": lambda ring, key: ring.roll(key),
    "roll at once": lambda ring, key: ring.roll(key, 0),
    "reissue": lambda ring, key: ring.reissue(key, because="it is a test"),
    "revoke": lambda ring, key: ring.revoke(key, because="it is a test"),
}
OF_KEYS = tuple(VERBS)[3:]


# The process that changes.


def change_for_ever(pipe: Connection, url: str, secret: str) -> None:
    """Let keys live short lives, and acknowledge each change."""
    logging.disable()  # the pool tells of each connection that it lost
    with closing(open_store(url)) as store:
        ring, dice = Keyring(store, MasterSecrets.parse(secret), actor="writer"), random.Random()

        def do(verb: str, id: str) -> str:
            while True:
                try:
                    done = VERBS[verb](ring, id)
                except KeyringError:  # such as a roll of what was revoked, or a repetition of what has landed
                    return id
                except StoreUnavailable:
                    time.sleep(0.01)
                else:
                    pipe.send(done)
                    return id if isinstance(done, tuple) else done.id

        while True:
            workspace = do("approve", do("provision", ""))
            for _ in range(10):
                key = do("issue", workspace)
                for verb in dice.choices(OF_KEYS, k=4):
                    do(verb, key)


def change_once(pipe: Connection, url: str, secret: str, verb: str, id: str, fuse: int) -> None:
    """Change something, and die before a step of its commit; acknowledge it if there are not so many steps."""
    with closing(open_store(url)) as store:
        ring = Keyring(store, MasterSecrets.parse(secret), actor="writer")
        rows.write = dying(fuse)
        pipe.send(VERBS[verb](ring, id))


def dying(fuse: int) -> Callable[..., None]:
    """What writes a batch as any store does, but kills this process before its n-th step."""
    steps, write = count(1), rows.write

    def burn() -> None:
        if next(steps) == fuse:
            os.kill(os.getpid(), signal.SIGKILL)

    def write_and_die(batch: Batch, begin: Callable[[], AbstractContextManager[rows.Execute]]) -> None:
        @contextmanager
        def begin_and_die() -> Iterator[rows.Execute]:
            burn()
            with begin() as execute:

                def execute_or_die(sql: str, parameters: Sequence[Any]) -> rows.Cursor:
                    burn()
                    return execute(sql, parameters)

                yield execute_or_die
                burn()
            burn()

        write(batch, begin_and_die)

    return write_and_die


class Writer:
    """Such a process, and the ledger that notes what it acknowledges."""

    def __init__(self, ledger: Ledger, target: Callable[..., None], *arguments: object) -> None:
        self._ledger = ledger
        self._pipe, others = CONTEXT.Pipe(duplex=False)
        self.process = CONTEXT.Process(target=target, args=(others, ledger.url, ledger.secret, *arguments), daemon=True)
        self.process.start()
        others.close()

    def listen(self, seconds: float) -> None:
        """Note what is acknowledged in so many seconds, so that the process never waits for room in the pipe."""
        deadline = time.monotonic() + seconds
        while self._pipe.poll(max(0, deadline - time.monotonic())):
            self._ledger.note(self._pipe.recv())

    def await_change(self) -> None:
        """Wait for the next acknowledgement."""
        assert self._pipe.poll(PATIENCE), "nothing was acknowledged"
        self._ledger.note(self._pipe.recv())

    def kill(self) -> None:
        """Kill it, and note what it still had acknowledged."""
        self.process.kill()
        self.end()

    def end(self) -> None:
        """The same for one that ends by itself."""
        try:
            while self._pipe.poll(PATIENCE):
                self._ledger.note(self._pipe.recv())
            raise AssertionError("the process hangs")
        except EOFError:
            self._pipe.close()
            self.process.join()


# What must be true.


@dataclass
class Ledger:
    """
    What was acknowledged, as it must be stored.

    Attributes:
        texts: the tokens that were handed out, by token id.
        crashes: as many changes at most have landed without being acknowledged.
        findings: what was wrong.
    """

    url: str
    secret: str
    workspaces: dict[str, Workspace] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    crashes: int = 0
    acknowledged: int = 0
    besides: int = 0
    findings: list[str] = field(default_factory=list)

    @classmethod
    def of_new_store(cls, url: str) -> Ledger:
        """An empty ledger, and a store."""
        secret = b64encode(os.urandom(32)).decode()
        create_store(url, Properties(fingerprints=MasterSecrets.parse(secret).fingerprints)).close()
        return cls(url, secret)

    def do(self, verb: str, id: str = "") -> str:
        """Change something in this process."""
        with closing(open_store(self.url)) as store:
            done = VERBS[verb](Keyring(store, MasterSecrets.parse(self.secret), actor="parent"), id)
        self.note(done)
        return id if isinstance(done, tuple) else done.id

    def note(self, done: Done) -> None:
        """Take a change as acknowledged."""
        match done:
            case Workspace():
                self.workspaces[done.id] = done
            case Key():
                self.keys[done.id] = done
            case (id, text):
                self.texts[parse(text).id] = text
                key = self.keys[id]
                current, *others = key.tokens
                tokens = (replace(current, sealed=None), *others)
                self.keys[id] = replace(key, tokens=tokens, version=key.version + 1)

    def check(self) -> None:
        """Compare everything with what is stored, and add what is wrong to the findings."""
        wait_until_quiet(self.url)
        with closing(open_store(self.url)) as store:
            self.findings += self._findings(store)

    def _findings(self, store: Store) -> Iterator[str]:
        if isinstance(store, SQLiteStore):
            yield from (finding.what for finding in store.check())
        ring = Keyring(store, MasterSecrets.parse(self.secret))
        stored = {workspace.id: (workspace, tuple(ring.keys(workspace.id))) for workspace in ring.workspaces()}
        keys = {key.id: key for _, found in stored.values() for key in found}
        yield from (f"workspace {id} is lost" for id in self.workspaces.keys() - stored.keys())
        yield from (f"key {id} is lost" for id in self.keys.keys() - keys.keys())
        landed = self.acknowledged = 0
        for id, (workspace, found) in stored.items():
            yield from (f"workspace {id}: {finding}" for finding in audit.verify(store, id))
            yield from self._judge_workspace(workspace, found)
            landed += workspace.version
        judge = Judge(store, MasterSecrets.parse(self.secret))
        for key in keys.values():
            yield from self._judge_key(key, judge)
        self.acknowledged = sum(1 + (each.approved_at is not None) for each in self.workspaces.values())
        self.acknowledged += sum(key.version for key in self.keys.values())
        self.besides = landed - self.acknowledged
        if not 0 <= self.besides <= self.crashes:
            yield f"{self.acknowledged} changes were acknowledged, {landed} are stored after {self.crashes} crashes"
        if judge.verdict(mint(KeyType.SECRET, Mode.LIVE)) is not Reason.UNKNOWN:
            yield "a token is granted that nobody made"

    def _judge_workspace(self, workspace: Workspace, keys: tuple[Key, ...]) -> Iterator[str]:
        approved = workspace.approved_at is not None
        noted = self.workspaces.get(workspace.id)
        if noted is not None and noted.approved_at not in (None, workspace.approved_at):
            yield f"the approval of workspace {workspace.id} is lost"
        own = [key for key in keys if key.name == NAME]
        if len(keys) - len(own) != (4 if approved else 2):
            yield f"workspace {workspace.id} has not its pairs of keys"
        if workspace.version != 1 + approved + sum(key.version for key in own):
            yield f"a part of a change of workspace {workspace.id} is lost"

    def _judge_key(self, key: Key, judge: Judge) -> Iterator[str]:
        noted = self.keys.get(key.id)
        if noted is not None and key != noted and key.version <= noted.version:
            yield f"a change of key {key.id} is lost"
        if key.revoked_at is None and not lives(key.tokens[0], int(time.time())):
            yield f"key {key.id} has no token that lives"
        for token in key.tokens:
            text = judge.unsealed(key, token) if token.sealed is not None else self.texts.get(token.id)
            said, expected = text and judge.verdict(text), called_for(key, token)
            if text is not None and said is not expected:
                yield f"token {token.id} of key {key.id} gets {said} in the place of {expected}"
            if token.sealed is not None and (token.id in self.texts or key.revoked_at is not None):
                yield f"token {token.id} of key {key.id} can be revealed again"


class Judge:
    """What a store's verdicts are."""

    def __init__(self, store: Store, secrets: MasterSecrets) -> None:
        self._secrets = secrets
        self._verifier = Verifier(store, secrets.digester())

    def verdict(self, text: str | Token) -> Reason | Decision | None:
        """Why a token is denied; ``None`` if it is granted, and the decision if that is neither."""
        match self._verifier.verify(basic(text), requires=Requirement.ANY_KEY):
            case Granted():
                return None
            case Denied(reason):
                return reason
            case other:
                return other

    def unsealed(self, key: Key, token: StoredToken) -> str:
        """The text that is sealed."""
        assert token.sealed is not None
        secret, sealed = token.secret, token.sealed
        opened = self._secrets.unseal(sealed, secret=secret, key=key.id, id=token.id, type=key.type, mode=key.mode)
        return opened.expose()


def called_for(key: Key, token: StoredToken) -> Reason | None:
    """Why a token must be denied; ``None`` if it must be granted."""
    if key.revoked_at is not None or token.ended_as is Ending.REVOKED:
        return Reason.REVOKED
    return None if lives(token, int(time.time())) else Reason.EXPIRED


def wait_until_quiet(url: str) -> None:
    """Wait until PostgreSQL has let go of all clients but this one: a commit of one that was killed may still land."""
    if not url.startswith("postgresql:"):
        return
    deadline = time.monotonic() + PATIENCE
    with psycopg.connect(url, autocommit=True) as connection:
        others = """
            SELECT FROM pg_stat_activity
             WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
        """
        while connection.execute(others).fetchall():
            assert time.monotonic() < deadline, "a server process does not end"
            time.sleep(0.001)


# The crashes.


def kill_at_random(ledger: Ledger, kills: int) -> None:
    """Kill a writer at random moments, with a check after each."""
    for _ in range(kills):
        writer = Writer(ledger, change_for_ever)
        writer.await_change()
        writer.listen(random.uniform(0, 0.1))
        writer.kill()
        ledger.crashes += 1
        ledger.check()


def kill_at_each_step(ledger: Ledger, verb: str) -> None:
    """Let writers die at each step of the commit of a verb, each with a key or workspace of its own; then check."""
    workspace = ledger.do("approve", ledger.do("provision"))
    for fuse in count(1):
        match verb:
            case "provision" | "issue":
                target = workspace
            case "approve":
                target = ledger.do("provision")
            case _:
                target = ledger.do("issue", workspace)
        writer = Writer(ledger, change_once, verb, target, fuse)
        writer.end()
        if writer.process.exitcode == 0:
            return ledger.check()
        assert writer.process.exitcode == -signal.SIGKILL
        ledger.crashes += 1


def restart_at_random(ledger: Ledger, kills: int, server: Server) -> None:
    """Restart the server under a writer at random moments; let it go on, kill it, and check."""
    for _ in range(kills):
        writer = Writer(ledger, change_for_ever)
        writer.await_change()
        writer.listen(random.uniform(0, 0.1))
        server.stop(signal.SIGQUIT)
        writer.listen(0)
        server.start()
        writer.await_change()  # made since
        writer.kill()
        ledger.crashes += 2
        ledger.check()


# The command.


def report(what: str, ledger: Ledger, began: float) -> None:
    """Print a line, and what was wrong."""
    print(
        f"{what}: {ledger.acknowledged:,} changes acknowledged, {ledger.besides} landed without, {len(ledger.keys):,} "
        f"keys, {len(ledger.texts):,} tokens in hands; wrong: {len(ledger.findings)} "
        f"({time.monotonic() - began:.0f} s)",
        flush=True,
    )
    for finding in ledger.findings:
        print(f"  {finding}")


def crash_sqlite(kills: int) -> Iterator[Ledger]:
    """All that can befall SQLite."""
    with TemporaryDirectory(prefix="doorkey-") as folder:
        yield from crash_clients(f"sqlite:///{Path(folder) / 'keys.db'}", "SQLite", kills)


def crash_postgresql(kills: int) -> Iterator[Ledger]:
    """All that can befall PostgreSQL."""
    with new_database() as url:
        yield from crash_clients(url, "PostgreSQL", kills)
    with new_server("fsync=on") as server:
        began, ledger = time.monotonic(), Ledger.of_new_store(server.url())
        restart_at_random(ledger, kills, server)
        report(f"PostgreSQL, {kills} restarts under a writer, which is killed after each", ledger, began)
        yield ledger


def crash_clients(url: str, name: str, kills: int) -> Iterator[Ledger]:
    """Kill what writes to a new store at *url*."""
    began, ledger = time.monotonic(), Ledger.of_new_store(url)
    kill_at_random(ledger, kills)
    report(f"{name}, {kills} kills at random moments", ledger, began)
    yield ledger
    before = ledger.crashes
    for verb in VERBS:
        kill_at_each_step(ledger, verb)
    report(f"{name}, {ledger.crashes - before} more, at each step of a commit", ledger, began)
    yield ledger


STORES: Mapping[str, Callable[[int], Iterator[Ledger]]] = {"sqlite": crash_sqlite, "postgresql": crash_postgresql}


def main() -> int:
    """Print a line for each kind of crash; 0 if nothing was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.storage.crashes", description="Kill what writes to a store, and look what is left."
    )
    parser.add_argument("--kills", type=int, default=200, help="crashes of each kind; 200 unless given")
    parser.add_argument("--store", nargs="+", choices=STORES, default=list(STORES), help="both unless given")
    arguments = parser.parse_args()
    wrong = 0
    for store in arguments.store:
        try:
            wrong += sum(len(ledger.findings) for ledger in STORES[store](arguments.kills))
        except (OSError, subprocess.SubprocessError) as error:
            print(f"{store}: no server can be started here ({error})")
            wrong += 1
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
