"""Caches of decoded files, weighed by what they cost to keep.

One loads, all others wait: when a hundred chunk reads need the same manifest at once, it is fetched once. Waiting is safe
in every mix of threads and event loops: a task may wait for any loader, a blocked thread only for a loader that runs on
a thread of its own, since one that is a task might need the very thread that would wait for it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from typing import Any, Generic, TypeVar

from icechunk._driver import is_blocking

K = TypeVar("K")
V = TypeVar("V")


class WeightedCache(Generic[K, V]):
    """Keeps the values used last, as many as `limit` allows; each weighs what `weigh` says. A limit of 0 keeps none."""

    def __init__(self, limit: int, weigh: Callable[[V], int]) -> None:
        self.limit = limit
        self._weigh = weigh
        self._lock = threading.Lock()
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._weight = 0
        self._loading: dict[K, tuple[Future[V], bool]] = {}

    def get(self, key: K) -> V | None:
        """The value kept for `key`, if any."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            self._kept.move_to_end(key)
            return found[0]

    def put(self, key: K, value: V) -> None:
        """Keep a value, dropping those not used for longest."""
        weight = self._weigh(value)
        with self._lock:
            former = self._kept.pop(key, None)
            if former is not None:
                self._weight -= former[1]
            if weight > self.limit:
                return
            self._kept[key] = value, weight
            self._weight += weight
            while self._weight > self.limit:
                _, (_, dropped) = self._kept.popitem(last=False)
                self._weight -= dropped

    def drop(self, key: K) -> None:
        """Forget a value."""
        with self._lock:
            former = self._kept.pop(key, None)
            if former is not None:
                self._weight -= former[1]

    async def load(self, key: K, fetch: Callable[[], Awaitable[V]]) -> V:
        """The value for `key`: the one kept, the one being loaded by somebody, or what `fetch` brings."""
        found = self.get(key)
        if found is not None:
            return found
        blocking = is_blocking()
        with self._lock:
            loading = self._loading.get(key)
            mine: Future[V] | None = None
            if loading is None:
                mine = Future()
                self._loading[key] = mine, blocking
        if mine is not None:
            return await self._fetch(key, fetch, mine)
        assert loading is not None
        theirs, on_thread = loading
        if blocking and not on_thread:
            return await fetch()
        try:
            return theirs.result() if blocking else await asyncio.shield(asyncio.wrap_future(theirs))
        except (CancelledError, asyncio.CancelledError):
            if theirs.cancelled() or isinstance(_failure(theirs), asyncio.CancelledError):
                return await self.load(key, fetch)
            raise

    async def _fetch(self, key: K, fetch: Callable[[], Awaitable[V]], mine: Future[V]) -> V:
        try:
            value = await fetch()
        except BaseException as error:
            with self._lock:
                self._loading.pop(key, None)
            if isinstance(error, Exception):
                mine.set_exception(error)
                mine.exception()
            else:
                mine.cancel()
            raise
        self.put(key, value)
        with self._lock:
            self._loading.pop(key, None)
        mine.set_result(value)
        return value


def _failure(future: Future[Any]) -> BaseException | None:
    return future.exception() if future.done() and not future.cancelled() else None
