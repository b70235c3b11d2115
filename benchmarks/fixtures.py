"""Repositories that questions start from, written through the public API of whichever icechunk is there."""

from __future__ import annotations

import asyncio
import inspect
import json
from pathlib import Path
from typing import Any

GROUP = b'{"zarr_format":3,"node_type":"group","attributes":{}}'
ARRAY: dict[str, Any] = {
    "zarr_format": 3,
    "node_type": "array",
    "data_type": "uint8",
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    "fill_value": 0,
    "codecs": [{"name": "bytes"}],
    "attributes": {"units": "K", "long_name": "air temperature at two metres", "standard_name": "air_temperature"},
    "storage_transformers": [],
}
SIDE = 100  # the large arrays have 100 x 100 x 100 chunks
URLS = 20_000  # spread over so many files


def array_document(shape: tuple[int, ...], chunks: tuple[int, ...], **more: Any) -> bytes:
    grid = {"name": "regular", "configuration": {"chunk_shape": chunks}}
    return json.dumps(ARRAY | {"shape": shape, "chunk_grid": grid} | more, indent=2).encode()


def buffer(data: bytes) -> Any:
    from zarr.core.buffer import cpu

    return cpu.Buffer.from_bytes(data)


def set_keys(store: Any, values: dict[str, bytes]) -> None:
    """Put documents and chunks, in the order given."""

    async def put() -> None:
        for key, value in values.items():
            await store.set(key, buffer(value))

    asyncio.run(put())


def create(path: Path | None, spec: int = 1, **settings: Any) -> Any:
    """A new repository at a path, or in memory; settings are fields of its configuration."""
    import icechunk

    storage = icechunk.local_filesystem_storage(str(path)) if path else icechunk.in_memory_storage()
    config = configuration(**settings)
    extra: dict[str, Any] = {}
    if "spec_version" in inspect.signature(icechunk.Repository.create).parameters:
        extra["spec_version"] = spec
    return icechunk.Repository.create(storage, config, **extra)


def configuration(segmented: bool = False, **settings: Any) -> Any:
    """A configuration; `segmented` asks for metadata in segments where the engine has that."""
    import icechunk

    config = icechunk.RepositoryConfig.default()
    if segmented and hasattr(config, "segmented_metadata"):
        config.segmented_metadata = True
    for name, value in settings.items():
        setattr(config, name, value)
    return config


def open_at(path: Path, **settings: Any) -> Any:
    """The repository at a path; settings as for `configuration`."""
    import icechunk

    storage = icechunk.local_filesystem_storage(str(path))
    return (
        icechunk.Repository.open(storage, configuration(**settings)) if settings else icechunk.Repository.open(storage)
    )


def small(path: Path | None, spec: int = 1, commits: int = 20) -> Any:
    """Ten small arrays and twenty commits."""
    repo = create(path, spec)
    session = repo.writable_session("main")
    documents = {"zarr.json": GROUP}
    documents |= {f"a{number}/zarr.json": array_document((100,), (1,)) for number in range(10)}
    set_keys(session.store, documents)
    session.commit("arrays")
    for number in range(commits - 1):
        session = repo.writable_session("main")
        set_keys(session.store, {f"a0/c/{number}": b"chunk"})
        session.commit(f"chunk {number}")
    return repo


def nodes(path: Path, count: int, spec: int = 1, segmented: bool = False) -> None:
    """`count` arrays in groups of a hundred, each with a zarr.json of some 700 bytes."""
    session = create(path, spec, segmented=segmented).writable_session("main")
    documents = {"zarr.json": GROUP}
    for number in range(count // 100):
        documents[f"g{number:04}/zarr.json"] = GROUP
        for inner in range(100):
            documents[f"g{number:04}/a{inner:02}/zarr.json"] = array_document((720, 1440), (90, 180))
    set_keys(session.store, documents)
    session.commit("nodes")


def locations() -> list[str]:
    return [f"s3://some-bucket/a/prefix/of/usual/length/file_{number // 50:06}.nc" for number in range(SIDE**3)]


def million_virtual(path: Path, spec: int = 1, segmented: bool = False) -> None:
    """One array of 1,000,000 virtual chunks in 20,000 files, in one manifest."""
    session = create(path, spec, segmented=segmented).writable_session("main")
    set_keys(session.store, {"zarr.json": GROUP, "a/zarr.json": array_document((SIDE,) * 3, (1,) * 3)})
    set_million(session.store)
    session.commit("a million")


def set_million(store: Any) -> None:
    """All chunks of `a`, in bulk where the API has it."""
    import numpy as np

    count = SIDE**3
    offsets = np.arange(count, dtype=np.uint64) % 50 * 4096
    lengths = np.full(count, 4096, np.uint64)
    if hasattr(store, "set_virtual_refs_arr"):
        store.set_virtual_refs_arr("/a", (SIDE,) * 3, locations(), offsets, lengths, validate_containers=False)
    else:
        store.set_virtual_refs("/a", specs(), validate_containers=False)


def specs() -> list[Any]:
    import icechunk

    grid = ((i, j, k) for i in range(SIDE) for j in range(SIDE) for k in range(SIDE))
    return [
        icechunk.VirtualChunkSpec(list(index), url, number % 50 * 4096, 4096)
        for number, (index, url) in enumerate(zip(grid, locations(), strict=True))
    ]


def million_native(path: Path, spec: int = 1, segmented: bool = False) -> None:
    """One array of about 1,000,000 chunks of our own in one manifest, which share 1,000 objects.

    A thousand chunks are written, and their references doubled by reindexing until there are enough: a million objects
    would take longer to write than everything else here.
    """
    session = create(path, spec, segmented=segmented, inline_chunk_threshold_bytes=0).writable_session("main")
    count = 1000 * 2**10
    set_keys(session.store, {"zarr.json": GROUP, "a/zarr.json": array_document((count,), (1,))})
    set_keys(session.store, {f"a/c/{number}": b"%d" % number for number in range(1000)})
    present = 1000
    while present < count:
        step = present
        session.reindex_array("/a", lambda index, step=step: [index[0] + step])
        present *= 2
    session.commit("a million")
