"""
No secret gets out (recipe 5, promises G1 to G5 and A14).

Tokens and master secrets are made when the test runs. Then everything is done that can be done with them, on both
adapters over SQLite, with logging at DEBUG and with Sentry's SDK as most people set it up; and whatever came out is
searched for them: for the tokens, their secret parts, their headers, their digests, and the master secrets.

What is promised of tracebacks that show local variables: in a frame of doorkey no variable shows a secret, but for the
``scope`` or ``environ`` that the server handed over. Those hold the request's own ``Authorization`` field, and every
frame between server and application shows them just so. The frames of servers, applications and hooks are not ours to
vouch for. A digest is no credential: it may stand as raw bytes among the variables of frames that look it up, and
nowhere else.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import sqlite3
import traceback
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest
import sentry_sdk
from sentry_sdk.integrations.asgi import SentryAsgiMiddleware
from sentry_sdk.integrations.dedupe import DedupeIntegration
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware
from sentry_sdk.transport import Transport

import doorkey
from doorkey import (
    AsyncVerifier,
    Decision,
    Doorkey,
    DoorkeyError,
    KeyType,
    Mode,
    Policy,
    Requirement,
    Rule,
    TrustedProxies,
    Verifier,
)
from doorkey.adapters import asgi, wsgi
from doorkey.core.model import Record
from doorkey.core.tokens import Token, mint
from doorkey.management.secrets import MasterSecrets
from doorkey.storage.aio import Inline
from doorkey.testing import Clock, basic, bearer

OURS = str(Path(doorkey.__file__).parent)
HANDED_OVER = ("scope", "environ")

POLICY = Policy(
    [
        Rule("GET", "/messages", "messages:read"),
        Rule("GET", "/payouts", "payouts:read", mode=Mode.LIVE),
        Rule("WEBSOCKET", "/feed", "messages:read"),
        Rule.open("GET", "/healthz"),
    ]
)


class Broken(Exception):
    """What a part of somebody else raises here."""


class Dead(BaseException):
    """What it raises when it is worse."""


@dataclass
class Canaries:
    """Everything that must not come out, in every form that it could have."""

    needles: dict[str, str] = field(default_factory=dict)
    digests: list[bytes] = field(default_factory=list)

    def add_octets(self, name: str, octets: bytes) -> None:
        """Octets in hex, and in base64 at each of its three alignments."""
        self.needles[f"{name} in hex"] = octets.hex()
        for offset in range(3):
            whole = b"\0" * offset + octets
            for encode in (b64encode, urlsafe_b64encode):
                encoded = encode(whole[: len(whole) // 3 * 3]).decode()
                self.needles[f"{name} in {encode.__name__} at {offset}"] = encoded[4 if offset else 0 :]

    def add_token(self, name: str, token: Token, digests: Sequence[bytes]) -> None:
        text = token.expose()
        secret = text.rpartition("_")[2]
        self.needles[f"{name}"] = text
        self.needles[f"the secret part of {name}"] = secret[:30]
        self.needles[f"the header of {name}"] = basic(token)[len("Basic ") :]
        self.add_octets(f"the secret part of {name}", secret.encode())
        for number, digest in enumerate(digests):
            self.digests.append(digest)
            self.add_octets(f"digest {number} of {name}", digest)

    def found(self, text: str, digests_too: bool = True) -> list[str]:
        """The names of what stands in *text*."""
        found = [name for name, needle in self.needles.items() if needle in text]
        if digests_too:
            found += ["a digest in bytes" for digest in self.digests if repr(digest)[2:-1] in text]
        return found


class Memory(Transport):
    """Keeps what Sentry would send."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Any) -> None:
        self.events += [item.payload.json for item in envelope.items if item.payload.json is not None]


