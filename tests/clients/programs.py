"""Programs that the clients are, or that run them, and that no package brings."""

from __future__ import annotations

import os
import shutil

import pytest


def require(*programs: str, packages: str = "") -> None:
    """Skip a test where one of *programs* is missing; but fail where CI is set, so that it cannot be forgotten."""
    missing = [program for program in programs if shutil.which(program) is None]
    if not missing:
        return
    reason = f"{' and '.join(missing)} cannot be found: install {packages or ' and '.join(missing)}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
