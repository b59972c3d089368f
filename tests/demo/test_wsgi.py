"""The demo's service as a WSGI application: every operation, and that it answers as its ASGI twin does."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from doorkey import FALU, KeyType, Mode
from doorkey.demo import asgi, stage, wsgi
from doorkey.demo.stage import Stage

CHARGE = {"amount": "2000", "currency": "kes"}


@pytest.fixture
def built(tmp_path: Path) -> Iterator[Stage]:
    with stage.built(tmp_path) as built:
        yield built


def send(built: Stage, method: str, path: str, mode: Mode | None = Mode.TEST, **options: Any) -> httpx.Response:
    """What a request with the secret key of *mode* gets."""
    transport = httpx.WSGITransport(app=wsgi.application(built.door, built.databases))
    with httpx.Client(transport=transport, base_url="http://demo") as client:
        return client.request(method, path, auth=credentials(built, mode), **options)


def send_to_twin(built: Stage, method: str, path: str, mode: Mode | None, **options: Any) -> httpx.Response:
    """What the same request gets from the ASGI application."""

    async def exchange() -> httpx.Response:
        transport = httpx.ASGITransport(app=asgi.application(built.door, built.databases))
        async with httpx.AsyncClient(transport=transport, base_url="http://demo") as client:
            return await client.request(method, path, auth=credentials(built, mode), **options)

    return asyncio.run(exchange())


def credentials(built: Stage, mode: Mode | None) -> tuple[str, str] | None:
    return None if mode is None else (built.tokens[KeyType.SECRET, mode].expose(), "")


def comparable(response: httpx.Response) -> tuple[object, ...]:
    """All of a response that does not change from one to the next: names are replaced, and times."""
    body = re.sub(r"\b(ch|tok|msg|req)_\w+", "id", response.text)
    body = re.sub(r'"created": \d+', '"created": 0', body)
    headers = {name: value for name, value in response.headers.multi_items() if name not in ("request-id", "server")}
    return response.status_code, headers, body


@pytest.mark.parametrize("mode", Mode)
def test_an_object_is_made_found_and_listed(built: Stage, mode: Mode) -> None:
    """In the database of the key's mode, and in no other."""
    charge = send(built, "POST", "/v1/charges", mode, data=CHARGE).json()
    assert charge["livemode"] is (mode is Mode.LIVE)
    assert send(built, "GET", f"/v1/charges/{charge['id']}", mode).json() == charge
    assert send(built, "GET", "/v1/charges?limit=1", mode).json()["data"] == [charge]
    assert send(built, "GET", "/v1/balance", mode).json()["available"] == [{"amount": 2000, "currency": "kes"}]
    other = Mode.TEST if mode is Mode.LIVE else Mode.LIVE
    assert send(built, "GET", f"/v1/charges/{charge['id']}", other).status_code == 404


@pytest.mark.parametrize("mode", [None, *Mode])
@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("GET", "/healthz", {}),
        ("HEAD", "/healthz", {}),
        ("POST", "/healthz", {}),
        ("POST", "/v1/charges", {"data": CHARGE}),
        ("POST", "/v1/charges", {"data": {**CHARGE, "amount": "x"}}),
        ("POST", "/v1/charges", {"json": {**CHARGE, "amount": 1}}),
        ("POST", "/v1/charges", {"json": []}),
        ("POST", "/v1/charges", {"content": b"\xff"}),
        ("POST", "/v1/tokens", {"data": {"number": "4" * 16}}),
        ("POST", "/v1/messages", {"data": {"to": "+254722000000", "body": "Habari, dünya"}}),
        ("POST", "/v1/refunds", {}),
        ("GET", "/v1/charges", {}),
        ("HEAD", "/v1/charges", {}),
        ("GET", "/v1/charges?limit=1&limit=2", {}),
        ("GET", "/v1/charges?page=2", {}),
        ("GET", "/v1/charges/ch_1", {}),
        ("GET", "/v1/charges/%2e%2e", {}),
        ("GET", "/v1/charges/%C3%BC", {}),
        ("GET", "/v1/balance", {}),
        ("GET", "/v1/charges/", {}),
        ("GET", "/v1//charges", {}),
        ("GET", "/", {}),
        ("DELETE", "/v1/charges", {}),
        ("OPTIONS", "/v1/charges", {"headers": {"Origin": "https://shop.example"}}),
    ],
)
def test_both_applications_answer_alike(
    built: Stage, mode: Mode | None, method: str, path: str, options: dict[str, Any]
) -> None:
    """Status, header fields and body, but for ids and times."""
    url = f"http://demo{path}"
    assert comparable(send(built, method, url, mode, **options)) == comparable(
        send_to_twin(built, method, url, mode, **options)
    )


def test_a_trusted_proxy_tells_the_address(built: Stage) -> None:
    """A key that is bound to a network is let in by the address in X-Forwarded-For."""
    key = built.ring.issue(
        built.workspace, type=KeyType.SECRET, mode=Mode.TEST, name="bound", networks=["203.0.113.0/24"]
    )
    headers = {"Authorization": f"Bearer {built.ring.reveal(key.id).expose()}"}
    inside = {**headers, "X-Forwarded-For": "203.0.113.7"}
    assert send(built, "GET", "/v1/charges", mode=None, headers=inside).status_code == 200
    refused = send(built, "GET", "/v1/charges", mode=None, headers=headers)
    assert json.loads(refused.text)["error"]["code"] == "network_not_allowed"


def test_a_path_that_the_router_reads_more_loosely_is_judged_more_strictly(built: Stage) -> None:
    """Werkzeug drops slashes at the start, the policy does not: no rule describes that path, so few may."""
    url = "http://demo//v1/messages"
    assert send(built, "GET", url).status_code == 200
    assert send(built, "GET", "http://demo//healthz", mode=None).status_code == 401
    for_messages = {"Authorization": f"Bearer {built.ring.reveal(built.restricted).expose()}"}
    assert send(built, "GET", "/v1/messages", mode=None, headers=for_messages).status_code == 200
    assert send(built, "GET", url, mode=None, headers=for_messages).status_code == 403


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
