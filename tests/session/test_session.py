"""Sessions: committing, conflicts, rebasing, amending, flushing, forking and merging."""

import asyncio
import gc
import pickle
import threading
import warnings
from datetime import UTC, datetime

import pytest

import icechunk
from icechunk.testing.faults import Fault, FaultyStorage

from .helpers import array_json, big, get, group_json, keys, put, with_array


def history(repo, branch="main"):
    return [info.message for info in repo.ancestry(branch=branch)]


def write(repo, *, chunks=(), nodes=(), branch="main"):
    session = repo.writable_session(branch)
    for path, document in nodes:
        put(session.store, f"{path}/zarr.json", document)
    for key, data in chunks:
        put(session.store, key, data)
    return session


# --- committing -------------------------------------------------------------------------------------------------------


def test_uncommitted_changes_are_invisible_and_commits_are_not(repo):
    with_array(repo)
    session = write(repo, chunks=[("a/c/0/0", b"inline"), ("a/c/0/1", big(3))])
    assert get(repo.readonly_session("main").store, "a/c/0/0") is None
    before = session.snapshot_id
    snapshot = session.commit("two chunks")
    assert session.snapshot_id == snapshot != before
    assert session.read_only and session.branch is None and not session.has_uncommitted_changes
    assert get(session.store, "a/c/0/0") == b"inline"
    reader = repo.readonly_session("main")
    assert get(reader.store, "a/c/0/0") == b"inline"
    assert get(reader.store, "a/c/0/1") == big(3)
    assert history(repo) == ["two chunks", "array", "Repository initialized"]


def test_an_array_that_others_gave_another_rank_is_written_as_it_is_now(repo):
    with_array(repo)
    session = repo.writable_session("main")
    session.shift_array("/a", (1, 1))  # nothing to shift, so nothing to contradict
    other = repo.writable_session("main")
    put(other.store, "a/zarr.json", array_json((3,), (1,)))
    other.commit("flat")
    session.rebase(icechunk.ConflictDetector())
    put(session.store, "a/c/2", b"x")
    session.commit("written")
    assert keys(repo.readonly_session("main").store) == ["a/c/2", "a/zarr.json", "zarr.json"]


def test_sessions_never_see_later_commits(repo):
    with_array(repo)
    reader = repo.readonly_session("main")
    write(repo, chunks=[("a/c/0/0", b"x")]).commit("x")
    assert get(reader.store, "a/c/0/0") is None


def test_a_commit_needs_changes_unless_told_otherwise(repo):
    session = repo.writable_session("main")
    with pytest.raises(icechunk.NoChangesToCommitError) as caught:
        session.commit("nothing")
    assert caught.value.kind == "no-changes-to-commit" and isinstance(caught.value, icechunk.SessionStateError)
    session.commit("nothing, on purpose", allow_empty=True)
    assert history(repo) == ["nothing, on purpose", "Repository initialized"]


def test_a_session_commits_once(repo):
    session = write(repo, nodes=[("g", group_json())])
    session.commit("g")
    with pytest.raises(icechunk.SessionStateError) as caught:
        session.commit("again")
    assert caught.value.kind == "commit-not-allowed"
    with pytest.raises(icechunk.SessionStateError):
        repo.readonly_session("main").commit("never")


def test_metadata_of_commits(repo):
    repo.set_default_commit_metadata({"author": "me", "n": 1})
    session = write(repo, nodes=[("g", group_json())])
    session.commit("g", metadata={"n": 2, "list": (1, "a", None), "deep": {"x": 1.5}, "nan": float("nan")})
    info = next(iter(repo.ancestry(branch="main")))
    assert info.metadata == {"author": "me", "n": 2, "list": [1, "a", None], "deep": {"x": 1.5}, "nan": None}
    assert info.written_at.tzinfo is not None


def test_metadata_that_json_cannot_hold_is_refused_before_anything_is_written(repo):
    session = write(repo, nodes=[("g", group_json())])
    with pytest.raises(TypeError):
        session.commit("g", metadata={1: "x"})
    with pytest.raises(TypeError):
        session.commit("g", metadata={"x": object()})
    assert session.has_uncommitted_changes
    session.commit("g")


def test_discarding(repo):
    session = write(repo, nodes=[("g", group_json())])
    session.discard_changes()
    assert not session.has_uncommitted_changes and not session.read_only
    assert keys(session.store) == []
    with pytest.raises(icechunk.ReadOnlyError):
        repo.readonly_session("main").discard_changes()


