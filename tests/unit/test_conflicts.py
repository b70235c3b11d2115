"""Detection of conflicts between two sets of changes, their settlement, and what a rebased change set looks like."""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icechunk.change_set import ChangeSet, ChunkEdits
from icechunk.conflicts import (
    BasicConflictSolver,
    Conflict,
    ConflictDetector,
    ConflictSolver,
    ConflictType,
    VersionSelection,
    detect,
)
from icechunk.errors import RebaseFailedError
from icechunk.format.chunk_ref import Inline
from icechunk.format.chunk_table import ChunkTable
from icechunk.format.node_path import ancestors
from icechunk.format.snapshot import DimensionShape, Node
from icechunk.format.transaction_log import Move, TransactionLog
from icechunk.resolution import Resolution, rebase_changes

T = ConflictType
FAIL, OURS, THEIRS = VersionSelection.Fail, VersionSelection.UseOurs, VersionSelection.UseTheirs


class Tree:
    """Nodes by path: all that conflicts need of a snapshot."""

    def __init__(self, nodes: dict[str, Node]) -> None:
        self.nodes = nodes

    def find(self, path: str) -> Node | None:
        return self.nodes.get(path)

    def find_id(self, node_id: bytes) -> Node | None:
        return next((node for node in self.nodes.values() if node.id == node_id), None)

    def subtree_paths(self, path: str) -> list[str]:
        return [each for each in sorted(self.nodes) if each == path or each.startswith(path + "/")]


_ids = itertools.count(1)


