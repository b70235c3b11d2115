"""All chunk references of one array as columns, one row each, sorted by chunk coordinates.

A table is a value: operations return new tables and share what they can. Whatever its size, bulk work is a few passes
of numpy; Python objects are made only for the rows that someone looks at (`ref`, `find`, `items`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from icechunk.format.chunk_keys import (
    Coords,
    Extents,
    RowIndex,
    extents_of,
    is_increasing,
    joint_keys,
    order_keeping_last,
)
from icechunk.format.chunk_ref import ChunkRef, Inline, Native, Virtual
from icechunk.format.text_column import TextColumn, join_texts

NATIVE, VIRTUAL, INLINE = 1, 2, 3

U64: TypeAlias = npt.NDArray[np.uint64]
Rows: TypeAlias = npt.NDArray[np.bool_] | npt.NDArray[np.int64] | slice

_COMPACT_INLINE_BELOW = 0.5


class ChunkTable:
    """Chunk references of one array.

    Attributes
    ----------
    coords : uint32, one row per reference and one column per dimension
        Chunk coordinates, lexicographically sorted and unique.
    kind : uint8
        `NATIVE`, `VIRTUAL` or `INLINE`.
    offset, length : uint64
        The range of bytes in the object; the length of the data itself for inline chunks.
    chunk_ids : uint8, 12 columns, or None
        Ids of native chunks, zeros in other rows; None when there is no native reference.
    location_text, etag_text : TextColumn or None
        Where virtual chunks are and which stand of the object is meant; None when no row has one.
    last_modified : uint32 or None
        Seconds since 1970, 0 for none.
    inline, inline_start : bytes and int64, or None
        The data of all inline chunks, and where in it each one starts (-1 in other rows).

    All arrays are to be treated as immutable.
    """

    __slots__ = (
        "_extents",
        "_index",
        "chunk_ids",
        "coords",
        "etag_text",
        "inline",
        "inline_start",
        "kind",
        "last_modified",
        "length",
        "location_text",
        "offset",
    )

    def __init__(
        self,
        coords: Coords,
        kind: npt.NDArray[np.uint8],
        length: U64,
        offset: U64 | None = None,
        *,
        chunk_ids: npt.NDArray[np.uint8] | None = None,
        location_text: TextColumn | None = None,
        etag_text: TextColumn | None = None,
        last_modified: npt.NDArray[np.uint32] | None = None,
        inline: bytes | None = None,
        inline_start: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Columns as they are, already sorted by unique coordinates; use the class methods for anything else."""
        self.coords = coords
        self.kind = kind
        self.length = length
        self.offset: U64 = np.zeros(len(coords), np.uint64) if offset is None else offset
        self.chunk_ids = chunk_ids
        self.location_text = location_text
        self.etag_text = etag_text
        self.last_modified = last_modified
        self.inline = inline
        self.inline_start = inline_start
        self._extents: Extents | None = None
        self._index: RowIndex | None = None

    # ---------------------------------------------------------------- making tables

    @classmethod
    def empty(cls, ndim: int) -> ChunkTable:
        """No reference at all, of an array of `ndim` dimensions."""
        return cls(np.zeros((0, ndim), np.uint32), np.zeros(0, np.uint8), np.zeros(0, np.uint64))

    @classmethod
    def from_refs(cls, refs: Mapping[tuple[int, ...], ChunkRef], ndim: int) -> ChunkTable:
        """The table of references that are held one by one."""
        if not refs:
            return cls.empty(ndim)
        count = len(refs)
        coords = np.array(list(refs), np.uint32).reshape(count, ndim)
        kind = np.zeros(count, np.uint8)
        offset, length = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
        modified = np.zeros(count, np.uint32)
        start = np.full(count, -1, np.int64)
        ids: dict[int, bytes] = {}
        blobs: list[bytes] = []
        texts: dict[int, tuple[str, str | None]] = {}
        filled = 0
        for row, ref in enumerate(refs.values()):
            length[row] = ref.length
            if isinstance(ref, Inline):
                kind[row], start[row] = INLINE, filled
                blobs.append(ref.data)
                filled += ref.length
                continue
            offset[row] = ref.offset
            if isinstance(ref, Native):
                kind[row], ids[row] = NATIVE, ref.id
            else:
                kind[row], texts[row] = VIRTUAL, (ref.location, ref.etag)
                modified[row] = ref.last_modified
        columns: dict[str, Any] = {}
        if ids:
            columns["chunk_ids"] = np.zeros((count, 12), np.uint8)
            columns["chunk_ids"][list(ids)] = np.frombuffer(b"".join(ids.values()), np.uint8).reshape(-1, 12)
        if texts:
            none = (None, None)
            columns["location_text"] = TextColumn.factorise([texts.get(row, none)[0] for row in range(count)])
            etags = TextColumn.factorise([texts.get(row, none)[1] for row in range(count)])
            columns["etag_text"] = etags if etags.distinct else None
            columns["last_modified"] = modified if modified.any() else None
        if blobs:
            columns |= {"inline": b"".join(blobs), "inline_start": start}
        return cls(coords, kind, length, offset, **columns)._sorted()

    @classmethod
    def from_columns(
        cls,
        coords: npt.ArrayLike,
        locations: Sequence[str] | npt.NDArray[Any],
        offsets: npt.ArrayLike,
        lengths: npt.ArrayLike,
        *,
        codes: npt.ArrayLike | None = None,
        etags: str | Sequence[str | None] | None = None,
        last_modified: int | npt.ArrayLike | None = None,
        ordered: bool = False,
    ) -> ChunkTable:
        """Virtual references in bulk, in any order; of equal coordinates the later one counts.

        With `ordered` the caller vouches that coordinates are sorted already, each there once.

        `locations` has one string per row, or, with `codes`, distinct strings that the codes select. One `etags` string
        or one `last_modified` number (seconds since 1970) holds for all rows.
        """
        where = _as_coords(coords)
        count = len(where)
        if codes is not None:
            location = TextColumn.of_codes(codes, list(locations))
        else:
            location = TextColumn.factorise(locations)
        if isinstance(etags, str):
            etag: TextColumn | None = TextColumn.constant(etags, count)
        else:
            etag = None if etags is None else TextColumn.factorise(etags)
        modified = None if last_modified is None else _column(last_modified, count, np.uint32)
        if len(location) != count or (etag is not None and len(etag) != count):
            raise ValueError(f"{count} coordinates need as many locations and etags")
        if count and int(location.codes.min()) < 0:
            raise ValueError("a virtual reference needs a location")
        table = cls(
            where,
            np.full(count, VIRTUAL, np.uint8),
            _column(lengths, count, np.uint64),
            _column(offsets, count, np.uint64),
            location_text=location,
            etag_text=etag if etag is not None and etag.distinct else None,
            last_modified=modified if modified is not None and modified.any() else None,
        )
        return table if ordered else table._sorted()

    @classmethod
    def from_native(cls, coords: npt.ArrayLike, chunk_ids: npt.ArrayLike, lengths: npt.ArrayLike) -> ChunkTable:
        """Native references in bulk, in any order; ids as 12 bytes a row. Of equal coordinates the later one counts."""
        where = _as_coords(coords)
        count = len(where)
        ids = np.ascontiguousarray(chunk_ids, np.uint8).reshape(count, 12)
        return cls(where, np.full(count, NATIVE, np.uint8), _column(lengths, count, np.uint64), chunk_ids=ids)._sorted()

    @classmethod
    def concat(cls, tables: Sequence[ChunkTable]) -> ChunkTable:
        """All references of all tables; of equal coordinates the one of the later table counts."""
        if not tables:
            raise ValueError("nothing to concatenate")
        filled = [table for table in tables if len(table)]
        if len(filled) < 2:
            return filled[0] if filled else tables[0]
        return _joined(filled)._sorted()

    # ---------------------------------------------------------------- looking into them

    def __len__(self) -> int:
        return len(self.coords)

    def __repr__(self) -> str:
        return f"<ChunkTable of {len(self)} references, {self.ndim} dimensions>"

    @property
    def ndim(self) -> int:
        """Dimensions of the array."""
        return int(self.coords.shape[1])

    @property
    def locations(self) -> list[str] | None:
        """Distinct locations of virtual chunks, possibly some that no row uses; None when there is none."""
        return None if self.location_text is None else self.location_text.distinct

    @property
    def location(self) -> npt.NDArray[np.int32] | None:
        """For each row the position of its location in `locations`, -1 for none."""
        return None if self.location_text is None else self.location_text.codes

    @property
    def etags(self) -> list[str] | None:
        """Distinct etags, as `locations`."""
        return None if self.etag_text is None else self.etag_text.distinct

    @property
    def etag(self) -> npt.NDArray[np.int32] | None:
        """For each row the position of its etag in `etags`, -1 for none."""
        return None if self.etag_text is None else self.etag_text.codes

    @property
    def nbytes(self) -> int:
        """Memory taken, about."""
        arrays = (
            self.coords,
            self.kind,
            self.offset,
            self.length,
            self.chunk_ids,
            self.last_modified,
            self.inline_start,
        )
        texts = (self.location_text, self.etag_text)
        return (
            sum(int(array.nbytes) for array in arrays if array is not None)
            + sum(text.nbytes for text in texts if text is not None)
            + len(self.inline or b"")
        )

    def ref(self, row: int) -> ChunkRef:
        """The reference in one row."""
        kind = self.kind.item(row)
        length = self.length.item(row)
        if kind == NATIVE:
            assert self.chunk_ids is not None
            return Native(self.chunk_ids[row].tobytes(), length, self.offset.item(row))
        if kind == INLINE:
            assert self.inline is not None and self.inline_start is not None
            start = self.inline_start.item(row)
            return Inline(self.inline[start : start + length])
        assert self.location_text is not None
        return Virtual(
            self.location_text.at(row) or "",
            self.offset.item(row),
            length,
            None if self.etag_text is None else self.etag_text.at(row),
            0 if self.last_modified is None else self.last_modified.item(row),
        )

    def row_of(self, coords: Sequence[int]) -> int:
        """The row of a chunk, -1 when there is no reference to it."""
        if self._index is None:
            self._index = RowIndex(self.coords)
        return self._index.find(coords)

    def find(self, coords: Sequence[int]) -> ChunkRef | None:
        """The reference to a chunk, None when there is none."""
        row = self.row_of(coords)
        return None if row < 0 else self.ref(row)

    def items(self) -> Iterator[tuple[tuple[int, ...], ChunkRef]]:
        """Coordinates and references, in order."""
        for start in range(0, len(self), 4096):
            for row, coords in enumerate(self.coords[start : start + 4096].tolist(), start):
                yield tuple(coords), self.ref(row)

    def extents(self) -> Extents:
        """The tight bounding box of the coordinates, half-open on each axis."""
        if self._extents is None:
            self._extents = extents_of(self.coords)
        return self._extents

    def native_ids(self) -> npt.NDArray[np.uint8]:
        """The ids of all native chunks, 12 bytes a row."""
        if self.chunk_ids is None:
            return np.zeros((0, 12), np.uint8)
        native = self.kind == NATIVE
        return self.chunk_ids if native.all() else self.chunk_ids[native]

    # ---------------------------------------------------------------- deriving others

    def take(self, rows: Rows) -> ChunkTable:
        """The table of some rows: a mask, a slice, or row numbers in increasing order."""
        taken = self._take(rows)
        return taken._compact_inline()

    def _take(self, rows: Rows) -> ChunkTable:
        return ChunkTable(
            self.coords[rows],
            self.kind[rows],
            self.length[rows],
            self.offset[rows],
            chunk_ids=None if self.chunk_ids is None else self.chunk_ids[rows],
            location_text=None if self.location_text is None else self.location_text.take(rows),
            etag_text=None if self.etag_text is None else self.etag_text.take(rows),
            last_modified=None if self.last_modified is None else self.last_modified[rows],
            inline=self.inline,
            inline_start=None if self.inline_start is None else self.inline_start[rows],
        )._without_unused()

    @property
    def _has_text(self) -> bool:
        return self.location_text is not None or self.etag_text is not None

    def _without_unused(self) -> ChunkTable:
        """Optional columns of kinds that are not there become None."""
        if self.chunk_ids is not None and not (self.kind == NATIVE).any():
            self.chunk_ids = None
        if self.inline_start is not None and not (self.kind == INLINE).any():
            self.inline = self.inline_start = None
        if self._has_text and not (self.kind == VIRTUAL).any():
            self.location_text = self.etag_text = self.last_modified = None
        return self

    def _compact_inline(self) -> ChunkTable:
        """Let go of inline data when rows no longer use most of it."""
        if self.inline is None or self.inline_start is None:
            return self
        rows = self.kind == INLINE
        lengths = self.length[rows].astype(np.int64)
        if int(lengths.sum()) >= len(self.inline) * _COMPACT_INLINE_BELOW:
            return self
        starts = self.inline_start[rows]
        self.inline = gather_bytes(self.inline, starts, lengths)
        self.inline_start = np.full(len(self), -1, np.int64)
        self.inline_start[rows] = np.cumsum(lengths) - lengths
        return self

    def _sorted(self) -> ChunkTable:
        order = order_keeping_last(joint_keys(self.coords)[0])
        return self if order is None else self._take(order)

    def within(self, box: Sequence[tuple[int, int]]) -> ChunkTable:
        """The rows whose coordinates lie in a box, half-open on each axis."""
        if len(box) != self.ndim:
            raise ValueError(f"a box of {len(box)} dimensions for an array of {self.ndim}")
        extents = self.extents()
        if all(a <= start and stop <= b for (a, b), (start, stop) in zip(box, extents, strict=True)):
            return self
        first, last = 0, len(self)
        if self.ndim:
            first, last = np.searchsorted(self.coords[:, 0], [max(0, box[0][0]), max(0, box[0][1])]).tolist()
        inside = np.ones(max(0, last - first), bool)
        for axis, ((start, stop), (low, high)) in enumerate(zip(box, extents, strict=True)):
            if axis and (start > low or stop < high):
                column = self.coords[first:last, axis]
                inside &= (column >= start) & (column < stop)
        return self.take(np.flatnonzero(inside) + first)

    def overlay(self, newer: ChunkTable, deleted: Coords | None = None) -> ChunkTable:
        """This table with some references deleted, then others written over it."""
        gone = deleted if deleted is not None and len(deleted) else None
        if not len(self) or (not len(newer) and gone is None):
            return newer if not len(self) else self
        parts = [self.coords] + ([newer.coords] if len(newer) else []) + ([gone] if gone is not None else [])
        mine, *others = joint_keys(*parts)
        keep = np.ones(len(self), bool)
        for keys in others:
            at = np.searchsorted(mine, keys)
            at[at == len(mine)] = 0
            keep[at[mine[at] == keys]] = False
        if not len(newer):
            return self if keep.all() else self.take(keep)
        rows = np.concatenate((np.flatnonzero(keep), np.arange(len(self), len(self) + len(newer))))
        keys = np.concatenate((mine, others[0]))[rows]
        if not is_increasing(keys):
            rows = rows[np.argsort(keys, kind="stable")]
        joined = _joined([self, newer])
        return joined if len(rows) == len(joined) and is_increasing(rows) else joined.take(rows)

    def with_coords(self, coords: npt.ArrayLike) -> ChunkTable:
        """The same references under other coordinates, in the order of the rows; of equal ones the later counts."""
        where = _as_coords(coords)
        if len(where) != len(self):
            raise ValueError(f"{len(self)} references need as many coordinates, not {len(where)}")
        moved = self._take(slice(None))
        moved.coords = where
        return moved._sorted()

    # ---------------------------------------------------------------- pickling

    def __reduce__(self) -> tuple[Callable[..., ChunkTable], tuple[Any, ...]]:
        whole = self._take(slice(None))._compact_inline()
        optional = {
            "location_text": whole.location_text,
            "etag_text": whole.etag_text,
            "last_modified": whole.last_modified,
            "inline": whole.inline,
            "inline_start": whole.inline_start,
            "chunk_ids": whole.chunk_ids,
        }
        optional = {name: value for name, value in optional.items() if value is not None}
        packed = (_narrow(whole.coords), _narrow(whole.kind), _narrow(whole.length), _narrow(whole.offset))
        return _restore, (len(self), self.ndim, packed, optional)


