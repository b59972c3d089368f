"""
A small payments-and-messages service without a framework: what both applications of the demo serve.

Charges, payment tokens and messages. Each object has ``id``, ``object``, ``created`` and ``livemode``, belongs to one
workspace, and lives in the database of its mode.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from ..core.model import Mode
from ..core.profiles import ErrorShape, Profile
from ..core.refusals import new_request_id
from ..core.tokens import random_base62

Content = dict[str, Any]
"""An object as its JSON has it."""


class Fault(Exception):
    """
    A request that cannot be served, in the words that its client gets.

    Attributes:
        param: the field that is to blame, if one is.
    """

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param


class Field(NamedTuple):
    """A field that a client sends: the whole of its text, and that in words."""

    pattern: re.Pattern[str]
    meaning: str
    required: bool = True


class Kind(NamedTuple):
    """What there is to know of the objects of one collection."""

    object: str
    prefix: str
    fields: Mapping[str, Field]
    make: Callable[[Mapping[str, str]], Content]


def _charge(fields: Mapping[str, str]) -> Content:
    return {
        "amount": int(fields["amount"]),
        "currency": fields["currency"],
        "source": fields.get("source"),
        "status": "succeeded",
    }


def _payment_token(fields: Mapping[str, str]) -> Content:
    return {"last4": fields["number"][-4:]}  # all that is kept of a card


def _message(fields: Mapping[str, str]) -> Content:
    return {"to": fields["to"], "body": fields["body"], "status": "sent"}


KINDS: Mapping[str, Kind] = {
    "charges": Kind(
        "charge",
        "ch",
        {
            "amount": Field(re.compile("[1-9][0-9]{0,7}", re.ASCII), "a whole number of cents, 1 to 99999999"),
            "currency": Field(re.compile("[a-z]{3}", re.ASCII), "three lower-case letters, such as kes"),
            "source": Field(re.compile("tok_[0-9A-Za-z]{24}", re.ASCII), "the id of a payment token", required=False),
        },
        _charge,
    ),
    "tokens": Kind(
        "token",
        "tok",
        {"number": Field(re.compile("[0-9]{12,19}", re.ASCII), "the 12 to 19 digits of a card")},
        _payment_token,
    ),
    "messages": Kind(
        "message",
        "msg",
        {
            "to": Field(re.compile(r"\+?[1-9][0-9]{6,14}", re.ASCII), "a telephone number, such as 254722000000"),
            "body": Field(re.compile(".{1,1600}", re.DOTALL), "1 to 1600 characters"),
        },
        _message,
    ),
}
"""By the name of the collection."""

_LIMIT = Field(re.compile("[1-9][0-9]?|100", re.ASCII), "a number from 1 to 100", required=False)
_CURSOR = Field(re.compile("[a-z]+_[0-9A-Za-z]{24}", re.ASCII), "the id of an object in this list", required=False)

_TABLE = """
CREATE TABLE IF NOT EXISTS objects (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    workspace TEXT NOT NULL,
    object TEXT NOT NULL,
    content TEXT NOT NULL
) STRICT
"""


class Database:
    """
    What the workspaces have in one mode, in an SQLite file of its own. Made if it is missing.

    Every method but the constructor is given the workspace that asks, and touches nothing of another's.
    """

    def __init__(self, path: Path, mode: Mode) -> None:
        self._path = path
        self._livemode = mode is Mode.LIVE
        with self._connected() as connection:
            connection.execute(_TABLE)

    def create(self, workspace: str, collection: str, sent: Mapping[str, object]) -> Content:
        """
        Make an object out of the fields that a client sent.

        Raises:
            Fault: there is no such collection, or a field is missing, unknown or cannot be used.
        """
        kind = _kind(collection)
        fields = _checked(kind.fields, sent)
        head = {
            "id": f"{kind.prefix}_{random_base62(24)}",
            "object": kind.object,
            "created": int(time.time()),
            "livemode": self._livemode,
        }
        content = {**head, **kind.make(fields)}
        with self._connected() as connection:
            source = fields.get("source")
            if source is not None and _find(connection, workspace, "token", source) is None:
                raise Fault(400, "resource_missing", f"There is no payment token {source!r} in this mode.", "source")
            connection.execute(
                "INSERT INTO objects (id, workspace, object, content) VALUES (?, ?, ?, ?)",
                (content["id"], workspace, kind.object, json.dumps(content)),
            )
        return content

    def retrieve(self, workspace: str, collection: str, id: str) -> Content:
        """
        One object.

        Raises:
            Fault: there is none, in this mode and workspace.
        """
        kind = _kind(collection)
        with self._connected() as connection:
            found = _find(connection, workspace, kind.object, id) if _CURSOR.pattern.fullmatch(id) else None
        if found is None:
            raise Fault(404, "resource_missing", f"There is no such {kind.object} in this mode.")
        content: Content = json.loads(found[1])
        return content

    def list(self, workspace: str, collection: str, query: Mapping[str, str]) -> Content:
        """
        A page of a collection, newest first: ``limit`` objects (10), those before the one named ``starting_after``.

        Raises:
            Fault: there is no such collection, or the query cannot be used.
        """
        kind = _kind(collection)
        asked = _checked({"limit": _LIMIT, "starting_after": _CURSOR}, query)
        limit = int(asked.get("limit", 10))
        with self._connected() as connection:
            before = None
            if after := asked.get("starting_after"):
                before = _find(connection, workspace, kind.object, after)
                if before is None:
                    raise Fault(400, "resource_missing", f"There is no such {kind.object}.", "starting_after")
            rows = connection.execute(
                "SELECT content FROM objects WHERE workspace = ? AND object = ? AND (? IS NULL OR number < ?) "
                "ORDER BY number DESC LIMIT ?",
                (workspace, kind.object, before and before[0], before and before[0], limit + 1),
            ).fetchall()
        return {
            "object": "list",
            "url": f"/v1/{collection}",
            "has_more": len(rows) > limit,
            "data": [json.loads(content) for (content,) in rows[:limit]],
        }

    def balance(self, workspace: str) -> Content:
        """What all charges come to, per currency."""
        sums: Counter[str] = Counter()
        with self._connected() as connection:
            for (content,) in connection.execute(
                "SELECT content FROM objects WHERE workspace = ? AND object = 'charge'", (workspace,)
            ):
                charge = json.loads(content)
                sums[charge["currency"]] += charge["amount"]
        available = [{"amount": amount, "currency": currency} for currency, amount in sorted(sums.items())]
        return {"object": "balance", "livemode": self._livemode, "available": available}

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """A connection for one call, so that any thread may call; committed at the end, rolled back after an error."""
        with closing(sqlite3.connect(self._path)) as connection, connection:
            yield connection


def read_fields(content_type: str, body: bytes) -> Content:
    """
    The fields of a request's body: a JSON object, or a form, as `curl -d` sends.

    Raises:
        Fault: the body is neither.
    """
    if content_type.partition(";")[0].strip().lower() != "application/json":
        return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise Fault(400, "body_invalid", "The body is no JSON.") from None
    if not isinstance(fields, dict):
        raise Fault(400, "body_invalid", "The body is no JSON object.")
    return fields


class Answer(NamedTuple):
    """A response, in the order in which the response classes of Starlette and Werkzeug alike take its parts."""

    body: bytes
    status: int
    headers: dict[str, str]


def answer(content: Content) -> Answer:
    """The response that carries an object."""
    return Answer(_json(content), 200, {"Content-Type": "application/json"})


def fault_answer(fault: Fault, profile: Profile) -> Answer:
    """The response that tells a fault, in the shape that refusals have under this profile."""
    members = {"code": fault.code, "message": fault.message, "request_id": new_request_id()}
    if fault.param:
        members["param"] = fault.param
    headers = {"Content-Type": "application/json", "Request-Id": members["request_id"]}
    body: Content = {"error": {"type": "invalid_request_error", **members}}
    if profile.errors is ErrorShape.PROBLEM:
        headers["Content-Type"] = "application/problem+json"
        title = HTTPStatus(fault.status).phrase
        body = {"type": "about:blank", "title": title, "status": fault.status, "detail": fault.message, **members}
    return Answer(_json(body), fault.status, headers)


def unrouted(method: str, path: str) -> Fault:
    """What is told of a request that no route of the application takes."""
    return Fault(404, "path_unknown", f"There is no {method} {path}.")


def _json(content: Content) -> bytes:
    return json.dumps(content, indent=2).encode() + b"\n"  # read by people, with curl


def _kind(collection: str) -> Kind:
    if collection not in KINDS:
        raise Fault(404, "path_unknown", f"There is no /v1/{collection}.")
    return KINDS[collection]


def _checked(known: Mapping[str, Field], sent: Mapping[str, object]) -> dict[str, str]:
    """The text of each field that was sent, once all of them can be used."""
    for name in sent:
        if name not in known:
            raise Fault(400, "parameter_unknown", f"{name!r} is not one of {', '.join(known)}.", name)
    texts: dict[str, str] = {}
    for name, field in known.items():
        value = sent.get(name)
        if value is None:
            if field.required:
                raise Fault(400, "parameter_missing", f"{name} is missing: {field.meaning}.", name)
            continue
        text = str(value) if type(value) in (str, int) else ""
        if not field.pattern.fullmatch(text):
            raise Fault(400, "parameter_invalid", f"{name} must be {field.meaning}.", name)
        texts[name] = text
    return texts


def _find(connection: sqlite3.Connection, workspace: str, object: str, id: str) -> tuple[int, str] | None:
    """Number and content of an object."""
    row: tuple[int, str] | None = connection.execute(
        "SELECT number, content FROM objects WHERE id = ? AND workspace = ? AND object = ?", (id, workspace, object)
    ).fetchone()
    return row
