"""The few calls whose spelling differs between the versions that are compared."""

from __future__ import annotations

from typing import Any

import icechunk

HAS_SPECS = hasattr(icechunk, "SpecVersion")
IS_OURS = hasattr(icechunk, "UncommittedChangesWarning")


def create(storage: Any, spec: int = 1, config: Any = None) -> Any:
    """A new repository in the given version of the format, where the package knows several."""
    more = {"spec_version": spec} if HAS_SPECS else {}
    return icechunk.Repository.create(storage, config=config, **more)


def local(path: str) -> Any:
    """A local storage."""
    return icechunk.local_filesystem_storage(path)


def array_json(shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str = "uint8") -> bytes:
    """A `zarr.json` without compression."""
    import json

    return json.dumps(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(shape),
            "data_type": dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [{"name": "bytes"}],
            "attributes": {"title": "x" * 300, "units": "K"},
        }
    ).encode()


def put(store: Any, items: dict[str, bytes]) -> None:
    """Write keys into a store."""
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    make = default_buffer_prototype().buffer.from_bytes

    async def write() -> None:
        for key, data in items.items():
            await store.set(key, make(data))

    sync(write())


def get(store: Any, key: str) -> Any:
    """Read one key of a store."""
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    return sync(store.get(key, default_buffer_prototype()))
