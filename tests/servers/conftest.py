"""The servers, each started once for all tests that want it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.judging import Site
from tests.servers.running import SERVERS, Server, running


@pytest.fixture(scope="session", params=SERVERS, ids=lambda server: server.name)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Each server in turn, with the site on it."""
    server: Server = request.param
    with running(server.command) as address:
        yield Site(server, address)
