"""Chunks that lie in packs which are not stored yet: cancelled, discarded, collected and pickled meanwhile, nothing is lost."""

import asyncio
import gc
import pickle
from datetime import timedelta

import pytest

import icechunk
from icechunk import chunk_packs
from icechunk._driver import run
from tests.aging import DAY, Clock
from tests.invariants import assert_whole, contents
from tests.packs import PACKED, key, small_packs
from tests.session.test_at_once import Between

from .helpers import PROTOTYPE, big, buffer, get, put, with_array

pytestmark = pytest.mark.filterwarnings("ignore:a session with uncommitted changes")


@pytest.fixture(autouse=True)
def packs(monkeypatch):
    small_packs(monkeypatch)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def storage(clock):
    return Between(clock.storage())


@pytest.fixture
def repo(storage, spec):
    repo = icechunk.Repository.create(storage, PACKED, spec_version=spec)
    with_array(repo)
    return repo


def write(session, *numbers):
    for number in numbers:
        put(session.store, key(number), big(number + 1))


def committed(repo):
    """The numbers of the chunks on `main`, each of which is as it was written."""
    run(assert_whole(repo.storage))
    found = run(contents(icechunk.Repository.open(repo.storage)))
    numbers = [number for number in range(16) if key(number) in found]
    assert [found[key(number)] for number in numbers] == [big(number + 1) for number in numbers]
    return numbers


# --- cancelled ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["before", "after"])
def test_who_is_cancelled_while_he_stores_a_pack_takes_nothing_with_him(repo, storage, moment):
    """The first chunk of the pack was acknowledged, the second one was not."""

    async def scenario():
        session = await repo.writable_session_async("main")
        for number in range(2):
            await session.store.set(key(number), buffer(big(number + 1)))
        filling = asyncio.ensure_future(session.store.set(key(2), buffer(big(3))))

        async def cancel():
            filling.cancel()
            await asyncio.sleep(0)

        getattr(storage, moment)("put", "chunks/", cancel)
        with pytest.raises(asyncio.CancelledError):
            await filling
        assert (await session.store.get(key(1), PROTOTYPE)).to_bytes() == big(2)
        assert await session.store.get(key(2), PROTOTYPE) is None
        await session.store.set(key(3), buffer(big(4)))
        await session.commit_async("the others")

    asyncio.run(scenario())
    assert committed(repo) == [0, 1, 3]


def test_a_commit_does_not_wait_for_who_is_about_to_store_a_pack(repo, storage):
    """Whoever filled it is held up for good; the commit stores the pack itself, and what was acknowledged is in it."""

    async def scenario():
        session = await repo.writable_session_async("main")
        for number in range(2):
            await session.store.set(key(number), buffer(big(number + 1)))
        under_way, let_go = asyncio.Event(), asyncio.Event()

        async def hold():
            under_way.set()
            await let_go.wait()

        storage.before("put", "chunks/", hold)
        filling = asyncio.ensure_future(session.store.set(key(2), buffer(big(3))))
        await under_way.wait()
        await session.commit_async("first two")
        let_go.set()
        with pytest.raises(icechunk.ReadOnlyError):
            await filling

    asyncio.run(scenario())
    assert committed(repo) == [0, 1]


def test_a_commit_that_is_cancelled_can_be_made_again(repo, storage):
    async def scenario():
        session = await repo.writable_session_async("main")
        for number in range(4):
            await session.store.set(key(number), buffer(big(number + 1)))
        committing = asyncio.ensure_future(session.commit_async("broken off"))

        async def cancel():
            committing.cancel()
            await asyncio.sleep(0)

        storage.before("put", "chunks/", cancel)
        with pytest.raises(asyncio.CancelledError):
            await committing
        await session.store.set(key(4), buffer(big(5)))
        await session.commit_async("made")

    asyncio.run(scenario())
    assert committed(repo) == [0, 1, 2, 3, 4]


# --- discarded ----------------------------------------------------------------------------------------------------------


def test_discarding_while_somebody_stores_a_pack(repo, storage, monkeypatch):
    """He closed a full pack and his own chunk lies in the next one: it is recorded after the changes were discarded."""
    small_packs(monkeypatch, chunks=4)
    session = repo.writable_session("main")
    write(session, 0, 1, 2, 3)
    storage.before("put", "chunks/", session.discard_changes)
    put(session.store, key(4), big(5, 1500))
    assert get(session.store, key(4)) == big(5, 1500)
    session.commit("after")
    assert run(contents(icechunk.Repository.open(repo.storage)))[key(4)] == big(5, 1500)
    run(assert_whole(repo.storage))


