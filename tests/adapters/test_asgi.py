"""The ASGI middleware alone: copies, scope types, websockets, tasks, streams, and the routers behind it."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from litestar import Litestar
from starlette._utils import get_route_path
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from doorkey import (
    FALU,
    PER_ROUTE,
    AsyncVerifier,
    Decision,
    Doorkey,
    DoorkeyError,
    Granted,
    KeyType,
    Mode,
    Policy,
    Principal,
    Requirement,
    Rule,
    TrustedProxies,
)
from doorkey.adapters.asgi import Application, DoorkeyMiddleware, Message, Scope, current_principal, route_path
from doorkey.adapters.litestar import DoorkeyPlugin
from doorkey.adapters.starlette_auth import KeyAuthentication
from doorkey.core.declarations import REQUIREMENT, ensure_judged
from doorkey.core.errors import StoreUnavailable
from doorkey.core.model import Record
from doorkey.storage.aio import Inline, Threaded
from doorkey.storage.uses import UseLog
from doorkey.testing import Clock, basic, bearer, door, issue

if TYPE_CHECKING:
    from tests.adapters.wire import Answer

RECHECK = 0.02
SOON = 5.0
"""Seconds that nothing here takes, unless it hangs."""

READ = Requirement("messages:read")
POLICY = Policy(
    [
        Rule("GET", "/messages", READ),
        Rule.open("GET", "/healthz"),
        Rule("WEBSOCKET", "/feed", "messages:read"),
        Rule.open("WEBSOCKET", "/pulse"),
    ]
)


def http(path: str = "/messages", authorization: str | None = None, **fields: Any) -> Scope:
    """A request as small as a server may make it."""
    headers = [] if authorization is None else [(b"authorization", authorization.encode())]
    return {"type": "http", "method": "GET", "path": path, "headers": headers, **fields}


def websocket(path: str = "/feed", authorization: str | None = None, **fields: Any) -> Scope:
    scope = http(path, authorization, **fields)
    del scope["method"]
    return {**scope, "type": "websocket"}


class App:
    """An application that notes the scopes that it is called with, and answers 200 or accepts."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})

    @property
    def principals(self) -> list[Principal | None]:
        return [scope["state"]["principal"] for scope in self.scopes]


@pytest.fixture
def house() -> Doorkey:
    """A doorkey in memory."""
    return door()


@pytest.fixture
def ask(wire: Any) -> Callable[[Application, Scope], Answer]:
    """Calls an application with a scope."""
    driver: Callable[[Application, Scope], Answer] = wire.over_asgi
    return driver


# Scopes


def test_the_application_gets_copies(house: Doorkey, ask: Any) -> None:
    """The principal stands on copies of scope and state: what the server or an outer middleware holds never changes."""
    token, app = issue(house), App()
    state = {"principal": "admin", "database": object()}
    scope = http("/messages", basic(token), state=state)
    ask(DoorkeyMiddleware(app, house.async_verifier, policy=POLICY), scope)
    (inner,) = app.scopes
    assert inner is not scope and inner["state"] is not state
    assert inner["headers"] is scope["headers"]
    assert inner["state"]["database"] is state["database"]
    assert inner["state"]["principal"].token_id == token.id
    inner["state"]["more"] = inner["more"] = 1
    assert scope == http("/messages", basic(token), state=state)
    assert state == {"principal": "admin", "database": state["database"]}


@pytest.mark.parametrize("fields", [{}, {"state": None}, {"state": {}}])
def test_a_server_without_state(house: Doorkey, ask: Any, fields: dict[str, Any]) -> None:
    """A server that knows no lifespan state is served as well, and an open path has a principal too: none."""
    app = App()
    middleware = DoorkeyMiddleware(app, house.async_verifier, policy=POLICY)
    assert ask(middleware, http("/healthz", **fields)).status == 200
    assert ask(middleware, http("/messages", bearer(issue(house)), **fields)).status == 200
    nobody, somebody = app.principals
    assert nobody is None and somebody is not None


@pytest.mark.parametrize("kind", ["", "HTTP", "http2", "webtransport", "websocket.http", "lifespan.startup", None])
def test_unknown_scope_types_are_refused(house: Doorkey, kind: Any) -> None:
    """What is neither http, websocket nor lifespan never reaches the application (E6)."""
    app = App()
    middleware = DoorkeyMiddleware(app, house.async_verifier, policy=POLICY)
    with pytest.raises(RuntimeError, match="scope type"):
        asyncio.run(middleware({"type": kind, "path": "/healthz", "headers": []}, nothing, swallow))
    assert app.scopes == []


async def nothing() -> Message:
    raise AssertionError("nobody may ask for what the client sends")


async def swallow(message: Message) -> None:
    """Send into the void."""


def test_lifespan_passes(house: Doorkey) -> None:
    """Start-up and shut-down are the application's own: it gets the server's scope and receive."""
    seen: list[object] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        seen.extend([scope, receive, send])

    scope = {"type": "lifespan", "state": {}}
    asyncio.run(DoorkeyMiddleware(app, house.async_verifier, policy=POLICY)(scope, nothing, swallow))
    assert seen[0] is scope and seen[1] is nothing


