"""Keys of the zarr store: parsing, formatting, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.zarr_keys import (
    ChunkKey,
    KeyPrefix,
    MetadataKey,
    V2Key,
    chunk_key,
    chunk_keys,
    format_key,
    metadata_key,
    parse_key,
    parse_prefix,
)

NORMAL = [
    ("zarr.json", MetadataKey("/")),
    ("arr/zarr.json", MetadataKey("/arr")),
    ("a/b/zarr.json", MetadataKey("/a/b")),
    ("arr/c/0/1", ChunkKey("/arr", (0, 1))),
    ("arr/c/5000/4294967295", ChunkKey("/arr", (5000, 4294967295))),
    ("arr/c", ChunkKey("/arr", ())),
    ("c", ChunkKey("/", ())),
    ("c/7/0/1", ChunkKey("/", (7, 0, 1))),
    ("arr/.zarray", V2Key("/arr", ".zarray")),
    (".zgroup", V2Key("/", ".zgroup")),
    ("g/.zattrs", V2Key("/g", ".zattrs")),
    (".zmetadata", V2Key("/", ".zmetadata")),
    # arrays and groups that are themselves called c
    ("c/zarr.json", MetadataKey("/c")),
    ("c/c", ChunkKey("/c", ())),
    ("c/c/0", ChunkKey("/c", (0,))),
    ("a/c/c/0", ChunkKey("/a/c", (0,))),
    ("a/c/zarr.json", MetadataKey("/a/c")),
    ("a/c/b/zarr.json", MetadataKey("/a/c/b")),
    ("a/c/b/.zarray", V2Key("/a/c/b", ".zarray")),
    ("a/c/b/c", ChunkKey("/a/c/b", ())),
    ("a/c/b/c/3", ChunkKey("/a/c/b", (3,))),
    ("a/c/1/c/0", ChunkKey("/a/c/1", (0,))),
    # names that only look special
    ("xzarr.json/zarr.json", MetadataKey("/xzarr.json")),
    ("50%/c/1", ChunkKey("/50%", (1,))),
    ("été/c/1", ChunkKey("/été", (1,))),
]


@pytest.mark.parametrize(("key", "expected"), NORMAL)
def test_normal_keys_are_read_and_written_back(key: str, expected: object) -> None:
    parsed = parse_key(key)
    assert parsed == expected
    assert type(parsed) is type(expected)
    assert format_key(parsed) == key


@pytest.mark.parametrize(
    ("key", "same_as"),
    [
        ("/arr/c/1/1", "arr/c/1/1"),
        ("/zarr.json", "zarr.json"),
        ("./zarr.json", "zarr.json"),
        ("a/./b/zarr.json", "a/b/zarr.json"),
        ("/c/0", "c/0"),
        ("./c/0", "c/0"),
    ],
)
def test_leading_slashes_and_dots_mean_nothing(key: str, same_as: str) -> None:
    assert parse_key(key) == parse_key(same_as)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "foo",
        "arr/foo",
        "abc",
        "arrc/0/0",
        "arr/cc/0/0",
        "arr/0.0",
        "arr/c/0.0",
        "arr/c/",
        "arr/c/0/",
        "arr/c/-1/0",
        "arr/c/+1/1",
        "arr/c/00/1",
        "arr/c/01",
        "arr/c/ 1",
        "arr/c/1_0",
        "arr/c/٣",
        "arr/c/4294967296/0",
        "arr/c/" + "9" * 5000,
        "arr/c/n",
        "xzarr.json",
        "zarr.json/",
        "a//b/zarr.json",
        "arr//c/0",
        "../zarr.json",
        "a/../b/zarr.json",
        "a/../c/0",
        "a/../.zarray",
        "c/x",
        "c/",
    ],
)
def test_anything_else_is_refused_by_name(key: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_key(key)
    assert caught.value.kind == ErrorKind.INVALID_KEY
    assert f"`{key}`" in caught.value.message


names = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=4) | st.sampled_from(
    ["c", "zarr.json", "0", "cc", "%d"]
)
paths = st.lists(names.filter(lambda name: name not in (".", "..")), max_size=4).map(
    lambda parts: "/" + "/".join(parts)
)
coordinates = st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 20), max_size=4).map(tuple)


@given(paths, coordinates)
def test_keys_of_chunks_and_nodes_survive_the_round_trip(path: str, coords: tuple[int, ...]) -> None:
    assert parse_key(chunk_key(path, coords)) == ChunkKey(path, coords)
    assert parse_key(metadata_key(path)) == MetadataKey(path)


@given(st.text(max_size=12) | st.from_regex(r"[ac/.0-9zarrjson]{0,12}", fullmatch=True))
def test_a_key_is_read_the_same_way_always_or_refused(text: str) -> None:
    try:
        parsed = parse_key(text)
    except InvalidInputError:
        return
    assert parse_key(format_key(parsed)) == parsed


@given(paths, st.integers(0, 3), st.integers(0, 5))
def test_keys_in_bulk_are_the_keys_one_by_one(path: str, ndim: int, count: int) -> None:
    coords = np.arange(count * ndim, dtype=np.uint32).reshape(count, ndim)
    assert chunk_keys(path, coords) == [chunk_key(path, row) for row in coords.tolist()]


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("", KeyPrefix("/", None, ())),
        ("/", KeyPrefix("/", None, ())),
        ("g", KeyPrefix("/g", None, ())),
        ("g/", KeyPrefix("/g", None, ())),
        ("/g", KeyPrefix("/g", None, ())),
        ("./g", KeyPrefix("/g", None, ())),
        ("arr/c", KeyPrefix("/arr/c", "/arr", ())),
        ("arr/c/", KeyPrefix("/arr/c", "/arr", ())),
        ("arr/c/0", KeyPrefix("/arr/c/0", "/arr", (0,))),
        ("arr/c/0/12/", KeyPrefix("/arr/c/0/12", "/arr", (0, 12))),
        ("c", KeyPrefix("/c", "/", ())),
        ("c/1", KeyPrefix("/c/1", "/", (1,))),
        ("a/c/b/c", KeyPrefix("/a/c/b/c", "/a/c/b", ())),
        ("a/c/c", KeyPrefix("/a/c/c", "/a/c", ())),
        ("a/c/x", KeyPrefix("/a/c/x", None, ())),
        ("a/c/00", KeyPrefix("/a/c/00", None, ())),
        ("arr/zarr.json", KeyPrefix("/arr/zarr.json", None, ())),
    ],
)
def test_prefixes(prefix: str, expected: KeyPrefix) -> None:
    assert parse_prefix(prefix) == expected


@pytest.mark.parametrize("prefix", ["../x", "a/..", "a//b", "a//"])
def test_prefixes_that_lead_out_are_refused(prefix: str) -> None:
    with pytest.raises(InvalidInputError, match="bad key prefix") as caught:
        parse_prefix(prefix)
    assert caught.value.kind == ErrorKind.BAD_KEY_PREFIX
    with pytest.raises(InvalidInputError) as caught:
        parse_prefix(prefix, ErrorKind.INVALID_PATH)
    assert caught.value.kind == ErrorKind.INVALID_PATH
