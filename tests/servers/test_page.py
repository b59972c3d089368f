"""What docs/behind-a-proxy.md says besides its blocks of nginx."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.servers.nginx import PAGE
from tests.servers.running import SERVERS


def doorkey(folder: Path, *arguments: str) -> str:
    """What the command line prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DOORKEY_")}
    command = [sys.executable, "-m", "doorkey", *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=60, cwd=folder, env=environment
    ).stdout


def test_explain(tmp_path: Path) -> None:
    """The page's command finds the client behind the proxy, and says so."""
    (line,) = re.findall(r"^doorkey explain (.*?[^\\])$", PAGE, re.DOTALL | re.MULTILINE)
    doorkey(tmp_path, "init")
    doorkey(tmp_path, "workspace", "provision", "Acme")
    key = re.search(r"key_\w{16}", doorkey(tmp_path, "keys", "list"))
    assert key
    words = [key[0] if word == "KEY" else word for word in shlex.split(line.replace("\\\n", ""))]
    explained = doorkey(tmp_path, "explain", *words)
    assert re.search(r"203\.0\.113\.7 +203\.0\.113\.7 +no trusted proxy, so it is the client", explained)


def test_every_server_has_a_line() -> None:
    """The page says of every server that is tested how to start it, but for those that are for development."""
    named = {server.name.split()[0].rstrip(",") for server in SERVERS} - {"wsgiref", "werkzeug"}
    assert {name for name in named if f"\n| {name} |" not in PAGE} == set()
