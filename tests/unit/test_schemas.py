"""The declarations against what is known of the format: slots, sizes, and what must be present."""

from __future__ import annotations

import pytest

from icechunk.flatbuf.schema import Scalar, Struct, Table, Union, Vector
from icechunk.format import schemas

TABLES = [value for value in vars(schemas).values() if isinstance(value, Table)]

SLOTS = {
    "Snapshot": "id parent_id nodes flushed_at message metadata manifest_files manifest_files_v2 extra",
    "NodeSnapshot": "id path user_data node_data - extra",
    "ArrayNodeData": "shape dimension_names manifests shape_v2",
    "Manifest": "id arrays location_dictionary compression_algorithm extra",
    "ChunkRef": "index inline offset length chunk_id location checksum_etag checksum_last_modified "
    "compressed_location extra",
    "TransactionLog": "id new_groups new_arrays deleted_groups deleted_arrays updated_arrays updated_groups "
    "updated_chunks moved_nodes extra",
    "MoveOperation": "from to node_id node_type",
    "Repo": "spec_version tags branches deleted_tags snapshots status metadata latest_updates repo_before_updates "
    "config enabled_feature_flags disabled_feature_flags extra",
    "SnapshotInfo": "id parent_offset flushed_at message metadata pruned_ancestor_tx_logs",
    "Update": "update_type - updated_at backup_path",
}


@pytest.mark.parametrize("name", SLOTS)
def test_fields_stand_in_their_slots(name: str) -> None:
    table = next(table for table in TABLES if table.name == name)
    expected = SLOTS[name].split()
    assert {field.slot: field.name for field in table.fields.values()} == {
        slot: field for slot, field in enumerate(expected) if field != "-"
    }
    assert table.slots == len(expected)


@pytest.mark.parametrize(
    "name, required",
    [
        ("Snapshot", {"id", "nodes", "message", "metadata", "manifest_files"}),
        ("ArrayNodeData", {"shape", "manifests"}),
        ("Manifest", {"id", "arrays"}),
        ("Repo", {"tags", "branches", "deleted_tags", "snapshots", "status", "latest_updates"}),
        ("SnapshotInfo", {"id", "message"}),
    ],
)
def test_what_a_file_must_have(name: str, required: set[str]) -> None:
    table = next(table for table in TABLES if table.name == name)
    assert {field.name for field in table.fields.values() if field.required} == required


def test_structs_have_the_sizes_of_the_format() -> None:
    structs = [value for value in vars(schemas).values() if isinstance(value, Struct)]
    assert {struct.name: (struct.size, struct.align) for struct in structs} == {
        "ObjectId12": (12, 1),
        "ObjectId8": (8, 1),
        "ChunkIndexRange": (8, 4),
        "DimensionShape": (16, 8),
        "ManifestFileInfo": (32, 8),
    }


def test_compression_of_locations_is_on_where_a_manifest_does_not_say() -> None:
    kind = schemas.MANIFEST.fields["compression_algorithm"].type
    assert isinstance(kind, Scalar)
    assert kind.default == 1


def test_all_kinds_of_updates_have_a_table_of_their_own() -> None:
    assert sorted(schemas.UPDATE_TYPES) == list(range(1, 17))
    assert len({table.name for table in schemas.UPDATE_TYPES.values()}) == 16


def test_every_table_is_reached_from_a_kind_of_file() -> None:
    reached: set[Table] = set()
    waiting = [schemas.SNAPSHOT, schemas.MANIFEST, schemas.TRANSACTION_LOG, schemas.REPO]
    while waiting:
        table = waiting.pop()
        if table in reached:
            continue
        reached.add(table)
        for field in table.fields.values():
            kind = field.type.element if isinstance(field.type, Vector) else field.type
            waiting += [kind] if isinstance(kind, Table) else []
            waiting += kind.members.values() if isinstance(kind, Union) else []
    assert reached == set(TABLES)
