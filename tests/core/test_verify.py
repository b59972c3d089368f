"""From an ``Authorization`` field to a verdict: each gate, their order, and that nothing fails open."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import traceback
from base64 import b64encode
from collections.abc import Callable, Coroutine, Sequence
from itertools import product
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorkey import Doorkey
from doorkey.core.credentials import Authorization
from doorkey.core.digests import Digester
from doorkey.core.errors import ConfigurationError, InvalidPermission, StoreUnavailable, UnreadableRecord
from doorkey.core.model import (
    Decision,
    Denied,
    Granted,
    KeyType,
    Mode,
    Principal,
    Reason,
    Record,
    Requirement,
    Unavailable,
)
from doorkey.core.networks import NetworkSet
from doorkey.core.permissions import PermissionSet
from doorkey.core.profiles import DEFAULT, FALU, FLUVEO, Profile
from doorkey.core.tokens import Token, mint
from doorkey.core.verify import (
    MALFORMED,
    MISSING,
    UNKNOWN,
    AsyncVerifier,
    Remembered,
    Verifier,
    authorize,
    identify,
    read,
    requirement_of,
)
from doorkey.storage.aio import Inline
from doorkey.testing import Clock, basic, bearer, door, issue

START = 1_800_000_000
PEPPERS = bytes(range(32)), bytes(range(32, 64))
DIGESTER = Digester(PEPPERS[:1])
TOKEN = mint(KeyType.SECRET, Mode.TEST)
DIGEST = DIGESTER.digests(TOKEN)[0]
SENT = bearer(TOKEN)
INSIDE, OUTSIDE = "203.0.113.7", "198.51.100.7"
ANY = Requirement.ANY_KEY

Value = TypeVar("Value")


def principal_of(token: Token, permissions: Sequence[str] | None = None) -> Principal:
    held = None if permissions is None else PermissionSet.parse(permissions)
    return Principal("ws_1", "key_1", token.id, token.type, token.mode, held)


RECORD = Record(DIGEST, principal_of(TOKEN))


class Lookup:
    """A stranger's lookup: it answers whatever it was given to answer, raises it if it is an exception, and counts."""

    def __init__(self, answer: object = RECORD) -> None:
        self.answer: Any = answer
        self.asked: list[Sequence[bytes]] = []

    def find(self, digests: Sequence[bytes]) -> Record | None:
        self.asked.append(digests)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]


