"""Settings for every test."""

import pytest
from hypothesis import settings

# Before anything imports it, so that a contract's failures show what was compared.
pytest.register_assert_rewrite("doorkey.testing")

# A deadline per example would fail on a slow machine, and say nothing of the code.
settings.register_profile("doorkey", deadline=None)
settings.load_profile("doorkey")
