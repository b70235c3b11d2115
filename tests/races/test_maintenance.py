"""Every order in which looking after a repository and working with it can get in each other's way.

Each race starts from a repository whose files are days old, and is judged after every order of requests: all that refs
reach can be read to the last chunk, no acknowledged commit is lost, errors are those that the actors are documented to
raise, and a collection afterwards leaves it so. The actors' repositories are open before the race begins, so each may
be wrong about what it has read.
"""

from __future__ import annotations

import pytest

import icechunk
from icechunk._driver import run
from icechunk.config import RepositoryConfig
from icechunk.testing.schedules import explore
from tests.aging import CUTOFF, DAY, HISTORY, ORIGINAL, START, Clock, between, old_repository, rebound
from tests.invariants import assert_whole, contents, messages, unreachable
from tests.session.helpers import big, buffer, group_json

pytestmark = pytest.mark.filterwarnings("ignore::icechunk.UncommittedChangesWarning")


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


class Race:
    """One kind of race on one format; `ids` names snapshots of the repository that it starts from.

    `also` does something more to that repository. `far` is for a storage over a network, where requests go out together
    and a commit writes its files before it knows where its branch stands.
    """

    def __init__(self, spec, clock, also=None, *, far=False):
        self.clock = clock
        self.width = 64 if far else 1
        self.spec = spec
        self.base, self.ids = run(old_repository(spec, clock))
        if also is not None:
            run(also(self.base, self.ids))
        clock.set(START + 10 * DAY)

    def go(self, actors, check, limit=20_000):
        """Actors are pairs: what one does before the race, given a repository, and then, given what that returned."""
        ready = []

        async def prepare():
            ready.clear()
            self.clock.set(START + 10 * DAY)
            storage = self.base.copy()
            storage.concurrency = self.width
            for before, _ in actors:
                repo = await icechunk.Repository.open_async(storage)
                ready.append((repo, await before(repo)))
            return storage

        def actor(index):
            async def act(storage):
                repo, state = ready[index]
                rebound(repo, storage)
                return await actors[index][1](repo, state)

            return act

        async def judge(storage, outcomes):
            repo = await assert_whole(storage)
            await check(repo, outcomes)
            await repo.garbage_collect_async(CUTOFF)
            again = await assert_whole(storage)
            assert not await unreachable(again, CUTOFF), "a collection left what it should have taken"

        return explore(prepare, [actor(index) for index in range(len(actors))], judge, limit=limit)


# --- actors: what is done before the race, and in it ---------------------------------------------------------------------


async def nothing(repo):
    return None


def committer(name, key, *, branch="main", solver=None, size=1000, amend=False):
    async def before(repo):
        session = await repo.writable_session_async(branch)
        await session.store.set(key, buffer(name.encode().ljust(size)))
        return session

    async def act(repo, session):
        if amend:
            return await session.amend_async(name)
        return await session.commit_async(name, rebase_with=solver)

    return before, act


def flusher(name, key):
    async def before(repo):
        session = await repo.writable_session_async("main")
        await session.store.set(key, buffer(big(7)))
        return session

    async def act(repo, session):
        return await session.flush_async(name)

    return before, act


def plain(make):
    async def act(repo, _):
        return await make(repo)

    return nothing, act


def collector():
    return plain(lambda repo: repo.garbage_collect_async(CUTOFF))


def expirer(older_than, **options):
    return plain(lambda repo: repo.expire_snapshots_async(older_than, **options))


def errors(outcomes):
    return [outcome.error for outcome in outcomes]


def only(error, *kinds):
    """Whether an error is one of those, by its kind, that an actor is documented to raise."""
    return error is None or (isinstance(error, icechunk.IcechunkError) and error.kind in kinds)


async def assert_original(repo):
    assert ORIGINAL.items() <= (await contents(repo)).items()


@pytest.fixture(params=[False, True], ids=["near", "far"])
def far(request):
    return request.param


# --- collection -----------------------------------------------------------------------------------------------------------


def test_a_collection_and_a_commit(spec, clock, far):
    async def check(repo, outcomes):
        assert errors(outcomes) == [None, None]
        assert await messages(repo) == ["new", *HISTORY]
        await assert_original(repo)
        assert (await contents(repo))["a/c/0/0"] == b"new".ljust(1000)

    Race(spec, clock, far=far).go([committer("new", "a/c/0/0"), collector()], check)


