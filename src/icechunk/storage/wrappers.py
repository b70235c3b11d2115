"""Storages around a storage: read-only, below a prefix, patient, or without conditions.

`StorageWrapper` passes everything on; a wrapper overrides the verbs it is about. `InterceptingStorage` leads every
request through one method, for wrappers that treat all verbs alike. Wrappers nest in any order.
"""

from __future__ import annotations

import copy
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from icechunk._driver import pause
from icechunk.errors import ErrorKind, ObjectNotFoundError, PreconditionFailedError, ReadOnlyError, StorageError
from icechunk.storage._common import as_bytes, check_path, check_prefix, size_of
from icechunk.storage.base import (
    ALWAYS,
    Absent,
    Always,
    Buffer,
    ByteRange,
    Condition,
    DeleteResult,
    ObjectInfo,
    Storage,
    Unchanged,
    Version,
)

if TYPE_CHECKING:
    from icechunk.config import StorageSettings

T = TypeVar("T")


class StorageWrapper(Storage):
    """Passes every call on to `inner`. Subclass it and override what is to be different."""

    def __init__(self, inner: Storage) -> None:
        self._inner = inner

    @property
    def inner(self) -> Storage:
        """The storage that does the work."""
        return self._inner

    def around(self, inner: Storage) -> Storage:
        """The same wrapper around another storage; what it has learnt is shared between the two."""
        twin = copy.copy(self)
        twin._inner = inner
        return twin

    @property
    def concurrency(self) -> int:  # type: ignore[override]
        return self._inner.concurrency

    @property
    def read_only(self) -> bool:  # type: ignore[override]
        return self._inner.read_only

    @property
    def keeps_conditions(self) -> bool:  # type: ignore[override]
        return self._inner.keeps_conditions

    async def get(self, path: str, *, byte_range: ByteRange | None = None) -> tuple[Buffer, Version]:
        return await self._inner.get(path, byte_range=byte_range)

    async def get_if_changed(self, path: str, since: Version) -> tuple[Buffer, Version] | None:
        return await self._inner.get_if_changed(path, since)

    async def put(
        self,
        path: str,
        data: Buffer | Sequence[Buffer],
        *,
        only_if: Condition = ALWAYS,
        content_type: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> Version:
        return await self._inner.put(path, data, only_if=only_if, content_type=content_type, metadata=metadata)

    def list(self, prefix: str = "") -> AsyncIterator[Sequence[ObjectInfo]]:
        return self._inner.list(prefix)

    async def delete(self, paths: Sequence[str]) -> DeleteResult:
        return await self._inner.delete(paths)

    async def exists(self, path: str) -> bool:
        return await self._inner.exists(path)

    async def is_empty(self) -> bool:
        return await self._inner.is_empty()

    async def modified_at(self, path: str) -> datetime | None:
        return await self._inner.modified_at(path)

    async def ignores_conditions(self, path: str) -> bool:
        return await self._inner.ignores_conditions(path)

    def default_settings(self) -> StorageSettings:
        return self._inner.default_settings()

    def with_settings(self, settings: StorageSettings) -> Storage:
        inner = self._inner.with_settings(settings)
        return self if inner is self._inner else self.around(inner)

    def without_credentials(self) -> Storage:
        inner = self._inner.without_credentials()
        return self if inner is self._inner else self.around(inner)

    def describe(self) -> dict[str, Any]:
        return self._inner.describe()


class Call(NamedTuple):
    """One request to a storage: its verb, its paths (of a list, the prefix), and the bytes it sends."""

    verb: str
    paths: tuple[str, ...]
    size: int = 0

    def __str__(self) -> str:
        return f"{self.verb} {', '.join(self.paths)}"


class InterceptingStorage(StorageWrapper):
    """Leads every request through `intercept`; override that."""

    async def intercept(self, call: Call, perform: Callable[[], Awaitable[T]]) -> T:
        """Perform the request, or not, or more than once; what comes back is what the caller gets."""
        return await perform()

    async def get(self, path: str, *, byte_range: ByteRange | None = None) -> tuple[Buffer, Version]:
        return await self.intercept(Call("get", (path,)), lambda: self._inner.get(path, byte_range=byte_range))

    async def get_if_changed(self, path: str, since: Version) -> tuple[Buffer, Version] | None:
        return await self.intercept(Call("get", (path,)), lambda: self._inner.get_if_changed(path, since))

    async def put(
        self,
        path: str,
        data: Buffer | Sequence[Buffer],
        *,
        only_if: Condition = ALWAYS,
        content_type: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> Version:
        return await self.intercept(
            Call("put", (path,), size_of(data)),
            lambda: self._inner.put(path, data, only_if=only_if, content_type=content_type, metadata=metadata),
        )

    async def list(self, prefix: str = "") -> AsyncIterator[Sequence[ObjectInfo]]:
        for batch in await self.intercept(Call("list", (prefix,)), lambda: self._whole_list(prefix)):
            yield batch

    async def _whole_list(self, prefix: str) -> Sequence[Sequence[ObjectInfo]]:
        return [batch async for batch in self._inner.list(prefix)]

    async def delete(self, paths: Sequence[str]) -> DeleteResult:
        return await self.intercept(Call("delete", tuple(paths)), lambda: self._inner.delete(paths))

    async def exists(self, path: str) -> bool:
        return await self.intercept(Call("exists", (path,)), lambda: self._inner.exists(path))

    async def is_empty(self) -> bool:
        return await self.intercept(Call("list", ("",)), self._inner.is_empty)

    async def modified_at(self, path: str) -> datetime | None:
        return await self.intercept(Call("modified_at", (path,)), lambda: self._inner.modified_at(path))


class ReadOnlyStorage(StorageWrapper):
    """Only reads: every write raises `ReadOnlyError`."""

    read_only = True

    async def put(
        self,
        path: str,
        data: Buffer | Sequence[Buffer],
        *,
        only_if: Condition = ALWAYS,
        content_type: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> Version:
        raise read_only_failure(f"cannot write `{path}`")

    async def delete(self, paths: Sequence[str]) -> DeleteResult:
        raise read_only_failure("cannot delete objects")


def read_only_failure(what: str) -> ReadOnlyError:
    """What a storage that only reads raises on a write."""
    return ReadOnlyError(
        f"the storage used by this Icechunk repository is read-only: {what}", ErrorKind.READ_ONLY_STORAGE
    )


class PrefixStorage(StorageWrapper):
    """What is below `prefix` of another storage, as a storage of its own."""

    def __init__(self, inner: Storage, prefix: str) -> None:
        super().__init__(inner)
        self._prefix = prefix if prefix.endswith("/") or not prefix else f"{prefix}/"
        check_prefix(self._prefix)

    def _full(self, path: str) -> str:
        check_path(path)
        return self._prefix + path

    async def get(self, path: str, *, byte_range: ByteRange | None = None) -> tuple[Buffer, Version]:
        return await self._inner.get(self._full(path), byte_range=byte_range)

    async def get_if_changed(self, path: str, since: Version) -> tuple[Buffer, Version] | None:
        return await self._inner.get_if_changed(self._full(path), since)

    async def put(
        self,
        path: str,
        data: Buffer | Sequence[Buffer],
        *,
        only_if: Condition = ALWAYS,
        content_type: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> Version:
        return await self._inner.put(
            self._full(path), data, only_if=only_if, content_type=content_type, metadata=metadata
        )

    async def list(self, prefix: str = "") -> AsyncIterator[Sequence[ObjectInfo]]:
        check_prefix(prefix)
        skip = len(self._prefix)
        async for batch in self._inner.list(self._prefix + prefix):
            yield [ObjectInfo(info.path[skip:], *info[1:]) for info in batch]

    async def delete(self, paths: Sequence[str]) -> DeleteResult:
        result = await self._inner.delete([self._full(path) for path in paths])
        skip = len(self._prefix)
        return DeleteResult(result.deleted, [(path[skip:], reason) for path, reason in result.failed])

    async def exists(self, path: str) -> bool:
        return await self._inner.exists(self._full(path))

    async def is_empty(self) -> bool:
        async for batch in self._inner.list(self._prefix):
            if batch:
                return False
        return True

    async def modified_at(self, path: str) -> datetime | None:
        return await self._inner.modified_at(self._full(path))

    def describe(self) -> dict[str, Any]:
        return {**self._inner.describe(), "prefix": self._prefix}


class UnconditionalStorage(StorageWrapper):
    """Drops conditions, for stores that do not know them: whoever writes last wins, so only one may write at a time."""

    def __init__(self, inner: Storage, *, create: bool = True, update: bool = True) -> None:
        super().__init__(inner)
        self._create = create
        self._update = update

    @property
    def keeps_conditions(self) -> bool:  # type: ignore[override]
        return self._inner.keeps_conditions and not self._update

    async def put(
        self,
        path: str,
        data: Buffer | Sequence[Buffer],
        *,
        only_if: Condition = ALWAYS,
        content_type: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> Version:
        if (self._create and isinstance(only_if, Absent)) or (self._update and isinstance(only_if, Unchanged)):
            only_if = ALWAYS
        return await self._inner.put(path, data, only_if=only_if, content_type=content_type, metadata=metadata)


def is_transient(error: StorageError) -> bool:
    """Whether trying again may help: the store, or the way to it, failed; nothing was said about the object."""
    if isinstance(error, (ObjectNotFoundError, PreconditionFailedError)):
        return False
    return error.kind in (ErrorKind.OBJECT_STORE, ErrorKind.THROTTLED)


class RetryingStorage(InterceptingStorage):
    """Tries again what failed for a passing reason, a bounded number of times, with growing and random pauses.

    A conditional write may fail although it was done, its answer being lost. When the next try then finds the condition
    broken, what stands there is read: if it is what we wrote, we count as having written it. So let what you write hold
    something of your own, such as a new id: the very same bytes of another writer cannot be told from ours.

    Parameters
    ----------
    tries : int
        How often a call is tried at most, the first time included.
    first_pause, longest_pause : float
        Seconds; pauses double from the first to the longest, and each is cut to a random part of itself.
    """

    def __init__(
        self, inner: Storage, *, tries: int = 10, first_pause: float = 0.1, longest_pause: float = 180.0
    ) -> None:
        super().__init__(inner)
        self._tries = tries
        self._first_pause = first_pause
        self._longest_pause = longest_pause

    async def intercept(self, call: Call, perform: Callable[[], Awaitable[T]]) -> T:
        for attempt in range(1, self._tries):
            try:
                return await perform()
            except StorageError as error:
                if not is_transient(error):
                    raise
            await self._pause(attempt)
        return await perform()

    async def _pause(self, attempt: int) -> None:
        longest = min(self._longest_pause, self._first_pause * 2 ** (attempt - 1))
        await pause(longest * (0.5 + 0.5 * random.random()))

    async def put(
        self,
        path: str,
        data: Buffer | Sequence[Buffer],
        *,
        only_if: Condition = ALWAYS,
        content_type: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> Version:
        failed = False

        async def attempt() -> Version:
            nonlocal failed
            try:
                return await self._inner.put(path, data, only_if=only_if, content_type=content_type, metadata=metadata)
            except PreconditionFailedError:
                if failed and not isinstance(only_if, Always):
                    ours = await self._written(path, as_bytes(data))
                    if ours is not None:
                        return ours
                raise
            except StorageError:
                failed = True
                raise

        return await self.intercept(Call("put", (path,), size_of(data)), attempt)

    async def _written(self, path: str, content: bytes) -> Version | None:
        """The version of what stands at `path` if it is `content`, written by the try whose answer was lost."""
        try:
            found, version = await self._inner.get(path)
        except ObjectNotFoundError:
            return None
        return version if as_bytes(found) == content else None

    async def list(self, prefix: str = "") -> AsyncIterator[Sequence[ObjectInfo]]:
        batches = await self.intercept(Call("list", (prefix,)), lambda: self._begin(prefix))
        if batches is None:
            return
        first, rest = batches
        yield first
        # what was handed over cannot be taken back, so a failure further on is the caller's
        async for batch in rest:
            yield batch

    async def _begin(self, prefix: str) -> tuple[Sequence[ObjectInfo], AsyncIterator[Sequence[ObjectInfo]]] | None:
        batches = self._inner.list(prefix)
        try:
            return await anext(batches), batches
        except StopAsyncIteration:
            return None
