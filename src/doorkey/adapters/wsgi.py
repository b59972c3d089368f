"""
WSGI middleware, for any WSGI application and server (PEP 3333).

What is granted reaches the application as ``environ["doorkey.principal"]``; ``None`` stands there on open paths. What
was required stands beside it. Clients reach only ``HTTP_*`` variables, so nothing that they send can set either;
``REMOTE_USER`` is neither read nor set.

WSGI servers join repeated fields with commas and write ``-`` and ``_`` in a field's name alike. A second
``Authorization`` is refused by its comma; which of the two spellings a proxy's field had cannot be told, so let the
proxy drop the other one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..core.clients import TrustedProxies
from ..core.declarations import PER_ROUTE, REQUIREMENT, JudgedBy
from ..core.errors import ConfigurationError
from ..core.model import Decision, Denied, Granted, Principal, Reason, Requirement, Unavailable
from ..core.policy import WEBSOCKET, Policy
from ..core.refusals import Refusal, Refusals, new_request_id, sent_by_script
from ..core.verify import AsyncVerifier, Verifier

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

PRINCIPAL = "doorkey.principal"

_STATUS = {400: "400 Bad Request", 401: "401 Unauthorized", 403: "403 Forbidden", 503: "503 Service Unavailable"}


class Gate:
    """
    Judges requests, and answers for the application where it turns one away.

    Args: see :class:`DoorkeyMiddleware`.

    Raises:
        ConfigurationError: the verifier is one for asyncio.
    """

    def __init__(
        self,
        verifier: Verifier,
        trusted_proxies: TrustedProxies | None = None,
        request_id: Callable[[], str] = new_request_id,
    ) -> None:
        if isinstance(verifier, AsyncVerifier):
            raise ConfigurationError("WSGI takes a Verifier, such as door.verifier")
        self.verifier = verifier
        self.trusted_proxies = trusted_proxies
        self._refusals = Refusals(verifier.profile, request_id)

    def judge(self, environ: Environ, requirement: Requirement) -> Decision:
        """Decide about a request that asks for what needs *requirement*."""
        return self.verifier.verify(
            environ.get("HTTP_AUTHORIZATION"),
            client_address=client_address(environ, self.trusted_proxies),
            requires=requirement,
        )

    def admit(self, environ: Environ, requirement: JudgedBy) -> Refusal | None:
        """
        Judge a request and write down in *environ* whose it is and what was required, or return the response to it.

        Args:
            requirement: ``None`` for an open operation, ``PER_ROUTE`` for one that others judge.
        """
        path = environ.get("PATH_INFO")
        if path and path[0] != "/":
            return self.refusal(environ, Denied(Reason.TARGET))
        principal = None
        if requirement is not None and requirement is not PER_ROUTE:
            decision = self.judge(environ, requirement)
            if not isinstance(decision, Granted):
                return self.refusal(environ, decision)
            principal = decision.principal
        environ[PRINCIPAL] = principal
        environ[REQUIREMENT] = requirement
        return None

    def refusal(self, environ: Environ, refused: Denied | Unavailable) -> Refusal:
        """The response to a request that is turned away."""
        script = sent_by_script(environ.get("HTTP_ORIGIN"), environ.get("HTTP_SEC_FETCH_MODE"))
        return self._refusals.refusal(refused, script=script)


class DoorkeyMiddleware:
    """
    Lets in only requests that present a key which may do what they ask for.

    Args:
        app: the application to protect.
        verifier: decides.
        policy: says which operation requires what.
        trusted_proxies: whose word about the client's address counts. ``None``: the peer is the client.
        request_id: makes the name that a refusal carries.
    """

    def __init__(
        self,
        app: Application,
        verifier: Verifier,
        *,
        policy: Policy,
        trusted_proxies: TrustedProxies | None = None,
        request_id: Callable[[], str] = new_request_id,
    ) -> None:
        if not hasattr(policy, "judged_by"):
            raise ConfigurationError(
                f"policy is a Policy; per route, it takes the adapter of a framework, not {policy!r}"
            )
        self.app = app
        self.gate: Gate = Gate(verifier, trusted_proxies, request_id)
        self.policy = policy

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Judge one request."""
        method = environ["REQUEST_METHOD"]
        # The policy's word for a websocket's handshake is a method that any client may write: no rule has it.
        if method == WEBSOCKET:
            method = ""
        path = route_path(environ)
        judged_by = self.policy.judged_by(method, path)
        # By these fields Werkzeug routes to the views of websockets, which the policy may have rules for.
        if environ.get("HTTP_UPGRADE", "").lower() == "websocket":
            socket = self.policy.rule(WEBSOCKET, path)
            if socket is not None and socket.requirement != judged_by:
                judged_by = Requirement.NOBODY
        refusal = self.gate.admit(environ, judged_by)
        return self.app(environ, start_response) if refusal is None else answered(refusal, environ, start_response)


def answered(refusal: Refusal, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with *refusal* in the application's place."""
    start_response(_STATUS[refusal.status], refusal.headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [refusal.body]


def current_principal(environ: Environ) -> Principal | None:
    """
    Who a request speaks for; ``None`` for an open operation.

    Raises:
        ConfigurationError: nothing has judged it.
    """
    if REQUIREMENT not in environ:
        raise ConfigurationError(
            "no middleware of doorkey has judged this request: put one in front of the application"
        )
    principal: Principal | None = environ[PRINCIPAL]
    return principal


def client_address(environ: Environ, proxies: TrustedProxies | None) -> str | None:
    """The address to judge, freed from *proxies*."""
    peer = environ.get("REMOTE_ADDR") or None
    if proxies is None:
        return peer
    value = environ.get("HTTP_" + proxies.header.upper().replace("-", "_"))
    lines = [] if value is None else [(proxies.header.encode(), value.encode("latin-1", "replace"))]
    return proxies.client(peer, lines)


def route_path(environ: Environ) -> str:
    """
    The path that the application's router sees: ``PATH_INFO``, decoded as UTF-8.

    Octets that are no UTF-8 are replaced, so that no rule matches them.
    """
    path: str = environ.get("PATH_INFO", "")
    return path if path.isascii() else path.encode("latin-1", "replace").decode("utf-8", "replace")
