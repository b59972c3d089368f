"""The client's address on real servers: their own reading of proxies' fields, which anybody can send; and ours."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from doorkey.testing import basic
from tests.servers import judging
from tests.servers.client import send
from tests.servers.judging import Site, told
from tests.servers.running import SERVERS, Address, Server, running

CLIENT, STRANGER = "127.0.0.2", "127.0.0.3"
"""The key called ``local`` is bound to the first."""

LET_IN, REFUSED = "200 local", "403 network_not_allowed"
FIELDS = (f"X-Forwarded-For: {CLIENT}", f"Forwarded: for={CLIENT}", f"X-Real-IP: {CLIENT}")


def outcome(address: Address, *lines: str, source: str = "") -> str:
    """What the network-bound key gets."""
    token = judging.keys(address)["default"].tokens["local"]
    lines = ("Host: api.example", f"Authorization: {basic(token)}", *lines)
    answer = send(address, "/messages", *lines, source=source)
    assert answer is not None
    return told(answer)


# Their reading

UVICORN = "uvicorn {asgi} --log-level warning {uvicorn}"
GUNICORN = "gunicorn {wsgi} --log-level warning {bind}"
WAITRESS = "waitress {waitress} {wsgi}"
TRUSTED = "--trusted-proxy-headers x-forwarded-for --trusted-proxy"

SPOOFS: Mapping[str, tuple[str, Mapping[str, str], str]] = {
    "uvicorn with h11": (f"{UVICORN} --http h11", {}, "127.0.0.1"),
    "uvicorn with httptools": (f"{UVICORN} --http httptools", {}, "127.0.0.1"),
    "uvicorn, told by its environment": (UVICORN, {"FORWARDED_ALLOW_IPS": "*"}, STRANGER),
    "uvicorn, told by its option": (f"{UVICORN} --forwarded-allow-ips 127.0.0.0/8", {}, STRANGER),
    "hypercorn's ProxyFixMiddleware": ("hypercorn tests.servers.wrapped:by_hypercorn {bind}", {}, STRANGER),
    "gunicorn with uvicorn's worker": (
        f"{GUNICORN} -k uvicorn.workers.UvicornWorker".replace("wsgi", "asgi"),
        {},
        "127.0.0.1",
    ),
    "granian's wrapper": (
        "granian tests.servers.wrapped:by_granian --interface asgi --log-level warning {granian}",
        {},
        "127.0.0.1",
    ),
    "waitress with a trusted proxy": (
        f"{WAITRESS} {TRUSTED} 127.0.0.1",
        {},
        "127.0.0.1",
    ),
}
"""What lets a client that connects from an address choose another one before doorkey sees it."""

CURES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "uvicorn with h11": (f"{UVICORN} --http h11 --no-proxy-headers", {}),
    "uvicorn with httptools": (f"{UVICORN} --http httptools --no-proxy-headers", {}),
    "uvicorn, whatever its environment says": (f"{UVICORN} --no-proxy-headers", {"FORWARDED_ALLOW_IPS": "*"}),
    "uvicorn, told another proxy": (UVICORN, {"FORWARDED_ALLOW_IPS": "10.0.0.1"}),
    "hypercorn": ("hypercorn {asgi} {bind}", {}),
    "granian": ("granian {asgi} --interface asgi --log-level warning {granian}", {}),
    "gunicorn, asgi": (f"{GUNICORN} -k asgi".replace("wsgi", "asgi"), {}),
    "gunicorn, whatever its environment says": (GUNICORN, {"FORWARDED_ALLOW_IPS": "*"}),
    "waitress": (WAITRESS, {}),
}
"""What leaves the address alone."""


@pytest.mark.parametrize("spoof", SPOOFS.values(), ids=SPOOFS)
def test_a_spoof(spoof: tuple[str, Mapping[str, str], str]) -> None:
    """The trap: servers and wrappers that believe X-Forwarded-For let in who only names a good address (D2)."""
    command, environment, source = spoof
    with running(_last(command), environment=environment) as address:
        assert outcome(address, source=source) == REFUSED
        assert outcome(address, FIELDS[0], source=source) == LET_IN


@pytest.mark.parametrize("cure", CURES.values(), ids=CURES)
def test_a_cure(cure: tuple[str, Mapping[str, str]]) -> None:
    """Nothing that a client on this machine or elsewhere sends changes its address (D1, D2)."""
    command, environment = cure
    with running(_last(command), environment=environment) as address:
        for source in ("127.0.0.1", STRANGER):
            assert {outcome(address, *lines, source=source) for lines in [*zip(FIELDS), FIELDS]} == {REFUSED}
        assert outcome(address, source=CLIENT) == LET_IN


def _last(command: str) -> str:
    """waitress wants the application last."""
    before, application, options = command.partition(" {wsgi}")
    return before + options + application if command.startswith("waitress") else command


def test_waitress_drops_the_field_that_we_would_read() -> None:
    """
    By default waitress drops X-Forwarded-For of a proxy that it was not told of. Then the client is unknown to us, and
    a network-bound key is refused, until either of us is told, and only one.
    """
    with running(_last(WAITRESS)) as address:
        assert outcome(address, FIELDS[0], "X-Proxies: one") == REFUSED
    with running(_last(f"{WAITRESS} --no-clear-untrusted-proxy-headers")) as address:
        assert outcome(address, FIELDS[0], "X-Proxies: one") == LET_IN


@pytest.mark.parametrize(
    "server", [server for server in SERVERS if "{port}" not in server.command], ids=lambda server: server.name
)
def test_a_unix_socket(server: Server) -> None:
    """
    On a Unix socket the peer has no address, and the field of whoever opens it counts only with ``unix_socket=True``.
    waitress makes up the name "localhost" for it, so there only its own reading of the field helps.
    """
    folder = Path(tempfile.mkdtemp(prefix="doorkey-"))  # a short path, because it holds a Unix socket
    try:
        with running(server.command, folder / "s") as address:
            assert outcome(address) == outcome(address, FIELDS[0]) == REFUSED
            assert outcome(address, FIELDS[0], "X-Proxies: unix") == (REFUSED if server.name == "waitress" else LET_IN)
        if server.name == "waitress":
            with running(_last(f"{WAITRESS} {TRUSTED} localhost"), folder / "s") as address:
                assert (outcome(address), outcome(address, FIELDS[0])) == (REFUSED, LET_IN)
    finally:
        shutil.rmtree(folder)


def test_gunicorn_takes_names_of_variables_from_local_proxies() -> None:
    """
    gunicorn lets whoever connects from 127.0.0.1 set SCRIPT_NAME and hand over other fields with underscores. The path
    that remains is judged, and it is the one that the application gets; of an address there is none to be had.
    """
    with running(GUNICORN) as address:
        judging.log(address)
        for path in ("/x/healthz", "/x/messages", "/x"):
            for lines in (("SCRIPT_NAME: /x",), ("SCRIPT_NAME: /x", "PATH_INFO: /healthz"), ("PATH_INFO: /healthz",)):
                send(address, path, "Host: api.example", *lines)
        assert {path for _, path, _ in judging.log(address).entered} <= {"/healthz"}
        for line in ("REMOTE_ADDR", "HTTP_X_FORWARDED_FOR", "X_FORWARDED_FOR"):
            assert outcome(address, f"{line}: {CLIENT}", "X-Proxies: one") == REFUSED


# Ours


def test_a_trusted_proxy(site: Site) -> None:
    """The one field that was named counts, from the peer that was named; and the last hop in it (D3, D4)."""

    def seen(*lines: str, source: str = "127.0.0.1") -> str:
        return outcome(site.address, "X-Proxies: one", *lines, source=source)

    assert seen(f"X-Forwarded-For: {CLIENT}") == LET_IN
    assert seen(f"X-Forwarded-For: {STRANGER}, {CLIENT}") == LET_IN
    assert seen(f"X-Forwarded-For: {STRANGER}", f"X-Forwarded-For: {CLIENT}") == LET_IN
    assert seen(f"X-Forwarded-For: {CLIENT}, {STRANGER}") == REFUSED
    assert seen(f"X-Forwarded-For: {CLIENT}", f"X-Forwarded-For: {STRANGER}") == REFUSED
    assert seen(f"X-Forwarded-For: {CLIENT}", source=STRANGER) == REFUSED
    assert {seen(*lines) for lines in [(), *zip(FIELDS[1:]), FIELDS[1:]]} == {REFUSED}
    assert seen(source=CLIENT) == LET_IN


def test_the_other_spelling(site: Site) -> None:
    """
    A client's X_Forwarded_For beside the proxy's X-Forwarded-For changes nothing over ASGI, nor where a WSGI server
    drops it. Other WSGI servers write both into one variable: only the proxy can drop it there (D5), as nginx does.
    """
    lines = [f"X-Forwarded-For: {STRANGER}", f"X_Forwarded_For: {CLIENT}"]
    outcomes = {outcome(site.address, "X-Proxies: one", *order) for order in (lines, lines[::-1])}
    assert (LET_IN in outcomes) is site.server.joins


def test_only_wsgi_servers_join_the_spellings() -> None:
    """Over ASGI a field's name is what was sent."""
    assert {server.interface for server in SERVERS if server.joins} == {"wsgi"}
