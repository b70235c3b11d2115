"""Small chunks that share an object: when they do, and that nobody notices."""

import asyncio
from datetime import timedelta

import numpy as np
import pytest
import zarr

import icechunk
from icechunk._driver import run
from icechunk.chunk_packs import ALONE, HEAD, LARGEST
from icechunk.errors import StorageError
from icechunk.format.chunk_ref import Native
from icechunk.storage.base import ByteRange
from icechunk.storage.wrappers import StorageWrapper
from icechunk.testing.counting import CountingStorage
from tests.packs import PACKED, is_pack
from tests.session.helpers import array_json, buffer, get, group_json, put, random_bytes

SIZE = 20_000


class Refusing(StorageWrapper):
    """Fails to write packs for as long as it is told to."""

    failing = False

    async def put(self, path, data, **how):
        if self.failing and is_pack(data):
            raise StorageError("no room")
        return await self._inner.put(path, data, **how)


def key(number):
    return f"a/c/{number}"


def data(number, size=SIZE):
    return random_bytes(size, number)


def begin(storage, spec=2, config=PACKED, count=1000):
    repo = icechunk.Repository.create(storage, config, spec_version=spec)
    session = repo.writable_session("main")
    put(session.store, "zarr.json", group_json())
    put(session.store, "a/zarr.json", array_json((count,), (1,)))
    return repo, session


def write(session, numbers, size=SIZE):
    for number in numbers:
        put(session.store, key(number), data(number, size))


def objects(storage):
    """The sizes of all chunk objects."""

    async def listed():
        return [info.size async for batch in storage.list("chunks/") for info in batch]

    return run(listed())


def refs(session):
    workspace = session._workspace
    table = run(workspace.chunk_table(run(workspace.array("/a"))))
    return {coords[0]: ref for coords, ref in table.items()}


def assert_there(session, numbers, size=SIZE):
    for number in numbers:
        assert get(session.store, key(number)) == data(number, size)


def test_the_first_ones_are_alone_and_the_others_together(storage, spec):
    _, session = begin(storage, spec)
    write(session, range(ALONE))
    assert objects(storage) == [SIZE] * ALONE
    write(session, range(ALONE, 300))
    assert_there(session, range(300))
    session.commit("300 chunks")
    packs = [size for size in objects(storage) if size != SIZE]
    assert len(objects(storage)) == ALONE + len(packs)
    assert sum(packs) == (300 - ALONE) * SIZE + len(packs) * len(HEAD)
    assert max(packs) <= (2 << 20) + len(HEAD)
    again = icechunk.Repository.open(storage).readonly_session("main")
    assert_there(again, range(300))
    found = refs(again)
    assert all(found[number].offset == 0 for number in range(ALONE))
    assert all(found[number].offset >= len(HEAD) for number in range(ALONE, 300))


def test_ranges_of_packed_chunks(storage):
    repo, session = begin(storage)
    write(session, range(ALONE + 3))
    wanted = [ByteRange(5, 10), ByteRange(SIZE - 3, SIZE + 9), ByteRange(-7), ByteRange(3)]

    def check(session):
        for number in range(ALONE, ALONE + 3):
            for one in wanted:
                found = run(session._workspace.get(key(number), one))
                assert bytes(found) == data(number)[one.start : one.stop]

    check(session)
    session.commit("chunks")
    check(repo.readonly_session("main"))


@pytest.mark.parametrize("size", [1, 512, LARGEST + 1])
def test_tiny_and_large_chunks_are_not_packed(storage, size):
    _, session = begin(storage)
    write(session, range(ALONE + 3), size)
    session.commit("chunks")
    assert objects(storage) == ([] if size <= 512 else [size] * (ALONE + 3))


@pytest.mark.parametrize(
    ("config", "remote", "packs"), [(None, False, 0), (None, True, 1), (False, True, 0), (True, False, 1)]
)
def test_where_it_is_done(storage, config, remote, packs):
    where = CountingStorage(storage) if remote else storage
    _, session = begin(where, config=icechunk.RepositoryConfig(pack_small_chunks=config))
    write(session, range(50))
    session.commit("chunks")
    assert len([size for size in objects(storage) if size != SIZE]) == packs


def test_the_caller_may_go_on_with_his_memory(storage):
    repo, session = begin(storage)
    write(session, range(ALONE))
    mine = np.arange(SIZE, dtype=np.uint8)
    run(session.store.set(key(ALONE), buffer(mine.data)))
    wanted = mine.tobytes()
    mine[:] = 0
    session.commit("chunks")
    assert get(repo.readonly_session("main").store, key(ALONE)) == wanted


def test_overwritten_and_deleted_before_they_are_stored(storage, spec):
    repo, session = begin(storage, spec)
    write(session, range(60))
    put(session.store, key(40), data(1040))
    run(session.store.delete(key(41)))
    put(session.store, key(42), b"tiny")
    session.commit("chunks")
    store = repo.readonly_session("main").store
    assert get(store, key(40)) == data(1040)
    assert get(store, key(41)) is None
    assert get(store, key(42)) == b"tiny"
    assert_there(repo.readonly_session("main"), [*range(40), *range(43, 60)])


def test_what_is_discarded_is_gone(storage):
    repo, session = begin(storage)
    session.commit("array")
    session = repo.writable_session("main")
    write(session, range(ALONE + 20))
    session.discard_changes()
    assert get(session.store, key(ALONE + 5)) is None
    write(session, [7])
    session.commit("one chunk")
    assert list(refs(repo.readonly_session("main"))) == [7]
    assert_there(repo.readonly_session("main"), [7])


