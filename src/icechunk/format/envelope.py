"""The envelope of metadata files: 39 bytes of header, then the payload, a flatbuffer in one zstd frame.

    12 bytes magic · 24 bytes name of the writer · spec version · file type · compression (0 none, 1 zstd) · payload

`open_envelope` takes a file apart and `seal` makes one. Reading is wider than writing: a payload may be stored plain, or
as several frames. Nothing is believed that the file claims about its size: a zstd block holds 128 KiB at the most, so
walking over the headers of the blocks bounds what a frame can expand to before a single byte is allocated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import TypeAlias

import numpy as np
import zstandard

from icechunk._dataclass import dataclass
from icechunk.errors import ErrorKind, FormatError
from icechunk.format import zstd
from icechunk.format.segments import Segmentation, compress_segments, frame_extent

Buffer: TypeAlias = bytes | bytearray | memoryview

MAGIC = b"ICE\xf0\x9f\xa7\x8aCHUNK"
HEADER_SIZE = 39
WRITER_NAME = b"icpy-0.1".ljust(24)
LATEST_SPEC = 2
MAX_PAYLOAD = 2 << 30
"""No payload is larger: positions in a flatbuffer are signed 32-bit numbers."""

_PLAIN, _ZSTD = 0, 1
_COPY_BELOW = 1 << 20


class FileType(IntEnum):
    """What a file holds."""

    SNAPSHOT = 1
    MANIFEST = 2
    ATTRIBUTES = 3
    TRANSACTION_LOG = 4
    CHUNK = 5
    REPO_INFO = 6

    @property
    def label(self) -> str:
        """How error messages call it."""
        return self.name.title().replace("_", "")


@dataclass(frozen=True)
class Header:
    """What the first 39 bytes say: spec version, file type, compression, and the name of the writer."""

    spec: int
    file_type: FileType
    compression: int
    writer: str


def header_bytes(file_type: FileType, spec: int) -> bytes:
    """The header of a zstd-compressed file of ours."""
    return MAGIC + WRITER_NAME + bytes((spec, file_type, _ZSTD))


def read_header(data: Buffer, file: str) -> Header:
    """Take the header apart; raises `FormatError`, naming `file`, when it is none that this library can read."""
    if len(data) < HEADER_SIZE:
        raise _fail(file, f"invalid icechunk header size, got {len(data)} bytes, expected at least {HEADER_SIZE}")
    if bytes(data[:12]) != MAGIC:
        raise _fail(file, "invalid magic numbers in file")
    spec, kind, compression = data[36], data[37], data[38]
    if not 1 <= spec <= LATEST_SPEC:
        raise FormatError(
            f"{file}: this repository uses Icechunk format version {spec}, but this library only supports up to version "
            f"{LATEST_SPEC}. Please upgrade the icechunk library",
            ErrorKind.UNSUPPORTED_SPEC_VERSION,
        )
    try:
        file_type = FileType(kind)
    except ValueError:
        raise _fail(file, f"Icechunk encountered an unknown file type code {kind}") from None
    if compression not in (_PLAIN, _ZSTD):
        raise _fail(file, "Icechunk cannot read file, invalid compression algorithm")
    return Header(spec, file_type, compression, str(data[12:36], "utf-8", "replace").rstrip(" \0"))


def check_header(data: Buffer, expected: FileType, file: str) -> Header:
    """The header of a file that must be of type `expected`; raises `FormatError` where it is none."""
    header = read_header(data, file)
    if header.file_type is not expected:
        raise _fail(
            file, f"Icechunk cannot read this file type, expected {expected.label} got {header.file_type.label}"
        )
    return header


def open_envelope(data: Buffer, expected: FileType, file: str) -> tuple[Header, Buffer]:
    """The header and the decompressed payload of a file that must be of type `expected`.

    `file` is how errors call it. Raises `FormatError` for anything that is no such file.
    """
    header = check_header(data, expected, file)
    body = memoryview(data)[HEADER_SIZE:]
    if header.compression == _PLAIN:
        return header, body
    content: Buffer | None = zstd.decompress_small(body)
    if content is None:
        parts = list(_decompressed(body, file))
        content = parts[0] if len(parts) == 1 else b"".join(parts)
    return header, content


def seal(payload: Buffer, file_type: FileType, *, spec: int, level: int, segments: Segmentation | None = None) -> bytes:
    """A complete file around `payload`: one zstd frame, in independently readable segments where those are given."""
    _check_size(len(payload))
    if segments is not None:
        frame = compress_segments(payload, segments, level)
    else:
        frame = zstd.compress(payload, level)
    return header_bytes(file_type, spec) + frame


def seal_pieces(pieces: Iterable[Buffer], size: int, file_type: FileType, *, spec: int, level: int) -> bytes:
    """A complete file around a payload of `size` bytes that comes in pieces."""
    _check_size(size)
    return header_bytes(file_type, spec) + zstd.compress_pieces(pieces, size, level)


def _check_size(size: int) -> None:
    if size >= MAX_PAYLOAD:
        raise ValueError(f"a metadata file holds less than {MAX_PAYLOAD} bytes, this one would hold {size}")


def _decompressed(body: memoryview, file: str) -> Iterator[Buffer]:
    """The content of each frame, skippable ones left out."""
    total = pos = 0
    while pos < len(body) or not pos:
        extent = frame_extent(body, pos)
        if extent is None:
            raise _fail(file, f"the zstd frame at byte {HEADER_SIZE + pos} is broken or cut off")
        if not extent.skippable:
            content = _decompress(body[pos : extent.end], extent.bound, file)
            total += len(content)
            if total > MAX_PAYLOAD:
                raise _too_large(file)
            yield content
        pos = extent.end


def _decompress(frame: memoryview, bound: int, file: str) -> Buffer:
    """One frame. Read in steps into memory that is only touched where it is filled, and that may lie on large pages."""
    small = zstd.decompress_small(frame, bound)
    if small is not None:
        return small
    try:
        stated = zstandard.frame_content_size(frame)
        if stated > bound:
            raise _fail(file, f"a zstd frame of {len(frame)} bytes cannot hold {stated}")
        size = stated if stated >= 0 else bound
        if stated > MAX_PAYLOAD:
            raise _too_large(file)
        out = np.empty(min(size, MAX_PAYLOAD) + 1, np.uint8).data
        filled = 0
        with zstandard.ZstdDecompressor(max_window_size=1 << 31).stream_reader(frame) as reader:
            while step := reader.readinto(out[filled:]):
                filled += step
                if filled > MAX_PAYLOAD:
                    raise _too_large(file)
    except zstandard.ZstdError as error:
        raise _fail(file, f"cannot be decompressed: {error}") from None
    if stated >= 0 and filled != stated:
        raise _fail(file, f"the zstd frame ends after {filled} of {stated} bytes")
    return bytes(out[:filled]) if filled < _COPY_BELOW else out[:filled]


def _too_large(file: str) -> FormatError:
    return _fail(file, f"expands to more than {MAX_PAYLOAD} bytes")


def _fail(file: str, why: str) -> FormatError:
    return FormatError(f"{file}: {why}", ErrorKind.INVALID_FILE_FORMAT)