def make(path: str, *, is_array: bool, chunk: int = 1, attributes: int = 0) -> Node:
    document = {"node_type": "array" if is_array else "group", "attributes": {"a": attributes}, "chunk_grid": [chunk]}
    shape = (DimensionShape(9, 9 // chunk, chunk),) if is_array else ()
    return Node(next(_ids).to_bytes(8, "big"), path, is_array, json.dumps(document).encode(), shape, None, ())


class Side:
    """One session: makes edits as a session does."""

    def __init__(self, base: Tree) -> None:
        self.base = base
        self.changes = ChangeSet()

    def find(self, path: str) -> Node | None:
        return after(self.base, self.changes).find(path)

    def existing(self, path: str) -> Node:
        node = self.find(path)
        assert node is not None
        return node

    def group(self, path: str, attributes: int = 0) -> None:
        self.changes.add_node(make(path, is_array=False, attributes=attributes))

    def array(self, path: str, chunk: int = 1) -> None:
        self.changes.add_node(make(path, is_array=True, chunk=chunk))

    def update(self, path: str, attributes: int = 1, chunk: int = 1) -> None:
        node = self.existing(path)
        new = make(path, is_array=node.is_array, chunk=chunk, attributes=attributes)
        self.changes.update_node(
            Node(node.id, path, node.is_array, new.metadata, new.shape, None, node.manifests), node
        )

    def write(self, path: str, *coords: int, value: bytes = b"x") -> None:
        edits = self.changes.edits(self.existing(path))
        for coord in coords:
            edits.set((coord,), Inline(value))

    def write_many(self, path: str, *coords: int, value: bytes = b"x") -> None:
        refs = {(coord,): Inline(value) for coord in coords}
        self.changes.edits(self.existing(path)).set_many(ChunkTable.from_refs(refs, 1))

    def erase(self, path: str, *coords: int) -> None:
        edits = self.changes.edits(self.existing(path))
        for coord in coords:
            edits.set((coord,), None)

    def delete(self, path: str) -> None:
        nodes = after(self.base, self.changes).nodes.values()
        below = [node for node in nodes if node.path == path or path in ancestors(node.path)]
        self.changes.delete_nodes([(node.path, node.id, node.is_array) for node in below])

    def move(self, source: str, target: str) -> None:
        node = self.existing(source)
        self.changes.moves.append(Move(source, target, node.id, node.is_array))


def after(base: Tree, changes: ChangeSet) -> Tree:
    """The hierarchy with the changes applied; fails where they do not fit."""
    nodes = dict(base.nodes)
    for path, gone in changes.deleted.items():
        assert nodes[path].id == gone.id, "deletes a node that is not there"
        del nodes[path]
    for node_id, node in changes.updated.items():
        assert nodes[node.path].id == node_id, "updates a node that is not there"
        nodes[node.path] = node
    for path, node in changes.new_nodes.items():
        assert path not in nodes, f"makes a second node at {path}"
        nodes[path] = node
    ids = {node.id for node in nodes.values()}
    assert len(ids) == len(nodes)
    for node_id, edits in changes.chunks.items():
        assert node_id in ids, "edits chunks of an array that is not there"
        assert nodes[edits.path].id == node_id
    return Tree(nodes)


def log_of(changes: ChangeSet) -> TransactionLog:
    new, deleted, updated = changes.new_nodes.values(), changes.deleted.values(), changes.updated.values()
    return TransactionLog(
        id=bytes(12),
        new_groups=frozenset(node.id for node in new if not node.is_array),
        new_arrays=frozenset(node.id for node in new if node.is_array),
        deleted_groups=frozenset(node.id for node in deleted if not node.is_array),
        deleted_arrays=frozenset(node.id for node in deleted if node.is_array),
        updated_groups=frozenset(node.id for node in updated if not node.is_array),
        updated_arrays=frozenset(node.id for node in updated if node.is_array),
        updated_chunks={node_id: edits.coords() for node_id, edits in changes.chunks.items() if edits},
        moved_nodes=tuple(changes.moves),
    )


def base_tree() -> Tree:
    nodes = [
        make("/", is_array=False),
        make("/g", is_array=False),
        make("/a", is_array=True),
        make("/b", is_array=True),
        make("/g/x", is_array=True),
    ]
    return Tree({node.path: node for node in nodes})


Edit = Callable[[Side], object]


def rebase(theirs: Edit, ours: Edit, solver: ConflictSolver | None = None, base: Tree | None = None) -> Resolution:
    """Both sides edit one tree, then ours is rebased over theirs; a result that succeeds is checked to fit."""
    base = base or base_tree()
    they, we = Side(base), Side(base)
    theirs(they)
    ours(we)
    before = pickle.dumps(we.changes)
    tree = after(base, they.changes)
    result = rebase_changes(we.changes, log_of(they.changes), base, tree, solver or ConflictDetector())
    assert pickle.dumps(we.changes) == before, "the given change set was touched"
    if result.change_set is not None and not we.changes.moves:
        after(tree, result.change_set)
    return result


def steps(*edits: Edit) -> Edit:
    def both(side: Side) -> None:
        for edit in edits:
            edit(side)

    return both


def remake(path: str) -> Edit:
    return steps(lambda s: s.delete(path), lambda s: s.array(path))


STRICT = BasicConflictSolver(fail_on_delete_of_updated_array=True, fail_on_delete_of_updated_group=True)
BASIC = BasicConflictSolver()
OK: list[tuple[ConflictType, str]] = []

MATRIX: list[tuple[str, Edit, Edit, list[tuple[ConflictType, str]], bool, bool]] = [
    # what they did, what we did, conflicts, settled by BasicConflictSolver, settled by it with both fail_on flags
    (
        "same chunk",
        lambda s: s.write("/a", 1),
        lambda s: s.write("/a", 1, 2),
        [(T.ChunkDoubleUpdate, "/a")],
        True,
        True,
    ),
    ("erased chunk", lambda s: s.erase("/a", 1), lambda s: s.erase("/a", 1), [(T.ChunkDoubleUpdate, "/a")], True, True),
    ("other chunk", lambda s: s.write("/a", 1), lambda s: s.write("/a", 2), OK, True, True),
    ("other array", lambda s: s.write("/a", 1), lambda s: s.write("/b", 1), OK, True, True),
    (
        "metadata twice",
        lambda s: s.update("/a"),
        lambda s: s.update("/a", attributes=2),
        [(T.ZarrMetadataDoubleUpdate, "/a")],
        False,
        False,
    ),
    (
        "identical metadata twice",
        lambda s: s.update("/a"),
        lambda s: s.update("/a"),
        [(T.ZarrMetadataDoubleUpdate, "/a")],
        False,
        False,
    ),
    (
        "metadata, chunk",
        lambda s: s.update("/a"),
        lambda s: s.write("/a", 1),
        [(T.ChunksUpdatedInUpdatedArray, "/a")],
        False,
        False,
    ),
    ("chunk, metadata", lambda s: s.write("/a", 1), lambda s: s.update("/a"), OK, True, True),
    (
        "deleted, chunk",
        lambda s: s.delete("/a"),
        lambda s: s.write("/a", 1),
        [(T.ChunksUpdatedInDeletedArray, "/a")],
        False,
        False,
    ),
    (
        "made anew, chunk",
        remake("/a"),
        lambda s: s.write("/a", 1),
        [(T.ChunksUpdatedInDeletedArray, "/a")],
        False,
        False,
    ),
    (
        "chunk, deleted",
        lambda s: s.write("/a", 1),
        lambda s: s.delete("/a"),
        [(T.DeleteOfUpdatedArray, "/a")],
        True,
        False,
    ),
    (
        "metadata, deleted",
        lambda s: s.update("/a"),
        lambda s: s.delete("/a"),
        [(T.DeleteOfUpdatedArray, "/a")],
        True,
        False,
    ),
    (
        "deleted, metadata",
        lambda s: s.delete("/a"),
        lambda s: s.update("/a"),
        [(T.ZarrMetadataUpdateOfDeletedArray, "/a")],
        False,
        False,
    ),
    (
        "group metadata twice",
        lambda s: s.update("/g"),
        lambda s: s.update("/g"),
        [(T.ZarrMetadataDoubleUpdate, "/g")],
        False,
        False,
    ),
    (
        "group metadata, deleted",
        lambda s: s.update("/g"),
        lambda s: s.delete("/g"),
        [(T.DeleteOfUpdatedGroup, "/g")],
        True,
        False,
    ),
    (
        "group deleted, metadata",
        lambda s: s.delete("/g"),
        lambda s: s.update("/g"),
        [(T.ZarrMetadataUpdateOfDeletedGroup, "/g")],
        False,
        False,
    ),
    (
        "new arrays at one path",
        lambda s: s.array("/n"),
        lambda s: s.array("/n"),
        [(T.NewNodeConflictsWithExistingNode, "/n")],
        False,
        False,
    ),
    (
        "new groups at one path",
        lambda s: s.group("/n"),
        lambda s: s.group("/n"),
        [(T.NewNodeConflictsWithExistingNode, "/n")],
        False,
        False,
    ),
    (
        "new array, node below it",
        lambda s: s.array("/n"),
        steps(lambda s: s.group("/n"), lambda s: s.array("/n/m"), lambda s: s.array("/n/o")),
        [(T.NewNodeConflictsWithExistingNode, "/n"), (T.NewNodeInInvalidGroup, "/n")],
        False,
        False,
    ),
    ("both deleted", lambda s: s.delete("/a"), lambda s: s.delete("/a"), OK, True, True),
    ("side by side", lambda s: s.array("/g/m"), lambda s: s.array("/g/n"), OK, True, True),
    ("group deleted, node in it", lambda s: s.delete("/g"), lambda s: s.array("/g/n"), OK, True, True),
    ("node in group, group deleted", lambda s: s.array("/g/n"), lambda s: s.delete("/g"), OK, True, True),
    ("group metadata, node below", lambda s: s.update("/g"), lambda s: s.array("/g/n"), OK, True, True),
    ("made anew, deleted", remake("/a"), lambda s: s.delete("/a"), OK, True, True),
    (
        "made anew with chunks, deleted",
        steps(remake("/a"), lambda s: s.write("/a", 1)),
        lambda s: s.delete("/a"),
        [(T.DeleteOfUpdatedArray, "/a")],
        True,
        False,
    ),
    (
        "both made anew",
        remake("/a"),
        remake("/a"),
        [(T.NewNodeConflictsWithExistingNode, "/a")],
        False,
        False,
    ),
    (
        "chunk, made anew",
        lambda s: s.write("/a", 1),
        remake("/a"),
        [(T.DeleteOfUpdatedArray, "/a")],
        True,
        False,
    ),
    ("deleted, made anew", lambda s: s.delete("/a"), remake("/a"), OK, True, True),
    (
        "group became an array, node below",
        steps(lambda s: s.delete("/g"), lambda s: s.array("/g")),
        lambda s: s.array("/g/deep/n"),
        [(T.NewNodeInInvalidGroup, "/g")],
        False,
        False,
    ),
    (
        "anything, array becomes a group with children",
        lambda s: s.array("/n"),
        steps(lambda s: s.delete("/a"), lambda s: s.group("/a"), lambda s: s.array("/a/y")),
        OK,
        True,
        True,
    ),
    (
        "made and deleted within a session",
        lambda s: s.array("/n"),
        steps(lambda s: s.array("/n"), lambda s: s.delete("/n")),
        OK,
        True,
        True,
    ),
]


@pytest.mark.parametrize(
    ("theirs", "ours", "conflicts", "basic", "strict"),
    [pytest.param(*row[1:], id=row[0]) for row in MATRIX],
)
def test_matrix(theirs: Edit, ours: Edit, conflicts: list[tuple[ConflictType, str]], basic: bool, strict: bool) -> None:
    for solver, settled in [(ConflictDetector(), not conflicts), (BASIC, basic), (STRICT, strict)]:
        result = rebase(theirs, ours, solver)
        assert (result.change_set is not None) is settled
        found = [(conflict.conflict_type, conflict.path) for conflict in result.conflicts]
        assert found == ([] if settled else conflicts)


def test_all_conflicts_are_reported_in_order_even_those_a_solver_would_settle() -> None:
    result = rebase(
        steps(
            lambda s: s.write("/a", 1), lambda s: s.update("/b"), lambda s: s.update("/g"), lambda s: s.write("/g/x", 1)
        ),
        steps(
            lambda s: s.write("/a", 1),
            lambda s: s.update("/b"),
            lambda s: s.update("/g"),
            lambda s: s.write("/b", 1),
            lambda s: s.delete("/g/x"),
        ),
        BASIC,
    )
    assert [(conflict.conflict_type, conflict.path) for conflict in result.conflicts] == [
        (T.ZarrMetadataDoubleUpdate, "/b"),
        (T.ZarrMetadataDoubleUpdate, "/g"),
        (T.ChunksUpdatedInUpdatedArray, "/b"),
        (T.ChunkDoubleUpdate, "/a"),
        (T.DeleteOfUpdatedArray, "/g/x"),
    ]
    assert result.change_set is None


def test_the_chunks_in_conflict_are_listed_in_order() -> None:
    result = rebase(lambda s: s.write("/a", 5, 3, 1), lambda s: (s.write_many("/a", 1, 2, 3), s.erase("/a", 5)))
    (conflict,) = result.conflicts
    assert conflict.conflicted_chunks == [[1], [3], [5]]


def chunk_values(result: Resolution, path: str) -> dict[tuple[int, ...], object]:
    assert result.change_set is not None
    for edits in result.change_set.chunks.values():
        if edits.path == path:
            table, deleted = edits.fold()
            return dict(table.items()) | {tuple(coords): None for coords in deleted.tolist()}
    return {}


def test_whose_chunks_stand() -> None:
    def ours(side: Side) -> None:
        side.write_many("/a", 1, 2, 3, 4, value=b"ours")
        side.write("/a", 5, value=b"ours")
        side.erase("/a", 3, 6, 7)

    def theirs(side: Side) -> None:
        side.write("/a", 2, 3, 6)

    mine = Inline(b"ours")
    everything = {(1,): mine, (2,): mine, (4,): mine, (5,): mine, (3,): None, (6,): None, (7,): None}
    assert chunk_values(rebase(theirs, ours, BASIC), "/a") == everything
    kept = chunk_values(rebase(theirs, ours, BasicConflictSolver(on_chunk_conflict=THEIRS)), "/a")
    assert kept == {(1,): mine, (4,): mine, (5,): mine, (7,): None}
    assert rebase(theirs, ours, BasicConflictSolver(on_chunk_conflict=FAIL)).change_set is None


def test_a_delete_that_they_made_too_drops_out_and_what_they_made_since_stays() -> None:
    result = rebase(lambda s: s.delete("/g"), steps(lambda s: s.delete("/g"), lambda s: s.delete("/a")))
    assert result.change_set is not None
    assert list(result.change_set.deleted) == ["/a"]
    result = rebase(remake("/a"), lambda s: s.delete("/a"))
    assert result.change_set is not None
    assert not result.change_set.deleted


def test_changes_of_which_nothing_is_left_may_still_be_committed() -> None:
    theirs_stand = BasicConflictSolver(on_chunk_conflict=THEIRS)
    write: Edit = lambda s: s.write("/a", 1)  # noqa: E731
    for theirs, ours in [(write, write), (lambda s: s.delete("/a"), lambda s: s.delete("/a"))]:
        result = rebase(theirs, ours, theirs_stand)
        assert result.change_set is not None
        assert result.change_set.settled
        assert result.change_set
        assert result.change_set.copy()
        again = rebase_changes(result.change_set, TransactionLog(id=bytes(12)), Tree({}), Tree({}), BASIC)
        assert again.change_set
    result = rebase(write, lambda s: s.write("/a", 1, 2), theirs_stand)
    assert result.change_set is not None
    assert not result.change_set.settled
    assert not rebase(write, lambda s: None).change_set


def test_edits_without_conflict_are_shared_not_copied() -> None:
    base = base_tree()
    we, they = Side(base), Side(base)
    we.write("/a", 1)
    they.write("/b", 1)
    result = rebase_changes(we.changes, log_of(they.changes), base, after(base, they.changes), BASIC)
    assert result.change_set is not None
    (edits,) = result.change_set.chunks.values()
    assert edits is next(iter(we.changes.chunks.values()))


# --- moves ------------------------------------------------------------------------------------------------------------


def test_nothing_is_rebased_over_moves() -> None:
    result = rebase(lambda s: s.move("/a", "/z"), lambda s: s.write("/b", 1), BASIC)
    assert [(c.conflict_type, c.path) for c in result.conflicts] == [(T.MoveOperationCannotBeRebased, "")]


def test_moves_are_recognised_where_the_format_has_none() -> None:
    base = base_tree()
    node = base.nodes["/a"]
    moved = Tree({path: other for path, other in base.nodes.items() if path != "/a"} | {"/z": replace(node, path="/z")})
    log = TransactionLog(id=bytes(12), new_arrays=frozenset({node.id}), deleted_arrays=frozenset({node.id}))
    we = Side(base)
    we.delete("/a")
    (conflict,) = rebase_changes(we.changes, log, base, moved, BASIC).conflicts
    assert conflict.conflict_type is T.MoveOperationCannotBeRebased
    # made and deleted within one amended commit: nothing that anybody saw
    assert detect(log, Tree({}), ChangeSet()) == []


@pytest.mark.parametrize(
    ("theirs", "conflict"),
    [
        (lambda s: s.write("/a", 1), None),
        (lambda s: s.update("/a"), None),
        (lambda s: s.array("/g/n"), None),
        (lambda s: s.delete("/b"), None),
        (lambda s: s.array("/g/a"), (T.NewNodeConflictsWithExistingNode, "/g/a")),
        (lambda s: s.array("/g/a/below"), (T.NewNodeConflictsWithExistingNode, "/g/a/below")),
        (lambda s: s.array("/a/below"), None),
        (lambda s: s.delete("/a"), (T.MoveOperationCannotBeRebased, "/a")),
        (remake("/a"), (T.MoveOperationCannotBeRebased, "/a")),
        (lambda s: s.delete("/g"), (T.MoveOperationCannotBeRebased, "/g/a")),
        (steps(lambda s: s.delete("/g"), lambda s: s.array("/g")), (T.NewNodeInInvalidGroup, "/g")),
    ],
)
def test_our_moves_must_still_be_possible(theirs: Edit, conflict: tuple[ConflictType, str] | None) -> None:
    for solver in (BASIC, ChooseAll(OURS), ChooseAll(THEIRS)):
        result = rebase(theirs, lambda s: s.move("/a", "/g/a"), solver)
        assert [(c.conflict_type, c.path) for c in result.conflicts] == ([conflict] if conflict else [])


def test_chained_moves_are_followed() -> None:
    def ours(side: Side) -> None:
        side.changes.moves += [
            Move("/a", "/t", side.existing("/a").id, True),
            Move("/b", "/a", side.existing("/b").id, True),
            Move("/t", "/b", side.existing("/a").id, True),
        ]

    assert rebase(lambda s: s.array("/n"), ours).change_set is not None
    assert [c.path for c in rebase(lambda s: s.array("/t"), ours).conflicts] == ["/t"]
    assert [c.path for c in rebase(lambda s: s.delete("/b"), ours).conflicts] == ["/b"]


# --- solvers of one's own ---------------------------------------------------------------------------------------------


class ChooseAll(ConflictSolver):
    """Always the same choice."""

    def __init__(self, choice: VersionSelection) -> None:
        self.choice = choice

    def resolve(self, conflict: Conflict) -> VersionSelection:
        return self.choice


def test_solvers_must_resolve() -> None:
    with pytest.raises(TypeError):
        ConflictSolver()  # type: ignore[abstract]
    with pytest.raises(TypeError):
        BasicConflictSolver(on_chunk_conflict=1)  # type: ignore[arg-type]
    assert "UseTheirs" in repr(BasicConflictSolver(on_chunk_conflict=THEIRS))


def test_their_new_node_takes_the_place_of_ours() -> None:
    def ours(side: Side) -> None:
        side.group("/n")
        side.array("/n/x")
        side.array("/m")
        side.write("/m", 1)

    result = rebase(steps(lambda s: s.group("/n"), lambda s: s.array("/m")), ours, ChooseAll(THEIRS))
    assert result.change_set is not None
    assert list(result.change_set.new_nodes) == ["/n/x"]
    assert not result.change_set.chunks


def test_our_new_node_takes_the_place_of_theirs() -> None:
    def theirs(side: Side) -> None:
        side.group("/n", attributes=1)
        side.group("/same")
        side.array("/m")
        side.array("/k")

    def ours(side: Side) -> None:
        side.group("/n", attributes=2)
        side.group("/same")
        side.array("/m")
        side.write("/m", 1)
        side.group("/k")
        side.array("/k/x")

    result = rebase(theirs, ours, ChooseAll(OURS))
    changes = result.change_set
    assert changes is not None
    assert list(changes.new_nodes) == ["/m", "/k", "/k/x"]
    assert list(changes.deleted) == ["/k", "/m"]
    (updated,) = changes.updated.values()
    assert updated.path == "/n"
    assert b'"a": 2' in updated.metadata
    assert chunk_values(result, "/m") == {(1,): Inline(b"x")}
    # an array of ours would leave nodes of theirs below it
    assert rebase(lambda s: s.group("/n"), lambda s: s.array("/n"), ChooseAll(OURS)).change_set is None


def test_nodes_below_their_new_array() -> None:
    theirs = steps(lambda s: s.delete("/g"), lambda s: s.array("/g"))
    ours = steps(lambda s: s.array("/g/n"), lambda s: s.array("/n"))
    assert rebase(theirs, ours, ChooseAll(OURS)).change_set is None
    result = rebase(theirs, ours, ChooseAll(THEIRS))
    assert result.change_set is not None
    assert list(result.change_set.new_nodes) == ["/n"]


def test_whose_metadata_stands() -> None:
    result = rebase(lambda s: s.update("/a", 1), lambda s: s.update("/a", 2), ChooseAll(OURS))
    assert result.change_set is not None
    assert [b'"a": 2' in node.metadata for node in result.change_set.updated.values()] == [True]
    for theirs in (lambda s: s.update("/a", 1), lambda s: s.delete("/a")):
        result = rebase(theirs, lambda s: s.update("/a", 2), ChooseAll(THEIRS))
        assert result.change_set is not None
        assert not result.change_set.updated
    assert rebase(lambda s: s.delete("/a"), lambda s: s.update("/a", 2), ChooseAll(OURS)).change_set is None
    assert rebase(lambda s: s.delete("/g"), lambda s: s.update("/g", 2), ChooseAll(OURS)).change_set is None


def test_chunks_stand_under_a_document_that_means_the_same() -> None:
    write: Edit = lambda s: s.write("/a", 1)  # noqa: E731
    assert rebase(lambda s: s.update("/a", 7), write, ChooseAll(OURS)).change_set is not None
    assert rebase(lambda s: s.update("/a", chunk=3), write, ChooseAll(OURS)).change_set is None
    # written under our grid, which does not stand
    ours = steps(lambda s: s.update("/a", chunk=3), write)
    assert rebase(lambda s: s.update("/a", 7), ours, ByType({T.ZarrMetadataDoubleUpdate: THEIRS})).change_set is None
    result = rebase(lambda s: s.update("/a", chunk=3), write, ChooseAll(THEIRS))
    assert result.change_set is not None
    assert not result.change_set.chunks
    assert rebase(lambda s: s.delete("/a"), write, ChooseAll(OURS)).change_set is None
    assert rebase(lambda s: s.delete("/a"), write, ChooseAll(THEIRS)).change_set is not None


class ByType(ConflictSolver):
    """Ours, but for the conflicts named."""

    def __init__(self, choices: dict[ConflictType, VersionSelection]) -> None:
        self.choices = choices

    def resolve(self, conflict: Conflict) -> VersionSelection:
        return self.choices.get(conflict.conflict_type, OURS)


def test_a_deletion_is_taken_back_with_the_groups_above() -> None:
    result = rebase(
        lambda s: s.write("/g/x", 1), steps(lambda s: s.delete("/g"), lambda s: s.delete("/a")), ChooseAll(THEIRS)
    )
    assert result.change_set is not None
    assert list(result.change_set.deleted) == ["/a"]
    result = rebase(
        lambda s: s.write("/g/x", 1),
        steps(lambda s: s.delete("/g"), lambda s: s.group("/g"), lambda s: s.array("/g/n")),
        ChooseAll(THEIRS),
    )
    assert result.change_set is not None
    assert list(result.change_set.new_nodes) == ["/g/n"]
    taken = steps(lambda s: s.delete("/g"), lambda s: s.array("/g"))
    assert rebase(lambda s: s.write("/g/x", 1), taken, ChooseAll(THEIRS)).change_set is None


# --- many chunks ------------------------------------------------------------------------------------------------------


def many(count: int, start: int = 0) -> np.ndarray:
    flat = np.arange(start, start + count)
    return np.stack([flat // 500, flat % 500], 1).astype(np.uint32)


def edits_of(coords: np.ndarray) -> ChunkEdits:
    n = len(coords)
    table = ChunkTable.from_native(coords, np.zeros((n, 12), np.uint8), np.full(n, 7, np.uint64))
    return ChunkEdits(coords.shape[1], tables=[table], path="/a")


def test_many_chunks_are_compared_by_column() -> None:
    ours = ChangeSet(chunks={b"aaaaaaaa": edits_of(many(60_000))})
    unsorted = many(60_000, 40_000)[::-1]
    log = TransactionLog(id=bytes(12), updated_chunks={b"aaaaaaaa": unsorted})
    (conflict,) = detect(log, Tree({}), ours)
    assert conflict.conflicted_chunks == many(20_000, 40_000).tolist()
    assert str(conflict) == "Chunk double update at /a: [80, 0], [80, 1], [80, 2], [80, 3], [80, 4] and 19995 more"
    solver = BasicConflictSolver(on_chunk_conflict=THEIRS)
    result = rebase_changes(ours, log, Tree({}), Tree({}), solver)
    assert result.change_set is not None
    assert np.array_equal(result.change_set.chunks[b"aaaaaaaa"].coords(), many(40_000))


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1) | st.integers(0, 3), st.integers(0, 3)), max_size=12),
    st.lists(st.tuples(st.integers(0, 2**32 - 1) | st.integers(0, 3), st.integers(0, 3)), max_size=12),
)
def test_common_chunks_are_the_intersection(ours: list[tuple[int, int]], theirs: list[tuple[int, int]]) -> None:
    edits = ChunkEdits(2, singles=dict.fromkeys(ours, Inline(b"x")), path="/a")
    change_set = ChangeSet(chunks={b"aaaaaaaa": edits})
    coords = np.array(theirs, np.uint32).reshape(len(theirs), 2)
    conflicts = detect(TransactionLog(id=bytes(12), updated_chunks={b"aaaaaaaa": coords}), Tree({}), change_set)
    both = sorted(set(ours) & set(theirs))
    assert [conflict.conflicted_chunks for conflict in conflicts] == ([[list(c) for c in both]] if both else [])


