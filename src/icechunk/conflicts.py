"""Conflicts: what contradicts between the changes of a session and a commit that was made meanwhile.

A session that finds its branch moved is rebased: for each commit it missed, oldest first, `detect` lists every
contradiction between that commit's transaction log and the session's change set, and a solver chooses for each whose
version shall stand. `resolution` turns the choices into a change set that is right on top of that commit.

Nodes are compared by id, so a node that was deleted and made again under the same path is another node. Chunks are
compared by column: a million against a million are two sorts of integers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from icechunk.change_set import ChangeSet, ChunkEdits
from icechunk.display import Card, Plain, Row, Shown
from icechunk.format.chunk_keys import joint_keys
from icechunk.format.node_path import ancestors, is_within, parent
from icechunk.format.snapshot import Node
from icechunk.format.transaction_log import Move, TransactionLog
from icechunk.node_view import path_after, path_before


class ConflictType(Enum):
    """The ways in which two sets of changes can contradict each other; `str` is a sentence, `int` a stable number."""

    NewNodeConflictsWithExistingNode = 1
    """Both sides made a node at this path."""
    NewNodeInInvalidGroup = 2
    """The session made nodes below this path, where the branch now has an array."""
    ZarrMetadataDoubleUpdate = 3
    """Both sides changed the metadata of this node."""
    ZarrMetadataUpdateOfDeletedArray = 4
    """The session changed the metadata of an array that the branch deleted."""
    ZarrMetadataUpdateOfDeletedGroup = 5
    """The session changed the metadata of a group that the branch deleted."""
    ChunkDoubleUpdate = 6
    """Both sides wrote or deleted the same chunks of this array."""
    ChunksUpdatedInDeletedArray = 7
    """The session changed chunks of an array that the branch deleted."""
    ChunksUpdatedInUpdatedArray = 8
    """The session changed chunks of an array whose metadata the branch changed."""
    DeleteOfUpdatedArray = 9
    """The session deleted an array whose metadata or chunks the branch changed."""
    DeleteOfUpdatedGroup = 10
    """The session deleted a group whose metadata the branch changed."""
    MoveOperationCannotBeRebased = 11
    """The branch moved nodes, or took away what the session moved."""

    def __int__(self) -> int:
        return int(self.value)

    def __repr__(self) -> str:
        return self.name

    def __str__(self) -> str:
        words = "".join(f" {char.lower()}" if char.isupper() else char for char in self.name)
        return words[1:].capitalize()


class VersionSelection(Enum):
    """Whose version of a conflict stands."""

    Fail = 0
    """Nobody's: the rebase fails."""
    UseOurs = 1
    """That of the session which is being rebased."""
    UseTheirs = 2
    """That of the branch."""

    def __int__(self) -> int:
        return int(self.value)

    def __repr__(self) -> str:
        return str(self)


class Conflict(Shown):
    """One contradiction between a session and its branch.

    Attributes
    ----------
    conflict_type : ConflictType
    path : str
        The absolute path of the node, empty where the conflict is about no single node.
    conflicted_chunks : list of list of int, or None
        The coordinates of the chunks that both sides changed, for `ConflictType.ChunkDoubleUpdate`.
    """

    __slots__ = ("_chunks", "_node_id", "_path", "_type")

    def __init__(
        self,
        conflict_type: ConflictType,
        path: str,
        conflicted_chunks: Sequence[Sequence[int]] | npt.NDArray[np.uint32] | None = None,
        *,
        _node_id: bytes | None = None,
    ) -> None:
        self._type = conflict_type
        self._path = path
        self._chunks = conflicted_chunks
        self._node_id = _node_id

    @property
    def conflict_type(self) -> ConflictType:
        """What kind of contradiction it is."""
        return self._type

    @property
    def path(self) -> str:
        """The path of the node."""
        return self._path

    @property
    def conflicted_chunks(self) -> list[list[int]] | None:
        """The chunks that both sides changed, in order; None unless that is the conflict."""
        if self._chunks is None:
            return None
        if isinstance(self._chunks, np.ndarray):
            rows: list[list[int]] = self._chunks.tolist()
            return rows
        return [list(coords) for coords in self._chunks]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Conflict):
            return NotImplemented
        return (self._type, self._path, self.conflicted_chunks) == (other._type, other._path, other.conflicted_chunks)

    def __hash__(self) -> int:
        return hash((self._type, self._path))

    def __str__(self) -> str:
        place = f" at {self._path}" if self._path else ""
        return f"{self._type}{place}{self._some_chunks()}"

    def _some_chunks(self) -> str:
        if self._chunks is None:
            return ""
        shown = [str(list(map(int, coords))) for coords in self._chunks[:5]]
        more = len(self._chunks) - len(shown)
        return ": " + ", ".join(shown) + (f" and {more} more" if more > 0 else "")

    def _card(self) -> Card:
        rows = [
            Row("conflict_type", Plain(self._type.name)),
            Row("path", Plain(self._path)),
            Row("conflicted_chunks", self.conflicted_chunks),
        ]
        return Card("icechunk.conflicts.Conflict", rows)

    def __reduce__(self) -> tuple[Any, ...]:
        return Conflict, (self._type, self._path, self.conflicted_chunks)


