"""The services that keep objects: what each can do, and how a client for each is made.

A place (`S3Place`, `GcsPlace`, ...) is a value: everything needed to make a client, with credentials as objects that know
how to be pickled. Clients are made when they are first needed, one per place, settings and purpose.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import field, replace
from datetime import timedelta
from typing import Any, ClassVar, Literal, Protocol
from urllib.parse import urlsplit

from icechunk._dataclass import dataclass
from icechunk.config.effective import EffectiveStorage
from icechunk.config.virtual import ChecksumAlgorithm, S3Options
from icechunk.credentials import (
    AnyAzureCredential,
    AnyGcsCredential,
    AnyS3Credential,
    AzureCredentials,
    AzureRefreshableCredential,
    AzureStaticCredentials,
    GcsCredentials,
    GcsStaticCredentials,
    S3Credentials,
    S3StaticCredentials,
    left_out,
)
from icechunk.credentials.refresh import Refresher
from icechunk.display import masked_url, public_options, without_secrets
from icechunk.errors import ErrorKind, StorageError
from icechunk.storage import _aws_profile
from icechunk.storage._object_errors import import_client

Purpose = Literal["read", "write", "upload", "delete"]
"""Reading and small writes must not stall; an upload may take as long as its bytes need; deletes are one by one."""

_STALL_SECONDS = 60
_UPLOAD_SECONDS = 600
_LONGEST_SECONDS = 3600
_RETRY_SECONDS = 180

_KNOWN_HOSTS = (".amazonaws.com", ".amazonaws.com.cn", ".r2.cloudflarestorage.com")
"""Where services answer that are known to look at the conditions of writes, and to list what there is."""

_CLIENT_OPTIONS = frozenset(
    {
        *("allow_http", "allow_invalid_certificates", "connect_timeout", "default_content_type", "http1_only"),
        *("http2_keep_alive_interval", "http2_keep_alive_timeout", "http2_keep_alive_while_idle", "http2_only"),
        *("pool_idle_timeout", "pool_max_idle_per_host", "proxy_url", "proxy_ca_certificate", "proxy_excludes"),
        *("randomize_addresses", "read_timeout", "root_certificate", "timeout", "user_agent"),
    }
)


@dataclass(frozen=True)
class Service:
    """What one kind of store can do, and how it wants to be asked.

    Attributes
    ----------
    name : str
        For display.
    bare_etags : bool
        Whether preconditions name etags without their quotes: Amazon takes either, Ceph only these.
    suffix_ranges : bool
        Whether the last bytes of an object can be asked for without knowing its size.
    encoded_names : bool
        Whether names are percent-encoded as on local disks. The Rust implementation does so in all stores but S3.
    attributes : bool
        Whether objects have a content type and metadata.
    updates : bool
        Whether there are compare-and-swap writes.
    writes : bool
        Whether there are writes at all, and listings.
    lists_from : bool
        Whether a listing can go on after a name.
    lists_etags : bool
        Whether a listing gives the etags that reading gives; Azure and Google write them otherwise.
    keeps_buffers : bool
        Whether what is written stays the caller's memory, so that it must be copied first.
    """

    name: str
    bare_etags: bool = False
    suffix_ranges: bool = True
    encoded_names: bool = True
    attributes: bool = True
    updates: bool = True
    writes: bool = True
    lists_from: bool = False
    lists_etags: bool = False
    keeps_buffers: bool = False


S3 = Service("S3", bare_etags=True, encoded_names=False, lists_from=True, lists_etags=True)
GCS = Service("Google Cloud Storage", lists_from=True)
AZURE = Service("Azure Blob Storage", suffix_ranges=False)
HTTP = Service("HTTP", writes=False, attributes=False, updates=False, encoded_names=False)
BY_CLASS = {
    "S3Store": S3,
    "GCSStore": GCS,
    "AzureStore": AZURE,
    "HTTPStore": HTTP,
    "LocalStore": Service("local filesystem (obstore)", attributes=False, updates=False),
    "MemoryStore": Service("in-memory (obstore)", keeps_buffers=True),
}


class Place(Protocol):
    """Where objects are, and how to reach them."""

    @property
    def service(self) -> Service:
        """What kind of store it is."""

    @property
    def prefix(self) -> str:
        """The directory within the store; no `/` at its ends."""

    @property
    def is_of_unknown_make(self) -> bool:
        """Whether any software may answer there, so that what it promises is to be tried."""

    def client(self, settings: EffectiveStorage, purpose: Purpose) -> Any:
        """A new client."""

    def without_credentials(self) -> Place:
        """The same place, to be reached with what the environment has; raises `ValueError` where that cannot be."""

    def describe(self) -> dict[str, Any]:
        """Facts for display, no secrets."""


class _Shown:
    """Shows of a place what `describe` says, and no secret."""

    def describe(self) -> dict[str, Any]:
        """Facts for display."""
        return {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.describe().items())})"


@dataclass(frozen=True, repr=False)
class S3Place(_Shown):
    """A bucket of S3 or of a service that speaks it."""

    bucket: str
    prefix: str
    options: S3Options
    credentials: AnyS3Credential
    read_headers: Mapping[str, str] = field(default_factory=dict)
    write_headers: Mapping[str, str] = field(default_factory=dict)
    service: Service = S3

    @property
    def is_of_unknown_make(self) -> bool:
        endpoint = self.options.endpoint_url or _aws_profile.endpoint()
        return endpoint is not None and not (urlsplit(endpoint).hostname or "").endswith(_KNOWN_HOSTS)

    def client(self, settings: EffectiveStorage, purpose: Purpose) -> Any:
        import_client()
        from obstore.store import S3Store

        options = self.options
        headers = self.read_headers if purpose == "read" else self.write_headers
        stall = options.network_stream_timeout_seconds
        client_options = _client_options(settings, purpose, headers, _STALL_SECONDS if stall is None else stall)
        region = options.region or _aws_profile.region() or "us-east-1"
        endpoint = options.endpoint_url or _aws_profile.endpoint()
        more: dict[str, Any] = {}
        more["endpoint"], more["virtual_hosted_style_request"] = address(
            endpoint or _amazon(region), self.bucket, force_path_style=options.force_path_style
        )
        if options.allow_http or (options.endpoint_url is None and more["endpoint"].startswith("http://")):
            client_options["allow_http"] = True
        if purpose == "delete":
            more["disable_bulk_delete"] = True
        if options.requester_pays:
            more["request_payer"] = True
        if options.checksum_algorithm is not None:
            more["checksum_algorithm"] = _checksum(options.checksum_algorithm)
        if options.anonymous or isinstance(self.credentials, S3Credentials.Anonymous):
            more["skip_signature"] = True
        else:
            provider = _s3_provider(self.credentials)
            if provider is not None:
                more["credential_provider"] = provider
        return S3Store(
            self.bucket,
            region=region,
            client_options=client_options,
            retry_config=_retry_config(settings),
            **more,
        )

    def without_credentials(self) -> Place:
        if self.options.endpoint_url is not None:
            without_secrets(self.options.endpoint_url)
        return replace(
            self,
            credentials=left_out(self.credentials),
            read_headers=public_options(self.read_headers),
            write_headers=public_options(self.write_headers),
        )

    def describe(self) -> dict[str, Any]:
        options = self.options
        facts = {"type": self.service.name, "bucket": self.bucket, "prefix": self.prefix}
        endpoint = None if options.endpoint_url is None else masked_url(options.endpoint_url)
        shown = {"region": options.region, "endpoint_url": endpoint}
        return facts | {name: value for name, value in shown.items() if value is not None}


def address(endpoint: str, bucket: str, *, force_path_style: bool) -> tuple[str, bool]:
    """The endpoint as the client wants it, and whether the bucket is part of its host.

    It is, unless asked otherwise, and but for addresses that have no names below them: `http://127.0.0.1:9000`,
    `http://localhost:9000`.
    """
    endpoint = endpoint.rstrip("/")
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    if force_path_style or parts.path or "." not in host or "." in bucket or _is_number(host):
        return endpoint, False
    return f"{parts.scheme}://{bucket}.{parts.netloc}", True


def _amazon(region: str) -> str:
    if not region.replace("-", "").isalnum() or not region.isascii():
        raise StorageError(f"invalid name of a region: {region!r}", ErrorKind.STORAGE_CONFIG)  # it is in a host name
    return f"https://s3.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _checksum(algorithm: ChecksumAlgorithm) -> str:
    names = {ChecksumAlgorithm.Sha256: "SHA256", ChecksumAlgorithm.Crc64Nvme: "CRC64NVME"}
    if algorithm not in names:
        raise StorageError(
            f"the client of object stores knows no {algorithm!r}; use Sha256 or Crc64Nvme", ErrorKind.STORAGE_CONFIG
        )
    return names[algorithm]


def _s3_provider(credentials: AnyS3Credential) -> Callable[[], dict[str, Any]] | None:
    if isinstance(credentials, S3Credentials.FromEnv):
        return _aws_profile.key_source()
    if isinstance(credentials, S3Credentials.Static):
        # a function, not options: those would be mixed with a session token of the environment
        key = _s3_key(credentials._0)
        return lambda: key
    assert isinstance(credentials, S3Credentials.Refreshable)
    refresher = Refresher(credentials)
    return lambda: _s3_key(refresher.get())


def _s3_key(found: S3StaticCredentials) -> dict[str, Any]:
    return {
        "access_key_id": found.access_key_id,
        "secret_access_key": found.secret_access_key,
        "token": found.session_token,
        "expires_at": found.expires_after,
    }


@dataclass(frozen=True, repr=False)
class GcsPlace(_Shown):
    """A bucket of Google Cloud Storage."""

    bucket: str
    prefix: str
    credentials: AnyGcsCredential
    config: Mapping[str, str] = field(default_factory=dict)
    read_headers: Mapping[str, str] = field(default_factory=dict)
    write_headers: Mapping[str, str] = field(default_factory=dict)
    service: Service = GCS
    is_of_unknown_make: ClassVar[bool] = False

    def client(self, settings: EffectiveStorage, purpose: Purpose) -> Any:
        import_client()
        from obstore.store import GCSStore

        headers = self.read_headers if purpose == "read" else self.write_headers
        config, client_options = _sorted_options(self.config, ("google_",))
        return GCSStore(
            self.bucket,
            config=config,
            client_options=_client_options(settings, purpose, headers) | client_options,
            retry_config=_retry_config(settings),
            **_gcs_credentials(self.credentials),
        )

    def without_credentials(self) -> Place:
        return replace(
            self,
            credentials=left_out(self.credentials),
            config=public_options(self.config),
            read_headers=public_options(self.read_headers),
            write_headers=public_options(self.write_headers),
        )

    def describe(self) -> dict[str, Any]:
        return {"type": self.service.name, "bucket": self.bucket, "prefix": self.prefix}


def _gcs_credentials(credentials: AnyGcsCredential) -> dict[str, Any]:
    if isinstance(credentials, GcsCredentials.FromEnv):
        return {}
    if isinstance(credentials, GcsCredentials.Anonymous):
        return {"skip_signature": True}
    if isinstance(credentials, GcsCredentials.Refreshable):
        refresher = Refresher(credentials)

        def fetch() -> dict[str, Any]:
            found = refresher.get()
            return {"token": found.bearer, "expires_at": found.expires_after}

        return {"credential_provider": fetch}
    static: Any = credentials._0
    if isinstance(static, GcsStaticCredentials.BearerToken):
        token = {"token": static._0, "expires_at": None}
        return {"credential_provider": lambda: token}
    option = {
        GcsStaticCredentials.ServiceAccount: "service_account",
        GcsStaticCredentials.ServiceAccountKey: "service_account_key",
        GcsStaticCredentials.ApplicationCredentials: "application_credentials",
    }[type(static)]
    return {option: static._0}


@dataclass(frozen=True, repr=False)
class AzurePlace(_Shown):
    """A container of Azure Blob Storage."""

    account: str
    container: str
    prefix: str
    credentials: AnyAzureCredential
    config: Mapping[str, str] = field(default_factory=dict)
    service: Service = AZURE
    is_of_unknown_make: ClassVar[bool] = False

    def client(self, settings: EffectiveStorage, purpose: Purpose) -> Any:
        import_client()
        from obstore.store import AzureStore

        config, client_options = _sorted_options(self.config, ("azure_storage_", "azure_"))
        return AzureStore(
            self.container,
            account_name=self.account,
            config=config,
            client_options=_client_options(settings, purpose, {}) | client_options,
            retry_config=_retry_config(settings),
            **_azure_credentials(self.credentials),
        )

    def without_credentials(self) -> Place:
        return replace(self, credentials=left_out(self.credentials), config=public_options(self.config))

    def describe(self) -> dict[str, Any]:
        return {
            "type": self.service.name,
            "account": self.account,
            "container": self.container,
            "prefix": self.prefix,
        }


def _azure_credentials(credentials: AnyAzureCredential) -> dict[str, Any]:
    if isinstance(credentials, AzureCredentials.FromEnv):
        return {}
    if isinstance(credentials, AzureCredentials.Anonymous):
        return {"skip_signature": True}
    if isinstance(credentials, AzureCredentials.Refreshable):
        refresher = Refresher(credentials)
        return {"credential_provider": lambda: _azure_secret(refresher.get())}
    static: Any = credentials._0
    option = {
        AzureStaticCredentials.AccessKey: "access_key",
        AzureStaticCredentials.SasToken: "sas_token",
        AzureStaticCredentials.BearerToken: "token",
    }[type(static)]
    secret = {option: static._0, "expires_at": None}
    return {"credential_provider": lambda: secret}


def _azure_secret(found: Any) -> dict[str, Any]:
    if isinstance(found, AzureRefreshableCredential.AccessKey):
        return {"access_key": found.key, "expires_at": found.expires_after}
    if isinstance(found, AzureRefreshableCredential.SasToken):
        return {"sas_token": found.token, "expires_at": found.expires_after}
    return {"token": found.bearer, "expires_at": found.expires_after}


@dataclass(frozen=True, repr=False)
class HttpPlace(_Shown):
    """A directory of a web server."""

    base_url: str
    config: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    service: Service = HTTP
    is_of_unknown_make: ClassVar[bool] = False

    def client(self, settings: EffectiveStorage, purpose: Purpose) -> Any:
        import_client()
        from obstore.store import HTTPStore

        _, client_options = _sorted_options(self.config, ())
        # whoever gives an address with http:// means it
        options: Any = {"allow_http": True, **_client_options(settings, purpose, self.headers), **client_options}
        return HTTPStore(self.base_url, client_options=options, retry_config=_retry_config(settings))

    def without_credentials(self) -> Place:
        without_secrets(self.base_url)
        return replace(self, config=public_options(self.config), headers=public_options(self.headers))

    def describe(self) -> dict[str, Any]:
        return {"type": self.service.name, "url": masked_url(self.base_url)}


@dataclass(frozen=True, repr=False)
class GivenPlace(_Shown):
    """A store that the user made. What it does about retries and time-outs is the user's business."""

    store: Any
    prefix: str = ""

    @property
    def is_of_unknown_make(self) -> bool:
        return self.service is S3 and "endpoint" in self.store.config

    @property
    def service(self) -> Service:
        return next(
            (BY_CLASS[base.__name__] for base in type(self.store).__mro__ if base.__name__ in BY_CLASS),
            Service(type(self.store).__name__),
        )

    def client(self, settings: EffectiveStorage, purpose: Purpose) -> Any:
        return self.store

    def without_credentials(self) -> Place:
        if type(self.store).__name__ in ("LocalStore", "MemoryStore"):
            return self
        raise ValueError(
            "the credentials cannot be left out of a store that you made yourself: use icechunk.s3_storage, gcs_storage or "
            "azure_storage, which make a store where they are used"
        )

    def describe(self) -> dict[str, Any]:
        return {"type": self.service.name, "store": masked_url(repr(self.store)), "prefix": self.prefix}


