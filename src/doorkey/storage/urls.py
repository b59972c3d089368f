"""
Stores by URL, as configuration writes them.

::

    memory:                      in this process, gone with it
    sqlite:///keys.db            a path relative to the working directory
    sqlite:////srv/keys.db       an absolute path; "%", "?", "#" and spaces are percent-escaped (RFC 3986 §2.1)
    postgresql://user@host/db    a database, with any parameter of libpq; needs the extra ``doorkey[postgres]``
"""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

from ..core.errors import InvalidURL
from .protocol import Properties, Store

_FORMS = "write sqlite:///keys.db, sqlite:////srv/keys.db, postgresql://user@host/db or memory:"
_EXCLUDED = re.compile(r"[\x00-\x20\x7f?#]|%(?![0-9A-Fa-f]{2})")


def open_store(url: str) -> Store:
    """
    Open the store at *url*. It must be there; one in memory is new and empty.

    Raises:
        InvalidURL: *url* names no store.
        UnusableStore: no store is there, or one that this release must not touch.
        StoreUnavailable: it is there, but cannot be asked now.
    """
    return _store(url, None)


def create_store(url: str, properties: Properties) -> Store:
    """
    Make a store at *url*, where there must not be one.

    Raises:
        InvalidURL: *url* names no store.
        UnusableStore: something stands there, or nothing can be made there.
        StoreUnavailable: it could not be made now.
    """
    return _store(url, properties)


def upgrade_store(url: str) -> int:
    """
    Bring the store at *url* to the schema of this release, and return the one that it had.

    Raises:
        InvalidURL: *url* names no store.
        UnusableStore: no store is there, or one with a newer schema.
        StoreUnavailable: it cannot be asked now.
    """
    if url.partition(":")[0].lower() in ("postgresql", "postgres"):
        from .postgres import upgrade  # noqa: PLC0415

        return upgrade(url)
    with closing(open_store(url)) as store:  # which refuses any other schema: there has been only one
        return store.properties().schema


def secret_file(url: str) -> Path | None:
    """
    Where ``doorkey init`` puts the master secret of a store in a file: beside it. ``None`` for any other store.

    Raises:
        InvalidURL: *url* has the form of a file's, but names none.

    >>> str(secret_file("sqlite:///keys.db"))
    'keys.db.secret'
    """
    scheme, _, rest = url.partition(":")
    return Path(f"{_path(url, rest)}.secret") if scheme.lower() == "sqlite" else None


def place(url: str) -> str:
    """
    *url* as it may be shown: where it could hold a password, only its scheme.

    >>> place("postgresql://ann:secret@db.example/keys")
    'postgresql:...'
    """
    return f"{url.partition(':')[0]}:..." if "@" in url or "?" in url else url


def _store(url: str, properties: Properties | None) -> Store:
    """The store at *url*; a new one, if there are properties."""
    scheme, colon, rest = url.partition(":")
    match scheme.lower():
        case "sqlite":
            from .sqlite import SQLiteStore  # noqa: PLC0415

            path = _path(url, rest)
            return SQLiteStore(path) if properties is None else SQLiteStore.create(path, properties)
        case "memory" if colon and not rest:
            from .memory import MemoryStore  # noqa: PLC0415

            return MemoryStore(properties)
        case "postgresql" | "postgres":
            from .postgres import PostgresStore  # noqa: PLC0415

            return PostgresStore(url) if properties is None else PostgresStore.create(url, properties)
        case _:
            raise InvalidURL(f"{_quoted(url)} names no store: {_FORMS}")


def _path(url: str, rest: str) -> str:
    """The path that a URL of the form ``sqlite:///path`` names."""
    authority, _, path = rest.removeprefix("//").partition("/")
    if not rest.startswith("//") or authority or not path:
        raise InvalidURL(f"{_quoted(url)} names no file: {_FORMS}")
    if wrong := _EXCLUDED.search(path):
        raise InvalidURL(
            f"{_quoted(url)} has {wrong[0]!a} in its path, and no options are known: percent-escape what belongs to "
            "the path (%25 is a per cent sign), leave out the rest"
        )
    try:
        decoded = unquote(path, errors="strict")
    except UnicodeDecodeError:
        raise InvalidURL(f"{_quoted(url)} does not stand for UTF-8 once its percent-escapes are decoded") from None
    if "\0" in decoded:
        raise InvalidURL(f"{_quoted(url)} has %00 in its path, which no file name holds")
    return decoded


def _quoted(url: str) -> str:
    """*url* as errors show it."""
    return ascii(place(url))
