"""Caches of decoded files, weighed by what they cost to keep.

One loads, all others wait: when a hundred chunk reads need the same manifest at once, it is fetched once. Waiting is safe
in every mix of threads and event loops: everybody may wait for a loader that blocks a thread, which needs nobody else to
get on, but only tasks of the same event loop for one that is a task. That loop may be standing still, waiting for us.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from icechunk._driver import running_loop

if TYPE_CHECKING:
    import asyncio

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
        self._loading: dict[K, tuple[Future[V], asyncio.AbstractEventLoop | None]] = {}
        """What is being loaded now, and by a task of which event loop; None for a thread."""
        _caches.add(self)

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
        here = running_loop()
        with self._lock:
            loading = self._loading.get(key)
            if loading is None:
                mine: Future[V] = Future()
                self._loading[key] = mine, here
        if loading is None:
            return await self._fetch(key, fetch, mine)
        theirs, there = loading
        if there is not None and there is not here:
            return await fetch()
        if await _outcome_of(theirs, here):
            return theirs.result()
        return await self.load(key, fetch)

    async def _fetch(self, key: K, fetch: Callable[[], Awaitable[V]], mine: Future[V]) -> V:
        try:
            value = await fetch()
            self.put(key, value)
        except BaseException as error:
            self._forget_loading(key, mine)
            if isinstance(error, Exception):
                mine.set_exception(error)
            else:
                mine.cancel()
            raise
        self._forget_loading(key, mine)
        mine.set_result(value)
        return value

    def _forget_loading(self, key: K, mine: Future[V]) -> None:
        with self._lock:
            loading = self._loading.get(key)
            if loading is not None and loading[0] is mine:
                del self._loading[key]

    def _after_fork(self) -> None:
        """In a child process nobody is loading any more."""
        self._lock = threading.Lock()
        self._loading.clear()


async def _outcome_of(loading: Future[Any], here: asyncio.AbstractEventLoop | None) -> bool:
    """Wait until a load has ended, well or badly; False when whoever did it was cancelled."""
    if here is None:
        wait([loading])
        return not loading.cancelled()
    import asyncio

    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        await asyncio.shield(asyncio.wrap_future(loading))
    except asyncio.CancelledError:
        if not loading.cancelled() or (task is not None and task.cancelling() > before):
            raise  # it is we who were cancelled
    except Exception:
        pass  # the caller looks at it
    return not loading.cancelled()


_caches: weakref.WeakSet[WeightedCache[Any, Any]] = weakref.WeakSet()


def _after_fork() -> None:
    for cache in _caches:
        cache._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
