"""What the large job writes, so that whoever reads it can tell whether it is right; only numbers and numpy.

Two arrays. `virtual` refers to chunks of 64 KiB, 64 of them in each of 12,800 files of an archive, which makes 819,200
references to 50 GiB. `real` has 512 chunks of 8 MiB of random numbers, 4 GiB, that are not compressed. Both are cut along their
first axis into parts, one per task.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

HEADER = 4096
"""Bytes of a file before its first chunk."""
SIDE = 8
"""Each file has a grid of so many times so many chunks."""
PIXELS = 128
VIRTUAL_CHUNK = PIXELS * PIXELS * 4
REAL_SHAPE = (1024, 2048)
REAL_CHUNK = REAL_SHAPE[0] * REAL_SHAPE[1] * 4


@dataclass(frozen=True)
class Plan:
    """How much there is to do.

    Attributes
    ----------
    files : int
        Of the archive.
    chunks : int
        Of the array `real`.
    parts : int
        Tasks.
    archive : str
        The URL that the names of the files begin with; ends in `/`.
    """

    files: int
    chunks: int
    parts: int
    archive: str

    @staticmethod
    def of(scale: float, archive: str) -> Plan:
        """The whole job at 1, a hundredth of it at 0.01."""
        parts = max(4, min(64, round(64 * scale)))
        return Plan(max(parts, round(12_800 * scale)), max(parts, round(512 * scale)), parts, archive)

    @property
    def references(self) -> int:
        """How many chunks the array `virtual` has."""
        return self.files * SIDE * SIDE

    def files_of(self, part: int) -> range:
        """The files of a part."""
        return range(self.files * part // self.parts, self.files * (part + 1) // self.parts)

    def chunks_of(self, part: int) -> range:
        """The chunks of `real` of a part."""
        return range(self.chunks * part // self.parts, self.chunks * (part + 1) // self.parts)

    def url(self, file: int) -> str:
        """Where a file is."""
        return f"{self.archive}{name_of(file)}"

    @property
    def samples(self) -> list[int]:
        """The files that are really there, to be read through their references."""
        return sorted({0, self.files // 3, self.files // 2, self.files - 1})


def name_of(file: int) -> str:
    """The name of a file in the archive."""
    return f"field-{file:06}.nc"


def offsets() -> npt.NDArray[np.uint64]:
    """Where the chunks of a file begin, in C order."""
    return np.arange(SIDE * SIDE, dtype=np.uint64) * VIRTUAL_CHUNK + HEADER


def field(file: int) -> npt.NDArray[np.uint32]:
    """What the array `virtual` has for a file."""
    size = SIDE * PIXELS
    return (np.arange(size * size, dtype=np.uint32) + np.uint32(file * 7919)).reshape(size, size)


def content(file: int) -> bytes:
    """The bytes of that file: a header, then its chunks one behind the other."""
    tiles = field(file).reshape(SIDE, PIXELS, SIDE, PIXELS).transpose(0, 2, 1, 3)
    return bytes(HEADER) + tiles.tobytes()


def numbers(chunk: int) -> npt.NDArray[np.uint32]:
    """What the array `real` has in a chunk."""
    return np.random.default_rng(chunk).integers(0, 2**32, REAL_SHAPE, np.uint32)
