"""Merging forks when others changed the same things meanwhile: nothing is lost in silence.

Others are another fork, the session itself, and, by a rebase, whoever committed.
"""

import pickle
import warnings

import pytest
import zarr

import icechunk
from icechunk._driver import run
from icechunk.distributed import merge_sessions

from .helpers import array_json, get, group_json, keys, put, with_array

pytestmark = pytest.mark.filterwarnings("ignore:a session with uncommitted changes")


def attributes(**given):
    return array_json(attributes=given)


def silently(merge, *forks):
    with warnings.catch_warnings():
        warnings.simplefilter("error", icechunk.MergeOverlapWarning)
        merge(*forks)


def told(match, merge, *forks):
    with pytest.warns(icechunk.MergeOverlapWarning, match=match):
        merge(*forks)


def refused(session, *forks, match="failed to merge"):
    before = session.status(), keys(session.store), session.snapshot_id
    with pytest.raises(icechunk.SessionStateError, match=match) as caught:
        session.merge(*forks)
    assert (session.status(), keys(session.store), session.snapshot_id) == before
    assert caught.value.kind == "merge-failed"


def committed(repo, session):
    session.commit("merged")
    return repo.readonly_session("main").store


@pytest.fixture
def session(repo):
    with_array(repo)
    session = repo.writable_session("main")
    put(session.store, "a/c/0/0", b"base")
    session.commit("base")
    return repo.writable_session("main")


@pytest.fixture(params=["here", "travelled"])
def back(request):
    """How a fork comes back: as it is, or pickled twice."""
    if request.param == "here":
        return lambda fork: fork
    return lambda fork: pickle.loads(pickle.dumps(fork))


@pytest.fixture
def storage(tmp_path):
    return icechunk.local_filesystem_storage(str(tmp_path))  # forks of it can travel


# --- each fork saw something else ---------------------------------------------------------------------------------------


def test_every_fork_knows_what_it_saw(repo, session, back):
    put(session.store, "a/c/0/0", b"one")
    first = session.fork()
    put(session.store, "a/c/0/0", b"two")
    second = session.fork()
    put(first.store, "a/c/0/1", b"first")
    put(second.store, "a/c/0/0", b"second")  # over what it saw
    silently(session.merge, back(first))
    silently(session.merge, back(second))
    store = committed(repo, session)
    assert get(store, "a/c/0/0") == b"second" and get(store, "a/c/0/1") == b"first"


def test_an_earlier_fork_did_not_see_what_a_later_one_saw(repo, session, back):
    put(session.store, "a/c/0/0", b"one")
    first = session.fork()
    put(session.store, "a/c/0/0", b"two")
    second = session.fork()
    put(first.store, "a/c/0/0", b"first")
    put(second.store, "a/c/0/1", b"second")
    silently(session.merge, back(second))
    told("1 chunks of /a$", session.merge, back(first))
    assert get(committed(repo, session), "a/c/0/0") == b"first"


def test_metadata_that_only_a_later_fork_saw(repo, session, back):
    put(session.store, "a/zarr.json", attributes(session=1))
    first = session.fork()
    put(session.store, "a/zarr.json", attributes(session=2))
    second = session.fork()
    put(first.store, "a/zarr.json", attributes(first=True))
    put(second.store, "a/zarr.json", attributes(second=True))
    silently(session.merge, back(second))
    told("the metadata of /a", session.merge, back(first))


def test_a_fork_of_a_fork_merged_into_the_session(repo, session, back):
    outer = session.fork()
    put(outer.store, "a/c/0/0", b"outer")
    inner = outer.fork()
    put(inner.store, "a/c/0/0", b"inner")
    silently(session.merge, outer, back(inner))
    assert get(committed(repo, session), "a/c/0/0") == b"inner"


def test_equal_chunks_are_no_overlap(repo, session):
    first, second = session.fork(), session.fork()
    for fork in (first, second):
        put(fork.store, "a/c/1/1", b"same")
    silently(session.merge, first, second)
    silently(session.merge, first)


