"""Finding out everything that a set of snapshots needs: their manifests, and the chunks in those.

Manifests are read many at once, yet never more than a given number of bytes; of each only columns are looked at, so a
million references cost a few array operations. Nothing read here goes through the caches: it would push out what is in
use.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

from icechunk._dataclass import dataclass
from icechunk._driver import concurrent_map, is_blocking
from icechunk.errors import ErrorKind, ObjectNotFoundError, SnapshotNotFoundError
from icechunk.format.chunk_table import ChunkTable
from icechunk.format.ids import format_id
from icechunk.format.manifest import Manifest
from icechunk.format.snapshot import ManifestFile, Snapshot
from icechunk.ops.id_set import IdSet
from icechunk.ops.progress import Counter, Progress, silent
from icechunk.storage.base import Storage

SNAPSHOTS = "snapshots/"
MANIFESTS = "manifests/"

_MORE_AT_ONCE = 4

_DECODED_BYTES_PER_REF = 64
"""What a reference takes in memory, about."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be in memory and under way at once.

    Attributes
    ----------
    snapshots : int
        Snapshots read at once.
    manifests : int
        Manifests read at once.
    compressed_bytes, decoded_bytes : int
        Bytes of all manifests being read, as stored and as decoded. A single one that is larger is read alone.
    """

    snapshots: int = 50
    manifests: int = 500
    compressed_bytes: int = 512 * 1024 * 1024
    decoded_bytes: int = 4 * 1024 * 1024 * 1024

    def __post_init__(self) -> None:
        for name in ("snapshots", "manifests", "compressed_bytes", "decoded_bytes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"invalid zero value: the limit of {name.replace('_', ' ')} must be positive")


TableVisit = Callable[[ChunkTable], object]


class Survey:
    """What the snapshots shown to it need. `manifests` holds each manifest once, as the snapshots list it."""

    def __init__(self, storage: Storage, limits: Limits, progress: Progress = silent) -> None:
        self.snapshots: set[bytes] = set()
        self.manifests: dict[bytes, ManifestFile] = {}
        self._storage = storage
        self._limits = limits
        self._progress = progress
        self._seen = IdSet()
        self._unread: list[ManifestFile] = []
        self._lock = threading.Lock()

    def add(self, snapshot_id: bytes, snapshot: Snapshot) -> None:
        """Take note of what a snapshot lists."""
        ids = snapshot.manifest_ids()
        with self._lock:
            self.snapshots.add(snapshot_id)
            fresh = [row.tobytes() for row in ids[self._seen.add(ids)]]
            for manifest_id in fresh:
                file = snapshot.manifest_file(manifest_id)
                assert file is not None
                self.manifests[manifest_id] = file
                self._unread.append(file)

    async def read_snapshots(self, snapshot_ids: Iterable[bytes]) -> None:
        """Read and add those snapshots that were not added yet; raises `SnapshotNotFoundError`."""
        missing = [one for one in snapshot_ids if one not in self.snapshots]
        counter = Counter(self._progress, "reading snapshots", len(missing))

        async def read(snapshot_id: bytes) -> None:
            self.add(snapshot_id, await read_snapshot(self._storage, snapshot_id))
            counter.add()

        await concurrent_map(read, missing, min(self._limits.snapshots, max(self._storage.concurrency, 1)))

    async def read_manifests(self, visit: TableVisit) -> None:
        """Read every manifest not read before; `visit` sees the table of each array, one at a time."""
        with self._lock:
            unread, self._unread = self._unread, []
        counter = Counter(self._progress, "reading manifests", len(unread))

        async def read(file: ManifestFile) -> None:
            path = MANIFESTS + format_id(file.id)
            data, _ = await self._storage.get(path)
            manifest = Manifest.decode(data, path)
            for node_id in manifest.node_ids():
                table = manifest.table(node_id)
                with self._lock:
                    visit(table)
            counter.add()

        width = max(self._storage.concurrency, 1)
        if width > 1 and not is_blocking():  # tasks cost less than threads, and most manifests are small
            width *= _MORE_AT_ONCE
        for batch in in_batches(unread, self._limits):
            await concurrent_map(read, batch, min(self._limits.manifests, width))


def in_batches(files: Iterable[ManifestFile], limits: Limits) -> Iterator[list[ManifestFile]]:
    """Manifests in groups, each of which stays within the limits."""
    batch: list[ManifestFile] = []
    stored = decoded = 0
    for file in sorted(files, key=lambda file: file.size):  # alike together, so that one does not wait for another
        size, memory = file.size, file.count * _DECODED_BYTES_PER_REF
        full = stored + size > limits.compressed_bytes or decoded + memory > limits.decoded_bytes
        if batch and (full or len(batch) >= max(limits.manifests, 1) * 8):
            yield batch
            batch, stored, decoded = [], 0, 0
        batch.append(file)
        stored, decoded = stored + size, decoded + memory
    if batch:
        yield batch


async def read_snapshot(storage: Storage, snapshot_id: bytes) -> Snapshot:
    """A snapshot, from its file as it is now; raises `SnapshotNotFoundError`."""
    path = SNAPSHOTS + format_id(snapshot_id)
    try:
        data, _ = await storage.get(path)
    except ObjectNotFoundError as error:
        raise SnapshotNotFoundError(
            f"snapshot {format_id(snapshot_id)} is in a history, but its file is gone; nothing was deleted, "
            "repair the repository first",
            ErrorKind.SNAPSHOT_NOT_FOUND,
        ) from error
    return Snapshot.decode(data, path)
