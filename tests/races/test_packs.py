"""Every order in which those who fill packs of small chunks and those who store them can get in each other's way."""

import copy

import pytest

import icechunk
from icechunk.repository import Repository
from icechunk.storage.memory import MemoryStorage
from icechunk.testing.schedules import explore
from tests.aging import HISTORY, ORIGINAL, Clock
from tests.invariants import assert_whole, contents, messages
from tests.packs import PACKED, key, small_packs
from tests.races.test_maintenance import Race, collector, errors
from tests.races.test_one_session import MINE, OfWhoAsks
from tests.session.helpers import PROTOTYPE, array_json, big, buffer

pytestmark = pytest.mark.filterwarnings(
    "ignore::icechunk.UncommittedChangesWarning", "ignore::icechunk.MergeOverlapWarning"
)


@pytest.fixture(autouse=True)
def packs(monkeypatch):
    small_packs(monkeypatch)


class Shared:
    """One session, or a fork of it, that several write to: chunk `n` is full of `n + 1`.

    `written` are the chunks whose writing has returned, in that order; whoever publishes looks there first.
    """

    def __init__(self, spec, *, forked=False):
        self.spec, self.forked = spec, forked

    async def prepare(self):
        storage = MemoryStorage()
        repo = await Repository.create_async(OfWhoAsks(storage), PACKED, spec_version=self.spec)
        first = await repo.writable_session_async("main")
        await first.store.set("a/zarr.json", buffer(array_json()))
        await first.commit_async("base")
        self.session = await repo.writable_session_async("main")
        self.written, self.promised, self.read = [], [], {}
        await self.write(self.session, 0)  # alone; all others go into packs
        self.target = self.session
        if self.forked:
            self.target = await self.session.fork_async()
            await self.write(self.target, 1)
        return storage

    async def write(self, session, number):
        await session.store.set(key(number), buffer(big(number + 1)))
        self.written.append(number)

    def writer(self, *numbers):
        async def acting(storage):
            MINE.set(storage)
            for number in numbers:
                await self.write(self.target, number)
                found = await self.target.store.get(key(number), PROTOTYPE)
                self.read[number] = found.to_bytes()

        return acting

    def publisher(self, act):
        async def acting(storage):
            MINE.set(storage)
            self.promised = list(self.written)
            result = await act()
            MINE.set(storage.inner)  # what follows is done at once, whatever the others are about to do
            await assert_whole(storage.inner)
            return result

        return acting

    async def check(self, storage):
        """What had been written when somebody began to publish is published; returns the chunks that are."""
        assert all(data == big(number + 1) for number, data in self.read.items()), "a writer did not read what he wrote"
        found = await contents(await assert_whole(storage))
        numbers = [number for number in range(16) if key(number) in found]
        assert all(found[key(number)] == big(number + 1) for number in numbers), "chunks were mixed up"
        assert set(self.promised) <= set(numbers), f"{self.promised} were written, {numbers} were published"
        return numbers


def refused(error):
    """Whether an error is what one may hear who writes while others commit."""
    return isinstance(error, icechunk.ReadOnlyError) or (
        isinstance(error, icechunk.SessionStateError) and "being committed" in str(error)
    )


@pytest.mark.parametrize("verb", ["commit", "amend", "flush"])
def test_two_write_while_a_third_one_publishes(spec, width, verb):
    """Each of the writers fills packs with chunks of both, and stores some with chunks of the other one."""
    shared = Shared(spec)

    async def publish():
        return await getattr(shared.session, f"{verb}_async")("new")

    async def check(storage, outcomes):
        *writers, published = errors(outcomes)
        assert published is None and all(error is None or refused(error) for error in writers)
        if verb == "flush":
            repo = await Repository.open_async(storage)
            await repo.reset_branch_async("main", outcomes[-1].result)
        numbers = await shared.check(storage)
        # nobody was told that he wrote what was not published
        assert sorted(shared.written) == numbers

    actors = [shared.writer(1, 2), shared.writer(4, 5), shared.publisher(publish)]
    assert explore(shared.prepare, actors, check, share_memory=True).complete > 1


@pytest.mark.parametrize("sent", [False, True], ids=["at-hand", "sent"])
def test_a_fork_is_merged_while_two_write_to_it(spec, width, sent):
    """The session takes over what had been written. Copying does to a fork what pickling does: it blocks, and stores."""
    shared = Shared(spec, forked=True)

    async def merge():
        fork = shared.target
        if sent:
            gated = MINE.get()
            await shared.session._core.refs.branch_tip("main")  # a request, so that there is a choice of the moment
            shared.promised = list(shared.written)
            MINE.set(gated.inner)
            fork = copy.copy(fork)
            MINE.set(gated)
        await shared.session.merge_async(fork)
        MINE.set(MINE.get().inner)
        await shared.session.commit_async("new")

    async def check(storage, outcomes):
        assert errors(outcomes) == [None, None, None]
        await shared.check(storage)
        for number in shared.written[1:]:
            found = await shared.target.store.get(key(number), PROTOTYPE)
            assert found.to_bytes() == big(number + 1)

    actors = [shared.writer(2, 3), shared.writer(4, 5, 6), shared.publisher(merge)]
    assert explore(shared.prepare, actors, check, share_memory=True).complete > 1


@pytest.mark.parametrize("verb", ["commit", "amend"])
def test_a_collection_and_a_commit_that_stores_packs(spec, verb, monkeypatch):
    """The session began after all that is collected: its chunks stay, those in packs and the others."""
    numbers = range(4)

    async def before(repo):
        session = await repo.writable_session_async("main")
        for number in numbers:
            await session.store.set(key(number), buffer(big(number + 1)))
        assert session._workspace.packs, "all packs are stored already"
        return session

    async def act(repo, session):
        return await getattr(session, f"{verb}_async")("new")

    async def check(repo, outcomes):
        assert errors(outcomes) == [None, None]
        assert await messages(repo) == ["new", *(HISTORY if verb == "commit" else HISTORY[1:])]
        found = await contents(repo)
        assert ORIGINAL.items() <= found.items()
        assert [found[key(number)] for number in numbers] == [big(number + 1) for number in numbers]

    Race(spec, Clock(monkeypatch), far=True).go([(before, act), collector()], check)
