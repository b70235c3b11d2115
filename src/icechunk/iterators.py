"""Iterators for both worlds: the same object serves `for` and `async for`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Generic, TypeVar, cast

from icechunk._driver import run

T = TypeVar("T")


class AsyncCloseableIterator(Generic[T]):
    """A single pass over items that are fetched as they are asked for, synchronously or in an event loop."""

    def __init__(self, source: AsyncIterator[T]) -> None:
        self._source: AsyncIterator[T] | AsyncIterator[Sequence[T]] = source
        self._ready: Iterator[T] = iter(())
        self._batched = False

    @classmethod
    def of_batches(cls, source: AsyncIterator[Sequence[T]]) -> AsyncCloseableIterator[T]:
        """The items of all batches, one by one; what waits for an item is done once for each batch."""
        made = cls(cast(Any, source))
        made._batched = True
        return made

    def __iter__(self) -> AsyncCloseableIterator[T]:
        return self

    def __next__(self) -> T:
        for item in self._ready:
            return item
        try:
            return run(self._step())
        except StopAsyncIteration:
            raise StopIteration from None

    def __aiter__(self) -> AsyncCloseableIterator[T]:
        return self

    async def __anext__(self) -> T:
        for item in self._ready:
            return item
        return await self._step()

    async def _step(self) -> T:
        while self._batched:
            self._ready = iter(cast(Sequence[T], await self._source.__anext__()))
            for item in self._ready:
                return item
        return cast(T, await self._source.__anext__())

    async def aclose(self) -> None:
        """Stop before the end and release what the iteration holds."""
        self._ready = iter(())
        close = getattr(self._source, "aclose", None)
        if close is not None:
            await close()
