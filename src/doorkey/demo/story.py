"""
The story that the demo tells by itself: requests over real HTTP, each beside the answer that it must get.

Meanwhile keys are issued, rolled and revoked through the keyring, and the servers must know it with the next request.
What is shown of a token is its hint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

from .. import KeyType, Mode, Reason
from ..core.errors import KeyringError
from ..core.refusals import TABLE
from ..core.tokens import mint
from .report import LACKING, Client, Outcome, Report, Write, basic, bearer, forbidden, unauthorized
from .stage import Stage

Server = tuple[str, AbstractContextManager[int]]
"""A title, and the context in which it runs, on the port that this gives."""

CARD = {"card[number]": "4242" * 4}
CHARGE = {"amount": "2000", "currency": "kes"}
MESSAGE = {"to": "+254722000000", "body": "Your parcel is here."}

OK = Outcome(200)
ON_TEST_DATA = Outcome(200, "livemode false")
ON_LIVE_DATA = Outcome(200, "livemode true")
NO_SUCH_OBJECT = Outcome(404, "resource_missing")


def check(stage: Stage, servers: Sequence[Server], write: Write = print) -> int:
    """Tell the whole story to each server. Returns 0 if every answer was as expected, else 1."""
    report = Report(write)
    started = time.monotonic()
    write(f"Real requests over HTTP, with the keys of the workspace {stage.workspace}:")
    write("  " + "  ".join(stage.tokens[type, mode].hint for mode in Mode for type in KeyType))
    write("Where nothing else is said, a 401 challenges with Basic and Bearer, and a lack of permissions with Bearer.")
    for title, running in servers:
        with running as port:
            report.server(title)
            for chapter, tell in CHAPTERS.items():
                report.chapter(chapter)
                tell(stage, Client(port, report))
    seconds = f"{time.monotonic() - started:.1f} s"
    total = report.right + report.wrong
    if report.wrong:
        write(f"\n{report.wrong} of {total} answers are NOT as expected ({seconds}).")
        return 1
    write(f"\nAll {total} answers are as expected ({seconds}).")
    return 0


def _sending(stage: Stage, client: Client) -> None:
    token = stage.tokens[KeyType.SECRET, Mode.TEST].expose()
    other = stage.tokens[KeyType.SECRET, Mode.LIVE].expose()
    stranger = mint(KeyType.SECRET, Mode.TEST, stage.door.profile.format).expose()
    field, value = basic(token)
    client.ask("GET /v1/charges", "secret key, Basic", OK, basic(token))
    client.ask("GET /v1/charges", "secret key, Bearer", OK, bearer(token))
    client.ask("GET /v1/charges", "scheme in lower case, Basic", OK, (field, value.replace("Basic", "basic")))
    client.ask("GET /v1/charges", "scheme in lower case, Bearer", OK, (field, f"bearer {token}"))
    client.ask("HEAD /v1/charges", "secret key", OK, basic(token))
    client.ask("GET /v1/charges", "no key", unauthorized("api_key_missing"))
    client.ask("HEAD /v1/charges", "no key", unauthorized(""))
    client.ask(f"GET /v1/charges?api_key={token}", "key in the query", unauthorized("api_key_missing"))
    client.ask("GET /v1/charges", "another scheme", unauthorized("api_key_missing"), (field, f"Digest {token}"))
    malformed = unauthorized("api_key_malformed")
    client.ask("GET /v1/charges", "no key at all: open-sesame", malformed, basic("open-sesame"))
    client.ask("GET /v1/charges", "key cut short", malformed, basic(token[:-1]))
    client.ask("GET /v1/charges", "key mistyped (checksum)", malformed, basic(_mistyped(token)))
    client.ask("GET /v1/charges", "key with a password", malformed, basic(token, "secret"))
    client.ask("GET /v1/charges", "two keys, both good", malformed, basic(token), basic(other))
    client.ask("GET /v1/charges", "key that nobody issued", unauthorized("api_key_invalid"), basic(stranger))
    asking = (("Origin", "https://shop.example"), ("Access-Control-Request-Method", "GET"))
    client.ask("OPTIONS /v1/charges", "no key", unauthorized("api_key_missing"))
    client.ask("OPTIONS /v1/charges", "preflight of a browser", unauthorized("api_key_missing", "Bearer"), *asking)


def _permissions(stage: Stage, client: Client) -> None:
    secret = basic(stage.tokens[KeyType.SECRET, Mode.TEST].expose())
    publishable = basic(stage.tokens[KeyType.PUBLISHABLE, Mode.TEST].expose())
    messages = basic(_reveal(stage, stage.restricted))
    reader = basic(_reveal(stage, _issue(stage, permissions=["messages:read"])))
    lacking = forbidden(LACKING)
    bought = client.ask("POST /v1/tokens", "publishable key", ON_TEST_DATA, publishable, form=CARD)
    paid = {**CHARGE, "source": str(bought.get("id"))}
    client.ask("POST /v1/charges", "publishable key", forbidden("secret_key_required"), publishable, form=paid)
    client.ask("POST /v1/charges", "secret key", ON_TEST_DATA, secret, form=paid)
    owed = {**CHARGE, "amount": "-1"}
    client.ask("POST /v1/charges", "secret key, wrong amount", Outcome(400, "parameter_invalid"), secret, form=owed)
    client.ask("POST /v1/messages", "key for messages", ON_TEST_DATA, messages, form=MESSAGE)
    client.ask("GET /v1/messages", "key for messages", OK, messages)
    client.ask("GET /v1/charges", "key for messages", lacking, messages)
    client.ask("GET /v1/messages", "key for messages:read", OK, reader)
    client.ask("POST /v1/messages", "key for messages:read", lacking, reader, form=MESSAGE)
    client.ask("GET /v1/balance", "no rule for it; secret key", ON_TEST_DATA, secret)
    client.ask("GET /v1/balance", "no rule for it; for messages", lacking, messages)
    client.ask("GET /v1/balance", "no rule for it; publishable", forbidden("secret_key_required"), publishable)
    client.ask("GET /healthz", "open; no key", OK)
    client.ask("GET /v1/nothing", "unknown path; no key", unauthorized("api_key_missing"))
    client.ask("GET /v1/nothing", "unknown path; secret key", Outcome(404, "path_unknown"), secret)


def _networks(stage: Stage, client: Client) -> None:
    bound = basic(_reveal(stage, _issue(stage, networks=["203.0.113.0/24", "2001:db8::/32"])))
    outside = forbidden("network_not_allowed")
    for addresses, about, expected in (
        ("203.0.113.7", "from inside, IPv4", OK),
        ("2001:db8::7", "from inside, IPv6", OK),
        ("198.51.100.9", "from outside", outside),
        ("203.0.113.7, 198.51.100.9", "from outside, and forged", outside),
    ):
        client.ask("GET /v1/charges", about, expected, bound, ("X-Forwarded-For", addresses))
    client.ask("GET /v1/charges", "the proxy does not say", outside, bound)


def _modes(stage: Stage, client: Client) -> None:
    test = basic(stage.tokens[KeyType.SECRET, Mode.TEST].expose())
    live = basic(stage.tokens[KeyType.SECRET, Mode.LIVE].expose())
    for name, key, data, other, others in (
        ("live", live, ON_LIVE_DATA, "test", test),
        ("test", test, ON_TEST_DATA, "live", live),
    ):
        charge = client.ask("POST /v1/charges", f"{name} key", data, key, form=CHARGE)
        id = str(charge.get("id"))
        client.ask("GET /v1/charges/{id}", f"{name} key", data, key, id=id)
        client.ask("GET /v1/charges/{id}", f"{other} key", NO_SUCH_OBJECT, others, id=id)


def _lifecycle(stage: Stage, client: Client) -> None:
    key = _issue(stage, mode=Mode.LIVE)
    live: list[str] = []
    for about, expected in (("live secret, once", "revealed"), ("live secret, once more", "AlreadyRevealed")):
        client.report.row("reveal", about, expected, _answer_of(lambda: live.append(_reveal(stage, key))))
    client.ask("GET /v1/charges", "revealed key", OK, *map(basic, live))

    key = _issue(stage)
    expired, revoked = _of_the_past(stage, Reason.EXPIRED), _of_the_past(stage, Reason.REVOKED)
    first = _reveal(stage, key)
    stage.ring.roll(key)
    second = _reveal(stage, key)
    old = OK if stage.door.profile.grace else expired
    client.ask("GET /v1/charges", "rolled as usual: old token", old, basic(first))
    client.ask("GET /v1/charges", "rolled as usual: new token", OK, basic(second))
    stage.ring.end_grace(key)
    client.ask("GET /v1/charges", "grace ended: old token", expired, basic(first))
    client.ask("GET /v1/charges", "grace ended: new token", OK, basic(second))
    stage.ring.roll(key, grace=0)
    third = _reveal(stage, key)
    client.ask("GET /v1/charges", "rolled at once: old token", expired, basic(second))
    client.ask("GET /v1/charges", "rolled at once: new token", OK, basic(third))
    stage.ring.reissue(key, because="seen in a log")
    fourth = _reveal(stage, key)
    client.ask("GET /v1/charges", "reissued: old token", revoked, basic(third))
    client.ask("GET /v1/charges", "reissued: new token", OK, basic(fourth))
    stage.ring.revoke(key, because="no longer needed")
    client.ask("GET /v1/charges", "revoked key", revoked, basic(fourth))

    expires_at = int(time.time()) + 2
    expiring = basic(_reveal(stage, _issue(stage, expires_at=expires_at)))
    client.ask("GET /v1/charges", "key just before its expiry", OK, expiring)
    time.sleep(max(0.0, expires_at - time.time()))
    client.ask("GET /v1/charges", "the same, a moment later", expired, expiring)


def _suspension(stage: Stage, client: Client) -> None:
    token = basic(stage.tokens[KeyType.SECRET, Mode.TEST].expose())
    stage.ring.suspend(stage.workspace)
    client.ask("GET /v1/charges", "workspace suspended", forbidden("workspace_suspended"), token)
    stage.ring.resume(stage.workspace)
    client.ask("GET /v1/charges", "workspace resumed", OK, token)


CHAPTERS: Mapping[str, Callable[[Stage, Client], None]] = {
    "How a key is sent": _sending,
    "What a key may do": _permissions,
    "Where a key may be used from": _networks,
    "Test and live data never meet": _modes,
    "The life of a key": _lifecycle,
    "The whole workspace": _suspension,
}


def _issue(
    stage: Stage,
    *,
    mode: Mode = Mode.TEST,
    permissions: Iterable[str] | None = None,
    networks: Iterable[str] | None = None,
    expires_at: int | None = None,
) -> str:
    """A new secret key's id."""
    return stage.ring.issue(
        stage.workspace,
        type=KeyType.SECRET,
        mode=mode,
        name="story",
        permissions=permissions,
        networks=networks,
        expires_at=expires_at,
    ).id


def _of_the_past(stage: Stage, reason: Reason) -> Outcome:
    """How a token that once was good is refused: a profile may keep that to itself."""
    return unauthorized(TABLE[reason if stage.door.profile.discloses else Reason.UNKNOWN].code)


def _reveal(stage: Stage, key: str) -> str:
    return stage.ring.reveal(key).expose()


def _answer_of(reveal: Callable[[], object]) -> str:
    try:
        reveal()
    except KeyringError as error:
        return type(error).__name__
    return "revealed"


def _mistyped(token: str) -> str:
    """*token* with one character of its secret changed."""
    return token[:-10] + ("b" if token[-10] == "a" else "a") + token[-9:]
