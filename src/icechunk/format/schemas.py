"""Every table and struct of the format, as data.

Field order is slot order, so each declaration reads line by line against the description of the format. `Required` marks
the fields without which a file is refused; writers emit all of them, vectors even when empty. Comments say which spec
version brought a field; older files simply lack it.
"""

from __future__ import annotations

from icechunk.flatbuf.schema import (
    BOOL,
    I32,
    STRING,
    U8,
    U16,
    U32,
    U64,
    Required,
    Struct,
    Table,
    Union,
    Vector,
)

FILE_IDENTIFIER = b"Ichk"
"""Bytes 4 to 8 of every payload; written always, checked never (the reference does not check it either)."""

# ---- structs

OBJECT_ID_12 = Struct("ObjectId12", 12)
OBJECT_ID_8 = Struct("ObjectId8", 8)
CHUNK_INDEX_RANGE = Struct("ChunkIndexRange", 8, align=4)  # u32 from (inclusive), u32 to (exclusive)
DIMENSION_SHAPE = Struct("DimensionShape", 16, align=8)  # u64 array length, u64 chunk length
MANIFEST_FILE_INFO = Struct("ManifestFileInfo", 32, align=8)  # 12 id, 4 pad, u64 size, u32 refs, 4 pad

# ---- shared

METADATA_ITEM = Table("MetadataItem", name=Required(STRING), value=Required(Vector(U8)))

# ---- snapshot

MANIFEST_REF = Table("ManifestRef", object_id=Required(OBJECT_ID_12), extents=Required(Vector(CHUNK_INDEX_RANGE)))
DIMENSION_NAME = Table("DimensionName", name=STRING)
DIMENSION_SHAPE_V2 = Table("DimensionShapeV2", array_length=U64, num_chunks=U32)

GROUP_NODE = Table("GroupNodeData")
ARRAY_NODE = Table(
    "ArrayNodeData",
    shape=Required(Vector(DIMENSION_SHAPE)),  # filled by spec 1, empty in spec 2
    dimension_names=Vector(DIMENSION_NAME),
    manifests=Required(Vector(MANIFEST_REF)),
    shape_v2=Vector(DIMENSION_SHAPE_V2),  # spec 2
)
NODE_ARRAY = 1
NODE_GROUP = 2

NODE_SNAPSHOT = Table(
    "NodeSnapshot",
    id=Required(OBJECT_ID_8),
    path=Required(STRING),
    user_data=Required(Vector(U8)),
    node_data=Required(Union({NODE_ARRAY: ARRAY_NODE, NODE_GROUP: GROUP_NODE})),
    extra=Vector(U8),
)

MANIFEST_FILE_V2 = Table(
    "ManifestFileInfoV2", id=Required(OBJECT_ID_12), size_bytes=U64, num_chunk_refs=U32, extra=Vector(U8)
)

SNAPSHOT = Table(
    "Snapshot",
    id=Required(OBJECT_ID_12),
    parent_id=OBJECT_ID_12,  # spec 1; in spec 2 the repo object knows the parents
    nodes=Required(Vector(NODE_SNAPSHOT)),  # sorted by the UTF-8 bytes of the path
    flushed_at=U64,
    message=Required(STRING),
    metadata=Required(Vector(METADATA_ITEM)),
    manifest_files=Required(Vector(MANIFEST_FILE_INFO)),  # filled by spec 1, empty in spec 2
    manifest_files_v2=Vector(MANIFEST_FILE_V2),  # spec 2
    extra=Vector(U8),
)

# ---- manifest

CHUNK_REF = Table(
    "ChunkRef",
    index=Required(Vector(U32)),  # 0-based chunk coordinates, one per dimension
    inline=Vector(U8),
    offset=U64,
    length=U64,
    chunk_id=OBJECT_ID_12,
    location=STRING,
    checksum_etag=STRING,
    checksum_last_modified=U32,  # seconds
    compressed_location=Vector(U8),  # spec 2
    extra=Vector(U8),
)

ARRAY_MANIFEST = Table(
    "ArrayManifest", node_id=Required(OBJECT_ID_8), refs=Required(Vector(CHUNK_REF)), extra=Vector(U8)
)

MANIFEST = Table(
    "Manifest",
    id=Required(OBJECT_ID_12),
    arrays=Required(Vector(ARRAY_MANIFEST)),  # sorted by node id
    location_dictionary=Vector(U8),  # spec 2
    compression_algorithm=U8(1),  # spec 2; 0 = plain locations, 1 = zstd with the dictionary
    extra=Vector(U8),
)

# ---- transaction log

CHUNK_INDICES = Table("ChunkIndices", coords=Required(Vector(U32)))
ARRAY_UPDATED_CHUNKS = Table(
    "ArrayUpdatedChunks", node_id=Required(OBJECT_ID_8), chunks=Required(Vector(CHUNK_INDICES))
)
MOVE_OPERATION = Table(
    "MoveOperation",
    **{"from": Required(STRING)},
    to=Required(STRING),
    node_id=Required(OBJECT_ID_8),
    node_type=U8,  # 0 group, 1 array
)

