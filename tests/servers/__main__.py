"""``python -m tests.servers`` prints which rows have which verdict on which server, for docs/servers.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.adapters.table import ROWS
from tests.servers.judging import DIFFERENCES, EQUAL, OWN, Difference, drive
from tests.servers.running import SERVERS, Server, running

Outcomes = Mapping[str, str]


def server_line(server: Server, outcomes: Outcomes) -> str:
    """A server's line in the matrix."""
    found = list(outcomes.values())
    equal, own = found.count(EQUAL), found.count(OWN)
    refused = "its response" if server.denials else "a bare 403" if server.websockets else "no websockets"
    body = "after the whole body" if server.buffers else "after “100 Continue”" if server.eager else "at once"
    counts = f"{len(found)} | {equal} | {own} | {len(found) - equal - own}"
    return f"| {server.name} | {server.version} | {counts} | {refused} | {body} |"


def difference_line(difference: Difference, servers: Sequence[str]) -> str:
    """A difference's line."""
    return f"| {difference.why} | {len(difference.rows)} | {'; '.join(servers)} |"


def report(matrix: Mapping[Server, Outcomes]) -> str:
    """Everything that the page shows of it."""
    differences = [
        difference_line(difference, [server.name for server, outcomes in matrix.items() if difference.seen(outcomes)])
        for difference in DIFFERENCES
    ]
    own = {
        row.name: [server.name for server, outcomes in matrix.items() if outcomes.get(row.name) == OWN] for row in ROWS
    }
    refused = [f"| {row} | {len(servers)} | {'; '.join(servers)} |" for row, servers in own.items() if servers]
    return "\n".join(
        [
            "| server | version | rows | equal | refused by the server | different "
            "| a refused websocket gets | refuses an upload |",
            "|---|---|---|---|---|---|---|---|",
            *(server_line(server, outcomes) for server, outcomes in matrix.items()),
            "",
            "| difference | rows | servers |",
            "|---|---|---|",
            *differences,
            "",
            "| row that servers refuse themselves | servers | which |",
            "|---|---|---|",
            *refused,
        ]
    )


def main() -> None:
    """Start one server after the other, and print the report."""
    matrix = {}
    for server in SERVERS:
        with running(server.command) as address:
            matrix[server], _ = drive(server, address)
    print(report(matrix))


if __name__ == "__main__":
    main()
