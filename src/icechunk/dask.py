"""Storing dask arrays into the arrays of a fork, on any scheduler.

Each task writes one block and reports the references of the Zarr chunks it wrote, nothing else. The reports are joined
in a tree by dask and recorded in the fork at the end. So what travels is small however large the fork is; what a task
that failed half-way left behind is never recorded; and a task that ran twice counts once.

Two tasks that write into one Zarr chunk would overwrite each other, so that is refused before anything is computed.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import pickle
import uuid
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import dask.array as da
import dask.local
import dask.threaded
import numpy as np
import numpy.typing as npt
from dask.array import Array
from dask.base import compute, get_scheduler
from dask.delayed import delayed
from typing_extensions import TypeAliasType

from icechunk._driver import run
from icechunk.change_set import UNTOUCHED
from icechunk.chunk_alignment import Index, Place, Region, Write, check_alignment, chunks_touched, pair_up, write_sizes
from icechunk.distributed import distinct_forks, extract_session, merge_sessions
from icechunk.format.chunk_ref import ChunkRef
from icechunk.format.chunk_table import ChunkTable
from icechunk.session import ForkSession, MergeOverlapWarning

if TYPE_CHECKING:
    import zarr

    from icechunk.storage.base import Storage
    from icechunk.workspace import Workspace

SimpleGraph = TypeAliasType("SimpleGraph", Mapping[tuple[str, int], tuple[Any, ...]])
"""A dask graph in its plainest form."""
SplitEvery: TypeAlias = int | dict[int, int] | None
T = TypeVar("T")

_META = np.array([object()], dtype=object)


def store_dask(
    *,
    sources: Array | Sequence[Array],
    targets: zarr.Array[Any] | Sequence[zarr.Array[Any]],
    regions: Region | Collection[Region] = None,
    split_every: SplitEvery = None,
    safe_chunks: bool = True,
    **store_kwargs: Any,
) -> ForkSession:
    """Compute dask arrays and store them in Zarr arrays of a fork; returns the fork, with all that was written.

    Merge it into the session that it was forked from::

        fork = session.fork()
        target = zarr.open_array(fork.store, path="temperature")
        session.merge(store_dask(sources=[temperature], targets=[target]))

    Parameters
    ----------
    sources
        Dask arrays.
    targets
        As many Zarr arrays, opened from `fork.store`.
    regions
        Where in the targets to write; everywhere when not given.
    split_every
        How many reports of workers are joined at a time.
    safe_chunks
        Refuse with a `ValueError` when two tasks would write into one Zarr chunk (or shard).
    store_kwargs
        Given to `dask.compute`: `scheduler=`, `num_workers=`, ...; `lock=` is held while a block is written.

    Raises
    ------
    TypeError
        A target belongs to no session, or to one that is not a fork.
    ValueError
        Sources, targets and regions do not go together.
    """
    if isinstance(sources, Array):
        writes = pair_up([sources], [targets], regions)
    else:
        writes = pair_up(list(sources), list(cast(Sequence[Any], targets)), regions)
    if not writes:
        raise ValueError("there is nothing to store: sources is empty")
    forks = distinct_forks(_fork_of(write.target) for write in writes)
    store(writes, split_every=split_every, safe_chunks=safe_chunks, **store_kwargs)
    return merge_sessions(*forks)


def store(
    writes: Sequence[Write], *, split_every: SplitEvery = None, safe_chunks: bool = True, **store_kwargs: Any
) -> None:
    """Compute `writes`, and record what was written in the sessions of their targets.

    Those must be forks, unless the scheduler runs in this process (see `runs_here`).
    """
    if any(not isinstance(write.source, Array) for write in writes):
        raise ValueError("All sources must be dask array objects")
    if refused := {"compute", "return_stored", "load_stored"} & set(store_kwargs):
        raise TypeError(f"arrays are stored at once, and the fork is what is returned: leave out {sorted(refused)}")
    if safe_chunks:
        check_alignment(writes)
    lock = store_kwargs.pop("lock", None) or None
    reports = compute(*[_lazily(write, lock, split_every) for write in writes], **store_kwargs)  # type: ignore[no-untyped-call]
    for write, report in zip(writes, reports, strict=True):
        _record(write.target, report)


def runs_here(scheduler: Any = None) -> bool:
    """Whether dask would compute arrays by threads of this process, so that nothing has to travel."""
    chosen = get_scheduler(scheduler=scheduler, cls=Array)  # type: ignore[no-untyped-call]
    return chosen in (dask.threaded.get, dask.local.get_sync)


def session_merge_reduction(
    arrays: Array | Sequence[Array], *, split_every: SplitEvery, **store_kwargs: Any
) -> ForkSession:
    """Merge the forks behind dask arrays whose blocks are Zarr arrays, wherever those are.

    `dask.array.store(..., compute=False, return_stored=True, load_stored=False)` makes such arrays. `store_kwargs` are
    given to `dask.compute`.
    """
    arrays = [arrays] if isinstance(arrays, Array) else list(arrays)
    merged = [
        _reduce(array, computing_meta(extract_session), merge_sessions_array_kwargs, split_every) for array in arrays
    ]
    return merge_sessions(*compute(*merged, **store_kwargs))  # type: ignore[no-untyped-call]


def computing_meta(func: Callable[..., T]) -> Callable[..., T | npt.NDArray[Any]]:
    """Make `func` answer with an array of one object when dask only wants to know the type of its results."""

    def wrapper(*args: Any, computing_meta: bool = False, **kwargs: Any) -> T | npt.NDArray[Any]:
        return _META if computing_meta else func(*args, **kwargs)

    functools.update_wrapper(wrapper, func)
    # dask looks for the keyword in the signature
    del wrapper.__wrapped__  # type: ignore[attr-defined]
    return wrapper


@computing_meta
def merge_sessions_array_kwargs(*sessions: Any, axis: Any = None, keepdims: Any = None) -> ForkSession:
    """`merge_sessions` as a step of a dask reduction, which passes `axis` and `keepdims`."""
    return merge_sessions(*sessions)


def _fork_of(target: Any) -> ForkSession:
    session = extract_session(target)
    if not isinstance(session, ForkSession):
        raise TypeError(
            "store_dask only accepts arrays of a ForkSession, since only forks can travel to workers: take "
            "`fork = session.fork()`, open the targets from `fork.store`, and merge the result into the session"
        )
    return session


# --- tasks -----------------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What tasks wrote into one array.

    `refs` has the reference of each chunk by its coordinates, None for one that was deleted because it would hold nothing
    but the fill value. `hidden` counts chunks that several tasks wrote, of which one stands. `first_chunks` and `storages`
    are those of the forks that were written to.
    """

    refs: dict[tuple[int, ...], ChunkRef | None] = field(default_factory=dict)
    hidden: int = 0
    first_chunks: list[bytes] = field(default_factory=list)
    storages: dict[int, Storage] = field(default_factory=dict)

    def __reduce__(self) -> tuple[Any, ...]:
        # what another process is told of must be safe, and pickling a storage is what makes it so
        pickle.dumps(list(self.storages.values()))
        return Report, (self.refs, self.hidden, self.first_chunks)

    def add(self, other: Report) -> None:
        """Take over what another report says."""
        self.hidden += other.hidden + sum(self.refs.get(coords, ref) != ref for coords, ref in other.refs.items())
        self.refs.update(other.refs)
        self.first_chunks = list(dict.fromkeys([*self.first_chunks, *other.first_chunks]))
        self.storages.update(other.storages)


