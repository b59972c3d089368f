"""The story: it holds for the demo's application, and it notices one that is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from doorkey import DEFAULT, FALU, FLUVEO, KeyType, Mode, Principal, Reason
from doorkey.adapters.wsgi import PRINCIPAL, Application
from doorkey.core.refusals import TABLE
from doorkey.demo import serve, stage, story, wsgi
from doorkey.demo.report import Client, Report
from doorkey.demo.stage import Stage

TOKEN = re.compile("[sp]k_(live|test)_[0-9A-Za-z]{8}_[0-9A-Za-z]{36}")


@pytest.fixture
def built(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    with stage.built(tmp_path, profile=getattr(request, "param", DEFAULT)) as built:
        yield built


def told(built: Stage, application: Application) -> tuple[int, list[str]]:
    """The exit code and the lines of the story, told to *application*."""
    lines: list[str] = []
    code = story.check(built, [("WSGI", serve.serving_wsgi(application))], lines.append)
    return code, "\n".join(lines).splitlines()


def failed(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("  FAIL")]


def test_the_story_holds(built: Stage) -> None:
    """Every row is right, every refusal that a key can get is in it, and no token is."""
    code, lines = told(built, wsgi.application(built.door, built.databases))
    assert (code, failed(lines)) == (0, [])
    total = len([line for line in lines if line.startswith("  ok")])
    assert total > 50
    assert re.fullmatch(rf"All {total} answers are as expected \(\d+\.\d s\)\.", lines[-1])
    text = "\n".join(lines)
    assert not TOKEN.search(text)
    # No path; no rule of the demo asks for a mode; its policy describes everything; no store.
    elsewhere = {Reason.TARGET, Reason.LIVEMODE, Reason.UNDECLARED, None}
    for reason in TABLE.keys() - elsewhere:
        assert TABLE[reason].code in text
    assert set(story.CHAPTERS) <= {line.strip() for line in lines}
    assert max(map(len, lines)) <= 120
    # So that it can be told to the next server.
    assert built.ring.workspace(built.workspace).suspended_at is None


@pytest.mark.parametrize("built", [FALU, FLUVEO], ids=["falu", "fluveo"], indirect=True)
def test_the_story_holds_for_both_systems(built: Stage) -> None:
    """A rolled token dies at once with one, and the other never tells that a key has been one."""
    code, lines = told(built, wsgi.application(built.door, built.databases))
    assert (code, failed(lines)) == (0, [])
    text = "\n".join(lines)
    assert ("api_key_expired" in text) is ("api_key_revoked" in text) is built.door.profile.discloses
    (rolled,) = [line for line in lines if "rolled as usual: old token" in line]
    assert rolled.endswith(" 200" if built.door.profile.grace else " 401 api_key_expired")


def test_a_server_that_lets_everybody_in_is_found_out(built: Stage) -> None:
    """As one of the workspace: every refusal is missing, and the check says so by its exit code."""
    service = wsgi.application(built.door, built.databases).app
    anybody = Principal(built.workspace, "key_1", "muTFmv6k", KeyType.SECRET, Mode.TEST)

    def open_to_all(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ[PRINCIPAL] = anybody
        return service(environ, start_response)

    code, lines = told(built, open_to_all)
    assert code == 1
    for refusal in ("401 api_key_missing", "401 api_key_revoked", "403 network_not_allowed", "403 workspace_suspended"):
        assert any(refusal in line for line in failed(lines))
    # One that sees test data only shows none of the live mode, either.
    assert any("200 livemode true" in line and "200 livemode false" in line for line in failed(lines))
    count = len(failed(lines))
    assert re.match(rf"{count} of \d+ answers are NOT as expected", lines[-1])
    assert not TOKEN.search("\n".join(lines))


def chapter(built: Stage, title: str, application: Application) -> list[str]:
    """The rows of one chapter, told to *application*."""
    lines: list[str] = []
    with serve.serving_wsgi(application) as port:
        story.CHAPTERS[title](built, Client(port, Report(lines.append)))
    return lines


def test_a_server_without_challenges_is_found_out(built: Stage) -> None:
    """Statuses and codes are right then: it is the 401s alone that fail, and all of them."""
    application = wsgi.application(built.door, built.databases)

    def silent(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]]) -> object:
            return start_response(status, [header for header in headers if header[0] != "WWW-Authenticate"])

        return application(environ, start)

    lines = chapter(built, "How a key is sent", silent)
    assert failed(lines) == [line for line in lines if " 401" in line]
    assert all(line.endswith("no challenge") for line in failed(lines))


@pytest.mark.parametrize("title", [title for title in story.CHAPTERS if title != "The life of a key"])
def test_a_server_that_answers_nonsense_is_found_out(built: Stage, title: str) -> None:
    """Whatever it answers, each chapter is told to its end."""

    def nonsense(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("299 Whatever", [("Content-Type", "application/json")])
        return [b"[1, 2, 3]"]

    right = chapter(built, title, wsgi.application(built.door, built.databases))
    wrong = chapter(built, title, nonsense)
    assert failed(right) == []
    assert failed(wrong) == wrong
    assert len(wrong) == len(right)
