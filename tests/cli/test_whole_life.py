"""A whole life by commands alone: real requests judged on the way, and no token in any output but that of `reveal`."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import doorkey
from doorkey import Denied, Granted, Reason
from doorkey.core.tokens import Token, parse
from doorkey.testing import Clock, basic

Run = Callable[..., CompletedProcess[str]]
Ask = Callable[..., Any]


def judge(clock: Clock, token: Token, requires: str = "messages:read", address: str = "203.0.113.7") -> Reason | None:
    """Why a request is denied by a service that runs on the store in this folder; ``None`` if it is granted."""
    with doorkey.open("sqlite:///doorkey.db", clock=clock) as door:
        match door.verifier.verify(basic(token), client_address=address, requires=requires):
            case Granted():
                return None
            case Denied(reason):
                return reason
            case other:
                raise AssertionError(other)


def test_a_whole_life(run: Run, ask: Ask, clock: Clock) -> None:
    """From an empty folder to a revoked key, each command's effect is what a running service sees."""

    def token_of(key: str) -> Token:
        return parse(run("keys", "reveal", key, "--stdout").stdout.strip())

    ask("init")
    workspace = ask("workspace", "provision", "Acme")["id"]
    ask("workspace", "approve", workspace)
    issue = ("keys", "issue", workspace, "--type", "secret", "--mode", "live", "--name", "reports")
    key = ask(*issue, "--permission", "messages:read", "--network", "203.0.113.0/24", "--expires", "+30d")["id"]
    first = token_of(key)
    assert run("keys", "reveal", key, "--stdout").returncode == 1

    assert judge(clock, first) is None
    assert judge(clock, first, "messages:write") is Reason.PERMISSIONS
    assert judge(clock, first, address="198.51.100.1") is Reason.NETWORK
    ask("keys", "restrict", key, "--any-network", "--permission", "messages")
    assert judge(clock, first, "messages:write", "198.51.100.1") is None

    ask("workspace", "suspend", workspace)
    assert judge(clock, first) is Reason.WORKSPACE_SUSPENDED
    ask("workspace", "resume", workspace)

    ask("keys", "roll", key, "--grace", "1h")
    second = token_of(key)
    assert judge(clock, first) is None
    assert judge(clock, second) is None
    clock.advance(3600)
    assert judge(clock, first) is Reason.EXPIRED
    assert judge(clock, second) is None

    ask("keys", "roll", key)
    third = token_of(key)
    ask("keys", "end-grace", key)
    assert judge(clock, second) is Reason.EXPIRED
    ask("keys", "reissue", key, "--because", "leaked")
    fourth = token_of(key)
    assert judge(clock, third) is Reason.REVOKED

    clock.advance(30 * 86_400)
    assert judge(clock, fourth) is Reason.EXPIRED
    ask("keys", "set-expiry", key, "never")
    ask("keys", "rename", key, "exports")
    assert judge(clock, fourth) is None
    ask("keys", "revoke", key, "--because", "customer left")
    assert judge(clock, fourth) is Reason.REVOKED

    assert ask("audit", "verify")["whole"] is True
    assert [event["action"] for event in ask("audit", "list", workspace)["events"] if event["key"] == key] == [
        *("key.issue", "key.reveal", "key.restrict", "key.roll", "key.reveal", "key.roll", "key.reveal"),
        *("key.end_grace", "key.reissue", "key.reveal", "key.set_expiry", "key.rename", "key.revoke"),
    ]


def test_no_output_holds_a_token(run: Run, ask: Ask, workspace: str, tmp_path: Path) -> None:
    """Every command but `reveal`, successful or not, as text and as a document: no token, no digest (G1, G4)."""
    tokens: list[Token] = []
    printed: list[str] = []

    def call(*argv: str) -> None:
        for form in ((), ("--json",)):
            done = run(*argv, *form)
            printed.extend((done.stdout, done.stderr))

    def keep(key: str) -> None:
        """Reveal a token to a file, whose messages count like those of any other command."""
        path = tmp_path / f"token{len(tokens)}"
        done = run("keys", "reveal", key, "--out", str(path))
        printed.extend((done.stdout, done.stderr))
        tokens.append(parse(path.read_text().strip()))

    call("keys", "issue", workspace, "--type", "secret", "--mode", "live", "--name", "n", "--permission", "a")
    keys = [each["id"] for each in ask("keys", "list")["keys"]][-3:]
    for key in keys:
        keep(key)
        for verb in (
            ("show",),
            ("roll", "--grace", "1h"),
            ("rename", "other"),
            ("restrict", "--network", "10.0.0.0/8"),
            ("restrict", "--permission", "a b"),
            ("set-expiry", "+7d"),
        ):
            call("keys", verb[0], key, *verb[1:])
        keep(key)
        call("keys", "reveal", key)
        call("keys", "end-grace", key)
        call("keys", "reissue", key, "--because", "leaked")
        keep(key)
        call("explain", key, "--method", "GET", "--path", "/", "--peer", "10.0.0.1", "--requires", "b")
    call("keys", "list")
    call("keys", "list", workspace, "--mode", "live")
    for change in ("approve", "suspend", "resume"):
        call("workspace", change, workspace)
    call("workspace", "list")
    call("workspace", "provision", "Other")
    call("audit", "list", workspace)
    call("audit", "verify")
    call("store", "check")
    call("init")
    for key in keys:
        call("keys", "revoke", key, "--because", "gone")
        call("keys", "reveal", key, "--stdout")
    for token in tokens:
        call("keys", "show", token.expose())
        call("--actor", token.expose(), "explain", token.expose())

    output = "\n".join(printed)
    hints = set(re.findall(r"[sp]k_(?:live|test)_\w{8}_(?:…|\\u2026)", output))
    assert len(hints) >= len(tokens)
    with doorkey.open("sqlite:///doorkey.db") as door:
        digests = [digest for token in tokens for digest in door.secrets.digester().digests(token)]
    secret = (tmp_path / "doorkey.db.secret").read_text().strip()
    assert secret not in output
    for token in tokens:
        tail = token.expose()[-36:]
        assert [tail[start : start + 8] for start in range(29) if tail[start : start + 8] in output] == []
        assert b64encode(tail.encode())[4:20].decode() not in output
    for digest in digests:
        assert digest.hex() not in output
        assert b64encode(digest).decode() not in output
        assert repr(digest)[2:-1] not in output