def driven(coroutine: Coroutine[Any, Any, Value]) -> Value:
    """What a coroutine that never waits returns; without an event loop, every exception arrives as it was raised."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("it waited")


Judge = Callable[..., Decision]


def judges(
    lookup: Lookup, digester: Any = DIGESTER, profile: Profile = DEFAULT, clock: Any = lambda: START, hook: Any = None
) -> list[Judge]:
    """Every way to a whole verdict: sync and async, at once and in two steps."""
    sync = Verifier(lookup, digester, profile, clock, hook)
    other = AsyncVerifier(Inline(lookup), digester, profile, clock, hook)

    def in_two_steps(authorization: Authorization, *, requires: Any = (), **options: Any) -> Decision:
        who = sync.identify(authorization, **options)
        return sync.authorize(who, requires) if isinstance(who, Principal) else who

    def in_two_async_steps(authorization: Authorization, *, requires: Any = (), **options: Any) -> Decision:
        who = driven(other.identify(authorization, **options))
        return other.authorize(who, requires) if isinstance(who, Principal) else who

    return [
        sync.verify,
        lambda *args, **options: driven(other.verify(*args, **options)),
        in_two_steps,
        in_two_async_steps,
    ]


def verdict(lookup: Lookup, authorization: Authorization = SENT, **options: Any) -> Decision:
    """The verdict, which is the same however it is reached."""
    setup = {name: options.pop(name) for name in ("digester", "profile", "clock", "hook") if name in options}
    decisions = [judge(authorization, **options) for judge in judges(lookup, **setup)]
    assert all(decision == decisions[0] for decision in decisions)
    return decisions[0]


# Every reason, from a real store


class House:
    """A door in memory, and a workspace with what the tables below need of it."""

    def __init__(self, profile: Profile = DEFAULT) -> None:
        self.decisions: list[Decision] = []
        self.clock = Clock(START)
        self.door: Doorkey = door(profile=profile, clock=self.clock, on_decision=self.decisions.append)
        self.ring = self.door.keyring.acting("ann")
        self.workspace = self.ring.approve(self.ring.provision("Acme").id).id

    def key(self, type: KeyType = KeyType.SECRET, mode: Mode = Mode.TEST, **options: Any) -> tuple[str, Token]:
        key = self.ring.issue(self.workspace, type=type, mode=mode, name="test", **options)
        return key.id, self.ring.reveal(key.id)

    def judge(self, authorization: Authorization, **asked: Any) -> Decision:
        decision = self.door.verifier.verify(authorization, **asked)
        assert decision == driven(self.door.async_verifier.verify(authorization, **asked))
        assert len(self.decisions) == 2
        assert self.decisions[0] == self.decisions[1]
        return decision


def unknown(house: House) -> Token:
    return mint(KeyType.SECRET, Mode.TEST, house.door.profile.format)


def good(house: House) -> Token:
    return house.key()[1]


def revoked(house: House) -> Token:
    key, token = house.key()
    house.ring.revoke(key, because="lost")
    return token


def reissued(house: House) -> Token:
    key, token = house.key()
    house.ring.reissue(key, because="leaked")
    return token


def expired(house: House) -> Token:
    key, token = house.key()
    house.ring.set_expiry(key, START + 60)
    house.clock.advance(60)
    return token


def about_to_expire(house: House) -> Token:
    key, token = house.key()
    house.ring.set_expiry(key, START + 60)
    house.clock.advance(59.999)
    return token


def rolled_with_grace(house: House) -> Token:
    key, token = house.key()
    house.ring.roll(key, 60)
    house.clock.advance(59)
    return token


def rolled(house: House) -> Token:
    key, token = house.key()
    house.ring.roll(key, 60)
    house.clock.advance(60)
    return token


def rolled_at_once(house: House) -> Token:
    key, token = house.key()
    house.ring.roll(key, 0)
    return token


def grace_ended(house: House) -> Token:
    key, token = house.key()
    house.ring.roll(key, 60)
    house.ring.end_grace(key)
    return token


def successor(house: House) -> Token:
    key, _ = house.key()
    house.ring.roll(key, 0)
    return house.ring.reveal(key)


def suspended(house: House) -> Token:
    _, token = house.key()
    house.ring.suspend(house.workspace)
    return token


def resumed(house: House) -> Token:
    token = suspended(house)
    house.ring.resume(house.workspace)
    return token


def networked(house: House) -> Token:
    return house.key(networks=["203.0.113.0/24"])[1]


def restricted(house: House) -> Token:
    return house.key(permissions=["messages:read", "charges"])[1]


def publishable(house: House) -> Token:
    return house.key(KeyType.PUBLISHABLE)[1]


def live(house: House) -> Token:
    return house.key(mode=Mode.LIVE)[1]


OPEN_TO_PUBLISHABLE = Requirement("tokens:write", publishable=True)

STATES: list[tuple[Callable[[House], Token], dict[str, Any], Reason | None]] = [
    (good, {}, None),
    (good, {"requires": "messages:read"}, None),
    (good, {"requires": Requirement(mode=Mode.TEST)}, None),
    (unknown, {}, Reason.UNKNOWN),
    (revoked, {}, Reason.REVOKED),
    (reissued, {}, Reason.REVOKED),
    (expired, {}, Reason.EXPIRED),
    (about_to_expire, {}, None),
    (rolled_with_grace, {}, None),
    (rolled, {}, Reason.EXPIRED),
    (rolled_at_once, {}, Reason.EXPIRED),
    (grace_ended, {}, Reason.EXPIRED),
    (successor, {}, None),
    (suspended, {}, Reason.WORKSPACE_SUSPENDED),
    (resumed, {}, None),
    (networked, {"client_address": INSIDE}, None),
    (networked, {"client_address": f"::ffff:{INSIDE}"}, None),
    (networked, {"client_address": OUTSIDE}, Reason.NETWORK),
    (networked, {"client_address": "2001:db8::1"}, Reason.NETWORK),
    (networked, {"client_address": None}, Reason.NETWORK),
    (networked, {"client_address": ""}, Reason.NETWORK),
    (networked, {"client_address": "unix:"}, Reason.NETWORK),
    (networked, {"client_address": "203.0.113.7:80"}, Reason.NETWORK),
    (networked, {"client_address": "203.0.113.7, 198.51.100.7"}, Reason.NETWORK),
    (networked, {"client_address": "203.0.113.0/24"}, Reason.NETWORK),
    (good, {"client_address": "no address"}, None),
    (live, {"requires": Requirement(mode=Mode.LIVE)}, None),
    (live, {"requires": Requirement(mode=Mode.TEST)}, Reason.LIVEMODE),
    (good, {"requires": Requirement(mode=Mode.LIVE)}, Reason.LIVEMODE),
    (publishable, {}, Reason.SECRET_KEY_REQUIRED),
    (publishable, {"requires": "messages:read"}, Reason.SECRET_KEY_REQUIRED),
    (publishable, {"requires": OPEN_TO_PUBLISHABLE}, None),
    (publishable, {"requires": ANY}, None),
    (restricted, {"requires": "messages:read"}, None),
    (restricted, {"requires": ["messages:read", "charges:write"]}, None),
    (restricted, {"requires": "messages:write"}, Reason.PERMISSIONS),
    (restricted, {"requires": ["messages:read", "messages:write"]}, Reason.PERMISSIONS),
    (restricted, {"requires": ["messages:write", "messages:read"]}, Reason.PERMISSIONS),
    (restricted, {"requires": "*"}, Reason.PERMISSIONS),
    (restricted, {}, Reason.PERMISSIONS),
    (restricted, {"requires": []}, Reason.PERMISSIONS),
    (restricted, {"requires": Requirement(publishable=True)}, Reason.PERMISSIONS),
    (restricted, {"requires": ANY}, None),
    (good, {"requires": ANY}, None),
]


@pytest.mark.parametrize(("prepare", "asked", "reason"), STATES, ids=lambda value: getattr(value, "__name__", None))
def test_every_state_of_a_key_has_its_verdict(
    prepare: Callable[[House], Token], asked: dict[str, Any], reason: Reason | None
) -> None:
    """Keys made, changed and ended by the keyring, in a real store: each state gives its own reason, or lets in."""
    house = House()
    token = prepare(house)
    decision = house.judge(basic(token), **asked)
    if reason is None:
        assert isinstance(decision, Granted)
        assert decision.principal.workspace == house.workspace
        assert (decision.principal.token_id, decision.principal.type, decision.principal.mode) == (
            token.id,
            token.type,
            token.mode,
        )
    else:
        assert isinstance(decision, Denied)
        assert decision.reason is reason
    house.decisions.clear()
    assert house.judge(bearer(token), **asked) == decision


@pytest.mark.parametrize("profile", [DEFAULT, FALU, FLUVEO], ids=lambda profile: profile.name)
def test_a_profile_reads_its_own_tokens(profile: Profile) -> None:
    """Under each profile a key of its own is let in, and another profile's is malformed, whatever the store holds."""
    house = House(profile)
    assert isinstance(house.judge(bearer(good(house))), Granted)
    house.decisions.clear()
    other = FALU if profile is not FALU else DEFAULT
    assert house.judge(bearer(mint(KeyType.SECRET, Mode.TEST, other.format))) == MALFORMED


