"""Books of a write in many parts."""

from __future__ import annotations

import functools
import gc
import pickle
import warnings
import weakref
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
import zarr

import icechunk
from icechunk.distributed import ParallelWrite, extract_session, merge_sessions

from .conftest import committed, make, values


def write_row(fork: icechunk.ForkSession, row: int) -> None:
    zarr.open_array(fork.store, path="a")[3 * row : 3 * row + 3] = values()[3 * row : 3 * row + 3]


def travel(fork: icechunk.ForkSession) -> icechunk.ForkSession:
    return pickle.loads(pickle.dumps(fork))


def test_commits_when_all_are_back(repo: icechunk.Repository, session: icechunk.Session) -> None:
    with ParallelWrite(session, range(4), message="rows", metadata={"by": "rows"}) as write:
        for row in range(4):
            fork = travel(write.fork(row))
            write_row(fork, row)
            write.collect(row, travel(fork))
    np.testing.assert_array_equal(committed(repo), values())
    assert next(iter(repo.ancestry(branch="main"))).metadata["by"] == "rows"


def test_map_on_processes(repo: icechunk.Repository, session: icechunk.Session) -> None:
    with (
        ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool,
        ParallelWrite(session, message="rows") as write,
    ):
        write.map(write_row, range(4), executor=pool)
    np.testing.assert_array_equal(committed(repo), values())


def test_map_on_threads_and_here(repo: icechunk.Repository, session: icechunk.Session) -> None:
    write = ParallelWrite(session, range(4))
    with ThreadPoolExecutor(2) as pool:
        write.map(write_row, [2, 3], executor=pool)
    assert write.missing == (0, 1)
    write.map(write_row)
    write.commit("rows")
    np.testing.assert_array_equal(committed(repo), values())


def test_does_not_commit_while_a_part_is_missing(session: icechunk.Session) -> None:
    write = ParallelWrite(session, ["x", "y"], message="rows")
    fork = write.fork("x")
    write_row(fork, 0)
    write.collect("x", fork)
    write.fork("z")
    assert write.parts == ("x", "y", "z")
    with pytest.raises(icechunk.SessionStateError, match="2 of 3 parts are missing: 'y', 'z'"):
        write.commit()
    assert not session.has_uncommitted_changes
    with pytest.raises(icechunk.SessionStateError), write:
        pass
    assert session.branch == "main"


def test_nothing_is_merged_when_the_block_fails(session: icechunk.Session) -> None:
    with pytest.raises(KeyboardInterrupt), ParallelWrite(session, message="rows") as write:
        write.map(write_row, range(4))
        raise KeyboardInterrupt
    assert not session.has_uncommitted_changes


def test_a_retry_replaces_the_earlier_result_as_a_whole(repo: icechunk.Repository, session: icechunk.Session) -> None:
    write = ParallelWrite(session, message="rows")
    first = write.fork("rows")
    for row in range(4):
        zarr.open_array(first.store, path="a")[3 * row : 3 * row + 3] = 7
    write.collect("rows", first)
    again = write.fork("rows")
    assert write.missing == ("rows",)
    write_row(again, 0)
    write.collect("rows", again)
    write.commit()
    expected = np.full((12, 6), -1.0)
    expected[:3] = values()[:3]
    np.testing.assert_array_equal(committed(repo), expected)


class Flaky:
    """Fails for each row so many times before it writes."""

    def __init__(self, times: int) -> None:
        self.left = dict.fromkeys(range(4), times)

    def __call__(self, fork: icechunk.ForkSession, row: int) -> None:
        zarr.open_array(fork.store, path="a")[...] = 7
        if self.left[row]:
            self.left[row] -= 1
            raise OSError("a passing cloud")
        zarr.open_array(fork.store, path="a")[...] = -1
        write_row(fork, row)


def test_map_retries(repo: icechunk.Repository, session: icechunk.Session) -> None:
    gc.collect()  # what other tests dropped says so before
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with ThreadPoolExecutor(2) as pool, ParallelWrite(session, [0], message="rows") as write:
            write.map(Flaky(2), executor=pool, retries=2)
        gc.collect()
    np.testing.assert_array_equal(committed(repo)[:3], values()[:3])
    assert not [str(warning) for warning in seen if "dropped" in str(warning.message)], "failed attempts are no loss"


def test_map_lets_go_of_what_it_has(repo: icechunk.Repository, session: icechunk.Session) -> None:
    alive: weakref.WeakSet[Kept] = weakref.WeakSet()
    seen: list[int] = []

    class Kept:
        """What a cluster has of a part, for as long as somebody may ask for it."""

        def __init__(self, call: Any) -> None:
            self.call = call
            alive.add(self)

        def result(self) -> Any:
            seen.append(len(alive))
            return self.call()

    class Cluster:
        def submit(self, fn: Any, /, *args: Any) -> Kept:
            return Kept(functools.partial(fn, *args))

    with ParallelWrite(session, message="rows") as write:
        write.map(write_row, [0, 1, 1, 2, 3], executor=Cluster())
    assert seen == [4, 3, 2, 1]
    np.testing.assert_array_equal(committed(repo), values())


def test_map_gives_up_and_can_be_called_again(repo: icechunk.Repository, session: icechunk.Session) -> None:
    write, flaky = ParallelWrite(session, range(4)), Flaky(0)
    flaky.left[2] = 2
    with pytest.raises(OSError, match="a passing cloud") as caught:
        write.map(lambda fork, row: flaky(fork, row) if row == 2 else write_row(fork, row), retries=1)
    assert caught.value.__notes__ == ["while writing part 2"]
    assert write.missing == (2, 3)
    write.map(write_row)
    write.commit("rows")
    np.testing.assert_array_equal(committed(repo), values())


