"""Collection: what goes, what stays, and that whatever survives survives whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk import _driver
from icechunk.errors import ErrorKind, IcechunkError, ReadOnlyError, SnapshotNotFoundError, StorageError
from icechunk.format.chunk_ref import Inline, Native, Virtual
from icechunk.format.ids import INITIAL_SNAPSHOT_ID, format_id, parse_id
from icechunk.format.repo_info import GCRan, SnapshotRecord
from icechunk.format.snapshot import ManifestFile
from icechunk.ops.expire import expire
from icechunk.ops.gc import CollectionPlan, Doomed, collect, execute, plan_collection, plan_forget, plan_keep
from icechunk.ops.id_set import IdSet, as_ids, format_names, parse_names
from icechunk.ops.progress import Step, TerminalBar, silent, terminal_progress
from icechunk.ops.survey import Limits, in_batches
from icechunk.refs import Publication, refs_for
from icechunk.refs.base import History
from icechunk.storage.base import DeleteResult, Storage
from icechunk.storage.memory import MemoryStorage
from icechunk.storage.wrappers import ReadOnlyStorage
from icechunk.testing.counting import CountingStorage
from icechunk.testing.faults import FaultyStorage, every_fault, record_calls
from icechunk.testing.schedules import Outcome, explore

Kit = Any
ROOT = INITIAL_SNAPSHOT_ID
LATER = 4_000_000_000_000_000
"""A limit at which everything is old."""


async def five(kit: Kit) -> list[bytes]:
    return [await kit.commit("main", f"c{number}") for number in range(5)]


async def check_whole(kit: Kit, storage: Storage | None = None) -> None:
    """Everything that some ref reaches is there and can be read."""
    storage = kit.memory if storage is None else storage
    refs = await kit.reopen(storage)
    assets = kit.context(storage).files
    history = await refs.history()
    for snapshot_id in history.reachable():
        record = history.records[snapshot_id]
        assert (await refs.snapshot_record(snapshot_id)).message == record.message
        for file in (await assets.snapshot(snapshot_id)).manifest_files():
            manifest = await assets.manifest(file.id)
            for node_id in manifest.node_ids():
                for ref in dict(manifest.table(node_id).items()).values():
                    if isinstance(ref, Native):
                        assert len(await assets.chunk(ref)) == ref.length
        if record.parent_id is not None:
            await assets.transaction_log(snapshot_id)
        for pruned in record.pruned:
            await assets.transaction_log(pruned)


def counts(kit: Kit) -> list[int]:
    return [len(kit.paths(folder)) for folder in ("snapshots", "transactions", "manifests", "chunks")]


# ---- what goes and what stays


async def test_nothing_goes_from_a_history_that_is_needed(kit: Kit) -> None:
    await five(kit)
    before = counts(kit)
    summary = await collect(kit.refs, kit.storage, LATER)
    assert summary.bytes_deleted == summary.snapshots_deleted == summary.chunks_deleted == 0
    assert counts(kit) == before
    await check_whole(kit)


async def test_after_an_expiration(kit: Kit) -> None:
    ids = await five(kit)
    await expire(kit.refs, (await kit.refs.snapshot_record(ids[3])).flushed_at)
    sizes = {path: len(entry.data) for path, entry in kit.memory._objects.items()}
    dry = await collect(kit.refs, kit.storage, LATER, dry_run=True)
    summary = await collect(kit.refs, kit.storage, LATER)
    logs = {1: 3, 2: 0}[kit.spec]  # the newer format keeps the logs of what was cut out
    assert (
        summary.snapshots_deleted,
        summary.transaction_logs_deleted,
        summary.manifests_deleted,
        summary.chunks_deleted,
        summary.attributes_deleted,
    ) == (3, logs, 3, 3, 0)
    assert dry == summary
    gone = sizes.keys() - kit.memory._objects.keys()
    assert summary.bytes_deleted == sum(sizes[path] for path in gone)
    assert len(gone) == 9 + logs
    await check_whole(kit)
    again = await collect(kit.refs, kit.storage, LATER)
    assert again.bytes_deleted == 0


async def test_a_deleted_branch(kit: Kit) -> None:
    tip = await kit.commit("main", "c0")
    await kit.refs.create_branch("dev", tip)
    await kit.commit("dev", "d0")
    await kit.refs.delete_branch("dev")
    summary = await collect(kit.refs, kit.storage, LATER)
    assert (
        summary.snapshots_deleted,
        summary.transaction_logs_deleted,
        summary.manifests_deleted,
        summary.chunks_deleted,
    ) == (1, 1, 1, 1)
    await check_whole(kit)


async def test_a_dry_run_changes_nothing(kit: Kit) -> None:
    await five(kit)
    await kit.refs.reset_branch("main", ROOT)
    before = dict(kit.memory._objects)
    summary = await collect(kit.refs, ReadOnlyStorage(kit.memory), LATER, dry_run=True)
    assert (summary.snapshots_deleted, summary.chunks_deleted) == (5, 5)
    assert kit.memory._objects == before


async def test_young_files_stay(kit: Kit) -> None:
    await five(kit)
    await kit.refs.reset_branch("main", ROOT)
    before = counts(kit)
    assert (await collect(kit.refs, kit.storage, 0)).bytes_deleted == 0
    assert counts(kit) == before


async def test_what_a_young_snapshot_needs_stays_with_it(kit: Kit) -> None:
    """A flushed snapshot that no ref reaches, on top of old ones that none reaches either."""
    shared = Native(kit.new_id(), 10)
    old = await kit.commit("main", "old", {(0,): shared})
    base = await kit.refs.snapshot_record(old)
    await kit.refs.reset_branch("main", ROOT)
    cut = kit.clock() + 1
    young = await kit.write_snapshot(base, "young", {(0,): shared, (1,): Native(kit.new_id(), 5)})
    await kit.refs.publish(Publication("detached", young))
    await collect(kit.refs, kit.storage, cut)
    assert f"chunks/{format_id(shared.id)}" in kit.paths("chunks")
    refs = await kit.reopen()
    await refs.create_branch("found", young.id)
    await check_whole(kit)
    line = {1: ["young", "old", "Repository initialized"], 2: ["young", "Repository initialized"]}
    assert await kit.line("found", refs) == line[kit.spec]
    if kit.spec == 2:
        assert (await refs.snapshot_record(young.id)).pruned == (old,)


async def test_where_files_are_all_there_is_a_young_one_survives_whole(kit_of: Any) -> None:
    """As `flush` writes them: no ref reaches it, but it can be opened by its id."""
    kit = await kit_of(1).create()
    shared = Native(kit.new_id(), 10)
    old = await kit.commit("main", "old", {(0,): shared})
    base = await kit.refs.snapshot_record(old)
    await kit.refs.reset_branch("main", ROOT)
    cut = kit.clock() + 1
    young = await kit.write_snapshot(base, "young")
    await collect(kit.refs, kit.storage, cut)
    manifests = (await kit.assets.snapshot(young.id)).manifest_files()
    assert f"manifests/{format_id(manifests[0].id)}" in kit.paths("manifests")
    assert f"chunks/{format_id(shared.id)}" in kit.paths("chunks")


async def test_a_broken_file_that_nobody_needs_does_not_stop_a_collection(kit: Kit) -> None:
    await five(kit)
    await kit.refs.reset_branch("main", ROOT)
    cut = kit.clock() + 1
    await kit.memory.put(f"snapshots/{format_id(kit.new_id())}", b"torn")
    assert (await collect(kit.refs, kit.storage, cut)).snapshots_deleted == 5


async def test_files_that_are_not_ours_stay(kit: Kit) -> None:
    await five(kit)
    foreign = ["snapshots/README", "chunks/ZZZ", "manifests/1cechnkrep0f1rstcmt0", "other/file", "chunks/a/b"]
    for path in foreign:
        await kit.memory.put(path, b"x")
    backups = kit.paths("overwritten")
    await collect(kit.refs, kit.storage, LATER)
    assert set(foreign) <= kit.memory._objects.keys()
    assert set(backups) <= kit.memory._objects.keys()


async def test_shared_manifests_and_chunks_stay(kit: Kit) -> None:
    shared = Native(kit.new_id(), 10)
    await kit.commit("main", "c0", {(0,): shared, (1,): Native(kit.new_id(), 10)})
    await kit.commit("main", "c1", {(0,): shared, (2,): Inline(b"xx")})
    await kit.commit("main", "c2", {(0,): shared, (3,): Virtual("s3://b/k", 0, 5)})
    await expire(kit.refs, LATER)
    summary = await collect(kit.refs, kit.storage, LATER)
    assert (summary.manifests_deleted, summary.chunks_deleted) == (2, 1)
    await check_whole(kit)


async def test_a_needed_file_that_is_gone_stops_a_collection_before_it_deletes(kit: Kit) -> None:
    ids = await five(kit)
    await kit.refs.create_branch("dev", ids[0])
    await kit.commit("dev", "garbage")
    await kit.refs.delete_branch("dev")
    await kit.memory.delete([f"snapshots/{format_id(ids[2])}"])
    before = dict(kit.memory._objects)
    with pytest.raises(SnapshotNotFoundError):
        await collect(await kit.reopen(), kit.storage, LATER)
    assert kit.memory._objects == before


async def test_a_lost_snapshot_that_no_ref_reaches_does_not_stop_a_collection(kit_of: Any) -> None:
    kit = await kit_of(2).create()
    await five(kit)
    record = await kit.write_snapshot(await kit.refs.snapshot_record(ROOT), "lost")
    await kit.refs.publish(Publication("detached", record))
    await kit.memory.delete([f"snapshots/{format_id(record.id)}"])
    await collect(kit.refs, kit.storage, LATER)
    assert record.id in (await kit.refs.info())


async def test_collections_are_logged(kit_of: Any) -> None:
    kit = await kit_of(2).create()
    await five(kit)
    await collect(kit.refs, kit.storage, LATER, dry_run=True)
    assert GCRan() not in [update.kind async for update in kit.refs.updates()]
    await collect(kit.refs, kit.storage, LATER)
    kinds = [update.kind async for update in kit.refs.updates()]
    assert kinds[0] == GCRan()


async def test_a_closed_repository_is_not_collected(kit_of: Any) -> None:
    kit = await kit_of(2).create()
    await kit.refs.set_status(1, None)
    with pytest.raises(ReadOnlyError, match="Cannot garbage collect"):
        await collect(kit.refs, kit.storage, LATER)
    await collect(kit.refs, kit.storage, LATER, dry_run=True)


async def test_limits_are_positive(kit: Kit) -> None:
    for options in ({"max_concurrent_deletes": 0}, {"max_consecutive_delete_failures": 0}):
        with pytest.raises(ValueError, match="invalid zero value"):
            await collect(kit.refs, kit.storage, LATER, **options)
    for name in ("snapshots", "manifests", "compressed_bytes", "decoded_bytes"):
        with pytest.raises(ValueError, match="invalid zero value"):
            Limits(**{name: 0})


async def test_a_plan_reads_well(kit: Kit) -> None:
    ids = await five(kit)
    await kit.refs.reset_branch("main", ids[1])
    plan = await plan_collection(kit.refs, kit.storage, LATER)
    lines = str(plan).splitlines()
    assert lines[1].split() == ["snapshots", "3", "files", f"{plan.doomed['snapshots'].total:,}", "bytes"]
    assert set(lines[5:]) == {f"  snapshot {format_id(one)}" for one in ids[2:]}


# ---- several at once, and failures


async def test_a_ref_made_meanwhile_saves_what_it_points_to(kit: Kit) -> None:
    ids = await five(kit)
    await kit.refs.reset_branch("main", ids[1])
    other = await kit.reopen()

    class Meddling(CountingStorage):
        done = False

        async def get(self, path: str, **options: Any) -> Any:
            if path.startswith("manifests/") and not self.done:
                self.done = True
                await other.create_tag("saved", ids[3])
            return await super().get(path, **options)

    storage = Meddling(kit.memory)
    summary = await collect(await kit.reopen(storage), storage, LATER)
    assert summary.snapshots_deleted == 1
    assert await kit.line(await other.tag_target("saved"), other) == ["c3", "c2", "c1", "c0", "Repository initialized"]
    await check_whole(kit)


@pytest.mark.parametrize("spec", [1, 2])
async def test_stopped_anywhere_the_repository_is_whole_and_a_second_run_finishes(kit_of: Any, spec: int) -> None:
    kit = await kit_of(spec).create()
    ids = [await kit.commit("main", f"c{number}") for number in range(2)]
    await kit.refs.create_branch("dev", ids[1])
    await kit.commit("dev", "d0")
    await kit.refs.delete_branch("dev")
    await expire(kit.refs, (await kit.refs.snapshot_record(ids[1])).flushed_at)

    async def act(storage: Storage) -> None:
        await collect(refs_for(spec, kit.context(storage)), storage, LATER)

    clean = kit.memory.copy()
    for fault in every_fault(await record_calls(clean, act)):
        copy = kit.memory.copy()
        try:
            await act(FaultyStorage(copy, fault))
        except BaseException as error:
            assert fault.how == "stop" or isinstance(error, IcechunkError), fault
        await check_whole(kit, copy)
        await act(copy)
        kept = {path for path in copy._objects if not path.startswith(("overwritten/", "repo"))}
        assert kept == {path for path in clean._objects if not path.startswith(("overwritten/", "repo"))}, fault


@pytest.mark.parametrize("spec", [1, 2])
def test_no_race_with_a_commit_breaks_it(kit_of: Any, spec: int) -> None:
    """The limit lies before the session began, as it must."""
    state: dict[str, Any] = {}

    async def prepare() -> Storage:
        kit = state["kit"] = await kit_of(spec).create()
        first = await kit.commit("main", "c0")
        await kit.commit("main", "garbage")
        await kit.refs.reset_branch("main", first)
        state["cut"] = kit.clock() + 1
        state["record"] = await kit.write_snapshot(await kit.refs.snapshot_record(first), "new")
        return kit.memory

    async def collecting(storage: Storage) -> None:
        await collect(refs_for(spec, state["kit"].context(storage)), storage, state["cut"])

    async def committing(storage: Storage) -> None:
        refs = refs_for(spec, state["kit"].context(storage))
        record = state["record"]
        await refs.publish(Publication("commit", record, "main", record.parent_id), await refs.prepare("main"))

    async def check(storage: Storage, outcomes: list[Outcome]) -> None:
        assert [outcome.error for outcome in outcomes] == [None, None]
        kit = state["kit"]
        assert await kit.line("main", await kit.reopen(storage)) == ["new", "c0", "Repository initialized"]
        await check_whole(kit, storage)
        assert len(kit.paths("snapshots")) == 3

    explore(prepare, [collecting, committing], check)


class Refusing(MemoryStorage):
    """Deletes nothing from one folder."""

    folder = ""
    how = "failed"

    async def delete(self, paths: Any) -> DeleteResult:
        bad = [path for path in paths if path.startswith(self.folder)]
        if bad and self.how == "raise":
            raise StorageError("no", ErrorKind.OBJECT_STORE)
        await super().delete([path for path in paths if path not in bad])
        return DeleteResult(len(paths) - len(bad), [(path, "denied") for path in bad])


def doomed(count: int) -> CollectionPlan:
    ids = as_ids(number.to_bytes(12, "big") for number in range(count))
    files = {
        name: Doomed(ids, np.full(count, 3, np.uint64)) for name in ("snapshots", "transactions", "manifests", "chunks")
    }
    return CollectionPlan(0, files)


@pytest.mark.parametrize("how", ["failed", "raise"])
@pytest.mark.parametrize(
    ("folder", "skipped"),
    [
        ("snapshots/", ["transaction_logs", "manifests", "chunks"]),
        ("transactions/", ["manifests", "chunks"]),
        ("manifests/", ["chunks"]),
        ("chunks/", []),
    ],
)
async def test_what_cannot_be_deleted_keeps_what_it_needs(how: str, folder: str, skipped: list[str]) -> None:
    storage = Refusing()
    storage.folder, storage.how = folder, how
    summary = await execute(doomed(5), storage, 10, 50)
    assert summary.skipped_phases == skipped
    assert summary.objects_failed_to_delete == 5
    assert len(summary.delete_errors) == 1 and summary.delete_errors[0].startswith("5 of 5 objects not deleted (")
    assert summary.bytes_deleted == 15 * (3 - len(skipped))


async def test_giving_up_when_nothing_can_be_deleted() -> None:
    storage = Refusing()
    storage.folder = "snapshots/"
    with pytest.raises(StorageError, match="too many consecutive delete failures under snapshots") as caught:
        await execute(doomed(3500), storage, 1, 3)
    assert caught.value.kind == ErrorKind.GC_DELETES_FAILING


async def test_a_storage_that_asks_for_patience_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Throttling(MemoryStorage):
        refused = 0

        async def delete(self, paths: Any) -> DeleteResult:
            if self.refused < 2:
                self.refused += 1
                raise StorageError("slow down", ErrorKind.THROTTLED)
            return await super().delete(paths)

    async def no_pause(seconds: float) -> None: ...

    monkeypatch.setattr("icechunk.ops.gc.pause", no_pause)
    summary = await execute(doomed(5), Throttling(), 10, 50)
    assert (summary.throttled_batches, summary.chunks_deleted, summary.objects_failed_to_delete) == (2, 5, 0)


# ---- at once


@pytest.mark.parametrize("spec", [1, 2])
async def test_over_a_network_files_are_read_together(kit_of: Any, spec: int) -> None:
    kit = await kit_of(spec).create()
    for number in range(30):
        await kit.commit("main", f"c{number}")
    counting = CountingStorage(kit.memory)
    refs = await kit.reopen(counting)
    counting.reset()
    await collect(refs, counting, LATER)
    # listings, refs, snapshots (in the old format one finds the next), manifests, the repo object
    assert counting.depth <= {1: 20, 2: 8}[spec]
    reads = counting.counts["get"]
    assert reads <= {1: 30 + 31 + 3, 2: 30 + 31 + 3}[spec]


@pytest.mark.parametrize("spec", [1, 2])
def test_without_an_event_loop(kit_of: Any, spec: int) -> None:
    async def run() -> Any:
        kit = await kit_of(spec, wrap=CountingStorage).create()
        await five(kit)
        await kit.refs.reset_branch("main", ROOT)
        return await collect(kit.refs, kit.storage, LATER)

    assert _driver.run(run()).chunks_deleted == 5


def test_batches_stay_within_limits() -> None:
    files = [ManifestFile(bytes([number]) * 12, size, 10) for number, size in enumerate([5, 90, 30, 30, 30, 200])]
    batches = list(in_batches(files, Limits(compressed_bytes=100)))
    assert sorted(file for batch in batches for file in batch) == sorted(files)
    assert all(sum(file.size for file in batch) <= 100 or len(batch) == 1 for batch in batches)
    tight = list(in_batches(files, Limits(decoded_bytes=64 * 20)))
    assert [len(batch) for batch in tight] == [2, 2, 2]


# ---- decisions, on values


def records_of(parents: dict[str, str | None]) -> dict[bytes, SnapshotRecord]:
    return {
        _id(name): SnapshotRecord(_id(name), None if parent is None else _id(parent), place, name, {})
        for place, (name, parent) in enumerate(parents.items())
    }


def _id(name: str) -> bytes:
    return name.encode().ljust(12, b"\0")


def test_a_snapshot_is_attached_to_its_nearest_ancestor_that_stays() -> None:
    records = records_of({"root": None, "a": "root", "b": "a", "c": "b", "d": "c", "e": "d"})
    records[_id("c")] = SnapshotRecord(_id("c"), _id("b"), 3, "c", {}, (_id("x"),))
    history = History({"main": _id("root")}, {}, records)
    keep = {_id("root"), _id("b"), _id("e")}
    edit = plan_forget(history, keep)
    grafts = {record.message: (record.parent_id, record.pruned) for record in edit.grafted}
    assert grafts == {"b": (_id("root"), (_id("a"),)), "e": (_id("b"), (_id("x"), _id("c"), _id("d")))}
    assert edit.dropped == {_id("a"), _id("c"), _id("d")}


def test_what_is_kept() -> None:
    history = History(
        {"main": _id("a")},
        {"t": _id("c")},
        records_of({"root": None, "a": "root", "b": "a", "c": "b", "d": "c", "e": "d"}),
    )
    listed = IdSet()
    listed.add(as_ids(map(_id, ["root", "a", "b", "c", "d", "z"])))
    assert plan_keep(history, listed, set()) == set(map(_id, ["root", "a", "b", "c", "e"]))
    listed.add(as_ids([_id("e")]))
    assert plan_keep(history, listed, {_id("d"), _id("z")}) == set(map(_id, ["root", "a", "b", "c", "d"]))


# ---- ids by the million


object_ids = st.binary(min_size=12, max_size=12)
alike = st.builds(lambda head, tail: bytes([head]) * 8 + bytes([tail]) * 4, st.integers(0, 2), st.integers(0, 5))


@given(st.lists(st.lists(object_ids | alike, max_size=30), max_size=6), st.lists(object_ids | alike, max_size=30))
def test_a_set_of_ids_is_a_set(batches: list[list[bytes]], asked: list[bytes]) -> None:
    ids, model = IdSet(), set[bytes]()
    for batch in batches:
        new = ids.add(as_ids(batch))
        added = [one for one, is_new in zip(batch, new.tolist(), strict=True) if is_new]
        assert len(added) == len(set(added)) and set(added) == set(batch) - model
        model |= set(batch)
    assert set(ids) == model and len(ids) == len(model)
    everything = asked + [one for batch in batches for one in batch]
    assert ids.contains(as_ids(everything)).tolist() == [one in model for one in everything]


@given(st.lists(object_ids, max_size=20))
def test_names_of_ids(ids: list[bytes]) -> None:
    names = format_names(as_ids(ids))
    assert names == [format_id(one) for one in ids]
    parsed, good = parse_names(names)
    assert good.all() and [row.tobytes() for row in parsed] == ids


@given(st.lists(st.text("0O1IabZG/é", min_size=18, max_size=22) | object_ids.map(format_id), max_size=10))
def test_only_names_as_they_are_written_are_ids(names: list[str]) -> None:
    parsed, good = parse_names(names)
    right = [name for name, is_good in zip(names, good.tolist(), strict=True) if is_good]
    assert format_names(parsed) == right
    for name in set(names) - set(right):
        try:
            assert format_id(parse_id(name)) != name
        except ValueError:
            pass


# ---- telling how far it is


async def test_progress_is_reported(kit: Kit) -> None:
    await five(kit)
    await kit.refs.reset_branch("main", ROOT)
    steps: list[Step] = []
    await collect(kit.refs, kit.storage, LATER, progress=steps.append)
    stages = {step.stage for step in steps}
    assert {"listing chunks", "deleting chunks"} <= stages
    last = [step for step in steps if step.stage == "deleting chunks"][-1]
    assert (last.done, last.total) == (5, 5)


def test_a_bar_is_drawn_on_terminals_only() -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert terminal_progress(io.StringIO()) is silent
    screen = Terminal()
    bar = terminal_progress(screen)
    assert isinstance(bar, TerminalBar)
    for step in (Step("listing", 1000), Step("deleting", 1, 2), Step("deleting", 2, 2), Step("more", 1, 4)):
        bar(step)
    lines = screen.getvalue().split("\n")
    assert lines[0] == "\rlisting: 1,000"
    assert lines[1].startswith("\rdeleting [###############...............] 1/2\rdeleting [####")
    assert lines[2].startswith("\rmore [#######......................."), lines
