"""One suite for both ref stores: what a user can tell apart is named in the tests; everything else must be alike."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from icechunk import _driver
from icechunk.config import RepositoryConfig
from icechunk.errors import (
    AlreadyExistsError,
    ConflictError,
    ErrorKind,
    FormatError,
    IcechunkError,
    InvalidInputError,
    PreconditionFailedError,
    ReadOnlyError,
    RefNotFoundError,
    SessionStateError,
    SnapshotNotFoundError,
    StorageError,
)
from icechunk.format.ids import INITIAL_SNAPSHOT_ID, format_id
from icechunk.format.repo_info import BranchCreated, NewCommit, RepoInitialized
from icechunk.refs import Context, Publication, UpdateRetries, create_refs, find_spec, open_refs, refs_for
from icechunk.refs.base import HistoryEdit, format_time, later_than
from icechunk.refs.ref_content import names_in
from icechunk.refs.snapshot_chain import RecentFiles
from icechunk.storage.base import ABSENT, ObjectInfo, Storage
from icechunk.storage.memory import MemoryStorage
from icechunk.storage.wrappers import ReadOnlyStorage, UnconditionalStorage
from icechunk.testing.counting import CountingStorage
from icechunk.testing.faults import Fault, FaultyStorage, every_fault, record_calls
from icechunk.testing.schedules import Outcome, explore

ROOT = INITIAL_SNAPSHOT_ID
UNKNOWN = b"unknown-snap"

Kit = Any


# ---- creating and opening


async def test_a_new_repository_has_main_at_an_empty_first_snapshot(kit: Kit) -> None:
    assert await kit.refs.list_branches() == {"main"}
    assert await kit.refs.list_tags() == set()
    assert await kit.refs.branch_tip("main") == ROOT
    record = await kit.refs.snapshot_record(ROOT)
    assert (record.parent_id, record.message) == (None, "Repository initialized")
    assert len(await kit.assets.snapshot(ROOT)) == 0
    assert await find_spec(kit.storage) == kit.spec


async def test_files_of_a_new_repository(kit: Kit) -> None:
    initial = format_id(ROOT)
    expected = {
        1: {f"snapshots/{initial}", "refs/branch.main/ref.json"},
        2: {f"snapshots/{initial}", f"transactions/{initial}", "repo"},
    }
    assert set(kit.memory._objects) == expected[kit.spec]


async def test_opening_finds_the_format(kit: Kit) -> None:
    assert (await kit.reopen()).spec == kit.spec
    empty = MemoryStorage()
    assert await open_refs(kit.context(empty)) is None
    assert await find_spec(empty) is None
    assert await refs_for(kit.spec, kit.context()).branch_tip("main") == ROOT


@pytest.mark.parametrize("spec", [1, 2])
async def test_creating_wants_a_clean_place(kit: Kit, spec: int) -> None:
    with pytest.raises(InvalidInputError) as caught:
        await create_refs(kit.context(), spec)
    assert caught.value.kind == ErrorKind.PARENT_DIRECTORY_NOT_CLEAN
    with pytest.raises(InvalidInputError):
        await create_refs(kit.context(), spec, check_clean_root=False)
    await kit.memory.delete(["repo", "refs/branch.main/ref.json"])
    await kit.memory.put("chunks/left.over", b"x")
    with pytest.raises(InvalidInputError):
        await create_refs(kit.context(), spec)
    assert (await create_refs(kit.context(), spec, check_clean_root=False)).spec == spec


@pytest.mark.parametrize("spec", [1, 2])
async def test_a_creation_that_was_cut_off_is_completed_by_the_next(kit: Kit, spec: int) -> None:
    await kit.memory.delete(["repo", "refs/branch.main/ref.json"])
    if spec == kit.spec:
        assert await (await create_refs(kit.context(), spec)).branch_tip("main") == ROOT
    else:
        with pytest.raises(InvalidInputError):
            await create_refs(kit.context(), spec)


async def test_the_newer_format_wins_where_both_are(kit_of: Any) -> None:
    kit = await kit_of(2).create()
    await kit.memory.put("refs/branch.main/ref.json", b'{"snapshot":"RR7N6B54BDHJKN5Z26JG"}')
    assert await (await kit.reopen()).branch_tip("main") == ROOT


async def test_other_branches_alone_are_no_repository(kit_of: Any) -> None:
    kit = await kit_of(1).create()
    await kit.refs.create_branch("dev", ROOT)
    await kit.memory.delete(["refs/branch.main/ref.json"])
    assert await open_refs(kit.context()) is None


@pytest.mark.parametrize("spec", [1, 2])
def test_of_two_that_create_at_once_one_succeeds(kit_of: Any, spec: int) -> None:
    async def prepare() -> Storage:
        return MemoryStorage()

    async def create(storage: Storage) -> None:
        await create_refs(kit_of(spec).context(storage), spec)

    async def check(storage: Storage, outcomes: list[Outcome]) -> None:
        failed = [outcome.error for outcome in outcomes if outcome.error is not None]
        assert len(failed) <= 1
        assert all(isinstance(error, InvalidInputError) for error in failed)
        refs = await open_refs(kit_of(spec).context(storage))
        assert refs is not None and await refs.branch_tip("main") == ROOT

    explore(prepare, [create, create], check)


# ---- branches and tags


async def test_branches_come_move_and_go(kit: Kit) -> None:
    first = await kit.commit("main", "first")
    await kit.refs.create_branch("dev", first)
    assert await kit.refs.list_branches() == {"main", "dev"}
    second = await kit.commit("dev", "second")
    assert await kit.refs.branch_tip("dev") == second
    assert await kit.refs.branch_tip("main") == first
    await kit.refs.reset_branch("dev", ROOT)
    assert await kit.refs.branch_tip("dev") == ROOT
    await kit.refs.reset_branch("dev", ROOT)
    await kit.refs.delete_branch("dev")
    assert await kit.refs.list_branches() == {"main"}
    await kit.refs.create_branch("dev", second)
    assert await kit.refs.branch_tip("dev") == second


async def test_what_one_process_does_another_sees(kit: Kit) -> None:
    other = await kit.reopen()
    assert await other.branch_tip("main") == ROOT
    tip = await kit.commit("main", "first")
    await kit.refs.create_tag("v1", tip)
    assert await other.branch_tip("main") == tip
    assert await other.tag_target("v1") == tip
    assert (await other.snapshot_record(tip)).message == "first"


async def test_an_existing_branch_is_not_created_again(kit: Kit) -> None:
    with pytest.raises(IcechunkError) as caught:
        await kit.refs.create_branch("main", ROOT)
    if kit.spec == 1:
        assert caught.value.kind == ErrorKind.BRANCH_UPDATE_CONFLICT
        assert isinstance(caught.value, ConflictError) and caught.value.actual_parent == format_id(ROOT)
        assert str(caught.value).startswith(f"branch update conflict: `(None) != (Some({format_id(ROOT)}))`")
    else:
        assert isinstance(caught.value, AlreadyExistsError)
        assert str(caught.value).startswith(f"branch already exists `main -> {format_id(ROOT)}`")


async def test_reset_compares_when_asked_to(kit: Kit) -> None:
    tip = await kit.commit("main", "first")
    with pytest.raises(ConflictError) as caught:
        await kit.refs.reset_branch("main", ROOT, ROOT)
    assert caught.value.kind == ErrorKind.BRANCH_UPDATE_CONFLICT
    assert (caught.value.expected_parent, caught.value.actual_parent) == (format_id(ROOT), format_id(tip))
    await kit.refs.reset_branch("main", ROOT, tip)
    assert await kit.refs.branch_tip("main") == ROOT


async def test_main_cannot_be_deleted(kit: Kit) -> None:
    with pytest.raises(SessionStateError, match="main branch cannot be deleted"):
        await kit.refs.delete_branch("main")


async def test_missing_refs(kit: Kit) -> None:
    refs = kit.refs
    for call in (
        refs.branch_tip("zz"),
        refs.tag_target("zz"),
        refs.delete_branch("zz"),
        refs.delete_tag("zz"),
        refs.reset_branch("zz", ROOT),
    ):
        with pytest.raises(RefNotFoundError, match="ref not found `zz`") as caught:
            await call
        assert caught.value.kind == ErrorKind.REF_NOT_FOUND


async def test_refs_point_to_existing_snapshots_only(kit: Kit) -> None:
    refs = kit.refs
    calls = (
        refs.create_branch("x", UNKNOWN),
        refs.create_tag("x", UNKNOWN),
        refs.reset_branch("main", UNKNOWN),
        refs.snapshot_record(UNKNOWN),
    )
    for call in calls:
        with pytest.raises(SnapshotNotFoundError) as caught:
            await call
        if kit.spec == 1:  # by its kind and as a StorageError too: only files can say what exists
            assert isinstance(caught.value, StorageError) and caught.value.kind == ErrorKind.OBJECT_NOT_FOUND
        else:
            assert caught.value.kind == ErrorKind.SNAPSHOT_NOT_FOUND
    assert await refs.list_branches() == {"main"}


async def test_tags_stay_and_their_names_are_used_up(kit: Kit) -> None:
    tip = await kit.commit("main", "first")
    await kit.refs.create_tag("v1", tip)
    assert await kit.refs.list_tags() == {"v1"}
    assert await kit.refs.tag_target("v1") == tip
    with pytest.raises(AlreadyExistsError, match="tag already exists, tags are immutable: `v1`"):
        await kit.refs.create_tag("v1", ROOT)
    await kit.refs.delete_tag("v1")
    assert await kit.refs.list_tags() == set()
    with pytest.raises(RefNotFoundError):
        await kit.refs.tag_target("v1")
    with pytest.raises(RefNotFoundError):
        await kit.refs.delete_tag("v1")
    with pytest.raises(AlreadyExistsError) as caught:
        await kit.refs.create_tag("v1", tip)
    deleted = {1: ErrorKind.TAG_ALREADY_EXISTS, 2: ErrorKind.TAG_PREVIOUSLY_DELETED}
    assert caught.value.kind == deleted[kit.spec]


@pytest.mark.parametrize("name", ["", ".", "..", " ", "a b", "é", "a\\b", "line\nbreak", "v1.0.", "100%", "ref.json"])
async def test_odd_names(kit: Kit, name: str) -> None:
    tip = await kit.commit("main", "first")
    await kit.refs.create_branch(name, ROOT)
    await kit.refs.create_tag(name, tip)
    assert await kit.refs.list_branches() == {"main", name}
    assert await kit.refs.list_tags() == {name}
    assert (await kit.refs.branch_tip(name), await kit.refs.tag_target(name)) == (ROOT, tip)
    other = await kit.reopen()
    await other.delete_tag(name)
    await other.delete_branch(name)
    assert (await kit.refs.list_branches(), await kit.refs.list_tags()) == ({"main"}, set())


async def test_names_with_a_slash(kit: Kit) -> None:
    for create in (kit.refs.create_branch, kit.refs.create_tag):
        if kit.spec == 1:
            with pytest.raises(InvalidInputError, match="invalid ref name `a/b`") as caught:
                await create("a/b", ROOT)
            assert caught.value.kind == ErrorKind.INVALID_REF_NAME
        else:
            await create("a/b", ROOT)
    if kit.spec == 2:
        assert await kit.refs.list_branches() == {"main", "a/b"}


async def test_names_are_text(kit: Kit) -> None:
    with pytest.raises(TypeError, match="is a str, got int"):
        await kit.refs.create_branch(7, ROOT)


def test_names_in_a_listing() -> None:
    names = names_in(
        ObjectInfo(path, 1, 0.0)
        for path in [
            "refs/stray.txt",
            "refs/branch.main/ref.json",
            "refs/branch.empty/other.json",
            "refs/branch./ref.json",
            "refs/tag.kept/ref.json",
            "refs/tag.gone/ref.json",
            "refs/tag.gone/ref.json.deleted",
            "refs/tag.only-tombstone/ref.json.deleted",
        ]
    )
    assert names.branches == {"main", ""}
    assert names.tags == {"kept"}
    assert names.deleted_tags == {"gone", "only-tombstone"}
    with pytest.raises(InvalidInputError, match="invalid ref type `other`"):
        names_in([ObjectInfo("refs/other/ref.json", 1, 0.0)])


@pytest.mark.parametrize(
    "content", [b'{"snapshot":"RR7N6B54BDHJKN5Z26JG"}', b' { "x": 1,\n "snapshot" : "rr7n6b54bdhjkn5z26jg" } ']
)
async def test_ref_files_as_others_write_them(kit_of: Any, content: bytes) -> None:
    kit = await kit_of(1).create()
    await kit.memory.put("refs/branch.x/ref.json", content)
    assert format_id(await kit.refs.branch_tip("x")) == "RR7N6B54BDHJKN5Z26JG"


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"snapshot": 1}', b'{"snapshot":"RR7N"}', b"\xff\xfe", b"null"]
)
async def test_broken_ref_files(kit_of: Any, content: bytes) -> None:
    kit = await kit_of(1).create()
    await kit.memory.put("refs/branch.x/ref.json", content)
    with pytest.raises(FormatError, match=r"cannot serialize ref json: refs/branch.x/ref.json"):
        await kit.refs.branch_tip("x")


# ---- history


async def test_ancestry(kit: Kit) -> None:
    for number in range(3):
        await kit.commit("main", f"c{number}")
    assert await kit.line("main") == ["c2", "c1", "c0", "Repository initialized"]
    records = [record async for record in kit.refs.ancestry(await kit.refs.branch_tip("main"))]
    assert [record.parent_id for record in records] == [record.id for record in records[1:]] + [None]
    assert [record.metadata for record in records[:3]] == [{"message": f"c{number}"} for number in (2, 1, 0)]
    assert [record.flushed_at for record in records] == sorted((r.flushed_at for r in records), reverse=True)
    with pytest.raises(SnapshotNotFoundError):
        await kit.line(UNKNOWN)


@pytest.mark.parametrize("spec", [1, 2])
@pytest.mark.parametrize("length", [3, 40])
async def test_ancestry_over_a_network_does_not_wait_for_each_snapshot(kit_of: Any, spec: int, length: int) -> None:
    kit = await kit_of(spec, wrap=CountingStorage).create()
    for number in range(length):
        await kit.commit("main", f"c{number}")
    await kit.refs.create_branch("dev", await kit.refs.branch_tip("main"))
    for number in range(5):
        await kit.commit("dev", f"d{number}")
    counting = CountingStorage(kit.memory)
    refs = await kit.reopen(counting)
    counting.reset()
    assert len(await kit.line("main", refs)) == length + 1
    # one for the branch, some patience, one listing, and windows that double
    assert counting.depth <= (1 + 10 + 1 + 3 if spec == 1 else 2)
    assert counting.counts["get"] <= length + 5 + 2


async def test_a_consumer_that_stops_early_has_not_read_everything(kit_of: Any) -> None:
    kit = await kit_of(1).create()
    for number in range(60):
        await kit.commit("main", f"c{number}")
    counting = CountingStorage(kit.memory)
    refs = await kit.reopen(counting)
    counting.reset()
    seen = 0
    async for _ in refs.ancestry(await refs.branch_tip("main")):
        seen += 1
        if seen == 12:
            break
    assert counting.counts["get"] < 40


async def test_find_as_of(kit: Kit) -> None:
    first = await kit.commit("main", "first")
    between = kit.clock()
    second = await kit.commit("main", "second")
    assert await kit.refs.find_as_of("main", between) == first
    assert await kit.refs.find_as_of("main", kit.clock()) == second
    assert await kit.refs.find_as_of("main", (await kit.refs.snapshot_record(second)).flushed_at) == second
    with pytest.raises(SnapshotNotFoundError) as caught:
        await kit.refs.find_as_of("main", 946_684_800_000_000)
    assert str(caught.value).startswith("branch main does not have a snapshots before or at 2000-01-01 00:00:00 UTC")
    assert caught.value.kind == ErrorKind.NO_SNAPSHOT_AT_TIME
    with pytest.raises(RefNotFoundError):
        await kit.refs.find_as_of("nope", between)


async def test_history_is_all_refs_and_what_they_reach(kit: Kit) -> None:
    first = await kit.commit("main", "first")
    await kit.refs.create_branch("dev", first)
    second = await kit.commit("dev", "second")
    await kit.refs.create_tag("v", second)
    history = await kit.refs.history()
    assert history.branches == {"main": first, "dev": second}
    assert history.tags == {"v": second}
    assert history.records.keys() == {ROOT, first, second}
    assert history.reachable([first]) == {ROOT, first}


# ---- publishing


async def test_a_commit_moves_its_branch_only(kit: Kit) -> None:
    await kit.refs.create_branch("dev", ROOT)
    tip = await kit.commit("main", "first")
    assert await kit.refs.branch_tip("main") == tip
    assert await kit.refs.branch_tip("dev") == ROOT


@pytest.mark.parametrize("ahead", [False, True])
async def test_a_commit_on_a_branch_that_moved_is_refused(kit: Kit, ahead: bool) -> None:
    parent = await kit.refs.snapshot_record(ROOT)
    ours = await kit.write_snapshot(parent, "ours")
    prepared = await kit.refs.prepare("main") if ahead else None
    theirs = await kit.commit("main", "theirs")
    with pytest.raises(ConflictError) as caught:
        await kit.refs.publish(Publication("commit", ours, "main", ROOT), prepared)
    assert caught.value.kind == ErrorKind.COMMIT_CONFLICT
    assert (caught.value.expected_parent, caught.value.actual_parent) == (format_id(ROOT), format_id(theirs))
    assert await kit.line("main") == ["theirs", "Repository initialized"]


@pytest.mark.parametrize("ahead", [False, True])
async def test_a_commit_on_a_branch_that_moved_on_and_forgot_where_it_was(kit_of: Any, ahead: bool) -> None:
    kit = await kit_of(2).create()
    base = await kit.commit("main", "base")
    ours = await kit.write_snapshot(await kit.refs.snapshot_record(base), "ours")
    tip = await kit.commit("main", "theirs")
    theirs = await kit.refs.snapshot_record(tip)
    expired = replace(theirs, parent_id=ROOT, pruned=(base,))
    await kit.refs.edit_history(lambda _: HistoryEdit("expired", (expired,), frozenset({base})))
    prepared = await kit.refs.prepare("main") if ahead else None
    with pytest.raises(ConflictError) as caught:
        await kit.refs.publish(Publication("commit", ours, "main", base), prepared)
    assert caught.value.actual_parent == format_id(tip)


async def test_an_amend_of_a_tip_that_got_another_parent(kit_of: Any) -> None:
    kit = await kit_of(2).create()
    base = await kit.commit("main", "base")
    tip = await kit.commit("main", "tip")
    replaced = await kit.refs.snapshot_record(tip)
    ours = await kit.write_snapshot(await kit.refs.snapshot_record(base), "ours")
    expired = replace(replaced, parent_id=ROOT, pruned=(base,))
    await kit.refs.edit_history(lambda _: HistoryEdit("expired", (expired,), frozenset({base})))
    await kit.refs.publish(Publication("amend", ours, "main", tip, tip))
    record = await kit.refs.snapshot_record(await kit.refs.branch_tip("main"))
    assert (record.id, record.parent_id, record.pruned) == (ours.id, ROOT, (base,))


async def test_a_commit_on_a_branch_that_is_gone(kit: Kit) -> None:
    await kit.refs.create_branch("dev", ROOT)
    ours = await kit.write_snapshot(await kit.refs.snapshot_record(ROOT), "ours")
    prepared = await kit.refs.prepare("dev")
    assert prepared.tip == ROOT
    await (await kit.reopen()).delete_branch("dev")
    for ready in (prepared, None):
        if kit.spec == 1:
            with pytest.raises(ConflictError) as conflict:
                await kit.refs.publish(Publication("commit", ours, "dev", ROOT), ready)
            assert conflict.value.actual_parent is None
        else:
            with pytest.raises(RefNotFoundError, match="branch not found `dev`") as missing:
                await kit.refs.publish(Publication("commit", ours, "dev", ROOT), ready)
            assert missing.value.kind == ErrorKind.BRANCH_NOT_FOUND


async def test_preparing_says_where_the_branch_stands(kit: Kit) -> None:
    tip = await kit.commit("main", "first")
    assert (await kit.refs.prepare("main")).tip == tip
    assert (await kit.refs.prepare("nope")).tip is None


async def test_what_is_prepared_need_not_be_read_again(kit_of: Any) -> None:
    for spec in (1, 2):
        kit = await kit_of(spec, wrap=CountingStorage).create()
        await kit.commit("main", "first")
        tip = await kit.refs.branch_tip("main")
        record = await kit.write_snapshot(await kit.refs.snapshot_record(tip), "second")
        prepared = await kit.refs.prepare("main")
        kit.storage.reset()
        await kit.refs.publish(Publication("commit", record, "main", tip), prepared)
        assert kit.storage.counts == {"put": 1}


async def test_where_a_branch_stood_need_not_be_read_again_to_commit_to_it(kit_of: Any) -> None:
    kit = await kit_of(1, wrap=CountingStorage).create()
    await kit.commit("main", "first")
    tip = await kit.refs.branch_tip("main")
    for message in ("second", "third"):
        record = await kit.write_snapshot(await kit.refs.snapshot_record(tip), message)
        kit.storage.reset()
        await kit.refs.publish(Publication("commit", record, "main", tip), await kit.refs.prepare("main", tip))
        assert kit.storage.counts == {"exists": 1, "put": 1}  # whether it was upgraded
        tip = record.id
    assert await kit.line("main") == ["third", "second", "first", "Repository initialized"]


async def test_a_branch_that_moved_unnoticed_is_a_conflict_and_read_from_then_on(kit: Kit) -> None:
    tip = await kit.commit("main", "first")
    ours = await kit.write_snapshot(await kit.refs.snapshot_record(tip), "ours")
    theirs = await kit.commit("main", "theirs", refs=await kit.reopen())
    with pytest.raises(ConflictError) as caught:
        await kit.refs.publish(Publication("commit", ours, "main", tip), await kit.refs.prepare("main", tip))
    assert (caught.value.expected_parent, caught.value.actual_parent) == (format_id(tip), format_id(theirs))
    newest = await kit.commit("main", "newest", refs=await kit.reopen())
    assert (await kit.refs.prepare("main", theirs)).tip == newest


@pytest.mark.parametrize("spec", [1, 2])
async def test_where_conditions_are_not_kept_whoever_writes_later_sees_what_was_committed_before(
    kit_of: Any, spec: int
) -> None:
    kit = await kit_of(spec, wrap=UnconditionalStorage).create()
    tip = await kit.commit("main", "first")
    ours = await kit.write_snapshot(await kit.refs.snapshot_record(tip), "ours")
    await kit.commit("main", "theirs", refs=await kit.reopen())
    with pytest.raises(ConflictError):
        await kit.refs.publish(Publication("commit", ours, "main", tip), await kit.refs.prepare("main", tip))
    assert await kit.line("main") == ["theirs", "first", "Repository initialized"]


async def test_a_branch_that_went_and_came_back_takes_a_commit(kit: Kit) -> None:
    first = await kit.commit("main", "first")
    tip = await kit.commit("main", "second")
    other = await kit.reopen()
    await other.reset_branch("main", first)
    await other.reset_branch("main", tip)
    ours = await kit.write_snapshot(await kit.refs.snapshot_record(tip), "ours")
    await kit.refs.publish(Publication("commit", ours, "main", tip), await kit.refs.prepare("main", tip))
    assert await kit.line("main") == ["ours", "second", "first", "Repository initialized"]


async def test_refs_that_a_listing_shows_unchanged_are_not_read_again(kit_of: Any) -> None:
    kit = await kit_of(1, wrap=CountingStorage).create()
    first = await kit.commit("main", "first")
    await kit.refs.create_branch("dev", first)
    await kit.refs.create_tag("v1", first)
    before = await kit.refs.history()
    kit.storage.reset()
    assert (await kit.refs.history()).branches == before.branches
    assert not [one for one in kit.storage.requests if one.verb == "get" and one.paths[0].startswith("refs/")]
    second = await kit.commit("dev", "second", refs=await kit.reopen())
    kit.storage.reset()
    assert (await kit.refs.history()).branches == {"main": first, "dev": second}
    assert [one.paths[0] for one in kit.storage.requests if one.paths[0].startswith("refs/branch")] == [
        "refs/branch.dev/ref.json"
    ]


def test_recent_files_are_kept_up_to_a_size_and_known_by_their_etag() -> None:
    recent = RecentFiles(limit=10)
    recent.put("a", b"12345", "1")
    recent.put("b", b"12345", "2")
    assert (recent.get("a"), recent.get("a", "1"), recent.get("a", "other")) == (b"12345", b"12345", None)
    recent.put("a", b"123", "3")  # again, so it is the newest
    assert (recent.get("a", "1"), recent.get("a", "3")) == (None, b"123")
    recent.put("c", b"1234", None)
    assert (recent.get("b"), recent.get("a"), recent.get("c"), recent.get("c", "4")) == (None, b"123", b"1234", None)
    recent.put("huge", b"12345678901", "5")
    assert recent.get("huge") is None


async def test_snapshots_are_younger_than_their_parents(kit: Kit) -> None:
    parent = await kit.refs.snapshot_record(await kit.commit("main", "first"))
    kit.clock.at -= 60_000_000
    record = await kit.write_snapshot(parent, "second")
    assert record.flushed_at == parent.flushed_at + 1
    await kit.refs.publish(Publication("commit", record, "main", parent.id))
    old = type(record)(kit.new_id(), record.id, record.flushed_at, "third", {})
    with pytest.raises(FormatError, match="invalid snapshot timestamp ordering") as caught:
        await kit.refs.publish(Publication("commit", old, "main", record.id))
    assert caught.value.kind == ErrorKind.SNAPSHOT_TIMESTAMP


async def test_a_clock_that_is_far_off_the_storage_is_refused(kit_of: Any) -> None:
    kit = await kit_of(1).create()
    parent = await kit.refs.snapshot_record(ROOT)
    kit.memory._clock = lambda: (kit.clock() + 700_000_000) / 1_000_000
    record = await kit.write_snapshot(parent, "first")
    with pytest.raises(FormatError, match="please verify if the machine clock has drifted"):
        await kit.refs.publish(Publication("commit", record, "main", ROOT))
    assert await kit.refs.branch_tip("main") == ROOT


async def test_detached_snapshots(kit: Kit) -> None:
    record = await kit.write_snapshot(await kit.refs.snapshot_record(ROOT), "flushed")
    await kit.refs.publish(Publication("detached", record))
    assert await kit.refs.branch_tip("main") == ROOT
    assert (await kit.refs.snapshot_record(record.id)).parent_id == ROOT
    await kit.refs.create_branch("dev", record.id)
    assert await kit.line("dev") == ["flushed", "Repository initialized"]


async def test_amending(kit: Kit) -> None:
    first = await kit.commit("main", "first")
    record = await kit.write_snapshot(await kit.refs.snapshot_record(ROOT), "amended")
    amend = Publication("amend", record, "main", first, first)
    await kit.refs.publish(amend)
    assert await kit.line("main") == ["amended", "Repository initialized"]
    assert (await kit.refs.snapshot_record(first)).message == "first"


async def test_the_same_snapshot_is_not_published_twice(kit_of: Any) -> None:
    kit = await kit_of(2).create()
    tip = await kit.commit("main", "first")
    record = await kit.refs.snapshot_record(tip)
    with pytest.raises(FormatError) as caught:
        await kit.refs.publish(Publication("commit", record, "main", tip))
    assert caught.value.kind == ErrorKind.DUPLICATE_SNAPSHOT_ID


async def test_old_clients_notice_an_upgrade(kit_of: Any) -> None:
    kit = await kit_of(1).create()
    record = await kit.write_snapshot(await kit.refs.snapshot_record(ROOT), "late")
    await kit.memory.put("repo", b"whatever")
    with pytest.raises(FormatError, match="open it again"):
        await kit.refs.publish(Publication("commit", record, "main", ROOT))
    assert await kit.refs.branch_tip("main") == ROOT


# ---- several at once


@pytest.mark.parametrize("spec", [1, 2])
def test_every_race_of_two_commits_has_one_winner(kit_of: Any, spec: int) -> None:
    kits: list[Kit] = []

    async def prepare() -> Storage:
        kits[:] = [await kit_of(spec).create()]
        kits.append([await kits[0].write_snapshot(await kits[0].refs.snapshot_record(ROOT), str(n)) for n in (0, 1)])
        return kits[0].memory

    def committer(number: int) -> Any:
        async def commit(storage: Storage) -> bytes:
            refs = refs_for(spec, kits[0].context(storage))
            record = kits[1][number]
            await refs.publish(Publication("commit", record, "main", ROOT), await refs.prepare("main"))
            return record.id

        return commit

    async def check(storage: Storage, outcomes: list[Outcome]) -> None:
        won = [outcome.result for outcome in outcomes if outcome.error is None]
        lost = [outcome.error for outcome in outcomes if outcome.error is not None]
        assert len(won) == 1
        assert isinstance(lost[0], ConflictError) and lost[0].actual_parent == format_id(won[0])
        assert await (await kits[0].reopen(storage)).branch_tip("main") == won[0]

    assert explore(prepare, [committer(0), committer(1)], check).complete > 1


@pytest.mark.parametrize("spec", [1, 2])
def test_no_race_of_unrelated_changes_loses_one(kit_of: Any, spec: int) -> None:
    async def prepare() -> Storage:
        kit = await kit_of(spec).create()
        return kit.memory

    async def tag(storage: Storage) -> None:
        await refs_for(spec, kit_of(spec, seed=1).context(storage)).create_tag("t", ROOT)

    async def branch(storage: Storage) -> None:
        await refs_for(spec, kit_of(spec, seed=2).context(storage)).create_branch("b", ROOT)

    async def check(storage: Storage, outcomes: list[Outcome]) -> None:
        assert [outcome.error for outcome in outcomes] == [None, None]
        refs = await open_refs(kit_of(spec).context(storage))
        assert refs is not None
        assert (await refs.list_branches(), await refs.list_tags()) == ({"main", "b"}, {"t"})

    explore(prepare, [tag, branch], check)


@pytest.mark.parametrize("spec", [1, 2])
async def test_many_tasks_of_one_process_lose_nothing(kit_of: Any, spec: int) -> None:
    kit = await kit_of(spec, wrap=CountingStorage).create()
    await asyncio.gather(*(kit.refs.create_branch(f"b{number}", ROOT) for number in range(12)))
    assert await kit.refs.list_branches() == {"main", *(f"b{number}" for number in range(12))}
    await asyncio.gather(*(kit.commit(f"b{number}", f"c{number}") for number in range(12)))
    for number in range(12):
        assert await kit.line(f"b{number}") == [f"c{number}", "Repository initialized"]


@pytest.mark.parametrize("spec", [1, 2])
def test_many_threads_of_one_process_lose_nothing(kit_of: Any, spec: int) -> None:
    kit = _driver.run(kit_of(spec).create())

    async def create(number: int) -> None:
        await kit.refs.create_tag(f"t{number}", ROOT)

    _driver.run(_driver.concurrent_map(create, range(12), 6))
    assert _driver.run(kit.refs.list_tags()) == {f"t{number}" for number in range(12)}


async def test_giving_up_when_others_are_always_faster(kit_of: Any) -> None:
    class Busy(CountingStorage):
        async def put(self, path: str, data: Any, **options: Any) -> Any:
            if path == "repo" and options.get("only_if") is not ABSENT:
                found, _ = await self.inner.get("repo")
                await self.inner.put("repo", found)
            return await super().put(path, data, **options)

    kit = await kit_of(2, wrap=Busy, retries=UpdateRetries(4, 0, 0)).create()
    with pytest.raises(ConflictError, match="repository cannot be updated after 4 attempts") as caught:
        await kit.refs.create_branch("x", ROOT)
    assert caught.value.kind == ErrorKind.UPDATE_ATTEMPTS_EXHAUSTED


def test_waits_between_tries() -> None:
    retries = UpdateRetries(max_tries=100, initial_backoff_ms=50, max_backoff_ms=300)
    assert [retries.wait_before(attempt, 0.0) for attempt in range(11)] == [0] * 6 + [0.05, 0.1, 0.2, 0.3, 0.3]
    assert retries.wait_before(6, 1.0) == 0.025


# ---- failures


OPERATIONS = {
    "commit": lambda refs, record: refs.publish(Publication("commit", record, "main", record.parent_id)),
    "create branch": lambda refs, _: refs.create_branch("new", ROOT),
    "delete branch": lambda refs, _: refs.delete_branch("dev"),
    "reset": lambda refs, _: refs.reset_branch("dev", ROOT),
    "create tag": lambda refs, _: refs.create_tag("new", ROOT),
    "delete tag": lambda refs, _: refs.delete_tag("v1"),
    "save config": lambda refs, _: refs.save_config(RepositoryConfig(inline_chunk_threshold_bytes=9)),
}


async def _state(refs: Any) -> Any:
    branches = {name: await refs.branch_tip(name) for name in await refs.list_branches()}
    tags = {name: await refs.tag_target(name) for name in await refs.list_tags()}
    config = await refs.load_config()
    return branches, tags, config and config.inline_chunk_threshold_bytes


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("spec", [1, 2])
async def test_an_operation_that_fails_anywhere_happened_or_did_not(kit_of: Any, spec: int, operation: str) -> None:
    kit = await kit_of(spec).create()
    first = await kit.commit("main", "first")
    await kit.refs.create_branch("dev", first)
    await kit.refs.create_tag("v1", first)
    record = await kit.write_snapshot(await kit.refs.snapshot_record(first), "late")
    before = await _state(kit.refs)

    async def act(storage: Storage) -> None:
        refs = refs_for(spec, kit.context(storage))
        await OPERATIONS[operation](refs, record)

    copy = kit.memory.copy()
    calls = await record_calls(copy, act)
    after = await _state(await kit.reopen(copy))
    for fault in every_fault(calls):
        copy = kit.memory.copy()
        failed = False
        try:
            await act(FaultyStorage(copy, fault))
        except BaseException as error:
            failed = True
            assert fault.how == "stop" or isinstance(error, IcechunkError), fault
        state = await _state(await kit.reopen(copy))
        assert state == after or (failed and state == before), fault
        if fault.how == "stop":
            await act(copy) if state == before else None
            assert await _state(await kit.reopen(copy)) == after


@pytest.mark.parametrize("spec", [1, 2])
async def test_a_lost_reply_to_the_publishing_write_is_no_failure(kit_of: Any, spec: int) -> None:
    kit = await kit_of(spec).create()
    tip = await kit.refs.branch_tip("main")
    record = await kit.write_snapshot(await kit.refs.snapshot_record(tip), "first")
    writes = frozenset({"put"})

    async def publish(storage: Storage) -> None:
        await refs_for(spec, kit.context(storage)).publish(Publication("commit", record, "main", tip))

    puts = [call for call in await record_calls(kit.memory.copy(), publish) if call.verb == "put"]
    copy = kit.memory.copy()
    await publish(FaultyStorage(copy, Fault(len(puts) - 1, "after", writes)))
    assert await (await kit.reopen(copy)).branch_tip("main") == record.id


@pytest.mark.parametrize("spec", [1, 2])
async def test_a_write_that_a_client_repeated_and_found_done_is_no_conflict(kit_of: Any, spec: int) -> None:
    class Repeats(CountingStorage):
        async def put(self, path: str, data: Any, **options: Any) -> Any:
            version = await super().put(path, data, **options)
            if path.startswith(("repo", "refs/")):
                raise PreconditionFailedError("somebody has changed it")
            return version

    kit = await kit_of(spec).create()
    first = await kit.commit("main", "first")
    refs = await kit.reopen(Repeats(kit.memory))
    await refs.reset_branch("main", ROOT)
    record = await kit.write_snapshot(await refs.snapshot_record(ROOT), "second")
    await refs.publish(Publication("commit", record, "main", ROOT))
    assert await kit.refs.branch_tip("main") == record.id != first


async def test_a_lost_reply_that_others_wrote_on_top_of_is_no_failure(kit_of: Any) -> None:
    kit = await kit_of(2).create()
    other = await kit.reopen()

    class LosesReply(CountingStorage):
        done = False

        async def put(self, path: str, data: Any, **options: Any) -> Any:
            version = await super().put(path, data, **options)
            if path == "repo" and not self.done:
                self.done = True
                await other.create_tag("theirs", ROOT)
                raise StorageError("the connection broke")
            return version

    refs = await kit.reopen(LosesReply(kit.memory))
    await refs.create_branch("ours", ROOT)
    assert await refs.list_branches() == {"main", "ours"}
    assert await refs.list_tags() == {"theirs"}


@pytest.mark.parametrize("one_process", [True, False])
async def test_what_others_did_at_the_same_moment_is_not_taken_for_ours(kit_of: Any, one_process: bool) -> None:
    """Clocks that lag behind the log all continue it with the same time."""

    class Overtaken(CountingStorage):
        armed = True

        async def put(self, path: str, data: Any, **options: Any) -> Any:
            if path == "repo" and self.armed:
                self.armed = False
                await theirs.change_metadata(lambda metadata: {**metadata, "theirs": 1})
            return await super().put(path, data, **options)

    kit = await kit_of(2).create()
    behind = replace(kit.context(Overtaken(kit.memory)), now=lambda: 1_700_000_000_000_000 - 1)
    ours = refs_for(2, behind)
    theirs = ours if one_process else refs_for(2, replace(behind, storage=kit.memory))
    await ours.change_metadata(lambda metadata: {**metadata, "ours": 1})
    assert await (await kit.reopen()).get_metadata() == {"ours": 1, "theirs": 1}


async def test_read_only_storage(kit: Kit) -> None:
    refs = await kit.reopen(ReadOnlyStorage(kit.memory))
    assert await refs.branch_tip("main") == ROOT
    with pytest.raises(ReadOnlyError):
        await refs.create_branch("x", ROOT)
    with pytest.raises(ReadOnlyError) as caught:
        await refs.ensure_writable("Cannot do it")
    assert caught.value.kind == ErrorKind.READ_ONLY_STORAGE
    with pytest.raises(ReadOnlyError):
        await create_refs(kit.context(ReadOnlyStorage(MemoryStorage())), kit.spec)


# ---- configuration


async def test_configuration(kit: Kit) -> None:
    assert await kit.refs.load_config() is None
    config = RepositoryConfig(inline_chunk_threshold_bytes=7)
    await kit.refs.save_config(config)
    loaded = await (await kit.reopen()).load_config()
    assert loaded is not None and loaded.inline_chunk_threshold_bytes == 7
    await kit.refs.save_config(RepositoryConfig(inline_chunk_threshold_bytes=8))
    loaded = await (await kit.reopen()).load_config()
    assert loaded is not None and loaded.inline_chunk_threshold_bytes == 8
    assert len(kit.paths("overwritten")) == {1: 1, 2: 2}[kit.spec]


async def test_configuration_given_at_creation(kit_of: Any) -> None:
    for spec in (1, 2):
        kit = await kit_of(spec).create(config=RepositoryConfig(inline_chunk_threshold_bytes=7))
        loaded = await (await kit.reopen()).load_config()
        assert loaded is not None and loaded.inline_chunk_threshold_bytes == 7


async def test_of_two_configurations_saved_at_once(kit: Kit) -> None:
    one, two = await kit.reopen(), await kit.reopen()
    await one.load_config()
    await two.load_config()
    await one.save_config(RepositoryConfig(inline_chunk_threshold_bytes=1))
    if kit.spec == 1:
        with pytest.raises(ConflictError, match="config was updated by other session") as caught:
            await two.save_config(RepositoryConfig(inline_chunk_threshold_bytes=2))
        assert caught.value.kind == ErrorKind.CONFIG_UPDATED
    else:
        await two.save_config(RepositoryConfig(inline_chunk_threshold_bytes=2))


# ---- what only the repo object can hold


async def test_what_the_old_format_cannot_hold(kit_of: Any) -> None:
    refs = (await kit_of(1).create()).refs
    for call in (
        refs.get_metadata(),
        refs.change_metadata(dict),
        refs.get_status(),
        refs.set_status(1, None),
        refs.flags(),
        refs.set_flag("create_tag", False),
    ):
        with pytest.raises(FormatError, match=r"at least version 2\.0") as caught:
            await call
        assert caught.value.kind == ErrorKind.UNSUPPORTED_SPEC_VERSION
    with pytest.raises(FormatError):
        refs.updates()


async def test_metadata(kit_of: Any) -> None:
    kit = await kit_of(2).create()
    assert await kit.refs.get_metadata() == {}
    assert await kit.refs.change_metadata(lambda old: {"a": [1, None]}) == {"a": [1, None]}
    assert await (await kit.reopen()).change_metadata(lambda old: {**old, "b": 2}) == {"a": [1, None], "b": 2}
    assert await kit.refs.get_metadata() == {"a": [1, None], "b": 2}


async def test_a_closed_repository_takes_no_changes(kit_of: Any) -> None:
    kit = await kit_of(2).create()
    assert (await kit.refs.get_status()).availability == 0
    await kit.refs.set_status(1, "maintenance")
    refs = await kit.reopen()
    status = await refs.get_status()
    assert (status.availability, status.reason) == (1, "maintenance")
    record = await kit.write_snapshot(await refs.snapshot_record(ROOT), "first")
    at = format_time(status.set_at)
    said = f'the repository status is read-only: Repo status is ReadOnly, set at {at}, reason: Some("maintenance")'
    for call in (
        refs.create_branch("x", ROOT),
        refs.create_tag("x", ROOT),
        refs.change_metadata(dict),
        refs.save_config(RepositoryConfig()),
        refs.set_flag("create_tag", None),
        refs.publish(Publication("commit", record, "main", ROOT)),
    ):
        with pytest.raises(ReadOnlyError) as caught:
            await call
        assert caught.value.kind == ErrorKind.READ_ONLY_REPOSITORY
        assert str(caught.value) == said
    with pytest.raises(ReadOnlyError, match="read-only: Cannot create writable session; Repo status is ReadOnly, set"):
        await refs.ensure_writable("Cannot create writable session")
    assert await refs.branch_tip("main") == ROOT
    await refs.set_status(0, None)
    await refs.create_branch("x", ROOT)


async def test_switches(kit_of: Any) -> None:
    kit = await kit_of(2).create()
    assert {(flag.id, flag.name, flag.enabled, flag.setting) for flag in await kit.refs.flags()} == {
        (3, "move_node", True, None),
        (4, "create_tag", True, None),
        (5, "delete_tag", True, None),
    }
    await kit.refs.create_tag("kept", ROOT)
    await kit.refs.set_flag("create_tag", False)
    await kit.refs.set_flag("delete_tag", False)
    refs = await kit.reopen()
    with pytest.raises(SessionStateError) as caught:
        await refs.create_tag("t", ROOT)
    assert str(caught.value) == "tag creation is disabled by a feature flag (create_tag)"
    with pytest.raises(SessionStateError, match=r"tag delete is disabled by a feature flag \(delete_tag\)"):
        await refs.delete_tag("kept")
    await refs.require_flag("move_node", "create rearrange session")
    await refs.set_flag("move_node", False)
    with pytest.raises(
        SessionStateError, match=r"create rearrange session is disabled by a feature flag \(move_node\)"
    ):
        await kit.refs.require_flag("move_node", "create rearrange session")
    await refs.set_flag("create_tag", None)
    await refs.create_tag("t", ROOT)
    with pytest.raises(InvalidInputError, match="invalid feature flag name: nope") as unknown:
        await refs.set_flag("nope", True)
    assert unknown.value.kind == ErrorKind.INVALID_FEATURE_FLAG


async def test_the_operations_log(kit_of: Any) -> None:
    kit = await kit_of(2).create()
    tip = await kit.commit("main", "first")
    await kit.refs.create_branch("dev", tip)
    updates = [update async for update in kit.refs.updates()]
    assert [update.kind for update in updates] == [BranchCreated("dev"), NewCommit("main", tip), RepoInitialized()]
    times = [update.at for update in updates]
    assert times == sorted(set(times), reverse=True)
    assert updates[0].backup is None
    assert {f"overwritten/{update.backup}" for update in updates[1:]} == set(kit.paths("overwritten"))


async def test_the_operations_log_goes_on_in_backups(kit_of: Any) -> None:
    kit = await kit_of(2, updates_per_file=3).create()
    for number in range(10):
        await kit.refs.create_branch(f"b{number}", ROOT)
    info = await kit.refs.info()
    assert len(info.updates) == 3
    kinds = [update.kind async for update in kit.refs.updates()]
    assert kinds == [*(BranchCreated(f"b{number}") for number in reversed(range(10))), RepoInitialized()]


async def test_every_backup_is_the_repository_as_it_was(kit_of: Any) -> None:
    kit = await kit_of(2, wrap=CountingStorage).create()
    stands = [bytes((await kit.memory.get("repo"))[0])]
    for number in range(3):
        await kit.refs.create_branch(f"b{number}", ROOT)
        stands.append(bytes((await kit.memory.get("repo"))[0]))
    backups = [update.backup async for update in kit.refs.updates()]
    found = [bytes((await kit.memory.get(f"overwritten/{backup}"))[0]) for backup in backups[1:]]
    assert found == stands[-2::-1]


async def test_times_of_updates_increase_even_when_the_clock_does_not(kit_of: Any) -> None:
    kit = await kit_of(2).create()
    for number in range(3):
        kit.clock.at -= 1_000_000
        await kit.refs.create_branch(f"b{number}", ROOT)
    times = [update.at async for update in kit.refs.updates()]
    assert times == [times[-1] + 3, times[-1] + 2, times[-1] + 1, times[-1]]


async def test_a_clock_that_is_far_behind_the_log_is_refused(kit_of: Any) -> None:
    kit = await kit_of(2).create()
    kit.clock.at -= 601_000_000
    with pytest.raises(FormatError, match="update timestamp is invalid"):
        await kit.refs.create_branch("x", ROOT)


def test_later_than() -> None:
    assert later_than(10, 5) == 10
    assert later_than(10, 10) == 11
    assert later_than(10, 99) == 100
    with pytest.raises(FormatError):
        later_than(0, 600_000_001)


async def test_an_uncontended_change_over_a_network_takes_two_round_trips(kit_of: Any) -> None:
    kit = await kit_of(2, wrap=CountingStorage).create()
    kit.storage.reset()
    await kit.refs.create_branch("x", ROOT)
    assert (kit.storage.depth, kit.storage.counts) == (2, {"get": 1, "put": 2})


async def test_settings_may_be_known_later_only(kit: Kit) -> None:
    counting = CountingStorage(kit.memory)
    kit.refs.rebind(Context(counting, kit.assets, kit.clock, kit.new_id))
    assert await kit.refs.branch_tip("main") == ROOT
    assert counting.requests


async def test_files_say_what_they_are_beside_their_bytes(kit: Kit) -> None:
    """As the Rust implementation has it: each version of it gives these facts names of its own."""
    await kit.commit("main", "first")
    await kit.refs.save_config(RepositoryConfig(inline_chunk_threshold_bytes=1))
    await kit.refs.save_config(RepositoryConfig(inline_chunk_threshold_bytes=2))
    name = "ic_file_type" if kit.spec == 1 else "icfiletype"
    first = f"snapshots/{format_id(ROOT)}"
    assert (kit.memory.attributes(first)[1] or {})[name] == "snapshot"
    backups = [path for path in kit.memory._objects if path.startswith("overwritten/")]
    assert backups
    if kit.spec == 2:
        for path in ("repo", *backups):
            assert (kit.memory.attributes(path)[1] or {})[name] == "repo-info"
    else:
        assert kit.memory.attributes("refs/branch.main/ref.json") == ("application/json", {})
        for path in ("config.yaml", *backups):
            assert kit.memory.attributes(path) == ("application/yaml", {})
