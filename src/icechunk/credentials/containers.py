"""Credentials for virtual chunk containers: which may be read, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from icechunk import checks
from icechunk.credentials._family import Family
from icechunk.credentials.azure import AnyAzureCredential, AzureCredentials
from icechunk.credentials.gcs import AnyGcsCredential, GcsCredentials
from icechunk.credentials.s3 import AnyS3Credential, S3Credentials
from icechunk.variants import variant_of


class Credentials(Family):
    """Credentials of any kind, as `Repository.open(..., authorize_virtual_chunk_access=...)` takes them."""

    S3: TypeAlias = "_S3"
    Gcs: TypeAlias = "_Gcs"
    Azure: TypeAlias = "_Azure"
    LocalFileSystemAccess: TypeAlias = "_LocalFileSystemAccess"
    HttpAccess: TypeAlias = "_HttpAccess"


@variant_of(Credentials, "S3")
class _S3(Credentials):
    """For a service that speaks S3."""

    _0: AnyS3Credential

    def _check(self) -> None:
        checks.instance(self._0, "_0", S3Credentials)


@variant_of(Credentials, "Gcs")
class _Gcs(Credentials):
    """For Google Cloud Storage."""

    _0: AnyGcsCredential

    def _check(self) -> None:
        checks.instance(self._0, "_0", GcsCredentials)


@variant_of(Credentials, "Azure")
class _Azure(Credentials):
    """For Azure Blob Storage."""

    _0: AnyAzureCredential

    def _check(self) -> None:
        checks.instance(self._0, "_0", AzureCredentials)


@variant_of(Credentials, "LocalFileSystemAccess")
class _LocalFileSystemAccess(Credentials):
    """For local files, which need none: it only says that they may be read."""


@variant_of(Credentials, "HttpAccess")
class _HttpAccess(Credentials):
    """For web servers, which need none: it only says that they may be read."""


LocalFileSystemAccess = Credentials.LocalFileSystemAccess()
"""Authorizes a container of local files."""

HttpAccess = Credentials.HttpAccess()
"""Authorizes a container on a web server."""

AnyCredential: TypeAlias = (
    Credentials.S3 | Credentials.Gcs | Credentials.Azure | Credentials.LocalFileSystemAccess | Credentials.HttpAccess
)


def _wrapped(value: Any) -> Credentials | None:
    """`value` as `Credentials`, or None where it is nothing of the kind."""
    if isinstance(value, Credentials):
        return value
    if isinstance(value, S3Credentials):
        return Credentials.S3(value)  # type: ignore[arg-type]
    if isinstance(value, GcsCredentials):
        return Credentials.Gcs(value)  # type: ignore[arg-type]
    if isinstance(value, AzureCredentials):
        return Credentials.Azure(value)  # type: ignore[arg-type]
    return None


def containers_credentials(
    m: Mapping[str, AnyS3Credential | AnyGcsCredential | AnyAzureCredential | AnyCredential | None],
) -> dict[str, AnyCredential | None]:
    """Credentials by URL prefix, for `authorize_virtual_chunk_access`.

    None reads the container with what the environment has, local files and web servers without any. Anything else that is
    no credential is a `ValueError`.
    """
    result: dict[str, Any] = {}
    for prefix, value in m.items():
        wrapped = _wrapped(value)
        if wrapped is None and value is not None:
            raise ValueError(f"Unknown credential type {type(value)}")
        result[prefix] = wrapped
    return result


def check_authorization(authorized: Mapping[str, Any]) -> dict[str, Credentials | None]:
    """The argument `authorize_virtual_chunk_access`, checked: a copy with `Credentials` or None as values."""
    if not isinstance(authorized, Mapping):
        raise TypeError(
            "argument 'authorize_virtual_chunk_access': expected a dict of URL prefix to credentials, as "
            f"icechunk.containers_credentials makes it, not '{type(authorized).__name__}'"
        )
    result: dict[str, Credentials | None] = {}
    for prefix, value in authorized.items():
        wrapped = _wrapped(value)
        if wrapped is None and value is not None:
            raise TypeError(
                f"argument 'authorize_virtual_chunk_access': '{type(value).__name__}' object is not an instance of "
                "'Credentials'; use icechunk.containers_credentials"
            )
        result[checks.text(prefix, "authorize_virtual_chunk_access")] = wrapped
    return result


def left_out(value: Any) -> Any:
    """The credentials to use where those of `value` did not travel along: what the environment has.

    What has no secret stays: anonymous access, and what only says that something may be read.
    """
    for family in (S3Credentials, GcsCredentials, AzureCredentials):
        if isinstance(value, family):
            return value if isinstance(value, family.Anonymous) else family.FromEnv()
    if isinstance(value, Credentials.S3 | Credentials.Gcs | Credentials.Azure):
        return type(value)(left_out(value._0))
    return value
