"""
Moving: all that a store holds, to another store of whatever engine.

The rules that this file keeps:

* The source takes no change from before its first value is read until its operator lifts that, so that a copy shows
  one moment. It goes on answering finds, so services need not stop.
* Until all is there and compared, the target says that it holds tokens of :data:`UNFINISHED`, a profile that nobody
  has: a service that is pointed at half a copy does not start, instead of telling customers that no key is known.
* A listing is written in its own order, many values in one commit. What a copy that was broken off has left is
  therefore the beginning of each listing, and the next one goes on behind it. Whatever else stands in the target is
  not of this copy: then nothing is added to it.
* Nothing is decrypted. The target hangs on the same master secrets as the source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

from ..core.errors import ConfigurationError, Conflict, ReadOnlyStore, UnusableStore
from ..core.model import Use
from ..storage.protocol import Batch, Event, Key, Properties, Store, Workspace
from . import audit

UNFINISHED = "unfinished copy: run `doorkey store copy` again"
"""The profile of a store that is being copied to. What refuses to work with it shows it, so it says what to do."""

_PAGE = 50
_OTHERS = (
    "what stands in the target is not of this copy, and nothing was added to it: name an empty store, or a new one"
)

Value = TypeVar("Value", Workspace, Key, Event)
Mark = TypeVar("Mark", str, int)
Values = Sequence[Workspace | Key | Event]


class Progress(NamedTuple):
    """How far a copy is: *done* of about *total* values (workspaces, events, keys). All are copied, then compared."""

    doing: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Copied:
    """
    What stands in both stores now: so many of each, all equal.

    Attributes:
        findings: what is wrong with chains, in the source as in its copy, each beside the id of the workspace.
    """

    workspaces: int = 0
    keys: int = 0
    tokens: int = 0
    events: int = 0
    findings: tuple[tuple[str, audit.Finding], ...] = ()


class _Page(NamedTuple):
    """One page of the source, and what the target holds of it: its beginning, or all."""

    values: Values
    there: Values


def copy(source: Store, target: Store, progress: Callable[[Progress], object] = lambda step: None) -> Copied:
    """
    Copy everything, and compare it. Afterwards *source* is read-only, and *target* can be used.

    Broken off, it goes on when it is called again. Called once more after its end, it compares.

    Args:
        target: an empty store, or one that an earlier call was copying to. See :func:`awaiting` for making one.
        progress: is told of each page.

    Raises:
        UnusableStore: *target* holds something else, or *source* something that cannot be copied.
        ReadOnlyStore: *target* is read-only; or *source* is so for another reason than its flag, which cannot be set.
        Conflict: somebody has lifted the source's flag meanwhile.
        StoreUnavailable, UnreadableRecord: one of them cannot be read or written.
    """
    _refuse(source, target)
    frozen = set_read_only(source, True)
    total = sum(1 for _ in _workspaces(source)) + sum(
        workspace.events + _count(partial(source.keys, workspace.id)) for workspace in _workspaces(source)
    )
    if _opened(target, frozen):
        _fill(target, _told("copying", total, progress, _pages(source, target)))
    copied = _compared(target, _told("comparing", total, progress, _pages(source, target)))
    if source.properties() != frozen:
        raise Conflict("the source was changed meanwhile: set it read-only, then copy again, to an empty store")
    _update(target, profile=frozen.profile, fingerprints=frozen.fingerprints)
    return copied


def awaiting(properties: Properties) -> Properties:
    """With what a new store is made that the one with these *properties* shall be copied to."""
    return Properties(profile=UNFINISHED, fingerprints=properties.fingerprints)


def set_read_only(store: Store, flag: bool) -> Properties:
    """
    Let *store* refuse every change, or take changes again. The flag is kept in it, and holds for everybody.

    A change that others have begun lands before this returns, or never.

    Raises:
        ReadOnlyStore: it cannot be written at all.
        StoreUnavailable: it cannot be asked.
    """
    return _update(store, read_only=flag)


def _update(store: Store, **changes: Any) -> Properties:
    while True:
        stored = store.properties()
        new = replace(stored, **changes)
        if new == stored:
            return stored
        new = replace(new, version=stored.version + 1)
        with suppress(Conflict):
            store.commit(Batch(properties=(new, stored.version)))
            return new


# What may be copied where


def _refuse(source: Store, target: Store) -> None:
    """Find before anything is done what stands in the way."""
    given, aim = source.properties(), target.properties()
    if given.profile == UNFINISHED:
        raise UnusableStore("the source is itself a copy that was broken off: finish that first")
    if aim.read_only:
        raise ReadOnlyStore("the target is read-only: `doorkey store read-only off` lifts that, if its operator set it")
    # A copy that was finished bears no mark; its source is still read-only then, or it has changed since.
    if aim.profile != UNFINISHED and not given.read_only and target.workspaces(limit=1):
        raise UnusableStore(_OTHERS)
    if any(source.workspace(workspace.id) != workspace for workspace in _workspaces(target)):
        raise UnusableStore(_OTHERS)


def _opened(target: Store, frozen: Properties) -> bool:
    """Whether *target* is one to copy to, which it then says of itself; else it may hold a copy that was finished."""
    if target.properties().profile != UNFINISHED:
        if target.workspaces(limit=1):
            return False
        _update(target, profile=UNFINISHED, fingerprints=frozen.fingerprints)
    return True


# Side by side


def _workspaces(store: Store) -> Iterator[Workspace]:
    return _all(store.workspaces, lambda workspace: workspace.id)


def _all(listing: Callable[..., Sequence[Value]], mark: Callable[[Value], Mark]) -> Iterator[Value]:
    after: Mark | None = None
    while page := listing(after=after, limit=_PAGE):
        yield from page
        after = mark(page[-1])


def _count(keys: Callable[..., Sequence[Key]]) -> int:
    return sum(1 for _ in _all(keys, lambda key: key.id))


def _pages(source: Store, target: Store) -> Iterator[_Page]:
    """All that *source* holds: what stands alone first, then what belongs to it."""
    yield from _beside(source.workspaces, target.workspaces, lambda workspace: workspace.id)
    for workspace in _workspaces(source):
        of_source, of_target = partial(source.events, workspace.id), partial(target.events, workspace.id)
        yield from _beside(of_source, of_target, lambda event: event.sequence)
        yield from _beside(partial(source.keys, workspace.id), partial(target.keys, workspace.id), lambda key: key.id)


def _beside(
    of_source: Callable[..., Sequence[Value]],
    of_target: Callable[..., Sequence[Value]],
    mark: Callable[[Value], Mark],
) -> Iterator[_Page]:
    """
    One listing, page by page, beside the same one of the target.

    Raises:
        UnusableStore: the target's is not the beginning of it.
    """
    after: Mark | None = None
    while True:
        values: Sequence[Value] = of_source(after=after, limit=_PAGE)
        there: Sequence[Value] = of_target(after=after, limit=_PAGE)
        if [*map(_unused, there)] != [*map(_unused, values[: len(there)])]:
            raise UnusableStore(_OTHERS)
        if not values:
            return
        yield _Page(values, there)
        after = mark(values[-1])


def _unused(value: Value) -> Value:
    """*value* without what ``record_uses`` alone writes, and may lose."""
    if not isinstance(value, Key):
        return value
    return replace(value, tokens=tuple(replace(token, last_used_at=None) for token in value.tokens))


def _told(doing: str, total: int, progress: Callable[[Progress], object], pages: Iterable[_Page]) -> Iterator[_Page]:
    """These *pages*, with a word on each once it is dealt with."""
    done = 0
    for page in pages:
        yield page
        done += len(page.values)
        progress(Progress(doing, done, total))


def _fill(target: Store, pages: Iterable[_Page]) -> None:
    """Add what is missing of *pages*, as much as a page holds in each commit."""
    missing: list[Workspace | Key | Event] = []
    uses: list[Use] = []
    for page in pages:
        missing += page.values[len(page.there) :]
        uses += set(_uses(page.values)) - set(_uses(page.there))
        if len(missing) + len(uses) >= _PAGE:
            _write(target, missing, uses)
            missing, uses = [], []
    _write(target, missing, uses)


def _write(target: Store, missing: Values, uses: Sequence[Use]) -> None:
    if missing:
        try:
            target.commit(
                Batch(
                    workspaces=tuple((value, None) for value in missing if isinstance(value, Workspace)),
                    keys=tuple((value, None) for value in missing if isinstance(value, Key)),
                    events=tuple(value for value in missing if isinstance(value, Event)),
                )
            )
        except (Conflict, ConfigurationError) as error:
            raise UnusableStore(
                f"the target does not take what the source holds: {error}. `doorkey store check` and `doorkey audit "
                "verify` tell more of the source; to be mended, it must take changes again"
            ) from None
    if uses:
        target.record_uses(uses)


def _uses(values: Values) -> Iterator[Use]:
    for value in values:
        if isinstance(value, Key):
            yield from (Use(token.id, token.last_used_at) for token in value.tokens if token.last_used_at is not None)


def _compared(target: Store, pages: Iterable[_Page]) -> Copied:
    """
    Count what is in both, and walk the chains: equal events have equal ones.

    Raises:
        UnusableStore: something is missing in the target.
    """
    counts: dict[type, int] = {Workspace: 0, Key: 0, Event: 0}
    tokens = 0
    for page in pages:
        if len(page.there) < len(page.values):
            raise UnusableStore(_OTHERS)
        counts[type(page.values[0])] += len(page.values)
        tokens += sum(len(value.tokens) for value in page.values if isinstance(value, Key))
    findings = tuple(
        (workspace.id, finding) for workspace in _workspaces(target) for finding in audit.verify(target, workspace.id)
    )
    return Copied(counts[Workspace], counts[Key], tokens, counts[Event], findings)