def test_status(repo):
    with_array(repo)
    session = write(repo, nodes=[("g", group_json()), ("a", array_json(shape=(8, 4)))], chunks=[("a/c/7/0", b"x")])
    status = session.status()
    assert status.new_groups == {"/g"} and status.updated_arrays == {"/a"}
    assert status.updated_chunks == {"/a": [[7, 0]]}
    assert repo.readonly_session("main").status().is_empty()
    session.discard_changes()


def test_transaction_helper(repo):
    with repo.transaction("main", message="g") as store:
        put(store, "g/zarr.json", group_json())
    with pytest.raises(RuntimeError, match="stop"), repo.transaction("main", message="h") as store:
        put(store, "h/zarr.json", group_json())
        raise RuntimeError("stop")
    with pytest.raises(icechunk.NoChangesToCommitError), repo.transaction("main", message="empty"):
        pass
    assert history(repo) == ["g", "Repository initialized"]


def test_dropping_uncommitted_work_warns(repo):
    session = write(repo, nodes=[("g", group_json())])
    with pytest.warns(icechunk.UncommittedChangesWarning, match="commit"):
        del session
        gc.collect()
    session = write(repo, nodes=[("g", group_json())])
    session.commit("g")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del session
        gc.collect()


# --- opening ----------------------------------------------------------------------------------------------------------


def test_ways_to_name_a_snapshot(repo):
    first = with_array(repo)
    repo.create_tag("t", first)
    write(repo, chunks=[("a/c/0/0", b"x")]).commit("x")
    for session in [repo.readonly_session(tag="t"), repo.readonly_session(snapshot_id=first)]:
        assert session.snapshot_id == first and session.read_only and session.branch is None
    for arguments in [{}, {"branch": "main", "tag": "t"}, {"tag": "t", "snapshot_id": first}]:
        with pytest.raises(ValueError, match="Must provide one of branch, tag, or snapshot_id"):
            repo.readonly_session(**arguments)
    with pytest.raises(ValueError, match="as_of"):
        repo.readonly_session(tag="t", as_of=datetime.now(UTC))
    with pytest.raises(icechunk.RefNotFoundError):
        repo.readonly_session("nope")
    with pytest.raises(icechunk.RefNotFoundError):
        repo.writable_session("nope")
    with pytest.raises(icechunk.InvalidInputError) as caught:
        repo.readonly_session(snapshot_id="zz")
    assert caught.value.kind == "invalid-snapshot-id"
    with pytest.raises(icechunk.SnapshotNotFoundError):
        repo.readonly_session(snapshot_id="ZZZZZZZZZZZZZZZZZZZG")


def test_as_of(repo):
    first = with_array(repo)
    written = repo.lookup_snapshot(first).written_at
    write(repo, chunks=[("a/c/0/0", b"x")]).commit("x")
    assert repo.readonly_session("main", as_of=written).snapshot_id == first
    with pytest.raises(icechunk.SnapshotNotFoundError) as caught:
        repo.readonly_session("main", as_of=datetime(2000, 1, 1, tzinfo=UTC))
    assert caught.value.kind == "no-snapshot-at-time"


# --- conflicts --------------------------------------------------------------------------------------------------------


def test_who_comes_second_gets_a_conflict_and_keeps_the_changes(repo):
    base = with_array(repo)
    ours = write(repo, chunks=[("a/c/0/0", b"ours")])
    theirs = write(repo, chunks=[("a/c/1/1", b"theirs")]).commit("theirs")
    with pytest.raises(icechunk.ConflictError) as caught:
        ours.commit("ours")
    assert (caught.value.expected_parent, caught.value.actual_parent) == (base, theirs)
    assert not ours.read_only and ours.snapshot_id == base and ours.has_uncommitted_changes
    ours.rebase(icechunk.ConflictDetector())
    assert ours.snapshot_id == theirs
    assert get(ours.store, "a/c/1/1") == b"theirs" and get(ours.store, "a/c/0/0") == b"ours"
    ours.commit("ours")
    assert history(repo)[:2] == ["ours", "theirs"]
    store = repo.readonly_session("main").store
    assert get(store, "a/c/1/1") == b"theirs" and get(store, "a/c/0/0") == b"ours"