class Gathering(logging.Handler):
    """Keeps each record, formatted and in all its parts."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record) + repr({**vars(record), "exc_info": None}))


@dataclass
class Journey:
    """Goes every way there is, and gathers what comes out."""

    door: Doorkey
    path: Path
    clock: Clock
    canaries: Canaries
    outputs: dict[str, list[str]] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    raised: list[BaseException] = field(default_factory=list)
    mistaken: list[BaseException] = field(default_factory=list)
    tokens: dict[str, Token] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    def note(self, where: str, what: object) -> None:
        self.outputs.setdefault(where, []).append(what if isinstance(what, str) else repr(what))

    def expecting(self, call: Callable[[], object], raised: list[BaseException] | None = None) -> None:
        """Call what raises, and keep the exception."""
        try:
            call()
        except BaseException as error:
            (self.raised if raised is None else raised).append(error)
        else:
            raise AssertionError("this should have raised")

    def named(self, name: str, token: Token) -> Token:
        self.tokens[name] = token
        self.canaries.add_token(name, token, self.door.secrets.digester().digests(token))
        self.note("values", token)
        self.note("values", str(token))
        return token

    # Everything that a keyring does

    def live(self) -> None:
        ring = self.door.keyring.acting("ann@acme.example")
        space = ring.approve(ring.provision("Acme").id)
        for name, mode in (("test", Mode.TEST), ("live", Mode.LIVE), ("revoked", Mode.TEST), ("expired", Mode.TEST)):
            self._issue(name, space.id, mode=mode)
        self._issue("publishable", space.id, type=KeyType.PUBLISHABLE)
        self._issue("restricted", space.id, permissions=["messages:read"])
        self._issue("bound", space.id, networks=["203.0.113.0/24"])
        self._issue("broken", space.id, permissions=["messages"])
        other = ring.provision("Other")
        self._issue("suspended", other.id)
        ring.suspend(other.id)
        ring.resume(other.id)
        ring.suspend(other.id)
        ring.set_expiry(self.keys["expired"], int(self.clock.now) + 10)
        self.clock.advance(20)
        self.expecting(lambda: ring.reveal(self.keys["expired"]))
        ring.revoke(self.keys["revoked"], because="it leaked")
        self.expecting(lambda: ring.reveal(self.keys["revoked"]))
        self.expecting(lambda: ring.reveal(self.keys["live"]))
        self._issue("rolled", space.id)
        ring.roll(self.keys["rolled"], grace=60)
        self.expecting(lambda: ring.roll(self.keys["rolled"]))
        self.named("after rolled", ring.reveal(self.keys["rolled"]))
        ring.end_grace(self.keys["rolled"])
        self._issue("reissued", space.id, mode=Mode.LIVE)
        ring.reissue(self.keys["reissued"], because="it leaked")
        self.named("after reissued", ring.reveal(self.keys["reissued"]))
        ring.rename(self.keys["test"], "other name")
        ring.restrict(self.keys["bound"], networks=["203.0.113.0/24", "2001:db8::/32"])
        self.expecting(lambda: ring.restrict(self.keys["bound"], networks=["203.0.113.7/24"]))
        # A token where an id belongs is the mistake that is made.
        text = self.tokens["live"].expose()
        for mistaken in (ring.key, ring.reveal, ring.workspace):
            self.expecting(lambda: mistaken(text), self.mistaken)  # noqa: B023  # called at once
        self.expecting(lambda: self.door.keyring.revoke(self.keys["test"], because="nobody acts"))
        for space in ring.workspaces():
            self.note("values", space)
            self.note("events", self.door.store.events(space.id))
            self.note("values", list(ring.keys(space.id)))
        for value in (
            self.door,
            self.door.secrets,
            self.door.store,
            self.door.verifier,
            self.door.secrets.digester(),
            ring,
        ):
            self.note("values", value)
        self.named("a stranger", mint(KeyType.SECRET, Mode.TEST))

    def _issue(
        self, name: str, workspace: str, type: KeyType = KeyType.SECRET, mode: Mode = Mode.TEST, **more: Any
    ) -> None:
        ring = self.door.keyring.acting("ann@acme.example")
        key = ring.issue(workspace, type=type, mode=mode, name=name, **more)
        self.keys[name] = key.id
        self.named(name, ring.reveal(key.id))

    # Every verdict, on both adapters

    def requests(self) -> Iterator[tuple[str, list[str]]]:
        """Paths and ``Authorization`` lines."""
        for token in self.tokens.values():
            for path in ("/messages", "/payouts", "/unheard-of", "/healthz", "http://h/"):
                yield path, [basic(token)]
            yield "/messages", [bearer(token)]
        token = self.tokens["live"]
        text = token.expose()
        yield f"/messages?api_key={text}", []
        for near in (text[:-1], f"{text}x", f"{text}:", text.swapcase(), f"{text} {text}", f"{text}\n", f"{text}é"):
            for lines in (
                [f"Bearer {near}"],
                [basic(near)],
                [basic(f"{near}:{text}")],
                [f"{basic(near)}, {bearer(token)}"],
            ):
                yield "/messages", lines
        yield "/messages", [basic(f":{text}")]
        yield "/messages", [basic(token), bearer(token)]
        yield "/messages", [f"Digest {text}"]
        yield "/messages", [text]

    def ask(self, verifiers: tuple[Verifier, AsyncVerifier], path: str, lines: list[str], **options: Any) -> None:
        """Send one request through both adapters, each with Sentry around it; keep what comes back or is raised."""
        for call in (self._over_asgi, self._over_wsgi):
            try:
                call(verifiers, path, lines, options)
            except BaseException as error:
                if not isinstance(error, Broken | Dead):
                    raise
                self.raised.append(error)
                sentry_sdk.capture_exception(error)

    def _over_asgi(
        self, verifiers: tuple[Verifier, AsyncVerifier], path: str, lines: list[str], options: dict[str, Any]
    ) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            self.note("values", scope["state"])
            if fails:
                raise Broken("the application")
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        async def receive() -> Any:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            self.note("responses", message)

        options = {"policy": POLICY, **options}
        fails = options.pop("fails", False)
        middleware = SentryAsgiMiddleware(asgi.DoorkeyMiddleware(app, verifiers[1], **options))
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "method": "GET",
            "path": path,
            "query_string": query.encode(),
            "headers": [(b"authorization", line.encode()) for line in lines],
            "client": ("198.51.100.9", 1),
        }
        asyncio.run(middleware(scope, receive, send))

    def _over_wsgi(
        self, verifiers: tuple[Verifier, AsyncVerifier], path: str, lines: list[str], options: dict[str, Any]
    ) -> None:
        def app(environ: Any, start_response: Any) -> list[bytes]:
            self.note("values", environ["doorkey.principal"])
            if fails:
                raise Broken("the application")
            start_response("200 OK", [])
            return []

        options = {"policy": POLICY, **options}
        fails = options.pop("fails", False)
        middleware = SentryWsgiMiddleware(wsgi.DoorkeyMiddleware(app, verifiers[0], **options))
        path, _, query = path.partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_NAME": "h",
            "SERVER_PORT": "80",
            "REMOTE_ADDR": "198.51.100.9",
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": io.StringIO(),
        }
        if lines:
            environ["HTTP_AUTHORIZATION"] = ",".join(line.encode().decode("latin-1") for line in lines)
        self.note("responses", list(middleware(environ, lambda *response: self.note("responses", response))))

    def judged(self) -> None:
        for path, lines in self.requests():
            self.ask((self.door.verifier, self.door.async_verifier), path, lines)
        self.note("values", self.decisions)

    # Everything that breaks

    def broken(self) -> None:
        with sqlite3.connect(self.path) as driver:
            driver.execute("UPDATE keys SET permissions = '?' WHERE id = ?", (self.keys["broken"],))
        driver.close()
        token = self.tokens["broken"]
        self.ask((self.door.verifier, self.door.async_verifier), "/messages", [basic(token)])
        for path, lines in (
            ("/messages", [basic(self.tokens["test"])]),
            ("/messages", [basic(self.tokens["revoked"])]),
        ):
            for verifiers in self.breaking_verifiers():
                self.ask(verifiers, path, lines)
                self.identify(verifiers, lines)
            good = (self.door.verifier, self.door.async_verifier)
            self.ask(good, path, lines, fails=True)
            self.ask(good, path, lines, request_id=broken)
            self.ask(good, path, lines, policy=Parts(judged_by=broken))
            self.ask(good, path, lines, trusted_proxies=Parts(client=broken, header="x-forwarded-for"))
        for at, part in ((1, "hook"), (2, "hook"), (1, "digester"), (2, "digester"), (1, "app")):
            self.websocket(at, part)
        self.expecting(lambda: self.door.verifier.verify(basic(token), requires="no permission"))

    def identify(self, verifiers: tuple[Verifier, AsyncVerifier], lines: list[str]) -> None:
        """Ask as a framework does that learns the requirement later."""
        calls: list[Callable[[], object]] = [
            lambda: verifiers[0].identify(lines),
            lambda: asyncio.run(verifiers[1].identify(lines)),
        ]
        for call in calls:
            try:
                self.note("values", call())
            except (Broken, Dead) as error:
                self.raised.append(error)

    def breaking_verifiers(self) -> Iterator[tuple[Verifier, AsyncVerifier]]:
        """Pairs of verifiers of which one part fails."""
        store, digester = self.door.store, self.door.secrets.digester()

        def finding(error: type[BaseException]) -> Any:
            def find(digests: Sequence[bytes]) -> Record | None:
                raise error(f"cannot find {digests!r}, {digests[0].hex()}") if error is Broken else error()

            return Parts(find=find)

        for lookup, parts in (
            (finding(Broken), (digester,)),
            (finding(Dead), (digester,)),
            (Parts(find=lambda digests: cast(Any, digests)), (digester,)),
            (Parts(find=lambda digests: store.find([digester.digests(self.tokens["live"])[0]])), (digester,)),
            (store, (Parts(digests=broken),)),
            (store, (digester, doorkey.DEFAULT, broken)),
            (store, (digester, doorkey.DEFAULT, self.clock, broken)),
            (finding(Broken), (digester, doorkey.DEFAULT, self.clock, broken)),
        ):
            made = cast(tuple[Any, ...], parts)
            yield Verifier(cast(Any, lookup), *made), AsyncVerifier(Inline(cast(Any, lookup)), *made)

    def websocket(self, at: int, part: str) -> None:
        """
        Open a websocket whose hook or digester fails at the n-th call: while it is opened, or while it is judged again,
        which is the one place that logs a traceback.
        """
        calls = 0
        closed = asyncio.Event()
        digester = self.door.secrets.digester()

        def count(name: str) -> None:
            nonlocal calls
            calls += name == part
            if calls == at:
                raise Broken(name)

        def digests(token: Token) -> Sequence[bytes]:
            count("digester")
            return digester.digests(token)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            count("app")
            await closed.wait()

        async def send(message: Any) -> None:
            self.note("responses", message)
            closed.set()

        verifier = AsyncVerifier(
            Inline(self.door.store),
            cast(Any, Parts(digests=digests)),
            doorkey.DEFAULT,
            self.clock,
            lambda decision: count("hook"),
        )
        middleware = asgi.DoorkeyMiddleware(app, verifier, policy=POLICY, recheck=0.001)
        headers = [(b"authorization", basic(self.tokens["test"]).encode())]
        scope = {"type": "websocket", "path": "/feed", "headers": headers}
        try:
            asyncio.run(SentryAsgiMiddleware(middleware)(scope, broken, send))
        except Broken as error:
            self.raised.append(error)

    def closed(self) -> None:
        """A store that is closed, and one whose secrets are gone."""
        self.door.close()
        self.ask((self.door.verifier, self.door.async_verifier), "/messages", [basic(self.tokens["test"])])
        self.expecting(lambda: self.door.keyring.acting("ann").revoke(self.keys["test"], because="leaked"))
        self.expecting(lambda: doorkey.open(f"sqlite:///{self.path}", secret=MasterSecrets.generate()))


class Parts:
    """An object of some members, in the place of one that has more."""

    def __init__(self, **members: Any) -> None:
        self.__dict__.update(members)


def broken(*args: object) -> NoReturn:
    raise Broken("a part of somebody else")


@contextmanager
def sentry() -> Iterator[Memory]:
    """Sentry's SDK as it is by default, but for the places that it reports to and those that it watches by itself."""
    memory = Memory()
    client = sentry_sdk.Client(
        dsn="https://key@sentry.example/1",
        transport=memory,
        default_integrations=False,
        integrations=[LoggingIntegration(), DedupeIntegration()],
    )
    with sentry_sdk.isolation_scope(), sentry_sdk.new_scope() as scope:
        scope.set_client(client)
        yield memory
    client.close()


