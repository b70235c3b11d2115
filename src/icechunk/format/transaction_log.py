"""Transaction logs: what one commit changed, by node id; rebase and diff read them instead of comparing snapshots.

Sets of nodes are sets of ids. Updated chunks are coordinates, possibly millions of them, and stay columns on both ways:
the tables of all coordinates of all arrays are read in one gather, and written as rows of words. Files hold them sorted;
where they do not (1.x writes them by manifest when it splits) reading puts them in order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, fields
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from icechunk._dataclass import dataclass
from icechunk.flatbuf.builder import Builder, Slots
from icechunk.flatbuf.columns import Positions, TableColumns, element_positions, number_rows, vector_counts
from icechunk.flatbuf.reader import Document, TableView, VectorView
from icechunk.flatbuf.schema import U32
from icechunk.format.chunk_keys import is_sorted, joint_keys, order_keeping_last
from icechunk.format.envelope import FileType, open_envelope, seal, seal_pieces
from icechunk.format.nested_columns import nested_tables
from icechunk.format.node_path import segments
from icechunk.format.schemas import (
    ARRAY_UPDATED_CHUNKS,
    CHUNK_INDICES,
    FILE_IDENTIFIER,
    TRANSACTION_LOG,
)
from icechunk.format.transaction_log_few import read_few_chunks, read_ids

Buffer: TypeAlias = bytes | bytearray | memoryview
Coords: TypeAlias = npt.NDArray[np.uint32]

_LARGE = 4096
"""Coordinates of one array from which on it is looked at alone."""

_FEW = 16
"""Arrays and coordinates together up to which they are written one by one, which spares the set-up of columns."""

_ROWS_AT_ONCE = 1 << 15
"""Coordinates that are made into rows together: as many as stay in the processor's cache."""

_SETS = ("new_groups", "new_arrays", "deleted_groups", "deleted_arrays", "updated_arrays", "updated_groups")

_ARRAY = struct.Struct("<iI8s")
_ARRAY_VTABLE = np.array([8, 16, 8, 4], "<u2").tobytes()
_INDICES_VTABLE = np.array([6, 8, 4], "<u2").tobytes()


class Move(NamedTuple):
    """A node that went from one path to another; a move of a group is one entry for it and one for each node below."""

    source: str
    target: str
    node_id: bytes
    is_array: bool


@dataclass(frozen=True, eq=False)
class TransactionLog:
    """What changed between a snapshot and the one before it.

    New arrays are in `new_arrays` and not in `updated_arrays`; the latter, like `updated_groups`, are those whose
    zarr.json changed. `updated_chunks` has by array the coordinates that were written, replaced or deleted, as rows in
    lexicographic order.
    """

    id: bytes
    new_groups: frozenset[bytes] = frozenset()
    new_arrays: frozenset[bytes] = frozenset()
    deleted_groups: frozenset[bytes] = frozenset()
    deleted_arrays: frozenset[bytes] = frozenset()
    updated_arrays: frozenset[bytes] = frozenset()
    updated_groups: frozenset[bytes] = frozenset()
    updated_chunks: Mapping[bytes, Coords] = field(default_factory=dict)
    moved_nodes: tuple[Move, ...] = ()

    @property
    def num_changes(self) -> int:
        """How many nodes and chunks are named."""
        return (
            sum(len(getattr(self, name)) for name in _SETS)
            + sum(map(len, self.updated_chunks.values()))
            + len(self.moved_nodes)
        )

    def __bool__(self) -> bool:
        return self.num_changes > 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TransactionLog):
            return NotImplemented
        return all(
            getattr(self, each.name) == getattr(other, each.name)
            for each in fields(self)
            if each.name != "updated_chunks"
        ) and _same_chunks(self.updated_chunks, other.updated_chunks)

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def decode(cls, data: Buffer, file: str) -> TransactionLog:
        """Read a file; `file` is how errors call it. Raises `FormatError`."""
        _, payload = open_envelope(data, FileType.TRANSACTION_LOG, file)
        doc = Document(payload, file)
        root = doc.root(TRANSACTION_LOG)
        return cls(
            id=root["id"],
            updated_chunks=_read_chunks(doc, root["updated_chunks"]),
            moved_nodes=tuple(map(_read_move, root["moved_nodes"] or ())),
            **{name: read_ids(root, name) for name in _SETS},
        )

    def encode(self, spec: int, level: int = 3) -> bytes:
        """The file, for a repository of this spec version; 1 has no moves."""
        chunks = sorted(self.updated_chunks.items(), key=itemgetter(0))
        slots = Slots(len(chunks))
        values: dict[str, Any] = {name: sorted(getattr(self, name)) for name in _SETS}
        values |= {"id": self.id, "updated_chunks": slots}
        if spec > 1:
            values["moved_nodes"] = [
                {"from": move.source, "to": move.target, "node_id": move.node_id, "node_type": int(move.is_array)}
                for move in sorted(self.moved_nodes, key=lambda move: segments(move.target))
            ]
        builder = Builder(FILE_IDENTIFIER)
        if len(chunks) + sum(len(coords) for _, coords in chunks) <= _FEW:
            values["updated_chunks"] = [
                {"node_id": node_id, "chunks": [{"coords": each} for each in sorted(set(map(tuple, coords.tolist())))]}
                for node_id, coords in chunks
            ]
            payload = builder.finish(builder.table(TRANSACTION_LOG, values))
            return seal(payload, FileType.TRANSACTION_LOG, spec=spec, level=level)
        builder.refer(0, builder.table(TRANSACTION_LOG, values))
        ordered = _all_ordered([coords for _, coords in chunks])
        writer = _ChunksWriter(builder, slots.start, [node_id for node_id, _ in chunks], ordered)
        return seal_pieces(writer.pieces(), writer.size, FileType.TRANSACTION_LOG, spec=spec, level=level)


