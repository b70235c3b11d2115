"""Rearranging a hierarchy while others add to it: every node stays where somebody can find it."""

import pytest

import icechunk

from .helpers import array_json, get, group_json, keys, put

SOLVER = icechunk.BasicConflictSolver()


@pytest.fixture
def moving(repo):
    """A rearrange session that has moved the group /a, with an array in it, to /b."""
    session = repo.writable_session("main")
    for path in ("", "a/"):
        put(session.store, f"{path}zarr.json", group_json())
    put(session.store, "a/n/zarr.json", array_json())
    put(session.store, "a/n/c/0/0", b"n")
    session.commit("groups")
    session = repo.rearrange_session("main")
    session.move("/a", "/b")
    return session


def others_make(repo, *paths):
    session = repo.writable_session("main")
    for path in paths:
        put(session.store, f"{path}/zarr.json", array_json())
        put(session.store, f"{path}/c/1/1", path.encode())
    session.commit("meanwhile")


def test_what_others_make_below_the_source_moves_with_it(repo, moving):
    others_make(repo, "a/x", "c")
    moving.commit("moved", rebase_with=SOLVER)
    store = repo.readonly_session("main").store
    assert keys(store) == [
        *("b/n/c/0/0", "b/n/zarr.json", "b/x/c/1/1", "b/x/zarr.json", "b/zarr.json"),
        *("c/c/1/1", "c/zarr.json", "zarr.json"),
    ]
    assert get(store, "b/x/c/1/1") == b"a/x"


@pytest.mark.parametrize("made", [["b"], ["b/x"], ["b/x/y"], ["a/x", "b/x"], ["b/n"]])
def test_a_target_in_which_others_made_something_is_taken(repo, moving, made):
    others_make(repo, *made)
    with pytest.raises(icechunk.RebaseFailedError) as caught:
        moving.commit("moved", rebase_with=SOLVER)
    (conflict,) = caught.value.conflicts
    assert conflict.conflict_type is icechunk.ConflictType.NewNodeConflictsWithExistingNode
    assert conflict.path == f"/{made[-1]}"
    store = repo.readonly_session("main").store
    assert all(get(store, f"{path}/c/1/1") == path.encode() for path in made)
    moving.discard_changes()


def test_a_target_that_begins_alike_is_free(repo, moving):
    others_make(repo, "bb/x", "b-x")
    moving.commit("moved", rebase_with=SOLVER)
    assert get(repo.readonly_session("main").store, "bb/x/c/1/1") == b"bb/x"
