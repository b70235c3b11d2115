"""Zstd frames of which a part can be read, or replaced, without touching the rest.

A segmented frame is one ordinary frame, so any zstd decoder reads it from end to end:

    frame header · blocks of segment 0 · reset · blocks of segment 1 · reset · ... · empty last block · table of segments

Each segment is compressed on its own, so its blocks refer to nothing before them. One piece of state still passes from
block to block in a decoder: the last three match distances, which blocks may name by number and which are 1, 4, 8 where
a frame begins. The reset between two segments puts them back: three tiny blocks with one match each, at distances 8, 4
and 1, written over zeros. What they decode to is `GAP` zero bytes, for which the payload leaves room at each cut.
All this is plain zstd format (RFC 8878), independent of any implementation.

The table of segments is a skippable frame, which decoders pass over. Without it the file still reads, as a whole.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import field
from itertools import accumulate, pairwise
from typing import NamedTuple, TypeAlias

import numpy as np
import zstandard

from icechunk._dataclass import dataclass

Buffer: TypeAlias = bytes | bytearray | memoryview

SEGMENT_SIZE = 2 << 20
"""What a writer should aim at: smaller ones compress worse, larger ones take longer to decode alone."""

_MAGIC = 0xFD2FB528
_SKIPPABLE = 0x184D2A50
_TABLE_MAGIC = _SKIPPABLE + 0xC
_TABLE_END = b"ICEsegs1"
_BLOCK_MAX = 128 << 10
_MAX_WINDOW_LOG = 27
_LAST_BLOCK = b"\x01\x00\x00"


def _match_of_zeros(distance_code: int, bits: int) -> bytes:
    """A block of 16 zeros: 13 literals, then a match of 3. All codes are of the kind "one symbol, repeated"."""
    literals = bytes(((13 << 3) | 1, 0))
    sequence = bytes((1, 0b01_01_01_00, 13, distance_code, 0, bits))
    block = literals + sequence
    return ((len(block) << 3) | (2 << 1)).to_bytes(3, "little") + block


RESET = _match_of_zeros(3, 0b1011) + _match_of_zeros(2, 0b111) + _match_of_zeros(2, 0b100)
GAP = 48
"""Zero bytes that stand in the payload at each cut, between two segments."""


@dataclass(frozen=True)
class Segmentation:
    """Where a payload is cut: `cuts` are the ends of all segments but the last; each is followed by `GAP` zero bytes.

    `reuse` holds the compressed blocks of segments (by number) that need not be compressed again.
    """

    cuts: Sequence[int]
    reuse: Mapping[int, Buffer] = field(default_factory=dict)


class FrameExtent(NamedTuple):
    """A frame as its block headers tell it: where it ends, and how much it can hold at the most."""

    end: int
    bound: int
    skippable: bool
    header: int


def frame_extent(data: memoryview, pos: int) -> FrameExtent | None:
    """Walk over the frame at `pos`; None when it is cut off or is no frame at all."""
    size = len(data)
    if size - pos < 8:
        return None
    magic, length = struct.unpack_from("<II", data, pos)
    if magic & 0xFFFFFFF0 == _SKIPPABLE:
        end = pos + 8 + length
        return FrameExtent(end, 0, True, 8) if end <= size else None
    if magic != _MAGIC:
        return None
    flags = data[pos + 4]
    single = flags >> 5 & 1
    header = 5 + (not single) + (0, 1, 2, 4)[flags & 3] + (single, 2, 4, 8)[flags >> 6]
    at, bound, last = pos + header, 0, 0
    while not last:
        if at + 3 > size:
            return None
        last, kind, length = _block(data, at)
        if kind == 3:
            return None
        at += 3 + (1 if kind == 1 else length)
        bound += _BLOCK_MAX if kind == 2 else min(length, _BLOCK_MAX)
    end = at + (4 if flags & 4 else 0)
    return FrameExtent(end, bound, False, header) if end <= size else None


def _block(data: Buffer, at: int) -> tuple[int, int, int]:
    """The header of a block: whether it is the last, its kind (0 raw, 1 repeated byte, 2 compressed), its size."""
    word = data[at] | data[at + 1] << 8 | data[at + 2] << 16
    return word & 1, word >> 1 & 3, word >> 3


def compress_segments(payload: Buffer, segmentation: Segmentation, level: int) -> bytes:
    """`payload` as one frame in segments, with its table; a plain frame where a segment is too large for a window."""
    view = memoryview(payload)
    bounds = segment_bounds(len(view), segmentation.cuts)
    for before, after in pairwise(bounds):
        if any(view[before[1] : after[0]]):
            raise ValueError(f"the {GAP} bytes after the cut at {before[1]} must be zero")
    window_log = max(10, *(int(stop - start - 1).bit_length() for start, stop in bounds))
    compressor = zstandard.ZstdCompressor(level=level, write_content_size=True)
    if window_log > _MAX_WINDOW_LOG or any(stop < start for start, stop in bounds):
        return compressor.compress(view)
    blocks: list[Buffer] = []
    for number, (start, stop) in enumerate(bounds):
        known = segmentation.reuse.get(number)
        blocks.append(_blocks(compressor.compress(view[start:stop])) if known is None else known)
    parts: list[Buffer] = [_frame_header(window_log)]
    for number, part in enumerate(blocks):
        parts += (RESET, part) if number else (part,)
    parts += (_LAST_BLOCK, _table(window_log, [len(part) for part in blocks], [b - a for a, b in bounds]))
    return b"".join(parts)


def segment_bounds(size: int, cuts: Sequence[int]) -> list[tuple[int, int]]:
    """Start and stop of each segment in a payload of `size` bytes."""
    return list(zip([0, *(cut + GAP for cut in cuts)], [*cuts, size], strict=True))


def _frame_header(window_log: int) -> bytes:
    """No content size, no checksum, no dictionary; the window."""
    return struct.pack("<IBB", _MAGIC, 0, (window_log - 10) << 3)


def _blocks(frame: bytes) -> bytes:
    """The blocks of a frame that was compressed alone, none of them marked as the last."""
    data = bytearray(frame)
    extent = frame_extent(memoryview(data), 0)
    assert extent is not None
    at, last = extent.header, 0
    while not last:
        last, kind, length = _block(data, at)
        if last:
            data[at] &= 0xFE
        at += 3 + (1 if kind == 1 else length)
    return bytes(data[extent.header :])


def _table(window_log: int, packed: Sequence[int], plain: Sequence[int]) -> bytes:
    entries = struct.pack(
        f"<{2 * len(packed)}I", *(number for pair in zip(packed, plain, strict=True) for number in pair)
    )
    content = entries + struct.pack("<II", window_log, len(packed)) + _TABLE_END
    return struct.pack("<II", _TABLE_MAGIC, len(content)) + content


class SegmentedPayload:
    """The payload of a segmented frame, decompressed where it is needed.

    `buf` has the size of the whole payload; what `need` has not been asked for reads as zeros.
    """

    def __init__(self, frame: memoryview, window_log: int, packed: Sequence[int], plain: Sequence[int]) -> None:
        cuts = [at - GAP for at in accumulate(size + GAP for size in plain)]
        self.cuts: tuple[int, ...] = tuple(cuts[:-1])
        self.bounds = segment_bounds(cuts[-1], self.cuts)
        header = _frame_header(window_log)
        self._frame = frame
        self._header = header
        self._starts = list(accumulate((size + len(RESET) for size in packed), initial=len(header)))
        self._packed = packed
        self._missing = [True] * len(plain)
        self.buf: memoryview = np.zeros(cuts[-1], np.uint8).data

    def __len__(self) -> int:
        return len(self.buf)

    def __reduce__(self) -> str:
        raise TypeError("a SegmentedPayload is not pickled; pickle the file instead")

    def blocks(self, number: int) -> memoryview:
        """The compressed blocks of one segment."""
        start = self._starts[number]
        return self._frame[start : start + self._packed[number]]

    def need(self, start: int, stop: int) -> None:
        """Make `buf[start:stop]` valid. Raises `zstandard.ZstdError` where a segment is broken."""
        for number in range(self._at(start), self._at(max(start, stop - 1)) + 1):
            if self._missing[number]:
                self._load(number)

    def need_all(self) -> None:
        """Make all of `buf` valid."""
        self.need(0, len(self.buf))

    @property
    def loaded(self) -> int:
        """How many bytes of the payload have been decompressed."""
        return sum(
            stop - start for (start, stop), missing in zip(self.bounds, self._missing, strict=True) if not missing
        )

    def _at(self, pos: int) -> int:
        """The segment in which a position lies; a gap counts to the one before it."""
        return max(0, bisect_right(self.bounds, (pos, len(self.buf))) - 1)

    def _load(self, number: int) -> None:
        start, stop = self.bounds[number]
        frame = b"".join((self._header, self.blocks(number), _LAST_BLOCK))
        # straight into its place: a copy would take as long again
        with zstandard.ZstdDecompressor(max_window_size=1 << 31).stream_reader(frame) as reader:
            at, step = start, 1
            while step and at < stop:
                step = reader.readinto(self.buf[at:stop])
                at += step
            if at < stop or reader.readinto(bytearray(1)):
                raise zstandard.ZstdError(f"segment {number} does not hold {stop - start} bytes")
        self._missing[number] = False


def open_segments(frame: memoryview, limit: int) -> SegmentedPayload | None:
    """The payload of a segmented frame of at most `limit` bytes; None for a frame of any other kind.

    The table must agree with the frame to the byte, and promise no more than its blocks can hold.
    """
    found = _read_table(frame)
    if found is None:
        return None
    window_log, packed, plain, size = found
    extent = frame_extent(frame, 0)
    header = _frame_header(window_log)
    if extent is None or extent.end != size or bytes(frame[: len(header)]) != header:
        return None
    reset = len(RESET) * (len(packed) - 1)
    total = sum(plain) + GAP * (len(plain) - 1)
    if len(header) + sum(packed) + reset + len(_LAST_BLOCK) != size or total > min(extent.bound, limit):
        return None
    return SegmentedPayload(frame, window_log, packed, plain)


def _read_table(frame: memoryview) -> tuple[int, Sequence[int], Sequence[int], int] | None:
    """Window, compressed and plain sizes of the segments, and where the table begins."""
    size = len(frame)
    if size < 24 or bytes(frame[-8:]) != _TABLE_END:
        return None
    window_log, count = struct.unpack_from("<II", frame, size - 16)
    content = 8 * count + 16
    start = size - content - 8
    if not count or start < 0 or not 10 <= window_log <= _MAX_WINDOW_LOG:
        return None
    if struct.unpack_from("<II", frame, start) != (_TABLE_MAGIC, content):
        return None
    numbers = struct.unpack_from(f"<{2 * count}I", frame, start + 8)
    return window_log, numbers[::2], numbers[1::2], start
