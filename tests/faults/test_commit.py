"""Every request of every operation fails once, loses its answer once, and is the last one once.

Whatever happens, the repository is whole, what was there before is still there, and the operation can be done again.
"""

import pytest

import icechunk
from icechunk._driver import run
from icechunk.repository import Repository
from icechunk.storage.memory import MemoryStorage
from icechunk.testing.faults import FaultyStorage, Stopped, every_fault, record_calls
from tests.invariants import assert_whole, contents, messages
from tests.session.helpers import array_json, buffer

pytestmark = pytest.mark.filterwarnings("ignore::icechunk.UncommittedChangesWarning")
CREATED = ["Repository initialized"]


async def base(spec):
    storage = MemoryStorage()
    repo = await Repository.create_async(storage, spec_version=spec)
    session = await repo.writable_session_async("main")
    await session.store.set("a/zarr.json", buffer(array_json()))
    await session.store.set("a/c/3/3", buffer(b"base"))
    first = await session.commit_async("base")
    await repo.create_branch_async("dev", first)
    await repo.create_tag_async("old", first)
    session = await repo.writable_session_async("main")
    await session.store.set("a/c/2/2", buffer(b"second" * 200))
    await session.commit_async("second")
    return storage


async def commit(storage):
    repo = await Repository.open_async(storage)
    session = await repo.writable_session_async("main")
    await session.store.set("a/c/0/0", buffer(b"new"))
    await session.store.set("a/c/0/1", buffer(b"new" * 1000))
    await session.commit_async("new")


async def rebased(storage):
    repo = await Repository.open_async(storage)
    ours, theirs = await repo.writable_session_async("main"), await repo.writable_session_async("main")
    await ours.store.set("a/c/0/0", buffer(b"new"))
    await theirs.store.set("a/c/1/1", buffer(b"theirs"))
    await theirs.commit_async("theirs")
    await ours.commit_async("new", rebase_with=icechunk.ConflictDetector())


async def amend(storage):
    repo = await Repository.open_async(storage)
    session = await repo.writable_session_async("main")
    await session.store.set("a/c/0/0", buffer(b"new"))
    await session.amend_async("new")


async def flush(storage):
    repo = await Repository.open_async(storage)
    session = await repo.writable_session_async("main")
    await session.store.set("a/c/0/0", buffer(b"new"))
    await session.flush_async("new")


async def refs(storage):
    repo = await Repository.open_async(storage)
    tip = await repo.lookup_branch_async("main")
    await repo.create_branch_async("new", tip)
    await repo.create_tag_async("v1", tip)
    await repo.delete_branch_async("dev")
    await repo.delete_tag_async("old")
    await repo.reset_branch_async("new", await repo.lookup_branch_async("main"))


async def save_config(storage):
    config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=7)
    repo = await Repository.open_async(storage, config)
    await repo.save_config_async()


OPERATIONS = [commit, rebased, amend, flush, refs, save_config]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_whatever_fails_nothing_breaks(spec, operation):
    async def calls():
        return await record_calls(await base(spec), operation)

    tried = 0
    for fault in every_fault(run(calls())):
        run(_try(spec, operation, fault))
        tried += 1
    assert tried > 6


async def _try(spec, operation, fault):
    inner = await base(spec)
    before = await contents(await Repository.open_async(inner))
    failed = False
    try:
        await operation(FaultyStorage(inner, fault))
    except Stopped:
        failed = True
    except icechunk.IcechunkError:
        failed = True
        assert fault.how != "stop", "something swallowed the stop"
    repo = await assert_whole(inner)
    after = await contents(repo)
    assert before.items() <= after.items(), f"{fault}: something is gone"
    history = await messages(repo)
    if operation in (commit, rebased):
        # all or nothing, never half
        assert ("new" in history) == ("a/c/0/0" in after), str(fault)
        assert history.count("new") <= 1
        if not failed:
            assert "new" in history, f"{fault}: reported as done and is not there"
    if failed and operation not in (refs,):
        await operation(inner)
        repo = await assert_whole(inner)
        if operation in (commit, rebased, amend):
            assert "a/c/0/0" in await contents(repo)


@pytest.mark.parametrize("how", ["before", "after", "stop"])
def test_creating(spec, how):
    async def create(storage):
        await Repository.create_async(storage, spec_version=spec)

    async def attempt(fault):
        inner = MemoryStorage()
        try:
            await create(FaultyStorage(inner, fault))
            created = True
        except (icechunk.IcechunkError, Stopped):
            created = False
        assert await Repository.exists_async(inner) or not created, f"{fault}: created and not there"
        repo = await Repository.open_or_create_async(inner, create_version=spec)
        assert await messages(repo) == CREATED
        await commit_group(inner)
        await assert_whole(inner)

    async def commit_group(storage):
        repo = await Repository.open_async(storage)
        session = await repo.writable_session_async("main")
        await session.store.set("zarr.json", buffer(b'{"zarr_format": 3, "node_type": "group"}'))
        await session.commit_async("group")

    async def calls():
        return await record_calls(MemoryStorage(), create)

    for fault in every_fault(run(calls()), how):
        run(attempt(fault))
