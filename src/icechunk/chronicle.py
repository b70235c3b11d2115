"""The verbs of a repository that tell its history: single snapshots, ancestry, the graph of it, what changed between two.

What is stored is read in `refs/` and `assets`; here it gets the names, arguments and results that users know.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from icechunk._driver import blocking, concurrent_map, gather
from icechunk.core import RepositoryCore
from icechunk.errors import ErrorKind, FormatError, InvalidInputError
from icechunk.format.ids import format_id, parse_snapshot_id
from icechunk.format.repo_info import SnapshotRecord
from icechunk.info import Diff, SnapshotInfo, from_microseconds
from icechunk.iterators import AsyncCloseableIterator

if TYPE_CHECKING:
    from icechunk.ancestry_graph import AncestryGraph

_MANY = 4
"""Snapshots from which on it is worth while to look at each only when somebody else does."""
_FEW = 16
_BLOCK = 128


class Chronicle:
    """What `Repository` inherits to tell its history."""

    _core: RepositoryCore
    _resolve: Callable[..., Awaitable[bytes]]
    _tip: Callable[[str], Awaitable[bytes]]

    async def lookup_snapshot_async(self, snapshot_id: str) -> SnapshotInfo:
        """What is known of a snapshot. Raises `SnapshotNotFoundError`."""
        return info_of(await self._core.refs.snapshot_record(parse_snapshot_id(snapshot_id)))

    lookup_snapshot = blocking(lookup_snapshot_async)

    def ancestry(
        self, *, branch: str | None = None, tag: str | None = None, snapshot_id: str | None = None
    ) -> AsyncCloseableIterator[SnapshotInfo]:
        """A snapshot and all its parents, newest first, for `for` or `async for`."""
        tip = self._start(branch, tag, snapshot_id)
        return AsyncCloseableIterator.of_batches(self._ancestry(tip))

    def async_ancestry(
        self, *, branch: str | None = None, tag: str | None = None, snapshot_id: str | None = None
    ) -> AsyncCloseableIterator[SnapshotInfo]:
        """The same as `ancestry`, looking the ref up when the iteration begins."""
        if sum(given is not None for given in (branch, tag, snapshot_id)) != 1:
            raise ValueError("Must provide one of branch, tag, or snapshot_id")
        return AsyncCloseableIterator.of_batches(self._ancestry_of(branch, tag, snapshot_id))

    async def _start_async(self, branch: str | None, tag: str | None, snapshot_id: str | None) -> bytes:
        """Where an ancestry begins; where history is in the snapshots, that of the tip will be wanted next."""
        if branch is not None and tag is snapshot_id is None and not self._core.refs.registers_snapshots:
            return await self._tip(branch)
        return await self._resolve(branch, tag, snapshot_id)

    _start = blocking(_start_async)

    async def _ancestry_of(
        self, branch: str | None, tag: str | None, snapshot_id: str | None
    ) -> AsyncIterator[Iterable[SnapshotInfo]]:
        async for infos in self._ancestry(await self._start_async(branch, tag, snapshot_id)):
            yield infos

    async def _ancestry(self, tip: bytes) -> AsyncIterator[Iterable[SnapshotInfo]]:
        async for records in self._core.refs.ancestry_batches(tip):
            yield infos_of(records)

    async def ancestry_graph_async(
        self,
        *,
        branch: str | None = None,
        tag: str | None = None,
        snapshot_id: str | None = None,
        plain: bool = False,
    ) -> AncestryGraph:
        """The history as a picture: text with or without colours, SVG and HTML in notebooks."""
        tips = [] if branch is tag is snapshot_id is None else [await self._resolve(branch, tag, snapshot_id)]
        history = await self._core.refs.history(tips)
        from icechunk.ancestry_graph import ancestry_graph

        return ancestry_graph(history, tips or None, plain=plain)

    ancestry_graph = blocking(ancestry_graph_async)

    async def diff_async(
        self,
        *,
        from_branch: str | None = None,
        from_tag: str | None = None,
        from_snapshot_id: str | None = None,
        to_branch: str | None = None,
        to_tag: str | None = None,
        to_snapshot_id: str | None = None,
    ) -> Diff:
        """What changed from one snapshot to another one that descends from it.

        Raises `InvalidInputError` (bad-snapshot-chain-for-diff) when it does not.
        """
        core = self._core
        start = await self._resolve(from_branch, from_tag, from_snapshot_id)
        end = await self._resolve(to_branch, to_tag, to_snapshot_id)
        missed: list[SnapshotRecord] = []
        found = False
        async for record in core.refs.ancestry(end, revalidate=False):
            if record.id == start:
                found = True
                break
            missed.append(record)
        if not found or not missed:
            raise InvalidInputError(
                f"`to` snapshot ancestry doesn't include `from`: {format_id(end)} does not descend from "
                f"{format_id(start)}; exchange them, or look at `repo.ancestry(snapshot_id=...)`",
                ErrorKind.BAD_SNAPSHOT_CHAIN_FOR_DIFF,
            )
        from icechunk.history import diff_logs
        from icechunk.rebase import log_ids

        wanted = [log_id for _, log_id in log_ids(missed[::-1], start)]
        logs, before, after = await gather(
            concurrent_map(core.assets.transaction_log, wanted, core.width),
            core.assets.snapshot(start),
            core.assets.snapshot(end),
            limit=core.width,
        )
        return diff_logs(logs, before, after)

    diff = blocking(diff_async)


def info_of(record: SnapshotRecord) -> SnapshotInfo:
    """What users see of a snapshot."""
    parent = None if record.parent_id is None else format_id(record.parent_id)
    return SnapshotInfo(
        format_id(record.id), parent, from_microseconds(record.flushed_at), record.message, record.metadata
    )


def infos_of(records: Sequence[SnapshotRecord]) -> Iterable[SnapshotInfo]:
    """What users see of snapshots; of many, each is put together when it is looked at."""
    if len(records) < _MANY:
        return [info_of(record) for record in records]
    return SnapshotInfo.of_source(_Records(records), len(records))


class _Records:
    """Many records, each of which is the parent of the one before it, and what users see of them.

    Whoever looks at more than a few looks at most: then they are read, and their ids written as text, many at a time.
    """

    def __init__(self, records: Sequence[SnapshotRecord]) -> None:
        self._records = records
        self._asked = 0
        self._blocks: dict[int, tuple[list[SnapshotRecord], list[str | None]]] = {}

    def facts(self, place: int) -> tuple[str, str | None, datetime, str, dict[str, Any]]:
        self._asked += 1
        number, at = divmod(place, _BLOCK)
        block = self._blocks.get(number)
        if block is None and self._asked > _FEW:
            block = self._read(number)
        if block is None:
            record = self._records[place]
            name, parent = format_id(record.id), None if record.parent_id is None else format_id(record.parent_id)
        else:
            record, name, parent = block[0][at], str(block[1][at]), block[1][at + 1]
        return name, parent, from_microseconds(record.flushed_at), record.message, record.metadata

    def _read(self, number: int) -> tuple[list[SnapshotRecord], list[str | None]] | None:
        """A block of records and of their names, and behind these the name of the last one's parent."""
        from icechunk.ops.id_set import as_ids, format_names

        try:
            records = list(self._records[number * _BLOCK : (number + 1) * _BLOCK])
        except FormatError:
            return None  # those around a damaged one are good
        last = records[-1].parent_id
        names = [*format_names(as_ids([record.id for record in records])), None if last is None else format_id(last)]
        self._blocks[number] = records, names
        return records, names
