"""Nothing that breaks lets anybody in, and nothing of it tells a key, whatever framework stands around (C9, G1, G3)."""

from __future__ import annotations

import asyncio
import traceback
from base64 import b64encode
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import pytest

from doorkey import AsyncVerifier, Verifier
from doorkey.core.errors import InvalidAddress, MalformedToken, StoreUnavailable, UnreadableRecord
from doorkey.core.model import Record
from doorkey.core.profiles import DEFAULT
from doorkey.core.tokens import Token
from doorkey.storage.aio import Inline
from tests.adapters import wire
from tests.adapters.apps.setup import Setup
from tests.adapters.frameworks import NAMES
from tests.adapters.table import POLICIES, House, Row, basic


class Fault(BaseException):
    """What nobody has ever heard of."""


ERRORS: Sequence[type[BaseException]] = (
    *(ValueError, KeyError, AttributeError, RuntimeError, RecursionError, MemoryError, PermissionError, TimeoutError),
    *(StoreUnavailable, UnreadableRecord, MalformedToken, InvalidAddress, LookupError, AssertionError),
    *(asyncio.CancelledError, Fault),
)


class Broken:
    """What raises wherever a verifier calls it: as lookup, digester, clock or hook."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error
        self.calls = 0

    def __call__(self, *_: object) -> Any:
        self.calls += 1
        raise self.error("sprung")

    def find(self, digests: Sequence[bytes]) -> Record | None:
        found: Record | None = self()
        return found

    def digests(self, token: Token) -> Sequence[bytes]:
        found: Sequence[bytes] = self()
        return found


def verifiers(house: House, place: str, broken: Broken) -> tuple[Verifier, AsyncVerifier]:
    """Whole but for one part."""
    lookup: Any = broken if place == "lookup" else house.door.store
    digester: Any = broken if place == "digester" else house.door.secrets.digester()
    clock: Callable[[], float] = broken if place == "clock" else house.clock
    hook = broken if place == "hook" else None
    parts = (digester, DEFAULT, clock, hook)
    return Verifier(lookup, *parts), AsyncVerifier(Inline(lookup), *parts)


@pytest.fixture(scope="module")
def house() -> House:
    return House(DEFAULT)


BUILDS = [
    (name, interface, per_route)
    for name in NAMES
    for interface in import_module(f"tests.adapters.apps.{name}").BUILDS
    for per_route in (False, True)
]


@pytest.mark.filterwarnings("ignore:Unclosed file:ResourceWarning")  # Django's, of a body, after what is no Exception
@pytest.mark.parametrize(("framework", "interface", "per_route"), BUILDS)
@pytest.mark.parametrize("place", ["lookup", "digester", "clock", "hook"])
def test_whatever_breaks(
    house: House, caplog: pytest.LogCaptureFixture, framework: str, interface: str, per_route: bool, place: str
) -> None:
    """The endpoint is not entered; the answer is a refusal or a 500, and neither it nor any log shows the key."""
    caplog.set_level("DEBUG")
    row = Row("a good key", basic("secret"), target="/messages")
    token = house.tokens["secret"]
    for error in ERRORS:
        broken = Broken(error)
        setup = Setup(*verifiers(house, place, broken), POLICIES["whole"], per_route, None)
        application = import_module(f"tests.adapters.apps.{framework}").BUILDS[interface](setup)
        try:
            if interface == "asgi":
                answer = wire.over_asgi(application, wire.scope_of(row, house.tokens))
            else:
                answer = wire.over_wsgi(application, wire.environ_of(row, house.tokens))
        except BaseException as raised:
            told = "".join(traceback.format_exception(raised))
        else:
            assert answer.status in (403, 500, 503)
            told = str(answer)
        assert broken.calls, "nothing broke"
        assert setup.entered == []
        told += caplog.text
        assert token.rpartition("_")[2] not in told
        assert b64encode(f"{token}:".encode()).decode() not in told
