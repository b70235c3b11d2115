"""What can change after being written: branches, tags, configuration, and what is known of snapshots.

A `RefStore` holds it all for one repository. There are two: `ref_files` keeps one small object per branch and tag (spec
1), `repo_file` keeps everything in one object (spec 2). Nothing above them asks which it has. Both move a branch by one
compare-and-swap, and that single write is what publishes a commit.

Ids are bytes here, times integers of microseconds since 1970 (UTC). The clock and the source of random ids are passed in.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, Protocol, Self

from icechunk._dataclass import dataclass
from icechunk._driver import pause
from icechunk.errors import (
    ConflictError,
    ErrorKind,
    FormatError,
    InvalidInputError,
    ObjectNotFoundError,
    RefNotFoundError,
    SessionStateError,
    SnapshotNotFoundError,
)
from icechunk.format.ids import format_id
from icechunk.format.repo_info import SnapshotRecord, Status, Update
from icechunk.info import from_microseconds
from icechunk.storage.base import Buffer, ObjectInfo, Storage, Version

if TYPE_CHECKING:
    from icechunk.config import RepositoryConfig
    from icechunk.format.snapshot import Snapshot

MAIN = "main"
"""The branch that every repository has."""

MAX_CLOCK_DRIFT = 10 * 60 * 1_000_000
"""How far, in microseconds, two clocks may be apart before a write is refused."""

_YEAR_3000 = 32_503_680_000_000
"""Milliseconds from 1970 to 3000; backups count down to it, so that the newest sorts first."""


class SnapshotFiles(Protocol):
    """What a ref store needs of the repository's immutable files."""

    async def snapshot(self, snapshot_id: bytes) -> Snapshot:
        """The snapshot of this id."""

    def kept_snapshot(self, snapshot_id: bytes) -> Snapshot | None:
        """The snapshot of this id if it was read before and is still at hand."""

    async def write_snapshot(self, snapshot_id: bytes, data: bytes, spec: int) -> Version:
        """Write an encoded snapshot."""

    async def write_transaction_log(self, snapshot_id: bytes, data: bytes, spec: int) -> None:
        """Write the encoded log of a snapshot."""


@dataclass(frozen=True, slots=True)
class UpdateRetries:
    """How often, and with which waits, a change is tried again that others overtook.

    The first `immediate` repetitions do not wait; from then on the wait doubles from `initial_backoff_ms` up to
    `max_backoff_ms`, less a random part of it, so that writers which met once do not meet again.
    """

    max_tries: int = 100
    initial_backoff_ms: int = 50
    max_backoff_ms: int = 30_000
    immediate: int = 5

    def wait_before(self, attempt: int, chance: float) -> float:
        """Seconds to wait before try number `attempt` (0 is the first); `chance` is a random number from 0 to 1."""
        waits = attempt - self.immediate - 1
        if waits < 0:
            return 0.0
        longest = min(self.initial_backoff_ms * 2.0 ** min(waits, 40), self.max_backoff_ms)
        return longest * (1 - chance / 2) / 1000