@pytest.mark.parametrize(
    ("trusted", "warned"), [("127.0.0.1", True), ("*", True), ("10.0.0.1, 127.0.0.1", True), ("10.0.0.1", False)]
)
@pytest.mark.parametrize("framework", ["plain", "KeyAuthentication", "Litestar"])
def test_a_server_that_believes_its_neighbours_is_told_of(
    house: Doorkey, caplog: pytest.LogCaptureFixture, framework: str, trusted: str, warned: bool
) -> None:
    """uvicorn's own middleware, which stands around everything unless it is switched off, is found at start-up."""
    applications: dict[str, Callable[[], Any]] = {
        "plain": lambda: DoorkeyMiddleware(Starlette(), house.async_verifier, policy=POLICY),
        "KeyAuthentication": lambda: KeyAuthentication(Starlette(), house.async_verifier),
        "Litestar": lambda: Litestar(plugins=[DoorkeyPlugin(house.async_verifier)], logging_config=None),
    }
    ours = applications[framework]()

    async def start(app: Any) -> None:
        asked = iter(["lifespan.startup", "lifespan.shutdown"])

        async def receive() -> Message:
            return {"type": next(asked)}

        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, swallow)

    asyncio.run(start(ours))
    assert caplog.messages == []
    asyncio.run(start(ProxyHeadersMiddleware(ours, trusted)))
    assert ["uvicorn believes" in message for message in caplog.messages] == [True] * warned


def test_a_shutdown_waits_for_the_last_uses(house: Doorkey) -> None:
    """The server hears of its end once they are written, because it may end without another word."""
    uses = UseLog(house.store)
    verifier = AsyncVerifier(Inline(house.store), house.secrets.digester(), on_decision=uses)
    token = issue(house)
    told: list[tuple[str, bool]] = []

    def used() -> bool:
        keys = (key for workspace in house.keyring.workspaces() for key in house.keyring.keys(workspace.id))
        return any(stored.last_used_at for key in keys for stored in key.tokens)

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send({"type": "lifespan.startup.complete"})
        await verifier.verify(basic(token))
        await send({"type": "lifespan.shutdown.complete"})

    async def send(message: Message) -> None:
        told.append((message["type"], used()))

    asyncio.run(DoorkeyMiddleware(app, verifier, policy=POLICY)({"type": "lifespan"}, nothing, send))
    assert told == [("lifespan.startup.complete", False), ("lifespan.shutdown.complete", True)]
    uses.close()


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_request_that_passes_for_a_websocket(house: Doorkey, ask: Any, scheme: str) -> None:
    """By a proxy's field that uvicorn believes, a GET gets that scheme, and Quart routes it to a socket's view."""
    middleware = DoorkeyMiddleware(App(), house.async_verifier, policy=POLICY)
    assert ask(middleware, http("/healthz", scheme="https")).status == 200
    assert ask(middleware, http("/healthz", scheme=scheme)).status == 401


@pytest.mark.parametrize(
    ("root", "path"),
    [("/v1", "/v1api/x"), ("/v1/", "/v1/api/x"), ("/v1", "/zz/v1/api/x"), ("/v1", "/v1//api/x"), ("/v1", "/api/x")],
)
def test_wherever_a_prefix_is_cut_off(house: Doorkey, ask: Any, root: str, path: str) -> None:
    """Routers cut it off in ways of their own: what is inside to one of them is not outside."""
    middleware = DoorkeyMiddleware(App(), house.async_verifier, policy=Policy(within="/api"))
    assert ask(middleware, http(path, basic(issue(house)), root_path=root)).status in (200, 403)
    assert ask(middleware, http(path, root_path=root)).status == 401
    assert ask(middleware, http("/v1/page", root_path=root)).status == 200


def test_a_prefix_of_its_own_is_refused(house: Doorkey) -> None:
    """Around FastAPI's root_path, however deep, paths would be other ones than those that its router sees."""

    class Prefixed(App):
        root_path = "/v1"

    class Around(App):
        def __init__(self, app: Any) -> None:
            self.app = app

    for app in (Prefixed(), Around(Around(Prefixed()))):
        with pytest.raises(DoorkeyError, match="by its add_middleware"):
            DoorkeyMiddleware(app, house.async_verifier, policy=POLICY)
    endless = Around(None)
    endless.app = endless
    DoorkeyMiddleware(endless, house.async_verifier, policy=POLICY)


@pytest.mark.parametrize("policy", [PER_ROUTE, None, "a policy"])
def test_what_is_no_policy(house: Doorkey, policy: Any) -> None:
    """Plain ASGI knows no routes: what is no policy is refused, and the message names the way."""
    with pytest.raises(DoorkeyError, match="takes the adapter of a framework"):
        DoorkeyMiddleware(App(), house.async_verifier, policy=policy)


@pytest.mark.parametrize("kind", [http, websocket])
def test_a_function_in_place_of_a_policy(house: Doorkey, ask: Any, kind: Callable[..., Scope]) -> None:
    """What a framework's adapter finds out about a connection is required of it, and written down for the endpoint."""

    def found(scope: Scope) -> Requirement | None:
        return None if scope["path"] == "/open" else READ

    app = App()
    middleware = DoorkeyMiddleware(app, house.async_verifier, policy=found)
    for scope, required in (
        (kind("/open"), [None]),
        (kind("/closed"), []),
        (kind("/closed", basic(issue(house))), [READ]),
    ):
        app.scopes.clear()
        ask(middleware, scope)
        assert [given[REQUIREMENT] for given in app.scopes] == required
        assert REQUIREMENT not in scope


