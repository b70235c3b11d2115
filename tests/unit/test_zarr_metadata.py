"""What is read from a zarr.json, and where chunks may be."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.format.snapshot import DimensionShape, Node
from icechunk.zarr_metadata import (
    MAX_CHUNKS,
    NodeMetadata,
    check_all_coords,
    check_coords,
    in_grid,
    parse_metadata,
)

MISSING = object()


def regular(*chunk_shape: Any) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": list(chunk_shape)}}


def rectilinear(*chunk_shapes: Any) -> dict[str, Any]:
    return {"name": "rectilinear", "configuration": {"kind": "inline", "chunk_shapes": list(chunk_shapes)}}


def array(**members: Any) -> bytes:
    document = {"zarr_format": 3, "node_type": "array", "shape": [4, 6], "chunk_grid": regular(2, 4), **members}
    return json.dumps({name: value for name, value in document.items() if value is not MISSING}).encode()


def node(*shape: DimensionShape, path: str = "/arr") -> Node:
    return Node(b"12345678", path, True, b"{}", shape, None, ())


def test_groups_have_no_shape() -> None:
    assert parse_metadata(b'{"node_type": "group", "attributes": {"a": 1}}') == NodeMetadata(False, (), None)


def test_a_regular_grid_covers_the_array() -> None:
    found = parse_metadata(array())
    assert found == NodeMetadata(True, (DimensionShape(4, 2, 2), DimensionShape(6, 2, 4)), None, True)


def test_arrays_without_dimensions() -> None:
    assert parse_metadata(array(shape=[], chunk_grid=regular())).shape == ()


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(1, 40)), max_size=4))
def test_the_grid_is_the_one_zarr_uses(dimensions: list[tuple[int, int]]) -> None:
    shape, chunks = [d[0] for d in dimensions], [d[1] for d in dimensions]
    created = zarr.create_array({}, shape=tuple(shape), chunks=tuple(chunks), dtype="i4")
    raw = created.metadata.to_buffer_dict(zarr.core.buffer.default_buffer_prototype())["zarr.json"].to_bytes()
    found = parse_metadata(raw)
    assert tuple(dimension.chunks for dimension in found.shape) == created.cdata_shape
    assert [dimension.length for dimension in found.shape] == shape
    assert [dimension.chunk_length for dimension in found.shape] == chunks


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (MISSING, None),
        (None, None),
        ([], ()),
        (["x"], ("x",)),
        (["x", None], ("x", None)),
        (["", "y"], ("", "y")),
    ],
)
def test_dimension_names(names: Any, expected: Any) -> None:
    assert parse_metadata(array(dimension_names=names)).dimension_names == expected


@pytest.mark.parametrize(
    ("axes", "chunks"),
    [
        (([2, 2], [3, 3]), (2, 2)),
        (([[2, 2]], [3, 3]), (2, 2)),
        (([1, 1, 2], [[1, 6]]), (3, 6)),
        (([1, [1, 2], 1], [6]), (4, 1)),
        ((3, [3, 3]), (2, 2)),
    ],
)
def test_rectilinear_grids_count_their_chunks(axes: Any, chunks: Any) -> None:
    raw = array(chunk_grid=rectilinear(*axes))
    found = parse_metadata(raw)
    assert tuple(dimension.chunks for dimension in found.shape) == chunks
    assert [dimension.chunk_length for dimension in found.shape] == [None, None]
    assert not found.regular
    with pytest.raises(InvalidInputError, match="Non-regular chunk grids are not supported") as caught:
        parse_metadata(raw, rectilinear=False)
    assert caught.value.kind == ErrorKind.BAD_METADATA


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"abc",
        b"[]",
        b'"group"',
        b'\xef\xbb\xbf{"node_type": "group"}',
        b'{"node_type": "group", "a": "\xff"}',
        b"[" * 100_000,
        b'{"node_type": "Group"}',
        array(node_type=MISSING),
        array(node_type="table"),
        array(node_type=["array"]),
        array(shape=MISSING),
        array(shape=None),
        array(shape=[-1, 2]),
        array(shape=[1.5, 2]),
        array(shape=[4.0, 6]),
        array(shape=[True, 6]),
        array(shape=[2**64, 6]),
        array(shape="46"),
        array(chunk_grid=MISSING),
        array(chunk_grid="regular"),
        array(chunk_grid={"name": "regular"}),
        array(chunk_grid={"configuration": {"chunk_shape": [2, 3]}}),
        array(chunk_grid={"name": "hexagonal", "configuration": {}}),
        array(chunk_grid={"name": "regular", "configuration": {}}),
        array(chunk_grid=regular(-2, 3)),
        array(chunk_grid=regular(2)),
        array(chunk_grid=regular(2, 3, 4)),
        array(chunk_grid=rectilinear([2, 2])),
        array(chunk_grid=rectilinear(["a"], [3, 3])),
        array(chunk_grid=rectilinear([[1, 2, 3]], [3, 3])),
        array(chunk_grid=rectilinear("22", [3, 3])),
        array(chunk_grid={"name": "rectilinear", "configuration": {"kind": "inline"}}),
        array(dimension_names=[1, 2]),
        array(dimension_names="xy"),
        array(dimension_names=["x", "y", "z"]),
    ],
)
def test_what_is_no_description_of_a_node_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_metadata(raw)
    assert caught.value.kind == ErrorKind.BAD_METADATA


def test_messages_name_the_member() -> None:
    with pytest.raises(InvalidInputError, match="missing field `chunk_grid`"):
        parse_metadata(array(chunk_grid=MISSING))
    with pytest.raises(InvalidInputError, match="Fewer dimensions on inferred number of chunks 1 than shape 2"):
        parse_metadata(array(chunk_grid=regular(2)))
    with pytest.raises(InvalidInputError, match=r"Unsupported chunk grid foo\. Only 'regular' and 'rectilinear'"):
        parse_metadata(array(chunk_grid={"name": "foo", "configuration": {}}))
    with pytest.raises(InvalidInputError, match="3 names for 2 dimensions"):
        parse_metadata(array(dimension_names=["x", "y", "z"]))


def test_chunks_of_length_zero_cover_nothing() -> None:
    assert parse_metadata(array(shape=[0, 6], chunk_grid=regular(0, 3))).shape[0] == DimensionShape(0, 0, 0)
    with pytest.raises(InvalidInputError) as caught:
        parse_metadata(array(chunk_grid=regular(0, 3)))
    assert caught.value.kind == ErrorKind.INVALID_ARRAY_METADATA


def test_axes_may_be_longer_than_coordinates_reach() -> None:
    assert parse_metadata(array(shape=[2**63], chunk_grid=regular(1))).shape[0].chunks == MAX_CHUNKS


def test_identical_documents_are_read_once_and_long_ones_too() -> None:
    short, long = array(), array(attributes={"history": "x" * 100_000})
    assert parse_metadata(short) is parse_metadata(bytes(bytearray(short)))
    assert parse_metadata(long) == parse_metadata(short)


@given(
    st.lists(st.integers(0, 4), max_size=3),
    st.lists(st.integers(-1, 5), max_size=3),
)
def test_chunks_lie_inside_the_grid(counts: list[int], coords: list[int]) -> None:
    array_node = node(*[DimensionShape(count, count, 1) for count in counts])
    inside = len(coords) == len(counts) and all(
        0 <= index < max(count, 1) for index, count in zip(coords, counts, strict=True)
    )
    assert in_grid(array_node.shape, coords) is inside
    bulk = np.array([coords], np.int64).clip(0).astype(np.uint32).reshape(1, len(coords))
    if inside:
        check_coords(array_node, coords)
        check_all_coords(array_node, bulk)
    else:
        with pytest.raises(InvalidInputError, match="invalid chunk index") as caught:
            check_coords(array_node, coords)
        assert caught.value.kind == ErrorKind.INVALID_CHUNK_INDEX
        if min(coords, default=0) >= 0:
            with pytest.raises(InvalidInputError, match=r"coordinates \[.*\] are not valid for array at /arr"):
                check_all_coords(array_node, bulk)


def test_the_first_wrong_chunk_of_many_is_named() -> None:
    coords = np.array([[0, 0], [1, 1], [2, 0]], np.uint32)
    with pytest.raises(InvalidInputError, match=r"\[2, 0\]"):
        check_all_coords(node(DimensionShape(4, 2, 2), DimensionShape(4, 2, 2)), coords)
    with pytest.raises(InvalidInputError):
        check_all_coords(node(DimensionShape(4, 2, 2)), np.empty((0, 2), np.uint32))
