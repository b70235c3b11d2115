"""Sessions: a snapshot to read, changes to make, and a branch to publish them on.

A session is bound to its snapshot; what others commit later it never sees. A writable session collects changes in its
workspace and publishes them with `commit`, by moving its branch from the snapshot it started from to a new one. When
somebody else moved the branch first nothing is lost: `rebase` puts the changes on top of theirs, if they do not
contradict each other.
"""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from icechunk import moves
from icechunk._driver import blocking, run
from icechunk.checks import integer, mapping, unicode_text
from icechunk.config import RepositoryConfig
from icechunk.conflicts import ConflictSolver
from icechunk.core import RepositoryCore, new_workspace
from icechunk.errors import (
    ErrorKind,
    NoChangesToCommitError,
    ReadOnlyError,
    SessionStateError,
)
from icechunk.format.chunk_ref import Inline, Native
from icechunk.format.chunk_table import VIRTUAL
from icechunk.format.ids import format_id
from icechunk.format.node_path import parse_path
from icechunk.format.values import to_json_domain
from icechunk.history import status_diff
from icechunk.info import ChunkType, Diff, SessionMode
from icechunk.workspace import Mode, Workspace

if TYPE_CHECKING:
    from icechunk.publishing import Publisher
    from icechunk.store import IcechunkStore

__all__ = ["ForkSession", "IcechunkStore", "MergeOverlapWarning", "Session"]


def __getattr__(name: str) -> Any:
    if name == "IcechunkStore":  # loads zarr, so not before somebody asks
        from icechunk.store import IcechunkStore

        return IcechunkStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_PICKLING = (
    "You must opt-in to pickle writable sessions in a distributed context using Session.fork(). If you are using "
    "xarray's `Dataset.to_zarr` or `DataTree.to_zarr` with dask, use `icechunk.xarray.to_icechunk` instead."
)


class MergeOverlapWarning(UserWarning):
    """Merged sessions wrote the same chunks; what the last of them wrote stands."""


