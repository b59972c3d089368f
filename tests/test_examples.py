"""The examples: each runs as its docstring says, lets the right requests in, and is short."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

import doorkey
from doorkey import Doorkey, KeyType
from doorkey.cli import parser
from doorkey.management.secrets import MasterSecrets
from doorkey.storage.urls import secret_file
from doorkey.testing import basic, bearer, issue
from tests.ports import free_port

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LINES = 40


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Doorkey]:
    """A store with its secret in a file of its own, as `doorkey init` makes them."""
    url = f"sqlite:///{tmp_path}/keys.db"
    secrets = MasterSecrets.generate()
    path = secret_file(url)
    assert path is not None
    secrets.write(path)
    with doorkey.create(url, secret=secrets) as door:
        yield door


@contextmanager
def running(example: Path, tmp_path: Path) -> Iterator[int]:
    """The example in a process of its own, in which a warning is an error; gives its port."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DOORKEY")}
    environment |= {
        "DOORKEY_STORE": f"sqlite:///{tmp_path}/keys.db",
        "DOORKEY_SECRET": (tmp_path / "keys.db.secret").read_text(),
        "PORT": str(port),
        "PYTHONPATH": str(Path(doorkey.__file__).parents[1]),
    }
    with subprocess.Popen(
        [sys.executable, "-W", "error", str(example)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            wait_for(port, process)
            yield port
        finally:
            process.send_signal(signal.SIGKILL)
            output, _ = process.communicate()
    assert "Traceback" not in output, output
    assert "Warning" not in output, output


def wait_for(port: int, process: subprocess.Popen[str]) -> None:
    """Wait until somebody listens there."""
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=10):
            return
        time.sleep(0.02)


def get(port: int, path: str = "/", **headers: str) -> tuple[HTTPResponse, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response, response.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_lets_the_right_requests_in(example: Path, door: Doorkey, tmp_path: Path) -> None:
    """A key by Basic or Bearer; none, a publishable one and one for something else are turned away."""
    token = issue(door, permissions=["messages:read"])
    (workspace, *_) = door.keyring.workspaces()
    elsewhere = issue(door, workspace=workspace.id, permissions=["charges"])
    publishable = issue(door, workspace=workspace.id, type=KeyType.PUBLISHABLE)
    with running(example, tmp_path) as port:
        for credentials in (basic(token), bearer(token)):
            response, body = get(port, Authorization=credentials)
            assert response.status == 200
            assert workspace.id in body
        response, body = get(port)
        assert (response.status, "api_key_missing" in body) == (401, True)
        schemes = [value.split()[0] for value in response.headers.get_all("WWW-Authenticate", [])]
        assert schemes == ["Basic", "Bearer"]
        response, body = get(port, Origin="https://shop.example")
        assert response.headers.get_all("WWW-Authenticate") == ['Bearer realm="API"']
        response, body = get(port, Authorization=basic(elsewhere))
        assert (response.status, "insufficient_permissions" in body) == (403, True)
        response, body = get(port, Authorization=basic(publishable))
        assert (response.status, "secret_key_required" in body) == (403, True)
        response, body = get(port, "/healthz")
        assert response.status == (
            200 if "open" in example.read_text("utf-8").lower().replace("doorkey.open", "") else 401
        )


def test_there_is_one_for_each_kind_of_server() -> None:
    """An own server without an adapter, an ASGI and a WSGI application."""
    assert {"http_server", "starlette_app", "flask_app"} <= {path.stem for path in EXAMPLES}
    assert "adapters" not in (ROOT / "examples" / "http_server.py").read_text("utf-8")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(example: Path) -> None:
    """It fits on a page."""
    assert len(example.read_text("utf-8").splitlines()) <= LINES


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_says_how_to_run_it(example: Path) -> None:
    """Its docstring begins with a sentence, names the file itself, and calls the command line as it is."""
    source = example.read_text("utf-8")
    assert re.match(r'"""\n[A-Z].*\.\n\n    ', source)
    docstring = source.split('"""')[1]
    assert f"python examples/{example.name}" in docstring
    calls = re.findall(r"\bdoorkey ([^&#)\n]+)", docstring.partition("\n\n")[2])
    assert len(calls) == 3
    for call in calls:
        parser().parse_args(shlex.split(call))
