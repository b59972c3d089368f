"""The table of requests, over real sockets, on every server."""

from __future__ import annotations

from pathlib import Path

from tests.adapters.table import ROWS, TARGETS, Row
from tests.servers import judging
from tests.servers.__main__ import difference_line, server_line
from tests.servers.client import send
from tests.servers.judging import ALLOWED, DIFFERENCES, EQUAL, OWN, Site

PAGE = (Path(__file__).parents[2] / "docs/servers.md").read_text("utf-8")
OPEN = ("/healthz", "/pulse")


def is_open(row: Row, path: str) -> bool:
    """Whether an application may see this path without a principal."""
    if row.policy == "within":
        return path in ("/", "/about", "/apis", "/live")
    return path.removeprefix(row.mount) in OPEN


def test_every_row(site: Site) -> None:
    """
    Each row has its verdict, or the server refuses by itself, or the difference is known, on the safe side and written
    down. Nobody enters without a row, and without a principal nobody gets to a path that is not open.
    """
    outcomes, noted = judging.drive(site.server, site.address)
    assert len(outcomes) >= 120
    assert {
        (row, outcome)
        for row, outcome in outcomes.items()
        if outcome not in (EQUAL, OWN) and (row, outcome) not in ALLOWED
    } == set()
    assert {row.name for row in ROWS if not row.code and outcomes.get(row.name) == OWN} == set()
    for number, path, principal in noted.entered:
        assert number, "nobody asked for this"
        assert principal is not None or is_open(ROWS[int(number)], path)
    if f"| {site.server.name} | {site.server.version} |" in PAGE:
        assert server_line(site.server, outcomes) in PAGE
        for difference in DIFFERENCES:
            seen = difference.seen(outcomes)
            line = next(line for line in PAGE.splitlines() if line.startswith(f"| {difference.why} |"))
            assert (f" {site.server.name};" in line.replace(" |", ";")) is bool(seen), difference.why


def test_the_page_tells_of_every_server_and_every_difference() -> None:
    """docs/servers.md has a line for each, as ``python -m tests.servers`` prints it."""
    for difference in DIFFERENCES:
        assert difference_line(difference, ["…"]).partition(" … ")[0] in PAGE


def test_targets_in_disguise(site: Site) -> None:
    """Whatever a server makes of a target, without a key the application is entered for the open path alone (E2)."""
    judging.log(site.address)
    assert len(TARGETS) >= 200
    for target in TARGETS:
        send(site.address, target, "Host: api.example")
    entered = judging.log(site.address).entered
    assert {(path, principal) for _, path, principal in entered} == {("/healthz", None)}
