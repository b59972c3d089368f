"""From a refusal to HTTP: one table, well-formed in every profile, and telling no more than it should."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorkey.core.model import Denied, KeyType, Mode, Principal, Reason, Requirement, Unavailable
from doorkey.core.profiles import DEFAULT, FALU, FLUVEO, PROFILES, Profile
from doorkey.core.refusals import LONGEST_RETRY, TABLE, Refusal, Refusals, new_request_id, sent_by_script
from doorkey.core.tokens import mint

PRINCIPAL = Principal("ws_secret", "key_secret", "muTFmv6k", KeyType.SECRET, Mode.LIVE)
READ, LIVE, TEST = Requirement("messages:read"), Requirement(mode=Mode.LIVE), Requirement(mode=Mode.TEST)

# The table of the design, row by row; below it what only adapters say.
ROWS: list[tuple[Denied | Unavailable, int, str]] = [
    (Denied(Reason.MISSING), 401, "api_key_missing"),
    (Denied(Reason.MALFORMED), 401, "api_key_malformed"),
    (Denied(Reason.UNKNOWN), 401, "api_key_invalid"),
    (Denied(Reason.EXPIRED), 401, "api_key_expired"),
    (Denied(Reason.REVOKED), 401, "api_key_revoked"),
    (Denied(Reason.WORKSPACE_SUSPENDED), 403, "workspace_suspended"),
    (Denied(Reason.NETWORK, client_address="203.0.113.7"), 403, "network_not_allowed"),
    (Denied(Reason.LIVEMODE, requirement=LIVE), 403, "livemode_mismatch"),
    (Denied(Reason.SECRET_KEY_REQUIRED, requirement=READ), 403, "secret_key_required"),
    (Denied(Reason.PERMISSIONS, requirement=READ), 403, "insufficient_permissions"),
    (Unavailable("OperationalError at store.py:1"), 503, "auth_unavailable"),
    (Denied(Reason.TARGET), 400, "request_target_invalid"),
    (Denied(Reason.UNDECLARED), 403, "operation_undeclared"),
]
SCRIPTS = [False, True]


def of(refused: Denied | Unavailable, profile: Profile = DEFAULT, script: bool = False) -> Refusal:
    return Refusals(profile).refusal(refused, script=script)


def every() -> Iterator[tuple[Denied | Unavailable, Profile, bool]]:
    for refused, _, _ in ROWS:
        for profile in PROFILES.values():
            for script in SCRIPTS:
                yield refused, profile, script


EVERY = pytest.mark.parametrize(
    ("refused", "profile", "script"),
    list(every()),
    ids=lambda value: getattr(value, "name", None) or str(getattr(value, "reason", value)),
)


def values(refusal: Refusal, name: str) -> list[str]:
    return [value for given, value in refusal.headers if given == name]


def members(refusal: Refusal) -> dict[str, Any]:
    """The members of a body, in whichever shape."""
    body = json.loads(refusal.body)
    return body.get("error", body)  # type: ignore[no-any-return]


# The table


@pytest.mark.parametrize(("refused", "status", "code"), ROWS, ids=lambda value: str(value)[:40])
def test_the_table(refused: Denied | Unavailable, status: int, code: str) -> None:
    """Each reason has its status and its code, in the default profile and in FALU's shape."""
    for profile in (DEFAULT, FALU):
        assert of(refused, profile).status == status
        assert members(of(refused, profile))["code"] == code


def test_every_reason_has_a_row() -> None:
    """No reason is forgotten, and codes tell reasons apart."""
    assert set(TABLE) == {*Reason, None}
    assert {getattr(refused, "reason", None) for refused, _, _ in ROWS} == set(TABLE)
    assert len({answer.code for answer in TABLE.values()}) == len(TABLE)


# Header fields


