"""The Litestar adapter: the guard on each layer, what is not found, mounts, OpenAPI, and what is forgotten."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from litestar import (
    Controller,
    Litestar,
    MediaType,
    Request,
    Response,
    Router,
    WebSocket,
    asgi,
    get,
    post,
    put,
    websocket,
)
from litestar.config.cors import CORSConfig
from litestar.exceptions import NotFoundException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components
from litestar.params import JSONBody
from litestar.testing import TestClient

from doorkey import FALU, OPEN, Doorkey, KeyType, Mode, Policy, Requirement, Rule
from doorkey.adapters.litestar import DoorkeyMiddleware, DoorkeyPlugin, assert_protected, current_principal, requires
from doorkey.core.errors import ConfigurationError, InvalidPermission, InvalidPolicy
from doorkey.core.openapi import BASIC, BEARER, error_schema
from doorkey.core.verify import AsyncVerifier
from doorkey.storage.aio import Inline
from doorkey.storage.uses import UseLog
from doorkey.testing import basic, door, issue

AnyRequest = Request[Any, Any, Any]
entered: list[str] = []


@pytest.fixture(autouse=True)
def nobody_entered() -> None:
    """Each test begins with handlers that were not called."""
    entered.clear()


@get("/messages", guards=[requires("messages:read")])
async def messages(request: AnyRequest) -> dict[str, str]:
    """Who is asking."""
    entered.append("messages")
    principal = current_principal(request)
    return {"workspace": principal.workspace if principal else "", "key": principal.key if principal else ""}


@post("/messages", guards=[requires("messages:write", mode=Mode.TEST)])
async def send(data: JSONBody[dict[str, str]]) -> None:
    """A handler with a body."""
    entered.append("send")


@post("/tokens", guards=[requires("tokens:create", publishable=True)])
async def tokens() -> None:
    """For pages, too."""
    entered.append("tokens")


@get("/healthz", guards=[requires(OPEN)], sync_to_thread=False)
def healthz(request: AnyRequest) -> str:
    """Open, and not asynchronous."""
    return str(current_principal(request))


@get("/forgotten")
async def forgotten() -> None:
    """Nobody said what it requires."""
    entered.append("forgotten")


@get("/gone", guards=[requires(Requirement.ANY_KEY)])
async def gone() -> None:
    """A handler that finds nothing itself."""
    raise NotFoundException("this one is gone")


HANDLERS = [messages, send, tokens, healthz, forgotten, gone]


@pytest.fixture
def house() -> Doorkey:
    """A doorkey in memory."""
    return door()


def app_of(house: Doorkey, handlers: list[Any] | None = None, **fields: Any) -> Litestar:
    fields = {"openapi_config": None, "logging_config": None, **fields}
    return Litestar(HANDLERS if handlers is None else handlers, plugins=[DoorkeyPlugin(house.async_verifier)], **fields)


def ask(app: Litestar, method: str, path: str, key: Any = None, **fields: Any) -> httpx.Response:
    headers = {**fields.pop("headers", {}), **({} if key is None else {"Authorization": basic(key)})}
    with TestClient(app) as client:
        return client.request(method, path, headers=headers, **fields)


def code(response: httpx.Response) -> str:
    found: str = response.json()["error"]["code"]
    return found


def test_a_handler_finds_its_principal(house: Doorkey) -> None:
    """Who was let in is known to the handler; on open operations it is nobody, whatever was sent."""
    token = issue(house, permissions=["messages:read"])
    answer = ask(app_of(house), "GET", "/messages", token)
    (key,) = [key for key in house.keyring.keys(answer.json()["workspace"]) if key.name == "test"]
    assert (answer.status_code, answer.json()["key"]) == (200, key.id)
    assert ask(app_of(house), "GET", "/healthz", token).text == "None"


@pytest.mark.parametrize(
    ("method", "path", "permissions", "status", "reason"),
    [
        ("GET", "/messages", ["charges:read"], 403, "insufficient_permissions"),
        ("POST", "/messages", ["messages:read"], 403, "insufficient_permissions"),
        ("GET", "/forgotten", None, 403, "operation_undeclared"),
        ("GET", "/forgotten", ["*"], 403, "operation_undeclared"),
        ("GET", "/nowhere", ["*"], 403, "insufficient_permissions"),
        ("PUT", "/messages", ["*"], 403, "insufficient_permissions"),
        ("OPTIONS", "/messages", ["*"], 403, "insufficient_permissions"),
    ],
)
def test_refusals(
    house: Doorkey, method: str, path: str, permissions: list[str] | None, status: int, reason: str
) -> None:
    """What a handler requires is asked before it is called, and before its body is read; nothing declared is closed."""
    token = issue(house, permissions=permissions)
    for key, expected in ((None, (401, "api_key_missing")), (token, (status, reason))):
        answer = ask(app_of(house), method, path, key, content=b"no json")
        assert (answer.status_code, code(answer)) == expected
        assert answer.headers["request-id"]
    assert entered == []


def test_what_is_not_found(house: Doorkey) -> None:
    """Whoever may do all is answered by Litestar, whatever it says; a handler's own 404 is nobody else's business."""

    def not_found(request: AnyRequest, error: Exception) -> Response[str]:
        return Response("nothing here", status_code=404, media_type=MediaType.TEXT)

    everything, reader = issue(house), issue(house, permissions=["messages:read"])
    assert ask(app_of(house), "GET", "/nowhere", everything).json() == {"status_code": 404, "detail": "Not Found"}
    assert ask(app_of(house), "PUT", "/messages", everything).status_code == 405
    assert ask(app_of(house), "OPTIONS", "/messages", everything).status_code == 204
    assert ask(app_of(house), "GET", "/gone", reader).json()["detail"] == "this one is gone"
    for key in (404, NotFoundException, Exception):
        app = app_of(house, exception_handlers={key: not_found})
        assert ask(app, "GET", "/nowhere", everything).text == "nothing here"
        assert ask(app, "GET", "/gone", reader).text == "nothing here"
        assert ask(app, "GET", "/nowhere", reader).status_code == 403


def test_the_nearest_declaration_counts(house: Doorkey) -> None:
    """An application, a router, a controller and a handler can all declare; the one nearest to the handler holds."""

    class Charges(Controller):
        path = "/charges"
        guards = [requires("charges:read")]  # noqa: RUF012

        @get("/")
        async def all(self) -> None:
            entered.append("all")

        @get("/last", guards=[requires("charges:last")])
        async def last(self) -> None:
            entered.append("last")

    @get("/inner")
    async def inner() -> None:
        entered.append("inner")

    router = Router("/outer", route_handlers=[inner, Charges], guards=[requires(OPEN)])
    app = app_of(house, [router, forgotten], guards=[requires("all:read")])
    for path, permission in (
        ("/forgotten", "all:read"),
        ("/outer/charges", "charges:read"),
        ("/outer/charges/last", "charges:last"),
    ):
        for held, status in ((permission, 200), ("another", 403)):
            assert ask(app, "GET", path, issue(house, permissions=[held])).status_code == status
    assert ask(app, "GET", "/outer/inner").status_code == 200
    assert entered == ["forgotten", "all", "last", "inner"]


def test_other_guards_go_on(house: Doorkey) -> None:
    """What else an application guards its handlers with is asked as well, after the key was."""

    def refusing(connection: Any, handler: Any) -> None:
        raise NotFoundException("hidden")

    @get("/hidden", guards=[refusing, requires("messages:read")])
    async def hidden() -> None:
        entered.append("hidden")

    app = app_of(house, [hidden])
    assert ask(app, "GET", "/hidden").status_code == 401
    assert ask(app, "GET", "/hidden", issue(house)).json()["detail"] == "hidden"
    assert entered == []


def test_a_method_that_is_overridden(house: Doorkey) -> None:
    """Litestar looks at the method again after all middleware: another handler than was judged stays closed."""

    class Overriding:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            method = dict(scope["headers"]).get(b"x-method", scope["method"].encode())
            await self.app({**scope, "method": method.decode()}, receive, send)

    @get("/notes", guards=[requires(OPEN)])
    async def notes() -> str:
        return "open"

    @post("/notes", guards=[requires("notes:write")])
    async def declared() -> None:
        entered.append("declared")

    @put("/notes")
    async def undeclared() -> None:
        entered.append("undeclared")

    app = app_of(house, [notes, declared, undeclared], middleware=[Overriding])
    assert ask(app, "GET", "/notes").text == "open"
    for method in ("POST", "PUT"):
        assert ask(app, "GET", "/notes", headers={"X-Method": method}).status_code == 500
    assert entered == []


def test_no_handler_of_errors_runs_for_who_is_refused(house: Doorkey) -> None:
    """What an application answers where nothing is found is not even made before the verdict."""

    def not_found(request: AnyRequest, error: Exception) -> Response[str]:
        entered.append("not found")
        return Response("nothing here", status_code=404, media_type=MediaType.TEXT)

    assert ask(app_of(house, exception_handlers={404: not_found}), "GET", "/nowhere").status_code == 401
    assert entered == []


@pytest.mark.parametrize("path", ["/files/svc/messages", "/svcmessages"])
def test_a_prefix_at_the_wrong_place(house: Doorkey, path: str) -> None:
    """Litestar cuts a prefix out of a path wherever it stands, so no rule for the whole path counts."""

    @get("/messages")
    async def found() -> None:
        entered.append("found")

    policy = Policy([Rule("GET", "/files/{one}/{two}", "files:read"), Rule("GET", "/messages", "messages:read")])
    app = DoorkeyMiddleware(Litestar([found], logging_config=None), house.async_verifier, policy=policy)
    headers = {"Authorization": basic(issue(house, permissions=["files:read"]))}

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, root_path="/svc")
        async with httpx.AsyncClient(transport=transport, base_url="http://api.example") as client:
            return await client.get(path, headers=headers)

    assert asyncio.run(asked()).status_code == 403
    assert entered == []


@pytest.mark.parametrize("path", ["/api/payouts", "/apipayouts", "/api//payouts", "/svc/apipayouts"])
def test_below_a_mount_is_whatever_begins_with_it(house: Doorkey, path: str) -> None:
    """Litestar's router looks for no slash after the path of a mount, and so lies nothing of it outside."""

    @get("/payouts")
    async def payouts() -> None:
        raise AssertionError("nobody pays out without a key")

    inner: Any = Litestar([payouts], openapi_config=None, logging_config=None)

    @asgi("/api", is_mount=True, copy_scope=True)
    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        await inner(scope, receive, send)

    site = Litestar([mounted], openapi_config=None, logging_config=None)
    app: Any = DoorkeyMiddleware(site, house.async_verifier, policy=Policy(within="/api"))

    async def asked() -> int:
        transport = httpx.ASGITransport(app=app, root_path="/svc" if path.startswith("/svc") else "")
        async with httpx.AsyncClient(transport=transport, base_url="http://api.example") as client:
            return (await client.get(path)).status_code

    assert asyncio.run(asked()) == 401


