"""The Flask extension: views of every kind, what runs before whom, what is closed, and what a test can be told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest
from flask import Blueprint, Flask, request
from flask.testing import FlaskClient
from flask.views import MethodView, View
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import TestResponse

from doorkey import (
    OPEN,
    PER_ROUTE,
    KeyType,
    Mode,
    Policy,
    Requirement,
    Rule,
    TrustedProxies,
    Verifier,
)
from doorkey import (
    Doorkey as Door,
)
from doorkey.adapters import wsgi
from doorkey.adapters.flask import Doorkey, assert_protected, current_principal, requires
from doorkey.core.errors import ConfigurationError, InvalidPermission, InvalidPolicy, StoreUnavailable
from doorkey.core.model import Record
from doorkey.testing import basic, bearer, door, issue

POLICY = Policy([Rule("GET", "/messages/{id}", "messages:read"), Rule.open("GET", "/healthz")])


@pytest.fixture
def house() -> Door:
    """A doorkey in memory."""
    return door()


@pytest.fixture
def app(house: Door) -> Flask:
    """An application with a view of each kind, that declares per route."""
    app = Flask(__name__, static_folder=None)
    Doorkey(app, house.verifier, policy=PER_ROUTE)

    @app.get("/messages")
    @requires("messages:read")
    def messages() -> dict[str, str]:
        principal = current_principal()
        assert principal is not None
        return {"token": principal.token_id}

    @app.get("/healthz")
    @requires(OPEN)
    def healthz() -> str:
        return f"principal: {current_principal()}"

    @app.get("/forgotten")
    def forgotten() -> str:
        raise AssertionError("nobody may come here")

    return app


def ask(app: Flask, path: str, authorization: str | None = None, method: str = "GET") -> TestResponse:
    """A response."""
    client: FlaskClient = app.test_client()
    return client.open(path, method=method, headers={"Authorization": authorization} if authorization else {})


def code(response: TestResponse) -> str:
    """That of a refusal; the status of another response."""
    body = response.get_json(silent=True)
    return body["error"]["code"] if isinstance(body, dict) and "error" in body else str(response.status_code)


def unrestricted(house: Door) -> str:
    return basic(issue(house))


def reader(house: Door) -> str:
    return basic(issue(house, permissions=["messages:read"]))


def hello(**values: object) -> str:
    return "hello"


# What is declared


def test_a_view_is_called_for_whoever_may(app: Flask, house: Door) -> None:
    """A key that suffices reaches the view, which is told whose it is; any other is refused in the profile's shape."""
    token = issue(house, permissions=["messages:read"])
    assert ask(app, "/messages", bearer(token)).json == {"token": token.id}
    assert code(ask(app, "/messages")) == "api_key_missing"
    assert code(ask(app, "/messages", basic(issue(house, permissions=["charges"])))) == "insufficient_permissions"
    refused = ask(app, "/messages")
    assert [value.split()[0] for value in refused.headers.getlist("WWW-Authenticate")] == ["Basic", "Bearer"]
    assert refused.headers["Cache-Control"] == "no-store"


def test_an_open_view_needs_no_key(app: Flask, house: Door) -> None:
    """It has no principal, whatever is sent to it."""
    for authorization in (None, unrestricted(house), "Basic !"):
        assert ask(app, "/healthz", authorization).text == "principal: None"


