"""Chunk tables against dictionaries of references, and their columns in bulk."""

from __future__ import annotations

import pickle
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icechunk.format.chunk_keys import joint_keys, order_keeping_last
from icechunk.format.chunk_ref import ChunkRef, Inline, Native, Virtual
from icechunk.format.chunk_table import INLINE, NATIVE, VIRTUAL, ChunkTable, gather_bytes
from icechunk.format.text_column import TextColumn, join_texts

Refs = dict[tuple[int, ...], ChunkRef]
BIG = 2**32 - 1

inline = st.builds(Inline, st.binary(max_size=9))
native = st.builds(Native, st.binary(min_size=12, max_size=12), st.integers(0, 2**64 - 1), st.sampled_from([0, 0, 5]))
virtual = st.builds(
    Virtual,
    st.sampled_from(["s3://b/a", "s3://b/é", "file:///x", "s3://b/long/" + "x" * 50]),
    st.integers(0, 2**63),
    st.integers(0, 2**40),
    st.sampled_from([None, None, '"e1"', "e2"]),
    st.sampled_from([0, 0, 7, BIG]),
)
some_ref = st.one_of(inline, native, virtual)
coordinate = st.one_of(st.integers(0, 4), st.integers(0, 4), st.sampled_from([BIG, BIG - 1, 70_000]))


def refs_of(ndim: int, max_size: int = 25) -> st.SearchStrategy[Refs]:
    return st.dictionaries(st.tuples(*[coordinate] * ndim), some_ref, max_size=max_size)


two_of_a_kind = st.integers(0, 3).flatmap(lambda ndim: st.tuples(st.just(ndim), refs_of(ndim), refs_of(ndim)))


def content(table: ChunkTable) -> Refs:
    """The table as a dictionary, after checking that it is in order."""
    found = dict(table.items())
    assert len(found) == len(table)
    assert list(found) == sorted(found)
    return found


def check(table: ChunkTable, expected: Mapping[tuple[int, ...], ChunkRef], ndim: int) -> None:
    assert content(table) == dict(expected)
    assert (table.chunk_ids is not None) == any(isinstance(ref, Native) for ref in expected.values())
    assert (table.locations is not None) == any(isinstance(ref, Virtual) for ref in expected.values())
    assert (table.inline is not None) == any(isinstance(ref, Inline) for ref in expected.values())
    if expected:
        columns = list(zip(*expected, strict=True))
        assert table.extents() == tuple((min(column), max(column) + 1) for column in columns)
        assert table.ndim == ndim


@settings(deadline=None)
@given(two_of_a_kind)
def test_a_table_holds_what_it_was_made_of(case: tuple[int, Refs, Refs]) -> None:
    ndim, refs, others = case
    table = ChunkTable.from_refs(refs, ndim)
    check(table, refs, ndim)
    for coords in [*refs, *others]:
        assert table.find(coords) == refs.get(coords)
        row = table.row_of(coords)
        assert (row >= 0) == (coords in refs)
        if row >= 0:
            assert table.ref(row) == refs[coords]


@settings(deadline=None)
@given(two_of_a_kind)
def test_pickling_keeps_everything(case: tuple[int, Refs, Refs]) -> None:
    ndim, refs, _ = case
    check(pickle.loads(pickle.dumps(ChunkTable.from_refs(refs, ndim))), refs, ndim)


@settings(deadline=None)
@given(two_of_a_kind)
def test_concatenation_lets_later_tables_win(case: tuple[int, Refs, Refs]) -> None:
    ndim, refs, newer = case
    tables = [ChunkTable.from_refs(refs, ndim), ChunkTable.from_refs(newer, ndim)]
    check(ChunkTable.concat(tables), refs | newer, ndim)


