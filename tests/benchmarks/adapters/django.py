"""Django: a view that declares what it requires, under WSGI, against the floor around the same application."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import path

from doorkey import PER_ROUTE, Policy
from doorkey.adapters.django import requires
from doorkey.core.declarations import Said
from tests.adapters import django_project
from tests.adapters.apps.django import URLconf

from .. import floor
from ..sample import NEEDED, PATH, RULES, Sample, new_sample
from ..table import Row
from ..timing import by_turns
from ..web import POLICY, added_row, wsgi_request


def rows(rounds: int) -> Iterator[Row]:
    """Per route, which looks the view up a second time, and under a policy."""
    sample = new_sample()
    bare = application(None, None)
    sides = {
        "bare": wsgi_request(bare, sample.valid, "200 OK"),
        "floor": wsgi_request(floor.wsgi(bare, sample.check, RULES), sample.valid, "200 OK"),
        "per route": wsgi_request(application(sample, PER_ROUTE), sample.valid, "200 OK"),
        "policy": wsgi_request(application(sample, POLICY), sample.valid, "200 OK"),
    }
    times = by_turns(sides, rounds)
    for name in ("per route", "policy"):
        yield added_row("Django", f"added by the middleware, {name}", times, name, "floor")


def messages(request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello")


def application(sample: Sample | None, policy: Policy | Said | None) -> Any:
    """The smallest project, behind the middleware or without it."""
    view = requires(NEEDED)(messages) if policy is PER_ROUTE else messages
    if sample is None:
        return project({}, view, [])
    return project({"door": sample.door, "policy": policy}, view, [django_project.OURS])


def project(doorkey: Mapping[str, Any], view: Any, middleware: Sequence[str]) -> Any:
    """A project with one view, and *middleware* behind the one that gives each request its URLconf."""
    urls = URLconf([path(PATH.removeprefix("/"), view)])
    app = django_project.wsgi(doorkey, {"urlconf": urls}, MIDDLEWARE=[*django_project.MIDDLEWARE[:1], *middleware])
    nothing = BytesIO()
    return lambda environ, start_response: app({**environ, "wsgi.input": nothing}, start_response)
