"""Processes that commit by themselves, to one branch, at the same time.

    python examples/multiprocessing_spawn.py [DIRECTORY]

Nothing is forked or merged: each process opens the repository, writes its rows, and commits with a conflict detector,
so that whoever comes second goes on top of whoever was first. All commits are in the history, and none is lost.
"""

import multiprocessing
import sys
import tempfile

import zarr

import icechunk

PROCESSES, COMMITS = 3, 4


def work(directory: str, number: int) -> None:
    """Commit one row after another."""
    repo = icechunk.Repository.open(icechunk.local_filesystem_storage(directory))
    for commit in range(COMMITS):
        row = number * COMMITS + commit
        session = repo.writable_session("main")
        zarr.open_array(session.store, path="rows")[row] = row
        session.commit(f"row {row}", rebase_with=icechunk.ConflictDetector())


def main(directory: str) -> None:
    """Make a repository in `directory` and let all processes write to it."""
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(directory))
    rows = PROCESSES * COMMITS
    with repo.transaction("main", message="Nothing yet") as store:
        zarr.create_array(store, name="rows", shape=(rows, 100), chunks=(1, 100), dtype="i4", fill_value=-1)

    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work, args=(directory, number)) for number in range(PROCESSES)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(worker.exitcode == 0 for worker in workers)

    array = zarr.open_array(repo.readonly_session("main").store, path="rows", mode="r")
    assert array[:, 0].tolist() == list(range(rows))
    messages = {commit.message for commit in repo.ancestry(branch="main")}
    assert {f"row {row}" for row in range(rows)} <= messages
    print(f"{rows} commits by {PROCESSES} processes, all in the history")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp() + "/repo")
