"""A tour of the library: read one chunk by hand, layer by layer, from a directory of files to an array of numbers.

    python examples/tour.py [DIRECTORY]

It makes a small repository, then goes the way that `zarr.open_array(session.store, path="air")[2:4]` goes, without the
classes that usually go it: bytes from files, values from bytes, a node from a snapshot, a chunk reference from a manifest,
the chunk, the numbers. Each step names the layer and the module that it shows, as docs/architecture.md does, and prints
what it found.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zstandard

import icechunk
from icechunk._driver import run
from icechunk.flatbuf.reader import Document, TableView
from icechunk.format.chunk_ref import ChunkRef, Native
from icechunk.format.envelope import HEADER_SIZE, FileType, open_envelope
from icechunk.format.ids import format_id
from icechunk.format.manifest import Manifest
from icechunk.format.repo_info import RepoInfo
from icechunk.format.schemas import CHUNK_REF, REPO
from icechunk.format.snapshot import Node, Snapshot
from icechunk.storage.local import LocalStorage
from icechunk.zarr_keys import ChunkKey, parse_key

KEY = "air/c/1/0"
"""What zarr asks the store for when rows 2 and 3 are wanted."""


def make(directory: Path) -> None:
    """A repository with one array of 6 x 4 numbers, in chunks of 2 x 4 that are too large to be kept in the manifest."""
    config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=8)
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(directory), config)
    with repo.transaction("main", message="six rows") as store:
        root = zarr.create_group(store)
        air = root.create_array("air", shape=(6, 4), chunks=(2, 4), dtype="f4", dimension_names=["hour", "place"])
        air[:] = np.arange(24).reshape(6, 4)


_numbers = itertools.count(1)


def step(layer: str, module: str, title: str) -> None:
    print(f"\n{next(_numbers)}. {layer}: {module}\n   {title}\n")


def say(text: object) -> None:
    print("    " + str(text).replace("\n", "\n    "))


class Tour:
    """One read, step by step."""

    def __init__(self, directory: Path) -> None:
        self.storage = LocalStorage(directory)

    def fetch(self, path: str) -> bytes:
        """One object of the storage. Its methods are coroutines; `run` drives one to its end without an event loop."""
        data, version = run(self.storage.get(path))
        say(f"{path}: {len(data)} bytes, version {version.etag}")
        return bytes(data)

    def files(self) -> bytes:
        step(
            "move", "icechunk.storage.local", "A storage is named bytes. One object of a repository can change: `repo`."
        )

        async def list_all() -> list[str]:
            return sorted([info.path async for batch in self.storage.list() for info in batch])

        for path in run(list_all()):
            say(path)
        say("")
        return self.fetch("repo")

    def envelope(self, raw: bytes) -> bytes:
        step("format", "icechunk.format.envelope", "Every metadata file is a header of 39 bytes and one zstd frame.")
        header, payload = open_envelope(raw, FileType.REPO_INFO, "repo")
        say(f"{raw[:12]!r}: the magic")
        say(f"a {header.file_type.name} file of format {header.spec}, written by {header.writer!r}")
        say(f"{len(raw) - HEADER_SIZE} bytes of zstd hold {len(payload)} bytes")
        return bytes(payload)

    def flatbuffer(self, payload: bytes) -> None:
        step(
            "flatbuf",
            "icechunk.flatbuf.reader",
            "Those bytes are a flatbuffer: tables, whose fields lie where a vtable says.",
        )
        document = Document(payload, "repo")
        root = document.root(REPO)
        say(f"identifier {payload[4:8]!r}, root table {REPO.name!r} at byte {root.pos}")
        for name in ("spec_version", "branches", "snapshots", "config"):
            say(f"{name:<13} at byte {root.position(name):>4}: {_shown(root[name])}")

    def refs(self, raw: bytes) -> bytes:
        step("hold", "icechunk.refs, icechunk.format.repo_info", "Where does main stand? Its history is here too.")
        info = RepoInfo.decode(raw, "repo")
        tip = info.branches["main"]
        for record in info.ancestry(tip):
            say(f"{format_id(record.id)}  {record.message}")
        return tip

    def key(self) -> ChunkKey:
        step("decide", "icechunk.zarr_keys", f"Zarr asks for {KEY!r}.")
        parsed = parse_key(KEY)
        assert isinstance(parsed, ChunkKey)
        say(parsed)
        return parsed

    def node(self, tip: bytes, wanted: str) -> Node:
        step("format", "icechunk.format.snapshot", "The snapshot has every node, sorted by path, found by bisection.")
        path = f"snapshots/{format_id(tip)}"
        snapshot = Snapshot.decode(self.fetch(path), path)
        say(f"nodes {snapshot.paths()}")
        node = snapshot.find(wanted)
        assert node is not None
        say(
            f"{wanted} has id {format_id(node.id)} and {len(node.metadata)} bytes of zarr.json, kept as they were given"
        )
        for dimension, name in zip(node.shape, node.dimension_names or (), strict=True):
            say(f"dimension {name}: {dimension.length} elements in {dimension.chunks} chunks")
        for one in node.manifests:
            say(f"manifest {format_id(one.id)} has the chunks {one.extents}")
        return node

    def chunk_ref(self, node: Node, coords: tuple[int, ...]) -> ChunkRef:
        step(
            "format", "icechunk.format.manifest", f"The manifest whose extents cover {coords} says where that chunk is."
        )
        covering = next(
            one
            for one in node.manifests
            if all(start <= index < stop for index, (start, stop) in zip(coords, one.extents, strict=True))
        )
        path = f"manifests/{format_id(covering.id)}"
        manifest = Manifest.decode(self.fetch(path), path)
        self._as_stored(manifest, node.id, coords)
        found = manifest.find(node.id, coords, covering.extents)
        assert found is not None
        say(found)
        table = manifest.table(node.id)
        say(f"all of them, as columns: lengths {table.length.tolist()}, coordinates {table.coords.tolist()}")
        return found

    def _as_stored(self, manifest: Manifest, node_id: bytes, coords: tuple[int, ...]) -> None:
        refs = manifest.array(node_id)
        assert refs is not None
        row = refs.row_of(coords)
        view = TableView(manifest.doc, CHUNK_REF, refs.place(row))
        fields = [f"{name} {_shown(view[name])}" for name in CHUNK_REF.fields if view.has(name)]
        say(f"row {row} of {refs.count}, a ChunkRef at byte {view.pos}: {', '.join(fields)}; that is")

    def values(self, node: Node, ref: ChunkRef) -> np.ndarray[Any, Any]:
        step("assets", "icechunk.assets", "A chunk is an object with nothing but what the codecs of the array made.")
        assert isinstance(ref, Native)  # an object of its own; small chunks are in the manifest, virtual ones elsewhere
        data = self.fetch(f"chunks/{format_id(ref.id)}")[ref.offset : ref.offset + ref.length]
        metadata = json.loads(node.metadata)
        values = np.empty(0)
        for codec in reversed(metadata["codecs"]):
            say(f"codec {codec['name']}")
            if codec["name"] == "zstd":
                data = zstandard.ZstdDecompressor().decompress(data)
            elif codec["name"] == "bytes":
                order = {"little": "<", "big": ">"}[codec["configuration"]["endian"]]
                dtype = np.dtype(metadata["data_type"]).newbyteorder(order)
                values = np.frombuffer(data, dtype).reshape(metadata["chunk_grid"]["configuration"]["chunk_shape"])
        say(values)
        return values


def _shown(value: object) -> str:
    if isinstance(value, memoryview):
        return f"{len(value)} bytes"
    if isinstance(value, bytes):
        return format_id(value)
    if hasattr(value, "__len__") and not isinstance(value, str):
        items = list(value)  # type: ignore[call-overload]
        return f"{len(items)} tables" if items and isinstance(items[0], TableView) else str(items)
    return repr(value)


def show(directory: Path) -> np.ndarray[Any, Any]:
    """Read rows 2 and 3 of `air` by hand."""
    tour = Tour(directory)
    raw = tour.files()
    tour.flatbuffer(tour.envelope(raw))
    tip = tour.refs(raw)
    key = tour.key()
    node = tour.node(tip, key.path)
    return tour.values(node, tour.chunk_ref(node, key.coords))


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch) / "repo"
        make(directory)
        by_hand = show(directory)

        step("store", "icechunk.store", "The same, as everybody else does it.")
        session = icechunk.Repository.open(icechunk.local_filesystem_storage(directory)).readonly_session("main")
        usual = zarr.open_array(session.store, path="air", mode="r")[2:4]
        say(f"zarr.open_array(session.store, path='air')[2:4] is equal: {bool((usual == by_hand).all())}")


if __name__ == "__main__":
    main()