@pytest.mark.parametrize("kind", ["branch", "tag", "reset"])
def test_a_collection_and_a_ref_to_what_nobody_needs(spec, clock, kind, far):
    race = Race(spec, clock, far=far)
    lost = race.ids["lost"]
    make = {
        "branch": lambda repo: repo.create_branch_async("found", lost),
        "tag": lambda repo: repo.create_tag_async("found", lost),
        "reset": lambda repo: repo.reset_branch_async("side", lost),
    }[kind]

    async def check(repo, outcomes):
        made, collected = errors(outcomes)
        assert only(made, "snapshot-not-found", "object-not-found")
        assert only(collected)
        refs = await (repo.list_tags_async() if kind == "tag" else repo.list_branches_async())
        if kind == "reset":
            tip = await repo.lookup_branch_async("side")
            assert tip == (lost if made is None else race.ids["base"])
        else:
            assert ("found" in refs) == (made is None)
        await assert_original(repo)

    race.go([plain(make), collector()], check)


def test_a_collection_and_a_flush(spec, clock):
    async def check(repo, outcomes):
        assert errors(outcomes) == [None, None]
        session = await repo.readonly_session_async(snapshot_id=outcomes[0].result)
        assert await session.store.get("a/c/0/0") is not None
        assert await session.store.get("a/c/3/1") is not None
        await assert_original(repo)

    Race(spec, clock).go([flusher("aside", "a/c/0/0"), collector()], check)


@pytest.mark.parametrize("spec", [1, pytest.param(2, marks=pytest.mark.slow)], ids=["spec1", "spec2"])
def test_two_collections(spec, clock):
    async def check(repo, outcomes):
        assert errors(outcomes) == [None, None]
        assert await messages(repo) == HISTORY
        await assert_original(repo)

    Race(spec, clock).go([collector(), collector()], check)


def test_a_collection_and_a_reset(spec, clock):
    """The tip that a reset gives up is young or old, and goes or stays as a whole."""
    race = Race(spec, clock)

    async def check(repo, outcomes):
        assert errors(outcomes) == [None, None]
        assert await repo.lookup_branch_async("main") == race.ids["base"]

    race.go([plain(lambda repo: repo.reset_branch_async("main", race.ids["base"])), collector()], check)


# --- expiration -----------------------------------------------------------------------------------------------------------


async def cut(race):
    return await between(await icechunk.Repository.open_async(race.base), "first", "second")


def test_an_expiration_and_a_commit(spec, clock, far):
    race = Race(spec, clock, far=far)

    async def check(repo, outcomes):
        assert errors(outcomes) == [None, None]
        assert await messages(repo) == ["new", "second", "Repository initialized"]
        await assert_original(repo)

    race.go([committer("new", "a/c/0/0"), expirer(run(cut(race)))], check)


def test_an_expiration_and_a_rebase_over_what_it_forgets(spec, clock):
    """The session is based on a snapshot that expires while it commits."""
    race = Race(spec, clock)
    cutoff = run(cut(race))

    async def before(repo):
        await repo.create_branch_async("late", race.ids["base"])
        session = await repo.writable_session_async("late")
        await session.store.set("a/c/0/0", buffer(big(9)))
        await repo.reset_branch_async("late", await repo.lookup_branch_async("main"))
        return session

    async def act(repo, session):
        return await session.commit_async("late", rebase_with=icechunk.ConflictDetector())

    async def check(repo, outcomes):
        committed, expired = errors(outcomes)
        assert expired is None
        assert only(committed, "not-on-branch", "rebase-tx-log-pruned")
        assert ((await messages(repo, "late"))[0] == "late") == (committed is None)

    race.go([(before, act), expirer(cutoff)], check)


@pytest.mark.parametrize("kind", ["tag", "branch"])
def test_an_expiration_and_a_new_ref_to_what_it_forgets(spec, clock, kind):
    race = Race(spec, clock)
    base = race.ids["base"]
    make = {
        "tag": lambda repo: repo.create_tag_async("kept", base),
        "branch": lambda repo: repo.create_branch_async("kept", base),
    }[kind]

    async def check(repo, outcomes):
        made, expired = errors(outcomes)
        assert only(made, "snapshot-not-found") and expired is None
        refs = await (repo.list_tags_async() if kind == "tag" else repo.list_branches_async())
        # the expiration may drop the new ref again, as it was asked to
        assert made is None or "kept" not in refs
        await assert_original(repo)

    actors = [plain(make), expirer(run(cut(race)), delete_expired_tags=True, delete_expired_branches=True)]
    race.go(actors, check)


