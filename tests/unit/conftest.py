"""A repository made of its parts, for tests of what lies below sessions: a clock, a storage, files and refs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from icechunk.assets import Assets
from icechunk.format.chunk_ref import ChunkRef, Inline, Native, Virtual
from icechunk.format.chunk_table import ChunkTable
from icechunk.format.manifest import encode_manifest
from icechunk.format.repo_info import SnapshotRecord
from icechunk.format.snapshot import DimensionShape, ManifestFile, ManifestRef, Node, encode_snapshot
from icechunk.format.transaction_log import TransactionLog
from icechunk.refs import Context, Publication, RefStore, UpdateRetries, create_refs, open_refs
from icechunk.storage.base import Storage
from icechunk.storage.memory import MemoryStorage

START = 1_700_000_000_000_000
ARRAY = b"arrayid0"
ZARR_JSON = b'{"zarr_format":3,"node_type":"array"}'


@dataclass
class Clock:
    """Microseconds since 1970, one millisecond later at each look."""

    at: int = START

    def __call__(self) -> int:
        self.at += 1000
        return self.at

    def seconds(self) -> float:
        """The same for a storage."""
        return self() / 1_000_000


@dataclass
class Kit:
    """One repository, and what is needed to change it."""

    spec: int
    clock: Clock = field(default_factory=Clock)
    wrap: Any = None
    seed: int = 0
    updates_per_file: int = 1000
    retries: UpdateRetries = field(default_factory=lambda: UpdateRetries(max_tries=20, initial_backoff_ms=0))

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)
        self.memory = MemoryStorage(clock=self.clock.seconds)
        self.storage: Storage = self.memory if self.wrap is None else self.wrap(self.memory)
        self.assets = Assets(self.storage)
        self.refs: RefStore = None  # type: ignore[assignment]

    def new_id(self) -> bytes:
        """A random id, the same in every run."""
        return self._random.bytes(12)

    def context(self, storage: Storage | None = None) -> Context:
        """What ref stores are made with."""
        storage = self.storage if storage is None else storage
        return Context(
            storage, Assets(storage), self.clock, self.new_id, self.retries, updates_per_file=self.updates_per_file
        )

    async def create(self, **options: Any) -> Kit:
        """Create the repository."""
        self.refs = await create_refs(self.context(), self.spec, **options)
        return self

    async def reopen(self, storage: Storage | None = None) -> RefStore:
        """The refs as another process sees them."""
        refs = await open_refs(self.context(storage))
        assert refs is not None
        return refs

    async def write_snapshot(
        self, parent: SnapshotRecord, message: str, refs: Mapping[tuple[int, ...], ChunkRef] | None = None
    ) -> SnapshotRecord:
        """The files of a snapshot, not published: one array of four chunks whose references are `refs`."""
        snapshot_id, manifest_id = self.new_id(), self.new_id()
        base = await self.assets.snapshot(parent.id)
        added = []
        changes: dict[str, Node | None] = {}
        if refs is not None:
            table = ChunkTable.from_refs(refs, 1)
            data = encode_manifest(manifest_id, {ARRAY: table}, spec=self.spec)
            await self.assets.write_manifest(manifest_id, data, self.spec)
            added.append(ManifestFile(manifest_id, len(data), len(table)))
            for ref in refs.values():
                if isinstance(ref, Native):
                    await self.assets.write_chunk(ref.id, bytes(ref.length))
            changes["/a"] = Node(
                id=ARRAY,
                path="/a",
                is_array=True,
                metadata=ZARR_JSON,
                shape=(DimensionShape(4, 4, 1),),
                dimension_names=None,
                manifests=(ManifestRef(manifest_id, table.extents()),),
            )
        record = SnapshotRecord(
            snapshot_id, parent.id, max(self.clock(), parent.flushed_at + 1), message, {"message": message}
        )
        data = encode_snapshot(
            spec=self.spec,
            id=snapshot_id,
            parent_id=parent.id if self.spec == 1 else None,
            flushed_at=record.flushed_at,
            message=message,
            metadata=record.metadata,
            base=base,
            changes=changes,
            add_manifests=added,
            drop_manifests={file.id for file in base.manifest_files()} if added else set(),
        )
        await self.assets.write_snapshot(snapshot_id, data, self.spec)
        log = TransactionLog(snapshot_id, updated_chunks={ARRAY: np.array([[0]], np.uint32)}).encode(self.spec)
        await self.assets.write_transaction_log(snapshot_id, log, self.spec)
        return record

    async def commit(
        self,
        branch: str,
        message: str,
        chunks: Mapping[tuple[int, ...], ChunkRef] | None = None,
        refs: RefStore | None = None,
    ) -> bytes:
        """Commit to a branch; without `chunks` the array gets one new native chunk of 10 bytes."""
        refs = self.refs if refs is None else refs
        tip = await refs.branch_tip(branch)
        chunks = {(0,): Native(self.new_id(), 10)} if chunks is None else chunks
        record = await self.write_snapshot(await refs.snapshot_record(tip), message, chunks)
        await refs.publish(Publication("commit", record, branch, tip))
        return record.id

    async def line(self, tip: bytes | str, refs: RefStore | None = None) -> list[str]:
        """The messages of a history, newest first."""
        refs = self.refs if refs is None else refs
        if isinstance(tip, str):
            tip = await refs.branch_tip(tip)
        return [record.message async for record in refs.ancestry(tip)]

    def paths(self, folder: str) -> list[str]:
        """What is stored in a folder."""
        return sorted(path for path in self.memory._objects if path.startswith(folder + "/"))


@pytest.fixture
def kit_of() -> type[Kit]:
    """Makes repositories."""
    return Kit


@pytest.fixture(params=[1, 2], ids=["spec1", "spec2"])
async def kit(request: pytest.FixtureRequest) -> Kit:
    """A fresh repository of each format."""
    return await Kit(request.param).create()


__all__ = ["ARRAY", "Clock", "Inline", "Kit", "Native", "Virtual", "replace"]
