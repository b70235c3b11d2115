"""Nothing that stands in a file of a repository, and no name that a user gives, leads out of the storage's root."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import icechunk
from icechunk._driver import run
from icechunk.format.repo_info import RepoInfo
from icechunk.storage.wrappers import Call, InterceptingStorage

OUTSIDE = [
    "../secret",
    "../../secret",
    "x/../../secret",
    "/etc/passwd",
    "..",
    "a//b",
    "",
    "a\0b",
    "C:\\secret",
    "..\\secret",
]


class Watched(InterceptingStorage):
    """Notes which paths were asked for, and by whom they were refused."""

    def __init__(self, inner: icechunk.Storage) -> None:
        super().__init__(inner)
        self.paths: set[str] = set()

    async def intercept(self, call: Call, perform: Any) -> Any:
        result = await perform()
        self.paths |= set(call.paths)
        return result


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """The root of a repository; what lies beside it stays as it is."""
    (tmp_path / "secret").write_bytes(b"secret")
    yield tmp_path / "repo"
    assert (tmp_path / "secret").read_bytes() == b"secret"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["repo", "secret"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_the_log_of_operations_goes_on_inside(place: Path, name: str) -> None:
    storage = Watched(icechunk.local_filesystem_storage(place))
    repo = icechunk.Repository.create(storage, spec_version=2)
    data, _ = run(storage.get("repo"))
    info = RepoInfo.decode(bytes(data), "repo")
    run(storage.put("repo", dataclasses.replace(info, before_updates=name).encode()))
    with pytest.raises(icechunk.IcechunkError):
        list(icechunk.Repository.open(storage).ops_log())
    assert not any(".." in path or path.startswith("/") for path in storage.paths)
    assert repo.list_branches() == {"main"}


@pytest.mark.parametrize("snapshot", [*OUTSIDE, "1CECHNKREP0F1RSTCMT0/../x"])
def test_refs_name_snapshots_and_nothing_else(place: Path, snapshot: str) -> None:
    storage = Watched(icechunk.local_filesystem_storage(place))
    icechunk.Repository.create(storage, spec_version=1)
    run(storage.put("refs/branch.main/ref.json", json.dumps({"snapshot": snapshot}).encode()))
    with pytest.raises(icechunk.IcechunkError):
        icechunk.Repository.open(storage).readonly_session("main")
    assert not any(".." in path or path.startswith("/") for path in storage.paths)


@pytest.mark.parametrize("spec", [1, 2])
@pytest.mark.parametrize("name", [*OUTSIDE, "a/b", "main/../../x", ".", "...", "refs/branch.x"])
def test_names_of_branches_and_tags(place: Path, spec: int, name: str) -> None:
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(place), spec_version=spec)
    tip = repo.lookup_branch("main")
    for make in (repo.create_branch, repo.create_tag):
        try:
            make(name, tip)
        except (icechunk.IcechunkError, ValueError):
            assert repo.list_branches() | repo.list_tags() in ({"main"}, {"main", name})


@pytest.mark.parametrize("snapshot", [*OUTSIDE, "x" * 20, "1CECHNKREP0F1RSTCMT0/"])
def test_ids_that_users_give(place: Path, snapshot: str) -> None:
    storage = Watched(icechunk.local_filesystem_storage(place))
    repo = icechunk.Repository.create(storage)
    for use in (
        lambda: repo.readonly_session(snapshot_id=snapshot),
        lambda: repo.lookup_snapshot(snapshot),
        lambda: repo.create_tag("t", snapshot),
        lambda: repo.list_manifest_files(snapshot),
    ):
        with pytest.raises(icechunk.IcechunkError):
            use()
    assert not any(".." in path for path in storage.paths)


@pytest.mark.parametrize("spec", [1, 2])
@given(name=st.text(st.sampled_from("ab./\\%2eF:\0é "), max_size=12))
def test_whatever_a_branch_is_called(tmp_path_factory: pytest.TempPathFactory, spec: int, name: str) -> None:
    above = tmp_path_factory.mktemp("above")
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(above / "repo"), spec_version=spec)
    try:
        repo.create_branch(name, repo.lookup_branch("main"))
    except (icechunk.IcechunkError, ValueError):
        assert repo.list_branches() == {"main"}
    else:
        assert repo.list_branches() == {"main", name}
    assert [one.name for one in above.iterdir()] == ["repo"]
    assert {one.name for one in (above / "repo").iterdir()} <= {
        *("refs", "repo", "snapshots", "transactions", "overwritten", "config.yaml", ".icechunk.lock"),
    }
