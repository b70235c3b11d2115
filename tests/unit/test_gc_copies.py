"""Copies of the repo object that were made for changes which never came."""

from __future__ import annotations

from typing import Any

import pytest

from icechunk.format.ids import format_id
from icechunk.ops.gc import collect, plan_collection
from icechunk.refs.base import RefStore
from icechunk.storage.memory import MemoryStorage
from icechunk.testing.faults import Fault, FaultyStorage, InjectedError
from icechunk.testing.schedules import Outcome, explore

Kit = Any
LATER = 4_000_000_000_000_000
"""A limit at which everything is old."""


@pytest.fixture
async def kit(kit_of: Any) -> Kit:
    """A repository whose log of operations goes on in former files after every third entry."""
    kit = await kit_of(2, updates_per_file=3).create()
    for number in range(8):
        await kit.commit("main", f"c{number}")
    return kit


async def named(refs: RefStore) -> set[str]:
    return {f"overwritten/{name}" async for name in refs.copies()}


async def leave_copies(kit: Kit, count: int = 2) -> list[str]:
    """Changes that were prepared, and overtaken by others."""
    before = kit.paths("overwritten")
    for number in range(count):
        late = await kit.reopen()
        await late.prepare("main")
        await kit.commit("main", f"faster{number}")
    kept = await named(await kit.reopen())
    left = [path for path in kit.paths("overwritten") if path not in kept]
    assert len(left) == count and not set(left) & set(before)
    return left


async def test_what_a_lost_race_left_goes(kit: Kit) -> None:
    left = await leave_copies(kit)
    before, sizes = kit.paths("overwritten"), {path: len(entry.data) for path, entry in kit.memory._objects.items()}
    plan = await plan_collection(kit.refs, kit.storage, LATER)
    assert sorted(plan.copies) == left
    dry = await collect(kit.refs, kit.storage, LATER, dry_run=True)
    assert kit.paths("overwritten") == before
    summary = await collect(kit.refs, kit.storage, LATER)
    assert summary == dry and summary.bytes_deleted == sum(sizes[path] for path in left)
    refs = await kit.reopen()
    assert set(kit.paths("overwritten")) == await named(refs)
    assert len([update async for update in refs.updates()]) == 1 + 8 + 2 + 1  # creation, commits, collection


async def test_what_a_failed_change_left_goes(kit: Kit) -> None:
    refs = await kit.reopen(FaultyStorage(kit.memory, Fault(1, "before", frozenset({"put"}))))
    with pytest.raises(InjectedError):
        await refs.create_branch("dev", await refs.branch_tip("main"))
    count = len(kit.paths("overwritten"))
    await collect(kit.refs, kit.storage, LATER)
    assert len(kit.paths("overwritten")) == count  # one less, and that of the collection itself
    assert set(kit.paths("overwritten")) == await named(await kit.reopen())


async def test_the_young_and_the_foreign_stay(kit: Kit) -> None:
    left = await leave_copies(kit)
    await kit.memory.put("overwritten/config.yaml.1.ABC", b"of format 1")
    await kit.memory.put("overwritten/mine", b"x")
    await collect(kit.refs, kit.storage, int(kit.memory._objects[min(left)].modified * 1_000_000) - 1)
    # names count down, so the first of them is the youngest
    assert {min(left), "overwritten/config.yaml.1.ABC", "overwritten/mine"} <= set(kit.paths("overwritten"))
    await collect(kit.refs, kit.storage, LATER)
    assert {"overwritten/config.yaml.1.ABC", "overwritten/mine"} == set(kit.paths("overwritten")) - await named(
        await kit.reopen()
    )


async def test_a_log_that_cannot_be_read_to_its_end_keeps_all(kit: Kit) -> None:
    left = await leave_copies(kit)
    oldest = sorted(await named(await kit.reopen()))[-1]
    for former in [path for path in kit.paths("overwritten") if path not in left][-4:]:
        await kit.memory.delete([former])
    assert oldest not in kit.paths("overwritten")
    before = set(kit.paths("overwritten"))
    await collect(kit.refs, kit.storage, LATER)
    assert before < set(kit.paths("overwritten"))


def test_a_copy_is_not_taken_from_a_change_under_way(kit_of: Any) -> None:
    """In whatever order a collection, with everything old, and a change go on."""

    async def prepare() -> MemoryStorage:
        kit = await kit_of(2, updates_per_file=2).create()
        await kit.commit("main", "c0")
        kits.append(kit)
        return kit.memory  # type: ignore[no-any-return]

    async def change(storage: Any) -> None:
        refs = await kits[-1].reopen(storage)
        await refs.create_branch("dev", await refs.branch_tip("main"))

    async def clean(storage: Any) -> None:
        await collect(await kits[-1].reopen(storage), storage, LATER)

    async def check(storage: Any, outcomes: list[Outcome]) -> None:
        assert [outcome.error for outcome in outcomes] == [None, None]
        refs = await kits[-1].reopen(storage)
        assert format_id(await refs.branch_tip("dev")) == format_id(await refs.branch_tip("main"))
        for path in await named(refs):
            assert await storage.exists(path)

    kits: list[Kit] = []
    assert explore(prepare, [change, clean], check).complete > 10


async def test_who_prepared_before_a_collection_copies_again(kit: Kit) -> None:
    late = await kit.reopen()
    await late.prepare("main")
    await collect(kit.refs, kit.storage, LATER)
    await kit.commit("main", "late", refs=late)
    assert await named(await kit.reopen()) <= set(kit.paths("overwritten"))
