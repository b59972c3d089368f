"""What the table cannot say, for it speaks of field lines and a target: odd octets, versions, connections, bodies."""

from __future__ import annotations

import http.client
import re

import pytest

from doorkey.testing import basic, bearer
from tests.adapters.wire import Answer
from tests.servers import judging
from tests.servers.client import exchange, send
from tests.servers.judging import Site, told
from tests.servers.running import connected

REFUSED = {"401 api_key_missing", "401 api_key_malformed"}

SAME = {
    "no blank after the colon": "Authorization:{basic}",
    "the name in lower case": "authorization: {basic}",
    "the name in capitals": "AUTHORIZATION: {bearer}",
}
"""What every server has to understand."""

PERHAPS = {
    "a line that is folded after the scheme": "Authorization: Basic\r\n {base64}",
    "a line that is folded before the scheme": "Authorization:\r\n {basic}",
    "a line that is folded with a tab": "Authorization: Bearer\r\n\t{token}",
    "another line that ends with a line feed": "X-A: b\nAuthorization: {basic}",
    "another line that ends with a carriage return": "X-A: b\rAuthorization: {basic}",
    "a vertical tab after the key": "Authorization: {basic}\x0b",
    "a form feed after the key": "Authorization: {bearer}\x0c",
    "a file separator after the key": "Authorization: {basic}\x1c",
    "a next line after the key": "Authorization: {bearer}\x85",
    "a no-break space after the key": "Authorization: {basic}\xa0",
    "a carriage return after the key": "Authorization: {basic}\r",
    "a no-break space before the scheme": "Authorization: \xa0{basic}",
}
"""What some servers make a good field of: obsolete folding (RFC 9112 §5.2), line ends, what they call white space."""

NEVER = {
    "a line that is folded onto another field": "X-A: b\r\n Authorization: {basic}",
    "a blank before the colon": "Authorization : {basic}",
    "a tab before the colon": "Authorization\t: {basic}",
    "NUL before the colon": "Authorization\0: {basic}",
    "no colon": "Authorization {basic}",
    "NUL after the key": "Authorization: {basic}\0",
    "a no-break space after the scheme": "Authorization: Basic\xa0{base64}",
    "the name of the WSGI variable": "HTTP_AUTHORIZATION: {basic}",
    "the name with an underscore": "Author_ization: {basic}",
}


def sent(site: Site, line: str) -> tuple[str, list[str | None]]:
    """What a line gets, told in two words, and who was let in. The key may read messages."""
    token = judging.keys(site.address)["default"].tokens["reader"]
    filled = line.format(token=token, basic=basic(token), bearer=bearer(token), base64=basic(token).split()[1])
    judging.log(site.address)
    answer = send(site.address, "/messages", "Host: api.example", filled)
    noted = judging.log(site.address)
    outcome = told(answer) if answer and noted.reached else judging.OWN
    return outcome, [name for _, _, name in noted.entered]


@pytest.mark.parametrize("line", SAME.values(), ids=SAME)
def test_lines_that_are_good(site: Site, line: str) -> None:
    """A field's name is known in any case, with or without a blank after its colon."""
    assert sent(site, line) == ("200 reader", ["reader"])


@pytest.mark.parametrize("line", PERHAPS.values(), ids=PERHAPS)
def test_lines_that_servers_read_in_their_ways(site: Site, line: str) -> None:
    """Such a line is refused, by the server or by us; or it is the good key that the server has made of it."""
    outcome, entered = sent(site, line)
    assert (outcome, entered) == ("200 reader", ["reader"]) or (outcome in {*REFUSED, judging.OWN} and not entered)


@pytest.mark.parametrize("line", NEVER.values(), ids=NEVER)
def test_lines_that_are_no_credential(site: Site, line: str) -> None:
    """Nobody is let in by what is no field called Authorization, or has another octet in it."""
    outcome, entered = sent(site, line)
    assert outcome in {*REFUSED, judging.OWN}
    assert entered == []


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "http/1.1", ""])
def test_versions(site: Site, version: str) -> None:
    """The version changes no verdict: HTTP/1.0 has the same, of all others there may be none."""
    token = judging.keys(site.address)["default"].tokens["reader"]
    judging.log(site.address)
    for line, outcome in ((f"Authorization: {basic(token)}", "200 reader"), ("X-A: b", "401 api_key_missing")):
        with connected(site.address) as connection:
            request = f"GET /messages {version}\r\nHost: api.example\r\n{line}\r\n\r\n"
            answer = exchange(connection, request.encode())
        assert version != "HTTP/1.0" or (answer and told(answer) == outcome)
    assert {name for _, _, name in judging.log(site.address).entered} <= {"reader"}


