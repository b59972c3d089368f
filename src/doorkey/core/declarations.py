"""
Requirements that endpoints declare themselves, where no policy describes them.

The adapter of a framework has a decorator ``requires``, made of :func:`requirement` and :func:`declare`. With
``policy=PER_ROUTE`` its middleware asks :func:`declared` about the endpoint that the framework's router has found,
before calling it. An endpoint that declares nothing is closed to everybody; where there is no endpoint, the framework's
"not found" is for whoever holds an unrestricted secret key (:data:`ELSEWHERE`), as under a policy.

The decorator also has the endpoint make sure that it was judged (:func:`ensure_judged`), so that one which is reached
by another way, or where the middleware was forgotten, stays closed.

:func:`assert_declared` is for tests: it names what nobody thought of.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from functools import partial
from typing import Any, Final, Literal, NamedTuple, TypeVar

from .errors import ConfigurationError, InvalidPolicy
from .model import Mode, Requirement

Endpoint = TypeVar("Endpoint")

_NAME = "__doorkey_requirement__"


class Said(Enum):
    """Words that stand where a requirement or a policy does."""

    OPEN = "OPEN"
    PER_ROUTE = "PER_ROUTE"

    def __repr__(self) -> str:
        return self.value


OPEN: Final = Said.OPEN
"""What an endpoint requires that needs no key: ``requires(OPEN)``."""

PER_ROUTE: Final = Said.PER_ROUTE
"""In place of a policy: each endpoint declares its own requirement."""

JudgedBy = Requirement | Literal[Said.PER_ROUTE] | None
"""What a request is judged by: ``None`` if it is open, ``PER_ROUTE`` if a policy leaves it to others."""

ELSEWHERE: Final = Requirement()
"""What a request requires for which there is no endpoint."""

REQUIREMENT: Final = "doorkey.requirement"
"""
Where an ASGI scope or a WSGI environ says what the request was judged by; ``PER_ROUTE`` where a policy left it to
others. Absent if no middleware saw it.
"""


class Operation(NamedTuple):
    """
    What one can ask of an application: a method, a path as its router writes it, and what that requires.

    ``None`` for an open operation; ``Requirement.NOBODY`` for one that nobody has declared.
    """

    method: str
    path: str
    requirement: Requirement | None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def requirement(
    requires: str | Iterable[str] | Requirement | Said = (), publishable: bool = False, mode: Mode | None = None
) -> Requirement | None:
    """
    The requirement that these words mean; ``None`` for ``OPEN``.

    Raises:
        InvalidPolicy: *publishable* or *mode* beside a whole requirement, which says them itself; or ``PER_ROUTE``.
        InvalidPermission: a permission is none.
    """
    if isinstance(requires, Said):
        if requires is not OPEN or publishable or mode is not None:
            raise InvalidPolicy("an open operation is OPEN and nothing else; what needs a key names permissions")
        return None
    if not isinstance(requires, Requirement):
        return Requirement(requires, publishable, mode)
    if publishable or mode is not None:
        raise InvalidPolicy("say publishable and mode in the requirement itself, or give permissions")
    return requires


def declare(endpoint: Endpoint, requirement: Requirement | None) -> Endpoint:
    """
    Write down on *endpoint* what it requires, and return it.

    Raises:
        InvalidPolicy: it has a declaration already.
    """
    if _NAME in vars(endpoint):
        raise InvalidPolicy(f"{endpoint!r} declares twice what it requires: keep one, with all that is needed")
    setattr(endpoint, _NAME, OPEN if requirement is None else requirement)
    return endpoint


def declared(endpoint: object) -> Requirement | None:
    """What *endpoint* requires; ``None`` if it is open, ``Requirement.NOBODY`` if it declares nothing."""
    while isinstance(endpoint, partial):
        endpoint = endpoint.func
    found = getattr(endpoint, _NAME, None)  # which objects that have any attribute may give, too: it means nothing
    if found is OPEN:
        return None
    return found if isinstance(found, Requirement) else Requirement.NOBODY


def ensure_judged(request: Mapping[str, Any], requirement: Requirement | None) -> None:
    """
    Make sure that a request was judged by *requirement*, and let in.

    Args:
        request: the ASGI scope or WSGI environ.

    Raises:
        ConfigurationError: it was not.
    """
    if request.get(REQUIREMENT, PER_ROUTE) != requirement:
        raise ConfigurationError(
            "an endpoint was reached that declares what it requires, by a request that was not judged by that: put "
            "doorkey's middleware with policy=PER_ROUTE in front of the application, inside of whatever rewrites paths"
        )


def assert_declared(operations: Iterable[Operation], open: Collection[str] = ()) -> None:
    """
    Make sure that each operation is declared, and that exactly those are open which *open* names.

    Args:
        open: such as ``["GET /healthz"]``.

    Raises:
        AssertionError: names what is undeclared, open without being named, and named without being open.
        ConfigurationError: there is no operation at all, so that nothing was looked at.
    """
    operations = list(operations)
    if not operations:
        raise ConfigurationError("no route was found: is this the application, and are its routes in place?")
    opened = {str(one) for one in operations if one.requirement is None}
    wrong = [f"{one} declares nothing" for one in operations if one.requirement == Requirement.NOBODY]
    wrong += [f"{name} is open: close it, or name it in open=" for name in sorted(opened - set(open))]
    wrong += [f"{name} is named in open=, and is not open" for name in sorted(set(open) - opened)]
    if wrong:
        raise AssertionError("; ".join(dict.fromkeys(wrong)))
