"""Every order in which sessions can get in each other's way: nothing is lost, nothing doubled."""

import pytest

import icechunk
from icechunk.repository import Repository
from icechunk.storage.memory import MemoryStorage
from icechunk.testing.schedules import explore
from tests.invariants import assert_whole, contents, messages
from tests.session.helpers import array_json, buffer, group_json

pytestmark = pytest.mark.filterwarnings("ignore::icechunk.UncommittedChangesWarning")
SOLVER = icechunk.ConflictDetector()


def prepare(spec, *, tag=False):
    async def made():
        storage = MemoryStorage()
        repo = await Repository.create_async(storage, spec_version=spec)
        session = await repo.writable_session_async("main")
        await session.store.set("a/zarr.json", buffer(array_json()))
        await session.store.set("a/c/3/3", buffer(b"base"))
        first = await session.commit_async("base")
        if tag:
            await repo.create_tag_async("first", first)
        return storage

    return made


def committer(name, key, *, solver=SOLVER, branch="main"):
    async def act(storage):
        repo = await Repository.open_async(storage)
        session = await repo.writable_session_async(branch)
        await session.store.set(key, buffer(name.encode()))
        return await session.commit_async(name, rebase_with=solver)

    return act


def test_two_commits_to_different_chunks_both_arrive(spec, width):
    async def check(storage, outcomes):
        assert [outcome.error for outcome in outcomes] == [None, None]
        repo = await assert_whole(storage)
        assert sorted(await messages(repo)) == ["Repository initialized", "base", "one", "two"]
        found = await contents(repo)
        assert (found["a/c/0/0"], found["a/c/0/1"], found["a/c/3/3"]) == (b"one", b"two", b"base")

    explored = explore(prepare(spec), [committer("one", "a/c/0/0"), committer("two", "a/c/0/1")], check)
    assert explored.complete > 1


def test_two_commits_to_one_chunk_never_hide_each_other(spec, width):
    async def check(storage, outcomes):
        repo = await assert_whole(storage)
        failed = [outcome for outcome in outcomes if outcome.error is not None]
        assert all(isinstance(outcome.error, icechunk.RebaseFailedError) for outcome in failed)
        history = await messages(repo)
        assert len(history) == 4 - len(failed)
        assert (await contents(repo))["a/c/0/0"].decode() == history[0]

    explore(prepare(spec), [committer("one", "a/c/0/0"), committer("two", "a/c/0/0")], check)


def test_without_a_solver_the_second_gets_a_conflict(spec, width):
    async def check(storage, outcomes):
        repo = await assert_whole(storage)
        failed = [outcome for outcome in outcomes if outcome.error is not None]
        assert all(type(outcome.error) is icechunk.ConflictError for outcome in failed)
        assert len(await messages(repo)) == 4 - len(failed)

    one, two = committer("one", "a/c/0/0", solver=None), committer("two", "a/c/0/1", solver=None)
    explore(prepare(spec), [one, two], check)


@pytest.mark.parametrize("solver", [None, pytest.param(SOLVER, marks=pytest.mark.slow)], ids=["plain", "rebasing"])
def test_three_commits(spec, solver):
    async def check(storage, outcomes):
        repo = await assert_whole(storage)
        failed = [outcome.error for outcome in outcomes if outcome.error is not None]
        assert all(type(error) is icechunk.ConflictError for error in failed)
        assert len(failed) == (2 if solver is None else 0)
        arrived = [name for name, outcome in zip(names, outcomes, strict=True) if outcome.error is None]
        assert sorted(await messages(repo)) == sorted(["Repository initialized", "base", *arrived])
        found = await contents(repo)
        for index, name in enumerate(names):
            assert found.get(f"a/c/0/{index}") == (name.encode() if name in arrived else None)

    # sessions are opened beforehand, so that what races is what matters: publishing
    names = ["one", "two", "three"]
    sessions = {}

    async def with_sessions():
        storage = await prepare(spec)()
        for index, name in enumerate(names):
            repo = await Repository.open_async(storage)
            session = await repo.writable_session_async("main")
            await session.store.set(f"a/c/0/{index}", buffer(name.encode()))
            sessions[name] = session
        return storage

    def actor(name):
        async def act(storage):
            session = sessions[name]
            rebound(session._core, storage)
            return await session.commit_async(name, rebase_with=solver)

        return act

    explored = explore(with_sessions, [actor(name) for name in names], check, limit=200_000)
    assert explored.complete > 6