@pytest.mark.parametrize("recheck", [0, -1, -math.inf, math.nan])
def test_an_interval_that_is_none(house: Doorkey, recheck: float) -> None:
    """An interval at which no websocket would be judged again is refused when built."""
    with pytest.raises(DoorkeyError, match="recheck"):
        DoorkeyMiddleware(App(), house.async_verifier, policy=POLICY, recheck=recheck)


@example(root="/v1", path="/v10")
@example(root="/v1", path="/v1/x")
@given(
    root=st.sampled_from(["", "/", "/v1", "/v1/", "v1", "/a/b", "//", None]) | st.text("/v1.", max_size=4),
    path=st.sampled_from(["", "/", "/v1", "/v1/", "/v1/x", "/v10", "/v1//x", "*", "/a/b", "/a/b/c"])
    | st.text("/v1.", max_size=8),
)
def test_the_path_is_the_routers_own(root: str | None, path: str) -> None:
    """Starlette's router and the policy see the same path under any mount (E1, E7)."""
    scope = {"path": path, "root_path": root} if root is not None else {"path": path}
    assert route_path(scope) == get_route_path(scope)
    assert route_path({"path": path, "root_path": root}) == route_path(scope)


def test_a_router_with_a_path_of_its_own(house: Doorkey, ask: Any) -> None:
    """The adapter of a framework says which path its router sees, and that one is judged."""
    app = App()
    middleware = DoorkeyMiddleware(
        app, house.async_verifier, policy=POLICY, path=lambda scope: scope["path"].removeprefix("/x")
    )
    assert ask(middleware, http("/x/healthz")).status == 200
    assert ask(middleware, websocket("/x/pulse")).status == 101
    assert ask(middleware, http("/y/healthz")).status == 401


@pytest.mark.parametrize("kind", [http, websocket])
def test_what_a_policy_leaves_to_others(house: Doorkey, ask: Any, kind: Callable[..., Scope]) -> None:
    """Outside, nobody is judged: there is no principal, and what an endpoint declares was not asked."""
    app = App()
    middleware = DoorkeyMiddleware(app, house.async_verifier, policy=Policy(within="/api"))
    ask(middleware, kind("/page"))
    (scope,) = app.scopes
    assert (scope[REQUIREMENT], current_principal(scope)) == (PER_ROUTE, None)
    for requirement in (None, READ):
        with pytest.raises(DoorkeyError):
            ensure_judged(scope, requirement)


# Requests


def test_a_refusal_reads_nothing(house: Doorkey) -> None:
    """The body of a refused request is not asked for, so no client is told to go on with it (E11)."""
    app, sent = App(), []

    async def send(message: Message) -> None:
        sent.append(message)

    middleware = DoorkeyMiddleware(app, house.async_verifier, policy=POLICY, request_id=lambda: "req_1")
    asyncio.run(middleware(http(method="POST"), nothing, send))
    start, body = sent
    assert start["type"] == "http.response.start" and start["status"] == 401
    assert body["type"] == "http.response.body" and b'"req_1"' in body["body"]
    assert (b"request-id", b"req_1") in start["headers"]
    assert app.scopes == []


def test_a_refused_head_has_no_body(house: Doorkey, ask: Any) -> None:
    """The refusal of a HEAD request is that of GET without its body (RFC 9110 §9.3.2)."""
    middleware = DoorkeyMiddleware(App(), house.async_verifier, policy=POLICY, request_id=lambda: "req_1")
    get, head = ask(middleware, http()), ask(middleware, http(method="HEAD"))
    assert (head.status, head.headers, head.body) == (get.status, get.headers, b"")


def test_a_script_gets_no_password_window(house: Doorkey, ask: Any) -> None:
    """A browser's script is challenged with Bearer alone (A16)."""
    middleware = DoorkeyMiddleware(App(), house.async_verifier, policy=POLICY)
    for header in ((b"origin", b"null"), (b"sec-fetch-mode", b"cors")):
        challenges = [
            value for name, value in ask(middleware, http(headers=[header])).headers if name == "www-authenticate"
        ]
        assert challenges == ['Bearer realm="API"']


def test_the_client_address(house: Doorkey, ask: Any) -> None:
    """The peer's address is judged, or, if it is a trusted proxy's, the one that the proxy names."""
    token, app = issue(house, networks=["203.0.113.0/24"]), App()
    direct = DoorkeyMiddleware(app, house.async_verifier, policy=POLICY)
    behind = DoorkeyMiddleware(app, house.async_verifier, policy=POLICY, trusted_proxies=TrustedProxies(["10.0.0.1"]))
    named = http("/messages", basic(token), client=("10.0.0.1", 1))
    named["headers"].append((b"x-forwarded-for", b"203.0.113.7"))
    assert ask(direct, http("/messages", basic(token), client=["203.0.113.7", 1])).status == 200
    assert ask(direct, named).status == 403
    assert ask(direct, http("/messages", basic(token), client=None)).status == 403
    assert ask(direct, http("/messages", basic(token))).status == 403
    assert ask(behind, named).status == 200
    assert ask(behind, http("/messages", basic(token), client=("203.0.113.7", 1))).status == 200
    assert ask(behind, http("/messages", basic(token), client=("10.0.0.1", 1))).status == 403


