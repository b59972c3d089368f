"""
The client's address behind trusted proxies.

Whoever connects may write any header, so an address in a header is worth as much as the hop that wrote it. Each proxy
appends the address of its own peer. So the list is walked from the right for as long as the hops are trusted; the first
that is not is the client. If all are trusted, it is the leftmost. What stands left of the client, it may have made up.

One header is read, and no other. ``forwarded`` is parsed after RFC 7239, every other name as X-Forwarded-For::

    X-Forwarded-For   = hop *( "," hop )
    hop               = OWS ( IPv4 [ ":" port ] / IPv6 / "[" IPv6 "]" [ ":" port ] ) OWS

    Forwarded         = 1#forwarded-element                         ; RFC 7239 §4
    forwarded-element = [ forwarded-pair ] *( ";" [ forwarded-pair ] )
    forwarded-pair    = token "=" ( token / quoted-string )         ; no name twice
    node              = nodename [ ":" ( port / obfport ) ]         ; the value of "for", RFC 7239 §6
    nodename          = IPv4 / "[" IPv6 "]" / "unknown" / obfnode

Several field lines are one list (RFC 9110 §5.2). A hop that is malformed, hidden or missing ends the walk: the client's
address is then unknown, and lies in no network.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .errors import ConfigurationError, InvalidAddress
from .networks import NetworkSet, canonical_address

_log = logging.getLogger("doorkey")

# Token and quoted-string of RFC 9110 §5.6. Possessive, so that no header, however long, is tried in more than one way.
_NAME = "[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_QUOTED = r'"(?:[\t !#-\[\]-~\x80-\xff]++|\\[\t -~\x80-\xff])*+"'

_IPV6 = r"\[([^\]:]*+:[^\]]*+)\]"
_IPV4 = "([0-9.]++)"
_PORT = "[0-9]{1,5}"
_OBFUSCATED = "_[0-9A-Za-z._-]++"

_name = re.compile(_NAME).fullmatch
_hop = re.compile(f"{_IPV6}(?::{_PORT})?|{_IPV4}:{_PORT}").fullmatch
_node = re.compile(f"(?:{_IPV6}|{_IPV4})(?::(?:{_PORT}|{_OBFUSCATED}))?").fullmatch
_pair = re.compile(rf"[ \t]*+(?:({_NAME})=(?:({_NAME})|({_QUOTED})))?[ \t]*+(?:;|\Z)").match
_elements = re.compile(rf'(?:[^",]++|{_QUOTED})++|".*+', re.DOTALL).findall
_unescape = re.compile(r"\\(.)", re.DOTALL).sub


class Hop(NamedTuple):
    """
    One step of the walk.

    Attributes:
        source: ``"peer"``, or the name of the header.
        text: as received; empty for a peer without an address, and if the header is missing.
        address: in its one spelling, or ``None`` if *text* tells none.
        trusted: whether the walk went on behind it.
    """

    source: str
    text: str
    address: str | None
    trusted: bool


@dataclass(frozen=True, slots=True, init=False, eq=False)
class TrustedProxies:
    """
    The proxies whose word about their own peer is taken, and the header in which they give it.

    Args:
        networks: where they connect from, as blocks or addresses. May be empty with *unix_socket*.
        header: the one that they write. They must overwrite or append to what a client sent under that name.
        unix_socket: whether a peer without an address is a proxy too; true of a server that listens on a Unix socket.

    Raises:
        ConfigurationError: nobody would be trusted, or *header* is no field name.
        InvalidNetwork: one of *networks* is none.

    >>> proxies = TrustedProxies(["10.0.0.0/8"])
    >>> proxies.client("10.0.0.1", [(b"x-forwarded-for", b"192.0.2.9, 203.0.113.7, 10.0.0.2")])
    '203.0.113.7'
    """

    networks: NetworkSet | None
    header: str
    unix_socket: bool

    def __init__(self, networks: Iterable[str], header: str = "x-forwarded-for", unix_socket: bool = False) -> None:
        blocks = networks if isinstance(networks, str | bytes) else tuple(networks)
        if not blocks and not unix_socket:
            raise ConfigurationError(
                "trusted proxies without networks trust nobody: give the networks that they connect from, or "
                "unix_socket=True"
            )
        if not _is_field_name(header):
            raise ConfigurationError(f"{header!r} is no header name: write it as 'x-forwarded-for', without a colon")
        freeze = object.__setattr__
        freeze(self, "networks", NetworkSet.parse(blocks) if blocks else None)
        freeze(self, "header", header.lower())
        freeze(self, "unix_socket", unix_socket)
        if self.networks and self.networks.is_everywhere():
            _log.warning("the trusted proxies are the whole internet: every client can name its own address")

    def client(self, peer: str | None, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """
        The address of the client in its one spelling, or ``None`` if it is unknown. Nothing that a client sends raises.

        Args:
            peer: textual address of who is connected, as the server gives it; ``None`` or empty if it gives none.
            headers: field lines in the order received, names in any case.
        """
        address = None
        for hop in self.hops(peer, headers):
            address = hop.address
        return address

    def hops(self, peer: str | None, headers: Iterable[tuple[bytes, bytes]]) -> Iterator[Hop]:
        """The way to :meth:`client`, step by step: the last hop is it."""
        address = _address(peer) if peer else None
        trusted = self._trust(address) if peer else self.unix_socket
        yield Hop("peer", peer or "", address, trusted)
        if trusted:
            wanted = self.header.encode()
            lines = [value for name, value in headers if name.lower() == wanted]
            read = _forwarded if self.header == "forwarded" else _listed
            for text, address in read(b",".join(lines).decode("latin-1")):
                trusted = self._trust(address)
                yield Hop(self.header, text, address, trusted)
                if not trusted:
                    return

    def _trust(self, address: str | None) -> bool:
        return address is not None and self.networks is not None and self.networks.contains(address)


def _is_field_name(header: object) -> bool:
    return isinstance(header, str) and _name(header) is not None


def _address(text: str) -> str | None:
    try:
        return canonical_address(text)
    except InvalidAddress:
        return None


def _listed(value: str) -> Iterator[tuple[str, str | None]]:
    """The hops of an X-Forwarded-For, from the right. An empty one is malformed, and so is a missing header."""
    for element in reversed(value.split(",")):
        text = element.strip(" \t")
        match = _hop(text)
        yield text, _address(match[1] or match[2] if match else text)


def _forwarded(value: str) -> Iterator[tuple[str, str | None]]:
    """
    The hops of a Forwarded, from the right. Empty elements are none (RFC 9110 §5.6.1.2), unless there is nothing else.

    A quote that is not closed could hide any hop. It and all behind it is the last element, so the walk ends at once.
    """
    elements = [text for element in _elements(value) if (text := element.strip(" \t"))]
    for element in reversed(elements or [""]):
        node = _node(_for(element))
        yield element, _address(node[1] or node[2]) if node else None


def _for(element: str) -> str:
    """The parameter "for" of a forwarded-element; empty if it has none or is malformed."""
    parameters: dict[str, str] = {}
    position = 0
    while position < len(element):
        pair = _pair(element, position)
        if pair is None:
            return ""
        position = pair.end()
        name, token, quoted = pair.groups()
        if name is not None:
            if name.lower() in parameters:
                return ""
            parameters[name.lower()] = token or _unescape(r"\1", quoted[1:-1])
    return parameters.get("for", "")
