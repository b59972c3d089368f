"""What views declare, read without a request; and a URLconf's operations."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import get_resolver, include, path, re_path
from django.views import View
from django.views.generic import RedirectView

from doorkey import OPEN, Policy, Requirement, Rule
from doorkey.adapters.django import requires
from doorkey.adapters.django_views import (
    class_of,
    declares,
    handlers,
    is_outside,
    operations,
    required,
    required_at_work,
    view_at,
    views,
)
from doorkey.core.declarations import ELSEWHERE
from tests.adapters import django_project
from tests.adapters.apps.django import URLconf

django_project.ready()

READ, WRITE = Requirement("messages:read"), Requirement("messages:write")


def view(request: HttpRequest, **_: str) -> HttpResponse:
    return HttpResponse()


class Messages(View):
    @requires(READ)
    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    def post(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse()


class Own(View):
    def dispatch(self, request: HttpRequest, *_: object, **__: object) -> HttpResponse:
        return HttpResponse()


class Archive:
    """What a viewset looks like, with the names of its actions."""

    http_method_names = ("get", "head", "options", "post")
    list = requires(READ)(view)
    create = requires(WRITE)(view)


def viewset(actions: dict[str, str]) -> Any:
    """A view that a router makes of it."""

    def made(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    vars(made).update(cls=Archive, actions=actions, initkwargs={})
    return made


def test_a_function_declares_for_every_method() -> None:
    """Or nothing."""
    assert required(requires(READ)(view), "DELETE") == READ
    assert required(requires(OPEN)(view), "GET") is None
    assert required(view, "GET") == Requirement.NOBODY
    assert class_of(view) is None


def test_a_class_declares_method_by_method() -> None:
    """HEAD follows GET; what the class has not is Django's to answer, unless its dispatch is its own."""
    made = Messages.as_view()
    assert class_of(made) is Messages
    assert handlers(Messages) == ["get", "post"]
    expected = {
        "GET": READ,
        "HEAD": READ,
        "POST": Requirement.NOBODY,
        "PUT": ELSEWHERE,
        "OPTIONS": ELSEWHERE,
        "AS_VIEW": ELSEWHERE,
    }
    assert {method: required(made, method) for method in expected} == expected
    assert required(Own.as_view(), "GET") == Requirement.NOBODY
    assert required(requires(READ)(made), "PUT") == READ


def test_a_viewset_declares_action_by_action() -> None:
    """By the names that its methods have there; a method that is no action is nobody's."""
    made = viewset({"get": "list", "post": "create"})
    assert [required(made, method) for method in ("GET", "HEAD", "POST")] == [READ, READ, WRITE]
    assert required(viewset({"post": "create"}), "GET") == Requirement.NOBODY  # its dispatch is not Django's
    assert declares(made)


def test_what_a_viewset_answers_beside_its_actions_is_no_less_closed() -> None:
    """REST framework calls a method of that name, if the class has one, whatever the router knows."""
    more: Any = type("More", (Archive,), {"post": view, "dispatch": View.dispatch})
    made = viewset({"get": "list"})
    made.cls = more
    assert [required(made, method) for method in ("GET", "POST", "PUT")] == [READ, Requirement.NOBODY, ELSEWHERE]
    urls: Any = URLconf([path("more", made)])
    assert [str(one) for one in operations(get_resolver(urls), Policy(), required)] == ["GET /more", "POST /more"]


def test_options_that_calls_another_method_is_closed() -> None:
    """As a redirect's does: it would enter what the project has written there."""
    redirect: Any = type("Redirect", (RedirectView,), {"get": requires(READ)(view)})
    assert required(redirect.as_view(), "OPTIONS") == Requirement.NOBODY


def test_a_view_at_work_declares_as_its_class_does() -> None:
    """By its actions, too; what is no view has nothing that one could enter."""
    at_work: Any = Archive()
    assert required_at_work(at_work, "GET") == Requirement.NOBODY
    at_work.action_map = {"get": "list"}
    assert required_at_work(at_work, "GET") == READ
    assert required_at_work(Messages(), "GET") == READ
    assert required_at_work(HttpRequest(), "GET") == Requirement.NOBODY


def test_the_view_at_a_path() -> None:
    """None, if there is no such page."""
    urls = URLconf([path("page", view)])
    assert view_at("/page", urls) is view
    assert view_at("/other", urls) is None


def test_whether_a_view_declares_anything() -> None:
    """Itself, or in one of its methods."""
    assert [declares(one) for one in (view, Own.as_view())] == [False, False]
    assert [declares(one) for one in (requires(OPEN)(view), Messages.as_view())] == [True, True]


def test_the_operations_of_a_urlconf() -> None:
    """Included and regular ones, with a segment for each parameter, but for what lies outside."""
    inner = [path("<int:id>/", view), re_path(r"^by/(?P<name>[^/.]+)/?$", requires(OPEN)(view))]
    urls = URLconf([path("api/messages", Messages.as_view()), path("api/in/", include(inner)), path("page", view)])
    resolver = get_resolver(urls)  # type: ignore[arg-type]
    assert [sample for _, sample, _ in views(resolver)] == ["/api/messages", "/api/in/1/", "/api/in/by/1/?", "/page"]
    site = Policy(within="/api")
    assert {str(one): one.requirement for one in operations(resolver, site, required)} == {
        "GET /api/messages": READ,
        "POST /api/messages": Requirement.NOBODY,
        "* /api/in/<int:id>/": Requirement.NOBODY,
        r"* /api/in/by/(?P<name>[^/.]+)/?": None,
    }
    policy = Policy([Rule("POST", "/api/messages", WRITE), Rule("GET", "/api/in/{id}/", READ)], within="/api")
    assert {str(one): one.requirement for one in operations(resolver, policy)} == {
        "GET /api/messages": Requirement.NOBODY,
        "POST /api/messages": WRITE,
        "GET /api/in/<int:id>/": READ,
        r"* /api/in/by/(?P<name>[^/.]+)/?": Requirement.NOBODY,
    }
    assert is_outside(site, "/page")
    assert not is_outside(site, "/page/../api")
    assert not is_outside(Policy(), "/page")
