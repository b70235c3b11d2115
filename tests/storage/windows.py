"""The local storage as Windows has it, without Windows: the modules are loaded anew for that system, over an `os` with its ways.

There `os.rename` takes no target that exists, a directory cannot be opened, and nothing that somebody has open can be moved,
replaced or removed. The locks of `msvcrt` stand on those of this system.
"""

from __future__ import annotations

import errno
import fcntl
import importlib
import os
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MODULES = tuple(f"icechunk.storage.{name}" for name in ("_names", "_files", "_locks", "_durability", "local"))


class WindowsOs:
    """`os`, but for what it does otherwise on Windows; `busy` counts how often it refused because a file was open."""

    def __init__(self) -> None:
        self._open: dict[int, str] = {}
        self._mutex = threading.RLock()
        self.busy = 0

    def __getattr__(self, name: str) -> Any:
        if name in ("link", "fork", "register_at_fork"):
            raise AttributeError(name)
        return getattr(os, name)

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        with self._mutex:
            descriptor = os.open(path, flags, mode)
            self._open[descriptor] = os.path.realpath(path)
        return descriptor

    def close(self, descriptor: int) -> None:
        with self._mutex:
            self._open.pop(descriptor, None)
            os.close(descriptor)

    def _check(self, *paths: str) -> None:
        for path in paths:
            if os.path.realpath(path) in self._open.values() or os.path.isdir(path):
                self.busy += 1
                raise PermissionError(errno.EACCES, "The process cannot access the file", path)

    def rename(self, source: str, target: str) -> None:
        with self._mutex:
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, "Cannot create a file when that file already exists", target)
            self._check(source)
            os.rename(source, target)

    def replace(self, source: str, target: str) -> None:
        with self._mutex:
            self._check(source, target)
            os.replace(source, target)

    def unlink(self, path: str) -> None:
        with self._mutex:
            self._check(path)
            os.unlink(path)


def _locking(descriptor: int, mode: int, count: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_UN if mode == 0 else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(errno.EACCES, "Permission denied") from None


@contextmanager
def windows() -> Iterator[tuple[types.ModuleType, WindowsOs]]:
    """`icechunk.storage.local` as it is on Windows, and the `os` it uses; outside of this nothing changes."""
    import icechunk.storage

    package = icechunk.storage
    for name in MODULES:
        importlib.import_module(name)
    kept = {name: sys.modules.pop(name) for name in MODULES}
    shown = {name: vars(package).get(name.rpartition(".")[2]) for name in MODULES}
    platform, system = sys.platform, WindowsOs()
    msvcrt: Any = types.ModuleType("msvcrt")
    msvcrt.locking, msvcrt.LK_NBLCK, msvcrt.LK_UNLCK = _locking, 2, 0
    try:
        sys.platform = "win32"
        sys.modules["msvcrt"] = msvcrt
        for name in MODULES:
            vars(importlib.import_module(name))["os"] = system
        local = sys.modules["icechunk.storage.local"]
    finally:
        sys.platform = platform
        del sys.modules["msvcrt"]
        for name in MODULES:
            sys.modules[name] = kept[name]
            setattr(package, name.rpartition(".")[2], shown[name] or kept[name])
    yield local, system
