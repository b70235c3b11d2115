"""A storage as far away as an object store: every request takes its time, any number of them at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from icechunk._driver import pause
from icechunk.storage.base import Storage
from icechunk.storage.wrappers import Call, InterceptingStorage

T = TypeVar("T")

_WRITES = frozenset({"put", "delete"})


class LatencyStorage(InterceptingStorage):
    """Delays every request to the storage inside.

    Parameters
    ----------
    inner : Storage
        What holds the objects.
    write_latency_ms, read_latency_ms : float
        How long a put or delete, and any other request, waits before it is done, in milliseconds.
    """

    def __init__(self, inner: Storage, *, write_latency_ms: float = 0, read_latency_ms: float = 0) -> None:
        super().__init__(inner)
        self.write_latency_ms = write_latency_ms
        self.read_latency_ms = read_latency_ms

    @property
    def concurrency(self) -> int:  # type: ignore[override]
        """That of a network: here a request costs waiting."""
        return max(self.inner.concurrency, 64)

    async def intercept(self, call: Call, perform: Callable[[], Awaitable[T]]) -> T:
        latency = self.write_latency_ms if call.verb in _WRITES else self.read_latency_ms
        if latency > 0:
            await pause(latency / 1000)
        return await perform()
