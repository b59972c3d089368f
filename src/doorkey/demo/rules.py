"""
What the demo's operations require, and whose word on a client's address counts: for both of its applications alike.

``GET /v1/balance`` is left out on purpose: what no rule describes is open to unrestricted secret keys alone.
"""

from __future__ import annotations

from ..core.clients import TrustedProxies
from ..core.policy import Policy, Rule

POLICY = Policy(
    [
        Rule.open("GET", "/healthz"),
        Rule("POST", "/v1/tokens", "tokens:write", publishable=True),
        Rule("GET", "/v1/tokens", "tokens:read"),
        Rule("GET", "/v1/tokens/{id}", "tokens:read"),
        Rule("POST", "/v1/charges", "charges:write"),
        Rule("GET", "/v1/charges", "charges:read"),
        Rule("GET", "/v1/charges/{id}", "charges:read"),
        Rule("POST", "/v1/payments", "payments:write"),
        Rule("GET", "/v1/payments", "payments:read"),
        Rule("GET", "/v1/payments/{id}", "payments:read"),
        Rule("POST", "/v1/messages", "messages:write"),
        Rule("GET", "/v1/messages", "messages:read"),
        Rule("GET", "/v1/messages/{id}", "messages:read"),
    ]
)

# Whoever tries the demo plays the proxy: what stands in X-Forwarded-For is believed of a neighbour on this machine.
PROXIES = TrustedProxies(["127.0.0.1"])
