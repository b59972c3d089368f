"""
FastAPI: a security dependency that is judged before the body is read, and the OpenAPI document.

::

    api_key = ApiKey()
    app = FastAPI()
    protect(app, door.async_verifier, docs=OPEN)

    @app.get("/messages")
    async def messages(principal: Annotated[Principal, Security(api_key, scopes=["messages:read"])]) -> list[str]:
        return of(principal.workspace)

The middleware finds the operation that FastAPI's router will call, and reads the dependency off it; when its turn
comes, the dependency only hands over the principal. So a refusal is the same whatever error handlers there are, and an
operation without the dependency is closed to everybody.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import wraps
from typing import Annotated, Any, ClassVar, TypeVar, cast

from fastapi import Depends, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.requests import HTTPConnection
from fastapi.routing import iter_route_contexts
from fastapi.security import SecurityScopes
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Host, Match, Mount, Route, WebSocketRoute

from ..core import openapi
from ..core.clients import TrustedProxies
from ..core.declarations import PER_ROUTE, Operation, Said, assert_declared, declare, declared, ensure_judged
from ..core.declarations import requirement as stated
from ..core.errors import ConfigurationError, InvalidPolicy
from ..core.model import Mode, Principal, Requirement
from ..core.policy import Policy
from ..core.profiles import DEFAULT, Profile
from ..core.refusals import new_request_id
from ..core.verify import AsyncVerifier
from . import starlette
from .asgi import Scope
from .starlette import current_principal
from .starlette_routes import Routes

__all__ = [
    "ApiKey",
    "CurrentPrincipal",
    "DoorkeyMiddleware",
    "assert_protected",
    "current_principal",
    "describe",
    "protect",
    "requires",
]

Endpoint = TypeVar("Endpoint")
Requires = str | Iterable[str] | Requirement | Said

_LEAVES = (Route, WebSocketRoute, Mount, Host)


class ApiKey:
    """
    A security dependency, which declares what an operation requires, and is the principal that was granted it.

    ``Security(api_key, scopes=["messages:read"])`` requires that permission; ``Depends(ApiKey(Requirement.ANY_KEY))``
    any key; ``Security(ApiKey(publishable=True), scopes=["tokens:create"])`` lets a publishable key do it, too. Scopes
    add up from one dependency to the next, as FastAPI has it. An operation declares once what it requires: where its
    router does, it takes :data:`CurrentPrincipal`.

    Args: see :func:`requires`. Scopes are permissions, too.

    Raises:
        InvalidPolicy, InvalidPermission: it cannot be meant so.
    """

    def __init__(
        self, requires: str | Iterable[str] | Requirement = (), *, publishable: bool = False, mode: Mode | None = None
    ) -> None:
        requirement = stated(requires, publishable, mode)
        if requirement is None:
            raise InvalidPolicy("an open operation needs no key: decorate it with requires(OPEN)")
        self._requirements: dict[frozenset[str], Requirement] = {frozenset(): requirement}

    def requirement(self, scopes: Iterable[str] = ()) -> Requirement:
        """What is required with these scopes: for the same ones, always the same object."""
        scopes = tuple(scopes)
        if (known := self._requirements.get(frozenset(scopes))) is not None:
            return known
        own = self._requirements[frozenset()]
        permissions = dict.fromkeys((*own.permissions, *scopes))
        more = Requirement(permissions, own.publishable, own.mode, any_key=own.any_key, nobody=own.nobody)
        return self._requirements.setdefault(frozenset(scopes), more)

    async def __call__(self, connection: HTTPConnection, scopes: SecurityScopes) -> Principal:
        """
        The principal.

        Raises:
            ConfigurationError: the middleware did not judge the request by this.
        """
        ensure_judged(connection.scope, self.requirement(scopes.scopes))
        return cast("Principal", connection.scope["state"]["principal"])


class _Judged:
    """A dependency that makes sure that the request was judged by *requirement*."""

    def __init__(self, requirement: Requirement | None) -> None:
        self._requirement = requirement

    async def __call__(self, connection: HTTPConnection) -> None:
        ensure_judged(connection.scope, self._requirement)


async def _principal(connection: HTTPConnection) -> Principal:
    principal = current_principal(connection)
    if principal is None:
        raise ConfigurationError("an open operation has no principal: take the request, and current_principal(request)")
    return principal


CurrentPrincipal = Annotated[Principal, Depends(_principal)]
"""Who the request speaks for, in an operation whose router or decorator declares what it requires."""


class FastAPIRoutes(Routes):
    """What FastAPI's operations declare, by a dependency or a decorator."""

    def __init__(self, app: object, *, strict: bool = True) -> None:
        super().__init__(app, strict=strict)
        self._known: dict[int, tuple[Dependant, Requirement | None]] = {}
        for _ in self.operations():  # so that what cannot be meant so is told at once
            continue

    def leaves(self, routes: Sequence[BaseRoute], scope: Scope | None) -> Iterator[Any]:
        """Included routers hold routes of their own."""
        for route in routes:
            if isinstance(route, _LEAVES):
                yield route
            elif scope is None or route.matches({**scope})[0] is not Match.NONE:
                yield from iter_route_contexts([route])

    def declaration(self, leaf: Any, endpoint: object, method: str) -> Requirement | None:
        """What the decorator or the dependencies of an operation say."""
        dependant: Dependant | None = getattr(leaf, "dependant", None)
        if dependant is None:
            return super().declaration(leaf, endpoint, method)
        known = self._known.get(id(dependant))
        if known is None:  # The dependant is kept, so that no other one gets its id.
            known = self._known.setdefault(id(dependant), (dependant, _declaration(dependant)))
        return known[1]


