"""Compressing, and decompressing what is small, with contexts that each thread keeps.

Setting up a context costs 20 to 35 µs and the pages of its tables, several times what it takes to compress the metadata
of a small commit, which is five files. Contexts must not be shared between threads. Large content gets a context of its
own: what that needs should not be held on to.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TypeAlias

import zstandard

Buffer: TypeAlias = bytes | bytearray | memoryview

SMALL = 1 << 20
"""Bytes up to which content is small."""

_MAX_LEVEL = 9
"""Higher levels take tens of megabytes whatever the content."""


class _Contexts(threading.local):
    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor()


_contexts = _Contexts()


def compress(content: Buffer, level: int) -> bytes:
    """One frame that states its content size."""
    if len(content) > SMALL or level > _MAX_LEVEL:
        return zstandard.ZstdCompressor(level=level, write_content_size=True).compress(content)
    known = _contexts.compressors.get(level)
    if known is None:
        known = _contexts.compressors[level] = zstandard.ZstdCompressor(level=level, write_content_size=True)
    return known.compress(content)


def compress_pieces(pieces: Iterable[Buffer], size: int, level: int) -> bytes:
    """One frame of `size` bytes that come in pieces. They need not be put together, nor be there at the same time."""
    if size <= SMALL:
        return compress(b"".join(pieces), level)
    stream = zstandard.ZstdCompressor(level=level, write_content_size=True).compressobj(size=size)
    parts = [stream.compress(piece) for piece in pieces]
    parts.append(stream.flush())
    return b"".join(parts)


def decompress_small(frame: Buffer, size: int | None = None) -> bytes | None:
    """The content of a single frame that holds at most `size` bytes, by default what it states; None for all others.

    None says nothing of the frame but that it has to be looked at with more care.
    """
    try:
        stated = zstandard.frame_content_size(frame)
        if stated < 0:
            stated = size or 0
        if not 0 < stated <= SMALL:
            return None
        return _contexts.decompressor.decompress(frame, max_output_size=stated, allow_extra_data=False)
    except zstandard.ZstdError:
        return None
