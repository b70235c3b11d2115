"""Repositories: where everything begins.

A `Repository` is a storage, a configuration and the refs that live there. It gives out sessions, moves branches, makes
tags, tells history (`chronicle`), and keeps house (`maintenance`). Each verb is written once, as a coroutine; its
synchronous twin stands below it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from icechunk._driver import blocking, blocking_classmethod, blocking_staticmethod, gather
from icechunk.assets import SNAPSHOTS
from icechunk.chronicle import Chronicle
from icechunk.config import RepositoryConfig, StorageSettings
from icechunk.conflicts import ConflictSolver
from icechunk.core import RepositoryCore, new_workspace, ref_context
from icechunk.credentials import AnyCredential, check_authorization
from icechunk.display import Card, Plain, Row, Shown
from icechunk.errors import ErrorKind, InvalidInputError, RepositoryNotFoundError
from icechunk.format.ids import INITIAL_SNAPSHOT_ID, format_id, parse_snapshot_id
from icechunk.format.values import to_json_domain
from icechunk.info import (
    Attribution,
    Diff,
    FeatureFlag,
    GCSummary,
    ManifestFileInfo,
    RepoStatus,
    SnapshotInfo,
    SpecVersion,
    Update,
)
from icechunk.maintenance import Maintenance
from icechunk.ops.times import as_micros
from icechunk.refs import create_refs, find_spec, open_refs
from icechunk.session import Session
from icechunk.storage.base import Storage
from icechunk.virtual_access import Drift, VirtualPolicy, report_unauthorized, warn_caller
from icechunk.workspace import Mode

if TYPE_CHECKING:
    from icechunk.ancestry_graph import AncestryGraph
    from icechunk.store import IcechunkStore

__all__ = [  # Repository, and the names that annotations of others import from here
    "AncestryGraph",
    "AnyCredential",
    "Diff",
    "FeatureFlag",
    "GCSummary",
    "IcechunkStore",
    "ManifestFileInfo",
    "RepoStatus",
    "Repository",
    "SnapshotInfo",
    "Update",
]


def __getattr__(name: str) -> Any:
    if name == "IcechunkStore":  # loads zarr, so not before somebody asks
        from icechunk.store import IcechunkStore

        return IcechunkStore
    if name == "AncestryGraph":
        from icechunk.ancestry_graph import AncestryGraph

        return AncestryGraph
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Repository(Chronicle, Maintenance, Shown):
    """One Icechunk repository; make it with `Repository.create`, `open` or `open_or_create`.

    repo = icechunk.Repository.create(icechunk.local_filesystem_storage("/data/air"))
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="t", data=np.arange(10))
    session.commit("the first ten")
    """

    def __init__(self, repository: Any) -> None:
        if not isinstance(repository, RepositoryCore):
            raise TypeError("use Repository.create, Repository.open or Repository.open_or_create")
        self._core: RepositoryCore = repository
        self._attribution: Attribution | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"core": self._core, "attribution": self._attribution}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._core = state["core"]
        self._attribution = state["attribution"]

    # --- opening -----------------------------------------------------------------------------------------------------

    @classmethod
    async def create_async(
        cls,
        storage: Storage,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: Mapping[str, Any] | None = None,
        spec_version: SpecVersion | int | None = None,
        check_clean_root: bool = True,
        attribution: Attribution | None = None,
        *,
        virtual_drift: Drift = "error",
        anonymous_virtual_access: bool | Collection[str] = False,
    ) -> Self:
        """Create a repository: an empty first snapshot, and the branch `main` at it.

        Parameters
        ----------
        storage : Storage
            Where; nothing may be stored there yet.
        config : RepositoryConfig, optional
            Stored with the repository where it differs from the default.
        authorize_virtual_chunk_access : mapping of URL prefix to credentials, optional
            The virtual chunk containers that may be read, see `containers_credentials`.
        spec_version : SpecVersion or int, optional
            The version of the format, 2 by default; 1 can be read by icechunk 1.x too.
        check_clean_root : bool
            Whether other files at the place are refused.
        attribution : Attribution, optional
            Who works with the repository, for the storage provider's records.
        virtual_drift : "error", "warn" or "ignore"
            What happens when a virtual chunk's object is not what the reference was made from: reading fails, or reads
            what is there now, with a `SourceDriftWarning` or without.
        anonymous_virtual_access : bool or list of URL prefixes
            Virtual chunk containers that may be read without having been authorized, by requests without credentials:
            none, all that are not local, or those below the prefixes.

        Raises
        ------
        InvalidInputError
            Something is stored there already (parent-directory-not-clean).
        """
        spec = _spec(spec_version)
        policy = VirtualPolicy.of(virtual_drift, anonymous_virtual_access).with_given(config)
        core = _core_before_opening(storage, config, authorize_virtual_chunk_access, spec, policy)
        context = ref_context(core.storage, core.assets, core.effective)
        stored = config if config is not None and config != RepositoryConfig.default() else None
        core.__dict__["refs"] = await create_refs(context, spec, config=stored, check_clean_root=check_clean_root)
        if await core.storage.ignores_conditions(SNAPSHOTS + format_id(INITIAL_SNAPSHOT_ID)):
            from icechunk.storage.doctor import UnsafeStorageWarning, without_conditions

            warn_caller(
                "this store ignores the conditions of writes, by which commits are kept apart: writers who commit at the "
                f"same time would overwrite each other's work. Have it changed, or {without_conditions()}; "
                "`storage.doctor()` tells more",
                UnsafeStorageWarning,
            )
        return cls._of(core, attribution)

    create = blocking_classmethod(create_async)

    @classmethod
    async def open_async(
        cls,
        storage: Storage,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: Mapping[str, Any] | None = None,
        attribution: Attribution | None = None,
        *,
        virtual_drift: Drift = "error",
        anonymous_virtual_access: bool | Collection[str] = False,
    ) -> Self:
        """Open the repository at `storage`.

        `config` is laid over the stored one field by field, for this object only; `save_config` stores it. The other
        arguments are those of `create`. Warns of virtual chunk containers that were not authorized
        (`UnauthorizedContainersWarning`). Raises `RepositoryNotFoundError` when there is none.
        """
        policy = VirtualPolicy.of(virtual_drift, anonymous_virtual_access).with_given(config)
        repo = await cls._open(storage, config, authorize_virtual_chunk_access, attribution, policy)
        if repo is None:
            raise RepositoryNotFoundError(
                f"the repository doesn't exist at {place_of(storage)}; make one with `Repository.create`, or check the "
                "bucket, prefix or path",
                ErrorKind.REPOSITORY_NOT_FOUND,
            )
        return repo

    open = blocking_classmethod(open_async)

    @classmethod
    async def open_or_create_async(
        cls,
        storage: Storage,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: Mapping[str, Any] | None = None,
        create_version: SpecVersion | int | None = None,
        check_clean_root: bool = True,
        attribution: Attribution | None = None,
        *,
        virtual_drift: Drift = "error",
        anonymous_virtual_access: bool | Collection[str] = False,
    ) -> Self:
        """Open the repository at `storage`, or create one where there is none.

        Of several processes that do so at once, one creates and all open.
        """
        policy = VirtualPolicy.of(virtual_drift, anonymous_virtual_access).with_given(config)
        repo = await cls._open(storage, config, authorize_virtual_chunk_access, attribution, policy)
        if repo is not None:
            return repo
        try:
            return await cls.create_async(
                storage,
                config,
                authorize_virtual_chunk_access,
                create_version,
                check_clean_root,
                attribution,
                virtual_drift=virtual_drift,
                anonymous_virtual_access=anonymous_virtual_access,
            )
        except InvalidInputError as error:
            if error.kind != ErrorKind.PARENT_DIRECTORY_NOT_CLEAN:
                raise
            repo = await cls._open(storage, config, authorize_virtual_chunk_access, attribution, policy)
            if repo is None:
                raise
            return repo

    open_or_create = blocking_classmethod(open_or_create_async)

    @classmethod
    async def _open(
        cls,
        storage: Storage,
        config: RepositoryConfig | None,
        authorized: Mapping[str, Any] | None,
        attribution: Attribution | None,
        policy: VirtualPolicy,
    ) -> Self | None:
        before = _core_before_opening(storage, config, authorized, 2, policy)
        refs = await open_refs(ref_context(before.storage, before.assets, before.effective))
        if refs is None:
            return None
        stored = await refs.load_config()
        if stored is None:
            core = before.at(refs)
        else:
            merged = stored.merge(before.config)
            core = RepositoryCore(storage, merged, refs.spec, before.authorized, refs=refs, virtual_policy=policy)
            refs.rebind(ref_context(core.storage, core.assets, core.effective))
        if core.effective.virtual_chunk_containers:
            report_unauthorized(core.virtual.unauthorized(), core.virtual.strays())
        return cls._of(core, attribution)

    @classmethod
    def _of(cls, core: RepositoryCore, attribution: Attribution | None = None) -> Self:
        repo = cls(core)
        repo._attribution = attribution
        return repo

    @staticmethod
    async def exists_async(storage: Storage, storage_settings: StorageSettings | None = None) -> bool:
        """Whether there is a repository at `storage`."""
        return await find_spec(_configured(storage, storage_settings)) is not None

    exists = blocking_staticmethod(exists_async)

    @staticmethod
    async def fetch_spec_version_async(
        storage: Storage, storage_settings: StorageSettings | None = None
    ) -> SpecVersion | None:
        """The version of the format of the repository at `storage`, None where there is none."""
        spec = await find_spec(_configured(storage, storage_settings))
        return None if spec is None else SpecVersion(spec)

    fetch_spec_version = blocking_staticmethod(fetch_spec_version_async)

    @staticmethod
    async def fetch_config_async(storage: Storage) -> RepositoryConfig | None:
        """The stored configuration of the repository at `storage`, None where none was ever stored.

        Raises `RepositoryNotFoundError` when there is no repository.
        """
        core = _core_before_opening(storage, None, None, 2)
        refs = await open_refs(ref_context(core.storage, core.assets, core.effective))
        if refs is None:
            raise RepositoryNotFoundError(
                f"the repository doesn't exist at {place_of(storage)}", ErrorKind.REPOSITORY_NOT_FOUND
            )
        return await refs.load_config()

    fetch_config = blocking_staticmethod(fetch_config_async)

    async def reopen_async(
        self,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: Mapping[str, Any] | None = None,
        *,
        virtual_drift: Drift | None = None,
        anonymous_virtual_access: bool | Collection[str] | None = None,
    ) -> Self:
        """The same repository as a new object, with `config` laid over the present one.

        What was authorized stays, unless something is authorized now; what is None stays too.
        """
        policy = self._core.virtual_policy
        policy = VirtualPolicy.of(
            policy.drift if virtual_drift is None else virtual_drift,
            policy.anonymous if anonymous_virtual_access is None else anonymous_virtual_access,
        )
        policy = replace(policy, given=self._core.virtual_policy.given).with_given(config)
        merged = self._core.config if config is None else self._core.config.merge(config)
        authorized = None
        if authorize_virtual_chunk_access is not None:
            authorized = check_authorization(authorize_virtual_chunk_access)
        return self._of(self._core.with_config(merged, authorized, policy), self._attribution)

    reopen = blocking(reopen_async)

    def without_pickled_credentials(self) -> Self:
        """The same repository, whose pickles, and those of its sessions and forks, have no credentials in them.

        In the process that loads such a pickle the credentials of its environment are used, for the storage and for virtual
        chunk containers alike; what is anonymous stays so. Here nothing changes. Headers and options that sound like secrets
        do not travel either.

            repo = repo.without_pickled_credentials()
            fork = repo.writable_session("main").fork()  # may be seen by whoever carries it around

        Raises `ValueError` where secrets cannot be left out: a store that you made yourself, a password in an address.
        """
        return self._of(self._core.without_pickled_credentials(), self._attribution)

    # --- what it is --------------------------------------------------------------------------------------------------

    @property
    def storage(self) -> Storage:
        """Where the repository is."""
        return self._core.base_storage

    @property
    def config(self) -> RepositoryConfig:
        """A copy of the configuration; change it and `reopen` with it.

        Its `storage` has the settings this storage works with, be they set or its defaults.
        """
        return self._core.shown_config()

    @property
    def spec_version(self) -> SpecVersion:
        """The version of the format on disk."""
        return SpecVersion(self._core.spec)

    @property
    def attribution(self) -> Attribution | None:
        """Who works with the repository, as given when it was opened."""
        return self._attribution

    @property
    def authorized_virtual_container_prefixes(self) -> set[str]:
        """The URL prefixes of the virtual chunk containers that may be read."""
        return set(self._core.authorized)

    async def save_config_async(self) -> None:
        """Store the present configuration, for everybody who opens the repository from now on.

        Raises `ConflictError` (config-updated) when somebody else stored another one meanwhile, where the format can tell.
        """
        await self._core.refs.save_config(self._core.config)

    save_config = blocking(save_config_async)

    def default_commit_metadata(self) -> dict[str, Any]:
        """Properties that every commit gets, unless it has its own of that name."""
        return dict(self._core.default_metadata)

    def set_default_commit_metadata(self, metadata: dict[str, Any]) -> None:
        """Set properties that every commit through this object gets."""
        self._core.default_metadata = to_json_domain(dict(metadata))

    def _card(self) -> Card:
        return Card(
            f"icechunk.Repository (v{self._core.spec})",
            [Row("storage", self.storage), Row("config", Plain("<RepositoryConfig ...>"))],
        )

    # --- sessions ------------------------------------------------------------------------------------------------------

    async def readonly_session_async(
        self,
        branch: str | None = None,
        *,
        tag: str | None = None,
        snapshot_id: str | None = None,
        as_of: datetime | None = None,
    ) -> Session:
        """A session that reads one snapshot: the tip of a branch, the target of a tag, or any by its id.

        `as_of`, together with a branch, asks for the newest snapshot that is not younger. Raises `RefNotFoundError`,
        `SnapshotNotFoundError`, and `ValueError` unless exactly one of branch, tag and snapshot id is given.
        """
        if as_of is not None and branch is None:
            raise ValueError("as_of argument must be provided together with a branch name")
        if branch is not None and tag is None and snapshot_id is None and as_of is None:
            return await self._session(await self._tip(branch), Mode.READ_ONLY)
        return await self._session(await self._resolve(branch, tag, snapshot_id, as_of), Mode.READ_ONLY)

    readonly_session = blocking(readonly_session_async)

    async def writable_session_async(self, branch: str) -> Session:
        """A session that can be written to and committed to `branch`. Raises `RefNotFoundError`."""
        refs = self._core.refs
        tip = await self._tip(branch)
        await refs.ensure_writable("Cannot create writable session")
        return await self._session(tip, Mode.EDIT, branch)

    writable_session = blocking(writable_session_async)

    async def rearrange_session_async(self, branch: str) -> Session:
        """A session that can only move nodes, and be committed to `branch`."""
        refs = self._core.refs
        tip = await refs.branch_tip(branch)
        await refs.ensure_writable("Cannot create rearrange session")
        await refs.require_flag("move_node", "create rearrange session")
        return await self._session(tip, Mode.REARRANGE, branch)

    rearrange_session = blocking(rearrange_session_async)

    async def _session(self, snapshot_id: bytes, mode: Mode, branch: str | None = None) -> Session:
        workspace = new_workspace(self._core, snapshot_id, mode)
        workspace.since = self._core.refs.moment()
        await workspace.load()
        return Session(workspace, self._core, branch)

    async def _resolve(
        self, branch: str | None, tag: str | None, snapshot_id: str | None, as_of: datetime | None = None
    ) -> bytes:
        """The snapshot that is meant by exactly one of branch, tag and id; it exists."""
        if sum(given is not None for given in (branch, tag, snapshot_id)) != 1:
            raise ValueError("Must provide one of branch, tag, or snapshot_id")
        refs = self._core.refs
        if branch is not None:
            return await (refs.branch_tip(branch) if as_of is None else refs.find_as_of(branch, as_micros(as_of)))
        if tag is not None:
            return await refs.tag_target(tag)
        assert snapshot_id is not None
        return (await refs.snapshot_record(parse_snapshot_id(snapshot_id))).id

    async def _tip(self, branch: str) -> bytes:
        """Where a branch stands; meanwhile the snapshot at which it stood before is fetched, since it will often be that."""
        core = self._core
        guess = core.refs.remembered_tip(branch)
        if guess is None or core.width <= 1 or not core.assets.can_foresee(guess):
            return await core.refs.branch_tip(branch)
        tip, _ = await gather(core.refs.branch_tip(branch), core.assets.foresee(guess))
        return bytes(tip)

    @contextmanager
    def transaction(
        self,
        branch: str,
        *,
        message: str,
        metadata: dict[str, Any] | None = None,
        rebase_with: ConflictSolver | None = None,
        rebase_tries: int = 1_000,
    ) -> Iterator[IcechunkStore]:
        """A store whose changes are committed when the block ends, and dropped when it raises."""
        session = self.writable_session(branch)
        try:
            yield session.store
        except BaseException:
            if not session.read_only:
                session.discard_changes()
            raise
        session.commit(message, metadata=metadata, rebase_with=rebase_with, rebase_tries=rebase_tries)

    # --- branches and tags -----------------------------------------------------------------------------------------

    async def list_branches_async(self) -> set[str]:
        """The names of all branches."""
        return await self._core.refs.list_branches()

    list_branches = blocking(list_branches_async)

    async def list_tags_async(self) -> set[str]:
        """The names of all tags."""
        return await self._core.refs.list_tags()

    list_tags = blocking(list_tags_async)

    async def lookup_branch_async(self, branch: str) -> str:
        """The id of the snapshot at the tip of a branch. Raises `RefNotFoundError`."""
        return format_id(await self._core.refs.branch_tip(branch))

    lookup_branch = blocking(lookup_branch_async)

    async def lookup_tag_async(self, tag: str) -> str:
        """The id of the snapshot that a tag names. Raises `RefNotFoundError`."""
        return format_id(await self._core.refs.tag_target(tag))

    lookup_tag = blocking(lookup_tag_async)

    async def create_branch_async(self, branch: str, snapshot_id: str) -> None:
        """Make a branch at a snapshot. Raises `AlreadyExistsError`, `SnapshotNotFoundError`."""
        await self._core.refs.create_branch(branch, parse_snapshot_id(snapshot_id))

    create_branch = blocking(create_branch_async)

    async def delete_branch_async(self, branch: str) -> None:
        """Delete a branch; its snapshots stay until they are collected. `main` cannot be deleted."""
        await self._core.refs.delete_branch(branch)

    delete_branch = blocking(delete_branch_async)

    async def reset_branch_async(self, branch: str, snapshot_id: str, *, from_snapshot_id: str | None = None) -> None:
        """Move a branch to any snapshot; with `from_snapshot_id`, only if that is where it stands now.

        Raises `ConflictError` (branch-update-conflict) when it stands elsewhere.
        """
        expected = None if from_snapshot_id is None else parse_snapshot_id(from_snapshot_id)
        await self._core.refs.reset_branch(branch, parse_snapshot_id(snapshot_id), expected)

    reset_branch = blocking(reset_branch_async)

    async def create_tag_async(self, tag: str, snapshot_id: str) -> None:
        """Name a snapshot for ever. A tag cannot be moved, and its name cannot be used again once it is deleted."""
        await self._core.refs.create_tag(tag, parse_snapshot_id(snapshot_id))

    create_tag = blocking(create_tag_async)

    async def delete_tag_async(self, tag: str) -> None:
        """Delete a tag; its name cannot be used again."""
        await self._core.refs.delete_tag(tag)

    delete_tag = blocking(delete_tag_async)


def _spec(version: SpecVersion | int | None) -> int:
    if version is None:
        return 2
    number = int(version)
    if number not in (1, 2):
        raise ValueError(f"Unsupported version {number}; the format has the versions 1 and 2")
    return number


def _configured(storage: Storage, settings: StorageSettings | None) -> Storage:
    _check_storage(storage)
    return storage.with_settings(_settings(storage, settings))


def _settings(storage: Storage, given: StorageSettings | None) -> StorageSettings:
    defaults = storage.default_settings()
    return defaults if given is None else defaults.merge(given)


def _core_before_opening(
    storage: Storage,
    config: RepositoryConfig | None,
    authorized: Mapping[str, Any] | None,
    spec: int,
    policy: VirtualPolicy | None = None,
) -> RepositoryCore:
    _check_storage(storage)
    if config is not None and not isinstance(config, RepositoryConfig):
        raise TypeError(f"config is a RepositoryConfig, got {type(config).__name__}")
    return RepositoryCore(
        storage,
        RepositoryConfig() if config is None else config.copy(),
        spec,
        check_authorization(authorized or {}),
        virtual_policy=policy,
    )


def _check_storage(storage: Storage) -> None:
    if not isinstance(storage, Storage):
        raise TypeError(
            f"storage is an icechunk Storage, got {type(storage).__name__}; make one with for example "
            "icechunk.local_filesystem_storage(path) or icechunk.s3_storage(...); icechunk.open_repository takes URLs and paths"
        )


def place_of(storage: Storage) -> str:
    """Where a storage is, for errors."""
    facts = storage.describe()
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value)
