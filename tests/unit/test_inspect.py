"""Files as plain dicts, compared with what the reference (2.3.0) shows of the same repositories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from icechunk.assets import Assets
from icechunk.errors import FormatError, ObjectNotFoundError
from icechunk.format.ids import parse_id
from icechunk.format.repo_info import (
    BranchReset,
    CommitAmended,
    ConfigChanged,
    FeatureFlagChanged,
    MetadataChanged,
    NewDetachedSnapshot,
    RepoStatusChanged,
    Status,
    TagDeleted,
    Update,
    UpdateKind,
)
from icechunk.ops.inspect import (
    inspect_manifest,
    inspect_repo_info,
    inspect_snapshot,
    inspect_transaction_log,
    iso_time,
    update_view,
)
from icechunk.ops.stats import chunk_storage_stats
from icechunk.refs import Context, RefStore, open_refs
from icechunk.storage.local import LocalStorage

GOLDEN = Path(__file__).parent.parent / "golden"
NAMES = sorted(path.stem for path in (GOLDEN / "inspect").glob("*.json"))
ID = bytes.fromhex("000102030405060708090a0b")


async def opened(name: str) -> tuple[LocalStorage, RefStore, dict[str, Any]]:
    storage = LocalStorage(GOLDEN / "repos" / name)
    refs = await open_refs(Context(storage, Assets(storage), lambda: 0, lambda: bytes(12)))
    assert refs is not None
    return storage, refs, json.loads((GOLDEN / "inspect" / f"{name}.json").read_text())


@pytest.mark.parametrize("name", NAMES)
async def test_as_the_reference_shows_it(name: str) -> None:
    storage, refs, expected = await opened(name)
    for text, view in expected["snapshots"].items():
        assert await inspect_snapshot(storage, parse_id(text)) == view
    for text, view in expected["manifests"].items():
        assert await inspect_manifest(storage, parse_id(text)) == view
    for text, view in expected["logs"].items():
        assert await inspect_transaction_log(refs, storage, parse_id(text)) == view
    if "repo" in expected:
        assert await inspect_repo_info(refs, storage) == expected["repo"]


@pytest.mark.parametrize("name", NAMES)
async def test_the_reference_counts_the_same_bytes(name: str) -> None:
    storage, refs, expected = await opened(name)
    stats = await chunk_storage_stats(refs, storage)
    assert [stats.native_bytes, stats.virtual_bytes, stats.inlined_bytes] == expected["stats"]


async def test_what_is_not_there() -> None:
    storage, refs, _ = await opened("test-repo-v1")
    for call in (
        inspect_snapshot(storage, ID),
        inspect_manifest(storage, ID),
        inspect_transaction_log(refs, storage, ID),
    ):
        with pytest.raises(ObjectNotFoundError):
            await call
    with pytest.raises(FormatError, match=r"at least version 2\.0"):
        await inspect_repo_info(refs, storage)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (ConfigChanged(), {"type": "ConfigChangedUpdate"}),
        (MetadataChanged(), {"type": "MetadataChangedUpdate"}),
        (NewDetachedSnapshot(ID), {"type": "NewDetachedSnapshotUpdate", "new_snap_id": "000G40R40M30E209185G"}),
        (
            CommitAmended("b", ID, bytes(12)),
            {
                "type": "CommitAmendedUpdate",
                "branch": "b",
                "previous_snap_id": "000G40R40M30E209185G",
                "new_snap_id": "00000000000000000000",
            },
        ),
        (
            BranchReset("b", ID),
            {"type": "BranchResetUpdate", "name": "b", "previous_snap_id": "000G40R40M30E209185G"},
        ),
        (TagDeleted("t", ID), {"type": "TagDeletedUpdate", "name": "t", "previous_snap_id": "000G40R40M30E209185G"}),
        (FeatureFlagChanged(4, None), {"type": "FeatureFlagChanged", "id": 4, "new_value": None}),
        (
            RepoStatusChanged(Status(1, 1_000_000, "why")),
            {
                "type": "RepoStatusChangedUpdate",
                "status": {
                    "availability": "ReadOnly",
                    "limited_availability_reason": "why",
                    "set_at": "1970-01-01T00:00:01Z",
                },
            },
        ),
    ],
)
def test_entries_of_the_operations_log(kind: UpdateKind, expected: dict[str, Any]) -> None:
    assert update_view(Update(kind, 0, None)) == {"update_type": expected, "updated_at": "1970-01-01T00:00:00Z"}
    assert update_view(Update(kind, 0, "repo.1.X"))["backup_path"] == "repo.1.X"


def test_times() -> None:
    assert iso_time(1_740_000_000_000_000) == "2025-02-19T21:20:00Z"
    assert iso_time(1_740_000_000_120_000) == "2025-02-19T21:20:00.120Z"
    assert iso_time(1_740_000_000_120_005) == "2025-02-19T21:20:00.120005Z"
