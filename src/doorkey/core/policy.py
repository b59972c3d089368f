"""
The policy: which operation requires what.

A table of rules, and what holds for everything that no rule describes. Paths are the router's own: decoded, without the
prefix under which an application is mounted. Methods, paths and trailing slashes are compared exactly, and whatever
does not match falls to ``otherwise``, which is the stricter side.

* ``{name}`` in a rule's path stands for one segment that is neither empty nor ``.`` nor ``..``. A path with control
  characters is described by no rule.
* HEAD follows GET. A websocket handshake has the method word ``WEBSOCKET``, which no rule for GET covers.
* Where a router forgives what this table does not, a request reaches an endpoint under ``otherwise``: Werkzeug drops
  leading slashes and capitalises methods, Django may be told not to look at case, Starlette overlooks a line feed at
  the end, and all take dots for a parameter, or resolve them. So what differs from a rule by these alone is for nobody,
  if ``otherwise`` is laxer than that rule: say, because the rule asks for live mode. If it is laxer than any, so is
  whatever has control characters.
* Two rules that could both match one request are refused when the table is built, so that their order means nothing.
* A path is open only by an exact method and path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from .declarations import PER_ROUTE, JudgedBy, Operation, Said
from .declarations import requirement as stated
from .errors import InvalidPolicy
from .model import Mode, Requirement

WEBSOCKET = "WEBSOCKET"

_METHOD = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)
_PARAMETER = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}", re.ASCII)
_DOTS = (".", "..")
_CONTROLS = dict.fromkeys([*range(0x20), 0x7F])
_FOLDED = str.maketrans("İı", "ii") | _CONTROLS
_MOST_DECODINGS = 8


@dataclass(frozen=True, slots=True, init=False)
class Rule:
    """
    What one operation requires.

    Args:
        method: as in the request line, in capitals; or ``WEBSOCKET``.
        path: such as ``/messages/{id}``.
        requires: permissions (all are needed), a requirement, or ``OPEN``. Nothing means: an unrestricted secret key.
        publishable: whether a publishable key may do it, too.
        mode: the only mode in which it may be done, if there is one.

    Raises:
        InvalidPolicy: the method or path cannot be meant so.
        InvalidPermission: a permission is none.
    """

    method: str
    path: str
    requirement: Requirement | None
    """``None`` for an open operation, which needs no key."""

    def __init__(
        self,
        method: str,
        path: str,
        requires: str | Iterable[str] | Requirement | Said = (),
        *,
        publishable: bool = False,
        mode: Mode | None = None,
    ) -> None:
        self._set(method, path, stated(requires, publishable, mode))

    @classmethod
    def open(cls, method: str, path: str) -> Rule:
        """An operation that needs no key: one exact method and path, no parameters."""
        rule = cls.__new__(cls)
        rule._set(method, path, None)
        return rule

    def _set(self, method: str, path: str, requirement: Requirement | None) -> None:
        _check_method(method)
        _check_path(path)
        object.__setattr__(self, "method", method)
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "requirement", requirement)
        if requirement is None and self.parameters:
            raise InvalidPolicy(f"{path!r} cannot be open: an open path is exact, without parameters")

    @property
    def segments(self) -> tuple[str | None, ...]:
        """The path's segments, ``None`` for a parameter."""
        return tuple(None if _PARAMETER.fullmatch(part) else part for part in self.path.split("/")[1:])

    @property
    def parameters(self) -> bool:
        """Whether the path has any."""
        return None in self.segments

    def overlaps(self, other: Rule) -> bool:
        """Whether one request could match both."""
        mine, theirs = self.segments, other.segments
        return (
            self.method == other.method
            and len(mine) == len(theirs)
            and all(_may_meet(one, two) for one, two in zip(mine, theirs, strict=True))
        )


