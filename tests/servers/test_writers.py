"""Sixteen writers, one branch: every commit that was acknowledged is in the history, once."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
import zarr

import icechunk
from icechunk.testing.storage_suite import at_once
from tests.servers.backends import Backend

WRITERS, COMMITS, COMMITS_QUICKLY = 16, 20, 2


def commit_many(backend_storage: icechunk.Storage, writers: int, commits: int) -> list[str]:
    """`writers` threads, each with a repository of its own, commit to `main`; the snapshots they were promised."""
    promised: list[str] = []
    lock = threading.Lock()

    def write(number: int) -> None:
        repo = icechunk.Repository.open(backend_storage)
        for turn in range(commits):
            session = repo.writable_session("main")
            zarr.open_array(session.store, path="a")[number * commits + turn] = 1 + number
            snapshot = session.commit(f"{number}-{turn}", rebase_with=icechunk.ConflictDetector())
            with lock:
                promised.append(snapshot)

    at_once(writers, write)
    return promised


def check_nothing_is_lost(storage: icechunk.Storage, promised: list[str], writers: int, commits: int) -> None:
    repo = icechunk.Repository.open(storage)
    history = list(repo.ancestry(branch="main"))
    assert Counter(info.id for info in history) == Counter([*promised, *[info.id for info in history[-2:]]])
    messages = Counter(info.message for info in history[:-2])
    assert messages == Counter(f"{number}-{turn}" for number in range(writers) for turn in range(commits))
    values = zarr.open_array(repo.readonly_session("main").store, path="a")[:]
    assert values.tolist() == [1 + number for number in range(writers) for _ in range(commits)]


def new_repository(storage: icechunk.Storage, spec: int, size: int) -> None:
    repo = icechunk.Repository.create(storage, spec_version=spec)
    with repo.transaction("main", message="array") as store:
        zarr.create_array(store, name="a", shape=(size,), chunks=(1,), dtype="i4", fill_value=0)


@pytest.mark.parametrize("spec", [1, 2])
def test_no_commit_is_lost(backend: Backend, spec: int, request: pytest.FixtureRequest) -> None:
    """Two commits each; twenty in slow runs, since sixteen who contend for one branch take minutes for that."""
    commits = COMMITS if request.config.getoption("--run-slow") else COMMITS_QUICKLY
    storage = backend.storage()
    new_repository(storage, spec, WRITERS * commits)
    promised = commit_many(storage, WRITERS, commits)
    assert len(promised) == WRITERS * commits
    check_nothing_is_lost(storage, promised, WRITERS, commits)
