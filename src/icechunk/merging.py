"""Merging workspaces: what forks changed is taken over by the session, all of it or nothing.

`change_merge` decides, as a pure function of values. What it has to know of the fork's snapshot, which it does only where
both sides may have changed something, is fetched here, between attempts: no lock is held across a wait, and nothing is
changed before the last attempt.
"""

from __future__ import annotations

from collections.abc import Sequence

from icechunk._driver import concurrent_map
from icechunk.change_merge import Fetched, Fork, NotSeen, Overlaps, merge_changes
from icechunk.chunk_access import table_of
from icechunk.node_view import NodeView
from icechunk.workspace import Workspace


async def merge_workspaces(into: Workspace, others: Sequence[Workspace]) -> list[Overlaps]:
    """Take over the changes of `others`, in that order; returns what each of them hid.

    Raises what `merge_changes` raises; `into` is then as it was.
    """
    await into.view()
    at_once = max(into.assets.storage.concurrency, 1) if any(other.packs for other in others) else 1
    forks = await concurrent_map(_fork, others, at_once)
    fetched = Fetched()
    while True:
        try:
            overlaps = _merge(into, forks, fetched)
        except NotSeen as wanted:
            await _fetch(into, wanted, fetched)
        else:
            break
    for other, fork in zip(others, forks, strict=True):
        changes = fork.changes
        other.handed_on = True
        other.handed_over = {node.path: node for node in (*changes.new_nodes.values(), *changes.updated.values())}
    return overlaps


async def _fork(workspace: Workspace) -> Fork:
    """What a fork brings; all chunks that it refers to are stored then."""
    with workspace.lock:
        fork = Fork(
            workspace.snapshot_id,
            workspace.change_set.copy(),
            workspace.forked_from,
            dict(workspace.handed_over),
            [],
            workspace.since,
        )
    await workspace.packs.settle()
    return fork._replace(first_chunks=list(workspace.first_chunks))


def _merge(into: Workspace, forks: Sequence[Fork], fetched: Fetched) -> list[Overlaps]:
    with into.lock:
        view = into.editable_view()
        if len(forks) > 1:  # aside, since a later one may fail; a single one is checked before it is applied
            view = NodeView(view.snapshot, view.change_set.copy())
        overlaps = [merge_changes(view, fork, fetched, shared=into.is_fork) for fork in forks]
        into.show(view)
        for fork in forks:
            into.first_chunks += fork.first_chunks
            if fork.since is not None and into.since is not None:
                into.since = min(into.since, fork.since)
        return overlaps


async def _fetch(into: Workspace, wanted: NotSeen, fetched: Fetched) -> None:
    if wanted.node is None:
        fetched.snapshots[wanted.snapshot_id] = await into.assets.snapshot(wanted.snapshot_id)
    else:
        fetched.tables[wanted.snapshot_id, wanted.node.id] = await table_of(into.assets, wanted.node)
