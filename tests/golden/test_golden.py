"""Repositories written by the Rust package over the years, read: `repos/README.md` says what each holds.

They are copied before they are opened, so that nothing can change them.
"""

from __future__ import annotations

import asyncio
import datetime
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import icechunk

REPOS = Path(__file__).parent / "repos"
FAR_FUTURE = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3650)
CONVERSATION = (  # commit messages of my-branch, newest first; main is the third
    "some more structure",
    "delete a chunk",
    "set virtual chunk",
    "fill data",
    "empty structure",
    "Repository initialized",
)
TEST_REPOS = ("test-repo-v1", "test-repo-v2-migrated")
EXPIRE_REPOS = ("expire-repo-v1-by-1.1.21", "expire-repo-v1-by-2.0.6", "expire-repo-v2-by-2.0.6")

Opener = Callable[[str], Any]


@pytest.fixture
def open_repo(tmp_path: Path) -> Opener:
    def opener(name: str) -> icechunk.Repository:
        copy = tmp_path / name
        if not copy.exists():
            shutil.copytree(REPOS / name, copy)
        return icechunk.Repository.open(icechunk.local_filesystem_storage(str(copy)))

    return opener


def keys(session: Any) -> list[str]:
    async def collect() -> list[str]:
        return sorted([key async for key in session.store.list()])

    return asyncio.run(collect())


def array(session: Any, path: str) -> Any:
    return zarr.open_array(session.store, path=path, mode="r")


def messages(repo: icechunk.Repository, **ref: str) -> list[str]:
    return [info.message for info in repo.ancestry(**ref)]


@pytest.fixture(params=sorted(path.name for path in REPOS.iterdir() if path.is_dir()))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def needs_spec_2(name: str) -> None:
    if "v2" in name and icechunk.__version__.startswith("1."):
        pytest.skip("this version cannot open format 2")


def test_every_snapshot_can_be_listed(name: str, open_repo: Opener) -> None:
    needs_spec_2(name)
    repo = open_repo(name)
    for ref in [{"branch": branch} for branch in repo.list_branches()] + [{"tag": tag} for tag in repo.list_tags()]:
        for info in repo.ancestry(**ref):
            session = repo.readonly_session(snapshot_id=info.id)
            assert session.snapshot_id == info.id
            assert all(key.endswith("zarr.json") or "/c" in key for key in keys(session))


def test_a_commit_fits_on_top(name: str, open_repo: Opener) -> None:
    needs_spec_2(name)
    repo = open_repo(name)
    before = messages(repo, branch="main")
    session = repo.writable_session("main")
    old_keys = keys(session)
    zarr.create_array(session.store, name="added", shape=(4,), chunks=(2,), dtype="i4")[:] = [1, 2, 3, 4]
    snapshot = session.commit("on top")

    again = open_repo(name)
    reader = again.readonly_session("main")
    assert again.lookup_branch("main") == snapshot
    assert messages(again, branch="main") == ["on top", *before]
    assert set(old_keys) < set(keys(reader))
    assert array(reader, "added")[:].tolist() == [1, 2, 3, 4]


def test_collection_keeps_what_is_reachable(name: str, open_repo: Opener) -> None:
    needs_spec_2(name)
    repo = open_repo(name)
    before = {branch: keys(repo.readonly_session(branch)) for branch in repo.list_branches()}
    repo.garbage_collect(FAR_FUTURE)
    again = open_repo(name)
    assert {branch: keys(again.readonly_session(branch)) for branch in again.list_branches()} == before
    assert again.garbage_collect(FAR_FUTURE, dry_run=True).bytes_deleted == 0


