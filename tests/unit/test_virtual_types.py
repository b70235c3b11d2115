"""Virtual chunk containers, the stores that reach them, and specifications of virtual chunks."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime, timedelta, timezone
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pytest

from icechunk.config import RepositoryConfig
from icechunk.virtual_types import (
    AnyObjectStoreConfig,
    ChecksumAlgorithm,
    ObjectStoreConfig,
    S3Options,
    VirtualChunkContainer,
    VirtualChunkSpec,
    azure_store,
    gcs_store,
    http_store,
    local_filesystem_store,
    s3_store,
)

STORES = {
    "s3": s3_store(),
    "s3 compatible": s3_store(s3_compatible=True),
    "tigris": ObjectStoreConfig.Tigris(S3Options()),
    "gcs": gcs_store(),
    "azure": azure_store(account="a"),
    "http": http_store(),
    "local": local_filesystem_store("/x"),
    "memory": ObjectStoreConfig.InMemory(),
}


def test_stores() -> None:
    assert s3_store("r", anonymous=True) == ObjectStoreConfig.S3(
        S3Options("r", anonymous=True, network_stream_timeout_seconds=60)
    )
    compatible = s3_store(s3_compatible=True, force_path_style=True, checksum_algorithm=ChecksumAlgorithm.Sha1)
    match compatible:
        case ObjectStoreConfig.S3Compatible(options):
            assert options.force_path_style and options.checksum_algorithm is ChecksumAlgorithm.Sha1
        case _:
            pytest.fail("no match")
    assert gcs_store({"a": "b"})._0 == {"a": "b"}
    assert gcs_store()._0 is None
    assert (http_store({"a": "b"}, {"h": "v"})._0, http_store({"a": "b"}, {"h": "v"})._1) == ({"a": "b"}, {"h": "v"})
    assert ObjectStoreConfig.Http({"a": "b"}) == http_store({"a": "b"})
    assert azure_store(account="x", config={"a": "b", "account": "other"})._0 == {"a": "b", "account": "x"}
    assert local_filesystem_store(PurePosixPath("/x")) == local_filesystem_store("/x")  # type: ignore[arg-type]


@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
def test_stores_are_values(store: ObjectStoreConfig) -> None:
    assert isinstance(store, ObjectStoreConfig) and isinstance(store, AnyObjectStoreConfig)
    assert pickle.loads(pickle.dumps(store)) == copy.deepcopy(store) == store
    assert sum(store == other for other in STORES.values()) == 1
    with pytest.raises(AttributeError):
        store._0 = None  # type: ignore[attr-defined]
    assert repr(store).startswith("icechunk.config.ObjectStoreConfig.")
    assert str(store).startswith("<icechunk.config.ObjectStoreConfig.")
    assert "ObjectStoreConfig" in store._repr_html_()


def test_stores_do_not_share_options() -> None:
    options = {"a": "b"}
    store = gcs_store(options)
    options["a"] = "changed"
    assert store._0 == {"a": "b"}


@pytest.mark.parametrize(
    "make",
    [
        lambda: ObjectStoreConfig(),
        lambda: ObjectStoreConfig.S3("options"),  # type: ignore[arg-type]
        lambda: gcs_store({"a": 1}),  # type: ignore[dict-item]
        lambda: http_store({"a": "b"}, {"a": 1}),  # type: ignore[dict-item]
        lambda: local_filesystem_store(3),  # type: ignore[arg-type]
        lambda: S3Options(region=3),  # type: ignore[arg-type]
        lambda: S3Options(allow_http=1),  # type: ignore[arg-type]
        lambda: S3Options(allow_http=None),  # type: ignore[arg-type]
        lambda: S3Options(checksum_algorithm="crc32"),  # type: ignore[arg-type]
        lambda: VirtualChunkContainer("s3://b/", 3),  # type: ignore[arg-type]
        lambda: VirtualChunkContainer(3, s3_store()),  # type: ignore[arg-type]
        lambda: VirtualChunkContainer("s3://b/", s3_store(), name=3),  # type: ignore[arg-type]
    ],
)
def test_wrong_types(make: Any) -> None:
    with pytest.raises(TypeError):
        make()


def test_options() -> None:
    options = S3Options()
    options.requester_pays = True
    options.network_stream_timeout_seconds = None
    assert options == S3Options(requester_pays=True)
    with pytest.raises(OverflowError):
        options.network_stream_timeout_seconds = 2**32
    assert int(ChecksumAlgorithm.Sha256) == 4 and ChecksumAlgorithm.Crc32 == 0 and ChecksumAlgorithm.Crc32
    assert repr(ChecksumAlgorithm.Crc32c) == "icechunk.ChecksumAlgorithm.Crc32c"


def test_secrets_in_options_are_masked() -> None:
    shown = [
        *(
            repr(store) + str(store) + store._repr_html_()
            for store in (
                azure_store(account="acc", config={"account_key": "hush"}),
                gcs_store({"google_service_account_key": "hush"}),
                http_store({"url": "https://user:hush@host/"}, {"Authorization": "hush"}),
                s3_store(endpoint_url="https://user:hush@host/x"),
            )
        ),
        repr(VirtualChunkSpec([0], "https://host/f?X-Amz-Signature=hush&a=b", 0, 1)),
    ]
    assert not any("hush" in text for text in shown)
    assert "acc" in shown[0] and "a=b" in shown[-1]


# ---------------------------------------------------------------------------------------------------------- containers


@pytest.mark.parametrize(
    ("prefix", "fits"),
    [
        ("s3://b/", {"s3", "s3 compatible", "tigris"}),
        ("S3://b/p/", {"s3", "s3 compatible", "tigris"}),
        ("gs://b/", {"gcs"}),
        ("gcs://b/", {"gcs"}),
        ("az://c/", {"azure"}),
        ("azure://c/", {"azure"}),
        ("abfs://c/x/", {"azure"}),
        ("http://h:80/", {"http"}),
        ("https://h/", {"http"}),
        ("file:///x y/", {"local"}),
        ("file:/x/", {"local"}),
        ("s3a://b/", set()),
        ("ftp://b/", set()),
        ("vcc://b/", set()),
    ],
)
def test_stores_serve_schemes(prefix: str, fits: set[str]) -> None:
    for name, store in STORES.items():
        config = RepositoryConfig()
        if name in fits:
            config.set_virtual_chunk_container(VirtualChunkContainer(prefix, store))
            assert list(config.virtual_chunk_containers or ()) == [prefix]
        else:
            with pytest.raises(ValueError, match="Invalid url prefix scheme"):
                config.set_virtual_chunk_container(VirtualChunkContainer(prefix, store))


@pytest.mark.parametrize(
    ("prefix", "store", "message"),
    [
        ("", "s3", "must not be empty"),
        ("foo", "s3", "must be a URL"),
        ("/", "local", "must be a URL"),
        ("s3:///x/", "s3", "must include a host"),
        ("s3:/", "s3", "must include a host"),
        ("gs:///b/", "gcs", "must include a host"),
        ("https:///", "http", "must include a host"),
    ],
)
def test_prefixes_that_name_no_place(prefix: str, store: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RepositoryConfig().set_virtual_chunk_container(VirtualChunkContainer(prefix, STORES[store]))


@pytest.mark.parametrize("name", ["", "a/b"])
def test_names_of_containers(name: str) -> None:
    with pytest.raises(ValueError, match="name must be non-empty"):
        RepositoryConfig().set_virtual_chunk_container(VirtualChunkContainer("s3://b/", STORES["s3"], name))


def test_a_missing_final_slash_is_added() -> None:
    container = VirtualChunkContainer("s3://b/p", STORES["s3"])
    config = RepositoryConfig()
    config.set_virtual_chunk_container(container)
    assert container.url_prefix == "s3://b/p", "what the user has is left alone"
    ours = config.virtual_chunk_containers or {}
    assert [(key, value.url_prefix) for key, value in ours.items()] == [("s3://b/p/", "s3://b/p/")]
    given = RepositoryConfig(virtual_chunk_containers={"s3://b/p": container})
    assert given == config


def test_containers_are_plain() -> None:
    container = VirtualChunkContainer("anything", STORES["memory"])
    container.url_prefix, container.name, container.store = "other", "n/a", STORES["s3"]
    assert container == VirtualChunkContainer("other", STORES["s3"], "n/a")
    assert pickle.loads(pickle.dumps(container)) == container
    with pytest.raises(TypeError):
        container.store = None  # type: ignore[assignment]


# ------------------------------------------------------------------------------------------------------ specifications


def test_specifications() -> None:
    when = datetime(2020, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    spec = VirtualChunkSpec(np.array([1, 2]), "s3://b/k", np.int64(3), 4, "tag", when)
    assert (spec.index, spec.location, spec.offset, spec.length) == ([1, 2], "s3://b/k", 3, 4)
    assert (spec.etag_checksum, spec.last_updated_at_checksum) == ("tag", datetime(2020, 1, 1, tzinfo=UTC))
    assert type(spec.offset) is int
    assert pickle.loads(pickle.dumps(spec)) == spec == copy.copy(spec)
    assert spec != VirtualChunkSpec([1, 2], "s3://b/k", 3, 4)
    assert len({spec, copy.deepcopy(spec)}) == 1
    assert repr(VirtualChunkSpec((0,), "s3://b/k", 0, 1)) == 'icechunk.virtual.VirtualChunkSpec([0], "s3://b/k", 0, 1)'
    with pytest.raises(AttributeError):
        spec.length = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (([-1], "a", 0, 1), OverflowError),
        (([2**32], "a", 0, 1), OverflowError),
        (([1], "a", -1, 1), OverflowError),
        (([1], "a", 0, 2**64), OverflowError),
        (("12", "a", 0, 1), TypeError),
        (([1.5], "a", 0, 1), TypeError),
        ((3, "a", 0, 1), TypeError),
        (([1], b"a", 0, 1), TypeError),
        (([1], "a", 0, 1, 3), TypeError),
        (([1], "a", 0, 1, None, datetime(2020, 1, 1)), TypeError),
        (([1], "a", 0, 1, None, 3), TypeError),
    ],
)
def test_wrong_specifications(arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        VirtualChunkSpec(*arguments)
