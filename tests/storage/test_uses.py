"""The log of uses: collected from decisions, written in batches, and never in anybody's way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from base64 import b64encode
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import doorkey
from doorkey import testing
from doorkey.core.errors import ConfigurationError, ReadOnlyStore, StoreUnavailable
from doorkey.core.model import Decision, Denied, Granted, KeyType, Mode, Principal, Reason, Unavailable, Use
from doorkey.core.verify import Verifier
from doorkey.storage import uses
from doorkey.storage.uses import UseLog
from tests.ports import free_port


def granted(number: int = 1) -> Granted:
    return Granted(Principal("ws_1", "key_1", f"tok{number:05}", KeyType.SECRET, Mode.TEST))


class Recorder:
    """Takes uses, unless it is told to fail or to hang; each call leaves what it was given."""

    def __init__(self) -> None:
        self.calls: list[list[Use]] = []
        self.errors: list[Exception | None] = []
        self.go = threading.Event()
        self.go.set()
        self.called = threading.Semaphore(0)
        self.turns = count()

    def record_uses(self, uses: Iterable[Use]) -> None:
        self.calls.append(list(uses))
        self.called.release()
        assert self.go.wait(30)
        if error := self.errors.pop(0) if self.errors else None:
            raise error

    def once_called(self) -> list[Use]:
        """Wait for the next call, and tell what it was given."""
        assert self.called.acquire(timeout=30)
        return self.calls[next(self.turns)]


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.go.set()


@pytest.fixture
def clock() -> testing.Clock:
    return testing.Clock(1000.9)


def test_the_last_use_of_each_token_is_written_once(recorder: Recorder, clock: testing.Clock) -> None:
    """However often a token was used, one use is written: the last, in whole seconds, and in order of ids."""
    with UseLog(recorder, clock=clock) as log:
        for number in (2, 1, 2):
            log(granted(number))
        clock.advance(5)
        log(granted(2))
        assert recorder.calls == []
    assert recorder.calls == [[Use("tok00001", 1000), Use("tok00002", 1005)]]


def test_only_what_was_granted_is_a_use(recorder: Recorder) -> None:
    """A token that was turned away, for whatever reason, was not used; and where nothing was, nothing is written."""
    with UseLog(recorder) as log:
        log(Denied(Reason.REVOKED, principal=granted().principal))
        log(Unavailable("down"))
        assert log._thread is None
    assert recorder.calls == []


def test_others_may_listen_too(recorder: Recorder) -> None:
    """Every decision is passed on; what that raises is the caller's, and the use is kept all the same."""
    heard: list[Decision] = []
    decisions: list[Decision] = [granted(), Denied(Reason.MISSING), Unavailable("down")]
    with UseLog(recorder, then=heard.append) as log:
        for decision in decisions:
            log(decision)
    assert heard == decisions

    def refuse(decision: Decision) -> None:
        raise ValueError("odd")

    with UseLog(recorder, then=refuse) as log, pytest.raises(ValueError, match="odd"):
        log(granted(3))
    assert recorder.calls[-1][0].token_id == "tok00003"


def test_is_written_again_and_again(recorder: Recorder, clock: testing.Clock) -> None:
    """After each interval what came together since is written, and nothing of what was."""
    with UseLog(recorder, clock=clock, interval=0.02) as log:
        log(granted(1))
        assert recorder.once_called() == [Use("tok00001", 1000)]
        log(granted(2))
        assert recorder.once_called() == [Use("tok00002", 1000)]
    assert len(recorder.calls) == 2


def test_is_written_at_most_once_in_an_interval(recorder: Recorder) -> None:
    """Uses that go on all the time cost one write for each interval, not more."""
    with UseLog(recorder, interval=0.2) as log:
        deadline = time.monotonic() + 0.9
        while time.monotonic() < deadline:
            log(granted())
    assert 2 <= len(recorder.calls) <= 5


def test_many_uses_are_written_in_parts(recorder: Recorder) -> None:
    """So that no statement holds a lock for long."""
    with UseLog(recorder, clock=testing.Clock(7)) as log:
        for number in range(2500):
            log(granted(number))
    assert [len(call) for call in recorder.calls] == [1000, 1000, 500]
    assert [use for call in recorder.calls for use in call] == [Use(f"tok{number:05}", 7) for number in range(2500)]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (StoreUnavailable("the store is down"), "(StoreUnavailable: the store is down)"),
        (ReadOnlyStore("the store is read-only"), "(ReadOnlyStore: the store is read-only)"),
        (ValueError("what a driver tells"), "(ValueError)"),
    ],
)
def test_a_store_that_fails_is_tried_again(
    recorder: Recorder, clock: testing.Clock, caplog: pytest.LogCaptureFixture, error: Exception, text: str
) -> None:
    """What could not be written is kept, merged with what came since, and logged without a driver's own text."""
    recorder.errors = [error]
    recorder.go.clear()
    with UseLog(recorder, clock=clock, interval=0.02) as log:
        for number in (1, 2):
            log(granted(number))
        recorder.once_called()
        clock.advance(10)
        log(granted(2))
        log(granted(3))
        recorder.go.set()
        assert recorder.once_called() == [Use("tok00001", 1000), Use("tok00002", 1010), Use("tok00003", 1010)]
    (message,) = caplog.messages
    assert message == f"the last uses of 2 token(s) were not written, to be tried again {text}"


