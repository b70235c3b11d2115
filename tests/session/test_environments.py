"""The same few lines wherever Python runs: in scripts and notebooks, under any event loop, in threads, after a fork.

`use` does what users do, through the synchronous API and through zarr, on a repository that was just opened and on one
that has been used before.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback

import numpy as np
import pytest
import zarr
from zarr.core.sync import _get_loop

import icechunk
from icechunk._driver import run
from tests.invariants import assert_whole

pytestmark = [
    pytest.mark.filterwarnings("ignore::icechunk.UncommittedChangesWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
SIZE = 24


@pytest.fixture(params=[1, 2], ids=["spec1", "spec2"])
def place(request, tmp_path):
    """The path of a repository with one array in it."""
    path = str(tmp_path / "repo")
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(path), spec_version=request.param)
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="a", shape=(SIZE,), chunks=(1,), dtype="i8", fill_value=-1)
    session.commit("array")
    return path


def opened(path):
    return icechunk.Repository.open(icechunk.local_filesystem_storage(path))


def use(repo, index, *, with_zarr=True):
    """Write one element, commit, and read it back; returns the snapshot."""
    session = repo.writable_session("main")
    if with_zarr:
        zarr.open_array(session.store, path="a", mode="r+")[index] = index
    else:
        run(session.store.set(f"a/c/{index}", zarr.core.buffer.default_buffer_prototype().buffer.from_bytes(b"x" * 9)))
    snapshot = session.commit(f"element {index}", rebase_with=icechunk.ConflictDetector())
    reader = repo.readonly_session("main")
    assert f"a/c/{index}" in list(reader.store.list())
    if with_zarr:
        assert zarr.open_array(reader.store, path="a", mode="r")[index] == index
    assert snapshot in {info.id for info in repo.ancestry(branch="main")}
    return snapshot


async def use_async(repo, index):
    """As `use`, through coroutines alone."""
    session = await repo.writable_session_async("main")
    array = await zarr.api.asynchronous.open_array(store=session.store, path="a", mode="r+")
    await array.setitem(slice(index, index + 1), np.array([index]))
    snapshot = await session.commit_async(f"element {index}", rebase_with=icechunk.ConflictDetector())
    reader = await repo.readonly_session_async("main")
    array = await zarr.api.asynchronous.open_array(store=reader.store, path="a", mode="r")
    assert (await array.getitem(index)) == index
    assert snapshot in [info.id async for info in repo.async_ancestry(branch="main")]
    return snapshot


def assert_used(path, *indices):
    repo = run(assert_whole(icechunk.local_filesystem_storage(path)))
    assert sorted(info.message for info in repo.ancestry(branch="main")) == sorted(
        [*(f"element {index}" for index in indices), "array", "Repository initialized"]
    )


# --- event loops ----------------------------------------------------------------------------------------------------------


def loops():
    found = [asyncio.new_event_loop]
    try:
        import uvloop

        found.append(uvloop.new_event_loop)
    except ImportError:
        pass
    return found


@pytest.mark.parametrize("loop", loops(), ids=lambda loop: loop.__module__.partition(".")[0])
def test_inside_a_running_loop(place, loop):
    """As in a notebook: a loop runs on this very thread, and whoever calls is one of its tasks."""
    used = opened(place)
    use(used, 0)

    async def cell():
        use(used, 1)
        use(opened(place), 2)
        await use_async(used, 3)
        await use_async(opened(place), 4)
        use(used, 5)
        snapshots = await asyncio.gather(*(use_async(used, index) for index in range(6, 12)))
        assert len(set(snapshots)) == 6
        store = used.readonly_session("main").store
        assert len([key async for key in store.list()]) == 14 == len(list(store.list()))

    runner = loop()
    try:
        runner.run_until_complete(cell())
    finally:
        runner.close()
    assert_used(place, *range(12))


def test_one_repository_under_one_loop_after_another(place):
    repo = opened(place)
    for index in range(3):
        asyncio.run(use_async(repo, index))
        use(repo, index + 10)
    assert_used(place, 0, 1, 2, 10, 11, 12)


def test_a_session_that_crosses_from_one_loop_to_another(place):
    repo = opened(place)
    session = asyncio.run(repo.writable_session_async("main"))

    async def write():
        array = await zarr.api.asynchronous.open_array(store=session.store, path="a", mode="r+")
        await array.setitem(slice(0, SIZE), np.arange(SIZE))

    asyncio.run(write())
    zarr.open_array(session.store, path="a", mode="r+")[3] = 30
    asyncio.run(session.commit_async("element 0"))
    found = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")[:]
    assert found.tolist() == [30 if index == 3 else index for index in range(SIZE)]
    assert_used(place, 0)


def test_on_the_thread_of_zarrs_own_loop(place):
    """Code that zarr calls back may call us, synchronously, from where zarr's own synchronous calls would fail."""
    repo = opened(place)
    use(repo, 0)

    async def called_back():
        use(repo, 1, with_zarr=False)
        use(opened(place), 2, with_zarr=False)
        return await use_async(repo, 3)

    asyncio.run_coroutine_threadsafe(called_back(), _get_loop()).result(timeout=60)
    assert_used(place, 0, 1, 2, 3)


