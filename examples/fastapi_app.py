"""
A FastAPI application behind doorkey: each operation says what it requires, and so does its OpenAPI document.

    doorkey init && doorkey workspace provision Acme     # tells the ids of its two test keys
    python examples/fastapi_app.py
    KEY=$(doorkey keys reveal --stdout KEY_ID)           # in another terminal
    curl -u "$KEY:" http://127.0.0.1:8000/               # and see http://127.0.0.1:8000/docs
"""

import os
from typing import Annotated

import uvicorn
from fastapi import FastAPI, Security

import doorkey
from doorkey.adapters.fastapi import ApiKey, protect, requires

app = FastAPI(title="Example")
api_key = ApiKey()


@app.get("/")
async def index(
    principal: Annotated[doorkey.Principal, Security(api_key, scopes=["messages:read"])],
) -> dict[str, object]:
    return {"workspace": principal.workspace, "livemode": principal.livemode}


@app.get("/healthz")
@requires(doorkey.OPEN)
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


door = doorkey.open(os.environ.get("DOORKEY_STORE", "sqlite:///doorkey.db"))
protect(app, door.async_verifier, docs=doorkey.OPEN)

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), proxy_headers=False)  # or any neighbour is the client
