"""Failures on demand: make the n-th request fail, lose its answer, or be the last that is ever made.

Whatever an operation does to a repository it does by storage requests, so failing each of them once, in each way, tries
every way in which the operation can go wrong::

    calls = record_calls(storage, operation)          # one good run, to know how many requests there are
    for fault in every_fault(calls):
        storage = FaultyStorage(fresh_copy(), fault)
        ...                                          # run, see it fail or not, then check what stands in storage.inner
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from icechunk.errors import ErrorKind, StorageError
from icechunk.storage.base import Storage
from icechunk.storage.wrappers import Call, InterceptingStorage

T = TypeVar("T")

How = Literal["before", "after", "stop"]


class InjectedError(StorageError):
    """A failure that was asked for. It counts as passing: a patient storage tries again."""


class Stopped(BaseException):
    """The process is no more, as far as the storage is concerned; nothing catches it by accident."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and when.

    Attributes
    ----------
    nth : int
        Which request, counted from 0 among those with one of `verbs`.
    how : "before", "after" or "stop"
        The request fails and did nothing; it fails after it was done, so that only the answer is lost; or neither it
        nor any request after it is made.
    verbs : collection of str, optional
        Of `get`, `put`, `list`, `delete`, `exists`, `modified_at`; all of them by default.
    """

    nth: int
    how: How
    verbs: frozenset[str] | None = None

    def __str__(self) -> str:
        which = "request" if self.verbs is None else "/".join(sorted(self.verbs))
        return f"{which}-{self.nth}-{self.how}"


class FaultyStorage(InterceptingStorage):
    """Performs the requests of the storage inside, but for the faults it was given.

    Attributes
    ----------
    calls : list of Call
        All requests in the order in which they were begun, the failing ones included.
    """

    def __init__(self, inner: Storage, *faults: Fault) -> None:
        super().__init__(inner)
        self._faults = faults
        self._mutex = threading.Lock()
        self._stopped = threading.Event()
        self.calls: list[Call] = []

    async def intercept(self, call: Call, perform: Callable[[], Awaitable[T]]) -> T:
        how = self._note(call)
        if how == "stop":
            raise Stopped(str(call))
        if how == "before":
            raise _failure(call, "failed")
        result = await perform()
        if how == "after":
            raise _failure(call, "was done, but the answer got lost")
        return result

    def _note(self, call: Call) -> How | None:
        with self._mutex:
            self.calls.append(call)
            if self._stopped.is_set():
                return "stop"
            for fault in self._faults:
                if self._place(call, fault) == fault.nth:
                    if fault.how == "stop":
                        self._stopped.set()
                    return fault.how
        return None

    def _place(self, call: Call, fault: Fault) -> int | None:
        if fault.verbs is None:
            return len(self.calls) - 1
        if call.verb not in fault.verbs:
            return None
        return sum(earlier.verb in fault.verbs for earlier in self.calls) - 1


def _failure(call: Call, what: str) -> InjectedError:
    return InjectedError(f"injected: {call} {what}", ErrorKind.OBJECT_STORE)


async def record_calls(storage: Storage, operation: Callable[[Storage], Awaitable[object]]) -> Sequence[Call]:
    """The requests that `operation` makes when nothing fails."""
    watched = FaultyStorage(storage)
    await operation(watched)
    return watched.calls


def every_fault(calls: Sequence[Call], *hows: How) -> Iterator[Fault]:
    """One fault for each of `calls` and each of `hows` (all three by default)."""
    for nth in range(len(calls)):
        for how in hows or ("before", "after", "stop"):
            yield Fault(nth, how)
