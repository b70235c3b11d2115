"""Chunk references of one array: all of them, those at some coordinates, the bytes that a request for one means."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from icechunk._driver import concurrent_map, offload
from icechunk.assets import Assets
from icechunk.change_set import Coords
from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.format.chunk_table import ChunkTable
from icechunk.format.snapshot import Node
from icechunk.storage.base import ByteRange


async def table_of(assets: Assets, node: Node) -> ChunkTable:
    """Every chunk reference in the manifests of an array."""
    manifests = await concurrent_map(
        lambda ref: assets.manifest(ref.id), node.manifests, max(assets.storage.concurrency, 1)
    )
    tables = [
        manifest.table(node.id) if manifest.missing is None else await offload(partial(manifest.table, node.id))
        for manifest in manifests
    ]
    tables = [table for table in tables if table.ndim == len(node.shape)]
    if len(tables) < 2:
        return tables[0] if tables else ChunkTable.empty(len(node.shape))
    return ChunkTable.concat(tables)


def require_array(node: Node) -> Node:
    """The node, where it is an array; raises `InvalidInputError`."""
    if not node.is_array:
        raise InvalidInputError(
            f"there is not an array at `{node.path}`, it is a group; a group has no chunks", ErrorKind.NOT_AN_ARRAY
        )
    return node


def lies_in(coords: Coords, extents: Sequence[tuple[int, int]]) -> bool:
    """Whether a chunk lies in a box, half-open on each axis."""
    for index, (start, stop) in zip(coords, extents, strict=False):  # noqa: SIM110  # twice as fast as all()
        if not start <= index < stop:
            return False
    return True


def resolve_range(byte_range: ByteRange | None, length: int) -> tuple[int, int]:
    """First byte and one past the last, inside of `length` bytes, as a slice would."""
    if byte_range is None:
        return 0, length
    start, stop, _ = slice(byte_range.start, byte_range.stop).indices(length)
    return start, max(start, stop)


def beginning_with(coords: npt.NDArray[np.uint32], head: Sequence[int]) -> npt.NDArray[np.uint32]:
    """Those of the coordinates that begin with `head`."""
    if not head:
        return coords
    if len(head) > coords.shape[1]:
        return coords[:0]
    same: npt.NDArray[np.bool_] = (coords[:, : len(head)] == np.asarray(head, np.int64)).all(axis=1)
    return coords[same]