def test_what_can_be_required(house: Door) -> None:
    """Every form of requirement: none, several permissions, any key, publishable keys, a mode."""
    app = Flask(__name__, static_folder=None)
    Doorkey(app, house.verifier, policy=PER_ROUTE)
    forms: dict[str, Callable[[Any], Any]] = {
        "/nothing": requires(),
        "/both": requires(["messages:read", "charges:read"]),
        "/any": requires(Requirement.ANY_KEY),
        "/token": requires("tokens:create", publishable=True),
        "/live": requires("messages:read", mode=Mode.LIVE),
    }
    for path, declared in forms.items():
        app.add_url_rule(path, path, declared(hello))
    keys = {
        "unrestricted": unrestricted(house),
        "reader": reader(house),
        "publishable": basic(issue(house, type=KeyType.PUBLISHABLE)),
    }
    answers = {path: [code(ask(app, path, key)) for key in keys.values()] for path in forms}
    few, secret, mode = "insufficient_permissions", "secret_key_required", "livemode_mismatch"
    assert answers == {
        "/nothing": ["200", few, secret],
        "/both": ["200", few, secret],
        "/any": ["200", "200", "200"],
        "/token": ["200", few, "200"],
        "/live": [mode, mode, mode],
    }


def test_a_mistake_is_told_when_it_is_made() -> None:
    """A mistyped permission, a contradiction and a second declaration raise where they are written."""
    with pytest.raises(InvalidPermission):
        requires("messages read")
    with pytest.raises(InvalidPolicy):
        requires(OPEN, publishable=True)
    with pytest.raises(InvalidPolicy, match="twice"):
        requires("messages:read")(requires("messages:write")(hello))


def test_async_views(app: Flask, house: Door) -> None:
    """An asynchronous view is one still, and judged before it runs."""

    @app.get("/later/<int:id>")
    @requires("messages:read")
    async def later(id: int) -> dict[str, object]:
        principal = current_principal()
        return {"id": id, "key": principal and principal.key}

    answer = ask(app, "/later/7", reader(house)).json
    assert answer is not None and answer["id"] == 7 and str(answer["key"]).startswith("key_")
    assert code(ask(app, "/later/7")) == "api_key_missing"


class Listing(View):
    """The decorator in Flask's own list."""

    decorators: ClassVar = [requires("messages:read")]

    def dispatch_request(self) -> str:
        return "listing"


@requires("messages:read")
class Report(View):
    """The decorator on the class."""

    methods: ClassVar = ["POST"]

    def dispatch_request(self) -> str:
        return "report"


class Messages(MethodView):
    """A declaration of each method but the last."""

    init_every_request = False

    @requires("messages:read")
    def get(self, id: int) -> str:
        return f"get {id}"

    @requires("messages:write")
    async def post(self, id: int) -> str:
        return f"post {id}"

    def delete(self, id: int) -> str:
        raise AssertionError("nobody may come here")


class Archive(Messages):
    """What is inherited is declared."""

    @requires("archive:write")
    def delete(self, id: int) -> str:
        return f"delete {id}"


def test_class_based_views(app: Flask, house: Door) -> None:
    """A class declares for all its methods, or each method of a class for itself; HEAD follows GET."""
    app.add_url_rule("/listing", view_func=Listing.as_view("listing"))
    app.add_url_rule("/report", view_func=Report.as_view("report"))
    app.add_url_rule("/message/<int:id>", view_func=Messages.as_view("message"))
    app.add_url_rule("/archive/<int:id>", view_func=Archive.as_view("archive"))
    read, all = reader(house), unrestricted(house)
    assert ask(app, "/listing", read).text == "listing"
    assert ask(app, "/report", read, "POST").text == "report"
    assert ask(app, "/message/1", read).text == "get 1"
    assert ask(app, "/message/1", read, "HEAD").status_code == 200
    assert ask(app, "/message/1", all, "POST").text == "post 1"
    assert ask(app, "/archive/1", all, "DELETE").text == "delete 1"
    assert code(ask(app, "/listing")) == code(ask(app, "/report", method="POST")) == "api_key_missing"
    assert code(ask(app, "/message/1", read, "POST")) == "insufficient_permissions"
    assert code(ask(app, "/message/1", all, "DELETE")) == "operation_undeclared"
    assert code(ask(app, "/archive/1", read, "POST")) == "insufficient_permissions"
    with pytest.raises(AssertionError, match=r"^GET /forgotten declares nothing; DELETE /message/<int:id> declares"):
        assert_protected(app, open=["GET /healthz"])