@settings(deadline=None)
@given(two_of_a_kind, st.data())
def test_overlay_deletes_first_and_then_writes(case: tuple[int, Refs, Refs], data: st.DataObject) -> None:
    ndim, refs, newer = case
    pool = [*refs, (*[3] * ndim,)]
    gone = data.draw(st.lists(st.sampled_from(pool), max_size=6))
    deleted = np.array(gone, np.uint32).reshape(len(gone), ndim)
    table = ChunkTable.from_refs(refs, ndim).overlay(ChunkTable.from_refs(newer, ndim), deleted)
    check(table, {coords: ref for coords, ref in refs.items() if coords not in gone} | newer, ndim)
    check(ChunkTable.from_refs(refs, ndim).overlay(ChunkTable.empty(ndim), None), refs, ndim)


@settings(deadline=None)
@given(two_of_a_kind, st.data())
def test_boxes_and_masks_select_rows(case: tuple[int, Refs, Refs], data: st.DataObject) -> None:
    ndim, refs, _ = case
    table = ChunkTable.from_refs(refs, ndim)
    box = [
        tuple(sorted(data.draw(st.tuples(st.integers(0, 6), st.sampled_from([0, 2, 5, 2**32]))))) for _ in range(ndim)
    ]
    inside = {
        coords: ref
        for coords, ref in refs.items()
        if all(start <= coord < stop for coord, (start, stop) in zip(coords, box, strict=True))
    }
    check(table.within(box), inside, ndim)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(refs), max_size=len(refs))), bool)
    kept = {coords: ref for (coords, ref), keep in zip(sorted(refs.items()), mask.tolist(), strict=True) if keep}
    check(table.take(mask), kept, ndim)
    check(table.take(np.flatnonzero(mask)), kept, ndim)
    check(pickle.loads(pickle.dumps(table.take(mask))), kept, ndim)


@settings(deadline=None)
@given(two_of_a_kind)
def test_coordinates_can_be_replaced(case: tuple[int, Refs, Refs]) -> None:
    ndim, refs, _ = case
    if not ndim:
        return
    table = ChunkTable.from_refs(refs, ndim)
    moved = np.minimum(table.coords.astype(np.int64) // 2, 1)
    expected = {tuple(coords): ref for coords, (_, ref) in zip(moved.tolist(), table.items(), strict=True)}
    check(table.with_coords(moved), expected, ndim)
    check(table, refs, ndim)


rows = st.lists(
    st.tuples(
        st.tuples(st.integers(0, 5), st.integers(0, 5)),
        st.sampled_from(["a", "b", "c"]),
        st.integers(0, 99),
        st.integers(0, 99),
    ),
    min_size=1,
    max_size=30,
)


@settings(deadline=None)
@given(rows)
def test_virtual_columns_in_any_order(found: list[tuple[tuple[int, int], str, int, int]]) -> None:
    coords, locations, offsets, lengths = (list(column) for column in zip(*found, strict=True))
    expected = {coord: Virtual(place, offset, length) for coord, place, offset, length in found}
    check(ChunkTable.from_columns(coords, locations, offsets, lengths), expected, 2)
    check(ChunkTable.from_columns(coords, np.array(locations), offsets, lengths), expected, 2)
    codes = ["abc".index(place) for place in locations]
    check(ChunkTable.from_columns(coords, list("abc"), offsets, lengths, codes=codes), expected, 2)
    twice = ["a", "b", "c", "a"]
    codes = [3 if place == "a" else "abc".index(place) for place in locations]
    table = ChunkTable.from_columns(coords, twice, offsets, lengths, codes=codes)
    check(table, expected, 2)
    assert table.locations == ["a", "b", "c"]


def test_virtual_columns_with_checksums() -> None:
    coords = [[1], [0], [2]]
    table = ChunkTable.from_columns(
        coords, ["x", "y", "z"], [1, 2, 3], 8, etags=["e", None, "f"], last_modified=[0, 5, 6]
    )
    assert content(table) == {
        (0,): Virtual("y", 2, 8, None, 5),
        (1,): Virtual("x", 1, 8, "e", 0),
        (2,): Virtual("z", 3, 8, "f", 6),
    }
    table = ChunkTable.from_columns(coords, ["x"] * 3, 0, 8, etags='"same"', last_modified=9)
    assert {ref for _, ref in table.items()} == {Virtual("x", 0, 8, '"same"', 9)}
    assert table.etags == ['"same"']


@pytest.mark.parametrize(
    "coords, locations, offsets, lengths, options",
    [
        ([0, 1], ["a", "b"], 0, 1, {}),
        ([[0], [1]], ["a"], 0, 1, {}),
        ([[-1]], ["a"], 0, 1, {}),
        ([[2**32]], ["a"], 0, 1, {}),
        ([[0]], ["a"], -1, 1, {}),
        ([[0]], ["a"], 0, -1, {}),
        ([[0]], ["a"], 0, 1, {"codes": [1]}),
        ([[0]], ["a"], 0, 1, {"codes": [-1]}),
        ([[0]], [None], 0, 1, {}),
        ([[0]], ["a"], 0, 1, {"etags": ["x", "y"]}),
    ],
)
def test_columns_that_make_no_sense_are_refused(coords, locations, offsets, lengths, options) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError):
        ChunkTable.from_columns(coords, locations, offsets, lengths, **options)


