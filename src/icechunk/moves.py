"""Moving things without moving bytes: nodes to other paths, chunks to other indices.

A node keeps its id and its manifests when it moves, a chunk keeps its object: only the path or the coordinates by which
it is found change. Everything here looks at values and returns what has to be recorded; nothing is changed in place.

Chunks can change places only on a regular grid, where each has the same shape; elsewhere they would no longer fit.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from icechunk.errors import (
    AlreadyExistsError,
    ErrorKind,
    IcechunkError,
    InvalidInputError,
    NodeNotFoundError,
    SessionStateError,
)
from icechunk.format.chunk_keys import Coords, joint_keys
from icechunk.format.chunk_table import ChunkTable
from icechunk.format.node_path import ROOT, is_within, parent, parse_path, segments
from icechunk.format.snapshot import Node
from icechunk.format.transaction_log import Move
from icechunk.node_view import path_after
from icechunk.zarr_metadata import parse_metadata

IndexMap: TypeAlias = Callable[[Sequence[int]], Iterable[int] | None]
"""From the coordinates of a chunk to others, or to None."""

_FAR = 2**33
"""Farther than any chunk is from any other."""


class Hierarchy(Protocol):
    """The nodes as a session sees them."""

    def find(self, path: str) -> Node | None:
        """The node at `path`."""
        ...

    def is_vacant(self, path: str) -> bool:
        """Whether nothing is at `path`, nor below it."""
        ...


class Nodes(Protocol):
    """The nodes of a snapshot."""

    def nodes(self) -> Iterable[Node]:
        """Every node."""
        ...


# --- nodes ------------------------------------------------------------------------------------------------------------


def plan_move(view: Hierarchy, source: str, target: str) -> Move:
    """The move of the node at `source`, with everything below it, to `target`.

    Raises `InvalidInputError` for paths that are not absolute, `NodeNotFoundError` when nothing is at `source`,
    `AlreadyExistsError` when something is at or below `target`, `SessionStateError` when `target` lies in `source` or not in a
    group.
    """
    source, target = parse_path(source), parse_path(target)
    node = view.find(source)
    if node is None and source != ROOT:
        raise NodeNotFoundError(f"node not found at `{source}`, so it cannot be moved", ErrorKind.NODE_NOT_FOUND)
    if is_within(target, source):
        raise SessionStateError(
            f"cannot move `{source}` into itself or its own descendant `{target}`",
            ErrorKind.MOVE_INTO_SELF_OR_DESCENDANT,
        )
    above = parent(target)
    if above is None or not view.is_vacant(target):
        raise AlreadyExistsError(
            f"move cannot overwrite existing node at `{target}`, or below it; delete or move that one first",
            ErrorKind.MOVE_WONT_OVERWRITE,
        )
    _check_destination(view, target, above)
    assert node is not None
    return Move(source, target, node.id, node.is_array)


def _check_destination(view: Hierarchy, target: str, above: str) -> None:
    group = view.find(above)
    if group is None:
        raise SessionStateError(
            f"cannot move to `{target}`: the destination's parent group `{above}` does not exist, and a move creates none; "
            "create it in a writable session and commit, then move",
            ErrorKind.MOVE_DESTINATION_PARENT_MISSING,
        )
    if group.is_array:
        raise SessionStateError(
            f"cannot move to `{target}`: the destination's parent `{above}` is an array, not a group",
            ErrorKind.MOVE_DESTINATION_PARENT_NOT_GROUP,
        )


def logged_moves(base: Nodes, moves: Sequence[Move]) -> tuple[Move, ...]:
    """What `moves` come to: one entry per node of `base` that ends up elsewhere, from its first place to its last.

    Ordered by where the nodes end up, segment by segment.
    """
    if not moves:
        return ()
    ends = ((node, path_after(moves, node.path)) for node in base.nodes())
    logged = [Move(node.path, end, node.id, node.is_array) for node, end in ends if end != node.path]
    return tuple(sorted(logged, key=lambda move: segments(move.target)))


# --- chunks -----------------------------------------------------------------------------------------------------------


def shift(node: Node, table: ChunkTable, offset: Sequence[int]) -> tuple[ChunkTable, Coords]:
    """Shift the chunks `table` of the array `node` by whole chunks, one number per dimension.

    Returns the chunks at their new places and the coordinates that have none any more. Chunks that leave the grid are
    dropped. Raises `InvalidInputError` for a wrong number of numbers or a grid that is not regular.
    """
    steps = [operator.index(step) for step in offset]
    if len(steps) != len(node.shape):
        raise InvalidInputError(
            f"an offset for the array at {node.path} has {len(node.shape)} numbers, one per dimension, got {steps}",
            ErrorKind.INVALID_CHUNK_INDEX,
        )
    _require_regular(node)
    if not node.shape:
        return ChunkTable.empty(0), np.zeros((0, 0), np.uint32)
    present = _inside(node, table)
    moved = present.coords.astype(np.int64) + np.array([max(-_FAR, min(step, _FAR)) for step in steps], np.int64)
    grid = np.array([dimension.chunks for dimension in node.shape], np.int64)
    stays: npt.NDArray[np.bool_] = np.all((moved >= 0) & (moved < grid), axis=1)
    shifted = present.take(stays).with_coords(moved[stays].astype(np.uint32))
    return shifted, _not_in(present.coords, shifted.coords)


def reindex(
    node: Node, table: ChunkTable, forward: IndexMap, backward: IndexMap | None = None
) -> tuple[ChunkTable, Coords]:
    """Give each chunk of the array `node` the coordinates that `forward` returns for its present ones.

    Where `forward` returns None a chunk is left alone. Of several chunks that get the same place the last one in order
    wins. A chunk is found at its old place too, unless another comes there or `backward` says that nothing belongs
    there: it returns None, or a place without a chunk.

    Returns the chunks at their new places and the coordinates that have none any more. Raises `InvalidInputError` for
    places outside of the grid or a grid that is not regular, and `IcechunkError` for a function that fails.
    """
    _require_regular(node)
    present = _inside(node, table)
    places = [tuple(row) for row in present.coords.tolist()]
    rows: list[int] = []
    targets: list[tuple[int, ...]] = []
    for row, place in enumerate(places):
        target = _place(node, forward, place)
        if target is not None:
            rows.append(row)
            targets.append(target)
    coords = np.array(targets, np.uint32).reshape(len(targets), len(node.shape))
    written = present.take(np.array(rows, np.intp)).with_coords(coords)
    if backward is None:
        return written, coords[:0]
    taken, known = set(targets), set(places)
    gone = [place for place in places if place not in taken and _origin(backward, place) not in known]
    return written, np.array(gone, np.uint32).reshape(len(gone), len(node.shape))


def _place(node: Node, forward: IndexMap, place: tuple[int, ...]) -> tuple[int, ...] | None:
    target = _call(forward, place)
    if target is None:
        return None
    if len(target) != len(node.shape) or not all(
        0 <= index < dimension.chunks for index, dimension in zip(target, node.shape, strict=True)
    ):
        raise InvalidInputError(
            f"invalid chunk index: coordinates {list(target)}, to which {list(place)} was mapped, are not valid for array "
            f"at {node.path}, its grid has {[dimension.chunks for dimension in node.shape]} chunks",
            ErrorKind.INVALID_CHUNK_INDEX,
        )
    return target


def _origin(backward: IndexMap, place: tuple[int, ...]) -> tuple[int, ...] | None:
    return _call(backward, place)


def _call(function: IndexMap, place: tuple[int, ...]) -> tuple[int, ...] | None:
    """Call a function of the user's, whose failures are not ours."""
    try:
        result = function(list(place))
        if result is None:
            return None
        if isinstance(result, str | bytes):
            raise TypeError(f"expected a sequence of int or None, got {result!r}")
        return tuple(operator.index(index) for index in result)
    except Exception as error:
        raise IcechunkError(
            f"unknown error: {type(error).__name__}: {error} (while mapping the chunk at {list(place)})",
            ErrorKind.UNKNOWN,
        ) from error


def _require_regular(node: Node) -> None:
    if not parse_metadata(node.metadata).regular:
        raise InvalidInputError(
            f"cannot shift or reindex chunks of the array at `{node.path}`: that requires a `regular` chunk grid; on any "
            "other, chunks would not have the sizes of their new positions",
            ErrorKind.INVALID_ARRAY_METADATA,
        )


def _inside(node: Node, table: ChunkTable) -> ChunkTable:
    """The chunks within the grid; others are left over from a larger shape, and no longer count."""
    box = [(0, dimension.chunks) for dimension in node.shape]
    return table.within(box) if len(table) else table


def _not_in(coords: Coords, others: Coords) -> Coords:
    keys, other_keys = joint_keys(coords, others)
    return coords[~np.isin(keys, other_keys)]
