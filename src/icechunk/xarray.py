"""Writing xarray objects into a session.

`to_icechunk` is `Dataset.to_zarr` for a session. xarray's own writer runs as it is, so that encodings, appends, regions
and checks are exactly xarray's; only its last step differs: instead of storing values it hands over triples of source,
target and region. Values in memory are then written into the session, and dask arrays into a fork of it, wherever dask
computes them; what the workers wrote is merged back into the session.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import xarray as xr
import zarr
from xarray.backends import ZarrStore
from xarray.backends.common import ArrayWriter
from zarr.core.array import AsyncArray
from zarr.core.sync import sync
from zarr.errors import ContainsArrayError, ContainsGroupError
from zarr.storage import StorePath

from icechunk.session import ForkSession, Session
from icechunk.store import IcechunkStore

if TYPE_CHECKING:
    Region: TypeAlias = Mapping[Any, slice | Literal["auto"]] | Literal["auto"] | None
    WriteMode: TypeAlias = Literal["w", "w-", "a", "a-", "r+"]

__all__ = ["to_icechunk"]

# how xarray stores a DataArray that has no name of its own as a variable
ARRAY_VARIABLE = "__xarray_dataarray_variable__"
ARRAY_NAME = "__xarray_dataarray_name__"

HELD_BYTES = 64 << 20
ARRAYS_AT_ONCE = 8


def to_icechunk(
    obj: xr.Dataset | xr.DataArray | xr.DataTree,
    session: Session,
    *,
    group: str | None = None,
    mode: WriteMode | None = None,
    safe_chunks: bool = True,
    align_chunks: bool = False,
    append_dim: Hashable | None = None,
    region: Region = None,
    encoding: Mapping[Any, Any] | None = None,
    chunkmanager_store_kwargs: Mapping[str, Any] | None = None,
    split_every: int | None = None,
    write_empty_chunks: bool | None = None,
    consolidated: Literal[False] | None = None,
) -> None:
    """Write an xarray object into a session; commit the session afterwards.

    Dask arrays are computed by the current scheduler, wherever its workers are, and end up in the same session.

    Parameters
    ----------
    obj
        A Dataset, a DataArray, or a DataTree, each node of which becomes a group. Variables that VirtualiZarr made
        (`ManifestArray`) are written as virtual references.
    session
        A writable session: `repo.writable_session(branch)`, or a fork of one.
    group
        Path of the group to write to; the root group when not given.
    mode
        `"w"` replaces the group, `"w-"` fails when there is one, `"a"` adds and overwrites variables, `"a-"` as `"a"`
        but leaves variables without `append_dim` alone, `"r+"` only changes values. By default `"w-"`, `"a"` with
        `append_dim`, `"r+"` with `region`.
    safe_chunks
        Refuse to write when several dask chunks would write into one Zarr chunk (or shard) at once.
    align_chunks
        Rechunk dask arrays to fit instead.
    append_dim
        Dimension along which to append.
    region
        Where to write in existing arrays: `{"x": slice(0, 10)}`; `"auto"`, or `{"x": "auto"}`, finds the place by the
        coordinates.
    encoding
        Encodings by variable, `{"v": {"chunks": (10, 10)}}`; for a DataTree by group, then by variable.
    chunkmanager_store_kwargs
        Given on to dask's `compute`: `scheduler=`, `num_workers=`, ...
    split_every
        How many partial results of workers are merged at a time.
    write_empty_chunks
        Whether to store chunks that hold nothing but the fill value. Zarr's default is not to.
    consolidated
        Nothing but `False` is possible: Icechunk keeps all metadata together anyway.

    Raises
    ------
    TypeError
        `obj` is no xarray object, or `session` is no session.
    ValueError
        The session is read-only, or the object does not fit: chunks, dimensions, names, encodings.
    FileExistsError
        The group exists and mode is `"w-"`.
    """
    _check_session(session)
    if consolidated:
        raise ValueError("Icechunk has no consolidated metadata, and needs none; leave `consolidated` out")
    options = _Options(
        mode, safe_chunks, align_chunks, append_dim, region, write_empty_chunks, (group or "").strip("/")
    )
    writer = LazyArrayWriter()
    if isinstance(obj, xr.DataTree):
        _write_tree(obj, session, options, dict(encoding or {}), writer)
    else:
        _write_dataset(_as_dataset(obj), session, options, encoding, writer)
    writer.write_eager()
    if writer.sources:
        _write_lazy(session, writer, safe_chunks, split_every, dict(chunkmanager_store_kwargs or {}))


def _check_session(session: Any) -> None:
    if isinstance(session, IcechunkStore):
        raise TypeError(
            "to_icechunk takes a session, not a store: pass the session itself, which is also `store.session`"
        )
    if not isinstance(session, Session):
        advice = "open one with `repo.writable_session(branch)`"
        raise TypeError(f"to_icechunk takes a session, not {type(session).__name__}; {advice}")
    if session.read_only:
        raise ValueError(
            "this session is read-only, as every session is once it was committed; open a new one with "
            "`repo.writable_session(branch)`"
        )


def _as_dataset(obj: Any) -> xr.Dataset:
    if isinstance(obj, xr.Dataset):
        return obj
    if not isinstance(obj, xr.DataArray):
        raise TypeError(f"to_icechunk writes a Dataset, DataArray or DataTree, not {type(obj).__name__}")
    if obj.name is None:
        return obj.to_dataset(name=ARRAY_VARIABLE)
    if obj.name in obj.coords or obj.name in obj.dims:
        dataset = obj.to_dataset(name=ARRAY_VARIABLE)
        dataset.attrs[ARRAY_NAME] = obj.name
        return dataset
    return obj.to_dataset()


@dataclass(frozen=True)
class _Options:
    """How and where to write one dataset, apart from its encoding."""

    mode: WriteMode | None
    safe_chunks: bool
    align_chunks: bool
    append_dim: Hashable | None
    region: Region
    write_empty_chunks: bool | None
    group: str

    def __post_init__(self) -> None:
        if self.mode not in (None, "w", "w-", "a", "a-", "r+"):
            raise ValueError(f"mode is one of 'w', 'w-', 'a', 'a-' and 'r+', not {self.mode!r}")
        if self.append_dim is not None and self.mode not in (None, "a", "a-"):
            raise ValueError(f"append_dim goes with mode='a' (or none), not with mode={self.mode!r}")
        if self.region is not None and self.mode not in (None, "a", "a-", "r+"):
            raise ValueError(f"region goes with mode='r+' or mode='a' (or none), not with mode={self.mode!r}")

    @property
    def effective_mode(self) -> WriteMode:
        if self.mode is not None:
            return self.mode
        if self.append_dim is not None:
            return "a"
        return "w-" if self.region is None else "r+"


def _write_tree(
    tree: xr.DataTree, session: Session, options: _Options, encoding: dict[Any, Any], writer: LazyArrayWriter
) -> None:
    """Write every node of a tree into the group of its path."""
    if unknown := set(encoding) - set(tree.groups):
        raise ValueError(f"encoding names groups that are not in the tree: {sorted(map(str, unknown))}")
    options = replace(options, mode=options.effective_mode)
    regions: dict[str, Mapping[Any, Any]] = {}
    for path, node in tree.subtree_with_keys:
        dataset = node.to_dataset(inherit=node is tree)
        above = regions.get(path.rpartition("/")[0] or ".", {})
        here = replace(
            options,
            group="/".join(filter(None, (options.group, path.removeprefix(".")))),
            append_dim=options.append_dim if options.append_dim in dataset.dims else None,
            region=_region_of_node(dataset, options.region, above),
        )
        regions[path] = {**above, **_write_dataset(dataset, session, here, encoding.get(node.path), writer)}


def _region_of_node(dataset: xr.Dataset, region: Region, above: Mapping[Any, Any]) -> Region:
    """The region of one node; where its coordinates are inherited, they were looked up in the groups above."""
    if region is None or not dataset.variables:
        return None
    places: Mapping[Any, Any] = dict.fromkeys(dataset.dims, "auto") if region == "auto" else region
    found = {
        dim: above.get(dim, place) if place == "auto" and dim not in dataset.variables else place
        for dim, place in places.items()
        if dim in dataset.dims
    }
    return found or region


def _write_dataset(
    dataset: xr.Dataset,
    session: Session,
    options: _Options,
    encoding: Mapping[Any, Any] | None,
    writer: LazyArrayWriter,
) -> Mapping[Any, Any]:
    """Write the metadata of one dataset, and give its values to `writer`; returns the region that was found."""
    encoding = {name: dict(settings) for name, settings in (encoding or {}).items()}
    if _is_virtual(dataset):
        _write_virtual(dataset, session, options, encoding)
        return {}
    _check_names(dataset)
    dataset = dataset.copy(deep=False)
    for variable in dataset.variables.values():
        if variable.size == 0:
            variable.load()
    store = _open_group(session.store, options)
    dataset = store._validate_and_autodetect_region(dataset)
    store._validate_encoding(encoding)
    dataset.dump_to_store(store, writer=writer, encoding=encoding)
    return store._write_region or {}


def _check_names(dataset: xr.Dataset) -> None:
    for name in (*dataset.variables, *dataset.dims):
        if not isinstance(name, str):
            raise TypeError(f"names of variables and dimensions must be strings, not {name!r}; rename it first")
        if not name:
            raise ValueError("names of variables and dimensions must not be empty; rename it first")


def _open_group(store: IcechunkStore, options: _Options) -> Any:
    """xarray's writer for a group. The arguments that it takes are not the same in all versions of xarray."""
    region = options.region
    wanted: dict[str, Any] = {
        "group": options.group or None,
        "append_dim": options.append_dim,
        "write_region": dict(region) if isinstance(region, Mapping) else region,
        "safe_chunks": options.safe_chunks,
        "align_chunks": options.align_chunks,
        "write_empty": options.write_empty_chunks,
        "zarr_format": 3,
        "consolidated": False,
        "consolidate_on_close": False,
    }
    known = inspect.signature(ZarrStore.open_group).parameters
    if options.align_chunks and "align_chunks" not in known:
        raise ValueError(f"align_chunks needs a newer xarray than {xr.__version__}; upgrade it, or rechunk before")
    arguments = {name: value for name, value in wanted.items() if name in known}
    return ZarrStore.open_group(store, mode=options.effective_mode, **arguments)


