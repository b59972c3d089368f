"""The Quart extension: views and websockets, what reaches the application, and what is held against its routing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from quart import Blueprint, Quart, request, websocket
from quart.testing.connections import WebsocketDisconnectError, WebsocketResponseError
from quart.views import MethodView
from werkzeug.exceptions import HTTPException

from doorkey import OPEN, PER_ROUTE, AsyncVerifier, KeyType, Mode, Policy, Requirement, Rule, TrustedProxies
from doorkey import Doorkey as Door
from doorkey.adapters import asgi
from doorkey.adapters.quart import Doorkey, assert_protected, current_principal, requires
from doorkey.core.errors import ConfigurationError, StoreUnavailable
from doorkey.core.model import Record
from doorkey.testing import basic, bearer, door, issue

if TYPE_CHECKING:
    from tests.adapters.wire import Answer

POLICY = Policy(
    [
        Rule("GET", "/messages", "messages:read"),
        Rule.open("GET", "/healthz"),
        Rule("WEBSOCKET", "/feed", "messages:read"),
    ]
)
RECHECK = 0.02


@pytest.fixture
def house() -> Door:
    """A doorkey in memory."""
    return door()


@pytest.fixture
def app(house: Door) -> Quart:
    """An application with a view of each kind, that declares per route."""
    return declaring(house)


def declaring(house: Door, **arguments: Any) -> Quart:
    app = Quart(__name__, static_folder=None)
    Doorkey(app, house.async_verifier, policy=PER_ROUTE, **arguments)

    @app.get("/messages")
    @requires("messages:read")
    async def messages() -> dict[str, str]:
        return {"token": token_id()}

    @app.get("/threaded")
    @requires("messages:read")
    def threaded() -> dict[str, str]:
        return {"token": token_id()}

    @app.get("/healthz")
    @requires(OPEN)
    async def healthz() -> str:
        return f"principal: {current_principal()}"

    @app.websocket("/feed")
    @requires("messages:read")
    async def feed() -> None:
        await websocket.send(token_id())
        while True:
            await websocket.send(await websocket.receive())

    @app.websocket("/pulse")
    @requires(OPEN)
    async def pulse() -> None:
        await websocket.send(f"principal: {current_principal()}")

    app.add_url_rule("/forgotten", "forgotten", forgotten)
    app.add_websocket("/lost", "lost", forgotten)
    return app


def token_id() -> str:
    principal = current_principal()
    return "" if principal is None else principal.token_id


async def forgotten(**values: object) -> str:
    raise AssertionError("nobody may come here")


async def hello(**values: object) -> str:
    return "hello"


def ask(app: Quart, path: str, authorization: str | None = None, method: str = "GET", **fields: Any) -> tuple[str, str]:
    """Status, or code of the refusal; and the body."""
    headers = fields.pop("headers", {}) | ({"Authorization": authorization} if authorization else {})

    async def asking() -> tuple[str, str]:
        response = await app.test_client().open(path, method=method, headers=headers, **fields)
        text: str = await response.get_data(as_text=True)
        body = await response.get_json(silent=True)
        refused = isinstance(body, dict) and "error" in body
        return body["error"]["code"] if refused else str(response.status_code), text

    return asyncio.run(asking())


def code(app: Quart, path: str, authorization: str | None = None, method: str = "GET", **fields: Any) -> str:
    return ask(app, path, authorization, method, **fields)[0]


def shake(app: Quart, path: str, authorization: str | None = None) -> str:
    """The first that a websocket sends, or the status of what is answered in its place."""

    async def shaking() -> str:
        headers = {"Authorization": authorization} if authorization else {}
        async with app.test_client().websocket(path, headers=headers) as socket:
            try:
                return str(await socket.receive())
            except WebsocketResponseError as refused:
                return str(refused.response.status_code)

    return asyncio.run(shaking())


def unrestricted(house: Door) -> str:
    return basic(issue(house))


def reader(house: Door) -> str:
    return basic(issue(house, permissions=["messages:read"]))


# Views and websockets


def test_a_view_is_called_for_whoever_may(app: Quart, house: Door) -> None:
    """A key that suffices reaches the view, on the loop or in a thread; any other is refused."""
    token = issue(house, permissions=["messages:read"])
    for path in ("/messages", "/threaded"):
        assert ask(app, path, bearer(token)) == ("200", f'{{"token":"{token.id}"}}\n')
        assert code(app, path) == "api_key_missing"
        assert code(app, path, basic(issue(house, permissions=["charges"]))) == "insufficient_permissions"
    for authorization in (None, unrestricted(house), "Basic !"):
        assert ask(app, "/healthz", authorization) == ("200", "principal: None")


def test_a_websocket_is_called_for_whoever_may(app: Quart, house: Door) -> None:
    """It is judged before it is accepted (E5)."""
    token = issue(house, permissions=["messages:read"])
    assert shake(app, "/feed", bearer(token)) == token.id
    assert shake(app, "/pulse") == "principal: None"
    assert [shake(app, "/feed", key) for key in (None, basic(issue(house, permissions=["charges"])))] == ["401", "403"]
    assert [shake(app, "/lost", key) for key in (None, unrestricted(house))] == ["401", "403"]
    assert [shake(app, "/none", key) for key in (None, reader(house), unrestricted(house))] == ["401", "403", "404"]
    assert [shake(app, "/messages", key) for key in (reader(house), unrestricted(house))] == ["403", "400"]
    assert code(app, "/feed", reader(house)) == "insufficient_permissions"


def test_an_open_websocket_is_judged_again(house: Door) -> None:
    """After a revocation it is closed, within the interval (E9)."""
    app, token = declaring(house, recheck=RECHECK), issue(house, permissions=["messages:read"])

    async def scenario() -> int | None:
        async with app.test_client().websocket("/feed", headers={"Authorization": bearer(token)}) as socket:
            await socket.receive()
            for _ in range(3):
                await socket.send("still here?")
                assert await socket.receive() == "still here?"
                await asyncio.sleep(2 * RECHECK)
            (workspace,) = house.keyring.workspaces()
            (key,) = [key for key in house.keyring.keys(workspace.id) if key.tokens[0].id == token.id]
            house.keyring.acting("ann").revoke(key.id, because="a test")
            with pytest.raises(WebsocketDisconnectError) as caught:
                await asyncio.wait_for(socket.receive(), 5)
            return int(caught.value.args[0])

    assert asyncio.run(scenario()) == asgi.POLICY_VIOLATION


class Messages(MethodView):
    """A declaration of each method but the last."""

    @requires("messages:read")
    async def get(self, id: int) -> str:
        return f"get {id}"

    @requires("messages:write")
    def post(self, id: int) -> str:
        return f"post {id}"

    async def delete(self, id: int) -> str:
        raise AssertionError("nobody may come here")


@requires("messages:read")
class Report(MethodView):
    """The decorator on the class."""

    methods: ClassVar = ["GET"]

    async def get(self) -> str:
        return "report"


def test_class_based_views(app: Quart, house: Door) -> None:
    """A class declares for all its methods, or each method of a class for itself; HEAD follows GET."""
    app.add_url_rule("/message/<int:id>", view_func=Messages.as_view("message"))
    app.add_url_rule("/report", view_func=Report.as_view("report"))
    read, all = reader(house), unrestricted(house)
    assert ask(app, "/message/1", read) == ("200", "get 1")
    assert code(app, "/message/1", read, "HEAD") == "200"
    assert ask(app, "/message/1", all, "POST") == ("200", "post 1")
    assert ask(app, "/report", read) == ("200", "report")
    assert code(app, "/report") == "api_key_missing"
    assert code(app, "/message/1", read, "POST") == "insufficient_permissions"
    assert code(app, "/message/1", all, "DELETE") == "operation_undeclared"
    with pytest.raises(AssertionError, match="DELETE /message/<int:id> declares nothing; GET /healthz is open"):
        assert_protected(app)


def test_blueprints(house: Door) -> None:
    """The views of blueprints, and of those within them, are found and judged."""
    app = Quart(__name__, static_folder=None)
    outer, inner = Blueprint("outer", __name__, url_prefix="/outer"), Blueprint("inner", __name__, url_prefix="/inner")
    inner.get("/")(requires("messages:read")(hello))
    inner.get("/forgotten", endpoint="forgotten")(forgotten)
    outer.register_blueprint(inner)
    app.register_blueprint(outer)
    Doorkey(app, house.async_verifier, policy=PER_ROUTE)
    assert ask(app, "/outer/inner/", reader(house)) == ("200", "hello")
    assert code(app, "/outer/inner/") == "api_key_missing"
    assert code(app, "/outer/inner/forgotten", unrestricted(house)) == "operation_undeclared"


def test_other_decorators(app: Quart, house: Door) -> None:
    """What wraps a view as it should keeps its declaration; what hides it, or stands above the route, closes it."""

    def hiding(view: Callable[..., Any]) -> Callable[..., Any]:
        async def hidden(**values: object) -> Any:
            return await view(**values)

        return hidden

    app.add_url_rule("/wrapped", "wrapped", wraps(wrapped := requires("messages:read")(hello))(hiding(wrapped)))
    app.add_url_rule("/hidden", "hidden", hiding(requires("messages:read")(hello)))
    requires("messages:read")(app.get("/above", endpoint="above")(hello))
    codes = [code(app, path, reader(house)) for path in ("/wrapped", "/hidden", "/above")]
    assert codes == ["200", "operation_undeclared", "operation_undeclared"]


def test_static_files_are_an_endpoint(house: Door, tmp_path: Path) -> None:
    """They are closed until the application says that they are open."""
    (tmp_path / "logo.txt").write_text("logo")
    app = Quart(__name__, static_folder=str(tmp_path), static_url_path="/static")
    Doorkey(app, house.async_verifier, policy=PER_ROUTE)
    assert code(app, "/static/logo.txt") == "api_key_missing"
    assert code(app, "/static/logo.txt", unrestricted(house)) == "operation_undeclared"
    app = Quart(__name__, static_folder=str(tmp_path), static_url_path="/static")
    Doorkey(app, house.async_verifier, policy=PER_ROUTE)
    app.endpoint("static")(requires(OPEN)(app.send_static_file))
    assert ask(app, "/static/logo.txt") == ("200", "logo")
    assert_protected(app, open=["GET /static/<path:filename>"])


def test_no_target_slips_in(house: Door, table: Any, wire: Any) -> None:
    """Whatever the router makes of a target in disguise, without a key it reaches the one open view alone (E1, E2)."""
    app = Quart(__name__)
    entered: list[str] = []
    Doorkey(app, house.async_verifier, policy=PER_ROUTE)

    async def enter(**values: str) -> str:
        entered.append(request.endpoint or "")
        return "entered"

    app.get("/healthz", endpoint="open")(requires(OPEN)(enter))
    app.get("/healthz/<path:rest>", endpoint="forgotten")(enter)
    for path in ("/admin", "/admin/<path:rest>", "/<path:rest>"):
        app.get(path, endpoint=path)(requires()(enter))
    for target in table.TARGETS:
        answer = wire.over_asgi(app, wire.scope_of(table.Row(target, target=target), {}))
        assert answer.status == (200 if entered else 400 if answer.status == 400 else 401), target
        assert set(entered) <= {"open"}
        entered.clear()


# What is closed


def test_what_declares_nothing_is_closed(app: Quart, house: Door, caplog: pytest.LogCaptureFixture) -> None:
    """A view without a declaration is closed to everybody, and named once (E4)."""
    app.add_url_rule("/nowhere", "nowhere")
    with caplog.at_level(logging.WARNING, "doorkey"):
        for _ in range(2):
            assert code(app, "/forgotten") == "api_key_missing"
            assert code(app, "/forgotten", unrestricted(house)) == "operation_undeclared"
            assert code(app, "/nowhere", unrestricted(house)) == "operation_undeclared"
    named = [record.getMessage() for record in caplog.records if record.name == "doorkey"]
    assert [message.split(" declares")[0] for message in named] == [
        "the endpoint forgotten (/forgotten)",
        "the endpoint nowhere (/nowhere)",
    ]


@pytest.mark.parametrize("authorization", ["none", "reader"])
def test_no_endpoint(app: Quart, house: Door, authorization: str) -> None:
    """Where there is no endpoint, strangers learn nothing: no 404, 405, redirect or methods, and reach no handler."""
    app.add_url_rule("/folder/", "folder", requires(OPEN)(hello))
    asked = [("GET", "/unheard-of"), ("DELETE", "/messages"), ("GET", "/folder"), ("OPTIONS", "/healthz")]
    key = reader(house) if authorization == "reader" else None
    expected = "insufficient_permissions" if key else "api_key_missing"
    assert {code(app, path, key, method) for method, path in asked} == {expected}
    assert [code(app, path, unrestricted(house), method) for method, path in asked] == ["404", "405", "308", "200"]


def http(path: str, **fields: Any) -> asgi.Scope:
    return {
        **{"type": "http", "method": "GET", "path": path, "query_string": b"", "scheme": "http", "http_version": "1.1"},
        **{"headers": [(b"host", b"api.example")], **fields},
    }


@pytest.mark.parametrize(
    "scope",
    [
        http(""),
        http("/healthz", query_string=b"\xff"),
        http("/healthz", root_path="/v1"),
        http("/v1", root_path="/v1"),
        http("/healthz", http_version=None),
    ],
)
def test_what_quart_can_make_nothing_of(app: Quart, wire: Any, scope: asgi.Scope) -> None:
    """Where Quart's routing fails there is no endpoint, and a stranger is refused as anywhere else."""
    answer: Answer = wire.over_asgi(app, scope)
    assert (answer.status, b"api_key_missing" in answer.body) == (401, True)