@EVERY
def test_header_fields(refused: Denied | Unavailable, profile: Profile, script: bool) -> None:
    """Every refusal is kept out of caches, names its request and its length, and is the same for ASGI and WSGI."""
    refusal = of(refused, profile, script)
    assert values(refusal, "Cache-Control") == ["no-store"]
    assert values(refusal, "Content-Length") == [str(len(refusal.body))]
    assert values(refusal, "Request-Id") == [refusal.request_id]
    assert values(refusal, "Content-Type") == [f"application/{'problem+json' if profile is FALU else 'json'}"]
    challenged = ", Origin, Sec-Fetch-Mode" if refusal.status == 401 else ""
    assert values(refusal, "Vary") == ["Authorization" + challenged]
    lowered = [(name.lower().encode(), value.encode()) for name, value in refusal.headers if name != "Retry-After"]
    assert [field for field in refusal.raw_headers if field[0] != b"retry-after"] == lowered
    assert all(value.isascii() and value.isprintable() for _, value in refusal.headers)


@EVERY
def test_challenges(refused: Denied | Unavailable, profile: Profile, script: bool) -> None:
    """
    Every 401 has Basic first and Bearer in its own line; a script's has Bearer alone. Of the rest only a key that lacks
    permissions is challenged, by Bearer.
    """
    refusal = of(refused, profile, script)
    challenges = values(refusal, "WWW-Authenticate")
    if refusal.status != 401:
        lacks = isinstance(refused, Denied) and refused.reason is Reason.PERMISSIONS
        assert challenges == ['Bearer realm="API", error="insufficient_scope", scope="messages:read"'] * lacks
        return
    missing = isinstance(refused, Denied) and refused.reason is Reason.MISSING
    bearer = 'Bearer realm="API"' + ("" if missing else ', error="invalid_token"')
    assert challenges == ([bearer] if script else ['Basic realm="API", charset="UTF-8"', bearer])


def test_the_scopes_that_are_missing() -> None:
    """A key that lacks permissions learns them all, as scopes (RFC 6750 §3.1), if they have names."""
    for permissions, scope in (
        (("messages:read", "messages:write"), ', scope="messages:read messages:write"'),
        ((), ""),
    ):
        refusal = of(Denied(Reason.PERMISSIONS, requirement=Requirement(permissions)))
        assert values(refusal, "WWW-Authenticate") == [f'Bearer realm="API", error="insufficient_scope"{scope}']


def test_one_type_of_problem_has_one_title() -> None:
    """That of the code, where the address of the explanation names it; else of the status (RFC 9457 §3.1.3)."""
    for profile in (FALU, replace(FALU, doc_url="https://acme.example/errors/{code}")):
        bodies = [json.loads(of(refused, profile).body) for refused, _, _ in ROWS]
        titles = {body["type"]: body["title"] for body in bodies}
        assert [body["title"] for body in bodies] == [titles[body["type"]] for body in bodies]
        assert all(titles.values())
    assert len(titles) == len(ROWS)
    assert titles["https://acme.example/errors/api_key_missing"] == "API key missing"


def test_the_realm_is_the_profiles() -> None:
    """Both challenges name one protection space. Unless it is said, no script sent the request."""
    acme = Refusals(replace(DEFAULT, name="acme", realm="Acme API"))
    assert values(acme.refusal(Denied(Reason.MISSING)), "WWW-Authenticate") == [
        'Basic realm="Acme API", charset="UTF-8"',
        'Bearer realm="Acme API"',
    ]


@EVERY
def test_retry_after(refused: Denied | Unavailable, profile: Profile, script: bool) -> None:
    """A 503 says when to come back, in whole seconds between 1 and 5; nothing else does."""
    refusal = of(refused, profile, script)
    given = values(refusal, "Retry-After")
    raw = [value.decode() for name, value in refusal.raw_headers if name == b"retry-after"]
    if refusal.status == 503:
        assert {*given, *raw} <= {"1", "2", "3", "4", "5"}
        assert len(given) == len(raw) == 1
    else:
        assert given == raw == []


def test_retries_are_spread() -> None:
    """Clients do not come back all at once."""
    expected = [str(seconds) for seconds in range(1, LONGEST_RETRY + 1)]
    refusals = [of(Unavailable()) for _ in range(200)]
    assert sorted({dict(refusal.headers)["Retry-After"] for refusal in refusals}) == expected
    assert sorted({dict(refusal.raw_headers)[b"retry-after"].decode() for refusal in refusals}) == expected


# Bodies


