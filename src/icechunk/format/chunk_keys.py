"""Chunk coordinates as single integers in the same order, so that sorting, searching and merging are numpy on numbers.

A coordinate becomes its position in the bounding box of all coordinates at hand, last axis fastest. Where the box holds
more than 63 bits of positions, coordinates are ranked axis by axis instead, which always fits.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Coords: TypeAlias = npt.NDArray[np.uint32]
Keys: TypeAlias = npt.NDArray[np.int64]
Extents: TypeAlias = tuple[tuple[int, int], ...]

_LIMIT = 1 << 63


def extents_of(coords: Coords) -> Extents:
    """The tight bounding box, half-open; (0, 0) on each axis when there is no coordinate."""
    if not len(coords):
        return ((0, 0),) * int(coords.shape[1])
    columns = [coords[:, axis] for axis in range(int(coords.shape[1]))]
    return tuple((int(column.min()), int(column.max()) + 1) for column in columns)


def volume(extents: Sequence[tuple[int, int]]) -> int:
    """How many coordinates a box holds."""
    product = 1
    for start, stop in extents:
        product *= max(0, stop - start)
    return product


def joint_keys(*tables: Coords) -> list[Keys]:
    """Keys of several sets of coordinates that compare with each other as the coordinates do."""
    boxes = [extents_of(coords) for coords in tables if len(coords)]
    if not boxes:
        return [np.zeros(len(coords), np.int64) for coords in tables]
    box = tuple((min(a for a, _ in axis), max(b for _, b in axis)) for axis in zip(*boxes, strict=True))
    if volume(box) <= _LIMIT:
        return [_ravel(coords, box) for coords in tables]
    ranked = _rank(np.concatenate([coords for coords in tables if len(coords)]))
    ends = np.cumsum([0, *map(len, tables)]).tolist()
    return [ranked[start:stop] for start, stop in pairwise(ends)]


def _ravel(coords: Coords, box: Extents) -> Keys:
    keys = np.zeros(len(coords), np.int64)
    if not len(coords):
        return keys
    for axis, (start, stop) in enumerate(box):
        if axis:
            keys *= stop - start
        keys += coords[:, axis]
        if start:
            keys -= start
    return keys


def _rank(coords: Coords) -> Keys:
    keys = np.zeros(len(coords), np.uint64)
    for axis in range(coords.shape[1]):
        values, ranks = np.unique(coords[:, axis], return_inverse=True)
        keys = keys * np.uint64(len(values)) + ranks.astype(np.uint64)
        keys = np.unique(keys, return_inverse=True)[1].astype(np.uint64)
    return keys.astype(np.int64)


def is_increasing(keys: Keys) -> bool:
    """Whether each key is greater than the one before."""
    return bool((keys[1:] > keys[:-1]).all())


def is_sorted(coords: Coords) -> bool:
    """Whether coordinates stand in lexicographic order, each once."""
    greater: Any = np.zeros(max(len(coords) - 1, 0), bool)
    for axis in range(int(coords.shape[1]) - 1, -1, -1):
        before, after = coords[:-1, axis], coords[1:, axis]
        greater &= after == before
        greater |= after > before
    return bool(greater.all())


def order_keeping_last(keys: Keys) -> npt.NDArray[np.int64] | None:
    """Row numbers that sort the keys, of equal ones only the last; None when they are sorted and unique already."""
    if is_increasing(keys):
        return None
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    last = np.ones(len(keys), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=last[:-1])
    return order[last]


class RowIndex:
    """Finds the row of a coordinate in sorted coordinates: at once when they fill their box, else by bisection."""

    __slots__ = ("_box", "_coords", "_keys", "_rows")

    def __init__(self, coords: Coords) -> None:
        box = extents_of(coords)
        size = volume(box)
        self._rows = len(coords)
        self._box = [(start, stop - start) for start, stop in box]
        self._keys: memoryview | None = None
        self._coords: Coords | None = None
        if size > _LIMIT:
            self._coords = coords
        elif size != len(coords):
            self._keys = _ravel(coords, box).data

    def find(self, coords: Sequence[int]) -> int:
        """The row, -1 for none."""
        box = self._box
        if len(coords) != len(box):
            return -1
        key = 0
        for coord, (start, size) in zip(coords, box, strict=True):
            coord -= start
            if not 0 <= coord < size:
                return -1
            key = key * size + coord
        keys: Any = self._keys
        if keys is not None:
            row = bisect_left(keys, key)
            return row if row < self._rows and keys[row] == key else -1
        if self._coords is None:
            return key if key < self._rows else -1
        wanted = tuple(coords)
        row = bisect_left(range(self._rows), wanted, key=self._at)
        return row if row < self._rows and self._at(row) == wanted else -1

    def _at(self, row: int) -> tuple[int, ...]:
        assert self._coords is not None
        return tuple(self._coords[row].tolist())
