"""Each store through the suite that all storages must pass."""

from __future__ import annotations

import uuid
from typing import ClassVar

import pytest
from obstore.store import S3Store

import icechunk
from icechunk.storage.base import Storage
from icechunk.testing.storage_suite import StorageSuite
from tests.servers.backends import BUCKET
from tests.servers.conftest import Start

NAMES = StorageSuite.odd_names
# some that speak S3 take a backslash for a slash
NAMES_ON_S3 = tuple(name for name in NAMES if "\\" not in name)


class TestMinistack(StorageSuite):
    odd_names: ClassVar[tuple[str, ...]] = NAMES_ON_S3

    @pytest.fixture
    def storage(self, start_backend: Start) -> Storage:
        return start_backend("ministack").storage()


class TestStoreOfTheUser(StorageSuite):
    """A client that the user made, on S3."""

    many = 50  # the same server as above
    odd_names: ClassVar[tuple[str, ...]] = NAMES_ON_S3

    @pytest.fixture
    def storage(self, start_backend: Start) -> Storage:
        backend = start_backend("ministack")
        key = {name: backend.arguments[name] for name in ("region", "access_key_id", "secret_access_key")}
        store = S3Store(BUCKET, endpoint=backend.url, client_options={"allow_http": True}, **key)
        return icechunk.obstore_storage(store, prefix=uuid.uuid4().hex)


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
