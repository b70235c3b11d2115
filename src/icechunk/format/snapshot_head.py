"""What a snapshot file says of the snapshot itself: parent, time, message, properties; nothing of the nodes.

A walk through a long history needs no more, and reads it several times faster than by setting up all the rest.
"""

from __future__ import annotations

import struct
from typing import TypeAlias

from icechunk.flatbuf.reader import Document, read_string
from icechunk.format import zstd
from icechunk.format.envelope import HEADER_SIZE, LATEST_SPEC, FileType, header_bytes
from icechunk.format.schemas import SNAPSHOT
from icechunk.format.snapshot import Snapshot
from icechunk.format.snapshot_records import SnapshotRecord
from icechunk.format.times import checked_time
from icechunk.format.values import read_items

Buffer: TypeAlias = bytes | bytearray | memoryview

_U32 = struct.Struct("<I").unpack_from
_U64 = struct.Struct("<Q").unpack_from

_MAGIC = header_bytes(FileType.SNAPSHOT, 1)[:12]
_KINDS = {header_bytes(FileType.SNAPSHOT, spec)[36:]: spec for spec in range(1, LATEST_SPEC + 1)}
"""The last bytes of the headers of compressed snapshots, and the spec version that each states."""

_PARENT, _TIME, _MESSAGE, _METADATA = (
    SNAPSHOT.fields[name].slot for name in ("parent_id", "flushed_at", "message", "metadata")
)


def record_of(snapshot_id: bytes, snapshot: Snapshot) -> SnapshotRecord:
    """What a snapshot says of itself, under the id that it goes by."""
    return SnapshotRecord(snapshot_id, snapshot.parent_id, snapshot.flushed_at, snapshot.message, snapshot.metadata)


def read_record(snapshot_id: bytes, data: Buffer, file: str) -> SnapshotRecord:
    """`record_of` the snapshot in a file; `file` is how errors call it. Raises `FormatError`."""
    spec = _KINDS.get(bytes(data[36:HEADER_SIZE]))
    payload = None
    if spec is not None and data[:12] == _MAGIC:
        payload = zstd.decompress_small(memoryview(data)[HEADER_SIZE:])
    if spec is None or payload is None:  # large, in segments, or none at all
        return record_of(snapshot_id, Snapshot.decode(data, file))
    doc = Document(payload, file)
    root = doc.root(SNAPSHOT)
    pos, layout = root.pos, doc.layout(SNAPSHOT, root.pos)
    parent = pos + layout[_PARENT] if layout[_PARENT] else 0
    message = pos + layout[_MESSAGE]
    metadata = pos + layout[_METADATA]
    metadata += _U32(payload, metadata)[0]
    bare = metadata <= doc.size - 4 and not _U32(payload, metadata)[0]
    return SnapshotRecord(
        snapshot_id,
        payload[parent : parent + 12] if parent else None,
        checked_time(_U64(payload, pos + layout[_TIME])[0], f"{file}: Snapshot.flushed_at") if layout[_TIME] else 0,
        read_string(doc, message + _U32(payload, message)[0], "Snapshot.message"),
        {} if bare else read_items(root["metadata"], spec, file),
    )