def test_what_is_no_path(house: Doorkey, ask: Any) -> None:
    """A target that does not begin with a slash is a client's error, with a good key too (E2)."""
    app = App()
    middleware = DoorkeyMiddleware(app, house.async_verifier, policy=POLICY)
    assert ask(middleware, http("http://h/healthz", basic(issue(house)))).status == 400
    assert ask(middleware, http("")).status == 401
    assert app.scopes == []


def test_a_store_that_is_down(house: Doorkey, ask: Any) -> None:
    """Where no verdict can be reached, nobody is let in, and the client is asked to come back (F12)."""

    class Down:
        async def find(self, digests: Sequence[bytes]) -> Record | None:
            raise StoreUnavailable("the disk is gone")

    app = App()
    middleware = DoorkeyMiddleware(app, AsyncVerifier(Down(), house.secrets.digester()), policy=POLICY)
    answer = ask(middleware, http("/messages", basic(issue(house))))
    assert (answer.status, "retry-after" in dict(answer.headers)) == (503, True)
    assert app.scopes == []


def test_refusals_are_those_of_the_profile(ask: Any) -> None:
    """The form of a refusal is that of the verifier's profile."""
    middleware = DoorkeyMiddleware(App(), door(profile=FALU).async_verifier, policy=POLICY)
    assert dict(ask(middleware, http()).headers)["content-type"] == "application/problem+json"


def test_two_authorization_lines(house: Doorkey, ask: Any) -> None:
    """Each line counts: two of them are malformed, however good (A6)."""
    app, good = App(), basic(issue(house)).encode()
    middleware = DoorkeyMiddleware(app, house.async_verifier, policy=POLICY)
    for lines in ((good, good), (good, b""), (b"", good)):
        answer = ask(middleware, http(headers=[(b"authorization", line) for line in lines]))
        assert (answer.status, b"api_key_malformed" in answer.body) == (401, True)
    assert app.scopes == []


def test_a_method_that_is_called_like_the_handshake(house: Doorkey, ask: Any) -> None:
    """A request may have any method (RFC 9110 §9.1): WEBSOCKET opens nothing that is open to handshakes alone."""
    app, reader = App(), basic(issue(house, permissions=["messages:read"]))
    middleware = DoorkeyMiddleware(app, house.async_verifier, policy=POLICY)
    assert ask(middleware, http("/pulse", method="WEBSOCKET")).status == 401
    assert ask(middleware, http("/feed", reader, method="WEBSOCKET")).status == 403
    assert app.scopes == []
    assert ask(middleware, websocket("/pulse")).status == 101


