"""The models, invariants and strategies that are shipped for tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import icechunk
from icechunk.errors import IcechunkError, NoChangesToCommitError
from icechunk.info import SnapshotInfo
from icechunk.testing import LatencyStorage, trees
from icechunk.testing.invariants import (
    assert_ancestry_invariants,
    assert_list_dir_equal,
    assert_moves_sorted_by_final_path,
    compare_list_dir,
)
from icechunk.testing.models import ArrayNode, GroupNode, ModelStore
from icechunk.testing.strategies import (
    chunk_coordinates,
    chunk_paths,
    chunk_slicers,
    draw_older_than,
    repository_configs,
    splitting_configs,
)
from icechunk.testing.utils import (
    precommit_postcommit_readonly,
    tree_to_model_and_icechunk,
    update_paths_after_move,
)

INT, FLOAT = np.dtype("i4"), np.dtype("f8")
TREE = GroupNode(
    {"a": ArrayNode((4,), INT), "g": GroupNode({"x": ArrayNode((2, 2), FLOAT), "e": GroupNode({"deep": GroupNode()})})}
)


def keys(store: ModelStore) -> list[str]:
    return sorted(store._store_dict)


# --- models -----------------------------------------------------------------------------------------------------------


def test_a_tree_lists_its_paths() -> None:
    assert TREE.arrays() == ["a", "g/x"]
    assert TREE.groups() == ["g", "g/e", "g/e/deep"]
    assert TREE.nodes() == ["a", "g", "g/x", "g/e", "g/e/deep"]
    assert TREE.nodes("pre", include_root=True) == ["pre", "pre/a", "pre/g", "pre/g/x", "pre/g/e", "pre/g/e/deep"]
    assert TREE.groups(include_root=True)[0] == ""
    assert TREE.arrays("/") == ["/a", "/g/x"]
    assert next(TREE.walk()) == (PurePosixPath("a"), ArrayNode((4,), INT))


def test_trees_from_dictionaries_and_paths() -> None:
    assert GroupNode.from_dict({"g": {"x": ArrayNode((1,), INT)}, "e": {}}).nodes() == ["g", "e", "g/x"]
    built = GroupNode.from_paths({"/a", "/g/h/x"}, {"/g/e"})
    assert sorted(built.arrays()) == ["a", "g/h/x"]
    assert sorted(built.groups()) == ["g", "g/e", "g/h"]
    assert GroupNode.from_paths(set(), set()) == GroupNode()
    for arrays, groups in [({"a"}, set()), ({"/a"}, {"/a"}), ({"/a", "/a/b"}, set()), ({"/"}, set())]:
        with pytest.raises(ValueError, match="/"):
            GroupNode.from_paths(arrays, groups)


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(trees.trees(max_leaves=st.integers(1, 8)))
def test_a_tree_survives_a_store(tree: GroupNode) -> None:
    store = ModelStore()
    tree.materialize(store)
    assert GroupNode.from_store(store) == tree


async def test_a_tree_is_read_asynchronously() -> None:
    store = ModelStore()
    TREE.materialize(store)
    assert await GroupNode.from_store_async(store) == TREE


async def test_the_model_moves_whole_nodes() -> None:
    store = ModelStore()
    GroupNode.from_paths({"/g/x", "/g-1/x"}, {"/h"}).materialize(store)
    other = await store.copy()
    await store.move("/g", "/h/g")
    assert keys(store) == [
        *("g-1/x/zarr.json", "g-1/zarr.json"),
        *("h/g/x/zarr.json", "h/g/zarr.json", "h/zarr.json", "zarr.json"),
    ]
    assert "g/x/zarr.json" in keys(other)
    assert type(other) is ModelStore
    with pytest.raises(ValueError, match="must start with '/'"):
        await store.move("h", "/k")


async def test_the_model_shifts_chunks() -> None:
    store = ModelStore()
    array = zarr.create_array(store, name="s", shape=(5, 2), chunks=(1, 2), dtype="i4", fill_value=0)
    array[:, 0] = [0, 1, 2, 0, 4]
    await store.shift_array("/s", (-2, 0), (5, 1))
    assert zarr.open_array(store, path="s")[:, 0].tolist() == [2, 0, 4, 0, 0]


# --- invariants -------------------------------------------------------------------------------------------------------


def snapshots(count: int) -> list[SnapshotInfo]:
    """A right history, newest first."""
    ids = ["1CECHNKREP0F1RSTCMT0", *(f"{number:020}" for number in range(1, count))]
    time = datetime(2025, 1, 1, tzinfo=UTC)
    return [
        SnapshotInfo(ids[at], ids[at - 1] if at else None, time + timedelta(hours=at), "", {})
        for at in reversed(range(count))
    ]


def test_a_right_history_passes() -> None:
    history = snapshots(4)
    assert_ancestry_invariants(history)
    assert_ancestry_invariants(iter(history), {info.id for info in history} | {"another"})


def wrong_histories() -> Iterator[tuple[str, list[SnapshotInfo], set[str] | None]]:
    history = snapshots(4)
    yield "empty", [], None
    yield "backwards", history[::-1], None
    yield "cut off", history[:-1], None
    yield "gap", [history[0], *history[2:]], None
    yield "twice", [history[0], *history], None
    yield "unknown", history, {history[0].id}
    younger = SnapshotInfo(history[1].id, history[1].parent_id, history[0].written_at, "", {})
    yield "not older", [history[0], younger, *history[2:]], None
    first = SnapshotInfo("0" * 20, None, history[3].written_at, "", {})
    yield "another first one", [first], None


@pytest.mark.parametrize(("history", "known"), [pytest.param(*case[1:], id=case[0]) for case in wrong_histories()])
def test_wrong_histories_do_not(history: list[SnapshotInfo], known: set[str] | None) -> None:
    with pytest.raises(AssertionError):
        assert_ancestry_invariants(history, known)


def test_the_first_snapshot_may_have_any_id_when_asked_so() -> None:
    first = SnapshotInfo("0" * 20, None, datetime.now(UTC), "", {})
    assert_ancestry_invariants([first], must_contain_initial=False)


def test_the_order_of_moves_is_that_of_a_tree() -> None:
    assert_moves_sorted_by_final_path([])
    assert_moves_sorted_by_final_path([("/a", "/x"), ("/b", "/x/z"), ("/c", "/x-y")])
    with pytest.raises(AssertionError, match="sorted by their final path"):
        assert_moves_sorted_by_final_path([("/a", "/x-y"), ("/b", "/x/z")])


def test_listings_are_compared_in_any_order_but_exactly() -> None:
    assert_list_dir_equal("g", ["a", "b"], ["b", "a"])
    for actual in (["a"], ["a", "b", "c"], ["a", "b", "b"]):
        with pytest.raises(AssertionError, match=r"list_dir\('g'\)"):
            assert_list_dir_equal("g", ["a", "b"], actual)


# --- names and paths --------------------------------------------------------------------------------------------------


def test_paths() -> None:
    assert [trees.absolute(path) for path in ("", "a/b", "/a")] == ["/", "/a/b", "/a"]
    assert trees.is_descendant("/a/b", "/a")
    assert trees.is_descendant("/a", "/")
    for path, ancestor in [("a", "a"), ("ab", "a"), ("a", "a/b"), ("/a-b/c", "/a")]:
        assert not trees.is_descendant(path, ancestor)
    paths = {"a", "g", "g/x", "g/x/y", "ga/z"}
    assert trees.child_names_at("", paths) == {"a", "g", "ga"}
    assert trees.child_names_at("g", paths) == {"x"}
    assert trees.child_names_at("/g", {"/g", "/g/x"}) == {"x"}
    assert trees.child_names_at("nope", paths) == set()
    assert update_paths_after_move("/g", "/h", {"/g/x", "/a", "/gx"}, {"/g", "/"}) == [
        {"/h/x", "/a", "/gx"},
        {"/h", "/"},
    ]


def test_patterns_that_tolerate_a_broken_line() -> None:
    pattern = trees.wrap_tolerant("move cannot overwrite")
    assert re.search(pattern, "move cannot overwrite")
    assert re.search(pattern, "  x move\n  | cannot\n  |   overwrite existing")
    assert not re.search(pattern, "movecannot overwrite")


@given(st.data(), st.sets(st.sampled_from("abc")), st.sets(st.sampled_from("abc")))
def test_fresh_names_are_free(data: st.DataObject, pool: set[str], taken: set[str]) -> None:
    assert data.draw(trees.fresh_name(pool, taken)) not in taken
    assert data.draw(trees.similar_name(pool, taken)) not in taken
    names = data.draw(trees.fresh_names(pool, taken, 3))
    assert len(set(names)) == 3
    assert not set(names) & taken


@given(trees.skeletons(max_leaves=6, max_children=3))
def test_skeletons_are_numbered(tree: GroupNode) -> None:
    for group in [tree, *(node for _, node in tree.walk() if isinstance(node, GroupNode))]:
        assert list(group.children) == [str(number) for number in range(len(group.children))]
        assert len(group.children) <= 3


# --- chunks and configurations ----------------------------------------------------------------------------------------


@given(st.data(), st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), max_size=3))
def test_chunks_lie_in_their_grid(data: st.DataObject, dimensions: list[tuple[int, int]]) -> None:
    counts, lengths = tuple(d[0] for d in dimensions), tuple(d[1] for d in dimensions)
    coords = data.draw(chunk_coordinates(counts))
    assert all(0 <= index < count for index, count in zip(coords, counts, strict=True))
    assert len(list(filter(None, data.draw(chunk_paths(counts)).split("/")))) == len(counts)
    for piece, count, length in zip(data.draw(chunk_slicers(counts, lengths)), counts, lengths, strict=True):
        assert piece.stop - piece.start == length
        assert piece.start % length == 0
        assert piece.stop <= count * length


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.data())
def test_configurations_can_be_used(data: st.DataObject) -> None:
    model = zarr.create_array(
        ModelStore(), name="g/t", shape=(6, 4), chunks=(1, 2), dtype="i4", dimension_names=("time", "x")
    )
    config = data.draw(
        repository_configs(
            inline_chunk_threshold_bytes=st.integers(0, 100), splitting=splitting_configs(arrays=[model])
        )
    )
    repo = icechunk.Repository.create(icechunk.in_memory_storage(), config)
    session = repo.writable_session("main")
    array = zarr.create_array(
        session.store, name="g/t", shape=(6, 4), chunks=(1, 2), dtype="i4", dimension_names=("time", "x")
    )
    array[:] = np.arange(24).reshape(6, 4)
    session.commit("data")
    stored = zarr.open_array(repo.readonly_session("main").store, path="g/t", mode="r")
    assert np.array_equal(stored[:], np.arange(24).reshape(6, 4))


@settings(max_examples=25)
@given(st.data())
def test_times_to_expire_up_to(data: st.DataObject) -> None:
    storage = icechunk.in_memory_storage()
    repo = icechunk.Repository.create(storage)
    older_than = draw_older_than(data, storage, repo)
    assert older_than.tzinfo is not None
    repo.expire_snapshots(older_than)


# --- a repository beside its model ------------------------------------------------------------------------------------


def test_latency_is_part_of_the_package() -> None:
    storage = LatencyStorage(icechunk.in_memory_storage(), write_latency_ms=1, read_latency_ms=2)
    assert (storage.write_latency_ms, storage.read_latency_ms) == (1, 2)


async def test_the_same_tree_in_both() -> None:
    model, session, repo = tree_to_model_and_icechunk(TREE, add_hypothesis_note=False)
    paths = ["", *TREE.nodes()]
    seen = []
    for name, store in precommit_postcommit_readonly(session, repo):
        seen.append((name, store.read_only))
        await compare_list_dir(model, store, paths)
        assert GroupNode.from_store(store) == TREE
    assert seen == [("pre-commit", False), ("post-commit", True), ("readonly", True)]
    assert_ancestry_invariants(repo.ancestry(branch="main"))
    await model.delete_dir("g/e")
    with pytest.raises(AssertionError, match=r"list_dir\('g'\)"):
        await compare_list_dir(model, repo.readonly_session("main").store, paths)


def test_an_unchanged_session_is_committed_only_when_allowed() -> None:
    _, session, repo = tree_to_model_and_icechunk(TREE, add_hypothesis_note=False)
    session.commit("tree")
    with pytest.raises(NoChangesToCommitError):
        list(precommit_postcommit_readonly(repo.writable_session("main"), repo))
    assert len(list(precommit_postcommit_readonly(repo.writable_session("main"), repo, allow_empty=True))) == 3


few_leaves = st.integers(1, 8)


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(trees.tree_and_mixed_moves(few_leaves, n_moves=st.integers(1, 5)))
async def test_moves_do_the_same_to_both_or_are_refused(
    tree_and_moves: tuple[GroupNode, list[trees.MixedMove]],
) -> None:
    tree, moves = tree_and_moves
    model, session, repo = tree_to_model_and_icechunk(tree)
    await session.commit_async("tree")
    session = repo.rearrange_session("main")
    for source, target, error in moves:
        if error is None:
            session.move(source, target)
            await model.move(source, target)
        else:
            with pytest.raises(IcechunkError, match=error):
                session.move(source, target)
    expected = {name for name in keys(model) if name.endswith("zarr.json")}
    assert_moves_sorted_by_final_path(session.status().moved_nodes)
    for _, store in precommit_postcommit_readonly(session, repo, allow_empty=True):
        assert {key async for key in store.list()} == expected


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.data())
async def test_shifts_do_the_same_to_both(data: st.DataObject) -> None:
    model, session, repo = tree_to_model_and_icechunk(GroupNode(), add_hypothesis_note=False)
    for store in (model, session.store):
        array = zarr.create_array(store, name="a", shape=(4, 3), chunks=(1, 1), dtype="i4", fill_value=0)
        array[:] = np.arange(12).reshape(4, 3)
    for _ in range(2):
        offset = data.draw(st.tuples(st.integers(-4, 4), st.integers(-3, 3)))
        session.shift_array("/a", offset)
        await model.shift_array("/a", offset, (4, 3))
    for _, store in precommit_postcommit_readonly(session, repo):
        assert sorted([key async for key in store.list()]) == keys(model)


@given(trees.tree_and_valid_moves(few_leaves), trees.tree_and_invalid_moves(few_leaves))
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=10)
def test_moves_come_with_what_to_expect(
    valid: tuple[GroupNode, list[tuple[str, str]]], invalid: tuple[GroupNode, list[tuple[str, str, str]]]
) -> None:
    assert all(len(move) == 2 for move in valid[1])
    assert all(pattern for _, _, pattern in invalid[1])
    assert invalid[1]
