"""Columns of what tables refer to: names, and vectors inside of vectors.

Offsets can make many tables share one long string or vector, so what reading a column takes is bounded by the size of the
file first: a megabyte does not hold a million names of a megabyte each, whatever its offsets say.
"""

from __future__ import annotations

import numpy as np

from icechunk.flatbuf.columns import Positions, Spots, texts, vector_counts
from icechunk.flatbuf.reader import Document

_SHARED = 16
"""How often strings may be shared on average, where writers may share them at all."""


def read_names(doc: Document, targets: Positions, where: str, *, shared: bool = False) -> list[str]:
    """The strings at `targets`, in order; each has a place of its own unless they may be `shared`."""
    lengths = vector_counts(doc, targets, 1, where)
    total = int(lengths.sum())
    if total > (_SHARED * doc.size if shared else doc.size):
        raise doc.fail(where, "the strings overlap each other")
    width = int(lengths.max(initial=0))
    span = int(targets.max(initial=0)) - int(targets.min(initial=0))
    if width * len(targets) > min(4 * total + 4096, span) or not width or width > doc.size:
        return texts(doc, targets, where)
    return _scattered(doc, targets + 4, lengths, width, where)


def _scattered(doc: Document, starts: Positions, lengths: Positions, width: int, where: str) -> list[str]:
    """Strings far from each other. Windows as wide as the longest of them are brought together, then cut."""
    windows = np.ndarray((doc.size - width + 1,), f"V{width}", doc.buf, strides=(1,))
    begin = np.minimum(starts, doc.size - width)
    whole = str(windows[begin].tobytes(), "latin-1")
    cuts = np.arange(0, width * len(starts), width) + (starts - begin)
    found = [whole[start:end] for start, end in zip(cuts.tolist(), (cuts + lengths).tolist(), strict=True)]
    try:
        return [text if text.isascii() else text.encode("latin-1").decode() for text in found]
    except UnicodeDecodeError as error:
        raise doc.fail(where, f"is no UTF-8 text ({error})") from None


def element_slots(doc: Document, targets: Positions, counts: Positions, where: str) -> Positions:
    """Where the offsets lie that are the elements of several vectors, one vector after another.

    `counts` is what `vector_counts` says of the vectors at `targets`. No two vectors may overlap.
    """
    total = int(counts.sum())
    if 4 * total > doc.size:
        raise doc.fail(where, "the vectors overlap each other")
    before = np.cumsum(counts) - counts
    return np.repeat(targets + 4 - 4 * before, counts) + np.arange(0, 4 * total, 4)


def nested_tables(doc: Document, targets: Positions, counts: Positions, where: str) -> Positions:
    """Where the tables lie that are the elements of several vectors."""
    slots = element_slots(doc, targets, counts, where)
    found: Positions = slots + Spots(doc, slots).read(0, "<u4", where)
    return found
