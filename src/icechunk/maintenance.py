"""The verbs of a repository that look after it: status, metadata, switches, log, expiry, collection, inspection.

Their work is done in `ops/` and `refs/`; here it gets the names, arguments and results that users know. What is needed
rarely is imported when it is needed.
"""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from icechunk._driver import blocking
from icechunk.checks import flag, instance, mapping
from icechunk.config import RepositoryConfig
from icechunk.core import RepositoryCore
from icechunk.errors import ErrorKind, InvalidInputError, ReadOnlyError
from icechunk.format.ids import format_id, parse_id, parse_snapshot_id
from icechunk.format.values import to_json_domain
from icechunk.info import (
    ChunkStorageStats,
    FeatureFlag,
    GCSummary,
    ManifestFileInfo,
    RepoAvailability,
    RepoStatus,
    SpecVersion,
    Update,
    UpdateType,
    from_microseconds,
)
from icechunk.iterators import AsyncCloseableIterator

if TYPE_CHECKING:
    from icechunk.ops.expire import ExpirationPlan
    from icechunk.ops.survey import Limits
    from icechunk.types import CommitMethod
    from icechunk.virtual import VirtualAccessReport

_STATES = {0: RepoAvailability.online, 1: RepoAvailability.read_only}


class Maintenance:
    """What `Repository` inherits to look after itself."""

    _core: RepositoryCore
    _resolve: Callable[..., Awaitable[bytes]]

    # --- status, metadata and switches ------------------------------------------------------------------------------

    async def get_status_async(self) -> RepoStatus:
        """Whether the repository takes changes."""
        return _status_of(await self._core.refs.get_status())

    get_status = blocking(get_status_async)

    @property
    def status(self) -> RepoStatus:
        """Whether the repository takes changes."""
        return self.get_status()

    async def set_status_async(self, status: RepoStatus) -> None:
        """Close the repository for changes, or open it again, for everybody."""
        instance(status, "status", RepoStatus)
        await self._core.refs.set_status(status.availability.value, status.limited_availability_reason)

    set_status = blocking(set_status_async)

    async def get_metadata_async(self) -> dict[str, Any]:
        """The metadata of the repository itself."""
        return await self._core.refs.get_metadata()

    get_metadata = blocking(get_metadata_async)

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata of the repository itself."""
        return self.get_metadata()

    async def set_metadata_async(self, metadata: dict[str, Any]) -> None:
        """Replace the metadata of the repository."""
        new = to_json_domain(mapping(metadata, "metadata"))
        await self._core.refs.change_metadata(lambda _: new)

    set_metadata = blocking(set_metadata_async)

    async def update_metadata_async(self, metadata: dict[str, Any]) -> dict[str, Any]:
        """Set some entries of the repository's metadata, and return all of it."""
        new = to_json_domain(mapping(metadata, "metadata"))
        return await self._core.refs.change_metadata(lambda former: {**former, **new})

    update_metadata = blocking(update_metadata_async)

    async def feature_flags_async(self) -> list[FeatureFlag]:
        """All switches of the repository."""
        return [
            FeatureFlag(one.id, one.name, one.default_enabled, one.setting) for one in await self._core.refs.flags()
        ]

    feature_flags = blocking(feature_flags_async)

    async def enabled_feature_flags_async(self) -> list[FeatureFlag]:
        """The switches that are on."""
        return [one for one in await self.feature_flags_async() if one.enabled]

    enabled_feature_flags = blocking(enabled_feature_flags_async)

    async def disabled_feature_flags_async(self) -> list[FeatureFlag]:
        """The switches that are off."""
        return [one for one in await self.feature_flags_async() if not one.enabled]

    disabled_feature_flags = blocking(disabled_feature_flags_async)

    async def set_feature_flag_async(self, name: str, setting: bool | None) -> None:
        """Switch a feature on or off for everybody; None gives it back its default."""
        if setting is not None:
            flag(setting, "setting")
        await self._core.refs.set_flag(name, setting)

    set_feature_flag = blocking(set_feature_flag_async)

    # --- operations log -----------------------------------------------------------------------------------------------

    def ops_log(self) -> AsyncCloseableIterator[Update]:
        """Everything that was done to the repository, newest first, for `for` or `async for`."""
        return AsyncCloseableIterator(_public_updates(self._core.refs.updates()))

    def ops_log_async(self) -> AsyncCloseableIterator[Update]:
        """The same as `ops_log`."""
        return self.ops_log()

    # --- expiry and collection ------------------------------------------------------------------------------------------

    async def expire_snapshots_async(
        self,
        older_than: datetime,
        *,
        delete_expired_branches: bool = False,
        delete_expired_tags: bool = False,
        dry_run: bool = False,
    ) -> set[str]:
        """Forget all snapshots that were written before `older_than`, but for the tips of branches and tags.

        Nothing is deleted: `garbage_collect` does that. `plan_expiration` shows beforehand what would be forgotten.

        Parameters
        ----------
        older_than : datetime
            Without a time zone it is local time.
        delete_expired_branches, delete_expired_tags : bool
            Whether branches (not `main`) and tags that stand at a forgotten snapshot are deleted, too.
        dry_run : bool
            Change nothing; print what would be forgotten, and how many bytes come back for each snapshot.

        Returns
        -------
        set of str
            The ids of the forgotten snapshots.
        """
        from icechunk.ops import expire

        if dry_run:
            planned = await self.plan_expiration_async(
                older_than, delete_expired_branches=delete_expired_branches, delete_expired_tags=delete_expired_tags
            )
            print(planned)
            return planned.released_ids
        self._require_writable_storage("expire snapshots")
        plan = await expire.expire(
            self._core.refs,
            older_than,
            delete_expired_branches=delete_expired_branches,
            delete_expired_tags=delete_expired_tags,
        )
        return plan.released_ids

    expire_snapshots = blocking(expire_snapshots_async)

    async def plan_expiration_async(
        self,
        older_than: datetime,
        *,
        delete_expired_branches: bool = False,
        delete_expired_tags: bool = False,
    ) -> ExpirationPlan:
        """What `expire_snapshots` would do, and how many bytes come back for each snapshot; nothing is changed.

        Print the plan to read it.
        """
        from icechunk.ops import expire, stats

        core = self._core
        plan = await expire.expire(
            core.refs,
            older_than,
            delete_expired_branches=delete_expired_branches,
            delete_expired_tags=delete_expired_tags,
            dry_run=True,
        )
        return plan.with_sizes(await stats.released_sizes(plan, core.refs, core.storage))

    plan_expiration = blocking(plan_expiration_async)

    async def garbage_collect_async(
        self,
        delete_object_older_than: datetime,
        *,
        dry_run: bool = False,
        max_snapshots_in_memory: int = 50,
        max_compressed_manifest_mem_bytes: int = 512 * 1024 * 1024,
        max_decoded_manifest_mem_bytes: int = 4 * 1024 * 1024 * 1024,
        max_concurrent_manifest_fetches: int = 500,
        max_concurrent_deletes: int = 10,
        max_consecutive_delete_failures: int = 50,
        max_concurrent_listings: int | None = None,
    ) -> GCSummary:
        """Delete every file that is older than `delete_object_older_than` and that no branch or tag needs.

        Choose a time before the oldest session that may still be open: chunks it wrote are needed by nobody yet.
        In format 2, copies of the repo object that changes left which were never made go too; only `bytes_deleted` counts
        them.

        Parameters
        ----------
        delete_object_older_than : datetime
            Compared with the time at which the storage wrote an object; without a time zone it is local time.
        dry_run : bool
            Only count what would be deleted.
        max_snapshots_in_memory, max_concurrent_manifest_fetches : int
            How many files are read at once.
        max_compressed_manifest_mem_bytes, max_decoded_manifest_mem_bytes : int
            How many bytes of manifests are in memory at once.
        max_concurrent_deletes : int
            How many bulk requests are under way at once.
        max_consecutive_delete_failures : int
            After so many failures in a row the collection gives up.
        max_concurrent_listings : int, optional
            How many folders are listed at once, all by default.
        """
        from icechunk.ops import gc
        from icechunk.ops.progress import terminal_progress

        if not dry_run:
            self._require_writable_storage("collect garbage")
        return await gc.collect(
            self._core.refs,
            self._core.storage,
            delete_object_older_than,
            dry_run=dry_run,
            limits=_limits(
                max_snapshots_in_memory,
                max_concurrent_manifest_fetches,
                max_compressed_manifest_mem_bytes,
                max_decoded_manifest_mem_bytes,
            ),
            max_concurrent_deletes=max_concurrent_deletes,
            max_consecutive_delete_failures=max_consecutive_delete_failures,
            max_concurrent_listings=max_concurrent_listings,
            progress=terminal_progress(),
        )

    garbage_collect = blocking(garbage_collect_async)

    def _require_writable_storage(self, doing: str) -> None:
        if self._core.storage.read_only:
            raise ReadOnlyError(
                f"cannot {doing}: the storage used by this Icechunk repository is read-only",
                ErrorKind.READ_ONLY_STORAGE,
            )

    # --- statistics -------------------------------------------------------------------------------------------------

    async def chunk_storage_stats_async(
        self,
        *,
        max_snapshots_in_memory: int = 50,
        max_compressed_manifest_mem_bytes: int = 512 * 1024 * 1024,
        max_decoded_manifest_mem_bytes: int = 4 * 1024 * 1024 * 1024,
        max_concurrent_manifest_fetches: int = 500,
    ) -> ChunkStorageStats:
        """How many bytes the chunks of all snapshots take, each object counted once."""
        from icechunk.ops import stats
        from icechunk.ops.progress import terminal_progress

        return await stats.chunk_storage_stats(
            self._core.refs,
            self._core.storage,
            limits=_limits(
                max_snapshots_in_memory,
                max_concurrent_manifest_fetches,
                max_compressed_manifest_mem_bytes,
                max_decoded_manifest_mem_bytes,
            ),
            progress=terminal_progress(),
        )

    chunk_storage_stats = blocking(chunk_storage_stats_async)

    async def total_chunks_storage_async(
        self,
        *,
        max_snapshots_in_memory: int = 50,
        max_compressed_manifest_mem_bytes: int = 512 * 1024 * 1024,
        max_decoded_manifest_mem_bytes: int = 4 * 1024 * 1024 * 1024,
        max_concurrent_manifest_fetches: int = 500,
    ) -> int:
        """Bytes of all native chunks; `chunk_storage_stats` tells more."""
        warnings.warn(
            "total_chunks_storage is deprecated, use chunk_storage_stats instead", DeprecationWarning, stacklevel=3
        )
        found = await self.chunk_storage_stats_async(
            max_snapshots_in_memory=max_snapshots_in_memory,
            max_compressed_manifest_mem_bytes=max_compressed_manifest_mem_bytes,
            max_decoded_manifest_mem_bytes=max_decoded_manifest_mem_bytes,
            max_concurrent_manifest_fetches=max_concurrent_manifest_fetches,
        )
        return found.native_bytes

    total_chunks_storage = blocking(total_chunks_storage_async)

    # --- looking inside -----------------------------------------------------------------------------------------------

    async def check_virtual_access_async(
        self,
        branch: str | None = None,
        *,
        tag: str | None = None,
        snapshot_id: str | None = None,
        max_manifests: int = 1000,
    ) -> VirtualAccessReport:
        """Whether the virtual chunks of a snapshot can be read: tries one object per virtual chunk container.

        Looks at the branch `main` unless told otherwise, and at no more than `max_manifests` manifests to find a reference
        to each container. Nothing that goes wrong with an object raises; the report says it, and `report.ok` sums it up.
        """
        from icechunk.ops.virtual_check import check_access

        if branch is None and tag is None and snapshot_id is None:
            branch = "main"
        found = await self._resolve(branch, tag, snapshot_id)
        return await check_access(self._core, found, max_manifests)

    check_virtual_access = blocking(check_virtual_access_async)

    async def list_manifest_files_async(self, snapshot_id: str) -> list[ManifestFileInfo]:
        """The manifests of a snapshot: ids, sizes in bytes, and how many chunk references each holds."""
        snapshot = await self._core.assets.snapshot(parse_snapshot_id(snapshot_id))
        return [ManifestFileInfo(format_id(file.id), file.size, file.count) for file in snapshot.manifest_files()]

    list_manifest_files = blocking(list_manifest_files_async)

    async def inspect_snapshot_async(self, snapshot_id: str, *, pretty: bool = True) -> dict[str, Any]:
        """A snapshot file as plain values."""
        from icechunk.ops import inspect

        return await inspect.inspect_snapshot(self._core.storage, parse_snapshot_id(snapshot_id))

    inspect_snapshot = blocking(inspect_snapshot_async)

    async def inspect_manifest_async(self, manifest_id: str) -> dict[str, Any]:
        """A manifest file as plain values: arrays and counts, not every reference."""
        from icechunk.ops import inspect

        return await inspect.inspect_manifest(self._core.storage, _object_id(manifest_id, "manifest"))

    inspect_manifest = blocking(inspect_manifest_async)

    async def inspect_transaction_log_async(self, snapshot_id: str) -> dict[str, Any]:
        """A transaction log as plain values."""
        from icechunk.ops import inspect

        return await inspect.inspect_transaction_log(
            self._core.refs, self._core.storage, parse_snapshot_id(snapshot_id)
        )

    inspect_transaction_log = blocking(inspect_transaction_log_async)

    async def inspect_repo_info_async(self) -> dict[str, Any]:
        """The repository object as plain values."""
        from icechunk.ops import inspect

        return await inspect.inspect_repo_info(self._core.refs, self._core.storage)

    inspect_repo_info = blocking(inspect_repo_info_async)

    # --- changing how it is stored ------------------------------------------------------------------------------------

    async def rewrite_manifests_async(
        self,
        message: str,
        *,
        branch: str,
        metadata: dict[str, Any] | None = None,
        commit_method: CommitMethod = "new_commit",
    ) -> str:
        """Write all manifests of a branch's tip anew, under the present configuration of splitting and compression.

        Returns the id of the snapshot made of them. `commit_method` says whether it follows the tip or replaces it.
        """
        if commit_method not in ("new_commit", "amend"):
            raise ValueError(f"commit_method is 'new_commit' or 'amend', got {commit_method!r}")
        session = await self.writable_session_async(branch)  # type: ignore[attr-defined]
        rewritten: str = await session._rewrite_manifests(message, metadata, amend=commit_method == "amend")
        return rewritten

    rewrite_manifests = blocking(rewrite_manifests_async)

    async def _upgrade(self, *, dry_run: bool, delete_unused_v1_files: bool, prefetch_concurrency: int | None) -> Self:
        from icechunk.ops import migrate

        core = self._core
        plan = await migrate.upgrade(
            core.refs, dry_run=dry_run, delete_old_files=delete_unused_v1_files, concurrency=prefetch_concurrency
        )
        if dry_run:
            print(plan)
            return self
        config: RepositoryConfig = core.config
        fresh = type(self).__new__(type(self))
        fresh.__setstate__(  # type: ignore[attr-defined]
            {
                "core": RepositoryCore(
                    core.base_storage,
                    config,
                    2,
                    core.authorized,
                    core.default_metadata,
                    virtual_policy=core.virtual_policy,
                    pickles_credentials=core.pickles_credentials,
                ),
                "attribution": getattr(self, "_attribution", None),
            }
        )
        self._core = _Invalidated()  # type: ignore[assignment]
        return fresh


