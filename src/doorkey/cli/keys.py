"""``doorkey keys``: every verb of a key's life."""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser, Namespace, _ActionsContainer
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..core.errors import ConfigurationError
from ..core.model import KeyType, Mode
from ..door import Doorkey
from ..management.keyring import KEEP, Keep
from ..storage.protocol import Key, Workspace
from . import arguments, facts
from .arguments import Commands, command, group
from .opening import opened
from .output import Unwritten, listing, report, shown, some, table, write

Write = Callable[[str], None]

_WHEN = "2030-01-31T12:00:00Z, +30d for so long from now, or never"


def add(commands: Commands) -> None:
    """Put these commands on the command line."""
    keys = group(commands, "keys", "keys and their tokens")
    listed = command(keys, "list", list_, "list keys")
    listed.add_argument("workspace", metavar="WORKSPACE", nargs="?", help="its id; without it, all keys are listed")
    listed.add_argument("--mode", choices=[mode.value for mode in Mode])

    _of_key(keys, "show", show, "show a key with its tokens")

    issued = command(keys, "issue", issue, "make a key; its token waits to be revealed")
    issued.add_argument("workspace", metavar="WORKSPACE", help="its id")
    issued.add_argument("--type", required=True, choices=[type.value for type in KeyType])
    issued.add_argument("--mode", required=True, choices=[mode.value for mode in Mode])
    issued.add_argument("--name", required=True)
    _restriction(issued, "permission", "what the key may do; without one it is unrestricted")
    _restriction(issued, "network", "a block that it may be used from; without one, from anywhere")
    issued.add_argument("--expires", metavar="WHEN", type=arguments.expiry, help=_WHEN)

    revealed = _of_key(
        keys, "reveal", reveal, "show the token of a key; that of a live secret key once and never again"
    )
    to = revealed.add_mutually_exclusive_group()
    to.add_argument("--out", metavar="FILE", type=Path, help="write it to a new file that only you can read")
    to.add_argument("--stdout", action="store_true", help="print it though stdout is no terminal")

    rolled = _of_key(keys, "roll", roll, "give a key a new token; the old one lives on for a grace")
    rolled.add_argument(
        "--grace", metavar="DURATION", type=arguments.duration, help="0, 90s, 15m, 24h or 7d; else as the profile says"
    )
    _of_key(keys, "end-grace", end_grace, "end every token of a key but the current one, now")
    for name, run, help in (
        ("reissue", reissue, "replace a compromised token: all of the key's die now, and a new one waits"),
        ("revoke", revoke, "end a key and all its tokens, for good"),
    ):
        _of_key(keys, name, run, help).add_argument("--because", metavar="TEXT", required=True)

    restricted = _of_key(keys, "restrict", restrict, "set what a key may do and where from")
    permissions = restricted.add_mutually_exclusive_group()
    _restriction(permissions, "permission", "all that it may do from now on")
    permissions.add_argument("--any-permission", action="store_true", help="make it unrestricted")
    networks = restricted.add_mutually_exclusive_group()
    _restriction(networks, "network", "all blocks that it may be used from, from now on")
    networks.add_argument("--any-network", action="store_true", help="let it be used from anywhere")

    _of_key(keys, "rename", rename, "give a key another name").add_argument("name", metavar="NAME")
    expiring = _of_key(keys, "set-expiry", set_expiry, "set when a key expires")
    expiring.add_argument("expires", metavar="WHEN", type=arguments.expiry, help=_WHEN)


def _of_key(commands: Commands, name: str, run: Callable[[Namespace], int], help: str) -> ArgumentParser:
    parser = command(commands, name, run, help)
    parser.add_argument("key", metavar="KEY", type=arguments.key, help="its id")
    return parser


def _restriction(parser: _ActionsContainer, name: str, help: str) -> None:
    parser.add_argument(
        f"--{name}", dest=f"{name}s", metavar=name.upper(), action="append", help=f"{help}; may be given several times"
    )


def list_(args: Namespace) -> int:
    """List the keys of one workspace, or of all."""
    mode = None if args.mode is None else Mode(args.mode)
    with opened(args) as door:
        ring = door.keyring
        workspaces = ring.workspaces() if args.workspace is None else [ring.workspace(args.workspace)]
        listed = [fact for workspace in workspaces for fact in told(args, door, workspace, mode)]
    text = (
        as_table(listed, with_workspace=args.workspace is None)
        or "There is no such key: `doorkey workspace provision` and `doorkey keys issue` make some."
    )
    report(args, {"keys": listed}, text)
    return 0


def show(args: Namespace) -> int:
    """Show a key with its tokens."""
    with opened(args) as door:
        return _tell(args, door, door.keyring.key(args.key))


def issue(args: Namespace) -> int:
    """Make a key."""
    with opened(args) as door:
        key = door.keyring.issue(
            args.workspace,
            type=KeyType(args.type),
            mode=Mode(args.mode),
            name=args.name,
            permissions=args.permissions,
            networks=args.networks,
            expires_at=arguments.instant(args),
        )
        return _tell(args, door, key, _waiting(key))


def reveal(args: Namespace) -> int:
    """Write the token of a key to the output, which is open before the token leaves its seal."""
    with opened(args) as door, _output(args) as deliver:
        key = door.keyring.key(args.key)
        token = door.keyring.reveal(key.id)
        told = {"key": key.id, "hint": token.hint, "token": token.expose()}
        once = key.type is KeyType.SECRET and key.mode is Mode.LIVE
        try:
            deliver(json.dumps(told, indent=2) if args.json else told["token"])
        except OSError as error:
            remedy = f"`doorkey keys roll {key.id} --grace 0` makes another" if once else "reveal it again"
            raise Unwritten(f"{token.hint} was revealed, but cannot be written ({error.strerror}): {remedy}") from None
    if args.out is not None:
        _note(f"{token.hint} is in {args.out}")
    if once:
        _note(f"this was the only time that {token.hint} is shown: if it is lost, roll {key.id}")
    return 0


