"""Datasets and arrays into a session."""

from __future__ import annotations

from threading import Barrier
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
import zarr

import icechunk
from icechunk.xarray import LazyArrayWriter, is_dask_collection, to_icechunk

from .conftest import air, back, reopened


def test_values_in_memory(repo: icechunk.Repository, session: icechunk.Session) -> None:
    to_icechunk(air(), session)
    session.commit("air")
    xr.testing.assert_identical(back(repo), air())


def test_says_the_same_as_to_zarr(repo: icechunk.Repository, session: icechunk.Session) -> None:
    encoding = {"t": {"chunks": (6, 4, 5), "dtype": "i2", "scale_factor": 0.125, "_FillValue": -1}}
    to_icechunk(air(), session, group="one", encoding=encoding)
    air().to_zarr(session.store, group="two", encoding=encoding, consolidated=False, zarr_format=3)
    one, two = (zarr.open_group(session.store, path=path) for path in ("one", "two"))
    assert dict(one.attrs) == dict(two.attrs)
    for name, array in two.arrays():
        assert one[name].metadata.to_dict() == array.metadata.to_dict(), name
        np.testing.assert_array_equal(one[name][...], array[...])
    assert encoding["t"]["_FillValue"] == -1, "what the caller passed is not touched"


def test_dask(repo: icechunk.Repository, session: icechunk.Session, scheduler: str) -> None:
    to_icechunk(air().chunk(time=5, lat=2), session)
    assert session.has_uncommitted_changes
    session.commit("air")
    xr.testing.assert_identical(back(repo), air())
    assert zarr.open_array(repo.readonly_session("main").store, path="t", mode="r").chunks == (5, 2, 5)


def test_options_for_dask(repo: icechunk.Repository, session: icechunk.Session, elsewhere: dict[str, Any]) -> None:
    to_icechunk(air().chunk(time=4), session, chunkmanager_store_kwargs=elsewhere, split_every=2)
    session.commit("air")
    xr.testing.assert_identical(back(repo), air())


def test_in_memory_storage_with_threads() -> None:
    repo = icechunk.Repository.create(icechunk.in_memory_storage())
    session = repo.writable_session("main")
    to_icechunk(air().chunk(time=4), session)
    session.commit("air")
    xr.testing.assert_identical(back(repo), air())


def test_dask_on_top_of_changes(repo: icechunk.Repository, session: icechunk.Session, scheduler: str) -> None:
    to_icechunk(air(0, 6).chunk(time=3), session)
    to_icechunk(air(6, 12).chunk(time=3), session, append_dim="time")
    session.commit("air")
    xr.testing.assert_identical(back(repo), air())


def test_into_a_fork(repo: icechunk.Repository, session: icechunk.Session, elsewhere: dict[str, Any]) -> None:
    fork = session.fork()
    to_icechunk(air().chunk(time=4), fork, chunkmanager_store_kwargs=elsewhere)
    session.merge(fork)
    session.commit("air")
    xr.testing.assert_identical(back(repo), air())


async def test_inside_a_running_event_loop(
    repo: icechunk.Repository, session: icechunk.Session, scheduler: str
) -> None:
    to_icechunk(air().chunk(time=4), session)
    session.commit("air")
    xr.testing.assert_identical(back(repo), air())


# --- modes, appending, regions ----------------------------------------------------------------------------------------


def test_modes(repo: icechunk.Repository, session: icechunk.Session) -> None:
    to_icechunk(air(), session, group="g")
    with pytest.raises(FileExistsError):
        to_icechunk(air(), session, group="g")
    to_icechunk(air()[["t"]] + 1, session, group="g", mode="a")
    opened = xr.open_zarr(session.store, group="g", consolidated=False)
    assert set(opened.data_vars) == {"t", "wind", "name"}
    assert float(opened["t"][0, 0, 0]) == 1
    to_icechunk(air()[["t"]], session, group="g", mode="w")
    assert set(xr.open_zarr(session.store, group="g", consolidated=False).data_vars) == {"t"}
    to_icechunk(air()[["t"]] + 2, session, group="g", mode="r+")
    with pytest.raises(ValueError, match="non-pre-existing"):
        to_icechunk(air()[["wind"]], session, group="g", mode="r+")


