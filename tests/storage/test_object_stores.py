"""Object stores through the suite that all storages must pass: obstore's own, and emulators where there are any."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import ClassVar

import pytest

pytest.importorskip("obstore")
from obstore.store import LocalStore, MemoryStore

from icechunk.storage import azure_storage, gcs_storage, s3_storage
from icechunk.storage.base import Storage
from icechunk.storage.object_store import from_obstore
from icechunk.testing.storage_suite import StorageSuite
from tests.storage.conftest import AZURE_ACCOUNT, AZURE_KEY, BUCKET

NAMES = StorageSuite.odd_names


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


@pytest.mark.slow
class TestS3(StorageSuite):
    threads = 8
    # some that speak S3 take a backslash for a slash
    odd_names: ClassVar[tuple[str, ...]] = tuple(name for name in NAMES if "\\" not in name)

    @pytest.fixture
    def storage(self, s3_address: str) -> Storage:
        return s3_storage(
            bucket=BUCKET,
            prefix=f"suite/{uuid.uuid4().hex}",
            region="us-east-1",
            endpoint_url=s3_address,
            allow_http=True,
            force_path_style=True,
            access_key_id="test",
            secret_access_key="test",
        )


@pytest.mark.slow
class TestAzure(StorageSuite):
    threads = 8
    many = 50  # the emulator deletes slowly

    @pytest.fixture
    def storage(self, azure_address: str) -> Storage:
        return azure_storage(
            account=AZURE_ACCOUNT,
            container=BUCKET,
            prefix=f"suite/{uuid.uuid4().hex}",
            access_key=AZURE_KEY,
            config={"azure_storage_endpoint": f"{azure_address}/{AZURE_ACCOUNT}", "azure_allow_http": "true"},
        )


@pytest.mark.slow
class TestGcs(StorageSuite):
    threads = 8
    many = 50  # the emulator deletes slowly

    @pytest.fixture
    def storage(self, gcs_address: str) -> Storage:
        return gcs_storage(
            bucket=BUCKET,
            prefix=f"suite/{uuid.uuid4().hex}",
            service_account_key=f'{{"gcs_base_url":"{gcs_address}","disable_oauth":true,"client_email":"",'
            '"private_key":"","private_key_id":""}',
            config={"google_base_url": gcs_address, "allow_http": "true"},
        )
