"""Repositories with virtual chunks, one per location."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zarr

import icechunk
from tests.servers.web_server import WebServer
from tests.storage.fake_s3 import FakeS3

CHUNK = 8
QUICK = icechunk.StorageSettings(retries=icechunk.StorageRetriesSettings(max_tries=1))


def files(directory: Path) -> icechunk.VirtualChunkContainer:
    return icechunk.VirtualChunkContainer(
        f"file://{directory}/", icechunk.local_filesystem_store(str(directory)), name="files"
    )


def pages(server: WebServer) -> icechunk.VirtualChunkContainer:
    return icechunk.VirtualChunkContainer(f"{server.url}/data/", icechunk.http_store())


def objects(server: FakeS3, bucket: str = "bucket", **options: Any) -> icechunk.VirtualChunkContainer:
    options = {"region": "r", "endpoint_url": server.url, "allow_http": True, "force_path_style": True} | options
    return icechunk.VirtualChunkContainer(f"s3://{bucket}/data/", icechunk.s3_store(s3_compatible=True, **options))


def repository(
    containers: Sequence[icechunk.VirtualChunkContainer], locations: Sequence[str], **checksum: Any
) -> icechunk.Storage:
    """A repository whose array `a` has one virtual chunk of `CHUNK` bytes for each location, from byte 8 on."""
    config = icechunk.RepositoryConfig(storage=QUICK)
    for container in containers:
        config.set_virtual_chunk_container(container)
    storage = icechunk.in_memory_storage()
    repo = icechunk.Repository.create(storage, config)
    session = repo.writable_session("main")
    zarr.create_array(
        session.store, name="a", shape=(CHUNK * len(locations),), chunks=(CHUNK,), dtype="u1", compressors=None
    )
    for index, location in enumerate(locations):
        session.store.set_virtual_ref(
            f"a/c/{index}", location, offset=8, length=CHUNK, validate_container=False, **checksum
        )
    session.commit("virtual")
    return storage


def opened(storage: icechunk.Storage, authorized: dict[str, Any] | None = None, **options: Any) -> icechunk.Repository:
    """Open it, whatever it warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", icechunk.UnauthorizedContainersWarning)
        return icechunk.Repository.open(
            storage, authorize_virtual_chunk_access=icechunk.containers_credentials(authorized or {}), **options
        )


def chunk(repo: icechunk.Repository, index: int = 0) -> bytes:
    """One of the virtual chunks."""
    array = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")
    return bytes(array[index * CHUNK : (index + 1) * CHUNK].tobytes())
