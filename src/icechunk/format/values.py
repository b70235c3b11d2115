"""Metadata values: JSON in Python, bytes in files.

Users attach properties to commits and metadata to repositories. `to_json_domain` turns what they give into plain JSON
values once, before anything is written; spec 1 stores those as MessagePack, spec 2 as FlexBuffers. Which of both a file
holds is said by the file's own header: a migrated repository has both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from icechunk.flatbuf.reader import TableView
from icechunk.format.flexbuffers import MAX_DEPTH, decode_flexbuffer, encode_flexbuffer
from icechunk.format.msgpack import decode_msgpack, encode_msgpack

__all__ = [
    "decode_flexbuffer",
    "decode_msgpack",
    "decode_value",
    "encode_flexbuffer",
    "encode_msgpack",
    "encode_value",
    "items_of",
    "read_items",
    "to_json_domain",
]

Buffer: TypeAlias = bytes | bytearray | memoryview


def encode_value(value: Any, spec: int) -> bytes:
    """The bytes of a JSON value in a file of spec 1 (MessagePack) or 2 (FlexBuffers)."""
    return encode_msgpack(value) if spec == 1 else encode_flexbuffer(value)


def decode_value(raw: Buffer, spec: int, file: str) -> Any:
    """The JSON value of bytes found in a file whose header says `spec`; raises `FormatError`, naming `file`."""
    return decode_msgpack(raw, file) if spec == 1 else decode_flexbuffer(raw, file)


def items_of(metadata: Mapping[str, Any], spec: int) -> list[dict[str, Any]]:
    """`MetadataItem` tables of a mapping, sorted by the bytes of the names."""
    return [{"name": name, "value": encode_value(metadata[name], spec)} for name in sorted(metadata)]


def read_items(items: Iterable[TableView] | None, spec: int, file: str) -> dict[str, Any]:
    """The mapping that `MetadataItem` tables hold; empty when there are none."""
    found: dict[str, Any] = {}
    for item in items or ():
        name = item["name"]
        found[name] = decode_value(item["value"], spec, f"{file}: property `{name}`")
    return found


def to_json_domain(value: Any, depth: int = 0) -> Any:
    """What is stored of a value that a user gave: None, bool, int, float, str, list and dict, nothing else.

    Tuples and other sequences, arrays among them, become lists, bytes lists of integers, numbers of numpy plain ones,
    integers beyond 64 bits floats; NaN and the infinities become None, as JSON has no form for them.

    Raises `TypeError` for keys that are no text and for objects that are none of these, and `ValueError` for nesting
    deeper than 200 levels, which is also what a list that contains itself comes to.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return _integer(int(value))
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if depth >= MAX_DEPTH:
        raise ValueError(f"metadata is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        return {_key(name): to_json_domain(item, depth + 1) for name, item in value.items()}
    if isinstance(value, bytes | bytearray | memoryview):
        return list(bytes(value))
    if isinstance(value, Sequence):
        return [to_json_domain(item, depth + 1) for item in value]
    return _foreign(value, depth)


def _foreign(value: Any, depth: int) -> Any:
    """Arrays and scalars of numpy and the like, known by what they can do."""
    if callable(getattr(value, "tolist", None)):
        return to_json_domain(value.tolist(), depth + 1)
    if hasattr(value, "__index__"):
        return _integer(value.__index__())
    if hasattr(value, "__float__"):
        return to_json_domain(float(value), depth)
    raise TypeError(f"metadata holds JSON values only, and {type(value).__name__!r} is none: {value!r:.100}")


def _key(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"keys of metadata are str, not {type(name).__name__!r}: {name!r:.100}")
    return _text(name)


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise TypeError(f"metadata holds text that is not Unicode ({error})") from None
    return str(value)


def _integer(value: int) -> int | float:
    if -(1 << 63) <= value < 1 << 64:
        return value
    try:
        return float(value)
    except OverflowError:
        raise TypeError("metadata holds an integer that is too large even for a float") from None
