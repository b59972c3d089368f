"""
Django REST framework: beside the middleware of :mod:`doorkey.adapters.django`, or without it.

Beside it, which is better, requests are judged before a view is entered, and so are those for which there is no view.
:class:`ApiKeyAuthentication` then tells the view who was let in. Without it, the two classes below judge whatever
reaches a REST view, and nothing else; they need :func:`exception_handler` for refusals of the right form::

    REST_FRAMEWORK = {
        "DEFAULT_AUTHENTICATION_CLASSES": ["doorkey.adapters.drf.ApiKeyAuthentication"],
        "DEFAULT_PERMISSION_CLASSES": ["doorkey.adapters.drf.HasPermissions"],
        "EXCEPTION_HANDLER": "doorkey.adapters.drf.exception_handler",
    }

What a view requires is declared by ``requires`` and ``requires_each``, or by a permission class,
``HasPermissions.of("messages:read")``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from django.http.response import HttpResponseBase
from django.urls import get_resolver
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import APIException
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from ..core.declarations import (
    ELSEWHERE,
    PER_ROUTE,
    REQUIREMENT,
    assert_declared,
    declare,
    declared,
    ensure_judged,
    requirement,
)
from ..core.model import Mode, Principal, Requirement
from ..core.refusals import Refusal
from ..core.verify import MISSING
from . import django
from .django import RefusalResponse, Requires, configuration, in_middleware
from .django_views import class_of, operations, required, required_at_work
from .wsgi import PRINCIPAL


@dataclass(frozen=True)
class KeyUser:
    """The user that REST framework sees: a key, which is nobody's account. ``pk`` is what throttles count by."""

    principal: Principal
    is_authenticated: bool = True
    is_anonymous: bool = False
    is_active: bool = True
    is_staff: bool = False
    is_superuser: bool = False

    @property
    def pk(self) -> str:
        """The key's id."""
        return self.principal.key

    def __str__(self) -> str:
        return self.pk


class Refused(APIException):
    """A refusal on its way through REST framework."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__()
        self.detail: Any = json.loads(refusal.body)  # which would otherwise have texts in the place of numbers
        self.refusal: Refusal = refusal
        self.status_code: int = refusal.status
        # What REST framework's own exception handler looks for.
        self.auth_header: str = _challenges(refusal)
        self.wait: int = int(dict(refusal.headers).get("Retry-After", 0))


class ApiKeyAuthentication(BaseAuthentication):
    """``request.user`` is a :class:`KeyUser`, ``request.auth`` the principal; on open operations as if nobody asked."""

    def authenticate(self, request: Request) -> tuple[Any, Any] | None:
        """
        Who was let in.

        Raises:
            Refused: nobody was.
        """
        principal = _judged(request, request.parser_context["view"])
        return None if principal is None else (KeyUser(principal), principal)

    def authenticate_header(self, request: Request) -> str:
        """The challenges, for whatever else in REST framework says 401."""
        return _challenges(configuration().gate.refusal(request.META, MISSING))


class HasPermissions(BasePermission):
    """The key may do what the view declares, or what this class does."""

    @classmethod
    def of(
        cls, requires: Requires = (), *, publishable: bool = False, mode: Mode | None = None
    ) -> type[HasPermissions]:
        """A permission class that declares what its views require."""
        made: type[HasPermissions] = type(cls.__name__, (cls,), {"__module__": cls.__module__})
        return declare(made, requirement(requires, publishable, mode))

    def has_permission(self, request: Request, view: Any) -> bool:
        """
        Whether it may: always so, because a refusal is raised.

        Raises:
            Refused: it may not.
        """
        _judged(request, view)
        needed = declared(type(self))
        # REST framework also asks about methods that a request is not for, to show forms.
        entered = required_at_work(view, request._request.method or "")
        if needed != Requirement.NOBODY and entered is not ELSEWHERE:
            ensure_judged(request.META, needed)
        return True


def exception_handler(exc: Exception, context: dict[str, Any]) -> HttpResponseBase | None:
    """A refusal in its own form; what else is raised, as REST framework does."""
    from rest_framework import views  # noqa: PLC0415  # it imports what the settings name: the classes above

    if isinstance(exc, Refused):
        views.set_rollback()
        return RefusalResponse(exc.refusal, context["request"].method == "HEAD")
    return views.exception_handler(exc, context)


def assert_protected(urlconf: str | None = None, open: Collection[str] = ()) -> None:
    """
    :func:`doorkey.adapters.django.assert_protected`; without the middleware, every view within is a REST view that has
    :class:`HasPermissions` among its permission classes.
    """
    if in_middleware():
        django.assert_protected(urlconf, open)
    else:
        assert_declared(operations(get_resolver(urlconf), configuration().site, _required_here), open)


def _required_here(view: object, method: str) -> Requirement | None:
    options: dict[str, Any] = getattr(view, "initkwargs", None) or {}
    permissions: Iterable[Any] = options.get("permission_classes", getattr(class_of(view), "permission_classes", ()))
    held = any(isinstance(one, type) and issubclass(one, HasPermissions) for one in permissions)
    return required(view, method) if held else Requirement.NOBODY


def _judged(request: Request, view: Any) -> Principal | None:
    """Who a request speaks for, judged here unless the middleware did."""
    if request.META.get(REQUIREMENT, PER_ROUTE) is PER_ROUTE:
        refusal = configuration().gate.admit(request.META, required_at_work(view, request.method or ""))
        if refusal is not None:
            raise Refused(refusal)
    principal: Principal | None = request.META[PRINCIPAL]
    return principal


def _challenges(refusal: Refusal) -> str:
    return ", ".join(value for name, value in refusal.headers if name == "WWW-Authenticate")
