"""What stands on the command line: the options that every command takes, and the forms of what is written there."""

from __future__ import annotations

import getpass
import math
import os
import re
import socket
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace, _SubParsersAction
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TypeAlias

from ..core.errors import ConfigurationError

Commands: TypeAlias = "_SubParsersAction[ArgumentParser]"

STORE = "sqlite:///doorkey.db"

_TOKEN = re.compile("_[0-9A-Za-z]{8}_[0-9A-Za-z]{30}")  # also one that lost some characters at its end
_HINT = re.compile(r"[a-z0-9_]+_[0-9A-Za-z]{8}(_(…|\.\.\.)?)?")
_DURATION = re.compile("(0|[1-9][0-9]{0,8})([smhd]?)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@cache
def options() -> ArgumentParser:
    """What every command takes; a parent of each parser, so that users may write it before and after the command."""
    parser = ArgumentParser(add_help=False, argument_default=SUPPRESS)
    group = parser.add_argument_group("options of every command")
    group.add_argument("--store", metavar="URL", help=f"where keys live (else DOORKEY_STORE, else {STORE})")
    group.add_argument(
        "--secret-file",
        metavar="PATH",
        type=Path,
        help="the master secret (else what DOORKEY_SECRET holds, else the database's path and .secret)",
    )
    group.add_argument("--actor", metavar="NAME", help="who changes (else DOORKEY_ACTOR, else user@host)")
    group.add_argument("--json", action="store_true", help="one JSON document instead of text for people")
    return parser


def defaults(clock: Callable[[], float]) -> Namespace:
    """What holds where the command line says nothing."""
    return Namespace(
        store=default_store(),
        secret_file=None,
        actor=os.environ.get("DOORKEY_ACTOR") or _user_at_host(),
        json=False,
        clock=clock,
    )


def default_store() -> str:
    """The store of a command line that names none."""
    return os.environ.get("DOORKEY_STORE") or STORE


def group(commands: Commands, name: str, help: str) -> Commands:
    """A word that has commands below it."""
    parser = commands.add_parser(name, help=help, description=help, parents=[options()], allow_abbrev=False)
    return parser.add_subparsers(metavar="COMMAND", required=True)


def command(commands: Commands, name: str, run: Callable[[Namespace], int], help: str) -> ArgumentParser:
    """A command, which *run* carries out; it returns the exit code."""
    parser = commands.add_parser(name, help=help, description=help, parents=[options()], allow_abbrev=False)
    parser.set_defaults(run=run)
    return parser


def refuse_tokens(argv: Sequence[str]) -> None:
    """
    Let arguments pass unless one of them holds a token; what follows may repeat them in messages.

    Raises:
        ConfigurationError: one does. The message holds nothing of it.
    """
    for place, argument in enumerate(argv, 1):
        if _TOKEN.search(argument):
            raise ConfigurationError(
                f"argument {place} looks like a token. Tokens never belong in arguments, which others on this machine "
                "can see and shells remember: take that one as lost, and roll or reissue its key. Keys are named by "
                "their id, which `doorkey keys list` shows"
            )


def key(text: str) -> str:
    """The id of a key."""
    if not text.startswith("key_") and _HINT.fullmatch(text):
        raise ArgumentTypeError(f"{text!r} names a token: give the id of its key, which `doorkey keys list` shows")
    return text


def duration(text: str) -> int:
    """Seconds."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ArgumentTypeError(f"{text!a} is no duration: write 0, 90s, 15m, 24h or 7d")
    number, unit = match.groups()
    if not unit and number != "0":
        raise ArgumentTypeError(f"{text!a} has no unit: write {number}s for seconds, or m, h or d")
    return int(number) * _SECONDS[unit or "s"]


def expiry(text: str) -> datetime | int | None:
    """An instant, seconds from now, or never."""
    if text == "never":
        return None
    if text.startswith("+"):
        return duration(text[1:])
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(
            f"{text!a} is no time: write 2030-01-31T12:00:00Z, or +30d for so long from now, or never"
        ) from None
    if at.tzinfo is None:
        raise ArgumentTypeError(f"{text!a} has no time zone: write {at.isoformat()}Z if you mean UTC")
    return at


def instant(args: Namespace) -> datetime | int | None:
    """What *expiry* read, with seconds from now counted from now."""
    when: datetime | int | None = args.expires
    return math.floor(args.clock()) + when if isinstance(when, int) else when


def field_line(text: str) -> tuple[bytes, bytes]:
    """A header field, name and value."""
    name, colon, value = text.partition(":")
    if not colon or not name or name != name.strip():
        raise ArgumentTypeError("a header is written as 'X-Forwarded-For: 203.0.113.7'")
    if name.lower() in ("authorization", "proxy-authorization"):
        raise ArgumentTypeError(f"leave {name} out: it would carry a token, and no token belongs in an argument")
    return name.encode("latin-1", "replace"), octets(value.strip(" \t"))


def octets(text: str) -> bytes:
    """The value of a header field as servers hand it over."""
    return text.encode("latin-1", "replace")


def path(text: str) -> str:
    """The path of a request, without its query."""
    if "?" in text:
        raise ArgumentTypeError("a path ends before its query: leave out everything from the question mark on")
    return text


def _user_at_host() -> str:
    try:
        user = getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container's user may have no name
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"
