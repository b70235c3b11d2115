"""Writing nodes, one after another, fast enough for a hundred thousand in one commit.

What is written is a `Body`: tables that refer only to each other, so it stays valid wherever it is put. Two areas keep
apart what is looked at apart: the light one holds tables, paths and shapes, the heavy one the zarr.json documents, equal
ones once. In front of the light area stands a block of all vtables that nodes need, the same for every file of a spec,
so that later additions can share it. Arrays of one shape differ in nothing but position and manifests: their common part
is a template of words of which some move along with the position.

With a limit both areas are cut into pieces of about that size, which become the segments of a file. A piece has its own
vtables, and no table lies across two pieces.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from icechunk._dataclass import dataclass
from icechunk.format.manifest_files import ManifestFile
from icechunk.format.segments import GAP
from icechunk.format.snapshot_nodes import DimensionShape, ManifestRef, Node

Positions = npt.NDArray[np.int64]
Words = npt.NDArray[np.int32]

_ALIGN = 8
_FEW = 64
_MAX_TEMPLATES = 4096


def _vtable(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}H", *numbers)


# Size of the vtable, size of the table, then where each field lies in it (0 absent).
_VTABLES = {
    "node": _vtable(14, 28, 8, 16, 20, 7, 24),
    "node with extra": _vtable(16, 32, 8, 16, 20, 7, 24, 28),
    "group": _vtable(4, 4),
    "array 1": _vtable(10, 12, 4, 0, 8),
    "array 1 with names": _vtable(10, 16, 4, 12, 8),
    "array 2": _vtable(12, 16, 4, 0, 8, 12),
    "array 2 with names": _vtable(12, 20, 4, 16, 8, 12),
    "dimension": _vtable(8, 16, 8, 4),
    "name": _vtable(6, 8, 4),
    "no name": _vtable(4, 4),
    "manifest": _vtable(8, 20, 8, 4),
    "file": _vtable(10, 28, 16, 8, 4),
}
_PLACES = dict(zip(_VTABLES, accumulate(map(len, _VTABLES.values()), initial=0), strict=False))
VTABLE_BLOCK = b"".join(_VTABLES.values())
VTABLE_BLOCK += bytes(-len(VTABLE_BLOCK) % _ALIGN)


def is_vtable_block(buf: bytes | bytearray | memoryview, start: int) -> bool:
    """Whether the block of vtables stands there."""
    return bytes(buf[start : start + len(VTABLE_BLOCK)]) == VTABLE_BLOCK


_FILE_ROW = struct.Struct("<iIQ12s4x")


@dataclass(frozen=True, slots=True)
class Body:
    """Bytes in pieces, each a multiple of 8 long, and where in them nodes and manifest files lie.

    Positions count the gaps that the limit of its writer puts between pieces.
    """

    pieces: Sequence[bytes | bytearray]
    nodes: Positions
    files: Positions


class NodeWriter:
    """Collects nodes and manifest files. `limit` is the size of pieces; None for one piece whatever its size.

    Without a limit, `vtables` may say where a block of vtables already stands, relative to where all this will be put.
    """

    def __init__(self, spec: int, limit: int | None = None, vtables: int | None = None) -> None:
        self._spec = spec
        self._limit = limit
        self._vtables = vtables
        self._block = 0 if vtables is None else vtables
        self._light: list[bytearray] = []
        self._heavy: list[bytearray] = []
        self._files: list[ManifestFile] = []
        self._nodes: list[tuple[int, int]] = []
        self._links: list[tuple[int, int, int, int]] = []
        self._documents: dict[bytes, tuple[int, int]] = {}

    # ---- nodes

    def add(self, node: Node, extra: bytes | None = None) -> None:
        """Write a node."""
        out = self._light_piece()
        start = len(out)
        block = self._block
        path = node.path.encode()
        kind = "node" if extra is None else "node with extra"
        inline = 28 if extra is None else 32
        data_at = -(-(inline + 4 + len(path) + 1) // _ALIGN) * _ALIGN
        if extra is not None:
            extra_at, data_at = data_at, -(-(data_at + 4 + len(extra)) // _ALIGN) * _ALIGN
        out += struct.pack(
            "<iI8sIII",
            start - block - _PLACES[kind],
            (1 if node.is_array else 2) << 24,
            node.id,
            inline - 16,
            0,
            data_at - 24,
        )
        if extra is not None:
            out += struct.pack("<I", extra_at - 28)
        out += struct.pack("<I", len(path)) + path
        if extra is not None:
            out += bytes(start + extra_at - len(out)) + struct.pack("<I", len(extra)) + extra
        out += bytes(start + data_at - len(out))
        piece = len(self._light) - 1
        self._nodes.append((piece, start))
        self._links.append((piece, start + 20, *self._document(node.metadata)))
        if node.is_array:
            self._array(out, node)
        else:
            out += struct.pack("<i", len(out) - block - _PLACES["group"])
        out += bytes(-len(out) % _ALIGN)

    def _array(self, out: bytearray, node: Node) -> None:
        words, moving = _array_template(self._spec, node.shape, node.dimension_names)
        out += (words + moving * (len(out) - self._block)).astype("<i4").tobytes()
        refs = node.manifests
        if self._spec > 1 and len(refs) > 1:
            refs = tuple(sorted(refs, key=lambda ref: ref.extents))
        _write_manifest_refs(out, refs, self._block)

    def _document(self, metadata: bytes) -> tuple[int, int]:
        """Where a zarr.json stands in the heavy area."""
        spot = self._documents.get(metadata)
        if spot is None:
            if not self._heavy or (self._limit is not None and len(self._heavy[-1]) >= self._limit):
                self._heavy.append(bytearray())
            out = self._heavy[-1]
            spot = self._documents[metadata] = len(self._heavy) - 1, len(out)
            out += struct.pack("<I", len(metadata))
            out += metadata
            out += bytes(-len(out) % 4)
        return spot

    def _light_piece(self) -> bytearray:
        if not self._light or (self._limit is not None and len(self._light[-1]) >= self._limit):
            self._light.append(bytearray(VTABLE_BLOCK if self._vtables is None else b""))
        return self._light[-1]

    # ---- manifest files

    def add_files(self, files: Iterable[ManifestFile]) -> None:
        """Write manifest files of spec 2, in this order."""
        self._files += files

    def _file_pieces(self) -> list[tuple[bytearray, Positions]]:
        """The tables of the manifest files, and where in its piece each of them lies."""
        if not self._files:
            return []
        if self._limit is None:
            ahead = len(self._light_piece())
            return [_file_rows(self._files, self._block - ahead, b"")]
        step = max(1, self._limit // _FILE_ROW.size)
        batches = (self._files[first : first + step] for first in range(0, len(self._files), step))
        return [_file_rows(batch, 0, VTABLE_BLOCK) for batch in batches]

    # ---- all of it

    def finish(self, start: int = 0) -> Body:
        """What was written, for a place `start` bytes after the begin of a body."""
        if self._limit is None and len(self._nodes) <= _FEW:
            return self._finish_few(start)
        for piece in self._heavy:
            piece += bytes(-len(piece) % _ALIGN)
        files = self._file_pieces()
        groups = [self._light, [piece for piece, _ in files], self._heavy]
        firsts = list(accumulate(map(len, groups), initial=0))
        pieces, homes = self._joined([piece for group in groups for piece in group])
        starts = piece_starts(pieces, GAP if self._limit is not None else 0)
        at = np.array([starts[home] + offset for home, offset in homes], np.int64)

        heavy = at[firsts[2] :]
        nodes = np.array(self._nodes, np.int64).reshape(-1, 2)
        links = np.array(self._links, np.int64).reshape(-1, 4)
        self._patch(pieces, homes, links, heavy[links[:, 2]] + links[:, 3] - at[links[:, 0]] - links[:, 1])
        spots = [at[firsts[1] + number] + spots for number, (_, spots) in enumerate(files)]
        return Body(
            pieces,
            start + at[nodes[:, 0]] + nodes[:, 1],
            start + np.concatenate(spots) if spots else np.zeros(0, np.int64),
        )

    def _finish_few(self, start: int) -> Body:
        """The same for a few nodes in one piece, without setting up columns."""
        whole = self._light_piece() if self._files or self._nodes else bytearray()
        first_file = len(whole)
        if self._files:
            whole += _file_rows(self._files, self._block - first_file, b"")[0]
        documents = len(whole)
        for _, at, _, offset in self._links:
            struct.pack_into("<I", whole, at, documents + offset - at)
        for piece in self._heavy:
            whole += piece
        whole += bytes(-len(whole) % _ALIGN)
        first_file += start
        files = range(first_file, first_file + _FILE_ROW.size * len(self._files), _FILE_ROW.size)
        nodes = [start + at for _, at in self._nodes]
        return Body([whole] if whole else [], np.array(nodes, np.int64), np.array(files, np.int64))

    def _joined(self, pieces: list[bytearray]) -> tuple[list[bytearray], list[tuple[int, int]]]:
        """Neighbours put together as long as the limit allows; and where each piece went."""
        joined: list[bytearray] = []
        homes = []
        for piece in pieces:
            if not joined or (self._limit is not None and len(joined[-1]) + len(piece) > self._limit):
                joined.append(piece)
                homes.append((len(joined) - 1, 0))
            else:
                homes.append((len(joined) - 1, len(joined[-1])))
                joined[-1] += piece
        return joined, homes

    @staticmethod
    def _patch(
        pieces: Sequence[bytearray], homes: Sequence[tuple[int, int]], links: Positions, values: Positions
    ) -> None:
        """Write the offsets from nodes to their documents, which are known only now."""
        for number in np.unique(links[:, 0]).tolist():
            home, offset = homes[number]
            mine = links[:, 0] == number
            words = np.frombuffer(pieces[home], "<u4", len(pieces[home]) // 4)
            words[(offset + links[mine, 1]) // 4] = values[mine]


def piece_starts(pieces: Sequence[bytes | bytearray], gap: int) -> list[int]:
    """Where each piece begins, `gap` bytes after the end of the one before it."""
    return list(accumulate((len(piece) + gap for piece in pieces), initial=0))[: len(pieces)]


def _file_rows(files: Sequence[ManifestFile], block: int, head: bytes) -> tuple[bytearray, Positions]:
    spots = range(len(head), len(head) + _FILE_ROW.size * len(files), _FILE_ROW.size)
    behind = block + _PLACES["file"]
    rows = [_FILE_ROW.pack(at - behind, file.count, file.size, file.id) for at, file in zip(spots, files, strict=True)]
    return bytearray(head + b"".join(rows)), np.array(spots, np.int64)


@lru_cache(maxsize=_MAX_TEMPLATES)
def _array_template(
    spec: int, shape: Sequence[DimensionShape], names: Sequence[str | None] | None
) -> tuple[Words, Words]:
    """The words of an array's data up to its manifests, for a place at 0; and by how often the place each one moves."""
    out = bytearray()
    moving: list[int] = []

    def table(kind: str, inline: int) -> int:
        pos = len(out)
        moving.append(pos)
        out.extend(struct.pack("<i", pos - _PLACES[kind]) + bytes(inline - 4))
        return pos

    def refer(at: int) -> None:
        struct.pack_into("<I", out, at, len(out) - at)

    array = table(
        f"array {spec}" + (" with names" if names is not None else ""), (8 + 4 * spec) + 4 * (names is not None)
    )
    if spec == 1:
        out.extend(bytes((4 - len(out)) % _ALIGN))
        refer(array + 4)
        out.extend(struct.pack("<I", len(shape)))
        for dimension in shape:
            out.extend(struct.pack("<QQ", dimension.length, _chunk_length(dimension)))
    else:
        out.extend(bytes((4 - len(out)) % _ALIGN))
        refer(array + 4)
        out.extend(struct.pack("<I", 0))
        refer(array + 12)
        vector = len(out)
        out.extend(struct.pack("<I", len(shape)) + bytes(4 * len(shape)))
        out.extend(bytes(-len(out) % _ALIGN))
        for number, dimension in enumerate(shape):
            refer(vector + 4 + 4 * number)
            pos = table("dimension", 16)
            struct.pack_into("<IQ", out, pos + 4, dimension.chunks, dimension.length)
    if names is not None:
        refer(array + (12 if spec == 1 else 16))
        vector = len(out)
        out.extend(struct.pack("<I", len(names)) + bytes(4 * len(names)))
        for number, name in enumerate(names):
            refer(vector + 4 + 4 * number)
            pos = table("name" if name else "no name", 8 if name else 4)
            if name:
                raw = name.encode()
                struct.pack_into("<I", out, pos + 4, 4)
                out.extend(struct.pack("<I", len(raw)) + raw + b"\0")
                out.extend(bytes(-len(out) % 4))
    refer(array + 8)
    words = np.frombuffer(bytes(out), "<i4").astype(np.int32)
    marks = np.zeros(len(words), np.int32)
    marks[np.array(moving) // 4] = 1
    return words, marks


def _chunk_length(dimension: DimensionShape) -> int:
    """The chunk length that spec 1 stores; the smallest that fits where only the number of chunks is known."""
    if dimension.chunk_length is not None:
        return dimension.chunk_length
    return -(-dimension.length // dimension.chunks) if dimension.chunks else 0


def _write_manifest_refs(out: bytearray, refs: Sequence[ManifestRef], block: int) -> None:
    """The vector of manifest references, each followed by its extents."""
    count = len(refs)
    out += struct.pack("<I", count)
    slots = len(out)
    out += bytes(4 * count)
    place = _PLACES["manifest"]
    for number, ref in enumerate(refs):
        pos = len(out)
        slot = slots + 4 * number
        struct.pack_into("<I", out, slot, pos - slot)
        ranges = [bound for extent in ref.extents for bound in extent]
        out += struct.pack(f"<iI12sI{len(ranges)}I", pos - block - place, 16, ref.id, len(ref.extents), *ranges)
