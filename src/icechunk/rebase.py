"""Putting the changes of a session on top of what was committed to its branch meanwhile.

Which commits those are comes from the ancestry of the branch's tip; what each changed comes from its transaction log,
all of them fetched at once. As a rule nothing contradicts, and one look at the tip is enough. Only where something does,
the commits are gone through one by one, oldest first, and the solver is asked.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from icechunk._driver import concurrent_map
from icechunk.change_set import ChangeSet
from icechunk.conflicts import ConflictDetector, ConflictSolver
from icechunk.errors import (
    ErrorKind,
    ObjectNotFoundError,
    RebaseFailedError,
    SessionStateError,
    SnapshotNotFoundError,
)
from icechunk.format.ids import format_id
from icechunk.format.repo_info import SnapshotRecord
from icechunk.format.snapshot import Snapshot
from icechunk.format.transaction_log import TransactionLog
from icechunk.node_view import NodeView
from icechunk.refs.base import RefStore
from icechunk.resolution import rebase_changes
from icechunk.workspace import Workspace


async def rebase(workspace: Workspace, refs: RefStore, branch: str, solver: ConflictSolver, *, width: int) -> None:
    """Rebase `workspace` onto the tip of `branch`.

    Raises `RebaseFailedError` at the first commit with which its changes conflict in a way that `solver` does not settle;
    the workspace then stands on the last commit before that one.
    """
    base_id = workspace.snapshot_id
    tip_id = await refs.branch_tip(branch)
    if tip_id == base_id:
        return
    missed = await missed_commits(refs, branch, tip_id, base_id)
    try:
        logs = await _logs(workspace, missed, base_id, width)
    except ObjectNotFoundError:  # what is remembered of the history was expired and collected
        await concurrent_map(lambda record: _read_again(refs, record.id), missed, width)
        missed = await missed_commits(refs, branch, tip_id, base_id)
        logs = await _logs(workspace, missed, base_id, width)
    steps: dict[bytes, list[TransactionLog]] = {record.id: [] for record in missed}
    for (owner, _), log in zip(log_ids(missed, base_id), logs, strict=True):
        steps[owner].append(log)
    base = await workspace.load()
    if not refs.registers_snapshots and not len(base):
        logs[0] = _made_all(logs[0], await workspace.assets.snapshot(missed[0].id))
        steps[missed[0].id][0] = logs[0]
    tip = await workspace.assets.snapshot(tip_id)
    changes = _without_conflict(workspace.change_set, logs, base, tip)
    if changes is not None:
        workspace.show(NodeView(tip, changes))
        return
    for snapshot_id, step in steps.items():
        before, after = await workspace.load(), await workspace.assets.snapshot(snapshot_id)
        ours = workspace.change_set
        for log in step:
            resolution = rebase_changes(ours, log, before, after, solver)
            if resolution.change_set is None:
                raise RebaseFailedError(format_id(snapshot_id), resolution.conflicts)
            ours = resolution.change_set
        workspace.show(NodeView(after, ours))


def _made_all(log: TransactionLog, snapshot: Snapshot) -> TransactionLog:
    """The log of the first commit on an empty base, with every node of its snapshot as new.

    Where expiration leaves no trace of what it cut out, that may have been made by commits in between.
    """
    nodes = list(snapshot.nodes())
    groups = frozenset(node.id for node in nodes if not node.is_array)
    arrays = frozenset(node.id for node in nodes if node.is_array)
    return replace(log, new_groups=log.new_groups | groups, new_arrays=log.new_arrays | arrays)


def _without_conflict(ours: ChangeSet, logs: list[TransactionLog], base: Snapshot, tip: Snapshot) -> ChangeSet | None:
    """The changes on top of `tip`, None when anything contradicts them."""
    for log in logs:
        resolution = rebase_changes(ours, log, base, tip, ConflictDetector())
        if resolution.change_set is None:
            return None
        ours = resolution.change_set
    return ours


async def missed_commits(refs: RefStore, branch: str, tip: bytes, base: bytes) -> list[SnapshotRecord]:
    """The commits after `base` up to `tip`, oldest first.

    Raises `SessionStateError` when the branch no longer contains `base`: it was reset, and there is nothing to put the
    changes on top of.
    """
    missed: list[SnapshotRecord] = []
    async for record in refs.ancestry(tip, revalidate=False):
        if record.id == base:
            return missed[::-1]
        missed.append(record)
        if base in record.pruned:
            return missed[::-1]
    raise SessionStateError(
        f"cannot rebase: branch {branch} does not contain the snapshot {format_id(base)} any more on which this session "
        "is based, it was reset or rewritten; open a new session and make the changes there",
        ErrorKind.NOT_ON_BRANCH,
    )


def log_ids(missed: list[SnapshotRecord], base: bytes) -> list[tuple[bytes, bytes]]:
    """The transaction logs to go through: each with the snapshot that stands for it now.

    Expiration cuts snapshots out of the history and leaves their logs, which then count for the next one that is left.
    """
    steps: list[tuple[bytes, bytes]] = []
    for record in missed:
        pruned = list(record.pruned)
        if base in pruned:
            pruned = pruned[pruned.index(base) + 1 :]
        steps += [(record.id, log_id) for log_id in [*pruned, record.id]]
    return steps


async def _read_again(refs: RefStore, snapshot_id: bytes) -> None:
    with suppress(SnapshotNotFoundError):
        await refs.current_record(snapshot_id)


async def _logs(workspace: Workspace, missed: list[SnapshotRecord], base: bytes, width: int) -> list[TransactionLog]:
    return await concurrent_map(lambda step: _log(workspace, *step), log_ids(missed, base), width)


async def _log(workspace: Workspace, owner: bytes, log_id: bytes) -> TransactionLog:
    try:
        return await workspace.assets.transaction_log(log_id)
    except ObjectNotFoundError as error:
        if log_id == owner:
            raise
        raise SessionStateError(
            f"cannot rebase: transaction log {format_id(log_id)} of an expiration-pruned ancestor of {format_id(owner)} "
            "is missing; open a new session and make the changes there",
            ErrorKind.REBASE_TX_LOG_PRUNED,
        ) from error
