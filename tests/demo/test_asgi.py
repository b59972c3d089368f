"""The demo's service as an ASGI application: every operation, and who may not have it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from doorkey import FALU, KeyType, Mode
from doorkey.demo import asgi, stage
from doorkey.demo.stage import Stage

CHARGE = {"amount": "2000", "currency": "kes"}


@pytest.fixture(scope="module")
def built() -> Iterator[Stage]:
    with stage.built() as built:
        yield built


def send(built: Stage, method: str, path: str, mode: Mode | None = Mode.TEST, **options: Any) -> httpx.Response:
    """What a request with the secret key of *mode* gets."""

    async def exchange() -> httpx.Response:
        transport = httpx.ASGITransport(app=asgi.application(built.door, built.databases))
        async with httpx.AsyncClient(transport=transport, base_url="http://demo") as client:
            auth = None if mode is None else (built.tokens[KeyType.SECRET, mode].expose(), "")
            return await client.request(method, path, auth=auth, **options)

    return asyncio.run(exchange())


@pytest.mark.parametrize("mode", Mode)
def test_an_object_is_made_found_and_listed(built: Stage, mode: Mode) -> None:
    """In the database of the key's mode, and in no other."""
    made = send(built, "POST", "/v1/charges", mode, data=CHARGE)
    assert made.status_code == 200
    charge = made.json()
    assert charge["livemode"] is (mode is Mode.LIVE)
    assert send(built, "GET", f"/v1/charges/{charge['id']}", mode).json() == charge
    assert send(built, "GET", "/v1/charges?limit=1", mode).json()["data"] == [charge]
    assert send(built, "GET", "/v1/balance", mode).json()["available"] == [{"amount": 2000, "currency": "kes"}]
    other = Mode.TEST if mode is Mode.LIVE else Mode.LIVE
    assert send(built, "GET", f"/v1/charges/{charge['id']}", other).status_code == 404


def test_a_body_may_be_json(built: Stage) -> None:
    """As well as a form."""
    made = send(built, "POST", "/v1/messages", json={"to": "+254722000000", "body": "Hello"})
    assert made.json()["body"] == "Hello"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/v1/charges", 400, "parameter_missing"),
        ("GET", "/v1/charges?limit=x", 400, "parameter_invalid"),
        ("GET", "/v1/charges/ch_1", 404, "resource_missing"),
        ("GET", "/v1/refunds", 404, "path_unknown"),
        ("GET", "/v1/charges/", 404, "path_unknown"),
        ("GET", "//v1/charges", 404, "path_unknown"),
        ("GET", "/", 404, "path_unknown"),
        ("DELETE", "/v1/charges", 404, "path_unknown"),
        ("OPTIONS", "/v1/charges", 404, "path_unknown"),
    ],
)
def test_a_fault_is_told_in_the_shape_of_a_refusal(
    built: Stage, method: str, path: str, status: int, code: str
) -> None:
    """Also that of a path which no route takes; a slash more is another path, and nothing redirects."""
    response = send(built, method, f"http://demo{path}")
    assert response.status_code == status
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert error["request_id"] == response.headers["request-id"]


def test_the_health_check_is_open(built: Stage) -> None:
    """It needs no key, and tells nothing."""
    response = send(built, "GET", "/healthz", mode=None)
    assert (response.status_code, response.text) == (200, "ok\n")


@pytest.mark.parametrize("path", ["/v1/charges", "/v1/balance", "/v1/nothing", "/"])
def test_all_else_needs_a_key(built: Stage, path: str) -> None:
    """Whether there is something or not."""
    assert send(built, "GET", path, mode=None).json()["error"]["code"] == "api_key_missing"


def test_a_trusted_proxy_tells_the_address(built: Stage) -> None:
    """A key that is bound to a network is let in by the address in X-Forwarded-For."""
    key = built.ring.issue(
        built.workspace, type=KeyType.SECRET, mode=Mode.TEST, name="bound", networks=["203.0.113.0/24"]
    )
    headers = {"Authorization": f"Bearer {built.ring.reveal(key.id).expose()}"}
    inside = {**headers, "X-Forwarded-For": "203.0.113.7"}
    assert send(built, "GET", "/v1/charges", mode=None, headers=inside).status_code == 200
    assert send(built, "GET", "/v1/charges", mode=None, headers=headers).status_code == 403


def test_a_repeated_request_pays_once(built: Stage) -> None:
    """Under the idempotency key that it sends again."""
    headers = {"Idempotency-Key": "order 1"}
    first, again = (send(built, "POST", "/v1/charges", data=CHARGE, headers=headers).json() for _ in range(2))
    assert first == again
    reused = send(built, "POST", "/v1/charges", data={**CHARGE, "amount": "1"}, headers=headers)
    assert (reused.status_code, reused.json()["error"]["type"]) == (400, "idempotency_error")


def test_another_system() -> None:
    """What Falu's clients send and read, with keys as they have them; where they write a mode, it counts nothing."""
    with stage.built(profile=FALU) as built:
        headers = {"X-Idempotency-Key": "order 1", "X-Live-Mode": "False", "X-Workspace-Id": "wksp_1"}
        sent = {"json": {"amount": 2000, "currency": "kes"}, "headers": headers}
        first, again = (send(built, "POST", "/v1/payments", Mode.LIVE, **sent).json() for _ in range(2))
        assert (first["live"], first["status"]) == (True, "succeeded")
        assert send(built, "GET", "/v1/payments", Mode.LIVE).json() == [first] == [again]
        assert send(built, "GET", "/v1/payments").json() == []
        refused = send(built, "GET", "/v1/payments/", mode=None)
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["code"] == "api_key_missing"
        assert send(built, "GET", "/v1/refunds").json()["detail"] == "There is no /v1/refunds."