# The order of the gates

GATES = [
    Reason.REVOKED,
    Reason.EXPIRED,
    Reason.WORKSPACE_SUSPENDED,
    Reason.NETWORK,
    Reason.LIVEMODE,
    Reason.SECRET_KEY_REQUIRED,
    Reason.PERMISSIONS,
]


@pytest.mark.parametrize("closed", list(product([False, True], repeat=len(GATES))))
def test_the_first_closed_gate_gives_the_reason(closed: tuple[bool, ...]) -> None:
    """Whichever gates are closed, and however many: the reason is the first one's, in the published order."""
    shut = dict(zip(GATES, closed, strict=True))
    token = mint(KeyType.PUBLISHABLE, Mode.TEST)
    record = Record(
        DIGESTER.digests(token)[0],
        principal_of(token, ["messages:read"]),
        revoked=shut[Reason.REVOKED],
        expires_at=START if shut[Reason.EXPIRED] else START + 1,
        suspended=shut[Reason.WORKSPACE_SUSPENDED],
        networks=NetworkSet.parse(["203.0.113.0/24"]),
    )
    requirement = Requirement(
        "messages:write" if shut[Reason.PERMISSIONS] else "messages:read",
        publishable=not shut[Reason.SECRET_KEY_REQUIRED],
        mode=Mode.LIVE if shut[Reason.LIVEMODE] else Mode.TEST,
    )
    address = OUTSIDE if shut[Reason.NETWORK] else INSIDE
    decision = verdict(Lookup(record), bearer(token), client_address=address, requires=requirement)
    first = next((gate for gate in GATES if shut[gate]), None)
    if first is None:
        assert decision == Granted(record.principal)
    else:
        assert isinstance(decision, Denied)
        assert decision.reason is first


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (None, MISSING),
        ("", MISSING),
        ("Negotiate abc", MISSING),
        ("Basic", MALFORMED),
        ("Basic Og==", MALFORMED),
        ("Bearer", MALFORMED),
        ("Bearer x", MALFORMED),
        ([SENT, SENT], MALFORMED),
        (f"{SENT}, {basic(TOKEN)}", MALFORMED),
        (bearer(TOKEN.expose()[:-1]), MALFORMED),
        (bearer(TOKEN.expose().replace("test", "live", 1)), MALFORMED),
        (b"Basic " + b64encode(TOKEN.expose().encode() + b":password"), MALFORMED),
        (b"Basic " + b"A" * 70_000, MALFORMED),
        (bearer(TOKEN.expose() + "\n"), MALFORMED),
        (bearer("é"), MALFORMED),
    ],
)
def test_no_store_is_asked_in_vain(line: Authorization, expected: Denied) -> None:
    """What presents no token, and what is malformed, checksum included, is refused without asking the store."""
    lookup = Lookup()
    assert verdict(lookup, line, requires=ANY) is expected
    assert lookup.asked == []
    assert read(line) is expected


def test_the_store_is_asked_once() -> None:
    """One read per verdict, with every digest that the token may be stored under."""
    for answer in (RECORD, None, StoreUnavailable("down")):
        lookup = Lookup(answer)
        digester = Digester(PEPPERS)
        for judge in judges(lookup, digester):
            lookup.asked.clear()
            judge(SENT)
            assert lookup.asked == [digester.digests(TOKEN)]


# Type and mode

KINDS = list(product(KeyType, Mode))


