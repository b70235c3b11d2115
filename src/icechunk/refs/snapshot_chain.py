"""Following snapshots to their parents where each snapshot's own file is all that names its parent.

Read naively a history of n snapshots is n requests, one after the other. So what was read is kept, and a walk that has
gone on for a while lists all snapshots once and fetches, at once, those written just before the place where it stands:
most of them are the ones it comes to next. Whatever the guess misses is read by its id, so a wrong guess costs only time.
Maintenance, which has listed them anyway, hands the listing in, and reads no file again that is still what it was.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence

from icechunk._driver import concurrent_map
from icechunk.errors import ErrorKind, FormatError, IcechunkError, ObjectNotFoundError, SnapshotNotFoundError
from icechunk.format.ids import format_id, parse_id
from icechunk.format.repo_info import SnapshotRecord
from icechunk.format.snapshot import Snapshot
from icechunk.format.snapshot_head import read_record, record_of
from icechunk.refs.base import Context, MissingSnapshotError
from icechunk.storage.base import Buffer, ObjectInfo

SNAPSHOTS = "snapshots/"

_PATIENCE = 10
"""How many snapshots are read one by one before looking ahead, which costs a listing."""
_PATIENCE_LISTED = 3
"""The same where they are listed already."""
_KEPT_WHOLE = 8
"""Of how many snapshots, from the tip on, all is kept that was read."""
_RECENT_BYTES = 16 << 20

_FIRST_WINDOW = 16
_LAST_WINDOW = 512

Visit = Callable[[bytes, Snapshot], None]


class RecentFiles:
    """Files that were read lately, by path and etag, up to some total of bytes."""

    def __init__(self, limit: int = _RECENT_BYTES) -> None:
        self._limit = limit
        self._size = 0
        self._files: OrderedDict[str, tuple[Buffer, str | None]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, path: str, data: Buffer, etag: str | None) -> None:
        """Keep a file, and drop those that were kept longest where there are too many bytes."""
        with self._lock:
            self._drop(path)
            self._files[path] = data, etag
            self._size += len(data)
            while self._size > self._limit:
                self._drop(next(iter(self._files)))

    def _drop(self, path: str) -> None:
        former = self._files.pop(path, None)
        self._size -= 0 if former is None else len(former[0])

    def get(self, path: str, etag: str | None = None) -> Buffer | None:
        """The file at a path, if it was that of this etag where one is given."""
        with self._lock:
            data, known = self._files.get(path, (None, None))
        return data if etag is None or etag == known else None


class SnapshotChain:
    """Records of snapshots, read from the files and kept by id.

    `recent` takes in the files that are read. `listed` are the files that exist, newest first, as they were listed just
    now; of those that `recent` still has nothing is read.
    """

    def __init__(
        self,
        context: Context,
        known: Mapping[bytes, SnapshotRecord] | None = None,
        *,
        recent: RecentFiles | None = None,
        listed: Sequence[ObjectInfo] | None = None,
    ) -> None:
        self._context = context
        self._records: dict[bytes, SnapshotRecord] = dict(known or {})
        self._recent = recent
        self._etags = {} if listed is None else {info.path: info.etag for info in listed if info.etag is not None}
        self._newest_first = None if listed is None else _ids_of(listed)

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
            data = await self._file(path)
        except ObjectNotFoundError as error:
            raise missing(snapshot_id) from error
        if visit is None:
            record = self._records[snapshot_id] = read_record(snapshot_id, data, path)
            return record
        snapshot = Snapshot.decode(data, path)
        visit(snapshot_id, snapshot)
        return self._keep(snapshot_id, snapshot)

    async def _file(self, path: str) -> Buffer:
        recent, etag = self._recent, self._etags.get(path)
        kept = None if recent is None or etag is None else recent.get(path, etag)
        if kept is not None:
            return kept
        data, version = await self._context.storage.get(path)
        if recent is not None:
            recent.put(path, data, version.etag)
        return data

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
        read again. Where the walk comes to what was kept from earlier, one look tells whether a part of that was
        collected; until then, snapshots that others have expired may still be walked through, and can still be read.
        """
        ahead = _LookAhead(self._context, self, listed=self._newest_first)
        seen: set[bytes] = set()
        child: SnapshotRecord | None = None
        at: bytes | None = snapshot_id
        kept, met = frozenset(self._records), 0
        while at is not None:
            if at in seen:
                raise circular(at)
            record = self._records.get(at)
            met += at in kept
            if met == 2 and child is not None:  # a single one, where most walks end, needs no look
                met += 1
                if await self._was_collected(at):
                    await self._read_again(child.id)
                    at = self._records[child.id].parent_id if child.id in self._records else at
                    continue
            seen.add(at)
            try:
                if record is None:
                    await ahead.fetch([at])
                    record = self._records.get(at)
                if record is None:
                    record = await (self.record(at) if len(seen) <= _KEPT_WHOLE else self._next(at))
            except MissingSnapshotError:
                fresh = None if child is None else await self.reread(child.id)
                if fresh is None or fresh.parent_id == at:
                    raise
                child, at = fresh, fresh.parent_id
                continue
            yield record
            child, at = record, record.parent_id

    def _kept_from(self, snapshot_id: bytes) -> list[bytes]:
        """A snapshot and its parents, as far as they are kept; without the first of all, which is never collected."""
        kept: dict[bytes, None] = {}
        at: bytes | None = snapshot_id
        while at is not None and at not in kept:
            record = self._records.get(at)
            if record is None or record.parent_id is None:
                break
            kept[at] = None
            at = record.parent_id
        return list(kept)

    async def _was_collected(self, snapshot_id: bytes) -> bool:
        """Whether the oldest snapshot that is kept of a history is gone: what expires, expires from that end."""
        kept = self._kept_from(snapshot_id)
        return bool(kept) and not await self._context.storage.exists(SNAPSHOTS + format_id(kept[-1]))

    async def _read_again(self, snapshot_id: bytes) -> None:
        """Read anew what is kept of a history, and forget what is gone."""

        async def again(one: bytes) -> None:
            try:
                await self.reread(one)
            except MissingSnapshotError:
                self.forget(one)

        await concurrent_map(again, self._kept_from(snapshot_id), self._context.width)

    async def reach(
        self, tips: Iterable[bytes], visit: Visit | None = None, done: Collection[bytes] = ()
    ) -> dict[bytes, SnapshotRecord]:
        """Records of all snapshots that are reached from `tips` and are not `done`, one generation after the other."""
        found: dict[bytes, SnapshotRecord] = {}
        ahead = _LookAhead(self._context, self, visit, listed=self._newest_first)
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

    def __init__(
        self,
        context: Context,
        chain: SnapshotChain,
        visit: Visit | None = None,
        *,
        listed: Sequence[bytes] | None = None,
    ) -> None:
        self._context = context
        self._chain = chain
        self._visit = visit
        self._misses = 0
        self._patience = _PATIENCE if listed is None else _PATIENCE_LISTED
        self._window = _FIRST_WINDOW
        self._newest_first = listed
        self._place: dict[bytes, int] = {}

    async def fetch(self, wanted: Collection[bytes]) -> None:
        """Fetch `wanted` and what was written just before, once there were enough misses to make it worth while."""
        self._misses += 1
        if self._misses <= self._patience or self._context.width <= 1:
            return
        if self._newest_first is None:
            self._newest_first = await self._list()
        if not self._place:
            self._place = {one: place for place, one in enumerate(self._newest_first)}
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

    async def _list(self) -> list[bytes]:
        files = [info async for batch in self._context.storage.list(SNAPSHOTS) for info in batch]
        return _ids_of(sorted(files, key=lambda info: info.modified, reverse=True))


def _ids_of(files: Iterable[ObjectInfo]) -> list[bytes]:
    ids = []
    for info in files:
        try:
            ids.append(parse_id(info.path.removeprefix(SNAPSHOTS)))
        except ValueError:
            continue  # no snapshot
    return ids


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
