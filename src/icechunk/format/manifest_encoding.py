"""Writing manifests: tables of chunk references become blocks of rows, laid out by numpy (see `manifest_layout`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from icechunk.format.chunk_table import INLINE, NATIVE, VIRTUAL, ChunkTable, gather_bytes
from icechunk.format.envelope import FileType, seal, seal_pieces
from icechunk.format.location_compression import LocationCompression
from icechunk.format.manifest_few import FEW, payload_of_few
from icechunk.format.manifest_layout import (
    COMPRESSED_FIELDS,
    INLINE_FIELDS,
    NATIVE_FIELDS,
    ROOMY_FROM,
    VIRTUAL_FIELDS,
    Head,
    Template,
    build_head,
    template,
)
from icechunk.format.segments import GAP, SEGMENT_SIZE, Segmentation
from icechunk.format.text_column import TextColumn
from icechunk.format.text_records import Records

Positions = npt.NDArray[np.int64]

_ROWS_PER_BLOCK = 512
_ROWS_PER_LARGE_BLOCK = 32768
_ROWS_AT_ONCE = 32768
"""Rows that are laid out together: so few that what is computed for them stays in the processor's cache."""


def encode_manifest(
    manifest_id: bytes,
    tables: Mapping[bytes, ChunkTable],
    *,
    spec: int,
    level: int = 3,
    location_compression: LocationCompression | None = None,
    segmented: bool = False,
) -> bytes:
    """A complete manifest file with the references of some arrays, by node id.

    Locations are compressed where `location_compression` is given and the table qualifies (spec 2 only). A segmented
    file can later be read and revised in part.
    """
    arrays = sorted(tables.items())
    rows = sum(len(table) for _, table in arrays)
    if rows <= FEW and (location_compression is None or rows < location_compression.min_num_chunks):
        payload = payload_of_few(manifest_id, [(node_id, table.items()) for node_id, table in arrays], spec)
        return seal(payload, FileType.MANIFEST, spec=spec, level=level)
    texts = [None if table.location_text is None else table.location_text.compact() for _, table in arrays]
    dictionary, packed = _compress_locations(texts, rows, location_compression if spec > 1 else None)
    head = build_head(
        manifest_id, [(node_id, len(table)) for node_id, table in arrays], spec=spec, rows=rows, dictionary=dictionary
    )
    writer = BlockWriter(head.blocks, roomy=rows >= ROOMY_FROM)
    vectors = [
        writer.add(table, text, records) for (_, table), text, records in zip(arrays, texts, packed, strict=True)
    ]
    pieces = [*head_pieces(head, vectors), *writer.pieces]
    del vectors, writer.pieces
    if not segmented or rows < ROOMY_FROM:
        return seal_pieces(_consumed(pieces), writer.at, FileType.MANIFEST, spec=spec, level=level)
    segments = Segmentation([head.tables, head.vectors_end, *writer.cuts])
    return seal(b"".join(pieces), FileType.MANIFEST, spec=spec, level=level, segments=segments)


def _consumed(pieces: list[Any]) -> Iterator[Any]:
    """The pieces, each let go of when the next is asked for."""
    pieces.reverse()
    while pieces:
        yield pieces.pop()


def _compress_locations(
    texts: Sequence[TextColumn | None], rows: int, how: LocationCompression | None
) -> tuple[bytes | None, list[Records | None]]:
    """The dictionary and, for each table, its locations as compressed records; Nones where they stay plain."""
    plain: list[Records | None] = [None] * len(texts)
    present = [text for text in texts if text is not None]
    if how is None or not present or rows < how.min_num_chunks:
        return None, plain
    dictionary = how.train(max(present, key=lambda text: int((text.codes >= 0).sum())))
    if dictionary is None or any(len(item) > 1024 for text in present for item in text.distinct):
        return None, plain
    return dictionary, [
        None if text is None else Records.of_bytes(how.compress(text.distinct, dictionary)) for text in texts
    ]


