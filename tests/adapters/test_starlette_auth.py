"""Starlette's own authentication by keys: the user, the scopes, and the answer where a scope is not held."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, requires
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from doorkey import OPEN, PER_ROUTE, Doorkey, KeyType, TrustedProxies
from doorkey.adapters import starlette as ours
from doorkey.adapters.starlette_auth import KeyAuthentication, KeyBackend, KeyUser, Refused
from doorkey.core.errors import StoreUnavailable
from doorkey.core.verify import AsyncVerifier
from doorkey.storage.aio import Inline
from doorkey.storage.uses import UseLog
from doorkey.testing import basic, door, issue
from tests.adapters.asking import ask, crowd, verdict
from tests.adapters.table import INSIDE, OUTSIDE, Failing


async def whoami(request: Request) -> Response:
    user = request.user
    told = [user.identity, user.display_name, user.principal.key] if isinstance(user, KeyUser) else []
    return JSONResponse([user.is_authenticated, *told, list(request.auth.scopes)])


@requires("messages:read")
async def messages(request: Request) -> Response:
    return PlainTextResponse("messages")


@requires(["messages:read", "charges:read"])
def both(request: Request) -> Response:
    return PlainTextResponse("both")


@requires("authenticated", redirect="whoami")
async def anybody(request: Request) -> Response:
    return PlainTextResponse("anybody")


@requires("messages:read")
async def feed(websocket: WebSocket) -> None:
    await websocket.accept()


@requires("nonsense scope")
async def nonsense(request: Request) -> Response:
    raise AssertionError("nobody holds nonsense")


async def late(request: Request) -> Response:
    async def pages() -> Any:
        yield b"first"
        assert "messages:write" in request.auth.scopes

    return StreamingResponse(pages())


async def impatient(websocket: WebSocket) -> None:
    await websocket.receive()
    assert "messages:read" in websocket.auth.scopes


def hijacked(request: Any, error: Exception) -> Response:
    raise AssertionError("a handler of the application's own has nothing to do with a refusal")


ROUTES = [
    Route("/whoami", whoami),
    Route("/messages", messages),
    Route("/both", both),
    Route("/anybody", anybody),
    Route("/nonsense", nonsense),
    Route("/late", late),
    WebSocketRoute("/feed", feed),
    WebSocketRoute("/impatient", impatient),
]


def application(verifier: AsyncVerifier, **given: Any) -> Starlette:
    """Starlette's idiom, with error handlers of the application's own."""
    middleware = [Middleware(KeyAuthentication, verifier=verifier, **given)]
    handlers: Any = {401: hijacked, 403: hijacked, HTTPException: hijacked, Exception: hijacked}
    return Starlette(routes=ROUTES, middleware=middleware, exception_handlers=handlers)


@pytest.fixture
def house() -> Doorkey:
    """A doorkey in memory."""
    return door()


@pytest.fixture
def app(house: Doorkey) -> Starlette:
    """The application."""
    return application(house.async_verifier)


def test_the_user_is_the_workspace(house: Doorkey, app: Starlette) -> None:
    """``request.user`` and ``request.auth`` tell who sent the key and what it was given; nobody is nobody."""
    token = issue(house, permissions=["messages:read", "charges"])
    (workspace, *_) = house.keyring.workspaces()
    (key,) = [key for key in house.keyring.keys(workspace.id) if token.id in {one.id for one in key.tokens}]
    assert json.loads(ask(app, "/whoami", token).body) == [
        True,
        workspace.id,
        key.id,
        key.id,
        ["authenticated", "charges", "messages:read"],
    ]
    assert json.loads(ask(app, "/whoami").body) == [False, []]
    assert json.loads(ask(app, "/whoami", issue(house)).body)[4] == ["authenticated"]
    stranger = issue(door())
    assert json.loads(ask(app, "/whoami", stranger).body) == [False, []]


def test_a_secret_key_holds_its_permissions(house: Doorkey, app: Starlette) -> None:
    """An unrestricted one every scope, a restricted one what it was given and what that implies."""
    everything, resource = issue(house), issue(house, permissions=["messages"])
    reader, other = issue(house, permissions=["messages:read"]), issue(house, permissions=["charges:read"])
    for token in (everything, resource, reader):
        assert verdict(app, "/messages", token) == 200
    assert verdict(app, "/messages", other) == "insufficient_permissions"
    assert verdict(app, "/both", everything) == 200
    assert verdict(app, "/both", reader) == "insufficient_permissions"
    assert verdict(app, "/both", issue(house, permissions=["messages", "charges"])) == 200
    for token in (everything, reader, other):
        assert verdict(app, "/anybody", token) == 200


def test_a_publishable_key_holds_no_scope(house: Doorkey, app: Starlette) -> None:
    """Not even that it is authenticated, however an endpoint asks: the list says nothing else."""
    publishable = issue(house, type=KeyType.PUBLISHABLE)
    for path in ("/messages", "/both", "/anybody"):
        assert verdict(app, path, publishable) == "secret_key_required"
    assert json.loads(ask(app, "/whoami", publishable).body)[4] == []


def test_a_refusal_is_ours(house: Doorkey, app: Starlette) -> None:
    """401 with challenges and 403 with the profile's body, on HEAD too, whatever handlers there are; no redirect."""
    for path in ("/messages", "/anybody"):
        answer = ask(app, path)
        assert answer.status == 401
        assert [name for name, _ in answer.headers].count("www-authenticate") == 2
        assert json.loads(answer.body)["error"]["code"] == "api_key_missing"
        head = ask(app, path, method="HEAD")
        assert (head.status, head.body) == (401, b"")
    assert ask(app, "/messages", issue(house, permissions=["charges"])).status == 403
    assert verdict(app, "/messages", issue(door())) == "api_key_invalid"
    assert verdict(app, "/messages", headers=(("Authorization", "Basic !"),)) == "api_key_malformed"
    script = ask(app, "/messages", headers=(("Origin", "https://shop.example"),))
    assert [name for name, _ in script.headers].count("www-authenticate") == 1


