"""The system checks: each danger is told by its id, and nothing is told of a project that is as it should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.core.checks import CheckMessage, Error, run_checks
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import include, path, re_path
from django.views import View

from doorkey import OPEN, Policy, TrustedProxies, testing
from doorkey.adapters.django import requires
from doorkey.adapters.drf import ApiKeyAuthentication, HasPermissions
from tests.adapters import django_project
from tests.adapters.apps.django import URLconf

django_project.ready()

DOOR = testing.door()
OURS = django_project.OURS
COMMON = "django.middleware.common.CommonMiddleware"
CORS = "corsheaders.middleware.CorsMiddleware"
LOCALE = "django.middleware.locale.LocaleMiddleware"
CACHE = "django.middleware.cache.FetchFromCacheMiddleware"


def view(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


class Both(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    @requires("messages:write")
    def post(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse()


DECLARED = URLconf([path("api/messages", requires("messages:read")(view)), path("page", view)])
UNDECLARED = URLconf([path("api/both", Both.as_view()), path("api/healthz", requires(OPEN)(view))])
OUTSIDE = URLconf([path("messages", requires("messages:read")(view)), path("api/x", requires(OPEN)(view))])


def told(setting: Any = None, urls: URLconf = DECLARED, **changed: Any) -> list[CheckMessage]:
    """What the checks say of a project."""
    doorkey = {"door": DOOR, "policy": "PER_ROUTE", "within": "/api"} if setting is None else setting
    settings = {"MIDDLEWARE": [OURS, COMMON], "ROOT_URLCONF": urls, "REST_FRAMEWORK": {}, **changed}
    with override_settings(DOORKEY=doorkey, **settings):
        return run_checks(tags=["doorkey"])


def ids(*arguments: Any, **changed: Any) -> list[str | None]:
    return [one.id for one in told(*arguments, **changed)]


def test_nothing_is_told_of_a_project_that_is_as_it_should_be() -> None:
    """Per route, under a policy, and with REST framework alone."""
    assert told() == []
    assert told({"door": DOOR, "policy": Policy()}, URLconf([path("page", view)])) == []
    alone = {"DEFAULT_PERMISSION_CLASSES": ["doorkey.adapters.drf.HasPermissions"]}
    assert told(MIDDLEWARE=[COMMON], REST_FRAMEWORK=alone) == []


def test_what_nothing_judges_is_told() -> None:
    """Where REST views judge by themselves, everybody may use the others, unless they are decorated."""
    from rest_framework.views import APIView

    class Neither(APIView):
        authentication_classes = ()
        permission_classes = ()

        def get(self, request: HttpRequest) -> HttpResponse:
            raise AssertionError("nobody asks")

    reader = HasPermissions.of("messages:read")
    urls = URLconf(
        [
            path("page", view),
            path("decorated", requires("messages:read")(view)),
            path("neither", Neither.as_view()),
            path("reader", Neither.as_view(permission_classes=[reader])),
            path("known", Neither.as_view(authentication_classes=[ApiKeyAuthentication])),
        ]
    )
    alone = {"DEFAULT_PERMISSION_CLASSES": ["doorkey.adapters.drf.HasPermissions"]}
    messages = told({"door": DOOR, "policy": "PER_ROUTE"}, urls, MIDDLEWARE=[COMMON], REST_FRAMEWORK=alone)
    assert [(message.id, message.msg.partition(",")[0]) for message in messages] == [
        ("doorkey.E008", "everybody may * /page"),
        ("doorkey.E008", "everybody may GET /neither"),
        ("doorkey.W004", "nobody may GET /known"),
    ]
    assert all(message.hint for message in messages)


def test_every_message_says_what_to_do() -> None:
    """It has a hint."""
    messages = [*told({}), *told(MIDDLEWARE=[]), *told(urls=UNDECLARED), *told(urls=OUTSIDE)]
    assert messages
    assert all(one.hint for one in messages)


def test_the_setting_is_checked() -> None:
    """What the middleware would refuse at start."""
    (message,) = told({"door": DOOR})
    assert isinstance(message, Error)
    assert (message.id, "policy" in message.msg) == ("doorkey.E001", True)
    assert ids({"door": "tests.no_such_module.door", "policy": "PER_ROUTE"}) == ["doorkey.E001"]


def test_a_door_that_cannot_be_opened_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says itself, such as that there is no store."""
    module = tmp_path / "project_without_store.py"
    module.write_text(f"import doorkey\ndoor = doorkey.open('sqlite:///{tmp_path}/none.db', secret=None)\n")
    monkeypatch.syspath_prepend(tmp_path)
    (message,) = told({"door": "project_without_store.door", "policy": "PER_ROUTE"})
    assert message.id == "doorkey.E001"