@EVERY
def test_the_body_is_json_of_the_profiles_shape(refused: Denied | Unavailable, profile: Profile, script: bool) -> None:
    """Stripe's shape, or RFC 9457 with the same members; the request id is the one of the header."""
    refusal = of(refused, profile, script)
    body = json.loads(refusal.body)
    told = {"code", "message", "doc_url", "request_id"}
    if profile is FALU:
        assert set(body) == told | {"type", "title", "status", "detail"}
        assert body["status"] == refusal.status
        assert body["detail"] == body["message"]
        assert body["title"] == HTTPStatus(refusal.status).phrase
        assert body["type"] == body["doc_url"]
    else:
        assert set(body) == {"error"}
        body = body["error"]
        assert set(body) == told | {"type"}
        assert body["type"] == ("api_error" if refusal.status == 503 else "invalid_request_error")
    assert body["request_id"] == refusal.request_id
    assert re.fullmatch(r"https://www\.rfc-editor\.org/rfc/rfc9110#section-15\.[56]\.\d", body["doc_url"])
    assert body["message"].endswith(".")
    assert "{" not in body["message"]


@pytest.mark.parametrize(("status", "section"), [(400, "15.5.1"), (401, "15.5.2"), (403, "15.5.4"), (503, "15.6.4")])
def test_where_errors_are_explained(status: int, section: str) -> None:
    """By default in RFC 9110, which each client can read; else wherever the profile says, by code."""
    own = replace(DEFAULT, name="acme", doc_url="https://acme.example/{code}")
    for refused, its_status, code in ROWS:
        if its_status == status:
            assert members(of(refused))["doc_url"].endswith(f"#section-{section}")
            assert members(of(refused, own))["doc_url"] == f"https://acme.example/{code}"


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (Denied(Reason.MISSING), "No API key was sent. Send one by HTTP Basic, "),
        (Denied(Reason.NETWORK, client_address="203.0.113.7"), "this network; the server saw 203.0.113.7."),
        (Denied(Reason.NETWORK, client_address="2001:db8::7"), "this network; the server saw 2001:db8::7."),
        (Denied(Reason.NETWORK), "this network; the server does not know the client's address."),
        (Denied(Reason.LIVEMODE, requirement=LIVE), "This needs a live mode key; a test mode key was sent."),
        (Denied(Reason.LIVEMODE, requirement=TEST), "This needs a test mode key; a live mode key was sent."),
        (Denied(Reason.SECRET_KEY_REQUIRED, requirement=READ), "a secret key; a publishable key was sent."),
        (Denied(Reason.PERMISSIONS, requirement=READ), "restricted. This needs the permission messages:read."),
        (
            Denied(Reason.PERMISSIONS, requirement=Requirement(["a:read", "b"])),
            "restricted. This needs the permissions a:read, b.",
        ),
        (Denied(Reason.PERMISSIONS, requirement=Requirement()), "This needs an unrestricted secret key."),
    ],
)
def test_the_message_says_what_would_let_the_request_through(refused: Denied, message: str) -> None:
    """The address that was judged, the mode, the type and the permission are named."""
    assert message in members(of(refused))["message"]


def test_a_profile_has_its_own_word() -> None:
    """FALU's users know public keys."""
    assert "a public key was sent" in members(of(Denied(Reason.SECRET_KEY_REQUIRED, requirement=READ), FALU))["message"]


# Disclosure


@pytest.mark.parametrize("script", SCRIPTS)
def test_fluveo_does_not_tell_whether_a_key_once_existed(script: bool) -> None:
    """Unknown, expired and revoked are one and the same response there, but for the request id."""
    refusals = Refusals(FLUVEO, lambda: "req_1")
    unknown, *others = (
        refusals.refusal(Denied(reason, PRINCIPAL), script=script)
        for reason in (Reason.UNKNOWN, Reason.EXPIRED, Reason.REVOKED)
    )
    for other in others:
        assert (other.status, other.body) == (unknown.status, unknown.body)
        assert other.headers == unknown.headers
        assert other.raw_headers == unknown.raw_headers


@pytest.mark.parametrize("profile", [DEFAULT, FALU], ids=lambda profile: profile.name)
def test_others_do(profile: Profile) -> None:
    """Where the profile discloses, an owner learns what became of the key."""
    codes = {
        members(of(Denied(reason), profile))["code"] for reason in (Reason.UNKNOWN, Reason.EXPIRED, Reason.REVOKED)
    }
    assert len(codes) == 3


