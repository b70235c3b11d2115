"""Packs that few small chunks fill, so that tests of a handful of chunks see packs that are full, open, and stored."""

from __future__ import annotations

import icechunk
from icechunk import chunk_packs

PACKED = icechunk.RepositoryConfig(pack_small_chunks=True)
"""Packs also where the storage is at hand."""


def small_packs(monkeypatch, *, alone: int = 1, chunks: int = 2, size: int = 1000) -> None:
    """So many chunks of a session are stored alone, and so many of `size` bytes fill a pack."""
    monkeypatch.setattr(chunk_packs, "ALONE", alone)
    monkeypatch.setattr(chunk_packs, "_CAPACITY", len(chunk_packs.HEAD) + chunks * size)


def is_pack(data: bytes) -> bool:
    """Whether an object below `chunks/` is a pack."""
    return bytes(data[: len(chunk_packs.HEAD)]) == chunk_packs.HEAD


def key(number: int) -> str:
    """The chunks of an array of 4 x 4 in turn."""
    return f"a/c/{number // 4}/{number % 4}"
