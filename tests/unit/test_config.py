"""Configuration objects: checks, comparison, merging, copies, effective defaults, conditions."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from icechunk.config import (
    CachingConfig,
    CompressionAlgorithm,
    CompressionConfig,
    ManifestConfig,
    ManifestPreloadCondition,
    ManifestPreloadConfig,
    ManifestSplitCondition,
    ManifestSplitDimCondition,
    ManifestSplittingConfig,
    ManifestVirtualChunkLocationCompressionConfig,
    RepositoryConfig,
    RepoUpdateRetryConfig,
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
    StorageTimeoutSettings,
    VirtualChunkContainer,
    from_dict,
    to_dict,
)
from icechunk.config.virtual import ObjectStoreConfig, S3Options

Split = ManifestSplitCondition
Dim = ManifestSplitDimCondition
Preload = ManifestPreloadCondition


def full_config() -> RepositoryConfig:
    """A configuration in which everything is set."""
    config = RepositoryConfig(
        inline_chunk_threshold_bytes=1,
        get_partial_values_concurrency=2,
        compression=CompressionConfig(CompressionAlgorithm.Zstd, 4),
        max_concurrent_requests=5,
        caching=CachingConfig(1, 2, 3, 4, 5),
        storage=StorageSettings(
            StorageConcurrencySettings(6, 7),
            StorageRetriesSettings(8, 9, 10),
            unsafe_use_conditional_create=False,
            unsafe_use_conditional_update=True,
            unsafe_use_metadata=False,
            storage_class="A",
            metadata_storage_class="B",
            chunks_storage_class="C",
            minimum_size_for_multipart_upload=11,
            timeouts=StorageTimeoutSettings(1, 2, 3, 4),
        ),
        manifest=ManifestConfig(
            ManifestPreloadConfig(12, Preload.true() & Preload.num_refs(1, None) | Preload.name_matches("x"), 13),
            from_dict({Split.AnyArray() | Split.path_matches("/p"): {Dim.Axis(1): 2, Dim.DimensionName("t"): 3}}),
            ManifestVirtualChunkLocationCompressionConfig(
                14, dictionary_max_training_samples=15, dictionary_max_size_bytes=16, compression_level=-1
            ),
            17,
        ),
        repo_update_retries=RepoUpdateRetryConfig(StorageRetriesSettings(18, 19, 20)),
        num_updates_per_repo_info_file=21,
        max_concurrent_decodes=22,
        segmented_metadata=True,
    )
    config.set_virtual_chunk_container(VirtualChunkContainer("s3://b/", ObjectStoreConfig.S3(S3Options("us-1"))))
    config.set_virtual_chunk_container(VirtualChunkContainer("file:///d/", ObjectStoreConfig.LocalFileSystem("/d")))
    return config


@pytest.mark.parametrize(
    ("cls", "name", "most"),
    [
        (RepositoryConfig, "inline_chunk_threshold_bytes", 2**16 - 1),
        (RepositoryConfig, "get_partial_values_concurrency", 2**16 - 1),
        (RepositoryConfig, "max_concurrent_requests", 2**16 - 1),
        (RepositoryConfig, "max_concurrent_decodes", 2**16 - 1),
        (RepositoryConfig, "num_updates_per_repo_info_file", 2**16 - 1),
        (CompressionConfig, "level", 255),
        (CachingConfig, "num_chunk_refs", 2**64 - 1),
        (CachingConfig, "num_bytes_chunks", 2**64 - 1),
        (ManifestPreloadConfig, "max_total_refs", 2**32 - 1),
        (ManifestPreloadConfig, "max_arrays_to_scan", 2**32 - 1),
        (ManifestConfig, "max_concurrent_manifest_fetches_during_commit", 2**16 - 1),
        (ManifestVirtualChunkLocationCompressionConfig, "min_num_chunks", 2**16 - 1),
        (ManifestVirtualChunkLocationCompressionConfig, "compression_level", 2**31 - 1),
        (StorageConcurrencySettings, "max_concurrent_requests_for_object", 2**16 - 1),
        (StorageConcurrencySettings, "ideal_concurrent_request_size", 2**64 - 1),
        (StorageRetriesSettings, "max_tries", 2**16 - 1),
        (StorageRetriesSettings, "initial_backoff_ms", 2**32 - 1),
        (StorageTimeoutSettings, "read_timeout_ms", 2**32 - 1),
    ],
)
def test_integers_are_checked(cls: Any, name: str, most: int) -> None:
    settings = cls(**{name: most})
    assert getattr(settings, name) == most
    with pytest.raises(OverflowError, match=name):
        cls(**{name: most + 1})
    with pytest.raises(OverflowError, match=name):
        setattr(settings, name, most + 1)
    with pytest.raises(OverflowError):
        setattr(settings, name, -(2**40))
    for wrong in ("1", 1.5, [1]):
        with pytest.raises(TypeError, match=name):
            setattr(settings, name, wrong)
    assert getattr(settings, name) == most, "a refused value leaves the old one"
    setattr(settings, name, np.int64(7))
    assert type(getattr(settings, name)) is int
    setattr(settings, name, None)
    assert getattr(settings, name) is None


def test_zero_is_refused_where_it_makes_no_sense() -> None:
    for make in (
        lambda: StorageRetriesSettings(max_tries=0),
        lambda: StorageConcurrencySettings(0),
        lambda: StorageConcurrencySettings(1, 0),
        lambda: ManifestSplittingConfig([(Split.AnyArray(), [(Dim.Any(), 0)])]),
    ):
        with pytest.raises(ValueError, match="zero"):
            make()
    assert RepositoryConfig(inline_chunk_threshold_bytes=0).inline_chunk_threshold_bytes == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: RepositoryConfig(caching=3),  # type: ignore[arg-type]
        lambda: RepositoryConfig(virtual_chunk_containers={"a": 3}),  # type: ignore[dict-item]
        lambda: RepositoryConfig(unknown=1),  # type: ignore[call-arg]
        lambda: RepositoryConfig().merge(3),  # type: ignore[arg-type]
        lambda: CompressionConfig(algorithm="zstd"),  # type: ignore[arg-type]
        lambda: StorageSettings(unsafe_use_metadata=1),  # type: ignore[arg-type]
        lambda: StorageSettings(storage_class=1),  # type: ignore[arg-type]
        lambda: ManifestPreloadConfig(preload_if="true"),  # type: ignore[arg-type]
        lambda: ManifestSplittingConfig("abc"),  # type: ignore[arg-type]
        lambda: ManifestSplittingConfig([Split.AnyArray()]),  # type: ignore[list-item]
        lambda: ManifestSplittingConfig([(Dim.Any(), [])]),  # type: ignore[list-item]
        lambda: ManifestSplittingConfig([(Split.AnyArray(), [(Split.AnyArray(), 3)])]),  # type: ignore[list-item]
        lambda: RepositoryConfig().set_virtual_chunk_container("s3://b/"),  # type: ignore[arg-type]
    ],
)
def test_wrong_types_are_refused(make: Any) -> None:
    with pytest.raises(TypeError):
        make()


def test_unknown_and_read_only_attributes() -> None:
    config = RepositoryConfig()
    with pytest.raises(AttributeError):
        config.inline_threshold = 3  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        config.virtual_chunk_containers = {}
    with pytest.raises(AttributeError):
        config.previous_file = "x"
    with pytest.raises(AttributeError):
        del config.caching


def test_everything_is_unset_by_default() -> None:
    for config in (RepositoryConfig(), RepositoryConfig.default()):
        assert all(getattr(config, name) is None for name in RepositoryConfig._fields)
    assert CachingConfig.default() == CachingConfig()
    assert CompressionConfig.default() == CompressionConfig()
    assert CompressionAlgorithm() is CompressionAlgorithm.default() is CompressionAlgorithm.Zstd


def test_comparison_is_by_value_and_does_not_know_defaults() -> None:
    assert full_config() == full_config()
    assert RepositoryConfig() != RepositoryConfig(inline_chunk_threshold_bytes=512)
    assert RepositoryConfig() != 3
    assert ManifestSplittingConfig() != ManifestSplittingConfig(())
    config = full_config()
    assert config.caching is not None
    config.caching.num_bytes_chunks = 6
    assert config != full_config()
    with pytest.raises(TypeError):
        hash(RepositoryConfig())


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, RepositoryConfig.copy, lambda config: pickle.loads(pickle.dumps(config))],
)
def test_copies_are_equal_and_share_nothing(duplicate: Any) -> None:
    config = full_config()
    twin = duplicate(config)
    assert twin == config
    twin.caching.num_bytes_chunks = 99
    twin.manifest.splitting.split_sizes = None
    twin.clear_virtual_chunk_containers()
    assert config == full_config()


def test_sections_are_shared_with_their_owner() -> None:
    caching = CachingConfig()
    config = RepositoryConfig(caching=caching)
    caching.num_bytes_chunks = 7
    assert config.caching is caching


def test_pickles_of_newer_versions_are_read() -> None:
    restore, (cls, values) = CachingConfig(1).__reduce__()
    assert restore(cls, values | {"invented_later": 3}) == CachingConfig(1)


def test_merge_goes_field_by_field() -> None:
    base = RepositoryConfig(
        inline_chunk_threshold_bytes=1,
        get_partial_values_concurrency=2,
        caching=CachingConfig(1, 2),
        storage=StorageSettings(StorageConcurrencySettings(3, 4), storage_class="a"),
        repo_update_retries=RepoUpdateRetryConfig(StorageRetriesSettings(3)),
    )
    over = RepositoryConfig(
        inline_chunk_threshold_bytes=9,
        caching=CachingConfig(num_chunk_refs=8, num_bytes_chunks=7),
        storage=StorageSettings(StorageConcurrencySettings(6), unsafe_use_metadata=False),
        repo_update_retries=RepoUpdateRetryConfig(StorageRetriesSettings(None, 5)),
        segmented_metadata=True,
    )
    merged = base.merge(over)
    assert merged == RepositoryConfig(
        inline_chunk_threshold_bytes=9,
        get_partial_values_concurrency=2,
        caching=CachingConfig(1, 8, num_bytes_chunks=7),
        storage=StorageSettings(StorageConcurrencySettings(6, 4), unsafe_use_metadata=False, storage_class="a"),
        repo_update_retries=RepoUpdateRetryConfig(StorageRetriesSettings(3, 5)),
        segmented_metadata=True,
    )
    assert full_config().merge(RepositoryConfig()) == full_config()
    assert RepositoryConfig().merge(full_config()) == full_config()
    assert merged.caching is not None
    merged.caching.num_bytes_chunks = 100
    assert over.caching == CachingConfig(num_chunk_refs=8, num_bytes_chunks=7), "the parts of a merge are its own"


def test_merge_replaces_preloading_splitting_and_containers_whole() -> None:
    base = RepositoryConfig(
        manifest=ManifestConfig(
            ManifestPreloadConfig(3),
            from_dict({Split.AnyArray(): {Dim.Any(): 3}}),
            ManifestVirtualChunkLocationCompressionConfig(1),
        )
    )
    over = RepositoryConfig(
        manifest=ManifestConfig(
            ManifestPreloadConfig(preload_if=Preload.true()),
            from_dict({Split.name_matches("z"): {Dim.Any(): 4}}),
            ManifestVirtualChunkLocationCompressionConfig(dictionary_max_size_bytes=2),
        )
    )
    manifest = base.merge(over).manifest
    assert manifest == ManifestConfig(
        ManifestPreloadConfig(preload_if=Preload.true()),
        from_dict({Split.name_matches("z"): {Dim.Any(): 4}}),
        ManifestVirtualChunkLocationCompressionConfig(1, dictionary_max_size_bytes=2),
    )
    one, two, none = RepositoryConfig(), RepositoryConfig(), RepositoryConfig()
    one.set_virtual_chunk_container(VirtualChunkContainer("s3://a/", ObjectStoreConfig.S3(S3Options())))
    two.set_virtual_chunk_container(VirtualChunkContainer("s3://b/", ObjectStoreConfig.S3(S3Options())))
    none.clear_virtual_chunk_containers()
    assert list(one.merge(two).virtual_chunk_containers or ()) == ["s3://b/"]
    assert list(one.merge(RepositoryConfig()).virtual_chunk_containers or ()) == ["s3://a/"]
    assert one.merge(none).virtual_chunk_containers == {}


def test_effective_defaults() -> None:
    effective = RepositoryConfig().effective()
    assert effective.inline_chunk_threshold_bytes == 512
    assert effective.get_partial_values_concurrency == 10
    assert effective.compression_level == 3
    assert effective.max_concurrent_requests == 256
    assert effective.caching == (500_000, 15_000_000, 0, 0, 0)
    assert (effective.preload.max_total_refs, effective.preload.max_arrays_to_scan) == (10_000, 50)
    assert effective.location_compression == (1000, 100, 2048, 3)
    assert effective.repo_update_retries == (100, 50, 30_000)
    assert effective.num_updates_per_repo_info_file == 1000
    assert effective.segmented_metadata is False
    assert effective.manifest_fetch_concurrency is None
    assert effective.virtual_chunk_containers == {}
    storage = effective.storage
    assert (storage.max_concurrent_requests_for_object, storage.ideal_concurrent_request_size) == (18, 12 << 20)
    assert storage.retries == (10, 100, 180_000)
    assert storage.unsafe_use_conditional_create and storage.unsafe_use_conditional_update
    assert storage.minimum_size_for_multipart_upload == 100 << 20


def test_what_is_set_takes_effect() -> None:
    effective = full_config().effective()
    assert effective.inline_chunk_threshold_bytes == 1
    assert effective.compression_level == 4
    assert effective.caching == (1, 2, 3, 4, 5)
    assert effective.preload.max_total_refs == 12
    assert effective.splitting == full_config().manifest.splitting.split_sizes  # type: ignore[union-attr]
    assert effective.manifest_fetch_concurrency == 17
    assert effective.repo_update_retries == (18, 19, 20)
    assert effective.segmented_metadata is True
    assert list(effective.virtual_chunk_containers) == ["s3://b/", "file:///d/"]
    assert effective.storage.connect_timeout_ms == 1
    assert (effective.storage.metadata_storage_class, effective.storage.chunks_storage_class) == ("B", "C")


def test_configured_storage_settings_go_over_those_of_the_backend() -> None:
    backend = StorageSettings(StorageConcurrencySettings(5, 1), StorageRetriesSettings(1, 0, 0))
    config = RepositoryConfig(
        storage=StorageSettings(StorageConcurrencySettings(ideal_concurrent_request_size=77), storage_class="cold")
    )
    effective = config.effective(backend)
    assert effective.storage.max_concurrent_requests_for_object == 5
    assert effective.storage.ideal_concurrent_request_size == 77
    assert effective.storage.retries == (1, 0, 0)
    assert effective.storage.metadata_storage_class == effective.storage.chunks_storage_class == "cold"
    assert effective.storage_settings == StorageSettings(
        StorageConcurrencySettings(5, 77), StorageRetriesSettings(1, 0, 0), storage_class="cold"
    )
    assert RepositoryConfig().effective(backend).storage_settings == backend
    assert backend == StorageSettings(StorageConcurrencySettings(5, 1), StorageRetriesSettings(1, 0, 0))


def test_repr_can_be_evaluated_again() -> None:
    import icechunk.config
    import icechunk.config.virtual

    class Names:
        config = icechunk.config
        storage = icechunk.config
        virtual = icechunk.config
        ChecksumAlgorithm = icechunk.config.virtual.ChecksumAlgorithm

    config = full_config()
    names = {"icechunk": Names, "CompressionAlgorithm": CompressionAlgorithm}
    assert eval(repr(config), names) == config
    assert eval(repr(RepositoryConfig()), names) == RepositoryConfig()


def test_text_shows_values_and_marks_defaults() -> None:
    shown = str(RepositoryConfig(inline_chunk_threshold_bytes=7, caching=CachingConfig(num_bytes_chunks=5)))
    assert shown.startswith("<icechunk.config.RepositoryConfig>\ninline_chunk_threshold_bytes: 7\n")
    assert "get_partial_values_concurrency: 10 (default)\n" in shown
    assert "caching:\n    <icechunk.config.CachingConfig>\n    num_snapshot_nodes: 500000 (default)\n" in shown
    assert "\n    num_bytes_chunks: 5\n" in shown
    assert "previous_file" not in shown and "segmented_metadata" not in shown


def test_signatures_are_those_of_the_documentation() -> None:
    parameters = list(inspect.signature(RepositoryConfig).parameters)
    assert parameters[:8] == [
        *("inline_chunk_threshold_bytes", "get_partial_values_concurrency", "compression", "max_concurrent_requests"),
        *("caching", "storage", "virtual_chunk_containers", "manifest"),
    ]
    assert inspect.signature(RepositoryConfig).parameters["segmented_metadata"].kind is inspect.Parameter.KEYWORD_ONLY
    assert str(inspect.signature(Split.PathMatches)) == "(regex)"
    assert isinstance(inspect.getattr_static(RepositoryConfig, "caching"), property)


# ------------------------------------------------------------------------------------------------------- conditions


def test_variants_are_instances_of_their_family() -> None:
    assert isinstance(Split.AnyArray(), Split)
    assert issubclass(Split.PathMatches, Split)
    assert Split.PathMatches.__name__ == "PathMatches"
    assert Split.PathMatches(regex="a") == Split.path_matches("a") != Split.name_matches("a")
    for family in (Split, Dim, Preload):
        with pytest.raises(TypeError, match="cannot create"):
            family()


def test_conditions_combine() -> None:
    a, b, c = Split.path_matches("a"), Split.name_matches("b"), Split.AnyArray()
    assert a | b == Split.or_conditions([a, b]) == Split.Or([a, b])
    assert (a & b) & c == Split.And([Split.And([a, b]), c])
    assert (Preload.true() | Preload.false()) == Preload.or_conditions([Preload.true(), Preload.false()])
    assert Preload.true() & Preload.true() == Preload.and_conditions((Preload.true(), Preload.true()))
    for wrong in (3, "a", Preload.true(), Dim.Any()):
        with pytest.raises(TypeError):
            a | wrong
        with pytest.raises(TypeError):
            a & wrong
    with pytest.raises(TypeError):
        Split.Or([3])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        Dim.Any() | Dim.Any()  # type: ignore[operator]


def test_conditions_are_values() -> None:
    conditions = [
        *(Split.AnyArray(), Split.path_matches("a"), Split.name_matches("a"), Split.Or([]), Split.And([])),
        *(Dim.Any(), Dim.Axis(0), Dim.Axis(1), Dim.DimensionName("a")),
        *(Preload.true(), Preload.false(), Preload.num_refs(1, 2), Preload.num_refs(1, None), Preload.Or([])),
    ]
    assert len(set(conditions)) == len(conditions)
    for condition in conditions:
        twin = pickle.loads(pickle.dumps(condition))
        assert twin == condition and hash(twin) == hash(condition)
        assert copy.deepcopy(condition) == condition
        with pytest.raises(AttributeError):
            condition._0 = 3
        with pytest.raises(AttributeError):
            del condition._0


def test_conditions_match() -> None:
    match Split.path_matches("abc") | Split.AnyArray():
        case Split.Or([Split.PathMatches(regex), Split.AnyArray()]):
            assert regex == "abc"
        case _:
            pytest.fail("no match")
    match Preload.num_refs(3, None):
        case Preload.NumRefs(first, last):
            assert (first, last) == (3, None)
        case _:
            pytest.fail("no match")
    match Dim.Axis(2):
        case Dim.Axis(number):
            assert number == 2


def test_condition_arguments_are_checked() -> None:
    assert Dim.Axis(2**32)._0 == 2**32
    assert Split.path_matches("[").regex == "["  # type: ignore[attr-defined]
    for wrong in (lambda: Split.path_matches(3), lambda: Dim.DimensionName(3), lambda: Dim.Axis("a")):  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            wrong()
    for wrong in (lambda: Dim.Axis(-1), lambda: Dim.Axis(2**64), lambda: Preload.num_refs(-1, 2)):
        with pytest.raises(OverflowError):
            wrong()
    for wrong in (lambda: Split.PathMatches(), lambda: Split.AnyArray(1), lambda: Split.PathMatches("a", regex="b")):  # type: ignore[call-arg,misc]
        with pytest.raises(TypeError):
            wrong()


def test_reference_spellings_of_conditions() -> None:
    assert getattr(Preload, "True")() == Preload.true()
    assert getattr(Preload, "False")() == Preload.false()
    condition = Preload.num_refs(5, 7)
    assert (getattr(condition, "from"), condition.to) == (5, 7)  # type: ignore[attr-defined]
    assert repr(Dim.Axis(1)) == "icechunk.config.ManifestSplitDimCondition.axis(1)"
    assert repr(Split.path_matches("a")) == 'icechunk.config.ManifestSplitCondition.path_matches("a")'


def test_split_sizes_from_and_to_dicts() -> None:
    sizes: Any = {Split.AnyArray(): {Dim.Any(): 3}, Split.name_matches("a"): {Dim.Axis(0): 1, Dim.Axis(1): 2}}
    config = ManifestSplittingConfig.from_dict(sizes)
    assert config.split_sizes == [
        (Split.AnyArray(), [(Dim.Any(), 3)]),
        (Split.name_matches("a"), [(Dim.Axis(0), 1), (Dim.Axis(1), 2)]),
    ]
    assert config == ManifestSplittingConfig(tuple((key, tuple(value.items())) for key, value in sizes.items()))
    assert config.to_dict() == to_dict(config) == sizes
    assert list(config.to_dict()) == list(sizes)


# -------------------------------------------------------------------------------------------------------- containers


def test_containers_are_copied_in_and_out() -> None:
    config = RepositoryConfig()
    container = VirtualChunkContainer("s3://b/p/", ObjectStoreConfig.S3(S3Options()))
    config.set_virtual_chunk_container(container)
    container.name = "changed"
    found = config.get_virtual_chunk_container("s3://b/p/")
    assert found is not None and found.name is None
    assert config.get_virtual_chunk_container("s3://b/p") == found
    assert config.get_virtual_chunk_container("s3://b/") is None
    found.name = "changed"
    (config.virtual_chunk_containers or {}).clear()
    assert config.get_virtual_chunk_container("s3://b/p/") != found
    config.clear_virtual_chunk_containers()
    assert config.virtual_chunk_containers == {}


def test_containers_of_the_same_prefix_or_name_are_replaced() -> None:
    config = RepositoryConfig()
    store = ObjectStoreConfig.S3(S3Options())
    config.set_virtual_chunk_container(VirtualChunkContainer("s3://a/", store))
    config.set_virtual_chunk_container(VirtualChunkContainer("s3://b/", store, "n"))
    config.set_virtual_chunk_container(VirtualChunkContainer("s3://c/", store, "n"))
    config.set_virtual_chunk_container(VirtualChunkContainer("s3://a/", ObjectStoreConfig.S3(S3Options("x"))))
    containers = config.virtual_chunk_containers or {}
    assert list(containers) == ["s3://a/", "s3://c/"]
    assert containers["s3://a/"].store == ObjectStoreConfig.S3(S3Options("x"))


def test_importing_the_configuration_is_cheap() -> None:
    """Neither zarr nor any client library comes along."""
    code = (
        "import sys, icechunk.config, icechunk.splitting, icechunk.info, icechunk.credentials, icechunk.virtual_types;"
        "print([name for name in ('zarr', 'yaml', 'obstore', 'numpy', 'asyncio') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
