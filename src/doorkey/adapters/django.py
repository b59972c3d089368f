"""
Django 5.2 and later: middleware under WSGI and ASGI alike, a decorator for views.

One setting says everything. What it names is an object, or the dotted path of one in a module of the project::

    DOORKEY = {
        "door": "project.keys.door",                # what doorkey.open() returned
        "policy": "PER_ROUTE",                      # or a Policy
        "within": "/api",                           # per route: the rest of the site is not doorkey's business
        "trusted_proxies": "project.keys.proxies",  # behind a proxy
    }
    MIDDLEWARE = ["doorkey.adapters.django.DoorkeyMiddleware", ...]

What is granted, and by what it was judged, stands in ``request.META``, where clients reach ``HTTP_*`` alone.
``request.user``, sessions and CSRF stay Django's. Per route, the view is looked up and its requirement judged before
any middleware further inside is entered; if one of those sends the request elsewhere, it is judged again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import wraps
from typing import Any, NamedTuple, TypeVar, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django import conf
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.urls import get_resolver
from django.utils.module_loading import import_string
from django.views import View

from ..core.clients import TrustedProxies
from ..core.declarations import (
    ELSEWHERE,
    PER_ROUTE,
    REQUIREMENT,
    JudgedBy,
    Said,
    assert_declared,
    declare,
    ensure_judged,
    requirement,
)
from ..core.errors import ConfigurationError, InvalidPolicy
from ..core.model import Decision, Denied, Granted, Mode, Principal, Reason, Requirement
from ..core.policy import WEBSOCKET, Policy
from ..core.refusals import Refusal, new_request_id
from ..core.verify import AsyncVerifier, Verifier
from .django_views import ANY_METHOD, class_of, handlers, is_outside, operations, required, required_at_work, view_at
from .wsgi import PRINCIPAL, Gate, client_address

log: logging.Logger = logging.getLogger("doorkey")

Endpoint = TypeVar("Endpoint")
Requires = str | Iterable[str] | Requirement | Said
GetResponse = Callable[[HttpRequest], Any]

_SETTINGS = ("door", "policy", "within", "trusted_proxies", "request_id")


class Configuration(NamedTuple):
    """
    What the setting ``DOORKEY`` means.

    ``policy`` is ``None`` per route. ``site`` has no rules: it tells what lies outside of ``within``.
    """

    gate: Gate
    async_verifier: AsyncVerifier
    policy: Policy | None
    site: Policy


def configuration() -> Configuration:
    """
    The configuration of this project, built once.

    Raises:
        ImproperlyConfigured: the setting is missing or mistyped, or names what cannot be imported.
    """
    setting = getattr(conf.settings, "DOORKEY", None)
    for known, built in _built:
        if known is setting:
            return built
    made = _configured(setting)
    _built[:] = [(setting, made)]
    return made


_built: list[tuple[object, Configuration]] = []


def _configured(setting: object) -> Configuration:
    if not isinstance(setting, Mapping):
        raise ImproperlyConfigured('doorkey needs the setting DOORKEY = {"door": "project.keys.door", "policy": …}')
    if unknown := set(setting) - set(_SETTINGS):
        raise ImproperlyConfigured(f"DOORKEY has no {', '.join(sorted(map(repr, unknown)))}; it has {_SETTINGS}")
    door, policy = _named(setting, "door"), _named(setting, "policy")
    verifier, async_verifier = getattr(door, "verifier", None), getattr(door, "async_verifier", None)
    if not isinstance(verifier, Verifier) or not isinstance(async_verifier, AsyncVerifier):
        raise ImproperlyConfigured('DOORKEY["door"] is what doorkey.open() returns, or the dotted path of it')
    if not isinstance(policy, Policy) and policy is not PER_ROUTE:
        raise ImproperlyConfigured('DOORKEY["policy"] is a Policy, the dotted path of one, or "PER_ROUTE"')
    within = setting.get("within")
    if isinstance(policy, Policy) and within is not None:
        raise ImproperlyConfigured("a policy says itself what it is within: leave that out of DOORKEY")
    proxies = _named(setting, "trusted_proxies")
    if proxies is not None and not isinstance(proxies, TrustedProxies):
        raise ImproperlyConfigured('DOORKEY["trusted_proxies"] is a TrustedProxies, or the dotted path of one')
    request_id: Callable[[], str] = _named(setting, "request_id") or new_request_id
    if not callable(request_id):
        raise ImproperlyConfigured('DOORKEY["request_id"] is a function without arguments, or the dotted path of one')
    try:
        site = policy if isinstance(policy, Policy) else Policy(within=within)
        gate = Gate(verifier, proxies, request_id)
    except ConfigurationError as error:
        raise ImproperlyConfigured(f"DOORKEY: {error}") from error
    return Configuration(gate, async_verifier, policy if isinstance(policy, Policy) else None, site)


def _named(setting: Mapping[str, Any], name: str) -> Any:
    """What the setting gives under a name, or what the dotted path there leads to."""
    value = setting.get(name)
    if not isinstance(value, str):
        return value
    if name == "policy" and value == PER_ROUTE.value:
        return PER_ROUTE
    try:
        return import_string(value)
    except ImportError as error:
        raise ImproperlyConfigured(f'DOORKEY["{name}"] is {value!r}, which leads nowhere: {error}') from error


class DoorkeyMiddleware:
    """
    Lets in only requests that present a key which may do what they ask for. Configured by the setting ``DOORKEY``.

    Raises:
        ImproperlyConfigured: the setting is missing or mistyped.
    """

    sync_capable: bool = True
    async_capable: bool = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response: GetResponse = get_response
        self.configuration: Configuration = configuration()
        self._warned: set[str] = set()
        self._waits = iscoroutinefunction(get_response)
        if self._waits:
            markcoroutinefunction(self)
        if self.configuration.policy is None:
            # An attribute, because Django asks whether there is one; a coroutine, so that ASGI needs no thread for it.
            self.process_view: Callable[..., Any] = self._reached_later if self._waits else self._reached

    def __call__(self, request: HttpRequest) -> Any:
        """Judge one request: the response, or under ASGI what returns it."""
        if self._waits:
            return self._call_later(request)
        refused = self._judge(request, self._asked(request))
        return self.get_response(request) if refused is None else refused

    async def _call_later(self, request: HttpRequest) -> Any:
        refused = await self._judge_later(request, self._asked(request))
        return await self.get_response(request) if refused is None else refused

    def _reached(self, request: HttpRequest, view: object, *_: object) -> HttpResponse | None:
        """Judge again what reaches another view than the one that was looked up."""
        required = self._declared(request, view)
        return None if _judged_by(request, required) else self._judge(request, required)

    async def _reached_later(self, request: HttpRequest, view: object, *_: object) -> HttpResponse | None:
        required = self._declared(request, view)
        return None if _judged_by(request, required) else await self._judge_later(request, required)

    def _asked(self, request: HttpRequest) -> JudgedBy | Denied:
        """What a request requires; ``None`` if it is open, ``PER_ROUTE`` outside; or that it is for no path."""
        scope = getattr(request, "scope", None)
        whole: str = request.path_info if scope is None else scope["path"]  # Django may have cut off a glued prefix
        if whole and whole[0] != "/":
            return Denied(Reason.TARGET)
        if self.configuration.policy is None:
            return self._declared(request, view_at(request.path_info, getattr(request, "urlconf", None)))
        received, method = _received_method(request), request.method or ""
        if method == received.upper():  # Unless other middleware changed it, the policy compares what was sent.
            method = received
        return self.configuration.policy.judged_by(method if method != WEBSOCKET else "", request.path_info)

    def _declared(self, request: HttpRequest, view: object) -> JudgedBy:
        if is_outside(self.configuration.site, request.path_info):
            return PER_ROUTE
        if view is None:
            return ELSEWHERE
        needed = required(view, request.method or "")
        if needed == Requirement.NOBODY:
            self._warn(request.method or "", view)
        return needed

    def _warn(self, method: str, view: object) -> None:
        word = method if method.lower() in View.http_method_names else ANY_METHOD  # not whatever a client makes up
        name = f"{word} {_name(view)}"
        if name not in self._warned:
            self._warned.add(name)
            log.warning("nobody may %s, because it declares nothing: decorate it with requires(...)", name)

    def _judge(self, request: HttpRequest, asked: JudgedBy | Denied) -> HttpResponse | None:
        """The refusal, if it is one."""
        if not isinstance(asked, Requirement):
            return self._settle(request, asked, None)
        return self._settle(request, asked, self.configuration.gate.judge(request.META, asked))

    async def _judge_later(self, request: HttpRequest, asked: JudgedBy | Denied) -> HttpResponse | None:
        if not isinstance(asked, Requirement):
            return self._settle(request, asked, None)
        decision = await self.configuration.async_verifier.verify(
            request.META.get("HTTP_AUTHORIZATION"),
            client_address=client_address(request.META, self.configuration.gate.trusted_proxies),
            requires=asked,
        )
        return self._settle(request, asked, decision)

    def _settle(self, request: HttpRequest, asked: JudgedBy | Denied, decision: Decision | None) -> HttpResponse | None:
        decision = asked if isinstance(asked, Denied) else decision
        if decision is None or isinstance(decision, Granted):
            request.META[PRINCIPAL] = None if decision is None else decision.principal
            request.META[REQUIREMENT] = asked
            return None
        return RefusalResponse(
            self.configuration.gate.refusal(request.META, decision), _received_method(request) == "HEAD"
        )


class RefusalResponse(HttpResponse):
    """A refusal as Django sends it."""

    def __init__(self, refusal: Refusal, bodiless: bool = False) -> None:
        super().__init__(b"" if bodiless else refusal.body, status=refusal.status)
        self._more: list[tuple[str, str]] = []
        del self.headers["Content-Type"]
        for name, value in refusal.headers:
            if name in self.headers:
                self._more.append((name.lower(), value))
            else:
                self.headers[name.lower()] = value  # which ASGI wants, and Django does not see to

    def items(self) -> Any:
        """The header fields. Django keeps a dictionary of them, which has no place for a second challenge."""
        return [*super().items(), *self._more]


def requires(
    requires: Requires = (), *, publishable: bool = False, mode: Mode | None = None
) -> Callable[[Endpoint], Endpoint]:
    """
    Declare what a view requires: a function, a method such as ``get`` of a class of views, or such a class, which
    means each of its methods that answers requests.

    Raises:
        InvalidPolicy: it declares that twice, or the class has no such method.
    """
    needed = requirement(requires, publishable, mode)

    def decorate(endpoint: Endpoint) -> Endpoint:
        if isinstance(endpoint, type):
            return _each(endpoint, dict.fromkeys(handlers(endpoint), needed))
        return _guarded(endpoint, needed)

    return decorate


def requires_each(**methods: Requires) -> Callable[[Endpoint], Endpoint]:
    """
    Declare what methods of a class require that it may have inherited: ``get`` or ``post`` of a class of views,
    ``list`` or ``create`` of a viewset.

    Raises:
        InvalidPolicy: the class has no such method, or the method declares that already.
    """
    needed = {name: requirement(said) for name, said in methods.items()}
    return lambda cls: _each(cls, needed)


def _each(cls: Endpoint, needed: Mapping[str, Requirement | None]) -> Endpoint:
    missing = [name for name in needed if not hasattr(cls, name)]
    if missing or not needed:
        raise InvalidPolicy(f"{cls!r} has no method {', '.join(missing)}: name its own, as in requires_each(list=…)")
    for name, one in needed.items():
        setattr(cls, name, _guarded(getattr(cls, name), one, called_by_others=True))
    return cls


def _guarded(endpoint: Endpoint, needed: Requirement | None, called_by_others: bool = False) -> Endpoint:
    """
    A view that makes sure that it is reached by a request which was judged by what it requires.

    Args:
        called_by_others: methods of one class may call each other, as partial_update calls update: what counts is what
            the one requires that the request is for.
    """
    view: Any = endpoint

    def guard(arguments: tuple[Any, ...]) -> None:
        request = next(one for one in arguments if hasattr(one, "META"))  # a method has its instance before
        entered = required_at_work(arguments[0], request.method) if called_by_others else needed
        ensure_judged(request.META, needed if entered is ELSEWHERE else entered)

    @wraps(view)
    def guarded(*arguments: Any, **named: Any) -> Any:
        guard(arguments)
        return view(*arguments, **named)

    @wraps(view)
    async def guarded_later(*arguments: Any, **named: Any) -> Any:
        guard(arguments)
        return await view(*arguments, **named)

    made: Any = guarded_later if iscoroutinefunction(view) else guarded
    return cast(Endpoint, declare(made, needed))


def current_principal(request: HttpRequest) -> Principal | None:
    """
    Who a request speaks for; ``None`` where it needs no key.

    Raises:
        ConfigurationError: it was not judged.
    """
    try:
        principal: Principal | None = request.META[PRINCIPAL]
    except KeyError:
        raise ConfigurationError(
            "a request was not judged: put doorkey.adapters.django.DoorkeyMiddleware into MIDDLEWARE"
        ) from None
    return principal


def assert_protected(urlconf: str | None = None, open: Collection[str] = ()) -> None:
    """
    Make sure, in a test, that the middleware is there, that every view within is declared, and which ones are open.

    Args:
        urlconf: ``ROOT_URLCONF`` unless said.
        open: such as ``["GET /healthz"]``; ``["* /healthz"]`` for a view that is a function.

    Raises:
        AssertionError: names what is wrong.
        ConfigurationError: there is no view.
    """
    if not in_middleware():
        raise AssertionError("nothing is protected: DoorkeyMiddleware is not in MIDDLEWARE")
    needed = required if configuration().policy is None else None
    assert_declared(operations(get_resolver(urlconf), configuration().site, needed), open)


def in_middleware() -> list[int]:
    """Where the middleware stands in ``MIDDLEWARE``."""
    found = [import_string(path) for path in conf.settings.MIDDLEWARE]
    return [at for at, one in enumerate(found) if isinstance(one, type) and issubclass(one, DoorkeyMiddleware)]


def _received_method(request: HttpRequest) -> str:
    """The method before Django capitalised it."""
    scope = getattr(request, "scope", None)
    method: str = request.META["REQUEST_METHOD"] if scope is None else scope["method"]
    return method


def _name(view: object) -> str:
    """What a view is called in Python."""
    named = class_of(view) or view
    return f"{named.__module__}.{getattr(named, '__qualname__', type(named).__qualname__)}"


def _judged_by(request: HttpRequest, needed: JudgedBy) -> bool:
    return request.META.get(REQUIREMENT, PER_ROUTE) is needed
