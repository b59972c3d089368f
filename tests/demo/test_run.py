"""`doorkey demo`, as the command line calls it: the check, and the service that runs until it is stopped."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest

import doorkey
from doorkey.demo import run
from doorkey.testing import basic
from tests.ports import free_port

TOKEN = re.compile("[sp]k_(?:live|test)_[0-9A-Za-z]{8}_[0-9A-Za-z]{36}")
SRC = Path(doorkey.__file__).parents[1]


def status_of(port: int, method: str, path: str, token: str | None = None, body: str | None = None) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, {} if token is None else {"Authorization": basic(token)})
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def wait_for(port: int) -> None:
    """Wait until somebody listens there."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=10):
            return
        time.sleep(0.02)


def test_the_check_passes_on_both_servers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Exit code 0; both adapters were driven; hints are shown, tokens are not; everything that was started is gone."""
    threads = threading.enumerate()
    assert run(check=True, folder=tmp_path) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert "ASGI: Starlette on uvicorn" in output.out
    assert "WSGI: Werkzeug, threaded" in output.out
    assert re.search(r"All \d+ answers are as expected", output.out)
    assert "  FAIL" not in output.out
    assert re.search("sk_test_[0-9A-Za-z]{8}_…", output.out)
    assert not TOKEN.search(output.out)
    assert set(threading.enumerate()) <= set(threads)
    with doorkey.open(f"sqlite:///{tmp_path}/keys.db") as door:
        assert [workspace.name for workspace in door.keyring.workspaces()] == ["Acme"]


def test_it_serves_until_it_is_interrupted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Then it stops with exit code 0; the decisions that it made meanwhile are on the screen."""
    port = free_port()
    statuses: list[int] = []

    def visit() -> None:
        try:
            wait_for(port)
            statuses.extend(status_of(port, "GET", path) for path in ("/healthz", "/v1/charges"))
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    visitor = threading.Thread(target=visit)
    visitor.start()
    assert run(port=port, folder=tmp_path) == 0
    visitor.join()
    assert statuses == [200, 401]
    shown = capsys.readouterr().out
    assert f"http://127.0.0.1:{port}" in shown
    assert shown.count("api_key_missing") == 1
    assert shown.endswith("Stopped.\n")


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The demo in a process of its own, and its first screen."""
    code = (
        f"from pathlib import Path; from doorkey.demo import run; raise SystemExit(run(port=0, {', '.join(arguments)}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(SRC), "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=environment,
    ) as process:
        try:
            assert process.stdout is not None
            shown = ""
            while "Each decision" not in shown and (line := process.stdout.readline()):
                shown += line
            yield process, shown
        finally:
            process.kill()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_the_keys_on_the_screen_work(sign: signal.Signals) -> None:
    """Each opens what it should and no more; a signal ends it with exit code 0, and nothing of it stays."""
    with running() as (process, shown):
        secret, publishable, restricted, live, *_ = TOKEN.findall(shown)
        (address,) = set(re.findall(r"http://127.0.0.1:(\d+)", shown))
        (store,) = set(re.findall(r"sqlite:///(\S+)", shown))
        port = int(address)
        charge, message = "amount=2000&currency=kes", "to=254722000000&body=Hello"
        assert [
            status_of(port, "POST", "/v1/charges", secret, charge),
            status_of(port, "GET", "/v1/charges", secret),
            status_of(port, "POST", "/v1/tokens", publishable, f"card[number]={'4242' * 4}"),
            status_of(port, "GET", "/v1/charges", publishable),
            status_of(port, "POST", "/v1/messages", restricted, message),
            status_of(port, "GET", "/v1/charges", restricted),
            status_of(port, "GET", "/v1/balance", live),
            status_of(port, "GET", "/v1/charges"),
        ] == [200, 200, 200, 403, 200, 403, 200, 401]
        assert Path(store).is_file()
        with doorkey.open(f"sqlite:///{store}") as door:
            (workspace,) = door.keyring.workspaces()
            (only,) = [key for key in door.keyring.keys(workspace.id) if key.permissions]
            assert only.id in shown
            door.keyring.acting("ann@acme.example").revoke(only.id, because="trying it out")
        assert status_of(port, "GET", "/v1/messages", restricted) == 401
        process.send_signal(sign)
        told, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, "")
        assert told.endswith("Stopped.\n")
        assert len(re.findall("  granted  ", told)) == 5
        assert len(re.findall("  refused  ", told)) == 4
        assert not TOKEN.search(told)
    assert not Path(store).parent.exists()


def test_a_named_folder_is_kept(tmp_path: Path) -> None:
    """Its store can be opened after the demo has stopped."""
    with running(f"folder=Path({str(tmp_path / 'kept')!r})") as (process, shown):
        process.terminate()
        process.communicate(timeout=20)
        assert process.returncode == 0
        assert f"all stays in {tmp_path / 'kept'}" in shown
    with doorkey.open(f"sqlite:///{tmp_path}/kept/keys.db") as door:
        assert len(list(door.keyring.workspaces())) == 1


def test_importing_the_demo_needs_no_extra() -> None:
    """Only running it does: then what is missing is named by the exception, for the command line to tell."""
    code = (
        "import sys\n"
        "for name in ('starlette', 'uvicorn', 'werkzeug'): sys.modules[name] = None\n"
        "import doorkey.demo\n"
        "try: doorkey.demo.run()\n"
        "except ModuleNotFoundError as error: print(error.name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(SRC)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.partition(".")[0].strip() in ("starlette", "uvicorn", "werkzeug")
