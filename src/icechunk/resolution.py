"""Rebasing a change set: the choices of a solver, carried out.

`rebase_changes` takes a change set over one commit. What contradicts that commit is detected, put before the solver and
settled by one small function per kind of conflict and choice; the table `_SETTLE` says which there are. The change set
that was given is never touched, and edits that need no change are shared with the result, not copied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from icechunk.change_set import ChangeSet, ChunkEdits, DeletedNode
from icechunk.conflicts import (
    Conflict,
    ConflictSolver,
    ConflictType,
    Hierarchy,
    VersionSelection,
    detect,
    rows_in,
)
from icechunk.format.chunk_keys import Coords, joint_keys
from icechunk.format.node_path import ancestors, is_below
from icechunk.format.transaction_log import TransactionLog
from icechunk.zarr_metadata import encoding

_OURS = VersionSelection.UseOurs
_THEIRS = VersionSelection.UseTheirs


class Resolution(NamedTuple):
    """The outcome of rebasing over one commit.

    `change_set` is what we changed, relative to that commit; None when `conflicts` could not be settled.
    """

    change_set: ChangeSet | None
    conflicts: tuple[Conflict, ...] = ()


class _Step(NamedTuple):
    """What a settlement works on: `draft` becomes the new change set, the rest is only read."""

    draft: ChangeSet
    ours: ChangeSet
    before: Hierarchy
    theirs: Hierarchy


def rebase_changes(
    ours: ChangeSet, log: TransactionLog, before: Hierarchy, theirs: Hierarchy, solver: ConflictSolver
) -> Resolution:
    """Take the changes `ours`, made on top of `before`, over the commit `log` that led from there to `theirs`.

    Either every conflict is settled and the result holds the new change set, or it holds all conflicts.
    """
    conflicts = detect(log, theirs, ours)
    draft = ChangeSet(dict(ours.new_nodes), dict(ours.updated), dict(ours.deleted), dict(ours.chunks), list(ours.moves))
    step = _Step(draft, ours, before, theirs)
    for conflict in conflicts:
        settle = _SETTLE.get((conflict.conflict_type, solver.resolve(conflict)))
        if settle is None or not settle(step, conflict):
            return Resolution(None, tuple(conflicts))
    _forget_dead(draft, log, theirs)
    draft.settled = bool(ours) and not draft
    return Resolution(draft)


def _forget_dead(draft: ChangeSet, log: TransactionLog, theirs: Hierarchy) -> None:
    """Drop our deletions of nodes that they deleted too; what they made there since is theirs, and stays."""
    if not (log.deleted_arrays or log.deleted_groups):
        return
    for path, node in list(draft.deleted.items()):
        if node.id in log.deleted_arrays or node.id in log.deleted_groups:
            existing = theirs.find(path)
            if existing is None or existing.id != node.id:
                del draft.deleted[path]


# --- one function per conflict and choice -----------------------------------------------------------------------------
# Each returns whether the choice is possible.


def _keep_ours(step: _Step, conflict: Conflict) -> bool:
    return True


def _put_new_node(step: _Step, conflict: Conflict) -> bool:
    ours, theirs = step.draft.new_nodes.get(conflict.path), step.theirs.find(conflict.path)
    if ours is None or theirs is None:
        return False  # it is a move that found its target taken
    if theirs.is_array:
        step.draft.deleted[conflict.path] = DeletedNode(theirs.id, True)
        return True
    if ours.is_array:
        return False
    del step.draft.new_nodes[conflict.path]
    if ours.metadata != theirs.metadata:
        step.draft.updated[theirs.id] = replace(theirs, metadata=ours.metadata)
    return True


def _drop_new_node(step: _Step, conflict: Conflict) -> bool:
    if conflict.path not in step.draft.new_nodes:
        return False
    _drop(step.draft, conflict.path)
    return True


def _is_replaced(step: _Step, conflict: Conflict) -> bool:
    ours, theirs = step.draft.new_nodes.get(conflict.path), step.theirs.find(conflict.path)
    gone = step.draft.deleted.get(conflict.path)
    return ours is not None and not ours.is_array and theirs is not None and gone is not None and gone.id == theirs.id


def _drop_new_nodes_below(step: _Step, conflict: Conflict) -> bool:
    below = [path for path in step.draft.new_nodes if is_below(path, conflict.path)]
    for path in below:
        _drop(step.draft, path)
    return bool(below)


def _drop(draft: ChangeSet, path: str) -> None:
    node = draft.new_nodes.pop(path)
    draft.chunks.pop(node.id, None)


def _drop_update(step: _Step, conflict: Conflict) -> bool:
    step.draft.updated.pop(_id(conflict), None)
    edits = step.draft.chunks.get(_id(conflict))
    if edits is not None and edits.kept is not None:  # what our document cut off is not cut off
        step.draft.chunks[_id(conflict)] = replace(edits, kept=None)
        if not edits:
            del step.draft.chunks[_id(conflict)]
    return True


def _drop_chunks(step: _Step, conflict: Conflict) -> bool:
    edits = step.draft.chunks.pop(_id(conflict), None)
    if edits is not None and edits.kept is not None:  # our document stands, and with it what it cut off
        step.draft.chunks[_id(conflict)] = ChunkEdits(edits.ndim, path=edits.path, kept=edits.kept)
    return True


def _drop_common_chunks(step: _Step, conflict: Conflict) -> bool:
    edits = step.draft.chunks.get(_id(conflict))
    if edits is not None and conflict._chunks is not None:
        step.draft.chunks[_id(conflict)] = without(edits, np.asarray(conflict._chunks, np.uint32))
    return True


def without(edits: ChunkEdits, coords: Coords) -> ChunkEdits:
    """The edits except those at `coords`."""
    written, deleted = edits.fold()
    keys, other_keys, deleted_keys = joint_keys(written.coords, coords, deleted)
    kept = np.ones(len(written), bool)
    kept[rows_in(keys, other_keys)] = False
    still_deleted = deleted[~np.isin(deleted_keys, other_keys)]
    table = written.take(kept)
    singles: dict[tuple[int, ...], Any] = dict.fromkeys(map(tuple, still_deleted.tolist()))
    return ChunkEdits(edits.ndim, singles, [table] if len(table) else [], edits.path, edits.kept)


def _keep_chunks_of_updated(step: _Step, conflict: Conflict) -> bool:
    """Our chunks mean the same under the new document, as long as that only resized the array or described it anew."""
    former, theirs = step.before.find(conflict.path), step.theirs.find(conflict.path)
    if former is None or theirs is None:
        return False
    written_under = step.ours.updated.get(_id(conflict), former)
    stands = step.draft.updated.get(_id(conflict), theirs)
    if not encoding(former) == encoding(written_under) == encoding(stands):
        return False
    if any(now.chunks < then.chunks for now, then in zip(stands.shape, written_under.shape, strict=True)):
        edits = step.draft.chunks[_id(conflict)].copy()
        edits.cut_off(tuple(dimension.chunks for dimension in stands.shape))
        step.draft.chunks[_id(conflict)] = edits
    return True


def _keep_deleted(step: _Step, conflict: Conflict) -> bool:
    """Keep what we deleted and they changed, and the groups above it."""
    draft = step.draft
    for path in (conflict.path, *ancestors(conflict.path)):
        if path not in draft.deleted:
            continue
        anew = draft.new_nodes.get(path)
        if anew is not None:
            if anew.is_array and path != conflict.path:
                return False
            _drop(draft, path)
        del draft.deleted[path]
    return True


def _id(conflict: Conflict) -> bytes:
    assert conflict._node_id is not None
    return conflict._node_id


_SETTLE: dict[tuple[ConflictType, VersionSelection], Callable[[_Step, Conflict], bool]] = {
    (ConflictType.NewNodeConflictsWithExistingNode, _OURS): _put_new_node,
    (ConflictType.NewNodeConflictsWithExistingNode, _THEIRS): _drop_new_node,
    (ConflictType.NewNodeInInvalidGroup, _OURS): _is_replaced,
    (ConflictType.NewNodeInInvalidGroup, _THEIRS): _drop_new_nodes_below,
    (ConflictType.ZarrMetadataDoubleUpdate, _OURS): _keep_ours,
    (ConflictType.ZarrMetadataDoubleUpdate, _THEIRS): _drop_update,
    (ConflictType.ZarrMetadataUpdateOfDeletedArray, _THEIRS): _drop_update,
    (ConflictType.ZarrMetadataUpdateOfDeletedGroup, _THEIRS): _drop_update,
    (ConflictType.ChunksUpdatedInDeletedArray, _THEIRS): _drop_chunks,
    (ConflictType.ChunksUpdatedInUpdatedArray, _OURS): _keep_chunks_of_updated,
    (ConflictType.ChunksUpdatedInUpdatedArray, _THEIRS): _drop_chunks,
    (ConflictType.ChunkDoubleUpdate, _OURS): _keep_ours,
    (ConflictType.ChunkDoubleUpdate, _THEIRS): _drop_common_chunks,
    (ConflictType.DeleteOfUpdatedArray, _OURS): _keep_ours,
    (ConflictType.DeleteOfUpdatedArray, _THEIRS): _keep_deleted,
    (ConflictType.DeleteOfUpdatedGroup, _OURS): _keep_ours,
    (ConflictType.DeleteOfUpdatedGroup, _THEIRS): _keep_deleted,
}
