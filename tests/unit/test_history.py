"""What changed: over several logs, in a session, and with two commits taken as one."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from icechunk.change_set import ChangeSet, ChunkEdits, DeletedNode
from icechunk.format.chunk_ref import Inline
from icechunk.format.snapshot import Node
from icechunk.format.transaction_log import Move, TransactionLog
from icechunk.history import chain_moves, diff_logs, merge_logs, status_diff, union_coords


def node_id(name: str) -> bytes:
    return name.encode().ljust(8, b".")


def array(path: str, name: str | None = None) -> Node:
    return Node(node_id(name or path[1:]), path, True, b"{}", (), None, ())


def group(path: str, name: str | None = None) -> Node:
    return Node(node_id(name or path[1:]), path, False, b"{}", (), None, ())


class Tree:
    """Nodes by id."""

    def __init__(self, *nodes: Node) -> None:
        self._nodes = nodes

    def paths_by_id(self, node_ids: Collection[bytes]) -> dict[bytes, str]:
        return {node.id: node.path for node in self._nodes if node.id in node_ids}

    def nodes(self) -> tuple[Node, ...]:
        return self._nodes


def ids(*names: str) -> frozenset[bytes]:
    return frozenset(map(node_id, names))


def coords(*rows: tuple[int, ...]) -> np.ndarray:
    return np.array(rows, np.uint32).reshape(len(rows), len(rows[0]) if rows else 0)


def log(**changes: object) -> TransactionLog:
    return TransactionLog(id=bytes(12), **changes)  # type: ignore[arg-type]


# --- between two snapshots --------------------------------------------------------------------------------------------


def test_ids_become_paths_and_what_is_at_neither_end_is_left_out() -> None:
    before = Tree(group("/g"), array("/old"), array("/a"))
    after = Tree(group("/g"), array("/a"), group("/n"), array("/m"))
    diff = diff_logs(
        [
            log(new_arrays=ids("m", "brief"), new_groups=ids("n"), updated_chunks={node_id("brief"): coords((0,))}),
            log(
                deleted_arrays=ids("old", "brief"),
                updated_arrays=ids("a"),
                updated_groups=ids("g"),
                updated_chunks={node_id("m"): coords((1,)), node_id("a"): coords((2,))},
            ),
        ],
        before,
        after,
    )
    assert (diff.new_groups, diff.new_arrays) == ({"/n"}, {"/m"})
    assert (diff.deleted_groups, diff.deleted_arrays) == (set(), {"/old"})
    assert (diff.updated_groups, diff.updated_arrays) == ({"/g"}, {"/a"})
    assert diff.updated_chunks == {"/a": [[2]], "/m": [[1]]}
    assert diff.moved_nodes == []


def test_an_array_that_was_deleted_and_made_again_is_both() -> None:
    before, after = Tree(array("/a", "one")), Tree(array("/a", "two"))
    diff = diff_logs([log(new_arrays=ids("two"), deleted_arrays=ids("one"))], before, after)
    assert diff.new_arrays == diff.deleted_arrays == {"/a"}


def test_moved_nodes_go_by_their_last_path_and_moves_are_listed_newest_commit_first() -> None:
    before, after = Tree(array("/a")), Tree(array("/y", "a"))
    logs = [
        log(updated_chunks={node_id("a"): coords((0,))}),
        log(moved_nodes=(Move("/a", "/z", node_id("a"), True),)),
        log(moved_nodes=(Move("/z", "/y", node_id("a"), True),)),
    ]
    diff = diff_logs(logs, before, after)
    assert diff.updated_chunks == {"/y": [[0]]}
    assert diff.moved_nodes == [("/z", "/y"), ("/a", "/z")]


def test_chunks_of_several_logs_are_united_and_sorted() -> None:
    tree = Tree(array("/a"))
    logs = [
        log(updated_chunks={node_id("a"): coords((1, 0), (0, 5))}),
        log(updated_chunks={node_id("a"): coords((0, 5), (0, 1))}),
    ]
    assert diff_logs(logs, tree, tree).updated_chunks == {"/a": [[0, 1], [0, 5], [1, 0]]}


@given(st.lists(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 3)), max_size=6), min_size=1, max_size=4))
def test_united_coordinates_are_a_sorted_set(parts: list[list[tuple[int, int]]]) -> None:
    arrays = [np.array(part, np.uint32).reshape(len(part), 2) for part in parts]
    expected = sorted({row for part in parts for row in part})
    assert [tuple(row) for row in union_coords(arrays).tolist()] == expected


def test_an_array_may_change_its_rank() -> None:
    assert union_coords([coords((1,)), coords((0, 1))]).tolist() == [[0, 1]]
    assert union_coords([np.zeros((1, 0), np.uint32), np.zeros((1, 0), np.uint32)]).shape == (1, 0)


def test_an_array_listed_without_chunks_says_nothing_of_its_rank() -> None:
    nothing = np.zeros((0, 0), np.uint32)  # 1.x logs this when a session writes chunks and then cuts them off
    assert union_coords([coords((0, 1)), nothing]).tolist() == [[0, 1]]
    assert union_coords([nothing]).tolist() == []


# --- in a session -----------------------------------------------------------------------------------------------------


def test_the_status_of_a_session_is_its_changes_by_path() -> None:
    edits = ChunkEdits(1, {(3,): Inline(b"x"), (1,): None}, path="/a")
    changes = ChangeSet(
        new_nodes={"/n": group("/n"), "/m": array("/m")},
        updated={node_id("a"): array("/a"), node_id("g"): group("/g")},
        deleted={"/k": DeletedNode(node_id("k"), False), "/j": DeletedNode(node_id("j"), True)},
        chunks={node_id("a"): edits, node_id("b"): ChunkEdits(1, path="/b")},
    )
    diff = status_diff(changes, Tree())
    assert (diff.new_groups, diff.new_arrays) == ({"/n"}, {"/m"})
    assert (diff.deleted_groups, diff.deleted_arrays) == ({"/k"}, {"/j"})
    assert (diff.updated_groups, diff.updated_arrays) == ({"/g"}, {"/a"})
    assert diff.updated_chunks == {"/a": [[1], [3]]}
    assert status_diff(ChangeSet(), Tree()).is_empty()


def test_moves_in_the_status_are_one_per_node() -> None:
    moves = [Move("/g", "/h", node_id("g"), False), Move("/h", "/k", node_id("g"), False)]
    diff = status_diff(ChangeSet(moves=moves), Tree(group("/g"), array("/g/x")))
    assert diff.moved_nodes == [("/g", "/k"), ("/g/x", "/k/x")]


# --- several commits as one -------------------------------------------------------------------------------------------


def test_what_was_made_and_deleted_leaves_no_trace() -> None:
    merged = merge_logs(
        log(new_arrays=ids("a"), new_groups=ids("g"), updated_chunks={node_id("a"): coords((0,))}),
        log(deleted_arrays=ids("a"), deleted_groups=ids("g")),
    )
    assert merged == log()


def test_what_was_made_and_changed_is_new_and_what_was_deleted_was_not_changed() -> None:
    merged = merge_logs(
        log(new_arrays=ids("a"), updated_arrays=ids("b"), updated_groups=ids("g")),
        log(
            updated_arrays=ids("a"),
            deleted_arrays=ids("b"),
            deleted_groups=ids("g"),
            updated_chunks={node_id("a"): coords((1,))},
        ),
    )
    assert merged.new_arrays == ids("a")
    assert merged.updated_arrays == merged.updated_groups == frozenset()
    assert merged.deleted_arrays == ids("b")
    assert merged.deleted_groups == ids("g")
    assert list(merged.updated_chunks) == [node_id("a")]


def test_chunks_of_both_commits_are_united() -> None:
    merged = merge_logs(
        log(updated_chunks={node_id("a"): coords((1,), (2,)), node_id("b"): coords((0,))}),
        log(updated_chunks={node_id("a"): coords((2,), (0,))}),
    )
    assert merged.updated_chunks[node_id("a")].tolist() == [[0], [1], [2]]
    assert merged.updated_chunks[node_id("b")].tolist() == [[0]]


def test_the_merged_log_has_the_id_of_the_second() -> None:
    assert merge_logs(TransactionLog(id=b"1" * 12), TransactionLog(id=b"2" * 12)).id == b"2" * 12


def test_moves_are_chained() -> None:
    first = [Move("/k9", "/k8", node_id("k"), True), Move("/x", "/y", node_id("x"), True)]
    second = [Move("/k8", "/k7", node_id("k"), True), Move("/y", "/x", node_id("x"), True)]
    assert chain_moves(first, second) == (Move("/k9", "/k7", node_id("k"), True),)
    merged = merge_logs(
        log(moved_nodes=tuple(first), new_arrays=ids("n")),
        log(moved_nodes=(*second, Move("/n", "/o", node_id("n"), True)), deleted_arrays=ids("k")),
    )
    assert merged.moved_nodes == ()


def test_moves_where_the_format_has_none_are_kept() -> None:
    moved = log(new_arrays=ids("a"), deleted_arrays=ids("a"))
    assert merge_logs(log(new_arrays=ids("a")), moved) == log(new_arrays=ids("a"))
    assert merge_logs(moved, log(deleted_arrays=ids("a"))) == log(deleted_arrays=ids("a"))
    assert merge_logs(moved, moved) == moved
    assert merge_logs(log(updated_arrays=ids("a")), moved).updated_arrays == ids("a")
    diff = diff_logs([moved], Tree(array("/a")), Tree(array("/z", "a")))
    assert (diff.deleted_arrays, diff.new_arrays) == ({"/a"}, {"/z"})


def test_chained_moves_are_in_the_order_of_a_tree() -> None:
    first = [Move("/b", "/z", node_id("b"), True), Move("/g", "/g-b", node_id("g"), False)]
    second = [Move("/c", "/g/x", node_id("c"), True)]
    assert [move.target for move in chain_moves(first, second)] == ["/g/x", "/g-b", "/z"]
