"""Damaged copies of a flatbuffer, for tests that nothing but a `FormatError` comes of reading them."""

from __future__ import annotations

import random
import struct


def damages(payload: bytes, seed: int, count: int) -> list[bytes]:
    """The same copies for the same seed: cut off at every fourth byte, and with one to three changes each.

    A change is a bit, a byte, or a whole number, which then is one of those that make offsets and lengths interesting.
    """
    rng = random.Random(seed)
    found = [payload[:length] for length in range(0, len(payload), 4)]
    words = len(payload) // 4
    for _ in range(count):
        copy = bytearray(payload)
        for _ in range(rng.randrange(1, 4)):
            if rng.random() < 0.5 and words:
                value = rng.choice([0, 1, 3, len(payload), len(payload) // 4, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 8])
                struct.pack_into("<I", copy, 4 * rng.randrange(words), value)
            else:
                at = rng.randrange(len(copy))
                copy[at] = rng.choice([copy[at] ^ 1 << rng.randrange(8), rng.randrange(256)])
        found.append(bytes(copy))
    return found