def test_blueprints(house: Door) -> None:
    """The views of blueprints, and of those within them, are found and judged; registered before or after."""
    app, early = Flask(__name__, static_folder=None), Blueprint("early", __name__, url_prefix="/early")
    early.get("/")(requires("messages:read")(hello))
    app.register_blueprint(early)
    Doorkey(app, house.verifier, policy=PER_ROUTE)
    late, within = Blueprint("late", __name__, url_prefix="/late"), Blueprint("within", __name__, url_prefix="/within")
    within.get("/")(requires("messages:read")(hello))
    within.get("/forgotten", endpoint="forgotten")(hello)
    late.register_blueprint(within)
    app.register_blueprint(late)
    for path in ("/early/", "/late/within/"):
        assert ask(app, path, reader(house)).text == "hello"
        assert code(ask(app, path)) == "api_key_missing"
    assert code(ask(app, "/late/within/forgotten", unrestricted(house))) == "operation_undeclared"
    with pytest.raises(AssertionError, match=r"^GET /late/within/forgotten declares nothing$"):
        assert_protected(app)


def test_other_decorators(app: Flask, house: Door) -> None:
    """What wraps a view as it should keeps its declaration; what hides it, or stands above the route, closes it."""

    def wrapping(view: Callable[..., str]) -> Callable[..., str]:
        return wraps(view)(hiding(view))

    def hiding(view: Callable[..., str]) -> Callable[..., str]:
        def hidden(**values: object) -> str:
            return view(**values)

        return hidden

    app.add_url_rule("/wrapped", "wrapped", wrapping(requires("messages:read")(hello)))
    app.add_url_rule("/inside", "inside", requires("messages:read")(wrapping(hello)))
    app.add_url_rule("/partial", "partial", partial(requires("messages:read")(hello), more=1))
    app.add_url_rule("/hidden", "hidden", hiding(requires("messages:read")(hello)))
    requires("messages:read")(app.get("/above", endpoint="above")(hello))
    codes = [code(ask(app, path, reader(house))) for path in ("/wrapped", "/inside", "/partial", "/hidden", "/above")]
    assert codes == ["200", "200", "200", "operation_undeclared", "operation_undeclared"]


def test_static_files_are_an_endpoint(house: Door, tmp_path: Path) -> None:
    """They are closed until the application says that they are open, or what they require."""
    (tmp_path / "logo.txt").write_text("logo")
    app = Flask(__name__, static_folder=tmp_path, static_url_path="/static")
    blueprint = Blueprint("docs", __name__, static_folder=tmp_path, static_url_path="/static", url_prefix="/docs")
    app.register_blueprint(blueprint)
    Doorkey(app, house.verifier, policy=PER_ROUTE)
    for path in ("/static/logo.txt", "/docs/static/logo.txt", "/static/none"):
        assert code(ask(app, path)) == "api_key_missing"
        assert code(ask(app, path, unrestricted(house))) == "operation_undeclared"

    app = Flask(__name__, static_folder=tmp_path, static_url_path="/static")
    app.register_blueprint(blueprint)
    Doorkey(app, house.verifier, policy=PER_ROUTE)
    app.endpoint("static")(requires(OPEN)(app.send_static_file))
    app.endpoint("docs.static")(requires("docs:read")(blueprint.send_static_file))
    assert code(ask(app, "/docs/static/logo.txt")) == "api_key_missing"
    for path, key in (("/static/logo.txt", None), ("/docs/static/logo.txt", unrestricted(house))):
        with ask(app, path, key) as file:
            assert file.get_data(as_text=True) == "logo"
    assert_protected(app, open=["GET /static/<path:filename>"])


