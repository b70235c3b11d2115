"""Small values that calls return: snapshots, differences, summaries, statuses, entries of the operations log.

All of them are plain: read-only attributes, comparable, picklable, and shown well by `print` and in notebooks. Snapshot ids
are text, times are datetimes in UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import field, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeAlias

from icechunk import checks
from icechunk._dataclass import dataclass
from icechunk.display import Card, Plain, Row, Shown, constructor_text, quoted
from icechunk.variants import Choice, Variants, variant_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def from_microseconds(microseconds: int) -> datetime:
    """Microseconds since 1970 as a datetime in UTC, exactly."""
    return _EPOCH + timedelta(0, 0, microseconds)


class ChunkType(Choice):
    """Where a chunk's bytes are. Members go by upper-case names too, as in Icechunk 1."""

    uninitialized = 0
    native = 1
    virtual = 2
    inline = 3

    UNINITIALIZED = 0
    NATIVE = 1
    VIRTUAL = 2
    INLINE = 3


class SessionMode(Choice):
    """What a session may do."""

    readonly = 0
    writable = 1
    rearrange = 2


class SpecVersion(Choice):
    """A version of the format on disk."""

    v1 = 1
    v2 = 2

    @staticmethod
    def current() -> SpecVersion:
        """The version of new repositories."""
        return SpecVersion.v2

    def __repr__(self) -> str:
        return f"SpecVersion.{self.name}" + (" (current)" if self is SpecVersion.current() else "")


class RepoAvailability(Choice):
    """Whether a repository can be changed."""

    online = 0
    read_only = 1


class _Described(Shown):
    """Shows all its dataclass fields."""

    __slots__ = ()
    _title = ""

    def _card(self) -> Card:
        return Card(
            self._title,
            [Row(item.name, _shown(getattr(self, item.name))) for item in fields(self)],  # type: ignore[arg-type]
        )


def _shown(value: Any) -> Any:
    return Plain(value) if isinstance(value, str) else value


@dataclass(frozen=True, slots=True, repr=False)
class ManifestFileInfo(_Described):
    """A manifest of a snapshot.

    Attributes
    ----------
    id : str
        Its name under `manifests/`.
    size_bytes : int
        Its size as stored.
    num_chunk_refs : int
        How many chunk references it holds.
    """

    id: str
    size_bytes: int
    num_chunk_refs: int

    def _card(self) -> Card:
        return Card("icechunk.snapshots.ManifestFileInfo", _Described._card(self).rows)


class SnapshotSource(Protocol):
    """Knows many snapshots, and what there is to know of one when it is asked for."""

    def facts(self, place: int) -> tuple[str, str | None, datetime, str, dict[str, Any]]:
        """The fields of one of them, in the order of `SnapshotInfo`."""


class _FilledLater(Shown):
    """A snapshot whose fields are filled in when one of them is first looked at."""

    __slots__ = ("_later",)
    _later: tuple[SnapshotSource, int]

    def __getattr__(self, name: str) -> Any:
        if name == "_later" or name not in type(self).__slots__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        source, place = self._later
        self.__init__(*source.facts(place))  # type: ignore[misc]
        return object.__getattribute__(self, name)


@dataclass(frozen=True, slots=True, repr=False)
class SnapshotInfo(_FilledLater):
    """A commit.

    Attributes
    ----------
    id, parent_id : str
        Its id, and that of the snapshot it is based on; None for the first one.
    written_at : datetime
        When it was committed, in UTC.
    message : str
        The commit message.
    metadata : dict
        The metadata given with the commit.
    """

    id: str
    parent_id: str | None
    written_at: datetime
    message: str
    metadata: dict[str, Any] = field(default_factory=dict)
    _manifests: tuple[ManifestFileInfo, ...] = field(default=(), compare=False)

    @classmethod
    def of_source(cls, source: SnapshotSource, count: int) -> Iterator[SnapshotInfo]:
        """As many as `source` knows; making one costs next to nothing until it is looked at."""
        new, put = cls.__new__, _FilledLater.__dict__["_later"].__set__

        def make(place: int) -> SnapshotInfo:
            info = new(cls)
            put(info, (source, place))
            return info

        return map(make, range(count))

    @property
    def manifests(self) -> list[ManifestFileInfo]:
        """The manifest files of the snapshot."""
        return list(self._manifests)

    def _card(self) -> Card:
        rows = [
            Row("id", Plain(self.id)),
            Row("parent_id", _shown(self.parent_id)),
            Row("written_at", self.written_at),
            Row("message", Plain(self.message)),
            Row("metadata", self.metadata),
        ]
        return Card("icechunk.snapshots.SnapshotInfo", rows)