class DoorkeyMiddleware(starlette.DoorkeyMiddleware):
    """:class:`doorkey.adapters.starlette.DoorkeyMiddleware` for FastAPI's routes. :func:`protect` puts it in place."""

    routes: ClassVar[type[Routes]] = FastAPIRoutes


def protect(
    app: FastAPI,
    verifier: AsyncVerifier,
    *,
    policy: Policy | Said = PER_ROUTE,
    docs: Requires | None = None,
    trusted_proxies: TrustedProxies | None = None,
    request_id: Callable[[], str] = new_request_id,
    recheck: float = 60.0,
) -> None:
    """
    Put doorkey innermost before *app*, so that CORS and all other middleware stands outside, and have the OpenAPI
    document say what each operation requires.

    Args:
        policy: says which operation requires what. Unless it is given, each operation declares it.
        docs: what the pages of FastAPI's documentation and the document itself require, such as ``OPEN``. Not said,
            they are closed, as whatever declares nothing.
        verifier, trusted_proxies, request_id, recheck: see :class:`DoorkeyMiddleware`.

    Raises:
        ConfigurationError: a value cannot be used, or the application has started.
    """
    if app.middleware_stack is not None:
        raise ConfigurationError("the application has started: protect it before")
    if docs is not None:
        if policy is not PER_ROUTE:
            raise ConfigurationError("under a policy, rules say what the documentation requires")
        _declare_docs(app, stated(docs))
    given = {"policy": policy, "trusted_proxies": trusted_proxies, "request_id": request_id, "recheck": recheck}
    DoorkeyMiddleware(app.router, verifier, **given)  # type: ignore[arg-type]  # to hear now what is wrong with them
    app.user_middleware.append(Middleware(DoorkeyMiddleware, verifier=verifier, **given))  # type: ignore[arg-type]
    _describe(app, verifier.profile, lambda: starlette.operations(app, FastAPIRoutes))


def requires(
    requires: Requires = (), *, publishable: bool = False, mode: Mode | None = None
) -> Callable[[Endpoint], Endpoint]:
    """
    Declare what an operation requires that takes no :class:`ApiKey`, such as an open one. Stands below ``@app.get(…)``
    or ``@app.websocket(…)``, or around a mounted application: ``requires(OPEN)(StaticFiles(…))``.

    Args:
        requires: permissions (all are needed), a requirement, or ``OPEN``. Nothing means: an unrestricted secret key.
        publishable: whether a publishable key may do it, too.
        mode: the only mode in which it may be done, if there is one.

    Raises:
        InvalidPolicy, InvalidPermission: it cannot be meant so.
    """
    requirement = stated(requires, publishable, mode)

    def declaring(endpoint: Endpoint) -> Endpoint:
        if not inspect.isroutine(endpoint):
            return starlette.requires(requires, publishable=publishable, mode=mode)(endpoint)
        return cast("Endpoint", _guarded(endpoint, requirement))

    return declaring