def test_another_view_than_was_judged_is_closed(app: Quart, house: Door) -> None:
    """If Quart finds another view than was judged, nothing is entered: neither by a request nor by a websocket."""
    app.before_request(forgotten)
    app.before_websocket(forgotten)
    Swapped(app)
    assert code(app, "/healthz") == "500"
    assert shake(app, "/pulse") == "500"


class Swapped:
    """What stands behind doorkey, and sends a request elsewhere than it was for."""

    def __init__(self, app: Quart) -> None:
        middleware: Any = app.asgi_app
        self.app = middleware.app
        middleware.app = self

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app({**scope, "path": "/messages" if scope["type"] == "http" else "/lost"}, receive, send)


def test_a_forgotten_extension_closes() -> None:
    """A view that declares something fails where nothing has judged, and one may not ask for a principal there."""
    app = Quart(__name__, static_folder=None)
    app.get("/")(requires("messages:read")(hello))
    app.get("/open", endpoint="open")(requires(OPEN)(hello))
    app.websocket("/feed", endpoint="feed")(requires(OPEN)(hello))
    app.get("/who", endpoint="who")(lambda: str(current_principal()))
    assert [code(app, path) for path in ("/", "/open", "/who")] == ["500", "500", "500"]
    assert shake(app, "/feed") == "500"