# --- values --------------------------------------------------------------------------------------------------------


def is_dask_collection(x: Any) -> bool:
    """Whether `x` is a dask collection. Does not import dask: where nobody did, there can be none."""
    base = sys.modules.get("dask.base")
    return base is not None and bool(base.is_dask_collection(x))


class LazyArrayWriter(ArrayWriter):  # type: ignore[misc]
    """Collects what xarray wants written: dask arrays apart from values in memory.

    Values in memory are held until `write_eager`, or until there are many of them.
    """

    __slots__ = ("_held", "eager_regions", "eager_sources", "eager_targets")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.eager_sources: list[Any] = []
        self.eager_targets: list[zarr.Array[Any]] = []
        self.eager_regions: list[tuple[slice, ...] | None] = []
        self._held = 0

    def add(self, source: Any, target: Any, region: Any = None) -> None:
        """Take note that `source` is to be written to `region` of `target`."""
        if is_dask_collection(source):
            self.sources.append(source)
            self.targets.append(target)
            self.regions.append(region)
            return
        self.eager_sources.append(source)
        self.eager_targets.append(target)
        self.eager_regions.append(region)
        self._held += getattr(source, "nbytes", 0)
        if self._held > HELD_BYTES:
            self.write_eager()

    def write_eager(self) -> None:
        """Write the values in memory, and forget them."""
        writes = zip(self.eager_targets, self.eager_regions, self.eager_sources, strict=True)
        by_target: dict[int, list[tuple[Any, Any, Any]]] = {}
        for write in writes:
            by_target.setdefault(id(write[0]), []).append(write)
        self.eager_sources, self.eager_targets, self.eager_regions, self._held = [], [], [], 0
        if len(by_target) > 1 and all(_is_remote(group[0][0]) for group in by_target.values()):
            with ThreadPoolExecutor(min(len(by_target), ARRAYS_AT_ONCE), thread_name_prefix="icechunk") as pool:
                list(pool.map(_write_all, by_target.values()))
        else:
            for group in by_target.values():
                _write_all(group)