def test_bodies_stream_untouched(house: Doorkey) -> None:
    """A granted request and its response go through as they are: the application has the server's receive and send."""
    incoming = [{"type": "http.request", "body": bytes([n]) * 3, "more_body": n < 9} for n in range(10)]
    outgoing: list[Message] = []

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        outgoing.append(message)

    async def echo(scope: Scope, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send({"type": "http.response.body", "body": message["body"], "more_body": more})

    asyncio.run(
        DoorkeyMiddleware(echo, house.async_verifier, policy=POLICY)(
            http("/messages", basic(issue(house))), receive, send
        )
    )
    assert incoming == []
    assert b"".join(message.get("body", b"") for message in outgoing) == bytes(n for n in range(10) for _ in range(3))
    assert len(outgoing) == 11


@pytest.mark.parametrize("error", [ValueError("mine"), asyncio.CancelledError(), OSError("gone"), SystemExit(1)])
def test_what_the_application_raises(house: Doorkey, error: BaseException) -> None:
    """The application's exceptions reach the server, cancellation among them."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        raise error

    call = DoorkeyMiddleware(app, house.async_verifier, policy=POLICY)(
        http("/messages", basic(issue(house))), nothing, swallow
    )
    with pytest.raises(type(error)) as caught:
        call.__await__().send(None)
    assert caught.value is error


def test_cancellation_while_judging(house: Doorkey) -> None:
    """A client that goes away while the store is asked leaves nothing behind, and the application is not entered."""
    app, asked = App(), asyncio.Event()

    class Slow:
        async def find(self, digests: Sequence[bytes]) -> Record | None:
            asked.set()
            await asyncio.sleep(3600)
            return None

    async def scenario() -> None:
        verifier = AsyncVerifier(Slow(), house.secrets.digester())
        middleware = DoorkeyMiddleware(app, verifier, policy=POLICY)
        task = asyncio.create_task(middleware(http("/messages", basic(issue(house))), nothing, swallow))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())
    assert app.scopes == []


@pytest.mark.parametrize("threaded", [False, True], ids=["inline", "threaded"])
def test_a_thousand_requests_at_once(house: Doorkey, threaded: bool) -> None:
    """Among a thousand concurrent requests each sees the principal of its own key, and no other (E12)."""
    chance = random.Random(1)
    tokens = [issue(house, type=type, mode=mode) for type in KeyType for mode in Mode for _ in range(5)]
    ids = {token.expose(): token.id for token in tokens}
    current: ContextVar[str] = ContextVar("current")
    policy = Policy([Rule("GET", "/messages", Requirement.ANY_KEY)])

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        current.set(scope["state"]["principal"].token_id)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(chance.random() / 100)
        assert current.get() == scope["state"]["principal"].token_id
        await send({"type": "http.response.body", "body": current.get().encode()})

    async def one(middleware: DoorkeyMiddleware, text: str) -> None:
        body = b""

        async def send(message: Message) -> None:
            nonlocal body
            body += message.get("body", b"")

        await asyncio.sleep(chance.random() / 100)
        await middleware(http("/messages", bearer(text)), nothing, send)
        assert body.decode() == ids[text] if text in ids else b"api_key_malformed" in body

    async def scenario() -> None:
        lookup = Threaded(house.store, threads=500) if threaded else None
        verifier = AsyncVerifier(lookup, house.secrets.digester()) if lookup else house.async_verifier
        middleware = DoorkeyMiddleware(app, verifier, policy=policy)
        wanted = [chance.choice([*ids, "nonsense"]) for _ in range(1000)]
        await asyncio.gather(*(one(middleware, text) for text in wanted))
        if lookup:
            lookup.close()

    asyncio.run(scenario())


# Websockets


class Socket:
    """The server's side of one websocket. After a close the application is told of the disconnection, as servers do."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.incoming: asyncio.Queue[Message] = asyncio.Queue()
        self.incoming.put_nowait({"type": "websocket.connect"})

    def says(self, text: str) -> None:
        self.incoming.put_nowait({"type": "websocket.receive", "text": text})

    def leaves(self) -> None:
        self.incoming.put_nowait({"type": "websocket.disconnect", "code": 1001})

    async def receive(self) -> Message:
        return await self.incoming.get()

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if message["type"] == "websocket.close":
            self.incoming.put_nowait({"type": "websocket.disconnect", "code": message["code"]})

    @property
    def types(self) -> list[str]:
        return [message["type"].removeprefix("websocket.") for message in self.sent]

    @property
    def close_codes(self) -> list[int]:
        return [message["code"] for message in self.sent if message["type"] == "websocket.close"]


class Echo:
    """A websocket application that echoes until the client is gone, and notes all that it was told."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.accepted = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            self.messages.append(message)
            match message["type"]:
                case "websocket.connect":
                    await send({"type": "websocket.accept"})
                    self.accepted.set()
                case "websocket.receive":
                    await send({"type": "websocket.send", "text": message["text"]})
                case _:
                    return

    @property
    def heard(self) -> list[str]:
        return [message["text"] for message in self.messages if "text" in message]


@asynccontextmanager
async def connected(
    verifier: AsyncVerifier, scope: Scope, app: Any = None, socket: Socket | None = None, policy: Policy = POLICY
) -> AsyncIterator[tuple[Any, Socket, asyncio.Task[None]]]:
    """An open websocket behind the middleware. Whatever happens in the block, no task outlives it."""
    app, socket = app or Echo(), socket or Socket()
    middleware = DoorkeyMiddleware(app, verifier, policy=policy, recheck=RECHECK)
    task = asyncio.create_task(middleware(scope, socket.receive, socket.send))
    try:
        async with asyncio.timeout(SOON):
            await app.accepted.wait()
            yield app, socket, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def some_rechecks() -> None:
    await asyncio.sleep(RECHECK * 4)


def reader_of(house: Doorkey) -> tuple[str, str]:
    """A key that may read messages: its id, and what sends it."""
    token = issue(house, permissions=["messages:read"])
    (key,) = [
        key
        for space in house.keyring.workspaces()
        for key in house.keyring.keys(space.id)
        if key.tokens[0].id == token.id
    ]
    return key.id, basic(token)


@pytest.mark.parametrize("extensions", [{"websocket.http.response": {}}, {}, None])
def test_a_refused_handshake(house: Doorkey, extensions: Any) -> None:
    """
    A websocket is refused before it is accepted: with our response, or a bare 403 where that is all (E5).

    Nothing is received first, because not all that calls an application sends ``websocket.connect``: Quart's test
    client does not.
    """
    app, socket = App(), Socket()
    middleware = DoorkeyMiddleware(app, house.async_verifier, policy=POLICY)
    asyncio.run(middleware(websocket(extensions=extensions), socket.receive, socket.send))
    assert app.scopes == [] and socket.incoming.qsize() == (1 if extensions else 2)
    if extensions:
        start, body = socket.sent
        assert (start["type"], start["status"]) == ("websocket.http.response.start", 401)
        assert (body["type"], b"api_key_missing" in body["body"]) == ("websocket.http.response.body", True)
    else:
        assert socket.sent == [{"type": "websocket.close", "code": 1008, "reason": ""}]


def test_a_handshake_without_extensions(house: Doorkey) -> None:
    """A server need not name any extensions."""
    socket = Socket()
    asyncio.run(DoorkeyMiddleware(App(), house.async_verifier, policy=POLICY)(websocket(), socket.receive, socket.send))
    assert socket.close_codes == [1008]


def test_an_open_websocket_is_judged_again(house: Doorkey) -> None:
    """While its key suffices, a websocket stays open through any number of judgements."""
    decisions: list[Decision] = []
    _, authorization = reader_of(house)

    async def scenario() -> None:
        verifier = watching(house, decisions.append)
        async with connected(verifier, websocket("/feed", authorization)) as (app, socket, task):
            for count, text in enumerate("abc", 2):
                while len(decisions) < count * 2:
                    await asyncio.sleep(RECHECK)
                socket.says(text)
            await some_rechecks()
            socket.leaves()
            await task
            assert app.heard == ["a", "b", "c"]
            assert socket.types == ["accept", "send", "send", "send"]

    asyncio.run(scenario())
    assert all(isinstance(decision, Granted) for decision in decisions)


def watching(house: Doorkey, on_decision: Callable[[Decision], object]) -> AsyncVerifier:
    """The verifier of a house, with somebody who hears of every decision."""
    return AsyncVerifier(Inline(house.store), house.secrets.digester(), clock=Clock(), on_decision=on_decision)


@pytest.mark.parametrize("change", ["revoke", "reissue", "restrict", "network", "suspend", "expire", "roll"])
def test_a_websocket_is_closed_with_its_key(change: str) -> None:
    """Whatever would refuse a new handshake closes an open websocket with 1008, and soon (E9)."""
    clock = Clock()
    house = door(clock=clock)
    id, authorization = reader_of(house)
    ring = house.keyring.acting("ann")
    ring.set_expiry(id, int(clock.now) + 60)
    changes: dict[str, Callable[[], object]] = {
        "revoke": lambda: ring.revoke(id, because="leaked"),
        "reissue": lambda: ring.reissue(id, because="leaked"),
        "restrict": lambda: ring.restrict(id, permissions=["charges"]),
        "network": lambda: ring.restrict(id, networks=["192.0.2.0/24"]),
        "suspend": lambda: ring.suspend(ring.key(id).workspace),
        "expire": lambda: clock.advance(60),
        "roll": lambda: ring.roll(id, grace=0),
    }

    async def scenario() -> None:
        scope = websocket("/feed", authorization, client=("203.0.113.7", 1))
        async with connected(house.async_verifier, scope) as (app, socket, task):
            await some_rechecks()
            assert socket.types == ["accept"]
            changes[change]()
            await task
            assert socket.close_codes == [1008]
            assert app.messages[-1] == {"type": "websocket.disconnect", "code": 1008, "reason": ""}

    asyncio.run(scenario())


def test_the_address_is_judged_again(house: Doorkey) -> None:
    """A websocket whose key is bound to a network stays open for the address that it was opened from."""
    token = issue(house, networks=["203.0.113.0/24"])

    async def scenario() -> None:
        scope = websocket("/feed", basic(token), client=("203.0.113.7", 1))
        async with connected(house.async_verifier, scope) as (_, socket, _):
            await some_rechecks()
            assert socket.types == ["accept"]

    asyncio.run(scenario())


def test_a_store_that_goes_away_closes_with_1013(house: Doorkey) -> None:
    """Where no verdict can be reached any more, a websocket is closed with "try again later" and nothing stays open."""
    token = issue(house)
    broken = False

    class Lookup:
        async def find(self, digests: Sequence[bytes]) -> Record | None:
            if broken:
                raise StoreUnavailable("the disk is gone")
            return house.store.find(digests)

    async def scenario() -> None:
        nonlocal broken
        async with connected(AsyncVerifier(Lookup(), house.secrets.digester()), websocket("/feed", basic(token))) as (
            _,
            socket,
            task,
        ):
            broken = True
            await task
            assert socket.close_codes == [1013]

    asyncio.run(scenario())


def test_judging_that_raises_closes_with_1011(house: Doorkey, caplog: pytest.LogCaptureFixture) -> None:
    """What a hook raises while a websocket is judged again closes it, and is logged."""
    token = issue(house)
    broken = False

    def hook(decision: Decision) -> None:
        if broken:
            raise LookupError("the hook is broken")

    async def scenario() -> None:
        nonlocal broken
        async with connected(watching(house, hook), websocket("/feed", basic(token))) as (_, socket, task):
            broken = True
            await task
            assert socket.close_codes == [1011]

    asyncio.run(scenario())
    (record,) = caplog.records
    assert record.name == "doorkey" and record.exc_info is not None and record.exc_info[0] is LookupError
    assert token.expose() not in caplog.text


def test_judging_that_is_cancelled_leaves_nothing_open(house: Doorkey) -> None:
    """
    A lookup whose threads were closed cancels whoever waits for it. A websocket that can so never be judged again is
    cut off all the same, though nobody is left to say goodbye.
    """
    token = issue(house)
    broken, cancelled = False, asyncio.Event()

    class Lookup:
        async def find(self, digests: Sequence[bytes]) -> Record | None:
            if broken:
                cancelled.set()
                raise asyncio.CancelledError
            return house.store.find(digests)

    async def scenario() -> None:
        nonlocal broken
        async with connected(AsyncVerifier(Lookup(), house.secrets.digester()), websocket("/feed", basic(token))) as (
            app,
            socket,
            task,
        ):
            broken = True
            await cancelled.wait()
            await some_rechecks()
            socket.says("anybody there?")
            await task
            assert app.heard == []
            assert app.messages[-1] == {"type": "websocket.disconnect", "code": 1011, "reason": ""}

    asyncio.run(scenario())


def test_a_client_that_reads_nothing_gains_nothing(house: Doorkey) -> None:
    """Where the close cannot be sent, because the client does not read, what it goes on sending reaches nobody."""
    id, authorization = reader_of(house)

    class Stuck(Socket):
        async def send(self, message: Message) -> None:
            await super().send({"type": "websocket.accept"} if message["type"] == "websocket.close" else message)
            if message["type"] == "websocket.close":
                closing.set()
                await asyncio.sleep(3600)

    closing = asyncio.Event()

    async def scenario() -> None:
        async with connected(house.async_verifier, websocket("/feed", authorization), socket=Stuck()) as (
            app,
            socket,
            task,
        ):
            socket.says("before")
            await some_rechecks()
            house.keyring.acting("ann").revoke(id, because="leaked")
            await closing.wait()
            socket.says("after")
            await task
            assert app.heard == ["before"]
            assert app.messages[-1]["type"] == "websocket.disconnect"

    asyncio.run(scenario())


def test_sending_on_a_closed_websocket_raises(house: Doorkey) -> None:
    """Once doorkey has closed a websocket, the application's next message raises OSError, as after a disconnection."""
    id, authorization = reader_of(house)
    raised: list[BaseException] = []

    class Ticker:
        def __init__(self) -> None:
            self.accepted = asyncio.Event()

        async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
            await send({"type": "websocket.accept"})
            self.accepted.set()
            try:
                while True:
                    await send({"type": "websocket.send", "text": "tick"})
                    await asyncio.sleep(RECHECK / 4)
            except OSError as error:
                raised.append(error)
                raise

    async def scenario() -> None:
        async with connected(house.async_verifier, websocket("/feed", authorization), Ticker()) as (_, socket, task):
            house.keyring.acting("ann").revoke(id, because="leaked")
            with pytest.raises(OSError, match="no longer suffices"):
                await task
            assert socket.types[-1] == "close" and socket.types.count("close") == 1

    asyncio.run(scenario())
    assert len(raised) == 1


def test_a_close_that_comes_too_late(house: Doorkey) -> None:
    """Where the application has closed already and lingers, a server's complaint about our close harms nobody."""
    id, authorization = reader_of(house)
    complained = asyncio.Event()

    class Strict(Socket):
        async def send(self, message: Message) -> None:
            if self.close_codes:
                complained.set()
                raise RuntimeError("Unexpected ASGI message")
            await super().send(message)

    class Lingering:
        def __init__(self) -> None:
            self.accepted = asyncio.Event()

        async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close", "code": 1000})
            self.accepted.set()
            await complained.wait()

    async def scenario() -> None:
        async with connected(house.async_verifier, websocket("/feed", authorization), Lingering(), Strict()) as (
            _,
            socket,
            task,
        ):
            house.keyring.acting("ann").revoke(id, because="leaked")
            await task
            assert socket.close_codes == [1000]

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [ValueError("mine"), asyncio.CancelledError()])
def test_a_websocket_application_that_raises(house: Doorkey, error: BaseException) -> None:
    """The application's exception reaches the server, and the watch over its websocket ends with it."""
    token = issue(house)

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await asyncio.sleep(RECHECK * 2)
        raise error

    async def scenario() -> None:
        middleware = DoorkeyMiddleware(app, house.async_verifier, policy=POLICY, recheck=RECHECK)
        with pytest.raises(type(error)):
            await middleware(websocket("/feed", basic(token)), nothing, swallow)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())