def test_chunks_of_arrays_without_dimensions() -> None:
    ours = ChangeSet(chunks={b"aaaaaaaa": ChunkEdits(0, singles={(): Inline(b"x")}, path="/a")})
    log = TransactionLog(id=bytes(12), updated_chunks={b"aaaaaaaa": np.zeros((1, 0), np.uint32)})
    (conflict,) = detect(log, Tree({}), ours)
    assert conflict.conflicted_chunks == [[]]


# --- any two sessions -------------------------------------------------------------------------------------------------

PATHS = ["/a", "/b", "/g", "/g/x", "/g/n", "/n", "/n/m"]
edit_lists = st.lists(
    st.tuples(
        st.sampled_from(["group", "array", "update", "write", "erase", "delete", "delete"]), st.sampled_from(PATHS)
    ),
    max_size=5,
)


def perform(side: Side, edits: list[tuple[str, str]]) -> None:
    for number, (name, path) in enumerate(edits):
        node = side.find(path)
        if name in ("group", "array"):
            if node is None:
                getattr(side, name)(path)
        elif node is not None:
            if name == "update":
                side.update(path, attributes=number)
            elif name == "delete":
                side.delete(path)
            elif node.is_array:
                getattr(side, name)(path, number % 3)


@settings(max_examples=300)
@given(edit_lists, edit_lists, edit_lists, st.sampled_from([None, FAIL, OURS, THEIRS]))
def test_rebased_changes_fit_on_what_they_are_rebased_over(
    first: list[tuple[str, str]],
    second: list[tuple[str, str]],
    ours: list[tuple[str, str]],
    choice: VersionSelection | None,
) -> None:
    solver = BASIC if choice is None else ChooseAll(choice)
    base = base_tree()
    we = Side(base)
    perform(we, ours)
    changes = we.changes
    for edits in (first, second):  # two commits, one after the other
        they = Side(base)
        perform(they, edits)
        tree, log = after(base, they.changes), log_of(they.changes)
        before = pickle.dumps(changes)
        result = rebase_changes(changes, log, base, tree, solver)
        assert pickle.dumps(changes) == before
        if result.change_set is None:
            assert result.conflicts
            return
        after(tree, result.change_set)  # checks that it fits
        base, changes = tree, result.change_set


