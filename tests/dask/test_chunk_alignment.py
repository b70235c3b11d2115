"""Which dask chunks may be written into which Zarr chunks at the same time."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk.chunk_alignment import check_alignment, chunks_touched, pair_up, place_in, write_sizes


def source(*chunks: tuple[int, ...]) -> Any:
    return SimpleNamespace(shape=tuple(map(sum, chunks)), chunks=chunks, ndim=len(chunks))


STORE = object()


def target(
    shape: tuple[int, ...], chunks: tuple[int, ...], shards: tuple[int, ...] | None = None, path: str = "a"
) -> Any:
    return SimpleNamespace(shape=shape, ndim=len(shape), chunks=chunks, shards=shards, path=path, store=STORE)


class Rectilinear(SimpleNamespace):
    """An array whose chunks have lengths of their own, as newer zarr shows it."""

    shards = None

    @property
    def chunks(self) -> Any:
        raise NotImplementedError


def check(one: Any, array: Any, region: Any = None) -> None:
    check_alignment(pair_up([one], [array], [region]))


@pytest.mark.parametrize(
    ("chunks", "zarr_chunks", "region"),
    [
        ((4, 4), 4, None),
        ((4, 4), 2, None),
        ((8,), 3, None),
        ((8,), 8, None),
        ((2, 3, 3), 3, slice(1, 9)),
        ((0, 4, 0, 4), 4, None),
        ((1, 1), 4, slice(0, 8, 4)),
    ],
)
def test_what_fits(chunks: tuple[int, ...], zarr_chunks: int, region: slice | None) -> None:
    check(source(chunks), target((max(sum(chunks), 9),), (zarr_chunks,)), region)


@pytest.mark.parametrize(
    ("chunks", "zarr_chunks", "region", "words"),
    [
        ((3, 3, 3), 2, None, "blocks 0 and 1 would both write chunk 1"),
        ((4, 4), 8, None, "chunk 0"),
        ((4, 4), 4, slice(1, 9), "blocks 0 and 1"),
        ((1, 1), 4, slice(0, 4, 2), "chunk 0"),
    ],
)
def test_what_does_not(chunks: tuple[int, ...], zarr_chunks: int, region: slice | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check(source(chunks), target((9,), (zarr_chunks,)), region)


def test_shards_are_what_is_written() -> None:
    array = target((8,), (2,), shards=(4,))
    check(source((4, 4)), array)
    with pytest.raises(ValueError, match="do not fit the Zarr shards of 4"):
        check(source((2, 2, 4)), array)


def test_chunks_with_lengths_of_their_own() -> None:
    array = Rectilinear(shape=(9,), ndim=1, path="a", store=STORE, write_chunk_sizes=((2, 3, 4),))
    check(source((2, 7)), array)
    check(source((5, 4)), array)
    with pytest.raises(ValueError, match=r"Zarr chunks of \(2, 3, 4\)"):
        check(source((4, 5)), array)


def test_two_sources_in_one_chunk() -> None:
    array = target((8, 4), (4, 4))
    half = source((4,), (4,))
    check_alignment(pair_up([half, half], [array, array], [(slice(0, 4),), (slice(4, 8),)]))
    quarter = source((2,), (4,))
    with pytest.raises(ValueError, match="two sources"):
        check_alignment(pair_up([quarter, quarter], [array, array], [(slice(0, 2),), (slice(2, 4),)]))
    other = target((8, 4), (4, 4), path="b")
    check_alignment(pair_up([quarter, quarter], [array, other], [(slice(0, 2),), (slice(2, 4),)]))


def test_places() -> None:
    array = target((5, 6, 7), (1, 1, 1))
    assert place_in((5, 6, 7), array, None).dims == ((0, 1), (0, 1), (0, 1))
    assert place_in((2, 7), array, (slice(1, 3), -1)).dims == ((1, 1), 5, (0, 1))
    assert place_in((5, 6, 3), array, (..., slice(0, 6, 2))).dims == ((0, 1), (0, 1), (0, 2))
    assert place_in((3,), array, (0, 1, slice(2, 5))).index([(1, 3)]) == (0, 1, slice(3, 5, 1))
    assert place_in((3, 6, 7), array, None).dims == ((0, 1), (0, 1), (0, 1))


@pytest.mark.parametrize(
    ("shape", "region", "words"),
    [
        ((6, 6, 7), None, "does not fit"),
        ((5, 6), None, "does not fit"),
        ((2, 6, 7), (slice(0, 3),), "region"),
        ((5, 6, 7), (slice(None, None, -1),), "positive step"),
        ((float("nan"), 6, 7), None, "compute_chunk_sizes"),
    ],
)
def test_misfits(shape: tuple[float, ...], region: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        place_in(shape, target((5, 6, 7), (1, 1, 1)), region)


def test_lengths_must_agree() -> None:
    array = target((4,), (4,))
    with pytest.raises(ValueError, match="Different number"):
        pair_up([source((4,))], [array, array], None)
    with pytest.raises(ValueError, match="Different number"):
        pair_up([source((4,))], [array], [None, None])


@st.composite
def layouts(draw: st.DrawFn) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...], tuple[slice, ...]]:
    """The chunks of a source, those of a target, and a region that fits."""
    chunks, zarr_chunks, region = [], [], []
    for _ in range(draw(st.integers(1, 2))):
        lengths = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(any))
        start, step = draw(st.integers(0, 5)), draw(st.integers(1, 3))
        chunks.append(tuple(lengths))
        zarr_chunks.append(draw(st.integers(1, 5)))
        region.append(slice(start, start + (sum(lengths) - 1) * step + 1, step))
    return tuple(chunks), tuple(zarr_chunks), tuple(region)


@given(layouts())
def test_agrees_with_writing_every_element(
    layout: tuple[tuple[tuple[int, ...], ...], tuple[int, ...], tuple[slice, ...]],
) -> None:
    chunks, zarr_chunks, region = layout
    array = target(tuple(part.stop for part in region), zarr_chunks)
    (write,) = pair_up([source(*chunks)], [array], [region])
    writers: dict[tuple[int, ...], set[tuple[int, ...]]] = {}
    for block in itertools.product(*(range(len(lengths)) for lengths in chunks)):
        edges = [np.cumsum([0, *lengths]).tolist() for lengths in chunks]
        bounds = [(edge[i], edge[i + 1]) for edge, i in zip(edges, block, strict=True)]
        if any(low == high for low, high in bounds):
            continue
        index = write.place.index(bounds)
        positions = itertools.product(*(range(part.start, part.stop, part.step) for part in index))  # type: ignore[union-attr]
        touched = {tuple(p // c for p, c in zip(position, zarr_chunks, strict=True)) for position in positions}
        assert touched <= set(itertools.product(*chunks_touched(index, write_sizes(array))))
        for number in touched:
            writers.setdefault(number, set()).add(block)
    clash = any(len(blocks) > 1 for blocks in writers.values())
    if clash:
        with pytest.raises(ValueError, match="would both write"):
            check_alignment([write])
    else:
        check_alignment([write])
