"""Reading one field of a million tables in one pass.

    refs = TableColumns(doc, CHUNK_REF, element_positions(array["refs"]))
    lengths = refs.scalar("length")                    # uint64, the default where absent
    coords = number_rows(doc, refs.targets("index"), U32, "ChunkRef.index")

Tables are grouped by the layout that their vtables tell; in a group each field lies at a constant distance from its table, so a column is one
gather. Where tables follow each other at a constant stride, as they do when written in one go, the gather is a strided
view and costs a sequential copy. Any legal layout is read: tables in any order, vtables shared or not. Every position is
checked against the buffer, all of a column in one comparison, before it is used: numpy would take a negative one from
the end without a word.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from icechunk.flatbuf.reader import Document, VectorView
from icechunk.flatbuf.schema import Scalar, Struct, Table, Union

Positions = npt.NDArray[np.int64]

_DTYPES = {"B": np.uint8, "?": np.bool_, "H": np.uint16, "I": np.uint32, "i": np.int32, "Q": np.uint64}
_MAX_LAYOUTS = 64
_MIN_SHARED = 16
_MIN_RUN = 64


def dtype_of(kind: Scalar) -> np.dtype[Any]:
    """The numpy type of a scalar."""
    return np.dtype(_DTYPES[kind.code]).newbyteorder("<")


class Spots:
    """Many positions in a buffer, from which values at a constant distance are read.

    They are kept as runs of constant stride where those are long enough to pay.
    """

    __slots__ = ("_doc", "_runs", "high", "low", "positions")

    def __init__(self, doc: Document, positions: Positions) -> None:
        self._doc = doc
        self.positions = positions
        self._runs = _runs(positions)
        self.low = int(positions.min()) if len(positions) else 0
        self.high = int(positions.max()) if len(positions) else 0

    def read(self, distance: int, dtype: Any, where: str) -> npt.NDArray[Any]:
        """The values `distance` bytes after each position; of any alignment, possibly a view of the buffer."""
        kind = np.dtype(dtype)
        doc = self._doc
        if not len(self.positions):
            return np.zeros(0, kind)
        if self.low + distance < 0 or self.high + distance + kind.itemsize > doc.size:
            raise doc.fail(where, f"lies outside of the {doc.size} bytes")
        if not kind.itemsize:
            return np.zeros(len(self.positions), kind)
        if self._runs is None:
            window = np.ndarray((doc.size - kind.itemsize + 1,), kind, doc.buf, strides=(1,))
            return window[self.positions + distance if distance else self.positions]
        parts = [
            np.ndarray((count,), kind, doc.buf, start + distance, (stride,)) for start, stride, count in self._runs
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _runs(positions: Positions) -> list[tuple[int, int, int]] | None:
    """Start, stride and count of runs of constant stride; None when there are too many."""
    count = len(positions)
    if count < 2:
        return [(int(position), 0, 1) for position in positions.tolist()]
    strides = np.diff(positions)
    breaks = np.flatnonzero(strides[1:] != strides[:-1])
    if len(breaks) > count // _MIN_RUN:
        return None
    runs, row = [], 0
    for last in [*(breaks + 1).tolist(), count - 1]:
        # The step from one run to the next is no stride of either.
        if last <= row < count - 1 or row == count:
            continue
        runs.append((int(positions[row]), int(strides[row]) if last > row else 0, last - row + 1))
        row = last + 1
    return runs


def element_positions(vector: VectorView) -> Positions:
    """Where the elements of a vector of tables or strings lie; not yet checked, `TableColumns` does that."""
    count = len(vector)
    slots = np.arange(count, dtype=np.int64)
    slots *= 4
    slots += vector.start
    slots += np.ndarray((count,), "<u4", vector.doc.buf, vector.start) if count else 0
    return slots


class TableColumns:
    """Fields of many tables of one kind, each read as an array with one entry per table."""

    def __init__(self, doc: Document, table: Table, positions: Positions) -> None:
        self.doc = doc
        self.table = table
        self.positions = positions
        self._groups: list[tuple[Any, Spots, tuple[int, ...]]] = []
        self._slots: npt.NDArray[np.uint16] | None = None
        if not len(positions):
            return
        every = Spots(doc, positions)
        if every.low <= 0 or every.high > doc.size - 4:
            raise doc.fail(table.name, f"one of {len(positions)} lies outside of the {doc.size} bytes")
        vtables = positions - every.read(0, "<i4", table.name)
        if not self._group(every, vtables):
            self._groups = []
            self._slots = self._read_vtables(vtables)

    def __len__(self) -> int:
        return len(self.positions)

    def _group(self, every: Spots, vtables: Positions) -> bool:
        """Sort tables by the layout that their vtables tell; False when hardly any of them share one."""
        if (vtables == vtables[0]).all():
            self._add_group(slice(None), every)
            return True
        first = np.flatnonzero(np.concatenate(([True], vtables[1:] != vtables[:-1])))
        distinct, number = np.unique(vtables[first], return_inverse=True)
        if len(distinct) > len(vtables) // _MIN_SHARED + _MAX_LAYOUTS:
            return False
        number = np.repeat(number, np.diff(first, append=len(vtables)))
        layouts: dict[tuple[int, ...], int] = {}
        group_of = np.empty(len(distinct), np.int64)
        for index, vtable in enumerate(distinct.tolist()):
            group_of[index] = layouts.setdefault(self.doc.layout_at(self.table, vtable), len(layouts))
        if len(layouts) > _MAX_LAYOUTS:
            return False
        if len(layouts) == 1:
            self._add_group(slice(None), every)
            return True
        group = group_of[number]
        for index in range(len(layouts)):
            rows = np.flatnonzero(group == index)
            self._add_group(rows, Spots(self.doc, self.positions[rows]))
        return True

    def _add_group(self, rows: Any, spots: Spots) -> None:
        layout = self.doc.layout(self.table, int(spots.positions[0]))
        if spots.high + layout[-1] > self.doc.size:
            raise self.doc.fail(self.table.name, f"at {spots.high} reaches past the end")
        self._groups.append((rows, spots, layout))

    def _read_vtables(self, vtables: Positions) -> npt.NDArray[np.uint16]:
        """For tables that hardly share vtables: where each slot of each table lies, 0 for an absent one."""
        doc, table = self.doc, self.table
        where = f"{table.name}, its vtable"
        spots = Spots(doc, vtables)
        lengths = spots.read(0, "<u2", where).astype(np.int64)
        inline = spots.read(2, "<u2", where).astype(np.int64)
        if (lengths < 4).any() or (lengths % 2).any() or (vtables + lengths > doc.size).any():
            raise doc.fail(where, "is broken")
        if (self.positions + inline > doc.size).any():
            raise doc.fail(table.name, "reaches past the end")
        slots = np.zeros((table.slots, len(vtables)), np.uint16)
        for slot in range(table.slots):
            known = np.flatnonzero(lengths >= 6 + 2 * slot)
            slots[slot, known] = Spots(doc, vtables[known]).read(4 + 2 * slot, "<u2", where)
        for field in table.fields.values():
            parts = [(field.slot, 1), (field.slot + 1, 4)] if isinstance(field.type, Union) else [(field.slot, None)]
            for slot, size in parts:
                at = slots[slot].astype(np.int64)
                if field.required and not at.all():
                    raise doc.fail(f"{table.name}.{field.name}", "missing required field")
                width = size or (field.type.size if isinstance(field.type, Scalar | Struct) else 4)
                if ((at > 0) & ((at < 4) | (at + width > inline))).any():
                    raise doc.fail(f"{table.name}.{field.name}", "lies outside of its table")
        return slots

    def _column(self, slot: int, dtype: Any, default: int, where: str) -> npt.NDArray[Any]:
        """The values in a slot."""
        kind = np.dtype(dtype)
        if len(self._groups) == 1 and self._groups[0][2][slot]:
            _, spots, layout = self._groups[0]
            return np.ascontiguousarray(spots.read(layout[slot], kind, where))
        out = np.zeros(len(self), kind)
        if default:
            out[...] = default
        for rows, spots, layout in self._groups:
            if layout[slot]:
                out[rows] = spots.read(layout[slot], kind, where)
        if self._slots is not None:
            rows = np.flatnonzero(self._slots[slot])
            out[rows] = Spots(self.doc, self.positions[rows] + self._slots[slot, rows]).read(0, kind, where)
        return out

    def present(self, name: str) -> npt.NDArray[np.bool_]:
        """Which tables have the field."""
        slot = self.table.fields[name].slot
        out = np.zeros(len(self), np.bool_)
        if self._slots is not None:
            np.not_equal(self._slots[slot], 0, out=out)
        for rows, _, layout in self._groups:
            out[rows] = layout[slot] != 0
        return out

    def layouts(self, name: str) -> npt.NDArray[np.int64]:
        """Where the field's inline part lies in the buffer, 0 where absent."""
        slot = self.table.fields[name].slot
        if self._slots is not None:
            return np.where(self._slots[slot] != 0, self.positions + self._slots[slot], 0)
        out = np.zeros(len(self), np.int64)
        for rows, spots, layout in self._groups:
            if layout[slot]:
                out[rows] = spots.positions + layout[slot]
        return out

    def scalar(self, name: str) -> npt.NDArray[Any]:
        """A column of numbers, the default where absent."""
        field = self.table.fields[name]
        assert isinstance(field.type, Scalar)
        return self._column(field.slot, dtype_of(field.type), field.type.default, f"{self.table.name}.{name}")

    def struct(self, name: str) -> npt.NDArray[np.uint8]:
        """A column of structs as rows of bytes, zeros where absent."""
        field = self.table.fields[name]
        assert isinstance(field.type, Struct)
        size = field.type.size
        column = self._column(field.slot, f"V{size}", 0, f"{self.table.name}.{name}")
        return column.view(np.uint8).reshape(len(self), size)

    def targets(self, name: str) -> Positions:
        """Where the strings, vectors or tables lie to which a field refers, 0 where absent."""
        field = self.table.fields[name]
        return self._targets(field.slot, f"{self.table.name}.{name}")

    def union(self, name: str) -> tuple[npt.NDArray[np.uint8], Positions]:
        """The type codes of a union, and where its tables lie (0 where absent)."""
        field = self.table.fields[name]
        where = f"{self.table.name}.{name}"
        return self._column(field.slot, np.uint8, 0, where), self._targets(field.slot + 1, where)

    def _targets(self, slot: int, where: str) -> Positions:
        out = np.zeros(len(self), np.int64)
        pieces = list(self._groups)
        if self._slots is not None:
            rows = np.flatnonzero(self._slots[slot])
            self._refer(out, rows, Spots(self.doc, self.positions[rows] + self._slots[slot, rows]), 0, where)
        for rows, spots, layout in pieces:
            if layout[slot]:
                self._refer(out, rows, spots, layout[slot], where)
        if len(out) and int(out.max()) > self.doc.size - 4:
            raise self.doc.fail(where, f"points outside of the {self.doc.size} bytes")
        return out

    @staticmethod
    def _refer(out: Positions, rows: Any, spots: Spots, distance: int, where: str) -> None:
        out[rows] = spots.read(distance, "<u4", where) + (spots.positions + distance)


