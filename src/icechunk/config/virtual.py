"""Where virtual chunks live: containers, and the clients that reach them.

A virtual chunk is a range of bytes in an object that is not ours. A `VirtualChunkContainer` says that objects whose URL
starts with a prefix may be referred to, and how to reach them; credentials are never part of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from icechunk import checks
from icechunk.config.fields import Field, Flag, Instance, Settings, Text, text, u32
from icechunk.display import (
    Card,
    Row,
    Shown,
    card_html,
    card_text,
    masked_options,
    masked_url,
    public_options,
    quoted,
    without_secrets,
)
from icechunk.variants import Choice, Variants, variant_of


class ChecksumAlgorithm(Choice):
    """Checksums that S3 verifies when objects are written."""

    Crc32 = 0
    Crc32c = 1
    Crc64Nvme = 2
    Sha1 = 3
    Sha256 = 4

    def __repr__(self) -> str:
        return f"icechunk.ChecksumAlgorithm.{self.name}"


def _required_flag(doc: str) -> Field[bool]:
    return Field(Flag(), False, doc, required=True)


class S3Options(Settings):
    """How to reach a service that speaks S3.

    Parameters
    ----------
    region, endpoint_url
        Where the service is; by default what the environment or the bucket says.
    allow_http
        Whether an endpoint without encryption is acceptable.
    anonymous
        Whether requests are sent unsigned.
    force_path_style
        Whether the bucket goes into the path rather than into the host name.
    network_stream_timeout_seconds
        How long a response may stay silent, in seconds; 0 for ever.
    requester_pays
        Whether we agree to pay for requests.
    checksum_algorithm
        The checksum sent along with objects.
    """

    __slots__ = ()
    _title = "icechunk.storage.S3Options"

    region = text("Region of the bucket.")
    endpoint_url = text("URL of the service.")
    anonymous = _required_flag("Whether requests are sent unsigned.")
    allow_http = _required_flag("Whether an endpoint without encryption is acceptable.")
    force_path_style = _required_flag("Whether the bucket goes into the path.")
    network_stream_timeout_seconds = u32(None, "How long a response may stay silent, in seconds.")
    requester_pays = _required_flag("Whether we agree to pay for requests.")
    checksum_algorithm: Field[ChecksumAlgorithm | None] = Field(
        Instance(ChecksumAlgorithm), None, "The checksum sent along with objects."
    )

    def __init__(
        self,
        region: str | None = None,
        endpoint_url: str | None = None,
        allow_http: bool = False,
        anonymous: bool = False,
        force_path_style: bool = False,
        network_stream_timeout_seconds: int | None = None,
        requester_pays: bool = False,
        checksum_algorithm: ChecksumAlgorithm | None = None,
    ) -> None:
        super().__init__(
            region=region,
            endpoint_url=endpoint_url,
            allow_http=allow_http,
            anonymous=anonymous,
            force_path_style=force_path_style,
            network_stream_timeout_seconds=network_stream_timeout_seconds,
            requester_pays=requester_pays,
            checksum_algorithm=checksum_algorithm,
        )

    def _constructor_values(self) -> Iterator[tuple[str, Any]]:
        for name, value in super()._constructor_values():
            yield name, masked_url(value) if name == "endpoint_url" and value else value

    def _card(self) -> Card:
        return Card(self._title, [Row(name, value) for name, value in self._constructor_values()])


class ObjectStoreConfig(Variants):
    """The client that reaches the objects of a container."""

    InMemory: TypeAlias = "_InMemory"
    LocalFileSystem: TypeAlias = "_LocalFileSystem"
    S3: TypeAlias = "_S3"
    S3Compatible: TypeAlias = "_S3Compatible"
    Tigris: TypeAlias = "_Tigris"
    Gcs: TypeAlias = "_Gcs"
    Azure: TypeAlias = "_Azure"
    Http: TypeAlias = "_Http"

    def _card(self) -> Card:
        return Card(f"icechunk.config.{type(self).__qualname__}", self._rows())

    def _rows(self) -> list[Row]:
        return []

    def _arguments(self) -> str:
        return ""

    def __repr__(self) -> str:
        return f"icechunk.config.{type(self).__qualname__}({self._arguments()})"

    def __str__(self) -> str:
        return card_text(self._card())

    def _repr_html_(self) -> str:
        return card_html(self._card())


Shown.register(ObjectStoreConfig)


@variant_of(ObjectStoreConfig, "InMemory")
class _InMemory(ObjectStoreConfig):
    """Objects that live in this process only."""


@variant_of(ObjectStoreConfig, "LocalFileSystem")
class _LocalFileSystem(ObjectStoreConfig):
    """Files of this machine, under a directory."""

    _0: str

    def _check(self) -> None:
        path = self._0.__fspath__() if hasattr(self._0, "__fspath__") else self._0
        path = checks.text(path, "path")
        self._set("_0", path.rstrip("/") or path[:1])

    def _rows(self) -> list[Row]:
        return [Row("path", self._0)]

    def _arguments(self) -> str:
        return quoted(self._0)


class _S3Like(ObjectStoreConfig):
    _0: S3Options

    def _check(self) -> None:
        checks.instance(self._0, "_0", S3Options)

    def _rows(self) -> list[Row]:
        return list(self._0._card().rows)

    def _arguments(self) -> str:
        return repr(self._0)


@variant_of(ObjectStoreConfig, "S3")
class _S3(_S3Like):
    """Amazon's S3."""

    _0: S3Options


