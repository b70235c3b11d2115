"""The stores that obstore itself brings, through the suite that all storages must pass; tests/servers has the others."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("obstore")
from obstore.store import LocalStore, MemoryStore

from icechunk.storage.base import Storage
from icechunk.storage.object_store import from_obstore
from icechunk.testing.storage_suite import StorageSuite


class TestObstoreMemory(StorageSuite):
    picklable = False

    @pytest.fixture
    def storage(self) -> Storage:
        return from_obstore(MemoryStore(), "some/where")


class TestObstoreLocal(StorageSuite):
    """The local files of obstore know no compare-and-swap; ours do."""

    conditional = False

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return from_obstore(LocalStore(tmp_path))
