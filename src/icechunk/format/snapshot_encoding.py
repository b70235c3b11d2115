"""Writing snapshots.

    root offset · identifier · landmark | root table, properties, vector of nodes, vector of manifests | body
    ------------------------------------- head ------------------------------------------------------

Offsets inside of nodes are relative, so the nodes of the snapshot before stay valid wherever they are put: a new snapshot
is a new head, the old body as it is, and the changed nodes behind it. That works on any legal file, the reference's
included. What is replaced stays in the body as dead bytes; past a quarter (and 4 KiB) all nodes are written anew.

In a file in segments the head is the first of them. Segments of the body are taken over compressed; what is new goes
into one at the end, together with the last one before as long as that is small.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from icechunk._dataclass import dataclass
from icechunk.errors import InternalError
from icechunk.flatbuf.builder import Builder, Slots
from icechunk.flatbuf.columns import element_positions
from icechunk.format.envelope import FileType, seal
from icechunk.format.ids import INITIAL_SNAPSHOT_ID
from icechunk.format.landmark import ALIGN, EVERYTHING, LANDMARK_SIZE, Landmark, read_landmark, write_landmark
from icechunk.format.manifest_files import MANIFEST_FILE_STRUCT, ManifestFile
from icechunk.format.node_writer import NodeWriter, is_vtable_block
from icechunk.format.schemas import (
    FILE_IDENTIFIER,
    SNAPSHOT,
)
from icechunk.format.segments import GAP, SEGMENT_SIZE, Segmentation, SegmentedPayload
from icechunk.format.snapshot_few import BEARABLE, FILE_SIZE, are_few, splice_few
from icechunk.format.snapshot_nodes import Node, SnapshotDocument
from icechunk.format.values import items_of

if TYPE_CHECKING:
    from icechunk.format.snapshot import Snapshot

Buffer: TypeAlias = bytes | bytearray | memoryview
Positions: TypeAlias = npt.NDArray[np.int64]

INITIAL_MESSAGE = "Repository initialized"
INITIAL_METADATA: dict[str, Any] = {"__icechunk": {"is_root": True}}

_MANY = 64
_LARGE = 1 << 20


def encode_snapshot(
    *,
    spec: int,
    id: bytes,
    parent_id: bytes | None,
    flushed_at: int,
    message: str,
    metadata: Mapping[str, Any],
    base: Snapshot | None,
    changes: Mapping[str, Node | None],
    add_manifests: Iterable[ManifestFile],
    drop_manifests: Collection[bytes],
    level: int = 3,
    segmented: bool = False,
) -> bytes:
    """The file of a snapshot.

    It has the nodes of `base`, carried over as they are, except those at the paths in `changes`, which become what is
    said there and go where that is None; likewise the manifests of `base` without `drop_manifests` and with
    `add_manifests`. `parent_id` is stored by spec 1 only; `flushed_at` is in microseconds since 1970.
    """
    _check(changes)
    files = {file.id: file for file in add_manifests}
    plan = None
    if base is not None and base.spec == spec:
        if not segmented and are_few(base, changes, spec):
            few = splice_few(base, changes, files, drop_manifests, spec)
            plan = None if few is None else _Plan(*few)
        else:
            plan = _spliced(base, changes, files, frozenset(drop_manifests), spec, segmented)
    if plan is None:
        plan = _rewritten(base, changes, files, frozenset(drop_manifests), spec, segmented)
    head = {
        "id": id,
        "parent_id": parent_id if spec == 1 else None,
        "flushed_at": flushed_at,
        "message": message,
        "metadata": items_of(metadata, spec),
    }
    return plan.seal(head, spec, level)


def encode_initial_snapshot(spec: int, flushed_at: int) -> bytes:
    """The file of the snapshot with which a repository begins: no parent and no node."""
    return encode_snapshot(
        spec=spec,
        id=INITIAL_SNAPSHOT_ID,
        parent_id=None,
        flushed_at=flushed_at,
        message=INITIAL_MESSAGE,
        metadata=INITIAL_METADATA,
        base=None,
        changes={},
        add_manifests=(),
        drop_manifests=(),
    )


def _check(changes: Mapping[str, Node | None]) -> None:
    for path, node in changes.items():
        if node is not None and node.path != path:
            raise InternalError(f"the node of `{node.path}` was to be written as `{path}`")


@dataclass
class _Plan:
    """What follows the head: parts of the body, and where nodes and manifests lie in them."""

    parts: list[Buffer]
    nodes: Positions | list[int]
    files: Positions | list[int]  # of spec 2
    structs: bytes = b""  # the manifests of spec 1
    dead: int = 0
    vtables: int | None = None
    reuse: list[Buffer | None] = field(default_factory=list)  # per part, when it is a segment: its compressed blocks
    segmented: bool = False

    def seal(self, head: dict[str, Any], spec: int, level: int) -> bytes:
        """The file, under a root table with these fields."""
        if not self.segmented:
            out = self._head(head, spec, 0)
            return seal(_joined([out, *self.parts]), FileType.SNAPSHOT, spec=spec, level=level)
        out = self._head(head, spec, GAP if self.parts else 0)
        ends = [len(out)]
        for part in self.parts:
            ends.append(ends[-1] + GAP + len(part))
        # The content of segments that are taken over is not looked at, so it is not copied: those pages stay zero.
        payload = np.zeros(ends[-1], np.uint8)
        reuse = {}
        for number, (part, end) in enumerate(zip([out, *self.parts], ends, strict=True)):
            blocks = self.reuse[number - 1] if number else None
            if blocks is None:
                payload[end - len(part) : end] = np.frombuffer(part, np.uint8)
            else:
                reuse[number] = blocks
        return seal(payload.data, FileType.SNAPSHOT, spec=spec, level=level, segments=Segmentation(ends[:-1], reuse))

    def _head(self, fields: dict[str, Any], spec: int, gap: int) -> bytearray:
        """Everything before the body, which begins `gap` bytes after the end."""
        builder = Builder(FILE_IDENTIFIER)
        builder.out += bytes(LANDMARK_SIZE)
        nodes, files = Slots(len(self.nodes)), Slots(len(self.files))
        lists = {"nodes": nodes, "manifest_files": self.structs, "manifest_files_v2": files if spec > 1 else None}
        builder.refer(0, builder.table(SNAPSHOT, fields | lists))
        builder.pad(ALIGN)
        out = builder.out
        body = len(out) + gap
        write_landmark(out, Landmark(body, self.dead, self.vtables))
        _refer(out, nodes.start, body, self.nodes)
        _refer(out, files.start, body, self.files)
        return out


def _refer(out: bytearray, start: int, body: int, positions: Positions | list[int]) -> None:
    """Fill in the offsets of a vector whose elements begin at `start`; positions count from the begin of the body."""
    if isinstance(positions, list):
        ahead = body - start
        offsets = [place + ahead - 4 * row for row, place in enumerate(positions)]
        struct.pack_into(f"<{len(offsets)}I", out, start, *offsets)
    elif len(positions):
        slots = start + 4 * np.arange(len(positions))
        np.ndarray((len(positions),), "<u4", out, start)[:] = body + positions - slots


def _joined(parts: list[Buffer]) -> Buffer:
    """All parts in one buffer; a large one comes from numpy, whose memory lies on large pages."""
    size = sum(map(len, parts))
    if size < _LARGE:
        return b"".join(parts)
    whole = np.empty(size, np.uint8)
    at = 0
    for part in parts:
        whole[at : at + len(part)] = np.frombuffer(part, np.uint8)
        at += len(part)
    return whole.data


# ---- from scratch


def _rewritten(
    base: Snapshot | None,
    changes: Mapping[str, Node | None],
    added: Mapping[bytes, ManifestFile],
    dropped: frozenset[bytes],
    spec: int,
    segmented: bool,
) -> _Plan:
    """Every node anew."""
    writer = NodeWriter(spec, SEGMENT_SIZE if segmented else None)
    for node, extra in _merged(base, changes):
        writer.add(node, extra)
    files = {file.id: file for file in base.files if file.id not in dropped} if base is not None else {}
    ordered = [file for _, file in sorted((files | dict(added)).items())]
    if spec > 1:
        writer.add_files(ordered)
    body = writer.finish()
    return _Plan(
        list(body.pieces),
        body.nodes,
        body.files,
        structs=_structs(ordered).tobytes() if spec == 1 else b"",
        vtables=0 if body.pieces and not segmented else None,
        reuse=[None] * len(body.pieces),
        segmented=segmented,
    )


def _merged(base: Snapshot | None, changes: Mapping[str, Node | None]) -> Iterator[tuple[Node, bytes | None]]:
    """The nodes of the new snapshot in order, each with its reserved bytes."""
    new = [node for _, node in sorted(changes.items()) if node is not None]
    at = 0
    if base is not None and len(base):
        table = base.table
        extras = set(np.flatnonzero(table.columns().present("extra")).tolist())
        for row, path in enumerate(table.paths()):
            while at < len(new) and new[at].path < path:
                yield new[at], None
                at += 1
            if path not in changes:
                yield table.node(row), table.extra(row) if row in extras else None
    for node in new[at:]:
        yield node, None


def _structs(files: Collection[ManifestFile]) -> npt.NDArray[Any]:
    rows = np.zeros(len(files), MANIFEST_FILE_STRUCT)
    rows["id"] = np.frombuffer(b"".join(file.id for file in files), "V12")
    rows["size"] = [file.size for file in files]
    rows["count"] = [file.count for file in files]
    return rows


# ---- on top of the bytes of the snapshot before


def _spliced(
    base: Snapshot,
    changes: Mapping[str, Node | None],
    added: Mapping[bytes, ManifestFile],
    dropped: frozenset[bytes],
    spec: int,
    segmented: bool,
) -> _Plan | None:
    """The old body and the changed nodes; None where it is better to write everything anew."""
    old = _OldBody(base, segmented)
    if not old.usable:
        return None
    keep, places = _rows_to_keep(base, changes)
    files = _FileList(base, added, dropped, spec)
    replaced = len(base) - int(keep.sum())
    dead = old.dead + replaced * (old.size // max(len(base), 1)) + FILE_SIZE * len(dropped)
    if dead > max(old.size // 4, BEARABLE) and not base.table.has_unknown_fields():
        return None

    writer = NodeWriter(spec, SEGMENT_SIZE if segmented else None, old.block)
    for _, node in sorted(changes.items()):
        if node is not None:
            writer.add(node)
    if spec > 1:
        writer.add_files(files.written)
    body = writer.finish(old.end)
    parts, reuse = old.extended(body.pieces)
    return _Plan(
        parts,
        np.insert(old.nodes[keep], places, body.nodes),
        files.merged(old.files, body.files),
        structs=files.structs() if spec == 1 else b"",
        dead=dead,
        vtables=old.vtables if old.vtables is not None or segmented or not body.pieces else old.end,
        reuse=reuse,
        segmented=segmented,
    )


class _OldBody:
    """The body of the snapshot before, as it is carried over. Positions are relative to its begin.

    `end` is where new bytes go. In a file in segments that is in the last one while that is small. A body that is not cut
    into segments as it should be is not `usable`.
    """

    def __init__(self, base: Snapshot, segmented: bool) -> None:
        doc = base.table.doc
        begin, self.dead, self.vtables = read_landmark(doc.buf)
        nodes = element_positions(base.table.vector)
        files = element_positions(base.files.tables) if base.files.tables is not None else nodes[:0]
        if any(len(positions) and int(positions.min()) < begin for positions in (nodes, files)):
            begin, self.dead, self.vtables = EVERYTHING
        self.nodes, self.files = nodes - begin, files - begin
        self._segments = doc.payload if segmented else None
        self.usable = not segmented or _begins_with_a_segment(doc, begin)
        if self._segments is not None:
            self._open_segments(doc, self._segments, begin)
        else:
            doc.need(0, doc.size)
            self.parts: list[Buffer] = [memoryview(doc.buf)[begin:], bytes((begin - doc.size) % ALIGN)]
            self.end = doc.size - begin + len(self.parts[1])
            self._known: list[Buffer | None] = [None, None]
        self.size = doc.size - begin
        if self.vtables is not None and not is_vtable_block(doc.buf, begin + self.vtables):
            self.vtables = None
        self.block = None if self.vtables is None else self.vtables - self.end

    def _open_segments(self, doc: SnapshotDocument, payload: SegmentedPayload, begin: int) -> None:
        self.vtables = None
        bounds = payload.bounds[1:]
        self.parts = [payload.buf[start:stop] for start, stop in bounds]
        self._known = [payload.blocks(number) for number in range(1, len(payload.bounds))]
        self.end = (bounds[-1][1] - begin + GAP) if bounds else 0
        if bounds and len(self.parts[-1]) < SEGMENT_SIZE // 4:
            self.end -= GAP
            doc.need(*bounds[-1])

    def extended(self, pieces: Sequence[Buffer]) -> tuple[list[Buffer], list[Buffer | None]]:
        """The parts, and of each the compressed form where it can be taken over, with what is new at the end."""
        parts, known = list(self.parts), list(self._known)
        for number, piece in enumerate(pieces):
            if number == 0 and self._segments is not None and parts and len(parts[-1]) < SEGMENT_SIZE // 4:
                parts[-1] = b"".join((parts[-1], piece))
                known[-1] = None
            else:
                parts.append(piece)
                known.append(None)
        return parts, known


def _begins_with_a_segment(doc: SnapshotDocument, begin: int) -> bool:
    """Whether the file is in segments, and the body that begins there is all of them but the first."""
    bounds = [] if doc.payload is None else doc.payload.bounds
    return begin == (bounds[1][0] if len(bounds) > 1 else doc.size) if bounds else False


def _rows_to_keep(base: Snapshot, changes: Mapping[str, Node | None]) -> tuple[npt.NDArray[np.bool_], Positions]:
    """Which rows of `base` stay, and before which of those each new node goes, in the order of their paths."""
    table = base.table
    if len(changes) > _MANY:
        table.paths()  # a search in this list is faster than one in the bytes
    keep = np.ones(len(table), bool)
    rows = []
    for path, node in sorted(changes.items()):
        low, high = table.equal(path)
        keep[low:high] = False
        if node is not None:
            rows.append(low)
    before = np.concatenate((np.zeros(1, np.int64), np.cumsum(keep)))
    return keep, before[np.array(rows, np.intp)]


class _FileList:
    """The manifests of the new snapshot, sorted by id: rows of the old list, and new ones between them."""

    def __init__(
        self, base: Snapshot, added: Mapping[bytes, ManifestFile], dropped: frozenset[bytes], spec: int
    ) -> None:
        self._old = base.files
        self.written = [added[manifest_id] for manifest_id in sorted(added)]
        if spec > 1 and base.files.tables is None:
            kept = {file.id: file for file in base.files if file.id not in dropped}
            self.written = [file for _, file in sorted((kept | dict(added)).items())]
            self._rows = self._places = np.zeros(0, np.intp)
        elif not added and not dropped:
            self._rows, self._places = np.arange(len(base.files)), np.zeros(0, np.intp)
        else:
            ids, order = base.files.by_id()
            keep = np.ones(len(ids), bool)
            for manifest_id in (*added, *dropped):
                key = np.frombuffer(manifest_id, "S12")
                keep[int(np.searchsorted(ids, key)[0]) : int(np.searchsorted(ids, key, "right")[0])] = False
            self._rows = order[keep]
            new = np.frombuffer(b"".join(file.id for file in self.written), "S12")
            self._places = np.searchsorted(ids[keep], new)

    def merged(self, old: Positions, new: Positions) -> Positions:
        """Where the tables lie, old and new ones in order."""
        if not len(old):
            return new
        return np.insert(old[self._rows], self._places, new)

    def structs(self) -> bytes:
        """The list as structs."""
        ids, sizes, counts = self._old.columns()
        rows = np.zeros(len(self._rows), MANIFEST_FILE_STRUCT)
        rows["id"], rows["size"], rows["count"] = ids[self._rows].view("V12"), sizes[self._rows], counts[self._rows]
        return np.insert(rows, self._places, _structs(self.written)).tobytes()
