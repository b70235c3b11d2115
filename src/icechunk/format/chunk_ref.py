"""Where the bytes of one chunk are: in the manifest, in an object of the repository, or in a foreign file."""

from __future__ import annotations

from typing import TypeAlias

from icechunk._dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Inline:
    """The bytes themselves."""

    data: bytes

    @property
    def length(self) -> int:
        """Size of the chunk in bytes."""
        return len(self.data)


@dataclass(frozen=True, slots=True)
class Native:
    """An object `chunks/ID` of this repository: `length` bytes from `offset` on; several may be in one."""

    id: bytes
    length: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Virtual:
    """`length` bytes from `offset` on in a foreign object.

    `etag` and `last_modified` (seconds since 1970, 0 for none) say which stand of it is meant.
    """

    location: str
    offset: int
    length: int
    etag: str | None = None
    last_modified: int = 0


ChunkRef: TypeAlias = Inline | Native | Virtual
