"""What a request got, beside what it should have got: asking over real HTTP, and the table of the answers."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import NamedTuple
from urllib.parse import urlencode

from .service import Content

Header = tuple[str, str]
Write = Callable[[str], object]

TIMEOUT = 10
"""Seconds that an answer may take."""

_ROW = "  {:4}  {:20}  {:30}  {:28}  {}"


LACKING = "insufficient_permissions"


class Outcome(NamedTuple):
    """What counts of a response: its status, what it says of itself, and the schemes that it challenges with."""

    status: int
    note: str = ""
    challenges: tuple[str, ...] = ()

    def __str__(self) -> str:
        said = f"{self.status or ''} {self.note}".strip()
        usual = self.challenges == _usual(self.status, self.note)
        return said if usual else f"{said}, {' '.join(self.challenges) or 'no challenge'}"


def unauthorized(code: str, *challenges: str) -> Outcome:
    """A 401, which always has challenges: both, unless told otherwise."""
    return Outcome(401, code, challenges or _usual(401, code))


def forbidden(code: str) -> Outcome:
    """A 403, which has none, unless permissions are lacking."""
    return Outcome(403, code, _usual(403, code))


def _usual(status: int, code: str) -> tuple[str, ...]:
    """The schemes that go without saying."""
    return ("Basic", "Bearer") if status == 401 else ("Bearer",) if code == LACKING else ()


def basic(token: str, password: str = "") -> Header:
    """The key as user name."""
    return "Authorization", "Basic " + b64encode(f"{token}:{password}".encode()).decode("ascii")


def bearer(token: str) -> Header:
    """The key as a Bearer token."""
    return "Authorization", f"Bearer {token}"


class Report:
    """The table: writes each row as soon as it is known, and counts."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self.right: int = 0
        self.wrong: int = 0

    def server(self, title: str) -> None:
        """Begin the rows of one server."""
        self._write(f"\n{title}\n\n{_ROW.format('', 'request', '', 'expected', 'received')}")

    def chapter(self, title: str) -> None:
        """Begin a part of the story."""
        self._write(f"\n  {title}")

    def row(self, request: str, about: str, expected: object, received: object) -> None:
        """Compare, write and count."""
        right = expected == received
        self.right += right
        self.wrong += not right
        self._write(_ROW.format("ok" if right else "FAIL", request, about, str(expected), received))


class Client:
    """Asks one server, and reports what it answers."""

    def __init__(self, port: int, report: Report) -> None:
        self._port = port
        self.report = report

    def ask(
        self,
        request: str,
        about: str,
        expected: Outcome,
        *headers: Header,
        form: Mapping[str, str] | None = None,
        id: str = "",
    ) -> Content:
        """
        Send a request such as ``GET /v1/charges/{id}``, report what came back, and return the object in it.

        What stands in a query is not shown.
        """
        method, target = request.split(" ")
        received, content = self._exchange(method, target.format(id=id), headers, urlencode(form or {}))
        self.report.row(request.partition("?")[0], about, expected, received)
        return content

    def _exchange(self, method: str, target: str, headers: Iterable[Header], body: str) -> tuple[Outcome, Content]:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT)
        try:
            connection.putrequest(method, target)
            for header in headers:  # a line for each, also if they have one name
                connection.putheader(*header)
            if body:
                connection.putheader("Content-Type", "application/x-www-form-urlencoded")
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body.encode())
            return _understood(connection.getresponse())
        except (OSError, HTTPException) as error:
            return Outcome(0, type(error).__name__), {}
        finally:
            connection.close()


def _understood(response: HTTPResponse) -> tuple[Outcome, Content]:
    content = _content(response.read())
    challenges = response.headers.get_all("WWW-Authenticate", [])
    schemes = tuple(challenge.partition(" ")[0] for challenge in challenges)
    return Outcome(response.status, _note(content), schemes), content


def _content(body: bytes) -> Content:
    try:
        content = json.loads(body)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _note(content: Content) -> str:
    """The code of an error in either shape, or the mode of an object by either name."""
    for name in ("livemode", "live"):
        if name in content:
            return f"livemode {json.dumps(content[name])}"
    error = content.get("error", content)
    return str(error["code"]) if isinstance(error, dict) and "code" in error else ""
