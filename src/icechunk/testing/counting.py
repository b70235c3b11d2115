"""Which requests an operation makes, how many bytes they move, and how many must wait for one another.

Over a network, what a user waits for is the longest chain of requests each of which needs the answer to the one before.
`CountingStorage` measures it: `depth` counts its links. Ten reads made at once are ten requests and depth 1.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from icechunk._driver import is_blocking
from icechunk.storage._common import size_of
from icechunk.storage.base import Storage
from icechunk.storage.wrappers import Call, InterceptingStorage

T = TypeVar("T")

_TURNS = 16  # of the event loop that each request lasts at least, so that requests made together overlap


class Request(NamedTuple):
    """One request: its verb, its paths, the bytes it moved, and its place in the longest chain, from 1."""

    verb: str
    paths: tuple[str, ...]
    size: int
    depth: int


class CountingStorage(InterceptingStorage):
    """Notes every request to the storage inside.

    `depth` means something in an event loop, where each request is made to last until all that were begun with it have
    begun. A synchronous caller mostly makes one request after the other, so there it is an upper bound.

    Attributes
    ----------
    requests : list of Request
        All of them, in the order in which they ended.
    """

    def __init__(self, inner: Storage) -> None:
        super().__init__(inner)
        self._mutex = threading.Lock()
        self._deepest = [0]  # of the requests that have ended; a cell, since copies share it
        self.requests: list[Request] = []

    @property
    def concurrency(self) -> int:  # type: ignore[override]
        """At least that of a network, else nothing would ever be asked for together."""
        return max(self.inner.concurrency, 64)

    @property
    def counts(self) -> Counter[str]:
        """How many requests of each verb."""
        return Counter(request.verb for request in self.requests)

    @property
    def depth(self) -> int:
        """The length of the longest chain of requests that had to wait for one another."""
        return self._deepest[0]

    @property
    def bytes_read(self) -> int:
        """How many bytes `get` brought."""
        return sum(request.size for request in self.requests if request.verb == "get")

    @property
    def bytes_written(self) -> int:
        """How many bytes `put` took."""
        return sum(request.size for request in self.requests if request.verb == "put")

    def reset(self) -> None:
        """Forget all requests."""
        with self._mutex:
            self.requests.clear()
            self._deepest[0] = 0

    async def intercept(self, call: Call, perform: Callable[[], Awaitable[T]]) -> T:
        depth = self._deepest[0] + 1
        if not is_blocking():
            for _ in range(_TURNS):
                await asyncio.sleep(0)
        size = call.size
        try:
            result = await perform()
            if call.verb == "get" and isinstance(result, tuple):
                size = size_of(result[0])
            return result
        finally:
            with self._mutex:
                self.requests.append(Request(call.verb, call.paths, size, depth))
                self._deepest[0] = max(self._deepest[0], depth)
