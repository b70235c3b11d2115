"""What must hold of a repository at any moment, whoever was stopped wherever: the judge of races and faults."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise

import numpy as np

import icechunk
from icechunk.format.chunk_ref import Native
from icechunk.format.chunk_table import NATIVE
from icechunk.format.ids import format_id, parse_snapshot_id
from icechunk.format.snapshot import Snapshot
from icechunk.format.transaction_log import TransactionLog
from icechunk.repository import Repository
from icechunk.storage.base import Storage


async def assert_whole(storage: Storage, repo: Repository | None = None) -> Repository:
    """Everything that a branch or tag reaches can be read, to the last chunk; histories are in order.

    Chunks are there also where nobody can read them now, such as outside of an array that was made smaller.

    `repo` is given where virtual chunks must be authorized; otherwise the repository is opened.
    """
    repo = await Repository.open_async(storage) if repo is None else repo
    branches = await repo.list_branches_async()
    assert "main" in branches
    tips = {await repo.lookup_branch_async(name) for name in branches}
    tips |= {await repo.lookup_tag_async(name) for name in await repo.list_tags_async()}
    sizes = {info.path: info.size async for batch in storage.list("chunks/") for info in batch}
    seen: set[str] = set()
    manifests: set[bytes] = set()
    for tip in tips:
        infos = [info async for info in repo.async_ancestry(snapshot_id=tip)]
        assert infos[0].id == tip and infos[-1].parent_id is None
        for child, parent in pairwise(infos):
            assert child.parent_id == parent.id and child.written_at > parent.written_at
        for info in infos:
            if info.id not in seen:
                seen.add(info.id)
                snapshot = await _assert_snapshot(repo, info.id, has_log=info.parent_id is not None)
                fresh = {file.id for file in snapshot.manifest_files()} - manifests
                manifests |= fresh
                for manifest_id in fresh:
                    await _assert_chunks_stored(repo, manifest_id, sizes)
    if repo.spec_version == 2:
        times = [update.updated_at async for update in repo.ops_log_async()]
        assert all(later > earlier for later, earlier in pairwise(times))
        async for name in repo._core.refs.copies():
            assert await storage.exists(f"overwritten/{name}")
    return repo


async def _assert_snapshot(repo: Repository, snapshot_id: str, *, has_log: bool) -> Snapshot:
    session = await repo.readonly_session_async(snapshot_id=snapshot_id)
    paths = await visible(session.store)
    assert len(set(paths)) == len(paths)
    snapshot = await session._workspace.load()
    node_paths = snapshot.paths()
    assert len(set(node_paths)) == len(node_paths), "two nodes at one path"
    if has_log:
        log = await repo._core.assets.transaction_log(snapshot.id)
        assert isinstance(log, TransactionLog) and format_id(log.id) == snapshot_id
    return snapshot


async def _assert_chunks_stored(repo: Repository, manifest_id: bytes, sizes: Mapping[str, int]) -> None:
    """Every object that a manifest refers to is there, and long enough; told by the listing, not by reading."""
    manifest = await repo._core.assets.manifest(manifest_id)
    for node_id in manifest.node_ids():
        table = manifest.table(node_id)
        for row in np.flatnonzero(table.kind == NATIVE).tolist():
            ref = table.ref(row)
            assert isinstance(ref, Native)
            path = f"chunks/{format_id(ref.id)}"
            assert ref.offset + ref.length <= sizes.get(path, 0), f"{path} is missing or too short for {ref}"


async def visible(store) -> dict[str, bytes]:
    """Every key of a store and what is there."""
    from zarr.core.buffer import default_buffer_prototype

    prototype = default_buffer_prototype()
    found = {}
    async for key in store.list():
        value = await store.get(key, prototype)
        assert value is not None, f"{key} is listed and cannot be read"
        found[key] = value.to_bytes()
    return found


async def contents(repo: Repository, branch: str = "main") -> dict[str, bytes]:
    """Everything that is at the tip of a branch."""
    return await visible((await repo.readonly_session_async(branch)).store)


async def unreachable(repo: Repository, older_than: datetime) -> set[str]:
    """The files older than a given time that nothing needs: no ref, nor any snapshot that is younger.

    Told by another way than collection goes: file by file, forward from what is kept.
    """
    storage = repo._core.storage
    listed = [info async for batch in storage.list() for info in batch]
    files = {info.path: info.modified < older_than.timestamp() for info in listed}
    tips = {await repo.lookup_branch_async(name) for name in await repo.list_branches_async()}
    tips |= {await repo.lookup_tag_async(name) for name in await repo.list_tags_async()}
    tips |= {
        path.removeprefix("snapshots/") for path, old in files.items() if path.startswith("snapshots/") and not old
    }
    needed: set[str] = set()
    for tip in tips:
        try:
            records = [record async for record in repo._core.refs.ancestry(parse_snapshot_id(tip))]
        except icechunk.NotFoundError:
            continue  # written by a commit that was not to be
        for record in records:
            needed |= {folder + format_id(one) for one in (record.id, *record.pruned) for folder in _BY_SNAPSHOT}
            snapshot = await repo._core.assets.snapshot(record.id)
            for file in snapshot.manifest_files():
                needed.add(f"manifests/{format_id(file.id)}")
                manifest = await repo._core.assets.manifest(file.id)
                for node_id in manifest.node_ids():
                    ids = manifest.table(node_id).native_ids()
                    needed |= {f"chunks/{format_id(row.tobytes())}" for row in ids}
    folders = ("snapshots/", "transactions/", "manifests/", "chunks/")
    return {path for path, old in files.items() if old and path.startswith(folders) and path not in needed}


_BY_SNAPSHOT = ("snapshots/", "transactions/")


async def messages(repo: Repository, branch: str = "main") -> list[str]:
    """The messages of a branch's history, newest first."""
    return [info.message async for info in repo.async_ancestry(branch=branch)]


__all__ = ["assert_whole", "contents", "messages", "unreachable", "visible"]
