"""Following snapshots to their parents where each snapshot's own file is all that names its parent.

Read naively a history of n snapshots is n requests, one after the other. So what was read is kept, and a walk that has
gone on for a while lists all snapshots once and fetches, at once, those written just before the place where it stands:
most of them are the ones it comes to next. Whatever the guess misses is read by its id, so a wrong guess costs only time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping

from icechunk._driver import concurrent_map
from icechunk.errors import ErrorKind, FormatError, IcechunkError, ObjectNotFoundError, SnapshotNotFoundError
from icechunk.format.ids import format_id, parse_id
from icechunk.format.repo_info import SnapshotRecord
from icechunk.format.snapshot import Snapshot
from icechunk.format.snapshot_head import read_record, record_of
from icechunk.refs.base import Context, MissingSnapshotError

SNAPSHOTS = "snapshots/"

_PATIENCE = 8
"""How many snapshots are read one by one before looking ahead."""

_FIRST_WINDOW = 16
_LAST_WINDOW = 512

Visit = Callable[[bytes, Snapshot], None]


class SnapshotChain:
    """Records of snapshots, read from the files and kept by id."""

    def __init__(self, context: Context, known: Mapping[bytes, SnapshotRecord] | None = None) -> None:
        self._context = context
        self._records: dict[bytes, SnapshotRecord] = dict(known or {})

    def under(self, context: Context) -> SnapshotChain:
        """A chain under other settings, which knows what this one has read."""
        return SnapshotChain(context, self._records)

    async def record(self, snapshot_id: bytes) -> SnapshotRecord:
        """What the file of a snapshot says of it; raises `MissingSnapshotError`."""
        known = self._records.get(snapshot_id)
        if known is not None:
            return known
        try:
            snapshot = await self._context.files.snapshot(snapshot_id)
        except (SnapshotNotFoundError, ObjectNotFoundError) as error:
            raise missing(snapshot_id) from error
        return self._keep(snapshot_id, snapshot)

    async def reread(self, snapshot_id: bytes, visit: Visit | None = None) -> SnapshotRecord:
        """As `record`, from the file as it is now, by-passing whatever is cached."""
        path = SNAPSHOTS + format_id(snapshot_id)
        try:
            data, _ = await self._context.storage.get(path)
        except ObjectNotFoundError as error:
            raise missing(snapshot_id) from error
        if visit is None:
            record = self._records[snapshot_id] = read_record(snapshot_id, data, path)
            return record
        snapshot = Snapshot.decode(data, path)
        visit(snapshot_id, snapshot)
        return self._keep(snapshot_id, snapshot)

    def forget(self, snapshot_id: bytes) -> None:
        """Drop what is kept of a snapshot whose file was written anew."""
        self._records.pop(snapshot_id, None)

    def _keep(self, snapshot_id: bytes, snapshot: Snapshot) -> SnapshotRecord:
        record = self._records[snapshot_id] = record_of(snapshot_id, snapshot)
        return record

    async def _next(self, snapshot_id: bytes) -> SnapshotRecord:
        """As `record`, without keeping the whole snapshot: nobody will look at what is inside of most of them."""
        kept = self._context.files.kept_snapshot(snapshot_id)
        return await self.reread(snapshot_id) if kept is None else self._keep(snapshot_id, kept)

    async def walk(self, snapshot_id: bytes) -> AsyncIterator[SnapshotRecord]:
        """A snapshot and its parents, newest first.

        A parent that is gone may only mean that its child was given another one since it was read; then the child is
        read again.
        """
        ahead = _LookAhead(self._context, self)
        seen: set[bytes] = set()
        child: SnapshotRecord | None = None
        at: bytes | None = snapshot_id
        while at is not None:
            if at in seen:
                raise circular(at)
            seen.add(at)
            record = self._records.get(at)
            try:
                if record is None:
                    await ahead.fetch([at])
                    record = self._records.get(at)
                if record is None:
                    record = await (self.record(at) if len(seen) <= _PATIENCE else self._next(at))
            except MissingSnapshotError:
                fresh = None if child is None else await self.reread(child.id)
                if fresh is None or fresh.parent_id == at:
                    raise
                child, at = fresh, fresh.parent_id
                continue
            yield record
            child, at = record, record.parent_id

    async def reach(
        self, tips: Iterable[bytes], visit: Visit | None = None, done: Collection[bytes] = ()
    ) -> dict[bytes, SnapshotRecord]:
        """Records of all snapshots that are reached from `tips` and are not `done`, one generation after the other."""
        found: dict[bytes, SnapshotRecord] = {}
        ahead = _LookAhead(self._context, self, visit)
        front = {tip for tip in tips if tip not in done}
        while front:
            unknown = [snapshot_id for snapshot_id in front if snapshot_id not in self._records]
            if unknown:
                await ahead.fetch(unknown)
            rest = [snapshot_id for snapshot_id in unknown if snapshot_id not in self._records]
            await concurrent_map(lambda one: self.reread(one, visit), rest, self._context.width)
            found.update((snapshot_id, self._records[snapshot_id]) for snapshot_id in front)
            parents = {found[one].parent_id for one in front}
            front = {one for one in parents if one is not None and one not in found and one not in done}
        return found


class _LookAhead:
    """Guesses which snapshots a walk will come to, and fetches them together."""

    def __init__(self, context: Context, chain: SnapshotChain, visit: Visit | None = None) -> None:
        self._context = context
        self._chain = chain
        self._visit = visit
        self._misses = 0
        self._window = _FIRST_WINDOW
        self._newest_first: list[bytes] | None = None
        self._place: dict[bytes, int] = {}

    async def fetch(self, wanted: Collection[bytes]) -> None:
        """Fetch `wanted` and what was written just before, once there were enough misses to make it worth while."""
        self._misses += 1
        if self._misses <= _PATIENCE or self._context.width <= 1:
            return
        if self._newest_first is None:
            await self._list()
        assert self._newest_first is not None
        start = min((self._place.get(one, 0) for one in wanted), default=0)
        guess = dict.fromkeys(wanted)
        for one in self._newest_first[start:]:
            if len(guess) >= self._window + len(wanted):
                break
            if one not in self._chain._records:
                guess[one] = None
        self._window = min(self._window * 2, _LAST_WINDOW)
        await concurrent_map(self._try, guess, self._context.width)

    async def _try(self, snapshot_id: bytes) -> None:
        try:
            await self._chain.reread(snapshot_id, self._visit)
        except IcechunkError:
            pass  # a guess; where it was needed, reading it by its id says what is wrong

    async def _list(self) -> None:
        listed: list[tuple[float, bytes]] = []
        async for batch in self._context.storage.list(SNAPSHOTS):
            for info in batch:
                try:
                    listed.append((info.modified, parse_id(info.path.removeprefix(SNAPSHOTS))))
                except ValueError:
                    continue  # no snapshot
        listed.sort(reverse=True)
        self._newest_first = [snapshot_id for _, snapshot_id in listed]
        self._place = {snapshot_id: place for place, snapshot_id in enumerate(self._newest_first)}


def missing(snapshot_id: bytes) -> MissingSnapshotError:
    return MissingSnapshotError(
        f"snapshot not found: `{format_id(snapshot_id)}`; `repo.ancestry(branch=...)` lists what there is",
        ErrorKind.OBJECT_NOT_FOUND,
    )


def circular(snapshot_id: bytes) -> FormatError:
    return FormatError(
        f"snapshot {format_id(snapshot_id)} is its own ancestor; its parent was not written by this library",
        ErrorKind.INVALID_FILE_FORMAT,
    )
