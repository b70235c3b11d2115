"""Datasets that VirtualiZarr made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import icechunk
from icechunk.xarray import to_icechunk

virtualizarr = pytest.importorskip("virtualizarr")


def hours(start: int, stop: int) -> xr.Dataset:
    time = np.arange(start, stop)
    return xr.Dataset(
        {
            "t": (("time", "x"), np.arange(start * 5.0, stop * 5.0).reshape(-1, 5)),
            "n": (("time", "x"), np.full((len(time), 5), 7, "i2")),
        },
        coords={"time": time, "x": np.linspace(0, 1, 5)},
        attrs={"title": "hours"},
    )


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    for name, (start, stop) in {"a": (0, 4), "b": (4, 8)}.items():
        encoding = {"t": {"chunksizes": (4, 5)}, "n": {"chunksizes": (4, 5)}}
        hours(start, stop).to_netcdf(tmp_path / f"{name}.nc", engine="h5netcdf", encoding=encoding)
    return f"file://{tmp_path}/"


def virtual(prefix: str, name: str) -> xr.Dataset:
    from obspec_utils.registry import ObjectStoreRegistry
    from obstore.store import LocalStore
    from virtualizarr.parsers import HDFParser

    return virtualizarr.open_virtual_dataset(
        f"{prefix}{name}.nc",
        registry=ObjectStoreRegistry({"file://": LocalStore()}),
        parser=HDFParser(),
        loadable_variables=["time", "x"],
    )


@pytest.fixture
def repo(tmp_path: Path, prefix: str) -> icechunk.Repository:
    config = icechunk.RepositoryConfig.default()
    config.set_virtual_chunk_container(
        icechunk.VirtualChunkContainer(prefix, icechunk.local_filesystem_store(str(tmp_path)))
    )
    return icechunk.Repository.create(
        icechunk.in_memory_storage(), config, icechunk.containers_credentials({prefix: None})
    )


def back(repo: icechunk.Repository, group: str | None = None) -> Any:
    store = repo.readonly_session("main").store
    return xr.open_zarr(store, group=group, consolidated=False, chunks=None).load()


@pytest.mark.parametrize("group", [None, "g", "g/h"])
def test_references_are_written(repo: icechunk.Repository, prefix: str, group: str | None) -> None:
    session = repo.writable_session("main")
    to_icechunk(virtual(prefix, "a"), session, group=group)
    session.commit("a")
    xr.testing.assert_identical(back(repo, group), hours(0, 4))
    reader = repo.readonly_session("main")
    assert reader.chunk_type(f"/{group}/t" if group else "/t", [0, 0]) == icechunk.ChunkType.virtual
    assert len(reader.all_virtual_chunk_locations()) == 2


def test_append(repo: icechunk.Repository, prefix: str) -> None:
    session = repo.writable_session("main")
    to_icechunk(virtual(prefix, "a"), session)
    to_icechunk(virtual(prefix, "b"), session, append_dim="time")
    session.commit("both")
    xr.testing.assert_identical(back(repo), hours(0, 8))


def test_modes(repo: icechunk.Repository, prefix: str) -> None:
    session = repo.writable_session("main")
    to_icechunk(hours(0, 4).rename(t="old"), session, group="g")
    with pytest.raises(FileExistsError):
        to_icechunk(virtual(prefix, "a"), session, group="g")
    to_icechunk(virtual(prefix, "a"), session, group="g", mode="w")
    session.commit("replaced")
    xr.testing.assert_identical(back(repo, "g"), hours(0, 4))


def test_trees(repo: icechunk.Repository, prefix: str) -> None:
    tree = xr.DataTree.from_dict({"/": xr.Dataset(attrs={"two": 2}), "/a": virtual(prefix, "a"), "/b": hours(4, 8)})
    session = repo.writable_session("main")
    to_icechunk(tree, session)
    session.commit("tree")
    assert back(repo).attrs == {"two": 2}
    xr.testing.assert_identical(back(repo, "a"), hours(0, 4))
    xr.testing.assert_identical(back(repo, "b"), hours(4, 8))


def test_encoding_cannot_be_chosen(repo: icechunk.Repository, prefix: str) -> None:
    with pytest.raises(ValueError, match="virtual variables"):
        to_icechunk(virtual(prefix, "a"), repo.writable_session("main"), encoding={"t": {"dtype": "f4"}})
