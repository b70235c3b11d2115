"""Every request of every verb that looks after a repository fails once, loses its answer once, and is the last one once.

Whatever happens the repository is whole and no commit is gone; where a verb reports success its work is done; and where
it does not, doing it again finishes the work, whatever the first attempt left.
"""

from __future__ import annotations

import pytest

import icechunk
from icechunk._driver import run
from icechunk.testing.faults import FaultyStorage, Stopped, every_fault, record_calls
from tests.aging import CUTOFF, DAY, ORIGINAL, START, Clock, between, old_repository
from tests.invariants import assert_whole, contents, messages, unreachable

OFF_MAIN = {"second", "first", "base"}


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


class Verb:
    """What is done to a repository, and how to see that it is done. `before` makes the repository ready for it."""

    specs = (1, 2)

    async def before(self, repo):
        pass

    async def act(self, repo):
        raise AssertionError

    async def assert_done(self, repo):
        raise AssertionError


class Expire(Verb):
    async def before(self, repo):
        self.cutoff = await between(repo, "first", "second")
        await repo.create_tag_async("old", (await repo.lookup_branch_async("side")))

    async def act(self, repo):
        await repo.expire_snapshots_async(self.cutoff, delete_expired_branches=True, delete_expired_tags=True)

    async def assert_done(self, repo):
        assert await messages(repo) == ["second", "Repository initialized"]
        assert await repo.list_branches_async() == {"main"}
        assert await repo.list_tags_async() == set()


class Collect(Verb):
    async def act(self, repo):
        summary = await repo.garbage_collect_async(CUTOFF)
        if summary.objects_failed_to_delete:
            raise icechunk.StorageError("; ".join(summary.delete_errors))

    async def assert_done(self, repo):
        assert not await unreachable(repo, CUTOFF)


class ExpireAndCollect(Expire):
    async def act(self, repo):
        await super().act(repo)
        await Collect().act(repo)

    async def assert_done(self, repo):
        await super().assert_done(repo)
        assert not await unreachable(repo, CUTOFF)


class Upgrade(Verb):
    specs = (1,)

    async def before(self, repo):
        await repo.create_tag_async("kept", await repo.lookup_branch_async("main"))
        await repo.create_tag_async("gone", await repo.lookup_branch_async("main"))
        await repo.delete_tag_async("gone")
        config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=13)
        await (await repo.reopen_async(config)).save_config_async()

    delete_old_files = True

    async def act(self, repo):
        if repo.spec_version == 1:
            await repo._upgrade(dry_run=False, delete_unused_v1_files=self.delete_old_files, prefetch_concurrency=None)

    async def assert_done(self, repo):
        assert repo.spec_version == 2
        assert await repo.list_branches_async() == {"main", "side"}
        assert await repo.list_tags_async() == {"kept"}
        assert repo.config.inline_chunk_threshold_bytes == 13
        with pytest.raises(icechunk.AlreadyExistsError):
            await repo.create_tag_async("gone", await repo.lookup_branch_async("main"))


class UpgradeAndKeep(Upgrade):
    delete_old_files = False


class RewriteManifests(Verb):
    async def act(self, repo):
        splitting = icechunk.ManifestSplittingConfig.from_dict(
            {icechunk.ManifestSplitCondition.AnyArray(): {icechunk.ManifestSplitDimCondition.Any(): 1}}
        )
        config = icechunk.RepositoryConfig(manifest=icechunk.ManifestConfig(splitting=splitting))
        await (await repo.reopen_async(config)).rewrite_manifests_async("rewritten", branch="main")

    async def assert_done(self, repo):
        assert "rewritten" in await messages(repo)
        assert len(await repo.list_manifest_files_async(await repo.lookup_branch_async("main"))) == 3


class AmendManifests(RewriteManifests):
    specs = (2,)

    async def act(self, repo):
        await repo.rewrite_manifests_async("rewritten", branch="main", commit_method="amend")

    async def assert_done(self, repo):
        assert await messages(repo) == ["rewritten", "first", "base", "Repository initialized"]


class SaveConfig(Verb):
    async def act(self, repo):
        config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=7)
        await (await repo.reopen_async(config)).save_config_async()

    async def assert_done(self, repo):
        assert repo.config.inline_chunk_threshold_bytes == 7


class ReplaceConfig(SaveConfig):
    async def before(self, repo):
        config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=8)
        await (await repo.reopen_async(config)).save_config_async()


class Close(Verb):
    specs = (2,)

    async def act(self, repo):
        status = icechunk.RepoStatus(icechunk.RepoAvailability.read_only, limited_availability_reason="moving")
        await repo.set_status_async(status)

    async def assert_done(self, repo):
        status = await repo.get_status_async()
        assert status.availability == icechunk.RepoAvailability.read_only
        with pytest.raises(icechunk.ReadOnlyError):
            await repo.writable_session_async("main")


class Describe(Verb):
    specs = (2,)

    async def act(self, repo):
        await repo.update_metadata_async({"title": "old things"})

    async def assert_done(self, repo):
        assert await repo.get_metadata_async() == {"title": "old things"}


class Switch(Verb):
    specs = (2,)

    async def act(self, repo):
        await repo.set_feature_flag_async("create_tag", False)

    async def assert_done(self, repo):
        assert [flag.name for flag in await repo.disabled_feature_flags_async()] == ["create_tag"]


VERBS = [
    Expire, Collect, ExpireAndCollect, Upgrade, UpgradeAndKeep, RewriteManifests, AmendManifests, SaveConfig,
    ReplaceConfig, Close, Describe, Switch,
]  # fmt: skip


@pytest.mark.parametrize(
    ("verb", "spec"),
    [pytest.param(verb, spec, id=f"{verb.__name__}-spec{spec}") for verb in VERBS for spec in verb.specs],
)
def test_whatever_fails_nothing_breaks_and_the_next_attempt_finishes(verb, spec, clock):
    run(_try_every_fault(verb(), spec, clock))


async def _try_every_fault(verb, spec, clock):
    base, _ = await old_repository(spec, clock)
    await verb.before(await icechunk.Repository.open_async(base))
    now = START + 10 * DAY
    clock.set(now)

    async def act(storage):
        await verb.act(await icechunk.Repository.open_async(storage))

    calls = await record_calls(base.copy(), act)
    assert len(calls) > 2
    for fault in every_fault(calls):
        clock.set(now)
        inner = base.copy()
        failed = False
        try:
            await act(FaultyStorage(inner, fault))
        except Stopped:
            failed = True
        except icechunk.IcechunkError:
            failed = True
            assert fault.how != "stop", f"{fault}: something swallowed the stop"
        try:
            repo = await assert_whole(inner)
            assert ORIGINAL.items() <= (await contents(repo)).items()
            if failed:
                await act(inner)
                repo = await assert_whole(inner)
                assert ORIGINAL.items() <= (await contents(repo)).items()
            await verb.assert_done(repo)
        except BaseException as error:
            error.add_note(f"{fault}, {calls[fault.nth]}, {'failed' if failed else 'reported as done'}")
            raise
