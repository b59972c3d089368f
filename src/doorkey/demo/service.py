"""
A small payments-and-messages service without a framework: what both applications of the demo serve.

Charges, payments, payment tokens and messages. Each object has ``id``, ``object``, ``created`` and ``livemode``,
belongs to one workspace, and lives in the database of its mode. How that looks to a client is for
:mod:`doorkey.demo.wire`.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..core.model import Mode
from ..core.tokens import random_base62

Content = dict[str, Any]
"""An object, as it is kept."""


class Fault(Exception):
    """
    A request that cannot be served, in the words that its client gets.

    Attributes:
        param: the field that is to blame, if one is.
        type: by which Stripe's clients tell errors of one status apart.
    """

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, *, type: str = "invalid_request_error"
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.type = type


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


class Page(NamedTuple):
    """Some of the objects of a collection, the newest first."""

    collection: str
    data: list[Content]
    has_more: bool


def _charge(fields: Mapping[str, str]) -> Content:
    return {**_payment(fields), "source": fields.get("source")}


def _payment(fields: Mapping[str, str]) -> Content:
    return {
        "amount": int(fields["amount"]),
        "currency": fields["currency"],
        "description": fields.get("description"),
        "status": "succeeded",
    }


def _payment_token(fields: Mapping[str, str]) -> Content:
    return {"card": {"last4": fields["card[number]"][-4:]}}  # all that is kept of a card


def _message(fields: Mapping[str, str]) -> Content:
    return {"to": fields["to"], "body": fields["body"], "status": "sent"}


_PAID = {
    "amount": Field(re.compile("[1-9][0-9]{0,7}", re.ASCII), "a whole number of cents, 1 to 99999999"),
    "currency": Field(re.compile("[a-z]{3}", re.ASCII), "three lower-case letters, such as kes"),
    "description": Field(re.compile(".{1,500}", re.DOTALL), "1 to 500 characters", required=False),
}

KINDS: Mapping[str, Kind] = {
    "charges": Kind(
        "charge",
        "ch",
        {
            **_PAID,
            "source": Field(re.compile("tok_[0-9A-Za-z]{24}", re.ASCII), "the id of a payment token", required=False),
        },
        _charge,
    ),
    "payments": Kind("payment", "pay", _PAID, _payment),  # as Falu's clients call what Stripe's call charges
    "tokens": Kind(
        "token",
        "tok",
        {
            "card[number]": Field(re.compile("[0-9]{12,19}", re.ASCII), "the 12 to 19 digits of a card"),
            "card[exp_month]": Field(re.compile("0?[1-9]|1[0-2]", re.ASCII), "a month, 1 to 12", required=False),
            "card[exp_year]": Field(re.compile("(20)?[0-9]{2}", re.ASCII), "a year, such as 2030", required=False),
            "card[cvc]": Field(re.compile("[0-9]{3,4}", re.ASCII), "3 or 4 digits", required=False),
        },
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
    content TEXT NOT NULL,
    idempotency_key TEXT,
    UNIQUE (workspace, idempotency_key)
) STRICT
"""

_LONGEST_IDEMPOTENCY_KEY = 255


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

    def create(
        self, workspace: str, collection: str, sent: Mapping[str, object], idempotency_key: str | None = None
    ) -> Content:
        """
        Make an object out of the fields that a client sent; or give the one that it made by the same *idempotency_key*,
        because a client whose answer was lost asks again, and shall not pay twice.

        Raises:
            Fault: there is no such collection, or a field is missing, unknown or cannot be used; or the idempotency key
                is too long, or was used for something else.
        """
        kind = _kind(collection)
        fields = _checked(kind.fields, sent)
        made = kind.make(fields)
        head = {
            "id": f"{kind.prefix}_{random_base62(24)}",
            "object": kind.object,
            "created": int(time.time()),
            "livemode": self._livemode,
        }
        content = {**head, **made}
        with self._connected() as connection:
            connection.execute("BEGIN IMMEDIATE")  # of two requests with one idempotency key, the second waits
            if idempotency_key and (before := _made_before(connection, workspace, idempotency_key)):
                return _the_same(before, {"object": kind.object, **made})
            source = fields.get("source")
            if source is not None and _find(connection, workspace, "token", source) is None:
                raise Fault(400, "resource_missing", f"There is no payment token {source!r} in this mode.", "source")
            connection.execute(
                "INSERT INTO objects (id, workspace, object, content, idempotency_key) VALUES (?, ?, ?, ?, ?)",
                (content["id"], workspace, kind.object, json.dumps(content), idempotency_key or None),
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

    def list(self, workspace: str, collection: str, query: Mapping[str, str]) -> Page:
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
        return Page(collection, [json.loads(content) for (content,) in rows[:limit]], len(rows) > limit)

    def balance(self, workspace: str) -> Content:
        """What all charges and payments come to, per currency."""
        sums: Counter[str] = Counter()
        with self._connected() as connection:
            for (content,) in connection.execute(
                "SELECT content FROM objects WHERE workspace = ? AND object IN ('charge', 'payment')", (workspace,)
            ):
                paid = json.loads(content)
                sums[paid["currency"]] += paid["amount"]
        available = [{"amount": amount, "currency": currency} for currency, amount in sorted(sums.items())]
        return {"object": "balance", "livemode": self._livemode, "available": available}

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """A connection for one call, so that any thread may call; committed at the end, rolled back after an error."""
        with closing(sqlite3.connect(self._path)) as connection, connection:
            yield connection


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


def _made_before(connection: sqlite3.Connection, workspace: str, idempotency_key: str) -> Content | None:
    """The object that was made by this key."""
    if len(idempotency_key) > _LONGEST_IDEMPOTENCY_KEY:
        message = f"An idempotency key has {_LONGEST_IDEMPOTENCY_KEY} characters at most."
        raise Fault(400, "idempotency_key_invalid", message, type="idempotency_error")
    row = connection.execute(
        "SELECT content FROM objects WHERE workspace = ? AND idempotency_key = ?", (workspace, idempotency_key)
    ).fetchone()
    content: Content | None = row and json.loads(row[0])
    return content


def _the_same(before: Content, asked: Content) -> Content:
    """
    *before*, if it is what is asked for now.

    Compared is what is kept, because a request is not: it may have held the number of a card.
    """
    if not asked.items() <= before.items():
        message = "This idempotency key was used for another request. Make a new one for each."
        raise Fault(400, "idempotency_key_reused", message, type="idempotency_error")
    return before
