"""The nodes of a snapshot, where they stand in its bytes.

A snapshot may describe a hundred thousand nodes, of which a session asks for a few. `NodeTable` finds one by binary
search over the sorted paths and parses nothing else; what concerns all of them (paths, kinds, manifests) is read by
column. Of a file in segments only those are decompressed in which something is looked at: `SnapshotDocument.need` is
called before a node is read. What we write in segments keeps all of a node but its metadata in one segment.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import zstandard

from icechunk._dataclass import dataclass
from icechunk.errors import ErrorKind, FormatError
from icechunk.flatbuf.columns import Positions, Spots, TableColumns, element_positions, vector_counts
from icechunk.flatbuf.reader import Document, TableView, VectorView
from icechunk.format.nested_columns import nested_tables, read_names
from icechunk.format.schemas import (
    ARRAY_NODE,
    DIMENSION_NAME,
    DIMENSION_SHAPE_V2,
    MANIFEST_REF,
    NODE_ARRAY,
    NODE_GROUP,
    NODE_SNAPSHOT,
)
from icechunk.format.segments import SegmentedPayload

Buffer: TypeAlias = bytes | bytearray | memoryview
Extents: TypeAlias = tuple[tuple[int, int], ...]

_I32 = struct.Struct("<i").unpack_from
_U32 = struct.Struct("<I").unpack_from
_U64 = struct.Struct("<Q").unpack_from
_PATH = NODE_SNAPSHOT.fields["path"].slot
_KIND = NODE_SNAPSHOT.fields["node_data"].slot
_MAX_CHUNKS = 2**32 - 1
_PAGE = 14
"""Log of the size of the pages of which it is noted whether they are decompressed."""

_KEPT = 64
"""Paths last asked for whose rows are kept: a commit asks for those that it changes again and again."""

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

    __slots__ = ("_valid", "payload")

    def __init__(self, payload: Buffer | SegmentedPayload, file: str) -> None:
        self.payload = payload if isinstance(payload, SegmentedPayload) else None
        super().__init__(payload.buf if isinstance(payload, SegmentedPayload) else payload, file)
        self._valid = bytearray(0 if self.payload is None else (self.size >> _PAGE) + 1)

    def need(self, start: int, stop: int) -> None:
        """Make these bytes valid before they are read."""
        payload = self.payload
        if payload is None:
            return
        page = start >> _PAGE
        if page == stop - 1 >> _PAGE and page < len(self._valid) and self._valid[page]:
            return
        try:
            payload.need(start, stop)
        except zstandard.ZstdError as error:
            raise self.fail("Snapshot", f"cannot be decompressed: {error}") from None
        # remember the pages that lie in this segment from end to end
        number = max(bisect_right(payload.bounds, (start, self.size)) - 1, 0)
        first, last = (payload.bounds[number][0] - 1 >> _PAGE) + 1, payload.bounds[number][1] >> _PAGE
        self._valid[first:last] = b"\1" * max(last - first, 0)

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
        self._last = doc.size - 4  # where the last number of four bytes can begin
        self._path_distances: dict[int, int] = {}
        self._ids: npt.NDArray[np.uint64] | None = None
        self._columns: TableColumns | None = None
        self._paths: list[str] | None = None
        self._rows: dict[str, tuple[int, int]] = {}

    def __len__(self) -> int:
        return self._count

    # ---- one row

    def path_bytes(self, row: int) -> bytes:
        """The path of a row as it is stored. This is every step of a search, so it is written out."""
        doc, buf = self.doc, self.doc.buf
        slot = self.vector.start + 4 * row
        pos = slot + _U32(buf, slot)[0]
        if doc.payload is not None:
            doc.need(pos, pos + 1)
        if pos > self._last:
            raise doc.fail("NodeSnapshot", f"lies at {pos}, outside of the {doc.size} bytes")
        vtable = pos - _I32(buf, pos)[0]
        distance = self._path_distances.get(vtable)
        if distance is None:
            distance = self._path_distances[vtable] = doc.layout(NODE_SNAPSHOT, pos)[_PATH]
        at = pos + distance
        target = at + _U32(buf, at)[0] if at <= self._last else at
        end = target + 4 + _U32(buf, target)[0] if target <= self._last else doc.size + 1
        if end > doc.size:
            raise doc.fail("NodeSnapshot.path", "reaches past the end")
        return bytes(buf[target + 4 : end])

    def path(self, row: int) -> str:
        """The path of a row."""
        if self._paths is not None:
            return self._paths[row]
        return self._text(self.path_bytes(row), "NodeSnapshot.path")

    def is_array(self, row: int) -> bool:
        """Whether the row is an array."""
        pos = self._position(row)
        return self.doc.buf[pos + self.doc.layout(NODE_SNAPSHOT, pos)[_KIND]] == NODE_ARRAY

    def node(self, row: int) -> Node:
        """The node of a row."""
        doc, buf = self.doc, self.doc.buf
        pos = self._position(row)
        id_at, path_at, metadata_at, kind_at, data_at, *_ = doc.layout(NODE_SNAPSHOT, pos)
        node_id = bytes(buf[pos + id_at : pos + id_at + 8])
        path = self._text(self._bytes(pos + path_at, "NodeSnapshot.path"), "NodeSnapshot.path")
        metadata = self._metadata(pos + metadata_at)
        code = buf[pos + kind_at]
        if code == NODE_GROUP:
            return Node(node_id, path, False, metadata)
        if code != NODE_ARRAY or not data_at:
            raise doc.fail("NodeSnapshot.node_data", f"unknown type code {code}")
        at = pos + data_at
        data = at + _U32(buf, at)[0]
        shape_at, names_at, manifests_at, shape_v2_at, _ = doc.layout(ARRAY_NODE, data)
        return Node(
            node_id,
            path,
            True,
            metadata,
            self._shape(data + shape_v2_at) if shape_v2_at else self._regular_shape(data + shape_at),
            self._names(data + names_at) if names_at else None,
            self._manifests(data + manifests_at),
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
        if doc.payload is not None:
            target = at + _U32(doc.buf, at)[0]
            doc.need(target, target + 4)
            if target <= self._last:
                doc.need(target, target + 4 + _U32(doc.buf, target)[0])
        return self._bytes(at, "NodeSnapshot.user_data")

    def _vector(self, at: int, width: int, where: str) -> tuple[int, int]:
        """Where the elements of the vector begin to which the offset at `at` leads, and how many there are."""
        doc = self.doc
        target = at + _U32(doc.buf, at)[0]
        count: int = _U32(doc.buf, target)[0] if target <= self._last else doc.size
        if target + 4 + count * width > doc.size:
            raise doc.fail(where, f"its elements from {target} on reach past the end")
        return target + 4, count

    def _tables(self, at: int, where: str) -> list[int]:
        """Where the tables of a vector lie."""
        start, count = self._vector(at, 4, where)
        offsets = struct.unpack_from(f"<{count}I", self.doc.buf, start)
        return [start + 4 * place + offset for place, offset in enumerate(offsets)]

    def _bytes(self, at: int, where: str) -> bytes:
        start, count = self._vector(at, 1, where)
        return bytes(self.doc.buf[start : start + count])

    def _shape(self, at: int) -> tuple[DimensionShape, ...]:
        doc, buf = self.doc, self.doc.buf
        found = []
        for pos in self._tables(at, "ArrayNodeData.shape_v2"):
            length_at, chunks_at, _ = doc.layout(DIMENSION_SHAPE_V2, pos)
            length = _U64(buf, pos + length_at)[0] if length_at else 0
            found.append(DimensionShape(length, _U32(buf, pos + chunks_at)[0] if chunks_at else 0))
        return tuple(found)

    def _regular_shape(self, at: int) -> tuple[DimensionShape, ...]:
        start, count = self._vector(at, 16, "ArrayNodeData.shape")
        numbers = struct.unpack_from(f"<{2 * count}Q", self.doc.buf, start)
        return tuple(self._regular(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True))

    def _regular(self, length: int, chunk_length: int) -> DimensionShape:
        if not chunk_length and length:
            raise FormatError(
                f"{self.doc.file}: ArrayNodeData.shape: chunks of length 0 in a dimension of length {length}",
                ErrorKind.INVALID_ARRAY_METADATA,
            )
        chunks = min(-(-length // chunk_length), _MAX_CHUNKS) if chunk_length else 0
        return DimensionShape(length, chunks, chunk_length)

    def _names(self, at: int) -> tuple[str | None, ...]:
        where = "DimensionName.name"
        found: list[str | None] = []
        for pos in self._tables(at, "ArrayNodeData.dimension_names"):
            name_at, _ = self.doc.layout(DIMENSION_NAME, pos)
            found.append(self._text(self._bytes(pos + name_at, where), where) if name_at else None)
        return tuple(found)

    def _manifests(self, at: int) -> tuple[ManifestRef, ...]:
        doc, buf = self.doc, self.doc.buf
        found = []
        for pos in self._tables(at, "ArrayNodeData.manifests"):
            id_at, extents_at, _ = doc.layout(MANIFEST_REF, pos)
            start, count = self._vector(pos + extents_at, 8, "ManifestRef.extents")
            numbers = struct.unpack_from(f"<{2 * count}I", buf, start)
            extents = tuple(zip(numbers[::2], numbers[1::2], strict=True))
            found.append(ManifestRef(bytes(buf[pos + id_at : pos + id_at + 12]), extents))
        return tuple(found)

    def _text(self, raw: bytes, where: str) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self.doc.fail(where, f"is no UTF-8 text ({error})") from None

    # ---- rows of a path; text sorts as its UTF-8 bytes do

    def equal(self, path: str) -> tuple[int, int]:
        """The rows of this very path: none or one, more in files that some merges of the reference left."""
        if self._paths is not None:
            low = bisect_left(self._paths, path)
            return low, bisect_right(self._paths, path, low)
        known = self._rows.get(path)
        if known is None:
            raw = path.encode("utf-8", "surrogatepass")
            low = bisect_left(range(self._count), raw, key=self.path_bytes)
            high = low
            while high < self._count and self.path_bytes(high) == raw:
                high += 1
            if len(self._rows) >= _KEPT:
                self._rows.clear()
            known = self._rows[path] = low, high
        return known

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

    def rows_of_ids(self, node_ids: Collection[bytes]) -> list[int]:
        """The rows that have one of these ids, in order."""
        if self._ids is None:
            self._ids = self.columns().struct("id").view("<u8").reshape(-1)
        wanted = np.frombuffer(b"".join(node_ids), "<u8")
        found = self._ids == wanted[0] if len(wanted) == 1 else np.isin(self._ids, wanted)
        rows: list[int] = np.flatnonzero(found).tolist()
        return rows

    def id(self, row: int) -> bytes:
        """The id of a row."""
        return TableView(self.doc, NODE_SNAPSHOT, self._position(row))["id"]  # type: ignore[no-any-return]

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

    def has_unknown_fields(self) -> bool:
        """Whether nodes have fields that only newer versions know, and that writing them anew would lose."""
        positions = self.columns().positions
        if not len(positions):
            return False
        _, data = self.columns().union("node_data")
        for places, known in ((positions, NODE_SNAPSHOT.slots), (data, ARRAY_NODE.slots)):
            vtables = np.unique(places - Spots(self.doc, places).read(0, "<i4", "NodeSnapshot"))
            if int(Spots(self.doc, vtables).read(0, "<u2", "NodeSnapshot").max()) > 4 + 2 * known:
                return True
        return False

    def columns(self) -> TableColumns:
        """The fields of all rows."""
        if self._columns is None:
            positions = element_positions(self.vector)
            self.doc.need_at(positions)
            self._columns = TableColumns(self.doc, NODE_SNAPSHOT, positions)
        return self._columns

    def __iter__(self) -> Iterator[Node]:
        return map(self.node, range(self._count))