def test_no_target_slips_in(house: Door, table: Any, wire: Any) -> None:
    """Whatever the router makes of a target in disguise, without a key it reaches the one open view alone (E1, E2)."""
    app = Flask(__name__)
    entered: list[str] = []
    Doorkey(app, house.verifier, policy=PER_ROUTE)

    def enter(**values: str) -> str:
        entered.append(request.endpoint or "")
        return "entered"

    app.get("/healthz", endpoint="open")(requires(OPEN)(enter))
    app.get("/healthz/<path:rest>", endpoint="forgotten")(enter)
    for path in ("/admin", "/admin/<path:rest>", "/<path:rest>"):
        app.get(path, endpoint=path)(requires()(enter))
    for target in table.TARGETS:
        answer = wire.over_wsgi(app, wire.environ_of(table.Row(target, target=target), {}))
        assert answer.status == (200 if entered else 400 if answer.status == 400 else 401), target
        assert set(entered) <= {"open"}
        entered.clear()


# What is closed


def test_what_declares_nothing_is_closed(app: Flask, house: Door, caplog: pytest.LogCaptureFixture) -> None:
    """A view without a declaration is closed to everybody, and named once (E4)."""
    app.add_url_rule("/nowhere", "nowhere")
    with caplog.at_level(logging.WARNING, "doorkey"):
        for _ in range(3):
            assert code(ask(app, "/forgotten")) == "api_key_missing"
            assert code(ask(app, "/forgotten", unrestricted(house))) == "operation_undeclared"
            assert code(ask(app, "/nowhere", unrestricted(house))) == "operation_undeclared"
    assert [record.getMessage().split(" declares")[0] for record in caplog.records] == [
        "the endpoint forgotten (/forgotten)",
        "the endpoint nowhere (/nowhere)",
    ]


@pytest.mark.parametrize("authorization", ["none", "reader"])
def test_no_endpoint(app: Flask, house: Door, authorization: str) -> None:
    """Where there is no endpoint, strangers learn nothing: no 404, 405, redirect or methods, and reach no handler."""
    app.add_url_rule("/folder/", "folder", requires(OPEN)(hello))
    app.add_url_rule("/old", redirect_to="/messages", endpoint="old")
    app.register_error_handler(404, lambda error: ("handled", 404))
    asked = [("GET", "/unheard-of"), ("DELETE", "/messages"), ("GET", "/folder"), ("OPTIONS", "/healthz")]
    asked += [("GET", "/old"), ("GET", "//folder//"), ("BREW", "/messages")]
    key = reader(house) if authorization == "reader" else None
    expected = "insufficient_permissions" if key else "api_key_missing"
    assert {code(ask(app, path, key, method)) for method, path in asked} == {expected}
    may = [ask(app, path, unrestricted(house), method).status_code for method, path in asked]
    assert may == [404, 405, 308, 200, 308, 404, 405]
    assert ask(app, "/unheard-of", unrestricted(house)).text == "handled"


def test_options_of_ones_own(app: Flask, house: Door) -> None:
    """An endpoint for OPTIONS is one like others."""
    app.add_url_rule("/preflight", "preflight", requires(OPEN)(hello), methods=["OPTIONS"])
    assert ask(app, "/preflight", method="OPTIONS").text == "hello"
    assert_protected_names(app, "OPTIONS /preflight")


def assert_protected_names(app: Flask, operation: str) -> None:
    with pytest.raises(AssertionError, match=f"{operation} is open"):
        assert_protected(app, open=["GET /healthz"])


def test_a_websocket_rule(app: Flask, house: Door) -> None:
    """A rule for websockets, as extensions add them, is an endpoint; another's handshake finds nothing (E5)."""
    app.add_url_rule("/feed", "feed", requires("messages:read")(hello), websocket=True)
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
    client = app.test_client()
    assert client.get("/feed", headers=upgrade).status_code == 401
    assert client.get("/feed", headers={**upgrade, "Authorization": reader(house)}).text == "hello"
    assert client.get("/healthz", headers=upgrade).status_code == 401
    assert client.get("/feed", headers={"Authorization": reader(house)}).status_code == 403
    with pytest.raises(AssertionError, match="GET /forgotten declares nothing; GET /healthz is open"):
        assert_protected(app)


