"""Writing values that are few; what comes by the million has writers of its own, by column.

`build(TABLE, {"name": value, ...})` writes a table and all below it, forward: a table lies before what it refers to, so
every offset is positive; equal vtables are shared. Values are what the reader gives: numbers, str, bytes (for structs and
vectors of bytes), sequences, dicts for tables, a pair of code and dict for unions. None leaves a field out, and so does
a number that equals the field's default.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from icechunk.flatbuf.schema import Field, Scalar, StringType, Struct, Table, Union, Vector

_MAX_ALIGN = 8


class Builder:
    """A growing buffer. The first eight bytes are the root offset and the file identifier."""

    def __init__(self, identifier: bytes) -> None:
        self.out = bytearray(4) + identifier
        self._vtables: dict[bytes, int] = {}

    def finish(self, root: int) -> bytes:
        """The buffer, with `root` as its root table."""
        struct.pack_into("<I", self.out, 0, root)
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
        present = _present(table, values)
        offsets, inline, align = _place(table, present)
        vtable = self.vtable(struct.pack(f"<HH{len(offsets)}H", 4 + 2 * len(offsets), inline, *offsets))
        self.pad(align, ahead=4)
        pos = len(self.out)
        self.out += bytes(inline)
        struct.pack_into("<i", self.out, pos, pos - vtable)
        for field in present:
            self._write(field, values[field.name], pos, offsets)
        return pos

    def _write(self, field: Field, value: Any, pos: int, offsets: Sequence[int]) -> None:
        kind, at = field.type, pos + offsets[field.slot]
        if isinstance(kind, Scalar):
            struct.pack_into("<" + kind.code, self.out, at, value)
        elif isinstance(kind, Struct):
            self.out[at : at + kind.size] = value
        elif isinstance(kind, Union):
            code, members = value
            self.out[at] = code
            at = pos + offsets[field.slot + 1]
            self.refer(at, self.table(kind.members[code], members))
        else:
            self.refer(at, self.reference(kind, value))

    def refer(self, at: int, target: int) -> None:
        """Make the offset at `at` point to `target`."""
        struct.pack_into("<I", self.out, at, target - at)

    def reference(self, kind: StringType | Vector | Table, value: Any) -> int:
        """Write a string, vector or table; returns its position."""
        if isinstance(kind, Table):
            return self.table(kind, value)
        if isinstance(kind, StringType):
            raw = value.encode()
            return self._sized(len(raw), raw + b"\0", 1)
        element = kind.element
        if isinstance(element, Scalar):
            raw = value if isinstance(value, bytes | bytearray | memoryview) else _pack(element, value)
            return self._sized(len(raw) // element.size, raw, element.size)
        if isinstance(element, Struct):
            raw = value if isinstance(value, bytes | bytearray | memoryview) else b"".join(value)
            return self._sized(len(raw) // element.size, raw, element.align)
        start = self._sized(len(value), bytes(4 * len(value)), 4)
        for index, item in enumerate(value):
            self.refer(start + 4 + 4 * index, self.reference(element, item))
        return start

    def _sized(self, count: int, raw: bytes | bytearray | memoryview, align: int) -> int:
        self.pad(max(align, 4), ahead=4)
        pos = len(self.out)
        self.out += struct.pack("<I", count)
        self.out += raw
        return pos


def _pack(element: Scalar, values: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(values)}{element.code}", *values)


def _present(table: Table, values: Mapping[str, Any]) -> list[Field]:
    fields = []
    for name, value in values.items():
        field = table.fields[name]
        if value is None or (isinstance(field.type, Scalar) and value == field.type.default):
            continue
        fields.append(field)
    missing = [field.name for field in table.fields.values() if field.required and values.get(field.name) is None]
    if missing:
        raise ValueError(f"{table.name} needs {', '.join(missing)}")
    return fields


def _place(table: Table, present: Sequence[Field]) -> tuple[list[int], int, int]:
    """Offsets by slot, size of the inline part, and alignment of what follows the leading soffset."""
    parts = []
    for field in present:
        kind = field.type
        if isinstance(kind, Union):
            parts += [(1, 1, field.slot), (4, 4, field.slot + 1)]
        elif isinstance(kind, Scalar):
            parts.append((kind.size, kind.size, field.slot))
        elif isinstance(kind, Struct):
            parts.append((kind.align, kind.size, field.slot))
        else:
            parts.append((4, 4, field.slot))
    parts.sort(key=lambda part: (-part[0], part[2]))
    offsets = [0] * (max((slot for _, _, slot in parts), default=-1) + 1)
    end = 4
    for _, size, slot in parts:
        offsets[slot] = end
        end += size
    align = max((part[0] for part in parts), default=4)
    return offsets, end, max(align, 4)


def build(table: Table, values: Mapping[str, Any], identifier: bytes) -> bytes:
    """One buffer with `values` as its root table."""
    builder = Builder(identifier)
    return builder.finish(builder.table(table, values))
