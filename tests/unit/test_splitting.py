"""Where grids of chunks are cut, and which manifests are fetched ahead."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk.config import (
    ManifestConfig,
    ManifestPreloadCondition,
    ManifestPreloadConfig,
    ManifestSplitCondition,
    ManifestSplitDimCondition,
    ManifestSplittingConfig,
    RepositoryConfig,
)
from icechunk.config.conditions import DEFAULT_PRELOAD_CONDITION
from icechunk.splitting import PreloadPolicy, matches, preload_condition_holds, split_edges, split_sizes

Split = ManifestSplitCondition
Dim = ManifestSplitDimCondition
Preload = ManifestPreloadCondition


def rules(sizes: Any) -> Any:
    config = RepositoryConfig(manifest=ManifestConfig(splitting=ManifestSplittingConfig.from_dict(sizes)))
    return config.effective().splitting


def edges(sizes: Any, grid: tuple[int, ...] = (6, 4), names: Any = None, path: str = "/g/a") -> Any:
    return split_edges(path, grid, names, rules(sizes))


WHOLE = ((0, 6), (0, 4))

CASES: list[tuple[Any, Any, Any]] = [
    ({}, None, WHOLE),
    ({Split.AnyArray(): {Dim.Axis(0): 4}}, None, ((0, 4, 6), (0, 4))),
    ({Split.AnyArray(): {Dim.Axis(5): 4}}, None, WHOLE),
    ({Split.AnyArray(): {Dim.Any(): 3}}, None, ((0, 3, 6), (0, 3, 4))),
    ({Split.AnyArray(): {Dim.Any(): 100}}, None, WHOLE),
    ({Split.AnyArray(): {Dim.Any(): 1}}, None, ((0, 1, 2, 3, 4, 5, 6), (0, 1, 2, 3, 4))),
    # the first size for an axis counts, and rules combine axis by axis
    ({Split.AnyArray(): {Dim.Axis(1): 3, Dim.Any(): 2}}, None, ((0, 2, 4, 6), (0, 3, 4))),
    ({Split.AnyArray(): {Dim.Any(): 2, Dim.Axis(1): 3}}, None, ((0, 2, 4, 6), (0, 2, 4))),
    ({Split.name_matches("^a$"): {Dim.Axis(0): 3}, Split.AnyArray(): {Dim.Any(): 2}}, None, ((0, 3, 6), (0, 2, 4))),
    ({Split.path_matches("^/g/a$"): {Dim.Any(): 3}, Split.AnyArray(): {Dim.Any(): 2}}, None, ((0, 3, 6), (0, 3, 4))),
    # paths are absolute, names the last part
    ({Split.path_matches("^g/a$"): {Dim.Any(): 3}}, None, WHOLE),
    ({Split.name_matches("g"): {Dim.Any(): 3}}, None, WHOLE),
    ({Split.path_matches("g"): {Dim.Axis(0): 3}}, None, ((0, 3, 6), (0, 4))),
    ({Split.and_conditions([]): {Dim.Axis(0): 3}}, None, ((0, 3, 6), (0, 4))),
    ({Split.or_conditions([]): {Dim.Axis(0): 3}}, None, WHOLE),
    ({Split.path_matches("g") & Split.name_matches("b"): {Dim.Axis(0): 3}}, None, WHOLE),
    ({Split.path_matches("x") | Split.name_matches("a"): {Dim.Axis(0): 3}}, None, ((0, 3, 6), (0, 4))),
    ({Split.name_matches("["): {Dim.Any(): 3}}, None, WHOLE),
    # dimension names
    ({Split.AnyArray(): {Dim.DimensionName("X"): 3}}, ["X", "y"], ((0, 3, 6), (0, 4))),
    ({Split.AnyArray(): {Dim.DimensionName("(?i)x"): 3}}, ["X", "y"], ((0, 3, 6), (0, 4))),
    ({Split.AnyArray(): {Dim.DimensionName("^[[:alpha:]]$"): 3}}, ["X", "y"], ((0, 3, 6), (0, 3, 4))),
    ({Split.AnyArray(): {Dim.DimensionName(".*"): 3}}, None, WHOLE),
    ({Split.AnyArray(): {Dim.DimensionName(""): 3}}, [None, "y"], ((0, 6), (0, 3, 4))),
    ({Split.AnyArray(): {Dim.DimensionName("y"): 3, Dim.Any(): 5}}, [None, "y"], ((0, 5, 6), (0, 3, 4))),
]


@pytest.mark.parametrize(("sizes", "names", "expected"), CASES)
def test_edges(sizes: Any, names: Any, expected: Any) -> None:
    assert edges(sizes, names=names) == expected


def test_grids_at_the_edge() -> None:
    anything: Any = {Split.AnyArray(): {Dim.Any(): 2}}
    assert edges(anything, ()) == ()
    assert edges(anything, (0, 3)) == ((0,), (0, 2, 3))
    assert edges(anything, (1,)) == ((0, 1),)
    assert split_edges("/a", (5,), None, [(Split.AnyArray(), [(Dim.Any(), 0)])]) == ((0, 5),), "an old file may say 0"
    assert RepositoryConfig().effective().splitting == [(Split.path_matches(".*"), [(Dim.Any(), 2**32 - 1)])]
    assert split_edges("/a", (5,), None, RepositoryConfig().effective().splitting) == ((0, 5),)


def test_the_root_has_no_name() -> None:
    assert split_sizes("/", 1, None, rules({Split.name_matches("^$"): {Dim.Any(): 2}})) == (2,)


@given(
    st.lists(st.integers(0, 40), max_size=3),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50)), max_size=4),
    st.integers(1, 50),
)
def test_boxes_cover_the_grid_once(grid: list[int], axes: list[tuple[int, int]], rest: int) -> None:
    sizes: Any = {Split.AnyArray(): {**{Dim.Axis(axis): size for axis, size in axes}, Dim.Any(): rest}}
    found = edges(sizes, tuple(grid))
    assert len(found) == len(grid)
    for count, cuts in zip(grid, found, strict=True):
        assert cuts[0] == 0 and cuts[-1] == count
        assert all(start < stop for start, stop in pairwise(cuts))
        widths = [stop - start for start, stop in pairwise(cuts)]
        assert len(set(widths[:-1])) <= 1 and all(width >= widths[-1] for width in widths)
    assert math.prod(sum(stop - start for start, stop in pairwise(cuts)) for cuts in found) == math.prod(grid)


@pytest.mark.parametrize(
    ("regex", "text", "expected"),
    [
        *(("b", "abc", True), ("^b", "abc", False), ("", "", True), ("(", "(", False), ("a**", "a", False)),
        *((r"a\z", "a", True), (r"a\z", "a\n", False), (r"\\z", r"\z", True), (r"\x{61}", "a", True)),
        *((r"[[:digit:]x]+\z", "12x", True), (r"[^[:space:]]", " ", False), (r"(?<year>\d+)", "1999", True)),
        *(
            (r"(?<!a)b", "ab", False),
            (r"\u{e9}", "é", True),
            (r"\x{110000}", "a", False),
            ("[[:nothing:]]", "a", False),
        ),
    ],
)
def test_patterns(regex: str, text: str, expected: bool) -> None:
    assert matches(regex, text) is expected


# ------------------------------------------------------------------------------------------------------------- preload


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (Preload.true(), True),
        (Preload.false(), False),
        (Preload.path_matches("^/g/"), True),
        (Preload.name_matches("g"), False),
        (Preload.num_refs(10, 11), True),
        (Preload.num_refs(11, None), False),
        (Preload.num_refs(None, 10), False),
        (Preload.num_refs(None, None), True),
        (Preload.num_refs(5, 2), False),
        (Preload.true() & Preload.false(), False),
        (Preload.true() | Preload.false(), True),
        (Preload.And([]), True),
        (Preload.Or([]), False),
    ],
)
def test_preload_conditions(condition: Preload, expected: bool) -> None:
    assert preload_condition_holds(condition, "/g/a", 10) is expected


@pytest.mark.parametrize(
    ("path", "refs", "expected"),
    [
        *(("/time", 1000, True), ("/time", 1001, False), ("/g/lat", 3, True), ("/x", 0, True), ("/year2000", 1, True)),
        *(("/temperature", 3, False), ("/xx", 3, False), ("/g/longitude", 3, True), ("/x/data", 3, False)),
        *(("/t", 1, True), ("/depth_m1", 1, True), ("/nlat", 1, True), ("/Time", 1, False)),
    ],
)
def test_the_default_fetches_coordinates(path: str, refs: int, expected: bool) -> None:
    assert preload_condition_holds(DEFAULT_PRELOAD_CONDITION, path, refs) is expected
    policy = PreloadPolicy(RepositoryConfig().effective().preload)
    assert policy.wants(path, refs) is expected
    assert (policy.max_total_refs, policy.max_arrays_to_scan) == (10_000, 50)


def test_preloading_can_be_switched_off() -> None:
    config = RepositoryConfig(manifest=ManifestConfig(preload=ManifestPreloadConfig(0, Preload.true())))
    assert not PreloadPolicy(config.effective().preload).wants("/x", 0)
