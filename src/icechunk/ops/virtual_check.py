"""Can the virtual chunks be read? Tries one object per container, and says what is wrong in words.

A reference to each container is looked for in the manifests of one snapshot, a group of manifests at a time, until every
container has one. Then one byte is read through each, all at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from icechunk._driver import concurrent_map
from icechunk.assets import Assets
from icechunk.errors import ErrorKind, IcechunkError, InvalidInputError
from icechunk.format.chunk_ref import Virtual
from icechunk.format.chunk_table import VIRTUAL, ChunkTable
from icechunk.format.ids import format_id
from icechunk.format.manifest import Manifest
from icechunk.format.snapshot import Snapshot
from icechunk.virtual import VirtualChunks
from icechunk.virtual_access import AccessStatus, ContainerAccess, VirtualAccessReport, authorization_entry
from icechunk.virtual_types import VirtualChunkContainer

_LOCATIONS = 1000
"""Of so many locations of an array in a manifest the container is looked up, spread evenly."""
_HOMELESS = 10


class Core(Protocol):
    """What is needed of a repository."""

    @property
    def assets(self) -> Assets: ...

    @property
    def virtual(self) -> VirtualChunks: ...

    @property
    def width(self) -> int: ...


class Samples:
    """A reference to each container, and some to none."""

    def __init__(self, virtual: VirtualChunks) -> None:
        self._virtual = virtual
        self.found: dict[str, Virtual] = {}
        self.homeless: dict[str, None] = {}
        self.everything = True

    @property
    def complete(self) -> bool:
        """Whether there is a reference to every container."""
        return len(self.found) == len(self._virtual.containers)

    def add(self, table: ChunkTable) -> None:
        """Look at the references of one array."""
        text = table.location_text
        if text is None:
            return
        rows = np.flatnonzero(table.kind == VIRTUAL)
        codes, first = np.unique(text.codes[rows], return_index=True)
        if len(codes) > _LOCATIONS:
            self.everything = False
            picked = np.linspace(0, len(codes) - 1, _LOCATIONS).astype(int)
            codes, first = codes[picked], first[picked]
        for code, row in zip(codes.tolist(), rows[first].tolist(), strict=True):
            prefix = self._prefix_of(text.distinct[code])
            if prefix is None:
                if len(self.homeless) < _HOMELESS:
                    self.homeless[text.distinct[code]] = None
            elif prefix not in self.found:
                ref = table.ref(row)
                assert isinstance(ref, Virtual)
                self.found[prefix] = ref

    def _prefix_of(self, location: str) -> str | None:
        try:
            found = self._virtual.container_of(location)
        except InvalidInputError:  # no container of that name
            return None
        return None if found is None else found[0].url_prefix


async def check_access(core: Core, snapshot_id: bytes, max_manifests: int) -> VirtualAccessReport:
    """What can be read of the virtual chunk containers of a snapshot."""
    virtual = core.virtual
    snapshot = await core.assets.snapshot(snapshot_id)
    samples = Samples(virtual)
    manifests = list(_manifest_ids(snapshot))
    looked_at = manifests[:max_manifests]
    step = max(core.width, 1)
    for start in range(0, len(looked_at), step):
        group = looked_at[start : start + step]
        for manifest in await concurrent_map(core.assets.manifest, group, step):
            for table in _tables(manifest):
                samples.add(table)
        if samples.complete:
            break
    else:
        samples.everything &= len(looked_at) == len(manifests)

    async def check(container: VirtualChunkContainer) -> ContainerAccess:
        return await _check(virtual, container, samples.found.get(container.url_prefix))

    containers = list(virtual.containers.values())
    results = await concurrent_map(check, containers, max(step, len(containers)))
    complete = samples.everything or samples.complete
    return VirtualAccessReport(format_id(snapshot_id), tuple(results), tuple(samples.homeless), complete)


def _manifest_ids(snapshot: Snapshot) -> Iterator[bytes]:
    """The manifests of a snapshot, the first of each array before the second of any: arrays differ more than their parts."""
    nodes = [node for node in snapshot.nodes() if node.manifests]
    seen: set[bytes] = set()
    for number in range(max((len(node.manifests) for node in nodes), default=0)):
        for node in nodes:
            if number < len(node.manifests) and node.manifests[number].id not in seen:
                seen.add(node.manifests[number].id)
                yield node.manifests[number].id


def _tables(manifest: Manifest) -> Iterable[ChunkTable]:
    return (manifest.table(node_id) for node_id in manifest.node_ids())


async def _check(virtual: VirtualChunks, container: VirtualChunkContainer, ref: Virtual | None) -> ContainerAccess:
    prefix, name = container.url_prefix, container.name
    if container in virtual.unauthorized():
        advice = f"add {authorization_entry(container)} to authorize_virtual_chunk_access"
        return ContainerAccess(prefix, name, "unauthorized", None, advice)
    if ref is None:
        return ContainerAccess(prefix, name, "unused")
    try:
        await virtual.probe(ref)
    except IcechunkError as error:
        status = _status(error)
        return ContainerAccess(prefix, name, status, ref.location, error.message)
    return ContainerAccess(prefix, name, "readable", ref.location)


def _status(error: IcechunkError) -> AccessStatus:
    kinds = _kinds(error)
    if ErrorKind.VIRTUAL_CHUNK_MODIFIED in kinds or ErrorKind.INVALID_OBJECT_SIZE in kinds:
        return "changed"
    if ErrorKind.INVALID_CREDENTIALS in kinds or isinstance(error.__cause__, PermissionError):
        return "denied"
    if isinstance(error.__cause__, FileNotFoundError):
        return "missing"
    return "failed"


def _kinds(error: BaseException) -> Sequence[object]:
    found = []
    cause: BaseException | None = error
    while cause is not None:
        found.append(getattr(cause, "kind", None))
        cause = cause.__cause__
    return found
