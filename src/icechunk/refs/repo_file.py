"""Refs, history, configuration and the operations log in one object, `repo` (spec 2).

Every change is the same loop: read the object, let a plain function decide what it is to become, put a copy of what was
read aside under `overwritten/`, and write the new object on the condition that nobody was faster. Otherwise begin again:
two writers of different branches never disturb each other, they only take turns.

Requests are what a change costs on object storage, so what does not depend on each other goes out together. The object
read last is kept; asking for it again costs an answer without content when it has not changed, and the copy of the kept
one is written in the meantime. What a commit needs to read and to copy it gets by `prepare`, while its own files are on
their way; then publishing is one conditional write.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from icechunk._dataclass import dataclass
from icechunk._driver import gather
from icechunk.assets import object_metadata
from icechunk.config import from_stored, to_stored
from icechunk.errors import (
    AlreadyExistsError,
    ErrorKind,
    FormatError,
    IcechunkError,
    InvalidInputError,
    PreconditionFailedError,
    ReadOnlyError,
    RefNotFoundError,
    RepositoryNotFoundError,
    SessionStateError,
    StorageError,
)
from icechunk.format.ids import format_id
from icechunk.format.repo_info import (
    BranchCreated,
    BranchDeleted,
    BranchReset,
    CommitAmended,
    ConfigChanged,
    ExpirationRan,
    FeatureFlagChanged,
    GCRan,
    MetadataChanged,
    NewCommit,
    NewDetachedSnapshot,
    RepoInfo,
    RepoStatusChanged,
    SnapshotRecord,
    Status,
    TagCreated,
    TagDeleted,
    Update,
    UpdateKind,
)
from icechunk.format.snapshot import Snapshot
from icechunk.refs.base import (
    MAIN,
    CollectionRan,
    Context,
    ExpiryRule,
    Flag,
    History,
    HistoryEdit,
    Prepared,
    Publication,
    RefStore,
    attempts_exhausted,
    branch_update_conflict,
    cannot_delete_main,
    check_name,
    check_order,
    commit_conflict,
    flag_disabled,
    format_time,
    later_than,
    ref_not_found,
    snapshot_not_found,
)
from icechunk.refs.ref_files import REPO_OBJECT, read_or_none, require_writable_storage
from icechunk.storage.base import Buffer, ObjectInfo, Unchanged, Version

if TYPE_CHECKING:
    from icechunk.config import RepositoryConfig

REPO_FACTS = object_metadata(2, "repo-info")
"""What is said of the repo object beside its bytes."""
OVERWRITTEN = "overwritten/"

FLAGS = {"create_tag": (4, True), "move_node": (3, True), "delete_tag": (5, True)}
"""Switches by name: their number, and whether they are on by default."""

ONLINE = 0
AVAILABILITY = {0: "Online", 1: "ReadOnly", 2: "Offline"}
"""Names of the states of a repository, by their number in the file."""

Change: TypeAlias = tuple[RepoInfo, UpdateKind]
"""What the repo object is to become, and what the operations log calls that."""

Decide: TypeAlias = Callable[[RepoInfo], Change | None]


@dataclass(frozen=True, slots=True)
class _Stand:
    """The repo object as it stood at one moment. `turn` orders moments within this process."""

    info: RepoInfo
    version: Version
    data: Buffer
    turn: int


class RepoFile(RefStore):
    """The refs of one spec 2 repository."""

    spec = 2
    registers_snapshots = True
    logs_collections = True
    expiry_rule = ExpiryRule(through_tips=True, root_expires=False)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._lock = threading.Lock()
        self._turns = itertools.count()
        self._last: _Stand | None = None
        self._backup: tuple[Version, str] | None = None
        self._time = 0

    def rebind(self, context: Context) -> None:
        super().rebind(context)
        self._backup = None  # no two may name the same copy: it tells whose change is whose

    # ---- reading

    async def info(self, *, revalidate: bool = True) -> RepoInfo:
        """The repo object as it is now; with `revalidate=False` the one read last will do."""
        last = self._last
        return last.info if last is not None and not revalidate else (await self._read()).info

    def stand_was(self, data: Buffer, version: Version) -> None:
        """Take note of the repo object, which somebody has read already."""
        self._keep(_Stand(RepoInfo.decode(data, REPO_OBJECT), version, data, next(self._turns)))

    def _keep(self, stand: _Stand) -> _Stand:
        with self._lock:
            if self._last is None or self._last.turn < stand.turn:
                self._last = stand
        return stand

    async def _read(self) -> _Stand:
        last, turn = self._last, next(self._turns)
        if last is None:
            found = await read_or_none(self.storage, REPO_OBJECT)
            if found is None:
                raise RepositoryNotFoundError("the repository doesn't exist", ErrorKind.REPOSITORY_NOT_FOUND)
        else:
            changed = await self.storage.get_if_changed(REPO_OBJECT, last.version)
            if changed is None:
                return last
            found = changed
        data, version = found
        return self._keep(_Stand(RepoInfo.decode(data, REPO_OBJECT), version, data, turn))

    # ---- changing

    async def update(self, decide: Decide, *, even_offline: bool = False, ahead: bool = True) -> RepoInfo:
        """Change the repo object. `decide` sees it and says what it is to become, None for no change; it may raise.

        Where `decide` is cheap, `ahead` lets it see an older stand first, to know whether a copy will be needed. Raises
        `ReadOnlyError` unless the status is online, `ConflictError` when others were faster for too long.
        """
        decide = decide if even_offline else _when_online(decide)
        stand = await (self._read_ahead(decide) if ahead else self._read())
        return (await self._settle(stand, decide)).info

    async def _read_ahead(self, decide: Decide) -> _Stand:
        """Read the repo object; at the same time put the kept one aside, if a change of that one would do."""
        last = self._last
        if last is None or self.context.width <= 1 or not _would_change(decide, last.info):
            return await self._read()
        stand, _ = await gather(self._read(), self._back_up(last))
        return stand  # type: ignore[no-any-return]

    async def _settle(self, stand: _Stand, decide: Decide) -> _Stand:
        """Write what `decide` makes of `stand`, or of whatever others made of it meanwhile."""
        for attempt in range(self.context.retries.max_tries):
            change = decide(stand.info)
            if change is None:
                return stand
            require_writable_storage(self.storage)
            info, kind = change
            at, backup = self._time_after(stand.info), await self._back_up(stand)
            info = info.with_update(kind, at, backup, self.context.updates_per_file)
            data = info.encode(self.context.level)
            try:
                version = await self.storage.put(
                    REPO_OBJECT, data, only_if=Unchanged(stand.version), metadata=REPO_FACTS
                )
            except StorageError as error:
                overtaken = isinstance(error, PreconditionFailedError)
                if overtaken:
                    await self.context.wait(attempt + 1)
                stand = await self._read()
                if _has_update(stand.info, at, backup):
                    return stand  # it was written, only the reply got lost
                if not overtaken:
                    raise
                continue
            return self._keep(_Stand(info, version, data, next(self._turns)))
        raise attempts_exhausted(self.context.retries.max_tries)

    def _time_after(self, info: RepoInfo) -> int:
        """A time for a change of `info`, which no other change made here has."""
        latest = info.updates[0].at if info.updates else 0
        with self._lock:
            self._time = max(later_than(self.context.now(), latest), self._time + 1)
            return self._time

    async def _back_up(self, stand: _Stand) -> str:
        """Copy the object as it stood to a name of its own, unless that was done already; returns the name."""
        done = self._backup
        if done is not None and done[0] == stand.version:
            return done[1]
        name = self.context.backup_name(REPO_OBJECT)
        await self.storage.put(OVERWRITTEN + name, stand.data, metadata=REPO_FACTS)
        self._backup = stand.version, name
        return name

    def moment(self) -> int:
        last = self._last
        return last.info.updates[0].at if last is not None and last.info.updates else 0

    async def prepare(self, branch: str, expected: bytes | None = None) -> Prepared:
        last = self._last
        if last is not None and self.context.width > 1 and branch in last.info.branches:
            stand, _ = await gather(self._read(), self._back_up(last))
        else:
            stand = await self._read()
        if branch in stand.info.branches and _is_online(stand.info):
            await self._back_up(stand)
        return Prepared(stand.info.branches.get(branch), stand)

    async def publish(self, publication: Publication, prepared: Prepared | None = None) -> None:
        stand: _Stand = (await self._read()) if prepared is None else prepared.state
        await self._settle(stand, _when_online(lambda info: publish_in(info, publication)))

    # ---- branches and tags

    async def branch_tip(self, name: str) -> bytes:
        return _found((await self.info()).branches.get(check_name(name)), name)

    def remembered_tip(self, name: str) -> bytes | None:
        last = self._last
        return None if last is None else last.info.branches.get(name)

    async def tag_target(self, name: str) -> bytes:
        return _found((await self.info()).tags.get(check_name(name)), name)

    async def list_branches(self) -> set[str]:
        return set((await self.info()).branches)

    async def list_tags(self) -> set[str]:
        return set((await self.info()).tags)

    async def create_branch(self, name: str, snapshot_id: bytes) -> None:
        check_name(name)

        def decide(info: RepoInfo) -> Change:
            if name in info.branches:
                raise AlreadyExistsError(
                    f"branch already exists `{name} -> {format_id(info.branches[name])}`; choose another name, or move "
                    "it with `repo.reset_branch`",
                    ErrorKind.BRANCH_ALREADY_EXISTS,
                )
            return info.with_branch(name, _known(info, snapshot_id)), BranchCreated(name)

        await self.update(decide)

    async def delete_branch(self, name: str) -> None:
        if name == MAIN:
            raise cannot_delete_main()

        def decide(info: RepoInfo) -> Change:
            return info.without_branch(name), BranchDeleted(name, _found(info.branches.get(name), name))

        await self.update(decide)

    async def reset_branch(self, name: str, snapshot_id: bytes, expected: bytes | None = None) -> None:
        def decide(info: RepoInfo) -> Change:
            tip = _found(info.branches.get(name), name)
            if expected is not None and tip != expected:
                raise branch_update_conflict(expected, tip)
            return info.with_branch(name, _known(info, snapshot_id)), BranchReset(name, tip)

        await self.update(decide)

    async def create_tag(self, name: str, snapshot_id: bytes) -> None:
        check_name(name)

        def decide(info: RepoInfo) -> Change:
            if not _is_enabled(info, "create_tag"):
                raise flag_disabled("tag creation", "create_tag")
            if name in info.tags:
                raise AlreadyExistsError(
                    f"tag already exists, tags are immutable: `{name}`; choose another name",
                    ErrorKind.TAG_ALREADY_EXISTS,
                )
            if name in info.deleted_tags:
                raise AlreadyExistsError(
                    f"icechunk does not allow tag reuse and tag was already deleted `{name}`; choose another name",
                    ErrorKind.TAG_PREVIOUSLY_DELETED,
                )
            return info.with_tag(name, _known(info, snapshot_id)), TagCreated(name)

        await self.update(decide)

    async def delete_tag(self, name: str) -> None:
        def decide(info: RepoInfo) -> Change:
            if not _is_enabled(info, "delete_tag"):
                raise flag_disabled("tag delete", "delete_tag")
            return info.without_tag(name), TagDeleted(name, _found(info.tags.get(name), name))

        await self.update(decide)

    # ---- snapshots

    async def snapshot_record(self, snapshot_id: bytes, *, revalidate: bool = True) -> SnapshotRecord:
        info = await self._info_with(snapshot_id, revalidate=revalidate)
        record = info.snapshot(snapshot_id)
        if record is None:
            raise snapshot_not_found(snapshot_id)
        return record

    async def ancestry(self, snapshot_id: bytes, *, revalidate: bool = True) -> AsyncIterator[SnapshotRecord]:
        info = await self._info_with(snapshot_id, revalidate=revalidate)
        for record in info.ancestry(_known(info, snapshot_id)):
            yield record

    async def ancestry_batches(self, snapshot_id: bytes) -> AsyncIterator[Sequence[SnapshotRecord]]:
        info = await self._info_with(snapshot_id, revalidate=False)
        yield info.ancestry(_known(info, snapshot_id))

    async def _info_with(self, snapshot_id: bytes, *, revalidate: bool) -> RepoInfo:
        info = await self.info(revalidate=revalidate)
        if not revalidate and snapshot_id not in info:
            info = await self.info()
        return info

    async def history(
        self,
        extra: Iterable[bytes] = (),
        visit: Callable[[bytes, Snapshot], None] | None = None,
        *,
        listed: Mapping[str, Sequence[ObjectInfo]] | None = None,
    ) -> History:
        return history_of(await self.info())

    async def edit_history(
        self, decide: Callable[[History], HistoryEdit | None], *, known: History | None = None, sure: bool = True
    ) -> HistoryEdit | None:
        outcome: HistoryEdit | None = None

        def change(info: RepoInfo) -> Change | None:
            nonlocal outcome
            outcome = decide(history_of(info))
            return None if outcome is None else edit_in(info, outcome)

        await self.update(change, ahead=False)
        return outcome

    # ---- status, configuration, metadata, switches

    async def ensure_writable(self, doing: str) -> None:
        require_writable_storage(self.storage)
        _require_online(await self.info(revalidate=False), doing)

    async def load_config(self) -> RepositoryConfig | None:
        stored = (await self.info(revalidate=False)).config
        return None if stored is None else from_stored(stored)

    async def save_config(self, config: RepositoryConfig) -> None:
        stored = to_stored(config)
        await self.update(lambda info: (info.with_config(stored), ConfigChanged()))

    async def get_metadata(self) -> dict[str, Any]:
        return (await self.info()).metadata

    async def change_metadata(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        info = await self.update(lambda info: (info.with_metadata(change(dict(info.metadata))), MetadataChanged()))
        return info.metadata

    async def get_status(self) -> Status:
        return (await self.info()).status

    async def set_status(self, availability: int, reason: str | None) -> None:
        status = Status(availability, self.context.now(), reason)
        await self.update(lambda info: (info.with_status(status), RepoStatusChanged(status)), even_offline=True)

    async def flags(self) -> list[Flag]:
        info = await self.info()
        return [Flag(number, name, default, _setting(info, number)) for name, (number, default) in FLAGS.items()]

    async def set_flag(self, name: str, setting: bool | None) -> None:
        if name not in FLAGS:
            raise InvalidInputError(
                f"invalid feature flag name: {name}; there are {', '.join(FLAGS)}", ErrorKind.INVALID_FEATURE_FLAG
            )
        number = FLAGS[name][0]

        def decide(info: RepoInfo) -> Change:
            enabled, disabled = {*info.enabled_flags} - {number}, {*info.disabled_flags} - {number}
            if setting is not None:
                (enabled if setting else disabled).add(number)
            changed = info.with_flags(tuple(sorted(enabled)), tuple(sorted(disabled)))
            return changed, FeatureFlagChanged(number, setting)

        await self.update(decide)

    async def updates(self) -> AsyncIterator[Update]:
        async for info in self._with_former(await self.info()):
            for update in info.updates:
                yield update

    async def copies(self) -> AsyncIterator[str]:
        async for info in self._with_former(await self.info(revalidate=False)):
            for name in (info.before_updates, *(update.backup for update in info.updates)):
                if name is not None:
                    yield name

    async def _with_former(self, info: RepoInfo) -> AsyncIterator[RepoInfo]:
        """A stand of the repo object, and those former ones in which its log goes on."""
        while True:
            yield info
            if info.before_updates is None:
                return
            path = OVERWRITTEN + info.before_updates
            data, _ = await self.storage.get(path)
            info = RepoInfo.decode(data, path)


# ---- decisions, on values


def publish_in(info: RepoInfo, publication: Publication) -> Change:
    """The repo object with a snapshot published; raises where it may not be."""
    record, branch = publication.record, publication.branch
    if record.id in info:
        raise FormatError(
            f"snapshot id is already present in the repository: `{format_id(record.id)}`",
            ErrorKind.DUPLICATE_SNAPSHOT_ID,
        )
    if branch is not None:
        tip = info.branches.get(branch)
        if tip is None:
            raise RefNotFoundError(f"branch not found `{branch}`", ErrorKind.BRANCH_NOT_FOUND)
        if tip != publication.expected:
            raise commit_conflict(publication.expected, tip)
        if publication.kind == "amend":  # an expiration may have given the tip another parent since it was looked at
            replaced = info.snapshot(tip)
            assert replaced is not None
            record = replace(record, parent_id=replaced.parent_id, pruned=replaced.pruned)
    parent = None if record.parent_id is None else info.snapshot(_known(info, record.parent_id))
    if parent is None:
        raise SessionStateError("cannot amend the initial commit", ErrorKind.NO_AMEND_FOR_INITIAL_COMMIT)
    check_order(record, parent)
    if publication.since is not None and _was_collected(info, publication.since):
        raise CollectionRan(info.updates[0].at)
    info = info.with_snapshot(record)
    if branch is None:
        return info, NewDetachedSnapshot(record.id)
    info = info.with_branch(branch, record.id)
    if publication.kind == "amend":
        previous = publication.expected if publication.previous is None else publication.previous
        assert previous is not None
        return info, CommitAmended(branch, previous, record.id)
    return info, NewCommit(branch, record.id)


def _has_update(info: RepoInfo, at: int, backup: str) -> bool:
    """Whether a change made here is in the log: the one at this time, after the copy that was put aside for it.

    Others may have changed the same thing at the same time, since who lags behind the log continues its time.
    """
    updates = info.updates
    for place, update in enumerate(updates):
        if update.at <= at:
            before = updates[place + 1].backup if place + 1 < len(updates) else info.before_updates
            return update.at == at and before == backup
    return False


def _was_collected(info: RepoInfo, since: int) -> bool:
    """Whether a collection ran after `since`, or may have: what is older than this object's part of the log counts."""
    for update in info.updates:
        if update.at <= since:
            return False
        if isinstance(update.kind, GCRan):
            return True
    return True


