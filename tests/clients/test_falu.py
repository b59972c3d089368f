"""Falu's own client, with its address changed: results, and what it makes of each refusal, which is not much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import falu
import pytest
from falu import errors
from falu.list_options import BasicListOptions

from doorkey import KeyType, Mode
from doorkey.core.tokens import mint
from tests.clients.official import speaking_falu
from tests.clients.service import Service

PAYMENT = {"amount": 2000, "currency": "kes"}
MESSAGE = {"to": "+254722000000", "body": "Your parcel is here."}


@pytest.mark.parametrize("mode", Mode)
def test_objects_are_made_read_and_listed(falu_service: Service, mode: Mode) -> None:
    """With the mode of the key, which the objects call ``live``; lists are lists."""
    token = falu_service.token(mode=mode)
    with speaking_falu(falu_service.url):
        made, error = falu.Payment.create_payment(PAYMENT, api_key=token)
        assert error is None
        assert (made.amount, made.currency, made.status) == (2000, "kes", "succeeded")
        assert made.live is (mode is Mode.LIVE)
        assert made.headers["Request-Id"].startswith("req_")
        found, error = falu.Payment.get_payment(made.id, api_key=token)
        assert (found.resource, error) == (made.resource, None)
        payments, error = falu.Payment.get_payments(api_key=token)
        assert (payments[0].resource, error) == (made.resource, None)
        sent, error = falu.Messages.send_message(MESSAGE, api_key=token)
        assert (sent.body, error) == (MESSAGE["body"], None)
        messages, error = falu.Messages.get_messages(api_key=token)
        assert (messages[0].resource, error) == (sent.resource, None)


def test_what_the_clients_own_examples_send(falu_service: Service) -> None:
    """A message on a stream; a payment from a telephone; and what a shop keeps for itself."""
    mpesa = {"phone": "+254722000000", "reference": "INV-1", "paybill": True, "destination": "600000"}
    with speaking_falu(falu_service.url):
        sent, error = falu.Messages.send_message({**MESSAGE, "stream": "transactional"}, api_key=falu_service.token())
        assert (error, sent.stream) == (None, "transactional")
        payment = {**PAYMENT, "customer": "cust_1", "mpesa": mpesa, "metadata": {"order": "17"}}
        made, error = falu.Payment.create_payment(payment, api_key=falu_service.token())
    assert (error, made.mpesa["phone"], made.metadata) == (None, "+254722000000", {"order": "17"})


def test_what_the_client_sends_beside_the_key_counts_nothing(falu_service: Service) -> None:
    """It says X-Live-Mode: False with a live key, unless told otherwise, and names any workspace that it is told to."""
    falu_service.requests.clear()
    with speaking_falu(falu_service.url):
        live, _ = falu.Payment.create_payment(PAYMENT, api_key=falu_service.token(mode=Mode.LIVE))
        test, _ = falu.Payment.create_payment(PAYMENT, api_key=falu_service.token(), live=True, workspace="wksp_1")
        elsewhere, _ = falu.Payment.get_payment(live.id, api_key=falu_service.token(), live=True)
    assert [request.headers["x-live-mode"] for request in falu_service.requests] == ["False", "True", "True"]
    assert falu_service.requests[1].headers["x-workspace-id"] == "wksp_1"
    assert falu_service.requests[0].headers["content-type"] == "application/json"
    assert (live.live, test.live, elsewhere) == (True, False, None)


@pytest.mark.parametrize("mode", Mode)
def test_a_key_of_one_mode_sees_nothing_of_the_other(falu_service: Service, mode: Mode) -> None:
    """Neither one by one, of which this client returns nothing at all, nor in lists."""
    other = falu_service.token(mode=Mode.TEST if mode is Mode.LIVE else Mode.LIVE)
    with speaking_falu(falu_service.url) as responses:
        made, _ = falu.Payment.create_payment(PAYMENT, api_key=falu_service.token(mode=mode))
        assert falu.Payment.get_payment(made.id, api_key=other) == (None, None)
        assert (responses[-1].status_code, responses[-1].json()["code"]) == (404, "resource_missing")
        payments, _ = falu.Payment.get_payments(api_key=other)
    assert made.id not in [payment.id for payment in payments]


@pytest.mark.parametrize(
    ("token", "code"),
    [
        (
            lambda service: mint(KeyType.SECRET, Mode.TEST, service.stage.door.profile.format).expose(),
            "api_key_invalid",
        ),
        (lambda service: mint(KeyType.SECRET, Mode.TEST).expose(), "api_key_malformed"),  # of another system
        (Service.rolled, "api_key_expired"),
    ],
    ids=["unknown", "foreign", "expired"],
)
def test_a_key_that_is_none_is_an_authentication_error(
    falu_service: Service, token: Callable[[Service], str], code: str
) -> None:
    """Beside no result. The client tells the reason phrase alone; the answer has a code and both challenges."""
    with speaking_falu(falu_service.url) as responses:
        result, error = falu.Payment.get_payments(api_key=token(falu_service))
    assert result is None
    assert isinstance(error, errors.AuthenticationError)
    assert (error.status_code, str(error)) == (401, "Unauthorized")
    (response,) = responses
    problem = response.json()
    assert response.headers["Content-Type"] == "application/problem+json"
    assert (problem["status"], problem["code"]) == (401, code)
    assert problem["request_id"] == response.headers["Request-Id"]
    assert "Basic realm=" in response.headers["WWW-Authenticate"]
    assert "Bearer realm=" in response.headers["WWW-Authenticate"]


def test_a_wrong_field_is_an_api_error(falu_service: Service) -> None:
    """With the problem document (RFC 9457), whose detail is its message."""
    with speaking_falu(falu_service.url):
        result, error = falu.Payment.create_payment({**PAYMENT, "amount": -1}, api_key=falu_service.token())
    assert result is None
    assert type(error) is errors.ApiError
    assert (error.status_code, error.problem["code"], error.problem["param"]) == (400, "parameter_invalid", "amount")
    assert str(error) == error.problem["detail"] == "amount must be a whole number of cents, 1 to 99999999."


@pytest.mark.parametrize(
    ("options", "code", "detail"),
    [
        ({"permissions": ["messages"]}, "insufficient_permissions", "This needs the permission payments:read"),
        ({"networks": ["203.0.113.0/24"]}, "network_not_allowed", "the server does not know the client's address"),
    ],
)
def test_of_what_a_key_may_not_do_it_returns_nothing(
    falu_service: Service, options: dict[str, Any], code: str, detail: str
) -> None:
    """So it is the answer itself that is looked at: a 403 that says why."""
    with speaking_falu(falu_service.url) as responses:
        assert falu.Payment.get_payments(api_key=falu_service.issue(**options)) == (None, None)
    (response,) = responses
    assert (response.status_code, response.json()["code"]) == (403, code)
    assert detail in response.json()["detail"]
    assert "Basic" not in response.headers.get("WWW-Authenticate", "")


def test_a_public_key_is_called_so(falu_service: Service) -> None:
    """In the words of this system."""
    with speaking_falu(falu_service.url) as responses:
        assert falu.Payment.get_payments(api_key=falu_service.token(KeyType.PUBLISHABLE)) == (None, None)
    assert responses[0].json()["detail"] == "This needs a secret key; a public key was sent."


def test_while_the_store_is_down_it_returns_nothing(falu_service: Service) -> None:
    """The answer says 503 and when to come back; this client does not, and nothing was done."""
    token = falu_service.token()
    with speaking_falu(falu_service.url) as responses:
        before, _ = falu.Payment.get_payments(api_key=token)
        with falu_service.store_down():
            assert falu.Payment.create_payment(PAYMENT, api_key=token) == (None, None)
        after, _ = falu.Payment.get_payments(api_key=token)
    response = responses[1]
    assert (response.status_code, response.json()["code"]) == (503, "auth_unavailable")
    assert 1 <= int(response.headers["Retry-After"]) <= 5
    assert len(after or []) == len(before or [])


def test_a_rolled_token_dies_at_once(falu_service: Service) -> None:
    """That is this system's rule, with no word from whoever rolls."""
    stage = falu_service.stage
    key = stage.ring.issue(stage.workspace, type=KeyType.SECRET, mode=Mode.TEST, name="rolled")
    old = stage.ring.reveal(key.id).expose()
    stage.ring.roll(key.id)
    new = stage.ring.reveal(key.id).expose()
    with speaking_falu(falu_service.url) as responses:
        falu.Payment.get_payments(api_key=old)
        falu.Payment.get_payments(api_key=new)
    assert [response.status_code for response in responses] == [401, 200]


def test_a_repeated_request_pays_once(falu_service: Service) -> None:
    """Under the idempotency key that its user chose."""
    token = falu_service.token()
    with speaking_falu(falu_service.url):
        first, again = (
            falu.Payment.create_payment(PAYMENT, api_key=token, idempotency_key="order 1")[0] for _ in range(2)
        )
        assert first.id == again.id
        _, error = falu.Payment.create_payment({**PAYMENT, "amount": 1}, api_key=token, idempotency_key="order 1")
    assert error.problem["code"] == "idempotency_key_reused"


def test_its_list_options_cannot_be_used() -> None:
    """In this version they raise before anything is sent, so that no list can be asked for page by page."""
    with pytest.raises(TypeError):
        falu.Messages.get_messages(options=BasicListOptions(count=1), api_key="anything")
