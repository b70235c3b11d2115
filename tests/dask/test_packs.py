"""Dask into storage that is far away: every worker packs its small chunks, and none is missing when all are merged."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr

import icechunk
from icechunk._driver import run
from icechunk.dask import store_dask
from icechunk.distributed import ParallelWrite
from icechunk.format.chunk_table import NATIVE
from icechunk.format.ids import format_id
from icechunk.testing.latency import LatencyStorage
from tests.packs import small_packs

ROWS = 240
VALUES = np.arange(ROWS * 90, dtype="f8").reshape(ROWS, 90) + 1


@pytest.fixture(autouse=True)
def small_packs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process; in others the first 32 chunks of a worker are alone, as usual."""
    small_packs(monkeypatch, alone=2, chunks=5, size=720)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return tmp_path / "repo"


@pytest.fixture
def repo(files: Path) -> icechunk.Repository:
    """One of files, of which requests are worth having under way at once."""
    return icechunk.Repository.create(LatencyStorage(icechunk.local_filesystem_storage(str(files))))


@pytest.fixture
def session(repo: icechunk.Repository) -> icechunk.Session:
    """A session with the array `a`, of a chunk for each row."""
    session = repo.writable_session("main")
    options: dict[str, Any] = {"shape": VALUES.shape, "chunks": (1, 90), "dtype": "f8", "fill_value": 0}
    zarr.create_array(session.store, name="a", compressors=None, **options)
    session.commit("array")
    return repo.writable_session("main")


def assert_stored(repo: icechunk.Repository, files: Path, expected: Any, *, leftovers: int = 0) -> None:
    """Read by somebody else; most chunks are in packs, and every object is referred to."""
    session = icechunk.Repository.open(repo.storage).readonly_session("main")
    np.testing.assert_array_equal(zarr.open_array(session.store, path="a", mode="r")[...], expected)
    workspace = session._workspace
    table = run(workspace.chunk_table(run(workspace.array("/a"))))
    table = table.take(np.flatnonzero(table.kind == NATIVE))
    assert (table.offset > 0).sum() > len(table) / 3
    needed = {format_id(row.tobytes()) for row in table.native_ids()}
    stored = {file.name for file in (files / "chunks").glob("*")}
    assert needed <= stored
    assert len(stored - needed) <= leftovers


def target_of(fork: icechunk.Session) -> zarr.Array:
    return zarr.open_array(fork.store, path="a")


def test_every_scheduler(repo: icechunk.Repository, session: icechunk.Session, files: Path, scheduler: str) -> None:
    fork = session.fork()
    target = target_of(fork)
    store_dask(sources=[da.from_array(VALUES, chunks=(60, 90))], targets=[target])
    np.testing.assert_array_equal(target[::7], VALUES[::7])
    session.merge(fork)
    np.testing.assert_array_equal(target_of(session)[::11], VALUES[::11])
    session.commit("values")
    assert_stored(repo, files, VALUES)


def test_on_top_of_what_is_not_stored_yet(
    repo: icechunk.Repository, session: icechunk.Session, files: Path, scheduler: str
) -> None:
    """What the session wrote before, and what the fork wrote before, is there for workers that change parts of chunks."""
    target_of(session)[:100] = 5
    fork = session.fork()
    target = target_of(fork)
    target[100:200] = 6
    part = da.from_array(VALUES[50:170, :40], chunks=(60, 40))
    store_dask(sources=[part], targets=[target], regions=[(slice(50, 170), slice(0, 40))])
    expected = np.zeros_like(VALUES)
    expected[:100], expected[100:200] = 5, 6
    expected[50:170, :40] = VALUES[50:170, :40]
    np.testing.assert_array_equal(target[...], expected)
    session.merge(fork)
    target_of(session)[230:] = expected[230:] = 8
    session.commit("values")
    assert_stored(repo, files, expected, leftovers=100)


def test_fewer_rows_afterwards(
    repo: icechunk.Repository, session: icechunk.Session, files: Path, scheduler: str
) -> None:
    fork = session.fork()
    store_dask(sources=[da.from_array(VALUES, chunks=(60, 90))], targets=[target_of(fork)])
    session.merge(fork)
    target = target_of(session)
    target.resize((150, 90))
    target.append(VALUES[:30] * 2)
    session.commit("values")
    assert_stored(repo, files, np.concatenate((VALUES[:150], VALUES[:30] * 2)), leftovers=100)


def write_part(fork: icechunk.ForkSession, part: tuple[int, int]) -> None:
    write_rows(fork, *part)


def write_rows(fork: icechunk.ForkSession, start: int, stop: int) -> icechunk.ForkSession:
    target_of(fork)[start:stop] = VALUES[start:stop]
    return fork


def test_forks_in_other_processes(repo: icechunk.Repository, session: icechunk.Session, files: Path, pool: Any) -> None:
    """The fork comes with chunks that only it has, and returns with more."""
    target_of(session)[:10] = VALUES[:10]
    forks = [session.fork() for _ in range(3)]
    for number, fork in enumerate(forks):
        target_of(fork)[10 + 5 * number : 15 + 5 * number] = VALUES[10 + 5 * number : 15 + 5 * number]
    parts = [(25, 100), (100, 170), (170, ROWS)]
    returned = [pool.submit(write_rows, fork, *part) for fork, part in zip(forks, parts, strict=True)]
    session.merge(*(future.result() for future in returned))
    session.commit("values")
    assert_stored(repo, files, VALUES)


@pytest.mark.parametrize("processes", [False, True], ids=["threads", "processes"])
def test_parallel_write(
    repo: icechunk.Repository, session: icechunk.Session, files: Path, pool: Any, processes: bool
) -> None:
    parts = [(start, start + 60) for start in range(0, ROWS, 60)]
    with ThreadPoolExecutor(3) as threads, ParallelWrite(session, message="rows") as write:
        write.map(write_part, parts, executor=pool if processes else threads)
    assert_stored(repo, files, VALUES)
