"""Repositories that grow old in no time: a clock for the library and its storage, set by the test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import icechunk
from icechunk.core import ref_context
from icechunk.storage.base import Storage
from icechunk.storage.memory import MemoryStorage
from tests.session.helpers import array_json, big, buffer

START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
CUTOFF = START + 5 * DAY
"""After everything in `old_repository`, and before what is written to it later."""

HISTORY = ["second", "first", "base", "Repository initialized"]
ORIGINAL = {"a/c/3/3": big(0), "a/c/3/2": big(1), "a/c/3/1": big(2)}
"""What is on `main` of `old_repository`."""

_TICK = timedelta(microseconds=10)


class Clock:
    """What the library and every storage made here take for the time; it moves on a little with every look."""

    def __init__(self, monkeypatch) -> None:
        self._at = START
        monkeypatch.setattr("icechunk.core.now", lambda: round(self.look().timestamp() * 1_000_000))

    def look(self) -> datetime:
        self._at += _TICK
        return self._at

    def set(self, at: datetime) -> None:
        self._at = at

    def forward(self, by: timedelta) -> None:
        self._at += by

    def storage(self) -> MemoryStorage:
        return MemoryStorage(clock=lambda: self.look().timestamp())


def rebound(repo, storage: Storage) -> None:
    """Let an open repository, and all its sessions, talk to `storage` from now on."""
    core = repo._core
    core.__dict__["storage"] = storage
    core.assets.storage = storage
    core.refs.rebind(ref_context(storage, core.assets, core.effective))


async def old_repository(spec, clock):
    """main: root, base, first, second; and what a deleted branch left: "lost" on "base". A day between all of them."""
    storage = clock.storage()
    repo = await icechunk.Repository.create_async(storage, spec_version=spec)

    async def commit(message, chunk, branch="main"):
        clock.forward(DAY / 2)
        session = await repo.writable_session_async(branch)
        if message == "base":
            await session.store.set("a/zarr.json", buffer(array_json()))
        await session.store.set(*chunk)
        return await session.commit_async(message)

    base = await commit("base", ("a/c/3/3", buffer(big(0))))
    await repo.create_branch_async("dev", base)
    await repo.create_branch_async("side", base)
    await commit("first", ("a/c/3/2", buffer(big(1))))
    lost = await commit("lost", ("a/c/2/2", buffer(big(3))), "dev")
    await repo.delete_branch_async("dev")
    await commit("second", ("a/c/3/1", buffer(big(2))))
    return storage, {"base": base, "lost": lost}


async def between(repo, older, younger):
    """A moment after the snapshot `older`, a message, and before `younger`."""
    times = {info.message: info.written_at async for info in repo.async_ancestry(branch="main")}
    return times[older] + (times[younger] - times[older]) / 2