@pytest.mark.parametrize(("type", "mode"), KINDS)
@pytest.mark.parametrize("publishable", [False, True])
@pytest.mark.parametrize("wanted", [None, *Mode])
def test_what_a_kind_of_key_may_do(type: KeyType, mode: Mode, publishable: bool, wanted: Mode | None) -> None:
    """Mode first, then type: a key of the other mode never gets in, a publishable one only where that is declared."""
    token = mint(type, mode)
    lookup = Lookup(Record(DIGESTER.digests(token)[0], principal_of(token)))
    requirement = Requirement("a", publishable, wanted)
    decision = verdict(lookup, basic(token), requires=requirement)
    if wanted not in (None, mode):
        assert decision == Denied(Reason.LIVEMODE, requirement=requirement)
    elif type is KeyType.PUBLISHABLE and not publishable:
        assert decision == Denied(Reason.SECRET_KEY_REQUIRED, requirement=requirement)
    else:
        assert decision == Granted(principal_of(token))


@pytest.mark.parametrize(("said", "stored"), list(product(KINDS, KINDS)))
def test_the_record_and_the_prefix_must_agree(
    said: tuple[KeyType, Mode], stored: tuple[KeyType, Mode], caplog: pytest.LogCaptureFixture
) -> None:
    """A record of another type or mode than the token's text says is corrupt, and grants nothing."""
    token = mint(*said)
    principal = principal_of(token)._replace(type=stored[0], mode=stored[1])
    decision = verdict(Lookup(Record(DIGESTER.digests(token)[0], principal)), bearer(token), requires=ANY)
    assert isinstance(decision, Granted if said == stored else Unavailable)
    assert bool(caplog.records) is (said != stored)


def test_any_key_must_be_said() -> None:
    """A requirement without permissions admits unrestricted secret keys alone, even if publishable keys may come."""
    held = principal_of(TOKEN, ["*"])
    for strict in (Requirement(), Requirement(publishable=True), Requirement(mode=Mode.TEST)):
        assert authorize(held, strict) == Denied(Reason.PERMISSIONS, requirement=strict)
        assert authorize(held._replace(permissions=None), strict) is None
    assert authorize(held, ANY) is None
    assert authorize(held, Requirement(mode=Mode.LIVE, any_key=True)) is not None
    nothing = held._replace(permissions=PermissionSet())
    assert authorize(nothing, Requirement("a")) == Denied(Reason.PERMISSIONS, requirement=Requirement("a"))


@pytest.mark.parametrize("permissions", [None, ["*"]])
@pytest.mark.parametrize("type", KeyType)
@pytest.mark.parametrize(
    "requirement", [Requirement.NOBODY, Requirement(mode=Mode.TEST, publishable=True, nobody=True)]
)
def test_nobody_is_nobody(permissions: list[str] | None, type: KeyType, requirement: Requirement) -> None:
    """What requires nobody is closed to each key, and the reason blames no key."""
    principal = principal_of(TOKEN, permissions)._replace(type=type)
    assert authorize(principal, requirement) == Denied(Reason.UNDECLARED)


# Records that are not this token's


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (RECORD._replace(digest=bytes(32)), "another digest"),
        (RECORD._replace(digest=DIGEST[:-1]), "another digest"),
        (RECORD._replace(digest=DIGEST + b"\0"), "another digest"),
        (RECORD._replace(digest=b""), "another digest"),
        (RECORD._replace(principal=RECORD.principal._replace(token_id="muTFmv6k")), "of another id"),
        (RECORD._replace(principal=RECORD.principal._replace(token_id="")), "of another id"),
        (RECORD._replace(digest=bytes(32), revoked=True), "another digest"),
        (tuple(RECORD), "returned a tuple"),
        (RECORD.principal, "returned a Principal"),
        ("junk", "returned a str"),
        ({"digest": DIGEST}, "returned a dict"),
        ([RECORD], "returned a list"),
        (True, "returned a bool"),
        (False, "returned a bool"),
        (0, "returned a int"),
        (object(), "returned a object"),
    ],
)
def test_a_wrong_answer_grants_nothing(answer: object, cause: str, caplog: pytest.LogCaptureFixture) -> None:
    """A lookup that returns another token's record, or no record at all, leaves no verdict; the log says why."""
    decision = verdict(Lookup(answer), requires=ANY)
    assert isinstance(decision, Unavailable)
    assert cause in decision.cause
    assert cause in caplog.text


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_a_coroutine_is_no_record() -> None:
    """A lookup that turns out to be asynchronous grants nothing."""

    async def find(digests: Sequence[bytes]) -> Record | None:
        return RECORD

    class Disguised:
        def find(self, digests: Sequence[bytes]) -> Any:
            return find(digests)

    decision = Verifier(Disguised(), DIGESTER).verify(SENT, requires=ANY)
    assert decision == Unavailable("the lookup returned a coroutine, which is no record")


def test_a_digest_is_no_credential() -> None:
    """Nothing that a store holds lets anybody in: neither the digest nor the sealed token, in any spelling."""
    house = House()
    key, token = house.key()
    stored = house.door.store.key(key)
    assert stored is not None
    assert stored.tokens[0].sealed is not None
    for octets in (stored.tokens[0].digest, stored.tokens[0].sealed, house.door.secrets.digester().digests(token)[0]):
        for text in (octets.hex(), b64encode(octets).decode(), f"{token.prefix}_{token.id}_{octets.hex()[:36]}"):
            for authorization in (basic(text), bearer(text), f"Basic {text}"):
                assert house.door.verifier.verify(authorization, requires=ANY) == MALFORMED


