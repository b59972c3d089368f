"""Whole requests in one process: what the middleware adds to a bare application, against what the floor adds to it."""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from hashlib import sha256
from hmac import compare_digest
from typing import Any

from flask import Flask
from flask_httpauth import HTTPBasicAuth
from starlette.applications import Starlette
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    AuthenticationError,
    BaseUser,
    SimpleUser,
)
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from doorkey import Policy, Rule
from doorkey.adapters import asgi, wsgi

from . import floor
from .sample import ADDRESS, METHOD, NEEDED, PATH, RULES, Sample, new_sample
from .table import Row
from .timing import Side, Times, added, awaited, by_turns, micros, ratio, statement

POLICY = Policy([Rule(METHOD, PATH, NEEDED)])
PASSWORD = "correct horse battery staple"
ON_STARLETTE = "ASGI, whole requests to Starlette"
ON_FLASK = "WSGI, whole requests to Flask"


def rows(rounds: int) -> Iterator[Row]:
    """ASGI, then WSGI."""
    sample = new_sample()
    times = by_turns(on_starlette(sample), rounds)
    yield added_row(ON_STARLETTE, "added by doorkey", times, "doorkey", "floor", 1.7)
    yield added_row(
        ON_STARLETTE, "added by AuthenticationMiddleware (no digest, no policy)", times, "Starlette's", "floor"
    )
    yield _whole(ON_STARLETTE, "refused, unknown token", times, "doorkey refuses", "floor refuses", 2.0)

    times = by_turns(on_flask(sample), rounds)
    yield added_row(ON_FLASK, "added by doorkey", times, "doorkey", "floor", 1.7)
    yield added_row(
        ON_FLASK, "added by doorkey, against Flask-HTTPAuth with SHA-256", times, "doorkey", "HTTPAuth", 1.0
    )
    yield _whole(ON_FLASK, "refused, unknown token", times, "doorkey refuses", "floor refuses")


# ASGI.


