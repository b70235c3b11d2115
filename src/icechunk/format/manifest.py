"""Manifests: files of chunk references, read in three states.

`Manifest.decode` only opens the envelope. `find` looks for one reference by bisection, parsing the few that it meets;
where the array's extents are known the first probe is usually the right one. `table` reads all references of an array as
columns. After many lookups `find` goes over to the table by itself.

Of a segmented file no more is decompressed than is looked at, of other large ones no more than what is in front of that.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import zstandard

from icechunk.flatbuf.columns import Positions, TableColumns, element_positions, number_rows, vector_counts
from icechunk.flatbuf.reader import Document, TableView, VectorView, read_bytes, read_string
from icechunk.flatbuf.schema import U32
from icechunk.format.chunk_keys import is_increasing, joint_keys
from icechunk.format.chunk_ref import ChunkRef, Inline, Native, Virtual
from icechunk.format.chunk_table import INLINE, NATIVE, VIRTUAL, ChunkTable, gather_bytes
from icechunk.format.envelope import HEADER_SIZE, MAX_PAYLOAD, Buffer, FileType, check_header, open_envelope
from icechunk.format.gradual import GradualPayload, open_gradual
from icechunk.format.location_compression import LocationCompression, decompress_locations
from icechunk.format.manifest_layout import Mark, Revised, read_mark
from icechunk.format.schemas import CHUNK_REF, MANIFEST
from icechunk.format.segments import SegmentedPayload, open_segments
from icechunk.format.stored_text import StoredText

if TYPE_CHECKING:
    from icechunk.format.manifest_encoding import encode_manifest
    from icechunk.format.manifest_few import FEW, encode_few, revise_few
    from icechunk.format.manifest_revision import revise_manifest

__all__ = [
    "FEW",
    "LocationCompression",
    "Manifest",
    "Revised",
    "encode_few",
    "encode_manifest",
    "revise_few",
    "revise_manifest",
]

_WRITERS = {  # who only reads does without these modules
    "encode_manifest": "manifest_encoding",
    "FEW": "manifest_few",
    "encode_few": "manifest_few",
    "revise_few": "manifest_few",
    "revise_manifest": "manifest_revision",
}

_MIN_PROBES, _MAX_PROBES = 1_000, 12_000
"""So many probes, in between those of an eighth of the references, before all are read: that costs as much."""

_BYTES_PER_REF = 16
_ZSTD = 1

_U32 = struct.Struct("<I").unpack_from
_SLOT = {name: field.slot for name, field in CHUNK_REF.fields.items()}


def __getattr__(name: str) -> Any:
    module = _WRITERS.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"icechunk.format.{module}"), name)
    return value


@cache
def _coords(ndim: int) -> Any:
    return struct.Struct(f"<{ndim}I").unpack_from


class Manifest:
    """One manifest file. Lookups and tables are safe to use from several threads."""

    def __init__(
        self, doc: Document, spec: int, segments: SegmentedPayload | None, gradual: GradualPayload | None = None
    ) -> None:
        self.doc = doc
        self.spec = spec
        self.segments = segments
        self.missing: SegmentedPayload | GradualPayload | None = segments if gradual is None else gradual
        """What decompresses the payload where it is needed; None when all of it is there."""
        self._need(0, 64)
        self.mark: Mark | None = read_mark(doc)
        if segments is not None:
            self._need(0, self.mark.tables if self.mark else len(segments))
        elif gradual is not None:
            self._need_head()
        self._root = doc.root(MANIFEST)
        self.id: bytes = self._root["id"]
        self._arrays: VectorView = self._root["arrays"]
        self._opened: dict[bytes, ArrayRefs | None] = {}
        self._tables: dict[bytes, ChunkTable] = {}
        self._dictionary: zstandard.ZstdCompressionDict | None = None

    @classmethod
    def decode(cls, data: Buffer, file: str) -> Manifest:
        """Open a complete file, which errors call `file`; raises `FormatError` where it is no manifest."""
        header = check_header(data, FileType.MANIFEST, file)
        body = memoryview(data)[HEADER_SIZE:]
        segments = open_segments(body, MAX_PAYLOAD)
        if segments is not None:
            return cls(Document(segments.buf, file), header.spec, segments)
        gradual = open_gradual(body, MAX_PAYLOAD) if header.compression == _ZSTD else None
        if gradual is not None:
            return cls(Document(gradual.buf, file), header.spec, None, gradual)
        return cls(Document(open_envelope(data, FileType.MANIFEST, file)[1], file), header.spec, None)

    def __repr__(self) -> str:
        return f"<Manifest {self.doc.file}, {len(self._arrays)} arrays>"

    @property
    def nbytes(self) -> int:
        """Memory taken, about."""
        payload = self.doc.size if self.segments is None else self.segments.loaded
        return payload + sum(table.nbytes for table in list(self._tables.values()))

    @property
    def num_refs(self) -> int:
        """References of all arrays."""
        return sum(self.array_at(number).count for number in range(len(self._arrays)))

    def node_ids(self) -> list[bytes]:
        """The arrays that have references here."""
        return [array["node_id"] for array in self._arrays]

    def count(self, node_id: bytes) -> int:
        """How many references an array has here."""
        array = self.array(node_id)
        return 0 if array is None else array.count

    def find(
        self, node_id: bytes, coords: tuple[int, ...], extents: Sequence[tuple[int, int]] | None = None
    ) -> ChunkRef | None:
        """The reference to one chunk, None when there is none.

        `extents` is the bounding box of the array's references in this manifest, half-open; it only saves time.
        """
        table = self._tables.get(node_id)
        if table is not None:
            return table.find(coords)
        array = self._opened.get(node_id) or self.array(node_id)
        if array is None:
            return None
        if array.probes > array.patience:
            return self.table(node_id).find(coords)
        row = array.row_of(coords, extents)
        return None if row < 0 else array.ref(row)

    def is_far(self, node_id: bytes, coords: tuple[int, ...], extents: Sequence[tuple[int, int]]) -> bool:
        """Whether `find` may have to decompress so much that an event loop should not wait for it."""
        missing = self.missing
        if not isinstance(missing, GradualPayload):
            return False
        array = self._opened.get(node_id)
        row = _guess(coords, extents, array.count) if array is not None and len(extents) == len(coords) else None
        if array is None or row is None:
            return True
        slot = array.vector.start + 4 * row
        return not missing.has(slot + 4) or not missing.has(slot + int(_U32(self.doc.buf, slot)[0]))

    def table(self, node_id: bytes) -> ChunkTable:
        """All references of one array; an empty table (of no dimensions) for an array that has none here."""
        known = self._tables.get(node_id)
        if known is None:
            array = self.array(node_id)
            known = ChunkTable.empty(0) if array is None or not array.count else array.read()
            self._tables[node_id] = known
        return known

    def array(self, node_id: bytes) -> ArrayRefs | None:
        """The references of one array, not yet read; found by bisection, since arrays are sorted by id."""
        if node_id in self._opened:
            return self._opened[node_id]
        low, high = 0, len(self._arrays)
        while low < high:
            middle = (low + high) // 2
            if self._arrays[middle]["node_id"] < node_id:
                low = middle + 1
            else:
                high = middle
        found = low < len(self._arrays) and self._arrays[low]["node_id"] == node_id
        self._opened[node_id] = self.array_at(low) if found else None
        return self._opened[node_id]

    def array_at(self, number: int) -> ArrayRefs:
        """The references of the array with this number, not yet read."""
        view: TableView = self._arrays[number]
        place = view.position("refs")
        target = place + _U32(self.doc.buf, place)[0]
        self._need(target, target + 4)
        return ArrayRefs(self, view["refs"])

    @property
    def id_position(self) -> int:
        """Where in the payload the manifest's id lies."""
        return self._root.position("id")

    @property
    def dictionary(self) -> bytes | None:
        """What compressed locations are decompressed with."""
        raw = self._root["location_dictionary"]
        return None if raw is None else bytes(raw)

    def _need(self, start: int, stop: int) -> None:
        """Have this part of the payload decompressed."""
        missing = self.missing
        if missing is None:
            return
        try:
            missing.need(start, stop)
        except zstandard.ZstdError as error:
            raise self.doc.fail(MANIFEST.name, f"cannot be decompressed: {error}") from None
        if isinstance(missing, GradualPayload) and missing.is_complete:
            if missing.filled < self.doc.size:  # the frame did not state its size, and this was the bound
                self.doc.buf, self.doc.size = missing.buf[: missing.filled], missing.filled
            self.missing = None

    need = _need

    def _need_head(self) -> None:
        """Have everything decompressed that leads to the references."""
        buf, size = self.doc.buf, self.doc.size
        self.need_table(_U32(buf, 0)[0])
        root = self.doc.root(MANIFEST)
        for name, width in (("arrays", 4), ("location_dictionary", 1)):
            place = root.position(name)
            target = place + _U32(buf, place)[0]
            if place and target <= size - 4:
                self._need(target, target + 4)
                self._need(target, target + 4 + width * _U32(buf, target)[0])
        arrays: VectorView = root["arrays"]
        for slot in range(arrays.start, arrays.start + 4 * len(arrays), 4):
            if self.missing is None:
                break
            self.need_table(slot + _U32(buf, slot)[0])

    def need_table(self, place: int) -> None:
        """Have the table decompressed that lies here, and its layout."""
        self._need(place, place + 4)
        if 0 <= place <= self.doc.size - 4:
            vtable = place - struct.unpack_from("<i", self.doc.buf, place)[0]
            self._need(max(0, vtable), vtable + 4)

    def decompress(self, frames: Sequence[bytes]) -> list[str]:
        """The locations in compressed form."""
        where = "ChunkRef.compressed_location"
        try:
            if self._dictionary is None:
                raw = self.dictionary
                if not raw or self._root["compression_algorithm"] != _ZSTD:
                    raise self.doc.fail(
                        where, "compressed chunk location present but no decompression dictionary available"
                    )
                self._dictionary = zstandard.ZstdCompressionDict(raw)
            return decompress_locations(frames, self._dictionary)
        except (zstandard.ZstdError, UnicodeDecodeError, ValueError, MemoryError) as error:
            raise self.doc.fail(where, f"cannot be decompressed: {error}") from None


