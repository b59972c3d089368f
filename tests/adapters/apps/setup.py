"""
What an application of the frameworks' tests is built with. Each module beside this one builds it for one framework.

Such a module has a table ``BUILDS`` from the interface ("asgi", "wsgi") to a function of a :class:`Setup` that returns
the application as a server would call it, and ``DIFFERS``, which names the rows whose answer differs per route, because
the framework's router is kinder than a policy, with the code that comes out; "entered" if the endpoint is called.
``DIFFERS_UNDER_POLICY`` names others by interface, where the framework changes the path before anybody sees it.

The application calls ``setup.enter(principal)`` in each endpoint, with what the adapter's ``current_principal`` tells.
Under a policy, every path and method has an endpoint. Per route, exactly the operations of the policy's rules have one,
each declared by the adapter's own means.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from doorkey import AsyncVerifier, Policy, Principal, TrustedProxies, Verifier


@dataclass(frozen=True)
class Setup:
    """
    Attributes:
        policy: the table; per route, what the endpoints shall declare.
        per_route: whether the endpoints declare it.
        entered: whom the endpoints were called for.
    """

    verifier: Verifier
    async_verifier: AsyncVerifier
    policy: Policy
    per_route: bool
    proxies: TrustedProxies | None
    entered: list[Principal | None] = field(default_factory=list)

    @property
    def enter(self) -> Callable[[Principal | None], None]:
        """What an endpoint tells that it was called, and for whom."""
        return self.entered.append


Build = Callable[[Setup], Any]
