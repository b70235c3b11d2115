"""Merging the changes of forks into one change set.

Workers write in forks of one session and hand them back; what they changed is folded together here. Three sides are
compared: what the fork *saw*, which is the snapshot it is based on; what it made of that; and what the session has *now*.
Where the session still has what the fork saw, the fork's change applies. Where it has something else, both changed it, and
one of them would be lost. Then either the later one stands, and the caller is told (`Overlaps`), or the changes cannot be
combined, which is an error.

Only what both sides may have changed is looked at in the snapshots. What is needed and not there yet is asked for by
raising `NotSeen`, before anything is changed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from icechunk.change_set import UNTOUCHED, ChangeSet, ChunkEdits, Coords, is_kept
from icechunk.conflicts import rows_in
from icechunk.errors import ErrorKind, SessionStateError
from icechunk.format.chunk_keys import joint_keys
from icechunk.format.chunk_ref import ChunkRef
from icechunk.format.chunk_table import ChunkTable
from icechunk.format.node_path import ancestors
from icechunk.format.snapshot import Node, Snapshot
from icechunk.node_view import NodeView
from icechunk.zarr_metadata import encoding


@dataclass(slots=True)
class Overlaps:
    """Writes that were lost to others: chunks by array path, and nodes whose metadata was replaced.

    `chunks` were written by both sides, `cut` are those that one side wrote where the other made the array smaller.
    """

    chunks: dict[str, int] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    metadata: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.chunks or self.cut or self.metadata)

    def __str__(self) -> str:
        parts = [f"{count} chunks of {path}" for path, count in sorted(self.chunks.items())]
        parts += [f"{count} chunks of {path} that its new shape cuts off" for path, count in sorted(self.cut.items())]
        parts += [f"the metadata of {path}" for path in sorted(self.metadata)]
        return ", ".join(parts)


class NotSeen(Exception):
    """Something of a snapshot has to be fetched first: the snapshot, or the chunk references that it has of an array."""

    def __init__(self, snapshot_id: bytes, node: Node | None = None) -> None:
        self.snapshot_id = snapshot_id
        self.node = node


@dataclass(slots=True)
class Fetched:
    """What was fetched of snapshots so far."""

    snapshots: dict[bytes, Snapshot] = field(default_factory=dict)
    tables: dict[tuple[bytes, bytes], ChunkTable] = field(default_factory=dict)

    def table(self, snapshot_id: bytes, node: Node) -> ChunkTable:
        """The chunk references of an array in a snapshot."""
        if not node.manifests:
            return ChunkTable.empty(len(node.shape))
        try:
            return self.tables[snapshot_id, node.id]
        except KeyError:
            raise NotSeen(snapshot_id, node) from None


class Fork(NamedTuple):
    """What a fork brings.

    `snapshot_id` is what the fork saw, `origin` the snapshot of the session it was forked from; the two differ by what
    was uncommitted there. `handed_over` are the nodes, by path, as the fork gave them when it was merged before. For
    `first_chunks` and `since` see `Workspace`.
    """

    snapshot_id: bytes
    changes: ChangeSet
    origin: bytes | None
    handed_over: dict[str, Node]
    first_chunks: list[bytes]
    since: int | None


def merge_changes(view: NodeView, fork: Fork, fetched: Fetched, *, shared: bool = False) -> Overlaps:
    """Apply the changes of `fork` on top of those that `view` shows, in place; returns what was lost by that.

    `shared` says that what is different in the snapshots of both was not committed by others: the session is a fork too.

    Raises, before anything is changed, `NotSeen` when more has to be fetched, and `SessionStateError` (merge-failed) when
    a node was modified on one side and deleted, replaced or given another encoding on the other, when both made different
    nodes at one path, or when others committed what the fork changed too.
    """
    return _Merge(view, fork, fetched, shared).run()


class _Merge:
    """One merge: everything is checked first, then applied."""

    def __init__(self, view: NodeView, fork: Fork, fetched: Fetched, shared: bool) -> None:
        self.view, self.into = view, view.change_set
        self.fork, self.changes, self.fetched = fork, fork.changes, fetched
        self.overlaps = Overlaps()
        self.inside: dict[bytes, ChunkEdits] = {}
        """What is merged in the place of the fork's edits of an array, where some of those have no place."""
        base = view.snapshot.id
        # otherwise the session was rebased since, or is another one
        self.is_same_base = base in (fork.snapshot_id, fork.origin)
        self.is_shared = shared or self.is_same_base

    def run(self) -> Overlaps:
        same = self._same_nodes()
        documents = self._documents(same)
        self._check_edited(same)
        gone = self._deleted()
        self._check_places(gone, same)
        for node in documents:
            self._check_document(node)
        for node_id, edits in self.changes.chunks.items():
            node_id = same[node_id].id if node_id in same else node_id
            self._check_chunks(node_id, edits, is_reshaped=node_id in {node.id for node in documents})
        self._apply(gone, same, documents)
        return self.overlaps

    # --- what the fork saw --------------------------------------------------------------------------------------------

    def _seen(self, path: str) -> Node | None:
        """The node at `path` that the fork saw."""
        try:
            return self.fetched.snapshots[self.fork.snapshot_id].find(path)
        except KeyError:
            raise NotSeen(self.fork.snapshot_id) from None

    def _seen_array(self, node_id: bytes, path: str) -> Node | None:
        new = self.changes.new_nodes.get(path)
        if new is not None and new.id == node_id:
            return None
        seen = self._seen(path)
        return seen if seen is not None and seen.id == node_id else None

    def _seen_chunk(self, node_id: bytes, path: str, coords: Coords) -> ChunkRef | None:
        return self._table(self.fork.snapshot_id, self._seen_array(node_id, path), len(coords)).find(coords)

    def _may_differ(self, node: Node) -> bool:
        """Whether the session may have a node under another document than the fork saw."""
        return not self.is_same_base or node.id in self.into.updated or node.path in self.into.new_nodes

    def _document_changed(self, present: Node) -> bool:
        """Whether the session has a node under another document than the fork saw, or handed over itself."""
        if not self._may_differ(present):
            return False
        given = self.fork.handed_over.get(present.path)
        if given is not None and given.metadata == present.metadata:
            return False
        seen = self._seen_array(present.id, present.path)
        return seen is None or seen.metadata != present.metadata

    def _own_edits(self, node_id: bytes, path: str) -> Iterator[Coords]:
        """The chunks of an array that the session wrote or deleted, and not yet when the fork was made."""
        mine = self.into.chunks.get(node_id)
        if not mine:
            return
        written, deleted = mine.fold()
        for coords, ref in written.items():
            if self._seen_chunk(node_id, path, coords) != ref:
                yield coords
        for coords in map(tuple, deleted.tolist()):
            if self._seen_chunk(node_id, path, coords) is not None:
                yield coords

    def _committed(self, node: Node, places: Iterable[Coords] | None) -> Iterator[Coords]:
        """The chunks, of those at `places` or of all, that the session has not changed and yet otherwise than the fork saw.

        Others committed them; or the fork was made of another one, which has not been merged.
        """
        if self.is_same_base:
            return
        present = self._in_snapshot(node)
        seen = self._seen_array(node.id, node.path)
        if present is not None and seen is not None and seen.manifests == present.manifests:
            return
        now = self._table(self.view.snapshot.id, present, len(node.shape))
        then = self._table(self.fork.snapshot_id, seen, len(node.shape))
        mine = self.into.chunks.get(node.id)
        for coords in {coords for table in (now, then) for coords, _ in table.items()} if places is None else places:
            if mine is not None and mine.find(coords) is not UNTOUCHED:
                continue
            if now.find(coords) != then.find(coords):
                yield coords

    def _table(self, snapshot_id: bytes, node: Node | None, ndim: int) -> ChunkTable:
        """The chunk references that a snapshot has of an array of `ndim` dimensions; of another rank none mean the same."""
        if node is None or len(node.shape) != ndim:
            return ChunkTable.empty(ndim)
        return self.fetched.table(snapshot_id, node)

    def _in_snapshot(self, node: Node) -> Node | None:
        """The node as the session's snapshot has it."""
        found = self.view.snapshot.find(node.path)
        return found if found is not None and found.id == node.id else None

    def _changed_chunks(self, present: Node) -> Iterator[Coords]:
        """The chunks of a node of the session that are not what the fork saw."""
        yield from self._own_edits(present.id, present.path)
        if present.is_array:
            yield from self._committed(present, None)

    def _present_chunk(self, present: Node, coords: Coords) -> ChunkRef | None:
        """What the session has at `coords`."""
        edits = self.into.chunks.get(present.id)
        found = UNTOUCHED if edits is None else edits.find(coords)
        if found is not UNTOUCHED:
            return found
        return self._table(self.view.snapshot.id, self._in_snapshot(present), len(coords)).find(coords)

    # --- nodes --------------------------------------------------------------------------------------------------------

    def _same_nodes(self) -> dict[bytes, Node]:
        """Nodes that both sides made, alike: from the id in the fork to the one that stays."""
        same: dict[bytes, Node] = {}
        clashes: list[str] = []
        for path, node in self.changes.new_nodes.items():
            present = self.view.find(path)
            replaced = self.changes.deleted.get(path)
            if present is None or (replaced is not None and replaced.id == present.id):
                continue
            is_ours = path in self.into.new_nodes or not present.is_array
            if present.id == node.id or (is_ours and present.metadata == node.metadata):
                same[node.id] = present
            else:
                clashes.append(path)
        if clashes:
            raise SessionStateError(
                f"failed to merge sessions: both created different nodes at {_some(clashes)}; create nodes before you "
                "fork, or in one fork only",
                ErrorKind.MERGE_FAILED,
            )
        return same

    def _documents(self, same: dict[bytes, Node]) -> list[Node]:
        """The nodes of the session that the fork gives another document."""
        brought_before = [
            node for node in self.changes.new_nodes.values() if node.id in same and same[node.id].id == node.id
        ]
        given = self.fork.handed_over
        return [
            node
            for node in (*brought_before, *self.changes.updated.values())
            # what it handed over before, the session has had, and may have changed since
            if node.path not in given or given[node.path].metadata != node.metadata
        ]

    def _check_edited(self, same: dict[bytes, Node]) -> None:
        """Whether everything that the fork modified is still there, and its chunks still mean the same."""
        clashes = []
        for node in self.changes.updated.values():
            present = self.view.find(node.path)
            if present is None or present.id != node.id:
                clashes.append(node.path)
        made = {node.id for node in self.changes.new_nodes.values()}
        for node_id, edits in self.changes.chunks.items():
            if not edits or node_id in made:
                continue
            present = self.view.find(edits.path)
            if present is None or present.id != node_id:
                clashes.append(edits.path)
            elif node_id not in self.changes.updated and self._may_differ(present):
                seen = self._seen_array(node_id, edits.path)
                if seen is None or encoding(seen) != encoding(present):
                    clashes.append(edits.path)
        _refuse(clashes)

    def _deleted(self) -> list[tuple[str, bytes, bool]]:
        """The nodes that the fork deleted and that are still there, by path, id and whether they are arrays."""
        gone: list[tuple[str, bytes, bool]] = []
        clashes = []
        for path, node in self.changes.deleted.items():
            present = self.view.find(path)
            if present is None or present.id != node.id:
                continue
            gone.append((path, node.id, node.is_array))
            if self._document_changed(present) or any(True for _ in self._changed_chunks(present)):
                clashes.append(path)
        _refuse(clashes)
        return gone

    def _check_places(self, gone: Collection[tuple[str, bytes, bool]], same: dict[bytes, Node]) -> None:
        """Whether every node will be in a group: those that the fork made, and those that the session has."""
        clashes = []
        left = {path for path, _, _ in gone}
        made = self.changes.new_nodes
        for path, node in made.items():
            if node.id not in same and not all(
                above in made or self._is_place(above, above in left) for above in ancestors(path)
            ):
                clashes.append(path)
        closed = {path for path in left if path not in made}
        closed |= {path for path, node in made.items() if node.is_array and node.id not in same}
        others = list(self.into.new_nodes)
        if closed and not self.is_same_base:
            others += [path for top in closed for path in self.view.snapshot.subtree_paths(top)]
        for path in others:
            if path not in left and path not in made and not closed.isdisjoint(ancestors(path)):
                present = self.view.find(path)
                if present is not None and self._seen_array(present.id, path) is None:
                    clashes.append(path)
        _refuse(clashes)

    def _is_place(self, path: str, goes: bool) -> bool:
        """Whether nodes that the fork made below `path` may be there, as they could where it made them."""
        present = None if goes else self.view.find(path)
        if present is not None and not present.is_array:
            return True
        if self.is_same_base and not goes and path not in self.into.deleted and path not in self.into.new_nodes:
            return True  # nothing happened there
        seen = None if path in self.changes.deleted else self._seen(path)
        if present is None:
            return seen is None
        return seen is not None and seen.is_array

    # --- documents and chunks -----------------------------------------------------------------------------------------

    def _check_document(self, node: Node) -> None:
        """What the fork's document of a node of the session hides, and whether the session's chunks can be under it."""
        present = self.view.find(node.path)
        assert present is not None
        if present.metadata != node.metadata and self._document_changed(present):
            if not self.is_shared and node.id not in self.into.updated and node.path not in self.into.new_nodes:
                _refuse_committed([node.path])
            self.overlaps.metadata.append(node.path)
        if not node.is_array:
            return
        if encoding(present) != encoding(node):
            if any(True for _ in self._changed_chunks(present)):
                _refuse([node.path])
            return
        edits = self.changes.chunks.get(node.id)
        grid = tuple(dimension.chunks for dimension in node.shape)
        kept = None if edits is None else edits.kept
        if kept is not None or any(top < now.chunks for top, now in zip(grid, present.shape, strict=True)):
            changed = set(self._changed_chunks(present))
            lost = [
                coords
                for coords in changed
                if not (is_kept(coords, grid) and is_kept(coords, kept))
                and self._present_chunk(present, coords) is not None
            ]
            self._count(self.overlaps.cut, node.path, len(lost))

    def _check_chunks(self, node_id: bytes, edits: ChunkEdits, *, is_reshaped: bool) -> None:
        """What of the session's chunks the fork's hide, and which of the fork's have no place in the session's array."""
        path = edits.path
        present = self.view.find(path)
        if present is None or present.id != node_id or len(present.shape) != edits.ndim:
            return  # it is new, or becomes another array
        hidden = [
            coords
            for coords, ours, theirs in _both(self.into.chunks.get(node_id), edits)
            if ours != theirs and ours != self._seen_chunk(node_id, path, coords)
        ]
        self._count(self.overlaps.chunks, path, len(hidden))
        if not self.is_same_base and path not in self.changes.new_nodes:
            committed = [
                coords
                for coords in self._committed(present, map(tuple, edits.coords().tolist()))
                if self._present_chunk(present, coords) != edits.find(coords)
            ]
            if committed and not self.is_shared:
                _refuse_committed([path])
            self._count(self.overlaps.chunks, path, len(committed))
        self._check_inside(present, edits, is_reshaped=is_reshaped)

    def _check_inside(self, present: Node, edits: ChunkEdits, *, is_reshaped: bool) -> None:
        """Leave out what the fork wrote where the array has no place for it, or had none for the fork."""
        meant = present
        if is_reshaped:
            meant = next(node for node in self._given(present.path) if node.id == present.id)
        elif self._may_differ(present):
            meant = self.changes.new_nodes.get(present.path) or self._seen_array(present.id, present.path) or present
        theirs = tuple(dimension.chunks for dimension in meant.shape)
        ours = theirs if is_reshaped else tuple(dimension.chunks for dimension in present.shape)
        if ours == theirs and 0 not in ours:
            return
        visible = _inside(edits, theirs)
        inside = self.inside[present.id] = _inside(visible, ours)
        self._count(self.overlaps.cut, present.path, _count_written(visible) - _count_written(inside))

    def _given(self, path: str) -> Iterator[Node]:
        """The documents that the fork gives a node."""
        if path in self.changes.new_nodes:
            yield self.changes.new_nodes[path]
        yield from (node for node in self.changes.updated.values() if node.path == path)

    @staticmethod
    def _count(found: dict[str, int], path: str, count: int) -> None:
        if count:
            found[path] = found.get(path, 0) + count

    # --- doing it -----------------------------------------------------------------------------------------------------

    def _apply(self, gone: list[tuple[str, bytes, bool]], same: dict[bytes, Node], documents: list[Node]) -> None:
        into = self.into
        into.delete_nodes(gone)
        for node in self.changes.new_nodes.values():
            if node.id not in same:
                into.add_node(node)
        for node in documents:
            present = self.view.find(node.path)
            assert present is not None
            # the manifests of the fork are those of the snapshot that was made for it
            into.update_node(replace(node, manifests=present.manifests), present)
        for node_id, edits in self.changes.chunks.items():
            node_id = same[node_id].id if node_id in same else node_id
            mine = into.chunks.setdefault(node_id, ChunkEdits(edits.ndim, path=edits.path))
            mine.merge(self.inside.get(node_id, edits))