def test_native_columns() -> None:
    ids = np.arange(36, dtype=np.uint8).reshape(3, 12)
    table = ChunkTable.from_native([[2, 0], [0, 1], [2, 0]], ids, [5, 6, 7])
    assert content(table) == {(0, 1): Native(bytes(range(12, 24)), 6), (2, 0): Native(bytes(range(24, 36)), 7)}
    assert table.native_ids().tolist() == [list(range(12, 24)), list(range(24, 36))]
    mixed = table.overlay(ChunkTable.from_refs({(0, 1): Inline(b"x")}, 2))
    assert mixed.native_ids().tolist() == [list(range(24, 36))]
    assert mixed.kind.tolist() == [INLINE, NATIVE]
    assert ChunkTable.empty(2).native_ids().shape == (0, 12)


def test_coordinates_that_do_not_fit_into_64_bits() -> None:
    refs: Refs = {(a, b, c): Native(bytes(12), a % 7) for a in (0, 5, BIG) for b in (1, BIG) for c in (0, BIG - 1, BIG)}
    table = ChunkTable.from_refs(refs, 3)
    check(table, refs, 3)
    newer: Refs = {(5, 1, 0): Inline(b"n"), (5, 1, 1): Inline(b"m")}
    check(
        table.overlay(ChunkTable.from_refs(newer, 3), np.array([[0, 1, 0]], np.uint32)),
        {coords: ref for coords, ref in refs.items() if coords != (0, 1, 0)} | newer,
        3,
    )
    assert table.find((5, 2, 0)) is None
    assert all(table.find(coords) == ref for coords, ref in refs.items())


def test_a_coordinate_of_another_rank_is_never_found() -> None:
    table = ChunkTable.from_native([[0, 0], [0, 1]], np.zeros((2, 12)), 1)
    assert table.find((0,)) is None
    assert table.find((0, 0, 0)) is None
    with pytest.raises(ValueError, match="a box of 1 dimensions for an array of 2"):
        table.within([(0, 1)])
    with pytest.raises(ValueError, match="need as many coordinates"):
        table.with_coords([[0, 0]])


def test_zero_dimensions() -> None:
    table = ChunkTable.from_refs({(): Inline(b"scalar")}, 0)
    assert table.find(()) == Inline(b"scalar")
    assert table.extents() == ()
    assert len(table.within([])) == 1
    assert content(table.overlay(ChunkTable.from_refs({(): Inline(b"new")}, 0))) == {(): Inline(b"new")}
    assert len(table.overlay(ChunkTable.empty(0), np.zeros((1, 0), np.uint32))) == 0


def test_tables_without_rows() -> None:
    empty = ChunkTable.empty(3)
    assert (len(empty), empty.ndim, empty.extents()) == (0, 3, ((0, 0),) * 3)
    assert empty.find((0, 0, 0)) is None
    assert ChunkTable.concat([empty, empty]).ndim == 3
    full = ChunkTable.from_refs({(1, 2, 3): Inline(b"x")}, 3)
    assert content(ChunkTable.empty(0).overlay(full)) == content(full)
    assert content(full.overlay(ChunkTable.empty(0))) == content(full)
    assert pickle.loads(pickle.dumps(empty)).coords.shape == (0, 3)
    with pytest.raises(ValueError):
        ChunkTable.concat([])


