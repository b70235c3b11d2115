"""The operations log: what happened to a repository, newest entry first (spec 2).

`UpdateLog` is the part of it that one repo object holds. Entries stay bytes until they are looked at; those added since
are values. Each entry but the newest names the copy of the repo object as it was right after it, so where an entry has
to go, that copy is where the rest of the log is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, overload

import numpy as np

from icechunk._dataclass import dataclass
from icechunk.errors import InternalError
from icechunk.flatbuf.columns import Positions, TableColumns
from icechunk.flatbuf.reader import Document, TableView
from icechunk.format.schemas import REPO, UPDATE
from icechunk.format.times import checked_time


@dataclass(frozen=True, slots=True)
class Status:
    """Whether a repository may be changed: 0 online, 1 read-only, 2 offline; since when, and why."""

    availability: int
    set_at: int
    reason: str | None = None


@dataclass(frozen=True)
class UpdateKind:
    """What happened."""


@dataclass(frozen=True)
class RepoInitialized(UpdateKind):
    """The repository was created."""


@dataclass(frozen=True)
class RepoMigrated(UpdateKind):
    """It was brought to another version of the format."""

    from_version: int
    to_version: int


@dataclass(frozen=True)
class ConfigChanged(UpdateKind):
    """The stored configuration was replaced."""


@dataclass(frozen=True)
class MetadataChanged(UpdateKind):
    """The metadata of the repository was replaced."""


@dataclass(frozen=True)
class TagCreated(UpdateKind):
    """A tag was created."""

    name: str


@dataclass(frozen=True)
class TagDeleted(UpdateKind):
    """A tag was deleted; `previous` is what it pointed to."""

    name: str
    previous: bytes


@dataclass(frozen=True)
class BranchCreated(UpdateKind):
    """A branch was created."""

    name: str


@dataclass(frozen=True)
class BranchDeleted(UpdateKind):
    """A branch was deleted; `previous` was its tip."""

    name: str
    previous: bytes


@dataclass(frozen=True)
class BranchReset(UpdateKind):
    """A branch was moved; `previous` was its tip."""

    name: str
    previous: bytes


@dataclass(frozen=True)
class NewCommit(UpdateKind):
    """A snapshot was added to a branch."""

    branch: str
    snapshot: bytes


@dataclass(frozen=True)
class CommitAmended(UpdateKind):
    """The tip of a branch was replaced by another snapshot."""

    branch: str
    previous: bytes
    snapshot: bytes


@dataclass(frozen=True)
class NewDetachedSnapshot(UpdateKind):
    """A snapshot was added that no branch leads to."""

    snapshot: bytes


@dataclass(frozen=True)
class GCRan(UpdateKind):
    """Garbage was collected."""


@dataclass(frozen=True)
class ExpirationRan(UpdateKind):
    """Old snapshots were expired."""


@dataclass(frozen=True)
class FeatureFlagChanged(UpdateKind):
    """A switch was set, or back to its default where `new_value` is None."""

    id: int
    new_value: bool | None


@dataclass(frozen=True)
class RepoStatusChanged(UpdateKind):
    """The status of the repository was set."""

    status: Status


@dataclass(frozen=True, slots=True)
class Update:
    """An entry of the log: what happened, when (microseconds since 1970), and the copy of the repo object after it.

    `backup` is the name of the copy under `overwritten/`. The newest entry has none, as the repo object itself is what
    there was after it; nor do entries that a migration made up.
    """

    kind: UpdateKind
    at: int
    backup: str | None = None


_KINDS: dict[int, tuple[type[UpdateKind], tuple[str, ...]]] = {
    1: (RepoInitialized, ()),
    2: (RepoMigrated, ("from_version", "to_version")),
    3: (ConfigChanged, ()),
    4: (MetadataChanged, ()),
    5: (TagCreated, ("name",)),
    6: (TagDeleted, ("name", "previous_snap_id")),
    7: (BranchCreated, ("name",)),
    8: (BranchDeleted, ("name", "previous_snap_id")),
    9: (BranchReset, ("name", "previous_snap_id")),
    10: (NewCommit, ("branch", "new_snap_id")),
    11: (CommitAmended, ("branch", "previous_snap_id", "new_snap_id")),
    12: (NewDetachedSnapshot, ("new_snap_id",)),
    13: (GCRan, ()),
    14: (ExpirationRan, ()),
    15: (FeatureFlagChanged, ()),
    16: (RepoStatusChanged, ()),
}
"""Type codes of the format, and the fields of its tables in the order of ours."""

_CODES = {kind: code for code, (kind, _) in _KINDS.items()}


def read_status(view: TableView) -> Status:
    """The status in a table."""
    set_at = checked_time(view["set_at"], f"{view.doc.file}: RepoStatus.set_at")
    return Status(view["availability"], set_at, view["limited_availability_reason"])


def status_table(status: Status) -> dict[str, Any]:
    """The table of a status."""
    return {
        "availability": status.availability,
        "set_at": status.set_at,
        "limited_availability_reason": status.reason,
    }


def read_update(view: TableView) -> Update:
    """The entry in a table."""
    code, table = view["update_type"]
    kind, names = _KINDS[code]
    found: UpdateKind
    if kind is FeatureFlagChanged:
        found = FeatureFlagChanged(table["id"], bool(table["new_value"]) if table["is_set"] else None)
    elif kind is RepoStatusChanged:
        found = RepoStatusChanged(read_status(table["status"]))
    else:
        found = kind(*[table[name] for name in names])
    at = checked_time(view["updated_at"], f"{view.doc.file}: Update.updated_at")
    return Update(found, at, view["backup_path"])


def update_table(update: Update) -> dict[str, Any]:
    """The table of an entry."""
    kind = update.kind
    code = _CODES[type(kind)]
    members: dict[str, Any]
    if isinstance(kind, FeatureFlagChanged):
        members = {"id": kind.id, "new_value": bool(kind.new_value), "is_set": kind.new_value is not None}
    elif isinstance(kind, RepoStatusChanged):
        members = {"status": status_table(kind.status)}
    else:
        members = dict(zip(_KINDS[code][1], [getattr(kind, each.name) for each in fields(kind)], strict=True))
    return {"update_type": (code, members), "updated_at": update.at, "backup_path": update.backup}


class UpdateLog(Sequence[Update]):
    """Entries, newest first: `fresh` ones, then those at `positions` of a buffer. Never changes."""

    def __init__(
        self, doc: Document, positions: Positions, fresh: tuple[Update, ...] = (), newest: Update | None = None
    ) -> None:
        self.doc = doc
        self.positions = positions
        self.fresh = fresh
        self._newest = fresh[0] if fresh else newest

    @property
    def newest(self) -> Update | None:
        """The first entry, which is looked at most; None of an empty log."""
        if self._newest is None and len(self):
            self._newest = self._at(0)
        return self._newest

    def __len__(self) -> int:
        return len(self.fresh) + len(self.positions)

    @overload
    def __getitem__(self, index: int) -> Update: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Update]: ...
    def __getitem__(self, index: int | slice) -> Update | Sequence[Update]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(index)
        return self._at(place) if place or self.newest is None else self.newest

    def _at(self, place: int) -> Update:
        if place < len(self.fresh):
            return self.fresh[place]
        return read_update(TableView(self.doc, UPDATE, int(self.positions[place - len(self.fresh)])))

    @property
    def stored(self) -> int:
        """How many entries the buffer has, those that are no longer in the log included."""
        return len(self.doc.root(REPO)["latest_updates"]) if self.doc.size else 0

    def has_unknown(self) -> bool:
        """Whether some entries are of a kind that only later versions know."""
        codes, _ = TableColumns(self.doc, UPDATE, self.positions).union("update_type")
        return not np.isin(codes, list(_KINDS)).all()

    def added(self, kind: UpdateKind, at: int, backup: str | None, limit: int) -> tuple[UpdateLog, str | None]:
        """The log with one entry more, and the copy to go on from when older ones had to go to keep to the limit.

        `backup` becomes the copy of the entry that was the newest. Only entries that have a copy can go.
        """
        fresh = self.fresh
        positions = self.positions
        newest = self.newest
        if newest is not None:
            if at <= newest.at:
                raise InternalError(f"invalid update timestamp: {at} is not later than {newest.at}, the last update")
            older = fresh[1:] if fresh else ()
            positions = positions if fresh else positions[1:]
            fresh = (replace(newest, backup=newest.backup if backup is None else backup), *older)
        log = UpdateLog(self.doc, positions, (Update(kind, at), *fresh))
        left = None
        while len(log) > max(limit, 1):
            oldest = log[-1]
            if oldest.backup is None:
                break
            left = oldest.backup
            if len(log.positions):
                log = UpdateLog(self.doc, log.positions[:-1], log.fresh)
            else:
                log = UpdateLog(self.doc, log.positions, log.fresh[:-1])
        return log, left
