"""How long does it take to find things in a large hierarchy?

10,000 and 100,000 arrays in groups of a hundred, each with about 700 bytes of metadata; the repository is opened anew
each time. Rows in segments are of a repository of ours with `segmented_metadata`, beside the Rust package without. The tree
is zarr's `Group.members(max_depth=None)`, most of which is zarr building objects.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from benchmarks.fixtures import nodes, open_at
from benchmarks.harness import Fixture, Row, Stopwatch


def one_node(place: Path) -> float:
    from zarr.core.buffer import default_buffer_prototype

    prototype = default_buffer_prototype()
    with Stopwatch() as watch:
        store = open_at(place).readonly_session("main").store
        found = asyncio.run(store.get("g0042/a17/zarr.json", prototype))
    assert found is not None
    return watch.seconds


def list_root(place: Path) -> float:
    with Stopwatch() as watch:
        store = open_at(place).readonly_session("main").store
        names = asyncio.run(_collect(store.list_dir("")))
    assert len(names) > 100
    return watch.seconds


def list_all(place: Path, count: int) -> float:
    with Stopwatch() as watch:
        store = open_at(place).readonly_session("main").store
        names = asyncio.run(_collect(store.list()))
    assert len(names) > count
    return watch.seconds


async def _collect(names: Any) -> list[str]:
    return [name async for name in names]


def tree(place: Path, count: int) -> float:
    import zarr

    with Stopwatch() as watch:
        store = open_at(place).readonly_session("main").store
        members = zarr.open_group(store, mode="r").members(max_depth=None)
    assert len(members) > count
    return watch.seconds


def commit_attribute(place: Path, segmented: bool = False) -> float:
    """One attribute of one array, in a repository opened for it."""
    from benchmarks.fixtures import array_document, set_keys

    commit_attribute.calls += 1  # type: ignore[attr-defined]
    document = array_document((720, 1440), (90, 180), attributes={"n": commit_attribute.calls})  # type: ignore[attr-defined]
    with Stopwatch() as watch:
        session = open_at(place, **({"segmented": True} if segmented else {})).writable_session("main")
        set_keys(session.store, {"g0007/a33/zarr.json": document})
        session.commit("one attribute")
    return watch.seconds


commit_attribute.calls = 0  # type: ignore[attr-defined]


def _rows(count: int, spec: int) -> list[Row]:
    fixture = Fixture(f"nodes-{count}", nodes, {"count": count, "spec": spec})
    size = f"{count // 1000}k nodes" + (", format 2" if spec == 2 else "")
    suffix = f"{count // 1000}k" + ("-2" if spec == 2 else "")
    common: dict[str, Any] = {"fixture": fixture, "needs": "2.3.0" if spec == 2 else "1.1.21"}
    slow = 2 if count > 10_000 else 5
    rows = [
        Row(f"one-node-{suffix}", f"open + one node, {size}", one_node, **common),
        Row(f"list-root-{suffix}", f"open + list the root, {size}", list_root, **common),
        Row(f"commit-attribute-{suffix}", f"open + commit one attribute, {size}", commit_attribute, **common),
    ]
    if spec == 1:
        rows.append(
            Row(
                f"list-all-{suffix}", f"open + list all keys, {size}", list_all, {"count": count}, rounds=slow, **common
            )
        )
    if spec == 1 and count == 10_000:
        rows.append(Row(f"tree-{suffix}", f"open + zarr tree, {size}", tree, {"count": count}, rounds=3, **common))
    return rows


ROWS = [row for count, spec in ((10_000, 1), (10_000, 2), (100_000, 1)) for row in _rows(count, spec)] + [
    Row(
        f"commit-attribute-{count // 1000}k-segmented",
        f"open + commit one attribute, {count // 1000}k nodes, in segments",
        commit_attribute,
        {"segmented": True},
        Fixture(f"nodes-{count}", nodes, {"count": count, "spec": 1}, ours={"segmented": True}),
    )
    for count in (10_000, 100_000)
]
