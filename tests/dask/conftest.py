"""Repositories for tests of parallel writing."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import zarr

import icechunk


@pytest.fixture
def repo(tmp_path: Path) -> icechunk.Repository:
    """A repository on local files, so that forks can travel to other processes."""
    return icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repo")))


@pytest.fixture
def session(repo: icechunk.Repository) -> icechunk.Session:
    """A writable session with an array `a` of 12 x 6 in chunks of 3 x 2, large enough not to be kept inline."""
    session = repo.writable_session("main")
    make(session, "a")
    session.commit("arrays")
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


def make(session: icechunk.Session, name: str, **options: Any) -> zarr.Array:
    """A new array of the usual shape."""
    settings: dict[str, Any] = {
        "shape": (12, 6),
        "chunks": (3, 2),
        "dtype": "f8",
        "fill_value": -1,
        "compressors": None,
    }
    return zarr.create_array(session.store, name=name, **{**settings, **options})


def values() -> np.ndarray:
    """Something recognisable for the usual shape."""
    return np.arange(72, dtype="f8").reshape(12, 6)


def committed(repo: icechunk.Repository, name: str = "a") -> np.ndarray:
    """What the tip of main holds."""
    return np.asarray(zarr.open_array(repo.readonly_session("main").store, path=name, mode="r")[...])
