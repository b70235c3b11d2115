"""Refs as small files, one per branch and tag (spec 1).

    refs/branch.NAME/ref.json            {"snapshot":"1CECHNKREP0F1RSTCMT0"}, moved by conditional writes
    refs/tag.NAME/ref.json               the same, written once
    refs/tag.NAME/ref.json.deleted       an empty tombstone; the name is used up, whatever ref.json says
    config.yaml                          the configuration

History is in the snapshots alone: each file names its parent, and a snapshot exists when its file does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from icechunk._dataclass import dataclass
from icechunk._driver import concurrent_map, gather
from icechunk.config import format_yaml, parse_yaml
from icechunk.errors import (
    AlreadyExistsError,
    ConflictError,
    ErrorKind,
    FormatError,
    ObjectNotFoundError,
    PreconditionFailedError,
    ReadOnlyError,
    StorageError,
)
from icechunk.format.ids import INITIAL_SNAPSHOT_ID, format_id
from icechunk.format.repo_info import SnapshotRecord
from icechunk.format.snapshot import Snapshot
from icechunk.refs.base import (
    MAIN,
    MAX_CLOCK_DRIFT,
    Context,
    ExpiryRule,
    History,
    HistoryEdit,
    MissingSnapshotError,
    Prepared,
    Publication,
    RefStore,
    attempts_exhausted,
    branch_update_conflict,
    cannot_delete_main,
    check_order,
    commit_conflict,
    format_time,
    ref_not_found,
)
from icechunk.refs.ref_content import (
    REFS,
    RefNames,
    branch_path,
    decode_ref,
    encode_closed,
    encode_ref,
    names_in,
    tag_path,
    tombstone_path,
    upgraded,
)
from icechunk.refs.snapshot_chain import SNAPSHOTS, RecentFiles, SnapshotChain, missing
from icechunk.storage.base import ABSENT, Buffer, Condition, ObjectInfo, Storage, Unchanged, Version

if TYPE_CHECKING:
    from icechunk.config import RepositoryConfig

CONFIG = "config.yaml"
REPO_OBJECT = "repo"

_CLOCK_TRUSTED_FOR = MAX_CLOCK_DRIFT


@dataclass(frozen=True, slots=True)
class _Stand:
    """Where a ref stands, and the version of the file that says so."""

    tip: bytes
    version: Version


def _tip_of(stand: _Stand | None) -> bytes | None:
    return None if stand is None else stand.tip


class RefFiles(RefStore):
    """The refs of one spec 1 repository."""

    spec = 1
    registers_snapshots = False
    logs_collections = False
    expiry_rule = ExpiryRule(through_tips=False, root_expires=True)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._chain = SnapshotChain(context)
        self._config: tuple[Buffer, Version] | None = None
        self._config_known = self._config_ahead = False
        self._stands: dict[str, _Stand] = {}
        self._recent = RecentFiles()
        self._is_quiet = True
        self._clock_checked: int | None = None

    def rebind(self, context: Context) -> None:
        super().rebind(context)
        self._chain = self._chain.under(context)

    # ---- branches and tags

    async def branch_tip(self, name: str) -> bytes:
        stand = await self._stand(name)
        if stand is None:
            raise await self._no_branch(name)
        return stand.tip

    async def _no_branch(self, name: str) -> Exception:
        """What is wrong where a branch is not there: an upgrade takes all of them away, and nothing else takes `main`."""
        if name == MAIN:
            await self._check_format()
        return ref_not_found(name)

    async def _stand(self, name: str) -> _Stand | None:
        return await self._read(branch_path(name))

    async def _read(self, path: str) -> _Stand | None:
        found = await read_or_none(self.storage, path)
        return None if found is None else self.stood_at(path, *found)

    def stood_at(self, path: str, stored: Buffer, version: Version) -> _Stand:
        """Take note of a ref file that somebody has read."""
        stand = self._stands[path] = _Stand(decode_ref(stored, path), version)
        return stand

    def remembered_tip(self, name: str) -> bytes | None:
        return _tip_of(self._stands.get(branch_path(name)))

    async def tag_target(self, name: str) -> bytes:
        found, deleted = await gather(
            read_or_none(self.storage, tag_path(name)),
            self.storage.exists(tombstone_path(name)),
            limit=self.context.width,
        )
        if deleted or found is None:
            raise ref_not_found(name)
        return decode_ref(found[0], tag_path(name))

    async def names(self) -> RefNames:
        """All names in use, and those of deleted tags."""
        return names_in([info async for batch in self.storage.list(REFS) for info in batch])

    async def list_branches(self) -> set[str]:
        return set((await self.names()).branches)

    async def list_tags(self) -> set[str]:
        return set((await self.names()).tags)

    async def create_branch(self, name: str, snapshot_id: bytes) -> None:
        path = branch_path(name)
        await self.snapshot_record(snapshot_id)
        try:
            await self._put(path, encode_ref(snapshot_id), ABSENT)
        except PreconditionFailedError as error:
            stand = await self._stand(name)
            raise branch_update_conflict(None, _tip_of(stand)) from error
        await self._confirm(snapshot_id, lambda: self._delete(path))
        await self._check_format()

    async def delete_branch(self, name: str) -> None:
        if name == MAIN:
            raise cannot_delete_main()
        await self.branch_tip(name)
        await self._delete(branch_path(name))
        await self._check_format()

    async def reset_branch(self, name: str, snapshot_id: bytes, expected: bytes | None = None) -> None:
        stand, _ = await gather(self._stand(name), self.snapshot_record(snapshot_id), limit=self.context.width)
        for attempt in range(self.context.retries.max_tries):
            if stand is None:
                raise await self._no_branch(name)
            if expected is not None and stand.tip != expected:
                raise branch_update_conflict(expected, stand.tip)
            try:
                version = await self._put(branch_path(name), encode_ref(snapshot_id), Unchanged(stand.version))
                await self._confirm(snapshot_id, partial(self._put_back, name, stand.tip, version))
                return await self._check_format()
            except PreconditionFailedError as error:
                moved = await self._stand(name)
                if moved is not None and moved.tip == snapshot_id:
                    return await self._check_format()  # ours after all: the reply to an earlier try was lost below
                if moved is not None and moved.tip != stand.tip:
                    raise branch_update_conflict(stand.tip, moved.tip) from error
                stand = moved
            await self.context.wait(attempt + 1)
        raise attempts_exhausted(self.context.retries.max_tries)

    async def create_tag(self, name: str, snapshot_id: bytes) -> None:
        path, tombstone = tag_path(name), tombstone_path(name)
        deleted, _ = await gather(
            self.storage.exists(tombstone), self.snapshot_record(snapshot_id), limit=self.context.width
        )
        taken = AlreadyExistsError(
            f"tag already exists, tags are immutable: `{name}`; the names of deleted tags cannot be used again",
            ErrorKind.TAG_ALREADY_EXISTS,
        )
        if deleted:
            raise taken
        try:
            await self._put(path, encode_ref(snapshot_id), ABSENT)
        except PreconditionFailedError as error:
            raise taken from error
        await self._confirm(snapshot_id, lambda: self._delete(path))
        await self._check_format()

    async def delete_tag(self, name: str) -> None:
        await self.tag_target(name)
        try:
            await put_surely(self.storage, tombstone_path(name), b"", ABSENT)
        except PreconditionFailedError as error:
            raise ref_not_found(name) from error
        await self._check_format()

    async def _check_format(self) -> None:
        """Raise `FormatError` where the repository has the newer format by now.

        An upgrade writes the repo object and then looks at the refs once more. So what was done before one looks for it
        the upgrade has seen, and what it may not have seen is not taken for done.
        """
        if await self.storage.exists(REPO_OBJECT):
            raise upgraded()

    async def _confirm(self, snapshot_id: bytes, withdraw: Callable[[], Awaitable[None]]) -> None:
        """See that what a new ref points to was not collected meanwhile; else `withdraw` the ref.

        A collection looks at the refs once more when it has deleted snapshots, so either it notices us or we notice it.
        A snapshot that was written lately without a ref may have lost its parent in the same way.
        """
        known = await self._chain.record(snapshot_id)
        wanted = [one for one in (snapshot_id, known.parent_id) if one is not None]
        there = await concurrent_map(self._has_file, wanted, self.context.width)
        if there[0] and not all(there):  # unless an expiration gave it another parent since it was read
            parent = (await self._chain.reread(snapshot_id)).parent_id
            there = [True, parent is None or (parent != known.parent_id and await self._has_file(parent))]
        if not all(there):
            self._chain.forget(snapshot_id)
            await withdraw()
            raise missing(snapshot_id)

    async def _has_file(self, snapshot_id: bytes) -> bool:
        return await self.storage.exists(SNAPSHOTS + format_id(snapshot_id))

    def recent_file(self, path: str, etag: str | None) -> Buffer | None:
        return None if etag is None else self._recent.get(path, etag)

    async def _put_back(self, name: str, tip: bytes, version: Version) -> None:
        try:
            await self._put(branch_path(name), encode_ref(tip), Unchanged(version))
        except PreconditionFailedError:
            pass  # somebody has moved it elsewhere since

    # ---- snapshots

    async def snapshot_record(self, snapshot_id: bytes, *, revalidate: bool = True) -> SnapshotRecord:
        return await self._chain.record(snapshot_id)

    async def current_record(self, snapshot_id: bytes) -> SnapshotRecord:
        return await self._chain.reread(snapshot_id)

    def ancestry(self, snapshot_id: bytes, *, revalidate: bool = True) -> AsyncIterator[SnapshotRecord]:
        return self._chain.walk(snapshot_id)

    async def _targets(self, names: RefNames, paths: Mapping[str, str], *, sure: bool = True) -> dict[str, bytes]:
        """What refs point to, by name; without those that were deleted since they were listed.

        A file that the listing says is still the one that was read before is not read again, where it can be believed:
        listings of stores of unknown make may lag behind, which matters to who must be `sure`.
        """
        trusted = self.storage.keeps_conditions or not sure
        stands = {path: self._listed_stand(path, names) if trusted else None for path in paths.values()}
        unknown = [path for path, stand in stands.items() if stand is None]
        stands.update(zip(unknown, await concurrent_map(self._read, unknown, self.context.width), strict=True))
        return {name: stand.tip for name, path in paths.items() if (stand := stands[path]) is not None}

    def _listed_stand(self, path: str, names: RefNames) -> _Stand | None:
        stand, etag = self._stands.get(path), names.etags.get(path)
        return stand if stand is not None and etag is not None and stand.version.etag == etag else None

    async def tags(self, names: RefNames | None = None) -> dict[str, bytes]:
        """The tags and what they name; `names` are those that were listed, if somebody has done so."""
        names = await self.names() if names is None else names
        return await self._targets(names, {name: tag_path(name) for name in names.tags})

    async def deleted_tags(self) -> dict[str, bytes]:
        """The tags that were deleted, each with the snapshot it named as far as that is known."""
        names = await self.names()
        known = await self._targets(names, {name: tag_path(name) for name in names.deleted_tags})
        return {name: known.get(name, INITIAL_SNAPSHOT_ID) for name in sorted(names.deleted_tags)}

    async def close_branches(self) -> dict[str, bytes]:
        """Make it impossible to move any branch ever again, and say where they stand."""
        tips: dict[str, bytes] = {}
        while open_ones := sorted((await self.names()).branches - tips.keys()):
            for name in open_ones:
                stand = await self._stand(name)
                if stand is None:
                    continue
                try:
                    await self._put(branch_path(name), encode_closed(stand.tip), Unchanged(stand.version))
                except PreconditionFailedError:
                    continue  # somebody was faster: look again
                tips[name] = stand.tip
        return tips

    async def open_branches(self, tips: Mapping[str, bytes]) -> None:
        """Undo `close_branches`; what was prepared before it still cannot be published, for the files are others."""
        for name, tip in tips.items():
            await self.storage.put(branch_path(name), encode_ref(tip).replace(b":", b": "))

    async def history(
        self,
        extra: Iterable[bytes] = (),
        visit: Callable[[bytes, Snapshot], None] | None = None,
        *,
        listed: Mapping[str, Sequence[ObjectInfo]] | None = None,
        branches: Mapping[str, bytes] | None = None,
    ) -> History:
        listed = listed or {}
        chain = SnapshotChain(self.context, recent=self._recent, listed=listed.get(SNAPSHOTS))
        names = names_in(listed[REFS]) if REFS in listed else None
        return await self._history(chain, extra, visit, branches, names=names, sure=not listed)

    async def _history(
        self,
        chain: SnapshotChain,
        extra: Iterable[bytes] = (),
        visit: Callable[[bytes, Snapshot], None] | None = None,
        branches: Mapping[str, bytes] | None = None,
        *,
        names: RefNames | None = None,
        sure: bool = True,
    ) -> History:
        """All refs and what they reach. `chain` is a fresh one: others may have given snapshots another parent."""
        names = await self.names() if names is None else names
        if branches is None:
            if MAIN not in names.branches:  # an upgrade deletes it first; without it nothing here can be believed
                raise await self._no_branch(MAIN)
            branches = await self._targets(names, {name: branch_path(name) for name in names.branches}, sure=sure)
        tags = await self._targets(names, {name: tag_path(name) for name in names.tags}, sure=sure)
        records = await chain.reach({*branches.values(), *tags.values()}, visit)
        for tip in extra:
            try:
                records |= await chain.reach([tip], visit, records.keys())
            except (MissingSnapshotError, FormatError):
                continue  # no ref leads there, so it may well be broken
        return History(branches, tags, records)

    async def edit_history(
        self, decide: Callable[[History], HistoryEdit | None], *, known: History | None = None, sure: bool = True
    ) -> HistoryEdit | None:
        chain = SnapshotChain(self.context, {} if known is None else known.records, recent=self._recent)
        if known is None:
            history = await self._history(chain, sure=sure)
        else:
            # an upgrade takes main away first, after it wrote the repo object: so one may look for both at once
            present = self._history(chain, sure=sure)
            history, _ = await gather(present, self._check_format(), limit=self.context.width)
        edit = decide(history)
        if edit is None:
            return None
        await concurrent_map(self._graft, edit.grafted, self.context.width)
        for name in sorted(edit.branches):
            await self._retire(name, history)
        for name in sorted(edit.tags):
            await self.delete_tag(name)
        if known is None:
            await self._check_format()
        return edit

    async def _retire(self, name: str, history: History) -> None:
        """Delete a branch, unless somebody has moved it since `history` was read.

        Nothing but a write can have a condition. So the branch is first moved away from where somebody may be committing
        on top of it, then deleted.
        """
        tip = history.branches[name]
        stand = await self._stand(name)
        if stand is None or stand.tip != tip:
            return
        elsewhere = [one for one in history.records if one != tip]
        if elsewhere:
            oldest = min(elsewhere, key=lambda one: history.records[one].flushed_at)
            try:
                await self._put(branch_path(name), encode_ref(oldest), Unchanged(stand.version))
            except PreconditionFailedError:
                return
        await self._delete(branch_path(name))

    async def _graft(self, record: SnapshotRecord) -> None:
        """Write a snapshot again, in place, with another parent. Its file was read for the history just now."""
        path = SNAPSHOTS + format_id(record.id)
        data = self._recent.get(path) or (await self.storage.get(path))[0]
        snapshot = Snapshot.decode(data, path)
        from icechunk.format.snapshot import encode_snapshot

        encoded = encode_snapshot(
            spec=self.spec,
            id=snapshot.id,
            parent_id=record.parent_id,
            flushed_at=snapshot.flushed_at,
            message=snapshot.message,
            metadata=snapshot.metadata,
            base=snapshot,
            changes={},
            add_manifests=(),
            drop_manifests=(),
            level=self.context.level,
        )
        version = await self.context.files.write_snapshot(record.id, encoded, self.spec)
        self._recent.put(path, encoded, version.etag)
        self._chain.forget(record.id)

    # ---- publishing

    def moment(self) -> int:
        return self.context.now()

    async def prepare(self, branch: str, expected: bytes | None = None) -> Prepared:
        may_trust = self._is_quiet and self.storage.keeps_conditions
        stand = self._stands.get(branch_path(branch)) if may_trust else None
        if expected is not None and stand is not None and stand.tip == expected:
            overtaken = await self.storage.exists(REPO_OBJECT)
        else:
            stand, overtaken = await gather(
                self._stand(branch), self.storage.exists(REPO_OBJECT), limit=self.context.width
            )
        if overtaken:
            raise upgraded()
        return Prepared(_tip_of(stand), stand)

    async def publish(self, publication: Publication, prepared: Prepared | None = None) -> None:
        if publication.branch is None:
            return  # the file is all there is of a detached snapshot
        branch, record = publication.branch, publication.record
        if record.parent_id is not None:
            check_order(record, await self.snapshot_record(record.parent_id))
        if prepared is None:
            _, prepared = await gather(self._check_clock(record), self.prepare(branch), limit=self.context.width)
        else:
            await self._check_clock(record)
        stand: _Stand | None = prepared.state
        for attempt in range(self.context.retries.max_tries):
            if stand is None or stand.tip != publication.expected:
                raise commit_conflict(publication.expected, _tip_of(stand))
            try:
                path, data = branch_path(branch), encode_ref(record.id)
                version = await self._put(path, data, Unchanged(stand.version))
                if publication.kind == "amend":  # the parent is not what the branch stood at, it may be gone
                    await self._confirm(record.id, partial(self._put_back, branch, stand.tip, version))
                self.stood_at(path, data, version)
                return
            except PreconditionFailedError:
                self._is_quiet = False  # from now on it is worth a request to know early that others were faster
                stand = (await self.prepare(branch)).state
                if stand is not None and stand.tip == record.id:
                    return  # ours after all: the reply to an earlier try was lost below
            await self.context.wait(attempt + 1)
        raise attempts_exhausted(self.context.retries.max_tries)

    async def _check_clock(self, record: SnapshotRecord) -> None:
        """Compare our clock with that of the storage, now and then."""
        now = self.context.now()
        if self._clock_checked is not None and 0 <= now - self._clock_checked < _CLOCK_TRUSTED_FOR:
            return
        modified = await self.storage.modified_at(SNAPSHOTS + format_id(record.id))
        if modified is None:
            return
        theirs = round(modified.timestamp() * 1_000_000)
        if abs(theirs - record.flushed_at) > MAX_CLOCK_DRIFT:
            raise FormatError(
                "snapshot timestamp is invalid, please verify if the machine clock has drifted: local clock: "
                f"`{format_time(record.flushed_at)}`, object store clock: `{format_time(theirs)}`",
                ErrorKind.SNAPSHOT_TIMESTAMP,
            )
        self._clock_checked = now

    async def ensure_writable(self, doing: str) -> None:
        require_writable_storage(self.storage)

    async def require_flag(self, name: str, doing: str) -> None:
        """This format has no switches: everything it can do is on."""

    # ---- configuration

    async def load_config(self) -> RepositoryConfig | None:
        if self._config_ahead:
            self._config_ahead = False
        else:
            self.config_was(await read_or_none(self.storage, CONFIG))
        return None if self._config is None else parse_yaml(bytes(self._config[0]))

    def config_was(self, stored: tuple[Buffer, Version] | None, *, ahead: bool = False) -> None:
        """Take note of the stored configuration, which somebody has read; `ahead` of whoever asks for it next."""
        self._config, self._config_known, self._config_ahead = stored, True, ahead

    async def save_config(self, config: RepositoryConfig) -> None:
        if not self._config_known:
            await self.load_config()
        condition: Condition = ABSENT
        if self._config is not None:
            condition = Unchanged(self._config[1])
            backup = f"overwritten/{self.context.backup_name(CONFIG)}"
            await self.storage.put(backup, self._config[0], content_type="application/yaml")
        data = format_yaml(config).encode()
        try:
            version = await self._put(CONFIG, data, condition, content_type="application/yaml")
        except PreconditionFailedError as error:
            raise ConflictError(
                None,
                None,
                "config was updated by other session; open the repository again to see it, then save yours",
                ErrorKind.CONFIG_UPDATED,
            ) from error
        self.config_was((data, version))
        await self._check_format()

    # ---- writing

    async def _put(self, path: str, data: bytes, only_if: Condition, content_type: str = "application/json") -> Version:
        return await put_surely(self.storage, path, data, only_if, content_type)

    async def _delete(self, path: str) -> None:
        outcome = await self.storage.delete([path])
        for failed, reason in outcome.failed:
            raise StorageError(f"cannot delete `{failed}`: {reason}", ErrorKind.OBJECT_STORE)


async def read_or_none(storage: Storage, path: str) -> tuple[Buffer, Version] | None:
    """What stands at a path, None when nothing does."""
    try:
        return await storage.get(path)
    except ObjectNotFoundError:
        return None


async def put_surely(
    storage: Storage,
    path: str,
    data: bytes,
    only_if: Condition,
    content_type: str | None = None,
    metadata: dict[str, str] | None = None,
) -> Version:
    """A conditional write whose reply may get lost: then what stands there is read back, and if it is ours it succeeded."""
    try:
        return await storage.put(path, data, only_if=only_if, content_type=content_type, metadata=metadata)
    except (PreconditionFailedError, ReadOnlyError):
        raise
    except StorageError:
        found = await read_or_none(storage, path)
        if found is not None and bytes(found[0]) == data:
            return found[1]
        raise


def require_writable_storage(storage: Storage) -> None:
    """Raise `ReadOnlyError` for a storage that takes no writes."""
    if storage.read_only:
        raise ReadOnlyError(
            "the storage used by this Icechunk repository is read-only: open the repository with one that can write",
            ErrorKind.READ_ONLY_STORAGE,
        )
