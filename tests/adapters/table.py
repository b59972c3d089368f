"""
The one table of requests: what comes in, and what must come out, whatever stands between.

It speaks HTTP, not ASGI or WSGI: a method, a request target as on the request line, field lines in their order. So the
same rows are driven through every adapter and every framework. A row says for whom it is where the two interfaces get
different things by nature. Expectations are typed by hand after the design, and ask nothing of the code they judge.

In fields and targets ``{reader}`` stands for the token of the key called so, ``<…>`` for base64 of what it encloses.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from doorkey import DEFAULT, FALU, FLUVEO, KeyType, Mode, Policy, Principal, Profile, Requirement, Rule, TrustedProxies
from doorkey.core.errors import StoreUnavailable, UnreadableRecord
from doorkey.core.model import Record
from doorkey.core.permissions import PermissionSet
from doorkey.core.tokens import mint
from doorkey.core.verify import AsyncVerifier, Lookup, Verifier
from doorkey.storage.aio import Inline
from doorkey.testing import Clock, door

if TYPE_CHECKING:
    from tests.adapters.wire import Answer

STATUS = {
    "": 200,
    "request_target_invalid": 400,
    "api_key_missing": 401,
    "api_key_malformed": 401,
    "api_key_invalid": 401,
    "api_key_expired": 401,
    "api_key_revoked": 401,
    "workspace_suspended": 403,
    "network_not_allowed": 403,
    "livemode_mismatch": 403,
    "secret_key_required": 403,
    "insufficient_permissions": 403,
    "auth_unavailable": 503,
}
"""The design's table from code to status; the empty code is for those who are let in."""

OFFICE = ("203.0.113.0/24", "2001:db8:a::/48")
"""The networks that the key called ``office`` is bound to."""

INSIDE, OUTSIDE = "203.0.113.7", "198.51.100.9"


@dataclass(frozen=True)
class Row:
    """
    A request and what must become of it.

    Attributes:
        name: what it is, in a few words.
        authorization: the ``Authorization`` lines.
        code: of the refusal; empty if the request is let in.
        sees: the key whose principal the application then finds; ``None`` where it needs no key.
        target: as on the request line.
        headers: the other field lines.
        peer: address of who is connected; ``None`` for a peer without one, such as on a Unix socket.
        websocket: a handshake; ``denial`` tells whether the server can send a response in its place.
        mount: the prefix under which the application is mounted; ``in_path`` tells whether the ASGI path includes it.
        policy, proxies, store, profile: what the middleware is built with.
        given: what the server, or what stands before us, has put into the ASGI state or the WSGI environ.
        script: whether a 401 is one for a browser's script.
        mentions: part of the refusal's message.
        only: the interface that it is for, where it is not for both.
    """

    name: str
    authorization: str | tuple[str, ...] | None = None
    code: str = ""
    _: KW_ONLY
    sees: str | None = None
    method: str = "GET"
    target: str = "/messages"
    headers: tuple[tuple[str, str], ...] = ()
    peer: str | None = INSIDE
    websocket: bool = False
    denial: bool = True
    mount: str = ""
    in_path: bool = True
    policy: Literal["whole", "within"] = "whole"
    proxies: str = ""
    store: Literal["up", "down", "unreadable", "corrupt"] = "up"
    profile: Literal["default", "falu", "fluveo"] = "default"
    given: Mapping[str, object] = field(default_factory=dict)
    script: bool = False
    mentions: str = ""
    only: Literal["asgi", "wsgi", ""] = ""

    @property
    def status(self) -> int:
        """The status of the response; 101 for a websocket that is accepted, 403 for one that is closed before."""
        if self.websocket and not self.code:
            return 101
        return STATUS[self.code] if self.denial or not self.code else 403

    def lines(self, tokens: Mapping[str, str]) -> list[tuple[str, str]]:
        """Every field line, filled in."""
        given = self.authorization
        values = () if given is None else (given,) if isinstance(given, str) else given
        host = () if any(name == "Host" for name, _ in self.headers) else (("Host", "api.example"),)
        lines = [*host, *self.headers, *(("Authorization", value) for value in values)]
        return [(name, _filled(value, tokens)) for name, value in lines]

    def filled_target(self, tokens: Mapping[str, str]) -> str:
        """The request target, filled in."""
        return _filled(self.target, tokens)


def _filled(text: str, tokens: Mapping[str, str]) -> str:
    named = re.sub(r"\{(\w+)\}", lambda found: tokens[found[1]], text)
    return re.sub("<([^<>]*)>", lambda found: b64encode(found[1].encode("latin-1")).decode("ascii"), named)


POLICIES = {
    "whole": Policy(
        [
            Rule("GET", "/messages", "messages:read"),
            Rule("POST", "/messages", "messages:write"),
            Rule("GET", "/messages/{id}", "messages:read"),
            Rule("GET", "/both", ["messages:read", "charges:read"]),
            Rule("GET", "/caffè", "messages:read"),
            Rule("POST", "/tokens", "tokens:create", publishable=True),
            Rule("GET", "/ping", Requirement.ANY_KEY),
            Rule("GET", "/payouts", "payouts:read", mode=Mode.LIVE),
            Rule("GET", "/sandbox", "sandbox:read", mode=Mode.TEST),
            Rule.open("GET", "/healthz"),
            Rule("WEBSOCKET", "/feed", "messages:read"),
            Rule.open("WEBSOCKET", "/pulse"),
        ]
    ),
    "within": Policy([Rule("GET", "/api/messages", "messages:read")], within="/api"),
}

PROXIES = {
    "": None,
    "xff": TrustedProxies(["10.0.0.0/8", "2001:db8:ffff::/48"]),
    "forwarded": TrustedProxies(["10.0.0.0/8"], header="Forwarded"),
    "real-ip": TrustedProxies(["10.0.0.0/8"], header="X-Real-IP"),
    "unix": TrustedProxies([], unix_socket=True),
}


