"""Open, create and assemble: from a URL to a working whole, over real stores."""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest

import doorkey
from doorkey import DEFAULT, FALU, FLUVEO, Decision, Denied, Doorkey, Granted, KeyType, Mode, Profile, Reason
from doorkey.core.errors import ConfigurationError, InvalidSecret, InvalidURL, UnusableStore
from doorkey.core.tokens import TokenFormat
from doorkey.door import assemble
from doorkey.management.secrets import VARIABLE, MasterSecrets
from doorkey.storage.memory import MemoryStore
from doorkey.testing import Clock, basic, issue

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
ACME = Profile("acme", format=TokenFormat.standard("acme"), realm="Acme API")


def text(*secrets: bytes) -> str:
    return ",".join(b64encode(secret).decode() for secret in secrets)


@pytest.fixture(autouse=True)
def no_secret_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test meets a secret of the machine that it runs on."""
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Where a database may be made."""
    return f"sqlite:///{tmp_path}/keys.db"


def granted(decision: Decision) -> bool:
    return isinstance(decision, Granted)


# Create and open


def test_a_whole_story_over_a_file(url: str, tmp_path: Path) -> None:
    """What is made under one door is there under the next: key, profile and clock; sync and async."""
    clock, told = Clock(), list[Decision]()
    with doorkey.create(url, secret=text(NEW), clock=clock) as door:
        token = issue(door, permissions=["messages:read"])
        assert granted(door.verifier.verify(basic(token), requires="messages:read"))
    assert (tmp_path / "keys.db").exists()
    with doorkey.open(url, secret=text(NEW), clock=clock, on_decision=told.append) as door:
        decision = door.verifier.verify(basic(token), requires="messages:read")
        assert granted(decision)
        assert asyncio.run(door.async_verifier.verify(basic(token), requires="messages:read")) == decision
        assert told == [decision, decision]
        assert door.profile is DEFAULT
        ring = door.keyring.acting("ann")
        ring.set_expiry(decision.principal.key, int(clock.now) + 60)  # type: ignore[union-attr]
        clock.advance(60)
        assert door.verifier.verify(basic(token), requires="messages:read") == Denied(Reason.EXPIRED)


def test_a_door_in_memory() -> None:
    """`memory:` needs no file: for tests and trials. What is opened there is new and empty."""
    with doorkey.create("memory:", secret=MasterSecrets.generate(), profile=FALU) as door:
        assert door.profile is FALU
        assert granted(door.verifier.verify(basic(issue(door))))
    with doorkey.open("memory:", secret=text(NEW)) as door:
        assert door.profile is DEFAULT
        assert list(door.keyring.workspaces()) == []


def test_a_path_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes, and a path from where the program runs."""
    monkeypatch.chdir(tmp_path)
    doorkey.create("sqlite:///keys.db", secret=text(NEW)).close()
    assert (tmp_path / "keys.db").exists()
    doorkey.open("sqlite:///keys.db", secret=text(NEW)).close()


def test_closing_twice_is_fine(url: str) -> None:
    """Whoever closes by hand inside a with block does no harm."""
    with doorkey.create(url, secret=text(NEW)) as door:
        door.close()


def test_a_door_is_its_parts() -> None:
    """Each part can be taken out, or built alone; a door does not change."""
    store, secrets = MemoryStore(), MasterSecrets.generate()
    door = assemble(store, secrets)
    assert (door.store, door.secrets, door.profile) == (store, secrets, DEFAULT)
    assert [field.name for field in fields(Doorkey)] == [
        *("store", "secrets", "profile", "verifier", "async_verifier", "keyring", "caches", "uses"),
    ]
    with pytest.raises(FrozenInstanceError):
        door.store = store  # type: ignore[misc]


# Secrets


def test_without_a_secret_nothing_is_made_or_opened(url: str, tmp_path: Path) -> None:
    """There is no default secret: the message says how to make one, and nothing is left behind."""
    with pytest.raises(InvalidSecret, match=r"no master secret at .*keys\.db\.secret, and no default: `doorkey init`"):
        doorkey.create(url)
    assert list(tmp_path.iterdir()) == []
    doorkey.create(url, secret=text(NEW)).close()
    with pytest.raises(InvalidSecret, match="no master secret at"):
        doorkey.open(url)
    for make in (doorkey.create, doorkey.open):
        with pytest.raises(InvalidSecret, match="there is no master secret, and no default"):
            make("memory:")


@pytest.mark.parametrize("secret", ["", "secret", text(NEW)[:-1], text(NEW, NEW), text(NEW) + ","])
def test_a_secret_that_is_none(secret: str, url: str, tmp_path: Path) -> None:
    """A mistyped secret is refused before anything is made."""
    with pytest.raises(InvalidSecret):
        doorkey.create(url, secret=secret)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_secret_is_found_when_the_store_is_opened(url: str) -> None:
    """Not by a 401 for everybody: the message names both fingerprints, and shows no secret."""
    doorkey.create(url, secret=text(OLD)).close()
    with pytest.raises(InvalidSecret, match="the store hangs on the master secret") as caught:
        doorkey.open(url, secret=text(NEW))
    for secret in (OLD, NEW):
        assert MasterSecrets([secret]).fingerprints[0] in str(caught.value)
        assert text(secret) not in str(caught.value)
    doorkey.open(url, secret=text(OLD)).close()


def test_secrets_are_rotated_in_two_steps(url: str) -> None:
    """
    A new secret is added second on every host, then made first: at each step a key is let in on every host.

    An extra secret is fine. Dropping one that stored tokens hang on is found when the store is opened.
    """
    with doorkey.create(url, secret=text(OLD)) as door:
        old_token = issue(door)
    new_token = None
    for given in (text(OLD, NEW), text(NEW, OLD)):
        with doorkey.open(url, secret=given) as door:
            assert granted(door.verifier.verify(basic(old_token)))
            new_token = issue(door)
            assert granted(door.verifier.verify(basic(new_token)))
    assert new_token is not None
    with doorkey.open(url, secret=text(OLD, NEW)) as door:
        assert granted(door.verifier.verify(basic(new_token)))
    for given in (text(OLD), text(NEW)):
        with pytest.raises(InvalidSecret, match="the store hangs on"):
            doorkey.open(url, secret=given)


def test_where_a_secret_comes_from(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument, else the variable, else the file beside the database."""
    MasterSecrets([OLD]).write(tmp_path / "keys.db.secret")
    with doorkey.create(url) as door:
        assert door.secrets.fingerprints == MasterSecrets([OLD]).fingerprints
    monkeypatch.setenv(VARIABLE, text(NEW, OLD))
    with doorkey.open(url) as door:
        assert door.secrets.fingerprints == MasterSecrets([NEW, OLD]).fingerprints
    with doorkey.open(url, secret=text(OLD)) as door:
        assert door.secrets.fingerprints == MasterSecrets([OLD]).fingerprints


