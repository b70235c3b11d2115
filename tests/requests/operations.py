"""The operations whose requests are counted, for this package and for the Rust one alike.

Each is a coroutine on a storage that holds a repository of `prepare`. Nothing here may depend on anything but icechunk, zarr and
numpy: it is also run inside the environments of the Rust package, by `compare.py`.
"""

from __future__ import annotations

import asyncio
import datetime
import inspect
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype

import icechunk

ARRAYS = 177
"""As many as a reanalysis has."""

FAR = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)


def config() -> Any:
    """Every chunk an object of its own."""
    return icechunk.RepositoryConfig(inline_chunk_threshold_bytes=0)


def prepare(storage: Any, spec: int) -> None:
    """A repository of ten commits: `ARRAYS` arrays of 16 chunks in eleven groups, one written to again and again."""
    extra = {"spec_version": spec} if "spec_version" in inspect.signature(icechunk.Repository.create).parameters else {}
    repo = icechunk.Repository.create(storage, config(), **extra)
    repo.save_config()
    session = repo.writable_session("main")
    root = zarr.create_group(session.store)
    for number in range(ARRAYS):
        array = root.create_array(f"g{number % 11}/a{number}", shape=(16, 100), chunks=(1, 100), dtype="f4")
        array[:2] = 1
    session.commit("arrays")
    for number in range(8):
        session = repo.writable_session("main")
        zarr.open_array(session.store, path="g0/a0")[number % 16] = 2 + number
        session.commit(f"change {number}")


async def open_and_read(storage: Any) -> None:
    """Open a repository, and read the first chunk of one array."""
    repo = await icechunk.Repository.open_async(storage)
    session = await repo.readonly_session_async("main")
    assert await session.store.get("g0/a0/c/1/0", default_buffer_prototype()) is not None


async def open_and_list(storage: Any) -> None:
    """Open a repository, and list everything in it down to the metadata of each node."""
    repo = await icechunk.Repository.open_async(storage)
    session = await repo.readonly_session_async("main")
    names = [name async for name in session.store.list_dir("")]
    for name in names:
        async for _ in session.store.list_dir(name):
            pass
    assert len(names) == 12
    assert await session.store.get("g3/a3/zarr.json", default_buffer_prototype()) is not None


async def commit_one(storage: Any) -> None:
    """Open a repository, write one chunk of one array, commit."""
    repo = await icechunk.Repository.open_async(storage)
    session = await repo.writable_session_async("main")
    await session.store.set("g1/a1/c/3/0", _chunk())
    await session.commit_async("one chunk")


async def commit_many(storage: Any) -> None:
    """Open a repository, write one chunk of each of the `ARRAYS` arrays, commit."""
    repo = await icechunk.Repository.open_async(storage)
    session = await repo.writable_session_async("main")
    store = session.store
    await asyncio.gather(*[store.set(f"g{number % 11}/a{number}/c/5/0", _chunk()) for number in range(ARRAYS)])
    await session.commit_async("all arrays")


async def commit_late(storage: Any) -> None:
    """Open a repository, write one chunk, and commit after somebody else did, so that there is something to rebase onto."""
    repo = await icechunk.Repository.open_async(storage)
    session = await repo.writable_session_async("main")
    other = await repo.writable_session_async("main")
    await other.store.set("g2/a2/c/3/0", _chunk())
    await other.commit_async("somebody else")
    await session.store.set("g1/a1/c/4/0", _chunk())
    await session.commit_async("one chunk", rebase_with=icechunk.ConflictDetector())


async def history(storage: Any) -> None:
    """Open a repository and go through its history."""
    repo = await icechunk.Repository.open_async(storage)
    assert len([info async for info in repo.async_ancestry(branch="main")]) >= 10


async def expire_and_collect(storage: Any) -> None:
    """Open a repository, expire all snapshots but the tips, and delete what is not needed any more."""
    repo = await icechunk.Repository.open_async(storage)
    await repo.expire_snapshots_async(FAR)
    await repo.garbage_collect_async(FAR)


def _chunk() -> Any:
    return default_buffer_prototype().buffer.from_bytes(np.arange(100, dtype="f4").tobytes())


OPERATIONS: dict[str, Callable[[Any], Awaitable[None]]] = {
    "open and read a chunk": open_and_read,
    "open and list": open_and_list,
    "open and read the history": history,
    "open and commit a chunk": commit_one,
    "open and commit 177 chunks": commit_many,
    "the same chunk, after somebody else": commit_late,
    "open, expire and collect": expire_and_collect,
}


def main() -> None:
    """Run as a script: `prepare` or the name of an operation, the format, and the storage as JSON (factory and arguments)."""
    name, spec, place = sys.argv[1:]
    ((factory, arguments),) = json.loads(place).items()
    storage = getattr(icechunk, factory)(**arguments)
    if name == "prepare":
        prepare(storage, int(spec))
    else:
        asyncio.run(OPERATIONS[name](storage))
    os._exit(0)  # threads of the Rust package sometimes abort an orderly exit


if __name__ == "__main__":
    main()
