"""What a repository and its sessions share: where it is, how it is configured, and what may be read.

A `RepositoryCore` is a value that can be pickled. Its helpers (files, refs, virtual chunks) are made on first use, so a
session that arrives in another process costs nothing until it reads.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from icechunk.assets import Assets, AssetSettings
from icechunk.config import EffectiveConfig, RepositoryConfig
from icechunk.config.repository import public_config
from icechunk.config.virtual import public_container
from icechunk.credentials import left_out
from icechunk.format.ids import random_object_id
from icechunk.format.manifest import LocationCompression
from icechunk.format.snapshot import Node
from icechunk.refs import RefStore, refs_for
from icechunk.refs.base import Context, UpdateRetries
from icechunk.splitting import PreloadPolicy, split_edges
from icechunk.storage.base import Storage
from icechunk.virtual import VirtualChunks
from icechunk.virtual_access import VirtualPolicy
from icechunk.workspace import Workspace, WorkspaceSettings

if TYPE_CHECKING:
    from icechunk.commit import CommitWriter


def now() -> int:
    """Microseconds since 1970 (UTC)."""
    return time.time_ns() // 1000


class RepositoryCore:
    """One open repository: its storage, its configuration, and what the user authorized.

    Parameters
    ----------
    base_storage : Storage
        As the user gave it.
    config : RepositoryConfig
        The stored configuration under what the user gave.
    spec : int
        The version of the format on disk.
    authorized : mapping of URL prefix to credentials
        The virtual chunk containers that may be read.
    default_metadata : dict
        Properties for every commit, unless it has its own of that name.
    virtual_policy : VirtualPolicy
        What the user decided for all virtual chunk containers.
    pickles_credentials : bool
        Whether pickles have the credentials in them; where not, they are those of the environment where they are loaded.
    """

    def __init__(
        self,
        base_storage: Storage,
        config: RepositoryConfig,
        spec: int,
        authorized: Mapping[str, Any],
        default_metadata: dict[str, Any] | None = None,
        refs: RefStore | None = None,
        virtual_policy: VirtualPolicy | None = None,
        *,
        pickles_credentials: bool = True,
    ) -> None:
        self.pickles_credentials = pickles_credentials
        self.base_storage = base_storage
        self.config = config
        self.spec = spec
        self.authorized = dict(authorized)
        self.default_metadata = dict(default_metadata or {})
        self.virtual_policy = virtual_policy or VirtualPolicy()
        self.effective: EffectiveConfig = effective_config(config, base_storage)
        if refs is not None:
            self.__dict__["refs"] = refs

    def __reduce__(self) -> tuple[Any, ...]:
        storage, config, authorized, policy = self._travelling()
        plain = (storage, config, self.spec, authorized, self.default_metadata, None, policy)
        return _unpickled, (*plain, self.pickles_credentials)

    def _travelling(self) -> tuple[Storage, RepositoryConfig, dict[str, Any], VirtualPolicy]:
        """What may have secrets in it, as it is pickled. Raises `ValueError` where they cannot be left out."""
        storage, config, authorized, policy = self.base_storage, self.config, self.authorized, self.virtual_policy
        if self.pickles_credentials:
            return storage, config, authorized, policy
        policy = replace(policy, given=tuple(map(public_container, policy.given)))
        authorized = {prefix: left_out(value) for prefix, value in authorized.items()}
        return storage.without_credentials(), public_config(config), authorized, policy

    def at(self, refs: RefStore) -> RepositoryCore:
        """This core, once it is known which refs are there; they were opened under its settings."""
        self.spec = refs.spec
        self.__dict__["refs"] = refs
        return self

    def with_config(
        self,
        config: RepositoryConfig,
        authorized: Mapping[str, Any] | None = None,
        virtual_policy: VirtualPolicy | None = None,
    ) -> RepositoryCore:
        """The same repository under another configuration; what is None stays as it is."""
        core = RepositoryCore(
            self.base_storage,
            config,
            self.spec,
            self.authorized if authorized is None else authorized,
            self.default_metadata,
            virtual_policy=virtual_policy or self.virtual_policy,
            pickles_credentials=self.pickles_credentials,
        )
        core.__dict__["refs"] = self.refs.under(ref_context(core.storage, core.assets, core.effective))
        return core

    def shown_config(self) -> RepositoryConfig:
        """A copy of the configuration whose `storage` has what is in effect, be it set or the default of the backend."""
        config = self.config.copy()
        config.storage = self.effective.storage_settings.copy()
        return config

    def without_pickled_credentials(self) -> RepositoryCore:
        """The same repository, whose pickles have no credentials. Raises `ValueError` where they cannot be left out."""
        twin = RepositoryCore.__new__(RepositoryCore)
        twin.__dict__.update(self.__dict__)  # what was read and connected is shared
        twin.pickles_credentials = False
        twin._travelling()
        return twin

    @cached_property
    def storage(self) -> Storage:
        """The storage under the configured settings."""
        storage = self.base_storage.with_settings(self.effective.storage_settings)
        limit = self.config.max_concurrent_requests
        if limit is None or storage.concurrency <= 1:
            return storage
        from icechunk.storage.limited import LimitedStorage

        return LimitedStorage(storage, max(limit, 1))

    @cached_property
    def assets(self) -> Assets:
        """The immutable files, cached."""
        return Assets(self.storage, asset_settings(self.effective))

    @cached_property
    def refs(self) -> RefStore:
        """Branches, tags and all else that can change."""
        return refs_for(self.spec, ref_context(self.storage, self.assets, self.effective))

    @cached_property
    def virtual(self) -> VirtualChunks:
        """The virtual chunk containers, and which of them may be read."""
        return VirtualChunks(
            self.effective.virtual_chunk_containers,
            self.authorized,
            spec=self.spec,
            settings=self.config.storage,  # not what suits the storage of the repository, which is another
            policy=self.virtual_policy,
        )

    @cached_property
    def workspace_settings(self) -> WorkspaceSettings:
        """What a workspace needs of the configuration."""
        config = self.effective
        packs = self.storage.concurrency > 1 if config.pack_small_chunks is None else config.pack_small_chunks
        return WorkspaceSettings(self.spec, config.inline_chunk_threshold_bytes, packs, PreloadPolicy(config.preload))

    @property
    def width(self) -> int:
        """How many requests are worth having under way at once."""
        return max(1, min(self.storage.concurrency, self.effective.max_concurrent_requests))

    def commit_writer(self) -> CommitWriter:
        """What writes the files of one commit."""
        from icechunk.commit import CommitWriter
        from icechunk.manifest_writer import ManifestSettings

        config = self.effective
        settings = ManifestSettings(
            spec=self.spec,
            level=config.compression_level,
            segmented=config.segmented_metadata,
            location_compression=LocationCompression(*config.location_compression) if self.spec > 1 else None,
        )
        return CommitWriter(self.assets, settings, self._edges, width=self.width, now=now)

    def _edges(self, node: Node) -> tuple[tuple[int, ...], ...]:
        grid = tuple(dimension.chunks for dimension in node.shape)
        return split_edges(node.path, grid, node.dimension_names, self.effective.splitting)


def _unpickled(*plain: Any) -> RepositoryCore:
    *arguments, pickles_credentials = plain
    return RepositoryCore(*arguments, pickles_credentials=pickles_credentials)


_UNSET: WeakKeyDictionary[Storage, EffectiveConfig] = WeakKeyDictionary()
"""What takes effect on a storage where nothing is configured: it is asked for at every opening, and always the same."""


def effective_config(config: RepositoryConfig, storage: Storage) -> EffectiveConfig:
    """The settings as they take effect on this storage."""
    if config != _NOTHING:
        return config.effective(storage.default_settings())
    known = _UNSET.get(storage)
    if known is None:
        known = _UNSET[storage] = _NOTHING.effective(storage.default_settings())
    return known


_NOTHING = RepositoryConfig()


def asset_settings(config: EffectiveConfig) -> AssetSettings:
    """What `Assets` needs of the configuration."""
    caching, storage = config.caching, config.storage
    return AssetSettings(
        cached_nodes=caching.num_snapshot_nodes,
        cached_refs=caching.num_chunk_refs,
        cached_changes=caching.num_transaction_changes,
        cached_chunk_bytes=caching.num_bytes_chunks,
        level=config.compression_level,
        segmented=config.segmented_metadata,
        tag_objects=bool(storage.unsafe_use_metadata),
    )


def ref_context(storage: Storage, assets: Assets, config: EffectiveConfig) -> Context:
    """What the ref stores are given from outside."""
    retries = config.repo_update_retries
    return Context(
        storage=storage,
        files=assets,
        now=now,
        new_id=random_object_id,
        retries=UpdateRetries(retries.max_tries, retries.initial_backoff_ms, retries.max_backoff_ms),
        updates_per_file=config.num_updates_per_repo_info_file,
        level=config.compression_level,
    )


def new_workspace(core: RepositoryCore, snapshot_id: bytes, mode: Any, **state: Any) -> Workspace:
    """A workspace on one snapshot of a repository."""
    return Workspace(core.assets, core.virtual, core.workspace_settings, snapshot_id, mode, **state)
