"""Stored configurations: as text (spec 1) and as a tree (spec 2), what both versions write and what nobody should."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from icechunk.config import (
    CachingConfig,
    ChecksumAlgorithm,
    CompressionAlgorithm,
    CompressionConfig,
    ManifestConfig,
    ManifestPreloadCondition,
    ManifestPreloadConfig,
    ManifestSplitCondition,
    ManifestSplitDimCondition,
    ManifestSplittingConfig,
    ManifestVirtualChunkLocationCompressionConfig,
    ObjectStoreConfig,
    RepositoryConfig,
    RepoUpdateRetryConfig,
    S3Options,
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
    StorageTimeoutSettings,
    VirtualChunkContainer,
    format_yaml,
    from_stored,
    parse_yaml,
    to_stored,
)
from icechunk.config.conditions import DEFAULT_PRELOAD_CONDITION
from icechunk.config.yaml_text import core_scalar
from icechunk.errors import ErrorKind, FormatError

Split = ManifestSplitCondition
Dim = ManifestSplitDimCondition
Preload = ManifestPreloadCondition

BY_1_1 = """\
inline_chunk_threshold_bytes: 12
get_partial_values_concurrency: null
compression:
  algorithm: zstd
  level: 3
max_concurrent_requests: null
caching: null
storage:
  concurrency: null
  retries:
    max_tries: 3
    initial_backoff_ms: 10
    max_backoff_ms: 20
  unsafe_use_conditional_update: false
  unsafe_use_conditional_create: null
  unsafe_use_metadata: null
  storage_class: yes
  metadata_storage_class: '1e3'
  chunks_storage_class: '0x1F'
  minimum_size_for_multipart_upload: null
virtual_chunk_containers:
  file:///d/:
    name: null
    url_prefix: file:///d/
    store: !local_file_system /d
  s3://b/p/:
    name: null
    url_prefix: s3://b/p/
    store: !s3
      region: us-east-1
      endpoint_url: null
      anonymous: false
      allow_http: false
      force_path_style: false
      network_stream_timeout_seconds: 60
      requester_pays: false
  gcs:
    name: gcs
    url_prefix: gcs
    store: !gcs {}
  http://h:80/:
    name: null
    url_prefix: http://h:80/
    store: !http
      timeout: 5s
manifest:
  preload:
    max_total_refs: 3
    preload_if: !or
    - 'true'
    - 'false'
    - !num_refs
      from: !Included 1
      to: Unbounded
    - !num_refs
      from: !Excluded 3
      to: !Included 4
    - !name_matches
      regex: 'a: b # c'
    - !and []
  splitting:
    split_sizes:
    - - any_array
      - - condition: Any
          num_chunks: 3
        - condition: !Axis 1
          num_chunks: 4
        - condition: !DimensionName no
          num_chunks: 5
    - - !or
        - !path_matches
          regex: '~'
        - !name_matches
          regex: |-
            multi
            line
      - []
