"""Files of a repository as plain dicts, to look at and to print.

Each function takes the bytes of one file, so it shows what is stored and not what a cache holds. Ids are text, times are
ISO 8601 in UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from icechunk._driver import concurrent_map
from icechunk.errors import ObjectNotFoundError
from icechunk.flatbuf.columns import TableColumns, element_positions
from icechunk.flatbuf.reader import Document
from icechunk.format.chunk_table import INLINE, NATIVE, VIRTUAL
from icechunk.format.envelope import FileType, open_envelope, read_header
from icechunk.format.ids import format_id
from icechunk.format.manifest import Manifest
from icechunk.format.repo_info import (
    BranchCreated,
    BranchDeleted,
    BranchReset,
    CommitAmended,
    FeatureFlagChanged,
    NewCommit,
    NewDetachedSnapshot,
    RepoInfo,
    RepoMigrated,
    RepoStatusChanged,
    Status,
    TagCreated,
    TagDeleted,
    Update,
)
from icechunk.format.schemas import CHUNK_REF, MANIFEST
from icechunk.format.snapshot import Node, Snapshot
from icechunk.format.transaction_log import TransactionLog
from icechunk.history import union_coords
from icechunk.info import from_microseconds
from icechunk.refs.base import RefStore
from icechunk.refs.repo_file import AVAILABILITY
from icechunk.storage.base import Buffer, Storage

View = dict[str, Any]


def iso_time(at: int) -> str:
    """Microseconds since 1970 as text, with as many digits of the second as it takes."""
    moment = from_microseconds(at)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    if moment.microsecond % 1000:
        text += f".{moment.microsecond:06}"
    elif moment.microsecond:
        text += f".{moment.microsecond // 1000:03}"
    return text + "Z"


def header_view(data: Buffer, file: str) -> View:
    """The envelope of a metadata file."""
    header = read_header(data, file)
    name, _, version = header.writer.partition("-")
    return {
        "written_by": header.writer,
        "app_name": name,
        "app_version": version,
        "spec_version": f"{header.spec}.0",
        "file_type": header.file_type.name.lower().replace("_", "-"),
        "compression": "zstd" if header.compression else "none",
    }


# ---- snapshots


def snapshot_view(data: Buffer, file: str) -> View:
    """A snapshot: its commit, its manifests and its nodes."""
    snapshot = Snapshot.decode(data, file)
    view: View = {"id": format_id(snapshot.id), "header": header_view(data, file)}
    view |= {
        "flushed_at": iso_time(snapshot.flushed_at),
        "commit_message": snapshot.message,
        "metadata": snapshot.metadata,
        "manifests": [
            {"id": format_id(file.id), "size_bytes": file.size, "num_chunk_refs": file.count}
            for file in snapshot.manifest_files()
        ],
        "nodes": [_node_view(node) for node in snapshot.nodes()],
    }
    return view


def _node_view(node: Node) -> View:
    view: View = {"id": format_id(node.id), "path": node.path, "node_type": "array" if node.is_array else "group"}
    if node.is_array:
        names = node.dimension_names or (None,) * len(node.shape)
        view["shape"] = [
            ({} if name is None else {"name": name})
            | {"array_length": dimension.length, "num_chunks": dimension.chunks}
            for name, dimension in zip(names, node.shape, strict=False)
        ]
        view["manifest_refs"] = [
            {"id": format_id(ref.id), "extents": [list(extent) for extent in ref.extents]} for ref in node.manifests
        ]
    return view


# ---- manifests


def manifest_view(data: Buffer, file: str) -> View:
    """A manifest: how many references of which kind it holds for each array, and how locations are stored."""
    manifest = Manifest.decode(data, file)
    _, payload = open_envelope(data, FileType.MANIFEST, file)
    arrays = [_array_view(node_id, manifest) for node_id in manifest.node_ids()]
    return {
        "id": format_id(manifest.id),
        "header": header_view(data, file),
        "size_bytes": len(payload),
        "num_arrays": len(arrays),
        "total_chunk_refs": sum(array["num_chunk_refs"] for array in arrays),
        "total_inline": sum(array["num_inline"] for array in arrays),
        "total_native": sum(array["num_native"] for array in arrays),
        "total_virtual": sum(array["num_virtual"] for array in arrays),
        "arrays": arrays,
        "compression": _location_view(payload, file),
    }


def _array_view(node_id: bytes, manifest: Manifest) -> View:
    counts = np.bincount(manifest.table(node_id).kind, minlength=4).tolist()
    return {
        "node_id": format_id(node_id),
        "num_chunk_refs": sum(counts),
        "num_inline": counts[INLINE],
        "num_native": counts[NATIVE],
        "num_virtual": counts[VIRTUAL],
    }


def _location_view(payload: Buffer, file: str) -> View:
    doc = Document(payload, file)
    root = doc.root(MANIFEST)
    view: View = {"uses_location_compression": bool(root["compression_algorithm"])}
    dictionary = root["location_dictionary"]
    if dictionary is not None:
        view["dictionary_size_bytes"] = len(dictionary)
    compressed = 0
    for array in root["arrays"]:
        columns = TableColumns(doc, CHUNK_REF, element_positions(array["refs"]))
        compressed += int(columns.present("compressed_location").sum())
    view["num_compressed_refs"] = compressed
    return view


# ---- transaction logs


def log_view(data: Buffer, file: str, pruned: Sequence[TransactionLog] = ()) -> View:
    """A transaction log, together with those of ancestors that an expiration cut out between it and its parent."""
    logs = [*pruned, TransactionLog.decode(data, file)]

    def union(name: str) -> list[str]:
        return [
            format_id(node_id) for node_id in sorted(frozenset[bytes]().union(*(getattr(log, name) for log in logs)))
        ]

    return {
        "header": header_view(data, file),
        "new_groups": union("new_groups"),
        "new_arrays": union("new_arrays"),
        "deleted_groups": union("deleted_groups"),
        "deleted_arrays": union("deleted_arrays"),
        "updated_groups": union("updated_groups"),
        "updated_arrays": union("updated_arrays"),
        "updated_chunks": _chunks_view(logs),
        "moved_nodes": [{"from": move.source, "to": move.target} for log in logs for move in log.moved_nodes],
    }


def _chunks_view(logs: Sequence[TransactionLog]) -> list[View]:
    coords: dict[bytes, list[Any]] = {}
    for log in logs:
        for node_id, chunks in log.updated_chunks.items():
            coords.setdefault(node_id, []).append(chunks)
    return [
        {"node_id": format_id(node_id), "chunks": union_coords(coords[node_id]).tolist()} for node_id in sorted(coords)
    ]


# ---- the repo object


def repo_view(data: Buffer, file: str) -> View:
    """The repo object: refs, snapshots and the newest part of the operations log."""
    info = RepoInfo.decode(data, file)
    header = header_view(data, file)
    snapshots = []
    for snapshot_id in info.snapshot_ids():
        record = info.snapshot(snapshot_id)
        assert record is not None
        snapshot: View = {"id": format_id(record.id)}
        if record.parent_id is not None:
            snapshot["parent_id"] = format_id(record.parent_id)
        snapshot |= {
            "flushed_at": iso_time(record.flushed_at),
            "message": record.message,
            "metadata": record.metadata,
        }
        snapshots.append(snapshot)
    return {
        "header": header,
        "spec_version": header["spec_version"],
        "branches": {name: format_id(tip) for name, tip in sorted(info.branches.items())},
        "tags": {name: format_id(target) for name, target in sorted(info.tags.items())},
        "deleted_tags": sorted(info.deleted_tags),
        "snapshots": snapshots,
        "metadata": info.metadata,
        "latest_updates": [update_view(update) for update in info.updates],
        **({} if info.before_updates is None else {"repo_before_updates": info.before_updates}),
    }


def update_view(update: Update) -> View:
    """One entry of the operations log."""
    kind = update.kind
    name = type(kind).__name__
    if not isinstance(kind, FeatureFlagChanged):
        name += "Update"
    view: View = {"update_type": {"type": name, **_DETAILS.get(type(kind), _nothing)(kind)}}
    view["updated_at"] = iso_time(update.at)
    if update.backup is not None:
        view["backup_path"] = update.backup
    return view


def _nothing(_: Any) -> View:
    return {}


def _name(kind: Any) -> View:
    return {"name": kind.name}


def _name_and_previous(kind: Any) -> View:
    return {"name": kind.name, "previous_snap_id": format_id(kind.previous)}


def _status_view(status: Status) -> View:
    return {
        "availability": AVAILABILITY.get(status.availability, str(status.availability)),
        "limited_availability_reason": status.reason,
        "set_at": iso_time(status.set_at),
    }


_DETAILS: dict[type, Callable[[Any], View]] = {
    RepoMigrated: lambda kind: {"from_version": f"{kind.from_version}.0", "to_version": f"{kind.to_version}.0"},
    TagCreated: _name,
    TagDeleted: _name_and_previous,
    BranchCreated: _name,
    BranchDeleted: _name_and_previous,
    BranchReset: _name_and_previous,
    NewCommit: lambda kind: {"branch": kind.branch, "new_snap_id": format_id(kind.snapshot)},
    CommitAmended: lambda kind: {
        "branch": kind.branch,
        "previous_snap_id": format_id(kind.previous),
        "new_snap_id": format_id(kind.snapshot),
    },
    NewDetachedSnapshot: lambda kind: {"new_snap_id": format_id(kind.snapshot)},
    FeatureFlagChanged: lambda kind: {"id": kind.id, "new_value": kind.new_value},
    RepoStatusChanged: lambda kind: {"status": _status_view(kind.status)},
}


# ---- reading the files


async def inspect_snapshot(storage: Storage, snapshot_id: bytes) -> View:
    """The view of a snapshot; raises `ObjectNotFoundError`."""
    return await _inspect(storage, f"snapshots/{format_id(snapshot_id)}", snapshot_view)


async def inspect_manifest(storage: Storage, manifest_id: bytes) -> View:
    """The view of a manifest; raises `ObjectNotFoundError`."""
    return await _inspect(storage, f"manifests/{format_id(manifest_id)}", manifest_view)


async def inspect_repo_info(refs: RefStore, storage: Storage) -> View:
    """The view of the repo object; raises `FormatError` where the format has none."""
    await refs.get_status()
    return await _inspect(storage, "repo", repo_view)


async def inspect_transaction_log(refs: RefStore, storage: Storage, snapshot_id: bytes) -> View:
    """The view of what a commit changed, pruned ancestors included; raises `ObjectNotFoundError`."""
    path = f"transactions/{format_id(snapshot_id)}"
    data, _ = await storage.get(path)
    record = (await refs.history()).records.get(snapshot_id) if refs.registers_snapshots else None
    if record is None or not record.pruned:
        return log_view(data, path)
    found = await concurrent_map(lambda one: _log_or_none(storage, one), record.pruned, max(storage.concurrency, 1))
    view = log_view(data, path, [log for log in found if log is not None])
    missing = [one for one, log in zip(record.pruned, found, strict=True) if log is None]
    view["synthetic_composite"] = {
        "note": "Synthetic composite: this snapshot's ancestry was collapsed by expiration; the log below merges its "
        "pruned-ancestor logs with its own log. `header` describes this snapshot's own log only.",
        "merged_pruned_ancestor_tx_logs": [format_id(one) for one in record.pruned if one not in missing],
        "missing_tx_logs": [format_id(one) for one in missing],
    }
    return view


async def _inspect(storage: Storage, path: str, view: Callable[[Buffer, str], View]) -> View:
    data, _ = await storage.get(path)
    return view(data, path)


async def _log_or_none(storage: Storage, snapshot_id: bytes) -> TransactionLog | None:
    path = f"transactions/{format_id(snapshot_id)}"
    try:
        data, _ = await storage.get(path)
    except ObjectNotFoundError:
        return None
    return TransactionLog.decode(data, path)
