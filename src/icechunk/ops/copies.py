"""Copies of the repo object that nothing needs.

Before the repo object is written anew, what stands there is put aside, under `overwritten/`; the new one names that copy in
its log of operations. A change that was prepared and not made, for it failed or somebody was faster, leaves a copy that no
log names. A collection deletes those.

That is safe since a collection itself changes the repo object: a copy of what stood there before is of no use any more to
anybody who did not publish it by then. So copies that were listed before that change, and that no log names after it, are
named by none ever.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TypeAlias

from icechunk.errors import FormatError, ObjectNotFoundError
from icechunk.refs.base import RefStore
from icechunk.storage.base import ObjectInfo

FOLDER = "overwritten"

_OF_REPO = f"{FOLDER}/repo."

ListFiles: TypeAlias = Callable[[str], AsyncIterator[Sequence[ObjectInfo]]]
"""Lists the files under a prefix, as `Storage.list`."""


async def list_copies(list_files: ListFiles, limit: int) -> dict[str, int]:
    """The copies of the repo object that are older than `limit` (microseconds since 1970): their paths and sizes."""
    return {
        info.path: info.size
        async for batch in list_files(f"{FOLDER}/")
        for info in batch
        if info.path.startswith(_OF_REPO) and info.modified < limit / 1_000_000
    }


async def unneeded_copies(refs: RefStore, listed: Mapping[str, int]) -> dict[str, int]:
    """Those of the listed copies that the log of operations does not name; none where that cannot be read to its end."""
    if not listed:
        return {}
    try:
        named = {f"{FOLDER}/{name}" async for name in refs.copies()}
    except (ObjectNotFoundError, FormatError):
        return {}
    return {path: size for path, size in listed.items() if path not in named}