def test_a_forgotten_extension_closes() -> None:
    """A view that declares something fails where nothing has judged, and one may not ask for a principal there."""
    app = Flask(__name__, static_folder=None)
    app.get("/")(requires("messages:read")(hello))
    app.get("/open", endpoint="open")(requires(OPEN)(hello))
    app.get("/who", endpoint="who")(lambda: str(current_principal()))
    assert [ask(app, path).status_code for path in ("/", "/open", "/who")] == [500, 500, 500]
    app.testing = True
    for path in ("/", "/open"):
        with pytest.raises(ConfigurationError, match="PER_ROUTE"):
            ask(app, path)
    with pytest.raises(ConfigurationError, match="in front"):
        ask(app, "/who")


def test_a_view_that_declares_is_closed_under_a_policy(house: Door) -> None:
    """Never both: what a view says and a policy does not know lets nobody in."""
    app = Flask(__name__, static_folder=None)
    Doorkey(app, house.verifier, policy=POLICY)
    app.get("/healthz")(requires("messages:read")(hello))
    assert ask(app, "/healthz", unrestricted(house)).status_code == 500


def test_another_view_than_was_judged_is_closed(app: Flask, house: Door) -> None:
    """A view that is called by another way than its route makes sure that it was judged itself."""

    @app.get("/detour")
    @requires(OPEN)
    def detour() -> Any:
        return app.ensure_sync(app.view_functions["messages"])()

    assert ask(app, "/detour", unrestricted(house)).status_code == 500


def test_views_that_come_later(app: Flask, house: Door) -> None:
    """Routes of after the extension are read when they are asked for; a view put in another's place counts itself."""
    app.get("/new")(requires("charges:read")(hello))
    assert code(ask(app, "/new", reader(house))) == "insufficient_permissions"
    app.view_functions["healthz"] = hello
    assert code(ask(app, "/healthz")) == "api_key_missing"


# Who sees what, and when


def test_refused_requests_reach_nothing_of_the_application(house: Door) -> None:
    """Neither URL processors nor functions before the request see one, whoever registered them first (E4)."""
    app, seen = Flask(__name__, static_folder=None), []
    blueprint = Blueprint("blueprint", __name__)

    def register() -> None:
        app.url_value_preprocessor(lambda endpoint, values: seen.append("URL"))
        app.before_request(lambda: seen.append("before"))

    blueprint.url_value_preprocessor(lambda endpoint, values: seen.append("blueprint's URL"))
    blueprint.before_request(lambda: seen.append("blueprint's before"))
    blueprint.get("/")(requires("messages:read")(hello))
    register()
    app.register_blueprint(blueprint)
    Doorkey(app, house.verifier, policy=PER_ROUTE)
    register()
    app.before_request_funcs[None].insert(0, lambda: seen.append("first"))
    for path, key in (("/", None), ("/", basic(issue(house, permissions=["charges"]))), ("/none", None)):
        assert ask(app, path, key).status_code in (401, 403)
        assert seen == []
    assert ask(app, "/", reader(house)).text == "hello"
    assert seen == ["URL", "URL", "blueprint's URL", "first", "before", "before", "blueprint's before"]


@pytest.mark.parametrize("trap", [False, True])
def test_error_handlers_see_no_refusal(app: Flask, house: Door, trap: bool) -> None:
    """The shape of a refusal is the profile's, whatever handlers there are; functions after the request see it."""
    app.config["TRAP_HTTP_EXCEPTIONS"] = trap
    for error in (401, 403, HTTPException, Exception):
        app.register_error_handler(error, lambda error: ("handled", 200))
    after: list[int] = []
    torn: list[object] = []

    @app.after_request
    def note(response: Any) -> Any:
        after.append(response.status_code)
        response.headers["X-Seen"] = "yes"
        return response

    app.teardown_request(torn.append)
    refused = ask(app, "/messages")
    assert (code(refused), refused.headers["X-Seen"]) == ("api_key_missing", "yes")
    assert code(ask(app, "/messages", basic(issue(house, permissions=["charges"])))) == "insufficient_permissions"
    assert (after, torn) == ([401, 403], [None, None])


