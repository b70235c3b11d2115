"""Sessions that were open while a collection ran, some of them for longer than its limit allows."""

import pickle
from datetime import timedelta

import pytest

import icechunk
from icechunk._driver import run
from icechunk.testing.counting import CountingStorage
from tests.aging import DAY, Clock, rebound
from tests.invariants import assert_whole

from .helpers import big, get, put, with_array

NEVER = 400 * DAY
"""Older than this, by mistake: everything."""


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def repo(clock, spec):
    repo = icechunk.Repository.create(clock.storage(), spec_version=spec)
    with_array(repo)
    return repo


def session_with_chunks(repo, number=3):
    session = repo.writable_session("main")
    for index in range(number):
        put(session.store, f"a/c/{index // 4}/{index % 4}", big(index + 1))
    return session


def collect(repo, clock, limit):
    """A collection by somebody else, in an hour."""
    clock.forward(timedelta(hours=1))
    other = icechunk.Repository.open(repo.storage)
    summary = other.garbage_collect(clock.look() + limit)
    clock.forward(timedelta(hours=1))
    return summary.chunks_deleted


COMMITS = {
    "commit": lambda session: session.commit("mine"),
    "rebasing": lambda session: session.commit("mine", rebase_with=icechunk.ConflictDetector()),
    "amend": lambda session: session.amend("mine"),
    "flush": lambda session: session.flush("mine"),
}


@pytest.mark.filterwarnings("ignore::icechunk.UncommittedChangesWarning")
@pytest.mark.parametrize("commit", COMMITS.values(), ids=COMMITS)
def test_what_was_collected_is_not_committed(repo, clock, commit):
    session = session_with_chunks(repo)
    assert collect(repo, clock, NEVER) == 3
    before = repo.lookup_branch("main")
    with pytest.raises(icechunk.SessionStateError, match=r"among them \(0, 0\) of /a; nothing was committed") as caught:
        commit(session)
    assert caught.value.kind == "chunk-not-found"
    assert session.has_uncommitted_changes and not session.read_only
    assert repo.lookup_branch("main") == before
    run(assert_whole(repo.storage))


@pytest.mark.parametrize("commit", COMMITS.values(), ids=COMMITS)
def test_a_collection_that_leaves_what_is_young_harms_nobody(repo, clock, commit):
    session = session_with_chunks(repo)
    assert collect(repo, clock, -2 * DAY) == 0
    snapshot = commit(session)
    reader = repo.readonly_session(snapshot_id=snapshot)
    assert [get(reader.store, f"a/c/0/{index}") for index in range(3)] == [big(1), big(2), big(3)]
    run(assert_whole(repo.storage))


def test_what_was_replaced_meanwhile_may_be_gone(repo, clock):
    session = session_with_chunks(repo)
    assert collect(repo, clock, NEVER) == 3
    for index in range(3):
        put(session.store, f"a/c/0/{index}", big(index + 10))
    session.commit("again")
    assert get(repo.readonly_session("main").store, "a/c/0/2") == big(12)


@pytest.mark.filterwarnings("ignore::icechunk.UncommittedChangesWarning")
def test_chunks_of_a_fork_count(repo, clock):
    session = repo.writable_session("main")
    fork = session.fork()
    put(fork.store, "a/c/0/0", big(1))
    assert collect(repo, clock, NEVER) == 1
    put(session.store, "a/c/0/1", big(2))
    session.merge(fork)
    with pytest.raises(icechunk.SessionStateError, match="garbage collection"):
        session.commit("both")


@pytest.mark.filterwarnings("ignore::icechunk.UncommittedChangesWarning")
def test_chunks_of_a_fork_of_an_older_session_count(repo, clock):
    fork = repo.writable_session("main").fork()
    put(fork.store, "a/c/0/0", big(1))
    assert collect(repo, clock, NEVER) == 1
    session = repo.writable_session("main")
    session.merge(pickle.loads(pickle.dumps(fork)))
    with pytest.raises(icechunk.SessionStateError, match="garbage collection"):
        session.commit("late")


def test_small_changes_have_nothing_to_lose(repo, clock):
    session = repo.writable_session("main")
    put(session.store, "a/c/0/0", b"inline")
    collect(repo, clock, NEVER)
    session.commit("small")
    run(assert_whole(repo.storage))


def test_no_request_is_spent_on_it_unless_there_was_a_collection(repo, clock):
    counted = CountingStorage(repo.storage)
    session = session_with_chunks(repo)
    rebound(repo, counted)
    clock.forward(timedelta(seconds=50))
    session.commit("young")
    assert not any(path.startswith("chunks/") for request in counted.requests for path in request.paths)

    session = session_with_chunks(repo, 8)
    clock.forward(timedelta(hours=9))
    counted.reset()
    session.commit("long")
    looked_for = [request for request in counted.requests if request.paths[0].startswith("chunks/")]
    if repo.spec_version == 2:
        assert not looked_for
    else:  # nothing tells of a collection there
        assert [request.verb for request in looked_for] == ["exists"] * 4
