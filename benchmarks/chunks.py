"""Bytes through zarr: many small chunks, and large ones."""

from __future__ import annotations

from typing import Any

from benchmarks.rows import Row, add

SMALL = 10_000
LARGE = 128


def _make(memory: bool, directory: str) -> Any:
    import tempfile

    import icechunk
    from benchmarks.api import create, local

    storage = icechunk.in_memory_storage() if memory else local(tempfile.mkdtemp(dir=directory) + "/repo")
    return create(storage)


def _data(chunks: int, size: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, chunks * size, np.uint8)


def _write(chunks: int, size: int, memory: bool, directory: str) -> tuple[Any, Any]:
    return _make(memory, directory), _data(chunks, size)


def _writer(chunks: int, size: int) -> Any:
    def measure(state: Any) -> float:
        import time

        import zarr

        repo, data = state
        session = repo.writable_session("main")
        start = time.perf_counter()
        array = zarr.create_array(
            session.store, name="a", shape=data.shape, chunks=(size,), dtype="u1", compressors=None, overwrite=True
        )
        array[:] = data
        session.commit("written")
        return time.perf_counter() - start

    return measure


def _prepare_reading(chunks: int, size: int, memory: bool) -> Any:
    def prepare(directory: str) -> Any:
        state = _write(chunks, size, memory, directory)
        _writer(chunks, size)(state)
        return state[0]

    return prepare


def _read(repo: Any) -> float:
    import time

    import zarr

    session = repo.readonly_session("main")
    start = time.perf_counter()
    zarr.open_array(session.store, path="a", mode="r")[:]
    return time.perf_counter() - start


def _nothing(directory: str) -> None:
    """Each makes its own."""


for name, label, chunks, size, write_target, read_target in (
    ("small", "10 k chunks of 4 KB", SMALL, 4096, 0.65, 0.5),
    ("large", "1 GiB in 8 MiB chunks", LARGE, 8 << 20, 1.05, 0.8),
):
    for memory in (False, True):
        place = "memory" if memory else "local"
        add(
            Row(
                f"write-{name}-{place}",
                f"write {label} through zarr, {place}",
                _writer(chunks, size),
                write_target,
                prepare=lambda directory, c=chunks, s=size, m=memory: _write(c, s, m, directory),
                build=_nothing,
                rounds=3,
                repeats=1,
            )
        )
        add(
            Row(
                f"read-{name}-{place}",
                f"read {label} through zarr, {place}",
                _read,
                read_target,
                prepare=_prepare_reading(chunks, size, memory),
                build=_nothing,
                rounds=3,
                repeats=1,
            )
        )
