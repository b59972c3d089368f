"""
Starlette's own authentication by keys: ``request.user``, ``request.auth`` and ``@starlette.authentication.requires``.

::

    app = Starlette(routes=…, middleware=[Middleware(KeyAuthentication, verifier=door.async_verifier)])

A scope is a permission, or ``authenticated``. A secret key holds what its permissions grant, an unrestricted one every
scope; a publishable key holds none, but for an operation whose declared requirement admits it, where doorkey's own
middleware stands outside. Whoever asks ``request.auth.scopes`` for one that is not held gets :class:`Refused` raised,
which the middleware answers as doorkey answers: 401 without a good key, 403 with one, 503 without a verdict.

An endpoint that asks for no scope is open, as everywhere in Starlette. An open websocket is judged again only where
doorkey's own middleware stands outside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, UnauthenticatedUser
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection

from ..core.clients import TrustedProxies
from ..core.declarations import REQUIREMENT
from ..core.errors import DoorkeyError
from ..core.model import Denied, KeyType, Principal, Requirement, Unavailable
from ..core.refusals import new_request_id
from ..core.verify import AsyncVerifier
from .asgi import Application, Gate, Message, Receive, Scope, Send, authorization, flushing, warn_of_rewritten_addresses

AUTHENTICATED = "authenticated"


class Refused(DoorkeyError):
    """A scope that was asked for is not held. What is raised where there is no :class:`KeyAuthentication` is a 500."""

    def __init__(self, decision: Denied | Unavailable) -> None:
        super().__init__(repr(decision))
        self.decision: Denied | Unavailable = decision


class KeyUser(BaseUser):
    """Who presented a key: ``identity`` is the workspace, ``display_name`` the key, ``principal`` everything."""

    def __init__(self, principal: Principal) -> None:
        self.principal: Principal = principal

    @property
    def is_authenticated(self) -> bool:
        """True."""
        return True

    @property
    def identity(self) -> str:
        """The id of the workspace, whose data the request may touch."""
        return self.principal.workspace

    @property
    def display_name(self) -> str:
        """The id of the key."""
        return self.principal.key


class Scopes(list[str]):
    """
    The scopes that a connection holds. To ask for one that it does not hold raises :class:`Refused`.

    What is listed are the permissions that a secret key was given.
    """

    def __init__(
        self, who: Principal | Denied | Unavailable, verifier: AsyncVerifier, judged: Requirement | None
    ) -> None:
        super().__init__()
        if isinstance(who, Principal) and who.type is KeyType.SECRET:
            self.extend([AUTHENTICATED, *sorted(who.permissions or ())])
        self._who = who
        self._verifier = verifier
        self._judged = judged

    def __contains__(self, scope: object) -> bool:
        """True, or not at all."""
        if not isinstance(self._who, Principal):
            raise Refused(self._who)
        decision = self._verifier.authorize(self._who, self._required(self._who, str(scope)))
        if isinstance(decision, Denied):
            raise Refused(decision)
        return True

    def _required(self, who: Principal, scope: str) -> Requirement:
        judged = self._judged
        publishable = judged is not None and judged.publishable
        if scope != AUTHENTICATED:
            return Requirement(scope, publishable and judged is not None and scope in judged.permissions)
        return Requirement.ANY_KEY if publishable or who.type is KeyType.SECRET else Requirement()


class KeyBackend(AuthenticationBackend):
    """
    For Starlette's ``AuthenticationMiddleware``; :class:`KeyAuthentication` has it, and answers what it refuses.

    A key that is no good makes nobody of its sender: refused is whoever is asked for a scope.

    Args: see :class:`KeyAuthentication`.
    """

    def __init__(self, verifier: AsyncVerifier, *, trusted_proxies: TrustedProxies | None = None) -> None:
        self._gate = Gate(verifier, trusted_proxies)

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser]:
        """Who the connection speaks for."""
        who = await self._who(conn.scope)
        credentials = AuthCredentials()
        credentials.scopes = Scopes(who, self._gate.verifier, _requirement(conn.scope))
        return credentials, KeyUser(who) if isinstance(who, Principal) else UnauthenticatedUser()

    async def _who(self, scope: Scope) -> Principal | Denied | Unavailable:
        judged: Principal | None = scope["state"]["principal"] if REQUIREMENT in scope else None
        if judged is not None:
            return judged
        return await self._gate.verifier.identify(authorization(scope), client_address=self._gate.client_address(scope))


def _requirement(scope: Scope) -> Requirement | None:
    judged = scope.get(REQUIREMENT)
    return judged if isinstance(judged, Requirement) else None


class KeyAuthentication:
    """
    Starlette's ``AuthenticationMiddleware`` with :class:`KeyBackend`, and the answer to what that refuses.

    Args:
        app: the application.
        verifier: decides.
        trusted_proxies: whose word about the client's address counts. ``None``: the peer is the client.
        request_id: makes the name that a refusal carries.
    """

    def __init__(
        self,
        app: Application,
        verifier: AsyncVerifier,
        *,
        trusted_proxies: TrustedProxies | None = None,
        request_id: Callable[[], str] = new_request_id,
    ) -> None:
        self._gate = Gate(verifier, trusted_proxies, request_id)
        self.app: Any = AuthenticationMiddleware(app, KeyBackend(verifier, trusted_proxies=trusted_proxies))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer, unless it asks for a scope that is not held."""
        if scope["type"] == "lifespan":
            warn_of_rewritten_addresses()
            send = flushing(self._gate.verifier, send)
        begun = False

        async def send_noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, send_noted)
        except Refused as refused:
            if begun:  # Nothing can be answered any more: this is for the server.
                raise
            await self._gate.refuse(scope, refused.decision, send)
