"""Objects in object stores: S3 and what speaks it, Google Cloud Storage, Azure Blob Storage, web servers, any obstore store.

Requests go through obstore, which repeats what fails for a passing reason, a bounded number of times with growing and
random pauses. What this module adds:

- inside an event loop its asynchronous calls are used, without one its blocking calls;
- big objects are read in several ranges and written in several parts at once;
- a conditional write that was done, but whose answer was lost and which was therefore repeated, seems to fail. So such
  writes carry an id, and after a failure that may be of that kind what stands there is read: if it has our id, we wrote it;
- versions are handed back in the form in which each service wants them;
- every failure of the client is one of ours, without secrets in its text.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from icechunk._driver import concurrent_map, is_blocking
from icechunk.config import StorageConcurrencySettings, StorageRetriesSettings, StorageSettings
from icechunk.config.effective import effective_storage
from icechunk.config.virtual import S3Options
from icechunk.credentials import AnyAzureCredential, AnyGcsCredential, AnyS3Credential
from icechunk.errors import ErrorKind, ObjectNotFoundError, PreconditionFailedError, StorageError
from icechunk.storage._common import BATCH, as_bytes, check_condition, check_path, check_prefix, size_of
from icechunk.storage._names import decode_part, encode_path
from icechunk.storage._object_client import Asking, BrokenOff, NotModified, PastTheEnd, beginning, drained, handed_over
from icechunk.storage._object_errors import (
    client_module,
    explain,
    is_broken_off,
    is_plain_conflict,
    translate,
)
from icechunk.storage._object_services import (
    AzurePlace,
    GcsPlace,
    GivenPlace,
    HttpPlace,
    Place,
    Purpose,
    S3Place,
)
from icechunk.storage.base import (
    ALWAYS,
    Absent,
    Always,
    Buffer,
    ByteRange,
    Condition,
    DeleteResult,
    ObjectInfo,
    Storage,
    Unchanged,
    Version,
)
from icechunk.storage.doctor import conditions_are_ignored
from icechunk.storage.wrappers import read_only_failure

__all__ = ["ObjectStorage", "azure", "from_obstore", "gcs", "http", "s3"]

WRITE_ID = "icechunkwriteid"
"""The metadata entry that says which write an object comes from; the Rust implementation knows it too."""

_CONCURRENCY = 64
_UPLOAD_FROM = 4 << 20  # smaller writes must not stall
_SMALLEST_PART = 5 << 20
_MOST_PARTS = 10_000
_DELETES_PER_REQUEST = 1000
_DELETES_AT_ONCE = 16


class Fetched(NamedTuple):
    """Bytes of an object, and what was known of it when they were read; no facts where there were no bytes."""

    data: Buffer
    etag: str | None = None
    generation: str | None = None
    modified: datetime | None = None

    @property
    def version(self) -> Version:
        return Version(self.etag or None, self.generation)


class ObjectStorage(Storage):
    """A storage in an object store. Made by `icechunk.s3_storage` and its kin, or `from_obstore`."""

    concurrency = _CONCURRENCY

    def __init__(self, place: Place, settings: StorageSettings | None = None, *, read_only: bool = False) -> None:
        self._place = place
        self._given = settings
        self._settings = effective_storage(settings)
        self._service = place.service
        self._prefix = f"{place.prefix}/" if place.prefix else ""
        self.read_only = read_only or not place.service.writes
        self._asking = Asking(place, self._settings)

    # ------------------------------------------------------------------------------------------------------- requests

    def _key(self, path: str) -> str:
        if self._service.encoded_names:
            return self._prefix + encode_path(path, windows=False)
        check_path(path)
        return self._prefix + path

    # ---------------------------------------------------------------------------------------------------------- reads

    async def get(self, path: str, *, byte_range: ByteRange | None = None) -> tuple[Buffer, Version]:
        key = self._key(path)
        if byte_range is not None and byte_range.stop is not None:
            return await self.read(key, path, byte_range.start, byte_range.stop), Version()
        found = await self.fetch(key, path, byte_range)
        return found.data, found.version

    async def read(self, key: str, path: str, start: int, stop: int) -> Buffer:
        """The bytes `start <= i < stop` of the object with this very key, fewer where it ends before.

        As `fetch`, but without facts: the client is waited for once, and not for the answer first and then for its bytes.
        """
        if 0 <= start < stop and not self._is_big(stop - start):
            try:
                return handed_over(await self._asking.request("get_range", "read", path, key, start=start, end=stop))
            except (PastTheEnd, BrokenOff):
                pass
            except StorageError as error:
                if error.kind != ErrorKind.UNIMPLEMENTED:
                    raise
        return (await self.fetch(key, path, ByteRange(start, stop))).data

    async def get_if_changed(self, path: str, since: Version) -> tuple[Buffer, Version] | None:
        key = self._key(path)
        options = {"if_none_match": since.etag} if since.etag is not None else {}

        async def attempt() -> Fetched:
            return await self._body(await self._asking.request("get", "read", path, key, options=options), key, path)

        try:
            found = await self._asking.patiently(attempt)
        except NotModified:
            return None
        return None if found.version == since else (found.data, found.version)

    async def fetch(self, key: str, path: str, byte_range: ByteRange | None) -> Fetched:
        """The bytes of the object with this very key; `path` is what errors call it."""
        return await self._asking.patiently(lambda: self._fetch_once(key, path, byte_range))

    async def _fetch_once(self, key: str, path: str, byte_range: ByteRange | None) -> Fetched:
        if byte_range is None:
            return await self._body(await self._asking.request("get", "read", path, key), key, path)
        start, stop = byte_range
        if start < 0 and not self._service.suffix_ranges:
            size = (await self._head(path, key))["size"]
            start, stop = max(size + start, 0), size
        if stop is not None and stop <= start:
            await self._head(path, key)
            return Fetched(b"")
        if stop is not None and self._is_big(stop - start):
            return await self._fetch_pieces(key, path, start, stop)
        asked: Any = {"suffix": -start} if start < 0 else {"offset": start} if stop is None else (start, stop)
        try:
            response = await self._asking.request("get", "read", path, key, options={"range": asked})
        except PastTheEnd:
            return Fetched(b"")
        except StorageError as error:
            if error.kind != ErrorKind.UNIMPLEMENTED:
                raise
            return await self._cut(key, path, ByteRange(start, stop))
        return await self._body(response, key, path)

    async def _cut(self, key: str, path: str, byte_range: ByteRange) -> Fetched:
        """A range of an object on a server that knows no ranges: all of it, then cut."""
        found = await self._body(await self._asking.request("get", "read", path, key), key, path)
        start, stop = byte_range
        return found._replace(data=memoryview(found.data)[start : len(found.data) if stop is None else stop])

    def _is_big(self, size: int) -> bool:
        settings = self._settings
        return settings.max_concurrent_requests_for_object > 1 and size >= 2 * settings.ideal_concurrent_request_size

    async def _body(self, response: Any, key: str, path: str) -> Fetched:
        """The bytes of a response; of a big one only the beginning, while other requests fetch the rest."""
        start, stop = response.range
        meta = response.meta
        found = Fetched(b"", meta["e_tag"], meta["version"], meta["last_modified"])
        if not self._is_big(stop - start):
            return found._replace(data=await drained(response))
        return await self._fetch_pieces(key, path, start, stop, found, response)

    async def _fetch_pieces(
        self, key: str, path: str, start: int, stop: int, found: Fetched | None = None, response: Any = None
    ) -> Fetched:
        """A big range in pieces, at once. `response` is one that has begun and gives the first piece."""
        step = self._settings.ideal_concurrent_request_size
        result = bytearray(stop - start)
        first = found

        async def fetch_piece(begin: int) -> int:
            nonlocal first
            end = min(begin + step, stop)
            if begin == start and response is not None:
                data: Any = await beginning(response, end - begin)
            else:
                try:
                    piece = await self._asking.request("get", "read", path, key, options={"range": (begin, end)})
                except PastTheEnd:
                    return 0
                data = await drained(piece)
                meta = piece.meta
                facts = Fetched(b"", meta["e_tag"], meta["version"], meta["last_modified"])
                first = first or facts
                if facts != first:
                    raise BrokenOff(f"`{path}` was replaced while it was read")
            result[begin - start : begin - start + len(data)] = data
            return len(data)

        begins = range(start, stop, step)
        sizes = await concurrent_map(fetch_piece, begins, self._settings.max_concurrent_requests_for_object)
        total = sum(sizes)
        return (first or Fetched(b""))._replace(data=result if total == len(result) else memoryview(result)[:total])

    async def exists(self, path: str) -> bool:
        try:
            await self._head(path, self._key(path))
        except ObjectNotFoundError:
            return False
        return True

    async def _head(self, path: str, key: str) -> Any:
        return await self._asking.patiently(lambda: self._asking.request("head", "read", path, key))

    async def modified_at(self, path: str) -> datetime | None:
        facts = await self._head(path, self._key(path))
        modified: datetime = facts["last_modified"]
        return modified

    # --------------------------------------------------------------------------------------------------------- writes

    async def put(
        self,
        path: str,
        data: Buffer | Sequence[Buffer],
        *,
        only_if: Condition = ALWAYS,
        content_type: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> Version:
        if self.read_only:
            raise read_only_failure(f"cannot write `{path}`")
        key = self._key(path)
        check_condition(only_if)
        content = as_bytes(data) if self._service.keeps_buffers else _contiguous(data)
        mode = self._mode(only_if)
        attributes = self._attributes(path, content_type, metadata)
        write_id = str(uuid.uuid4()) if mode != "overwrite" and self._marks_writes else None
        if write_id is not None:
            attributes[WRITE_ID] = write_id
        size = size_of(content)
        purpose: Purpose = "write" if size < _UPLOAD_FROM else "upload"
        options = {"mode": mode, "attributes": attributes or None, **self._parts(size, mode)}
        tries, repeated = self._asking.attempts, False
        while True:
            tries -= 1
            try:
                result = await self._asking.request("put", purpose, path, key, content, **options)
            except PreconditionFailedError as error:
                if is_plain_conflict(error) and not repeated:
                    raise
                stands = await self._standing(key, path, only_if, write_id)
                if isinstance(stands, Version):
                    return stands
                if not stands or tries <= 0:
                    raise
            except BrokenOff as broken:
                if tries <= 0:
                    raise broken.failure from None
                repeated = True
            except ObjectNotFoundError as error:
                if mode == "overwrite":
                    raise StorageError(f"object store error: cannot write `{path}`", ErrorKind.OBJECT_STORE) from error
                raise PreconditionFailedError(f"object `{path}` does not exist any more") from error
            else:
                return Version(result["e_tag"] or None, result["version"])
            await self._asking.short_pause()

    @property
    def _marks_writes(self) -> bool:
        return self._service.attributes and self._settings.unsafe_use_metadata

    def _mode(self, only_if: Condition) -> Any:
        """The condition, as the client wants it; none where the settings say that the store knows none."""
        settings = self._settings
        if isinstance(only_if, Always):
            return "overwrite"
        if isinstance(only_if, Absent):
            return "create" if settings.unsafe_use_conditional_create else "overwrite"
        if not settings.unsafe_use_conditional_update:
            return "overwrite"
        if not self._service.updates:
            raise StorageError(
                f"{self._service.name} knows no conditional updates; use icechunk.local_filesystem_storage for files",
                ErrorKind.UNIMPLEMENTED,
            )
        etag, generation = only_if.since.etag, only_if.since.generation
        if etag is not None and self._service.bare_etags:
            etag = etag.strip('"')
        return {name: value for name, value in (("e_tag", etag), ("version", generation)) if value is not None}

    def _attributes(self, path: str, content_type: str | None, metadata: Mapping[str, str] | None) -> dict[str, str]:
        settings = self._settings
        if not self._service.attributes:
            return {}
        attributes = dict(metadata or {}) if settings.unsafe_use_metadata else {}
        if content_type is not None:
            attributes["Content-Type"] = content_type
        is_chunk = path.startswith("chunks/")
        storage_class = settings.chunks_storage_class if is_chunk else settings.metadata_storage_class
        if storage_class is not None:
            attributes["Storage-Class"] = storage_class
        return attributes

    def _parts(self, size: int, mode: Any) -> dict[str, Any]:
        """How to upload: in one request, or in parts, of which no service takes too many."""
        settings = self._settings
        if size < settings.minimum_size_for_multipart_upload or mode != "overwrite":
            return {"use_multipart": False}
        part = max(settings.ideal_concurrent_request_size, _SMALLEST_PART, -(-size // _MOST_PARTS))
        return {
            "use_multipart": True,
            "chunk_size": part,
            "max_concurrency": settings.max_concurrent_requests_for_object,
        }

    async def _standing(self, key: str, path: str, only_if: Condition, write_id: str | None) -> Version | bool:
        """What a conditional write met: the version it made, in a try whose answer was lost; else whether it may try again.

        It may where its condition holds: two writes that met were both refused, as Amazon does.
        """

        async def attempt() -> Any:
            try:
                response = await self._asking.request("get", "read", path, key, options={"range": (0, 1)})
            except PastTheEnd:
                response = await self._asking.request("get", "read", path, key)
            await drained(response)
            return response

        try:
            response = await self._asking.patiently(attempt)
        except ObjectNotFoundError:
            return isinstance(only_if, Absent)
        version = Version(response.meta["e_tag"] or None, response.meta["version"])
        # never by the bytes: another writer may have written the very same
        if write_id is not None and write_id in _write_ids(response.attributes):
            return version
        return isinstance(only_if, Unchanged) and only_if.since == version

    async def delete(self, paths: Sequence[str]) -> DeleteResult:
        if self.read_only:
            raise read_only_failure("cannot delete objects")
        keys = [(path, self._key(path)) for path in paths]
        groups = [keys[start : start + _DELETES_PER_REQUEST] for start in range(0, len(keys), _DELETES_PER_REQUEST)]
        result = DeleteResult()
        for part in await concurrent_map(self._delete_group, groups, _DELETES_AT_ONCE):
            result.deleted += part.deleted
            result.failed += part.failed
        return result

    async def _delete_group(self, keys: list[tuple[str, str]]) -> DeleteResult:
        try:
            await self._asking.request("delete", "write", keys[0][0], [key for _, key in keys])
            return DeleteResult(len(keys))
        except (StorageError, BrokenOff):
            pass  # one of them was not there, or could not go, or the store deletes them one at a time only
        first = await self._delete_one(keys[0])
        if first is not None:
            return DeleteResult(0, [(path, first[1]) for path, _ in keys])  # nothing works: do not try all others too
        others = await concurrent_map(self._delete_one, keys[1:], _DELETES_AT_ONCE)
        failures = [failure for failure in others if failure is not None]
        return DeleteResult(len(keys) - len(failures), failures)

    async def _delete_one(self, path_and_key: tuple[str, str]) -> tuple[str, str] | None:
        path, key = path_and_key
        try:
            await self._asking.patiently(lambda: self._asking.request("delete", "delete", path, key))
        except ObjectNotFoundError:
            return None
        except StorageError as error:
            return path, error.message
        return None

    # ---------------------------------------------------------------------------------------------------------- lists

    async def list(self, prefix: str = "") -> AsyncIterator[Sequence[ObjectInfo]]:
        check_prefix(prefix)
        async for batch in self._batches(prefix, BATCH):
            yield batch

    async def _batches(self, prefix: str, size: int) -> AsyncIterator[Sequence[ObjectInfo]]:
        if not self._service.writes:
            raise StorageError(f"{self._service.name} servers do not list what they have", ErrorKind.UNIMPLEMENTED)
        start = f"{self._key(prefix[:-1])}/" if prefix else self._prefix
        tries, last, stream = self._asking.attempts, None, None
        while True:
            if stream is None:  # the client's prefix is a directory
                stream = client_module().list(
                    self._asking.client("read"), start[:-1] or None, offset=last, chunk_size=size
                )
            batch, failure = await self._next_batch(stream, prefix)
            if failure is not None:
                tries -= 1
                if tries <= 0 or not isinstance(failure, BrokenOff) or not (last is None or self._service.lists_from):
                    raise failure.failure if isinstance(failure, BrokenOff) else failure
                stream = None
                await self._asking.short_pause()
                continue
            if batch is None:
                return
            last = batch[-1]["path"]
            yield [info for info in map(self._info, batch) if info is not None and info.path.startswith(prefix)]

    async def _next_batch(self, stream: Any, prefix: str) -> tuple[Any, Exception | None]:
        try:
            return (next(stream, None) if is_blocking() else await anext(stream, None)), None
        except Exception as error:
            return None, BrokenOff(explain(error)) if is_broken_off(error) else translate(error, prefix)

    def _info(self, meta: Any) -> ObjectInfo | None:
        key: str = meta["path"]
        if not key.startswith(self._prefix):
            return None
        path: str | None = key[len(self._prefix) :]
        if path and self._service.encoded_names:
            path = _decoded(path)
        etag = meta["e_tag"] if self._service.lists_etags else None
        return ObjectInfo(path, meta["size"], meta["last_modified"].timestamp(), etag) if path else None

    async def is_empty(self) -> bool:
        async for batch in self._batches("", 1):
            if batch:
                return False
        return True

    # --------------------------------------------------------------------------------------------------------- others

    @property
    def keeps_conditions(self) -> bool:  # type: ignore[override]
        return self._settings.unsafe_use_conditional_update and not self._place.is_of_unknown_make

    async def ignores_conditions(self, path: str) -> bool:
        settings = self._settings
        wanted = settings.unsafe_use_conditional_create and settings.unsafe_use_conditional_update
        return wanted and self._place.is_of_unknown_make and await conditions_are_ignored(self, path)

    def default_settings(self) -> StorageSettings:
        base = StorageSettings(concurrency=StorageConcurrencySettings(18, 12 << 20), retries=StorageRetriesSettings(10))
        return base if self._given is None else base.merge(self._given)

    def with_settings(self, settings: StorageSettings) -> Storage:
        if settings == self._given:
            return self
        twin = ObjectStorage(self._place, settings, read_only=self.read_only)
        twin._asking = self._asking.under(twin._settings)
        return twin

    def without_credentials(self) -> Storage:
        place = self._place.without_credentials()
        return self if place is self._place else ObjectStorage(place, self._given, read_only=self.read_only)

    def describe(self) -> dict[str, Any]:
        return self._place.describe()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._place, self._given, self.read_only)


def _rebuild(place: Place, settings: StorageSettings | None, read_only: bool) -> ObjectStorage:
    return ObjectStorage(place, settings, read_only=read_only)


def _write_ids(attributes: Mapping[str, str]) -> list[str]:
    """Which write an object comes from."""
    return [value for name, value in attributes.items() if name.lower() == WRITE_ID]


def _contiguous(data: Buffer | Sequence[Buffer]) -> Buffer:
    """`data` as one buffer of bytes, which is all that the client takes."""
    if isinstance(data, memoryview):
        return data.cast("B") if data.contiguous and (data.format != "B" or data.ndim != 1) else data
    return data if isinstance(data, (bytes, bytearray)) else as_bytes(data)


def _decoded(path: str) -> str | None:
    parts = [decode_part(part, windows=False) for part in path.split("/")]
    return None if None in parts else "/".join(part for part in parts if part is not None)


# ------------------------------------------------------------------------------------------------------------- storages


def s3(
    *,
    bucket: str,
    prefix: str,
    options: S3Options,
    credentials: AnyS3Credential,
    legacy_rooted_keys: bool = False,
    read_headers: Mapping[str, str] | None = None,
    write_headers: Mapping[str, str] | None = None,
    read_only: bool = False,
) -> ObjectStorage:
    """A storage in a bucket of S3; see `icechunk.s3_storage`."""
    if legacy_rooted_keys:
        raise StorageError(
            "storage error: the client of object stores cannot name keys that begin with '/'; copy such a repository "
            "to a prefix first",
            ErrorKind.STORAGE_CONFIG,
        )
    place = S3Place(bucket, prefix, options, credentials, dict(read_headers or {}), dict(write_headers or {}))
    return ObjectStorage(place, read_only=read_only)


def gcs(
    *,
    bucket: str,
    prefix: str,
    credentials: AnyGcsCredential,
    config: Mapping[str, str] | None = None,
    read_headers: Mapping[str, str] | None = None,
    write_headers: Mapping[str, str] | None = None,
) -> ObjectStorage:
    """A storage in a bucket of Google Cloud Storage; see `icechunk.gcs_storage`."""
    return ObjectStorage(
        GcsPlace(bucket, prefix, credentials, dict(config or {}), dict(read_headers or {}), dict(write_headers or {}))
    )


def azure(
    *,
    account: str,
    container: str,
    prefix: str,
    credentials: AnyAzureCredential,
    config: Mapping[str, str] | None = None,
) -> ObjectStorage:
    """A storage in a container of Azure Blob Storage; see `icechunk.azure_storage`."""
    return ObjectStorage(AzurePlace(account, container, prefix, credentials, dict(config or {})))


def http(
    *, base_url: str, config: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
) -> ObjectStorage:
    """What a web server offers below `base_url`, for reading; see `icechunk.http_storage`."""
    return ObjectStorage(HttpPlace(base_url, dict(config or {}), dict(headers or {})))


def from_obstore(store: Any, prefix: str = "", *, read_only: bool = False) -> ObjectStorage:
    """A storage below `prefix` of any obstore store; retries and time-outs are those the store was made with."""
    return ObjectStorage(GivenPlace(store, prefix.strip("/")), read_only=read_only)
