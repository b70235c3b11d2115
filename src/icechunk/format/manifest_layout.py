"""How our manifests are laid out inside; any reader of the format reads them, ours uses what it knows to do less.

    head     root table, array tables, location dictionary
    vectors  for each array the positions of its references
    blocks   vtables, then rows, then the strings and inline data that these rows refer to; again and again

A row is a reference's table and its index vector, of fixed size for each kind of reference, so that rows by the thousand
are one structured numpy array. A block refers to nothing outside of itself and offsets are relative, so blocks stay
valid wherever they are moved to, and those of an old manifest can be carried over into a new one as they are. Repeating
the vtables every few hundred rows also makes rows resemble each other, which zstd rewards.

A mark behind the file identifier says where the blocks begin. Large manifests have gaps of zeros where the payload may be
cut into segments.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from icechunk._dataclass import dataclass
from icechunk.flatbuf.builder import Builder
from icechunk.flatbuf.reader import Document
from icechunk.flatbuf.schema import Scalar, Struct
from icechunk.format.schemas import CHUNK_REF, FILE_IDENTIFIER
from icechunk.format.segments import GAP

ROOMY_FROM = 4096
"""From so many references on, manifests have gaps."""

_MARK = b"icpyrefs"
_MARK_AT = 8
_MARK_SIZE = 24

NATIVE_FIELDS = ("chunk_id", "length")
VIRTUAL_FIELDS = ("offset", "length", "location")
COMPRESSED_FIELDS = ("offset", "length", "compressed_location")
INLINE_FIELDS = ("inline",)


@dataclass(frozen=True)
class Template:
    """Rows of one kind of reference: the vtable, where in a row the table starts, and where in the table fields lie."""

    vtable: bytes
    start: int
    inline: int
    fields: dict[str, int]

    def dtype(self, ndim: int) -> np.dtype[Any]:
        """One row: `soffset`, the fields (uoffsets where they refer to something), `count` and `coords`."""
        names, formats, offsets = ["soffset", "count"], ["<i4", "<u4"], [self.start, self.start + self.inline]
        for name, at in self.fields.items():
            kind = CHUNK_REF.fields[name].type
            names.append(name)
            offsets.append(self.start + at)
            formats.append(
                f"<u{kind.size}" if isinstance(kind, Scalar) else "V12" if isinstance(kind, Struct) else "<u4"
            )
        end = self.start + self.inline + 4
        if ndim:
            names.append("coords")
            formats.append(f"V{4 * ndim}")
            offsets.append(end)
        size = -(-(end + 4 * ndim) // 8) * 8
        return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})


@cache
def template(fields: tuple[str, ...]) -> Template:
    """The template of rows with these fields besides the index, in this order."""
    at, start, places = 8, 0, {"index": 4}
    for name in fields:
        kind = CHUNK_REF.fields[name].type
        size = kind.size if isinstance(kind, Scalar | Struct) else 4
        if size == 8 and (start + at) % 8:
            start = 4
        places[name] = at
        at += size
    slots = [0] * (max(CHUNK_REF.fields[name].slot for name in places) + 1)
    for name, place in places.items():
        slots[CHUNK_REF.fields[name].slot] = place
    vtable = struct.pack(f"<HH{len(slots)}H", 4 + 2 * len(slots), at, *slots)
    return Template(vtable, start, at, places)


class Mark(NamedTuple):
    """What a manifest of ours says of its layout.

    `tables` is the size of the head up to the first gap, `blocks` is where the blocks begin, `rows` how many rows they
    hold, in use or not.
    """

    tables: int
    blocks: int
    rows: int


def read_mark(doc: Document) -> Mark | None:
    """The mark, None for a manifest that has none."""
    if doc.size < _MARK_AT + _MARK_SIZE or bytes(doc.buf[_MARK_AT : _MARK_AT + 8]) != _MARK:
        return None
    tables, blocks, rows = struct.unpack_from("<III", doc.buf, _MARK_AT + 8)
    if not _MARK_AT + _MARK_SIZE <= tables <= blocks <= doc.size or blocks % 8:
        return None
    return Mark(tables, blocks, rows)


class Revised(NamedTuple):
    """A manifest made from the bytes of another: the complete file, and how many references it has."""

    data: bytes
    num_refs: int


class Head(NamedTuple):
    """The bytes up to the first vector, where each vector goes, and where the blocks start."""

    content: bytes
    tables: int
    vectors: list[int]
    vectors_end: int
    blocks: int


def build_head(
    manifest_id: bytes,
    arrays: Sequence[tuple[bytes, int]],
    *,
    spec: int,
    rows: int,
    dictionary: bytes | None = None,
) -> Head:
    """The head of a manifest of `arrays`, given as node id and number of references, whose blocks hold `rows` rows."""
    roomy = rows >= ROOMY_FROM
    builder = Builder(FILE_IDENTIFIER)
    out = builder.out
    out += bytes(_MARK_SIZE)
    root = _root(builder, manifest_id, spec, dictionary)
    vector = _slots(builder, len(arrays))
    builder.refer(root + 4, vector)
    places = []
    vtable = builder.vtable(struct.pack("<HHHH", 8, 16, 8, 4))
    for number, (node_id, _) in enumerate(arrays):
        builder.pad(4)
        at = len(out)
        out += struct.pack("<iI8s", at - vtable, 0, node_id)
        builder.refer(vector + 4 + 4 * number, at)
        places.append(at + 4)
    builder.pad(8)
    tables = len(out)
    at = tables + (GAP if roomy else 0)
    vectors = []
    for place, (_, count) in zip(places, arrays, strict=True):
        vectors.append(at)
        builder.refer(place, at)
        at += 4 + 4 * count
    at += -at % 8
    blocks = at + (GAP if roomy else 0)
    struct.pack_into("<I", out, 0, root)
    struct.pack_into("<8sIII", out, _MARK_AT, _MARK, tables, blocks, rows)
    return Head(bytes(out), tables, vectors, at, blocks)


def _slots(builder: Builder, count: int) -> int:
    builder.pad(4)
    at = len(builder.out)
    builder.out += struct.pack("<I", count) + bytes(4 * count)
    return at


def _root(builder: Builder, manifest_id: bytes, spec: int, dictionary: bytes | None) -> int:
    """The root table, its vector of arrays (field at 4) not yet filled in."""
    out = builder.out
    if dictionary is not None:
        vtable = builder.vtable(struct.pack("<HHHHH", 10, 24, 12, 4, 8))
        rest = struct.pack("<II12s", 0, 0, manifest_id)
    elif spec == 1:
        vtable = builder.vtable(struct.pack("<HHHH", 8, 20, 8, 4))
        rest = struct.pack("<I12s", 0, manifest_id)
    else:
        # Spec 2 says explicitly that locations are plain: absent means compressed.
        vtable = builder.vtable(struct.pack("<HHHHHH", 12, 21, 8, 4, 0, 20))
        rest = struct.pack("<I12sB", 0, manifest_id, 0)
    builder.pad(4)
    root = len(out)
    out += struct.pack("<i", root - vtable) + rest
    if dictionary is not None:
        builder.pad(4)
        builder.refer(root + 8, len(out))
        out += struct.pack("<I", len(dictionary)) + dictionary
    return root
