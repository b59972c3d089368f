"""
What Django's views declare, and which views a URLconf has. Django REST framework's are known by their attributes.

A view is a function, or made of a class. What the view itself declares counts for all of it; else what the class's
method declares that answers the request; else what one of a REST view's permission classes does. Where a class has no
method for a request, Django answers by itself, and so it does to OPTIONS: that is no endpoint, unless ``dispatch`` is
the project's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from django.http import Http404
from django.urls import URLPattern, URLResolver, resolve

from ..core.declarations import ELSEWHERE, Operation, declared
from ..core.model import Requirement
from ..core.policy import WEBSOCKET, Policy

ANY_METHOD = "*"
"""The method word of an operation whose view is a function, which sees every method."""

PERMISSIONS = "doorkey.adapters.drf.HasPermissions"
REST = (PERMISSIONS, "doorkey.adapters.drf.ApiKeyAuthentication")
"""What judges in a REST view, each alone."""

Needed = Callable[[object, str], Requirement | None]

_FRAMEWORKS = ("django", "rest_framework")
_OPTIONS = ("View.options", "APIView.options")


def required(view: object, method: str) -> Requirement | None:
    """What a request to *view* requires, ``None`` if it is open, ``Requirement.NOBODY`` if that is not declared."""
    whole = declared(view)
    cls = class_of(view)
    if cls is None or whole != Requirement.NOBODY:
        return whole
    return required_of_class(cls, getattr(view, "actions", None), _named(view, "permission_classes"), method)


def _named(view: object, attribute: str) -> Iterable[Any]:
    """The classes that a REST view has for something."""
    options: Mapping[str, Any] = getattr(view, "initkwargs", None) or {}
    named: Iterable[Any] = options.get(attribute, getattr(class_of(view), attribute, ()))
    return named


def judges_itself(view: object) -> bool:
    """Whether a REST view has doorkey judge its requests, if the middleware is not there."""
    classes = (*_named(view, "permission_classes"), *_named(view, "authentication_classes"))
    bases = (base for one in classes for base in getattr(one, "__mro__", ()))
    return any(f"{base.__module__}.{base.__qualname__}" in REST for base in bases)


def required_of_class(
    cls: type, actions: Mapping[str, str] | None, permissions: Any, method: str
) -> Requirement | None:
    """
    The same for the class of a view.

    Args:
        actions: of a viewset, from method to the name of an action.
        permissions: the permission classes.
    """
    handler = _handler(cls, actions or {}, method.lower())
    if handler is None:
        return ELSEWHERE if _is_frameworks(getattr(cls, "dispatch", None)) else Requirement.NOBODY
    said = (declared(one) for one in (handler, *permissions))
    return next((one for one in said if one != Requirement.NOBODY), Requirement.NOBODY)


def required_at_work(view: object, method: str) -> Requirement | None:
    """The same for a view that is at work: an instance of its class."""
    permissions = getattr(view, "permission_classes", ())
    return required_of_class(type(view), getattr(view, "action_map", None), permissions, method)


def class_of(view: object) -> type | None:
    """The class that a view was made of."""
    found = getattr(view, "cls", None) or getattr(view, "view_class", None)
    return found if isinstance(found, type) else None


def declares(view: object) -> bool:
    """Whether a view declares anything, itself or by its class."""
    cls = class_of(view)
    methods = [] if cls is None else _answering(view, cls)
    found = [declared(view), *(required(view, method) for method in methods)]
    return any(one != Requirement.NOBODY for one in found)


def handlers(cls: type) -> list[str]:
    """The names of the methods of a class that answer requests, but for what Django does by itself."""
    names: list[str] = getattr(cls, "http_method_names", [])
    return [name for name in names if hasattr(cls, name) and _handler(cls, {}, name) is not None]


def _handler(cls: type, actions: Mapping[str, str], method: str) -> object | None:
    """The function of a class that answers *method*, in lower case."""
    if method not in getattr(cls, "http_method_names", ()):
        return None
    found: object = getattr(cls, actions.get(method, method), None)
    if found is None and method == "head":
        return _handler(cls, actions, "get")
    by_itself = _is_frameworks(found) and getattr(found, "__qualname__", "") in _OPTIONS
    return None if by_itself else found


def _is_frameworks(function: object) -> bool:
    module: str = getattr(function, "__module__", "")
    return module.partition(".")[0] in _FRAMEWORKS


def operations(resolver: URLResolver, site: Policy, needed: Needed | None = None) -> Iterator[Operation]:
    """
    Each operation of a URLconf that does not lie outside of what doorkey protects.

    Args:
        site: the policy; per route, one without rules that knows what lies outside.
        needed: tells what a method of a view requires; ``None``: the policy does.
    """
    for path, sample, view in views(resolver):
        if not is_outside(site, sample):
            for method in _methods(view, site, sample):
                yield Operation(method, path, _ruled(site, method, sample) if needed is None else needed(view, method))


def is_outside(site: Policy, path: str) -> bool:
    """Whether a path lies outside of what a policy is within."""
    return site.requirement("", path) is None  # there is no rule for a method without a name


def views(resolver: URLResolver, path: str = "/", sample: str = "/") -> Iterator[tuple[str, str, object]]:
    """Each view with its path as it is written, and with a segment in the place of each parameter."""
    for entry in resolver.url_patterns:
        part = re.sub(r"^\^|\$$|\\[Zz]$", "", str(entry.pattern))
        filled = re.sub(r"\(\?P<\w+>[^()]*\)|<[^<>]+>", "1", part)
        if isinstance(entry, URLPattern):
            yield path + part, sample + filled, entry.callback
        else:
            yield from views(entry, path + part, sample + filled)


def view_at(path: str, urlconf: Any = None) -> object | None:
    """The view that a path leads to, if there is one."""
    try:
        return resolve(path, urlconf).func
    except Http404:
        return None


def _methods(view: object, site: Policy, sample: str) -> list[str]:
    """The methods that a view answers; of a function, those that a rule describes."""
    cls = class_of(view)
    if cls is None:
        words = sorted({rule.method for rule in site.rules} - {WEBSOCKET})
        return [word for word in words if site.rule(word, sample)] or [ANY_METHOD]
    return [name.upper() for name in _answering(view, cls)] or [ANY_METHOD]


def _answering(view: object, cls: type) -> list[str]:
    """The methods, in lower case, that the class of a view answers."""
    actions: Mapping[str, str] = getattr(view, "actions", None) or {}
    return [*(name for name in actions if name != "head"), *(name for name in handlers(cls) if name not in actions)]


def _ruled(policy: Policy, method: str, sample: str) -> Requirement | None:
    rule = policy.rule(method, sample)
    return Requirement.NOBODY if rule is None else rule.requirement
