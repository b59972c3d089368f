"""
Werkzeug: the plain middleware for a whole application, and a dispatcher that asks each view what it requires.

A :class:`Dispatcher` routes by a URL map, reads what the view declares, judges, and only then calls it::

    @requires("messages:read")
    def messages(request: Request) -> Response: ...

    app = Dispatcher(Map([Rule("/messages", endpoint=messages, methods=["GET"])]), door.verifier)

Werkzeug's router is kind to paths and methods (``//messages`` and ``get`` find the view above). Whatever it finds is
judged by what the view declares.

Flask and Quart route by Werkzeug too, so what their adapters share stands here: :class:`Views`, :func:`guarded` and
:func:`assert_protected`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial, wraps
from inspect import iscoroutinefunction
from typing import Any, NamedTuple, TypeVar, cast

from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Request

from ..core.clients import TrustedProxies
from ..core.declarations import ELSEWHERE, PER_ROUTE, Operation, Said, assert_declared, declare, declared, ensure_judged
from ..core.declarations import requirement as stated
from ..core.errors import InvalidPolicy
from ..core.model import Mode, Principal, Requirement
from ..core.policy import WEBSOCKET, Policy
from ..core.refusals import new_request_id
from ..core.verify import Verifier
from . import wsgi
from .wsgi import Application, DoorkeyMiddleware, Environ, Gate, StartResponse, answered

__all__ = ["Dispatcher", "DoorkeyMiddleware", "Views", "assert_protected", "current_principal", "guarded", "requires"]

View = TypeVar("View", bound=Callable[..., Any])

log: logging.Logger = logging.getLogger("doorkey")


class Views:
    """
    Tells what the views of a URL map require.

    Args:
        find: gives the view of an endpoint, if there is one.
    """

    def __init__(self, find: Callable[[Any], object]) -> None:
        self.find = find
        self._named: set[str] = set()

    def required(self, rule: Rule | None, method: str) -> Requirement | None:
        """
        What a request requires for which the router has found *rule*. An undeclared view is named in the log, once.

        Args:
            rule: ``None`` where it has found nothing: then there is no endpoint that could say it.
        """
        if rule is None or (method == "OPTIONS" and getattr(rule, "provide_automatic_options", False)):
            return ELSEWHERE
        found = _declared(self.find(rule.endpoint), method)
        if found is not None and found.nobody:
            self._name(f"{rule.endpoint} ({rule.rule})")
        return found

    def _name(self, endpoint: str) -> None:
        if endpoint not in self._named:
            self._named.add(endpoint)
            log.warning("the endpoint %s declares nothing and is closed to everybody: give it requires(...)", endpoint)


def _declared(view: object, method: str) -> Requirement | None:
    """What *view* requires; of a class whose methods say it themselves, what the method does."""
    found = declared(view)
    if found is None or not found.nobody:
        return found
    kind = getattr(view, "view_class", None)
    return declared(getattr(kind, method.lower(), None) or (getattr(kind, "get", None) if method == "HEAD" else None))


def guarded(view: View, requirement: Requirement | None, request: Callable[..., Mapping[str, Any]]) -> View:
    """
    A *view* that declares what it requires, and is closed to requests that were not judged by that.

    A class of Flask or Quart is given this as one of its decorators, which are applied to the view made of it.

    Args:
        request: finds the WSGI environ or ASGI scope, given the arguments of the view.

    Raises:
        InvalidPolicy: it has a declaration already, or is a class of something else.
    """
    if isinstance(view, type):
        kind: Any = view
        if not hasattr(kind, "decorators"):
            raise InvalidPolicy(f"{kind!r} is no class of views: decorate its methods, or the function that calls them")
        kind.decorators = [*kind.decorators, partial(guarded, requirement=requirement, request=request)]
        return cast(View, kind)

    @wraps(view)
    def judged(*args: Any, **values: Any) -> Any:
        ensure_judged(request(*args), requirement)
        return view(*args, **values)

    @wraps(view)
    async def judged_later(*args: Any, **values: Any) -> Any:
        ensure_judged(request(*args), requirement)
        return await view(*args, **values)

    return cast(View, declare(judged_later if iscoroutinefunction(view) else judged, requirement))


def requires(
    requires: str | Iterable[str] | Requirement | Said = (), *, publishable: bool = False, mode: Mode | None = None
) -> Callable[[View], View]:
    """
    Declare what a view requires: permissions (all are needed), a requirement, or ``OPEN``. Nothing means: an
    unrestricted secret key.

    Raises:
        InvalidPolicy: the words contradict each other, or the view has a declaration already.
        InvalidPermission: a permission is none.
    """
    requirement = stated(requires, publishable, mode)
    return lambda view: guarded(view, requirement, _environ)


def _environ(*args: Any) -> Environ:
    """The environ of the request among the arguments of a view: the first, or the second of a method."""
    return next((one.environ for one in args if isinstance(one, Request)), {})


def current_principal(request: Request) -> Principal | None:
    """
    Who a request speaks for; ``None`` for an open operation.

    Raises:
        ConfigurationError: nothing has judged it.
    """
    return wsgi.current_principal(request.environ)


class Dispatcher:
    """
    A WSGI application that calls, for each request, the view that a URL map finds, if the request may.

    Args:
        url_map: its endpoints are the views, or names of *views*.
        verifier: decides.
        views: the views by their endpoints, or a function that gives the view of an endpoint. Each is called with the
            request and the values of the path, and returns a response or any other WSGI application.
        server_name: of which the hosts of the URL map's rules are subdomains.
        trusted_proxies, request_id: see :class:`~doorkey.adapters.wsgi.DoorkeyMiddleware`.
    """

    def __init__(
        self,
        url_map: Map,
        verifier: Verifier,
        *,
        views: Mapping[Any, Callable[..., Any]] | Callable[[Any], Callable[..., Any]] | None = None,
        server_name: str | None = None,
        trusted_proxies: TrustedProxies | None = None,
        request_id: Callable[[], str] = new_request_id,
    ) -> None:
        self.url_map = url_map
        self.server_name = server_name
        self.gate: Gate = Gate(verifier, trusted_proxies, request_id)
        find = views.get if isinstance(views, Mapping) else views
        self.views: Views = Views(find or (lambda endpoint: endpoint))

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Route, judge, and answer one request."""
        rule, application = self._routed(environ)
        refusal = self.gate.admit(environ, self.views.required(rule, environ["REQUEST_METHOD"]))
        return application(environ, start_response) if refusal is None else answered(refusal, environ, start_response)

    def _routed(self, environ: Environ) -> tuple[Rule | None, Application]:
        """What a request is for, and what would answer it."""
        try:
            rule, values = self.url_map.bind_to_environ(environ, self.server_name).match(return_rule=True)
        except HTTPException as answer:
            return None, answer
        return rule, partial(self._respond, rule.endpoint, values)

    def _respond(
        self, endpoint: object, values: Mapping[str, Any], environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        view = cast(Callable[..., Application], self.views.find(endpoint))
        try:
            response = view(Request(environ), **values)
        except HTTPException as error:
            response = error
        return response(environ, start_response)


class _Table(NamedTuple):
    """A policy, and the path under which it stands."""

    policy: Policy
    at: str

    def required(self, method: str, path: str) -> Requirement | None:
        """What its rules say; ``NOBODY`` where none does, though it is closed there."""
        path = path[len(self.at) :]
        rule = self.policy.rule(method, path)
        if rule is not None:
            return rule.requirement
        return None if self.policy.judged_by(method, path) is PER_ROUTE else Requirement.NOBODY


def assert_protected(app: object, open: Collection[str] = ()) -> None:
    """
    Make sure, in a test, that each operation of an application declares what it requires, or has a rule in the policy.

    It walks through middleware and mounts, as far as these name what they wrap (``app``, ``mounts``).

    Args:
        open: exactly the operations that need no key, such as ``["GET /healthz"]``.

    Raises:
        AssertionError: names what is undeclared, open without being named, and named without being open.
        ConfigurationError: there is no route at all.
    """
    assert_declared(_operations(app, "", None), open)


def _operations(app: object, at: str, table: _Table | None) -> Iterator[Operation]:
    policy = getattr(app, "policy", None)
    if isinstance(policy, Policy):
        table = _Table(policy, at)
    within = [(at + path, mounted) for path, mounted in getattr(app, "mounts", {}).items()]
    within += [(at, getattr(app, name)) for name in ("app", "wsgi_app", "asgi_app") if hasattr(app, name)]
    for path, inner in within:
        yield from _operations(inner, path, table)
    if not within:
        yield from _routes(getattr(app, "__self__", app), at, table)


def _routes(app: Any, at: str, table: _Table | None) -> Iterator[Operation]:
    views = app.views if isinstance(app, Dispatcher) else getattr(app, "extensions", {}).get("doorkey")
    if not hasattr(app, "url_map") and table is None:
        yield Operation("*", at or "/", Requirement.NOBODY)
    for rule in app.url_map.iter_rules() if hasattr(app, "url_map") else ():
        path = at + re.sub("<[^>]*>", "<>", rule.rule)
        required: dict[str, Requirement | None] = {}
        for method in sorted(_methods(rule)):
            if isinstance(views, Views):
                required[method] = views.required(rule, method)
            else:
                required[method] = Requirement.NOBODY if table is None else table.required(method, path)
        if "GET" in required and required.get("HEAD") == required["GET"]:
            required.pop("HEAD", None)
        yield from (Operation(method, at + rule.rule, one) for method, one in required.items())


def _methods(rule: Rule) -> set[str]:
    """What a rule can be asked for: OPTIONS that a framework answers is no operation."""
    if rule.websocket:
        return {WEBSOCKET}
    methods = set(rule.methods or ("*",))
    if getattr(rule, "provide_automatic_options", False):
        methods.discard("OPTIONS")
    return methods
