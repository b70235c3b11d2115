"""One async core, two callers.

The core is written once, as coroutines. A caller inside an event loop awaits them. A synchronous caller has `run` drive
the very same coroutine by hand, on its own thread, without any event loop: a coroutine that never suspends runs to its
end on the first `send`. So every wait in the core goes through this module, which asks `is_blocking()` and either blocks
the thread or suspends the task. It works in scripts, notebooks, web servers and after `fork`, and Ctrl-C arrives.

`asyncio` is imported where there is an event loop, not before: a script that blocks starts without it, 15 ms sooner.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

if TYPE_CHECKING:
    import asyncio

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


class _Mode(threading.local):
    depth = 0


_mode = _Mode()


def is_blocking() -> bool:
    """Whether the core is being driven by hand on this thread, so that waits must block it."""
    return _mode.depth > 0


def run(coro: Coroutine[Any, Any, T]) -> T:
    """Drive `coro` to completion on this thread, without an event loop.

    Raises `RuntimeError` when the coroutine suspends: something in it waited for an event loop.
    """
    _mode.depth += 1
    try:
        coro.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    finally:
        _mode.depth -= 1
    coro.close()
    raise RuntimeError(f"{coro!r} suspended while being driven synchronously; this is a defect")


def blocking(method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[Any, P], T]:
    """The synchronous twin of the async method `method`, under the name without `_async`."""

    @functools.wraps(method)
    def twin(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            coro = method(self, *args, **kwargs)
        except TypeError as error:  # nothing has run yet: the arguments do not fit; say so of what was called
            raise TypeError(str(error).replace(method.__qualname__, twin.__qualname__)) from None
        return run(coro)

    name = method.__name__.removesuffix("_async")
    twin.__name__ = name
    twin.__qualname__ = method.__qualname__.removesuffix("_async")
    # the twin is no coroutine function: drop what makes inspect follow the original
    del twin.__wrapped__  # type: ignore[attr-defined]
    twin.__signature__ = _signature(method)  # type: ignore[attr-defined]
    return twin


def blocking_classmethod(method: Any) -> Any:
    """The synchronous twin of an async class method."""
    return classmethod(blocking(method.__func__))


def blocking_staticmethod(method: Any) -> Any:
    """The synchronous twin of an async static method."""
    return staticmethod(blocking_function(method.__func__))


def blocking_function(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """The synchronous twin of the async function `function`, under the name without `_async`."""

    @functools.wraps(function)
    def twin(*args: P.args, **kwargs: P.kwargs) -> T:
        coro = function(*args, **kwargs)
        del args, kwargs  # secrets among them would be seen in tracebacks that show variables
        return run(coro)

    twin.__name__ = function.__name__.removesuffix("_async")
    twin.__qualname__ = function.__qualname__.removesuffix("_async")
    twin.__signature__ = _signature(function)  # type: ignore[attr-defined]
    del twin.__wrapped__  # type: ignore[attr-defined]
    return twin


def _signature(method: Callable[..., Any]) -> Any:
    import inspect

    return inspect.signature(method)


def iterate(source: AsyncIterator[T]) -> Iterator[T]:
    """The items of an async iterator of the core, for a synchronous `for`."""
    while True:
        try:
            item = run(_step(source))
        except StopAsyncIteration:
            return
        yield item


async def _step(source: AsyncIterator[T]) -> T:
    return await source.__anext__()


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop of the caller, None when it blocks its thread."""
    if is_blocking():
        return None
    import asyncio

    return asyncio.get_running_loop()


async def pause(seconds: float) -> None:
    """Wait, by whatever means suits the caller."""
    if is_blocking():
        time.sleep(seconds)
    else:
        import asyncio

        await asyncio.sleep(seconds)


async def offload(fn: Callable[[], T]) -> T:
    """Run a long computation: here when the caller blocks anyway, else on a thread so that its event loop stays free."""
    if is_blocking():
        return fn()
    import asyncio

    return await asyncio.get_running_loop().run_in_executor(None, fn)


async def unbroken(coro: Coroutine[Any, Any, T]) -> T:
    """Await `coro`, to its end even when this task is cancelled meanwhile; that is raised then.

    For a step of which it must be known afterwards whether it was taken. A second cancellation breaks it off.
    """
    if is_blocking():
        return await coro
    import asyncio

    task = asyncio.ensure_future(coro)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        try:
            await asyncio.wait([task])
        finally:
            if not task.cancel() and not task.cancelled():
                task.exception()  # nobody else will look at it
        raise


async def concurrent_map(fn: Callable[[T], Awaitable[R]], items: Iterable[T], limit: int) -> list[R]:
    """`[await fn(item) for item in items]`, at most `limit` at a time.

    The first failure cancels what has not begun, waits for what has, and is raised.
    """
    todo = list(items)
    width = min(limit, len(todo))
    if width <= 1:
        return [await fn(item) for item in todo]
    if is_blocking():
        return _map_on_threads(fn, todo, width)
    return await _map_on_tasks(fn, todo, width)


def _map_on_threads(fn: Callable[[T], Awaitable[R]], todo: list[T], width: int) -> list[R]:
    async def call(item: T) -> R:
        return await fn(item)

    def drive(item: T) -> R:
        return run(call(item))

    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(width, thread_name_prefix="icechunk") as pool:
        futures = [pool.submit(drive, item) for item in todo]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise


async def _map_on_tasks(fn: Callable[[T], Awaitable[R]], todo: list[T], width: int) -> list[R]:
    import asyncio

    results: dict[int, R] = {}
    queue = iter(enumerate(todo))

    async def worker() -> None:
        for index, item in queue:
            results[index] = await fn(item)

    tasks = [asyncio.ensure_future(worker()) for _ in range(width)]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    return [results[index] for index in range(len(todo))]


async def gather(*coros: Coroutine[Any, Any, Any], limit: int | None = None) -> list[Any]:
    """Await all of `coros`, at most `limit` at a time (all by default); results in order of the arguments."""

    async def call(coro: Coroutine[Any, Any, Any]) -> Any:
        return await coro

    try:
        return await concurrent_map(call, coros, len(coros) if limit is None else limit)
    finally:
        for coro in coros:
            coro.close()
