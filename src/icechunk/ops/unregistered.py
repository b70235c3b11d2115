"""Deleting snapshots where a snapshot exists as long as its file does.

Without a register nothing but its absence tells that a snapshot is gone, so while a collection is about to delete one
somebody may make a branch or tag at it. Both sides act first and look afterwards: whoever makes a ref writes it and then
looks whether the snapshot is still there; the collection deletes and then looks at the refs. At least one of them notices
the other. The collection puts back what it deleted and begins again; whoever makes the ref withdraws it.

What is deleted is read before, and kept in memory until the refs were looked at, so this goes batch by batch, newest
snapshots first: when a snapshot has to come back, all that it descends from is still there or in the same batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from icechunk._driver import concurrent_map
from icechunk.errors import FormatError, ObjectNotFoundError, SnapshotNotFoundError, StorageError
from icechunk.format.ids import parse_id
from icechunk.refs.base import History, RefStore
from icechunk.storage.base import Buffer, DeleteResult, ObjectInfo, Storage


class Reclaimed(Exception):
    """Somebody needs what was being deleted; it is back."""


class UnregisteredSnapshots:
    """Deletes snapshots of one repository.

    `history` is what all refs reached when it was decided that these can go, `listed` are the files that there were.
    """

    BATCH: ClassVar[int] = 200

    def __init__(self, refs: RefStore, storage: Storage, history: History, listed: Sequence[ObjectInfo] = ()) -> None:
        self._refs = refs
        self._storage = storage
        self._history = history
        self._etags = {info.path: info.etag for info in listed}
        self._width = max(storage.concurrency, 1)

    async def delete(self, paths: Sequence[str]) -> DeleteResult:
        """Delete the files of some snapshots; raises `Reclaimed` when one of them turns out to be needed."""
        saved = await concurrent_map(self._read, paths, self._width)
        failure: StorageError | None = None
        result = DeleteResult()
        try:
            result = await self._storage.delete(paths)
        except StorageError as error:
            failure = error  # it may have been done all the same
        if await self._is_needed({parse_id(path.rpartition("/")[2]) for path in paths}):
            back = [(path, data) for path, data in zip(paths, saved, strict=True) if data is not None]
            await concurrent_map(lambda item: self._storage.put(*item), back, self._width)
            raise Reclaimed
        if failure is not None:
            raise failure
        return result

    async def _read(self, path: str) -> Buffer | None:
        kept = self._refs.recent_file(path, self._etags.get(path))
        if kept is not None:
            return kept
        try:
            return (await self._storage.get(path))[0]
        except ObjectNotFoundError:
            return None  # somebody else collects, too

    async def _is_needed(self, gone: set[bytes]) -> bool:
        """Whether a ref leads to one of these snapshots by now."""
        found = False

        def look(present: History) -> None:
            nonlocal found
            found = not gone.isdisjoint(present.reachable())

        try:
            await self._refs.edit_history(look, known=self._history)
        except (SnapshotNotFoundError, FormatError):  # or it has the newer format by now, which we know nothing of
            return True
        return found
