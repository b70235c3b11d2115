"""Small chunks in one object: a session that writes many of them stores them by the pack.

A request to an object store costs as much as the transfer of a megabyte. A chunk reference says which bytes of an object
the chunk is, so chunks may share one. The first small chunks of a session get an object each, as big ones always do; what
comes after them is gathered in memory, and stored as one object when a pack is full. Whoever fills a pack stores it, in
the call that filled it: there is no task in the background, and writers wait as soon as they are ahead of the storage.

What has been gathered and not stored is nobody's business but the session's: nothing refers to it. Before anything does,
and before the changes leave this process or become those of another session, `settle` stores the rest. A pack stays in
memory until it is certain that it was stored, also when the changes are discarded: somebody may be about to refer to a
chunk in it. If storing fails, whoever settles tries again; since a pack never changes after it was sealed, it may be stored
twice, also by a process that was forked off meanwhile.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from weakref import WeakSet

from icechunk._driver import concurrent_map
from icechunk.format.chunk_ref import Native
from icechunk.format.ids import random_object_id
from icechunk.storage.base import Buffer

LARGEST = 512 << 10
"""Bytes of a chunk that is worth packing at most: four of them fill a pack."""
ALONE = 32
"""How many small chunks of a session get an object each: small changes can be collected chunk by chunk."""

HEAD = b"icechunk pack 1\n"
"""How a pack begins. So no chunk in one lies at offset 0, and whoever reads a chunk knows whether it has neighbours."""
_CAPACITY = len(HEAD) + (2 << 20)
"""Bytes of a pack at most: what is sent in the time that a distant store takes to answer at all."""

_lock = threading.Lock()
"""Held for moments, to add to any pack; and across a fork, so that parent and child have the same."""


class Pack:
    """Chunks that become one object."""

    __slots__ = ("_data", "id", "used")

    def __init__(self, pack_id: bytes) -> None:
        self.id = pack_id
        self._data = bytearray(_CAPACITY)
        self._data[: len(HEAD)] = HEAD
        self.used = len(HEAD)

    def has_room(self, size: int) -> bool:
        return self.used + size <= _CAPACITY

    def add(self, data: Buffer) -> Native:
        start, size = self.used, len(data)
        self._data[start : start + size] = data
        self.used += size
        return Native(self.id, size, start)

    def part(self, start: int, stop: int) -> Buffer:
        return memoryview(self._data)[start:stop]


class ChunkPacks:
    """The packs of one session that are not stored yet. `write` stores an object under an id, `width` of them at once."""

    def __init__(self, write: Callable[[bytes, Buffer], Awaitable[None]], width: int) -> None:
        self._write = write
        self._width = width
        self._open: Pack | None = None
        self._unstored: dict[bytes, Pack] = {}

    def __bool__(self) -> bool:
        return bool(self._unstored)

    def add(self, data: Buffer) -> tuple[Native, Pack | None]:
        """Put one chunk into a pack; returns where it is, and the pack that the caller has to `store`, being full now."""
        fresh = random_object_id()
        with _lock:
            pack, full = self._open, None
            if pack is None or not pack.has_room(len(data)):
                full, pack = pack, Pack(fresh)
                self._open = self._unstored[fresh] = pack
                _filling.add(self)
            ref = pack.add(data)
            if not pack.has_room(len(data)):
                full, self._open = pack, None
        return ref, full

    async def store(self, pack: Pack) -> None:
        """Store a sealed pack."""
        await self._write(pack.id, pack.part(0, pack.used))
        self._unstored.pop(pack.id, None)

    async def settle(self) -> None:
        """Store all that is not stored yet, what others are about to store included; nobody is waited for."""
        if not self._unstored:
            return
        with _lock:
            self._open = None
            packs = list(self._unstored.values())
        await concurrent_map(self.store, packs, self._width)

    def find(self, ref: Native, start: int, stop: int) -> Buffer | None:
        """The bytes `start <= i < stop` of a chunk that is not stored yet, None for any other chunk."""
        pack = self._unstored.get(ref.id)
        return None if pack is None else bytes(pack.part(ref.offset + start, ref.offset + stop))

    def seal(self) -> None:
        """Add nothing more to the pack that is open; under the lock."""
        self._open = None


_filling: WeakSet[ChunkPacks] = WeakSet()
"""Those that may have an open pack."""


def _before_fork() -> None:
    _lock.acquire()
    for packs in list(_filling):
        packs.seal()  # parent and child would put different chunks at the same place
    _filling.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_lock.release, after_in_child=_lock.release)
