"""`doorkey explain` says what the adapters do, hop by hop and gate by gate, and what would let a request in."""

from __future__ import annotations

import json
import re
import shlex
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from subprocess import CompletedProcess
from textwrap import dedent
from typing import Any

import pytest

import doorkey
from doorkey import Policy, TrustedProxies
from doorkey.adapters.wsgi import DoorkeyMiddleware, StartResponse
from doorkey.testing import Clock, basic

Run = Callable[..., CompletedProcess[str]]
Ask = Callable[..., Any]
Make = Callable[..., str]

POLICY = """
    from doorkey import Mode, Policy, Requirement, Rule

    POLICY = Policy(
        [
            Rule.open("GET", "/healthz"),
            Rule("GET", "/api/messages/{id}", "messages:read"),
            Rule("POST", "/api/tokens", "tokens:write", publishable=True, mode=Mode.LIVE),
            Rule("GET", "/api/me", Requirement.ANY_KEY),
        ],
    )
    WITHIN = Policy(within="/api")
"""


@pytest.fixture
def policy(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a policy's module in the folder where the commands run."""
    name = "service_" + re.sub(r"\W", "_", str(tmp_path))[-40:]
    (tmp_path / f"{name}.py").write_text(dedent(POLICY))
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))  # and put back what the command changes
    return name


def told_by_wsgi(
    clock: Clock, policy: Policy, proxies: TrustedProxies | None, token: str, method: str, path: str, **environ: str
) -> Any:
    """Status and code of what the middleware answers; ``None`` if the application is entered."""
    answers: list[str] = []

    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        return []

    def start_response(status: str, headers: object) -> None:
        answers.append(status)

    with doorkey.open("sqlite:///doorkey.db", clock=clock) as door:
        middleware = DoorkeyMiddleware(application, door.verifier, policy=policy, trusted_proxies=proxies)
        sent = {"REQUEST_METHOD": method, "PATH_INFO": path, "HTTP_AUTHORIZATION": basic(token), **environ}
        body = b"".join(middleware(sent, start_response))
    code = json.loads(body)["error"]["code"] if body else None
    return (int(answers[0].split()[0]), code) if answers else None


REQUESTS = [
    ("GET", "/api/messages/1", "127.0.0.1", "203.0.113.7"),
    ("HEAD", "/api/messages/1", "127.0.0.1", "203.0.113.8"),
    ("GET", "/api/messages/1", "127.0.0.1", "203.0.113.7, 127.0.0.1"),
    ("GET", "/api/messages/1", "127.0.0.1", "nonsense"),
    ("GET", "/api/messages/1", "127.0.0.1", None),
    ("GET", "/api/messages/1", "203.0.113.7", "10.0.0.1"),
    ("GET", "/api/messages/1", None, "203.0.113.7"),
    ("POST", "/api/tokens", "203.0.113.7", None),
    ("GET", "/api/me", "203.0.113.7", None),
    ("GET", "/api/me/", "203.0.113.7", None),
    ("get", "/api/me", "203.0.113.7", None),
    ("GET", "/healthz", "203.0.113.7", None),
    ("GET", "*", "203.0.113.7", None),
    ("GET", "", "203.0.113.7", None),
    ("WEBSOCKET", "/api/me", "203.0.113.7", None),
]


