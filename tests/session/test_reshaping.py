"""What an array lost when it was made smaller does not come back, whatever way it becomes larger again."""

import numpy as np
import pytest
import zarr

import icechunk
from icechunk._driver import run

from .helpers import array_json, big, get, keys, put

pytestmark = pytest.mark.filterwarnings("ignore:a session with uncommitted changes")


def chunk_keys(store):
    return [key for key in keys(store) if not key.endswith("json")]


def reshape(session, *shapes):
    for shape in shapes:
        put(session.store, "a/zarr.json", array_json(shape, (1,) * len(shape)))


KEYS = ["a/c/0/0", "a/c/1/3", "a/c/3/0", "a/c/3/3"]


@pytest.fixture(params=["inline", "native", "split"])
def full(request, repo):
    """A repository with an array in which some chunks are written."""
    if request.param == "split":
        splitting = icechunk.ManifestSplittingConfig.from_dict(
            {icechunk.ManifestSplitCondition.AnyArray(): {icechunk.ManifestSplitDimCondition.Any(): 3}}
        )
        manifest = icechunk.ManifestConfig(splitting=splitting)
        repo = repo.reopen(config=icechunk.RepositoryConfig(manifest=manifest))
    session = repo.writable_session("main")
    reshape(session, (4, 4))
    for number, key in enumerate(KEYS):
        put(session.store, key, big(number, 1000 if request.param == "native" else 10))
    session.commit("full")
    return repo


WAYS = {
    "smaller": ([(2, 4), (4, 4)], KEYS[:2]),
    "smaller and larger still": ([(2, 4), (9, 9)], KEYS[:2]),
    "twice": ([(2, 4), (4, 4), (4, 2), (4, 4)], KEYS[:1]),
    "empty": ([(0, 4), (4, 4)], []),
    "other rank": ([(4,), (4, 4)], []),
    "no rank": ([(), (4, 4)], []),
    "larger": ([(9, 9), (4, 4)], KEYS),
}


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


def check(repo, session, left):
    assert chunk_keys(session.store) == left
    assert [key for key in KEYS if get(session.store, key) is not None] == left
    session.commit("there and back")
    store = repo.readonly_session("main").store
    assert chunk_keys(store) == left
    assert [key for key in KEYS if get(store, key) is not None] == left
    assert all(get(store, key)[:1] == big(KEYS.index(key))[:1] for key in left)


def test_of_the_snapshot(full, way):
    shapes, left = way
    session = full.writable_session("main")
    reshape(session, *shapes)
    check(full, session, left)


def test_written_in_the_session(full, way):
    shapes, left = way
    session = full.writable_session("main")
    for number, key in enumerate(KEYS):
        put(session.store, key, big(number))
    reshape(session, *shapes)
    check(full, session, left)


@pytest.mark.parametrize("count", [3, 100], ids=["few", "many"])
def test_virtual_references_written_at_once(full, count):
    session = full.writable_session("main")
    reshape(session, (count, 4))
    specs = [icechunk.VirtualChunkSpec([row, 0], "s3://bucket/file", row, 10) for row in range(count)]
    session.store.set_virtual_refs("a", specs, validate_containers=False)
    reshape(session, (2, 4), (count, 4))
    assert chunk_keys(session.store) == ["a/c/0/0", "a/c/1/0", "a/c/1/3"]
    session.commit("there and back")
    assert chunk_keys(full.readonly_session("main").store) == ["a/c/0/0", "a/c/1/0", "a/c/1/3"]


def test_in_a_fork(full, way):
    shapes, left = way
    session = full.writable_session("main")
    put(session.store, KEYS[1], big(1))  # so that the fork is based on a snapshot of its own
    fork = session.fork()
    reshape(fork, *shapes)
    assert chunk_keys(fork.store) == left
    session.merge(fork)
    check(full, session, left)


def test_under_a_fork(full, way):
    """The fork sees what the session cut off before."""
    shapes, left = way
    session = full.writable_session("main")
    reshape(session, *shapes)
    fork = session.fork()
    assert chunk_keys(fork.store) == left
    put(fork.store, "a/c/2/2", b"fork")
    session.merge(fork)
    assert get(session.store, "a/c/2/2") == b"fork"
    run(session.store.delete("a/c/2/2"))
    check(full, session, left)


def test_over_a_rebase(full, way):
    shapes, left = way
    session, other = full.writable_session("main"), full.writable_session("main")
    reshape(session, *shapes)
    put(other.store, "a/c/3/1", b"other")
    put(other.store, "b/zarr.json", array_json())
    other.commit("meanwhile")
    session.rebase(icechunk.ConflictDetector())
    expected = sorted([*left, "a/c/3/1"]) if left == KEYS else left
    assert chunk_keys(session.store) == expected
    session.commit("there and back")
    assert chunk_keys(full.readonly_session("main").store) == expected


def test_a_document_that_a_rebase_drops_cut_off_nothing(full):
    class Theirs(icechunk.ConflictSolver):
        def resolve(self, conflict):
            return icechunk.VersionSelection.UseTheirs

    session, other = full.writable_session("main"), full.writable_session("main")
    reshape(session, (2, 4), (4, 4))
    put(other.store, "a/zarr.json", array_json(attributes={"other": True}))
    other.commit("meanwhile")
    session.rebase(Theirs())
    assert chunk_keys(session.store) == KEYS


def test_with_zarr(repo):
    session = repo.writable_session("main")
    array = zarr.create_array(session.store, name="z", shape=8, chunks=2, dtype="i4", fill_value=-1)
    array[:] = np.arange(8)
    session.commit("full")
    session = repo.writable_session("main")
    array = zarr.open_array(session.store, path="z")
    array.resize((3,))
    array.resize((8,))
    assert array[:].tolist() == [0, 1, 2, 3, -1, -1, -1, -1]
    session.commit("there and back")
    found = zarr.open_array(repo.readonly_session("main").store, path="z", mode="r")
    assert found[:].tolist() == [0, 1, 2, 3, -1, -1, -1, -1]


def test_an_array_made_again_has_no_old_chunks(full):
    session = full.writable_session("main")
    run(session.store.delete_dir("a"))
    reshape(session, (4,), (4, 4))
    check(full, session, [])


def test_a_chunk_in_a_dimension_of_length_zero(repo):
    session = repo.writable_session("main")
    reshape(session, (0, 4))
    put(session.store, "a/c/0/1", b"early")  # as other writers allow
    assert chunk_keys(session.store) == []
    reshape(session, (2, 4))
    assert get(session.store, "a/c/0/1") == b"early"
    reshape(session, (0, 4), (2, 4))
    assert get(session.store, "a/c/0/1") is None
    session.commit("grown")
    assert chunk_keys(repo.readonly_session("main").store) == []
