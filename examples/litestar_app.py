"""
Litestar behind doorkey: each handler says what it requires.

    doorkey init && doorkey workspace provision Acme     # tells the ids of its two test keys
    python examples/litestar_app.py
    KEY=$(doorkey keys reveal --stdout KEY_ID)           # in another terminal
    curl -u "$KEY:" http://127.0.0.1:8000/
"""

import os
from typing import Any

import uvicorn
from litestar import Litestar, Request, get

import doorkey
from doorkey import OPEN
from doorkey.adapters.litestar import DoorkeyPlugin, current_principal, requires


@get("/", guards=[requires("messages:read")])
async def index(request: Request[Any, Any, Any]) -> dict[str, object]:
    principal = current_principal(request)
    assert principal is not None  # as it is on open operations alone
    return {"workspace": principal.workspace, "livemode": principal.livemode}


@get("/healthz", guards=[requires(OPEN)])
async def healthz() -> dict[str, object]:
    return {"status": "ok"}


door = doorkey.open(os.environ.get("DOORKEY_STORE", "sqlite:///doorkey.db"))
app = Litestar([index, healthz], plugins=[DoorkeyPlugin(door.async_verifier)])

if __name__ == "__main__":
    # Without proxy_headers=False, uvicorn lets any neighbour on this machine say where a client is.
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), proxy_headers=False)