def _is_remote(target: Any) -> bool:
    """Whether what storing costs is waiting, so that it pays to wait for several arrays at once."""
    store = target.store
    return isinstance(store, IcechunkStore) and store.session._core.width >= ARRAYS_AT_ONCE


def _write_all(writes: list[tuple[Any, Any, Any]]) -> None:
    for target, region, source in writes:
        target[region or ...] = source


def _write_lazy(
    session: Session, writer: LazyArrayWriter, safe_chunks: bool, split_every: int | None, options: dict[str, Any]
) -> None:
    """Let dask write: into the session when it works in this process, else into a fork that is merged afterwards."""
    from icechunk.chunk_alignment import pair_up
    from icechunk.dask import runs_here, store

    fork = None if runs_here(options.get("scheduler")) else session.fork()
    targets = writer.targets if fork is None else [_at(fork, target) for target in writer.targets]
    writes = pair_up(writer.sources, targets, writer.regions)
    store(writes, split_every=split_every, safe_chunks=safe_chunks, **options)
    if fork is not None:
        session.merge(fork)


def _at(fork: ForkSession, array: zarr.Array[Any]) -> zarr.Array[Any]:
    """The same array, as part of a fork, without reading its metadata again."""
    inner = array._async_array
    config = getattr(inner, "config", None) or inner._config
    return zarr.Array(AsyncArray(array.metadata, StorePath(fork.store, array.path), config))