"""


def test_what_version_1_writes() -> None:
    config = parse_yaml(BY_1_1)
    store = ObjectStoreConfig.S3(S3Options("us-east-1", network_stream_timeout_seconds=60))
    expected = RepositoryConfig(
        inline_chunk_threshold_bytes=12,
        compression=CompressionConfig(CompressionAlgorithm.Zstd, 3),
        storage=StorageSettings(
            retries=StorageRetriesSettings(3, 10, 20),
            unsafe_use_conditional_update=False,
            storage_class="yes",
            metadata_storage_class="1e3",
            chunks_storage_class="0x1F",
        ),
        virtual_chunk_containers={
            "file:///d/": VirtualChunkContainer("file:///d/", ObjectStoreConfig.LocalFileSystem("/d")),
            "s3://b/p/": VirtualChunkContainer("s3://b/p/", store),
            "gcs": VirtualChunkContainer("gcs", ObjectStoreConfig.Gcs(), "gcs"),
            "http://h:80/": VirtualChunkContainer("http://h:80/", ObjectStoreConfig.Http({"timeout": "5s"})),
        },
        manifest=ManifestConfig(
            preload=ManifestPreloadConfig(
                3,
                Preload.Or(
                    [
                        Preload.true(),
                        Preload.false(),
                        Preload.num_refs(1, None),
                        config.manifest.preload.preload_if._0[3],  # type: ignore[union-attr]
                        Preload.name_matches("a: b # c"),
                        Preload.And([]),
                    ]
                ),
            ),
            splitting=ManifestSplittingConfig(
                [
                    (Split.AnyArray(), [(Dim.Any(), 3), (Dim.Axis(1), 4), (Dim.DimensionName("no"), 5)]),
                    (Split.path_matches("~") | Split.name_matches("multi\nline"), []),
                ]
            ),
        ),
    )
    assert config == expected
    bounds = config.manifest.preload.preload_if._0[3]  # type: ignore[union-attr]
    assert (getattr(bounds, "from"), bounds.to) == (4, 5)


def test_what_version_2_adds() -> None:
    config = parse_yaml(
        """\
max_concurrent_decodes: 3
storage:
  timeouts:
    connect_timeout_ms: 1
virtual_chunk_containers:
  http://b/p/:
    name: nam
    url_prefix: http://b/p/
    store: !http
      a: b
      headers:
        X-h: v
  s3://b/:
    url_prefix: s3://b/
    store: !tigris {anonymous: true, allow_http: false, checksum_algorithm: crc64_nvme}
manifest:
  preload:
    max_arrays_to_scan: 4
  virtual_chunk_location_compression:
    compression_level: -5
  max_concurrent_manifest_fetches_during_commit: 7
previous_file: some-name
repo_update_retries:
  default:
    max_tries: 9
num_updates_per_repo_info_file: 11
from_the_future:
  a: [1, 2]