def test_a_forged_token_is_unknown() -> None:
    """A well-formed token with the id of a real one, and a checksum that is right, is a token that does not exist."""
    house = House()
    _, token = house.key()
    forged = mint(token.type, token.mode).expose()
    decision = house.judge(bearer(forged), requires=ANY)
    assert decision is UNKNOWN
    assert decision == Denied(Reason.UNKNOWN)


def test_two_secrets() -> None:
    """A token is found under each accepted secret, and under no other."""
    old, new = (Digester([pepper]).digests(TOKEN)[0] for pepper in PEPPERS)
    both = Digester(PEPPERS)
    assert verdict(Lookup(RECORD._replace(digest=old)), digester=both) == Granted(RECORD.principal)
    assert verdict(Lookup(RECORD._replace(digest=new)), digester=both) == Granted(RECORD.principal)
    assert isinstance(verdict(Lookup(RECORD._replace(digest=new)), digester=DIGESTER), Unavailable)


@pytest.mark.parametrize(
    ("digests", "answer", "expected"),
    [
        ([], None, Denied),
        ([], RECORD, Unavailable),
        ([bytes(32)], None, Unavailable),  # the digest of nobody, found by nobody
        ([bytes(32)], RECORD._replace(digest=bytes(32)), Granted),
        ([b""], RECORD._replace(digest=b""), Granted),
    ],
)
def test_a_strangers_digests(digests: list[bytes], answer: Record | None, expected: type) -> None:
    """Whatever a digester of one's own computes, only a record that answers to it is let in."""

    class Strange:
        def digests(self, token: Token) -> Sequence[bytes]:
            return digests

    assert isinstance(verdict(Lookup(answer), digester=Strange()), expected)


# Time


@pytest.mark.parametrize(
    ("expires_at", "now", "reason"),
    [
        (None, 10**12, None),
        (START, START - 1, None),
        (START, START - 0.001, None),
        (START, START, Reason.EXPIRED),
        (START, START + 0.001, Reason.EXPIRED),
        (START, START + 1, Reason.EXPIRED),
        (0, START, Reason.EXPIRED),
        (0, 0, Reason.EXPIRED),
        (-1, 0, Reason.EXPIRED),
    ],
)
def test_a_key_is_expired_from_its_very_second_on(expires_at: int | None, now: float, reason: Reason | None) -> None:
    """``now >= expires_at`` is expired, to the fraction of a second."""
    decision = verdict(Lookup(RECORD._replace(expires_at=expires_at)), clock=lambda: now)
    assert decision == (Granted(RECORD.principal) if reason is None else Denied(reason))


def test_the_clock_is_asked_after_the_store() -> None:
    """A store that takes long does not keep an expired key alive."""
    clock = Clock(START)

    class Slow(Lookup):
        def find(self, digests: Sequence[bytes]) -> Record | None:
            clock.advance(10)
            return super().find(digests)

    for number, judge in enumerate(judges(Slow(RECORD._replace(expires_at=START + 10)), clock=clock)):
        clock.now = START
        assert judge(SENT) == Denied(Reason.EXPIRED), number


# Faults

FAULTS: list[Exception] = [
    StoreUnavailable("the store is down"),
    UnreadableRecord("the record of token muTFmv6k is broken"),
    OSError("no route to host"),
    TimeoutError(),
    sqlite3.OperationalError("database is locked"),
    KeyError(DIGEST),
    ValueError(f"bad parameter {DIGEST!r}"),
    RuntimeError(f"could not find {DIGEST.hex()}"),
    MemoryError(),
    RecursionError("too deep"),
    StopIteration(),
    ExceptionGroup("several", [ValueError(DIGEST.hex())]),
    AssertionError("impossible"),
    UnicodeDecodeError("utf-8", DIGEST, 0, 1, "invalid start byte"),
]


def shows_nothing_of(token: Token, text: str) -> bool:
    """Whether neither the token, nor its headers, nor its digest can be read there."""
    digest = DIGESTER.digests(token)[0]
    hidden = [token.expose()[-36:], basic(token)[-40:], digest.hex(), repr(digest), str(digest)[2:-1]]
    return not any(part in text for part in hidden)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_whatever_a_lookup_raises_is_unavailable(fault: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """No exception of a store lets anybody in, nor says that a key is wrong. The log quotes our own errors alone."""
    told: list[Decision] = []
    if isinstance(fault, StopIteration):  # which Python itself turns into a RuntimeError inside a coroutine
        decision = Verifier(Lookup(fault), DIGESTER, on_decision=told.append).verify(SENT, requires=ANY)
    else:
        decision = verdict(Lookup(fault), requires=ANY, hook=told.append)
    assert isinstance(decision, Unavailable)
    assert type(fault).__name__ in decision.cause
    assert "test_verify.py:" in decision.cause, "it says where"
    assert (str(fault) in decision.cause) is isinstance(fault, StoreUnavailable | UnreadableRecord) or str(fault) == ""
    assert set(told) == {decision}
    assert {(record.name, record.levelno) for record in caplog.records} == {("doorkey", logging.ERROR)}
    assert caplog.records[0].getMessage() == f"no verdict: {decision.cause}"
    assert caplog.records[0].exc_info is None
    assert shows_nothing_of(TOKEN, caplog.text + repr(decision))


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), SystemExit(1), asyncio.CancelledError(), GeneratorExit()])
def test_what_ends_a_task_or_a_process_is_not_held_up(fault: BaseException) -> None:
    """An interrupt, an exit and a cancellation pass through; no verdict comes of them, and nobody is told of one."""
    told: list[Decision] = []
    for judge in judges(Lookup(fault), hook=told.append):
        with pytest.raises(type(fault)):
            judge(SENT, requires=ANY)
    assert told == []