def starlette_app(middleware: tuple[Any, ...] = ()) -> Starlette:
    """The smallest application."""

    async def messages(request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    return Starlette(routes=[Route(PATH, messages)], middleware=list(middleware))


def on_starlette(sample: Sample) -> dict[str, Side]:
    """The same application bare, and behind everything."""
    app = starlette_app()
    behind_floor = floor.asgi(app, sample.check, RULES)
    behind_doorkey = asgi.DoorkeyMiddleware(app, sample.door.async_verifier, policy=POLICY)
    behind_starlettes = AuthenticationMiddleware(app, backend=DocumentedBackend({"ann": PASSWORD}))
    password = b"Basic " + b64encode(f"ann:{PASSWORD}".encode())
    return {
        "bare": asgi_request(app, sample.valid, 200),
        "floor": asgi_request(behind_floor, sample.valid, 200),
        "doorkey": asgi_request(behind_doorkey, sample.valid, 200),
        "Starlette's": asgi_request(behind_starlettes, password, 200),
        "floor refuses": asgi_request(behind_floor, sample.unknown, 401),
        "doorkey refuses": asgi_request(behind_doorkey, sample.unknown, 401),
    }


class DocumentedBackend(AuthenticationBackend):
    """The example of Starlette's documentation, with the comparison that it leaves to the reader."""

    def __init__(self, passwords: dict[str, str]) -> None:
        self.passwords = passwords

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        if "Authorization" not in conn.headers:
            return None
        auth = conn.headers["Authorization"]
        try:
            scheme, credentials = auth.split()
            if scheme.lower() != "basic":
                return None
            decoded = b64decode(credentials).decode("ascii")
        except (ValueError, UnicodeDecodeError, Base64Error) as error:
            raise AuthenticationError("Invalid basic auth credentials") from error
        username, _, password = decoded.partition(":")
        if not compare_digest(self.passwords.get(username, ""), password):
            raise AuthenticationError("Invalid basic auth credentials")
        return AuthCredentials(["authenticated"]), SimpleUser(username)


def asgi_request(app: Callable[..., Awaitable[None]], authorization: bytes, status: int) -> Side:
    """A whole request to an ASGI application, which answers with *status*."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": (ADDRESS, 50_000),
        "scheme": "http",
        "method": METHOD,
        "root_path": "",
        "path": PATH,
        "raw_path": PATH.encode(),
        "query_string": b"",
        "headers": [
            (b"host", b"api.example"),
            (b"user-agent", b"benchmark"),
            (b"accept", b"*/*"),
            (b"authorization", authorization),
        ],
        "state": {},
    }
    answers: list[int] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def first_send(message: MutableMapping[str, Any]) -> None:
        answers.append(message.get("status", 0))

    async def send(message: MutableMapping[str, Any]) -> None:
        pass

    def request(send: Callable[..., Awaitable[None]] = send) -> Any:
        return app(dict(scope), receive, send)

    awaited(lambda: request(first_send))(1)
    if answers != [status, 0]:
        raise RuntimeError(f"the answer has the status {answers}, not {status}")
    return awaited(request)


# WSGI.


def flask_app() -> Flask:
    """The smallest application."""
    app = Flask("benchmark")

    @app.get(PATH)
    def messages() -> str:
        return "hello"

    return app


def on_flask(sample: Sample) -> dict[str, Side]:
    """The same application bare, and behind everything."""
    bare = flask_app()
    behind_floor = floor.wsgi(bare, sample.check, RULES)
    behind_doorkey = wsgi.DoorkeyMiddleware(bare, sample.door.verifier, policy=POLICY)
    with_httpauth, password = flask_app_with_httpauth()
    return {
        "bare": wsgi_request(bare, sample.valid, "200 OK"),
        "floor": wsgi_request(behind_floor, sample.valid, "200 OK"),
        "doorkey": wsgi_request(behind_doorkey, sample.valid, "200 OK"),
        "HTTPAuth": wsgi_request(with_httpauth, password, "200 OK"),
        "floor refuses": wsgi_request(behind_floor, sample.unknown, "401 Unauthorized"),
        "doorkey refuses": wsgi_request(behind_doorkey, sample.unknown, "401 Unauthorized"),
    }


def flask_app_with_httpauth() -> tuple[Flask, bytes]:
    """The same with Flask-HTTPAuth and one SHA-256, where its documentation has a slow password hash."""
    app, auth = Flask("benchmark"), HTTPBasicAuth()
    digests = {"ann": sha256(PASSWORD.encode()).digest()}

    def verify_password(username: str, password: str) -> str | None:
        digest = digests.get(username)
        if digest is not None and compare_digest(digest, sha256(password.encode()).digest()):
            return username
        return None

    def messages() -> str:
        return "hello"

    auth.verify_password(verify_password)
    app.get(PATH)(auth.login_required(messages))
    return app, b"Basic " + b64encode(f"ann:{PASSWORD}".encode())


def wsgi_request(app: floor.WSGI, authorization: bytes, status: str) -> Side:
    """A whole request to a WSGI application, which answers with *status*."""
    environ = {
        "REQUEST_METHOD": METHOD,
        "SCRIPT_NAME": "",
        "PATH_INFO": PATH,
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": ADDRESS,
        "HTTP_HOST": "api.example",
        "HTTP_USER_AGENT": "benchmark",
        "HTTP_ACCEPT": "*/*",
        "HTTP_AUTHORIZATION": authorization.decode(),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": None,
        "wsgi.errors": None,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    answers: list[str] = []
    b"".join(app(dict(environ), lambda status, headers, error=None: answers.append(status)))
    if answers != [status]:
        raise RuntimeError(f"the answer has the status {answers}, not {status}")

    def start_response(status: str, headers: object, error: object = None) -> None:
        pass

    return statement(
        "b''.join(app(dict(environ), start_response))", app=app, environ=environ, start_response=start_response
    )


def added_row(group: str, quantity: str, times: Times, ours: str, theirs: str, at_most: float | None = None) -> Row:
    """What one side adds to the bare application, against what another adds to it."""
    bare = micros(times, "bare")
    return Row(
        group,
        quantity,
        f"{bare:.1f} + {micros(times, ours) - bare:.1f} µs",
        f"{bare:.1f} + {micros(times, theirs) - bare:.1f} µs",
        added(times, ours, theirs, "bare"),
        at_most,
    )


def _whole(group: str, quantity: str, times: Times, ours: str, theirs: str, at_most: float | None = None) -> Row:
    return Row(
        group,
        quantity,
        f"{micros(times, ours):.1f} µs",
        f"{micros(times, theirs):.1f} µs",
        ratio(times, ours, theirs),
        at_most,
    )
