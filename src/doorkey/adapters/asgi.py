"""
ASGI middleware, for any ASGI application and server (ASGI 3.0).

HTTP requests and websocket handshakes are judged before the application is entered; ``lifespan`` passes; any other
scope type is refused. What is granted reaches the application as ``scope["state"]["principal"]``, on copies of scope
and state; ``None`` stands there on open paths. Nothing that a client sends can set it.

An HTTP response is judged once, however long it streams. An open websocket is judged again at an interval.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

from ..core.clients import TrustedProxies
from ..core.declarations import PER_ROUTE, REQUIREMENT, JudgedBy
from ..core.errors import ConfigurationError
from ..core.model import Decision, Denied, Granted, Principal, Reason, Requirement, Unavailable
from ..core.policy import WEBSOCKET, Policy
from ..core.refusals import Refusal, Refusals, new_request_id, sent_by_script
from ..core.verify import AsyncVerifier, Remembered, Verifier

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]
"""Frameworks have types of their own for scope, receive and send."""

log: logging.Logger = logging.getLogger("doorkey")

POLICY_VIOLATION = 1008
INTERNAL_ERROR = 1011
TRY_AGAIN_LATER = 1013
"""Close codes (RFC 6455 §7.4.1 and its registry)."""


def route_path(scope: Scope) -> str:
    """The path that the application's router sees: without the prefix that it is mounted under (ASGI ``root_path``)."""
    path: str = scope["path"]
    root: str = scope.get("root_path") or ""
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return path[len(root) :]
    return path


class Gate:
    """
    Judges connections, and answers for the application where it turns one away.

    Args: see :class:`DoorkeyMiddleware`.

    Raises:
        ConfigurationError: the verifier is not one for asyncio.
    """

    def __init__(
        self,
        verifier: AsyncVerifier,
        trusted_proxies: TrustedProxies | None = None,
        request_id: Callable[[], str] = new_request_id,
    ) -> None:
        if isinstance(verifier, Verifier):
            raise ConfigurationError("ASGI takes an AsyncVerifier, such as door.async_verifier")
        self.verifier = verifier
        self.trusted_proxies = trusted_proxies
        self._refusals = Refusals(verifier.profile, request_id)

    async def judge(self, scope: Scope, requirement: JudgedBy) -> Decision | None:
        """
        Decide about a connection; ``None`` if it needs no key.

        Args:
            requirement: ``None`` for an open operation, ``PER_ROUTE`` for one that others judge.
        """
        path = scope["path"]
        if path and path[0] != "/":
            return Denied(Reason.TARGET)
        if requirement is None or requirement is PER_ROUTE:
            return None
        return await self.verifier.verify(
            authorization(scope), client_address=self.client_address(scope), requires=requirement
        )

    def client_address(self, scope: Scope) -> str | None:
        """The address to judge, freed from proxies."""
        peer = scope.get("client")
        address: str | None = peer[0] if peer else None
        return address if self.trusted_proxies is None else self.trusted_proxies.client(address, scope["headers"])

    def refusal(self, scope: Scope, refused: Denied | Unavailable) -> Refusal:
        """The response to a connection that is turned away."""
        fields = dict(scope["headers"])
        script = sent_by_script(fields.get(b"origin"), fields.get(b"sec-fetch-mode"))
        del fields  # A traceback may show the locals of this frame.
        return self._refusals.refusal(refused, script=script)

    async def refuse(self, scope: Scope, refused: Denied | Unavailable, send: Send) -> None:
        """Answer in the application's place; a websocket before it is accepted: with a bare 403 if need be."""
        if scope["type"] == "http":
            kind = "http.response"
        elif "websocket.http.response" in (scope.get("extensions") or {}):
            kind = "websocket.http.response"
        else:
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": ""})
            return
        refusal = self.refusal(scope, refused)
        headers = refusal.raw_headers if kind == "http.response" else _joined(refusal.raw_headers)
        await send({"type": f"{kind}.start", "status": refusal.status, "headers": headers})
        await send({"type": f"{kind}.body", "body": b"" if scope.get("method") == "HEAD" else refusal.body})


