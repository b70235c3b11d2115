"""What users say about virtual chunks: which bytes, in which container, reached how.

config.set_virtual_chunk_container(
    icechunk.VirtualChunkContainer("s3://bucket/prefix/", icechunk.s3_store(region="us-east-1"))
)
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from icechunk import checks
from icechunk.config.virtual import (
    AnyObjectStoreConfig,
    ChecksumAlgorithm,
    ObjectStoreConfig,
    S3Options,
    VirtualChunkContainer,
)
from icechunk.display import masked_url, quoted

_U32 = 1 << 32
_U64 = 1 << 64


class VirtualChunkSpec:
    """One virtual chunk.

    Parameters
    ----------
    index
        The coordinates of the chunk in its array, from 0.
    location
        The URL of the object that has the bytes.
    offset, length
        Which bytes.
    etag_checksum
        The etag that the object must still have when the chunk is read.
    last_updated_at_checksum
        When the object was written last, with a time zone: reading it refuses an object that is newer. Whole seconds
        are kept.
    """

    __slots__ = ("_values",)
    _names = ("index", "location", "offset", "length", "etag_checksum", "last_updated_at_checksum")

    def __init__(
        self,
        index: Iterable[int],
        location: str,
        offset: int,
        length: int,
        etag_checksum: str | None = None,
        last_updated_at_checksum: datetime | None = None,
    ) -> None:
        if isinstance(index, str):
            raise TypeError("argument 'index': expected a sequence of integers, not 'str'")
        coords = tuple(index)
        # there may be millions of these, so what is right already goes through without a call
        for number in coords:
            if type(number) is not int or not 0 <= number < _U32:
                coords = tuple(checks.integer(number, "index", bits=32) for number in coords)
                break
        if type(offset) is not int or not 0 <= offset < _U64:
            offset = checks.integer(offset, "offset", bits=64)
        if type(length) is not int or not 0 <= length < _U64:
            length = checks.integer(length, "length", bits=64)
        if type(location) is not str:
            checks.text(location, "location")
        if etag_checksum is not None:
            checks.text(etag_checksum, "etag_checksum")
        if last_updated_at_checksum is not None:
            last_updated_at_checksum = checks.moment(last_updated_at_checksum, "last_updated_at_checksum")
        self._values: tuple[Any, ...] = (coords, location, offset, length, etag_checksum, last_updated_at_checksum)

    @property
    def index(self) -> list[int]:
        """The coordinates of the chunk in its array."""
        return list(self._values[0])

    @property
    def location(self) -> str:
        """The URL of the object that has the bytes."""
        location: str = self._values[1]
        return location

    @property
    def offset(self) -> int:
        """Where the bytes begin."""
        offset: int = self._values[2]
        return offset

    @property
    def length(self) -> int:
        """How many they are."""
        length: int = self._values[3]
        return length

    @property
    def etag_checksum(self) -> str | None:
        """The etag that the object must still have."""
        etag: str | None = self._values[4]
        return etag

    @property
    def last_updated_at_checksum(self) -> datetime | None:
        """When the object was written last."""
        moment: datetime | None = self._values[5]
        return moment

    def __eq__(self, other: object) -> bool:
        return self._values == other._values if isinstance(other, VirtualChunkSpec) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values)

    def __repr__(self) -> str:
        index, location, offset, length, *checksums = self._values
        shown = [repr(list(index)), quoted(masked_url(location)), repr(offset), repr(length)]
        named = zip(self._names[4:], checksums, strict=True)
        shown.extend(f"{name}={value!r}" for name, value in named if value is not None)
        return f"icechunk.virtual.VirtualChunkSpec({', '.join(shown)})"


def s3_store(
    region: str | None = None,
    endpoint_url: str | None = None,
    allow_http: bool = False,
    anonymous: bool = False,
    s3_compatible: bool = False,
    force_path_style: bool = False,
    network_stream_timeout_seconds: int = 60,
    requester_pays: bool = False,
    checksum_algorithm: ChecksumAlgorithm | None = None,
) -> ObjectStoreConfig.S3 | ObjectStoreConfig.S3Compatible:
    """For containers on S3, or with `s3_compatible` on another service that speaks it; see `S3Options`."""
    options = S3Options(
        region=region,
        endpoint_url=endpoint_url,
        allow_http=allow_http,
        anonymous=anonymous,
        force_path_style=force_path_style,
        network_stream_timeout_seconds=network_stream_timeout_seconds,
        requester_pays=requester_pays,
        checksum_algorithm=checksum_algorithm,
    )
    return ObjectStoreConfig.S3Compatible(options) if s3_compatible else ObjectStoreConfig.S3(options)


def gcs_store(opts: dict[str, str] | None = None) -> ObjectStoreConfig.Gcs:
    """For containers on Google Cloud Storage, with options of the client."""
    return ObjectStoreConfig.Gcs(opts)


def http_store(opts: dict[str, str] | None = None, headers: dict[str, str] | None = None) -> ObjectStoreConfig.Http:
    """For containers on a web server, with options of the client and headers sent along."""
    return ObjectStoreConfig.Http(opts, headers)


def local_filesystem_store(path: str) -> ObjectStoreConfig.LocalFileSystem:
    """For containers of local files, whose prefix is a `file:///...` URL; a path object will do too."""
    return ObjectStoreConfig.LocalFileSystem(path)


def azure_store(*, account: str, config: dict[str, str] | None = None) -> ObjectStoreConfig.Azure:
    """For containers on Azure Blob Storage, with options of the client."""
    return ObjectStoreConfig.Azure({**(config or {}), "account": account})


__all__ = [
    "AnyObjectStoreConfig",
    "ChecksumAlgorithm",
    "ObjectStoreConfig",
    "S3Options",
    "VirtualChunkContainer",
    "VirtualChunkSpec",
    "azure_store",
    "gcs_store",
    "http_store",
    "local_filesystem_store",
    "s3_store",
]
