"""
From an ``Authorization`` field to a verdict.

A verdict needs exactly one read, so it is three pure steps around that read: :func:`read`, then the lookup, then
:func:`identify` and :func:`authorize`. :class:`Verifier` and :class:`AsyncVerifier` are the shells that do the reading.

The gates, in order: header, token and checksum, record and digest, revoked, expired, workspace suspended, network (up
to here: who is it?); whether anybody may, mode, type, permission (may it?). The first that refuses gives the reason.
State, network and permission are thus told only to whoever holds the token.

Whatever the lookup raises is :class:`Unavailable`; any other exception goes on to the server. Neither enters the
application.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from hmac import compare_digest
from traceback import walk_tb
from typing import NamedTuple, Protocol, TypeVar

from .credentials import Authorization, presented
from .errors import ConfigurationError, DoorkeyError, InvalidAddress, MalformedCredentials, MalformedToken
from .model import Decision, Denied, Granted, KeyType, Mode, Principal, Reason, Record, Requirement, Unavailable
from .profiles import DEFAULT, Profile
from .tokens import STANDARD, Token, TokenFormat

log: logging.Logger = logging.getLogger("doorkey")

Refused = TypeVar("Refused", bound=Denied | Unavailable)


class Lookup(Protocol):
    """All that verification needs of a store."""

    def find(self, digests: Sequence[bytes]) -> Record | None:
        """
        The record of the token that has one of these digests (32 bytes each), or ``None`` if no token has.

        Raises:
            StoreUnavailable: the store cannot be asked. (Any exception makes the verdict ``Unavailable``.)
            UnreadableRecord: what is stored there cannot be understood.
        """
        ...


class AsyncLookup(Protocol):
    """The same for asyncio."""

    async def find(self, digests: Sequence[bytes]) -> Record | None:
        """See :meth:`Lookup.find`."""
        ...


class TokenDigester(Protocol):
    """What computes the digests that a lookup is asked for: ``Digester``, or a stranger's own."""

    def digests(self, token: Token) -> Sequence[bytes]:
        """The digests under which *token* may be stored, at least one."""
        ...


Requires = str | Iterable[str] | Requirement
"""What an operation needs: one permission, several (all are needed), or a requirement."""

MISSING = Denied(Reason.MISSING)
MALFORMED = Denied(Reason.MALFORMED)
UNKNOWN = Denied(Reason.UNKNOWN)
REVOKED = Denied(Reason.REVOKED)
EXPIRED = Denied(Reason.EXPIRED)
SUSPENDED = Denied(Reason.WORKSPACE_SUSPENDED)
UNDECLARED = Denied(Reason.UNDECLARED)

_SECRET = KeyType.SECRET  # read from its class, a member takes 0.1 µs in Python 3.11

# Judged where no record is found, so that an unknown token costs what a revoked one does.
_NOBODY = Record(bytes(32), Principal("", "", "", KeyType.SECRET, Mode.TEST))


def read(authorization: Authorization, format: TokenFormat = STANDARD) -> Token | Denied:
    """Step one: the token that a request presents."""
    try:
        text = presented(authorization)
        return MISSING if text is None else format.parse(text)
    except (MalformedCredentials, MalformedToken):
        return MALFORMED


def identify(
    token: Token, digests: Sequence[bytes], record: Record | None, client_address: str | None, now: float
) -> Principal | Denied | Unavailable:
    """
    Step two: who the token speaks for.

    Args:
        digests: those that *record* was looked up by. One of them must be the record's own.
        client_address: the address to judge, freed from proxies; ``None`` if it is unknown.
        now: UTC seconds. A token is expired from its very second on.

    Returns:
        ``Unavailable`` if the record is not one of this token: then the store is corrupt, and grants nothing.
    """
    found = _NOBODY if record is None else record
    if not isinstance(found, Record):
        return Unavailable(f"the lookup returned a {found.__class__.__name__}, which is no record")
    stored, principal, revoked, expires_at, suspended, networks = found
    _, _, token_id, type, mode, _ = principal
    # Compared before the digest is, so that an unknown token costs what a known one does.
    differs = type is not token.type or mode is not token.mode or token_id != token.id
    for digest in digests:
        if compare_digest(stored, digest):
            break
    else:
        return UNKNOWN if record is None else Unavailable("the record found has another digest than was asked for")
    if differs:
        return Unavailable(f"the record of token {token.id} is of another id, type or mode than the token says")
    if revoked:
        return REVOKED
    if expires_at is not None and now >= expires_at:
        return EXPIRED
    if suspended:
        return SUSPENDED
    if networks is not None:
        try:
            inside = client_address is not None and networks.contains(client_address)
        except InvalidAddress:
            inside = False
        if not inside:
            return Denied(Reason.NETWORK, client_address=client_address)
    return principal