def test_who_is_connected(site: Site) -> None:
    """The address that counts is that of the connection, which a refusal names."""
    token = judging.keys(site.address)["default"].tokens["local"]
    line = f"Authorization: {basic(token)}"
    inside = send(site.address, "/messages", "Host: api.example", line, source="127.0.0.2")
    outside = send(site.address, "/messages", "Host: api.example", line, source="127.0.0.3")
    assert inside and told(inside) == "200 local"
    assert outside and told(outside) == "403 network_not_allowed"
    assert b"127.0.0.3" in outside.body


def test_one_connection_for_many(site: Site) -> None:
    """On a connection that stays open, a verdict holds for its own request alone: no refusal stays, and no grant."""
    token = judging.keys(site.address)["default"].tokens["reader"]
    judging.log(site.address)
    good = basic(token)
    assert isinstance(site.address, int)
    connection = http.client.HTTPConnection("127.0.0.1", site.address, timeout=10)
    outcomes = []
    for authorization in (None, good, None, "Basic", good, good, None):
        connection.request("GET", "/messages", headers={"Authorization": authorization} if authorization else {})
        response = connection.getresponse()
        outcomes.append(told(Answer(response.status, [], response.read())))
    connection.close()
    refused = "401 api_key_missing"
    assert outcomes == [refused, "200 reader", refused, "401 api_key_malformed", "200 reader", "200 reader", refused]
    assert len(judging.log(site.address).entered) == 3


def test_requests_that_are_sent_at_once(site: Site) -> None:
    """Of requests that are sent without waiting, each has its own verdict, in order; a server may answer fewer."""
    token = judging.keys(site.address)["default"].tokens["reader"]
    judging.log(site.address)
    lines = ("X-A: b", f"Authorization: {basic(token)}", "Connection: close")
    octets = b""
    with connected(site.address, timeout=1) as connection:
        connection.sendall(b"".join(f"GET /messages HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n".encode() for line in lines))
        try:
            while more := connection.recv(65_536):
                octets += more
        except (TimeoutError, ConnectionResetError):
            pass
    statuses = re.findall(rb"^HTTP/1\.[01] (\d{3})", octets, re.MULTILINE)
    assert statuses == [b"401", b"200", b"401"][: len(statuses)]
    assert {name for _, _, name in judging.log(site.address).entered} <= {"reader"}


def upload(site: Site, *lines: str) -> bytes:
    """What comes, within a moment, if a body is announced and not sent."""
    request = ("POST /messages HTTP/1.1", "Host: api.example", "Content-Length: 1000000", *lines, "", "")
    octets = b""
    with connected(site.address, timeout=0.5 if site.server.buffers else 10.0) as connection:
        connection.sendall("\r\n".join(request).encode())
        try:
            while b'"request_id"' not in octets and (more := connection.recv(65_536)):
                octets += more
        except TimeoutError:
            pass
    return octets


def test_a_body_is_not_read_before_it_is_refused(site: Site) -> None:
    """A refusal comes before any octet of the body is sent, unless the server wants all of it first (E11)."""
    octets = upload(site)
    assert octets == b"" if site.server.buffers else octets.split()[1] == b"401"


def test_a_request_that_asks_before_it_sends(site: Site) -> None:
    """
    A client that waits for "100 Continue" gets its refusal instead, and sends no body (E11); or it is one of the
    servers that are known to say "Continue" before any application is asked. Then the refusal comes nevertheless.
    """
    octets = upload(site, "Expect: 100-continue")
    assert octets.startswith(b"HTTP/1.1 100") is site.server.eager
    assert site.server.buffers or b" 401 " in octets
    assert not judging.log(site.address).entered
