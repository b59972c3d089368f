"""Flask, for the table of requests."""

from __future__ import annotations

from flask import Flask

from doorkey import OPEN, PER_ROUTE
from doorkey.adapters.flask import Doorkey, current_principal, requires
from doorkey.core.policy import WEBSOCKET
from tests.adapters.apps.setup import Build, Setup


def build(setup: Setup) -> Flask:
    """The application; under a policy, one function answers whatever is asked."""
    app = Flask(__name__, static_folder=None)
    policy = PER_ROUTE if setup.per_route else setup.policy
    Doorkey(app, setup.verifier, policy=policy, trusted_proxies=setup.proxies)

    def endpoint(**values: str) -> str:
        setup.enter(current_principal())
        return "entered"

    if not setup.per_route:
        app.before_request(endpoint)
        return app
    for number, rule in enumerate(setup.policy.rules):
        if rule.method != WEBSOCKET:
            path = rule.path.replace("{", "<").replace("}", ">")
            view = requires(OPEN if rule.requirement is None else rule.requirement)(endpoint)
            app.add_url_rule(path, f"endpoint {number}", view, methods=[rule.method])
    return app


BUILDS: dict[str, Build] = {"wsgi": build}

# Werkzeug's router drops slashes before the first, writes methods in capitals, and takes dots for a segment as any
# other. What it finds so is judged by what the endpoint that it found declares.
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
}
