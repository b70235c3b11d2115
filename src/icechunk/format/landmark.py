"""A note in a flatbuffer, where no reader of flatbuffers looks: behind the identifier, in bytes that belong to no table.

Files that we write have a head, which is written anew each time, and a body, which the next file takes over as it is. The
note says where the body begins, so that the old head can be left behind; how many bytes of the body nothing refers to any
more; and where in it a block of vtables stands, so that new tables can share them. Files without a note, or with one that
does not agree with its checksum, are as good as any: all of them is body.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

_AT = 8
_MAGIC = b"ICPY"
_NUMBERS = struct.Struct("<III")
_NONE = 0xFFFFFFFF
_MAX = 0xFFFFFFFF

ALIGN = 8
"""A body begins at a multiple of this, so what is aligned in it stays so."""

LANDMARK_SIZE = len(_MAGIC) + 4 + _NUMBERS.size
"""Bytes to leave free behind the identifier."""


class Landmark(NamedTuple):
    """Where the body begins, its dead bytes, and where its vtables are, counted from its begin."""

    body: int
    dead: int = 0
    vtables: int | None = None


EVERYTHING = Landmark(0)
"""What is taken over of a file without a note."""


def write_landmark(out: bytearray, landmark: Landmark) -> None:
    """Put the note into a buffer."""
    body, dead, vtables = landmark
    numbers = _NUMBERS.pack(body, min(dead, _MAX), _NONE if vtables is None else vtables)
    out[_AT : _AT + LANDMARK_SIZE] = _MAGIC + struct.pack("<I", zlib.crc32(numbers)) + numbers


def read_landmark(buf: bytes | bytearray | memoryview) -> Landmark:
    """The note in a buffer."""
    note = bytes(buf[_AT : _AT + LANDMARK_SIZE])
    numbers = note[-_NUMBERS.size :]
    if len(note) < LANDMARK_SIZE or note[:8] != _MAGIC + struct.pack("<I", zlib.crc32(numbers)):
        return EVERYTHING
    body, dead, vtables = _NUMBERS.unpack(numbers)
    if body % ALIGN or body > len(buf):
        return EVERYTHING
    return Landmark(body, dead, None if vtables == _NONE else vtables)