@variant_of(ObjectStoreConfig, "S3Compatible")
class _S3Compatible(_S3Like):
    """Another service that speaks S3."""

    _0: S3Options


@variant_of(ObjectStoreConfig, "Tigris")
class _Tigris(_S3Like):
    """Tigris."""

    _0: S3Options


class _WithOptions(ObjectStoreConfig):
    _0: dict[str, str] | None

    def _check(self) -> None:
        if self._0 is not None:
            self._set("_0", checks.text_map(self._0, "_0"))

    def _rows(self) -> list[Row]:
        return [Row("config", masked_options(self._0))]

    def _arguments(self) -> str:
        return repr(masked_options(self._0))


@variant_of(ObjectStoreConfig, "Gcs")
class _Gcs(_WithOptions):
    """Google Cloud Storage, with options of the client."""

    _0: dict[str, str] | None = None


@variant_of(ObjectStoreConfig, "Azure")
class _Azure(_WithOptions):
    """Azure Blob Storage, with options of the client; `account` among them."""

    _0: dict[str, str] | None = None


@variant_of(ObjectStoreConfig, "Http")
class _Http(ObjectStoreConfig):
    """Any web server, with options of the client and headers sent along."""

    _0: dict[str, str] | None = None
    _1: dict[str, str] | None = None

    def _check(self) -> None:
        for name in ("_0", "_1"):
            if getattr(self, name) is not None:
                self._set(name, checks.text_map(getattr(self, name), name))

    def _rows(self) -> list[Row]:
        return [Row("opts", masked_options(self._0)), Row("headers", masked_options(self._1))]

    def _arguments(self) -> str:
        return f"{masked_options(self._0)!r}, {masked_options(self._1)!r}"


AnyObjectStoreConfig: TypeAlias = (
    ObjectStoreConfig.InMemory
    | ObjectStoreConfig.LocalFileSystem
    | ObjectStoreConfig.S3
    | ObjectStoreConfig.S3Compatible
    | ObjectStoreConfig.Gcs
    | ObjectStoreConfig.Azure
    | ObjectStoreConfig.Tigris
    | ObjectStoreConfig.Http
)


class VirtualChunkContainer(Settings):
    """Objects under `url_prefix` may be referred to as virtual chunks, and are reached by `store`.

    Parameters
    ----------
    url_prefix
        The beginning of their URLs, such as `s3://bucket/prefix/`.
    store
        How to reach them; made by `s3_store`, `gcs_store`, `http_store`, `local_filesystem_store`, ...
    name
        A short name for locations of the form `vcc://name/rest`.

    Nothing is checked before the container is added to a configuration.
    """

    __slots__ = ()
    _title = "icechunk.virtual.VirtualChunkContainer"

    name = text("Short name for `vcc://name/...` locations.")
    url_prefix: Field[str] = Field(Text(), None, "The beginning of the URLs.", required=True)
    store: Field[ObjectStoreConfig] = Field(
        Instance(ObjectStoreConfig), None, "How to reach the objects.", required=True
    )

    def __init__(self, url_prefix: str, store: ObjectStoreConfig, name: str | None = None) -> None:
        super().__init__(name=name, url_prefix=url_prefix, store=store)

    def _constructor_values(self) -> Iterator[tuple[str, Any]]:
        for name, value in super()._constructor_values():
            yield name, masked_url(value) if name == "url_prefix" else value

    def _card(self) -> Card:
        return Card(self._title, [Row(name, value) for name, value in self._constructor_values()])


