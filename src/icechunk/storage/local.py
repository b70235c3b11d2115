"""Objects as files under a directory, safe against other threads, other processes, crashes and power cuts.

*Writing.* Every object is written aside, under a name that ends in `#` and digits, and then published whole by one
atomic step of the file system: a rename, or a hard link where nothing may stand there yet. Readers need no cooperation
and never see half an object. What a killed writer leaves is one such file: no listing shows it, and after a day the
next bulk delete sweeps it away.

*Preconditions* are checked and acted upon under one lock that all threads and processes share (`.icechunk.lock` under
the root, made by the first conditional write). The version of an object is a digest of its content, computed only when
somebody compares it.

*Power cuts.* A conditional write first brings everything to disk that was written before it; see `_durability`.
Pickling a storage does the same: a worker that hands a session back hands back files that last.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from icechunk._driver import is_blocking
from icechunk.config import StorageConcurrencySettings, StorageRetriesSettings, StorageSettings
from icechunk.errors import ErrorKind, InvalidInputError, ObjectNotFoundError, PreconditionFailedError, StorageError
from icechunk.storage import _files
from icechunk.storage._common import as_bytes, check_condition, check_prefix, pieces_of, size_of
from icechunk.storage._durability import WORTH_BEGINNING, Unflushed, begin_to_flush, flush_directory
from icechunk.storage._locks import SharedLock
from icechunk.storage._names import LOCK_NAME, encode_path, long_name
from icechunk.storage._pool import BIG, WIDTH, Pace, in_thread
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

_DELETES_PER_LOCK = 64  # a bulk delete lets writers in between
_DELETES_FLUSHED = 16  # a delete of at most so many is a decision of somebody, more of them are a clean-up


def _separated(path: str) -> str:
    return encode_path(path).replace("/", os.sep)  # a long name is taken literally, there `/` is no separator


_file_name: Callable[[str], str] = encode_path if os.sep == "/" else _separated


class ContentVersion(Version):
    """A version that is the digest of the content, computed when it is first asked for."""

    __slots__ = ("_known",)
    _known: bytes | str  # the content, until its digest is asked for

    def __init__(self, content: bytes) -> None:
        object.__setattr__(self, "_known", content)

    @property
    def etag(self) -> str:
        known = self._known
        if isinstance(known, bytes):
            known = hashlib.sha256(known).hexdigest()[:32]
            object.__setattr__(self, "_known", known)
        return known

    def is_of(self, content: bytes) -> bool:
        """Whether `content` has this version; no digest is needed as long as the content is at hand."""
        known = self._known
        return known == content if isinstance(known, bytes) else known == ContentVersion(content).etag

    @property
    def generation(self) -> None:
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        return Version, (self.etag,)


class LocalStorage(Storage):
    """A storage in the directory `root` of a local or shared file system; the directory is made by the first write.

    Parameters
    ----------
    root : path
        Where the objects are. Relative paths are resolved now.
    fsync : bool
        Whether commits survive a power cut. Without it a commit saves about half a millisecond, and survives the end
        of any process all the same.
    """

    def __init__(self, root: str | os.PathLike[str], *, fsync: bool = True) -> None:
        self._root = os.path.realpath(os.fspath(root))
        self._fsync = fsync
        self._place = long_name(self._root)  # as the file system takes it
        self._site = _site(self._place)
        self._pace = self._site.pace
        self._prefix = os.path.join(self._place, "")

    @property
    def concurrency(self) -> int:  # type: ignore[override]
        return WIDTH if self._pace.is_slow else 1

    async def get(self, path: str, *, byte_range: ByteRange | None = None) -> tuple[Buffer, Version]:
        file = self._prefix + _file_name(path)
        began = time.perf_counter()
        try:
            if is_blocking():
                data = _files.read(file, byte_range)
            elif self._pace.is_slow:
                data = await in_thread(_files.read, file, byte_range)
            else:
                small = _files.read_below(BIG, file, byte_range)
                if small is None:
                    return await self._get_big(file, byte_range)
                data = small
        except OSError as error:
            raise _read_failure(path, error) from error
        if len(data) < BIG:
            self._pace.took(time.perf_counter() - began)
        return data, (ContentVersion(data) if byte_range is None else Version())

    async def _get_big(self, file: str, byte_range: ByteRange | None) -> tuple[Buffer, Version]:
        data = await in_thread(_files.read, file, byte_range)
        return data, (ContentVersion(data) if byte_range is None else Version())

    async def put(
        self,
        path: str,
        data: Buffer | Sequence[Buffer],
        *,
        only_if: Condition = ALWAYS,
        content_type: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> Version:
        name = _file_name(path)
        file = self._prefix + name
        above = name.rpartition(os.sep)[0]
        directory = self._prefix + above if above else self._place
        if not isinstance(only_if, Always):
            check_condition(only_if)
            content = as_bytes(data)
            if is_blocking():
                self._publish(path, file, directory, content, only_if)
            else:  # waits for the disk and maybe for another process
                await in_thread(self._publish, path, file, directory, content, only_if)
            return ContentVersion(content)
        if is_blocking() or (size_of(data) < BIG and not self._pace.is_slow):
            self._write(path, file, directory, pieces_of(data))
        else:
            await in_thread(self._write, path, file, directory, pieces_of(data))
        return ContentVersion(data) if isinstance(data, bytes) else Version()

    def _write(self, path: str, file: str, directory: str, pieces: Sequence[Buffer]) -> None:
        """Put unconditionally: mostly a new object under a name that nobody else has."""
        began = time.perf_counter()
        try:
            temporary = self._write_aside(directory, pieces)
            try:
                _files.replace(temporary, file)
            except BaseException:
                _files.discard(temporary)
                raise
            if self._fsync:
                self._site.unflushed.add(file, directory)
        except OSError as error:
            raise _write_failure(path, error) from error
        self._pace.took(time.perf_counter() - began)

    def _publish(self, path: str, file: str, directory: str, content: bytes, only_if: Condition) -> None:
        """Put under a precondition: first what is noted goes to disk, then the object moves, then the move does."""
        try:
            self._require(path, file, only_if)  # whoever is late finds out here, without any writing
            temporary = self._write_aside(directory, (content,))
            try:
                if self._fsync:
                    self._site.unflushed.flush(temporary)
                with self._site.lock.held():
                    if isinstance(only_if, Absent):
                        _files.link_new(temporary, file)
                    else:
                        self._require(path, file, only_if)
                        _files.replace(temporary, file)
            except BaseException:
                _files.discard(temporary)
                raise
            if self._fsync:
                flush_directory(directory)
        except FileExistsError as error:
            raise PreconditionFailedError(f"object `{path}` exists already") from error
        except OSError as error:
            raise _write_failure(path, error) from error

    def _require(self, path: str, file: str, only_if: Condition) -> None:
        if isinstance(only_if, Absent):
            if os.path.lexists(file):
                raise PreconditionFailedError(f"object `{path}` exists already")
        elif isinstance(only_if, Unchanged):
            try:
                found = _files.read(file, None)
            except (FileNotFoundError, NotADirectoryError):
                raise PreconditionFailedError(f"object `{path}` does not exist any more") from None
            since = only_if.since
            if not (since.is_of(found) if isinstance(since, ContentVersion) else ContentVersion(found) == since):
                raise PreconditionFailedError(f"object `{path}` is not what it was")

    def _write_aside(self, directory: str, pieces: Sequence[Buffer]) -> str:
        written = begin_to_flush if self._fsync and size_of(pieces) >= WORTH_BEGINNING else None
        while True:
            try:
                return _files.write_new(f"{directory}{os.sep}new#{next(_numbers)}", pieces, written)
            except FileNotFoundError:
                self._make_directory(directory)
            except FileExistsError:
                continue  # a number that another machine drew too

    def _make_directory(self, directory: str) -> None:
        """Make `directory` and all above it, and note them so that they last."""
        made: list[str] = []
        missing = directory
        while not os.path.isdir(missing) and missing != os.path.dirname(missing):  # a drive may be missing altogether
            made.append(missing)
            missing = os.path.dirname(missing)
        os.makedirs(directory, exist_ok=True)
        if self._fsync:
            for each in made:
                self._site.unflushed.add_directory(os.path.dirname(each))

    async def list(self, prefix: str = "") -> AsyncIterator[Sequence[ObjectInfo]]:
        check_prefix(prefix)
        start = _file_name(prefix[:-1]) if prefix else ""
        batches = _files.walk(self._place, start, prefix, self._site.stale)
        while True:
            try:
                batch = next(batches, None) if is_blocking() else await in_thread(next, batches, None)
            except OSError as error:
                raise StorageError(f"cannot list `{prefix}`: {error}", ErrorKind.IO) from error
            if batch is None:
                return
            yield batch

    async def delete(self, paths: Sequence[str]) -> DeleteResult:
        files = [self._prefix + _file_name(path) for path in paths]
        if is_blocking():
            return self._delete(paths, files)
        return await in_thread(self._delete, paths, files)

    def _delete(self, paths: Sequence[str], files: Sequence[str]) -> DeleteResult:
        result = DeleteResult()
        for start in range(0, len(files), _DELETES_PER_LOCK):
            # without the lock, a conditional write could bring back what was deleted after its check
            with self._locked_if_used():
                for path, file in zip(
                    paths[start : start + _DELETES_PER_LOCK], files[start : start + _DELETES_PER_LOCK], strict=True
                ):
                    try:
                        _files.remove(file)
                        result.deleted += 1
                    except OSError as error:
                        result.failed.append((path, str(error)))
        if self._fsync and len(files) <= _DELETES_FLUSHED:
            for directory in {os.path.dirname(file) for file in files}:
                flush_directory(directory)
        self._sweep()
        return result

    @contextlib.contextmanager
    def _locked_if_used(self) -> Iterator[None]:
        # no conditional write was ever made where there is no lock file; a delete is no reason to make one
        if not os.path.exists(self._prefix + LOCK_NAME):
            yield
            return
        with self._site.lock.held():
            yield

    def _sweep(self) -> None:
        """Remove what writers that died long ago left, as far as a listing came by it."""
        with contextlib.suppress(KeyError):  # the set ran empty
            while True:
                _files.discard(self._site.stale.pop())

    async def exists(self, path: str) -> bool:
        return os.path.isfile(self._prefix + _file_name(path))

    async def is_empty(self) -> bool:
        try:
            if is_blocking():
                return not _files.any_file(self._place)
            return not await in_thread(_files.any_file, self._place)
        except OSError as error:
            raise StorageError(f"cannot list `{self._root}`: {error}", ErrorKind.IO) from error

    async def modified_at(self, path: str) -> datetime | None:
        try:
            return datetime.fromtimestamp(os.stat(self._prefix + _file_name(path)).st_mtime, UTC)
        except OSError as error:
            raise _read_failure(path, error) from error

    def default_settings(self) -> StorageSettings:
        return StorageSettings(
            StorageConcurrencySettings(5, 4096), StorageRetriesSettings(1, 0, 0), unsafe_use_metadata=False
        )

    def describe(self) -> dict[str, Any]:
        return {"type": "local filesystem", "path": self._root}

    def __reduce__(self) -> tuple[Any, ...]:
        self._site.unflushed.flush()
        return _rebuild, (self._root, self._fsync)


def _rebuild(root: str, fsync: bool) -> LocalStorage:
    return LocalStorage(root, fsync=fsync)


def _read_failure(path: str, error: OSError) -> StorageError:
    if isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError)):
        return ObjectNotFoundError(f"object not found: `{path}`")
    return StorageError(f"cannot read `{path}`: {error}", ErrorKind.IO)


def _write_failure(path: str, error: OSError) -> StorageError:
    if isinstance(error, (NotADirectoryError, IsADirectoryError)):
        return StorageError(
            f"cannot write `{path}`: a file cannot be both an object and a directory of others", ErrorKind.IO
        )
    return StorageError(f"cannot write `{path}`: {error}", ErrorKind.IO)


class _Site:
    """What all storages of this process with the same root share."""

    def __init__(self, root: str) -> None:
        self.lock = SharedLock(os.path.join(root, LOCK_NAME))
        self.unflushed = Unflushed()
        self.pace = Pace()
        self.stale: set[str] = set()


_sites: weakref.WeakValueDictionary[str, _Site] = weakref.WeakValueDictionary()
_sites_lock = threading.Lock()


def _site(root: str) -> _Site:
    if "\0" in root:
        raise InvalidInputError(f"invalid directory: {root!r}", ErrorKind.INVALID_PATH)
    with _sites_lock:
        site = _sites.get(root)
        if site is None:
            site = _sites[root] = _Site(root)
        return site


def _draw_numbers() -> Iterator[int]:
    """Numbers that no other process draws, so that no two write aside to the same file."""
    return itertools.count(int.from_bytes(os.urandom(7), "big"))


_numbers = _draw_numbers()


def _after_fork() -> None:
    """In a forked child: other numbers, and no locks that only the parent can let go of."""
    global _numbers, _sites_lock
    _numbers = _draw_numbers()
    _sites_lock = threading.Lock()
    for site in list(_sites.values()):
        site.unflushed.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
