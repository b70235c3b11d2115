"""How much storage the chunks of a repository take.

Every native chunk counts once, however many snapshots and manifests refer to it, also where it shares an object with others,
and so does every range of a foreign file. Inline chunks are in the manifests themselves and count once for each that holds
them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from icechunk.format.chunk_table import INLINE, NATIVE, VIRTUAL, ChunkTable
from icechunk.info import ChunkStorageStats
from icechunk.ops.expire import ExpirationPlan
from icechunk.ops.id_set import Ids, IdSet
from icechunk.ops.progress import Progress, silent
from icechunk.ops.survey import Limits, Survey
from icechunk.refs.base import RefStore
from icechunk.storage.base import Storage

_SPREAD_OFFSET = np.uint64(0x9E3779B97F4A7C15)
_SPREAD_LENGTH = np.uint64(0xC2B2AE3D27D4EB4F)


class _Tally:
    """Adds up tables. Native and virtual chunks that were seen before do not count."""

    def __init__(self) -> None:
        self.kept = IdSet()
        """Objects of native chunks that stay anyway: nothing in them counts."""
        self.seen = IdSet()
        self.seen_elsewhere = IdSet()
        self.locations: dict[str, int] = {}
        self.native = self.virtual = self.inlined = 0

    def add(self, table: ChunkTable) -> None:
        lengths = table.length[table.kind == NATIVE]
        counts = self.seen.add(self._places(table)) & ~self.kept.contains(table.native_ids())
        self.native += int(lengths[counts].sum())
        lengths = table.length[table.kind == VIRTUAL]
        self.virtual += int(lengths[self.seen_elsewhere.add(self._ranges(table))].sum())
        self.inlined += int(table.length[table.kind == INLINE].sum())

    def _places(self, table: ChunkTable) -> Ids:
        """For each native chunk 12 bytes that tell which it is: the id of its object, mixed with where it begins."""
        ids = table.native_ids()
        offsets = table.offset[table.kind == NATIVE]
        if not offsets.any():
            return ids
        places = ids.copy()
        places[:, :8] ^= (offsets * _SPREAD_OFFSET).astype(">u8").view(np.uint8).reshape(-1, 8)
        return places

    def _ranges(self, table: ChunkTable) -> Ids:
        """For each virtual chunk 12 bytes that tell its range: the number of the file, and 8 of offset and length mixed."""
        virtual = table.kind == VIRTUAL
        keys = np.empty((int(virtual.sum()), 12), np.uint8)
        if len(keys) and table.location_text is not None:
            texts = table.location_text.take(virtual)
            numbers = [self.locations.setdefault(text, len(self.locations)) for text in texts.distinct]
            files = np.array(numbers, ">u4")[texts.codes]
            mixed = table.offset[virtual] * _SPREAD_OFFSET + table.length[virtual] * _SPREAD_LENGTH
            keys[:, :4] = files.view(np.uint8).reshape(-1, 4)
            keys[:, 4:] = mixed.astype(">u8").view(np.uint8).reshape(-1, 8)
        return keys


async def chunk_storage_stats(
    refs: RefStore, storage: Storage, *, limits: Limits | None = None, progress: Progress = silent
) -> ChunkStorageStats:
    """The storage taken by the chunks of all snapshots that some branch or tag reaches."""
    survey = Survey(storage, limits or Limits(), progress)
    history = await refs.history(visit=survey.add)
    await survey.read_snapshots(history.reachable())
    tally = _Tally()
    await survey.read_manifests(tally.add)
    return ChunkStorageStats(tally.native, tally.virtual, tally.inlined)


async def released_sizes(
    plan: ExpirationPlan,
    refs: RefStore,
    storage: Storage,
    *,
    limits: Limits | None = None,
    progress: Progress = silent,
) -> Mapping[bytes, int]:
    """By snapshot that an expiration releases, the bytes of manifests and chunks that nothing else would need then.

    What several released snapshots share counts for the oldest of them.
    """
    history = await refs.history()
    released = {record.id for record in plan.released}
    tally = _Tally()
    survey = Survey(storage, limits or Limits(), progress)
    await survey.read_snapshots(history.reachable() - released)
    await survey.read_manifests(lambda table: tally.kept.add(table.native_ids()))
    sizes = {}
    for record in plan.released:
        listed, before = set(survey.manifests), tally.native
        await survey.read_snapshots([record.id])
        await survey.read_manifests(tally.add)
        fresh = survey.manifests.keys() - listed
        sizes[record.id] = tally.native - before + sum(survey.manifests[one].size for one in fresh)
    return sizes
