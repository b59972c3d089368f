"""
End to end: the floor and doorkey, each on a uvicorn of its own, asked by one client in turn.

What is counted are requests a second of the server's own processor time: what it would answer on a core of its own,
whatever else the machine does.

Run as a program it is such a server: ``python -m tests.benchmarks.served floor``.
"""

from __future__ import annotations

import json
import selectors
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import uvicorn
from starlette.responses import PlainTextResponse

from doorkey import Policy, Rule
from doorkey.adapters.asgi import DoorkeyMiddleware
from doorkey.management.secrets import MasterSecrets

from . import floor
from .sample import METHOD, NEEDED, PATH, PEPPER, RULES, field, floor_entries, new_door, new_token, unknown_token
from .table import Row
from .timing import Spread
from .web import starlette_app

GROUP = "end to end on uvicorn, memory store"
HOST = "127.0.0.1"
LOCAL = ("127.0.0.0/8", "198.51.100.0/24")
CONNECTIONS = 32
VALID_IN_FLOOD = 4
BAD_KEYS = 500
WORKED = "/worked"
KINDS = ("bare", "floor", "doorkey")


def rows(rounds: int, seconds: float) -> Iterator[Row]:
    """Valid requests alone, bad ones alone, then a few valid ones in a flood of bad ones; each for so many seconds."""
    with ExitStack() as stack:
        servers = {kind: stack.enter_context(serving(kind)) for kind in KINDS}
        mixes = {
            "valid requests a second": (CONNECTIONS, 0),
            "bad keys refused a second": (0, CONNECTIONS),
            f"{VALID_IN_FLOOD} valid clients among {CONNECTIONS - VALID_IN_FLOOD} with bad keys": (
                VALID_IN_FLOOD,
                CONNECTIONS - VALID_IN_FLOOD,
            ),
        }
        targets = (0.9, None, 0.8)
        for (quantity, (valid, bad)), at_least in zip(mixes.items(), targets, strict=True):
            rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
            for _ in range(rounds):
                for kind, server in servers.items():
                    before = server.worked()
                    good, refused = server.load(valid, bad, seconds)
                    rates[kind].append((good if valid or kind == "bare" else refused) / (server.worked() - before))
            typical = {kind: Spread.of(measured).middle for kind, measured in rates.items()}
            yield Row(
                GROUP,
                quantity,
                f"{typical['doorkey']:,.0f}/s",
                f"floor {typical['floor']:,.0f}/s, bare {typical['bare']:,.0f}/s",
                Spread.of(ours / theirs for ours, theirs in zip(rates["doorkey"], rates["floor"], strict=True)),
                at_least=at_least,
            )


@dataclass(frozen=True)
class Server:
    """A server that runs, and what to send to it."""

    port: int
    valid: bytes
    bad: list[bytes]

    def worked(self) -> float:
        """The processor time that the server has used, in seconds."""
        with closing(HTTPConnection(HOST, self.port)) as connection:
            connection.request("GET", WORKED)
            return float(connection.getresponse().read())

    def load(self, valid: int, bad: int, seconds: float) -> tuple[int, int]:
        """
        Keep so many connections busy, each with one request at a time.

        Returns:
            How many answers had the status 200, and how many had another.
        """
        answered = {True: 0, False: 0}
        with ExitStack() as stack, selectors.DefaultSelector() as waiting:
            for number in range(valid + bad):
                connection = stack.enter_context(socket.create_connection((HOST, self.port)))
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                requests = [self.valid] if number < valid else self.bad[number:] + self.bad[:number]
                client = _Client(connection, requests)
                waiting.register(connection, selectors.EVENT_READ, client)
                client.ask()
            end = perf_counter() + seconds
            while perf_counter() < end:
                for ready, _ in waiting.select(1):
                    status = ready.data.answer()
                    if status is not None:
                        answered[status == b"200"] += 1
                        ready.data.ask()
        return answered[True], answered[False]


class _Client:
    """One connection."""

    def __init__(self, connection: socket.socket, requests: Sequence[bytes]) -> None:
        self._connection = connection
        self._requests = requests
        self._asked = 0
        self._received = b""

    def ask(self) -> None:
        """Send the next request."""
        self._connection.sendall(self._requests[self._asked % len(self._requests)])
        self._asked += 1

    def answer(self) -> bytes | None:
        """The status of a response, once the whole of it is there."""
        received = self._received + self._connection.recv(65536)
        head, end, body = received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or -1)
        if not end or len(body) < length:
            self._received = received
            return None
        self._received = b""
        return head[9:12]


@contextmanager
def serving(kind: str) -> Iterator[Server]:
    """Start a server, and end it."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", __spec__.name, kind]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            valid, *bad = (_request(line) for line in told["lines"])
            yield Server(told["port"], valid, bad)
        finally:
            process.terminate()


def _request(authorization: str) -> bytes:
    return (
        f"{METHOD} {PATH} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: benchmark\r\nAccept: */*\r\n"
        f"Authorization: {authorization}\r\n\r\n"
    ).encode()


def serve(kind: str) -> None:
    """Serve the smallest application behind *kind*, and tell on standard output what to send where."""
    door = new_door(MasterSecrets.generate())
    token = new_token(door, networks=LOCAL)
    bare = starlette_app()
    apps: dict[str, Any] = {
        "bare": bare,
        "floor": floor.asgi(bare, floor.check_of(PEPPER, floor_entries([token], networks=LOCAL).get), RULES),
        "doorkey": DoorkeyMiddleware(bare, door.async_verifier, policy=Policy([Rule(METHOD, PATH, NEEDED)])),
    }
    app = apps[kind]

    async def telling(scope: floor.Scope, receive: floor.Receive, send: floor.Send) -> None:
        if scope["path"] == WORKED:
            await PlainTextResponse(str(process_time()))(scope, receive, send)
        else:
            await app(scope, receive, send)

    lines = [field(token), *(field(unknown_token()) for _ in range(BAD_KEYS))]
    # Its protocol is named, because asyncio sets TCP_NODELAY on such sockets alone.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind((HOST, 0))
        listening.listen()
        told = {"port": listening.getsockname()[1], "lines": [line.decode() for line in lines]}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        config = uvicorn.Config(telling, log_level="warning", access_log=False, lifespan="off", loop="asyncio")
        uvicorn.Server(config).run([listening])


if __name__ == "__main__":
    serve(sys.argv[1])