def test_groups_side_by_side(repo: icechunk.Repository, session: icechunk.Session) -> None:
    to_icechunk(air(), session, group="a/b")
    to_icechunk(air(0, 3), session, group="/c/")
    session.commit("two")
    assert back(repo, "a/b").sizes["time"] == 12
    assert back(repo, "c").sizes["time"] == 3


@pytest.mark.parametrize("chunks", [{}, {"time": 2}], ids=["memory", "dask"])
def test_append(repo: icechunk.Repository, session: icechunk.Session, chunks: dict[str, int]) -> None:
    first = air(0, 4)
    first["t"].encoding["chunks"] = (2, 4, 5)
    first["wind"].encoding["chunks"] = (2, 4)
    to_icechunk(first, session)
    session.commit("first")
    session = reopened(repo)
    more = air(4, 12)
    to_icechunk(more.chunk(chunks) if chunks else more, session, append_dim="time")
    session.commit("second")
    xr.testing.assert_identical(back(repo), air())


@pytest.mark.parametrize("region", [{"time": slice(4, 8)}, {"time": "auto"}, "auto"], ids=str)
@pytest.mark.parametrize("chunked", [False, True], ids=["memory", "dask"])
def test_region(repo: icechunk.Repository, session: icechunk.Session, region: Any, chunked: bool) -> None:
    whole = air()[["t", "wind"]].drop_vars("height")
    encoding = {"t": {"chunks": (4, 4, 5)}, "wind": {"chunks": (4, 4)}}
    to_icechunk(xr.full_like(whole, 0), session, encoding=encoding)
    session.commit("zeros")
    part = whole.isel(time=slice(4, 8))
    if region == "auto":
        given: Any = part
    else:
        given = part.drop_vars(["lat", "lon"]) if region["time"] == "auto" else part.drop_vars(["lat", "lon", "time"])
    session = reopened(repo)
    to_icechunk(given.chunk(time=4) if chunked else given, session, region=region)
    session.commit("part")
    result = back(repo)
    np.testing.assert_array_equal(result["t"][4:8], part["t"])
    assert (result["t"][:4] == 0).all()
    assert (result["t"][8:] == 0).all()
    assert region in ({"time": slice(4, 8)}, {"time": "auto"}, "auto"), "what the caller passed is not touched"


def test_arguments_that_contradict_each_other(session: icechunk.Session) -> None:
    for options in (
        {"mode": "q"},
        {"mode": "w", "append_dim": "time"},
        {"mode": "w-", "region": "auto"},
        {"append_dim": "time", "region": {"time": slice(0, 2)}, "mode": "w"},
    ):
        with pytest.raises(ValueError, match="mode"):
            to_icechunk(air(), session, **options)


# --- chunks -----------------------------------------------------------------------------------------------------------


def test_chunks_that_do_not_fit(repo: icechunk.Repository, session: icechunk.Session) -> None:
    encoding = {"t": {"chunks": (4, 4, 5)}}
    with pytest.raises(ValueError, match="Dask chunks"):
        to_icechunk(air().chunk(time=3), session, encoding=encoding)
    to_icechunk(
        air().chunk(time=3),
        session,
        mode="w",
        encoding=encoding,
        safe_chunks=False,
        chunkmanager_store_kwargs={"scheduler": "synchronous"},
    )
    session.commit("insisted")
    xr.testing.assert_identical(back(repo), air())


def test_align_chunks(repo: icechunk.Repository, session: icechunk.Session) -> None:
    try:
        to_icechunk(air().chunk(time=3), session, encoding={"t": {"chunks": (4, 4, 5)}}, align_chunks=True)
    except ValueError as error:
        assert "newer xarray" in str(error)
        return
    session.commit("aligned")
    xr.testing.assert_identical(back(repo), air())


@pytest.mark.parametrize("chunks", [None, {"x": 2}], ids=["memory", "dask"])
def test_write_empty_chunks(
    repo: icechunk.Repository, session: icechunk.Session, scheduler: str, chunks: dict[str, int] | None
) -> None:
    zeros = xr.Dataset({"n": ("x", np.zeros(6, "i4"))})
    for group, choice in (("lean", None), ("full", True)):
        to_icechunk(zeros.chunk(chunks) if chunks else zeros, session, group=group, write_empty_chunks=choice)
    session.commit("zeros")
    reader = repo.readonly_session("main")
    assert reader.chunk_type("/lean/n", [0]) == icechunk.ChunkType.uninitialized
    assert reader.chunk_type("/full/n", [0]) == icechunk.ChunkType.inline
    xr.testing.assert_identical(back(repo, "full"), zeros)


