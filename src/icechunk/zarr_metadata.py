"""What a `zarr.json` says that Icechunk has to know: group or array, and the shape of an array's chunk grid.

Documents are stored byte for byte as given; only the members below are looked at, whatever else stands in them. They
are read as the Zarr v3 specification has them:

    node_type          "group" or "array"
    shape              one length per dimension
    chunk_grid         "regular" (one chunk length per dimension) or "rectilinear" (the chunk lengths of each dimension)
    dimension_names    a name or null per dimension, may be missing

Documents of many arrays are often identical, so what was read last is kept.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.format.snapshot import DimensionShape, Node

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_LENGTH = 2**64 - 1
MAX_CHUNKS = 2**32 - 1
"""Coordinates of chunks are 32-bit numbers. A longer axis is allowed; its chunks past this one cannot be addressed."""

_REGULAR = "regular"
_RECTILINEAR = "rectilinear"
_KEEP_UP_TO = 32768


class NodeMetadata(NamedTuple):
    """The part of a metadata document that Icechunk uses; `shape` is empty for a group."""

    is_array: bool
    shape: tuple[DimensionShape, ...]
    dimension_names: tuple[str | None, ...] | None
    regular: bool = True


_GROUP = NodeMetadata(False, (), None)


def parse_metadata(raw: bytes, *, rectilinear: bool = True) -> NodeMetadata:
    """Read a `zarr.json`.

    Set `rectilinear` to False where the format of the repository has no place for grids that are not regular.

    Raises `InvalidInputError`: kind `bad-metadata` for a document that is no description of a node, kind
    `invalid-array-metadata` for one that describes an array which cannot be.
    """
    found = _parse_kept(raw) if len(raw) <= _KEEP_UP_TO else _parse(raw)
    if not (rectilinear or found.regular):
        raise _bad_grid(
            "Non-regular chunk grids are not supported in icechunk format version 1. Please use spec_version=2 or higher."
        )
    return found


def _parse(raw: bytes) -> NodeMetadata:
    document = _load(raw)
    node_type = _member(document, "node_type")
    if node_type == "group":
        return _GROUP
    if node_type != "array":
        raise _bad(f"invalid value for `node_type`: {_show(node_type)}, expected 'array' or 'group'")
    lengths = _lengths(_member(document, "shape"), "shape")
    grid = _object(_member(document, "chunk_grid"), "chunk_grid")
    name = _member(grid, "name")
    configuration = _object(_member(grid, "configuration"), "configuration")
    if name == _REGULAR:
        shape = _regular(lengths, configuration)
    elif name == _RECTILINEAR:
        shape = _rectilinear(lengths, configuration)
    else:
        raise _bad_grid(f"Unsupported chunk grid {name}. Only 'regular' and 'rectilinear' chunk grids are supported.")
    names = _dimension_names(document.get("dimension_names"), len(shape))
    return NodeMetadata(True, shape, names, name == _REGULAR)


_parse_kept = lru_cache(maxsize=512)(_parse)


def _load(raw: bytes) -> dict[str, Any]:
    try:
        document = json.loads(str(raw, "utf-8"))
    except RecursionError:
        raise _bad("it is nested too deeply") from None
    except ValueError as error:
        raise _bad(str(error)) from None
    return _object(document, "zarr.json")


def _regular(lengths: list[int], configuration: dict[str, Any]) -> tuple[DimensionShape, ...]:
    try:
        chunk_lengths = _lengths(configuration.get("chunk_shape"), "chunk_shape")
    except InvalidInputError:
        raise _bad_grid("cannot parse `chunk_shape` for regular chunk grid") from None
    _check_rank(lengths, chunk_lengths)
    return tuple(map(_regular_dimension, lengths, chunk_lengths))


def _regular_dimension(length: int, chunk_length: int) -> DimensionShape:
    if chunk_length:
        return DimensionShape(length, min(-(-length // chunk_length), MAX_CHUNKS), chunk_length)
    if length:
        raise InvalidInputError(
            f"invalid array metadata: chunks of length 0 cannot cover a dimension of length {length}",
            ErrorKind.INVALID_ARRAY_METADATA,
        )
    return DimensionShape(0, 0, 0)


def _rectilinear(lengths: list[int], configuration: dict[str, Any]) -> tuple[DimensionShape, ...]:
    axes = configuration.get("chunk_shapes")
    if not isinstance(axes, list):
        raise _bad_grid("cannot parse `chunk_shapes` for rectilinear chunk grid")
    _check_rank(lengths, axes)
    return tuple(
        DimensionShape(length, min(_count_chunks(length, axis), MAX_CHUNKS), None)
        for length, axis in zip(lengths, axes, strict=True)
    )


def _count_chunks(length: int, axis: Any) -> int:
    """How many chunks a dimension has: its chunk length, or the list of them with runs written as [length, count]."""
    if _is_length(axis) and axis > 0:
        return int(-(-length // axis))
    if isinstance(axis, list):
        counts = [_run(item) for item in axis]
        if None not in counts:
            return sum(count for count in counts if count is not None)
    raise _bad_grid("cannot parse `chunk_shapes` for rectilinear chunk grid")


def _run(item: Any) -> int | None:
    if _is_length(item):
        return 1
    if isinstance(item, list) and len(item) == 2 and all(map(_is_length, item)):
        return int(item[1])
    return None


def _dimension_names(names: Any, ndim: int) -> tuple[str | None, ...] | None:
    if names is None:
        return None
    if not isinstance(names, list):
        raise _bad(f"invalid type for `dimension_names`: {_show(names)}, expected a sequence")
    for name in names:
        if name is not None and not isinstance(name, str):
            raise _bad(f"invalid type in `dimension_names`: {_show(name)}, expected a string or null")
    if len(names) > ndim:
        raise _bad(f"`dimension_names` has {len(names)} names for {ndim} dimensions")
    return tuple(names)


def _lengths(values: Any, member: str) -> list[int]:
    if not isinstance(values, list):
        raise _bad(f"invalid type for `{member}`: {_show(values)}, expected a sequence")
    for value in values:
        if not _is_length(value):
            raise _bad(f"invalid value in `{member}`: {_show(value)}, expected a whole number from 0 to 2**64 - 1")
    return values


def _is_length(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_LENGTH


def _check_rank(lengths: Sequence[int], axes: Sequence[Any]) -> None:
    if len(axes) < len(lengths):
        raise _bad_grid(f"Fewer dimensions on inferred number of chunks {len(axes)} than shape {len(lengths)}")
    if len(axes) > len(lengths):
        raise _bad_grid(f"More dimensions on inferred number of chunks {len(axes)} than shape {len(lengths)}")


def _object(value: Any, name: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise _bad(f"invalid type for `{name}`: {_show(value)}, expected an object")


def _member(document: dict[str, Any], name: str) -> Any:
    try:
        return document[name]
    except KeyError:
        raise _bad(f"missing field `{name}`") from None


def _show(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _bad(reason: str) -> InvalidInputError:
    return InvalidInputError(f"bad metadata: {reason}", ErrorKind.BAD_METADATA)


def _bad_grid(reason: str) -> InvalidInputError:
    return InvalidInputError(f"error decoding Zarr chunk grid metadata: `{reason}`", ErrorKind.BAD_METADATA)


_DESCRIPTIVE = frozenset({"attributes", "dimension_names", "shape"})


def encoding(node: Node) -> dict[str, Any]:
    """What the document of an array says about the meaning of its chunks: all but its shape and its description."""
    document = json.loads(node.metadata)
    return {name: value for name, value in document.items() if name not in _DESCRIPTIVE}


# --- where chunks may be ----------------------------------------------------------------------------------------------


def in_grid(shape: Sequence[DimensionShape], coords: Sequence[int]) -> bool:
    """Whether an array of this shape can have a chunk at `coords`.

    A dimension of length 0 still takes index 0: that is what the format's other writers accept.
    """
    if len(coords) != len(shape):
        return False
    for dimension, index in zip(shape, coords, strict=True):  # noqa: SIM110  # twice as fast as all()
        if not 0 <= index < (dimension.chunks or 1):
            return False
    return True


def check_coords(node: Node, coords: Sequence[int]) -> None:
    """Refuse coordinates that the array cannot have: of another rank, or outside its chunk grid.

    Raises `InvalidInputError` with kind `invalid-chunk-index`.
    """
    if not in_grid(node.shape, coords):
        raise _outside(node, list(coords))


def check_all_coords(node: Node, coords: NDArray[np.uint32]) -> None:
    """`check_coords` for many chunks of one array: a row of `coords` per chunk."""
    if coords.shape[1] != len(node.shape):
        raise _outside(node, coords[0].tolist() if len(coords) else [])
    for axis, dimension in enumerate(node.shape):
        wrong = coords[:, axis] >= max(dimension.chunks, 1)
        if wrong.any():
            raise _outside(node, coords[int(wrong.argmax())].tolist())


def _outside(node: Node, coords: list[int]) -> InvalidInputError:
    grid = [dimension.chunks for dimension in node.shape]
    return InvalidInputError(
        f"invalid chunk index: coordinates {coords} are not valid for array at {node.path}, its grid has {grid} chunks",
        ErrorKind.INVALID_CHUNK_INDEX,
    )
