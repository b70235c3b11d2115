"""What can go wrong, as an exception tree.

Every failure is an `IcechunkError`. The class says what a handler can do about it, `kind` is a stable machine-readable
code, and facts that a handler may need (`expected_parent`, `conflicts`, ...) are attributes. Messages end with the
advice: what to do next.

All of them can be pickled, so they travel between worker processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icechunk.conflicts import Conflict


class ErrorKind(StrEnum):
    """Stable codes of failures; compare them with `error.kind`."""

    ANCESTOR_NODE_NOT_FOUND = "ancestor-node-not-found"
    BAD_KEY_PREFIX = "bad-key-prefix"
    BAD_METADATA = "bad-metadata"
    BAD_PREFIX = "bad-prefix"
    BAD_REDIRECT = "bad-redirect"
    BAD_SNAPSHOT_CHAIN_FOR_DIFF = "bad-snapshot-chain-for-diff"
    BRANCH_ALREADY_EXISTS = "branch-already-exists"
    BRANCH_NOT_FOUND = "branch-not-found"
    BRANCH_UPDATE_CONFLICT = "branch-update-conflict"
    CANNOT_DELETE_MAIN = "cannot-delete-main"
    CANNOT_FORK_READ_ONLY_SESSION = "cannot-fork-read-only-session"
    CANNOT_PARSE_URL = "cannot-parse-url"
    CHUNK_NOT_FOUND = "chunk-not-found"
    COMMIT_CONFLICT = "commit-conflict"
    COMMIT_NOT_ALLOWED = "commit-not-allowed"
    CONCURRENCY = "concurrency"
    CONFIG_DESERIALIZATION = "config-deserialization"
    CONFIG_UPDATED = "config-updated"
    CONFLICTING_PATH_NOT_FOUND = "conflicting-path-not-found"
    DESERIALIZATION = "deserialization"
    DUPLICATE_SNAPSHOT_ID = "duplicate-snapshot-id"
    EMPTY_PREFIX_CREATION = "empty-prefix-creation"
    FEATURE_FLAG_DISABLED = "feature-flag-disabled"
    FLUSH = "flush"
    GC_DELETES_FAILING = "gc-deletes-failing"
    INCONSISTENT_MANIFESTS = "inconsistent-manifests"
    INVALID_ARRAY_METADATA = "invalid-array-metadata"
    INVALID_BYTE_RANGE = "invalid-byte-range"
    INVALID_CHUNK_INDEX = "invalid-chunk-index"
    INVALID_COMMIT_CONFIGURATION = "invalid-commit-configuration"
    INVALID_CREDENTIALS = "invalid-credentials"
    INVALID_FEATURE_FLAG = "invalid-feature-flag"
    INVALID_FILE_FORMAT = "invalid-file-format"
    INVALID_KEY = "invalid-key"
    INVALID_MANIFEST_SPLIT_INDEX = "invalid-manifest-split-index"
    INVALID_OBJECT_SIZE = "invalid-object-size"
    INVALID_PATH = "invalid-path"
    INVALID_REF_NAME = "invalid-ref-name"
    INVALID_REF_TYPE = "invalid-ref-type"
    INVALID_REPOSITORY_MIGRATION = "invalid-repository-migration"
    INVALID_SNAPSHOT_ID = "invalid-snapshot-id"
    INVALID_VIRTUAL_REF = "invalid-virtual-ref"
    IO = "io"
    KEY_NOT_FOUND = "key-not-found"
    MANIFEST_INFO_NOT_FOUND = "manifest-info-not-found"
    MERGE_FAILED = "merge-failed"
    MERGE_NOT_ALLOWED = "merge-not-allowed"
    MOVE_DESTINATION_PARENT_MISSING = "move-destination-parent-missing"
    MOVE_DESTINATION_PARENT_NOT_GROUP = "move-destination-parent-not-group"
    MOVE_INTO_SELF_OR_DESCENDANT = "move-into-self-or-descendant"
    MOVE_WONT_OVERWRITE = "move-wont-overwrite"
    NODE_ALREADY_EXISTS = "node-already-exists"
    NODE_NOT_FOUND = "node-not-found"
    NON_REARRANGE_SESSION = "non-rearrange-session"
    NOT_ALLOWED = "not-allowed"
    NOT_AN_ARRAY = "not-an-array"
    NOT_A_GROUP = "not-a-group"
    NOT_ON_BRANCH = "not-on-branch"
    NO_AMEND_FOR_INITIAL_COMMIT = "no-amend-for-initial-commit"
    NO_CHANGES_TO_COMMIT = "no-changes-to-commit"
    NO_CONTAINER_FOR_VIRTUAL_CHUNK = "no-container-for-virtual-chunk"
    NO_SNAPSHOT = "no-snapshot"
    NO_SNAPSHOT_AT_TIME = "no-snapshot-at-time"
    OBJECT_NOT_FOUND = "object-not-found"
    OBJECT_STORE = "object-store"
    PARENT_DIRECTORY_NOT_CLEAN = "parent-directory-not-clean"
    PARTIAL_VALUES_PANIC = "partial-values-panic"
    PICKLE = "pickle"
    POISON_LOCK = "poison-lock"
    READ_ONLY_REPOSITORY = "read-only-repository"
    READ_ONLY_SESSION = "read-only-session"
    READ_ONLY_STORAGE = "read-only-storage"
    READ_ONLY_STORE = "read-only-store"
    REARRANGE_SESSION_ONLY = "rearrange-session-only"
    REBASE_FAILED = "rebase-failed"
    REBASE_TX_LOG_PRUNED = "rebase-tx-log-pruned"
    REF_NOT_FOUND = "ref-not-found"
    REPOSITORY_NOT_FOUND = "repository-not-found"
    REPO_INFO_UPDATED = "repo-info-updated"
    SEMAPHORE_ACQUIRE = "semaphore-acquire"
    SERIALIZATION = "serialization"
    SNAPSHOT_NOT_FOUND = "snapshot-not-found"
    SNAPSHOT_TIMESTAMP = "snapshot-timestamp"
    STORAGE_CONFIG = "storage-config"
    STORAGE_OTHER = "storage-other"
    TAG_ALREADY_EXISTS = "tag-already-exists"
    TAG_ERROR = "tag-error"
    TAG_NOT_FOUND = "tag-not-found"
    TAG_PREVIOUSLY_DELETED = "tag-previously-deleted"
    THROTTLED = "throttled"
    UNAUTHORIZED_VIRTUAL_CHUNK_CONTAINER = "unauthorized-virtual-chunk-container"
    UNCOMMITTED_CHANGES = "uncommitted-changes"
    UNIMPLEMENTED = "unimplemented"
    UNKNOWN = "unknown"
    UNSUPPORTED_OPERATION_FOR_VERSION = "unsupported-operation-for-version"
    UNSUPPORTED_SPEC_VERSION = "unsupported-spec-version"
    UPDATE_ATTEMPTS_EXHAUSTED = "update-attempts-exhausted"
    VIRTUAL_CHUNK_FETCH = "virtual-chunk-fetch"
    VIRTUAL_CHUNK_MODIFIED = "virtual-chunk-modified"
    ZERO_LENGTH_CHUNK = "zero-length-chunk"


class IcechunkError(Exception):
    """Base of every failure that Icechunk reports.

    Attributes
    ----------
    message : str
        What happened and what to do next; the same text as `str(error)`.
    kind : ErrorKind
        A stable code to branch on.
    """

    message: str
    kind: ErrorKind | str

    def __init__(self, message: str = "", kind: ErrorKind | str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.kind = _as_kind(kind)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.kind)


def _as_kind(kind: ErrorKind | str | None) -> ErrorKind | str:
    if kind is None:
        return ErrorKind.UNKNOWN
    try:
        return ErrorKind(kind)
    except ValueError:
        return kind


class ConflictError(IcechunkError):
    """Somebody else moved the ref first; nothing of ours was published.

    Attributes
    ----------
    expected_parent : str or None
        The snapshot on which the session is based.
    actual_parent : str or None
        The tip of the branch now, None when the branch is gone.
    """

    expected_parent: str | None
    actual_parent: str | None

    def __init__(
        self,
        expected_parent: str | None = None,
        actual_parent: str | None = None,
        message: str | None = None,
        kind: ErrorKind | str | None = None,
    ) -> None:
        if message is None:
            message = (
                f"Failed to commit, expected parent: {_some(expected_parent)}, actual parent: {_some(actual_parent)}"
            )
        super().__init__(message, ErrorKind.COMMIT_CONFLICT if kind is None else kind)
        self.args = (expected_parent, actual_parent)
        self.expected_parent = expected_parent
        self.actual_parent = actual_parent

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.expected_parent, self.actual_parent, self.message, self.kind)


def _some(value: str | None) -> str:
    return "None" if value is None else f'Some("{value}")'


class RebaseFailedError(ConflictError):
    """The changes of the session and those of the branch contradict each other.

    Attributes
    ----------
    snapshot : str
        The snapshot of the branch over which the session could not be rebased.
    conflicts : list of Conflict
        Everything that stood in the way.
    """

    snapshot: str
    conflicts: list[Conflict]

    def __init__(self, snapshot: str, conflicts: Sequence[Conflict]) -> None:
        super().__init__(
            message=f"Rebase failed on snapshot {snapshot}: {len(conflicts)} conflicts found"
            + "".join(f"\n  {conflict}" for conflict in list(conflicts)[:10]),
            kind=ErrorKind.REBASE_FAILED,
        )
        self.args = (snapshot, list(conflicts))
        self.snapshot = snapshot
        self.conflicts = list(conflicts)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.snapshot, self.conflicts)


class NotFoundError(IcechunkError, KeyError):
    """Something that was named does not exist."""


class NodeNotFoundError(NotFoundError):
    """A group, an array or a chunk does not exist."""


class SnapshotNotFoundError(NotFoundError):
    """A snapshot does not exist, or none is as old as was asked for."""


class RefNotFoundError(NotFoundError):
    """A branch or a tag does not exist."""


class RepositoryNotFoundError(NotFoundError):
    """There is no repository at this place."""


class AlreadyExistsError(IcechunkError):
    """A node, branch or tag of this name exists already."""


class ReadOnlyError(IcechunkError):
    """A write through something that only reads."""


class InvalidInputError(IcechunkError, ValueError):
    """An argument that can never be right."""


class SessionStateError(IcechunkError):
    """The operation is not allowed in the present state of the session or repository."""


class NoChangesToCommitError(SessionStateError):
    """A commit without any change; pass `allow_empty=True` where that is meant."""

    def __init__(
        self,
        message: str = "cannot commit, no changes made to the session (use `allow_empty=True` to commit anyway)",
        kind: ErrorKind | str | None = ErrorKind.NO_CHANGES_TO_COMMIT,
    ) -> None:
        super().__init__(message, kind)


class StorageError(IcechunkError):
    """The storage backend failed, or does not behave as it must."""


class ObjectNotFoundError(StorageError):
    """There is no object of this name in the storage."""

    def __init__(self, message: str, kind: ErrorKind | str | None = ErrorKind.OBJECT_NOT_FOUND) -> None:
        super().__init__(message, kind)


class PreconditionFailedError(StorageError):
    """A conditional write found something else than it was told to expect; nothing was written."""

    def __init__(self, message: str, kind: ErrorKind | str | None = ErrorKind.OBJECT_STORE) -> None:
        super().__init__(message, kind)


class FormatError(IcechunkError):
    """A file that does not obey the format, or obeys one that is newer than this library."""


class InternalError(IcechunkError):
    """A defect in this library; please report it."""