def test_rebasing_while_committing(repo):
    with_array(repo)
    ours = write(repo, chunks=[("a/c/0/0", big(1))])
    write(repo, chunks=[("a/c/1/1", big(2))]).commit("theirs")
    with pytest.raises(icechunk.ConflictError):
        ours.commit("ours", rebase_with=icechunk.ConflictDetector(), rebase_tries=0)
    ours.commit("ours", rebase_with=icechunk.ConflictDetector())
    store = repo.readonly_session("main").store
    assert get(store, "a/c/0/0") == big(1) and get(store, "a/c/1/1") == big(2)
    if repo.spec_version == 2:
        assert next(iter(repo.ancestry(branch="main"))).metadata == {"__icechunk": {"rebase_attempts": 1}}


@pytest.mark.parametrize(
    ("solver", "expected"),
    [
        (icechunk.ConflictDetector(), None),
        (icechunk.BasicConflictSolver(on_chunk_conflict=icechunk.VersionSelection.Fail), None),
        (icechunk.BasicConflictSolver(), b"ours"),
        (icechunk.BasicConflictSolver(on_chunk_conflict=icechunk.VersionSelection.UseTheirs), b"theirs"),
    ],
)
def test_both_wrote_one_chunk(repo, solver, expected):
    base = with_array(repo)
    ours = write(repo, chunks=[("a/c/0/0", b"ours"), ("a/c/2/2", b"mine")])
    theirs = write(repo, chunks=[("a/c/0/0", b"theirs")]).commit("theirs")
    if expected is None:
        with pytest.raises(icechunk.RebaseFailedError) as caught:
            ours.commit("ours", rebase_with=solver)
        assert isinstance(caught.value, icechunk.ConflictError)
        assert caught.value.snapshot == theirs
        (conflict,) = pickle.loads(pickle.dumps(caught.value)).conflicts
        assert conflict.conflict_type == icechunk.ConflictType.ChunkDoubleUpdate
        assert conflict.path == "/a" and conflict.conflicted_chunks == [[0, 0]]
        assert ours.snapshot_id == base and get(ours.store, "a/c/0/0") == b"ours"
        ours.discard_changes()
        return
    ours.commit("ours", rebase_with=solver)
    store = repo.readonly_session("main").store
    assert get(store, "a/c/0/0") == expected and get(store, "a/c/2/2") == b"mine"


def test_a_rebase_stops_at_the_last_good_snapshot(repo):
    with_array(repo)
    ours = write(repo, chunks=[("a/c/0/0", b"ours")])
    good = write(repo, chunks=[("a/c/1/1", b"good")]).commit("good")
    bad = write(repo, chunks=[("a/c/0/0", b"bad")]).commit("bad")
    with pytest.raises(icechunk.RebaseFailedError) as caught:
        ours.rebase(icechunk.ConflictDetector())
    assert caught.value.snapshot == bad
    assert ours.snapshot_id == good and get(ours.store, "a/c/1/1") == b"good"
    ours.rebase(icechunk.BasicConflictSolver())
    ours.commit("ours")
    assert get(repo.readonly_session("main").store, "a/c/0/0") == b"ours"


def test_metadata_updates_do_not_bring_back_old_chunks(repo):
    with_array(repo)
    ours = write(repo, nodes=[("a", array_json(attributes={"x": 1}))])
    write(repo, chunks=[("a/c/0/0", b"theirs")]).commit("theirs")
    ours.rebase(icechunk.ConflictDetector())
    assert get(ours.store, "a/c/0/0") == b"theirs"
    ours.commit("ours")
    store = repo.readonly_session("main").store
    assert get(store, "a/c/0/0") == b"theirs" and b'"x": 1' in get(store, "a/zarr.json")


def test_what_was_made_by_commits_that_expired_is_in_the_way(repo):
    session = write(repo, nodes=[("a", array_json()), ("b/c", group_json())])
    free = write(repo, nodes=[("c", array_json())])
    write(repo, nodes=[("a", array_json()), ("b", array_json())]).commit("nodes")
    for number in range(2):
        write(repo, chunks=[(f"a/c/0/{number}", b"theirs")]).commit(f"{number}")
    repo.expire_snapshots(datetime.now(UTC))
    with pytest.raises(icechunk.RebaseFailedError) as caught:
        session.commit("ours", rebase_with=icechunk.ConflictDetector())
    assert [conflict.path for conflict in caught.value.conflicts] == ["/a", "/b"]
    session.discard_changes()
    free.commit("free", rebase_with=icechunk.ConflictDetector())
    store = repo.readonly_session("main").store
    assert get(store, "a/c/0/1") == b"theirs" and get(store, "c/zarr.json") is not None


