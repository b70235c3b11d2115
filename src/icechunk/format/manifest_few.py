"""Manifests of few references, written and revised one reference at a time.

A small commit writes a handful of references into a manifest of a few hundred. Setting up columns for that takes longer
than all the work. The layout is that of `manifest_layout`: what is written at once is a block, which begins with its
vtables; each row is followed by the strings or data that it refers to. A revision takes the blocks over as they are, with
a new one behind them, so references that stay are never looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from icechunk.flatbuf.schema import Scalar, Struct
from icechunk.format.chunk_ref import ChunkRef, Inline, Native
from icechunk.format.envelope import FileType, seal
from icechunk.format.manifest_layout import (
    INLINE_FIELDS,
    NATIVE_FIELDS,
    ROOMY_FROM,
    VIRTUAL_FIELDS,
    Head,
    Revised,
    Template,
    build_head,
    template,
)
from icechunk.format.schemas import CHUNK_REF

if TYPE_CHECKING:
    from icechunk.format.manifest import Manifest

Coords = tuple[int, ...]

FEW = 64
"""References up to which writing one by one is faster than by columns."""

_MAX_DEAD = 4
_pack_u32 = struct.Struct("<I").pack


class _Row(NamedTuple):
    """How rows of one kind of reference are packed: `start` zeros, the table, then coordinates to the end."""

    template: Template
    packed: struct.Struct
    names: tuple[str, ...]


@cache
def _row(fields: tuple[str, ...], ndim: int) -> _Row:
    found = template(fields)
    codes, names = "", []
    for name, _ in sorted(found.fields.items(), key=lambda item: item[1]):
        kind = CHUNK_REF.fields[name].type
        codes += kind.code if isinstance(kind, Scalar) else f"{kind.size}s" if isinstance(kind, Struct) else "I"
        names.append(name)
    end = found.start + found.inline + 4 + 4 * ndim
    return _Row(found, struct.Struct(f"<{found.start}xi{codes}I{ndim}I{-end % 8}x"), tuple(names))


def _fields(ref: ChunkRef) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The fields that a reference needs, in the order of the layout, and their values."""
    if isinstance(ref, Inline):
        return INLINE_FIELDS, {"inline": ref.data}
    if isinstance(ref, Native):
        offset = ("offset",) if ref.offset else ()
        return NATIVE_FIELDS + offset, {"chunk_id": ref.id, "length": ref.length, "offset": ref.offset}
    values: dict[str, Any] = {"offset": ref.offset, "length": ref.length, "location": ref.location.encode()}
    optional: tuple[str, ...] = ()
    if ref.etag is not None:
        optional += ("checksum_etag",)
        values["checksum_etag"] = ref.etag.encode()
    if ref.last_modified:
        optional += ("checksum_last_modified",)
        values["checksum_last_modified"] = ref.last_modified
    return VIRTUAL_FIELDS + optional, values


class _Block:
    """A block that will stand at `start`, a multiple of 8; vtables are put where they are needed first."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.out = bytearray()
        self._vtables: dict[bytes, int] = {}

    def add(self, coords: Coords, ref: ChunkRef) -> int:
        """Write a reference; returns where its table lies."""
        fields, values = _fields(ref)
        row = _row(fields, len(coords))
        out, found = self.out, row.template
        vtable = self._vtables.get(found.vtable)
        if vtable is None:
            vtable = self._vtables[found.vtable] = len(out)
            out += found.vtable
            out += bytes(-len(out) % 8)
        pos = len(out) + found.start
        tail = bytearray()
        numbers: list[Any] = [pos - vtable]
        for name in row.names:
            value = values.get(name)
            if name == "index":
                numbers.append(found.inline - found.fields["index"])
            elif isinstance(value, bytes) and name != "chunk_id":
                numbers.append(len(out) + row.packed.size + len(tail) - pos - found.fields[name])
                tail += _pack_u32(len(value)) + value
                tail += bytes(4 - len(tail) % 4)  # a string ends in a zero
            else:
                numbers.append(value)
        out += row.packed.pack(*numbers, len(coords), *coords)
        out += tail
        out += bytes(-len(out) % 8)
        return self.start + pos


def payload_of_few(
    manifest_id: bytes, arrays: Sequence[tuple[bytes, Iterable[tuple[Coords, ChunkRef]]]], spec: int
) -> bytes:
    """The payload of a manifest of these arrays, sorted by node id, their references by coordinates."""
    ordered = [(node_id, list(refs)) for node_id, refs in arrays]
    counts = [(node_id, len(refs)) for node_id, refs in ordered]
    head = build_head(manifest_id, counts, spec=spec, rows=sum(count for _, count in counts))
    block = _Block(head.blocks)
    vectors = [[block.add(coords, ref) for coords, ref in refs] for _, refs in ordered]
    return b"".join((_front(head, vectors), block.out))


def encode_few(manifest_id: bytes, node_id: bytes, refs: Mapping[Coords, ChunkRef], *, spec: int, level: int) -> bytes:
    """The complete file of manifest `manifest_id` with the references of one array."""
    payload = payload_of_few(manifest_id, [(node_id, sorted(refs.items(), key=itemgetter(0)))], spec)
    return seal(payload, FileType.MANIFEST, spec=spec, level=level)


def revise_few(
    old: Manifest,
    manifest_id: bytes,
    node_id: bytes,
    edits: Mapping[Coords, ChunkRef | None],
    *,
    spec: int,
    level: int,
) -> Revised | None:
    """The complete file of manifest `manifest_id`: `old` with some references of its only array written, or deleted.

    `edits` has None for those to delete. None where it takes more than this, or where too much of the old blocks would
    be dead.
    """
    mark, array = old.mark, old.array(node_id)
    if mark is None or mark.rows >= ROOMY_FROM or old.segments is not None or old.node_ids() != [node_id]:
        return None
    dictionary = old.dictionary
    if array is None or not array.count or (spec == 1 and dictionary is not None):
        return None
    old.need(0, old.doc.size)
    buf, begin = old.doc.buf, mark.blocks
    shift = array.vector.start - begin
    offsets = struct.unpack_from(f"<{array.count}I", buf, array.vector.start)
    places = [shift + 4 * row + offset for row, offset in enumerate(offsets)]
    if min(places) < 0 or len(array.coords(0)) != len(next(iter(edits))):
        return None
    end = old.doc.size - begin
    block = _Block(end + -end % 8)
    for coords, ref in sorted(edits.items(), key=itemgetter(0), reverse=True):  # from the end: rows in front stay right
        row, there = array.search(coords)
        places[row : row + there] = [] if ref is None else [block.add(coords, ref)]
    count = len(places)
    total = mark.rows + sum(ref is not None for ref in edits.values())
    if not count or (total - count) * _MAX_DEAD > total:
        return None
    head = build_head(manifest_id, [(node_id, count)], spec=spec, rows=total, dictionary=dictionary)
    front = _front(head, [[head.blocks + place for place in places]])
    payload = b"".join((front, memoryview(buf)[begin:], bytes(block.start - end), block.out))
    return Revised(seal(payload, FileType.MANIFEST, spec=spec, level=level), count)


def _front(head: Head, vectors: Sequence[Sequence[int]]) -> bytearray:
    """The head and the vectors, up to where the blocks begin."""
    front = bytearray(head.blocks)
    front[: len(head.content)] = head.content
    for start, places in zip(head.vectors, vectors, strict=True):
        first = start + 4
        offsets = [place - first - 4 * row for row, place in enumerate(places)]
        struct.pack_into(f"<{len(offsets) + 1}I", front, start, len(offsets), *offsets)
    return front
