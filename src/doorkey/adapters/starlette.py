"""
Starlette: middleware with a policy or with requirements per route, and Starlette's own authentication.

::

    @requires("messages:read")
    async def messages(request: Request) -> Response:
        return JSONResponse(of(current_principal(request).workspace))

    app = Starlette(
        routes=[Route("/messages", messages)],
        middleware=[Middleware(DoorkeyMiddleware, verifier=door.async_verifier, policy=PER_ROUTE)],
    )

Per route, the endpoint that the router will call is looked up, and what it declares is judged before anything of it
runs. Doorkey stands innermost then: last in ``middleware=[…]``, or given to ``add_middleware`` first.
:class:`KeyAuthentication` serves ``request.user``, ``request.auth`` and Starlette's ``@requires``.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from functools import partial, wraps
from typing import Any, ClassVar, TypeVar, cast

from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.requests import HTTPConnection

from ..core.clients import TrustedProxies
from ..core.declarations import PER_ROUTE, Operation, Said, assert_declared, declare, ensure_judged
from ..core.declarations import requirement as stated
from ..core.errors import ConfigurationError
from ..core.model import Mode, Principal, Requirement
from ..core.policy import Policy
from ..core.refusals import new_request_id
from ..core.verify import AsyncVerifier
from . import asgi
from .asgi import Application, Receive, Scope, Send
from .starlette_auth import KeyAuthentication, KeyBackend, KeyUser, Refused
from .starlette_routes import Routes, class_declared, passes_on

__all__ = [
    "DoorkeyMiddleware",
    "KeyAuthentication",
    "KeyBackend",
    "KeyUser",
    "Refused",
    "assert_protected",
    "current_principal",
    "requires",
]

Endpoint = TypeVar("Endpoint")


class DoorkeyMiddleware:
    """
    Lets in only requests that present a key which may do what they ask for.

    Args:
        app: the application to protect.
        verifier: decides.
        policy: says which operation requires what; or ``PER_ROUTE``: each endpoint declares it by :func:`requires`.
        trusted_proxies: whose word about the client's address counts. ``None``: the peer is the client.
        request_id: makes the name that a refusal carries.
        recheck: seconds after which an open websocket is judged again.

    Raises:
        ConfigurationError: a value cannot be used; *app* has a ``root_path`` of its own; or, per route, something
            stands between this and the router that could change what is asked for.
    """

    routes: ClassVar[type[Routes]] = Routes

    def __init__(
        self,
        app: Application,
        verifier: AsyncVerifier,
        *,
        policy: Policy | Said,
        trusted_proxies: TrustedProxies | None = None,
        request_id: Callable[[], str] = new_request_id,
        recheck: float = 60.0,
    ) -> None:
        self.app = app
        self.policy = policy
        self._judging = asgi.DoorkeyMiddleware(
            app,
            verifier,
            policy=self.routes(app) if policy is PER_ROUTE else cast("Policy", policy),
            trusted_proxies=trusted_proxies,
            request_id=request_id,
            recheck=recheck,
        )

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Judge one connection."""
        return self._judging(scope, receive, send)


def requires(
    requires: str | Iterable[str] | Requirement | Said = (), *, publishable: bool = False, mode: Mode | None = None
) -> Callable[[Endpoint], Endpoint]:
    """
    Declare what an endpoint requires: a function of a request or websocket, an endpoint class or one of its methods, or
    an ASGI application that is mounted, such as ``requires(OPEN)(StaticFiles(…))``.

    Args:
        requires: permissions (all are needed), a requirement, or ``OPEN``. Nothing means: an unrestricted secret key.
        publishable: whether a publishable key may do it, too.
        mode: the only mode in which it may be done, if there is one.

    Raises:
        InvalidPolicy, InvalidPermission: it cannot be meant so.
        ConfigurationError: what is decorated is no endpoint.
    """
    requirement = stated(requires, publishable, mode)

    def declaring(endpoint: Endpoint) -> Endpoint:
        return cast("Endpoint", declare(_guarded(endpoint, requirement), requirement))

    return declaring


