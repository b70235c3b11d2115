"""A changed manifest made from the old one's bytes, when that is less work than writing all of it again.

Two ways, tried in this order:

1. native references that are all there already get their new ids and lengths written over the old ones;
2. in a manifest of our layout new rows are appended as a block of their own, and the vector of the array is written
   anew: it drops what is deleted and points to new rows instead of old ones. Rows that nothing points to remain, up to
   a quarter of all.

Manifests of other writers are patched too, but not appended to: written anew they become smaller, once and for all. In a
segmented file the segments that stay the same are carried over compressed as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from icechunk.flatbuf.columns import Positions, TableColumns, element_positions, number_rows
from icechunk.flatbuf.schema import U32
from icechunk.format.chunk_keys import Coords, joint_keys
from icechunk.format.chunk_table import NATIVE, ChunkTable
from icechunk.format.envelope import MAX_PAYLOAD, Buffer, FileType, seal, seal_pieces
from icechunk.format.manifest_encoding import BlockWriter, head_pieces
from icechunk.format.manifest_layout import ROOMY_FROM, Revised, build_head
from icechunk.format.schemas import CHUNK_REF
from icechunk.format.segments import GAP, SEGMENT_SIZE, Segmentation, SegmentedPayload

if TYPE_CHECKING:
    from icechunk.format.manifest import ArrayRefs, Manifest

_FEW = 256
_MAX_CHANGED = 4
_MAX_DEAD = 4


def revise_manifest(
    old: Manifest,
    manifest_id: bytes,
    node_id: bytes,
    newer: ChunkTable,
    deleted: Coords | None,
    *,
    spec: int,
    level: int = 3,
    segmented: bool = False,
) -> Revised | None:
    """The complete file of manifest `manifest_id`: `old`, its only array changed by `deleted` and then by `newer`.

    None where this cannot be done, or is no better than encoding the whole table.
    """
    gone = deleted if deleted is not None and len(deleted) else None
    if not _worthwhile(old, node_id, len(newer) + (0 if gone is None else len(gone)), spec, segmented):
        return None
    if old.mark is None and (gone is not None or (newer.kind != NATIVE).any()):
        return None
    array = old.array(node_id)
    assert array is not None
    ndim = len(array.coords(0))
    if any(coords is not None and len(coords) and coords.shape[1] != ndim for coords in (newer.coords, gone)):
        return None
    rows, replaces = _locate(array, newer.coords)
    dropped = rows[replaces]
    if gone is not None:
        found, there = _locate(array, gone)
        dropped = np.concatenate((dropped, found[there]))
    revision = _Revision(old, array, manifest_id, spec, level, old.segments if segmented else None)
    if len(dropped) == len(newer) == int(replaces.sum()):
        patched = revision.patch(rows, newer)
        if patched is not None:
            return patched
    return revision.splice(node_id, rows, newer, dropped)


def _worthwhile(old: Manifest, node_id: bytes, changes: int, spec: int, segmented: bool) -> bool:
    if old.node_ids() != [node_id] or (spec == 1 and old.dictionary is not None):
        return False
    if segmented and (old.segments is None or old.mark is None):
        return False
    count = old.count(node_id)
    if old.mark is not None and old.mark.rows < count:
        return False
    return count >= ROOMY_FROM and changes * _MAX_CHANGED <= count


def _locate(array: ArrayRefs, coords: Coords) -> tuple[Positions, npt.NDArray[np.bool_]]:
    """For each of some coordinates, in order: its row or the one in front of which it belongs, and whether it is there."""
    count = len(coords)
    if not count:
        return np.zeros(0, np.int64), np.zeros(0, np.bool_)
    if tuple(coords.min(0).tolist()) > array.coords(array.count - 1):
        return np.full(count, array.count), np.zeros(count, np.bool_)
    if count <= _FEW:
        found = [array.search(tuple(each)) for each in coords.tolist()]
        return np.array([row for row, _ in found], np.int64), np.array([there for _, there in found], np.bool_)
    doc = array.manifest.doc
    known = number_rows(doc, array.columns().targets("index"), U32, "ChunkRef.index")
    mine, wanted = joint_keys(known, coords)
    rows = np.searchsorted(mine, wanted)
    there = np.zeros(count, np.bool_)
    inside = rows < len(mine)
    there[inside] = mine[rows[inside]] == wanted[inside]
    return rows, there


class _Revision:
    """The old manifest and what the new one is to be."""

    def __init__(
        self,
        old: Manifest,
        array: ArrayRefs,
        manifest_id: bytes,
        spec: int,
        level: int,
        segments: SegmentedPayload | None,
    ) -> None:
        self.old = old
        self.array = array
        self.id = manifest_id
        self.spec = spec
        self.level = level
        self.segments = segments

    def patch(self, rows: Positions, newer: ChunkTable) -> Revised | None:
        """Write native references over the rows where they are; None unless all of them have the fields for it."""
        if newer.chunk_ids is None or (newer.kind != NATIVE).any() or newer.offset.any():
            return None
        places = np.array([self.array.place(row) for row in rows.tolist()], np.int64)
        old = self.old
        if self.segments is None:
            old.need(0, old.doc.size)
        tables = TableColumns(old.doc, CHUNK_REF, places)
        ids, lengths = tables.layouts("chunk_id"), tables.layouts("length")
        if not ids.all() or not lengths.all() or tables.scalar("offset").any():
            return None
        if self.segments is None and len(rows) <= _FEW:
            edits = [(at, each.tobytes()) for at, each in zip(ids.tolist(), newer.chunk_ids, strict=True)]
            edits += [(at, each.tobytes()) for at, each in zip(lengths.tolist(), newer.length, strict=True)]
            pieces = _patched(memoryview(old.doc.buf), sorted([(old.id_position, self.id), *edits]))
            return Revised(self._seal_pieces(pieces, old.doc.size), self.array.count)
        payload, changed = self._copy(places)
        _windows(payload, "V12")[ids] = np.ascontiguousarray(newer.chunk_ids).view("V12")[:, 0]
        _windows(payload, "<u8")[lengths] = newer.length
        at = old.id_position
        payload[at : at + len(self.id)] = np.frombuffer(self.id, np.uint8)
        cuts = self.segments.cuts if self.segments is not None else ()
        reuse = {number: number for number in range(len(cuts) + 1) if number not in changed}
        return Revised(self._seal(payload, cuts, reuse), self.array.count)

    def _copy(self, places: Positions) -> tuple[npt.NDArray[np.uint8], set[int]]:
        """A copy of the payload, of a segmented one only of the segments that are to be changed, and their numbers."""
        buf = np.frombuffer(self.old.doc.buf, np.uint8)
        if self.segments is None:
            return buf.copy(), set()
        starts = np.array([start for start, _ in self.segments.bounds])
        changed = {0, *np.unique(np.searchsorted(starts, places, "right") - 1).tolist()}
        payload = np.zeros(len(buf), np.uint8)
        for number in changed:
            start, stop = self.segments.bounds[number]
            self.old.need(start, stop)
            payload[start:stop] = buf[start:stop]
        return payload, changed

    def splice(self, node_id: bytes, rows: Positions, newer: ChunkTable, dropped: Positions) -> Revised | None:
        """New head and vector, old blocks as they are, new rows behind them."""
        old, mark = self.old, self.old.mark
        if mark is None:
            return None
        kept = np.ones(self.array.count, np.bool_)
        kept[dropped] = False
        total = mark.rows + len(newer)
        count = int(kept.sum()) + len(newer)
        if not count or (total - count) * _MAX_DEAD > total:
            return None
        head = build_head(self.id, [(node_id, count)], spec=self.spec, rows=total, dictionary=old.dictionary)
        begin = mark.blocks
        end = old.doc.size + -old.doc.size % 8
        at = head.blocks + end - begin
        blocks_cuts = self._block_cuts()
        if blocks_cuts is None or at >= MAX_PAYLOAD:
            return None
        last = blocks_cuts[-1] + GAP if blocks_cuts else begin
        apart = self.segments is not None and len(newer) > 0 and end - last >= SEGMENT_SIZE
        writer = BlockWriter(at + (GAP if apart else 0), roomy=True)
        added = writer.add(newer, newer.location_text and newer.location_text.compact(), None)
        shift = head.blocks - begin
        places = self._places()[kept]
        if len(places) and int(places.min()) < begin:
            return None
        places = np.insert(places + shift, np.searchsorted(np.flatnonzero(kept), rows), added)
        front = b"".join(head_pieces(head, [places]))
        if self.segments is None:
            old.need(begin, old.doc.size)
            blocks = memoryview(old.doc.buf)[begin:]
            pieces = (front, blocks, bytes(end - old.doc.size), *writer.pieces)
            return Revised(self._seal_pieces(pieces, writer.at), count)
        cuts = [head.tables, head.vectors_end, *(cut + shift for cut in blocks_cuts)]
        payload = np.zeros(writer.at, np.uint8)
        payload[: len(front)] = np.frombuffer(front, np.uint8)
        carried = range(2, len(cuts) + (1 if apart or not len(newer) else 0))
        if len(newer) and not apart:
            self._carry(payload, head.blocks - begin, last)
        tail = b"".join(writer.pieces)
        payload[len(payload) - len(tail) :] = np.frombuffer(tail, np.uint8)
        if apart:
            cuts.append(at)
        return Revised(self._seal(payload, [*cuts, *writer.cuts], {number: number for number in carried}), count)

    def _carry(self, payload: npt.NDArray[np.uint8], shift: int, first: int) -> None:
        """Copy the last segment of the old blocks, which begins at `first`, into the new payload: it is extended."""
        old = self.old
        old.need(first, old.doc.size)
        payload[first + shift : old.doc.size + shift] = np.frombuffer(old.doc.buf, np.uint8)[first:]

    def _places(self) -> Positions:
        """Where the table of each old reference lies."""
        vector = self.array.vector
        self.old.need(vector.start, vector.start + 4 * len(vector))
        return element_positions(vector)

    def _block_cuts(self) -> list[int] | None:
        """Where the old blocks are cut into segments; None when the segments are not as we write them."""
        if self.segments is None:
            return []
        mark, cuts = self.old.mark, self.segments.cuts
        if mark is None or len(cuts) < 2 or cuts[0] != mark.tables or cuts[1] + GAP != mark.blocks:
            return None
        if self.old.doc.size % 8:
            return None
        return list(cuts[2:])

    def _seal(self, payload: Any, cuts: Iterable[int], reuse: dict[int, int]) -> bytes:
        segments = None
        if self.segments is not None:
            segments = Segmentation(tuple(cuts), {new: self.segments.blocks(was) for new, was in reuse.items()})
        return seal(payload.data, FileType.MANIFEST, spec=self.spec, level=self.level, segments=segments)

    def _seal_pieces(self, pieces: Iterable[Buffer], size: int) -> bytes:
        return seal_pieces(pieces, size, FileType.MANIFEST, spec=self.spec, level=self.level)


def _patched(payload: memoryview, edits: Iterable[tuple[int, bytes]]) -> Iterator[Buffer]:
    """The payload with other bytes at some positions, in order; so that a large one is not copied for a few."""
    at = 0
    for start, content in edits:
        yield payload[at:start]
        yield content
        at = start + len(content)
    yield payload[at:]


def _windows(payload: npt.NDArray[np.uint8], dtype: str) -> npt.NDArray[Any]:
    """A value of this type at each byte of the payload."""
    kind = np.dtype(dtype)
    return np.ndarray((len(payload) - kind.itemsize + 1,), kind, payload.data, strides=(1,))
