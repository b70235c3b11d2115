"""How long until the first chunk of a large array is found: open, session, one lookup, with nothing cached?

One manifest of 1,000,000 references: virtual ones in 20,000 files, and native ones. Each round is a new process; imports
do not count. Measured on the file of the 2.3.0 package and on the file that each engine writes itself; and on one that
ours writes in segments (`segmented_metadata`), beside the Rust package on its own. Peaks are of the whole process, imports
included.
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
SEGMENTED = {"segmented": True}
CASES = [
    ("virtual-theirs", "virtual, 2.3.0's file", VIRTUAL, Fixture("virtual", million_virtual, writer="reference")),
    ("virtual-own", "virtual, own file", VIRTUAL, Fixture("virtual", million_virtual)),
    ("native-theirs", "native, 2.3.0's file", NATIVE, Fixture("native", million_native, writer="reference")),
    ("native-own", "native, own file", NATIVE, Fixture("native", million_native)),
    ("virtual-segmented", "virtual, own in segments", VIRTUAL, Fixture("virtual", million_virtual, ours=SEGMENTED)),
    ("native-segmented", "native, own in segments", NATIVE, Fixture("native", million_native, ours=SEGMENTED)),
]
ROWS = [
    Row(
        f"first-reference-{name}",
        f"open + first of 1M references, {title}",
        first_reference,
        arguments,
        fixture,
        fresh=True,
        # 1.1.21 cannot write such a file in reasonable time
        needs="2.3.0" if name in ("native-own", "native-segmented") else "1.1.21",
        memory=True,
    )
    for name, title, arguments, fixture in CASES
]
