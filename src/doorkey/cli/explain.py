"""``doorkey explain``: why a request was let in or turned away, and what would let it in."""

from __future__ import annotations

import json
import os
import pkgutil
import sys
from argparse import Namespace
from collections.abc import Sequence

from ..core.clients import Hop, TrustedProxies
from ..core.errors import ConfigurationError, NotFound
from ..core.model import Denied, Mode, Reason, Requirement, Unavailable
from ..core.networks import canonical_address
from ..core.policy import Policy
from ..core.profiles import Profile
from ..core.refusals import Refusals
from ..storage.protocol import Key, StoredToken
from . import arguments, facts
from .arguments import Commands, command
from .opening import opened
from .output import report, shown, table
from .replay import Gate, Replay, replay


def add(commands: Commands) -> None:
    """Put this command on the command line."""
    parser = command(commands, "explain", explain, "replay a decision gate by gate, for a stored key")
    parser.add_argument("key", metavar="KEY", type=arguments.key, help="its id")
    parser.add_argument("--token", metavar="ID", help="the id of one of its tokens; else the current one is judged")
    request = parser.add_argument_group("the request")
    request.add_argument("--method", metavar="M", required=True, help="exactly as sent; WEBSOCKET for a handshake")
    request.add_argument(
        "--path",
        metavar="P",
        required=True,
        type=arguments.path,
        help="as the router sees it: decoded, without its query",
    )
    request.add_argument("--peer", metavar="ADDR", help="the address that is connected to the server")
    forwarded = request.add_mutually_exclusive_group()
    forwarded.add_argument(
        "--forwarded", metavar="VALUE", action="append", default=[], help="what the proxies' header says of the client"
    )
    forwarded.add_argument(
        "--header",
        metavar="'NAME: VALUE'",
        action="append",
        default=[],
        type=arguments.field_line,
        help="a header field",
    )
    server = parser.add_argument_group("the server")
    server.add_argument(
        "--trusted-proxy",
        metavar="NET",
        action="append",
        default=[],
        help="whose word about the client's address counts",
    )
    server.add_argument(
        "--proxy-header", metavar="NAME", default="x-forwarded-for", help="where they give it (x-forwarded-for)"
    )
    server.add_argument("--unix-socket", action="store_true", help="it listens on one, where its proxy has no address")
    operation = parser.add_argument_group("the operation", "Without any of these it takes an unrestricted secret key.")
    says = operation.add_mutually_exclusive_group()
    says.add_argument("--policy", metavar="MODULE:ATTRIBUTE", help="import the policy that says what it requires")
    says.add_argument("--requires", metavar="PERM", action="append", default=[], help="a permission that it requires")
    operation.add_argument("--publishable", action="store_true", help="it takes publishable keys, too")
    operation.add_argument("--only-mode", choices=[mode.value for mode in Mode], help="it takes keys of one mode alone")


def explain(args: Namespace) -> int:
    """Replay a decision."""
    hops = _hops(args)
    requirement, why = _operation(args)
    with opened(args) as door:
        key = door.keyring.key(args.key)
        stored = _token(key, args.token)
        replayed = replay(
            door.store,
            door.keyring.workspace(key.workspace),
            key,
            stored,
            door.profile.format,
            client_address=hops[-1].address,
            requirement=requirement or Requirement(),
            now=args.clock(),
        )
        profile = door.profile
    refusal, gates = _through(args.path, requirement, why, replayed)
    answer = None if refusal is None else _answer(refusal, profile)
    told = {
        "request": {"method": args.method, "path": args.path},
        "key": facts.of_key(key, replayed.workspace, profile.format, replayed.now),
        "token": facts.of_token(stored, key, profile.format, replayed.now),
        "client": {"address": hops[-1].address, "hops": [hop._asdict() for hop in hops]},
        "gates": [gate._asdict() for gate in gates],
        "verdict": "refused" if refusal is not None else "open" if requirement is None else "granted",
        "refused_by": next((gate.name for gate in gates if gate.result == "refused"), None),
        "answer": answer,
        "remedies": list(dict.fromkeys(remedy for gate in gates for remedy in gate.remedies)),
    }
    report(args, told, _in_words(told, hops, gates))
    return 0


def _token(key: Key, id: str | None) -> StoredToken:
    for token in key.tokens:
        if id in (None, token.id):
            return token
    raise NotFound(f"{key.id} has no token of that id: `doorkey keys show {key.id}` lists its tokens")


