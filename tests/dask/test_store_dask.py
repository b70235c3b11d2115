"""Dask arrays into the arrays of a fork."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import zarr

import icechunk
from icechunk.dask import Report, computing_meta, merge_sessions_array_kwargs, session_merge_reduction, store_dask
from icechunk.distributed import extract_session

from .conftest import committed, make, values


def fork_of(session: icechunk.Session, name: str = "a") -> tuple[icechunk.ForkSession, zarr.Array]:
    fork = session.fork()
    return fork, zarr.open_array(fork.store, path=name)


def test_every_scheduler(repo: icechunk.Repository, session: icechunk.Session, scheduler: str) -> None:
    fork, target = fork_of(session)
    result = store_dask(sources=[da.from_array(values(), chunks=(3, 4))], targets=[target])
    assert result == fork
    session.merge(result)
    session.commit("values")
    np.testing.assert_array_equal(committed(repo), values())


def test_several_arrays_and_regions(
    repo: icechunk.Repository, session: icechunk.Session, elsewhere: dict[str, Any]
) -> None:
    make(session, "b")
    make(session, "scalar", shape=(), chunks=())
    fork, a = fork_of(session)
    b, scalar = zarr.open_array(fork.store, path="b"), zarr.open_array(fork.store, path="scalar")
    source = da.from_array(values(), chunks=(3, 2))
    result = store_dask(
        sources=[source[:6], source[6:, :2], da.from_array(values(), chunks=(12, 6)), da.ones((), chunks=())],
        targets=[a, a, b, scalar],
        regions=[(slice(6, 12),), (slice(0, 6), slice(4, 6)), None, None],
        split_every=2,
        **elsewhere,
    )
    session.merge(result)
    session.commit("values")
    expected = np.full((12, 6), -1.0)
    expected[6:], expected[:6, 4:] = values()[:6], values()[6:, :2]
    np.testing.assert_array_equal(committed(repo), expected)
    np.testing.assert_array_equal(committed(repo, "b"), values())
    assert committed(repo, "scalar") == 1


def test_arrays_created_in_the_fork(
    repo: icechunk.Repository, session: icechunk.Session, elsewhere: dict[str, Any]
) -> None:
    fork = session.fork()
    target = make(fork, "new")
    session.merge(store_dask(sources=[da.from_array(values(), chunks=(3, 6))], targets=[target], **elsewhere))
    session.commit("values")
    np.testing.assert_array_equal(committed(repo, "new"), values())


def test_written_chunks_are_visible_in_the_fork(session: icechunk.Session, elsewhere: dict[str, Any]) -> None:
    _, target = fork_of(session)
    store_dask(sources=[da.from_array(values(), chunks=(3, 6))], targets=[target], **elsewhere)
    np.testing.assert_array_equal(target[...], values())


def test_chunks_of_nothing_but_the_fill_value_are_deleted(
    repo: icechunk.Repository, session: icechunk.Session, elsewhere: dict[str, Any]
) -> None:
    zarr.open_array(session.store, path="a")[...] = 5
    session.commit("fives")
    session = repo.writable_session("main")
    _, target = fork_of(session)
    new = values()
    new[3:9] = -1
    session.merge(store_dask(sources=[da.from_array(new, chunks=(3, 6))], targets=[target], **elsewhere))
    session.commit("less")
    np.testing.assert_array_equal(committed(repo), new)
    kept = repo.readonly_session("main")
    assert kept.chunk_type("/a", [1, 0]) == icechunk.ChunkType.uninitialized
    assert kept.chunk_type("/a", [0, 0]) == icechunk.ChunkType.inline


def test_shards(repo: icechunk.Repository, session: icechunk.Session, elsewhere: dict[str, Any]) -> None:
    make(session, "sharded", shards=(6, 6), compressors="auto")
    _, target = fork_of(session, "sharded")
    session.merge(store_dask(sources=[da.from_array(values(), chunks=(6, 6))], targets=[target], **elsewhere))
    session.commit("values")
    np.testing.assert_array_equal(committed(repo, "sharded"), values())
    _, target = fork_of(repo.writable_session("main"), "sharded")
    with pytest.raises(ValueError, match="shards of 6"):
        store_dask(sources=[da.from_array(values(), chunks=(3, 6))], targets=[target])


def test_chunks_that_do_not_fit_are_refused_before_anything_runs(session: icechunk.Session) -> None:
    fork, target = fork_of(session)
    ran: list[int] = []
    source = da.from_array(values(), chunks=(2, 6)).map_blocks(lambda block: ran.append(1) or block, dtype="f8")
    with pytest.raises(ValueError, match="blocks 0 and 1 would both write chunk 0"):
        store_dask(sources=[source], targets=[target])
    assert not ran or ran == [1], "only what dask needs to know the type"
    assert not fork.has_uncommitted_changes


def test_chunks_that_do_not_fit_may_be_insisted_on(session: icechunk.Session) -> None:
    _, target = fork_of(session)
    source = da.from_array(values(), chunks=(2, 6))
    store_dask(sources=[source], targets=[target], safe_chunks=False, scheduler="synchronous")
    np.testing.assert_array_equal(target[...], values())


def test_tasks_that_overwrite_each_other_are_reported(session: icechunk.Session, elsewhere: dict[str, Any]) -> None:
    _, target = fork_of(session)
    source = da.from_array(values(), chunks=(2, 6))
    with pytest.warns(icechunk.MergeOverlapWarning, match="12 chunks of /a"):
        store_dask(sources=[source], targets=[target], safe_chunks=False, **elsewhere)


def test_chunks_collected_before_the_commit_are_missed(
    repo: icechunk.Repository, session: icechunk.Session, elsewhere: dict[str, Any]
) -> None:
    make(session, "large", shape=(400, 6), chunks=(100, 6))
    _, target = fork_of(session, "large")
    session.merge(store_dask(sources=[da.ones((400, 6), chunks=(100, 6))], targets=[target], **elsewhere))
    repo.garbage_collect(datetime.now(UTC) + timedelta(minutes=1))
    with pytest.raises(icechunk.SessionStateError, match="garbage collection"):
        session.commit("too late")


def test_storages_are_told_before_a_report_leaves_the_process() -> None:
    pickled = []

    class Flushing:
        def __reduce__(self) -> Any:
            pickled.append(self)
            return int, ()

    report, here = Report({(0,): None}), Flushing()
    report.add(Report({(1,): None}, storages={id(here): here}))
    report.add(Report({(1,): None}, first_chunks=[b"first"]))
    arrived = pickle.loads(pickle.dumps(report))
    assert pickled == [here]
    assert arrived.refs == {(0,): None, (1,): None}
    assert arrived.first_chunks == [b"first"]


def test_a_task_that_fails_half_way_leaves_nothing(session: icechunk.Session, elsewhere: dict[str, Any]) -> None:
    fork, target = fork_of(session)

    def fail(block: np.ndarray, block_id: tuple[int, ...] = ()) -> np.ndarray:
        if block_id[0] == 3:
            raise RuntimeError("no luck")
        return block

    source = da.from_array(values(), chunks=(3, 6)).map_blocks(fail, dtype="f8", meta=np.empty((0, 0)))
    with pytest.raises(RuntimeError, match="no luck"):
        store_dask(sources=[source], targets=[target], **elsewhere)
    assert not fork.has_uncommitted_changes


def test_empty_sources(repo: icechunk.Repository, session: icechunk.Session) -> None:
    make(session, "empty", shape=(0, 6))
    _, target = fork_of(session, "empty")
    session.merge(store_dask(sources=[da.zeros((0, 6), chunks=(1, 6))], targets=[target]))
    session.commit("nothing")
    assert committed(repo, "empty").shape == (0, 6)


def test_one_source_needs_no_lists(session: icechunk.Session) -> None:
    fork, target = fork_of(session)
    assert store_dask(sources=da.from_array(values(), chunks=(3, 6)), targets=target) == fork
    np.testing.assert_array_equal(target[...], values())


def test_memory_storage_with_threads() -> None:
    repo = icechunk.Repository.create(icechunk.in_memory_storage())
    session = repo.writable_session("main")
    make(session, "a")
    _, target = fork_of(session)
    session.merge(store_dask(sources=[da.from_array(values(), chunks=(3, 6))], targets=[target]))
    session.commit("values")
    np.testing.assert_array_equal(committed(repo), values())


def test_only_arrays_of_forks(session: icechunk.Session) -> None:
    source = da.from_array(values(), chunks=(3, 6))
    with pytest.raises(TypeError, match=r"only accepts.*ForkSession.*session\.fork"):
        store_dask(sources=[source], targets=[zarr.open_array(session.store, path="a")])
    with pytest.raises(TypeError, match="no session in a MemoryStore"):
        store_dask(sources=[source], targets=[zarr.create_array({}, shape=(12, 6), dtype="f8")])
    with pytest.raises(TypeError, match="no session in a ndarray"):
        store_dask(sources=[source], targets=[values()])


def test_arguments_that_make_no_sense(session: icechunk.Session) -> None:
    _, target = fork_of(session)
    source = da.from_array(values(), chunks=(3, 6))
    with pytest.raises(ValueError, match="must be dask"):
        store_dask(sources=[values()], targets=[target])
    with pytest.raises(ValueError, match="Different number"):
        store_dask(sources=[source], targets=[])
    with pytest.raises(ValueError, match="nothing to store"):
        store_dask(sources=[], targets=[])
    with pytest.raises(TypeError, match="compute"):
        store_dask(sources=[source], targets=[target], compute=False)


def test_merging_the_forks_behind_stored_arrays(session: icechunk.Session) -> None:
    fork, target = fork_of(session)
    stored = da.store(
        [da.from_array(values(), chunks=(3, 6))],
        [target],
        lock=False,
        compute=False,
        return_stored=True,
        load_stored=False,
    )
    merged = session_merge_reduction(list(stored) if isinstance(stored, tuple) else stored, split_every=2)
    assert merged == fork
    np.testing.assert_array_equal(target[...], values())


def test_the_names_beside_it(session: icechunk.Session) -> None:
    fork, target = fork_of(session)
    assert extract_session(target, axis=(0,), keepdims=True) == fork
    assert merge_sessions_array_kwargs([fork, [fork]], axis=(0,), keepdims=False) == fork
    assert merge_sessions_array_kwargs(fork, computing_meta=True).dtype == object

    @computing_meta
    def add(one: int, two: int = 0) -> int:
        return one + two

    assert add(1, two=2) == 3
    assert add(1, computing_meta=True).shape == (1,)
    assert dask.utils.has_keyword(add, "computing_meta")
