"""Clients that know HTTP and nothing of keys: each sends one by Basic, with an empty password, as its users would."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Callable, Mapping
from email.parser import Parser
from typing import NamedTuple

import aiohttp
import httpx
import requests

PATIENCE = 60
"""Seconds that an answer may take."""


class Ask(NamedTuple):
    """A request to be sent."""

    method: str
    url: str
    token: str | None = None
    form: Mapping[str, str] | None = None


class Seen(NamedTuple):
    """What a client got to see of an answer: the schemes that it was challenged with, and the body."""

    status: int
    challenges: tuple[str, ...]
    retry_after: bool
    body: str

    @property
    def code(self) -> str:
        """The code of an error in either shape."""
        content = json.loads(self.body or "{}")
        return str(content.get("error", content).get("code", "")) if isinstance(content, dict) else ""

    def __str__(self) -> str:
        code = f" `{self.code}`" if self.code else ""
        return ", ".join([f"{self.status}{code}", *self.challenges])


def seen(status: int, challenges: str | None, retry_after: str | None, body: str) -> Seen:
    """What was seen; *challenges* are the field lines joined by commas."""
    schemes = re.findall(r"(?:^|, )(\w+) realm=", challenges or "")
    return Seen(status, tuple(schemes), retry_after is not None, body)


def with_curl(ask: Ask) -> Seen:
    """``curl -u "$KEY:"``, with a password that is empty on purpose: without the colon curl would ask for one."""
    user = ["-u", f"{ask.token}:"] if ask.token else []
    form = [part for field in (ask.form or {}).items() for part in ("-d", "=".join(field))]
    method = ["--head"] if ask.method == "HEAD" else ["-X", ask.method]
    command = ["curl", "-q", "-s", "-D", "/dev/stderr", "-o", "-", *method, *user, *form, ask.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    status, _, head = done.stderr.partition("\n")
    fields = Parser().parsestr(head, headersonly=True)
    challenges = ", ".join(fields.get_all("WWW-Authenticate", []))
    body = "" if ask.method == "HEAD" else done.stdout  # where --head writes the head
    return seen(int(status.split()[1]), challenges, fields["Retry-After"], body)


def with_requests(ask: Ask) -> Seen:
    """``requests.get(url, auth=(key, ""))``."""
    auth = (ask.token, "") if ask.token else None
    with requests.Session() as session:
        session.trust_env = False
        response = session.request(ask.method, ask.url, auth=auth, data=ask.form, timeout=PATIENCE)
        fields = response.headers
        return seen(response.status_code, fields.get("WWW-Authenticate"), fields.get("Retry-After"), response.text)


def with_httpx(ask: Ask) -> Seen:
    """``httpx.get(url, auth=(key, ""))``."""
    auth = (ask.token, "") if ask.token else None
    with httpx.Client(trust_env=False, timeout=PATIENCE) as client:
        response = client.request(ask.method, ask.url, auth=auth, data=ask.form)
        fields = response.headers
        return seen(response.status_code, fields.get("WWW-Authenticate"), fields.get("Retry-After"), response.text)


def with_aiohttp(ask: Ask) -> Seen:
    """``session.get(url, headers={"Authorization": aiohttp.encode_basic_auth(key)})``; ``BasicAuth`` before 3.14."""

    async def exchange() -> Seen:
        headers = {"Authorization": aiohttp.encode_basic_auth(ask.token)} if ask.token else {}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.request(ask.method, ask.url, data=ask.form) as response,
        ):
            challenges = ", ".join(response.headers.getall("WWW-Authenticate", []))
            return seen(response.status, challenges, response.headers.get("Retry-After"), await response.text())

    return asyncio.run(exchange())


FETCH = """
const headers = token ? {Authorization: "Basic " + btoa(token + ":")} : {};
const options = {method, headers, ...(form ? {body: new URLSearchParams(form)} : {})};
const response = await fetch(url, options);
return [
  response.status, response.headers.get("WWW-Authenticate"), response.headers.get("Retry-After"), await response.text()
];
"""
"""What a script writes, in Node as in a page."""


def with_node(ask: Ask) -> Seen:
    """``fetch(url, {headers: {Authorization: "Basic " + btoa(key + ":")}})``."""
    script = f"(async ({{method, url, token, form}}) => {{{FETCH}}})({json.dumps(ask._asdict())})"
    printing = f"{script}.then(answer => console.log(JSON.stringify(answer)))"
    done = subprocess.run(["node", "-"], input=printing, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return seen(*json.loads(done.stdout))


CLIENTS: Mapping[str, Callable[[Ask], Seen]] = {
    "curl": with_curl,
    "requests": with_requests,
    "httpx": with_httpx,
    "aiohttp": with_aiohttp,
    "Node's fetch": with_node,
}

PROGRAMS = {"curl": "curl", "Node's fetch": "node"}
"""What has to be installed for a client that comes with no package."""
