"""
A Starlette application behind doorkey: each endpoint says what it requires.

    doorkey init && doorkey workspace provision Acme     # tells the ids of its two test keys
    python examples/starlette_app.py
    KEY=$(doorkey keys reveal --stdout KEY_ID)           # in another terminal
    curl -u "$KEY:" http://127.0.0.1:8000/
"""

import os

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import doorkey
from doorkey.adapters.starlette import DoorkeyMiddleware, current_principal, requires


@requires("messages:read")
async def index(request: Request) -> JSONResponse:
    principal = current_principal(request)
    assert principal is not None  # which only an open endpoint lacks
    return JSONResponse({"workspace": principal.workspace, "livemode": principal.livemode})


@requires(doorkey.OPEN)
async def healthz(request: Request) -> JSONResponse:
    return JSONResponse({"status": "ok"})


door = doorkey.open(os.environ.get("DOORKEY_STORE", "sqlite:///doorkey.db"))
protection = Middleware(DoorkeyMiddleware, verifier=door.async_verifier, policy=doorkey.PER_ROUTE)
app = Starlette(routes=[Route("/", index), Route("/healthz", healthz)], middleware=[protection])

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), proxy_headers=False)  # or any neighbour is the client
