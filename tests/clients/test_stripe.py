"""Stripe's own client, with its address changed: results, each refusal as its proper exception, and what it repeats."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import stripe

from doorkey import FLUVEO, KeyType, Mode
from doorkey.core.tokens import mint
from doorkey.demo import serve, stage, wsgi
from tests.clients.official import speaking_stripe, speaking_stripe_async
from tests.clients.service import Service

# httpx tells Stripe's client of a future change whenever that sends a form.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning:httpx")

CHARGE: Any = {"amount": 2000, "currency": "kes", "description": "Tea & biscuits, 50 %"}
CARD: Any = {"card": {"number": "4242" * 4, "exp_month": 12, "exp_year": 2034, "cvc": "123"}}


def charge_of(**changes: object) -> Any:
    """The fields of a charge that is not quite the usual one."""
    return {**CHARGE, **changes}


Call = Callable[[str, str, int], Any]
"""Lists charges or makes one, given an address, a token and how often to repeat."""


def listed(url: str, token: str, retries: int = 0) -> Any:
    with speaking_stripe(url, token, retries) as client:
        return client.v1.charges.list()


def listed_async(url: str, token: str, retries: int = 0) -> Any:
    async def call() -> Any:
        async with speaking_stripe_async(url, token, retries) as client:
            return await client.v1.charges.list_async()

    return asyncio.run(call())


def charged(url: str, token: str, retries: int = 0) -> Any:
    with speaking_stripe(url, token, retries) as client:
        return client.v1.charges.create(CHARGE)


def charged_async(url: str, token: str, retries: int = 0) -> Any:
    async def call() -> Any:
        async with speaking_stripe_async(url, token, retries) as client:
            return await client.v1.charges.create_async(CHARGE)

    return asyncio.run(call())


LISTING = pytest.mark.parametrize("call", [listed, listed_async], ids=["sync", "async"])
CHARGING = pytest.mark.parametrize("call", [charged, charged_async], ids=["sync", "async"])


@pytest.mark.parametrize("mode", Mode)
def test_objects_are_made_read_and_listed(fluveo: Service, mode: Mode) -> None:
    """As the client's own types, with the mode of the key; and each answer has a name."""
    with speaking_stripe(fluveo.url, fluveo.token(mode=mode)) as client:
        token = client.v1.tokens.create(CARD)
        assert isinstance(token, stripe.Token)
        assert token.card is not None
        assert token.card.last4 == "4242"
        charge = client.v1.charges.create(charge_of(source=token.id))
        assert isinstance(charge, stripe.Charge)
        assert (charge.amount, charge.description) == (2000, CHARGE["description"])
        assert charge.livemode is token.livemode is (mode is Mode.LIVE)
        assert charge.last_response is not None
        assert (charge.last_response.request_id or "").startswith("req_")
        assert client.v1.charges.retrieve(charge.id) == charge
        assert client.v1.charges.list({"limit": 1}).data == [charge]
        balance = client.v1.balance.retrieve()
        assert (balance.livemode, balance.available[0].amount) == (mode is Mode.LIVE, 2000)


def test_objects_are_made_read_and_listed_from_asyncio(fluveo: Service) -> None:
    """By the methods that end in ``_async``."""

    async def call() -> None:
        async with speaking_stripe_async(fluveo.url, fluveo.token()) as client:
            charge = await client.v1.charges.create_async(CHARGE)
            assert await client.v1.charges.retrieve_async(charge.id) == charge
            page = await client.v1.charges.list_async({"limit": 1})
            found = [found.id async for found in page.auto_paging_iter()]
            assert found[0] == charge.id
            assert len(set(found)) == len(found)

    asyncio.run(call())


def test_a_list_is_paged_through(fluveo: Service) -> None:
    """Page after page until there is no more, each object once, the newest first."""
    with speaking_stripe(fluveo.url, fluveo.token()) as client:
        made = [client.v1.charges.create(CHARGE).id for _ in range(5)]
        fluveo.requests.clear()
        found = [charge.id for charge in client.v1.charges.list({"limit": 2}).auto_paging_iter()]
    assert found[:5] == made[::-1]
    assert len(set(found)) == len(found)
    assert len(fluveo.requests) == (len(found) + 1) // 2