class ArrayRefs:
    """The references of one array in a manifest, looked at one by one or read as a table."""

    __slots__ = ("count", "manifest", "patience", "probes", "vector")

    def __init__(self, manifest: Manifest, vector: VectorView) -> None:
        self.manifest = manifest
        self.vector = vector
        self.count = len(vector)
        self.probes = 0
        self.patience = max(_MIN_PROBES, min(self.count // 8, _MAX_PROBES))
        if self.count * _BYTES_PER_REF > manifest.doc.size:
            raise manifest.doc.fail("ArrayManifest.refs", f"{self.count} do not fit into {manifest.doc.size} bytes")

    def place(self, row: int) -> int:
        """Where the table of one reference lies."""
        slot = self.vector.start + 4 * row
        manifest = self.manifest
        if manifest.missing is None:
            return slot + int(_U32(manifest.doc.buf, slot)[0])
        manifest.need(slot, slot + 4)
        place = slot + int(_U32(manifest.doc.buf, slot)[0])
        manifest.need_table(place)
        return place

    def coords(self, row: int) -> tuple[int, ...]:
        """The chunk coordinates of one reference."""
        doc = self.manifest.doc
        place = self.place(row)
        at = place + doc.layout(CHUNK_REF, place)[0]
        target = at + _U32(doc.buf, at)[0]
        if self.manifest.missing is not None:
            self.manifest.need(target, target + 4)
        if target <= doc.size - 4:
            count = _U32(doc.buf, target)[0]
            if self.manifest.missing is not None:
                self.manifest.need(target, target + 4 + 4 * count)
            if target + 4 + 4 * count <= doc.size:
                return _coords(count)(doc.buf, target + 4)  # type: ignore[no-any-return]
        raise doc.fail("ChunkRef.index", "lies outside of the file")

    def row_of(self, coords: tuple[int, ...], extents: Sequence[tuple[int, int]] | None = None) -> int:
        """The row of a chunk, -1 for none. Where rows fill their extents the first probe hits."""
        first = None
        if extents is not None and len(extents) == len(coords):
            first = _guess(coords, extents, self.count)
            if first is None:
                return -1
        row, found = self.search(coords, first)
        return row if found else -1

    def search(self, coords: tuple[int, ...], first: int | None = None) -> tuple[int, bool]:
        """Bisect for a chunk, starting at row `first`: its row, or the one in front of which it belongs, and which."""
        low, high = 0, self.count
        row = high // 2 if first is None else first
        while low < high:
            self.probes += 1
            found = self.coords(row)
            if found == coords:
                return row, True
            if found < coords:
                low = row + 1
            else:
                high = row
            row = (low + high) // 2
        return low, False

    def ref(self, row: int) -> ChunkRef:
        """The reference in one row."""
        doc = self.manifest.doc
        place = self.place(row)
        layout = doc.layout(CHUNK_REF, place)
        buf = doc.buf
        at_offset, at_length, at_id = layout[_SLOT["offset"]], layout[_SLOT["length"]], layout[_SLOT["chunk_id"]]
        offset: int = struct.unpack_from("<Q", buf, place + at_offset)[0] if at_offset else 0
        length: int = struct.unpack_from("<Q", buf, place + at_length)[0] if at_length else 0
        if at_id:
            return Native(bytes(buf[place + at_id : place + at_id + 12]), length, offset)
        location = self._location(place, layout)
        if location is None:
            data = self._bytes(place, layout, "inline")
            if data is None:
                raise doc.fail("ChunkRef", "is neither inline, native nor virtual")
            return Inline(bytes(data))
        etag = self._text(place, layout, "checksum_etag")
        at_modified = layout[_SLOT["checksum_last_modified"]]
        modified = _U32(buf, place + at_modified)[0] if at_modified else 0
        return Virtual(location, offset, length, etag, modified)

    def _location(self, place: int, layout: tuple[int, ...]) -> str | None:
        frame = self._bytes(place, layout, "compressed_location")
        if frame is not None:
            return self.manifest.decompress([bytes(frame)])[0]
        return self._text(place, layout, "location")

    def _target(self, place: int, layout: tuple[int, ...], name: str) -> int:
        """Where that to which a field refers lies, 0 for an absent one."""
        at = layout[_SLOT[name]]
        if not at:
            return 0
        manifest = self.manifest
        target = place + at + int(_U32(manifest.doc.buf, place + at)[0])
        if manifest.missing is not None and target <= manifest.doc.size - 4:
            manifest.need(target, target + 4)
            manifest.need(target, target + 4 + _U32(manifest.doc.buf, target)[0])
        return target

    def _bytes(self, place: int, layout: tuple[int, ...], name: str) -> memoryview | None:
        target = self._target(place, layout, name)
        return read_bytes(self.manifest.doc, target, f"ChunkRef.{name}") if target else None

    def _text(self, place: int, layout: tuple[int, ...], name: str) -> str | None:
        target = self._target(place, layout, name)
        return read_string(self.manifest.doc, target, f"ChunkRef.{name}") if target else None

    def columns(self) -> TableColumns:
        """Fields of all references."""
        self.manifest.need(0, self.manifest.doc.size)
        return TableColumns(self.manifest.doc, CHUNK_REF, element_positions(self.vector))

    def read(self) -> ChunkTable:
        """The references as a table."""
        doc = self.manifest.doc
        refs = self.columns()
        coords = number_rows(doc, refs.targets("index"), U32, "ChunkRef.index")
        native = refs.present("chunk_id")
        location = refs.targets("location")
        compressed = refs.targets("compressed_location")
        np.negative(compressed, out=location, where=compressed > 0)
        location[native] = 0
        inline = refs.targets("inline")
        kind = np.where(native, np.uint8(NATIVE), np.where(location != 0, np.uint8(VIRTUAL), np.uint8(INLINE)))
        inlined = kind == INLINE
        if not inline[inlined].all():
            raise doc.fail("ChunkRef", "is neither inline, native nor virtual")
        length = refs.scalar("length")
        columns: dict[str, Any] = {}
        if native.any():
            columns["chunk_ids"] = refs.struct("chunk_id")
        if location.any():
            columns |= self._read_virtual(refs, location)
        if inlined.any():
            columns |= self._read_inline(inline, inlined, length)
        table = ChunkTable(coords, kind, length, refs.scalar("offset"), **columns)
        return _in_order(table)

    def _read_virtual(self, refs: TableColumns, location: Positions) -> dict[str, Any]:
        columns: dict[str, Any] = {"location_text": self._texts(location, "location")}
        etag = np.where(location != 0, refs.targets("checksum_etag"), 0)
        if etag.any():
            columns["etag_text"] = self._texts(etag, "checksum_etag")
        modified = refs.scalar("checksum_last_modified")
        if modified.any():
            columns["last_modified"] = modified
        return columns

    def _texts(self, places: Positions, name: str) -> StoredText:
        return StoredText(self.manifest.doc, places, f"ChunkRef.{name}", self.manifest.decompress)

    def _read_inline(self, targets: Positions, inlined: Any, length: Any) -> dict[str, Any]:
        doc = self.manifest.doc
        rows = np.flatnonzero(inlined)
        counts = vector_counts(doc, targets[rows], 1, "ChunkRef.inline")
        if int(counts.sum()) > doc.size:
            raise doc.fail("ChunkRef.inline", "data of several references overlap")
        length[rows] = counts
        start = np.full(len(targets), -1, np.int64)
        start[rows] = np.cumsum(counts) - counts
        return {"inline": gather_bytes(doc.buf, targets[rows] + 4, counts), "inline_start": start}


def _guess(coords: tuple[int, ...], extents: Sequence[tuple[int, int]], count: int) -> int | None:
    """Where among `count` rows a chunk is if they are spread evenly over the extents; None for one outside of them."""
    position, size = 0, 1
    for coord, (start, stop) in zip(coords, extents, strict=True):
        if not start <= coord < stop:
            return None
        position = position * (stop - start) + coord - start
        size *= stop - start
    return position if size == count else min(position * count // size, count - 1)


def _in_order(table: ChunkTable) -> ChunkTable:
    """The table as it is when its rows are sorted, as they must be; else sorted, the first of equal ones kept."""
    keys = joint_keys(table.coords)[0]
    if is_increasing(keys):
        return table
    first = np.unique(keys, return_index=True)[1]
    return table.take(first)
