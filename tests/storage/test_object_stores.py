"""Object stores through the suite that all storages must pass: obstore's own, and servers where the environment has some.

Set ICECHUNK_TEST_S3, ICECHUNK_TEST_AZURE and ICECHUNK_TEST_GCS to the addresses of emulators (`scripts/servers` starts
them) to run the suite against them.
"""

from __future__ import annotations

import os
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

S3 = os.environ.get("ICECHUNK_TEST_S3")
AZURE = os.environ.get("ICECHUNK_TEST_AZURE")
GCS = os.environ.get("ICECHUNK_TEST_GCS")
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


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


@pytest.mark.skipif(S3 is None, reason="ICECHUNK_TEST_S3 is not set")
class TestS3(StorageSuite):
    threads = 8
    odd_names: ClassVar[tuple[str, ...]] = StorageSuite.odd_names

    @pytest.fixture
    def storage(self) -> Storage:
        return s3_storage(
            bucket="testbucket",
            prefix=f"suite/{uuid.uuid4().hex}",
            region="us-east-1",
            endpoint_url=S3,
            allow_http=True,
            force_path_style=True,
            access_key_id="test",
            secret_access_key="test",
        )


@pytest.mark.skipif(AZURE is None, reason="ICECHUNK_TEST_AZURE is not set")
class TestAzure(StorageSuite):
    threads = 8

    @pytest.fixture
    def storage(self) -> Storage:
        return azure_storage(
            account="devstoreaccount1",
            container="testbucket",
            prefix=f"suite/{uuid.uuid4().hex}",
            access_key=AZURE_KEY,
            config={"azure_storage_endpoint": f"{AZURE}/devstoreaccount1", "azure_allow_http": "true"},
        )


@pytest.mark.skipif(GCS is None, reason="ICECHUNK_TEST_GCS is not set")
class TestGcs(StorageSuite):
    threads = 8

    @pytest.fixture
    def storage(self) -> Storage:
        key = f'{{"gcs_base_url":"{GCS}","disable_oauth":true,"client_email":"","private_key":"","private_key_id":""}}'
        return gcs_storage(
            bucket="testbucket",
            prefix=f"suite/{uuid.uuid4().hex}",
            service_account_key=key,
            config={"google_base_url": GCS or "", "allow_http": "true"},
        )
