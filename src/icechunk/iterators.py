"""Iterators for both worlds: the same object serves `for` and `async for`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import chain
from typing import Any, Generic, TypeVar

from icechunk._driver import run

T = TypeVar("T")


class AsyncCloseableIterator(Generic[T]):
    """A single pass over items that are fetched as they are asked for, synchronously or in an event loop."""

    def __init__(self, source: AsyncIterator[T]) -> None:
        self._source: AsyncIterator[Any] = source
        self._ready: Iterator[T] = iter(())
        self._batched = False

    @classmethod
    def of_batches(cls, source: AsyncIterator[Iterable[T]]) -> AsyncCloseableIterator[T]:
        """The items of all batches, one by one; what waits for an item is done once for each batch."""
        made: AsyncCloseableIterator[T] = cls.__new__(cls)
        made._source, made._ready, made._batched = source, iter(()), True
        return made

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(
            self._batches()
        )  # asks once for each batch, where `__next__` is called for each item

    def _batches(self) -> Iterator[Iterator[T]]:
        """What is left of the present batch, and the batches to come; whoever takes an item takes it from all."""
        yield self._ready
        while True:
            try:
                run(self._fetch())
            except StopAsyncIteration:
                return
            yield self._ready

    def __next__(self) -> T:
        for item in iter(self):
            return item
        raise StopIteration

    def __aiter__(self) -> AsyncCloseableIterator[T]:
        return self

    async def __anext__(self) -> T:
        while True:
            for item in self._ready:
                return item
            await self._fetch()

    async def _fetch(self) -> None:
        """The next batch; raises `StopAsyncIteration` at the end."""
        found = await self._source.__anext__()
        self._ready = iter(found if self._batched else (found,))

    async def aclose(self) -> None:
        """Stop before the end and release what the iteration holds."""
        self._ready = iter(())
        close = getattr(self._source, "aclose", None)
        if close is not None:
            await close()