class Failing:
    """A lookup that cannot answer."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def find(self, digests: Sequence[bytes]) -> Record | None:
        raise self._error


class Swapped:
    """A lookup that finds the record of another token, as a damaged index would."""

    def __init__(self, lookup: Lookup, digests: Sequence[bytes]) -> None:
        self._lookup = lookup
        self._digests = digests

    def find(self, digests: Sequence[bytes]) -> Record | None:
        return self._lookup.find(self._digests)


class House:
    """A doorkey under one profile, with a key of every kind; ``tokens`` and ``principals`` go by their names."""

    def __init__(self, profile: Profile) -> None:
        self.clock = Clock()
        self.door = door(profile=profile, clock=self.clock)
        self.ring = self.door.keyring.acting("ann@acme.example")
        self.workspace = self._workspace("Acme")
        self.tokens: dict[str, str] = {}
        self.principals: dict[str, Principal] = {}
        self._keys()
        self._forgeries(profile)
        lookups: dict[str, Lookup] = {
            "up": self.door.store,
            "down": Failing(StoreUnavailable("the disk is gone")),
            "unreadable": Failing(UnreadableRecord("a record is no record")),
            "corrupt": Swapped(self.door.store, [self.digest("messages")]),
        }
        parts = (self.door.secrets.digester(), profile, self.clock)
        self.verifiers = {name: Verifier(lookup, *parts) for name, lookup in lookups.items()}
        self.async_verifiers = {name: AsyncVerifier(Inline(lookup), *parts) for name, lookup in lookups.items()}

    def digest(self, name: str) -> bytes:
        """What is stored of a token."""
        (key,) = [key for key in self.ring.keys(self.workspace) if key.id == self.principals[name].key]
        return key.tokens[0].digest

    def _workspace(self, name: str) -> str:
        return self.ring.approve(self.ring.provision(name).id).id

    def _add(
        self,
        name: str,
        type: KeyType = KeyType.SECRET,
        mode: Mode = Mode.TEST,
        permissions: Sequence[str] | None = None,
        networks: Sequence[str] | None = None,
        expires_at: int | None = None,
        workspace: str | None = None,
    ) -> str:
        key = self.ring.issue(
            workspace or self.workspace,
            type=type,
            mode=mode,
            name=name,
            permissions=permissions,
            networks=networks,
            expires_at=expires_at,
        )
        self._revealed(name, key.id)
        return key.id

    def _revealed(self, name: str, id: str) -> None:
        key, token = self.ring.key(id), self.ring.reveal(id)
        held = None if key.permissions is None else PermissionSet.parse(key.permissions)
        self.tokens[name] = token.expose()
        self.principals[name] = Principal(key.workspace, id, token.id, key.type, key.mode, held)

    def _keys(self) -> None:
        self._add("secret")
        self._add("live", mode=Mode.LIVE)
        self._add("publishable", KeyType.PUBLISHABLE)
        self._add("publishable_live", KeyType.PUBLISHABLE, Mode.LIVE)
        self._add("messages", permissions=["messages"])
        self._add("reader", permissions=["messages:read"])
        self._add("live_reader", mode=Mode.LIVE, permissions=["messages:read"])
        self._add("everything", permissions=["*"])
        self._add("office", networks=OFFICE)
        self._add("office_reader", permissions=["messages:read"], networks=OFFICE)
        self._add("expired", expires_at=int(self.clock.now) + 10)
        self.clock.advance(100)
        self.ring.revoke(self._add("revoked"), because="a test")
        for name, grace in (("rolled", 0), ("graced", 3600)):
            id = self._add(name)
            self.ring.roll(id, grace=grace)
            self._revealed(f"after_{name}", id)
        id = self._add("leaked")
        self.ring.reissue(id, because="it leaked")
        self._revealed("after_leaked", id)
        suspended = self._workspace("Suspended")
        self._add("suspended", workspace=suspended)
        self.ring.suspend(suspended)

    def _forgeries(self, profile: Profile) -> None:
        """Tokens that nobody issued, and what else somebody may hope to get in with."""
        token = self.tokens["secret"]
        prefix, id, rest = token.rsplit("_", 2)
        typo = "B" if rest[3] == "A" else "A"
        self.tokens |= {
            "stranger": mint(KeyType.SECRET, Mode.TEST, profile.format).expose(),
            "alien": mint(KeyType.SECRET, Mode.TEST, (DEFAULT if profile is FALU else FALU).format).expose(),
            "cut": token[:-1],
            "longer": token + "0",
            "typo": f"{prefix}_{id}_{rest[:3]}{typo}{rest[4:]}",
            "edited": f"{profile.format.prefix(KeyType.SECRET, Mode.LIVE)}_{id}_{rest}",
            "shouted": token.upper(),
            "hint": f"{prefix}_{id}_",
            "wide": token[:-1] + "\uff11".encode().decode("latin-1"),
            "digest_hex": self.digest("secret").hex(),
            "digest_base64": b64encode(self.digest("secret")).decode("ascii"),
        }


PROFILES = {profile.name: profile for profile in (DEFAULT, FALU, FLUVEO)}


def check(row: Row, answer: Answer, entered: Sequence[Principal | None], house: House) -> None:
    """Hold what came out against the row: *entered* are the principals that the application was called with."""
    if not row.code:
        assert answer.status == row.status, answer
        assert entered == [None if row.sees is None else house.principals[row.sees]]
        return
    assert entered == []
    assert answer.status == row.status, answer
    if row.websocket and not row.denial:
        assert answer.close_code == 1008
        return
    headers = dict(answer.headers)
    problem = row.profile == "falu"
    assert headers["content-type"] == ("application/problem+json" if problem else "application/json")
    assert headers["cache-control"] == "no-store"
    assert headers["vary"] == ("Authorization, Origin, Sec-Fetch-Mode" if row.status == 401 else "Authorization")
    assert re.fullmatch("req_[0-9a-f]{24}", headers["request-id"])
    assert ("retry-after" in headers) is (row.status == 503)
    assert 1 <= int(headers.get("retry-after", 1)) <= 5
    _check_challenges(row, [value for name, value in answer.headers if name == "www-authenticate"])
    if row.method == "HEAD":
        assert answer.body == b""
        assert int(headers["content-length"]) > 0
    else:
        assert int(headers["content-length"]) == len(answer.body)
        _check_body(row, json.loads(answer.body), headers["request-id"], problem)
    _check_silence(answer, house)


def _check_challenges(row: Row, challenges: Sequence[str]) -> None:
    error = "" if row.code == "api_key_missing" else ', error="invalid_token"'
    both = ['Basic realm="API", charset="UTF-8"', f'Bearer realm="API"{error}']
    wanted = [] if row.status != 401 else both[1:] if row.script else both
    if row.code == "insufficient_permissions":
        (challenge,) = challenges
        told = re.fullmatch('Bearer realm="API", error="insufficient_scope"(?:, scope="([^"]+)")?', challenge)
        assert told, challenge
        assert (told[1] or "").split() == re.findall(r"\w+:\w+", row.mentions)
        return
    assert challenges == ([", ".join(wanted)] if row.websocket and wanted else wanted)


def _check_body(row: Row, body: dict[str, object], request_id: str, problem: bool) -> None:
    members = {"code", "message", "doc_url", "request_id"}
    if problem:
        assert set(body) == members | {"type", "title", "status", "detail"}
        assert (body["type"], body["status"], body["detail"]) == (body["doc_url"], row.status, body["message"])
    else:
        assert set(body) == {"error"}
        inner = body["error"]
        assert isinstance(inner, dict)
        assert set(inner) == members | {"type"}
        assert inner["type"] == ("api_error" if row.status == 503 else "invalid_request_error")
        body = inner
    assert body["code"] == row.code
    assert body["request_id"] == request_id
    assert row.mentions in str(body["message"])


def _check_silence(answer: Answer, house: House) -> None:
    """No refusal shows any part of a token that is secret, nor a digest."""
    shown = answer.body.decode() + str(answer.headers)
    for name in house.principals:
        assert house.tokens[name].rpartition("_")[2] not in shown
    assert house.tokens["digest_hex"] not in shown
    assert b64decode(house.tokens["digest_base64"]).hex() not in shown


def basic(name: str) -> str:
    return f"Basic <{{{name}}}:>"


def bearer(name: str) -> str:
    return f"Bearer {{{name}}}"


def let_in(name: str, authorization: str, sees: str = "secret") -> Row:
    return Row(name, authorization, sees=sees)


def malformed(name: str, *authorization: str) -> Row:
    return Row(name, authorization, "api_key_malformed")


def missing(name: str, authorization: str | None = None, *headers: tuple[str, str]) -> Row:
    return Row(name, authorization, "api_key_missing", headers=headers)


CREDENTIALS = (
    # How a key is sent
    let_in("Basic, the key as user name", basic("secret")),
    let_in("Bearer", bearer("secret")),
    let_in("basic in lower case", "basic <{secret}:>"),
    let_in("BASIC in capitals", "BASIC <{secret}:>"),
    let_in("bAsIc", "bAsIc <{secret}:>"),
    let_in("bearer in lower case", "bearer {secret}"),
    let_in("BEARER in capitals", "BEARER {secret}"),
    let_in("two blanks after Basic", "Basic  <{secret}:>"),
    let_in("three blanks after Bearer", "Bearer   {secret}"),
    let_in("white space around the field value", " \tBasic <{secret}:>\t "),
    let_in("white space around a Bearer value", "\t Bearer {secret} \t"),
    # None is sent
    missing("no Authorization"),
    missing("an empty field", ""),
    missing("a field of white space", " \t "),
    missing("the scheme Digest", 'Digest username="ann", realm="API"'),
    missing("the scheme Negotiate", "Negotiate YWJj"),
    missing("the scheme Token, with a key", "Token {secret}"),
    missing("a scheme that begins like Basic", "Basics <{secret}:>"),
    missing("Basic, and no blank before the base64", "Basic<{secret}:>"),
    missing("a scheme that begins like Bearer", "Bearer_ {secret}"),
    missing("a key without a scheme", "{secret}"),
    missing("a key in X-Api-Key", None, ("X-Api-Key", "{secret}")),
    missing("a key in Api-Key", None, ("Api-Key", "{secret}")),
    missing("a key in X-Authorization", None, ("X-Authorization", "Bearer {secret}")),
    missing("a key in Proxy-Authorization", None, ("Proxy-Authorization", "Basic <{secret}:>")),
    missing("a key in a cookie", None, ("Cookie", "api_key={secret}; Authorization={secret}")),
    missing("a key in the Host field's userinfo", None, ("Host", "{secret}:@api.example")),
    missing("a key in the Referer's userinfo", None, ("Referer", "https://{secret}:@api.example/")),
    Row("a key in the query", None, "api_key_missing", target="/messages?api_key={secret}"),
    Row("an access token in the query", None, "api_key_missing", target="/messages?access_token={secret}"),
    Row("an Authorization in the query", None, "api_key_missing", target="/messages?Authorization=Bearer%20{secret}"),
    Row(
        "a key in the userinfo of an absolute-form target",
        None,
        "request_target_invalid",
        target="http://{secret}:@api.example/messages",
    ),
    Row("another scheme at the limit of 1,024 octets", "Digest " + "a" * 1017, "api_key_missing"),
    # Parts are missing or too many
    malformed("Basic alone", "Basic"),
    malformed("Basic and a blank", "Basic "),
    malformed("Bearer alone", "Bearer"),
    malformed("Bearer and a blank", "Bearer "),
    malformed("Basic of a colon", "Basic <:>"),
    malformed("Basic of nothing", "Basic ===="),
    malformed("the key as password", "Basic <:{secret}>"),
    malformed("no colon", "Basic <{secret}>"),
    malformed("a password beside the key", "Basic <{secret}:x>"),
    malformed("the key as password too", "Basic <{secret}:{secret}>"),
    malformed("a second colon", "Basic <{secret}::>"),
    malformed("the key as password of somebody", "Basic <ann:{secret}>"),
    malformed("Basic with the key in clear", "Basic {secret}"),
    malformed("Basic with key and colon in clear", "Basic {secret}:"),
    malformed("Bearer with a colon", "Bearer {secret}:"),
    malformed("Bearer with base64", "Bearer <{secret}:>"),
    malformed("Bearer with quotes", 'Bearer "{secret}"'),
    malformed("Bearer with a parameter", 'Bearer token="{secret}"'),
    malformed("Bearer with a second word", "Bearer {secret} x"),
    # Base64
    malformed("no base64", "Basic !!!!"),
    malformed("base64 cut short", "Basic c2s"),
    malformed("a padding too many", "Basic <{secret}:>="),
    malformed("four paddings too many", "Basic <{secret}:>===="),
    malformed("a blank in the base64", "Basic <{secret}:> <>="),
    malformed("a line feed after the base64", "Basic <{secret}:>\n"),
    malformed("a line feed in the base64", "Basic <{secret}:>\nQQ=="),
    malformed("a character beside base64's", "Basic -<{secret}:>"),
    malformed("a comma in the base64", "Basic ,<{secret}:>"),
    malformed("base64 with other bits at its end", "Basic c2tfdGVzdDp="),
    malformed("base64 for URLs", "Basic c2tf_-8="),
    malformed("two base64 texts in a row", "Basic <{secret}:><{secret}:>"),
    # Octets that no key has
    malformed("a user name that is no UTF-8", "Basic <\xff\xfe:>"),
    malformed("a user name in UTF-8", "Basic <cl\xc3\xa9:>"),
    malformed("BEL after the key", "Basic <{secret}\x07:>"),
    malformed("NUL after the key", "Basic <{secret}\x00:>"),
    malformed("NUL before the key", "Basic <\x00{secret}:>"),
    malformed("DEL after the key", "Basic <{secret}\x7f:>"),
    malformed("a line feed after the key", "Basic <{secret}\n:>"),
    malformed("a blank before the key", "Basic < {secret}:>"),
    malformed("a blank after the key", "Basic <{secret} :>"),
    malformed("a no-break space after the key", "Basic <{secret}\xa0:>"),
    malformed("NUL after the colon", "Basic <{secret}:\x00>"),
    malformed("a wide digit in the key", "Bearer {wide}"),
    malformed("octets above ASCII in the field", "Basic \xff\xfe"),
    malformed("octets above ASCII in another scheme", "Digest \xe9"),
    malformed("NUL in the field", "Bearer {secret}\x00"),
    malformed("ESC in another scheme", "Digest \x1b[31m"),
    malformed("a line feed in the field", "Bearer {secret}\n"),
    malformed("a tab after Basic", "Basic\t<{secret}:>"),
    malformed("a tab after Bearer", "Bearer\t{secret}"),
    # Too long
    malformed("1,025 octets of another scheme", "Digest " + "a" * 1018),
    malformed("1,025 octets of Bearer", "Bearer " + "a" * 1018),
    malformed("70,000 octets of Bearer", "Bearer " + "a" * 69_993),
    malformed("70,000 octets of base64", "Basic " + "QUJD" * 17_500),
    malformed("70,000 blanks before the key", "Bearer " + " " * 70_000 + "{secret}"),
    malformed("70,000 commas", "," * 70_000),
    # More than one
    malformed("the same line twice", basic("secret"), basic("secret")),
    malformed("two good keys in two lines", basic("secret"), bearer("reader")),
    malformed("a good line, then an empty one", basic("secret"), ""),
    malformed("an empty line, then a good one", "", basic("secret")),
    malformed("another scheme, then a good line", "Negotiate YWJj", basic("secret")),
    malformed("a good line, then another scheme", bearer("secret"), "Digest a=b"),
    malformed("three lines", bearer("secret"), bearer("secret"), bearer("secret")),
    malformed("two good keys with a comma between", "Basic <{secret}:>,Bearer {reader}"),
    malformed("two good keys with comma and blank between", "Bearer {reader}, Basic <{secret}:>"),
    malformed("a comma after the key", "Bearer {secret},"),
    malformed("a comma before the scheme", ", Bearer {secret}"),
    malformed("another scheme and a good key in one line", 'Digest username="ann", Basic <{secret}:>'),
    # What is no token of this profile
    malformed("the last character is missing", bearer("cut")),
    malformed("a character more", bearer("longer")),
    malformed("a character changed", basic("typo")),
    malformed("test edited to live", basic("edited")),
    malformed("the key in capitals", bearer("shouted")),
    malformed("a hint", bearer("hint")),
    malformed("a token of another profile", bearer("alien")),
    malformed("the stored digest in hex", bearer("digest_hex")),
    malformed("the stored digest in base64", bearer("digest_base64")),
    malformed("the stored digest as user name", basic("digest_hex")),
)


def down(name: str, authorization: str | None, code: str, **fields: Any) -> Row:
    return Row(name, authorization, code, store="down", **fields)


def forbidden(name: str, key: str, mentions: str, **fields: Any) -> Row:
    return Row(name, basic(key), "insufficient_permissions", mentions=mentions, **fields)


VERDICTS = (
    Row("a token that nobody issued", basic("stranger"), "api_key_invalid"),
    Row("a revoked key", basic("revoked"), "api_key_revoked"),
    Row("a revoked key by Bearer", bearer("revoked"), "api_key_revoked"),
    Row("an expired key", basic("expired"), "api_key_expired"),
    Row("a token that was rolled without grace", basic("rolled"), "api_key_expired"),
    Row("the token after it", basic("after_rolled"), sees="after_rolled"),
    Row("a token that was rolled, in its grace", basic("graced"), sees="graced"),
    Row("the token after that", basic("after_graced"), sees="after_graced"),
    Row("a token whose key was reissued", basic("leaked"), "api_key_revoked"),
    Row("the token that was reissued", basic("after_leaked"), sees="after_leaked"),
    Row("a key of a suspended workspace", basic("suspended"), "workspace_suspended"),
    Row("a revoked key on an operation that takes any", basic("revoked"), "api_key_revoked", target="/ping"),
    Row("a key where the store is down", basic("secret"), "auth_unavailable", store="down"),
    Row("a revoked key where the store is down", basic("revoked"), "auth_unavailable", store="down"),
    Row("a record that cannot be read", basic("secret"), "auth_unavailable", store="unreadable"),
    Row("a record of another token", basic("secret"), "auth_unavailable", store="corrupt"),
    down("no key where the store is down", None, "api_key_missing"),
    down("a malformed key where the store is down", bearer("cut"), "api_key_malformed"),
    down("an open operation where the store is down", None, "", target="/healthz"),
    down("a refused HEAD where the store is down", basic("secret"), "auth_unavailable", method="HEAD"),
    down(
        "a browser's script where the store is down", basic("secret"), "auth_unavailable", headers=(("Origin", "null"),)
    ),
    # Mode and type
    Row("a live key", basic("live"), sees="live"),
    Row("a live restricted key", basic("live_reader"), sees="live_reader"),
    Row(
        "a test key where a live one is needed",
        basic("secret"),
        "livemode_mismatch",
        target="/payouts",
        mentions="live",
    ),
    Row("a live key where it is needed", basic("live"), sees="live", target="/payouts"),
    Row(
        "a live key where a test one is needed", basic("live"), "livemode_mismatch", target="/sandbox", mentions="test"
    ),
    Row("a test key where it is needed", basic("secret"), sees="secret", target="/sandbox"),
    Row("a publishable key where it may", basic("publishable"), sees="publishable", method="POST", target="/tokens"),
    Row("a live one there", bearer("publishable_live"), sees="publishable_live", method="POST", target="/tokens"),
    Row("a secret key there", basic("secret"), sees="secret", method="POST", target="/tokens"),
    Row(
        "a publishable key elsewhere",
        basic("publishable"),
        "secret_key_required",
        mentions="a publishable key was sent",
    ),
    Row("a publishable key where nothing is said", basic("publishable"), "secret_key_required", target="/unheard-of"),
    Row("a publishable key on an operation that takes any", basic("publishable"), sees="publishable", target="/ping"),
    Row("any key, and none is sent", None, "api_key_missing", target="/ping"),
    Row("a publishable test key for live data", basic("publishable"), "livemode_mismatch", target="/payouts"),
    # Permissions
    Row("the permission itself", basic("reader"), sees="reader"),
    Row("the whole resource", basic("messages"), sees="messages"),
    Row("everything", basic("everything"), sees="everything"),
    Row("every permission that is needed", basic("everything"), sees="everything", target="/both"),
    Row("no permission is needed", basic("reader"), sees="reader", target="/ping"),
    Row("the resource grants another action", basic("messages"), sees="messages", method="POST"),
    forbidden("read does not grant write", "reader", "the permission messages:write", method="POST"),
    forbidden("one of two", "messages", "the permissions messages:read, charges:read", target="/both"),
    forbidden("a restricted key where nothing is said", "reader", "an unrestricted secret key", target="/unheard-of"),
    forbidden("everything is not unrestricted", "everything", "an unrestricted secret key", target="/unheard-of"),
    forbidden("a restricted key for publishable ones", "reader", "tokens:create", method="POST", target="/tokens"),
    Row("an unrestricted key where nothing is said", basic("secret"), sees="secret", target="/unheard-of"),
    # What is open
    Row("an open operation", sees=None, target="/healthz"),
    Row("an open operation and a good key", basic("secret"), sees=None, target="/healthz"),
    Row("an open operation and a malformed key", basic("cut"), sees=None, target="/healthz"),
    Row("an open operation and two keys", (basic("secret"), basic("reader")), sees=None, target="/healthz"),
)

PROFILE_ROWS = (
    Row("FALU: a key", bearer("secret"), sees="secret", profile="falu"),
    Row("FALU: a key by Basic", basic("secret"), sees="secret", profile="falu"),
    Row("FALU: no key", None, "api_key_missing", profile="falu"),
    Row(
        "FALU: no key, a browser's script",
        None,
        "api_key_missing",
        profile="falu",
        headers=(("Origin", "x"),),
        script=True,
    ),
    Row("FALU: a token of another profile", bearer("alien"), "api_key_malformed", profile="falu"),
    Row("FALU: an unknown key", bearer("stranger"), "api_key_invalid", profile="falu"),
    Row("FALU: a revoked key", bearer("revoked"), "api_key_revoked", profile="falu"),
    Row(
        "FALU: its word for publishable",
        bearer("publishable"),
        "secret_key_required",
        profile="falu",
        mentions="a public key",
    ),
    forbidden("FALU: permissions", "reader", "messages:write", profile="falu", method="POST"),
    Row("FALU: network", bearer("office"), "network_not_allowed", profile="falu", peer=OUTSIDE, mentions=OUTSIDE),
    Row("FALU: the store is down", bearer("secret"), "auth_unavailable", profile="falu", store="down"),
    Row(
        "FALU: no request target",
        bearer("secret"),
        "request_target_invalid",
        profile="falu",
        method="OPTIONS",
        target="*",
    ),
    Row(
        "FALU: what its client sends besides is ignored",
        bearer("live"),
        sees="live",
        profile="falu",
        headers=(("X-Live-Mode", "False"), ("X-Workspace-Id", "wksp_another")),
    ),
    Row("FLUVEO: a key", basic("secret"), sees="secret", profile="fluveo"),
    Row("FLUVEO: an unknown key", basic("stranger"), "api_key_invalid", profile="fluveo"),
    Row("FLUVEO: a revoked key looks unknown", basic("revoked"), "api_key_invalid", profile="fluveo"),
    Row("FLUVEO: an expired key looks unknown", basic("expired"), "api_key_invalid", profile="fluveo"),
    Row("FLUVEO: a rolled token looks unknown", basic("rolled"), "api_key_invalid", profile="fluveo"),
    Row("FLUVEO: a suspended workspace", basic("suspended"), "workspace_suspended", profile="fluveo"),
)


def scripted(name: str, *headers: tuple[str, str], script: bool = True) -> Row:
    return Row(name, None, "api_key_missing", headers=headers, script=script)


METHODS = (
    Row("HEAD follows GET", basic("reader"), sees="reader", method="HEAD"),
    Row("HEAD without a key", None, "api_key_missing", method="HEAD"),
    Row("HEAD with a revoked key", basic("revoked"), "api_key_revoked", method="HEAD"),
    forbidden("HEAD without a permission", "live_reader", "messages:read, charges:read", method="HEAD", target="/both"),
    Row("HEAD of an open operation", method="HEAD", target="/healthz"),
    Row("POST where only GET is open", None, "api_key_missing", method="POST", target="/healthz"),
    Row("OPTIONS without a key", None, "api_key_missing", method="OPTIONS"),
    Row("OPTIONS of an open operation", None, "api_key_missing", method="OPTIONS", target="/healthz"),
    Row("OPTIONS with a key that may do all", basic("secret"), sees="secret", method="OPTIONS"),
    forbidden("OPTIONS with a key that may read", "reader", "an unrestricted secret key", method="OPTIONS"),
    Row("OPTIONS *", basic("secret"), "request_target_invalid", method="OPTIONS", target="*"),
    Row(
        "a preflight",
        None,
        "api_key_missing",
        method="OPTIONS",
        headers=(
            ("Origin", "https://shop.example"),
            ("Access-Control-Request-Method", "GET"),
            ("Access-Control-Request-Headers", "authorization"),
            ("Sec-Fetch-Mode", "cors"),
        ),
        script=True,
    ),
    Row("TRACE without a key", None, "api_key_missing", method="TRACE"),
    Row("DELETE without a key", None, "api_key_missing", method="DELETE"),
    forbidden("DELETE, which no rule describes", "messages", "an unrestricted secret key", method="DELETE"),
    Row("a method that nobody knows", None, "api_key_missing", method="BREW"),
    forbidden("a method that nobody knows, with a key", "messages", "an unrestricted secret key", method="BREW"),
    Row("get in lower case, open in capitals", None, "api_key_missing", method="get", target="/healthz"),
    forbidden("get in lower case", "reader", "an unrestricted secret key", method="get"),
    forbidden("post in lower case", "messages", "an unrestricted secret key", method="post"),
    Row("head in lower case, open in capitals", None, "api_key_missing", method="head", target="/healthz"),
    Row("CONNECT", basic("secret"), "request_target_invalid", method="CONNECT", target="api.example:443"),
    Row("a request whose method is the handshake's word", None, "api_key_missing", method="WEBSOCKET", target="/pulse"),
    forbidden("the same with a key", "reader", "an unrestricted secret key", method="WEBSOCKET", target="/feed"),
    forbidden("GET where the rule is for websockets", "reader", "an unrestricted secret key", target="/feed"),
    # Who asks
    scripted("Origin", ("Origin", "https://shop.example")),
    scripted("Origin null", ("Origin", "null")),
    scripted("an empty Origin", ("Origin", "")),
    scripted("Sec-Fetch-Mode cors", ("Sec-Fetch-Mode", "cors")),
    scripted("Sec-Fetch-Mode same-origin", ("Sec-Fetch-Mode", "same-origin")),
    scripted("Sec-Fetch-Mode no-cors", ("Sec-Fetch-Mode", "no-cors")),
    scripted("Sec-Fetch-Mode navigate is a person", ("Sec-Fetch-Mode", "navigate"), script=False),
    scripted("Origin and navigate: a form", ("Origin", "https://a.example"), ("Sec-Fetch-Mode", "navigate")),
    Row("Origin with a revoked key", basic("revoked"), "api_key_revoked", headers=(("Origin", "x"),), script=True),
    Row("Origin with a malformed key", bearer("cut"), "api_key_malformed", headers=(("Origin", "x"),), script=True),
    forbidden("Origin and 403: no window", "reader", "messages:write", method="POST", headers=(("Origin", "x"),)),
    Row("Origin with a good key", basic("reader"), sees="reader", headers=(("Origin", "https://shop.example"),)),
)


def closed(name: str, target: str, **fields: Any) -> Row:
    return Row(name, None, "api_key_missing", target=target, **fields)


PATHS = (
    # Near misses of the open path, none of them open
    closed("a slash after an open path", "/healthz/"),
    closed("two slashes before an open path", "//healthz"),
    closed("a dot before an open path", "/./healthz"),
    closed("dots that lead to an open path", "/messages/../healthz"),
    closed("encoded dots that lead to an open path", "/messages/%2e%2e/healthz"),
    closed("an encoded slash after an open path", "/healthz%2f"),
    closed("an open path in capitals", "/HEALTHZ"),
    closed("a path parameter after an open path", "/healthz;jsessionid=1"),
    closed("NUL after an open path", "/healthz%00"),
    closed("a line feed after a path of rules", "/messages%0A"),
    closed("a blank after an open path", "/healthz%20"),
    closed("an open path encoded twice", "/%2568ealthz"),
    closed("an encoded question mark after an open path", "/healthz%3fx=1"),
    closed("an encoded fragment after an open path", "/healthz%23"),
    closed("a fragment after an open path", "/healthz#x"),
    closed("a backslash after the slash", "/\\healthz"),
    Row("a backslash for the slash", None, "request_target_invalid", target="\\healthz"),
    Row("a path without a slash", None, "request_target_invalid", target="healthz"),
    closed("an open path goes on", "/healthz/messages"),
    closed("an open path as prefix", "/healthzone"),
    closed("a Host that makes an open URL", "/messages", headers=(("Host", "api.example/healthz?x="),)),
    closed(
        "fields that name an open path",
        "/messages",
        headers=(("X-Original-URL", "/healthz"), ("X-Rewrite-URL", "/healthz")),
    ),
    closed("fields that name another method", "/messages", headers=(("X-HTTP-Method-Override", "GET"),), method="POST"),
    closed("an empty path", ""),
    # The open path itself
    Row("an open path and a query", target="/healthz?path=/messages"),
    Row("an open path, percent-encoded", target="/%68ealthz"),
    # Paths of rules
    Row("a parameter", basic("reader"), sees="reader", target="/messages/17"),
    Row("an encoded letter", basic("reader"), sees="reader", target="/%6dessages"),
    Row("a parameter with a blank in it", basic("reader"), sees="reader", target="/messages/a%20b"),
    Row("a letter beyond ASCII", basic("reader"), sees="reader", target="/caff%C3%A8"),
    forbidden("the same letter, no UTF-8", "reader", "an unrestricted secret key", target="/caff%E8"),
    forbidden("a slash at the end", "reader", "an unrestricted secret key", target="/messages/"),
    forbidden("two slashes inside", "reader", "an unrestricted secret key", target="/messages//17"),
    forbidden("two slashes at the start", "reader", "an unrestricted secret key", target="//messages"),
    forbidden("an encoded slash in a parameter", "reader", "an unrestricted secret key", target="/messages/a%2Fb"),
    forbidden("dots for a parameter", "reader", "an unrestricted secret key", target="/messages/.."),
    forbidden("encoded dots for a parameter", "reader", "an unrestricted secret key", target="/messages/%2e%2e"),
    forbidden("a dot for a parameter", "reader", "an unrestricted secret key", target="/messages/."),
    forbidden("another case", "reader", "an unrestricted secret key", target="/Messages"),
    Row("octets that are no UTF-8", basic("secret"), sees="secret", target="/%ff%fe"),
    # Targets that are no path
    Row("absolute-form", basic("secret"), "request_target_invalid", target="http://api.example/messages"),
    Row("absolute-form of an open path", None, "request_target_invalid", target="http://api.example/healthz"),
    Row("absolute-form without a key", None, "request_target_invalid", target="https://api.example/messages"),
    Row("HEAD of an absolute-form target", None, "request_target_invalid", target="http://a/", method="HEAD"),
    Row("a scheme and no authority", None, "request_target_invalid", target="file:/healthz"),
    Row("dots and no slash", None, "request_target_invalid", target="../healthz"),
)


def mounted(name: str, authorization: str | None, code: str, target: str, **fields: Any) -> Row:
    return Row(name, authorization, code, target=target, mount="/v1", **fields)


MOUNTS = (
    mounted("mounted: a rule holds", basic("reader"), "", "/messages", sees="reader"),
    mounted("mounted: a key is needed", None, "api_key_missing", "/messages"),
    mounted("mounted: what is open is open", None, "", "/healthz"),
    mounted("mounted: the mount itself", None, "api_key_missing", ""),
    mounted("mounted: its root", None, "api_key_missing", "/"),
    mounted("mounted: the prefix again", None, "api_key_missing", "/v1/healthz"),
    mounted("mounted: two slashes", None, "api_key_missing", "//healthz"),
    mounted("path without the prefix: a rule holds", basic("reader"), "", "/messages", sees="reader", in_path=False),
    mounted("path without the prefix: open", None, "", "/healthz", in_path=False),
    mounted("a path that begins like the prefix", None, "api_key_missing", "/v10/healthz", in_path=False, only="asgi"),
    mounted("a target glued to the prefix", None, "api_key_missing", "*", only="asgi"),
    mounted("an absolute-form target glued to it", None, "api_key_missing", "http://a/healthz", only="asgi"),
    mounted("no path under a mount", None, "request_target_invalid", "*", only="wsgi"),
    Row("a prefix with a slash at its end", None, "api_key_missing", target="healthz", mount="/v1/", only="asgi"),
    mounted("mounted websocket", basic("reader"), "", "/feed", sees="reader", websocket=True, only="asgi"),
)


def site(name: str, target: str, code: str = "", authorization: str | None = None, **fields: Any) -> Row:
    return Row(name, authorization, code, target=target, policy="within", **fields)


SITE = (
    site("a page", "/about"),
    site("the front page", "/"),
    site("a page, and a broken key", "/about", authorization="Basic !"),
    site("any method on a page", "/about", method="DELETE"),
    site("a page that begins alike", "/apis"),
    site("the API itself", "/api", "api_key_missing"),
    site("the API's root", "/api/", "api_key_missing"),
    site("in the API", "/api/messages", "api_key_missing"),
    site("in the API with a key", "/api/messages", authorization=basic("reader"), sees="reader"),
    site("in the API, two slashes", "//api/messages", "api_key_missing"),
    site("in the API, three slashes", "///api//messages", "api_key_missing"),
    site("in the API, in capitals", "/API/messages", "api_key_missing"),
    site("in the API, through dots", "/about/../api/messages", "api_key_missing"),
    site("in the API, through encoded dots", "/about/%2e%2e/api/messages", "api_key_missing"),
    site("in the API, encoded", "/%61pi/messages", "api_key_missing"),
    site("in the API, encoded twice", "/%2561pi/messages", "api_key_missing"),
    site("in the API, an encoded slash", "/api%2Fmessages", "api_key_missing"),
    site("in the API, backslashes", "/\\api\\messages", "api_key_missing"),
    site("in the API, a line feed after it", "/api%0A", "api_key_missing"),
    site("in the API, a line feed in it", "/ap%0Ai/messages", "api_key_missing"),
    site("no path at all", "", "api_key_missing"),
    site("no path, but a target", "*", "request_target_invalid"),
    site("an absolute-form target", "http://site.example/about", "request_target_invalid"),
)


def spoofed(name: str, *headers: tuple[str, str]) -> tuple[Row, Row]:
    return (
        Row(f"{name}, open operation", target="/healthz", headers=headers),
        Row(f"{name}, no key", None, "api_key_missing", headers=headers),
    )


SPOOFS = (
    *spoofed("Doorkey-Principal", ("Doorkey-Principal", "admin")),
    *spoofed("doorkey.principal", ("doorkey.principal", "admin")),
    *spoofed("DOORKEY_PRINCIPAL", ("DOORKEY_PRINCIPAL", "admin")),
    *spoofed("X-Doorkey-Principal", ("X-Doorkey-Principal", "admin")),
    *spoofed("Principal and State", ("Principal", "admin"), ("State", "principal=admin")),
    *spoofed("Remote-User", ("Remote-User", "admin")),
    *spoofed("REMOTE_USER", ("REMOTE_USER", "admin"), ("HTTP_REMOTE_USER", "admin")),
    *spoofed("X-Forwarded-User", ("X-Forwarded-User", "admin"), ("X-Remote-User", "admin")),
    *spoofed("X-Auth-Request-User", ("X-Auth-Request-User", "admin"), ("X-Authenticated-Userid", "1")),
    *spoofed("X-Consumer-Username", ("X-Consumer-Username", "admin"), ("X-Credential-Identifier", "x")),
    Row("state that was there is overwritten", target="/healthz", given={"principal": "admin"}, only="asgi"),
    Row("state that was there lets nobody in", None, "api_key_missing", given={"principal": "admin"}, only="asgi"),
    Row("a key's principal replaces it", basic("reader"), sees="reader", given={"principal": "admin"}, only="asgi"),
    Row("an environ that had a principal", target="/healthz", given={"doorkey.principal": "admin"}, only="wsgi"),
    Row("it lets nobody in", None, "api_key_missing", given={"doorkey.principal": "admin"}, only="wsgi"),
    Row(
        "REMOTE_USER of the server",
        None,
        "api_key_missing",
        given={"REMOTE_USER": "ann", "AUTH_TYPE": "Basic"},
        only="wsgi",
    ),
    Row(
        "REMOTE_USER of the server, and a key",
        basic("reader"),
        sees="reader",
        given={"REMOTE_USER": "ann", "AUTH_TYPE": "Basic"},
        only="wsgi",
    ),
)

FORWARDED_FIELDS = (
    ("X-Forwarded-For", INSIDE),
    ("x-forwarded-for", INSIDE),
    ("X-FORWARDED-FOR", INSIDE),
    ("X_Forwarded_For", INSIDE),
    ("x_forwarded_for", INSIDE),
    ("X-Forwarded_For", INSIDE),
    ("Forwarded", f"for={INSIDE}"),
    ("X-Real-IP", INSIDE),
    ("X_Real_IP", INSIDE),
    ("X-Client-IP", INSIDE),
    ("True-Client-IP", INSIDE),
    ("CF-Connecting-IP", INSIDE),
    ("X-Cluster-Client-IP", INSIDE),
    ("X-Original-Forwarded-For", INSIDE),
    ("Remote-Addr", INSIDE),
    ("REMOTE_ADDR", INSIDE),
    ("X-Remote-Addr", INSIDE),
    ("Client-IP", INSIDE),
    ("Via", f"1.1 {INSIDE}"),
)
PROXY = "10.0.0.1"


def outside(
    name: str, peer: str | None, *values: str, proxies: str = "xff", header: str = "X-Forwarded-For", **fields: Any
) -> Row:
    """The key that is bound to the office is refused."""
    headers = tuple((header, value) for value in values)
    return Row(name, basic("office"), "network_not_allowed", peer=peer, proxies=proxies, headers=headers, **fields)


def inside(
    name: str, peer: str | None, *values: str, proxies: str = "xff", header: str = "X-Forwarded-For", **fields: Any
) -> Row:
    """The key that is bound to the office is let in."""
    headers = tuple((header, value) for value in values)
    return Row(name, basic("office"), sees="office", peer=peer, proxies=proxies, headers=headers, **fields)


UNKNOWN = "does not know the client's address"

NETWORKS = (
    # The peer is the client
    inside("from inside", INSIDE, proxies=""),
    inside("from inside by IPv6", "2001:db8:a::9", proxies=""),
    inside("an IPv4-mapped peer", "::ffff:203.0.113.7", proxies=""),
    inside("a peer with a zone", "2001:db8:a::9%eth0", proxies=""),
    outside("from outside", OUTSIDE, proxies="", mentions=f"the server saw {OUTSIDE}"),
    outside("from outside by IPv6", "2001:db8:b::1", proxies="", mentions="the server saw 2001:db8:b::1"),
    outside("a peer without an address", None, proxies="", mentions=UNKNOWN),
    outside("an empty peer", "", proxies="", mentions=UNKNOWN),
    outside("a peer that is no address", "unix:", proxies=""),
    outside("a peer on a socket without a file", "\0name", proxies=""),
    outside("a peer that spells an escape", r"\u0000", proxies=""),
    outside("a peer with leading zeros", "203.0.113.007", proxies=""),
    Row("network before permission", basic("office_reader"), "network_not_allowed", method="POST", peer=OUTSIDE),
    forbidden("inside, and no permission", "office_reader", "messages:write", method="POST"),
    Row("a key that may come from anywhere", basic("secret"), sees="secret", peer=OUTSIDE),
    Row("the same, and the address is unknown", basic("secret"), sees="secret", peer=None),
    # No header counts unless its proxy is trusted
    *(
        outside(f"{name} without trusted proxies", OUTSIDE, value, proxies="", header=name, mentions=OUTSIDE)
        for name, value in FORWARDED_FIELDS
    ),
    *(
        outside(f"{name} from a stranger", OUTSIDE, value, header=name, mentions=OUTSIDE)
        for name, value in FORWARDED_FIELDS
    ),
    *(
        outside(f"{name} from a proxy that writes X-Forwarded-For", PROXY, value, header=name, mentions=UNKNOWN)
        for name, value in FORWARDED_FIELDS[6:]
    ),
    inside("a stranger inside who names another", INSIDE, OUTSIDE),
    # X-Forwarded-For of a trusted proxy
    inside("a proxy names an inside client", PROXY, INSIDE),
    inside("the field in lower case", PROXY, INSIDE, header="x-forwarded-for"),
    inside("the field in capitals", PROXY, INSIDE, header="X-FORWARDED-FOR"),
    inside("a proxy by IPv6", "2001:db8:ffff::1", "2001:db8:a::9"),
    inside("a mapped proxy", "::ffff:10.0.0.1", INSIDE),
    outside("a proxy names an outside client", PROXY, OUTSIDE, mentions=OUTSIDE),
    outside("a client that made up an inside one before it", PROXY, f"{INSIDE}, {OUTSIDE}", mentions=OUTSIDE),
    inside("a client that made up an outside one before it", PROXY, f"{OUTSIDE}, {INSIDE}"),
    inside("two proxies", PROXY, f"{INSIDE}, 10.0.0.2"),
    inside("two proxies, two lines", PROXY, INSIDE, "10.0.0.2"),
    outside("a client's line before the proxy's", PROXY, INSIDE, OUTSIDE, mentions=OUTSIDE),
    inside("every hop is trusted: the leftmost", PROXY, f"{INSIDE},10.0.0.3,10.0.0.2"),
    outside("a client that claims to be a proxy", PROXY, "10.9.9.9", mentions="10.9.9.9"),
    inside("a port", PROXY, f"{INSIDE}:4711"),
    inside("brackets and a port", PROXY, "[2001:db8:a::9]:4711"),
    outside("no field from a proxy", PROXY, mentions=UNKNOWN),
    outside("an empty field from a proxy", PROXY, "", mentions=UNKNOWN),
    outside("garbage from a proxy", PROXY, f"{INSIDE}, unknown", mentions=UNKNOWN),
    outside("garbage behind a proxy", PROXY, f"{INSIDE}, nonsense, 10.0.0.2", mentions=UNKNOWN),
    outside("an empty hop", PROXY, f"{INSIDE},", mentions=UNKNOWN),
    outside("leading zeros in a hop", PROXY, "203.0.113.007", mentions=UNKNOWN),
    outside("octets above ASCII in a hop", PROXY, f"{INSIDE}\xa0", mentions=UNKNOWN),
    outside("a name for an address", PROXY, "localhost", mentions=UNKNOWN),
    # The other spelling
    outside("X_Forwarded_For from a proxy", PROXY, INSIDE, header="X_Forwarded_For", mentions=UNKNOWN, only="asgi"),
    Row(
        "X_Forwarded_For beside the proxy's own line",
        basic("office"),
        "network_not_allowed",
        peer=PROXY,
        proxies="xff",
        headers=(("X-Forwarded-For", OUTSIDE), ("X_Forwarded_For", INSIDE)),
        mentions=OUTSIDE,
        only="asgi",
    ),
    inside("WSGI cannot tell the spellings apart", PROXY, INSIDE, header="X_Forwarded_For", only="wsgi"),
    # Forwarded, X-Real-IP, Unix sockets
    inside("Forwarded", PROXY, f"for={INSIDE};proto=https", proxies="forwarded", header="Forwarded"),
    inside("Forwarded of IPv6", PROXY, 'for="[2001:db8:a::9]:80"', proxies="forwarded", header="Forwarded"),
    outside("Forwarded of an outsider", PROXY, f"for={INSIDE}, for={OUTSIDE}", proxies="forwarded", header="Forwarded"),
    outside("Forwarded that hides", PROXY, "for=_hidden", proxies="forwarded", header="Forwarded", mentions=UNKNOWN),
    outside("X-Forwarded-For where Forwarded counts", PROXY, INSIDE, proxies="forwarded", mentions=UNKNOWN),
    inside("X-Real-IP", PROXY, INSIDE, proxies="real-ip", header="X-Real-IP"),
    outside("X-Forwarded-For where X-Real-IP counts", PROXY, INSIDE, proxies="real-ip", mentions=UNKNOWN),
    inside("a proxy on a Unix socket", None, INSIDE, proxies="unix"),
    inside("an empty peer on a Unix socket", "", INSIDE, proxies="unix"),
    outside("an outsider behind a Unix socket", None, OUTSIDE, proxies="unix", mentions=OUTSIDE),
    outside("no field on a Unix socket", None, proxies="unix", mentions=UNKNOWN),
    outside("a Unix socket that is not trusted", None, INSIDE, mentions=UNKNOWN),
    outside("a peer with an address where sockets are trusted", OUTSIDE, INSIDE, proxies="unix", mentions=OUTSIDE),
)


def handshake(name: str, authorization: str | tuple[str, ...] | None, code: str = "", **fields: Any) -> Row:
    fields = {"target": "/feed", **fields}
    return Row(name, authorization, code, websocket=True, only="asgi", **fields)


WEBSOCKETS = (
    handshake("a websocket", basic("reader"), sees="reader"),
    handshake("a websocket by Bearer", bearer("secret"), sees="secret"),
    handshake("a websocket that is open", None, target="/pulse"),
    handshake("a websocket without a key", None, "api_key_missing"),
    handshake("a websocket without a key, no extension", None, "api_key_missing", denial=False),
    handshake("a websocket with a malformed key", bearer("cut"), "api_key_malformed"),
    handshake("a websocket with two keys", (basic("reader"), basic("reader")), "api_key_malformed"),
    handshake("a websocket with a revoked key", basic("revoked"), "api_key_revoked"),
    handshake("a websocket with a revoked key, no extension", basic("revoked"), "api_key_revoked", denial=False),
    handshake("a websocket with a publishable key", basic("publishable"), "secret_key_required"),
    handshake("a websocket from outside", basic("office"), "network_not_allowed", peer=OUTSIDE, mentions=OUTSIDE),
    handshake(
        "a websocket from a browser", None, "api_key_missing", headers=(("Origin", "https://a.example"),), script=True
    ),
    handshake("a websocket where the store is down", basic("reader"), "auth_unavailable", store="down"),
    handshake("the same, no extension", basic("reader"), "auth_unavailable", store="down", denial=False),
    handshake("a websocket where the rule is for GET", basic("reader"), "insufficient_permissions", target="/messages"),
    handshake("a websocket where GET is open", None, "api_key_missing", target="/healthz"),
    handshake("a websocket where nothing is said", basic("reader"), "insufficient_permissions", target="/unheard-of"),
    handshake("a websocket where nothing is said, every right", basic("secret"), sees="secret", target="/unheard-of"),
    handshake("a websocket to no path", None, "request_target_invalid", target="*"),
    handshake("a key as subprotocol", None, "api_key_missing", headers=(("Sec-WebSocket-Protocol", "{reader}"),)),
    handshake("a key in a websocket's query", None, "api_key_missing", target="/feed?token={reader}"),
    handshake("a websocket whose state was set", None, given={"principal": "admin"}, target="/pulse"),
    handshake("a page's websocket", None, policy="within", target="/live"),
    handshake("the API's websocket", None, "api_key_missing", policy="within", target="/api/live"),
)

ROWS: tuple[Row, ...] = (
    *CREDENTIALS,
    *VERDICTS,
    *PROFILE_ROWS,
    *METHODS,
    *PATHS,
    *MOUNTS,
    *SITE,
    *SPOOFS,
    *NETWORKS,
    *WEBSOCKETS,
)

_BEFORE = (
    *(
        "/",
        "//",
        "///",
        "/./",
        "/../",
        "/.//",
        "/%2e/",
        "/%2e%2e/",
        "/%2F",
        "/%5c",
        "/\\",
        "/;x/",
        "/%00/",
        "/%20",
        "/%09",
    ),
    *(
        "/healthz/../",
        "/healthz/..;/",
        "/healthz/%2e%2e/",
        "/healthz%2f..%2f",
        "/healthz/..%5c",
        "/healthz//",
        "/healthz;/",
    ),
    *(
        "",
        "./",
        "../",
        "http://api.example/",
        "http://api.example//",
        "https://ann:pass@api.example/",
        "file:///",
        "*/",
    ),
)
_AFTER = (
    *("admin", "Admin", "ADMIN", "%61dmin", "%2561dmin", "admin/", "admin//", "admin/.", "admin/..", "admin/../admin"),
    *(
        "admin%2f",
        "admin%2Fkeys",
        "admin/keys",
        "admin;a=b",
        "admin%00",
        "admin%20",
        "admin?x=/healthz",
        "admin#/healthz",
    ),
    *(
        "healthz",
        "healthz/",
        "healthz/../admin",
        "healthz%2f..%2fadmin",
        "admin%3f/healthz",
        "admin%c0%af",
        "%ef%bc%8fadmin",
    ),
)
TARGETS = tuple(before + after for before in _BEFORE for after in _AFTER)
"""Request targets that hope to reach ``/admin`` in disguise; ``/healthz`` alone is open."""
