"""Credentials for Azure Blob Storage."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import datetime
from typing import TypeAlias

from icechunk import checks
from icechunk.credentials._family import Family, check_refreshable
from icechunk.variants import variant_of


class AzureStaticCredentials(Family):
    """Credentials of Azure that stay what they are."""

    AccessKey: TypeAlias = "_AzureAccessKey"
    SasToken: TypeAlias = "_AzureSasToken"
    BearerToken: TypeAlias = "_AzureBearerToken"


@variant_of(AzureStaticCredentials, "AccessKey")
class _AzureAccessKey(AzureStaticCredentials):
    """A key of the account."""

    _0: str

    def _check(self) -> None:
        checks.text(self._0, "_0")


@variant_of(AzureStaticCredentials, "SasToken")
class _AzureSasToken(AzureStaticCredentials):
    """A shared access signature."""

    _0: str

    def _check(self) -> None:
        checks.text(self._0, "_0")


@variant_of(AzureStaticCredentials, "BearerToken")
class _AzureBearerToken(AzureStaticCredentials):
    """A bearer token."""

    _0: str

    def _check(self) -> None:
        checks.text(self._0, "_0")


class AzureRefreshableCredential(Family):
    """What a function that fetches credentials of Azure returns."""

    AccessKey: TypeAlias = "_AzureExpiringAccessKey"
    SasToken: TypeAlias = "_AzureExpiringSasToken"
    BearerToken: TypeAlias = "_AzureExpiringBearerToken"

    expires_after: datetime | None

    def _check_expiry(self) -> None:
        self._set(
            "expires_after", None if self.expires_after is None else checks.moment(self.expires_after, "expires_after")
        )


@variant_of(AzureRefreshableCredential, "AccessKey")
class _AzureExpiringAccessKey(AzureRefreshableCredential):
    """A key of the account."""

    key: str
    expires_after: datetime | None

    def _check(self) -> None:
        checks.text(self.key, "key")
        self._check_expiry()


@variant_of(AzureRefreshableCredential, "SasToken")
class _AzureExpiringSasToken(AzureRefreshableCredential):
    """A shared access signature."""

    token: str
    expires_after: datetime | None

    def _check(self) -> None:
        checks.text(self.token, "token")
        self._check_expiry()


@variant_of(AzureRefreshableCredential, "BearerToken")
class _AzureExpiringBearerToken(AzureRefreshableCredential):
    """A bearer token."""

    bearer: str
    expires_after: datetime | None

    def _check(self) -> None:
        checks.text(self.bearer, "bearer")
        self._check_expiry()


class AzureCredentials(Family):
    """How requests to Azure Blob Storage are signed."""

    FromEnv: TypeAlias = "_AzureFromEnv"
    Anonymous: TypeAlias = "_AzureAnonymous"
    Static: TypeAlias = "_AzureStatic"
    Refreshable: TypeAlias = "_AzureRefreshable"


@variant_of(AzureCredentials, "FromEnv")
class _AzureFromEnv(AzureCredentials):
    """With what the environment has."""


@variant_of(AzureCredentials, "Anonymous")
class _AzureAnonymous(AzureCredentials):
    """Not at all."""


@variant_of(AzureCredentials, "Static")
class _AzureStatic(AzureCredentials):
    """With these."""

    _0: AzureStaticCredentials

    def _check(self) -> None:
        checks.instance(self._0, "_0", AzureStaticCredentials)


@variant_of(AzureCredentials, "Refreshable")
class _AzureRefreshable(AzureCredentials):
    """With what a function returns."""

    pickled_function: bytes
    current: AzureRefreshableCredential | None

    def _check(self) -> None:
        check_refreshable(self, AzureRefreshableCredential)


AnyAzureStaticCredential: TypeAlias = (
    AzureStaticCredentials.AccessKey | AzureStaticCredentials.SasToken | AzureStaticCredentials.BearerToken
)
AnyAzureCredential: TypeAlias = (
    AzureCredentials.FromEnv | AzureCredentials.Static | AzureCredentials.Refreshable | AzureCredentials.Anonymous
)


def azure_static_credentials(
    *, access_key: str | None = None, sas_token: str | None = None, bearer_token: str | None = None
) -> AnyAzureStaticCredential:
    """Exactly one of the three, anything else is a `ValueError`."""
    given = [value for value in (access_key, sas_token, bearer_token) if value is not None]
    if len(given) != 1:
        raise ValueError(
            "Conflicting arguments to azure_static_credentials function: give exactly one of access_key, sas_token, "
            "bearer_token"
        )
    if access_key is not None:
        return AzureStaticCredentials.AccessKey(access_key)
    if sas_token is not None:
        return AzureStaticCredentials.SasToken(sas_token)
    return AzureStaticCredentials.BearerToken(given[0])


def azure_refreshable_credentials(
    get_credentials: Callable[[], AzureRefreshableCredential], scatter_initial_credentials: bool = False
) -> AzureCredentials.Refreshable:
    """What `get_credentials` returns, see `s3_refreshable_credentials`."""
    current = get_credentials() if scatter_initial_credentials else None
    return AzureCredentials.Refreshable(pickle.dumps(get_credentials), current)


def azure_from_env_credentials() -> AzureCredentials.FromEnv:
    """What the environment has."""
    return AzureCredentials.FromEnv()


def azure_anonymous_credentials() -> AzureCredentials.Anonymous:
    """Unsigned requests."""
    return AzureCredentials.Anonymous()


def azure_credentials(
    *,
    access_key: str | None = None,
    sas_token: str | None = None,
    bearer_token: str | None = None,
    from_env: bool | None = None,
    anonymous: bool | None = None,
    get_credentials: Callable[[], AzureRefreshableCredential] | None = None,
    scatter_initial_credentials: bool = False,
) -> AnyAzureCredential:
    """Credentials for Azure Blob Storage: of the environment unless told otherwise.

    `anonymous=True` goes before everything else, `get_credentials` before static credentials. What contradicts itself is a
    `ValueError`.
    """
    has_static = any(part is not None for part in (access_key, sas_token, bearer_token))
    if anonymous:
        return azure_anonymous_credentials()
    if get_credentials is not None and not from_env:
        return azure_refreshable_credentials(get_credentials, scatter_initial_credentials)
    if has_static and not from_env:
        return AzureCredentials.Static(
            azure_static_credentials(access_key=access_key, sas_token=sas_token, bearer_token=bearer_token)
        )
    if from_env is not False and not has_static and get_credentials is None:
        return azure_from_env_credentials()
    raise ValueError(
        "Conflicting arguments to azure_credentials function: give exactly one of from_env=True, anonymous=True, "
        "get_credentials, or static credentials"
    )
