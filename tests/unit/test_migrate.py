"""Upgrading from the old format: everything is still there, and the log tells a plausible story."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from icechunk.assets import Assets
from icechunk.config import RepositoryConfig
from icechunk.errors import AlreadyExistsError, ErrorKind, IcechunkError, ReadOnlyError, SessionStateError
from icechunk.format.ids import INITIAL_SNAPSHOT_ID, format_id
from icechunk.format.repo_info import (
    BranchCreated,
    NewCommit,
    RepoInitialized,
    RepoMigrated,
    TagCreated,
    TagDeleted,
)
from icechunk.ops.migrate import plan_upgrade, upgrade
from icechunk.refs import Context, Publication, open_refs, refs_for
from icechunk.refs.repo_file import RepoFile
from icechunk.storage.base import Storage
from icechunk.storage.local import LocalStorage
from icechunk.storage.wrappers import ReadOnlyStorage
from icechunk.testing.counting import CountingStorage
from icechunk.testing.faults import FaultyStorage, every_fault, record_calls
from icechunk.testing.schedules import Outcome, explore

Kit = Any
ROOT = INITIAL_SNAPSHOT_ID
REPOS = Path(__file__).parent.parent / "golden" / "repos"


async def old_repository(kit_of: Any, **options: Any) -> tuple[Kit, dict[str, bytes]]:
    """Branches, tags, deleted tags, and snapshots that nothing reaches."""
    kit = await kit_of(1, **options).create(config=RepositoryConfig(inline_chunk_threshold_bytes=7))
    ids = {"root": ROOT}
    for name in ("c0", "c1"):
        ids[name] = await kit.commit("main", name)
    await kit.refs.create_branch("b", ids["c0"])
    await kit.refs.create_branch("a", ids["c0"])
    ids["b0"] = await kit.commit("b", "b0")
    await kit.refs.create_branch("side", ids["b0"])
    for tag in ("t2", "t1", "dz", "da"):
        await kit.refs.create_tag(tag, ids["c1"])
    for tag in ("dz", "da"):
        await kit.refs.delete_tag(tag)
    ids["lost"] = await kit.commit("a", "lost")
    await kit.refs.create_tag("dlost", ids["lost"])
    await kit.refs.delete_tag("dlost")
    await kit.refs.reset_branch("a", ids["c0"])
    ids["tagged"] = await kit.commit("side", "tagged")
    await kit.refs.create_tag("only", ids["tagged"])
    await kit.refs.delete_branch("side")
    return kit, ids


async def test_everything_is_still_there(kit_of: Any) -> None:
    kit, ids = await old_repository(kit_of)
    before = await kit.refs.history()
    config = await kit.refs.load_config()
    await upgrade(kit.refs)
    refs = await kit.reopen()
    assert refs.spec == 2
    after = await refs.history()
    assert (after.branches, after.tags) == (before.branches, before.tags)
    assert {one: tuple_of(record) for one, record in after.records.items()} == {
        one: tuple_of(record) for one, record in before.records.items()
    }
    assert ids["lost"] not in after.records
    assert await refs.load_config() == config
    for tag in ("dz", "da", "dlost"):
        with pytest.raises(AlreadyExistsError) as caught:
            await refs.create_tag(tag, ROOT)
        assert caught.value.kind == ErrorKind.TAG_PREVIOUSLY_DELETED
    assert not kit.paths("refs") and "config.yaml" not in kit.memory._objects
    status = await refs.get_status()
    assert (status.availability, status.set_at) == (0, before.records[ROOT].flushed_at)


def tuple_of(record: Any) -> tuple[Any, ...]:
    return record.parent_id, record.flushed_at, record.message, record.metadata, record.pruned


async def test_the_log_that_is_made_up(kit_of: Any) -> None:
    kit, ids = await old_repository(kit_of)
    at = {name: (await kit.refs.snapshot_record(one)).flushed_at for name, one in ids.items()}
    await upgrade(kit.refs)
    updates = [update async for update in (await kit.reopen()).updates()]
    assert all(update.backup is None for update in updates)
    assert isinstance(updates[0].kind, RepoMigrated) and updates[0].kind == RepoMigrated(1, 2)
    story = [(update.at, update.kind) for update in reversed(updates[1:])]
    expected = [
        (at["root"], RepoInitialized()),
        (at["root"] + 1000, TagCreated("dlost")),  # what it pointed to is not known any more
        (at["root"] + 2000, TagDeleted("dlost", ids["lost"])),
        (at["c0"], NewCommit("main", ids["c0"])),
        (at["c0"] + 1000, BranchCreated("a")),
        (at["c1"], NewCommit("main", ids["c1"])),
        (at["c1"] + 1000, TagCreated("t1")),
        (at["c1"] + 1001, TagCreated("t2")),
        (at["c1"] + 1002, TagCreated("da")),
        (at["c1"] + 1003, TagCreated("dz")),
        (at["c1"] + 2000, TagDeleted("da", ids["c1"])),
        (at["c1"] + 2001, TagDeleted("dz", ids["c1"])),
        (at["b0"], NewCommit("b", ids["b0"])),
        (at["b0"] + 1000, BranchCreated("b")),
        (at["tagged"] + 1000, TagCreated("only")),
    ]
    assert sorted(story, key=lambda entry: entry[0]) == story
    assert story == sorted(expected, key=lambda entry: entry[0])


async def test_changes_go_on_as_usual(kit_of: Any) -> None:
    kit, ids = await old_repository(kit_of)
    await upgrade(kit.refs)
    refs = await kit.reopen()
    record = await kit.write_snapshot(await refs.snapshot_record(ids["c1"]), "after")
    await refs.publish(Publication("commit", record, "main", ids["c1"]))
    assert await kit.line("main", refs) == ["after", "c1", "c0", "Repository initialized"]
    updates = [update async for update in refs.updates()]
    assert updates[1].kind == RepoMigrated(1, 2) and updates[1].backup is not None


async def test_a_dry_run_writes_nothing(kit_of: Any) -> None:
    kit, ids = await old_repository(kit_of)
    before = dict(kit.memory._objects)
    planned = await upgrade(await kit.reopen(ReadOnlyStorage(kit.memory)), dry_run=True)
    text = str(await plan_upgrade(kit.refs))
    assert str(planned) == text
    assert kit.memory._objects == before
    assert text.splitlines()[0].startswith("Upgrade to format version 2: 5 snapshots, 3 branches, 3 tags, ")
    assert f"  branch main -> {format_id(ids['c1'])}" in text and "  deleted tag dz" in text


async def test_old_files_can_be_kept(kit_of: Any) -> None:
    kit, _ = await old_repository(kit_of)
    kept = kit.paths("refs")
    await upgrade(kit.refs, delete_old_files=False)
    assert kit.paths("refs") == kept and "config.yaml" in kit.memory._objects
    assert (await kit.reopen()).spec == 2


async def test_an_upgraded_repository_is_not_upgraded_again(kit_of: Any) -> None:
    kit, _ = await old_repository(kit_of)
    await upgrade(kit.refs)
    for refs in (await kit.reopen(), kit.refs):
        with pytest.raises(SessionStateError, match=r"invalid repository version \(2\.0\)") as caught:
            await upgrade(refs) if refs.spec == 2 else await upgrade_again(kit)
        assert caught.value.kind == ErrorKind.INVALID_REPOSITORY_MIGRATION
    with pytest.raises(SessionStateError):
        await upgrade(await kit.reopen(), dry_run=True)


async def upgrade_again(kit: Kit) -> None:
    """With refs that were opened before somebody else upgraded, and the old files still there."""
    fresh = await type(kit)(1).create()
    await upgrade(await fresh.reopen(), delete_old_files=False)
    await upgrade(fresh.refs)


async def test_a_storage_that_takes_no_writes(kit_of: Any) -> None:
    kit, _ = await old_repository(kit_of)
    with pytest.raises(ReadOnlyError):
        await upgrade(await kit.reopen(ReadOnlyStorage(kit.memory)))


async def test_reading_at_once(kit_of: Any) -> None:
    kit, _ = await old_repository(kit_of)
    await upgrade(kit.refs, concurrency=4)
    assert (await kit.reopen()).spec == 2
    assert await kit.line("main", await kit.reopen(CountingStorage(kit.memory))) == [
        "c1",
        "c0",
        "Repository initialized",
    ]


async def test_stopped_anywhere_the_repository_has_one_format_or_the_other(kit_of: Any) -> None:
    kit, ids = await old_repository(kit_of)

    async def act(storage: Storage) -> None:
        await upgrade(refs_for(1, kit.context(storage)))

    for fault in every_fault(await record_calls(kit.memory.copy(), act)):
        copy = kit.memory.copy()
        try:
            await act(FaultyStorage(copy, fault))
        except BaseException as error:
            assert fault.how == "stop" or isinstance(error, IcechunkError), fault
        refs = await kit.reopen(copy)
        assert await refs.branch_tip("main") == ids["c1"], fault
        assert await refs.list_branches() == {"main", "a", "b"}
        assert await refs.list_tags() == {"t1", "t2", "only"}
        if refs.spec == 1:
            await act(copy)
            assert (await kit.reopen(copy)).spec == 2


def test_no_commit_that_succeeds_while_an_upgrade_runs_is_lost(kit_of: Any) -> None:
    state: dict[str, Any] = {}

    async def prepare() -> Storage:
        kit = state["kit"] = await kit_of(1).create()
        first = await kit.commit("main", "c0")
        state["record"] = await kit.write_snapshot(await kit.refs.snapshot_record(first), "new")
        return kit.memory

    async def upgrading(storage: Storage) -> None:
        await upgrade(refs_for(1, state["kit"].context(storage)))

    async def committing(storage: Storage) -> None:
        refs = refs_for(1, state["kit"].context(storage))
        await refs.publish(Publication("commit", state["record"], "main", state["record"].parent_id))

    async def check(storage: Storage, outcomes: list[Outcome]) -> None:
        assert outcomes[0].error is None
        refs = await state["kit"].reopen(storage)
        assert isinstance(refs, RepoFile)
        committed = outcomes[1].error is None
        assert (await refs.branch_tip("main") == state["record"].id) == committed
        assert committed or isinstance(outcomes[1].error, IcechunkError)

    assert explore(prepare, [upgrading, committing], check).complete > 5


def test_who_uses_the_new_format_at_once_is_not_taken_for_somebody_with_the_old(kit_of: Any) -> None:
    state: dict[str, Any] = {}

    async def prepare() -> Storage:
        kit = state["kit"] = await kit_of(1).create()
        state["first"] = await kit.commit("main", "c0")
        return kit.memory

    async def upgrading(storage: Storage) -> None:
        await upgrade(refs_for(1, state["kit"].context(storage)), delete_old_files=False)

    async def committing(storage: Storage) -> bool:
        refs = await open_refs(state["kit"].context(storage))
        if not isinstance(refs, RepoFile):
            return False
        record = await state["kit"].write_snapshot(await refs.snapshot_record(state["first"]), "new")
        path = f"snapshots/{format_id(record.id)}"
        await storage.put(path, (await state["kit"].memory.get(path))[0])  # this time the upgrade may come in between
        await refs.publish(Publication("commit", record, "main", record.parent_id))
        return True

    async def check(storage: Storage, outcomes: list[Outcome]) -> None:
        assert outcomes[0].error is None
        refs = await state["kit"].reopen(storage)
        assert (await refs.branch_tip("main") != state["first"]) == bool(outcomes[1].result)

    assert explore(prepare, [upgrading, committing], check).complete > 3


async def test_a_repository_of_the_earliest_writers(tmp_path: Path) -> None:
    shutil.copytree(REPOS / "test-repo-v1", tmp_path / "repo")
    storage = LocalStorage(tmp_path / "repo")
    ids = iter(range(1, 1000))
    context = Context(storage, Assets(storage), lambda: 1_800_000_000_000_000, lambda: next(ids).to_bytes(12, "big"))
    refs = await open_refs(context)
    assert refs is not None
    await upgrade(refs)
    upgraded = await open_refs(context)
    assert isinstance(upgraded, RepoFile)
    reference = RepoFile(
        Context(LocalStorage(REPOS / "test-repo-v2-migrated"), context.files, context.now, context.new_id)
    )
    ours, theirs = await upgraded.info(), await reference.info()
    assert dict(ours.branches) == dict(theirs.branches)
    assert dict(ours.tags) == dict(theirs.tags)
    assert ours.deleted_tags == theirs.deleted_tags == {"deleted"}
    assert [(update.at, update.kind) for update in ours.updates][1:] == [
        (update.at, update.kind) for update in theirs.updates
    ][1:]
    assert (await upgraded.history()).records == (await reference.history()).records
    assert (ours.status, ours.metadata, ours.before_updates) == (theirs.status, theirs.metadata, None)
    ours_config, theirs_config = await upgraded.load_config(), await reference.load_config()
    assert ours_config is not None and theirs_config is not None
    assert ours_config.inline_chunk_threshold_bytes == theirs_config.inline_chunk_threshold_bytes == 12
    assert ours_config.virtual_chunk_containers == theirs_config.virtual_chunk_containers
