"""The official clients of the two systems, unchanged but for the address that they speak to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from unittest.mock import patch

import requests
import stripe
from falu.client.api_client import ApiClient

stripe.enable_telemetry = False  # else it keeps an id in the home of whoever runs this


@contextmanager
def speaking_stripe(url: str, token: str, retries: int = 0) -> Iterator[stripe.StripeClient]:
    """Stripe's client, which repeats a failed request so many times."""
    http_client = stripe.RequestsClient()
    try:
        yield _stripe(url, token, retries, http_client)
    finally:
        http_client.close()  # type: ignore[no-untyped-call]


@asynccontextmanager
async def speaking_stripe_async(url: str, token: str, retries: int = 0) -> AsyncIterator[stripe.StripeClient]:
    """The same for asyncio: its methods end in ``_async``."""
    http_client = stripe.HTTPXClient()
    try:
        yield _stripe(url, token, retries, http_client)
    finally:
        await http_client.close_async()  # type: ignore[no-untyped-call]


def _stripe(url: str, token: str, retries: int, http_client: stripe.HTTPClient) -> stripe.StripeClient:
    return stripe.StripeClient(token, base_addresses={"api": url}, max_network_retries=retries, http_client=http_client)


@contextmanager
def speaking_falu(url: str) -> Iterator[list[requests.Response]]:
    """Falu's client; gives the responses that it gets, in order, because it returns nothing of some."""
    responses: list[requests.Response] = []
    understand = ApiClient.response_handler

    def noting(self: ApiClient, response: requests.Response) -> object:
        responses.append(response)
        return understand(self, response)

    with (
        patch.object(ApiClient, "_build_url", lambda self, base_url, path: f"{url}/v1{path}"),
        patch.object(ApiClient, "response_handler", noting),
    ):
        yield responses
