"""
Pages that call the service from a script, in a real browser: what works, what a script gets to read of a refusal, and
that nobody is ever asked for a password.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from doorkey import KeyType, Mode
from doorkey.core.tokens import mint
from doorkey.demo import serve
from doorkey.testing import issue
from tests.clients.browser import Browser
from tests.clients.pages import PASSWORD_WINDOW, cors, shop, with_fetch
from tests.clients.plain import Ask, Seen
from tests.clients.service import Service, serving

CARD = {"card[number]": "4242" * 4}

SOON = 5
"""Seconds in which this machine answers any request by far."""


class Shopping(NamedTuple):
    """A service whose CORS middleware allows the pages of one origin, and a browser that shows one of them."""

    service: Service
    origin: str
    came: list[tuple[str, str]]
    browser: Browser

    def fetch(self, method: str, path: str, token: str | None, form: dict[str, str] | None = None) -> Seen:
        return with_fetch(self.browser)(Ask(method, self.service.url + path, token, form))


@pytest.fixture(scope="module")
def opened() -> Iterator[tuple[Service, str, list[tuple[str, str]]]]:
    came: list[tuple[str, str]] = []
    with shop() as origin, serving(around=cors(origin, came)) as service:
        yield service, origin, came


@pytest.fixture
def shopping(opened: tuple[Service, str, list[tuple[str, str]]], chromium: Browser) -> Shopping:
    service, origin, came = opened
    chromium.visit(origin)
    service.requests.clear()
    came.clear()
    return Shopping(service, origin, came, chromium)


def test_a_publishable_key_does_what_is_declared_for_it(shopping: Shopping) -> None:
    """Across origins: the preflight is answered outside, and only the request itself reaches doorkey."""
    made = shopping.fetch("POST", "/v1/tokens", shopping.service.token(KeyType.PUBLISHABLE), CARD)
    assert made.status == 200
    assert json.loads(made.body)["card"] == {"last4": "4242"}
    assert shopping.came == [("OPTIONS", "/v1/tokens"), ("POST", "/v1/tokens")]
    (request,) = shopping.service.requests
    assert (request.method, request.headers["origin"]) == ("POST", shopping.origin)
    assert request.headers["sec-fetch-mode"] == "cors"


def test_a_key_may_be_sent_as_a_bearer_token(shopping: Shopping) -> None:
    """Which is shorter to write in a script."""
    script = """
    const response = await fetch(arguments[0], {headers: {Authorization: "Bearer " + arguments[1]}});
    return [response.status, (await response.json()).error.code];
    """
    url, token = f"{shopping.service.url}/v1/tokens", shopping.service.token(KeyType.PUBLISHABLE)
    assert shopping.browser.run(script, url, token) == [403, "secret_key_required"]


@pytest.mark.parametrize("path", ["/v1/charges", "/v1/tokens", "/v1/balance", "/v1/nothing"])
def test_it_does_nothing_else(shopping: Shopping, path: str) -> None:
    """And the script can read why, because the refusal has the header fields of CORS on it."""
    refused = shopping.fetch("GET", path, shopping.service.token(KeyType.PUBLISHABLE))
    assert (refused.status, refused.code, refused.challenges) == (403, "secret_key_required", ())


def test_a_refusal_names_its_request_to_the_script(shopping: Shopping) -> None:
    """In the body, and in a header field that the middleware exposes."""
    script = """
    const response = await fetch(arguments[0]);
    return [response.headers.get("Request-Id"), (await response.json()).error.request_id];
    """
    in_header, in_body = shopping.browser.run(script, f"{shopping.service.url}/v1/charges")
    assert in_header == in_body
    assert in_body.startswith("req_")


def test_an_open_operation_needs_no_key(shopping: Shopping) -> None:
    """Nor a preflight, because nothing of the request is unusual."""
    assert shopping.fetch("GET", "/healthz", None).status == 200
    assert shopping.came == [("GET", "/healthz")]


def test_a_503_is_read_by_the_script(shopping: Shopping) -> None:
    """With the time to come back."""
    with shopping.service.store_down():
        refused = shopping.fetch("POST", "/v1/tokens", shopping.service.token(KeyType.PUBLISHABLE), CARD)
    assert (refused.status, refused.code, refused.retry_after) == (503, "auth_unavailable", True)


@pytest.mark.parametrize("same_origin", [False, True])
@pytest.mark.parametrize("kind", ["missing", "malformed", "invalid"])
def test_no_password_window_opens(shopping: Shopping, same_origin: bool, kind: str) -> None:
    """
    A 401 to a script challenges with Bearer alone, so that its promise is fulfilled at once, with a status that it can
    read, and the page goes on: also on the service's own origin, where a browser would ask for a password.
    """
    if same_origin:
        shopping.browser.visit(shopping.service.url)
    stranger = mint(KeyType.PUBLISHABLE, Mode.TEST).expose()
    token = {"missing": None, "malformed": stranger[:-1], "invalid": stranger}[kind]
    refused = shopping.fetch("GET", "/v1/charges", token)
    assert (refused.status, refused.code, refused.challenges) == (401, f"api_key_{kind}", ("Bearer",))
    assert shopping.browser.run("return document.title", seconds=SOON) == "A shop"
    assert shopping.browser.dialog() is None


def test_a_password_window_would_open(shopping: Shopping) -> None:
    """
    The same browser, asked by Basic on the page's own origin: the promise waits for whoever should type a password,
    though nobody can. So the test above would notice.
    """
    shopping.browser.visit(shopping.service.url)
    with pytest.raises(TimeoutError):
        shopping.browser.run("return (await fetch(arguments[0])).status", PASSWORD_WINDOW, seconds=SOON)


def blocks(language: str) -> str:
    """The code of one language in the page of the documentation."""
    text = (Path(__file__).parents[2] / "docs" / "from-a-browser.md").read_text("utf-8")
    return "".join(re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))


def test_what_the_documentation_shows(chromium: Browser) -> None:
    """Its page, in a browser, is served by its service: nothing is changed but addresses and the key."""
    names: dict[str, Any] = {}
    with shop() as origin:
        exec(blocks("python").replace("https://shop.example", origin), names)
        token = issue(names["door"], type=KeyType.PUBLISHABLE)
        other = mint(KeyType.PUBLISHABLE, Mode.TEST)
        with serve.serving_asgi(names["app"]) as port:
            chromium.visit(origin)
            script = blocks("js").replace("https://api.example", f"http://127.0.0.1:{port}")
            calling = script + 'return tokenize({"card[number]": "4242424242424242"});'
            made = chromium.run(calling.replace("pk_test_…", token.expose()))
            assert made == {"object": "token", "livemode": False}
            with pytest.raises(RuntimeError, match="Error: 401 api_key_invalid, req_"):
                chromium.run(calling.replace("pk_test_…", other.expose()))


def test_another_origin_gets_nothing(shopping: Shopping) -> None:
    """The middleware refuses its preflight, so that not even the request is sent."""
    with shop() as elsewhere:
        shopping.browser.visit(elsewhere)
        with pytest.raises(RuntimeError, match="Failed to fetch"):
            shopping.fetch("POST", "/v1/tokens", shopping.service.token(KeyType.PUBLISHABLE), CARD)
    assert shopping.came == [("OPTIONS", "/v1/tokens")]
    assert shopping.service.requests == []


def test_without_a_cors_middleware_outside(chromium: Browser) -> None:
    """Doorkey sees the preflight, which carries no key, and refuses it like any such request: pages stay out."""
    with shop() as origin, serving() as service:
        chromium.visit(origin)
        ask = Ask("POST", f"{service.url}/v1/tokens", service.token(KeyType.PUBLISHABLE), CARD)
        with pytest.raises(RuntimeError, match="Failed to fetch"):
            with_fetch(chromium)(ask)
        assert [request.method for request in service.requests] == ["OPTIONS"]
