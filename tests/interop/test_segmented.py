"""Files in segments are read, and committed to, by released versions of the Rust implementation.

Segments rely on how zstd frames are put together, and versions differ in how they read those: so each that is installed
reads a repository whose manifests and snapshots are in many segments, written at once, patched and appended to, commits on
top of it, and what it wrote is read back.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from tests.interop.oracle import python_of

import icechunk
from icechunk.format import manifest_encoding, manifest_revision, snapshot_encoding
from icechunk.format.manifest import Manifest
from icechunk.format.snapshot import Snapshot

VERSIONS = {
    "1.0.0": (1,),
    "1.1.21": (1,),
    "2.0.0": (1, 2),
    "2.0.6": (1, 2),
    "2.1.2": (1, 2),
    "2.2.2": (1, 2),
    "2.3.0": (1, 2),
}
CHUNKS = 6000
NODES = 300

READER = """
import json, sys, warnings
warnings.simplefilter("ignore")
import icechunk, zarr

repo = icechunk.Repository.open(icechunk.local_filesystem_storage(sys.argv[1]))
session = repo.readonly_session("main")
group = zarr.open_group(session.store, mode="r")
history = [snapshot.id for snapshot in repo.ancestry(branch="main")]
changes = [repo.diff(from_snapshot_id=old, to_snapshot_id=new).updated_chunks for new, old in zip(history, history[1:-1])]
found = {
    "a": group["a"][:].tolist(),
    "names": sorted(name for name, _ in group.members()),
    "attributes": dict(group["g7"].attrs),
    "locations": sorted(session.all_virtual_chunk_locations()),
    "changes": [sum(map(len, each.values())) for each in changes],
}
session = repo.writable_session("main")
group = zarr.open_group(session.store)
group["a"][17] = 99
group["g8"].attrs["by"] = icechunk.__version__
session.commit("theirs")
print(json.dumps(found))
"""


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many segments in files that are soon written."""
    for module in (manifest_encoding, manifest_revision, snapshot_encoding):
        monkeypatch.setattr(module, "SEGMENT_SIZE", 16 << 10)


def written(place: Path, spec: int) -> tuple[icechunk.Repository, dict[str, Any]]:
    """A repository in segments, and what its readers should find."""
    config = icechunk.RepositoryConfig.default()
    config.segmented_metadata = True
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(place)), config, spec_version=spec)
    session = repo.writable_session("main")
    group = zarr.create_group(session.store)
    options: dict[str, Any] = {"shape": (CHUNKS + 500,), "chunks": (1,), "dtype": "u1", "compressors": None}
    a = group.create_array("a", fill_value=0, **options)
    group.create_array("v", **options)
    for number in range(NODES):
        group.create_group(f"g{number}", attributes={"number": number, "about": f"{number} " * 40})
    values = np.arange(CHUNKS + 500) % 251 + 1
    values[CHUNKS:] = 0
    a[:CHUNKS] = values[:CHUNKS]
    locations = [f"s3://bucket/prefix/{number // 3:05}.nc" for number in range(CHUNKS)]
    session.store.set_virtual_refs_arr(
        "/v", (CHUNKS,), locations, np.arange(CHUNKS), np.full(CHUNKS, 9), validate_containers=False
    )
    session.commit("at once")

    session = repo.writable_session("main")
    group = zarr.open_group(session.store)
    group["a"][3000:3003] = values[3000:3003] = 7
    group["g7"].attrs["more"] = "so"
    session.store.set_virtual_ref("v/c/5", "s3://bucket/another.nc", offset=0, length=1, validate_container=False)
    locations[5] = "s3://bucket/another.nc"
    session.commit("changed")

    session = repo.writable_session("main")
    group = zarr.open_group(session.store)
    group["a"][CHUNKS : CHUNKS + 200] = values[CHUNKS : CHUNKS + 200] = 3
    del group["g9"]
    session.commit("more and less")
    return repo, {
        "a": values.tolist(),
        "names": sorted({"a", "v", *(f"g{number}" for number in range(NODES))} - {"g9"}),
        "attributes": {"number": 7, "about": "7 " * 40, "more": "so"},
        "locations": sorted(locations),
        "changes": [200, 4],
    }


def in_segments(place: Path) -> int:
    """How many files of a repository are in at least four segments."""
    manifests = [Manifest.decode(path.read_bytes(), path.name).segments for path in place.glob("manifests/*")]
    snapshots = [Snapshot.decode(path.read_bytes(), path.name).table.doc.payload for path in place.glob("snapshots/*")]
    return sum(each is not None and len(each.bounds) >= 4 for each in (*manifests, *snapshots))


@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.parametrize("spec", [1, 2])
@pytest.mark.parametrize("version", VERSIONS)
def test_released_versions_read_segments_and_go_on(tmp_path: Path, version: str, spec: int) -> None:
    python = python_of(version)
    if python is None:
        pytest.skip(f"the reference {version} is not installed")
    if spec not in VERSIONS[version]:
        pytest.skip(f"{version} does not know format {spec}")
    repo, expected = written(tmp_path / "repo", spec)
    assert in_segments(tmp_path / "repo") >= 7
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [python, "-c", READER, str(tmp_path / "repo")], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == expected

    group = zarr.open_group(repo.readonly_session("main").store, mode="r")
    expected["a"][17] = 99
    assert group["a"][:].tolist() == expected["a"]
    assert group["g8"].attrs["by"] == version
    session = repo.writable_session("main")
    zarr.open_group(session.store)["a"][18] = 98
    session.commit("ours again")
    assert zarr.open_group(repo.readonly_session("main").store, mode="r")["a"][17:19].tolist() == [99, 98]
