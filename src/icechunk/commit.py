"""Turning a change set into the files of a new snapshot.

1. Chunks are already written, when they were set; a pack that was not full is stored meanwhile.
2. Split changed arrays into manifests and write them, all at once.
3. Write the transaction log and the snapshot, under a new id.

Publishing them, which is one conditional write, is the business of `refs/`. Every file written here is new and
unreferenced, so stopping anywhere leaves garbage and never damage. After a lost race most of the work still stands: a
`CommitWriter` keeps the manifests it wrote and writes again only those of arrays that both sides changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from icechunk._dataclass import dataclass
from icechunk._driver import concurrent_map, gather, offload
from icechunk.assets import Assets
from icechunk.change_set import ChangeSet, ChunkEdits
from icechunk.format.ids import random_object_id
from icechunk.format.repo_info import SnapshotRecord
from icechunk.format.snapshot import ManifestFile, Node, Snapshot, encode_snapshot
from icechunk.format.transaction_log import TransactionLog
from icechunk.manifest_writer import ManifestSettings, WrittenManifests, write_manifests
from icechunk.moves import logged_moves
from icechunk.node_view import path_after

Edges = Sequence[Sequence[int]]
_OFFLOAD_NODES = 2_000


@dataclass(frozen=True, slots=True)
class Draft:
    """A snapshot that is written but not published."""

    record: SnapshotRecord
    log: TransactionLog


class CommitWriter:
    """Writes the files of one commit, as often as it has to be tried.

    `edges` cuts the grid of an array into the boxes of its manifests; `width` bounds how many arrays are written at once.
    """

    def __init__(
        self,
        assets: Assets,
        settings: ManifestSettings,
        edges: Callable[[Node], Edges],
        *,
        width: int,
        now: Callable[[], int],
    ) -> None:
        self._assets = assets
        self._settings = settings
        self._edges = edges
        self._width = width
        self._now = now
        self._done: dict[bytes, tuple[Node, ChunkEdits, WrittenManifests]] = {}

    async def write(
        self,
        base: Snapshot,
        changes: ChangeSet,
        *,
        message: str,
        metadata: dict[str, Any],
        log: TransactionLog | None = None,
        parent: SnapshotRecord | None = None,
        rewrite: bool = False,
    ) -> Draft:
        """Write manifests, transaction log and snapshot of `changes` on top of `base`.

        `log` replaces the log that the changes alone would give, and `parent` the parent (an amended snapshot takes
        both from the one it replaces). `rewrite` writes the manifests of every array anew.
        """
        arrays = self._changed_arrays(base, changes, rewrite=rewrite)
        written = await concurrent_map(
            lambda item: self._write_array(*item, rewrite=rewrite), list(arrays.values()), self._width
        )
        manifests = dict(zip(arrays, written, strict=True))
        snapshot_id = random_object_id()
        spec = self._settings.spec
        log = log_of(snapshot_id, base, changes, spec) if log is None else replace(log, id=snapshot_id)
        parent_id = base.id if parent is None else parent.parent_id
        flushed_at = max(self._now(), base.flushed_at + 1)
        nodes = changed_nodes(base, changes, {node_id: done.refs for node_id, done in manifests.items()})
        added, dropped = manifest_changes(base, changes, manifests, nodes)

        def encode() -> tuple[bytes, bytes]:
            settings = self._settings
            snapshot = encode_snapshot(
                spec=settings.spec,
                id=snapshot_id,
                parent_id=parent_id,
                flushed_at=flushed_at,
                message=message,
                metadata=metadata,
                base=base,
                changes=nodes,
                add_manifests=added,
                drop_manifests=dropped,
                level=settings.level,
                segmented=settings.segmented,
            )
            return snapshot, log.encode(settings.spec, settings.level)

        snapshot, encoded_log = await offload(encode) if len(base) + len(nodes) > _OFFLOAD_NODES else encode()
        await gather(
            self._assets.write_transaction_log(snapshot_id, encoded_log, self._settings.spec),
            self._assets.write_snapshot(snapshot_id, snapshot, self._settings.spec),
            limit=self._assets.storage.concurrency,
        )
        pruned = () if parent is None else parent.pruned
        return Draft(SnapshotRecord(snapshot_id, parent_id, flushed_at, message, metadata, pruned), log)

    def forget(self) -> None:
        """Write everything anew the next time."""
        self._done.clear()

    def _changed_arrays(
        self, base: Snapshot, changes: ChangeSet, *, rewrite: bool
    ) -> dict[bytes, tuple[Node, ChunkEdits]]:
        """Every array whose manifests may change: under its new shape, with the manifests of the base."""
        arrays: dict[bytes, tuple[Node, ChunkEdits]] = {}
        for node in changes.new_nodes.values():
            if node.is_array and (edits := changes.chunks.get(node.id)):
                arrays[node.id] = node, edits
        for node_id, edits in changes.chunks.items():
            if node_id not in arrays and (edits or edits.kept is not None):
                former = base.find(edits.path)
                if former is not None and former.id == node_id:
                    arrays[node_id] = _under_new_metadata(former, changes), edits
        for node in changes.updated.values():
            former = base.find(node.path)
            if node.is_array and node.id not in arrays and former is not None and _shrinks(former, node):
                arrays[node.id] = replace(node, manifests=former.manifests), ChunkEdits(len(node.shape), path=node.path)
        if rewrite:
            for node in base.nodes():
                if node.is_array and node.id not in arrays and node.manifests:
                    arrays[node.id] = node, ChunkEdits(len(node.shape), path=node.path)
        return arrays

    async def _write_array(self, node: Node, edits: ChunkEdits, *, rewrite: bool) -> WrittenManifests:
        done = self._done.get(node.id)
        if (
            done is not None
            and done[1] is edits
            and done[0].manifests == node.manifests
            and done[0].shape == node.shape
        ):
            return done[2]
        written = await write_manifests(node, edits, self._edges(node), self._assets, self._settings, rewrite=rewrite)
        self._done[node.id] = node, edits, written
        return written


def _under_new_metadata(former: Node, changes: ChangeSet) -> Node:
    updated = changes.updated.get(former.id)
    return former if updated is None else replace(updated, manifests=former.manifests)


def _shrinks(former: Node, node: Node) -> bool:
    """Whether chunks that the former manifests hold are outside of the new grid, or may be."""
    if len(former.shape) != len(node.shape):
        return bool(former.manifests)
    return any(
        stop > dimension.chunks
        for ref in former.manifests
        for (_, stop), dimension in zip(ref.extents, node.shape, strict=False)
    )


def changed_nodes(base: Snapshot, changes: ChangeSet, manifests: Mapping[bytes, Any]) -> dict[str, Node | None]:
    """By path, what becomes of each node that is not carried over as it is; None where it goes away."""
    nodes: dict[str, Node | None] = dict.fromkeys(changes.deleted)
    if changes.moves:
        moved = [(source, path_after(changes.moves, source)) for source in base.paths()]
        moved = [(source, target) for source, target in moved if source != target]
        nodes.update(dict.fromkeys(source for source, _ in moved))
        for source, target in moved:
            node = base.find(source)
            assert node is not None
            nodes[target] = replace(node, path=target)
    for path, node in changes.new_nodes.items():
        nodes[path] = replace(node, manifests=manifests.get(node.id, ()))
    for node in changes.updated.values():
        former = base.find(node.path)
        if former is not None:
            nodes[node.path] = replace(node, manifests=manifests.get(node.id, former.manifests))
    for node_id, edits in changes.chunks.items():
        if node_id not in manifests or node_id in changes.updated or edits.path in changes.new_nodes:
            continue
        former = base.find(edits.path)
        if former is not None:
            nodes[former.path] = replace(former, manifests=manifests[node_id])
    for node_id in manifests.keys() - {node.id for node in nodes.values() if node is not None}:
        former = base.find_id(node_id)
        if former is not None:
            nodes[former.path] = replace(former, manifests=manifests[node_id])
    return nodes


def manifest_changes(
    base: Snapshot,
    changes: ChangeSet,
    written: Mapping[bytes, WrittenManifests],
    nodes: Mapping[str, Node | None],
) -> tuple[list[ManifestFile], set[bytes]]:
    """Which manifests the new snapshot lists that `base` does not, and which it lists no more.

    A manifest may hold the references of several arrays; it goes only when none of them is left.
    """
    added = [file for done in written.values() for file in done.added]
    dropped: set[bytes] = set()
    unsure: set[bytes] = set()
    for done in written.values():
        dropped |= done.dropped - done.shared
        unsure |= done.shared
    for path in changes.deleted:
        former = base.find(path)
        if former is not None:
            unsure |= {ref.id for ref in former.manifests}
    if unsure:
        still_used = {ref.id for node in nodes.values() if node is not None for ref in node.manifests}
        gone = base.manifest_users(unsure)
        for path, node in nodes.items():
            former = base.find(path)
            if former is None or (node is not None and node.manifests == former.manifests):
                continue
            for ref in former.manifests:
                if ref.id in gone:
                    gone[ref.id] -= 1
        dropped |= {manifest_id for manifest_id, users in gone.items() if users <= 0 and manifest_id not in still_used}
    return added, dropped


def log_of(snapshot_id: bytes, base: Snapshot, changes: ChangeSet, spec: int) -> TransactionLog:
    """The transaction log of `changes`.

    A log of spec 1 cannot tell moves. There a moved node counts as deleted and made anew, under the id it keeps: whoever
    changed it meanwhile is told of a conflict, as with a move, and a diff shows both places.
    """
    new = changes.new_nodes.values()
    updated = changes.updated.values()
    moved = logged_moves(base, changes.moves) if changes.moves else ()
    went = frozenset(move.node_id for move in moved if spec == 1)
    moved_arrays = frozenset(move.node_id for move in moved if move.is_array) & went
    deleted = changes.deleted.values()
    return TransactionLog(
        id=snapshot_id,
        new_groups=frozenset(node.id for node in new if not node.is_array) | (went - moved_arrays),
        new_arrays=frozenset(node.id for node in new if node.is_array) | moved_arrays,
        deleted_groups=frozenset(node.id for node in deleted if not node.is_array) | (went - moved_arrays),
        deleted_arrays=frozenset(node.id for node in deleted if node.is_array) | moved_arrays,
        updated_arrays=frozenset(node.id for node in updated if node.is_array),
        updated_groups=frozenset(node.id for node in updated if not node.is_array),
        updated_chunks={node_id: edits.coords() for node_id, edits in changes.chunks.items() if edits},
        moved_nodes=() if spec == 1 else moved,
    )
