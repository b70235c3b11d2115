"""The nodes of a snapshot, where they stand in its bytes.

A snapshot may describe a hundred thousand nodes, of which a session asks for a few. `NodeTable` finds one by binary
search over the sorted paths and parses nothing else; what concerns all of them (paths, kinds, manifests) is read by
column. Of a file in segments only those are decompressed in which something is looked at: `SnapshotDocument.need` is
called before a node is read. What we write in segments keeps all of a node but its metadata in one segment.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import zstandard

from icechunk.errors import ErrorKind, FormatError
from icechunk.flatbuf.columns import Positions, TableColumns, element_positions, vector_counts
from icechunk.flatbuf.reader import Document, TableView, VectorView, read_bytes
from icechunk.format.nested_columns import nested_tables, read_names
from icechunk.format.schemas import ARRAY_NODE, MANIFEST_REF, NODE_ARRAY, NODE_SNAPSHOT
from icechunk.format.segments import SegmentedPayload

Buffer: TypeAlias = bytes | bytearray | memoryview
Extents: TypeAlias = tuple[tuple[int, int], ...]

_U32 = struct.Struct("<I").unpack_from
_PATH = NODE_SNAPSHOT.fields["path"].slot
_KIND = NODE_SNAPSHOT.fields["node_data"].slot
_FEW = 256
"""Rows up to which paths are decoded one by one rather than all of the snapshot by column."""


class DimensionShape(NamedTuple):
    """One dimension of an array: its length, the number of chunks along it, and their length where that is known.

    Spec 1 stores the chunk length, spec 2 the number of chunks (which also fits grids that are not regular).
    """

    length: int
    chunks: int
    chunk_length: int | None = None


class ManifestRef(NamedTuple):
    """A manifest with chunks of an array, and the half-open ranges of coordinates that it has, one per dimension."""

    id: bytes
    extents: Extents


@dataclass(frozen=True, slots=True)
class Node:
    """A group or an array as a snapshot describes it.

    `metadata` is the exact zarr.json. Groups have no shape, dimension names or manifests. `dimension_names` is None
    when the array has none at all; a dimension without a name has None in its place.
    """

    id: bytes
    path: str
    is_array: bool
    metadata: bytes
    shape: tuple[DimensionShape, ...] = ()
    dimension_names: tuple[str | None, ...] | None = None
    manifests: tuple[ManifestRef, ...] = ()


class SnapshotDocument(Document):
    """The bytes of a snapshot, possibly in segments that are decompressed when they are needed."""

    __slots__ = ("payload",)

    def __init__(self, payload: Buffer | SegmentedPayload, file: str) -> None:
        self.payload = payload if isinstance(payload, SegmentedPayload) else None
        super().__init__(payload.buf if isinstance(payload, SegmentedPayload) else payload, file)

    def need(self, start: int, stop: int) -> None:
        """Make these bytes valid before they are read."""
        if self.payload is not None:
            try:
                self.payload.need(start, stop)
            except zstandard.ZstdError as error:
                raise self.fail("Snapshot", f"cannot be decompressed: {error}") from None

    def need_at(self, positions: Positions) -> None:
        """Make the segments valid in which these positions lie."""
        if self.payload is not None and len(positions):
            starts = [start for start, _ in self.payload.bounds]
            for number in np.unique(np.searchsorted(starts, positions, "right") - 1).tolist():
                start = starts[max(number, 0)]
                self.need(start, start + 1)


class NodeTable:
    """The nodes in the order of their paths, by row."""

    def __init__(self, doc: SnapshotDocument, vector: VectorView) -> None:
        self.doc = doc
        self.vector = vector
        self._count = len(vector)
        self._columns: TableColumns | None = None
        self._paths: list[str] | None = None

    def __len__(self) -> int:
        return self._count

    # ---- one row

    def path_bytes(self, row: int) -> bytes:
        """The path of a row as it is stored."""
        doc = self.doc
        pos = self._position(row)
        at = pos + doc.layout(NODE_SNAPSHOT, pos)[_PATH]
        return bytes(read_bytes(doc, at + _U32(doc.buf, at)[0], "NodeSnapshot.path"))

    def path(self, row: int) -> str:
        """The path of a row."""
        if self._paths is not None:
            return self._paths[row]
        return self._text(self.path_bytes(row))

    def is_array(self, row: int) -> bool:
        """Whether the row is an array."""
        pos = self._position(row)
        return self.doc.buf[pos + self.doc.layout(NODE_SNAPSHOT, pos)[_KIND]] == NODE_ARRAY

    def node(self, row: int) -> Node:
        """The node of a row."""
        doc = self.doc
        view = TableView(doc, NODE_SNAPSHOT, self._position(row))
        code, data = view["node_data"]
        metadata = self._metadata(view.position("user_data"))
        if code != NODE_ARRAY:
            return Node(view["id"], view["path"], False, metadata)
        return Node(
            view["id"],
            view["path"],
            True,
            metadata,
            self._shape(data),
            None if data["dimension_names"] is None else tuple(item["name"] for item in data["dimension_names"]),
            self._manifests(data["manifests"]),
        )

    def extra(self, row: int) -> bytes | None:
        """The reserved bytes of a node, which nobody has given a meaning yet."""
        raw = TableView(self.doc, NODE_SNAPSHOT, self._position(row))["extra"]
        return None if raw is None else bytes(raw)

    def _position(self, row: int) -> int:
        slot = self.vector.start + 4 * row
        pos: int = slot + _U32(self.doc.buf, slot)[0]
        if self.doc.payload is not None:
            self.doc.need(pos, pos + 1)
        return pos

    def _metadata(self, at: int) -> bytes:
        doc = self.doc
        target = at + _U32(doc.buf, at)[0]
        doc.need(target, target + 4)
        if doc.payload is not None and target <= doc.size - 4:
            doc.need(target, target + 4 + _U32(doc.buf, target)[0])
        return bytes(read_bytes(doc, target, "NodeSnapshot.user_data"))

    def _shape(self, data: TableView) -> tuple[DimensionShape, ...]:
        if data["shape_v2"] is not None:
            return tuple(DimensionShape(item["array_length"], item["num_chunks"]) for item in data["shape_v2"])
        numbers = struct.unpack(f"<{2 * len(data['shape'])}Q", data["shape"].raw)
        return tuple(self._regular(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True))

    def _regular(self, length: int, chunk_length: int) -> DimensionShape:
        if not chunk_length and length:
            raise FormatError(
                f"{self.doc.file}: ArrayNodeData.shape: chunks of length 0 in a dimension of length {length}",
                ErrorKind.INVALID_ARRAY_METADATA,
            )
        return DimensionShape(length, -(-length // chunk_length) if chunk_length else 0, chunk_length)

    def _manifests(self, vector: VectorView) -> tuple[ManifestRef, ...]:
        found = []
        for item in vector:
            extents = item["extents"]
            numbers = struct.unpack(f"<{2 * len(extents)}I", extents.raw)
            found.append(ManifestRef(item["object_id"], tuple(zip(numbers[::2], numbers[1::2], strict=True))))
        return tuple(found)

    def _text(self, raw: bytes) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self.doc.fail("NodeSnapshot.path", f"is no UTF-8 text ({error})") from None

    # ---- rows of a path; text sorts as its UTF-8 bytes do

    def equal(self, path: str) -> tuple[int, int]:
        """The rows of this very path: none or one, more in files that some merges of the reference left."""
        if self._paths is not None:
            low = bisect_left(self._paths, path)
            return low, bisect_right(self._paths, path, low)
        raw = path.encode("utf-8", "surrogatepass")
        low = bisect_left(range(self._count), raw, key=self.path_bytes)
        high = low
        while high < self._count and self.path_bytes(high) == raw:
            high += 1
        return low, high

    def below(self, path: str) -> tuple[int, int]:
        """The rows of all that lies below a path, which stand together."""
        if path == "/":
            return self.equal("/")[1], self._count
        # "0" is the character after "/"
        return self._first(path + "/"), self._first(path + "0")

    def _first(self, path: str) -> int:
        if self._paths is not None:
            return bisect_left(self._paths, path)
        return bisect_left(range(self._count), path.encode("utf-8", "surrogatepass"), key=self.path_bytes)

    def paths_of(self, low: int, high: int) -> list[str]:
        """The paths of some rows."""
        if self._paths is None and high - low <= _FEW:
            return [self.path(row) for row in range(low, high)]
        return self.paths()[low:high]

    # ---- all rows

    def paths(self) -> list[str]:
        """The paths of all rows; the list is kept, do not change it."""
        if self._paths is None:
            self._paths = read_names(self.doc, self.columns().targets("path"), "NodeSnapshot.path")
        return self._paths

    def ids(self) -> npt.NDArray[np.uint8]:
        """The ids of all rows, 8 bytes each."""
        return self.columns().struct("id")

    def arrays(self) -> npt.NDArray[np.intp]:
        """The rows that are arrays."""
        return np.flatnonzero(self.columns().union("node_data")[0] == NODE_ARRAY)

    def arrays_with_manifests(self) -> npt.NDArray[np.intp]:
        """The rows of the arrays that refer to a manifest."""
        rows, counts, _ = self._manifest_vectors()
        return rows[counts > 0]

    def manifest_refs(self) -> npt.NDArray[np.uint8]:
        """The manifest id of every reference of every array, 12 bytes each."""
        _, counts, targets = self._manifest_vectors()
        tables = nested_tables(self.doc, targets, counts, "ArrayNodeData.manifests")
        return TableColumns(self.doc, MANIFEST_REF, tables).struct("object_id")

    def _manifest_vectors(self) -> tuple[npt.NDArray[np.intp], Positions, Positions]:
        """For each array: its row, and the length and place of its vector of manifests."""
        codes, tables = self.columns().union("node_data")
        rows = np.flatnonzero(codes == NODE_ARRAY)
        targets = TableColumns(self.doc, ARRAY_NODE, tables[rows]).targets("manifests")
        return rows, vector_counts(self.doc, targets, 4, "ArrayNodeData.manifests"), targets

    def columns(self) -> TableColumns:
        """The fields of all rows."""
        if self._columns is None:
            positions = element_positions(self.vector)
            self.doc.need_at(positions)
            self._columns = TableColumns(self.doc, NODE_SNAPSHOT, positions)
        return self._columns

    def __iter__(self) -> Iterator[Node]:
        return map(self.node, range(self._count))
