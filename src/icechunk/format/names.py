"""Columns of names (paths, refs), where each stands once in its file.

That bounds what reading them can take: a file of a megabyte does not hold a million names of a megabyte each, whatever
its offsets say.
"""

from __future__ import annotations

from icechunk.flatbuf.columns import Positions, texts, vector_counts
from icechunk.flatbuf.reader import Document


def read_names(doc: Document, targets: Positions, where: str) -> list[str]:
    """The strings at `targets`, in order; raises `FormatError` where they overlap."""
    if int(vector_counts(doc, targets, 1, where).sum()) > doc.size:
        raise doc.fail(where, "the strings overlap each other")
    return texts(doc, targets, where)
