"""FlexBuffers, as far as JSON values need them: how spec 2 stores metadata values and the configuration.

A FlexBuffer is written from the leaves up: every offset points backward, and the last bytes are the root value, its
packed type (`type * 4 + log2(width)`) and its width. Vectors store their elements at one common width, followed by one
packed type each; a map is a vector of values behind a typed vector of sorted keys.

Written as the reference writes it, byte for byte: integers as unsigned unless negative, floats as f32 where that is
exact, typed vectors where all elements are numbers of one type or booleans, equal keys once. Read as other encoders may write it too: typed vectors, indirect scalars, half
floats. Blobs are refused, as there is no JSON value that they could be. Reading trusts no length and no offset; depth
and the total number of elements are bounded, so that vectors which share one vector many times cannot explode.
"""

from __future__ import annotations

import math
import struct
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

from icechunk.errors import ErrorKind, FormatError

Buffer: TypeAlias = bytes | bytearray | memoryview

MAX_DEPTH = 200
"""Nesting beyond this is refused, on writing and on reading."""

_NULL, _INT, _UINT, _FLOAT, _KEY, _STRING = range(6)
_INDIRECT = {6: _INT, 7: _UINT, 8: _FLOAT}
_MAP, _VECTOR, _BLOB, _BOOL = 9, 10, 25, 26
_TYPED = {11: _INT, 12: _UINT, 13: _FLOAT, 14: _KEY, 15: _STRING, 36: _BOOL}
_FIXED = {16 + 3 * (size - 2) + place: (kind, size) for size in (2, 3, 4) for place, kind in enumerate((1, 2, 3))}
_FIXED_KINDS = {content: kind for kind, content in _FIXED.items()}
_TYPED_KINDS = {element: kind for kind, element in _TYPED.items() if element != _STRING}
_INLINE = frozenset((_NULL, _INT, _UINT, _FLOAT, _BOOL))

_FLOAT_CODES = {1: "<e", 2: "<f", 3: "<d"}


class _Value(NamedTuple):
    """A value that waits for its place: `content` is the number itself, or the address of what is already written."""

    kind: int
    width: int  # log2 of the bytes the number needs, or of the width at which the children were written
    content: int | float


def encode_flexbuffer(value: Any) -> bytes:
    """The FlexBuffer of a JSON value (None, bool, int, float, str, list, dict with str keys).

    Raises `ValueError` for a key that holds a zero character, an integer outside of 64 bits, a float that is no number,
    or nesting deeper than `MAX_DEPTH`.
    """
    writer = _Writer()
    root = writer.write(value, 0)
    width = writer.width_at(root, 0)
    writer.align(width)
    writer.store(root, width)
    writer.out += bytes((_packed(root, width), 1 << width))
    return bytes(writer.out)


