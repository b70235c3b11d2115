"""No more requests at once than were allowed, from threads and from event loops alike."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import icechunk
from icechunk._driver import concurrent_map, run
from icechunk.storage.base import Storage
from icechunk.storage.limited import LimitedStorage, Places
from icechunk.storage.memory import MemoryStorage
from icechunk.storage.wrappers import Call, InterceptingStorage
from icechunk.testing.counting import CountingStorage
from icechunk.testing.storage_suite import StorageSuite, at_once


class Busy(InterceptingStorage):
    """Notes how many requests are under way; each lasts until another thread or task had a turn."""

    def __init__(self, inner: Storage) -> None:
        super().__init__(inner)
        self.now, self.most = 0, 0
        self.mutex = threading.Lock()

    concurrency = 64

    async def intercept(self, call: Call, perform: Any) -> Any:
        from icechunk._driver import pause

        with self.mutex:
            self.now += 1
            self.most = max(self.most, self.now)
        await pause(0.001)
        try:
            return await perform()
        finally:
            with self.mutex:
                self.now -= 1


class TestLimited(StorageSuite):
    picklable = False  # what is in memory is not

    @pytest.fixture
    def storage(self) -> Storage:
        return LimitedStorage(MemoryStorage(), 2)


@pytest.mark.parametrize("blocking", [True, False])
def test_requests_wait_for_their_turn(blocking: bool) -> None:
    busy = Busy(MemoryStorage())
    storage = LimitedStorage(busy, 3)

    async def put(number: int) -> None:
        await storage.put(f"a/{number}", b"x")

    work = concurrent_map(put, range(40), 20)
    run(work) if blocking else asyncio.run(work)
    assert busy.most == 3
    assert len(storage.list_objects_metadata()) == 40


def test_threads_and_several_event_loops_share_it() -> None:
    busy = Busy(MemoryStorage())
    storage = LimitedStorage(busy, 2)

    async def puts(number: int) -> None:
        await asyncio.gather(*[storage.put(f"{number}/{turn}", b"x") for turn in range(10)])

    def work(number: int) -> None:
        if number % 2:
            asyncio.run(puts(number))
        else:
            for turn in range(10):
                run(storage.put(f"{number}/{turn}", b"x"))

    at_once(6, work)
    assert busy.most in (2, 3)  # one more for a thread where tasks have all places
    assert len(storage.list_objects_metadata()) == 60


def test_whoever_gives_up_leaves_the_line() -> None:
    places = Places(1)

    async def main() -> list[str]:
        order: list[str] = []
        await places.take()

        async def come(name: str) -> None:
            blocks = await places.take()
            order.append(name)
            places.give_back(blocks)

        first, second, third = [asyncio.ensure_future(come(name)) for name in ("first", "second", "third")]
        await asyncio.sleep(0)
        first.cancel()  # while it waits
        await asyncio.sleep(0)
        places.give_back(False)
        second.cancel()  # when it was called, and has not come yet
        await asyncio.gather(first, second, third, return_exceptions=True)
        await places.take()
        return order

    assert asyncio.run(main()) == ["third"]


def test_a_closed_event_loop_takes_no_place() -> None:
    places = Places(1)
    run(places.take())
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(places.take())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    places.give_back(True)
    run(places.take())
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]
    del waiting  # who waited there goes, and gives nothing back
    assert not asyncio.run(comes(places))


async def comes(places: Places) -> bool:
    """Whether a task gets a place at once."""
    taking = asyncio.ensure_future(places.take())
    await asyncio.sleep(0)
    done = taking.done()
    taking.cancel()
    return done


@pytest.mark.parametrize("width", [1, 3])
def test_a_thread_that_holds_up_an_event_loop_does_not_wait_for_its_tasks(width: int) -> None:
    storage = LimitedStorage(Busy(MemoryStorage()), 2)

    async def put(number: int) -> None:
        await storage.put(f"a/{number}", b"x")

    async def main() -> None:
        tasks = [asyncio.ensure_future(put(number)) for number in range(6)]
        await asyncio.sleep(0)  # two of them have a place, the others wait
        run(concurrent_map(put, range(6, 10), width))
        assert not any(task.done() for task in tasks)
        await asyncio.gather(*tasks)

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)  # were it to hang, it would hang alone
    thread.start()
    thread.join(30)
    assert len(storage.list_objects_metadata()) == 10


def test_the_configuration_says_how_many() -> None:
    import numpy as np
    import zarr

    for limit in (None, 2):
        busy = Busy(CountingStorage(MemoryStorage()))
        config = icechunk.RepositoryConfig(max_concurrent_requests=limit, inline_chunk_threshold_bytes=0)
        repo = icechunk.Repository.create(busy, config)
        with repo.transaction("main", message="many") as store:
            zarr.create_array(store, name="a", data=np.arange(40), chunks=(1,))
        busy.most = 0
        array = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")
        assert array[:].tolist() == list(range(40))
        assert busy.most == 2 if limit else busy.most > 2
