"""Django REST framework: beside the middleware, and without it, where two classes judge whatever reaches a view."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest
from django.test import override_settings
from django.urls import include, path

from doorkey import FALU, OPEN, AsyncVerifier, Doorkey, KeyType, Policy, Rule, Verifier
from doorkey.adapters import drf
from doorkey.adapters.django import current_principal, requires, requires_each
from doorkey.adapters.drf import HasPermissions, KeyUser
from doorkey.core.errors import InvalidPolicy, StoreUnavailable
from doorkey.core.model import Record
from doorkey.core.tokens import Token
from doorkey.storage.aio import Inline
from doorkey.testing import basic, door, issue
from tests.adapters import django_project, frameworks, wire
from tests.adapters.apps import drf as app
from tests.adapters.apps.django import URLconf
from tests.adapters.table import POLICIES, PROXIES, ROWS, House, Row, check

django_project.ready()

from rest_framework.authentication import SessionAuthentication  # noqa: E402  # which asks for settings
from rest_framework.decorators import action, api_view, permission_classes  # noqa: E402
from rest_framework.generics import GenericAPIView  # noqa: E402
from rest_framework.permissions import AllowAny, IsAuthenticated  # noqa: E402
from rest_framework.request import Request  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.routers import SimpleRouter  # noqa: E402
from rest_framework.serializers import Serializer  # noqa: E402
from rest_framework.throttling import UserRateThrottle  # noqa: E402
from rest_framework.views import APIView  # noqa: E402
from rest_framework.viewsets import ViewSet  # noqa: E402

ALONE = (django_project.MIDDLEWARE[0], django_project.MIDDLEWARE[2])
"""The middlewares without doorkey's."""

reads = requires("messages:read")


def told(request: Request) -> Response:
    """What every view below does: it tells whom it was called for."""
    principal = current_principal(request)
    assert request.auth == principal
    return Response("nobody" if principal is None else principal.key)


def method(self: object, request: Request, **_: str) -> Response:
    return told(request)


class Messages(APIView):
    get = reads(method)
    post = requires("messages:write")(method)
    delete = method


@reads
class Charges(APIView):
    get = method


class Payouts(APIView):
    permission_classes = (HasPermissions.of("messages:read"),)
    get = method


class Generic(GenericAPIView[Any]):
    """Its OPTIONS asks the permission classes about POST."""

    permission_classes = (HasPermissions.of("messages:read"),)
    serializer_class = Serializer
    post = method


class Healthz(APIView):
    get = requires(OPEN)(method)


class Both(APIView):
    permission_classes = (HasPermissions.of("messages:read"),)
    get = requires("messages:write")(method)


class Crud(ViewSet):
    """What a ModelViewSet is like: its actions are inherited."""

    list = method
    retrieve = method
    update = method
    destroy = method

    def partial_update(self, request: Request, **named: str) -> Response:
        return self.update(request, **named)


@requires_each(list="messages:read", update="messages:write", partial_update="messages:edit")
class Listed(Crud):
    @action(detail=False, methods=["post"])
    @requires("messages:archive")
    def archive(self, request: Request) -> Response:
        return told(request)

    @action(detail=False, methods=["post"], permission_classes=[HasPermissions.of("messages:archive")])
    def seal(self, request: Request) -> Response:
        return told(request)

    @action(detail=False)
    def undeclared(self, request: Request) -> Response:
        return told(request)


class Undeclared(APIView):
    get = method


class Bare(APIView):
    """One that has switched off both classes."""

    authentication_classes = ()
    permission_classes = (AllowAny,)
    get = reads(method)


class Sessions(APIView):
    """One that asks for a session first."""

    authentication_classes = (SessionAuthentication,)
    get = reads(method)


class People(APIView):
    permission_classes = (HasPermissions.of("messages:read"), IsAuthenticated)
    throttle_classes = (type("Throttle", (UserRateThrottle,), {"rate": "2/day"}),)
    get = method


@api_view(["GET"])
@permission_classes([HasPermissions.of("messages:read")])
def function(request: Request) -> Response:
    return told(request)


@api_view(["GET"])
def undeclared_function(request: Request) -> Response:
    return told(request)


outer = reads(api_view(["GET"])(told))
router = SimpleRouter(trailing_slash=False)
router.register("crud", Listed, basename="crud")
URLS: Any = URLconf(
    [
        path("messages", Messages.as_view()),
        path("charges", Charges.as_view()),
        path("payouts", Payouts.as_view()),
        path("healthz", Healthz.as_view()),
        path("generic", Generic.as_view()),
        path("both", Both.as_view()),
        path("undeclared", Undeclared.as_view()),
        path("bare", Bare.as_view()),
        path("sessions", Sessions.as_view()),
        path("people", People.as_view()),
        path("function", function),
        path("undeclared-function", undeclared_function),
        path("outer", outer),
        path("", include(router.urls)),
    ]
)


