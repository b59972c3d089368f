"""Django REST framework, behind Django's middleware: views, viewsets and functions, declared in each way there is."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from django.urls import path, re_path

from doorkey import OPEN, Policy
from doorkey.adapters.django import current_principal, requires
from doorkey.adapters.drf import HasPermissions
from doorkey.core.declarations import Said
from doorkey.core.model import Requirement
from doorkey.core.policy import WEBSOCKET
from tests.adapters import django_project
from tests.adapters.apps.django import DIFFERS as DJANGO_DIFFERS
from tests.adapters.apps.django import DIFFERS_UNDER_POLICY as DJANGO_DIFFERS_UNDER_POLICY
from tests.adapters.apps.django import URLconf, built, where
from tests.adapters.table import POLICIES

ACTIONS = {"GET /messages": "list", "POST /messages": "create", "GET /messages/{id}": "retrieve"}


def enter(request: Any) -> Any:
    """A view of anything."""
    from rest_framework.response import Response

    principal = current_principal(request)
    assert request.auth == principal
    request._request.enter(principal)
    return Response("hello")


def answer(self: object, request: Any, **_: str) -> Any:
    """The same as a method."""
    return enter(request)


@cache
def everything() -> URLconf:
    """One view that answers whatever it is asked; but for the site's pages, which are others' business."""
    from rest_framework.views import APIView

    methods = dict.fromkeys(("options", "http_method_not_allowed"), answer)
    view: Any = type("Everything", (APIView,), methods)
    page = view.as_view(authentication_classes=(), permission_classes=())
    return URLconf([re_path("^(?:about|apis)?$", page), re_path("", view.as_view())])


@cache
def declared(policy: Policy = POLICIES["whole"]) -> URLconf:
    """A viewset for messages, a function for pings, permission classes for payouts, and views for the rest."""
    methods: dict[str, dict[str, Requirement | Said]] = {}
    for rule in policy.rules:
        if rule.method != WEBSOCKET:
            needed = OPEN if rule.requirement is None else rule.requirement
            methods.setdefault(rule.path, {})[rule.method] = needed
    return URLconf([path(where(one), view_of(one, needed)) for one, needed in methods.items()])


def view_of(path: str, methods: dict[str, Requirement | Said]) -> Callable[..., Any]:
    """The view of a path."""
    from rest_framework.decorators import api_view, permission_classes
    from rest_framework.views import APIView
    from rest_framework.viewsets import ViewSet

    made: dict[str, Any] = {name.lower(): requires(needed)(answer) for name, needed in methods.items()}
    if path.startswith("/messages"):
        actions = {name.lower(): ACTIONS[f"{name} {path}"] for name in methods}
        viewset: Any = type("MessageViewSet", (ViewSet,), {actions[name]: made[name] for name in actions})
        return viewset.as_view(actions)  # type: ignore[no-any-return]
    if path == "/ping":
        permissions = permission_classes([HasPermissions.of(methods["GET"])])
        return api_view(["GET"])(permissions(enter))
    if path == "/payouts":
        made = {"get": answer, "permission_classes": [HasPermissions.of(methods["GET"])]}
    view: type[APIView] = type("View", (APIView,), made)
    return view.as_view()


BUILDS = {
    "asgi": built(django_project.asgi, everything, declared),
    "wsgi": built(django_project.wsgi, everything, declared),
}

DIFFERS = DJANGO_DIFFERS
DIFFERS_UNDER_POLICY = DJANGO_DIFFERS_UNDER_POLICY
