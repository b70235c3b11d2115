"""Models of a hierarchy, to compare a repository with: a tree as a value, and a store that is a plain dictionary.

`GroupNode` and `ArrayNode` describe a hierarchy without its data. `ModelStore` is zarr's memory store with the few verbs
that only Icechunk has; doing the same to a `ModelStore` and to a session must give the same keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, ClassVar, TypeAlias

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

_METADATA = "zarr.json"


@dataclass(frozen=True)
class ArrayNode:
    """An array: its shape and the type of its elements."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class GroupNode:
    """A group: its members by name.

    Paths that go in and come out are relative to it, without a slash at either end, unless a `prefix` is put before them.
    """

    children: Mapping[str, Node] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> GroupNode:
        """A group written as nested dictionaries, with `ArrayNode` for the arrays."""
        return cls({name: item if isinstance(item, ArrayNode) else cls.from_dict(item) for name, item in d.items()})

    @classmethod
    def from_paths(cls, arrays: Iterable[str], groups: Iterable[str]) -> GroupNode:
        """The tree of these absolute paths, with small arrays. Groups above them need not be named.

        Raises `ValueError` for a path that is not absolute or that is both an array and a group.
        """
        nested: dict[str, Any] = {}
        for path in sorted(groups):
            _dig(nested, path)
        for path in sorted(arrays):
            parent, slash, name = path.rpartition("/")
            place = _dig(nested, parent + slash)
            if not name or name in place:
                raise ValueError(f"{path} is a group, it cannot be an array too")
            place[name] = ArrayNode((1,), np.dtype("i4"))
        return cls.from_dict(nested)

    @classmethod
    def from_store(cls, store: Store) -> GroupNode:
        """The tree that a store holds."""
        return cls.from_dict(_nested((path, _described(node)) for path, node in _members(store)))

    @classmethod
    async def from_store_async(cls, store: Store) -> GroupNode:
        """The tree that a store holds."""
        root = await zarr.api.asynchronous.open_group(store, mode="r")
        return cls.from_dict(_nested([(path, _described(node)) async for path, node in root.members(max_depth=None)]))

    def walk(self, prefix: str = "") -> Iterator[tuple[PurePosixPath, Node]]:
        """Every node below this one with its path: a group, then its members, level by level below it."""
        base = PurePosixPath(prefix)
        below: list[tuple[PurePosixPath, GroupNode]] = []
        for name, node in self.children.items():
            yield base / name, node
            if isinstance(node, GroupNode):
                below.append((base / name, node))
        for path, group in below:
            yield from group.walk(str(path))

    def nodes(self, prefix: str = "", *, include_root: bool = False) -> list[str]:
        """The paths of all nodes."""
        return [*([prefix] if include_root else []), *(str(path) for path, _ in self.walk(prefix))]

    def groups(self, prefix: str = "", *, include_root: bool = False) -> list[str]:
        """The paths of all groups."""
        paths = (str(path) for path, node in self.walk(prefix) if isinstance(node, GroupNode))
        return [*([prefix] if include_root else []), *paths]

    def arrays(self, prefix: str = "") -> list[str]:
        """The paths of all arrays."""
        return [str(path) for path, node in self.walk(prefix) if isinstance(node, ArrayNode)]

    def materialize(self, store: Store) -> zarr.Group:
        """Create the tree, without data, at the root of a store; returns the root group."""
        root = zarr.group(store, overwrite=True)
        for path, node in self.walk():
            if isinstance(node, ArrayNode):
                root.create_array(str(path), shape=node.shape, dtype=node.dtype)
            else:
                root.create_group(str(path))
        return root


Node: TypeAlias = ArrayNode | GroupNode


def _dig(nested: dict[str, Any], path: str) -> dict[str, Any]:
    """The dictionary of the group at an absolute path, made if need be."""
    if not path.startswith("/"):
        raise ValueError(f"path must start with '/'; got {path!r}")
    for name in filter(None, path.split("/")):
        nested = nested.setdefault(name, {})
        if not isinstance(nested, dict):
            raise ValueError(f"{path} lies below an array")
    return nested


def _nested(nodes: Iterable[tuple[str, ArrayNode | None]]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for path, node in sorted(nodes, key=lambda item: item[0].count("/")):
        *parents, name = path.split("/")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = {} if node is None else node
    return nested


def _members(store: Store) -> Iterable[tuple[str, Any]]:
    return zarr.open_group(store, mode="r").members(max_depth=None)


def _described(node: Any) -> ArrayNode | None:
    shape = getattr(node, "shape", None)
    return None if shape is None else ArrayNode(tuple(shape), np.dtype(node.dtype))


class ModelStore(MemoryStore):
    """A store in a dictionary with Icechunk's own verbs, done in the plainest way there is.

    It checks nothing: it is for what is known to be allowed.
    """

    spec_version: ClassVar[Any] = None
    """The format of the repository that it is a model of, where that matters to a test."""

    def __init__(self, store_dict: dict[str, Buffer] | None = None, *, read_only: bool = False) -> None:
        super().__init__(store_dict, read_only=read_only)

    async def copy(self) -> ModelStore:
        """An independent store with the same content."""
        other = type(self)(dict(self._store_dict))
        if self.spec_version is not None:
            other.spec_version = self.spec_version  # type: ignore[misc]
        return other

    async def move(self, source: str, dest: str) -> None:
        """Move a node, and everything below it, to another absolute path."""
        if not (source.startswith("/") and dest.startswith("/")):
            raise ValueError(f"paths must start with '/'; got source={source!r}, dest={dest!r}")
        old, new = source.strip("/") + "/", dest.strip("/") + "/"
        moved = {key: self._store_dict.pop(key) for key in list(self._store_dict) if key.startswith(old)}
        self._store_dict.update({new + key[len(old) :]: value for key, value in moved.items()})

    async def shift_array(self, array_path: str, offset: Sequence[int], num_chunks: Sequence[int]) -> None:
        """Shift the chunks of an array whose grid has `num_chunks` per dimension; those that leave it are dropped."""
        head = array_path.strip("/") + "/c/" if array_path.strip("/") else "c/"
        moved = {key: self._store_dict.pop(key) for key in list(self._store_dict) if key.startswith(head)}
        for key, value in moved.items():
            target = [int(index) + step for index, step in zip(key[len(head) :].split("/"), offset, strict=True)]
            if all(0 <= index < count for index, count in zip(target, num_chunks, strict=True)):
                self._store_dict[head + "/".join(map(str, target))] = value