def test_two_expirations(spec, clock):
    race = Race(spec, clock)

    async def cuts():
        repo = await icechunk.Repository.open_async(race.base)
        return await between(repo, "base", "first"), await between(repo, "first", "second")

    async def check(repo, outcomes):
        assert errors(outcomes) == [None, None]
        assert await messages(repo) == ["second", "Repository initialized"]
        await assert_original(repo)

    race.go([expirer(cutoff) for cutoff in run(cuts())], check)


def test_an_expiration_and_a_collection(spec, clock):
    race = Race(spec, clock)

    async def check(repo, outcomes):
        assert errors(outcomes) == [None, None]
        assert await messages(repo) == ["second", "Repository initialized"]
        await assert_original(repo)

    race.go([expirer(run(cut(race))), collector()], check)


def test_a_branch_that_expires_gets_a_commit(spec, clock):
    """Nobody deletes a branch from under a commit that was acknowledged."""
    race = Race(spec, clock)

    async def check(repo, outcomes):
        committed, expired = errors(outcomes)
        assert only(committed, "commit-conflict", "branch-not-found", "snapshot-not-found") and expired is None
        branches = await repo.list_branches_async()
        if committed is None:
            assert "side" in branches and (await messages(repo, "side"))[0] == "new"

    actors = [
        committer("new", "a/c/0/0", branch="side"),
        expirer(run(cut(race)), delete_expired_branches=True),
    ]
    race.go(actors, check)


# --- upgrades -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [False, True], ids=["deleting", "keeping"])
def test_an_upgrade_and_a_commit(clock, keep, far):
    async def check(repo, outcomes):
        committed, upgraded = errors(outcomes)
        assert only(committed, "commit-conflict", "unsupported-spec-version", "branch-not-found")
        assert only(upgraded, "invalid-repository-migration")
        if committed is None and upgraded is None:
            assert await messages(repo) == ["new", *HISTORY]
        await assert_original(repo)
        assert repo.spec_version == 2

    async def upgrade(repo):
        await repo._upgrade(dry_run=False, delete_unused_v1_files=not keep, prefetch_concurrency=None)

    Race(1, clock, far=far).go([committer("new", "a/c/0/0"), plain(upgrade)], check)


@pytest.mark.parametrize("keep", [False, True], ids=["deleting", "keeping"])
@pytest.mark.parametrize("kind", ["tag", "branch", "reset", "delete tag", "delete branch", "config"])
def test_an_upgrade_and_a_change_of_refs(clock, kind, keep):
    """Who is told that it was done finds it in the upgraded repository."""
    race = Race(1, clock, also=_with_a_tag)
    base = race.ids["base"]
    make = {
        "tag": lambda repo: repo.create_tag_async("new", base),
        "branch": lambda repo: repo.create_branch_async("new", base),
        "reset": lambda repo: repo.reset_branch_async("main", base),
        "delete tag": lambda repo: repo.delete_tag_async("old"),
        "delete branch": lambda repo: repo.delete_branch_async("side"),
        "config": _save_config,
    }[kind]

    async def done(repo):
        branches, tags = await repo.list_branches_async(), await repo.list_tags_async()
        return {
            "tag": "new" in tags,
            "branch": "new" in branches,
            "reset": await repo.lookup_branch_async("main") == base,
            "delete tag": "old" not in tags,
            "delete branch": "side" not in branches,
            "config": repo.config.inline_chunk_threshold_bytes == 7,
        }[kind]

    async def check(repo, outcomes):
        made, upgraded = errors(outcomes)
        assert only(made, "unsupported-spec-version", "branch-update-conflict", "ref-not-found", "object-not-found")
        assert only(upgraded, "invalid-repository-migration")
        assert repo.spec_version == 2
        if made is None and upgraded is None:
            assert await done(repo)
        if kind != "reset":
            await assert_original(repo)

    async def upgrade(repo):
        await repo._upgrade(dry_run=False, delete_unused_v1_files=not keep, prefetch_concurrency=None)

    race.go([plain(make), plain(upgrade)], check)


