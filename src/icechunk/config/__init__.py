"""The configuration of a repository: `RepositoryConfig` and its parts.

Every class is plain data. Attributes are None where unset, are checked when set, and may be changed at any time; objects
compare by value, can be copied and pickled. `RepositoryConfig.merge` lays one configuration over another,
`RepositoryConfig.effective` fills in the defaults.

    config = icechunk.RepositoryConfig.default()
    config.inline_chunk_threshold_bytes = 1024
    config.caching = icechunk.CachingConfig(num_bytes_chunks=100_000_000)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from icechunk.config.conditions import ManifestPreloadCondition, ManifestSplitCondition, ManifestSplitDimCondition
from icechunk.config.effective import EffectiveConfig, EffectiveStorage, effective_storage
from icechunk.config.manifests import (
    ManifestConfig,
    ManifestPreloadConfig,
    ManifestSplittingConfig,
    ManifestSplitValues,
    ManifestVirtualChunkLocationCompressionConfig,
    SplitSizesDict,
    from_dict,
    to_dict,
)
from icechunk.config.repository import (
    CachingConfig,
    CompressionAlgorithm,
    CompressionConfig,
    RepositoryConfig,
    RepoUpdateRetryConfig,
)
from icechunk.config.storage_settings import (
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
    StorageTimeoutSettings,
)
from icechunk.config.stored import from_stored, to_stored
from icechunk.config.virtual import (
    AnyObjectStoreConfig,
    ChecksumAlgorithm,
    ObjectStoreConfig,
    S3Options,
    VirtualChunkContainer,
)
from icechunk.config.yaml_text import format_yaml, parse_yaml
from icechunk.logs import initialize_logs, set_logs_filter, shutdown_telemetry

if TYPE_CHECKING:
    from icechunk.info import Attribution, FeatureFlag


def __getattr__(name: str) -> Any:
    """`Attribution` and `FeatureFlag` belong to `icechunk.info`, which few need."""
    if name not in ("Attribution", "FeatureFlag"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from icechunk import info

    return getattr(info, name)


__all__ = [
    "AnyObjectStoreConfig",
    "Attribution",
    "CachingConfig",
    "ChecksumAlgorithm",
    "CompressionAlgorithm",
    "CompressionConfig",
    "EffectiveConfig",
    "EffectiveStorage",
    "FeatureFlag",
    "ManifestConfig",
    "ManifestPreloadCondition",
    "ManifestPreloadConfig",
    "ManifestSplitCondition",
    "ManifestSplitDimCondition",
    "ManifestSplitValues",
    "ManifestSplittingConfig",
    "ManifestVirtualChunkLocationCompressionConfig",
    "ObjectStoreConfig",
    "RepoUpdateRetryConfig",
    "RepositoryConfig",
    "S3Options",
    "SplitSizesDict",
    "StorageConcurrencySettings",
    "StorageRetriesSettings",
    "StorageSettings",
    "StorageTimeoutSettings",
    "VirtualChunkContainer",
    "effective_storage",
    "format_yaml",
    "from_dict",
    "from_stored",
    "initialize_logs",
    "parse_yaml",
    "set_logs_filter",
    "shutdown_telemetry",
    "to_dict",
    "to_stored",
]