def rebound(core, storage):
    """Let an open session talk to `storage` from now on."""
    core.__dict__["storage"] = storage
    core.assets.storage = storage
    core.refs.storage = storage


def test_racing_to_create_branches_and_tags(spec, width):
    def actor(make):
        async def act(storage):
            repo = await Repository.open_async(storage)
            await make(repo, await repo.lookup_branch_async("main"))

        return act

    async def check(storage, outcomes):
        await assert_whole(storage)
        failed = [outcome.error for outcome in outcomes if outcome.error is not None]
        assert len(failed) == 1 and isinstance(failed[0], icechunk.AlreadyExistsError | icechunk.ConflictError)

    for make in (
        lambda repo, tip: repo.create_branch_async("dev", tip),
        lambda repo, tip: repo.create_tag_async("v1", tip),
    ):
        explore(prepare(spec), [actor(make), actor(make)], check)


def test_racing_to_create_a_repository(spec, width):
    async def create(storage):
        await Repository.create_async(storage, spec_version=spec)

    async def nothing():
        return MemoryStorage()

    async def check(storage, outcomes):
        repo = await assert_whole(storage)
        assert await messages(repo) == ["Repository initialized"]
        failed = [outcome.error for outcome in outcomes if outcome.error is not None]
        assert len(failed) <= 1
        assert all(isinstance(error, icechunk.InvalidInputError) for error in failed)

    explore(nothing, [create, create], check)

    async def open_or_create(storage):
        await Repository.open_or_create_async(storage, create_version=spec)

    async def both(storage, outcomes):
        await assert_whole(storage)
        assert [outcome.error for outcome in outcomes] == [None, None]

    explore(nothing, [open_or_create, open_or_create], both)


def test_a_commit_races_a_reset(spec, width):
    async def reset(storage):
        repo = await Repository.open_async(storage)
        root = [info.id async for info in repo.async_ancestry(branch="main")][-1]
        await repo.reset_branch_async("main", root)

    async def check(storage, outcomes):
        repo = await assert_whole(storage)
        committed, was_reset = outcomes
        history = await messages(repo)
        if was_reset.error is None and committed.error is None:
            assert history in (["Repository initialized"], ["one", "base", "Repository initialized"])
        for outcome in outcomes:
            assert outcome.error is None or isinstance(
                outcome.error, icechunk.ConflictError | icechunk.SessionStateError | icechunk.NodeNotFoundError
            )

    explore(prepare(spec), [committer("one", "a/c/0/0"), reset], check)


def test_a_commit_races_the_deletion_of_its_branch(spec):
    async def made():
        storage = await prepare(spec)()
        repo = await Repository.open_async(storage)
        await repo.create_branch_async("dev", await repo.lookup_branch_async("main"))
        return storage

    async def delete(storage):
        repo = await Repository.open_async(storage)
        await repo.delete_branch_async("dev")

    async def check(storage, outcomes):
        repo = await assert_whole(storage)
        assert outcomes[1].error is None or isinstance(outcomes[1].error, icechunk.IcechunkError)
        assert "dev" not in await repo.list_branches_async() or outcomes[0].error is None

    explore(made, [committer("one", "a/c/0/0", branch="dev"), delete], check)


def test_group_created_by_both(spec, width):
    async def check(storage, outcomes):
        await assert_whole(storage)
        failed = [outcome.error for outcome in outcomes if outcome.error is not None]
        assert len(failed) <= 1 and all(isinstance(error, icechunk.RebaseFailedError) for error in failed)

    def maker(name):
        async def act(storage):
            repo = await Repository.open_async(storage)
            session = await repo.writable_session_async("main")
            await session.store.set("g/zarr.json", buffer(group_json(by=name)))
            await session.commit_async(name, rebase_with=SOLVER)

        return act

    explore(prepare(spec), [maker("one"), maker("two")], check)
