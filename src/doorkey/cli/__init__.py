"""
The command line: each command is parse, call, print.

Exit codes:

* 0: fine
* 1: the command said no: a verb of the lifecycle that does not apply, a finding, somebody else was quicker
* 2: wrong usage: an argument that cannot be meant so
* 3: no usable store, master secret, output or installation
* 130: interrupted; 141: whoever read the output went away

Errors are one line on stderr. A token is printed by ``keys reveal`` alone, and never stands in an argument.
"""

from __future__ import annotations

import io
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence

from .. import __version__
from ..core.errors import ConfigurationError, Conflict, DoorkeyError, InvalidSecret, InvalidURL, KeyringError
from . import arguments, audit, demo, explain, keys, output, rekey, store, workspaces

SAID_NO, MISUSED, UNREADY, INTERRUPTED, BROKEN_PIPE = 1, 2, 3, 130, 141


def main(argv: Sequence[str] | None = None, *, clock: Callable[[], float] = time.time) -> int:
    """
    Run one command, and return its exit code.

    Args:
        argv: the arguments after the command's name; ``None`` for those of the process.
        clock: UTC seconds.

    Raises:
        SystemExit: the arguments are wrong, or ask for help.
    """
    argv = sys.argv[1:] if argv is None else argv
    if sys.stdout is None:
        return _fail("stdout is closed, and nothing is done whose answer nobody sees: use >/dev/null", UNREADY)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # hints hold a "…", which not every terminal's encoding has
    try:
        arguments.refuse_tokens(argv)
        args = parser().parse_args(argv, arguments.defaults(clock))
        code: int = args.run(args)
        return code
    except DoorkeyError as error:
        return _fail(str(error), _code(error))
    except BrokenPipeError:
        output.abandon()
        return BROKEN_PIPE
    except OSError as error:
        return _fail(str(error), UNREADY)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)


def parser() -> ArgumentParser:
    """The whole command line."""
    parser = ArgumentParser(
        prog="doorkey",
        description="The keys of a Python web API: make, reveal, roll, restrict, revoke them; explain verdicts.",
        parents=[arguments.options()],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"doorkey {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for room in (store, workspaces, keys, audit, rekey, explain, demo):
        room.add(commands)
    return parser


def _code(error: DoorkeyError) -> int:
    match error:
        case KeyringError() | Conflict():
            return SAID_NO
        case InvalidSecret() | InvalidURL():
            return UNREADY
        case ConfigurationError():
            return MISUSED
        case _:
            return UNREADY


def _fail(problem: str, code: int) -> int:
    print(f"doorkey: {output.shown(problem)}", file=sys.stderr)
    return code
