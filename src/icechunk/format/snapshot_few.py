"""The next snapshot of a small one: what `snapshot_encoding` does by columns, node by node.

A small commit changes a node or two of a few dozen. What numpy takes to be set up for that, a dozen times per commit, is
more than all of this.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from icechunk.format.landmark import ALIGN, EVERYTHING, read_landmark
from icechunk.format.manifest_files import ManifestFile
from icechunk.format.node_writer import NodeWriter, is_vtable_block
from icechunk.format.schemas import MANIFEST_FILE_V2
from icechunk.format.snapshot_nodes import Node

if TYPE_CHECKING:
    from icechunk.flatbuf.reader import VectorView
    from icechunk.format.snapshot import Snapshot

Buffer: TypeAlias = bytes | bytearray | memoryview

FEW = 256
"""Nodes and manifests of a snapshot up to which this is faster than columns."""

FILE_SIZE = 40
"""About what one manifest takes in the list."""

BEARABLE = 4 << 10
"""Dead bytes that nobody minds: carrying them costs less than writing a few nodes anew."""

_MAX_CHANGES = 32
_STRUCT = struct.Struct("<12s4xQI4x")


class Splice(NamedTuple):
    """The parts of the new body, and where in it nodes and manifests (of spec 2) lie; of spec 1 those as structs."""

    parts: list[Buffer]
    nodes: list[int]
    files: list[int]
    structs: bytes
    dead: int
    vtables: int | None


def are_few(base: Snapshot, changes: Mapping[str, Node | None], spec: int) -> bool:
    """Whether a snapshot and what changes in it are small enough for `splice_few`, and whole."""
    doc, table, tables = base.table.doc, base.table, base.files.tables
    if doc.payload is not None or max(len(table), len(base.files)) > FEW or len(changes) > _MAX_CHANGES:
        return False
    if spec > 1 and tables is None:
        return False
    return all(max(_targets(vector), default=0) < doc.size for vector in (table.vector, tables) if vector is not None)


def splice_few(
    base: Snapshot,
    changes: Mapping[str, Node | None],
    added: Mapping[bytes, ManifestFile],
    dropped: Collection[bytes],
    spec: int,
) -> Splice | None:
    """The old body and the changed nodes; None where it is better to write everything anew."""
    doc, table, tables = base.table.doc, base.table, base.files.tables
    begin, dead, vtables = read_landmark(doc.buf)
    nodes, files = _targets(table.vector), _targets(tables) if tables is not None else []
    if min(nodes, default=begin) < begin or min(files, default=begin) < begin:
        begin, dead, vtables = EVERYTHING
    if vtables is not None and not is_vtable_block(doc.buf, begin + vtables):
        vtables = None
    ordered = sorted(changes.items(), key=itemgetter(0))
    rows = [table.equal(path) for path, _ in ordered]
    size = doc.size - begin
    replaced = sum(high - low for low, high in rows)
    dead += replaced * (size // max(len(nodes), 1)) + FILE_SIZE * len(dropped)
    if dead > max(size // 4, BEARABLE) and not table.has_unknown_fields():
        return None

    padding = bytes(-size % ALIGN)
    end = size + len(padding)
    writer = NodeWriter(spec, None, None if vtables is None else vtables - end)
    for _, node in ordered:
        if node is not None:
            writer.add(node)
    gone = {*dropped, *added}
    new_files = [added[manifest_id] for manifest_id in sorted(added)]
    if spec > 1:
        writer.add_files(new_files)
    body = writer.finish(end)

    places = [place - begin for place in nodes]
    new = body.nodes.tolist()
    for (low, high), (_, node) in zip(reversed(rows), reversed(ordered), strict=True):
        places[low:high] = [] if node is None else [new.pop()]
    kept = [(manifest_id, place - begin) for manifest_id, place in _ids(base, files) if manifest_id not in gone]
    kept += zip([file.id for file in new_files], body.files.tolist(), strict=False)
    kept.sort()
    return Splice(
        [memoryview(doc.buf)[begin:], padding, *body.pieces],
        places,
        [place for _, place in kept],
        _structs(base, gone, new_files) if spec == 1 else b"",
        dead,
        end if vtables is None and body.pieces else vtables,
    )


def _targets(vector: VectorView) -> list[int]:
    """Where the elements of a vector of tables lie."""
    start = vector.start
    offsets = struct.unpack_from(f"<{len(vector)}I", vector.doc.buf, start)
    return [start + 4 * place + offset for place, offset in enumerate(offsets)]


def _ids(base: Snapshot, files: Sequence[int]) -> list[tuple[bytes, int]]:
    """The id of each manifest of spec 2, and where its table lies."""
    doc = base.table.doc
    slot = MANIFEST_FILE_V2.fields["id"].slot
    found = []
    for place in files:
        at = place + doc.layout(MANIFEST_FILE_V2, place)[slot]
        found.append((bytes(doc.buf[at : at + 12]), place))
    return found


def _structs(base: Snapshot, gone: Collection[bytes], new: Sequence[ManifestFile]) -> bytes:
    """The list of manifests of spec 1, sorted by id."""
    raw = bytes(base.root["manifest_files"].raw)
    rows = [raw[at : at + _STRUCT.size] for at in range(0, len(raw), _STRUCT.size)]
    rows = [row for row in rows if row[:12] not in gone]
    rows += [_STRUCT.pack(file.id, file.size, file.count) for file in new]
    rows.sort()
    return b"".join(rows)
