"""Branches, tags, configuration and history: everything of a repository that can change after being written.

`base` is the protocol, `ref_files` its form in spec 1, `repo_file` in spec 2. Here it is decided which of them is in
front of us.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk._driver import gather
from icechunk.config import to_stored
from icechunk.errors import PreconditionFailedError
from icechunk.format.ids import INITIAL_SNAPSHOT_ID
from icechunk.format.repo_info import RepoInfo, SnapshotRecord
from icechunk.format.snapshot import Snapshot, encode_initial_snapshot
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
from icechunk.refs.ref_files import (
    CONFIG,
    REPO_OBJECT,
    RefFiles,
    branch_path,
    encode_ref,
    put_surely,
    read_or_none,
    require_writable_storage,
)
from icechunk.refs.repo_file import RepoFile
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
    older.config_was(config)
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


async def create_refs(
    context: Context, spec: int, *, config: RepositoryConfig | None = None, check_clean_root: bool = True
) -> RefStore:
    """Create a repository: an empty first snapshot, and `main` at it. `config` is stored unless None.

    Raises `InvalidInputError` when something is there already; of several that create at once, one succeeds.
    """
    require_writable_storage(context.storage)
    if check_clean_root:
        clean = await context.storage.is_empty()
    else:
        clean = await find_spec(context.storage) is None
    if not clean:
        raise not_clean()
    at = context.now()
    data = encode_initial_snapshot(spec, at)
    try:
        return await (_create_repo_file if spec == 2 else _create_ref_files)(context, data, at, config)
    except PreconditionFailedError as error:
        raise not_clean() from error


async def _create_ref_files(context: Context, data: bytes, at: int, config: RepositoryConfig | None) -> RefStore:
    refs = RefFiles(context)
    refs.config_was(None)
    await context.files.write_snapshot(INITIAL_SNAPSHOT_ID, data, 1)
    await put_surely(context.storage, branch_path(MAIN), encode_ref(INITIAL_SNAPSHOT_ID), ABSENT, "application/json")
    if config is not None:
        await refs.save_config(config)
    return refs


async def _create_repo_file(context: Context, data: bytes, at: int, config: RepositoryConfig | None) -> RefStore:
    snapshot = Snapshot.decode(data, "initial snapshot")
    log = TransactionLog(INITIAL_SNAPSHOT_ID).encode(2, context.level)
    await gather(
        context.files.write_snapshot(INITIAL_SNAPSHOT_ID, data, 2),
        context.files.write_transaction_log(INITIAL_SNAPSHOT_ID, log, 2),
        limit=context.width,
    )
    record = SnapshotRecord(snapshot.id, None, snapshot.flushed_at, snapshot.message, snapshot.metadata)
    info = RepoInfo.initial(record, at)
    if config is not None:
        info = info.with_config(to_stored(config))
    encoded = info.encode(context.level)
    version = await put_surely(context.storage, REPO_OBJECT, encoded, ABSENT)
    refs = RepoFile(context)
    refs.stand_was(encoded, version)
    return refs