@pytest.mark.parametrize("name", TEST_REPOS)
class TestConversation:
    @pytest.fixture
    def repo(self, name: str, open_repo: Opener) -> Any:
        needs_spec_2(name)
        return open_repo(name)

    def test_refs(self, repo: icechunk.Repository) -> None:
        assert repo.list_branches() == {"main", "my-branch"}
        assert repo.list_tags() == {"it works!", "it also works!"}
        assert repo.lookup_branch("main") == "NXH3M0HJ7EEJ0699DPP0"
        assert repo.lookup_branch("my-branch") == repo.lookup_tag("it also works!") == "XDZ162T1TYBEJMK99NPG"
        assert repo.lookup_tag("it works!") == "4QF8JA0YPDN51MHSSYVG"

    def test_a_deleted_tag_stays_deleted(self, repo: icechunk.Repository) -> None:
        with pytest.raises(icechunk.IcechunkError):
            repo.lookup_tag("deleted")
        with pytest.raises(icechunk.IcechunkError):
            repo.create_tag("deleted", repo.lookup_branch("main"))

    def test_history(self, repo: icechunk.Repository) -> None:
        assert messages(repo, branch="my-branch") == list(CONVERSATION)
        assert messages(repo, branch="main") == list(CONVERSATION[2:])
        first = list(repo.ancestry(branch="main"))[-1]
        assert first.parent_id is None
        assert first.id == "P874YS3J196959RDHX7G"
        assert first.written_at.year == 2025

    @pytest.mark.parametrize(
        ("ref", "count", "documents"),
        [({"branch": "main"}, 13, 4), ({"branch": "my-branch"}, 17, 9), ({"tag": "it works!"}, 12, 4)],
    )
    def test_keys(self, repo: icechunk.Repository, ref: dict[str, str], count: int, documents: int) -> None:
        found = keys(repo.readonly_session(**ref))
        assert len(found) == count
        assert sum(key.endswith("zarr.json") for key in found) == documents

    def test_attributes(self, repo: icechunk.Repository) -> None:
        root = zarr.open_group(repo.readonly_session("main").store, mode="r")
        assert dict(root.attrs) == {}
        assert dict(root["group1"].attrs) == {"this": "is a nice group", "icechunk": 1, "size": 42.0}
        expected = {"this": "is a nice array", "icechunk": 1, "size": 42.0}
        assert dict(root["group1/big_chunks"].attrs) == expected

    def test_values(self, repo: icechunk.Repository) -> None:
        main = repo.readonly_session("main")
        assert array(main, "group1/small_chunks")[:].tolist() == [84] * 5
        big = array(main, "group1/big_chunks")
        for quadrant in (np.s_[:5, 5:], np.s_[5:, :5], np.s_[5:, 5:]):
            assert (big[quadrant] == 42.0).all()
        branch = repo.readonly_session("my-branch")
        assert array(branch, "group1/small_chunks")[:].tolist() == [84, 84, 84, 84, 8]
        assert np.isnan(array(branch, "group2/group3/group4/group5/inner")[:]).all()

    def test_chunk_types(self, repo: icechunk.Repository) -> None:
        main = repo.readonly_session("main")
        kinds = [int(main.chunk_type("/group1/big_chunks", [i, j])) for i in range(2) for j in range(2)]
        assert kinds == [2, 1, 1, 1]
        assert [int(main.chunk_type("/group1/small_chunks", [i])) for i in range(5)] == [3] * 5
        branch = repo.readonly_session("my-branch")
        assert int(branch.chunk_type("/group1/small_chunks", [4])) == 0

    def test_the_virtual_chunk_needs_permission(self, repo: icechunk.Repository) -> None:
        main = repo.readonly_session("main")
        assert main.all_virtual_chunk_locations() == ["s3://testbucket/can_read_old/chunk-1"]
        with pytest.raises(icechunk.IcechunkError, match="testbucket"):
            array(main, "group1/big_chunks")[:5, :5]

    def test_config(self, repo: icechunk.Repository) -> None:
        assert repo.config.inline_chunk_threshold_bytes == 12

    def test_diff(self, repo: icechunk.Repository) -> None:
        changes = repo.diff(from_branch="main", to_branch="my-branch")
        assert changes.new_arrays == {"/group2/group3/group4/group5/inner"}
        assert "/group2/group3" in changes.new_groups
        assert changes.updated_chunks["/group1/small_chunks"] == [[4]]


