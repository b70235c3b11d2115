"""Credentials that a function fetches: when it is called, and by whom.

A `Refresher` is made where requests are sent, so in each process anew. It calls the function when it has no credentials yet
or when those it has have expired, on the thread that needs them, one thread at a time.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from icechunk.credentials.azure import AzureCredentials, AzureRefreshableCredential
from icechunk.credentials.gcs import GcsBearerCredential, GcsCredentials
from icechunk.credentials.s3 import S3Credentials, S3StaticCredentials
from icechunk.errors import ErrorKind, StorageError

_KINDS: dict[type, type] = {
    S3Credentials.Refreshable: S3StaticCredentials,
    GcsCredentials.Refreshable: GcsBearerCredential,
    AzureCredentials.Refreshable: AzureRefreshableCredential,
}


def _now() -> datetime:
    return datetime.now(UTC)


class Refresher:
    """Credentials that stay valid.

    Parameters
    ----------
    credentials
        A `Refreshable` variant of S3's, Google's or Azure's credentials.
    margin
        How long before they expire they are fetched again.
    now
        The clock.
    """

    def __init__(
        self,
        credentials: S3Credentials.Refreshable | GcsCredentials.Refreshable | AzureCredentials.Refreshable,
        margin: timedelta = timedelta(0),
        now: Callable[[], datetime] = _now,
    ) -> None:
        self._credentials = credentials
        self._current: Any = credentials.current
        self._margin = margin
        self._now = now
        self._lock = threading.Lock()

    def get(self) -> Any:
        """Valid credentials: `S3StaticCredentials`, `GcsBearerCredential` or a variant of `AzureRefreshableCredential`.

        Raises `StorageError` (invalid-credentials) when the function fails or returns something else.
        """
        with self._lock:
            if self._current is None or self._expired(self._current):
                self._current = self._fetch()
            return self._current

    def _expired(self, current: Any) -> bool:
        return current.expires_after is not None and bool(self._now() + self._margin >= current.expires_after)

    def _fetch(self) -> Any:
        expected = _KINDS[type(self._credentials)]
        try:
            found = pickle.loads(self._credentials.pickled_function)()
        except Exception as error:
            raise StorageError(
                f"the function that fetches credentials failed: {type(error).__name__}: {error}",
                ErrorKind.INVALID_CREDENTIALS,
            ) from error
        if not isinstance(found, expected):
            raise StorageError(
                f"the function that fetches credentials must return {expected.__name__}, not {type(found).__name__}",
                ErrorKind.INVALID_CREDENTIALS,
            )
        return found
