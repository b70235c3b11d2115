"""Reading ranges of objects that are not ours: what virtual chunks refer to.

One reader serves one container. It finds the bucket and the key in the URL of a chunk, and says which object the bytes are
of, from the very answer that brought them. Ranges that lie side by side are asked for together (`neighbours`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from icechunk.config import StorageSettings
from icechunk.config.virtual import ObjectStoreConfig, S3Options, VirtualChunkContainer
from icechunk.credentials import (
    AzureCredentials,
    Credentials,
    GcsCredentials,
    S3Credentials,
)
from icechunk.display import masked_url
from icechunk.errors import ErrorKind, InvalidInputError, ObjectNotFoundError, StorageError
from icechunk.storage._object_services import AzurePlace, GcsPlace, HttpPlace, Place, S3Place
from icechunk.storage.base import ByteRange
from icechunk.storage.neighbours import Answer, Neighbours
from icechunk.storage.object_store import ObjectStorage


class VirtualObjects:
    """Reads ranges of the objects of one container, by their URLs."""

    def __init__(self, place_of: Callable[[str], Place], settings: StorageSettings | None) -> None:
        self._place_of = place_of
        self._settings = settings
        self._stores: dict[str, ObjectStorage] = {}
        self._neighbours = Neighbours(self._fetch)

    def _store(self, host: str) -> ObjectStorage:
        store = self._stores.get(host)
        if store is None:
            store = self._stores[host] = ObjectStorage(self._place_of(host), self._settings, read_only=True)
        return store

    async def fetch(self, url: str, start: int, stop: int, facts: bool = True) -> Answer:
        """The bytes `start <= i < stop` of the object at `url`, its etag, and when it was modified (seconds since 1970).

        Fewer bytes where it ends before. Etag and time may be None where no `facts` are wanted. Raises
        `FileNotFoundError` where there is no such object.
        """
        return await self._neighbours.fetch(url, start, stop, facts)

    async def _fetch(self, url: str, start: int, stop: int, facts: bool) -> Answer:
        parts = urlsplit(url)
        store = self._store(parts.netloc)
        key = _key(parts.path, url)
        shown = masked_url(url)
        try:
            if not facts:
                return await store.read(key, shown, start, stop), None, None
            found = await store.fetch(key, shown, ByteRange(start, stop))
        except ObjectNotFoundError as error:
            raise FileNotFoundError(shown) from error
        except StorageError as error:
            raise StorageError(
                f"error fetching virtual reference {shown}: {error.message}", ErrorKind.VIRTUAL_CHUNK_FETCH
            ) from error
        # answers tell whole seconds, and so do references
        modified = None if found.modified is None else float(int(found.modified.timestamp()))
        return found.data, found.etag, modified


def _key(path: str, url: str) -> str:
    key = unquote(path.removeprefix("/"))
    if any(part in ("", ".", "..") for part in key.split("/")):
        raise InvalidInputError(
            f"object store backend cannot address key `{key}` of {masked_url(url)}: it has an empty part, '.' or '..'",
            ErrorKind.INVALID_VIRTUAL_REF,
        )
    return key


def virtual_reader(
    container: VirtualChunkContainer, credentials: Credentials | None, settings: StorageSettings | None
) -> VirtualObjects:
    """What reads the objects of `container` with `credentials`; None is what the environment has.

    Raises `InvalidInputError` for credentials of another kind of store, and for stores that hold nothing to read.
    """
    store = container.store
    found: Any
    if isinstance(store, (ObjectStoreConfig.S3, ObjectStoreConfig.S3Compatible, ObjectStoreConfig.Tigris)):
        found = _unwrapped(credentials, Credentials.S3, container) or S3Credentials.FromEnv()
        return VirtualObjects(_S3Places(_s3_options(store), found), settings)
    if isinstance(store, ObjectStoreConfig.Gcs):
        found = _unwrapped(credentials, Credentials.Gcs, container) or GcsCredentials.FromEnv()
        return VirtualObjects(lambda host: GcsPlace(_name(host), "", found, dict(store._0 or {})), settings)
    if isinstance(store, ObjectStoreConfig.Azure):
        found = _unwrapped(credentials, Credentials.Azure, container) or AzureCredentials.FromEnv()
        account, options = _azure_account(dict(store._0 or {}))
        return VirtualObjects(lambda host: AzurePlace(account, _name(host), "", found, options), settings)
    if isinstance(store, ObjectStoreConfig.Http):
        _unwrapped(credentials, Credentials.HttpAccess, container)
        scheme = urlsplit(container.url_prefix).scheme.lower()
        options, headers = dict(store._0 or {}), dict(store._1 or {})
        return VirtualObjects(lambda host: HttpPlace(f"{scheme}://{host}", options, headers), settings)
    raise InvalidInputError(
        f"unsupported scheme for virtual chunk refs: {container.url_prefix}", ErrorKind.INVALID_VIRTUAL_REF
    )


def _unwrapped(credentials: Credentials | None, expected: Any, container: VirtualChunkContainer) -> Any:
    if credentials is None:
        return None
    if not isinstance(credentials, expected):
        raise InvalidInputError(
            f"invalid credentials for virtual reference of type {type(container.store).__name__}: {credentials!r} "
            f"(container {container.url_prefix})",
            ErrorKind.INVALID_CREDENTIALS,
        )
    return getattr(credentials, "_0", None)


class _S3Places:
    def __init__(self, options: S3Options, credentials: Any) -> None:
        self._options = options
        self._credentials = S3Credentials.Anonymous() if options.anonymous else credentials

    def __call__(self, host: str) -> Place:
        return S3Place(_name(host), "", self._options, self._credentials)


def _s3_options(store: Any) -> S3Options:
    options: S3Options = store._0.copy()
    if isinstance(store, ObjectStoreConfig.Tigris) and options.endpoint_url is None:
        options.endpoint_url = "https://t3.storage.dev"
    return options


def _name(host: str) -> str:
    """The bucket or container in the host part of a URL, which may hold a user and a port too."""
    return host.rpartition("@")[2].partition(":")[0]


def _azure_account(options: dict[str, str]) -> tuple[str, dict[str, str]]:
    for name in (
        "account",
        "account_name",
        "azure_storage_account_name",
        "azure_account_name",
        "azure_storage_account",
    ):
        if name in options:
            account = options.pop(name)
            if not account.replace("-", "").isalnum() or not account.isascii():
                raise InvalidInputError(  # it becomes part of a host name
                    f"invalid name of an Azure storage account: {account!r}", ErrorKind.STORAGE_CONFIG
                )
            return account, options
    raise InvalidInputError(
        "an Azure virtual chunk container needs the storage account: azure_store({'account': ...})",
        ErrorKind.STORAGE_CONFIG,
    )
