"""
A decision about a stored token, replayed gate by gate without having the token.

The core itself decides (:func:`~doorkey.core.verify.identify` and :func:`~doorkey.core.verify.authorize`), so a replay
cannot disagree with a verifier. What else stands in the way is found by lifting what refused and deciding again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..core.errors import UnreadableRecord
from ..core.model import Decision, Denied, Granted, KeyType, Mode, Principal, Reason, Record, Requirement, Unavailable
from ..core.networks import canonical_address
from ..core.permissions import PermissionSet
from ..core.tokens import Token, TokenFormat
from ..core.verify import UNKNOWN, Lookup, authorize, identify
from ..storage.protocol import Key, StoredToken, Workspace
from .output import moment, some

Said = tuple[str, tuple[str, ...]]
"""Why a gate lets a request pass or refuses it, and what would make it pass."""


class Gate(NamedTuple):
    """
    One gate and what it did.

    Attributes:
        result: ``passed``, ``refused``, ``assumed`` (nothing here can tell) or ``not asked``.
        remedies: what would make it let the request pass.
    """

    name: str
    result: str
    why: str
    remedies: tuple[str, ...] = ()


class Case(NamedTuple):
    """All that a decision depends on, once the token has been read and looked up."""

    token: Token
    digest: bytes
    record: Record
    client_address: str | None
    now: float
    requirement: Requirement

    def judge(self) -> Decision:
        """What a verifier decides."""
        who = identify(self.token, (self.digest,), self.record, self.client_address, self.now)
        if not isinstance(who, Principal):
            return who
        denied = authorize(who, self.requirement)
        return Granted(who) if denied is None else denied


@dataclass(frozen=True, slots=True)
class Replay:
    """
    A decision, and how it came about.

    Attributes:
        stored: the token of *key* that the request is supposed to present.
        client_address: textual address, freed from proxies, or ``None`` if it is unknown.
        refusals: all that stands in the way, in the order of the gates. The first is what the client is told; a granted
            request has none.
    """

    workspace: Workspace
    key: Key
    stored: StoredToken
    format: TokenFormat
    client_address: str | None
    requirement: Requirement
    now: float
    refusals: tuple[Denied | Unavailable, ...]

    def gates(self) -> Iterator[Gate]:
        """The gates behind the credential."""
        first = self.refusals[0] if self.refusals else None
        if isinstance(first, Unavailable) or first == UNKNOWN:
            cause = first.cause if isinstance(first, Unavailable) else "the token is not in the store any more"
            yield Gate("record", "refused", cause, ("doorkey store check tells what is wrong with the store",))
            yield from (Gate(name, "not asked", "") for name in _GATES)
            return
        yield Gate("record", "passed", "the token's record is there, and agrees with the token")
        reasons = [refusal.reason for refusal in self.refusals if isinstance(refusal, Denied)]
        for name, (reason, tell) in _GATES.items():
            refused = reason in reasons
            yield Gate(name, "refused" if refused else "passed", *tell(self, refused))


def replay(
    lookup: Lookup,
    workspace: Workspace,
    key: Key,
    stored: StoredToken,
    format: TokenFormat,
    *,
    client_address: str | None,
    requirement: Requirement,
    now: float,
) -> Replay:
    """
    Decide about a request that presents the token of which *stored* is kept.

    Raises:
        StoreUnavailable: the store cannot be asked.
    """
    token = Token(b"", format.prefix(key.type, key.mode), key.type, key.mode, stored.id)
    refusals: tuple[Denied | Unavailable, ...]
    try:
        record = lookup.find((stored.digest,))
    except UnreadableRecord as error:
        refusals = (Unavailable(str(error)),)
    else:
        if record is None:
            refusals = (UNKNOWN,)
        else:
            refusals = tuple(_refusals(Case(token, stored.digest, record, client_address, now, requirement)))
    return Replay(workspace, key, stored, format, client_address, requirement, now, refusals)


def _refusals(case: Case) -> Iterator[Denied | Unavailable]:
    """What refuses, and what would refuse if that did not, and so on."""
    while not isinstance(decision := case.judge(), Granted):
        yield decision
        if isinstance(decision, Unavailable) or decision.reason not in _LIFTED:
            return
        case = _LIFTED[decision.reason](case)


_LIFTED: Mapping[Reason, Callable[[Case], Case]] = {
    Reason.REVOKED: lambda case: case._replace(record=case.record._replace(revoked=False)),
    Reason.EXPIRED: lambda case: case._replace(record=case.record._replace(expires_at=None)),
    Reason.WORKSPACE_SUSPENDED: lambda case: case._replace(record=case.record._replace(suspended=False)),
    Reason.NETWORK: lambda case: case._replace(record=case.record._replace(networks=None)),
    Reason.UNDECLARED: lambda case: case._replace(requirement=replace(case.requirement, nobody=False)),
    Reason.LIVEMODE: lambda case: case._replace(requirement=replace(case.requirement, mode=None)),
    Reason.SECRET_KEY_REQUIRED: lambda case: case._replace(requirement=replace(case.requirement, publishable=True)),
}


def _revoked(at: Replay, refused: bool) -> Said:
    if not refused:
        return "neither the key nor this token is revoked", ()
    if at.key.revoked_at is not None:
        another = (
            f"send another key's token: nothing is ever un-revoked, `doorkey keys issue {at.workspace.id}` makes one"
        )
        return f"the key was revoked at {moment(at.key.revoked_at)}", (another,)
    return f"this token was revoked at {moment(at.stored.ended_at)}, when its key was reissued", (_send_current(at),)


def _expired(at: Replay, refused: bool) -> Said:
    token, key_expires = at.stored, at.key.expires_at
    if not refused:
        ends = [end for end in (token.expires_at, key_expires) if end is not None]
        return (f"the token lives until {moment(min(ends))}" if ends else "neither the key nor this token expires"), ()
    why, remedies = [], []
    if token.ended_at is not None or (token.expires_at is not None and at.now >= token.expires_at):
        over = token.expires_at if token.ended_at is None else token.ended_at
        why.append(f"this token was rolled, and its grace was over at {moment(over)}")
        remedies.append(_send_current(at))
    if key_expires is not None and at.now >= key_expires:
        why.append(f"the key expired at {moment(key_expires)}")
        remedies.append(f"give the key more time: `doorkey keys set-expiry {at.key.id} WHEN`")
    return " and ".join(why), tuple(remedies)


def _suspended(at: Replay, refused: bool) -> Said:
    if not refused:
        return f"the workspace {at.workspace.name} is not suspended", ()
    return (
        f"the workspace {at.workspace.name} is suspended since {moment(at.workspace.suspended_at)}",
        (f"resume it: `doorkey workspace resume {at.workspace.id}`",),
    )


def _network(at: Replay, refused: bool) -> Said:
    networks, address = at.key.networks, at.client_address
    if networks is None:
        return "the key may be used from anywhere", ()
    among = f"the key's networks, {some(networks)}"
    if not refused:
        return f"{address} lies in {among}", ()
    if address is None:
        return (
            f"the client's address is unknown, so it lies in none of {among}",
            ("let the server know the address: from its peer, or from the header that its trusted proxies write",),
        )
    wanted = (*networks, canonical_address(address))
    options = " ".join(f"--network {network}" for network in wanted) if len(wanted) < 10 else "--network … for each"
    return (
        f"{address} lies in none of {among}",
        (
            "send it from one of the key's networks; if another address was expected, look at the hops",
            f"let the key be used from there, too: `doorkey keys restrict {at.key.id} {options}`",
        ),
    )


def _declared(at: Replay, refused: bool) -> Said:
    if not refused:
        return "the operation is for somebody", ()
    return "the operation is for nobody", ("say what the operation requires, in its rule of the policy",)


def _mode(at: Replay, refused: bool) -> Said:
    needed = at.requirement.mode
    if needed is None:
        return "the operation takes keys of both modes", ()
    if not refused:
        return f"the operation takes {needed.value} keys, and this is one", ()
    waiting = needed is Mode.LIVE and at.workspace.approved_at is None
    approve = (f"approve the workspace, which has no live keys yet: `doorkey workspace approve {at.workspace.id}`",)
    return (
        f"the operation takes {needed.value} keys, and this is a {at.key.mode.value} key",
        (*(approve if waiting else ()), f"send a {needed.value} key of the workspace"),
    )


def _type(at: Replay, refused: bool) -> Said:
    if at.key.type is KeyType.SECRET:
        return "it is a secret key", ()
    if not refused:
        return "the operation takes publishable keys, too", ()
    return (
        "the operation takes no publishable key",
        ("send a secret key, from where nobody can read it", "declare publishable=True in the operation's rule"),
    )


def _permission(at: Replay, refused: bool) -> Said:
    held, needed = at.key.permissions, at.requirement.permissions
    if held is None:
        return "the key is unrestricted", ()
    if not refused:
        return "the operation takes any key" if at.requirement.any_key else f"the key may do {' and '.join(needed)}", ()
    if not needed:
        return (
            f"the operation takes unrestricted keys alone, and this one may only do {some(held)}",
            (
                "say what the operation requires, in a rule of the policy",
                f"lift the key's restriction: `doorkey keys restrict {at.key.id} --any-permission`",
            ),
        )
    lacking = [name for name in needed if not PermissionSet.parse(held).grants(name)]
    options = " ".join(f"--permission {name}" for name in (*held, *lacking))
    return (
        f"the key may do {some(held)}, which does not grant {' and '.join(lacking)}",
        (f"let the key do that, too: `doorkey keys restrict {at.key.id} {options}`",),
    )


_GATES: Mapping[str, tuple[Reason, Callable[[Replay, bool], Said]]] = {
    "revoked": (Reason.REVOKED, _revoked),
    "expired": (Reason.EXPIRED, _expired),
    "suspended": (Reason.WORKSPACE_SUSPENDED, _suspended),
    "network": (Reason.NETWORK, _network),
    "declared": (Reason.UNDECLARED, _declared),
    "mode": (Reason.LIVEMODE, _mode),
    "type": (Reason.SECRET_KEY_REQUIRED, _type),
    "permission": (Reason.PERMISSIONS, _permission),
}
"""The core's gates behind the record, in its order."""


def _send_current(at: Replay) -> str:
    current = at.key.tokens[0]
    hint = at.format.hint(at.key.type, at.key.mode, current.id)
    reveal = f": `doorkey keys reveal {at.key.id}` shows it" if current.sealed is not None else ""
    return f"send the key's current token, {hint}{reveal}"
