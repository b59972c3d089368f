"""The table: what is asked over HTTP, how the answer is understood, and that a wrong one is counted as wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import create_server
from threading import Thread

import pytest

from doorkey.demo.report import Client, Outcome, Report, basic, bearer, forbidden, unauthorized

Respond = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def serving(respond: Respond) -> Iterator[int]:
    """A server that answers everything by *respond*."""

    class Handler(BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline(65537)
            if self.parse_request():
                respond(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answering(status: int, body: bytes = b"", headers: Iterable[tuple[str, str]] = ()) -> Respond:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for header in headers:
            handler.send_header(*header)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return respond


def outcome_of(respond: Respond) -> str:
    """How the answer of *respond* is shown."""
    lines: list[str] = []
    with serving(respond) as port:
        Client(port, Report(lines.append)).ask("GET /x", "anything", Outcome(0))
    return lines[0][-60:].split("  ")[-1].strip()


BOTH = [("WWW-Authenticate", 'Basic realm="API"'), ("WWW-Authenticate", 'Bearer realm="API"')]


@pytest.mark.parametrize(
    ("respond", "shown"),
    [
        (answering(200), "200"),
        (answering(200, b"[]"), "200"),
        (answering(200, b"{}"), "200"),
        (answering(200, b'{"livemode": true}'), "200 livemode true"),
        (answering(200, b'{"livemode": false, "id": "ch_1"}'), "200 livemode false"),
        (answering(403, b'{"error": {"code": "network_not_allowed"}}'), "403 network_not_allowed"),
        (answering(200, b'{"live": true}'), "200 livemode true"),
        (answering(403, b'{"status": 403, "code": "network_not_allowed"}'), "403 network_not_allowed"),
        (answering(500, b'{"error": "oops"}'), "500"),
        (answering(500, b'{"error": {}}'), "500"),
        (answering(500, b"\xff"), "500"),
        (answering(401, b'{"error": {"code": "api_key_missing"}}', BOTH), "401 api_key_missing"),
        (answering(401, b"", BOTH[1:]), "401, Bearer"),
        (answering(401, b'{"error": {"code": "api_key_missing"}}'), "401 api_key_missing, no challenge"),
        (answering(200, b"", BOTH), "200, Basic Bearer"),
        (lambda handler: None, "RemoteDisconnected"),
        (lambda handler: handler.wfile.write(b"nonsense\r\n\r\n") and None, "BadStatusLine"),
    ],
)
def test_an_answer_is_understood(respond: Respond, shown: str) -> None:
    """By its status, its code or mode, and its challenges; what is no answer is named, and nothing raises."""
    assert outcome_of(respond) == shown


def test_nobody_listens() -> None:
    """That is an outcome as well."""
    with create_server(("127.0.0.1", 0)) as socket:
        port = socket.getsockname()[1]
    lines: list[str] = []
    report = Report(lines.append)
    assert Client(port, report).ask("GET /x", "anything", Outcome(200)) == {}
    assert (report.right, report.wrong) == (0, 1)
    assert "FAIL" in lines[0]
    assert "ConnectionRefusedError" in lines[0]


def test_what_is_sent() -> None:
    """Method, target, each header as a line of its own, and a form if there is one."""
    seen: list[tuple[object, ...]] = []

    def respond(handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", "0")))
        lines = handler.headers.get_all("Authorization")
        seen.append((handler.command, handler.path, lines, handler.headers["Content-Type"], body))
        answering(200, json.dumps({"id": "ch_2"}).encode())(handler)

    report = Report(lambda line: None)
    with serving(respond) as port:
        client = Client(port, report)
        content = client.ask("GET /v1/charges/{id}?a=b", "two", Outcome(200), bearer("x"), basic("y"), id="ch_1")
        client.ask("POST /v1/charges", "a form", Outcome(200), basic("y", "z"), form={"to": "+1", "body": "ü"})
    assert content == {"id": "ch_2"}
    assert seen == [
        ("GET", "/v1/charges/ch_1?a=b", ["Bearer x", "Basic eTo="], None, b""),
        ("POST", "/v1/charges", ["Basic eTp6"], "application/x-www-form-urlencoded", b"to=%2B1&body=%C3%BC"),
    ]
    assert (report.right, report.wrong) == (2, 0)


def test_a_query_is_not_shown() -> None:
    """It may hold a key, where none belongs."""
    lines: list[str] = []
    with serving(answering(200)) as port:
        Client(port, Report(lines.append)).ask("GET /x?api_key=precious", "anything", Outcome(200))
    assert "precious" not in lines[0]
    assert "GET /x " in lines[0]


@pytest.mark.parametrize(
    ("expected", "received"),
    [
        (Outcome(200), Outcome(401)),
        (Outcome(200), Outcome(200, "livemode true")),
        (unauthorized("api_key_invalid"), unauthorized("api_key_revoked")),
        (unauthorized("api_key_missing"), unauthorized("api_key_missing", "Bearer")),
        (unauthorized("api_key_missing", "Bearer"), unauthorized("api_key_missing")),
        (forbidden("network_not_allowed"), Outcome(403, "network_not_allowed", ("Basic",))),
        ("revealed", "AlreadyRevealed"),
    ],
)
def test_any_difference_is_a_failure(expected: object, received: object) -> None:
    """Of status, code, mode or challenge; what is the same is fine. Both are shown."""
    lines: list[str] = []
    report = Report(lines.append)
    report.row("GET /x", "differs", expected, received)
    assert (report.right, report.wrong) == (0, 1)
    assert lines[0].split()[0] == "FAIL"
    assert str(expected) in lines[0]
    assert str(received) in lines[0]
    report.row("GET /x", "the same", expected, expected)
    assert (report.right, report.wrong) == (1, 1)
    assert lines[1].split()[0] == "ok"


def test_the_columns_stand_one_below_the_other() -> None:
    """The heads too."""
    lines: list[str] = []
    report = Report(lines.append)
    report.server("ASGI")
    report.chapter("Sending")
    report.row("GET /x", "anything", Outcome(200), Outcome(403, "no"))
    title, head = lines[0].strip("\n").split("\n\n")
    assert (title, lines[1]) == ("ASGI", "\n  Sending")
    for name, value in (("request", "GET /x"), ("expected", "200"), ("received", "403 no")):
        assert head.index(name) == lines[2].index(value)
