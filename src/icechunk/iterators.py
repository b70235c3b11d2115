"""Iterators for both worlds: the same object serves `for` and `async for`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Generic, TypeVar

from icechunk._driver import run

T = TypeVar("T")


class AsyncCloseableIterator(Generic[T]):
    """A single pass over items that are fetched as they are asked for, synchronously or in an event loop."""

    def __init__(self, source: AsyncIterator[T]) -> None:
        self._source = source

    def __iter__(self) -> AsyncCloseableIterator[T]:
        return self

    def __next__(self) -> T:
        try:
            return run(self._step())
        except StopAsyncIteration:
            raise StopIteration from None

    def __aiter__(self) -> AsyncCloseableIterator[T]:
        return self

    async def __anext__(self) -> T:
        return await self._source.__anext__()

    async def _step(self) -> T:
        return await self._source.__anext__()

    async def aclose(self) -> None:
        """Stop before the end and release what the iteration holds."""
        close = getattr(self._source, "aclose", None)
        if close is not None:
            await close()
