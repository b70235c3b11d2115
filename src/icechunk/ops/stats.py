"""How much storage the chunks of a repository take.

Every native chunk counts once, however many snapshots and manifests refer to it; virtual and inline chunks count once per
manifest that holds them.
"""

from __future__ import annotations

from collections.abc import Mapping

from icechunk.format.chunk_table import INLINE, NATIVE, VIRTUAL, ChunkTable
from icechunk.info import ChunkStorageStats
from icechunk.ops.expire import ExpirationPlan
from icechunk.ops.id_set import IdSet
from icechunk.ops.progress import Progress, silent
from icechunk.ops.survey import Limits, Survey
from icechunk.refs.base import RefStore
from icechunk.storage.base import Storage


class _Tally:
    """Adds up tables. Native chunks that were seen before do not count."""

    def __init__(self) -> None:
        self.seen = IdSet()
        self.native = self.virtual = self.inlined = 0

    def add(self, table: ChunkTable) -> None:
        lengths = table.length[table.kind == NATIVE]
        self.native += int(lengths[self.seen.add(table.native_ids())].sum())
        self.virtual += int(table.length[table.kind == VIRTUAL].sum())
        self.inlined += int(table.length[table.kind == INLINE].sum())


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
    await survey.read_manifests(tally.add)
    sizes = {}
    for record in plan.released:
        listed, before = set(survey.manifests), tally.native
        await survey.read_snapshots([record.id])
        await survey.read_manifests(tally.add)
        fresh = survey.manifests.keys() - listed
        sizes[record.id] = tally.native - before + sum(survey.manifests[one].size for one in fresh)
    return sizes
