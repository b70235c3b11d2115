"""Every order in which two or three writers can get in each other's way, each run once.

Between two storage requests nobody can see or change what a session does, so all that matters about a race is the order
of the requests. `explore` runs the actors under an event loop of its own in which every request waits to be let through,
one at a time; it makes one choice, runs to the end, then starts afresh with another choice, until none is left.

Orders that differ only in the sequence of requests which do not touch each other (two reads, writes of different
objects) have the same outcome; only one of them is run in full (sleep sets, as model checkers do it). What is left is
mostly the dance around the few objects that can change, so two commits take some dozens of runs, not millions.

Everything is deterministic: a pause is over as soon as nobody can run, without any waiting, and work meant for threads is
done on the spot. What the actors draw at random may differ from run to run as long as it leads to the same requests,
but for the names of new objects.

    async def actor(storage): ...
    explore(prepare, [actor, other], check)
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from icechunk.storage.base import Storage
from icechunk.storage.wrappers import Call, InterceptingStorage

T = TypeVar("T")

_PAUSE = 10.0
"""Timers of less than so many seconds are pauses before another try; others are time-outs, which mostly do not fire."""

Actor = Callable[[Storage], Awaitable[Any]]
Prepare = Callable[[], Awaitable[Storage]]
Check = Callable[[Storage, "list[Outcome]"], Awaitable[None]]


@dataclass(frozen=True)
class Outcome:
    """How an actor ended: with a result, or an exception."""

    result: Any = None
    error: BaseException | None = None


@dataclass
class Explored:
    """How much was tried: runs to the end, and runs given up since another run had shown the same."""

    complete: int = 0
    pruned: int = 0


def explore(
    prepare: Prepare, actors: Sequence[Actor], check: Check, *, limit: int = 100_000, share_memory: bool = False
) -> Explored:
    """Run `actors` in every order of their storage requests that can make a difference.

    Parameters
    ----------
    prepare : async callable
        Makes the storage that a run starts from; the same every time.
    actors : sequence of async callables
        Each gets the storage. What one returns or raises becomes its `Outcome`.
    check : async callable
        Gets the storage and the outcomes after every run, and raises when an invariant is broken. The exception then
        carries a note with the order of requests that led to it.
    limit : int
        So many runs are plenty; more raise `RuntimeError`.
    share_memory : bool
        Whether the actors have more in common than the storage, such as a session. Then the order matters even of requests
        that do not touch each other, and none is left out.
    """
    explored = Explored()
    path: list[_Choice] = []
    while True:
        complete = _Run(prepare, actors, check, path, share_memory=share_memory).go()
        explored.complete += complete
        explored.pruned += not complete
        while path and not path[-1].advance():
            path.pop()
        if not path:
            return explored
        if explored.complete + explored.pruned >= limit:
            raise RuntimeError(f"there are more than {limit} orders; make the actors do less")


def touches(one: Call, other: Call) -> bool:
    """Whether the order of two requests can make a difference."""
    if not (_writes(one) or _writes(other)):
        return False
    if "list" in (one.verb, other.verb):
        listing, writing = (one, other) if one.verb == "list" else (other, one)
        return any(path.startswith(listing.paths[0]) for path in writing.paths)
    return not set(one.paths).isdisjoint(other.paths)


def _writes(call: Call) -> bool:
    return call.verb in ("put", "delete")


@dataclass
class _Choice:
    """One point of a run at which somebody had to go next."""

    waiting: dict[int, Call]
    asleep: set[int]  # who went first here or before, and whose request nothing has touched since
    chosen: int = -1
    done: set[int] = field(default_factory=set)

    def advance(self) -> bool:
        """Choose who has not gone first yet; False when nobody is left."""
        if self.chosen >= 0:
            self.done.add(self.chosen)
        open_ = [actor for actor in sorted(self.waiting) if actor not in self.done and actor not in self.asleep]
        if not open_:
            return False
        self.chosen = open_[0]
        return True

    def sleepers_after(self) -> set[int]:
        """Who need not go right after the choice, since that was tried in the other order."""
        chosen = self.waiting[self.chosen]
        return {
            actor
            for actor in self.asleep | self.done
            if actor != self.chosen and not touches(self.waiting[actor], chosen)
        }


class _GaveUp(BaseException):
    """Another run has shown, or will show, what this one would."""


class _Run:
    """One run of the actors: along the choices of `path`, then by first choices, which it appends to `path`."""

    def __init__(
        self, prepare: Prepare, actors: Sequence[Actor], check: Check, path: list[_Choice], *, share_memory: bool
    ) -> None:
        self._share_memory = share_memory
        self._prepare = prepare
        self._actors = actors
        self._check = check
        self._path = path
        self._step = 0
        self._gates: dict[int, list[tuple[Call, asyncio.Future[None]]]] = {}
        self._order: list[str] = []
        self._running = False
        self._gave_up = False

    def go(self) -> bool:
        """Whether the run came to its end; else it was given up as pointless."""
        loop = _Loop(self._let_through)
        try:
            return loop.run_until_complete(self._play())
        finally:
            self._running = False
            loop.finish()

    async def _play(self) -> bool:
        storage = await self._prepare()
        gated = _GatedStorage(storage, self._arrive)
        self._running = True
        tasks = [self._start(index, actor, gated) for index, actor in enumerate(self._actors)]
        settled = await asyncio.gather(*tasks, return_exceptions=True)
        self._running = False
        if self._gave_up:
            return False
        outcomes = [Outcome(error=x) if isinstance(x, BaseException) else Outcome(x) for x in settled]
        try:
            await self._check(storage, outcomes)
        except BaseException as error:
            error.add_note("order of requests:\n  " + "\n  ".join(self._order))
            error.add_note(f"outcomes: {outcomes}")
            raise
        return True

    def _start(self, index: int, actor: Actor, storage: Storage) -> asyncio.Task[Any]:
        async def act() -> Any:
            _current.set(index)
            return await actor(storage)

        return asyncio.ensure_future(act())

    async def _arrive(self, call: Call) -> None:
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gates.setdefault(_current.get(), []).append((call, gate))
        await gate

    def _let_through(self) -> bool:
        """Everybody waits: let one request through. False when nobody waits for that."""
        self._gates = {
            actor: [waiting for waiting in gates if not waiting[1].done()] for actor, gates in self._gates.items()
        }
        # of the requests that one actor makes together the first goes first
        first = {actor: gates[0] for actor, gates in self._gates.items() if gates}
        if not first or not self._running:
            return False
        try:
            chosen = self._choose({actor: call for actor, (call, _) in first.items()})
        except _GaveUp:
            self._gave_up = True
            for gates in self._gates.values():
                for _, gate in gates:
                    gate.set_exception(_GaveUp())
            return True
        call, gate = first[chosen]
        self._order.append(f"{chosen}: {call}")
        gate.set_result(None)
        return True

    def _choose(self, waiting: dict[int, Call]) -> int:
        if self._gave_up:
            raise _GaveUp
        step, self._step = self._step, self._step + 1
        if step < len(self._path):
            choice = self._path[step]
            if _shape(choice.waiting) != _shape(waiting):
                raise RuntimeError(
                    f"the actors are not deterministic: step {step} was {choice.waiting}, and is {waiting}"
                )
            choice.waiting = waiting  # the names of new objects differ from run to run
            return choice.chosen
        asleep = self._path[-1].sleepers_after() if self._path and not self._share_memory else set()
        choice = _Choice(waiting, asleep)
        if not choice.advance():
            raise _GaveUp
        self._path.append(choice)
        return choice.chosen


def _shape(waiting: dict[int, Call]) -> dict[int, str]:
    return {actor: call.verb for actor, call in waiting.items()}


_current: contextvars.ContextVar[int] = contextvars.ContextVar("actor", default=-1)


class _GatedStorage(InterceptingStorage):
    """Lets each request wait at its gate, and then does it in one go."""

    def __init__(self, inner: Storage, arrive: Callable[[Call], Awaitable[None]]) -> None:
        super().__init__(inner)
        self._arrive = arrive

    async def intercept(self, call: Call, perform: Callable[[], Awaitable[T]]) -> T:
        await self._arrive(call)
        return await perform()


class _Loop(asyncio.SelectorEventLoop):
    """An event loop without a world: it waits for nothing, and its clock is its own."""

    def __init__(self, idle: Callable[[], bool]) -> None:
        self._now = 0.0
        super().__init__(_NoSelector(self._wait))
        self._idle = idle

    def time(self) -> float:
        return self._now

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def finish(self) -> None:
        """Stop what may still be going on after a failure, and close."""
        left = asyncio.all_tasks(self)
        for task in left:
            task.cancel()
        if left:
            self.run_until_complete(asyncio.wait(left))
        self.run_until_complete(self.shutdown_asyncgens())
        self.close()

    def _wait(self, timeout: float | None) -> None:
        if timeout is not None and timeout <= 0:
            return  # something can run
        if timeout is not None and timeout < _PAUSE:
            self._now += timeout
        elif self._idle():
            return
        elif timeout is None:
            raise RuntimeError("the actors wait for each other, or for something outside the storage")
        else:
            self._now += timeout


class _NoSelector(selectors.BaseSelector):
    """Watches no files; tells when the loop would wait."""

    def __init__(self, wait: Callable[[float | None], None]) -> None:
        self._wait = wait
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, 0, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._wait(timeout)
        return []

    def get_map(self) -> dict[Any, selectors.SelectorKey]:
        return self._keys
