"""``doorkey store copy`` and ``doorkey store read-only``: moving to another engine, and back."""

from __future__ import annotations

import os
import shlex
import sys
from argparse import Namespace
from contextlib import closing, suppress
from dataclasses import asdict

from ..core.errors import ConfigurationError, StoreError, UnusableStore
from ..management import moving
from ..management.secrets import VARIABLE
from ..storage.protocol import Properties, Store
from ..storage.urls import place, secret_file
from .arguments import Commands, command
from .opening import named_store, store_at
from .output import report, shown
from .progress import bar


def add(store: Commands) -> None:
    """Put these commands below ``doorkey store``."""
    copying = command(store, "copy", copy, "copy a whole store to another one, of any engine; it may be broken off")
    copying.add_argument("source", metavar="FROM", help="URL of the store to read, which becomes read-only")
    copying.add_argument("target", metavar="TO", help="URL of a store that is made, or empty, or half a copy")
    switching = command(store, "read-only", read_only, "refuse every change of keys, or take changes again")
    switching.add_argument("flag", choices=("on", "off"))


def copy(args: Namespace) -> int:
    """Copy a store. 1 if a chain was not whole, in the source and so in its copy."""
    if args.source == args.target:
        raise ConfigurationError("a store is copied to another one: name two")
    with closing(store_at(args.source)) as source, closing(_target(args.target, source.properties())) as target:
        try:
            with bar() as draw:
                copied = moving.copy(source, target, lambda step: draw(*step))
        except BaseException:
            with suppress(StoreError):
                if source.properties().read_only:
                    print(f"doorkey: {_thaw(args.source)}, or copy again to go on", file=sys.stderr)
            raise
    counts = asdict(copied)
    findings = [{"workspace": id, **finding._asdict()} for id, finding in counts.pop("findings")]
    lines = [
        f"copied:  {copied.workspaces:,} workspaces, {copied.keys:,} keys with {copied.tokens:,} tokens, "
        f"{copied.events:,} events; all were compared",
        *(f"chain:   {id}: {finding}; so it was in the source" for id, finding in copied.findings),
        f"source:  {_thaw(args.source)}",
        f"secret:  {shown(_same_secret(args))}",
        f"next:    point every service to {shown(place(args.target))}, then stop using the source",
    ]
    report(
        args,
        {"source": place(args.source), "target": place(args.target), **counts, "findings": findings},
        "\n".join(lines),
    )
    return 1 if findings else 0


def read_only(args: Namespace) -> int:
    """Set or lift the flag that every change is refused by."""
    with closing(named_store(args)) as store:
        moving.set_read_only(store, args.flag == "on")
    news = "is read-only: requests are judged, changes are refused" if args.flag == "on" else "takes changes"
    report(args, {"store": place(args.store), "read_only": args.flag == "on"}, f"{shown(place(args.store))} {news}")
    return 0


def _target(url: str, source: Properties) -> Store:
    """The store at *url*; where there is none, a new one that waits for its copy."""
    try:
        return store_at(url)
    except UnusableStore:
        return store_at(url, moving.awaiting(source))  # if something is there that is no store, this says so


def _thaw(url: str) -> str:
    command = shlex.join(["doorkey", "--store", place(url), "store", "read-only", "off"])
    return f"{shown(place(url))} is read-only now; to go back to it: {shown(command)}"


def _same_secret(args: Namespace) -> str:
    """Where the services that are pointed to the target find the master secret."""
    if args.secret_file is None and VARIABLE in os.environ:
        return f"the same: set {VARIABLE} as it is set here"
    here, there = args.secret_file or secret_file(args.source), secret_file(args.target)
    if here is None or there is None:
        return f"the same: set {VARIABLE} to what {here or 'the secret file'} holds"
    return f"the same: {shlex.join(['cp', '-p', str(here), str(there)])}"