def test_a_loop_goes_on_while_a_coroutine_waits_for_storage(place):
    """What takes long is done elsewhere: the loop of whoever awaits is not held up by many large chunks."""
    repo = opened(place)
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="big", shape=(8, 1 << 19), chunks=(1, 1 << 19), dtype="f8", compressors=None)

    async def main():
        turns = 0

        async def count():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(count())
        array = await zarr.api.asynchronous.open_array(store=session.store, path="big", mode="r+")
        await array.setitem(slice(None), np.ones((8, 1 << 19)))
        await session.commit_async("element 0")
        counting.cancel()
        return turns

    assert asyncio.run(main()) > 8
    assert_used(place, 0)


# --- threads --------------------------------------------------------------------------------------------------------------


def test_one_repository_in_many_threads(place):
    repo = opened(place)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda index: use(repo, index), range(12)))
    assert_used(place, *range(12))


def test_one_session_in_many_threads(place):
    repo = opened(place)
    session = repo.writable_session("main")
    array = zarr.open_array(session.store, path="a", mode="r+")
    begin = threading.Barrier(8)

    def write(part):
        begin.wait(60)
        for index in range(part, SIZE, 8):
            array[index] = index * 7

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    session.commit("element 0")
    found = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")[:]
    assert found.tolist() == [index * 7 for index in range(SIZE)]


def test_loops_in_many_threads(place):
    repo = opened(place)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda index: asyncio.run(use_async(repo, index)), range(8)))
    assert_used(place, *range(8))


# --- processes ------------------------------------------------------------------------------------------------------------


def in_fork(work):
    """Run `work` in a forked child; what went wrong there goes wrong here."""
    receiving, sending = os.pipe()
    child = os.fork()
    if not child:
        try:
            signal.alarm(60)  # a child that hangs must not outlive the test
            work()
            os.write(sending, b"well")
        except BaseException:
            os.write(sending, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    assert said == b"well", said.decode() or "the child died without a word"


@needs_fork
def test_after_a_fork(place):
    """The child goes on with a repository that was used before, with a fresh one, and with a session that is open."""
    used, fresh = opened(place), opened(place)
    use(used, 0)
    session = used.writable_session("main")
    zarr.open_array(session.store, path="a", mode="r+")[5] = 5

    def child():
        use(used, 1, with_zarr=False)
        use(fresh, 2, with_zarr=False)
        use(opened(place), 3, with_zarr=False)
        assert run(session.store.get("a/c/5")) is not None

    in_fork(child)
    use(used, 4)
    session.commit("element 5", rebase_with=icechunk.ConflictDetector())
    assert_used(place, *range(6))


@needs_fork
def test_a_fork_while_other_threads_write(place):
    """Locks that other threads hold at the moment of the fork do not hold the child up."""
    repo = opened(place)
    stop = threading.Event()

    def work(index):
        while not stop.is_set():
            session = repo.writable_session("main")
            session.commit("busy", allow_empty=True, rebase_with=icechunk.ConflictDetector())
            list(repo.readonly_session("main").store.list())

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    try:
        for index in range(5):
            in_fork(lambda index=index: use(repo, index, with_zarr=False))
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    run(assert_whole(icechunk.local_filesystem_storage(place)))
    messages = [info.message for info in repo.ancestry(branch="main")]
    assert {f"element {index}" for index in range(5)} <= set(messages)


def commit_in_worker(repo, index):
    return use(repo, index)


def write_in_worker(session, index):
    zarr.open_array(session.store, path="a", mode="r+")[index] = index
    return session


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_in_worker_processes(place, method):
    """Repositories travel by pickle, and so do forks of a session, there and back."""
    repo = opened(place)
    if method != "fork":  # zarr's own loop does not survive a fork
        use(repo, 0)
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        snapshots = [future.result(120) for future in [pool.submit(commit_in_worker, repo, i) for i in (1, 2, 3)]]
        assert len(set(snapshots)) == 3
        session = repo.writable_session("main")
        forks = [pool.submit(write_in_worker, session.fork(), index) for index in (4, 5, 6)]
        session.merge(*[future.result(120) for future in forks])
    session.commit("element 4")
    found = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")[:7]
    assert found.tolist()[1:] == [1, 2, 3, 4, 5, 6]
    assert_used(place, *([] if method == "fork" else [0]), 1, 2, 3, 4)


def test_pickles_are_small_and_fresh(place):
    """A repository takes its place and its settings along, not what it has read."""
    repo = opened(place)
    use(repo, 0)
    assert len(pickle.dumps(repo)) < 4000
    assert len(pickle.dumps(repo.readonly_session("main"))) < 4000
    again = pickle.loads(pickle.dumps(repo))
    use(again, 1)
    use(repo, 2)
    assert_used(place, 0, 1, 2)


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_an_interrupt_stops_a_synchronous_call(place):
    """Ctrl-C arrives: nothing waits on a thread that cannot be interrupted, and the repository is whole."""
    repo = opened(place)
    session = repo.writable_session("main")
    zarr.open_array(session.store, path="a", mode="r+")[0] = 0
    with pytest.raises(KeyboardInterrupt):
        original = session._workspace.assets.storage.put

        async def interrupted(*arguments, **options):
            signal.raise_signal(signal.SIGINT)
            return await original(*arguments, **options)

        session._workspace.assets.storage.put = interrupted
        try:
            session.commit("element 0")
        finally:
            del session._workspace.assets.storage.put
    session.commit("element 0")
    assert_used(place, 0)
