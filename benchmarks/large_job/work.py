"""Does the large job, in whatever `icechunk` can be imported, and says what it took.

    python -m benchmarks.large_job.work ARGUMENTS     # JSON, see `main`; the answer is the last line, as JSON

Our own engine uses `icechunk.distributed.ParallelWrite`; the Rust package has no such thing, so there a fork goes to every task,
and what comes back is merged. Half-way through, one of the worker processes is killed; dask starts another and gives it what was
lost.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import psutil
import zarr
from distributed import Client, Future, LocalCluster

import icechunk
import icechunk.distributed
from benchmarks.large_job.plan import PIXELS, REAL_SHAPE, SIDE, VIRTUAL_CHUNK, Plan, field, numbers, offsets

WORKERS = 2
MEMORY = "1GiB"
"""What a worker may have before dask kills it."""


# ------------------------------------------------------------------------------------------------------- the job itself


def create(place: dict[str, Any], plan: Plan, endpoint: str, spec: int) -> Any:
    """A repository with the two arrays, empty."""
    config = icechunk.RepositoryConfig.default()
    store = icechunk.s3_store(region="us-east-1", endpoint_url=endpoint, allow_http=True, force_path_style=True)
    config.set_virtual_chunk_container(icechunk.VirtualChunkContainer(plan.archive, store))
    options = {} if icechunk.__version__.startswith("1.") else {"spec_version": spec}
    repo = icechunk.Repository.create(storage_of(place), config, access(plan), **options)
    repo.save_config()
    session = repo.writable_session("main")
    size = SIDE * PIXELS
    for name, shape, chunks in (
        ("virtual", (plan.files, size, size), (1, PIXELS, PIXELS)),
        ("real", (plan.chunks, *REAL_SHAPE), (1, *REAL_SHAPE)),
    ):
        zarr.create_array(session.store, name=name, shape=shape, chunks=chunks, dtype="u4", compressors=None)
    session.commit("arrays")
    return repo


def storage_of(place: dict[str, Any]) -> Any:
    ((factory, arguments),) = place.items()
    return getattr(icechunk, factory)(**arguments)


def access(plan: Plan) -> Any:
    keys = icechunk.s3_credentials(access_key_id="test", secret_access_key="test")
    return icechunk.containers_credentials({plan.archive: keys})


def write_part(plan: Plan, diary: str, fork: Any, part: int) -> Any:
    """The references and the chunks of one part."""
    with open(diary, "a") as file:  # outlives the process
        file.write(f"{part}\n")
    refer(plan, fork.store, plan.files_of(part))
    array = zarr.open_array(fork.store, path="real")
    for chunk in plan.chunks_of(part):
        array[chunk] = numbers(chunk)
    return fork


def refer(plan: Plan, store: Any, files: range) -> None:
    """Virtual references to all chunks of some files: by columns where the engine takes them, else one by one."""
    each = SIDE * SIDE
    if hasattr(store, "set_virtual_refs_arr"):
        locations = [url for url in map(plan.url, files) for _ in range(each)]
        starts = np.tile(offsets(), len(files))
        lengths = np.full(len(starts), VIRTUAL_CHUNK, np.uint64)
        store.set_virtual_refs_arr(
            "virtual", (len(files), SIDE, SIDE), locations, starts, lengths, arr_offset=(files.start, 0, 0)
        )
        return
    starts = offsets().tolist()
    for file in files:
        url = plan.url(file)
        specs = [
            icechunk.VirtualChunkSpec([file, *divmod(at, SIDE)], url, start, VIRTUAL_CHUNK)
            for at, start in enumerate(starts)
        ]
        store.set_virtual_refs("virtual", specs)


def write_ours(session: Any, plan: Plan, diary: str, watched: Watched) -> dict[str, float]:
    """With our own books of a parallel write."""
    from icechunk.distributed import ParallelWrite

    write = ParallelWrite(session, range(plan.parts))
    times = Times()
    write.map(functools.partial(write_part, plan, diary), executor=watched, retries=2)
    times.note("write")
    write.merge()
    times.note("merge")
    session.commit("all parts")
    times.note("commit")
    return times.taken


def write_theirs(session: Any, plan: Plan, diary: str, watched: Watched) -> dict[str, float]:
    """As the documentation of the Rust package does it."""
    from icechunk.distributed import merge_sessions

    times = Times()
    fork = session.fork()
    futures = [watched.submit(write_part, plan, diary, fork, part) for part in range(plan.parts)]
    forks = [future.result() for future in futures]
    times.note("write")
    session.merge(merge_sessions(*forks))
    times.note("merge")
    session.commit("all parts")
    times.note("commit")
    return times.taken


class Times:
    """Seconds of one step after the other."""

    def __init__(self) -> None:
        self.taken: dict[str, float] = {}
        self._last = time.perf_counter()

    def note(self, name: str) -> None:
        now = time.perf_counter()
        self.taken[name] = now - self._last
        self._last = now


# -------------------------------------------------------------------------------------------------- what goes on around it


class Watched:
    """Submits to a cluster, shows how far it is, and kills a worker when half is done."""

    def __init__(self, client: Client, plan: Plan, kill: bool) -> None:
        self._client, self._plan = client, plan
        self._doomed = next(iter(client.run(os.getpid).values())) if kill else None
        self._done: set[str] = set()
        self._began = time.monotonic()
        self._live = sys.stderr.isatty()  # one line that changes, or a few lines
        self.killed_at: int | None = None
        self._lock = threading.Lock()

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future:
        """As the client does."""
        future = self._client.submit(fn, *args, pure=False)
        future.add_done_callback(self._note)
        return future

    def _note(self, future: Future) -> None:
        with self._lock:
            if future.status == "finished":
                self._done.add(future.key)
            if self._doomed is not None and self.killed_at is None and len(self._done) * 2 >= self._plan.parts:
                self.killed_at = len(self._done)
                os.kill(self._doomed, signal.SIGKILL)
                self._say("\n" * self._live + f"worker {self._doomed} killed after {self.killed_at} parts\n")
            self._show()

    def _show(self) -> None:
        done, parts = len(self._done), self._plan.parts
        if not self._live and done % max(1, parts // 8) and done != parts:
            return
        share = done / parts
        bar = "#" * round(30 * share)
        text = (
            f"[{bar:<30}] {done}/{parts} parts, {self._plan.references * share:,.0f} references, "
            f"{self._plan.chunks * share / 128:.2f} GiB of chunks, {time.monotonic() - self._began:.0f} s"
        )
        self._say(f"\r{text} " + "\n" * (done == parts) if self._live else f"{text}\n")

    def _say(self, text: str) -> None:
        print(text, end="", file=sys.stderr, flush=True)


class Memory(AbstractContextManager["Memory"]):
    """The most memory that this process and each of its children had, looked at ten times a second."""

    def __init__(self) -> None:
        self.own = self.child = self.all = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._end.wait(0.1):
            own = me.memory_info().rss
            children = [_resident(child) for child in me.children(recursive=True)]
            self.own = max(self.own, own)
            self.child = max([self.child, *children])
            self.all = max(self.all, own + sum(children))


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


# ------------------------------------------------------------------------------------------------------------ verification


def verify(repo: Any, plan: Plan, client: Client) -> None:
    """Read every chunk back on the cluster, and some through their references; raises when anything is wrong."""
    session = repo.readonly_session("main")
    futures = [client.submit(check_part, plan, session, part, pure=False) for part in range(plan.parts)]
    assert sum(future.result() for future in futures) == plan.chunks, "not every chunk was read"
    array = zarr.open_array(session.store, path="virtual", mode="r")
    for file in plan.samples:
        assert np.array_equal(array[file], field(file)), f"what is read through the references to file {file} is wrong"


def check_part(plan: Plan, session: Any, part: int) -> int:
    """How many chunks of a part were compared."""
    array = zarr.open_array(session.store, path="real", mode="r")
    for chunk in plan.chunks_of(part):
        assert np.array_equal(array[chunk], numbers(chunk)), f"chunk {chunk} is not what was written"
    return len(plan.chunks_of(part))


def run(place: dict[str, Any], archive: str, endpoint: str, scale: float, spec: int, kill: bool) -> dict[str, Any]:
    """The whole job with a cluster of its own; what it took."""
    plan = Plan.of(scale, archive)
    repo = create(place, plan, endpoint, spec)
    cluster = LocalCluster(
        n_workers=WORKERS, threads_per_worker=1, memory_limit=MEMORY, dashboard_address=None, silence_logs=50
    )
    with NamedTemporaryFile() as diary, cluster, Client(cluster) as client, Memory() as memory:
        watched = Watched(client, plan, kill)
        write = write_ours if hasattr(icechunk.distributed, "ParallelWrite") else write_theirs
        taken = write(repo.writable_session("main"), plan, diary.name, watched)
        again = len(diary.read().split()) - plan.parts
        peaks = {"client and scheduler": memory.own, "worker": memory.child, "together": memory.all}
        times = Times()
        verify(repo, plan, client)
        times.note("read back")
    return {**taken, **times.taken, "killed after": watched.killed_at, "again": again, **peaks}


if __name__ == "__main__":
    print(json.dumps(run(**json.loads(sys.argv[1]))))
