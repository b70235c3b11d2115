"""How fast do chunks move through zarr: many small ones, and a gigabyte of large ones?

10,000 chunks of 4 KB, and 1 GiB in chunks of 8 MiB, without compression, to disk and memory; zarr's default concurrency.
Writing includes the commit; reading opens a new session, with the file cache of the system warm.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.fixtures import create
from benchmarks.harness import Row, Stopwatch


def chunks(place: Path, count: int, size: int, memory: bool) -> tuple[float, float]:
    """Seconds for writing, and for reading."""
    import numpy as np
    import zarr

    target = place / "repo"
    shutil.rmtree(target, ignore_errors=True)
    repo = create(None if memory else target)
    data = np.full(count * size, 7, np.uint8)
    session = repo.writable_session("main")
    array = zarr.create_array(
        session.store, name="a", shape=data.shape, chunks=(size,), dtype="u1", compressors=None, filters=None
    )
    with Stopwatch() as writing:
        array[:] = data
        session.commit("written")
    with Stopwatch() as reading:
        values = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")[:]
    assert values[-1] == 7
    return writing.seconds, reading.seconds


SIZES = {
    "small": ("10k chunks of 4 KB", {"count": 10_000, "size": 4096}),
    "large": ("1 GiB in chunks of 8 MiB", {"count": 128, "size": 8 << 20}),
}
ROWS = [
    Row(
        f"chunks-{size}-{where}",
        (f"write {title}, {where}", f"read {title}, {where}"),
        chunks,
        {**scale, "memory": where == "memory"},
        rounds=2,
    )
    for size, (title, scale) in SIZES.items()
    for where in ("disk", "memory")
]
