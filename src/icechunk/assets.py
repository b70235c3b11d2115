"""The immutable files of a repository, typed and cached.

`format/` knows what their bytes mean, `storage/` moves bytes; this module joins the two. Every file here is addressed by
a random id and never changes (spec 1's expiration, which gives a snapshot another parent, is the one exception and goes
through `write_snapshot`), so what was decoded once is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from icechunk._dataclass import dataclass
from icechunk._driver import offload
from icechunk.cache import WeightedCache
from icechunk.errors import ErrorKind, IcechunkError, ObjectNotFoundError, SnapshotNotFoundError, StorageError
from icechunk.format.chunk_ref import Native
from icechunk.format.envelope import WRITER_NAME
from icechunk.format.ids import format_id
from icechunk.format.manifest import Manifest
from icechunk.format.snapshot import Snapshot
from icechunk.format.transaction_log import TransactionLog
from icechunk.storage.base import Buffer, ByteRange, Storage, Version
from icechunk.storage.neighbours import Answer, Neighbours

SNAPSHOTS = "snapshots/"
MANIFESTS = "manifests/"
TRANSACTIONS = "transactions/"
CHUNKS = "chunks/"

_WRITTEN = 4 << 20
"""Bytes of manifests that are kept as they were written: who commits again needs them, and need not fetch them."""

_LONG = 1 << 20
"""Bytes from which on decoding a file is worth a thread, where an event loop waits."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AssetSettings:
    """What `Assets` needs of the configuration.

    Attributes
    ----------
    cached_nodes, cached_refs, cached_changes, cached_chunk_bytes : int
        How many snapshot nodes, chunk references, changes and bytes of chunks are kept.
    level : int
        The zstd level of metadata files.
    segmented : bool
        Whether metadata files are written in segments that can be decoded alone.
    tag_objects : bool
        Whether objects carry the facts of their header as object metadata too.
    metadata_storage_class, chunks_storage_class : str or None
        Storage classes of new objects, where the backend has such.
    """

    cached_nodes: int = 500_000
    cached_refs: int = 15_000_000
    cached_changes: int = 0
    cached_chunk_bytes: int = 0
    level: int = 3
    segmented: bool = False
    tag_objects: bool = False
    metadata_storage_class: str | None = None
    chunks_storage_class: str | None = None


