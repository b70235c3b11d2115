"""A tour of the library: read one chunk by hand, layer by layer, from a directory of files to an array of numbers.

    python examples/tour.py [DIRECTORY]

It makes a small repository, then goes the way that `zarr.open_array(session.store)[...]` goes, without any of the classes
that usually go it: bytes from files, values from bytes, a node from a snapshot, a reference from a manifest, the chunk.
Each step prints what it found. `docs/architecture.md` has the same way as a picture.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import zarr

import icechunk
from icechunk._driver import run
from icechunk.format.chunk_ref import Native
from icechunk.format.envelope import FileType, open_envelope
from icechunk.format.ids import format_id
from icechunk.format.manifest import Manifest
from icechunk.format.repo_info import RepoInfo
from icechunk.format.snapshot import Snapshot
from icechunk.storage.local import LocalStorage


def make(directory: Path) -> None:
    """A repository with one array of 6 x 4 numbers, in chunks of 2 x 4 that are too large to be kept inline."""
    config = icechunk.RepositoryConfig.default()
    config.inline_chunk_threshold_bytes = 8
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(directory)), config)
    with repo.transaction("main", message="six rows") as store:
        root = zarr.create_group(store)
        air = root.create_array("air", shape=(6, 4), chunks=(2, 4), dtype="f4", compressors=None)
        air[:] = np.arange(24).reshape(6, 4)


def step(number: int, title: str) -> None:
    print(f"\n{number}. {title}")


def show(directory: Path, chunk: tuple[int, int]) -> np.ndarray:
    step(1, "Storage: named bytes in a directory")
    storage = LocalStorage(str(directory))

    def fetch(path: str) -> bytes:
        # every method of a storage is a coroutine; `run` drives one to its end without an event loop
        data, version = run(storage.get(path))
        print(f"   {path}: {len(data)} bytes, version {version.etag}")
        return bytes(data)

    raw = fetch("repo")

    step(2, "Envelope: every metadata file has a header of 39 bytes and a zstd frame")
    header, payload = open_envelope(raw, FileType.REPO_INFO, "repo")
    print(f"   a {header.file_type.name} file of format {header.spec}, written by {header.writer!r}")
    print(f"   {len(raw) - 39} bytes compressed, {len(payload)} bytes of flatbuffers inside")

    step(3, "Refs: where does main point?")
    info = RepoInfo.decode(raw, "repo")
    snapshot_id = info.branches["main"]
    for record in info.ancestry(snapshot_id):
        print(f"   {format_id(record.id)}  {record.message}")

    step(4, "Snapshot: the whole hierarchy at that commit")
    path = f"snapshots/{format_id(snapshot_id)}"
    snapshot = Snapshot.decode(fetch(path), path)
    print(f"   nodes {snapshot.paths()}")
    node = snapshot.find("/air")
    assert node is not None
    print(f"   /air has id {format_id(node.id)}, its zarr.json {len(node.metadata)} bytes, and these manifests:")
    for reference in node.manifests:
        print(f"   {format_id(reference.id)} for the chunks {reference.extents}")

    step(5, f"Manifest: where is chunk {chunk}?")
    covering = next(
        reference
        for reference in node.manifests
        if all(start <= index < stop for index, (start, stop) in zip(chunk, reference.extents, strict=True))
    )
    path = f"manifests/{format_id(covering.id)}"
    manifest = Manifest.decode(fetch(path), path)
    found = manifest.find(node.id, chunk, covering.extents)
    print(f"   {found}")
    assert isinstance(found, Native)  # an object of its own; small ones are inline, foreign ones virtual

    step(6, "Chunk: an object with nothing but the encoded values")
    data = fetch(f"chunks/{format_id(found.id)}")
    values = np.frombuffer(data[found.offset : found.offset + found.length], "<f4").reshape(2, 4)
    print("   " + str(values).replace("\n", "\n   "))
    return values


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch) / "repo"
        make(directory)
        by_hand = show(directory, (1, 0))

        step(7, "The same, as everybody else does it")
        session = icechunk.Repository.open(icechunk.local_filesystem_storage(str(directory))).readonly_session("main")
        array = zarr.open_array(session.store, path="air", mode="r")
        assert (array[2:4] == by_hand).all()
        print(f"   zarr.open_array(session.store, path='air')[2:4] is equal: {(array[2:4] == by_hand).all()}")


if __name__ == "__main__":
    main()