@pytest.mark.parametrize("type", ["secret", "publishable"])
def test_it_says_what_the_middleware_does(
    run: Run, ask: Ask, workspace: str, key: Make, clock: Clock, policy: str, type: str
) -> None:
    """For every request: the same status and code, with the same policy behind the same proxies."""
    keys = [
        key("--network", "203.0.113.7", "--permission", "messages", type=type),
        key(type=type),
        key("--permission", "tokens", type=type, mode="live"),
        key(type=type),
    ]
    tokens = [run("keys", "reveal", id, "--stdout").stdout.strip() for id in keys]
    ask("keys", "revoke", keys[-1], "--because", "leaked")
    names: dict[str, Any] = {}
    exec(dedent(POLICY), names)
    proxies = TrustedProxies(["127.0.0.0/8"])
    for id, token in zip(keys, tokens, strict=True):
        for method, path, peer, forwarded in REQUESTS:
            options = ["--trusted-proxy", "127.0.0.0/8", "--policy", f"{policy}:POLICY"]
            options += ["--peer", peer] if peer else []
            options += [f"--forwarded={forwarded}"] if forwarded else []
            told = ask("explain", id, f"--method={method}", f"--path={path}", *options)
            environ = {"REMOTE_ADDR": peer} if peer else {}
            environ |= {"HTTP_X_FORWARDED_FOR": forwarded} if forwarded else {}
            said = told["answer"] and (told["answer"]["status"], told["answer"]["code"])
            done = told_by_wsgi(clock, names["POLICY"], proxies, token, method, path, **environ)
            assert said == done or (method == "HEAD" and said[0] == done[0])  # which has no body
            assert (told["verdict"] == "refused") is (said is not None)
            assert (told["refused_by"] is None) is (said is None)
            assert (told["remedies"] == []) is (said is None)


