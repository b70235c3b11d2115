"""Columns against the reader that looks at one table at a time."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icechunk.errors import FormatError
from icechunk.flatbuf.builder import build
from icechunk.flatbuf.columns import Spots, TableColumns, element_positions, number_rows, texts, vector_counts
from icechunk.flatbuf.reader import Document
from icechunk.flatbuf.schema import STRING, U8, U32, U64, Required, Struct, Table, Union, Vector

POINT = Struct("Point", 12)
SMALL = Table("Small", n=U32)
LARGE = Table("Large", n=U64)
ITEM = Table(
    "Item",
    index=Required(Vector(U32)),
    size=U64,
    flag=U8(7),
    point=POINT,
    name=STRING,
    kind=Union({1: SMALL, 2: LARGE}),
)
ROOT = Table("Root", items=Required(Vector(ITEM)))

items = st.fixed_dictionaries(
    {"index": st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=2)},
    optional={
        "size": st.integers(0, 2**64 - 1),
        "flag": st.integers(0, 255),
        "point": st.binary(min_size=12, max_size=12),
        "name": st.text(max_size=12),
        "kind": st.tuples(st.sampled_from([1, 2]), st.fixed_dictionaries({"n": st.integers(0, 2**32 - 1)})),
    },
)


def opened(buf: bytes) -> tuple[Document, TableColumns]:
    doc = Document(buf, "file x")
    return doc, TableColumns(doc, ITEM, element_positions(doc.root(ROOT)["items"]))


def unshare_vtables(buf: bytes) -> bytes:
    """Give each item a vtable of its own, behind everything else."""
    out = bytearray(buf)
    doc = Document(buf, "x")
    for position in element_positions(doc.root(ROOT)["items"]).tolist():
        vtable = position - struct.unpack_from("<i", buf, position)[0]
        length = struct.unpack_from("<H", buf, vtable)[0]
        struct.pack_into("<i", out, position, position - len(out))
        out += buf[vtable : vtable + length]
    return bytes(out)


def check_equal(buf: bytes) -> None:
    doc, columns = opened(buf)
    views = list(doc.root(ROOT)["items"])
    assert len(columns) == len(views)
    assert columns.scalar("size").tolist() == [view["size"] for view in views]
    assert columns.scalar("flag").tolist() == [view["flag"] for view in views]
    points = columns.struct("point")
    assert [row.tobytes() for row in points] == [view["point"] or bytes(12) for view in views]
    assert columns.present("point").tolist() == [view["point"] is not None for view in views]
    rows = number_rows(doc, columns.targets("index"), U32, "Item.index")
    assert rows.tolist() == [list(view["index"]) for view in views]
    named = columns.targets("name")
    assert (named > 0).tolist() == [view["name"] is not None for view in views]
    assert texts(doc, named[named > 0], "Item.name") == [view["name"] for view in views if view["name"] is not None]
    codes, tables = columns.union("kind")
    for view, code, target in zip(views, codes.tolist(), tables.tolist(), strict=True):
        kind = view["kind"]
        assert code == (0 if kind is None else kind[0])
        assert target == (0 if kind is None else kind[1].pos)


@settings(deadline=None, max_examples=60)
@given(st.lists(items, min_size=1, max_size=40))
def test_columns_read_what_the_reader_reads(values: list[dict]) -> None:
    buf = build(ROOT, {"items": values}, b"test")
    check_equal(buf)
    check_equal(unshare_vtables(buf))


def test_uniform_tables_are_read_through_strides_in_either_direction() -> None:
    values = [{"index": [n, n + 1], "size": n + 1, "name": "abcd"} for n in range(300)]
    check_equal(build(ROOT, {"items": values}, b"test"))
    positions = np.arange(4000, 0, -8)
    buf = np.arange(5000, dtype=np.uint8).tobytes()
    assert Spots(Document(buf, "x"), positions).read(3, "u1", "w").tolist() == [buf[p + 3] for p in positions.tolist()]


def test_strides_that_change_now_and_then() -> None:
    rng = random.Random(5)
    positions, at = [], 0
    for _ in range(8):
        stride = rng.choice([4, 12, 20, 9])
        for _ in range(rng.choice([1, 2, 3, 500, 900])):
            positions.append(at)
            at += stride
    buf = rng.randbytes(at + 8)
    found = Spots(Document(buf, "x"), np.array(positions)).read(2, "<u4", "w")
    assert found.tolist() == [struct.unpack_from("<I", buf, p + 2)[0] for p in positions]


def test_an_empty_vector_has_empty_columns() -> None:
    doc, columns = opened(build(ROOT, {"items": []}, b"test"))
    assert columns.scalar("size").tolist() == []
    assert columns.struct("point").shape == (0, 12)
    assert texts(doc, columns.targets("name"), "Item.name") == []
    assert vector_counts(doc, columns.targets("index"), 4, "Item.index").tolist() == []


def test_many_different_vtables_of_one_vector() -> None:
    """More layouts than are sorted into groups: each table with unknown fields of its own behind the known ones."""
    values = [{"index": [n, 0], "size": n, "flag": n} for n in range(1, 60)]
    out = bytearray(unshare_vtables(build(ROOT, {"items": values}, b"test")))
    check_equal(bytes(out))


def test_vectors_of_unequal_length_are_no_rows() -> None:
    doc, columns = opened(build(ROOT, {"items": [{"index": [1, 2]}, {"index": [1]}]}, b"test"))
    with pytest.raises(FormatError, match=r"file x: Item\.index: some have 1 elements, others 2"):
        number_rows(doc, columns.targets("index"), U32, "Item.index")


@pytest.mark.parametrize("position", [-5, 0, 10_000_000])
def test_tables_outside_of_the_buffer_are_refused(position: int) -> None:
    doc = Document(build(ROOT, {"items": [{"index": [1]}]}, b"test"), "file x")
    with pytest.raises(FormatError, match="file x: Item"):
        TableColumns(doc, ITEM, np.array([position]))


def test_text_that_is_no_text_is_refused() -> None:
    buf = build(ROOT, {"items": [{"index": [1], "name": "abcd"}]}, b"test").replace(b"abcd", b"ab\xff\xff")
    doc, columns = opened(buf)
    with pytest.raises(FormatError, match=r"Item\.name: is no UTF-8 text"):
        texts(doc, columns.targets("name"), "Item.name")


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32), st.booleans())
def test_damage_ends_in_a_format_error(seed: int, unshared: bool) -> None:
    rng = random.Random(seed)
    values = [
        {"index": [n, n], "size": n, "name": "é" * n, "kind": (1, {"n": n})} for n in range(rng.choice([1, 3, 30]))
    ]
    buf = build(ROOT, {"items": values}, b"test")
    out = bytearray(unshare_vtables(buf) if unshared else buf)
    for _ in range(rng.choice([1, 1, 4])):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    try:
        doc, columns = opened(bytes(out[: rng.choice([len(out), rng.randrange(len(out))])]))
        columns.scalar("size"), columns.struct("point"), columns.union("kind")
        number_rows(doc, columns.targets("index"), U32, "Item.index")
        named = columns.targets("name")
        texts(doc, named[named > 0], "Item.name")
    except FormatError:
        pass
