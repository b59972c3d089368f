"""``doorkey init`` and ``doorkey store``: where keys live, and whether all is well there."""

from __future__ import annotations

import os
import shlex
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from ..core.errors import InvalidSecret, StoreError, UnreadableRecord, UnusableStore
from ..core.model import KeyType, Mode
from ..core.profiles import PROFILES
from ..door import create
from ..management.moving import UNFINISHED
from ..management.rekey import hanging
from ..management.secrets import VARIABLE, MasterSecrets
from ..storage.protocol import SCHEMA, Checkable, Finding, Key, Properties, Store
from ..storage.urls import place
from . import copying
from .arguments import Commands, command, default_store, group
from .opening import master_secrets, named_store, pages, secret_path, upgraded
from .output import moment, report, shown


def add(commands: Commands) -> None:
    """Put these commands on the command line."""
    initial = command(commands, "init", init, "make a master secret and a store; nothing is ever overwritten")
    initial.add_argument("--profile", choices=sorted(PROFILES), default="default", help="how its keys look and behave")
    store = group(commands, "store", "the place where keys live")
    command(store, "check", check, "look for what is unsafe or unsound: files, secret, schema, records, sealed tokens")
    command(store, "upgrade", upgrade, "bring the store to the schema of this release; any number may do so at once")
    copying.add(store)


def upgrade(args: Namespace) -> int:
    """Bring the store to the schema of this release."""
    before = upgraded(args.store)
    news = "was that already" if before == SCHEMA else f"was {before}"
    report(
        args,
        {"store": place(args.store), "schema": SCHEMA, "before": before},
        f"{shown(place(args.store))} has schema {SCHEMA}, and {news}",
    )
    return 0


def init(args: Namespace) -> int:
    """Make a store, and its master secret unless there is one."""
    _refuse_existing(args)
    path = secret_path(args)
    secrets, made = _secrets(path)
    try:
        door = create(args.store, secret=secrets, profile=PROFILES[args.profile], clock=args.clock)
    except BaseException:
        if made is not None:
            made.unlink()
        raise
    door.close()
    origin = str(path or VARIABLE)
    news = f"{origin}, made just now: keep a copy, away from the database" if made else f"{origin}, which was there"
    options = [] if args.store == default_store() else ["--store", place(args.store)]
    options += [] if args.secret_file is None else ["--secret-file", str(path)]
    next = shlex.join(["doorkey", *options, "workspace", "provision", "NAME"])
    report(
        args,
        {"store": place(args.store), "profile": args.profile, "secret": origin, "secret_made": made is not None},
        "\n".join(
            (
                f"store:   {shown(place(args.store))}, for keys of the profile {args.profile}",
                f"secret:  {shown(news)}",
                f"next:    {shown(next)}",
            )
        ),
    )
    return 0


def check(args: Namespace) -> int:
    """Report what is unsafe or unsound. 1 if any of it is an error."""
    findings = list(_findings(args))
    texts = [f"{each.severity}: {shown(each.what)}\n  to do: {shown(each.remedy)}" for each in findings]
    sound = all(finding.severity != "error" for finding in findings)
    report(
        args,
        {"sound": sound, "findings": [asdict(finding) for finding in findings]},
        "\n".join(texts) or f"{shown(place(args.store))}: nothing unsafe or unsound was found",
    )
    return 0 if sound else 1


def _refuse_existing(args: Namespace) -> None:
    try:
        named_store(args).close()
    except UnusableStore:
        return  # nothing is there, or no store: then making one says so
    raise UnusableStore(f"there is a store at {place(args.store)} already; it was left as it is")