def current_principal(connection: HTTPConnection) -> Principal | None:
    """
    Who a request or websocket speaks for; ``None`` for an open operation.

    Raises:
        ConfigurationError: nothing has judged it.
    """
    return asgi.current_principal(connection.scope)


def assert_protected(app: object, open: Collection[str] = ()) -> None:
    """
    Make sure, in a test, that somebody thought of each operation of *app*, and which are open.

    Args:
        open: the operations that may be open, such as ``["GET /healthz"]``, or ``* /static/{path}`` for a mount.

    Raises:
        AssertionError: names the operations that declare nothing, or that no rule of the policy describes, and those
            that are open or not against *open*; or nothing of doorkey stands before the application.
    """
    assert_declared(operations(app), open)


def operations(app: object, routes: type[Routes] = Routes) -> Iterator[Operation]:
    """Each operation of *app*, with what it requires there, per route or under a policy."""
    policy, within = _protection(app)
    if isinstance(policy, Policy):
        return policy.described(routes(within, strict=False).operations())
    return routes(within).operations()


def _protection(app: Any) -> tuple[object, object]:
    """What the middleware before *app* was given, and what it protects."""
    ours = (DoorkeyMiddleware, asgi.DoorkeyMiddleware)
    while app is not None:
        if isinstance(app, ours):
            return app.policy, app.app
        if isinstance(app, Starlette):
            for number, one in enumerate(app.user_middleware, 1):
                if isinstance(one.cls, type) and issubclass(one.cls, ours):
                    inner = app.user_middleware[number:]
                    return one.kwargs["policy"], app.router if all(passes_on(one.cls) for one in inner) else app
        app = getattr(app, "app", None)
    raise AssertionError("nothing of doorkey stands before the application: add DoorkeyMiddleware")


class _Guarded:
    """An ASGI application that makes sure that it was judged."""

    def __init__(self, app: Application, requirement: Requirement | None) -> None:
        self._app = app
        self._requirement = requirement

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ensure_judged(scope, self._requirement)
        await self._app(scope, receive, send)


def _guarded(endpoint: Any, requirement: Requirement | None) -> object:
    """*endpoint*, which makes sure that it was judged by *requirement* when it is called."""
    if isinstance(endpoint, type):
        return _guarded_class(endpoint)
    called = endpoint
    while isinstance(called, partial):
        called = called.func
    if inspect.isroutine(called):
        return _guarded_function(endpoint, requirement)
    return _Guarded(endpoint, requirement)


def _guarded_class(endpoint: Any) -> object:
    if not issubclass(endpoint, HTTPEndpoint | WebSocketEndpoint):
        raise ConfigurationError(f"{endpoint!r} is no class of endpoints: decorate the application that it makes")
    begin: Callable[..., None] = endpoint.__init__

    @wraps(begin)
    def __init__(self: Any, scope: Scope, receive: Receive, send: Send) -> None:
        ensure_judged(scope, class_declared(type(self), scope.get("method", "")))
        begin(self, scope, receive, send)

    endpoint.__init__ = __init__
    return endpoint


def _guarded_function(endpoint: Any, requirement: Requirement | None) -> object:
    connection = _connection_of(endpoint)
    if inspect.iscoroutinefunction(endpoint):

        @wraps(endpoint)
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            ensure_judged(connection(args, kwargs).scope, requirement)
            return await endpoint(*args, **kwargs)

        return guarded

    @wraps(endpoint)
    def guarded_sync(*args: Any, **kwargs: Any) -> Any:
        ensure_judged(connection(args, kwargs).scope, requirement)
        return endpoint(*args, **kwargs)

    return guarded_sync


def _connection_of(endpoint: Any) -> Callable[[tuple[Any, ...], dict[str, Any]], HTTPConnection]:
    """Finds the request or websocket among the arguments of a call, by its name, as Starlette's own decorator does."""
    for index, name in enumerate(inspect.signature(endpoint).parameters):
        if name in ("request", "websocket"):
            return lambda args, kwargs: kwargs[name] if name in kwargs else args[index]
    raise ConfigurationError(f"{endpoint!r} has no parameter called request or websocket, so it is no endpoint")
