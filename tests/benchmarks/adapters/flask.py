"""Flask: a view that declares what it requires, against Flask-HTTPAuth with one SHA-256, and the floor around it."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Flask

from doorkey import PER_ROUTE, Policy
from doorkey.adapters.flask import Doorkey, requires
from doorkey.core.declarations import Said

from .. import floor
from ..sample import NEEDED, PATH, RULES, Sample, new_sample
from ..table import Row
from ..timing import by_turns
from ..web import POLICY, added_row, flask_app, flask_app_with_httpauth, wsgi_request


def rows(rounds: int) -> Iterator[Row]:
    """Per route, and under a policy."""
    sample = new_sample()
    bare = flask_app()
    with_httpauth, password = flask_app_with_httpauth()
    sides = {
        "bare": wsgi_request(bare, sample.valid, "200 OK"),
        "floor": wsgi_request(floor.wsgi(bare, sample.check, RULES), sample.valid, "200 OK"),
        "HTTPAuth": wsgi_request(with_httpauth, password, "200 OK"),
        "per route": wsgi_request(application(sample, PER_ROUTE), sample.valid, "200 OK"),
        "policy": wsgi_request(application(sample, POLICY), sample.valid, "200 OK"),
    }
    times = by_turns(sides, rounds)
    for name in ("per route", "policy"):
        yield added_row("Flask", f"added by the extension, {name}", times, name, "floor")
        yield added_row(
            "Flask", f"added by the extension, {name}, against Flask-HTTPAuth with SHA-256", times, name, "HTTPAuth"
        )


def application(sample: Sample, policy: Policy | Said) -> Flask:
    """The smallest application, behind the extension."""
    app = Flask("benchmark")
    Doorkey(app, sample.door.verifier, policy=policy)

    def messages() -> str:
        return "hello"

    app.get(PATH)(requires(NEEDED)(messages) if policy is PER_ROUTE else messages)
    return app
