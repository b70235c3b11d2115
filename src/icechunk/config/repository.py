"""The configuration of a repository."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

from icechunk.config.fields import Field, Flag, Instance, Settings, Table, Text, section, u8, u16, u64
from icechunk.config.manifests import ManifestConfig
from icechunk.config.storage_settings import StorageRetriesSettings, StorageSettings
from icechunk.config.virtual import VirtualChunkContainer, add_container, public_container, with_final_slash
from icechunk.variants import Choice

if TYPE_CHECKING:
    from icechunk.config.effective import EffectiveConfig


class _WithDefault(enum.EnumMeta):
    """Lets an enumeration be called without a value, for its default."""

    def __call__(cls, value: Any = 0, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(value, *args, **kwargs)


class CompressionAlgorithm(Choice, metaclass=_WithDefault):
    """How metadata files are compressed."""

    Zstd = 0

    @staticmethod
    def default() -> CompressionAlgorithm:
        """Zstd, the only one there is."""
        return CompressionAlgorithm.Zstd


class CompressionConfig(Settings):
    """How metadata files are compressed. Chunks are compressed by Zarr's codecs, never by Icechunk.

    Parameters
    ----------
    algorithm
        Zstd, the only one there is.
    level
        The zstd level, 1 (fast) to 22 (small). By default 3.
    """

    __slots__ = ()
    _title = "icechunk.config.CompressionConfig"

    algorithm: Field[CompressionAlgorithm | None] = Field(
        Instance(CompressionAlgorithm), CompressionAlgorithm.Zstd, "Zstd, the only one there is."
    )
    level = u8(3, "The zstd level; 3 by default.")

    def __init__(self, algorithm: CompressionAlgorithm | None = None, level: int | None = None) -> None:
        super().__init__(algorithm=algorithm, level=level)

    @staticmethod
    def default() -> CompressionConfig:
        """Everything unset."""
        return CompressionConfig()


class CachingConfig(Settings):
    """How much a repository keeps in memory.

    Parameters
    ----------
    num_snapshot_nodes
        Nodes of snapshots. By default 500,000.
    num_chunk_refs
        Chunk references of manifests. By default 15,000,000.
    num_transaction_changes
        Changes of transaction logs. By default 0.
    num_bytes_attributes
        Bytes of attributes; kept for compatibility.
    num_bytes_chunks
        Bytes of chunks. By default 0.
    """

    __slots__ = ()
    _title = "icechunk.config.CachingConfig"

    num_snapshot_nodes = u64(500_000, "Nodes of snapshots; 500,000 by default.")
    num_chunk_refs = u64(15_000_000, "Chunk references of manifests; 15,000,000 by default.")
    num_transaction_changes = u64(0, "Changes of transaction logs; 0 by default.")
    num_bytes_attributes = u64(0, "Bytes of attributes; kept for compatibility.")
    num_bytes_chunks = u64(0, "Bytes of chunks; 0 by default.")

    def __init__(
        self,
        num_snapshot_nodes: int | None = None,
        num_chunk_refs: int | None = None,
        num_transaction_changes: int | None = None,
        num_bytes_attributes: int | None = None,
        num_bytes_chunks: int | None = None,
    ) -> None:
        super().__init__(
            num_snapshot_nodes=num_snapshot_nodes,
            num_chunk_refs=num_chunk_refs,
            num_transaction_changes=num_transaction_changes,
            num_bytes_attributes=num_bytes_attributes,
            num_bytes_chunks=num_bytes_chunks,
        )

    @staticmethod
    def default() -> CachingConfig:
        """Everything unset."""
        return CachingConfig()


DEFAULT_UPDATE_RETRIES = StorageRetriesSettings(max_tries=100, initial_backoff_ms=50, max_backoff_ms=30_000)


class RepoUpdateRetryConfig(Settings):
    """How an update of a repository is repeated when another process was faster (spec 2).

    Parameters
    ----------
    default
        Tries and pauses. By default 100 tries, pauses from 50 ms to 30 s.
    """

    __slots__ = ()
    _title = "icechunk.config.RepoUpdateRetryConfig"

    default = section(StorageRetriesSettings, "Tries and pauses.", default=DEFAULT_UPDATE_RETRIES, merges=True)

    def __init__(self, default: StorageRetriesSettings | None = None) -> None:
        super().__init__(default=default)


class RepositoryConfig(Settings):
    """How a repository is read and written. Whatever is None takes the default.

    Parameters
    ----------
    inline_chunk_threshold_bytes
        Chunks of at most this many bytes are kept inside manifests; 0 keeps none there. By default 512.
    get_partial_values_concurrency
        How many ranges of one call are read at once. By default 10.
    compression
        How metadata files are compressed.
    max_concurrent_requests
        How many requests to the storage may be under way at once. By default 256.
    caching
        How much is kept in memory.
    storage
        How the storage is used.
    virtual_chunk_containers
        Where virtual chunks may live, by URL prefix.
    manifest
        Everything about manifests.
    repo_update_retries
        How an update is repeated when another process was faster.
    num_updates_per_repo_info_file
        How many entries of the operations log one file holds. By default 1000.
    max_concurrent_decodes
        How many large files are decoded at once. By default 2.
    segmented_metadata
        Write metadata files in segments of which each can be decoded alone: a large repository then opens faster, from
        files a few per cent larger. Every Icechunk client reads them. By default off.
    pack_small_chunks
        Store many small chunks (up to 512 KiB) of one session in one object of about 2 MiB, all but the first 32 of them:
        fewer requests, and a pack is deleted when none of its chunks is needed any more. Every Icechunk client reads
        them. By default on in object stores, and off on local disks and in memory, where requests cost nothing.
    """

    __slots__ = ()
    _title = "icechunk.config.RepositoryConfig"

    inline_chunk_threshold_bytes = u16(512, "Chunks of at most this many bytes are kept inside manifests.")
    get_partial_values_concurrency = u16(10, "How many ranges of one call are read at once.")
    compression = section(
        CompressionConfig, "How metadata files are compressed.", default=CompressionConfig(), merges=True
    )
    max_concurrent_requests = u16(256, "How many requests to the storage may be under way at once.")
    max_concurrent_decodes = u16(2, "How many large files are decoded at once.")
    caching = section(CachingConfig, "How much is kept in memory.", default=CachingConfig(), merges=True)
    storage = section(StorageSettings, "How the storage is used.", merges=True)
    virtual_chunk_containers: Field[dict[str, VirtualChunkContainer] | None] = Field(
        Table(VirtualChunkContainer), None, "Where virtual chunks may live, by URL prefix.", settable=False
    )
    manifest = section(ManifestConfig, "Everything about manifests.", default=ManifestConfig(), merges=True)
    previous_file: Field[str | None] = Field(Text(), None, "Where the configuration was before.", settable=False)
    repo_update_retries = section(
        RepoUpdateRetryConfig,
        "How an update is repeated when another process was faster.",
        default=RepoUpdateRetryConfig(),
        merges=True,
    )
    num_updates_per_repo_info_file = u16(1000, "How many entries of the operations log one file holds.")
    segmented_metadata: Field[bool | None] = Field(
        Flag(), False, "Whether metadata files are written in segments that can be read alone.", extension=True
    )
    pack_small_chunks: Field[bool | None] = Field(
        Flag(), None, "Whether many small chunks of a session are stored in one object.", extension=True
    )

    def __init__(
        self,
        inline_chunk_threshold_bytes: int | None = None,
        get_partial_values_concurrency: int | None = None,
        compression: CompressionConfig | None = None,
        max_concurrent_requests: int | None = None,
        caching: CachingConfig | None = None,
        storage: StorageSettings | None = None,
        virtual_chunk_containers: dict[str, VirtualChunkContainer] | None = None,
        manifest: ManifestConfig | None = None,
        repo_update_retries: RepoUpdateRetryConfig | None = None,
        num_updates_per_repo_info_file: int | None = None,
        max_concurrent_decodes: int | None = None,
        *,
        segmented_metadata: bool | None = None,
        pack_small_chunks: bool | None = None,
    ) -> None:
        super().__init__(
            inline_chunk_threshold_bytes=inline_chunk_threshold_bytes,
            get_partial_values_concurrency=get_partial_values_concurrency,
            compression=compression,
            max_concurrent_requests=max_concurrent_requests,
            caching=caching,
            storage=storage,
            virtual_chunk_containers=virtual_chunk_containers,
            manifest=manifest,
            repo_update_retries=repo_update_retries,
            num_updates_per_repo_info_file=num_updates_per_repo_info_file,
            max_concurrent_decodes=max_concurrent_decodes,
            segmented_metadata=segmented_metadata,
            pack_small_chunks=pack_small_chunks,
        )
        if self._containers is not None:
            self._values["virtual_chunk_containers"] = _with_final_slashes(self._containers)

    @staticmethod
    def default() -> RepositoryConfig:
        """Everything unset, so the defaults take effect."""
        return RepositoryConfig()

    @property
    def _containers(self) -> dict[str, VirtualChunkContainer] | None:
        """The containers themselves, where `virtual_chunk_containers` gives copies."""
        found: dict[str, VirtualChunkContainer] | None = self._values.get("virtual_chunk_containers")
        return found

    def set_virtual_chunk_container(self, cont: VirtualChunkContainer) -> None:
        """Add a place where virtual chunks may live, in the stead of one with the same prefix or name.

        A prefix without its final `/` gets one. Raises `ValueError` when the prefix is no URL, has no host, or does not
        fit the store.
        """
        from icechunk import checks

        checks.instance(cont, "cont", VirtualChunkContainer)
        self._values["virtual_chunk_containers"] = add_container(self._containers or {}, cont)

    def get_virtual_chunk_container(self, name: str) -> VirtualChunkContainer | None:
        """The container of the URL prefix `name`, or None; changing it changes nothing here."""
        containers = self._containers or {}
        found = containers.get(name) or containers.get(with_final_slash(name))
        return None if found is None else found.__copy__()

    def clear_virtual_chunk_containers(self) -> None:
        """No virtual chunk may live anywhere."""
        self._values["virtual_chunk_containers"] = {}

    def effective(self, backend: StorageSettings | None = None) -> EffectiveConfig:
        """All settings as they take effect; `backend` are those that suit the storage."""
        from icechunk.config.effective import effective

        return effective(self, backend)


def _with_final_slashes(containers: dict[str, VirtualChunkContainer]) -> dict[str, VirtualChunkContainer]:
    result = {}
    for prefix, container in containers.items():
        copy: Any = container.__copy__()
        if ":/" in copy.url_prefix:
            copy.url_prefix = with_final_slash(copy.url_prefix)
        result[with_final_slash(prefix) if ":/" in prefix else prefix] = copy
    return result


def public_config(config: RepositoryConfig) -> RepositoryConfig:
    """A copy of `config`, whose virtual chunk containers have no secrets among their options.

    Raises `ValueError` where a secret is a part of an address.
    """
    result = config.copy()
    if config._containers:
        result._values["virtual_chunk_containers"] = {
            prefix: public_container(container) for prefix, container in config._containers.items()
        }
    return result