@given(edit_lists)
def test_nothing_conflicts_with_a_commit_that_changed_nothing(ours: list[tuple[str, str]]) -> None:
    result = rebase(lambda s: None, lambda s: perform(s, ours))
    assert result.conflicts == ()


# --- the public values ------------------------------------------------------------------------------------------------


def test_types_and_selections_show_as_words_and_numbers() -> None:
    assert [int(kind) for kind in ConflictType] == list(range(1, 12))
    assert str(T.ChunkDoubleUpdate) == "Chunk double update"
    assert str(T.ZarrMetadataUpdateOfDeletedGroup) == "Zarr metadata update of deleted group"
    assert str(T.NewNodeConflictsWithExistingNode) == "New node conflicts with existing node"
    assert repr(T.DeleteOfUpdatedArray) == "DeleteOfUpdatedArray"
    assert T(11) is T.MoveOperationCannotBeRebased
    assert [int(choice) for choice in VersionSelection] == [0, 1, 2]
    assert str(OURS) == repr(OURS) == "VersionSelection.UseOurs"
    assert OURS != 1


def test_conflicts_are_values() -> None:
    conflict = Conflict(T.ChunkDoubleUpdate, "/a", [[0, 1], [1, 1]])
    same = Conflict(T.ChunkDoubleUpdate, "/a", np.array([[0, 1], [1, 1]], np.uint32))
    assert conflict == same
    assert hash(conflict) == hash(same)
    assert conflict != Conflict(T.ChunkDoubleUpdate, "/a", [[0, 1]])
    assert pickle.loads(pickle.dumps(same)) == conflict
    assert str(conflict) == "Chunk double update at /a: [0, 1], [1, 1]"
    assert repr(conflict).splitlines() == [
        "<icechunk.conflicts.Conflict>",
        "conflict_type: ChunkDoubleUpdate",
        "path: /a",
        "conflicted_chunks: [[0, 1], [1, 1]]",
    ]
    assert "ChunkDoubleUpdate" in conflict._repr_html_()
    assert Conflict(T.NewNodeInInvalidGroup, "/a").conflicted_chunks is None
    error = pickle.loads(pickle.dumps(RebaseFailedError("ID", [conflict])))
    assert error.conflicts == [conflict]
