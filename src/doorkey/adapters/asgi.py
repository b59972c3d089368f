"""
ASGI middleware, for any ASGI application and server (ASGI 3.0).

HTTP requests and websocket handshakes are judged before the application is entered; ``lifespan`` passes; any other
scope type is refused. What is granted reaches the application as ``scope["state"]["principal"]``, on copies of scope
and state; ``None`` stands there on open paths. Nothing that a client sends can set it.

An HTTP response is judged once, however long it streams. An open websocket is judged again at an interval.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ..core.clients import TrustedProxies
from ..core.errors import ConfigurationError
from ..core.model import Decision, Denied, Granted, Reason, Requirement, Unavailable
from ..core.policy import WEBSOCKET, Policy
from ..core.refusals import Refusal, Refusals, new_request_id, sent_by_script
from ..core.verify import AsyncVerifier, Remembered, Verifier

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

log: logging.Logger = logging.getLogger("doorkey")

POLICY_VIOLATION = 1008
INTERNAL_ERROR = 1011
TRY_AGAIN_LATER = 1013
"""Close codes (RFC 6455 §7.4.1 and its registry)."""


class DoorkeyMiddleware:
    """
    Lets in only requests that present a key which may do what they ask for.

    Args:
        app: the application to protect.
        verifier: decides.
        policy: says which operation requires what.
        trusted_proxies: whose word about the client's address counts. ``None``: the peer is the client.
        request_id: makes the name that a refusal carries.
        recheck: seconds after which an open websocket is judged again.
    """

    def __init__(
        self,
        app: Application,
        verifier: AsyncVerifier,
        *,
        policy: Policy,
        trusted_proxies: TrustedProxies | None = None,
        request_id: Callable[[], str] = new_request_id,
        recheck: float = 60.0,
    ) -> None:
        if isinstance(verifier, Verifier):
            raise ConfigurationError("ASGI takes an AsyncVerifier, such as door.async_verifier")
        if not recheck > 0:  # which nan is not, either
            raise ConfigurationError(f"recheck is a number of seconds above 0, not {recheck}")
        self.app = app
        self.verifier = verifier
        self.policy = policy
        self.trusted_proxies = trusted_proxies
        self.refusals: Refusals = Refusals(verifier.profile, request_id)
        self.recheck = recheck

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge one connection."""
        kind = scope["type"]
        if kind == "lifespan":
            await self.app(scope, receive, send)
        elif kind == "http":
            method = scope["method"]
            # The policy's word for a handshake is a method that any client may write (RFC 9110 §9.1): no rule has it.
            decision = await self._judge(scope, method if method != WEBSOCKET else "")
            if decision is None or isinstance(decision, Granted):
                await self.app(_introduced(scope, decision), receive, send)
            else:
                await _respond("http.response", self._refusal(scope, decision), send, method == "HEAD")
        elif kind == "websocket":
            decision = await self._judge(scope, WEBSOCKET)
            if decision is None:
                await self.app(_introduced(scope, None), receive, send)
            elif isinstance(decision, Granted):
                await self._watched(_introduced(scope, decision), receive, send)
            else:
                await self._deny_handshake(scope, decision, receive, send)
        else:
            raise RuntimeError(f"doorkey does not know the ASGI scope type {kind!r}, so it does not let it pass")

    async def _judge(self, scope: Scope, method: str) -> Decision | None:
        """Decide; ``None`` if the operation needs no key."""
        path = route_path(scope)
        if path and path[0] != "/":
            return Denied(Reason.TARGET)
        requirement = self.policy.requirement(method, path)
        if requirement is None:
            return None
        return await self.verifier.verify(
            _authorization(scope), client_address=self._client_address(scope), requires=requirement
        )

    def _client_address(self, scope: Scope) -> str | None:
        peer = scope.get("client")
        address: str | None = peer[0] if peer else None
        return address if self.trusted_proxies is None else self.trusted_proxies.client(address, scope["headers"])

    def _refusal(self, scope: Scope, refused: Denied | Unavailable) -> Refusal:
        fields = dict(scope["headers"])
        script = sent_by_script(fields.get(b"origin"), fields.get(b"sec-fetch-mode"))
        del fields  # A traceback may show the locals of this frame.
        return self.refusals.refusal(refused, script=script)

    async def _deny_handshake(self, scope: Scope, refused: Denied | Unavailable, receive: Receive, send: Send) -> None:
        """Refuse before the websocket is accepted: with our response if the server can send one, else a bare 403."""
        await receive()  # websocket.connect
        if "websocket.http.response" in (scope.get("extensions") or {}):
            await _respond("websocket.http.response", self._refusal(scope, refused), send)
        else:
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": ""})

    async def _watched(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application on a websocket that is judged again at an interval, and closed once its key fails."""
        remembered = self.verifier.remember(_authorization(scope))
        requirement = self.policy.requirement(WEBSOCKET, route_path(scope))
        client_address = self._client_address(scope)
        assert remembered is not None and requirement is not None  # noqa: S101  # it was granted a moment ago
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
                decision = await self.verifier.verify_again(
                    remembered, client_address=client_address, requires=requirement
                )
            except Exception:
                log.exception("an open websocket cannot be judged again and is closed")
                return INTERNAL_ERROR
            if isinstance(decision, Denied):
                return POLICY_VIOLATION
            if isinstance(decision, Unavailable):
                return TRY_AGAIN_LATER


def route_path(scope: Scope) -> str:
    """The path that the application's router sees: without the prefix that it is mounted under (ASGI ``root_path``)."""
    path: str = scope["path"]
    root: str = scope.get("root_path") or ""
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return path[len(root) :]
    return path


def _introduced(scope: Scope, decision: Granted | None) -> Scope:
    """A copy of *scope* that says who the principal is."""
    principal = None if decision is None else decision.principal
    return {**scope, "state": {**(scope.get("state") or {}), "principal": principal}}


def _authorization(scope: Scope) -> bytes | list[bytes]:
    """The field lines of ``Authorization`` (ASGI gives names in lower case), without a list if there is one."""
    lines = [value for name, value in scope["headers"] if name == b"authorization"]
    return lines[0] if len(lines) == 1 else lines


async def _respond(kind: str, refusal: Refusal, send: Send, bodiless: bool = False) -> None:
    await send({"type": f"{kind}.start", "status": refusal.status, "headers": refusal.raw_headers})
    await send({"type": f"{kind}.body", "body": b"" if bodiless else refusal.body})