class Session:
    """A view of a repository at one snapshot; get one from `Repository.readonly_session` or `writable_session`.

    Attributes
    ----------
    snapshot_id : str
        The snapshot that is read and, in a writable session, built upon.
    branch : str or None
        The branch that a commit moves; None for sessions that cannot commit.
    """

    _is_fork: ClassVar[bool] = False

    def __init__(self, session: Any, core: RepositoryCore | None = None, branch: str | None = None) -> None:
        if not isinstance(session, Workspace) or core is None:
            raise TypeError("sessions are made by a repository: use `repo.readonly_session` or `repo.writable_session`")
        self._workspace: Workspace = session
        self._core = core
        self._branch = branch
        self._made_for_forks: tuple[int, bytes] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Session) and other._workspace is self._workspace

    __hash__ = None  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        workspace = self._workspace
        if workspace.mode is not Mode.READ_ONLY and not self._is_fork:
            raise ValueError(_PICKLING)
        with workspace.lock:  # it may be written to while it is being pickled
            state = {
                "core": self._core,
                "snapshot": workspace.snapshot_id,
                "mode": workspace.mode.value,
                "changes": workspace.change_set.copy(),
                "since": workspace.since,
                "forked_from": workspace.forked_from,
                "handed_over": dict(workspace.handed_over),
            }
        if workspace.mode is not Mode.READ_ONLY:
            run(workspace.packs.settle())
        state["first_chunks"] = list(workspace.first_chunks)
        workspace.handed_on = True
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        workspace = new_workspace(
            state["core"],
            state["snapshot"],
            Mode(state["mode"]),
            is_fork=self._is_fork,
            change_set=state["changes"],
        )
        workspace.first_chunks += state["first_chunks"]
        workspace.since = state["since"]
        workspace.forked_from, workspace.handed_over = state["forked_from"], state["handed_over"]
        # a fork's changes belong to whoever merges them; a copy that is dropped loses nothing
        workspace.handed_on = True
        self.__init__(workspace, state["core"])  # type: ignore[misc]

    def __repr__(self) -> str:
        from icechunk.display import session_repr

        return session_repr(self)

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        from icechunk.display import session_html

        return session_html(self)

    # --- what it is ------------------------------------------------------------------------------------------------

    @property
    def read_only(self) -> bool:
        """Whether changes are refused: from the start, or since the commit."""
        return self._workspace.mode is Mode.READ_ONLY

    @property
    def mode(self) -> SessionMode:
        """Whether the session reads, writes or rearranges."""
        return SessionMode[self._workspace.mode.value]

    @property
    def snapshot_id(self) -> str:
        """The snapshot this session is based on; after a commit, the new one."""
        return format_id(self._workspace.snapshot_id)

    @property
    def branch(self) -> str | None:
        """The branch that a commit moves, None where there is none."""
        return None if self.read_only else self._branch

    @property
    def has_uncommitted_changes(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self._workspace.change_set)

    @property
    def config(self) -> RepositoryConfig:
        """A copy of the repository's configuration, as `Repository.config`."""
        return self._core.shown_config()

    @property
    def store(self) -> IcechunkStore:
        """The zarr store that reads and writes this session."""
        from icechunk.store import IcechunkStore

        return IcechunkStore(self)

    def status(self) -> Diff:
        """What was changed and not committed."""
        return self._status()

    async def status_async(self) -> Diff:
        """What was changed and not committed."""
        view = await self._workspace.view()
        with self._workspace.lock:
            return status_diff(view.change_set, view.snapshot)

    _status = blocking(status_async)

    def discard_changes(self) -> None:
        """Forget everything that was changed and not committed; the session stays writable."""
        self._workspace.discard()

    # --- looking into it ------------------------------------------------------------------------------------------

    async def chunk_coordinates(self, array_path: str, batch_size: int = 1000) -> AsyncIterator[tuple[int, ...]]:
        """The coordinates of every chunk of an array that was ever written."""
        table = await self._workspace.chunk_table(await self._workspace.array(parse_path(array_path)))
        for start in range(0, len(table), max(batch_size, 1)):
            for coords in table.coords[start : start + batch_size].tolist():
                yield tuple(coords)

    async def chunk_type_async(self, array_path: str, chunk_coordinates: Sequence[int]) -> ChunkType:
        """Where one chunk is kept: nowhere (uninitialized), in the manifest, in an object, or in a foreign file."""
        node = await self._workspace.array(parse_path(array_path))
        ref = await self._workspace.chunk_ref(node, tuple(chunk_coordinates))
        if ref is None:
            return ChunkType.uninitialized
        if isinstance(ref, Inline):
            return ChunkType.inline
        return ChunkType.native if isinstance(ref, Native) else ChunkType.virtual

    chunk_type = blocking(chunk_type_async)

    async def all_virtual_chunk_locations_async(self) -> list[str]:
        """The URL of every virtual chunk, one per chunk, so with repetitions."""
        view = await self._workspace.view()
        found: list[str] = []
        for node in view.nodes():
            if node.is_array:
                table = await self._workspace.chunk_table(node)
                if table.location_text is not None:
                    distinct = table.location_text.distinct
                    found += [distinct[code] for code in table.location_text.codes[table.kind == VIRTUAL].tolist()]
        return found

    all_virtual_chunk_locations = blocking(all_virtual_chunk_locations_async)

    async def get_node_id_async(self, path: str) -> str:
        """The id of a node, which stays the same for as long as the node lives."""
        return format_id((await self._workspace.node(parse_path(path))).id)

    get_node_id = blocking(get_node_id_async)

    # --- rearranging ------------------------------------------------------------------------------------------------

    async def move_async(self, from_path: str, to_path: str) -> None:
        """Move a node, with everything below it, to another path. Only rearrange sessions move."""
        await self._workspace.move_node(from_path, to_path)

    move = blocking(move_async)

    async def shift_array_async(self, array_path: str, chunk_offset: Sequence[int]) -> None:
        """Shift all chunks of an array by whole chunks, without moving any bytes.

        Chunks that leave the grid are dropped; positions that nothing was shifted to read as the fill value.
        """
        await self._rechunk(array_path, lambda node, table: moves.shift(node, table, chunk_offset))

    shift_array = blocking(shift_array_async)

    async def reindex_array_async(
        self,
        array_path: str,
        forward: Callable[[Sequence[int]], Iterable[int] | None],
        backward: Callable[[Sequence[int]], Iterable[int] | None] | None = None,
    ) -> None:
        """Give every chunk of an array the index that `forward` returns for its present one.

        Where `forward` returns None a chunk stays. With `backward`, the inverse, positions from which a chunk went away
        and to which none came are cleared; without it the chunk is found at both.
        """
        await self._rechunk(array_path, lambda node, table: moves.reindex(node, table, forward, backward))

    reindex_array = blocking(reindex_array_async)

    async def _rechunk(self, array_path: str, plan: Callable[[Any, Any], tuple[Any, Any]]) -> None:
        workspace = self._workspace
        workspace.check_editable()
        node = await workspace.array(parse_path(array_path))
        table, gone = plan(node, await workspace.chunk_table(node))
        await workspace.replace_chunks(node, table, gone)

    # --- publishing -------------------------------------------------------------------------------------------------

    async def commit_async(
        self,
        message: str,
        metadata: dict[str, Any] | None = None,
        rebase_with: ConflictSolver | None = None,
        rebase_tries: int = 1_000,
        allow_empty: bool = False,
    ) -> str:
        """Publish the changes of this session as a new snapshot of its branch.

        Parameters
        ----------
        message : str
            What the commit is about.
        metadata : dict, optional
            Properties of the snapshot: anything JSON can hold.
        rebase_with : ConflictSolver, optional
            When somebody else committed first, put the changes on top of theirs with this solver and try again.
        rebase_tries : int
            How often to do so.
        allow_empty : bool
            Whether to commit although nothing was changed.

        Returns
        -------
        str
            The id of the new snapshot. The session is read-only from then on.

        Raises
        ------
        ConflictError
            Somebody else committed first; the session keeps its changes and can be rebased.
        RebaseFailedError
            The solver could not put the changes on top of theirs.
        NoChangesToCommitError
            Nothing was changed.
        """
        branch = self._committable(allow_empty)
        properties = self._properties(message, metadata)
        if rebase_with is not None:
            _check_solver(rebase_with)
        integer(rebase_tries, "rebase_tries", bits=64)
        return await self._publisher().commit(branch, message, properties, rebase_with, rebase_tries)

    commit = blocking(commit_async)

    async def amend_async(
        self, message: str, *, metadata: dict[str, Any] | None = None, allow_empty: bool = False
    ) -> str:
        """Replace the tip of the branch by a snapshot that holds its changes and those of this session.

        The history does not get longer. Returns the id of the new snapshot; conflicts are as for `commit`.
        """
        branch = self._committable(allow_empty)
        properties = self._properties(message, metadata)
        return await self._publisher().amend(branch, message, properties)

    amend = blocking(amend_async)

    async def flush_async(self, message: str, metadata: dict[str, Any] | None = None) -> str:
        """Write the changes as a snapshot that is on no branch; the session becomes read-only on it.

        The snapshot can be read by its id, and a branch can be created at it or reset to it.
        """
        return await self._publisher().flush(message, self._properties(message, metadata))

    flush = blocking(flush_async)

    async def _rewrite_manifests(self, message: str, metadata: dict[str, Any] | None, *, amend: bool) -> str:
        """Publish a snapshot that differs from this one only in how its manifests are split and written."""
        assert self._branch is not None
        properties = self._properties(message, metadata)
        return await self._publisher().rewrite_manifests(self._branch, message, properties, amend=amend)

    def _publisher(self) -> Publisher:
        from icechunk.publishing import Publisher  # with all that writes files, which who only reads never needs

        return Publisher(self._core, self._workspace)

    def _committable(self, allow_empty: bool) -> str:
        if self.read_only or self._branch is None:
            raise SessionStateError(
                "cannot commit: Read only sessions cannot modify the repository; open a new one with "
                "`repo.writable_session(branch)`",
                ErrorKind.COMMIT_NOT_ALLOWED,
            )
        if not allow_empty and not self.has_uncommitted_changes:
            raise NoChangesToCommitError()
        return self._branch

    def _properties(self, message: str, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
        unicode_text(message, "message")
        given = to_json_domain({} if metadata is None else mapping(metadata, "metadata"))
        return {**self._core.default_metadata, **given}

    async def rebase_async(self, solver: ConflictSolver) -> None:
        """Put the changes of this session on top of what was committed to its branch meanwhile.

        Raises `RebaseFailedError` at the first snapshot with which the changes conflict in a way that `solver` does not
        settle; the session then stands on the last snapshot before it, with its changes.
        """
        _check_solver(solver)
        if self.read_only or self._branch is None:
            raise SessionStateError(
                "cannot rebase: Read only sessions cannot modify the repository; open one with "
                "`repo.writable_session(branch)`",
                ErrorKind.COMMIT_NOT_ALLOWED,
            )
        await self._publisher().rebase(self._branch, solver)

    rebase = blocking(rebase_async)

    # --- working together -------------------------------------------------------------------------------------------

    async def fork_async(self) -> ForkSession:
        """A session for a worker: it can be pickled, written to, and merged back into this one.

        What is uncommitted here is written to storage first, as a snapshot nobody else knows, so that the fork sees it.
        Pickling the fork later stores those of its small chunks that are still in memory.
        """
        workspace = self._workspace
        if workspace.mode is Mode.READ_ONLY:
            raise SessionStateError(
                "You should not need to fork a read-only session. Read-only sessions can be pickled and transmitted "
                "directly.",
                ErrorKind.CANNOT_FORK_READ_ONLY_SESSION,
            )
        if workspace.mode is Mode.REARRANGE:
            raise SessionStateError(
                "a rearrange session cannot be forked; commit it, and fork a writable session",
                ErrorKind.REARRANGE_SESSION_ONLY,
            )
        fork = new_workspace(self._core, await self._to_fork(), Mode.EDIT, is_fork=True)
        fork.since, fork.forked_from = workspace.since, workspace.snapshot_id
        if fork.snapshot_id == workspace.snapshot_id:
            fork.forked_from = workspace.forked_from
        return ForkSession(fork, self._core)

    async def _to_fork(self) -> bytes:
        """The snapshot for a fork: the session's own, or one that has its changes; that one serves until there are more."""
        workspace = self._workspace
        await workspace.load()
        base, changes, edition = workspace.copy_changes()
        if not changes:
            return base.id
        made = self._made_for_forks
        if made is None or made[0] != edition:
            draft = await self._core.commit_writer().write(
                base, changes, message="uncommitted changes of a session that was forked", metadata={}
            )
            await workspace.packs.settle()
            made = self._made_for_forks = edition, draft.record.id
        return made[1]

    fork = blocking(fork_async)

    async def merge_async(self, *others: Session) -> None:
        """Take over the changes of forks of this session: of all that are given, or of none.

        Where a fork wrote a chunk that was written since it was made, by another fork or by the session itself, the last
        one given wins, and a `MergeOverlapWarning` says which chunks.

        Raises `SessionStateError` (merge-failed) for changes that cannot be combined: an array deleted on one side and
        written on the other, or given another data type or codecs; different nodes at one path; and, when the session
        was rebased since, what others have committed. The session is then as it was.
        """
        workspace = self._workspace
        if workspace.mode is Mode.READ_ONLY:
            raise _read_only()
        for other in others:
            self._check_mergeable(other)
        from icechunk.merging import merge_workspaces

        for overlaps in filter(None, await merge_workspaces(workspace, [other._workspace for other in others])):
            warnings.warn(
                f"merged sessions wrote the same things; what the last one wrote stands for {overlaps}",
                MergeOverlapWarning,
                stacklevel=4,
            )

    merge = blocking(merge_async)

    def _check_mergeable(self, other: Session) -> None:
        if not isinstance(other, Session):
            raise TypeError(
                "Sessions can only be merged with a ForkSession created with Session.fork(). Received "
                f"{type(other).__name__} instead."
            )
        if other._workspace is self._workspace:
            raise SessionStateError("cannot merge a session with itself", ErrorKind.MERGE_NOT_ALLOWED)
        if other._workspace.mode is Mode.REARRANGE:
            raise SessionStateError("a rearrange session cannot be merged; commit it", ErrorKind.MERGE_NOT_ALLOWED)

    def allow_pickling(self) -> Any:
        """Not needed any more: pickle a fork instead."""
        raise RuntimeError("Session.allow_pickling was removed; use Session.fork() and pickle the fork")


class ForkSession(Session):
    """A part of a session for a worker: it travels by pickle, is written to, and is merged back by the session."""

    _is_fork: ClassVar[bool] = True

    async def commit_async(
        self,
        message: str,
        metadata: dict[str, Any] | None = None,
        rebase_with: ConflictSolver | None = None,
        rebase_tries: int = 1_000,
        allow_empty: bool = False,
    ) -> str:
        """Not possible: merge the fork into the session it came from, and commit that."""
        raise SessionStateError(
            "Cannot commit a fork of a Session. If you are using uncooperative writes, merge the fork into the session "
            "it came from with `session.merge(fork)`, and commit that session",
            ErrorKind.COMMIT_NOT_ALLOWED,
        )

    commit = blocking(commit_async)

    async def amend_async(
        self, message: str, *, metadata: dict[str, Any] | None = None, allow_empty: bool = False
    ) -> str:
        """Not possible: merge the fork into the session it came from, and amend with that."""
        return await self.commit_async(message)

    amend = blocking(amend_async)

    async def flush_async(self, message: str, metadata: dict[str, Any] | None = None) -> str:
        """Not possible: merge the fork into the session it came from, and flush that."""
        return await self.commit_async(message)

    flush = blocking(flush_async)

    def _check_mergeable(self, other: Session) -> None:
        if not isinstance(other, ForkSession):
            raise SessionStateError(
                "cannot merge a branch session into a fork session, only fork sessions can be merged into a fork. "
                f"Received {type(other).__name__} instead.",
                ErrorKind.MERGE_NOT_ALLOWED,
            )
        super()._check_mergeable(other)


def _check_solver(solver: object) -> None:
    if not isinstance(solver, ConflictSolver):
        raise TypeError(
            f"a solver is a ConflictSolver such as icechunk.ConflictDetector(), got {type(solver).__name__}"
        )


def _read_only() -> ReadOnlyError:
    return ReadOnlyError(
        "this session is read-only; open one with `repo.writable_session(branch)`", ErrorKind.READ_ONLY_SESSION
    )
