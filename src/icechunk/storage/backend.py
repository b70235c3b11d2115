"""All that a storage of your own needs: the protocol, its values, the checks that every backend makes, and the errors.

A backend subclasses `Storage`, implements `get`, `put`, `list` and `delete`, and passes
`icechunk.testing.storage_suite.StorageSuite`. Its methods are coroutines that are awaited in an event loop or driven without
one: what takes time is done in `offload`, or by a client of the kind that `is_blocking` asks for.
"""

from __future__ import annotations

from icechunk._driver import is_blocking, offload
from icechunk.errors import (
    ErrorKind,
    ObjectNotFoundError,
    PreconditionFailedError,
    ReadOnlyError,
    StorageError,
)
from icechunk.storage._common import as_bytes, check_condition, check_path, check_prefix, resolve_range
from icechunk.storage.base import (
    ABSENT,
    ALWAYS,
    Absent,
    Always,
    Buffer,
    ByteRange,
    Condition,
    DeleteResult,
    ObjectInfo,
    Storage,
    Unchanged,
    Version,
)

__all__ = [
    "ABSENT",
    "ALWAYS",
    "Absent",
    "Always",
    "Buffer",
    "ByteRange",
    "Condition",
    "DeleteResult",
    "ErrorKind",
    "ObjectInfo",
    "ObjectNotFoundError",
    "PreconditionFailedError",
    "ReadOnlyError",
    "Storage",
    "StorageError",
    "Unchanged",
    "Version",
    "as_bytes",
    "check_condition",
    "check_path",
    "check_prefix",
    "is_blocking",
    "offload",
    "resolve_range",
]
