"""Caches: what is kept, and loading once what many want at the same time."""

import asyncio
import os
import threading

import pytest

from icechunk._driver import concurrent_map, run
from icechunk.cache import WeightedCache


@pytest.fixture
def cache():
    return WeightedCache(100, len)


def fetching(*values, before=None):
    """A fetch that gives the values one after the other, an exception by raising it; and the list of calls."""
    calls = []

    async def fetch():
        calls.append(None)
        if before is not None:
            await before()
        value = values[min(len(calls), len(values)) - 1]
        if isinstance(value, BaseException):
            raise value
        return value

    return fetch, calls


# --- what is kept -------------------------------------------------------------------------------------------------------


def test_those_not_used_for_longest_are_dropped(cache):
    for key in "abc":
        cache.put(key, key * 40)
        assert cache.get("a") == "a" * 40
    assert cache.get("b") is None and cache.get("c") == "c" * 40


def test_what_is_too_heavy_is_not_kept(cache):
    cache.put("a", "x" * 40)
    cache.put("a", "x" * 101)
    assert cache.get("a") is None
    cache.put("b", "y" * 100)
    assert cache.get("b") is not None
    cache.drop("b")
    cache.drop("b")
    assert cache.get("b") is None


# --- loading once -------------------------------------------------------------------------------------------------------


def test_one_loads_and_all_others_wait(cache):
    fetch, calls = fetching("value", before=lambda: asyncio.sleep(0))

    async def load_many():
        return await asyncio.gather(*(cache.load("key", fetch) for _ in range(20)))

    assert asyncio.run(load_many()) == ["value"] * 20 and len(calls) == 1


def test_threads_wait_for_each_other(cache):
    begun, go_on = threading.Event(), threading.Event()

    async def hold():
        begun.set()
        assert go_on.wait(10)

    fetch, calls = fetching("value", before=hold)
    found = []
    threads = [threading.Thread(target=lambda: found.append(run(cache.load("key", fetch)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert begun.wait(10)
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert found == ["value"] * 4 and len(calls) == 1


def test_all_get_the_error_of_the_one_who_loads(cache):
    fetch, calls = fetching(LookupError("gone"), before=lambda: asyncio.sleep(0))

    async def load_many():
        return await asyncio.gather(*(cache.load("key", fetch) for _ in range(3)), return_exceptions=True)

    assert [str(error) for error in asyncio.run(load_many())] == ["gone"] * 3 and len(calls) == 1
    again, _ = fetching("value")
    assert run(cache.load("key", again)) == "value"


def test_a_value_that_cannot_be_weighed_leaves_nobody_waiting():
    def weigh(value):
        raise ValueError("damaged")

    cache = WeightedCache(100, weigh)
    fetch, _ = fetching("value")
    for _ in range(2):
        with pytest.raises(ValueError, match="damaged"):
            run(cache.load("key", fetch))


# --- cancellation -------------------------------------------------------------------------------------------------------


def test_when_the_one_who_loads_is_cancelled_another_takes_over(cache):
    async def main():
        fetch, calls = fetching("value", before=lambda: asyncio.sleep(0.001))
        first, second = asyncio.create_task(cache.load("key", fetch)), asyncio.create_task(cache.load("key", fetch))
        while not calls:
            await asyncio.sleep(0)
        first.cancel()
        assert await second == "value"
        assert first.cancelled() and len(calls) == 2

    asyncio.run(main())


def test_who_waits_and_is_cancelled_does_not_take_over(cache):
    async def main():
        forever = asyncio.Event()
        fetch, calls = fetching("value", before=forever.wait)
        tasks = [asyncio.create_task(cache.load("key", fetch)) for _ in range(3)]
        while not calls:
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        _, pending = await asyncio.wait(tasks, timeout=10)
        assert not pending and all(task.cancelled() for task in tasks) and len(calls) == 1

    asyncio.run(main())


def test_a_failure_stops_all_who_wait(cache):
    async def main():
        forever = asyncio.Event()
        fetch, _ = fetching("value", before=forever.wait)
        begun = []

        async def work(item):
            begun.append(item)
            if item == 3:
                await asyncio.sleep(0)
                raise LookupError("one failed")
            return await cache.load("key", fetch)

        with pytest.raises(LookupError):
            await asyncio.wait_for(concurrent_map(work, range(100), 4), 10)
        assert begun == [0, 1, 2, 3]

    asyncio.run(main())


# --- threads and event loops --------------------------------------------------------------------------------------------


def test_a_thread_does_not_wait_for_a_task(cache):
    async def main():
        forever = asyncio.Event()
        slow, _ = fetching("slow", before=forever.wait)
        quick, _ = fetching("quick")
        task = asyncio.create_task(cache.load("key", slow))
        await asyncio.sleep(0)
        assert run(cache.load("key", quick)) == "quick"  # on the thread that the task needs
        forever.set()
        assert await task == "slow"

    asyncio.run(main())


def test_a_task_does_not_wait_for_a_task_of_a_loop_that_waits_for_it(cache):
    async def main():
        forever = asyncio.Event()
        slow, _ = fetching("slow", before=forever.wait)
        quick, _ = fetching("quick")
        task = asyncio.create_task(cache.load("key", slow))
        await asyncio.sleep(0)
        found = []
        elsewhere = threading.Thread(target=lambda: found.append(asyncio.run(cache.load("key", quick))), daemon=True)
        elsewhere.start()
        elsewhere.join(10)  # as zarr does it: this loop stands still meanwhile
        assert found == ["quick"]
        forever.set()
        assert await task == "slow"

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_a_thread_it_has_not(cache):
    begun, go_on = threading.Event(), threading.Event()

    async def hold():
        begun.set()
        assert go_on.wait(30)

    fetch, _ = fetching("parent", before=hold)
    thread = threading.Thread(target=lambda: run(cache.load("key", fetch)))
    thread.start()
    assert begun.wait(10)
    child = os.fork()
    if not child:
        quick, _ = fetching("child")
        done = threading.Thread(
            target=lambda: os._exit(0 if run(cache.load("key", quick)) == "child" else 1), daemon=True
        )
        done.start()
        done.join(10)
        os._exit(2)
    _, status = os.waitpid(child, 0)
    go_on.set()
    thread.join(10)
    assert os.waitstatus_to_exitcode(status) == 0
