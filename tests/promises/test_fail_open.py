"""
Nothing that breaks lets anybody in (recipe 6, promise C9).

Everything that the middleware calls is wrapped: lookup, digester, clock, hook, policy, trusted proxies, the maker of
request ids, the token format, and what a record carries. The wrapper raises at the n-th call of them all, for every n
and for all kinds of exceptions: the application is then never entered, and the answer is 401, 403, 503, or the
exception itself, of which a server makes a 500.
"""

from __future__ import annotations

import asyncio
import io
import secrets
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from doorkey import DEFAULT, AsyncVerifier, Policy, Rule, TrustedProxies, Verifier
from doorkey.adapters import asgi, wsgi
from doorkey.core.digests import Digester
from doorkey.core.errors import InvalidAddress, MalformedToken, StoreUnavailable, UnreadableRecord
from doorkey.core.model import KeyType, Mode, Principal, Record
from doorkey.core.networks import NetworkSet
from doorkey.core.permissions import PermissionSet
from doorkey.core.tokens import Token, mint
from doorkey.testing import basic

NEVER = 10**9


class Fault(BaseException):
    """What nobody has ever heard of."""


ERRORS: Sequence[type[BaseException]] = (
    *(
        ValueError,
        KeyError,
        AttributeError,
        RuntimeError,
        RecursionError,
        MemoryError,
        OSError,
        TimeoutError,
        AssertionError,
    ),
    *(StoreUnavailable, UnreadableRecord, MalformedToken, InvalidAddress, StopIteration, StopAsyncIteration),
    *(KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError, Fault),
)


