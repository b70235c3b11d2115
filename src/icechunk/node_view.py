"""A snapshot and a change set, seen as one hierarchy.

Lookups ask the change set first and the snapshot for the rest. Nodes of the snapshot are found by binary search in its
bytes; the last ones found are kept, since an array is usually asked for chunk after chunk. Moves are undone on the way
down and redone on the way up: the node keeps its id, only the path by which it is known changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from icechunk.change_set import ChangeSet
from icechunk.format.snapshot import Node, Snapshot
from icechunk.format.transaction_log import Move

_KEPT_NODES = 4096


def is_below(path: str, ancestor: str) -> bool:
    """Whether `path` is `ancestor` or lies below it."""
    return ancestor == "/" or path == ancestor or path.startswith(ancestor + "/")


class NodeView:
    """What a session sees: `snapshot` under the changes of `change_set`, which may go on changing.

    It may be looked at while others make changes: dictionaries are copied, which is one step, before they are gone through.
    """

    def __init__(self, snapshot: Snapshot, change_set: ChangeSet) -> None:
        self.snapshot = snapshot
        self.change_set = change_set
        self._kept: dict[str, Node | None] = {}

    def find(self, path: str) -> Node | None:
        """The node at `path`, under its present metadata."""
        changes = self.change_set
        if changes.new_nodes:
            node = changes.new_nodes.get(path)
            if node is not None:
                return node
        if changes.deleted and path in changes.deleted:
            return None
        source: str | None = path
        if changes.moves:
            source = path_before(changes.moves, path)
        if source is None:
            return None
        node = self.in_snapshot(source)
        if node is None:
            return None
        updated = changes.updated.get(node.id) if changes.updated else None
        if updated is not None:
            # what is updated is the metadata; after a rebase the manifests are those of the new snapshot
            node = updated if updated.manifests == node.manifests else replace(updated, manifests=node.manifests)
        return node if node.path == path else replace(node, path=path)

    def in_snapshot(self, path: str) -> Node | None:
        """The node that the snapshot has at `path`."""
        try:
            return self._kept[path]
        except KeyError:
            pass
        node = self.snapshot.find(path)
        if len(self._kept) >= _KEPT_NODES:
            self._kept.clear()
        self._kept[path] = node
        return node

    def paths(self, under: str = "/") -> list[str]:
        """The paths of the node at `under` and of all below it, in the order of the format."""
        changes = self.change_set
        if changes.moves:
            paths = self._moved_paths(under)
        elif under == "/":
            paths = self.snapshot.paths()
        else:
            paths = self.snapshot.subtree_paths(under)
        if changes.deleted:
            paths = [path for path in paths if path not in changes.deleted]
        new = [path for path in list(changes.new_nodes) if is_below(path, under)]
        return sort_paths([*paths, *new]) if new else list(paths)

    def _moved_paths(self, under: str) -> list[str]:
        moved = (path_after(self.change_set.moves, path) for path in self.snapshot.paths())
        return sort_paths(path for path in moved if is_below(path, under))

    def nodes(self, under: str = "/") -> Iterator[Node]:
        """The node at `under` and all below it, in the order of the format."""
        changes = self.change_set
        if not changes:
            yield from self.snapshot.nodes(under)
            return
        for path in self.paths(under):
            node = self.find(path)
            if node is not None:
                yield node

    def children(self, path: str) -> list[str]:
        """The names of the nodes directly below `path`."""
        changes = self.change_set
        if not changes.moves and not changes.new_nodes and not changes.deleted:
            return self.snapshot.children(path)
        head = "" if path == "/" else path
        if changes.moves:
            names = {child[len(head) + 1 :] for child in self._moved_paths(path) if child not in (path, "/")}
            names = {name for name in names if "/" not in name}
        else:
            names = {name for name in self.snapshot.children(path) if f"{head}/{name}" not in changes.deleted}
        start = len(head) + 1
        for new in list(changes.new_nodes):
            if new.startswith(head + "/") and len(new) > start and "/" not in new[start:]:
                names.add(new[start:])
        return sorted(names)

    def is_vacant(self, path: str) -> bool:
        """Whether nothing is at `path`, nor below it."""
        moves = self.change_set.moves
        if not moves:
            return not self.paths(path)
        source = path_before(moves, path)
        stayed = () if source is None else self.snapshot.subtree_paths(source)
        return not any(is_below(path_after(moves, each), path) for each in stayed)

    def subtree(self, path: str) -> list[tuple[str, bytes, bool]]:
        """Path, id and whether it is an array, of the node at `path` and of all below it."""
        return [(node.path, node.id, node.is_array) for node in self.nodes(path)]


def sort_paths(paths: Iterable[str]) -> list[str]:
    """In the order of the format: by the bytes of the UTF-8 text."""
    ordered = sorted(paths)
    if all(map(str.isascii, ordered)):
        return ordered
    return sorted(ordered, key=lambda path: path.encode())


def path_after(moves: Iterable[Move], path: str) -> str:
    """Where the node that was at `path` is after `moves`."""
    for move in moves:
        if is_below(path, move.source):
            path = move.target + path[len(move.source) :]
    return path


def path_before(moves: Iterable[Move], path: str) -> str | None:
    """Where the node now at `path` was before `moves`; None when nothing can be there any more."""
    for move in reversed(list(moves)):
        if is_below(path, move.target):
            path = move.source + path[len(move.target) :]
        elif is_below(path, move.source):
            return None
    return path
