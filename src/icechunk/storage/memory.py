"""Objects in the memory of this process.

One dict from paths to entries that are never changed, only replaced: a reader takes an entry without a lock and sees
one stand of the object for good, a writer swaps entries under a lock, which makes every precondition atomic.

The objects belong to this process. Unpickling in the process that pickled finds the very same storage again (a
session may be copied, forked and merged there); anywhere else it raises, rather than to work on a copy that nobody
would ever see.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from icechunk.config import StorageConcurrencySettings, StorageRetriesSettings, StorageSettings
from icechunk.errors import ErrorKind, ObjectNotFoundError, PreconditionFailedError, StorageError
from icechunk.storage._common import BATCH, as_bytes, check_condition, check_path, check_prefix, resolve_range
from icechunk.storage.base import (
    ALWAYS,
    Absent,
    Buffer,
    ByteRange,
    Condition,
    DeleteResult,
    ObjectInfo,
    Storage,
    Unchanged,
    Version,
)

_VIEW_FROM = 64 * 1024
"""Ranges of at least as many bytes are views of the object, smaller ones copies: those are cheaper then."""


class _Entry(NamedTuple):
    data: bytes
    version: Version
    modified: float
    content_type: str | None
    metadata: dict[str, str] | None


class MemoryStorage(Storage):
    """A storage in the memory of this process; each one made is a store of its own.

    Parameters
    ----------
    clock : callable, optional
        Gives the time of modification, in seconds since 1970.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._objects: dict[str, _Entry] = {}
        self._lock = threading.Lock()
        self._clock = clock
        self._written = 0
        self._key = uuid.uuid4().hex
        _living[self._key] = self

    async def get(self, path: str, *, byte_range: ByteRange | None = None) -> tuple[Buffer, Version]:
        entry = self._entry(path)
        data = entry.data
        if byte_range is None:
            return data, entry.version
        start, stop = resolve_range(byte_range, len(data))
        if stop - start < _VIEW_FROM or stop - start == len(data):
            return data[start:stop], entry.version
        return memoryview(data)[start:stop], entry.version

    async def put(
        self,
        path: str,
        data: Buffer | Sequence[Buffer],
        *,
        only_if: Condition = ALWAYS,
        content_type: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> Version:
        check_path(path)
        check_condition(only_if)
        content = as_bytes(data)
        with self._lock:
            self._check(path, only_if)
            self._written += 1
            version = Version(str(self._written))
            self._objects[path] = _Entry(content, version, self._clock(), content_type, metadata)
        return version

    def _check(self, path: str, only_if: Condition) -> None:
        if isinstance(only_if, Absent):
            if path in self._objects:
                raise PreconditionFailedError(f"object `{path}` exists already")
        elif isinstance(only_if, Unchanged):
            found = self._objects.get(path)
            if found is None or found.version != only_if.since:
                raise PreconditionFailedError(f"object `{path}` is not what it was")

    async def list(self, prefix: str = "") -> AsyncIterator[Sequence[ObjectInfo]]:
        check_prefix(prefix)
        with self._lock:
            found = [
                ObjectInfo(path, len(entry.data), entry.modified, entry.version.etag)
                for path, entry in self._objects.items()
                if path.startswith(prefix)
            ]
        for start in range(0, len(found), BATCH):
            yield found[start : start + BATCH]

    async def delete(self, paths: Sequence[str]) -> DeleteResult:
        for path in paths:
            check_path(path)
        with self._lock:
            for path in paths:
                self._objects.pop(path, None)
        return DeleteResult(deleted=len(paths))

    async def exists(self, path: str) -> bool:
        check_path(path)
        return path in self._objects

    async def is_empty(self) -> bool:
        return not self._objects

    async def modified_at(self, path: str) -> datetime | None:
        return datetime.fromtimestamp(self._entry(path).modified, UTC)

    def _entry(self, path: str) -> _Entry:
        entry = self._objects.get(path)
        if entry is None:
            check_path(path)
            raise ObjectNotFoundError(f"object not found: `{path}`")
        return entry

    def copy(self) -> MemoryStorage:
        """Another storage that holds the same objects, each with the same version and time of modification."""
        twin = MemoryStorage(clock=self._clock)
        with self._lock:
            twin._objects = dict(self._objects)
            twin._written = self._written
        return twin

    def attributes(self, path: str) -> tuple[str | None, dict[str, str]]:
        """Content type and metadata with which the object at `path` was put."""
        entry = self._entry(path)
        return entry.content_type, dict(entry.metadata or {})

    def default_settings(self) -> StorageSettings:
        return StorageSettings(StorageConcurrencySettings(5, 1), StorageRetriesSettings(1, 0, 0))

    def describe(self) -> dict[str, Any]:
        return {"type": "in-memory", "id": self._key}

    def __reduce__(self) -> tuple[Any, ...]:
        return _find, (self._key, os.getpid())


_living: weakref.WeakValueDictionary[str, MemoryStorage] = weakref.WeakValueDictionary()


def _find(key: str, process: int) -> MemoryStorage:
    """Unpickle: the storage `key` of this process."""
    if process != os.getpid():
        raise StorageError(
            "an in-memory storage lives in one process and cannot be sent to another; use "
            "local_filesystem_storage or an object store to share a repository between processes",
            ErrorKind.PICKLE,
        )
    found = _living.get(key)
    if found is None:
        raise StorageError("the in-memory storage that was pickled here does not exist any more", ErrorKind.PICKLE)
    return found
