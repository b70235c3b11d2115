"""Storages: named bytes, under one root.

`Storage` is the protocol; the functions here make one for every kind of place. Settings, options and credentials are at hand
under this name too.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from icechunk.config import (
    AnyObjectStoreConfig,
    ChecksumAlgorithm,
    ObjectStoreConfig,
    S3Options,
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
    StorageTimeoutSettings,
)
from icechunk.credentials import (
    GcsBearerCredential,
    S3StaticCredentials,
    azure_credentials,
    gcs_credentials,
    s3_credentials,
)
from icechunk.info import ChunkType
from icechunk.storage._constructors import StorageObjectInfo
from icechunk.storage.base import Storage
from icechunk.storage.factories import (
    azure_storage,
    gcs_storage,
    hf_storage,
    http_storage,
    in_memory_storage,
    local_filesystem_storage,
    obstore_storage,
    r2_storage,
    redirect_storage,
    s3_object_store_storage,
    s3_storage,
    tigris_storage,
)
from icechunk.virtual_types import azure_store, gcs_store, http_store, local_filesystem_store, s3_store

if TYPE_CHECKING:
    from icechunk.storage.doctor import StorageReport, UnsafeStorageWarning
    from icechunk.storage.urls import storage_from_url

__all__ = [
    "AnyObjectStoreConfig",
    "ChecksumAlgorithm",
    "ChunkType",
    "GcsBearerCredential",
    "ObjectStoreConfig",
    "S3Options",
    "S3StaticCredentials",
    "Storage",
    "StorageConcurrencySettings",
    "StorageObjectInfo",
    "StorageReport",
    "StorageRetriesSettings",
    "StorageSettings",
    "StorageTimeoutSettings",
    "UnsafeStorageWarning",
    "azure_credentials",
    "azure_storage",
    "azure_store",
    "gcs_credentials",
    "gcs_storage",
    "gcs_store",
    "hf_storage",
    "http_storage",
    "http_store",
    "in_memory_storage",
    "local_filesystem_storage",
    "local_filesystem_store",
    "obstore_storage",
    "r2_storage",
    "redirect_storage",
    "s3_credentials",
    "s3_object_store_storage",
    "s3_storage",
    "s3_store",
    "storage_from_url",
    "tigris_storage",
]

_LATER = {"StorageReport": "doctor", "UnsafeStorageWarning": "doctor", "storage_from_url": "urls"}


def __getattr__(name: str) -> Any:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
