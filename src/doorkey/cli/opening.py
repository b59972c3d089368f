"""Opening what the commands work on: the store that was named, under the master secret that was named."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from ..core.errors import InvalidURL, UnusableStore
from ..core.profiles import PROFILES
from ..door import Doorkey, assemble
from ..management.secrets import VARIABLE, MasterSecrets
from ..storage.protocol import Properties, Store
from ..storage.urls import create_store, open_store, secret_file, upgrade_store

Value = TypeVar("Value")
Mark = TypeVar("Mark")
Result = TypeVar("Result")


@contextmanager
def opened(args: Namespace) -> Iterator[Doorkey]:
    """
    The doorkey of this command line, its keyring in the hands of the actor; closed afterwards.

    Raises:
        InvalidURL, UnusableStore, StoreUnavailable: see :func:`named_store`.
        InvalidSecret: there is no master secret, or it is not the store's.
    """
    with closing(named_store(args)) as store:
        profile = store.properties().profile
        if profile not in PROFILES:
            raise UnusableStore(
                f"the store was made for the profile {profile!a}, which is your own: manage it from Python, with "
                "doorkey.open(…, profile=…)"
            )
        door = assemble(store, master_secrets(args), clock=args.clock)
        yield replace(door, keyring=door.keyring.acting(args.actor))


def master_secrets(args: Namespace) -> MasterSecrets:
    """
    The master secrets of this command line.

    Raises:
        InvalidSecret: there are none, or they cannot be read.
    """
    path = secret_path(args)
    return MasterSecrets.load() if path is None else MasterSecrets.load(path, {})


def secret_path(args: Namespace) -> Path | None:
    """The file of the master secret: the one named, else the one beside the database; ``None`` for the environment."""
    path: Path | None = args.secret_file
    return secret_file(args.store) if path is None and VARIABLE not in os.environ else path


def named_store(args: Namespace) -> Store:
    """The store that the command line names. Raises what :func:`store_at` does."""
    return store_at(args.store)


def store_at(url: str, new: Properties | None = None) -> Store:
    """
    The store at *url*, which is made if it shall be a *new* one.

    Raises:
        InvalidURL: it names none, one that ends with this process, or one whose driver is not installed.
        UnusableStore, StoreUnavailable: it cannot be opened, or made.
    """
    return _with_driver(url, open_store if new is None else partial(create_store, properties=new))


def upgraded(url: str) -> int:
    """The schema that the store at *url* had before it got that of this release. Raises what :func:`store_at` does."""
    return _with_driver(url, upgrade_store)


def _with_driver(url: str, act: Callable[[str], Result]) -> Result:
    if url.lower().startswith("memory:"):
        raise InvalidURL("memory: ends with the command that made it: name a file, such as sqlite:///doorkey.db")
    try:
        return act(url)
    except ImportError as error:
        problem = str(error).partition("\n")[0]
    raise InvalidURL(
        f"the driver of this store is missing ({problem}): for PostgreSQL, pip install 'doorkey[postgres]'"
    )


def pages(page: Callable[[Mark | None], Sequence[Value]], mark: Callable[[Value], Mark]) -> Iterator[Value]:
    """All that a store lists, page by page: *page* reads the one after a mark, and *mark* is that of a value."""
    after: Mark | None = None
    while values := page(after):
        yield from values
        after = mark(values[-1])
