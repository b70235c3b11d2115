"""Transactional, versioned storage for Zarr arrays.

    import icechunk, zarr

    repo = icechunk.Repository.open_or_create(icechunk.local_filesystem_storage("/data/air"))
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="t", data=[1, 2, 3])
    session.commit("first data")

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
        CompressionAlgorithm as CompressionAlgorithm,
        CompressionConfig as CompressionConfig,
        ManifestConfig as ManifestConfig,
        ManifestPreloadCondition as ManifestPreloadCondition,
        ManifestPreloadConfig as ManifestPreloadConfig,
        ManifestSplitCondition as ManifestSplitCondition,
        ManifestSplitDimCondition as ManifestSplitDimCondition,
        ManifestSplittingConfig as ManifestSplittingConfig,
        ManifestVirtualChunkLocationCompressionConfig as ManifestVirtualChunkLocationCompressionConfig,
        RepoUpdateRetryConfig as RepoUpdateRetryConfig,
        RepositoryConfig as RepositoryConfig,
        SplitSizesDict as SplitSizesDict,
        StorageConcurrencySettings as StorageConcurrencySettings,
        StorageRetriesSettings as StorageRetriesSettings,
        StorageSettings as StorageSettings,
        StorageTimeoutSettings as StorageTimeoutSettings,
        from_dict as from_dict,
        to_dict as to_dict,
    )
    from icechunk.conflicts import (
        BasicConflictSolver as BasicConflictSolver,
        Conflict as Conflict,
        ConflictDetector as ConflictDetector,
        ConflictSolver as ConflictSolver,
        ConflictType as ConflictType,
        VersionSelection as VersionSelection,
    )
    from icechunk.credentials import (
        AnyAzureCredential as AnyAzureCredential,
        AnyAzureStaticCredential as AnyAzureStaticCredential,
        AnyCredential as AnyCredential,
        AnyGcsCredential as AnyGcsCredential,
        AnyGcsStaticCredential as AnyGcsStaticCredential,
        AnyS3Credential as AnyS3Credential,
        AzureCredentials as AzureCredentials,
        AzureRefreshableCredential as AzureRefreshableCredential,
        AzureStaticCredentials as AzureStaticCredentials,
        Credentials as Credentials,
        GcsBearerCredential as GcsBearerCredential,
        GcsCredentials as GcsCredentials,
        GcsStaticCredentials as GcsStaticCredentials,
        S3Credentials as S3Credentials,
        S3StaticCredentials as S3StaticCredentials,
        azure_anonymous_credentials as azure_anonymous_credentials,
        azure_credentials as azure_credentials,
        azure_from_env_credentials as azure_from_env_credentials,
        azure_refreshable_credentials as azure_refreshable_credentials,
        azure_static_credentials as azure_static_credentials,
        containers_credentials as containers_credentials,
        gcs_credentials as gcs_credentials,
        gcs_from_env_credentials as gcs_from_env_credentials,
        gcs_refreshable_credentials as gcs_refreshable_credentials,
        gcs_static_credentials as gcs_static_credentials,
        s3_anonymous_credentials as s3_anonymous_credentials,
        s3_credentials as s3_credentials,
        s3_from_env_credentials as s3_from_env_credentials,
        s3_refreshable_credentials as s3_refreshable_credentials,
        s3_static_credentials as s3_static_credentials,
    )
    from icechunk.errors import (
        AlreadyExistsError as AlreadyExistsError,
        ConflictError as ConflictError,
        ErrorKind as ErrorKind,
        FormatError as FormatError,
        IcechunkError as IcechunkError,
        InternalError as InternalError,
        InvalidInputError as InvalidInputError,
        NoChangesToCommitError as NoChangesToCommitError,
        NodeNotFoundError as NodeNotFoundError,
        NotFoundError as NotFoundError,
        ReadOnlyError as ReadOnlyError,
        RebaseFailedError as RebaseFailedError,
        RefNotFoundError as RefNotFoundError,
        RepositoryNotFoundError as RepositoryNotFoundError,
        SessionStateError as SessionStateError,
        SnapshotNotFoundError as SnapshotNotFoundError,
        StorageError as StorageError,
    )
    from icechunk.info import (
        Attribution as Attribution,
        ChunkStorageStats as ChunkStorageStats,
        ChunkType as ChunkType,
        Diff as Diff,
        FeatureFlag as FeatureFlag,
        GCSummary as GCSummary,
        ManifestFileInfo as ManifestFileInfo,
        RepoAvailability as RepoAvailability,
        RepoStatus as RepoStatus,
        SessionMode as SessionMode,
        SnapshotInfo as SnapshotInfo,
        SpecVersion as SpecVersion,
        Update as Update,
        UpdateType as UpdateType,
    )
    from icechunk.logs import (
        print_debug_info as print_debug_info,
        set_logs_filter as set_logs_filter,
        shutdown_telemetry as shutdown_telemetry,
    )
    from icechunk.repository import Repository as Repository
    from icechunk.session import (
        ForkSession as ForkSession,
        MergeOverlapWarning as MergeOverlapWarning,
        Session as Session,
    )
    from icechunk.storage import (
        Storage as Storage,
        azure_storage as azure_storage,
        gcs_storage as gcs_storage,
        hf_storage as hf_storage,
        http_storage as http_storage,
        in_memory_storage as in_memory_storage,
        local_filesystem_storage as local_filesystem_storage,
        r2_storage as r2_storage,
        redirect_storage as redirect_storage,
        s3_storage as s3_storage,
        tigris_storage as tigris_storage,
    )
    from icechunk.store import IcechunkStore as IcechunkStore
    from icechunk.types import CommitMethod as CommitMethod
    from icechunk.versions import (
        spec_version as spec_version,
        supported_spec_versions as supported_spec_versions,
        upgrade_icechunk_repository as upgrade_icechunk_repository,
        user_agent as user_agent,
    )
    from icechunk.virtual_types import (
        AnyObjectStoreConfig as AnyObjectStoreConfig,
        ChecksumAlgorithm as ChecksumAlgorithm,
        ObjectStoreConfig as ObjectStoreConfig,
        S3Options as S3Options,
        VirtualChunkContainer as VirtualChunkContainer,
        VirtualChunkSpec as VirtualChunkSpec,
        gcs_store as gcs_store,
        http_store as http_store,
        local_filesystem_store as local_filesystem_store,
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
    "repository": "Repository",
    "session": "ForkSession MergeOverlapWarning Session",
    "storage": "Storage azure_storage gcs_storage hf_storage http_storage in_memory_storage local_filesystem_storage r2_storage redirect_storage s3_storage tigris_storage",
    "store": "IcechunkStore",
    "types": "CommitMethod",
    "versions": "spec_version supported_spec_versions upgrade_icechunk_repository user_agent",
    "virtual_types": "AnyObjectStoreConfig ChecksumAlgorithm ObjectStoreConfig S3Options VirtualChunkContainer VirtualChunkSpec gcs_store http_store local_filesystem_store s3_store",
    "workspace": "UncommittedChangesWarning",
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = [  # noqa: PLE0604 - the names are data
    "__version__",
    *sorted(_HOMES),
]


def __getattr__(name: str) -> Any:
    module = _HOMES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


initialize_logs()
