"""Virtual chunks: bytes that stay in files of other formats.

A virtual reference is a location, an offset and a length. Which locations may be read is said twice, and both must agree:
the repository's configuration lists containers, each a URL prefix and how to reach it, and whoever opens the repository
authorizes containers, with credentials. Credentials given for one container are never used for another.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlsplit

from icechunk._dataclass import dataclass
from icechunk._driver import is_blocking, offload
from icechunk.credentials import Credentials
from icechunk.display import masked_url
from icechunk.errors import ErrorKind, IcechunkError, InvalidInputError, StorageError
from icechunk.format.chunk_ref import Virtual
from icechunk.storage.base import Buffer
from icechunk.virtual_access import (
    ContainerAccess,
    SourceDriftWarning,
    UnauthorizedContainersWarning,
    VirtualAccessReport,
    VirtualPolicy,
    authorization_line,
    warn_caller,
)
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
    "ContainerAccess",
    "ObjectStoreConfig",
    "S3Options",
    "SourceDriftWarning",
    "UnauthorizedContainersWarning",
    "VirtualAccessReport",
    "VirtualChunkContainer",
    "VirtualChunkSpec",
    "gcs_store",
    "http_store",
    "local_filesystem_store",
    "s3_store",
]

_BY_NAME = "vcc"
_SAFE = "/:@!$&'()*+,;=~-._"
_USUAL = re.compile(rf"(?!file:)[a-z][a-z0-9+.\-]*://[^/]+/.|file:///[A-Za-z0-9%{re.escape(_SAFE)}]*\Z", re.S)
"""Locations that are stored as they are; nearly all are, and there may be a million."""
_OFFLOAD_BYTES = 256 << 10


class ObjectReader(Protocol):
    """Reads ranges of the objects of one container."""

    async def fetch(
        self, url: str, start: int, stop: int, facts: bool = True
    ) -> tuple[Buffer, str | None, float | None]:
        """The bytes `start <= i < stop` of the object at `url`, its etag, and when it was modified (seconds since 1970).

        Fewer bytes where it ends before. Etag and time may be None where no `facts` are wanted. Raises
        `FileNotFoundError` where there is no such object.
        """


@dataclass(frozen=True, slots=True)
class _Container:
    """A container of the configuration, with its prefix in the form in which it is compared."""

    place: str
    path: str
    container: VirtualChunkContainer


class VirtualChunks:
    """Finds the container of a location and fetches from it what was authorized.

    Parameters
    ----------
    containers : mapping of URL prefix to VirtualChunkContainer
    authorized : mapping of URL prefix to credentials or None
        What the user who opened the repository allows; None means no credentials.
    policy : VirtualPolicy
        What the user decided for all containers.
    """

    def __init__(
        self,
        containers: Mapping[str, VirtualChunkContainer],
        authorized: Mapping[str, Any],
        *,
        spec: int = 2,
        settings: Any = None,
        policy: VirtualPolicy | None = None,
    ) -> None:
        self.containers = dict(containers)
        self.authorized = dict(authorized)
        self.spec = spec
        self.policy = policy or VirtualPolicy()
        self._settings = settings
        self._allowed = {_with_slash(prefix): value for prefix, value in self.authorized.items()}
        for item in self.containers.values():
            prefix = _with_slash(item.url_prefix)
            if prefix not in self._allowed and (anonymous := self.policy.anonymous_credentials(item)) is not None:
                self._allowed[prefix] = anonymous
        known = [_Container(*_place_and_path(_with_slash(item.url_prefix)), item) for item in self.containers.values()]
        self._by_length = sorted(known, key=lambda item: -len(item.path))
        self._readers: dict[str, ObjectReader] = {}
        self._drifted: set[str] = set()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {
            "containers": self.containers,
            "authorized": self.authorized,
            "spec": self.spec,
            "settings": self._settings,
            "policy": self.policy,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(  # type: ignore[misc]
            state["containers"],
            state["authorized"],
            spec=state["spec"],
            settings=state["settings"],
            policy=state["policy"],
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
        place, plain = _place_and_path(location)
        for item in self._by_length:
            if place == item.place and plain.startswith(item.path):
                if _leads_out(plain[len(item.path) :]):
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
            f"no virtual chunk container named '{name}' found for `{masked_url(location)}`, check the repository "
            "configuration",
            ErrorKind.NO_CONTAINER_FOR_VIRTUAL_CHUNK,
        )

    def check(self, location: str) -> None:
        """Refuse a location that no container serves."""
        if self.container_of(location) is None:
            raise InvalidInputError(
                f"invalid chunk location, no matching virtual chunk container: `{masked_url(location)}`; add one with "
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
        """The containers that may not be read: neither authorized nor covered by the policy."""
        return [item for item in self.containers.values() if _with_slash(item.url_prefix) not in self._allowed]

    @property
    def is_remote(self) -> bool:
        """Whether virtual chunks that may be read lie anywhere but in local files."""
        return any(urlsplit(prefix).scheme.lower() != "file" for prefix in self._allowed)

    def strays(self) -> list[str]:
        """The prefixes that were authorized and that no container has."""
        known = {_with_slash(item.url_prefix) for item in self.containers.values()}
        return [prefix for prefix in self.authorized if _with_slash(prefix) not in known]

    # --- bytes -------------------------------------------------------------------------------------------------------

    async def fetch(self, ref: Virtual, start: int = 0, stop: int | None = None) -> Buffer:
        """The bytes `start <= i < stop` of a virtual chunk, all of them by default."""
        stop = ref.length if stop is None else stop
        container, url = self._authorized(ref.location)
        checked = self.policy.drift != "ignore" and (ref.etag is not None or bool(ref.last_modified))
        data, etag, modified_at = await self._read(container, url, ref.offset + start, ref.offset + stop, checked)
        if checked and has_drifted(ref, etag, modified_at):
            if self.policy.drift == "error":
                raise modified(url)
            self._warn_of_drift(url)
        if len(data) != stop - start:
            raise StorageError(
                f"error retrieving virtual chunk, not enough data. Expected: ({stop - start}), available "
                f"({len(data)}): {masked_url(url)} from byte {ref.offset + start} on",
                ErrorKind.INVALID_OBJECT_SIZE,
            )
        return data

    async def probe(self, ref: Virtual) -> None:
        """Read the first byte of a virtual chunk; raises what reading it would raise, whatever the policy on drift."""
        container, url = self._authorized(ref.location)
        data, etag, modified_at = await self._read(container, url, ref.offset, ref.offset + 1)
        if has_drifted(ref, etag, modified_at):
            raise modified(url)
        if not data:
            raise StorageError(
                f"{masked_url(url)} has no byte {ref.offset}, it is shorter than it was", ErrorKind.INVALID_OBJECT_SIZE
            )

    async def _read(
        self, container: VirtualChunkContainer, url: str, start: int, stop: int, facts: bool = True
    ) -> tuple[Buffer, str | None, float | None]:
        where = f"{masked_url(url)} (container {masked_url(container.url_prefix)})"
        try:
            return await self._reader(container).fetch(url, start, stop, facts)
        except IcechunkError:
            raise
        except FileNotFoundError as error:
            raise StorageError(
                f"error fetching virtual reference: there is no object at {where}", ErrorKind.VIRTUAL_CHUNK_FETCH
            ) from error
        except (OSError, ValueError) as error:
            raise StorageError(
                f"error fetching virtual reference {where}: {error}", ErrorKind.VIRTUAL_CHUNK_FETCH
            ) from error

    def _warn_of_drift(self, url: str) -> None:
        with self._lock:
            if url in self._drifted:
                return
            self._drifted.add(url)
        warn_caller(f"{masked_url(url)} was modified after the reference to it was made", SourceDriftWarning)

    def _authorized(self, location: str) -> tuple[VirtualChunkContainer, str]:
        found = self.container_of(location)
        if found is None:
            raise InvalidInputError(
                f"no virtual chunk container can handle the chunk location ({masked_url(location)}), edit the repository "
                "configuration adding a virtual chunk container for the chunk references: "
                "`config.set_virtual_chunk_container(VirtualChunkContainer(url_prefix, store))`",
                ErrorKind.NO_CONTAINER_FOR_VIRTUAL_CHUNK,
            )
        container, url = found
        if _with_slash(container.url_prefix) not in self._allowed:
            raise InvalidInputError(
                f"a virtual chunk in this repository ({masked_url(url)}) resolves to the url prefix "
                + masked_url(container.url_prefix)
                + (f" (container: {container.name})" if container.name else "")
                + ", to be able to fetch the chunk you need to authorize the virtual chunk container when you "
                f"open/create the repository: {authorization_line([container])}",
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
                    credentials = self._allowed[prefix]
                    self.policy.check_way(container, credentials)
                    reader = self._readers[prefix] = open_reader(container, credentials, self._settings)
        return reader


def open_reader(container: VirtualChunkContainer, credentials: Any, settings: Any) -> ObjectReader:
    """What reads the objects of a container."""
    if urlsplit(container.url_prefix).scheme.lower() == "file":
        if credentials is not None and not isinstance(credentials, Credentials.LocalFileSystemAccess):
            raise InvalidInputError(
                f"invalid credentials for virtual reference of type file: {credentials!r} (container "
                f"{container.url_prefix}); local files need none",
                ErrorKind.INVALID_CREDENTIALS,
            )
        return LocalFiles()
    from icechunk.storage.virtual_objects import virtual_reader

    reader: ObjectReader = virtual_reader(container, credentials, settings)
    return reader


class LocalFiles:
    """Reads ranges of files by their `file://` URLs."""

    async def fetch(
        self, url: str, start: int, stop: int, facts: bool = True
    ) -> tuple[Buffer, str | None, float | None]:
        path = _file_path(url)

        def read() -> tuple[Buffer, str | None, float | None]:
            with open(path, "rb") as file:
                status = os.fstat(file.fileno())
                end = min(stop, status.st_size)  # a reference may claim any length, and reading makes room for it
                if start >= end:
                    return b"", file_etag(status), status.st_mtime
                file.seek(start)
                return file.read(end - start), file_etag(status), status.st_mtime

        return read() if is_blocking() or stop - start < _OFFLOAD_BYTES else await offload(read)


def has_drifted(ref: Virtual, etag: str | None, modified_at: float | None) -> bool:
    """Whether an object with this etag, last modified then, is another one than the reference was made from."""
    if ref.etag is not None:
        return etag is not None and _bare(etag) != _bare(ref.etag)
    return bool(ref.last_modified) and modified_at is not None and modified_at > ref.last_modified


def _bare(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')


def file_etag(status: os.stat_result) -> str:
    """The etag of a local file as object stores over a file system give it: inode, modification time and size."""
    return f"{status.st_ino:x}-{status.st_mtime_ns // 1000:x}-{status.st_size:x}"


def modified(url: str) -> StorageError:
    """The error for an object that is not what a reference was made from."""
    return StorageError(
        f"the checksum of the object owning the virtual chunk has changed ({masked_url(url)}); it was modified after "
        "the reference to it was made: make the reference again, or open the repository with virtual_drift='warn'",
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
    if not isinstance(location, str):
        raise TypeError(f"the location of a virtual chunk is a URL as str, got {type(location).__name__}")
    if _USUAL.match(location):
        return location
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


def _bad_location(location: str, why: str) -> InvalidInputError:
    return InvalidInputError(
        f'error parsing virtual ref URL: "{masked_url(location)}": {why}', ErrorKind.INVALID_VIRTUAL_REF
    )


def _with_slash(prefix: str) -> str:
    return prefix if prefix.endswith("/") else prefix + "/"


def _place_and_path(url: str) -> tuple[str, str]:
    """The scheme and host of a URL exactly as they stand, and its path in plain text.

    The host is never decoded: else `https://host%2F@elsewhere/` would seem to be below `https://host/`.
    """
    scheme, colon, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme.lower()}{colon}{host}", unquote(slash + path)


def _leads_out(path: str) -> bool:
    return ".." in re.split(r"[/\\]", path)