@dataclass
class Evidence:
    canaries: Canaries
    outputs: dict[str, list[str]]
    events: list[dict[str, Any]]
    raised: list[BaseException]
    mistaken: list[BaseException]


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """Go the whole way once."""
    octets = [os.urandom(32), os.urandom(32)]
    canaries = Canaries()
    for number, secret in enumerate(octets):
        canaries.add_octets(f"master secret {number}", secret)
    path = tmp_path_factory.mktemp("leaks") / "keys.db"
    clock, decisions = Clock(), list[Decision]()
    printed, handler, root = io.StringIO(), Gathering(), logging.getLogger()
    level = root.level
    root.setLevel(logging.DEBUG)
    root.addHandler(handler)
    try:
        with redirect_stdout(printed), redirect_stderr(printed), sentry() as memory:
            door = doorkey.create(
                f"sqlite:///{path}", secret=MasterSecrets(octets), clock=clock, on_decision=decisions.append
            )
            journey = Journey(door, path, clock, canaries, decisions=decisions)
            journey.live()
            journey.judged()
            journey.broken()
            journey.note("database", path.read_bytes().decode("latin-1"))
            journey.note("database", Path(f"{path}-wal").read_bytes().decode("latin-1"))
            journey.closed()
            for text in (b64encode(octets[0]).decode()[:-2], f"{b64encode(octets[0]).decode()},x", octets[0].hex()):
                journey.expecting(lambda: MasterSecrets.parse(text))  # noqa: B023  # called at once
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    journey.outputs |= {"logs": handler.lines, "stdout and stderr": [printed.getvalue()]}
    return Evidence(canaries, journey.outputs, memory.events, journey.raised, journey.mistaken)


