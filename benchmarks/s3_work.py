"""What one process does when transfers to and from an S3 are measured, with whatever `icechunk` it can import.

    python benchmarks/s3_work.py TASK ARGUMENTS     # arguments as JSON; the answer is the last line, as JSON

Only the public API, since the same code runs with the Rust package.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import zarr

import icechunk

_WARM = 20  # chunks before the clock starts, twice as many as Zarr asks for at once


class Clock:
    """Seconds that pass in a block, and processor time of this process."""

    def __enter__(self) -> Clock:
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start[0]
        self.cpu = time.process_time() - self._start[1]

    def facts(self, name: str) -> dict[str, float]:
        return {name: self.seconds, f"{name} cpu": self.cpu}


def storage_of(place: dict[str, Any]) -> Any:
    """The storage that a dict of factory and arguments describes."""
    ((factory, arguments),) = place.items()
    return getattr(icechunk, factory)(**arguments)


def peak() -> int:
    """The most memory that this process had, in bytes; Linux only."""
    with open("/proc/self/status") as status:  # what getrusage tells may be of the process before exec
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))


def array_of(session: Any, name: str, count: int, chunk: int) -> Any:
    """A new array of `count` chunks of `chunk` bytes that are not compressed."""
    return zarr.create_array(
        session.store, name=name, shape=(count * chunk // 4,), chunks=(chunk // 4,), dtype="u4", compressors=None
    )


def written(place: dict[str, Any], mebibytes: int, kibibytes: int) -> dict[str, float]:
    """Write so much in chunks of so many KiB, and commit; what it took."""
    chunk = kibibytes << 10
    repo = icechunk.Repository.create(storage_of(place))
    session = repo.writable_session("main")
    array_of(session, "warm", _WARM, chunk)[:] = 1  # connections, memory, and what is imported late
    array = array_of(session, "data", (mebibytes << 20) // chunk, chunk)
    data = numbers(array.shape)
    with Clock() as writing:
        array[:] = data
        session.commit("data")
    return {**writing.facts("write"), "memory": peak()}


def read(place: dict[str, Any]) -> dict[str, float]:
    """Read all that was written; what it took."""
    store = icechunk.Repository.open(storage_of(place)).readonly_session("main").store
    assert (zarr.open_array(store, path="warm", mode="r")[:] == 1).all()
    array = zarr.open_array(store, path="data", mode="r")
    with Clock() as reading:
        found = array[:]
    facts = {**reading.facts("read"), "memory": peak()}
    assert np.array_equal(found, numbers(array.shape)), "what was read is not what was written"
    return facts


def numbers(shape: tuple[int, ...]) -> Any:
    """Numbers that cannot be compressed, always the same."""
    return np.random.default_rng(0).integers(0, 2**32, shape, np.uint32)


def neighbours_made(place: dict[str, Any], url: str, endpoint: str, count: int, chunk: int) -> dict[str, float]:
    """An array of virtual chunks that lie side by side in one object."""
    config = icechunk.RepositoryConfig.default()
    store = icechunk.s3_store(region="us-east-1", endpoint_url=endpoint, allow_http=True, force_path_style=True)
    config.set_virtual_chunk_container(icechunk.VirtualChunkContainer(url.rpartition("/")[0] + "/", store))
    repo = icechunk.Repository.create(storage_of(place), config)
    repo.save_config()
    session = repo.writable_session("main")
    array_of(session, "data", count, chunk)
    specs = [icechunk.VirtualChunkSpec([row], url, row * chunk, chunk) for row in range(count)]
    session.store.set_virtual_refs("data", specs)
    session.commit("references")
    return {}


def neighbours_read(place: dict[str, Any], url: str, concurrency: int | None) -> dict[str, float]:
    """Read that array whole, with a new repository; the sum of it proves what was read."""
    keys = icechunk.s3_credentials(access_key_id="test", secret_access_key="test")
    access = icechunk.containers_credentials({url.rpartition("/")[0] + "/": keys})
    repo = icechunk.Repository.open(storage_of(place), authorize_virtual_chunk_access=access)
    array = zarr.open_array(repo.readonly_session("main").store, path="data", mode="r")
    with zarr.config.set({} if concurrency is None else {"async.concurrency": concurrency}), Clock() as reading:
        found = array[:]
    return {**reading.facts("read"), "sum": int(found.sum(dtype=np.uint64)), "memory": peak()}


if __name__ == "__main__":
    tasks = {task.__name__: task for task in (written, read, neighbours_made, neighbours_read)}
    print(json.dumps(tasks[sys.argv[1]](**json.loads(sys.argv[2]))))