def authorize(principal: Principal, requirement: Requirement) -> Denied | None:
    """Step three: what keeps *principal* from an operation that needs *requirement*; ``None`` if nothing does."""
    if requirement.nobody:
        return UNDECLARED
    if requirement.mode is not None and principal.mode is not requirement.mode:
        return Denied(Reason.LIVEMODE, requirement=requirement)
    if principal.type is not _SECRET and not requirement.publishable:
        return Denied(Reason.SECRET_KEY_REQUIRED, requirement=requirement)
    held = principal.permissions
    if held is None or requirement.any_key:
        return None
    for ways in requirement.ways:
        if held.isdisjoint(ways):
            break
    else:
        if requirement.ways:
            return None
    return Denied(Reason.PERMISSIONS, requirement=requirement)


@lru_cache(maxsize=1024)
def _requirement_of(permissions: str | tuple[str, ...]) -> Requirement:
    return Requirement(permissions)


def requirement_of(requires: Requires) -> Requirement:
    """
    The requirement that *requires* means.

    Raises:
        InvalidPermission: it names something that is no permission.
    """
    if isinstance(requires, Requirement):
        return requires
    return _requirement_of(requires if isinstance(requires, str) else tuple(requires))


def _whose(record: Record | None) -> Principal | None:
    """Whose token was found, unless the lookup returned something else, of which ``identify`` has told already."""
    return record.principal if isinstance(record, Record) else None


class Remembered(NamedTuple):
    """What is kept of a presented token to judge it again: what it says of itself and its digests, not its text."""

    token: Token
    digests: tuple[bytes, ...]

    def __repr__(self) -> str:
        return f"<Remembered {self.token.hint}>"


def _unreached(error: Exception) -> Unavailable:
    """What a lookup's exception means. Only our own texts are repeated: a driver's may hold what it was asked for."""
    cause = str(error) if isinstance(error, DoorkeyError) else ""
    *_, (frame, line) = walk_tb(error.__traceback__)
    place = f"{frame.f_code.co_filename}:{line}"
    return Unavailable(f"the lookup raised {type(error).__name__} at {place} {cause}".rstrip())


class _Shell:
    """What both verifiers share: everything but the reading."""

    def __init__(
        self,
        lookup: Lookup | AsyncLookup,
        digester: TokenDigester,
        profile: Profile,
        clock: Callable[[], float],
        on_decision: Callable[[Decision], object] | None,
    ) -> None:
        staleness = getattr(lookup, "max_age", 0)
        if staleness > profile.revocation_bound:
            raise ConfigurationError(
                f"this lookup may be {staleness:g} s out of date, but under the profile {profile.name!r} a revoked key "
                f"lives for {profile.revocation_bound:g} s at most: lower its max_age"
            )
        self.profile = profile
        self._digests = digester.digests
        self._format = profile.format
        self._clock = clock
        self._on_decision = on_decision

    def authorize(self, principal: Principal, requires: Requires) -> Granted | Denied:
        """
        Decide about a principal that ``identify`` returned, once the requirement is known.

        Raises:
            InvalidPermission: *requires* names something that is no permission.
        """
        denied = authorize(principal, requirement_of(requires))
        if denied is not None:
            return self._refuse(denied, principal)
        granted = Granted(principal)
        if self._on_decision is not None:
            self._on_decision(granted)
        return granted

    def _refuse(self, refused: Refused, principal: Principal | None = None) -> Refused:
        """Log what hinders a verdict, and tell ``on_decision``, which learns whose token was denied."""
        if isinstance(refused, Unavailable):
            log.error("no verdict: %s", refused.cause)
        if self._on_decision is not None:
            told = replace(refused, principal=principal) if principal and isinstance(refused, Denied) else refused
            self._on_decision(told)
        return refused

    def _judge(
        self, token: Token, digests: Sequence[bytes], record: Record | None, client_address: str | None
    ) -> Principal | Denied | Unavailable:
        """Step two, told to whoever listens."""
        who = identify(token, digests, record, client_address, self._clock())
        return who if isinstance(who, Principal) else self._refuse(who, _whose(record))

    def _decide(
        self,
        token: Token,
        digests: Sequence[bytes],
        record: Record | None,
        client_address: str | None,
        requirement: Requirement,
    ) -> Decision:
        """Steps two and three, told to whoever listens."""
        who = identify(token, digests, record, client_address, self._clock())
        if not isinstance(who, Principal):
            return self._refuse(who, _whose(record))
        denied = authorize(who, requirement)
        if denied is not None:
            return self._refuse(denied, who)
        granted = Granted(who)
        if self._on_decision is not None:
            self._on_decision(granted)
        return granted


