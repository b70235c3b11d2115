"""At most so many requests under way at once, whoever makes them.

Requests come from threads that block and from tasks of any number of event loops. They queue in one line; whoever is done
hands the place to the first in it. Lists do not count: who goes through one makes other requests meanwhile.

One thread that blocks never waits for tasks. Their event loop may be the one that it holds up, which could then give nothing
back. So where tasks have all places, there is one more for threads.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from icechunk._driver import running_loop
from icechunk.storage.base import ObjectInfo, Storage
from icechunk.storage.wrappers import Call, InterceptingStorage

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


class LimitedStorage(InterceptingStorage):
    """Lets no more than `limit` requests be under way at once."""

    def __init__(self, inner: Storage, limit: int) -> None:
        super().__init__(inner)
        self._limit = limit
        self._places = Places(limit)

    @property
    def concurrency(self) -> int:  # type: ignore[override]
        return min(self._inner.concurrency, self._limit)

    async def intercept(self, call: Call, perform: Callable[[], Awaitable[T]]) -> T:
        blocks = await self._places.take()
        try:
            return await perform()
        finally:
            self._places.give_back(blocks)

    def list(self, prefix: str = "") -> AsyncIterator[Sequence[ObjectInfo]]:
        return self._inner.list(prefix)

    def __reduce__(self) -> tuple[Any, ...]:
        return LimitedStorage, (self._inner, self._limit)


class Places:
    """A number of places, taken and given back in the order of asking."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._threads = 0  # that block and have a place
        self._line: deque[_Waiter] = deque()
        self._lock = threading.Lock()

    async def take(self) -> bool:
        """Wait for a place, by whatever means suits the caller; returns whether it blocks, to be told when it is given back."""
        loop = running_loop()
        blocks = loop is None
        with self._lock:
            if self._free > 0 or (blocks and not self._threads):
                self._free -= 1
                self._threads += blocks
                return blocks
            waiter = _Waiter(loop)
            self._line.append(waiter)
        try:
            await waiter.wait()
        except BaseException:
            with self._lock:
                if not waiter.called:
                    if waiter in self._line:
                        self._line.remove(waiter)
                    raise
            self.give_back(blocks)
            raise
        return blocks

    def give_back(self, blocks: bool) -> None:
        """Give a place to the first in the line; `blocks` is what `take` said."""
        with self._lock:
            self._free += 1
            self._threads -= blocks
            while self._line and self._free > 0:
                self._give(self._line.popleft())
            if not self._threads and (thread := next((one for one in self._line if one.blocks), None)) is not None:
                self._line.remove(thread)
                self._give(thread)

    def _give(self, waiter: _Waiter) -> None:
        if waiter.call():
            self._free -= 1
            self._threads += waiter.blocks


class _Waiter:
    """Somebody in the line."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self.called = False
        self.blocks = loop is None
        self._loop = loop
        self._future: asyncio.Future[None] | None = None if loop is None else loop.create_future()
        self._event = threading.Event() if loop is None else None

    async def wait(self) -> None:
        if self._event is not None:
            self._event.wait()
        else:
            assert self._future is not None
            await self._future

    def call(self) -> bool:
        """Whether it will come; it does not when its event loop is no more."""
        if self._event is not None:
            self._event.set()
            self.called = True
        elif self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._arrive)
                self.called = True
        return self.called

    def _arrive(self) -> None:
        assert self._future is not None
        if not self._future.done():
            self._future.set_result(None)
