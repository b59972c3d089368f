"""Django REST framework: beside the middleware and alone, against djangorestframework-api-key, all keys in SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from django.core.management import call_command
from django.db import connection
from django.test import override_settings

from doorkey import PER_ROUTE, create
from doorkey.adapters.django import requires
from doorkey.adapters.drf import ApiKeyAuthentication, HasPermissions
from doorkey.management.secrets import MasterSecrets
from tests.adapters import django_project

from ..sample import NEEDED, field, new_token
from ..table import Row
from ..timing import by_turns
from ..web import added_row, wsgi_request
from .django import project


def rows(rounds: int) -> Iterator[Row]:
    """What each adds to a view that asks nobody."""
    django_project.ready()
    with (
        TemporaryDirectory() as folder,
        create(f"sqlite:///{Path(folder)}/keys.db", secret=MasterSecrets.generate()) as door,
    ):
        doorkey = {"door": door, "policy": PER_ROUTE}
        ours, theirs = field(new_token(door)), b"Api-Key " + their_key().encode()
        with override_settings(DOORKEY=doorkey):
            sides = {
                "bare": wsgi_request(application(doorkey), ours, "200 OK"),
                "beside": wsgi_request(application(doorkey, beside=True), ours, "200 OK"),
                "alone": wsgi_request(application(doorkey, HasPermissions), ours, "200 OK"),
                "theirs": wsgi_request(application(doorkey, their_permission()), theirs, "200 OK"),
            }
            times = by_turns(sides, rounds)
    for name, words in (("beside", "the middleware"), ("alone", "the two classes alone")):
        yield added_row(
            "Django REST framework",
            f"added by {words}, against djangorestframework-api-key",
            times,
            name,
            "theirs",
        )


def application(doorkey: Any, permission: Any = None, beside: bool = False) -> Any:
    """The smallest view."""
    from rest_framework.request import Request
    from rest_framework.response import Response
    from rest_framework.views import APIView

    def get(self: APIView, request: Request) -> Response:
        return Response("hello")

    ours = beside or permission is HasPermissions
    made: dict[str, Any] = {
        "get": requires(NEEDED)(get) if ours else get,
        "authentication_classes": [ApiKeyAuthentication] if ours else [],
        "permission_classes": [] if permission is None else [permission],
    }
    view: type[APIView] = type("Messages", (APIView,), made)
    return project(doorkey, view.as_view(), [django_project.OURS] if beside else [])


def their_permission() -> Any:
    from rest_framework_api_key.permissions import HasAPIKey

    return HasAPIKey


def their_key() -> str:
    """A key of theirs, in Django's database, which is SQLite in memory."""
    from rest_framework_api_key.models import APIKey

    if not connection.introspection.table_names():
        call_command("migrate", verbosity=0)
    _, key = APIKey.objects.create_key(name="benchmark")
    return str(key)
