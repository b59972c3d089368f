"""
From a refusal to HTTP: status, header fields, body. The only such mapping; adapters and custom servers use it alike.

Every 401 carries challenges (RFC 9110 §11.6.1): ``Basic`` first (RFC 7617 §2), ``Bearer`` as a field line of its own
(RFC 6750 §3). A request that a browser's script sent is challenged with ``Bearer`` alone, because a ``Basic`` challenge
opens a password window. A key that lacks permissions is told which, as scopes, by ``Bearer`` (§3.1).

Every refusal is kept out of caches and names its request.

A refusal without detail is made from a template, once per profile; nothing is kept of what clients choose.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from itertools import product
from secrets import randbelow, token_hex
from typing import NamedTuple

from .model import Denied, Mode, Reason, Requirement, Unavailable
from .profiles import DEFAULT, ErrorShape, Profile

Headers = tuple[tuple[str, str], ...]

LONGEST_RETRY = 5
"""Seconds; ``Retry-After`` is drawn between 1 and this, so that clients do not come back all at once."""


class Answer(NamedTuple):
    """What one reason means in HTTP."""

    status: int
    code: str
    title: str
    message: str


TABLE: dict[Reason | None, Answer] = {
    Reason.TARGET: Answer(
        400,
        "request_target_invalid",
        "Invalid request target",
        "The request target is no path that begins with a slash.",
    ),
    Reason.MISSING: Answer(
        401,
        "api_key_missing",
        "API key missing",
        "No API key was sent. Send one by HTTP Basic, as user name with an empty password, or as a Bearer token.",
    ),
    Reason.MALFORMED: Answer(
        401,
        "api_key_malformed",
        "API key malformed",
        "The API key is malformed. Check that it was copied whole and is sent once, with an empty password.",
    ),
    Reason.UNKNOWN: Answer(401, "api_key_invalid", "API key invalid", "There is no such API key."),
    Reason.EXPIRED: Answer(
        401, "api_key_expired", "API key expired", "The API key has expired or was rolled. Use a newer one."
    ),
    Reason.REVOKED: Answer(401, "api_key_revoked", "API key revoked", "The API key was revoked."),
    Reason.WORKSPACE_SUSPENDED: Answer(
        403, "workspace_suspended", "Workspace suspended", "The workspace that the API key belongs to is suspended."
    ),
    Reason.NETWORK: Answer(
        403, "network_not_allowed", "Network not allowed", "The API key may not be used from this network; {address}."
    ),
    Reason.UNDECLARED: Answer(
        403,
        "operation_undeclared",
        "Operation undeclared",
        "No API key may do this, because the service does not say what it requires. The key that was sent is valid.",
    ),
    Reason.LIVEMODE: Answer(
        403, "livemode_mismatch", "Wrong mode", "This needs a {needed} mode key; a {given} mode key was sent."
    ),
    Reason.SECRET_KEY_REQUIRED: Answer(
        403, "secret_key_required", "Secret key required", "This needs a secret key; a {publishable} key was sent."
    ),
    Reason.PERMISSIONS: Answer(
        403, "insufficient_permissions", "Insufficient permissions", "The API key is restricted. This needs {needed}."
    ),
    None: Answer(
        503,
        "auth_unavailable",
        "Authentication unavailable",
        "The API key could not be checked. Nothing was done; try again shortly.",
    ),
}
"""The table. ``None`` stands for no verdict."""


def new_request_id() -> str:
    """A fresh name for a request: ``req_`` and 24 hexadecimal digits."""
    return f"req_{token_hex(12)}"


def sent_by_script(origin: str | bytes | None, sec_fetch_mode: str | bytes | None) -> bool:
    """
    Whether a browser's script sent a request, told by the values of ``Origin`` (RFC 6454 §7) and ``Sec-Fetch-Mode``
    (W3C Fetch Metadata §2.2); ``None`` for a field that is absent.
    """
    return origin is not None or sec_fetch_mode not in (None, "navigate", b"navigate")


@dataclass(frozen=True, slots=True)
class _Template:
    """A refusal but for the name of its request: a body in two parts, and the fields that do not depend on it."""

    status: int
    headers: Headers
    raw_headers: tuple[tuple[bytes, bytes], ...]
    body: tuple[bytes, bytes]


@dataclass(slots=True)  # frozen it would cost twice as much, and there is one for each refused request
class Refusal:
    """An HTTP response. For HEAD, send it without its body."""

    status: int
    request_id: str
    body: bytes
    _template: _Template

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The header fields, as WSGI takes them."""
        fields = [*self._template.headers, ("Request-Id", self.request_id), ("Content-Length", str(len(self.body)))]
        if self.status == 503:
            fields.append(("Retry-After", str(1 + randbelow(LONGEST_RETRY))))
        return fields

    @property
    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """The header fields in lower case and octets, as ASGI takes them."""
        fields = [
            *self._template.raw_headers,
            (b"request-id", self.request_id.encode()),
            (b"content-length", b"%d" % len(self.body)),
        ]
        if self.status == 503:
            fields.append((b"retry-after", b"%d" % (1 + randbelow(LONGEST_RETRY))))
        return fields


