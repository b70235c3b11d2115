"""Datasets into storage that is far away, where small chunks share objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

import icechunk
from icechunk._driver import run
from icechunk.format.chunk_table import NATIVE
from icechunk.testing.latency import LatencyStorage
from icechunk.xarray import to_icechunk
from tests.packs import small_packs

from .conftest import air, back, reopened

HOURS = 400
CHUNKS = {"t": {"chunks": (4, 4, 5), "compressors": None}, "wind": {"chunks": (8, 4), "compressors": None}}


@pytest.fixture(autouse=True)
def small_packs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process; in others the first 32 chunks of a worker are alone, as usual."""
    small_packs(monkeypatch, alone=2, chunks=5, size=640)


@pytest.fixture
def repo(tmp_path: Path) -> icechunk.Repository:
    """One of files, of which requests are worth having under way at once."""
    config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=100)
    return icechunk.Repository.create(LatencyStorage(icechunk.local_filesystem_storage(str(tmp_path / "repo"))), config)


def packed(repo: icechunk.Repository, name: str) -> int:
    workspace = repo.readonly_session("main")._workspace
    table = run(workspace.chunk_table(run(workspace.array(f"/{name}"))))
    return int(((table.kind == NATIVE) & (table.offset > 0)).sum())


def again(repo: icechunk.Repository) -> icechunk.Repository:
    return icechunk.Repository.open(repo.storage)


def test_values_in_memory(repo: icechunk.Repository, session: icechunk.Session) -> None:
    to_icechunk(air(0, HOURS), session, encoding=CHUNKS)
    xr.testing.assert_identical(
        xr.open_zarr(session.store, consolidated=False, chunks=None).load(), air(0, HOURS)
    )  # before the commit
    session.commit("air")
    xr.testing.assert_identical(back(again(repo)), air(0, HOURS))
    assert packed(repo, "t") > 60
    assert packed(repo, "wind") > 20


def test_every_scheduler(repo: icechunk.Repository, session: icechunk.Session, scheduler: str) -> None:
    to_icechunk(air(0, HOURS).chunk(time=200), session, encoding=CHUNKS)
    session.commit("air")
    xr.testing.assert_identical(back(again(repo)), air(0, HOURS))
    assert packed(repo, "t") > 20


@pytest.mark.parametrize("chunked", [False, True], ids=["memory", "dask"])
def test_append_and_region(repo: icechunk.Repository, session: icechunk.Session, chunked: bool) -> None:
    """In one session, on top of what is not stored yet, and once more in the next."""
    expected = air(0, HOURS)

    def part(start: int, stop: int) -> xr.Dataset:
        found = air(start, stop)
        return found.chunk(time=80) if chunked else found

    to_icechunk(part(0, 160), session, encoding=CHUNKS)
    to_icechunk(part(160, 240), session, append_dim="time")
    session.commit("most")
    session = reopened(repo)
    to_icechunk(part(240, HOURS), session, append_dim="time")
    hotter = (expected[["t"]] + 1).isel(time=slice(120, 280)).drop_vars(["lat", "lon", "height"])
    to_icechunk(hotter.chunk(time=80) if chunked else hotter, session, region="auto")
    session.commit("all")
    expected["t"][120:280] += 1
    xr.testing.assert_equal(back(again(repo)), expected)
    assert packed(repo, "t") > 60


def test_parts_of_chunks(repo: icechunk.Repository, session: icechunk.Session) -> None:
    """Two regions of one chunk after each other: the second reads what is not stored yet."""
    to_icechunk(xr.zeros_like(air(0, HOURS)[["t"]]), session, encoding={"t": CHUNKS["t"]})
    whole = air(0, HOURS)[["t"]].drop_vars(["lat", "lon", "height", "time"])
    for start in range(0, HOURS, 10):
        rows = slice(start, start + 10)
        to_icechunk(whole.isel(time=rows), session, region={"time": rows}, safe_chunks=False)
    np.testing.assert_array_equal(zarr.open_array(session.store, path="t")[...], whole["t"])
    session.commit("in parts")
    np.testing.assert_array_equal(back(again(repo))["t"], whole["t"])
