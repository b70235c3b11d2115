"""Every backend that needs no server, and every wrapper, through the suite that all storages must pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from icechunk.storage.base import Storage
from icechunk.storage.local import LocalStorage
from icechunk.storage.memory import MemoryStorage
from icechunk.storage.wrappers import PrefixStorage, RetryingStorage, StorageWrapper
from icechunk.testing.counting import CountingStorage
from icechunk.testing.faults import FaultyStorage
from icechunk.testing.latency import LatencyStorage
from icechunk.testing.storage_suite import StorageSuite


class TestMemory(StorageSuite):
    @pytest.fixture
    def storage(self) -> Storage:
        return MemoryStorage()


class TestLocal(StorageSuite):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return LocalStorage(tmp_path / "not" / "yet", fsync=False)


class TestLocalDurable(StorageSuite):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return LocalStorage(tmp_path)


class TestPlainWrapper(StorageSuite):
    @pytest.fixture
    def storage(self) -> Storage:
        return StorageWrapper(MemoryStorage())


class TestPrefix(StorageSuite):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return PrefixStorage(LocalStorage(tmp_path, fsync=False), "some/where")


class TestRetrying(StorageSuite):
    @pytest.fixture
    def storage(self) -> Storage:
        return RetryingStorage(MemoryStorage(), tries=3)


class TestCounting(StorageSuite):
    picklable = False

    @pytest.fixture
    def storage(self) -> Storage:
        return CountingStorage(MemoryStorage())


class TestLatency(StorageSuite):
    @pytest.fixture
    def storage(self) -> Storage:
        return LatencyStorage(MemoryStorage(), read_latency_ms=0, write_latency_ms=0)


class TestFaultless(StorageSuite):
    picklable = False

    @pytest.fixture
    def storage(self) -> Storage:
        return FaultyStorage(MemoryStorage())
