"""Hypothesis strategies for hierarchies and for moving nodes about in them, as they may and as they may not be moved.

Names are drawn to be confusable: prefixes of each other, differing where `-`, `.` and `/` sort differently, repeated on
other levels. That is where code that treats paths as plain strings goes wrong.
"""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from typing import Any, Literal, TypeAlias

import numpy as np
from hypothesis import strategies as st

from icechunk.testing.models import ArrayNode, GroupNode, Node

MixedMove: TypeAlias = tuple[str, str, str | None]
"""Source, destination, and the pattern of the error it must raise, or None."""

InvalidMoveReason: TypeAlias = Literal[
    "into_itself", "source_missing", "destination_exists", "parent_missing", "parent_is_array"
]

_ERRORS: dict[str, str] = {
    "into_itself": "into itself or its own descendant",
    "source_missing": "node not found|could not create path",
    "destination_exists": "overwrite existing node",
    "parent_missing": "destination's parent group",
    "parent_is_array": "is an array, not a group",
}

_ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
_names = st.text(_ALPHABET, min_size=1, max_size=12)
_kinds = st.sampled_from(["same", "like", "any"])
_picks = st.integers(0, 1000)
_separators = st.tuples(st.sampled_from("-_."), st.booleans())


def _is_name(name: str) -> bool:
    """Whether zarr takes it, and it is not what zarr itself puts into a directory."""
    return bool(name.strip(".")) and not name.startswith("__") and name not in ("c", "zarr.json")


# --- paths ------------------------------------------------------------------------------------------------------------


def absolute(path: str) -> str:
    """The path with the slash before it that Icechunk's own verbs ask for."""
    return "/" + path.lstrip("/")


def is_descendant(path: str, ancestor: str) -> bool:
    """Whether `path` lies below `ancestor`; no path lies below itself."""
    inner, outer = _segments(path), _segments(ancestor)
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def child_names_at(parent: str, all_paths: AbstractSet[str]) -> set[str]:
    """The names directly below `parent` that occur in the paths."""
    depth = len(_segments(parent))
    return {_segments(path)[depth] for path in all_paths if is_descendant(path, parent)}


def _segments(path: str) -> list[str]:
    return [name for name in path.split("/") if name]


def _join(parent: str, name: str) -> str:
    return f"{parent.rstrip('/')}/{name}"


def wrap_tolerant(pattern: str) -> str:
    r"""A regular expression that also matches where a report broke the line: `\s` and a margin `|` for each space."""
    return re.sub(r" +", lambda _: r"\s+\|?\s*", pattern)


# --- names ------------------------------------------------------------------------------------------------------------


@st.composite
def similar_name(draw: st.DrawFn, non_sibling_names: AbstractSet[str], sibling_names: AbstractSet[str]) -> str:
    """A name that is free among its siblings, preferably one that is easily mistaken for another in the tree."""
    others = sorted(set(non_sibling_names) - set(sibling_names))
    known = sorted({*non_sibling_names, *sibling_names})
    kind = draw(_kinds)
    if kind == "same" and others:
        name = others[draw(_picks) % len(others)]
    elif kind == "like" and known:
        name, other = known[draw(_picks) % len(known)], draw(_names)
        separator, first = draw(_separators)
        name = f"{name}{separator}{other}" if first else f"{other}{separator}{name}"
    else:
        name = draw(_names)
    while name in sibling_names or not _is_name(name):
        name = f"x{name}"
    return name


def fresh_name(pool: AbstractSet[str], exclude: AbstractSet[str]) -> st.SearchStrategy[str]:
    """A name that is not in `exclude`: one of the pool, one like those in it, or any other."""
    return similar_name(set(pool) - set(exclude), exclude)


@st.composite
def fresh_names(draw: st.DrawFn, pool: AbstractSet[str], exclude: AbstractSet[str], n: int) -> list[str]:
    """`n` different names that are not in `exclude`."""
    names: list[str] = []
    for _ in range(n):
        names.append(draw(fresh_name(pool, set(exclude) | set(names))))
    return names


# --- trees ------------------------------------------------------------------------------------------------------------


def skeletons(*, max_leaves: int = 50, max_children: int = 4) -> st.SearchStrategy[GroupNode]:
    """Trees whose nodes are just numbered: the shape of a hierarchy. Leaves are small arrays or empty groups."""
    leaf = st.just(ArrayNode((1,), np.dtype("i4"))) | st.just(ArrayNode((1,), np.dtype("i4"))) | st.builds(GroupNode)
    nodes: st.SearchStrategy[Any] = st.recursive(
        leaf, lambda inner: _numbered(inner, max_children), max_leaves=max_leaves
    )
    return _numbered(nodes, max_children)