TRANSACTION_LOG = Table(
    "TransactionLog",
    id=Required(OBJECT_ID_12),
    new_groups=Required(Vector(OBJECT_ID_8)),
    new_arrays=Required(Vector(OBJECT_ID_8)),
    deleted_groups=Required(Vector(OBJECT_ID_8)),
    deleted_arrays=Required(Vector(OBJECT_ID_8)),
    updated_arrays=Required(Vector(OBJECT_ID_8)),
    updated_groups=Required(Vector(OBJECT_ID_8)),
    updated_chunks=Required(Vector(ARRAY_UPDATED_CHUNKS)),  # sorted by node id
    moved_nodes=Vector(MOVE_OPERATION),  # spec 2
    extra=Vector(U8),
)

# ---- repo object (spec 2)

REF = Table("Ref", name=Required(STRING), snapshot_index=U32)

SNAPSHOT_INFO = Table(
    "SnapshotInfo",
    id=Required(OBJECT_ID_12),
    parent_offset=I32,  # index into the snapshots of the repo object in spite of its name; -1 = no parent
    flushed_at=U64,
    message=Required(STRING),
    metadata=Vector(METADATA_ITEM),
    pruned_ancestor_tx_logs=Vector(OBJECT_ID_12),  # spec 2.1
)

REPO_STATUS = Table("RepoStatus", availability=U8, set_at=U64, limited_availability_reason=STRING)

REPO_INITIALIZED_UPDATE = Table("RepoInitializedUpdate")
REPO_MIGRATED_UPDATE = Table("RepoMigratedUpdate", from_version=U8, to_version=U8)
CONFIG_CHANGED_UPDATE = Table("ConfigChangedUpdate")
METADATA_CHANGED_UPDATE = Table("MetadataChangedUpdate")
TAG_CREATED_UPDATE = Table("TagCreatedUpdate", name=Required(STRING))
TAG_DELETED_UPDATE = Table("TagDeletedUpdate", name=Required(STRING), previous_snap_id=Required(OBJECT_ID_12))
BRANCH_CREATED_UPDATE = Table("BranchCreatedUpdate", name=Required(STRING))
BRANCH_DELETED_UPDATE = Table("BranchDeletedUpdate", name=Required(STRING), previous_snap_id=Required(OBJECT_ID_12))
BRANCH_RESET_UPDATE = Table("BranchResetUpdate", name=Required(STRING), previous_snap_id=Required(OBJECT_ID_12))
NEW_COMMIT_UPDATE = Table("NewCommitUpdate", branch=Required(STRING), new_snap_id=Required(OBJECT_ID_12))
COMMIT_AMENDED_UPDATE = Table(
    "CommitAmendedUpdate",
    branch=Required(STRING),
    previous_snap_id=Required(OBJECT_ID_12),
    new_snap_id=Required(OBJECT_ID_12),
)
NEW_DETACHED_SNAPSHOT_UPDATE = Table("NewDetachedSnapshotUpdate", new_snap_id=Required(OBJECT_ID_12))
GC_RAN_UPDATE = Table("GCRanUpdate")
EXPIRATION_RAN_UPDATE = Table("ExpirationRanUpdate")
FEATURE_FLAG_CHANGED_UPDATE = Table("FeatureFlagChangedUpdate", id=U16, new_value=BOOL, is_set=BOOL)
REPO_STATUS_CHANGED_UPDATE = Table("RepoStatusChangedUpdate", status=Required(REPO_STATUS))

UPDATE_TYPES = {
    1: REPO_INITIALIZED_UPDATE,
    2: REPO_MIGRATED_UPDATE,
    3: CONFIG_CHANGED_UPDATE,
    4: METADATA_CHANGED_UPDATE,
    5: TAG_CREATED_UPDATE,
    6: TAG_DELETED_UPDATE,
    7: BRANCH_CREATED_UPDATE,
    8: BRANCH_DELETED_UPDATE,
    9: BRANCH_RESET_UPDATE,
    10: NEW_COMMIT_UPDATE,
    11: COMMIT_AMENDED_UPDATE,
    12: NEW_DETACHED_SNAPSHOT_UPDATE,
    13: GC_RAN_UPDATE,
    14: EXPIRATION_RAN_UPDATE,
    15: FEATURE_FLAG_CHANGED_UPDATE,
    16: REPO_STATUS_CHANGED_UPDATE,
}
UPDATE = Table("Update", update_type=Required(Union(UPDATE_TYPES)), updated_at=U64, backup_path=STRING)

REPO = Table(
    "Repo",
    spec_version=U8,
    tags=Required(Vector(REF)),  # sorted by name
    branches=Required(Vector(REF)),  # sorted by name
    deleted_tags=Required(Vector(STRING)),
    snapshots=Required(Vector(SNAPSHOT_INFO)),  # sorted by id
    status=Required(REPO_STATUS),
    metadata=Vector(METADATA_ITEM),
    latest_updates=Required(Vector(UPDATE)),  # newest first
    repo_before_updates=STRING,
    config=Vector(U8),
    enabled_feature_flags=Vector(U16),
    disabled_feature_flags=Vector(U16),
    extra=Vector(U8),
)