def test_no_verdict_is_503(house: Doorkey) -> None:
    """Where the store is down, scoped endpoints are unavailable, and open ones are not."""
    lookup = Inline(Failing(StoreUnavailable("gone")))
    app = application(AsyncVerifier(lookup, house.secrets.digester()))
    answer = ask(app, "/messages", issue(house))
    assert (answer.status, "retry-after" in dict(answer.headers)) == (503, True)
    assert ask(app, "/whoami", issue(house)).status == 200


def test_a_websocket_is_refused_before_it_is_accepted(house: Doorkey, app: Starlette) -> None:
    """With a response where the server can send one, and closed otherwise."""
    assert ask(app, "/feed", issue(house), websocket=True).status == 101
    denied = ask(app, "/feed", websocket=True)
    assert (denied.status, json.loads(denied.body)["error"]["code"]) == (401, "api_key_missing")
    closed = ask(app, "/feed", issue(house, permissions=["charges"]), websocket=True, denial=False)
    assert (closed.status, closed.close_code) == (403, 1008)
    waited = ask(app, "/impatient", websocket=True)
    assert (waited.status, json.loads(waited.body)["error"]["code"]) == (401, "api_key_missing")


def test_a_scope_that_is_asked_for_too_late_is_an_error(house: Doorkey) -> None:
    """Once a response has begun, no refusal can be sent: the server learns of it."""
    app = Starlette(routes=ROUTES, middleware=[Middleware(KeyAuthentication, verifier=house.async_verifier)])
    with pytest.raises(Refused, match="MISSING"):
        ask(app, "/late")


def test_a_mistyped_scope_is_an_error(house: Doorkey) -> None:
    """What is no permission cannot be held, and whoever wrote it hears so."""
    app = Starlette(routes=ROUTES, middleware=[Middleware(KeyAuthentication, verifier=house.async_verifier)])
    with pytest.raises(ValueError, match="is no permission"):
        ask(app, "/nonsense", issue(house))


def test_without_our_middleware_a_refusal_is_an_error(house: Doorkey) -> None:
    """Starlette's own middleware knows no answer to it, and the endpoint stays closed."""
    backend = KeyBackend(house.async_verifier)
    app = AuthenticationMiddleware(Starlette(routes=ROUTES), backend)
    assert ask(app, "/messages", issue(house)).status == 200
    with pytest.raises(Refused, match="MISSING") as raised:
        ask(app, "/messages")
    assert "Denied" in repr(raised.value.decision)


