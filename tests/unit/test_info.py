"""The small values that calls return."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from icechunk.info import (
    Attribution,
    ChunkStorageStats,
    ChunkType,
    Diff,
    FeatureFlag,
    GCSummary,
    ManifestFileInfo,
    RepoAvailability,
    RepoStatus,
    SessionMode,
    SnapshotInfo,
    SpecVersion,
    Update,
    UpdateType,
    from_microseconds,
)

NOON = datetime(2024, 5, 6, 12, tzinfo=UTC)
SNAPSHOT = SnapshotInfo("XTF57VD83H7K57B43BV0", "1CECHNKREP0F1RSTCMT0", NOON, "first\nsecond", {"k": [1, None]})
DIFF = Diff(
    new_groups={"/", "/a"},
    new_arrays={"/a/b"},
    deleted_arrays={"/old"},
    updated_groups={"/g"},
    updated_chunks={"/a/b": [[0], [1]]},
    moved_nodes=[("/x", "/y")],
)
ONLINE = RepoStatus(RepoAvailability.online, NOON)
VALUES: list[Any] = [
    SNAPSHOT,
    ManifestFileInfo("W8GR42F2PZ3AAFB7G4E0", 160, 2),
    DIFF,
    Diff(),
    GCSummary(bytes_deleted=1, delete_errors=["no"]),
    ChunkStorageStats(1, 2, 3),
    FeatureFlag(3, "move_node", True, None),
    ONLINE,
    Update(UpdateType.NewCommit("main", "XTF57VD83H7K57B43BV0"), NOON, "repo.1"),
    Attribution(client="app/1.0", principal="me"),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_compare_travel_and_show_themselves(value: Any) -> None:
    twin = pickle.loads(pickle.dumps(value))
    assert twin == value == copy.deepcopy(value)
    assert all(value != other for other in VALUES if other is not value)
    assert str(value) or value == Diff()
    assert value._repr_html_().startswith("<style>")


@pytest.mark.parametrize(
    "value", [value for value in VALUES if not isinstance(value, RepoStatus)], ids=lambda v: type(v).__name__
)
def test_values_cannot_be_changed(value: Any) -> None:
    name = next(name for name in dir(value) if not name.startswith("_"))
    with pytest.raises(AttributeError):
        setattr(value, name, None)


def test_times_are_exact() -> None:
    assert from_microseconds(0) == datetime(1970, 1, 1, tzinfo=UTC)
    for microseconds in (1, 999_999, 1_715_000_000_123_457, -1):
        found = from_microseconds(microseconds)
        assert (found - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) == microseconds


def test_chunk_types_have_two_spellings() -> None:
    assert [ChunkType.UNINITIALIZED, ChunkType.NATIVE, ChunkType.VIRTUAL, ChunkType.INLINE] == [0, 1, 2, 3]
    assert ChunkType.INLINE is ChunkType.inline
    assert repr(ChunkType.INLINE) == str(ChunkType.inline) == "ChunkType.inline"
    assert ChunkType.uninitialized, "members are true, whatever their number"
    assert pickle.loads(pickle.dumps(ChunkType.virtual)) is ChunkType.virtual


def test_other_enumerations() -> None:
    assert [SessionMode.readonly, SessionMode.writable, SessionMode.rearrange] == [0, 1, 2]
    assert SpecVersion.v1 < SpecVersion.v2 == 2 and SpecVersion.current() is SpecVersion.v2
    assert (repr(SpecVersion.v1), str(SpecVersion.v2)) == ("SpecVersion.v1", "SpecVersion.v2 (current)")
    assert repr(RepoAvailability.read_only) == "RepoAvailability.read_only"


def test_snapshots() -> None:
    assert str(SNAPSHOT) == (
        "<icechunk.snapshots.SnapshotInfo>\n"
        "id: XTF57VD83H7K57B43BV0\n"
        "parent_id: 1CECHNKREP0F1RSTCMT0\n"
        "written_at: 2024-05-06 12:00:00+00:00\n"
        "message:\n"
        "    first\n"
        "    second\n"
        "metadata:\n"
        "    k: [1, None]"
    )
    assert SNAPSHOT.manifests == []
    manifest = ManifestFileInfo("a", 1, 2)
    assert SnapshotInfo("a", None, NOON, "", {}, (manifest,)).manifests == [manifest]
    assert SnapshotInfo("a", None, NOON, "", {}, (manifest,)) == SnapshotInfo("a", None, NOON, "", {})


def test_diffs() -> None:
    assert Diff().is_empty() and not DIFF.is_empty()
    assert str(Diff()) == ""
    assert str(DIFF) == (
        "Groups created:\n    /\n    /a\n\n"
        "Arrays created:\n    /a/b\n\n"
        "Group definitions updated:\n    /g\n\n"
        "Arrays deleted:\n    /old\n\n"
        "Chunks updated:\n    /a/b:\n        [0]\n        [1]\n"
        "Nodes moved/renamed:\n    /x -> /y\n\n"
    )


@pytest.mark.parametrize("name", Diff.__dataclass_fields__)
def test_a_diff_with_anything_is_not_empty(name: str) -> None:
    assert not Diff(**{name: {"/a": []}}).is_empty()  # type: ignore[arg-type]


def test_long_diffs_are_cut() -> None:
    text = str(Diff(updated_chunks={"/a": [[index] for index in range(15)]}))
    assert text.endswith("[9]\n        ... 5 more\n")


def test_statistics_add_up() -> None:
    one, two = ChunkStorageStats(1, 2, 3), ChunkStorageStats(10, 20, 30)
    assert one + two == sum([one, two]) == ChunkStorageStats(11, 22, 33)
    assert (one.total_bytes(), one.non_virtual_bytes()) == (6, 4)
    with pytest.raises(TypeError):
        one + 3  # type: ignore[operator]
    with pytest.raises(TypeError):
        3 + one


def test_feature_flags() -> None:
    assert [
        FeatureFlag(1, "a", default, setting).enabled for default in (True, False) for setting in (None, True, False)
    ] == [
        *(True, True, False),
        *(False, True, False),
    ]


def test_statuses() -> None:
    before = datetime.now(UTC)
    status = RepoStatus(RepoAvailability.read_only, limited_availability_reason="why")
    assert before <= status.set_at <= datetime.now(UTC)
    status.set_at = NOON.astimezone(timezone(timedelta(hours=3)))
    status.availability = RepoAvailability.online
    status.limited_availability_reason = None
    assert status == ONLINE and status.set_at.tzinfo is UTC
    assert "availability: online" in str(status)
    for arguments in (("online",), (RepoAvailability.online, datetime(2020, 1, 1)), (RepoAvailability.online, None, 3)):
        with pytest.raises(TypeError):
            RepoStatus(*arguments)  # type: ignore[arg-type]


KINDS = {
    "RepoInitialized": (),
    "RepoMigrated": ("from_version", "to_version"),
    "RepoStatusChanged": ("status",),
    "ConfigChanged": (),
    "MetadataChanged": (),
    "FeatureFlagChanged": ("id", "new_value"),
    "TagCreated": ("name",),
    "TagDeleted": ("name", "previous_snap_id"),
    "BranchCreated": ("name",),
    "BranchDeleted": ("name", "previous_snap_id"),
    "BranchReset": ("name", "previous_snap_id"),
    "NewCommit": ("branch", "new_snap_id"),
    "CommitAmended": ("branch", "previous_snap_id", "new_snap_id"),
    "NewDetachedSnapshot": ("new_snap_id",),
    "GCRan": (),
    "ExpirationRan": (),
}


@pytest.mark.parametrize(("name", "fields"), KINDS.items(), ids=KINDS)
def test_kinds_of_updates(name: str, fields: tuple[str, ...]) -> None:
    cls = getattr(UpdateType, name)
    values = [f"value of {field}" for field in fields]
    kind = cls(*values)
    assert isinstance(kind, UpdateType) and cls.__name__ == name and cls.__match_args__ == fields
    assert kind == cls(**dict(zip(fields, values, strict=True))) == pickle.loads(pickle.dumps(kind))
    assert [getattr(kind, field) for field in fields] == values
    shown = ", ".join(f'{field}="value of {field}"' for field in fields)
    assert repr(kind) == f"icechunk.ops.UpdateType.{name}({shown})"
    with pytest.raises(TypeError):
        cls(*values, "one too many")


def test_all_kinds_are_known() -> None:
    assert set(UpdateType._variant_names) == set(KINDS)
    assert "RepoStatus(availability=online" in repr(UpdateType.RepoStatusChanged(ONLINE))
    with pytest.raises(TypeError):
        UpdateType()


def test_attribution() -> None:
    given = Attribution(client="app/1.0", workload="nightly", principal="a.b-c_d~e!")
    assert (given.client, given.workload, given.principal) == ("app/1.0", "nightly", "a.b-c_d~e!")
    assert Attribution() == Attribution(client=None) != given
    assert str(given).startswith('<icechunk.Attribution>\nclient: "app/1.0"\n')
    for wrong in ("", "a b", "a/b/c", "/a", "a/", "é", "a:b", "a@b", "(a)", "x" * 129):
        with pytest.raises(ValueError, match="attribution `workload`"):
            Attribution(workload=wrong)
    assert Attribution(client="x" * 128).client == "x" * 128
    with pytest.raises(TypeError):
        Attribution(client=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Attribution("a")  # type: ignore[misc]
    with pytest.raises(TypeError):
        hash(given)
