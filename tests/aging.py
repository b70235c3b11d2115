"""Repositories that grow old in no time: a clock for the library and its storage, set by the test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from icechunk.core import ref_context
from icechunk.storage.base import Storage
from icechunk.storage.memory import MemoryStorage

START = datetime(2024, 1, 1, tzinfo=UTC)
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