async def _with_a_tag(storage, ids):
    await (await icechunk.Repository.open_async(storage)).create_tag_async("old", ids["base"])


async def _save_config(repo):
    repo._core.config.inline_chunk_threshold_bytes = 7
    await repo.save_config_async()


@pytest.mark.parametrize("keep", [False, True], ids=["deleting", "keeping"])
@pytest.mark.parametrize("kind", ["expiration", "collection"])
def test_an_upgrade_and_a_cleaning(clock, kind, keep):
    race = Race(1, clock)
    cutoff = run(_cutoff(race.base))
    clean = expirer(cutoff) if kind == "expiration" else collector()

    async def check(repo, outcomes):
        cleaned, upgraded = errors(outcomes)
        assert only(cleaned, "unsupported-spec-version")
        assert only(upgraded, "invalid-repository-migration")
        assert repo.spec_version == 2
        if kind == "expiration" and cleaned is None and upgraded is None:
            assert await messages(repo) == ["second", "Repository initialized"]
        assert (await messages(repo))[0] == "second"
        await assert_original(repo)

    async def upgrade(repo):
        await repo._upgrade(dry_run=False, delete_unused_v1_files=not keep, prefetch_concurrency=None)

    race.go([clean, plain(upgrade)], check)


async def _cutoff(storage):
    return await between(await icechunk.Repository.open_async(storage), "first", "second")


# --- everything else that moves something ----------------------------------------------------------------------------------


def test_an_amendment_and_a_commit(spec, clock, far):
    async def check(repo, outcomes):
        failed = [error for error in errors(outcomes) if error is not None]
        assert len(failed) == 1 and only(failed[0], "commit-conflict")
        assert await messages(repo) in (["new", *HISTORY], ["amended", *HISTORY[1:]])
        await assert_original(repo)

    actors = [committer("new", "a/c/0/0"), committer("amended", "a/c/0/1", amend=True)]
    Race(spec, clock, far=far).go(actors, check)


def test_rewriting_manifests_and_a_commit(spec, clock, far):
    async def check(repo, outcomes):
        committed, rewritten = errors(outcomes)
        assert only(committed) and only(rewritten, "commit-conflict")
        assert "new" in await messages(repo)
        await assert_original(repo)
        assert (await contents(repo))["a/c/0/0"] == b"new".ljust(1000)

    rewriter = plain(lambda repo: repo.rewrite_manifests_async("rewritten", branch="main"))
    actors = [committer("new", "a/c/0/0", solver=icechunk.ConflictDetector()), rewriter]
    Race(spec, clock, far=far).go(actors, check)


def test_a_configuration_and_a_commit(spec, clock):
    async def before(repo):
        changed = await repo.reopen_async(RepositoryConfig(inline_chunk_threshold_bytes=7))
        repo._core = changed._core

    async def check(repo, outcomes):
        assert errors(outcomes) == [None, None]
        assert await messages(repo) == ["new", *HISTORY]
        assert (await icechunk.Repository.fetch_config_async(repo.storage)).inline_chunk_threshold_bytes == 7

    async def save(repo, _):
        await repo.save_config_async()

    Race(spec, clock).go([committer("new", "a/c/0/0"), (before, save)], check)


def test_two_configurations(spec, clock):
    def saver(size):
        async def before(repo):
            changed = await repo.reopen_async(RepositoryConfig(inline_chunk_threshold_bytes=size))
            repo._core = changed._core

        async def save(repo, _):
            await repo.save_config_async()

        return before, save

    async def check(repo, outcomes):
        failed = [error for error in errors(outcomes) if error is not None]
        assert len(failed) <= 1 and all(only(error, "config-updated") for error in failed)
        stored = (await icechunk.Repository.fetch_config_async(repo.storage)).inline_chunk_threshold_bytes
        assert stored in [size for size, error in zip((7, 8), errors(outcomes), strict=True) if error is None]

    Race(spec, clock).go([saver(7), saver(8)], check)


def test_the_deletion_of_a_branch_and_a_commit_to_it(spec, clock):
    async def check(repo, outcomes):
        committed, deleted = errors(outcomes)
        assert only(committed, "commit-conflict", "branch-not-found") and deleted is None
        # where the deletion came last it took a commit with it, as whoever asked for it wanted
        assert "side" not in await repo.list_branches_async()

    Race(spec, clock).go(
        [committer("new", "a/c/0/0", branch="side"), plain(lambda repo: repo.delete_branch_async("side"))], check
    )


