"""Write dask arrays from the workers of a cluster, as one commit.

    python examples/dask_cluster.py [DIRECTORY]

The cluster here is two processes of this machine; any other `distributed.Client` does as well, if its workers reach the
storage of the repository.
"""

import sys
import tempfile

import dask.array as da
import zarr
from distributed import Client, LocalCluster

import icechunk
from icechunk.dask import store_dask


def main(directory: str) -> None:
    """Make a repository in `directory` and let a cluster fill two arrays of it."""
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(directory))
    with repo.transaction("main", message="Two empty arrays") as store:
        for name in ("u", "v"):
            zarr.create_array(store, name=name, shape=(100, 100), chunks=(25, 100), dtype="f8", fill_value=0)

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        session = repo.writable_session("main")
        fork = session.fork()
        written = store_dask(
            sources=[da.ones((100, 100), chunks=(25, 100)), da.full((100, 100), 2.0, chunks=(50, 100))],
            targets=[zarr.open_array(fork.store, path=name) for name in ("u", "v")],
        )
        session.merge(written)
        session.commit("Ones and twos")

    reader = zarr.open_group(repo.readonly_session("main").store, mode="r")
    assert (reader["u"][...] == 1).all()
    assert (reader["v"][...] == 2).all()
    print("a cluster wrote", ", ".join(sorted(reader)))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp() + "/repo")