def _same_chunks(ours: Mapping[bytes, Coords], theirs: Mapping[bytes, Coords]) -> bool:
    return ours.keys() == theirs.keys() and all(np.array_equal(coords, theirs[key]) for key, coords in ours.items())


def _ordered(coords: Coords) -> Coords:
    """In lexicographic order, each once."""
    if is_sorted(coords):
        return coords
    order = order_keeping_last(joint_keys(coords)[0])
    return coords if order is None else coords[order]


# ---- reading


def _read_move(item: TableView) -> Move:
    return Move(item["from"], item["to"], item["node_id"], item["node_type"] != 0)


def _read_chunks(doc: Document, vector: VectorView) -> dict[bytes, Coords]:
    """The coordinates by array.

    The reference lets chunks be set with too few or too many coordinates. Those name no chunk of the array, whose other
    coordinates tell its rank, so they are left out.
    """
    few = read_few_chunks(doc, vector)
    if few is not None:
        return few
    arrays = TableColumns(doc, ARRAY_UPDATED_CHUNKS, element_positions(vector))
    ids = arrays.struct("node_id").tobytes()
    vectors = arrays.targets("chunks")
    lengths = vector_counts(doc, vectors, 4, "ArrayUpdatedChunks.chunks")
    tables = nested_tables(doc, vectors, lengths, "ArrayUpdatedChunks.chunks")
    targets = TableColumns(doc, CHUNK_INDICES, tables).targets("coords")
    ranks = vector_counts(doc, targets, 4, "ChunkIndices.coords")
    if 4 * int(ranks.sum()) > doc.size:
        raise doc.fail("ChunkIndices.coords", "vectors overlap each other")
    owners = np.repeat(np.arange(len(arrays)), lengths)
    right = ranks == _ranks_of_arrays(ranks, lengths)[owners]
    if not right.all():
        targets, ranks, owners = targets[right], ranks[right], owners[right]
    by_array: dict[int, Coords] = {}
    for chosen in _split_by_value(ranks):
        rows = number_rows(doc, targets[chosen], U32, "ChunkIndices.coords")
        by_array |= _split_by_owner(rows, owners[chosen])
    found: dict[bytes, Coords] = {}
    nothing = np.zeros((0, 0), np.uint32)
    for number in range(len(arrays)):
        node_id, mine = ids[8 * number : 8 * number + 8], by_array.get(number, nothing)
        known = found.get(node_id)
        found[node_id] = mine if known is None else _both(known, mine)
    return found


def _ranks_of_arrays(ranks: Positions, lengths: Positions) -> Positions:
    """The rank of each array: that of its first coordinate, or that of most where they differ."""
    ends = np.cumsum(lengths)
    found = np.zeros(len(lengths), np.int64)
    filled = lengths > 0
    found[filled] = ranks[(ends - lengths)[filled]]
    for number in np.unique(np.repeat(np.arange(len(lengths)), lengths)[ranks != np.repeat(found, lengths)]).tolist():
        values, counts = np.unique(ranks[ends[number] - lengths[number] : ends[number]], return_counts=True)
        found[number] = values[counts.argmax()]
    return found


def _split_by_value(values: Positions) -> list[Any]:
    """For each distinct value the places that have it, in order."""
    if not len(values) or bool((values == values[0]).all()):
        return [slice(None)] if len(values) else []
    order = np.argsort(values, kind="stable")
    return list(np.split(order, np.flatnonzero(np.diff(values[order])) + 1))


