"""Which manifests an array gets, and which are fetched ahead: the conditions of the configuration, applied.

An array's grid of chunks is cut into boxes, one manifest each. The size of the boxes along an axis is the first that the
rules give for it; sizes from several rules combine axis by axis, and an axis without any is not cut.

Patterns are searched for, in the dialect of Rust's `regex` as far as Python's `re` can follow: POSIX classes such as
`[[:alpha:]]`, `\\z`, `\\x{61}` and `(?<name>...)` are translated. What is no pattern matches nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from icechunk.config import ManifestPreloadCondition, ManifestSplitCondition, ManifestSplitDimCondition
from icechunk.config.effective import Preload
from icechunk.config.manifests import DimSizes, SplitSizes

_POSIX = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": "\\x00-\\x7F",
    "blank": "\\t ",
    "cntrl": "\\x00-\\x1F\\x7F",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": "!-/:-@\\[-`{-~",
    "space": "\\t\\n\\v\\f\\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}
_DIALECT = re.compile(
    r"\\(?:z|[xu]\{(?P<code>[0-9A-Fa-f]{1,6})\}|.)|\[:(?P<posix>[a-z]+):\]|\(\?<(?P<group>[A-Za-z_]\w*)>", re.S
)


@lru_cache(maxsize=256)
def _pattern(regex: str) -> re.Pattern[str] | None:
    try:
        return re.compile(_DIALECT.sub(_translated, regex))
    except (re.error, OverflowError, RecursionError, ValueError):
        return None


def _translated(found: re.Match[str]) -> str:
    if found["code"]:
        return re.escape(chr(int(found["code"], 16)))
    if found["posix"]:
        if found["posix"] not in _POSIX:
            raise re.error(f"unknown class {found[0]}")
        return _POSIX[found["posix"]]
    if found["group"]:
        return f"(?P<{found['group']}>"
    return r"\Z" if found[0] == r"\z" else found[0]


def matches(regex: str, text: str) -> bool:
    """Whether `regex` is found in `text`; never where it is no regular expression."""
    pattern = _pattern(regex)
    return pattern is not None and pattern.search(text) is not None


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def split_condition_holds(condition: ManifestSplitCondition, path: str) -> bool:
    """Whether a rule is for the array at the absolute `path`."""
    match condition:
        case ManifestSplitCondition.Or(conditions):
            return any(split_condition_holds(item, path) for item in conditions)
        case ManifestSplitCondition.And(conditions):
            return all(split_condition_holds(item, path) for item in conditions)
        case ManifestSplitCondition.PathMatches(regex):
            return matches(regex, path)
        case ManifestSplitCondition.NameMatches(regex):
            return matches(regex, _name(path))
        case _:
            return True


def split_sizes(
    path: str, ndim: int, dimension_names: Sequence[str | None] | None, splitting: SplitSizes
) -> tuple[int | None, ...]:
    """How many chunks a manifest of the array at `path` spans along each axis; None where the axis is not cut.

    A file may name fewer dimensions than there are axes; the others have no name then.
    """
    sizes: list[int | None] = [None] * ndim
    names = dimension_names or ()
    for condition, dims in splitting:
        if None not in sizes:
            break
        if split_condition_holds(condition, path):
            for axis, size in enumerate(sizes):
                if size is None:
                    sizes[axis] = _size_of(dims, axis, names[axis] if axis < len(names) else None)
    return tuple(size or None for size in sizes)


def _size_of(dims: DimSizes, axis: int, name: str | None) -> int | None:
    for condition, size in dims:
        match condition:
            case ManifestSplitDimCondition.Axis(number):
                holds = number == axis
            case ManifestSplitDimCondition.DimensionName(regex):
                holds = name is not None and matches(regex, name)
            case _:
                holds = True
        if holds:
            return size
    return None


def split_edges(
    path: str, grid: Sequence[int], dimension_names: Sequence[str | None] | None, splitting: SplitSizes
) -> tuple[tuple[int, ...], ...]:
    """Where the grid of chunks of an array is cut: for each axis 0, s, 2s, ... and its number of chunks.

    Parameters
    ----------
    path
        Absolute path of the array.
    grid
        Number of chunks along each axis.
    dimension_names
        Its dimension names, if it has some.
    splitting
        The rules, as `EffectiveConfig.splitting` has them.
    """
    sizes = split_sizes(path, len(grid), dimension_names, splitting)
    return tuple(
        (*range(0, count, count if size is None else size), count) if count else (0,)
        for count, size in zip(grid, sizes, strict=True)
    )


class PreloadPolicy:
    """Which manifests are worth fetching ahead.

    Attributes
    ----------
    max_total_refs : int
        How many references may be fetched in all.
    max_arrays_to_scan : int
        How many arrays are looked at.
    """

    def __init__(self, preload: Preload) -> None:
        self.max_total_refs = preload.max_total_refs
        self.max_arrays_to_scan = preload.max_arrays_to_scan
        self.condition = preload.preload_if

    def wants(self, path: str, num_refs: int) -> bool:
        """Whether to fetch a manifest with so many references of the array at `path`."""
        return self.max_total_refs > 0 and preload_condition_holds(self.condition, path, num_refs)


def preload_condition_holds(condition: ManifestPreloadCondition, path: str, num_refs: int) -> bool:
    """Whether a condition holds for a manifest with so many references of the array at `path`."""
    match condition:
        case ManifestPreloadCondition.Or(conditions):
            return any(preload_condition_holds(item, path, num_refs) for item in conditions)
        case ManifestPreloadCondition.And(conditions):
            return all(preload_condition_holds(item, path, num_refs) for item in conditions)
        case ManifestPreloadCondition.PathMatches(regex):
            return matches(regex, path)
        case ManifestPreloadCondition.NameMatches(regex):
            return matches(regex, _name(path))
        case ManifestPreloadCondition.NumRefs():
            first, end = condition.first, condition.to
            return (first is None or num_refs >= first) and (end is None or num_refs < end)
        case _:
            return condition == ManifestPreloadCondition.true()