def test_rebase_needs_a_solver_and_a_branch(repo):
    with_array(repo)
    with pytest.raises(TypeError):
        repo.writable_session("main").rebase("theirs")
    with pytest.raises(icechunk.SessionStateError):
        repo.readonly_session("main").rebase(icechunk.ConflictDetector())


def test_a_branch_that_was_reset_cannot_be_rebased_onto(repo):
    with_array(repo)
    ours = write(repo, chunks=[("a/c/0/0", b"x")])
    root = list(repo.ancestry(branch="main"))[-1].id
    repo.reset_branch("main", root)
    with pytest.raises(icechunk.ConflictError):
        ours.commit("x")
    with pytest.raises(icechunk.SessionStateError, match="reset"):
        ours.rebase(icechunk.ConflictDetector())
    ours.discard_changes()


def test_a_branch_that_is_gone(repo):
    repo.create_branch("dev", with_array(repo))
    ours = write(repo, chunks=[("a/c/0/0", b"x")], branch="dev")
    repo.delete_branch("dev")
    with pytest.raises((icechunk.RefNotFoundError, icechunk.ConflictError)):
        ours.commit("x")
    assert ours.has_uncommitted_changes
    ours.discard_changes()


# --- amend and flush --------------------------------------------------------------------------------------------------


def test_amend_replaces_the_tip(repo):
    first = with_array(repo)
    tip = write(repo, chunks=[("a/c/0/0", b"x")]).commit("tip", metadata={"a": 1})
    amended = write(repo, chunks=[("a/c/1/1", b"y")]).amend("amended", metadata={"b": 2})
    infos = list(repo.ancestry(branch="main"))
    assert [info.message for info in infos] == ["amended", "array", "Repository initialized"]
    assert infos[0].id == amended != tip and infos[0].parent_id == first and infos[0].metadata == {"b": 2}
    store = repo.readonly_session("main").store
    assert get(store, "a/c/0/0") == b"x" and get(store, "a/c/1/1") == b"y"
    assert repo.diff(from_snapshot_id=first, to_branch="main").updated_chunks == {"/a": [[0, 0], [1, 1]]}


def test_amending_what_others_have_cut_from_its_history(repo, storage):
    with_array(repo)
    for number in range(3):
        write(repo, chunks=[(f"a/c/0/{number}", b"x")]).commit(f"{number}")
    assert len(history(repo)) == 5
    session = write(repo, chunks=[("a/c/1/1", b"y")])
    other = icechunk.Repository.open(storage)
    other.expire_snapshots(datetime.now(UTC))
    other.garbage_collect(datetime.now(UTC))
    session.amend("amended")
    fresh = icechunk.Repository.open(storage)
    assert history(fresh) == ["amended", "Repository initialized"]
    assert get(fresh.readonly_session("main").store, "a/c/0/1") == b"x"


def test_the_initial_snapshot_cannot_be_amended(repo):
    session = write(repo, nodes=[("g", group_json())])
    with pytest.raises(icechunk.SessionStateError) as caught:
        session.amend("no")
    assert caught.value.kind == "no-amend-for-initial-commit"
    session.discard_changes()


def test_flush_moves_no_branch(repo):
    tip = with_array(repo)
    session = write(repo, chunks=[("a/c/0/0", b"x")])
    flushed = session.flush("aside")
    assert session.read_only and session.snapshot_id == flushed
    assert repo.lookup_branch("main") == tip
    assert get(repo.readonly_session(snapshot_id=flushed).store, "a/c/0/0") == b"x"
    repo.create_branch("aside", flushed)
    assert history(repo, "aside") == ["aside", "array", "Repository initialized"]


# --- moving -----------------------------------------------------------------------------------------------------------


def test_nothing_is_moved_onto_nodes_whose_group_is_missing(repo):
    paths = ["zarr.json", *(f"{path}/zarr.json" for path in ("a", "a/x", "g", "g/a", "g/a/i/x", "b/x"))]
    write(repo, chunks=[(path, group_json()) for path in paths]).commit("groups")
    session = repo.rearrange_session("main")
    session.move("/g", "/h")
    for source, target in [("/a", "/b"), ("/a/x", "/h/a/i")]:
        with pytest.raises(icechunk.AlreadyExistsError) as caught:
            session.move(source, target)
        assert caught.value.kind == "move-wont-overwrite"
    session.move("/a", "/g")
    session.commit("moved")
    moved = [*(f"{path}/zarr.json" for path in ("b/x", "g", "g/x", "h", "h/a", "h/a/i/x")), "zarr.json"]
    assert keys(repo.readonly_session("main").store) == sorted(moved)


