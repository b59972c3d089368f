"""One key and its like, known to doorkey and to the floor alike: what the benchmarks ask about."""

from __future__ import annotations

import hmac
import time
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from secrets import token_bytes

from doorkey import Doorkey, KeyType, Mode, Requirement
from doorkey.core.tokens import Token, mint
from doorkey.door import assemble
from doorkey.management.secrets import MasterSecrets
from doorkey.storage.memory import MemoryStore
from doorkey.storage.protocol import Properties, Store
from doorkey.testing import basic

from . import floor

ADDRESS = "198.51.100.77"
NETWORKS = ("198.51.100.0/24", "203.0.113.0/24")
PERMISSIONS = ("charges", "messages:read")
NEEDED = "messages:read"
REQUIREMENT = Requirement(NEEDED)
METHOD, PATH = "GET", "/messages"
RULES = {(METHOD, PATH): NEEDED}

PEPPER = token_bytes(32)
EXPIRY = int(time.time()) + 10**7


@dataclass(frozen=True)
class Sample:
    """Both sides, and the ``Authorization`` fields to ask them about."""

    door: Doorkey
    check: floor.Check
    valid: bytes
    revoked: bytes
    unknown: bytes
    wrong_checksum: bytes
    malformed: bytes


def new_door(secrets: MasterSecrets, store: Store | None = None) -> Doorkey:
    """A doorkey over *store*, or over a new one in memory, by the real clock."""
    return assemble(store or MemoryStore(Properties(fingerprints=secrets.fingerprints)), secrets, clock=time.time)


def new_token(door: Doorkey, *, networks: Sequence[str] = NETWORKS, revoked: bool = False) -> Token:
    """The token of a new key with a permission to ask for, networks and an expiry."""
    ring = door.keyring.acting("benchmark")
    workspace = ring.approve(ring.provision("Benchmark").id)
    key = ring.issue(
        workspace.id,
        type=KeyType.SECRET,
        mode=Mode.LIVE,
        name="benchmark",
        permissions=PERMISSIONS,
        networks=networks,
        expires_at=EXPIRY,
    )
    token = ring.reveal(key.id)
    if revoked:
        ring.revoke(key.id, because="it is a benchmark")
    return token


def floor_entries(
    valid: Iterable[Token], revoked: Iterable[Token] = (), networks: Sequence[str] = NETWORKS
) -> dict[bytes, floor.Entry]:
    """What the floor knows of these tokens, by its own digests of them; in their order."""
    entries = {}
    for tokens, is_revoked in ((valid, False), (revoked, True)):
        for token in tokens:
            digest = hmac.digest(PEPPER, token.expose().encode(), "sha256")
            entries[digest] = floor.Entry(
                digest, is_revoked, EXPIRY, floor.edges(networks), [], frozenset(PERMISSIONS), token.id
            )
    return entries


def field(token: Token | str) -> bytes:
    """The value of ``Authorization``, as ASGI gives it."""
    return basic(token).encode()


def unknown_token() -> Token:
    """One that is well-formed, checksum included, but nobody's."""
    return mint(KeyType.SECRET, Mode.LIVE)


def new_sample() -> Sample:
    """Both sides in memory."""
    door = new_door(MasterSecrets.generate())
    valid, revoked, unknown = new_token(door), new_token(door, revoked=True), unknown_token()
    text = unknown.expose()
    sample = Sample(
        door=door,
        check=floor.check_of(PEPPER, floor_entries([valid], [revoked]).get),
        valid=field(valid),
        revoked=field(revoked),
        unknown=field(unknown),
        wrong_checksum=field(text[:-1] + ("0" if text[-1] != "0" else "1")),
        malformed=b"Basic " + b64encode(b"ann:secret"),
    )
    prove(sample)
    return sample


def prove(sample: Sample) -> None:
    """Make sure that both sides say what is to be measured."""
    said = {
        name: (
            type(sample.door.verifier.verify(line, client_address=ADDRESS, requires=REQUIREMENT)).__name__,
            isinstance(sample.check(line, ADDRESS, NEEDED), str),
        )
        for name, line in vars(sample).items()
        if isinstance(line, bytes)
    }
    expected = {name: ("Granted", True) if name == "valid" else ("Denied", False) for name in said}
    if said != expected:
        raise RuntimeError(f"doorkey and the floor do not agree: {said}")
