"""Ranges of one object that are wanted together, or one after the other: asked for at once, handed out one by one.

Who reads an array of small chunks wants many ranges of few objects, often one behind the other, and a request costs more
than the bytes between them. So a range waits for a few turns of the event loop, which is microseconds, for others to join
it. What joined becomes *runs*, each fetched by one request.

- Only small ranges join, and a run is no longer than `_LONGEST`, so that what a request makes one hold is bounded, and long
  transfers stay several. A small part is copied: nobody holds a run by holding a little piece of it.
- What is known of the object (etag, time) is of the one answer that brought the bytes, and goes to all.
- A run that fails says nothing about its ranges: each is then asked for alone, and succeeds or fails by itself.
- Nobody depends on another: a run is a task of its own, which ends early only when all who wait for it have gone.

Of objects that never change (`ahead`) more can be asked for than is wanted. When a run begins where the one before it
ended, or a little behind that, somebody reads on, and the run is made longer: more so each time, and less the more objects
are read in step. Ranges that lie in it join it while it is on its way; those that are wanted later find it among the few
that are kept.

Where no event loop runs, every caller blocks a thread of its own and ranges go out as they are.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakSet

from icechunk._driver import running_loop
from icechunk.storage.base import Buffer

if TYPE_CHECKING:
    import asyncio

_SMALL = 1 << 20
"""Ranges of so many bytes are worth a request of their own."""
_LONGEST = 2 << 20
"""Bytes of a run at most: what comes in the time that a distant store takes to answer at all."""
_GAP = 16 << 10
"""So many bytes that nobody wants cost less than another request."""
_WASTE = 8
"""A piece of a run that is not copied may make so many times its own bytes stay in memory."""
_TURNS = 3
"""Turns of the event loop that a range waits: who is woken by the same event comes within them."""

_NEAR = 4
"""Who wants bytes at most so many times their number behind the last ones reads on: writers keep no strict order."""
_MORE = 8
"""Who begins to read on gets so many times what he asked for; afterwards twice as much each time."""
_KEPT = 16 << 20
"""Bytes that are kept of runs of which some were not wanted yet."""
_FOLLOWED = 64
"""Objects of which it is remembered where they were read last, and runs that are kept, however small."""

Answer: TypeAlias = "tuple[Buffer, str | None, float | None]"
"""Bytes, and the etag and the time of the object that they are of."""
Fetch: TypeAlias = "Callable[[str, int, int, bool], Coroutine[Any, Any, Answer]]"
"""Asks for the bytes `start <= i < stop` of the object at a URL, and whether etag and time are wanted too."""
Place: TypeAlias = "tuple[asyncio.AbstractEventLoop, str]"


class Neighbours:
    """Asks `fetch` for what it is asked for, in fewer requests; with `ahead` for more, of objects that never change."""

    def __init__(self, fetch: Fetch, *, ahead: bool = False) -> None:
        self._fetch = fetch
        self._ahead = _Ahead() if ahead else None
        # loops are here only while ranges wait; each touches its own entries alone
        self._waiting: dict[Place, list[_Wanted]] = {}
        self._under_way: dict[Place, list[_Run]] = {}

    async def fetch(self, url: str, start: int, stop: int, facts: bool) -> Answer:
        """The bytes `start <= i < stop` of the object at `url`, its etag and its time; these may be None without `facts`."""
        loop = running_loop() if 0 <= start < stop < start + _SMALL else None
        if loop is None:
            return await self._fetch(url, start, stop, facts)
        if self._ahead is not None and (kept := self._ahead.find(url, start, stop)) is not None:
            return kept
        wanted = _Wanted(start, stop, loop)
        place = loop, url
        if not self._joins(place, wanted):
            if place in self._waiting:
                self._waiting[place].append(wanted)
            else:
                self._waiting[place] = [wanted]
                loop.call_soon(self._turn, place, _TURNS)
        try:
            answer = await wanted.answer
        finally:
            self._left(place, wanted)
        return await self._fetch(url, start, stop, facts) if answer is None else answer

    def _joins(self, place: Place, wanted: _Wanted) -> bool:
        """Whether a run that is under way brings what is wanted, and then it is a member of that."""
        for run in self._under_way.get(place, ()):
            if run.begin <= wanted.start and wanted.stop <= run.end:
                run.add(wanted)
                return True
        return False

    def _left(self, place: Place, wanted: _Wanted) -> None:
        """Nobody waits for `wanted` any more."""
        run, wanted.run = wanted.run, None
        if run is not None:
            run.left()
            return
        waiting = self._waiting.get(place)
        if waiting is not None and wanted in waiting:
            waiting.remove(wanted)
            if not waiting:
                del self._waiting[place]

    def _turn(self, place: Place, left: int) -> None:
        loop, url = place
        if left > 1:
            loop.call_soon(self._turn, place, left - 1)
            return
        for members in runs(self._waiting.pop(place, [])):
            begin, end = members[0].start, max(member.stop for member in members)
            further = None if self._ahead is None else self._ahead.further(url, begin, end)
            if further is not None:
                begin, end = further
            elif len(members) == 1:
                members[0].give(None)
                continue
            self._send(place, _Run(members, begin, end))

    def _send(self, place: Place, run: _Run) -> None:
        loop, url = place
        if self._ahead is not None:
            self._under_way.setdefault(place, []).append(run)
        run.task = loop.create_task(self._fetch(url, run.begin, run.end, self._ahead is None))
        run.task.add_done_callback(lambda task: self._arrived(place, run, _answer_of(task)))

    def _arrived(self, place: Place, run: _Run, answer: Answer | None) -> None:
        """Hand out what a run brought; without an answer each asks alone, and is told what is wrong with its own range."""
        under_way = self._under_way.get(place, [])
        if run in under_way:
            under_way.remove(run)
            if not under_way:
                del self._under_way[place]
        given = run.hand_out(answer)
        if answer is not None and self._ahead is not None and len(answer[0]) > given:
            self._ahead.keep(place[1], run.begin, answer[0], given)


def _answer_of(task: asyncio.Task[Answer]) -> Answer | None:
    return None if task.cancelled() or task.exception() is not None else task.result()


class _Wanted:
    """One range, and the answer that is waited for: None means that it must be asked for alone."""

    __slots__ = ("answer", "run", "start", "stop")

    def __init__(self, start: int, stop: int, loop: asyncio.AbstractEventLoop) -> None:
        self.start, self.stop = start, stop
        self.answer: asyncio.Future[Answer | None] = loop.create_future()
        self.run: _Run | None = None

    def give(self, answer: Answer | None) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)


def runs(wanted: list[_Wanted]) -> Iterator[list[_Wanted]]:
    """The ranges in groups that lie close enough together; every one is in one of them."""
    members: list[_Wanted] = []
    begin = end = 0
    for one in sorted(wanted, key=lambda one: one.start):
        if members and one.start <= end + _GAP and max(end, one.stop) - begin <= _LONGEST:
            members.append(one)
            end = max(end, one.stop)
            continue
        if members:
            yield members
        members, begin, end = [one], one.start, one.stop
    if members:
        yield members


class _Run:
    """Ranges that are fetched by one request, for the bytes from `begin` to `end`."""

    def __init__(self, members: list[_Wanted], begin: int, end: int) -> None:
        self.begin, self.end = begin, end
        self.task: asyncio.Task[Answer] | None = None
        self._members = members
        self._waiting = len(members)
        for member in members:
            member.run = self

    def add(self, wanted: _Wanted) -> None:
        """One more range, which lies in this one."""
        wanted.run = self
        self._members.append(wanted)
        self._waiting += 1

    def left(self) -> None:
        """One of those who waited has gone, with an answer or without."""
        self._waiting -= 1
        if not self._waiting and self.task is not None:
            self.task.cancel()

    def hand_out(self, answer: Answer | None) -> int:
        """Give everybody a part of the answer; returns the number of bytes that were given."""
        members, self._members = self._members, []  # they know this run: a circle, which would keep the bytes
        for member in members:
            member.give(None if answer is None else _part(answer, member.start - self.begin, member.stop - self.begin))
        return sum(member.stop - member.start for member in members)


def _part(answer: Answer, start: int, stop: int) -> Answer:
    data, etag, modified = answer
    part = memoryview(data)[start:stop]
    return part if len(part) * _WASTE >= len(data) else bytes(part), etag, modified


class _Kept:
    """Bytes of an object, `left` of which nobody has asked for yet."""

    __slots__ = ("data", "left")

    def __init__(self, data: Buffer, left: int) -> None:
        self.data, self.left = data, left


class _Ahead:
    """Where objects were read last, and what was read further than anybody wanted; for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: OrderedDict[str, tuple[int, int, int]] = OrderedDict()
        """By object where the last run began and ended, and how many bytes of it were more than was wanted."""
        self._kept: OrderedDict[tuple[str, int], _Kept] = OrderedDict()
        """By object and where in it they begin."""
        self._bytes = 0
        _all.add(self)

    def further(self, url: str, begin: int, end: int) -> tuple[int, int] | None:
        """The bytes to ask for when these are wanted and somebody reads on; None where that is not what he does."""
        with self._lock:
            first, last, more = self._last.pop(url, (begin, 0, 0))
            wanted = end - begin
            if first < begin <= last + _GAP + _NEAR * wanted:
                begin = min(begin, last)
                longest = min(_LONGEST, _KEPT // (len(self._kept) + 2))
                more = max(min(max(_MORE * wanted, 2 * more), longest - (end - begin)), 0)
            else:
                more = 0
            self._last[url] = begin, end + more, more
            if len(self._last) > _FOLLOWED:
                self._last.popitem(last=False)
        return (begin, end + more) if more else None

    def keep(self, url: str, begin: int, data: Buffer, given: int) -> None:
        """Keep what came, `given` bytes of which have been handed out."""
        with self._lock:
            self._drop((url, begin))
            self._kept[url, begin] = _Kept(data, len(data) - given)
            self._bytes += len(data)
            while self._bytes > _KEPT or len(self._kept) > _FOLLOWED:
                self._drop(next(iter(self._kept)))

    def _drop(self, key: tuple[str, int]) -> None:
        kept = self._kept.pop(key, None)
        self._bytes -= 0 if kept is None else len(kept.data)

    def find(self, url: str, start: int, stop: int) -> Answer | None:
        """The bytes `start <= i < stop` of an object, where they are kept; forgets what has been asked for whole."""
        with self._lock:
            for (of, begin), kept in self._kept.items():
                if of == url and begin <= start and stop <= begin + len(kept.data):
                    kept.left -= stop - start
                    if kept.left <= 0:
                        self._drop((of, begin))
                    return _part((kept.data, None, None), start - begin, stop - begin)
        return None

    def after_fork(self) -> None:
        """In a child: another thread may have held the lock at that moment."""
        self._lock = threading.Lock()
        self._last.clear()
        self._kept.clear()
        self._bytes = 0


_all: WeakSet[_Ahead] = WeakSet()


def _after_fork() -> None:
    for ahead in _all:
        ahead.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
