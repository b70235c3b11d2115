"""The zarr store of a session.

It translates: zarr's buffers and byte requests on one side, bytes and ranges of a `Workspace` on the other. The
coroutines zarr awaits are the core's own; where the installed zarr knows synchronous stores, it can skip its event loop
altogether and call `get_sync`, `set_sync` and `delete_sync`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.buffer.core import default_buffer_prototype

from icechunk._driver import blocking, concurrent_map, run
from icechunk.errors import ErrorKind, NodeNotFoundError, ReadOnlyError, SessionStateError
from icechunk.format.chunk_ref import Virtual
from icechunk.format.node_path import parse_path
from icechunk.iterators import AsyncCloseableIterator
from icechunk.storage.base import ByteRange
from icechunk.virtual_refs import inline_bytes, location_texts, refs_from_columns, refs_from_specs, virtual_ref
from icechunk.virtual_types import VirtualChunkSpec
from icechunk.workspace import Mode, Workspace
from icechunk.zarr_keys import ChunkKey, parse_key

if TYPE_CHECKING:
    from icechunk.session import Session

__all__ = ["IcechunkStore", "VirtualChunkSpec"]

Refused: TypeAlias = list[tuple[int, ...]]
"""Indices of chunks whose location no container serves."""
Found: TypeAlias = list[Buffer | None]
RefColumns: TypeAlias = tuple[
    npt.NDArray[np.uint32],
    npt.NDArray[np.uint8],
    list[str],
    npt.NDArray[np.uint64],
    npt.NDArray[np.uint64],
    Mapping[int, bytes],
]
"""A batch of chunk references: coordinates, kinds, locations, offsets, lengths, and inline bytes by row."""


class IcechunkStore(Store):
    """A zarr store that reads a snapshot and writes into a session; get one from `session.store`.

    Nothing written is visible to others before the session commits.
    """

    def __init__(self, store: Session, read_only: bool | None = None, *args: Any, **kwargs: Any) -> None:
        workspace = getattr(store, "_workspace", None)
        if not isinstance(workspace, Workspace):
            raise ValueError(
                f"an IcechunkStore is made by a session, use `session.store`; got {type(store).__name__} instead"
            )
        super().__init__(read_only=store.read_only if read_only is None else read_only)
        self._session = store
        self._workspace = workspace
        self._is_open = True

    @property
    def session(self) -> Session:
        """The session this store reads from and writes to."""
        return self._session

    @property
    def read_only(self) -> bool:
        """Whether writes are refused; a store becomes read-only when its session commits."""
        return self._read_only or self._workspace.mode is Mode.READ_ONLY

    def with_read_only(self, read_only: bool = False) -> IcechunkStore:
        """The same store, refusing writes or not."""
        if not read_only and self._workspace.mode is Mode.READ_ONLY:
            raise ReadOnlyError(
                "the session of this store is read-only; open one with `repo.writable_session(branch)`",
                ErrorKind.READ_ONLY_SESSION,
            )
        return type(self)(self._session, read_only)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IcechunkStore) and other._workspace is self._workspace

    __hash__ = None  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        return {"session": self._session, "read_only": self._read_only}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["session"], state["read_only"])  # type: ignore[misc]

    def __repr__(self) -> str:
        from icechunk.display import store_repr

        return store_repr(self)

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        from icechunk.display import store_html

        return store_html(self)

    # --- what zarr asks -------------------------------------------------------------------------------------------

    @property
    def supports_writes(self) -> bool:
        """Always."""
        return True

    @property
    def supports_deletes(self) -> bool:
        """Always."""
        return True

    @property
    def supports_listing(self) -> bool:
        """Always."""
        return True

    @property
    def supports_partial_writes(self) -> Literal[False]:
        """Never: a chunk is written whole."""
        return False

    @property
    def _supports_sync_io(self) -> bool:
        """Whether reading here does not wait, so that zarr may do it on the few threads that it has, and not in its event loop.

        Where it does, 10 requests at a time are better than one per core, and ranges that are wanted at the same time are
        asked for together.
        """
        workspace = self._workspace
        return workspace.assets.storage.concurrency <= 1 and not workspace.virtual.is_remote

    @property
    def supports_consolidated_metadata(self) -> bool:
        """Never: the snapshot holds all metadata already."""
        return False

    # --- reading ----------------------------------------------------------------------------------------------------

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The bytes at `key`, or a range of them; None when nothing is there."""
        data = await self._workspace.get(key, None if byte_range is None else _range(byte_range))
        return None if data is None else _buffer(data, prototype)

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """As `get`, without an event loop."""
        data = run(self._workspace.get(key, None if byte_range is None else _range(byte_range)))
        return None if data is None else _buffer(data, prototype)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> Found:
        """Many ranges at once, in the order asked for; None where nothing is there."""

        async def get(item: tuple[str, ByteRequest | None]) -> Buffer | None:
            return await self.get(item[0], prototype, item[1])

        return await concurrent_map(get, key_ranges, self._session._core.effective.get_partial_values_concurrency)

    async def exists(self, key: str) -> bool:
        """Whether something is at `key`."""
        return await self._workspace.exists(key)

    async def getsize(self, key: str) -> int:
        """The number of bytes at `key`; 0 for a chunk that was never written.

        Raises `NodeNotFoundError`, which is a `KeyError`, when the node does not exist.
        """
        size = await self._workspace.size(key)
        if size is not None:
            return size
        parsed = parse_key(key)
        if isinstance(parsed, ChunkKey):
            await self._workspace.array(parsed.path)
            return 0
        raise NodeNotFoundError(f"key not found: {key}", ErrorKind.KEY_NOT_FOUND)

    async def getsize_prefix(self, prefix: str) -> int:
        """The sum of the sizes of all keys below a group or array."""
        workspace = self._workspace
        total = 0
        keys = [key async for batch in workspace.list_prefix(prefix) for key in batch]
        for key in keys:
            total += await workspace.size(key) or 0
        return total

    async def is_empty(self, prefix: str) -> bool:
        """Whether nothing is below a prefix."""
        return not await self._workspace.list_dir(prefix)

    # --- writing ----------------------------------------------------------------------------------------------------

    def _check_writable(self) -> None:
        if self._read_only or self._workspace.mode is Mode.READ_ONLY:
            raise ReadOnlyError(
                "cannot write to read-only store; open a session with `repo.writable_session(branch)`",
                ErrorKind.READ_ONLY_STORE,
            )

    async def set(self, key: str, value: Buffer) -> None:
        """Write `value` at `key`: the metadata of a node, or one chunk of an existing array."""
        self._check_writable()
        await self._workspace.set(key, _bytes(value))

    def set_sync(self, key: str, value: Buffer) -> None:
        """As `set`, without an event loop."""
        self._check_writable()
        run(self._workspace.set(key, _bytes(value)))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """As `set`, where nothing is yet. Of several calls at once for one key, exactly one writes."""
        self._check_writable()
        await self._workspace.set(key, _bytes(value), only_new=True)

    async def set_partial_values(self, key_start_values: Iterable[tuple[str, int, bytes]]) -> None:
        """Not possible: a chunk is written whole."""
        raise SessionStateError(
            "store method `set_partial_values` is not implemented by Icechunk; write whole chunks",
            ErrorKind.UNIMPLEMENTED,
        )

    async def delete(self, key: str) -> None:
        """Delete a chunk, or a node with all below it; nothing happens when there is none."""
        self._check_writable()
        await self._workspace.delete(key)

    def delete_sync(self, key: str) -> None:
        """As `delete`, without an event loop."""
        self._check_writable()
        run(self._workspace.delete(key))

    async def delete_dir(self, prefix: str) -> None:
        """Delete a node with all below it, or the chunks whose coordinates begin so."""
        self._check_writable()
        await self._workspace.delete_prefix(prefix)

    async def clear(self) -> None:
        """Delete every node of the session's hierarchy; history is not touched."""
        self._check_writable()
        await self._workspace.delete_prefix("")

    def sync_clear(self) -> None:
        """`clear`, synchronously."""
        run(self.clear())

    # --- listing ----------------------------------------------------------------------------------------------------

    def list(self) -> AsyncIterator[str]:  # type: ignore[override]
        """All keys, for `async for` or `for`."""
        return AsyncCloseableIterator(_flat(self._workspace.list_keys()))

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:  # type: ignore[override]
        """All keys of a group or array and of what is below it."""
        return AsyncCloseableIterator(_flat(self._workspace.list_prefix(prefix)))

    def list_dir(self, prefix: str) -> AsyncIterator[str]:  # type: ignore[override]
        """The names one level below a group, array or chunk prefix."""
        return AsyncCloseableIterator(self._names(prefix))

    async def _names(self, prefix: str) -> AsyncIterator[str]:
        for name in await self._workspace.list_dir(prefix):
            yield name

    # --- virtual chunks ---------------------------------------------------------------------------------------------

    async def set_virtual_ref_async(
        self,
        key: str,
        location: str,
        *,
        offset: int,
        length: int,
        checksum: str | datetime | None = None,
        validate_container: bool = True,
    ) -> None:
        """Make one chunk refer to `length` bytes from `offset` on in the object at the URL `location`.

        Parameters
        ----------
        key : str
            The chunk's key, such as `air/c/0/0`; its array must exist.
        checksum : str or datetime, optional
            The object's etag, or the time after which it must not have been modified (whole seconds count). Reading a
            chunk whose object changed fails.
        validate_container : bool
            Whether a location that no virtual chunk container serves is refused.
        """
        self._check_writable()
        parsed = parse_key(key)
        if not isinstance(parsed, ChunkKey):
            raise SessionStateError(
                f"this operation is not allowed: use .set to modify metadata for key {key}", ErrorKind.NOT_ALLOWED
            )
        ref: Virtual = virtual_ref(location, offset, length, checksum, self._workspace.settings.spec)
        if validate_container:
            self._workspace.virtual.check(ref.location)
        await self._workspace.set_ref(parsed.path, parsed.coords, ref)

    set_virtual_ref = blocking(set_virtual_ref_async)

    async def set_virtual_refs_async(
        self, array_path: str, chunks: Sequence[VirtualChunkSpec], *, validate_containers: bool = True
    ) -> Refused | None:
        """Set many virtual references of one array.

        Returns None, or the indices of the chunks that no container serves; those are not set, the others are.
        """
        self._check_writable()
        node = await self._workspace.array(_array_path(array_path))
        table, refused = refs_from_specs(
            chunks, node, self._workspace.virtual if validate_containers else None, self._workspace.settings.spec
        )
        await self._workspace.set_refs(node.path, table)
        return refused or None

    set_virtual_refs = blocking(set_virtual_refs_async)

    async def set_virtual_refs_arr_async(
        self,
        array_path: str,
        chunk_grid_shape: Sequence[int],
        locations: Sequence[str],
        offsets: npt.NDArray[np.uint64],
        lengths: npt.NDArray[np.uint64],
        *,
        validate_containers: bool = True,
        arr_offset: Sequence[int] | None = None,
        checksum: str | datetime | None = None,
    ) -> Refused | None:
        """Set virtual references for a whole grid of chunks, from columns in C order over `chunk_grid_shape`.

        Chunks with an empty location are left alone. `arr_offset` is added to the chunk indices. Returns as
        `set_virtual_refs` does.
        """
        self._check_writable()
        node = await self._workspace.array(_array_path(array_path))
        table, refused = refs_from_columns(
            chunk_grid_shape,
            locations,
            offsets,
            lengths,
            node,
            self._workspace.virtual if validate_containers else None,
            self._workspace.settings.spec,
            arr_offset=arr_offset,
            checksum=checksum,
        )
        await self._workspace.set_refs(node.path, table)
        return refused or None

    set_virtual_refs_arr = blocking(set_virtual_refs_arr_async)

    async def array_chunk_iterator(self, array_path: str, batch_size: int = 100_000) -> AsyncIterator[RefColumns]:
        """All chunk references of an array, as columns, in batches.

        Yields tuples of coordinates (n x ndim), kinds (`ChunkType` numbers), locations (a URL for virtual chunks, the
        object's path in the repository for native ones, else empty), offsets, lengths, and the bytes of inline chunks
        by row.
        """
        node = await self._workspace.array(_array_path(array_path))
        table = await self._workspace.chunk_table(node)
        for start in range(0, len(table), batch_size):
            batch = table.take(np.arange(start, min(start + batch_size, len(table))))
            yield batch.coords, batch.kind, location_texts(batch), batch.offset, batch.length, inline_bytes(batch)