def _numbered(members: st.SearchStrategy[Any], max_children: int) -> st.SearchStrategy[GroupNode]:
    lists = st.lists(members, min_size=1, max_size=max_children)
    return lists.map(lambda found: GroupNode({str(number): node for number, node in enumerate(found)}))


@st.composite
def trees(
    draw: st.DrawFn,
    *,
    max_leaves: st.SearchStrategy[int] = st.integers(min_value=5, max_value=50),  # noqa: B008
    max_children: st.SearchStrategy[int] = st.integers(min_value=1, max_value=4),  # noqa: B008
) -> GroupNode:
    """Hierarchies with names that are easily confused."""
    skeleton = draw(skeletons(max_leaves=draw(max_leaves), max_children=draw(max_children)))
    used: set[str] = set()

    def named(group: GroupNode) -> GroupNode:
        children: dict[str, Node] = {}
        for node in group.children.values():
            name = draw(fresh_name(used, set(children)))
            used.add(name)
            children[name] = named(node) if isinstance(node, GroupNode) else node
        return GroupNode(children)

    return named(skeleton)


# --- moves ------------------------------------------------------------------------------------------------------------


@st.composite
def valid_move(
    draw: st.DrawFn, all_nodes: AbstractSet[str], all_groups: AbstractSet[str], name_pool: AbstractSet[str]
) -> tuple[str, str]:
    """A move that is allowed among these absolute paths: source and destination.

    There must be a node other than the root.
    """
    source = draw(st.sampled_from(sorted(set(all_nodes) - {"/"})))
    homes = {"/", *all_groups} - {source}
    home = draw(st.sampled_from(sorted(group for group in homes if not is_descendant(group, source))))
    taken = child_names_at(home, all_nodes)
    return source, _join(home, draw(fresh_name(name_pool, taken)))


def _eligible(all_nodes: AbstractSet[str], all_arrays: AbstractSet[str]) -> list[InvalidMoveReason]:
    """The ways of going wrong that these nodes allow."""
    reasons: list[InvalidMoveReason] = ["into_itself", "source_missing"]
    nodes = set(all_nodes) - {"/"}
    if nodes:
        reasons.append("parent_missing")
    if any(_targets_taken(nodes, source) for source in nodes):
        reasons.append("destination_exists")
    if any(_targets_taken(all_arrays, source) for source in nodes):
        reasons.append("parent_is_array")
    return reasons


def _targets_taken(nodes: AbstractSet[str], source: str) -> list[str]:
    """The nodes that neither are `source` nor lie below it."""
    return sorted(node for node in nodes if node != source and not is_descendant(node, source))


@st.composite
def invalid_move(
    draw: st.DrawFn,
    all_nodes: AbstractSet[str],
    all_arrays: AbstractSet[str],
    name_pool: AbstractSet[str],
    *,
    eligible: list[InvalidMoveReason] | None = None,
) -> tuple[str, str, str]:
    """A move that must be refused: source, destination and a pattern that the message of the error matches."""
    reason = draw(st.sampled_from(eligible or _eligible(all_nodes, all_arrays)))
    nodes = set(all_nodes) - {"/"}
    names = fresh_name(name_pool, set().union(*(set(_segments(node)) for node in all_nodes)))
    if reason == "into_itself":
        source = draw(st.sampled_from(sorted({"/", *nodes})))
        target = source if draw(st.booleans()) else _join(source, draw(names))
    elif reason == "source_missing":
        source, target = absolute(draw(names)), absolute(draw(names))
    elif reason == "destination_exists":
        source = draw(st.sampled_from(sorted(node for node in nodes if _targets_taken(nodes, node))))
        target = draw(st.sampled_from(_targets_taken(nodes, source)))
    elif reason == "parent_missing":
        source = draw(st.sampled_from(sorted(nodes)))
        target = _join(absolute(draw(names)), draw(names))
    else:
        source = draw(st.sampled_from(sorted(node for node in nodes if _targets_taken(all_arrays, node))))
        target = _join(draw(st.sampled_from(_targets_taken(all_arrays, source))), draw(names))
    return source, target, _ERRORS[reason]


