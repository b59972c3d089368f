"""FastAPI: the security dependency, the decorator, what is judged before the body is read, and the OpenAPI document."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Body, Depends, FastAPI, HTTPException, Request, Security, WebSocket
from fastapi.responses import PlainTextResponse
from fastapi.security import APIKeyCookie
from openapi_spec_validator import validate
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

from doorkey import FALU, OPEN, PER_ROUTE, Doorkey, DoorkeyError, KeyType, Mode, Policy, Principal, Requirement, Rule
from doorkey.adapters.fastapi import (
    ApiKey,
    CurrentPrincipal,
    DoorkeyMiddleware,
    assert_protected,
    current_principal,
    describe,
    protect,
    requires,
)
from doorkey.core.errors import ConfigurationError
from doorkey.testing import basic, door, issue
from tests.adapters import wire
from tests.adapters.asking import ask, crowd, verdict

api_key = ApiKey()
creating = ApiKey("tokens:create", publishable=True, mode=Mode.TEST)
Reader = Annotated[Principal, Security(api_key, scopes=["messages:read"])]


async def tenant_of(principal: Reader) -> str:
    return principal.token_id


async def bare_reader(principal: Reader) -> str:
    return principal.token_id


@pytest.fixture
def house() -> Doorkey:
    """A doorkey in memory."""
    return door()


@pytest.fixture
def app(house: Doorkey) -> FastAPI:
    """An application to add operations to."""
    app = FastAPI()
    protect(app, house.async_verifier)
    return app


def answered(app: Any, *arguments: Any, **fields: Any) -> Any:
    """The JSON that *app* answers."""
    return json.loads(ask(app, *arguments, **fields).body)


# Declarations


def test_a_dependency_declares_and_hands_over(house: Doorkey, app: FastAPI) -> None:
    """Scopes are permissions; without any, an unrestricted key is needed; the rest is said to ``ApiKey``."""

    @app.get("/messages")
    async def messages(principal: Reader) -> str:
        return principal.token_id

    @app.get("/all")
    def everything(principal: Annotated[Principal, Security(api_key)]) -> str:
        return principal.token_id

    @app.get("/ping")
    async def ping(principal: Annotated[Principal, Depends(ApiKey(Requirement.ANY_KEY))]) -> str:
        return principal.token_id

    @app.post("/tokens")
    async def tokens(principal: Annotated[Principal, Security(creating, scopes=["tokens:read"])]) -> str:
        return principal.token_id

    reader = issue(house, permissions=["messages:read"])
    publishable, live = issue(house, type=KeyType.PUBLISHABLE), issue(house, mode=Mode.LIVE)
    assert answered(app, "/messages", reader) == reader.id
    assert verdict(app, "/messages") == "api_key_missing"
    assert verdict(app, "/messages", publishable) == "secret_key_required"
    assert verdict(app, "/messages", reader, method="POST") == "insufficient_permissions"
    assert verdict(app, "/all", reader) == "insufficient_permissions"
    assert answered(app, "/all", live) == live.id
    assert answered(app, "/ping", publishable) == publishable.id
    assert answered(app, "/tokens", publishable, method="POST") == publishable.id
    assert verdict(app, "/tokens", live, method="POST") == "livemode_mismatch"
    partly = issue(house, permissions=["tokens:create"])
    assert verdict(app, "/tokens", partly, method="POST") == "insufficient_permissions"


def test_scopes_add_up(house: Doorkey, app: FastAPI) -> None:
    """From one dependency to the next, as FastAPI has it."""

    @app.get("/nested")
    async def nested(tenant: Annotated[str, Security(tenant_of, scopes=["charges:read"])]) -> str:
        return tenant

    token = issue(house, permissions=["messages:read", "charges:read"])
    assert answered(app, "/nested", token) == token.id
    assert verdict(app, "/nested", issue(house, permissions=["messages:read"])) == "insufficient_permissions"


def test_a_router_declares_for_all(house: Doorkey, app: FastAPI) -> None:
    """Its own dependencies, and those that it is included with; the operation takes the principal as it comes."""
    inner = APIRouter(dependencies=[Security(api_key, scopes=["charges:read"])])

    @inner.get("/charges/{id}")
    async def charge(id: int, principal: CurrentPrincipal) -> str:
        return principal.token_id

    plain = APIRouter(prefix="/plain")

    @plain.get("/one")
    async def one(principal: CurrentPrincipal) -> str:
        return principal.token_id

    mounted = FastAPI(openapi_url=None)
    mounted.get("/messages")(bare_reader)
    outer = APIRouter()
    outer.include_router(inner, prefix="/v1")
    outer.mount("/mounted", mounted)
    app.include_router(outer, prefix="/api")
    app.include_router(plain, prefix="/read", dependencies=[Security(api_key, scopes=["messages:read"])])
    app.include_router(plain, prefix="/forgotten")
    reader, charger = issue(house, permissions=["messages:read"]), issue(house, permissions=["charges:read"])
    assert answered(app, "/api/v1/charges/7", charger) == charger.id
    assert verdict(app, "/api/v1/charges/7", reader) == "insufficient_permissions"
    assert answered(app, "/api/mounted/messages", reader) == reader.id
    assert answered(app, "/read/plain/one", reader) == reader.id
    assert verdict(app, "/read/plain/one", charger) == "insufficient_permissions"
    assert verdict(app, "/forgotten/plain/one", issue(house)) == "operation_undeclared"
    assert verdict(app, "/api/v1/charges/7", charger, method="DELETE") == "insufficient_permissions"
    assert verdict(app, "/api/v1/charges/7", issue(house), method="DELETE") == 405
    with pytest.raises(AssertionError, match="GET /forgotten/plain/one declares nothing"):
        assert_protected(app)


def test_the_decorator_declares(house: Doorkey, app: FastAPI) -> None:
    """On functions of every kind, without a parameter of their own, and on methods; also what is open."""

    @app.get("/async")
    @requires("messages:read")
    async def asynchronous(principal: CurrentPrincipal, limit: int = 1) -> str:
        return principal.token_id * limit

    @app.get("/sync")
    @requires("messages:read")
    def synchronous(principal: CurrentPrincipal) -> str:
        return principal.token_id

    @app.get("/lines")
    @requires("messages:read")
    async def lines(principal: CurrentPrincipal) -> AsyncIterator[str]:
        yield principal.token_id

    @app.get("/more-lines")
    @requires("messages:read")
    def more_lines(principal: CurrentPrincipal) -> Iterator[str]:
        yield principal.token_id

    @app.get("/healthz")
    @requires(OPEN)
    def healthz(request: Request) -> str:
        return str(current_principal(request))

    class Service:
        @requires("messages:read")
        async def answer(self, principal: CurrentPrincipal) -> str:
            return principal.token_id

    app.get("/method")(Service().answer)
    app.get("/bound")(requires("messages:read")(Unbound().answer))
    reader, other = issue(house, permissions=["messages:read"]), issue(house, permissions=["charges:read"])
    for path in ("/async", "/sync", "/lines", "/more-lines", "/method", "/bound"):
        assert answered(app, path, reader) == reader.id
        assert verdict(app, path, other) == "insufficient_permissions"
        assert verdict(app, path) == "api_key_missing"
    assert answered(app, "/async?limit=2", reader) == reader.id * 2
    assert answered(app, "/healthz") == "None"


class Unbound:
    def answer(self, principal: CurrentPrincipal) -> str:
        return principal.token_id


def test_a_declaration_is_one(house: Doorkey) -> None:
    """Two words about one operation are refused when the application starts, whoever said them."""

    async def twice(principal: Reader) -> None:
        raise AssertionError("it declares twice")

    both = APIRouter(dependencies=[Security(ApiKey(), scopes=["charges:read"])])
    both.get("/twice")(twice)
    app = FastAPI()
    app.include_router(both)
    for one in (app, FastAPI(routes=app.routes)):
        with pytest.raises(DoorkeyError, match="declares twice"):
            protect(one, house.async_verifier)
    late = FastAPI()
    protect(late, house.async_verifier)
    late.get("/decorated")(requires(OPEN)(twice))
    with pytest.raises(DoorkeyError, match="declares twice"):
        ask(late, "/decorated", issue(house))
    with pytest.raises(DoorkeyError, match="declares twice"):
        requires(OPEN)(requires(OPEN)(twice))
    with pytest.raises(DoorkeyError, match=r"requires\(OPEN\)"):
        ApiKey(OPEN)  # type: ignore[arg-type]
    with pytest.raises(DoorkeyError, match="one of these alone"):
        ApiKey(Requirement.ANY_KEY).requirement(["messages:read"])


def test_the_same_words_again_are_one_declaration(house: Doorkey, app: FastAPI) -> None:
    """A router and its operation may name the very same dependency with the very same scopes."""
    router = APIRouter(dependencies=[Security(api_key, scopes=["messages:read"])])

    @router.get("/same")
    async def same(principal: Reader) -> str:
        return principal.token_id

    app.include_router(router)
    token = issue(house, permissions=["messages:read"])
    assert answered(app, "/same", token) == token.id


def test_an_operation_without_declaration_is_closed(house: Doorkey, app: FastAPI) -> None:
    """Also FastAPI's own pages, a mounted application and its pages, a plain route, and a websocket."""

    @app.get("/bare")
    async def bare() -> None:
        raise AssertionError("an operation without declaration was called")

    @app.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        raise AssertionError("an operation without declaration was called")

    @app.get("/other")
    async def other(key: Annotated[str, Security(APIKeyCookie(name="session", auto_error=False))]) -> None:
        raise AssertionError("an operation without declaration was called")

    inner = FastAPI()
    inner.get("/bare")(bare)
    app.mount("/inner", inner)
    app.add_route("/plain", bare)  # type: ignore[arg-type]
    token = issue(house)
    for path in (
        *("/bare", "/other", "/inner/bare", "/plain"),
        *("/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc", "/inner/docs", "/inner/openapi.json"),
    ):
        assert verdict(app, path, token) == "operation_undeclared", path
        assert verdict(app, path) == "api_key_missing"
    assert verdict(app, "/socket", token, websocket=True) == "operation_undeclared"
    with pytest.raises(AssertionError) as raised:
        assert_protected(app)
    assert len(str(raised.value).split("; ")) == 13


