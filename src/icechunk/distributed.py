"""Writing from many workers into one commit.

A writable session cannot be pickled, since two copies of it could not know of each other. Instead it hands out *forks*:
parts of itself that travel to workers, take writes there and come back. Whoever holds the session merges what came back
and commits once.

`merge_sessions` joins forks with each other, `extract_session` finds the fork behind a Zarr array, and `ParallelWrite`
keeps the books of a whole parallel write: who has a part, whose part is back, and whether it is time to commit.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Hashable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, cast

from icechunk.errors import ErrorKind, IcechunkError, SessionStateError
from icechunk.session import ForkSession, Session
from icechunk.store import IcechunkStore

if TYPE_CHECKING:
    import zarr

    from icechunk.conflicts import ConflictSolver

__all__ = ["ParallelWrite", "extract_session", "merge_sessions"]


def extract_session(zarray: zarr.Array[Any], axis: Any = None, keepdims: Any = None) -> Session:
    """The session behind a Zarr array: a `ForkSession` when the array was opened from the store of a fork.

    `axis` and `keepdims` are ignored; they let the function serve as a step of a dask reduction.

    Raises `TypeError` when the array does not live in an Icechunk store.
    """
    store = getattr(zarray, "store", None)
    if not isinstance(store, IcechunkStore):
        where = type(zarray if store is None else store).__name__
        raise TypeError(
            f"extract_session needs a Zarr array that was opened from a session's store; there is no session in a {where}"
        )
    return store.session


def merge_sessions(*sessions: Any) -> ForkSession:
    """Merge forks into the first of them, and return it.

    Takes forks, or (nested) lists of them. Several handles of one fork count once. Give the result, or simply all the
    forks, to `Session.merge` of the session that they were forked from, and commit that.

    Raises `TypeError` when something is not a fork, `ValueError` when there is none at all, and what `Session.merge`
    raises when two forks contradict each other.
    """
    forks = distinct_forks(_flatten(sessions))
    if not forks:
        raise ValueError("merge_sessions needs at least one fork; got none")
    first, *others = forks
    if others:
        first.merge(*others)
    return first


def distinct_forks(sessions: Iterable[Any]) -> list[ForkSession]:
    """The forks among `sessions`, each once, in order; `TypeError` for anything else."""
    found: dict[int, ForkSession] = {}
    for session in sessions:
        if not isinstance(session, ForkSession):
            raise TypeError(
                f"merge_sessions only accepts ForkSession objects. Received {type(session).__name__!r} instance "
                "instead. Write through `session.fork()`, and merge what came back into the session itself with "
                "`session.merge(*forks)`."
            )
        found.setdefault(id(session._workspace), session)
    return list(found.values())


def _flatten(items: Any) -> Iterator[Any]:
    for item in items:
        if isinstance(item, Iterable) and not isinstance(item, str | bytes | Session):
            yield from _flatten(item)
        else:
            yield item


class Executor(Protocol):
    """What runs functions elsewhere: a pool of `concurrent.futures`, a dask `Client`, ..."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any:
        """Start `fn(*args)`; the result has a method `result()`."""
        ...