def test_forks_share_the_snapshot_that_is_made_for_them(session, storage):
    put(session.store, "a/c/0/0", b"seen")
    one, two = session.fork(), session.fork()
    assert one.snapshot_id == two.snapshot_id != session.snapshot_id
    put(session.store, "a/c/0/0", b"again")
    three = session.fork()
    assert three.snapshot_id != one.snapshot_id
    assert get(three.store, "a/c/0/0") == b"again" and get(one.store, "a/c/0/0") == b"seen"


@pytest.mark.parametrize("first_bulk", [False, True])
@pytest.mark.parametrize("second_bulk", [False, True])
def test_overlaps_of_references_in_bulk(repo, session, first_bulk, second_bulk):
    def refer(fork, offset, bulk):
        if bulk:
            specs = [icechunk.VirtualChunkSpec([row, 0], "s3://bucket/f", offset + row, 9) for row in range(offset, 4)]
            fork.store.set_virtual_refs("a", specs, validate_containers=False)
        else:
            for row in range(offset, 4):
                fork.store.set_virtual_ref(
                    f"a/c/{row}/0", "s3://bucket/f", offset=offset + row, length=9, validate_container=False
                )

    first, second = session.fork(), session.fork()
    refer(first, 0, first_bulk)
    refer(second, 2, second_bulk)
    told("2 chunks of /a$", session.merge, first, second)
    again = session.fork()
    refer(again, 2, second_bulk)
    silently(session.merge, again)


# --- all or nothing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1, 2])
def test_all_forks_are_merged_or_none(repo, session, place):
    put(session.store, "a/c/3/3", b"session")
    forks = [session.fork() for _ in range(3)]
    for number, fork in enumerate(forks):
        put(fork.store, f"a/c/1/{number}", b"x")
        put(fork.store, f"g{number}/zarr.json", group_json())
    put(forks[place].store, "b/zarr.json", array_json((8,), (1,)))
    put(session.store, "b/zarr.json", array_json())
    refused(session, *forks, match="both created different nodes at /b")
    put(session.store, "a/c/2/2", b"later")  # it can still be worked with
    store = committed(repo, session)
    assert keys(store) == ["a/c/0/0", "a/c/2/2", "a/c/3/3", "a/zarr.json", "b/zarr.json", "zarr.json"]


def test_a_fork_into_which_others_are_merged_gets_all_or_none(session):
    first, *others = [session.fork() for _ in range(3)]
    put(others[0].store, "a/c/1/1", b"x")
    run(others[1].store.delete_dir("a"))
    put(first.store, "a/c/2/2", b"y")
    with pytest.raises(icechunk.SessionStateError):
        merge_sessions([first, others])
    assert keys(first.store) == ["a/c/0/0", "a/c/2/2", "a/zarr.json", "zarr.json"]


def test_what_is_no_fork_is_refused_before_anything_is_merged(session):
    fork = session.fork()
    put(fork.store, "a/c/1/1", b"x")
    with pytest.raises(TypeError):
        session.merge(fork, "fork")
    assert not session.has_uncommitted_changes


# --- arrays of another shape, or other codecs ---------------------------------------------------------------------------


def test_chunks_that_another_fork_cut_off(repo, session):
    smaller, writer = session.fork(), session.fork()
    put(smaller.store, "a/zarr.json", array_json((2, 4)))
    put(writer.store, "a/c/3/3", b"beyond")
    put(writer.store, "a/c/1/3", b"inside")
    told("1 chunks of /a that its new shape cuts off", session.merge, smaller, writer)
    assert keys(committed(repo, session)) == ["a/c/0/0", "a/c/1/3", "a/zarr.json", "zarr.json"]


@pytest.mark.parametrize("again", [False, True])
def test_a_fork_that_cuts_off_what_another_wrote(repo, session, again):
    writer, smaller = session.fork(), session.fork()
    put(writer.store, "a/c/3/3", b"beyond")
    put(smaller.store, "a/zarr.json", array_json((2, 4)))
    if again:
        put(smaller.store, "a/zarr.json", array_json())
    told("1 chunks of /a that its new shape cuts off", session.merge, writer, smaller)
    assert keys(committed(repo, session)) == ["a/c/0/0", "a/zarr.json", "zarr.json"]