@pytest.fixture
def house() -> Doorkey:
    """A doorkey in memory."""
    return door()


Ask = Callable[..., wire.Answer]


@pytest.fixture(params=["beside", "alone"])
def way(request: pytest.FixtureRequest) -> str:
    """Beside the middleware, and alone."""
    return str(request.param)


@pytest.fixture
def ask(house: Doorkey, way: str) -> Ask:
    """Asks the project."""
    return asking(house, ALONE if way == "alone" else django_project.MIDDLEWARE)


def asking(house: Any, middleware: Sequence[str], **more: Any) -> Ask:
    doorkey: Mapping[str, Any] = {"door": house, "policy": "PER_ROUTE", **more}
    application = django_project.wsgi(doorkey, {"urlconf": URLS}, MIDDLEWARE=middleware)

    def ask(target: str, token: Token | None = None, method: str = "GET", **fields: Any) -> wire.Answer:
        row = Row("", None if token is None else basic(token), target=target, method=method, **fields)
        with override_settings(DOORKEY=doorkey):
            return wire.over_wsgi(application, wire.environ_of(row, {}))

    return ask


def code(answer: wire.Answer) -> str | int:
    """The code of a refusal, or the status of another answer."""
    try:
        body = json.loads(answer.body)
        return str(body["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return answer.status


@pytest.mark.parametrize("target", ["/messages", "/charges", "/payouts", "/function", "/crud"])
def test_a_view_of_each_kind_is_judged_by_what_it_declares(ask: Ask, house: Doorkey, target: str) -> None:
    """Methods, classes, permission classes, functions, actions: the same both ways."""
    reader, other = issue(house, permissions=["messages:read"]), issue(house, permissions=["other"])
    publishable = issue(house, type=KeyType.PUBLISHABLE)
    for method in ("GET", "HEAD") if target != "/function" else ("GET",):  # api_view is exact
        assert ask(target, reader, method).status == 200
        assert ask(target, None, method).status == 401
    assert json.loads(ask(target, reader).body).startswith("key_")
    assert code(ask(target)) == "api_key_missing"
    assert code(ask(target, other)) == "insufficient_permissions"
    assert code(ask(target, publishable)) == "secret_key_required"


def test_actions_have_requirements_of_their_own(ask: Ask, house: Doorkey) -> None:
    """By name, by decorator, by permission classes; one may call another; what declares nothing is closed."""
    with_permission = {
        name: issue(house, permissions=[f"messages:{name}"]) for name in ("read", "write", "edit", "archive")
    }
    for target, method, name in (
        ("/crud", "GET", "read"),
        ("/crud/7", "PUT", "write"),
        ("/crud/7", "PATCH", "edit"),
        ("/crud/archive", "POST", "archive"),
        ("/crud/seal", "POST", "archive"),
    ):
        for other, token in with_permission.items():
            assert code(ask(target, token, method)) == (200 if other == name else "insufficient_permissions")
    for target, method in (("/crud/7", "GET"), ("/crud/7", "DELETE"), ("/crud/undeclared", "GET")):
        assert code(ask(target, None, method)) == "api_key_missing"
        assert code(ask(target, issue(house), method)) == "operation_undeclared"


def test_what_declares_nothing_is_closed(ask: Ask, house: Doorkey) -> None:
    """Views, methods of views, and functions; OPTIONS and other methods are REST framework's to answer."""
    whole, reader = issue(house), issue(house, permissions=["messages:read"])
    for target, method in (("/undeclared", "GET"), ("/undeclared-function", "GET"), ("/messages", "DELETE")):
        assert code(ask(target, None, method)) == "api_key_missing"
        assert code(ask(target, whole, method)) == "operation_undeclared"
    for method, status in (("OPTIONS", 200), ("PUT", 405), ("TRACE", 405)):
        assert code(ask("/messages", None, method)) == "api_key_missing"
        assert code(ask("/messages", reader, method)) == "insufficient_permissions"
        assert ask("/messages", whole, method).status == status


@pytest.mark.parametrize("target", ["/payouts", "/function", "/crud/seal", "/generic"])
def test_permission_classes_leave_the_rest_to_rest_framework(ask: Ask, house: Doorkey, target: str) -> None:
    """What a view has no method for is answered as elsewhere, to who may do all."""
    for method, status in (("OPTIONS", 200), ("PUT", 405)):
        assert code(ask(target, issue(house, permissions=["messages"]), method)) == "insufficient_permissions"
        assert code(ask(target, issue(house), method)) == status


def test_what_is_open_is_open(ask: Ask, house: Doorkey) -> None:
    """Nobody is told of, whatever key is sent."""
    assert [json.loads(ask("/healthz", token).body) for token in (None, issue(house))] == ["nobody", "nobody"]
    row = Row("", "Basic !", target="/healthz")
    assert ask(row.target, headers=(("Authorization", "Basic !"),)).status == 200


def test_two_declarations_that_disagree_close_a_view(ask: Ask, house: Doorkey) -> None:
    """A permission class's and a method's: an error, not one of the two."""
    assert ask("/both", issue(house)).status == 500


def test_refusals_have_their_own_form(ask: Ask, way: str) -> None:
    """Status, challenges, other fields and body as everywhere; REST framework adds to Vary, and says Allow."""
    answer = ask("/messages")
    headers = dict(answer.headers)
    assert [value for name, value in answer.headers if name == "www-authenticate"] == [
        'Basic realm="API", charset="UTF-8"',
        'Bearer realm="API"',
    ]
    assert (headers["content-type"], headers["cache-control"]) == ("application/json", "no-store")
    assert headers["vary"] == "Authorization, Origin, Sec-Fetch-Mode"
    assert json.loads(answer.body)["error"]["request_id"] == headers["request-id"]
    assert ("allow" in headers) is (way == "alone")
    script = ask("/messages", headers=(("Origin", "https://shop.example"),))
    assert [value for name, value in script.headers if name == "www-authenticate"] == ['Bearer realm="API"']
    head = ask("/messages", None, "HEAD")
    assert (head.body, int(dict(head.headers)["content-length"]) > 0) == (b"", True)


def test_beside_the_middleware_a_view_may_switch_the_classes_off(house: Doorkey) -> None:
    """It is judged before. Alone, what it declares keeps it closed, with an error."""
    token = issue(house, permissions=["messages:read"])
    beside, alone = asking(house, django_project.MIDDLEWARE), asking(house, ALONE)
    assert code(beside("/bare")) == "api_key_missing"
    assert [alone("/bare").status, alone("/bare", token).status] == [500, 500]
    assert [code(alone("/outer")), beside("/outer", token).status] == [500, 200]


def test_another_way_to_authenticate_lets_nobody_in(ask: Ask, house: Doorkey) -> None:
    """A session is no key: the permission class judges all the same."""
    assert code(ask("/sessions")) == "api_key_missing"
    assert code(ask("/sessions", issue(house, permissions=["other"]))) == "insufficient_permissions"


def test_a_key_is_a_user_to_rest_framework(ask: Ask, house: Doorkey) -> None:
    """One who is authenticated and counted by throttles, and has no account."""
    token, other = issue(house), issue(house)
    assert [ask("/people", token).status for _ in range(3)] == [200, 200, 429]
    assert ask("/people", other).status == 200
    principal = house.verifier.identify(basic(token))
    assert not isinstance(principal, str)
    user = KeyUser(principal)  # type: ignore[arg-type]
    assert (str(user), user.pk, user.is_staff, user.is_superuser) == (user.principal.key, user.pk, False, False)


def test_a_store_that_fails_is_503(house: Doorkey) -> None:
    """With Retry-After."""

    class Down:
        def find(self, digests: Sequence[bytes]) -> Record | None:
            raise StoreUnavailable("gone")

    digester = house.secrets.digester()
    down = SimpleNamespace(verifier=Verifier(Down(), digester), async_verifier=AsyncVerifier(Inline(Down()), digester))
    answer = asking(down, ALONE)("/messages", issue(house))
    assert (answer.status, code(answer), "retry-after" in dict(answer.headers)) == (503, "auth_unavailable", True)


def test_without_the_exception_handler_a_refusal_is_still_one(house: Doorkey) -> None:
    """Its status, its body and both challenges are; the handler is for the rest."""
    rest = {**django_project.SETTINGS["REST_FRAMEWORK"], "EXCEPTION_HANDLER": "rest_framework.views.exception_handler"}
    with override_settings(REST_FRAMEWORK=rest):
        ask = asking(house, ALONE)
        answer = ask("/messages")
        problem = asking(door(profile=FALU), ALONE)("/messages")
    headers = dict(answer.headers)
    assert (answer.status, code(answer)) == (401, "api_key_missing")
    assert json.loads(problem.body)["status"] == 401
    assert headers["www-authenticate"] == 'Basic realm="API", charset="UTF-8", Bearer realm="API"'


def test_other_exceptions_are_rest_frameworks(ask: Ask, house: Doorkey) -> None:
    """The handler leaves them alone: a page that is not there, a 401 of another permission class."""
    assert drf.exception_handler(ValueError(), {}) is None
    from django.http import Http404

    answer = drf.exception_handler(Http404(), {})
    assert answer is not None
    assert answer.status_code == 404
    with override_settings(DOORKEY={"door": house, "policy": "PER_ROUTE"}):
        request: Any = SimpleNamespace(META={})
        assert drf.ApiKeyAuthentication().authenticate_header(request).startswith('Basic realm="API"')


def test_under_a_policy_the_table_counts(house: Doorkey) -> None:
    """The classes tell who was let in; what lies outside judges itself."""
    policy = Policy([Rule("GET", "/undeclared", "messages:read")])
    reader = issue(house, permissions=["messages:read"])
    ask = asking(house, django_project.MIDDLEWARE, policy=policy)
    assert json.loads(ask("/undeclared", reader).body).startswith("key_")
    assert ask("/payouts", issue(house)).status == 500
    outside = asking(house, django_project.MIDDLEWARE, policy=Policy(within="/api"))
    assert outside("/payouts", reader).status == 200
    assert code(outside("/payouts")) == "api_key_missing"
    assert code(outside("/undeclared", reader)) == "operation_undeclared"


def test_a_permission_class_declares_once() -> None:
    """Each ``of`` makes a class of its own, checked when made."""
    with pytest.raises(InvalidPolicy):
        HasPermissions.of(OPEN, publishable=True)
    with pytest.raises(InvalidPolicy, match="no method list"):
        requires_each(list="messages:read")(Messages)


def test_a_test_names_what_nobody_thought_of(house: Doorkey) -> None:
    """Beside the middleware what declares nothing; alone also what has not the permission class."""
    urls: Any = URLconf([path("messages", Charges.as_view()), path("healthz", Healthz.as_view())])
    wrong: Any = URLconf([path("crud", Listed.as_view({"get": "retrieve", "put": "update"})), *urls.urlpatterns])
    doorkey = {"door": house, "policy": "PER_ROUTE"}
    with override_settings(DOORKEY=doorkey):
        drf.assert_protected(urls, open=["GET /healthz"])
        with pytest.raises(AssertionError, match=r"^GET /crud declares nothing$"):
            drf.assert_protected(wrong, open=["GET /healthz"])
    with override_settings(DOORKEY=doorkey, MIDDLEWARE=ALONE):
        drf.assert_protected(urls, open=["GET /healthz"])
        with pytest.raises(AssertionError, match=r"^GET /bare declares nothing; \* /page declares nothing$"):
            drf.assert_protected(
                URLconf([path("bare", Bare.as_view()), path("page", told), *urls.urlpatterns]),  # type: ignore[arg-type]
                open=["GET /healthz"],
            )


DESCRIBED = [
    row
    for row in ROWS
    if row.policy == "whole"
    and row.only in ("", "wsgi")
    and not row.websocket
    and row.name not in app.DIFFERS
    and row.method != "WEBSOCKET"
    and "Host" not in dict(row.headers)  # which Django refuses first
]


@pytest.mark.parametrize("one", DESCRIBED, ids=[row.name for row in DESCRIBED])
def test_alone_the_two_classes_answer_as_the_table_says(one: Row, houses: dict[str, House]) -> None:
    """Wherever there is a view; where there is none Django answers, which nobody judges, and nothing is entered."""
    house = houses[one.profile]
    entered: list[Any] = []
    doorkey = {
        "door": SimpleNamespace(verifier=house.verifiers[one.store], async_verifier=house.async_verifiers[one.store]),
        "policy": "PER_ROUTE",
        "trusted_proxies": PROXIES[one.proxies],
    }
    attributes = {"enter": entered.append, "urlconf": app.declared()}
    application = django_project.wsgi(doorkey, attributes, MIDDLEWARE=ALONE)
    with override_settings(DOORKEY=doorkey):
        answer = wire.over_wsgi(application, wire.environ_of(one, house.tokens))
    path = unquote(one.filled_target(house.tokens).partition("?")[0])
    if POLICIES[one.policy].rule(one.method, path) is not None:
        check(one, answer, entered, house)
    else:
        assert not entered
        assert answer.status in frameworks.CLOSED | {401} or (answer.status == 200 and one.method == "OPTIONS")
