"""Branches, tags, configuration and history: everything of a repository that can change after being written.

`base` is the protocol, `ref_files` its form in spec 1, `repo_file` in spec 2. Here it is decided which of them is in
front of us.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk._driver import gather
from icechunk.assets import object_metadata
from icechunk.config import to_stored
from icechunk.errors import PreconditionFailedError
from icechunk.format.ids import INITIAL_SNAPSHOT_ID, format_id
from icechunk.format.repo_info import RepoInfo, SnapshotRecord
from icechunk.format.snapshot import Snapshot
from icechunk.format.transaction_log import TransactionLog
from icechunk.refs.base import (
    MAIN,
    Context,
    History,
    HistoryEdit,
    Prepared,
    Publication,
    RefStore,
    UpdateRetries,
    not_clean,
)
from icechunk.refs.ref_content import branch_path, encode_ref
from icechunk.refs.ref_files import (
    CONFIG,
    REPO_OBJECT,
    RefFiles,
    put_surely,
    read_or_none,
    require_writable_storage,
)
from icechunk.refs.repo_file import REPO_FACTS, RepoFile
from icechunk.storage.base import ABSENT, Storage

if TYPE_CHECKING:
    from icechunk.config import RepositoryConfig

__all__ = [
    "MAIN",
    "Context",
    "History",
    "HistoryEdit",
    "Prepared",
    "Publication",
    "RefStore",
    "UpdateRetries",
    "create_refs",
    "find_spec",
    "open_refs",
    "refs_for",
]


async def open_refs(context: Context) -> RefStore | None:
    """The refs of the repository at this storage, None where there is none.

    Where both formats are present, as an upgrade may leave them, the newer one counts.
    """
    storage = context.storage
    if context.width > 1:
        repo, main, config = await gather(
            read_or_none(storage, REPO_OBJECT), read_or_none(storage, branch_path(MAIN)), read_or_none(storage, CONFIG)
        )
    else:
        repo, main, config = await read_or_none(storage, REPO_OBJECT), None, None
        if repo is None:
            main = await read_or_none(storage, branch_path(MAIN))
            config = await read_or_none(storage, CONFIG)
    if repo is not None:
        newer = RepoFile(context)
        newer.stand_was(*repo)
        return newer
    if main is None:
        return None
    older = RefFiles(context)
    older.config_was(config, ahead=True)
    older.stood_at(branch_path(MAIN), *main)
    return older


def refs_for(spec: int, context: Context) -> RefStore:
    """The refs of a repository whose format is known already; nothing is read yet."""
    return RepoFile(context) if spec == 2 else RefFiles(context)


async def find_spec(storage: Storage) -> int | None:
    """The format of the repository at this storage, None where there is none."""
    newer, older = await gather(
        storage.exists(REPO_OBJECT), storage.exists(branch_path(MAIN)), limit=max(storage.concurrency, 1)
    )
    return 2 if newer else 1 if older else None


_FIRST_SNAPSHOT = f"snapshots/{format_id(INITIAL_SNAPSHOT_ID)}"
_FIRST_LOG = f"transactions/{format_id(INITIAL_SNAPSHOT_ID)}"


async def create_refs(
    context: Context, spec: int, *, config: RepositoryConfig | None = None, check_clean_root: bool = True
) -> RefStore:
    """Create a repository: an empty first snapshot, and `main` at it. `config` is stored unless None.

    Raises `InvalidInputError` when something is there already; of several that create at once, one succeeds. The first
    files of a creation that is under way, or was cut off, do not count as something: it can be completed by anybody.
    """
    require_writable_storage(context.storage)
    if not (await _is_clean(context.storage) if check_clean_root else await find_spec(context.storage) is None):
        raise not_clean()
    try:
        snapshot = await _claim(context, spec, replace=not check_clean_root)
        return await (_create_repo_file if spec == 2 else _create_ref_files)(context, snapshot, config)
    except PreconditionFailedError as error:
        raise not_clean() from error


async def _is_clean(storage: Storage) -> bool:
    """Whether nothing stands there but what a creation writes first."""
    async for batch in storage.list():
        if any(info.path not in (_FIRST_SNAPSHOT, _FIRST_LOG) for info in batch):
            return False
    return True


async def _claim(context: Context, spec: int, *, replace: bool) -> Snapshot:
    """The first snapshot: ours, unless somebody who creates the same repository wrote it before us.

    What stands in its place and is none is an obstacle, or is replaced.
    """
    from icechunk.format.snapshot import encode_initial_snapshot

    data = encode_initial_snapshot(spec, context.now())
    try:
        await put_surely(context.storage, _FIRST_SNAPSHOT, data, ABSENT, metadata=object_metadata(spec, "snapshot"))
    except PreconditionFailedError:
        standing, _ = await context.storage.get(_FIRST_SNAPSHOT)
        snapshot = Snapshot.decode(standing, _FIRST_SNAPSHOT)
        if snapshot.spec == spec and not len(snapshot):
            return snapshot
        if not replace:
            raise
        await context.files.write_snapshot(INITIAL_SNAPSHOT_ID, data, spec)
    return Snapshot.decode(data, _FIRST_SNAPSHOT)


async def _create_ref_files(context: Context, snapshot: Snapshot, config: RepositoryConfig | None) -> RefStore:
    refs = RefFiles(context)
    refs.config_was(None)
    await put_surely(context.storage, branch_path(MAIN), encode_ref(snapshot.id), ABSENT, "application/json")
    if config is not None:
        await refs.save_config(config)
    return refs


async def _create_repo_file(context: Context, snapshot: Snapshot, config: RepositoryConfig | None) -> RefStore:
    log = TransactionLog(snapshot.id).encode(2, context.level)
    await context.files.write_transaction_log(snapshot.id, log, 2)
    record = SnapshotRecord(snapshot.id, None, snapshot.flushed_at, snapshot.message, snapshot.metadata)
    info = RepoInfo.initial(record, snapshot.flushed_at)
    if config is not None:
        info = info.with_config(to_stored(config))
    encoded = info.encode(context.level)
    version = await put_surely(context.storage, REPO_OBJECT, encoded, ABSENT, metadata=REPO_FACTS)
    refs = RepoFile(context)
    refs.stand_was(encoded, version)
    return refs
