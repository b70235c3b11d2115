"""The zarr store: keys, reading, writing, deleting, listing."""

import asyncio
import pickle

import pytest
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest

import icechunk
from icechunk._driver import run

from .helpers import PROTOTYPE, array_json, big, buffer, get, group_json, keys, listed, put, with_array


@pytest.fixture
def session(repo):
    with_array(repo)
    return repo.writable_session("main")


@pytest.fixture
def store(session):
    return session.store


@pytest.mark.parametrize("data", [b"x" * 10, big(7)], ids=["inline", "native"])
@pytest.mark.parametrize("committed", [False, True])
def test_ranges_of_chunks_are_cut_like_slices(repo, data, committed):
    with_array(repo)
    session = repo.writable_session("main")
    put(session.store, "a/c/1/2", data)
    if committed:
        session.commit("chunk")
        session = repo.readonly_session("main")
    size = len(data)
    for request, expected in [
        (None, data),
        (RangeByteRequest(2, 5), data[2:5]),
        (RangeByteRequest(0, size), data),
        (RangeByteRequest(5, size + 100), data[5:]),
        (OffsetByteRequest(3), data[3:]),
        (OffsetByteRequest(size + 1), b""),
        (SuffixByteRequest(4), data[-4:]),
        (SuffixByteRequest(size + 4), data),
        (SuffixByteRequest(0), b""),
    ]:
        assert get(session.store, "a/c/1/2", request) == expected


def test_ranges_of_metadata(store):
    whole = get(store, "a/zarr.json")
    assert get(store, "a/zarr.json", SuffixByteRequest(5)) == whole[-5:]
    assert get(store, "a/zarr.json", RangeByteRequest(1, 4)) == whole[1:4]


def test_metadata_is_kept_to_the_byte(repo):
    session = repo.writable_session("main")
    document = b'{"node_type" :  "group","zarr_format":3, "unknown": [1, 2]}\n'
    put(session.store, "zarr.json", document)
    session.commit("odd")
    assert get(repo.readonly_session("main").store, "zarr.json") == document


@pytest.mark.parametrize("key", ["nope/zarr.json", "nope/c/0/0", "a/c/0/0", "a/c/99/0", ".zgroup", "a/.zarray"])
def test_what_is_absent_reads_as_none(store, key):
    assert get(store, key) is None
    assert not run(store.exists(key))


@pytest.mark.parametrize("key", ["foo", "", "a/c/x/0", "a/c/-1/0", "a/c/4294967296/0", "a/0.0", "a/../b/zarr.json"])
def test_keys_that_are_none_are_refused(store, key):
    with pytest.raises(icechunk.InvalidInputError) as caught:
        get(store, key)
    assert caught.value.kind == icechunk.ErrorKind.INVALID_KEY


def test_sizes(store):
    put(store, "a/c/0/0", b"12345")
    assert run(store.getsize("a/c/0/0")) == 5
    assert run(store.getsize("a/c/3/3")) == 0
    assert run(store.getsize("a/zarr.json")) == len(array_json())
    assert run(store.getsize_prefix("a")) == 5 + len(array_json())
    with pytest.raises(KeyError):
        run(store.getsize("nope/zarr.json"))
    with pytest.raises(KeyError):
        run(store.getsize("nope/c/0"))


def test_partial_values_come_in_order_and_absent_ones_as_none(store):
    put(store, "a/c/0/0", b"12345")
    put(store, "a/c/0/1", b"67890")
    wanted = [("a/c/0/1", None), ("a/c/2/2", None), ("a/c/0/0", RangeByteRequest(1, 3))]
    found = run(store.get_partial_values(PROTOTYPE, wanted))
    assert [None if one is None else one.to_bytes() for one in found] == [b"67890", None, b"23"]


def test_a_value_must_be_a_buffer(store):
    with pytest.raises(TypeError, match="must be a Buffer"):
        run(store.set("a/c/0/0", b"bytes"))


@pytest.mark.parametrize(
    ("key", "data", "error", "kind"),
    [
        ("a/c/4/0", b"x", icechunk.InvalidInputError, "invalid-chunk-index"),
        ("a/c/0", b"x", icechunk.InvalidInputError, "invalid-chunk-index"),
        ("a/c/0/0/0", b"x", icechunk.InvalidInputError, "invalid-chunk-index"),
        ("a/c/0/0", b"", icechunk.InvalidInputError, "zero-length-chunk"),
        ("nope/c/0", b"x", icechunk.NodeNotFoundError, "node-not-found"),
        ("c/0", b"x", icechunk.InvalidInputError, "not-an-array"),
        ("g/zarr.json", b"{}", icechunk.InvalidInputError, "bad-metadata"),
        ("g/zarr.json", b"no json", icechunk.InvalidInputError, "bad-metadata"),
        ("a/zarr.json", group_json(), icechunk.AlreadyExistsError, "node-already-exists"),
        (".zgroup", b"{}", icechunk.SessionStateError, "unimplemented"),
    ],
)
def test_writes_that_cannot_be(store, key, data, error, kind):
    with pytest.raises(error) as caught:
        put(store, key, data)
    assert caught.value.kind == kind
    assert not store.session.has_uncommitted_changes