def test_head(app: Flask, house: Door) -> None:
    """HEAD is judged as GET is, and its refusal has no body (E8)."""
    assert ask(app, "/messages", reader(house), "HEAD").status_code == 200
    refused = ask(app, "/messages", method="HEAD")
    assert (refused.status_code, refused.data) == (401, b"")
    assert int(refused.headers["Content-Length"]) > 0


def test_the_body_stays_unread(app: Flask) -> None:
    """The body of a refused request is not read (E11)."""

    class Body(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise AssertionError("the body was read")

    app.post("/upload")(requires("messages:write")(hello))
    response = app.test_client().post("/upload", input_stream=Body(b"x" * 100))
    assert response.status_code == 401


@pytest.mark.parametrize("error", [StoreUnavailable("the disk is gone"), RuntimeError("a mistake")])
def test_a_store_that_fails(house: Door, error: Exception) -> None:
    """Where no verdict can be reached nobody is let in, and where a lookup breaks, neither (F12)."""

    class Failing:
        def find(self, digests: Sequence[bytes]) -> Record | None:
            raise error

    app = Flask(__name__, static_folder=None)
    Doorkey(app, Verifier(Failing(), house.secrets.digester()), policy=PER_ROUTE)
    app.get("/")(requires()(partial(pytest.fail, "the view was called")))
    response = ask(app, "/", unrestricted(house))
    assert (response.status_code, "Retry-After" in response.headers) == (503, True)


def test_nothing_that_is_sent_is_believed(app: Flask) -> None:
    """What stands in the environ before, as a broken server may leave it, is overwritten or of no use (E3)."""
    given = {"doorkey.principal": "admin", "doorkey.requirement": None, "REMOTE_USER": "ann"}
    client = app.test_client()
    assert client.get("/healthz", environ_overrides=given).text == "principal: None"
    assert client.get("/messages", environ_overrides=given).status_code == 401


def test_the_client_address_and_the_request_id(house: Door) -> None:
    """Trusted proxies and the maker of request ids count in both ways of declaring."""
    for policy in (PER_ROUTE, Policy([Rule("GET", "/", "messages:read")])):
        app = Flask(__name__, static_folder=None)
        proxies = TrustedProxies(["127.0.0.1"])
        Doorkey(app, house.verifier, policy=policy, trusted_proxies=proxies, request_id=lambda: "req_mine")
        app.get("/")(requires("messages:read")(hello) if policy is PER_ROUTE else hello)
        key = basic(issue(house, networks=["203.0.113.0/24"]))
        client = app.test_client()
        headers = {"Authorization": key, "X-Forwarded-For": "203.0.113.7"}
        assert client.get("/", headers=headers).status_code == 200
        refused = client.get("/", headers=headers | {"X-Forwarded-For": "198.51.100.9"})
        assert (code(refused), refused.headers["Request-Id"]) == ("network_not_allowed", "req_mine")


def test_a_thousand_requests_at_once(house: Door) -> None:
    """Among a thousand concurrent requests each view sees the principal of its own key, and no other (E12)."""
    app = Flask(__name__, static_folder=None)
    Doorkey(app, house.verifier, policy=PER_ROUTE)

    def who() -> str:
        principal = current_principal()
        return "" if principal is None else principal.token_id

    async def who_later() -> str:
        return who()

    app.get("/")(requires(Requirement.ANY_KEY)(who))
    app.get("/later")(requires(Requirement.ANY_KEY)(who_later))
    tokens = [issue(house, type=type, mode=mode) for type in KeyType for mode in Mode for _ in range(5)]
    chance = Random(1)
    wanted = [(chance.choice(tokens), chance.choice(["/"] * 9 + ["/later"])) for _ in range(1000)]
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda one: ask(app, one[1], bearer(one[0])).text, wanted))
    assert answers == [token.id for token, _ in wanted]


