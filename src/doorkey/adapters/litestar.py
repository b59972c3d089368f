"""
Litestar: a plugin, a guard, and the OpenAPI document.

::

    @get("/messages", guards=[requires("messages:read")])
    async def messages(request: Request) -> list[str]:
        return of(current_principal(request).workspace)

    app = Litestar([messages], plugins=[DoorkeyPlugin(door.async_verifier)])

The plugin judges what Litestar's router has found a handler for, by what the handler declares. The router drops slashes
at the end and doubled ones, so such a path leads to the same handler. ``cors_config`` stands outside, as it must.

A policy for a whole application goes around it: ``DoorkeyMiddleware(Litestar(…), door.async_verifier, policy=…)``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from litestar import Litestar, Request, Response
from litestar.config.app import AppConfig
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException
from litestar.exceptions.responses import create_exception_response
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler, WebsocketRouteHandler
from litestar.middleware import DefineMiddleware
from litestar.openapi.spec import (
    Components,
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Schema,
    SecurityScheme,
)
from litestar.openapi.spec import Operation as Description
from litestar.plugins import InitPlugin, ReceiveRoutePlugin
from litestar.routes import BaseRoute, HTTPRoute
from litestar.types import ASGIApp, CacheKeyBuilder

from ..core import openapi
from ..core.clients import TrustedProxies
from ..core.declarations import ELSEWHERE, Operation, Said, assert_declared, ensure_judged
from ..core.declarations import requirement as stated
from ..core.errors import InvalidPolicy
from ..core.model import Granted, Mode, Principal, Requirement
from ..core.policy import WEBSOCKET, Policy
from ..core.profiles import Profile
from ..core.refusals import new_request_id
from ..core.verify import AsyncVerifier
from . import asgi
from .asgi import Scope

__all__ = ["DoorkeyMiddleware", "DoorkeyPlugin", "Requires", "assert_protected", "current_principal", "requires"]

Connection = ASGIConnection[Any, Any, Any, Any]


def _route_path(mounts: Mapping[str, object], scope: Scope) -> str:
    """
    The path that Litestar's router sees: it cuts the prefix out wherever that stands first, and takes whatever begins
    with the path of a mounted application to lie below it, ``/apix`` as ``/api/x``.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path") or ""
    path = path.split(root, maxsplit=1)[-1] if root else path
    for mount in mounts:
        rest = path.removeprefix(mount)
        if mount != "/" and rest not in (path, "") and rest[0] != "/":
            return f"{mount}/{rest}"
    return path


def _around(app: Any, verifier: AsyncVerifier, **given: Any) -> asgi.DoorkeyMiddleware:
    mounts: Mapping[str, object] = app.asgi_router._mount_routes if isinstance(app, Litestar) else {}
    return asgi.DoorkeyMiddleware(app, verifier, path=partial(_route_path, mounts), **given)


DoorkeyMiddleware: Callable[..., asgi.DoorkeyMiddleware] = _around
"""The plain middleware, around an application, for a policy."""

_REQUIRED = "doorkey_requirement"
"""Where the plugin keeps, among a handler's options, what it requires."""


class Requires:
    """A guard that declares what a handler requires; made by :func:`requires`."""

    def __init__(self, requirement: Requirement | None) -> None:
        self.requirement = requirement

    async def __call__(self, connection: Connection, handler: BaseRouteHandler) -> None:
        """Make sure that the connection was judged, and by the declaration that counts."""
        await _held(connection, handler)


def requires(
    requires: str | Iterable[str] | Requirement | Said = (), *, publishable: bool = False, mode: Mode | None = None
) -> Requires:
    """
    A guard for ``guards=[…]`` of a handler, or of a controller or router for all handlers in it. The nearest counts.

    Args:
        requires: permissions (all are needed), a requirement, or ``OPEN``. Nothing means: an unrestricted secret key.
        publishable: whether a publishable key may do it, too.
        mode: the only mode in which it may be done, if there is one.

    Raises:
        InvalidPolicy, InvalidPermission: it cannot be meant so.
    """
    return Requires(stated(requires, publishable, mode))


