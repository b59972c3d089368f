"""What every engine with connections does around a fork."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import ModuleType

import pytest

from doorkey.storage import postgres_connections, sqlite

FORKS = 15_000


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns as often as they can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("engine", [sqlite, postgres_connections], ids=["SQLite", "PostgreSQL"])
def test_threads_that_fork_at_once(engine: ModuleType) -> None:
    """None gives back what another holds, which would raise in the one and stop the other for ever."""
    holding, alone = threading.Lock(), list[bool]()

    def fork() -> None:
        for _ in range(FORKS):
            engine._before_fork()
            alone.append(holding.acquire(blocking=False))
            holding.release()
            engine._after_fork()

    threads = [threading.Thread(target=fork, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (len(alone), all(alone)) == (4 * FORKS, True)
