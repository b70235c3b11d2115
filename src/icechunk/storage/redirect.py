"""A storage whose place a web server tells.

The server answers a plain GET with a redirect to `s3://bucket/prefix?region=...`, `gs://bucket/prefix`,
`r2://bucket/prefix?account_id=...` or `tigris://bucket/prefix?region=...`; redirects to other web addresses are followed
first. Data move without the publisher having to tell anybody. Since that server decides where requests go, they carry no
credentials: what it points to must be public.
"""

from __future__ import annotations

import http.client
import re
import threading
import urllib.request
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import parse_qs, urljoin, urlsplit

from icechunk.config.virtual import S3Options
from icechunk.credentials import GcsCredentials, S3Credentials
from icechunk.display import masked_url, without_secrets
from icechunk.errors import ErrorKind, StorageError
from icechunk.storage.base import Storage
from icechunk.storage.builders import new_gcs, new_r2, new_s3, new_tigris
from icechunk.storage.wrappers import StorageWrapper

_TIMEOUT = 30.0
"""Seconds that a server may take to answer."""
_MAX_HOPS = 10
_IS_NAME = re.compile(r"[A-Za-z0-9-]+").fullmatch


class _NoFollowing(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class RedirectStorage(StorageWrapper):
    """The storage to which `base_url` redirects; asked when it is first needed, once per process."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._lock = threading.Lock()
        self._found: Storage | None = None

    @property
    def _inner(self) -> Storage:  # type: ignore[override]
        with self._lock:
            if self._found is None:
                self._found = storage_at(follow(self._base_url))
            return self._found

    def around(self, inner: Storage) -> Storage:
        return inner

    def without_credentials(self) -> Storage:
        without_secrets(self._base_url)
        return self

    def describe(self) -> dict[str, Any]:
        return {"type": "redirect", "url": masked_url(self._base_url)}

    def __reduce__(self) -> tuple[Any, ...]:
        return RedirectStorage, (self._base_url,)


def follow(url: str) -> str:
    """The first address that is no web address, starting from `url`. Raises `StorageError` (bad-redirect)."""
    start = url
    opener = urllib.request.build_opener(_NoFollowing)
    for _ in range(_MAX_HOPS):
        if urlsplit(url).scheme.lower() not in ("http", "https"):
            return url
        try:
            with opener.open(urllib.request.Request(url), timeout=_TIMEOUT) as response:
                location = response.headers.get("Location")
        except HTTPError as error:
            location = error.headers.get("Location")
            error.close()
        except (URLError, OSError, ValueError, http.client.HTTPException) as error:
            raise _bad(
                f"request to redirect url ({url}) failed, cannot find target Storage instance: {error}"
            ) from error
        if not location:
            raise _bad(f"response must be a redirect, no location header detected ({url})")
        url = urljoin(url, location)
    raise _bad(f"too many redirects, beginning with {start}")


def storage_at(url: str) -> Storage:
    """The storage that a redirect points to. Raises `StorageError` (bad-redirect)."""
    parts = urlsplit(url)
    bucket, prefix = parts.netloc, parts.path
    scheme = parts.scheme.lower()
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}

    def plain(value: str) -> str:
        if not _IS_NAME(value):  # it becomes part of a host name
            raise _bad(f"invalid Storage URL, no such region or account: {url}")
        return value

    def needed(name: str) -> str:
        if name not in query:
            raise _bad(f"invalid Storage URL, must have a {name} query parameter: {url}")
        return plain(query[name])

    if scheme not in ("s3", "gs", "gcs", "r2", "tigris"):
        raise _bad(f"bad URL for redirect Storage, unknown scheme: {url}")
    if not bucket or "@" in bucket:
        raise _bad(f"Storage url doesn't have a host to indicate the bucket ({url})")
    anonymous = S3Credentials.Anonymous()
    if scheme == "s3":
        return new_s3(S3Options(region=needed("region"), anonymous=True), bucket, prefix, anonymous)
    if scheme == "tigris":
        return new_tigris(S3Options(region=needed("region"), anonymous=True), bucket, prefix, False, anonymous)
    if scheme == "r2":
        options = S3Options(region=plain(query["region"]) if "region" in query else None, anonymous=True)
        return new_r2(options, bucket, prefix, needed("account_id"), anonymous)
    return new_gcs(bucket, prefix, GcsCredentials.Anonymous())


def _bad(why: str) -> StorageError:
    return StorageError(f"Redirect Storage error: {masked_url(why)}", ErrorKind.BAD_REDIRECT)