def test_a_view_that_declares_is_closed_under_a_policy(house: Door) -> None:
    """Never both: what a view says and a policy does not know lets nobody in."""
    app = Quart(__name__, static_folder=None)
    Doorkey(app, house.async_verifier, policy=POLICY)
    app.get("/messages")(requires("messages:write")(hello))
    assert code(app, "/messages", unrestricted(house)) == "500"


@pytest.mark.parametrize(("path", "status"), [("/svc/healthz", 200), ("/svchealthz", 401), ("/x/svc/healthz", 401)])
def test_a_policy_judges_the_path_that_quart_sees(house: Door, path: str, status: int, wire: Any) -> None:
    """Where Quart cuts a prefix off, if in the middle of a segment, the policy is asked about what is left."""
    app = Quart(__name__, static_folder=None)
    Doorkey(app, house.async_verifier, policy=Policy([Rule.open("GET", "/healthz")]))
    app.get("/healthz")(hello)
    scope: asgi.Scope = {
        **{"type": "http", "method": "GET", "scheme": "http", "http_version": "1.1", "path": path, "root_path": "/svc"},
        **{"raw_path": path.encode(), "query_string": b"", "headers": [], "client": None, "extensions": {}},
    }
    assert wire.over_asgi(app, scope).status == status


def test_refused_requests_reach_nothing_of_the_application(app: Quart) -> None:
    """No function before or after a request, nor an error handler, sees one that is refused."""
    seen: list[object] = []
    app.before_request(lambda: seen.append("before"))
    app.before_websocket(lambda: seen.append("before"))

    @app.after_request
    def after(response: Any) -> Any:
        seen.append(response)
        return response

    app.url_value_preprocessor(lambda endpoint, values: seen.append("URL"))
    for error in (401, 403, HTTPException, Exception):
        app.register_error_handler(error, lambda error: ("handled", 200))
    assert code(app, "/messages") == code(app, "/none") == "api_key_missing"
    assert shake(app, "/feed") == "401"
    assert seen == []