def test_a_pack_that_cannot_be_stored(storage, spec):
    """Whoever fills it hears of it; what was written before is stored by the commit, as soon as that is possible."""
    failing = Refusing(storage)
    repo, session = begin(failing, spec)
    failing.failing = True
    refused = 0
    for number in range(200):
        try:
            write(session, [number])
        except StorageError:
            refused = number
            break
    assert refused
    assert get(session.store, key(refused)) is None
    assert_there(session, range(refused))
    with pytest.raises(StorageError, match="no room"):
        session.commit("too early")
    assert repo.lookup_branch("main") == session.snapshot_id
    assert session.has_uncommitted_changes
    failing.failing = False
    write(session, [refused])
    session.commit("chunks")
    assert_there(icechunk.Repository.open(storage).readonly_session("main"), range(refused + 1))


def test_amend_flush_and_rewrite(storage, spec):
    repo, session = begin(storage, spec)
    session.commit("array")
    session = repo.writable_session("main")
    write(session, range(50))
    session.amend("amended")
    session = repo.writable_session("main")
    write(session, range(100, 150))
    flushed = session.flush("flushed")
    repo.rewrite_manifests("rewritten", branch="main")
    assert_there(repo.readonly_session("main"), range(50))
    assert_there(repo.readonly_session(snapshot_id=flushed), [*range(50), *range(100, 150)])


def test_losing_a_race_stores_nothing_twice(storage, spec):
    counting = CountingStorage(storage)
    repo, session = begin(counting, spec)
    session.commit("array")
    ours, theirs = repo.writable_session("main"), repo.writable_session("main")
    write(ours, range(50))
    write(theirs, [999])
    theirs.commit("theirs")
    with pytest.raises(icechunk.ConflictError):
        ours.commit("ours")
    counting.reset()
    ours.commit("ours", rebase_with=icechunk.ConflictDetector())
    assert not [one for one in counting.requests if one.verb == "put" and one.paths[0].startswith("chunks/")]
    assert_there(repo.readonly_session("main"), [*range(50), 999])


def test_forking_a_session_with_unstored_chunks(storage, spec):
    _, session = begin(storage, spec)
    write(session, range(50))
    fork = session.fork()
    assert_there(fork, range(50))
    assert not session._workspace.packs
    write(fork, range(50, 120))
    session.merge(fork)
    assert not fork._workspace.packs
    assert_there(session, range(120))
    session.commit("all")
    assert_there(icechunk.Repository.open(storage).readonly_session("main"), range(120))


def test_moving_and_shifting_keep_offsets(storage, spec):
    repo, session = begin(storage, spec)
    write(session, range(50))
    session.shift_array("/a", (3,))
    session.commit("shifted")
    session = repo.rearrange_session("main")
    session.move("/a", "/b")
    session.commit("moved")
    store = repo.readonly_session("main").store
    assert all(get(store, f"b/c/{number + 3}") == data(number) for number in range(50))


def test_a_pack_goes_when_none_of_its_chunks_is_needed(storage, spec):
    repo, session = begin(storage, spec)
    write(session, range(50))
    session.commit("chunks")
    packs = {ref.id for ref in refs(repo.readonly_session("main")).values() if isinstance(ref, Native) and ref.offset}
    assert len(packs) == 1
    for numbers, deleted in (range(ALONE, 49), 0), ([49], 1):
        session = repo.writable_session("main")
        for number in numbers:
            run(session.store.delete(key(number)))
        session.commit("fewer")
        later = max(info.written_at for info in repo.ancestry(branch="main")) + timedelta(days=1)
        repo.expire_snapshots(later)
        assert repo.garbage_collect(later).chunks_deleted == deleted
    assert_there(repo.readonly_session("main"), range(ALONE))


def test_zarr_asks_for_few_requests(storage):
    counting = CountingStorage(storage)
    repo = icechunk.Repository.create(counting)
    session = repo.writable_session("main")
    array = zarr.create_array(
        session.store, name="a", shape=(1000, 1000), chunks=(10, 100), dtype="f8", compressors=None
    )
    wanted = np.random.default_rng(0).random((1000, 1000))
    array[:] = wanted
    array[5:25, 50:150] = 7  # parts of chunks that are not stored yet
    wanted[5:25, 50:150] = 7
    session.commit("1,000 chunks")
    assert counting.counts["put"] < 60
    counting.reset()
    found = zarr.open_array(icechunk.Repository.open(counting).readonly_session("main").store, path="a", mode="r")[:]
    np.testing.assert_array_equal(found, wanted)
    assert len(counting.requests) < 100


def test_a_chunk_that_is_cached_does_not_keep_its_neighbours(storage):
    caching = icechunk.CachingConfig(num_bytes_chunks=10_000_000)
    counting = CountingStorage(storage)
    repo, session = begin(counting, config=icechunk.RepositoryConfig(caching=caching))
    write(session, range(ALONE + 8), LARGEST // 2)
    session.commit("chunks")
    reader = repo.readonly_session("main")
    packed = [ref for ref in refs(reader).values() if ref.offset]

    async def read():
        return await asyncio.gather(*(reader._workspace.assets.chunk(ref) for ref in packed))

    counting.reset()
    assert all(type(found) is bytes for found in asyncio.run(read()))
    assert len(counting.requests) < len(packed)
    counting.reset()
    assert [bytes(found) for found in asyncio.run(read())] == [
        data(number, LARGEST // 2) for number in range(ALONE, ALONE + 8)
    ]
    assert not counting.requests
