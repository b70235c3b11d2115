"""MessagePack, as far as JSON values need it: how spec 1 stores metadata values.

Written in the smallest form, doubles always with 64 bits, maps sorted by key. Read in every form; byte strings become
lists of integers, extension types are refused. Nothing claimed by the bytes is trusted: a length must fit into what
follows, and depth is bounded.
"""

from __future__ import annotations

import math
import struct
from operator import itemgetter
from typing import Any, TypeAlias

from icechunk.errors import ErrorKind, FormatError

Buffer: TypeAlias = bytes | bytearray | memoryview

MAX_DEPTH = 200
"""Nesting beyond this is refused, on writing and on reading."""


def encode_msgpack(value: Any) -> bytes:
    """The MessagePack of a JSON value (None, bool, int, float, str, list, dict with str keys).

    Raises `ValueError` for an integer outside of 64 bits or nesting deeper than `MAX_DEPTH`.
    """
    out = bytearray()
    _write(out, value, 0)
    return bytes(out)


def _write(out: bytearray, value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"metadata is nested deeper than {MAX_DEPTH} levels")
    if value is None:
        out.append(0xC0)
    elif isinstance(value, bool):
        out.append(0xC3 if value else 0xC2)
    elif isinstance(value, int):
        out += _integer(value)
    elif isinstance(value, float):
        out += struct.pack(">Bd", 0xCB, value)
    elif isinstance(value, str):
        raw = value.encode()
        out += _head(len(raw), 0xA0, 32, (0xD9, 0xDA, 0xDB)) + raw
    elif isinstance(value, dict):
        out += _head(len(value), 0x80, 16, (None, 0xDE, 0xDF))
        for name, item in sorted(((name.encode(), item) for name, item in value.items()), key=itemgetter(0)):
            out += _head(len(name), 0xA0, 32, (0xD9, 0xDA, 0xDB)) + name
            _write(out, item, depth + 1)
    else:
        out += _head(len(value), 0x90, 16, (None, 0xDC, 0xDD))
        for item in value:
            _write(out, item, depth + 1)


def _head(length: int, short: int, limit: int, codes: tuple[int | None, int, int]) -> bytes:
    """The first bytes of a string or container of `length`, in the smallest of the forms for it."""
    if length < limit:
        return bytes((short | length,))
    if length < 1 << 8 and codes[0] is not None:
        return bytes((codes[0], length))
    if length < 1 << 16:
        return struct.pack(">BH", codes[1], length)
    return struct.pack(">BI", codes[2], length)


def _integer(value: int) -> bytes:
    if -32 <= value < 128:
        return bytes((value & 0xFF,))
    bits = 8
    while not (0 <= value < 1 << bits if value >= 0 else -(1 << bits - 1) <= value):
        bits *= 2
    if bits > 64:
        raise ValueError(f"{value} does not fit into 64 bits")
    code = (0xCC if value >= 0 else 0xD0) + (bits // 8).bit_length() - 1
    return bytes((code,)) + value.to_bytes(bits // 8, "big", signed=value < 0)


def decode_msgpack(raw: Buffer, file: str = "metadata value") -> Any:
    """The JSON value of a MessagePack; raises `FormatError`, which calls it by `file`."""
    try:
        return _Reader(bytes(raw)).value(0)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{file}: broken MessagePack: {error}", ErrorKind.DESERIALIZATION) from None


_INTEGERS = {0xCC + place: (1 << place, False) for place in range(4)} | {
    0xD0 + place: (1 << place, True) for place in range(4)
}
_TEXTS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_BLOBS = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_ARRAYS = {0xDC: 2, 0xDD: 4}
_MAPS = {0xDE: 2, 0xDF: 4}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


class _Reader:
    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.at = 0

    def value(self, depth: int) -> Any:
        code = self._take(1)[0]
        if code < 0x80 or code >= 0xE0:
            return code if code < 0x80 else code - 256
        if code in _CONSTANTS:
            return _CONSTANTS[code]
        if code in _INTEGERS:
            size, signed = _INTEGERS[code]
            return int.from_bytes(self._take(size), "big", signed=signed)
        if code in (0xCA, 0xCB):
            number: float = struct.unpack(">f" if code == 0xCA else ">d", self._take(4 if code == 0xCA else 8))[0]
            return number if math.isfinite(number) else None
        if 0xA0 <= code < 0xC0 or code in _TEXTS:
            return self._take(code & 31 if code < 0xC0 else self._size(_TEXTS[code])).decode()
        if code in _BLOBS:
            return list(self._take(self._size(_BLOBS[code])))
        if depth >= MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        if 0x90 <= code < 0xA0 or code in _ARRAYS:
            return self._array(code & 15 if code < 0xA0 else self._size(_ARRAYS[code]), depth)
        if 0x80 <= code < 0x90 or code in _MAPS:
            return self._map(code & 15 if code < 0x90 else self._size(_MAPS[code]), depth)
        raise ValueError(f"no JSON value begins with the byte {code:#04x}")

    def _array(self, length: int, depth: int) -> list[Any]:
        self._demand(length)
        return [self.value(depth + 1) for _ in range(length)]

    def _map(self, length: int, depth: int) -> dict[str, Any]:
        self._demand(2 * length)
        found = {}
        for _ in range(length):
            name = self.value(depth + 1)
            if not isinstance(name, str):
                raise ValueError(f"the key {name!r:.50} is no text")
            found[name] = self.value(depth + 1)
        return found

    def _size(self, width: int) -> int:
        return int.from_bytes(self._take(width), "big")

    def _demand(self, count: int) -> None:
        if count > len(self.raw) - self.at:
            raise ValueError(f"{count} values at {self.at} lie outside of the {len(self.raw)} bytes")

    def _take(self, count: int) -> bytes:
        start = self.at
        if count > len(self.raw) - start:
            raise ValueError(f"{count} bytes at {start} lie outside of the {len(self.raw)} bytes")
        self.at = start + count
        return self.raw[start : self.at]
