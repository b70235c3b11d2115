"""What a session has changed and not committed.

A change set is the difference between the session's snapshot and what its user sees: nodes that are new, updated or
deleted, chunks that were written or deleted, nodes that were moved. It decides nothing and does no IO.

Chunk edits are kept in two forms. Single writes go into a dict; writes in bulk stay columns. Both are folded into one
table when they are committed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from icechunk._dataclass import dataclass
from icechunk.format.chunk_ref import ChunkRef
from icechunk.format.chunk_table import ChunkTable
from icechunk.format.snapshot import Node
from icechunk.format.transaction_log import Move

Coords: TypeAlias = tuple[int, ...]


class _Untouched(Enum):
    UNTOUCHED = 0


UNTOUCHED: Final = _Untouched.UNTOUCHED
"""What `ChunkEdits.find` says of a chunk that was neither written nor deleted."""

NOTHING: Final = (0,)
"""`ChunkEdits.kept` where no chunk of the snapshot is left, whatever the number of dimensions."""


def is_kept(coords: Coords, kept: Coords | None) -> bool:
    """Whether a chunk of the snapshot is still there, see `ChunkEdits.kept`."""
    if kept is None:
        return True
    return 0 not in kept and all(index < top for index, top in zip(coords, kept, strict=True))


class DeletedNode(NamedTuple):
    """A node of the base snapshot that is gone."""

    id: bytes
    is_array: bool


def _below(table: ChunkTable, kept: Coords) -> ChunkTable:
    if 0 in kept:
        return ChunkTable.empty(table.ndim)
    return table.within([(0, top) for top in kept])


@dataclass(slots=True)
class ChunkEdits:
    """Chunks of one array that were written or deleted.

    The newest edit of a chunk counts: `singles` before `tables`, a later table before an earlier one.
    """

    ndim: int
    singles: dict[Coords, ChunkRef | None] = field(default_factory=dict)
    tables: list[ChunkTable] = field(default_factory=list)
    path: str = "/"
    """Where the array is; the id, under which a change set keeps the edits, says which it is."""
    kept: Coords | None = None
    """The corner below which the chunks of the snapshot are left; None for all of them.

    What an array lost when it was made smaller, or got another number of dimensions, does not come back when that is
    undone.
    """

    def __bool__(self) -> bool:
        return bool(self.singles) or bool(self.tables)

    def find(self, coords: Coords) -> ChunkRef | _Untouched | None:
        """The reference written for a chunk, None when it was deleted, `UNTOUCHED` when it was neither."""
        found = self.singles.get(coords, UNTOUCHED)
        if found is UNTOUCHED:
            for table in reversed(self.tables):
                row = table.row_of(coords)
                if row >= 0:
                    return table.ref(row)
            if self.kept is not None and not is_kept(coords, self.kept):
                return None
        return found

    def set(self, coords: Coords, ref: ChunkRef | None) -> None:
        """Write one chunk, or delete it (None)."""
        self.singles[coords] = ref

    def set_many(self, table: ChunkTable) -> None:
        """Write many chunks at once."""
        if not len(table):
            return
        for coords in [coords for coords in self.singles if table.row_of(coords) >= 0]:
            del self.singles[coords]
        self.tables.append(table)

    def merge(self, newer: ChunkEdits) -> None:
        """Apply the edits of `newer` on top of these."""
        if newer.kept is not None:
            self.cut_off(newer.kept)
        for table in newer.tables:
            self.set_many(table)
        self.singles.update(newer.singles)

    def copy(self) -> ChunkEdits:
        """An independent copy; the references themselves are shared."""
        return ChunkEdits(self.ndim, dict(self.singles), list(self.tables), self.path, self.kept)

    def cut_off(self, kept: Coords) -> None:
        """Delete every chunk, of the snapshot or written since, that does not lie below the corner `kept`."""
        for coords in [coords for coords in self.singles if not is_kept(coords, kept)]:
            self.singles[coords] = None
        tables = []
        for table in self.tables:
            inside = _below(table, kept)
            if len(inside) < len(table):
                outside = (tuple(coords) for coords in table.coords.tolist() if not is_kept(tuple(coords), kept))
                self.singles.update(dict.fromkeys(outside))
            if len(inside):
                tables.append(inside)
        self.tables = tables
        if self.kept is not None:
            kept = NOTHING if 0 in (*self.kept, *kept) else tuple(map(min, self.kept, kept))
        self.kept = kept

    def below(self, table: ChunkTable) -> ChunkTable:
        """The chunks of the snapshot in `table` that are left."""
        return table if self.kept is None else _below(table, self.kept)

    def fold(self) -> tuple[ChunkTable, npt.NDArray[np.uint32]]:
        """All that was written as one table, and the coordinates that were deleted."""
        singles = dict(self.singles)  # others may go on writing
        written = {coords: ref for coords, ref in singles.items() if ref is not None}
        deleted = [coords for coords, ref in singles.items() if ref is None]
        gone = np.array(deleted, np.uint32).reshape(len(deleted), self.ndim)
        table = ChunkTable.from_refs(written, self.ndim)
        if self.tables:
            bulk = self.tables[0] if len(self.tables) == 1 else ChunkTable.concat(self.tables)
            table = bulk.overlay(table, gone if deleted else None)
        return table, gone

    def coords(self) -> npt.NDArray[np.uint32]:
        """The coordinates of every chunk that was edited, sorted."""
        if not self.tables:
            coords = sorted(self.singles)
            return np.array(coords, np.uint32).reshape(len(coords), self.ndim)
        table, deleted = self.fold()
        if not len(deleted):
            return table.coords
        both = np.concatenate([table.coords, deleted])
        return np.unique(both, axis=0) if self.ndim else both[:1]


@dataclass(slots=True)
class ChangeSet:
    """The uncommitted changes of one session, relative to its snapshot.

    Attributes
    ----------
    new_nodes : dict of path to Node
    updated : dict of node id to Node
        Nodes of the snapshot under new metadata.
    deleted : dict of path to DeletedNode
    chunks : dict of node id to ChunkEdits
    moves : list of Move
        In the order in which they were made; a session moves or edits, never both.
    settled : bool
        Whether a rebase found all that was changed to be done already, or dropped it as its solver said. Committing that
        is no mistake, although nothing is left to write.
    """

    new_nodes: dict[str, Node] = field(default_factory=dict)
    updated: dict[bytes, Node] = field(default_factory=dict)
    deleted: dict[str, DeletedNode] = field(default_factory=dict)
    chunks: dict[bytes, ChunkEdits] = field(default_factory=dict)
    moves: list[Move] = field(default_factory=list)
    settled: bool = False

    def __bool__(self) -> bool:
        return bool(
            self.new_nodes
            or self.updated
            or self.deleted
            or self.moves
            or any(map(bool, list(self.chunks.values())))
            or self.settled
        )

    def add_node(self, node: Node) -> None:
        """Create a node where none is."""
        self.new_nodes[node.path] = node

    def update_node(self, node: Node, former: Node) -> None:
        """Give a node new metadata; `node` has the id and path of the existing one, which is `former` until now.

        Chunks that no longer fit into an array are gone, whatever becomes of it later: those beyond its new grid, and
        all of them when the number of dimensions is another.
        """
        if node.path in self.new_nodes:
            self.new_nodes[node.path] = node
        else:
            self.updated[node.id] = node
        if len(node.shape) != len(former.shape):
            self.chunks[node.id] = ChunkEdits(len(node.shape), path=node.path, kept=NOTHING)
        elif any(new.chunks < old.chunks for new, old in zip(node.shape, former.shape, strict=True)):
            edits = self.chunks.get(node.id)
            if edits is None:
                edits = self.chunks[node.id] = ChunkEdits(len(node.shape), path=node.path)
            edits.cut_off(tuple(dimension.chunks for dimension in node.shape))

    def delete_nodes(self, nodes: Iterable[tuple[str, bytes, bool]]) -> None:
        """Delete nodes, given as path, id and whether it is an array, with all that was changed in them."""
        for path, node_id, is_array in nodes:
            self.chunks.pop(node_id, None)
            self.updated.pop(node_id, None)
            if self.new_nodes.pop(path, None) is None:
                self.deleted[path] = DeletedNode(node_id, is_array)

    def edits(self, node: Node) -> ChunkEdits:
        """The chunk edits of an array, to be added to."""
        found = self.chunks.get(node.id)
        if found is None or (found.ndim != len(node.shape) and not found):  # empty ones may outlive a change of rank
            found = self.chunks[node.id] = ChunkEdits(len(node.shape), path=node.path)
        return found

    def copy(self) -> ChangeSet:
        """An independent copy; values inside are shared, being immutable."""
        return ChangeSet(
            dict(self.new_nodes),
            dict(self.updated),
            dict(self.deleted),
            {node_id: edits.copy() for node_id, edits in self.chunks.items()},
            list(self.moves),
            self.settled,
        )
