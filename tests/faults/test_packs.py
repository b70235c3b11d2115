"""Sessions that store small chunks by the pack: every request fails once, loses its answer once, and is the last one once.

Whatever happens nothing refers to a chunk that was not stored. Whoever is left can go on: a new session does all of it
again, and the same one does again what failed, with all that it had been told is written.
"""

import asyncio
import copy

import pytest

import icechunk
from icechunk.repository import Repository
from icechunk.storage.memory import MemoryStorage
from icechunk.testing.faults import FaultyStorage, InjectedError, Stopped, every_fault, record_calls
from tests.invariants import assert_whole, contents, messages
from tests.packs import PACKED, is_pack, small_packs
from tests.packs import key as key_of
from tests.session.helpers import PROTOTYPE, array_json, big, buffer

pytestmark = pytest.mark.filterwarnings(
    "ignore::icechunk.UncommittedChangesWarning", "ignore::icechunk.MergeOverlapWarning"
)
NEW = {key_of(number): big(1 + number) for number in range(8)}
"""One that is stored alone, three packs that are full, and one that is not when it is to be published."""
THEIRS = {"a/c/3/0": b"theirs"}


@pytest.fixture(autouse=True)
def packs(monkeypatch):
    small_packs(monkeypatch)


@pytest.fixture(params=[(1, 1), (2, 1), (2, 64)], ids=["spec1", "spec2", "spec2-far"])
def spec(request, monkeypatch):
    """A version of the format, and a storage at hand or one over a network, where packs are stored beside other files."""
    spec, width = request.param
    monkeypatch.setattr(MemoryStorage, "concurrency", width)
    return spec


async def base(spec):
    storage = MemoryStorage()
    repo = await Repository.create_async(storage, spec_version=spec)
    session = await repo.writable_session_async("main")
    await session.store.set("a/zarr.json", buffer(array_json()))
    await session.store.set("a/c/3/3", buffer(big(99)))
    await session.commit_async("base")
    return storage


# --- what is done, `again` and again where something fails --------------------------------------------------------------


async def once(step):
    return await step()


async def stubbornly(step):
    """As who tries again what failed; one fault hits one of both tries."""
    try:
        return await step()
    except InjectedError:
        return await step()


async def opened(storage, again):
    repo = await again(lambda: Repository.open_async(storage, PACKED))
    return repo, await again(lambda: repo.writable_session_async("main"))


async def fill(session, again, chunks=NEW):
    for key, data in chunks.items():
        await again(lambda key=key, data=data: session.store.set(key, buffer(data)))


async def commit(storage, again=once):
    _, session = await opened(storage, again)
    await fill(session, again)
    await publish(session, again, lambda: session.commit_async("new"))


async def amend(storage, again=once):
    _, session = await opened(storage, again)
    await fill(session, again)
    await publish(session, again, lambda: session.amend_async("new"))


async def flush(storage, again=once):
    repo, session = await opened(storage, again)
    await fill(session, again)
    snapshot = await again(lambda: session.flush_async("new"))
    await again(lambda: repo.reset_branch_async("main", snapshot))


async def rebased(storage, again=once):
    repo, ours = await opened(storage, again)
    await fill(ours, again)
    theirs = await again(lambda: repo.writable_session_async("main"))
    await fill(theirs, again, THEIRS)
    await publish(theirs, again, lambda: theirs.commit_async("theirs"))
    with pytest.raises(icechunk.ConflictError):
        await again(lambda: ours.commit_async("too late"))
    await again(lambda: ours.rebase_async(icechunk.ConflictDetector()))
    await publish(ours, again, lambda: ours.commit_async("new"))


async def forked(storage, again=once):
    """Two forks, one of which is sent to and fro; copying does to a session what pickling does."""
    _, session = await opened(storage, again)
    parts = [dict(list(NEW.items())[part]) for part in (slice(2), slice(2, 4), slice(4, 8))]
    await fill(session, again, parts[0])
    near, far = [await again(session.fork_async) for _ in range(2)]
    far = await again(lambda: copied(far))
    for key, data in parts[0].items():
        found = await again(lambda key=key: far.store.get(key, PROTOTYPE))
        assert found.to_bytes() == data, "a fork does not see what was written before"
    await fill(near, again, parts[1])
    await fill(far, again, parts[2])
    far = await again(lambda: copied(far))
    await again(lambda: session.merge_async(near, far))
    await publish(session, again, lambda: session.commit_async("new"))


async def copied(fork):
    return copy.copy(fork)


async def publish(session, again, step):
    """Where only the answer of a commit got lost it cannot be made again, nor need it be."""
    try:
        await again(step)
    except icechunk.ConflictError:
        if again is once:
            raise


OPERATIONS = [commit, amend, flush, rebased, forked]


# --- and what must be true then -----------------------------------------------------------------------------------------


async def assert_all_or_nothing(inner, fault, tries=1):
    """Returns whether the chunks are there."""
    repo = await assert_whole(inner)
    found = await contents(repo)
    assert found["a/c/3/3"] == big(99), f"{fault}: something is gone"
    there = {key: found[key] for key in NEW if key in found}
    assert there in ({}, NEW), f"{fault}: a part is there, or it is not what was written"
    assert (await messages(repo)).count("new") in (range(1, tries + 1) if there else (0,)), str(fault)
    return bool(there)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_whatever_fails_nothing_breaks(spec, operation):
    async def attempt(fault):
        inner = await base(spec)
        failed = None
        try:
            await operation(FaultyStorage(inner, fault))
        except (icechunk.IcechunkError, Stopped) as error:
            failed = error
            assert isinstance(error, Stopped) == (fault.how == "stop"), f"{fault}: {error!r}"
        assert await assert_all_or_nothing(inner, fault) or failed, f"{fault}: reported as done and is not there"
        if failed:
            await operation(inner)
            assert await assert_all_or_nothing(inner, fault, tries=2)

    for fault in faults_of(spec, operation):
        asyncio.run(attempt(fault))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_same_session_goes_on(spec, operation):
    async def attempt(fault):
        inner = await base(spec)
        await operation(FaultyStorage(inner, fault), stubbornly)
        assert await assert_all_or_nothing(inner, fault), f"{fault}: reported as done and is not there"

    for fault in faults_of(spec, operation, "before", "after"):
        asyncio.run(attempt(fault))


def faults_of(spec, operation, *hows):
    async def calls():
        inner = await base(spec)
        made = await record_calls(inner, operation)
        objects = [(await inner.get(path))[0] for call in made for path in call.paths if path.startswith("chunks/")]
        assert sum(map(is_pack, objects)) >= 3, "no packs were stored"
        return made

    return every_fault(asyncio.run(calls()), *hows)