@dataclass(frozen=True, slots=True)
class Publication:
    """A snapshot whose files are written and which is to become visible.

    Attributes
    ----------
    kind : "commit", "amend" or "detached"
        Move a branch forward, replace the tip of a branch, or only make the snapshot known.
    record : SnapshotRecord
        What is known of the snapshot.
    branch : str or None
        The branch to move; None for a detached snapshot.
    expected : bytes or None
        The snapshot at which the branch must still stand.
    previous : bytes or None
        The tip that an amend replaces.
    since : int or None
        How far history had come (`RefStore.moment`) when the first file was written that only this snapshot needs.
    """

    kind: Literal["commit", "amend", "detached"]
    record: SnapshotRecord
    branch: str | None = None
    expected: bytes | None = None
    previous: bytes | None = None
    since: int | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `RefStore.prepare` read while the files of a commit were on their way.

    Attributes
    ----------
    tip : bytes or None
        Where the branch stood, None when it does not exist.
    state : Any
        What the ref store itself needs to publish without reading again.
    """

    tip: bytes | None
    state: Any


@dataclass(frozen=True, slots=True)
class History:
    """Every ref, and every snapshot that the repository knows of."""

    branches: Mapping[str, bytes]
    tags: Mapping[str, bytes]
    records: Mapping[bytes, SnapshotRecord]

    def reachable(self, tips: Iterable[bytes] | None = None) -> set[bytes]:
        """The snapshots that are reached from `tips`, by default from all refs."""
        found: set[bytes] = set()
        for tip in [*self.branches.values(), *self.tags.values()] if tips is None else tips:
            at: bytes | None = tip
            while at is not None and at not in found:
                found.add(at)
                record = self.records.get(at)
                at = None if record is None else record.parent_id
        return found


@dataclass(frozen=True, slots=True)
class HistoryEdit:
    """A change of history as a whole: what expiration and collection ask for.

    Attributes
    ----------
    reason : "expired" or "collected"
        What to write into the operations log.
    grafted : tuple of SnapshotRecord
        Snapshots that get another parent, as they are to be.
    dropped : frozenset of bytes
        Snapshots to forget. Where only files tell what exists this has no effect.
    branches, tags : frozenset of str
        Refs to delete.
    """

    reason: Literal["expired", "collected"]
    grafted: tuple[SnapshotRecord, ...] = ()
    dropped: frozenset[bytes] = frozenset()
    branches: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ExpiryRule:
    """Where expiration differs by format.

    Attributes
    ----------
    through_tips : bool
        Whether a history may keep running through an expired snapshot that some ref holds.
    root_expires : bool
        Whether a ref that points to the root counts as expired when the root is old.
    """

    through_tips: bool
    root_expires: bool


class Flag(NamedTuple):
    """A switch of the repository; `setting` is None where it was left at its default."""

    id: int
    name: str
    default_enabled: bool
    setting: bool | None

    @property
    def enabled(self) -> bool:
        """Whether it is on."""
        return self.default_enabled if self.setting is None else self.setting


@dataclass(frozen=True, slots=True)
class Context:
    """What both ref stores are given from outside.

    Attributes
    ----------
    storage : Storage
        Where the refs are.
    files : SnapshotFiles
        Reads and writes snapshots.
    now : callable
        The clock, in microseconds.
    new_id : callable
        Fresh random ids of 12 bytes.
    retries : UpdateRetries
        How to go on when others were faster.
    updates_per_file : int
        How many entries of the operations log one object holds.
    level : int
        The zstd level of what is written.
    requests_at_once : int or None
        How many requests may be under way at once; None leaves it to the storage.
    """

    storage: Storage
    files: SnapshotFiles
    now: Callable[[], int]
    new_id: Callable[[], bytes]
    retries: UpdateRetries = field(default_factory=UpdateRetries)
    updates_per_file: int = 1000
    level: int = 3
    requests_at_once: int | None = None

    @property
    def width(self) -> int:
        """How many requests are worth having under way at once."""
        return max(self.storage.concurrency if self.requests_at_once is None else self.requests_at_once, 1)

    def chance(self) -> float:
        """A random number from 0 to 1."""
        return int.from_bytes(self.new_id()[:4], "big") / 2**32

    async def wait(self, attempt: int) -> None:
        """Wait before try number `attempt` of the same change."""
        seconds = self.retries.wait_before(attempt, self.chance())
        if seconds > 0:
            await pause(seconds)

    def backup_name(self, path: str) -> str:
        """A fresh name, below `overwritten/`, for a copy of what stands at `path`."""
        return f"{path}.{_YEAR_3000 - self.now() // 1000}.{format_id(self.new_id())}"


class RefStore(ABC):
    """All that can change in one repository. Every method may be called from many threads at once."""

    spec: int
    expiry_rule: ExpiryRule
    registers_snapshots: bool
    """Whether snapshots are known by a register; where not, a snapshot exists when its file does."""
    logs_collections: bool
    """Whether `publish` can tell that a collection ran; where not, any session that took long may have met one."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.storage = context.storage

    def rebind(self, context: Context) -> None:
        """Go on under other settings, which may have been stored here; what was read so far is kept."""
        self.context = context
        self.storage = context.storage

    def under(self, context: Context) -> Self:
        """A ref store of its own under other settings, which knows what this one has read."""
        twin = copy.copy(self)
        twin.rebind(context)
        return twin

    # ---- branches and tags

    @abstractmethod
    async def branch_tip(self, name: str) -> bytes:
        """The snapshot at which a branch stands; raises `RefNotFoundError`."""

    def remembered_tip(self, name: str) -> bytes | None:
        """The snapshot at which a branch stood when it was last read here; a guess, None where there is none."""
        return None

    @abstractmethod
    async def tag_target(self, name: str) -> bytes:
        """The snapshot that a tag names; raises `RefNotFoundError`."""

    @abstractmethod
    async def list_branches(self) -> set[str]:
        """The names of all branches."""

    @abstractmethod
    async def list_tags(self) -> set[str]:
        """The names of all tags, deleted ones excluded."""

    @abstractmethod
    async def create_branch(self, name: str, snapshot_id: bytes) -> None:
        """Make a branch at an existing snapshot."""

    @abstractmethod
    async def delete_branch(self, name: str) -> None:
        """Delete a branch; `main` cannot be deleted."""

    @abstractmethod
    async def reset_branch(self, name: str, snapshot_id: bytes, expected: bytes | None = None) -> None:
        """Move a branch to any existing snapshot; where `expected` is given, only if it stands there now."""

    @abstractmethod
    async def create_tag(self, name: str, snapshot_id: bytes) -> None:
        """Make a tag at an existing snapshot. The name is used up for ever."""

    @abstractmethod
    async def delete_tag(self, name: str) -> None:
        """Delete a tag. Its name cannot be used again."""

    # ---- snapshots

    @abstractmethod
    async def snapshot_record(self, snapshot_id: bytes, *, revalidate: bool = True) -> SnapshotRecord:
        """What is known of a snapshot; raises `SnapshotNotFoundError`.

        With `revalidate=False` what was read last is good enough, as it is right after `branch_tip`.
        """

    async def current_record(self, snapshot_id: bytes) -> SnapshotRecord:
        """As `snapshot_record`, from what is stored now: an expiration may have given the snapshot another parent."""
        return await self.snapshot_record(snapshot_id)

    @abstractmethod
    def ancestry(self, snapshot_id: bytes, *, revalidate: bool = True) -> AsyncIterator[SnapshotRecord]:
        """A snapshot and its parents, newest first, to the root."""

    async def ancestry_batches(self, snapshot_id: bytes) -> AsyncIterator[Sequence[SnapshotRecord]]:
        """As `ancestry` without revalidating, several at a time where they are all at hand."""
        async for record in self.ancestry(snapshot_id, revalidate=False):
            yield (record,)

    async def find_as_of(self, branch: str, at: int) -> bytes:
        """The newest snapshot of a branch that was written at `at` or before; raises `SnapshotNotFoundError`."""
        tip = await self.branch_tip(branch)
        async for record in self.ancestry(tip, revalidate=False):
            if record.flushed_at <= at:
                return record.id
        raise SnapshotNotFoundError(
            f"branch {branch} does not have a snapshots before or at {format_time(at)}; `repo.ancestry(branch=...)` "
            "says when they were written",
            ErrorKind.NO_SNAPSHOT_AT_TIME,
        )

    @abstractmethod
    async def history(
        self,
        extra: Iterable[bytes] = (),
        visit: Callable[[bytes, Snapshot], None] | None = None,
        *,
        listed: Mapping[str, Sequence[ObjectInfo]] | None = None,
    ) -> History:
        """All refs and all known snapshots, together with what is reached from those of `extra` that exist.

        Where snapshot files must be read for it, `visit` sees each of them. `listed`, files by folder as somebody has just
        listed them, snapshots newest first, saves requests; it is believed.
        """

    @abstractmethod
    async def edit_history(
        self, decide: Callable[[History], HistoryEdit | None], *, known: History | None = None, sure: bool = True
    ) -> HistoryEdit | None:
        """Change history as a whole: `decide` sees the present state and says what to change, None for nothing.

        `decide` may be called several times, whenever somebody changes something meanwhile. What `known`, a history read
        before, says of single snapshots need not be read again. Who is not `sure` believes listings that may lag behind.
        """

    def recent_file(self, path: str, etag: str | None) -> Buffer | None:
        """The snapshot file at `path` if maintenance has read it lately and it has this etag still."""
        return None

    # ---- publishing

    @abstractmethod
    def moment(self) -> int:
        """How far history had come when it was last read: a time to be given to `Publication`."""

    @abstractmethod
    async def prepare(self, branch: str, expected: bytes | None = None) -> Prepared:
        """Do, while the files of a commit are being written, what can be done ahead of `publish`.

        Where the branch was last seen at `expected`, and nobody has got in the way so far, it need not be read again:
        `publish` finds out whether it still stands there, as it does where the storage keeps conditions.
        """

    @abstractmethod
    async def publish(self, publication: Publication, prepared: Prepared | None = None) -> None:
        """Make a snapshot visible by one compare-and-swap.

        Raises `ConflictError` when the branch does not stand where it is expected to, and `CollectionRan` when a
        collection ran after `publication.since`, which may have taken files of the snapshot. Nothing of it is visible then.
        """

    @abstractmethod
    async def ensure_writable(self, doing: str) -> None:
        """Raise `ReadOnlyError` where the repository or its storage takes no changes; `doing` begins the message."""

    # ---- configuration

    @abstractmethod
    async def load_config(self) -> RepositoryConfig | None:
        """The stored configuration, None where none was ever stored."""

    @abstractmethod
    async def save_config(self, config: RepositoryConfig) -> None:
        """Store a configuration in place of the one that was loaded."""

    # ---- what only the repo object can hold

    async def get_metadata(self) -> dict[str, Any]:
        """The metadata of the repository itself."""
        self._unsupported()

    async def change_metadata(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """Replace the metadata of the repository by what `change` makes of it, and return that."""
        self._unsupported()

    async def get_status(self) -> Status:
        """Whether the repository takes changes."""
        self._unsupported()

    async def set_status(self, availability: int, reason: str | None) -> None:
        """Open or close the repository for changes."""
        self._unsupported()

    async def flags(self) -> list[Flag]:
        """All known switches."""
        self._unsupported()

    async def set_flag(self, name: str, setting: bool | None) -> None:
        """Set a switch; None gives it back its default."""
        self._unsupported()

    def updates(self) -> AsyncIterator[Update]:
        """The operations log, newest first."""
        self._unsupported()

    def copies(self) -> AsyncIterator[str]:
        """The names, below `overwritten/`, of all copies that the operations log names, as it was when last looked at."""
        self._unsupported()

    async def require_flag(self, name: str, doing: str) -> None:
        """Raise `SessionStateError` when a switch is off, or is not known to this format."""
        for flag in await self.flags():
            if flag.name == name and not flag.enabled:
                raise flag_disabled(doing, name)

    def _unsupported(self) -> NoReturn:
        raise needs_spec(2)


# ---- errors, each worded in one place


class CollectionRan(Exception):
    """A collection may have taken files that are about to be published; `at` is how far history has come by now."""

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self.at = at


class MissingSnapshotError(SnapshotNotFoundError, ObjectNotFoundError):
    """A snapshot whose file does not exist, where files are all there is to ask."""


def snapshot_not_found(snapshot_id: bytes) -> SnapshotNotFoundError:
    return SnapshotNotFoundError(
        f"snapshot id not found `{format_id(snapshot_id)}`; `repo.ancestry(branch=...)` lists what there is",
        ErrorKind.SNAPSHOT_NOT_FOUND,
    )


def ref_not_found(name: str) -> RefNotFoundError:
    return RefNotFoundError(
        f"ref not found `{name}`; `repo.list_branches()` and `repo.list_tags()` say what there is",
        ErrorKind.REF_NOT_FOUND,
    )


def cannot_delete_main() -> SessionStateError:
    return SessionStateError(
        "main branch cannot be deleted: every repository has it; `repo.reset_branch` moves it elsewhere",
        ErrorKind.CANNOT_DELETE_MAIN,
    )


def branch_update_conflict(expected: bytes | None, actual: bytes | None) -> ConflictError:
    ours, theirs = _text(expected), _text(actual)
    return ConflictError(
        ours,
        theirs,
        f"branch update conflict: `({_some(ours)}) != ({_some(theirs)})`, somebody moved or made it meanwhile; "
        "look it up again and decide anew",
        ErrorKind.BRANCH_UPDATE_CONFLICT,
    )


def commit_conflict(expected: bytes | None, actual: bytes | None) -> ConflictError:
    return ConflictError(_text(expected), _text(actual))


def flag_disabled(doing: str, name: str) -> SessionStateError:
    return SessionStateError(f"{doing} is disabled by a feature flag ({name})", ErrorKind.FEATURE_FLAG_DISABLED)


def needs_spec(spec: int) -> FormatError:
    return FormatError(
        "repository version error, this operation requires a repository that is at least version "
        f"{spec}.0, please upgrade your on-disk format before executing this operation "
        "(`icechunk.upgrade_icechunk_repository`)",
        ErrorKind.UNSUPPORTED_SPEC_VERSION,
    )


def attempts_exhausted(attempts: int) -> ConflictError:
    return ConflictError(
        None,
        None,
        f"repository cannot be updated after {attempts} attempts, too many concurrent changes",
        ErrorKind.UPDATE_ATTEMPTS_EXHAUSTED,
    )


def not_clean() -> InvalidInputError:
    return InvalidInputError(
        "repositories can only be created in clean prefixes: something is stored there already; open what is there, "
        "or choose another prefix",
        ErrorKind.PARENT_DIRECTORY_NOT_CLEAN,
    )


def _text(snapshot_id: bytes | None) -> str | None:
    return None if snapshot_id is None else format_id(snapshot_id)


def _some(text: str | None) -> str:
    return "None" if text is None else f"Some({text})"


# ---- times


def format_time(at: int) -> str:
    """A time for people; fractions of a second only where there are some."""
    moment = from_microseconds(at)
    return f"{moment:%Y-%m-%d %H:%M:%S}{f'.{moment.microsecond:06}' if moment.microsecond else ''} UTC"


def later_than(now: int, latest: int) -> int:
    """A time for a change that follows one at `latest`: now, or just after it where the clock has not moved on.

    Raises `FormatError` when `latest` lies so far ahead that one of the clocks must be wrong.
    """
    if latest - now > MAX_CLOCK_DRIFT:
        raise FormatError(
            "update timestamp is invalid, please verify if the machine clock has drifted: update time: "
            f"`{format_time(now)}`, latest update time: `{format_time(latest)}`",
            ErrorKind.SNAPSHOT_TIMESTAMP,
        )
    return max(now, latest + 1)


def check_order(record: SnapshotRecord, parent: SnapshotRecord) -> None:
    """Raise `FormatError` where a snapshot is not younger than its parent."""
    if record.flushed_at <= parent.flushed_at:
        raise FormatError(
            f"invalid snapshot timestamp ordering. parent: `{format_time(parent.flushed_at)}`, child: "
            f"`{format_time(record.flushed_at)}`; please verify if the machine clock has drifted",
            ErrorKind.SNAPSHOT_TIMESTAMP,
        )


def check_name(name: str) -> str:
    """Refuse names that are no text."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a branch or tag is a str, got {type(name).__name__}")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"invalid ref name {name!r}: it is no Unicode text and cannot be stored ({error})",
            ErrorKind.INVALID_REF_NAME,
        ) from None
    return name
