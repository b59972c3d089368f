"""The demo's service as an ASGI application: Starlette behind doorkey."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from .. import ByMode, Doorkey
from ..adapters.asgi import DoorkeyMiddleware
from .rules import POLICY, PROXIES
from .service import Content, Database, Fault, Page
from .wire import answer, fault_answer, of, read_fields, unrouted


def application(door: Doorkey, databases: ByMode[Database]) -> DoorkeyMiddleware:
    """The service of *databases*, for whoever *door* lets in."""

    def respond(result: Content | Page) -> Response:
        return Response(*answer(result, door.profile))

    def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    def balance(request: Request) -> Response:
        principal = request.state.principal
        return respond(databases.of(principal).balance(principal.workspace))

    def listing(request: Request) -> Response:
        principal = request.state.principal
        query = request.query_params
        return respond(databases.of(principal).list(principal.workspace, **request.path_params, query=query))

    def retrieve(request: Request) -> Response:
        principal = request.state.principal
        return respond(databases.of(principal).retrieve(principal.workspace, **request.path_params))

    async def create(request: Request) -> Response:
        principal = request.state.principal
        fields = read_fields(request.headers.get("content-type", ""), await request.body())
        collection = request.path_params["collection"]
        repeated = request.headers.get(of(door.profile).idempotency_field)
        return respond(
            await run_in_threadpool(databases.of(principal).create, principal.workspace, collection, fields, repeated)
        )

    def on_error(request: Request, error: Exception) -> Response:
        fault = error if isinstance(error, Fault) else unrouted(request.method, request.scope["path"])
        return Response(*fault_answer(fault, door.profile))

    service = Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/v1/balance", balance),
            Route("/v1/{collection}", listing),
            Route("/v1/{collection}", create, methods=["POST"]),
            Route("/v1/{collection}/{id}", retrieve),
        ],
        exception_handlers={Fault: on_error, HTTPException: on_error},
    )
    service.router.redirect_slashes = False  # a path means one thing, here as in the policy
    return DoorkeyMiddleware(service, door.async_verifier, policy=POLICY, trusted_proxies=PROXIES)