@dataclass(frozen=True, slots=True, repr=False)
class Diff(Shown):
    """What differs between two snapshots, or what a session has changed. Paths are absolute.

    Attributes
    ----------
    new_groups, new_arrays, deleted_groups, deleted_arrays : set of str
        Nodes that came and went; one that was deleted and created again is in both.
    updated_groups, updated_arrays : set of str
        Nodes whose metadata changed.
    updated_chunks : dict
        The coordinates of changed chunks by array path, sorted.
    moved_nodes : list of (str, str)
        Moves, from and to.
    """

    new_groups: set[str] = field(default_factory=set)
    new_arrays: set[str] = field(default_factory=set)
    deleted_groups: set[str] = field(default_factory=set)
    deleted_arrays: set[str] = field(default_factory=set)
    updated_groups: set[str] = field(default_factory=set)
    updated_arrays: set[str] = field(default_factory=set)
    updated_chunks: dict[str, list[list[int]]] = field(default_factory=dict)
    moved_nodes: list[tuple[str, str]] = field(default_factory=list)

    def is_empty(self) -> bool:
        """Whether nothing differs."""
        return not any(getattr(self, item.name) for item in fields(self))

    def _sections(self) -> list[tuple[str, list[str]]]:
        sections = [
            ("Groups created", sorted(self.new_groups)),
            ("Arrays created", sorted(self.new_arrays)),
            ("Group definitions updated", sorted(self.updated_groups)),
            ("Array definitions updated", sorted(self.updated_arrays)),
            ("Groups deleted", sorted(self.deleted_groups)),
            ("Arrays deleted", sorted(self.deleted_arrays)),
        ]
        return [(title, lines) for title, lines in sections if lines]

    def __str__(self) -> str:
        lines: list[str] = []
        for title, items in self._sections():
            lines += [f"{title}:", *("    " + item for item in items), ""]
        if self.updated_chunks:
            lines.append("Chunks updated:")
            for path, coords in sorted(self.updated_chunks.items()):
                lines.append(f"    {path}:")
                lines.extend(f"        {list(item)}" for item in coords[:_MAX_CHUNKS])
                if len(coords) > _MAX_CHUNKS:
                    lines.append(f"        ... {len(coords) - _MAX_CHUNKS} more")
        if self.moved_nodes:
            moves = [f"    {source} -> {target}" for source, target in self.moved_nodes]
            lines += ["Nodes moved/renamed:", *moves, ""]
        return "".join(line + "\n" for line in lines)

    __repr__ = __str__

    def _card(self) -> Card:
        rows = [Row(title, Plain("\n".join(lines))) for title, lines in self._sections()]
        if self.updated_chunks:
            counts = {path: Plain(f"{len(coords)} chunks") for path, coords in sorted(self.updated_chunks.items())}
            rows.append(Row("Chunks updated", counts))
        if self.moved_nodes:
            moves = "\n".join(f"{source} -> {target}" for source, target in self.moved_nodes)
            rows.append(Row("Nodes moved/renamed", Plain(moves)))
        return Card("icechunk.snapshots.Diff", rows or [Row("", Plain("no differences"))])


_MAX_CHUNKS = 10
"""So many chunks of an array are listed by `print`."""


@dataclass(frozen=True, slots=True, repr=False)
class GCSummary(_Described):
    """What a garbage collection deleted, or would delete.

    Attributes
    ----------
    bytes_deleted, chunks_deleted, manifests_deleted, snapshots_deleted, attributes_deleted, transaction_logs_deleted : int
        Sizes and numbers of objects.
    objects_failed_to_delete, delete_errors : int, list of str
        What could not be deleted, and why.
    throttled_batches : int
        How often the storage asked to go slower.
    skipped_phases : list of str
        Kinds of objects that were left alone after failures.
    """

    bytes_deleted: int = 0
    chunks_deleted: int = 0
    manifests_deleted: int = 0
    snapshots_deleted: int = 0
    attributes_deleted: int = 0
    transaction_logs_deleted: int = 0
    objects_failed_to_delete: int = 0
    throttled_batches: int = 0
    delete_errors: list[str] = field(default_factory=list)
    skipped_phases: list[str] = field(default_factory=list)

    def _card(self) -> Card:
        return Card("icechunk.ops.GCSummary", _Described._card(self).rows)