def roll(args: Namespace) -> int:
    """Give a key a new token."""
    with opened(args) as door:
        key = door.keyring.roll(args.key, args.grace)
        return _tell(args, door, key, _waiting(key))


def end_grace(args: Namespace) -> int:
    """End every token of a key but the current one."""
    with opened(args) as door:
        return _tell(args, door, door.keyring.end_grace(args.key))


def reissue(args: Namespace) -> int:
    """Replace the tokens of a compromised key."""
    with opened(args) as door:
        key = door.keyring.reissue(args.key, because=args.because)
        return _tell(args, door, key, _waiting(key))


def revoke(args: Namespace) -> int:
    """End a key for good."""
    with opened(args) as door:
        return _tell(args, door, door.keyring.revoke(args.key, because=args.because))


def restrict(args: Namespace) -> int:
    """Set what a key may do and where from."""
    permissions = _restricted(args.permissions, args.any_permission)
    networks = _restricted(args.networks, args.any_network)
    if permissions is KEEP and networks is KEEP:
        raise ConfigurationError("say what changes: --permission or --any-permission, --network or --any-network")
    with opened(args) as door:
        return _tell(args, door, door.keyring.restrict(args.key, permissions=permissions, networks=networks))


def rename(args: Namespace) -> int:
    """Give a key another name."""
    with opened(args) as door:
        return _tell(args, door, door.keyring.rename(args.key, args.name))


def set_expiry(args: Namespace) -> int:
    """Set when a key expires."""
    with opened(args) as door:
        return _tell(args, door, door.keyring.set_expiry(args.key, arguments.instant(args)))


def told(args: Namespace, door: Doorkey, workspace: Workspace, mode: Mode | None = None) -> list[facts.Facts]:
    """What there is to tell of a workspace's keys."""
    now = args.clock()
    keys = door.keyring.keys(workspace.id, mode)
    return [facts.of_key(key, workspace, door.profile.format, now) for key in keys]


def as_table(told: Sequence[facts.Facts], *, with_workspace: bool = False) -> str:
    """Keys for people, one a line; without what the token's prefix says, so that a line fits into a terminal."""
    columns = ["key", "name", "token", "state", "permissions", "networks", "last used", "expires"]
    if with_workspace:
        columns.insert(1, "workspace")
    words = [_in_words(fact) for fact in told]
    return table([column.upper() for column in columns], ([each[column] for column in columns] for each in words))


def _tell(args: Namespace, door: Doorkey, key: Key, next: str = "") -> int:
    """Say what a key is now, and what may be done next."""
    workspace = door.keyring.workspace(key.workspace)
    fact = facts.of_key(key, workspace, door.profile.format, args.clock())
    columns = ("hint", "state", "created_at", "expires_at", "last_used_at")
    words = {
        **_in_words(fact),
        "workspace": f"{workspace.id} ({workspace.name})",
        "permissions": some(key.permissions, len(key.permissions or ())),
        "networks": some(key.networks, len(key.networks or ())),
    }
    tokens = table(
        ("TOKEN", "STATE", "CREATED", "EXPIRES", "LAST USED"),
        ([token[column] for column in columns] for token in fact["tokens"]),
    )
    report(args, fact, "\n\n".join(filter(None, (listing(words), tokens, next))))
    return 0


def _in_words(fact: facts.Facts) -> dict[str, object]:
    return {
        "key": fact["id"],
        "workspace": fact["workspace"],
        "name": fact["name"],
        "type": fact["type"],
        "mode": fact["mode"],
        "token": fact["hint"],
        "state": f"rolling until {fact['rolling_until']}" if fact["rolling_until"] else fact["state"],
        "permissions": some(fact["permissions"]),
        "networks": some(fact["networks"]),
        "last used": fact["last_used_at"] or "never",
        "expires": fact["expires_at"] or "never",
    }


def _waiting(key: Key) -> str:
    return f"Its token waits: `doorkey keys reveal {key.id}` shows it."


def _restricted(words: list[str] | None, lifted: bool) -> list[str] | Keep | None:
    if lifted:
        return None
    return KEEP if words is None else words


def _note(text: str) -> None:
    print(f"doorkey: {shown(text)}", file=sys.stderr)


@contextmanager
def _output(args: Namespace) -> Iterator[Write]:
    """What writes a token where the command line wants it."""
    if args.out is not None:
        with _new_file(args.out) as write_there:
            yield write_there
    elif args.stdout or sys.stdout.isatty():
        yield write
    else:
        raise ConfigurationError(
            "stdout is no terminal, and whatever reads it would get the token: give --out FILE for a file that only "
            "you can read, or --stdout if it is to go there"
        )


@contextmanager
def _new_file(path: Path) -> Iterator[Write]:
    """A new file of mode 0600, which is removed again unless something was written to it, whole and durably."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise ConfigurationError(f"{path} is there already: --out names a new file") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be made: {error.strerror}") from None

    written = False

    def write_there(text: str) -> None:
        nonlocal written
        file.write(f"{text}\n")
        file.flush()
        os.fsync(descriptor)
        written = True

    try:
        with open(descriptor, "w", encoding="ascii") as file:
            yield write_there
    finally:
        if not written:
            path.unlink(missing_ok=True)
