"""Zarr keys: what a key of the store names, and the key of a node or a chunk.

    zarr.json, <path>/zarr.json              metadata of a node; the root has the empty path
    c, c/0/1, <path>/c, <path>/c/0/1         a chunk; no number at all is the one chunk of a 0-d array
    <path>/.zarray (.zgroup, .zattrs ...)    Zarr v2 metadata, which is never there

The last segment that equals `c` divides path from coordinates, so an array may itself be called `c`. Coordinates are
canonical decimals below 2**32. A leading `/` and `.` segments mean nothing and are dropped; everything else, `..` and
empty segments included, is no key.

Parsing a chunk key is on the path of every read and write of a chunk. It costs one split and two dictionary look-ups:
one from the text before `c` to a node path, one per coordinate from its text to its number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from icechunk.errors import ErrorKind, InvalidInputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

METADATA_NAME = "zarr.json"
CHUNK_SEGMENT = "c"
V2_NAMES = frozenset({".zgroup", ".zarray", ".zattrs", ".zmetadata"})
MAX_COORDINATE = 2**32 - 1

_NAMES = V2_NAMES | {METADATA_NAME, CHUNK_SEGMENT}
_MEMO_LIMIT = 16384


class MetadataKey(NamedTuple):
    """The metadata document of the node at `path`."""

    path: str


class ChunkKey(NamedTuple):
    """The chunk at `coords` of the array at `path`."""

    path: str
    coords: tuple[int, ...]


class V2Key(NamedTuple):
    """A metadata document of Zarr v2, called `name`, of the node at `path`."""

    path: str
    name: str


ZarrKey: TypeAlias = MetadataKey | ChunkKey | V2Key


class KeyPrefix(NamedTuple):
    """What a prefix of keys may mean.

    It names the node at `path`, if there is one. Otherwise, when `array_path` is not None, it names those chunks of
    the array there whose first coordinates are `coords`.
    """

    path: str
    array_path: str | None
    coords: tuple[int, ...]


class _NotAKey(Exception):
    """The text is no key; `str` says why."""


class _Coordinates(dict[str, int]):
    """From the text of a coordinate to its number; the small ones are ready, the others are parsed when asked for."""

    def __missing__(self, text: str) -> int:
        if not (text.isascii() and text.isdigit()):
            raise _NotAKey(f"`{text}` is no chunk coordinate")
        if text[0] == "0" and text != "0":
            raise _NotAKey(f"`{text}` has leading zeros")
        number = int(text) if len(text) <= 10 else MAX_COORDINATE + 1
        if number > MAX_COORDINATE:
            raise _NotAKey(f"`{text}` is larger than {MAX_COORDINATE}")
        return number


class _Paths(dict[str, str]):
    """From the text before `zarr.json` or `c` to the absolute path of a node; recent ones are kept."""

    def __missing__(self, text: str) -> str:
        path = _normalise(text)
        if len(self) >= _MEMO_LIMIT:
            self.clear()
        self[text] = path
        return path


def _normalise(text: str) -> str:
    """The absolute path meant by a relative one; raises `_NotAKey`."""
    segments = [segment for segment in text.removeprefix("/").split("/") if segment != "."]
    if segments in ([], [""]):
        return "/"
    for segment in segments:
        if segment == "":
            raise _NotAKey("it has an empty segment")
        if segment == "..":
            raise _NotAKey("`..` leads out of a node")
    return "/" + "/".join(segments)


_coordinate = _Coordinates({str(number): number for number in range(4096)}).__getitem__
_path = _Paths().__getitem__


def parse_key(key: str) -> ZarrKey:
    """What `key` names.

    Raises `InvalidInputError` with kind `invalid-key` when it is neither a metadata document nor a chunk.
    """
    head, divider, tail = key.rpartition("/c/")
    try:
        if divider:
            return ChunkKey(_path(head), tuple(map(_coordinate, tail.split("/"))))
        return _parse_other(key)
    except _NotAKey as reason:
        return _reconsider(key, reason)


def _parse_other(key: str) -> ZarrKey:
    """A key that is no chunk of a node below the root, or is one of a 0-d array."""
    parent, _, name = key.rpartition("/")
    if name == METADATA_NAME:
        return MetadataKey(_path(parent))
    if name == CHUNK_SEGMENT:
        return ChunkKey(_path(parent), ())
    if name in V2_NAMES:
        return V2Key(_path(parent), name)
    bare = key.removeprefix("./")
    if bare.startswith("c/"):
        return ChunkKey("/", tuple(map(_coordinate, bare[2:].split("/"))))
    raise _NotAKey("it names neither a `zarr.json` nor a chunk such as `c/0/1`")


def _reconsider(key: str, reason: _NotAKey) -> ZarrKey:
    """What looked like a chunk may still be something below a node called `c`, such as `c/x/zarr.json`."""
    try:
        if key.rpartition("/")[2] in _NAMES:
            return _parse_other(key)
    except _NotAKey as better:
        reason = better
    raise InvalidInputError(
        f"invalid zarr key format `{key}`: {reason}; keys are `<path>/zarr.json` and `<path>/c/<n>/<n>...`",
        ErrorKind.INVALID_KEY,
    ) from None


def parse_prefix(prefix: str, kind: ErrorKind = ErrorKind.BAD_KEY_PREFIX) -> KeyPrefix:
    """What a prefix of keys, with or without a final `/`, may mean; the empty one is the root.

    A prefix is made of whole segments: `g` does not stand for `g-1`. Raises `InvalidInputError` of the given `kind`
    when it leads out of the hierarchy.
    """
    try:
        path = _path(prefix.removesuffix("/"))
    except _NotAKey as reason:
        raise InvalidInputError(f"bad key prefix ({prefix}): cannot convert to a path, {reason}", kind) from None
    head, divider, tail = path.rpartition("/c/")
    if not divider:
        parent, _, name = path.rpartition("/")
        return KeyPrefix(path, (parent or "/") if name == CHUNK_SEGMENT else None, ())
    if path.endswith("/c"):  # `a/c/b/c`: the last segment is nearer than the divider found
        return KeyPrefix(path, path[:-2], ())
    try:
        return KeyPrefix(path, head or "/", tuple(map(_coordinate, tail.split("/"))))
    except _NotAKey:
        return KeyPrefix(path, None, ())


def format_key(key: ZarrKey) -> str:
    """The text of a key, without a leading `/`; the inverse of `parse_key`."""
    match key:
        case MetadataKey(path):
            return metadata_key(path)
        case ChunkKey(path, coords):
            return chunk_key(path, coords)
        case V2Key(path, name):
            return _under(path, name)


def metadata_key(path: str) -> str:
    """The key of the metadata of the node at the absolute `path`."""
    return _under(path, METADATA_NAME)


def chunk_key(path: str, coords: Sequence[int]) -> str:
    """The key of one chunk of the array at the absolute `path`."""
    return "/".join([_under(path, CHUNK_SEGMENT), *map(str, coords)])


def chunk_keys(path: str, coords: NDArray[np.uint32]) -> list[str]:
    """The keys of many chunks of one array; `coords` has a row per chunk."""
    base = _under(path, CHUNK_SEGMENT)
    if coords.shape[1] == 0:
        return [base] * len(coords)
    template = base.replace("%", "%%") + "/%d" * coords.shape[1]
    rows: Iterable[list[int]] = coords.tolist()
    return [template % tuple(row) for row in rows]


def _under(path: str, name: str) -> str:
    return name if path == "/" else f"{path[1:]}/{name}"