@pytest.mark.skipif(os.name != "posix", reason="file modes say nothing here")
def test_a_secret_file_that_others_can_read_is_refused(url: str, tmp_path: Path) -> None:
    """The message says what to do."""
    path = tmp_path / "keys.db.secret"
    MasterSecrets([OLD]).write(path)
    path.chmod(0o644)
    with pytest.raises(InvalidSecret, match="chmod 600"):
        doorkey.create(url)


# Stores


def test_a_store_is_made_once(url: str) -> None:
    """What is there is never overwritten, and what is not there is not made by opening."""
    with pytest.raises(UnusableStore):
        doorkey.open(url, secret=text(NEW))
    with doorkey.create(url, secret=text(NEW)) as door:
        token = issue(door)
    with pytest.raises(UnusableStore):
        doorkey.create(url, secret=text(NEW))
    with doorkey.open(url, secret=text(NEW)) as door:
        assert granted(door.verifier.verify(basic(token)))


@pytest.mark.parametrize("url", ["", "keys.db", "sqlite:", "sqlite://keys.db", "redis://localhost"])
def test_a_url_that_names_no_store(url: str) -> None:
    """The message says which there are."""
    for make in (doorkey.open, doorkey.create):
        with pytest.raises(InvalidURL, match=r"sqlite:///keys\.db"):
            make(url, secret=text(NEW))


def test_a_file_that_is_no_store(url: str, tmp_path: Path) -> None:
    """Neither opened nor overwritten."""
    (tmp_path / "keys.db").write_text("shopping list")
    for make in (doorkey.open, doorkey.create):
        with pytest.raises(UnusableStore):
            make(url, secret=text(NEW))
    assert (tmp_path / "keys.db").read_text() == "shopping list"


def open_files() -> list[str]:
    """What this process holds open."""
    links = Path("/proc/self/fd").iterdir()
    return [str(link.readlink()) for link in links if link.is_symlink()]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system does not show open files")
def test_a_store_that_cannot_be_used_is_closed(url: str) -> None:
    """A wrong secret or profile leaves no connection open."""
    doorkey.create(url, secret=text(OLD)).close()
    with pytest.raises(InvalidSecret):
        doorkey.open(url, secret=text(NEW))
    with pytest.raises(ConfigurationError):
        doorkey.open(url, secret=text(OLD), profile=FALU)
    assert not any("keys.db" in name for name in open_files())
    with doorkey.open(url, secret=text(OLD)):
        assert any("keys.db" in name for name in open_files()), "it can be seen"
    assert not any("keys.db" in name for name in open_files())


# Profiles


