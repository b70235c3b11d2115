"""How many bytes the chunks of a repository take."""

from __future__ import annotations

from typing import Any

from icechunk.format.chunk_ref import Inline, Native, Virtual
from icechunk.format.ids import INITIAL_SNAPSHOT_ID
from icechunk.ops.stats import chunk_storage_stats
from icechunk.ops.survey import Limits
from icechunk.testing.counting import CountingStorage

Kit = Any


async def test_a_new_repository_has_no_chunks(kit: Kit) -> None:
    stats = await chunk_storage_stats(kit.refs, kit.storage)
    assert (stats.native_bytes, stats.virtual_bytes, stats.inlined_bytes) == (0, 0, 0)


async def test_every_native_chunk_counts_once(kit: Kit) -> None:
    shared = Native(kit.new_id(), 10)
    await kit.commit("main", "c0", {(0,): shared, (1,): Native(kit.new_id(), 100)})
    first = await kit.refs.branch_tip("main")
    await kit.commit("main", "c1", {(0,): shared, (1,): Inline(b"abc"), (2,): Virtual("s3://b/k", 7, 1000)})
    await kit.refs.create_branch("dev", first)
    await kit.commit(
        "dev", "d0", {(0,): Native(kit.new_id(), 10_000), (1,): shared, (2,): Virtual("s3://b/k", 7, 1000)}
    )
    stats = await chunk_storage_stats(kit.refs, kit.storage)
    assert (stats.native_bytes, stats.virtual_bytes, stats.inlined_bytes) == (10_110, 1000, 3)
    assert stats.non_virtual_bytes() == 10_113
    assert stats.total_bytes() == 11_113
    assert sum([stats, stats]).total_bytes() == 22_226


async def test_every_range_of_a_foreign_file_counts_once(kit: Kit) -> None:
    ranges = [("s3://b/k", 0, 32), ("s3://b/k", 32, 32), ("s3://b/k", 0, 16), ("s3://b/l", 0, 32)]
    await kit.commit("main", "c0", {(i,): Virtual(*one) for i, one in enumerate([*ranges, *ranges])})
    await kit.commit(
        "main", "c1", {(9,): Virtual(*ranges[-1]), (8,): Virtual("s3://b/m", 2**40, 1), (7,): Inline(b"x")}
    )
    assert (await chunk_storage_stats(kit.refs, kit.storage)).virtual_bytes == 32 + 32 + 16 + 32 + 1


async def test_what_no_ref_reaches_does_not_count(kit: Kit) -> None:
    await kit.commit("main", "c0")
    await kit.refs.reset_branch("main", INITIAL_SNAPSHOT_ID)
    assert (await chunk_storage_stats(kit.refs, kit.storage)).native_bytes == 0


async def test_small_limits_change_nothing_but_speed(kit: Kit) -> None:
    for number in range(6):
        await kit.commit("main", f"c{number}")
    storage = CountingStorage(kit.memory)
    steps: list[Any] = []
    stats = await chunk_storage_stats(
        await kit.reopen(storage),
        storage,
        limits=Limits(snapshots=1, manifests=1, compressed_bytes=1, decoded_bytes=1),
        progress=steps.append,
    )
    assert stats.native_bytes == 60
    assert [step.done for step in steps if step.stage == "reading manifests"] == [1, 2, 3, 4, 5, 6]
