"""What the small files of refs are called, and what is in them (spec 1). Values in, values out.

See `ref_files`, which keeps them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import field

from icechunk._dataclass import dataclass
from icechunk.errors import ErrorKind, FormatError, InvalidInputError
from icechunk.format.ids import format_id, parse_id
from icechunk.refs.base import check_name
from icechunk.storage.base import Buffer, ObjectInfo

REFS = "refs/"
_BRANCH, _TAG = "branch.", "tag."
_REF_FILE = "ref.json"
_TOMBSTONE = "ref.json.deleted"
_CLOSED = "closed-at"
"""What says in the file of a branch that an upgrade has closed it."""
_NOWHERE = bytes([255]) * 12
"""The snapshot that such a file names. There is none of this id: who does not know better can neither read nor commit."""


def branch_path(name: str) -> str:
    """Where a branch is kept; raises `InvalidInputError` for a name that cannot be one."""
    return f"{REFS}{_BRANCH}{_plain(name)}/{_REF_FILE}"


def tag_path(name: str) -> str:
    """Where a tag is kept; raises `InvalidInputError` for a name that cannot be one."""
    return f"{REFS}{_TAG}{_plain(name)}/{_REF_FILE}"


def tombstone_path(name: str) -> str:
    """Where it is kept that a tag was deleted."""
    return f"{REFS}{_TAG}{_plain(name)}/{_TOMBSTONE}"


def _plain(name: str) -> str:
    if "/" in check_name(name) or "\0" in name:
        raise InvalidInputError(
            f"invalid ref name `{name}`: names of branches and tags cannot contain a `/` or a zero in this format",
            ErrorKind.INVALID_REF_NAME,
        )
    return name


def encode_ref(snapshot_id: bytes) -> bytes:
    """The content of a ref file."""
    return f'{{"snapshot":"{format_id(snapshot_id)}"}}'.encode()


def encode_closed(snapshot_id: bytes) -> bytes:
    """The content of the file of a branch that cannot be moved any more, as it stood at a snapshot.

    It has the form of any other: the Rust implementation reads the file of `main` even where there is a repo object.
    """
    return f'{{"snapshot":"{format_id(_NOWHERE)}","{_CLOSED}":"{format_id(snapshot_id)}"}}'.encode()


def decode_ref(data: Buffer, path: str) -> bytes:
    """The snapshot that a ref file names; raises `FormatError`."""
    try:
        content = json.loads(bytes(data))
        if _CLOSED in content:
            raise upgraded()
        return parse_id(content["snapshot"])
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"cannot serialize ref json: {path}: {error}", ErrorKind.SERIALIZATION) from error


@dataclass(frozen=True, slots=True)
class RefNames:
    """What a listing of the refs says exists; `etags` are those of the files by path, as far as it tells."""

    branches: frozenset[str]
    tags: frozenset[str]
    deleted_tags: frozenset[str]
    etags: Mapping[str, str] = field(default_factory=dict)


def names_in(files: Iterable[ObjectInfo]) -> RefNames:
    """Take a listing of `refs/` apart; raises `InvalidInputError` for a directory that is no ref."""
    branches: set[str] = set()
    tags: set[str] = set()
    tombstones: set[str] = set()
    etags: dict[str, str] = {}
    for info in files:
        if info.etag is not None:
            etags[info.path] = info.etag
        folder, slash, file = info.path.removeprefix(REFS).partition("/")
        if not slash:
            continue  # a plain file beside the refs
        if folder.startswith(_BRANCH):
            if file == _REF_FILE:
                branches.add(folder.removeprefix(_BRANCH))
        elif folder.startswith(_TAG):
            if file in (_REF_FILE, _TOMBSTONE):
                (tags if file == _REF_FILE else tombstones).add(folder.removeprefix(_TAG))
        else:
            raise InvalidInputError(f"invalid ref type `{folder}`", ErrorKind.INVALID_REF_TYPE)
    return RefNames(frozenset(branches), frozenset(tags - tombstones), frozenset(tombstones), etags)


def upgraded() -> FormatError:
    """The error for a repository that has another format since it was opened."""
    return FormatError(
        "this repository was upgraded to a newer format meanwhile; open it again", ErrorKind.UNSUPPORTED_SPEC_VERSION
    )
