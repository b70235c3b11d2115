"""What every backend needs: checked paths, resolved byte ranges, pieces as one buffer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.storage.base import Buffer, ByteRange, Condition, Unchanged

BATCH = 1000
"""Lines of a listing that are handed over at once."""

# at least one part; no part is empty, "." or ".."; no part holds a NUL
_PART = r"(?!\.{1,2}(?:/|\Z))[^/\0]+"
_PATH = re.compile(rf"{_PART}(?:/{_PART})*")


def check_path(path: str) -> None:
    """Refuse a path that is no name of an object: empty, absolute, or with a part that is empty, `.` or `..`."""
    if _PATH.fullmatch(path) is None:
        raise InvalidInputError(
            f"invalid object path {path!r}: it must be relative, and no part of it empty, '.' or '..'",
            ErrorKind.INVALID_PATH,
        )


def check_prefix(prefix: str) -> None:
    """Refuse a prefix of a listing that is neither empty nor a path followed by `/`."""
    if not prefix:
        return
    if not prefix.endswith("/"):
        raise InvalidInputError(f"invalid prefix {prefix!r}: it must be empty or end in '/'", ErrorKind.INVALID_PATH)
    check_path(prefix[:-1])


def check_condition(condition: Condition) -> None:
    """Refuse to compare with a version that nobody knows."""
    if isinstance(condition, Unchanged) and not condition.since.is_known:
        raise InvalidInputError("a write cannot be conditional on an unknown version", ErrorKind.STORAGE_OTHER)


def resolve_range(byte_range: ByteRange | None, size: int) -> tuple[int, int]:
    """`byte_range` of an object of `size` bytes as `start <= stop`, both within it."""
    if byte_range is None:
        return 0, size
    start, stop = byte_range
    if start < 0:
        if stop is not None:
            raise InvalidInputError(f"a range that counts from the end has no stop: {byte_range}")
        start = max(size + start, 0)
    start = min(start, size)
    stop = size if stop is None else min(stop, size)
    return start, max(start, stop)


def size_of(data: Buffer | Sequence[Buffer]) -> int:
    """How many bytes `data` holds."""
    if isinstance(data, (bytes, bytearray)):
        return len(data)
    if isinstance(data, memoryview):
        return data.nbytes
    return sum(size_of(piece) for piece in data)


def pieces_of(data: Buffer | Sequence[Buffer]) -> Sequence[Buffer]:
    """`data` as a sequence of buffers, without copying."""
    return (data,) if isinstance(data, (bytes, bytearray, memoryview)) else data


def as_bytes(data: Buffer | Sequence[Buffer]) -> bytes:
    """`data` as one immutable object; a copy unless it is one already."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, (bytearray, memoryview)):
        return bytes(data)
    return b"".join(data)
