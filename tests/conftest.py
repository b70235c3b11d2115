"""What every test shares: the `--run-slow` switch and deterministic hypothesis runs.

Fixtures live here only when tests of several directories use them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

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


@pytest.fixture
def xarray_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """xarray knows the engine `icechunk`, as it does where the package is installed."""
    plugins = pytest.importorskip("xarray.backends.plugins")
    from icechunk.xarray_backend import IcechunkBackendEntrypoint

    plugins.list_engines.cache_clear()
    engines = {**plugins.list_engines(), "icechunk": IcechunkBackendEntrypoint()}
    arguments = plugins.detect_parameters(IcechunkBackendEntrypoint.open_dataset)
    monkeypatch.setattr(IcechunkBackendEntrypoint, "open_dataset_parameters", arguments)
    monkeypatch.setattr(plugins, "list_engines", lambda: dict(sorted(engines.items())))
    yield
    monkeypatch.undo()
    plugins.list_engines.cache_clear()
