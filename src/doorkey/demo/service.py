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
    return {**_paid(fields), "source": fields.get("source")}


def _payment(fields: Mapping[str, str]) -> Content:
    mpesa = {name: fields[f"mpesa[{name}]"] for name in _MPESA if f"mpesa[{name}]" in fields}
    return {**_paid(fields), "customer": fields.get("customer"), "mpesa": mpesa or None}


def _paid(fields: Mapping[str, str]) -> Content:
    return {
        "amount": int(fields["amount"]),
        "currency": fields["currency"],
        "description": fields.get("description"),
        "status": "succeeded",
    }


def _payment_token(fields: Mapping[str, str]) -> Content:
    return {"card": {"last4": fields["card[number]"][-4:]}}  # all that is kept of a card


def _message(fields: Mapping[str, str]) -> Content:
    return {"to": fields["to"], "body": fields["body"], "stream": fields.get("stream"), "status": "sent"}


_PHONE = Field(re.compile(r"\+?[1-9][0-9]{6,14}", re.ASCII), "a telephone number, such as 254722000000")
_WORD = Field(re.compile("[0-9A-Za-z_.-]{1,64}", re.ASCII), "1 to 64 letters, digits, dots, dashes", required=False)
_MPESA: Mapping[str, Field] = {
    "phone": _PHONE._replace(required=False),
    "reference": _WORD,
    "destination": _WORD,
    "paybill": Field(re.compile("true|false"), "true or false", required=False),
}
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
            "source": Field(
                re.compile("tok_(visa|[0-9A-Za-z]{24})", re.ASCII),
                "the id of a payment token; in test mode, tok_visa is one",
                required=False,
            ),
        },
        _charge,
    ),
    "payments": Kind(  # as Falu's clients call what Stripe's call charges
        "payment",
        "pay",
        {**_PAID, "customer": _WORD, **{f"mpesa[{name}]": field for name, field in _MPESA.items()}},
        _payment,
    ),
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
            "to": _PHONE,
            "body": Field(re.compile(".{1,1600}", re.DOTALL), "1 to 1600 characters"),
            "stream": _WORD,
        },
        _message,
    ),
}
"""By the name of the collection."""

_CARD_OF_TESTS = "tok_visa"
_METADATUM = Field(re.compile(".{0,500}", re.DOTALL), "500 characters at most", required=False)
_METADATA = re.compile(r"metadata\[([^\[\]]{1,40})\]")
_MOST_METADATA = 50

_CURSOR = Field(re.compile("[a-z]+_[0-9A-Za-z]{24}", re.ASCII), "the id of an object in this list", required=False)
_QUERY = {
    "limit": Field(re.compile("[1-9][0-9]?|100", re.ASCII), "a number from 1 to 100", required=False),
    "starting_after": _CURSOR,
    "ending_before": _CURSOR,
}

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

_PAGE = "SELECT content FROM objects WHERE workspace = ? AND object = ? AND number {} ? ORDER BY number {} LIMIT ?"
_OLDER, _NEWER = _PAGE.format("<", "DESC"), _PAGE.format(">", "ASC")
_LAST = 2**63 - 1

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
        metadata = _metadata(sent)
        fields = _checked({**kind.fields, **dict.fromkeys(metadata.values(), _METADATUM)}, sent)
        told = {name: fields[field] for name, field in metadata.items() if field in fields}
        made = {**kind.make(fields), "metadata": told}
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
            if not (source is None or (source == _CARD_OF_TESTS and not self._livemode)):
                _number(connection, workspace, "token", source, "source")
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
        A page of a collection, newest first: ``limit`` objects (10), the newest, or those that come after the object
        named ``starting_after``, or right before the one named ``ending_before``.

        Raises:
            Fault: there is no such collection, or the query cannot be used.
        """
        kind = _kind(collection)
        asked = _checked(_QUERY, query)
        limit = int(asked.get("limit", 10))
        cursors = [name for name in ("starting_after", "ending_before") if name in asked]
        if len(cursors) > 1:
            raise Fault(400, "parameter_invalid", f"Name one of {' and '.join(cursors)}, not both.", cursors[1])
        with self._connected() as connection:
            edge = _LAST
            for name in cursors:
                edge = _number(connection, workspace, kind.object, asked[name], name)
            backwards = cursors == ["ending_before"]
            rows = connection.execute(
                _NEWER if backwards else _OLDER, (workspace, kind.object, edge, limit + 1)
            ).fetchall()
        data = [json.loads(content) for (content,) in rows[:limit]]
        return Page(collection, data[::-1] if backwards else data, len(rows) > limit)

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
        text = _text(value)
        if text is None or not field.pattern.fullmatch(text):
            raise Fault(400, "parameter_invalid", f"{name} must be {field.meaning}.", name)
        texts[name] = text
    return texts


def _text(value: object) -> str | None:
    """A value as a form has it, if it can stand in one."""
    if isinstance(value, bool):
        return json.dumps(value)
    return str(value) if isinstance(value, str | int) else None


def _metadata(sent: Mapping[str, object]) -> dict[str, str]:
    """The fields that clients put in for themselves, by their own names."""
    matches = [match for match in map(_METADATA.fullmatch, sent) if match]
    if len(matches) > _MOST_METADATA:
        raise Fault(400, "parameter_invalid", f"metadata has {_MOST_METADATA} fields at most.", "metadata")
    return {match[1]: match[0] for match in matches}


def _number(connection: sqlite3.Connection, workspace: str, object: str, id: str, param: str) -> int:
    """Where an object stands that a client names in a field."""
    found = _find(connection, workspace, object, id)
    if found is None:
        raise Fault(400, "resource_missing", f"There is no {object} {id!r} in this mode.", param)
    return found[0]


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
