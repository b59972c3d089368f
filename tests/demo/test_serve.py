"""Real servers on loopback: they start, answer, and leave nothing behind."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable
from http.client import HTTPConnection
from typing import Any

import pytest

from doorkey.core.errors import ConfigurationError
from doorkey.demo import serve
from tests.ports import free_port


async def asgi_application(scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    """Tells the client that it sees, and what was sent; knows no lifespan."""
    assert scope["type"] == "http"
    seen = f"{scope['client'][0]} {scope['scheme']} {(await receive())['body'].decode()}"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": seen.strip().encode()})


def wsgi_application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The same."""
    sent = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode()
    start_response("200 OK", [])
    return [f"{environ['REMOTE_ADDR']} {environ['wsgi.url_scheme']} {sent}".strip().encode()]


RUNNING = {
    "asgi": lambda: serve.serving_asgi(asgi_application),
    "wsgi": lambda: serve.serving_wsgi(wsgi_application),
}


def fetch(port: int, **headers: str) -> bytes:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/", headers=headers)
        return connection.getresponse().read()
    finally:
        connection.close()


@pytest.mark.parametrize("kind", RUNNING)
def test_a_server_runs_for_as_long_as_its_context(kind: str) -> None:
    """Then its port is closed and its threads are gone, also after an error."""
    before = threading.enumerate()
    with pytest.raises(RuntimeError, match="enough"), RUNNING[kind]() as port:
        assert fetch(port) == b"127.0.0.1 http"
        raise RuntimeError("enough")
    with pytest.raises(ConnectionRefusedError):
        fetch(port)
    assert set(threading.enumerate()) <= set(before)


@pytest.mark.parametrize("kind", RUNNING)
def test_a_server_takes_no_clients_word_for_its_address(kind: str) -> None:
    """The peer is handed over as it is: whom to believe is for doorkey to decide."""
    with RUNNING[kind]() as port:
        spoofed = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https", "Forwarded": "for=203.0.113.7"}
        assert fetch(port, **spoofed) == b"127.0.0.1 http"


@pytest.mark.parametrize("kind", RUNNING)
def test_a_body_arrives_whole_from_a_client_that_offers_http_2(kind: str) -> None:
    """As Java's does, unless it is told otherwise; the answer is of HTTP/1.1."""
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQ"}
    with RUNNING[kind]() as port:
        connection = HTTPConnection(serve.HOST, port, timeout=5)
        connection.request("POST", "/", b"amount=5", offer)
        assert connection.getresponse().read() == b"127.0.0.1 http amount=5"
        connection.close()


@pytest.mark.parametrize("kind", RUNNING)
def test_a_server_says_nothing_of_requests(
    kind: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A request's target may hold a key; and whoever reads the screen reads our table."""
    caplog.set_level(logging.INFO)
    with RUNNING[kind]() as port:
        fetch(port)
    assert capfd.readouterr() == ("", "")
    assert "GET" not in caplog.text


def test_a_port_of_ones_own_choice() -> None:
    """It is taken, on loopback only; one that is taken already, or is none, is refused in words."""
    with serve.listen(0) as listener:
        host, port = listener.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(ConfigurationError, match=f"port {port} of 127.0.0.1 cannot be had"):
            serve.listen(port)
    with serve.listen(port) as again:
        assert again.getsockname() == (host, port)
    for number in (-1, 65_536):
        with pytest.raises(ConfigurationError, match="is no port"):
            serve.listen(number)


def test_the_usual_port_or_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a choice it is the usual one, and if that is taken a free one."""
    usual = free_port()
    monkeypatch.setattr(serve, "USUAL_PORT", usual)
    with serve.listen() as first, serve.listen() as second:
        assert first.getsockname()[1] == usual
        assert second.getsockname()[1] not in (0, usual)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_context_and_nothing_else(sign: signal.Signals) -> None:
    """What is open inside is closed, and the handlers are as before."""
    before = signal.getsignal(sign)
    tidied = False
    with serve.until_stopped():
        try:
            signal.raise_signal(sign)
            signal.pause()
        finally:
            tidied = True
    assert tidied
    assert signal.getsignal(sign) is before


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_serving_goes_on_until_a_signal(sign: signal.Signals) -> None:
    """Requests are answered; then the signal stops the server, and the context around it ends."""
    answers: list[bytes] = []

    def visit(port: int) -> None:
        try:
            answers.append(fetch(port))
        finally:
            os.kill(os.getpid(), sign)

    with serve.until_stopped(), serve.listen(0) as listener:
        visitor = threading.Thread(target=visit, args=listener.getsockname()[1:])
        visitor.start()
        serve.serve(asgi_application, listener)
    visitor.join()
    assert answers == [b"127.0.0.1 http"]
    assert isinstance(listener, socket.socket)
    assert listener.fileno() == -1
