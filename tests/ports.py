"""Ports of loopback for servers that a test starts in other processes."""

from __future__ import annotations

import errno
import random
import socket

_LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))

BELOW_CONNECTIONS = range(10_000, 32_768)
"""Ports that systems do not give to outgoing connections, which would take one between its choice and its use."""


def free_port() -> int:
    """A port that nobody uses, neither on 127.0.0.1 nor on ::1."""
    return next(port for port in random.sample(BELOW_CONNECTIONS, 1000) if _is_free(port))


def _is_free(port: int) -> bool:
    return not any(_is_taken(family, host, port) for family, host in _LOOPBACK)


def _is_taken(family: socket.AddressFamily, host: str, port: int) -> bool:
    try:
        with socket.socket(family) as probe:
            probe.bind((host, port))
    except OSError as error:
        return error.errno == errno.EADDRINUSE  # any other says that this machine has no such address
    return False
