"""Snapshots: the whole hierarchy at one commit.

`Snapshot.decode` reads the root of the file and nothing else; nodes are found by binary search in their sorted paths
and read when they are asked for, while lists of paths come from one pass over a column. `encode_snapshot` writes the
next snapshot from the bytes of the one before it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from icechunk.flatbuf.reader import TableView
from icechunk.format.envelope import HEADER_SIZE, MAX_PAYLOAD, FileType, open_envelope, read_header
from icechunk.format.manifest_files import ManifestFile, ManifestFiles
from icechunk.format.schemas import SNAPSHOT
from icechunk.format.segments import open_segments
from icechunk.format.snapshot_nodes import DimensionShape, ManifestRef, Node, NodeTable, SnapshotDocument
from icechunk.format.times import checked_time
from icechunk.format.values import read_items

if TYPE_CHECKING:
    from icechunk.format.snapshot_encoding import encode_initial_snapshot, encode_snapshot

__all__ = [
    "DimensionShape",
    "ManifestFile",
    "ManifestRef",
    "Node",
    "Snapshot",
    "encode_initial_snapshot",
    "encode_snapshot",
]

Buffer: TypeAlias = bytes | bytearray | memoryview

_KEPT = 64
_MANY = 256
"""Rows from which on reading all paths at once is faster than those of the rows."""


def __getattr__(name: str) -> Any:
    if name not in ("encode_snapshot", "encode_initial_snapshot"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from icechunk.format import snapshot_encoding  # who only reads does without it

    value = globals()[name] = getattr(snapshot_encoding, name)
    return value


class Snapshot:
    """One snapshot file, read where it is looked at.

    Attributes
    ----------
    id : bytes
        The id that the file gives itself.
    parent_id : bytes or None
        The snapshot before it. Files of spec 2 never say; there the repo object knows.
    spec : int
        The spec version by which the file was written, whatever that of the repository is.
    flushed_at : int
        Microseconds since 1970, UTC.
    message : str
        The commit message.
    nbytes : int
        Size of the decompressed file.
    """

    def __init__(self, doc: SnapshotDocument, spec: int) -> None:
        root = doc.root(SNAPSHOT)
        self.spec = spec
        self.id: bytes = root["id"]
        self.parent_id: bytes | None = root["parent_id"]
        self.flushed_at = checked_time(root["flushed_at"], f"{doc.file}: Snapshot.flushed_at")
        self.message: str = root["message"]
        self.nbytes = doc.size
        self.table = NodeTable(doc, root["nodes"])
        self.files = ManifestFiles(doc, root)
        self.root: TableView = root
        self._metadata: dict[str, Any] | None = None
        self._kept: dict[int, Node] = {}

    @classmethod
    def decode(cls, data: Buffer, file: str) -> Snapshot:
        """Read a file; `file` is how errors call it. Raises `FormatError`, also later when a damaged part is reached."""
        header = read_header(data, file)
        if header.file_type is FileType.SNAPSHOT and header.compression:
            segments = open_segments(memoryview(data)[HEADER_SIZE:], MAX_PAYLOAD)
            if segments is not None:
                doc = SnapshotDocument(segments, file)
                doc.need(0, 1)
                return cls(doc, header.spec)
        header, payload = open_envelope(data, FileType.SNAPSHOT, file)
        return cls(SnapshotDocument(payload, file), header.spec)

    @property
    def metadata(self) -> dict[str, Any]:
        """The properties that were given to the commit."""
        if self._metadata is None:
            self._metadata = read_items(self.root["metadata"], self.spec, self.table.doc.file)
        return self._metadata

    # ---- nodes

    def __len__(self) -> int:
        return len(self.table)

    def find(self, path: str) -> Node | None:
        """The node at this path."""
        low, high = self.table.equal(path)
        return self._node(low) if low < high else None

    def _node(self, row: int) -> Node:
        """The node of a row; those looked at last are kept, as a commit asks for the same few over and over."""
        node = self._kept.get(row)
        if node is None:
            node = self.table.node(row)
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            self._kept[row] = node
        return node

    def find_id(self, node_id: bytes) -> Node | None:
        """The node of this id."""
        rows = self.table.rows_of_ids([node_id])
        return self._node(rows[0]) if rows else None

    def paths_by_id(self, node_ids: Collection[bytes]) -> dict[bytes, str]:
        """The paths of those nodes that are here."""
        rows = self.table.rows_of_ids(node_ids)
        if len(rows) > _MANY:
            self.paths()
        return {self.table.id(row): self.table.path(row) for row in rows}

    def is_array(self, path: str) -> bool:
        """Whether there is an array at this path."""
        low, high = self.table.equal(path)
        return low < high and self.table.is_array(low)

    def nodes(self, under: str = "/") -> Iterator[Node]:
        """The node at `under` and all below it, in the order of their paths."""
        return map(self.table.node, self._rows(under))

    def nodes_with_chunks(self) -> Iterator[Node]:
        """The arrays that refer to manifests."""
        return map(self.table.node, self.table.arrays_with_manifests().tolist())

    # ---- paths

    def paths(self) -> list[str]:
        """All paths, sorted by their UTF-8 bytes, which is how Python sorts text too. The list is not to be changed."""
        return self.table.paths()

    def subtree_paths(self, path: str) -> list[str]:
        """The path itself, if there is a node, and those below it."""
        if path == "/":
            return list(self.paths())
        return self.table.paths_of(*self.table.equal(path)) + self.table.paths_of(*self.table.below(path))

    def children(self, path: str) -> list[str]:
        """The names of the nodes directly below a path."""
        head = "/" if path == "/" else path + "/"
        below = self.table.paths_of(*self.table.below(path))
        start = len(head)
        names = []
        row = 0
        while row < len(below):
            name, slash, _ = below[row][start:].partition("/")
            if slash:  # what lies below a child stands together: go to its end
                row = bisect_left(below, head + name + "0", row + 1)
            else:
                names.append(name)
                row += 1
        return names

    def array_paths(self, limit: int | None = None) -> list[str]:
        """The paths of the arrays, in order; of the first `limit` ones."""
        table = self.table
        if limit is None:
            return list(map(self.paths().__getitem__, table.arrays().tolist()))
        found: list[str] = []
        for row in range(len(table)):
            if len(found) >= limit:
                break
            if table.is_array(row):
                found.append(table.path(row))
        return found

    # ---- manifests

    def manifest_file(self, manifest_id: bytes) -> ManifestFile | None:
        """What is said of this manifest; None when the snapshot does not list it."""
        return self.files.find(manifest_id)

    def manifest_files(self) -> list[ManifestFile]:
        """All manifests that the snapshot lists."""
        return list(self.files)

    def manifest_ids(self) -> npt.NDArray[np.uint8]:
        """The ids of all manifests that the snapshot lists, 12 bytes each."""
        return self.files.ids()

    def manifest_users(self, manifest_ids: Collection[bytes]) -> dict[bytes, int]:
        """How many references to each of these manifests the arrays have."""
        users = self.table.manifest_refs().reshape(-1).view("S12")
        wanted = sorted(manifest_ids)
        keys = np.frombuffer(b"".join(wanted), "S12")
        if not len(keys) or not len(users):
            return dict.fromkeys(wanted, 0)
        places = np.minimum(np.searchsorted(keys, users), len(keys) - 1)
        counts = np.bincount(places[keys[places] == users], minlength=len(keys))
        return dict(zip(wanted, counts.tolist(), strict=True))

    def _rows(self, under: str) -> Iterator[int]:
        if under == "/":
            return iter(range(len(self.table)))
        return chain(range(*self.table.equal(under)), range(*self.table.below(under)))
