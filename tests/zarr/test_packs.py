"""zarr over a storage that is far away, where small chunks share objects: an array is what numpy says, at any moment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zarr
from tests.packs import small_packs

import icechunk
from icechunk._driver import run
from icechunk.format.chunk_table import NATIVE
from icechunk.testing.latency import LatencyStorage

PLAIN: dict[str, Any] = {"compressors": None, "fill_value": 0}


@pytest.fixture(autouse=True)
def packs_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    small_packs(monkeypatch, alone=3, chunks=4, size=300)


def far_repository(spec: int = 2) -> icechunk.Repository:
    config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=16)
    return icechunk.Repository.create(LatencyStorage(icechunk.in_memory_storage()), config, spec_version=spec)


def packed(session: icechunk.Session, path: str = "/a") -> int:
    """How many chunks of an array are in packs, stored or not."""
    workspace = session._workspace
    table = run(workspace.chunk_table(run(workspace.array(path))))
    return int(((table.kind == NATIVE) & (table.offset > 0)).sum())


def committed(repo: icechunk.Repository, path: str = "a") -> Any:
    """The array at the tip, as somebody sees it who has nothing in memory yet."""
    again = icechunk.Repository.open(repo.storage)
    return zarr.open_array(again.readonly_session("main").store, path=path, mode="r")


def test_part_of_a_chunk_that_is_not_stored_yet() -> None:
    """Which zarr reads, changes, and writes."""
    repo = far_repository()
    session = repo.writable_session("main")
    array = zarr.create_array(session.store, name="a", shape=(60, 20), chunks=(3, 10), dtype="i4", **PLAIN)
    expected = np.arange(1200, dtype="i4").reshape(60, 20)
    array[...] = expected
    assert session._workspace.packs
    for row in range(0, 60, 7):
        array[row, 3:17] = expected[row, 3:17] = row
    array[1:59, 9:11] = expected[1:59, 9:11] = -1
    assert packed(session) > 30
    assert (array[...] == expected).all()
    assert (array[10:13, 5:6] == expected[10:13, 5:6]).all()
    session.commit("all")
    assert (committed(repo)[...] == expected).all()

    session = repo.writable_session("main")
    array = zarr.open_array(session.store, path="a")
    array[::5, ::2] = expected[::5, ::2] = 7  # parts of chunks in packs of the commit before
    assert (array[...] == expected).all()
    session.commit("more")
    assert (committed(repo)[...] == expected).all()
    assert (committed(repo)[17, 4:18:3] == expected[17, 4:18:3]).all()


@pytest.mark.parametrize("stored", [False, True], ids=["not stored", "stored"])
def test_resize_and_append(stored: bool) -> None:
    repo = far_repository()
    session = repo.writable_session("main")
    array = zarr.create_array(session.store, name="a", shape=(40, 10), chunks=(2, 5), dtype="f8", **PLAIN)
    expected = np.arange(400.0).reshape(40, 10)
    array[...] = expected

    def go_on() -> Any:
        nonlocal session
        if stored:
            session.commit("so far")
            session = repo.writable_session("main")
        return zarr.open_array(session.store, path="a")

    array = go_on()
    array.resize((31, 10))
    array = go_on()
    array.resize((50, 10))
    expected = np.concatenate((expected[:32], np.zeros((18, 10))))
    expected[31] = array[31]  # of a chunk that was cut in two zarr leaves the rest
    assert (array[...] == expected).all()
    array = go_on()
    array.append(np.full((9, 10), 5.0))
    expected = np.concatenate((expected, np.full((9, 10), 5.0)))
    assert (array[...] == expected).all()
    assert packed(session) > 20
    session.commit("all")
    assert (committed(repo)[...] == expected).all()


def test_parts_of_shards() -> None:
    """A shard is read in ranges, from its end first."""
    repo = far_repository()
    session = repo.writable_session("main")
    array = zarr.create_array(
        session.store, name="a", shape=(80, 6), shards=(4, 6), chunks=(1, 3), dtype="i4", fill_value=0, compressors=None
    )
    expected = np.arange(480, dtype="i4").reshape(80, 6)
    array[...] = expected
    array[5, 2] = expected[5, 2] = 99
    assert packed(session) > 15
    for look in (array, None):
        if look is None:
            session.commit("all")
            look = committed(repo)
        assert (look[::9, 1:2] == expected[::9, 1:2]).all()
        assert look[5, 2] == 99
        assert (look[...] == expected).all()


@pytest.mark.parametrize("spec", [1, 2])
@pytest.mark.parametrize("seed", range(12))
def test_any_order_of_changes(seed: int, spec: int) -> None:
    """Regions, parts of chunks, new shapes, commits, forks that are merged, and changes that are dropped."""
    rng = np.random.default_rng(seed)
    repo = far_repository(spec)
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="a", shape=(24, 12), chunks=(2, 4), dtype="i8", **PLAIN)
    expected = np.zeros((24, 12), "i8")
    session.commit("empty")
    session, saved = repo.writable_session("main"), expected.copy()
    for number in range(1, 40):
        array = zarr.open_array(session.store, path="a")
        assert (array[...] == expected).all()
        low, high = np.sort(rng.integers(0, len(expected) + 1, 2))
        left, right = np.sort(rng.integers(0, 13, 2))
        match rng.choice(["write"] * 8 + ["resize", "append", "commit", "fork", "discard"]):
            case "write":
                array[low:high, left:right] = expected[low:high, left:right] = number
            case "resize":
                rows = 2 * int(rng.integers(4, 20))
                array.resize((rows, 12))
                kept = expected[:rows]
                expected = np.concatenate((kept, np.zeros((rows - len(kept), 12), "i8")))
            case "append":
                array.append(np.full((2, 12), number))
                expected = np.concatenate((expected, np.full((2, 12), number)))
            case "fork":
                middle = len(expected) // 4 * 2
                forks = [session.fork() for _ in range(2)]
                for fork, rows in zip(forks, (slice(0, middle), slice(middle, None)), strict=True):
                    zarr.open_array(fork.store, path="a")[rows, left:right] = number
                session.merge(*forks)
                expected[:, left:right] = number
            case "commit" if session.has_uncommitted_changes:
                session.commit(f"{number}")
                assert (committed(repo)[...] == expected).all()
                session, saved = repo.writable_session("main"), expected.copy()
            case "discard":
                session.discard_changes()
                expected = saved.copy()
    if session.has_uncommitted_changes:
        session.commit("the rest")
    assert (committed(repo)[...] == expected).all()
