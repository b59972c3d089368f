"""The demo's service as a WSGI application: Werkzeug behind doorkey."""

from __future__ import annotations

from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Request, Response

from .. import ByMode, Doorkey
from ..adapters.wsgi import PRINCIPAL, DoorkeyMiddleware
from .rules import POLICY, PROXIES
from .service import Content, Database, Fault, Page
from .wire import Answer, answer, fault_answer, of, read_fields, unrouted

ROUTES = Map(
    [
        Rule("/healthz", endpoint="healthz", methods=["GET"]),
        Rule("/v1/balance", endpoint="balance", methods=["GET"]),
        Rule("/v1/<collection>", endpoint="list", methods=["GET"]),
        Rule("/v1/<collection>", endpoint="create", methods=["POST"]),
        Rule("/v1/<collection>/<id>", endpoint="retrieve", methods=["GET"]),
    ],
    merge_slashes=False,  # a path means one thing, here as in the policy
)


def application(door: Doorkey, databases: ByMode[Database]) -> DoorkeyMiddleware:
    """The service of *databases*, for whoever *door* lets in."""

    def handle(request: Request) -> Answer:
        endpoint, arguments = ROUTES.bind_to_environ(request.environ).match()
        if endpoint == "healthz":
            return Answer(b"ok\n", 200, {"Content-Type": "text/plain; charset=utf-8"})
        principal = request.environ[PRINCIPAL]
        database = databases.of(principal)
        content: Content | Page
        match endpoint:
            case "balance":
                content = database.balance(principal.workspace)
            case "list":
                content = database.list(principal.workspace, **arguments, query=request.args)
            case "retrieve":
                content = database.retrieve(principal.workspace, **arguments)
            case _:
                fields = read_fields(request.headers.get("Content-Type", ""), request.get_data())
                repeated = request.headers.get(of(door.profile).idempotency_field)
                content = database.create(principal.workspace, **arguments, sent=fields, idempotency_key=repeated)
        return answer(content, door.profile)

    @Request.application
    def service(request: Request) -> Response:
        try:
            return Response(*handle(request))
        except Fault as fault:
            return Response(*fault_answer(fault, door.profile))
        except HTTPException:
            return Response(*fault_answer(unrouted(request.method, request.path), door.profile))

    return DoorkeyMiddleware(service, door.verifier, policy=POLICY, trusted_proxies=PROXIES)