def test_missing_nodes_are_key_errors(store):
    with pytest.raises(KeyError):
        put(store, "nope/c/0", b"x")


def test_set_if_not_exists(store):
    run(store.set_if_not_exists("a/c/0/0", buffer(b"first")))
    run(store.set_if_not_exists("a/c/0/0", buffer(b"second")))
    assert get(store, "a/c/0/0") == b"first"


def test_identical_metadata_is_no_change(session):
    put(session.store, "a/zarr.json", array_json())
    assert not session.has_uncommitted_changes


def test_a_node_made_and_deleted_is_no_change(session):
    put(session.store, "g/zarr.json", group_json())
    run(session.store.delete("g/zarr.json"))
    assert not session.has_uncommitted_changes


def test_deleting(repo, session):
    store = session.store
    put(store, "g/zarr.json", group_json())
    put(store, "g/b/zarr.json", array_json())
    put(store, "g/b/c/0/0", b"x")
    put(store, "g-1/zarr.json", group_json())
    session.commit("more")
    session = repo.writable_session("main")
    store = session.store
    run(store.delete("g/zarr.json"))
    assert keys(store) == ["a/zarr.json", "g-1/zarr.json", "zarr.json"]
    assert get(store, "g/b/c/0/0") is None
    for nothing in ["nope/zarr.json", "a/c/3/3", "a/c/9/9", "nope/c/0", ".zgroup"]:
        run(store.delete(nothing))
    session.commit("deleted")
    assert keys(repo.readonly_session("main").store) == ["a/zarr.json", "g-1/zarr.json", "zarr.json"]


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize(
    ("prefix", "left"),
    [
        ("a/c/0", ["a/c/1/0", "a/c/1/1"]),
        ("a/c/1/1", ["a/c/0/0", "a/c/0/1", "a/c/1/0"]),
        ("a/c", []),
        ("nope", ["a/c/0/0", "a/c/0/1", "a/c/1/0", "a/c/1/1"]),
    ],
)
def test_deleting_chunks_by_prefix(repo, committed, prefix, left):
    with_array(repo)
    session = repo.writable_session("main")
    for coords in ["0/0", "0/1", "1/0", "1/1"]:
        put(session.store, f"a/c/{coords}", b"x")
    if committed:
        session.commit("chunks")
        session = repo.writable_session("main")
    run(session.store.delete_dir(prefix))
    assert [key for key in keys(session.store) if "/c/" in key] == left
    if session.has_uncommitted_changes:
        session.commit("deleted")
        assert [key for key in keys(repo.readonly_session("main").store) if "/c/" in key] == left


def test_clear_deletes_everything_and_history_stays(repo, session):
    run(session.store.clear())
    assert keys(session.store) == []
    session.commit("empty")
    assert keys(repo.readonly_session("main").store) == []
    assert len(list(repo.ancestry(branch="main"))) == 3


def test_leading_dots_are_refused_in_prefixes(store):
    with pytest.raises(icechunk.InvalidInputError):
        run(store.delete_dir("../x"))
    with pytest.raises(icechunk.InvalidInputError):
        list(store.list_dir("../x"))


@pytest.mark.parametrize("committed", [False, True])
def test_listing(repo, committed):
    with_array(repo)
    session = repo.writable_session("main")
    store = session.store
    put(store, "g/zarr.json", group_json())
    put(store, "g-1/zarr.json", group_json())
    put(store, "deep/x/zarr.json", array_json(shape=(), chunks=()))
    put(store, "deep/x/c", b"v")
    put(store, "a/c/0/1", b"v")
    put(store, "a/c/2/3", b"v")
    if committed:
        session.commit("nodes")
        store = repo.readonly_session("main").store
    everything = [
        "a/c/0/1",
        "a/c/2/3",
        "a/zarr.json",
        "deep/x/c",
        "deep/x/zarr.json",
        "g-1/zarr.json",
        "g/zarr.json",
        "zarr.json",
    ]
    assert keys(store) == everything
    assert listed(store, "") == listed(store, "/") == ["a", "g", "g-1", "zarr.json"]
    assert listed(store, "a") == listed(store, "a/") == ["c", "zarr.json"]
    assert listed(store, "a/c") == ["0", "2"]
    assert listed(store, "a/c/2") == ["3"]
    assert listed(store, "a/c/1") == listed(store, "nope") == listed(store, "g-") == listed(store, "deep") == []
    assert sorted(store.list_prefix("a")) == ["a/c/0/1", "a/c/2/3", "a/zarr.json"]
    assert sorted(store.list_prefix("g")) == ["g/zarr.json"]
    assert sorted(store.list_prefix("")) == everything
    with pytest.raises(icechunk.InvalidInputError) as caught:
        list(store.list_prefix("deep"))
    assert caught.value.kind == icechunk.ErrorKind.BAD_KEY_PREFIX
    assert run(store.is_empty("nope"))
    assert not run(store.is_empty("a"))


def test_lists_serve_both_worlds(store):
    async def collect():
        return [key async for key in store.list()]

    assert sorted(asyncio.run(collect())) == keys(store)


