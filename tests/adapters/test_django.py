"""The Django middleware and decorators: views of every kind, who runs before whom, what is closed, what is mistyped."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest
from asgiref.sync import SyncToAsync
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory, override_settings
from django.urls import include, path
from django.utils.decorators import async_only_middleware, method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe
from django.views.generic import TemplateView

from doorkey import OPEN, PER_ROUTE, AsyncVerifier, Doorkey, KeyType, Mode, Policy, Requirement, Rule, TrustedProxies
from doorkey.adapters.django import (
    DoorkeyMiddleware,
    assert_protected,
    configuration,
    current_principal,
    requires,
    requires_each,
)
from doorkey.core.errors import ConfigurationError, InvalidPermission, InvalidPolicy, StoreUnavailable
from doorkey.core.model import Record
from doorkey.core.tokens import Token
from doorkey.core.verify import Verifier
from doorkey.testing import basic, door, issue
from tests.adapters import django_project, wire
from tests.adapters.apps.django import URLconf
from tests.adapters.table import Row

django_project.ready()


def view(request: HttpRequest, **_: str) -> HttpResponse:
    """What most views below do: they tell whom they were called for."""
    principal = current_principal(request)
    return HttpResponse("nobody" if principal is None else principal.key)


async def view_unaware(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


async def view_later(request: HttpRequest) -> HttpResponse:
    return view(request)


def method(self: View, request: HttpRequest) -> HttpResponse:
    return view(request)


async def method_later(self: View, request: HttpRequest) -> HttpResponse:
    return view(request)


class Messages(View):
    get = requires("messages:read")(method)
    post = requires("messages:write")(method)
    delete = method


class MessagesLater(View):
    get = requires("messages:read")(method_later)


@requires("messages:read")
class Charges(View):
    get = method
    head = method


class MoreCharges(Charges):
    delete = method


@method_decorator(requires("messages:read"), name="dispatch")
class Dispatched(View):
    get = method


@method_decorator(requires("messages:read"), name="dispatch")
class DispatchedTwice(View):
    get = requires("messages:write")(method)


class Odd(View):
    def dispatch(self, request: HttpRequest, *_: object, **__: object) -> HttpResponse:
        return view(request)


class Optional(View):
    options = method


class Parent(View):
    put = method

    def patch(self, request: HttpRequest) -> HttpResponse:
        return self.put(request)


@requires_each(put="messages:write", patch="messages:read")
class Child(Parent):
    pass


@requires_each(get="messages:read", delete="messages:write")
class Overriding(View):
    get = method
    delete = method

    def dispatch(self, request: HttpRequest, *arguments: object, **named: object) -> Any:
        request.method = request.headers.get("X-Method", request.method)
        return super().dispatch(request, *arguments, **named)


class Grandchild(Child):
    @requires("messages:edit")
    def put(self, request: HttpRequest) -> HttpResponse:
        return super().put(request)


def logged(view: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator of somebody's."""

    @wraps(view)
    def wrapper(*arguments: Any, **named: Any) -> Any:
        return view(*arguments, **named)

    return wrapper


def broken(request: HttpRequest) -> HttpResponse:
    raise ValueError("broken")


reads = requires("messages:read")
URLS: Any = URLconf(
    [
        path("function", reads(view)),
        path("later", reads(view_later)),
        path("safe", reads(require_safe(view))),
        path("exempt", csrf_exempt(reads(view))),
        path("logged", logged(reads(view))),
        path("partial", partial(reads(view))),
        path("messages", Messages.as_view()),
        path("messages-later", MessagesLater.as_view()),
        path("charges", Charges.as_view()),
        path("more", MoreCharges.as_view()),
        path("dispatched", Dispatched.as_view()),
        path("twice", DispatchedTwice.as_view()),
        path("odd", Odd.as_view()),
        path("optional", Optional.as_view()),
        path("child", Child.as_view()),
        path("grandchild", Grandchild.as_view()),
        path("overriding", Overriding.as_view()),
        path("undeclared", view),
        path("undeclared-later", view_later),
        path("template", TemplateView.as_view(template_name="none.html")),
        path("open", requires(OPEN)(view)),
        path("slash/", requires(OPEN)(view)),
        path("broken", reads(broken)),
        path("live", requires("messages:read", mode=Mode.LIVE)(view)),
        path("any", requires(Requirement.ANY_KEY)(view)),
        path("tokens", requires("tokens:create", publishable=True)(view)),
        path("inner/", include([path("function", reads(view)), path("undeclared", view)])),
        path("api/function", reads(view)),
        path("api/undeclared", view),
        path("page", view),
    ]
)
OTHER: Any = URLconf([path("function", requires("charges:read")(view)), path("open", view)])


