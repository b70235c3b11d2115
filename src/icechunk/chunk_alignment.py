"""Where the chunks of a dask array fall on the chunks of a Zarr array.

Zarr writes whole chunks (whole shards, where there are any). Two tasks that write into one of them at the same time
overwrite each other, so before anything is computed `check_alignment` compares the borders of the tasks with those of
the chunks. Everything here is arithmetic on shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Region: TypeAlias = tuple[Any, ...] | slice | int | None
"""Part of an array, as in `array[region]`; None is all of it."""

Index: TypeAlias = tuple[int | slice, ...]
Sizes: TypeAlias = Sequence[int | tuple[int, ...]]
"""By dimension, the length of all chunks, or the lengths of each."""


@dataclass(frozen=True)
class Place:
    """Where a source goes in a target.

    `dims` has, for each dimension of the target, a fixed index, or the start and the step at which the next dimension
    of the source is laid out.
    """

    dims: tuple[int | tuple[int, int], ...]

    def index(self, bounds: Sequence[tuple[int, int]]) -> Index:
        """The part of the target that takes what is within `bounds` in the source."""
        ranges = iter(bounds)
        index: list[int | slice] = []
        for where in self.dims:
            if isinstance(where, int):
                index.append(where)
                continue
            (start, step), (low, high) = where, next(ranges)
            index.append(slice(start + low * step, start + (high - 1) * step + 1, step))
        return tuple(index)


@dataclass(frozen=True)
class Write:
    """A source that is to be written to a place in a target; both are known by shape and chunks only."""

    source: Any
    target: Any
    place: Place


def pair_up(sources: Sequence[Any], targets: Sequence[Any], regions: Any) -> list[Write]:
    """What is to be written where; raises `ValueError` when it does not go together."""
    if len(sources) != len(targets):
        raise ValueError(f"Different number of sources [{len(sources)}] and targets [{len(targets)}]")
    if regions is None or isinstance(regions, tuple | slice | int):
        regions = [regions] * len(sources)
    regions = list(regions)
    if len(regions) != len(sources):
        raise ValueError(f"Different number of sources [{len(sources)}] and regions [{len(regions)}]")
    return [
        Write(source, target, place_in(source.shape, target, region))
        for source, target, region in zip(sources, targets, regions, strict=True)
    ]


def place_in(shape: Sequence[float], target: Any, region: Region) -> Place:
    """The place of a source of this shape in `target[region]`; raises `ValueError` when it does not fit."""
    if any(np.isnan(size) for size in shape):
        raise ValueError("a source has chunks of unknown size; call its compute_chunk_sizes() first")
    dims: list[int | tuple[int, int]] = []
    lengths = []
    for item, length in zip(_full_region(region, target.ndim), target.shape, strict=True):
        if isinstance(item, slice):
            start, stop, step = item.indices(length)
            if step < 1:
                raise ValueError(f"a region is made of slices with a positive step, not {item}")
            dims.append((start, step))
            lengths.append(len(range(start, stop, step)))
        else:
            dims.append(range(length)[item])
    # without a region a smaller source goes to the beginning of the target, as in dask.array.store
    fits = len(lengths) == len(shape) and all(
        size == length or (region is None and size <= length) for size, length in zip(shape, lengths, strict=True)
    )
    if not fits:
        where = f"array {target.path!r} of shape {target.shape}" + ("" if region is None else f", region {region}")
        raise ValueError(f"a source of shape {tuple(shape)} does not fit in {where}")
    return Place(tuple(dims))


def _full_region(region: Region, ndim: int) -> list[Any]:
    """The region with an item for every dimension."""
    items = list(region if isinstance(region, tuple) else () if region is None else (region,))
    missing = [slice(None)] * (ndim - len(items) + (Ellipsis in items))
    if Ellipsis in items:
        at = items.index(Ellipsis)
        return [*items[:at], *missing, *items[at + 1 :]]
    return items + missing


def check_alignment(writes: Sequence[Write]) -> None:
    """Raise `ValueError` when two tasks of `writes` would write into one Zarr chunk (or shard)."""
    boxes: dict[tuple[int, str], list[list[tuple[int, int]]]] = {}
    for write in writes:
        box = _check_one(write)
        if box is None:
            continue
        others = boxes.setdefault((id(getattr(write.target.store, "_workspace", None)), write.target.path), [])
        if others and _overlaps(box, others):
            raise ValueError(
                f"two sources would be written into the same Zarr chunks of array {write.target.path!r} at once; let "
                "the borders of their regions fall on borders of chunks, or pass safe_chunks=False to risk lost writes"
            )
        others.append(box)


def _overlaps(box: list[tuple[int, int]], others: list[list[tuple[int, int]]]) -> bool:
    """Whether a box has a chunk in common with any of the others; first and last chunk belong to a box."""
    mine = np.array(box, dtype=np.int64).reshape(-1, 2)
    theirs = np.array(others, dtype=np.int64).reshape(len(others), -1, 2)
    apart = (theirs[:, :, 1] < mine[:, 0]) | (mine[:, 1] < theirs[:, :, 0])
    return not apart.any(axis=1).all()


def _check_one(write: Write) -> list[tuple[int, int]] | None:
    """Check the chunks of one source against each other; returns the box of Zarr chunks covered, None if empty."""
    box: list[tuple[int, int]] = []
    chunks = iter(enumerate(write.source.chunks))
    for where, sizes in zip(write.place.dims, write_sizes(write.target), strict=True):
        if isinstance(where, int):
            unit = int(chunk_numbers(np.array([where]), sizes)[0])
            box.append((unit, unit))
            continue
        (start, step), (axis, lengths) = where, next(chunks)
        edges = np.cumsum([0, *filter(None, lengths)], dtype=np.int64)
        if len(edges) == 1:
            return None
        first = chunk_numbers(start + edges[:-1] * step, sizes)
        last = chunk_numbers(start + (edges[1:] - 1) * step, sizes)
        shared = np.flatnonzero(first[1:] == last[:-1])
        if len(shared):
            raise _misaligned(write.target, axis, lengths, sizes, int(shared[0]), int(last[shared[0]]))
        box.append((int(first[0]), int(last[-1])))
    return box


def _misaligned(
    target: Any, axis: int, lengths: Sequence[int], sizes: int | tuple[int, ...], block: int, number: int
) -> ValueError:
    unit = "shard" if getattr(target, "shards", None) else "chunk"
    return ValueError(
        f"the dask chunks {_brief(lengths)} along axis {axis} do not fit the Zarr {unit}s of {_brief(sizes)} in array "
        f"{target.path!r}: blocks {block} and {block + 1} would both write {unit} {number}. Rechunk the source to "
        f"multiples of the {unit}s, or pass safe_chunks=False to risk lost writes"
    )


def write_sizes(target: Any) -> Sizes:
    """By dimension, the length of what is written as a whole: of a shard, else of a chunk."""
    try:
        sizes: Sizes = target.shards or target.chunks
    except NotImplementedError:
        sizes = target.write_chunk_sizes
    return sizes


def chunk_numbers(positions: npt.NDArray[np.int64], sizes: int | tuple[int, ...]) -> npt.NDArray[np.int64]:
    """The number of the chunk in which each position lies, along one dimension."""
    if isinstance(sizes, tuple):
        return np.searchsorted(np.cumsum(sizes), positions, side="right")
    return positions // max(sizes, 1)


def chunks_touched(index: Index, sizes: Sizes) -> list[range]:
    """By dimension, the numbers of the chunks that `index` touches."""
    touched = []
    for where, lengths in zip(index, sizes, strict=True):
        first, last = (where, where) if isinstance(where, int) else (where.start, where.stop - 1)
        low, high = chunk_numbers(np.array([first, last], dtype=np.int64), lengths).tolist()
        touched.append(range(low, high + 1))
    return touched


def _brief(lengths: int | Sequence[int]) -> str:
    if isinstance(lengths, int):
        return str(lengths)
    return f"({', '.join(map(str, lengths[:4]))}{', ...' if len(lengths) > 4 else ''})"
