"""
An ASGI application, Starlette here, behind doorkey.

    doorkey init && doorkey workspace provision Acme     # tells the ids of its two test keys
    python examples/starlette_app.py
    KEY=$(doorkey keys reveal --stdout KEY_ID)           # in another terminal
    curl -u "$KEY:" http://127.0.0.1:8000/
"""

import os

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import doorkey
from doorkey import Policy, Rule
from doorkey.adapters.asgi import DoorkeyMiddleware


async def index(request: Request) -> JSONResponse:
    principal = request.state.principal
    return JSONResponse({"workspace": principal.workspace, "livemode": principal.livemode})


async def healthz(request: Request) -> JSONResponse:
    return JSONResponse({"status": "ok"})


door = doorkey.open(os.environ.get("DOORKEY_STORE", "sqlite:///doorkey.db"))
policy = Policy([Rule("GET", "/", "messages:read"), Rule.open("GET", "/healthz")])
service = Starlette(routes=[Route("/", index), Route("/healthz", healthz)])
app = DoorkeyMiddleware(service, door.async_verifier, policy=policy)

if __name__ == "__main__":
    # Without proxy_headers=False, uvicorn lets any neighbour on this machine say where a client is.
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), proxy_headers=False)