def test_the_deletion_of_a_tag_and_its_creation(spec, clock):
    async def tagged(storage, ids):
        repo = await icechunk.Repository.open_async(storage)
        await repo.create_tag_async("v1", ids["base"])

    async def check(repo, outcomes):
        deleted, made = errors(outcomes)
        assert deleted is None and made is not None
        assert "v1" not in await repo.list_tags_async()

    race = Race(spec, clock, also=tagged)
    base = race.ids["base"]
    actors = [
        plain(lambda repo: repo.delete_tag_async("v1")),
        plain(lambda repo: repo.create_tag_async("v1", base)),
    ]
    race.go(actors, check)


def test_closing_a_repository_and_a_commit(clock):
    closed = icechunk.RepoStatus(icechunk.RepoAvailability.read_only, limited_availability_reason="moving")

    async def check(repo, outcomes):
        committed, done = errors(outcomes)
        assert done is None and only(committed, "read-only-repository")
        assert ("new" in await messages(repo)) == (committed is None)
        await repo.set_status_async(icechunk.RepoStatus(icechunk.RepoAvailability.online))

    Race(2, clock).go([committer("new", "a/c/0/0"), plain(lambda repo: repo.set_status_async(closed))], check)


def test_three_at_once_move_a_branch(spec, clock):
    """Commit, reset and deletion: whoever is told of success was the last, or stands in the history of the last."""
    race = Race(spec, clock)
    main = run(_tip(race.base))

    async def check(repo, outcomes):
        committed, reset, deleted = errors(outcomes)
        assert only(committed, "commit-conflict", "branch-not-found")
        assert only(reset, "branch-update-conflict", "ref-not-found")
        assert deleted is None and "side" not in await repo.list_branches_async()

    actors = [
        committer("new", "a/c/0/0", branch="side"),
        plain(lambda repo: repo.reset_branch_async("side", main)),
        plain(lambda repo: repo.delete_branch_async("side")),
    ]
    race.go(actors, check)


async def _tip(storage):
    return await (await icechunk.Repository.open_async(storage)).lookup_branch_async("main")


def test_moves_and_a_commit_below_what_moves(spec, clock):
    async def before(repo):
        session = await repo.rearrange_session_async("main")
        await session.move_async("/a", "/b")
        return session

    async def move(repo, session):
        return await session.commit_async("moved", rebase_with=icechunk.ConflictDetector())

    async def check(repo, outcomes):
        committed, moved = errors(outcomes)
        assert only(committed, "rebase-failed") and only(moved, "rebase-failed")
        assert committed is None or moved is None
        found = await contents(repo)
        assert ("b/zarr.json" in found) == (moved is None)
        if committed is None:
            assert found["a/c/0/0" if moved is not None else "b/c/0/0"] == b"new".ljust(1000)

    async def rooted(storage, ids):
        repo = await icechunk.Repository.open_async(storage)
        session = await repo.writable_session_async("main")
        await session.store.set("zarr.json", buffer(group_json()))
        await session.commit_async("root")

    actors = [committer("new", "a/c/0/0", solver=icechunk.ConflictDetector()), (before, move)]
    Race(spec, clock, also=rooted).go(actors, check)


@pytest.mark.parametrize("keep", [False, True], ids=["deleting", "keeping"])
def test_who_opened_a_repository_before_its_upgrade_cannot_clean_it_after(clock, keep):
    """To a client of the old format an upgraded repository looks empty: all of it would be garbage."""
    storage, _ = run(old_repository(1, clock))
    before = icechunk.Repository.open(storage)
    now = icechunk.Repository.open(storage)
    icechunk.upgrade_icechunk_repository(now, dry_run=False, delete_unused_v1_files=not keep)
    clock.set(START + 10 * DAY)
    files = set(storage._objects)
    for verb in (before.garbage_collect, before.expire_snapshots):
        with pytest.raises(icechunk.IcechunkError, match="upgraded to a newer format"):
            verb(CUTOFF)
    if not keep:
        with pytest.raises(icechunk.IcechunkError, match="upgraded to a newer format"):
            before.readonly_session("main")
    assert set(storage._objects) == files
    run(assert_whole(storage))
