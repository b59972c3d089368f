"""Django, behind its adapter."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

from django import VERSION
from django.http import HttpRequest, HttpResponse
from django.urls import path, re_path
from django.views import View

from doorkey import OPEN, PER_ROUTE, Policy
from doorkey.adapters.django import current_principal, requires
from doorkey.core.policy import WEBSOCKET
from tests.adapters import django_project
from tests.adapters.apps.setup import Build, Setup
from tests.adapters.table import POLICIES


class URLconf:
    """What is mostly a module."""

    def __init__(self, urlpatterns: list[Any]) -> None:
        self.urlpatterns = urlpatterns


def enter(request: HttpRequest) -> HttpResponse:
    """A view of anything."""
    request.enter(current_principal(request))  # type: ignore[attr-defined]
    return HttpResponse("hello")


async def enter_later(request: HttpRequest) -> HttpResponse:
    """The same for asyncio."""
    return enter(request)


@cache
def declared(view: Callable[..., Any], policy: Policy = POLICIES["whole"]) -> URLconf:
    """Classes of views, one for each path, in which each method declares what the rule requires."""

    async def answer_later(self: View, request: HttpRequest, **_: str) -> HttpResponse:
        return enter(request)

    def answer(self: View, request: HttpRequest, **_: str) -> HttpResponse:
        return enter(request)

    methods: dict[str, dict[str, Any]] = {}
    for rule in policy.rules:
        if rule.method != WEBSOCKET:
            decorate = requires(OPEN if rule.requirement is None else rule.requirement)
            handler = decorate(answer_later if view is enter_later else answer)
            methods.setdefault(rule.path, {})[rule.method.lower()] = handler
    return URLconf([path(where(one), view_of(of)) for one, of in methods.items()])


def view_of(methods: dict[str, Any]) -> Callable[..., Any]:
    """A view made of a class that has these methods."""
    cls: type[View] = type("Messages", (View,), methods)
    return cls.as_view()


def where(path: str) -> str:
    """A rule's path as Django writes it."""
    return path.removeprefix("/").replace("{", "<").replace("}", ">")


def built(make: Callable[..., Any], everything: Callable[[], URLconf], declared: Callable[[], URLconf]) -> Build:
    """A build of one interface, of two URLconfs."""

    def build(setup: Setup) -> Any:
        doorkey = {
            "door": SimpleNamespace(verifier=setup.verifier, async_verifier=setup.async_verifier),
            "policy": PER_ROUTE if setup.per_route else setup.policy,
            "trusted_proxies": setup.proxies,
        }
        django_project.ready()  # before anything of a REST framework's is imported
        urls = declared() if setup.per_route else everything()
        return make(doorkey, {"enter": setup.enter, "urlconf": urls})

    return build


@cache
def everything(view: Callable[..., Any]) -> URLconf:
    """One view for every path and method."""
    return URLconf([re_path("", view)])


BUILDS = {
    "asgi": built(django_project.asgi, partial(everything, enter_later), partial(declared, enter_later)),
    "wsgi": built(django_project.wsgi, partial(everything, enter), partial(declared, enter)),
}

DIFFERS = {
    # It capitalises methods, so the view is entered, judged by what it declares itself.
    "get in lower case, open in capitals": "entered",
    "get in lower case": "entered",
    "post in lower case": "entered",
    "head in lower case, open in capitals": "entered",
    # To its router, dots are a segment like any other.
    "dots for a parameter": "entered",
    "encoded dots for a parameter": "entered",
    "a dot for a parameter": "entered",
}

# Django 6.1 takes a prefix with a slash at its end for one without, so that what its router sees is the open path.
PREFIX = {"a prefix with a slash at its end": "entered"} if VERSION >= (6, 1) else {}
DIFFERS |= PREFIX
DIFFERS_UNDER_POLICY = {
    "asgi": PREFIX,
    # Of an empty path Django makes "/" before any middleware sees it: the site's front page, outside of the API.
    "wsgi": {"no path at all": "entered"},
}