def test_no_route_is_for_those_who_may_do_all(house: Doorkey, app: FastAPI, tmp_path: Path) -> None:
    """A frontend is no route to FastAPI; mounted, its files can be opened."""
    (tmp_path / "index.html").write_text("hello")
    app.frontend("/site", directory=tmp_path)
    app.mount("/open", requires(OPEN)(StaticFiles(directory=tmp_path, html=True)))
    assert verdict(app, "/site/index.html") == "api_key_missing"
    assert verdict(app, "/site/index.html", issue(house, permissions=["messages"])) == "insufficient_permissions"
    assert ask(app, "/site/index.html", issue(house)).body == b"hello"
    assert ask(app, "/open/index.html").body == b"hello"


def test_websockets(house: Doorkey, app: FastAPI) -> None:
    """By dependency or decorator, denied before they are accepted."""

    @app.websocket("/feed")
    async def feed(websocket: WebSocket, principal: Reader) -> None:
        await websocket.accept()

    @app.websocket("/decorated")
    @requires("messages:read")
    async def decorated(websocket: WebSocket, principal: CurrentPrincipal) -> None:
        assert current_principal(websocket) is principal
        await websocket.accept()

    included = APIRouter(dependencies=[Security(api_key, scopes=["charges:read"])])

    @included.websocket("/charges")
    async def charges(websocket: WebSocket) -> None:
        await websocket.accept()

    app.include_router(included)
    reader = issue(house, permissions=["messages:read"])
    for path in ("/feed", "/decorated"):
        assert ask(app, path, reader, websocket=True).status == 101
        denied = ask(app, path, websocket=True)
        assert (denied.status, json.loads(denied.body)["error"]["code"]) == (401, "api_key_missing")
        assert ask(app, path, websocket=True, denial=False).close_code == 1008
    assert verdict(app, "/charges", reader, websocket=True) == "insufficient_permissions"
    assert ask(app, "/charges", issue(house), websocket=True).status == 101


