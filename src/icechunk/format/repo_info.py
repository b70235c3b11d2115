"""The repo object: refs, history, configuration and the newest part of the operations log in one file (spec 2).

`RepoInfo` is a value; every change gives the next one. A commit to a repository of thousands of snapshots touches a few
entries, so nothing is taken apart that is not looked at: snapshots are columns, entries of the log and the configuration
are bytes until somebody asks, and what does not change is written as the bytes that were read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from icechunk._dataclass import dataclass
from icechunk.errors import ErrorKind, FormatError
from icechunk.flatbuf.columns import TableColumns, element_positions
from icechunk.flatbuf.reader import Document, VectorView
from icechunk.format.envelope import FileType, open_envelope, seal
from icechunk.format.nested_columns import read_names
from icechunk.format.repo_updates import (
    BranchCreated,
    BranchDeleted,
    BranchReset,
    CommitAmended,
    ConfigChanged,
    ExpirationRan,
    FeatureFlagChanged,
    GCRan,
    MetadataChanged,
    NewCommit,
    NewDetachedSnapshot,
    RepoInitialized,
    RepoMigrated,
    RepoStatusChanged,
    Status,
    TagCreated,
    TagDeleted,
    Update,
    UpdateKind,
    UpdateLog,
    read_status,
)
from icechunk.format.schemas import REF, REPO
from icechunk.format.snapshot_records import Ids, SnapshotRecord, SnapshotTable
from icechunk.format.values import decode_flexbuffer, encode_flexbuffer

__all__ = [
    "BranchCreated",
    "BranchDeleted",
    "BranchReset",
    "CommitAmended",
    "ConfigChanged",
    "ExpirationRan",
    "FeatureFlagChanged",
    "GCRan",
    "MetadataChanged",
    "NewCommit",
    "NewDetachedSnapshot",
    "RepoInfo",
    "RepoInitialized",
    "RepoMigrated",
    "RepoStatusChanged",
    "SnapshotRecord",
    "Status",
    "TagCreated",
    "TagDeleted",
    "Update",
    "UpdateKind",
]

Buffer: TypeAlias = bytes | bytearray | memoryview

SPEC = 2

_FEW = 8
"""Refs up to which reading one by one is faster than by column."""


@dataclass(frozen=True, eq=False)
class RepoInfo:
    """What one repo object says.

    Attributes
    ----------
    branches, tags : mapping of str to bytes
        Snapshot ids by name.
    deleted_tags : frozenset of str
        Names of tags that were deleted and can never be used again.
    status : Status
        Whether the repository may be changed.
    updates : sequence of Update
        The newest entries of the operations log, newest first.
    before_updates : str or None
        The copy of the repo object, under `overwritten/`, in which the log goes on.
    snapshots : SnapshotTable
        Every known snapshot, in the form in which it is stored.
    stored_metadata, stored_config, stored_flags, extra
        Parts that are handed on as they were read.
    """

    snapshots: SnapshotTable
    branches: Mapping[str, bytes]
    tags: Mapping[str, bytes]
    deleted_tags: frozenset[str]
    status: Status
    updates: UpdateLog
    before_updates: str | None = None
    stored_metadata: tuple[tuple[str, bytes], ...] = ()
    stored_config: bytes | None = None
    stored_flags: tuple[tuple[int, ...] | None, tuple[int, ...] | None] = (None, None)
    extra: bytes | None = None

    # ---- bytes

    @classmethod
    def decode(cls, data: Buffer, file: str) -> RepoInfo:
        """Read a file; `file` is how errors call it. Raises `FormatError`, also later when a damaged part is reached."""
        _, payload = open_envelope(data, FileType.REPO_INFO, file)
        doc = Document(payload, file)
        root = doc.root(REPO)
        if root["spec_version"] != SPEC:
            raise FormatError(
                f"{file}: this repository uses Icechunk format version {root['spec_version']}, but this library only "
                f"supports up to version {SPEC}. Please upgrade the icechunk library",
                ErrorKind.UNSUPPORTED_SPEC_VERSION,
            )
        snapshots, ids = SnapshotTable.read(doc, root["snapshots"])
        flags = (root["enabled_feature_flags"], root["disabled_feature_flags"])
        enabled, disabled = (None if each is None else tuple(each) for each in flags)
        config, extra = root["config"], root["extra"]
        return cls(
            snapshots=snapshots,
            branches=_read_refs(doc, root["branches"], ids),
            tags=_read_refs(doc, root["tags"], ids),
            deleted_tags=frozenset(root["deleted_tags"]),
            status=read_status(root["status"]),
            updates=UpdateLog(doc, element_positions(root["latest_updates"])),
            before_updates=root["repo_before_updates"],
            stored_metadata=tuple((item["name"], bytes(item["value"])) for item in root["metadata"] or ()),
            stored_config=None if config is None else bytes(config),
            stored_flags=(enabled, disabled),
            extra=None if extra is None else bytes(extra),
        )

    def encode(self, level: int = 3) -> bytes:
        """The file."""
        from icechunk.format.repo_info_encoding import encode_payload  # who only reads does without it

        payload, snapshots, updates = encode_payload(self)
        # The same content, where it lies in the new bytes: the next change then has nothing to carry over but those.
        object.__setattr__(self, "snapshots", snapshots)
        object.__setattr__(self, "updates", updates)
        return seal(payload, FileType.REPO_INFO, spec=SPEC, level=level)

    @classmethod
    def initial(cls, record: SnapshotRecord, at: int) -> RepoInfo:
        """The repo object of a new repository, with one snapshot, created at `at` (microseconds since 1970)."""
        nothing = UpdateLog(Document(b"", "repo"), np.zeros(0, np.int64))
        return cls(
            snapshots=SnapshotTable.of([record]),
            branches=MappingProxyType({"main": record.id}),
            tags=MappingProxyType({}),
            deleted_tags=frozenset(),
            status=Status(0, at),
            updates=nothing.added(RepoInitialized(), at, None, 1)[0],
        )

    # ---- snapshots

    def __contains__(self, snapshot_id: bytes) -> bool:
        return self.snapshots.row(snapshot_id) >= 0

    def __len__(self) -> int:
        return len(self.snapshots)

    def snapshot(self, snapshot_id: bytes) -> SnapshotRecord | None:
        """The record of a snapshot."""
        row = self.snapshots.row(snapshot_id)
        return self.snapshots.record(row) if row >= 0 else None

    def snapshot_ids(self) -> list[bytes]:
        """The ids of all snapshots, sorted."""
        raw = self.snapshots.ids.tobytes()
        return [raw[start : start + 12] for start in range(0, len(raw), 12)]

    def parents(self) -> dict[bytes, bytes | None]:
        """The parent of each snapshot."""
        ids = self.snapshot_ids()
        return {
            ids[row]: None if parent < 0 else ids[parent] for row, parent in enumerate(self.snapshots.parents.tolist())
        }

    def ancestry(self, snapshot_id: bytes) -> Sequence[SnapshotRecord]:
        """A snapshot, its parent, and so on to the first one; nothing for an unknown id."""
        row = self.snapshots.row(snapshot_id)
        return self.snapshots.ancestry(row) if row >= 0 else ()

    def with_snapshot(self, record: SnapshotRecord) -> RepoInfo:
        """With a snapshot more, whose parent is known already."""
        return self._with(snapshots=self.snapshots.with_record(record))

    def with_snapshots_replaced(self, records: Iterable[SnapshotRecord]) -> RepoInfo:
        """With these snapshots and no others; refs must lead to them, and so must parents."""
        return self._with(snapshots=SnapshotTable.of(records))

    # ---- refs

    def with_branch(self, name: str, snapshot_id: bytes) -> RepoInfo:
        """With a branch created or moved."""
        return self._with(branches=MappingProxyType({**self.branches, name: snapshot_id}))

    def without_branch(self, name: str) -> RepoInfo:
        """With a branch less."""
        return self._with(branches=_without(self.branches, name))

    def with_tag(self, name: str, snapshot_id: bytes) -> RepoInfo:
        """With a tag created."""
        return self._with(tags=MappingProxyType({**self.tags, name: snapshot_id}))

    def without_tag(self, name: str) -> RepoInfo:
        """With a tag deleted, whose name is remembered."""
        return self._with(tags=_without(self.tags, name), deleted_tags=self.deleted_tags | {name})

    # ---- the rest

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata of the repository."""
        return {name: decode_flexbuffer(raw, f"{self._file}: metadata `{name}`") for name, raw in self.stored_metadata}

    def with_metadata(self, metadata: Mapping[str, Any]) -> RepoInfo:
        """With this metadata instead."""
        stored = tuple((name, encode_flexbuffer(metadata[name])) for name in sorted(metadata))
        return self._with(stored_metadata=stored)

    @property
    def config(self) -> dict[str, Any] | None:
        """The stored configuration; None when none was saved."""
        if self.stored_config is None:
            return None
        found = decode_flexbuffer(self.stored_config, f"{self._file}: config")
        if not isinstance(found, dict):
            raise FormatError(f"{self._file}: config: it is no map", ErrorKind.CONFIG_DESERIALIZATION)
        return found

    def with_config(self, config: Mapping[str, Any]) -> RepoInfo:
        """With this configuration stored."""
        return self._with(stored_config=encode_flexbuffer(dict(config)))

    @property
    def enabled_flags(self) -> tuple[int, ...]:
        """Numbers of the switches that were set to on, also those this library does not know."""
        return self.stored_flags[0] or ()

    @property
    def disabled_flags(self) -> tuple[int, ...]:
        """Numbers of the switches that were set to off."""
        return self.stored_flags[1] or ()

    def with_flags(self, enabled: Iterable[int], disabled: Iterable[int]) -> RepoInfo:
        """With these switches set."""
        return self._with(stored_flags=(tuple(sorted(enabled)), tuple(sorted(disabled))))

    def with_status(self, status: Status) -> RepoInfo:
        """With this status."""
        return self._with(status=status)

    def with_update(self, kind: UpdateKind, at: int, backup_of_previous: str | None, limit: int) -> RepoInfo:
        """With an entry more in the operations log.

        `at` must be later than the last entry. `backup_of_previous` is the name of the copy of the repo object as it
        was until now, None when there is no copy. Of more than `limit` entries the oldest go, as far as they have one.
        """
        updates, left = self.updates.added(kind, at, backup_of_previous, limit)
        return self._with(updates=updates, before_updates=self.before_updates if left is None else left)

    def _with(self, **changes: Any) -> RepoInfo:
        """As `dataclasses.replace`, which takes five times as long; a commit makes three changes."""
        changed = object.__new__(RepoInfo)
        changed.__dict__.update(self.__dict__, **changes)
        return changed

    @property
    def _file(self) -> str:
        return self.updates.doc.file


def _without(refs: Mapping[str, bytes], name: str) -> Mapping[str, bytes]:
    return MappingProxyType({other: target for other, target in refs.items() if other != name})


def _read_refs(doc: Document, vector: VectorView, ids: Ids) -> Mapping[str, bytes]:
    if len(vector) <= _FEW:
        names, rows = [item["name"] for item in vector], [item["snapshot_index"] for item in vector]
    else:
        table = TableColumns(doc, REF, element_positions(vector))
        names, rows = read_names(doc, table.targets("name"), "Ref.name"), table.scalar("snapshot_index").tolist()
    if max(rows, default=-1) >= len(ids):
        raise doc.fail("Ref.snapshot_index", f"{max(rows)} is no row of the {len(ids)} snapshots")
    return MappingProxyType({name: ids[row : row + 1].tobytes() for name, row in zip(names, rows, strict=True)})
