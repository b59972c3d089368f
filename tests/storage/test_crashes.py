"""Short runs of ``python -m tests.storage.crashes``: after every crash, what was acknowledged is there and whole."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from doorkey.storage.protocol import Batch
from doorkey.storage.urls import open_store
from tests.postgres_server import Server
from tests.storage.crashes import Ledger, kill_at_each_step, kill_at_random, restart_at_random


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    """The ledger of a new store on each engine."""
    if request.param == "sqlite":
        return Ledger.of_new_store(f"sqlite:///{tmp_path / 'keys.db'}")
    return Ledger.of_new_store(request.getfixturevalue("database"))


def test_a_writer_that_is_killed_loses_nothing_that_it_was_told(ledger: Ledger) -> None:
    """`kill -9` at any moment: every acknowledged change is there, and of the one under way all or nothing."""
    kill_at_random(ledger, 10)
    assert ledger.findings == []
    assert ledger.acknowledged >= 10


@pytest.mark.parametrize("verb", ["approve", "roll"])  # the command tries all
def test_a_writer_that_dies_within_a_commit_leaves_all_or_nothing(ledger: Ledger, verb: str) -> None:
    """Before each statement of each verb, before the commit's end and after it: no key is left without a token."""
    kill_at_each_step(ledger, verb)
    assert ledger.findings == []
    assert ledger.crashes > 5
    assert ledger.besides == 1  # by the death that came after the commit


def test_a_server_that_crashes_loses_nothing_that_it_acknowledged(make_server: Callable[..., Server]) -> None:
    """PostgreSQL, stopped at once without a checkpoint, comes back with all that it acknowledged; so do clients."""
    server = make_server("fsync=on")
    ledger = Ledger.of_new_store(server.url())
    restart_at_random(ledger, 3, server)
    assert ledger.findings == []
    assert ledger.acknowledged >= 6  # one before each restart, and one after


def test_the_ledger_finds_what_is_missing(tmp_path: Path) -> None:
    """A lost change, a half one, a key without a token and a broken chain would not be passed over."""
    ledger = Ledger.of_new_store(f"sqlite:///{tmp_path / 'keys.db'}")
    workspace = ledger.do("approve", ledger.do("provision"))
    key = ledger.do("issue", workspace)
    ledger.do("reveal", key)
    ledger.check()
    assert (ledger.findings, ledger.acknowledged, ledger.besides) == ([], 4, 0)

    with closing(open_store(ledger.url)) as store:
        stored = store.key(key)
        assert stored is not None
        dead = replace(stored.tokens[0], expires_at=1)
        store.commit(Batch(keys=((replace(stored, tokens=(dead,), version=3), 2),)))
    ledger.keys["key_lost"] = stored
    ledger.check()
    assert sorted(ledger.findings) == sorted(
        [
            f"a part of a change of workspace {workspace} is lost",
            f"key {key} has no token that lives",
            "key key_lost is lost",
            "6 changes were acknowledged, 4 are stored after 0 crashes",
        ]
    )