@EVERY
def test_a_refusal_tells_nothing_of_the_key(refused: Denied | Unavailable, profile: Profile, script: bool) -> None:
    """Neither whose key it was nor why the store failed reaches the client."""
    if isinstance(refused, Denied):
        refused = replace(refused, principal=PRINCIPAL)
    refusal = of(refused, profile, script)
    shown = refusal.body.decode() + repr(refusal.headers)
    assert not any(
        hidden in shown for hidden in ("ws_secret", "key_secret", "muTFmv6k", "OperationalError", "store.py")
    )


# What clients may have chosen


@given(st.text() | st.text('\0\\u0{}"\n', max_size=12))
def test_no_address_breaks_a_body(address: str) -> None:
    """Whatever was judged as an address, the body is JSON that repeats it, beside the request's own id."""
    for profile in (DEFAULT, FALU):
        refusal = of(Denied(Reason.NETWORK, client_address=address), profile)
        body = members(refusal)
        assert body["request_id"] == refusal.request_id
        assert address in body["message"] or not address
        assert refusal.body.isascii()


def test_nothing_is_kept_of_what_clients_choose() -> None:
    """A flood of refusals, each for another address, leaves nothing behind."""
    refusals = Refusals()
    before = {name: len(value) for name, value in vars(refusals).items() if isinstance(value, dict)}
    for number in range(1_000):
        refusals.refusal(Denied(Reason.NETWORK, client_address=f"203.0.113.{number}"))
    assert before == {name: len(value) for name, value in vars(refusals).items() if isinstance(value, dict)}


# Request ids


def test_a_request_has_its_own_name() -> None:
    """Names are made anew for each refusal, of 96 random bits."""
    refusals = Refusals()
    names = {refusals.refusal(Denied(Reason.MISSING)).request_id for _ in range(1_000)}
    assert len(names) == 1_000
    assert all(re.fullmatch(r"req_[0-9a-f]{24}", name) for name in {*names, new_request_id()})


@pytest.mark.parametrize("name", ["req_1", "a-b.c/d+e=", "0", "with a space", "{code}", "%s", "u0000"])
def test_another_maker_of_names(name: str) -> None:
    """Whoever has names for requests already uses those."""
    refusal = Refusals(request_id=lambda: name).refusal(Denied(Reason.MISSING))
    assert refusal.request_id == name == members(refusal)["request_id"]
    assert values(refusal, "Request-Id") == [name]


@pytest.mark.parametrize("name", ["a\r\nSet-Cookie: b", "a\nb", "a\0", "a\tb", "é", "a\x7f", 'a"b', "a\\b", "\u2028"])
def test_a_name_cannot_break_out_of_its_field(name: str) -> None:
    """A name that a header field or a JSON string could not hold as it stands is an error of its maker."""
    refusals = Refusals(request_id=lambda: name)
    for refused in (Denied(Reason.MISSING), Denied(Reason.NETWORK)):
        with pytest.raises(ValueError, match="a request id is printable ASCII"):
            refusals.refusal(refused)


# Scripts


@pytest.mark.parametrize(
    ("origin", "mode", "script"),
    [
        (None, None, False),
        (None, "navigate", False),
        (None, b"navigate", False),
        (None, "cors", True),
        (None, b"same-origin", True),
        (None, "websocket", True),
        (None, "", True),
        ("https://acme.example", None, True),
        (b"null", None, True),
        ("", None, True),
        ("https://acme.example", "navigate", True),
    ],
)
def test_what_a_browsers_script_sent(origin: str | bytes | None, mode: str | bytes | None, script: bool) -> None:
    """An Origin, or a fetch mode other than navigate: then no password window may open."""
    assert sent_by_script(origin, mode) is script


def test_a_response_shows_no_token() -> None:
    """Whatever is printed of a refusal holds nothing of a key."""
    token = mint(KeyType.SECRET, Mode.LIVE)
    denied = Denied(Reason.REVOKED, PRINCIPAL._replace(token_id=token.id))
    assert token.id not in repr(of(denied)) + repr(denied)