def _both(mine: ChunkEdits | None, newer: ChunkEdits) -> Iterator[tuple[Coords, ChunkRef | None, ChunkRef | None]]:
    """The chunks in which both sides have a say, with what each says."""
    if mine is None or (not mine and mine.kept is None):
        return
    places: Iterable[Coords] = newer.singles
    if newer.tables and mine.kept is not None:
        places = map(tuple, newer.coords().tolist())
    elif newer.tables:
        places = {*newer.singles, *(coords for table in newer.tables for coords in _edited(mine, table))}
    for coords in places:
        ours, theirs = mine.find(coords), newer.find(coords)
        if ours is not UNTOUCHED and theirs is not UNTOUCHED:
            yield coords, ours, theirs


def _edited(edits: ChunkEdits, table: ChunkTable) -> Iterator[Coords]:
    """The coordinates of `table` at which there are edits."""
    yield from (coords for coords in edits.singles if table.row_of(coords) >= 0)
    for other in edits.tables:
        pairs = zip(other.extents(), table.extents(), strict=True)
        if all(low < stop and start < high for (start, stop), (low, high) in pairs):
            keys, other_keys = joint_keys(table.coords, other.coords)
            yield from map(tuple, table.coords[rows_in(keys, other_keys)].tolist())


def _inside(edits: ChunkEdits, grid: Coords) -> ChunkEdits:
    """The edits that lie in a grid of so many chunks."""
    singles = {coords: ref for coords, ref in edits.singles.items() if is_kept(coords, grid)}
    box = [(0, 0 if 0 in grid else count) for count in grid]
    tables = [table.within(box) for table in edits.tables]
    return ChunkEdits(edits.ndim, singles, [table for table in tables if len(table)], edits.path, edits.kept)


def _count_written(edits: ChunkEdits) -> int:
    return len(edits.fold()[0])


def _some(paths: Iterable[str]) -> str:
    return ", ".join(sorted(set(paths)))


def _refuse(clashes: Collection[str]) -> None:
    if clashes:
        raise SessionStateError(
            f"failed to merge sessions: Arrays were both deleted and modified: {_some(clashes)}; delete or replace them "
            "before you fork, or after the merge, and merge a fork of a fork into that fork first",
            ErrorKind.MERGE_FAILED,
        )


def _refuse_committed(clashes: Collection[str]) -> None:
    raise SessionStateError(
        f"failed to merge sessions: the fork changed what others committed since it was made, in {_some(clashes)}, or builds "
        "on a fork that was not merged; merge it into a session on the snapshot that it was made of and rebase that one with "
        "a solver, or merge a fork of a fork into that fork first",
        ErrorKind.MERGE_FAILED,
    )