_SCHEMES: dict[type[ObjectStoreConfig], tuple[str, ...]] = {
    ObjectStoreConfig.InMemory: ("memory",),
    ObjectStoreConfig.LocalFileSystem: ("file",),
    ObjectStoreConfig.S3: ("s3",),
    ObjectStoreConfig.S3Compatible: ("s3",),
    ObjectStoreConfig.Tigris: ("s3", "tigris"),
    ObjectStoreConfig.Gcs: ("gs", "gcs"),
    ObjectStoreConfig.Azure: ("az", "azure", "abfs"),
    ObjectStoreConfig.Http: ("http", "https"),
}


def with_final_slash(prefix: str) -> str:
    """A container's prefix names a directory: without its final `/` it would serve `s3://bucket-of-somebody-else`."""
    return prefix if prefix.endswith("/") else prefix + "/"


def checked_container(container: VirtualChunkContainer) -> VirtualChunkContainer:
    """A copy of `container`, its prefix ending in `/`.

    Raises `ValueError` when the prefix is no URL, lacks a host, or is of a scheme that the store does not serve, and when
    the name is empty or contains a `/`.
    """
    result = container.__copy__()
    if not result.url_prefix:
        raise ValueError("VirtualChunkContainer url_prefix must not be empty, and end in a / character")
    result.url_prefix = with_final_slash(result.url_prefix)
    scheme, colon, rest = result.url_prefix.partition(":")
    scheme = scheme.lower()
    if not colon or not scheme.replace("+", "").replace("-", "").replace(".", "").isalnum():
        raise ValueError(
            f"VirtualChunkContainer url_prefix must be a URL such as s3://bucket/prefix/, not {container.url_prefix!r}"
        )
    served = _SCHEMES[type(result.store)]
    if scheme not in served:
        raise ValueError(
            f"Invalid url prefix scheme ({scheme}) for this object store config: ({type(result.store).__name__}), "
            f"it serves {' and '.join(name + '://' for name in served)}"
        )
    has_host = rest.startswith("//") and not rest.startswith("///")
    if not has_host and scheme not in ("file", "memory"):
        raise ValueError(f"Url prefix for {scheme}:// containers must include a host")
    if result.name is not None and (not result.name or "/" in result.name):
        raise ValueError("VirtualChunkContainer name must be non-empty and not contain '/'")
    return result


def add_container(
    containers: dict[str, VirtualChunkContainer], container: VirtualChunkContainer
) -> dict[str, VirtualChunkContainer]:
    """`containers` with one more; an older one of the same prefix, or of the same name, gives way."""
    new: Any = checked_container(container)
    kept = {
        prefix: old
        for prefix, old in containers.items()
        if prefix == new.url_prefix or new.name is None or old.name != new.name
    }
    kept[new.url_prefix] = new
    return kept


def public_container(container: VirtualChunkContainer) -> VirtualChunkContainer:
    """A copy of `container`, without the options and headers that sound like secrets.

    Raises `ValueError` where a secret is a part of an address.
    """
    result, store = container.__copy__(), container.store
    if isinstance(store, _S3Like):
        without_secrets(store._0.endpoint_url or "")
    elif isinstance(store, _WithOptions):
        result.store = type(store)(_public(store._0))
    elif isinstance(store, _Http):
        without_secrets(container.url_prefix)
        result.store = _Http(_public(store._0), _public(store._1))
    return result


def _public(options: dict[str, str] | None) -> dict[str, str] | None:
    return None if options is None else public_options(options)
