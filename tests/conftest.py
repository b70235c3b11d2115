"""What every test shares: the `--run-slow` switch and deterministic hypothesis runs.

Fixtures live here only when tests of several directories use them.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# Derandomized: a failure in continuous integration is a failure here. `HYPOTHESIS_PROFILE=explore` looks further.
_SHARED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("ci", derandomize=True, max_examples=50, **_SHARED)
settings.register_profile("explore", max_examples=1000, **_SHARED)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--run-slow"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