class Assets:
    """Reads and writes snapshots, manifests, transaction logs and chunks of one storage."""

    def __init__(self, storage: Storage, settings: AssetSettings | None = None) -> None:
        self.storage = storage
        self.settings = settings = settings or AssetSettings()
        self._snapshots = WeightedCache[bytes, Snapshot](settings.cached_nodes, lambda value: len(value) + 1)
        self._manifests = WeightedCache[bytes, Manifest](settings.cached_refs, lambda value: value.num_refs + 1)
        self._logs = WeightedCache[bytes, TransactionLog](settings.cached_changes, lambda value: value.num_changes + 1)
        self._chunks = WeightedCache[tuple[bytes, int, int], Buffer](settings.cached_chunk_bytes, len)
        self._packed = Neighbours(self._fetch_range, ahead=True)
        self._written = WeightedCache[bytes, bytes](_WRITTEN if settings.cached_refs else 0, len)

    async def snapshot(self, snapshot_id: bytes) -> Snapshot:
        """The snapshot of this id; raises `SnapshotNotFoundError`."""
        kept = self._snapshots.get(snapshot_id)
        if kept is not None:
            return kept

        async def fetch() -> Snapshot:
            path = SNAPSHOTS + format_id(snapshot_id)
            try:
                data, _ = await self.storage.get(path)
            except ObjectNotFoundError as error:
                raise SnapshotNotFoundError(
                    f"snapshot id not found `{format_id(snapshot_id)}`; `repo.ancestry(branch=...)` lists what there is",
                    ErrorKind.SNAPSHOT_NOT_FOUND,
                ) from error
            return await _decoded(data, lambda: Snapshot.decode(data, path))

        return await self._snapshots.load(snapshot_id, fetch)

    def kept_snapshot(self, snapshot_id: bytes) -> Snapshot | None:
        """The snapshot of this id if it was read before and is still at hand."""
        return self._snapshots.get(snapshot_id)

    def can_foresee(self, snapshot_id: bytes) -> bool:
        """Whether fetching a snapshot before it is asked for may save time: it is not at hand, and would be kept."""
        return self.settings.cached_nodes > 0 and self._snapshots.get(snapshot_id) is None

    async def foresee(self, snapshot_id: bytes) -> None:
        """Fetch a snapshot that will probably be needed; nothing happens where there is none."""
        with suppress(IcechunkError):
            await self.snapshot(snapshot_id)

    async def manifest(self, manifest_id: bytes, size: int | None = None) -> Manifest:
        """The manifest of this id. `size` is that of its file, where the caller knows it."""
        kept = self._manifests.get(manifest_id)
        if kept is not None:
            return kept

        async def fetch() -> Manifest:
            path = MANIFESTS + format_id(manifest_id)
            data: Buffer | None = self._written.get(manifest_id)
            if data is None:
                data, _ = await self.storage.get(path)
            return await _decoded(data, lambda: Manifest.decode(data, path))

        return await self._manifests.load(manifest_id, fetch)

    async def transaction_log(self, snapshot_id: bytes) -> TransactionLog:
        """What the commit of this snapshot changed."""

        async def fetch() -> TransactionLog:
            path = TRANSACTIONS + format_id(snapshot_id)
            data, _ = await self.storage.get(path)
            return await _decoded(data, lambda: TransactionLog.decode(data, path))

        if not self.settings.cached_changes:
            return await fetch()
        return await self._logs.load(snapshot_id, fetch)

    def chunk(self, ref: Native, start: int = 0, stop: int | None = None) -> Coroutine[Any, Any, Buffer]:
        """The bytes `start <= i < stop` of a native chunk, all of them by default."""
        end = ref.length if stop is None else stop
        if self.settings.cached_chunk_bytes:
            key = ref.id, ref.offset + start, ref.offset + end
            return self._chunks.load(key, lambda: self._fetch_to_keep(ref, start, end))
        return self._fetch_chunk(ref, start, end)

    async def _fetch_to_keep(self, ref: Native, start: int, stop: int) -> Buffer:
        data = await self._fetch_chunk(ref, start, stop)
        return bytes(data) if ref.offset else data  # not with all that came beside it

    async def _fetch_chunk(self, ref: Native, start: int, stop: int) -> Buffer:
        if start >= stop:
            return b""
        path = CHUNKS + format_id(ref.id)
        # a range, even where it is the whole object: whoever knows how much will come need not be told first
        if ref.offset and self.storage.concurrency > 1:
            data, *_ = await self._packed.fetch(path, ref.offset + start, ref.offset + stop, False)
        else:
            data, _ = await self.storage.get(path, byte_range=ByteRange(ref.offset + start, ref.offset + stop))
        if len(data) != stop - start:
            raise StorageError(
                f"chunk object `{path}` has not the expected size: {stop - start} bytes were wanted and {len(data)} "
                "are there; the object was damaged or replaced",
                ErrorKind.INVALID_OBJECT_SIZE,
            )
        return data

    async def _fetch_range(self, path: str, start: int, stop: int, _: bool) -> Answer:
        data, _version = await self.storage.get(path, byte_range=ByteRange(start, stop))
        return data, None, None

    async def write_chunk(self, chunk_id: bytes, data: Buffer) -> None:
        """Write the object of a native chunk under a fresh id."""
        await self.storage.put(CHUNKS + format_id(chunk_id), data)

    async def write_snapshot(self, snapshot_id: bytes, data: bytes, spec: int) -> Version:
        """Write an encoded snapshot."""
        self._snapshots.drop(snapshot_id)
        return await self._write(SNAPSHOTS, snapshot_id, data, spec, "snapshot")

    async def write_manifest(self, manifest_id: bytes, data: bytes, spec: int) -> None:
        """Write an encoded manifest."""
        await self._write(MANIFESTS, manifest_id, data, spec, "manifest")
        self._written.put(manifest_id, data)

    async def write_transaction_log(self, snapshot_id: bytes, data: bytes, spec: int) -> None:
        """Write the encoded log of a snapshot."""
        await self._write(TRANSACTIONS, snapshot_id, data, spec, "transaction-log")

    async def _write(self, folder: str, file_id: bytes, data: bytes, spec: int, file_type: str) -> Version:
        metadata = object_metadata(spec, file_type) if self.settings.tag_objects else None
        return await self.storage.put(folder + format_id(file_id), data, metadata=metadata)


def object_metadata(spec: int, file_type: str) -> dict[str, str]:
    """What is said of a metadata file beside its bytes, on backends that can keep it.

    The names are those that each version of the Rust implementation gives to the files of its format.
    """
    client = WRITER_NAME.decode().strip() if isinstance(WRITER_NAME, bytes) else WRITER_NAME.strip()
    facts = {"ic_spec_ver": str(spec), "ic_client": client, "ic_file_type": file_type, "ic_comp_alg": "zstd"}
    return facts if spec == 1 else {name.replace("_", ""): fact for name, fact in facts.items()}


async def _decoded(data: Buffer, decode: Callable[[], T]) -> T:
    """Decode here when that is quick, else where it does not hold up an event loop."""
    return decode() if len(data) < _LONG else await offload(decode)