def test_the_search_finds() -> None:
    """Each canary is found in each of its forms, so that finding none means something."""
    canaries, token = Canaries(), mint(KeyType.SECRET, Mode.TEST)
    text, digest = token.expose(), os.urandom(32)
    canaries.add_token("t", token, [digest])
    for leak in (
        text,
        text[-36:-6],
        basic(token),
        bearer(token),
        repr([basic(token).encode()]),
        digest.hex(),
        repr(digest),
    ):
        assert canaries.found(f"before {leak} after")
    for offset in range(3):
        for octets in (text.encode(), digest):
            assert canaries.found(b64encode(b"x" * offset + octets + b"yyy").decode())
            assert canaries.found(urlsafe_b64encode(b"x" * offset + octets + b"yyy").decode())
    assert not canaries.found(f"{token!r} {token.hint} {mint(KeyType.SECRET, Mode.TEST).expose()}")


def test_the_way_was_long(evidence: Evidence) -> None:
    """What was searched is all that there should be: responses of each status, log lines, exceptions, values."""
    responses = "\n".join(evidence.outputs["responses"])
    for status in (200, 400, 401, 403, 503):
        assert f"'status': {status}" in responses and f"('{status} " in responses
    codes = ("missing", "malformed", "invalid", "expired", "revoked")
    for code in (
        *(f"api_key_{code}" for code in codes),
        "suspended",
        "network",
        "livemode",
        "secret_key",
        "permissions",
    ):
        assert code in responses, code
    logs = "\n".join(evidence.outputs["logs"])
    assert "no verdict" in logs and "cannot be judged again" in logs and "key.reveal" in logs
    kinds = {type(error).__name__ for error in (*evidence.raised, *evidence.mistaken)}
    assert {"Broken", "Dead", "AlreadyRevealed", "KeyRevoked", "KeyExpired", "RollPending", "NotFound"} <= kinds
    assert {"InvalidNetwork", "InvalidPermission", "InvalidSecret", "ConfigurationError", "StoreUnavailable"} <= kinds
    assert len(evidence.events) > 20
    assert {"values", "events", "database", "stdout and stderr"} <= set(evidence.outputs)


