"""Write a dataset of dask arrays with xarray, append to it, and correct a part of it.

    python examples/dask_threads.py [DIRECTORY]

`to_icechunk` computes with whatever scheduler dask has: threads of this process unless told otherwise.
"""

import sys
import tempfile

import dask.array as da
import numpy as np
import xarray as xr

import icechunk
from icechunk.xarray import to_icechunk


def days(start: int, stop: int) -> xr.Dataset:
    """Some days of temperature, lazily."""
    time = np.datetime64("2024-01-01", "ns") + np.arange(start, stop).astype("m8[D]")
    values = da.arange(start * 12, stop * 12, chunks=60, dtype="f8").reshape(-1, 3, 4)
    return xr.Dataset({"t": (("time", "y", "x"), values)}, coords={"time": time})


def main(directory: str) -> None:
    """Make a repository in `directory` and write to it three times."""
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(directory))

    session = repo.writable_session("main")
    to_icechunk(days(0, 20), session, encoding={"time": {"units": "days since 2024-01-01", "chunks": (365,)}})
    session.commit("20 days")

    session = repo.writable_session("main")
    to_icechunk(days(20, 40), session, append_dim="time")
    session.commit("20 days more")

    session = repo.writable_session("main")
    to_icechunk(days(10, 15) + 100, session, region={"time": "auto"})
    session.commit("A correction of five days")

    result = xr.open_zarr(repo.readonly_session("main").store, consolidated=False).load()
    expected = days(0, 40).load()
    expected["t"][10:15] += 100
    xr.testing.assert_identical(result.drop_encoding(), expected)
    print(f"{dict(result.sizes)} in {[commit.message for commit in repo.ancestry(branch='main')]}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp() + "/repo")
