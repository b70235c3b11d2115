"""Files on disk before a ref names them: one barrier instead of a flush per file.

Unconditional writes, which are the chunks and metadata files of a commit, are only noted here. A conditional write,
which is what makes a commit visible, first brings everything noted to disk. After a power cut a ref therefore never
names a file that was lost or cut short, and a bulk write pays for one flush, not for thousands.

Linux can flush a whole file system in one call (`syncfs`), many times faster than file by file; that is the way as long
as it has nothing much of others to write, or we have very much. Elsewhere the files are flushed one by one, on threads.

Large files are set going as soon as they are written, where the system can be told so without waiting for it (Linux): the
disk works while the next chunks are made, and there is little left to wait for in the end.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any, cast

from icechunk.storage import _pool
from icechunk.storage._files import open_existing

_MANY = 256
"""So many files are flushed by flushing their file system, whatever else waits there."""
_LITTLE = 64 << 20
"""So many bytes of others may wait on the system to be flushed along with a few files of ours."""
WORTH_BEGINNING = 1 << 20
"""Files of so many bytes are set going as soon as they are written."""
_LIMIT = 10_000
"""So many files are noted by name; beyond that it is known only that there are many."""

_HAS_PARENTS = sys.platform != "win32"  # Windows cannot flush directories, and need not
_OPEN = (os.O_RDONLY if _HAS_PARENTS else os.O_RDWR) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0)
_UNSUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.EBADF}


class Unflushed:
    """The files and directories of one storage that may not be on disk yet."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()  # over the two sets, for moments
        self._turn = threading.Lock()  # over a flush: who comes second must not overtake what the first still flushes
        self._files: set[str] = set()
        self._directories: set[str] = set()
        self._overflowed = False

    def add(self, file: str, directory: str) -> None:
        """Note that `file`, in `directory`, was written."""
        with self._mutex:
            self._directories.add(directory)
            if self._overflowed:
                return
            self._files.add(file)
            if len(self._files) < _LIMIT:
                return
            if _syncfs is not None:
                self._files.clear()
                self._overflowed = True
                return
        self.flush()

    def add_directory(self, directory: str) -> None:
        """Note that something was made in `directory`."""
        with self._mutex:
            self._directories.add(directory)

    def flush(self, *also: str) -> None:
        """Bring all that was noted before this call to disk, and the files `also`."""
        with self._turn:
            with self._mutex:
                files, directories, overflowed = self._files, self._directories, self._overflowed
                self._files, self._directories, self._overflowed = set(), set(), False
            try:
                _flush([*files, *also], directories, everything=overflowed)
            except BaseException:
                with self._mutex:
                    self._files |= files
                    self._directories |= directories
                    self._overflowed |= overflowed
                raise

    def renew(self) -> None:
        """In a forked child: a lock that another thread held is held by nobody now."""
        self._mutex = threading.Lock()
        self._turn = threading.Lock()


def flush_directory(directory: str) -> None:
    """Bring the entries of `directory` to disk: what was renamed or linked there stays so after a power cut."""
    if _HAS_PARENTS:
        _flush_one(directory, tolerant=True)


def _flush(files: list[str], directories: Iterable[str], *, everything: bool) -> None:
    if _syncfs is not None and (everything or len(files) > _MANY or (len(files) > 1 and _waiting() < _LITTLE)):
        where = {*directories, *(os.path.dirname(file) for file in files)}
        if _flush_file_systems(where):
            return
    _pool.each(_flush_one, files)
    for directory in sorted(directories, reverse=True):
        flush_directory(directory)


def _flush_one(path: str, *, tolerant: bool = False) -> None:
    try:
        descriptor = open_existing(path, _OPEN)
        try:
            _fsync(descriptor)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        pass  # deleted since
    except OSError as error:
        if not tolerant or error.errno not in _UNSUPPORTED:
            raise


def _full_fsync() -> Callable[[int], None]:
    """What brings a file to the medium: on macOS `fsync` alone stops at the cache of the drive."""
    if sys.platform == "darwin":
        import fcntl

        def full(descriptor: int) -> None:
            try:
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            except OSError:
                os.fsync(descriptor)

        return full
    return os.fsync


def _load(name: str, *arguments: Any) -> Callable[..., int] | None:
    """A function of Linux that Python does not offer, which returns an int; None elsewhere."""
    if sys.platform != "linux":
        return None
    try:
        function = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None
    function.argtypes = arguments
    function.restype = ctypes.c_int
    return cast("Callable[..., int]", function)


_fsync = _full_fsync()
_syncfs = _load("syncfs", ctypes.c_int)
_sync_file_range = _load("sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_WRITE = 2
"""`SYNC_FILE_RANGE_WRITE`: begin, and do not wait."""


def begin_to_flush(descriptor: int) -> None:
    """Have the system begin to bring what was written to disk; whoever needs it there still has to flush."""
    if _sync_file_range is not None:
        _sync_file_range(descriptor, 0, 0, _WRITE)  # where it fails, for some file systems cannot, nothing is lost


def _flush_file_systems(directories: Iterable[str]) -> bool:
    """Flush every file system that holds one of `directories`; False when that cannot be done here."""
    assert _syncfs is not None
    done: set[int] = set()
    for directory in directories:
        try:
            descriptor = os.open(directory, _OPEN)
        except FileNotFoundError:
            continue
        except PermissionError:
            return False
        try:
            device = os.fstat(descriptor).st_dev
            if device not in done and _syncfs(descriptor) != 0:
                code = ctypes.get_errno()
                if code == errno.ENOSYS:
                    return False
                raise OSError(code, os.strerror(code), directory)
            done.add(device)
        finally:
            os.close(descriptor)
    return True


def _waiting() -> int:
    """How many bytes the system has yet to write, for all programs together; much where it does not say."""
    with contextlib.suppress(OSError, ValueError):
        descriptor = os.open("/proc/meminfo", _OPEN)
        try:
            facts = os.read(descriptor, 8192)
        finally:
            os.close(descriptor)
        start = facts.index(b"Dirty:") + len(b"Dirty:")
        return int(facts[start : facts.index(b"kB", start)]) << 10
    return sys.maxsize
