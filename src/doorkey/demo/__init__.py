"""
The demo: a small payments-and-messages service behind doorkey, to try by hand or to be told as a story.

It needs the extra: ``pip install 'doorkey[demo]'``. Importing this package needs nothing; running it does.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..core.profiles import DEFAULT, Profile


def run(*, check: bool = False, port: int | None = None, folder: Path | None = None, profile: Profile = DEFAULT) -> int:
    """
    Serve on 127.0.0.1 until SIGINT or SIGTERM; or check that two servers answer as they should.

    Args:
        check: tell the story by itself, on free ports.
        port: to serve on. Without one it is 8000, or any free one if that is taken.
        folder: where keys and data are kept; new or empty. Without one all is removed in the end.
        profile: whose system it plays, so that the official clients of that one work with it.

    Returns:
        An exit code: 0, or 1 if a check failed.

    Raises:
        ModuleNotFoundError: the extra is not installed.
        ConfigurationError: *port* or *folder* cannot be used.
    """
    from . import asgi, screen, serve, stage, story, wsgi  # noqa: PLC0415  # none of them is there without the extra

    if check:
        with stage.built(folder, profile=profile) as scene:
            return story.check(
                scene,
                [
                    ("ASGI: Starlette on uvicorn", serve.serving_asgi(asgi.application(scene.door, scene.databases))),
                    ("WSGI: Werkzeug, threaded", serve.serving_wsgi(wsgi.application(scene.door, scene.databases))),
                ],
            )
    tell = partial(screen.tell, format=profile.format)
    with serve.until_stopped(), stage.built(folder, tell, profile) as scene, serve.listen(port) as listener:
        print(screen.first(scene, listener.getsockname()[1]), flush=True)
        serve.serve(asgi.application(scene.door, scene.databases), listener)
    print("\n  Stopped.")
    return 0