def head_pieces(head: Head, vectors: Sequence[npt.NDArray[Any]]) -> list[Any]:
    """The head and the vectors, up to where the blocks begin."""
    pieces: list[Any] = [head.content]
    at = head.tables
    for start, positions in zip(head.vectors, vectors, strict=True):
        pieces.append(bytes(start - at))
        entries = np.empty(len(positions) + 1, "<u4")
        entries[0] = len(positions)
        entries[1:] = positions
        entries[1:] -= np.arange(start + 4, start + 4 + 4 * len(positions), 4, dtype=np.uint32)
        pieces.append(entries.data.cast("B"))
        at = start + 4 + 4 * len(positions)
    pieces.append(bytes(head.blocks - at))
    return pieces


class _Class(NamedTuple):
    """Rows of a table that share a template."""

    template: Template
    rows: Positions
    dtype: np.dtype[Any]


class _Attached(NamedTuple):
    """Records to which rows refer, per block: their groups of bytes, and where each row's record lies in its block."""

    sizes: Positions
    groups: dict[int, list[memoryview]]
    places: Positions


class BlockWriter:
    """Lays out tables as blocks from a position on; collects the bytes, and where the payload may be cut."""

    def __init__(self, start: int, *, roomy: bool) -> None:
        self.at = start
        self.pieces: list[Any] = []
        self.cuts: list[int] = []
        self._roomy = roomy
        self._since_cut = 0

    def add(self, table: ChunkTable, text: TextColumn | None, compressed: Records | None) -> npt.NDArray[np.uint32]:
        """Write all rows of a table; returns where each reference's table lies.

        `text` are its locations; `compressed` the records to write instead of them.
        """
        positions = np.empty(len(table), np.uint32)
        height = _block_height(text)
        step = max(_ROWS_AT_ONCE // height, 1) * height
        if text is not None and compressed is None:
            records: Records | None = Records.of_texts(text.distinct)
        else:
            records = compressed
        for first in range(0, len(table), step):
            rows = slice(first, first + step)
            part = table if len(table) <= step else table.take(rows)
            layout = _Layout(part, text and text.take(rows), records, compressed is not None, height)
            starts = self._place(layout.sizes.tolist())
            pieces: list[Any] = []
            layout.write(pieces, starts)
            self.pieces.append(b"".join(pieces))
            positions[rows] = layout.positions(np.array([start for start, _ in starts], np.int64))
        return positions

    def _place(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        """Where each block starts, and how many zeros go in front of it."""
        starts = []
        for size in sizes:
            gap = 0
            if self._roomy and self._since_cut >= SEGMENT_SIZE:
                self.cuts.append(self.at)
                gap, self._since_cut = GAP, 0
            starts.append((self.at + gap, gap))
            self.at += gap + size
            self._since_cut += gap + size
        return starts


class _Layout:
    """One table divided into blocks; all positions are relative to the block until its start is known.

    `text` are its locations, `records` how each distinct one is written, `compressed` or not; `height` is how many rows
    go into a block.
    """

    def __init__(
        self, table: ChunkTable, text: TextColumn | None, records: Records | None, compressed: bool, height: int
    ) -> None:
        self.table = table
        count = len(table)
        self._blocks = -(-count // height)
        self._block_of = np.arange(count) // height
        self._classes = _classes(table, compressed)
        self._vtables = [0]
        for each in self._classes:
            self._vtables.append(self._vtables[-1] + len(each.template.vtable))
        self._header = b"".join(each.template.vtable for each in self._classes)
        self._header += bytes(-len(self._header) % 8)
        self._places = self._place_rows()
        self._locations = self._attach(text, records)
        self._etags = self._attach(table.etag_text and table.etag_text.compact(), None)
        self._inline = self._attach_inline()
        self.sizes = self._rows_end + sum(each.sizes for each in self._attached)
        self._padding = -self.sizes % 8
        self.sizes = self.sizes + self._padding
        self._arrays = [self._fill(number) for number in range(len(self._classes))]

    @property
    def _attached(self) -> list[_Attached]:
        return [each for each in (self._locations, self._etags, self._inline) if each is not None]

    def positions(self, starts: Positions) -> Positions:
        """Where each row's table lies, given where the blocks start."""
        return self._places + starts[self._block_of]

    def _place_rows(self) -> Positions:
        """Where in its block each row's table lies."""
        places = np.zeros(len(self.table), np.int64)
        end = np.full(self._blocks, len(self._header), np.int64)
        self._counts = []
        for each in self._classes:
            block = self._block_of[each.rows]
            counts = np.bincount(block, minlength=self._blocks)
            first = np.cumsum(counts) - counts
            size = each.dtype.itemsize
            places[each.rows] = (np.arange(len(each.rows)) - first[block]) * size + end[block] + each.template.start
            self._counts.append(counts)
            end = end + counts * size
        self._rows_end = end
        self._end = end
        return places

    def _attach(self, text: TextColumn | None, records: Records | None) -> _Attached | None:
        """Each distinct string of a block once, behind what the block already holds."""
        if text is None or not text.present():
            return None
        records = records or Records.of_texts(text.distinct)
        rows = np.flatnonzero(text.codes >= 0)
        width = len(text.distinct)
        pairs, number = _distinct(self._block_of[rows] * width + text.codes[rows], self._blocks * width)
        block, code = pairs // width, pairs % width
        sizes = records.sizes[code]
        ends = np.cumsum(sizes)
        totals = np.bincount(block, sizes, self._blocks).astype(np.int64)
        starts = ends - sizes - (np.cumsum(totals) - totals)[block] + self._end[block]
        places = np.zeros(len(self.table), np.int64)
        places[rows] = starts[number]
        self._end = self._end + totals
        return _Attached(totals, _groups(block, code, records), places)

    def _attach_inline(self) -> _Attached | None:
        table = self.table
        if table.inline is None or table.inline_start is None:
            return None
        rows = np.flatnonzero(table.kind == INLINE)
        lengths = table.length[rows].astype(np.int64)
        records = Records(gather_bytes(table.inline, table.inline_start[rows], lengths), lengths, False)
        block = self._block_of[rows]
        totals = np.bincount(block, records.sizes, self._blocks).astype(np.int64)
        places = np.zeros(len(table), np.int64)
        places[rows] = records.starts - (np.cumsum(totals) - totals)[block] + self._end[block]
        self._end = self._end + totals
        return _Attached(totals, _groups(block, np.arange(len(rows)), records), places)

    def _fill(self, number: int) -> npt.NDArray[Any]:
        """The rows of one class."""
        table, (kind, rows, dtype) = self.table, self._classes[number]
        pick: Any = slice(None) if len(rows) == len(table) else rows
        places = self._places[pick]
        out = np.zeros(len(rows), dtype)
        out["soffset"] = places - self._vtables[number]
        out["index"] = kind.inline - kind.fields["index"]
        out["count"] = table.ndim
        if table.ndim:
            out["coords"] = np.ascontiguousarray(table.coords[pick]).view(f"V{4 * table.ndim}")[:, 0]
        attached = {
            "location": self._locations,
            "compressed_location": self._locations,
            "checksum_etag": self._etags,
            "inline": self._inline,
        }
        for name, at in kind.fields.items():
            target = attached.get(name)
            if target is not None:
                out[name] = target.places[pick] - places - at
            elif name == "chunk_id":
                assert table.chunk_ids is not None
                out[name] = np.ascontiguousarray(table.chunk_ids[pick]).view("V12")[:, 0]
            elif name == "checksum_last_modified":
                assert table.last_modified is not None
                out[name] = table.last_modified[pick]
            elif name != "index":
                out[name] = getattr(table, name)[pick]
        return out

    def write(self, pieces: list[Any], starts: Sequence[tuple[int, int]]) -> None:
        """Append the bytes of all blocks, each after its gap."""
        views = [array.view(np.uint8).data for array in self._arrays]
        sizes = [each.dtype.itemsize for each in self._classes]
        counts = [each.tolist() for each in self._counts]
        padding = self._padding.tolist()
        attached = [each.groups for each in self._attached]
        done = [0] * len(views)
        for block, (_, gap) in enumerate(starts):
            pieces.append(bytes(gap) + self._header)
            for number, view in enumerate(views):
                end = done[number] + counts[number][block] * sizes[number]
                pieces.append(view[done[number] : end])
                done[number] = end
            for groups in attached:
                pieces += groups.get(block, ())
            pieces.append(bytes(padding[block]))


def _block_height(text: TextColumn | None) -> int:
    """How many rows go into a block: more where neighbours have different locations that come again later."""
    if text is None:
        return _ROWS_PER_BLOCK
    changes = int((text.codes[1:] != text.codes[:-1]).sum()) + 1
    few = changes <= 2 * len(text.distinct) or changes * 8 <= len(text.codes)
    return _ROWS_PER_BLOCK if few else _ROWS_PER_LARGE_BLOCK


def _classes(table: ChunkTable, compressed: bool) -> list[_Class]:
    """The rows of a table sorted by the fields that they need."""
    virtual = COMPRESSED_FIELDS if compressed else VIRTUAL_FIELDS
    offset = table.offset != 0
    etag = table.etag_text.codes >= 0 if table.etag_text is not None else None
    modified = table.last_modified != 0 if table.last_modified is not None else None
    key = table.kind * np.uint8(8)
    key[(table.kind == NATIVE) & offset] += 1
    for flag, column in ((1, etag), (2, modified)):
        if column is not None:
            key[(table.kind == VIRTUAL) & column] += np.uint8(flag)
    classes = []
    for number in np.flatnonzero(np.bincount(key)).tolist():
        kind, flags = divmod(number, 8)
        if kind == NATIVE:
            fields = NATIVE_FIELDS + ("offset",) * flags
        elif kind == INLINE:
            fields = INLINE_FIELDS
        else:
            fields = virtual + ("checksum_etag",) * (flags & 1) + ("checksum_last_modified",) * (flags >> 1)
        found = template(fields)
        classes.append(_Class(found, np.flatnonzero(key == number), found.dtype(table.ndim)))
    return classes


def _distinct(keys: Positions, limit: int) -> tuple[Positions, Positions]:
    """The distinct keys below `limit` in order, and for each key its number among them."""
    if limit <= 4 * len(keys) + 1024:
        seen = np.zeros(limit, bool)
        seen[keys] = True
        distinct = np.flatnonzero(seen)
        number = np.zeros(limit, np.int64)
        number[distinct] = np.arange(len(distinct))
        return distinct, number[keys]
    first = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    distinct, number = np.unique(keys[first], return_inverse=True)
    return distinct, np.repeat(number, np.diff(first, append=len(keys)))


def _groups(block: Positions, code: Positions, records: Records) -> dict[int, list[memoryview]]:
    """The bytes of records by block; records that lie side by side are one piece."""
    breaks = np.flatnonzero((block[1:] != block[:-1]) | (code[1:] != code[:-1] + 1)) + 1
    bounds = [0, *breaks.tolist(), len(block)]
    view = memoryview(records.blob)
    starts = records.starts[code].tolist()
    ends = (records.starts + records.sizes)[code].tolist()
    blocks = block.tolist()
    groups: dict[int, list[memoryview]] = {}
    for first, stop in pairwise(bounds):
        groups.setdefault(blocks[first], []).append(view[starts[first] : ends[stop - 1]])
    return groups
