"""
Quart behind doorkey: each view says what it requires.

    doorkey init && doorkey workspace provision Acme     # tells the ids of its two test keys
    python examples/quart_app.py
    KEY=$(doorkey keys reveal --stdout KEY_ID)           # in another terminal
    curl -u "$KEY:" http://127.0.0.1:8000/
"""

import os

from quart import Quart

import doorkey
from doorkey import OPEN, PER_ROUTE
from doorkey.adapters.quart import Doorkey, current_principal, requires

app = Quart(__name__, static_folder=None)


@app.get("/")
@requires("messages:read")
async def index() -> dict[str, object]:
    principal = current_principal()
    assert principal is not None  # as it is on open operations alone
    return {"workspace": principal.workspace, "livemode": principal.livemode}


@app.get("/healthz")
@requires(OPEN)
async def healthz() -> dict[str, object]:
    return {"status": "ok"}


door = doorkey.open(os.environ.get("DOORKEY_STORE", "sqlite:///doorkey.db"))
Doorkey(app, door.async_verifier, policy=PER_ROUTE)

if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "8000")), use_reloader=False)