@dataclass(frozen=True, slots=True, repr=False)
class ChunkStorageStats(_Described):
    """How many bytes the chunks of a repository take. Statistics can be added up, with `sum` too.

    Attributes
    ----------
    native_bytes, virtual_bytes, inlined_bytes : int
        In objects of the repository, in objects elsewhere, and inside manifests.
    """

    native_bytes: int = 0
    virtual_bytes: int = 0
    inlined_bytes: int = 0

    def non_virtual_bytes(self) -> int:
        """Bytes that the repository itself holds."""
        return self.native_bytes + self.inlined_bytes

    def total_bytes(self) -> int:
        """All bytes, wherever they are."""
        return self.native_bytes + self.virtual_bytes + self.inlined_bytes

    def __add__(self, other: ChunkStorageStats) -> ChunkStorageStats:
        if not isinstance(other, ChunkStorageStats):
            return NotImplemented
        return ChunkStorageStats(
            self.native_bytes + other.native_bytes,
            self.virtual_bytes + other.virtual_bytes,
            self.inlined_bytes + other.inlined_bytes,
        )

    def __radd__(self, other: int | ChunkStorageStats) -> ChunkStorageStats:
        return self if other == 0 else NotImplemented

    def _card(self) -> Card:
        return Card("icechunk.stats.ChunkStorageStats", _Described._card(self).rows)


@dataclass(frozen=True, slots=True, repr=False)
class FeatureFlag(_Described):
    """An operation that can be switched off for a repository.

    Attributes
    ----------
    id, name : int, str
        Its number and name.
    default_enabled : bool
        Whether it is on unless set otherwise.
    setting : bool or None
        What was set, None for the default.
    enabled : bool
        Whether it is on.
    """

    id: int
    name: str
    default_enabled: bool
    setting: bool | None

    @property
    def enabled(self) -> bool:
        return self.default_enabled if self.setting is None else self.setting

    def _card(self) -> Card:
        return Card("icechunk.config.FeatureFlag", [*_Described._card(self).rows, Row("enabled", self.enabled)])


@dataclass(slots=True, repr=False)
class RepoStatus(_Described):
    """Whether a repository can be changed, since when, and why not.

    Parameters
    ----------
    availability
        `RepoAvailability.online` or `.read_only`.
    set_at
        When that was set; by default now.
    limited_availability_reason
        Why the repository cannot be changed.
    """

    availability: RepoAvailability
    set_at: datetime = None  # type: ignore[assignment]
    limited_availability_reason: str | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "availability":
            checks.instance(value, name, RepoAvailability)
        elif name == "set_at":
            value = datetime.now(UTC) if value is None else checks.moment(value, name)
        elif name == "limited_availability_reason" and value is not None:
            checks.text(value, name)
        object.__setattr__(self, name, value)

    def _card(self) -> Card:
        rows = [
            Row("availability", Plain(self.availability.name)),
            Row("set_at", self.set_at),
            Row("limited_availability_reason", _shown(self.limited_availability_reason)),
        ]
        return Card("icechunk.repository.RepoStatus", rows)


class UpdateType(Variants):
    """What an entry of the operations log did."""

    RepoInitialized: TypeAlias = "_RepoInitialized"
    RepoMigrated: TypeAlias = "_RepoMigrated"
    RepoStatusChanged: TypeAlias = "_RepoStatusChanged"
    ConfigChanged: TypeAlias = "_ConfigChanged"
    MetadataChanged: TypeAlias = "_MetadataChanged"
    FeatureFlagChanged: TypeAlias = "_FeatureFlagChanged"
    TagCreated: TypeAlias = "_TagCreated"
    TagDeleted: TypeAlias = "_TagDeleted"
    BranchCreated: TypeAlias = "_BranchCreated"
    BranchDeleted: TypeAlias = "_BranchDeleted"
    BranchReset: TypeAlias = "_BranchReset"
    NewCommit: TypeAlias = "_NewCommit"
    CommitAmended: TypeAlias = "_CommitAmended"
    NewDetachedSnapshot: TypeAlias = "_NewDetachedSnapshot"
    GCRan: TypeAlias = "_GCRan"
    ExpirationRan: TypeAlias = "_ExpirationRan"

    def __repr__(self) -> str:
        shown = (f"{name}={_literal(getattr(self, name))}" for name in self.__match_args__)
        return f"icechunk.ops.{type(self).__qualname__}({', '.join(shown)})"