class Verifier(_Shell):
    """
    Turns ``Authorization`` field lines into verdicts.

    Args:
        lookup: where records are found.
        digester: computes what the lookup is asked for; it must know every secret that stored digests hang on.
        profile: which tokens there are, and how fresh a lookup must be.
        clock: UTC seconds.
        on_decision: gets every decision before the caller does. What it raises reaches the caller in its place.

    Raises:
        ConfigurationError: the lookup is asynchronous, or staler than the profile allows.
    """

    def __init__(
        self,
        lookup: Lookup,
        digester: TokenDigester,
        profile: Profile = DEFAULT,
        clock: Callable[[], float] = time.time,
        on_decision: Callable[[Decision], object] | None = None,
    ) -> None:
        if inspect.iscoroutinefunction(lookup.find):
            raise ConfigurationError("this lookup is asynchronous: give it to AsyncVerifier")
        super().__init__(lookup, digester, profile, clock, on_decision)
        self._find = lookup.find

    def verify(
        self, authorization: Authorization, *, client_address: str | None = None, requires: Requires = ()
    ) -> Decision:
        """
        Decide about a request. Never raises because of what a client sent.

        Args:
            authorization: the field lines as received: text, bytes, a sequence of them, or ``None``.
            client_address: textual IPv4 or IPv6 address, freed from proxies; ``None`` if it is unknown.
            requires: what the operation needs. Nothing said means: an unrestricted secret key.

        Raises:
            InvalidPermission: *requires* names something that is no permission.
        """
        token = read(authorization, self._format)
        del authorization  # A traceback may show the locals of this frame.
        requirement = requires if isinstance(requires, Requirement) else requirement_of(requires)
        if isinstance(token, Denied):
            return self._refuse(token)
        digests = self._digests(token)
        try:
            record = self._find(digests)
        except Exception as error:
            return self._refuse(_unreached(error))
        return self._decide(token, digests, record, client_address, requirement)

    def identify(
        self, authorization: Authorization, *, client_address: str | None = None
    ) -> Principal | Denied | Unavailable:
        """Decide who a request speaks for, for frameworks that learn the requirement only after routing."""
        token = read(authorization, self._format)
        del authorization
        if isinstance(token, Denied):
            return self._refuse(token)
        digests = self._digests(token)
        try:
            record = self._find(digests)
        except Exception as error:
            return self._refuse(_unreached(error))
        return self._judge(token, digests, record, client_address)


class AsyncVerifier(_Shell):
    """
    :class:`Verifier` over an asynchronous lookup: the same with ``await``.

    If ``on_decision`` has a method ``flush``, the adapters have it called when their server shuts down.
    """

    def __init__(
        self,
        lookup: AsyncLookup,
        digester: TokenDigester,
        profile: Profile = DEFAULT,
        clock: Callable[[], float] = time.time,
        on_decision: Callable[[Decision], object] | None = None,
    ) -> None:
        if not inspect.iscoroutinefunction(lookup.find):
            raise ConfigurationError("this lookup is synchronous: wrap it in doorkey.storage.aio.Inline or Threaded")
        super().__init__(lookup, digester, profile, clock, on_decision)
        self._find = lookup.find

    async def verify(
        self, authorization: Authorization, *, client_address: str | None = None, requires: Requires = ()
    ) -> Decision:
        """See :meth:`Verifier.verify`."""
        token = read(authorization, self._format)
        del authorization  # A traceback may show the locals of this frame.
        requirement = requires if isinstance(requires, Requirement) else requirement_of(requires)
        if isinstance(token, Denied):
            return self._refuse(token)
        digests = self._digests(token)
        try:
            record = await self._find(digests)
        except Exception as error:
            return self._refuse(_unreached(error))
        return self._decide(token, digests, record, client_address, requirement)

    async def identify(
        self, authorization: Authorization, *, client_address: str | None = None
    ) -> Principal | Denied | Unavailable:
        """See :meth:`Verifier.identify`."""
        token = read(authorization, self._format)
        del authorization
        if isinstance(token, Denied):
            return self._refuse(token)
        return await self._identify(token, self._digests(token), client_address)

    def remember(self, authorization: Authorization) -> Remembered | None:
        """What :meth:`verify_again` needs, for a connection that outlives its request; ``None`` without a token."""
        token = read(authorization, self._format)
        del authorization
        return None if isinstance(token, Denied) else Remembered(token.emptied(), tuple(self._digests(token)))

    async def verify_again(
        self, remembered: Remembered, *, client_address: str | None = None, requires: Requires = ()
    ) -> Decision:
        """Decide once more about a connection that was granted before: the key may have been revoked since."""
        requirement = requirement_of(requires)
        who = await self._identify(*remembered, client_address)
        return self.authorize(who, requirement) if isinstance(who, Principal) else who

    def flush(self) -> None:
        """Have ``on_decision`` write what it keeps, if it keeps anything: a server is about to end. May wait."""
        flush = getattr(self._on_decision, "flush", None)
        if flush is not None:
            flush()

    async def _identify(
        self, token: Token, digests: Sequence[bytes], client_address: str | None
    ) -> Principal | Denied | Unavailable:
        try:
            record = await self._find(digests)
        except Exception as error:
            return self._refuse(_unreached(error))
        return self._judge(token, digests, record, client_address)
