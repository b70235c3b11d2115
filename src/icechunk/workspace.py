"""One hierarchy that can be read and written: what stands behind a session and its stores.

A workspace is a snapshot and the changes made to it. It answers by zarr key and by node path; everything it does is
plain lookups plus, at the very end, one storage request. It knows nothing of branches, and publishes nothing.

Many threads and tasks may use one workspace at once: values are immutable, edits are single dictionary operations or
short sections under a lock, and no lock is held across a wait.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from enum import Enum
from functools import partial

import numpy as np
import numpy.typing as npt

from icechunk._dataclass import dataclass
from icechunk._driver import concurrent_map, offload
from icechunk.assets import Assets
from icechunk.change_set import UNTOUCHED, ChangeSet, ChunkEdits, Coords
from icechunk.chunk_access import beginning_with, lies_in, require_array, resolve_range, table_of
from icechunk.chunk_packs import ChunkPacks
from icechunk.errors import (
    AlreadyExistsError,
    ErrorKind,
    InvalidInputError,
    NodeNotFoundError,
    ReadOnlyError,
    SessionStateError,
)
from icechunk.format.chunk_ref import ChunkRef, Inline, Native, Virtual
from icechunk.format.chunk_table import ChunkTable
from icechunk.format.ids import random_node_id
from icechunk.format.snapshot import Node, Snapshot
from icechunk.moves import plan_move
from icechunk.node_view import NodeView
from icechunk.splitting import PreloadPolicy
from icechunk.storage.base import Buffer, ByteRange
from icechunk.virtual import VirtualChunks
from icechunk.zarr_keys import ChunkKey, MetadataKey, chunk_keys, metadata_key, parse_key, parse_prefix
from icechunk.zarr_metadata import check_all_coords, check_coords, in_grid, parse_metadata

log = logging.getLogger("icechunk.session")


class UncommittedChangesWarning(UserWarning):
    """A session with changes was dropped without a commit."""


class Mode(Enum):
    """What may be done in a workspace."""

    READ_ONLY = "readonly"
    EDIT = "writable"
    REARRANGE = "rearrange"


@dataclass(frozen=True, slots=True)
class WorkspaceSettings:
    """What a workspace needs of the configuration.

    `inline_threshold` is the largest chunk, in bytes, that is kept in the manifest. With `packs` many small chunks are
    stored in one object.
    """

    spec: int
    inline_threshold: int = 512
    packs: bool = False
    preload: PreloadPolicy | None = None


class Workspace:
    """A snapshot and the changes made to it."""

    def __init__(
        self,
        assets: Assets,
        virtual: VirtualChunks,
        settings: WorkspaceSettings,
        snapshot_id: bytes,
        mode: Mode,
        *,
        is_fork: bool = False,
        change_set: ChangeSet | None = None,
    ) -> None:
        self.assets = assets
        self.virtual = virtual
        self.settings = settings
        self.snapshot_id = snapshot_id
        self.mode = mode
        self.is_fork = is_fork
        self.change_set = ChangeSet() if change_set is None else change_set
        self.handed_on = False
        """Whether somebody else looks after the changes: they were merged, or left this process."""
        self.first_chunks: list[bytes] = []
        """The ids of the objects of chunks written first, here and in each fork that was merged."""
        width = max(assets.storage.concurrency, 1)
        self.packs = ChunkPacks(assets.write_chunk, width, self.first_chunks, packing=settings.packs)
        """Writes chunks, and has those that are not stored yet."""
        self.since: int | None = None
        """How far the repository's history had come when the work began, see `RefStore.moment`."""
        self.forked_from: bytes | None = None
        """Of a fork, the snapshot of the session it was forked from; its own one also has what was uncommitted there."""
        self.handed_over: dict[str, Node] = {}
        """The nodes, by path, that were new or updated when this was last merged into another."""
        self.edition = 0
        """A number that is another one after every change."""
        self.lock = threading.RLock()
        self._view: NodeView | None = None
        self._sealed = False
        self._preloaded = False

    def __del__(self) -> None:
        if getattr(self, "mode", Mode.READ_ONLY) is not Mode.READ_ONLY and self.change_set and not self.handed_on:
            warnings.warn(
                "a session with uncommitted changes was dropped, its changes are lost; call `session.commit(...)`, or "
                "`session.discard_changes()` where that is meant",
                UncommittedChangesWarning,
                stacklevel=2,
            )

    # --- state -----------------------------------------------------------------------------------------------------

    async def view(self) -> NodeView:
        """The hierarchy as it stands; loads the snapshot on first use.

        Whoever looks at nodes and at changes takes both from one view: a commit or a rebase puts another in its place.
        """
        while (view := self._view) is None:
            await self.load()
        return view

    async def load(self) -> Snapshot:
        """The snapshot this workspace is based on."""
        view, snapshot_id = self._view, self.snapshot_id
        if view is not None and view.snapshot.id == snapshot_id:
            return view.snapshot
        snapshot = await self.assets.snapshot(snapshot_id)
        with self.lock:
            if self._view is None and self.snapshot_id == snapshot_id:
                self._view = NodeView(snapshot, self.change_set)
        return snapshot

    def editable_view(self) -> NodeView:
        """The hierarchy as it stands, to be changed now, under the lock; it must have been loaded."""
        self.check_editable()
        assert self._view is not None
        self.edition += 1
        return self._view

    def show(self, view: NodeView) -> None:
        """Put another view of the same or another snapshot, with its changes, in the place of the present one."""
        with self.lock:
            self.edition += 1
            self.snapshot_id, self.change_set, self._view = view.snapshot.id, view.change_set, view

    def copy_changes(self) -> tuple[Snapshot, ChangeSet, int]:
        """The snapshot, a copy of the changes as they stand on it, and which edition of them; it must have been loaded."""
        with self.lock:
            self.check_editable()
            assert self._view is not None
            return self._view.snapshot, self._view.change_set.copy(), self.edition

    def finish(self, snapshot_id: bytes) -> None:
        """Become read-only on a snapshot that holds all changes."""
        with self.lock:
            self.mode = Mode.READ_ONLY
            self.snapshot_id = snapshot_id
            self.change_set = ChangeSet()
            self._view = None
            self._sealed = False

    def discard(self) -> None:
        """Forget all changes."""
        with self.lock:
            self._check_writable()
            self.edition += 1
            self.change_set = ChangeSet()
            if self._view is not None:
                self._view = NodeView(self._view.snapshot, self.change_set)

    def seal(self) -> None:
        """Refuse changes while they are being committed, so that none can be lost."""
        with self.lock:
            self._check_writable()
            self._sealed = True

    def unseal(self) -> None:
        """Accept changes again."""
        with self.lock:
            self._sealed = False

    def _check_unsealed(self) -> None:
        if self._sealed:
            raise SessionStateError(
                "the session is being committed; wait for the commit to return, or write in a session of your own",
                ErrorKind.NOT_ALLOWED,
            )

    def _check_writable(self) -> None:
        if self.mode is Mode.READ_ONLY:
            raise ReadOnlyError(
                "cannot write to a read-only session; open one with `repo.writable_session(branch)`",
                ErrorKind.READ_ONLY_SESSION,
            )
        self._check_unsealed()

    def check_editable(self) -> None:
        """Refuse edits where only reading or rearranging is allowed."""
        self._check_writable()
        if self.mode is Mode.REARRANGE:
            raise SessionStateError(
                "a rearrange session can only move nodes; write in a session of `repo.writable_session(branch)`",
                ErrorKind.REARRANGE_SESSION_ONLY,
            )

    def check_movable(self) -> None:
        """Refuse moves where only reading or editing is allowed."""
        self._check_writable()
        if self.mode is not Mode.REARRANGE:
            raise SessionStateError(
                "nodes can be moved only in a rearrange session: use `repo.rearrange_session(branch)`",
                ErrorKind.NON_REARRANGE_SESSION,
            )

    # --- nodes -----------------------------------------------------------------------------------------------------

    async def node(self, path: str) -> Node:
        """The node at `path`; raises `NodeNotFoundError`."""
        node = (self._view or await self.view()).find(path)
        if node is None:
            raise NodeNotFoundError(f"node not found at `{path}`", ErrorKind.NODE_NOT_FOUND)
        return node

    async def array(self, path: str) -> Node:
        """The array at `path`; raises `NodeNotFoundError`, or `InvalidInputError` when a group is there."""
        return require_array(await self.node(path))

    async def set_metadata(self, path: str, raw: bytes, *, only_new: bool = False) -> None:
        """Create the node at `path`, or, unless it is to be new, give it new metadata."""
        self.check_editable()
        parsed = parse_metadata(raw, rectilinear=self.settings.spec > 1)
        await self.view()
        with self.lock:
            view = self.editable_view()
            node = view.find(path)
            if node is None:
                node = Node(random_node_id(), path, parsed.is_array, raw, parsed.shape, parsed.dimension_names, ())
                view.change_set.add_node(node)
            elif only_new:
                return
            elif node.is_array != parsed.is_array:
                kind = "an array" if node.is_array else "a group"
                raise AlreadyExistsError(
                    f"node already exists at `{path}`: {kind}; delete it before you put another kind of node there",
                    ErrorKind.NODE_ALREADY_EXISTS,
                )
            elif node.metadata != raw:
                view.change_set.update_node(
                    replace(node, metadata=raw, shape=parsed.shape, dimension_names=parsed.dimension_names), node
                )

    async def delete_node(self, path: str) -> None:
        """Delete the node at `path` and everything below it; nothing happens when there is none."""
        self.check_editable()
        await self.view()
        with self.lock:
            view = self.editable_view()
            if view.find(path) is not None:
                view.change_set.delete_nodes(view.subtree(path))

    async def move_node(self, source: str, target: str) -> None:
        """Move a node, with everything below it, to another path."""
        self.check_movable()
        await self.view()
        with self.lock:
            self.check_movable()
            assert self._view is not None
            self._view.change_set.moves.append(plan_move(self._view, source, target))

    # --- chunk references --------------------------------------------------------------------------------------------

    async def chunk_ref(self, node: Node, coords: Coords, changes: ChangeSet | None = None) -> ChunkRef | None:
        """Where the bytes of a chunk are; None when it was never written, or lies outside of the grid.

        `changes` are those of the view in which the node was found.
        """
        edits = (self.change_set if changes is None else changes).chunks.get(node.id)
        if edits is not None:
            found = edits.find(coords)
            if found is not UNTOUCHED:
                return found if in_grid(node.shape, coords) else None
        if not node.manifests or not in_grid(node.shape, coords):
            return None
        for ref in node.manifests:
            if lies_in(coords, ref.extents):
                if not self._preloaded:
                    await self._preload()
                manifest = await self.assets.manifest(ref.id)
                if manifest.is_far(node.id, coords, ref.extents):
                    return await offload(partial(manifest.find, node.id, coords, ref.extents))
                return manifest.find(node.id, coords, ref.extents)
        return None

    async def _preload(self) -> None:
        """Fetch, together with the first manifest that is needed, those that will be needed next: of coordinates."""
        self._preloaded = True
        policy = self.settings.preload
        if policy is None or self.assets.storage.concurrency <= 1:
            return
        view = await self.view()
        wanted: list[bytes] = []
        budget = policy.max_total_refs
        for path in view.snapshot.array_paths(policy.max_arrays_to_scan):
            node = view.snapshot.find(path)
            for ref in node.manifests if node is not None else ():
                file = view.snapshot.manifest_file(ref.id)
                if file is not None and file.count <= budget and policy.wants(path, file.count):
                    budget -= file.count
                    wanted.append(ref.id)
        try:
            await concurrent_map(self.assets.manifest, wanted, self.assets.storage.concurrency)
        except Exception as error:
            log.warning("could not load manifests ahead: %s", error)

    async def chunk_table(self, node: Node, changes: ChangeSet | None = None) -> ChunkTable:
        """Every chunk reference of an array, uncommitted ones included.

        `changes` are those of the view in which the node was found.
        """
        changes = self.change_set if changes is None else changes
        table = await table_of(self.assets, node)
        edits = changes.chunks.get(node.id)
        if edits is not None:
            written, deleted = edits.fold()
            table = edits.below(table)
            table = table.overlay(written, deleted if len(deleted) else None)
        if len(table) and any(
            stop > dimension.chunks for (_, stop), dimension in zip(table.extents(), node.shape, strict=True)
        ):
            table = table.within([(0, dimension.chunks) for dimension in node.shape])
        return table

    async def set_chunk(self, path: str, coords: Coords, data: Buffer, *, only_new: bool = False) -> None:
        """Write one chunk: tiny ones stay here until the commit, others become objects, alone or in packs.

        With `only_new` what is there already stays, also when it came while this one was uploaded.
        """
        self.check_editable()
        node = await self.array(path)
        check_coords(node, coords)
        if only_new and await self.chunk_ref(node, coords) is not None:
            return
        size = len(data)
        ref: ChunkRef
        if size <= self.settings.inline_threshold:
            if size == 0:
                raise InvalidInputError(
                    f"cannot write a chunk of no bytes at {list(coords)} of {path}; delete the chunk instead",
                    ErrorKind.ZERO_LENGTH_CHUNK,
                )
            ref = Inline(bytes(data))
        else:
            ref = await self.packs.write(data)
        self._record(node, coords, ref, only_new=only_new)

    def _record(self, node: Node, coords: Coords, ref: ChunkRef | None, *, only_new: bool = False) -> None:
        with self.lock:
            edits = self._edits(node)
            if not only_new or edits.find(coords) in (None, UNTOUCHED):
                edits.set(coords, ref)

    def _edits(self, node: Node) -> ChunkEdits:
        """The edits of an array, to be added to under the lock; refuses one that is gone since it was looked up."""
        view = self.editable_view()
        present = view.find(node.path)
        if present is None or present.id != node.id or len(present.shape) != len(node.shape):
            raise NodeNotFoundError(
                f"the array at `{node.path}` was deleted or replaced while chunks of it were being written",
                ErrorKind.NODE_NOT_FOUND,
            )
        return view.change_set.edits(present)

    async def set_ref(self, path: str, coords: Coords, ref: Virtual) -> None:
        """Make one chunk refer to bytes of a foreign object."""
        self.check_editable()
        node = await self.array(path)
        check_coords(node, coords)
        self._record(node, coords, ref)

    async def set_refs(self, path: str, table: ChunkTable) -> None:
        """Write many chunk references at once."""
        self.check_editable()
        node = await self.array(path)
        if len(table):
            check_all_coords(node, table.coords)
        with self.lock:
            self._edits(node).set_many(table)

    async def delete_chunk(self, path: str, coords: Coords) -> None:
        """Delete one chunk; nothing happens where there can be none."""
        self.check_editable()
        node = (await self.view()).find(path)
        if node is not None and node.is_array and in_grid(node.shape, coords):
            self._record(node, coords, None)

    async def replace_chunks(self, node: Node, table: ChunkTable, gone: npt.NDArray[np.uint32]) -> None:
        """Write the chunks of `table` and delete those at the coordinates `gone`."""
        edits = ChunkEdits(len(node.shape), path=node.path)
        edits.singles = dict.fromkeys(map(tuple, gone.tolist()))
        edits.set_many(table)
        with self.lock:
            self._edits(node).merge(edits)

    # --- bytes -------------------------------------------------------------------------------------------------------

    async def read_ref(self, ref: ChunkRef, byte_range: ByteRange | None = None) -> Buffer:
        """The bytes a reference stands for, or a range of them, cut off at the end like a slice."""
        length = ref.length
        start, stop = resolve_range(byte_range, length)
        if isinstance(ref, Inline):
            return ref.data if stop - start == length else ref.data[start:stop]
        if start >= stop:
            return b""
        if isinstance(ref, Native):
            held = self.packs.find(ref, start, stop) if self.packs else None
            return await self.assets.chunk(ref, start, stop) if held is None else held
        return await self.virtual.fetch(ref, start, stop)

    # --- by zarr key -------------------------------------------------------------------------------------------------

    async def get(self, key: str, byte_range: ByteRange | None = None) -> Buffer | None:
        """The bytes at a zarr key, None when nothing is there."""
        parsed = parse_key(key)
        view = self._view or await self.view()
        node = view.find(parsed.path)
        if type(parsed) is ChunkKey:
            if node is None:
                return None
            ref = await self.chunk_ref(require_array(node), parsed.coords, view.change_set)
            return None if ref is None else await self.read_ref(ref, byte_range)
        if node is None or type(parsed) is not MetadataKey:
            return None
        start, stop = resolve_range(byte_range, len(node.metadata))
        return node.metadata[start:stop]

    async def set(self, key: str, data: Buffer, *, only_new: bool = False) -> None:
        """Write the bytes at a zarr key; with `only_new`, if nothing is there."""
        parsed = parse_key(key)
        if type(parsed) is ChunkKey:
            await self.set_chunk(parsed.path, parsed.coords, data, only_new=only_new)
        elif type(parsed) is MetadataKey:
            await self.set_metadata(parsed.path, bytes(data), only_new=only_new)
        else:
            raise SessionStateError(
                f"store method `set` is not implemented by Icechunk for Zarr V2 metadata such as `{key}`; "
                "write zarr format 3",
                ErrorKind.UNIMPLEMENTED,
            )

    async def exists(self, key: str) -> bool:
        """Whether something is at a zarr key."""
        return await self.size(key) is not None

    async def size(self, key: str) -> int | None:
        """The number of bytes at a zarr key; None when nothing is there."""
        parsed = parse_key(key)
        view = await self.view()
        node = view.find(parsed.path)
        if type(parsed) is ChunkKey:
            if node is None:
                return None
            ref = await self.chunk_ref(require_array(node), parsed.coords, view.change_set)
            return None if ref is None else ref.length
        if node is None or type(parsed) is not MetadataKey:
            return None
        return len(node.metadata)

    async def delete(self, key: str) -> None:
        """Delete what is at a zarr key: a chunk, or a node with everything below it."""
        self.check_editable()
        parsed = parse_key(key)
        if type(parsed) is ChunkKey:
            await self.delete_chunk(parsed.path, parsed.coords)
        elif type(parsed) is MetadataKey:
            await self.delete_node(parsed.path)

    async def delete_prefix(self, prefix: str) -> None:
        """Delete a node with everything below it, or the chunks whose coordinates begin so."""
        self.check_editable()
        wanted = parse_prefix(prefix, ErrorKind.BAD_KEY_PREFIX)
        view = await self.view()
        if wanted.path == "/" or view.find(wanted.path) is not None:
            with self.lock:
                view = self.editable_view()
                view.change_set.delete_nodes(view.subtree(wanted.path))
            return
        if wanted.array_path is None:
            return
        node = view.find(wanted.array_path)
        if node is None or not node.is_array:
            return
        coords = beginning_with((await self.chunk_table(node, view.change_set)).coords, wanted.coords)
        await self.replace_chunks(node, ChunkTable.empty(len(node.shape)), coords)

    async def list_keys(self, under: str = "/") -> AsyncIterator[list[str]]:
        """The zarr keys of the node at `under` and of everything below it, in batches."""
        view = await self.view()
        changes = view.change_set
        if not changes and under == "/":
            yield [metadata_key(path) for path in view.snapshot.paths()]
            with_chunks: Iterable[Node] = view.snapshot.nodes_with_chunks()
        else:
            nodes = list(view.nodes(under))
            yield [metadata_key(node.path) for node in nodes]
            with_chunks = (node for node in nodes if node.is_array)
        for node in [node for node in with_chunks if node.manifests or node.id in changes.chunks]:
            yield chunk_keys(node.path, (await self.chunk_table(node, changes)).coords)

    async def list_prefix(self, prefix: str) -> AsyncIterator[list[str]]:
        """As `list_keys`, for the node that a key prefix names."""
        wanted = parse_prefix(prefix, ErrorKind.BAD_KEY_PREFIX)
        view = await self.view()
        if prefix.startswith("/") and prefix != "/":
            return
        if wanted.path == "/" or view.find(wanted.path) is not None:
            async for batch in self.list_keys(wanted.path):
                yield batch
        elif wanted.array_path is not None and (node := view.find(wanted.array_path)) is not None and node.is_array:
            coords = (await self.chunk_table(node, view.change_set)).coords
            yield chunk_keys(node.path, beginning_with(coords, wanted.coords))
        else:
            raise InvalidInputError(
                f"bad key prefix ({prefix}): only prefixes pointing to a group or array are allowed, "
                "and no node is there",
                ErrorKind.BAD_KEY_PREFIX,
            )

    async def list_dir(self, prefix: str) -> list[str]:
        """The names one level below a key prefix."""
        wanted = parse_prefix(prefix, ErrorKind.INVALID_PATH)
        if prefix.startswith("/") and prefix != "/":
            return []
        view = await self.view()
        node = view.find(wanted.path)
        if node is None and wanted.path == "/":
            return view.children("/")
        if node is not None:
            return ["c", "zarr.json"] if node.is_array else [*view.children(wanted.path), "zarr.json"]
        if wanted.array_path is None:
            return []
        node = view.find(wanted.array_path)
        if node is None or not node.is_array or len(wanted.coords) >= len(node.shape):
            return []
        coords = beginning_with((await self.chunk_table(node, view.change_set)).coords, wanted.coords)
        return [str(value) for value in np.unique(coords[:, len(wanted.coords)]).tolist()]
