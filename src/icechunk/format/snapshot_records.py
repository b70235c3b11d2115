"""The snapshots that a repo object knows: id, parent, time, message, properties of each (spec 2).

`SnapshotTable` keeps them as columns sorted by id. What has no fixed size (message, properties, pruned logs) stays where
it lies in the bytes, which the columns point into; records added since are values. Parents are rows, so putting a record
between the others moves the numbers of all behind it, in one pass over a column.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from icechunk._dataclass import dataclass
from icechunk.errors import ErrorKind, FormatError, InternalError
from icechunk.flatbuf.columns import Positions, TableColumns, element_positions, vector_counts
from icechunk.flatbuf.reader import Document, VectorView, read_string
from icechunk.flatbuf.schema import Vector
from icechunk.format.ids import format_id
from icechunk.format.nested_columns import nested_tables, read_names
from icechunk.format.schemas import METADATA_ITEM, OBJECT_ID_12, SNAPSHOT_INFO
from icechunk.format.times import checked_time
from icechunk.format.values import decode_flexbuffer, read_items

ITEMS = Vector(METADATA_ITEM)
PRUNED = Vector(OBJECT_ID_12)

_FEW = 32
"""Records that are read one by one before all are read at once."""

_SHORT = 64

Ids = npt.NDArray[np.bytes_]


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """A snapshot as the history knows it.

    `flushed_at` is in microseconds since 1970. `pruned` are the transaction logs (ids of former snapshots) between its
    present parent and itself that expiration cut out, oldest first.
    """

    id: bytes
    parent_id: bytes | None
    flushed_at: int
    message: str
    metadata: dict[str, Any] = field(default_factory=dict)
    pruned: tuple[bytes, ...] = ()


class SnapshotTable:
    """Columns by row, sorted by id. Positions are 0 where a field is absent, and in the rows of `fresh` records.

    A table never changes. Records are read one by one until many were asked for, then all in one pass; `recent` ones need
    not be read, because they were just written.
    """

    __slots__ = (
        "_all",
        "_asked",
        "doc",
        "fresh",
        "ids",
        "messages",
        "metadata",
        "parents",
        "pruned",
        "recent",
        "times",
    )

    def __init__(
        self,
        doc: Document,
        ids: Ids,
        parents: npt.NDArray[np.int32],
        times: npt.NDArray[np.uint64],
        messages: Positions,
        metadata: Positions,
        pruned: Positions,
        fresh: Mapping[bytes, SnapshotRecord],
        recent: Mapping[bytes, SnapshotRecord] | None = None,
    ) -> None:
        self.doc = doc
        self.ids = ids
        self.parents = parents
        self.times = times
        self.messages = messages
        self.metadata = metadata
        self.pruned = pruned
        self.fresh = fresh
        self.recent = {} if recent is None else recent
        self._asked = 0
        self._all: _AllRecords | None = None

    @classmethod
    def read(cls, doc: Document, vector: VectorView) -> tuple[SnapshotTable, Ids]:
        """The columns of the tables in a vector, and the ids in the order of the vector."""
        table = TableColumns(doc, SNAPSHOT_INFO, element_positions(vector))
        count = len(table)
        parents = table.scalar("parent_offset")
        if count and not (int(parents.min()) >= -1 and int(parents.max()) < count):
            raise doc.fail("SnapshotInfo.parent_offset", f"is no row of the {count} snapshots")
        times = table.scalar("flushed_at")
        checked_time(int(times.max(initial=0)), f"{doc.file}: SnapshotInfo.flushed_at")
        ids = table.struct("id").reshape(-1).view("S12")
        columns = [table.targets(name) for name in ("message", "metadata", "pruned_ancestor_tx_logs")]
        stored = ids
        if count > 1 and not (ids[1:] > ids[:-1]).all():
            order = np.argsort(ids, kind="stable")
            ranks = np.empty(count, np.int32)
            ranks[order] = np.arange(count, dtype=np.int32)
            parents = np.where(parents >= 0, ranks[parents], parents)[order]
            ids, times, columns = ids[order], times[order], [column[order] for column in columns]
        messages, metadata, pruned = columns
        return cls(doc, ids, parents, times, messages, metadata, pruned, {}), stored

    @classmethod
    def of(cls, records: Iterable[SnapshotRecord]) -> SnapshotTable:
        """The columns of these records; the parent of each is among them."""
        fresh = {record.id: record for record in records}
        ids = np.frombuffer(b"".join(sorted(fresh)), "S12")
        ordered = [fresh[key] for key in sorted(fresh)]
        rows = {record.id: row for row, record in enumerate(ordered)}
        for record in ordered:
            if record.parent_id is not None and record.parent_id not in rows:
                raise InternalError(f"the snapshot {format_id(record.id)} would lose its parent")
        parents = [-1 if record.parent_id is None else rows[record.parent_id] for record in ordered]
        nowhere = np.zeros(len(ids), np.int64)
        times = np.array([record.flushed_at for record in ordered], np.uint64)
        empty = Document(b"", "repo")
        return cls(empty, ids, np.array(parents, np.int32), times, nowhere, nowhere, nowhere, fresh)

    def __len__(self) -> int:
        return len(self.ids)

    def row(self, snapshot_id: bytes) -> int:
        """The row of a snapshot, -1 for none."""
        place = int(np.searchsorted(self.ids, np.frombuffer(snapshot_id, "S12"))[0])
        return place if place < len(self.ids) and self.id(place) == snapshot_id else -1

    def known_row(self, snapshot_id: bytes) -> int:
        """The row of a snapshot that must be there."""
        row = self.row(snapshot_id)
        if row < 0:
            raise InternalError(f"something leads to the snapshot {format_id(snapshot_id)}, which is not there")
        return row

    def id(self, row: int) -> bytes:
        """The id of a row."""
        return self.ids[row : row + 1].tobytes()

    def record(self, row: int) -> SnapshotRecord:
        """The record of a row."""
        snapshot_id = self.id(row)
        known = self.fresh.get(snapshot_id) or self.recent.get(snapshot_id)
        if known is not None:
            return known
        self._asked += 1
        if self._all is None and self._asked > _FEW:
            self._all = _AllRecords(self)
        if self._all is not None:
            return self._all.record(row)
        parent = int(self.parents[row])
        return SnapshotRecord(
            snapshot_id,
            None if parent < 0 else self.id(parent),
            int(self.times[row]),
            read_string(self.doc, int(self.messages[row]), "SnapshotInfo.message"),
            read_items(self._vector(ITEMS, self.metadata, row, "metadata"), 2, self.doc.file),
            self.pruned_logs(row),
        )

    def pruned_logs(self, row: int) -> tuple[bytes, ...]:
        """The pruned transaction logs of a row."""
        return tuple(self._vector(PRUNED, self.pruned, row, "pruned_ancestor_tx_logs") or ())

    def _vector(self, kind: Vector, column: Positions, row: int, name: str) -> VectorView | None:
        at = int(column[row])
        return VectorView(self.doc, kind, at, f"SnapshotInfo.{name}") if at else None

    def ancestry(self, row: int) -> Lineage:
        """The record of a row, that of its parent, and so on to a root; each is read when it is asked for."""
        parents = self.parents.tolist()
        rows = []
        while row >= 0:
            rows.append(row)
            row = parents[row]
            if len(rows) > len(parents):
                raise FormatError(
                    f"{self.doc.file}: snapshots are parents of each other", ErrorKind.INVALID_FILE_FORMAT
                )
        return Lineage(self, rows)

    def with_record(self, record: SnapshotRecord) -> SnapshotTable:
        """The table with a record more, or with another in the place of the one of this id."""
        place = int(np.searchsorted(self.ids, np.frombuffer(record.id, "S12"))[0])
        parent = -1 if record.parent_id is None else self.known_row(record.parent_id)
        fresh = {**self.fresh, record.id: record}
        new = place == len(self) or self.id(place) != record.id
        parents, put = self.parents, _replaced
        if new:
            parents, put = (parents + (parents >= place)).astype(np.int32), _inserted
            parent += parent >= place
        return SnapshotTable(
            self.doc,
            put(self.ids, place, record.id),
            put(parents, place, parent),
            put(self.times, place, record.flushed_at),
            put(self.messages, place, 0),
            put(self.metadata, place, 0),
            put(self.pruned, place, 0),
            fresh,
        )


class Lineage(Sequence[SnapshotRecord]):
    """The records of some rows, in this order."""

    def __init__(self, table: SnapshotTable, rows: Sequence[int]) -> None:
        self._table = table
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> SnapshotRecord: ...

    @overload
    def __getitem__(self, place: slice) -> Lineage: ...

    def __getitem__(self, place: int | slice) -> SnapshotRecord | Lineage:
        if isinstance(place, slice):
            return Lineage(self._table, self._rows[place])
        return self._table.record(self._rows[place])

    def __iter__(self) -> Iterator[SnapshotRecord]:
        table = self._table
        # what is not fresh comes from the columns directly, once they are there
        return map(table.record if table.fresh or table._all is None else table._all.record, self._rows)


def _replaced(column: npt.NDArray[Any], place: int, value: Any) -> npt.NDArray[Any]:
    column = column.copy()
    column[place] = value
    return column


def _inserted(column: npt.NDArray[Any], place: int, value: Any) -> npt.NDArray[Any]:
    longer = np.empty(len(column) + 1, column.dtype)
    longer[:place] = column[:place]
    longer[place] = value
    longer[place + 1 :] = column[place:]
    return longer


class _AllRecords:
    """The records of all rows that are not fresh, read by column."""

    def __init__(self, table: SnapshotTable) -> None:
        doc = table.doc
        self._table = table
        raw = table.ids.tobytes()
        self._ids = [raw[start : start + 12] for start in range(0, len(raw), 12)]
        self._parents: list[int] = table.parents.tolist()
        self._times: list[int] = table.times.tolist()
        stored = np.flatnonzero(table.messages)
        messages = read_names(doc, table.messages[stored], "SnapshotInfo.message", shared=True)
        self._messages = dict(zip(stored.tolist(), messages, strict=True))
        self._has_pruned: list[bool] = (table.pruned > 0).tolist()

        where = "SnapshotInfo.metadata"
        counts = vector_counts(doc, table.metadata, 4, where)
        rows = np.flatnonzero(counts)
        items = TableColumns(doc, METADATA_ITEM, nested_tables(doc, table.metadata[rows], counts[rows], where))
        self._first: list[int] = (np.cumsum(counts) - counts).tolist()
        self._counts: list[int] = counts.tolist()
        self._names = read_names(doc, items.targets("name"), "MetadataItem.name", shared=True)
        values = items.targets("value")
        self._starts: list[int] = (values + 4).tolist()
        self._stops: list[int] = (values + 4 + vector_counts(doc, values, 1, "MetadataItem.value")).tolist()
        self._known: dict[bytes, Any] = {}

    def record(self, row: int) -> SnapshotRecord:
        parent = self._parents[row]
        return SnapshotRecord(
            self._ids[row],
            None if parent < 0 else self._ids[parent],
            self._times[row],
            self._messages[row],
            self._metadata(row) if self._counts[row] else {},
            self._table.pruned_logs(row) if self._has_pruned[row] else (),
        )

    def _metadata(self, row: int) -> dict[str, Any]:
        first = self._first[row]
        return {self._names[item]: self._value(item) for item in range(first, first + self._counts[row])}

    def _value(self, item: int) -> Any:
        """The value of an item; the same few values (an author, a program) often come again."""
        doc = self._table.doc
        raw = bytes(doc.buf[self._starts[item] : self._stops[item]])
        if raw in self._known:
            return self._known[raw]
        value = decode_flexbuffer(raw, f"{doc.file}: property `{self._names[item]}`")
        if not isinstance(value, list | dict) and len(raw) < _SHORT:
            self._known[raw] = value
        return value