def test_a_cancelled_verdict_is_none() -> None:
    """A task that is cancelled while it waits for the store ends there."""

    class Waiting:
        async def find(self, digests: Sequence[bytes]) -> Record | None:
            await asyncio.Event().wait()
            return RECORD

    async def cancelled() -> bool:
        task = asyncio.create_task(AsyncVerifier(Waiting(), DIGESTER).verify(SENT, requires=ANY))
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(cancelled())


class Broken(Exception):
    """Something of the application's own went wrong."""


def broken(*_: object) -> Any:
    raise Broken


class BrokenDigester:
    digests = staticmethod(broken)


@pytest.mark.parametrize("part", ["digester", "clock", "hook"])
@pytest.mark.parametrize("answer", [RECORD, RECORD._replace(revoked=True), None], ids=["good", "revoked", "unknown"])
def test_another_exception_goes_on_to_the_server(part: str, answer: Record | None) -> None:
    """What a digester, a clock or a hook raises is nobody's verdict: it propagates, and nobody is let in."""
    options: dict[str, Any] = {part: BrokenDigester() if part == "digester" else broken}
    for judge in judges(Lookup(answer), **options):
        with pytest.raises(Broken):
            judge(SENT, requires=ANY)


@pytest.mark.parametrize("authorization", [None, "Basic", SENT], ids=["missing", "malformed", "good"])
def test_a_mistyped_permission_raises_whoever_asks(authorization: Authorization) -> None:
    """The developer's mistake is found by the first request, not by the first one with a good key."""
    sync, other, *_ = judges(Lookup())
    for judge in (sync, other):
        for requires in ("messages;read", ["a", ""], ""):
            with pytest.raises(InvalidPermission):
                judge(authorization, requires=requires)


def locals_of(error: BaseException) -> list[str]:
    """The local variables of each of our frames, as a crash reporter would show them."""
    stack = traceback.TracebackException.from_exception(error, capture_locals=True).stack
    return [repr(frame.locals) for frame in stack if "/doorkey/core/" in frame.filename]


@pytest.mark.parametrize("sent", [SENT, basic(TOKEN), [SENT.encode()]], ids=["text", "base64", "octets"])
@pytest.mark.parametrize(
    ("answer", "options", "requires", "raised"),
    [
        (RECORD, {"digester": BrokenDigester()}, ANY, Broken),
        (RECORD, {"clock": broken}, ANY, Broken),
        (RECORD, {"hook": broken}, ANY, Broken),
        (KeyboardInterrupt(), {}, ANY, KeyboardInterrupt),
        (RECORD, {}, "messages;read", InvalidPermission),
        (RECORD._replace(digest=None), {}, ANY, TypeError),  # type: ignore[arg-type]
    ],
    ids=["digester", "clock", "hook", "interrupt", "permission", "junk"],
)
def test_a_traceback_with_locals_shows_no_token(
    answer: object, options: dict[str, Any], requires: Any, raised: type[BaseException], sent: Authorization
) -> None:
    """Crash reporters print the local variables of every frame: in none of ours stands the key, nor its header."""
    for judge in judges(Lookup(answer), **options):
        with pytest.raises(raised) as caught:
            judge(sent, requires=requires)
        shown = locals_of(caught.value)
        assert shown
        assert not any(hidden in text for text in shown for hidden in (TOKEN.expose()[-36:], basic(TOKEN)[-40:]))


# The hook


