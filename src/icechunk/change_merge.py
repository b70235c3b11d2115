"""Merging the changes of forks into one change set.

Workers write in forks of one session and hand them back; what they changed is folded together here. Writes to different
chunks and nodes combine. What cannot be combined is an error; where one fork's write hides another's, the later wins, as
it must, and the caller is told.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import field, replace

import numpy as np

from icechunk._dataclass import dataclass
from icechunk.change_set import UNTOUCHED, ChangeSet, ChunkEdits
from icechunk.errors import ErrorKind, SessionStateError
from icechunk.format.chunk_table import ChunkTable
from icechunk.format.snapshot import Node
from icechunk.node_view import NodeView


@dataclass(slots=True)
class Overlaps:
    """Writes that hid others: chunks by array path, and nodes whose metadata was replaced."""

    chunks: dict[str, int] = field(default_factory=dict)
    metadata: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.chunks or self.metadata)

    def __str__(self) -> str:
        parts = [f"{count} chunks of {path}" for path, count in sorted(self.chunks.items())]
        parts += [f"the metadata of {path}" for path in sorted(self.metadata)]
        return ", ".join(parts)


def merge_changes(view: NodeView, fork: ChangeSet, *, known: ChangeSet | None = None) -> Overlaps:
    """Apply the changes of `fork` on top of those that `view` shows, in place; returns what they hid.

    `known` is what `view` had changed when the fork was made, which the fork saw: writing over that hides nothing.

    Raises `SessionStateError` (merge-failed), changing nothing, when a node was modified on one side and deleted or
    replaced on the other, or when both made different nodes at one path.
    """
    into, known, overlaps = view.change_set, known or ChangeSet(), Overlaps()
    _check_modified(view, fork)
    gone = _deleted(view, fork, known)
    same = _same_nodes(view, fork)
    into.delete_nodes(gone)
    for node in fork.new_nodes.values():
        if node.id not in same:
            into.add_node(node)
        elif same[node.id].id == node.id and same[node.id].metadata != node.metadata:
            into.update_node(node)  # it was merged before, and updated since
    for node in fork.updated.values():
        present = into.new_nodes.get(node.path) or into.updated.get(node.id)
        before = known.new_nodes.get(node.path) or known.updated.get(node.id)
        if present is not None and present != before and present.metadata != node.metadata:
            overlaps.metadata.append(node.path)
        # the manifests are those of the snapshot that was made for the fork
        into.update_node(replace(node, manifests=() if present is None else present.manifests))
    for node_id, edits in fork.chunks.items():
        node_id = same[node_id].id if node_id in same else node_id
        mine = into.chunks.setdefault(node_id, ChunkEdits(edits.ndim, path=edits.path))
        hidden = _hidden(mine, edits, known.chunks.get(node_id))
        if hidden:
            overlaps.chunks[edits.path] = overlaps.chunks.get(edits.path, 0) + hidden
        mine.merge(edits)
    return overlaps


def _check_modified(view: NodeView, fork: ChangeSet) -> None:
    """Whether everything that the fork modified is still there."""
    clashes = []
    for node in fork.updated.values():
        present = view.find(node.path)
        if present is None or present.id != node.id:
            clashes.append(node.path)
    made = {node.id for node in fork.new_nodes.values()}
    for node_id, edits in fork.chunks.items():
        if not edits or node_id in made:
            continue
        present = view.find(edits.path)
        meant = fork.updated.get(node_id, present)
        if present is None or present.id != node_id or meant is None or len(meant.shape) != edits.ndim:
            clashes.append(edits.path)
    _refuse(clashes)


def _deleted(view: NodeView, fork: ChangeSet, known: ChangeSet) -> list[tuple[str, bytes, bool]]:
    """The nodes that the fork deleted and that are still there, by path, id and whether they are arrays."""
    gone: list[tuple[str, bytes, bool]] = []
    clashes = []
    for path, node in fork.deleted.items():
        present = view.find(path)
        if present is None or present.id != node.id:
            continue
        gone.append((path, node.id, node.is_array))
        if _is_modified(view.change_set, known, path, node.id):
            clashes.append(path)
    _refuse(clashes)
    return gone


def _refuse(clashes: Collection[str]) -> None:
    if clashes:
        raise SessionStateError(
            f"failed to merge sessions: Arrays were both deleted and modified: {', '.join(sorted(set(clashes)))}; delete "
            "or replace them before you fork, or after the merge, and merge a fork of a fork into that fork first",
            ErrorKind.MERGE_FAILED,
        )


def _is_modified(changes: ChangeSet, known: ChangeSet, path: str, node_id: bytes) -> bool:
    """Whether `changes` has the node in another way than `known`."""
    if changes.new_nodes.get(path) != known.new_nodes.get(path):
        return True
    if changes.updated.get(node_id) != known.updated.get(node_id):
        return True
    edits, seen = changes.chunks.get(node_id), known.chunks.get(node_id)
    if edits is None or not edits:
        return False
    return seen is None or edits.singles != seen.singles or list(map(id, edits.tables)) != list(map(id, seen.tables))


def _same_nodes(view: NodeView, fork: ChangeSet) -> dict[bytes, Node]:
    """Nodes that both sides made, alike: from the id in the fork to the one that stays."""
    same: dict[bytes, Node] = {}
    clashes: list[str] = []
    for path, node in fork.new_nodes.items():
        present = view.find(path)
        replaced = fork.deleted.get(path)
        if present is None or (replaced is not None and replaced.id == present.id):
            continue
        is_ours = path in view.change_set.new_nodes or not present.is_array
        if present.id == node.id or (is_ours and present.metadata == node.metadata):
            same[node.id] = present
        else:
            clashes.append(path)
    if clashes:
        raise SessionStateError(
            f"failed to merge sessions: both created different nodes at {', '.join(sorted(clashes))}; create nodes "
            "before you fork, or in one fork only",
            ErrorKind.MERGE_FAILED,
        )
    return same


def _hidden(mine: ChunkEdits, newer: ChunkEdits, known: ChunkEdits | None) -> int:
    """How many chunks written in `mine`, beyond what was `known`, `newer` replaces by something else."""
    known = known or ChunkEdits(mine.ndim)
    hidden = 0
    for coords, ref in newer.singles.items():
        ours = mine.find(coords)
        if ours is not UNTOUCHED and ours != ref and ours != known.find(coords):
            hidden += 1
    for table in newer.tables:
        for coords, ours in mine.singles.items():
            row = table.row_of(coords)
            if row >= 0 and ours != table.ref(row) and ours != known.find(coords):
                hidden += 1
        for other in mine.tables:
            if not any(other is seen for seen in known.tables) and other is not table:
                hidden += _common(other, table)
    return hidden


def _common(first: ChunkTable, second: ChunkTable) -> int:
    """How many coordinates two tables share."""
    if not len(first) or not len(second):
        return 0
    pairs = zip(first.extents(), second.extents(), strict=True)
    if any(stop <= low or high <= start for (start, stop), (low, high) in pairs):
        return 0
    both = np.concatenate([first.coords, second.coords])
    return len(both) - len(np.unique(both, axis=0))