def test_a_fork_may_cut_off_what_it_saw(repo, session):
    put(session.store, "a/c/3/3", b"seen")
    fork = session.fork()
    put(fork.store, "a/zarr.json", array_json((2, 4)))
    silently(session.merge, fork)
    assert keys(committed(repo, session)) == ["a/c/0/0", "a/zarr.json", "zarr.json"]


def test_forks_that_append(repo, session):
    first, second = session.fork(), session.fork()
    for fork, key in ((first, "a/c/4/0"), (second, "a/c/5/0")):
        put(fork.store, "a/zarr.json", array_json((6, 4)))
        put(fork.store, key, b"more")
    silently(session.merge, first, second)
    assert {"a/c/4/0", "a/c/5/0"} < set(keys(committed(repo, session)))


def test_forks_that_append_to_one_place(session):
    first, second = session.fork(), session.fork()
    for fork, data in ((first, b"first"), (second, b"second")):
        put(fork.store, "a/zarr.json", array_json((5, 4)))
        put(fork.store, "a/c/4/0", data)
    told("1 chunks of /a$", session.merge, first, second)


def test_forks_that_append_different_lengths(session):
    first, second = session.fork(), session.fork()
    for fork, length in ((first, 6), (second, 5)):
        put(fork.store, "a/zarr.json", array_json((length, 4)))
        put(fork.store, f"a/c/{length - 1}/0", b"last")
    told("cuts off, the metadata of /a", session.merge, first, second)


OTHER_TYPE = array_json(data_type="uint16")


@pytest.mark.parametrize("who", ["session", "fork"])
def test_chunks_are_not_put_under_another_data_type(repo, session, who):
    fork, other = session.fork(), session.fork() if who == "fork" else session
    put(fork.store, "a/c/1/1", b"x")
    put(other.store, "a/zarr.json", OTHER_TYPE)
    if who == "fork":
        silently(session.merge, other)
    refused(session, fork)


@pytest.mark.parametrize("who", ["session", "fork"])
def test_a_data_type_is_not_put_over_chunks_of_another(repo, session, who):
    fork, other = session.fork(), session.fork() if who == "fork" else session
    put(fork.store, "a/zarr.json", OTHER_TYPE)
    put(fork.store, "a/c/1/1", b"xx")
    put(other.store, "a/c/2/2", b"x")
    if who == "fork":
        silently(session.merge, other)
    refused(session, fork)


def test_a_fork_may_change_the_type_of_what_it_saw(repo, session):
    put(session.store, "a/c/2/2", b"x")
    fork = session.fork()
    put(fork.store, "a/zarr.json", OTHER_TYPE)
    put(fork.store, "a/c/2/2", b"xx")
    silently(session.merge, fork)
    assert get(committed(repo, session), "a/c/2/2") == b"xx"


def test_a_fork_merged_again_may_change_what_it_brought(session, back):
    fork = session.fork()
    put(fork.store, "a/zarr.json", attributes(x=1))
    session.merge(fork)
    fork = back(fork)
    put(fork.store, "a/zarr.json", attributes(x=2))
    silently(session.merge, fork)
    assert get(session.store, "a/zarr.json") == attributes(x=2)


def test_a_document_that_was_merged_before_does_not_come_back(session, back):
    fork = session.fork()
    put(fork.store, "a/zarr.json", attributes(by="fork"))
    session.merge(fork)
    put(session.store, "a/zarr.json", attributes(by="session"))
    fork = back(fork)
    put(fork.store, "a/c/1/0", b"more")
    silently(session.merge, fork)
    assert get(session.store, "a/zarr.json") == attributes(by="session")
    assert get(session.store, "a/c/1/0") == b"more"


def test_a_fork_merged_again_does_not_hide_what_the_session_made_of_it(session):
    fork = session.fork()
    put(fork.store, "b/zarr.json", array_json())
    session.merge(fork)
    put(fork.store, "b/zarr.json", attributes(fork=1))
    silently(session.merge, fork)
    put(session.store, "b/zarr.json", attributes(session=1))
    put(fork.store, "b/zarr.json", attributes(fork=2))
    told("the metadata of /b", session.merge, fork)


