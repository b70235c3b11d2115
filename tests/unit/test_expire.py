"""Expiration: what is forgotten, how histories go on, and that nothing young is ever lost."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk.errors import ErrorKind, IcechunkError, ReadOnlyError
from icechunk.format.chunk_ref import Native
from icechunk.format.ids import INITIAL_SNAPSHOT_ID, format_id
from icechunk.format.repo_info import ExpirationRan, SnapshotRecord
from icechunk.ops.expire import expire, plan_expiration
from icechunk.ops.stats import released_sizes
from icechunk.ops.times import as_micros
from icechunk.refs import Publication, refs_for
from icechunk.refs.base import ExpiryRule, History
from icechunk.refs.ref_files import RefFiles
from icechunk.refs.repo_file import RepoFile
from icechunk.storage.base import Storage
from icechunk.storage.wrappers import ReadOnlyStorage
from icechunk.testing.faults import FaultyStorage, every_fault, record_calls
from icechunk.testing.schedules import Outcome, explore

Kit = Any
ROOT = INITIAL_SNAPSHOT_ID
ROOT_MESSAGE = "Repository initialized"
RULES = {1: RefFiles.expiry_rule, 2: RepoFile.expiry_rule}


# ---- the decision, on values


def history_of(parents: dict[str, str | None], branches: dict[str, str], tags: dict[str, str] | None = None) -> History:
    """A history in which the time of a snapshot is its place in `parents`, times ten."""
    records = {
        _id(name): SnapshotRecord(_id(name), None if parent is None else _id(parent), 10 * place, name, {})
        for place, (name, parent) in enumerate(parents.items())
    }
    return History(
        {name: _id(tip) for name, tip in branches.items()},
        {name: _id(tip) for name, tip in (tags or {}).items()},
        records,
    )


def _id(name: str) -> bytes:
    return name.encode().ljust(12, b"\0")


def _name(snapshot_id: bytes) -> str:
    return snapshot_id.rstrip(b"\0").decode()


def outcome(history: History, older_than: int, spec: int, **options: bool) -> tuple[str, dict[str, str]]:
    """Names of what is released, and by grafted snapshot its new parent with the pruned logs."""
    plan = plan_expiration(history, older_than, RULES[spec], **options)
    grafts = {
        _name(record.id): " ".join([_name(record.parent_id or b""), *map(_name, record.pruned)])
        for record in plan.edit.grafted
    }
    return " ".join(record.message for record in plan.released), grafts


LINE: dict[str, str | None] = {"root": None, "c0": "root", "c1": "c0", "c2": "c1", "c3": "c2", "c4": "c3"}


@pytest.mark.parametrize("spec", [1, 2])
def test_a_cut_in_a_line(spec: int) -> None:
    history = history_of(LINE, {"main": "c4"})
    assert outcome(history, 40, spec) == ("c0 c1 c2", {"c3": "root c0 c1 c2"})


@pytest.mark.parametrize("spec", [1, 2])
def test_a_tip_that_stays_reachable_is_not_released(spec: int) -> None:
    history = history_of(LINE, {"main": "c4"})
    assert outcome(history, 1000, spec) == ("c0 c1 c2 c3", {"c4": "root c0 c1 c2 c3"})


@pytest.mark.parametrize("spec", [1, 2])
def test_nothing_old_nothing_released(spec: int) -> None:
    history = history_of(LINE, {"main": "c4"})
    assert outcome(history, 10, spec) == ("", {})
    assert outcome(history, 0, spec) == ("", {})


def test_histories_through_what_other_refs_hold() -> None:
    history = history_of(LINE, {"main": "c4", "branch": "c2"}, {"tag": "c1"})
    assert outcome(history, 1000, 2) == ("c0 c3", {"c1": "root c0", "c4": "root c0 c1 c2 c3"})
    released, grafts = outcome(history, 1000, 1)
    assert released == "c0 c3"
    assert {name: text.split()[0] for name, text in grafts.items()} == {"c1": "root", "c2": "root", "c4": "root"}


@pytest.mark.parametrize("spec", [1, 2])
def test_a_young_branch_from_an_old_place(spec: int) -> None:
    parents = {"root": None, "c0": "root", "c1": "c0", "c2": "c1", "c3": "c2", "cb": "c1"}
    history = history_of(parents, {"main": "c3", "other": "cb"})
    assert outcome(history, 40, spec) == ("c0 c1 c2", {"c3": "root c0 c1 c2", "cb": "root c0 c1"})


def test_logs_that_were_pruned_before_come_along() -> None:
    history = history_of(LINE, {"main": "c4"})
    records = dict(history.records)
    for name, pruned in {"c1": ("p1",), "c3": ("p3", "p4")}.items():
        old = records[_id(name)]
        records[_id(name)] = SnapshotRecord(
            old.id, old.parent_id, old.flushed_at, old.message, {}, tuple(map(_id, pruned))
        )
    history = History(history.branches, history.tags, records)
    assert outcome(history, 40, 2)[1] == {"c3": "root c0 p1 c1 c2 p3 p4"}


@pytest.mark.parametrize("spec", [1, 2])
def test_expired_refs_are_deleted_when_asked_for(spec: int) -> None:
    history = history_of(
        LINE, {"main": "c4", "old": "c1", "atroot": "root"}, {"oldtag": "c2", "young": "c4", "roottag": "root"}
    )
    plan = plan_expiration(history, 45, RULES[spec], delete_branches=True, delete_tags=True)
    rooted = {1: ({"old", "atroot"}, {"oldtag", "roottag"}), 2: ({"old"}, {"oldtag"})}
    assert (plan.edit.branches, plan.edit.tags) == rooted[spec]
    assert [record.message for record in plan.released] == ["c0", "c1", "c2", "c3"]
    everything = plan_expiration(history, 1000, RULES[spec], delete_branches=True, delete_tags=True)
    assert "main" not in everything.edit.branches
    assert [record.message for record in everything.released] == ["c0", "c1", "c2", "c3"]


def test_only_the_repo_object_knows_snapshots_that_no_ref_reaches() -> None:
    parents = {"root": None, "c0": "root", "flushed": "c0", "c1": "c0", "late": "flushed"}
    history = history_of(parents, {"main": "c1"})
    assert outcome(history, 25, 2) == ("c0 flushed", {"c1": "root c0", "late": "root c0 flushed"})


def test_young_snapshots_below_old_ones_are_not_cut_out() -> None:
    records = history_of(LINE, {"main": "c4"}).records
    times = {"root": 50, "c0": 1, "c1": 99, "c2": 2, "c3": 3, "c4": 100}
    history = History(
        {"main": _id("c4")},
        {},
        {one: SnapshotRecord(one, old.parent_id, times[old.message], old.message, {}) for one, old in records.items()},
    )
    for spec in (1, 2):
        assert outcome(history, 10, spec) == ("c0", {"c1": "root c0"})


@st.composite
def histories(draw: st.DrawFn) -> tuple[History, int]:
    count = draw(st.integers(1, 12))
    parents: dict[str, str | None] = {"root": None}
    for number in range(count):
        parents[f"s{number}"] = draw(st.sampled_from(list(parents)))
    names = st.sampled_from(list(parents))
    branches = {"main": draw(names), **draw(st.dictionaries(st.sampled_from("ab"), names))}
    return history_of(parents, branches, draw(st.dictionaries(st.sampled_from("tu"), names))), draw(
        st.integers(0, 10 * count + 20)
    )


@given(histories(), st.sampled_from([1, 2]), st.booleans(), st.booleans())
def test_what_holds_for_every_history(
    case: tuple[History, int], spec: int, delete_branches: bool, delete_tags: bool
) -> None:
    history, older_than = case
    if spec == 1:
        reached = history.reachable()
        history = History(
            history.branches, history.tags, {one: old for one, old in history.records.items() if one in reached}
        )
    plan = plan_expiration(history, older_than, RULES[spec], delete_branches=delete_branches, delete_tags=delete_tags)
    after = apply(history, plan)
    released = {record.id for record in plan.released}
    # exactly what is released is not reachable any more, of what was
    assert history.reachable() - after.reachable() >= released & history.reachable()
    assert released.isdisjoint(after.reachable())
    # nothing young goes, and its order and its surroundings stay
    young = {one for one in history.reachable() if history.records[one].flushed_at >= older_than}
    assert young <= after.reachable()
    for one in after.reachable():
        record = after.records[one]
        assert record.parent_id is None or record.parent_id in after.records
        if record.parent_id is not None:
            before = history.reachable([one])
            assert record.parent_id in before
            if spec == 2:  # every log between a snapshot and its parent is known
                between = before - history.reachable([record.parent_id]) - {one}
                assert set(record.pruned) == between
    # refs are deleted only when asked for, and main never
    assert "main" in after.branches
    assert delete_branches or after.branches == history.branches
    assert delete_tags or after.tags == history.tags
    # a second expiration finds nothing
    again = plan_expiration(after, older_than, RULES[spec], delete_branches=delete_branches, delete_tags=delete_tags)
    assert again.released == () and again.edit.grafted == ()


def apply(history: History, plan: Any) -> History:
    """The history after a plan."""
    records = {one: record for one, record in history.records.items() if one not in plan.edit.dropped}
    records |= {record.id: record for record in plan.edit.grafted}
    return History(
        {name: tip for name, tip in history.branches.items() if name not in plan.edit.branches},
        {name: tip for name, tip in history.tags.items() if name not in plan.edit.tags},
        records,
    )


def test_long_histories_take_no_recursion() -> None:
    parents: dict[str, str | None] = {"root": None, "c0": "root"}
    parents |= {f"c{number}": f"c{number - 1}" for number in range(1, 5000)}
    history = history_of(parents, {"main": "c4999"})
    plan = plan_expiration(history, 10 * 4000, ExpiryRule(through_tips=True, root_expires=False))
    assert len(plan.released) == 3999
    assert len(plan.edit.grafted[0].pruned) == 3999


# ---- carried out


async def five(kit: Kit) -> list[bytes]:
    return [await kit.commit("main", f"c{number}") for number in range(5)]


async def time_of(kit: Kit, snapshot_id: bytes) -> int:
    return int((await kit.refs.snapshot_record(snapshot_id)).flushed_at)


async def test_expiring(kit: Kit) -> None:
    ids = await five(kit)
    plan = await expire(kit.refs, await time_of(kit, ids[3]))
    assert plan.released_ids == {format_id(one) for one in ids[:3]}
    assert await kit.line("main") == ["c4", "c3", ROOT_MESSAGE]
    assert await kit.line("main", await kit.reopen()) == ["c4", "c3", ROOT_MESSAGE]
    assert (await expire(kit.refs, await time_of(kit, ids[3]))).released_ids == set()


async def test_what_expires_can_still_be_read_or_not(kit: Kit) -> None:
    ids = await five(kit)
    await expire(kit.refs, await time_of(kit, ids[3]))
    if kit.spec == 1:
        assert (await kit.refs.snapshot_record(ids[0])).message == "c0"
    else:
        with pytest.raises(IcechunkError, match="snapshot id not found"):
            await kit.refs.snapshot_record(ids[0])


async def test_the_snapshot_that_is_written_anew_keeps_all_but_its_parent(kit_of: Any) -> None:
    kit = await kit_of(1).create()
    ids = await five(kit)
    before = await kit.assets.snapshot(ids[3])
    await expire(kit.refs, await time_of(kit, ids[3]))
    kit.assets._snapshots.drop(ids[3])
    after = await kit.assets.snapshot(ids[3])
    assert after.parent_id == ROOT
    for name in ("id", "flushed_at", "message", "metadata"):
        assert getattr(after, name) == getattr(before, name)
    assert list(after.nodes()) == list(before.nodes())
    assert after.manifest_files() == before.manifest_files()


async def test_logs_stay_known(kit_of: Any) -> None:
    kit = await kit_of(2).create()
    ids = await five(kit)
    await expire(kit.refs, await time_of(kit, ids[2]))
    await expire(kit.refs, await time_of(kit, ids[4]))
    assert (await kit.refs.snapshot_record(ids[4])).pruned == tuple(ids[:4])
    kinds = [update.kind async for update in kit.refs.updates()]
    assert kinds[:2] == [ExpirationRan(), ExpirationRan()]


async def test_an_expiration_that_changes_nothing_is_logged_too(kit_of: Any) -> None:
    kit = await kit_of(2).create()
    await expire(kit.refs, 0)
    kinds = [update.kind async for update in kit.refs.updates()]
    assert kinds[0] == ExpirationRan()


async def test_deleting_expired_refs(kit: Kit) -> None:
    ids = await five(kit)
    await kit.refs.create_branch("old", ids[1])
    await kit.refs.create_tag("oldtag", ids[0])
    await kit.refs.create_tag("young", ids[4])
    plan = await expire(kit.refs, await time_of(kit, ids[3]), delete_expired_branches=True, delete_expired_tags=True)
    assert plan.released_ids == {format_id(one) for one in ids[:3]}
    assert (await kit.refs.list_branches(), await kit.refs.list_tags()) == ({"main"}, {"young"})
    with pytest.raises(IcechunkError):
        await kit.refs.create_tag("oldtag", ids[4])


async def test_a_dry_run_changes_nothing_and_tells_what_would_go(kit: Kit) -> None:
    ids = await five(kit)
    before = dict(kit.memory._objects)
    plan = await expire(kit.refs, await time_of(kit, ids[3]), dry_run=True)
    plan = plan.with_sizes(await released_sizes(plan, kit.refs, kit.storage))
    assert kit.memory._objects == before
    assert [record.id for record in plan.released] == ids[:3]
    manifests = {one: (await kit.assets.snapshot(one)).manifest_files()[0].size for one in ids[:3]}
    assert plan.sizes == {one: 10 + manifests[one] for one in ids[:3]}
    lines = str(plan).splitlines()
    assert lines[0].startswith("Expiration of what is older than 2023-11-14")
    assert format_id(ids[0]) in lines[1] and lines[1].endswith("c0")
    assert lines[4] == f"  {sum(plan.sizes.values()):,} bytes in all, to be deleted by a garbage collection"


async def test_of_an_object_that_stays_nothing_comes_back(kit: Kit) -> None:
    """Chunks that nobody needs any more, beside one that is needed."""
    stays, goes = kit.new_id(), kit.new_id()
    ids = [
        await kit.commit("main", "c0", {(0,): Native(stays, 100, 16), (1,): Native(stays, 7, 116)}),
        await kit.commit("main", "c1", {(0,): Native(goes, 1000, 16), (1,): Native(goes, 2000, 1016)}),
        await kit.commit("main", "c2", {(0,): Native(stays, 100, 16)}),
    ]
    plan = await expire(kit.refs, await time_of(kit, ids[2]), dry_run=True)
    sizes = await released_sizes(plan, kit.refs, kit.storage)
    manifests = {one: (await kit.assets.snapshot(one)).manifest_files()[0].size for one in ids}
    assert sizes == {ids[0]: manifests[ids[0]], ids[1]: manifests[ids[1]] + 3000}


async def test_a_dry_run_works_where_nothing_may_be_written(kit: Kit) -> None:
    ids = await five(kit)
    refs = await kit.reopen(ReadOnlyStorage(kit.memory))
    assert len((await expire(refs, await time_of(kit, ids[3]), dry_run=True)).released) == 3
    with pytest.raises(ReadOnlyError):
        await expire(refs, await time_of(kit, ids[3]))


async def test_a_closed_repository_is_not_expired(kit_of: Any) -> None:
    kit = await kit_of(2).create()
    await kit.refs.set_status(1, None)
    with pytest.raises(ReadOnlyError, match="Cannot expire") as caught:
        await expire(kit.refs, kit.clock())
    assert caught.value.kind == ErrorKind.READ_ONLY_REPOSITORY


@pytest.mark.parametrize("spec", [1, 2])
async def test_stopped_anywhere_histories_are_whole_and_a_second_run_finishes(kit_of: Any, spec: int) -> None:
    kit = await kit_of(spec).create()
    ids = await five(kit)
    await kit.refs.create_branch("dev", ids[1])
    await kit.commit("dev", "d0")
    await kit.refs.create_branch("old", ids[2])
    await kit.refs.create_tag("oldtag", ids[0])
    cut = await time_of(kit, ids[3])

    async def act(storage: Storage) -> None:
        refs = refs_for(spec, kit.context(storage))
        await expire(refs, cut, delete_expired_branches=True, delete_expired_tags=True)

    for fault in every_fault(await record_calls(kit.memory.copy(), act)):
        copy = kit.memory.copy()
        try:
            await act(FaultyStorage(copy, fault))
        except BaseException as error:
            assert fault.how == "stop" or isinstance(error, IcechunkError), fault
        refs = await kit.reopen(copy)
        line = await kit.line("main", refs)
        assert (line[:2], line[-1]) == (["c4", "c3"], ROOT_MESSAGE), fault
        await act(copy)
        refs = await kit.reopen(copy)
        assert await kit.line("main", refs) == ["c4", "c3", ROOT_MESSAGE]
        assert await kit.line("dev", refs) == ["d0", ROOT_MESSAGE]
        assert await refs.list_branches() == {"main", "dev"}
        assert await refs.list_tags() == set()


@pytest.mark.parametrize("spec", [1, 2])
def test_no_race_with_a_commit_loses_anything(kit_of: Any, spec: int) -> None:
    state: dict[str, Any] = {}

    async def prepare() -> Storage:
        kit = state["kit"] = await kit_of(spec).create()
        state["ids"] = [await kit.commit("main", f"c{number}") for number in range(2)]
        state["record"] = await kit.write_snapshot(await kit.refs.snapshot_record(state["ids"][-1]), "new")
        return kit.memory

    async def expiring(storage: Storage) -> None:
        await expire(refs_for(spec, state["kit"].context(storage)), 4_000_000_000_000_000)

    async def committing(storage: Storage) -> None:
        refs = refs_for(spec, state["kit"].context(storage))
        prepared = await refs.prepare("main")
        await refs.publish(Publication("commit", state["record"], "main", state["ids"][-1]), prepared)

    async def check(storage: Storage, outcomes: list[Outcome]) -> None:
        assert [outcome.error for outcome in outcomes] == [None, None]
        line = await state["kit"].line("main", await state["kit"].reopen(storage))
        # only tips stay of what is old, so it depends on who was first
        assert line in (["new", "c1", ROOT_MESSAGE], ["new", ROOT_MESSAGE])

    explore(prepare, [expiring, committing], check)


# ---- times


def test_points_in_time() -> None:
    assert as_micros(5) == 5
    assert as_micros(datetime(1970, 1, 1, 0, 0, 1, 5, tzinfo=UTC)) == 1_000_005
    naive = datetime(2024, 7, 1, 12, 0, 0)
    assert as_micros(naive) == round(time.mktime(naive.timetuple())) * 1_000_000
    assert as_micros(datetime(1969, 12, 31, tzinfo=UTC) + timedelta(microseconds=1)) == -86_400_000_000 + 1
    with pytest.raises(TypeError, match="expected a datetime, got str"):
        as_micros("2020")  # type: ignore[arg-type]
