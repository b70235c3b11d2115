"""A repository as plain dictionaries: what the stateful test compares with.

It keeps whole trees instead of differences, and says nothing about files. Nodes have identities, so that an array that was
deleted and made again is another one; chunks belong to an identity.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeAlias

Coords: TypeAlias = tuple[int, ...]
_identities = itertools.count(1)


@dataclass(frozen=True)
class Node:
    """A group, or an array with so many chunks along each axis (`grid`)."""

    document: bytes
    grid: Coords | None = None
    identity: int = field(default_factory=lambda: next(_identities))

    @property
    def is_array(self) -> bool:
        return self.grid is not None


def is_below(path: str, ancestor: str) -> bool:
    """Whether a path is `ancestor` or lies below; the root is ""."""
    return ancestor == "" or path == ancestor or path.startswith(ancestor + "/")


def above(path: str) -> Iterator[str]:
    """All proper ancestors of a path."""
    while path:
        path = path.rpartition("/")[0]
        yield path


@dataclass
class Tree:
    """A hierarchy: nodes by path, chunks by node identity and coordinates."""

    nodes: dict[str, Node] = field(default_factory=dict)
    chunks: dict[int, dict[Coords, bytes]] = field(default_factory=dict)

    def copy(self) -> Tree:
        return Tree(dict(self.nodes), {identity: dict(chunks) for identity, chunks in self.chunks.items()})

    def arrays(self) -> list[str]:
        return sorted(path for path, node in self.nodes.items() if node.is_array)

    def chunks_of(self, path: str) -> dict[Coords, bytes]:
        """What can be read of an array: what lies in its grid."""
        node = self.nodes[path]
        assert node.grid is not None
        return {at: data for at, data in self.chunks.get(node.identity, {}).items() if in_grid(at, node.grid)}

    def visible(self) -> dict[str, bytes]:
        """Every zarr key, and what is there."""
        found = {join(path, "zarr.json"): node.document for path, node in self.nodes.items()}
        for path in self.arrays():
            for at, data in self.chunks_of(path).items():
                found[join(path, "/".join(["c", *map(str, at)]))] = data
        return found

    def committed(self) -> Tree:
        """What a commit makes of it: chunks outside of their grids, and of nodes that are gone, are dropped."""
        alive = {node.identity: path for path, node in self.nodes.items() if node.is_array}
        return Tree(dict(self.nodes), {identity: self.chunks_of(path) for identity, path in alive.items()})


def join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def in_grid(at: Coords, grid: Coords) -> bool:
    return len(at) == len(grid) and all(index < count for index, count in zip(at, grid, strict=True))


@dataclass
class Changes:
    """What a session or a commit changed: the paths of new and deleted nodes, identities of changed ones."""

    new: set[str] = field(default_factory=set)
    deleted: dict[str, Node] = field(default_factory=dict)
    updated: set[int] = field(default_factory=set)
    chunks: dict[int, set[Coords]] = field(default_factory=dict)
    moved: set[int] = field(default_factory=set)
    kept: dict[int, Coords] = field(default_factory=dict)
    """For an array that was made smaller, the corner below which its former chunks are left; ranks may differ."""
    settled: bool = False
    """Whether a rebase found everything to be done already."""

    def __bool__(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.new or self.deleted or self.updated or self.chunks or self.moved or self.settled)

    def copy(self) -> Changes:
        chunks = {identity: set(coords) for identity, coords in self.chunks.items()}
        moved, kept = set(self.moved), dict(self.kept)
        return Changes(set(self.new), dict(self.deleted), set(self.updated), chunks, moved, kept, self.settled)

    def having_made(self, paths: Iterable[str]) -> Changes:
        """The same, and these nodes made as well."""
        made = self.copy()
        made.new |= set(paths)
        return made

    def merged(self, later: Changes) -> Changes:
        """Both, one after the other, as an amended commit has them: what was made and deleted leaves no trace."""
        both = self.copy()
        both.new = (self.new - set(later.deleted)) | later.new
        both.deleted |= {path: node for path, node in later.deleted.items() if path not in self.new}
        both.updated |= later.updated
        for identity, coords in later.chunks.items():
            both.chunks.setdefault(identity, set()).update(coords)
        both.moved |= later.moved
        for node in (*self.deleted.values(), *later.deleted.values()):
            both.updated.discard(node.identity)
            both.chunks.pop(node.identity, None)
        return both


@dataclass
class Work:
    """A session: the tree as it sees it, and what it changed on top of the commit `base`, which has the tree `origin`.

    `opened` is when it began.
    """

    base: str
    branch: str
    tree: Tree
    origin: Tree
    opened: datetime
    changes: Changes = field(default_factory=Changes)

    def create(self, path: str, node: Node) -> None:
        """Make a node, or give it a new document; the kind must be the same."""
        former = self.tree.nodes.get(path)
        if former is None:
            self.tree.nodes[path] = node
            self.changes.new.add(path)
        elif former.document != node.document:
            self.tree.nodes[path] = replace(node, identity=former.identity)
            if node.grid is not None and former.grid is not None:
                self._cut_off(former.identity, former.grid, node.grid)
            if path not in self.changes.new:
                self.changes.updated.add(former.identity)

    def _cut_off(self, identity: int, former: Coords, grid: Coords) -> None:
        """Chunks that lie outside now are gone; under another rank all are, and those that were written never were."""
        if len(former) != len(grid):
            self.changes.chunks.pop(identity, None)
        chunks = self.tree.chunks.get(identity, {})
        self.tree.chunks[identity] = {at: data for at, data in chunks.items() if in_grid(at, grid)}
        kept = self.changes.kept.get(identity, former)
        same = len(kept) == len(former) == len(grid)
        self.changes.kept[identity] = tuple(map(min, kept, grid)) if same else (0,)

    def delete(self, path: str) -> None:
        """Delete a node and everything below it."""
        for each in [each for each in self.tree.nodes if is_below(each, path)]:
            node = self.tree.nodes.pop(each)
            self.tree.chunks.pop(node.identity, None)
            self.changes.chunks.pop(node.identity, None)
            self.changes.updated.discard(node.identity)
            if each in self.changes.new:
                self.changes.new.discard(each)
            else:
                self.changes.deleted[each] = node

    def set_chunk(self, path: str, at: Coords, data: bytes | None) -> None:
        """Write a chunk, or delete it."""
        identity = self.tree.nodes[path].identity
        chunks = self.tree.chunks.setdefault(identity, {})
        if data is None:
            chunks.pop(at, None)
        else:
            chunks[at] = data
        self.changes.chunks.setdefault(identity, set()).add(at)

    def shift(self, path: str, offset: Coords) -> None:
        """Shift the chunks of an array; those that leave the grid are dropped."""
        node = self.tree.nodes[path]
        former = self.tree.chunks_of(path)
        moved = {tuple(i + step for i, step in zip(at, offset, strict=True)): data for at, data in former.items()}
        assert node.grid is not None
        moved = {at: data for at, data in moved.items() if min(at, default=0) >= 0 and in_grid(at, node.grid)}
        for at in [*former, *moved]:
            self.set_chunk(path, at, moved.get(at))

    def move(self, source: str, target: str) -> None:
        """Move a node and everything below it."""
        for path in [path for path in self.tree.nodes if is_below(path, source)]:
            node = self.tree.nodes[target + path[len(source) :]] = self.tree.nodes.pop(path)
            self.changes.moved.add(node.identity)

    def rebased(self, base: str, theirs: Changes, tree: Tree) -> Work:
        """The session on top of a commit that does not contradict it."""
        changes = self.changes.copy()
        gone = {node.identity for node in theirs.deleted.values()}
        for path, node in self.changes.deleted.items():
            if node.identity in gone and (path not in tree.nodes or tree.nodes[path].identity != node.identity):
                del changes.deleted[path]
        changes.settled = False
        changes.settled = bool(self.changes) and not changes
        work = replace(self, base=base, changes=changes, origin=tree)
        work.tree = work.apply(tree)
        return work

    def apply(self, tree: Tree) -> Tree:
        """These changes, made to another tree."""
        out = tree.copy()
        for path, node in self.changes.deleted.items():
            if path in out.nodes and out.nodes[path].identity == node.identity:
                out.chunks.pop(out.nodes.pop(path).identity, None)
        for path in self.changes.new:
            out.nodes[path] = self.tree.nodes[path]
        alive = {node.identity for node in out.nodes.values()}
        for path, node in self.tree.nodes.items():
            if node.identity in self.changes.updated and node.identity in alive:
                out.nodes[path] = node
        for identity, kept in self.changes.kept.items():
            if identity in self.changes.updated and identity in alive:
                chunks = out.chunks.get(identity, {})
                out.chunks[identity] = {at: data for at, data in chunks.items() if in_grid(at, kept)}
        for identity, coords in self.changes.chunks.items():
            if identity in alive:
                mine, chunks = self.tree.chunks.get(identity, {}), out.chunks.setdefault(identity, {})
                for at in coords:
                    chunks.pop(at, None)
                    if at in mine:
                        chunks[at] = mine[at]
        return out


@dataclass
class Commit:
    """A snapshot: its tree, and what it changed with respect to the parent it was made with.

    `parent` may be another one by now, after an expiration; `stored` is when its file was written last.
    """

    id: str
    parent: str | None
    message: str
    tree: Tree
    written: datetime
    stored: datetime
    changes: Changes = field(default_factory=Changes)
    made_on: str | None = None
    lost: bool = False
    """Whether it got another parent, and what was changed in between is not told any more."""


def contradicts(ours: Work, theirs: Changes, tree: Tree, spec: int) -> bool:
    """Whether the changes of a session contradict those of a commit that led to `tree`: the rules, each in a line.

    The older format does not log moves: what was moved looks both deleted and new, as long as it is there.
    """
    mine, nodes = ours.changes, tree.nodes
    if theirs.moved and (spec == 2 or theirs.moved & {node.identity for node in nodes.values()}):
        return True
    gone = {node.identity for node in theirs.deleted.values()} | theirs.moved
    new_arrays = {path for path in theirs.new if path in nodes and nodes[path].is_array}
    changed_arrays = theirs.updated | set(theirs.chunks)
    return (
        any(path in nodes and not _replaces(mine, path, nodes[path]) for path in mine.new if theirs.new)
        or any(parent in new_arrays for path in mine.new for parent in above(path))
        or bool(mine.updated & (theirs.updated | gone))
        or any(identity in gone | theirs.updated for identity in mine.chunks)
        or any(coords & theirs.chunks.get(identity, set()) for identity, coords in mine.chunks.items())
        or any(
            identity in (changed_arrays if node.is_array else theirs.updated)
            for path, node in mine.deleted.items()
            for identity in (node.identity, *([nodes[path].identity] if path in nodes and path in theirs.new else []))
        )
    )


def _replaces(mine: Changes, path: str, existing: Node) -> bool:
    return path in mine.deleted and mine.deleted[path].identity == existing.identity


@dataclass
class Model:
    """A repository: its commits, and what its branches and tags point to; `root` is the first commit."""

    root: str
    commits: dict[str, Commit]
    branches: dict[str, str]
    tags: dict[str, str] = field(default_factory=dict)
    used_tags: set[str] = field(default_factory=set)

    def history(self, tip: str) -> list[str]:
        """A commit and its ancestors, newest first."""
        found = []
        at: str | None = tip
        while at is not None:
            found.append(at)
            at = self.commits[at].parent
        return found

    def reachable(self, tips: Iterable[str] | None = None) -> set[str]:
        """All commits that refs, or `tips`, lead to."""
        tips = [*self.branches.values(), *self.tags.values()] if tips is None else tips
        return {one for tip in tips for one in self.history(tip)}

    def missed(self, base: str, tip: str, spec: int) -> list[tuple[Commit, Commit]] | None:
        """The commits after `base` up to `tip`, oldest first; None where that cannot be told any more.

        In the newer format the logs of commits that have expired are kept, and count for the next commit that is left,
        which here comes before each of them.
        """
        left = set(self.history(tip))
        found: list[tuple[Commit, Commit]] = []
        at: str | None = tip
        owner = self.commits[tip]
        while at is not None and at != base:
            commit = self.commits[at]
            owner = commit if at in left else owner
            found.append((owner, commit))
            at = commit.parent if spec == 1 else commit.made_on
        if at is None:
            return None
        if spec == 1 and base == self.root and found and found[-1][1].lost:
            owner, first = found[-1]  # all that is there was made since, whoever made it
            found[-1] = owner, replace(first, changes=first.changes.having_made(owner.tree.nodes))
        return found[::-1]

    def rebased(self, work: Work, spec: int) -> Work | None:
        """A session as it is on the tip of its branch; None where that contradicts it, or cannot be told."""
        tip = self.branches.get(work.branch)
        missed = None if tip is None else self.missed(work.base, tip, spec)
        if missed is None:
            return None
        at_once = [(missed[-1][0], commit) for _, commit in missed]
        return _over(work, at_once, spec) or _over(work, missed, spec)

    def expire(self, known: Iterable[str], cutoff: datetime, branches: bool, tags: bool, spec: int) -> set[str]:
        """Forget what is older than `cutoff`; returns what was forgotten."""
        known = [one for one in known if spec == 2 or one in self.reachable()]
        old = {one for one in known if self.commits[one].written < cutoff and one != self.root}
        expired = old | {one for one in (self.root,) if spec == 1 and self.commits[one].written < cutoff}
        self.branches = {n: t for n, t in self.branches.items() if not (branches and n != "main" and t in expired)}
        self.tags = {name: tip for name, tip in self.tags.items() if not (tags and tip in expired)}
        gone = old - {*self.branches.values(), *self.tags.values()}
        for one in known:
            if one not in gone and self.commits[one].parent in (gone if spec == 2 else old):
                self.commits[one].parent = self.root
                self.commits[one].lost |= spec == 1
        return gone

    def collect(self, known: Iterable[str], cutoff: datetime, spec: int) -> list[str]:
        """Forget what nothing needs; returns what is left of `known`."""
        reached = self.reachable()
        young = {one for one in known if self.commits[one].stored >= cutoff}
        keep = reached | (young if spec == 2 else self.reachable(young))
        for one in keep:
            commit = self.commits[one]
            while commit.parent is not None and commit.parent not in keep:
                commit.parent = self.commits[commit.parent].parent
        return [one for one in known if one in keep]


def _over(work: Work, steps: Iterable[tuple[Commit, Commit]], spec: int) -> Work | None:
    for owner, commit in steps:
        if contradicts(work, commit.changes, owner.tree, spec):
            return None
        work = work.rebased(owner.id, commit.changes, owner.tree)
    return work