class _Writer:
    def __init__(self) -> None:
        self.out = bytearray()
        self._keys: dict[bytes, _Value] = {}

    def write(self, value: Any, depth: int) -> _Value:
        if depth > MAX_DEPTH:
            raise ValueError(f"metadata is nested deeper than {MAX_DEPTH} levels")
        if value is None:
            return _Value(_NULL, 0, 0)
        if isinstance(value, bool):
            return _Value(_BOOL, 0, int(value))
        if isinstance(value, int):
            return _integer(value)
        if isinstance(value, float):
            return _floating(value)
        if isinstance(value, str):
            return self._string(value.encode())
        if isinstance(value, dict):
            return self._map(value, depth)
        return self._vector([self.write(item, depth + 1) for item in value])

    def _string(self, raw: bytes) -> _Value:
        width = _unsigned_width(len(raw))
        self.align(width)
        self.out += len(raw).to_bytes(1 << width, "little")
        address = len(self.out)
        self.out += raw + b"\0"
        return _Value(_STRING, width, address)

    def _key(self, raw: bytes) -> _Value:
        known = self._keys.get(raw)
        if known is None:
            if b"\0" in raw:
                raise ValueError(f"the key {raw.decode()!r} holds a zero character, which metadata cannot store")
            known = self._keys[raw] = _Value(_KEY, 0, len(self.out))
            self.out += raw + b"\0"
        return known

    def _map(self, value: dict[str, Any], depth: int) -> _Value:
        pairs = sorted(((name.encode(), item) for name, item in value.items()), key=itemgetter(0))
        written = [(self._key(name), self.write(item, depth + 1)) for name, item in pairs]
        keys = self._vector([key for key, _ in written])
        return self._vector([item for _, item in written], keys=keys)

    def _vector(self, items: list[_Value], *, keys: _Value | None = None) -> _Value:
        """A vector of `items`; a map when there are `keys`."""
        kind, counted, typed = (_MAP, True, False) if keys is not None else _vector_kind(items)
        ahead = 3 if keys is not None else int(counted)
        width = _unsigned_width(len(items)) if counted else 0
        if keys is not None:
            width = max(width, self.width_at(keys, 0))
        for place, item in enumerate(items, ahead):
            width = max(width, self.width_at(item, place))
        self.align(width)
        if keys is not None:
            self.store(keys, width)
            self.out += (1 << keys.width).to_bytes(1 << width, "little")
        if counted:
            self.out += len(items).to_bytes(1 << width, "little")
        address = len(self.out)
        for item in items:
            self.store(item, width)
        if not typed:
            self.out += bytes([_packed(item, width) for item in items])
        return _Value(kind, width, address)

    def width_at(self, value: _Value, place: int) -> int:
        """The width `value` needs as the element at `place` of a vector that would be written now."""
        if value.kind in _INLINE:
            return value.width
        for width in range(3):
            at = -(-len(self.out) >> width << width) + (place << width)
            if at - int(value.content) < 1 << (8 << width):
                return width
        return 3

    def align(self, width: int) -> None:
        self.out += bytes(-len(self.out) % (1 << width))

    def store(self, value: _Value, width: int) -> None:
        content = value.content
        if value.kind == _FLOAT:
            self.out += struct.pack(_FLOAT_CODES[width], content)
            return
        if value.kind not in _INLINE:
            content = len(self.out) - content
        self.out += int(content).to_bytes(1 << width, "little", signed=value.kind == _INT)


def _vector_kind(items: list[_Value]) -> tuple[int, bool, bool]:
    """The kind of vector for `items`, whether it stores its length, and whether the kind tells the elements' types."""
    kinds = {item.kind for item in items}
    element = kinds.pop() if len(kinds) == 1 else _NULL
    if (element, len(items)) in _FIXED_KINDS:
        return _FIXED_KINDS[element, len(items)], False, True
    if element in _TYPED_KINDS:
        return _TYPED_KINDS[element], True, True
    return _VECTOR, True, False


def _packed(value: _Value, width: int) -> int:
    return value.kind << 2 | (max(value.width, width) if value.kind in _INLINE else value.width)


def _unsigned_width(value: int) -> int:
    return 0 if value < 1 << 8 else 1 if value < 1 << 16 else 2 if value < 1 << 32 else 3


def _integer(value: int) -> _Value:
    if not -(1 << 63) <= value < 1 << 64:
        raise ValueError(f"{value} does not fit into 64 bits")
    if value >= 0:
        return _Value(_UINT, _unsigned_width(value), value)
    return _Value(_INT, _unsigned_width(~value << 1), value)


def _floating(value: float) -> _Value:
    if not math.isfinite(value):
        raise ValueError(f"{value} has no form in JSON")
    try:
        narrow = struct.unpack("<f", struct.pack("<f", value))[0] == value
    except OverflowError:
        narrow = False
    return _Value(_FLOAT, 2 if narrow else 3, value)


def decode_flexbuffer(raw: Buffer, file: str = "metadata value") -> Any:
    """The JSON value of a FlexBuffer; raises `FormatError`, which calls it by `file`."""
    try:
        return _Reader(bytes(raw)).root()
    except (ValueError, struct.error, RecursionError) as error:
        raise FormatError(f"{file}: broken FlexBuffer: {error}", ErrorKind.DESERIALIZATION) from None


