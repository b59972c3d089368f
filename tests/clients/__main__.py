"""``python -m tests.clients``: try every client on every outcome, and print what docs/clients.md shows."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.clients import browser, matrix


def main() -> str:
    """The matrix."""
    logging.disable()  # of the store, which goes down on purpose
    warnings.simplefilter("ignore", DeprecationWarning)  # of httpx, to Stripe's client
    with (
        TemporaryDirectory(prefix="doorkey-", ignore_cleanup_errors=True) as profile,
        browser.browsing(Path(profile)) as chromium,
        matrix.tried(lambda: chromium) as cell,
    ):
        return matrix.table(cell)


if __name__ == "__main__":
    sys.stdout.write(main())
