"""
Headless Chromium, driven by plain WebDriver requests (W3C WebDriver): six kinds of them do, so no further
package is needed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

FLAGS = (
    "--headless",
    "--no-sandbox",  # which it needs if root starts it
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

_ANSWERING = """
const done = arguments[arguments.length - 1];
(async (...arguments) => {%s})(...arguments).then(value => done({value}), error => done({failed: String(error)}));
"""

PATIENCE = 30
"""Seconds that a browser may take to start, or to answer."""


@dataclass(frozen=True, slots=True)
class Browser:
    """A session of WebDriver."""

    client: httpx.Client
    session: str

    def visit(self, url: str) -> None:
        """Open a page."""
        self._command("POST", "url", {"url": url})

    def run(self, script: str, *arguments: object, seconds: float = PATIENCE) -> Any:
        """
        What the promise that *script* returns comes to.

        Raises:
            TimeoutError: nothing, in so many *seconds*.
            RuntimeError: it is rejected.
        """
        self._command("POST", "timeouts", {"script": int(seconds * 1000)})
        outcome = self._command("POST", "execute/async", {"script": _ANSWERING % script, "args": arguments})
        if "failed" in outcome:
            raise RuntimeError(outcome["failed"])
        return outcome["value"]

    def dialog(self) -> str | None:
        """The text of a dialog that is open on the page, if one is."""
        try:
            return str(self._command("GET", "alert/text"))
        except LookupError:
            return None

    def _command(self, method: str, name: str, content: object = None) -> Any:
        response = self.client.request(method, f"{self.session}/{name}", json=content)
        value = response.json()["value"]
        if response.is_success:
            return value
        match value["error"]:
            case "script timeout":
                raise TimeoutError(value["message"])
            case "no such alert":
                raise LookupError(value["message"])
            case error:
                raise RuntimeError(f"{error}: {value['message']}")


@contextmanager
def browsing(profile: Path) -> Iterator[Browser]:
    """A browser with an empty *profile*, for as long as the context lasts."""
    options = {"binary": shutil.which("chromium"), "args": [*FLAGS, f"--user-data-dir={profile}"]}
    wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
    with driver() as port, httpx.Client(timeout=2 * PATIENCE, trust_env=False) as client:
        sessions = f"http://127.0.0.1:{port}/session"
        answer = client.post(sessions, json=wanted).json()["value"]
        if "sessionId" not in answer:
            raise RuntimeError(f"no browser: {answer['message']}")
        session = f"{sessions}/{answer['sessionId']}"
        try:
            yield Browser(client, session)
        finally:
            client.delete(session).raise_for_status()


@contextmanager
def driver() -> Iterator[int]:
    """ChromeDriver on a free port of this machine."""
    with subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if started := re.search(r"started successfully on port (\d+)", line):
                    yield int(started[1])
                    break
            else:
                raise RuntimeError("chromedriver did not start")
        finally:
            process.terminate()