class Policy:
    """
    The whole table. Immutable.

    Args:
        rules: any order.
        otherwise: what everything else requires.
        within: a path, such as ``/api``, outside of which requests are others' business: they pass without a principal.

    Raises:
        InvalidPolicy: two rules could match one request, or a rule lies outside *within*.
    """

    def __init__(
        self, rules: Iterable[Rule] = (), *, otherwise: Requirement | None = None, within: str | None = None
    ) -> None:
        self.rules: tuple[Rule, ...] = tuple(rules)
        self.otherwise: Requirement = Requirement() if otherwise is None else otherwise
        self.within = within
        if not isinstance(self.otherwise, Requirement):
            raise InvalidPolicy("otherwise is a Requirement: nothing is open that is not declared by Rule.open")
        if within is not None:
            _check_within(within)
        for number, rule in enumerate(self.rules):
            if within is not None and _outside(rule.path, within):
                raise InvalidPolicy(
                    f"the rule {rule.method} {rule.path} lies outside {within!r} and would never be asked"
                )
            for other in self.rules[:number]:
                if rule.overlaps(other):
                    raise InvalidPolicy(
                        f"{rule.method} {other.path} and {rule.method} {rule.path} could match one request: keep one, "
                        "or give them different paths"
                    )
        # Method and segments of those that ask for more than what holds otherwise.
        self._stricter: list[tuple[str, list[str | None]]] = [
            (rule.method, [segment and _folded(segment) for segment in rule.segments if segment != ""])
            for rule in self.rules
            if rule.requirement is not None and _laxer(self.otherwise, rule.requirement)
        ]
        self._exact: dict[str, dict[str, Rule]] = {}
        self._patterns: dict[str, list[tuple[int, tuple[str | None, ...], Rule]]] = {}
        for rule in self.rules:
            if rule.parameters:
                self._patterns.setdefault(rule.method, []).append((len(rule.segments), rule.segments, rule))
            else:
                self._exact.setdefault(rule.method, {})[rule.path] = rule

    def rule(self, method: str, path: str) -> Rule | None:
        """The rule that describes an operation, if one does."""
        if method == "HEAD":
            method = "GET"
        exact = self._exact.get(method)
        if exact is not None and path in exact:
            return exact[path]
        patterns = self._patterns.get(method)
        if patterns:
            segments = path.split("/")[1:]
            for length, pattern, rule in patterns:
                if length == len(segments) and all(map(_matches, pattern, segments)):
                    return rule
        return None

    def requirement(self, method: str, path: str) -> Requirement | None:
        """
        What an operation requires; ``None`` if it needs no key, because it is open or outside.

        Args: see :meth:`judged_by`.
        """
        found = self.judged_by(method, path)
        return found if isinstance(found, Requirement) else None

    def judged_by(self, method: str, path: str) -> JudgedBy:
        """
        What an operation requires; ``None`` if it is open, ``PER_ROUTE`` if it is outside, where others judge.

        Args:
            method: exactly as received.
            path: decoded, as the application's router sees it.
        """
        rule = self.rule(method, path)
        if rule is not None and (path.isprintable() or path == path.translate(_CONTROLS)):  # the first is fast
            return rule.requirement
        if self.within is not None and _outside(path, self.within):
            return PER_ROUTE
        if self._stricter and self._may_be_stricter(method.upper(), path):
            return Requirement.NOBODY
        return self.otherwise

    def described(self, operations: Iterable[Operation]) -> Iterator[Operation]:
        """Those of the operations that are not outside, each with what its rule says: ``NOBODY`` where none does."""
        for one in operations:
            # Any segment does that is neither in a rule nor dots. What takes all methods is asked for by GET.
            asked = ("GET" if one.method == "*" else one.method, re.sub(r"\{[^}]*\}", "~", one.path))
            rule = self.rule(*asked)
            if rule is not None:
                yield one._replace(requirement=rule.requirement)
            elif self.judged_by(*asked) is not PER_ROUTE:
                yield one._replace(requirement=Requirement.NOBODY)

    def _may_be_stricter(self, method: str, path: str) -> bool:
        """Whether a router that forgives may take it for an operation that requires more than what holds otherwise."""
        if path != path.translate(_CONTROLS):
            return True
        segments = [_folded(segment) for segment in path.split("/") if segment]
        resolved: list[str] = []
        for segment in segments:
            if segment == "..":
                del resolved[-1:]
            elif segment != ".":
                resolved.append(segment)
        method = "GET" if method == "HEAD" else method or WEBSOCKET
        return any(
            method == asked and (_near(pattern, segments) or _near(pattern, resolved))
            for asked, pattern in self._stricter
        )

    def __repr__(self) -> str:
        return f"<Policy of {len(self.rules)} rules, otherwise {self.otherwise}>"


