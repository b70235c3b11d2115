"""Merging forks whose changes, or the session they are merged into, are not what the fork saw."""

import warnings

import pytest

import icechunk
from icechunk._driver import run

from .helpers import array_json, get, group_json, keys, put, with_array

pytestmark = pytest.mark.filterwarnings("ignore:a session with uncommitted changes")


def replace_array(session, key=None, data=b"x", **document):
    run(session.store.delete_dir("a"))
    put(session.store, "a/zarr.json", array_json(**document))
    if key is not None:
        put(session.store, key, data)


def refused(session, *forks):
    before = session.status(), keys(session.store)
    with pytest.raises(icechunk.SessionStateError) as caught:
        session.merge(*forks)
    assert (session.status(), keys(session.store)) == before
    return caught.value.kind


def committed(repo, session):
    session.commit("merged")
    return repo.readonly_session("main").store


# --- nodes made again ---------------------------------------------------------------------------------------------------


def test_forks_that_replaced_an_array_alike_share_the_new_one(repo):
    with_array(repo)
    session = repo.writable_session("main")
    first, second = session.fork(), session.fork()
    replace_array(first, "a/c/0/1", b"first")
    replace_array(second, "a/c/0/2", b"second")
    session.merge(first, second)
    store = committed(repo, session)
    assert keys(store) == ["a/c/0/1", "a/c/0/2", "a/zarr.json", "zarr.json"]
    assert get(store, "a/c/0/1") == b"first"


def test_forks_that_replaced_an_array_differently_clash(repo):
    with_array(repo)
    session = repo.writable_session("main")
    first, second = session.fork(), session.fork()
    replace_array(first, "a/c/0/1")
    replace_array(second, attributes={"second": True})
    session.merge(first)
    assert refused(session, second) == "merge-failed"
    assert keys(committed(repo, session)) == ["a/c/0/1", "a/zarr.json", "zarr.json"]


def test_what_a_fork_replaced_in_the_session_is_replaced(repo):
    session = repo.writable_session("main")
    put(session.store, "a/zarr.json", array_json())
    put(session.store, "a/c/0/0", b"seen")
    fork = session.fork()
    replace_array(fork, "a/c/1/1", b"new", attributes={"new": True})
    session.merge(fork)
    store = committed(repo, session)
    assert keys(store) == ["a/c/1/1", "a/zarr.json"] and b"new" in get(store, "a/zarr.json")


@pytest.mark.parametrize("change", ["chunk", "metadata", "replace", "delete"])
def test_a_fork_does_not_bring_back_what_the_session_replaced(repo, change):
    session = repo.writable_session("main")
    put(session.store, "a/zarr.json", array_json())
    fork = session.fork()
    if change == "chunk":
        put(fork.store, "a/c/0/0", b"fork")
    elif change == "metadata":
        put(fork.store, "a/zarr.json", array_json(attributes={"fork": True}))
    elif change == "replace":
        replace_array(fork, attributes={"fork": True})
    else:
        run(fork.store.delete_dir("a"))
    replace_array(session, "a/c/1/1", b"session")
    if change == "delete":  # it is gone already
        session.merge(fork)
    else:
        assert refused(session, fork) == "merge-failed"
    store = committed(repo, session)
    assert keys(store) == ["a/c/1/1", "a/zarr.json"] and get(store, "a/zarr.json") == array_json()


def test_a_fork_that_deletes_what_the_session_changed_since_is_refused(repo):
    with_array(repo)
    session = repo.writable_session("main")
    put(session.store, "a/c/0/0", b"seen")
    fork = session.fork()
    run(fork.store.delete_dir("a"))
    put(session.store, "a/c/0/0", b"changed")
    assert refused(session, fork) == "merge-failed"
    assert get(committed(repo, session), "a/c/0/0") == b"changed"


# --- forks of another snapshot ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["chunk", "metadata"])
@pytest.mark.parametrize("again", [False, True])
def test_a_late_fork_that_changed_what_is_gone_is_refused(repo, change, again):
    with_array(repo)
    fork = repo.writable_session("main").fork()
    if change == "chunk":
        put(fork.store, "a/c/0/0", b"fork")
    else:
        put(fork.store, "a/zarr.json", array_json(attributes={"fork": True}))
    other = repo.writable_session("main")
    if again:
        replace_array(other)
    else:
        run(other.store.delete_dir("a"))
    other.commit("gone")
    assert refused(repo.writable_session("main"), fork) == "merge-failed"


def test_a_late_fork_deletes_only_what_it_saw(repo):
    with_array(repo)
    fork = repo.writable_session("main").fork()
    run(fork.store.delete_dir("a"))
    put(fork.store, "g/zarr.json", group_json())
    other = repo.writable_session("main")
    replace_array(other, "a/c/0/0")
    put(other.store, "g/zarr.json", group_json())
    other.commit("other")
    session = repo.writable_session("main")
    session.merge(fork)
    assert not session.has_uncommitted_changes
    assert keys(session.store) == ["a/c/0/0", "a/zarr.json", "g/zarr.json", "zarr.json"]


def test_a_late_fork_does_not_replace_what_others_made(repo):
    with_array(repo)
    fork = repo.writable_session("main").fork()
    put(fork.store, "b/zarr.json", array_json())
    other = repo.writable_session("main")
    put(other.store, "b/zarr.json", array_json())
    put(other.store, "b/c/0/0", b"other")
    other.commit("other")
    assert refused(repo.writable_session("main"), fork) == "merge-failed"


# --- forks of forks, and forks merged twice -----------------------------------------------------------------------------


def test_a_fork_of_a_fork_is_not_merged_before_what_it_builds_upon(repo):
    session = repo.writable_session("main")
    outer = session.fork()
    put(outer.store, "a/zarr.json", array_json())
    inner = outer.fork()
    put(inner.store, "a/zarr.json", array_json(attributes={"inner": True}))
    put(inner.store, "a/c/0/0", b"inner")
    assert refused(session, inner) == "merge-failed"
    with warnings.catch_warnings():
        warnings.simplefilter("error", icechunk.MergeOverlapWarning)
        session.merge(outer, inner)  # the inner one saw what the outer one did
    store = committed(repo, session)
    assert get(store, "a/c/0/0") == b"inner" and b"inner" in get(store, "a/zarr.json")


def test_a_fork_may_go_on_after_it_was_merged(repo):
    with_array(repo)
    session = repo.writable_session("main")
    fork = session.fork()
    put(fork.store, "b/zarr.json", array_json())
    session.merge(fork)
    put(fork.store, "b/zarr.json", array_json((8, 8)))
    put(fork.store, "b/c/7/7", b"later")
    session.merge(fork)
    assert get(committed(repo, session), "b/c/7/7") == b"later"


def test_a_fork_that_changed_the_rank(repo):
    with_array(repo)
    session = repo.writable_session("main")
    put(session.store, "a/c/0/0", b"seen")
    late, fork = session.fork(), session.fork()
    put(fork.store, "a/zarr.json", array_json((4,), (1,)))
    put(fork.store, "a/c/1", b"fork")
    put(late.store, "a/c/0/1", b"late")
    session.merge(fork)
    assert refused(session, late) == "merge-failed"
    assert keys(committed(repo, session)) == ["a/c/1", "a/zarr.json", "zarr.json"]


def test_moves_are_not_merged(repo):
    with_array(repo)
    moved = repo.rearrange_session("main")
    moved.move("/a", "/b")
    assert refused(repo.writable_session("main"), moved) == "merge-not-allowed"
