"""How long until the first chunk of a large array is found: open, session, one lookup, with nothing cached?

One manifest of 1,000,000 references: virtual ones in 20,000 files, and native ones. Each round is a new process; imports
do not count. Measured on the file of the 2.3.0 package and on the file that each engine writes itself. The memory rows
are the same rounds: the peak of the whole process, imports included.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.fixtures import SIDE, million_native, million_virtual, open_at
from benchmarks.harness import Fixture, Row, Stopwatch


def first_reference(place: Path, index: list[int], kind: int) -> float:
    import zarr  # noqa: F401 - the reference imports it with icechunk

    import icechunk

    assert icechunk.Repository
    with Stopwatch() as watch:
        found = open_at(place).readonly_session("main").chunk_type("/a", index)
    assert int(found) == kind
    return watch.seconds


VIRTUAL = {"index": [SIDE // 2, 3, 77], "kind": 2}
NATIVE = {"index": [700_001], "kind": 1}
CASES = [
    ("virtual-theirs", "virtual, 2.3.0's file", VIRTUAL, Fixture("virtual", million_virtual, writer="reference")),
    ("virtual-own", "virtual, own file", VIRTUAL, Fixture("virtual", million_virtual)),
    ("native-theirs", "native, 2.3.0's file", NATIVE, Fixture("native", million_native, writer="reference")),
    ("native-own", "native, own file", NATIVE, Fixture("native", million_native)),
]
ROWS = [
    Row(
        f"first-reference-{name}",
        f"open + first of 1M references, {title}",
        first_reference,
        arguments,
        fixture,
        fresh=True,
        needs="2.3.0" if name == "native-own" else "1.1.21",  # 1.1.21 cannot write such a file in reasonable time
    )
    for name, title, arguments, fixture in CASES
] + [
    Row(
        f"memory-{name}",
        f"peak memory of that, {title}",
        first_reference,
        arguments,
        fixture,
        fresh=True,
        rounds=2,
        needs="2.3.0" if name == "native-own" else "1.1.21",
        memory=True,
    )
    for name, title, arguments, fixture in CASES
]