def test_a_layer_says_once_what_it_requires(house: Doorkey) -> None:
    """Of two guards one would count, and nobody sees which."""
    twice = get("/x", guards=[requires("messages:read"), requires("messages:write")])

    async def handler() -> None:
        raise AssertionError("nobody asks")

    with pytest.raises(InvalidPolicy, match="two guards"):
        app_of(house, [twice(handler)])


def test_without_the_plugin_a_guarded_handler_is_closed(house: Doorkey) -> None:
    """A handler that declares something does not run where nothing judges, and says what is missing."""
    app = Litestar(HANDLERS, openapi_config=None, logging_config=None, debug=True)
    for path in ("/messages", "/healthz"):
        answer = ask(app, "GET", path, issue(house))
        assert answer.status_code == 500
    assert entered == []
    with pytest.raises(AssertionError, match="no DoorkeyPlugin"):
        assert_protected(app)

    @get("/", sync_to_thread=False)
    def asking(request: AnyRequest) -> str:
        with pytest.raises(ConfigurationError, match="no middleware"):
            current_principal(request)
        return "asked"

    assert ask(Litestar([asking], openapi_config=None, logging_config=None), "GET", "/").text == "asked"


def test_mounted_applications(house: Doorkey) -> None:
    """An ASGI application below a path is judged like a handler, on all its paths; undeclared it is closed."""

    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        entered.append(scope["path"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    app = app_of(
        house,
        [
            asgi("/files", is_mount=True, copy_scope=True, guards=[requires("files:read")])(mounted),
            asgi("/closed", is_mount=True, copy_scope=True)(mounted),
        ],
    )
    reader = issue(house, permissions=["files:read"])
    assert ask(app, "GET", "/files/a/b", reader).status_code == 204
    for path, key, status in (("/files/a", None, 401), ("/closed/a", reader, 403), ("/closed/a", issue(house), 403)):
        assert ask(app, "GET", path, key).status_code == status
    assert entered == ["/a/b/"]


def test_websockets(house: Doorkey) -> None:
    """A handshake is judged by what its handler declares; an open one is closed soon after its key was revoked."""

    @websocket("/feed", guards=[requires("messages:read")])
    async def feed(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        principal = current_principal(socket)
        await socket.send_text(principal.key if principal else "")
        while True:
            await socket.receive_text()

    @websocket("/closed")
    async def closed(socket: WebSocket[Any, Any, Any]) -> None:
        entered.append("closed")

    plugin = DoorkeyPlugin(house.async_verifier, recheck=0.05)
    app = Litestar([feed, closed], plugins=[plugin], openapi_config=None, logging_config=None)
    token = issue(house, permissions=["messages:read"])
    sent: list[dict[str, Any]] = []

    async def talk() -> None:
        """Until it is closed from our side."""
        incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        incoming.put_nowait({"type": "websocket.connect"})

        async def send(message: Any) -> None:
            sent.append(message)
            if message["type"] == "websocket.send":
                house.keyring.acting("ann").revoke(message["text"], because="a test")
            if message["type"] == "websocket.close":
                incoming.put_nowait({"type": "websocket.disconnect", "code": message["code"]})

        headers = [(b"authorization", basic(token).encode())]
        scope = {"type": "websocket", "path": "/feed", "headers": headers, "query_string": b"", "client": None}
        await app(scope, incoming.get, send)  # type: ignore[arg-type]

    asyncio.run(asyncio.wait_for(talk(), 10))
    assert [message["type"] for message in sent[:3]] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert sent[2]["code"] == 1008
    for path in ("/feed", "/closed"):
        with TestClient(app) as client, pytest.raises(Exception, match=r".*"):  # noqa: SIM117
            with client.websocket_connect(path):
                entered.append("accepted")
    assert entered == []


def test_cors_stands_outside(house: Doorkey) -> None:
    """A preflight never reaches us, and a page's script can read what a refusal says."""
    app = app_of(house, cors_config=CORSConfig(allow_origins=["https://shop.example"], allow_headers=["authorization"]))
    origin = {"Origin": "https://shop.example"}
    preflight = {**origin, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
    assert ask(app, "OPTIONS", "/messages", headers=preflight).status_code == 204
    refused = ask(app, "GET", "/messages", headers=origin)
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://shop.example")
    assert refused.headers.get_list("www-authenticate") == ['Bearer realm="API"']


def test_assert_protected_names_what_is_forgotten(house: Doorkey) -> None:
    """The handler that declares nothing, and the one that is open without being named; websockets and mounts, too."""

    @websocket("/pulse", guards=[requires(OPEN)])
    async def pulse(socket: WebSocket[Any, Any, Any]) -> None: ...

    @asgi("/files", is_mount=True, copy_scope=True)
    async def files(scope: Any, receive: Any, send: Any) -> None: ...

    with pytest.raises(AssertionError) as caught:
        assert_protected(app_of(house, [*HANDLERS, pulse, files]))
    assert str(caught.value) == (
        "GET /forgotten declares nothing; * /files declares nothing; GET /healthz is open: close it, or name it in "
        "open=; WEBSOCKET /pulse is open: close it, or name it in open="
    )
    assert_protected(app_of(house, [messages, healthz]), open=["GET /healthz"])


def test_assert_protected_asks_a_policy(house: Doorkey) -> None:
    """Under a policy it names the handlers that no rule describes, but for those that are others' business."""

    @get("/api/messages/{id:int}")
    async def one() -> None: ...

    @get("/api/forgotten")
    async def no_rule() -> None: ...

    @asgi("/api/files", is_mount=True, copy_scope=True)
    async def files(scope: Any, receive: Any, send: Any) -> None: ...

    @get("/page")
    async def page() -> None: ...

    policy = Policy([Rule("GET", "/api/messages/{id}", "messages:read"), Rule.open("GET", "/api/files")], within="/api")
    app = Litestar([one, no_rule, files, page], openapi_config=None, logging_config=None)
    with pytest.raises(AssertionError, match=r"^GET /api/forgotten declares nothing$"):
        assert_protected(DoorkeyMiddleware(app, house.async_verifier, policy=policy), open=["* /api/files"])
    with pytest.raises(AssertionError, match="nor a policy"):
        assert_protected(app)


@pytest.mark.parametrize(
    ("words", "error"),
    [(("a b",), InvalidPermission), ((Requirement("a"), True), InvalidPolicy), ((OPEN, True), InvalidPolicy)],
)
def test_a_wrong_declaration_is_found_where_it_is_written(words: tuple[Any, ...], error: type[Exception]) -> None:
    """When the module is imported, not when the first request comes."""
    with pytest.raises(error):
        requires(words[0], publishable=len(words) > 1)


def test_many_at_once(house: Doorkey) -> None:
    """Each of many concurrent requests finds its own principal."""
    keys = [issue(house, permissions=["messages:read"]) for _ in range(10)]
    app = app_of(house)

    async def all() -> list[tuple[str, str]]:
        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://api.example") as client:

            async def one(number: int) -> tuple[str, str]:
                token = keys[number % 10]
                answer = await client.get("/messages", headers={"Authorization": basic(token)})
                return token.id, answer.json()["key"]

            return await asyncio.gather(*map(one, range(300)))

    pairs = asyncio.run(all())
    assert len(pairs) == 300 and len(set(pairs)) == 10


# The OpenAPI document


@pytest.mark.parametrize("components", [None, Components(), [Components()]])
@pytest.mark.parametrize("profile", [None, FALU])
def test_the_document(components: Any, profile: Any) -> None:
    """Both schemes, what each operation requires, its refusals and their body; an open one has none of it."""
    house = door() if profile is None else door(profile=profile)
    config = OpenAPIConfig(
        "Messages", "1", openapi_router=Router("/schema", route_handlers=[], guards=[requires(OPEN)])
    )
    if components is not None:
        config.components = components
    app = app_of(house, openapi_config=config)
    document = ask(app, "GET", "/schema/openapi.json").json()
    schemes = document["components"]["securitySchemes"]
    assert {name: scheme["scheme"] for name, scheme in schemes.items()} == {BASIC: "basic", BEARER: "bearer"}
    reading = document["paths"]["/messages"]["get"]
    assert reading["security"] == [{BASIC: ["messages:read"]}, {BEARER: ["messages:read"]}]
    assert {"200", "401", "403", "503"} <= set(reading["responses"])
    assert "WWW-Authenticate" in reading["responses"]["401"]["headers"]
    media = "application/json" if profile is None else "application/problem+json"
    assert reading["responses"]["403"]["content"][media]["schema"] == error_schema(house.profile)
    healthy = document["paths"]["/healthz"]["get"]
    assert "security" not in healthy and "401" not in healthy["responses"]


def test_the_document_is_closed_unless_it_is_declared(house: Doorkey) -> None:
    """The pages that Litestar adds by itself are no exception."""
    app = app_of(house, openapi_config=OpenAPIConfig("Messages", "1"))
    assert ask(app, "GET", "/schema/openapi.json").status_code == 401
    assert ask(app, "GET", "/schema/openapi.json", issue(house)).status_code == 403


def test_publishable_keys_and_modes(house: Doorkey) -> None:
    """All the words of a declaration reach the verdict."""
    page = issue(house, type=KeyType.PUBLISHABLE)
    assert ask(app_of(house), "POST", "/tokens", page).status_code == 201
    assert code(ask(app_of(house), "GET", "/messages", page)) == "secret_key_required"
    live = issue(house, mode=Mode.LIVE)
    assert code(ask(app_of(house), "POST", "/messages", live, json={})) == "livemode_mismatch"


def test_a_shutdown_waits_for_the_last_uses(house: Doorkey) -> None:
    """They are written before the server ends, which may be by a signal."""
    uses = UseLog(house.store)
    verifier = AsyncVerifier(Inline(house.store), house.secrets.digester(), on_decision=uses)
    token = issue(house)
    with TestClient(Litestar(HANDLERS, plugins=[DoorkeyPlugin(verifier)], logging_config=None)) as client:
        assert client.get("/messages", headers={"Authorization": basic(token)}).status_code == 200
    (workspace,) = house.keyring.workspaces()
    used = [stored.last_used_at for key in house.keyring.keys(workspace.id) for stored in key.tokens]
    assert len([at for at in used if at is not None]) == 1
    uses.close()


def test_a_cached_response_is_the_own_keys(house: Doorkey) -> None:
    """Litestar keeps it by method, path and query, or as a handler says: none of them tells keys apart."""

    @get("/cached", cache=True, guards=[requires("messages:read")])
    async def cached(request: Request[Any, Any, Any]) -> str:
        principal = current_principal(request)
        assert principal is not None
        return principal.token_id

    @get("/built", cache=True, cache_key_builder=lambda _: "one for all", guards=[requires("messages:read")])
    async def built(request: Request[Any, Any, Any]) -> str:
        principal = current_principal(request)
        assert principal is not None
        return principal.token_id

    @get("/open", cache=True, guards=[requires(OPEN)])
    async def counted() -> str:
        calls.append("open")
        return "open"

    calls: list[str] = []
    one, other = issue(house), issue(house, permissions=["messages:read"])
    with TestClient(app_of(house, [cached, built, counted])) as client:
        for path in ("/cached", "/built"):
            for token in (one, other, one):
                assert client.get(path, headers={"Authorization": basic(token)}).text == token.id
            assert client.get(path).status_code == 401
        for token in (one, other):
            assert client.get("/open", headers={"Authorization": basic(token)}).text == "open"
    assert calls == ["open"]