@pytest.mark.parametrize("where", ["responses", "logs", "stdout and stderr", "values", "events", "database"])
def test_nothing_comes_out(evidence: Evidence, where: str) -> None:
    """Neither responses nor logs, output, representations, audit events or files hold a secret (A14, G1, G4)."""
    # The database is where digests belong, in bytes.
    for text in evidence.outputs[where]:
        assert evidence.canaries.found(text) == []


def test_exceptions_tell_nothing(evidence: Evidence) -> None:
    """No exception of ours holds a secret, in its text, its arguments, its notes or its attributes (G3)."""
    ours = [error for error in (*evidence.raised, *evidence.mistaken) if isinstance(error, DoorkeyError)]
    assert len(ours) > 8
    for error in ours:
        seen: BaseException | None = error
        while seen is not None:
            parts = [str(seen), repr(seen), repr(seen.args), repr(vars(seen)), repr(getattr(seen, "__notes__", ()))]
            assert evidence.canaries.found("\n".join(parts)) == []
            seen = seen.__cause__ or seen.__context__


def our_frames(error: BaseException | None) -> Iterator[traceback.FrameSummary]:
    """The frames of doorkey in the traceback of an exception and of those that led to it, with their variables."""
    while error is not None:
        steps = [step for step in traceback.walk_tb(error.__traceback__) if step[0].f_code.co_filename.startswith(OURS)]
        yield from traceback.StackSummary.extract(iter(steps), capture_locals=True)
        error = error.__cause__ or error.__context__