@pytest.mark.parametrize(
    ("authorization", "answer", "options", "told"),
    [
        (SENT, RECORD, {}, Granted(RECORD.principal)),
        (None, RECORD, {}, MISSING),
        ("Basic", RECORD, {}, MALFORMED),
        (SENT, None, {}, UNKNOWN),
        (SENT, RECORD._replace(revoked=True), {}, Denied(Reason.REVOKED, RECORD.principal)),
        (SENT, RECORD._replace(expires_at=0), {}, Denied(Reason.EXPIRED, RECORD.principal)),
        (
            SENT,
            RECORD._replace(networks=NetworkSet.parse(["203.0.113.0/24"])),
            {"client_address": OUTSIDE},
            Denied(Reason.NETWORK, RECORD.principal, client_address=OUTSIDE),
        ),
        (
            SENT,
            RECORD,
            {"requires": Requirement(mode=Mode.LIVE)},
            Denied(Reason.LIVEMODE, RECORD.principal, requirement=Requirement(mode=Mode.LIVE)),
        ),
        (SENT, StoreUnavailable("down"), {}, Unavailable),
        (SENT, "junk", {}, Unavailable),
    ],
)
def test_the_hook_learns_each_decision_and_whose_it_was(
    authorization: Authorization, answer: object, options: dict[str, Any], told: object
) -> None:
    """Once per verdict, before the caller; a denial's principal is told to the hook, and not to the caller."""
    heard: list[Decision] = []
    for judge in judges(Lookup(answer), hook=heard.append):
        decision = judge(authorization, **options)
        if isinstance(told, type):
            assert [type(decision) for decision in heard] == [told]
        else:
            assert heard == [told]
        if isinstance(decision, Denied):
            assert decision.principal is None
        heard.clear()


def test_identify_tells_of_refusals_and_authorize_of_the_rest() -> None:
    """In two steps a hook hears of each request once, too."""
    heard: list[Decision] = []
    verifier = Verifier(Lookup(), DIGESTER, on_decision=heard.append)
    who = verifier.identify(SENT)
    assert isinstance(who, Principal)
    assert heard == []
    assert verifier.authorize(who, "a") == Granted(who) == heard.pop()
    denied = verifier.authorize(who, Requirement(mode=Mode.LIVE))
    assert isinstance(denied, Denied)
    assert heard == [Denied(Reason.LIVEMODE, who, requirement=Requirement(mode=Mode.LIVE))]
    assert isinstance(Verifier(Lookup(), DIGESTER).authorize(who, "a"), Granted)
    with pytest.raises(InvalidPermission):
        verifier.authorize(who, "a;b")


# Sync and async


@pytest.fixture(scope="module")
def busy() -> tuple[House, list[Token]]:
    """A door with keys in every state that lasts while the clock stands."""
    house = House()
    makers = [good, unknown, revoked, reissued, rolled_at_once, successor, networked, restricted, publishable, live]
    tokens = [make(house) for make in makers]
    other = house.ring.provision("Other").id
    tokens.append(issue(house.door, workspace=other))
    house.ring.suspend(other)
    return house, tokens


PERMISSIONS = st.sampled_from(["messages:read", "messages", "charges:write", "*", "tokens:write"])


@settings(max_examples=300)
@given(data=st.data())
def test_sync_and_async_agree(busy: tuple[House, list[Token]], data: st.DataObject) -> None:
    """Over any header, address and requirement, both verifiers give one verdict and tell their hook the same."""
    house, tokens = busy
    token = data.draw(st.sampled_from(tokens))
    authorization = data.draw(
        st.sampled_from([basic(token), bearer(token), basic(token).lower(), bearer(token)[:-1], [basic(token)] * 2])
        | st.binary(max_size=30)
        | st.none()
    )
    requires = data.draw(
        PERMISSIONS
        | st.lists(PERMISSIONS, max_size=3)
        | st.builds(Requirement, st.lists(PERMISSIONS, max_size=2), st.booleans(), st.sampled_from([None, *Mode]))
        | st.just(ANY)
    )
    address = data.draw(st.sampled_from([None, INSIDE, OUTSIDE, "junk", "::1"]) | st.text(max_size=10))
    house.decisions.clear()
    house.judge(authorization, client_address=address, requires=requires)


@settings(max_examples=300)
@given(st.binary(max_size=1100) | st.text(max_size=80) | st.lists(st.binary(max_size=40), max_size=3))
def test_nothing_that_a_client_sends_raises(authorization: Authorization) -> None:
    """Whatever arrives, there is a verdict, and it lets nobody in."""
    assert verdict(Lookup(), authorization, requires=ANY) in (MISSING, MALFORMED)


# Judging again


class Opened:
    """A connection that was granted, and its verifier."""

    def __init__(self) -> None:
        self.house = House()
        self.key, self.token = self.house.key(networks=["203.0.113.0/24"], permissions=["messages"])
        self.verifier = self.house.door.async_verifier
        remembered = self.verifier.remember([bearer(self.token).encode()])
        assert remembered is not None
        self.remembered: Remembered = remembered

    def again(self, requires: str = "messages:read") -> Decision:
        return driven(self.verifier.verify_again(self.remembered, client_address=INSIDE, requires=requires))