"""
    )
    tigris = ObjectStoreConfig.Tigris(S3Options(anonymous=True, checksum_algorithm=ChecksumAlgorithm.Crc64Nvme))
    expected = RepositoryConfig(
        max_concurrent_decodes=3,
        storage=StorageSettings(timeouts=StorageTimeoutSettings(1)),
        virtual_chunk_containers={
            "http://b/p/": VirtualChunkContainer(
                "http://b/p/", ObjectStoreConfig.Http({"a": "b"}, {"X-h": "v"}), "nam"
            ),
            "s3://b/": VirtualChunkContainer("s3://b/", tigris),
        },
        manifest=ManifestConfig(
            ManifestPreloadConfig(max_arrays_to_scan=4),
            None,
            ManifestVirtualChunkLocationCompressionConfig(compression_level=-5),
            7,
        ),
        repo_update_retries=RepoUpdateRetryConfig(StorageRetriesSettings(9)),
        num_updates_per_repo_info_file=11,
    )
    expected._values["previous_file"] = "some-name"
    assert config == expected
    assert parse_yaml(format_yaml(config)) == config, "what we cannot change is kept"


@pytest.mark.parametrize("text", ["", "{}", "---\n{}\n", "# nothing", "a: 1\nb: [1]", b"{}", "\ufeff{}", "caching: ~"])
def test_nothing_set(text: str | bytes) -> None:
    assert parse_yaml(text) == RepositoryConfig()


def test_json_is_yaml() -> None:
    assert parse_yaml('{"inline_chunk_threshold_bytes": 7, "caching": {"num_chunk_refs": 8}}') == RepositoryConfig(
        inline_chunk_threshold_bytes=7, caching=CachingConfig(num_chunk_refs=8)
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("0x10", 16), ("0o17", 15), ("0b11", 3), ("+12", 12), ("&a 5", 5), ("!foo 5", 5), ("0", 0)),
    ],
)
def test_integers(text: str, value: int) -> None:
    assert parse_yaml(f"inline_chunk_threshold_bytes: {text}").inline_chunk_threshold_bytes == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("12", "12"), ("true", "true"), ("yes", "yes"), ("2020-01-01", "2020-01-01"), ("'~'", "~"), ("''", "")],
)
def test_every_scalar_is_a_text_where_texts_belong(text: str, value: str) -> None:
    storage = parse_yaml(f"storage: {{storage_class: {text}}}").storage
    assert storage is not None and storage.storage_class == value


WRONG = {
    "inline_chunk_threshold_bytes: '12'": "inline_chunk_threshold_bytes: expected an integer, found string '12' at line 1 column 31",
    "inline_chunk_threshold_bytes: 1.0": "inline_chunk_threshold_bytes: expected an integer, found floating point 1.0",
    "inline_chunk_threshold_bytes: 070000": "found string '070000'",
    "inline_chunk_threshold_bytes: 1_000": "found string '1_000'",
    "inline_chunk_threshold_bytes: 70000": "70000 is too large, the most is 65535",
    "inline_chunk_threshold_bytes: true": "expected an integer, found True",
    "inline_chunk_threshold_bytes: [1]": "inline_chunk_threshold_bytes: unexpected a list",
    "a: 1\ncaching:\n  num_chunk_refs: -1": "caching.num_chunk_refs: -1 is too small, the least is 0 at line 3 column 19",
    "caching: 3": "caching: expected a map, found integer 3",
    "storage: {unsafe_use_metadata: yes}": "storage.unsafe_use_metadata: expected true or false, found string 'yes'",
    "storage: {retries: {max_tries: 0}}": "storage.retries.max_tries: invalid zero value",
    "storage: {storage_class: [a]}": "storage.storage_class: unexpected a list",
    "compression: {algorithm: lz4}": "compression.algorithm: unknown variant `lz4`, expected one of `zstd`",
    "manifest: {preload: {preload_if: {name_matches: {regex: a}}}}": "expected a word or a tag starting with '!', found a map",
    "manifest: {preload: {preload_if: !foo {}}}": "unknown variant `foo`, expected one of `or`, `and`",
    "manifest: {preload: {preload_if: !num_refs {from: Unbounded}}}": "missing field `to`",
    "manifest: {preload: {preload_if: !num_refs {from: 3, to: 4}}}": "preload_if.from: unknown variant `3`",
    "manifest: {preload: {preload_if: name_matches}}": "preload_if: `name_matches` lacks its content",
    "manifest: {splitting: {split_sizes: [[any_array, [{condition: Any}]]]}}": "split_sizes[0][1][0]: missing field `num_chunks`",
    "manifest: {splitting: {split_sizes: [[any_array, [], 3]]}}": "split_sizes[0]: expected a list of 2 items, found 3",
    "manifest: {splitting: {split_sizes: [[any_array, [{condition: !Axis '1', num_chunks: 1}]]]}}": "condition: expected an integer, found string '1'",
    "virtual_chunk_containers: {a: {url_prefix: a, store: !s3 {anonymous: true}}}": "virtual_chunk_containers.a.store: missing field `allow_http`",
    "virtual_chunk_containers: {a: {url_prefix: a}}": "virtual_chunk_containers.a: missing field `store`",
    "virtual_chunk_containers: {a: {url_prefix: a, store: !gcs {b: ~}}}": "store.b: expected a string, found null",
    "virtual_chunk_containers: [a]": "virtual_chunk_containers: expected a map, found a list",
    "- a": "expected a map, found a list at line 1 column 1",
    "3": "expected a map, found integer 3",
    "null": "expected a map, found None",
    "'{}'": "expected a map, found string '{}'",
    "[a]: 4": "a key is not a scalar",
    "inline_chunk_threshold_bytes: 1\ninline_chunk_threshold_bytes: 2": "duplicate field `inline_chunk_threshold_bytes`",
    "---\na: 1\n---\nb: 2\n": "but found another document",
    "a: [": "line ",
    "\tx: 1": "line ",
    "a: *b": "undefined alias",
}


@pytest.mark.parametrize("text", WRONG)
def test_errors_say_what_is_wrong_and_where(text: str) -> None:
    with pytest.raises(FormatError) as raised:
        parse_yaml(text)
    assert raised.value.kind == ErrorKind.CONFIG_DESERIALIZATION
    assert raised.value.message.startswith("error in config deserialization: ")
    assert WRONG[text] in raised.value.message


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe\x00",
        "x: " + "[" * 5000,
        "manifest: {preload: {preload_if: " + "!or [" * 100 + "]" * 100 + "}}",
        "manifest: {preload: {preload_if: &a !or [*a]}}",
    ],
)
def test_hostile_files_are_refused(text: str | bytes) -> None:
    with pytest.raises(FormatError) as raised:
        parse_yaml(text)
    assert raised.value.kind == ErrorKind.CONFIG_DESERIALIZATION


def test_an_alias_bomb_is_refused_quickly() -> None:
    lines = ["a0: &a0 'true'", *(f"a{n}: &a{n} !or [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))]
    with pytest.raises(FormatError, match="too many values"):
        parse_yaml("\n".join([*lines, "manifest: {preload: {preload_if: *a29}}"]))


def test_large_files_are_read_by_another_parser_with_the_same_result() -> None:
    assert parse_yaml(BY_1_1 + "# " + "x" * 60_000) == parse_yaml(BY_1_1)
    many = [(Split.name_matches(f"[{number}]"), [(Dim.Any(), 1)]) for number in range(600)]
    config = RepositoryConfig(manifest=ManifestConfig(splitting=ManifestSplittingConfig(many)))
    assert parse_yaml(format_yaml(config)) == config


def test_layout_of_the_text() -> None:
    text = format_yaml(
        RepositoryConfig(
            caching=CachingConfig(num_chunk_refs=2),
            manifest=ManifestConfig(
                ManifestPreloadConfig(preload_if=Preload.true() & Preload.num_refs(5, None)),
                ManifestSplittingConfig(
                    [(Split.path_matches("/p") | Split.AnyArray(), [(Dim.Axis(0), 3), (Dim.Any(), 9)])]
                ),
            ),
        )
    )
    assert text == (
        "inline_chunk_threshold_bytes: null\n"
        "get_partial_values_concurrency: null\n"
        "compression: null\n"
        "max_concurrent_requests: null\n"
        "max_concurrent_decodes: null\n"
        "caching:\n"
        "  num_snapshot_nodes: null\n"
        "  num_chunk_refs: 2\n"
        "  num_transaction_changes: null\n"
        "  num_bytes_attributes: null\n"
        "  num_bytes_chunks: null\n"
        "storage: null\n"
        "virtual_chunk_containers: null\n"
        "manifest:\n"
        "  preload:\n"
        "    max_total_refs: null\n"
        "    preload_if: !and\n"
        "    - 'true'\n"
        "    - !num_refs\n"
        "      from: !Included 5\n"
        "      to: Unbounded\n"
        "    max_arrays_to_scan: null\n"
        "  splitting:\n"
        "    split_sizes:\n"
        "    - - !or\n"
        "        - !path_matches\n"
        "          regex: /p\n"
        "        - any_array\n"
        "      - - condition: !Axis 0\n"
        "          num_chunks: 3\n"
        "        - condition: Any\n"
        "          num_chunks: 9\n"
        "  virtual_chunk_location_compression: null\n"
        "  max_concurrent_manifest_fetches_during_commit: null\n"
        "previous_file: null\n"
        "repo_update_retries: null\n"
        "num_updates_per_repo_info_file: null\n"
    )


def test_what_nobody_else_knows_is_stored_only_where_set() -> None:
    assert "segmented_metadata" not in to_stored(RepositoryConfig())
    assert "segmented_metadata" not in format_yaml(RepositoryConfig())
    for value in (True, False):
        config = RepositoryConfig(segmented_metadata=value)
        assert to_stored(config)["segmented_metadata"] is value
        assert from_stored(to_stored(config)) == parse_yaml(format_yaml(config)) == config


def test_the_tree() -> None:
    config = RepositoryConfig(
        compression=CompressionConfig(CompressionAlgorithm.Zstd),
        manifest=ManifestConfig(
            ManifestPreloadConfig(preload_if=DEFAULT_PRELOAD_CONDITION),
            ManifestSplittingConfig([(Split.AnyArray(), [(Dim.Axis(0), 3), (Dim.Any(), 9)])]),
        ),
        virtual_chunk_containers={
            "s3://b/": VirtualChunkContainer("s3://b/", ObjectStoreConfig.S3(S3Options("r"))),
            "mem": VirtualChunkContainer("mem", ObjectStoreConfig.InMemory()),
        },
    )
    tree = to_stored(config)
    assert tree["compression"] == {"algorithm": "zstd", "level": None}
    assert tree["caching"] is None
    assert tree["manifest"]["splitting"] == {
        "split_sizes": [
            ["any_array", [{"condition": {"Axis": 0}, "num_chunks": 3}, {"condition": "Any", "num_chunks": 9}]]
        ]
    }
    names, refs = tree["manifest"]["preload"]["preload_if"]["and"]
    assert len(names["or"]) == 6 and all(list(name) == ["name_matches"] for name in names["or"])
    assert refs == {"num_refs": {"from": "Unbounded", "to": {"Included": 1000}}}
    assert tree["virtual_chunk_containers"]["s3://b/"]["store"]["s3"]["region"] == "r"
    assert tree["virtual_chunk_containers"]["mem"]["store"] == "in_memory"
    assert json.loads(json.dumps(tree)) == tree, "nothing but dicts, lists and scalars"
    assert from_stored(tree) == config


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (None, "expected a map, found None"),
        ([], "expected a map, found a list"),
        ({"caching": 3}, "caching: expected a map, found integer 3"),
        ({"inline_chunk_threshold_bytes": "3"}, "expected an integer, found string '3'"),
        ({"inline_chunk_threshold_bytes": True}, "expected an integer, found True"),
        ({"manifest": {"preload": {"preload_if": {"true": 1, "false": 2}}}}, "expected a map of one key, found 2"),
        ({"manifest": {"preload": {"preload_if": "or"}}}, "`or` lacks its content"),
        ({"storage": {"storage_class": 3}}, "storage.storage_class: expected a string, found integer 3"),
    ],
)
def test_wrong_trees(tree: Any, message: str) -> None:
    with pytest.raises(FormatError) as raised:
        from_stored(tree)
    assert raised.value.kind == ErrorKind.CONFIG_DESERIALIZATION
    assert message in raised.value.message


def test_partial_trees_and_unknown_keys() -> None:
    assert from_stored({}) == RepositoryConfig()
    assert from_stored({"caching": {"num_chunk_refs": 3, "new": 1}, "newer": {"a": None}}) == RepositoryConfig(
        caching=CachingConfig(num_chunk_refs=3)
    )


def test_a_stored_size_of_zero_does_not_lock_a_repository_up() -> None:
    config = from_stored(
        {"manifest": {"splitting": {"split_sizes": [["any_array", [{"condition": "Any", "num_chunks": 0}]]]}}}
    )
    assert config.effective().splitting == [(Split.AnyArray(), [(Dim.Any(), 0)])]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("", None), ("~", None), ("null", None), ("NULL", None), ("nULL", "nULL")),
        *(("true", True), ("False", False), ("yes", "yes"), ("on", "on")),
        *(("1", 1), ("-0x1", -1), ("1.5", 1.5), (".5", 0.5), ("1e3", 1000.0), ("-.inf", float("-inf"))),
        *(
            ("1_000", "1_000"),
            ("017", "017"),
            ("12:30", "12:30"),
            ("2020-01-01", "2020-01-01"),
            ("=", "="),
            ("<<", "<<"),
        ),
    ],
)
def test_scalars_of_the_core_schema(text: str, value: Any) -> None:
    found = core_scalar(text)
    assert found == value and type(found) is type(value)


# ----------------------------------------------------------------------------------------------------------- round trips

texts = st.text(max_size=12) | st.sampled_from(
    [
        "yes",
        "no",
        "~",
        "null",
        "1",
        "0x1F",
        "1e3",
        "- a",
        "a: b",
        "#x",
        "",
        " a ",
        "a\nb",
        "'",
        '"',
        "\\",
        "é\u2028\x00",
        "!t",
    ]
)
texts = texts.filter(lambda text: not any("\ud800" <= char <= "\udfff" for char in text))
keys = texts
split_conditions = st.recursive(
    st.builds(Split.AnyArray) | st.builds(Split.path_matches, texts) | st.builds(Split.name_matches, texts),
    lambda inner: st.builds(Split.Or, st.lists(inner, max_size=3)) | st.builds(Split.And, st.lists(inner, max_size=3)),
    max_leaves=5,
)
dim_conditions = (
    st.builds(Dim.Any) | st.builds(Dim.Axis, st.integers(0, 2**64 - 1)) | st.builds(Dim.DimensionName, texts)
)
counts = st.none() | st.integers(0, 2**32 - 1)
preload_conditions = st.recursive(
    st.sampled_from([Preload.true(), Preload.false()])
    | st.builds(Preload.path_matches, texts)
    | st.builds(Preload.num_refs, counts, counts),
    lambda inner: st.builds(Preload.Or, st.lists(inner, max_size=3)),
    max_leaves=5,
)
options = st.none() | st.dictionaries(keys.filter(lambda key: key != "headers"), texts, min_size=1, max_size=3)
stores = (
    st.builds(ObjectStoreConfig.InMemory)
    | st.builds(ObjectStoreConfig.LocalFileSystem, texts)
    | st.builds(
        ObjectStoreConfig.S3,
        st.builds(
            S3Options, texts, texts, st.booleans(), st.booleans(), checksum_algorithm=st.sampled_from(ChecksumAlgorithm)
        ),
    )
    | st.builds(ObjectStoreConfig.Gcs, options)
    | st.builds(ObjectStoreConfig.Http, options, options)
)
u16 = st.none() | st.integers(0, 2**16 - 1)
positive = st.none() | st.integers(1, 2**16 - 1)
flags = st.none() | st.booleans()
configs = st.builds(
    RepositoryConfig,
    inline_chunk_threshold_bytes=u16,
    compression=st.none()
    | st.builds(CompressionConfig, st.none() | st.just(CompressionAlgorithm.Zstd), st.integers(0, 255)),
    caching=st.none() | st.builds(CachingConfig, st.none() | st.integers(0, 2**64 - 1)),
    storage=st.none()
    | st.builds(
        StorageSettings,
        st.none() | st.builds(StorageConcurrencySettings, positive, positive),
        unsafe_use_metadata=flags,
        storage_class=st.none() | texts,
    ),
    virtual_chunk_containers=st.none()
    | st.dictionaries(keys, st.builds(VirtualChunkContainer, texts, stores, st.none() | texts), max_size=3),
    manifest=st.none()
    | st.builds(
        ManifestConfig,
        st.none() | st.builds(ManifestPreloadConfig, counts, st.none() | preload_conditions),
        st.none()
        | st.builds(
            ManifestSplittingConfig,
            st.none()
            | st.lists(
                st.tuples(split_conditions, st.lists(st.tuples(dim_conditions, st.integers(1, 2**32 - 1)), max_size=3)),
                max_size=3,
            ),
        ),
    ),
    num_updates_per_repo_info_file=u16,
    segmented_metadata=flags,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(configs)
def test_both_forms_round_trip(config: RepositoryConfig) -> None:
    assert from_stored(to_stored(config)) == config
    assert parse_yaml(format_yaml(config)) == config
    assert parse_yaml(format_yaml(config).encode()) == config
