"""
From ``Authorization`` field lines to the token that they carry.

The rules, in the words of the RFCs:

* ``credentials = auth-scheme [ 1*SP ( token68 / #auth-param ) ]``, the scheme without case (RFC 9110 §11.4). White
  space around the field value is no part of it (RFC 9110 §5.5).
* ``Basic``: token68 is the base64 (RFC 4648 §4) of ``user-id ":" password``, split at the first colon; neither part has
  control characters (RFC 7617 §2). Only the canonical encoding is accepted (RFC 4648 §3.5): one token, one header.
* ``Bearer``: token68 is the token (RFC 6750 §2.1).
* ``Authorization`` is no list: a second line, or a second pair of credentials after a comma, is an error, because
  servers and proxies would choose between them differently (RFC 9110 §5.3, §11.6.2).

Whatever comes in, these functions return or raise ``MalformedCredentials``, which carries nothing of the value.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Sequence

from .errors import MalformedCredentials

Authorization = str | bytes | Sequence[str] | Sequence[bytes] | None
"""The field lines as received: one, several, or none."""

LONGEST = 1024
"""Octets of a field value that are looked at; more is malformed."""

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_TOKEN68 = rb"[A-Za-z0-9\-._~+/]++=*+"
_PARAM = _TOKEN + rb"[ \t]*+=[ \t]*+(?:" + _TOKEN + rb'|"(?:[^"\\]|\\.)*+")'
_PARAMS = rb"(?:" + _PARAM + rb")?+(?:[ \t]*+,(?:[ \t]*+" + _PARAM + rb")?+)*+"
_CREDENTIALS = re.compile(_TOKEN + rb"(?: ++(?:" + _TOKEN68 + rb"|" + _PARAMS + rb"))?")
_BEARER_TOKEN = re.compile(_TOKEN68)
_PRINTABLE = re.compile(rb"[ -~]*+")


def parse_basic(value: str | bytes) -> tuple[str, str]:
    """
    Read ``Basic`` credentials, whatever they carry, as user-id and password in UTF-8 (RFC 7617 §2.1).

    >>> parse_basic("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")
    ('Aladdin', 'open sesame')

    Raises:
        MalformedCredentials: another scheme, base64 that is not canonical, no colon, control characters, not UTF-8.
    """
    user_id, password = _user_pass(_of_scheme(value, b"basic"))
    try:
        parts = user_id.decode("utf-8"), password.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedCredentials("Basic credentials are UTF-8") from None
    if any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for part in parts for character in part):
        raise MalformedCredentials("Basic credentials hold no control characters")
    return parts


def parse_bearer(value: str | bytes) -> str:
    """
    Read ``Bearer`` credentials.

    Raises:
        MalformedCredentials: another scheme, or what follows is no token68.
    """
    token = _of_scheme(value, b"bearer")
    if not _BEARER_TOKEN.fullmatch(token):
        raise MalformedCredentials("a Bearer token has letters, digits and -._~+/ with = at its end")
    return token.decode("ascii")


def presented(authorization: Authorization) -> bytes | None:
    """
    The text of the token that a request presents, not yet checked to be one; ``None`` if it presents none to us.

    A token is the user-id of ``Basic`` with an empty password, or the token of ``Bearer``. Absent and empty fields and
    other schemes present none.

    Raises:
        MalformedCredentials: several lines or credentials, a password, no token, not canonical, not ASCII, too long.
    """
    value = _only_line(authorization)
    if not value:
        return None
    if value[:6].lower() == b"basic ":
        user_id, password = _user_pass(value[6:].lstrip(b" "))
        if password:
            raise MalformedCredentials("the password beside a key is empty")
        if not user_id:
            raise MalformedCredentials("the user name is empty; it must be the key")
        return user_id
    scheme = value[:7].lower()
    if scheme == b"bearer ":
        return value[7:].lstrip(b" ")
    if scheme in (b"basic", b"bearer") or not (_PRINTABLE.fullmatch(value) and _CREDENTIALS.fullmatch(value)):
        raise MalformedCredentials("an Authorization field is one scheme with its credentials")
    return None


def _only_line(lines: Authorization) -> bytes | None:
    """The single field line, if there is one, without the white space around it."""
    if lines is None:
        return None
    if not isinstance(lines, (str, bytes)):
        if len(lines) > 1:
            raise MalformedCredentials("a request has one Authorization field line")
        return _only_line(lines[0]) if lines else None
    if len(lines) > LONGEST:  # asked first, so that a long one costs no more
        raise MalformedCredentials(f"an Authorization field has at most {LONGEST} octets")
    if isinstance(lines, str):
        try:
            lines = lines.encode("ascii")
        except UnicodeEncodeError:
            raise MalformedCredentials("an Authorization field is ASCII") from None
    return lines.strip(b" \t")


def _user_pass(encoded: bytes) -> tuple[bytes, bytes]:
    """Decode the token68 of ``Basic``."""
    try:
        decoded = a2b_base64(encoded)
    except Base64Error:
        raise MalformedCredentials("Basic credentials are base64") from None
    if b2a_base64(decoded, newline=False) != encoded:
        raise MalformedCredentials("Basic credentials are base64 in its one canonical form")
    user_id, colon, password = decoded.partition(b":")
    if not colon:
        raise MalformedCredentials("Basic credentials are a user name, a colon and a password")
    return user_id, password


def _of_scheme(value: str | bytes, scheme: bytes) -> bytes:
    """What follows *scheme* in a field value of it."""
    line = _only_line(value)
    given, space, rest = (line or b"").partition(b" ")
    if given.lower() != scheme or not space:
        raise MalformedCredentials(f"these are no {scheme.decode().title()} credentials")
    return rest.lstrip(b" ")
