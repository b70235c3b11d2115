"""Asking the client of an object store: blocking or not, patiently, and with its failures in our terms.

An `Asking` is what one storage needs to send requests. Clients are made when they are first needed and shared by storages that
differ in settings only.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from icechunk._driver import is_blocking, pause
from icechunk.config.effective import EffectiveStorage
from icechunk.errors import ErrorKind, StorageError
from icechunk.storage._object_errors import client_module, explain, is_broken_off, is_past_the_end, translate
from icechunk.storage._object_services import Place, Purpose
from icechunk.storage.base import Buffer

T = TypeVar("T")

_LEAST_ATTEMPTS = 3  # where the client does not try again by itself
_COPIED_BELOW = 256 * 1024


class PastTheEnd(Exception):
    """A range that begins behind the last byte."""


class NotModified(Exception):
    """What was known before is all there is to know."""


class BrokenOff(Exception):
    """An answer ended too early; the request may have been done, or not."""

    @property
    def failure(self) -> StorageError:
        """What is raised where trying again does not help either."""
        return StorageError(f"object store error: {self}", ErrorKind.OBJECT_STORE)


class Asking:
    """Sends the requests of one storage."""

    def __init__(self, place: Place, settings: EffectiveStorage) -> None:
        self._settings = settings
        self._clients = _Clients(place)

    def under(self, settings: EffectiveStorage) -> Asking:
        """The same under other settings."""
        twin = Asking(self._clients.place, settings)
        twin._clients = self._clients
        return twin

    def client(self, purpose: Purpose) -> Any:
        """The client for requests of this kind."""
        return self._clients.get(self._settings, purpose)

    async def request(self, verb: str, purpose: Purpose, path: str, *args: Any, **options: Any) -> Any:
        """`obstore.verb(client, *args, **options)`, blocking or not; its failures are translated."""
        module = client_module()
        try:
            if is_blocking():
                return getattr(module, verb)(self.client(purpose), *args, **options)
            return await getattr(module, f"{verb}_async")(self.client(purpose), *args, **options)
        except StorageError:
            raise
        except Exception as error:
            failure = _translated(error, verb, path)
        raise failure  # not where the client's error, which tells secrets, would become its context

    async def patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """`attempt()`, again when an answer broke off in a way that the client does not mend."""
        tries = self.attempts
        while True:
            tries -= 1
            try:
                return await attempt()
            except BrokenOff as broken:
                if tries <= 0:
                    raise broken.failure from None
            await self.short_pause()

    @property
    def attempts(self) -> int:
        """How often something is tried."""
        return max(self._settings.retries.max_tries, _LEAST_ATTEMPTS)

    async def short_pause(self) -> None:
        """Wait for as long as others who try again at the same time do not."""
        await pause(random.uniform(0, self._settings.retries.initial_backoff_ms / 1000))


class _Clients:
    """The clients of a place, one per settings and purpose; shared by storages that differ in settings only."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._lock = threading.Lock()
        self._made: dict[tuple[EffectiveStorage, Purpose], Any] = {}

    def get(self, settings: EffectiveStorage, purpose: Purpose) -> Any:
        client = self._made.get((settings, purpose))
        if client is None:
            with self._lock:
                client = self._made.get((settings, purpose))
                if client is None:
                    client = self._made[settings, purpose] = self._make(settings, purpose)
        return client

    def _make(self, settings: EffectiveStorage, purpose: Purpose) -> Any:
        try:
            return self.place.client(settings, purpose)
        except StorageError:
            raise
        except Exception as error:
            failure = StorageError(f"storage configuration error: {explain(error)}", ErrorKind.STORAGE_CONFIG)
        raise failure


def _translated(error: Exception, verb: str, path: str) -> Exception:
    if verb in ("get", "get_range") and is_past_the_end(error):
        return PastTheEnd()
    if type(error).__name__ == "NotModifiedError":
        return NotModified()
    if is_broken_off(error):
        return BrokenOff(explain(error))
    return translate(error, path)


async def drained(response: Any) -> Buffer:
    """All bytes of a response."""
    try:
        data = response.bytes() if is_blocking() else await response.bytes_async()
    except Exception as error:
        failure = BrokenOff(explain(error))
    else:
        return handed_over(data)
    raise failure


def handed_over(data: Any) -> Buffer:
    """Bytes of the client: small ones as `bytes`, big ones as a view of its own memory."""
    return bytes(data) if len(data) < _COPIED_BELOW else memoryview(data)


async def beginning(response: Any, count: int) -> Buffer:
    """The first `count` bytes of a response; the rest is not awaited."""
    stream = response.stream(min_chunk_size=count)
    try:
        data = next(stream, b"") if is_blocking() else await anext(stream, b"")
    except Exception as error:
        failure = BrokenOff(explain(error))
    else:
        return memoryview(data)[:count]
    raise failure
