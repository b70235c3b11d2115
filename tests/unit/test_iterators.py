"""One pass over items, one by one, from single items or from batches, in both worlds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

import icechunk
from icechunk.errors import InvalidInputError
from icechunk.iterators import AsyncCloseableIterator


async def batches(closed: list[str], *, fail: bool = False) -> AsyncIterator[Sequence[int]]:
    try:
        yield [1]
        yield []
        yield [2, 3]
        if fail:
            raise InvalidInputError("no more")
    finally:
        closed.append("closed")


def test_items_of_batches_come_one_by_one() -> None:
    assert list(AsyncCloseableIterator.of_batches(batches([]))) == [1, 2, 3]

    async def collect() -> list[int]:
        return [item async for item in AsyncCloseableIterator.of_batches(batches([]))]

    assert asyncio.run(collect()) == [1, 2, 3]


def test_a_failure_comes_after_what_was_good() -> None:
    items = AsyncCloseableIterator.of_batches(batches([], fail=True))
    assert [next(items) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(InvalidInputError):
        next(items)


def test_nothing_comes_after_closing_in_the_middle_of_a_batch() -> None:
    closed: list[str] = []

    async def look() -> list[int]:
        items = AsyncCloseableIterator.of_batches(batches(closed))
        first = [await anext(items), await anext(items)]
        await items.aclose()
        return [*first, *[item async for item in items]]

    assert asyncio.run(look()) == [1, 2]
    assert closed == ["closed"]


def test_an_iterator_that_is_dropped_closes_its_source_at_once() -> None:
    closed: list[str] = []
    items = AsyncCloseableIterator.of_batches(batches(closed))
    assert next(items) == 1
    del items
    assert closed == ["closed"]


@pytest.mark.parametrize("spec", [1, 2])
def test_a_long_ancestry_says_what_looking_up_each_snapshot_says(spec: int) -> None:
    storage = icechunk.in_memory_storage()
    repo = icechunk.Repository.create(storage, spec_version=spec)
    for number in range(60):
        repo.writable_session("main").commit(f"{number}", {"number": number}, allow_empty=True)
    repo = icechunk.Repository.open(storage)
    infos = list(repo.ancestry(branch="main"))
    assert [info.message for info in infos[:60]] == [f"{number}" for number in range(59, -1, -1)]
    assert [info.parent_id for info in infos] == [*[info.id for info in infos[1:]], None]
    assert infos == [repo.lookup_snapshot(info.id) for info in infos]
