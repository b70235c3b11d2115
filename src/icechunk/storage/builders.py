"""Making storages from options and credentials that are made already; the functions of `factories` end here.

Arguments are checked here, and here it is known where each service lives. Clients for object stores are imported by the
functions that need them, so that a program that works on local files never loads one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from icechunk import checks
from icechunk.config.virtual import S3Options
from icechunk.credentials import (
    AnyAzureCredential,
    AnyGcsCredential,
    AnyS3Credential,
    AzureCredentials,
    GcsCredentials,
    S3Credentials,
)
from icechunk.display import masked_url
from icechunk.errors import ErrorKind, StorageError
from icechunk.storage.base import Storage

Headers = Mapping[str, str]


def new_s3(
    config: S3Options,
    bucket: str,
    prefix: str | None,
    credentials: AnyS3Credential | None = None,
    legacy_rooted_keys: bool | None = None,
    *,
    read_headers: Headers | None = None,
    write_headers: Headers | None = None,
    headers: Headers | None = None,
    read_only: bool = False,
) -> Storage:
    """See `s3_storage`."""
    checks.instance(config, "config", S3Options)
    if credentials is not None:
        checks.instance(credentials, "credentials", S3Credentials)
    where = directory(prefix)
    if legacy_rooted_keys and where:
        raise StorageError("storage error: legacy_rooted_keys is only valid with an empty prefix", _CONFIG)
    from icechunk.storage import object_store

    return object_store.s3(
        bucket=_named(bucket, "bucket"),
        prefix=where,
        options=config.copy(),
        credentials=S3Credentials.FromEnv() if credentials is None else credentials,
        legacy_rooted_keys=bool(legacy_rooted_keys),
        read_headers=merged_headers(headers, read_headers),
        write_headers=merged_headers(headers, write_headers),
        read_only=read_only,
    )


def new_tigris(
    config: S3Options,
    bucket: str,
    prefix: str | None,
    use_weak_consistency: bool,
    credentials: AnyS3Credential | None = None,
    legacy_rooted_keys: bool | None = None,
    *,
    read_headers: Headers | None = None,
    write_headers: Headers | None = None,
    headers: Headers | None = None,
) -> Storage:
    """See `tigris_storage`."""
    options = checks.instance(config, "config", S3Options).copy()
    if options.region is None and not use_weak_consistency:
        raise StorageError(
            "storage error: Tigris storage requires a region to provide full consistency. Either set the region for the "
            "bucket or use the read-only, eventually consistent storage by passing `use_weak_consistency=True` (experts "
            "only)",
            _CONFIG,
        )
    options.endpoint_url = options.endpoint_url or "https://t3.storage.dev"
    return new_s3(
        options,
        bucket,
        prefix,
        credentials,
        legacy_rooted_keys,
        read_headers=read_headers,
        write_headers=write_headers,
        headers=(headers or {}) if options.region is None else _consistent(options.region) | dict(headers or {}),
        read_only=options.region is None,
    )


def _consistent(region: str) -> dict[str, str]:
    """Headers that ask Tigris for the region that is always up to date."""
    return {"X-Tigris-Regions": region, "X-Tigris-Consistent": "true", "Cache-Control": "no-cache"}


def new_r2(
    config: S3Options,
    bucket: str | None = None,
    prefix: str | None = None,
    account_id: str | None = None,
    credentials: AnyS3Credential | None = None,
    legacy_rooted_keys: bool | None = None,
    *,
    read_headers: Headers | None = None,
    write_headers: Headers | None = None,
    headers: Headers | None = None,
) -> Storage:
    """See `r2_storage`."""
    options = checks.instance(config, "config", S3Options).copy()
    if bucket is None:
        bucket, _, prefix = directory(prefix).partition("/")
        if not bucket:
            raise StorageError("storage configuration error: Either bucket or prefix must be provided.", _CONFIG)
    if options.endpoint_url is None:
        if account_id is None:
            raise StorageError(
                "storage configuration error: Either endpoint_url or account_id must be provided.", _CONFIG
            )
        options.endpoint_url = f"https://{_named(account_id, 'account_id')}.r2.cloudflarestorage.com"
    options.region = options.region or "auto"
    options.force_path_style = True
    return new_s3(
        options,
        bucket,
        prefix,
        credentials,
        legacy_rooted_keys,
        read_headers=read_headers,
        write_headers=write_headers,
        headers=headers,
    )


def new_hf(
    config: S3Options,
    bucket: str,
    prefix: str | None,
    namespace: str,
    credentials: AnyS3Credential | None = None,
    legacy_rooted_keys: bool | None = None,
    *,
    read_headers: Headers | None = None,
    write_headers: Headers | None = None,
    headers: Headers | None = None,
) -> Storage:
    """See `hf_storage`."""
    options = checks.instance(config, "config", S3Options).copy()
    options.endpoint_url = options.endpoint_url or f"https://s3.hf.co/{_named(namespace, 'namespace')}"
    options.region = options.region or "us-east-1"
    options.force_path_style = True
    return new_s3(
        options,
        bucket,
        prefix,
        credentials,
        legacy_rooted_keys,
        read_headers=read_headers,
        write_headers=write_headers,
        headers=headers,
    )


def new_gcs(
    bucket: str,
    prefix: str | None,
    credentials: AnyGcsCredential | None = None,
    *,
    config: Mapping[str, str] | None = None,
    read_headers: Headers | None = None,
    write_headers: Headers | None = None,
    headers: Headers | None = None,
) -> Storage:
    """See `gcs_storage`."""
    if credentials is not None:
        checks.instance(credentials, "credentials", GcsCredentials)
    from icechunk.storage import object_store

    return object_store.gcs(
        bucket=_named(bucket, "bucket"),
        prefix=directory(prefix),
        credentials=GcsCredentials.FromEnv() if credentials is None else credentials,
        config=checks.text_map(dict(config or {}), "config"),
        read_headers=merged_headers(headers, read_headers),
        write_headers=merged_headers(headers, write_headers),
    )


def new_azure_blob(
    account: str,
    container: str,
    prefix: str,
    credentials: AnyAzureCredential | None = None,
    *,
    config: Mapping[str, str] | None = None,
) -> Storage:
    """See `azure_storage`."""
    if credentials is not None:
        checks.instance(credentials, "credentials", AzureCredentials)
    from icechunk.storage import object_store

    return object_store.azure(
        account=_named(account, "account"),
        container=_named(container, "container"),
        prefix=directory(checks.text(prefix, "prefix")),
        credentials=AzureCredentials.FromEnv() if credentials is None else credentials,
        config=checks.text_map(dict(config or {}), "config"),
    )


def new_http(base_url: str, config: Mapping[str, str] | None = None, headers: Headers | None = None) -> Storage:
    """See `http_storage`."""
    url = web_url(base_url)
    from icechunk.storage import object_store

    return object_store.http(
        base_url=url,
        config=checks.text_map(dict(config or {}), "config"),
        headers=merged_headers(headers, None),
    )


def new_redirect(base_url: str) -> Storage:
    """See `redirect_storage`."""
    from icechunk.storage.redirect import RedirectStorage

    url = web_url(base_url)
    if "@" in urlsplit(url).netloc:
        raise StorageError(
            f"storage configuration error: {masked_url(url)} names a user, and redirects are asked for without credentials",
            _CONFIG,
        )
    return RedirectStorage(url)


def new_obstore(store: Any, prefix: str | None = None, *, read_only: bool = False) -> Storage:
    """See `obstore_storage`."""
    if not any(base.__module__.partition(".")[0] == "obstore" for base in type(store).__mro__):
        advice = (
            "pass the store that it wraps, its `.store`" if hasattr(store, "store") else "make one of obstore.store"
        )
        raise TypeError(f"expected a store of obstore, got {type(store).__module__}.{type(store).__name__}; {advice}")
    from icechunk.storage import object_store

    return object_store.from_obstore(store, directory(prefix), read_only=checks.flag(read_only, "read_only"))


# --------------------------------------------------------------------------------------------------------------- checks

_CONFIG = ErrorKind.STORAGE_CONFIG
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def _named(value: str, name: str) -> str:
    if not checks.text(value, name).strip("/"):
        raise StorageError(f"storage configuration error: {name} must not be empty", _CONFIG)
    return value


def directory(prefix: str | None) -> str:
    """A prefix without `/` at its ends."""
    return "" if prefix is None else checks.text(prefix, "prefix").strip("/")


def web_url(url: str) -> str:
    """`url`, if a web server can be found there."""
    parts = urlsplit(checks.text(url, "base_url"))
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise StorageError(
            f'error parsing URL: "{masked_url(url)}": expected http://... or https://...', ErrorKind.CANNOT_PARSE_URL
        )
    return url


def merged_headers(all_requests: Headers | None, some: Headers | None) -> dict[str, str]:
    """Headers for some requests over those for all, checked."""
    merged = {}
    for given in (all_requests, some):
        for name, value in checks.text_map(dict(given or {}), "headers").items():
            if not _HEADER_NAME.fullmatch(name) or not value.isprintable():
                raise ValueError(f"storage error: invalid HTTP header {name!r}")
            merged[name] = value
    return merged
