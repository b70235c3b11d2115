"""Settings as they take effect: every default filled in, nothing that could be None but where None means something."""

from __future__ import annotations

from typing import Any, NamedTuple

from icechunk.config.conditions import ManifestPreloadCondition
from icechunk.config.fields import Settings
from icechunk.config.manifests import (
    DEFAULT_SPLIT_SIZES,
    ManifestConfig,
    ManifestPreloadConfig,
    ManifestVirtualChunkLocationCompressionConfig,
    SplitSizes,
)
from icechunk.config.repository import DEFAULT_UPDATE_RETRIES, CachingConfig, CompressionConfig, RepositoryConfig
from icechunk.config.storage_settings import (
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
    StorageTimeoutSettings,
)
from icechunk.config.virtual import VirtualChunkContainer


class Retries(NamedTuple):
    """At most so many tries; pauses in milliseconds."""

    max_tries: int
    initial_backoff_ms: int
    max_backoff_ms: int


class Caching(NamedTuple):
    """How much is kept in memory, see `CachingConfig`."""

    num_snapshot_nodes: int
    num_chunk_refs: int
    num_transaction_changes: int
    num_bytes_attributes: int
    num_bytes_chunks: int


class Preload(NamedTuple):
    """What is fetched ahead, see `ManifestPreloadConfig`."""

    max_total_refs: int
    preload_if: ManifestPreloadCondition
    max_arrays_to_scan: int


class LocationCompressionSettings(NamedTuple):
    """See `ManifestVirtualChunkLocationCompressionConfig`; in the order of the encoder's own parameters."""

    min_num_chunks: int
    dictionary_max_training_samples: int
    dictionary_max_size_bytes: int
    compression_level: int


class EffectiveStorage(NamedTuple):
    """How the storage is used, see `StorageSettings`."""

    max_concurrent_requests_for_object: int
    ideal_concurrent_request_size: int
    retries: Retries
    connect_timeout_ms: int | None
    read_timeout_ms: int | None
    operation_timeout_ms: int | None
    operation_attempt_timeout_ms: int | None
    unsafe_use_conditional_update: bool
    unsafe_use_conditional_create: bool
    unsafe_use_metadata: bool
    metadata_storage_class: str | None
    chunks_storage_class: str | None
    minimum_size_for_multipart_upload: int


class EffectiveConfig(NamedTuple):
    """How a repository is read and written, see `RepositoryConfig`.

    `manifest_fetch_concurrency` and `pack_small_chunks` are None where they are left to the storage.
    """

    inline_chunk_threshold_bytes: int
    get_partial_values_concurrency: int
    compression_level: int
    max_concurrent_requests: int
    max_concurrent_decodes: int
    caching: Caching
    preload: Preload
    splitting: SplitSizes
    location_compression: LocationCompressionSettings
    manifest_fetch_concurrency: int | None
    repo_update_retries: Retries
    num_updates_per_repo_info_file: int
    segmented_metadata: bool
    pack_small_chunks: bool | None
    storage: EffectiveStorage
    storage_settings: StorageSettings
    """The backend's settings with those of the configuration over them, as the backend takes them."""
    virtual_chunk_containers: dict[str, VirtualChunkContainer]


def _filled(cls: type[Settings], settings: Settings | None, *names: str) -> dict[str, Any]:
    """What takes effect of `settings`, a `cls` or None: all scalars, or those that are named."""
    values = {} if settings is None else settings._values
    return {name: values.get(name, cls._fields[name].default) for name in names or cls._fields}


def _retries(settings: StorageRetriesSettings | None) -> Retries:
    return Retries(**_filled(StorageRetriesSettings, settings))


def effective_storage(settings: StorageSettings | None) -> EffectiveStorage:
    """`settings` with the defaults filled in."""
    own = settings or StorageSettings()
    return EffectiveStorage(
        **_filled(StorageConcurrencySettings, own.concurrency),
        **_filled(StorageTimeoutSettings, own.timeouts),
        **_filled(
            StorageSettings,
            own,
            "unsafe_use_conditional_update",
            "unsafe_use_conditional_create",
            "unsafe_use_metadata",
            "minimum_size_for_multipart_upload",
        ),
        retries=_retries(own.retries),
        metadata_storage_class=own.metadata_storage_class or own.storage_class,
        chunks_storage_class=own.chunks_storage_class or own.storage_class,
    )


def effective(config: RepositoryConfig, backend: StorageSettings | None = None) -> EffectiveConfig:
    """`config` with the defaults filled in; `backend` are the settings that suit the storage."""
    storage = backend or StorageSettings()
    if config.storage is not None:
        storage = storage.merge(config.storage)
    manifest = config.manifest or ManifestConfig()
    sizes = None if manifest.splitting is None else manifest.splitting.split_sizes
    update_retries = None if config.repo_update_retries is None else config.repo_update_retries.default
    return EffectiveConfig(
        **_filled(
            RepositoryConfig,
            config,
            "inline_chunk_threshold_bytes",
            "get_partial_values_concurrency",
            "max_concurrent_requests",
            "max_concurrent_decodes",
            "num_updates_per_repo_info_file",
            "segmented_metadata",
            "pack_small_chunks",
        ),
        compression_level=_filled(CompressionConfig, config.compression)["level"],
        caching=Caching(**_filled(CachingConfig, config.caching)),
        preload=Preload(**_filled(ManifestPreloadConfig, manifest.preload)),
        splitting=DEFAULT_SPLIT_SIZES if sizes is None else sizes,
        location_compression=LocationCompressionSettings(
            **_filled(ManifestVirtualChunkLocationCompressionConfig, manifest.virtual_chunk_location_compression)
        ),
        manifest_fetch_concurrency=manifest.max_concurrent_manifest_fetches_during_commit or None,
        repo_update_retries=_retries(update_retries or DEFAULT_UPDATE_RETRIES),
        storage=effective_storage(storage),
        storage_settings=storage,
        virtual_chunk_containers=config.virtual_chunk_containers or {},
    )
