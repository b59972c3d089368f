"""
Flask: an extension, and a decorator for views.

::

    app = Flask(__name__, static_folder=None)
    Doorkey(app, door.verifier, policy=PER_ROUTE)

    @app.get("/messages")
    @requires("messages:read")
    def messages() -> dict[str, object]: ...

Under a policy, the plain middleware stands before the application. Per route, a request is judged when Flask has routed
it, before anything else that the application has registered sees it: URL processors and ``before_request`` functions
of blueprints included. A refusal passes through ``after_request`` functions, but through no error handler. Where Flask
finds no endpoint (404, 405, redirects), and for the OPTIONS that it answers by itself, an unrestricted secret key is
needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

from flask import Flask, Request, request

from ..core.clients import TrustedProxies
from ..core.declarations import PER_ROUTE, Said
from ..core.declarations import requirement as stated
from ..core.errors import ConfigurationError
from ..core.model import Mode, Principal, Requirement
from ..core.policy import Policy
from ..core.refusals import new_request_id
from ..core.verify import Verifier
from . import wsgi
from .werkzeug import View, Views, assert_protected, guarded
from .wsgi import DoorkeyMiddleware, Environ, Gate

__all__ = ["Doorkey", "assert_protected", "current_principal", "requires"]


class Doorkey:
    """
    Lets in only requests that present a key which may do what they ask for.

    Args:
        app: the application to protect; or later, any number of them, by :meth:`init_app`.
        verifier: decides.
        policy: which operation requires what; or ``PER_ROUTE``: each view says it by :func:`requires`.
        trusted_proxies: whose word about the client's address counts. ``None``: the peer is the client.
        request_id: makes the name that a refusal carries.

    Raises:
        ConfigurationError: see :meth:`init_app`; or *policy* is none.
    """

    def __init__(
        self,
        app: Flask | None = None,
        verifier: Verifier | None = None,
        *,
        policy: Policy | Said,
        trusted_proxies: TrustedProxies | None = None,
        request_id: Callable[[], str] = new_request_id,
    ) -> None:
        if not isinstance(policy, Policy) and policy is not PER_ROUTE:
            raise ConfigurationError(f"policy is a Policy or PER_ROUTE, not {policy!r}")
        self.verifier = verifier
        self.policy = policy
        self.trusted_proxies = trusted_proxies
        self.request_id = request_id
        if app is not None:
            self.init_app(app, verifier)

    def init_app(self, app: Flask, verifier: Verifier | None = None) -> None:
        """
        Protect an application.

        Args:
            verifier: decides, in place of the extension's own.

        Raises:
            ConfigurationError: there is no verifier, or only one for asyncio; or *app* is protected already.
        """
        verifier = self.verifier if verifier is None else verifier
        if verifier is None:
            raise ConfigurationError("give a verifier, such as door.verifier, to Doorkey or to init_app")
        if "doorkey" in app.extensions:
            raise ConfigurationError(f"{app!r} is protected already: initialise it once")
        if isinstance(self.policy, Policy):
            middleware = DoorkeyMiddleware(
                app.wsgi_app,
                verifier,
                policy=self.policy,
                trusted_proxies=self.trusted_proxies,
                request_id=self.request_id,
            )
            app.extensions["doorkey"] = middleware
            app.wsgi_app = middleware  # type: ignore[method-assign]
        else:
            _judge_first(app, Gate(verifier, self.trusted_proxies, self.request_id))


def _judge_first(app: Flask, gate: Gate) -> None:
    """
    Have each request judged once it is routed.

    Not by a ``before_request`` function: URL processors run before those, and may tell a stranger what exists.
    """
    views = Views(app.view_functions.get)
    preprocess = app.preprocess_request

    def preprocess_request(*context: Any) -> Any:
        asked = _current()
        refusal = gate.admit(asked.environ, views.required(asked.url_rule, asked.method))
        if refusal is None:
            return preprocess(*context)
        return app.response_class(refusal.body, refusal.status, refusal.headers)

    app.extensions["doorkey"] = views
    app.preprocess_request = preprocess_request  # type: ignore[method-assign]


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
    return lambda view: guarded(view, requirement, _environ)


def _environ(*_: object) -> Environ:
    return _current().environ


def _current() -> Request:
    """The request behind the proxy, which looks it up anew for each attribute."""
    return cast(Request, cast(Any, request)._get_current_object())


def current_principal() -> Principal | None:
    """
    Who the current request speaks for; ``None`` for an open operation.

    Raises:
        ConfigurationError: nothing has judged it.
    """
    return wsgi.current_principal(_environ())
