"""How many requests the usual operations make, and how many of them one after the other: no more than stands here.

Counted in an event loop, over a storage that is presented as remote. The bounds are what is so today; whoever lowers a number
writes it down here, and whoever must raise one says why. docs/performance.md has the numbers of the Rust package beside ours.
"""

from __future__ import annotations

import asyncio

import pytest

from icechunk.storage.memory import MemoryStorage
from icechunk.testing.counting import CountingStorage
from tests.requests.operations import OPERATIONS, prepare

# by format: requests, and the longest chain
BOUNDS = {
    "open and read a chunk": {1: (7, 4), 2: (7, 4)},
    "open and list": {1: (5, 2), 2: (5, 2)},
    "open and read the history": {1: (14, 11), 2: (4, 2)},
    "open and commit a chunk": {1: (13, 8), 2: (13, 7)},
    "open and commit 177 chunks": {1: (397, 12), 2: (397, 11)},
    "the same chunk, after somebody else": {1: (29, 19), 2: (28, 18)},
    "open, expire and collect": {1: (202, 22), 2: (193, 14)},
}


# where a store is not known to look at conditions, format 1 reads a branch before it moves it
MORE_ELSEWHERE = {
    "open and commit a chunk": (1, 0),
    "open and commit 177 chunks": (1, 0),
    "the same chunk, after somebody else": (1, 0),
    "open, expire and collect": (1, 1),
}


class OfUnknownMake(CountingStorage):
    keeps_conditions = False


@pytest.fixture(scope="module")
def prepared() -> dict[int, MemoryStorage]:
    storages = {spec: MemoryStorage() for spec in (1, 2)}
    for spec, storage in storages.items():
        prepare(storage, spec)
    return storages


def copy_of(storage: MemoryStorage) -> MemoryStorage:
    twin = MemoryStorage()

    async def copy() -> None:
        async for batch in storage.list():
            for info in batch:
                data, _ = await storage.get(info.path)
                await twin.put(info.path, bytes(data))

    asyncio.run(copy())
    return twin


@pytest.mark.parametrize("spec", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("counted", [CountingStorage, OfUnknownMake])
def test_requests(prepared: dict[int, MemoryStorage], counted: type[CountingStorage], name: str, spec: int) -> None:
    counting = counted(copy_of(prepared[spec]))
    asyncio.run(OPERATIONS[name](counting))  # type: ignore[arg-type]
    most, deepest = BOUNDS[name][spec]
    if counted is OfUnknownMake and spec == 1:
        more, deeper = MORE_ELSEWHERE.get(name, (0, 0))
        most, deepest = most + more, deepest + deeper
    seen = "\n".join(f"{request.depth} {request.verb} {request.paths[0]}" for request in counting.requests[:60])
    assert len(counting.requests) <= most, seen
    assert counting.depth <= deepest, seen


def test_what_is_known_is_not_asked_again(prepared: dict[int, MemoryStorage]) -> None:
    """A second chunk of the same array is one request; what was listed once is none."""
    import icechunk

    async def main(counting: CountingStorage) -> None:
        from zarr.core.buffer import default_buffer_prototype

        repo = await icechunk.Repository.open_async(counting)
        store = (await repo.readonly_session_async("main")).store
        await store.get("g0/a0/c/1/0", default_buffer_prototype())
        counting.reset()
        await asyncio.gather(*[store.get(f"g0/a0/c/{number}/0", default_buffer_prototype()) for number in (2, 3, 4, 5)])
        assert (len(counting.requests), counting.depth) == (4, 1)
        counting.reset()
        assert [name async for name in store.list_dir("g0")]
        assert counting.requests == []

    asyncio.run(main(CountingStorage(copy_of(prepared[2]))))
