"""A server that opens the store and then forks its workers, as gunicorn does with --preload: nothing is shared."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psycopg
import pytest

import doorkey
from doorkey.management import audit
from doorkey.management.secrets import MasterSecrets
from doorkey.testing import basic, issue
from tests.ports import free_port

WORKERS = 4
KEYS = 12

# It finds and changes in the master, before the fork. A request issues a key, and is told who asked whom.
APPLICATION = """
import os
import doorkey
from doorkey import KeyType, Mode, Policy, Rule
from doorkey.adapters.wsgi import DoorkeyMiddleware

door = doorkey.open(os.environ["DOORKEY_STORE"])
ring = door.keyring.acting("worker")
ring.provision("before the fork")
assert door.store.find([bytes(32)]) is None


def application(environ, start_response):
    principal = environ["doorkey.principal"]
    if environ["REQUEST_METHOD"] == "POST":
        ring.issue(principal.workspace, type=KeyType.SECRET, mode=Mode.TEST, name="made by a worker")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {principal.token_id}".encode()]


rules = [Rule(method, "/", "messages:read") for method in ("GET", "POST")]
app = DoorkeyMiddleware(application, door.verifier, policy=Policy(rules))
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store can be made."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("database"))
    return f"sqlite:///{tmp_path}/keys.db"


@contextmanager
def gunicorn(folder: Path, **environment: str) -> Iterator[str]:
    """The URL of the application, served by forked workers."""
    (folder / "preloaded.py").write_text(APPLICATION)
    port = free_port()
    options = ("--preload", "--workers", str(WORKERS), "--threads", "2", "--bind", f"127.0.0.1:{port}")
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "preloaded:app", *options, "--log-level", "warning"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), **environment},
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            with suppress(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{port}/")
                break
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_workers_that_were_forked_from_a_store_that_was_open(url: str, tmp_path: Path) -> None:
    """Each answers for the key that asked, all issue keys at once and lose none, and a revocation reaches them all."""
    text = b64encode(os.urandom(32)).decode()
    with doorkey.create(url, secret=MasterSecrets.parse(text)) as door:
        workspace = door.keyring.acting("ann").provision("Acme").id
        tokens = {token.id: basic(token) for token in (issue(door, workspace=workspace) for _ in range(KEYS))}
        before = len([*door.keyring.keys(workspace)])
        with gunicorn(tmp_path, DOORKEY_STORE=url, DOORKEY_SECRET=text) as site:
            workers = ask_from_everywhere(site, tokens)
            assert len([*door.keyring.keys(workspace)]) == before + sum(workers.values()) // 2
            assert audit.verify(door.store, workspace) == ()
            if url.startswith("postgresql"):
                refuse_shared_connections(url)
            revoked, *_ = (key for key in door.keyring.keys(workspace) if key.tokens[0].id in tokens)
            door.keyring.acting("ann").revoke(revoked.id, because="leaked")
            header = {"Authorization": tokens[revoked.tokens[0].id]}
            with httpx.Client(headers=header, limits=httpx.Limits(max_keepalive_connections=0)) as client:
                answers = [client.get(site) for _ in range(40)]
        assert {answer.json()["error"]["code"] for answer in answers} == {"api_key_revoked"}


def ask_from_everywhere(site: str, tokens: dict[str, str]) -> Counter[str]:
    """Ask and change, with many keys at once, until each worker has answered often. How often each did."""
    workers: Counter[str] = Counter()
    client = httpx.Client(limits=httpx.Limits(max_keepalive_connections=0), timeout=60)  # each time any worker

    def ask(token_id: str) -> list[str]:
        answered = []
        for method in ("GET", "POST"):
            answer = client.request(method, site, headers={"Authorization": tokens[token_id]})
            assert answer.status_code == 200, answer.text
            worker, told = answer.text.split()
            assert told == token_id, "the answer to another's question"
            answered.append(worker)
        return answered

    with client, ThreadPoolExecutor(8) as threads:
        deadline = time.monotonic() + 60
        while len(workers) < WORKERS or min(workers.values()) < 10:
            assert time.monotonic() < deadline, workers
            for answered in threads.map(ask, tokens):
                workers.update(answered)
    return workers


def refuse_shared_connections(url: str) -> None:
    """Each of the server's sessions has one client process: no two hold its socket."""
    with psycopg.connect(url) as admin:
        ours = "application_name = 'doorkey' AND datname = current_database()"
        sessions = admin.execute(f"SELECT client_port FROM pg_stat_activity WHERE {ours}".encode()).fetchall()
    holders = Counter(port for port, _ in held_ports())
    assert len(sessions) > WORKERS
    assert {port: holders[port] for (port,) in sessions if holders[port] != 1} == {}


def held_ports() -> set[tuple[int, str]]:
    """The local ports of TCP connections, each with a process that holds it."""
    lines = (
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    )
    ports = {f"socket:[{words[9]}]": int(words[1].rpartition(":")[2], 16) for words in lines}
    held = set()
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            target = os.readlink(descriptor)
            if target in ports:
                held.add((ports[target], descriptor.parts[2]))
    return held