def _near(pattern: Sequence[str | None], segments: Sequence[str]) -> bool:
    return len(pattern) == len(segments) and all(
        one is None or one == other for one, other in zip(pattern, segments, strict=True)
    )


def _laxer(one: Requirement, other: Requirement) -> bool:
    """Whether a key might pass by *one* that does not by the *other*."""
    if one.nobody or other.nobody:
        return not one.nobody
    if other.mode not in (None, one.mode) or (one.publishable and not other.publishable):
        return True
    unrestricted = not (one.any_key or one.permissions)
    named = other.permissions and {*other.permissions} <= {*one.permissions}
    return not (unrestricted or named or other.any_key)


def _matches(pattern: str | None, segment: str) -> bool:
    return pattern == segment if pattern is not None else segment != "" and segment not in _DOTS


def _may_meet(one: str | None, two: str | None) -> bool:
    return one == two or (one is None and _matches(one, two or "")) or (two is None and _matches(two, one or ""))


def _check_method(method: str) -> None:
    if not _METHOD.fullmatch(method):
        raise InvalidPolicy(f"{method!r} is no method: write one, such as 'GET', and one rule for each")
    if method != method.upper():
        raise InvalidPolicy(f"methods are compared exactly (RFC 9110 §9.1): write {method.upper()!r}, not {method!r}")
    if method == "HEAD":
        raise InvalidPolicy("HEAD follows GET: declare GET")


def _check_path(path: str) -> None:
    if not path.startswith("/"):
        raise InvalidPolicy(f"a path begins with a slash: write {'/' + path!r}")
    for sign, name in (("?", "a query"), ("#", "a fragment"), ("%", "percent-encoding: paths are compared decoded")):
        if sign in path:
            raise InvalidPolicy(f"the path {path!r} has {name}; leave it out")
    *inner, last = path.split("/")[1:]
    if "" in inner:
        raise InvalidPolicy(f"the path {path!r} has an empty segment, which no router matches")
    for segment in (*inner, last):
        if segment in _DOTS:
            raise InvalidPolicy(f"the path {path!r} has a dot segment: write the path that it leads to")
        if ("{" in segment or "}" in segment) and not _PARAMETER.fullmatch(segment):
            raise InvalidPolicy(f"in {path!r}, {segment!r} is no parameter: one is a whole segment, such as '{{id}}'")


def _check_within(within: str) -> None:
    _check_path(within)
    if within == "/" or within.endswith("/") or "{" in within:
        raise InvalidPolicy(f"within is an exact path without a slash at its end, such as '/api', not {within!r}")


def _outside(path: str, within: str) -> bool:
    """
    Whether *path* lies outside, however often it is decoded, and whatever slashes, dots and case mean to whom.

    A path that climbs ("..") does not: where it arrives hangs on what was decoded and collapsed before.
    """
    if not path.startswith("/"):
        return False
    home = _folded(within).split("/")[1:]
    for _ in range(_MOST_DECODINGS):
        steps = [step for step in _folded(path.replace("\\", "/")).split("/") if step not in ("", ".")]
        if ".." in steps or steps[: len(home)] == home:
            return False
        decoded = unquote(path)
        if decoded == path:
            return True
        path = decoded
    return False


def _folded(path: str) -> str:
    """*path* without case and controls; to a regular expression without case, two letters of Turkish are an "i"."""
    return path.translate(_FOLDED).casefold()