# --- virtual references --------------------------------------------------------------------------------------------


def _is_virtual(dataset: xr.Dataset) -> bool:
    """Whether VirtualiZarr made any of the variables."""
    manifests = sys.modules.get("virtualizarr.manifests")
    if manifests is None:
        return False
    return any(isinstance(variable._data, manifests.ManifestArray) for variable in dataset.variables.values())


def _write_virtual(dataset: xr.Dataset, session: Session, options: _Options, encoding: Mapping[Any, Any]) -> None:
    """Let VirtualiZarr write the references, and whatever was loaded beside them."""
    if encoding:
        raise ValueError(
            "encoding cannot be chosen for a dataset with virtual variables, whose bytes stay as they are; "
            "leave it out, or write the other variables by a call of their own"
        )
    store, mode = session.store, options.effective_mode
    arguments: dict[str, Any] = {"group": options.group or None}
    if options.append_dim is not None:
        arguments["append_dim"] = options.append_dim
    elif options.region is not None:
        arguments["region"] = options.region
    elif "mode" in inspect.signature(dataset.vz.to_icechunk).parameters:
        arguments["mode"] = mode
    elif mode == "w":
        # versions without a mode want to find nothing
        sync(store.delete_dir(options.group))
    try:
        dataset.vz.to_icechunk(store, **arguments)
    except (ContainsArrayError, ContainsGroupError) as error:
        place = options.group or "/"
        raise FileExistsError(f"there is something at {place!r} already; pass mode='w' to replace it") from error
