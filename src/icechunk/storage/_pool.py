"""Threads for file work that would hold up an event loop or waste a disk, and the judgement when to use them.

A few microseconds of file work are done where they are asked for: handing them to a thread costs ten times as much.
Big transfers go to threads, and so does everything for a while after a small one was slow: then the files are on a
network or a sleeping disk, and waits are worth having at the same time.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

T = TypeVar("T")

BIG = 256 * 1024
"""Transfers of at least so many bytes go to a thread when an event loop is waiting."""
WIDTH = 16
"""How many threads there are; also how many waits are worth having at once."""
_SLOW = 0.001
"""A small transfer that took so many seconds was no transfer from memory."""
_PROOF = 4
"""So many of them in a row are no accident."""
_WARY = 64
"""So many quick ones it takes to forget them."""

_pool: ThreadPoolExecutor | None = None
_making = threading.Lock()


def _executor() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        with _making:
            if _pool is None:
                from concurrent.futures import ThreadPoolExecutor

                _pool = ThreadPoolExecutor(WIDTH, thread_name_prefix="icechunk-files")
    return _pool


async def in_thread(fn: Callable[..., T], *args: Any) -> T:
    """`fn(*args)` on a thread, while the running event loop goes on."""
    import asyncio

    return await asyncio.get_running_loop().run_in_executor(_executor(), functools.partial(fn, *args))


def each(fn: Callable[[str], None], names: Sequence[str]) -> None:
    """`fn(name)` for all of `names`, several at once when they are more than a few; the first failure is raised."""
    if len(names) <= 2:
        for name in names:
            fn(name)
        return
    from concurrent.futures import ThreadPoolExecutor

    # threads of its own: the shared ones may all be waiting for this very call
    with ThreadPoolExecutor(min(WIDTH, len(names)), thread_name_prefix="icechunk-flush") as pool:
        for _ in pool.map(fn, names):
            pass


class Pace:
    """Whether the files of one storage have been quick lately."""

    __slots__ = ("_streak", "_wary")

    def __init__(self) -> None:
        self._streak = 0  # slow calls in a row; one alone may be a busy processor
        self._wary = 0  # calls left for which the files count as slow

    @property
    def is_slow(self) -> bool:
        """Whether calls should go to threads."""
        return self._wary > 0

    def took(self, seconds: float) -> None:
        """Learn from a small call that took so long."""
        if seconds < _SLOW:
            self._streak = 0
            if self._wary:
                self._wary -= 1
        elif self._streak < _PROOF:
            self._streak += 1
        else:
            self._wary = _WARY


def _after_fork() -> None:
    """In a forked child: the threads stayed behind."""
    global _pool, _making
    _pool = None
    _making = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