class _Invalidated:
    """Stands in for what an upgraded repository object used to work with."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError(
            "This repository has been invalidated by upgrade_icechunk_repository(). Use the new Repository object "
            "returned by that function instead."
        )


def _limits(snapshots: int, manifests: int, compressed: int, decoded: int) -> Limits:
    from icechunk.ops.survey import Limits

    return Limits(snapshots, manifests, compressed, decoded)


def _object_id(text: str, what: str) -> bytes:
    try:
        return parse_id(text)
    except ValueError as error:
        raise InvalidInputError(f"invalid {what} id: `{text}` ({error})", ErrorKind.INVALID_SNAPSHOT_ID) from None


def _status_of(status: Any) -> RepoStatus:
    return RepoStatus(
        _STATES.get(status.availability, RepoAvailability.read_only), from_microseconds(status.set_at), status.reason
    )


async def _public_updates(updates: AsyncIterator[Any]) -> AsyncIterator[Update]:
    async for update in updates:
        yield Update(_public_kind(update.kind), from_microseconds(update.at), update.backup)


def _public_kind(kind: Any) -> UpdateType:
    variant = getattr(UpdateType, type(kind).__name__)
    values = [getattr(kind, name) for name in kind.__dataclass_fields__]
    if type(kind).__name__ == "RepoMigrated":
        values = [SpecVersion(value) for value in values]
    made: UpdateType = variant(*map(_public_value, values))
    return made


def _public_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return format_id(value)
    if hasattr(value, "availability"):
        return _status_of(value)
    return value