def history_of(info: RepoInfo) -> History:
    """Refs and snapshots of a repo object."""
    records = {}
    for snapshot_id in info.snapshot_ids():
        record = info.snapshot(snapshot_id)
        assert record is not None
        records[snapshot_id] = record
    return History(info.branches, info.tags, records)


def edit_in(info: RepoInfo, edit: HistoryEdit) -> Change:
    """The repo object with its history changed as asked for."""
    for name in edit.branches:
        info = info.without_branch(name)
    for name in edit.tags:
        info = info.without_tag(name)
    if edit.grafted or edit.dropped:
        records = history_of(info).records
        grafted = {record.id: record for record in edit.grafted}
        info = info.with_snapshots_replaced(
            grafted.get(snapshot_id, record)
            for snapshot_id, record in records.items()
            if snapshot_id not in edit.dropped
        )
    return info, ExpirationRan() if edit.reason == "expired" else GCRan()


def _when_online(decide: Decide) -> Decide:
    def check(info: RepoInfo) -> Change | None:
        _require_online(info, "")
        return decide(info)

    return check


def _is_online(info: RepoInfo) -> bool:
    return info.status.availability == ONLINE


def _require_online(info: RepoInfo, doing: str) -> None:
    status = info.status
    if _is_online(info):
        return
    state = AVAILABILITY.get(status.availability, str(status.availability))
    reason = "None" if status.reason is None else f'Some("{status.reason}")'
    raise ReadOnlyError(
        f"the repository status is read-only: {doing}{'; ' if doing else ''}Repo status is {state}, set at "
        f"{format_time(status.set_at)}, reason: {reason}",
        ErrorKind.READ_ONLY_REPOSITORY,
    )


def _would_change(decide: Decide, info: RepoInfo) -> bool:
    try:
        return decide(info) is not None
    except IcechunkError:
        return False


def _found(snapshot_id: bytes | None, name: str) -> bytes:
    if snapshot_id is None:
        raise ref_not_found(name)
    return snapshot_id


def _known(info: RepoInfo, snapshot_id: bytes) -> bytes:
    if snapshot_id not in info:
        raise snapshot_not_found(snapshot_id)
    return snapshot_id


def _setting(info: RepoInfo, number: int) -> bool | None:
    if number in info.enabled_flags:
        return True
    return False if number in info.disabled_flags else None


def _is_enabled(info: RepoInfo, name: str) -> bool:
    number, default = FLAGS[name]
    setting = _setting(info, number)
    return default if setting is None else setting
