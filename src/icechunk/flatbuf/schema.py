"""Layouts as data.

    MANIFEST_REF = Table("ManifestRef", object_id=Required(OBJECT_ID_12), extents=Required(Vector(CHUNK_INDEX_RANGE)))

Fields stand in slot order; a union takes two slots, its type code and its table.
"""

from __future__ import annotations

import struct
from dataclasses import field
from typing import Any, TypeAlias

from icechunk._dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number stored inline, at its natural alignment; absent means `default`."""

    name: str
    code: str
    default: int = 0

    @property
    def size(self) -> int:
        """Bytes taken, and the alignment."""
        return struct.calcsize("<" + self.code)

    def __call__(self, default: int) -> Scalar:
        """The same type under another default."""
        return Scalar(self.name, self.code, default)


U8 = Scalar("u8", "B")
BOOL = Scalar("bool", "?")
U16 = Scalar("u16", "H")
U32 = Scalar("u32", "I")
I32 = Scalar("i32", "i")
U64 = Scalar("u64", "Q")


@dataclass(frozen=True, slots=True)
class Struct:
    """A fixed layout stored inline. Values are the raw bytes; whoever declares it knows how to take them apart."""

    name: str
    size: int
    align: int = 1


@dataclass(frozen=True, slots=True)
class StringType:
    """UTF-8 text."""

    name: str = "string"


STRING = StringType()


@dataclass(frozen=True)
class Vector:
    """A counted sequence of scalars, structs, strings or tables."""

    element: Scalar | Struct | StringType | Table

    @property
    def name(self) -> str:
        """How errors call it."""
        return f"[{self.element.name}]"


@dataclass(frozen=True)
class Union:
    """One of several tables, told apart by a type code (0 is none)."""

    members: dict[int, Table]
    name: str = "union"

    def __hash__(self) -> int:
        return id(self)


@dataclass(frozen=True, slots=True)
class Required:
    """Marks a field without which a table is refused."""

    type: FieldType


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a table, where it is found and what it holds."""

    name: str
    slot: int
    type: FieldType
    required: bool


@dataclass(init=False, eq=False)
class Table:
    """A record of optional fields, found through a vtable."""

    name: str
    fields: dict[str, Field] = field(repr=False)
    slots: int
    defaults: dict[str, int] = field(repr=False)
    """What numbers are where they are absent."""

    def __init__(self, name: str, /, **fields: Any) -> None:
        self.name = name
        self.fields = {}
        slot = 0
        for key, kind in fields.items():
            required = isinstance(kind, Required)
            inner = kind.type if isinstance(kind, Required) else kind
            self.fields[key] = Field(key, slot, inner, required)
            slot += 2 if isinstance(inner, Union) else 1
        self.slots = slot
        self.defaults = {each.name: each.type.default for each in self.fields.values() if isinstance(each.type, Scalar)}


FieldType: TypeAlias = Scalar | Struct | StringType | Vector | Table | Union