# The extension


def test_a_policy_protects_the_whole_application(house: Door) -> None:
    """The plain middleware stands in front: views need no declaration, and strangers reach no error page (E4)."""
    app = Flask(__name__, static_folder=None)
    Doorkey(app, house.verifier, policy=POLICY)
    app.get("/messages/<id>")(lambda id: {"key": getattr(current_principal(), "key", None)})
    app.get("/healthz", endpoint="healthz")(lambda: str(current_principal()))
    assert isinstance(app.wsgi_app, wsgi.DoorkeyMiddleware)
    assert ask(app, "/messages/1", reader(house)).json != {"key": None}
    assert code(ask(app, "/messages/1")) == code(ask(app, "/none")) == "api_key_missing"
    assert ask(app, "/healthz").text == "None"


def test_application_factories(house: Door) -> None:
    """One extension serves several applications, each with its own verifier if need be."""
    extension, other = Doorkey(policy=PER_ROUTE), door()
    first, second = Flask("first", static_folder=None), Flask("second", static_folder=None)
    extension.init_app(first, house.verifier)
    extension.init_app(second, other.verifier)
    for app in (first, second):
        app.get("/")(requires("messages:read")(hello))
    assert [code(ask(app, "/", reader(house))) for app in (first, second)] == ["200", "api_key_invalid"]
    assert [code(ask(app, "/", reader(other))) for app in (first, second)] == ["api_key_invalid", "200"]
    own = Doorkey(verifier=house.verifier, policy=PER_ROUTE)
    third = Flask("third", static_folder=None)
    own.init_app(third)
    assert code(ask(third, "/")) == "api_key_missing"


def test_what_cannot_be_meant(house: Door) -> None:
    """No verifier, one for asyncio, a policy that is none, and a second extension are refused when built."""
    app = Flask(__name__)
    with pytest.raises(ConfigurationError, match=r"door\.verifier"):
        Doorkey(app, policy=PER_ROUTE)
    with pytest.raises(ConfigurationError, match="Verifier"):
        Doorkey(app, house.async_verifier, policy=PER_ROUTE)  # type: ignore[arg-type]
    for policy in (OPEN, None, "PER_ROUTE"):
        with pytest.raises(ConfigurationError, match="policy is a Policy or PER_ROUTE"):
            Doorkey(app, house.verifier, policy=policy)  # type: ignore[arg-type]
    assert "doorkey" not in app.extensions
    Doorkey(app, house.verifier, policy=PER_ROUTE)
    for again in (PER_ROUTE, POLICY):
        with pytest.raises(ConfigurationError, match="already"):
            Doorkey(app, house.verifier, policy=again)


def test_the_command_line_is_left_alone(app: Flask) -> None:
    """Commands need no key."""
    app.cli.command("greet")(lambda: print("hello"))
    assert app.test_cli_runner().invoke(args=["greet"]).output == "hello\n"


def test_outside_of_a_request() -> None:
    """There is no principal where there is no request: Flask's own error says so."""
    with pytest.raises(RuntimeError, match="request context"):
        current_principal()


# What a test can be told