def test_the_middleware_stands_once_and_behind_nothing_that_answers() -> None:
    """Forgotten, doubled, behind a cache, before what must come first."""
    assert ids(MIDDLEWARE=[COMMON]) == ["doorkey.E002"]
    assert ids(MIDDLEWARE=[OURS, COMMON, OURS]) == ["doorkey.E003"]
    assert ids(MIDDLEWARE=[CACHE, OURS]) == ["doorkey.E004"]
    assert ids(MIDDLEWARE=[OURS, CACHE]) == []
    assert ids(MIDDLEWARE=[LOCALE, OURS]) == []
    assert ids(MIDDLEWARE=[OURS, LOCALE]) == ["doorkey.W002"]
    page = URLconf([path("page", view)])
    assert ids({"door": DOOR, "policy": Policy()}, page, MIDDLEWARE=[OURS, LOCALE]) == []


def test_cors_stands_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a preflight, which has no key, is refused."""
    from doorkey.adapters import django_checks

    monkeypatch.setattr(django_checks, "_CORS", COMMON)  # in the place of a package that is not installed
    assert ids(MIDDLEWARE=[OURS, COMMON]) == ["doorkey.W001"]
    assert ids(MIDDLEWARE=[COMMON, OURS]) == []


@pytest.mark.parametrize(
    "proxied", [{"USE_X_FORWARDED_HOST": True}, {"SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_PROTO", "https")}]
)
def test_a_proxy_that_django_knows_of_is_told_to_doorkey(proxied: dict[str, Any]) -> None:
    """Else the proxy's address is judged as the client's."""
    assert ids(**proxied) == ["doorkey.W003"]
    proxies = TrustedProxies(["10.0.0.0/8"])
    setting = {"door": DOOR, "policy": "PER_ROUTE", "within": "/api", "trusted_proxies": proxies}
    assert ids(setting, **proxied) == []


def test_views_that_refuse_everybody_are_named() -> None:
    """Those that declare nothing, and those that declare what is never asked."""
    (message,) = told(urls=UNDECLARED)
    assert (message.id, message.msg) == ("doorkey.W004", "nobody may GET /api/both, because it declares nothing")
    (message,) = told(urls=OUTSIDE)
    assert message.id == "doorkey.E006"
    assert message.msg.startswith("the view of /messages declares what it requires, but lies outside")
    assert ids({"door": DOOR, "policy": Policy()}, DECLARED) == ["doorkey.E005"]
    assert ids({"door": DOOR, "policy": Policy()}, UNDECLARED) == ["doorkey.E005", "doorkey.E005"]


def test_views_within_that_are_reached_from_outside_are_named() -> None:
    """A regular expression without an anchor is found in the midst of a path that nobody judges."""
    declared = requires("messages:read")(view)
    loose = URLconf([re_path("api/messages", declared), re_path("api/", include([path("other", declared)]))])
    assert ids(urls=loose) == ["doorkey.E007", "doorkey.E007"]
    assert ids({"door": DOOR, "policy": Policy(within="/api")}, URLconf([re_path("api/messages", view)])) == [
        "doorkey.E007"
    ]
    assert ids({"door": DOOR, "policy": "PER_ROUTE"}, loose) == []
    assert ids(urls=URLconf([re_path("^api/messages", declared), re_path("", view)])) == []


def test_rest_views_outside_judge_themselves() -> None:
    """So what they declare there is no mistake."""
    from rest_framework.views import APIView

    permissions = [HasPermissions.of("messages:read")]
    messages = APIView.as_view(permission_classes=permissions)
    assert told(urls=URLconf([path("messages", messages), *DECLARED.urlpatterns])) == []
