"""The stage: a store as the command line finds it, four keys and one more, and data that is removed or stays."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

import doorkey
from doorkey import DEFAULT, FALU, FLUVEO, Decision, Granted, KeyType, Mode, Principal, Profile
from doorkey.core.errors import ConfigurationError, NotApproved
from doorkey.demo import stage


@pytest.fixture(autouse=True)
def no_secret_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOORKEY_SECRET", raising=False)


def test_a_workspace_with_its_four_keys(tmp_path: Path) -> None:
    """Approved, with a secret and a publishable key of each mode, each of which is let in as what it is."""
    with stage.built(tmp_path) as built:
        assert built.ring.workspace(built.workspace).approved_at is not None
        assert set(built.tokens) == {(type, mode) for type in KeyType for mode in Mode}
        for (type, mode), token in built.tokens.items():
            decision = built.door.verifier.verify(f"Bearer {token.expose()}", requires=doorkey.Requirement.ANY_KEY)
            assert isinstance(decision, Granted)
            assert (decision.principal.type, decision.principal.mode) == (type, mode)


def test_a_key_for_messages_alone(tmp_path: Path) -> None:
    """The fifth key is a restricted one, of test mode, so that it can be shown at any time."""
    with stage.built(tmp_path) as built:
        assert built.ring.key(built.restricted).permissions == ("messages",)
        assert built.ring.reveal(built.restricted) == built.ring.reveal(built.restricted)


def test_each_mode_has_its_own_database(tmp_path: Path) -> None:
    """What is made with a live principal is in the live file alone, and says so."""
    with stage.built(tmp_path) as built:
        live = Principal(built.workspace, "key_1", "muTFmv6k", KeyType.SECRET, Mode.LIVE)
        test = live._replace(mode=Mode.TEST)
        charge = built.databases.of(live).create(built.workspace, "charges", {"amount": 1, "currency": "kes"})
        assert charge["livemode"] is True
        assert built.databases.of(test).list(built.workspace, "charges", {}).data == []
        assert charge["id"].encode() in (tmp_path / "live.db").read_bytes()
        assert charge["id"].encode() not in (tmp_path / "test.db").read_bytes()


def test_the_command_line_finds_the_store_and_its_secret(tmp_path: Path) -> None:
    """The URL is all that `doorkey.open` needs, whatever signs the path holds."""
    folder = tmp_path / "a b%20#?é"
    with stage.built(folder) as built:
        assert not built.temporary
        assert built.folder == folder
        with doorkey.open(built.url) as door:
            assert [workspace.id for workspace in door.keyring.workspaces()] == [built.workspace]


def test_the_operators_secret_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret in the environment belongs to another store: the demo has its own."""
    monkeypatch.setenv("DOORKEY_SECRET", "not even a secret")
    with stage.built(tmp_path):
        assert (tmp_path / "keys.db.secret").is_file()


def test_a_temporary_folder_is_removed() -> None:
    """Also after an error; while it is there, it is for its owner alone."""
    with pytest.raises(KeyboardInterrupt), stage.built() as built:
        assert built.temporary
        assert stat.S_IMODE(built.folder.stat().st_mode) == 0o700
        raise KeyboardInterrupt
    assert not built.folder.exists()


def test_a_named_folder_stays(tmp_path: Path) -> None:
    """It is made if it is missing, parents included, and can be opened later."""
    with stage.built(tmp_path / "some" / "where") as built:
        assert stat.S_IMODE(built.folder.stat().st_mode) == 0o700
    with doorkey.open(built.url) as door:
        assert door.keyring.workspace(built.workspace).name == "Acme"


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    """One that holds something is left alone; a file is no folder. The message says what to do."""
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ConfigurationError, match="name a new or empty folder"), stage.built(tmp_path):
        pass
    with pytest.raises(ConfigurationError, match="cannot be used as a folder"), stage.built(tmp_path / "file"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_decisions_are_told(tmp_path: Path) -> None:
    """To whoever wants to show them."""
    decisions: list[Decision] = []
    with stage.built(tmp_path, decisions.append) as built:
        assert decisions == [built.door.verifier.verify(None)]


def test_the_ring_is_in_the_hands_of_the_demo(tmp_path: Path) -> None:
    """Each change names it, and the rules of the keyring hold as ever."""
    with stage.built(tmp_path) as built:
        assert {event.actor for event in built.door.store.events(built.workspace)} == {stage.ACTOR}
        other = built.ring.provision("Other")
        with pytest.raises(NotApproved):
            built.ring.issue(other.id, type=KeyType.SECRET, mode=Mode.LIVE, name="early")


@pytest.mark.parametrize("profile", [DEFAULT, FALU, FLUVEO])
def test_a_stage_is_of_one_system(tmp_path: Path, profile: Profile) -> None:
    """Its keys look as that system's do, and the store remembers it."""
    with stage.built(tmp_path, profile=profile) as built:
        for kind, token in built.tokens.items():
            assert token.prefix == profile.format.prefix(*kind)
        with doorkey.open(built.url) as door:
            assert door.profile is profile