def test_dimensions_without_length(repo: icechunk.Repository, session: icechunk.Session) -> None:
    nothing = air(0, 0)
    to_icechunk(nothing.chunk(), session, group="dask")
    to_icechunk(nothing, session, group="memory")
    session.commit("nothing")
    for group in ("dask", "memory"):
        xr.testing.assert_equal(back(repo, group), nothing)


# --- arrays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t", None, "lat"])
def test_data_arrays(repo: icechunk.Repository, session: icechunk.Session, name: str | None) -> None:
    array = air()["t"].rename(name)
    to_icechunk(array, session)
    session.commit("array")
    store = repo.readonly_session("main").store
    opened = xr.open_dataarray(store, engine="zarr", consolidated=False)
    xr.testing.assert_identical(opened.load(), array)


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_a_store_is_not_a_session(session: icechunk.Session) -> None:
    with pytest.raises(TypeError, match=r"takes a session, not a store.*store\.session"):
        to_icechunk(air(), session.store)


def test_other_things_are_not_sessions(repo: icechunk.Repository) -> None:
    for wrong in (repo, None, "main"):
        with pytest.raises(TypeError, match=r"repo\.writable_session"):
            to_icechunk(air(), wrong)


def test_read_only_sessions(repo: icechunk.Repository, session: icechunk.Session) -> None:
    to_icechunk(air(), session)
    session.commit("air")
    for wrong in (session, repo.readonly_session("main")):
        with pytest.raises(ValueError, match=r"read-only.*repo\.writable_session"):
            to_icechunk(air(), wrong, mode="a")


def test_consolidated(session: icechunk.Session) -> None:
    to_icechunk(air(), session, consolidated=False)
    with pytest.raises(ValueError, match="no consolidated metadata"):
        to_icechunk(air(), session, mode="w", consolidated=True)


def test_other_objects(session: icechunk.Session) -> None:
    for wrong in (air().to_dict(), air()["t"].variable, [air()]):
        with pytest.raises(TypeError, match="Dataset, DataArray or DataTree"):
            to_icechunk(wrong, session)


def test_names(session: icechunk.Session) -> None:
    with pytest.raises(TypeError, match="strings"):
        to_icechunk(xr.Dataset({1: ("x", [1])}), session)
    with pytest.raises(ValueError, match="empty"):
        to_icechunk(xr.Dataset({"": ("x", [1])}), session)


# --- the writer -------------------------------------------------------------------------------------------------------


def test_writer_keeps_dask_apart(session: icechunk.Session) -> None:
    target = zarr.create_array(session.store, name="v", shape=(4,), chunks=(2,), dtype="i4")
    lazy = dask.array.arange(4, chunks=2)
    writer = LazyArrayWriter()
    writer.add(np.arange(4), target)
    writer.add(np.array([7]), target, (slice(0, 1),))
    writer.add(lazy, target)
    assert writer.sources == [lazy]
    assert len(writer.eager_sources) == len(writer.eager_targets) == len(writer.eager_regions) == 2
    assert not target[...].any()
    writer.write_eager()
    assert target[...].tolist() == [7, 1, 2, 3]
    assert not writer.eager_sources


def test_arrays_are_written_side_by_side_where_storage_is_far(monkeypatch: pytest.MonkeyPatch) -> None:
    both = Barrier(2)
    written: list[tuple[str, object]] = []

    class Target:
        def __init__(self, name: str) -> None:
            self.name = name

        def __setitem__(self, region: object, source: int) -> None:
            if source == 0:
                both.wait(timeout=60)
            written.append((self.name, source))

    monkeypatch.setattr("icechunk.xarray._is_remote", lambda target: True)
    writer, targets = LazyArrayWriter(), [Target("a"), Target("b")]
    for source in (0, 1):
        for target in targets:
            writer.add(source, target)
    writer.write_eager()
    for name in "ab":
        assert [source for target, source in written if target == name] == [0, 1], "each array in order"


def test_is_dask_collection() -> None:
    assert is_dask_collection(dask.array.arange(3))
    assert not is_dask_collection(np.arange(3))
    assert not is_dask_collection(dask.array.Array)