def test_a_list_is_paged_through_backwards(fluveo: Service) -> None:
    """From one that the client has to the newest, each object once."""
    with speaking_stripe(fluveo.url, fluveo.token()) as client:
        made = [client.v1.charges.create(CHARGE).id for _ in range(6)]
        pages = client.v1.charges.list({"limit": 2, "ending_before": made[0]})
        assert [charge.id for charge in pages.auto_paging_iter()] == made[1:]


def test_the_charge_of_the_clients_documentation(fluveo: Service) -> None:
    """With the card of everybody's tests, and the fields that a shop keeps for itself."""
    with speaking_stripe(fluveo.url, fluveo.token()) as client:
        charge = client.v1.charges.create(charge_of(source="tok_visa", metadata={"order_id": "6735"}))
        assert client.v1.charges.retrieve(charge.id).metadata.to_dict() == {"order_id": "6735"}


def test_what_the_client_sends(fluveo: Service) -> None:
    """A form, a version and an idempotency key of its own for each POST: what the service has to cope with."""
    fluveo.requests.clear()
    with speaking_stripe(fluveo.url, fluveo.token()) as client:
        client.v1.tokens.create(CARD)
        client.v1.tokens.create(CARD)
    first, second = (request.headers for request in fluveo.requests)
    assert first["content-type"] == "application/x-www-form-urlencoded"
    assert "stripe-version" in first
    assert first["idempotency-key"] != second["idempotency-key"]


@pytest.mark.parametrize("mode", Mode)
def test_a_key_of_one_mode_sees_nothing_of_the_other(fluveo: Service, mode: Mode) -> None:
    """Neither one by one nor in lists, nor can it be paid with: a token of the other mode is unknown."""
    other = Mode.TEST if mode is Mode.LIVE else Mode.LIVE
    with speaking_stripe(fluveo.url, fluveo.token(mode=mode)) as client:
        charge, token = client.v1.charges.create(CHARGE), client.v1.tokens.create(CARD)
    with speaking_stripe(fluveo.url, fluveo.token(mode=other)) as client:
        with pytest.raises(stripe.InvalidRequestError) as caught:
            client.v1.charges.retrieve(charge.id)
        assert (caught.value.http_status, caught.value.code) == (404, "resource_missing")
        with pytest.raises(stripe.InvalidRequestError) as caught:
            client.v1.charges.create(charge_of(source=token.id))
        assert (caught.value.http_status, caught.value.param) == (400, "source")
        assert charge.id not in [found.id for found in client.v1.charges.list({"limit": 100}).auto_paging_iter()]


REFUSED: Any = [
    (
        lambda service: mint(KeyType.SECRET, Mode.TEST).expose(),
        stripe.AuthenticationError,
        (401, "api_key_invalid", "There is no such API key."),
    ),
    (
        lambda service: service.token()[:-1],
        stripe.AuthenticationError,
        (401, "api_key_malformed", "The API key is malformed."),
    ),
    # This system does not tell that a key has once been one.
    (Service.rolled, stripe.AuthenticationError, (401, "api_key_invalid", "There is no such API key.")),
    (
        lambda service: service.issue(permissions=["messages"]),
        stripe.PermissionError,
        (403, "insufficient_permissions", "The API key is restricted. This needs the permission charges:"),
    ),
    (
        lambda service: service.issue(networks=["203.0.113.0/24"]),
        stripe.PermissionError,
        (403, "network_not_allowed", "The API key may not be used from this network; the server"),
    ),
    (
        lambda service: service.token(KeyType.PUBLISHABLE),
        stripe.PermissionError,
        (403, "secret_key_required", "This needs a secret key; a publishable key was sent."),
    ),
]


def checked(error: stripe.StripeError, told: tuple[int, str, str]) -> None:
    """Hold what an exception tells to what it should."""
    status, code, message = told
    assert error.http_status == status
    assert (error.user_message or "").startswith(message)
    # This client sets `code` for wrong fields alone; it is in the error's body at all times.
    assert error.error is not None
    assert (error.code, error.error.code) == (None, code)
    assert error.error.type == ("api_error" if status == 503 else "invalid_request_error")
    assert error.request_id is not None
    assert error.request_id.startswith("req_")
    assert str(error).startswith(f"Request {error.request_id}: ")


