"""A replayed decision is the verifier's, and each gate tells the truth about itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorkey import Doorkey
from doorkey.cli.replay import Replay, replay
from doorkey.core.errors import StoreUnavailable, UnreadableRecord
from doorkey.core.model import Denied, Granted, KeyType, Mode, Reason, Record, Requirement, Unavailable
from doorkey.core.tokens import Token
from doorkey.storage.protocol import Key
from doorkey.testing import Clock, basic, door

START = 1_800_000_000
PERMISSIONS = ["messages", "messages:read", "charges:write", "*"]
NETWORKS = ["10.0.0.0/8", "2001:db8::/32", "203.0.113.7"]
ADDRESSES = [None, "10.1.2.3", "::ffff:10.1.2.3", "203.0.113.7", "203.0.113.8", "2001:db8::1", "fe80::1%eth0", "::1"]

requirements = st.one_of(
    st.builds(
        Requirement,
        st.lists(st.sampled_from(PERMISSIONS), max_size=2),
        st.booleans(),
        st.sampled_from([None, *Mode]),
    ),
    st.builds(Requirement, mode=st.sampled_from([None, *Mode]), any_key=st.just(True)),
    st.builds(Requirement, mode=st.sampled_from([None, *Mode]), nobody=st.just(True)),
)


def replayed(house: Doorkey, key: Key, requirement: Requirement, address: str | None, token: int = 0) -> Replay:
    """The decision on a request with one of the key's tokens, now."""
    return replay(
        house.store,
        house.keyring.workspace(key.workspace),
        key,
        key.tokens[token],
        house.profile.format,
        client_address=address,
        requirement=requirement,
        now=START + 100,
    )


@settings(max_examples=300, deadline=None)
@given(
    type=st.sampled_from(KeyType),
    mode=st.sampled_from(Mode),
    permissions=st.none() | st.lists(st.sampled_from(PERMISSIONS), min_size=1, max_size=3),
    networks=st.none() | st.lists(st.sampled_from(NETWORKS), min_size=1, max_size=2),
    expires=st.sampled_from([None, START + 99, START + 100, START + 101]),
    change=st.sampled_from(["", "roll", "roll 0", "roll 50", "reissue"]),
    revoked=st.booleans(),
    suspended=st.booleans(),
    requirement=requirements,
    address=st.sampled_from(ADDRESSES),
)
def test_it_is_the_verdict(
    type: KeyType,
    mode: Mode,
    permissions: Sequence[str] | None,
    networks: Sequence[str] | None,
    expires: int | None,
    change: str,
    revoked: bool,
    suspended: bool,
    requirement: Requirement,
    address: str | None,
) -> None:
    """For any key in any state, any requirement and address: the first refusal is the verifier's, or none is there."""
    clock = Clock(START)
    house = door(clock=clock)
    ring = house.keyring.acting("ann")
    workspace = ring.approve(ring.provision("Acme").id).id
    key = ring.issue(
        workspace, type=type, mode=mode, name="n", permissions=permissions, networks=networks, expires_at=expires
    )
    tokens: list[Token] = [ring.reveal(key.id)]
    if change:
        verb, _, grace = change.partition(" ")
        key = ring.roll(key.id, int(grace) if grace else None) if verb == "roll" else ring.reissue(key.id, because="x")
        tokens.insert(0, ring.reveal(key.id))
    if revoked:
        key = ring.revoke(key.id, because="x")
    if suspended:
        ring.suspend(workspace)
    clock.advance(100)
    for number, token in enumerate(tokens):
        told = replayed(house, key, requirement, address, number)
        verdict = house.verifier.verify(basic(token), client_address=address, requires=requirement)
        gates = list(told.gates())
        refusing = [gate for gate in gates if gate.result == "refused"]
        if isinstance(verdict, Granted):
            assert told.refusals == ()
            assert refusing == []
        else:
            first = told.refusals[0]
            assert isinstance(verdict, Denied)
            assert isinstance(first, Denied)
            assert (first.reason, first.client_address, first.requirement) == (
                verdict.reason,
                verdict.client_address,
                verdict.requirement,
            )
            assert len(refusing) == len(told.refusals)
        assert len(gates) == 9
        for gate in gates:
            assert gate.why
            assert bool(gate.remedies) is (gate.result == "refused")
            assert token.expose()[-36:-6] not in f"{gate}"


def said(told: Replay, name: str) -> str:
    """What one gate says, and what would make it pass."""
    (gate,) = (gate for gate in told.gates() if gate.name == name)
    return "\n".join((f"{gate.result}: {gate.why}", *gate.remedies))


