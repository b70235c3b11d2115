"""Whether all references of the large job are there and right; read by this package, whoever wrote them."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from tests.servers.backends import storage_at

import icechunk
from benchmarks.large_job.plan import SIDE, VIRTUAL_CHUNK, Plan, offsets


def check_references(place: dict[str, Any], plan: Plan) -> int:
    """Compare every reference with the plan; how many there are. Raises `AssertionError` where one is wrong or missing."""
    access = icechunk.containers_credentials({plan.archive: icechunk.s3_credentials(anonymous=True)})
    repo = icechunk.Repository.open(storage_at(place), authorize_virtual_chunk_access=access)
    return asyncio.run(_check(repo.readonly_session("main").store, plan))


async def _check(store: icechunk.IcechunkStore, plan: Plan) -> int:
    starts, count = offsets(), 0
    async for coords, kinds, locations, offset, length, _ in store.array_chunk_iterator("virtual"):
        rows = np.arange(count, count + len(coords))  # in C order, since the grid is full
        expected = np.stack([rows // SIDE**2, rows // SIDE % SIDE, rows % SIDE], axis=1)
        assert np.array_equal(coords, expected), "chunks are missing"
        assert (kinds == icechunk.ChunkType.VIRTUAL.value).all(), "not all chunks are virtual"
        assert np.array_equal(offset, starts[rows % SIDE**2]), "offsets are wrong"
        assert (length == VIRTUAL_CHUNK).all(), "lengths are wrong"
        assert locations == [plan.url(file) for file in (rows // SIDE**2).tolist()], "locations are wrong"
        count += len(coords)
    assert count == plan.references, f"{count} references are there, and should be {plan.references}"
    return count