def vector_counts(doc: Document, targets: Positions, width: int, where: str) -> Positions:
    """How many elements of `width` bytes each of many vectors has; 0 where the target is 0, that is absent."""
    if not len(targets):
        return np.zeros(0, np.int64)
    if int(targets.min()) < 0 or int(targets.max()) > doc.size - 4:
        raise doc.fail(where, f"points outside of the {doc.size} bytes")
    counts = Spots(doc, targets).read(0, "<u4", where).astype(np.int64)
    counts[targets == 0] = 0
    if (counts * width + targets > doc.size - 4).any():
        raise doc.fail(where, "its elements reach past the end")
    return counts


def number_rows(doc: Document, targets: Positions, kind: Scalar, where: str) -> npt.NDArray[Any]:
    """Vectors of numbers that all have the same count, as rows of an array."""
    dtype = dtype_of(kind)
    if not len(targets):
        return np.zeros((0, 0), dtype)
    counts = vector_counts(doc, targets, dtype.itemsize, where)
    width = int(counts[0])
    if (counts != width).any():
        raise doc.fail(where, f"some have {int(counts[counts != width][0])} elements, others {width}")
    if not width:
        return np.zeros((len(targets), 0), dtype)
    rows = np.ascontiguousarray(Spots(doc, targets).read(4, f"V{width * dtype.itemsize}", where))
    return rows.view(dtype).reshape(len(targets), width)


def texts(doc: Document, targets: Positions, where: str) -> list[str]:
    """The strings that lie at `targets`, none of them absent."""
    if not len(targets):
        return []
    lengths = vector_counts(doc, targets, 1, where)
    low = int(targets.min()) + 4
    starts = targets + (4 - low)
    ends = starts + lengths
    # Text is sliced as Latin-1, which costs least and is right for ASCII; the others are decoded again.
    whole = str(memoryview(doc.buf)[low : low + int(ends.max())], "latin-1")
    found = [whole[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    if not whole.isascii():
        try:
            found = [text if text.isascii() else text.encode("latin-1").decode() for text in found]
        except UnicodeDecodeError as error:
            raise doc.fail(where, f"is no UTF-8 text ({error})") from None
    return found
