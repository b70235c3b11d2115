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
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from icechunk.flatbuf.builder import Builder, Slots, vtable_of
from icechunk.flatbuf.columns import Positions
from icechunk.flatbuf.reader import Document
from icechunk.flatbuf.schema import STRING
from icechunk.format.landmark import ALIGN, EVERYTHING, LANDMARK_SIZE, Landmark, read_landmark, write_landmark
from icechunk.format.repo_updates import Update, UpdateLog, status_table, update_table
from icechunk.format.schemas import FILE_IDENTIFIER, METADATA_ITEM, NEW_COMMIT_UPDATE, REPO, UPDATE
from icechunk.format.snapshot_records import ITEMS, PRUNED, SnapshotRecord, SnapshotTable
from icechunk.format.values import items_of

if TYPE_CHECKING:
    from icechunk.format.repo_info import RepoInfo

_ENTRY_SIZE = 96
"""About what an entry of the log takes."""

_BEARABLE = 4 << 10
"""Dead bytes that nobody minds."""

_FEW = 16
"""Refs up to which writing one by one is faster than by column."""

_COMMON = (
    vtable_of(UPDATE, "update_type", "updated_at"),
    vtable_of(UPDATE, "update_type", "updated_at", "backup_path"),
    vtable_of(NEW_COMMIT_UPDATE, "branch", "new_snap_id"),
    vtable_of(METADATA_ITEM, "name", "value"),
)
"""The vtables that commits need. They stand side by side in the heap, so that each commit finds and shares them."""

_COMMON_BLOCK = b"".join(_COMMON)
_COMMON_PLACES = dict(zip(_COMMON, accumulate(map(len, _COMMON), initial=0), strict=False))

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
    rows, entries, tags, branches = map(Slots, (len(snapshots), len(updates), len(info.tags), len(info.branches)))
    fields = _fields(info) | {"snapshots": rows, "latest_updates": entries}
    fields |= {
        "tags": _few_refs(info.tags, snapshots) or tags,
        "branches": _few_refs(info.branches, snapshots) or branches,
    }
    head.refer(0, head.table(REPO, fields))
    _write_refs(head, tags, info.tags, snapshots)
    _write_refs(head, branches, info.branches, snapshots)
    begin = _write_rows(head, rows.start, snapshots)
    _refer(head, entries.start, begin + updates)
    write_landmark(head.out, Landmark(begin, heap.dead, heap.vtables))
    payload = b"".join((head.out, *heap.parts()))
    doc = Document(payload, info.snapshots.doc.file)
    return payload, _moved(snapshots, doc, begin), UpdateLog(doc, begin + updates, newest=info.updates.newest)


def _fields(info: RepoInfo) -> dict[str, Any]:
    """What the root table has besides refs, snapshots and log."""
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
    }


def _few_refs(refs: Mapping[str, bytes], snapshots: SnapshotTable) -> list[dict[str, Any]] | None:
    """Refs as tables, sorted by name; None for those that are written by column."""
    if not 0 < len(refs) <= _FEW:
        return None
    return [{"name": name, "snapshot_index": snapshots.known_row(refs[name])} for name in sorted(refs)]


def _write_refs(builder: Builder, slots: Slots, refs: Mapping[str, bytes], snapshots: SnapshotTable) -> None:
    """Append refs, sorted by name, and make the vector at `slots` refer to them, if there is one to fill."""
    if not refs or not slots.start:
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
    _refer(builder, slots.start, at)


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
        recent=table.fresh if len(table.fresh) <= _FEW else {},
    )


class _Heap:
    """What is taken over of the old heap, and what is written behind it. Positions count from the begin of the heap."""

    def __init__(self, snapshots: SnapshotTable, updates: UpdateLog) -> None:
        doc = updates.doc
        self._begin, self.dead, self.vtables = read_landmark(doc.buf)
        if not self._holds(snapshots, updates):
            self._begin, self.dead, self.vtables = EVERYTHING
        self.dead += _ENTRY_SIZE * (updates.stored - len(updates.positions))
        enough = self._begin > 0 and self.dead <= max((doc.size - self._begin) // 4, _BEARABLE)
        self._old: memoryview | None = None
        self._size = 0
        if snapshots.doc is doc and (enough or updates.has_unknown()):
            self._old = memoryview(doc.buf)[self._begin :]
            self._size = len(self._old) + -len(self._old) % ALIGN
        else:
            self.dead, self.vtables = 0, None
        if self.vtables is not None and not _is_common_block(doc, self._begin + self.vtables):
            self.vtables = None
        block = b""
        if self.vtables is None:
            self.vtables, block = self._size, _COMMON_BLOCK
        self._new = _Tail(block, {content: self.vtables + at - self._size for content, at in _COMMON_PLACES.items()})
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


def _is_common_block(doc: Document, start: int) -> bool:
    return bytes(doc.buf[start : start + len(_COMMON_BLOCK)]) == _COMMON_BLOCK


class _Tail(Builder):
    """A builder of what stands behind other bytes and begins with `content`; `vtables` may lie in either."""

    def __init__(self, content: bytes, vtables: Mapping[bytes, int]) -> None:
        super().__init__(b"")
        self.out = bytearray(content)
        self._vtables = dict(vtables)
