"""
Clients by outcomes: what each client makes of each answer. ``python -m tests.clients`` tries them all and prints it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import falu
import stripe

from doorkey import DEFAULT, FALU, FLUVEO, KeyType, Mode, Profile
from doorkey.core.tokens import mint
from tests.clients import pages, plain
from tests.clients.browser import Browser
from tests.clients.official import speaking_falu, speaking_stripe, speaking_stripe_async
from tests.clients.plain import Ask
from tests.clients.service import Service, serving

NOT_ASKED = "-"
"""In a cell of the matrix: a client that has no way to ask for this."""


IN_A_PAGE = "a page's fetch"


class Outcome(NamedTuple):
    """A request, and the state of things in which it is sent."""

    method: str
    collection: str
    token: Callable[[Service], str]
    down: bool = False


def _stranger(service: Service) -> str:
    return mint(KeyType.SECRET, Mode.TEST, service.stage.door.profile.format).expose()


def _restricted(service: Service) -> str:
    return service.issue(permissions=["messages"])


def _elsewhere(service: Service) -> str:
    return service.issue(networks=["203.0.113.0/24"])


def _publishable(service: Service) -> str:
    return service.token(KeyType.PUBLISHABLE)


OUTCOMES: Mapping[str, Outcome] = {
    "read": Outcome("GET", "charges", Service.token),
    "made": Outcome("POST", "charges", Service.token),
    "head alone": Outcome("HEAD", "charges", Service.token),
    "publishable key, declared": Outcome("POST", "tokens", _publishable),
    "publishable key, not declared": Outcome("GET", "charges", _publishable),
    "unknown key": Outcome("GET", "charges", _stranger),
    "expired key": Outcome("GET", "charges", Service.rolled),
    "restricted key": Outcome("GET", "charges", _restricted),
    "network refused": Outcome("GET", "charges", _elsewhere),
    "store down": Outcome("POST", "charges", Service.token, down=True),
}

FORMS: Any = {
    "charges": {"amount": "2000", "currency": "kes"},
    "tokens": {"card[number]": "4242" * 4},
}


def _with_stripe(ask: Ask) -> str:
    url, _, collection = ask.url.rpartition("/v1/")
    if ask.method == "HEAD":
        return NOT_ASKED
    with speaking_stripe(url, ask.token or "") as client:
        service: Any = getattr(client.v1, collection)
        try:
            return _typed(service.create(ask.form) if ask.method == "POST" else service.list())
        except stripe.StripeError as error:
            return _raised(error)


def _with_stripe_async(ask: Ask) -> str:
    url, _, collection = ask.url.rpartition("/v1/")

    async def call() -> str:
        async with speaking_stripe_async(url, ask.token or "") as client:
            service: Any = getattr(client.v1, collection)
            try:
                return _typed(await (service.create_async(ask.form) if ask.method == "POST" else service.list_async()))
            except stripe.StripeError as error:
                return _raised(error)

    return NOT_ASKED if ask.method == "HEAD" else asyncio.run(call())


def _with_falu(ask: Ask) -> str:
    url, _, collection = ask.url.rpartition("/v1/")
    if ask.method == "HEAD" or collection == "tokens":
        return NOT_ASKED
    with speaking_falu(url) as responses:
        if ask.method == "POST":
            form = {**(ask.form or {}), "amount": 2000}
            result, error = falu.Payment.create_payment(form, api_key=ask.token)
        else:
            result, error = falu.Payment.get_payments(api_key=ask.token)
    if error is not None:
        return f"`{type(error).__name__}` {error.status_code}"
    return f"{responses[0].status_code}, but `None`" if result is None else _typed(result)


def _typed(result: object) -> str:
    return f"`{type(result).__name__}`"


def _raised(error: stripe.StripeError) -> str:
    assert error.error is not None
    return f"`{type(error).__name__}` {error.http_status} `{error.error.code}`"


class Row(NamedTuple):
    """A client, the profile of the service that it asks, and how it asks: an :class:`Ask` to a cell."""

    profile: Profile
    send: Callable[[Ask], object]


def rows(fetch: Callable[[Ask], object]) -> dict[str, Row]:
    """All clients, by name; *fetch* asks from a page."""
    return {
        **{name: Row(DEFAULT, send) for name, send in plain.CLIENTS.items()},
        IN_A_PAGE: Row(DEFAULT, fetch),
        "stripe": Row(FLUVEO, _with_stripe),
        "stripe, asyncio": Row(FLUVEO, _with_stripe_async),
        "falu": Row(FALU, _with_falu),
    }


CLIENTS = tuple(rows(str))


@contextmanager
def tried(browser: Callable[[], Browser]) -> Iterator[Callable[[str, str], str]]:
    """Gives the cell of a client (by name) and an outcome (by name), once it has been tried."""
    with ExitStack() as stack:
        origin = stack.enter_context(pages.shop())
        services = {
            profile.name: stack.enter_context(serving(profile, around=pages.cors(origin)))
            for profile in (DEFAULT, FLUVEO, FALU)
        }

        def fetch(ask: Ask) -> object:
            shown = browser()
            shown.visit(origin)
            return pages.with_fetch(shown)(ask)

        def cell(client: str, outcome: str) -> str:
            row = rows(fetch)[client]
            return _cell(services[row.profile.name], row, OUTCOMES[outcome])

        yield cell


def _cell(service: Service, row: Row, outcome: Outcome) -> str:
    form = FORMS[outcome.collection] if outcome.method == "POST" else None
    ask = Ask(outcome.method, f"{service.url}/v1/{outcome.collection}", outcome.token(service), form)
    down: AbstractContextManager[None] = service.store_down() if outcome.down else nullcontext()
    with down:
        return str(row.send(ask))


def table(cell: Callable[[str, str], str]) -> str:
    """The matrix as Markdown."""
    lines = [["client", *OUTCOMES], ["---"] * (len(OUTCOMES) + 1)]
    lines += [[client, *map(partial(cell, client), OUTCOMES)] for client in CLIENTS]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