def _joined(tables: Sequence[ChunkTable]) -> ChunkTable:
    """The rows of all tables one after the other, not sorted."""
    counts = [len(table) for table in tables]
    inline, starts, filled = [], [], 0
    for table in tables:
        if table.inline is not None and table.inline_start is not None:
            starts.append(np.where(table.inline_start < 0, -1, table.inline_start + filled))
            inline.append(table.inline)
            filled += len(table.inline)
        else:
            starts.append(np.full(len(table), -1, np.int64))

    def optional(name: str, dtype: Any, *width: int) -> Any:
        columns = [getattr(table, name) for table in tables]
        if all(column is None for column in columns):
            return None
        return np.concatenate(
            [
                np.zeros((count, *width), dtype) if column is None else column
                for column, count in zip(columns, counts, strict=True)
            ]
        )

    return ChunkTable(
        np.concatenate([table.coords for table in tables]),
        np.concatenate([table.kind for table in tables]),
        np.concatenate([table.length for table in tables]),
        np.concatenate([table.offset for table in tables]),
        chunk_ids=optional("chunk_ids", np.uint8, 12),
        location_text=join_texts([table.location_text for table in tables], counts),
        etag_text=join_texts([table.etag_text for table in tables], counts),
        last_modified=optional("last_modified", np.uint32),
        inline=b"".join(inline) if inline else None,
        inline_start=np.concatenate(starts) if inline else None,
    )