# When, and by whom


def test_nothing_is_read_of_who_is_refused(house: Doorkey, app: FastAPI) -> None:
    """The body is not awaited, dependencies do not run, and values are not validated before the key is (E11)."""
    ran: list[str] = []

    async def first() -> None:
        ran.append("first")

    @app.post("/messages/{id}", dependencies=[Depends(first)])
    async def create(id: int, text: Annotated[str, Body()], principal: Reader) -> None:
        ran.append("create")

    async def receive() -> wire.Message:
        raise AssertionError("nothing may be read of who is refused")

    async def asked(path: str, authorization: str) -> int:
        sent: list[int] = []

        async def send(message: wire.Message) -> None:
            sent.append(message.get("status", 0))

        headers = [(b"authorization", authorization.encode()), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
        await app(scope, receive, send)
        return sent[0]

    for path in ("/messages/7", "/messages/seven"):
        assert asyncio.run(asked(path, "")) == 401
        assert asyncio.run(asked(path, basic(issue(house, permissions=["charges"])))) == 403
    assert ran == []
    assert ask(app, "/messages/seven", issue(house), method="POST").status == 422
    assert ran == ["first"]


def test_error_handlers_see_no_refusal(house: Doorkey) -> None:
    """The body is the profile's, whatever an application makes of errors, and of its own 401."""
    app = FastAPI()

    @app.exception_handler(HTTPException)
    async def handler(request: Request, error: HTTPException) -> PlainTextResponse:
        return PlainTextResponse("ours", error.status_code)

    @app.get("/messages")
    async def messages(principal: Reader) -> None:
        raise HTTPException(401)

    protect(app, house.async_verifier)
    answer = ask(app, "/messages")
    assert [name for name, _ in answer.headers].count("www-authenticate") == 2
    assert verdict(app, "/messages") == "api_key_missing"
    assert (ask(app, "/messages", method="HEAD").status, ask(app, "/messages", method="HEAD").body) == (401, b"")
    assert ask(app, "/messages", issue(house)).body == b"ours"


def test_the_forgotten_middleware(house: Doorkey) -> None:
    """What declares stays closed where nothing judges, or a policy does."""

    async def reads(principal: Reader) -> None:
        raise AssertionError("nobody judged it")

    @requires(OPEN)
    async def opened() -> None:
        raise AssertionError("nobody judged it")

    async def principal(principal: CurrentPrincipal) -> None:
        raise AssertionError("nobody judged it")

    for policy in (None, Policy()):
        app = FastAPI()
        app.get("/reads")(reads)
        app.get("/open")(opened)
        if policy is not None:
            protect(app, house.async_verifier, policy=policy)
        for path in ("/reads", "/open"):
            with pytest.raises(ConfigurationError, match="PER_ROUTE"):
                ask(app, path, issue(house))
    app = FastAPI()
    app.get("/principal")(principal)
    with pytest.raises(ConfigurationError, match="has judged"):
        ask(app, "/principal", issue(house))
    app.add_route("/starlette", opened)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        ask(app, "/starlette")


def test_an_open_operation_has_no_principal(app: FastAPI) -> None:
    """Whoever takes one there hears what to take instead."""

    @app.get("/open")
    @requires(OPEN)
    async def opened(principal: CurrentPrincipal) -> None:
        raise AssertionError("it has no principal")

    with pytest.raises(ConfigurationError, match="current_principal"):
        ask(app, "/open")


def test_doorkey_stands_innermost(house: Doorkey, app: FastAPI) -> None:
    """Whatever middleware is added, before or after; and not where it could not be."""

    @app.middleware("http")
    async def rewriting(request: Request, call_next: Any) -> Any:
        request.scope["path"] = "/bare"
        return await call_next(request)

    @app.get("/bare")
    async def bare() -> None:
        raise AssertionError("an operation without declaration was called")

    app.get("/messages")(bare_reader)
    assert verdict(app, "/messages", issue(house)) == "operation_undeclared"
    with pytest.raises(ConfigurationError, match="has started"):
        protect(app, house.async_verifier)
    with pytest.raises(ConfigurationError, match="AsyncVerifier"):
        protect(FastAPI(), house.verifier)  # type: ignore[arg-type]
    prefixed = FastAPI()
    prefixed.root_path = "/v1"
    for policy in (PER_ROUTE, Policy()):
        with pytest.raises(ConfigurationError, match="add_middleware"):
            DoorkeyMiddleware(prefixed, house.async_verifier, policy=policy)
    with pytest.raises(ConfigurationError, match="rules say"):
        protect(FastAPI(), house.async_verifier, policy=Policy(), docs=OPEN)


def test_a_root_path(house: Doorkey) -> None:
    """Where the application is told its prefix, requests are judged by the paths that its router sees."""
    app = FastAPI()
    app.root_path = "/v1"
    app.get("/messages")(bare_reader)
    protect(app, house.async_verifier)
    token = issue(house, permissions=["messages:read"])
    for path in ("/messages", "/v1/messages"):
        assert answered(app, path, token) == token.id
    assert verdict(app, "/v1/openapi.json", issue(house)) == "operation_undeclared"


def test_the_middleware_may_be_added_by_hand(house: Doorkey) -> None:
    """First of all, as Starlette's own."""
    app = FastAPI(openapi_url=None, middleware=[Middleware(CORSMiddleware)])
    app.get("/messages")(bare_reader)
    app.user_middleware.append(Middleware(DoorkeyMiddleware, verifier=house.async_verifier, policy=PER_ROUTE))
    token = issue(house, permissions=["messages:read"])
    assert answered(app, "/messages", token) == token.id
    assert_protected(app)
    around = FastAPI(openapi_url=None)
    around.get("/messages")(bare_reader)
    assert answered(DoorkeyMiddleware(around, house.async_verifier, policy=PER_ROUTE), "/messages", token) == token.id


def test_a_thousand_at_once_stay_apart(house: Doorkey, app: FastAPI) -> None:
    """Each request is answered with its own key, however many run at once (E12)."""
    app.get("/messages")(bare_reader)
    tokens = [issue(house, permissions=["messages:read"]) for _ in range(50)]
    assert crowd(app, "/messages", tokens) == [tokens[number % 50].id for number in range(1000)]


# The OpenAPI document


def test_the_document_says_what_is_required(house: Doorkey) -> None:
    """Both schemes with the permissions, and the refusals, on each operation that needs a key, and on no other."""
    app = FastAPI()
    included = APIRouter(dependencies=[Security(api_key, scopes=["charges:read"])])

    @included.get("/charges/{id}")
    async def charge(id: int) -> str:
        return ""

    @app.get("/messages", responses={403: {"description": "My own"}})
    async def messages(principal: Reader) -> str:
        return ""

    @app.api_route("/both", methods=["GET", "HEAD"], operation_id="both")
    @requires(Requirement.ANY_KEY)
    async def both() -> str:
        return ""

    @app.get("/session")
    @requires("messages:read")
    async def session(key: Annotated[str, Security(APIKeyCookie(name="session"))]) -> str:
        return ""

    @app.get("/healthz")
    @requires(OPEN)
    async def healthz() -> str:
        return ""

    @app.get("/hidden", include_in_schema=False)
    async def hidden(principal: Reader) -> str:
        return ""

    app.include_router(included, prefix="/v1")
    protect(app, house.async_verifier, docs=OPEN)
    with pytest.warns(UserWarning, match="Duplicate Operation ID"):
        document = app.openapi()
    assert document["openapi"].startswith("3.1")
    assert app.openapi() is document
    paths = document["paths"]
    assert set(paths) == {"/messages", "/both", "/session", "/healthz", "/v1/charges/{id}"}
    permitted = [{"ApiKeyBasic": ["messages:read"]}, {"ApiKeyBearer": ["messages:read"]}]
    assert paths["/messages"]["get"]["security"] == permitted
    assert paths["/messages"]["get"]["responses"]["403"] == {"description": "My own"}
    assert paths["/v1/charges/{id}"]["get"]["security"][0] == {"ApiKeyBasic": ["charges:read"]}
    assert set(paths["/v1/charges/{id}"]["get"]["responses"]) == {"200", "401", "403", "422", "503"}
    for method in ("get", "head"):
        assert paths["/both"][method]["security"] == [{"ApiKeyBasic": []}, {"ApiKeyBearer": []}]
    assert paths["/session"]["get"]["security"] == [{"APIKeyCookie": [], **one} for one in permitted]
    assert "security" not in paths["/healthz"]["get"]
    assert set(paths["/healthz"]["get"]["responses"]) == {"200"}
    schemes = document["components"]["securitySchemes"]
    assert [schemes[name]["scheme"] for name in ("ApiKeyBasic", "ApiKeyBearer")] == ["basic", "bearer"]
    unauthorized = paths["/messages"]["get"]["responses"]["401"]
    assert "WWW-Authenticate" in unauthorized["headers"]
    assert unauthorized["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ApiKeyError"}
    del paths["/both"]["head"]  # whose operation id FastAPI repeats
    validate(json.loads(json.dumps(document)))
    assert answered(app, "/openapi.json") == document


def test_the_document_follows_the_profile_and_the_routes(house: Doorkey) -> None:
    """Problem details where refusals are such, and operations that are added later."""
    app = FastAPI()
    protect(app, door(profile=FALU).async_verifier)
    app.get("/messages")(bare_reader)
    before = app.openapi()
    app.get("/later")(bare_reader)
    after = app.openapi()
    assert (len(before["paths"]), len(after["paths"])) == (1, 2)
    assert "application/problem+json" in after["paths"]["/later"]["get"]["responses"]["401"]["content"]
    validate(json.loads(json.dumps(after)))


def test_the_document_under_a_policy(house: Doorkey) -> None:
    """What the rules require is described, and what no rule describes as well, which is closed."""
    app = FastAPI()

    @app.get("/messages/{id}")
    async def message(id: int, request: Request) -> str:
        principal = current_principal(request)
        return principal.token_id if principal else ""

    @app.get("/healthz")
    async def healthz() -> str:
        return ""

    rules = [Rule("GET", "/messages/{id}", "messages:read"), Rule.open("GET", "/healthz")]
    protect(app, house.async_verifier, policy=Policy([*rules, Rule.open("GET", "/openapi.json")]))
    document = answered(app, "/openapi.json")
    assert document["paths"]["/messages/{id}"]["get"]["security"][1] == {"ApiKeyBearer": ["messages:read"]}
    assert "security" not in document["paths"]["/healthz"]["get"]
    validate(document)
    token = issue(house, permissions=["messages:read"])
    assert answered(app, "/messages/7", token) == token.id
    with pytest.raises(AssertionError, match="GET /docs declares nothing"):
        assert_protected(app, open=["GET /healthz", "GET /openapi.json"])


def test_a_mounted_application_has_its_own_document(house: Doorkey, app: FastAPI) -> None:
    """Which says the same, once it is told to."""
    inner = FastAPI()
    inner.get("/messages")(bare_reader)
    app.mount("/v1", inner)
    describe(inner)
    document = inner.openapi()
    assert document["paths"]["/messages"]["get"]["security"][0] == {"ApiKeyBasic": ["messages:read"]}
    validate(json.loads(json.dumps(document)))
    token = issue(house, permissions=["messages:read"])
    assert answered(app, "/v1/messages", token) == token.id