def test_in_words(run: Run, ask: Ask, workspace: str, key: Make, policy: str) -> None:
    """The request, the way to the client's address, the gates, the conclusion, and what would help."""
    id = key("--network", "10.0.0.0/8", "--permission", "messages:write")
    hint = ask("keys", "show", id)["hint"]
    done = run(
        *("explain", id, "--method", "GET", "--path", "/api/messages/1", "--policy", f"{policy}:POLICY"),
        *("--peer", "127.0.0.1", "--forwarded", "192.0.2.9, 203.0.113.7", "--trusted-proxy", "127.0.0.1"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == dedent(
        f"""\
        GET /api/messages/1 with {hint}, the active token of {id} (reports)

        SOURCE           TEXT         ADDRESS      MEANING
        peer             127.0.0.1    127.0.0.1    trusted, so it is asked who came to it
        x-forwarded-for  203.0.113.7  203.0.113.7  no trusted proxy, so it is the client

        GATE        RESULT   WHY
        target      passed   the path begins with a slash
        operation   passed   as its rule GET /api/messages/{{id}} says, it takes a secret key that may do messages:read
        credential  assumed  the request presents the token, whole and alone
        record      passed   the token's record is there, and agrees with the token
        revoked     passed   neither the key nor this token is revoked
        expired     passed   neither the key nor this token expires
        suspended   passed   the workspace Acme is not suspended
        network     refused  203.0.113.7 lies in none of the key's networks, 10.0.0.0/8
        declared    passed   the operation is for somebody
        mode        passed   the operation takes keys of both modes
        type        passed   it is a secret key
        permission  refused  the key may do messages:write, which does not grant messages:read

        Refused by the gate "network". The client gets 403 network_not_allowed: The API key may not be used from this network; the server saw 203.0.113.7.
        What would let it through:
          - send it from one of the key's networks; if another address was expected, look at the hops
          - let the key be used from there, too: `doorkey keys restrict {id} --network 10.0.0.0/8 --network 203.0.113.7`
          - let the key do that, too: `doorkey keys restrict {id} --permission messages:write --permission messages:read`
        """  # noqa: E501
    )


def test_the_advice_is_good(run: Run, ask: Ask, workspace: str, key: Make) -> None:
    """Whoever follows it is let in."""
    id = key("--network", "10.0.0.0/8", "--permission", "messages:write", "--expires", "+1s", mode="live")
    ask("workspace", "suspend", workspace)
    request = ("explain", id, "--method=GET", "--path=/", "--peer=::1", "--requires=a:b", "--requires=messages")
    refused = ask(*request)
    assert refused["verdict"] == "refused"
    for command in re.findall("`doorkey (.*?)`", " ".join(refused["remedies"])):
        assert run(*shlex.split(command)).returncode == 0
    granted = ask(*request)
    assert (granted["verdict"], granted["answer"], granted["refused_by"]) == ("granted", None, None)
    assert run(*request).stdout.endswith("\nLet in.\n")


def test_a_policy_in_words(run: Run, workspace: str, key: Make, policy: str) -> None:
    """Who says what an operation requires: a rule, what holds otherwise, or nobody."""
    id = key()

    def operation(path: str, *options: str) -> str:
        out = run("explain", id, "--method", "GET", "--path", path, *options).stdout
        (line,) = re.findall(r"^operation +\S+ +(.*)$", out, re.MULTILINE)
        return f"{line} / {out.splitlines()[-1]}"

    rules, within = f"{policy}:POLICY", f"{policy}:WITHIN"
    assert operation("/healthz", "--policy", rules) == (
        "as its rule GET /healthz says, it is open / Let in without a key: no principal is known there."
    )
    assert operation("/api/me", "--policy", rules) == "as its rule GET /api/me says, it takes any key / Let in."
    assert operation("/other", "--policy", rules) == (
        "no rule describes it, so it takes what holds otherwise: an unrestricted secret key / Let in."
    )
    assert operation("/page", "--policy", within).startswith("it lies outside of /api, where requests pass without")
    assert operation("/", "--requires", "a", "--publishable", "--only-mode", "test") == (
        "as the options say, it takes a secret or publishable key that may do a, of test mode / Let in."
    )
    assert operation("/") == "as the options say, it takes an unrestricted secret key / Let in."


def test_an_open_operation_asks_no_gate(ask: Ask, workspace: str, key: Make, policy: str) -> None:
    """Where no key is needed, whatever is wrong with one does not count."""
    ask("keys", "revoke", id := key(), "--because", "x")
    told = ask("explain", id, "--method", "GET", "--path", "/healthz", "--policy", f"{policy}:POLICY")
    assert (told["verdict"], told["refused_by"], told["remedies"]) == ("open", None, [])
    assert [gate["result"] for gate in told["gates"]] == ["passed", "passed"] + ["not asked"] * 10


@pytest.mark.parametrize(
    ("options", "hops"),
    [
        ([], [("peer", "", None)]),
        (["--peer", "2001:DB8::1"], [("peer", "2001:db8::1", "2001:db8::1")]),
        (["--peer", "::1", "--forwarded", "10.0.0.1"], [("peer", "::1", "::1")]),
        (
            ["--unix-socket", "--forwarded", "10.0.0.1"],
            [("peer", "", None), ("x-forwarded-for", "10.0.0.1", "10.0.0.1")],
        ),
        (
            ["--trusted-proxy", "::1", "--peer", "::1", "--proxy-header", "Forwarded", "--forwarded", 'for="[::2]:80"'],
            [("peer", "::1", "::1"), ("forwarded", 'for="[::2]:80"', "::2")],
        ),
        (
            [
                "--trusted-proxy=::1",
                "--peer=::1",
                "--header=X-Forwarded-For: 10.0.0.1",
                "--header=x-forwarded-for: ::1",
            ],
            [("peer", "::1", "::1"), ("x-forwarded-for", "::1", "::1"), ("x-forwarded-for", "10.0.0.1", "10.0.0.1")],
        ),
        (
            ["--trusted-proxy=::1", "--peer=::1", "--header=Forwarded: for=10.0.0.1"],
            [("peer", "::1", "::1"), ("x-forwarded-for", "", None)],
        ),
    ],
)
def test_the_way_to_the_client(
    ask: Ask, workspace: str, key: Make, options: list[str], hops: list[tuple[str, str, str | None]]
) -> None:
    """Each hop that was looked at, and the address that came of it; the last one is judged."""
    told = ask("explain", key(), "--method", "GET", "--path", "/", *options)["client"]
    assert [(hop["source"], hop["text"], hop["address"]) for hop in told["hops"]] == hops
    assert told["address"] == hops[-1][2]


def test_hops_in_words(run: Run, workspace: str, key: Make) -> None:
    """What each hop means for the next."""
    request = ("explain", key(), "--method", "GET", "--path", "/", "--trusted-proxy", "::1", "--peer", "::1")
    assert "trusted, but nobody stands behind it, so it is the client" in run(*request, "--forwarded", "::1").stdout
    assert "tells no address, so the client is unknown" in run(*request).stdout


def test_a_token_of_before(ask: Ask, run: Run, workspace: str, key: Make, clock: Clock) -> None:
    """The former token of a rolled key can be judged, too."""
    id = key()
    old = ask("keys", "show", id)["tokens"][0]["id"]
    new = ask("keys", "roll", id, "--grace", "1m")["tokens"][0]["id"]
    clock.advance(60)
    request = ("explain", id, "--method", "GET", "--path", "/")
    assert ask(*request, "--token", old)["answer"]["code"] == "api_key_expired"
    assert ask(*request, "--token", new)["verdict"] == ask(*request)["verdict"] == "granted"
    done = run(*request, "--token", "abcdefgh")
    assert (done.returncode, done.stdout) == (1, "")
    assert "has no token of that id" in done.stderr


def test_what_the_client_is_told(run: Run, ask: Ask) -> None:
    """A profile that does not disclose does not do so here either; one with another error shape is read, too."""
    for profile, code in (("fluveo", "api_key_invalid"), ("falu", "api_key_revoked")):
        options = ("--store", f"sqlite:///{profile}.db")
        ask("init", "--profile", profile, *options)
        id = ask("workspace", "provision", "Acme", *options)["keys"][0]["id"]
        ask("keys", "revoke", id, "--because", "x", *options)
        told = ask("explain", id, "--method", "GET", "--path", "/", *options)
        assert (told["refused_by"], told["answer"]["status"], told["answer"]["code"]) == ("revoked", 401, code)


def test_a_damaged_record(run: Run, ask: Ask, workspace: str, key: Make) -> None:
    """A record that cannot be understood is 503, and the rest is not asked."""
    id = key("--permission", "a")
    driver = sqlite3.connect("doorkey.db")
    driver.execute("UPDATE keys SET permissions = 'a:b:c' WHERE id = ?", (id,))
    driver.commit()
    driver.close()
    told = ask("explain", id, "--method", "GET", "--path", "/")
    assert (told["refused_by"], told["answer"]["status"], told["answer"]["code"]) == ("record", 503, "auth_unavailable")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--peer", "10.0.0"), "is no IP address"),
        (("--trusted-proxy", "10.0.0.1/8"), "has host bits set"),
        (("--trusted-proxy", "::1", "--proxy-header", "x:"), "is no header name"),
        (("--header", "nonsense"), "a header is written as"),
        (("--header", "Authorization: Basic YTo="), "leave Authorization out"),
        (("--header", "a: b", "--forwarded", "::1"), "not allowed with"),
        (("--requires", "a b"), "is no permission"),
        (("--policy", "nowhere:POLICY"), "No module named 'nowhere'"),
        (("--policy", "doorkey:NOTHING"), "AttributeError"),
        (("--policy", "doorkey"), "write MODULE:ATTRIBUTE"),
        (("--policy", "doorkey:DEFAULT"), "that is of type Profile"),
        (("--policy", "{policy}:POLICY", "--publishable"), "the policy says what is publishable"),
        (("--policy", "{policy}:POLICY", "--only-mode", "test"), "the policy says"),
        (("--policy", "{policy}:POLICY", "--requires", "a"), "not allowed with"),
        (("--path", "/a?b=c"), "a path ends before its query"),
    ],
)
def test_wrong_usage(run: Run, workspace: str, key: Make, policy: str, options: tuple[str, ...], says: str) -> None:
    """Options that cannot be meant so say what to write."""
    given = [option.format(policy=policy) for option in options]
    done = run("explain", key(), "--method", "GET", "--path", "/", *given)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


def test_a_policy_that_breaks(run: Run, workspace: str, key: Make, tmp_path: Path, policy: str) -> None:
    """Whatever a module of others raises is told in one line, without what could harm a terminal."""
    (tmp_path / f"{policy}_broken.py").write_text("raise RuntimeError('a\\n\\x1b[2J')\n")
    done = run("explain", key(), "--method", "GET", "--path", "/", "--policy", f"{policy}_broken:POLICY")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert r"RuntimeError: a\n\x1b[2J" in done.stderr


def test_unknown_keys(run: Run, workspace: str) -> None:
    """There is nothing to explain without a key."""
    done = run("explain", "key_" + "0" * 16, "--method", "GET", "--path", "/")
    assert (done.returncode, done.stdout) == (1, "")
