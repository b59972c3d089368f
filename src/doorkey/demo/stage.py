"""What the demo plays on: a store with its secret, a workspace with its four keys, and the data of both modes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from .. import DEFAULT, ByMode, Decision, Doorkey, KeyType, Mode, Profile, create
from ..core.errors import ConfigurationError
from ..core.tokens import Token
from ..management.keyring import Keyring
from ..management.secrets import MasterSecrets
from .service import Database

ACTOR = "doorkey demo"


@dataclass(frozen=True, slots=True)
class Stage:
    """
    Attributes:
        folder: where everything lies.
        url: of the store.
        temporary: whether all of it will be removed.
        ring: the keyring, in the hands of the demo.
        workspace: id of the one workspace, which is approved.
        tokens: of its four keys, revealed.
        restricted: id of one more test secret key, which is for messages alone.
    """

    folder: Path
    url: str
    temporary: bool
    door: Doorkey
    ring: Keyring
    workspace: str
    tokens: Mapping[tuple[KeyType, Mode], Token]
    restricted: str
    databases: ByMode[Database]


@contextmanager
def built(
    folder: Path | None = None,
    on_decision: Callable[[Decision], object] | None = None,
    profile: Profile = DEFAULT,
) -> Iterator[Stage]:
    """
    A stage in *folder*, which stays; or in a temporary one, which is removed in the end.

    Under *profile*, that is: as that system has its keys, errors and objects.

    Raises:
        ConfigurationError: *folder* cannot be used, because it holds something or is no folder.
    """
    if folder is None:
        with (
            TemporaryDirectory(prefix="doorkey-demo-") as name,
            _built(Path(name), True, on_decision, profile) as stage,
        ):
            yield stage
    else:
        _prepare(folder)
        with _built(folder, False, on_decision, profile) as stage:
            yield stage


@contextmanager
def _built(
    folder: Path, temporary: bool, on_decision: Callable[[Decision], object] | None, profile: Profile
) -> Iterator[Stage]:
    url = f"sqlite:///{quote((folder.absolute() / 'keys.db').as_posix())}"
    # Its own secret, in the place where the command line looks for it, and never the operator's.
    secrets = MasterSecrets.generate()
    secrets.write(folder / "keys.db.secret")
    with create(url, secret=secrets, profile=profile, on_decision=on_decision) as door:
        ring = door.keyring.acting(ACTOR)
        workspace = ring.approve(ring.provision("Acme").id).id
        tokens = {(key.type, key.mode): ring.reveal(key.id) for key in ring.keys(workspace)}
        restricted = ring.issue(
            workspace, type=KeyType.SECRET, mode=Mode.TEST, name="messages only", permissions=["messages"]
        ).id
        databases = ByMode(
            test=Database(folder / "test.db", Mode.TEST),
            live=Database(folder / "live.db", Mode.LIVE),
        )
        yield Stage(folder, url, temporary, door, ring, workspace, tokens, restricted, databases)


def _prepare(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        occupied = any(folder.iterdir())
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be used as a folder: {error.strerror}") from None
    if occupied:
        raise ConfigurationError(f"{folder} is not empty, and nothing in it shall be lost: name a new or empty folder")
