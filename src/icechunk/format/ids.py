"""Identifiers: random bytes, written in Crockford's base32 (FORMAT: identifiers).

Snapshots, manifests, chunks and transaction logs carry 12 bytes (20 characters), nodes carry 8 (13 characters). Inside
the library an id is `bytes`, whose order is the order of the format; text exists only at the edges.
"""

from __future__ import annotations

import os
from functools import lru_cache

from icechunk.errors import ErrorKind, InvalidInputError

OBJECT_ID_SIZE = 12
NODE_ID_SIZE = 8

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
"""Two characters at a time: half the steps of one, which a commit, that names a dozen files, notices."""

_DIGITS = bytearray(b"!" * 256)
"""What `int(..., 32)` calls each character of an id; nothing that it knows for the others."""
for _value, _char in enumerate(_ALPHABET):
    _DIGITS[ord(_char)] = _DIGITS[ord(_char.lower())] = ord("0123456789abcdefghijklmnopqrstuv"[_value])
for _char, _same in zip("OoIiLl", "001111", strict=True):
    _DIGITS[ord(_char)] = ord(_same)

INITIAL_SNAPSHOT_ID = bytes.fromhex("0b1cc8d6787580f0e33a6534")
"""The id that new repositories give their first snapshot; older ones drew it at random, so never rely on it."""


def random_object_id() -> bytes:
    """A fresh id for a snapshot, manifest, chunk or transaction log."""
    return os.urandom(OBJECT_ID_SIZE)


def random_node_id() -> bytes:
    """A fresh id for a group or an array."""
    return os.urandom(NODE_ID_SIZE)


@lru_cache(maxsize=1024)  # a commit names its snapshot five times
def format_id(raw: bytes) -> str:
    """The text form of an id: most significant bit first, zero bits filling the last character."""
    length = (len(raw) * 8 + 4) // 5
    bits = (length + 1) // 2 * 10
    number = int.from_bytes(raw, "big") << (bits - len(raw) * 8)
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(bits - 10, -1, -10)])[:length]


def parse_id(text: str, size: int = OBJECT_ID_SIZE) -> bytes:
    """The bytes of an id of `size` bytes.

    Lower case is accepted, O reads as 0, I and L as 1, fill bits are ignored. Raises `ValueError` for anything else.
    """
    length = (size * 8 + 4) // 5
    if len(text) != length:
        raise ValueError(f"expected {length} characters, got {len(text)}")
    try:
        number = int(text.encode("latin-1").translate(_DIGITS), 32)
    except ValueError:
        wrong = next(char for char in text if ord(char) > 255 or _DIGITS[ord(char)] == ord("!"))
        raise ValueError(f"{wrong!r} is no character of an id") from None
    return (number >> (length * 5 - size * 8)).to_bytes(size, "big")


def parse_snapshot_id(text: str) -> bytes:
    """The id of a snapshot as a user gives it; raises `InvalidInputError`."""
    if not isinstance(text, str):
        raise TypeError(f"a snapshot id is a str, got {type(text).__name__}")
    try:
        return parse_id(text)
    except ValueError as error:
        raise InvalidInputError(
            f"invalid snapshot id: `{text}` ({error}); snapshot ids have 20 characters, as `repo.ancestry` lists them",
            ErrorKind.INVALID_SNAPSHOT_ID,
        ) from None
