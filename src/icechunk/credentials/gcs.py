"""Credentials for Google Cloud Storage."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import datetime
from typing import TypeAlias

from icechunk import checks
from icechunk.config.fields import Field, Text
from icechunk.credentials._family import Expiring, Family, check_refreshable, expiry
from icechunk.variants import variant_of


class GcsBearerCredential(Expiring):
    """A bearer token of Google Cloud.

    Parameters
    ----------
    bearer
        The token.
    expires_after
        When it ceases to be valid, with a time zone.
    """

    __slots__ = ()
    _title = "icechunk.credentials.GcsBearerCredential"

    bearer: Field[str] = Field(Text(), None, "The token.", required=True, settable=False)
    expires_after = expiry(settable=False)

    def __init__(self, bearer: str, *, expires_after: datetime | None = None) -> None:
        super().__init__(bearer=bearer, expires_after=expires_after)


class GcsStaticCredentials(Family):
    """Credentials of Google Cloud that stay what they are."""

    ServiceAccount: TypeAlias = "_GcsServiceAccount"
    ServiceAccountKey: TypeAlias = "_GcsServiceAccountKey"
    ApplicationCredentials: TypeAlias = "_GcsApplicationCredentials"
    BearerToken: TypeAlias = "_GcsBearerToken"


@variant_of(GcsStaticCredentials, "ServiceAccount")
class _GcsServiceAccount(GcsStaticCredentials):
    """The path of a service account's JSON file."""

    _0: str

    def _check(self) -> None:
        checks.text(self._0, "_0")


@variant_of(GcsStaticCredentials, "ServiceAccountKey")
class _GcsServiceAccountKey(GcsStaticCredentials):
    """The JSON of a service account."""

    _0: str

    def _check(self) -> None:
        checks.text(self._0, "_0")


@variant_of(GcsStaticCredentials, "ApplicationCredentials")
class _GcsApplicationCredentials(GcsStaticCredentials):
    """The path of a file of application credentials."""

    _0: str

    def _check(self) -> None:
        checks.text(self._0, "_0")


@variant_of(GcsStaticCredentials, "BearerToken")
class _GcsBearerToken(GcsStaticCredentials):
    """A bearer token."""

    _0: str

    def _check(self) -> None:
        checks.text(self._0, "_0")


class GcsCredentials(Family):
    """How requests to Google Cloud Storage are signed."""

    FromEnv: TypeAlias = "_GcsFromEnv"
    Anonymous: TypeAlias = "_GcsAnonymous"
    Static: TypeAlias = "_GcsStatic"
    Refreshable: TypeAlias = "_GcsRefreshable"


@variant_of(GcsCredentials, "FromEnv")
class _GcsFromEnv(GcsCredentials):
    """With what the environment has."""


@variant_of(GcsCredentials, "Anonymous")
class _GcsAnonymous(GcsCredentials):
    """Not at all."""


@variant_of(GcsCredentials, "Static")
class _GcsStatic(GcsCredentials):
    """With these."""

    _0: GcsStaticCredentials

    def _check(self) -> None:
        checks.instance(self._0, "_0", GcsStaticCredentials)


@variant_of(GcsCredentials, "Refreshable")
class _GcsRefreshable(GcsCredentials):
    """With the token that a function returns."""

    pickled_function: bytes
    current: GcsBearerCredential | None

    def _check(self) -> None:
        check_refreshable(self, GcsBearerCredential)


AnyGcsStaticCredential: TypeAlias = (
    GcsStaticCredentials.ServiceAccount
    | GcsStaticCredentials.ServiceAccountKey
    | GcsStaticCredentials.ApplicationCredentials
    | GcsStaticCredentials.BearerToken
)
AnyGcsCredential: TypeAlias = (
    GcsCredentials.FromEnv | GcsCredentials.Static | GcsCredentials.Refreshable | GcsCredentials.Anonymous
)


def gcs_static_credentials(
    *,
    service_account_file: str | None = None,
    service_account_key: str | None = None,
    application_credentials: str | None = None,
    bearer_token: str | None = None,
) -> AnyGcsStaticCredential:
    """The first of the four that is given; none is a `ValueError`."""
    if service_account_file is not None:
        return GcsStaticCredentials.ServiceAccount(service_account_file)
    if service_account_key is not None:
        return GcsStaticCredentials.ServiceAccountKey(service_account_key)
    if application_credentials is not None:
        return GcsStaticCredentials.ApplicationCredentials(application_credentials)
    if bearer_token is not None:
        return GcsStaticCredentials.BearerToken(bearer_token)
    raise ValueError(
        "Conflicting arguments to gcs_static_credentials function: give one of service_account_file, "
        "service_account_key, application_credentials, bearer_token"
    )


def gcs_refreshable_credentials(
    get_credentials: Callable[[], GcsBearerCredential], scatter_initial_credentials: bool = False
) -> GcsCredentials.Refreshable:
    """The token that `get_credentials` returns, see `s3_refreshable_credentials`."""
    current = get_credentials() if scatter_initial_credentials else None
    return GcsCredentials.Refreshable(pickle.dumps(get_credentials), current)


def gcs_from_env_credentials() -> GcsCredentials.FromEnv:
    """What the environment has."""
    return GcsCredentials.FromEnv()


def gcs_anonymous_credentials() -> GcsCredentials.Anonymous:
    """Unsigned requests."""
    return GcsCredentials.Anonymous()


def gcs_credentials(
    *,
    service_account_file: str | None = None,
    service_account_key: str | None = None,
    application_credentials: str | None = None,
    bearer_token: str | None = None,
    from_env: bool | None = None,
    anonymous: bool | None = None,
    get_credentials: Callable[[], GcsBearerCredential] | None = None,
    scatter_initial_credentials: bool = False,
) -> AnyGcsCredential:
    """Credentials for Google Cloud Storage: of the environment unless told otherwise.

    `anonymous=True` goes before everything else, static credentials before `get_credentials`.
    """
    has_static = any(
        part is not None for part in (service_account_file, service_account_key, application_credentials, bearer_token)
    )
    if anonymous:
        return gcs_anonymous_credentials()
    if (from_env and (has_static or get_credentials is not None)) or (
        from_env is False and not has_static and get_credentials is None
    ):
        raise ValueError(
            "Conflicting arguments to gcs_credentials function: give exactly one of from_env=True, anonymous=True, "
            "get_credentials, or static credentials"
        )
    if has_static:
        return GcsCredentials.Static(
            gcs_static_credentials(
                service_account_file=service_account_file,
                service_account_key=service_account_key,
                application_credentials=application_credentials,
                bearer_token=bearer_token,
            )
        )
    if get_credentials is not None:
        return gcs_refreshable_credentials(get_credentials, scatter_initial_credentials)
    return gcs_from_env_credentials()