def _literal(value: Any) -> str:
    if isinstance(value, RepoStatus):
        return f"RepoStatus(availability={value.availability.name}, set_at={value.set_at.isoformat()})"
    return quoted(value) if isinstance(value, str) else repr(value)


@variant_of(UpdateType)
class _RepoInitialized(UpdateType):
    pass


@variant_of(UpdateType)
class _RepoMigrated(UpdateType):
    from_version: SpecVersion
    to_version: SpecVersion


@variant_of(UpdateType)
class _RepoStatusChanged(UpdateType):
    status: RepoStatus


@variant_of(UpdateType)
class _ConfigChanged(UpdateType):
    pass


@variant_of(UpdateType)
class _MetadataChanged(UpdateType):
    pass


@variant_of(UpdateType)
class _FeatureFlagChanged(UpdateType):
    id: int
    new_value: bool | None


@variant_of(UpdateType)
class _TagCreated(UpdateType):
    name: str


@variant_of(UpdateType)
class _TagDeleted(UpdateType):
    name: str
    previous_snap_id: str


@variant_of(UpdateType)
class _BranchCreated(UpdateType):
    name: str


@variant_of(UpdateType)
class _BranchDeleted(UpdateType):
    name: str
    previous_snap_id: str


@variant_of(UpdateType)
class _BranchReset(UpdateType):
    name: str
    previous_snap_id: str


@variant_of(UpdateType)
class _NewCommit(UpdateType):
    branch: str
    new_snap_id: str


@variant_of(UpdateType)
class _CommitAmended(UpdateType):
    branch: str
    previous_snap_id: str
    new_snap_id: str


@variant_of(UpdateType)
class _NewDetachedSnapshot(UpdateType):
    new_snap_id: str


@variant_of(UpdateType)
class _GCRan(UpdateType):
    pass


@variant_of(UpdateType)
class _ExpirationRan(UpdateType):
    pass


@dataclass(frozen=True, slots=True, repr=False)
class Update(Shown):
    """An entry of the operations log.

    Attributes
    ----------
    kind : UpdateType
        What was done.
    updated_at : datetime
        When, in UTC.
    backup_path : str or None
        The object that holds the repository's state as it was after this entry.
    """

    kind: UpdateType
    updated_at: datetime
    backup_path: str | None = None

    def _card(self) -> Card:
        rows = [
            Row("kind", Plain(repr(self.kind))),
            Row("updated_at", self.updated_at),
            Row("backup_path", _shown(self.backup_path)),
        ]
        return Card("icechunk.ops.Update", rows)


_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+(/[A-Za-z0-9!#$%&'*+.^_`|~-]+)?")
_MAX_TOKEN = 128


class Attribution(Shown):
    """Who works with a repository; sent along with requests where the storage keeps logs.

    Each is a name or `name/version`, of letters, digits and the punctuation that HTTP allows in tokens, at most 128 bytes;
    anything else is a `ValueError`.

    Parameters
    ----------
    client
        The program.
    workload
        What it is doing.
    principal
        On whose behalf.
    """

    __slots__ = ("_values",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, *, client: str | None = None, workload: str | None = None, principal: str | None = None) -> None:
        self._values = {
            "client": _token(client, "client"),
            "workload": _token(workload, "workload"),
            "principal": _token(principal, "principal"),
        }

    @property
    def client(self) -> str | None:
        """The program."""
        return self._values["client"]

    @property
    def workload(self) -> str | None:
        """What it is doing."""
        return self._values["workload"]

    @property
    def principal(self) -> str | None:
        """On whose behalf."""
        return self._values["principal"]

    def __eq__(self, other: object) -> bool:
        return self._values == other._values if isinstance(other, Attribution) else NotImplemented

    def __repr__(self) -> str:
        return constructor_text("icechunk.Attribution", self._values.items())

    def _card(self) -> Card:
        return Card("icechunk.Attribution", [Row(name, value) for name, value in self._values.items()])


def _token(value: str | None, name: str) -> str | None:
    if value is None:
        return None
    if len(checks.text(value, name).encode()) > _MAX_TOKEN:
        raise ValueError(f"attribution `{name}` is longer than {_MAX_TOKEN} bytes")
    if not _TOKEN.fullmatch(value):
        raise ValueError(
            f"attribution `{name}` must be `name` or `name/version` in token characters, got {quoted(value)}"
        )
    return value