@pytest.fixture
def house() -> Doorkey:
    """A doorkey in memory whose clock stands."""
    return door(clock=Clock(START))


def issued(
    house: Doorkey,
    permissions: Sequence[str] | None = None,
    networks: Sequence[str] | None = None,
    type: KeyType = KeyType.SECRET,
) -> Key:
    ring = house.keyring.acting("ann")
    workspace = ring.provision("Acme").id
    return ring.issue(workspace, type=type, mode=Mode.TEST, name="n", permissions=permissions, networks=networks)


def test_a_revoked_key(house: Doorkey) -> None:
    """Nothing but another key helps."""
    key = house.keyring.acting("ann").revoke(issued(house).id, because="x")
    assert said(replayed(house, key, Requirement(), None), "revoked") == (
        "refused: the key was revoked at 2027-01-15T08:00:00Z\n"
        f"send another key's token: nothing is ever un-revoked, `doorkey keys issue {key.workspace}` makes one"
    )


def test_a_reissued_key(house: Doorkey) -> None:
    """Its old token is dead, and the new one is named, with the way to see it while there is one."""
    key = house.keyring.acting("ann").reissue(issued(house).id, because="x")
    hint = house.profile.format.hint(key.type, key.mode, key.tokens[0].id)
    told = replayed(house, key, Requirement(), None, 1)
    assert said(told, "revoked") == (
        "refused: this token was revoked at 2027-01-15T08:00:00Z, when its key was reissued\n"
        f"send the key's current token, {hint}: `doorkey keys reveal {key.id}` shows it"
    )
    assert said(replayed(house, key, Requirement(), None), "revoked").startswith("passed: ")
    seen = replace(key, tokens=(replace(key.tokens[0], sealed=None), key.tokens[1]))
    assert said(replayed(house, seen, Requirement(), None, 1), "revoked").endswith(f"current token, {hint}")


def test_expiries(house: Doorkey) -> None:
    """The end of a grace and the expiry of a key are told apart, and both if both are over."""
    ring = house.keyring.acting("ann")
    key = ring.roll(issued(house).id, 50)
    assert said(replayed(house, key, Requirement(), None), "expired") == (
        "passed: neither the key nor this token expires"
    )
    over = said(replayed(house, key, Requirement(), None, 1), "expired")
    assert over.startswith(
        "refused: this token was rolled, and its grace was over at 2027-01-15T08:00:50Z\nsend the key's"
    )
    key = ring.set_expiry(key.id, START + 60)
    current = said(replayed(house, key, Requirement(), None), "expired")
    assert current == (
        "refused: the key expired at 2027-01-15T08:01:00Z\n"
        f"give the key more time: `doorkey keys set-expiry {key.id} WHEN`"
    )
    both = said(replayed(house, key, Requirement(), None, 1), "expired")
    assert " and the key expired at " in both
    assert both.count("\n") == 2
    key = ring.set_expiry(key.id, START + 1000)
    key = ring.roll(key.id, 0)
    assert "grace was over at 2027-01-15T08:00:00Z" in said(replayed(house, key, Requirement(), None, 1), "expired")
    assert said(replayed(house, key, Requirement(), None), "expired") == (
        "passed: the token lives until 2027-01-15T08:16:40Z"
    )


def test_a_suspended_workspace(house: Doorkey) -> None:
    """It can be resumed."""
    key = issued(house)
    assert said(replayed(house, key, Requirement(), None), "suspended") == "passed: the workspace Acme is not suspended"
    house.keyring.acting("ann").suspend(key.workspace)
    assert said(replayed(house, key, Requirement(), None), "suspended") == (
        "refused: the workspace Acme is suspended since 2027-01-15T08:00:00Z\n"
        f"resume it: `doorkey workspace resume {key.workspace}`"
    )


def test_networks(house: Doorkey) -> None:
    """Which address was judged against which networks, and the command that adds it."""
    assert said(replayed(house, issued(house), Requirement(), None), "network") == (
        "passed: the key may be used from anywhere"
    )
    key = issued(house, networks=["10.0.0.0/8", "::1"])
    assert said(replayed(house, key, Requirement(), "10.1.2.3"), "network") == (
        "passed: 10.1.2.3 lies in the key's networks, 10.0.0.0/8, ::1"
    )
    assert said(replayed(house, key, Requirement(), "::ffff:192.0.2.1"), "network").splitlines() == [
        "refused: ::ffff:192.0.2.1 lies in none of the key's networks, 10.0.0.0/8, ::1",
        "send it from one of the key's networks; if another address was expected, look at the hops",
        f"let the key be used from there, too: `doorkey keys restrict {key.id} --network 10.0.0.0/8 --network ::1 "
        "--network 192.0.2.1`",
    ]
    assert "address is unknown" in said(replayed(house, key, Requirement(), None), "network")
    many = issued(house, networks=[f"10.0.{number}.0/24" for number in range(10)])
    assert said(replayed(house, many, Requirement(), "::1"), "network").endswith("--network … for each`")


