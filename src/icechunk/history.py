"""What changed: between two snapshots, in a session, in several commits taken together.

Transaction logs speak of node ids, people of paths. An id becomes a path through the nodes of the snapshots at both
ends; a node that is at neither, because it was made and deleted in between, is left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from icechunk.change_set import ChangeSet
from icechunk.format.chunk_keys import joint_keys
from icechunk.format.node_path import segments
from icechunk.format.transaction_log import Move, TransactionLog
from icechunk.info import Diff
from icechunk.moves import Nodes, logged_moves


class Hierarchy(Protocol):
    """The nodes of a snapshot, by id."""

    def paths_by_id(self, node_ids: Collection[bytes]) -> Mapping[bytes, str]:
        """The paths of those nodes that are there."""
        ...


# --- between two snapshots --------------------------------------------------------------------------------------------


def diff_logs(logs: Sequence[TransactionLog], before: Hierarchy, after: Hierarchy) -> Diff:
    """The changes from `before` to `after`, which the transaction logs in between, oldest first, led to.

    Nodes that are in both have the path of `after`. Moves are listed commit by commit, newest first.
    """
    sets = {name: _union(getattr(log, name) for log in logs) for name in _NODE_SETS}
    chunks = _union_chunks(log.updated_chunks for log in logs)
    wanted = _union([*sets.values(), frozenset(chunks)])
    old, new = before.paths_by_id(wanted), after.paths_by_id(wanted)
    paths, former_paths = {**old, **new}, {**new, **old}  # they differ for moved nodes
    named = {name: _paths(ids, former_paths if name.startswith("deleted") else paths) for name, ids in sets.items()}
    listed = {paths[node_id]: coords.tolist() for node_id, coords in chunks.items() if node_id in paths}
    return Diff(
        **named,
        updated_chunks=dict(sorted(listed.items())),
        moved_nodes=[(move.source, move.target) for log in reversed(logs) for move in log.moved_nodes],
    )


_NODE_SETS = ("new_groups", "new_arrays", "deleted_groups", "deleted_arrays", "updated_groups", "updated_arrays")


def _paths(node_ids: Iterable[bytes], paths: Mapping[bytes, str]) -> set[str]:
    return {paths[node_id] for node_id in node_ids if node_id in paths}


def _union(sets: Iterable[frozenset[bytes]]) -> frozenset[bytes]:
    return frozenset().union(*sets)


def _union_chunks(logs: Iterable[Mapping[bytes, npt.NDArray[np.uint32]]]) -> dict[bytes, npt.NDArray[np.uint32]]:
    found: dict[bytes, list[npt.NDArray[np.uint32]]] = {}
    for log in logs:
        for node_id, coords in log.items():
            found.setdefault(node_id, []).append(coords)
    return {node_id: union_coords(parts) for node_id, parts in found.items()}


def union_coords(parts: Sequence[npt.NDArray[np.uint32]]) -> npt.NDArray[np.uint32]:
    """All coordinates of the parts, sorted, each once.

    An array can have changed its rank in between; then those of the last rank count. A part without rows has no say.
    """
    parts = [part for part in parts if len(part)] or parts[-1:]
    ndim = parts[-1].shape[1]
    same = [part for part in parts if part.shape[1] == ndim]
    coords = same[0] if len(same) == 1 else np.concatenate(same)
    (keys,) = joint_keys(coords)
    if len(keys) < 2 or bool((keys[1:] > keys[:-1]).all()):
        return coords
    return coords[np.unique(keys, return_index=True)[1]]


# --- in a session -----------------------------------------------------------------------------------------------------


def status_diff(changes: ChangeSet, base: Nodes) -> Diff:
    """The uncommitted changes of a session on top of `base`."""
    new, updated = changes.new_nodes.items(), changes.updated.values()
    return Diff(
        new_groups={path for path, node in new if not node.is_array},
        new_arrays={path for path, node in new if node.is_array},
        deleted_groups={path for path, node in changes.deleted.items() if not node.is_array},
        deleted_arrays={path for path, node in changes.deleted.items() if node.is_array},
        updated_groups={node.path for node in updated if not node.is_array},
        updated_arrays={node.path for node in updated if node.is_array},
        updated_chunks=dict(
            sorted((edits.path, edits.coords().tolist()) for edits in changes.chunks.values() if edits)
        ),
        moved_nodes=[(move.source, move.target) for move in logged_moves(base, changes.moves)],
    )


# --- several commits as one -------------------------------------------------------------------------------------------


def merge_logs(first: TransactionLog, second: TransactionLog) -> TransactionLog:
    """The log of both commits taken as one, under the id of the second.

    A node that the first made and the second deleted leaves no trace. One that the first made and the second updated or
    moved is just new. What was deleted was not updated. Moves are chained, from the first place to the last; where the
    format has no moves, a node that is both deleted and new in one log has moved, and it still has in the merged one.
    """
    new_groups, deleted_groups = _came_and_went(first, second, "groups")
    new_arrays, deleted_arrays = _came_and_went(first, second, "arrays")
    new, deleted = new_groups | new_arrays, deleted_groups | deleted_arrays
    touched = _union([first.new_groups, first.new_arrays, second.deleted_groups, second.deleted_arrays])
    fresh, gone = new - deleted, (deleted | touched) - new
    chunks = _union_chunks((first.updated_chunks, second.updated_chunks))
    moves = chain_moves(first.moved_nodes, second.moved_nodes)
    return replace(
        second,
        new_groups=new_groups,
        new_arrays=new_arrays,
        deleted_groups=deleted_groups,
        deleted_arrays=deleted_arrays,
        updated_groups=(first.updated_groups | second.updated_groups) - fresh - gone,
        updated_arrays=(first.updated_arrays | second.updated_arrays) - fresh - gone,
        updated_chunks={node_id: coords for node_id, coords in chunks.items() if node_id not in gone},
        moved_nodes=tuple(move for move in moves if move.node_id not in fresh | gone),
    )


def _came_and_went(
    first: TransactionLog, second: TransactionLog, kind: str
) -> tuple[frozenset[bytes], frozenset[bytes]]:
    """The nodes of a kind that are there after both commits, and those that were there before, of all that came or went."""
    new: tuple[frozenset[bytes], ...] = (getattr(first, f"new_{kind}"), getattr(second, f"new_{kind}"))
    deleted: tuple[frozenset[bytes], ...] = (getattr(first, f"deleted_{kind}"), getattr(second, f"deleted_{kind}"))
    return new[1] | (new[0] - deleted[1]), deleted[0] | (deleted[1] - new[0])


def chain_moves(first: Sequence[Move], second: Sequence[Move]) -> tuple[Move, ...]:
    """Both lists of moved nodes as one: each node from its first place to its last, without those that came back."""
    chained = {move.node_id: move for move in first}
    for move in second:
        before = chained.get(move.node_id)
        chained[move.node_id] = move if before is None else before._replace(target=move.target)
    moved = [move for move in chained.values() if move.source != move.target]
    return tuple(sorted(moved, key=lambda move: segments(move.target)))
