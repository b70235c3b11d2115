"""Transaction logs that say little, which most do: read value by value, as columns only pay for hundreds of coordinates.

Whatever is out of the ordinary (many coordinates, arrays listed twice, coordinates out of order or of several ranks) is
left to the columns, so nothing is decided here.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from icechunk.flatbuf.reader import Document, TableView, VectorView
from icechunk.format.schemas import ARRAY_UPDATED_CHUNKS, CHUNK_INDICES

Coords: TypeAlias = npt.NDArray[np.uint32]

MOST = 48
"""Arrays and coordinates of all of them that are read one by one."""

_NONE: frozenset[bytes] = frozenset()
_U32 = struct.Struct("<I").unpack_from
_ROWS = [struct.Struct(f"<{rank}I").unpack_from for rank in range(33)]

_CHUNKS = ARRAY_UPDATED_CHUNKS.fields["chunks"].slot
_NODE_ID = ARRAY_UPDATED_CHUNKS.fields["node_id"].slot
_COORDS = CHUNK_INDICES.fields["coords"].slot


def read_ids(root: TableView, name: str) -> frozenset[bytes]:
    """The node ids of one of the vectors of a log."""
    buf, at = root.doc.buf, root.position(name)
    start = at + _U32(buf, at)[0] + 4
    if start <= root.doc.size and not _U32(buf, start - 4)[0]:
        return _NONE
    raw = bytes(root[name].raw)
    return frozenset([raw[place : place + 8] for place in range(0, len(raw), 8)])


def read_few_chunks(doc: Document, arrays: VectorView) -> dict[bytes, Coords] | None:
    """The coordinates by array; None where they are to be read by column."""
    if len(arrays) > MOST:
        return None
    buf, left = doc.buf, MOST
    found: dict[bytes, Coords] = {}
    for slot in range(arrays.start, arrays.start + 4 * len(arrays), 4):
        table = slot + _U32(buf, slot)[0]
        layout = doc.layout(ARRAY_UPDATED_CHUNKS, table)
        at = table + layout[_NODE_ID]
        node_id = bytes(buf[at : at + 8])
        at = table + layout[_CHUNKS]
        start = at + _U32(buf, at)[0] + 4
        if start > doc.size:
            return None
        count = _U32(buf, start - 4)[0]
        left -= count
        if left < 0 or start + 4 * count > doc.size or node_id in found:
            return None
        rows = _rows(doc, start, count)
        if rows is None:
            return None
        found[node_id] = rows
    return found


def _rows(doc: Document, start: int, count: int) -> Coords | None:
    """The coordinates whose tables the vector at `start` points to, when they are all as they should be."""
    if not count:
        return np.zeros((0, 0), np.uint32)
    buf, rows, ranks = doc.buf, [], set()
    for slot in range(start, start + 4 * count, 4):
        table = slot + _U32(buf, slot)[0]
        at = table + doc.layout(CHUNK_INDICES, table)[_COORDS]
        at += _U32(buf, at)[0] + 4
        if at > doc.size:
            return None
        rank = _U32(buf, at - 4)[0]
        if rank >= len(_ROWS) or at + 4 * rank > doc.size:
            return None
        ranks.add(rank)
        rows.append(_ROWS[rank](buf, at))
    if len(ranks) > 1 or any(first >= second for first, second in pairwise(rows)):
        return None
    return np.array(rows, np.uint32)