def test_modes(house: Doorkey) -> None:
    """A workspace without live keys is told to be approved first."""
    key, live = issued(house), Requirement(mode=Mode.LIVE)
    told = said(replayed(house, key, live, None), "mode").splitlines()
    assert told == [
        "refused: the operation takes live keys, and this is a test key",
        f"approve the workspace, which has no live keys yet: `doorkey workspace approve {key.workspace}`",
        "send a live key of the workspace",
    ]
    house.keyring.acting("ann").approve(key.workspace)
    assert said(replayed(house, key, live, None), "mode").splitlines() == [told[0], told[2]]
    assert said(replayed(house, key, Requirement(mode=Mode.TEST), None), "mode") == (
        "passed: the operation takes test keys, and this is one"
    )


def test_types(house: Doorkey) -> None:
    """Either a secret key is sent, or the operation is declared publishable."""
    key = issued(house, type=KeyType.PUBLISHABLE)
    assert said(replayed(house, key, Requirement(), None), "type").splitlines()[0] == (
        "refused: the operation takes no publishable key"
    )
    told = said(replayed(house, key, Requirement(publishable=True), None), "type")
    assert told == "passed: the operation takes publishable keys, too"
    assert said(replayed(house, issued(house), Requirement(), None), "type") == "passed: it is a secret key"


def test_permissions(house: Doorkey) -> None:
    """What the key may do, what is lacking, and the command that grants it beside the rest."""
    key = issued(house, permissions=["messages:read", "charges"])
    needed = Requirement(["charges:read", "messages:write"])
    assert said(replayed(house, key, needed, None), "permission").splitlines() == [
        "refused: the key may do charges, messages:read, which does not grant messages:write",
        f"let the key do that, too: `doorkey keys restrict {key.id} --permission charges --permission messages:read "
        "--permission messages:write`",
    ]
    assert said(replayed(house, key, Requirement("charges:read"), None), "permission") == (
        "passed: the key may do charges:read"
    )
    assert said(replayed(house, key, Requirement.ANY_KEY, None), "permission") == "passed: the operation takes any key"
    undescribed = said(replayed(house, key, Requirement(), None), "permission").splitlines()
    assert undescribed[0] == (
        "refused: the operation takes unrestricted keys alone, and this one may only do charges, messages:read"
    )
    assert undescribed[2].endswith(f"`doorkey keys restrict {key.id} --any-permission`")
    assert said(replayed(house, issued(house), needed, None), "permission") == "passed: the key is unrestricted"


class Lookup:
    """One that answers as it is told."""

    def __init__(self, answer: Record | Exception | None) -> None:
        self.answer = answer

    def find(self, digests: Sequence[bytes]) -> Record | None:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def unrecorded(house: Doorkey, key: Key, answer: Record | Exception | None) -> Replay:
    """The decision where a lookup gives this answer."""
    return replay(
        Lookup(answer),
        house.keyring.workspace(key.workspace),
        key,
        key.tokens[0],
        house.profile.format,
        client_address=None,
        requirement=Requirement(),
        now=START,
    )


def test_without_a_record(house: Doorkey) -> None:
    """Where the record is gone or damaged, the gates behind it are not asked, as in a verifier."""
    key = issued(house)
    record = house.store.find([key.tokens[0].digest])
    assert record is not None
    other = record._replace(principal=record.principal._replace(mode=Mode.LIVE))
    damaged = UnreadableRecord("it cannot be understood")
    for told, refusal, why in (
        (unrecorded(house, key, None), Denied(Reason.UNKNOWN), "the token is not in the store any more"),
        (unrecorded(house, key, damaged), Unavailable("it cannot be understood"), "it cannot be understood"),
        (unrecorded(house, key, other), None, "of another id, type or mode than the token says"),
    ):
        assert len(told.refusals) == 1
        assert told.refusals[0] == refusal or (refusal is None and isinstance(told.refusals[0], Unavailable))
        assert why in said(told, "record")
        assert [gate.result for gate in told.gates()] == ["refused"] + ["not asked"] * 8


def test_a_store_that_cannot_be_asked(house: Doorkey) -> None:
    """That is the command's own trouble, not the request's."""
    with pytest.raises(StoreUnavailable):
        unrecorded(house, issued(house), StoreUnavailable("busy"))
