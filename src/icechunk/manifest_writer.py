"""Writing the manifests of arrays that changed.

An array's grid of chunks is cut into boxes (`splitting`), one manifest each. A commit writes a box again when one of its
chunks changed, or when a manifest that reaches into it has to be written again; all other manifests stay what they are.
Everything is fetched, encoded and written concurrently, array by array and box by box.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field

import numpy as np
import numpy.typing as npt

from icechunk._dataclass import dataclass
from icechunk._driver import concurrent_map, offload
from icechunk.assets import Assets
from icechunk.change_set import ChunkEdits
from icechunk.format.chunk_ref import ChunkRef, Virtual
from icechunk.format.chunk_table import ChunkTable
from icechunk.format.ids import random_object_id
from icechunk.format.manifest import (
    FEW,
    LocationCompression,
    Manifest,
    Revised,
    encode_few,
    encode_manifest,
    revise_few,
    revise_manifest,
)
from icechunk.format.snapshot import ManifestFile, ManifestRef, Node

_OFFLOAD_REFS = 20_000
"""References from which on encoding is worth a thread, where an event loop waits."""

Box = tuple[int, ...]
"""Which piece of the grid, one number per axis."""


@dataclass(frozen=True, slots=True)
class ManifestSettings:
    """How manifests are written."""

    spec: int
    level: int = 3
    segmented: bool = False
    location_compression: LocationCompression | None = None


@dataclass(slots=True)
class WrittenManifests:
    """What an array refers to after a commit, and which manifests that adds and drops."""

    refs: tuple[ManifestRef, ...] = ()
    added: list[ManifestFile] = field(default_factory=list)
    dropped: set[bytes] = field(default_factory=set)
    """Manifests no longer used by this array; other arrays may share those in `shared`."""
    shared: set[bytes] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Job:
    """One manifest to write: the manifests it takes over from, and the edits inside of it.

    `box` is that part of the grid from which chunks are taken over.
    """

    box: tuple[tuple[int, int], ...]
    sources: tuple[ManifestRef, ...]
    written: ChunkTable
    deleted: npt.NDArray[np.uint32]


async def write_manifests(
    node: Node,
    edits: ChunkEdits,
    edges: Sequence[Sequence[int]],
    assets: Assets,
    settings: ManifestSettings,
    *,
    rewrite: bool = False,
) -> WrittenManifests:
    """Write what the edits of one array make necessary.

    `node` has its new shape and the manifests of the base snapshot; `edges` cut each axis of its grid, from 0 to the
    number of chunks. `rewrite` writes every box anew even where nothing changed.
    """
    few = None if rewrite else _few_edits(node, edits, edges)
    if few is not None:
        done = await _write_few(node, few, assets, settings)
        if done is not None:
            return done
    jobs, kept = plan_manifests(node, edits, edges, rewrite=rewrite)
    result = WrittenManifests()
    written = await concurrent_map(
        lambda job: _write(job, node, assets, settings, result), jobs, max(assets.storage.concurrency, 1)
    )
    refs = list(kept)
    for outcome in written:
        if outcome is not None:
            refs.append(outcome[0])
            result.added.append(outcome[1])
    used = {ref.id for ref in refs}
    result.dropped = {ref.id for ref in node.manifests} - used
    result.shared |= result.dropped - {ref.id for job in jobs for ref in job.sources}
    result.shared &= result.dropped
    result.refs = tuple(sorted(refs, key=lambda ref: ref.extents))
    return result


def _few_edits(
    node: Node, edits: ChunkEdits, edges: Sequence[Sequence[int]]
) -> Mapping[tuple[int, ...], ChunkRef | None] | None:
    """The edits where they are so few, and the array so simple, that no plan is needed: it has at most one manifest."""
    singles = edits.singles
    if edits.tables or edits.kept is not None or not 0 < len(singles) <= FEW or len(node.manifests) > 1:
        return None
    if len(edges) != edits.ndim or any(len(cuts) != 2 for cuts in edges):
        return None
    tops = [cuts[1] for cuts in edges]
    for coords in singles:
        if any(index >= top for index, top in zip(coords, tops, strict=True)):
            return None
    for ref in node.manifests:
        if len(ref.extents) != len(tops) or any(stop > top for (_, stop), top in zip(ref.extents, tops, strict=True)):
            return None
    return singles


async def _write_few(
    node: Node, edits: Mapping[tuple[int, ...], ChunkRef | None], assets: Assets, settings: ManifestSettings
) -> WrittenManifests | None:
    """Write the one manifest of an array reference by reference; None where that is not possible."""
    written = {coords: ref for coords, ref in edits.items() if ref is not None}
    former = node.manifests[0] if node.manifests else None
    old = None if former is None else await assets.manifest(former.id)
    manifest_id, spec, level = random_object_id(), settings.spec, settings.level
    revised: Revised | None
    if _compresses(settings, written, old.count(node.id) if old is not None else 0):
        return None
    if old is not None:
        revised = revise_few(old, manifest_id, node.id, edits, spec=spec, level=level)
    elif written:
        revised = Revised(encode_few(manifest_id, node.id, written, spec=spec, level=level), len(written))
    else:
        return WrittenManifests()
    if revised is None:
        return None
    await assets.write_manifest(manifest_id, revised.data, spec)
    return WrittenManifests(
        (ManifestRef(manifest_id, _around(former.extents if former is not None else (), written)),),
        [ManifestFile(manifest_id, len(revised.data), revised.num_refs)],
        {ref.id for ref in node.manifests},
    )


def _compresses(settings: ManifestSettings, written: Mapping[tuple[int, ...], ChunkRef], present: int) -> bool:
    """Whether a manifest of `present` references and some new ones should have its locations compressed."""
    how = settings.location_compression
    if how is None or present + len(written) < how.min_num_chunks:
        return False
    return any(isinstance(ref, Virtual) for ref in written.values())


def _around(extents: Sequence[tuple[int, int]], written: Iterable[tuple[int, ...]]) -> tuple[tuple[int, int], ...]:
    """The extents that hold `extents`, unless they are empty, and the chunks written."""
    box = list(extents)
    for coords in written:
        box = (
            [(min(start, index), max(stop, index + 1)) for index, (start, stop) in zip(coords, box, strict=True)]
            if box
            else [(index, index + 1) for index in coords]
        )
    return tuple(box)


async def _write(
    job: _Job, node: Node, assets: Assets, settings: ManifestSettings, result: WrittenManifests
) -> tuple[ManifestRef, ManifestFile] | None:
    olds = await concurrent_map(lambda ref: assets.manifest(ref.id), job.sources, len(job.sources))
    for old in olds:
        if old.node_ids() != [node.id]:
            result.shared.add(old.id)
    manifest_id = random_object_id()

    def encode() -> tuple[bytes, tuple[tuple[int, int], ...], int] | None:
        return _encode(job, node, olds, manifest_id, settings)

    many = len(job.written) + sum(old.num_refs for old in olds) > _OFFLOAD_REFS
    encoded = await offload(encode) if many else encode()
    if encoded is None:
        return None
    data, extents, count = encoded
    await assets.write_manifest(manifest_id, data, settings.spec)
    return ManifestRef(manifest_id, extents), ManifestFile(manifest_id, len(data), count)


def _encode(
    job: _Job, node: Node, olds: Sequence[Manifest], manifest_id: bytes, settings: ManifestSettings
) -> tuple[bytes, tuple[tuple[int, int], ...], int] | None:
    """The file of one manifest, its extents and how many references it has; None when none is left."""
    if len(olds) == 1 and _inside(job.sources[0].extents, job.box) and len(job.sources[0].extents) == len(job.box):
        revised = revise_manifest(
            olds[0],
            manifest_id,
            node.id,
            job.written,
            job.deleted if len(job.deleted) else None,
            spec=settings.spec,
            level=settings.level,
            segmented=settings.segmented,
        )
        if revised is not None:
            return revised.data, _union(job.sources[0].extents, job.written), revised.num_refs
    table = job.written
    if olds:
        former = [table for table in (old.table(node.id) for old in olds) if table.ndim == len(job.box)]
        table = ChunkTable.concat([ChunkTable.empty(len(job.box)), *(table.within(job.box) for table in former)])
        table = table.overlay(job.written, job.deleted if len(job.deleted) else None)
    if not len(table):
        return None
    data = encode_manifest(
        manifest_id,
        {node.id: table},
        spec=settings.spec,
        level=settings.level,
        location_compression=settings.location_compression,
        segmented=settings.segmented,
    )
    return data, table.extents(), len(table)


def plan_manifests(
    node: Node, edits: ChunkEdits, edges: Sequence[Sequence[int]], *, rewrite: bool = False
) -> tuple[list[_Job], list[ManifestRef]]:
    """Which manifests to write, and which of the present ones stay."""
    grid = tuple((0, dimension.chunks) for dimension in node.shape)
    written, deleted = edits.fold()
    written = _in_grid(written, grid)
    pieces = _split(written, deleted, edges)
    # manifests from when the array had another rank hold nothing of it any more
    of_rank = [ref for ref in node.manifests if not ref.extents or len(ref.extents) == len(grid)]
    left = grid
    if edits.kept is not None and 0 in edits.kept:
        of_rank = []
    elif edits.kept is not None:
        left = tuple((0, min(top, stop)) for top, (_, stop) in zip(edits.kept, grid, strict=True))
    reach = {ref: _boxes(ref, edges, grid) for ref in of_rank}
    touched = set(pieces)
    for ref, boxes in reach.items():
        whole = len(boxes) == 1 and _inside(ref.extents, left) and len(ref.extents) == len(grid)
        if rewrite or not whole:
            touched |= boxes
    grown = True
    while grown:
        grown = False
        for boxes in reach.values():
            if boxes & touched and not boxes <= touched:
                touched |= boxes
                grown = True
    kept = [ref for ref, boxes in reach.items() if boxes and not boxes & touched]
    jobs = []
    none = ChunkTable.empty(len(grid)), np.empty((0, len(grid)), np.uint32)
    for box in sorted(touched):
        sources = tuple(ref for ref, boxes in reach.items() if box in boxes)
        bounds = tuple(
            (start, min(stop, top)) for (start, stop), (_, top) in zip(_bounds(box, edges), left, strict=True)
        )
        jobs.append(_Job(bounds, sources, *pieces.get(box, none)))
    return jobs, kept


def _in_grid(table: ChunkTable, grid: Sequence[tuple[int, int]]) -> ChunkTable:
    return table if not len(table) or _inside(table.extents(), grid) else table.within(grid)


def _inside(extents: Sequence[tuple[int, int]], box: Sequence[tuple[int, int]]) -> bool:
    return all(start >= low and stop <= high for (start, stop), (low, high) in zip(extents, box, strict=False))


def _union(extents: Sequence[tuple[int, int]], table: ChunkTable) -> tuple[tuple[int, int], ...]:
    if not len(table):
        return tuple(extents)
    return tuple(
        (min(start, low), max(stop, high)) for (start, stop), (low, high) in zip(extents, table.extents(), strict=True)
    )


def _bounds(box: Box, edges: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((cuts[index], cuts[index + 1]) for index, cuts in zip(box, edges, strict=True))


def _boxes(ref: ManifestRef, edges: Sequence[Sequence[int]], grid: Sequence[tuple[int, int]]) -> set[Box]:
    """The boxes into which the extents of a manifest reach."""
    extents = ref.extents or grid  # none at all stands for everything
    spans: list[range] = []
    for (start, stop), cuts in zip(extents, edges, strict=True):
        stop = min(stop, cuts[-1])
        if start >= stop:
            return set()
        first = int(np.searchsorted(cuts, start, "right")) - 1
        last = int(np.searchsorted(cuts, stop - 1, "right")) - 1
        spans.append(range(first, last + 1))
    boxes: set[Box] = {()}
    for span in spans:
        boxes = {(*box, index) for box in boxes for index in span}
    return boxes


def _split(
    written: ChunkTable, deleted: npt.NDArray[np.uint32], edges: Sequence[Sequence[int]]
) -> dict[Box, tuple[ChunkTable, npt.NDArray[np.uint32]]]:
    """The edits of each box that has any."""
    if all(len(cuts) == 2 for cuts in edges):
        whole = (0,) * len(edges)
        return {whole: (written, deleted)} if len(written) or len(deleted) else {}
    tables = dict(_groups(written.coords, edges))
    gone = dict(_groups(deleted, edges))
    none = np.empty(0, np.intp)
    return {
        box: (written.take(tables.get(box, none)), deleted[gone.get(box, none)]) for box in tables.keys() | gone.keys()
    }


def _groups(
    coords: npt.NDArray[np.uint32], edges: Sequence[Sequence[int]]
) -> Iterable[tuple[Box, npt.NDArray[np.intp]]]:
    """The rows of `coords` that fall into each box."""
    if not len(coords):
        return
    inside = np.ones(len(coords), bool)
    keys = np.empty(coords.shape, np.int64)
    for axis, cuts in enumerate(edges):
        keys[:, axis] = np.searchsorted(np.asarray(cuts), coords[:, axis], "right") - 1
        inside &= coords[:, axis] < cuts[-1]
    rows = np.flatnonzero(inside)
    if not len(rows):
        return
    boxes, which = np.unique(keys[rows], axis=0, return_inverse=True)
    order = np.argsort(which.ravel(), kind="stable")
    stops = np.cumsum(np.bincount(which.ravel(), minlength=len(boxes)))
    for box, start, stop in zip(boxes, [0, *stops[:-1]], stops, strict=True):
        yield tuple(int(index) for index in box), rows[order[start:stop]]