def test_a_connection_is_judged_again_without_its_token() -> None:
    """What is kept is the digests, not the text, and it gives the verdict that the token itself would get."""
    opened = Opened()
    assert isinstance(opened.again(), Granted)
    assert opened.remembered.token.expose() == ""
    assert opened.token.expose()[-36:] not in repr([*opened.remembered, opened.remembered])
    assert repr(opened.remembered) == f"<Remembered {opened.token.hint}>"
    assert opened.again("charges") == Denied(Reason.PERMISSIONS, requirement=Requirement("charges"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda it: it.house.ring.revoke(it.key, because="lost"), Reason.REVOKED),
        (lambda it: it.house.ring.reissue(it.key, because="leaked"), Reason.REVOKED),
        (lambda it: it.house.ring.roll(it.key, 0), Reason.EXPIRED),
        (lambda it: it.house.ring.suspend(it.house.workspace), Reason.WORKSPACE_SUSPENDED),
        (lambda it: it.house.ring.restrict(it.key, networks=["192.0.2.0/24"]), Reason.NETWORK),
        (lambda it: it.house.ring.restrict(it.key, permissions=["charges"]), Reason.PERMISSIONS),
    ],
)
def test_what_happened_since_counts(change: Callable[[Opened], object], reason: Reason) -> None:
    """An open connection learns of a revocation, a roll, a suspension and a restriction as the next request would."""
    opened = Opened()
    change(opened)
    decision = opened.again()
    assert isinstance(decision, Denied)
    assert decision.reason is reason
    assert isinstance(opened.house.decisions[-1], Denied)


def test_a_connection_is_judged_again_by_the_clock() -> None:
    """A grace that ended meanwhile ends the connection."""
    opened = Opened()
    opened.house.ring.roll(opened.key, 60)
    assert isinstance(opened.again(), Granted)
    opened.house.clock.advance(60)
    assert opened.again() == Denied(Reason.EXPIRED)


def test_a_store_that_fails_later_is_unavailable() -> None:
    """A connection is not judged by what was true before."""
    lookup = Lookup()
    verifier = AsyncVerifier(Inline(lookup), DIGESTER)
    remembered = verifier.remember(SENT)
    assert remembered is not None
    lookup.answer = StoreUnavailable("down")
    assert isinstance(driven(verifier.verify_again(remembered, requires=ANY)), Unavailable)
    with pytest.raises(InvalidPermission):
        driven(verifier.verify_again(remembered, requires="a;b"))


@pytest.mark.parametrize("authorization", [None, "Basic", "Negotiate abc", bearer(TOKEN.expose()[:-1])])
def test_without_a_token_there_is_nothing_to_remember(authorization: Authorization) -> None:
    """Only what presents a token can be judged again."""
    assert AsyncVerifier(Inline(Lookup()), DIGESTER).remember(authorization) is None


# How verifiers are built


class Stale(Lookup):
    max_age = 3.0


class AsyncStale:
    max_age = 3.0

    async def find(self, digests: Sequence[bytes]) -> Record | None:
        return RECORD


@pytest.mark.parametrize("bound", [0, 2.9])
def test_a_lookup_is_no_staler_than_the_profile_allows(bound: float) -> None:
    """A cache under whose bound a revoked key would live too long is refused when the verifier is built."""
    strict = Profile("strict", revocation_bound=bound)
    for build in (lambda: Verifier(Stale(), DIGESTER, strict), lambda: AsyncVerifier(AsyncStale(), DIGESTER, strict)):
        with pytest.raises(ConfigurationError, match=f"3 s out of date, .*'strict'.* {bound:g} s at most: lower its"):
            build()
    for profile in (DEFAULT, FLUVEO, Profile("just", revocation_bound=3.0)):
        assert Verifier(Stale(), DIGESTER, profile).profile is profile
        assert AsyncVerifier(AsyncStale(), DIGESTER, profile).profile is profile
    with pytest.raises(ConfigurationError):
        Verifier(Stale(), DIGESTER, FALU)


def test_a_lookup_of_the_other_kind_is_refused() -> None:
    """Nobody mistakes a coroutine for an answer: the message says which verifier it is for."""
    with pytest.raises(ConfigurationError, match="give it to AsyncVerifier"):
        Verifier(AsyncStale(), DIGESTER)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"wrap it in doorkey\.storage\.aio\.Inline or Threaded"):
        AsyncVerifier(Lookup(), DIGESTER)  # type: ignore[arg-type]


def test_a_verifier_shows_nothing() -> None:
    """Neither a verifier nor its parts print a pepper or a record."""
    verifier = Verifier(Lookup(), DIGESTER)
    for shown in (repr(verifier), str(verifier), repr(vars(verifier))):
        assert PEPPERS[0].hex() not in shown and repr(PEPPERS[0])[2:-1] not in shown
    with pytest.raises(TypeError):
        json.dumps(verifier)


# The pure steps


def test_the_steps_alone() -> None:
    """Whoever reads a store in another way puts the three steps together."""
    token = read([basic(TOKEN).encode()])
    assert isinstance(token, Token)
    who = identify(token, DIGESTER.digests(token), RECORD, None, START)
    assert who == RECORD.principal
    assert isinstance(who, Principal)
    assert authorize(who, Requirement("a")) is None
    assert identify(token, DIGESTER.digests(token), None, None, START) is UNKNOWN
    assert read(SENT, FALU.format) is MALFORMED


@pytest.mark.parametrize(
    ("requires", "expected"),
    [
        ((), Requirement()),
        ([], Requirement()),
        ("a", Requirement("a")),
        (["a", "b"], Requirement(["a", "b"])),
        (iter(["a"]), Requirement("a")),
        (ANY, ANY),
    ],
)
def test_requirement_of(requires: Any, expected: Requirement) -> None:
    """One permission, several, or a requirement; nothing is the strictest."""
    assert requirement_of(requires) == expected
