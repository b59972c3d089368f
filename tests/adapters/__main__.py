"""``python -m tests.adapters``: drive the table through every framework, and print what docs/frameworks.md shows."""

from __future__ import annotations

import logging
import sys

from tests.adapters import frameworks, matrix
from tests.adapters.table import PROFILES, ROWS, House

if __name__ == "__main__":
    logging.disable()  # of the stores that are down on purpose
    applications = frameworks.Applications({name: House(profile) for name, profile in PROFILES.items()})
    sys.stdout.write(matrix.table((case, applications.outcome(case)) for case in frameworks.cases(ROWS)))