def test_our_frames_show_nothing(evidence: Evidence) -> None:
    """In a traceback with local variables, no variable of a frame of doorkey shows a secret (G2)."""
    variables = [
        (f"{name} in {frame.name} at {frame.filename}:{frame.lineno}", value)
        for error in evidence.raised
        for frame in our_frames(error)
        for name, value in (frame.locals or {}).items()
        if name not in HANDED_OVER
    ]
    assert {place for place, value in variables if evidence.canaries.found(value, digests_too=False)} == set()
    assert len(variables) > 500


def ours_alone(event: dict[str, Any]) -> tuple[str, int]:
    """An event without others' texts and their frames' variables; and how many variables those of ours have."""
    event = json.loads(json.dumps(event))
    count = 0
    for error in event.get("exception", {}).get("values", []):
        if not (error["module"] or "").startswith("doorkey"):
            del error["value"]
        for frame in error["stacktrace"]["frames"]:
            variables = frame.get("vars", {})
            if frame["abs_path"].startswith(OURS):
                for name in HANDED_OVER:
                    variables.pop(name, None)
                count += len(variables)
            else:
                variables.clear()
    return json.dumps(event), count


def test_sentry_learns_nothing(evidence: Evidence) -> None:
    """No event that Sentry's SDK would send holds a secret that it has from us, local variables included (G2)."""
    variables = 0
    for event in evidence.events:
        text, count = ours_alone(event)
        variables += count
        assert evidence.canaries.found(text, digests_too=False) == [], text
    assert variables > 100


@pytest.mark.parametrize("text", ["a\r\nINFO root all is well", "a\x1b[2J", "a\u2028b", "a\x00b"])
def test_no_line_is_forged(text: str, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """What others choose forges no line of a log: no name has control characters, and no address is logged (G5)."""
    caplog.set_level(logging.DEBUG)
    with doorkey.create(f"sqlite:///{tmp_path / 'keys.db'}", secret=MasterSecrets.generate()) as door:
        ring = door.keyring.acting("ann")
        for attempt in (lambda: ring.provision(text), lambda: door.keyring.acting(text), lambda: ring.key(text)):
            with suppress(DoorkeyError):
                attempt()
                raise AssertionError("this should have raised")
        key = ring.issue(
            ring.provision("Acme").id, type=KeyType.SECRET, mode=Mode.TEST, name="x", networks=["192.0.2.0/24"]
        )
        good = basic(ring.reveal(key.id))
        proxies = TrustedProxies(["192.0.2.1"])
        for authorization in (good, text, f"Bearer {text}"):
            address = proxies.client("192.0.2.1", [(b"x-forwarded-for", text.encode())])
            door.verifier.verify(authorization, client_address=address)
            door.verifier.verify(authorization, client_address=text, requires=Requirement.ANY_KEY)
    for record in caplog.records:
        assert record.getMessage().isprintable()
