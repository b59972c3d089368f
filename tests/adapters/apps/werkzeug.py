"""Werkzeug, for the table of requests."""

from __future__ import annotations

from typing import Any

from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Request, Response

from doorkey import OPEN
from doorkey.adapters.werkzeug import Dispatcher, DoorkeyMiddleware, current_principal, requires
from doorkey.core.policy import WEBSOCKET
from tests.adapters.apps.setup import Build, Setup


def build(setup: Setup) -> Any:
    """The application: one that answers whatever is asked, or a dispatcher."""

    def endpoint(request: Request, **values: str) -> Response:
        setup.enter(current_principal(request))
        return Response("entered")

    if not setup.per_route:
        return DoorkeyMiddleware(
            Request.application(endpoint), setup.verifier, policy=setup.policy, trusted_proxies=setup.proxies
        )
    rules = [
        Rule(
            rule.path.replace("{", "<").replace("}", ">"),
            methods=[rule.method],
            endpoint=requires(OPEN if rule.requirement is None else rule.requirement)(endpoint),
        )
        for rule in setup.policy.rules
        if rule.method != WEBSOCKET
    ]
    return Dispatcher(Map(rules), setup.verifier, trusted_proxies=setup.proxies)


BUILDS: dict[str, Build] = {"wsgi": build}

# The router drops slashes before the first, writes methods in capitals, and takes dots for a segment as any other. What
# it finds so is judged by what the view that it found declares.
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