# --- forks ------------------------------------------------------------------------------------------------------------


def test_forks_travel_and_are_merged(repo):
    with_array(repo)
    session = repo.writable_session("main")
    forks = [pickle.loads(pickle.dumps(session.fork())) for _ in range(3)]
    for index, fork in enumerate(forks):
        assert fork.branch is None
        put(fork.store, f"a/c/{index}/0", bytes([index + 1]) * 600)
    returned = [pickle.loads(pickle.dumps(fork)) for fork in forks]
    session.merge(*returned)
    session.commit("merged")
    store = repo.readonly_session("main").store
    assert [get(store, f"a/c/{index}/0") for index in range(3)] == [bytes([index + 1]) * 600 for index in range(3)]


def test_forks_see_what_is_uncommitted(repo):
    session = write(repo, nodes=[("a", array_json())], chunks=[("a/c/0/0", b"before")])
    fork = session.fork()
    assert get(fork.store, "a/c/0/0") == b"before"
    put(fork.store, "a/c/0/0", b"after")
    put(fork.store, "a/c/0/1", b"more")
    put(fork.store, "a/zarr.json", array_json(attributes={"x": 1}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session.merge(fork)
    session.commit("all")
    store = repo.readonly_session("main").store
    assert get(store, "a/c/0/0") == b"after" and get(store, "a/c/0/1") == b"more"
    assert b'"x": 1' in get(store, "a/zarr.json")
    assert history(repo) == ["all", "Repository initialized"]


def test_nested_forks(repo):
    with_array(repo)
    session = repo.writable_session("main")
    outer = session.fork()
    put(outer.store, "a/c/0/0", b"outer")
    inner = outer.fork()
    assert get(inner.store, "a/c/0/0") == b"outer"
    put(inner.store, "a/c/0/1", b"inner")
    outer.merge(inner)
    session.merge(outer)
    session.commit("nested")
    store = repo.readonly_session("main").store
    assert get(store, "a/c/0/0") == b"outer" and get(store, "a/c/0/1") == b"inner"


def test_overlapping_forks_warn_and_the_last_wins(repo):
    with_array(repo)
    session = repo.writable_session("main")
    first, second = session.fork(), session.fork()
    put(first.store, "a/c/0/0", b"first")
    put(second.store, "a/c/0/0", b"second")
    with pytest.warns(icechunk.MergeOverlapWarning, match="1 chunks of /a"):
        session.merge(first, second)
    assert get(session.store, "a/c/0/0") == b"second"
    session.discard_changes()


def test_merges_that_contradict(repo):
    with_array(repo)
    session = repo.writable_session("main")
    first, second, third = session.fork(), session.fork(), session.fork()
    put(first.store, "a/c/0/0", b"x")
    from icechunk._driver import run

    run(second.store.delete("a/zarr.json"))
    put(third.store, "n/zarr.json", group_json(x=1))
    put(first.store, "n/zarr.json", group_json(x=2))
    session.merge(first)
    for fork in (second, third):
        with pytest.raises(icechunk.SessionStateError) as caught:
            session.merge(fork)
        assert caught.value.kind == "merge-failed"
        fork.discard_changes()
    session.discard_changes()


def test_forks_that_made_the_same_node_share_it(repo):
    session = repo.writable_session("main")
    first, second = session.fork(), session.fork()
    for index, fork in enumerate((first, second)):
        put(fork.store, "a/zarr.json", array_json())
        put(fork.store, f"a/c/{index}/0", bytes([index + 1]))
    session.merge(first, second)
    session.commit("once")
    store = repo.readonly_session("main").store
    assert keys(store) == ["a/c/0/0", "a/c/1/0", "a/zarr.json"]


def test_what_forks_cannot_do(repo):
    with_array(repo)
    session = repo.writable_session("main")
    fork = session.fork()
    for forbidden in [lambda: fork.commit("x"), lambda: fork.flush("x"), lambda: fork.amend("x")]:
        with pytest.raises(icechunk.SessionStateError):
            forbidden()
    with pytest.raises(icechunk.SessionStateError) as caught:
        fork.merge(session)
    assert caught.value.kind == "merge-not-allowed"
    with pytest.raises(icechunk.SessionStateError) as caught:
        repo.readonly_session("main").fork()
    assert caught.value.kind == "cannot-fork-read-only-session"
    with pytest.raises(TypeError):
        session.merge("nothing")


def test_writable_sessions_do_not_travel_and_readers_do(repo):
    snapshot = with_array(repo)
    with pytest.raises(ValueError, match="opt-in"):
        pickle.dumps(repo.writable_session("main"))
    reader = pickle.loads(pickle.dumps(repo.readonly_session("main")))
    assert reader.snapshot_id == snapshot and reader.read_only
    assert get(reader.store, "a/zarr.json") == array_json()
    copy = pickle.loads(pickle.dumps(repo))
    assert copy.lookup_branch("main") == snapshot


# --- looking inside ---------------------------------------------------------------------------------------------------


def test_chunk_types_and_coordinates(repo):
    with_array(repo)
    session = write(repo, chunks=[("a/c/0/1", b"x"), ("a/c/1/0", big(1))])
    session.store.set_virtual_ref("a/c/2/2", "s3://b/k", offset=0, length=5, validate_container=False)
    kinds = icechunk.ChunkType
    for committed in (False, True):
        if committed:
            session.commit("chunks")
        assert session.chunk_type("/a", (0, 1)) == kinds.inline == kinds.INLINE
        assert session.chunk_type("/a", [1, 0]) == kinds.native
        assert session.chunk_type("/a", (2, 2)) == kinds.virtual
        assert session.chunk_type("/a", (3, 3)) == kinds.uninitialized
        assert session.all_virtual_chunk_locations() == ["s3://b/k"]

        async def collect():
            return [coords async for coords in session.chunk_coordinates("/a")]

        assert sorted(asyncio.run(collect())) == [(0, 1), (1, 0), (2, 2)]
    with pytest.raises(icechunk.NodeNotFoundError):
        session.chunk_type("/nope", (0,))
    with pytest.raises(icechunk.InvalidInputError):
        session.chunk_type("a", (0, 0))
    assert len(session.get_node_id("/a")) == 13


# --- everything at once -----------------------------------------------------------------------------------------------


def test_sessions_are_used_from_many_threads(repo):
    session = write(repo, nodes=[("a", array_json(shape=(64, 64)))])

    def fill(row):
        for column in range(64):
            put(session.store, f"a/c/{row}/{column}", bytes([row, column]) * (1 if column % 2 else 400))

    threads = [threading.Thread(target=fill, args=(row,)) for row in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    session.commit("filled")
    store = repo.readonly_session("main").store
    assert len(keys(store)) == 64 * 64 + 1
    assert get(store, "a/c/63/62") == bytes([63, 62]) * 400


def test_the_async_face(storage, spec):
    async def work():
        repo = await icechunk.Repository.create_async(storage, spec_version=spec)
        session = await repo.writable_session_async("main")
        from .helpers import buffer

        await session.store.set("a/zarr.json", buffer(array_json()))
        await session.store.set("a/c/0/0", buffer(b"x"))
        await session.commit_async("x")
        messages = [info.message async for info in repo.async_ancestry(branch="main")]
        reader = await repo.readonly_session_async("main")
        return messages, get(reader.store, "a/c/0/0")

    assert asyncio.run(work()) == (["x", "Repository initialized"], b"x")


@pytest.mark.parametrize("nth", range(6))
def test_a_failed_commit_can_be_tried_again(spec, nth):
    inner = icechunk.in_memory_storage()
    icechunk.Repository.create(inner, spec_version=spec)
    storage = FaultyStorage(inner, Fault(nth, "before"))
    try:
        session = write(icechunk.Repository.open(storage), nodes=[("a", array_json())], chunks=[("a/c/0/0", b"x")])
    except icechunk.StorageError:
        return
    try:
        session.commit("x")
    except icechunk.StorageError:
        assert session.has_uncommitted_changes and not session.read_only
        session.commit("x")
    repo = icechunk.Repository.open(inner)
    assert get(repo.readonly_session("main").store, "a/c/0/0") == b"x"
    assert history(repo) == ["x", "Repository initialized"]


def test_a_config_saved_by_somebody_else_meanwhile_is_not_overwritten(storage):
    """In the older format, which can tell."""
    icechunk.Repository.create(storage, spec_version=1)
    ours = icechunk.Repository.open(storage).reopen(icechunk.RepositoryConfig(inline_chunk_threshold_bytes=5))
    theirs = icechunk.Repository.open(storage).reopen(icechunk.RepositoryConfig(inline_chunk_threshold_bytes=6))
    theirs.save_config()
    with pytest.raises(icechunk.ConflictError) as caught:
        ours.save_config()
    assert caught.value.kind == "config-updated"
    assert icechunk.Repository.fetch_config(storage).inline_chunk_threshold_bytes == 6
