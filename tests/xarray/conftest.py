"""Repositories and datasets for tests of `to_icechunk`."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr

import icechunk


@pytest.fixture
def repo(tmp_path: Path) -> icechunk.Repository:
    """A repository on local files, so that forks can travel to other processes."""
    return icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repo")))


@pytest.fixture
def session(repo: icechunk.Repository) -> icechunk.Session:
    return repo.writable_session("main")


@pytest.fixture(scope="session")
def pool() -> Iterator[ProcessPoolExecutor]:
    """One worker process for all tests, since starting one takes longer than any of them."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.fixture(params=["threads", "synchronous", "processes"])
def scheduler(request: pytest.FixtureRequest, pool: ProcessPoolExecutor) -> Iterator[str]:
    """Each scheduler of dask in turn is the one in use."""
    options = {"pool": pool} if request.param == "processes" else {}
    with dask.config.set(scheduler=request.param, **options):
        yield request.param


@pytest.fixture
def elsewhere(pool: ProcessPoolExecutor) -> dict[str, Any]:
    """Options that make dask compute in another process."""
    return {"scheduler": "processes", "pool": pool}


def air(start: int = 0, stop: int = 12) -> xr.Dataset:
    """Hours of temperature and wind, packed and not, with coordinates of several kinds."""
    hours = np.arange(start, stop)
    shape = (len(hours), 4, 5)
    return xr.Dataset(
        {
            "t": (
                ("time", "lat", "lon"),
                np.arange(start * 20, stop * 20, dtype="f8").reshape(shape) / 8,
                {"units": "K"},
            ),
            "wind": (("time", "lat"), np.full(shape[:2], 3, dtype="i4")),
            "name": (("lat",), np.array(["a", "b", "c", "d"])),
        },
        coords={
            "time": np.datetime64("2024-01-01", "ns") + hours.astype("m8[h]"),
            "lat": [10.0, 20.0, 30.0, 40.0],
            "lon": np.arange(5) * 2.5,
            "height": 2.0,
        },
        attrs={"title": "air"},
    )


def back(repo: icechunk.Repository, group: str | None = None) -> xr.Dataset:
    """What the tip of main holds."""
    store = repo.readonly_session("main").store
    return xr.open_zarr(store, group=group, consolidated=False, chunks=None).load()


def reopened(repo: icechunk.Repository) -> icechunk.Session:
    return repo.writable_session("main")