def test_a_server_that_shuts_down(house: Doorkey) -> None:
    """A server that cancels an open websocket ends application and watch; the cancellation comes out again."""
    ended: list[str] = []
    token = issue(house)

    class Waiting(Echo):
        async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
            try:
                await super().__call__(scope, receive, send)
            finally:
                ended.append("application")

    async def scenario() -> None:
        async with connected(house.async_verifier, websocket("/feed", basic(token)), Waiting()) as (_, socket, task):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert socket.types == ["accept"]
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())
    assert ended == ["application"]


def test_a_client_that_leaves(house: Doorkey) -> None:
    """A websocket that its client leaves is not closed once more, and nobody watches it any longer."""
    token = issue(house)

    async def scenario() -> None:
        async with connected(house.async_verifier, websocket("/feed", basic(token))) as (app, socket, task):
            socket.leaves()
            await task
            await some_rechecks()
            assert app.messages[-1] == {"type": "websocket.disconnect", "code": 1001}
            assert socket.types == ["accept"]

    asyncio.run(scenario())


def test_an_open_websocket_path_is_not_watched(house: Doorkey) -> None:
    """A websocket that needs no key has nothing that could be judged again, and none of our tasks."""

    async def scenario() -> None:
        async with connected(house.async_verifier, websocket("/pulse")) as (app, socket, task):
            assert asyncio.all_tasks() == {asyncio.current_task(), task}
            socket.says("hello")
            await some_rechecks()
            socket.leaves()
            await task
            assert app.heard == ["hello"]

    asyncio.run(scenario())