class _Places:
    """The absolute paths of a tree while its nodes are moved about."""

    def __init__(self, tree: GroupNode) -> None:
        self.arrays = {absolute(path) for path in tree.arrays()}
        self.groups = {absolute(path) for path in tree.groups()}
        self.names = {name for path in self.nodes for name in _segments(path)}

    @property
    def nodes(self) -> set[str]:
        return self.arrays | self.groups

    def move(self, source: str, target: str) -> None:
        def moved(path: str) -> str:
            return target + path[len(source) :] if path == source or is_descendant(path, source) else path

        self.arrays = set(map(moved, self.arrays))
        self.groups = set(map(moved, self.groups))
        self.names |= set(_segments(target))


_n_moves = st.integers(min_value=1, max_value=10)
_p_invalid = st.floats(min_value=0.0, max_value=1.0)


@st.composite
def valid_and_invalid_moves(
    draw: st.DrawFn,
    tree: GroupNode,
    n_moves: st.SearchStrategy[int] = _n_moves,
    p_invalid: st.SearchStrategy[float] = _p_invalid,
) -> list[MixedMove]:
    """Moves to be made one after the other, some of which must be refused, with the pattern of their error.

    `p_invalid` is the share of those; all are where the tree has no node to be moved.
    """
    places, share = _Places(tree), draw(p_invalid)
    moves: list[MixedMove] = []
    for _ in range(draw(n_moves)):
        if not places.nodes or draw(st.floats(min_value=0, max_value=1, exclude_max=True)) < share:
            moves.append(draw(invalid_move(places.nodes, places.arrays, places.names)))
        else:
            source, target = draw(valid_move(places.nodes, places.groups, places.names))
            places.move(source, target)
            moves.append((source, target, None))
    return moves


@st.composite
def valid_moves(draw: st.DrawFn, tree: GroupNode, n_moves: st.SearchStrategy[int] = _n_moves) -> list[tuple[str, str]]:
    """Moves that are all allowed, made one after the other; none where the tree has no node."""
    if not tree.children:
        return []
    mixed = draw(valid_and_invalid_moves(tree, n_moves, st.just(0.0)))
    return [(source, target) for source, target, _ in mixed]


@st.composite
def invalid_moves(
    draw: st.DrawFn, tree: GroupNode, n_moves: st.SearchStrategy[int] = _n_moves
) -> list[tuple[str, str, str]]:
    """Moves that must all be refused, with the patterns of their errors."""
    mixed = draw(valid_and_invalid_moves(tree, n_moves, st.just(1.0)))
    return [(source, target, pattern) for source, target, pattern in mixed if pattern is not None]


def _trees(
    max_leaves: st.SearchStrategy[int] | None, max_children: st.SearchStrategy[int] | None
) -> st.SearchStrategy[GroupNode]:
    given = {"max_leaves": max_leaves, "max_children": max_children}
    return trees(**{name: value for name, value in given.items() if value is not None})


@st.composite
def tree_and_valid_moves(
    draw: st.DrawFn,
    max_leaves: st.SearchStrategy[int] | None = None,
    max_children: st.SearchStrategy[int] | None = None,
    n_moves: st.SearchStrategy[int] = _n_moves,
) -> tuple[GroupNode, list[tuple[str, str]]]:
    """A hierarchy, and moves that are allowed in it one after the other."""
    tree = draw(_trees(max_leaves, max_children))
    return tree, draw(valid_moves(tree, n_moves))


@st.composite
def tree_and_invalid_moves(
    draw: st.DrawFn,
    max_leaves: st.SearchStrategy[int] | None = None,
    max_children: st.SearchStrategy[int] | None = None,
    n_moves: st.SearchStrategy[int] = _n_moves,
) -> tuple[GroupNode, list[tuple[str, str, str]]]:
    """A hierarchy, and moves that must be refused in it."""
    tree = draw(_trees(max_leaves, max_children))
    return tree, draw(invalid_moves(tree, n_moves))


@st.composite
def tree_and_mixed_moves(
    draw: st.DrawFn,
    max_leaves: st.SearchStrategy[int] | None = None,
    max_children: st.SearchStrategy[int] | None = None,
    n_moves: st.SearchStrategy[int] = _n_moves,
    p_invalid: st.SearchStrategy[float] = _p_invalid,
) -> tuple[GroupNode, list[MixedMove]]:
    """A hierarchy, and moves some of which must be refused in it."""
    tree = draw(_trees(max_leaves, max_children))
    return tree, draw(valid_and_invalid_moves(tree, n_moves, p_invalid))