@pytest.mark.parametrize("profile", [DEFAULT, FALU, FLUVEO], ids=lambda profile: profile.name)
def test_a_store_remembers_its_profile(profile: Profile, url: str) -> None:
    """Who opens it need not say it again, and cannot say another one by mistake."""
    with doorkey.create(url, secret=text(NEW), profile=profile) as door:
        token = issue(door, mode=Mode.LIVE)
        assert token.prefix == profile.format.prefix(KeyType.SECRET, Mode.LIVE)
    with doorkey.open(url, secret=text(NEW)) as door:
        assert door.profile is door.verifier.profile is door.async_verifier.profile is profile
        assert granted(door.verifier.verify(basic(token)))
    doorkey.open(url, secret=text(NEW), profile=profile).close()
    other = DEFAULT if profile is FALU else FALU
    with pytest.raises(ConfigurationError, match=f"was made for the profile '{profile.name}', not '{other.name}'"):
        doorkey.open(url, secret=text(NEW), profile=other)


def test_a_profile_of_ones_own_is_passed(url: str) -> None:
    """A store keeps the name alone, so opening it takes the profile."""
    with doorkey.create(url, secret=text(NEW), profile=ACME) as door:
        token = issue(door)
        assert token.prefix == "acme_sk_test"
    with doorkey.open(url, secret=text(NEW), profile=ACME) as door:
        assert granted(door.verifier.verify(basic(token)))
    with pytest.raises(ConfigurationError, match="the profile 'acme', which is your own: pass profile="):
        doorkey.open(url, secret=text(NEW))


@pytest.mark.parametrize("changes", [{"realm": "Acme"}, {"discloses": False}, {"grace": 60}])
def test_a_profile_may_be_adapted_under_its_name(changes: dict[str, Any], url: str) -> None:
    """What does not concern tokens may change from one start to the next."""
    doorkey.create(url, secret=text(NEW)).close()
    adapted = replace(DEFAULT, **changes)
    with doorkey.open(url, secret=text(NEW), profile=adapted) as door:
        assert door.verifier.profile == adapted


# A cache, and uses


def test_nothing_is_cached_or_recorded_unless_asked_for(url: str) -> None:
    """Every verdict reads the store, and a verdict writes nothing."""
    with doorkey.create(url, secret=text(NEW)) as door:
        assert (door.caches, door.uses) == ((), None)
        token = issue(door)
        assert granted(door.verifier.verify(basic(token)))
        with doorkey.open(url, secret=text(NEW)) as other:
            key = next(key for each in other.keyring.workspaces() for key in other.keyring.keys(each.id))
            assert [each.last_used_at for each in key.tokens] == [None]
            other.keyring.acting("ann").suspend(key.workspace)
        assert door.verifier.verify(basic(token)) == Denied(Reason.WORKSPACE_SUSPENDED)


def test_a_cache_in_front_of_both_verifiers(url: str) -> None:
    """What this door changes holds at once; what another one changes, once the caches forget, or within their bound."""
    with (
        doorkey.create(url, secret=text(NEW), max_age=5) as door,
        doorkey.open(url, secret=text(NEW), max_age=1.5) as other,
    ):
        header = basic(issue(door))
        assert [cache.max_age for cache in other.caches] == [1.5, 1.5]

        def decisions(door: Doorkey) -> list[Decision]:
            return [door.verifier.verify(header), asyncio.run(door.async_verifier.verify(header))]

        first, second = decisions(door)
        assert granted(first) and first == second
        assert decisions(other) == [first, first]
        door.keyring.acting("ann").revoke(first.principal.key, because="test")  # type: ignore[union-attr]
        assert decisions(door) == [Denied(Reason.REVOKED)] * 2
        assert decisions(other) == [first, first]
        for cache in other.caches:
            cache.invalidate_all()
        assert decisions(other) == [Denied(Reason.REVOKED)] * 2


@pytest.mark.parametrize(("profile", "max_age"), [(FALU, 0.1), (DEFAULT, 5.1), (DEFAULT, -1)])
def test_a_cache_that_must_not_be(profile: Profile, max_age: float) -> None:
    """No door is opened with a cache that is staler than its profile allows, or than any may be."""
    with pytest.raises(ConfigurationError, match="max_age"):
        doorkey.create("memory:", secret=text(NEW), profile=profile, max_age=max_age)


def test_the_last_use_is_written_when_the_door_closes(url: str) -> None:
    """Of tokens that either verifier granted; whoever listens to decisions still hears all of them."""
    clock, told = Clock(), list[Decision]()
    with doorkey.create(url, secret=text(NEW), clock=clock, on_decision=told.append, record_uses=True) as door:
        one, other, unused = (issue(door) for _ in range(3))
        door.verifier.verify(basic(one))
        clock.advance(5)
        asyncio.run(door.async_verifier.verify(basic(other)))
        door.verifier.verify(None)
        assert [granted(each) for each in told] == [True, True, False]
    with doorkey.open(url, secret=text(NEW)) as door:
        ring = door.keyring
        stored = [token for each in ring.workspaces() for key in ring.keys(each.id) for token in key.tokens]
        used = {token.id: token.last_used_at for token in stored if token.id in (one.id, other.id, unused.id)}
    assert used == {one.id: int(clock.now) - 5, other.id: int(clock.now), unused.id: None}
