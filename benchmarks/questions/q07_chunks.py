"""How fast do chunks move through zarr: many small ones, and a gigabyte of large ones?

10,000 chunks of 4 KB, and 1 GiB in chunks of 8 MiB, without compression, to disk and memory; zarr's default concurrency.
Writing includes the commit; reading opens a new session, with the file cache of the system warm.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from benchmarks.fixtures import create
from benchmarks.harness import Row, Stopwatch


def write(place: Path, chunks: int, size: int, memory: bool) -> float:
    return _write(place, chunks, size, memory)[1]


def read(place: Path, chunks: int, size: int, memory: bool) -> float:
    import zarr

    repo = _write(place, chunks, size, memory)[0]
    with Stopwatch() as watch:
        values = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")[:]
    assert values[-1] == 7
    return watch.seconds


def _write(place: Path, chunks: int, size: int, memory: bool) -> tuple[Any, float]:
    import numpy as np
    import zarr

    target = place / "repo"
    shutil.rmtree(target, ignore_errors=True)
    repo = create(None if memory else target)
    data = np.full(chunks * size, 7, np.uint8)
    session = repo.writable_session("main")
    array = zarr.create_array(
        session.store, name="a", shape=data.shape, chunks=(size,), dtype="u1", compressors=None, filters=None
    )
    with Stopwatch() as watch:
        array[:] = data
        session.commit("written")
    return repo, watch.seconds


SIZES = {
    "small": ("10k chunks of 4 KB", {"chunks": 10_000, "size": 4096}, 3),
    "large": ("1 GiB in chunks of 8 MiB", {"chunks": 128, "size": 8 << 20}, 3),
}
ROWS = [
    Row(
        f"{verb}-{size}-{where}",
        f"{verb} {title}, {where}",
        function,
        {**scale, "memory": where == "memory"},
        rounds=rounds,
    )
    for size, (title, scale, rounds) in SIZES.items()
    for where in ("disk", "memory")
    for verb, function in (("write", write), ("read", read))
]
