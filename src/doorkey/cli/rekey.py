"""``doorkey rekey``: the rotation of the master secret, once the new one is the first on every host."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict

from ..management.rekey import Hanging, Rekeyed
from ..management.rekey import rekey as move
from ..management.secrets import VARIABLE
from .arguments import Commands, command
from .opening import opened, secret_path
from .output import moment, report, shown, some
from .progress import bar


def add(commands: Commands) -> None:
    """Put this command on the command line."""
    command(
        commands,
        "rekey",
        rekey,
        "move what is sealed to the first master secret, and tell what hangs on the others; 1 if anything does",
    )


def rekey(args: Namespace) -> int:
    """Move what can be moved. 1 if anything is left."""
    with opened(args) as door, bar() as draw:
        others = door.secrets.fingerprints[1:]
        done = move(
            door.keyring,
            door.store,
            door.secrets,
            clock=args.clock,
            progress=lambda done, total: draw("moving", done, total),
        )
    origin = str(secret_path(args) or VARIABLE)
    free = [secret for secret in others if secret not in {each.secret for each in done.left}]
    lines = [
        f"newest:  {done.newest}, the first of {shown(origin)}",
        f"moved:   {done.moved} tokens",
        *(line for each in done.left for line in _left(each, done.newest)),
        *(_free(secret, done) for secret in free),
    ]
    left = [{**asdict(each), "until": moment(each.until)} for each in done.left]
    told = {"newest": done.newest, "moved": done.moved, "left": left, "dropped": done.dropped, "free": free}
    report(args, told, "\n".join(lines))
    return 1 if done.left else 0


def _left(each: Hanging, newest: str) -> Iterator[str]:
    yield f"left:    {each.secret}: tokens that hang on it: {each.tokens}, so it cannot be dropped yet"
    graces = each.tokens - each.sealed - len(each.roll)
    if each.roll:
        yield f"  {len(each.roll)} without a copy to move: roll the keys {some(each.roll, 10)}"
    if graces:
        yield f"  {graces} in a grace until {moment(each.until)} at most: wait, then run this again"
    if each.sealed:
        yield f"  {each.sealed} made meanwhile: make {newest} the first secret on every host, then run this again"


def _free(secret: str, done: Rekeyed) -> str:
    if secret in done.dropped:
        return f"free:    {secret}: nothing hangs on it any more: drop it on every host"
    return f"free:    {secret}: nothing hangs on it: drop it, unless it is the next one"
