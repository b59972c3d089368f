"""The service on the wire: the forms in which it reads and answers, for the clients of either model system."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorkey import DEFAULT, FALU, FLUVEO, Profile
from doorkey.demo.service import Content, Fault, Page
from doorkey.demo.wire import answer, fault_answer, of, read_fields, unrouted

CHARGE: Content = {"id": "ch_1", "object": "charge", "created": 1_800_000_000, "livemode": True, "amount": 2000}


@pytest.mark.parametrize("profile", [DEFAULT, FLUVEO, replace(DEFAULT, name="acme")])
def test_what_the_clients_of_stripe_read(profile: Profile) -> None:
    """Objects as they are, and lists that say whether more follows; whoever has no form of his own has this one."""
    body, status, headers = answer(CHARGE, profile)
    assert (status, json.loads(body)) == (200, CHARGE)
    assert headers["Content-Type"] == "application/json"
    assert headers["Request-Id"].startswith("req_")
    listed = json.loads(answer(Page("charges", [CHARGE], has_more=True), profile).body)
    assert listed == {"object": "list", "url": "/v1/charges", "has_more": True, "data": [CHARGE]}
    assert of(profile).idempotency_field == "Idempotency-Key"


def test_what_the_clients_of_falu_read() -> None:
    """Objects that say ``live`` and when in words, and lists that are bare arrays."""
    told = {"id": "ch_1", "created": "2027-01-15T08:00:00+00:00", "live": True, "amount": 2000}
    assert json.loads(answer(CHARGE, FALU).body) == told
    assert json.loads(answer(Page("charges", [CHARGE], has_more=True), FALU).body) == [told]
    balance: Content = {"object": "balance", "livemode": False, "available": []}
    assert json.loads(answer(balance, FALU).body) == {"live": False, "available": []}
    assert of(FALU).idempotency_field == "X-Idempotency-Key"


@pytest.mark.parametrize(
    ("content_type", "body", "fields"),
    [
        ("application/x-www-form-urlencoded", b"amount=2000&currency=kes", {"amount": "2000", "currency": "kes"}),
        ("", b"body=&to=%2B254", {"body": "", "to": "+254"}),
        ("application/json", b'{"amount": 2000}', {"amount": 2000}),
        ("Application/JSON; charset=utf-8", b"{}", {}),
        ("", b"", {}),
        ("", b"card[number]=4242&card%5Bcvc%5D=123", {"card[number]": "4242", "card[cvc]": "123"}),
        (
            "application/json",
            b'{"card": {"number": "4242", "a": {}}, "b": []}',
            {"card[number]": "4242", "card[a]": {}, "b": []},
        ),
    ],
)
def test_a_body_is_a_form_or_json(content_type: str, body: bytes, fields: dict[str, object]) -> None:
    """As its media type says; curl sends forms, programs often JSON. What lies in a field is named alike in both."""
    assert read_fields(content_type, body) == fields


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_object(body: bytes) -> None:
    """It is a 400."""
    with pytest.raises(Fault) as caught:
        read_fields("application/json", body)
    assert (caught.value.status, caught.value.code) == (400, "body_invalid")


@given(content_type=st.sampled_from(["application/json", "text/plain", ""]), body=st.binary())
def test_any_body_is_read_or_refused(content_type: str, body: bytes) -> None:
    """Fields or a fault, nothing else."""
    try:
        assert isinstance(read_fields(content_type, body), dict)
    except Fault:
        assert content_type == "application/json"


def test_a_fault_in_the_shape_of_the_default_profile() -> None:
    """The shape of a refusal, with the parameter that is to blame, and a name for the request."""
    body, status, headers = fault_answer(Fault(400, "parameter_invalid", "No.", "amount"), DEFAULT)
    assert status == 400
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body) == {
        "error": {
            "type": "invalid_request_error",
            "code": "parameter_invalid",
            "message": "No.",
            "param": "amount",
            "request_id": headers["Request-Id"],
        }
    }


def test_a_fault_in_the_shape_of_rfc_9457() -> None:
    """Where the profile's refusals are problem documents, so are faults."""
    body, status, headers = fault_answer(unrouted("PUT", "/v1/charges"), FALU)
    assert status == 404
    assert headers["Content-Type"] == "application/problem+json"
    assert json.loads(body) == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "There is no PUT /v1/charges.",
        "code": "path_unknown",
        "message": "There is no PUT /v1/charges.",
        "request_id": headers["Request-Id"],
    }


def test_a_fault_has_the_type_that_clients_tell_it_by() -> None:
    """Stripe's raise another exception for a misused idempotency key than for a wrong field."""
    fault = Fault(400, "idempotency_key_reused", "No.", type="idempotency_error")
    assert json.loads(fault_answer(fault, FLUVEO).body)["error"]["type"] == "idempotency_error"
