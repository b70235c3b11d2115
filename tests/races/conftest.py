"""Each version of the format, and storages near and far."""

import pytest

from icechunk.storage.memory import MemoryStorage


@pytest.fixture(params=[1, 2], ids=["spec1", "spec2"])
def spec(request):
    return request.param


@pytest.fixture(params=[1, 64], ids=["near", "far"])
def width(request, monkeypatch):
    """A storage at hand, or one over a network: there requests that do not need each other go out together."""
    monkeypatch.setattr(MemoryStorage, "concurrency", request.param)