# --- solvers ----------------------------------------------------------------------------------------------------------


class ConflictSolver(ABC):
    """Chooses, conflict by conflict, whose version stands when a session is rebased.

    Subclass it and implement `resolve` for rules of your own:

        class TheirMetadata(icechunk.ConflictSolver):
            def resolve(self, conflict):
                if conflict.conflict_type is icechunk.ConflictType.ZarrMetadataDoubleUpdate:
                    return icechunk.VersionSelection.UseTheirs
                return icechunk.VersionSelection.Fail

    What the choices mean:

    ================================  =============================  =================================================
    conflict                          UseOurs                        UseTheirs
    ================================  =============================  =================================================
    NewNodeConflictsWithExistingNode  our node replaces theirs (an   our node is dropped with its chunks; nodes of
                                      array takes no group's place)  ours below it stay
    NewNodeInInvalidGroup             only if a group of ours        our nodes below that path are dropped
                                      replaces their array
    ZarrMetadataDoubleUpdate          our document stands            our document is dropped
    ZarrMetadataUpdateOfDeleted...    not possible                   our document is dropped
    ChunkDoubleUpdate                 our chunks stand               our changes to those chunks are dropped
    ChunksUpdatedInDeletedArray       not possible                   our changes to its chunks are dropped
    ChunksUpdatedInUpdatedArray       our chunks stand, where their  our changes to its chunks are dropped
                                      document changed neither
                                      chunk grid, type nor codecs
    DeleteOfUpdated...                it is deleted                  it stays, with the groups above it
    MoveOperationCannotBeRebased      not possible                   not possible
    ================================  =============================  =================================================

    A choice that is not possible counts as `Fail`. If any conflict with a commit fails, nothing is changed and all
    conflicts with that commit are reported.
    """

    @abstractmethod
    def resolve(self, conflict: Conflict) -> VersionSelection:
        """Whose version of `conflict` stands."""


class ConflictDetector(ConflictSolver):
    """Settles nothing: any conflict fails the rebase, which then lists them all."""

    def resolve(self, conflict: Conflict) -> VersionSelection:
        """Always `VersionSelection.Fail`."""
        return VersionSelection.Fail

    def __repr__(self) -> str:
        return "ConflictDetector()"


class BasicConflictSolver(ConflictSolver):
    """Settles chunks that both sides changed, and deletions of what the other side changed.

    Conflicts about metadata and about new, deleted or moved nodes fail.

    Parameters
    ----------
    on_chunk_conflict
        Whose chunks stand where both sides changed the same ones.
    fail_on_delete_of_updated_array, fail_on_delete_of_updated_group
        Whether deleting a node that the branch changed fails; by default the deletion stands.
    """

    def __init__(
        self,
        *,
        on_chunk_conflict: VersionSelection = VersionSelection.UseOurs,
        fail_on_delete_of_updated_array: bool = False,
        fail_on_delete_of_updated_group: bool = False,
    ) -> None:
        if not isinstance(on_chunk_conflict, VersionSelection):
            raise TypeError(f"on_chunk_conflict is a VersionSelection, got {on_chunk_conflict!r}")
        ours = VersionSelection.UseOurs
        fail = VersionSelection.Fail
        self._choices = {
            ConflictType.ChunkDoubleUpdate: on_chunk_conflict,
            ConflictType.DeleteOfUpdatedArray: fail if fail_on_delete_of_updated_array else ours,
            ConflictType.DeleteOfUpdatedGroup: fail if fail_on_delete_of_updated_group else ours,
        }

    def resolve(self, conflict: Conflict) -> VersionSelection:
        """As the arguments of the constructor say."""
        return self._choices.get(conflict.conflict_type, VersionSelection.Fail)

    def __repr__(self) -> str:
        chunks, array, group = self._choices.values()
        fail = VersionSelection.Fail
        return (
            f"BasicConflictSolver(on_chunk_conflict={chunks}, "
            f"fail_on_delete_of_updated_array={array is fail}, fail_on_delete_of_updated_group={group is fail})"
        )


