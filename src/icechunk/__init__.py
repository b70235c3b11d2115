"""Transactional, versioned storage for Zarr arrays.

    import icechunk, numpy as np, zarr

    repo = icechunk.Repository.open_or_create(icechunk.local_filesystem_storage("/data/air"))
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="t", data=np.arange(3))
    session.commit("first data")

    icechunk.open("/data/air").store            # for reading, with zarr or xarray

Names are loaded when they are first used, so importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from icechunk.logs import initialize_logs

if TYPE_CHECKING:
    from icechunk.ancestry_graph import AncestryGraph as AncestryGraph
    from icechunk.config import (
        CachingConfig as CachingConfig,
    )
    from icechunk.config import (
        CompressionAlgorithm as CompressionAlgorithm,
    )
    from icechunk.config import (
        CompressionConfig as CompressionConfig,
    )
    from icechunk.config import (
        ManifestConfig as ManifestConfig,
    )
    from icechunk.config import (
        ManifestPreloadCondition as ManifestPreloadCondition,
    )
    from icechunk.config import (
        ManifestPreloadConfig as ManifestPreloadConfig,
    )
    from icechunk.config import (
        ManifestSplitCondition as ManifestSplitCondition,
    )
    from icechunk.config import (
        ManifestSplitDimCondition as ManifestSplitDimCondition,
    )
    from icechunk.config import (
        ManifestSplittingConfig as ManifestSplittingConfig,
    )
    from icechunk.config import (
        ManifestVirtualChunkLocationCompressionConfig as ManifestVirtualChunkLocationCompressionConfig,
    )
    from icechunk.config import (
        RepositoryConfig as RepositoryConfig,
    )
    from icechunk.config import (
        RepoUpdateRetryConfig as RepoUpdateRetryConfig,
    )
    from icechunk.config import (
        SplitSizesDict as SplitSizesDict,
    )
    from icechunk.config import (
        StorageConcurrencySettings as StorageConcurrencySettings,
    )
    from icechunk.config import (
        StorageRetriesSettings as StorageRetriesSettings,
    )
    from icechunk.config import (
        StorageSettings as StorageSettings,
    )
    from icechunk.config import (
        StorageTimeoutSettings as StorageTimeoutSettings,
    )
    from icechunk.config import (
        from_dict as from_dict,
    )
    from icechunk.config import (
        to_dict as to_dict,
    )
    from icechunk.conflicts import (
        BasicConflictSolver as BasicConflictSolver,
    )
    from icechunk.conflicts import (
        Conflict as Conflict,
    )
    from icechunk.conflicts import (
        ConflictDetector as ConflictDetector,
    )
    from icechunk.conflicts import (
        ConflictSolver as ConflictSolver,
    )
    from icechunk.conflicts import (
        ConflictType as ConflictType,
    )
    from icechunk.conflicts import (
        VersionSelection as VersionSelection,
    )
    from icechunk.credentials import (
        AnyAzureCredential as AnyAzureCredential,
    )
    from icechunk.credentials import (
        AnyAzureStaticCredential as AnyAzureStaticCredential,
    )
    from icechunk.credentials import (
        AnyCredential as AnyCredential,
    )
    from icechunk.credentials import (
        AnyGcsCredential as AnyGcsCredential,
    )
    from icechunk.credentials import (
        AnyGcsStaticCredential as AnyGcsStaticCredential,
    )
    from icechunk.credentials import (
        AnyS3Credential as AnyS3Credential,
    )
    from icechunk.credentials import (
        AzureCredentials as AzureCredentials,
    )
    from icechunk.credentials import (
        AzureRefreshableCredential as AzureRefreshableCredential,
    )
    from icechunk.credentials import (
        AzureStaticCredentials as AzureStaticCredentials,
    )
    from icechunk.credentials import (
        Credentials as Credentials,
    )
    from icechunk.credentials import (
        GcsBearerCredential as GcsBearerCredential,
    )
    from icechunk.credentials import (
        GcsCredentials as GcsCredentials,
    )
    from icechunk.credentials import (
        GcsStaticCredentials as GcsStaticCredentials,
    )
    from icechunk.credentials import (
        S3Credentials as S3Credentials,
    )
    from icechunk.credentials import (
        S3StaticCredentials as S3StaticCredentials,
    )
    from icechunk.credentials import (
        azure_anonymous_credentials as azure_anonymous_credentials,
    )
    from icechunk.credentials import (
        azure_credentials as azure_credentials,
    )
    from icechunk.credentials import (
        azure_from_env_credentials as azure_from_env_credentials,
    )
    from icechunk.credentials import (
        azure_refreshable_credentials as azure_refreshable_credentials,
    )
    from icechunk.credentials import (
        azure_static_credentials as azure_static_credentials,
    )
    from icechunk.credentials import (
        containers_credentials as containers_credentials,
    )
    from icechunk.credentials import (
        gcs_credentials as gcs_credentials,
    )
    from icechunk.credentials import (
        gcs_from_env_credentials as gcs_from_env_credentials,
    )
    from icechunk.credentials import (
        gcs_refreshable_credentials as gcs_refreshable_credentials,
    )
    from icechunk.credentials import (
        gcs_static_credentials as gcs_static_credentials,
    )
    from icechunk.credentials import (
        s3_anonymous_credentials as s3_anonymous_credentials,
    )
    from icechunk.credentials import (
        s3_credentials as s3_credentials,
    )
    from icechunk.credentials import (
        s3_from_env_credentials as s3_from_env_credentials,
    )
    from icechunk.credentials import (
        s3_refreshable_credentials as s3_refreshable_credentials,
    )
    from icechunk.credentials import (
        s3_static_credentials as s3_static_credentials,
    )
    from icechunk.errors import (
        AlreadyExistsError as AlreadyExistsError,
    )
    from icechunk.errors import (
        ConflictError as ConflictError,
    )
    from icechunk.errors import (
        ErrorKind as ErrorKind,
    )
    from icechunk.errors import (
        FormatError as FormatError,
    )
    from icechunk.errors import (
        IcechunkError as IcechunkError,
    )
    from icechunk.errors import (
        InternalError as InternalError,
    )
    from icechunk.errors import (
        InvalidInputError as InvalidInputError,
    )
    from icechunk.errors import (
        NoChangesToCommitError as NoChangesToCommitError,
    )
    from icechunk.errors import (
        NodeNotFoundError as NodeNotFoundError,
    )
    from icechunk.errors import (
        NotFoundError as NotFoundError,
    )
    from icechunk.errors import (
        ReadOnlyError as ReadOnlyError,
    )
    from icechunk.errors import (
        RebaseFailedError as RebaseFailedError,
    )
    from icechunk.errors import (
        RefNotFoundError as RefNotFoundError,
    )
    from icechunk.errors import (
        RepositoryNotFoundError as RepositoryNotFoundError,
    )
    from icechunk.errors import (
        SessionStateError as SessionStateError,
    )
    from icechunk.errors import (
        SnapshotNotFoundError as SnapshotNotFoundError,
    )
    from icechunk.errors import (
        StorageError as StorageError,
    )
    from icechunk.info import (
        Attribution as Attribution,
    )
    from icechunk.info import (
        ChunkStorageStats as ChunkStorageStats,
    )
    from icechunk.info import (
        ChunkType as ChunkType,
    )
    from icechunk.info import (
        Diff as Diff,
    )
    from icechunk.info import (
        FeatureFlag as FeatureFlag,
    )
    from icechunk.info import (
        GCSummary as GCSummary,
    )
    from icechunk.info import (
        ManifestFileInfo as ManifestFileInfo,
    )
    from icechunk.info import (
        RepoAvailability as RepoAvailability,
    )
    from icechunk.info import (
        RepoStatus as RepoStatus,
    )
    from icechunk.info import (
        SessionMode as SessionMode,
    )
    from icechunk.info import (
        SnapshotInfo as SnapshotInfo,
    )
    from icechunk.info import (
        SpecVersion as SpecVersion,
    )
    from icechunk.info import (
        Update as Update,
    )
    from icechunk.info import (
        UpdateType as UpdateType,
    )
    from icechunk.logs import (
        print_debug_info as print_debug_info,
    )
    from icechunk.logs import (
        set_logs_filter as set_logs_filter,
    )
    from icechunk.logs import (
        shutdown_telemetry as shutdown_telemetry,
    )
    from icechunk.opening import (
        open as open,
    )
    from icechunk.opening import (
        open_async as open_async,
    )
    from icechunk.opening import (
        open_repository as open_repository,
    )
    from icechunk.opening import (
        open_repository_async as open_repository_async,
    )
    from icechunk.repository import Repository as Repository
    from icechunk.session import (
        ForkSession as ForkSession,
    )
    from icechunk.session import (
        MergeOverlapWarning as MergeOverlapWarning,
    )
    from icechunk.session import (
        Session as Session,
    )
    from icechunk.storage import (
        Storage as Storage,
    )
    from icechunk.storage import (
        azure_storage as azure_storage,
    )
    from icechunk.storage import (
        gcs_storage as gcs_storage,
    )
    from icechunk.storage import (
        hf_storage as hf_storage,
    )
    from icechunk.storage import (
        http_storage as http_storage,
    )
    from icechunk.storage import (
        in_memory_storage as in_memory_storage,
    )
    from icechunk.storage import (
        local_filesystem_storage as local_filesystem_storage,
    )
    from icechunk.storage import (
        obstore_storage as obstore_storage,
    )
    from icechunk.storage import (
        r2_storage as r2_storage,
    )
    from icechunk.storage import (
        redirect_storage as redirect_storage,
    )
    from icechunk.storage import (
        s3_storage as s3_storage,
    )
    from icechunk.storage import (
        storage_from_url as storage_from_url,
    )
    from icechunk.storage import (
        tigris_storage as tigris_storage,
    )
    from icechunk.storage.doctor import UnsafeStorageWarning as UnsafeStorageWarning
    from icechunk.store import IcechunkStore as IcechunkStore
    from icechunk.types import CommitMethod as CommitMethod
    from icechunk.versions import (
        spec_version as spec_version,
    )
    from icechunk.versions import (
        supported_spec_versions as supported_spec_versions,
    )
    from icechunk.versions import (
        upgrade_icechunk_repository as upgrade_icechunk_repository,
    )
    from icechunk.versions import (
        user_agent as user_agent,
    )
    from icechunk.virtual_access import (
        SourceDriftWarning as SourceDriftWarning,
    )
    from icechunk.virtual_access import (
        UnauthorizedContainersWarning as UnauthorizedContainersWarning,
    )
    from icechunk.virtual_types import (
        AnyObjectStoreConfig as AnyObjectStoreConfig,
    )
    from icechunk.virtual_types import (
        ChecksumAlgorithm as ChecksumAlgorithm,
    )
    from icechunk.virtual_types import (
        ObjectStoreConfig as ObjectStoreConfig,
    )
    from icechunk.virtual_types import (
        S3Options as S3Options,
    )
    from icechunk.virtual_types import (
        VirtualChunkContainer as VirtualChunkContainer,
    )
    from icechunk.virtual_types import (
        VirtualChunkSpec as VirtualChunkSpec,
    )
    from icechunk.virtual_types import (
        gcs_store as gcs_store,
    )
    from icechunk.virtual_types import (
        http_store as http_store,
    )
    from icechunk.virtual_types import (
        local_filesystem_store as local_filesystem_store,
    )
    from icechunk.virtual_types import (
        s3_store as s3_store,
    )
    from icechunk.workspace import UncommittedChangesWarning as UncommittedChangesWarning

__version__ = "2.3.0+py0.1"

_MODULES = {
    "ancestry_graph": "AncestryGraph",
    "config": "CachingConfig CompressionAlgorithm CompressionConfig ManifestConfig ManifestPreloadCondition ManifestPreloadConfig ManifestSplitCondition ManifestSplitDimCondition ManifestSplittingConfig ManifestVirtualChunkLocationCompressionConfig RepoUpdateRetryConfig RepositoryConfig SplitSizesDict StorageConcurrencySettings StorageRetriesSettings StorageSettings StorageTimeoutSettings from_dict to_dict",
    "conflicts": "BasicConflictSolver Conflict ConflictDetector ConflictSolver ConflictType VersionSelection",
    "credentials": "AnyAzureCredential AnyAzureStaticCredential AnyCredential AnyGcsCredential AnyGcsStaticCredential AnyS3Credential AzureCredentials AzureRefreshableCredential AzureStaticCredentials Credentials GcsBearerCredential GcsCredentials GcsStaticCredentials S3Credentials S3StaticCredentials azure_anonymous_credentials azure_credentials azure_from_env_credentials azure_refreshable_credentials azure_static_credentials containers_credentials gcs_credentials gcs_from_env_credentials gcs_refreshable_credentials gcs_static_credentials s3_anonymous_credentials s3_credentials s3_from_env_credentials s3_refreshable_credentials s3_static_credentials",
    "errors": "AlreadyExistsError ConflictError ErrorKind FormatError IcechunkError InternalError InvalidInputError NoChangesToCommitError NodeNotFoundError NotFoundError ReadOnlyError RebaseFailedError RefNotFoundError RepositoryNotFoundError SessionStateError SnapshotNotFoundError StorageError",
    "info": "Attribution ChunkStorageStats ChunkType Diff FeatureFlag GCSummary ManifestFileInfo RepoAvailability RepoStatus SessionMode SnapshotInfo SpecVersion Update UpdateType",
    "logs": "initialize_logs print_debug_info set_logs_filter shutdown_telemetry",
    "opening": "open open_async open_repository open_repository_async",
    "repository": "Repository",
    "session": "ForkSession MergeOverlapWarning Session",
    "storage": "Storage azure_storage gcs_storage hf_storage http_storage in_memory_storage local_filesystem_storage obstore_storage r2_storage redirect_storage s3_storage storage_from_url tigris_storage",
    "storage.doctor": "UnsafeStorageWarning",
    "store": "IcechunkStore",
    "types": "CommitMethod",
    "versions": "spec_version supported_spec_versions upgrade_icechunk_repository user_agent",
    "virtual_types": "AnyObjectStoreConfig ChecksumAlgorithm ObjectStoreConfig S3Options VirtualChunkContainer VirtualChunkSpec gcs_store http_store local_filesystem_store s3_store",
    "virtual_access": "SourceDriftWarning UnauthorizedContainersWarning",
    "workspace": "UncommittedChangesWarning",
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = [
    "__version__",
    *sorted(name for name in _HOMES if name != "open"),  # which `from icechunk import *` would put before Python's own
]


def __getattr__(name: str) -> Any:
    module = _HOMES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_HOMES})


initialize_logs()
