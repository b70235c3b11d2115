"""A cluster of worker processes, and dask's own way of handing things around."""

from __future__ import annotations

from collections.abc import Iterator

import dask.array as da
import numpy as np
import pytest
import zarr

import icechunk
from icechunk.dask import store_dask
from icechunk.distributed import ParallelWrite

from .conftest import committed, make, values

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module", params=[True, False], ids=["processes", "threads"])
def client(request: pytest.FixtureRequest) -> Iterator[object]:
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=2, processes=request.param, dashboard_address=None, silence_logs=50
    )
    with cluster, distributed.Client(cluster) as client:
        yield client


def test_store_dask(client: object, repo: icechunk.Repository, session: icechunk.Session) -> None:
    make(session, "b")
    fork = session.fork()
    source = da.from_array(values(), chunks=(3, 2))
    targets = [zarr.open_array(fork.store, path=name) for name in "ab"]
    session.merge(store_dask(sources=[source, source + 1], targets=targets, split_every=3))
    session.commit("values")
    np.testing.assert_array_equal(committed(repo), values())
    np.testing.assert_array_equal(committed(repo, "b"), values() + 1)


def write_row(fork: icechunk.ForkSession, row: int) -> None:
    zarr.open_array(fork.store, path="a")[3 * row : 3 * row + 3] = values()[3 * row : 3 * row + 3]


def test_parallel_write(client: object, repo: icechunk.Repository, session: icechunk.Session) -> None:
    with ParallelWrite(session, range(4), message="rows") as write:
        write.map(write_row, executor=client)
    np.testing.assert_array_equal(committed(repo), values())
