"""What drf-spectacular writes: both schemes, what is open, what each operation requires, and the refusals."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import override_settings
from django.urls import path

from doorkey import FALU, OPEN, testing
from doorkey.adapters.django import requires, requires_each
from doorkey.adapters.drf import HasPermissions
from doorkey.core.openapi import BASIC, BEARER, ERROR, SCHEMES
from tests.adapters import django_project

django_project.ready()


def document(version: str = "3.1.0", door: Any = None) -> dict[str, Any]:
    """The document of a few views."""
    from drf_spectacular.generators import SchemaGenerator
    from drf_spectacular.settings import patched_settings
    from rest_framework.response import Response
    from rest_framework.serializers import Serializer
    from rest_framework.views import APIView
    from rest_framework.viewsets import ViewSet

    def method(self: object, request: object, **_: object) -> Response:
        return Response()

    class View(APIView):
        serializer_class: type[Serializer[Any]] = Serializer
        get = requires("messages:read")(method)
        post = requires(["messages:write", "charges:write"])(method)

    class Healthz(APIView):
        serializer_class: type[Serializer[Any]] = Serializer
        get = requires(OPEN)(method)

    class Payouts(Healthz):
        permission_classes = (HasPermissions.of("payouts:read"),)
        get = method

    @requires_each(list="crud:read", destroy="crud:write")
    class Crud(ViewSet):
        serializer_class: type[Serializer[Any]] = Serializer
        list = method
        destroy = method

    patterns = [
        path("messages", View.as_view()),
        path("healthz", Healthz.as_view()),
        path("payouts", Payouts.as_view()),
        path("crud", Crud.as_view({"get": "list", "delete": "destroy"})),
    ]
    hooks = ["doorkey.adapters.drf_spectacular.add_refusals"]
    doorkey = {"door": door or testing.door(), "policy": "PER_ROUTE"}
    with (
        patched_settings({"OAS_VERSION": version, "POSTPROCESSING_HOOKS": hooks}),
        override_settings(DOORKEY=doorkey),
    ):
        generator: Any = SchemaGenerator(patterns=patterns)  # type: ignore[no-untyped-call]
        made: dict[str, Any] = generator.get_schema(request=None, public=True)
    return made


def test_both_schemes_are_there() -> None:
    """Basic and Bearer, as every adapter writes them."""
    assert document()["components"]["securitySchemes"] == SCHEMES


@pytest.mark.parametrize("version", ["3.0.3", "3.1.0"])
def test_each_operation_says_what_it_requires(version: str) -> None:
    """Either scheme will do; permissions are named where OpenAPI has a place for them; what is open needs none."""
    paths = document(version)["paths"]

    def either(*permissions: str) -> list[dict[str, list[str]]]:
        named = [] if version == "3.0.3" else list(permissions)
        return [{BASIC: named}, {BEARER: named}]

    assert paths["/messages"]["get"]["security"] == either("messages:read")
    assert paths["/messages"]["post"]["security"] == either("messages:write", "charges:write")
    assert paths["/payouts"]["get"]["security"] == either("payouts:read")
    assert paths["/crud"]["get"]["security"] == either("crud:read")
    assert paths["/crud"]["delete"]["security"] == either("crud:write")
    assert not paths["/healthz"]["get"].get("security")


def test_refusals_are_described() -> None:
    """By status, with the profile's body, where a key is needed."""
    made = document(door=testing.door(profile=FALU))
    responses = made["paths"]["/messages"]["get"]["responses"]
    assert {"200", "401", "403", "503"} <= set(responses)
    assert list(responses["401"]["content"]) == ["application/problem+json"]
    assert "title" in made["components"]["schemas"][ERROR]["properties"]
    assert set(made["paths"]["/healthz"]["get"]["responses"]) == {"200"}