def gather_bytes(
    data: bytes | bytearray | memoryview, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> bytes:
    """The runs of `data` that begin at `starts`, one after the other."""
    if not len(starts):
        return b""
    if (starts[1:] == starts[:-1] + lengths[:-1]).all():
        return bytes(data[int(starts[0]) : int(starts[-1] + lengths[-1])])
    width = int(lengths[0])
    if width and (lengths == width).all():
        windows = np.ndarray((len(data) - width + 1,), f"V{width}", data, strides=(1,))
        return windows[starts].tobytes()
    view = memoryview(data)
    return b"".join(
        [view[start:stop] for start, stop in zip(starts.tolist(), (starts + lengths).tolist(), strict=True)]
    )


def _as_coords(coords: npt.ArrayLike) -> Coords:
    array = np.asarray(coords)
    if array.ndim != 2:
        raise ValueError("coordinates have one row per reference and one column per dimension")
    if array.dtype != np.uint32 and array.size and (array.min() < 0 or array.max() > 0xFFFFFFFF):
        raise ValueError("chunk coordinates lie between 0 and 4294967295")
    return np.ascontiguousarray(array, np.uint32)


def _column(values: npt.ArrayLike, count: int, dtype: Any) -> npt.NDArray[Any]:
    array = np.asarray(values)
    if array.size and np.issubdtype(array.dtype, np.signedinteger) and array.min() < 0:
        raise ValueError("offsets, lengths and times are not negative")
    return np.ascontiguousarray(np.broadcast_to(array.astype(dtype, copy=False), (count,)))


def _narrow(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The column in as few bytes as it needs: one value when all are equal, else the smallest type."""
    if not column.size:
        return column
    low, high = column.min(), int(column.max())
    if int(low) == high:
        return np.array(high, np.uint64)
    return column.astype(np.min_scalar_type(high), copy=False)


def _restore(count: int, ndim: int, packed: Sequence[npt.NDArray[Any]], optional: dict[str, Any]) -> ChunkTable:
    shapes = ((count, ndim), (count,), (count,), (count,))
    types = (np.uint32, np.uint8, np.uint64, np.uint64)
    columns = [
        np.ascontiguousarray(np.broadcast_to(column.astype(dtype), shape))
        for column, dtype, shape in zip(packed, types, shapes, strict=True)
    ]
    return ChunkTable(*columns, **optional)
