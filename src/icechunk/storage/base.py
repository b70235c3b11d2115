"""The storage protocol: named bytes, under one root.

A storage knows nothing of Icechunk's files. It maps paths (`snapshots/1CECH...`, relative to its root, parts joined by
`/`) to immutable bytes, each stand of them identified by a `Version`. Four verbs do everything: `get`, `put`, `list`,
`delete`. What makes a repository safe is one property: a `put` with a precondition is atomic.

Errors: a missing object is `ObjectNotFoundError`, a precondition that does not hold is `PreconditionFailedError`; what
else a backend meets it maps onto `StorageError` where it meets it, and nowhere above.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import field
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from icechunk._dataclass import dataclass
from icechunk._driver import blocking
from icechunk.display import Card, Plain, Row, Shown
from icechunk.storage._constructors import Constructors

if TYPE_CHECKING:
    from icechunk.config import StorageSettings
    from icechunk.storage.doctor import StorageReport

Buffer: TypeAlias = bytes | bytearray | memoryview
"""What a backend takes and gives; anything with the buffer protocol and a length in bytes."""


@dataclass(frozen=True, slots=True)
class Version:
    """Identifies what stood at a path at one moment; opaque but to the backend that made it.

    `Version()` is an unknown one: it equals no version of anything that stands anywhere, and nothing can be
    `Unchanged` since. Backends may subclass it to find out the etag only when somebody asks.
    """

    etag: str | None = None
    generation: str | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Version):
            return NotImplemented
        return self.etag == other.etag and self.generation == other.generation

    @property
    def is_known(self) -> bool:
        """Whether this can be a precondition."""
        return self.etag is not None or self.generation is not None


class ByteRange(NamedTuple):
    """The bytes `start <= i < stop` of an object; `stop` None is its end, a negative `start` counts from the end."""

    start: int
    stop: int | None = None


@dataclass(frozen=True, slots=True)
class Always:
    """Write whatever stands there."""


@dataclass(frozen=True, slots=True)
class Absent:
    """Write only where nothing stands yet."""


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Write only where that very version still stands."""

    since: Version


Condition: TypeAlias = Always | Absent | Unchanged
ALWAYS = Always()
ABSENT = Absent()


class ObjectInfo(NamedTuple):
    """One line of a listing: `path` relative to the root, `size` in bytes, `modified` in seconds since 1970 (UTC).

    `etag` is that of the version a `get` would give, None where a listing does not tell.
    """

    path: str
    size: int
    modified: float
    etag: str | None = None


@dataclass(slots=True)
class DeleteResult:
    """What a bulk delete did. A path at which nothing stood counts as deleted."""

    deleted: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    """Paths that could not be deleted, each with the reason."""


class Storage(Constructors, Shown):
    """Named bytes under one root. Make one with `icechunk.local_filesystem_storage`, `icechunk.s3_storage`, ...

    A backend of your own subclasses this, implements the abstract methods and passes
    `icechunk.testing.storage_suite.StorageSuite`.

    Methods are coroutines that may be awaited in any event loop, or driven without one: a backend asks
    `icechunk._driver.is_blocking()` whether it must block instead of suspending. All of them may be called from many
    threads at once.
    """

    concurrency: int = 1
    """How many requests are worth having under way at once: 1 where a request costs no waiting."""

    read_only: bool = False
    """Whether every write fails with `ReadOnlyError`."""

    keeps_conditions: bool = True
    """Whether it is certain that a `put` looks whether its condition holds; where it does not, whoever writes last wins."""

    @abstractmethod
    async def get(self, path: str, *, byte_range: ByteRange | None = None) -> tuple[Buffer, Version]:
        """The bytes at `path`, or a range of them, and the version they belong to.

        A range that reaches past the end gives what is there; one that starts past it gives no bytes. The version of a
        range may be unknown, where finding out would cost more.
        Raises `ObjectNotFoundError`.
        """

    async def get_if_changed(self, path: str, since: Version) -> tuple[Buffer, Version] | None:
        """As `get`, but None when `since` still stands there."""
        data, version = await self.get(path)
        return None if version == since else (data, version)

    @abstractmethod
    async def put(
        self,
        path: str,
        data: Buffer | Sequence[Buffer],
        *,
        only_if: Condition = ALWAYS,
        content_type: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> Version:
        """Write `data` (or its pieces, one after the other) at `path`, all of it or nothing.

        Readers see the former bytes or the new ones, never a mixture. `content_type` and `metadata` are kept with the
        object where the backend can. Raises `PreconditionFailedError` when `only_if` does not hold.

        The version that comes back equals the one a `get` would give. After an unconditional put of anything but
        `bytes` it may be unknown, where finding out would cost another pass over the data.
        """

    @abstractmethod
    def list(self, prefix: str = "") -> AsyncIterator[Sequence[ObjectInfo]]:
        """All objects whose path starts with `prefix` (empty, or ending in `/`), in batches, in no particular order."""

    @abstractmethod
    async def delete(self, paths: Sequence[str]) -> DeleteResult:
        """Delete objects in bulk. What is not there is as good as deleted."""

    async def exists(self, path: str) -> bool:
        """Whether something stands at `path`."""
        from icechunk.errors import ObjectNotFoundError

        try:
            await self.get(path, byte_range=ByteRange(0, 1))
        except ObjectNotFoundError:
            return False
        return True

    async def is_empty(self) -> bool:
        """Whether nothing at all stands under the root."""
        async for batch in self.list():
            if batch:
                return False
        return True

    async def modified_at(self, path: str) -> datetime | None:
        """When the object was last written by the clock of the storage, None where the backend cannot say cheaply."""
        return None

    async def doctor_async(self) -> StorageReport:
        """Try what this storage can do, with a few small objects that are deleted again; nothing that fails raises.

        `print` what comes back: it says whether concurrent commits are safe here, and which settings to use.
        """
        from icechunk.storage.doctor import examine

        return await examine(self)

    doctor = blocking(doctor_async)

    async def ignores_conditions(self, path: str) -> bool:
        """Whether preconditions of writes have no effect, found out at the object at `path`, which stays as it is.

        A backend that knows better does not try.
        """
        return False

    def default_settings(self) -> StorageSettings:
        """The settings this backend works best with; a repository's configuration overrides them field by field."""
        from icechunk.config import StorageSettings

        return StorageSettings()

    def with_settings(self, settings: StorageSettings) -> Storage:
        """This storage under other settings (retries, time-outs, conditional writes, ...); self where none apply."""
        return self

    def without_credentials(self) -> Storage:
        """This storage with what the environment has in the place of its credentials; self where it has none.

        Raises `ValueError` where secrets are a part of it that cannot be left out.
        """
        return self

    def describe(self) -> dict[str, Any]:
        """Facts for display, never a secret: at least `type` and where it is."""
        return {"type": type(self).__name__}

    def _card(self) -> Card:
        facts = self.describe()
        rows = [
            Row(name, Plain(value) if isinstance(value, str) else value)
            for name, value in facts.items()
            if name != "id"
        ]
        return Card("icechunk.Storage", rows)