def test_discarding_while_a_fork_is_merged(repo, storage, monkeypatch):
    """What the merge took over are the changes as they were before."""
    session = repo.writable_session("main")
    fork = session.fork()
    write(fork, 0, 1, 2, 3)
    storage.before("put", "chunks/", fork.discard_changes)
    session.merge(fork)
    session.commit("merged")
    assert committed(repo) == [0, 1, 2, 3]


def test_what_was_discarded_is_forgotten(repo):
    session = repo.writable_session("main")
    write(session, 0, 1)
    session.discard_changes()
    assert get(session.store, key(1)) is None
    write(session, 2, 3)
    session.commit("after")
    assert committed(repo) == [2, 3]


# --- collected ----------------------------------------------------------------------------------------------------------


def collect_everything(repo, clock):
    """A collection by somebody else, whose limit is wrong, and long after the session began."""
    clock.forward(timedelta(hours=1))
    summary = icechunk.Repository.open(repo.storage).garbage_collect(clock.look() + 400 * DAY)
    clock.forward(timedelta(hours=1))
    return summary.chunks_deleted


def test_chunks_in_an_open_pack_are_not_taken_for_collected(repo, clock):
    """Those that were collected were all replaced."""
    session = repo.writable_session("main")
    write(session, 0)
    assert collect_everything(repo, clock) == 1
    write(session, 0, 1, 2)
    session.commit("replaced")
    assert committed(repo) == [0, 1, 2]


def test_a_pack_that_was_collected_is_not_committed(repo, clock):
    session = repo.writable_session("main")
    write(session, 0, 1, 2, 3)
    assert collect_everything(repo, clock) == 2
    with pytest.raises(icechunk.SessionStateError, match="garbage collection"):
        session.commit("lost")
    assert committed(repo) == []


def test_a_pack_that_was_collected_is_missed_when_no_chunk_was_stored_alone(repo, storage, clock):
    """The first chunk was, but that failed."""
    session = repo.writable_session("main")

    def fail():
        raise icechunk.StorageError("injected")

    storage.before("put", "chunks/", fail)
    with pytest.raises(icechunk.StorageError, match="injected"):
        write(session, 0)
    write(session, 0, 1)
    assert collect_everything(repo, clock) == 1
    with pytest.raises(icechunk.SessionStateError, match="garbage collection"):
        session.commit("lost")
    assert committed(repo) == []


def test_a_pack_that_is_not_stored_cannot_be_collected(repo, clock):
    session = repo.writable_session("main")
    write(session, 0)
    write(session, 1)
    assert collect_everything(repo, clock) == 1
    write(session, 0)
    session.commit("kept in memory")
    assert committed(repo) == [0, 1]


# --- pickled ------------------------------------------------------------------------------------------------------------


def test_a_fork_that_is_pickled_again_and_again(repo):
    """Each copy has what was written up to then, and goes on by itself."""
    session = repo.writable_session("main")
    write(session, 0, 1)
    fork = session.fork()
    copies = []
    for number in range(2, 8):
        write(fork, number)
        copies.append(pickle.loads(pickle.dumps(fork)))
    for number, copy in enumerate(copies):
        assert [get(copy.store, key(each)) for each in range(3 + number)] == [
            big(each + 1) for each in range(3 + number)
        ]
        write(copy, 8 + number)
    session.merge(copies[0], copies[-1])
    session.commit("first and last")
    assert committed(repo) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 13]


# --- forgotten ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("publish", ["commit", "fork"])
def test_what_is_stored_is_not_kept_in_memory(repo, publish):
    """Sessions live on, in arrays that were opened with them."""
    session = repo.writable_session("main")
    write(session, *range(6))
    assert packs_in_memory()
    getattr(session, publish)(*(["message"] if publish == "commit" else []))
    assert not packs_in_memory()
    assert get(session.store, key(5)) == big(6)


def packs_in_memory():
    gc.collect()
    return [one for one in gc.get_objects() if isinstance(one, chunk_packs.Pack)]