# --- detection --------------------------------------------------------------------------------------------------------


class Hierarchy(Protocol):
    """The nodes of a snapshot."""

    def find(self, path: str) -> Node | None:
        """The node at `path`."""
        ...

    def find_id(self, node_id: bytes) -> Node | None:
        """The node of that id."""
        ...

    def subtree_paths(self, path: str) -> list[str]:
        """The path itself, if there is a node, and those below it."""
        ...


def detect(log: TransactionLog, theirs: Hierarchy, ours: ChangeSet) -> list[Conflict]:
    """Everything in which the changes `ours` contradict a commit.

    `log` is the commit's transaction log and `theirs` the hierarchy after it. Our changes are relative to the commit
    before it, and free of conflicts with everything up to there.
    """
    if log.moved_nodes or _moved_without_saying(log, theirs):
        return [Conflict(ConflictType.MoveOperationCannotBeRebased, "")]
    return [
        *_in_order(_new_nodes_on_theirs(log, theirs, ours)),
        *_in_order(_new_nodes_below_their_arrays(log, theirs, ours)),
        *_metadata_conflicts(log, ours),
        *_chunk_conflicts(log, ours),
        *_delete_conflicts(log, theirs, ours),
        *_move_conflicts(log, theirs, ours),
    ]


def _moved_without_saying(log: TransactionLog, theirs: Hierarchy) -> bool:
    """Whether they moved nodes where the format has no moves: then a moved node is both deleted and new."""
    both = (log.new_arrays & log.deleted_arrays) | (log.new_groups & log.deleted_groups)
    return any(theirs.find_id(node_id) is not None for node_id in both)


def _in_order(conflicts: Iterable[Conflict]) -> list[Conflict]:
    return sorted(conflicts, key=lambda conflict: conflict.path)


def _new_nodes_on_theirs(log: TransactionLog, theirs: Hierarchy, ours: ChangeSet) -> Iterator[Conflict]:
    if not (log.new_groups or log.new_arrays):
        return
    for path, node in ours.new_nodes.items():
        existing = theirs.find(path)
        if existing is None:
            continue
        replaced = ours.deleted.get(path)
        if replaced is None or replaced.id != existing.id:
            yield Conflict(ConflictType.NewNodeConflictsWithExistingNode, path, _node_id=node.id)


def _new_nodes_below_their_arrays(log: TransactionLog, theirs: Hierarchy, ours: ChangeSet) -> Iterator[Conflict]:
    if not log.new_arrays:
        return
    for path in {above for new in ours.new_nodes for above in ancestors(new)}:
        existing = theirs.find(path)
        if existing is not None and existing.id in log.new_arrays:
            yield Conflict(ConflictType.NewNodeInInvalidGroup, path)


def _metadata_conflicts(log: TransactionLog, ours: ChangeSet) -> Iterator[Conflict]:
    if not ours.updated:
        return
    for conflict_type, changed in (
        (ConflictType.ZarrMetadataDoubleUpdate, log.updated_arrays | log.updated_groups),
        (ConflictType.ZarrMetadataUpdateOfDeletedArray, log.deleted_arrays),
        (ConflictType.ZarrMetadataUpdateOfDeletedGroup, log.deleted_groups),
    ):
        both = changed & ours.updated.keys()
        yield from _in_order(Conflict(conflict_type, ours.updated[key].path, _node_id=key) for key in both)


def _chunk_conflicts(log: TransactionLog, ours: ChangeSet) -> Iterator[Conflict]:
    if not ours.chunks:
        return
    for conflict_type, changed in (
        (ConflictType.ChunksUpdatedInDeletedArray, log.deleted_arrays),
        (ConflictType.ChunksUpdatedInUpdatedArray, log.updated_arrays),
    ):
        both = [key for key in changed & ours.chunks.keys() if ours.chunks[key]]
        yield from _in_order(Conflict(conflict_type, ours.chunks[key].path, _node_id=key) for key in both)
    yield from _in_order(_double_chunks(log, ours))


