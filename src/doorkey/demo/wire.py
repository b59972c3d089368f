"""
The service on the wire: what the clients of either model system send, and the form in which they expect an answer.

Stripe's clients, and so those of systems like it, send forms and read ``livemode``. Falu's send JSON and read ``live``,
lists that are bare arrays, and times in words. Both repeat a request under the idempotency key of the first. All else
that they send (``Stripe-Version``, ``X-Live-Mode``, ``X-Workspace-Id``, …) counts nothing: the key alone says whose
data in which mode.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qsl

from ..core.profiles import FALU, ErrorShape, Profile
from ..core.refusals import new_request_id
from .service import Content, Fault, Page


class Wire(NamedTuple):
    """What one system writes differently from another."""

    idempotency_field: str
    object: Callable[[Content], Content]
    page: Callable[[Page], Content | list[Content]]


def _stripe_object(content: Content) -> Content:
    return content


def _stripe_page(page: Page) -> Content:
    return {"object": "list", "url": f"/v1/{page.collection}", "has_more": page.has_more, "data": page.data}


def _falu_object(content: Content) -> Content:
    rest = {name: value for name, value in content.items() if name not in ("object", "livemode")}
    if "created" in rest:
        rest["created"] = datetime.fromtimestamp(rest["created"], UTC).isoformat()
    return {**rest, "live": content["livemode"]}


def _falu_page(page: Page) -> list[Content]:
    return [_falu_object(content) for content in page.data]


_STRIPES = Wire("Idempotency-Key", _stripe_object, _stripe_page)
_FALUS = Wire("X-Idempotency-Key", _falu_object, _falu_page)


def of(profile: Profile) -> Wire:
    """The form of a profile's system; Stripe's unless it has one of its own."""
    return _FALUS if profile.name == FALU.name else _STRIPES


def read_fields(content_type: str, body: bytes) -> Content:
    """
    The fields of a request's body: a JSON object, or a form, as `curl -d` sends.

    One that lies in another is named ``card[number]``, as forms do.

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
    flat: Content = {}
    for name, value in fields.items():
        flat |= (
            {f"{name}[{inner}]": part for inner, part in value.items()} if isinstance(value, dict) else {name: value}
        )
    return flat


class Answer(NamedTuple):
    """A response, in the order in which the response classes of Starlette and Werkzeug alike take its parts."""

    body: bytes
    status: int
    headers: dict[str, str]


def answer(result: Content | Page, profile: Profile) -> Answer:
    """The response that carries an object, or a page of them."""
    form = of(profile)
    body = form.page(result) if isinstance(result, Page) else form.object(result)
    return Answer(_json(body), 200, {"Content-Type": "application/json", "Request-Id": new_request_id()})


def fault_answer(fault: Fault, profile: Profile) -> Answer:
    """The response that tells a fault, in the shape that refusals have under this profile."""
    members = {"code": fault.code, "message": fault.message, "request_id": new_request_id()}
    if fault.param:
        members["param"] = fault.param
    headers = {"Content-Type": "application/json", "Request-Id": members["request_id"]}
    body: Content = {"error": {"type": fault.type, **members}}
    if profile.errors is ErrorShape.PROBLEM:
        headers["Content-Type"] = "application/problem+json"
        title = HTTPStatus(fault.status).phrase
        body = {"type": "about:blank", "title": title, "status": fault.status, "detail": fault.message, **members}
    return Answer(_json(body), fault.status, headers)


def unrouted(method: str, path: str) -> Fault:
    """What is told of a request that no route of the application takes."""
    return Fault(404, "path_unknown", f"There is no {method} {path}.")


def _json(content: object) -> bytes:
    return json.dumps(content, indent=2).encode() + b"\n"  # read by people, with curl
