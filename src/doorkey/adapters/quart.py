"""
Quart: an extension, and a decorator for views and websockets.

::

    app = Quart(__name__, static_folder=None)
    Doorkey(app, door.async_verifier, policy=PER_ROUTE)

    @app.get("/messages")
    @requires("messages:read")
    async def messages() -> dict[str, object]: ...

The plain ASGI middleware stands before the application. Per route it asks Quart's own URL map what a request is for,
so that nothing of the application has seen a request that is refused. When Quart has routed the request itself, it is
held against what was judged: if the two differ, nobody is let in. Where Quart finds no endpoint (404, 405, redirects),
and for the OPTIONS that it answers by itself, an unrestricted secret key is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

from quart import Quart, has_websocket_context, request, websocket

from ..core.clients import TrustedProxies
from ..core.declarations import ELSEWHERE, PER_ROUTE, Said, ensure_judged
from ..core.declarations import requirement as stated
from ..core.errors import ConfigurationError
from ..core.model import Mode, Principal, Requirement
from ..core.policy import Policy
from ..core.refusals import new_request_id
from ..core.verify import AsyncVerifier
from . import asgi
from .asgi import DoorkeyMiddleware, Scope
from .werkzeug import View, Views, assert_protected, guarded

__all__ = ["Doorkey", "assert_protected", "current_principal", "requires"]


class Doorkey:
    """
    Lets in only requests and websockets that present a key which may do what they ask for.

    Args:
        app: the application to protect; or later, any number of them, by :meth:`init_app`.
        verifier: decides.
        policy: which operation requires what; or ``PER_ROUTE``: each view says it by :func:`requires`.
        trusted_proxies: whose word about the client's address counts. ``None``: the peer is the client.
        request_id: makes the name that a refusal carries.
        recheck: seconds after which an open websocket is judged again.

    Raises:
        ConfigurationError: see :meth:`init_app`; or *policy* is none.
    """

    def __init__(
        self,
        app: Quart | None = None,
        verifier: AsyncVerifier | None = None,
        *,
        policy: Policy | Said,
        trusted_proxies: TrustedProxies | None = None,
        request_id: Callable[[], str] = new_request_id,
        recheck: float = 60.0,
    ) -> None:
        if not isinstance(policy, Policy) and policy is not PER_ROUTE:
            raise ConfigurationError(f"policy is a Policy or PER_ROUTE, not {policy!r}")
        self.verifier = verifier
        self.policy = policy
        self.trusted_proxies = trusted_proxies
        self.request_id = request_id
        self.recheck = recheck
        if app is not None:
            self.init_app(app, verifier)

    def init_app(self, app: Quart, verifier: AsyncVerifier | None = None) -> None:
        """
        Protect an application.

        Args:
            verifier: decides, in place of the extension's own.

        Raises:
            ConfigurationError: there is no verifier, or only one for threads; or *app* is protected already.
        """
        verifier = self.verifier if verifier is None else verifier
        if verifier is None:
            raise ConfigurationError("give a verifier, such as door.async_verifier, to Doorkey or to init_app")
        if "doorkey" in app.extensions:
            raise ConfigurationError(f"{app!r} is protected already: initialise it once")
        views = Views(app.view_functions.get)
        middleware = DoorkeyMiddleware(
            app.asgi_app,
            verifier,
            policy=self.policy if isinstance(self.policy, Policy) else lambda scope: _required(app, views, scope),
            trusted_proxies=self.trusted_proxies,
            request_id=self.request_id,
            recheck=self.recheck,
            path=_route_path,
        )
        app.asgi_app = middleware  # type: ignore[method-assign, assignment]
        app.extensions["doorkey"] = middleware
        if not isinstance(self.policy, Policy):
            app.extensions["doorkey"] = views
            _hold_to_what_was_judged(app, views)


def _required(app: Any, views: Views, scope: Scope) -> Requirement | None:
    """What the view requires that Quart will find for *scope*."""
    # What Quart makes of host, prefix and path is its own business, and nobody else's to guess.
    if scope["type"] == "http":
        make = app.asgi_http_class(app, scope)._create_request_from_scope
    else:
        make = app.asgi_websocket_class(app, scope)._create_websocket_from_scope
    try:
        asked = make(None)
        rule, _ = app.create_url_adapter(asked).match(return_rule=True)
    except Exception:  # Whatever Quart can make nothing of leads to none of its views.
        return ELSEWHERE
    return views.required(rule, asked.method)


def _route_path(scope: Scope) -> str:
    """The path that Quart routes by: it cuts the prefix off in the middle of a segment, too; else it is a blank."""
    path: str = scope["path"]
    root: str = scope.get("root_path") or ""
    return (path[len(root) :] if path.startswith(root) else "") or " "


def _hold_to_what_was_judged(app: Any, views: Views) -> None:
    """Let in only what was judged by what the view requires that Quart has found."""
    preprocess_request, preprocess_websocket = app.preprocess_request, app.preprocess_websocket

    async def request_judged(*context: Any) -> Any:
        hold(request)
        return await preprocess_request(*context)

    async def websocket_judged(*context: Any) -> Any:
        hold(websocket)
        return await preprocess_websocket(*context)

    def hold(proxy: Any) -> None:
        asked = proxy._get_current_object()
        ensure_judged(asked.scope, views.required(asked.url_rule, asked.method))

    app.preprocess_request = request_judged
    app.preprocess_websocket = websocket_judged


def requires(
    requires: str | Iterable[str] | Requirement | Said = (), *, publishable: bool = False, mode: Mode | None = None
) -> Callable[[View], View]:
    """
    Declare what a view requires: permissions (all are needed), a requirement, or ``OPEN``. Nothing means: an
    unrestricted secret key.

    Stands below the route. Of a class-based view it decorates the class, or each method of a ``MethodView``.

    Raises:
        InvalidPolicy: the words contradict each other, or the view has a declaration already.
        InvalidPermission: a permission is none.
    """
    requirement = stated(requires, publishable, mode)
    return lambda view: guarded(view, requirement, _scope)


def _scope(*_: object) -> Scope:
    scope: Any = (websocket if has_websocket_context() else request).scope
    return cast(Scope, scope)


def current_principal() -> Principal | None:
    """
    Who the current request or websocket speaks for; ``None`` for an open operation.

    Raises:
        ConfigurationError: nothing has judged it.
    """
    return asgi.current_principal(_scope())
