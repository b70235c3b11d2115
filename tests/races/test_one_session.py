"""Every order in which tasks that share one session can get in each other's way."""

import contextvars
import warnings

import pytest

import icechunk
from icechunk.repository import Repository
from icechunk.storage.memory import MemoryStorage
from icechunk.storage.wrappers import StorageWrapper
from icechunk.testing.schedules import explore
from tests.invariants import assert_whole, contents
from tests.session.helpers import PROTOTYPE, array_json, big, buffer

pytestmark = pytest.mark.filterwarnings("ignore::icechunk.UncommittedChangesWarning")

MINE = contextvars.ContextVar("MINE")


class OfWhoAsks(StorageWrapper):
    """The storage of the actor that makes the request, so that the order of requests can be chosen."""

    def __init__(self, otherwise):
        super().__init__(otherwise)
        self._otherwise = otherwise

    @property
    def _inner(self):
        return MINE.get(self._otherwise)

    @_inner.setter
    def _inner(self, inner):
        pass


class Shared:
    """One session on an array; nothing of the snapshot is kept in memory, so that looking something up is a request."""

    def __init__(self, spec, *, written=False):
        self.spec, self.written = spec, written

    async def prepare(self):
        storage = MemoryStorage()
        repo = await Repository.create_async(OfWhoAsks(storage), spec_version=self.spec)
        first = await repo.writable_session_async("main")
        await first.store.set("a/zarr.json", buffer(array_json()))
        await first.store.set("a/c/3/3", buffer(big(9)))
        await first.commit_async("base")
        caching = icechunk.CachingConfig(num_snapshot_nodes=0, num_chunk_refs=0)
        self.repo = await repo.reopen_async(icechunk.RepositoryConfig(caching=caching))
        self.session = await self.repo.writable_session_async("main")
        self.seen = {}
        if self.written:
            await self.session.store.set("a/c/0/0", buffer(big(1)))
            self.forks = [await self.session.fork_async() for _ in range(2)]
            await self.session.store.set("a/c/0/0", buffer(big(2)))
            for number, fork in enumerate(self.forks):
                await fork.store.set("a/c/0/0", buffer(big(10 + number)))
                await fork.store.set(f"a/c/1/{number}", buffer(big(20 + number)))
        return storage

    def actor(self, act):
        async def acting(storage):
            MINE.set(storage)
            return await act()

        return acting

    async def get(self, key):
        found = await self.session.store.get(key, PROTOTYPE)
        return None if found is None else found.to_bytes()


@pytest.mark.parametrize("key", ["a/c/0/0", "a/c/3/3"])
@pytest.mark.parametrize("sizes", [(1000, 1000), (1000, 1)])
def test_writing_where_nothing_is(spec, key, sizes):
    shared = Shared(spec)

    def writer(number):
        async def act():
            await shared.session.store.set_if_not_exists(key, buffer(big(number, sizes[number])))
            shared.seen[number] = await shared.get(key)

        return shared.actor(act)

    async def check(storage, outcomes):
        assert [outcome.error for outcome in outcomes] == [None, None]
        there = await shared.get(key)
        assert shared.seen == {0: there, 1: there}
        assert there == big(9) if key == "a/c/3/3" else there in (big(0, sizes[0]), big(1, sizes[1]))

    explored = explore(shared.prepare, [writer(0), writer(1)], check, share_memory=True)
    assert explored.complete > 1 or sizes[1] == 1  # a small one, where nothing is, needs no request


def test_merging_while_others_merge_and_write(spec):
    shared = Shared(spec, written=True)

    def merger(number):
        async def act():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", icechunk.MergeOverlapWarning)
                await shared.session.store.set(f"a/c/2/{number}", buffer(big(30 + number)))
                await shared.session.merge_async(shared.forks[number])

        return shared.actor(act)

    async def check(storage, outcomes):
        assert [outcome.error for outcome in outcomes] == [None, None]
        await shared.session.commit_async("merged")
        found = await contents(await assert_whole(storage))
        assert found["a/c/0/0"] in (big(10), big(11))
        for key, fill in (("a/c/1/0", 20), ("a/c/1/1", 21), ("a/c/2/0", 30), ("a/c/2/1", 31), ("a/c/3/3", 9)):
            assert found[key] == big(fill)

    assert explore(shared.prepare, [merger(0), merger(1)], check, share_memory=True).complete > 1
