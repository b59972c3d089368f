"""
What drf-spectacular writes into an OpenAPI document about API keys: the schemes, the refusals, and their body.

::

    INSTALLED_APPS = [..., "drf_spectacular"]
    SPECTACULAR_SETTINGS = {
        "POSTPROCESSING_HOOKS": [
            "drf_spectacular.hooks.postprocess_schema_enums",
            "doorkey.adapters.drf_spectacular.add_refusals",
        ],
    }

The schemes are known as soon as this module is imported. That hook does so after the first document was written, so
import it where the project's URLs are. What is declared above ``@api_view`` or ``as_view()`` is not seen here.
"""

from __future__ import annotations

from typing import Any

from drf_spectacular import settings as spectacular
from drf_spectacular.extensions import OpenApiAuthenticationExtension

from ..core.openapi import BASIC, BEARER, ERROR, SCHEMES, error_schema, responses, security
from .django import configuration
from .django_views import required_at_work

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Both schemes, either of which will do; neither for an open operation."""

    target_class: str | type[object] | None = "doorkey.adapters.drf.ApiKeyAuthentication"
    name: str | list[str] = [BASIC, BEARER]  # noqa: RUF012  # as the class above has it

    def get_security_requirement(self, auto_schema: Any) -> list[dict[str, list[Any]]]:
        """One of the two; with permissions from OpenAPI 3.1 on, which has a place for them."""
        said = security(required_at_work(auto_schema.view, auto_schema.method))
        if str(spectacular.spectacular_settings.OAS_VERSION).startswith("3.0"):
            return [{name: [] for name in one} for one in said]
        return said

    def get_security_definition(self, auto_schema: Any) -> list[dict[str, Any]]:
        """In the order of their names."""
        return [dict(SCHEMES[BASIC]), dict(SCHEMES[BEARER])]


def add_refusals(result: dict[str, Any], **_: object) -> dict[str, Any]:
    """Add the responses of 401, 403 and 503 to each operation that needs a key."""
    profile = configuration().gate.verifier.profile
    operations = [one for path in result["paths"].values() for name, one in path.items() if name in _METHODS]
    for operation in operations:
        if any(BASIC in one for one in operation.get("security", ())):
            operation["responses"] = {**responses(profile), **operation.get("responses", {})}
            result.setdefault("components", {}).setdefault("schemas", {})[ERROR] = error_schema(profile)
    return result
