"""
The services that clients are tried on. Each runs on a real server, once behind the ASGI and once behind the WSGI
adapter.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from doorkey import DEFAULT, FALU, FLUVEO
from tests.clients import browser
from tests.clients.browser import Browser
from tests.clients.programs import require
from tests.clients.service import Service, serving


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever proxy the environment names, this machine is asked directly."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")


@pytest.fixture(scope="module", params=["asgi", "wsgi"])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    """Under the default profile."""
    with serving(DEFAULT, request.param) as service:
        yield service


@pytest.fixture(scope="module", params=["asgi", "wsgi"])
def fluveo(request: pytest.FixtureRequest) -> Iterator[Service]:
    """Which speaks as Stripe does."""
    with serving(FLUVEO, request.param) as service:
        yield service


@pytest.fixture(scope="module", params=["asgi", "wsgi"])
def falu_service(request: pytest.FixtureRequest) -> Iterator[Service]:
    """Which has prefixes and errors of its own."""
    with serving(FALU, request.param) as service:
        yield service


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A browser that has visited nothing."""
    require("chromium", "chromedriver", packages="chromium and chromium-driver")
    with (
        TemporaryDirectory(prefix="doorkey-", ignore_cleanup_errors=True) as profile,  # it goes on writing for a moment
        browser.browsing(Path(profile)) as running,
    ):
        yield running