class DoorkeyMiddleware:
    """
    Lets in only requests that present a key which may do what they ask for.

    Args:
        app: the application to protect.
        verifier: decides.
        policy: says which operation requires what. The adapter of a framework gives a function of the scope, which
            finds what the endpoint declares; ``None`` is open.
        trusted_proxies: whose word about the client's address counts. ``None``: the peer is the client.
        request_id: makes the name that a refusal carries.
        recheck: seconds after which an open websocket is judged again.
        path: finds, for a policy, the path that the application's router sees.

    Raises:
        ConfigurationError: a value cannot be used; or *app* has a ``root_path`` of its own.
    """

    def __init__(
        self,
        app: Application,
        verifier: AsyncVerifier,
        *,
        policy: Policy | Callable[[Scope], Requirement | None],
        trusted_proxies: TrustedProxies | None = None,
        request_id: Callable[[], str] = new_request_id,
        recheck: float = 60.0,
        path: Callable[[Scope], str] = route_path,
    ) -> None:
        if not recheck > 0:  # which nan is not, either
            raise ConfigurationError(f"recheck is a number of seconds above 0, not {recheck}")
        _refuse_prefixed(app)
        if not (hasattr(policy, "judged_by") or callable(policy)):
            raise ConfigurationError(
                f"policy is a Policy; per route, it takes the adapter of a framework, not {policy!r}"
            )
        self.app = app
        self.gate: Gate = Gate(verifier, trusted_proxies, request_id)
        self.policy = policy
        self.recheck = recheck
        self._requirement: Callable[[Scope], JudgedBy] = (
            policy if callable(policy) else partial(_judged_by, policy, path)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge one connection."""
        kind = scope["type"]
        if kind == "lifespan":
            warn_of_rewritten_addresses()
            await self.app(scope, receive, flushing(self.gate.verifier, send))
            return
        if kind not in ("http", "websocket"):
            raise RuntimeError(f"doorkey does not know the ASGI scope type {kind!r}, so it does not let it pass")
        requirement = self._requirement(scope)
        decision = await self.gate.judge(scope, requirement)
        if decision is None:
            await self.app(_introduced(scope, None, requirement), receive, send)
        elif isinstance(decision, Granted):
            enter = self.app if kind == "http" else self._watched
            await enter(_introduced(scope, decision.principal, requirement), receive, send)
        else:
            await self.gate.refuse(scope, decision, send)

    async def _watched(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application on a websocket that is judged again at an interval, and closed once its key fails."""
        remembered = self.gate.verifier.remember(authorization(scope))
        requirement = scope[REQUIREMENT]
        client_address = self.gate.client_address(scope)
        assert remembered is not None  # noqa: S101  # it was granted a moment ago
        closed: int | None = None

        # What a client sent before it answers our close, or while it does not even read it, reaches nobody.
        async def receive_while_open() -> Message:
            message = await receive()
            return message if closed is None else {"type": "websocket.disconnect", "code": closed, "reason": ""}

        async def send_while_open(message: Message) -> None:
            if closed is not None:
                raise OSError("doorkey closed this websocket: its key no longer suffices")
            await send(message)

        async def close_when_refused() -> None:
            nonlocal closed
            code = INTERNAL_ERROR
            try:
                code = await self._refused_later(remembered, client_address, requirement)
            finally:
                closed = code  # However the watch ends: a lookup whose threads are closed cancels it.
            await send({"type": "websocket.close", "code": closed, "reason": ""})

        watch = asyncio.create_task(close_when_refused())
        try:
            await self.app(scope, receive_while_open, send_while_open)
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _refused_later(self, remembered: Remembered, client_address: str | None, requirement: Requirement) -> int:
        """Wait until a websocket is no longer granted, and return the code to close it with."""
        while True:
            await asyncio.sleep(self.recheck)
            try:
                decision = await self.gate.verifier.verify_again(
                    remembered, client_address=client_address, requires=requirement
                )
            except Exception:
                log.exception("an open websocket cannot be judged again and is closed")
                return INTERNAL_ERROR
            if isinstance(decision, Denied):
                return POLICY_VIOLATION
            if isinstance(decision, Unavailable):
                return TRY_AGAIN_LATER


def warn_of_rewritten_addresses() -> None:
    """
    Say so, at start-up, if uvicorn lets its neighbours say where a client is, as it does unless it is told otherwise.

    Its middleware stands outside of all others and leaves no trace in a scope, so it is looked for among the callers.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller: Any = frame.f_locals.get("self")
        if type(caller).__module__ == "uvicorn.middleware.proxy_headers" and "127.0.0.1" in caller.trusted_hosts:
            log.warning(
                "uvicorn believes X-Forwarded-For from 127.0.0.1, so any process there may pass for a network that "
                "a key is bound to: run it with --no-proxy-headers, and name your proxies by trusted_proxies"
            )
        frame = frame.f_back


def flushing(verifier: AsyncVerifier, send: Send) -> Send:
    """A *send* of the lifespan protocol by which the server learns of the shutdown after the last uses are written."""

    async def send_flushed(message: Message) -> None:
        if message["type"].startswith("lifespan.shutdown."):
            await asyncio.to_thread(verifier.flush)
        await send(message)

    return send_flushed


def _method(scope: Scope) -> str:
    """The method, as a policy knows it."""
    if scope["type"] == "websocket":
        return WEBSOCKET
    method: str = scope["method"]
    # The policy's word for a handshake is a method that any client may write (RFC 9110 §9.1): no rule has it. Nor has
    # one a request that a proxy's field made a websocket's, as uvicorn believes it: Quart goes by the scheme.
    return method if method != WEBSOCKET and scope.get("scheme") not in ("ws", "wss") else ""


def _judged_by(policy: Policy, path: Callable[[Scope], str], scope: Scope) -> JudgedBy:
    """What *policy* says; outside is only what is so wherever the application cuts off the prefix of its mount."""
    method = _method(scope)
    judged_by = policy.judged_by(method, path(scope))
    if judged_by is PER_ROUTE and (root := scope.get("root_path")):
        whole: str = scope["path"]
        for rest in (whole, whole.removeprefix(root), whole.partition(root)[2]):  # as by Quart, as by Litestar
            if policy.judged_by(method, "/" + rest.lstrip("/")) is not PER_ROUTE:
                return Requirement.NOBODY
    return judged_by


def _refuse_prefixed(app: object) -> None:
    """Refuse to stand around FastAPI's own ``root_path``, which replaces that of the connection."""
    walked: set[int] = set()
    while id(app) not in walked:
        walked.add(id(app))
        if getattr(app, "root_path", ""):
            raise ConfigurationError("an application with a root_path of its own takes this by its add_middleware")
        app = getattr(app, "app", None)


def current_principal(scope: Scope) -> Principal | None:
    """
    Who a connection speaks for; ``None`` for an open operation.

    Raises:
        ConfigurationError: nothing has judged it.
    """
    if REQUIREMENT not in scope:
        raise ConfigurationError(
            "no middleware of doorkey has judged this request: put one in front of the application"
        )
    principal: Principal | None = scope["state"]["principal"]
    return principal


def _introduced(scope: Scope, principal: Principal | None, requirement: JudgedBy) -> Scope:
    """A copy of *scope* that says who the principal is, and what was required of it."""
    return {**scope, REQUIREMENT: requirement, "state": {**(scope.get("state") or {}), "principal": principal}}


def authorization(scope: Scope) -> bytes | list[bytes]:
    """The field lines of ``Authorization`` (ASGI gives names in lower case), without a list if there is one."""
    lines = [value for name, value in scope["headers"] if name == b"authorization"]
    return lines[0] if len(lines) == 1 else lines


def _joined(fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Fields of one name in one line (RFC 9110 §5.3): granian 2.8 dies of two in the response to a handshake."""
    lines: dict[bytes, bytes] = {}
    for name, value in fields:
        lines[name] = lines[name] + b", " + value if name in lines else value
    return list(lines.items())