def _split_by_owner(rows: Coords, owners: Positions) -> dict[int, Coords]:
    """The rows of each array, in order. `owners` says by row whose it is, those of one array side by side."""
    bounds = [0, *(np.flatnonzero(np.diff(owners)) + 1).tolist(), len(rows)]
    unordered = _unordered(rows, owners)
    found = {}
    for start, stop in pairwise(bounds):
        owner = int(owners[start])
        found[owner] = _ordered(rows[start:stop]) if owner in unordered else rows[start:stop]
    return found


def _unordered(rows: Coords, owners: Positions) -> set[int]:
    """The owners whose rows are not strictly increasing."""
    if len(rows) < 2:
        return set()
    greater = np.zeros(len(rows) - 1, bool)
    equal = owners[1:] == owners[:-1]
    wrong = equal.copy()
    for axis in range(rows.shape[1]):
        before, after = rows[:-1, axis], rows[1:, axis]
        greater |= equal & (after > before)
        equal &= after == before
    wrong &= ~greater
    return set(owners[1:][wrong].tolist())


def _both(first: Coords, second: Coords) -> Coords:
    """The coordinates of an array that is listed twice."""
    parts = [part for part in (first, second) if len(part)]
    if len(parts) == 2 and parts[0].shape[1] == parts[1].shape[1]:
        return _ordered(np.concatenate(parts))
    return max(first, second, key=len)


# ---- writing


def _all_ordered(coords: list[Coords]) -> list[Coords]:
    """Each set of coordinates in lexicographic order; most are so already, which one pass over the small ones tells."""
    coords = [_ordered(each) if len(each) > _LARGE else each for each in coords]
    small = np.array([number for number, each in enumerate(coords) if 1 < len(each) <= _LARGE], np.intp)
    for chosen in _split_by_value(np.array([coords[number].shape[1] for number in small], np.int64)):
        numbers = small[chosen]
        rows = np.concatenate([coords[number] for number in numbers])
        owners = np.repeat(numbers, [len(coords[number]) for number in numbers])
        for number in _unordered(rows, owners):
            coords[number] = _ordered(coords[number])
    return coords


class _ChunksWriter:
    """The payload that `builder` has begun, with the tables of all arrays and their coordinates behind.

    In the order of the bytes: a table per array; a vector of offsets per array; and, array by array, a row of words per
    coordinate, which is its table and right behind it its vector of numbers. So it is known where everything goes before
    any of it is there, and rows are made as they are asked for.
    """

    def __init__(self, builder: Builder, slots: int, node_ids: Sequence[bytes], coords: Sequence[Coords]) -> None:
        arrays_vtable = builder.vtable(_ARRAY_VTABLE)
        self._rows_vtable = builder.vtable(_INDICES_VTABLE)
        builder.pad(4)
        arrays = len(builder.out)
        vectors = arrays + _ARRAY.size * len(coords)
        vectors_end = vectors + sum(4 + 4 * len(each) for each in coords)
        widths = [12 + 4 * each.shape[1] for each in coords]
        ends = accumulate((width * len(each) for width, each in zip(widths, coords, strict=True)), initial=vectors_end)
        self._coords, self._widths, self._starts = coords, widths, list(ends)
        self._vectors = list(accumulate((4 + 4 * len(each) for each in coords), initial=vectors))
        self._padding = bytes(-self._starts[-1] % 8)
        self.size = self._starts[-1] + len(self._padding)
        for number, node_id in enumerate(node_ids):
            at = arrays + _ARRAY.size * number
            builder.refer(slots + 4 * number, at)
            builder.out += _ARRAY.pack(at - arrays_vtable, self._vectors[number] - at - 4, node_id)
        self._head = builder.out

    def pieces(self) -> Iterator[Buffer]:
        """The payload, in pieces."""
        yield self._head
        for coords, width, start, vector in zip(self._coords, self._widths, self._starts, self._vectors, strict=False):
            offsets = np.empty(len(coords) + 1, "<u4")
            offsets[0] = len(coords)
            offsets[1:] = np.arange(len(coords)) * (width - 4) + (start - vector - 4)
            yield offsets.data.cast("B")
        for coords, width, start in zip(self._coords, self._widths, self._starts, strict=False):
            for first in range(0, len(coords), _ROWS_AT_ONCE):
                part = coords[first : first + _ROWS_AT_ONCE]
                rows = np.empty((len(part), width // 4), "<u4")
                rows[:, 0] = np.arange(len(part)) * width + (start + first * width - self._rows_vtable)
                rows[:, 1] = 4
                rows[:, 2] = part.shape[1]
                rows[:, 3:] = part
                yield rows.data.cast("B")
        yield self._padding
