"""
How the routes of a Starlette application are read: which endpoint a connection leads to, and what that declares.

The walk is the router's own, route by route, through mounts and hosts. It looks through the frameworks' middleware,
which passes on what it gets, and through no other: what might change path or method on the way to a router would have
another endpoint called than was judged. Such an application is one endpoint, closed unless it is declared.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import BaseRoute, Match, Router, WebSocketRoute

from ..core.declarations import ELSEWHERE, Operation, declared
from ..core.errors import ConfigurationError
from ..core.model import Requirement
from ..core.policy import WEBSOCKET
from .asgi import Scope
from .starlette_auth import KeyAuthentication

log: logging.Logger = logging.getLogger("doorkey")

_PASSING = ("starlette.middleware.", "fastapi.middleware.")
_ANY = "*"
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY")


class Routes:
    """
    What the endpoints of *app* declare, for each connection.

    Args:
        strict: whether only the frameworks' middleware is looked through.

    Raises:
        ConfigurationError: no router can be seen.
    """

    def __init__(self, app: object, *, strict: bool = True) -> None:
        if not isinstance(found := inside(app, strict), Router):
            raise ConfigurationError(
                f"no router can be seen: {_name(found)} stands before it, and could change what is asked for. Per "
                "route, doorkey stands innermost: last in middleware=[…], or given to add_middleware first"
            )
        while passes_on(type(app)):
            app = app.app  # type: ignore[attr-defined]
        self._app = app
        self._strict = strict
        self._told: set[str] = set()

    def __call__(self, scope: Scope) -> Requirement | None:
        """What the endpoint requires that the router will call; ``None`` if it is open."""
        return self._found(self._app, scope)

    def leaves(self, routes: Sequence[BaseRoute], scope: Scope | None) -> Iterable[Any]:
        """The routes that *routes* stand for; those that cannot match *scope* may be left out."""
        return routes

    def declaration(self, leaf: Any, endpoint: object, method: str) -> Requirement | None:
        """What the endpoint of a route requires."""
        return class_declared(endpoint, method) if isinstance(endpoint, type) else declared(endpoint)

    def _found(self, app: object, scope: Scope) -> Requirement | None:
        router = inside(app, self._strict)
        if not isinstance(router, Router):
            return self._told_of(router, declared(router))
        partial: tuple[Any, Scope] | None = None
        for leaf in self.leaves(router.routes, scope):
            match, child = leaf.matches(scope)
            if match is Match.FULL:
                return self._at(leaf, child, scope)
            if match is Match.PARTIAL and partial is None:
                partial = leaf, child
        if partial is not None:
            return self._at(*partial, scope)
        # Not found, or a redirect to where a slash is added or taken away.
        return ELSEWHERE if router.default == router.not_found else self._told_of(router, declared(router.default))

    def _at(self, leaf: Any, child: Scope, scope: Scope) -> Requirement | None:
        endpoint = child.get("endpoint")
        method = scope.get("method", WEBSOCKET)
        methods = getattr(leaf, "methods", None)
        if methods:
            if method not in methods:
                return ELSEWHERE  # 405
        elif hasattr(leaf, "routes"):  # a mount or a host
            return self._found(endpoint, {**scope, **child})
        return self._told_of(endpoint, self.declaration(leaf, endpoint, method))

    def _told_of(self, endpoint: object, requirement: Requirement | None) -> Requirement | None:
        """Log each endpoint that declares nothing, once."""
        if requirement is Requirement.NOBODY and (name := _name(endpoint)) not in self._told:
            self._told.add(name)
            log.warning("%s declares nothing that it requires, so it is closed to everybody", name)
        return requirement

    def operations(self) -> Iterator[Operation]:
        """All that one can ask of the application."""
        return self._operations(self._app, "")

    def _operations(self, app: object, prefix: str) -> Iterator[Operation]:
        router = inside(app, self._strict)
        if not isinstance(router, Router):
            yield Operation(_ANY, f"{prefix}/{{path}}", declared(router))
            return
        for leaf in self.leaves(router.routes, None):
            yield from self._operations_of(leaf, prefix)
        if router.default != router.not_found:
            yield Operation(_ANY, f"{prefix}/{{path}}", declared(router.default))

    def _operations_of(self, leaf: Any, prefix: str) -> Iterator[Operation]:
        path = prefix + getattr(leaf, "path_format", "")
        if hasattr(leaf, "routes"):
            yield from self._operations(leaf.app, path.removesuffix("/{path}"))
            return
        endpoint = getattr(leaf, "endpoint", None)
        for method in _methods(leaf, endpoint):
            yield Operation(method, path, self.declaration(leaf, endpoint, method))


def inside(app: object, strict: bool) -> object:
    """
    What *app* hands a connection to just as it came: its router, or the first thing that cannot be looked through.

    Args:
        strict: if not, everything that stands before the router of an application is looked through.
    """
    while True:
        if isinstance(app, Starlette):
            untouched = not getattr(app, "root_path", "")  # FastAPI's, which replaces that of the connection
            if strict and not (untouched and all(passes_on(one.cls) for one in app.user_middleware)):
                return app
            app = app.router
        elif isinstance(app, Router):
            first: Any = app.middleware_stack
            while first != app.app and passes_on(type(first)):
                first = first.app
            return app if first == app.app or not strict else first
        elif passes_on(type(app)):
            app = app.app  # type: ignore[attr-defined]
        else:
            return app


def class_declared(endpoint: type, method: str) -> Requirement | None:
    """What a class of endpoints requires for *method*: its handler's declaration, or else its own."""
    said: Requirement | None = Requirement.NOBODY
    if issubclass(endpoint, WebSocketEndpoint):
        said = declared(endpoint.on_connect)
    elif issubclass(endpoint, HTTPEndpoint):
        name = "get" if method == "HEAD" and not hasattr(endpoint, "head") else method.lower()
        if method in _METHODS and hasattr(endpoint, name):
            said = declared(getattr(endpoint, name))
        elif endpoint.dispatch is HTTPEndpoint.dispatch:
            # 405; but older versions of Starlette call whatever has the method's name, in lower case.
            return Requirement.NOBODY if hasattr(endpoint, name) else ELSEWHERE
    return declared(endpoint) if said is Requirement.NOBODY else said


def passes_on(kind: object) -> bool:
    """Whether a class of middleware hands on what it gets, path and method untouched."""
    if not isinstance(kind, type) or kind is BaseHTTPMiddleware:
        return False
    return kind is KeyAuthentication or kind.__module__.startswith(_PASSING)


def _methods(leaf: Any, endpoint: object) -> Iterable[str]:
    """The method words of a route; HEAD follows GET."""
    if isinstance(getattr(leaf, "original_route", leaf), WebSocketRoute):
        return [WEBSOCKET]
    if methods := getattr(leaf, "methods", None):
        return sorted(set(methods) - {"HEAD"} if "GET" in methods else methods)
    if isinstance(endpoint, type) and issubclass(endpoint, HTTPEndpoint):
        return [method for method in _METHODS if hasattr(endpoint, method.lower())]
    return [_ANY]


def _name(endpoint: object) -> str:
    named: Any = endpoint if hasattr(endpoint, "__qualname__") else type(endpoint)
    return f"{named.__module__}.{named.__qualname__}"
