"""Locations of virtual chunks as small zstd frames that share a dictionary kept in the manifest (spec 2).

Readers decompress each location on its own, so a manifest of many long ones takes less memory; the file on disk does
not become smaller, since it is compressed as a whole anyway.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import zstandard

from icechunk._dataclass import dataclass
from icechunk.format.text_column import TextColumn

_MAX_LOCATION = 1024
"""The reference reads no longer ones."""
_READ_LIMIT = 64 << 10
_READ_LIMIT_TOTAL = 1 << 30


@dataclass(frozen=True)
class LocationCompression:
    """When a manifest's locations are compressed, and how.

    `min_num_chunks` references, as many of them virtual, are needed; the dictionary is trained on
    `dictionary_max_training_samples` locations and has at most `dictionary_max_size_bytes`.
    """

    min_num_chunks: int = 1000
    dictionary_max_training_samples: int = 100
    dictionary_max_size_bytes: int = 2048
    compression_level: int = 3

    def train(self, locations: TextColumn) -> bytes | None:
        """The dictionary for these locations (of all references, -1 where not virtual); None when they stay plain."""
        virtual = np.flatnonzero(locations.codes >= 0)
        if len(virtual) < max(1, self.min_num_chunks) or max(map(len, locations.distinct)) > _MAX_LOCATION // 4:
            return None
        count = min(len(virtual), self.dictionary_max_training_samples)
        rows = virtual[np.linspace(0, len(virtual) - 1, count).astype(np.int64)] if count else virtual[:0]
        samples = [locations.distinct[code].encode() for code in locations.codes[rows].tolist()]
        if sum(len(sample) < 8 for sample in samples) * 2 >= len(samples):
            return None
        total = sum(map(len, samples))
        samples *= -(-self.dictionary_max_size_bytes // max(1, total))
        try:
            return zstandard.train_dictionary(self.dictionary_max_size_bytes, samples).as_bytes()
        except (zstandard.ZstdError, ValueError, MemoryError):
            return None

    def compress(self, texts: Sequence[str], dictionary: bytes) -> list[bytes]:
        """Each text as a frame."""
        compressor = zstandard.ZstdCompressor(
            level=self.compression_level, dict_data=zstandard.ZstdCompressionDict(dictionary), write_content_size=True
        )
        return [compressor.compress(text.encode()) for text in texts]


def decompress_locations(frames: Sequence[bytes], dictionary: zstandard.ZstdCompressionDict) -> list[str]:
    """The texts of frames.

    Raises `zstandard.ZstdError` or `UnicodeDecodeError` where one is broken, and `ValueError` where they are larger
    than locations ever are.
    """
    decompressor = zstandard.ZstdDecompressor(dict_data=dictionary)
    texts, total = [], 0
    for frame in frames:
        if zstandard.frame_content_size(frame) > _READ_LIMIT:
            raise ValueError(f"a location of more than {_READ_LIMIT} bytes")
        text = decompressor.decompress(frame, max_output_size=_READ_LIMIT, allow_extra_data=False)
        total += len(text)
        if total > _READ_LIMIT_TOTAL:
            raise ValueError(f"locations of more than {_READ_LIMIT_TOTAL} bytes")
        texts.append(text.decode())
    return texts