def test_read_only_stores_refuse_every_write(repo):
    with_array(repo)
    store = repo.readonly_session("main").store
    assert store.read_only
    for write in [
        lambda: put(store, "a/c/0/0", b"x"),
        lambda: run(store.set_if_not_exists("a/c/0/0", buffer(b"x"))),
        lambda: run(store.delete("a/zarr.json")),
        lambda: run(store.delete_dir("a")),
        lambda: run(store.clear()),
        lambda: store.set_virtual_ref("a/c/0/0", "s3://b/k", offset=0, length=1, validate_container=False),
    ]:
        with pytest.raises(icechunk.ReadOnlyError):
            write()
    assert keys(store) == ["a/zarr.json", "zarr.json"]


def test_with_read_only_is_enforced(store):
    reader = store.with_read_only(True)
    assert reader.read_only and not store.read_only
    with pytest.raises(icechunk.ReadOnlyError):
        put(reader, "a/c/0/0", b"x")


def test_a_store_becomes_read_only_with_its_session(session):
    store = session.store
    put(store, "a/c/0/0", b"x")
    session.commit("x")
    assert store.read_only
    with pytest.raises(icechunk.ReadOnlyError):
        put(store, "a/c/0/0", b"y")


def test_capabilities(store):
    assert store.supports_writes and store.supports_deletes and store.supports_listing
    assert not store.supports_partial_writes and not store.supports_consolidated_metadata
    with pytest.raises(icechunk.SessionStateError):
        run(store.set_partial_values([]))


def test_stores_of_one_session_are_equal_but_cannot_be_hashed(repo, session):
    assert session.store == session.store
    assert session.store != repo.writable_session("main").store
    with pytest.raises(TypeError):
        hash(session.store)


def test_only_forks_and_readers_are_pickled(repo, session):
    with pytest.raises(ValueError, match=r"Session\.fork\(\)"):
        pickle.dumps(session.store)
    reader = pickle.loads(pickle.dumps(repo.readonly_session("main").store))
    assert get(reader, "a/zarr.json") == array_json()
    fork = pickle.loads(pickle.dumps(session.fork().store))
    put(fork, "a/c/0/0", b"x")
    assert isinstance(fork.session, icechunk.ForkSession)


def test_sync_io_skips_the_event_loop(store):
    store.set_sync("a/c/0/0", buffer(b"12345"))
    assert store.get_sync("a/c/0/0").to_bytes() == b"12345"
    assert store.get_sync("a/c/0/0", prototype=PROTOTYPE, byte_range=SuffixByteRequest(2)).to_bytes() == b"45"
    store.delete_sync("a/c/0/0")
    assert store.get_sync("a/c/0/0") is None


@pytest.mark.parametrize("committed", [False, True])
def test_resizing(repo, committed):
    with_array(repo)
    session = repo.writable_session("main")
    for row in range(4):
        put(session.store, f"a/c/{row}/0", bytes([row + 1]))
    if committed:
        session.commit("rows")
        session = repo.writable_session("main")
    put(session.store, "a/zarr.json", array_json(shape=(2, 4)))
    assert get(session.store, "a/c/3/0") is None
    assert get(session.store, "a/c/1/0") == b"\x02"
    session.commit("shrunk")
    session = repo.writable_session("main")
    put(session.store, "a/zarr.json", array_json())
    assert get(session.store, "a/c/3/0") is None
    session.commit("grown")
    store = repo.readonly_session("main").store
    assert [key for key in keys(store) if "/c/" in key] == ["a/c/0/0", "a/c/1/0"]


def test_the_constructor_is_private():
    with pytest.raises(ValueError, match=r"session\.store"):
        icechunk.IcechunkStore(None)


# --- arrays whose rank changes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "key"), [((4,), "a/c/1"), ((4, 4, 4), "a/c/1/1/1"), ((), "a/c")])
@pytest.mark.parametrize("written", ["before", "now"])
def test_a_change_of_rank_drops_all_chunks(repo, shape, key, written):
    with_array(repo)
    session = repo.writable_session("main")
    put(session.store, "a/c/1/1", b"old")
    if written == "before":
        session.commit("old")
        session = repo.writable_session("main")
    put(session.store, "a/zarr.json", array_json(shape, [1] * len(shape)))
    assert get(session.store, key) is None and get(session.store, "a/c/1/1") is None
    put(session.store, key, b"new")
    assert keys(session.store) == [key, "a/zarr.json", "zarr.json"]
    session.commit("new")
    reader = repo.readonly_session("main")
    assert get(reader.store, key) == b"new"
    assert keys(reader.store) == [key, "a/zarr.json", "zarr.json"]


def test_a_change_of_rank_alone_leaves_no_manifest(repo):
    with_array(repo)
    session = repo.writable_session("main")
    put(session.store, "a/c/1/1", b"old")
    session.commit("old")
    session = repo.writable_session("main")
    put(session.store, "a/zarr.json", array_json((4,), (1,)))
    assert repo.list_manifest_files(session.commit("rank")) == []
    assert keys(repo.readonly_session("main").store) == ["a/zarr.json", "zarr.json"]
