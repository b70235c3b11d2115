"""The manifests that a snapshot lists: id, exact size of the file in bytes, number of references.

Spec 1 keeps them as one vector of structs, spec 2 as tables. Both are read by column.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from icechunk._dataclass import dataclass
from icechunk.flatbuf.columns import TableColumns, element_positions
from icechunk.flatbuf.reader import TableView
from icechunk.format.schemas import MANIFEST_FILE_V2
from icechunk.format.snapshot_nodes import SnapshotDocument

MANIFEST_FILE_STRUCT = np.dtype(
    {"names": ["id", "size", "count"], "formats": ["V12", "<u8", "<u4"], "offsets": [0, 16, 24], "itemsize": 32}
)
"""How a `ManifestFileInfo` lies in memory."""


@dataclass(frozen=True, slots=True, order=True)
class ManifestFile:
    """A manifest as its snapshot lists it. `size` is that of the whole file: readers fetch exactly so much."""

    id: bytes
    size: int
    count: int


class ManifestFiles:
    """The list of one snapshot. Where the file has both forms, the newer one counts."""

    def __init__(self, doc: SnapshotDocument, root: TableView) -> None:
        self._doc = doc
        self.tables = root["manifest_files_v2"]
        self._structs = root["manifest_files"]
        self._columns: tuple[npt.NDArray[np.bytes_], npt.NDArray[np.uint64], npt.NDArray[np.uint32]] | None = None
        self._by_id: tuple[npt.NDArray[np.bytes_], npt.NDArray[np.intp]] | None = None

    def __len__(self) -> int:
        return len(self._structs if self.tables is None else self.tables)

    def __iter__(self) -> Iterator[ManifestFile]:
        ids, sizes, counts = self.columns()
        raw = ids.tobytes()
        for row, (size, count) in enumerate(zip(sizes.tolist(), counts.tolist(), strict=True)):
            yield ManifestFile(raw[12 * row : 12 * row + 12], size, count)

    def find(self, manifest_id: bytes) -> ManifestFile | None:
        """The entry of this manifest."""
        ids, order = self.by_id()
        place = int(np.searchsorted(ids, np.frombuffer(manifest_id, "S12"))[0])
        if place == len(ids) or ids[place : place + 1].tobytes() != manifest_id:
            return None
        _, sizes, counts = self.columns()
        row = order[place]
        return ManifestFile(manifest_id, int(sizes[row]), int(counts[row]))

    def by_id(self) -> tuple[npt.NDArray[np.bytes_], npt.NDArray[np.intp]]:
        """The sorted ids, and at which place of the list each of them stands."""
        if self._by_id is None:
            ids = self.columns()[0]
            order = np.argsort(ids, kind="stable")
            self._by_id = ids[order], order
        return self._by_id

    def ids(self) -> npt.NDArray[np.uint8]:
        """All ids, 12 bytes each, in the order of the file."""
        return self.columns()[0].view(np.uint8).reshape(-1, 12)

    def columns(self) -> tuple[npt.NDArray[np.bytes_], npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
        """Ids, sizes and counts."""
        if self._columns is None:
            if self.tables is None:
                found = np.frombuffer(self._structs.raw, MANIFEST_FILE_STRUCT)
                ids, sizes, counts = np.ascontiguousarray(found["id"]), found["size"], found["count"]
            else:
                positions = element_positions(self.tables)
                self._doc.need_at(positions)
                table = TableColumns(self._doc, MANIFEST_FILE_V2, positions)
                ids, sizes, counts = table.struct("id"), table.scalar("size_bytes"), table.scalar("num_chunk_refs")
            self._columns = ids.reshape(-1).view("S12"), sizes, counts
        return self._columns
