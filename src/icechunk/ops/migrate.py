"""Upgrading a repository from spec 1 to spec 2.

All that changes is where refs, history and configuration live: they are read from their many small files and written as
one repo object. Snapshots, manifests and logs stay as they are; every file says itself by which version it is to be read.
The repo object is created by one conditional write, so the repository has the old format before it and the new one after.

The operations log is made up from what the old files still know: commits at their own times, branches and tags shortly
after the snapshot that they point to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from icechunk._dataclass import dataclass
from icechunk.config import to_stored
from icechunk.errors import ErrorKind, FormatError, PreconditionFailedError, SessionStateError, StorageError
from icechunk.format.ids import format_id
from icechunk.format.repo_info import (
    BranchCreated,
    NewCommit,
    RepoInfo,
    RepoMigrated,
    SnapshotRecord,
    TagCreated,
    TagDeleted,
    Update,
    UpdateKind,
)
from icechunk.format.repo_updates import UpdateLog
from icechunk.refs.base import MAIN, History, RefStore
from icechunk.refs.ref_content import REFS, branch_path
from icechunk.refs.ref_files import (
    CONFIG,
    REPO_OBJECT,
    RefFiles,
    put_surely,
    require_writable_storage,
)
from icechunk.refs.repo_file import REPO_FACTS
from icechunk.refs.snapshot_chain import SNAPSHOTS
from icechunk.storage.base import ABSENT, ObjectInfo, Storage, Unchanged

_SHORTLY = 1000
"""Microseconds between a snapshot and the refs that are said to have been made for it."""


@dataclass(frozen=True, slots=True)
class MigrationPlan:
    """What an upgrade writes; its text says so for people.

    Attributes
    ----------
    info : RepoInfo
        The repo object.
    history : History
        The refs and snapshots it was made from.
    """

    info: RepoInfo
    history: History

    def __str__(self) -> str:
        history = self.history
        lines = [
            f"Upgrade to format version 2: {len(history.records):,} snapshots, {len(history.branches):,} branches, "
            f"{len(history.tags):,} tags, {len(self.info.updates):,} entries of the operations log"
        ]
        lines += [f"  branch {name} -> {format_id(tip)}" for name, tip in sorted(history.branches.items())]
        lines += [f"  tag {name} -> {format_id(target)}" for name, target in sorted(history.tags.items())]
        lines += [f"  deleted tag {name}" for name in sorted(self.info.deleted_tags)]
        return "\n".join(lines)


class _Event(NamedTuple):
    at: int
    kind: UpdateKind


def plan_migration(
    history: History, deleted_tags: Mapping[str, bytes], config: dict[str, object] | None, now: int
) -> MigrationPlan:
    """The repo object for what the files of spec 1 say; `deleted_tags` by name, with what they pointed to."""
    records = history.records
    root = records[_line(records, history.branches[MAIN])[-1]]
    info = RepoInfo.initial(root, root.flushed_at).with_snapshots_replaced(records.values())
    for name, tip in sorted(history.branches.items()):
        info = info.with_branch(name, tip)
    for name, target in sorted(history.tags.items()):
        info = info.with_tag(name, target)
    for name in sorted(deleted_tags):
        info = info.with_tag(name, root.id).without_tag(name)
    if config is not None:
        info = info.with_config(config)
    events = sorted(_events(history, deleted_tags, root), key=lambda event: event.at)
    latest = root.flushed_at
    entries = deque(info.updates)
    for event in [*events, _Event(now, RepoMigrated(1, 2))]:
        latest = max(event.at, latest + 1)
        entries.appendleft(Update(event.kind, latest))
    log = UpdateLog(info.updates.doc, info.updates.positions[:0], tuple(entries))
    return MigrationPlan(replace(info, updates=log), history)


def _line(records: Mapping[bytes, SnapshotRecord], tip: bytes) -> list[bytes]:
    line = []
    at: bytes | None = tip
    while at is not None and at in records:
        line.append(at)
        at = records[at].parent_id
    return line


def _events(history: History, deleted_tags: Mapping[str, bytes], root: SnapshotRecord) -> Iterator[_Event]:
    """What must have happened, those of one time in the order in which they are to be told."""
    records = history.records
    told = {root.id}
    others = sorted(name for name in history.branches if name != MAIN)
    for branch in [MAIN, *others]:
        for snapshot_id in _line(records, history.branches[branch]):
            if snapshot_id in told:
                break
            told.add(snapshot_id)
            yield _Event(records[snapshot_id].flushed_at, NewCommit(branch, snapshot_id))

    def shortly_after(snapshot_id: bytes) -> int:
        return records.get(snapshot_id, root).flushed_at + _SHORTLY

    for branch in others:
        yield _Event(shortly_after(history.branches[branch]), BranchCreated(branch))
    for tag in sorted(history.tags):
        yield _Event(shortly_after(history.tags[tag]), TagCreated(tag))
    for tag, target in sorted(deleted_tags.items()):
        yield _Event(shortly_after(target), TagCreated(tag))
        yield _Event(shortly_after(target) + _SHORTLY, TagDeleted(tag, target))


async def upgrade(
    refs: RefStore, *, dry_run: bool = False, delete_old_files: bool = True, concurrency: int | None = None
) -> MigrationPlan:
    """Upgrade a repository in place and say what was done; afterwards open it again, `refs` is of no use any more.

    With `dry_run` nothing is written: what comes back is what would be, if it can be. The old branches are
    closed before they are read for good, so that nobody can commit to one who has not noticed. `delete_old_files` removes
    the files that are not needed any more; where they stay they are ignored. `concurrency` is how many files are read at
    once. Raises `SessionStateError` for a repository that has the new format already.
    """
    files = _of_old_format(refs, concurrency)
    storage = files.storage
    if not dry_run:
        require_writable_storage(storage)
    before = await _snapshot_files(storage)
    plan = await plan_upgrade(files)
    encoded = _encoded(plan)
    if dry_run:
        return plan
    try:
        version = await put_surely(storage, REPO_OBJECT, encoded, ABSENT, metadata=REPO_FACTS)
    except PreconditionFailedError as error:
        raise _already_upgraded() from error
    # a client of the old format that had looked for the repo object just before may still have changed something
    tips = await files.close_branches()
    now = tips, await files.tags(), await _config(files)
    same = now == (plan.history.branches, plan.history.tags, plan.info.config)
    # snapshots that the plan does not know may be of those who use the new format already
    if not same or _of_plan(plan, await _snapshot_files(storage)) != _of_plan(plan, before):
        plan = await _plan(files, tips)
        try:
            await put_surely(storage, REPO_OBJECT, _encoded(plan), Unchanged(version), metadata=REPO_FACTS)
        except PreconditionFailedError as error:
            raise SessionStateError(
                "the repository was upgraded, but somebody still committed by the old format while others were using "
                "the new one; the old files were kept: reset the branch to the commit that is missing",
                ErrorKind.INVALID_REPOSITORY_MIGRATION,
            ) from error
    await (_delete_old_files(storage) if delete_old_files else files.open_branches(tips))
    return plan


def _encoded(plan: MigrationPlan) -> bytes:
    try:
        return plan.info.encode()
    except ValueError as error:
        raise FormatError(
            f"the repository cannot be upgraded: properties of a snapshot have no form in the new format: {error}",
            ErrorKind.SERIALIZATION,
        ) from error


async def plan_upgrade(refs: RefStore) -> MigrationPlan:
    """What an upgrade would write; print it to read it. Raises `SessionStateError` where there is nothing to upgrade."""
    return await _plan(_of_old_format(refs, None))


async def _plan(files: RefFiles, branches: Mapping[str, bytes] | None = None) -> MigrationPlan:
    config = await _config(files)
    history = await files.history(branches=branches)
    return plan_migration(history, await files.deleted_tags(), config, files.context.now())


async def _snapshot_files(storage: Storage) -> set[ObjectInfo]:
    """What changes when snapshots are written, expired or collected."""
    return {info async for batch in storage.list(SNAPSHOTS) for info in batch}


def _of_plan(plan: MigrationPlan, files: set[ObjectInfo]) -> set[ObjectInfo]:
    paths = {SNAPSHOTS + format_id(snapshot_id) for snapshot_id in plan.history.records}
    return {info for info in files if info.path in paths}


async def _config(files: RefFiles) -> dict[str, object] | None:
    config = await files.load_config()
    return None if config is None else to_stored(config)


def _of_old_format(refs: RefStore, concurrency: int | None) -> RefFiles:
    if not isinstance(refs, RefFiles):
        raise _already_upgraded()
    return refs if concurrency is None else RefFiles(replace(refs.context, requests_at_once=concurrency))


async def _delete_old_files(storage: Storage) -> None:
    """`main` first: nobody can take what is left for a repository of the old format."""
    first = branch_path(MAIN)
    rest = [info.path async for batch in storage.list(REFS) for info in batch if info.path != first]
    for paths in ([first], [*rest, CONFIG]):
        outcome = await storage.delete(paths)
        for path, reason in outcome.failed:
            raise StorageError(
                f"the repository was upgraded, but `{path}` could not be deleted: {reason}; it is not needed any more",
                ErrorKind.OBJECT_STORE,
            )


def _already_upgraded() -> SessionStateError:
    return SessionStateError(
        "invalid repository version (2.0), this function can only migrate repositories that use version 1.0 of the "
        "specification, to repositories with spec version 2.0",
        ErrorKind.INVALID_REPOSITORY_MIGRATION,
    )
