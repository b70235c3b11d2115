"""What must hold of a repository at any moment, whoever was stopped wherever: the judge of races and faults."""

from __future__ import annotations

from itertools import pairwise

from icechunk.format.ids import format_id
from icechunk.format.transaction_log import TransactionLog
from icechunk.repository import Repository
from icechunk.storage.base import Storage


async def assert_whole(storage: Storage) -> Repository:
    """Everything that a branch or tag reaches can be read, to the last chunk; histories are in order."""
    repo = await Repository.open_async(storage)
    branches = await repo.list_branches_async()
    assert "main" in branches
    tips = {await repo.lookup_branch_async(name) for name in branches}
    tips |= {await repo.lookup_tag_async(name) for name in await repo.list_tags_async()}
    seen: set[str] = set()
    for tip in tips:
        infos = [info async for info in repo.async_ancestry(snapshot_id=tip)]
        assert infos[0].id == tip and infos[-1].parent_id is None
        for child, parent in pairwise(infos):
            assert child.parent_id == parent.id and child.written_at > parent.written_at
        for info in infos:
            if info.id not in seen:
                seen.add(info.id)
                await _assert_snapshot(repo, info.id, has_log=info.parent_id is not None)
    if repo.spec_version == 2:
        times = [update.updated_at async for update in repo.ops_log_async()]
        assert all(later > earlier for later, earlier in pairwise(times))
    return repo


async def _assert_snapshot(repo: Repository, snapshot_id: str, *, has_log: bool) -> None:
    session = await repo.readonly_session_async(snapshot_id=snapshot_id)
    paths = await visible(session.store)
    assert len(set(paths)) == len(paths)
    snapshot = await session._workspace.load()
    node_paths = snapshot.paths()
    assert len(set(node_paths)) == len(node_paths), "two nodes at one path"
    if has_log:
        log = await repo._core.assets.transaction_log(snapshot.id)
        assert isinstance(log, TransactionLog) and format_id(log.id) == snapshot_id


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


async def messages(repo: Repository, branch: str = "main") -> list[str]:
    """The messages of a branch's history, newest first."""
    return [info.message async for info in repo.async_ancestry(branch=branch)]


__all__ = ["assert_whole", "contents", "messages", "visible"]