# --- places of nodes ----------------------------------------------------------------------------------------------------


@pytest.fixture
def grouped(repo):
    session = repo.writable_session("main")
    for path in ("", "g/", "g/h/"):
        put(session.store, f"{path}zarr.json", group_json())
    session.commit("groups")
    return repo.writable_session("main")


@pytest.mark.parametrize("deletes_first", [False, True])
@pytest.mark.parametrize("gone", ["g", "g/h"])
def test_a_node_made_in_a_group_that_was_deleted(repo, grouped, deletes_first, gone):
    maker, deleter = grouped.fork(), grouped.fork()
    put(maker.store, "g/h/x/zarr.json", array_json())
    run(deleter.store.delete_dir(gone))
    refused(grouped, *((deleter, maker) if deletes_first else (maker, deleter)))


def test_a_node_made_in_a_group_that_was_made_again(repo, grouped):
    maker, again = grouped.fork(), grouped.fork()
    put(maker.store, "g/x/zarr.json", array_json())
    run(again.store.delete_dir("g"))
    put(again.store, "g/zarr.json", group_json(again=True))
    silently(grouped.merge, maker, again)
    assert keys(committed(repo, grouped)) == ["g/x/zarr.json", "g/zarr.json", "zarr.json"]


@pytest.mark.parametrize("array_first", [False, True])
def test_a_node_made_below_an_array(repo, grouped, array_first):
    array, below = grouped.fork(), grouped.fork()
    put(array.store, "n/zarr.json", array_json())
    put(below.store, "n/x/zarr.json", array_json())
    refused(grouped, *((array, below) if array_first else (below, array)))


def test_a_fork_may_use_groups_that_it_makes(repo, grouped):
    fork = grouped.fork()
    run(fork.store.delete_dir("g"))
    put(fork.store, "g/zarr.json", group_json())
    put(fork.store, "new/zarr.json", group_json())
    put(fork.store, "new/x/zarr.json", array_json())
    put(fork.store, "nowhere/y/zarr.json", array_json())
    silently(grouped.merge, fork)
    assert keys(committed(repo, grouped)) == [
        *("g/zarr.json", "new/x/zarr.json", "new/zarr.json", "nowhere/y/zarr.json", "zarr.json")
    ]


# --- sessions that were rebased -----------------------------------------------------------------------------------------


class Rebased:
    """A session with a fork, rebased over what somebody else committed."""

    def __init__(self, repo, session, *, uncommitted):
        self.repo, self.session, self.other = repo, session, repo.writable_session("main")
        if uncommitted:
            put(session.store, "a/c/3/3", b"seen")
        self.fork = session.fork()

    def rebase(self):
        self.other.commit("meanwhile")
        self.session.rebase(icechunk.BasicConflictSolver())


@pytest.fixture(params=[False, True], ids=["clean", "changed"])
def rebased(request, repo, session):
    return Rebased(repo, session, uncommitted=request.param)


def test_a_fork_that_wrote_other_chunks_than_the_others(rebased):
    put(rebased.fork.store, "a/c/1/1", b"fork")
    put(rebased.fork.store, "a/c/3/3", b"fork")
    put(rebased.other.store, "a/c/0/0", b"other")
    rebased.rebase()
    silently(rebased.session.merge, rebased.fork)
    store = committed(rebased.repo, rebased.session)
    found = [get(store, f"a/c/{place}") for place in ("0/0", "1/1", "3/3")]
    assert found == [b"other", b"fork", b"fork"]


@pytest.mark.parametrize("data", [b"fork", None])
def test_a_fork_that_changed_chunks_that_others_committed(rebased, data):
    if data is None:
        run(rebased.fork.store.delete("a/c/0/0"))
    else:
        put(rebased.fork.store, "a/c/0/0", data)
    put(rebased.other.store, "a/c/0/0", b"other")
    rebased.rebase()
    refused(rebased.session, rebased.fork, match="others committed")


