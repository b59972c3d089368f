"""
A Django project for tests: settings, which a process has once, and how an application of it is made.

What differs from one application to another is given to a request by the outermost middleware: its URLconf, and whom
its views tell that they were called.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import django
from asgiref.sync import iscoroutinefunction
from django import conf
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest
from django.test import override_settings
from django.utils.decorators import sync_and_async_middleware

OURS = "doorkey.adapters.django.DoorkeyMiddleware"
MIDDLEWARE = ("tests.adapters.django_project.outermost", OURS, "django.middleware.common.CommonMiddleware")

SETTINGS: Mapping[str, Any] = {
    "ALLOWED_HOSTS": ["*"],
    "DATABASES": {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    "DEFAULT_AUTO_FIELD": "django.db.models.BigAutoField",
    "INSTALLED_APPS": [
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "rest_framework",
        "rest_framework_api_key",
        "doorkey.adapters.django_checks",
    ],
    "LOGGING_CONFIG": None,  # logging is the test's
    "MIDDLEWARE": MIDDLEWARE,
    "REST_FRAMEWORK": {
        "DEFAULT_AUTHENTICATION_CLASSES": ["doorkey.adapters.drf.ApiKeyAuthentication"],
        "DEFAULT_PERMISSION_CLASSES": ["doorkey.adapters.drf.HasPermissions"],
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
        "EXCEPTION_HANDLER": "doorkey.adapters.drf.exception_handler",
    },
    "ROOT_URLCONF": "tests.adapters.django_project",
    "SECRET_KEY": "no secret: it signs nothing",
}

urlpatterns: list[Any] = []


def ready() -> None:
    """Set Django up, once for the process. Without a settings module it leaves the process's time zone alone."""
    if not conf.settings.configured:
        conf.settings.configure(**SETTINGS)
        django.setup()


@sync_and_async_middleware
def outermost(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Gives a request what its application was made with."""

    def prepare(request: HttpRequest) -> None:
        given = request.scope if hasattr(request, "scope") else request.META
        for name, value in given["test.attributes"].items():
            setattr(request, name, value)

    def called(request: HttpRequest) -> Any:
        prepare(request)
        return get_response(request)

    async def called_later(request: HttpRequest) -> Any:
        prepare(request)
        return await get_response(request)

    return called_later if iscoroutinefunction(get_response) else called


def asgi(doorkey: Mapping[str, Any], attributes: Mapping[str, Any], **changed: Any) -> Any:
    """The project as an ASGI application, with the setting ``DOORKEY`` and others."""
    ready()
    with override_settings(DOORKEY=doorkey, **changed):
        handler = ASGIHandler()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        messages = iter([await receive()])

        async def receive_while_connected() -> Any:  # Django gives up a request whose client has left
            return next(messages, None) or await asyncio.Future()

        await handler({**scope, "test.attributes": attributes}, receive_while_connected, send)

    return application


def wsgi(doorkey: Mapping[str, Any], attributes: Mapping[str, Any], **changed: Any) -> Any:
    """The project as a WSGI application."""
    ready()
    with override_settings(DOORKEY=doorkey, **changed):
        handler = WSGIHandler()
    return lambda environ, start_response: handler({**environ, "test.attributes": attributes}, start_response)
