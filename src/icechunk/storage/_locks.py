"""One lock that threads and processes share: what makes compare-and-swap on plain files atomic.

A `threading.Lock` comes first, because some systems (NFS) give file locks to processes as a whole. Then an advisory
lock on a file: `flock` on POSIX, `msvcrt.locking` on Windows. The system drops it when its holder dies, however it
dies, so no stale lock can exist. The file stays for ever: removing it would let two holders in.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator

logger = logging.getLogger("icechunk.storage")

_FLAGS = os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOINHERIT", 0)
_UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        pause = 0.0005
        while True:
            os.lseek(descriptor, 0, os.SEEK_SET)
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
                return
            except OSError as error:  # taken: Windows has no queue to wait in
                if error.errno not in (errno.EACCES, errno.EDEADLOCK):
                    raise
            time.sleep(pause)
            pause = min(2 * pause, 0.02)

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


class SharedLock:
    """A mutex of all threads of all processes that name the same file."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._threads = threading.Lock()
        self._warned = False
        _all.add(self)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the lock and hold it. Makes the file where there is none; its directory must exist."""
        with self._threads:
            descriptor = self._acquire()
            try:
                yield
            finally:
                self._release(descriptor)

    def _acquire(self) -> int:
        while True:
            descriptor = self._open()
            _descriptors.add(descriptor)
            try:
                self._lock_or_warn(descriptor)
                if os.fstat(descriptor).st_nlink:
                    return descriptor
            except BaseException:
                self._close(descriptor)
                raise
            # somebody removed the whole directory while we waited: that file excludes nobody any more
            self._close(descriptor)

    def _open(self) -> int:
        try:
            return os.open(self._file, _FLAGS | os.O_RDWR, 0o666)
        except PermissionError:
            # a file of another user: reading is enough for flock, but not on NFS, hence not the first choice
            return os.open(self._file, _FLAGS & ~os.O_CREAT | os.O_RDONLY)

    def _lock_or_warn(self, descriptor: int) -> None:
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            if not self._warned:
                self._warned = True
                logger.warning(
                    "the file system under %s has no file locks (%s): commits from several processes at once are "
                    "not safe there; mount it with locks, or commit from one process only",
                    self._file,
                    error.strerror,
                )

    def _release(self, descriptor: int) -> None:
        try:
            _unlock(descriptor)
        except OSError:
            pass  # never locked, or lost with its file system: closing lets go of whatever is left
        finally:
            self._close(descriptor)

    @staticmethod
    def _close(descriptor: int) -> None:
        _descriptors.discard(descriptor)
        os.close(descriptor)

    def _renew(self) -> None:
        self._threads = threading.Lock()


_all: weakref.WeakSet[SharedLock] = weakref.WeakSet()
_descriptors: set[int] = set()


def _after_fork() -> None:
    """In a forked child: threads that held a lock are gone, and what they had open must not hold it on for them."""
    for lock in list(_all):
        lock._renew()
    for descriptor in list(_descriptors):
        os.close(descriptor)
    _descriptors.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
