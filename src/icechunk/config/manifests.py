"""How manifests are split, fetched ahead, and compressed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from icechunk import checks
from icechunk.config.conditions import (
    DEFAULT_PRELOAD_CONDITION,
    ManifestPreloadCondition,
    ManifestSplitCondition,
    ManifestSplitDimCondition,
)
from icechunk.config.fields import Field, Instance, Settings, i32, section, u16, u32
from icechunk.display import Card, Plain, Row

DimSizes: TypeAlias = list[tuple[ManifestSplitDimCondition, int]]
SplitSizes: TypeAlias = list[tuple[ManifestSplitCondition, DimSizes]]
ManifestSplitValues: TypeAlias = dict[
    ManifestSplitDimCondition.Axis | ManifestSplitDimCondition.DimensionName | ManifestSplitDimCondition.Any, int
]
SplitSizesDict: TypeAlias = dict[ManifestSplitCondition, ManifestSplitValues]

_NO_LIMIT = 0xFFFF_FFFF


def _checked_sizes(value: Any) -> SplitSizes:
    """Pairs of a condition and (dimension condition, size) pairs, as nested lists."""
    result: SplitSizes = []
    for condition, dims in _pairs(value, "split_sizes"):
        checks.instance(condition, "split_sizes", ManifestSplitCondition)
        sizes = [
            (
                checks.instance(dim, "split_sizes", ManifestSplitDimCondition),
                checks.integer(size, "split_sizes", bits=32, non_zero=True),
            )
            for dim, size in _pairs(dims, "split_sizes")
        ]
        result.append((condition, sizes))
    return result


def _pairs(value: Any, name: str) -> list[tuple[Any, Any]]:
    if isinstance(value, str | dict) or not isinstance(value, Iterable):
        raise TypeError(f"argument '{name}': expected a sequence of pairs, not '{type(value).__name__}'")
    pairs = list(value)
    for pair in pairs:
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise TypeError(f"argument '{name}': expected a pair, not {pair!r}")
    return [(pair[0], pair[1]) for pair in pairs]


class _Sizes:
    """The kind of `split_sizes`."""

    def check(self, value: Any, name: str) -> SplitSizes:
        return _checked_sizes(value)


class ManifestSplittingConfig(Settings):
    """How the chunk references of an array are distributed over manifests.

    A sequence of rules. Each says which arrays it is for, and how many chunks a manifest spans along which dimension. The
    first size found for a dimension counts, rule by rule; a dimension without any is not split.

        ManifestSplittingConfig.from_dict({
            ManifestSplitCondition.path_matches("/temperature"): {ManifestSplitDimCondition.DimensionName("time"): 365},
            ManifestSplitCondition.AnyArray(): {ManifestSplitDimCondition.Any(): 10_000},
        })

    Parameters
    ----------
    split_sizes
        The rules, as pairs of a condition and pairs of a dimension condition and a size.
    """

    __slots__ = ()
    _title = "icechunk.config.ManifestSplittingConfig"

    split_sizes: Field[Any] = Field(_Sizes(), None, "The rules, as lists of tuples.")  # type: ignore[arg-type]

    def __init__(
        self,
        split_sizes: Sequence[tuple[ManifestSplitCondition, Sequence[tuple[ManifestSplitDimCondition, int]]]]
        | None = None,
    ) -> None:
        super().__init__(split_sizes=split_sizes)

    @staticmethod
    def from_dict(split_sizes: SplitSizesDict) -> ManifestSplittingConfig:
        """The rules from `{condition: {dimension condition: size}}`, in the order of the dict."""
        return from_dict(split_sizes)

    def to_dict(config: ManifestSplittingConfig) -> SplitSizesDict:
        """The rules as `{condition: {dimension condition: size}}`."""
        return to_dict(config)

    def _card(self) -> Card:
        rules = DEFAULT_SPLIT_SIZES if self.split_sizes is None else self.split_sizes
        return Card(self._title, [Row("split_sizes", Plain(repr(rules)), self.split_sizes is None)])


def from_dict(split_sizes: SplitSizesDict) -> ManifestSplittingConfig:
    """See `ManifestSplittingConfig.from_dict`."""
    return ManifestSplittingConfig([(condition, list(dims.items())) for condition, dims in split_sizes.items()])


def to_dict(config: ManifestSplittingConfig) -> SplitSizesDict:
    """See `ManifestSplittingConfig.to_dict`."""
    return {condition: dict(dims) for condition, dims in config.split_sizes or ()}


DEFAULT_SPLIT_SIZES: SplitSizes = [
    (ManifestSplitCondition.PathMatches(".*"), [(ManifestSplitDimCondition.Any(), _NO_LIMIT)])
]
"""One manifest per array."""


class ManifestPreloadConfig(Settings):
    """Which manifests are fetched in the background as soon as a session is opened.

    Parameters
    ----------
    max_total_refs
        How many references may be fetched in all; 0 fetches none. By default 10,000.
    preload_if
        The condition on each manifest. By default small manifests of arrays named like coordinates.
    max_arrays_to_scan
        How many arrays are looked at. By default 50.
    """

    __slots__ = ()
    _title = "icechunk.config.ManifestPreloadConfig"

    max_total_refs = u32(10_000, "How many references may be fetched in all; 10,000 by default.")
    preload_if = section(
        ManifestPreloadCondition,
        "The condition on each manifest; by default small ones of arrays named like coordinates.",
        default=DEFAULT_PRELOAD_CONDITION,
    )
    max_arrays_to_scan = u32(50, "How many arrays are looked at; 50 by default.")

    def __init__(
        self,
        max_total_refs: int | None = None,
        preload_if: ManifestPreloadCondition | None = None,
        max_arrays_to_scan: int | None = None,
    ) -> None:
        super().__init__(max_total_refs=max_total_refs, preload_if=preload_if, max_arrays_to_scan=max_arrays_to_scan)


class ManifestVirtualChunkLocationCompressionConfig(Settings):
    """How the locations of virtual chunks are compressed (spec 2 only; clients older than 2.0 cannot read them).

    Parameters
    ----------
    min_num_chunks
        Manifests with fewer virtual chunks are left alone. By default 1000.
    dictionary_max_training_samples
        How many locations the dictionary is made from. By default 100.
    dictionary_max_size_bytes
        How large the dictionary may become. By default 2048.
    compression_level
        The zstd level. By default 3.
    """

    __slots__ = ()
    _title = "icechunk.config.ManifestVirtualChunkLocationCompressionConfig"

    min_num_chunks = u16(1000, "Manifests with fewer virtual chunks are left alone; 1000 by default.")
    dictionary_max_training_samples = u16(100, "How many locations the dictionary is made from; 100 by default.")
    dictionary_max_size_bytes = u32(2048, "How large the dictionary may become; 2048 by default.")
    compression_level = i32(3, "The zstd level; 3 by default.")

    def __init__(
        self,
        min_num_chunks: int | None = None,
        *,
        dictionary_max_training_samples: int | None = None,
        dictionary_max_size_bytes: int | None = None,
        compression_level: int | None = None,
    ) -> None:
        super().__init__(
            min_num_chunks=min_num_chunks,
            dictionary_max_training_samples=dictionary_max_training_samples,
            dictionary_max_size_bytes=dictionary_max_size_bytes,
            compression_level=compression_level,
        )


class ManifestConfig(Settings):
    """Everything about manifests.

    Parameters
    ----------
    preload
        Which are fetched ahead.
    splitting
        How references are distributed over them. By default an array has one.
    virtual_chunk_location_compression
        How locations of virtual chunks are compressed.
    max_concurrent_manifest_fetches_during_commit
        How many are fetched at once while committing. By default as many as the storage takes well.
    """

    __slots__ = ()
    _title = "icechunk.config.ManifestConfig"

    preload = section(ManifestPreloadConfig, "Which manifests are fetched ahead.", default=ManifestPreloadConfig())
    splitting = section(
        ManifestSplittingConfig,
        "How references are distributed over manifests.",
        default=ManifestSplittingConfig(),
    )
    virtual_chunk_location_compression: Field[ManifestVirtualChunkLocationCompressionConfig | None] = Field(
        Instance(ManifestVirtualChunkLocationCompressionConfig, merges=True),
        ManifestVirtualChunkLocationCompressionConfig(),
        "How locations of virtual chunks are compressed.",
    )
    max_concurrent_manifest_fetches_during_commit = u16(
        None, "How many manifests are fetched at once while committing; by default as many as the storage takes well."
    )

    def __init__(
        self,
        preload: ManifestPreloadConfig | None = None,
        splitting: ManifestSplittingConfig | None = None,
        virtual_chunk_location_compression: ManifestVirtualChunkLocationCompressionConfig | None = None,
        max_concurrent_manifest_fetches_during_commit: int | None = None,
    ) -> None:
        super().__init__(
            preload=preload,
            splitting=splitting,
            virtual_chunk_location_compression=virtual_chunk_location_compression,
            max_concurrent_manifest_fetches_during_commit=max_concurrent_manifest_fetches_during_commit,
        )