def assert_protected(app: object, open: Collection[str] = ()) -> None:
    """See :func:`doorkey.adapters.starlette.assert_protected`."""
    assert_declared(starlette.operations(app, FastAPIRoutes), open)


def describe(app: FastAPI, profile: Profile = DEFAULT) -> None:
    """Have the OpenAPI document of a *mounted* application say what its operations require: it has one of its own."""
    _describe(app, profile, lambda: FastAPIRoutes(app, strict=False).operations())


def _describe(app: FastAPI, profile: Profile, operations: Callable[[], Iterable[Operation]]) -> None:
    plain = app.openapi

    def described() -> dict[str, Any]:
        document = plain()
        components = document.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        if openapi.ERROR not in schemas:  # FastAPI keeps a document until there are other routes
            schemas[openapi.ERROR] = openapi.error_schema(profile)
            components.setdefault("securitySchemes", {}).update(openapi.SCHEMES)
            for one in operations():
                for method in (one.method, "HEAD") if one.method == "GET" else (one.method,):
                    _describe_one(document["paths"].get(one.path, {}).get(method.lower()), one.requirement, profile)
        return document

    app.openapi = described  # type: ignore[method-assign]


def _describe_one(operation: openapi.Json | None, requirement: Requirement | None, profile: Profile) -> None:
    if operation is not None and requirement is not None:
        others = operation.get("security") or [{}]  # which are required beside a key
        operation["security"] = [{**other, **ours} for other in others for ours in openapi.security(requirement)]
        operation["responses"] = {**openapi.responses(profile, requirement), **operation["responses"]}


def _declare_docs(app: FastAPI, requirement: Requirement | None) -> None:
    paths = (app.openapi_url, app.docs_url, app.redoc_url, app.swagger_ui_oauth2_redirect_url)
    for route in app.routes:
        if isinstance(route, Route) and route.path in paths:
            declare(route.endpoint, requirement)


def _declaration(dependant: Dependant) -> Requirement | None:
    decorated = declared(dependant.call)
    said = [] if decorated is Requirement.NOBODY else [decorated]
    said += {id(one): one for one in _required(dependant)}.values()
    if len(said) > 1:
        raise InvalidPolicy(f"{dependant.call!r} declares twice what it requires: keep one, with all that is needed")
    return said[0] if said else Requirement.NOBODY


def _required(dependant: Dependant) -> Iterator[Requirement]:
    for one in dependant.dependencies:
        if isinstance(one.call, ApiKey):
            yield one.call.requirement((*(one.parent_oauth_scopes or ()), *(one.own_oauth_scopes or ())))
        yield from _required(one)


def _guarded(endpoint: Any, requirement: Requirement | None) -> object:
    """*endpoint* with a declaration, and with one dependency more, which it does not see."""
    guarded: Any = _awaited(endpoint) if inspect.iscoroutinefunction(endpoint) else _called(endpoint)
    declare(guarded, requirement)
    judged = Annotated[None, Depends(_Judged(requirement))]
    more = inspect.Parameter("_doorkey", inspect.Parameter.KEYWORD_ONLY, annotation=judged)
    signature = inspect.signature(endpoint)
    guarded.__signature__ = signature.replace(parameters=[*signature.parameters.values(), more])
    return guarded


def _awaited(endpoint: Any) -> object:
    @wraps(endpoint)
    async def guarded(*args: Any, _doorkey: None, **kwargs: Any) -> Any:
        return await endpoint(*args, **kwargs)

    return guarded


def _called(endpoint: Any) -> object:
    @wraps(endpoint)
    def guarded(*args: Any, _doorkey: None, **kwargs: Any) -> Any:
        return endpoint(*args, **kwargs)

    return guarded