@pytest.mark.parametrize("error", [StoreUnavailable("the disk is gone"), RuntimeError("a mistake")])
def test_a_store_that_fails(house: Door, error: Exception) -> None:
    """Where no verdict can be reached nobody is let in, and where a lookup breaks, neither (F12)."""

    class Failing:
        async def find(self, digests: Sequence[bytes]) -> Record | None:
            raise error

    app = Quart(__name__, static_folder=None)
    Doorkey(app, AsyncVerifier(Failing(), house.secrets.digester()), policy=PER_ROUTE)
    app.get("/")(requires()(forgotten))
    assert code(app, "/", unrestricted(house)) == "auth_unavailable"


def test_the_client_address_and_the_request_id(house: Door) -> None:
    """Trusted proxies and the maker of request ids count."""
    app = declaring(house, trusted_proxies=TrustedProxies([], unix_socket=True), request_id=lambda: "req_mine")
    key = basic(issue(house, permissions=["messages:read"], networks=["203.0.113.0/24"]))
    peer: dict[str, Any] = {"scope_base": {"client": None}}
    assert code(app, "/messages", key, headers={"X-Forwarded-For": "203.0.113.7"}, **peer) == "200"
    refused = ask(app, "/messages", key, headers={"X-Forwarded-For": "198.51.100.9"}, **peer)
    assert (refused[0], '"req_mine"' in refused[1]) == ("network_not_allowed", True)


