"""Ways to damage a file: what a bad disk, a cut transfer or somebody with bad intentions may make of it."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from icechunk.format.envelope import HEADER_SIZE, MAGIC, FileType, open_envelope

HOSTILE = (0, 1, 2, 3, 7, 0xFF, 0x100, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
"""Counts, offsets and lengths that a reader must not believe."""

Damage = Callable[[bytes, random.Random], bytes]


def cut(data: bytes, dice: random.Random) -> bytes:
    """Cut off the end."""
    return data[: dice.randrange(len(data))]


def flip(data: bytes, dice: random.Random) -> bytes:
    """Flip one to eight bits, anywhere."""
    out = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 8))):
        out[dice.randrange(len(out))] ^= 1 << dice.randrange(8)
    return bytes(out)


def splice(data: bytes, dice: random.Random) -> bytes:
    """Put random bytes, or bytes from elsewhere in the file, in, over, or in place of others."""
    at = dice.randrange(len(data))
    length = dice.randrange(1, 24)
    start = dice.randrange(len(data))
    piece = dice.choice((dice.randbytes(length), data[start : start + length], bytes(length)))
    return data[:at] + piece + data[at + dice.choice((0, len(piece), dice.randrange(48))) :]


def exaggerate(data: bytes, dice: random.Random) -> bytes:
    """Replace a number of two, four or eight bytes by one that asks for too much."""
    size, code = dice.choice(((2, "<H"), (4, "<I"), (4, "<I"), (4, "<I"), (8, "<Q")))
    if len(data) < size:
        return data
    at = dice.randrange((len(data) - size) // 2 + 1) * 2
    value = dice.choice((*HOSTILE, len(data), len(data) - at, 2**64 - 1, 2**63, 2**32))
    return data[:at] + struct.pack(code, value % 2 ** (8 * size)) + data[at + size :]


def inside(damage: Damage) -> Damage:
    """Damage what is in the envelope, and close it again, so that neither checksum nor compression notices."""

    def act(data: bytes, dice: random.Random) -> bytes:
        kind = FileType(data[HEADER_SIZE - 2])
        _, payload = open_envelope(data, kind, "sample")
        return data[: HEADER_SIZE - 1] + b"\0" + damage(bytes(payload), dice)

    return act


ON_BYTES: dict[str, Damage] = {"cut": cut, "flip": flip, "splice": splice}
IN_ENVELOPES: dict[str, Damage] = {
    "flip-inside": inside(flip),
    "splice-inside": inside(splice),
    "exaggerate-inside": inside(exaggerate),
    "cut-inside": inside(cut),
}


def damages(data: bytes) -> dict[str, Damage]:
    """The ways that make sense for a file, by name."""
    return ON_BYTES | IN_ENVELOPES if data.startswith(MAGIC) else ON_BYTES