def test_of_parts_only_those_that_failed_are_written_again(recorder: Recorder) -> None:
    """What the store took is not sent twice."""
    recorder.errors = [None, None, StoreUnavailable("down")]
    recorder.go.clear()
    with UseLog(recorder, interval=0.02) as log:
        log(granted(9999))
        recorder.once_called()
        for number in range(2500):
            log(granted(number))
        recorder.go.set()
        assert [len(recorder.once_called()) for _ in range(4)] == [1000, 1000, 1000, 500]
    assert recorder.calls[2] == recorder.calls[3]


def test_memory_has_a_bound(recorder: Recorder) -> None:
    """While the store hangs or fails no more tokens are kept than there is room for; known ones are still updated."""
    clock = testing.Clock(1000)
    recorder.go.clear()
    recorder.errors = [StoreUnavailable("down")]
    with UseLog(recorder, clock=clock, size=3, interval=0.02) as log:
        log(granted(0))
        recorder.once_called()
        for number in range(1, 10):
            log(granted(number))
        assert len(log._latest) == 3
        clock.advance(1)
        log(granted(1))
        log._put_back([Use("tok00099", 1), Use("tok00001", 1)])
        recorder.go.set()
        assert recorder.once_called() == [Use("tok00001", 1001), Use("tok00002", 1000), Use("tok00003", 1000)]