class ParallelWrite:
    """One write in many parts: hands out forks, collects them, and commits when every part is back.

    A part is anything hashable that names a piece of the work: a month, a file name, a range of rows. Parts may be named
    beforehand, or simply be asked for. As a context manager it merges, and commits when given a message, when the block
    ends without an exception::

        with ParallelWrite(session, parts=months, message="Write 2024") as write:
            with ProcessPoolExecutor() as pool:
                write.map(write_month, executor=pool, retries=2)

    where `write_month(fork, month)` writes into `fork.store`. The same by hand::

        futures = {month: pool.submit(write_month, write.fork(month), month) for month in months}
        for month, future in futures.items():
            write.collect(month, future.result())

    What it guards against: committing while a part is missing; counting a part twice because it was tried twice (only
    the result collected last counts, as a whole); a worker that forgot to return its fork; and a session that holds
    some of the parts because another could not be merged.

    A part sees the session as it is when the part is handed out: create groups and arrays in the session first. May be
    used from several threads.

    Parameters
    ----------
    session
        The writable session that takes the parts, and commits.
    parts
        Parts that must all be there in the end. Parts that are only asked for later are added to them.
    message, metadata, rebase_with
        For the commit at the end of a `with` block, as in `Session.commit`.
    """

    def __init__(
        self,
        session: Session,
        parts: Iterable[Hashable] | None = None,
        *,
        message: str | None = None,
        metadata: dict[str, Any] | None = None,
        rebase_with: ConflictSolver | None = None,
    ) -> None:
        if not isinstance(session, Session):
            raise TypeError(
                f"ParallelWrite needs a session, not {type(session).__name__}; "
                "open one with `repo.writable_session(branch)`"
            )
        if session.read_only:
            raise ValueError("ParallelWrite needs a writable session; open one with `repo.writable_session(branch)`")
        self.session = session
        self._message = message
        self._commit_options: dict[str, Any] = {"metadata": metadata, "rebase_with": rebase_with}
        self._results: dict[Hashable, ForkSession | None] = dict.fromkeys(parts or ())
        self._bases: set[str] = set()
        self._merged = False
        self._lock = threading.RLock()

    @property
    def parts(self) -> tuple[Hashable, ...]:
        """All parts, named beforehand or handed out, in that order."""
        with self._lock:
            return tuple(self._results)

    @property
    def missing(self) -> tuple[Hashable, ...]:
        """The parts whose result was not collected yet."""
        with self._lock:
            return tuple(part for part, result in self._results.items() if result is None)

    def fork(self, part: Hashable) -> ForkSession:
        """A fork for `part`, to be written to anywhere and handed to `collect` afterwards.

        Asking again for a part starts it anew: an earlier result of it is forgotten, and it counts as missing.
        """
        with self._lock:
            self._check_open()
            self._results[part] = None
            return self._fork()

    def _fork(self) -> ForkSession:
        fork = self.session.fork()
        self._bases.add(fork.snapshot_id)
        # these books keep track of it: a failed or superseded attempt is dropped on purpose
        fork._workspace.handed_on = True
        return fork

    def collect(self, part: Hashable, result: ForkSession) -> None:
        """Take back what a worker wrote for `part`; replaces an earlier result of the same part.

        Raises `KeyError` when the part was never handed out, `TypeError` when `result` is no fork, and `ValueError`
        when it stems from another session.
        """
        if not isinstance(result, ForkSession):
            raise TypeError(
                f"the result of part {part!r} is {type(result).__name__}, not a ForkSession; "
                "the function that a worker runs must return the fork that it wrote to"
            )
        with self._lock:
            self._check_open()
            if part not in self._results or not self._bases:
                raise KeyError(f"part {part!r} was never handed out; ask for it with fork(part) first")
            if result.snapshot_id not in self._bases:
                raise ValueError(
                    f"the result of part {part!r} stems from another session, on snapshot {result.snapshot_id}; "
                    "collect only forks that fork(part) handed out"
                )
            self._results[part] = result

    def map(
        self,
        function: Callable[[ForkSession, Any], Any],
        parts: Iterable[Hashable] | None = None,
        *,
        executor: Executor | None = None,
        retries: int = 0,
    ) -> None:
        """Run `function(fork, part)` for every part and collect the forks.

        Parameters
        ----------
        function
            Writes one part into `fork.store`; what it returns is ignored. With worker processes it must be importable.
        parts
            The parts to run; all that are missing when not given.
        executor
            Where to run them: a pool of `concurrent.futures` or a dask `Client`. None runs them here, one by one.
        retries
            How often a part that raised is started anew, with a fresh fork. The failure after the last one is raised,
            with the part named in a note; the parts that succeeded stay collected, so `map` can be called again.
        """
        todo = list(dict.fromkeys(self.missing if parts is None else parts))
        running = {part: self._start(function, part, executor) for part in todo}
        for part in todo:
            for tries_left in range(retries, -1, -1):
                try:
                    # a cluster keeps what is still asked for, and makes it again when it is lost with a worker: let go of it
                    self.collect(part, running.pop(part).result())
                    break
                except Exception as error:
                    if not tries_left:
                        _cancel(running.values())
                        error.add_note(f"while writing part {part!r}")
                        raise
                    running[part] = self._start(function, part, executor)

    def _start(self, function: Callable[[ForkSession, Any], Any], part: Hashable, executor: Executor | None) -> Any:
        # the token tells one attempt from another where calls with equal arguments are taken for one and the same
        call = (_run_part, function, self.fork(part), part, uuid.uuid4().hex)
        return _Here(*call) if executor is None else executor.submit(*call)

    def merge(self) -> Session:
        """Merge all parts into the session, and return it. Does nothing the second time.

        Raises `SessionStateError` while a part is missing, and when parts contradict each other (one deletes what another
        writes), with the name of the part in a note; the session is then as it was before. Where two parts wrote the
        same chunk the later part wins, with a `MergeOverlapWarning`, as in `Session.merge`.
        """
        with self._lock:
            if self._merged:
                return self.session
            if missing := self.missing:
                raise SessionStateError(
                    f"{len(missing)} of {len(self._results)} parts are missing: {_some_of(missing)}; collect their "
                    "results, or hand them out again with fork(part)",
                    ErrorKind.UNCOMMITTED_CHANGES,
                )
            if self._results:
                # together first, aside, so that the session gets all of them or none
                together = self._fork()
                for part, result in self._results.items():
                    try:
                        together.merge(cast(ForkSession, result))
                    except IcechunkError as error:
                        error.add_note(f"while merging part {part!r} with those before it")
                        raise
                self.session.merge(together)
            self._merged = True
            return self.session

    def commit(self, message: str | None = None, **options: Any) -> str:
        """Merge all parts and commit the session; returns the id of the new snapshot.

        `options` go to `Session.commit` (`metadata`, `rebase_with`, ...). Refuses, like `merge`, while a part is
        missing. After a `ConflictError` the parts are merged: rebase the session, then commit again.
        """
        text = self._message if message is None else message
        if text is None:
            raise TypeError("commit needs a message")
        given = {name: value for name, value in self._commit_options.items() if value is not None}
        return self.merge().commit(text, **{**given, **options})

    def __enter__(self) -> ParallelWrite:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None:
            return
        self.merge()
        if self._message is not None and not self.session.read_only:
            self.commit()

    def __repr__(self) -> str:
        state = "merged" if self._merged else f"{len(self.missing)} missing"
        return f"<icechunk.distributed.ParallelWrite of {len(self._results)} parts, {state}>"

    def _check_open(self) -> None:
        if self._merged:
            raise SessionStateError("the parts of this write are merged already; start a new ParallelWrite")


def _run_part(function: Callable[[ForkSession, Any], Any], fork: ForkSession, part: Any, attempt: str) -> ForkSession:
    function(fork, part)
    return fork


class _Here:
    """A future whose work is done on the spot, when its result is asked for."""

    def __init__(self, fn: Callable[..., Any], *args: Any) -> None:
        self._call = (fn, args)

    def result(self) -> Any:
        fn, args = self._call
        return fn(*args)


def _cancel(futures: Iterable[Any]) -> None:
    for future in futures:
        cancel = getattr(future, "cancel", None)
        if cancel is not None:
            cancel()


def _some_of(parts: tuple[Hashable, ...], limit: int = 10) -> str:
    shown = ", ".join(repr(part) for part in parts[:limit])
    return shown if len(parts) <= limit else f"{shown} and {len(parts) - limit} more"
