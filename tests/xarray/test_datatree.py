"""Trees: every node its group."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
import zarr

import icechunk
from icechunk.xarray import to_icechunk

from .conftest import air, reopened


def forest() -> xr.DataTree:
    """A tree whose deeper nodes inherit the coordinates of the root; one node has nothing but attributes."""
    whole = air()
    coords = whole[["time", "lat", "lon"]]
    return xr.DataTree.from_dict(
        {
            "/": coords.assign(mean=("time", np.arange(12.0))),
            "/model": xr.Dataset(attrs={"institute": "x"}),
            "/model/run": whole[["t"]].drop_vars(["time", "lat", "lon", "height"]),
            "/flux": whole[["wind"]].drop_vars(["time", "lat", "height"]),
        }
    )


def back(repo: icechunk.Repository, group: str | None = None) -> xr.DataTree:
    tree = xr.open_datatree(
        repo.readonly_session("main").store, group=group, engine="zarr", consolidated=False, chunks=None
    )
    return tree.load()


@pytest.mark.parametrize("chunked", [False, True], ids=["memory", "dask"])
def test_writes_every_node(repo: icechunk.Repository, session: icechunk.Session, scheduler: str, chunked: bool) -> None:
    to_icechunk(forest().chunk(time=4) if chunked else forest(), session)
    session.commit("tree")
    xr.testing.assert_identical(back(repo), forest())
    assert "lat" not in zarr.open_group(repo.readonly_session("main").store, path="model/run", mode="r")


def test_below_a_group(repo: icechunk.Repository, session: icechunk.Session) -> None:
    to_icechunk(forest(), session, group="a/b")
    with pytest.raises(FileExistsError):
        to_icechunk(forest(), session, group="a/b")
    session.commit("tree")
    xr.testing.assert_identical(back(repo, "a/b"), forest())


def test_part_of_a_tree(repo: icechunk.Repository, session: icechunk.Session) -> None:
    to_icechunk(forest()["model"], session, encoding={"/model/run": {"t": {"chunks": (3, 4, 5)}}})
    session.commit("model")
    group = zarr.open_group(repo.readonly_session("main").store, mode="r")
    assert group["run/t"].chunks == (3, 4, 5)
    assert "lat" in group


def test_encoding_is_by_group(session: icechunk.Session) -> None:
    encoding = {"/model/run": {"t": {"chunks": (2, 4, 5)}}, "/flux": {"wind": {"chunks": (3, 4)}}}
    to_icechunk(forest(), session, encoding=encoding)
    assert zarr.open_array(session.store, path="model/run/t").chunks == (2, 4, 5)
    assert zarr.open_array(session.store, path="flux/wind").chunks == (3, 4)
    with pytest.raises(ValueError, match="/nowhere"):
        to_icechunk(forest(), session, mode="w", encoding={"/nowhere": {}})


def test_append(repo: icechunk.Repository, session: icechunk.Session) -> None:
    whole = forest()
    to_icechunk(whole.isel(time=slice(0, 4)), session)
    session.commit("first")
    session = reopened(repo)
    to_icechunk(whole.isel(time=slice(4, 12)).chunk(time=4), session, append_dim="time")
    session.commit("second")
    xr.testing.assert_identical(back(repo), whole)


@pytest.mark.parametrize("region", [{"time": slice(4, 8)}, {"time": "auto"}], ids=str)
def test_region_of_inherited_coordinates(
    repo: icechunk.Repository, session: icechunk.Session, region: dict[str, object]
) -> None:
    whole = forest()
    to_icechunk(whole.map_over_datasets(lambda ds: xr.zeros_like(ds)), session)
    session.commit("zeros")
    part = whole.isel(time=slice(4, 8))
    root = part.to_dataset().drop_vars(["lat", "lon", "height"])
    nodes = {"/": root, **{path: part[path].to_dataset(inherit=False) for path in ("/model", "/model/run", "/flux")}}
    session = reopened(repo)
    to_icechunk(xr.DataTree.from_dict(nodes), session, region=region)
    session.commit("part")
    result = back(repo)
    for path, name in (("/", "mean"), ("/model/run", "t"), ("/flux", "wind")):
        np.testing.assert_array_equal(result[path][name][4:8], whole[path][name][4:8])
        assert not result[path][name][:4].any(), (path, name)
        assert not result[path][name][8:].any(), (path, name)