@dataclass(frozen=True)
class Sink:
    """What a task must know to write a block of its source. Travels to each worker once, not with every block."""

    target: zarr.Array[Any]
    place: Place
    edges: tuple[tuple[int, ...], ...]
    lock: Any
    is_home: bool = True
    """Whether this is the original, so that what is written through it needs no report."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Sink, (self.target, self.place, self.edges, self.lock, False)

    def write(self, block: Any, number: tuple[int, ...]) -> Report:
        """Write one block; returns the references of the chunks that were written."""
        bounds = [(edges[i], edges[i + 1]) for edges, i in zip(self.edges, number, strict=True)]
        if any(low == high for low, high in bounds):
            return Report()
        index = self.place.index(bounds)
        with self.lock or contextlib.nullcontext():
            self.target[index] = block
        return Report() if self.is_home else self._references(index)

    def _references(self, index: Index) -> Report:
        session = self.target.store.session  # type: ignore[attr-defined]
        workspace, storage = session._workspace, session._core.base_storage
        edits = workspace.change_set.chunks.get(run(workspace.array(f"/{self.target.path}")).id)
        if edits is None:
            return Report()
        touched = itertools.product(*chunks_touched(index, write_sizes(self.target)))
        found = {coords: ref for coords in touched if (ref := edits.find(coords)) is not UNTOUCHED}
        run(workspace.packs.settle())
        return Report(found, 0, list(workspace.first_chunks), {id(storage): storage})


def _lazily(write: Write, lock: Any, split_every: SplitEvery) -> Array:
    """The write as a dask array of a single element, the reports of all its tasks."""
    edges = tuple(tuple(itertools.accumulate(lengths, initial=0)) for lengths in write.source.chunks)
    name = f"icechunk-store-{uuid.uuid4().hex}"
    sink = delayed(Sink(write.target, write.place, edges, lock), traverse=False, name=f"{name}-sink")
    meta = np.empty((0,) * write.source.ndim, dtype=object)
    reports = write.source.map_blocks(_write_block, sink, name=name, dtype=object, meta=meta)
    return _reduce(reports, _pass_on, _join, split_every)


def _write_block(block: Any, sink: Sink, block_id: tuple[int, ...] = ()) -> Report:
    return sink.write(block, block_id)


def _reduce(array: Array, chunk: Any, aggregate: Any, split_every: SplitEvery) -> Array:
    return da.reduction(  # type: ignore[no-any-return, no-untyped-call]
        array, chunk=chunk, aggregate=aggregate, split_every=split_every, concatenate=False, dtype=object, meta=_META
    )


@computing_meta
def _pass_on(report: Report, axis: Any = None, keepdims: Any = None) -> Report:
    return report


@computing_meta
def _join(reports: Any, axis: Any = None, keepdims: Any = None) -> Report:
    joined = Report()
    for report in _flat(reports):
        joined.add(report)
    return joined


def _flat(reports: Any) -> Iterator[Report]:
    if isinstance(reports, Report):
        yield reports
        return
    for part in reports:
        yield from _flat(part)


def _record(target: zarr.Array[Any], report: Report) -> None:
    """Record in the target's session what workers reported."""
    if report.hidden:
        warnings.warn(
            f"several tasks wrote {report.hidden} chunks of /{target.path}; what one of them wrote stands",
            MergeOverlapWarning,
            stacklevel=4,
        )
    if not report.refs:
        return
    workspace = _workspace(target)
    node = run(workspace.array(f"/{target.path}"))
    written = {coords: ref for coords, ref in report.refs.items() if ref is not None}
    gone = np.array([coords for coords, ref in report.refs.items() if ref is None], dtype=np.uint32)
    ndim = len(node.shape)
    table = ChunkTable.from_refs(written, ndim)
    workspace.first_chunks += report.first_chunks
    run(workspace.replace_chunks(node, table, gone.reshape(len(report.refs) - len(written), ndim)))


def _workspace(target: zarr.Array[Any]) -> Workspace:
    workspace: Workspace = target.store._workspace  # type: ignore[attr-defined]
    return workspace
