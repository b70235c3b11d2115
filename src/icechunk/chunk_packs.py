"""Small chunks in one object: a session that writes many of them stores them by the pack.

A request to an object store costs as much as the transfer of a megabyte. A chunk reference says which bytes of an object
the chunk is, so chunks may share one. The first small chunks of a session get an object each, as big ones always do; what
comes after them is gathered in memory, and stored as one object when a pack is full. Whoever fills a pack stores it, in
the call that filled it: there is no task in the background, and writers wait as soon as they are ahead of the storage.

What has been gathered and not stored is nobody's business but the session's: only its change set refers to it. Before
anything else does, and before the changes leave this process or become those of another session, `settle` stores the rest.
A pack stays in memory until it is certain that it was stored, also when the changes are discarded: somebody may be about to
refer to a chunk in it. If storing it fails, or whoever was at it is cancelled, it is due, and the next writer stores it
before he adds anything: nobody gets ahead of a storage that does not take what it is given. Since a pack never changes once
it is closed, it may be stored twice, also by a process that was forked off meanwhile.
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
from icechunk.written_chunks import PROBES

LARGEST = 512 << 10
"""Bytes of a chunk that is worth packing at most: four of them fill a pack."""
ALONE = 32
"""How many small chunks of a session get an object each: small changes can be collected chunk by chunk."""

HEAD = b"icechunk pack 1\n"
"""How a pack begins. So no chunk in one lies at offset 0, and whoever reads a chunk knows whether it has neighbours."""
_CAPACITY = len(HEAD) + (2 << 20)
"""Bytes of a pack at most: what is sent in the time that a distant store takes to answer at all."""

_lock = threading.Lock()
"""Held for moments, to add to any pack or look into it; and across a fork, so that parent and child have the same."""


class Pack:
    """Chunks that become one object."""

    __slots__ = ("data", "id")

    def __init__(self) -> None:
        self.id = random_object_id()
        self.data = bytearray(HEAD)

    def has_room(self, size: int) -> bool:
        return len(self.data) + size <= _CAPACITY

    def add(self, chunk: Buffer) -> Native:
        start = len(self.data)
        self.data += chunk
        return Native(self.id, len(self.data) - start, start)


class ChunkPacks:
    """Writes the chunks of one session, and has those that are not stored yet.

    `store` stores an object under an id, `width` of them at once. The ids of the first objects are added to `first`.
    Without `packing` every chunk is an object.
    """

    def __init__(
        self, store: Callable[[bytes, Buffer], Awaitable[None]], width: int, first: list[bytes], *, packing: bool
    ) -> None:
        self._put = store
        self._width = width
        self._first = first
        self._packing = packing
        self._alone = 0
        self._open: Pack | None = None
        self._unstored: dict[bytes, Pack] = {}
        self._due: list[bytes] = []
        """The ids of packs that are closed, and that nobody is storing; `settle` may have stored them."""

    def __bool__(self) -> bool:
        """Whether there are chunks that are not stored yet."""
        return bool(self._unstored)

    async def write(self, chunk: Buffer) -> Native:
        """Write one chunk, alone or into a pack; returns where it is.

        It counts when this returns, not when it raises: what raises may be about chunks that others wrote before.
        """
        if self._packing and len(chunk) <= LARGEST:
            if self._alone >= ALONE:
                await self._store_due()
                ref = self._add(chunk)
                await self._store_due()
                return ref
            self._alone += 1
        ref = Native(random_object_id(), len(chunk))
        await self._store_object(ref.id, chunk)
        return ref

    def _add(self, chunk: Buffer) -> Native:
        with _lock:
            if self._open is not None and not self._open.has_room(len(chunk)):
                self.close()
            pack = self._open
            if pack is None:
                pack = self._open = Pack()
                self._unstored[pack.id] = pack
                _filling.add(self)
            ref = pack.add(chunk)
            if not pack.has_room(len(chunk)):
                self.close()
        return ref

    def close(self) -> None:
        """Add nothing more to the pack that is open; under the lock."""
        if self._open is not None:
            self._due.append(self._open.id)
            self._open = None

    async def _store_due(self) -> None:
        while self._due:
            try:
                pack_id = self._due.pop()
            except IndexError:  # somebody else was faster
                return
            await self._store(pack_id)

    async def _store(self, pack_id: bytes) -> None:
        pack = self._unstored.get(pack_id)
        if pack is None:
            return
        try:
            await self._store_object(pack_id, memoryview(pack.data))
        except BaseException:
            self._due.append(pack_id)
            raise
        self._unstored.pop(pack_id, None)

    async def _store_object(self, object_id: bytes, data: Buffer) -> None:
        await self._put(object_id, data)
        if len(self._first) < PROBES:
            self._first.append(object_id)

    async def settle(self) -> None:
        """Store all that is not stored yet, what others are storing at this moment included; nobody is waited for."""
        if not self._unstored:
            return
        with _lock:
            self.close()
            pack_ids = list(self._unstored)
        await concurrent_map(self._store, pack_ids, self._width)

    def find(self, ref: Native, start: int, stop: int) -> bytes | None:
        """The bytes `start <= i < stop` of a chunk that is not stored yet, None for any other chunk."""
        with _lock:
            pack = self._unstored.get(ref.id)
            return None if pack is None else bytes(memoryview(pack.data)[ref.offset + start : ref.offset + stop])


_filling: WeakSet[ChunkPacks] = WeakSet()
"""Those that may have an open pack."""


def _before_fork() -> None:
    _lock.acquire()
    for packs in list(_filling):
        packs.close()  # parent and child would put different chunks at the same place
    _filling.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_lock.release, after_in_child=_lock.release)
