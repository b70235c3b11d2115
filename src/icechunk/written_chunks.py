"""Whether what a session wrote is still there when it commits.

Chunks are uploaded when they are set, or soon after, and until the commit nothing refers to them. A collection that is
told to delete what is older than this session takes them for garbage. Then the commit must fail, rather than publish
references to nothing.

Looking for every chunk would cost as much as writing it. But a collection deletes by age: as long as the chunks that a
session wrote first are there, so are those it wrote later. So the first few are remembered and looked for, and only when
a collection may have run since the session began, see `RefStore.publish`. When one of them is gone all are looked for: it
may have been replaced meanwhile, and then nothing is lost.
"""

from __future__ import annotations

import numpy as np

from icechunk._driver import concurrent_map
from icechunk.assets import CHUNKS, Assets
from icechunk.change_set import ChangeSet
from icechunk.errors import ErrorKind, SessionStateError
from icechunk.format.chunk_table import NATIVE
from icechunk.format.ids import format_id

PROBES = 4
"""How many chunks a session remembers as its first."""

_BATCH = 1000


async def check_written_chunks(assets: Assets, first: list[bytes], changes: ChangeSet) -> None:
    """Raise `SessionStateError` (chunk-not-found) when a chunk of `changes` was collected.

    `first` are the chunks that were written first, by the session and each of the forks merged into it.
    """
    if not await _missing(assets, first):
        return
    for edits in changes.chunks.values():
        table, _ = edits.fold()
        table = table.take(np.flatnonzero(table.kind == NATIVE))
        if table.chunk_ids is None:
            continue
        rows = np.sort(np.unique(table.chunk_ids, axis=0, return_index=True)[1])  # several may be in one object
        ids = table.chunk_ids[rows]
        for start in range(0, len(ids), _BATCH):
            gone = await _missing(assets, [row.tobytes() for row in ids[start : start + _BATCH]])
            if gone:
                coords = tuple(table.coords[rows[start + gone[0]]].tolist())
                raise SessionStateError(
                    "cannot commit: chunks that this session wrote were deleted by a garbage collection meanwhile, "
                    f"among them {coords} of {edits.path}; nothing was committed. Write them again in a new session, "
                    "and let collections delete only what is older than the oldest session that is open",
                    ErrorKind.CHUNK_NOT_FOUND,
                )


async def _missing(assets: Assets, chunk_ids: list[bytes]) -> list[int]:
    """The places of those chunks that do not exist."""
    storage = assets.storage
    there = await concurrent_map(
        lambda chunk_id: storage.exists(CHUNKS + format_id(chunk_id)), chunk_ids, max(storage.concurrency, 1)
    )
    return [place for place, exists in enumerate(there) if not exists]
