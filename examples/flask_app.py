"""
A WSGI application, Flask here, behind doorkey.

    doorkey init && doorkey workspace provision Acme     # tells the ids of its two test keys
    python examples/flask_app.py
    KEY=$(doorkey keys reveal --stdout KEY_ID)           # in another terminal
    curl -u "$KEY:" http://127.0.0.1:8000/
"""

import os

from flask import Flask, request

import doorkey
from doorkey import Policy, Rule
from doorkey.adapters.wsgi import PRINCIPAL, DoorkeyMiddleware

app = Flask(__name__)


@app.get("/")
def index() -> dict[str, object]:
    principal = request.environ[PRINCIPAL]
    return {"workspace": principal.workspace, "livemode": principal.livemode}


@app.get("/healthz")
def healthz() -> dict[str, object]:
    return {"status": "ok"}


door = doorkey.open(os.environ.get("DOORKEY_STORE", "sqlite:///doorkey.db"))
policy = Policy([Rule("GET", "/", "messages:read"), Rule.open("GET", "/healthz")])
app.wsgi_app = DoorkeyMiddleware(app.wsgi_app, door.verifier, policy=policy)  # type: ignore[method-assign]

if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "8000")))
