"""What must hold of every repository, whatever was done to it. Each check raises `AssertionError` and says where."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from icechunk.format.ids import INITIAL_SNAPSHOT_ID, format_id
from icechunk.info import SnapshotInfo
from icechunk.store import IcechunkStore

if TYPE_CHECKING:
    from icechunk.testing.models import ModelStore

__all__ = [
    "assert_ancestry_invariants",
    "assert_list_dir_equal",
    "assert_moves_sorted_by_final_path",
    "compare_list_dir",
]


def assert_ancestry_invariants(
    ancestry: Iterable[SnapshotInfo], known_commits: set[str] | None = None, *, must_contain_initial: bool = True
) -> None:
    """Check a history, newest snapshot first: each is the child of the next one, and younger; the last has no parent.

    `known_commits` are the ids that may occur. With `must_contain_initial` the last one has the id that repositories
    start with, which those of the first format version need not.
    """
    snapshots = list(ancestry)
    ids = [snapshot.id for snapshot in snapshots]
    assert ids, "a history has at least one snapshot"
    assert len(set(ids)) == len(ids), f"snapshots occur twice in {ids}"
    for child, parent in pairwise(snapshots):
        assert child.parent_id == parent.id, f"{child.id} has the parent {child.parent_id}, expected {parent.id}"
        assert child.written_at > parent.written_at, (
            f"{child.id} was written at {child.written_at}, not after its parent {parent.id} at {parent.written_at}"
        )
    last = snapshots[-1]
    assert last.parent_id is None, f"the last snapshot {last.id} has the parent {last.parent_id}, expected none"
    if must_contain_initial:
        initial = format_id(INITIAL_SNAPSHOT_ID)
        assert last.id == initial, f"the last snapshot is {last.id}, expected {initial}"
    if known_commits is not None:
        unknown = set(ids) - known_commits
        assert not unknown, f"unknown snapshots in the history: {sorted(unknown)}"


def assert_moves_sorted_by_final_path(moved_nodes: Sequence[tuple[str, str]]) -> None:
    """Check that moves are in the order of where they lead, segment by segment: a group before what is in it."""
    ends = [target.split("/") for _, target in moved_nodes]
    assert ends == sorted(ends), f"moves are not sorted by their final path: {list(moved_nodes)}"


def assert_list_dir_equal(path: str, expected: Iterable[str], actual: Iterable[str]) -> None:
    """Check a listing against that of the model, in any order."""
    model, found = sorted(expected), sorted(actual)
    assert model == found, f"list_dir({path!r}):\n  model:    {model}\n  icechunk: {found}"


async def compare_list_dir(model: ModelStore, store: IcechunkStore, paths: Iterable[str]) -> None:
    """Check that both stores list the same under each of `paths`.

    The model knows chunks only where there are some, Icechunk lists the `c` of every array.
    """
    for path in paths:
        expected = {name async for name in model.list_dir(path)}
        actual = [name async for name in store.list_dir(path)]
        if "c" in actual and "zarr.json" in actual and await _is_array(store, path):
            expected.add("c")
        assert_list_dir_equal(path, expected, actual)


async def _is_array(store: IcechunkStore, path: str) -> bool:
    from zarr.api.asynchronous import open as open_node
    from zarr.core.array import AsyncArray

    return isinstance(await open_node(store=store, path=path, mode="r"), AsyncArray)
