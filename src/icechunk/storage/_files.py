"""The few things that `LocalStorage` does with the file system, each one call; they block, and raise `OSError`."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from icechunk.storage._common import BATCH, resolve_range, size_of
from icechunk.storage._names import LOCK_NAME, WINDOWS, decode_part, is_temporary
from icechunk.storage.base import Buffer, ByteRange, ObjectInfo

T = TypeVar("T")

_COMMON = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOINHERIT", 0)
_READ = os.O_RDONLY | _COMMON
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _COMMON
_LARGEST_READ = 1 << 30
_JOINED_BELOW = 64 * 1024
_STALE_AFTER = 24 * 3600.0
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES, errno.EINVAL}
_WINDOWS_RETRIES = 10


def read(file: str, byte_range: ByteRange | None) -> bytes:
    """The bytes of `file` or a range of them."""
    data = read_below(sys.maxsize, file, byte_range)
    assert data is not None
    return data


def read_below(limit: int, file: str, byte_range: ByteRange | None) -> bytes | None:
    """The bytes of `file` or a range of them; None when they are `limit` bytes or more."""
    descriptor = open_existing(file, _READ)
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        if size > 1 << 60:  # what some file systems say of a directory
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), file)
        start, stop = resolve_range(byte_range, size)
        if stop - start >= limit:
            return None
        os.lseek(descriptor, start, os.SEEK_SET)
        if stop - start > _LARGEST_READ:
            return _read_pieces(descriptor, stop - start)
        data = os.read(descriptor, stop - start)
        if len(data) < stop - start:
            data += _read_pieces(descriptor, stop - start - len(data))
        return data
    finally:
        os.close(descriptor)


def _read_pieces(descriptor: int, count: int) -> bytes:
    pieces = []
    while count > 0:
        piece = os.read(descriptor, min(count, _LARGEST_READ))
        if not piece:
            break  # became shorter meanwhile
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def write_new(file: str, pieces: Sequence[Buffer], written: Callable[[int], None] | None = None) -> str:
    """Make `file`, which must not exist, with the bytes of `pieces`; its name again. Leaves nothing when it fails.

    `written` is called with the descriptor when everything was written to it.
    """
    descriptor = os.open(file, _NEW, 0o666)
    try:
        try:
            if len(pieces) > 1 and size_of(pieces) < _JOINED_BELOW:
                pieces = (b"".join(pieces),)
            for piece in pieces:
                _write_all(descriptor, piece)
            if written is not None:
                written(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        discard(file)
        raise
    return file


def _write_all(descriptor: int, piece: Buffer) -> None:
    written = os.write(descriptor, piece)
    if written == size_of(piece):
        return
    rest = memoryview(piece).cast("B")[written:]
    while rest:
        rest = rest[os.write(descriptor, rest) :]


if WINDOWS:
    # There a file that somebody has open, be it a reader or a virus scanner, cannot be moved, replaced or removed, and one
    # that is just going away cannot be opened. Both pass within moments.

    def _patiently(action: Callable[[], T], file: str) -> T:
        for attempt in range(_WINDOWS_RETRIES):
            try:
                return action()
            except PermissionError:
                if os.path.isdir(file):  # what POSIX says of it
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), file) from None
                if attempt == _WINDOWS_RETRIES - 1:
                    raise
                time.sleep(0.002 * 2**attempt)
        raise AssertionError

    def open_existing(file: str, flags: int) -> int:
        """A descriptor of `file`, which must exist."""
        return _patiently(lambda: os.open(file, flags), file)

    def replace(source: str, target: str) -> None:
        """Move `source` over `target` in one step."""
        _patiently(lambda: os.replace(source, target), target)

    def link_new(source: str, target: str) -> None:
        """Move `source` to `target`, in one step, if nothing is there; else `FileExistsError`."""
        _patiently(lambda: os.rename(source, target), target)

    def remove(file: str) -> None:
        """Remove `file`; it is fine when it is gone."""
        with contextlib.suppress(FileNotFoundError):
            _patiently(lambda: os.unlink(file), file)

else:

    def open_existing(file: str, flags: int) -> int:
        """A descriptor of `file`, which must exist."""
        return os.open(file, flags)

    def replace(source: str, target: str) -> None:
        """Move `source` over `target` in one step."""
        os.replace(source, target)

    def link_new(source: str, target: str) -> None:
        """Move `source` to `target`, in one step, if nothing is there; else `FileExistsError`."""
        try:
            os.link(source, target)
        except FileExistsError:
            # over a network the answer to our own success may be lost and the call repeated
            if os.stat(source).st_nlink != 2 or not os.path.samefile(source, target):
                raise
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # no hard links here; nobody else creates while we hold the lock
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from error
            os.rename(source, target)
            return
        discard(source)

    def remove(file: str) -> None:
        """Remove `file`; it is fine when it is gone."""
        try:  # not by contextlib: a collection does this a million times
            os.unlink(file)
        except (FileNotFoundError, NotADirectoryError):
            pass


def discard(file: str) -> None:
    """Remove `file` if that is possible."""
    with contextlib.suppress(OSError):
        os.unlink(file)


def walk(root: str, start: str, prefix: str, stale: set[str]) -> Iterator[Sequence[ObjectInfo]]:
    """All objects under the directory `start` of `root`, whose object path is `prefix`, in batches.

    What writers have not published is left out; where it is old it is added to `stale`.
    """
    batch: list[ObjectInfo] = []
    todo = [(os.path.join(root, start) if start else root, prefix, frozenset[tuple[int, int]]())]
    old = time.time() - _STALE_AFTER
    while todo:
        directory, prefix, above = todo.pop()
        for entry in _scan(directory):
            part = decode_part(entry.name)
            if part is None:
                _note_stale(entry, old, stale)
                continue
            try:
                if entry.is_dir():
                    seen = _entered(entry, above)
                    if seen is not None:
                        todo.append((entry.path, f"{prefix}{part}/", seen))
                    continue
                facts = entry.stat()
            except FileNotFoundError:
                continue  # deleted meanwhile, or a link to nowhere
            if part == LOCK_NAME and not prefix:
                continue
            batch.append(ObjectInfo(prefix + part, facts.st_size, facts.st_mtime))
            if len(batch) == BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def _scan(directory: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError):
        return


def _entered(entry: os.DirEntry[str], above: frozenset[tuple[int, int]]) -> frozenset[tuple[int, int]] | None:
    """The linked directories that lead to and include `entry`; None when it leads back into one of them."""
    if not entry.is_symlink():
        return above
    facts = os.stat(entry.path)  # on Windows the entry itself does not know which file it is
    identity = (facts.st_dev, facts.st_ino)
    return None if identity in above else above | {identity}


def _note_stale(entry: os.DirEntry[str], old: float, stale: set[str]) -> None:
    if is_temporary(entry.name):
        with contextlib.suppress(OSError):
            if entry.stat(follow_symlinks=False).st_mtime < old:
                stale.add(entry.path)


def any_file(root: str) -> bool:
    """Whether anything at all is under `root`, besides empty directories, the lock and what was never published."""
    todo = [root]
    while todo:
        directory = todo.pop()
        for entry in _scan(directory):
            if entry.is_dir(follow_symlinks=False):
                todo.append(entry.path)
            elif not is_temporary(entry.name) and not (entry.name == LOCK_NAME and directory == root):
                return True
    return False
