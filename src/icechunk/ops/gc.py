"""Collection: deleting the files that nothing needs.

1. List what there is. What is written from now on is no candidate, however the clocks stand.
2. Find what is kept: all that refs reach, and all that other snapshots need which are too young to be deleted. A snapshot
   that survives survives whole.
3. Forget the snapshots that go, where the format keeps a register of them. If somebody made one of them reachable
   meanwhile, or published new ones, look again first. Where there is no register see `unregistered`.
4. Delete snapshots, then transaction logs, manifests and chunks: each one that is older than the limit and not kept. In
   this order nothing that is still there ever lacks what it needs, so it may stop anywhere, and run again.
5. Delete what changes of the repo object that were never made have left, see `copies`.

The `plan_...` functions decide, on values; `collect` carries it out. Ids of chunks stay in numpy all the way.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import field, replace
from datetime import datetime

import numpy as np
import numpy.typing as npt

from icechunk._dataclass import dataclass
from icechunk._driver import concurrent_map, gather, pause
from icechunk.errors import ErrorKind, StorageError
from icechunk.format.repo_info import SnapshotRecord
from icechunk.info import GCSummary
from icechunk.ops.copies import FOLDER, ListFiles, list_copies, unneeded_copies
from icechunk.ops.id_set import Ids, IdSet, as_ids, format_names, parse_names
from icechunk.ops.progress import Counter, Progress, silent
from icechunk.ops.survey import SNAPSHOTS, Limits, Survey
from icechunk.ops.times import as_micros
from icechunk.ops.unregistered import Reclaimed, UnregisteredSnapshots
from icechunk.refs.base import History, HistoryEdit, RefStore, format_time
from icechunk.refs.ref_content import REFS
from icechunk.storage.base import DeleteResult, ObjectInfo, Storage

FOLDERS = ("snapshots", "transactions", "manifests", "chunks")
"""What is collected, in the order of deletion."""

_PHASES = {"snapshots": "snapshots", "transactions": "transaction_logs", "manifests": "manifests", "chunks": "chunks"}
_BATCH = 1000
_PAGE = 1000
"""Objects that one request lists at most, in the stores that list the fewest."""
_MAX_ROUNDS = 100
_PATIENCE = 5

Delete = Callable[[Sequence[str]], Awaitable[DeleteResult]]


@dataclass(frozen=True, slots=True)
class Listing:
    """Files of one folder as columns: their ids, sizes in bytes, and whether each is older than the limit."""

    ids: Ids
    sizes: npt.NDArray[np.uint64]
    old: npt.NDArray[np.bool_]
    files: Sequence[ObjectInfo] = ()
    """The same line by line, for snapshots only."""

    def young(self) -> set[bytes]:
        """The ids of files that are too young to be deleted."""
        return {row.tobytes() for row in self.ids[~self.old]}


@dataclass(frozen=True, slots=True)
class Doomed:
    """Files of one folder that are to be deleted."""

    ids: Ids
    sizes: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def total(self) -> int:
        """Bytes of all of them."""
        return int(self.sizes.sum())


@dataclass(frozen=True, slots=True)
class CollectionPlan:
    """What a collection deletes, by folder; its text says so for people.

    `history` is what it was decided on, `listed` the snapshot files that there were.
    """

    older_than: int
    doomed: Mapping[str, Doomed]
    copies: Mapping[str, int] = field(default_factory=dict, repr=False)
    """Old copies of the repo object that nothing names: paths and sizes."""
    history: History = field(default_factory=lambda: History({}, {}, {}), repr=False)
    listed: Sequence[ObjectInfo] = field(default=(), repr=False)

    def as_summary(self) -> GCSummary:
        """What a collection reports when all of it succeeds."""
        outcome = _Deletions(1)
        for folder, files in self.doomed.items():
            outcome.note(folder, len(files), files.total, 0, "")
        outcome.note(FOLDER, len(self.copies), sum(self.copies.values()), 0, "")
        return outcome.summary()

    def __str__(self) -> str:
        lines = [f"Collection of what is older than {format_time(self.older_than)} and not needed:"]
        lines += [
            f"  {name:<14} {len(files):>12,} files {files.total:>20,} bytes" for name, files in self.doomed.items()
        ]
        lines += [f"  snapshot {name}" for name in format_names(self.doomed["snapshots"].ids)]
        return "\n".join(lines)


# ---- deciding


def plan_keep(history: History, listed: IdSet, young: Set[bytes]) -> set[bytes]:
    """The snapshots of a history that stay: reachable ones, young ones, and those whose file was not listed."""
    keep = history.reachable() & history.records.keys()
    rest = [one for one in history.records if one not in keep]
    absent = ~listed.contains(as_ids(rest))
    keep.update(one for one, is_absent in zip(rest, absent.tolist(), strict=True) if is_absent or one in young)
    return keep


def plan_forget(history: History, keep: Set[bytes]) -> HistoryEdit:
    """Forget all snapshots but those of `keep`, which are attached to their nearest ancestor that stays."""
    grafted = []
    for snapshot_id in keep:
        record = history.records[snapshot_id]
        if record.parent_id is not None and record.parent_id not in keep:
            grafted.append(_reattached(history.records, record, keep))
    return HistoryEdit("collected", tuple(grafted), frozenset(history.records.keys() - keep))


def _reattached(records: Mapping[bytes, SnapshotRecord], record: SnapshotRecord, keep: Set[bytes]) -> SnapshotRecord:
    cut: list[bytes] = []
    at = record.parent_id
    while at is not None and at not in keep and at in records:
        gone = records[at]
        if gone.parent_id is not None:
            cut = [*gone.pruned, gone.id, *cut]
        at = gone.parent_id
    if at is None:
        at = next((one for one in sorted(keep) if records[one].parent_id is None), None)
    return replace(record, parent_id=at, pruned=(*cut, *record.pruned))


def plan_deletion(listing: Listing, keep: IdSet) -> Doomed:
    """Of the files listed, those that are old and not kept."""
    candidates = np.flatnonzero(listing.old)
    candidates = candidates[~keep.contains(listing.ids[candidates])]
    return Doomed(listing.ids[candidates], listing.sizes[candidates])


# ---- acting


async def collect(
    refs: RefStore,
    storage: Storage,
    older_than: datetime | int,
    *,
    dry_run: bool = False,
    limits: Limits | None = None,
    max_concurrent_deletes: int = 10,
    max_consecutive_delete_failures: int = 50,
    max_concurrent_listings: int | None = None,
    progress: Progress = silent,
) -> GCSummary:
    """Delete every file that is older than `older_than` and not needed; a datetime without time zone is local time.

    Age is what the storage says it is. Files of sessions that are still open are protected by their age alone, so
    `older_than` must lie before the beginning of the oldest of them. With `dry_run` nothing is changed. Raises
    `ReadOnlyError` where nothing may change, and `StorageError` when the storage keeps failing to delete.
    """
    for name, value in (("deletes", max_concurrent_deletes), ("failures", max_consecutive_delete_failures)):
        if value <= 0:
            raise ValueError(f"invalid zero value: the limit of {name} must be positive")
    for _ in range(_MAX_ROUNDS):
        plan = await plan_collection(
            refs,
            storage,
            older_than,
            forget=not dry_run,
            limits=limits,
            max_concurrent_listings=max_concurrent_listings,
            progress=progress,
        )
        if dry_run:
            return plan.as_summary()
        unregistered = None
        if not refs.registers_snapshots:
            unregistered = UnregisteredSnapshots(refs, storage, plan.history, plan.listed)
        try:
            return await execute(
                plan, storage, max_concurrent_deletes, max_consecutive_delete_failures, progress, unregistered
            )
        except Reclaimed:
            continue
    raise _too_fast()


async def plan_collection(
    refs: RefStore,
    storage: Storage,
    older_than: datetime | int,
    *,
    forget: bool = False,
    limits: Limits | None = None,
    max_concurrent_listings: int | None = None,
    progress: Progress = silent,
) -> CollectionPlan:
    """Find out what a collection deletes. With `forget` it is made sure that nothing can refer to it any more."""
    limit = as_micros(older_than)
    if forget:
        await refs.ensure_writable("Cannot garbage collect")
    width = max(storage.concurrency, 1) if max_concurrent_listings is None else max_concurrent_listings
    has_copies = refs.registers_snapshots
    all_files = await list_all_at_once(storage)
    list_files = all_files or storage.list
    found = await gather(
        *(list_folder(list_files, name, limit, progress) for name in FOLDERS),
        *([list_copies(list_files, limit)] if has_copies else []),
        limit=width,
    )
    listings: dict[str, Listing] = dict(zip(FOLDERS, found, strict=False))
    listed = {SNAPSHOTS: listings["snapshots"].files}
    if all_files is not None:
        listed[REFS] = [info async for batch in all_files(REFS) for info in batch]
    keeper = _Keeper(refs, Survey(storage, limits or Limits(), progress), listings["snapshots"], listed)
    kept = await keeper.settle(forget=forget)
    doomed = {name: plan_deletion(listings[name], kept[name]) for name in FOLDERS}
    copies = await unneeded_copies(refs, found[-1]) if has_copies else {}
    return CollectionPlan(limit, doomed, copies, keeper.history, listings["snapshots"].files)


def _too_fast() -> StorageError:
    return StorageError(
        "the repository changes faster than a collection can follow; nothing that is needed was deleted, try again later",
        ErrorKind.UPDATE_ATTEMPTS_EXHAUSTED,
    )


async def list_all_at_once(storage: Storage) -> ListFiles | None:
    """List all files by one request; returns what lists those of a folder, None where one request is not enough."""
    if storage.concurrency <= 1:
        return None
    found: list[ObjectInfo] = []
    try:
        async for batch in storage.list():
            found += batch
            if len(found) >= _PAGE:
                return None
    except StorageError:  # some may list folders only; where that fails too it is said there
        return None

    async def listed(prefix: str) -> AsyncIterator[Sequence[ObjectInfo]]:
        if inside := [info for info in found if info.path.startswith(prefix)]:
            yield inside

    return listed


async def list_folder(list_files: ListFiles, folder: str, limit: int, progress: Progress = silent) -> Listing:
    """The files of a folder whose names are ids, snapshots newest first; what else is there is not ours."""
    prefix = f"{folder}/"
    ids, sizes, times = [as_ids(())], [np.empty(0, np.uint64)], [np.empty(0, np.float64)]
    lines: list[ObjectInfo] = []
    counter = Counter(progress, f"listing {folder}")
    async for batch in list_files(prefix):
        some, good = parse_names(info.path[len(prefix) :] for info in batch)
        ids.append(some)
        sizes.append(np.array([info.size for info in batch], np.uint64)[good])
        times.append(np.array([info.modified for info in batch], np.float64)[good])
        if folder == "snapshots":
            lines += itertools.compress(batch, good.tolist())
        counter.add(len(batch))
    modified = np.concatenate(times)
    listing = Listing(np.concatenate(ids), np.concatenate(sizes), modified < limit / 1_000_000)
    if folder != "snapshots":
        return listing
    order = np.argsort(-modified, kind="stable")
    files = [lines[place] for place in order.tolist()]
    return Listing(listing.ids[order], listing.sizes[order], listing.old[order], files)


class _Keeper:
    """Finds out what is kept, and forgets the snapshots that are not."""

    def __init__(
        self, refs: RefStore, survey: Survey, snapshots: Listing, listed: Mapping[str, Sequence[ObjectInfo]]
    ) -> None:
        self._refs = refs
        self._survey = survey
        self._young = snapshots.young()
        self._files = listed
        self._listed = IdSet()
        self._listed.add(snapshots.ids)
        self._chunks = IdSet()
        self.history = History({}, {}, {})
        self._keep: set[bytes] = set()

    async def settle(self, *, forget: bool) -> dict[str, IdSet]:
        """What is kept, by folder."""
        self._look_at(await self._refs.history(self._young, self._survey.add, listed=self._files))
        for _ in range(_MAX_ROUNDS):
            await self._read()
            if not forget:
                return self._kept()
            # not sure: what is deleted without a register is looked for again, see `unregistered`
            if await self._refs.edit_history(self._decide, known=self.history, sure=False) is not None:
                return self._kept()
        raise _too_fast()

    def _look_at(self, history: History) -> None:
        self.history = history
        self._keep = plan_keep(history, self._listed, self._young)
        if not self._refs.registers_snapshots:
            self._keep = history.reachable(self._keep) & history.records.keys()

    def _decide(self, present: History) -> HistoryEdit | None:
        """What to forget; None where something has to stay whose needs are not known yet."""
        self._look_at(present)
        return None if self._wanted() - self._survey.snapshots else plan_forget(present, self._keep)

    def _wanted(self) -> set[bytes]:
        """The snapshots that are kept, without those that no ref reaches and whose file is lost anyway."""
        rest = sorted(self._keep - self.history.reachable())
        there = self._listed.contains(as_ids(rest)).tolist()
        return self._keep - {one for one, is_there in zip(rest, there, strict=True) if not is_there}

    async def _read(self) -> None:
        await self._survey.read_snapshots(self._wanted())
        await self._survey.read_manifests(lambda table: self._chunks.add(table.native_ids()))

    def _kept(self) -> dict[str, IdSet]:
        snapshots, logs, manifests = IdSet(), IdSet(), IdSet()
        stay = as_ids(self._keep | self._survey.snapshots)
        snapshots.add(stay)
        logs.add(stay)
        grafted = plan_forget(self.history, self._keep).grafted
        kept = (self.history.records[snapshot_id] for snapshot_id in self._keep)
        logs.add(as_ids(one for record in (*kept, *grafted) for one in record.pruned))
        manifests.add(as_ids(self._survey.manifests))
        return {"snapshots": snapshots, "transactions": logs, "manifests": manifests, "chunks": self._chunks}


class _Deletions:
    """Counts what was deleted and what was not, from many threads; gives up when nothing works any more."""

    def __init__(self, max_consecutive: int) -> None:
        self.deleted = dict.fromkeys((*FOLDERS, FOLDER), 0)
        self.bytes = 0
        self.failed = 0
        self.throttled = 0
        self.errors: list[str] = []
        self._max_consecutive = max_consecutive
        self._consecutive = 0
        self._lock = threading.Lock()

    def note(self, folder: str, count: int, size: int, failed: int, reason: str) -> None:
        """Take note of one batch."""
        with self._lock:
            self.deleted[folder] += count
            self.bytes += size
            if not failed:
                self._consecutive = 0
                return
            self.failed += failed
            self._consecutive += 1
            error = f"{failed} of {count + failed} objects not deleted ({reason})"
            self.errors.append(error)
            if self._consecutive >= self._max_consecutive:
                raise StorageError(
                    f"too many consecutive delete failures under {folder}: {error}; "
                    "the repository is whole, collect again when this is repaired",
                    ErrorKind.GC_DELETES_FAILING,
                )

    def summary(self, skipped: Sequence[str] = ()) -> GCSummary:
        """What was done, for the user."""
        return GCSummary(
            bytes_deleted=self.bytes,
            chunks_deleted=self.deleted["chunks"],
            manifests_deleted=self.deleted["manifests"],
            snapshots_deleted=self.deleted["snapshots"],
            transaction_logs_deleted=self.deleted["transactions"],
            objects_failed_to_delete=self.failed,
            throttled_batches=self.throttled,
            delete_errors=list(self.errors),
            skipped_phases=list(skipped),
        )

    def note_throttled(self) -> None:
        """Take note that the storage asked for patience."""
        with self._lock:
            self.throttled += 1


async def execute(
    plan: CollectionPlan,
    storage: Storage,
    width: int,
    max_consecutive_failures: int,
    progress: Progress = silent,
    unregistered: UnregisteredSnapshots | None = None,
) -> GCSummary:
    """Delete what was planned. After a failure the folders that come later are left alone.

    With `unregistered` that deletes the snapshots, batch by batch, and may raise `Reclaimed`.
    """
    outcome = _Deletions(max_consecutive_failures)
    skipped: list[str] = []
    for folder in FOLDERS:
        if outcome.failed:
            skipped.append(_PHASES[folder])
            continue
        files = plan.doomed[folder]
        counter = Counter(progress, f"deleting {folder}", len(files))
        careful = unregistered if folder == "snapshots" else None

        async def delete(
            batch: Doomed,
            folder: str = folder,
            counter: Counter = counter,
            bulk: Delete = storage.delete if careful is None else careful.delete,
        ) -> None:
            sizes = dict(zip(format_names(batch.ids), batch.sizes.tolist(), strict=True))
            await _delete_batch(bulk, folder, {f"{folder}/{name}": size for name, size in sizes.items()}, outcome)
            counter.add(len(batch))

        step = _BATCH if careful is None else careful.BATCH
        batches = [Doomed(files.ids[i : i + step], files.sizes[i : i + step]) for i in range(0, len(files), step)]
        at_once = min(width, max(storage.concurrency, 1))
        await concurrent_map(delete, batches, at_once if careful is None else 1)
    copies = list(plan.copies.items())
    if not outcome.failed:
        for start in range(0, len(copies), _BATCH):
            await _delete_batch(storage.delete, FOLDER, dict(copies[start : start + _BATCH]), outcome)
    return outcome.summary(skipped)


async def _delete_batch(bulk: Delete, folder: str, sizes: Mapping[str, int], outcome: _Deletions) -> None:
    paths = list(sizes)
    for attempt in range(_PATIENCE):
        try:
            result = await bulk(paths)
            break
        except StorageError as error:
            if error.kind != ErrorKind.THROTTLED or attempt == _PATIENCE - 1:
                outcome.note(folder, 0, 0, len(paths), error.message)
                return
            outcome.note_throttled()
            await pause(2.0**attempt)
    failed = dict(result.failed)
    size = sum(size for path, size in sizes.items() if path not in failed)
    outcome.note(folder, len(paths) - len(failed), size, len(failed), next(iter(failed.values()), ""))