def test_a_thousand_requests_at_once(house: Door) -> None:
    """Among a thousand concurrent requests each view sees the principal of its own key, and no other (E12)."""
    app, chance = Quart(__name__, static_folder=None), Random(1)
    Doorkey(app, house.async_verifier, policy=PER_ROUTE)

    async def who() -> str:
        await asyncio.sleep(chance.random() / 100)
        return token_id()

    app.get("/")(requires(Requirement.ANY_KEY)(who))
    app.get("/threaded")(requires(Requirement.ANY_KEY)(token_id))
    tokens = [issue(house, type=type, mode=mode) for type in KeyType for mode in Mode for _ in range(5)]
    wanted = [(chance.choice(tokens), chance.choice(["/", "/", "/threaded"])) for _ in range(1000)]

    async def one(token: Any, path: str) -> str:
        response = await app.test_client().get(path, headers={"Authorization": bearer(token)})
        text: str = await response.get_data(as_text=True)
        return text

    async def scenario() -> list[str]:
        return await asyncio.gather(*(one(token, path) for token, path in wanted))

    assert asyncio.run(scenario()) == [token.id for token, _ in wanted]


# The extension


def test_a_policy_protects_the_whole_application(house: Door) -> None:
    """The plain middleware stands in front: views need no declaration (E4)."""
    app = Quart(__name__, static_folder=None)
    Doorkey(app, house.async_verifier, policy=POLICY, recheck=5)
    app.get("/messages")(token_id)
    app.get("/healthz", endpoint="healthz")(lambda: str(current_principal()))
    app.post("/healthz", endpoint="new")(hello)

    @app.websocket("/feed")
    async def feed() -> None:
        await websocket.send(token_id())

    middleware: Any = app.asgi_app
    assert (type(middleware), middleware.recheck) == (asgi.DoorkeyMiddleware, 5)
    token = issue(house, permissions=["messages:read"])
    assert ask(app, "/messages", basic(token)) == ("200", token.id)
    assert code(app, "/messages") == code(app, "/none") == "api_key_missing"
    assert ask(app, "/healthz") == ("200", "None")
    assert (shake(app, "/feed", basic(token)), shake(app, "/feed")) == (token.id, "401")
    with pytest.raises(AssertionError) as caught:
        assert_protected(app)
    assert str(caught.value) == ("POST /healthz declares nothing; GET /healthz is open: close it, or name it in open=")