def test_the_migrated_repository_remembers_its_past(open_repo: Opener) -> None:
    needs_spec_2("v2")
    log = list(open_repo("test-repo-v2-migrated").ops_log())
    assert [type(update.kind).__name__.rpartition("_")[2] for update in log] == [
        "RepoMigrated",
        "TagCreated",
        "BranchCreated",
        "NewCommit",
        "TagDeleted",
        "TagCreated",
        "TagCreated",
        "NewCommit",
        "NewCommit",
        "NewCommit",
        "NewCommit",
        "RepoInitialized",
    ]


def test_split_manifests(open_repo: Opener) -> None:
    needs_spec_2("v2")
    repo = open_repo("split-repo-v2")
    history = list(repo.ancestry(branch="main"))
    assert [info.message for info in history] == [
        "write data again with more splits",
        "write data again",
        "write data",
        "empty structure",
        "Repository initialized",
    ]
    assert history[-1].id == "1CECHNKREP0F1RSTCMT0"
    counts = [len(repo.list_manifest_files(info.id)) for info in history]
    assert counts == [17, 9, 9, 0, 0]
    main = repo.readonly_session("main")
    split = array(main, "group1/split")
    assert split.metadata.dimension_names == (None, "longitude")
    assert split[:].sum() == 1400.0
    assert (split[:] == 14.0).all()
    assert array(main, "group1/small_chunks")[:].tolist() == [3] * 5
    assert len(keys(main)) == 25
    assert len(list(repo.ops_log())) == 6


@pytest.mark.parametrize("name", EXPIRE_REPOS)
@pytest.mark.parametrize(
    ("ref", "rows", "count"),
    [
        ({"branch": "main"}, [99, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0], 16),
        ({"branch": "feature"}, [0, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0], 19),
        ({"tag": "protect-b"}, [0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0], 16),
    ],
)
def test_expired_history(name: str, ref: dict[str, str], rows: list[int], count: int, open_repo: Opener) -> None:
    needs_spec_2(name)
    repo = open_repo(name)
    tips = {"main": "write j", "feature": "feature post-t2", "protect-b": "write b"}
    history = list(repo.ancestry(**ref))
    assert [info.message for info in history] == [tips[next(iter(ref.values()))], "Repository initialized"]
    session = repo.readonly_session(**ref)
    assert len(keys(session)) == count
    assert array(session, "group1/data")[:].tolist() == [[row] * 4 for row in rows]
    assert array(session, "group1/small")[:].tolist() == [0] * 4


@pytest.mark.parametrize(
    ("name", "snapshots", "size"),
    [("expire-repo-v1-by-1.1.21", 1, 781), ("expire-repo-v1-by-2.0.6", 1, 776), ("expire-repo-v2-by-2.0.6", 0, 0)],
)
def test_what_collection_finds(name: str, snapshots: int, size: int, open_repo: Opener) -> None:
    needs_spec_2(name)
    summary = open_repo(name).garbage_collect(FAR_FUTURE, dry_run=True)
    assert (summary.snapshots_deleted, summary.bytes_deleted) == (snapshots, size)
    assert (summary.chunks_deleted, summary.manifests_deleted, summary.transaction_logs_deleted) == (0, 0, 0)


def test_diffs_survive_expiration_in_format_2(open_repo: Opener) -> None:
    needs_spec_2("v2")
    repo = open_repo("expire-repo-v2-by-2.0.6")
    root = list(repo.ancestry(branch="main"))[-1].id
    changes = repo.diff(from_snapshot_id=root, to_branch="main")
    assert changes.new_arrays == {"/group1/data", "/group1/small"}
    assert len(changes.updated_chunks["/group1/data"]) == 12


def test_compressed_locations(open_repo: Opener) -> None:
    needs_spec_2("v2")
    repo = open_repo("virtual-compressed-v2")
    main = repo.readonly_session("main")
    assert main.snapshot_id == "9D6E4FWV6KYVZJ8Y95T0"
    locations = main.all_virtual_chunk_locations()
    assert sorted(locations) == [f"s3://bucket/some_long_prefix_{i:04}.bin" for i in range(1500)]
    (manifest,) = repo.list_manifest_files(main.snapshot_id)
    assert manifest.id == "WRDCD87A7MCZGTH5165G"
    assert manifest.num_chunk_refs == 1500
