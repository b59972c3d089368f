"""Quart, for the table of requests."""

from __future__ import annotations

from quart import Quart, websocket

from doorkey import OPEN, PER_ROUTE
from doorkey.adapters.quart import Doorkey, current_principal, requires
from doorkey.core.policy import WEBSOCKET
from tests.adapters.apps.setup import Build, Setup


def build(setup: Setup) -> Quart:
    """The application; under a policy, two functions answer whatever is asked."""
    app = Quart(__name__, static_folder=None)
    policy = PER_ROUTE if setup.per_route else setup.policy
    Doorkey(app, setup.async_verifier, policy=policy, trusted_proxies=setup.proxies)

    async def endpoint(**values: str) -> str:
        setup.enter(current_principal())
        return "entered"

    async def socket(**values: str) -> str:
        setup.enter(current_principal())
        await websocket.accept()
        return ""

    if not setup.per_route:
        app.before_request(endpoint)
        app.before_websocket(socket)
        return app
    for number, rule in enumerate(setup.policy.rules):
        path = rule.path.replace("{", "<").replace("}", ">")
        declared = requires(OPEN if rule.requirement is None else rule.requirement)
        if rule.method == WEBSOCKET:
            app.add_websocket(path, f"endpoint {number}", declared(socket))
        else:
            app.add_url_rule(path, f"endpoint {number}", declared(endpoint), methods=[rule.method])
    return app


BUILDS: dict[str, Build] = {"asgi": build}

# Werkzeug's router drops slashes before the first, writes methods in capitals, and takes dots for a segment as any
# other. What it finds so is judged by what the endpoint that it found declares. Quart itself strips a mount's prefix as
# it is written, slash at the end included, and finds nothing in a path that lacks it.
DIFFERS = {
    "two slashes before an open path": "entered",
    "get in lower case, open in capitals": "entered",
    "head in lower case, open in capitals": "entered",
    "mounted: two slashes": "entered",
    "two slashes at the start": "entered",
    "get in lower case": "entered",
    "post in lower case": "entered",
    "dots for a parameter": "entered",
    "encoded dots for a parameter": "entered",
    "a dot for a parameter": "entered",
    "a prefix with a slash at its end": "entered",
    "path without the prefix: a rule holds": "insufficient_permissions",
    "path without the prefix: open": "api_key_missing",
}

# Quart routes a blank where the path lacks the prefix.
DIFFERS_UNDER_POLICY = {
    "asgi": {name: code for name, code in DIFFERS.items() if name.startswith("path without the prefix")}
}
