"""Isolation of modes: one resource per mode, given out to a principal of that mode alone."""

from __future__ import annotations

from typing import Generic, TypeVar

from .core.errors import ConfigurationError
from .core.model import Mode, Principal

Resource = TypeVar("Resource")


class ByMode(Generic[Resource]):
    """
    Holds one resource per mode (an engine, a database file, a folder), so that a handler cannot reach the other by
    mistake.

    >>> from doorkey.core.model import KeyType
    >>> databases = ByMode(test="test.db", live="live.db")
    >>> databases.of(Principal("ws_1", "key_1", "muTFmv6k", KeyType.SECRET, Mode.TEST))
    'test.db'

    Raises:
        ConfigurationError: both are the same object, so that nothing is isolated.
    """

    __slots__ = ("_resources",)

    def __init__(self, *, test: Resource, live: Resource) -> None:
        if test is live:
            raise ConfigurationError("test and live must not share one resource: give two")
        self._resources = {Mode.TEST: test, Mode.LIVE: live}

    def of(self, principal: Principal) -> Resource:
        """The resource of this principal's mode."""
        return self._resources[principal.mode]

    def __repr__(self) -> str:
        return "<ByMode of two resources>"
