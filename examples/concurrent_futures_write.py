"""Write one array from a pool of threads, then from a pool of processes, each as one commit.

    python examples/concurrent_futures_write.py [DIRECTORY]

Threads share the session. Processes get forks of it; `ParallelWrite` hands them out, collects them, tries a part again
when it fails, and commits when all are back.
"""

import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import zarr

import icechunk
from icechunk.distributed import ParallelWrite

MONTHS = range(12)


def month_of(month: int) -> np.ndarray:
    """The values of one month: here simply computed, elsewhere read from a file or a sensor."""
    return np.full((10, 20), float(month))


def write_month(fork: icechunk.ForkSession, month: int) -> None:
    """What a worker does: open the array through its fork, and write its own chunks only."""
    zarr.open_array(fork.store, path="sst")[month] = month_of(month)


def main(directory: str) -> None:
    """Make a repository in `directory` and write a year twice."""
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(directory))
    with repo.transaction("main", message="An empty year") as store:
        zarr.create_array(store, name="sst", shape=(12, 10, 20), chunks=(1, 10, 20), dtype="f8", fill_value=np.nan)

    session = repo.writable_session("main")
    array = zarr.open_array(session.store, path="sst")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda month: array.__setitem__(month, -month_of(month)), MONTHS))
    session.commit("By threads, with the wrong sign")

    session = repo.writable_session("main")
    with (
        ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool,
        ParallelWrite(session, parts=MONTHS, message="By processes") as year,
    ):
        year.map(write_month, executor=pool, retries=2)

    result = zarr.open_array(repo.readonly_session("main").store, path="sst", mode="r")
    assert all(np.array_equal(result[month], month_of(month)) for month in MONTHS)
    print(f"{len(MONTHS)} months in {[commit.message for commit in repo.ancestry(branch='main')]}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp() + "/repo")
