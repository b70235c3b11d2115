"""Writing the repo object.

    root offset · identifier · landmark | root table, refs, one row per snapshot, vectors of offsets | heap
    ------------------------------------ head -------------------------------------------------------

The head is written anew each time: everything in it has a fixed size or is small, so it is a few passes over columns. The
heap holds the messages and properties of the snapshots and the entries of the log, which refer only to what is in the
heap too. It is taken over as it is, with what is new behind it, sharing the vtables that are there. Entries that the log
drops stay as dead bytes; past a quarter, and when the file is not one of ours, the heap is written anew, unless the log
has entries of a kind that only later versions know: then the whole old file is taken over as the heap.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from icechunk.flatbuf.builder import Builder
from icechunk.flatbuf.columns import Positions, Spots
from icechunk.flatbuf.reader import Document, VectorView
from icechunk.flatbuf.schema import STRING, U8, U16, U32, Required, Table, Vector
from icechunk.format.landmark import ALIGN, LANDMARK_SIZE, Landmark, read_landmark, write_landmark
from icechunk.format.repo_updates import Update, UpdateLog, status_table, update_table
from icechunk.format.schemas import FILE_IDENTIFIER, METADATA_ITEM, REPO, REPO_STATUS, UPDATE
from icechunk.format.snapshot_records import ITEMS, PRUNED, SnapshotRecord, SnapshotTable
from icechunk.format.values import items_of

if TYPE_CHECKING:
    from icechunk.format.repo_info import RepoInfo

_ENTRY_SIZE = 96
"""About what an entry of the log takes."""

_BEARABLE = 4 << 10
"""Dead bytes that nobody minds."""

_HEAD = Table(
    "Repo",
    spec_version=U8,
    tags=Required(Vector(U32)),  # offsets of tables, filled in at the end; likewise those of the others
    branches=Required(Vector(U32)),
    deleted_tags=Required(Vector(STRING)),
    snapshots=Required(Vector(U32)),
    status=Required(REPO_STATUS),
    metadata=Vector(METADATA_ITEM),
    latest_updates=Required(Vector(U32)),
    repo_before_updates=STRING,
    config=Vector(U8),
    enabled_feature_flags=Vector(U16),
    disabled_feature_flags=Vector(U16),
    extra=Vector(U8),
)

_REF_VTABLE = struct.pack("<4H", 8, 12, 4, 8)
_REF_ROW = np.dtype([("soffset", "<i4"), ("name", "<u4"), ("index", "<u4")])
_VTABLE = struct.pack("<7H", 14, 40, 8, 4, 24, 20, 32)
_VTABLE_WITH_PRUNED = struct.pack("<8H", 16, 40, 8, 4, 24, 20, 32, 36)
_ROW = np.dtype(
    [
        ("soffset", "<i4"),
        ("parent", "<i4"),
        ("id", "V12"),
        ("message", "<u4"),
        ("time", "<u8"),
        ("metadata", "<u4"),
        ("pruned", "<u4"),
    ]
)


def encode_payload(info: RepoInfo) -> tuple[bytes, SnapshotTable, UpdateLog]:
    """The flatbuffer of a repo object; and its snapshots and log as they lie in there."""
    heap = _Heap(info.snapshots, info.updates)
    snapshots, updates = heap.snapshots(info.snapshots), heap.updates(info.updates)
    head = Builder(FILE_IDENTIFIER)
    head.out += bytes(LANDMARK_SIZE)
    head.refer(0, head.table(_HEAD, _fields(info)))
    root = Document(head.out, "repo").root(REPO)
    slots = {name: root[name].start for name in ("tags", "branches", "snapshots", "latest_updates")}
    _write_refs(head, slots["tags"], info.tags, info.snapshots)
    _write_refs(head, slots["branches"], info.branches, info.snapshots)
    begin = _write_rows(head, slots["snapshots"], snapshots)
    _refer(head, slots["latest_updates"], begin + updates)
    write_landmark(head.out, Landmark(begin, heap.dead))
    payload = b"".join((head.out, *heap.parts()))
    doc = Document(payload, info.snapshots.doc.file)
    return payload, _moved(snapshots, doc, begin), UpdateLog(doc, begin + updates)


def _fields(info: RepoInfo) -> dict[str, Any]:
    """The root table, with room for the vectors of offsets."""
    return {
        "spec_version": 2,
        "deleted_tags": sorted(info.deleted_tags),
        "status": status_table(info.status),
        "metadata": [{"name": name, "value": value} for name, value in info.stored_metadata],
        "repo_before_updates": info.before_updates,
        "config": info.stored_config,
        "enabled_feature_flags": info.stored_flags[0],
        "disabled_feature_flags": info.stored_flags[1],
        "extra": info.extra,
        "tags": bytes(4 * len(info.tags)),
        "branches": bytes(4 * len(info.branches)),
        "latest_updates": bytes(4 * len(info.updates)),
        "snapshots": bytes(4 * len(info.snapshots)),
    }


def _write_refs(builder: Builder, slots: int, refs: Mapping[str, bytes], snapshots: SnapshotTable) -> None:
    """Append refs, sorted by name, and make the vector at `slots` refer to them."""
    if not refs:
        return
    names = sorted(refs)
    vtable = builder.vtable(_REF_VTABLE)
    builder.pad(4)
    at = len(builder.out) + _REF_ROW.itemsize * np.arange(len(names))
    raw = [name.encode() for name in names]
    strings = [struct.pack("<I", len(each)) + each + bytes(4 - len(each) % 4) for each in raw]
    sizes = np.array([len(each) for each in strings])
    rows = np.zeros(len(names), _REF_ROW)
    rows["soffset"] = at - vtable
    rows["name"] = int(at[-1]) + _REF_ROW.itemsize + np.cumsum(sizes) - sizes - (at + 4)
    rows["index"] = [snapshots.known_row(refs[name]) for name in names]
    builder.out += rows.tobytes()
    builder.out += b"".join(strings)
    _refer(builder, slots, at)


def _write_rows(builder: Builder, slots: int, table: SnapshotTable) -> int:
    """Append the rows of the snapshots; returns where they end, which is where the heap begins."""
    plain, pruned = builder.vtable(_VTABLE), builder.vtable(_VTABLE_WITH_PRUNED)
    builder.pad(ALIGN)
    at = len(builder.out) + _ROW.itemsize * np.arange(len(table))
    begin = len(builder.out) + _ROW.itemsize * len(table)
    has_pruned = table.pruned >= 0
    rows = np.zeros(len(table), _ROW)
    rows["soffset"] = at - np.where(has_pruned, pruned, plain)
    rows["parent"] = table.parents
    rows["id"] = table.ids.view("V12")
    rows["message"] = begin + table.messages - (at + 20)
    rows["time"] = table.times
    rows["metadata"] = begin + table.metadata - (at + 32)
    rows["pruned"] = np.where(has_pruned, begin + table.pruned - (at + 36), 0)
    builder.out += rows.tobytes()
    _refer(builder, slots, at)
    return begin


def _refer(builder: Builder, slots: int, targets: Positions) -> None:
    """Fill in the offsets of a vector whose elements begin at `slots`."""
    offsets = targets - (slots + 4 * np.arange(len(targets)))
    builder.out[slots : slots + 4 * len(targets)] = offsets.astype("<u4").tobytes()


def _moved(table: SnapshotTable, doc: Document, begin: int) -> SnapshotTable:
    """The table whose positions count from the begin of the heap, as it lies in the file."""
    return SnapshotTable(
        doc,
        table.ids,
        table.parents,
        table.times,
        begin + table.messages,
        begin + table.metadata,
        np.where(table.pruned >= 0, begin + table.pruned, 0),
        fresh={},
    )


class _Heap:
    """What is taken over of the old heap, and what is written behind it. Positions count from the begin of the heap."""

    def __init__(self, snapshots: SnapshotTable, updates: UpdateLog) -> None:
        doc = updates.doc
        self._begin, self.dead, _ = read_landmark(doc.buf)
        if not self._holds(snapshots, updates):
            self._begin = self.dead = 0
        self.dead += _ENTRY_SIZE * (updates.stored - len(updates.positions))
        enough = self._begin > 0 and self.dead <= max((doc.size - self._begin) // 4, _BEARABLE)
        self._old: memoryview | None = None
        self._size = 0
        if snapshots.doc is doc and (enough or updates.has_unknown()):
            self._old = memoryview(doc.buf)[self._begin :]
            self._size = len(self._old) + -len(self._old) % ALIGN
        else:
            self.dead = 0
        self._new = _Tail({} if self._old is None else self._known_vtables(doc, snapshots))
        self._empty: int | None = None

    def _holds(self, snapshots: SnapshotTable, updates: UpdateLog) -> bool:
        """Whether all that would be taken over lies in the heap."""
        columns = (snapshots.messages, snapshots.metadata, snapshots.pruned, updates.positions)
        return all(int(column.min(initial=self._begin, where=column > 0)) >= self._begin for column in columns)

    def parts(self) -> tuple[bytes | bytearray | memoryview, ...]:
        """The heap."""
        if self._old is None:
            return (self._new.out,)
        return self._old, bytes(self._size - len(self._old)), self._new.out

    def updates(self, log: UpdateLog) -> Positions:
        """Where the entries of the log lie."""
        if self._old is None:
            return np.array([self._update(update) for update in log], np.int64)
        fresh = np.array([self._update(update) for update in log.fresh], np.int64)
        return np.concatenate((fresh, log.positions - self._begin))

    def snapshots(self, table: SnapshotTable) -> SnapshotTable:
        """The table with positions in the heap; -1 where nothing was pruned."""
        messages, metadata = table.messages - self._begin, table.metadata - self._begin
        pruned = np.where(table.pruned > 0, table.pruned - self._begin, -1)
        rows = [table.known_row(snapshot_id) for snapshot_id in table.fresh]
        bare = np.flatnonzero(table.metadata == 0)
        if self._old is None:
            rows = list(range(len(table)))
        elif len(bare):
            metadata[bare] = self._no_items()
        for row in rows:
            record = table.record(row)
            messages[row] = self._size + self._new.reference(STRING, record.message)
            metadata[row] = self._items(record)
            pruned[row] = self._size + self._new.reference(PRUNED, record.pruned) if record.pruned else -1
        return SnapshotTable(
            table.doc, table.ids, table.parents, table.times, messages, metadata, pruned, fresh=table.fresh
        )

    def _update(self, update: Update) -> int:
        return self._size + self._new.table(UPDATE, update_table(update))

    def _items(self, record: SnapshotRecord) -> int:
        if not record.metadata:
            return self._no_items()
        return self._size + self._new.reference(ITEMS, items_of(record.metadata, 2))

    def _no_items(self) -> int:
        if self._empty is None:
            self._empty = self._size + self._new.reference(ITEMS, ())
        return self._empty

    def _known_vtables(self, doc: Document, snapshots: SnapshotTable) -> dict[bytes, int]:
        """Vtables in the old heap that are likely to be needed, from where the new part will be."""
        tables = []
        log = doc.root(REPO)["latest_updates"]
        for place in range(min(3, len(log))):
            _, kind = log[place]["update_type"]
            tables += [log[place].pos, kind.pos]
        with_items = snapshots.metadata[snapshots.metadata > 0]
        counts = Spots(doc, with_items).read(0, "<u4", "SnapshotInfo.metadata")
        if counts.any():
            tables.append(VectorView(doc, ITEMS, int(with_items[counts.argmax()]), "SnapshotInfo.metadata")[0].pos)
        known = {}
        for table in tables:
            vtable = table - struct.unpack_from("<i", doc.buf, table)[0]
            if vtable >= self._begin:
                content = doc.buf[vtable : vtable + struct.unpack_from("<H", doc.buf, vtable)[0]]
                known[bytes(content)] = vtable - self._begin - self._size
        return known


class _Tail(Builder):
    """A builder of what stands behind other bytes, in which `vtables` lie (at negative positions)."""

    def __init__(self, vtables: Mapping[bytes, int]) -> None:
        super().__init__(b"")
        self.out = bytearray()
        self._vtables = dict(vtables)