def test_a_fork_and_others_that_wrote_the_same(rebased):
    put(rebased.fork.store, "a/c/0/0", b"same")
    put(rebased.other.store, "a/c/0/0", b"same")
    rebased.rebase()
    silently(rebased.session.merge, rebased.fork)


@pytest.mark.parametrize("fork_writes", ["chunk", "metadata", "delete"])
@pytest.mark.parametrize("others", ["attributes", "type", "delete", "replace", "move", "shape"])
def test_a_fork_of_an_array_that_others_changed(repo, session, fork_writes, others):
    rebased = Rebased(repo, session, uncommitted=False)
    if fork_writes == "chunk":
        put(rebased.fork.store, "a/c/0/1", b"fork")
        put(rebased.fork.store, "a/c/3/3", b"fork")
    elif fork_writes == "metadata":
        put(rebased.fork.store, "a/zarr.json", attributes(fork=True))
    else:
        run(rebased.fork.store.delete_dir("a"))
    other = rebased.other
    if others in ("delete", "replace"):
        run(other.store.delete_dir("a"))
    if others == "move":
        other = rebased.other = rebased.repo.rearrange_session("main")
        other.move("/a", "/b")
    elif others != "delete":
        documents = {"attributes": attributes(other=1), "type": OTHER_TYPE, "shape": array_json((2, 4))}
        put(other.store, "a/zarr.json", documents.get(others, array_json()))
    other.commit("meanwhile")
    session = rebased.repo.writable_session("main")
    if fork_writes == "chunk" and others == "attributes":
        silently(session.merge, rebased.fork)
    elif fork_writes == "chunk" and others == "shape":
        told("1 chunks of /a that its new shape cuts off", session.merge, rebased.fork)
    elif fork_writes == "delete" and others in ("delete", "replace", "move"):
        silently(session.merge, rebased.fork)  # what it deleted is gone
        assert not session.has_uncommitted_changes
    else:
        refused(session, rebased.fork)


def test_a_fork_that_deletes_what_others_wrote(rebased):
    run(rebased.fork.store.delete_dir("a"))
    put(rebased.other.store, "a/c/2/2", b"other")
    rebased.rebase()
    refused(rebased.session, rebased.fork)


def test_a_node_made_in_a_group_that_others_deleted(repo, grouped):
    fork = grouped.fork()
    put(fork.store, "g/x/zarr.json", array_json())
    other = repo.writable_session("main")
    run(other.store.delete_dir("g"))
    other.commit("gone")
    grouped.rebase(icechunk.ConflictDetector())
    refused(grouped, fork)


# --- shards -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sharded(repo):
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="s", shape=(8,), chunks=(2,), shards=(4,), dtype="i4", fill_value=0)[:] = 1
    session.commit("sharded")
    return repo


def write(session, start, value):
    zarr.open_array(session.store, path="s")[start : start + 2] = value


def test_forks_that_write_into_one_shard_are_told(sharded):
    session = sharded.writable_session("main")
    first, second = session.fork(), session.fork()
    write(first, 0, 2)
    write(second, 2, 3)
    told("1 chunks of /s$", session.merge, first, second)


def test_forks_that_write_into_different_shards(sharded):
    session = sharded.writable_session("main")
    first, second = session.fork(), session.fork()
    write(first, 0, 2)
    write(second, 4, 3)
    silently(session.merge, first, second)
    found = zarr.open_array(committed(sharded, session), path="s", mode="r")[:].tolist()
    assert found == [2, 2, 1, 1, 3, 3, 1, 1]


def test_sessions_that_write_into_one_shard_conflict(sharded):
    first, second = sharded.writable_session("main"), sharded.writable_session("main")
    write(first, 0, 2)
    write(second, 2, 3)
    first.commit("first")
    with pytest.raises(icechunk.RebaseFailedError) as caught:
        second.commit("second", rebase_with=icechunk.ConflictDetector())
    (conflict,) = caught.value.conflicts
    assert (conflict.path, conflict.conflicted_chunks) == ("/s", [[0]])
