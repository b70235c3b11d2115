"""Whether zarr may read without its event loop: where nothing waits, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import icechunk
from icechunk.storage.wrappers import StorageWrapper


class Far(StorageWrapper):
    """A storage whose requests are worth having under way at once."""

    concurrency = 8


def sync_io(storage: icechunk.Storage, *containers: tuple[str, Any], access: Any = None) -> bool:
    config = icechunk.RepositoryConfig()
    for prefix, store in containers:
        config.set_virtual_chunk_container(icechunk.VirtualChunkContainer(prefix, store))
    repo = icechunk.Repository.create(storage, config, access)
    store = repo.readonly_session("main").store
    assert (store.get_sync("zarr.json") is None) == (store.get_sync("nothing/zarr.json") is None), (
        "it works all the same"
    )
    try:
        from zarr.abc.store import _store_supports_sync_io
    except ImportError:
        return store._supports_sync_io
    return bool(_store_supports_sync_io(store))


def test_where_nothing_waits(tmp_path: Path) -> None:
    assert sync_io(icechunk.in_memory_storage())
    assert sync_io(icechunk.local_filesystem_storage(tmp_path / "repo"))
    files = f"file://{tmp_path}/"
    access = icechunk.containers_credentials({files: None})
    assert sync_io(icechunk.in_memory_storage(), (files, icechunk.local_filesystem_store(str(tmp_path))), access=access)


def test_where_the_repository_is_far_away() -> None:
    assert not sync_io(Far(icechunk.in_memory_storage()))


@pytest.mark.parametrize("authorized", [True, False])
def test_where_virtual_chunks_are_far_away(authorized: bool) -> None:
    access = icechunk.containers_credentials({"s3://bucket/": icechunk.s3_credentials(anonymous=True)})
    found = sync_io(
        icechunk.in_memory_storage(),
        ("s3://bucket/", icechunk.s3_store(region="us-east-1")),
        access=access if authorized else None,
    )
    assert found is not authorized