@LISTING
@pytest.mark.parametrize(
    ("token", "exception", "told"), REFUSED, ids=["unknown", "cut", "expired", "restricted", "network", "publishable"]
)
def test_a_refusal_is_its_proper_exception(
    fluveo: Service,
    call: Call,
    token: Callable[[Service], str],
    exception: type[stripe.StripeError],
    told: tuple[int, str, str],
) -> None:
    """With status, code, message and the request's name; and it is not repeated, though it might be."""
    sent = token(fluveo)
    fluveo.requests.clear()
    with pytest.raises(stripe.StripeError) as caught:
        call(fluveo.url, sent, 2)
    assert type(caught.value) is exception
    checked(caught.value, told)
    assert sent not in str(caught.value) + (caught.value.http_body or "")
    assert len(fluveo.requests) == 1


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("call", [listed, listed_async, charged, charged_async])
def test_while_the_store_is_down(fluveo: Service, call: Call, retries: int) -> None:
    """It is an APIError, which the client repeats as often as it was told to; nothing is done meanwhile."""
    before = len(listed(fluveo.url, fluveo.token()).data)
    fluveo.requests.clear()
    with fluveo.store_down(), pytest.raises(stripe.StripeError) as caught:
        call(fluveo.url, fluveo.token(), retries)
    assert type(caught.value) is stripe.APIError
    checked(caught.value, (503, "auth_unavailable", "The API key could not be checked."))
    assert 1 <= int((caught.value.headers or {})["retry-after"]) <= 5
    assert len(fluveo.requests) == 1 + retries
    assert len(listed(fluveo.url, fluveo.token()).data) == before


def test_a_wrong_field_is_named(fluveo: Service) -> None:
    """As an InvalidRequestError: here the client sets the code, too."""
    with speaking_stripe(fluveo.url, fluveo.token()) as client:
        with pytest.raises(stripe.InvalidRequestError) as caught:
            client.v1.charges.create(charge_of(amount=-1))
        assert (caught.value.http_status, caught.value.code) == (400, "parameter_invalid")
        assert caught.value.param == "amount"


@contextmanager
def losing_an_answer() -> Iterator[tuple[str, str, list[int]]]:
    """
    A gateway that loses the first answer to a POST, after the service has done its work: its address, a token, and the
    statuses that the client gets.
    """
    statuses: list[int] = []
    with stage.built(profile=FLUVEO) as scene:
        application = wsgi.application(scene.door, scene.databases)

        def gateway(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            if environ["REQUEST_METHOD"] == "POST" and not statuses:
                assert list(application(environ, lambda status, headers: None))
                statuses.append(504)
                start_response("504 Gateway Timeout", [("Content-Type", "text/plain")])
                return [b"nobody answered"]
            statuses.append(200)
            return application(environ, start_response)

        with serve.serving_wsgi(gateway) as port:
            statuses.clear()
            yield f"http://127.0.0.1:{port}", scene.tokens[KeyType.SECRET, Mode.TEST].expose(), statuses


@CHARGING
def test_a_lost_answer_does_not_pay_twice(call: Call) -> None:
    """The client asks again under the same idempotency key, and gets the charge that was made already."""
    with losing_an_answer() as (url, token, statuses):
        charge = call(url, token, 1)
        assert statuses == [504, 200]
        assert [found.id for found in listed(url, token).data] == [charge.id]


def test_an_idempotency_key_that_is_used_again(fluveo: Service) -> None:
    """For the same request it gives the same object; for another it is an IdempotencyError."""
    options: Any = {"idempotency_key": "order 1"}
    with speaking_stripe(fluveo.url, fluveo.token()) as client:
        first, again = (client.v1.charges.create(CHARGE, options) for _ in range(2))
        assert first.id == again.id
        with pytest.raises(stripe.IdempotencyError, match="used for another request"):
            client.v1.charges.create(charge_of(amount=1), options)


@CHARGING
def test_the_store_comes_back(fluveo: Service, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed with a 503 succeeds when the client repeats it, without anybody's help."""
    down: AbstractContextManager[None] = fluveo.store_down()
    waiting = stripe.HTTPClient._sleep_time_seconds

    def mended(self: stripe.HTTPClient, retries: int) -> float:
        nonlocal down
        down.__exit__(None, None, None)
        down = nullcontext()
        return waiting(self, retries)

    monkeypatch.setattr(stripe.HTTPClient, "_sleep_time_seconds", mended)
    fluveo.requests.clear()
    down.__enter__()
    assert call(fluveo.url, fluveo.token(), 1).amount == 2000
    assert [request.method for request in fluveo.requests] == ["POST", "POST"]
    assert len({request.headers["idempotency-key"] for request in fluveo.requests}) == 1