def _double_chunks(log: TransactionLog, ours: ChangeSet) -> Iterator[Conflict]:
    for node_id in log.updated_chunks.keys() & ours.chunks.keys():
        edits = ours.chunks[node_id]
        both = common_coords(edits, log.updated_chunks[node_id])
        if len(both):
            yield Conflict(ConflictType.ChunkDoubleUpdate, edits.path, both, _node_id=node_id)


_FEW = 32
"""Coordinates up to which a set of tuples is faster than columns."""


def common_coords(edits: ChunkEdits, theirs: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """The coordinates of `edits` that are also among `theirs`, sorted."""
    ours = edits.coords()
    if not len(ours) or not len(theirs) or ours.shape[1] != theirs.shape[1]:
        return ours[:0]
    if len(ours) + len(theirs) <= _FEW:
        known = set(map(tuple, theirs.tolist()))
        return ours[[row for row, coords in enumerate(ours.tolist()) if tuple(coords) in known]]
    our_keys, their_keys = joint_keys(ours, theirs)
    return ours[rows_in(our_keys, their_keys)]


def rows_in(keys: npt.NDArray[np.int64], others: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
    """The positions in sorted `keys` of those that occur in `others`, ascending."""
    found = np.zeros(len(keys), bool)
    if len(keys):
        at = np.searchsorted(keys, others)
        np.minimum(at, len(keys) - 1, out=at)
        found[at[keys[at] == others]] = True
    return np.flatnonzero(found)


def _delete_conflicts(log: TransactionLog, theirs: Hierarchy, ours: ChangeSet) -> Iterator[Conflict]:
    """A deleted path counts as changed also when they made and changed another node there."""
    if not ours.deleted:
        return
    renewed = bool(log.new_arrays or log.new_groups)
    changed_arrays = log.updated_arrays | log.updated_chunks.keys()
    found: dict[bool, list[Conflict]] = {True: [], False: []}
    for path, (node_id, is_array) in ours.deleted.items():
        changed = changed_arrays if is_array else log.updated_groups
        if not changed:
            continue
        existing = theirs.find(path) if renewed and node_id not in changed else None
        if node_id in changed or (existing is not None and existing.id in changed):
            kind = ConflictType.DeleteOfUpdatedArray if is_array else ConflictType.DeleteOfUpdatedGroup
            found[is_array].append(Conflict(kind, path, _node_id=node_id))
    yield from _in_order(found[True])
    yield from _in_order(found[False])


def _move_conflicts(log: TransactionLog, theirs: Hierarchy, ours: ChangeSet) -> Iterator[Conflict]:
    """Whether each of our moves is still possible: its source there, its target free and in a group."""
    if not (log.new_groups or log.new_arrays or log.deleted_groups or log.deleted_arrays):
        return
    for count, move in enumerate(ours.moves):
        done = ours.moves[:count]
        source = _find_moved(theirs, done, move.source)
        above = parent(move.target)
        group = _find_moved(theirs, done, above) if above is not None else None
        if source is None or source.id != move.node_id:
            yield Conflict(ConflictType.MoveOperationCannotBeRebased, move.source)
        elif (taken := _taken(theirs, done, move.target)) is not None:
            yield Conflict(ConflictType.NewNodeConflictsWithExistingNode, taken)
        elif group is None:
            yield Conflict(ConflictType.MoveOperationCannotBeRebased, move.target)
        elif group.is_array:
            yield Conflict(ConflictType.NewNodeInInvalidGroup, group.path)
        else:
            continue
        return  # what comes after it depends on it


def _taken(theirs: Hierarchy, moves: Sequence[Move], target: str) -> str | None:
    """The path of the first node at `target`, or below it, once `moves` are made; None where nothing is.

    Nodes can be made without the groups above them, so there may be some below a path at which there is none.
    """
    before = path_before(moves, target)
    stayed = () if before is None else theirs.subtree_paths(before)
    found = (path_after(moves, path) for path in stayed)
    return next((path for path in found if is_within(path, target)), None)


def _find_moved(theirs: Hierarchy, moves: Sequence[Move], path: str) -> Node | None:
    """The node that is at `path` once `moves` are made."""
    before = path_before(moves, path)
    return None if before is None else theirs.find(before)