class DoorkeyPlugin(InitPlugin, ReceiveRoutePlugin):
    """
    Lets handlers run only for requests that present a key which may do what the handler requires.

    A handler that declares nothing is closed to everybody, and so are the pages that show the OpenAPI document, unless
    they get a router that does: ``OpenAPIConfig(…, openapi_router=Router("/schema", route_handlers=[], guards=[…]))``.

    Args:
        verifier: decides.
        trusted_proxies: whose word about the client's address counts. ``None``: the peer is the client.
        request_id: makes the name that a refusal carries.
        recheck: seconds after which an open websocket is judged again.
    """

    def __init__(
        self,
        verifier: AsyncVerifier,
        *,
        trusted_proxies: TrustedProxies | None = None,
        request_id: Callable[[], str] = new_request_id,
        recheck: float = 60.0,
    ) -> None:
        self._gate = asgi.Gate(verifier, trusted_proxies, request_id)
        self._profile = verifier.profile
        self._middleware = DefineMiddleware(
            cast("Callable[..., ASGIApp]", asgi.DoorkeyMiddleware),
            verifier=verifier,
            policy=_required,
            trusted_proxies=trusted_proxies,
            request_id=request_id,
            recheck=recheck,
        )

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Stand before all other middleware and "not found", and describe both schemes in the OpenAPI document."""
        app_config.middleware.insert(0, self._middleware)
        app_config.on_startup.append(asgi.warn_of_rewritten_addresses)
        app_config.on_shutdown.append(self._flush)
        if (cached := app_config.response_cache_config) is not None:
            app_config.response_cache_config = replace(cached, key_builder=partial(_own_entry, cached.key_builder))
        app_config.guards.insert(0, _held)
        handlers: dict[Any, Any] = dict(app_config.exception_handlers)
        for status in (404, 405):
            app_config.exception_handlers[status] = partial(_unrouted, self._gate, handlers)
        if (config := app_config.openapi_config) is not None:
            own = config.components if isinstance(config.components, list) else [config.components]
            app_config.openapi_config = config = copy(config)  # The user's own may serve another application.
            config.components = [*own, _components()]
        return app_config

    async def _flush(self) -> None:
        """Litestar's middleware does not hear of the shutdown."""
        await asyncio.to_thread(self._gate.verifier.flush)

    def receive_route(self, route: BaseRoute) -> None:
        """Find what each handler requires, and describe it."""
        for handler in _handlers(route):
            requirement = handler.opt[_REQUIRED] = ELSEWHERE if _added(handler) else _nearest(handler)
            if isinstance(handler, HTTPRouteHandler) and requirement is not None:
                _describe(handler, requirement, self._profile)
                if handler.cache_key_builder is not None:
                    handler.cache_key_builder = partial(_own_entry, handler.cache_key_builder)


def _own_entry(build: CacheKeyBuilder, request: Request[Any, Any, Any]) -> str:
    """The entry of a response in Litestar's cache: no key gets what was made for another."""
    principal = current_principal(request)
    entry = build(request)
    return entry if principal is None else f"{principal.key} {entry}"


def current_principal(connection: Connection) -> Principal | None:
    """
    Who the request speaks for; ``None`` where the handler is open.

    Raises:
        ConfigurationError: nothing has judged it.
    """
    return asgi.current_principal(cast("Scope", connection.scope))


def assert_protected(app: Litestar | asgi.DoorkeyMiddleware, open: Collection[str] = ()) -> None:
    """
    Make sure, in a test, that each handler of *app* declares what it requires, or has a rule in the policy, and which
    are open.

    Args:
        open: the operations that may be open, such as ``["GET /healthz"]``.

    Raises:
        AssertionError: names the handlers that declare nothing, and those that are open or not against *open*; or
            neither plugin nor middleware is there.
    """
    if isinstance(app, asgi.DoorkeyMiddleware) and isinstance(app.policy, Policy):
        operations = app.policy.described(_operations(cast("Litestar", app.app)))
    elif isinstance(app, Litestar) and any(isinstance(plugin, DoorkeyPlugin) for plugin in app.plugins):
        operations = _operations(app)
    else:
        raise AssertionError("the application has no DoorkeyPlugin, nor a policy around it: nothing is protected")
    assert_declared(operations, open)


def _operations(app: Litestar) -> Iterator[Operation]:
    for route in app.routes:
        for handler in _handlers(route):
            for method in _methods(handler):
                yield Operation(method, route.path, _nearest(handler))


def _handlers(route: Any) -> Iterable[BaseRouteHandler]:
    return route.route_handlers if isinstance(route, HTTPRoute) else [route.route_handler]


def _methods(handler: BaseRouteHandler) -> Iterable[str]:
    """The methods of a handler, but for the OPTIONS that Litestar adds; ``*`` for a mounted application."""
    if isinstance(handler, HTTPRouteHandler):
        return [] if _added(handler) else sorted(map(str, handler.http_methods))
    return [WEBSOCKET if isinstance(handler, WebsocketRouteHandler) else "*"]


