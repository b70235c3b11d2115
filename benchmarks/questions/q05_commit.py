"""How long does a small commit take: in a small repository, and into an array of 1,000,000 references?

The small repository has ten arrays and grows by the commits that are measured (50 in a row, reported as one). The large
one is opened for each commit, so that its manifest is read and written again. Rows in segments are of a repository of
ours with `segmented_metadata`, beside the Rust package without.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.fixtures import SIDE, million_native, million_virtual, open_at, set_keys, small
from benchmarks.harness import Fixture, Row, Stopwatch

TIMES = 50


def tiny_local(place: Path) -> float:
    return _tiny(open_at(place))


def tiny_memory(place: Path, spec: int) -> float:
    return _tiny(small(None, spec))


def _tiny(repo: Any) -> float:
    with Stopwatch() as watch:
        for number in range(TIMES):
            session = repo.writable_session("main")
            set_keys(session.store, {f"a1/c/{number}": b"tiny"})
            session.commit("tiny")
    return watch.seconds / TIMES


def one_virtual(place: Path, **settings: Any) -> float:
    with Stopwatch() as watch:
        session = open_at(place, **settings).writable_session("main")
        session.store.set_virtual_ref(
            f"a/c/{SIDE // 2}/1/1", "s3://some-bucket/changed.nc", offset=1, length=2, validate_container=False
        )
        session.commit("one reference")
    return watch.seconds


def one_native(place: Path, **settings: Any) -> float:
    with Stopwatch() as watch:
        session = open_at(place, inline_chunk_threshold_bytes=0, **settings).writable_session("main")
        set_keys(session.store, {"a/c/500500": b"changed"})
        session.commit("one chunk")
    return watch.seconds


SEGMENTED = {"segmented": True}
ROWS = [
    Row("tiny-commit-local-1", "tiny commit, disk, format 1", tiny_local, fixture=Fixture("small", small)),
    Row(
        "tiny-commit-local-2",
        "tiny commit, disk, format 2",
        tiny_local,
        fixture=Fixture("small", small, {"spec": 2}),
        needs="2.3.0",
    ),
    Row("tiny-commit-memory-1", "tiny commit, memory, format 1", tiny_memory, {"spec": 1}),
    Row("tiny-commit-memory-2", "tiny commit, memory, format 2", tiny_memory, {"spec": 2}, needs="2.3.0"),
    Row(
        "commit-into-virtual",
        "open + commit one of 1M virtual references",
        one_virtual,
        fixture=Fixture("virtual", million_virtual),
    ),
    Row(
        "commit-into-native",
        "open + commit one of 1M native chunks",
        one_native,
        fixture=Fixture("native", million_native),
        needs="2.3.0",
    ),
    Row(
        "commit-into-virtual-segmented",
        "open + commit one of 1M virtual references, in segments",
        one_virtual,
        SEGMENTED,
        Fixture("virtual", million_virtual, ours=SEGMENTED),
        rounds=3,
    ),
    Row(
        "commit-into-native-segmented",
        "open + commit one of 1M native chunks, in segments",
        one_native,
        SEGMENTED,
        Fixture("native", million_native, ours=SEGMENTED),
        rounds=3,
        needs="2.3.0",
    ),
]
