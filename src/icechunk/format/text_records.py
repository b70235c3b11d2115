"""Many strings as flatbuffers records, laid out by numpy: a count of four bytes, the bytes, zeros up to a multiple of 4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_MAX_LENGTHS = 64


class Records:
    """One record per item, one after the other in `blob`; item `i` lies at `starts[i]`, `sizes[i]` bytes long."""

    __slots__ = ("blob", "sizes", "starts")

    def __init__(self, data: bytes, lengths: npt.NDArray[np.int64], terminated: bool) -> None:
        """Records of the items whose bytes follow each other in `data`; strings end with a zero byte."""
        self.sizes = (lengths + (4 + terminated + 3)) // 4 * 4
        ends = np.cumsum(self.sizes)
        self.starts = ends - self.sizes
        self.blob = _lay_out(data, lengths, self.starts, self.sizes, int(ends[-1]) if len(ends) else 0)

    @classmethod
    def of_texts(cls, texts: Sequence[str]) -> Records:
        """Records of strings."""
        data = "".join(texts).encode()
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        if int(lengths.sum()) != len(data):
            lengths = np.fromiter((len(text.encode()) for text in texts), np.int64, len(texts))
        return cls(data, lengths, True)

    @classmethod
    def of_bytes(cls, items: Sequence[bytes]) -> Records:
        """Records of vectors of bytes."""
        return cls(b"".join(items), np.fromiter(map(len, items), np.int64, len(items)), False)


def _lay_out(
    data: bytes,
    lengths: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    total: int,
) -> bytes:
    found = np.flatnonzero(np.bincount(lengths)) if len(lengths) and int(lengths.max()) < 1 << 16 else None
    if found is None or len(found) > _MAX_LENGTHS:
        return _join(data, lengths, sizes)
    out = np.zeros(total, np.uint8)
    sources = np.cumsum(lengths) - lengths
    for length in found.tolist():
        items = np.flatnonzero(lengths == length)
        size = int(sizes[items[0]])
        rows = np.zeros((len(items), size), np.uint8)
        rows[:, :4] = np.frombuffer(int(length).to_bytes(4, "little"), np.uint8)
        if length:
            rows[:, 4 : 4 + length] = _windows(data, length)[sources[items]].view(np.uint8).reshape(-1, length)
        _windows(out.data, size)[starts[items]] = rows.view(f"V{size}")[:, 0]
    return out.tobytes()


def _windows(buffer: Any, width: int) -> npt.NDArray[Any]:
    """All stretches of `width` bytes of a buffer, overlapping."""
    return np.ndarray((len(buffer) - width + 1,), f"V{width}", buffer, strides=(1,))


def _join(data: bytes, lengths: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> bytes:
    parts: list[bytes] = []
    at = 0
    padding = bytes(8)
    for length, size in zip(lengths.tolist(), sizes.tolist(), strict=True):
        parts += (length.to_bytes(4, "little"), data[at : at + length], padding[: size - 4 - length])
        at += length
    return b"".join(parts)