def _hops(args: Namespace) -> Sequence[Hop]:
    """The way to the client's address; the last hop is the client."""
    peer = None if args.peer is None else canonical_address(args.peer)
    if not args.trusted_proxy and not args.unix_socket:
        return (Hop("peer", peer or "", peer, False),)
    proxies = TrustedProxies(args.trusted_proxy, args.proxy_header, args.unix_socket)
    given = [(proxies.header.encode(), arguments.octets(value)) for value in args.forwarded]
    return tuple(proxies.hops(peer, args.header or given))


def _operation(args: Namespace) -> tuple[Requirement | None, str]:
    """What the operation requires, ``None`` if no key; and in words who says so."""
    if args.policy is None:
        mode = None if args.only_mode is None else Mode(args.only_mode)
        requirement = Requirement(args.requires, args.publishable, mode)
        return requirement, f"as the options say, it takes {requirement}"
    if args.publishable or args.only_mode is not None:
        raise ConfigurationError("the policy says what is publishable and of which mode: leave those options out")
    policy = _policy(args.policy)
    rule = policy.rule(args.method, args.path)
    needed = policy.requirement(args.method, args.path)
    if rule is not None:
        what = "is open" if needed is None else f"takes {needed}"
        return needed, f"as its rule {rule.method} {rule.path} says, it {what}"
    if needed is None:
        return None, f"it lies outside of {policy.within}, where requests pass without a principal"
    return needed, f"no rule describes it, so it takes what holds otherwise: {needed}"


def _policy(name: str) -> Policy:
    sys.path.insert(0, os.getcwd())  # as servers that are told what to import do
    try:
        policy = pkgutil.resolve_name(name)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    else:
        if isinstance(policy, Policy):
            return policy
        problem = f"that is of type {type(policy).__name__}"
    raise ConfigurationError(
        f"there is no policy {name} ({problem}): write MODULE:ATTRIBUTE, such as service.rules:POLICY"
    )


def _through(
    path: str, requirement: Requirement | None, why: str, replayed: Replay
) -> tuple[Denied | Unavailable | None, list[Gate]]:
    """What refuses a request, if anything does, and every gate on its way."""
    target = Gate("target", "passed", "the path begins with a slash")
    operation = Gate("operation", "passed", why)
    rest = [Gate("credential", "assumed", "the request presents the token, whole and alone"), *replayed.gates()]
    unasked = [Gate(gate.name, "not asked", "") for gate in rest]
    if path and path[0] != "/":
        target = Gate("target", "refused", "the path does not begin with a slash", ("send a path that does",))
        return Denied(Reason.TARGET), [target, Gate("operation", "not asked", ""), *unasked]
    if requirement is None:
        return None, [target, operation, *unasked]
    return next(iter(replayed.refusals), None), [target, operation, *rest]


def _answer(refusal: Denied | Unavailable, profile: Profile) -> dict[str, object]:
    """What the client gets."""
    response = Refusals(profile).refusal(refusal)
    body = json.loads(response.body)
    error = body.get("error", body)
    return {"status": response.status, "code": error["code"], "message": error["message"]}


def _in_words(told: facts.Facts, hops: Sequence[Hop], gates: Sequence[Gate]) -> str:
    key = told["key"]
    about = (
        f"{told['request']['method']} {told['request']['path']} with {told['token']['hint']}, "
        f"the {told['token']['state']} token of {key['id']} ({key['name']})"
    )
    ways = [(hop.source, hop.text or None, hop.address, _meaning(hop, hop is hops[-1])) for hop in hops]
    passed = [(gate.name, gate.result, gate.why) for gate in gates]
    remedies = [f"  - {shown(remedy)}" for remedy in told["remedies"]]
    return "\n".join(
        [
            shown(about),
            "",
            table(("SOURCE", "TEXT", "ADDRESS", "MEANING"), ways),
            "",
            table(("GATE", "RESULT", "WHY"), passed),
            "",
            _conclusion(told),
            *(["What would let it through:", *remedies] if remedies else []),
        ]
    )


def _meaning(hop: Hop, last: bool) -> str:
    if not last:
        return "trusted, so it is asked who came to it"
    if hop.address is None:
        return "tells no address, so the client is unknown"
    return (
        "trusted, but nobody stands behind it, so it is the client"
        if hop.trusted
        else "no trusted proxy, so it is the client"
    )


def _conclusion(told: facts.Facts) -> str:
    if told["answer"] is None:
        return "Let in." if told["verdict"] == "granted" else "Let in without a key: no principal is known there."
    answer = told["answer"]
    return (
        f'Refused by the gate "{told["refused_by"]}". The client gets {answer["status"]} {answer["code"]}: '
        f"{shown(answer['message'])}"
    )
