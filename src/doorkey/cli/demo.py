"""``doorkey demo``: the sample service behind doorkey, served or checked."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from ..core.profiles import PROFILES
from .arguments import Commands, command

EXTRA = ("starlette", "uvicorn", "werkzeug")


def add(commands: Commands) -> None:
    """Put this command on the command line."""
    demonstration = command(commands, "demo", demo, "serve a sample API behind doorkey, with keys to try it")
    demonstration.add_argument("--check", action="store_true", help="let real requests try it instead, and judge them")
    demonstration.add_argument(
        "--profile", choices=sorted(PROFILES), default="default", help="whose system it plays, for its official clients"
    )
    demonstration.add_argument(
        "--port", metavar="N", type=int, help="where to listen on 127.0.0.1; else 8000, or a free one"
    )
    demonstration.add_argument("--folder", metavar="DIR", type=Path, help="where its stores live; else a temporary one")


def demo(args: Namespace) -> int:
    """Run the demonstration, which needs the extra of its name."""
    try:
        from ..demo import run  # noqa: PLC0415  # frameworks and a server, which nothing else needs

        return run(check=args.check, port=args.port, folder=args.folder, profile=PROFILES[args.profile])
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRA:
            raise
        print(f"doorkey: the demo needs {missing}: pip install 'doorkey[demo]'", file=sys.stderr)
        return 3
