"""nginx, with the blocks of docs/behind-a-proxy.md."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.servers.running import PATIENCE, ROOT, Address, connected, stop

PAGE = (ROOT / "docs/behind-a-proxy.md").read_text("utf-8")
RECIPES = {
    title: block for title, block in re.findall(r"^```nginx\n# ([^\n]+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
}
"""The blocks of the page, by their first lines."""

_CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 128; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{blocks}
}}
"""


def program() -> str:
    """Where nginx is. Without one, tests are skipped, but fail where CI is set."""
    found = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        reason = "there is no nginx: install it (Debian's package nginx-light will do)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def adapted(recipe: str, port: int, upstream: Address, folder: Path, *changes: tuple[str, str]) -> str:
    """A block of the page with our addresses and folders in it, and *changes* made."""
    target = f"127.0.0.1:{upstream}" if isinstance(upstream, int) else f"unix:{upstream}"
    ours = (
        ("listen 80;", f"listen 127.0.0.1:{port};" + (f" listen [::1]:{port};" if has_ipv6() else "")),
        ("http://127.0.0.1:8000", f"http://{target}"),
        *changes,
    )
    for old, new in ours:
        assert old in recipe, f"{old!r} does not stand on the page"
        recipe = recipe.replace(old, new)
    return recipe.replace("/var/cache/nginx/", f"{folder}/cache-{port}-")


def has_ipv6() -> bool:
    """Whether this machine has the loopback address of IPv6."""
    return Path("/proc/net/if_inet6").exists() and "00000000000000000000000000000001" in Path(
        "/proc/net/if_inet6"
    ).read_text("ascii")


@contextmanager
def serving(folder: Path, blocks: Sequence[str], ports: Sequence[int]) -> Iterator[None]:
    """Run nginx with *blocks* until the context ends; it listens on *ports*."""
    configuration = folder / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(folder=folder, blocks="\n".join(blocks)), "utf-8")
    command = [program(), "-p", str(folder), "-e", "stderr", "-c", str(configuration)]
    with (folder / "nginx.log").open("wb+") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            _wait_for(ports, process)
            yield
        except BaseException:
            output.seek(0)
            print(output.read().decode(errors="replace"))
            raise
        finally:
            stop(process)


def _wait_for(ports: Sequence[int], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    for port in ports:
        while True:
            try:
                connected(port).close()
                break
            except OSError:
                assert process.poll() is None, "nginx ended"
                assert time.monotonic() < deadline, "nginx does not listen"
                time.sleep(0.02)


@contextmanager
def in_front_of(
    upstream: Address, folder: Path, *recipes: tuple[str, tuple[tuple[str, str], ...]]
) -> Iterator[list[int]]:
    """Run nginx with recipes, each with its changes, before one server; yield the port of each."""
    ports = [free_port() for _ in recipes]
    blocks = [
        adapted(RECIPES[title], port, upstream, folder, *changes)
        for (title, changes), port in zip(recipes, ports, strict=True)
    ]
    with serving(folder, blocks, ports):
        yield ports
