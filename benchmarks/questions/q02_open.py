"""How long does it take to open a small repository and a read-only session, in a process that is warm?

Ten arrays, twenty commits. Each measurement opens 20 times and reports one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.fixtures import small
from benchmarks.harness import Fixture, Row, Stopwatch

TIMES = 20


def open_local(place: Path) -> float:
    import icechunk

    return _opening(lambda: icechunk.local_filesystem_storage(str(place)))


def open_memory(place: Path, spec: int) -> float:
    storage = small(None, spec).storage
    return _opening(lambda: storage)


def _opening(storage: Any) -> float:
    import icechunk

    with Stopwatch() as watch:
        for _ in range(TIMES):
            icechunk.Repository.open(storage()).readonly_session("main")
    return watch.seconds / TIMES


ROWS = [
    Row("open-local-1", "open + read-only session, disk, format 1", open_local, fixture=Fixture("small", small)),
    Row(
        "open-local-2",
        "open + read-only session, disk, format 2",
        open_local,
        fixture=Fixture("small", small, {"spec": 2}),
        needs="2.3.0",
    ),
    Row("open-memory-1", "open + read-only session, memory, format 1", open_memory, {"spec": 1}),
    Row("open-memory-2", "open + read-only session, memory, format 2", open_memory, {"spec": 2}, needs="2.3.0"),
]