class Refusals:
    """
    Makes responses out of refusals, in the form of one profile.

    Args:
        profile: realm, error shape, disclosure, words.
        request_id: makes the name of a request: printable ASCII without quotes and backslashes.
    """

    def __init__(self, profile: Profile = DEFAULT, request_id: Callable[[], str] = new_request_id) -> None:
        self._profile = profile
        self._request_id = request_id
        self._templates = {
            (reason, script): self._template(answer, answer.message, script)
            for reason, answer in TABLE.items()
            for script in (False, True)
            if "{" not in answer.message
        }
        if not profile.discloses:
            for hidden, script in product((Reason.EXPIRED, Reason.REVOKED), (False, True)):
                self._templates[hidden, script] = self._templates[Reason.UNKNOWN, script]

    def refusal(self, refused: Denied | Unavailable, *, script: bool = False) -> Refusal:
        """
        The response to a request that *refused* is the verdict on.

        Args:
            script: whether a browser's script sent the request (:func:`sent_by_script`).

        Raises:
            ValueError: ``request_id`` made a name that cannot stand in a header field.
        """
        reason = None if isinstance(refused, Unavailable) else refused.reason
        template = self._templates.get((reason, script))
        if template is None:
            assert isinstance(refused, Denied)  # noqa: S101  # for the types: no verdict has a template
            answer = TABLE[reason]
            message = answer.message.format(**self._details(refused))
            template = self._template(answer, message, script, refused.requirement)
        request_id = self._request_id()
        if not (request_id.isascii() and request_id.isprintable()) or '"' in request_id or "\\" in request_id:
            raise ValueError("a request id is printable ASCII without quotes and backslashes")
        before, after = template.body
        return Refusal(template.status, request_id, before + request_id.encode() + after, template)

    def _details(self, denied: Denied) -> dict[str, str]:
        """What the messages of the table leave open."""
        details = {"publishable": self._profile.publishable_word}
        if denied.reason is Reason.NETWORK:
            seen = denied.client_address
            details["address"] = f"the server saw {seen}" if seen else "the server does not know the client's address"
        if (requirement := denied.requirement) is not None:
            names = requirement.permissions
            plural = "s" if len(names) > 1 else ""
            details["needed"] = f"the permission{plural} {', '.join(names)}" if names else "an unrestricted secret key"
            if denied.reason is Reason.LIVEMODE:
                details["needed"] = "live" if requirement.mode is Mode.LIVE else "test"
                details["given"] = "test" if requirement.mode is Mode.LIVE else "live"
        return details

    def _template(
        self, answer: Answer, message: str, script: bool, requirement: Requirement | None = None
    ) -> _Template:
        headers = tuple(self._headers(answer, script, requirement))
        before, after = json.dumps(self._body(answer, message)).rsplit(r"\u0000", 1)
        return _Template(
            answer.status,
            headers,
            tuple((name.lower().encode(), value.encode()) for name, value in headers),
            (before.encode(), after.encode()),
        )

    def _headers(self, answer: Answer, script: bool, requirement: Requirement | None) -> list[tuple[str, str]]:
        problem = self._profile.errors is ErrorShape.PROBLEM
        headers = [
            ("Content-Type", "application/problem+json" if problem else "application/json"),
            ("Cache-Control", "no-store"),
            ("Vary", "Authorization"),
        ]
        realm = f'realm="{self._profile.realm}"'
        if answer.status == 401:
            headers[-1] = ("Vary", "Authorization, Origin, Sec-Fetch-Mode")
            if not script:
                headers.append(("WWW-Authenticate", f'Basic {realm}, charset="UTF-8"'))
            error = "" if answer is TABLE[Reason.MISSING] else ', error="invalid_token"'
            headers.append(("WWW-Authenticate", f"Bearer {realm}{error}"))
        elif requirement is not None and answer is TABLE[Reason.PERMISSIONS]:
            names = requirement.permissions
            scope = f', scope="{" ".join(names)}"' if names else ""
            headers.append(("WWW-Authenticate", f'Bearer {realm}, error="insufficient_scope"{scope}'))
        return headers

    def _body(self, answer: Answer, message: str) -> dict[str, object]:
        """The members of the body; a NUL stands for the request id, which comes last."""
        doc_url = self._profile.doc_url.format(code=answer.code, section=_SECTIONS[answer.status])
        members = {"code": answer.code, "message": message, "doc_url": doc_url, "request_id": "\x00"}
        if self._profile.errors is ErrorShape.PROBLEM:
            # One type has one title (RFC 9457 §3.1.3); without the code in its address a status is one type.
            title = answer.title if "{code}" in self._profile.doc_url else HTTPStatus(answer.status).phrase
            return {"type": doc_url, "title": title, "status": answer.status, "detail": message, **members}
        return {"error": {"type": "api_error" if answer.status == 503 else "invalid_request_error", **members}}


_SECTIONS = {400: "15.5.1", 401: "15.5.2", 403: "15.5.4", 503: "15.6.4"}
"""Of RFC 9110, by status."""