@pytest.fixture
def house() -> Doorkey:
    """A doorkey in memory."""
    return door()


@pytest.fixture(params=["wsgi", "asgi"])
def interface(request: pytest.FixtureRequest) -> str:
    """Each interface in turn."""
    return cast(str, request.param)


Site = Callable[..., Callable[..., wire.Answer]]


@pytest.fixture
def site(house: Doorkey, interface: str) -> Site:
    """Makes the project an application, and asks it."""

    def make(
        setting: Mapping[str, Any] | None = None, urls: URLconf = URLS, **changed: Any
    ) -> Callable[..., wire.Answer]:
        doorkey = {"door": house, "policy": "PER_ROUTE", **(setting or {})}
        application = getattr(django_project, interface)(doorkey, {"urlconf": urls}, **changed)

        def ask(target: str, token: Token | None = None, method: str = "GET", **fields: Any) -> wire.Answer:
            row = Row("", None if token is None else basic(token), target=target, method=method, **fields)
            if interface == "asgi":
                return wire.over_asgi(application, wire.scope_of(row, {}))
            return wire.over_wsgi(application, wire.environ_of(row, {}))

        return ask

    return make


def code(answer: wire.Answer) -> str | int:
    """The code of a refusal, or the status of another answer."""
    try:
        return cast(str, json.loads(answer.body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return answer.status


def key(house: Doorkey, token: Token) -> str:
    """The id of the key that a token belongs to."""
    return next(
        one.id
        for workspace in house.keyring.workspaces()
        for one in house.keyring.keys(workspace.id)
        if one.tokens[0].id == token.id
    )


# Views


@pytest.mark.parametrize(
    "target",
    [
        *("/function", "/later", "/safe", "/exempt", "/logged", "/partial", "/messages", "/messages-later"),
        *("/charges", "/dispatched", "/inner/function", "/api/function"),
    ],
)
def test_a_view_of_each_kind_is_judged_by_what_it_declares(site: Site, house: Doorkey, target: str) -> None:
    """Functions, coroutines, classes and methods, decorated or included: the right key enters, others do not."""
    ask, token, wrong = site(), issue(house, permissions=["messages:read"]), issue(house, permissions=["other"])
    for method in ("GET", "HEAD"):
        assert ask(target, token, method).status == 200
        assert ask(target, None, method).status == 401
    assert ask(target, token).body.decode() == key(house, token)
    assert code(ask(target)) == "api_key_missing"
    assert code(ask(target, wrong)) == "insufficient_permissions"


@pytest.mark.parametrize(
    "target",
    ["/undeclared", "/undeclared-later", "/template", "/odd", "/inner/undeclared", "/api/undeclared", "/page"],
)
def test_a_view_that_declares_nothing_is_closed_to_everybody(
    site: Site, house: Doorkey, target: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also to a key that may do all; the log says once which view it is."""
    ask, token = site(), issue(house)
    assert code(ask(target)) == "api_key_missing"
    assert [code(ask(target, token)) for _ in range(3)] == ["operation_undeclared"] * 3
    said = [record.getMessage() for record in caplog.records if record.name == "doorkey"]
    assert len(said) == 1
    assert said[0].startswith("nobody may GET ")


def test_the_log_keeps_nothing_that_clients_make_up(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Methods that nobody knows are one to it, whatever their names."""
    ask = site()
    for number in range(5):
        assert ask("/undeclared", None, f"BREW{number}").status == 401
    said = [record.getMessage() for record in caplog.records if record.name == "doorkey"]
    assert len(said) == 1
    assert said[0].startswith("nobody may * ")


def test_each_method_of_a_class_has_its_own_requirement(site: Site, house: Doorkey) -> None:
    """One that declares nothing is closed; one that there is not is Django's to answer, for who may do all."""
    ask = site()
    reader, writer, whole = (
        issue(house, permissions=["messages:read"]),
        issue(house, permissions=["messages:write"]),
        issue(house),
    )
    assert code(ask("/messages", writer)) == "insufficient_permissions"
    assert code(ask("/messages", reader, "POST")) == "insufficient_permissions"
    assert ask("/messages", writer, "POST").status == 200
    assert code(ask("/messages", whole, "DELETE")) == "operation_undeclared"
    assert code(ask("/more", whole, "DELETE")) == "operation_undeclared"
    assert code(ask("/optional", whole, "OPTIONS")) == "operation_undeclared"
    for method, status in (("PUT", 405), ("OPTIONS", 200), ("BREW", 405), ("DISPATCH", 405), ("SETUP", 405)):
        assert code(ask("/messages", None, method)) == "api_key_missing"
        assert code(ask("/messages", reader, method)) == "insufficient_permissions"
        assert code(ask("/messages", whole, method)) == status


def test_inherited_methods_are_declared_by_name(site: Site, house: Doorkey) -> None:
    """They may call each other: the request was judged by what the one requires that it is for."""
    ask = site()
    reader, writer = issue(house, permissions=["messages:read"]), issue(house, permissions=["messages:write"])
    assert ask("/child", reader, "PATCH").status == 200
    assert ask("/child", writer, "PUT").status == 200
    assert code(ask("/child", reader, "PUT")) == "insufficient_permissions"
    assert code(ask("/child", writer, "PATCH")) == "insufficient_permissions"
    assert ask("/grandchild", issue(house, permissions=["messages:edit"]), "PUT").status == 200
    assert code(ask("/grandchild", writer, "PUT")) == "insufficient_permissions"


def test_a_class_that_changes_the_method_enters_nothing_else(site: Site, house: Doorkey) -> None:
    """What it then reaches was judged by what another of its methods requires."""
    ask, reader = site(), issue(house, permissions=["messages:read"])
    assert ask("/overriding", reader).status == 200
    assert ask("/overriding", reader, headers=(("X-Method", "DELETE"),)).status == 500


def test_modes_types_and_open_views(site: Site, house: Doorkey) -> None:
    """Whatever a requirement can say, a view can say."""
    ask = site()
    secret, publishable = issue(house), issue(house, type=KeyType.PUBLISHABLE)
    restricted = issue(house, permissions=["other"])
    assert code(ask("/live", secret)) == "livemode_mismatch"
    assert ask("/tokens", publishable, "POST").status == 200
    assert code(ask("/function", publishable)) == "secret_key_required"
    assert ask("/any", restricted).status == ask("/any", publishable).status == 200
    assert (ask("/open").body, ask("/open", secret).body) == (b"nobody", b"nobody")


def test_what_django_answers_by_itself_needs_an_unrestricted_key(site: Site, house: Doorkey) -> None:
    """Not found, and the redirect to a path with a slash: both are judged before anybody looks."""
    ask, reader, whole = site(), issue(house, permissions=["messages:read"]), issue(house)
    for target, status in (("/nowhere", 404), ("/slash", 301), ("/inner/", 404)):
        assert code(ask(target)) == "api_key_missing"
        assert code(ask(target, reader)) == "insufficient_permissions"
        assert code(ask(target, whole)) == status


def test_a_view_that_fails_is_an_error(site: Site, house: Doorkey) -> None:
    """For who was let in; nobody else learns that it fails."""
    ask = site()
    assert ask("/broken").status == 401
    assert ask("/broken", issue(house)).status == 500


def test_two_declarations_that_disagree_close_a_view(site: Site, house: Doorkey) -> None:
    """One on a class's dispatch and another on its method: an error, not one of the two."""
    assert site()("/twice", issue(house)).status == 500


def test_declaring_what_cannot_be_meant_raises() -> None:
    """Twice, on a class without methods, a method that there is not, a permission that is none."""
    with pytest.raises(InvalidPolicy, match="twice"):
        requires("a")(requires("b")(view))
    with pytest.raises(InvalidPolicy, match="twice"):
        requires("a")(Messages)
    with pytest.raises(InvalidPolicy, match="no method"):
        requires("a")(View)
    with pytest.raises(InvalidPolicy, match="no method list"):
        requires_each(list="a")(Messages)
    with pytest.raises(InvalidPermission):
        requires("no permission")
    with pytest.raises(InvalidPolicy):
        requires(OPEN, publishable=True)


# Who runs before whom


def note(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """A middleware that tells that it was entered."""

    def called(request: HttpRequest) -> Any:
        ENTERED.append(request.path_info)
        return get_response(request)

    return called


def elsewhere(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """A middleware that sends a request to another URLconf."""

    def called(request: HttpRequest) -> Any:
        request.urlconf = OTHER
        return get_response(request)

    return called


def answering(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """A middleware that answers by itself."""
    return lambda request: HttpResponse("by itself")


ENTERED: list[str] = []
HERE = "tests.adapters.test_django"


@pytest.fixture
def middleware() -> Iterator[Callable[..., list[str]]]:
    """Middlewares of this module, behind doorkey's."""
    ENTERED.clear()
    yield lambda *names: [*django_project.MIDDLEWARE[:2], *(f"{__name__}.{name}" for name in names)]


def test_nothing_further_inside_is_entered_by_who_is_refused(
    site: Site, house: Doorkey, middleware: Callable[..., list[str]]
) -> None:
    """Neither a middleware nor what it answers by itself, whether or not there is a view."""
    ask = site(MIDDLEWARE=middleware("note", "answering"))
    for target in ("/function", "/undeclared", "/nowhere"):
        assert ask(target).status == 401
    assert ENTERED == []
    assert ask("/function", issue(house, permissions=["messages:read"])).body == b"by itself"
    assert ENTERED == ["/function"]


def test_a_request_that_is_sent_elsewhere_is_judged_again(
    site: Site, house: Doorkey, middleware: Callable[..., list[str]]
) -> None:
    """By what the view requires that it then reaches: nobody enters by what another one said."""
    ask = site(MIDDLEWARE=middleware("elsewhere"))
    reader, both = issue(house, permissions=["messages"]), issue(house, permissions=["messages", "charges"])
    assert code(ask("/function", reader)) == "insufficient_permissions"
    assert ask("/function", both).body.decode() == key(house, both)
    assert code(ask("/open")) == "api_key_missing"
    assert code(ask("/open", issue(house))) == "operation_undeclared"


def deleting(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """A middleware that lets forms delete, which can only POST."""

    def called(request: HttpRequest) -> Any:
        request.method = "DELETE"
        return get_response(request)

    return called


def test_a_method_that_other_middleware_changed_is_judged(site: Site, house: Doorkey) -> None:
    """As the view will see it: a rule for what was sent says nothing of that."""
    policy = Policy([Rule("POST", "/function", "messages:write"), Rule("DELETE", "/function", "messages:delete")])
    stack = [f"{HERE}.deleting", *django_project.MIDDLEWARE[:2]]
    ask = site({"policy": policy}, URLconf([path("function", undecorated)]), MIDDLEWARE=stack)
    writer, deleter = issue(house, permissions=["messages:write"]), issue(house, permissions=["messages:delete"])
    assert code(ask("/function", writer, "POST")) == "insufficient_permissions"
    assert ask("/function", deleter, "POST").body == b"DELETE"


def undecorated(request: HttpRequest) -> HttpResponse:
    """Under a policy."""
    return HttpResponse(request.method)


@async_only_middleware
def waiting(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """A middleware that only asyncio can run."""

    async def called(request: HttpRequest) -> Any:
        return await get_response(request)

    return called


@pytest.mark.parametrize("inside", ["note", "waiting"])
def test_middleware_of_the_other_kind_changes_nothing(
    site: Site, house: Doorkey, middleware: Callable[..., list[str]], inside: str
) -> None:
    """A synchronous one under ASGI, and the other way round: doorkey's then runs as that one does."""
    ask = site(MIDDLEWARE=middleware(inside))
    reader = issue(house, permissions=["messages:read"])
    for target in ("/function", "/later"):
        assert ask(target, reader).body.decode() == key(house, reader)
        assert [code(ask(target)), ask("/nowhere").status] == ["api_key_missing", 401]
    assert code(ask("/undeclared", reader)) == "operation_undeclared"


def test_under_asgi_no_thread_is_needed(house: Doorkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request goes as often to a thread as it does without doorkey's middleware."""
    hops = []
    called = SyncToAsync.__call__

    async def counted(self: Any, *arguments: Any, **named: Any) -> Any:
        hops.append(self.func)
        return await called(self, *arguments, **named)

    monkeypatch.setattr(SyncToAsync, "__call__", counted)
    outermost = django_project.MIDDLEWARE[:1]
    numbers = []
    for names in (outermost, [*outermost, django_project.OURS]):
        urls = URLconf([path("later", view_unaware if names is outermost else reads(view_later))])
        setting = {"door": house, "policy": "PER_ROUTE"}
        application = django_project.asgi(setting, {"urlconf": urls}, MIDDLEWARE=names)
        hops.clear()
        row = Row("", basic(issue(house, permissions=["messages:read"])), target="/later")
        assert wire.over_asgi(application, wire.scope_of(row, {})).status == 200
        numbers.append(len(hops))
    assert numbers[0] == numbers[1]


def test_a_view_stays_closed_without_the_middleware(
    site: Site, house: Doorkey, caplog: pytest.LogCaptureFixture
) -> None:
    """Forgotten, the decorated views answer with an error, and say what to do."""
    ask = site(MIDDLEWARE=django_project.MIDDLEWARE[:1])
    for target in ("/function", "/later", "/messages", "/messages-later", "/charges", "/dispatched", "/open"):
        assert ask(target, issue(house)).status == 500
    assert "put doorkey's middleware" in caplog.text
    with pytest.raises(ConfigurationError, match="DoorkeyMiddleware into MIDDLEWARE"):
        current_principal(RequestFactory().get("/"))


# Policy


def test_under_a_policy_the_table_counts(site: Site, house: Doorkey) -> None:
    """What it says of a path holds for the views there; those that declare something themselves stay closed."""
    policy = Policy([Rule("GET", "/page", "messages:read"), Rule.open("GET", "/undeclared")])
    ask, reader = site({"policy": policy}), issue(house, permissions=["messages:read"])
    assert ask("/page", reader).body.decode() == key(house, reader)
    assert code(ask("/page")) == "api_key_missing"
    assert ask("/undeclared").body == b"nobody"
    assert code(ask("/undeclared-later", reader)) == "insufficient_permissions"
    assert ask("/function", issue(house)).status == 500


@pytest.mark.parametrize("policy", ["PER_ROUTE", Policy([Rule("GET", "/api/undeclared")], within="/api")])
def test_the_rest_of_a_site_is_others_business(site: Site, house: Doorkey, policy: Any) -> None:
    """Outside, requests pass without a principal; a view there that declares something refuses everybody."""
    ask = site({"policy": policy, **({"within": "/api"} if policy == "PER_ROUTE" else {})})
    assert ask("/page").body == b"nobody"
    assert ask("/nowhere").status == 404
    for target in ("/function", "/open", "/messages"):
        assert ask(target, issue(house)).status == 500
    for target in ("/api/function", "/api/undeclared", "/API/function", "//api/function", "/api", "/x/../api/function"):
        assert code(ask(target)) == "api_key_missing"


# Refusals


def test_a_store_that_fails_is_503(site: Site, house: Doorkey) -> None:
    """With Retry-After, and nobody enters."""

    class Down:
        def find(self, digests: Sequence[bytes]) -> Record | None:
            raise StoreUnavailable("gone")

    class DownLater:
        async def find(self, digests: Sequence[bytes]) -> Record | None:
            raise StoreUnavailable("gone")

    digester = house.secrets.digester()
    down = SimpleNamespace(verifier=Verifier(Down(), digester), async_verifier=AsyncVerifier(DownLater(), digester))
    answer = site({"door": down})("/function", issue(house))
    assert (answer.status, code(answer), "retry-after" in dict(answer.headers)) == (503, "auth_unavailable", True)


def test_a_target_that_is_no_path_is_refused(site: Site, house: Doorkey) -> None:
    """By 400, whoever asks."""
    for policy in ("PER_ROUTE", Policy()):
        assert code(site({"policy": policy})("http://api.example/open", issue(house))) == "request_target_invalid"


def test_request_ids_may_be_ones_own(site: Site) -> None:
    """By the same setting."""
    answer = site({"request_id": lambda: "req_1"})("/function")
    assert dict(answer.headers)["request-id"] == "req_1"
    assert b'"request_id": "req_1"' in answer.body


def test_the_clients_address_is_that_behind_trusted_proxies(site: Site, house: Doorkey) -> None:
    """By the same setting."""
    token = issue(house, networks=["203.0.113.0/24"])
    forwarded = (("X-Forwarded-For", "203.0.113.7"),)
    proxies = TrustedProxies(["10.0.0.0/8"])
    assert site({"trusted_proxies": proxies})("/function", token, peer="10.0.0.1", headers=forwarded).status == 200
    assert code(site()("/function", token, peer="10.0.0.1", headers=forwarded)) == "network_not_allowed"


def test_a_cancelled_request_is_cancelled(house: Doorkey) -> None:
    """Nothing of doorkey's swallows it."""

    class Slow:
        async def find(self, digests: Sequence[bytes]) -> Record | None:
            raise asyncio.CancelledError

    slow = SimpleNamespace(verifier=house.verifier, async_verifier=AsyncVerifier(Slow(), house.secrets.digester()))
    with override_settings(DOORKEY={"door": slow, "policy": PER_ROUTE}):
        waiting = DoorkeyMiddleware(view_later)
    request = RequestFactory().get("/function", headers={"Authorization": basic(issue(house))})
    request.urlconf = URLS
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(waiting(request))


def test_nobody_gets_anothers_identity(house: Doorkey, interface: str) -> None:
    """A thousand requests at once, each with one of many keys: each view sees its own."""
    workspace = house.keyring.acting("test").provision("Many").id
    tokens = [issue(house, workspace=workspace) for _ in range(50)]
    keys = {token: key(house, token) for token in tokens}
    dice = Random(7)
    asked = [dice.choice(tokens) for _ in range(1_000)]
    application = getattr(django_project, interface)({"door": house, "policy": PER_ROUTE}, {"urlconf": URLS})

    def ask(token: Token) -> str:
        row = Row("", basic(token), target="/function")
        return wire.over_wsgi(application, wire.environ_of(row, {})).body.decode()

    async def ask_later(token: Token) -> str:
        body = b""

        async def receive() -> Any:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            nonlocal body
            body += message.get("body", b"")

        await application(wire.scope_of(Row("", basic(token), target="/later"), {}), receive, send)
        return body.decode()

    async def ask_all() -> list[str]:
        return await asyncio.gather(*map(ask_later, asked))

    if interface == "asgi":
        answers = asyncio.run(ask_all())
    else:
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(ask, asked))
    assert answers == [keys[token] for token in asked]


# The setting

THE_DOOR = door()
THE_POLICY = Policy()
NEITHER = object()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (None, "doorkey needs the setting DOORKEY"),
        ([], "doorkey needs the setting DOORKEY"),
        ({"verifier": None, "policy": PER_ROUTE}, "has no 'verifier'"),
        ({"policy": PER_ROUTE}, 'DOORKEY["door"] is what doorkey.open() returns'),
        ({"door": THE_DOOR.verifier, "policy": PER_ROUTE}, 'DOORKEY["door"] is'),
        ({"door": f"{__name__}.NEITHER", "policy": PER_ROUTE}, 'DOORKEY["door"] is'),
        ({"door": f"{__name__}.NOTHING", "policy": PER_ROUTE}, "leads nowhere"),
        ({"door": "no_such_module.door", "policy": PER_ROUTE}, "leads nowhere"),
        ({"door": "door", "policy": PER_ROUTE}, "leads nowhere"),
        ({"door": THE_DOOR}, 'DOORKEY["policy"] is a Policy'),
        ({"door": THE_DOOR, "policy": OPEN}, 'DOORKEY["policy"] is a Policy'),
        ({"door": THE_DOOR, "policy": THE_POLICY, "within": "/api"}, "says itself what it is within"),
        ({"door": THE_DOOR, "policy": PER_ROUTE, "within": "api"}, "a path begins with a slash"),
        ({"door": THE_DOOR, "policy": PER_ROUTE, "trusted_proxies": ["10.0.0.0/8"]}, "is a TrustedProxies"),
        ({"door": THE_DOOR, "policy": PER_ROUTE, "request_id": "x"}, "leads nowhere"),
        ({"door": THE_DOOR, "policy": PER_ROUTE, "request_id": 7}, "is a function"),
    ],
)
def test_a_setting_that_is_missing_or_mistyped_is_refused_at_start(setting: Any, message: str) -> None:
    """With a message that says what to write."""
    with override_settings(DOORKEY=setting), pytest.raises(ImproperlyConfigured) as refused:
        DoorkeyMiddleware(view)
    assert message in str(refused.value)


def test_what_a_setting_names_is_imported_once() -> None:
    """Dotted paths lead to objects; the configuration is built once, until the setting is another."""
    setting = {"door": f"{__name__}.THE_DOOR", "policy": f"{__name__}.THE_POLICY"}
    with override_settings(DOORKEY=setting):
        first = configuration()
        assert (first.gate.verifier, first.policy) == (THE_DOOR.verifier, THE_POLICY)
        assert configuration() is first
        assert not hasattr(DoorkeyMiddleware(view), "process_view")
    with override_settings(DOORKEY={**setting, "policy": "PER_ROUTE"}):
        assert configuration().policy is None


# What a test can be told


def project(**changed: Any) -> Any:
    """Settings under which everything is protected."""
    setting = {"door": THE_DOOR, "policy": PER_ROUTE, "within": "/api"}
    return override_settings(**{"DOORKEY": setting, "ROOT_URLCONF": f"{__name__}.urls", **changed})


def test_a_test_names_what_nobody_thought_of() -> None:
    """Open and undeclared views by method and path; without the middleware, everything."""
    with project(), pytest.raises(AssertionError) as told:
        assert_protected(URLS)
    assert str(told.value) == "* /api/undeclared declares nothing"
    urls: Any = URLconf([path("api/messages", Charges.as_view()), path("api/open", requires(OPEN)(view))])
    with project():
        assert_protected(urls, open=["* /api/open"])
        with pytest.raises(AssertionError, match=r"\* /api/open is open: close it"):
            assert_protected(urls)
        with pytest.raises(ConfigurationError, match="no route was found"):
            assert_protected(cast(str, URLconf([path("page", view)])))
    with project(MIDDLEWARE=[]), pytest.raises(AssertionError, match="is not in MIDDLEWARE"):
        assert_protected(urls)


def test_a_test_names_what_no_rule_describes() -> None:
    """Under a policy it is closed, but nobody thought of it."""
    policy = Policy([Rule("GET", "/messages/{id}", "messages:read"), Rule.open("GET", "/healthz")])
    urls: Any = URLconf([path("messages/<int:id>", view), path("healthz", view), path("other", view)])
    with project(DOORKEY={"door": THE_DOOR, "policy": policy}):
        with pytest.raises(AssertionError, match=r"^\* /other declares nothing$"):
            assert_protected(urls, open=["GET /healthz"])
        assert_protected(cast(str, URLconf(urls.urlpatterns[:2])), open=["GET /healthz"])
