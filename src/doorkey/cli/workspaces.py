"""``doorkey workspace``: the tenants."""

from __future__ import annotations

from argparse import Namespace

from ..core.model import Mode
from ..door import Doorkey
from ..storage.protocol import Workspace
from . import facts, keys
from .arguments import Commands, command, group
from .opening import opened
from .output import report, shown, table


def add(commands: Commands) -> None:
    """Put these commands on the command line."""
    workspace = group(commands, "workspace", "tenants, who own keys")
    provisioning = command(workspace, "provision", provision, "make a workspace with its test pair of keys")
    provisioning.add_argument("name", metavar="NAME")
    for name, run, help in (
        ("approve", approve, "let it have live keys, and make its live pair"),
        ("suspend", suspend, "refuse all requests with its keys"),
        ("resume", resume, "take a suspension back"),
    ):
        command(workspace, name, run, help).add_argument("workspace", metavar="WORKSPACE", help="its id")
    command(workspace, "list", list_, "list all workspaces")


def provision(args: Namespace) -> int:
    """Make a workspace with its test pair."""
    with opened(args) as door:
        workspace = door.keyring.provision(args.name)
        return _told_with_keys(args, door, workspace, Mode.TEST)


def approve(args: Namespace) -> int:
    """Let a workspace have live keys."""
    with opened(args) as door:
        workspace = door.keyring.approve(args.workspace)
        return _told_with_keys(args, door, workspace, Mode.LIVE)


def suspend(args: Namespace) -> int:
    """Refuse all requests with a workspace's keys."""
    with opened(args) as door:
        workspace = door.keyring.suspend(args.workspace)
        return _told(
            args,
            workspace,
            f"is suspended: every request with one of its keys is refused until "
            f"`doorkey workspace resume {workspace.id}`",
        )


def resume(args: Namespace) -> int:
    """Take a suspension back."""
    with opened(args) as door:
        return _told(args, door.keyring.resume(args.workspace), "is not suspended")


def list_(args: Namespace) -> int:
    """List all workspaces."""
    with opened(args) as door:
        told = [facts.of_workspace(workspace) for workspace in door.keyring.workspaces()]
    columns = ("id", "name", "state", "created_at")
    text = table(
        ("WORKSPACE", "NAME", "STATE", "CREATED"),
        ([fact[column] for column in columns] for fact in told),
        empty="There is no workspace yet: `doorkey workspace provision NAME` makes one.",
    )
    report(args, {"workspaces": told}, text)
    return 0


def _told(args: Namespace, workspace: Workspace, news: str) -> int:
    report(args, facts.of_workspace(workspace), f"{workspace.id} ({shown(workspace.name)}) {news}")
    return 0


def _told_with_keys(args: Namespace, door: Doorkey, workspace: Workspace, mode: Mode) -> int:
    told = keys.told(args, door, workspace, mode)
    text = (
        f"{workspace.id} ({shown(workspace.name)}) and its {mode.value} keys:\n\n{keys.as_table(told)}\n\n"
        "`doorkey keys reveal KEY` shows the token of one."
    )
    report(args, {**facts.of_workspace(workspace), "keys": told}, text)
    return 0
