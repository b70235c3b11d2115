"""Virtual chunks: bytes that stay in files of other formats.

A virtual reference is a location, an offset and a length. Which locations may be read is said twice, and both must agree:
the repository's configuration lists containers, each a URL prefix and how to reach it, and whoever opens the repository
authorizes containers, with credentials. Credentials given for one container are never used for another.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlsplit

from icechunk._driver import is_blocking, offload
from icechunk.errors import ErrorKind, IcechunkError, InvalidInputError, StorageError
from icechunk.format.chunk_ref import Virtual
from icechunk.storage.base import Buffer
from icechunk.virtual_types import (
    ObjectStoreConfig,
    S3Options,
    VirtualChunkContainer,
    VirtualChunkSpec,
    gcs_store,
    http_store,
    local_filesystem_store,
    s3_store,
)

__all__ = [
    "ObjectStoreConfig",
    "S3Options",
    "VirtualChunkContainer",
    "VirtualChunkSpec",
    "gcs_store",
    "http_store",
    "local_filesystem_store",
    "s3_store",
]

_BY_NAME = "vcc"
_SAFE = "/:@!$&'()*+,;=~-._"
_OFFLOAD_BYTES = 256 << 10


class ObjectReader(Protocol):
    """Reads ranges of the objects of one container."""

    async def fetch(self, url: str, start: int, stop: int, etag: str | None, last_modified: int) -> Buffer:
        """The bytes `start <= i < stop` of the object at `url`, if it still is what the checksums say."""


@dataclass(frozen=True, slots=True)
class _Container:
    """A container of the configuration, with its prefix in the form in which it is compared."""

    prefix: str
    container: VirtualChunkContainer


class VirtualChunks:
    """Finds the container of a location and fetches from it what was authorized.

    Parameters
    ----------
    containers : mapping of URL prefix to VirtualChunkContainer
    authorized : mapping of URL prefix to credentials or None
        What the user who opened the repository allows; None means no credentials.
    """

    def __init__(
        self,
        containers: Mapping[str, VirtualChunkContainer],
        authorized: Mapping[str, Any],
        *,
        spec: int = 2,
        settings: Any = None,
    ) -> None:
        self.containers = dict(containers)
        self.authorized = dict(authorized)
        self.spec = spec
        self._settings = settings
        self._allowed = {_with_slash(prefix): value for prefix, value in self.authorized.items()}
        known = [_Container(unquote(_with_slash(item.url_prefix)), item) for item in self.containers.values()]
        self._by_length = sorted(known, key=lambda item: -len(item.prefix))
        self._readers: dict[str, ObjectReader] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {
            "containers": self.containers,
            "authorized": self.authorized,
            "spec": self.spec,
            "settings": self._settings,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(  # type: ignore[misc]
            state["containers"], state["authorized"], spec=state["spec"], settings=state["settings"]
        )

    # --- locations -------------------------------------------------------------------------------------------------

    def container_of(self, location: str) -> tuple[VirtualChunkContainer, str] | None:
        """The container that serves a location, and the URL it stands for; None when there is none.

        Of several containers the one with the longest prefix serves. `vcc://NAME/rest` names its container; no path
        leads out of it.
        """
        scheme, _, rest = location.partition("://")
        if scheme.lower() == _BY_NAME:
            return self._named(location, rest)
        plain = unquote(location)
        for item in self._by_length:
            if plain.startswith(item.prefix):
                if _leads_out(plain[len(item.prefix) :]):
                    return None
                return item.container, location
        return None

    def _named(self, location: str, rest: str) -> tuple[VirtualChunkContainer, str] | None:
        name, _, path = rest.partition("/")
        for container in self.containers.values():
            if container.name == name:
                if _leads_out(unquote(path)):
                    return None
                return container, _with_slash(container.url_prefix) + path
        raise InvalidInputError(
            f"no virtual chunk container named '{name}' found for `{location}`, check the repository configuration",
            ErrorKind.NO_CONTAINER_FOR_VIRTUAL_CHUNK,
        )

    def check(self, location: str) -> None:
        """Refuse a location that no container serves."""
        if self.container_of(location) is None:
            raise InvalidInputError(
                f"invalid chunk location, no matching virtual chunk container: `{location}`; add one with "
                "`config.set_virtual_chunk_container(...)`, or pass `validate_container=False`",
                ErrorKind.NO_CONTAINER_FOR_VIRTUAL_CHUNK,
            )

    def serves(self, location: str) -> bool:
        """Whether some container serves a location."""
        try:
            return self.container_of(location) is not None
        except InvalidInputError:
            return False

    def unauthorized(self) -> list[VirtualChunkContainer]:
        """The containers of the configuration that were not authorized."""
        return [item for item in self.containers.values() if _with_slash(item.url_prefix) not in self._allowed]

    # --- bytes -------------------------------------------------------------------------------------------------------

    async def fetch(self, ref: Virtual, start: int = 0, stop: int | None = None) -> Buffer:
        """The bytes `start <= i < stop` of a virtual chunk, all of them by default."""
        stop = ref.length if stop is None else stop
        container, url = self._authorized(ref.location)
        reader = self._reader(container)
        try:
            data = await reader.fetch(url, ref.offset + start, ref.offset + stop, ref.etag, ref.last_modified)
        except IcechunkError:
            raise
        except FileNotFoundError as error:
            raise StorageError(
                f"error fetching virtual reference: there is no object at {url} (container {container.url_prefix})",
                ErrorKind.VIRTUAL_CHUNK_FETCH,
            ) from error
        except OSError as error:
            raise StorageError(
                f"error fetching virtual reference {url} (container {container.url_prefix}): {error}",
                ErrorKind.VIRTUAL_CHUNK_FETCH,
            ) from error
        if len(data) != stop - start:
            raise StorageError(
                f"error retrieving virtual chunk, not enough data. Expected: ({stop - start}), available "
                f"({len(data)}): {url} from byte {ref.offset + start} on",
                ErrorKind.INVALID_OBJECT_SIZE,
            )
        return data

    def _authorized(self, location: str) -> tuple[VirtualChunkContainer, str]:
        found = self.container_of(location)
        if found is None:
            raise InvalidInputError(
                f"no virtual chunk container can handle the chunk location ({location}), edit the repository "
                "configuration adding a virtual chunk container for the chunk references: "
                "`config.set_virtual_chunk_container(VirtualChunkContainer(url_prefix, store))`",
                ErrorKind.NO_CONTAINER_FOR_VIRTUAL_CHUNK,
            )
        container, url = found
        if _with_slash(container.url_prefix) not in self._allowed:
            raise InvalidInputError(
                f"a virtual chunk in this repository ({url}) resolves to the url prefix {container.url_prefix}"
                + (f" (container: {container.name})" if container.name else "")
                + ", to be able to fetch the chunk you need to authorize the virtual chunk container when you "
                f"open/create the repository: {authorization_line(container)}",
                ErrorKind.UNAUTHORIZED_VIRTUAL_CHUNK_CONTAINER,
            )
        return container, url

    def _reader(self, container: VirtualChunkContainer) -> ObjectReader:
        prefix = _with_slash(container.url_prefix)
        reader = self._readers.get(prefix)
        if reader is None:
            with self._lock:
                reader = self._readers.get(prefix)
                if reader is None:
                    reader = self._readers[prefix] = open_reader(container, self._allowed[prefix], self._settings)
        return reader


def authorization_line(container: VirtualChunkContainer) -> str:
    """The argument that authorizes a container, for messages."""
    scheme = urlsplit(container.url_prefix).scheme.lower()
    credentials = {
        "s3": "icechunk.s3_credentials(...)",
        "gs": "icechunk.gcs_credentials(...)",
        "gcs": "icechunk.gcs_credentials(...)",
        "az": "icechunk.azure_credentials(...)",
        "azure": "icechunk.azure_credentials(...)",
        "abfs": "icechunk.azure_credentials(...)",
    }.get(scheme, "None")
    return (
        f'authorize_virtual_chunk_access=icechunk.containers_credentials({{"{container.url_prefix}": {credentials}}})'
    )


def open_reader(container: VirtualChunkContainer, credentials: Any, settings: Any) -> ObjectReader:
    """What reads the objects of a container."""
    if urlsplit(container.url_prefix).scheme.lower() == "file":
        return LocalFiles()
    from icechunk.storage.virtual_objects import virtual_reader

    reader: ObjectReader = virtual_reader(container, credentials, settings)
    return reader


class LocalFiles:
    """Reads ranges of files by their `file://` URLs."""

    async def fetch(self, url: str, start: int, stop: int, etag: str | None, last_modified: int) -> Buffer:
        """The bytes of a file; raises `StorageError` (virtual-chunk-modified) when it is no longer what was meant."""
        path = _file_path(url)

        def read() -> bytes:
            with open(path, "rb") as file:
                status = os.fstat(file.fileno())
                if etag is not None:
                    if etag.strip('"') != file_etag(status):
                        raise modified(url)
                elif last_modified and status.st_mtime > last_modified:
                    raise modified(url)
                file.seek(start)
                return file.read(stop - start)

        return read() if is_blocking() or stop - start < _OFFLOAD_BYTES else await offload(read)


def file_etag(status: os.stat_result) -> str:
    """The etag of a local file as object stores over a file system give it: inode, modification time and size."""
    return f"{status.st_ino:x}-{status.st_mtime_ns // 1000:x}-{status.st_size:x}"


def modified(url: str) -> StorageError:
    """The error for an object that is not what a reference was made from."""
    return StorageError(
        f"the checksum of the object owning the virtual chunk has changed ({url}); it was modified after the "
        "reference to it was made, make the reference again",
        ErrorKind.VIRTUAL_CHUNK_MODIFIED,
    )


def _file_path(url: str) -> str:
    parts = urlsplit(url)
    path = unquote(url[len("file://") :]) if url.lower().startswith("file://") else unquote(parts.path)
    if os.name == "nt" and path.startswith("/") and path[2:3] == ":":
        return path[1:]
    return path


def normalise_location(location: str, spec: int = 2) -> str:
    """A location as it is stored.

    Raises `InvalidInputError` (invalid-virtual-ref) for what is no absolute URL. The scheme is lower-cased; `file:` URLs
    are percent-encoded and get three slashes; all else is kept as it is given.
    """
    scheme, colon, rest = location.partition(":")
    if not colon or not scheme or not scheme[0].isalpha() or not all(c.isalnum() or c in "+-." for c in scheme):
        raise _bad_location(location, "it has no scheme, such as s3:// or file:///")
    scheme = scheme.lower()
    if scheme == "file":
        path = rest.removeprefix("//")
        if not path.startswith("/"):
            raise _bad_location(location, "a file URL has three slashes and an absolute path")
        return "file://" + quote(path, safe=_SAFE + "%")
    if not rest.startswith("//"):
        raise _bad_location(location, "it is no absolute URL")
    host, slash, path = rest[2:].partition("/")
    if scheme == _BY_NAME:
        return f"{scheme}://{host}/{path}"
    if not host:
        raise _bad_location(location, "error parsing bucket name: there is none")
    if spec == 1 and not path:
        raise _bad_location(location, "virtual reference has no path segments")
    return f"{scheme}://{host}{slash}{path}"


def normalise_locations(locations: Iterable[str], spec: int = 2) -> list[str]:
    """`normalise_location` for many."""
    return [normalise_location(location, spec) for location in locations]


def _bad_location(location: str, why: str) -> InvalidInputError:
    return InvalidInputError(f'error parsing virtual ref URL: "{location}": {why}', ErrorKind.INVALID_VIRTUAL_REF)


def _with_slash(prefix: str) -> str:
    return prefix if prefix.endswith("/") else prefix + "/"


def _leads_out(path: str) -> bool:
    return ".." in path.split("/")
