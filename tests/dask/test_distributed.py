"""A cluster of worker processes, and dask's own way of handing things around."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

import icechunk
from icechunk.dask import session_merge_reduction, store_dask
from icechunk.distributed import ParallelWrite
from icechunk.xarray import to_icechunk

from .conftest import committed, make, values

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module", params=[True, False], ids=["processes", "threads"])
def client(request: pytest.FixtureRequest) -> Iterator[object]:
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=2, processes=request.param, dashboard_address=":0", silence_logs=50
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


def test_merging_the_forks_behind_stored_arrays(
    client: object, repo: icechunk.Repository, session: icechunk.Session
) -> None:
    fork = session.fork()
    source, target = da.from_array(values(), chunks=(3, 2)), zarr.open_array(fork.store, path="a")
    stored = da.store(source, target, lock=False, compute=False, return_stored=True, load_stored=False)
    session.merge(session_merge_reduction(stored if isinstance(stored, da.Array) else stored[0], split_every=2))
    session.commit("values")
    np.testing.assert_array_equal(committed(repo), values())


def test_to_icechunk(client: object, repo: icechunk.Repository) -> None:
    data = xr.Dataset({f"v{i}": (("y", "x"), da.from_array(values() + i, chunks=(3, 6))) for i in range(3)})
    session = repo.writable_session("main")
    to_icechunk(data, session)
    to_icechunk(data + 7, session, append_dim="y")
    session.commit("values")
    for i in range(3):
        np.testing.assert_array_equal(committed(repo, f"v{i}")[:12], values() + i)
        np.testing.assert_array_equal(committed(repo, f"v{i}")[12:], values() + i + 7)


def write_row(fork: icechunk.ForkSession, row: int) -> None:
    zarr.open_array(fork.store, path="a")[3 * row : 3 * row + 3] = values()[3 * row : 3 * row + 3]


def test_parallel_write(client: object, repo: icechunk.Repository, session: icechunk.Session) -> None:
    with ParallelWrite(session, range(4), message="rows") as write:
        write.map(write_row, executor=client)
    np.testing.assert_array_equal(committed(repo), values())


class FailsOnceAfterEachWrite:
    """A lock that lets a block be written, and then makes its task fail; not when the block is written again."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        for number in range(4):
            try:
                (Path(self.folder) / str(number)).touch(exist_ok=False)
            except FileExistsError:
                continue
            raise OSError("the network went away after the write")


def test_tasks_that_are_tried_again_after_they_wrote(
    client: object, repo: icechunk.Repository, session: icechunk.Session, tmp_path: Path
) -> None:
    fork = session.fork()
    lock = FailsOnceAfterEachWrite(str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error", icechunk.MergeOverlapWarning)
        source, target = da.from_array(values(), chunks=(3, 6)), zarr.open_array(fork.store, path="a")
        session.merge(store_dask(sources=[source], targets=[target], lock=lock, retries=4))
    session.commit("values")
    np.testing.assert_array_equal(committed(repo), values())
    assert len(list(tmp_path.glob("[0-3]"))) == 4


def flaky_row(fork: icechunk.ForkSession, part: tuple[int, str]) -> None:
    row, folder = part
    zarr.open_array(fork.store, path="a")[...] = -5  # what a failed attempt wrote, here and elsewhere, does not count
    try:
        (Path(folder) / f"row{row}").touch(exist_ok=False)
    except FileExistsError:
        zarr.open_array(fork.store, path="a")[...] = -1
        write_row(fork, row)
        return
    raise OSError("a passing cloud")


def test_parts_that_are_tried_again(
    client: object, repo: icechunk.Repository, session: icechunk.Session, tmp_path: Path
) -> None:
    parts = [(row, str(tmp_path)) for row in range(1)]
    with ParallelWrite(session, parts, message="rows") as write:
        write.map(flaky_row, executor=client, retries=1)
    np.testing.assert_array_equal(committed(repo)[:3], values()[:3])
    assert (committed(repo)[3:] == -1).all()
