"""
What an OpenAPI document (3.1) says of operations that need a key: the schemes, the refusals, and their body.

Plain JSON values, for adapters of frameworks that make such documents.
"""

from __future__ import annotations

from typing import Any, Final

from .model import Requirement
from .profiles import ErrorShape, Profile
from .refusals import LONGEST_RETRY, TABLE

Json = dict[str, Any]

BASIC: Final = "ApiKeyBasic"
BEARER: Final = "ApiKeyBearer"
"""The names of the two security schemes."""

SCHEMES: Final[dict[str, dict[str, str]]] = {
    BASIC: {"type": "http", "scheme": "basic", "description": "The API key as user name, with an empty password."},
    BEARER: {"type": "http", "scheme": "bearer", "description": "The API key as Bearer token."},
}

ERROR: Final = "ApiKeyError"
"""The name of the schema of a refusal's body."""

_MEANINGS = {401: "No valid API key was sent.", 403: "The API key may not do this.", 503: "No key could be checked."}
_TEXT = {"type": "string"}


def security(requirement: Requirement | None) -> list[dict[str, list[str]]]:
    """What an operation requires: either scheme, with the permissions as roles; nothing if it is open."""
    if requirement is None:
        return []
    return [{BASIC: list(requirement.permissions)}, {BEARER: list(requirement.permissions)}]


def media_type(profile: Profile) -> str:
    """That of a refusal's body."""
    return "application/problem+json" if profile.errors is ErrorShape.PROBLEM else "application/json"


def error_schema(profile: Profile) -> Json:
    """The JSON Schema of a refusal's body."""
    codes = [answer.code for answer in TABLE.values() if answer.status in _MEANINGS]
    members = {
        "code": {"type": "string", "enum": codes},
        "message": _TEXT,
        "doc_url": {"type": "string", "format": "uri"},
        "request_id": _TEXT,
    }
    if profile.errors is ErrorShape.PROBLEM:
        own = {"type": members["doc_url"], "title": _TEXT, "status": {"type": "integer"}, "detail": _TEXT}
        return _object({**own, **members})
    type = {"type": "string", "enum": ["api_error", "invalid_request_error"]}
    return _object({"error": _object({"type": type, **members})})


def responses(profile: Profile, requirement: Requirement | None = None) -> dict[str, Json]:
    """
    The refusals of an operation that needs a key, by status; their body is the schema :data:`ERROR`.

    Args:
        requirement: what it requires, to be told in words.
    """
    content = {media_type(profile): {"schema": {"$ref": f"#/components/schemas/{ERROR}"}}}
    found: dict[str, Json] = {
        str(status): {"description": meaning, "content": content} for status, meaning in _MEANINGS.items()
    }
    if requirement is not None:
        found["403"]["description"] = f"The API key may not do this, which takes {requirement}."
    found["401"]["headers"] = {"WWW-Authenticate": {"description": "The schemes to send a key by.", "schema": _TEXT}}
    seconds = {"type": "integer", "minimum": 1, "maximum": LONGEST_RETRY}
    found["503"]["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": seconds}}
    return found


def _object(properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}
