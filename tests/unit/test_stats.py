"""How many bytes the chunks of a repository take."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import zarr
from tests.packs import small_packs
from zarr.core.buffer import default_buffer_prototype

import icechunk
from icechunk._driver import run
from icechunk.format.chunk_ref import Inline, Native, Virtual
from icechunk.format.ids import INITIAL_SNAPSHOT_ID
from icechunk.ops.stats import chunk_storage_stats
from icechunk.ops.survey import Limits
from icechunk.testing.counting import CountingStorage

Kit = Any
FAR = datetime(2100, 1, 1, tzinfo=UTC)


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


async def test_chunks_that_share_an_object_count_one_by_one(kit: Kit) -> None:
    """Each once, in however many commits it is, and those too that only history has; not what lies between them."""
    pack, other = kit.new_id(), kit.new_id()
    packed = {(i,): Native(pack, 10 + i, 16 + 1000 * i) for i in range(5)}
    await kit.commit("main", "c0", packed)
    await kit.commit("main", "c1", {**packed, (0,): Native(other, 100, 16), (1,): Native(other, 1000, 116)})
    await kit.refs.create_branch("dev", await kit.refs.branch_tip("main"))
    await kit.commit(
        "dev", "d0", {(9,): packed[(3,)], (8,): Native(other, 1000, 116), (7,): Native(kit.new_id(), 20_000)}
    )
    await kit.commit("main", "c2", {(0,): Native(other, 100, 16)})
    stats = await chunk_storage_stats(kit.refs, kit.storage)
    assert stats.native_bytes == sum(range(10, 15)) + 1100 + 20_000


@pytest.mark.parametrize("spec", [1, 2])
def test_what_a_session_packs_counts_chunk_by_chunk(monkeypatch: pytest.MonkeyPatch, spec: int) -> None:
    small_packs(monkeypatch, alone=3, chunks=4, size=50)
    config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=8, pack_small_chunks=True)
    repo = icechunk.Repository.create(icechunk.in_memory_storage(), config, spec_version=spec)

    def write(start: int, stop: int, size: int) -> None:
        session = repo.writable_session("main")
        if size == 20:
            zarr.create_array(session.store, name="a", shape=(30,), chunks=(1,), dtype="u1")
        for number in range(start, stop):
            run(session.store.set(f"a/c/{number}", default_buffer_prototype().buffer.from_bytes(bytes([1]) * size)))
        session.commit(f"{size} bytes each")

    write(0, 20, 20)
    write(5, 25, 30)
    write(0, 30, 5)  # inline
    assert repo.chunk_storage_stats().native_bytes == 20 * 20 + 20 * 30
    repo.rewrite_manifests("nothing new", branch="main")
    stats = repo.chunk_storage_stats()
    assert stats.native_bytes == 20 * 20 + 20 * 30
    repo.expire_snapshots(FAR)
    repo.garbage_collect(FAR)
    assert repo.chunk_storage_stats().native_bytes == 0


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