def test_networks_are_judged(house: Doorkey) -> None:
    """The client's address counts, behind proxies too."""
    token = issue(house, networks=["203.0.113.0/24"])
    proxies = TrustedProxies([OUTSIDE])
    app = application(house.async_verifier, trusted_proxies=proxies, request_id=lambda: "req_1")
    assert verdict(app, "/messages", token, peer=INSIDE) == 200
    assert verdict(app, "/messages", token, peer=OUTSIDE) == "network_not_allowed"
    assert verdict(app, "/messages", token, peer=OUTSIDE, headers=(("X-Forwarded-For", INSIDE),)) == 200
    assert dict(ask(app, "/messages").headers)["request-id"] == "req_1"


# Behind doorkey's own middleware


@ours.requires("tokens:create", publishable=True)
@requires(["authenticated", "tokens:create"])
async def tokens(request: Request) -> Response:
    return PlainTextResponse(request.user.display_name)


@ours.requires("tokens:create", publishable=True)
@requires("messages:read")
async def more(request: Request) -> Response:
    raise AssertionError("it asks for a scope that it does not declare")


@ours.requires(OPEN)
@requires("messages:read")
async def left(request: Request) -> Response:
    return PlainTextResponse("")


def test_what_an_operation_declares_counts(house: Doorkey) -> None:
    """A key is looked up once, and a publishable key holds what the declared requirement admits it to, and no more."""
    found: list[object] = []

    class Counting:
        async def find(self, digests: Any) -> Any:
            found.append(digests)
            return house.store.find(digests)

    verifier = AsyncVerifier(Counting(), house.secrets.digester(), clock=lambda: 0)
    app = Starlette(
        routes=[Route("/tokens", tokens), Route("/more", more), Route("/left", left)],
        middleware=[
            Middleware(ours.DoorkeyMiddleware, verifier=verifier, policy=PER_ROUTE),
            Middleware(KeyAuthentication, verifier=verifier),
        ],
    )
    publishable = issue(house, type=KeyType.PUBLISHABLE)
    assert ask(app, "/tokens", publishable).status == 200
    assert len(found) == 1
    assert verdict(app, "/tokens", issue(house, permissions=["messages"])) == "insufficient_permissions"
    assert verdict(app, "/more", publishable) == "secret_key_required"
    assert verdict(app, "/tokens") == "api_key_missing"
    assert verdict(app, "/left") == "api_key_missing"
    assert verdict(app, "/left", issue(house)) == 200


def test_a_thousand_at_once_stay_apart(house: Doorkey, app: Starlette) -> None:
    """Each request sees its own key and scopes, however many run at once (E12)."""
    tokens = [issue(house, permissions=[f"messages:{number}"]) for number in range(50)]

    answers = crowd(app, "/whoami", tokens)
    assert [answer[4][1] for answer in answers] == [f"messages:{number % 50}" for number in range(1000)]


def test_credentials_are_starlettes(house: Doorkey) -> None:
    """What other code expects of ``request.auth`` is there."""
    backend = KeyBackend(house.async_verifier)
    credentials, _ = asyncio.run(backend.authenticate(HTTPConnection({"type": "http", "headers": []})))
    assert isinstance(credentials, AuthCredentials)
    assert list(credentials.scopes) == []


def test_a_shutdown_waits_for_the_last_uses(house: Doorkey) -> None:
    """They are written before the server hears that the application has ended."""
    uses = UseLog(house.store)
    verifier = AsyncVerifier(Inline(house.store), house.secrets.digester(), on_decision=uses)
    token = issue(house)
    written: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await verifier.verify(basic(token))
        await send({"type": "lifespan.shutdown.complete"})

    async def nothing() -> Any:
        raise AssertionError("nobody asks")

    async def send(message: Any) -> None:
        (workspace,) = house.keyring.workspaces()
        keys = house.keyring.keys(workspace.id)
        written.append(any(stored.last_used_at for key in keys for stored in key.tokens))

    asyncio.run(KeyAuthentication(app, verifier)({"type": "lifespan"}, nothing, send))
    assert written == [True]
    uses.close()