class _Reader:
    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self._strings: dict[tuple[int, int], str] = {}
        self._elements_left = 16 * len(raw)

    def root(self) -> Any:
        if len(self.raw) < 3:
            raise ValueError(f"it has {len(self.raw)} bytes, at least 3 are needed")
        packed, width = self.raw[-2], self.raw[-1]
        at = len(self.raw) - 2 - width
        if width not in (1, 2, 4, 8) or at < 0:
            raise ValueError(f"a root of {width} bytes")
        return self._value(packed >> 2, 1 << (packed & 3), at, width, 0)

    def _value(self, kind: int, child: int, at: int, width: int, depth: int) -> Any:
        """The value of type `kind` at `at`, stored in `width` bytes; what it refers to has `child` bytes per item."""
        if kind in _INLINE:
            return self._number(kind, at, width)
        target = self._follow(at, width)
        if kind in _INDIRECT:
            return self._number(_INDIRECT[kind], target, child)
        if kind == _KEY:
            return self._key(target)
        if kind == _STRING:
            return self._string(target, child)
        if depth >= MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        if kind == _MAP:
            names, items = self._keys_of(target, child), self._untyped(target, child, depth)
            if len(names) != len(items):
                raise ValueError(f"a map of {len(names)} keys and {len(items)} values")
            return dict(zip(names, items, strict=True))
        if kind == _VECTOR:
            return self._untyped(target, child, depth)
        if kind in _TYPED:
            return self._typed(_TYPED[kind], target, child, self._length(target, child))
        if kind in _FIXED:
            return self._typed(*_fixed(kind, target, child))
        raise ValueError("blobs are no JSON values" if kind == _BLOB else f"unknown type {kind}")

    def _number(self, kind: int, at: int, width: int) -> int | float | bool | None:
        raw = self._take(at, width)
        if kind == _NULL:
            return None
        if kind == _FLOAT:
            if width == 1:
                raise ValueError("a float of one byte")
            number: float = struct.unpack({2: "<e", 4: "<f", 8: "<d"}[width], raw)[0]
            return number if math.isfinite(number) else None
        value = int.from_bytes(raw, "little", signed=kind == _INT)
        return value != 0 if kind == _BOOL else value

    def _follow(self, at: int, width: int) -> int:
        target = at - int.from_bytes(self._take(at, width), "little")
        if target < 0:
            raise ValueError(f"the offset at {at} leads out of the buffer")
        return target

    def _take(self, at: int, count: int) -> bytes:
        if at < 0 or at + count > len(self.raw):
            raise ValueError(f"{count} bytes at {at} lie outside of the {len(self.raw)} bytes")
        return self.raw[at : at + count]

    def _length(self, target: int, width: int) -> int:
        length = int.from_bytes(self._take(target - width, width), "little")
        if length * width > len(self.raw) - target:
            raise ValueError(f"{length} elements at {target} lie outside of the {len(self.raw)} bytes")
        self._elements_left -= length
        if self._elements_left < 0:
            raise ValueError("more elements than a buffer of this size can hold")
        return length

    def _key(self, target: int) -> str:
        known = self._strings.get((target, 0))
        if known is None:
            end = self.raw.find(b"\0", target)
            if end < 0:
                raise ValueError(f"the key at {target} has no end")
            known = self._strings[target, 0] = self.raw[target:end].decode()
        return known

    def _string(self, target: int, width: int) -> str:
        known = self._strings.get((target, width))
        if known is None:
            length = int.from_bytes(self._take(target - width, width), "little")
            known = self._strings[target, width] = self._take(target, length).decode()
        return known

    def _keys_of(self, target: int, width: int) -> list[str]:
        keys = self._follow(target - 3 * width, width)
        key_width = int.from_bytes(self._take(target - 2 * width, width), "little")
        if key_width not in (1, 2, 4, 8):
            raise ValueError(f"keys of {key_width} bytes")
        return [
            self._key(self._follow(keys + index * key_width, key_width))
            for index in range(self._length(keys, key_width))
        ]

    def _untyped(self, target: int, width: int, depth: int) -> list[Any]:
        length = self._length(target, width)
        types = self._take(target + length * width, length)
        return [
            self._value(packed >> 2, 1 << (packed & 3), target + index * width, width, depth + 1)
            for index, packed in enumerate(types)
        ]

    def _typed(self, kind: int, target: int, width: int, length: int) -> list[Any]:
        return [self._value(kind, 1, target + index * width, width, MAX_DEPTH) for index in range(length)]


def _fixed(kind: int, target: int, width: int) -> tuple[int, int, int, int]:
    element, length = _FIXED[kind]
    return element, target, width, length