def _required(scope: Scope) -> Requirement | None:
    """What the handler that was found requires."""
    return _kept(scope["route_handler"])


def _kept(handler: BaseRouteHandler) -> Requirement | None:
    required: Requirement | None = handler.opt.get(_REQUIRED, Requirement.NOBODY)
    return required


async def _held(connection: Connection, handler: BaseRouteHandler) -> None:
    """A guard: *handler* is the one that was judged. Litestar looks at the method again, after all middleware."""
    ensure_judged(connection.scope, _kept(handler))


class _Unrouted(Response[Any]):
    """What Litestar answers where it has no handler: for those alone who may do all."""

    def __init__(self, gate: asgi.Gate, answer: Callable[[], Response[Any]]) -> None:
        super().__init__(None)
        self._gate = gate
        self._answer = answer

    def to_asgi_response(self, *given: Any, **named: Any) -> Any:
        """An ASGI application that judges first."""

        async def judged(scope: Any, receive: Any, send: Any) -> None:
            decision = await self._gate.judge(scope, ELSEWHERE)
            if decision is None or isinstance(decision, Granted):
                await self._answer().to_asgi_response(*given, **named)(scope, receive, send)
            else:
                await self._gate.refuse(scope, decision, send)

        return judged


def _unrouted(
    gate: asgi.Gate, handlers: Mapping[Any, Any], request: Request[Any, Any, Any], error: HTTPException
) -> Response[Any]:
    """Answer an error of the router's, or one that a handler raised for a request that was judged before."""
    keys = (error.status_code, *type(error).__mro__)
    handler = next((handlers[key] for key in keys if key in handlers), create_exception_response)
    answer: Callable[[], Response[Any]] = partial(handler, request, error)
    return answer() if "route_handler" in cast("Scope", request.scope) else _Unrouted(gate, answer)


def _added(handler: BaseRouteHandler) -> bool:
    """Whether it is an OPTIONS that Litestar answers, which is no endpoint of anybody's."""
    return handler.fn.__module__ == HTTPRoute.__module__


def _nearest(handler: BaseRouteHandler) -> Requirement | None:
    """What the nearest layer declares: the handler itself, its controller, routers, the application."""
    for layer in reversed(handler.ownership_layers):
        said = [guard.requirement for guard in layer.guards or () if isinstance(guard, Requires)]
        if len(said) > 1:
            raise InvalidPolicy(f"{handler} has two guards that say what it requires, in one layer: make them one")
        if said:
            return said[0]
    return Requirement.NOBODY


# The OpenAPI document


def _components() -> Components:
    return Components(
        security_schemes={
            name: SecurityScheme(type="http", scheme=scheme["scheme"], description=scheme["description"])
            for name, scheme in openapi.SCHEMES.items()
        }
    )


def _describe(handler: HTTPRouteHandler, requirement: Requirement, profile: Profile) -> None:
    body = _schema(openapi.error_schema(profile))
    refusals = {
        status: _response(response, body) for status, response in openapi.responses(profile, requirement).items()
    }
    own = handler.security or []
    handler.security = [*own, *(scheme for scheme in openapi.security(requirement) if scheme not in own)]
    handler.operation_class = _refusing(handler.operation_class, refusals)


def _refusing(description: type[Description], refusals: dict[str, OpenAPIResponse]) -> type[Description]:
    """A description that has the refusals, too."""

    @dataclass
    class Refusing(description):  # type: ignore[misc, valid-type]
        def __post_init__(self) -> None:
            self.responses = {**refusals, **(vars(self)["responses"] or {})}

    return Refusing


def _response(given: openapi.Json, body: Schema) -> OpenAPIResponse:
    """A response in Litestar's form, with its schema in place, because Litestar keeps no schemas but its own."""
    return OpenAPIResponse(
        description=given["description"],
        content={name: OpenAPIMediaType(schema=body) for name in given["content"]},
        headers={
            name: OpenAPIHeader(description=header["description"], schema=_schema(header["schema"]))
            for name, header in given.get("headers", {}).items()
        },
    )


def _schema(given: openapi.Json) -> Schema:
    """A JSON Schema in Litestar's form."""
    fields = {name: value for name, value in given.items() if name not in ("type", "properties")}
    if "properties" in given:
        fields["properties"] = {name: _schema(value) for name, value in given["properties"].items()}
    return Schema(type=OpenAPIType(given["type"]), **fields)
