"""Text columns whose strings are still in a manifest's payload: made when somebody asks for them.

The reference repeats a location in each row. So before a million strings are made of a few thousand, the bytes of
neighbours are compared, all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from icechunk.flatbuf.columns import Positions, Spots, texts, vector_counts
from icechunk.flatbuf.reader import Document, read_bytes, read_string
from icechunk.format.chunk_keys import is_increasing
from icechunk.format.text_column import Codes, TextColumn

_SAMPLE = 4096
_MAX_LENGTHS = 64
_ROWS_AT_ONCE = 1 << 15

Decompress = Callable[[Sequence[bytes]], list[str]]


class StoredText(TextColumn):
    """A text column of positions in a document: negative where what lies there is compressed, 0 for no string."""

    __slots__ = ("_decompress", "_doc", "_targets", "_where")

    def __init__(self, doc: Document, targets: Positions, where: str, decompress: Decompress) -> None:
        self._codes: Codes | None = None
        self._distinct: list[str] | None = None
        self._doc = doc
        self._targets = targets
        self._where = where
        self._decompress = decompress
        changed = np.flatnonzero(targets[1:] != targets[:-1]) + 1
        vector_counts(doc, np.abs(targets[np.concatenate(([0], changed))]), 1, where)

    def __len__(self) -> int:
        return len(self._targets)

    @property
    def codes(self) -> Codes:
        """For each row the position of its string in `distinct`, -1 for none."""
        self._resolve()
        assert self._codes is not None
        return self._codes

    @property
    def distinct(self) -> list[str]:
        """The strings, each once."""
        self._resolve()
        assert self._distinct is not None
        return self._distinct

    @property
    def nbytes(self) -> int:
        """Memory taken, about; without the payload."""
        return int(self._targets.nbytes) + (0 if self._codes is None else super().nbytes)

    def at(self, row: int) -> str | None:
        """The string of one row."""
        if self._codes is not None:
            return super().at(row)
        target: int = self._targets.item(row)
        if target < 0:
            return self._decompress([bytes(read_bytes(self._doc, -target, self._where))])[0]
        return read_string(self._doc, target, self._where) if target else None

    def take(self, rows: Any) -> TextColumn:
        """The column of some rows: a mask, a slice, or their numbers in the order wanted."""
        if self._codes is not None:
            return super().take(rows)
        taken = StoredText.__new__(StoredText)
        taken._codes = taken._distinct = None
        taken._doc, taken._where, taken._decompress = self._doc, self._where, self._decompress
        taken._targets = self._targets[rows]
        return taken

    def present(self) -> bool:
        """Whether any row has a string."""
        return bool(self._targets.any())

    def _resolve(self) -> None:
        """Read each place to which rows refer once, and make each string that lies there once."""
        if self._codes is not None:
            return
        places, number = _distinct_places(self._targets)
        found = np.full(len(places), -1, np.int32)
        strings: list[str] = []
        for compressed in (False, True):
            rows = np.flatnonzero(places < 0 if compressed else places > 0)
            if len(rows):
                column = self._read(np.abs(places[rows]), compressed)
                whole = TextColumn.of_codes(column.codes + np.int32(len(strings)), [*strings, *column.distinct])
                found[rows] = whole.codes
                strings = whole.distinct
        self._distinct = strings
        self._codes = found if number is None else found[number]

    def _read(self, places: Positions, compressed: bool) -> TextColumn:
        """The strings at some places, none of them absent."""
        counts = vector_counts(self._doc, places, 1, self._where)
        first, number = _equal_bytes(self._doc, places, counts, self._where)
        if not compressed:
            column = TextColumn.factorise(texts(self._doc, places[first], self._where))
            return TextColumn(column.codes[number], column.distinct)
        view = memoryview(self._doc.buf)
        starts = places[first] + 4
        bounds = zip(starts.tolist(), (starts + counts[first]).tolist(), strict=True)
        frames = [bytes(view[start:stop]) for start, stop in bounds]
        numbers = {frame: index for index, frame in enumerate(dict.fromkeys(frames))}
        codes = np.fromiter(map(numbers.__getitem__, frames), np.int32, len(frames))
        return TextColumn.of_codes(codes[number], self._decompress(list(numbers)))


def _distinct_places(targets: Positions) -> tuple[Positions, Positions | None]:
    """Each position once, and for each row the number of its own; None for the latter when all differ."""
    if len(targets) < 2:
        return targets, None
    changed = targets[1:] != targets[:-1]
    if changed.all() and (is_increasing(targets) or is_increasing(targets[::-1])):
        return targets, None
    first = np.flatnonzero(np.concatenate(([True], changed)))
    places, number = np.unique(targets[first], return_inverse=True)
    return places, np.repeat(number, np.diff(first, append=len(targets)))


def _equal_bytes(doc: Document, places: Positions, counts: Positions, where: str) -> tuple[Positions, Positions]:
    """Rows whose bytes are new, and for each row which of these it equals.

    Each row is compared with the one before of the same length; where that does not seem to pay all rows count as new.
    """
    every = np.arange(len(places))
    same_as = every.copy()
    lengths = np.flatnonzero(np.bincount(counts)) if int(counts.max()) < 1 << 16 else every
    if len(places) < _SAMPLE or len(lengths) > _MAX_LENGTHS:
        return every, every
    for length in lengths[lengths > 0].tolist():
        rows = every if len(lengths) == 1 else np.flatnonzero(counts == length)
        if _new(doc, places[rows[:_SAMPLE]], length, where).mean() < 0.5:
            starts = np.flatnonzero(_new(doc, places[rows], length, where))
            same_as[rows] = np.repeat(rows[starts], np.diff(starts, append=len(rows)))
    first = np.flatnonzero(same_as == every)
    number = np.empty(len(places), np.int64)
    number[first] = np.arange(len(first))
    return first, number[same_as]


def _new(doc: Document, places: Positions, width: int, where: str) -> npt.NDArray[np.bool_]:
    """Which of many runs of `width` bytes differ from the one before."""
    new = np.ones(len(places), np.bool_)
    for start in range(0, len(places) - 1, _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE + 1, len(places))
        rows = np.ascontiguousarray(Spots(doc, places[start:stop]).read(4, f"V{width}", where))
        raw = rows.view(np.uint8).reshape(len(rows), width)
        (raw[1:] != raw[:-1]).any(1, out=new[start + 1 : stop])
    return new
