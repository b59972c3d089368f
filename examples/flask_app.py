"""
Flask behind doorkey: each view says what it requires.

    doorkey init && doorkey workspace provision Acme     # tells the ids of its two test keys
    python examples/flask_app.py
    KEY=$(doorkey keys reveal --stdout KEY_ID)           # in another terminal
    curl -u "$KEY:" http://127.0.0.1:8000/
"""

import os

from flask import Flask

import doorkey
from doorkey import OPEN, PER_ROUTE
from doorkey.adapters.flask import Doorkey, current_principal, requires

app = Flask(__name__, static_folder=None)


@app.get("/")
@requires("messages:read")
def index() -> dict[str, object]:
    principal = current_principal()
    assert principal is not None  # as it is on open operations alone
    return {"workspace": principal.workspace, "livemode": principal.livemode}


@app.get("/healthz")
@requires(OPEN)
def healthz() -> dict[str, object]:
    return {"status": "ok"}


door = doorkey.open(os.environ.get("DOORKEY_STORE", "sqlite:///doorkey.db"))
Doorkey(app, door.verifier, policy=PER_ROUTE)

if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "8000")))