def _sorted_options(config: Mapping[str, str], prefixes: tuple[str, ...]) -> tuple[Any, Any]:
    """Options of the store and options of its HTTP client, which users give in one dict."""
    store: Any = {}
    client: dict[str, Any] = {}
    for name, value in config.items():
        plain = name.lower()
        for prefix in prefixes:
            if plain.startswith(prefix):
                plain = plain.removeprefix(prefix)
                break
        if plain in _CLIENT_OPTIONS:
            client[plain] = value
        else:
            store[name.lower()] = value
    return store, client


def _client_options(
    settings: EffectiveStorage, purpose: Purpose, headers: Mapping[str, str], stall_seconds: int = _STALL_SECONDS
) -> Any:
    """How long things may take. The client's own limit of 30 seconds for a whole transfer is none for big objects."""
    attempt = settings.operation_attempt_timeout_ms
    whole = _UPLOAD_SECONDS if purpose == "upload" else _LONGEST_SECONDS
    options: dict[str, Any] = {"timeout": f"{whole}s" if attempt is None else f"{attempt}ms"}
    if settings.connect_timeout_ms is not None:
        options["connect_timeout"] = f"{settings.connect_timeout_ms}ms"
    if purpose == "upload":
        pass  # for the client an upload is silence until it is over
    elif settings.read_timeout_ms is not None:
        options["read_timeout"] = f"{settings.read_timeout_ms}ms"
    elif stall_seconds > 0:
        options["read_timeout"] = f"{stall_seconds}s"
    if headers:
        options["default_headers"] = dict(headers)
    return options


def _retry_config(settings: EffectiveStorage) -> Any:
    tries, first, longest = settings.retries
    whole = settings.operation_timeout_ms
    return {
        "max_retries": tries - 1,
        "backoff": {
            "init_backoff": timedelta(milliseconds=first),
            "max_backoff": timedelta(milliseconds=max(first, longest)),
        },
        "retry_timeout": timedelta(seconds=_RETRY_SECONDS) if whole is None else timedelta(milliseconds=whole),
    }