@dataclass
class Trap:
    """Counts the calls of everything that it is laid in, and raises at one of them."""

    at: int = NEVER
    error: type[BaseException] = Fault
    calls: list[str] = field(default_factory=list)

    def step(self, name: str) -> None:
        self.calls.append(name)
        if len(self.calls) == self.at:
            raise self.error("sprung")

    @property
    def sprung(self) -> bool:
        return len(self.calls) >= self.at

    def laid(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """*call*, with this trap before it."""

        def stepped(*args: Any, **kwargs: Any) -> Any:
            self.step(name)
            return call(*args, **kwargs)

        return stepped


class Members:
    """An object of some callables and values, in the place of one that has more."""

    def __init__(self, **members: Any) -> None:
        self.__dict__.update(members)


TOKEN = mint(KeyType.SECRET, Mode.TEST)
DIGESTER = Digester([secrets.token_bytes(32)])
POLICY = Policy(
    [
        Rule("GET", "/messages", "messages:read"),
        Rule("WEBSOCKET", "/feed", "messages:read"),
        Rule.open("GET", "/healthz"),
    ]
)
PROXIES = TrustedProxies(["10.0.0.1"])


@dataclass
class House:
    """Both middlewares with a trap in every part, and a note of how often the application was entered."""

    trap: Trap
    entered: int = 0

    def record(self) -> Record:
        """A record whose very members may fail."""
        networks, held = NetworkSet.parse(["203.0.113.0/24"]), PermissionSet.parse(["messages:read"])
        permissions = Members(isdisjoint=self.trap.laid("permissions", held.isdisjoint))
        principal = Principal("ws_1", "key_1", TOKEN.id, TOKEN.type, TOKEN.mode, cast(PermissionSet, permissions))
        return Record(
            DIGESTER.digests(TOKEN)[0],
            principal,
            expires_at=2**40,
            networks=cast(NetworkSet, Members(contains=self.trap.laid("networks", networks.contains))),
        )

    def find(self, digests: Sequence[bytes]) -> Record | None:
        self.trap.step("lookup")
        record = self.record()
        return record if record.digest in digests else None

    async def find_later(self, digests: Sequence[bytes]) -> Record | None:
        return self.find(digests)

    def parts(self) -> tuple[Any, ...]:
        """What a verifier is built of besides its lookup."""
        trap = self.trap
        format = Members(parse=trap.laid("format", DEFAULT.format.parse))
        return (
            Members(digests=trap.laid("digester", DIGESTER.digests)),
            replace(DEFAULT, format=cast(Any, format)),
            trap.laid("clock", lambda: 1_800_000_000),
            trap.laid("hook", lambda decision: None),
        )

    def options(self) -> dict[str, Any]:
        """What a middleware is built with besides its verifier."""
        return {
            "policy": Members(judged_by=self.trap.laid("policy", POLICY.judged_by)),
            "trusted_proxies": Members(header=PROXIES.header, client=self.trap.laid("proxies", PROXIES.client)),
            "request_id": self.trap.laid("request id", lambda: "req_1"),
        }

    def asgi(self, app: asgi.Application, **options: Any) -> asgi.DoorkeyMiddleware:
        verifier = AsyncVerifier(cast(Any, Members(find=self.find_later)), *self.parts())
        return asgi.DoorkeyMiddleware(app, verifier, **self.options(), **options)

    def wsgi(self, app: wsgi.Application) -> wsgi.DoorkeyMiddleware:
        return wsgi.DoorkeyMiddleware(
            app, Verifier(cast(Any, Members(find=self.find)), *self.parts()), **self.options()
        )


@dataclass(frozen=True)
class Case:
    """A request; *calls* are the parts that it comes through when nothing fails."""

    path: str
    token: Token | None
    client: str
    status: int
    calls: Sequence[str]


_TO_THE_STORE = ("policy", "proxies", "format", "digester", "lookup")
_TO_THE_END = (*_TO_THE_STORE, "clock", "networks")

CASES = {
    "granted": Case("/messages", TOKEN, "203.0.113.7", 200, (*_TO_THE_END, "permissions", "hook")),
    "open": Case("/healthz", None, "203.0.113.7", 200, ("policy",)),
    "missing": Case("/messages", None, "203.0.113.7", 401, ("policy", "proxies", "hook", "request id")),
    "unknown": Case(
        "/messages",
        mint(KeyType.SECRET, Mode.TEST),
        "203.0.113.7",
        401,
        (*_TO_THE_STORE, "clock", "hook", "request id"),
    ),
    "network": Case("/messages", TOKEN, "198.51.100.9", 403, (*_TO_THE_END, "hook", "request id")),
    "permission": Case("/unheard-of", TOKEN, "203.0.113.7", 403, (*_TO_THE_END, "hook", "request id")),
}


def over_asgi(house: House, case: Case) -> int:
    """The status that an ASGI server would see. No event loop stands between that could hold an exception back."""
    statuses: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        house.entered += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Any:
        raise AssertionError("nothing is received")

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = [(b"x-forwarded-for", case.client.encode())]
    if case.token is not None:
        headers.append((b"authorization", basic(case.token).encode()))
    scope = {"type": "http", "method": "GET", "path": case.path, "headers": headers, "client": ("10.0.0.1", 1)}
    call: Coroutine[Any, Any, None] = house.asgi(app)(scope, receive, send)
    try:
        call.send(None)
    except StopIteration:
        return statuses[0]
    raise AssertionError("it waits for something")


def over_wsgi(house: House, case: Case) -> int:
    """The status that a WSGI server would see."""
    statuses: list[int] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        house.entered += 1
        start_response("200 OK", [])
        return []

    environ: dict[str, Any] = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": case.path,
        "REMOTE_ADDR": "10.0.0.1",
        "HTTP_X_FORWARDED_FOR": case.client,
        "wsgi.errors": io.StringIO(),
    }
    if case.token is not None:
        environ["HTTP_AUTHORIZATION"] = basic(case.token)
    list(house.wsgi(app)(environ, lambda status, headers: statuses.append(int(status[:3]))))
    return statuses[0]


INTERFACES = pytest.mark.parametrize("call", [over_asgi, over_wsgi], ids=["asgi", "wsgi"])