def paths(app: Any, **arguments: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        assert_protected(app, **arguments)
    return str(caught.value)


def test_what_a_test_is_told(app: Flask) -> None:
    """Each forgotten operation is named, and each that is open without being meant so (E4)."""
    app.add_url_rule("/several", "several", hello, methods=["GET", "PUT"])
    assert paths(app, open=["GET /none"]) == (
        "GET /forgotten declares nothing; GET /several declares nothing; PUT /several declares nothing; "
        "GET /healthz is open: close it, or name it in open=; GET /none is named in open=, and is not open"
    )
    del app.view_functions["forgotten"]
    app.view_functions |= {"forgotten": requires()(hello), "several": requires(OPEN)(hello)}
    assert_protected(app, open=["GET /healthz", "GET /several", "PUT /several"])


def test_an_application_without_the_extension(house: Door) -> None:
    """Nothing of doorkey stands before it: each operation is named, however it is declared otherwise."""
    app = Flask(__name__)
    app.get("/")(requires("messages:read")(hello))
    assert paths(app) == "GET /static/<path:filename> declares nothing; GET / declares nothing"
    with pytest.raises(ConfigurationError, match="no route"):
        assert_protected(Flask(__name__, static_folder=None))


def test_a_test_of_a_policy(house: Door) -> None:
    """Under a policy, the operations that no rule describes are named, and those outside of what it protects."""
    app = Flask(__name__, static_folder=None)
    app.get("/messages/<int:id>")(hello)
    app.get("/healthz", endpoint="healthz")(hello)
    app.get("/files/<path:name>", endpoint="files")(hello)
    app.post("/messages/<int:id>", endpoint="new")(hello)
    Doorkey(app, house.verifier, policy=POLICY)
    assert paths(app) == (
        "GET /files/<path:name> declares nothing; POST /messages/<int:id> declares nothing; "
        "GET /healthz is open: close it, or name it in open="
    )
    app = Flask(__name__, static_folder=None)
    app.get("/api/messages")(hello)
    app.get("/about", endpoint="about")(hello)
    Doorkey(app, house.verifier, policy=Policy([Rule("GET", "/api/messages", "messages:read")], within="/api"))
    assert paths(app) == "GET /about is open: close it, or name it in open="


def test_mounts_are_walked(app: Flask, house: Door) -> None:
    """What is mounted beside the application is asked itself, and named if nothing of doorkey stands before it (E7)."""
    inner = Flask("inner", static_folder=None)
    inner.get("/things")(requires("things:read")(hello))
    inner.get("/lost", endpoint="lost")(hello)
    Doorkey(inner, house.verifier, policy=PER_ROUTE)
    plain = Flask("plain", static_folder=None)
    plain.get("/messages/<id>")(hello)

    def foreign(environ: Any, start_response: Any) -> Iterator[bytes]:
        raise AssertionError("nobody asks this")

    app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
        DispatcherMiddleware(
            app.wsgi_app,
            {
                "/inner": inner,
                "/plain": wsgi.DoorkeyMiddleware(plain, house.verifier, policy=POLICY),
                "/foreign": foreign,
                "/closed": wsgi.DoorkeyMiddleware(foreign, house.verifier, policy=Policy()),
            },
        )
    )
    assert paths(app, open=["GET /healthz"]) == (
        "GET /inner/lost declares nothing; * /foreign declares nothing; GET /forgotten declares nothing"
    )
    assert ask(app, "/inner/things", basic(issue(house, permissions=["things"]))).text == "hello"
    assert code(ask(app, "/inner/things", reader(house))) == "insufficient_permissions"
    assert code(ask(app, "/inner/lost", unrestricted(house))) == "operation_undeclared"
    assert code(ask(app, "/plain/messages/1", reader(house))) == "200"
    assert code(ask(app, "/closed/", reader(house))) == "insufficient_permissions"
    assert code(ask(app, "/messages", reader(house))) == "200"


def test_a_policy_over_mounts(house: Door) -> None:
    """A policy that stands before a dispatcher sees whole paths, and so does the test of it."""
    app, inner = Flask("outer", static_folder=None), Flask("inner", static_folder=None)
    inner.get("/<id>")(hello)
    inner.post("/<id>", endpoint="new")(hello)
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/messages": inner})  # type: ignore[method-assign]
    Doorkey(app, house.verifier, policy=POLICY)
    assert paths(app) == "POST /messages/<id> declares nothing"
    assert ask(app, "/messages/1", reader(house)).text == "hello"
    assert code(ask(app, "/messages/1", reader(house), "POST")) == "insufficient_permissions"