# Routers behind the middleware


def reached(name: str, notes: list[str]) -> Callable[[Request], Awaitable[PlainTextResponse]]:
    async def endpoint(request: Request) -> PlainTextResponse:
        notes.append(name)
        return PlainTextResponse(str(request.state.principal and request.state.principal.token_id))

    return endpoint


def starlette_site(notes: list[str]) -> Starlette:
    inner = Starlette(routes=[Route("/keys", reached("admin", notes)), Route("/{rest:path}", reached("admin", notes))])
    return Starlette(
        routes=[
            Route("/healthz", reached("healthz", notes)),
            Route("/admin", reached("admin", notes)),
            Mount("/admin", inner),
            Route("/about", reached("about", notes)),
        ]
    )


def test_no_target_reaches_what_is_closed(house: Doorkey, table: Any, wire: Any) -> None:
    """Without a key, no disguise of a path gets past the middleware: what is open is so in its one spelling (E2)."""
    notes: list[str] = []
    app = App()
    assert len(table.TARGETS) >= 200
    for inner in (app, starlette_site(notes)):
        middleware = DoorkeyMiddleware(inner, house.async_verifier, policy=Policy([Rule.open("GET", "/healthz")]))
        for target in table.TARGETS:
            scope = wire.scope_of(table.Row(target, target=target), {})
            answer = wire.over_asgi(middleware, scope)
            assert (answer.status == 200) is (scope["path"] == "/healthz"), target
    assert {scope["path"] for scope in app.scopes} == {"/healthz"}
    assert set(notes) == {"healthz"}


