"""What other packages import from `icechunk`, and how they use it; each list is what one of them needs."""

from __future__ import annotations

import importlib
import re
from typing import Any

import numpy as np
import pytest
import zarr

import icechunk

NAMES = {
    "cubed": ["icechunk.distributed.merge_sessions", "icechunk.session.ForkSession", "icechunk.Session.fork"],
    "arraylake": [
        *(f"icechunk.ObjectStoreConfig.{kind}" for kind in ("S3", "S3Compatible", "Gcs", "Azure")),
        *(f"icechunk.Any{what}Credential" for what in ("S3", "Gcs", "Azure", "")),
        *("icechunk.S3Options", "icechunk.Credentials.S3", "icechunk.Credentials.Gcs"),
        *("icechunk.S3Credentials.Anonymous", "icechunk.S3StaticCredentials", "icechunk.GcsCredentials.Static"),
        *("icechunk.GcsCredentials.Anonymous", "icechunk.GcsStaticCredentials.BearerToken"),
        *("icechunk.GcsBearerCredential", "icechunk.s3_refreshable_credentials"),
        *("icechunk.gcs_refreshable_credentials", "icechunk.credentials.s3_refreshable_credentials"),
        *("icechunk.CachingConfig", "icechunk.StorageSettings", "icechunk.SpecVersion", "icechunk.Diff"),
        *("icechunk.SnapshotInfo", "icechunk.IcechunkError", "icechunk.Repository.exists"),
        *("icechunk.Repository.fetch_config", "icechunk.Repository.set_default_commit_metadata"),
    ],
    "annizarr": ["icechunk.RepositoryNotFoundError", "icechunk.StorageError", "icechunk.set_logs_filter"],
    "tether-vcs": ["icechunk.Repository.reset_branch", "icechunk.Repository.diff", "icechunk.Repository.ancestry"],
    "phenix-icechunk": [
        *("icechunk.VirtualChunkSpec", "icechunk.IcechunkStore.set_virtual_refs"),
        "icechunk.Credentials.LocalFileSystemAccess",
    ],
    "intake-virtual-icechunk": [
        *(f"icechunk.{kind}_storage" for kind in ("s3", "gcs", "azure", "http", "tigris", "r2", "local_filesystem")),
        *(f"icechunk.{kind}_store" for kind in ("s3", "gcs", "http", "local_filesystem")),
        *(f"icechunk.ObjectStoreConfig.{kind}" for kind in ("LocalFileSystem", "Http")),
        *("icechunk.Repository.transaction", "icechunk.Repository.save_config", "icechunk.xarray.to_icechunk"),
    ],
    "VirtualiZarr": [
        *("icechunk.IcechunkStore.array_chunk_iterator", "icechunk.IcechunkStore.set_virtual_refs_arr"),
        *("icechunk.ChunkType.native", "icechunk.ChunkType.virtual", "icechunk.ChunkType.inline"),
        *("icechunk.IcechunkStore.session", "icechunk.Session.config"),
    ],
}


def resolve(name: str) -> Any:
    """The object that `name`, a dotted path, stands for: modules first, then attributes."""
    parts = name.split(".")
    found: Any = None
    for count, part in enumerate(parts, 1):
        try:
            found = getattr(found, part) if count > 1 else importlib.import_module(part)
        except AttributeError:
            found = importlib.import_module(".".join(parts[:count]))
    return found


@pytest.mark.parametrize("name", sorted({name for names in NAMES.values() for name in names}))
def test_what_others_import_is_there(name: str) -> None:
    assert resolve(name) is not None


def test_the_version_is_one_that_others_ask_for() -> None:
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", icechunk.__version__)
    assert numbers is not None
    assert (2, 2, 2) <= tuple(map(int, numbers.groups())) < (3, 0, 0)


@pytest.mark.parametrize("as_list", [True, False], ids=["list", "arguments"])
def test_as_cubed_writes(as_list: bool) -> None:
    """A store knows its session, tasks get forks, and what comes back is merged, in a list or not."""
    repo = icechunk.Repository.create(icechunk.in_memory_storage())
    with repo.transaction("main", message="array") as store:
        zarr.create_array(store, name="a", shape=(4,), chunks=(1,), dtype="i4")
    session = repo.writable_session("main")
    fork = session.store.session.fork()
    forks = []
    for index in range(4):
        task = fork if index == 0 else session.fork()
        zarr.open_array(task.store, path="a", mode="r+")[index] = index
        forks.append(task)
    merged = icechunk.distributed.merge_sessions(forks) if as_list else icechunk.distributed.merge_sessions(*forks)
    assert isinstance(merged, icechunk.session.ForkSession)
    session.merge(merged)
    session.commit("four tasks")
    np.testing.assert_array_equal(zarr.open_array(repo.readonly_session("main").store, path="a")[:], range(4))


def test_as_catalogues_read() -> None:
    """Open what a catalogue's entry says, and hand a store of it to zarr."""
    storage = icechunk.in_memory_storage()
    assert not icechunk.Repository.exists(storage)
    with pytest.raises(icechunk.RepositoryNotFoundError):
        icechunk.Repository.open(storage)
    repo = icechunk.Repository.open_or_create(storage)
    repo.set_default_commit_metadata({"by": "a catalogue"})
    with repo.transaction("main", message="group") as store:
        zarr.create_group(store, path="g")
    entry = icechunk.Repository.open(storage).readonly_session(branch="main")
    assert dict(zarr.open_group(entry.store, mode="r").groups()).keys() == {"g"}
    assert next(iter(repo.ancestry(branch="main"))).metadata == {"by": "a catalogue"}
