"""Stores that somebody has made with obstore: through the suite that all storages must pass, and under a repository.

Here are those that obstore itself brings; tests/servers has the others.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

pytest.importorskip("obstore")
from obstore.store import AzureStore, GCSStore, HTTPStore, LocalStore, MemoryStore, S3Store

import icechunk
from icechunk._driver import run
from icechunk.errors import ErrorKind, ReadOnlyError, StorageError
from icechunk.storage.base import Storage
from icechunk.testing.storage_suite import StorageSuite
from tests.storage.fake_s3 import FakeS3, serving


class TestObstoreMemory(StorageSuite):
    picklable = False

    @pytest.fixture
    def storage(self) -> Storage:
        return icechunk.obstore_storage(MemoryStore(), "some/where")


class TestObstoreLocal(StorageSuite):
    """The local files of obstore know no compare-and-swap; ours do."""

    conditional = False

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return icechunk.obstore_storage(LocalStore(tmp_path))


@pytest.fixture
def server() -> Iterator[FakeS3]:
    with serving() as state:
        yield state


def s3_store(server: FakeS3, **more: Any) -> S3Store:
    how = {"region": "us-east-1", "access_key_id": "a", "secret_access_key": "hush5ecret"}
    return S3Store("bucket", endpoint=server.url, client_options={"allow_http": True}, **{**how, **more})


def filled(storage: Storage) -> icechunk.Repository:
    repo = icechunk.Repository.create(storage, icechunk.RepositoryConfig(inline_chunk_threshold_bytes=0))
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="t", data=np.arange(6), chunks=(2,))
    session.commit("six")
    return repo


def values(storage: Storage) -> list[int]:
    store = icechunk.Repository.open(storage).readonly_session("main").store
    found: list[int] = zarr.open_array(store, path="t", mode="r")[:].tolist()
    return found


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_a_repository(kind: str, server: FakeS3) -> None:
    store = MemoryStore() if kind == "memory" else s3_store(server)
    filled(icechunk.obstore_storage(store, prefix="/a/b/"))
    assert values(icechunk.obstore_storage(store, prefix="a/b")) == list(range(6))
    assert not icechunk.Repository.exists(icechunk.obstore_storage(store))


def test_the_prefix_of_the_store_comes_first(server: FakeS3) -> None:
    filled(icechunk.obstore_storage(s3_store(server, prefix="outer"), prefix="inner"))
    assert {key.split("/")[0] for key in server.objects} == {"outer"}
    assert values(icechunk.obstore_storage(s3_store(server), prefix="outer/inner")) == list(range(6))


def test_others_see_the_same_objects(server: FakeS3) -> None:
    filled(icechunk.obstore_storage(s3_store(server), prefix="p"))
    ours = icechunk.s3_storage(
        bucket="bucket", prefix="p", region="us-east-1", endpoint_url=server.url, allow_http=True, anonymous=True
    )
    assert values(ours) == list(range(6))


def test_a_pickled_one_works(server: FakeS3) -> None:
    repo = filled(icechunk.obstore_storage(s3_store(server), prefix="p"))
    again = pickle.loads(pickle.dumps(repo.readonly_session("main")))
    assert zarr.open_array(again.store, path="t", mode="r")[:].tolist() == list(range(6))
    fork = pickle.loads(pickle.dumps(repo.writable_session("main").fork()))
    zarr.open_array(fork.store, path="t")[0] = 7
    session = repo.writable_session("main")
    session.merge(fork)
    session.commit("by another")
    assert values(repo.storage)[0] == 7


def test_what_cannot_be_pickled_says_so() -> None:
    with pytest.raises(TypeError, match="MemoryStore"):
        pickle.dumps(icechunk.obstore_storage(MemoryStore()))


def test_read_only(server: FakeS3) -> None:
    store = s3_store(server)
    filled(icechunk.obstore_storage(store))
    storage = icechunk.obstore_storage(store, read_only=True)
    assert values(storage) == list(range(6))
    with pytest.raises(ReadOnlyError):
        run(storage.put("a", b"x"))
    with pytest.raises(ReadOnlyError):
        icechunk.open(storage, "r+")


def test_local_files_of_obstore_refuse_to_lose_commits(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"use icechunk\.local_filesystem_storage") as caught:
        filled(icechunk.obstore_storage(LocalStore(tmp_path)))
    assert caught.value.kind == ErrorKind.UNIMPLEMENTED


def test_a_store_of_unknown_make_is_tried(server: FakeS3) -> None:
    server.conditions = "ignored"
    with pytest.warns(icechunk.UnsafeStorageWarning):
        icechunk.Repository.create(icechunk.obstore_storage(s3_store(server)))


def test_a_web_server(server: FakeS3) -> None:
    filled(icechunk.obstore_storage(s3_store(server), prefix="p"))
    storage = icechunk.obstore_storage(HTTPStore(f"{server.url}/bucket/p", client_options={"allow_http": True}))
    assert storage.read_only
    assert values(storage) == list(range(6))


def test_a_store_of_a_class_of_your_own() -> None:
    class Mine(MemoryStore):
        pass

    filled(icechunk.obstore_storage(Mine()))


@pytest.mark.parametrize(
    ("store", "shown"),
    [
        (S3Store("b", prefix="q", region="r", secret_access_key="hush5ecret", access_key_id="a"), 'S3Store(bucket="b"'),
        (GCSStore("b"), 'GCSStore(bucket="b"'),
        (AzureStore("c", account_name="a", sas_key="sig=hush5ecret"), 'AzureStore(container_name="c"'),
        (HTTPStore("https://user:hush5ecret@example.org/a?sig=hush5ecret"), "****@example.org"),
        (MemoryStore(), "MemoryStore"),
    ],
)
def test_it_says_what_it_is_and_no_secret(store: Any, shown: str) -> None:
    storage = icechunk.obstore_storage(store, "p")
    for text in (repr(storage), str(storage.describe()), repr(storage.__dict__)):
        assert "hush5ecret" not in text
    assert shown in repr(storage)


@pytest.mark.parametrize("wrong", ["s3://bucket", None, icechunk.in_memory_storage(), zarr.storage.MemoryStore()])
def test_what_is_no_store_of_obstore(wrong: Any) -> None:
    with pytest.raises(TypeError, match="expected a store of obstore, got"):
        icechunk.obstore_storage(wrong)


def test_what_wraps_one_is_told_apart() -> None:
    with pytest.raises(TypeError, match=r"pass the store that it wraps, its `\.store`"):
        icechunk.obstore_storage(zarr.storage.ObjectStore(MemoryStore()))
    with pytest.raises(TypeError):
        icechunk.obstore_storage(MemoryStore(), 3)  # type: ignore[arg-type]