def _secrets(path: Path | None) -> tuple[MasterSecrets, Path | None]:
    """The master secrets that are there; else a new one, and where it was written."""
    if path is None:
        if VARIABLE not in os.environ:
            raise InvalidSecret(
                f"a store that is no file has no secret beside it: set {VARIABLE}, or name a --secret-file"
            )
        return MasterSecrets.load(), None
    if os.path.lexists(path):
        return MasterSecrets.load(path, {}), None
    if not path.parent.is_dir():
        raise InvalidSecret(f"there is no directory {path.parent}: look for a mistyped path, or make it first")
    secrets = MasterSecrets.generate()
    secrets.write(path)
    return secrets, path


def _findings(args: Namespace) -> Iterator[Finding]:
    yield from _rewritten_addresses(os.environ)
    try:
        store = named_store(args)
    except StoreError as error:
        yield Finding("error", str(error), "then check again: nothing else was looked at")
        return
    with closing(store):
        try:
            yield from store.check() if isinstance(store, Checkable) else ()
            properties = store.properties()
            yield from _state(properties)
            yield from _named_secrets(args, properties)
            yield from _unnamed_secrets(store, args.clock(), properties)
            yield from _unrevealed(store)
        except UnreadableRecord as error:
            yield Finding("error", str(error), "restore a backup")
        except StoreError as error:
            yield Finding("error", str(error), "then check again: not everything was looked at")


def _rewritten_addresses(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Settings by which a server replaces the client's address, which keys' networks judge, before doorkey sees it."""
    if environ.get("UVICORN_PROXY_HEADERS", "").lower() in ("0", "false", "f", "no", "n", "off"):
        return
    for name in ("FORWARDED_ALLOW_IPS", "UVICORN_FORWARDED_ALLOW_IPS"):
        if environ.get(name):
            yield Finding(
                "warning",
                f"{name} is set, so uvicorn itself replaces the client's address by what X-Forwarded-For says",
                f"unset {name}, start uvicorn with --no-proxy-headers, and name your proxies to doorkey: "
                "DoorkeyMiddleware(…, trusted_proxies=TrustedProxies([…]))",
            )


def _state(properties: Properties) -> Iterator[Finding]:
    if properties.profile == UNFINISHED:
        yield Finding(
            "error",
            "the copy that was being made here was broken off, so no service starts on it",
            "doorkey store copy FROM TO, with the same FROM and TO as before, goes on",
        )
    if properties.read_only:
        yield Finding(
            "warning",
            "the store is read-only: keys cannot be made, changed or revoked",
            "doorkey store read-only off, unless the store was copied and services use the copy",
        )


def _named_secrets(args: Namespace, properties: Properties) -> Iterator[Finding]:
    try:
        master_secrets(args).check(properties.fingerprints)
    except InvalidSecret as error:
        yield Finding("error", str(error), "no service can start, and no token be revealed, before that is mended")


def _unnamed_secrets(store: Store, now: float, properties: Properties) -> Iterator[Finding]:
    for each in hanging(_keys(store), now).values():
        if each.secret not in properties.fingerprints:
            yield Finding(
                "error",
                f"{each.tokens} living tokens hang on the master secret {each.secret}, which the store does not name: "
                "services start without it, and then refuse these tokens as unknown",
                "add that secret behind the first on every host, then run `doorkey rekey`, which tells what to roll",
            )


def _keys(store: Store, mode: Mode | None = None) -> Iterator[Key]:
    for workspace in pages(lambda after: store.workspaces(after=after), lambda workspace: workspace.id):
        id = workspace.id
        yield from pages(lambda after: store.keys(id, mode=mode, after=after), lambda key: key.id)  # noqa: B023


def _unrevealed(store: Store) -> Iterator[Finding]:
    """Live secrets that have waited to be seen ever since they were made."""
    for key in _keys(store, Mode.LIVE):
        waiting = [token for token in key.tokens if token.sealed is not None]
        if waiting and key.type is KeyType.SECRET:
            yield Finding(
                "warning",
                f"the live secret of {key.id} ({key.name}) waits to be revealed since "
                f"{moment(waiting[0].created_at)}, and whoever has the master secret can still read it",
                f"doorkey keys reveal {key.id}, or revoke it if nobody needs it",
            )
