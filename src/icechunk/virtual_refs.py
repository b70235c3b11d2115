"""Virtual references as users give them, one by one or in bulk, made into chunk tables; and tables made readable.

In bulk nothing is done per reference: distinct locations are checked once each, all else is columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from itertools import chain
from operator import attrgetter, index, itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.format.chunk_ref import Virtual
from icechunk.format.chunk_table import INLINE, NATIVE, ChunkTable
from icechunk.format.ids import format_id
from icechunk.format.snapshot import Node
from icechunk.format.text_column import TextColumn
from icechunk.virtual import VirtualChunks, normalise_location

if TYPE_CHECKING:
    from icechunk.virtual_types import VirtualChunkSpec

_MAX_U64 = 2**64 - 1
Refused = list[tuple[int, ...]]


def virtual_ref(location: str, offset: int, length: int, checksum: str | datetime | None, spec: int) -> Virtual:
    """One reference, checked. Raises `OverflowError` for a negative offset, `InvalidInputError` for a length of 0."""
    offset, length = index(offset), index(length)
    if not 0 <= offset <= _MAX_U64 or not 0 <= length <= _MAX_U64:
        raise OverflowError("offset and length of a virtual chunk must be between 0 and 2**64 - 1")
    if length == 0:
        raise _no_bytes(location)
    etag, modified = split_checksum(checksum)
    return Virtual(normalise_location(location, spec), offset, length, etag, modified)


def split_checksum(checksum: str | datetime | None) -> tuple[str | None, int]:
    """An etag, or seconds since 1970."""
    if checksum is None:
        return None, 0
    if isinstance(checksum, str):
        return checksum, 0
    if not isinstance(checksum, datetime):
        raise TypeError(f"a checksum is an etag (str) or a datetime, got {type(checksum).__name__}")
    if checksum.tzinfo is None:
        raise TypeError("expected a datetime with non-None tzinfo; use for example datetime.now(timezone.utc)")
    seconds = int(checksum.timestamp())
    if not 0 <= seconds < 2**32:
        raise OverflowError(f"the format keeps times from 1970 to 2106, {checksum} is none of these")
    return None, seconds


def refs_from_specs(
    specs: Sequence[VirtualChunkSpec], node: Node, virtual: VirtualChunks | None, spec: int
) -> tuple[ChunkTable, Refused]:
    """The table of a list of `VirtualChunkSpec`s, and the indices of those that no container serves."""
    ndim = len(node.shape)
    if not specs:
        return ChunkTable.empty(ndim), []
    rows = list(map(attrgetter("_values"), specs))  # there may be a million, and each property costs a call
    if set(map(len, map(itemgetter(0), rows))) != {ndim}:
        raise _wrong_rank(node)
    count = len(rows)
    numbers = chain.from_iterable(map(itemgetter(0), rows))
    times: list[datetime | None] = list(map(itemgetter(5), rows))
    return _table(
        np.fromiter(numbers, np.uint32, count * ndim).reshape(count, ndim),
        TextColumn.factorise(list(map(itemgetter(1), rows))),
        np.fromiter(map(itemgetter(2), rows), np.uint64, count),
        np.fromiter(map(itemgetter(3), rows), np.uint64, count),
        node,
        virtual,
        spec,
        etags=list(map(itemgetter(4), rows)) if any(map(itemgetter(4), rows)) else None,
        last_modified=_seconds(times),
    )


def _seconds(times: Sequence[datetime | None]) -> npt.NDArray[np.uint32] | None:
    if not any(times):
        return None
    known: dict[datetime | None, int] = {time: split_checksum(time)[1] for time in set(times)}
    return np.fromiter(map(known.__getitem__, times), np.uint32, len(times))


def refs_from_columns(
    grid: Sequence[int],
    locations: Sequence[str],
    offsets: npt.ArrayLike,
    lengths: npt.ArrayLike,
    node: Node,
    virtual: VirtualChunks | None,
    spec: int,
    *,
    arr_offset: Sequence[int] | None = None,
    checksum: str | datetime | None = None,
) -> tuple[ChunkTable, Refused]:
    """The table of a whole grid of chunks in C order; empty locations are left out."""
    grid = tuple(map(index, grid))
    if len(grid) != len(node.shape) or (arr_offset is not None and len(arr_offset) != len(grid)):
        raise _wrong_rank(node)
    count = math.prod(grid)
    where, size = _unsigned(offsets, "offsets"), _unsigned(lengths, "lengths")
    if not len(locations) == len(where) == len(size) == count:
        raise InvalidInputError(
            f"a chunk grid of {list(grid)} has {count} chunks, but there are {len(locations)} locations, {len(where)} "
            f"offsets and {len(size)} lengths; give one of each per chunk, in C order",
            ErrorKind.INVALID_VIRTUAL_REF,
        )
    column = TextColumn.factorise(locations)
    start = (0,) * len(grid) if arr_offset is None else tuple(map(index, arr_offset))
    coords = _grid_coords(grid, start)
    if "" in column.distinct:
        rows = np.flatnonzero(column.codes != column.distinct.index(""))
        column, coords, where, size = column.take(rows).compact(), coords[rows], where[rows], size[rows]
    etag, modified = split_checksum(checksum)
    return _table(
        coords, column, where, size, node, virtual, spec, etags=etag, last_modified=modified or None, ordered=True
    )


def _grid_coords(grid: Sequence[int], start: Sequence[int]) -> npt.NDArray[Any]:
    """The coordinates of all chunks of a grid that begins at `start`, in C order."""
    fits = all(first >= 0 and first + count <= 2**32 for first, count in zip(start, grid, strict=True))
    coords = np.empty((*grid, len(grid)), np.uint32 if fits else np.int64)
    for axis, (first, count) in enumerate(zip(start, grid, strict=True)):
        along = np.arange(first, first + count, dtype=coords.dtype)
        coords[..., axis] = along.reshape(-1, *[1] * (len(grid) - axis - 1))
    return coords.reshape(math.prod(grid), len(grid))


def _table(
    coords: npt.NDArray[Any],
    locations: TextColumn,
    offsets: npt.NDArray[np.uint64],
    lengths: npt.NDArray[np.uint64],
    node: Node,
    virtual: VirtualChunks | None,
    spec: int,
    *,
    ordered: bool = False,
    **checksums: Any,
) -> tuple[ChunkTable, Refused]:
    """The table of these columns; `ordered` where coordinates are sorted already, each there once."""
    ndim = len(node.shape)
    if not len(coords):
        return ChunkTable.empty(ndim), []
    if coords.shape[1] != ndim:
        raise _wrong_rank(node)
    if coords.dtype != np.uint32 and coords.size and (int(coords.min()) < 0 or int(coords.max()) >= 2**32):
        raise InvalidInputError(
            f"chunk indices of {node.path} must be from 0 to 2**32 - 1", ErrorKind.INVALID_CHUNK_INDEX
        )
    if not lengths.all():
        raise _no_bytes(locations.at(int(np.flatnonzero(lengths == 0)[0])) or "")
    texts = [normalise_location(text, spec) for text in locations.distinct]
    refused: Refused = []
    if virtual is not None:
        served = np.fromiter((virtual.serves(text) for text in texts), bool, len(texts))
        if not served.all():
            keep = served[locations.codes]
            refused = [tuple(row) for row in coords[~keep].tolist()]
            coords, offsets, lengths = coords[keep], offsets[keep], lengths[keep]
            checksums = {
                name: [item for item, kept in zip(value, keep, strict=True) if kept]
                if isinstance(value, list)
                else (value[keep] if isinstance(value, np.ndarray) else value)
                for name, value in checksums.items()
            }
            locations = locations.take(np.flatnonzero(keep))
            if not len(coords):
                return ChunkTable.empty(ndim), refused
    table = ChunkTable.from_columns(
        coords.astype(np.uint32, copy=False),
        texts,
        offsets,
        lengths,
        codes=locations.codes,
        ordered=ordered,
        **checksums,
    )
    return table, refused


def _unsigned(values: npt.ArrayLike, name: str) -> npt.NDArray[np.uint64]:
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "ui":
        raise TypeError(f"{name} must be integers, got {array.dtype}")
    if array.size and array.dtype.kind == "i" and int(array.min()) < 0:
        raise OverflowError(f"{name} must not be negative")
    return array.astype(np.uint64).ravel()  # a copy: the caller may go on using its own


def _no_bytes(location: str) -> InvalidInputError:
    return InvalidInputError(
        f"a virtual chunk needs at least one byte, `{location}` has length 0", ErrorKind.ZERO_LENGTH_CHUNK
    )


def _wrong_rank(node: Node) -> InvalidInputError:
    return InvalidInputError(
        f"invalid chunk index: the array at {node.path} has {len(node.shape)} dimensions, give as many coordinates",
        ErrorKind.INVALID_CHUNK_INDEX,
    )


def location_texts(table: ChunkTable) -> list[str]:
    """For each row where its bytes are: a URL, the id of a native chunk, or nothing for an inline one."""
    texts = [""] * len(table)
    if table.location_text is not None:
        distinct = [*table.location_text.distinct, ""]
        texts = [distinct[code] for code in table.location_text.codes.tolist()]
    if table.chunk_ids is not None:
        for row in np.flatnonzero(table.kind == NATIVE).tolist():
            texts[row] = format_id(table.chunk_ids[row].tobytes())
    return texts


def inline_bytes(table: ChunkTable) -> dict[int, bytes]:
    """The data of inline chunks, by row."""
    if table.inline is None or table.inline_start is None:
        return {}
    found = {}
    for row in np.flatnonzero(table.kind == INLINE).tolist():
        start = int(table.inline_start[row])
        found[row] = bytes(table.inline[start : start + int(table.length[row])])
    return found
