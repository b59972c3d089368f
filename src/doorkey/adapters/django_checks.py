"""
System checks for Django: what ``manage.py check`` says about doorkey.

List this module in ``INSTALLED_APPS``::

    INSTALLED_APPS = [..., "doorkey.adapters.django_checks"]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django import conf
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.urls import get_resolver

from ..core.declarations import ELSEWHERE, Operation
from ..core.errors import DoorkeyError
from ..core.model import Requirement
from ..core.policy import Policy
from .django import Configuration, configuration, in_middleware
from .django_views import PERMISSIONS, declares, is_outside, judges_itself, operations, required, view_at, views

TAG = "doorkey"

_CACHES = ("django.middleware.cache.FetchFromCacheMiddleware", "django.middleware.cache.CacheMiddleware")
_CORS = "corsheaders.middleware.CorsMiddleware"
_LOCALE = "django.middleware.locale.LocaleMiddleware"


@register(TAG)
def check_doorkey(app_configs: object, **_: object) -> list[CheckMessage]:
    """Everything about doorkey that is dangerous, or does not work."""
    try:
        configured = configuration()
    except (ImproperlyConfigured, DoorkeyError) as error:
        return [Error(str(error), hint="See docs/django.md.", id="doorkey.E001")]
    return [*_places(configured), *_proxies(configured), *_declarations(configured)]


def _places(configured: Configuration) -> Iterator[CheckMessage]:
    """Where the middleware stands."""
    places = in_middleware()
    if not places:
        if not _by_rest_views():
            yield Error(
                "nothing is protected: doorkey is not in MIDDLEWARE",
                hint='Add "doorkey.adapters.django.DoorkeyMiddleware", behind what handles CORS.',
                id="doorkey.E002",
            )
        return
    if len(places) > 1:
        yield Error("doorkey stands in MIDDLEWARE twice", hint="Keep the first.", id="doorkey.E003")
    before, after = conf.settings.MIDDLEWARE[: places[0]], conf.settings.MIDDLEWARE[places[0] :]
    for cache in set(_CACHES) & set(before):
        yield Error(
            f"{cache} stands before doorkey: it gives answers meant for one key to anybody",
            hint="Put it behind doorkey, and let views vary on Authorization.",
            id="doorkey.E004",
        )
    if _CORS in after:
        yield Warning(
            "the middleware for CORS stands behind doorkey, so that a browser's preflight is refused",
            hint=f"Put {_CORS} before doorkey.",
            id="doorkey.W001",
        )
    if _LOCALE in after and configured.policy is None:
        yield Warning(
            "the middleware for languages stands behind doorkey, so that views in i18n_patterns are not found by it",
            hint=f"Put {_LOCALE}, and whatever else changes the URLconf or the path, before doorkey.",
            id="doorkey.W002",
        )


def _by_rest_views() -> bool:
    """Whether REST views judge, because the middleware is not there."""
    rest: Mapping[str, Any] = getattr(conf.settings, "REST_FRAMEWORK", {})
    return not in_middleware() and PERMISSIONS in rest.get("DEFAULT_PERMISSION_CLASSES", ())


def _proxies(configured: Configuration) -> Iterator[CheckMessage]:
    told = conf.settings.USE_X_FORWARDED_HOST or conf.settings.SECURE_PROXY_SSL_HEADER
    if told and configured.gate.trusted_proxies is None:
        yield Warning(
            "Django is told that a proxy stands before it, and doorkey is not: it judges the proxy's address",
            hint='Set DOORKEY["trusted_proxies"].',
            id="doorkey.W003",
        )


def _undeclared(site: Policy, *, judged: bool) -> Iterator[Operation]:
    """The operations that declare nothing, of the views that are judged, or of those that nothing judges."""
    alone = _by_rest_views()

    def needed(view: object, method: str) -> Requirement | None:
        return required(view, method) if judged is (not alone or judges_itself(view)) else ELSEWHERE

    return (one for one in operations(get_resolver(), site, needed) if one.requirement == Requirement.NOBODY)


def _declarations(configured: Configuration) -> Iterator[CheckMessage]:
    """What views declare, or do not."""
    for path, sample, view in views(get_resolver()):
        other = f"/-{sample}"
        if not is_outside(configured.site, sample) and is_outside(configured.site, other) and view_at(other) is view:
            yield Error(
                f"the view of {path} is reached by paths outside, too, such as {other}, where nothing is judged",
                hint='Begin its re_path, or that which includes it, with "^".',
                id="doorkey.E007",
            )
        if not declares(view):
            continue
        if configured.policy is not None:
            yield Error(
                f"the view of {path} declares what it requires, but there is a policy, so it refuses every request",
                hint='Set DOORKEY["policy"] to "PER_ROUTE", or let the policy say it.',
                id="doorkey.E005",
            )
        elif is_outside(configured.site, sample) and not hasattr(view, "cls"):  # REST views judge themselves
            yield Error(
                f'the view of {path} declares what it requires, but lies outside of DOORKEY["within"], so it refuses '
                "every request",
                hint="Move it, or leave that out.",
                id="doorkey.E006",
            )
    if configured.policy is None:
        for one in _undeclared(configured.site, judged=False):
            yield Error(
                f"everybody may {one}, because nothing judges it",
                hint='Add "doorkey.adapters.django.DoorkeyMiddleware", or make it a REST view with HasPermissions.',
                id="doorkey.E008",
            )
        for one in _undeclared(configured.site, judged=True):
            yield Warning(
                f"nobody may {one}, because it declares nothing",
                hint='Decorate it with requires(...), or leave it outside by DOORKEY["within"].',
                id="doorkey.W004",
            )