def test_application_factories(house: Door) -> None:
    """One extension serves several applications, each with its own verifier if need be."""
    extension, other = Doorkey(verifier=house.async_verifier, policy=PER_ROUTE), door()
    first, second = Quart("first", static_folder=None), Quart("second", static_folder=None)
    extension.init_app(first)
    extension.init_app(second, other.async_verifier)
    for app in (first, second):
        app.get("/")(requires("messages:read")(hello))
    assert [code(app, "/", reader(house)) for app in (first, second)] == ["200", "api_key_invalid"]
    assert [code(app, "/", reader(other)) for app in (first, second)] == ["api_key_invalid", "200"]


def test_what_cannot_be_meant(house: Door) -> None:
    """No verifier, one for threads, a policy that is none, and a second extension are refused when built."""
    app = Quart(__name__)
    with pytest.raises(ConfigurationError, match=r"door\.async_verifier"):
        Doorkey(app, policy=PER_ROUTE)
    with pytest.raises(ConfigurationError, match="AsyncVerifier"):
        Doorkey(app, house.verifier, policy=PER_ROUTE)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="policy is a Policy or PER_ROUTE"):
        Doorkey(app, house.async_verifier, policy=OPEN)
    with pytest.raises(ConfigurationError, match="recheck"):
        Doorkey(app, house.async_verifier, policy=PER_ROUTE, recheck=0)
    assert "doorkey" not in app.extensions
    Doorkey(app, house.async_verifier, policy=PER_ROUTE)
    with pytest.raises(ConfigurationError, match="already"):
        Doorkey(app, house.async_verifier, policy=POLICY)


def test_lifespan_passes(app: Quart) -> None:
    """What is done before and after serving is the application's own."""
    seen: list[str] = []
    app.before_serving(lambda: seen.append("started"))
    app.after_serving(lambda: seen.append("stopped"))

    async def scenario() -> None:
        async with app.test_app():
            assert seen == ["started"]

    asyncio.run(scenario())
    assert seen == ["started", "stopped"]


def test_what_a_test_is_told(app: Quart) -> None:
    """Each forgotten operation is named, and each that is open without being meant so (E4)."""
    with pytest.raises(AssertionError) as caught:
        assert_protected(app, open=["WEBSOCKET /pulse"])
    assert str(caught.value) == (
        "GET /forgotten declares nothing; WEBSOCKET /lost declares nothing; "
        "GET /healthz is open: close it, or name it in open="
    )
    bare = Quart(__name__, static_folder=None)
    bare.get("/")(requires("messages:read")(hello))
    with pytest.raises(AssertionError, match=r"^GET / declares nothing$"):
        assert_protected(bare)
