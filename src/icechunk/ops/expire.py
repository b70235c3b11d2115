"""Expiration: forgetting snapshots that are older than a given time.

What is old is cut out of each history: the oldest snapshot that stays becomes a child of the root. Branches and tags go
on pointing where they point, unless it is asked to delete those that point to something old. Nothing is deleted from the
storage; that is what `gc` is for.

`plan_expiration` decides, on values; `expire` lets the ref store carry it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from datetime import datetime

from icechunk._dataclass import dataclass
from icechunk.format.ids import format_id
from icechunk.format.repo_info import SnapshotRecord
from icechunk.ops.times import as_micros
from icechunk.refs.base import MAIN, ExpiryRule, History, HistoryEdit, RefStore, format_time


@dataclass(frozen=True, slots=True)
class ExpirationPlan:
    """What an expiration forgets; its text says so for people.

    Attributes
    ----------
    older_than : int
        The limit, in microseconds since 1970 (UTC).
    released : tuple of SnapshotRecord
        The snapshots that no history contains any more, oldest first.
    edit : HistoryEdit
        What changes.
    sizes : mapping of bytes to int
        By snapshot, how many bytes a collection could delete after this, where that was asked for. What several
        released snapshots share counts for the oldest of them.
    """

    older_than: int
    released: tuple[SnapshotRecord, ...]
    edit: HistoryEdit
    sizes: Mapping[bytes, int] = field(default_factory=dict)

    @property
    def released_ids(self) -> set[str]:
        """The ids of the released snapshots, as text."""
        return {format_id(record.id) for record in self.released}

    def with_sizes(self, sizes: Mapping[bytes, int]) -> ExpirationPlan:
        """The same plan, knowing what each released snapshot costs."""
        return replace(self, sizes=sizes)

    def __str__(self) -> str:
        lines = [f"Expiration of what is older than {format_time(self.older_than)}:"]
        if not self.released:
            lines.append("  no snapshot is released")
        for record in self.released:
            size = f" {self.sizes[record.id]:>15,} bytes" if record.id in self.sizes else ""
            lines.append(f"  {format_id(record.id)}  {format_time(record.flushed_at)}{size}  {record.message}")
        if self.sizes:
            lines.append(f"  {sum(self.sizes.values()):,} bytes in all, to be deleted by a garbage collection")
        lines += [f"  branch {name} is deleted" for name in sorted(self.edit.branches)]
        lines += [f"  tag {name} is deleted" for name in sorted(self.edit.tags)]
        return "\n".join(lines)


def plan_expiration(
    history: History,
    older_than: int,
    rule: ExpiryRule,
    *,
    delete_branches: bool = False,
    delete_tags: bool = False,
) -> ExpirationPlan:
    """Which snapshots to release and how to close the gaps.

    A snapshot is old when it and all of its ancestors but the root are: clocks may disagree, yet nothing that is young
    is ever cut out.
    """
    roots = find_roots(history.records)
    old = _old_snapshots(history.records, older_than)

    def expired(tip: bytes) -> bool:
        record = history.records.get(tip)
        if record is None or record.parent_id is not None:
            return tip in old
        return rule.root_expires and record.flushed_at < older_than

    branches = frozenset(
        name for name, tip in history.branches.items() if delete_branches and name != MAIN and expired(tip)
    )
    tags = frozenset(name for name, tip in history.tags.items() if delete_tags and expired(tip))
    held = {tip for name, tip in history.branches.items() if name not in branches}
    held |= {tip for name, tip in history.tags.items() if name not in tags}
    released = old - held
    cut = released if rule.through_tips else old
    grafted = tuple(
        replace(record, parent_id=roots[record.id], pruned=_pruned(history.records, record))
        for record in history.records.values()
        if record.id not in released and record.parent_id in cut
    )
    edit = HistoryEdit("expired", grafted, frozenset(released), branches, tags)
    gone = sorted((history.records[one] for one in released), key=lambda record: (record.flushed_at, record.id))
    return ExpirationPlan(older_than, tuple(gone), edit)


def find_roots(records: Mapping[bytes, SnapshotRecord]) -> dict[bytes, bytes]:
    """By snapshot, the last of its ancestors."""
    roots: dict[bytes, bytes] = {}
    for start in records:
        path = []
        at = start
        while at not in roots:
            path.append(at)
            parent = records[at].parent_id
            if parent is None or parent not in records:
                roots[at] = at
                break
            at = parent
        for one in path:
            roots[one] = roots[at]
    return roots


def _old_snapshots(records: Mapping[bytes, SnapshotRecord], older_than: int) -> set[bytes]:
    known: dict[bytes, bool] = {}
    for start in records:
        path = []
        at: bytes | None = start
        while at is not None and at in records and at not in known:
            path.append(at)
            at = records[at].parent_id
        below = True
        if at is not None and at in known:
            below = known[at] or records[at].parent_id is None
        for one in reversed(path):
            parent = records[one].parent_id
            if parent is None or parent not in records:
                known[one], below = False, True
            else:
                below = known[one] = below and records[one].flushed_at < older_than
    return {one for one, is_old in known.items() if is_old}


def _pruned(records: Mapping[bytes, SnapshotRecord], record: SnapshotRecord) -> tuple[bytes, ...]:
    """The logs of everything between a snapshot and its root, oldest first, then what was pruned there before."""
    chain = []
    parent = record.parent_id
    while parent is not None and parent in records and records[parent].parent_id is not None:
        chain.append(records[parent])
        parent = records[parent].parent_id
    cut = [one for ancestor in reversed(chain) for one in (*ancestor.pruned, ancestor.id)]
    return (*cut, *record.pruned)


async def expire(
    refs: RefStore,
    older_than: datetime | int,
    *,
    delete_expired_branches: bool = False,
    delete_expired_tags: bool = False,
    dry_run: bool = False,
) -> ExpirationPlan:
    """Forget all snapshots that are older than `older_than`; a datetime without time zone is local time.

    Returns what was released. With `dry_run` nothing is changed. Raises `ReadOnlyError` where nothing may change.
    """
    limit = as_micros(older_than)
    plan: ExpirationPlan | None = None

    def decide(history: History) -> HistoryEdit:
        nonlocal plan
        plan = plan_expiration(
            history,
            limit,
            refs.expiry_rule,
            delete_branches=delete_expired_branches,
            delete_tags=delete_expired_tags,
        )
        return plan.edit

    if dry_run:
        decide(await refs.history())
    else:
        await refs.ensure_writable("Cannot expire")
        await refs.edit_history(decide, sure=False)  # a branch that moved meanwhile keeps more than it must
    assert plan is not None
    return plan
