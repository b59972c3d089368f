"""
doorkey: the API keys that your customers know from payment companies, for a Python web API.

::

    door = doorkey.open("sqlite:///keys.db")
    match door.verifier.verify(authorization, client_address="203.0.113.7", requires="messages:read"):
        case Granted(principal): ...
        case Denied(reason): ...
        case Unavailable(): ...

Adapters are imported by name: ``from doorkey.adapters.asgi import DoorkeyMiddleware``.
"""

from .core.clients import TrustedProxies
from .core.declarations import OPEN, PER_ROUTE
from .core.errors import DoorkeyError
from .core.model import Decision, Denied, Granted, KeyType, Mode, Principal, Reason, Requirement, Unavailable
from .core.policy import Policy, Rule
from .core.profiles import DEFAULT, FALU, FLUVEO, Profile
from .core.verify import AsyncVerifier, Verifier
from .door import Doorkey, create, open
from .modes import ByMode

__version__ = "0.1.0"

__all__ = [
    "DEFAULT",
    "FALU",
    "FLUVEO",
    "OPEN",
    "PER_ROUTE",
    "AsyncVerifier",
    "ByMode",
    "Decision",
    "Denied",
    "Doorkey",
    "DoorkeyError",
    "Granted",
    "KeyType",
    "Mode",
    "Policy",
    "Principal",
    "Profile",
    "Reason",
    "Requirement",
    "Rule",
    "TrustedProxies",
    "Unavailable",
    "Verifier",
    "create",
    "open",
]
