"""
Werkzeug behind doorkey: a dispatcher that asks each view what it requires.

    doorkey init && doorkey workspace provision Acme     # tells the ids of its two test keys
    python examples/werkzeug_app.py
    KEY=$(doorkey keys reveal --stdout KEY_ID)           # in another terminal
    curl -u "$KEY:" http://127.0.0.1:8000/
"""

import os

from werkzeug.routing import Map, Rule
from werkzeug.serving import run_simple
from werkzeug.wrappers import Request, Response

import doorkey
from doorkey import OPEN
from doorkey.adapters.werkzeug import Dispatcher, current_principal, requires


@requires("messages:read")
def index(request: Request) -> Response:
    principal = current_principal(request)
    assert principal is not None  # as it is on open operations alone
    return Response(f"Hello, {principal.workspace}!\n")


@requires(OPEN)
def healthz(request: Request) -> Response:
    return Response("ok\n")


door = doorkey.open(os.environ.get("DOORKEY_STORE", "sqlite:///doorkey.db"))
urls = Map([Rule("/", methods=["GET"], endpoint=index), Rule("/healthz", methods=["GET"], endpoint=healthz)])
app = Dispatcher(urls, door.verifier)

if __name__ == "__main__":
    run_simple("127.0.0.1", int(os.environ.get("PORT", "8000")), app, threaded=True)
