"""Publishing: what is in a workspace becomes a snapshot, and a branch is moved to it.

`Publisher` carries out `commit`, `amend`, `flush` and the rewriting of manifests for a session. All go the same way: write
the files of a snapshot, which nothing refers to yet; publish it with one conditional write; make the workspace read-only on
it. Whoever loses a race for a branch rebases, if told how, and tries again. While this goes on the workspace is sealed, so
that nothing can be written that the snapshot would miss.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeAlias

from icechunk._dataclass import dataclass
from icechunk._driver import gather, pause, unbroken
from icechunk.commit import CommitWriter, Draft, log_of
from icechunk.config.stored import split_sizes_to_stored
from icechunk.conflicts import ConflictSolver
from icechunk.core import RepositoryCore
from icechunk.errors import ConflictError, ErrorKind, SessionStateError
from icechunk.format.ids import format_id
from icechunk.format.repo_info import SnapshotRecord
from icechunk.format.transaction_log import TransactionLog
from icechunk.history import merge_logs
from icechunk.rebase import rebase
from icechunk.refs.base import CollectionRan, Prepared, Publication
from icechunk.workspace import Mode, Workspace
from icechunk.written_chunks import check_written_chunks

Properties: TypeAlias = dict[str, Any]
"""What a snapshot says about itself: anything JSON can hold."""

Written: TypeAlias = tuple[Publication, Prepared | None]

_REMOTE = 16
"""Requests worth having under way from which on round trips, not bytes, are what storage costs."""

_LONG = 60_000_000
"""Microseconds after which a session may have met a collection, where those leave no trace."""

_MOST_TURNS = 15
"""For as many attempts of others, at most, who lost a race waits before the next one."""


@dataclass(frozen=True, slots=True)
class Publisher:
    """Publishes the changes of one workspace in the repository of `core`."""

    core: RepositoryCore
    workspace: Workspace

    async def commit(
        self, branch: str, message: str, properties: Properties, solver: ConflictSolver | None, tries: int
    ) -> str:
        """Publish a snapshot on top of `branch`; returns its id.

        With a solver a lost race is followed by a rebase and another attempt, up to `tries` times; without one
        `ConflictError` is raised. It is raised too when there are no tries left.
        """
        workspace, writer = self.workspace, self.core.commit_writer()
        done = 0
        workspace.seal()
        try:
            while True:
                began = time.monotonic()
                attempts = None if solver is None else done
                once = partial(self._commit_once, writer, branch, message, properties, attempts)
                try:
                    return await self._publish(writer, once)
                except ConflictError as lost:
                    if lost.kind != ErrorKind.COMMIT_CONFLICT or solver is None or done >= tries:
                        raise
                await pause(_wait_after(done, time.monotonic() - began))
                await self._rebase(branch, solver)
                done += 1
        finally:
            workspace.unseal()

    async def _commit_once(
        self, writer: CommitWriter, branch: str, message: str, properties: Properties, attempts: int | None
    ) -> tuple[Publication, Prepared]:
        """Write a commit; `attempts` is how often it was rebased, None where it would not be."""
        base = await self.workspace.load()
        if attempts is not None and self.core.spec > 1:
            own = properties.get("__icechunk")
            properties = properties | {
                "__icechunk": {**(own if isinstance(own, dict) else {}), "rebase_attempts": attempts}
            }

        async def write() -> Draft:
            return await writer.write(base, self.workspace.change_set, message=message, metadata=properties)

        draft, prepared = await self._write_and_prepare(write, branch, ahead=not attempts)
        return Publication("commit", draft.record, branch, base.id), prepared

    async def amend(self, branch: str, message: str, properties: Properties) -> str:
        """Replace the tip of `branch` by a snapshot that holds its changes and those of the workspace."""
        core, workspace, writer = self.core, self.workspace, self.core.commit_writer()
        workspace.seal()
        try:
            base = await workspace.load()
            replaced = await self._to_amend(base.id)
            ours = log_of(base.id, base, workspace.change_set, core.spec)
            log = merge_logs(await core.assets.transaction_log(base.id), ours)

            async def write() -> Draft:
                return await writer.write(
                    base, workspace.change_set, message=message, metadata=properties, log=log, parent=replaced
                )

            async def amended() -> tuple[Publication, Prepared]:
                draft, prepared = await self._write_and_prepare(write, branch, ahead=True)
                return Publication("amend", draft.record, branch, base.id, base.id), prepared

            return await self._publish(writer, amended)
        finally:
            workspace.unseal()

    async def flush(self, message: str, properties: Properties) -> str:
        """Publish a snapshot that is on no branch."""
        workspace = self.workspace
        if workspace.mode is not Mode.READ_ONLY:
            workspace.seal()
        try:
            base = await workspace.load()
            await self.core.refs.ensure_writable("cannot flush")
            writer = self.core.commit_writer()

            async def detached() -> tuple[Publication, None]:
                draft = await writer.write(base, workspace.change_set, message=message, metadata=properties)
                return Publication("detached", draft.record), None

            return await self._publish(writer, detached)
        finally:
            workspace.unseal()

    async def rewrite_manifests(self, branch: str, message: str, properties: Properties, *, amend: bool) -> str:
        """Publish a snapshot that differs from the present one only in how its manifests are split and written."""
        core, workspace = self.core, self.workspace
        splitting = {"splitting_config": split_sizes_to_stored(core.effective.splitting)}
        properties = {**properties, **(splitting if core.spec == 1 else {"__icechunk": splitting})}
        base = await workspace.load()
        log: TransactionLog | None = None
        replaced = None
        if amend:
            replaced = await self._to_amend(base.id)
            log = await core.assets.transaction_log(base.id)
        writer = core.commit_writer()

        async def rewritten() -> tuple[Publication, Prepared]:
            prepared = await core.refs.prepare(branch)
            draft = await writer.write(
                base, workspace.change_set, message=message, metadata=properties, log=log, parent=replaced, rewrite=True
            )
            kind: Literal["amend", "commit"] = "amend" if amend else "commit"
            return Publication(kind, draft.record, branch, base.id, base.id if amend else None), prepared

        return await self._publish(writer, rewritten)

    async def rebase(self, branch: str, solver: ConflictSolver) -> None:
        """Put the changes on top of what was committed to `branch` meanwhile."""
        self.workspace.seal()
        try:
            await self._rebase(branch, solver)
        finally:
            self.workspace.unseal()

    async def _rebase(self, branch: str, solver: ConflictSolver) -> None:
        await rebase(self.workspace, self.core.refs, branch, solver, width=self.core.width)

    async def _to_amend(self, base: bytes) -> SnapshotRecord:
        replaced = await self.core.refs.current_record(base)
        if replaced.parent_id is None:
            raise SessionStateError(
                "cannot amend the initial commit of a repository; commit instead",
                ErrorKind.NO_AMEND_FOR_INITIAL_COMMIT,
            )
        return replaced

    # --- one conditional write ----------------------------------------------------------------------------------------

    async def _publish(self, writer: CommitWriter, write: Callable[[], Coroutine[Any, Any, Written]]) -> str:
        """Publish what `write` writes, and end the session with it; returns the id of the new snapshot.

        When a collection ran since the session began, and left the chunks that were written before, all else is written
        anew. Raises `SessionStateError` (chunk-not-found) when it did not leave them.
        """
        refs, workspace = self.core.refs, self.workspace
        if not refs.logs_collections and workspace.since is not None and refs.moment() - workspace.since > _LONG:
            await self._check_written_chunks()
        while True:
            publication, prepared = await self._with_packs(write)
            try:
                await unbroken(self._land(replace(publication, since=workspace.since), prepared))
                return format_id(publication.record.id)
            except CollectionRan as news:
                await self._check_written_chunks()
                workspace.since = news.at
                writer.forget()

    async def _with_packs(self, write: Callable[[], Coroutine[Any, Any, Written]]) -> Written:
        """What `write` writes, once the chunks are stored too that are not yet."""
        packs = self.workspace.packs
        if packs and self.core.width >= _REMOTE:
            written: Written
            _, written = await gather(packs.settle(), write())
            return written
        await packs.settle()
        return await write()

    async def _land(self, publication: Publication, prepared: Prepared | None) -> None:
        """Publish, and become read-only: both or neither, also when the user interrupts it."""
        refs, new = self.core.refs, publication.record.id
        try:
            await refs.publish(publication, prepared)
        except (Exception, GeneratorExit):
            raise
        except BaseException:
            with suppress(Exception):
                if publication.branch is not None and await refs.branch_tip(publication.branch) == new:
                    self.workspace.finish(new)
            raise
        self.workspace.finish(new)

    async def _check_written_chunks(self) -> None:
        workspace = self.workspace
        await workspace.packs.settle()  # what is not stored yet was not collected
        await check_written_chunks(workspace.assets, workspace.first_chunks, workspace.change_set)

    async def _write_and_prepare(
        self, write: Callable[[], Coroutine[Any, Any, Draft]], branch: str, *, ahead: bool
    ) -> tuple[Draft, Prepared]:
        """Write the files of a commit and read where its branch stands: at once where that saves a round trip."""
        refs = self.core.refs
        if ahead and self.core.width >= _REMOTE:
            draft, prepared = await gather(write(), refs.prepare(branch, self.workspace.snapshot_id))
            return draft, prepared
        prepared = await refs.prepare(branch)
        base = self.workspace.snapshot_id
        if prepared.tip != base:
            raise ConflictError(format_id(base), None if prepared.tip is None else format_id(prepared.tip))
        return await write(), prepared


def _wait_after(losses: int, attempt: float) -> float:
    """Seconds to wait after a lost race; `losses` were lost before, and the last attempt took `attempt` seconds.

    Many writers of one branch that all try again at once mostly write for nothing: one of them wins. So whoever loses
    again waits for a random part of the time in which others can finish, which grows with every loss.
    """
    turns: int = min(2**losses - 1, _MOST_TURNS)
    return random.random() * attempt * turns
