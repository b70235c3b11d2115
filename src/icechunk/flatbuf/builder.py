"""Writing values that are few; what comes by the million has writers of its own, by column.

`build(TABLE, {"name": value, ...})` writes a table and all below it, forward: a table lies before what it refers to, so
every offset is positive; equal vtables are shared. Values are what the reader gives: numbers, str, bytes (for structs and
vectors of bytes), sequences, dicts for tables, a pair of code and dict for unions. None leaves a field out, and so does
a number that equals the field's default. `Slots` stand for a vector of offsets that is filled in later.

Where things go in a table depends on nothing but which fields it has. That is worked out once (`_Shape`); a table of a
known shape is one pass over its fields and one `struct.pack_into`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from icechunk.flatbuf.schema import Field, Scalar, StringType, Struct, Table, Union, Vector

_MAX_ALIGN = 8
_pack_u32 = struct.Struct("<I").pack
_pack_u32_into = struct.Struct("<I").pack_into


class Slots:
    """Room for the offsets of a vector of `count` tables; `start` is where they go, once that is known."""

    __slots__ = ("count", "start")

    def __init__(self, count: int) -> None:
        self.count = count
        self.start = 0


class Builder:
    """A growing buffer. The first eight bytes are the root offset and the file identifier."""

    def __init__(self, identifier: bytes) -> None:
        self.out = bytearray(4) + identifier
        self._vtables: dict[bytes, int] = {}

    def finish(self, root: int) -> bytes:
        """The buffer, with `root` as its root table."""
        self.refer(0, root)
        self.pad(_MAX_ALIGN)
        return bytes(self.out)

    def pad(self, align: int, ahead: int = 0) -> None:
        """Add zeros until what comes `ahead` bytes later is aligned."""
        self.out += bytes(-(len(self.out) + ahead) % align)

    def vtable(self, content: bytes) -> int:
        """Where a vtable of this content stands, writing it when it is the first of its kind."""
        known = self._vtables.get(content)
        if known is None:
            self.pad(2)
            known = self._vtables[content] = len(self.out)
            self.out += content
        return known

    def table(self, table: Table, values: Mapping[str, Any]) -> int:
        """Write a table and all below it; returns its position."""
        default = table.defaults.get
        shape = _shape(
            table, tuple([name for name, value in values.items() if value is not None and value != default(name)])
        )
        vtable = self.vtable(shape.vtable)
        out = self.out
        pos = len(out)
        pos += -(pos + 4) % shape.align
        out += bytes(pos - len(out) + shape.inline.size)
        numbers = [pos - vtable]
        for name, at, write in shape.parts:
            value = values[name]
            if write is None:
                numbers.append(value)
            elif at < 0:
                numbers.append(value[0])
            else:
                numbers.append(write(self, value) - pos - at)
        shape.inline.pack_into(out, pos, *numbers)
        return pos

    def refer(self, at: int, target: int) -> None:
        """Make the offset at `at` point to `target`."""
        _pack_u32_into(self.out, at, target - at)

    def reference(self, kind: StringType | Vector | Table, value: Any) -> int:
        """Write a string, vector or table; returns its position."""
        return _writer(kind)(self, value)

    def sized(self, count: int, raw: bytes | bytearray | memoryview, align: int) -> int:
        """Write a vector of `count` elements, given as bytes; returns its position."""
        out = self.out
        out += bytes(-(len(out) + 4) % align)
        pos = len(out)
        out += _pack_u32(count)
        out += raw
        return pos


_Write: TypeAlias = Callable[[Builder, Any], int]


class _Shape(NamedTuple):
    """How tables with the same fields are laid out.

    `inline` packs the offset to the vtable and then, in the order of `parts`, what each field has in the table itself.
    A part is the name of a field, where it lies, and what writes that to which it refers; None for a value that stands
    in the table. The code of a union lies, so to say, at -1.
    """

    vtable: bytes
    align: int
    inline: struct.Struct
    parts: tuple[tuple[str, int, _Write | None], ...]


def vtable_of(table: Table, *names: str) -> bytes:
    """The vtable of tables that have just these fields."""
    return _shape(table, names).vtable


@cache
def _shape(table: Table, names: tuple[str, ...]) -> _Shape:
    missing = [field.name for field in table.fields.values() if field.required and field.name not in names]
    if missing:
        raise ValueError(f"{table.name} needs {', '.join(missing)}")
    pieces = [piece for name in names for piece in _pieces(table.fields[name])]
    pieces.sort(key=lambda piece: (-piece.align, piece.slot))
    offsets = [0] * (max((piece.slot for piece in pieces), default=-1) + 1)
    end = 4
    for piece in pieces:
        offsets[piece.slot] = end
        end += piece.size
    return _Shape(
        struct.pack(f"<HH{len(offsets)}H", 4 + 2 * len(offsets), end, *offsets),
        max([piece.align for piece in pieces] + [4]),
        struct.Struct("<i" + "".join(piece.code for piece in pieces)),
        tuple((piece.name, -1 if piece.is_code else offsets[piece.slot], piece.write) for piece in pieces),
    )


class _Piece(NamedTuple):
    name: str
    slot: int
    size: int
    align: int
    code: str
    write: _Write | None = None
    is_code: bool = False


def _pieces(field: Field) -> list[_Piece]:
    """What a field has in its table."""
    kind = field.type
    if isinstance(kind, Scalar):
        return [_Piece(field.name, field.slot, kind.size, kind.size, kind.code)]
    if isinstance(kind, Struct):
        return [_Piece(field.name, field.slot, kind.size, kind.align, f"{kind.size}s")]
    if isinstance(kind, Union):
        write = _member_writer(kind)
        code = _Piece(field.name, field.slot, 1, 1, "B", write, is_code=True)
        return [code, _Piece(field.name, field.slot + 1, 4, 4, "I", write)]
    return [_Piece(field.name, field.slot, 4, 4, "I", _writer(kind))]


# ---- what fields refer to


def _member_writer(kind: Union) -> _Write:
    def write(builder: Builder, value: Any) -> int:
        return builder.table(kind.members[value[0]], value[1])

    return write


@cache
def _writer(kind: StringType | Vector | Table) -> _Write:
    """What writes a value of this kind and returns its position."""
    if isinstance(kind, Table):
        return lambda builder, value: builder.table(kind, value)
    if isinstance(kind, StringType):
        return _write_text
    element = kind.element
    if isinstance(element, Scalar):
        return _scalars_writer(element)
    if isinstance(element, Struct):
        return _structs_writer(element)
    return _references_writer(element)


def _write_text(builder: Builder, value: str) -> int:
    raw = value.encode()
    return builder.sized(len(raw), raw + b"\0", 4)


def _scalars_writer(element: Scalar) -> _Write:
    size, align, code = element.size, max(element.size, 4), element.code

    def write(builder: Builder, value: Sequence[int] | bytes) -> int:
        raw = (
            value if isinstance(value, bytes | bytearray | memoryview) else struct.pack(f"<{len(value)}{code}", *value)
        )
        return builder.sized(len(raw) // size, raw, align)

    return write


def _structs_writer(element: Struct) -> _Write:
    size, align = element.size, max(element.align, 4)

    def write(builder: Builder, value: Sequence[bytes] | bytes) -> int:
        raw = value if isinstance(value, bytes | bytearray | memoryview) else b"".join(value)
        return builder.sized(len(raw) // size, raw, align)

    return write


def _references_writer(element: StringType | Vector | Table) -> _Write:
    each = _writer(element)

    def write(builder: Builder, value: Sequence[Any] | Slots) -> int:
        if isinstance(value, Slots):
            start = builder.sized(value.count, bytes(4 * value.count), 4)
            value.start = start + 4
            return start
        start = builder.sized(len(value), bytes(4 * len(value)), 4)
        for at, item in enumerate(value):
            builder.refer(start + 4 + 4 * at, each(builder, item))
        return start

    return write


def build(table: Table, values: Mapping[str, Any], identifier: bytes) -> bytes:
    """One buffer with `values` as its root table."""
    builder = Builder(identifier)
    return builder.finish(builder.table(table, values))
