"""Reading one value at a time, parsing nothing else.

A `Document` is a buffer; a `TableView` is a position in it and the layout found there. Every offset that is followed is
checked against the buffer first, so a truncated or hostile file ends in a `FormatError` that names file, table and field.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from icechunk.errors import ErrorKind, FormatError
from icechunk.flatbuf.schema import Scalar, StringType, Struct, Table, Union, Vector

_U16 = struct.Struct("<H").unpack_from
_U32 = struct.Struct("<I").unpack_from
_I32 = struct.Struct("<i").unpack_from
_SCALARS = {code: struct.Struct("<" + code).unpack_from for code in "B?HIiQ"}
_MAX_LAYOUTS = 4096
_layouts: dict[tuple[bytes, Table], tuple[int, ...]] = {}
"""What vtables mean, by content; files of one writer have the same few."""


class Document:
    """One flatbuffer. `file` is how errors call it."""

    __slots__ = ("_vtables", "buf", "file", "size")

    def __init__(self, buf: bytes | bytearray | memoryview, file: str) -> None:
        self.buf = buf
        self.size = len(buf)
        self.file = file
        self._vtables: dict[tuple[int, Table], tuple[int, ...]] = {}

    def fail(self, where: str, why: str) -> FormatError:
        """The error to raise for a defect at `where` (table and field)."""
        return FormatError(f"{self.file}: {where}: {why}", ErrorKind.INVALID_FILE_FORMAT)

    def root(self, table: Table) -> TableView:
        """The root table."""
        if self.size < 8:
            raise self.fail(table.name, f"a flatbuffer has at least 8 bytes, this one has {self.size}")
        return TableView(self, table, _U32(self.buf, 0)[0])

    def layout(self, table: Table, pos: int) -> tuple[int, ...]:
        """For the table at `pos`: where each slot lies relative to it, 0 for an absent one."""
        if not 0 < pos <= self.size - 4:
            raise self.fail(table.name, f"lies at {pos}, outside of the {self.size} bytes")
        vtable = pos - _I32(self.buf, pos)[0]
        known = self._vtables.get((vtable, table)) or self.layout_at(table, vtable)
        if pos + known[-1] > self.size:
            raise self.fail(table.name, f"at {pos} reaches past the end")
        return known

    def layout_at(self, table: Table, vtable: int) -> tuple[int, ...]:
        """What the vtable at this position tells: where each slot lies, and last how large tables are inline."""
        known = self._vtables.get((vtable, table))
        if known is None:
            known = self._vtables[vtable, table] = self._read_vtable(table, vtable)
        return known

    def _read_vtable(self, table: Table, vtable: int) -> tuple[int, ...]:
        if not 0 <= vtable <= self.size - 4:
            raise self.fail(table.name, f"its vtable lies at {vtable}, outside of the {self.size} bytes")
        length, inline = _U16(self.buf, vtable)[0], _U16(self.buf, vtable + 2)[0]
        if length < 4 or length % 2 or vtable + length > self.size:
            raise self.fail(table.name, f"its vtable of {length} bytes is broken")
        content = bytes(self.buf[vtable : vtable + length])
        known = _layouts.get((content, table))
        if known is None:
            known = self._check_vtable(table, content, inline)
            if len(_layouts) >= _MAX_LAYOUTS:
                _layouts.clear()
            _layouts[content, table] = known
        return known

    def _check_vtable(self, table: Table, content: bytes, inline: int) -> tuple[int, ...]:
        found = struct.unpack_from(f"<{len(content) // 2 - 2}H", content, 4)
        offsets = (found + (0,) * table.slots)[: table.slots]
        for field in table.fields.values():
            at = offsets[field.slot]
            if field.required and not at:
                raise self.fail(f"{table.name}.{field.name}", "missing required field")
            parts = [(at, _inline_size(field.type))]
            if isinstance(field.type, Union):
                parts = [(at, 1), (offsets[field.slot + 1], 4)]
            if any(start and (start < 4 or start + size > inline) for start, size in parts):
                raise self.fail(f"{table.name}.{field.name}", "lies outside of its table")
        return (*offsets, inline)


def _inline_size(kind: Any) -> int:
    if isinstance(kind, Scalar | Struct):
        return kind.size
    return 4


class TableView:
    """One table; `view["field"]` reads a field.

    Scalars read as int or bool (the default when absent), strings as str, vectors of bytes as memoryview, other vectors
    as `VectorView`, structs as bytes, tables as `TableView`, unions as a pair of code and `TableView`; absent ones as
    None.
    """

    __slots__ = ("_layout", "doc", "pos", "table")

    def __init__(self, doc: Document, table: Table, pos: int) -> None:
        self.doc = doc
        self.table = table
        self.pos = pos
        self._layout = doc.layout(table, pos)

    def __getitem__(self, name: str) -> Any:
        field = self.table.fields[name]
        at = self._layout[field.slot]
        kind = field.type
        if isinstance(kind, Scalar):
            return _SCALARS[kind.code](self.doc.buf, self.pos + at)[0] if at else kind.default
        if isinstance(kind, Union):
            return self._union(kind, name, at, self._layout[field.slot + 1])
        if not at:
            return None
        where = self.pos + at
        if isinstance(kind, Struct):
            return bytes(self.doc.buf[where : where + kind.size])
        target = where + _U32(self.doc.buf, where)[0]
        if isinstance(kind, Table):
            return TableView(self.doc, kind, target)
        return self._referenced(kind, name, target)

    def _referenced(self, kind: StringType | Vector, name: str, target: int) -> Any:
        if isinstance(kind, StringType):
            return read_string(self.doc, target, f"{self.table.name}.{name}")
        if isinstance(kind.element, Scalar) and kind.element.size == 1:
            return read_bytes(self.doc, target, f"{self.table.name}.{name}")
        return VectorView(self.doc, kind, target, f"{self.table.name}.{name}")

    def _union(self, kind: Union, name: str, code_at: int, table_at: int) -> tuple[int, TableView] | None:
        if not code_at or not table_at:
            if self.table.fields[name].required:
                raise self.doc.fail(f"{self.table.name}.{name}", "missing required field")
            return None
        code = self.doc.buf[self.pos + code_at]
        member = kind.members.get(code)
        if member is None:
            raise self.doc.fail(f"{self.table.name}.{name}", f"unknown type code {code}")
        where = self.pos + table_at
        return code, TableView(self.doc, member, where + _U32(self.doc.buf, where)[0])

    def has(self, name: str) -> bool:
        """Whether the field is present."""
        return self._layout[self.table.fields[name].slot] != 0

    def position(self, name: str) -> int:
        """Where the inline part of a field lies in the buffer, 0 when absent."""
        at = self._layout[self.table.fields[name].slot]
        return self.pos + at if at else 0


def read_bytes(doc: Document, target: int, where: str) -> memoryview:
    """The bytes of a string or of a vector of u8 that starts at `target`."""
    if target > doc.size - 4:
        raise doc.fail(where, f"lies at {target}, outside of the {doc.size} bytes")
    length = _U32(doc.buf, target)[0]
    if length > doc.size - target - 4:
        raise doc.fail(where, f"its {length} bytes reach past the end")
    return memoryview(doc.buf)[target + 4 : target + 4 + length]


def read_string(doc: Document, target: int, where: str) -> str:
    """The text of a string that starts at `target`."""
    try:
        return str(read_bytes(doc, target, where), "utf-8")
    except UnicodeDecodeError as error:
        raise doc.fail(where, f"is no UTF-8 text ({error})") from None


class VectorView:
    """A vector; `len`, indexing and iteration read elements: numbers, bytes of structs, str, or `TableView`."""

    __slots__ = ("_width", "doc", "element", "length", "start", "where")

    def __init__(self, doc: Document, kind: Vector, target: int, where: str) -> None:
        self.doc = doc
        self.element = kind.element
        self.where = where
        if target > doc.size - 4:
            raise doc.fail(where, f"lies at {target}, outside of the {doc.size} bytes")
        self._width = _inline_size(kind.element)
        self.length: int = _U32(doc.buf, target)[0]
        self.start = target + 4
        if self.length * self._width > doc.size - self.start:
            raise doc.fail(where, f"its {self.length} elements reach past the end")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self.length:
            raise IndexError(index)
        at = self.start + index * self._width
        element = self.element
        if isinstance(element, Scalar):
            return _SCALARS[element.code](self.doc.buf, at)[0]
        if isinstance(element, Struct):
            return bytes(self.doc.buf[at : at + element.size])
        target = at + _U32(self.doc.buf, at)[0]
        if isinstance(element, Table):
            return TableView(self.doc, element, target)
        return read_string(self.doc, target, self.where)

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self.element, Scalar):
            return iter(struct.unpack_from(f"<{self.length}{self.element.code}", self.doc.buf, self.start))
        return (self[index] for index in range(self.length))

    @property
    def raw(self) -> memoryview:
        """The inline bytes of all elements, one after the other."""
        return memoryview(self.doc.buf)[self.start : self.start + self.length * self._width]
