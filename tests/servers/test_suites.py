"""Each store through the suite that all storages must pass."""

from __future__ import annotations

from typing import ClassVar

import pytest

from icechunk.storage.base import Storage
from icechunk.testing.storage_suite import StorageSuite
from tests.servers.conftest import Start

NAMES = StorageSuite.odd_names
# some that speak S3 take a backslash for a slash
NAMES_ON_S3 = tuple(name for name in NAMES if "\\" not in name)


class TestMinistack(StorageSuite):
    odd_names: ClassVar[tuple[str, ...]] = NAMES_ON_S3

    @pytest.fixture
    def storage(self, start_backend: Start) -> Storage:
        return start_backend("ministack").storage()


class TestAzurite(StorageSuite):
    many = 50  # it deletes slowly

    @pytest.fixture
    def storage(self, start_backend: Start) -> Storage:
        return start_backend("azurite").storage()


class TestFakeGcs(StorageSuite):
    many = 50  # it deletes one by one

    @pytest.fixture
    def storage(self, start_backend: Start) -> Storage:
        return start_backend("fake-gcs").storage()


@pytest.mark.slow
class TestSeaweedFS(StorageSuite):
    threads = 8  # it is slow when many want the same
    odd_names: ClassVar[tuple[str, ...]] = NAMES_ON_S3

    @pytest.fixture
    def storage(self, start_backend: Start) -> Storage:
        return start_backend("seaweedfs").storage()


@pytest.mark.slow
class TestCeph(StorageSuite):
    odd_names: ClassVar[tuple[str, ...]] = NAMES_ON_S3

    @pytest.fixture
    def storage(self, start_backend: Start) -> Storage:
        return start_backend("ceph").storage()


@pytest.mark.slow
class TestSwift(StorageSuite):
    conditional = False
    many = 50  # it is slow
    odd_names: ClassVar[tuple[str, ...]] = NAMES_ON_S3

    @pytest.fixture
    def storage(self, start_backend: Start) -> Storage:
        return start_backend("swift").storage()
