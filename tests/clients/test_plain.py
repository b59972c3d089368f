"""Clients that know HTTP and nothing of keys: each is let in, and each gets to see why not."""

from __future__ import annotations

import json

import pytest

from doorkey import KeyType, Mode
from doorkey.core.tokens import mint
from tests.clients.plain import CLIENTS, PROGRAMS, Ask
from tests.clients.programs import require
from tests.clients.service import Service

CHARGE = {"amount": "2000", "currency": "kes"}

# Node says of itself that a script sends (Sec-Fetch-Mode: cors), and so is challenged as a page would be.
CHALLENGES = dict.fromkeys(CLIENTS, ("Basic", "Bearer")) | {"Node's fetch": ("Bearer",)}


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    """The name of one that is installed."""
    name: str = request.param
    if name in PROGRAMS:
        require(PROGRAMS[name])
    return name


def test_a_key_lets_in(service: Service, client: str) -> None:
    """To make something and to read it, and to ask for no more than the head."""
    send, url = CLIENTS[client], f"{service.url}/v1/charges"
    made = send(Ask("POST", url, service.token(), CHARGE))
    charge = json.loads(made.body)
    assert (made.status, charge["amount"], charge["livemode"]) == (200, 2000, False)
    found = send(Ask("GET", f"{url}/{charge['id']}", service.token()))
    assert (found.status, json.loads(found.body)) == (200, charge)
    head = send(Ask("HEAD", url, service.token()))
    assert (head.status, head.body) == (200, "")


def test_a_live_key_does_not_see_it(service: Service, client: str) -> None:
    """Test data, that is."""
    send, url = CLIENTS[client], f"{service.url}/v1/charges"
    charge = json.loads(send(Ask("POST", url, service.token(), CHARGE)).body)
    missed = send(Ask("GET", f"{url}/{charge['id']}", service.token(mode=Mode.LIVE)))
    assert (missed.status, missed.code) == (404, "resource_missing")


def test_a_401_challenges(service: Service, client: str) -> None:
    """Without a key, with one that nobody issued, and with one of the past; for HEAD as well, without a body."""
    send, url = CLIENTS[client], f"{service.url}/v1/charges"
    stranger = mint(KeyType.SECRET, Mode.TEST).expose()
    for token, code in ((None, "missing"), (stranger, "invalid"), (service.rolled(), "expired")):
        refused = send(Ask("GET", url, token))
        assert (refused.status, refused.code) == (401, f"api_key_{code}")
        assert refused.challenges == CHALLENGES[client]
    head = send(Ask("HEAD", url))
    assert (head.status, head.body, head.challenges) == (401, "", CHALLENGES[client])


def test_a_403_says_why(service: Service, client: str) -> None:
    """It asks nobody for another credential; of permissions it says which."""
    send, url = CLIENTS[client], f"{service.url}/v1/charges"
    for token, code in (
        (service.issue(permissions=["messages"]), "insufficient_permissions"),
        (service.issue(networks=["203.0.113.0/24"]), "network_not_allowed"),
        (service.token(KeyType.PUBLISHABLE), "secret_key_required"),
    ):
        refused = send(Ask("GET", url, token))
        scopes = ("Bearer",) if code == "insufficient_permissions" else ()
        assert (refused.status, refused.code, refused.challenges) == (403, code, scopes)


def test_a_503_says_when_to_come_back(service: Service, client: str) -> None:
    """While the store is down nobody is let in, and nobody's key is called wrong; then all is as before."""
    send, url = CLIENTS[client], f"{service.url}/v1/charges"
    with service.store_down():
        refused = send(Ask("GET", url, service.token()))
    assert (refused.status, refused.code) == (503, "auth_unavailable")
    assert refused.retry_after
    assert send(Ask("GET", url, service.token())).status == 200