@INTERFACES
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_traps_lie_everywhere(call: Callable[[House, Case], int], case: Case) -> None:
    """Without a fault the request has its answer, and comes through all the parts that the traps lie in."""
    house = House(Trap())
    assert call(house, case) == case.status
    assert house.entered == (case.status == 200)
    assert house.trap.calls == list(case.calls)


def test_every_part_is_met() -> None:
    """Between them, the requests meet each of the parts."""
    everything = {
        "policy",
        "proxies",
        "format",
        "digester",
        "lookup",
        "clock",
        "networks",
        "permissions",
        "hook",
        "request id",
    }
    assert {name for case in CASES.values() for name in case.calls} == everything


@INTERFACES
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_fault_lets_nobody_in(call: Callable[[House, Case], int], case: Case, error: type[BaseException]) -> None:
    """Whatever part fails, in whatever way: the application is not entered."""
    for at in range(1, len(case.calls) + 1):
        house = House(Trap(at, error))
        try:
            status = call(house, case)
        except BaseException as raised:
            # A coroutine may not raise these two, so Python wraps them (PEP 479).
            causes = (raised, raised.__cause__)
            assert any(type(cause) is error and cause.args == ("sprung",) for cause in causes)
            assert not (house.trap.calls[-1] == "lookup" and issubclass(error, Exception))
        else:
            assert status in (401, 403, 503)
        assert house.trap.sprung
        assert house.entered == 0, house.trap.calls


# Websockets are judged by the same parts, once more before the application is entered and again while they are open.


def over_websocket(house: House, rounds: int) -> list[str]:
    """
    Open a websocket and let it be judged again *rounds* times, or until the trap springs. What the client says after
    that is returned as far as the application hears it.
    """
    heard: list[str] = []
    before = len(_TO_THE_END) + 2  # the parts of one judgement

    async def app(scope: Any, receive: Any, send: Any) -> None:
        house.entered += 1
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            heard.append(message["text"])

    async def messages() -> Any:
        yield {"type": "websocket.connect"}
        async with asyncio.timeout(5):
            while not house.trap.sprung and len(house.trap.calls) < before * (2 + rounds):
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.005)
        yield {"type": "websocket.receive", "text": "late"}
        yield {"type": "websocket.disconnect", "code": 1001}

    async def send(message: Any) -> None:
        """Into the void."""

    async def connect() -> None:
        incoming = messages()
        headers = [(b"x-forwarded-for", b"203.0.113.7"), (b"authorization", basic(TOKEN).encode())]
        scope = {"type": "websocket", "path": "/feed", "headers": headers, "client": ("10.0.0.1", 1)}
        try:
            await house.asgi(app, recheck=0.001)(scope, incoming.__anext__, send)
        finally:
            await incoming.aclose()

    asyncio.run(connect())
    return heard


def test_a_websocket_stays_open_without_a_fault() -> None:
    """The client of a websocket that is granted again and again is heard to the end."""
    house = House(Trap())
    assert over_websocket(house, rounds=3) == ["late"]
    assert house.entered == 1


@pytest.mark.parametrize("error", ERRORS)
def test_a_fault_opens_no_websocket_and_leaves_none_open(error: type[BaseException]) -> None:
    """Before the application is entered, a fault keeps it closed; while a websocket is open, a fault cuts it off."""
    clean = House(Trap())
    over_websocket(clean, rounds=1)
    first = clean.trap.calls.index("hook") + 1
    entry = first + len(("format", "digester", "proxies"))
    assert clean.trap.calls[first:entry] == ["format", "digester", "proxies"]
    for at in range(1, entry + len(("lookup", "clock", "networks", "permissions", "hook")) + 1):
        house = House(Trap(at, error))
        try:
            heard = over_websocket(house, rounds=1)
        except BaseException as raised:
            # A token that was read a moment ago and now is malformed is a fault of ours.
            assert any(type(cause) in (error, AssertionError) for cause in (raised, raised.__cause__))
            heard = []
        assert house.trap.sprung
        assert heard == []
        assert house.entered == (at > entry), house.trap.calls
