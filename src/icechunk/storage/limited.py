"""At most so many requests under way at once, whoever makes them.

Requests come from threads that block and from tasks of any number of event loops. They queue in one line; whoever is done
hands the place to the first in it. Lists do not count: who goes through one makes other requests meanwhile.
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
        await self._places.take()
        try:
            return await perform()
        finally:
            self._places.give_back()

    def list(self, prefix: str = "") -> AsyncIterator[Sequence[ObjectInfo]]:
        return self._inner.list(prefix)

    def __reduce__(self) -> tuple[Any, ...]:
        return LimitedStorage, (self._inner, self._limit)


class Places:
    """A number of places, taken and given back in the order of asking."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._line: deque[_Waiter] = deque()
        self._lock = threading.Lock()

    async def take(self) -> None:
        """Wait for a place, by whatever means suits the caller."""
        with self._lock:
            if self._free:
                self._free -= 1
                return
            waiter = _Waiter()
            self._line.append(waiter)
        try:
            await waiter.wait()
        except BaseException:
            with self._lock:
                if not waiter.called:
                    self._line.remove(waiter)
                    raise
            self.give_back()
            raise

    def give_back(self) -> None:
        """Give a place to the first in the line."""
        with self._lock:
            while self._line:
                if self._line.popleft().call():
                    return
            self._free += 1


class _Waiter:
    """Somebody in the line."""

    def __init__(self) -> None:
        self.called = False
        self._loop = running_loop()
        self._future: asyncio.Future[None] | None = None if self._loop is None else self._loop.create_future()
        self._event = threading.Event() if self._loop is None else None

    async def wait(self) -> None:
        if self._event is not None:
            self._event.wait()
        else:
            assert self._future is not None
            await self._future

    def call(self) -> bool:
        """Whether it will come; it does not when its event loop is no more."""
        self.called = True
        if self._event is not None:
            self._event.set()
            return True
        assert self._loop is not None
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._arrive)
            return True
        return False

    def _arrive(self) -> None:
        assert self._future is not None
        if not self._future.done():
            self._future.set_result(None)