def _array_path(path: str) -> str:
    return parse_path(path if path.startswith("/") else "/" + path)


def _range(request: ByteRequest) -> ByteRange:
    if isinstance(request, RangeByteRequest):
        return ByteRange(request.start, request.end)
    if isinstance(request, OffsetByteRequest):
        return ByteRange(request.offset, None)
    if isinstance(request, SuffixByteRequest):
        return ByteRange(-request.suffix, None) if request.suffix else ByteRange(0, 0)
    raise TypeError(f"unexpected byte range, got {request!r}")


def _buffer(data: bytes | bytearray | memoryview, prototype: BufferPrototype | None) -> Buffer:
    kind = (prototype or default_buffer_prototype()).buffer
    return kind.from_bytes(data)


def _bytes(value: Buffer) -> memoryview | bytes:
    if not isinstance(value, Buffer):
        raise TypeError(
            f"IcechunkStore.set(): `value` must be a Buffer instance. Got an instance of {type(value)} instead."
        )
    array: npt.NDArray[Any] = np.ascontiguousarray(value.as_numpy_array())
    return array.view(np.uint8).data if array.size else b""


async def _flat(batches: AsyncIterator[list[str]]) -> AsyncIterator[str]:
    async for batch in batches:
        for key in batch:
            yield key