def test_a_part_of_a_table_lets_go_of_what_it_does_not_use() -> None:
    refs: Refs = {(row,): Inline(bytes([row % 256]) * 100) for row in range(500)}
    refs |= {(row,): Virtual(f"s3://bucket/{row:060}", 0, 1) for row in range(500, 1000)}
    table = ChunkTable.from_refs(refs, 1)
    part = table.take(np.array([3, 700]))
    assert part.nbytes < table.nbytes
    assert len(part.inline or b"") == 100
    packed = pickle.dumps(part)
    assert len(packed) < 2000
    assert content(pickle.loads(packed)) == {(3,): refs[3,], (700,): refs[700,]}


def test_large_tables_pickle_in_few_bytes() -> None:
    coords = np.stack(np.unravel_index(np.arange(20_000), (200, 100)), 1)
    table = ChunkTable.from_columns(coords, [f"s3://b/{row // 100}" for row in range(20_000)], 0, 4096)
    packed = pickle.dumps(table)
    assert len(packed) < 20_000 * 7
    assert pickle.loads(packed).find((150, 7)) == Virtual("s3://b/150", 0, 4096)


def test_keys_order_as_coordinates_do() -> None:
    rng = np.random.default_rng(3)
    for high in (3, 1000, 2**32):
        coords = rng.integers(0, high, (200, 4)).astype(np.uint32)
        keys, others = joint_keys(coords, coords[:50])
        assert keys[:50].tolist() == others.tolist()
        order = order_keeping_last(keys)
        assert order is not None
        assert [tuple(row) for row in coords[order].tolist()] == sorted({tuple(row) for row in coords.tolist()})


def test_runs_of_bytes_are_gathered() -> None:
    data = bytes(range(100))
    for starts, lengths in (([3, 10, 50], [2, 5, 0]), ([0, 5, 9], [5, 4, 3]), ([90, 3, 40], [4, 4, 4]), ([], [])):
        expected = b"".join(data[start : start + length] for start, length in zip(starts, lengths, strict=True))
        assert gather_bytes(data, np.array(starts, np.int64), np.array(lengths, np.int64)) == expected


@pytest.mark.parametrize("run", [1, 2, 3, 50, 5_000])
@pytest.mark.parametrize("missing", [False, True], ids=["all there", "some missing"])
def test_long_text_columns_of_runs(run: int, missing: bool) -> None:
    values: list[str | None] = ["".join(("file ", str(number // run % 700))) for number in range(5_000)]
    if missing:
        values[1_500:1_700] = [None] * 200
        values[-1] = None
    column = TextColumn.factorise(values)
    assert [*map(column.at, range(5_000))] == values
    assert column.distinct == list(dict.fromkeys(text for text in values if text is not None))
    assert column.codes.dtype == np.int32


@given(
    st.lists(st.one_of(st.none(), st.sampled_from("abcd")), max_size=20), st.lists(st.sampled_from("cdef"), max_size=9)
)
def test_text_columns_read_as_the_list_they_are_made_of(values: list[str | None], more: list[str]) -> None:
    column = TextColumn.factorise(values)
    assert [column.at(row) for row in range(len(column))] == values
    assert sorted(column.distinct) == sorted({value for value in values if value is not None})
    assert column.present() == any(value is not None for value in values)
    part = column.take(slice(1, None)).compact()
    assert [part.at(row) for row in range(len(part))] == values[1:]
    assert set(part.distinct) == {value for value in values[1:] if value is not None}
    joined = join_texts([column, None, TextColumn.factorise(more)], [len(values), 2, len(more)])
    assert joined is not None
    assert [joined.at(row) for row in range(len(joined))] == [*values, None, None, *more]


def test_virtual_kind_is_what_the_public_enumeration_calls_it() -> None:
    assert (NATIVE, VIRTUAL, INLINE) == (1, 2, 3)
