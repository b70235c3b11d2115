"""Merging the changes of forks into one change set.

Workers write in forks of one session and hand them back; what they changed is folded together here. Writes to different
chunks and nodes combine. What cannot be combined is an error; where one fork's write hides another's, the later wins, as
it must, and the caller is told.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from icechunk.change_set import UNTOUCHED, ChangeSet, ChunkEdits
from icechunk.errors import ErrorKind, SessionStateError
from icechunk.format.chunk_table import ChunkTable
from icechunk.format.snapshot import Node


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


def merge_changes(into: ChangeSet, fork: ChangeSet, *, known: ChangeSet | None = None) -> Overlaps:
    """Apply the changes of `fork` on top of those of `into`, in place; returns what they hid.

    `known` is what `into` held when the fork was made, which the fork saw: writing over that hides nothing.

    Raises `SessionStateError` (merge-failed), leaving `into` as it was, when an array was deleted on one side and
    modified on the other, or when both made different nodes at one path.
    """
    known = known or ChangeSet()
    same = _same_nodes(into, fork)
    _check_deletes(into, fork, known)
    overlaps = Overlaps()
    gone = [(path, node.id, node.is_array) for path, node in fork.deleted.items() if path not in into.deleted]
    again = [
        (path, into.new_nodes[path].id, into.new_nodes[path].is_array)
        for path in fork.deleted
        if path in into.deleted and _made_before(path, into, fork, known)
    ]
    into.delete_nodes([*gone, *again])
    for node in fork.new_nodes.values():
        if node.id not in same:
            into.add_node(node)
    for node in fork.updated.values():
        ours = into.new_nodes.get(node.path) or into.updated.get(node.id)
        before = known.new_nodes.get(node.path) or known.updated.get(node.id)
        if ours is not None and ours != before and ours.metadata != node.metadata:
            overlaps.metadata.append(node.path)
        into.update_node(node)
    for node_id, edits in fork.chunks.items():
        node_id = same.get(node_id, node_id)
        mine = into.chunks.setdefault(node_id, ChunkEdits(edits.ndim, path=edits.path))
        hidden = _hidden(mine, edits, known.chunks.get(node_id))
        if hidden:
            overlaps.chunks[edits.path] = overlaps.chunks.get(edits.path, 0) + hidden
        mine.merge(edits)
    return overlaps


def _made_before(path: str, into: ChangeSet, fork: ChangeSet, known: ChangeSet) -> bool:
    """Whether the fork deleted the very node that was new in the session when it was forked."""
    node = into.new_nodes.get(path)
    return node is not None and known.new_nodes.get(path) is not None and node.id == fork.deleted[path].id


def _same_nodes(into: ChangeSet, fork: ChangeSet) -> dict[bytes, bytes]:
    """Nodes that both sides made, alike: from the id in the fork to the one that stays."""
    same: dict[bytes, bytes] = {}
    clashes: list[str] = []
    for path, node in fork.new_nodes.items():
        ours: Node | None = into.new_nodes.get(path)
        if ours is None or path in fork.deleted:
            continue
        if ours.metadata == node.metadata:
            same[node.id] = ours.id
        else:
            clashes.append(path)
    if clashes:
        raise SessionStateError(
            f"failed to merge sessions: both created different nodes at {', '.join(sorted(clashes))}; create nodes "
            "before you fork, or in one fork only",
            ErrorKind.MERGE_FAILED,
        )
    return same


def _check_deletes(into: ChangeSet, fork: ChangeSet, known: ChangeSet) -> None:
    modified = _modified(fork, ChangeSet())
    ours = _modified(into, known)
    clashes = {path for path, node in into.deleted.items() if node.id in modified}
    clashes |= {path for path, node in fork.deleted.items() if node.id in ours}
    if clashes:
        raise SessionStateError(
            f"failed to merge sessions: Arrays were both deleted and modified: {', '.join(sorted(clashes))}; delete "
            "them before you fork, or after the merge",
            ErrorKind.MERGE_FAILED,
        )


def _modified(changes: ChangeSet, known: ChangeSet) -> set[bytes]:
    """Nodes that `changes` modifies in another way than `known` does."""
    modified = {node_id for node_id, node in changes.updated.items() if known.updated.get(node_id) != node}
    for node_id, edits in changes.chunks.items():
        before = known.chunks.get(node_id)
        if before is None or len(before.singles) != len(edits.singles) or len(before.tables) != len(edits.tables):
            modified.add(node_id)
    return modified


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
