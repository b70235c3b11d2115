"""Moving nodes to other paths and chunks to other indices."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk.errors import (
    AlreadyExistsError,
    ErrorKind,
    IcechunkError,
    InvalidInputError,
    NodeNotFoundError,
    SessionStateError,
)
from icechunk.format.chunk_ref import Inline
from icechunk.format.chunk_table import ChunkTable
from icechunk.format.snapshot import DimensionShape, Node
from icechunk.format.transaction_log import Move
from icechunk.moves import logged_moves, plan_move, reindex, shift


def document(shape: Sequence[int], grid: dict[str, Any] | None = None) -> bytes:
    grid = grid or {"name": "regular", "configuration": {"chunk_shape": [1] * len(shape)}}
    return json.dumps({"node_type": "array", "shape": list(shape), "chunk_grid": grid}).encode()


def array(*counts: int, path: str = "/a", grid: dict[str, Any] | None = None) -> Node:
    shape = tuple(DimensionShape(count, count, 1) for count in counts)
    return Node(path.encode().ljust(8), path, True, document(counts, grid), shape, None, ())


def group(path: str) -> Node:
    return Node(path.encode().ljust(8), path, False, b'{"node_type": "group"}', (), None, ())


class Tree:
    """Nodes by path."""

    def __init__(self, *nodes: Node) -> None:
        self._nodes = {node.path: node for node in nodes}

    def find(self, path: str) -> Node | None:
        return self._nodes.get(path)

    def is_vacant(self, path: str) -> bool:
        return not any(each == path or each.startswith(path + "/") for each in self._nodes)

    def nodes(self) -> list[Node]:
        return list(self._nodes.values())


TREE = Tree(group("/"), group("/g"), group("/h"), array(3, path="/a"), array(3, path="/g/x"))


# --- nodes ------------------------------------------------------------------------------------------------------------


def test_a_move_names_the_node() -> None:
    node = TREE.find("/a")
    assert node is not None
    assert plan_move(TREE, "/a", "/g/a") == Move("/a", "/g/a", node.id, True)
    assert plan_move(TREE, "/g/", "/h/g/") == Move("/g", "/h/g", b"/g".ljust(8), False)


@pytest.mark.parametrize(
    ("source", "target", "error", "kind"),
    [
        ("a", "/b", InvalidInputError, ErrorKind.INVALID_PATH),
        ("/a", "b", InvalidInputError, ErrorKind.INVALID_PATH),
        ("/a", "/../b", InvalidInputError, ErrorKind.INVALID_PATH),
        ("/", "/x", SessionStateError, ErrorKind.MOVE_INTO_SELF_OR_DESCENDANT),
        ("/a", "/a", SessionStateError, ErrorKind.MOVE_INTO_SELF_OR_DESCENDANT),
        ("/g", "/g/x/y", SessionStateError, ErrorKind.MOVE_INTO_SELF_OR_DESCENDANT),
        ("/nope", "/x", NodeNotFoundError, ErrorKind.NODE_NOT_FOUND),
        ("/nope", "/nope/x", NodeNotFoundError, ErrorKind.NODE_NOT_FOUND),
        ("/a", "/g", AlreadyExistsError, ErrorKind.MOVE_WONT_OVERWRITE),
        ("/a", "/", AlreadyExistsError, ErrorKind.MOVE_WONT_OVERWRITE),
        ("/a", "/no/x", SessionStateError, ErrorKind.MOVE_DESTINATION_PARENT_MISSING),
        ("/a", "/g/x/y", SessionStateError, ErrorKind.MOVE_DESTINATION_PARENT_NOT_GROUP),
    ],
)
def test_moves_that_are_refused(source: str, target: str, error: type[IcechunkError], kind: ErrorKind) -> None:
    with pytest.raises(error) as caught:
        plan_move(TREE, source, target)
    assert caught.value.kind == kind


def moved(*steps: tuple[str, str]) -> list[tuple[str, str]]:
    moves = [Move(source, target, b"", True) for source, target in steps]
    return [(move.source, move.target) for move in logged_moves(TREE, moves)]


def test_moves_are_logged_per_node_from_first_to_last_place() -> None:
    assert moved() == []
    assert moved(("/g", "/k")) == [("/g", "/k"), ("/g/x", "/k/x")]
    assert moved(("/g", "/k"), ("/a", "/k/a"), ("/k", "/h/k")) == [
        ("/g", "/h/k"),
        ("/a", "/h/k/a"),
        ("/g/x", "/h/k/x"),
    ]
    assert moved(("/a", "/t"), ("/t", "/a")) == []
    assert moved(("/a", "/t"), ("/h", "/a"), ("/t", "/h")) == [("/h", "/a"), ("/a", "/h")]


def test_logged_moves_are_in_the_order_of_a_tree() -> None:
    tree = Tree(group("/p"), group("/p-q"), group("/p/z"))
    moves = [Move("/p", "/k", b"", False), Move("/p-q", "/k-q", b"", False)]
    assert [move.target for move in logged_moves(tree, moves)] == ["/k", "/k/z", "/k-q"]


# --- chunks -----------------------------------------------------------------------------------------------------------


def table(*coords: tuple[int, ...], ndim: int = 1) -> ChunkTable:
    """One chunk per coordinate, whose bytes say where it was."""
    return ChunkTable.from_refs({coord: Inline(repr(coord).encode()) for coord in coords}, ndim)


def outcome(before: ChunkTable, written: ChunkTable, gone: np.ndarray) -> dict[tuple[int, ...], Inline]:
    """The chunks once the changes are made."""
    return dict(before.overlay(written, gone).items())


def shifted(node: Node, before: ChunkTable, offset: Sequence[int]) -> dict[tuple[int, ...], Inline]:
    return outcome(before, *shift(node, before, offset))


def came_from(*pairs: tuple[int, int]) -> dict[tuple[int, ...], Inline]:
    return {(to,): Inline(repr((source,)).encode()) for source, to in pairs}


def test_shifting() -> None:
    before, node = table((1,), (2,), (3,)), array(6)
    assert shifted(node, before, [1]) == came_from((1, 2), (2, 3), (3, 4))
    assert shifted(node, before, (-2,)) == came_from((2, 0), (3, 1))
    assert shifted(node, before, [0]) == came_from((1, 1), (2, 2), (3, 3))
    assert shifted(node, before, np.array([10])) == {}
    assert shifted(node, before, [2**80]) == {}
    assert shifted(node, before, [-(2**80)]) == {}


def test_shifting_marks_the_old_and_the_new_places_as_changed() -> None:
    written, gone = shift(array(6), table((1,), (2,), (3,)), [1])
    assert written.coords.tolist() == [[2], [3], [4]]
    assert gone.tolist() == [[1]]
    written, gone = shift(array(6), table((1,), (2,)), [0])
    assert written.coords.tolist() == [[1], [2]]
    assert gone.tolist() == []


coords_2d = st.sets(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=12)


@given(coords_2d, st.integers(-6, 6), st.integers(-6, 6))
def test_a_shifted_chunk_is_found_at_its_place_plus_the_offset(
    coords: set[tuple[int, int]], down: int, right: int
) -> None:
    before = table(*coords, ndim=2)
    expected = {
        (row + down, column + right): Inline(repr((row, column)).encode())
        for row, column in coords
        if 0 <= row + down < 5 and 0 <= column + right < 4
    }
    assert shifted(array(5, 4), before, [down, right]) == expected


def test_chunks_left_over_outside_of_the_grid_do_not_come_back() -> None:
    before = table((1,), (5,))
    written, gone = shift(array(4), before, [-1])
    assert written.coords.tolist() == [[0]]
    assert gone.tolist() == [[1]]


def test_a_million_chunks_are_shifted_by_column() -> None:
    coords = np.indices((1000, 1000)).reshape(2, -1).T.astype(np.uint32)
    ids = np.arange(12_000_000, dtype=np.uint32).astype(np.uint8).reshape(-1, 12)
    before = ChunkTable.from_native(coords, ids, np.ones(len(coords), np.uint64))
    written, gone = shift(array(1000, 1000), before, [1, 0])
    assert len(written) == 999_000
    assert len(gone) == 1000
    assert written.ref(0) == before.ref(0)


def test_offsets_must_fit_the_array() -> None:
    with pytest.raises(InvalidInputError, match="one per dimension") as caught:
        shift(array(6), table(), [1, 2])
    assert caught.value.kind == ErrorKind.INVALID_CHUNK_INDEX
    with pytest.raises(TypeError):
        shift(array(6), table(), [1.0])  # type: ignore[list-item]


def test_arrays_without_dimensions_stay() -> None:
    before = table((), ndim=0)
    written, gone = shift(array(), before, [])
    assert len(written) == len(gone) == 0


def test_only_regular_grids() -> None:
    grid = {"name": "rectilinear", "configuration": {"kind": "inline", "chunk_shapes": [[1, 3]]}}
    for call in (lambda node: shift(node, table(), [1]), lambda node: reindex(node, table(), lambda index: index)):
        with pytest.raises(InvalidInputError, match="requires a `regular` chunk grid") as caught:
            call(array(4, grid=grid))
        assert caught.value.kind == ErrorKind.INVALID_ARRAY_METADATA


def reindexed(before: ChunkTable, *maps: Any, counts: Sequence[int] = (6,)) -> dict[tuple[int, ...], Inline]:
    return outcome(before, *reindex(array(*counts), before, *maps))


def test_reindexing() -> None:
    before = table((1,), (2,), (3,))

    def up(index: Sequence[int]) -> list[int]:
        return [index[0] + 1]

    # without an inverse, what nothing came to keeps its chunk
    assert reindexed(before, up) == came_from((1, 1), (1, 2), (2, 3), (3, 4))
    assert reindexed(before, up, lambda index: [index[0] - 1]) == came_from((1, 2), (2, 3), (3, 4))
    assert reindexed(before, up, lambda index: None) == came_from((1, 2), (2, 3), (3, 4))
    assert reindexed(before, lambda index: None) == came_from((1, 1), (2, 2), (3, 3))
    assert reindexed(before, lambda index: None, lambda index: None) == {}
    assert reindexed(before, lambda index: None if index == [2] else index, lambda index: index) == came_from(
        (1, 1), (2, 2), (3, 3)
    )
    swap = {1: 3, 3: 1}
    by_swap = lambda index: (swap.get(index[0], index[0]),)  # noqa: E731
    assert reindexed(before, by_swap, by_swap) == came_from((3, 1), (2, 2), (1, 3))
    assert reindexed(before, lambda index: [0]) == came_from((3, 0), (1, 1), (2, 2), (3, 3))
    assert reindexed(before, lambda index: np.array([index[0] + 1]), lambda index: None) == came_from(
        (1, 2), (2, 3), (3, 4)
    )


def test_reindexing_visits_existing_chunks_only_as_lists() -> None:
    seen: list[Any] = []
    reindexed(table((0, 1), (2, 0), ndim=2), seen.append, counts=(3, 3))
    assert seen == [[0, 1], [2, 0]]


@given(coords_2d, st.permutations(range(5)), st.permutations(range(4)))
def test_a_permutation_moves_every_chunk(coords: set[tuple[int, int]], rows: list[int], columns: list[int]) -> None:
    before = table(*coords, ndim=2)
    found = reindexed(
        before,
        lambda index: [rows[index[0]], columns[index[1]]],
        lambda index: [rows.index(index[0]), columns.index(index[1])],
        counts=(5, 4),
    )
    assert found == {(rows[row], columns[column]): Inline(repr((row, column)).encode()) for row, column in coords}


@pytest.mark.parametrize("target", [[6], [-1], [0, 0], []])
def test_reindexing_stays_in_the_grid(target: list[int]) -> None:
    with pytest.raises(InvalidInputError, match="invalid chunk index") as caught:
        reindex(array(6), table((1,)), lambda index: target)
    assert caught.value.kind == ErrorKind.INVALID_CHUNK_INDEX


def test_failures_of_the_given_functions_are_told_apart_from_ours() -> None:
    def fail(index: Sequence[int]) -> list[int]:
        raise ZeroDivisionError("division by zero")

    for maps in ((fail,), (lambda index: None, fail)):
        with pytest.raises(IcechunkError, match="unknown error: ZeroDivisionError: division by zero") as caught:
            reindex(array(6), table((1,)), *maps)
        assert caught.value.kind == ErrorKind.UNKNOWN
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
    for wrong in ("x", 3, [1.5]):
        with pytest.raises(IcechunkError, match="TypeError"):
            reindex(array(6), table((1,)), lambda index, wrong=wrong: wrong)  # type: ignore[misc]