def test_a_hanging_store_holds_nobody_up(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """Verdicts go on while a write hangs, and closing gives up in time."""
    recorder.go.clear()
    log = UseLog(recorder, interval=0.01)
    log(granted())
    recorder.once_called()
    began = time.monotonic()
    for number in range(1000):
        log(granted(number))
    assert time.monotonic() - began < 1
    log.close(0.05)
    assert time.monotonic() - began < 2
    assert caplog.messages == ["the store did not take the last uses of tokens within 0.05 s: they are lost"]
    recorder.go.set()
    log.close()


def test_closing(recorder: Recorder) -> None:
    """Closing twice is fine, and so is closing what was never used; no thread is left, and none starts any more."""
    UseLog(recorder).close()
    log = UseLog(recorder)
    log(granted())
    log.close()
    log.close()
    log(granted(2))
    never = UseLog(recorder)
    never.close()
    never(granted(3))
    assert never._thread is None
    assert [len(call) for call in recorder.calls] == [1]
    assert not [thread for thread in threading.enumerate() if thread.name == "doorkey-uses"]


@pytest.mark.parametrize("arguments", [{"interval": 0}, {"interval": -1}, {"size": 0}])
def test_bounds_are_above_0(recorder: Recorder, arguments: dict[str, Any]) -> None:
    """A log that would write all the time, or keep nothing, is refused when built."""
    with pytest.raises(ConfigurationError, match="above 0 seconds"):
        UseLog(recorder, **arguments)


def test_no_thread_to_be_had(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started the verdict stands, and a later use tries again."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with UseLog(recorder) as log:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            log(granted(1))
        log(granted(2))
    assert [[use.token_id for use in call] for call in recorder.calls] == [["tok00001", "tok00002"]]


def test_without_a_thread_the_end_writes(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none could be started, ever, closing does it itself."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with UseLog(recorder) as log:
        log(granted(1))
    assert [[use.token_id for use in call] for call in recorder.calls] == [["tok00001"]]


def test_threads_start_one_writer(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several first uses at once, one starts the thread."""
    start, started = threading.Thread.start, []

    def slowly(thread: threading.Thread) -> None:
        if thread.name == "doorkey-uses":
            started.append(thread)
            time.sleep(0.1)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", slowly)
    with UseLog(recorder) as log, ThreadPoolExecutor(8) as threads:
        for number in range(8):
            threads.submit(log, granted(number))
    assert len(started) == 1
    assert [len(call) for call in recorder.calls] == [8]


def test_whole(clock: testing.Clock) -> None:
    """From a request to ``last_used_at`` of its token, and of no other; no version moves."""
    door = testing.door()
    token, other = testing.issue(door), testing.issue(door, permissions=["messages"])
    before = {key.id: key for workspace in door.keyring.workspaces() for key in door.keyring.keys(workspace.id)}
    with UseLog(door.store, clock=clock) as log:
        verifier = Verifier(door.store, door.secrets.digester(), on_decision=log)
        decision = verifier.verify(testing.basic(token))
        assert isinstance(decision, Granted)
        assert isinstance(verifier.verify(testing.basic(other)), Denied)
        assert isinstance(verifier.verify(None), Denied)
    used = before[decision.principal.key]
    before[used.id] = replace(used, tokens=(replace(used.tokens[0], last_used_at=1000),))
    assert {id: door.keyring.key(id) for id in before} == before


def test_a_verdict_costs_no_write_while_the_store_is_locked(recorder: Recorder) -> None:
    """With the writer blocked, 10,000 verdicts take what they take without it (C13)."""
    door = testing.door()
    header = testing.basic(testing.issue(door))
    recorder.go.clear()
    log = UseLog(recorder, interval=0.01)
    verifier = Verifier(door.store, door.secrets.digester(), on_decision=log)
    verifier.verify(header)
    recorder.once_called()
    began = time.monotonic()
    for _ in range(10_000):
        assert isinstance(verifier.verify(header), Granted)
    assert time.monotonic() - began < 5
    recorder.go.set()
    log.close()


FORGETFUL = """
import sys
import doorkey
from doorkey.core.model import Granted
from doorkey.core.verify import Verifier
from doorkey.storage.uses import UseLog
from tests.ports import free_port

url, header = (sys.stdin.readline().strip() for _ in range(2))
door = doorkey.open(url)
verifier = Verifier(door.store, door.secrets.digester(), on_decision=UseLog(door.store))
assert isinstance(verifier.verify(header), Granted)
"""


def test_the_end_of_the_interpreter_writes_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who forgets to close loses nothing."""
    secret = b64encode(os.urandom(32)).decode()
    monkeypatch.setenv("DOORKEY_SECRET", secret)
    url = f"sqlite:///{tmp_path}/keys.db"
    with closing(doorkey.create(url, clock=testing.Clock())) as door:
        token = testing.issue(door)
        command = [sys.executable, "-W", "error", "-c", FORGETFUL]
        done = subprocess.run(
            command, input=f"{url}\n{testing.basic(token)}\n", capture_output=True, text=True, check=False, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, "")
        used = last_used(door, token.id)
    assert used is not None and abs(used - time.time()) < 60


SERVED = """
import os
import doorkey
from doorkey.adapters.asgi import DoorkeyMiddleware

async def site(scope, receive, send):
    while scope["type"] == "lifespan":
        await send({"type": (await receive())["type"] + ".complete"})
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})

door = doorkey.open(os.environ["DOORKEY_STORE"], record_uses=True)
app = DoorkeyMiddleware(site, door.async_verifier, policy=doorkey.Policy())
"""


SERVERS = ["uvicorn --port {port}", "hypercorn --bind 127.0.0.1:{port}", "granian --interface asgi --port {port}"]


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_that_is_told_to_end_writes_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    """By SIGTERM, as every deployment does it; uvicorn and granian end by the signal, without the end of Python."""
    url = f"sqlite:///{tmp_path}/keys.db"
    monkeypatch.setenv("DOORKEY_STORE", url)
    monkeypatch.setenv("DOORKEY_SECRET", b64encode(os.urandom(32)).decode())
    (tmp_path / "served.py").write_text(SERVED)
    port = free_port()
    with closing(doorkey.create(url)) as door:
        token = testing.issue(door)
        with subprocess.Popen(
            [sys.executable, "-m", *server.format(port=port).split(), "served:app"],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                assert once_served(port, process, testing.basic(token)) == 204
            finally:
                process.terminate()
                process.wait(30)
        assert last_used(door, token.id) is not None


def once_served(port: int, process: subprocess.Popen[bytes], authorization: str) -> int:
    """The status of a request, once the server takes one."""
    deadline = time.monotonic() + 30
    while True:
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", "/", headers={"Authorization": authorization})
            return connection.getresponse().status
        except ConnectionError:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        finally:
            connection.close()


def last_used(door: doorkey.Doorkey, token_id: str) -> int | None:
    """When a token was last used, as its store has it."""
    keys = (key for workspace in door.keyring.workspaces() for key in door.keyring.keys(workspace.id))
    (used,) = [stored.last_used_at for key in keys for stored in key.tokens if stored.id == token_id]
    return used


def test_a_flush_writes_at_once(recorder: Recorder) -> None:
    """And what comes later is written later."""
    with UseLog(recorder) as log:
        log(granted(1))
        log.flush()
        assert [[use.token_id for use in call] for call in recorder.calls] == [["tok00001"]]
        log(granted(2))
    assert [[use.token_id for use in call] for call in recorder.calls] == [["tok00001"], ["tok00002"]]


def test_a_child_writes_its_own_uses(recorder: Recorder) -> None:
    """After a fork the child's log is empty, and has a thread of its own from the first use on."""
    log = UseLog(recorder)
    log(granted(1))
    told, tell = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads should not fork
        pid = os.fork()
        if not pid:
            signal.alarm(30)
            log(granted(2))
            log.close()
            os.write(tell, repr([[use.token_id for use in call] for call in recorder.calls]).encode())
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert os.read(told, 1000) == b"[['tok00002']]"
    os.close(told)
    os.close(tell)
    log.close()
    assert [[use.token_id for use in call] for call in recorder.calls] == [["tok00001"]]
    uses._after_fork_in_child()
    assert log._thread is None