def test_no_target_slips_into_what_lies_within(house: Doorkey, table: Any, wire: Any) -> None:
    """Of a site whose API alone needs keys, no disguise of a path reaches the API, whatever the router makes of it."""
    notes: list[str] = []
    middleware = DoorkeyMiddleware(starlette_site(notes), house.async_verifier, policy=Policy(within="/admin"))
    for target in (*table.TARGETS, "/about"):
        wire.over_asgi(middleware, wire.scope_of(table.Row(target, target=target), {}))
    assert set(notes) == {"healthz", "about"}


def test_a_host_that_makes_an_open_url(house: Doorkey, table: Any, wire: Any) -> None:
    """The URL that a framework puts together from the Host field opens nothing (E1)."""
    notes: list[str] = []
    middleware = DoorkeyMiddleware(
        starlette_site(notes), house.async_verifier, policy=Policy([Rule.open("GET", "/healthz")])
    )
    host = "h/healthz?x="
    assert urlsplit(f"http://{host}/admin").path == "/healthz"
    row = table.Row("bad host", target="/admin", headers=(("Host", host),))
    assert wire.over_asgi(middleware, wire.scope_of(row, {})).status == 401
    assert notes == []


def test_mounts(house: Doorkey, ask: Any) -> None:
    """A mounted application sees the same rules, protected inside as outside, at any depth (E7)."""
    notes: list[str] = []
    token = basic(issue(house, permissions=["messages:read"]))
    api = Starlette(
        routes=[Route("/messages", reached("messages", notes)), Route("/healthz", reached("healthz", notes))]
    )
    protected = DoorkeyMiddleware(api, house.async_verifier, policy=POLICY)
    site = Starlette(routes=[Mount("/shop", Starlette(routes=[Mount("/v1", protected)])), Mount("/v2", protected)])
    for prefix in ("/shop/v1", "/v2"):
        assert ask(site, http(f"{prefix}/messages", token, root_path="")).status == 200
        assert ask(site, http(f"{prefix}/messages", root_path="")).status == 401
        assert ask(site, http(f"{prefix}/healthz", root_path="")).status == 200
        assert ask(site, http(f"{prefix}//healthz", root_path="")).status == 401
    assert notes == ["messages", "healthz"] * 2
    whole = DoorkeyMiddleware(site, house.async_verifier, policy=Policy([Rule.open("GET", "/healthz")]))
    assert ask(whole, http("/v2/healthz", root_path="")).status == 401
    assert ask(whole, http("/proxy/v2/healthz", root_path="/proxy")).status == 401
    assert notes == ["messages", "healthz"] * 2


def test_two_middlewares(house: Doorkey, ask: Any) -> None:
    """Where one stands inside another, both judge, and the application sees what the inner one found."""
    app, other = App(), door()
    inner = DoorkeyMiddleware(app, other.async_verifier, policy=POLICY)
    outer = DoorkeyMiddleware(inner, house.async_verifier, policy=POLICY)
    assert ask(outer, http("/messages", basic(issue(house)))).status == 401
    assert ask(outer, http("/messages", basic(issue(other)))).status == 401
    assert ask(outer, http("/healthz")).status == 200
    assert app.principals == [None]


def test_cors_stands_outside(house: Doorkey, ask: Any) -> None:
    """A CORS middleware outside answers preflights, and gives our refusals what lets a script read them (E8)."""
    app = App()
    protected = DoorkeyMiddleware(app, house.async_verifier, policy=POLICY)
    site = CORSMiddleware(protected, allow_origins=["https://shop.example"], allow_headers=["authorization"])
    origin = (b"origin", b"https://shop.example")
    preflight = [
        origin,
        (b"access-control-request-method", b"GET"),
        (b"access-control-request-headers", b"authorization"),
    ]
    assert ask(site, http(method="OPTIONS", headers=preflight)).status == 200
    assert ask(protected, http(method="OPTIONS", headers=preflight)).status == 401
    refused = ask(site, http(headers=[origin]))
    headers = dict(refused.headers)
    assert (refused.status, headers["access-control-allow-origin"]) == (401, "https://shop.example")
    assert headers["www-authenticate"].startswith("Bearer")
    assert app.scopes == []


def test_the_wrong_verifier_is_refused_when_built(house: Doorkey) -> None:
    """A synchronous verifier is of no use here, and that is said before the first request."""
    with pytest.raises(DoorkeyError, match=r"door\.async_verifier"):
        DoorkeyMiddleware(App(), house.verifier, policy=POLICY)  # type: ignore[arg-type]
