"""How long does it take to set 1,000,000 virtual references and commit them, and what memory does it take?

By columns (`set_virtual_refs_arr`, which 1.1.21 lacks) and by a list of `VirtualChunkSpec`, whose making counts. Each
round is a new process; imports do not count.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.fixtures import GROUP, SIDE, array_document, create, locations, set_keys, specs
from benchmarks.harness import Row, Stopwatch


def by_columns(place: Path, spec: int) -> float:
    import numpy as np

    session = _session(place, spec)
    urls, count = locations(), SIDE**3
    offsets = np.arange(count, dtype=np.uint64) % 50 * 4096
    with Stopwatch() as watch:
        session.store.set_virtual_refs_arr(
            "/a", (SIDE,) * 3, urls, offsets, np.full(count, 4096, np.uint64), validate_containers=False
        )
        session.commit("a million")
    return watch.seconds


def by_specs(place: Path, spec: int) -> float:
    session = _session(place, spec)
    with Stopwatch() as watch:
        session.store.set_virtual_refs("/a", specs(), validate_containers=False)
        session.commit("a million")
    return watch.seconds


def _session(place: Path, spec: int):  # type: ignore[no-untyped-def]
    session = create(place / "repo", spec).writable_session("main")
    set_keys(session.store, {"zarr.json": GROUP, "a/zarr.json": array_document((SIDE,) * 3, (1,) * 3)})
    return session


COLUMNS = "set + commit 1M virtual references by columns"
SPECS = "set + commit 1M virtual references by specs"
ROWS = [
    *(
        Row(
            f"bulk-columns-{spec}",
            f"{COLUMNS}, format {spec}",
            by_columns,
            {"spec": spec},
            fresh=True,
            rounds=3,
            needs="2.3.0",
            memory=True,
        )
        for spec in (1, 2)
    ),
    Row("bulk-specs", f"{SPECS}, format 1", by_specs, {"spec": 1}, fresh=True, rounds=1, memory=True),
]
