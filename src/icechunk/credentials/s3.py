"""Credentials for services that speak S3."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import datetime
from typing import TypeAlias

from icechunk import checks
from icechunk.config.fields import Field, Text, text
from icechunk.credentials._family import Expiring, Family, check_refreshable, expiry
from icechunk.variants import variant_of


class S3StaticCredentials(Expiring):
    """An access key.

    Parameters
    ----------
    access_key_id, secret_access_key
        The key.
    session_token
        For temporary keys.
    expires_after
        When the key ceases to be valid, with a time zone.
    """

    __slots__ = ()
    _title = "icechunk.credentials.S3StaticCredentials"
    _visible = {"access_key_id": 1}  # noqa: RUF012

    access_key_id: Field[str] = Field(Text(), None, "The public part of the key.", required=True)
    secret_access_key: Field[str] = Field(Text(), None, "The secret part of the key.", required=True)
    session_token = text("For temporary keys.")
    expires_after = expiry()

    def __init__(
        self,
        access_key_id: str,
        secret_access_key: str,
        session_token: str | None = None,
        expires_after: datetime | None = None,
    ) -> None:
        super().__init__(
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
            session_token=session_token,
            expires_after=expires_after,
        )


class S3Credentials(Family):
    """How requests to S3 are signed."""

    FromEnv: TypeAlias = "_S3FromEnv"
    Anonymous: TypeAlias = "_S3Anonymous"
    Static: TypeAlias = "_S3Static"
    Refreshable: TypeAlias = "_S3Refreshable"


@variant_of(S3Credentials, "FromEnv")
class _S3FromEnv(S3Credentials):
    """The usual chain: environment variables, profiles, instance metadata."""


@variant_of(S3Credentials, "Anonymous")
class _S3Anonymous(S3Credentials):
    """Not at all."""


@variant_of(S3Credentials, "Static")
class _S3Static(S3Credentials):
    """With this key."""

    _0: S3StaticCredentials

    def _check(self) -> None:
        checks.instance(self._0, "_0", S3StaticCredentials)


@variant_of(S3Credentials, "Refreshable")
class _S3Refreshable(S3Credentials):
    """With the key that a function returns."""

    pickled_function: bytes
    current: S3StaticCredentials | None

    def _check(self) -> None:
        check_refreshable(self, S3StaticCredentials)


AnyS3Credential: TypeAlias = (
    S3Credentials.Static | S3Credentials.Anonymous | S3Credentials.FromEnv | S3Credentials.Refreshable
)


def s3_refreshable_credentials(
    get_credentials: Callable[[], S3StaticCredentials], scatter_initial_credentials: bool = False
) -> S3Credentials.Refreshable:
    """The key that `get_credentials` returns, called again whenever that has expired.

    Parameters
    ----------
    get_credentials
        A function that can be pickled: one of a module, no lambda.
    scatter_initial_credentials
        Call it now, and let copies of the repository in other processes begin with the result.
    """
    current = get_credentials() if scatter_initial_credentials else None
    return S3Credentials.Refreshable(pickle.dumps(get_credentials), current)


def s3_static_credentials(
    *,
    access_key_id: str,
    secret_access_key: str,
    session_token: str | None = None,
    expires_after: datetime | None = None,
) -> S3Credentials.Static:
    """A key that stays what it is; `expires_after` needs a time zone."""
    return S3Credentials.Static(S3StaticCredentials(access_key_id, secret_access_key, session_token, expires_after))


def s3_from_env_credentials() -> S3Credentials.FromEnv:
    """What the environment has: variables, `~/.aws`, instance metadata."""
    return S3Credentials.FromEnv()


def s3_anonymous_credentials() -> S3Credentials.Anonymous:
    """Unsigned requests."""
    return S3Credentials.Anonymous()


def s3_credentials(
    *,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    session_token: str | None = None,
    expires_after: datetime | None = None,
    anonymous: bool | None = None,
    from_env: bool | None = None,
    get_credentials: Callable[[], S3StaticCredentials] | None = None,
    scatter_initial_credentials: bool = False,
) -> AnyS3Credential:
    """Credentials for S3: of the environment unless told otherwise. Arguments that contradict each other: `ValueError`."""
    key = (access_key_id, secret_access_key, session_token, expires_after)
    has_key = any(part is not None for part in key)
    ways = (bool(anonymous), bool(from_env), get_credentials is not None, has_key)
    if sum(ways) == 0 and from_env is None:
        return s3_from_env_credentials()
    if sum(ways) == 1:
        if anonymous:
            return s3_anonymous_credentials()
        if from_env:
            return s3_from_env_credentials()
        if get_credentials is not None:
            return s3_refreshable_credentials(get_credentials, scatter_initial_credentials)
        if access_key_id is not None and secret_access_key is not None:
            return S3Credentials.Static(
                S3StaticCredentials(access_key_id, secret_access_key, session_token, expires_after)
            )
    raise ValueError(
        "Conflicting arguments to s3_credentials function: give exactly one of from_env=True, anonymous=True, "
        "get_credentials, or access_key_id and secret_access_key"
    )
