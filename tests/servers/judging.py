"""
Drives a running server with the table, and says of each row what became of it.

``equal``: everything is as the row says. ``server``: the server refused, and did not even hand the request over.
Else a status, and a code or the key of who was let in: a difference, which must stand in :data:`DIFFERENCES`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.adapters.table import ROWS, Row, check
from tests.adapters.wire import Answer
from tests.servers.client import handshake_lines, send
from tests.servers.running import Address, Server

EQUAL, OWN = "equal", "server"


@dataclass(frozen=True)
class Difference:
    """What else may become of rows, on any server, and why nobody is let in who should not be."""

    why: str
    rows: Mapping[str, str]

    def seen(self, outcomes: Mapping[str, str]) -> bool:
        """Whether it is among the outcomes of a server."""
        return any(outcomes.get(row) == outcome for row, outcome in self.rows.items())


DIFFERENCES = (
    Difference(
        "A line feed ends a field line, with or without a carriage return (RFC 9112 §2.2). So what arrives is the good "
        "key before it.",
        dict.fromkeys(
            ("a line feed after the base64", "a line feed in the base64", "a line feed in the field"), "200 secret"
        ),
    ),
    Difference(
        "The server takes the path out of an absolute-form target, as RFC 9112 §3.2.2 has it. That path is judged, and "
        "it is the one that the application gets. A key before the host is still not read.",
        {
            "a key in the userinfo of an absolute-form target": "401 api_key_missing",
            "absolute-form": "200 secret",
            "absolute-form of an open path": "200 open",
            "absolute-form without a key": "401 api_key_missing",
            "HEAD of an absolute-form target": "401",
            "a scheme and no authority": "200 open",
            "an absolute-form target": "200 open",
        },
    ),
    Difference(
        "The server drops a fragment. The path before it is judged, and it is the one that the application gets.",
        {"a fragment after an open path": "200 open"},
    ),
    Difference(
        "The server makes one slash of several at the start. The path that is left is judged, and it is the one that "
        "the application gets.",
        {"two slashes before an open path": "200 open", "two slashes at the start": "200 reader"},
    ),
    Difference(
        "The server writes methods in capitals. That method is judged, and it is the one that the application gets.",
        {
            "get in lower case, open in capitals": "200 open",
            "get in lower case": "200 reader",
            "post in lower case": "200 messages",
            "head in lower case, open in capitals": "200",
        },
    ),
    Difference(
        "The server hands a target without a path over as an empty path, which no rule describes: it takes an "
        "unrestricted secret key.",
        {"CONNECT": "no answer for secret", "a path without a slash": "401 api_key_missing"},
    ),
    Difference(
        "A request line of two words is HTTP/0.9 to the server, so its refusal goes out without a status line.",
        dict.fromkeys(("an empty path", "no path at all"), "no answer"),
    ),
    Difference(
        "The server strips a no-break space, as if it were white space.",
        {"octets above ASCII in a hop": "200 office"},
    ),
    Difference(
        "The server drops a field whose value is not ASCII.",
        dict.fromkeys(
            (
                "a wide digit in the key",
                "octets above ASCII in the field",
                "octets above ASCII in another scheme",
            ),
            "401 api_key_missing",
        ),
    ),
    Difference(
        "The server drops fields whose names have underscores, so a proxy's field that is spelt so is missing.",
        {"WSGI cannot tell the spellings apart": "403 network_not_allowed"},
    ),
)

ALLOWED = {(row, outcome) for difference in DIFFERENCES for row, outcome in difference.rows.items()}


@dataclass(frozen=True)
class Keys:
    """What of a house the tests need: tokens, and the names of principals, which stand for them."""

    tokens: Mapping[str, str]
    principals: Mapping[str, str]


def keys(address: Address) -> dict[str, Keys]:
    """The keys that a site knows, by profile."""
    known: Mapping[str, Mapping[str, Any]] = ask(address, "keys")
    return {
        profile: Keys(house["tokens"], {name: name for name in house["principals"]}) for profile, house in known.items()
    }


@dataclass(frozen=True)
class Log:
    """
    What a site has noted since it was asked last.

    Attributes:
        reached: the row of each request that the server handed over.
        entered: row, path and key of each request that doorkey let in.
    """

    reached: Sequence[str]
    entered: Sequence[tuple[str, str, str | None]]

    def names(self, row: str) -> list[str | None]:
        """Who was let in for a row."""
        return [name for number, _, name in self.entered if number == row]


def log(address: Address) -> Log:
    """Ask a site what it has noted."""
    noted = ask(address, "log")
    return Log(noted["reached"], [(row, path, name) for row, path, name in noted["entered"]])


def ask(address: Address, question: str) -> Any:
    """What the site itself answers."""
    answer = send(address, "/", "Host: api.example", f"X-Ask: {question}")
    assert answer is not None and answer.status == 200, answer
    return json.loads(answer.body)


def rows(server: Server) -> dict[int, Row]:
    """The rows that a server can be driven with, by their numbers in the table."""
    return {
        number: replace(row, denial=server.denials) if row.websocket else row
        for number, row in enumerate(ROWS)
        if row.only in ("", server.interface)
        and (server.websockets or not row.websocket)
        and (row.denial or not server.denials)
    }


def drive(server: Server, address: Address, through: Address | None = None) -> tuple[dict[str, str], Log]:
    """Send every row to a running server, or *through* a proxy; return each outcome, and what the site noted."""
    houses = keys(address)
    log(address)  # and forget what came before
    chosen = rows(server)
    answers = {number: _sent(through or address, number, row, houses[row.profile]) for number, row in chosen.items()}
    noted = log(address)
    outcomes = {
        row.name: outcome(row, answers[number], noted, str(number), houses[row.profile])
        for number, row in chosen.items()
    }
    return outcomes, noted


def _sent(address: Address, number: int, row: Row, known: Keys) -> Answer | None:
    host, *fields = [f"{name}: {value}" for name, value in row.lines(known.tokens)]
    lines = [host, f"X-Row: {number}", *(handshake_lines() if row.websocket else ()), *fields]
    return send(address, row.mount + row.filled_target(known.tokens), *lines, method=row.method)


def outcome(row: Row, answer: Answer | None, noted: Log, number: str, known: Keys) -> str:
    """What became of a row."""
    if number not in noted.reached:
        return OWN
    entered: Any = noted.names(number)
    if answer is None:
        return " for ".join(["no answer", *map(str, entered)])
    if row.websocket and row.code and not row.denial:
        return EQUAL if (answer.status, answer.body, entered) == (403, b"", []) else told(answer)
    house: Any = known
    try:
        check(row, answer, entered, house)
    except (AssertionError, LookupError, ValueError):
        return told(answer)
    return EQUAL


def told(answer: Answer) -> str:
    """An answer in two words: its status, and its code or whom the application saw."""
    try:
        body = json.loads(answer.body)
    except ValueError:
        said = answer.body.decode()
    else:
        said = body.get("error", body).get("code", "")
    return f"{answer.status} {said}".strip()


@dataclass(frozen=True)
class Site:
    """A running server with the site on it."""

    server: Server
    address: Address
