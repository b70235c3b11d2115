"""Ranges of one object that are wanted at the same time and lie side by side: asked for together, handed out one by one.

Who reads an array of virtual chunks wants many small ranges of few objects, often one behind the other, and a request costs
more than the bytes between them. So a range waits for a few turns of the event loop, which is microseconds, for others to join
it. What joined becomes *runs*, each fetched by one request.

- Only small ranges join, and a run is no longer than `_LONGEST`, so that what a request makes one hold is bounded, and long
  transfers stay several. Each gets a copy of its part: nobody holds a run by holding a piece of it.
- What is known of the object (etag, time) is of the one answer that brought the bytes, and goes to all.
- A run that fails says nothing about its ranges: each is then asked for alone, and succeeds or fails by itself.
- Nobody depends on another: a run is a task of its own, which ends early only when all who wait for it have gone.

Where no event loop runs, every caller blocks a thread of its own and ranges go out as they are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

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
_TURNS = 3
"""Turns of the event loop that a range waits: who is woken by the same event comes within them."""

Answer: TypeAlias = "tuple[Buffer, str | None, float | None]"
"""Bytes, and the etag and the time of the object that they are of."""
Fetch: TypeAlias = "Callable[[str, int, int, bool], Awaitable[Answer]]"
"""Asks for the bytes `start <= i < stop` of the object at a URL, and whether etag and time are wanted too."""


class Neighbours:
    """Asks `fetch` for what it is asked for, in fewer requests."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        # loops are here only while ranges wait; each touches its own entries alone
        self._waiting: dict[tuple[asyncio.AbstractEventLoop, str], list[_Wanted]] = {}

    async def fetch(self, url: str, start: int, stop: int, facts: bool) -> Answer:
        """The bytes `start <= i < stop` of the object at `url`, its etag and its time; these may be None without `facts`."""
        loop = running_loop() if 0 <= start < stop < start + _SMALL else None
        if loop is None:
            return await self._fetch(url, start, stop, facts)
        wanted = _Wanted(start, stop, loop)
        place = loop, url
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

    def _left(self, place: tuple[asyncio.AbstractEventLoop, str], wanted: _Wanted) -> None:
        """Nobody waits for `wanted` any more."""
        if wanted.run is not None:
            wanted.run.left()
            return
        waiting = self._waiting.get(place)
        if waiting is not None and wanted in waiting:
            waiting.remove(wanted)
            if not waiting:
                del self._waiting[place]

    def _turn(self, place: tuple[asyncio.AbstractEventLoop, str], left: int) -> None:
        loop, url = place
        if left > 1:
            loop.call_soon(self._turn, place, left - 1)
            return
        for members in runs(self._waiting.pop(place, [])):
            if len(members) == 1:
                members[0].give(None)
            else:
                _Run(members).begin(loop, self._fetch, url)


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
    """Ranges that are fetched by one request."""

    def __init__(self, members: list[_Wanted]) -> None:
        self._members = members
        self._waiting = len(members)
        self._task: asyncio.Task[None] | None = None
        for member in members:
            member.run = self

    def begin(self, loop: asyncio.AbstractEventLoop, fetch: Fetch, url: str) -> None:
        self._task = loop.create_task(self._serve(fetch, url))

    def left(self) -> None:
        """One of those who waited has gone, with an answer or without."""
        self._waiting -= 1
        if not self._waiting and self._task is not None:
            self._task.cancel()

    async def _serve(self, fetch: Fetch, url: str) -> None:
        begin = self._members[0].start
        answer: Answer | None = None
        try:
            answer = await fetch(url, begin, max(member.stop for member in self._members), True)
        except Exception:
            pass  # each asks alone, and is told what is wrong with its own range
        finally:
            for member in self._members:
                member.give(None if answer is None else _part(answer, member.start - begin, member.stop - begin))


def _part(answer: Answer, start: int, stop: int) -> Answer:
    data, etag, modified = answer
    return bytes(memoryview(data)[start:stop]), etag, modified