def test_parts_see_what_the_session_has_by_then(repo: icechunk.Repository, session: icechunk.Session) -> None:
    write = ParallelWrite(session)
    write.map(write_row, range(2))
    make(session, "late")
    make(session, "later")
    fork = write.fork("late")
    zarr.open_array(fork.store, path="late")[...] = 3
    write.collect("late", fork)
    zarr.open_array(session.store, path="late").attrs["unit"] = "K"
    fork = write.fork("later")
    assert zarr.open_array(fork.store, path="late").attrs["unit"] == "K"
    zarr.open_array(fork.store, path="later")[...] = 4
    write.collect("later", fork)
    write.commit("all")
    assert (committed(repo, "late") == 3).all()
    assert (committed(repo, "later") == 4).all()
    np.testing.assert_array_equal(committed(repo)[:6], values()[:6])


def test_a_conflict_leaves_the_parts_merged(repo: icechunk.Repository, session: icechunk.Session) -> None:
    other = repo.writable_session("main")
    make(other, "other")
    other.commit("meanwhile")
    write = ParallelWrite(session, range(4), message="rows")
    write.map(write_row)
    with pytest.raises(icechunk.ConflictError):
        write.commit()
    assert write.merge() is session
    session.rebase(icechunk.ConflictDetector())
    write.commit()
    np.testing.assert_array_equal(committed(repo), values())


def test_rebases_when_told_how(repo: icechunk.Repository, session: icechunk.Session) -> None:
    other = repo.writable_session("main")
    make(other, "other")
    other.commit("meanwhile")
    with ParallelWrite(session, range(4), message="rows", rebase_with=icechunk.ConflictDetector()) as write:
        write.map(write_row)
    np.testing.assert_array_equal(committed(repo), values())


def test_contradictions_name_the_part_and_merge_nothing(session: icechunk.Session) -> None:
    write = ParallelWrite(session)
    for part, value in (("one", 1), ("two", 2), ("three", 3)):
        fork = write.fork(part)
        if part == "three":
            del zarr.open_group(fork.store)["a"]
        else:
            zarr.open_array(fork.store, path="a")[3 * value] = value
        write.collect(part, fork)
    with pytest.raises(icechunk.SessionStateError, match="deleted and modified") as caught:
        write.commit("rows")
    assert caught.value.__notes__ == ["while merging part 'three' with those before it"]
    assert not session.has_uncommitted_changes


def test_overlapping_parts_are_reported(session: icechunk.Session) -> None:
    write = ParallelWrite(session)
    write.map(write_row, [1])
    fork = write.fork("same")
    zarr.open_array(fork.store, path="a")[3:6] = 9
    write.collect("same", fork)
    with pytest.warns(icechunk.MergeOverlapWarning, match="/a"):
        write.merge()


def test_what_is_no_result(repo: icechunk.Repository, session: icechunk.Session) -> None:
    write = ParallelWrite(session, ["x"])
    fork = session.fork()
    with pytest.raises(TypeError, match="must return the fork"):
        write.collect("x", None)
    with pytest.raises(KeyError, match="never handed out"):
        write.collect("x", fork)
    write.fork("x")
    with pytest.raises(KeyError, match="never handed out"):
        write.collect("y", fork)
    make(session, "b")
    session.commit("moved on")
    stranger = repo.writable_session("main").fork()
    with pytest.raises(ValueError, match="another session"):
        write.collect("x", stranger)


def test_wants_a_writable_session(repo: icechunk.Repository, session: icechunk.Session) -> None:
    with pytest.raises(TypeError, match="writable_session"):
        ParallelWrite(session.store)
    with pytest.raises(ValueError, match="writable_session"):
        ParallelWrite(repo.readonly_session("main"))
    with pytest.raises(TypeError, match="message"):
        ParallelWrite(session).commit()


def test_no_parts_after_the_merge(session: icechunk.Session) -> None:
    write = ParallelWrite(session)
    write.map(write_row, [0])
    assert "1 parts, 0 missing" in repr(write)
    write.merge()
    assert "merged" in repr(write)
    with pytest.raises(icechunk.SessionStateError, match="merged already"):
        write.fork(1)


def test_merge_sessions(session: icechunk.Session) -> None:
    forks = [session.fork() for _ in range(4)]
    for row, fork in enumerate(forks):
        write_row(fork, row)
    merged = merge_sessions(forks[0], [forks[1], (forks[2], forks[0])], (fork for fork in forks[3:]))
    assert merged is forks[0]
    np.testing.assert_array_equal(zarr.open_array(merged.store, path="a")[...], values())
    with pytest.raises(ValueError, match="at least one"):
        merge_sessions([])
    for wrong, name in ((session, "Session"), ("fork", "str"), (None, "NoneType")):
        with pytest.raises(TypeError, match=f"'{name}'"):
            merge_sessions(forks[0], wrong)


def test_extract_session(session: icechunk.Session) -> None:
    fork = session.fork()
    assert extract_session(zarr.open_array(fork.store, path="a")) == fork
    assert extract_session(zarr.open_array(session.store, path="a")) == session
    with pytest.raises(TypeError, match="ndarray"):
        extract_session(values())
