"""What a user sees of the verbs that look after a repository: dry runs tell what would go, and change nothing."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import numpy as np
import pytest
import zarr

import icechunk
from icechunk.storage.memory import MemoryStorage

FAR = datetime(2100, 1, 1, tzinfo=UTC)


def repository(spec: int, **options: object) -> tuple[MemoryStorage, icechunk.Repository, list[str]]:
    """Three commits, each of which replaces a chunk of 8,000 bytes."""
    storage = MemoryStorage()
    repo = icechunk.Repository.create(storage, spec_version=spec, **options)  # type: ignore[arg-type]
    ids = []
    for number in range(3):
        session = repo.writable_session("main")
        if number:
            zarr.open_array(session.store, path="a")[:] = number
        else:
            zarr.create_array(session.store, name="a", data=np.ones(1000), chunks=(1000,), compressors=None)
        ids.append(session.commit(f"commit {number}"))
    return storage, repo, ids


def state(storage: MemoryStorage) -> dict[str, bytes]:
    return {path: entry.data for path, entry in storage._objects.items()}


@pytest.mark.parametrize("spec", [1, 2])
def test_a_dry_run_of_an_expiration_prints_each_snapshot_with_its_bytes(
    spec: int, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, repo, ids = repository(spec)
    before = state(storage)
    released = repo.expire_snapshots(FAR, dry_run=True)
    printed = capsys.readouterr().out
    assert state(storage) == before
    assert released == asyncio.run(repo.expire_snapshots_async(FAR, dry_run=True)) == set(ids[:2])
    for snapshot, message in zip(ids[:2], ("commit 0", "commit 1"), strict=True):
        (line,) = [line for line in printed.splitlines() if snapshot in line]
        assert line.endswith(message)
        size = int(line[: -len(message)].split()[-2].replace(",", ""))
        assert 8_000 < size < 9_000  # the chunk and its manifest
    assert printed == f"{repo.plan_expiration(FAR)}\n"
    assert repo.expire_snapshots(FAR) == released
    freed = sum(repo.plan_expiration(FAR).sizes.values())
    assert freed == 0


@pytest.mark.parametrize("spec", [1, 2])
def test_a_dry_run_of_a_collection_counts_what_the_collection_deletes(spec: int) -> None:
    storage, repo, _ = repository(spec)
    planned = repo.plan_expiration(FAR)
    repo.expire_snapshots(FAR)
    before = state(storage)
    dry = repo.garbage_collect(FAR, dry_run=True)
    assert state(storage) == before
    assert repo.garbage_collect(FAR) == dry
    assert dry.snapshots_deleted == dry.chunks_deleted == dry.manifests_deleted == 2
    metadata = sum(len(data) for path, data in before.items() if path.split("/")[0] in ("snapshots", "transactions"))
    assert sum(planned.sizes.values()) <= dry.bytes_deleted <= sum(planned.sizes.values()) + metadata


def test_a_dry_run_of_an_upgrade_prints_what_it_would_write(capsys: pytest.CaptureFixture[str]) -> None:
    storage, repo, ids = repository(1)
    repo.create_tag("v1", ids[1])
    before = state(storage)
    assert icechunk.upgrade_icechunk_repository(repo, dry_run=True) is repo
    printed = capsys.readouterr().out
    assert state(storage) == before and repo.spec_version == 1
    assert printed.startswith("Upgrade to format version 2: 4 snapshots, 1 branches, 1 tags")
    assert f"branch main -> {ids[2]}" in printed and f"tag v1 -> {ids[1]}" in printed


def test_an_upgraded_repository_keeps_what_its_user_decided() -> None:
    _, repo, _ = repository(1, virtual_drift="warn", anonymous_virtual_access=True)
    repo.set_default_commit_metadata({"who": "me"})
    upgraded = icechunk.upgrade_icechunk_repository(repo, dry_run=False)
    assert upgraded.default_commit_metadata() == {"who": "me"}
    assert upgraded._core.virtual_policy.drift == "warn" and upgraded._core.virtual_policy.anonymous is True
