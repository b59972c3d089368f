"""
Permissions: what a key may do.

::

    permission = "*" / resource [ ":" ( action / "*" ) ]
    resource   = action = 1*( ALPHA / DIGIT / "_" / "-" / "." )

``messages`` and ``messages:*`` grant every action on messages, ``messages:read`` grants that one, ``*`` grants all.
Nothing else is implied: ``write`` does not imply ``read``, and ``read`` is no prefix of ``readall``. Letters are
compared exactly.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from .errors import InvalidPermission

EVERYTHING = "*"
_PERMISSION = re.compile(r"\*|([A-Za-z0-9_.-]+)(?::([A-Za-z0-9_.-]+|\*))?", re.ASCII)


def _canonical(permission: object) -> str:
    """The one spelling of *permission*: ``messages:*`` is ``messages``."""
    if not isinstance(permission, str):
        raise InvalidPermission(f"a permission is text such as 'messages:read', not {type(permission).__name__}")
    if not _PERMISSION.fullmatch(permission):
        raise InvalidPermission(
            f"{permission!r} is no permission: write a resource ('messages'), a resource and an action "
            "('messages:read'), or '*' alone or after the colon"
        )
    return permission.removesuffix(":*")


@lru_cache(maxsize=1024)
def ways_to(permission: str) -> frozenset[str]:
    """
    Everything that grants *permission*, itself included.

    >>> sorted(ways_to("messages:read"))
    ['*', 'messages', 'messages:read']

    Raises:
        InvalidPermission: *permission* is none.
    """
    needed = _canonical(permission)
    return frozenset((EVERYTHING, needed.partition(":")[0], needed))


class PermissionSet(frozenset[str]):
    """
    Some permissions in their one spelling, ready to be asked.

    >>> PermissionSet.parse(["messages", "charges:read"]).grants("messages:write")
    True
    """

    __slots__ = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> PermissionSet:
        """
        Read *texts*, one permission each.

        Raises:
            InvalidPermission: one of them is none, or there are none: an empty set could mean "nothing" or
                "everything", so say which.
        """
        if isinstance(texts, str | bytes):
            raise InvalidPermission(f"give a list of permissions, [{texts!r}], not a single text")
        held = cls(map(_canonical, texts))
        if not held:
            raise InvalidPermission(
                "an empty set of permissions is unclear: use None for an unrestricted key, and revoke a key that is to "
                "do nothing"
            )
        return held

    def grants(self, permission: str) -> bool:
        """
        Tell whether these permissions cover *permission*.

        Raises:
            InvalidPermission: *permission* is none.
        """
        return not self.isdisjoint(ways_to(permission))

    def __repr__(self) -> str:
        return f"PermissionSet({sorted(self)})"
