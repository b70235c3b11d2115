"""Large zstd frames of any writer, decompressed from their beginning as far as somebody looks.

A frame cannot be entered in the middle, but it can be left there. Manifests have what leads to the references in front;
of the references themselves a lookup needs one, which is half-way on average. What lies behind it is not decompressed,
and its memory is not touched.
"""

from __future__ import annotations

import os
import threading
from typing import TypeAlias

import numpy as np
import zstandard

from icechunk.format.segments import frame_extent

Buffer: TypeAlias = bytes | bytearray | memoryview

AHEAD = 1 << 17
"""What is decompressed beyond what was asked for: any table of a flatbuffer that begins there, and its layout."""

_FROM = 4 << 20
"""Smaller content is not worth it."""


class GradualPayload:
    """The content of one frame.

    `buf` has room for all of it; what `need` has not been asked for reads as zeros. Safe to use from several threads, one
    of which decompresses while the others wait, and after a fork.
    """

    def __init__(self, frame: memoryview, size: int) -> None:
        self.buf: memoryview = np.zeros(size, np.uint8).data
        self.filled = 0
        self.is_complete = False
        self._frame: memoryview | None = frame
        self._state: tuple[zstandard.ZstdDecompressionReader, int] | None = None
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._state = None

    def has(self, stop: int) -> bool:
        """Whether all up to `stop` is valid, and `AHEAD` bytes more, as far as the content goes."""
        return stop + AHEAD <= self.filled or self.is_complete

    def need(self, start: int, stop: int) -> None:
        """Make `buf[start:stop]` valid, and `AHEAD` bytes more, as far as the content goes.

        Raises `zstandard.ZstdError` for a broken frame.
        """
        if self.has(stop):
            return
        if self._process != os.getpid():
            self._begin()  # whoever decompressed in the parent process is not here
        with self._lock:
            if not self.has(stop):
                self._advance(min(stop + 4 * AHEAD, len(self.buf)))

    def _advance(self, target: int) -> None:
        assert self._frame is not None
        if self._state is None:
            # a window is bounded by the content's size, which the caller has bounded
            self._state = zstandard.ZstdDecompressor(max_window_size=1 << 31).stream_reader(self._frame), 0
        reader, at = self._state
        self._state = None  # after an error from the beginning
        step = 1
        while at < target and step:
            step = reader.readinto(self.buf[at:target])
            at += step
        self.filled = max(self.filled, at)
        self._state = reader, at
        if at == len(self.buf) or not step:
            self.is_complete = True
            self._state = self._frame = None


def open_gradual(body: memoryview, limit: int) -> GradualPayload | None:
    """The content of a body that is one large frame of at most `limit` bytes; None for any other, well-formed or not."""
    if len(body) < 16 or bytes(body[:4]) != zstandard.FRAME_HEADER:
        return None
    extent = frame_extent(body, 0)
    if extent is None or extent.end != len(body):
        return None
    try:
        stated = zstandard.frame_content_size(body)
    except zstandard.ZstdError:
        return None
    size = stated if stated >= 0 else extent.bound
    if not _FROM <= size <= min(extent.bound, limit):
        return None
    return GradualPayload(body, size)
