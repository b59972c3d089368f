"""``doorkey audit``: the record of every change."""

from __future__ import annotations

import json
from argparse import Namespace

from ..core.errors import ConfigurationError
from ..management import audit
from . import facts
from .arguments import Commands, command, group
from .opening import opened, pages
from .output import report, shown, table


def add(commands: Commands) -> None:
    """Put these commands on the command line."""
    audits = group(commands, "audit", "the record of every change")
    command(audits, "list", list_, "list the events of a workspace").add_argument(
        "workspace", metavar="WORKSPACE", help="its id"
    )
    verified = command(audits, "verify", verify, "check that no event was changed, removed, put in or moved")
    verified.add_argument("workspace", metavar="WORKSPACE", nargs="?", help="its id; without it, all are checked")
    verified.add_argument(
        "--head",
        metavar="SEQUENCE:HASH",
        action="append",
        default=[],
        help="a head that was noted or logged before, which must still stand; may be given several times",
    )


def list_(args: Namespace) -> int:
    """List the events of a workspace."""
    with opened(args) as door:
        workspace = door.keyring.workspace(args.workspace)
        events = pages(lambda after: door.store.events(workspace.id, after=after), lambda event: event.sequence)
        told = [facts.of_event(event) for event in events]
    columns = ("sequence", "at", "actor", "action", "key")
    text = table(
        ("EVENT", "AT", "ACTOR", "ACTION", "KEY", "DETAIL"),
        ([*(fact[column] for column in columns), json.dumps(fact["detail"], ensure_ascii=False)] for fact in told),
        empty="There is no event, which cannot be: `doorkey audit verify` tells more.",
    )
    report(args, {"events": told}, text)
    return 0


def verify(args: Namespace) -> int:
    """Check the chains. 1 if something is wrong with one."""
    heads = [audit.Head.parse(head) for head in args.head]
    if heads and args.workspace is None:
        raise ConfigurationError("a head is that of one workspace: name that, too")
    with opened(args) as door:
        ring = door.keyring
        workspaces = list(ring.workspaces()) if args.workspace is None else [ring.workspace(args.workspace)]
        findings = {each.id: audit.verify(door.store, each.id, heads=heads) for each in workspaces}
    told = [
        {**facts.of_workspace(each), "findings": [finding._asdict() for finding in findings[each.id]]}
        for each in workspaces
    ]
    lines = [f"{each.id} ({shown(each.name)}): {finding}" for each in workspaces for finding in findings[each.id]] or [
        table(
            ("WORKSPACE", "NAME", "CHAIN", "HEAD, TO BE NOTED ELSEWHERE FOR --head"),
            ([fact["id"], fact["name"], "whole", fact["head"]] for fact in told),
            empty="There is no workspace, so there is nothing to verify.",
        )
    ]
    report(args, {"whole": not any(findings.values()), "workspaces": told}, "\n".join(lines))
    return 1 if any(findings.values()) else 0
