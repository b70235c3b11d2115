"""Virtual references in bulk: columns and specs against the same set one by one."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.format.chunk_ref import Virtual
from icechunk.format.snapshot import DimensionShape, Node
from icechunk.virtual_refs import Refused, refs_from_columns, refs_from_specs
from icechunk.virtual_types import VirtualChunkSpec


class Served:
    """Containers that serve all that is not in the bucket `closed`."""

    def serves(self, location: str) -> bool:
        return not location.startswith("s3://closed/")


SERVED: Any = Served()
locations = st.sampled_from(["", "s3://b/a", "S3://b/a", "s3://b/b", "s3://closed/c", "file:///x y"])
NORMAL = {"S3://b/a": "s3://b/a", "file:///x y": "file:///x%20y"}


def node_of(ndim: int) -> Node:
    return Node(b"nodeidno", "/a", True, b"{}", tuple(DimensionShape(9, 9, 1) for _ in range(ndim)), None, ())


@st.composite
def grids(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...] | None, list[str]]:
    grid = draw(st.lists(st.integers(0, 3), max_size=3).map(tuple))
    count = int(np.prod(grid)) if grid else 1
    offset = draw(st.none() | st.tuples(*[st.integers(0, 5)] * len(grid)))
    return grid, offset, draw(st.lists(locations, min_size=count, max_size=count))


def one_by_one(
    grid: tuple[int, ...], offset: tuple[int, ...] | None, texts: list[str]
) -> tuple[dict[tuple[int, ...], Virtual], Refused]:
    refs, refused = {}, []
    for number, (place, text) in enumerate(zip(itertools.product(*map(range, grid)), texts, strict=True)):
        coords = tuple(a + b for a, b in zip(place, offset or (0,) * len(grid), strict=True))
        if text.startswith("s3://closed/"):
            refused.append(coords)
        elif text:
            refs[coords] = Virtual(NORMAL.get(text, text), number, number + 1)
    return refs, refused


@given(grids())
def test_columns_are_what_single_references_are(
    given_grid: tuple[tuple[int, ...], tuple[int, ...] | None, list[str]],
) -> None:
    grid, offset, texts = given_grid
    offsets, lengths = np.arange(len(texts)), np.arange(1, len(texts) + 1, dtype=np.uint64)
    table, refused = refs_from_columns(grid, texts, offsets, lengths, node_of(len(grid)), SERVED, 2, arr_offset=offset)
    offsets += 1000
    lengths += np.uint64(1000)  # what the caller does with its own arrays later is no business of ours
    refs, expected = one_by_one(grid, offset, texts)
    assert (dict(table.items()), refused) == (refs, expected)
    assert list(table.items()) == sorted(table.items(), key=lambda item: item[0])


@given(grids())
def test_specs_are_what_single_references_are(
    given_grid: tuple[tuple[int, ...], tuple[int, ...] | None, list[str]],
) -> None:
    grid, offset, texts = given_grid
    specs = [
        VirtualChunkSpec(
            [a + b for a, b in zip(place, offset or (0,) * len(grid), strict=True)], text, number, number + 1
        )
        for number, (place, text) in enumerate(zip(itertools.product(*map(range, grid)), texts, strict=True))
        if text
    ]
    table, refused = refs_from_specs(specs[::-1], node_of(len(grid)), SERVED, 2)
    refs, expected = one_by_one(grid, offset, texts)
    assert (dict(table.items()), refused[::-1]) == (refs, expected)


def test_checksums_hold_for_all() -> None:
    one = refs_from_columns((2,), ["s3://b/a"] * 2, [0, 1], [1, 1], node_of(1), None, 2, checksum="etag")[0]
    assert [ref for _, ref in one.items()] == [Virtual("s3://b/a", number, 1, "etag") for number in range(2)]
    when = datetime(2024, 1, 1, tzinfo=UTC)
    two = refs_from_columns((2,), ["s3://b/a"] * 2, [0, 1], [1, 1], node_of(1), None, 2, checksum=when)[0]
    seconds = int(when.timestamp())
    assert [ref for _, ref in two.items()] == [Virtual("s3://b/a", number, 1, None, seconds) for number in range(2)]


@pytest.mark.parametrize("start", [-1, 2**32 - 1])
def test_indices_that_no_file_can_hold_are_refused(start: int) -> None:
    args: Any = (["s3://b/a"] * 2, [0, 1], [1, 1], node_of(1), None, 2)
    with pytest.raises(InvalidInputError) as failure:
        refs_from_columns((2,), *args, arr_offset=[start])
    assert failure.value.kind == ErrorKind.INVALID_CHUNK_INDEX


def test_indices_that_no_file_can_hold_may_be_left_out() -> None:
    table, _ = refs_from_columns((2,), ["", "s3://b/a"], [0, 1], [1, 1], node_of(1), None, 2, arr_offset=[-1])
    assert dict(table.items()) == {(0,): Virtual("s3://b/a", 1, 1)}


def test_every_chunk_of_the_grid_needs_its_reference() -> None:
    with pytest.raises(InvalidInputError, match="3 locations"):
        refs_from_columns((2, 2), ["s3://b/a"] * 3, [0] * 4, [1] * 4, node_of(2), None, 2)
    with pytest.raises(InvalidInputError, match="2 dimensions"):
        refs_from_columns((4,), ["s3://b/a"] * 4, [0] * 4, [1] * 4, node_of(2), None, 2)
